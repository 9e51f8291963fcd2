"""Displays and summaries, drawn from made-up snapshots; no server is needed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from rumpx import units
from rumpx.display import jsonl, lines
from rumpx.display.bars import MAX_ROWS, render
from rumpx.display.display import Background, choose, open_display
from rumpx.display.draw import shortened, slowest
from rumpx.errors import UsageError
from rumpx.files import check_writable
from rumpx.model.counts import Counts
from rumpx.model.job import Progress
from rumpx.model.results import KeyFailure, Summary
from rumpx.model.snapshot import Row, Snapshot, State, WorkerStat
from rumpx.report.summary import (
    render_summary,
    summary_lines,
    write_summary,
)
from support.snapshots import WAITS, make_follow, make_rows, make_snapshot, make_workers

ROOT = Path(__file__).parents[1]
WIDTHS = (40, 60, 80, 120, 200)
STATES: tuple[State, ...] = get_args(State)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def crowded() -> Snapshot:
    """Everything that can be long is long."""
    host = "redis://clustercfg.a-rather-long-name.abc123.use1.cache.amazonaws.com:6379/15"
    counts = Counts(123_456_789, 1_234_567, 234_567, 345_678, 45_678, 10**13)
    return make_snapshot(
        source=host,
        target=host,
        elapsed=400_000.0,
        counts=counts,
        keys_expected=987_654_321,
        eta=359_999.0,
        rows=tuple(Row(f"{host} db{n}", n / 40, counts, n == 39) for n in range(40)),
        workers=tuple(WorkerStat(n, 100.0, 10**9, 8) for n in range(256)),
        worker_restarts=12,
        batches_in_flight=2048,
        note="throttled by source latency, 6.1 ms > 5 ms, and by the timetable until 08:00 " * 3,
    )


def make_summary(**changes: Any) -> Summary:
    summary = Summary(
        state="done",
        exit_code=0,
        job="nightly",
        runs=1,
        source="redis://10.0.0.1:6379/0",
        target="rediss://cache.prod.example.com:6380/0",
        source_version="valkey 9.1.2",
        target_version="redis 7.2.4",
        seconds=4.21,
        counts=Counts(copied=1_000_000, payload_bytes=270_000_000),
        keys_per_second=237_529.0,
        bytes_per_second=64_100_000.0,
        failures_by_reason={},
        failures=(),
        dead_letters=None,
        source_keys_before=1_000_000,
        source_keys_after=1_000_000,
        target_keys_before=0,
        target_keys_after=1_000_000,
        missing=0,
        walked_again={},
        worker_restarts=0,
        left_behind=(),
        warnings=(),
    )
    return dataclasses.replace(summary, **changes)


def troubled() -> Summary:
    names = (b"user:1\r\n\x1b[2J", b"user:2", b"user:3", b"user:4")
    return make_summary(
        exit_code=3,
        counts=Counts(999_985, 12, 3, 4, 5, 270_000_000),
        failures_by_reason={"NOPERM": 4, "bad payload": 1},
        failures=(
            *(KeyFailure(0, name, "NOPERM", "no permission") for name in names),
            KeyFailure(3, b"stream:\xff", "bad payload", "Bad data format"),
        ),
        missing=7,
        walked_again={"the source restarted": 2},
        worker_restarts=1,
        left_behind=("3 functions", "2 ACL users"),
        warnings=("The source evicts keys\nand resets idle times.",),
    )


def drawn(renderable: RenderableType, width: int, **options: Any) -> str:
    file = StringIO()
    options = {"force_terminal": True, "color_system": "standard", **options}
    Console(file=file, width=width, highlight=False, **options).print(renderable)
    return file.getvalue()


def plain(renderable: RenderableType, width: int) -> list[str]:
    return COLOUR.sub("", drawn(renderable, width)).splitlines()


# Numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.keys(1_234_567), "1,234,567"),
        (units.short_keys(950), "950"),
        (units.short_keys(999.7), "1.0 k"),
        (units.short_keys(12_345), "12.3 k"),
        (units.short_keys(99_960), "100 k"),
        (units.short_keys(999_600), "1.0 M"),
        (units.short_keys(412_000_000), "412 M"),
        (units.size(0), "0 B"),
        (units.size(12_345_678), "12.3 MB"),
        (units.size(3 * 10**18), "3000 PB"),
        (units.key_rate(172_345.4), "172,345 keys/s"),
        (units.byte_rate(46_100_000), "46.1 MB/s"),
        (units.percent(0.57), "57.0 %"),
        (units.percent(0.99999), "99.9 %"),
        (units.percent(1.0), "100.0 %"),
        (units.percent(1.7), "100.0 %"),
        (units.percent(-0.1), "0.0 %"),
        (units.clock(3.9), "0:03"),
        (units.clock(3723), "1:02:03"),
        (units.duration(4.24), "4.2 s"),
        (units.duration(59.97), "1:00"),
        (units.duration(3723), "1:02:03"),
    ],
)
def test_units(shown: str, expected: str) -> None:
    assert shown == expected


# Bars


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("state", STATES)
def test_bars_never_wrap_in_any_state(state: State, width: int) -> None:
    for snapshot in (
        make_snapshot(state, note="waiting"),
        make_snapshot(state, counts=Counts(), keys_expected=0, rows=(), workers=(), eta=None),
        dataclasses.replace(crowded(), state=state),
    ):
        narrow = plain(render(snapshot, width), width)
        roomy = plain(render(snapshot, width), 2 * width)
        assert [text.rstrip() for text in narrow] == [text.rstrip() for text in roomy]
        assert max(map(cell_len, narrow)) <= width


def test_bars_show_percent_counts_and_rates() -> None:
    text = "\n".join(plain(render(make_snapshot(), 120), 120))
    for part in (
        "redis://10.0.0.1:6379/0 → rediss://cache.prod.example.com:6380/0",
        "copying  1:02",
        "41.3 %",
        "copied 412,345 of ~1,000,000 keys",
        "172,345 keys/s",
        "46.1 MB/s",
        "ETA 0:03",
        "gone 12",
        "failed 0",
        "workers 4  313 % 208 MB",
        "coordinator 43 % 61.0 MB",
        "batches in flight 16",
    ):
        assert part in text
    for absent in ("skipped", "repeated", "restarted"):
        assert absent not in text


def test_bars_show_the_load_of_other_machines() -> None:
    text = "\n".join(plain(render(make_snapshot(workers=make_workers(2, 1)), 120), 120))
    assert "workers 3 on 2 machines  240 % 150 MB" in text
    assert "node-1.example.com 2 160 % 100 MB" in text and "node-2.example.com 1 80 %" in text
    assert "more machines" not in text
    many = "\n".join(plain(render(make_snapshot(workers=make_workers(*[1] * 9)), 120), 120))
    assert "node-4.example.com" in many and "node-5" not in many and "… 5 more machines" in many


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_of_many_machines_never_wrap(width: int) -> None:
    snapshot = make_snapshot(workers=make_workers(*[4] * 30))
    assert max(map(cell_len, plain(render(snapshot, width), width))) <= width


def test_lines_show_the_number_of_machines() -> None:
    for workers, words in (
        (make_snapshot().workers, "workers 4"),
        (make_workers(2, 1), "workers 3 on 2 machines"),
        (make_workers(2), "workers 2 on 1 machine"),
    ):
        assert f"  {words}  " in lines.line(make_snapshot(workers=workers))


def test_bars_put_outcomes_on_a_line_of_their_own_where_it_is_narrow() -> None:
    (narrow,) = [text for text in plain(render(make_snapshot(), 60), 60) if "gone" in text]
    (wide,) = [text for text in plain(render(make_snapshot(), 120), 120) if "gone" in text]
    assert narrow.split() == ["gone", "12", "failed", "0"]
    assert "keys/s" in wide


def test_bars_show_failures_in_red_only_when_there_are_some() -> None:
    clean = drawn(render(make_snapshot(), 120), 120)
    failed = drawn(render(make_snapshot(counts=Counts(copied=1, failed=2)), 120), 120)
    assert "\x1b[1;31mfailed 2" in failed or "\x1b[1;31mfailed \x1b[0m\x1b[1;31m2" in failed
    assert "31m" not in clean


def test_bars_call_a_run_with_failed_keys_done_but_not_well() -> None:
    assert "✓ done" in "\n".join(plain(render(make_snapshot("done"), 80), 80))
    failed = make_snapshot("done", counts=Counts(copied=1, failed=2))
    assert "✓" not in "\n".join(plain(render(failed, 80), 80))


def test_bars_name_the_row_whose_keys_fail() -> None:
    rows = (*make_rows(2), Row("part x", 0.5, Counts(failed=3), False))
    (text,) = [t for t in plain(render(make_snapshot(rows=rows), 80), 80) if "part x" in t]
    assert "3 failed" in text


def test_bars_draw_no_rows_for_a_single_one() -> None:
    text = "\n".join(plain(render(make_snapshot(rows=make_rows(1)), 80), 80))
    assert "part 1" not in text


def test_rows_fold_to_the_slowest_eight() -> None:
    done = tuple(Row(f"done {n}", 1.0, Counts(copied=9), True) for n in range(12))
    fast = tuple(Row(f"fast {n}", 0.9, Counts(copied=9), False) for n in range(12))
    slow = tuple(Row(f"slow {n}", 0.1 + n / 20, Counts(copied=9), False) for n in range(8))
    rows = done[:6] + slow[:4] + fast + done[6:] + slow[4:]
    assert slowest(rows, MAX_ROWS) == list(slow)
    text = plain(render(make_snapshot(rows=rows), 80), 80)
    assert sum(line.startswith("slow ") for line in text) == 8
    assert "… and 24 more (12 done)" in [line.strip() for line in text]


def test_rows_under_way_come_before_rows_that_wait() -> None:
    waiting = tuple(Row(f"wait {n}", 0.0, Counts(), False) for n in range(8))
    rows = (*waiting, *make_rows(6))
    assert [row.label for row in slowest(rows, 8)][2:] == [row.label for row in make_rows(6)]
    text = "\n".join(plain(render(make_snapshot(rows=rows), 80), 80))
    assert "… and 6 more (6 waiting)" in text


def test_rows_do_not_trade_places_for_less_than_a_percent() -> None:
    rows = tuple(Row(f"r{n}", 0.50 + n * 0.0005, Counts(copied=1), False) for n in range(9))
    moved = (dataclasses.replace(rows[0], fraction=0.509), *rows[1:])
    assert [r.label for r in slowest(rows, 8)] == [r.label for r in slowest(moved, 8)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [12, 16, 20, 50])
def test_bars_give_up_rows_to_fit_the_height(width: int, height: int) -> None:
    text = plain(render(make_snapshot(), width, height), width)
    assert len(text) <= height
    assert any("batches in flight" in line for line in text)


def test_no_color_leaves_no_colour_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    snapshot = make_snapshot(counts=Counts(failed=2), worker_restarts=1, note="held")
    for renderable in (render(snapshot, 80), render_summary(troubled())):
        codes = re.findall(r"\x1b\[([0-9;]*)m", drawn(renderable, 80))
        assert {int(part) for code in codes for part in code.split(";") if part} <= {0, 1, 2}


def test_nothing_from_outside_can_steer_the_terminal() -> None:
    evil = "unix:///tmp/\x1b[2J\n"
    rows = (*make_rows(2), Row(evil, 0.5, Counts(), False))
    snapshot = make_snapshot(source=evil, target=evil, rows=rows, note=evil)
    summary = make_summary(source=evil, target_version=evil, left_behind=(evil,), warnings=(evil,))
    for renderable in (render(snapshot, 120), render_summary(summary)):
        assert "\x1b[2J" not in drawn(renderable, 120)
    assert not any(set("\x1b\n") & set(text) for text in summary_lines(summary))


@pytest.mark.parametrize("width", range(12))
def test_shortened_keeps_both_ends(width: int) -> None:
    short = shortened("0123456789", width)
    assert len(short) <= max(width, 1)
    assert width < 10 or short == "0123456789"
    assert width != 6 or short == "012…89"


# Plain lines and JSON


@pytest.mark.parametrize("state", STATES)
def test_line_in_each_state(state: State) -> None:
    text = lines.line(make_snapshot(state))
    assert text.startswith(f"{state} 41.3 %  412,345 ")
    assert text.endswith("gone 12  failed 0  workers 4  job nightly")
    assert text.isascii()
    assert ("keys/s" in text) == (state not in ("done", "failed", "stopped"))


def test_line_in_full() -> None:
    assert lines.line(make_snapshot()) == (
        "copying 41.3 %  412,345 of ~1,000,000 keys  172,345 keys/s  46.1 MB/s  ETA 0:03"
        "  gone 12  failed 0  workers 4  job nightly"
    )


def test_line_says_what_is_rare_only_when_it_happens() -> None:
    snapshot = make_snapshot(
        counts=Counts(1, 0, 2, 3, 4), worker_restarts=5, note="held\x1b[2J", eta=None
    )
    text = lines.line(snapshot)
    assert "skipped 2  repeated 3  failed 4  workers 4  restarts 5  job nightly" in text
    assert text.endswith("(held\\x1b[2J)")
    assert "ETA" not in text


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_lines_come_at_state_changes_each_period_and_at_the_end() -> None:
    stream, clock = StringIO(), Clock()
    display = lines.TextDisplay(stream, 30.0, lines.line, str, clock)
    display.start()
    run: list[State] = ["starting", *["copying"] * 62, "done"]  # type: ignore[list-item]
    for second, state in enumerate(run):
        clock.time = float(second)
        display.show(make_snapshot(state, eta=None))
    display.stop()
    states = [text.split()[0] for text in stream.getvalue().splitlines()]
    assert states == ["starting", "copying", "copying", "copying", "done"]


def test_lines_end_with_the_last_snapshot() -> None:
    stream = StringIO()
    display = lines.TextDisplay(stream, 30.0, lines.line, str, Clock())
    display.show(make_snapshot(fraction=0.1))
    display.show(make_snapshot(fraction=0.2))
    display.stop()
    assert [text.split()[1] for text in stream.getvalue().splitlines()] == ["10.0", "20.0"]


def test_a_message_is_one_line_whatever_it_holds() -> None:
    stream = StringIO()
    lines.lines(stream).message("worker 3 died\n\x1b[2Jgone")
    (text,) = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d worker 3 died\\n\\x1b\[2Jgone", text)


def test_none_writes_only_messages_and_what_is_asked_for() -> None:
    stream = StringIO()
    display = lines.quiet(stream)
    display.start()
    display.show(make_snapshot())
    display.message("a warning")
    display.now(make_snapshot())
    display.stop()
    assert [text[9:18] for text in stream.getvalue().splitlines()] == ["a warning", "copying 4"]


def test_json_lines_parse_and_have_the_documented_keys() -> None:
    stream = StringIO()
    display = jsonl.json_lines(stream)
    display.show(make_snapshot(eta=None))
    display.message("worker 3 died\n")
    display.now(make_snapshot("draining"))
    first, message, second = (json.loads(text) for text in stream.getvalue().splitlines())
    for document in (first, message, second):
        assert document["version"] == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["time"])
    assert (first["event"], message["event"], second["event"]) == (
        "progress",
        "message",
        "progress",
    )
    assert message["text"] == "worker 3 died\\n"
    assert first["eta"] is None
    assert first["counts"]["copied"] == 412_345
    assert second["state"] == "draining"
    documented = jsonl.__doc__ or ""
    nested = (*first["counts"], *first["rows"][0], *first["workers"][0])
    assert all(re.search(rf"\b{key}\b", documented) for key in (*first, *message, *nested))


def test_the_summary_as_a_json_line() -> None:
    text = jsonl.summary_json(troubled())
    document = json.loads(text)
    assert "\n" not in text
    assert (document["version"], document["event"], document["exit_code"]) == (1, "summary", 3)


# Which display, and what a broken or blocked one does


class Terminal(StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("progress", "stream", "term", "expected"),
    [
        ("auto", Terminal(), "xterm-256color", "bar"),
        ("auto", Terminal(), "dumb", "line"),
        ("auto", Terminal(), "", "line"),
        ("auto", StringIO(), "xterm", "line"),
        ("bar", StringIO(), "dumb", "bar"),
        ("json", Terminal(), "xterm", "json"),
        ("none", Terminal(), "xterm", "none"),
    ],
)
def test_choose(progress: Progress, stream: StringIO, term: str, expected: str) -> None:
    assert choose(progress, stream, {"TERM": term}) == expected


def test_auto_draws_no_bars_where_they_cannot_be_encoded() -> None:
    stream = Terminal()
    stream.encoding = "iso8859-1"
    assert choose("auto", stream, {"TERM": "xterm"}) == "line"


@pytest.mark.parametrize("progress", ["auto", "bar", "line", "json", "none"])
def test_every_display_takes_a_whole_run(progress: Progress) -> None:
    stream = StringIO()
    display = open_display(progress, stream)
    display.message("before the start")
    display.start()
    display.show(make_snapshot())
    display.now(make_snapshot())
    display.show(make_snapshot("done", fraction=1.0))
    display.stop()
    display.stop()
    text = stream.getvalue()
    assert text.index("before the start") < text.index(
        "412,345" if progress != "json" else "412345"
    )
    assert ("done" in text) == (progress != "none")


def test_a_display_that_never_started_stops() -> None:
    display = open_display("line", StringIO())
    display.stop()


class Recorder:
    """A display that keeps what it is told; `fault` is the method that raises."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.calls: list[str] = []

    def _call(self, name: str, said: str) -> None:
        self.calls.append(said)
        if name == self.fault:
            raise ValueError("no room")

    def start(self) -> None:
        self._call("start", "start")

    def show(self, snapshot: Snapshot) -> None:
        self._call("show", snapshot.state)

    def now(self, snapshot: Snapshot) -> None:
        self._call("now", f"now {snapshot.state}")

    def message(self, text: str) -> None:
        self._call("message", text)

    def stop(self) -> None:
        self._call("stop", "stop")


@pytest.mark.parametrize("fault", ["start", "show", "now", "message"])
def test_a_broken_display_is_replaced_and_nothing_is_raised(fault: str) -> None:
    broken, fallback = Recorder(fault), Recorder()
    display = Background(broken, fallback)
    display.start()
    display.message("one")
    display.now(make_snapshot())
    display.show(make_snapshot("done"))
    display.stop()
    notice = "The progress display stopped (ValueError: no room); the copy continues."
    assert fallback.calls.count(notice) == 1
    assert broken.calls.count("stop") == 1
    assert fallback.calls[-1] == "stop"
    seen = [*broken.calls, *fallback.calls]
    assert {"one", "now copying", "done"} <= set(seen)


def test_a_broken_fallback_raises_nothing_either() -> None:
    display = Background(Recorder("start"), Recorder("message"))
    display.start()
    display.message("lost")
    display.stop()


def test_a_display_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rumpx.display.display.PERIOD", 0.001)
    shown = threading.Event()

    class Signalling(Recorder):
        def show(self, snapshot: Snapshot) -> None:
            if snapshot.state == "copying":
                shown.set()

    display = Background(Signalling(), Recorder())
    display.show(make_snapshot("starting"))
    display.start()
    display.show(make_snapshot("copying"))
    assert shown.wait(60)
    display.stop()


def test_a_blocked_display_does_not_block_the_copy() -> None:
    entered, release = threading.Event(), threading.Event()

    class Blocked(Recorder):
        def show(self, snapshot: Snapshot) -> None:
            entered.set()
            release.wait(60)
            super().show(snapshot)

    blocked = Blocked()
    display = Background(blocked, Recorder())
    display.show(make_snapshot("starting"))
    display.start()
    assert entered.wait(60)
    for _ in range(5000):  # none of these may wait for `release`, nor pile up without end
        display.show(make_snapshot("copying"))
        display.message("still here")
    display.show(make_snapshot("done"))
    release.set()
    display.stop()
    assert blocked.calls[-2:] == ["done", "stop"]
    assert blocked.calls.count("still here") <= 1000


# The summary


def test_summary_of_a_success() -> None:
    assert summary_lines(make_summary()) == [
        "copied 1,000,000 keys in 4.2 s",
        "  from          redis://10.0.0.1:6379/0 (valkey 9.1.2)",
        "  to            rediss://cache.prod.example.com:6380/0 (redis 7.2.4)",
        "  job           nightly",
        "  rate          237,529 keys/s, 64.1 MB/s (270 MB in all)",
        "  completeness  the target's key count matches",
    ]
    assert plain(render_summary(make_summary()), 80)[0] == "✓ copied 1,000,000 keys in 4.2 s"


def test_summary_of_a_run_with_failures() -> None:
    text = "\n".join(summary_lines(troubled()))
    for part in (
        "copied 999,985 keys in 4.2 s; 5 could not be copied",
        "12 expired or were deleted meanwhile",
        "3 that the target already had",
        r"4: user:1\r\n\x1b[2J, user:2, user:3, ...",
        r"1: db3 stream:\xff",
        "the target's key count falls short by 7",
        "2 partitions (the source restarted: 2)",
        "1 died and was replaced",
        "3 functions, 2 ACL users on the source",
        r"The source evicts keys\nand resets idle times.",
    ):
        assert part in text
    assert text.isascii()
    assert "user:4" not in text
    assert plain(render_summary(troubled()), 80)[0].startswith("✗ copied 999,985 keys")


@pytest.mark.parametrize(
    ("state", "code", "head"),
    [
        ("failed", 5, "✗ failed: copied 1,000,000 keys in 4.2 s"),
        ("stopped", 130, "■ stopped: copied 1,000,000 keys in 4.2 s"),
    ],
)
def test_summary_of_a_run_that_did_not_end_well(state: State, code: int, head: str) -> None:
    summary = make_summary(state=state, exit_code=code, missing=None)
    assert plain(render_summary(summary), 80)[0] == head
    assert summary_lines(summary)[0] == head[2:]
    assert "completeness" not in "\n".join(summary_lines(summary))


def test_summary_says_when_completeness_was_not_checked() -> None:
    assert "not checked by key count" in "\n".join(summary_lines(make_summary(missing=None)))


@pytest.mark.parametrize("width", WIDTHS)
def test_summary_stays_within_the_width(width: int) -> None:
    assert max(map(cell_len, plain(render_summary(troubled()), width))) <= width


def test_write_summary_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    check_writable("-", "--summary")
    write_summary(troubled().to_json(), "-")
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 1
    assert document["counts"]["failed"] == 5
    assert document["failures"][4]["key"] == r"stream:\xff"


def test_write_summary_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file, link = tmp_path / "summary.json", tmp_path / "link.json"
    file.write_text("old")
    link.symlink_to(file)
    check_writable(str(link), "--summary")
    assert file.read_text() == "old"
    write_summary(make_summary().to_json(), str(link))
    assert link.is_symlink()
    assert json.loads(file.read_text())["state"] == "done"
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_write_summary_keeps_the_old_file_when_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "summary.json"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_summary(make_summary().to_json(), str(file))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_write_summary_writes_to_a_pipe_without_replacing_it() -> None:
    reader, writer = os.pipe()
    destination = f"/dev/fd/{writer}"
    check_writable(destination, "--summary")
    write_summary(make_summary().to_json(), destination)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert json.load(file)["exit_code"] == 0


@pytest.mark.parametrize("tail", ["missing/summary.json", "file/summary.json", ""])
def test_an_unwritable_summary_is_a_usage_error(tmp_path: Path, tail: str) -> None:
    (tmp_path / "file").write_text("")
    destination = str(tmp_path / tail)
    message = r"--summary: .* cannot be written: .+\."
    with pytest.raises(UsageError, match=message):
        check_writable(destination, "--summary")
    with pytest.raises(UsageError, match=message):
        write_summary(make_summary().to_json(), destination)


def test_plain_displays_and_the_summary_file_do_not_import_rich() -> None:
    code = (
        "import sys, io, rumpx.report.summary, rumpx.display.jsonl\n"
        "from rumpx.display.display import open_display\n"
        "for kind in ('line', 'json', 'none'): open_display(kind, io.StringIO())\n"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Bars on a real terminal

FRAME = "\x1b]2;frame\x07"
CHILD = """
import sys
sys.path.append("tests")
from rumpx.display.bars import Bars
from tests.test_report import FRAME, frames
bars = Bars(sys.stderr)
bars.start()
for number, snapshot in enumerate(frames()):
    if number == 2:
        bars.message("worker 3 died and is replaced")
        print("a stray line", file=sys.stderr)
    if number == 4:
        bars.now(snapshot)
    bars.show(snapshot)
    sys.__stderr__.write(FRAME)
    sys.__stderr__.flush()
bars.stop()
"""


def frames() -> list[Snapshot]:
    """A run whose display grows and shrinks."""
    note = "throttled by source latency 6.1 ms > 5 ms"
    return [
        make_snapshot("starting", rows=(), workers=(), counts=Counts(), keys_expected=0),
        make_snapshot(fraction=0.1),
        make_snapshot(fraction=0.3, note=note, worker_restarts=1),
        crowded(),
        make_snapshot(fraction=0.9, rows=make_rows(3, 0.9)),
        make_snapshot(follow=make_follow("collecting")),
        make_snapshot("following", follow=make_follow("proving", pass_fraction=0.4), eta=None),
        make_snapshot("following", follow=make_follow("reconciling", waits_for=WAITS), eta=None),
        make_snapshot("following", follow=make_follow(), eta=None),
        make_snapshot("done", fraction=1.0, rows=make_rows(3, 1.0), eta=None),
    ]


def in_terminal(code: str, columns: int, lines: int) -> str:
    """What a Python program writes to a terminal of this size."""
    pty, termios, fcntl = (pytest.importorskip(name) for name in ("pty", "termios", "fcntl"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    received = b""
    try:
        while chunk := os.read(ours, 65_536):
            received += chunk
    except OSError:  # Linux says EIO where others say end of file
        pass
    os.close(ours)
    assert child.wait(60) == 0, received.decode()
    return received.decode()


@pytest.mark.parametrize(("columns", "height"), [(60, 20), (80, 24), (200, 50)])
def test_bars_on_a_terminal(columns: int, height: int) -> None:
    pyte = pytest.importorskip("pyte")
    output = in_terminal(CHILD, columns, height)
    screen = pyte.HistoryScreen(columns, height, history=1000)
    stream = pyte.Stream(screen)
    *parts, rest = output.split(FRAME)
    assert len(parts) == len(frames())
    for part, snapshot in zip(parts, frames(), strict=True):
        stream.feed(part)
        text = [line.rstrip() for line in screen.display]
        expected = [t.rstrip() for t in plain(render(snapshot, columns, height), columns)]
        shown = "\n".join(text).rstrip().splitlines()
        assert shown[-len(expected) :] == expected
    stream.feed(rest)
    above = ["".join(row[x].data for x in range(columns)) for row in screen.history.top]
    whole = "\n".join(line.rstrip() for line in [*above, *screen.display])
    for once in ("worker 3 died and is replaced", "a stray line", "done  1:02"):
        assert whole.count(once) == 1
    assert len(re.findall(r"\d\d:\d\d:\d\d copying 90\.0 %", whole)) == 1
    assert whole.count("copied ") == 1
    assert "\x1b[?25h" in rest


def test_auto_draws_bars_on_a_terminal() -> None:
    code = (
        "import sys\n"
        "sys.path.append('tests')\n"
        "from rumpx.display.display import open_display\n"
        "from support.snapshots import make_snapshot\n"
        "display = open_display('auto', sys.stderr)\n"
        "display.start()\n"
        "display.show(make_snapshot('done'))\n"
        "display.stop()\n"
    )
    assert "━" in in_terminal(code, 80, 24)
