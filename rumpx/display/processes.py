"""The panels of the full-screen view that show processes: the servers, and the run's own.

If there are more nodes than rows, those with the highest latency are shown, of both sides in turn;
of workers the first ones. Workers of other machines are summed up by machine. Each panel shows the
total number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from rumpx import units
from rumpx.display.draw import QUIET, column, named, shortened
from rumpx.display.lines import on_machines
from rumpx.display.panels import Panel, heading
from rumpx.errors import SIDES
from rumpx.model.snapshot import MachineStat, NodeStat, Snapshot, WorkerStat

_GAP: Final = 2


def nodes(snapshot: Snapshot, width: int) -> Panel | None:
    """Draw the servers, one by one."""
    stats = snapshot.nodes
    if not stats:
        return None

    def draw(rows: int) -> list[Text]:
        shown = _worst(stats, rows - 1)
        every = units.keys(len(stats))
        said = every if len(shown) == len(stats) else f"slowest {len(shown)} of {every}"
        return [heading("nodes", [Text(said, QUIET)], width), *_node_lines(shown, width)]

    return Panel(1 + min(2, len(stats)), 1 + len(stats), draw)


def _worst(stats: Sequence[NodeStat], limit: int) -> list[NodeStat]:
    """Return as many nodes as fit: of both sides in turn the one with the highest latency; in their
    original order."""
    by_side = [
        sorted(
            (n for n, stat in enumerate(stats) if stat.side == side),
            key=lambda n: -(stats[n].latency or 0.0),
        )
        for side in SIDES
    ]
    in_turn = chain.from_iterable(zip_longest(*by_side))
    return [stats[n] for n in sorted(islice((n for n in in_turn if n is not None), limit))]


def _node_lines(stats: Sequence[NodeStat], width: int) -> list[Text]:
    """Draw a table: side, address, latency, CPU, memory; the last columns are dropped first."""
    plain = [""] * len(stats)
    figures = [
        (column(cells, right=True), styles)
        for cells, styles in (
            (
                [units.milliseconds(s.latency) if s.latency is not None else "" for s in stats],
                plain,
            ),
            ([f"{s.cpu:.0f} % CPU" if s.cpu is not None else "" for s in stats], plain),
            ([_memory(s) for s in stats], [_fullness(s) for s in stats]),
        )
        if any(cells)
    ]
    sides = column([stat.side for stat in stats])
    while figures and width // 4 > width - _table_width(sides, figures):
        figures.pop()
    room = width - _table_width(sides, figures)
    lines = []
    for row, stat in enumerate(stats):
        address = shortened(_address(stat), room)
        blank = " " * (room - cell_len(address))
        line = Text.assemble((sides[row], QUIET), "  ", address, blank)
        for cells, styles in figures:
            line.append("  ").append(cells[row], styles[row])
        lines.append(line)
    return lines


def _table_width(sides: Sequence[str], figures: Sequence[tuple[list[str], list[str]]]) -> int:
    """Return the width of all columns but the address."""
    return sum(len(cells[0]) + _GAP for cells in (sides, *(cells for cells, _ in figures)))


def _address(stat: NodeStat) -> str:
    """Return a node's address without its side's URI: host and port, or a socket's path."""
    _, _, place = stat.label.rpartition("://")
    return place.partition("/")[0] or place


def _memory(stat: NodeStat) -> str:
    if stat.memory is None:
        return ""
    used = units.size(stat.memory)
    return f"{used} of {units.size(stat.max_memory)}" if stat.max_memory else used


def _fullness(stat: NodeStat) -> str:
    """Return the style of a node's memory."""
    part = (stat.memory or 0) / stat.max_memory if stat.max_memory else 0.0
    return "bold red" if part >= 0.95 else "yellow" if part >= 0.8 else ""


def workers(snapshot: Snapshot, width: int) -> Panel:
    """Draw the processes of the run, or their machines, several in a row if wide."""
    stats = snapshot.workers
    cpu, memory = sum(stat.cpu for stat in stats), sum(stat.memory for stat in stats)
    number = on_machines(len(stats), len(snapshot.machines))
    said = [Text(f"{number}: {cpu:.0f} % CPU, {units.size(memory)}", "bold")]
    if snapshot.worker_restarts:
        said.append(named("restarted", units.keys(snapshot.worker_restarts), "yellow"))
    said.append(named("batches in flight", units.keys(snapshot.batches_in_flight)))
    cells = _table(snapshot, width)
    across = max(1, (width + _GAP) // (cell_len(cells[0]) + _GAP))

    def draw(rows: int) -> list[Text]:
        lines = [
            Text("  ".join(cells[start : start + across]).rstrip())
            for start in range(0, len(cells), across)
        ]
        return [heading("workers", said, width), *lines[: rows - 1]]

    return Panel(1, 1 - (-len(cells) // across), draw)


def _table(snapshot: Snapshot, width: int) -> list[str]:
    """Return a table cell for each process, or for each machine of workers elsewhere, all of one
    width."""
    stats: Sequence[WorkerStat | MachineStat] = snapshot.machines or snapshot.workers
    own = (snapshot.coordinator_cpu, snapshot.coordinator_memory)
    costs = [own, *((stat.cpu, stat.memory) for stat in stats)]
    columns = [
        column(["coordinator", *(shortened(_name(stat), width // 3) for stat in stats)]),
        column([f"{cpu:.0f} % CPU" for cpu, _ in costs], right=True),
        column([units.size(memory) for _, memory in costs], right=True),
        column(["", *(_number(stat.batches, "batch", "es") for stat in stats)], right=True),
    ]
    return ["  ".join(cells) for cells in zip(*columns, strict=True)]


def _name(stat: WorkerStat | MachineStat) -> str:
    if isinstance(stat, WorkerStat):
        return f"{stat.pid}"
    return f"{stat.host} {_number(stat.workers, 'worker', 's')}"


def _number(number: int, word: str, ending: str) -> str:
    return f"{number} {word}" + ending * (number != 1)
