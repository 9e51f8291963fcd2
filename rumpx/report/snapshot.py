"""One frozen record of a run's state, from which every display is drawn, and its final form.

The coordinator makes a Snapshot a few times a second; displays only read it. A Summary is what is
left when the run has ended: the API returns it, `--summary` writes it as JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final, Literal

State = Literal["starting", "copying", "checking", "draining", "done", "failed", "stopped"]
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
    """

    copied: int = 0
    gone: int = 0
    skipped: int = 0
    repeated: int = 0
    failed: int = 0
    payload_bytes: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Acks hold Counts, and the generic way for dataclasses with slots takes twice as long.
        return Counts, (
            self.copied,
            self.gone,
            self.skipped,
            self.repeated,
            self.failed,
            self.payload_bytes,
        )

    @property
    def settled(self) -> int:
        """Keys about which nothing remains to be done."""
        return self.copied + self.gone + self.skipped + self.repeated + self.failed

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.copied + other.copied,
            self.gone + other.gone,
            self.skipped + other.skipped,
            self.repeated + other.repeated,
            self.failed + other.failed,
            self.payload_bytes + other.payload_bytes,
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
class Snapshot:
    """The run at one instant.

    Attributes:
        state: what the run is doing.
        source, target: the endpoints' URIs without credentials.
        elapsed: seconds since the copy began.
        fraction: 0.0 to 1.0 of the walk that is settled; exact where cursors tell, else by keys.
        counts: of the whole run.
        keys_expected: the source's DBSIZE in scope at the start; with filters an upper bound.
        keys_per_second, bytes_per_second: over the last few seconds.
        eta: seconds left, or None while unknown.
        rows: a row a node, or a row a partition where there is one node.
        workers: the live worker processes.
        worker_restarts: workers that died and were replaced.
        batches_in_flight: batches that workers hold now.
        coordinator_cpu: in percent of one core.
        coordinator_memory: bytes.
        note: one short sentence on what the run is waiting for, or "".
    """

    state: State
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


@dataclass(frozen=True, slots=True)
class KeyFailure:
    """A key that could not be copied: `reason` is a short class of reasons ("NOPERM",
    "bad payload", "busy key", …), `message` the server's own words."""

    db: int
    key: bytes
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """One partition's bounds (as text), node, database and counts."""

    node: str
    db: int
    bounds: str
    counts: Counts
    complete: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """How a copy ended.

    Attributes:
        state: "done", "failed" or "stopped".
        exit_code: the exit code that the command ends with.
        source, target: URIs without credentials.
        source_version, target_version: server versions, as in "valkey 9.1.2".
        seconds: from the first SCAN to the last acknowledgement.
        counts: of the whole run, without what was walked twice.
        keys_per_second, bytes_per_second: `counts` over `seconds`.
        failures_by_reason: number of failed keys by reason.
        failures: the failed keys, at most 100,000.
        source_keys_before, source_keys_after: DBSIZE in scope, at the start and the end.
        target_keys_before, target_keys_after: the same on the target, or None where unknown.
        missing: keys by which the target falls short after the completeness check; 0 when it
            matched; None where it does not apply (filters, or a target that was not empty).
        walked_again: partitions that were walked again, by reason.
        worker_restarts: workers that died and were replaced.
        left_behind: what a copy of keys leaves on the source ("3 functions", "2 ACL users").
        warnings: sentences, in the order in which they came up.
        partitions: one entry a partition.
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
    failures_by_reason: dict[str, int]
    failures: tuple[KeyFailure, ...]
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

    def to_json(self) -> dict[str, Any]:
        """The document that `--summary` writes: every attribute by its name, and "version".

        Key names are text with `backslashreplace` escapes, since JSON has no bytes.
        """
        document = dataclasses.asdict(self)
        for failure in document["failures"]:
            failure["key"] = failure["key"].decode("utf-8", "backslashreplace")
        return {"version": SUMMARY_VERSION, **document}
