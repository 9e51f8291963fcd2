"""A worker's part of a comparison: batches of key names in, findings out.

A batch from the source is compared, cheapest proof first:

1. DUMP and expiry of each key from both sides, in the pipelines of a copy, judged by `verdicts`.
   (With `digests`: a checksum of each value instead, which is the same for any version.)
2. Values whose bytes differ are compared by the commands of their type (`by_meaning`).

A value so large that a copy streams it is compared by its type at once, in pieces, and is never
dumped; one that turns out so large only when it is read, is not dumped again, nor on the target. If
the run ends meanwhile, the batch is left.

Batches from the target, and batches of extras to delete, are for `extras`; a batch of repairs is
copied like any other.

Not promised: a result for one instant.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rumpx.model.counts import Counts
from rumpx.model.job import Scope
from rumpx.servers.rdb import kind_of, streams_among
from rumpx.transfer.chunks import Chunk, Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.handler import Reader, Wanted
from rumpx.transfer.messages import Ack, Batch, Left, Streaming
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Permit, Task
from rumpx.transfer.stream_requests import Draining
from rumpx.transfer.suspects import Lost, Suspects
from rumpx.transfer.transfer import Transfer
from rumpx.verifier.by_meaning import ByMeaning
from rumpx.verifier.digests import Digests
from rumpx.verifier.expired import without_fields
from rumpx.verifier.extras import Extras
from rumpx.verifier.verdicts import Judge, Seen, Verdicts


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """One side of a comparison: reads its values, and asks it single commands."""

    reader: Reader
    calls: Calls

    def close(self) -> None:
        """Close all connections."""
        self.reader.close()
        self.calls.close()


class _LostAgain(Exception):
    """Keys of a chunk lost their connections: continue in parts, without those that failed."""

    def __init__(self, failed: set[bytes]) -> None:
        super().__init__()
        self.failed = failed


class Comparer:
    """Compares keys, checks their existence, deletes, and copies.

    Args:
        source, target: the sides.
        primaries: asks the source's primaries, also if replicas are read.
        transfer: copies the repairs.
        intake: cuts batches, and grants reads of their chunks.
        judge: judges what was read.
        by_meaning: compares values by type.
        digests: compares checksums first; None if that is not wanted.
        extras: finds keys that only the target has.
        scope: for the target's database.
        retry_for: seconds of trouble after which it gives up.
    """

    def __init__(
        self,
        source: ComparedSide,
        primaries: Calls,
        target: ComparedSide,
        transfer: Transfer,
        intake: Intake,
        judge: Judge,
        by_meaning: ByMeaning,
        digests: Digests | None,
        extras: Extras,
        scope: Scope,
        retry_for: float,
    ) -> None:
        self._source = source
        self._primaries = primaries
        self._target = target
        self._transfer = transfer
        self._intake = intake
        self._judge = judge
        self._by_meaning = by_meaning
        self._digests = digests
        self._extras = extras
        self._scope = scope
        self._retry_for = retry_for

    def dial(self, databases: Sequence[int]) -> None:
        """Open only the connections that a copy opens ahead of time."""
        self._transfer.dial(databases)

    def settle(self, batch: Batch) -> Task[Ack | Left]:
        """Do the batch's work; a task.

        Raises:
            TemporaryError: no key was settled for `retry_for` seconds.
            SourceUnusable, TargetUnusable: a command is refused for every key.
        """
        match batch.work:
            case "compare":
                return (yield from self._compare_batch(batch))
            case "look for":
                return (yield from self._extras.look_for(batch))
            case "delete":
                return (yield from self._extras.delete(batch))
        return (yield from self._transfer.settle(batch))

    def unfinished(self) -> dict[int, Counts]:
        """Return the counts of unfinished copies; unfinished comparisons have settled no key."""
        return self._transfer.unfinished()

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        read = self._source.reader.take_notices() + self._target.reader.take_notices()
        return read + self._transfer.take_notices()

    def take_streaming(self) -> Streaming | None:
        """Return the progress of a large value, if it is time to show it."""
        return self._transfer.take_streaming()

    def close(self) -> None:
        """Close all connections."""
        for each in (self._transfer, self._source, self._primaries, self._target):
            each.close()

    # From the source.

    def _compare_batch(self, batch: Batch) -> Task[Ack | Left]:
        verdicts = Verdicts()
        try:
            for keys in self._intake.parts(batch.keys):
                yield from self._compare_part(batch, keys, verdicts)
            if verdicts.unequal:
                yield from self._by_meaning.unequal(batch, verdicts)
        except Draining:
            return Left(batch.id, Counts())
        if verdicts.missing_hashes:
            yield from self._judge_missing_hashes(batch, verdicts)
        failures, findings = tuple(verdicts.failures), tuple(verdicts.findings)
        streams = tuple(verdicts.streams)
        return Ack(batch.id, verdicts.counts(), failures, findings, streams=streams)

    def _compare_part(self, batch: Batch, keys: list[bytes], verdicts: Verdicts) -> Task[None]:
        if self._digests:
            keys, large = yield from self._digests.unmatched(batch, keys, verdicts)
            for key, size in large.items():
                chunk = self._intake.alone([key], {key: size})
                yield from self._compare_chunk(batch, chunk, verdicts)
        if not keys:
            return
        for chunk in (yield from self._intake.chunks(Wanted(batch.db, keys, batch.node))):
            yield from self._compare_chunk(batch, chunk, verdicts)

    def _compare_chunk(self, batch: Batch, chunk: Chunk, verdicts: Verdicts) -> Task[None]:
        """Compare a chunk; if it loses its connections, in parts (see `suspects`); a large value in
        pieces."""
        suspects = Suspects()
        chunks = deque([chunk])
        while chunks:
            part = chunks.popleft()
            if part.stream:
                yield from self._by_meaning.large(batch, part, verdicts)
                continue
            permit = yield from self._intake.permit(part)
            try:
                large = yield from self._compare_whole(batch, part, permit, suspects, verdicts)
                chunks += [self._intake.alone([key], {key: size}) for key, size in large.items()]
            except _LostAgain as lost:
                left = [key for key in part.keys if key not in lost.failed]
                alone, others = suspects.take(left)
                parts = [*alone, others] if others else alone
                chunks += [self._intake.alone(keys, suspects.sizes) for keys in parts]
            finally:
                self._intake.release(permit)

    def _compare_whole(
        self,
        batch: Batch,
        chunk: Chunk,
        permit: Permit,
        suspects: Suspects,
        verdicts: Verdicts,
    ) -> Task[dict[bytes, int]]:
        """Compare a chunk by DUMPs; return the sizes of values that must be compared in pieces."""

        def blame(lost: Sequence[Lost]) -> None:
            """Record losses; end this try if the chunk must be split, or has a culprit."""
            failures = [suspects.blame(batch.db, one, alone=chunk.alone) for one in lost]
            found = [failure for failure in failures if failure]
            verdicts.failures += found
            if found or suspects.split:
                raise _LostAgain({failure.key for failure in found})

        here = yield from self._fetch(
            self._source.reader, Wanted(batch.db, chunk.keys, batch.node), chunk.sizes, blame
        )
        self._intake.correct(permit, chunk, here.keys, here.payloads)
        verdicts.failures += here.failures
        verdicts.gone += len(chunk.keys) - len(here.keys) - len(here.failures)
        sizes = list(map(len, here.payloads))
        verdicts.payload_bytes += sum(sizes)
        verdicts.streams += streams_among(here.keys, here.payloads)
        large: dict[bytes, int] = {}
        if sizes and self._intake.limits.streams(max(sizes)):
            large = self._take_large(here, sizes)
            sizes = list(map(len, here.payloads))
        there = Seen()
        if here.keys:
            db = self._scope.target_db(batch.db)
            wanted = Wanted(db, here.keys, None, by_slot=True)
            there = yield from self._fetch(self._target.reader, wanted, sizes, blame)
            self._intake.also(permit, chunk, there.keys, there.payloads)
        self._judge.keys(batch.db, here, there, verdicts)
        return large

    def _take_large(self, here: Seen, sizes: list[int]) -> dict[bytes, int]:
        """Take out the values that turned out to be large, if their type is read in pieces."""
        large = [
            n
            for n, size in enumerate(sizes)
            if self._intake.limits.streams(size) and kind_of(here.payloads[n])
        ]
        taken = {here.keys[n]: sizes[n] for n in large}
        here.leave_out(set(large))
        return taken

    def _fetch(
        self,
        reader: Reader,
        wanted: Wanted,
        sizes: Sequence[int] | None,
        blame: Callable[[Sequence[Lost]], None],
    ) -> Task[Seen]:
        """Read payload and expiry of keys, and retry until each has a reply. `blame` receives lost
        connections once the server is reachable, and may raise."""
        seen = Seen()
        patience = Patience(self._retry_for, (reader,))
        single: set[bytes] = set()
        while True:
            read = yield from reader.read(wanted, sizes)
            seen.keys += read.keys
            seen.payloads += read.payloads
            seen.expiries += _instants(read.expiries) if read.left else read.expiries
            seen.failures += read.failures
            if not read.again:
                return seen
            if len(read.again) < len(wanted.keys):
                patience.succeeded()
            yield from patience.before_next_try(trouble=read.waits, complaint=read.complaint)
            blamed = []
            for lost in read.lost:
                if not (yield from patience.until_well(reader, lost)):
                    blamed.append(lost)
            blame(blamed)
            single |= read.single
            sizes = None
            wanted = Wanted(
                wanted.db,
                read.again,
                wanted.node,
                by_slot=True,
                ask=read.ask,
                single=frozenset(single),
            )

    def _judge_missing_hashes(self, batch: Batch, verdicts: Verdicts) -> Task[None]:
        """Judge hashes with expiring fields that only the source has."""
        keys = [finding.key for finding in verdicts.missing_hashes]
        empty = yield from without_fields(self._source.calls, batch.db, keys)
        verdicts.gone += len(empty)
        verdicts.findings += [f for f in verdicts.missing_hashes if f.key not in empty]


def _instants(left: list[int]) -> list[int]:
    """Convert remaining TTLs of a server without absolute ones, by this machine's clock."""
    now = int(time.time() * 1000)
    return [now + ms if ms >= 0 else ms for ms in left]
