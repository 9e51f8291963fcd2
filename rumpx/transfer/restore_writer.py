"""The writer: payloads in, an outcome for each key back. RESTORE, pipelined, split by slot owner.

Expiries are written as instants (ABSTTL). They are written as times left if the source gives only
these, or if the target is older than Redis 5.0; then they are computed by its clock just before.
With `shift` instants are first moved by the clocks' skew (`--clock relative`). A key whose expiry
is past on the target's clock is not sent: the server would answer +OK and store nothing.

Under REPLACE a Redis frees the old value in line: one of a million members stops it for a second.
(Valkey frees it in the background, and so does a Redis with `lazyfree-lazy-server-del yes`: they
get REPLACE, and nothing of what follows.) So there

- a chunk goes without REPLACE first, so that new keys cost nothing more;
- keys that exist are asked for the sizes of their old values (`old_values`), and go with REPLACE
  where these are small;
- a large one is swapped in one transaction, in which no reader misses the key, and the old value
  returns if RESTORE is refused: MULTI · RENAME key aside · RESTORE key · RENAMENX aside key ·
  UNLINK aside · EXEC. `aside` is a name as of a staging key (`staging`). Where one of these
  commands is refused, which is said once, it is REPLACE again.

While most keys exist, as in a second copy, sizes are asked first, so that payloads are sent once.

A module may merge the value of RESTORE … REPLACE into the existing one (FalkorDB doubles a graph
that is restored over itself). So a payload of a module's type is sent without REPLACE, and if the
key exists, however large, DEL precedes it in a second pipeline. Thus a target that refuses RESTORE
or is full reports that before anything is deleted; one that cannot read the payload loses the key's
old value, and one that refuses DEL keeps it: the key is busy, under any policy. Between the two
commands other clients find no such key.

Payloads that the target would refuse as they are are made to fit first (`bridge`).

`write` is a task (see `runner`). It retries nothing itself: keys that the target did not take now
are returned, to be *read* again, since an old payload must never be sent on doubt.

Not promised: that acknowledged writes survive the target's next failover; the coordinator watches
for that. That an old value is as large as it was when its size was asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby
from operator import itemgetter
from typing import Final

from rumpx.errors import ConnectionLost
from rumpx.model.results import KeyFailure, KeyLoss
from rumpx.servers.connections import Links
from rumpx.servers.dialect import dialect_of, probes, unlike_any
from rumpx.servers.rdb import OF_MODULES, module_name, version_of
from rumpx.servers.replies import (
    Kind,
    classify,
    denial,
    key_refused,
    malformed,
    out_of_memory,
    refused,
    without_arguments,
)
from rumpx.servers.resp import (
    ASKING,
    EXEC,
    MULTI,
    NO_EXPIRY,
    Connection,
    Reply,
    RestoreEncoder,
    encode,
)
from rumpx.servers.topology import is_error
from rumpx.transfer.bridge import Bridge
from rumpx.transfer.content_stats import Scale
from rumpx.transfer.handler import Records, Written
from rumpx.transfer.old_values import LOST, NO_OLD_SIZES, OldValues
from rumpx.transfer.peer import Peer, Route
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.staging import staging_name

# The most by which an expiry written as a time left may be late: the commands before it in the
# pipeline, and the network delay.
LATE_MS: Final = 1_000
# Verdicts on a probe that say nothing about payloads.
_PASSING: Final = (Kind.TEMPORARY, Kind.MOVED, Kind.ASK, Kind.FULL, Kind.ABORTED)
_first_byte = itemgetter(0)
# RENAMENX's reply where the old value has returned.
_RETURNED: Final = 1


class _Way(Enum):
    """A way to write a key."""

    NEW = "without REPLACE"
    OVER = "with REPLACE, unless it is a module's value"
    ANEW = "as OVER, after DEL"
    SWAPPED = "in a transaction that moves the old value aside"


# Replies for each key.
_REPLIES: Final = {_Way.NEW: 1, _Way.OVER: 1, _Way.ANEW: 2, _Way.SWAPPED: 6}


@dataclass(slots=True)
class _Request:
    route: Route
    connection: Connection
    replies: int
    """Replies for each key; the last one is RESTORE's, or EXEC's."""


class RestoreWriter(Peer):
    """Writes payloads to the target.

    Args:
        links: connections to it.
        bridge: makes payloads fit.
        replace: overwrite existing keys; else they are `busy`.
        shift: ms to add to each instant.
        clock_offset: the target's clock minus ours, ms; None where unknown.
        absttl: RESTORE takes instants; else they are sent as times left.
        large_from: the bytes from which an old value is not freed in line; None if its size does
            not matter.
    """

    def __init__(
        self,
        links: Links,
        bridge: Bridge,
        *,
        replace: bool,
        shift: int,
        clock_offset: float | None,
        absttl: bool,
        large_from: int | None,
    ) -> None:
        super().__init__(links)
        self._bridge = bridge
        self._exact = absttl
        self._absttl = absttl
        self._replaces = replace
        # Keyed by (expiries are times left, existing keys are replaced).
        self._encoders = {
            (left, replaces): RestoreEncoder(replace=replaces, absolute=not left)
            for left in (False, True)
            for replaces in (False, True)
        }
        self._shift = shift
        self._clock_offset = clock_offset
        self._old = OldValues(links, large_from) if replace and large_from is not None else None
        self._swaps = self._told_of_swaps = False
        self._notices: list[str] = []
        self._scale = Scale()

    @property
    def late_ms(self) -> int:
        """0 while all expiries were written as they were read; else `LATE_MS`."""
        return 0 if self._exact else LATE_MS

    @property
    def unended(self) -> bool:
        """True if the target did not end a lost connection, so that a write may come late."""
        return self._links.unended

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        taken, self._notices = self._notices, []
        return taken

    def write(self, records: Records) -> Task[Written]:
        """Write records; a task. `fatal` is

        - TargetFull: the target answered OOM;
        - TargetUnusable: it gave an answer that every key would get.

        Keys that the target did take are counted then, too.
        """
        result = Written()
        if records.left:
            self._exact = False
        else:
            records = self._fresh(records, result)
            if not self._absttl:
                records = self._reckoned(records)
        fitted = self._bridge.fit(records, result)
        if result.failures and not self._replaces:
            yield from self._prefer_busy(records, result)
        records = fitted
        if self._replaces:
            yield from self._replace(records, result)
        else:
            yield from self._write(records, result, _Way.NEW)
        if result.copied or result.busy:
            self._links.serves()
        return result

    def delete(self, db: int, keys: list[bytes], result: Written) -> Task[None]:
        """Delete keys; a task. Those that must be *read* again go to `again`, a refused one has
        failed; the other results are as for `write`."""
        requests: list[_Request] = []
        for route, connection in self._connected(self._routes(keys, {}), db, keys, result):
            try:
                connection.send(b"".join([encode("UNLINK", keys[n]) for n in route.positions]))
                requests.append(_Request(route, connection, 1))
            except ConnectionLost as error:
                self._lost([keys[n] for n in route.positions], route.node, error, {}, result,
                           written=True)
        outcomes = yield [
            Replies(request.connection, len(request.route.positions)) for request in requests
        ]
        for request, outcome in zip(requests, outcomes, strict=True):
            names, node = [keys[n] for n in request.route.positions], request.route.node
            if not isinstance(outcome, list):
                assert outcome is not None
                self._lost(names, node, outcome, {}, result, written=True)
                continue
            for name, reply in zip(names, outcome, strict=True):
                self._deleted(db, name, reply, request, result)

    def _deleted(
        self, db: int, key: bytes, reply: Reply, request: _Request, result: Written
    ) -> None:
        """Note UNLINK's reply for a key."""
        connection = request.connection
        if isinstance(reply, int):
            result.deleted += reply
            return
        if not is_error(reply):
            result.end(malformed(self.side, connection.name, "UNLINK"))
            return
        verdict = classify(reply)
        if self._passes(key, reply, verdict, request.route.node, connection, result):
            return
        match verdict.kind:
            case Kind.ABORTED | Kind.FULL:
                result.repeat([key], self._complaint(reply, connection))
            case Kind.PERMANENT:
                result.end(denial(self.side, connection.name, "UNLINK", reply))
            case _:
                result.failures.append(KeyFailure(db, key, verdict.reason, str(reply)))

    def _replace(self, records: Records, result: Written) -> Task[None]:
        """Write records, also over keys that exist."""
        old = self._old
        if old is None:
            yield from self._write(records, result, _Way.OVER)
        elif old.likely:
            sizes = yield from self._sizes(old, records)
            old.found(len(sizes) - sizes.count(0), len(sizes))
            yield from self._over(old, records, sizes, result)
        else:
            yield from self._write(records, result, _Way.NEW)
            old.found(len(result.busy), len(records.keys))
            if result.busy and not result.fatal:
                busy, result.busy = _named(records, result.busy), []
                sizes = yield from self._sizes(old, busy)
                yield from self._over(old, busy, sizes, result)
        if result.busy and not result.fatal:
            busy, result.busy = _named(records, result.busy), []
            yield from self._write(busy, result, _Way.ANEW)

    def _sizes(self, old: OldValues, records: Records) -> Task[list[int]]:
        """Ask for the sizes of the old values, unless that is refused."""
        sizes = yield from old.sizes(records, self._routes(records.keys, records.ask))
        if not old.told and self._old:
            self._old = None
            self._notices.append(NO_OLD_SIZES)
        return sizes

    def _over(
        self, old: OldValues, records: Records, sizes: list[int], result: Written
    ) -> Task[None]:
        """Write records over old values of these sizes."""
        if LOST not in sizes and not old.is_large(max(sizes, default=0)):
            yield from self._write(records, result, _Way.OVER)
            return
        small: list[int] = []
        large: list[int] = []
        for position, size in enumerate(sizes):
            key = records.keys[position]
            if size == LOST:
                result.repeat([key], "The target's connection was lost.")
            elif not old.is_large(size) or records.payloads[position][0] in OF_MODULES:
                small.append(position)
            elif key in records.ask:
                result.repeat([key], "The slot of a key with a large old value is in migration.")
            else:
                large.append(position)
        if small:
            yield from self._write(records.chosen(small), result, _Way.OVER)
        if large and not result.fatal:
            yield from self._swap(records.chosen(large), result)

    def _swap(self, records: Records, result: Written) -> Task[None]:
        """Write records over large old values. A server that refused MULTI alone would execute the
        other commands one by one, so an empty transaction goes first, once."""
        if not self._swaps:
            refusal = yield from self._try_transaction(records)
            if refusal is None:
                result.repeat(records.keys, "The target's connection was lost.")
                return
            if refusal:
                self._old = None
                yield from self._write(records, result, _Way.OVER)
                return
            self._swaps = True
        yield from self._write(records, result, _Way.SWAPPED)

    def _try_transaction(self, records: Records) -> Task[bool | None]:
        """Return True if the target refuses transactions; None if it is not known."""
        (route, *_) = self._routes(records.keys[:1], {})
        try:
            connection = self._links.connect(route.node, records.db)
            connection.send(MULTI + EXEC)
        except ConnectionLost:
            return None
        (outcome,) = yield [Replies(connection, 2)]
        if not isinstance(outcome, list):
            return None
        errors = [reply for reply in outcome if is_error(reply)]
        if errors:
            connection.close()  # it may be in a transaction
            self._cannot_swap(connection.name, errors[0])
        return bool(errors)

    def _write(self, records: Records, result: Written, way: _Way) -> Task[None]:
        """Write records, or note why not."""
        requests = self._send(records, result, way)
        outcomes = yield [
            Replies(request.connection, len(request.route.positions) * request.replies, oks=True)
            for request in requests
        ]
        unswapped: list[int] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            positions = request.route.positions
            unread: dict[int, object] = {}
            if outcome is None:
                self._count(records, positions, result)
            elif isinstance(outcome, ConnectionLost):
                self._lost_records(records, request.route, outcome, result)
            else:
                swaps = way is _Way.SWAPPED
                answers = _answers(request, outcome, way)
                for position, answer in zip(positions, answers, strict=True):
                    if swaps and (refused(answer) or key_refused(answer)):
                        unswapped.append(position)
                        self._cannot_swap(request.connection.name, answer)
                    elif is_error(answer) and classify(answer).reason == "bad payload":
                        unread[position] = answer
                    elif is_error(answer):
                        self._error(records, position, answer, request, result)
                    elif answer == b"OK":
                        self._count(records, [position], result)
                    elif swaps and answer == _RETURNED:
                        result.gone.append(records.keys[position])
                    else:
                        name = request.connection.name
                        result.end(malformed(self.side, name, "RESTORE"))
            if unread:
                yield from self._learn(records, unread, request, result)
        if unswapped and not result.fatal:
            yield from self._write(records.chosen(unswapped), result, _Way.OVER)

    def _cannot_swap(self, name: str, answer: Reply) -> None:
        """Note that the target refuses the transaction, for each key or for this one."""
        if not self._told_of_swaps:
            self._told_of_swaps = True
            self._notices.append(
                f"The target at {name} refuses MULTI, RENAME, RENAMENX or UNLINK "
                f"({without_arguments(answer)}): where a small value replaces a large one, it "
                "frees that at once, and its other clients wait."
            )
        if not key_refused(answer):
            self._old = None

    def _prefer_busy(self, records: Records, result: Written) -> Task[None]:
        """Note the keys that the target has as busy, though nothing of them fits: then it is their
        policy that decides."""
        failures = {failure.key: failure for failure in result.failures}
        keys, result.failures = list(failures), []
        requests = []
        for route, connection in self._connected(self._routes(keys, {}), records.db, keys, result):
            names = [keys[n] for n in route.positions]
            try:
                connection.send(*(encode("EXISTS", name) for name in names))
                requests.append((route, names, Replies(connection, len(names))))
            except ConnectionLost as error:
                self._lost(names, route.node, error, {}, result, written=True)
        outcomes = yield [replies for *_, replies in requests]
        for (route, names, _), outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, ConnectionLost):
                self._lost(names, route.node, outcome, {}, result, written=True)
                continue
            for name, answer in zip(names, outcome or [], strict=True):
                if answer == 1:
                    result.busy.append(name)
                else:
                    result.failures.append(failures[name])

    def _learn(
        self,
        records: Records,
        refused: Mapping[int, object],
        request: _Request,
        result: Written,
    ) -> Task[None]:
        """Ask a node that has refused payloads for its dialect. Keys of a version that it does not
        accept any more are read again; any other payload is damaged."""
        node, asking = request.route.node, request.route.asking
        name = staging_name(records.keys[min(refused)])
        asked = [ASKING] if asking else []
        buffers = [part for probe in probes(name) for part in (*asked, encode(*probe))]
        try:
            request.connection.send(*buffers)
            (answers,) = yield [Replies(request.connection, len(buffers))]
        except ConnectionLost as error:
            answers = error
        if isinstance(answers, ConnectionLost):
            self._lost_records(records, Route(node, list(refused)), answers, result)
            return
        answers = (answers or [])[asking :: 1 + asking]
        dialect, odd = dialect_of(answers), unlike_any(answers)
        if dialect:
            self._bridge.learn(node, dialect)
        for position, answer in refused.items():
            if dialect and version_of(records.payloads[position]) not in dialect.versions:
                result.again.append(records.keys[position])
            elif odd and classify(odd).kind in _PASSING:
                self._error(records, position, odd, request, result)
            else:
                self._error(records, position, answer, request, result)

    def _count(self, records: Records, positions: Sequence[int], result: Written) -> None:
        result.copied += len(positions)
        keys, payloads = records.keys, records.payloads
        if len(positions) < len(payloads):
            keys = [keys[n] for n in positions]
            payloads = [payloads[n] for n in positions]
        if records.rewrites:
            payloads = self._count_rewrites(records, keys, payloads, result)
        kinds, large = self._scale.weigh(records.source_db, keys, payloads)
        result.payload_bytes += kinds.payload_bytes
        result.kinds += kinds
        result.large += large

    def _count_rewrites(
        self, records: Records, keys: list[bytes], payloads: list[bytes], result: Written
    ) -> list[bytes]:
        """Count copied keys that were rewritten; return the source's payloads of all keys."""
        rewrites = {key: records.rewrites[key] for key in keys if key in records.rewrites}
        result.rewritten += len(rewrites)
        for key, rewrite in rewrites.items():
            if rewrite.loss:
                result.losses.append(KeyLoss(records.source_db, key, rewrite.loss))
        return [
            rewrites[key].payload if key in rewrites else payload
            for key, payload in zip(keys, payloads, strict=True)
        ]

    def _fresh(self, records: Records, result: Written) -> Records:
        """Return records shifted to the target's clock, without those that have expired on it."""
        expiring = [expiry for expiry in records.expiries if expiry != NO_EXPIRY]
        if not expiring:
            return records
        expiries = records.expiries
        if self._shift:
            expiries = [e if e == NO_EXPIRY else max(1, e + self._shift) for e in expiries]
            records = replace(records, expiries=expiries)
        if self._clock_offset is None:
            return records
        now = time.time() * 1000 + self._clock_offset
        if min(expiring) + self._shift > now:
            return records
        kept = [n for n, expiry in enumerate(expiries) if not NO_EXPIRY < expiry <= now]
        past = set(range(len(expiries))).difference(kept)
        result.gone += [records.keys[n] for n in sorted(past)]
        return records.chosen(kept)

    def _reckoned(self, records: Records) -> Records:
        """Return records with times left in the place of instants, for a target without ABSTTL; at
        least 1 ms, since 0 would mean no expiry."""
        now = time.time() * 1000 + (self._clock_offset or 0.0)
        left = [e if e == NO_EXPIRY else max(1, round(e - now)) for e in records.expiries]
        return replace(records, expiries=left, left=True)

    def _send(self, records: Records, result: Written, way: _Way) -> list[_Request]:
        requests = []
        routes = self._routes(records.keys, records.ask)
        for route, connection in self._connected(routes, records.db, records.keys, result):
            try:
                connection.send(*self._encode(records, route, way))
                replies = (1 + route.asking) * _REPLIES[way]
                requests.append(_Request(route, connection, replies))
            except ConnectionLost as error:
                self._lost_records(records, route, error, result)
        return requests

    def _encode(self, records: Records, route: Route, way: _Way) -> list[bytes]:
        if len(route.positions) < len(records.keys):
            records = records.chosen(route.positions)
        asked = [ASKING] if route.asking else []
        if way in (_Way.NEW, _Way.OVER):
            return asked + self._encode_restores(records, way)
        buffers = []
        for n, key in enumerate(records.keys):
            one = records.chosen([n])
            if way is _Way.ANEW:
                buffers += [*asked, encode("DEL", key), *asked]
                buffers += self._encode_restores(one, _Way.OVER)
                continue
            aside = staging_name(key)
            buffers.append(MULTI + encode("RENAME", key, aside))
            buffers += self._encode_restores(one, _Way.NEW)
            buffers.append(encode("RENAMENX", aside, key) + encode("UNLINK", aside) + EXEC)
        return buffers

    def _encode_restores(self, records: Records, way: _Way) -> list[bytes]:
        replaces = way is _Way.OVER
        encoder = self._encoders[records.left, replaces]
        heads = bytes(map(_first_byte, records.payloads)) if replaces else b""
        if not any(kind in heads for kind in OF_MODULES):
            return encoder.encode(records.keys, records.payloads, records.expiries)
        buffers = []
        for opaque, run in groupby(range(len(heads)), key=lambda n: heads[n] in OF_MODULES):
            part = records.chosen(list(run))
            encoder = self._encoders[records.left, not opaque]
            buffers += encoder.encode(part.keys, part.payloads, part.expiries)
        return buffers

    def _error(
        self, records: Records, position: int, error: object, request: _Request, result: Written
    ) -> None:
        key, name = records.keys[position], request.connection.name
        verdict = classify(error)
        if self._passes(key, error, verdict, request.route.node, request.connection, result):
            return
        match verdict.kind:
            case Kind.ABORTED:
                result.repeat([key], self._complaint(error, request.connection))
            case Kind.BUSY_KEY:
                result.busy.append(key)
            case Kind.FULL:
                result.end(out_of_memory(name, error))
            case Kind.PERMANENT:
                result.end(denial(self.side, name, "RESTORE", error))
            case Kind.KEY:
                failure = _failure(records, position, verdict.reason, str(error))
                result.failures.append(failure)

    def _lost_records(
        self, records: Records, route: Route, error: ConnectionLost, result: Written
    ) -> None:
        sizes = {records.keys[n]: len(records.payloads[n]) for n in route.positions}
        self._lost(list(sizes), route.node, error, sizes, result, written=True)


def _named(records: Records, keys: Sequence[bytes]) -> Records:
    """Return the records of some keys."""
    names = set(keys)
    return records.chosen([n for n, key in enumerate(records.keys) if key in names])


def _answers(request: _Request, replies: list[Reply], way: _Way) -> list[Reply]:
    """Return RESTORE's reply for each key; see `_swapped`."""
    number = request.replies
    if way is not _Way.SWAPPED:
        return replies[number - 1 :: number]
    return [_swapped(replies[n : n + number]) for n in range(0, len(replies), number)]


def _swapped(replies: list[Reply]) -> Reply:
    """Return RESTORE's reply in a transaction; `_RETURNED` if it stored nothing, as the expiry has
    passed; the first error if the transaction was not executed, or could not move the old value
    aside."""
    *queued, done = replies
    if not isinstance(done, list) or len(done) != _REPLIES[_Way.SWAPPED] - 2:
        return next(filter(is_error, queued), done)
    moved, restored, returned, _ = done
    if is_error(restored) and classify(restored).kind is Kind.BUSY_KEY:
        return moved
    return _RETURNED if restored == b"OK" and returned == _RETURNED else restored


def _failure(records: Records, position: int, reason: str, message: str) -> KeyFailure:
    """Return the failure of a key that the target refused; if it cannot read a module's value, by
    the module's name."""
    payload = records.payloads[position]
    if reason == "bad data" and payload[0] in OF_MODULES:
        reason = "no module"
        message = (
            f"the target cannot load the module type {module_name(payload) or '(unnamed)'}: it "
            f"lacks the module, or has another version of it ({message})"
        )
    return KeyFailure(records.source_db, records.keys[position], reason, message)
