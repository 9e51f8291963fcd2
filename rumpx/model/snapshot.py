"""One frozen record of a run's state, from which every display is drawn, and its final form.

The coordinator makes a Snapshot a few times a second; displays only read it. A Summary is what is
left when the run has ended: the API returns it, `--summary` writes it as JSON.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rumpx.errors import Side
from rumpx.model.content import NO_CONTENT, Content

State = Literal[
    "starting", "copying", "checking", "comparing", "draining", "done", "failed", "stopped"
]
Verb = Literal["copied", "compared"]
# What can hold a run.
HOLDS: Final = (
    "source latency",
    "target latency",
    "source CPU",
    "source memory",
    "keys a second",
    "bytes a second",
    "commands a second",
    "timetable",
    "pause",
)
SUMMARY_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of keys. Each key handed to a worker is counted once, when it is settled.

    Attributes:
        copied: keys that the target acknowledged.
        gone: keys that expired or were deleted between SCAN and DUMP, or before RESTORE.
        skipped: keys that the target already had, under `--on-conflict skip`.
        repeated: keys met again that were on the target already, with equal value and expiry.
        failed: keys that could not be copied.
        payload_bytes: DUMP payload bytes of the keys copied.
        equal: keys that are the same on both sides. This and the rest is what comparisons count.
        different: keys whose value, type or expiry is another on the target.
        missing: keys that the target lacks.
        extra: keys that only the target has.
        found: keys of the target that the source has as well, as the walk back meets them.
        changing: keys that were written while they were compared.
        deleted: extra keys that were deleted from the target.
        incomparable: keys on both sides whose values, of a module's type, cannot be compared.
    """

    copied: int = 0
    gone: int = 0
    skipped: int = 0
    repeated: int = 0
    failed: int = 0
    payload_bytes: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    found: int = 0
    changing: int = 0
    deleted: int = 0
    incomparable: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Acks hold Counts, and the generic way for dataclasses with slots takes twice as long.
        return Counts, self.numbers

    @property
    def numbers(self) -> tuple[int, ...]:
        """All of them, in the order of their names above."""
        return _numbers(self)

    @property
    def compared(self) -> int:
        """Keys of the source that were compared."""
        return self.equal + self.different + self.missing + self.changing + self.incomparable

    @property
    def settled(self) -> int:
        """Keys about which nothing remains to be done."""
        return sum(self.numbers) - self.payload_bytes

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, self.numbers, other.numbers))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*map(operator.sub, self.numbers, other.numbers))


_numbers: Callable[[Counts], tuple[int, ...]] = operator.attrgetter(
    *(field.name for field in dataclasses.fields(Counts))
)


@dataclass(frozen=True, slots=True)
class Row:
    """Progress of one node, or of one partition where there is a single node.

    `label` is short ("10.0.0.1:6379", "10.0.0.1:6379 db3", "part 3/16"); `fraction` is 0.0 to 1.0.
    """

    label: str
    fraction: float
    counts: Counts
    done: bool


@dataclass(frozen=True, slots=True)
class WorkerStat:
    """One worker process as psutil sees it: `cpu` in percent of one core, `memory` in bytes."""

    pid: int
    cpu: float
    memory: int
    batches: int


@dataclass(frozen=True, slots=True)
class NodeStat:
    """One server process as it is felt, and as its INFO says.

    Attributes:
        side: "source" or "target".
        label: its address, or its side's URI where it is the only one.
        latency: as `Held.source_latency`, of this node; None where nothing is known.
        cpu: percent of one core, or None.
        memory, max_memory: bytes, or None; `max_memory` 0 is no limit.
    """

    side: Side
    label: str
    latency: float | None
    cpu: float | None
    memory: int | None
    max_memory: int | None


@dataclass(frozen=True, slots=True)
class Held:
    """What the governor says.

    Attributes:
        reason: what holds the run, as in "held by source latency 6.1 ms > 5 ms"; "" if nothing.
        off: nothing is done now, by the timetable or the user.
        source_latency, target_latency: the second-highest of the last second of a node's PINGs, in
            seconds above its best, of the worst node; None before they are known.
        by: the same as `reason` without numbers: names of `HOLDS`.
        share: 0.0 to 1.0 of what an unhindered run has under way.
        seconds: for how many seconds of this run each of `HOLDS` has held it, if any.
    """

    reason: str = ""
    off: bool = False
    source_latency: float | None = None
    target_latency: float | None = None
    by: tuple[str, ...] = ()
    share: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The run at one instant.

    Attributes:
        state: what the run is doing.
        job: its name; of a comparison, that of the copy that is compared, or "".
        verb: what is done with keys, as in "copied" or "compared".
        source, target: the endpoints' URIs without credentials.
        elapsed: seconds since the copy began.
        fraction: 0.0 to 1.0 of the walk that is settled; exact where cursors tell, else by keys.
        counts: of the whole run, each key once.
        work: the same with what is walked, or tried, again; what rates are made of.
        keys_expected: the source's DBSIZE in scope at the start; with filters an upper bound.
        keys_per_second, bytes_per_second: over the last few seconds.
        eta: seconds left, or None while unknown.
        rows: a row a node, or a row a partition where there is one node.
        partitions: a row a partition.
        workers: the live worker processes.
        worker_restarts: workers that died and were replaced.
        batches_in_flight: batches that workers hold now.
        coordinator_cpu: in percent of one core.
        coordinator_memory: bytes.
        note: one short sentence on what the run is waiting for, or "".
        held: what the servers feel, and what holds the run for it.
        nodes: the servers, one by one.
        failures: number of keys that failed, by reason, as this run met them.
        content: what the copied keys are; renewed once a second.
    """

    state: State
    job: str
    verb: Verb
    source: str
    target: str
    elapsed: float
    fraction: float
    counts: Counts
    keys_expected: int
    keys_per_second: float
    bytes_per_second: float
    eta: float | None
    rows: tuple[Row, ...]
    workers: tuple[WorkerStat, ...]
    worker_restarts: int
    batches_in_flight: int
    coordinator_cpu: float
    coordinator_memory: int
    note: str = ""
    held: Held = Held()
    partitions: tuple[Row, ...] = ()
    nodes: tuple[NodeStat, ...] = ()
    failures: dict[str, int] = field(default_factory=dict)
    content: Content = NO_CONTENT
    work: Counts = Counts()


@dataclass(frozen=True, slots=True)
class KeyFailure:
    """A key that could not be copied: `reason` is a short class of reasons ("NOPERM",
    "bad payload", "busy key", …), `message` the server's own words."""

    db: int
    key: bytes
    reason: str
    message: str


Back = Literal["walked", "not needed", "not done"]
FindingKind = Literal["missing", "extra", "type", "value", "expiry", "incomparable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A key that is not the same on both sides, or of which that cannot be told.

    Attributes:
        db: the source's database.
        detail: about the difference, without any value: "string, list", "+1000 ms"; of a value that
            cannot be compared its type.
        prints: a few bytes for each side that stand for its value, to tell later whether it has
            changed; empty where there is none.
        expiries: of both sides, ms since 1970; -1 is none, -2 no such key.
    """

    db: int
    key: bytes
    kind: FindingKind
    detail: str = ""
    prints: tuple[bytes, bytes] = (b"", b"")
    expiries: tuple[int, int] = (-2, -2)


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """One partition's bounds (as text), node, database and counts."""

    node: str
    db: int
    bounds: str
    counts: Counts
    complete: bool


@dataclass(frozen=True, slots=True)
class PrefixDifferences:
    """How many keys with a prefix differ, by kind."""

    prefix: str
    kinds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Verification:
    """How a comparison of both sides ended.

    Attributes:
        state: "done", "failed" or "stopped".
        exit_code: 0 all equal, 3 some keys could not be read, 4 some differ (with `strict` also if
            some cannot be compared).
        source, target, source_version, target_version: as in Summary.
        seconds: from the first SCAN to the end.
        counts: `equal`, `different`, `missing`, `extra`, `changing`, `incomparable`, `found`,
            `gone` and `failed` as they were found; `copied` and `deleted` are what was repaired.
        keys_per_second, bytes_per_second: of the source's keys and payloads.
        proof: what "equal" rests on, in words.
        sample: what a comparison of a sample proves, in words; "" if all keys were compared.
        back: whether the target's keys were looked for on the source: "walked", or "not needed"
            where the numbers of keys prove that there are no others, or "not done".
        differences: number of differing keys by kind: missing, extra, type, value, expiry.
        prefixes: the same by key prefix, the most frequent first; at most ten.
        differences_file: lists all of them, as JSON lines; None if there are none.
        repaired: differences that were mended, and found equal after that.
        failures_by_reason, failures: keys that could not be compared; at most 1,000 are listed.
        worker_restarts, warnings, error: as in Summary.
        incomparable: number of keys by the type of their values, which cannot be compared: those
            that were there, and those that a repair brought.
    """

    state: State
    exit_code: int
    source: str
    target: str
    source_version: str
    target_version: str
    seconds: float
    counts: Counts
    keys_per_second: float
    bytes_per_second: float
    proof: str
    sample: str
    back: Back
    differences: dict[str, int]
    prefixes: tuple[PrefixDifferences, ...]
    differences_file: str | None
    repaired: int
    failures_by_reason: dict[str, int]
    failures: tuple[KeyFailure, ...]
    worker_restarts: int
    warnings: tuple[str, ...]
    error: str = ""
    incomparable: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that `--summary` writes: every attribute by its name, and "version"."""
        return _document(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """How a copy ended.

    Attributes:
        state: "done", "failed" or "stopped".
        exit_code: the exit code that the command ends with.
        job: the job's name, by which it can be resumed.
        runs: how often it was begun or gone on with, this time included.
        source, target: URIs without credentials.
        source_version, target_version: server versions, as in "valkey 9.1.2".
        seconds: from the first SCAN to the last acknowledgement, of all runs together.
        counts: of the whole job, without what was walked twice.
        keys_per_second, bytes_per_second: `counts` over `seconds`.
        failures_by_reason: number of failed keys by reason.
        failures: the failed keys, at most 100,000.
        dead_letters: the file that lists all of them; None if none failed.
        source_keys_before, source_keys_after: DBSIZE in scope, at the start and the end.
        target_keys_before, target_keys_after: the same on the target, or None where unknown.
        missing: keys by which the target falls short after the completeness check; 0 when it
            matched; None where it does not apply (filters, or a target that was not empty).
        walked_again: partitions that were walked again, by reason.
        worker_restarts: workers that died and were replaced.
        left_behind: what a copy of keys leaves on the source ("3 functions", "2 ACL users").
        warnings: sentences, in the order in which they came up.
        partitions: one entry a partition.
        error: why the run ended early, or "".
        held_seconds: for how many seconds each of `HOLDS` held the job, the longest first.
        content: types, sizes and largest keys of what was copied.
    """

    state: State
    exit_code: int
    job: str
    runs: int
    source: str
    target: str
    source_version: str
    target_version: str
    seconds: float
    counts: Counts
    keys_per_second: float
    bytes_per_second: float
    failures_by_reason: dict[str, int]
    failures: tuple[KeyFailure, ...]
    dead_letters: str | None
    source_keys_before: int
    source_keys_after: int | None
    target_keys_before: int | None
    target_keys_after: int | None
    missing: int | None
    walked_again: dict[str, int]
    worker_restarts: int
    left_behind: tuple[str, ...]
    warnings: tuple[str, ...]
    partitions: tuple[PartitionSummary, ...] = field(default=())
    error: str = ""
    held_seconds: dict[str, float] = field(default_factory=dict)
    content: Content = NO_CONTENT

    def to_json(self) -> dict[str, Any]:
        """The document that `--summary` writes: every attribute by its name, and "version".

        Key names are text with `backslashreplace` escapes, since JSON has no bytes.
        """
        return _document(self)


def _document(result: Summary | Verification) -> dict[str, Any]:
    document = dataclasses.asdict(result)
    for failure in document["failures"]:
        failure["key"] = failure["key"].decode("utf-8", "backslashreplace")
    if isinstance(result, Summary):
        document["content"] = result.content.to_json()
    return {"version": SUMMARY_VERSION, **document}
