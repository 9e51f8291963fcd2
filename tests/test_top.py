"""The full-screen view: drawn from made-up snapshots, on a terminal, and by the command."""

from __future__ import annotations

import dataclasses
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from rumpx.display.draw import shortened
from rumpx.display.panels import messages
from rumpx.display.screen import Top
from rumpx.display.sparkline import column_seconds, key_rates, latencies, sparkline
from rumpx.display.top import render, share_out
from rumpx.model.content import Content, LargeKey
from rumpx.model.counts import Counts
from rumpx.model.snapshot import Held, NodeStat, Row, Snapshot, State, WorkerStat
from rumpx.model.timeline import Point
from support import data
from support.run import Action, Terminal, rumpx_pty, run_pty
from support.servers import Server
from support.snapshots import make_snapshot as plain_snapshot
from support.snapshots import make_workers

TESTS = Path(__file__).parent
SIZES = [(60, 20), (80, 24), (120, 40), (200, 50)]
NAMES = ("throughput", "latency", "nodes", "workers", "partitions", "largest keys", "messages")
SAID = ("12:31:05 The source evicts keys.", "12:33:17 worker 3 died and is replaced")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"


def make_snapshot(state: State = "copying", **changes: Any) -> Snapshot:
    """A run in which there is something to say of everything."""
    snapshot = plain_snapshot(
        state,
        counts=Counts(copied=412_345, gone=12, failed=5, payload_bytes=110_000_000),
        rows=(),
        partitions=tuple(
            Row(f"part {n + 1}/16", n / 16, Counts(copied=1000 * n), n == 15) for n in range(16)
        ),
        worker_restarts=1,
        held=Held("throttled by source latency 6.1 ms > 5 ms", False, 0.0061, 0.0003, share=0.25),
        nodes=(
            NodeStat("source", "redis://10.0.0.1:6379/0", 0.0061, 43.2, 10**9, 0),
            NodeStat("target", "10.0.0.2:6379", 0.0003, 12.0, 39 * 10**8, 4 * 10**9),
        ),
        failures={"NOPERM": 4, "bad payload": 1},
        content=Content(
            largest=tuple(LargeKey(0, b"large:%d" % n, "hash", 10**8 - n) for n in range(10))
        ),
    )
    return dataclasses.replace(snapshot, **changes)


def make_points(seconds: int = 90) -> list[Point]:
    return [
        Point(1, n, float(n), 1.0, 1000 * n, 10**6, n / 1e4, 0.0003) for n in range(1, seconds + 1)
    ]


def drawn(
    snapshot: Snapshot,
    width: int,
    height: int,
    points: Sequence[Point] = (),
    said: Sequence[str] = SAID,
    *,
    leaves: bool = True,
    **options: Any,
) -> str:
    file = StringIO()
    options = {"force_terminal": True, "color_system": "standard", **options}
    console = Console(file=file, width=2 * width, highlight=False, **options)
    console.print(render(snapshot, points, said, width, height, leaves=leaves))
    return file.getvalue()


def screen(*args: Any, **options: Any) -> list[str]:
    """The lines of what is drawn, without blanks at their ends."""
    return [line.rstrip() for line in COLOUR.sub("", drawn(*args, **options)).split("\n")[:-1]]


def headings(lines: Sequence[str]) -> list[str]:
    """The names of the panels that are there, without a "slowest" before."""
    text = "\n".join(lines)
    found = re.findall(rf"(?m)(?:^|  |slowest )({'|'.join(NAMES)}) ──", text)
    return [str(name) for name in found]


# Charts


VALUES = st.lists(st.none() | st.floats(0, 1e12), max_size=50)


@given(VALUES, st.integers(0, 60), st.integers(1, 6), st.floats(0, 1e12))
def test_a_sparkline_is_as_large_as_it_was_told(
    values: list[float | None], width: int, height: int, top: float
) -> None:
    lines = sparkline(values, width, height, top)
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}
    assert {cell_len(line) for line in lines} == {width}


@given(VALUES, st.integers(1, 6))
def test_a_sparkline_says_what_is_high_low_nothing_and_unknown(
    values: list[float | None], height: int
) -> None:
    lines = sparkline(values, len(values), height)
    top = max((value for value in values if value is not None), default=0.0)
    for position, value in enumerate(values):
        above, below = lines[0][position], lines[-1][position]
        assert (above == "█") == (
            value is not None and value > 0 and round(8 * height * value / top) == 8 * height
        )
        assert (below == ".") == (value == 0)
        assert (below == " ") == (value is None)
    heights = [sum(" .▁▂▃▄▅▆▇█".index(line[n]) for line in lines) for n in range(len(values))]
    pairs = sorted(
        (value, heights[n]) for n, value in enumerate(values) if value is not None and value
    )
    assert [height for _, height in pairs] == sorted(height for _, height in pairs)


def test_a_sparkline_shows_the_last_values_on_the_right() -> None:
    assert sparkline([8, 1, 2, 4, 8], 4) == ["▁▂▄█"]
    assert sparkline([1, None, 0, 2], 6) == ["  ▄ .█"]
    assert sparkline([4, 8, 16], 3, 2) == ["  █", "▄██"]
    assert sparkline([1, 2], 2, top=8) == ["▁▂"]
    assert sparkline([], 3, 2) == ["   ", "   "]


LENGTHS = st.lists(st.floats(0.25, 30), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 80))
def test_columns_hold_what_the_points_say(lengths: list[float], width: int) -> None:
    """In as many columns as the whole run needs no key is lost, and the highest latency is seen."""
    points: list[Point] = []
    for number, seconds in enumerate(lengths):
        elapsed = (points[-1].elapsed if points else 7.0) + seconds
        points.append(Point(1, 0.0, elapsed, seconds, 100 * number, 0, number / 1e3))
    step = column_seconds(points, width)
    assert step * width >= min(300, sum(lengths))
    rates = key_rates(points, width)
    assert len(rates) == width and rates[-1] is not None
    highest = latencies(points, width, "source")
    assert highest[-1] == points[-1].source_latency
    assert latencies(points, width, "target") == [None] * width
    assert [rate is None for rate in rates] == [value is None for value in highest]
    top = max(point.keys_per_second for point in points)
    assert all(rate is None or 0 <= rate <= top * 1.000001 for rate in rates)


def test_columns_do_not_change_as_time_goes_on() -> None:
    points = make_points(200)
    before, after = key_rates(points[:-10], 50), key_rates(points, 50)
    assert column_seconds(points, 50) == column_seconds(points[:-10], 50) == 4
    assert before[2:49] == after[:47]  # without the last one, which is not complete
    assert before[49] != after[47]


def test_a_time_without_points_is_blank() -> None:
    points = [make_points(3)[-1], Point(1, 0, 9.0, 1.0, 500, 0)]
    assert key_rates(points, 7) == [3000, None, None, None, None, None, 500]


# Which panels fit


WANTS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))),
    max_size=8,
)


@given(WANTS, st.integers(0, 60), st.integers(0, 2))
def test_rows_are_shared_out(wants: list[tuple[int, int]], room: int, gap: int) -> None:
    given = share_out(wants, room, gap)
    there = [rows for rows in given if rows]
    used = sum(there) + gap * max(0, len(there) - 1)
    assert used <= room
    for (least, most), rows in zip(wants, given, strict=True):
        assert rows == 0 or least <= rows <= most
        if rows == 0:
            assert used + least + gap > room or least + gap * bool(there) > room - used
    if wants and wants[0][0] <= room:
        assert given[0] > 0
    if used < room:
        assert all(rows in (0, most) for (_, most), rows in zip(wants, given, strict=True))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [0, 1, 90, 600])
def test_the_view_fills_the_screen_and_no_more(width: int, height: int, count: int) -> None:
    lines = screen(make_snapshot(), width, height, make_points(count))
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width
    assert lines[-1] == "q leaves this view, the copy runs on · Ctrl-C stops the copy"


def test_every_panel_is_there_where_there_is_room() -> None:
    lines = screen(make_snapshot(), 200, 50, make_points())
    assert sorted(headings(lines)) == sorted(NAMES)
    text = "\n".join(lines)
    for part in (
        "redis://10.0.0.1:6379/0 → rediss://cache.prod.example.com:6380/0",
        "copying  1:02",
        "41.3 %",
        "copied 412,345 of ~1,000,000 keys",
        "46.1 MB/s",
        "ETA 0:03",
        "gone 12   failed 5   NOPERM 4   bad payload 1   job nightly",
        "now 172,345 keys/s  max 90,000  last 1:30",
        "max source 9.0 ms  max target 0.3 ms",
        "6.1 ms",
        "25.0 % of full  throttled by source latency 6.1 ms > 5 ms",
        "source  10.0.0.1:6379",
        "6.1 ms  43 % CPU            1.0 GB",
        "0.3 ms  12 % CPU  3.9 GB of 4.0 GB",
        "4: 313 % CPU, 208 MB  restarted 1  batches in flight 16",
        "coordinator  43 % CPU  61.0 MB",
        "103          78 % CPU  52.0 MB  4 batches",
        "1 done  14 in progress  1 waiting",
        "100 MB  hash  large:9",
        *SAID,
    ):
        assert part in text, part
    assert all(f"part {n}/16" in text for n in range(1, 17))


def test_workers_elsewhere_are_summed_up_by_machine() -> None:
    text = "\n".join(screen(make_snapshot(workers=make_workers(12, 1)), 200, 50, make_points()))
    for part in (
        "13 on 2 machines: 1040 % CPU, 650 MB",
        "node-1.example.com 12 workers  960 % CPU   600 MB  36 batches",
        "node-2.example.com 1 worker     80 % CPU  50.0 MB   3 batches",
    ):
        assert part in text, part
    assert "100  " not in text, "a process of another machine"


@pytest.mark.parametrize("machines", [1, 40])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_many_machines_fit(width: int, height: int, machines: int) -> None:
    snapshot = make_snapshot(workers=make_workers(*[3] * machines))
    lines = screen(snapshot, width, height, make_points())
    assert len(lines) == height and max(map(cell_len, lines)) <= width


def test_what_matters_most_is_there_where_it_is_small() -> None:
    lines = screen(make_snapshot(), 60, 20, make_points())
    assert headings(lines) == ["throughput", "latency", "workers", "partitions", "messages"]
    text = "\n".join(lines)
    pace = "throttled by source latency"
    for part in ("41.3 %", "ETA 0:03", "NOPERM 4", "now 172,345 keys/s", pace):
        assert part in text
    assert SAID[-1] in text and SAID[0] not in text
    assert "part 2/16" in text and "part 9/16" not in text
    wide = screen(make_snapshot(), 60, 40, make_points())
    assert headings(wide) == list(NAMES)


@pytest.mark.parametrize(("width", "height"), [(39, 24), (80, 9)])
def test_a_very_small_screen_has_head_and_foot(width: int, height: int) -> None:
    lines = screen(make_snapshot(), width, height, make_points())
    assert headings(lines) == []
    assert any("41.3 %" in line for line in lines)
    assert "Ctrl-C stops" in lines[-1]


def test_there_are_two_columns_where_it_is_wide() -> None:
    (both,) = [t for t in screen(make_snapshot(), 120, 40) if t.startswith("throughput ")]
    assert "   nodes ──" in both
    (one,) = [t for t in screen(make_snapshot(), 100, 40) if t.startswith("throughput ")]
    assert "nodes" not in one


def test_a_long_line_stays_in_its_column() -> None:
    lines = screen(make_snapshot(held=Held("throttled by " + "漢字" * 60, share=0.5)), 120, 40)
    first = next(n for n, line in enumerate(lines) if line.startswith("throughput"))
    last = next(n for n, line in enumerate(lines) if line.startswith("messages"))
    assert any("…" in line for line in lines[first:last])
    for line in lines[first:last]:
        left = line
        while cell_len(left) > 58 + 3:
            left = left[:-1]
        assert cell_len(left) < 58 or left.endswith("   ")


@given(st.text(alphabet="ab漢字", max_size=30), st.integers(1, 40))
def test_a_shortened_text_is_not_too_wide(text: str, width: int) -> None:
    short = shortened(text, width)
    assert cell_len(short) <= width
    assert short == text or (cell_len(text) > width and "…" in short)


def test_what_a_run_does_not_have_has_no_panel() -> None:
    snapshot = make_snapshot(
        "starting", partitions=(), nodes=(), content=Content(), workers=(), held=Held(), eta=None
    )
    for width, height in SIZES:
        lines = screen(snapshot, width, height, (), ())
        assert headings(lines) == ["throughput", "latency", "workers"]
        assert any(re.search("^pace +━+  100.0 % of full  not throttled", t) for t in lines)
        assert not any(t.startswith("target") for t in lines)
    one = make_snapshot(partitions=make_snapshot().partitions[:1])
    assert "partitions" not in headings(screen(one, 200, 50))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (Held("limited to 5,000 keys/s"), "pace   limited to 5,000 keys/s"),
        (Held("paused by rumpx ctl", off=True, share=0.5), "pace   paused by rumpx ctl"),
    ],
)
def test_a_rate_or_a_pause_is_no_share(held: Held, said: str) -> None:
    assert said in screen(make_snapshot(held=held), 80, 24)


def test_slowest_partitions_and_nodes_are_those_shown() -> None:
    nodes = tuple(
        NodeStat("source" if n < 20 else "target", f"10.0.0.{n}:1", n % 20 / 1e3, None, None, None)
        for n in range(40)
    )
    text = "\n".join(screen(make_snapshot(nodes=nodes), 60, 50))
    shown = re.findall(r"(source|target)  10\.0\.0\.(\d+)", text)
    assert 4 <= len(shown) < 40
    assert f"slowest {len(shown)} of 40" in text
    assert [int(n) for _, n in shown] == [
        *range(20 - (len(shown) + 1) // 2, 20),
        *range(40 - len(shown) // 2, 40),
    ]


def test_a_long_message_is_folded_and_a_longer_one_ends_in_an_ellipsis() -> None:
    text = "12:31:05 " + "words " * 30 + "end"
    panel = messages([text], 60)
    assert panel is not None and panel.most == 5
    lines = [line.plain for line in panel.draw(5)]
    assert "".join(lines[1:]).split() == text.split()
    assert all(line.startswith(" " * 9) for line in lines[2:])
    assert [line.plain for line in panel.draw(3)][-1].endswith("words …")


@pytest.mark.parametrize(
    ("changes", "width", "foot"),
    [
        ({}, 59, "q leaves · Ctrl-C stops"),
        ({"verb": "compared"}, 80, "the comparison runs on · Ctrl-C stops the comparison"),
        ({"state": "draining"}, 80, "q leaves this view, the copy runs on · Ctrl-C again stops"),
        ({"state": "done"}, 80, ""),
    ],
)
def test_the_foot(changes: dict[str, Any], width: int, foot: str) -> None:
    last = screen(make_snapshot(**changes), width, 24)[-1]
    assert (foot in last) if foot else (last == "")


def test_the_foot_names_no_key_where_none_is_read() -> None:
    assert screen(make_snapshot(), 80, 24, leaves=False)[-1] == "Ctrl-C stops the copy"


def test_failures_and_a_full_node_are_red() -> None:
    text = drawn(make_snapshot(), 200, 50)
    assert re.search(r"\x1b\[31mNOPERM 4", text)
    assert re.search(r"\x1b\[1;31m *3\.9 GB of 4\.0 GB", text)
    clean = make_snapshot(counts=Counts(copied=1), failures={}, nodes=make_snapshot().nodes[:1])
    assert "31m" not in drawn(clean, 200, 50)


def test_no_color_leaves_no_colour_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    codes = re.findall(r"\x1b\[([0-9;]*)m", drawn(make_snapshot(), 200, 50, make_points()))
    assert {int(part) for code in codes for part in code.split(";") if part} <= {0, 1, 2}


# Whatever a snapshot says


EVIL = "\x1b[2J\n\r\x07\x9b31m\u202e€漢字"
TEXTS = st.text(max_size=40) | st.just(EVIL) | st.just("漢字" * 30)
NUMBERS = st.integers(0, 10**15)
SHARES = st.floats(0, 1)
SECONDS = st.none() | st.floats(0, 1e5)
COUNTS = st.builds(Counts, copied=NUMBERS, gone=NUMBERS, failed=NUMBERS, payload_bytes=NUMBERS)
SNAPSHOTS = st.builds(
    Snapshot,
    state=st.sampled_from(["starting", "copying", "draining", "done", "failed", "stopped"]),
    job=st.sampled_from(["", "nightly", "20261126-021526"]),
    verb=st.sampled_from(["copied", "compared"]),
    source=TEXTS,
    target=TEXTS,
    elapsed=st.floats(0, 1e7),
    fraction=SHARES,
    counts=COUNTS,
    keys_expected=NUMBERS,
    keys_per_second=st.floats(0, 1e9),
    bytes_per_second=st.floats(0, 1e12),
    eta=SECONDS,
    rows=st.just(()),
    partitions=st.lists(st.builds(Row, TEXTS, SHARES, COUNTS, st.booleans()), max_size=6).map(
        tuple
    ),
    workers=st.lists(
        st.builds(WorkerStat, st.integers(1, 4194304), st.floats(0, 3200), NUMBERS, NUMBERS),
        max_size=6,
    ).map(tuple),
    worker_restarts=NUMBERS,
    batches_in_flight=NUMBERS,
    coordinator_cpu=st.floats(0, 3200),
    coordinator_memory=NUMBERS,
    note=TEXTS,
    held=st.builds(
        Held, TEXTS, st.booleans(), SECONDS, SECONDS, share=SHARES, seconds=st.just({})
    ),
    nodes=st.lists(
        st.builds(
            NodeStat,
            st.sampled_from(["source", "target"]),
            TEXTS,
            SECONDS,
            st.none() | st.floats(0, 3200),
            st.none() | NUMBERS,
            st.none() | NUMBERS,
        ),
        max_size=6,
    ).map(tuple),
    failures=st.dictionaries(TEXTS, NUMBERS, max_size=6),
    content=st.builds(
        Content,
        largest=st.lists(
            st.builds(
                LargeKey,
                st.integers(0, 99),
                st.binary(max_size=99) | TEXTS.map(lambda text: text.encode(errors="replace")),
                st.sampled_from(["hash", "module"]),
                NUMBERS,
            ),
            max_size=10,
        ).map(tuple),
    ),
)


@settings(max_examples=150)
@given(
    SNAPSHOTS,
    st.integers(1, 240),
    st.integers(1, 70),
    st.lists(st.text(alphabet="ab漢é ", max_size=300), max_size=9),
    st.integers(0, 30),
    st.booleans(),
)
def test_no_snapshot_is_too_large_for_a_screen(
    snapshot: Snapshot, width: int, height: int, said: list[str], count: int, leaves: bool
) -> None:
    text = drawn(snapshot, width, height, make_points(count), said, leaves=leaves)
    lines = COLOUR.sub("", text).split("\n")
    assert lines.pop() == ""
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)


# On a terminal


CHILD = """
import select, signal, sys, termios, threading
sys.path.insert(0, {tests!r})
from test_top import make_snapshot
from rumpx.display import screen
from rumpx.display.display import Background
from rumpx.display.lines import quiet
from rumpx.display.screen import Top

told = {{number: threading.Event() for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)}}
for number in told:
    signal.signal(number, lambda number, frame: told[number].set())
modes = termios.tcgetattr(2)
top = Top(sys.stderr, sys.stdin)
display = Background(top, quiet(sys.stderr))

def show_until(number):
    '''Show snapshots, as a run does, until a signal comes.'''
    while not told[number].wait(0.05):
        display.show(make_snapshot())

display.message("said before\\x1b[2J")
display.start()
{body}
display.show(make_snapshot("done", fraction=1.0))
display.stop()
print("the end" if termios.tcgetattr(2) == modes else "modes are not restored")
"""


def run_child(
    body: str, keys: Sequence[tuple[str, Action]], cols: int = 80, rows: int = 24, **options: Any
) -> Terminal:
    """A program that shows snapshots, which is `body`."""
    code = CHILD.format(tests=str(TESTS), body=textwrap.dedent(body))
    shown = run_pty([sys.executable, "-c", code], keys=keys, cols=cols, rows=rows, **options)
    assert shown.returncode == 0 and "the end" in shown.text, shown.text
    assert [action for _, action in keys] == shown.sent
    assert "Traceback" not in shown.text
    return shown


def check_given_back(shown: Terminal, times: int = 1) -> None:
    """The terminal is as it was, after so many times on the full screen."""
    assert shown.modes_restored and not shown.cursor_hidden
    assert shown.raw.count(ENTERED) == shown.raw.count(LEFT) == times
    assert shown.raw.rindex(ENTERED) < shown.raw.rindex(LEFT)


def normal(raw: bytes) -> str:
    """What was written while the normal screen was there."""
    parts = re.split(re.escape(ENTERED) + b".*?" + re.escape(LEFT), raw, flags=re.DOTALL)
    return COLOUR.sub("", b"".join(parts).decode())


def frame_with(shown: Terminal, text: str) -> list[str]:
    """The first screen with a text."""
    frames = [frame for frame in shown.frames if any(text in line for line in frame)]
    assert frames, f"{text!r} was never there"
    return frames[0]


FOOT = "Ctrl-C stops the copy"
BARS = "workers 4  313 %"


@pytest.mark.parametrize(("cols", "rows"), SIZES)
def test_the_screen_is_taken_and_given_back(cols: int, rows: int) -> None:
    body = "show_until(signal.SIGUSR1)\ndisplay.message('said meanwhile')"
    shown = run_child(body, [(FOOT, signal.SIGUSR1)], cols, rows)

    check_given_back(shown)
    frame = frame_with(shown, FOOT)
    expected = screen(make_snapshot(), cols, rows, (), ())
    assert [frame[0], frame[-1]] == [expected[0], expected[-1]]
    frame_with(shown, r" said before\x1b[2J")
    after = normal(shown.raw)
    positions = [
        after.index(part)
        for part in (r"said before\x1b[2J", "said meanwhile", "100.0 %", "the end")
    ]
    assert positions == sorted(positions)
    assert after.count("said before") == after.count("said meanwhile") == 1
    assert shown.lines[-1] == "" and "the end" in shown.text


@pytest.mark.parametrize("key", [b"q", b"xQ"])
def test_q_leaves_for_bars(key: bytes) -> None:
    body = "show_until(signal.SIGUSR1)\ndisplay.message('said to the bars')"
    shown = run_child(body, [(FOOT, key), (BARS, signal.SIGUSR1)])

    check_given_back(shown)
    assert [BARS in normal(shown.raw), "said to the bars" in shown.text] == [True, True]
    after = shown.raw.partition(LEFT)[2].decode()
    assert after.count("said before") == after.count("said to the bars") == 1


def test_other_keys_do_nothing_and_are_not_echoed() -> None:
    """Nor are they there for whoever reads next."""
    body = """
    pressed = top._keyboard.pressed
    def noted():
        keys = pressed()
        if keys:
            display.message(f"pressed {len(keys)}")
        return keys
    top._keyboard.pressed = noted
    show_until(signal.SIGUSR1)
    """
    shown = run_child(body, [(FOOT, b"abc\n\x1b[A"), ("pressed 7", signal.SIGUSR1)])

    check_given_back(shown)
    assert not any("abc" in line for frame in shown.frames for line in frame)


def test_ctrl_c_is_still_a_signal() -> None:
    shown = run_child("show_until(signal.SIGINT)", [(FOOT, b"\x03")])
    check_given_back(shown)


def test_a_question_is_asked_on_the_normal_screen() -> None:
    """What was typed before it came is no answer to it, and nothing is drawn until it is there."""
    body = """
    show_until(signal.SIGUSR1)
    pressed, top._keyboard.pressed = top._keyboard.pressed, str
    display.message("type now")
    display.show(make_snapshot())
    select.select([sys.stdin], [], [])
    display.pause()
    top._keyboard.pressed = pressed
    again = threading.Event()
    show = top.show
    def noted(snapshot):
        try:
            show(snapshot)
        finally:
            again.set()
    top.show = noted
    display.show(make_snapshot())
    again.wait(10)
    print("Sure? ", end="", flush=True)
    answer = sys.stdin.readline()
    display.go_on()
    display.message(f"answered {answer!r}")
    show_until(signal.SIGUSR2)
    """
    keys: list[tuple[str, Action]] = [
        (FOOT, signal.SIGUSR1),
        ("type now", b"no\n"),
        ("Sure?", b"yes\n"),
        ("answered", signal.SIGUSR2),
    ]
    shown = run_child(body, keys)

    check_given_back(shown, times=2)
    assert "Sure? yes" in normal(shown.raw)  # echoed
    frame_with(shown, "answered 'yes\\n'")


def test_a_question_is_asked_below_the_bars_after_q() -> None:
    body = """
    show_until(signal.SIGUSR1)
    display.pause()
    print("Sure? ", end="", flush=True)
    display.message(f"answered {sys.stdin.readline()!r}")
    display.go_on()
    show_until(signal.SIGUSR2)
    """
    keys: list[tuple[str, Action]] = [
        (FOOT, b"q"),
        (BARS, signal.SIGUSR1),
        ("Sure?", b"yes\n"),
        ("answered", signal.SIGUSR2),
    ]
    check_given_back(run_child(body, keys))


@pytest.mark.parametrize("after_q", [False, True])
def test_a_line_that_is_asked_for_is_a_message(after_q: bool) -> None:
    body = """
    show_until(signal.SIGUSR1)
    display.now(make_snapshot(keys_per_second=777))
    show_until(signal.SIGUSR2)
    """
    begin: list[tuple[str, Action]] = [(FOOT, b"q"), (BARS, signal.SIGUSR1)]
    keys = [*(begin if after_q else [(FOOT, signal.SIGUSR1)]), ("777 keys/s", signal.SIGUSR2)]
    shown = run_child(body, keys, cols=200)
    check_given_back(shown)
    assert normal(shown.raw).count("777 keys/s") == 1


def test_another_size_is_drawn_at_once() -> None:
    """Larger and smaller, with nothing left of what was there before."""
    wide, narrow = (  # down to a heading that only this size has: lines are drawn in their order
        lines[: next(n for n, line in enumerate(lines, 1) if line.startswith(last))]
        for last, lines in (
            ("messages ─", screen(make_snapshot(), 130, 40, (), SAID)),
            ("slowest partitions ─", screen(make_snapshot(), 60, 20, (), SAID)),
        )
    )
    keys: list[tuple[str, Action]] = [
        (FOOT, (130, 40)),
        (wide[-1], (60, 20)),
        (narrow[-1], signal.SIGUSR1),
    ]
    shown = run_child("display.message('more')\nshow_until(signal.SIGUSR1)", keys)
    check_given_back(shown)
    for expected in (wide, narrow):
        assert any(frame[: len(expected)] == expected for frame in shown.frames)


def test_a_shell_may_have_had_the_terminal_meanwhile() -> None:
    """As after Ctrl-Z and fg: modes that were changed are set again, all is drawn anew."""
    title = screen(make_snapshot(), 80, 24)[0]
    body = """
    show_until(signal.SIGUSR1)
    last, done = make_snapshot(), threading.Event()
    show = top.show
    def noted(snapshot):
        show(snapshot)
        if snapshot is last:
            done.set()
    top.show = noted
    display.show(last)
    done.wait()  # so that nothing is drawn over what the shell writes
    termios.tcsetattr(0, termios.TCSANOW, modes)
    sys.stderr.write("\\x1b[H$ ls\\r\\nsome files\\x1b[?25h")
    told[signal.SIGINT].wait()
    show_until(signal.SIGUSR2)
    """
    keys: list[tuple[str, Action]] = [
        (FOOT, signal.SIGUSR1),
        ("some files", signal.SIGINT),
        (title, b"q"),
        (BARS, signal.SIGUSR2),
    ]
    shown = run_child(body, keys)
    check_given_back(shown)
    after = shown.raw.partition(b"some files\x1b[?25h")[2]
    assert b"\x1b[?25l" in after.partition(LEFT)[0]


def test_in_the_background_it_leaves_the_terminal_alone() -> None:
    """A process there that sets modes or reads is stopped; so is one that waits for that."""
    body = """
    import os
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, os.WUNTRACED)
        os._exit(status)
    os.setpgid(0, 0)
    told[signal.SIGUSR1].clear()
    top.start()
    top.show(make_snapshot())
    top.pause()
    top.go_on()
    top.stop()
    os._exit(0)
    """
    code = CHILD.format(tests=str(TESTS), body=textwrap.dedent(body)).replace(
        "display.start()\n", ""
    )
    shown = run_pty([sys.executable, "-c", code])
    assert shown.returncode == 0, shown.text
    check_given_back(shown, times=2)


@pytest.mark.parametrize("fault", ["render", "line"])
def test_a_fault_while_drawing_gives_the_terminal_back(fault: str) -> None:
    body = f"""
    show_until(signal.SIGUSR1)
    def broken(*args, **named):
        raise ValueError("no room")
    screen.{fault} = broken
    if {fault!r} == "line":
        display.now(make_snapshot())
    show_until(signal.SIGUSR2)
    """
    keys: list[tuple[str, Action]] = [(FOOT, signal.SIGUSR1), ("no room", signal.SIGUSR2)]
    shown = run_child(body, keys)
    check_given_back(shown)
    said = "The progress display stopped (ValueError: no room); the copy continues."
    assert " ".join(shown.text.split()).count(said) == 1
    assert "said before" in shown.text


def test_bars_that_cannot_be_drawn_either_give_the_cursor_back() -> None:
    body = """
    show_until(signal.SIGUSR1)
    def broken(*args, **named):
        raise ValueError("no room")
    screen.render = screen.Bars.show = broken
    show_until(signal.SIGUSR2)
    """
    keys: list[tuple[str, Action]] = [(FOOT, signal.SIGUSR1), ("no room", signal.SIGUSR2)]
    check_given_back(run_child(body, keys))


def test_modes_are_restored_even_if_the_terminal_takes_no_more() -> None:
    """A view that is stuck in a write cannot end by itself."""
    code = f"""
import io, os, sys, termios, threading
sys.path.insert(0, {str(TESTS)!r})
from test_top import make_snapshot
from rumpx.display.display import Background
from rumpx.display.lines import quiet
from rumpx.display.screen import Top

reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while os.write(writer, b"x" * 4096):
        pass
except BlockingIOError:
    pass
os.set_blocking(writer, True)
top = Top(io.TextIOWrapper(io.FileIO(writer, "w"), "utf-8", write_through=True), sys.stdin)
before = termios.tcgetattr(0)
display = Background(top, quiet(sys.stderr))
display.start()
while termios.tcgetattr(0) == before:
    pass
display.stop()
print("changed" if termios.tcgetattr(0) != before else "as before")
"""
    shown = run_pty([sys.executable, "-c", code], env={"TTY_COMPATIBLE": "1"})
    assert shown.returncode == 0, shown.text
    assert shown.text == "changed"
    assert shown.modes_restored


def test_without_a_keyboard_no_key_is_named() -> None:
    code = CHILD.format(tests=str(TESTS), body="show_until(signal.SIGUSR1)")
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" < /dev/null', sys.executable, code]
    shown = run_pty(command, keys=[(FOOT, signal.SIGUSR1)])
    assert shown.returncode == 0, shown.text
    check_given_back(shown)
    assert frame_with(shown, FOOT)[-1] == FOOT


def test_a_view_that_was_never_shown_stops() -> None:
    stream = StringIO()
    top = Top(stream, None)
    top.message("said")
    top.stop()
    top.stop()
    assert [line[9:] for line in stream.getvalue().splitlines()] == ["said"]


# The command


KEYS = 4500
SLOWLY = ("--max-keys-per-sec", "900", "--workers", "1", "--top")


@pytest.mark.parametrize(("cols", "rows"), [(60, 20), (200, 50)])
def test_q_leaves_and_the_copy_goes_on(
    server: Callable[..., Server], cols: int, rows: int
) -> None:
    source, target = server("9.1"), server("9.1")
    data.fill_mixed(source, KEYS)
    words = ("--from", source.uri, "--to", target.uri, *SLOWLY)

    shown = rumpx_pty(*words, keys=[(FOOT, b"q"), ("worker 1", b"")], cols=cols, rows=rows)

    assert shown.returncode == 0, shown.text
    assert len(shown.sent) == 2
    check_given_back(shown)
    assert "✓ copied 4,500 keys" in normal(shown.raw)
    assert data.compare(source, target) == []


@pytest.mark.parametrize(("cols", "rows"), [(60, 20), (200, 50)])
def test_ctrl_c_drains_and_gives_the_terminal_back(
    server: Callable[..., Server], cols: int, rows: int
) -> None:
    source, target = server("9.1"), server("9.1")
    data.fill_mixed(source, KEYS)
    words = ("--from", source.uri, "--to", target.uri, *SLOWLY)

    shown = rumpx_pty(*words, keys=[(FOOT, b"\x03")], cols=cols, rows=rows)

    assert shown.returncode == 130, shown.text
    check_given_back(shown)
    text = normal(shown.raw)
    assert "■ stopped: copied" in text and "Traceback" not in text
    assert shown.text.splitlines()[-1].startswith("rumpx resume ")


def test_a_copy_shows_all_of_itself(server: Callable[..., Server]) -> None:
    source, target = server("9.1"), server("9.1")
    data.fill_mixed(source, KEYS)
    words = ("--from", source.uri, "--to", target.uri, *SLOWLY, "--partitions", "4")

    shown = rumpx_pty(*words, cols=200, rows=50, env={"NO_COLOR": "1"})

    assert shown.returncode == 0, shown.text
    check_given_back(shown)
    text = "\n".join("\n".join(frame) for frame in shown.frames)
    for name in ("throughput", "latency", "nodes", "workers", "partitions", "largest keys"):
        assert f"{name} ──" in text
    for part in ("limited to 900 keys/s", f"127.0.0.1:{source.port}", "coordinator", "█"):
        assert part in text
    assert "✓ copied 4,500 keys" in "\n".join(shown.lines)
    codes = re.findall(rb"\x1b\[([\d;]*)m", shown.raw)
    assert {int(part) for code in codes for part in code.split(b";") if part} <= {0, 1, 2}
