"""The writer: payloads in, an outcome for each key back. RESTORE, pipelined, split by slot owner.

Expiries are written as instants (ABSTTL). They are written as times left if the source gives only
these, or if the target is older than Redis 5.0; then they are computed by its clock just before.
With `shift` instants are first moved by the clocks' skew (`--clock relative`). A key whose expiry
is past on the target's clock is not sent: the server would answer +OK and store nothing.

A module may merge the value of RESTORE … REPLACE into the existing one (FalkorDB doubles a graph
that is restored over itself). So a payload of a module's type is sent without REPLACE, and if the
key exists, DEL precedes it in a second pipeline. Thus a target that refuses RESTORE or is full
reports that before anything is deleted; one that cannot read the payload loses the key's old value,
and one that refuses DEL keeps it: the key is busy, under any policy. Between the two commands
other clients find no such key.

`write` is a task (see `runner`). It retries nothing itself: keys that the target did not take now
are returned, to be *read* again, since an old payload must never be sent on doubt.

Not promised: that acknowledged writes survive the target's next failover; the coordinator watches
for that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Final

from rumpx.errors import ConnectionLost, RumpxError, TargetFull, TargetUnusable
from rumpx.model.endpoint import Address
from rumpx.model.results import KeyFailure
from rumpx.servers.connections import Links
from rumpx.servers.rdb import OF_MODULES
from rumpx.servers.replies import Kind, classify, explain_refusal, malformed
from rumpx.servers.resp import ASKING, NO_EXPIRY, Connection, RestoreEncoder, encode
from rumpx.servers.topology import is_error
from rumpx.transfer.content_stats import NO_KINDS, Kinds, Large, Scale
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.suspects import Lost, refusal

# The most by which an expiry written as a time left may be late: the commands before it in the
# pipeline, and the network delay.
LATE_MS: Final = 1_000
_first_byte = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Records:
    """Payloads to write into a database; the three lists correspond. `ask` as in Wanted, and
    `left` as in Read; `source_db` is their origin, for messages about them."""

    db: int
    source_db: int
    keys: list[bytes]
    payloads: list[bytes]
    expiries: list[int]
    ask: dict[bytes, Address] = field(default_factory=dict)
    left: bool = False


@dataclass(slots=True)
class Written:
    """The results for the keys of one `write`; `busy` keys existed already, and `lost` lists those
    of `again` that were in flight on a connection that broke. With `fatal` the run must end: then
    some keys are in none of the lists."""

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
    replies: int = 1
    """Replies for each key; the last one is RESTORE's."""


class RestoreWriter:
    """Writes payloads to the target.

    Args:
        links: connections to it.
        replace: overwrite existing keys; else they are `busy`.
        shift: ms to add to each instant.
        clock_offset: the target's clock minus ours, ms; None where unknown.
        absttl: RESTORE takes instants; else they are sent as times left.

    Attributes:
        exact: all expiries were written as they were read; else some up to `LATE_MS` later.
    """

    def __init__(
        self,
        links: Links,
        *,
        replace: bool,
        shift: int,
        clock_offset: float | None,
        absttl: bool,
    ) -> None:
        self.links = links
        self.exact = absttl
        self._absttl = absttl
        self._replaces = replace
        # Keyed by (expiries are times left, existing keys are replaced).
        self._encoders = {
            (left, replaces): RestoreEncoder(replace=replaces, absolute=not left)
            for left in (False, True)
            for replaces in (False, replace)
        }
        self._shift = shift
        self._clock_offset = clock_offset
        self._scale = Scale()

    def write(self, records: Records) -> Task[Written]:
        """Write records; a task. `fatal` is

        - TargetFull: the target answered OOM;
        - TargetUnusable: it gave an answer that every key would get.

        Keys that the target did take are counted then, too.
        """
        result = Written()
        if records.left:
            self.exact = False
        else:
            records = self._fresh(records, result)
            if not self._absttl:
                records = self._reckoned(records)
        yield from self._write(records, result)
        if self._replaces and result.busy and not result.fatal:
            busy, result.busy = set(result.busy), []
            again = _chosen(records, [n for n, key in enumerate(records.keys) if key in busy])
            yield from self._write(again, result, removing=True)
        return result

    def _write(self, records: Records, result: Written, *, removing: bool = False) -> Task[None]:
        """Write records, or note why not; with `removing` delete the existing keys first."""
        requests = self._send(records, result, removing)
        outcomes = yield [
            Replies(request.connection, len(request.positions) * request.replies, oks=True)
            for request in requests
        ]
        for request, outcome in zip(requests, outcomes, strict=True):
            if outcome is None:
                self._count(records, request.positions, result)
            elif isinstance(outcome, ConnectionLost):
                self._lost(records, request.positions, request.node, outcome, result)
            else:
                answers = outcome[request.replies - 1 :: request.replies]
                for position, answer in zip(request.positions, answers, strict=True):
                    if is_error(answer):
                        self._error(records, position, answer, request, result)
                    elif answer == b"OK":
                        self._count(records, [position], result)
                    else:
                        name = request.connection.name
                        result.fatal = result.fatal or malformed("target", name, "RESTORE")

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
        result.gone += len(expiries) - len(kept)
        return _chosen(records, kept)

    def _reckoned(self, records: Records) -> Records:
        """Return records with times left in the place of instants, for a target without ABSTTL; at
        least 1 ms, since 0 would mean no expiry."""
        now = time.time() * 1000 + (self._clock_offset or 0.0)
        left = [e if e == NO_EXPIRY else max(1, round(e - now)) for e in records.expiries]
        return replace(records, expiries=left, left=True)

    def _send(self, records: Records, result: Written, removing: bool) -> list[_Request]:
        requests = []
        for node, positions, asking in self._routes(records):
            try:
                connection = self.links.connect(node, records.db)
            except ConnectionLost as error:
                self._repeat(result, [records.keys[n] for n in positions], str(error))
                continue
            try:
                connection.send(*self._encode(records, positions, asking, removing))
                replies = (1 + asking) * (1 + removing)
                requests.append(_Request(positions, node, connection, replies))
            except ConnectionLost as error:
                self._lost(records, positions, node, error, result)
        return requests

    def _routes(self, records: Records) -> list[tuple[Address | None, Sequence[int], bool]]:
        """Return (node, positions of its keys, asking) for each request."""
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

    def _encode(
        self, records: Records, positions: Sequence[int], asking: bool, removing: bool
    ) -> list[bytes]:
        if len(positions) < len(records.keys):
            records = _chosen(records, positions)
        asked = [ASKING] if asking else []
        if not removing:
            return asked + self._encode_plain(records)
        buffers = []
        for n, key in enumerate(records.keys):
            buffers += [*asked, encode("DEL", key), *asked]
            buffers += self._encode_plain(_chosen(records, [n]))
        return buffers

    def _encode_plain(self, records: Records) -> list[bytes]:
        encoder = self._encoders[records.left, self._replaces]
        heads = bytes(map(_first_byte, records.payloads)) if self._replaces else b""
        if not any(kind in heads for kind in OF_MODULES):
            return encoder.encode(records.keys, records.payloads, records.expiries)
        buffers = []
        for opaque, run in groupby(range(len(heads)), key=lambda n: heads[n] in OF_MODULES):
            part = _chosen(records, list(run))
            encoder = self._encoders[records.left, not opaque]
            buffers += encoder.encode(part.keys, part.payloads, part.expiries)
        return buffers

    def _error(
        self, records: Records, position: int, error: object, request: _Request, result: Written
    ) -> None:
        key, name = records.keys[position], request.connection.name
        verdict = classify(error)
        match verdict.kind:
            case (Kind.MOVED | Kind.ASK) if self.links.cluster:
                self.links.redirected(key, error, request.node, name, result)
            case Kind.MOVED | Kind.ASK:
                result.fatal = result.fatal or self.links.redirected_alone(error, name)
            case Kind.TEMPORARY | Kind.ABORTED:
                if str(error).startswith("READONLY"):
                    self.links.drop(request.node)
                self._repeat(result, [key], f"The target at {name}: {error}.")
            case Kind.BUSY_KEY:
                result.busy.append(key)
            case Kind.FULL:
                words = str(error).rstrip(".")
                result.fatal = result.fatal or TargetFull(
                    f"The target at {request.connection.name} is out of memory: {words}. "
                    "Raise its maxmemory, or give it more memory, then resume."
                )
            case Kind.PERMANENT:
                result.fatal = result.fatal or TargetUnusable(
                    f"The target at {request.connection.name} refused RESTORE: "
                    f"{explain_refusal(error, 'RESTORE')}."
                )
            case Kind.KEY:
                result.failures.append(
                    KeyFailure(records.source_db, key, verdict.reason, str(error))
                )

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


def _chosen(records: Records, positions: Sequence[int]) -> Records:
    """Return the records at some positions."""
    return replace(
        records,
        keys=[records.keys[n] for n in positions],
        payloads=[records.payloads[n] for n in positions],
        expiries=[records.expiries[n] for n in positions],
    )
