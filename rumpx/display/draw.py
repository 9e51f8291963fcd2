"""Drawing functions that the bars and the full-screen view share: pure functions to lines.

A line is a rich Text no wider than requested; widths are in terminal cells, so that a name in wide
characters does not shift the text after it. Snapshots are `legible` already.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rumpx import units
from rumpx.display.lines import ENDED, done_keys, outcomes
from rumpx.model.follow import FollowStat, follow_in_words
from rumpx.model.snapshot import Row, Snapshot, State

WIDE: Final = 60
QUIET: Final = "dim"

_GAP: Final = 3
_ARROW: Final = " → "
_STATE_STYLES: Final[dict[State, str]] = {
    "starting": "cyan",
    "copying": "cyan",
    "checking": "cyan",
    "comparing": "cyan",
    "following": "cyan",
    "draining": "yellow",
    "done": "green",
    "failed": "red",
    "stopped": "yellow",
}
_RIGHT: Final = len("following  99:59:59")


def console(stream: TextIO) -> Console:
    """Return a console for a terminal or a file, without rich's markup in texts."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)


# Of a whole run


def title(snapshot: Snapshot, width: int) -> list[Text]:
    """Draw source and target, and on the right the state and the time since the start."""
    state = Text.assemble(_state(snapshot), f"  {units.clock(snapshot.elapsed)}")
    source, target = snapshot.source, snapshot.target
    if cell_len(source) + len(_ARROW) + cell_len(target) + _GAP + _RIGHT <= width:
        route = _route(source, target, width)
        return [Text.assemble(route, " " * (width - route.cell_len - state.cell_len), state)]
    return [_route(source, target, width), state]


def _state(snapshot: Snapshot) -> tuple[str, str]:
    """Return the state's word and its style; a done run is green only if no key failed."""
    style = f"bold {_STATE_STYLES[snapshot.state]}"
    if snapshot.state == "done":
        return ("done", "bold yellow") if snapshot.counts.failed else ("✓ done", style)
    return ("✗ failed" if snapshot.state == "failed" else snapshot.state, style)


def _route(source: str, target: str, width: int) -> Text:
    """Draw source and target; if they do not fit, shorten the longer one first."""
    room = width - len(_ARROW)
    source = shortened(source, max(room // 2, room - cell_len(target)))
    return Text.assemble(source, (_ARROW, QUIET), shortened(target, room - cell_len(source)))


def whole(snapshot: Snapshot, width: int) -> list[Text]:
    """Draw a bar for the whole run, and its percentage; how a follow stands, and once its copy is
    done only that."""
    follow, lines = snapshot.follow, []
    if not (follow and follow.copied):
        lines.append(_gauge("", snapshot.fraction, width, _STATE_STYLES[snapshot.state]))
    if follow:
        lines += _follow(follow, width, ended=snapshot.state in ENDED)
    return lines


def _gauge(name: str, fraction: float, width: int, style: str) -> Text:
    """Draw a bar between its name and its percentage."""
    percent = f"  {units.percent(fraction):>7}"
    room = width - cell_len(name) - len(percent)
    return Text.assemble((name, QUIET), bar(fraction, room, style), (percent, "bold"))


def _follow(follow: FollowStat, width: int, *, ended: bool) -> list[Text]:
    """Draw the phase of a follow and its numbers, what it waits for, and a bar for a pass."""
    phase, *words = follow_in_words(follow, ended=ended, now=time.time())
    style = "green" if follow.in_step and not ended else "yellow"
    parts = [Text(part) for word in words for part in folded(word, width)]
    lines = flow([Text(phase, f"bold {style}"), *parts], width)
    if follow.waits_for:
        waits = folded(f"waits: {follow.waits_for}", width)
        lines += [Text(line, "bold red") for line in waits]
    if follow.pass_fraction is not None and not ended:
        lines.append(_gauge("pass  ", follow.pass_fraction, width, "cyan"))
    return lines


def numbers(snapshot: Snapshot, width: int, more: Iterable[Text] = ()) -> list[Text]:
    """Draw keys, rates, ETA and outcomes: on one line if they fit, else outcomes below.

    Args:
        more: further items after the outcomes.
    """
    ended = snapshot.state in ENDED
    expected = units.keys(snapshot.keys_expected)
    keys = named(snapshot.verb, done_keys(snapshot))
    first = [keys if ended else _held(keys, f"{snapshot.verb} {expected} of ~{expected} keys")]
    if not ended:
        first += [
            _held(Text(units.key_rate(snapshot.keys_per_second)), "999,999 keys/s"),
            _held(Text(units.byte_rate(snapshot.bytes_per_second)), "99.9 MB/s"),
        ]
    if not ended and snapshot.eta is not None:
        first.append(named("ETA", units.clock(snapshot.eta)))
    counts = [
        named(word, units.keys(count), "bold red" if word == "failed" and count else "")
        for word, count in outcomes(snapshot)
    ]
    counts += more
    together = flow([*first, *counts], width)
    return together if len(together) == 1 else [*flow(first, width), *flow(counts, width)]


# Of rows


def row_bars(rows: Sequence[Row], width: int) -> list[Text]:
    """Draw a line for each row: its label, keys and failures, a bar and a percentage; if narrow,
    only the label and the bar."""
    labels = [shortened(row.label, width // 3) for row in rows]
    columns = [column(labels)]
    if width >= WIDE:
        keys = [units.short_keys(row.counts.copied + row.counts.compared) for row in rows]
        columns += [column(keys, right=True), column([_fault(row) for row in rows])]
    return [_row(row, cells, width) for row, *cells in zip(rows, *columns, strict=True)]


def _fault(row: Row) -> str:
    return f"{units.short_keys(row.counts.failed)} failed" if row.counts.failed else ""


def _row(row: Row, cells: Sequence[str], width: int) -> Text:
    """Draw the cells (label, keys, failed; or the label alone), a bar and a percentage."""
    name = "red" if row.counts.failed else QUIET if row.done else ""
    text = Text()
    for cell, style in zip(cells, (name, QUIET, "red"), strict=False):
        if cell:
            text.append(cell, style).append("  ")
    percent = f"  {units.percent(row.fraction):>7}"
    style = "green" if row.done else "cyan"
    text.append(bar(row.fraction, width - text.cell_len - len(percent), style))
    return text.append(percent, QUIET if row.done else "")


def slowest(rows: Sequence[Row], limit: int) -> list[Row]:
    """Return the `limit` most relevant rows, in the order of `rows`: those in progress first, then
    those not started, then those done; ranked by whole percents, so that they do not jump."""

    def rank(position: int) -> tuple[int, int, int]:
        row = rows[position]
        return (stage(row), int(row.fraction * 100), position)

    return [rows[position] for position in sorted(sorted(range(len(rows)), key=rank)[:limit])]


def stage(row: Row) -> int:
    """Return 0 for in progress, 1 for not started, 2 for done."""
    if row.done:
        return 2
    return 0 if row.fraction > 0 or row.counts.settled else 1


# Pieces of lines


def bar(fraction: float, width: int, style: str) -> Text:
    """Draw a heavy line for the done part and a light one for the rest, in half-column steps."""
    halves = int(min(max(fraction, 0.0), 1.0) * 2 * width)
    heavy, half = divmod(halves, 2)
    done = "━" * heavy + "╾" * half
    return Text.assemble((done, style), ("─" * (width - len(done)), QUIET))


def flow(items: Iterable[Text], width: int) -> list[Text]:
    """Place the items side by side, on as many lines as they need."""
    flowed: list[Text] = []
    for item in items:
        if flowed and flowed[-1].cell_len + _GAP + item.cell_len <= width:
            flowed[-1].append(" " * _GAP).append(item)
        else:
            flowed.append(item.copy())
    for text in flowed:
        text.rstrip()
    return flowed


def folded(text: str, width: int, indent: int = 0) -> list[str]:
    """Wrap a text at its blanks, with all lines but the first indented; a longer word is shortened
    in the middle."""
    lines = [""]
    for word in text.split(" "):
        word = shortened(word, width - indent)
        if cell_len(lines[-1]) + 1 + cell_len(word) > width:
            lines.append(" " * (indent - 1))
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def named(word: str, value: str, style: str = "") -> Text:
    """Draw a value after its name."""
    return Text.assemble((f"{word} ", style or QUIET), (value, style))


def _held(text: Text, widest: str) -> Text:
    """Pad the text to its possible width, so that the text after it does not move."""
    text.pad_right(len(widest) - text.cell_len)
    return text


def cost(cpu: float, memory: int) -> str:
    """Return a process's load: percent of one core, and memory."""
    return f"{cpu:.0f} % {units.size(memory)}"


def column(cells: Sequence[str], *, right: bool = False) -> list[str]:
    """Pad the cells of a table's column to the width of the widest, which may be zero."""
    width = max(map(cell_len, cells), default=0)
    blanks = [" " * (width - cell_len(cell)) for cell in cells]
    return [b + cell if right else cell + b for cell, b in zip(cells, blanks, strict=True)]


def shortened(text: str, width: int) -> str:
    """Shorten the text in the middle if it does not fit."""
    if cell_len(text) <= width:
        return text
    tail = max(width - 1, 0) // 2
    return _begin(text, width - 1 - tail) + "…" + _begin(text[::-1], tail)[::-1]


def _begin(text: str, width: int) -> str:
    """Return the start of the text that fits."""
    end = 0
    while end < len(text) and (width := width - cell_len(text[end])) >= 0:
        end += 1
    return text[:end]


def fit(text: Text, width: int) -> Text:
    """Cut the text to one line."""
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text
