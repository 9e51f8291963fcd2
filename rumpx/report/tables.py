"""The report in a terminal: the page's content as text and tables, from 40 columns on.

Draws the same `headline` and `sections` as `html`; the charts become one line of blocks each for
throughput and latencies. A table that does not fit has its rows one below the other, each cell
after its name. Folded tables of the page are left out. If the terminal has no ✓, plain words
replace the marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as Drawn
from rich.text import Text

from rumpx import units
from rumpx.display.sparkline import LEAST_LATENCY, sparkline
from rumpx.model.history import Record
from rumpx.model.timeline import Point
from rumpx.report import headline as facts
from rumpx.report.headline import Tone, Verdict, tone_of
from rumpx.report.sections import Section, Table, sections
from rumpx.report.text import Entry
from rumpx.text import legible

MOST_WIDTH: Final = 120
_MARKS: Final[dict[Tone, str]] = {"good": "✓", "warn": "⚠", "bad": "✗", "busy": "▶"}
_STYLES: Final[dict[Tone, str]] = {"good": "green", "warn": "yellow", "bad": "red", "busy": "cyan"}
# Greatest width needed by a column of long texts, which fold.
_FOLDED_WIDTH: Final = 24
_GAP: Final = 2
# Between the columns of a table: the blanks of both, and the divider.
_COLUMN_GAP: Final = 3


def render_record(record: Record) -> RenderableType:
    """Return the report, for a console of any width."""
    return _Report(record)


class _Report:
    """A report, printable by rich."""

    def __init__(self, record: Record) -> None:
        self._record = legible(record)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        record, width = self._record, min(options.max_width, MOST_WIDTH)
        yield from _head(record, facts.reckoned(record), options.ascii_only)
        for section in sections(record):
            yield Text()
            yield Rule(Text(section.title, "bold"), align="left", characters="-", style="dim")
            if section.name == "pace" and not options.ascii_only:
                yield from _course(record.points, width)
            yield from _section(section, width)
        yield Text()
        yield Text(facts.EXPLAINED, "dim")


def _head(record: Record, verdict: Verdict, ascii_only: bool) -> Iterator[RenderableType]:
    style = f"bold {_STYLES[verdict.tone]}"
    mark = "" if ascii_only else f"{_MARKS[verdict.tone]} "
    yield Text(f"{mark}{verdict.word}", style)
    yield Text(verdict.sentence, style)
    yield from map(Text, verdict.notes)
    if verdict.command:
        yield Text.assemble(f"{verdict.purpose}: ", (verdict.command, "bold"))
    yield Text()
    ends = [
        Entry(word, f"{uri} ({version})" if version else uri)
        for word, uri, version in facts.ends(record)
    ]
    yield _grid([*ends, *facts.head(record)])
    yield Text()
    yield _grid(
        [
            Entry(label, f"{value}  {note}".strip(), _STYLES.get(tone, ""))
            for label, value, note, tone in facts.figures(record)
        ]
    )


def _section(section: Section, width: int) -> Iterator[RenderableType]:
    yield from map(Text, section.sentences)
    if section.entries:
        yield _grid(section.entries)
    for table in section.tables:
        if table.title:
            yield Text(f"\n{table.title}", "bold")
        yield from _table(table, width)
    for table in section.folded:
        yield Text(f"{table.title}: see the page (--html FILE)", "dim")


def _grid(entries: Iterable[Entry]) -> Drawn:
    grid = Drawn.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for entry in entries:
        grid.add_row(Text(entry.label), Text(entry.text, _STYLES.get(tone_of(entry), entry.style)))
    return grid


def _table(table: Table, width: int) -> Iterator[RenderableType]:
    if sum(_needs(table)) + _COLUMN_GAP * (len(table.columns) - 1) > width:
        yield from _stacked(table)
        return
    drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for column in table.columns:
        right = column.kind in ("number", "share")
        folds = column.kind in ("text", "name")
        drawn.add_column(
            column.title, justify="right" if right else "left", no_wrap=not folds, overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    yield drawn


def _needs(table: Table) -> Iterator[int]:
    """Yield the least width of each column."""
    for number, column in enumerate(table.columns):
        widest = max(map(cell_len, (column.title, *(row[number] for row in table.rows))))
        yield min(widest, _FOLDED_WIDTH) if column.kind in ("text", "name") else widest


def _stacked(table: Table) -> Iterator[RenderableType]:
    """Draw each row as a few lines: its name, then its other cells."""
    first = table.row_head
    for row in table.rows:
        yield Text.assemble((f"{table.columns[first].title} ", "dim"), row[first])
        cells = [
            Text.assemble((f"{column.title} ", "dim"), cell)
            for number, (column, cell) in enumerate(zip(table.columns, row, strict=True))
            if number != first and cell
        ]
        yield Padding(Text("   ").join(cells), (0, 0, 0, 2))


# Instead of charts


def _course(points: Sequence[Point], width: int) -> Iterator[Text]:
    """Draw a line for throughput and for each side's latency, over the whole running time."""
    room = width - len("keys/s ") - len("  max 12345.6 ms")
    if not points or room < 1:
        return
    rows: list[tuple[str, list[float | None], Callable[[float], str], float]] = [
        ("keys/s", [point.keys_per_second for point in points], units.short_keys, 0.0),
        ("source", [point.source_latency for point in points], units.milliseconds, LEAST_LATENCY),
        ("target", [point.target_latency for point in points], units.milliseconds, LEAST_LATENCY),
    ]
    for name, values, label, top in rows:
        known = [value for value in values if value is not None]
        if known:
            columns = _columns(points, values, room)
            (line,) = sparkline(columns, len(columns), top=top)
            yield Text.assemble((f"{name} ", "dim"), (line, "cyan"), f"  max {label(max(known))}")


def _columns(
    points: Sequence[Point], values: Sequence[float | None], width: int
) -> list[float | None]:
    """Return the highest value in each of so many equal parts of the running time."""
    step = max(points[-1].elapsed, 1e-6) / width
    columns: list[float | None] = [None] * width
    for point, value in zip(points, values, strict=True):
        first = int((point.elapsed - point.seconds) / step + 0.5)
        for column in range(first, min(width, max(first + 1, int(point.elapsed / step + 0.5)))):
            before = columns[column]
            columns[column] = value if before is None else max(before, value or 0.0)
    return columns
