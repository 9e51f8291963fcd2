"""Messages between the coordinator and its workers: plain data.

Batches carry key names, acks carry counts; values never pass between processes.
"""

from __future__ import annotations

import marshal
from dataclasses import dataclass
from typing import Any

from rumpx.errors import RumpxError
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address
from rumpx.model.partitions import Work
from rumpx.model.results import Finding, KeyFailure, KeyLoss
from rumpx.transfer.content_stats import NO_KINDS, Kinds, Large


@dataclass(frozen=True, slots=True)
class Batch:
    """Keys for one worker to copy.

    Attributes:
        id: unique in the run.
        partition, walk: the partition of the keys, and which of its walks.
        node: the source node that named them; None for a standalone server.
        db: the source's database.
        keys: bounded in number and in bytes.
        work: the work to do with them.
        process: the `run_id` of the source's process that alone can prove that a key is gone; "":
            any can.
    """

    id: int
    partition: int
    walk: int
    node: Address | None
    db: int
    keys: list[bytes]
    work: Work = "copy"
    process: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        # The keys as one string: pickle would enter each into its memo, at five times the cost.
        # marshal's version 2 is the last without a memo, and both ends are the same Python.
        keys = marshal.dumps(self.keys, 2)
        fixed = self.id, self.partition, self.walk, self.node, self.db
        return _batch, (*fixed, keys, self.work, self.process)


def _batch(
    id: int,
    partition: int,
    walk: int,
    node: Address | None,
    db: int,
    keys: bytes,
    work: Work,
    process: str,
) -> Batch:
    return Batch(id, partition, walk, node, db, marshal.loads(keys), work, process)


@dataclass(frozen=True, slots=True)
class Ack:
    """Every key of a batch is settled. `findings` are the differences that a comparison found;
    `kinds` and `large` describe the copied values. `late` are keys of which an earlier write, on a
    lost connection that could not be ended, may still be executed. `losses` are among the copied
    keys. Of compared and followed keys `streams` are those that are streams, of followed ones
    `heavy` are those that cost the source much, with their bytes, and `unproven` those that
    another process than the batch's was asked for."""

    batch: int
    counts: Counts
    failures: tuple[KeyFailure, ...] = ()
    findings: tuple[Finding, ...] = ()
    kinds: Kinds = NO_KINDS
    large: tuple[Large, ...] = ()
    late: tuple[bytes, ...] = ()
    losses: tuple[KeyLoss, ...] = ()
    streams: tuple[bytes, ...] = ()
    heavy: tuple[tuple[bytes, int], ...] = ()
    unproven: tuple[bytes, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # As for Counts: the generic way takes twice as long.
        large = tuple(map(tuple, self.large))
        kinds = self.kinds.numbers
        told = self.batch, self.counts, self.failures, self.findings
        followed = self.streams, self.heavy, self.unproven
        return _ack, (*told, kinds, large, self.late, self.losses, *followed)


def _ack(
    batch: int,
    counts: Counts,
    failures: tuple[KeyFailure, ...],
    findings: tuple[Finding, ...],
    kinds: dict[int, int],
    large: tuple[tuple[int, int, int, bytes], ...],
    late: tuple[bytes, ...],
    losses: tuple[KeyLoss, ...],
    streams: tuple[bytes, ...],
    heavy: tuple[tuple[bytes, int], ...],
    unproven: tuple[bytes, ...],
) -> Ack:
    named, told = tuple(map(Large._make, large)), (late, losses, streams, heavy, unproven)
    return Ack(batch, counts, failures, findings, Kinds(kinds), named, *told)


@dataclass(frozen=True, slots=True)
class Left:
    """A batch was left unsettled, since the run ends while one of its values is streamed; `counts`
    are those of its settled keys."""

    batch: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has started and takes its first batch."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A message that the user should read once, however many workers send it."""

    text: str


@dataclass(frozen=True, slots=True)
class Streaming:
    """A large value is under way; `fraction` of it is read. Sent twice a second at most."""

    key: bytes
    fraction: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """A worker cannot continue, and no other could: the run ends with this error. `unfinished`
    counts the settled keys of the batches that it had started, so that the run's counts are
    true."""

    error: RumpxError
    unfinished: dict[int, Counts]


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: end when the batches in hand are done."""


@dataclass(frozen=True, slots=True)
class Rest:
    """To an idle worker: close connections; they are opened again when needed."""


ToWorker = Batch | Rest | Stop
FromWorker = Ready | Ack | Left | Notice | Streaming | Trouble
