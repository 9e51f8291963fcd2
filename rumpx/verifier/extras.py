"""A worker's part of the comparison from the target: keys that only the target has.

The keys of a batch are checked on the source by EXISTS; a key that is absent there and still on the
target is extra, unless it has expired (`expired`), or is a copy's staging key (`transfer.staging`).
If replicas of the source are read, keys that one of them lacks are checked on its primary before
they count as extra. Extras are deleted only on request, each key only right after an EXISTS on the
source's primary has returned 0.

Not promised: a result for one instant.
"""

from __future__ import annotations

import time

from rumpx.model.counts import Counts
from rumpx.model.job import Scope
from rumpx.model.results import Finding, KeyFailure
from rumpx.servers.resp import Reply, encode
from rumpx.transfer.chunks import Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.messages import Ack, Batch
from rumpx.transfer.runner import Task
from rumpx.transfer.staging import staged, unfinished
from rumpx.verifier.expired import has_expired, without_fields

Clocks = tuple[float | None, float | None]
"""The source's and the target's clock minus this machine's, ms, if known."""


class Extras:
    """Finds extra keys, and deletes them.

    Args:
        source: asks the nodes that are read.
        primaries: asks the source's primaries; the same object if these are read.
        target: asks the target.
        intake: cuts batches, and grants turns.
        scope: maps databases.
        clocks: of both sides.
        shift: ms by which expiries on the target are later (`--clock relative`).
    """

    def __init__(
        self,
        source: Calls,
        primaries: Calls,
        target: Calls,
        intake: Intake,
        scope: Scope,
        clocks: Clocks,
        shift: int,
    ) -> None:
        self._source = source
        self._primaries = primaries
        self._target = target
        self._intake = intake
        self._scope = scope
        self._clocks = clocks
        self._shift = shift

    def look_for(self, batch: Batch) -> Task[Ack]:
        """Find the keys of a batch that only the target has; a task."""
        db = self._scope.source_db(batch.db)
        replies = yield from self._exist(self._source, db, batch.keys)
        failures = tuple(
            KeyFailure(db, key, "cannot be compared", str(reply))
            for key, reply in replies.items()
            if not isinstance(reply, int)
        )
        absent = [key for key, reply in replies.items() if reply == 0]
        if self._primaries is not self._source:
            asked = yield from self._primaries.each(_exists, "EXISTS", db, absent)
            absent = [key for key, reply in asked.items() if reply == 0]
        # SCAN returned them, but some may be gone by now.
        there = yield from self._target.each(_exists, "EXISTS", batch.db, absent)
        extra = [key for key, reply in there.items() if reply != 0]
        if extra:
            over = yield from self._all_over(batch.db, extra)
            over |= yield from self._being_written(batch.db, extra)
            extra = [key for key in extra if key not in over]
        counts = Counts(
            gone=len(absent) - len(extra),
            failed=len(failures),
            extra=len(extra),
            found=len(batch.keys) - len(absent) - len(failures),
        )
        findings = tuple(Finding(db, key, "extra") for key in extra)
        return Ack(batch.id, counts, failures, findings)

    def _all_over(self, db: int, keys: list[bytes]) -> Task[set[bytes]]:
        """Return the keys of the target that have expired, or whose fields all have: the source may
        have removed them, or its clock may be ahead."""
        calls = self._target
        types = yield from calls.each(_type, "TYPE", db, keys, needed=False)
        hashes = [key for key, reply in types.items() if reply == b"hash"]
        over = yield from without_fields(calls, db, hashes)
        source, target = self._clocks
        if source is None or target is None:
            return over
        left = yield from calls.each(_pttl, "PTTL", db, keys, needed=False)
        now = time.time() * 1000 + target - self._shift
        return over | {
            key
            for key, reply in left.items()
            if isinstance(reply, int) and reply >= 0 and has_expired(int(now) + reply, source)
        }

    def _being_written(self, db: int, keys: list[bytes]) -> Task[set[bytes]]:
        """Return the staging keys of a copy that is streaming a value (`transfer.staging`)."""
        left = yield from self._target.each(_pttl, "PTTL", db, staged(keys), needed=False)
        return set(unfinished(left))

    def _exist(self, source: Calls, db: int, keys: list[bytes]) -> Task[dict[bytes, Reply]]:
        """Return the source's replies to EXISTS."""
        replies: dict[bytes, Reply] = {}
        for part in self._intake.parts(keys):
            yield from self._intake.turn(len(part), ops=len(part))
            replies |= yield from source.each(_exists, "EXISTS", db, part)
        return replies

    def delete(self, batch: Batch) -> Task[Ack]:
        """Delete the keys of a batch that the source does not have; a task."""
        db = self._scope.source_db(batch.db)
        replies = yield from self._exist(self._primaries, db, batch.keys)
        absent = [key for key, reply in replies.items() if reply == 0]
        gone = yield from self._target.each(_unlink, "UNLINK", batch.db, absent)
        failures = tuple(
            KeyFailure(db, key, "cannot be deleted", str(reply))
            for key, reply in gone.items()
            if not isinstance(reply, int)
        )
        deleted = sum(reply == 1 for reply in gone.values())
        counts = Counts(
            failed=len(failures),
            deleted=deleted,
            gone=len(absent) - deleted - len(failures),
            found=len(batch.keys) - len(absent),
        )
        return Ack(batch.id, counts, failures)


def _exists(key: bytes) -> bytes:
    # A template, for speed: this command may be sent for every key of a side.
    return b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(key), key)


def _type(key: bytes) -> bytes:
    return encode("TYPE", key)


def _pttl(key: bytes) -> bytes:
    return encode("PTTL", key)


def _unlink(key: bytes) -> bytes:
    return encode("UNLINK", key)
