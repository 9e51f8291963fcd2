"""What the bars and the full-screen view are both put together from: pure functions to lines.

A line is a rich Text that is not wider than it was told; widths are in cells of a terminal, so that
a name in wide characters does not shift what stands behind it. Snapshots are `legible` already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rumpx import units
from rumpx.display.lines import ENDED, done_keys, outcomes
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
    "draining": "yellow",
    "done": "green",
    "failed": "red",
    "stopped": "yellow",
}
_RIGHT: Final = len("copying  99:59:59")


def console(stream: TextIO) -> Console:
    """A terminal, or a file in its place, on which rich takes no word of a text for its own."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)


# Of a whole run


def title(snapshot: Snapshot, width: int) -> list[Text]:
    """Where from and where to, and on the right the state and the time since the start."""
    state = Text.assemble(_state(snapshot), f"  {units.clock(snapshot.elapsed)}")
    source, target = snapshot.source, snapshot.target
    if cell_len(source) + len(_ARROW) + cell_len(target) + _GAP + _RIGHT <= width:
        route = _route(source, target, width)
        return [Text.assemble(route, " " * (width - route.cell_len - state.cell_len), state)]
    return [_route(source, target, width), state]


def _state(snapshot: Snapshot) -> tuple[str, str]:
    """The state's word and its style; a run that is done is green only if no key failed."""
    style = f"bold {_STATE_STYLES[snapshot.state]}"
    if snapshot.state == "done":
        return ("done", "bold yellow") if snapshot.counts.failed else ("✓ done", style)
    return ("✗ failed" if snapshot.state == "failed" else snapshot.state, style)


def _route(source: str, target: str, width: int) -> Text:
    """Source and target; where they do not fit, the longer one is shortened first."""
    room = width - len(_ARROW)
    source = shortened(source, max(room // 2, room - cell_len(target)))
    return Text.assemble(source, (_ARROW, QUIET), shortened(target, room - cell_len(source)))


def whole(snapshot: Snapshot, width: int) -> Text:
    """A bar for all of the run, and its percentage."""
    percent = f"  {units.percent(snapshot.fraction):>7}"
    style = _STATE_STYLES[snapshot.state]
    return Text.assemble(bar(snapshot.fraction, width - len(percent), style), (percent, "bold"))


def numbers(snapshot: Snapshot, width: int, more: Iterable[Text] = ()) -> list[Text]:
    """Keys, rates, time left and outcomes: on one line if they fit, else outcomes below.

    Args:
        more: what stands behind the outcomes.
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
        for word, count in outcomes(snapshot.counts)
    ]
    counts += more
    together = flow([*first, *counts], width)
    return together if len(together) == 1 else [*flow(first, width), *flow(counts, width)]


# Of rows


def row_bars(rows: Sequence[Row], width: int) -> list[Text]:
    """A line for each of some rows: its label, keys and failures, a bar and a percentage; the label
    and the bar alone where it is narrow."""
    labels = [shortened(row.label, width // 3) for row in rows]
    columns = [column(labels)]
    if width >= WIDE:
        keys = [units.short_keys(row.counts.copied + row.counts.compared) for row in rows]
        columns += [column(keys, right=True), column([_fault(row) for row in rows])]
    return [_row(row, cells, width) for row, *cells in zip(rows, *columns, strict=True)]


def _fault(row: Row) -> str:
    return f"{units.short_keys(row.counts.failed)} failed" if row.counts.failed else ""


def _row(row: Row, cells: Sequence[str], width: int) -> Text:
    """The cells (label, keys, failed; or the label alone), a bar and a percentage."""
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
    """The `limit` rows that matter most, in the order of `rows`: those under way first, then those
    not begun, then those done; by whole percents, so that they do not dance."""

    def rank(position: int) -> tuple[int, int, int]:
        row = rows[position]
        return (stage(row), int(row.fraction * 100), position)

    return [rows[position] for position in sorted(sorted(range(len(rows)), key=rank)[:limit])]


def stage(row: Row) -> int:
    """0 under way, 1 not begun, 2 done."""
    if row.done:
        return 2
    return 0 if row.fraction > 0 or row.counts.settled else 1


# Pieces of lines


def bar(fraction: float, width: int, style: str) -> Text:
    """A heavy line for what is done and a light one for the rest, in half-column steps."""
    halves = int(min(max(fraction, 0.0), 1.0) * 2 * width)
    heavy, half = divmod(halves, 2)
    done = "━" * heavy + "╾" * half
    return Text.assemble((done, style), ("─" * (width - len(done)), QUIET))


def flow(items: Iterable[Text], width: int) -> list[Text]:
    """The items side by side, on as many lines as they need."""
    flowed: list[Text] = []
    for item in items:
        if flowed and flowed[-1].cell_len + _GAP + item.cell_len <= width:
            flowed[-1].append(" " * _GAP).append(item)
        else:
            flowed.append(item.copy())
    for text in flowed:
        text.rstrip()
    return flowed


def named(word: str, value: str, style: str = "") -> Text:
    """A value behind its name."""
    return Text.assemble((f"{word} ", style or QUIET), (value, style))


def _held(text: Text, widest: str) -> Text:
    """The text as wide as it may become, so that what stands behind it does not move."""
    text.pad_right(len(widest) - text.cell_len)
    return text


def cost(cpu: float, memory: int) -> str:
    """What a process takes: percent of one core, and memory."""
    return f"{cpu:.0f} % {units.size(memory)}"


def column(cells: Sequence[str], *, right: bool = False) -> list[str]:
    """The cells of a table's column, all as wide as the widest, which may be none."""
    width = max(map(cell_len, cells), default=0)
    blanks = [" " * (width - cell_len(cell)) for cell in cells]
    return [b + cell if right else cell + b for cell, b in zip(cells, blanks, strict=True)]


def shortened(text: str, width: int) -> str:
    """The text with its middle left out where it does not fit."""
    if cell_len(text) <= width:
        return text
    tail = max(width - 1, 0) // 2
    return _begin(text, width - 1 - tail) + "…" + _begin(text[::-1], tail)[::-1]


def _begin(text: str, width: int) -> str:
    """As much of the text as fits."""
    end = 0
    while end < len(text) and (width := width - cell_len(text[end])) >= 0:
        end += 1
    return text[:end]


def fit(text: Text, width: int) -> Text:
    """The text on one line, its end left out where it does not fit."""
    text.no_wrap = True
    text.truncate(width, overflow="ellipsis")
    return text
