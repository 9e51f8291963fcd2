"""A follow in every display, from made-up Snapshots; and one of real servers, in all of them."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import time
from collections.abc import Callable
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.cells import cell_len
from rich.console import Console

from rumpx.display import bars, jsonl, lines, top
from rumpx.display.status import status_lines
from rumpx.ledger.catalog import Listed
from rumpx.ledger.history import read_story
from rumpx.ledger.schema import JobRecord, Progressed, open_books
from rumpx.model.counts import Counts
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.follow import (
    CutoverFacts,
    CutoverStep,
    FeedKind,
    FollowFacts,
    FollowStat,
    Phase,
    follow_in_words,
)
from rumpx.model.history import Record
from rumpx.model.job import Job
from rumpx.model.results import Summary
from rumpx.model.snapshot import Snapshot, State
from rumpx.report import headline
from rumpx.report.html import render_html
from rumpx.report.jobs import job_lines
from rumpx.report.sections import sections
from rumpx.report.summary import summary_lines
from rumpx.report.tables import render_record
from rumpx.report.text import moment
from rumpx.serialize import to_plain
from support import records
from support.data import fill_mixed
from support.following import INTERRUPTED, Following
from support.run import rumpx
from support.servers import Server, free_port
from support.snapshots import GAP_AT, WAITS, make_follow, make_snapshot
from support.waiting import wait_until
from test_metrics import exposition, scrape, told
from test_watching import valid

StartServer = Callable[..., Server]
PHASES: tuple[Phase, ...] = get_args(Phase)
FEEDS: tuple[FeedKind, ...] = get_args(FeedKind)
WIDTHS = (40, 60, 80, 120, 200)
NOW = GAP_AT + 100_000
ENDED: tuple[State, ...] = ("done", "failed", "stopped")


def shown(follow: FollowStat, state: State = "following", **changes: Any) -> Snapshot:
    """A run that follows, whose copy is done."""
    return make_snapshot(state, follow=follow, **{"fraction": 1.0, "eta": None, **changes})


def drawn(what: Any, width: int) -> list[str]:
    file = StringIO()
    Console(file=file, width=2 * width, highlight=False).print(what)
    return file.getvalue().splitlines()


def every_text(snapshot: Snapshot) -> str:
    """What all displays for people tell of a Snapshot."""
    follow = snapshot.follow
    assert follow
    answer = {
        "state": snapshot.state,
        "fraction": snapshot.fraction,
        "follow": to_plain(follow) | {"text": ", ".join(follow_in_words(follow))},
    }
    return "\n".join(
        [
            lines.line(snapshot),
            *drawn(bars.render(snapshot, 120, 50), 120),
            *drawn(top.render(snapshot, [], [], 120, 50), 120),
            *status_lines(answer),
        ]
    )


# The words


def test_the_words_of_each_phase() -> None:
    gaps = f"2 gaps, last {local(GAP_AT + 90_000)} (another process answers for the source)"
    assert follow_in_words(make_follow("collecting", gaps=0, last_gaps=()), now=NOW) == [
        "collecting",
        "12 changed keys noted",
        "9,640 changes/s",
    ]
    assert follow_in_words(make_follow("proving", pass_fraction=0.41), now=NOW)[:2] == [
        "proving, pass 41.0 %",
        "12 keys to settle",
    ]
    assert follow_in_words(make_follow(failed=3, lag=75.0), now=NOW) == [
        f"in step since {local(GAP_AT + 92_000)}",
        "1:15 behind",
        "12 keys to settle",
        "9,640 changes/s",
        "3 keys failed",
        gaps,
    ]
    assert follow_in_words(make_follow(), ended=True, now=NOW) == [
        "was in step",
        "0.003 s behind",
        "12 keys to settle",
        gaps,
    ]


def local(at: float) -> str:
    """The local time, with a date unless it is that of NOW."""
    date, clock = time.strftime("%Y-%m-%d %H:%M", time.localtime(at)).split()
    same = date == time.strftime("%Y-%m-%d", time.localtime(NOW))
    return clock if same else f"{date} {clock}"


def test_passes_tell_what_the_last_one_found_and_no_lag() -> None:
    follow = make_follow("reconciling", feed="passes", lag=0.0034, dirty=0, pass_fraction=0.5)
    last = f"last pass {local(GAP_AT + 91_000)} found 17 differences"
    words = follow_in_words(follow, now=NOW)
    assert words[:3] == ["pass 50.0 %", "changes are found by passes", last]
    between = follow_in_words(dataclasses.replace(follow, pass_fraction=None), now=NOW)
    assert between[0] == "between two passes"
    for snapshot in (shown(follow), shown(follow, "stopped")):
        text = every_text(snapshot)
        assert "changes are found by passes" in text and "found 17" in text
        assert "behind" not in text and "changes/s" not in text and "in step" not in text


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("phase", PHASES)
def test_only_a_target_in_step_is_called_so(phase: Phase, feed: FeedKind) -> None:
    follow = make_follow(phase, feed=feed, pass_fraction=0.5, held_deletes=9, waits_for=WAITS)
    states: tuple[State, ...] = ("following", "draining", *ENDED)
    for state in states:
        text = every_text(shown(follow, state))
        assert ("in step" in text) == (phase == "in step")
        assert ("behind" in text) <= (phase == "in step")


def test_a_cutover_under_way_tells_its_step() -> None:
    steps = (CutoverStep(NOW, "first"), CutoverStep(NOW, "comparing 7 keys"))
    under_way = make_follow(cutover=CutoverFacts(NOW, steps))
    over = make_follow(cutover=CutoverFacts(NOW, steps, "not quiet"))
    assert "cutover: comparing 7 keys" in lines.line(shown(under_way))
    assert "cutover" not in lines.line(shown(over))


# Displays


@pytest.mark.parametrize("state", ["following", "draining", "stopped"])
def test_once_all_is_copied_no_percentage_of_the_copy_is_shown(state: State) -> None:
    for phase in PHASES[1:]:
        text = every_text(shown(make_follow(phase), state, fraction=0.999, rows=()))
        assert not re.search(r"99\.9 %|100\.0 %(?! of full)", text), text
        assert "copied 412,345 keys" in text and "412,345 of" not in text
    assert "41.3 %" in every_text(make_snapshot(follow=make_follow("collecting")))


def test_a_pass_has_a_bar_of_its_own() -> None:
    follow = make_follow("proving", pass_fraction=0.25)
    (bar,) = [line for line in drawn(bars.render(shown(follow), 80), 80) if "━" in line]
    assert bar.startswith("pass  ━") and bar.endswith(" 25.0 %")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("phase", PHASES)
def test_nothing_wraps_or_is_cut(phase: Phase, width: int) -> None:
    """The words, and the command that the follow waits for, are there in full."""
    long = make_follow(
        phase,
        failed=123_456,
        dirty=1_999_999,
        lag=400_000.0,
        waits_for=WAITS,
        pass_fraction=0.999,
    )
    for state in ("following", "stopped"):
        snapshot = shown(long, state)  # type: ignore[arg-type]
        for what in (
            bars.render(snapshot, width, 24),
            top.render(snapshot, [], ["12:31:05 said"], width, 24),
        ):
            text = drawn(what, width)
            assert max(map(cell_len, text)) <= width
            flat = " ".join(" ".join(text).split())
            assert WAITS in flat
            for words in follow_in_words(long, ended=state == "stopped", now=time.time()):
                assert words in flat


def test_bars_fit_the_height() -> None:
    follow = make_follow("reconciling", waits_for=WAITS, pass_fraction=0.1)
    for width in WIDTHS[1:]:
        for height in (16, 20, 50):
            assert len(drawn(bars.render(shown(follow), width, height), width)) <= height


def test_what_a_follow_waits_for_is_red_and_before_its_numbers() -> None:
    follow = make_follow("reconciling", waits_for=WAITS)
    file = StringIO()
    console = Console(file=file, width=120, force_terminal=True, color_system="standard")
    console.print(bars.render(shown(follow), 120))
    assert f"\x1b[1;31mwaits: {WAITS}" in file.getvalue()
    line = lines.line(shown(follow))
    assert line.startswith(f"following  waits: {WAITS}  reconciling  12 keys to settle")


@pytest.mark.parametrize("phase", PHASES)
def test_a_line_is_plain(phase: Phase) -> None:
    text = lines.line(shown(make_follow(phase)))
    assert text.isascii() and "\n" not in text
    if phase == "in step":
        assert "  copied 412,345 keys  172,345 keys/s  " in text
        assert "  settled 1,200,000  deleted 12,345  failed 0  " in text


def test_a_line_is_written_when_the_phase_changes() -> None:
    stream = StringIO()
    display = lines.TextDisplay(stream, 30.0, lines.line, str, lambda: 0.0)
    run: list[Phase] = ["proving", "proving", "in step", "in step", "reconciling", "in step"]
    for phase in run:
        display.show(shown(make_follow(phase, gaps=0, last_gaps=())))
    written = [text.split("  ")[1].split(" since")[0] for text in stream.getvalue().splitlines()]
    assert written == ["proving", "in step", "reconciling", "in step"]


def test_the_full_screen_lists_gaps_in_place_of_partitions() -> None:
    parts = make_snapshot().rows
    following = shown(make_follow(), partitions=parts)
    text = "\n".join(drawn(top.render(following, [], [], 200, 50), 200))
    assert "partitions ──" not in text and "gaps ──" in text
    assert "the feed was lost: the server closed the connection" in text
    assert "passes 3" in text and "found 17" in text
    assert "the follow runs on" in text and "Ctrl-C stops the follow" in text
    none = top.render(shown(make_follow(gaps=0, last_gaps=())), [], [], 200, 50)
    assert "none so far" in "\n".join(drawn(none, 200))
    copying = make_snapshot(follow=make_follow("collecting"), partitions=parts)
    text = "\n".join(drawn(top.render(copying, [], [], 200, 50), 200))
    assert "partitions ──" in text and "gaps ──" not in text and "the copy runs on" in text


def test_json_lines_are_as_the_schema_says() -> None:
    for phase in PHASES:
        for feed in FEEDS:
            (event,) = valid([jsonl.progress_json(shown(make_follow(phase, feed=feed)))])
            assert event["follow"]["phase"] == phase
            assert event["follow"]["facts"]["last_gaps"][-1]["at"] == GAP_AT + 90_000
            assert [name for name in event["follow"] if name not in (jsonl.__doc__ or "")] == []
            sums = event["follow"]["facts"]
            assert [name for name in sums if name not in (jsonl.__doc__ or "")] == []
    (event,) = valid([jsonl.progress_json(make_snapshot())])
    assert event["follow"] is None
    text = jsonl.progress_json(shown(make_follow(phase="in step")))
    with pytest.raises(AssertionError):
        valid([text.replace('"in step"', '"in tune"')])


def test_metrics_of_a_follow() -> None:
    follow = make_follow(failed=3, held_deletes=9)
    text = exposition(shown(follow))
    numbers = {
        "rumpx_follow_lag_seconds": 0.0034,
        "rumpx_follow_dirty_keys": 12,
        "rumpx_follow_changes_total": 1_234_567,
        "rumpx_follow_settled_total": 1_200_000,
        "rumpx_follow_deleted_total": 12_345,
        "rumpx_follow_gaps_total": 2,
        "rumpx_follow_in_step": 1,
        "rumpx_follow_last_pass_timestamp_seconds": GAP_AT + 91_000,
        "rumpx_follow_held_deletes": 9,
        "rumpx_follow_failed_keys": 3,
    }
    assert {name: told(text, name) for name in numbers} == numbers
    assert {name for name in re.findall(r"rumpx_follow\w+", text)} == set(numbers)
    assert told(text, "rumpx_state", state="following") == 1
    for phase in PHASES:
        in_step = told(exposition(shown(make_follow(phase))), "rumpx_follow_in_step")
        assert in_step == (phase == "in step")
    assert "rumpx_follow" not in exposition(make_snapshot())
    unknown = exposition(shown(make_follow("collecting", last_pass=None)))
    assert told(unknown, "rumpx_follow_lag_seconds") is None
    assert told(unknown, "rumpx_follow_last_pass_timestamp_seconds") is None


@pytest.mark.parametrize(
    ("follow", "expected"),
    [
        (None, ["j  following 100.0 %"]),
        (7, ["j  following 100.0 %"]),
        ({}, ["j  following 100.0 %"]),
        ({"phase": "collecting", "text": "a, b"}, ["j  following 100.0 %", "  follow   a, b"]),
        ({"phase": "in step", "text": ["x"], "waits_for": 5}, ["j  following"]),
        (
            {"phase": "proving", "text": "a, b", "waits_for": "c\x1b"},
            ["j  following", "  waits    c\\x1b", "  follow   a, b"],
        ),
        ({"phase": "of a later rumpx"}, ["j  following"]),
    ],
)
def test_a_status_tells_the_follow(follow: Any, expected: list[str]) -> None:
    answer = {"job": "j", "state": "following", "fraction": 1.0, "follow": follow}
    assert status_lines(answer) == expected


# Reports


def verdict(record: Record) -> tuple[str, str, str]:
    found = headline.reckoned(record)
    return found.tone, found.word, found.sentence


def test_the_verdict_of_a_follow() -> None:
    """It is no copy that has failed or is incomplete."""
    copied = "Copied 108,433 keys in 12.5 s, then followed for 59:48"
    step, other = make_follow(), make_follow("reconciling")
    passes = make_follow("reconciling", feed="passes", lag=None)
    last = "the last pass found 17 differences"
    for state, follow, expected in (
        ("running", step, ("good", "In step", f"{copied}; in step, 0.003 s behind.")),
        ("running", other, ("busy", "Following", f"{copied}; not in step.")),
        ("running", passes, ("busy", "Following", f"{copied}; {last}.")),
        ("stopped", step, ("warn", "Stopped", f"{copied}; in step, 0.003 s behind.")),
        ("stopped", other, ("warn", "Stopped", f"{copied}; not in step.")),
        ("killed", step, ("warn", "Killed", f"{copied}; in step, 0.003 s behind.")),
        ("failed", other, ("bad", "Failed", "The target is out of memory (OOM).")),
    ):
        assert verdict(records.followed(state, follow)) == expected
    assert verdict(records.cut_over()) == ("good", "Cut over", f"{copied} and cut over.")
    assert verdict(records.cut_over(not_carried=3))[:2] == ("warn", "Cut over")


def test_an_ended_follow_tells_until_when_it_followed() -> None:
    ended = moment(records.BEGAN + 9000)
    for state, phase, words in (
        ("stopped", "in step", f"{ended}: later changes of the source are not on the target"),
        ("stopped", "proving", f"{ended}, not in step then: changes of the source may be missing"),
        ("failed", "in step", f"{ended}: later changes"),
    ):
        found = headline.reckoned(records.followed(state, make_follow(phase)))  # type: ignore[arg-type]
        assert f"Followed until {words}" in found.notes[-1]
        assert (found.purpose, found.command) == ("To follow again", "rumpx resume nightly")
    killed = records.followed("killed", make_follow())
    last = moment(killed.points[-1].at)
    assert f"Followed until {last}: later changes" in headline.reckoned(killed).notes[-1]
    for done in (records.followed("running", make_follow()), records.cut_over()):
        assert "Followed until" not in str(headline.reckoned(done))
        assert "resume" not in headline.reckoned(done).command


def test_a_follow_that_still_copies_is_a_copy() -> None:
    record = records.unfinished("stopped")
    assert isinstance(record.summary, Summary)
    follow = make_follow("collecting")
    summary = dataclasses.replace(record.summary, follow=follow)
    copying = dataclasses.replace(record, summary=summary)
    assert headline.reckoned(copying) == headline.reckoned(record)
    assert headline.figures(copying) == headline.figures(record)
    assert sections(copying) == sections(record)


@pytest.mark.parametrize("state", ["running", "stopped", "killed", "failed"])
def test_a_report_has_the_facts_of_a_follow_and_no_percentage(state: str) -> None:
    follow = make_follow(incomparable=2, lossy=5, accepted_failures=3, gaps=31)
    record = records.followed(state, follow)
    file = StringIO()
    Console(file=file, width=400, highlight=False).print(render_record(record))
    page = re.sub(r"<style>.*</style>", "", render_html(record), flags=re.S)
    for text in (file.getvalue(), page):
        for words in (
            "1,234,567 reported, 1,200,000 settled, 12,345 of them deleted",
            f"3; the last ended at {moment(GAP_AT + 91_000)} and found 17 differences",
            "for 50:00 in all",
            "2 whose modules have no command to compare values",
            "5 without what the target cannot hold, as accepted",
            "3 failed keys that need not be on the target",
            "The last 2 of 31 gaps",
            "the feed was lost: the server closed the connection",
            moment(GAP_AT),
            "messages of client-side caching (CLIENT TRACKING)",
        ):
            assert words in text
        assert "% done" not in text and "of the walk" not in text and "not compared" not in text
    assert ("In step since" in page) == (state == "running")
    assert ("Was in step" in page) == (state != "running")


def test_keys_that_were_settled_since_they_failed_do_not_count_as_failed() -> None:
    counts = Counts(copied=9, failed=3)
    assert make_follow(failed=1).with_failures(counts) == Counts(copied=9, failed=1)
    # A resumed run may have failed keys still to try.
    assert make_follow("collecting", failed=1).with_failures(counts) == counts


def test_runs_tell_if_they_ended_in_step() -> None:
    for phase, words in (("in step", "stopped, exit code 130, in step"), ("proving", "code 130")):
        follow = make_follow(phase)  # type: ignore[arg-type]
        (runs,) = [s for s in sections(records.followed("stopped", follow)) if s.name == "runs"]
        assert runs.tables[0].rows[1][3].endswith(words)


def test_the_end_of_a_follow_in_lines() -> None:
    summary = records.followed("stopped", make_follow()).summary
    assert isinstance(summary, Summary)
    first, *rest = summary_lines(summary)
    assert first == (
        "stopped: copied 108,433 keys in 12.5 s, then followed for 59:48; in step, 0.003 s behind"
    )
    labels = [line.split("  ")[1] for line in rest]
    expected = ["from", "to", "job", "rate", "gone", "feed", "changes", "passes", "gaps"]
    assert labels == [*expected, "in step", "to settle"]
    document = summary.to_json()["follow"]
    assert document["phase"] == "in step" and document["facts"]["last_gaps"][0]["at"] == GAP_AT
    over = records.cut_over().summary
    assert isinstance(over, Summary)
    assert summary_lines(over)[0].endswith("followed for 59:48 and cut over")
    assert "completeness" not in "\n".join(summary_lines(over))


@pytest.mark.parametrize(
    ("state", "held", "follow", "expected"),
    [
        ("running", True, make_follow(), ["running", "in step"]),
        ("running", True, make_follow("reconciling"), ["running", "copied"]),
        ("running", True, make_follow("collecting"), ["running", "41.3 %"]),
        ("running", False, make_follow(), ["killed", "copied"]),
        ("stopped", False, make_follow(), ["stopped", "copied"]),
        ("failed", False, make_follow("reconciling"), ["failed", "copied"]),
        ("done", False, make_follow(), ["done", "100.0 %"]),
        ("stopped", False, None, ["stopped", "41.3 %"]),
    ],
)
def test_the_list_of_jobs(
    state: str, held: bool, follow: FollowStat | None, expected: list[str]
) -> None:
    endpoints = parse_endpoint("redis://a", "source"), parse_endpoint("redis://b", "target")
    record = JobRecord("move", NOW, Job(*endpoints), (0,), (), (), False, False)
    progressed = Progressed(state, 0.4139, 9.0, 1, 0, follow)  # type: ignore[arg-type]
    listed = Listed("move", Path("move.ledger"), held, record, progressed)
    _, line = job_lines([listed])
    assert re.split(r"\s{2,}", line)[1:3] == expected


# Of real servers

KEYS = 1_000


def follow_in(ledger: Path) -> FollowFacts:
    """The sums that a ledger has."""
    with open_books(ledger) as books:
        found = books.facts().follow
    assert found
    return found


def test_a_follow_in_every_display_and_report(server: StartServer, state_home: Path) -> None:
    """In step, stopped, resumed, killed."""
    source, target, port = server("7.0"), server("8.1"), free_port()
    fill_mixed(source, KEYS)
    with Following(source, target, "--metrics", port) as following:
        following.in_step()
        source.do("SET", "changed", "1")
        following.settled(source, target)
        # Longer than the copy, so that the time of the job shows that it goes on.
        following.wait(lambda now: now["step_seconds"] > 1.5, "some time in step")
        text = scrape(port)[1]
        assert told(text, "rumpx_follow_in_step") == 1
        assert (told(text, "rumpx_follow_settled_total") or 0) >= 1
        assert told(text, "rumpx_progress_ratio") == 1
        status = rumpx("ctl", "move", "status").stdout
        assert status.startswith("move  following\n  follow   in step since ")
        assert rumpx("jobs").stdout.splitlines()[1].split("  ")[1:4] == ["running", "in step", "0"]
        shown = rumpx("report", "move").stdout
        assert shown.startswith(f"✓ In step\nCopied {KEYS:,} keys in ")
        stopped = following.stop()
    events = valid([line for line in stopped.stderr.splitlines() if line.startswith("{")])
    progress = [event for event in events if event["event"] == "progress"]
    following_ = [event for event in progress if event["state"] == "following"]
    assert {event["fraction"] for event in following_} == {1.0}
    assert "in step" in {event["follow"]["phase"] for event in following_}
    assert progress[0]["follow"]["phase"] == "collecting"
    assert (progress[-1]["state"], progress[-1]["follow"]["phase"]) == ("stopped", "in step")

    summary = stopped.summary
    assert summary["follow"]["phase"] == "in step" and summary["follow"]["lag"] is not None
    assert summary["follow"]["facts"]["step_seconds"] > 1.5
    assert 0 < summary["follow"]["facts"]["copied_in"] < summary["seconds"]
    keys = summary["counts"]["copied"] + summary["counts"]["gone"]
    copying = keys / summary["follow"]["facts"]["copied_in"]
    assert summary["keys_per_second"] == pytest.approx(copying)
    assert [part["complete"] for part in summary["partitions"]].count(False) == 0
    ledger = state_home / "move.ledger"
    story = read_story(ledger)
    assert (story.state, story.exit_code) == ("stopped", INTERRUPTED)
    assert isinstance(story.summary, Summary) and story.summary.follow
    assert story.summary.follow.in_step
    assert story.runs[0].follow == story.summary.follow
    found = headline.reckoned(story)
    assert found.word == "Stopped" and "; in step, 0." in found.sentence
    assert rumpx("jobs").stdout.splitlines()[1].split("  ")[1:3] == ["stopped", "copied"]

    with Following.again() as following:
        following.in_step()
        before = summary["follow"]["facts"]["step_seconds"]
        following.wait(lambda now: now["step_seconds"] > before + 1.5, "more time in step")
        wait_until(lambda: follow_in(ledger).step_seconds > before + 1.0, 30, "that is saved")
        following.run.send_signal(signal.SIGKILL, group=True)
        following.run.wait()
    killed = read_story(ledger)
    assert killed.state == "killed"
    assert isinstance(killed.summary, Summary) and killed.summary.follow
    assert killed.summary.follow.in_step and killed.summary.follow.facts.passes == 2
    assert killed.summary.follow.facts.copied_in == summary["follow"]["facts"]["copied_in"]
    assert "Followed until" in headline.reckoned(killed).notes[-1]
    for before, after in pairwise(killed.points):
        assert before.elapsed < after.elapsed
    page = rumpx("report", "move", "--html", "-").stdout
    assert "Killed" in page and "% done" not in page


def test_passes_in_every_display(server: StartServer) -> None:
    source, target, port = server("7.0"), server("8.1"), free_port()
    fill_mixed(source, KEYS)
    with Following(source, target, "--feed", "passes", "--metrics", port) as following:
        following.wait(lambda now: now["passes"] >= 1, "a pass has ended")
        last_pass = "rumpx_follow_last_pass_timestamp_seconds"
        ended = wait_until(lambda: told(scrape(port)[1], last_pass), 30, "its end is told")
        assert ended and abs(ended - time.time()) < 3600
        text = scrape(port)[1]
        assert told(text, "rumpx_follow_in_step") == 0
        assert told(text, "rumpx_follow_lag_seconds") is None
        status = rumpx("ctl", "move", "status").stdout
        assert "changes are found by passes, last pass " in status and "behind" not in status
        stopped = following.stop()
    assert stopped.summary["follow"]["lag"] is None
    shown = " ".join(rumpx("report", "move").stdout.split())
    assert "the last pass found 0 differences" in shown and "not in step then" in shown


def test_what_a_follow_waits_for_is_told_until_it_is_done(server: StartServer) -> None:
    source, target, port = server("7.0"), server("8.1"), free_port()
    fill_mixed(source, KEYS)
    flags = ("--max-deletes", "10", "--metrics", port)
    with Following(source, target, *flags) as following:
        following.in_step()
        source.do("FLUSHALL")
        following.wait(lambda now: now["held_deletes"] == KEYS, "deletes are held")
        waits = f"the source lacks {KEYS:,} keys that the target has: rumpx ctl move accept-deletes"
        status = rumpx("ctl", "move", "status").stdout
        assert status.startswith(f"move  following\n  waits    {waits}\n  follow   reconciling, ")
        held = "rumpx_follow_held_deletes"
        wait_until(lambda: told(scrape(port)[1], held) == KEYS, 30, "their number is told")
        stopped = following.stop()
    assert stopped.summary["follow"]["waits_for"] == waits
    shown = " ".join(rumpx("report", "move").stdout.split())
    assert f"waits for {waits}" in shown
    assert "all keys may have changed" in shown or "flushed" in shown
    assert json.loads(json.dumps(stopped.summary))["follow"]["facts"]["gaps"] == 1


def test_its_passes_are_no_partitions_that_were_walked_again(server: StartServer) -> None:
    """They are what a follow does, also of an earlier run."""
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, KEYS)
    with Following(source, target) as following:
        following.in_step()
        source.do("SET", "k", "v")
        following.settled(source, target)
        following.stop()
    with Following.again() as again:
        again.in_step()
        ended = again.stop()
    assert ended.summary["walked_again"] == {}
    assert ended.summary["follow"]["facts"]["passes"] == 2
