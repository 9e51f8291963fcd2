"""The sections of a report as plain data: sentences, entries and tables.

The record is `legible`; HTML must still escape its texts.

Not promised: all failed keys (at most 50 are shown, some of each reason) and all partitions (64,
those not done first).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from rumpx import units
from rumpx.errors import printable
from rumpx.model.follow import follow_in_words
from rumpx.model.history import Record, RunRecord
from rumpx.model.results import KeyFailure, PartitionSummary, Summary, Verification
from rumpx.model.timeline import held_seconds
from rumpx.report import follow as following
from rumpx.report import verdict
from rumpx.report.headline import followed, sentence
from rumpx.report.latencies import latencies
from rumpx.report.scales import extent, size_groups
from rumpx.report.summary import told
from rumpx.report.text import Entry, moment
from rumpx.units import count_of

Kind = Literal["text", "brief", "number", "share", "name"]

EXAMPLES_SHOWN: Final = 50
PARTITIONS_SHOWN: Final = 64
KEY_LIMIT: Final = 200
_NODES_SHOWN: Final = 16
_PACE: Final = "Speed and throttling"
SIZES: Final = "Sizes"
NOTHING_HELD: Final = "nothing (as fast as the servers allow)"
NOT_RECORDED: Final = "not recorded"
# A smaller unrecorded share, of the first and the last moments of runs, is not shown.
_LEAST_UNRECORDED: Final = 0.01


class Column(NamedTuple):
    """A table's column. "brief" stays on one line, "name" is monospaced, "share" can be drawn as a
    bar, by the number behind it."""

    title: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts; `shares` has the number behind each row's cell of kind "share"."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    shares: tuple[float, ...] = ()

    @property
    def row_head(self) -> int:
        """Return the column that names the row."""
        kinds = [column.kind for column in self.columns]
        return next(n for n, kind in enumerate(kinds) if kind not in ("number", "share"))


@dataclass(frozen=True, slots=True)
class Section:
    """Sentences, labelled entries, tables; `folded` ones are rarely needed."""

    name: str
    title: str
    sentences: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()


def sections(record: Record) -> list[Section]:
    """Return the sections in reading order; the charts belong to that of the pace."""
    summary = record.summary
    pace = _pace(record)
    options = _options(record)
    if isinstance(summary, Verification):
        return [pace, _comparison(record), _failures(record), _notes(record), options]
    return [
        *_cutover(record),
        *_follow(record),
        pace,
        _content(summary),
        _failures(record),
        _comparison(record),
        _runs(record),
        _notes(record),
        _partitions(_placed(summary)),
        options,
    ]


def _follow(record: Record) -> list[Section]:
    """Return the section of a follow that has copied all keys; none for any other job."""
    follow = followed(record)
    if not follow:
        return []
    facts, columns = follow.facts, (Column("when", "brief"), Column("what"))
    shown = len(facts.last_gaps)
    title = "Gaps" if shown == facts.gaps else f"The last {shown} of {facts.gaps:,} gaps"
    gaps = Table(title, columns, following.gap_rows(facts))
    words = follow_in_words(follow, ended=record.state != "running")
    return [
        Section(
            "follow",
            "Following",
            (sentence(", ".join(words)),),
            tuple(following.entries(follow)),
            (gaps,) if gaps.rows else (),
        )
    ]


def _cutover(record: Record) -> list[Section]:
    """Return the section of the last cutover; none if there was none."""
    follow = followed(record)
    facts = follow.facts.cutover if follow else None
    if not facts:
        return []
    rows = tuple((moment(step.at), step.text) for step in facts.steps)
    steps = Table("Steps", (Column("when", "brief"), Column("what")), rows)
    told = facts.told or ("It has not ended.",)
    if facts.outcome == "switch now":
        told = ()  # the report's first sentences
    entries = tuple(following.cutover_entries(facts))
    return [Section("cutover", "Cutover", told, entries, (steps,) if rows else ())]


def _numbers(*titles: str) -> list[Column]:
    return [Column(title, "number") for title in titles]


def _pace(record: Record) -> Section:
    points = record.points
    recorded = sum(point.seconds for point in points)
    if not recorded:
        return Section("pace", _PACE, ("The run was too short for a chart.",))
    held = held_seconds(points)
    free = sum(max(0.0, point.seconds - sum(point.held.values())) for point in points)
    times = {**held, NOTHING_HELD: free}
    total = max(recorded, record.summary.seconds)
    if total - recorded > _LEAST_UNRECORDED * total:  # for example after a run was killed
        times[NOT_RECORDED] = total - recorded
    shares = {by: min(1.0, seconds / total) for by, seconds in times.items()}
    table = Table(
        "Throttling",
        (Column("throttled by"), Column("for", "number"), Column("of the running time", "share")),
        tuple(
            (by, units.duration(seconds), units.percent(shares[by]))
            for by, seconds in times.items()
        ),
        tuple(shares.values()),
    )
    both = ("Two causes may throttle at once, so shares can add up to more than 100 %.",)
    several = sum(times.values()) > total * 1.01
    return Section(
        "pace",
        _PACE,
        both if several else (),
        tables=tuple(each for each in (table, _felt(record)) if each.rows),
    )


def _felt(record: Record) -> Table:
    """Return the latencies that clients of both sides experienced."""
    columns = ("half the time up to", "99 % of the time up to", "highest", "limit", "above it for")
    rows = []
    for each in latencies(record):
        figures = (each.half, each.most, each.highest)
        limit = ("off", "")
        if each.limit is not None:
            share = units.percent(each.above / each.known if each.known else 0.0)
            limit = (f"{each.limit * 1e3:g} ms", f"{units.duration(each.above)} ({share})")
        rows.append((each.side, *map(_fine, figures), *limit))
    return Table(
        "Latency in figures", (Column("side", "brief"), *_numbers(*columns)), tuple(rows)
    )


def _fine(seconds: float) -> str:
    """Format `0.03 ms`, `6.1 ms`: hundredths only below 1 ms."""
    return f"{seconds * 1e3:.2f} ms" if seconds < 1e-3 else units.milliseconds(seconds)


def _content(summary: Summary) -> Section:
    content = summary.content
    title = "Copied data"
    if not summary.counts.copied:
        return Section("content", title, ("No key was copied.",))
    if not content.types:
        return Section("content", title, ("Types and sizes were not recorded.",))
    keys = sum(row.keys for row in content.types)
    types = Table(
        "Types",
        (
            Column("type", "brief"),
            Column("keys", "number"),
            Column("share of keys", "share"),
            *_numbers("payloads", "mean"),
        ),
        tuple(
            (
                row.type,
                units.keys(row.keys),
                units.percent(row.keys / keys),
                units.size(row.payload_bytes),
                units.size(row.payload_bytes / max(1, row.keys)),
            )
            for row in content.types
        ),
        tuple(row.keys / keys for row in content.types),
    )
    sizes = Table(
        SIZES,
        (Column("payload size", "brief"), *_numbers("keys")),
        tuple((extent(group), units.keys(group.keys)) for group in size_groups(content.sizes)),
    )
    largest = Table(
        "Largest keys",
        (Column("key", "name"), Column("type", "brief"), *_numbers("db", "payload")),
        tuple(
            (
                printable(row.key, limit=KEY_LIMIT),
                row.type,
                str(row.db),
                units.size(row.payload_bytes),
            )
            for row in content.largest
        ),
    )
    tables = tuple(table for table in (types, sizes, largest) if table.rows)
    return Section("content", title, tables=tables)


def _failures(record: Record) -> Section:
    summary = record.summary
    failed = summary.counts.failed
    if not failed:
        return Section("failures", "Failures", ("No key failed.",))
    verb = "copied" if isinstance(summary, Summary) else "compared"
    reasons = Table(
        "By reason",
        (Column("reason", "brief"), Column("keys", "number"), Column("share", "share")),
        tuple(
            (reason, units.keys(count), units.percent(count / failed))
            for reason, count in summary.failures_by_reason.items()
        ),
        tuple(min(1.0, count / failed) for count in summary.failures_by_reason.values()),
    )
    shown = examples(summary.failures)
    title = "The failed keys"
    if len(shown) < failed:
        title = f"{count_of(len(shown), 'example')} of {units.keys(failed)}"
    keys = Table(
        title,
        (
            Column("db", "number"),
            Column("key", "name"),
            Column("reason", "brief"),
            Column("message"),
        ),
        tuple(
            (
                str(each.db),
                printable(each.key, limit=KEY_LIMIT),
                each.reason,
                each.message,
            )
            for each in shown
        ),
    )
    lists = ("listed in", "try again") if isinstance(summary, Summary) else ()
    return Section(
        "failures",
        "Failures",
        (f"{count_of(failed, 'key')} could not be {verb}.",),
        _labelled(summary, *lists),
        tuple(table for table in (reasons, keys) if table.rows),
    )


def examples(failures: Sequence[KeyFailure], most: int = EXAMPLES_SHOWN) -> list[KeyFailure]:
    """Return `most` failures, of each reason in turn, in their original order."""
    seen: Counter[str] = Counter()
    ranked = []
    for number, failure in enumerate(failures):
        ranked.append((seen[failure.reason], number))
        seen[failure.reason] += 1
    return [failures[number] for number in sorted(number for _, number in sorted(ranked)[:most])]


def _comparison(record: Record) -> Section:
    summary = record.summary
    alone = isinstance(summary, Verification)
    result = summary if isinstance(summary, Verification) else record.verification
    title = "Comparison of both sides"
    if result is None:
        job = summary.job if isinstance(summary, Summary) else ""
        text = f"Not compared. rumpx verify {job} compares both sides."
        if followed(record):
            text = "Not compared by itself: each pass of the follow compares both sides."
        return Section("comparison", title, (text,))
    outcome, entries = told(result)
    left_out = {"from", "to"} | ({"warning", *result.failures_by_reason} if alone else set())
    entries = [entry for entry in entries if entry.label not in left_out]
    if record.verified is not None and not alone:
        entries.insert(0, Entry("when", moment(record.verified)))
    if result.error and not alone:
        entries.insert(0, Entry("ended early", result.error, "yellow"))
    kinds = [kind for kind in verdict.KINDS if result.differences.get(kind)]
    prefixes = Table(
        "Differences by key prefix",
        (Column("keys", "name"), *_numbers(*kinds)),
        tuple(map(tuple, verdict.prefix_rows(result, kinds))),
    )
    return Section(
        "comparison",
        title,
        (sentence(outcome),),
        tuple(entries),
        (prefixes,) if prefixes.rows else (),
    )


def _runs(record: Record) -> Section:
    if not record.runs:
        return Section("runs", "Runs", ("The runs are unknown.",))
    table = Table(
        "",
        (
            Column("run", "brief"),
            Column("started", "brief"),
            Column("ended", "brief"),
            Column("result"),
            Column("total copied", "number"),
            Column("rumpx", "brief"),
            Column("error"),
        ),
        tuple(_run(record, run) for run in record.runs),
    )
    text = f"It took {count_of(len(record.runs), 'run')}."
    return Section("runs", "Runs", (text,), tables=(table,))


def _run(record: Record, run: RunRecord) -> tuple[str, ...]:
    if run.ended is None:
        goes_on = record.state == "running" and run is record.runs[-1]
        how = ("", "running" if goes_on else "killed", "")
    else:
        code = "" if run.exit_code is None else f", exit code {run.exit_code}"
        step = ", in step" if run.follow and run.follow.in_step else ""
        how = (moment(run.ended), f"{run.state}{code}{step}", units.keys(run.counts.copied))
    return (str(run.number), moment(run.began), *how, run.version, run.error)


def _notes(record: Record) -> Section:
    labels = ("walked again", "workers", "left behind", "warning")
    entries = _labelled(record.summary, *labels)
    none = (
        "No warnings, nothing left behind, no partition walked twice, no worker died."
    )
    if isinstance(record.summary, Verification):
        none = "No warnings."
    return Section("notes", "Warnings and notes", () if entries else (none,), entries)


def _labelled(summary: Summary | Verification, *labels: str) -> tuple[Entry, ...]:
    return tuple(entry for entry in told(summary)[1] if entry.label in labels)


def _placed(summary: Summary) -> list[PartitionSummary]:
    """Return the partitions; a single node is named by its side's URI."""
    return [replace(each, node=each.node or summary.source) for each in summary.partitions]


def _partitions(partitions: Sequence[PartitionSummary]) -> Section:
    if not partitions:
        return Section("partitions", "Partitions", ("No partitions.",))
    done = sum(each.complete for each in partitions)
    number = count_of(len(partitions), "partition")
    text = f"{number}, {'all' if done == len(partitions) else units.keys(done)} done."
    nodes = list(dict.fromkeys(each.node for each in partitions))
    by_node = Table(
        f"By node: {count_of(len(nodes), 'node')}",
        (Column("node", "name"), *_numbers("partitions", "done", "copied", "failed")),
        tuple(_node(node, [each for each in partitions if each.node == node]) for node in nodes),
    )
    shown, title = list(partitions), f"All {number}" if len(partitions) > 1 else number
    if len(partitions) > PARTITIONS_SHOWN:
        shown = sorted(partitions, key=lambda each: each.complete)[:PARTITIONS_SHOWN]
        title = f"{len(shown)} of {number}" + ", those not done first" * (done < len(partitions))
    each_one = Table(
        title,
        (
            Column("node", "name"),
            Column("db", "number"),
            Column("partition"),
            *_numbers("copied", "failed"),
            Column("state", "brief"),
        ),
        tuple(
            (
                each.node,
                str(each.db),
                each.bounds,
                units.keys(each.counts.copied),
                units.keys(each.counts.failed),
                "done" if each.complete else "not done",
            )
            for each in shown
        ),
    )
    few = len(nodes) <= _NODES_SHOWN
    return Section(
        "partitions",
        "Partitions",
        (text,),
        tables=(by_node,) if few else (),
        folded=(each_one,) if few else (by_node, each_one),
    )


def _node(node: str, partitions: Sequence[PartitionSummary]) -> tuple[str, ...]:
    return (
        node,
        units.keys(len(partitions)),
        units.keys(sum(each.complete for each in partitions)),
        units.keys(sum(each.counts.copied for each in partitions)),
        units.keys(sum(each.counts.failed for each in partitions)),
    )


def _options(record: Record) -> Section:
    if not record.options:
        return Section("options", "Options", ("The options are unknown.",))
    columns = (Column("option", "name"), Column("value", "name"))
    given, usual = (
        tuple(
            (option.flag, option.value or "not set")
            for option in record.options
            if option.given is wanted
        )
        for wanted in (True, False)
    )
    return Section(
        "options",
        "Options",
        ("Options at the end that differ from the defaults. No report contains a password.",),
        tables=(Table("", columns, given),) if given else (),
        folded=(Table(count_of(len(usual), "default"), columns, usual),) if usual else (),
    )
