"""The panels of the full-screen view: one aspect of a run each, in as many rows as are available.

A panel states its least and its most useful number of rows, and can be drawn in any number between.
Its first row has its name and, on the right, its most important value, so that one row is already
useful. (The nodes' and the workers' panels are in `processes`.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from rumpx import units
from rumpx.display.draw import (
    QUIET,
    bar,
    column,
    folded,
    named,
    row_bars,
    shortened,
    slowest,
    stage,
)
from rumpx.display.sparkline import (
    LEAST_LATENCY,
    column_seconds,
    key_rates,
    latencies,
    sparkline,
)
from rumpx.errors import SIDES, Side, printable
from rumpx.model.snapshot import Snapshot
from rumpx.model.timeline import Point

MOST_MESSAGE_ROWS: Final = 8

_CHART_ROWS: Final = 15
_LATENCY_ROWS: Final = 5
_STAMP: Final = len("12:31:05 ")
_PACE_WIDTH: Final = 20
_LEAST_PACE_WIDTH: Final = 5


@dataclass(frozen=True, slots=True)
class Panel:
    """One aspect of a run.

    Attributes:
        least, most: number of rows that it needs and that it can use, its heading included.
        draw: returns its lines, at most the given number.
    """

    least: int
    most: int
    draw: Callable[[int], list[Text]]


def heading(name: str, said: Sequence[Text], width: int) -> Text:
    """Draw a panel's first row: its name, a rule, and on the right as many of the texts as fit."""
    line = Text.assemble((name, "bold"), " ")
    right = Text()
    for text in said:
        longer = Text.assemble(right, ("  ", QUIET) if right else "", text)
        if line.cell_len + 3 + longer.cell_len > width:
            break
        right = longer
    rule = width - line.cell_len - right.cell_len - bool(right)
    line.append("─" * rule, QUIET)
    return line.append(" ").append(right) if right else line


def throughput(snapshot: Snapshot, points: Sequence[Point], width: int) -> Panel:
    """Draw keys per second over the last minutes."""
    rates = key_rates(points, width)
    known = [rate for rate in rates if rate is not None]
    seconds = sum(rate is not None for rate in rates) * column_seconds(points, width)
    said = [Text(f"now {units.key_rate(snapshot.keys_per_second)}", "bold")]
    if known:
        said += [
            named("max", units.keys(max(known))),
            named("last", units.clock(seconds)),
        ]

    def draw(rows: int) -> list[Text]:
        chart = sparkline(rates, width, rows - 1)
        return [heading("throughput", said, width), *(Text(line, "cyan") for line in chart)]

    return Panel(2, 1 + _CHART_ROWS, draw)


def pace(snapshot: Snapshot, points: Sequence[Point], width: int) -> Panel:
    """Draw the servers' latencies over the last minutes, and the reason for throttling."""
    sides = [side for side in SIDES if side == "source" or _felt(snapshot, points, side)]
    room = width - len("source ") - len("  12345.6 ms")
    values = {side: latencies(points, room, side) for side in sides}
    said = []
    for side in sides:
        known = [value for value in values[side] if value is not None]
        if known:
            said.append(named(f"max {side}", units.milliseconds(max(known))))

    def draw(rows: int) -> list[Text]:
        lines = [heading("latency", said, width)]
        for number, side in enumerate(sides):
            height = (rows - 2 + number) // len(sides)
            chart = sparkline(values[side], room, height, LEAST_LATENCY)
            lines += _beside(side, chart, _now(snapshot, side))
        return [*lines, _pace(snapshot, width)]

    return Panel(2 + len(sides), 2 + len(sides) * _LATENCY_ROWS, draw)


def _felt(snapshot: Snapshot, points: Sequence[Point], side: Side) -> bool:
    """Return True if a latency of the side is known."""
    return _now(snapshot, side) is not None or latencies(points, 1, side) != [None]


def _now(snapshot: Snapshot, side: Side) -> float | None:
    held = snapshot.held
    return held.source_latency if side == "source" else held.target_latency


def _beside(side: Side, chart: Sequence[str], now: float | None) -> list[Text]:
    """Draw a side's chart between its name and its current latency."""
    value = units.milliseconds(now) if now is not None else "unknown"
    lines = [Text.assemble(" " * len("source "), (line, "magenta")) for line in chart]
    lines[-1] = Text.assemble(
        (f"{side} ", QUIET), (chart[-1], "magenta"), (f"{value:>12}", "bold" * (now is not None))
    )
    return lines


def _pace(snapshot: Snapshot, width: int) -> Text:
    """Draw the allowed concurrency and the reason for throttling; without a bar if narrow."""
    held = snapshot.held
    reason = (held.reason, "yellow") if held.reason else ("not throttled", "")
    name = ("pace   ", QUIET)
    if held.off or (held.reason and held.share >= 1):
        return Text.assemble(name, reason)
    share = units.percent(held.share)
    words = Text.assemble(f"{share} of full  ", reason)
    room = width - len(name[0]) - words.cell_len
    if room < 0:
        words = Text.assemble(f"{share}  ", reason)
    if room < _LEAST_PACE_WIDTH + 2:
        return Text.assemble(name, words)
    gauge = bar(held.share, min(_PACE_WIDTH, room - 2), "yellow" if held.share < 1 else "")
    return Text.assemble(name, gauge, "  ", words)


def gaps(snapshot: Snapshot, width: int) -> Panel | None:
    """Draw the last moments at which a follow may have lost events, the latest first, and what its
    last pass has found."""
    follow = snapshot.follow
    if not follow or not follow.copied:
        return None
    facts, now = follow.facts, time.time()
    said = [named("passes", units.keys(facts.passes))]
    if facts.last_pass is not None:
        ended, found = units.local_time(facts.last_pass, now), units.keys(facts.last_pass_found)
        said.append(named("last", f"{ended} found {found}"))
    lines = [
        Text(shortened(f"{units.local_time(gap.at, now)} {gap.why}", width))
        for gap in reversed(facts.last_gaps)
    ] or [Text("none so far", QUIET)]

    def draw(rows: int) -> list[Text]:
        return [heading("gaps", said, width), *lines[: rows - 1]]

    return Panel(2, 1 + len(lines), draw)


def partitions(snapshot: Snapshot, width: int) -> Panel | None:
    """Draw the most relevant partitions as bars; none for a single one, which equals the total, and
    none once a follow has copied them."""
    rows_ = snapshot.partitions
    if len(rows_) < 2 or (snapshot.follow and snapshot.follow.copied):
        return None
    stages = [stage(row) for row in rows_]
    said = [
        Text(f"{units.keys(stages.count(number))} {word}", QUIET)
        for number, word in ((2, "done"), (0, "in progress"), (1, "waiting"))
        if number in stages
    ]

    def draw(rows: int) -> list[Text]:
        shown = slowest(rows_, rows - 1)
        name = "partitions" if len(shown) == len(rows_) else "slowest partitions"
        return [heading(name, said, width), *row_bars(shown, width)]

    return Panel(3, 1 + len(rows_), draw)


def largest(snapshot: Snapshot, width: int) -> Panel | None:
    """Draw the keys with the largest payloads."""
    found = snapshot.content.largest
    if not found:
        return None
    several = any(key.db for key in found)

    def draw(rows: int) -> list[Text]:
        shown = found[: rows - 1]
        sizes = column([units.size(key.payload_bytes) for key in shown], right=True)
        types = column([key.type for key in shown])
        lines = []
        for key, size, type_ in zip(shown, sizes, types, strict=True):
            line = Text.assemble(size, "  ", (type_, QUIET), "  ")
            if several:
                line.append(f"db{key.db:<2} ", QUIET)
            room = width - line.cell_len
            lines.append(line.append(shortened(printable(key.key, limit=width), max(0, room))))
        return [heading("largest keys", [], width), *lines]

    return Panel(2 + (len(found) > 1), 1 + len(found), draw)


def messages(texts: Sequence[str], width: int) -> Panel | None:
    """Draw the last messages that fit, the newest at the bottom."""
    drawn = [_dimmed(text, width) for text in texts[-MOST_MESSAGE_ROWS:]]
    if not drawn:
        return None

    def draw(rows: int) -> list[Text]:
        lines: list[Text] = []
        for message in reversed(drawn):
            if lines and len(lines) + len(message) >= rows:
                break
            lines = [*message, *lines]
        if len(lines) >= rows:  # a single one, cut at its end
            lines = [*lines[: rows - 2], lines[rows - 2].append(" …")]
        return [heading("messages", [], width), *lines]

    return Panel(2, 1 + min(MOST_MESSAGE_ROWS, sum(map(len, drawn))), draw)


def _dimmed(text: str, width: int) -> list[Text]:
    """Wrap a message, indented after its time."""
    lines = folded(text, width, _STAMP)
    return [Text.assemble((line[:_STAMP], QUIET), line[_STAMP:]) for line in lines]
