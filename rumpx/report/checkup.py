"""A check's Checkup for people: the results line by line, then the keyspace in numbers.

`render_checkup` draws for a terminal of any width from 40 columns on; long texts fold within their
column. If the terminal has no ✓, plain words replace the marks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rumpx import units
from rumpx.report.text import Entry
from rumpx.text import legible
from rumpx.units import count_of

if TYPE_CHECKING:
    from rumpx.model.checkup import Checkup, Ends, Estimate, Line, Planned, Sampled

_MARKS: Final = {"ok": "✓", "warn": "⚠", "fail": "✗", "info": "·"}
_WORDS: Final = {"ok": "ok", "warn": "!", "fail": "X", "info": "-"}
_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red", "info": "dim"}
_PARTS_SHOWN: Final = 64


class Report:
    """A check's report, printable by rich."""

    def __init__(self, checkup: Checkup) -> None:
        self._checkup = legible(checkup)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = _WORDS if options.ascii_only else _MARKS
        checkup = self._checkup
        yield Text(f"{marks[_verdict(checkup)]} {outcome(checkup)}", _STYLES[_verdict(checkup)])
        yield Padding(_lines(checkup, marks), (1, 0, 0, 2))
        if checkup.sample and checkup.sample.keys:
            yield Padding(_sample(checkup.sample), (1, 0, 0, 2))
        if entries := list(_outlook(checkup)):
            yield Padding(_grid(entries), (1, 0, 0, 2))
        if checkup.plan and checkup.dry_run:
            yield Padding(_parts(checkup.plan), (1, 0, 0, 2))


def outcome(checkup: Checkup) -> str:
    """Describe the whole check in one sentence."""
    failed = sum(line.status == "fail" for line in checkup.lines)
    warned = sum(line.status == "warn" for line in checkup.lines)
    if failed:
        return (
            f"A copy would end with exit code {checkup.exit_code}: "
            f"{count_of(failed, 'problem')} to fix"
        )
    if warned:
        return f"A copy can start, with {count_of(warned, 'warning')}"
    return "A copy can start"


def _verdict(checkup: Checkup) -> str:
    for status in ("fail", "warn"):
        if any(line.status == status for line in checkup.lines):
            return status
    return "ok"


def _lines(checkup: Checkup, marks: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    subject = ""
    for line in checkup.lines:
        shown = "" if line.subject == subject else line.subject
        subject = line.subject
        table.add_row(Text(marks[line.status], _STYLES[line.status]), shown, _told(line))
    return table


def _told(line: Line) -> Text:
    text = Text(line.text, "" if line.status != "fail" else "red")
    if line.advice:
        text.append(f"\n-> {line.advice}", "bold")
    return text


def _grid(entries: list[Entry]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text, style in entries:
        table.add_row(label, Text(text, style))
    return table


def _sample(sample: Sampled) -> RenderableType:
    blocks: list[RenderableType] = [_grid(list(_of_sample(sample)))]
    types = _table("type", "keys", "share", "memory", "encodings")
    for row in sample.types:
        types.add_row(
            row.type,
            units.keys(row.keys),
            units.percent(row.keys / sample.keys),
            _size(row.bytes),
            ", ".join(f"{name} {units.keys(number)}" for name, number in row.encodings.items()),
        )
    types.columns[-1].justify = "left"
    blocks.append(Padding(types, (1, 0, 0, 0)))
    prefixes = _table("prefix", "keys", "share", "memory")
    for prefix in sample.prefixes:
        share = units.percent(prefix.keys / sample.keys)
        prefixes.add_row(
            prefix.prefix, units.keys(prefix.keys), share, _size(prefix.bytes)
        )
    blocks.append(Padding(prefixes, (1, 0, 0, 0)))
    if sample.largest:
        largest = _table("largest seen", "type", "memory")
        for key in sample.largest:
            name = f"db{key.db} {key.key}" if key.db else key.key
            largest.add_row(name, key.type, units.size(key.bytes))
        blocks.append(Padding(largest, (1, 0, 0, 0)))
    return Group(*blocks)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _size(count: int | None) -> str:
    return "?" if count is None else units.size(count)


def _of_sample(sample: Sampled) -> Iterator[Entry]:
    how = {
        "all keys": "all of them",
        "spread": "spread over the cursor space",
        "beginning": "the first of a plain scan, so not spread over the keyspace",
    }[sample.spread]
    text = f"{count_of(sample.keys, 'key')}, {how}"
    if sample.seen > sample.keys:
        text += f" ({units.keys(sample.seen)} names read)"
    yield Entry("sample", text)
    if sample.mean_bytes is not None:
        yield Entry("a key", f"{units.size(sample.mean_bytes)} of memory on average")
    if sample.expiring and sample.median is not None:
        left = (sample.shortest or 0.0, sample.median, sample.longest or 0.0)
        share = units.percent(sample.expiring / sample.keys)
        shortest, median, longest = (units.duration(seconds) for seconds in left)
        yield Entry("expiring", f"{share}, in {shortest} to {longest}, half within {median}")


def _outlook(checkup: Checkup) -> Iterator[Entry]:
    for label, side in (("to source", checkup.source), ("to target", checkup.target)):
        if side and side.latency:
            yield Entry(label, _latency(side))
    if checkup.estimate:
        yield from _estimate(checkup.estimate)
    if checkup.plan:
        yield Entry("plan", _plan(checkup.plan))


def _latency(side: Ends) -> str:
    assert side.latency is not None
    return (
        f"{side.latency.median:.2f} ms median, {side.latency.p75:.2f} ms p75, "
        f"{side.latency.p99:.2f} ms p99, {side.latency.worst:.2f} ms worst of "
        f"{side.latency.pings} idle round trips"
    )


def _estimate(estimate: Estimate) -> Iterator[Entry]:
    between = f"{units.duration(estimate.quickest)} to {units.duration(estimate.slowest)}"
    yield Entry("time", f"{between}, estimated from {estimate.rests_on}")
    if estimate.bytes is not None:
        yield Entry("memory", f"about {units.size(estimate.bytes)} on the target")


def _plan(plan: Planned) -> str:
    conflict = "not chosen yet" if plan.on_conflict == "ask" else plan.on_conflict
    return (
        f"{count_of(len(plan.partitions), 'partition')}, {plan.scanners} scanned at a time with "
        f"COUNT {plan.scan_count}; {count_of(plan.workers, 'worker')}, each with "
        f"{plan.batches_in_flight} batches of {plan.batch_keys} keys and "
        f"{units.size(plan.bytes_in_flight)} in flight, in pipelines of {plan.pipeline_keys}; keys "
        f"that both sides have: {conflict}"
    )


def _parts(plan: Planned) -> Table:
    table = _table("node", "db", "partition")
    table.columns[-1].justify = "left"
    for part in plan.partitions[:_PARTS_SHOWN]:
        table.add_row(part.node, str(part.db), part.bounds)
    if len(plan.partitions) > _PARTS_SHOWN:
        table.add_row(f"and {len(plan.partitions) - _PARTS_SHOWN:,} more", "", "")
    return table
