"""Copy a batch of key names and return an Ack: reader and writer joined, chunk by chunk.

Algorithm, for one batch (a task, see `runner`):

1. Cut it into chunks: one pipeline each (`chunks`).
2. For each chunk get a permit, read it, write it, return the permit. A large value is streamed
   instead (`stream`), and so is one that no payload holds; one that cannot be is read whole.
3. Keys that were not settled (a lost connection, a redirection, a server that is loading) are
   retried: *read* again, never written again from an old payload. After a redirection at once,
   after trouble with a growing pause; if nothing of the batch is settled for `retry_for` seconds,
   the run gives up. If keys lose their connection repeatedly while the server is healthy, one of
   them cannot pass: it is found and has failed (see `suspects`).
4. A key that the target already has, under a policy without REPLACE, may be our own earlier write
   (a duplicate from SCAN, a repeated batch, a lost reply): both sides are read again, and equal
   value and expiry mean that it is copied. A value that cannot be compared is the target's.
5. Of a *followed* batch (`follower`) also the keys that do not exist any more are settled: they are
   deleted from the target. A key counts as gone only if the batch's process of the source has said
   so just now, or if its expiry is past on the target's clock.

This module is independent of processes and of SCAN; with `engine.scanner.walk` it copies a
partition in one process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal

from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address
from rumpx.model.job import Scope
from rumpx.model.results import KeyFailure, KeyLoss
from rumpx.servers.rdb import STREAMS, streams_among
from rumpx.transfer.aside import Aside
from rumpx.transfer.chunks import Chunk, Intake
from rumpx.transfer.content_stats import NO_KINDS, Kinds, Large
from rumpx.transfer.handler import Reachable, Read, Reader, Records, Wanted, Writer, Written
from rumpx.transfer.messages import Ack, Batch, Left, Streaming
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Permit, Task
from rumpx.transfer.staging import STAGING_LEFT_OUT, staged, unfinished
from rumpx.transfer.stream import Streamer
from rumpx.transfer.stream_requests import Draining, Streamed
from rumpx.transfer.suspects import Lost, Suspects
from rumpx.values.compare import Told, differing
from rumpx.values.reading import Reading
from rumpx.values.rewrite import FIELD_EXPIRIES
from rumpx.values.sides import Sides

# Reading a value of so many bytes costs the source as much as thousands of small ones.
HEAVY_BYTES: Final = 2**18


@dataclass(slots=True)
class _Unsettled:
    """Facts learnt about keys that must be retried."""

    read_ask: dict[bytes, Address] = field(default_factory=dict)
    write_ask: dict[bytes, Address] = field(default_factory=dict)
    single: set[bytes] = field(default_factory=set)
    by_slot: bool = False
    waits: bool = False
    complaint: str = ""
    lost: list[Lost] = field(default_factory=list)

    def note(self, read: Read, written: Written) -> list[bytes]:
        """Note the facts of one try; return the keys to retry."""
        if not (read.again or written.again):
            return []
        self.read_ask |= read.ask
        self.write_ask |= written.ask
        self.single |= read.single
        self.waits |= read.waits or written.waits
        self.lost += read.lost + written.lost
        self.complaint = written.complaint or read.complaint or self.complaint
        return read.again + written.again


@dataclass(slots=True)
class _Tally:
    """The results for a batch's keys so far; the names are those of Counts. `lost` were sent on a
    connection that was lost, whatever their later result."""

    copied: int = 0
    gone: int = 0
    deleted: int = 0
    skipped: int = 0
    repeated: int = 0
    payload_bytes: int = 0
    rewritten: int = 0
    failures: list[KeyFailure] = field(default_factory=list)
    losses: list[KeyLoss] = field(default_factory=list)
    kinds: Kinds = NO_KINDS
    large: list[Large] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)
    unproven: list[bytes] = field(default_factory=list)
    streams: list[bytes] = field(default_factory=list)
    heavy: list[tuple[bytes, int]] = field(default_factory=list)
    chunks: int = 0

    def add(self, read: Read, written: Written) -> None:
        self.copied += written.copied
        gone = len(read.gone) + len(read.unproven) + read.staging + len(written.gone)
        self.gone += gone - written.deleted
        self.deleted += written.deleted
        self.unproven += read.unproven
        self.payload_bytes += written.payload_bytes
        self.kinds += written.kinds
        self.large += written.large
        self.rewritten += written.rewritten
        self.losses += written.losses
        for lost in written.lost:
            self.lost += lost.keys
        if read.failures or written.failures:
            self.failures += read.failures + written.failures

    @property
    def progress(self) -> int:
        """Settled keys, and chunks of streamed ones."""
        settled = self.copied + self.gone + self.deleted + self.skipped + self.repeated
        return settled + len(self.failures) + self.chunks

    def counts(self) -> Counts:
        return Counts(
            self.copied,
            self.gone,
            self.skipped,
            self.repeated,
            len(self.failures),
            self.payload_bytes,
            deleted=self.deleted,
            rewritten=self.rewritten,
            lossy=len(self.losses),
        )


class Transfer:
    """Copies batches.

    Args:
        reader, writer: the two sides.
        aside: compares keys that existed already, over further connections to both.
        intake: cuts batches, and decides when their chunks may be read.
        streamer: copies the large values.
        retry_for: seconds of trouble after which it gives up.
        scope: for the target's database.
        on_conflict: the policy for a key that the target has.
        expiry_shift: ms by which the writer moves expiries.
        drops: the loss of field expiries is accepted.
        source_clock: the source's clock minus ours, ms; 0 where unknown.
    """

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        aside: Aside,
        intake: Intake,
        streamer: Streamer,
        retry_for: float,
        scope: Scope,
        on_conflict: Literal["replace", "skip", "fail"],
        expiry_shift: int = 0,
        drops: bool = False,
        source_clock: float = 0.0,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._aside = aside
        self._intake = intake
        self._streamer = streamer
        self._retry_for = retry_for
        self._scope = scope
        self._on_conflict = on_conflict
        self._expiry_shift = expiry_shift
        self._drops = drops
        self._source_clock = source_clock
        self._tallies: dict[int, _Tally] = {}
        self._notices: list[str] = []
        self._left_out = False

    def dial(self, databases: Sequence[int]) -> None:
        """Open the connections that are certainly needed, since over a distance that takes a while.
        A node that cannot be reached now is tried again when it is needed.

        Raises:
            SourceUnusable, TargetUnusable: a login or SELECT is refused.
        """
        self._reader.dial(databases)
        self._writer.dial([self._scope.target_db(db) for db in databases])

    def settle(self, batch: Batch) -> Task[Ack | Left]:
        """Copy one batch until each of its keys is settled, or the run ends while a large one is
        streamed; a task.

        Raises:
            TemporaryError: nothing was settled for `retry_for` seconds.
            SourceUnusable, TargetFull, TargetUnusable: see reader and writer.
        """
        tally = self._tallies[batch.id] = _Tally()
        try:
            for part in self._intake.parts(batch.keys):
                chunks = yield from self._intake.chunks(_wanted(batch, _Unsettled(), part))
                for chunk in chunks:
                    yield from self._settle_chunk(batch, chunk, tally)
        except Draining:
            return Left(batch.id, self._tallies.pop(batch.id).counts())
        del self._tallies[batch.id]
        late = tally.lost if self._writer.unended or self._streamer.unended else ()
        return Ack(
            batch.id,
            tally.counts(),
            tuple(tally.failures),
            losses=tuple(tally.losses),
            kinds=tally.kinds,
            large=tuple(tally.large),
            late=tuple(late),
            streams=tuple(tally.streams),
            heavy=tuple(tally.heavy),
            unproven=tuple(tally.unproven),
        )

    def unfinished(self) -> dict[int, Counts]:
        """Return the counts so far of each batch that was started and not acknowledged."""
        return {batch: tally.counts() for batch, tally in self._tallies.items()}

    def _settle_chunk(self, batch: Batch, chunk: Chunk, tally: _Tally) -> Task[None]:
        """Copy a chunk, and its remainder, until each of its keys is settled."""
        unsettled = _Unsettled()
        suspects = Suspects()
        chunks: Iterable[Chunk] = [chunk]
        patience = Patience(self._retry_for, (self._reader, self._writer))
        while True:
            settled_before = tally.progress
            again: list[bytes] = []
            for part in chunks:
                again += yield from self._try(batch, part, unsettled, suspects, tally)
            if not again:
                return
            if tally.progress > settled_before:
                patience.succeeded()
            yield from patience.before_next_try(
                trouble=unsettled.waits, complaint=unsettled.complaint
            )
            unsettled.waits = False
            unsettled.by_slot = True
            yield from self._until_well(unsettled, suspects, patience)
            alone, others = suspects.take(again)
            yield from self._learn_sizes(batch, unsettled, chain(*alone), suspects)
            chunks = [self._intake.alone(keys, suspects.sizes) for keys in alone]
            if others:
                more = yield from self._intake.chunks(_wanted(batch, unsettled, others))
                chunks = chain(chunks, more)

    def _learn_sizes(
        self, batch: Batch, unsettled: _Unsettled, keys: Iterable[bytes], suspects: Suspects
    ) -> Task[None]:
        """Ask for the sizes of suspects that are unknown, since the request for them may have been
        lost, too: a value that is known to be small is not blamed."""
        unknown = [key for key in keys if not suspects.sizes.get(key)]
        if unknown and self._reader.tells_sizes:
            yield from self._intake.turn(0, ops=len(unknown))
            sizes = yield from self._reader.sizes(_wanted(batch, unsettled, unknown))
            suspects.sizes |= zip(unknown, sizes or (), strict=False)

    def _until_well(
        self, unsettled: _Unsettled, suspects: Suspects, patience: Patience
    ) -> Task[None]:
        """Before keys are tried apart, check whether a server's trouble was the cause."""
        lost, unsettled.lost = unsettled.lost, []
        if not suspects.split:
            return
        for one in {(one.written, one.node): one for one in lost}.values():
            side: Reachable = self._writer if one.written else self._reader
            if (yield from patience.until_well(side, one)):
                suspects.acquit()

    def _try(
        self,
        batch: Batch,
        chunk: Chunk,
        unsettled: _Unsettled,
        suspects: Suspects,
        tally: _Tally,
    ) -> Task[list[bytes]]:
        """Read and write a chunk once; return the keys to retry."""
        if chunk.stream:
            streamed = yield from self._stream(batch, unsettled, chunk)
            tally.chunks += streamed.chunks
            if batch.work == "follow":
                sizes = zip(chunk.keys, chunk.estimates, strict=True)
                tally.heavy += [(key, size * streamed.tries) for key, size in sizes]
            read, written = streamed.read, streamed.written
            if streamed.whole:
                chunk = self._intake.whole(chunk)
        if not chunk.stream:
            permit = yield from self._intake.permit(chunk)
            try:
                read, written = yield from self._copy_chunk(batch, unsettled, chunk, permit)
            finally:
                self._intake.release(permit)
        if batch.work == "follow" and not written.fatal:
            yield from self._follow_up(batch, chunk, read, written, tally)
        tally.add(read, written)
        if written.fatal:
            raise written.fatal
        again = unsettled.note(read, written)
        for lost in read.lost + written.lost:
            alone = chunk.alone or chunk.stream  # whose connections are used for nothing else
            if failure := suspects.blame(batch.db, lost, alone=alone):
                tally.failures.append(failure)
                again.remove(failure.key)
        if written.busy or written.in_pieces:
            by_key = dict(zip(read.keys, map(len, read.payloads), strict=True))
            if chunk.stream:
                by_key = dict(zip(chunk.keys, chunk.estimates, strict=True))
            if written.busy:
                yield from self._conflicts(
                    batch, written.busy, by_key, tally, large=chunk.stream
                )
            for key in written.in_pieces:
                pieces = self._intake.in_pieces(key, by_key[key])
                again += yield from self._try(batch, pieces, unsettled, suspects, tally)
        return again

    def _follow_up(
        self, batch: Batch, chunk: Chunk, read: Read, written: Written, tally: _Tally
    ) -> Task[None]:
        """Delete the keys of a followed batch that do not exist any more, so that no older value
        stays on the target; note the streams, and the values that cost the source much."""
        if doomed := read.gone + written.gone:
            yield from self._writer.delete(self._scope.target_db(batch.db), doomed, written)
            again = set(written.again)
            read.gone = [key for key in read.gone if key not in again]
            written.gone = [key for key in written.gone if key not in again]
        if chunk.stream:
            if written.kinds.has_any(STREAMS):
                tally.streams += chunk.keys
            return
        tally.streams += streams_among(read.keys, read.payloads)
        if max(map(len, read.payloads), default=0) >= HEAVY_BYTES:
            sizes = zip(read.keys, map(len, read.payloads), strict=True)
            tally.heavy += [(key, size) for key, size in sizes if size >= HEAVY_BYTES]

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        taken, self._notices = self._notices, []
        for each in (self._reader, self._writer, self._streamer):
            taken += each.take_notices()
        return taken

    def take_streaming(self) -> Streaming | None:
        """Return the progress of a large value, if it is time to show it."""
        return self._streamer.take_streaming() or self._aside.take_streaming()

    def close(self) -> None:
        """Close all connections."""
        for each in (self._reader, self._writer, self._aside, self._streamer):
            each.close()

    def _stream(self, batch: Batch, unsettled: _Unsettled, chunk: Chunk) -> Task[Streamed]:
        """Copy a large value in pieces."""
        permit = yield from self._intake.stream_permit(chunk)
        try:
            wanted = _wanted(batch, unsettled, chunk.keys)
            db = self._scope.target_db(batch.db)
            return (yield from self._streamer.copy(wanted, db, chunk, permit))
        finally:
            self._intake.release(permit)

    def _copy_chunk(
        self, batch: Batch, unsettled: _Unsettled, chunk: Chunk, permit: Permit
    ) -> Task[tuple[Read, Written]]:
        wanted = _wanted(batch, unsettled, chunk.keys)
        for key in wanted.ask:
            del unsettled.read_ask[key]  # an ASK is valid for one try
        read = yield from self._reader.read(wanted, chunk.sizes)
        self._intake.correct(permit, chunk, read.keys, read.payloads)
        if names := staged(read.keys):
            self._leave_out(read, names)
        if not read.keys:
            return read, Written()
        ask = {}
        if unsettled.write_ask:
            ask = {k: unsettled.write_ask.pop(k) for k in read.keys if k in unsettled.write_ask}
        db = self._scope.target_db(batch.db)
        written = yield from self._writer.write(
            Records(
                db,
                batch.db,
                read.keys,
                read.payloads,
                read.expiries,
                ask,
                read.left,
                whole=chunk.whole,
            )
        )
        return read, written

    def _leave_out(self, read: Read, names: list[bytes]) -> None:
        """Leave out the staging keys of a copy to the source: they are never whole."""
        now = 0.0 if read.left else time.time() * 1000 + self._source_clock
        told = dict(zip(read.keys, read.expiries, strict=True))
        names = unfinished({name: told[name] - now for name in names})
        kept = [n for n, key in enumerate(read.keys) if key not in names]
        read.keys = [read.keys[n] for n in kept]
        read.payloads = [read.payloads[n] for n in kept]
        read.expiries = [read.expiries[n] for n in kept]
        read.staging += len(names)
        if names and not self._left_out:
            self._left_out = True
            self._notices.append(STAGING_LEFT_OUT)

    def _conflicts(
        self,
        batch: Batch,
        keys: list[bytes],
        sizes: dict[bytes, int],
        tally: _Tally,
        *,
        large: bool,
    ) -> Task[None]:
        """Settle keys that the target has: copied already if equal, else by the policy."""

        def compare(sides: Sides, keys: list[bytes]) -> Reading[Told]:
            shift, late = self._expiry_shift, self._writer.late_ms
            return differing(sides, keys, sizes=sizes, expiry_shift=shift, tolerance=late)

        compared = yield from self._aside.compare(
            batch.db, keys, sizes, len(keys), compare, large=large
        )
        different = [key for told in compared.results for key in told.different]
        for key, loss in (pair for told in compared.results for pair in told.losses.items()):
            if loss == FIELD_EXPIRIES and not self._drops:
                different.append(key)
            else:
                tally.losses.append(KeyLoss(batch.db, key, loss))
        # A key that may not be compared counts as the target's own.
        different += [failure.key for failure in compared.refused]
        opaque = {k: kind for told in compared.results for k, kind in told.incomparable.items()}
        others = len(different) + len(opaque)
        tally.failures += compared.lost
        tally.repeated += len(keys) - others - len(compared.lost)
        if self._on_conflict == "skip":
            tally.skipped += others
            return
        there = f"the target's database {self._scope.target_db(batch.db)} has this key"
        message = f"{there} with another value"
        tally.failures += [KeyFailure(batch.db, key, "busy key", message) for key in different]
        tally.failures += [
            KeyFailure(
                batch.db,
                key,
                "busy key, not comparable",
                f"{there}, and values of the type {type_name} cannot be compared: it may be this "
                "copy's own write",
            )
            for key, type_name in opaque.items()
        ]


def _wanted(batch: Batch, unsettled: _Unsettled, keys: list[bytes]) -> Wanted:
    ask = {}
    if unsettled.read_ask:
        ask = {key: unsettled.read_ask[key] for key in keys if key in unsettled.read_ask}
    return Wanted(
        batch.db,
        keys,
        batch.node,
        unsettled.by_slot,
        ask,
        frozenset(unsettled.single),
        batch.process,
    )
