"""The writer: payloads in, an outcome for each key back. RESTORE, pipelined, split by slot owner.

Expiries are written as instants (ABSTTL) unless the source could give only the time left, or the
target is older than Redis 5.0; then the time left is reckoned by its clock just before. With
`shift` they are moved by the clocks' skew first (`--clock relative`). A key whose expiry is past
on the target's clock is not sent: the server would answer +OK and store nothing.

`write` is a task (see `tasks`). It repeats nothing itself: keys that the target did not take now
are handed back, to be *read* again, since an old payload must never be sent on doubt.

Not promised: that what was acknowledged survives the target's next failover; the coordinator
watches for that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from rumpx.copy.kinds import NO_KINDS, Kinds, Large, Scale
from rumpx.copy.links import Links
from rumpx.copy.suspects import Lost, failed, refusal
from rumpx.copy.tasks import Replies, Task
from rumpx.errors import ConnectionLost, RumpxError, TargetFull, TargetUnusable
from rumpx.job import Address
from rumpx.report.snapshot import KeyFailure
from rumpx.servers.replies import Kind, classify, explain_refusal, is_farewell, redirection
from rumpx.servers.resp import ASKING, NO_EXPIRY, Connection, RestoreEncoder
from rumpx.servers.topology import is_error

# By how much an expiry that is written as a time left may come out late: what stands before it in
# the pipeline, and the way to the server.
LATE_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Records:
    """Payloads to write into a database; the three lists belong together. `ask` as in Wanted;
    `source_db` is where they come from, for what is told of them."""

    db: int
    source_db: int
    keys: list[bytes]
    payloads: list[bytes]
    expiries: list[int]
    ask: dict[bytes, Address] = field(default_factory=dict)


@dataclass(slots=True)
class Written:
    """What became of the keys of one `write`; `busy` keys were there already, and `lost` says which
    of `again` were in flight on a connection that broke. With `fatal` the run is to end: then some
    keys are in none of the lists."""

    copied: int = 0
    payload_bytes: int = 0
    kinds: Kinds = NO_KINDS
    large: list[Large] = field(default_factory=list)
    gone: int = 0
    busy: list[bytes] = field(default_factory=list)
    failures: list[KeyFailure] = field(default_factory=list)
    again: list[bytes] = field(default_factory=list)
    ask: dict[bytes, Address] = field(default_factory=dict)
    waits: bool = False
    complaint: str = ""
    lost: list[Lost] = field(default_factory=list)
    fatal: RumpxError | None = None


@dataclass(slots=True)
class _Request:
    positions: Sequence[int]
    node: Address | None
    connection: Connection
    asking: bool = False


class RestoreWriter:
    """Writes payloads to the target.

    Args:
        links: connections to it.
        replace: overwrite keys that it has; else they are `busy`.
        absolute: expiries are instants.
        shift: ms to add to each instant.
        clock_offset: the target's clock minus ours, ms; None where unknown.
        absttl: RESTORE takes instants; else they are sent as times left.

    Attributes:
        exact: expiries come out as they were read; else up to `LATE_MS` later.
    """

    def __init__(
        self,
        links: Links,
        *,
        replace: bool,
        absolute: bool,
        shift: int,
        clock_offset: float | None,
        absttl: bool,
    ) -> None:
        self.links = links
        self.exact = absolute and absttl
        self._encoder = RestoreEncoder(replace=replace, absolute=self.exact)
        self._reckons_left = absolute and not absttl
        self._shift = shift
        self._clock_offset = clock_offset if absolute else None
        self._scale = Scale()

    def write(self, records: Records) -> Task[Written]:
        """Write records; a task. `fatal` is

        - TargetFull: the target answered OOM;
        - TargetUnusable: it gave an answer that every key would get.

        What the target did take is counted then, too.
        """
        result = Written()
        records = self._left(self._fresh(records, result))
        requests = self._send(records, result)
        outcomes = yield [
            Replies(request.connection, len(request.positions) * (1 + request.asking), oks=True)
            for request in requests
        ]
        for request, outcome in zip(requests, outcomes, strict=True):
            if outcome is None:
                self._count(records, request.positions, result)
            elif isinstance(outcome, ConnectionLost):
                self._lost(records, request.positions, request.node, outcome, result)
            else:
                answers = outcome[1::2] if request.asking else outcome
                for position, answer in zip(request.positions, answers, strict=True):
                    if is_error(answer):
                        self._error(records, position, answer, request, result)
                    else:
                        self._count(records, [position], result)
        return result

    def _count(self, records: Records, positions: Sequence[int], result: Written) -> None:
        result.copied += len(positions)
        keys, payloads = records.keys, records.payloads
        if len(positions) < len(payloads):
            keys = [keys[n] for n in positions]
            payloads = [payloads[n] for n in positions]
        kinds, large = self._scale.weigh(records.source_db, keys, payloads)
        result.payload_bytes += kinds.payload_bytes
        result.kinds += kinds
        result.large += large

    def _fresh(self, records: Records, result: Written) -> Records:
        """Records shifted to the target's clock, without those that have expired on it."""
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
        result.gone += len(expiries) - len(kept)
        return Records(
            records.db,
            records.source_db,
            [records.keys[n] for n in kept],
            [records.payloads[n] for n in kept],
            [expiries[n] for n in kept],
            records.ask,
        )

    def _left(self, records: Records) -> Records:
        """Records with times left in the place of instants, for a target without ABSTTL; at least
        1 ms, since 0 would mean no expiry."""
        if not self._reckons_left:
            return records
        now = time.time() * 1000 + (self._clock_offset or 0.0)
        left = [e if e == NO_EXPIRY else max(1, round(e - now)) for e in records.expiries]
        return replace(records, expiries=left)

    def _send(self, records: Records, result: Written) -> list[_Request]:
        requests = []
        for node, positions, asking in self._routes(records):
            connection = None
            try:
                connection = self.links.connect(node, records.db)
            except ConnectionLost as error:
                self._repeat(result, [records.keys[n] for n in positions], str(error))
                continue
            try:
                connection.send(*self._encode(records, positions, asking))
                requests.append(_Request(positions, node, connection, asking))
            except ConnectionLost as error:
                self._lost(records, positions, node, error, result)
        return requests

    def _routes(self, records: Records) -> list[tuple[Address | None, Sequence[int], bool]]:
        """(node, positions of its keys, asking)."""
        if not self.links.cluster:
            return [(None, range(len(records.keys)), False)] if records.keys else []
        owners = self.links.by_owner(records.keys)
        if not records.ask:
            return [(node, positions, False) for node, positions in owners.items()]
        routes: list[tuple[Address | None, Sequence[int], bool]] = []
        for node, positions in owners.items():
            plain = [n for n in positions if records.keys[n] not in records.ask]
            if plain:
                routes.append((node, plain, False))
        for position, key in enumerate(records.keys):
            if key in records.ask:
                routes.append((records.ask[key], [position], True))
        return routes

    def _encode(self, records: Records, positions: Sequence[int], asking: bool) -> list[bytes]:
        keys, payloads, expiries = records.keys, records.payloads, records.expiries
        if len(positions) < len(keys):
            keys = [keys[n] for n in positions]
            payloads = [payloads[n] for n in positions]
            expiries = [expiries[n] for n in positions]
        buffers = self._encoder.encode(keys, payloads, expiries)
        return [ASKING, *buffers] if asking else buffers

    def _error(
        self, records: Records, position: int, error: object, request: _Request, result: Written
    ) -> None:
        key = records.keys[position]
        verdict = classify(error)
        match verdict.kind:
            case Kind.MOVED:
                address = self.links.announced(redirection(error), request.node)
                self.links.moved(key, address)
                result.again.append(key)
            case Kind.ASK:
                result.again.append(key)
                result.ask[key] = self.links.announced(redirection(error), request.node)
            case Kind.TEMPORARY | Kind.ABORTED:
                if str(error).startswith("READONLY"):
                    self.links.drop(request.node)
                name = request.connection.name
                self._repeat(result, [key], f"The target at {name}: {error}.")
            case Kind.BUSY_KEY:
                result.busy.append(key)
            case Kind.FULL:
                words = str(error).rstrip(".")
                result.fatal = result.fatal or TargetFull(
                    f"The target at {request.connection.name} is out of memory: {words}. "
                    "Raise its maxmemory, or give it more memory, and go on."
                )
            case Kind.PERMANENT:
                result.fatal = result.fatal or TargetUnusable(
                    f"The target at {request.connection.name} refused RESTORE: "
                    f"{explain_refusal(error, 'RESTORE')}."
                )
            case Kind.KEY if is_farewell(error):  # of all keys, it answers the one at fault
                request.connection.close()
                self._turned_away(records, position, str(error), request, result)
            case Kind.KEY:
                result.failures.append(
                    KeyFailure(records.source_db, key, verdict.reason, str(error))
                )

    def _turned_away(
        self, records: Records, position: int, words: str, request: _Request, result: Written
    ) -> None:
        error = ConnectionLost(words)
        error.words = words
        key, size = records.keys[position], len(records.payloads[position])
        timeout = self.links.dialer.timeout
        lost = Lost([key], "target", request.node, error, {key: size}, timeout, written=True)
        result.failures.append(failed(records.source_db, lost, size))

    def _lost(
        self,
        records: Records,
        positions: Sequence[int],
        node: Address | None,
        error: ConnectionLost,
        result: Written,
    ) -> None:
        result.fatal = result.fatal or refusal(error, "target")
        sizes = {records.keys[n]: len(records.payloads[n]) for n in positions}
        timeout = self.links.dialer.timeout
        result.lost.append(Lost(list(sizes), "target", node, error, sizes, timeout, written=True))
        self._repeat(result, list(sizes), str(error))

    def _repeat(self, result: Written, keys: list[bytes], complaint: str) -> None:
        result.again += keys
        result.waits = True
        result.complaint = complaint
