"""Bars on a terminal: the whole copy, its slowest parts, and the load of this machine.

`render` turns a Snapshot into lines for a given width and height, and is pure; `Bars` keeps these
lines at the bottom of the terminal and prints messages above them. Nothing wraps: a narrow
terminal gets the numbers on more lines, shortened addresses and fewer columns. Of more than eight
rows the slowest eight are drawn: those in progress first, then those not started, then those done;
ranked by whole percents and drawn in their own order, so that they do not jump.

A terminal that is narrowed during the copy may keep remnants of older, wider lines above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rumpx import units
from rumpx.display.draw import (
    QUIET,
    console,
    cost,
    fit,
    flow,
    named,
    numbers,
    row_bars,
    shortened,
    slowest,
    stage,
    title,
    whole,
)
from rumpx.display.lines import ENDED, line, on_machines, stamped
from rumpx.model.snapshot import Row, Snapshot
from rumpx.text import legible, one_line

MAX_WIDTH: Final = 120
MAX_ROWS: Final = 8
MAX_MACHINES: Final = 4


class Bars:
    """Draws snapshots in place on a terminal; elsewhere only messages and the last state.

    Draws in the caller's thread, and so may block and raise as its stream does.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = console(stream)
        self._live = self._new_live()

    def _new_live(self) -> Live:
        return Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            vertical_overflow="crop",
        )

    def start(self) -> None:
        """Start drawing at the bottom of the terminal."""
        self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the snapshot in place of the previous one."""
        size = self._console.size
        self._live.update(render(snapshot, size.width, size.height), refresh=True)

    def now(self, snapshot: Snapshot) -> None:
        """Print the snapshot as a line above the bars."""
        self._print(line(snapshot))

    def message(self, text: str) -> None:
        """Print a message above the bars."""
        self._print(one_line(text))

    def pause(self) -> None:
        """Stop drawing, with the cursor below the bars."""
        self._live.stop()

    def go_on(self) -> None:
        """Draw again, below."""
        self._live = self._new_live()  # the old one would overwrite the question
        self._live.start()

    def stop(self) -> None:
        """Leave the last state on the terminal and release it."""
        self._live.stop()

    def _print(self, text: str) -> None:
        self._console.print(stamped(text))


def render(snapshot: Snapshot, width: int, height: int | None = None) -> RenderableType:
    """Draw the run in at most `width` columns and, if possible, `height` lines."""
    snapshot = legible(snapshot)
    width = min(width, MAX_WIDTH)
    above = [*title(snapshot, width), *whole(snapshot, width), *numbers(snapshot, width)]
    below = [*_machine(snapshot, width), *_note(snapshot)]
    room = MAX_ROWS
    if height is not None:
        room = min(MAX_ROWS, height - len(above) - len(below) - 3)  # two gaps, the folded rest
    drawn = list(above)
    rows = () if snapshot.follow and snapshot.follow.copied else snapshot.rows
    for block in (_rows(rows, room, width), below):
        if block:
            drawn += [Text(), *block]
    return Group(*(fit(text, width) for text in drawn))


def _machine(snapshot: Snapshot, width: int) -> list[Text]:
    """List processes, their load, by machine if they run on others, and batches in flight; nothing
    once the run has ended."""
    if snapshot.state in ENDED:
        return []
    alive, machines = len(snapshot.workers), snapshot.machines
    more = len(machines) - MAX_MACHINES
    cpu = sum(worker.cpu for worker in snapshot.workers)
    memory = sum(worker.memory for worker in snapshot.workers)
    items = [
        named(
            "worker" if alive == 1 else "workers",
            f"{on_machines(alive, len(machines))}  {cost(cpu, memory)}",
        ),
        *(
            named(f"{shortened(one.host, width // 3)} {one.workers}", cost(one.cpu, one.memory))
            for one in machines[:MAX_MACHINES]
        ),
        *([Text(f"… {more} more machines", QUIET)] if more > 0 else []),
        named("coordinator", cost(snapshot.coordinator_cpu, snapshot.coordinator_memory)),
        named("batches in flight", units.keys(snapshot.batches_in_flight)),
    ]
    if snapshot.job:
        items.append(named("job", snapshot.job))
    latency = snapshot.held.source_latency
    if latency is not None:
        items.append(named("source latency", units.milliseconds(latency)))
    if snapshot.worker_restarts:
        items.append(named("restarted", units.keys(snapshot.worker_restarts), "yellow"))
    return flow(items, width)


def _note(snapshot: Snapshot) -> list[Text]:
    """Return the note of the run and the reason for its throttling."""
    said = [snapshot.note] if snapshot.state in ENDED else [snapshot.note, snapshot.held.reason]
    return [Text(text, "yellow") for text in said if text]


def _rows(rows: Sequence[Row], room: int, width: int) -> list[Text]:
    """Draw a bar a row, folded to `room` of them; nothing for a single row, the total."""
    if len(rows) < 2 or room < 1:
        return []
    shown = slowest(rows, room)
    drawn = row_bars(shown, width)
    if len(shown) < len(rows):
        drawn.append(Text(_folded(rows, shown), QUIET))
    return drawn


def _folded(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    done, waiting = (
        sum(stage(row) == kind for row in rows) - sum(stage(row) == kind for row in shown)
        for kind in (2, 1)
    )
    said = [f"{count} {word}" for count, word in ((done, "done"), (waiting, "waiting")) if count]
    return f"… and {len(rows) - len(shown)} more" + (f" ({', '.join(said)})" if said else "")
