"""Bars on a terminal: the whole copy, its slowest parts, and what the machine is doing.

`render` turns a Snapshot into lines for a given width and height, and is pure; `Bars` keeps these
lines at the bottom of the terminal and prints messages above them. Nothing wraps: a narrow
terminal gets the numbers on more lines, shortened addresses and fewer columns. Of more than eight
rows the slowest eight are drawn: those under way first, then those not begun, then those done;
by whole percents and in their own order, so that they do not dance.

A terminal that is narrowed while the copy runs may keep remnants of older, wider lines above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rumpx.report import units
from rumpx.report.lines import ENDED, done_keys, line, one_line, outcomes, stamped
from rumpx.report.snapshot import Row, Snapshot, State

MAX_WIDTH: Final = 120
MAX_ROWS: Final = 8
WIDE: Final = 60

_GAP: Final = 3
_ARROW: Final = " → "
_QUIET: Final = "dim"
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


class Bars:
    """Draws snapshots in place on a terminal; elsewhere only messages and the last state.

    It draws where it is called, and so may block and raise as its stream does.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = self._new_live()

    def _new_live(self) -> Live:
        return Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            vertical_overflow="crop",
        )

    def start(self) -> None:
        """Take the bottom of the terminal."""
        self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the snapshot in place of the one before."""
        size = self._console.size
        self._live.update(render(snapshot, size.width, size.height), refresh=True)

    def now(self, snapshot: Snapshot) -> None:
        """Print the snapshot as a line above the bars."""
        self._print(line(snapshot))

    def message(self, text: str) -> None:
        """Print a message above the bars."""
        self._print(one_line(text))

    def pause(self) -> None:
        """Leave the bars where they stand; the cursor is below them."""
        self._live.stop()

    def go_on(self) -> None:
        """Draw anew, below."""
        self._live = self._new_live()  # the old one would draw over what was asked
        self._live.start()

    def stop(self) -> None:
        """Leave the last state where it stands and give the terminal back."""
        self._live.stop()

    def _print(self, text: str) -> None:
        self._console.print(stamped(text))


def render(snapshot: Snapshot, width: int, height: int | None = None) -> RenderableType:
    """The run drawn in at most `width` columns and, where it can be, `height` lines."""
    width = min(width, MAX_WIDTH)
    above = [*_title(snapshot, width), _whole(snapshot, width), *_numbers(snapshot, width)]
    below = [*_machine(snapshot, width), *_note(snapshot)]
    room = MAX_ROWS
    if height is not None:
        room = min(MAX_ROWS, height - len(above) - len(below) - 3)  # two gaps, the folded rest
    drawn = list(above)
    for block in (_rows(snapshot.rows, room, width), below):
        if block:
            drawn += [Text(), *block]
    for text in drawn:
        text.no_wrap = True
        text.truncate(width, overflow="ellipsis")
    return Group(*drawn)


def _title(snapshot: Snapshot, width: int) -> list[Text]:
    """Where from and where to, and on the right the state and the time since the start."""
    state = Text.assemble(_state(snapshot), f"  {units.clock(snapshot.elapsed)}")
    source, target = one_line(snapshot.source), one_line(snapshot.target)
    if len(source) + len(_ARROW) + len(target) + _GAP + _RIGHT <= width:
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
    source = shortened(source, max(room // 2, room - len(target)))
    return Text.assemble(source, (_ARROW, _QUIET), shortened(target, room - len(source)))


def _whole(snapshot: Snapshot, width: int) -> Text:
    percent = f"  {units.percent(snapshot.fraction):>7}"
    style = _STATE_STYLES[snapshot.state]
    return Text.assemble(_bar(snapshot.fraction, width - len(percent), style), (percent, "bold"))


def _numbers(snapshot: Snapshot, width: int) -> list[Text]:
    """Keys, rates, time left and outcomes: on one line if they fit, else outcomes below."""
    ended = snapshot.state in ENDED
    expected = units.keys(snapshot.keys_expected)
    keys = _named(snapshot.verb, done_keys(snapshot))
    numbers = [keys if ended else _held(keys, f"{snapshot.verb} {expected} of ~{expected} keys")]
    if not ended:
        numbers += [
            _held(Text(units.key_rate(snapshot.keys_per_second)), "999,999 keys/s"),
            _held(Text(units.byte_rate(snapshot.bytes_per_second)), "99.9 MB/s"),
        ]
    if not ended and snapshot.eta is not None:
        numbers.append(_named("ETA", units.clock(snapshot.eta)))
    counts = [
        _named(word, units.keys(count), "bold red" if word == "failed" and count else "")
        for word, count in outcomes(snapshot.counts)
    ]
    together = _flow([*numbers, *counts], width)
    return together if len(together) == 1 else [*_flow(numbers, width), *_flow(counts, width)]


def _machine(snapshot: Snapshot, width: int) -> list[Text]:
    """Processes, their cost, and what they hold; nothing once the run has ended."""
    if snapshot.state in ENDED:
        return []
    alive = len(snapshot.workers)
    cpu = sum(worker.cpu for worker in snapshot.workers)
    memory = sum(worker.memory for worker in snapshot.workers)
    items = [
        _named("worker" if alive == 1 else "workers", f"{alive}  {_cost(cpu, memory)}"),
        _named("coordinator", _cost(snapshot.coordinator_cpu, snapshot.coordinator_memory)),
        _named("batches in flight", units.keys(snapshot.batches_in_flight)),
    ]
    if snapshot.job:
        items.append(_named("job", snapshot.job))
    latency = snapshot.held.source_latency
    if latency is not None:
        items.append(_named("source latency", f"{latency * 1e3:.1f} ms"))
    if snapshot.worker_restarts:
        items.append(_named("restarted", units.keys(snapshot.worker_restarts), "yellow"))
    return _flow(items, width)


def _cost(cpu: float, memory: int) -> str:
    return f"{cpu:.0f} % {units.size(memory)}"


def _note(snapshot: Snapshot) -> list[Text]:
    """What the run waits for, and what holds it."""
    said = [snapshot.note] if snapshot.state in ENDED else [snapshot.note, snapshot.held.reason]
    return [Text(one_line(text), "yellow") for text in said if text]


def _rows(rows: Sequence[Row], room: int, width: int) -> list[Text]:
    """A bar a row, folded to `room` of them; nothing for a single row, which is the whole."""
    if len(rows) < 2 or room < 1:
        return []
    shown = slowest(rows, room)
    labels = [shortened(one_line(row.label), width // 3) for row in shown]
    copies = [units.short_keys(row.counts.copied + row.counts.compared) for row in shown]
    faults = [_fault(row) for row in shown]
    columns = [_column(labels, str.ljust)]
    if width >= WIDE:
        columns += [_column(copies, str.rjust), _column(faults, str.ljust)]
    drawn = [
        _row(row, [column[position] for column in columns], width)
        for position, row in enumerate(shown)
    ]
    if len(shown) < len(rows):
        drawn.append(Text(_folded(rows, shown), _QUIET))
    return drawn


def _fault(row: Row) -> str:
    return f"{units.short_keys(row.counts.failed)} failed" if row.counts.failed else ""


def _column(cells: Sequence[str], justify: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, cells))
    return [justify(cell, width) for cell in cells]


def _row(row: Row, cells: Sequence[str], width: int) -> Text:
    """The cells (label, copied, failed; or the label alone), a bar and a percentage."""
    name = "red" if row.counts.failed else _QUIET if row.done else ""
    text = Text()
    for cell, style in zip(cells, (name, _QUIET, "red"), strict=False):
        if cell:
            text.append(cell, style).append("  ")
    percent = f"  {units.percent(row.fraction):>7}"
    style = "green" if row.done else "cyan"
    text.append(_bar(row.fraction, width - text.cell_len - len(percent), style))
    return text.append(percent, _QUIET if row.done else "")


def slowest(rows: Sequence[Row], limit: int) -> list[Row]:
    """The `limit` rows that matter most, in the order of `rows`."""

    def rank(position: int) -> tuple[int, int, int]:
        row = rows[position]
        return (_stage(row), int(row.fraction * 100), position)

    return [rows[position] for position in sorted(sorted(range(len(rows)), key=rank)[:limit])]


def _stage(row: Row) -> int:
    """0 under way, 1 not begun, 2 done."""
    if row.done:
        return 2
    return 0 if row.fraction > 0 or row.counts.settled else 1


def _folded(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    done, waiting = (
        sum(_stage(row) == stage for row in rows) - sum(_stage(row) == stage for row in shown)
        for stage in (2, 1)
    )
    said = [f"{count} {word}" for count, word in ((done, "done"), (waiting, "waiting")) if count]
    return f"… and {len(rows) - len(shown)} more" + (f" ({', '.join(said)})" if said else "")


def _bar(fraction: float, width: int, style: str) -> Text:
    """A heavy line for what is done and a light one for the rest, in half-column steps."""
    halves = int(min(max(fraction, 0.0), 1.0) * 2 * width)
    heavy, half = divmod(halves, 2)
    done = "━" * heavy + "╾" * half
    return Text.assemble((done, style), ("─" * (width - len(done)), _QUIET))


def _flow(items: Iterable[Text], width: int) -> list[Text]:
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


def _named(word: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{word} ", style or _QUIET), (value, style))


def _held(text: Text, widest: str) -> Text:
    """The text as wide as it may become, so that what stands behind it does not move."""
    text.pad_right(len(widest) - text.cell_len)
    return text


def shortened(text: str, width: int) -> str:
    """The text with its middle left out where it does not fit."""
    if len(text) <= width:
        return text
    tail = max(width - 1, 0) // 2
    return text[: max(width - 1 - tail, 0)] + "…" + text[len(text) - tail :]
