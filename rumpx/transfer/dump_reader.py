"""The reader: keys in; payloads and expiries out. DUMP first, then the expiry, for each key.

(In the other order, a key that is overwritten between the two could get the new value with the old
expiry, and vanish later.)

Expiries are read in one of three ways, by the source's abilities (`Abilities.expiry`):

- "instant": PEXPIRETIME (≥ 7.0) right after each DUMP.
- "clock": all DUMPs of a group of `GROUP_KEYS`, then TIME, the group's PTTLs, TIME again; the
  instant is the mean TIME + PTTL. If the two TIMEs differ by more than 2 ms the PTTLs are asked
  again, each between two TIMEs (outside the MULTI, if there was one), until each key's are close;
  after a few tries the closest count.
- "left": PTTL alone, where TIME is refused: the time left, which is extended by the network delay.

On a standalone source groups of `GROUP_KEYS` keys go in MULTI…EXEC, so that each pair is of one
instant. A group of more than `GROUP_BYTES`, which would block the server's other clients for too
long, is read without MULTI, key by key; so is one that the server aborted.

A value whose expiry was refused (another node's ACL or version, an ACL that has changed, a
selector) is read again by the next of the three ways, and so is every later key.

Keys that cannot be read now are returned for a retry; keys that are gone are counted; a key that
the server refuses is a failure. `read` is a task (see `runner`).

Not promised: that a pair outside MULTI is of one instant. A key overwritten between its DUMP and
its expiry gets the old value with the new expiry.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from rumpx.errors import ConnectionLost, Side
from rumpx.model.endpoint import Address
from rumpx.model.results import KeyFailure
from rumpx.servers.connections import Links
from rumpx.servers.info import clock_of
from rumpx.servers.rdb import SHORTEST_PAYLOAD, is_payload
from rumpx.servers.replies import (
    Kind,
    classify,
    denial,
    key_refused,
    malformed,
    refused,
)
from rumpx.servers.resp import (
    ASKING,
    EXEC,
    MULTI,
    TIME,
    Connection,
    Reply,
    encode,
    encode_dumps,
    encode_dumps_and_expiries,
    encode_pttls,
)
from rumpx.servers.topology import is_error
from rumpx.transfer.chunks import even_parts
from rumpx.transfer.handler import Read, Wanted
from rumpx.transfer.peer import Peer, Route
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.size_bounds import SizeBounds
from rumpx.transfer.size_reader import SizeReader, SizesBy

Expiry = Literal["instant", "clock", "left"]

GROUP_KEYS: Final = 50
GROUP_BYTES: Final = 2**20
# Values of at most so many bytes never make a group too large (the largest has GROUP_KEYS and an
# eighth).
_GROUP_SHARE: Final = GROUP_BYTES * 8 // (GROUP_KEYS * 9)
_GONE: Final = -2
_ONLY_BYTES: Final = {bytes}
_ONLY_INTS: Final = {int}
_CLOCK_SPREAD_MS: Final = 2.0
_CLOCK_TRIES: Final = 10


def no_multi(side: Side) -> str:
    """Return the notice for a side that refuses MULTI."""
    return f"The {side} refuses MULTI, so a value and its expiry are read one after the other."


def no_instants(side: Side) -> str:
    """Return the notice for a side that refuses PEXPIRETIME in the middle of a run."""
    return (
        f"The {side} refuses PEXPIRETIME for some keys: from then on expiries are computed from "
        "PTTL and TIME."
    )


def no_clock(side: Side) -> str:
    """Return the notice for a side that gives only times left."""
    return (
        f"The {side} has neither PEXPIRETIME nor TIME: expiries are read as time left, and are "
        "extended by the network delay."
    )


@dataclass(frozen=True, slots=True)
class Abilities:
    """The commands that the source allows.

    Attributes:
        expiry: how expiries are read (module docstring).
        multi: MULTI groups; only on a standalone source.
        sizes: how sizes are asked before a DUMP.
        distributions: INFO may prove that none need be asked (`size_bounds`).
    """

    expiry: Expiry
    multi: bool
    sizes: SizesBy
    distributions: bool = False


@dataclass(slots=True)
class _Request:
    """Keys read in MULTI groups, or without; `groups` are the sizes of the groups. `expiry` is how
    expiries were asked: the reader may have changed to another way since."""

    keys: list[bytes]
    node: Address | None
    connection: Connection
    expiry: Expiry
    groups: list[int] = field(default_factory=list)
    asking: bool = False


@dataclass(slots=True)
class _Pipeline:
    """Requests that were sent to one node together."""

    keys: list[bytes]
    node: Address | None
    connection: Connection
    requests: list[_Request]


class DumpReader(Peer):
    """Reads keys from the source.

    Args:
        links: connections to it.
        abilities: as found at the start.
    """

    def __init__(self, links: Links, abilities: Abilities) -> None:
        super().__init__(links)
        self._notices: list[str] = []
        self._expiry = abilities.expiry
        self._multi = abilities.multi
        self._sizes = SizeReader(links, abilities.sizes)
        self._bounds = SizeBounds(links) if abilities.distributions else None

    @property
    def exact(self) -> bool:
        """True if the source itself gives instants; else they are computed."""
        return self._expiry == "instant"

    @property
    def tells_sizes(self) -> bool:
        """True if `sizes` asks the source at all."""
        return self._sizes.by != "none"

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        taken, self._notices = self._notices, []
        asked, self._sizes.notices = self._sizes.notices, []
        return taken + asked

    def ops(self, keys: int, *, sized: bool) -> int:
        """Return how many commands the source executes for that many keys, those for their sizes
        included if they were asked."""
        groups = -(-keys // GROUP_KEYS) * 2 * (self._multi + (self._expiry == "clock"))
        asked = self._sizes.commands * sized
        return keys * (2 + asked) + groups + (1 + asked)  # each pipeline with its fence

    def largest(self, wanted: Wanted) -> Task[int | None]:
        """Return how many bytes a payload has at most, if that is proven and so few that any group
        of keys may be read in MULTI; else None; a task."""
        if self._bounds is None or self._moves(wanted):
            return None
        most = yield from self._bounds.largest(wanted)
        return most if most is not None and most <= _GROUP_SHARE else None

    def sizes(self, wanted: Wanted) -> Task[list[int] | None]:
        """Return the estimated bytes of each key's payload, 0 if a node gives none; None if the
        source gives none at all; a task. Keys that may have moved are asked for where they are
        read, else a large one would be read whole after a redirection."""
        if not self.tells_sizes:
            return None
        if not self._moves(wanted):
            return (yield from self._sizes.sizes(wanted))
        sizes = [0] * len(wanted.keys)
        known = False
        for route in self._wanted_routes(wanted):
            part = Wanted(wanted.db, [wanted.keys[n] for n in route.positions], route.node)
            told = yield from self._sizes.sizes(part, asking=route.asking)
            for position, size in zip(route.positions, told or (), strict=False):
                sizes[position] = size
            known = known or told is not None
        return sizes if known else None

    def read(self, wanted: Wanted, sizes: Sequence[int] | None) -> Task[Read]:
        """Read keys; a task.

        Raises:
            SourceUnusable: a reply that every key would get (a command is refused or unknown).
        """
        result = Read(left=self._expiry == "left")
        pipelines = self._send(wanted, sizes, result)
        outcomes = yield [
            Replies(pipeline.connection, sum(map(self._reply_count, pipeline.requests)))
            for pipeline in pipelines
        ]
        for pipeline, outcome in zip(pipelines, outcomes, strict=True):
            if isinstance(outcome, ConnectionLost):
                known = _known(wanted, sizes)
                self._lost(pipeline.keys, pipeline.node, outcome, known, result)
                continue
            if wanted.process and pipeline.connection.process != wanted.process:
                result.unproven += pipeline.keys
                continue
            assert outcome is not None
            end = 0
            for request in pipeline.requests:
                start, end = end, end + self._reply_count(request)
                replies = outcome[start:end]
                if request.groups:
                    request, replies = self._executed(request, replies, result)
                if request.expiry == "clock" and not request.asking:
                    replies = yield from self._clocked(wanted.db, request, replies)
                self._sort(wanted, request, replies, result)
        if result.keys or result.gone or result.unproven:
            self._links.serves()
        return result

    def _send(
        self, wanted: Wanted, sizes: Sequence[int] | None, result: Read
    ) -> list[_Pipeline]:
        """Send the requests for all keys; keys whose node cannot be reached go to `again`."""
        pipelines = []
        routes = self._wanted_routes(wanted)
        for route, connection in self._connected(routes, wanted.db, wanted.keys, result):
            keys = wanted.keys
            if len(routes) > 1:
                keys = [keys[n] for n in route.positions]
            requests = self._requests(wanted, route, connection, keys, sizes)
            try:
                connection.send(b"".join([self._encode(request) for request in requests]))
                pipelines.append(_Pipeline(keys, route.node, connection, requests))
            except ConnectionLost as error:
                self._lost(keys, route.node, error, _known(wanted, sizes), result)
        return pipelines

    def _wanted_routes(self, wanted: Wanted) -> list[Route]:
        """Return the requests: nearly always one, to the keys' own node."""
        if not self._moves(wanted):
            return [Route(wanted.node, range(len(wanted.keys)))]
        return self._routes(wanted.keys, wanted.ask)

    def _moves(self, wanted: Wanted) -> bool:
        """Return True if keys may be at other nodes than the one that is wanted."""
        return bool(wanted.ask) or (wanted.by_slot and self._links.routes)

    def _requests(
        self,
        wanted: Wanted,
        route: Route,
        connection: Connection,
        keys: list[bytes],
        sizes: Sequence[int] | None,
    ) -> list[_Request]:
        expiry, node = self._expiry, route.node
        if route.asking or (not self._multi and expiry != "clock"):
            return [_Request(keys, node, connection, expiry, asking=route.asking)]
        requests: list[_Request] = []
        for part in even_parts(keys, GROUP_KEYS):
            group = keys[part]
            if not self._multi:
                requests.append(_Request(group, node, connection, expiry))
                continue
            group_sizes = sizes[part] if sizes else ()
            alone = wanted.single and not wanted.single.isdisjoint(group)
            if sum(group_sizes) > GROUP_BYTES or alone:
                requests += [_Request([key], node, connection, expiry) for key in group]
            elif requests and requests[-1].groups and expiry == "instant":
                requests[-1].keys += group
                requests[-1].groups.append(len(group))
            else:
                requests.append(_Request(group, node, connection, expiry, [len(group)]))
        return requests

    def _encode(self, request: _Request) -> bytes:
        keys = request.keys
        if request.asking:
            second = "PEXPIRETIME" if request.expiry == "instant" else "PTTL"
            return ASKING + encode("DUMP", keys[0]) + ASKING + encode(second, keys[0])
        if not request.groups:
            return _encode_reads(keys, request.expiry)
        if request.expiry == "instant":
            return encode_dumps_and_expiries(keys, request.groups)
        parts = []
        end = 0
        for size in request.groups:
            start, end = end, end + size
            parts += [MULTI, _encode_reads(keys[start:end], request.expiry), EXEC]
        return b"".join(parts)

    def _reply_count(self, request: _Request) -> int:
        if request.asking:
            return 4
        if not request.groups:
            return _reads_count(len(request.keys), request.expiry)
        return sum(_reads_count(size, request.expiry) + 2 for size in request.groups)

    def _executed(
        self, request: _Request, replies: list[Reply], result: Read
    ) -> tuple[_Request, list[Reply]]:
        """Return EXEC's answers for the groups as if there were no MULTI; drop aborted groups."""
        answers: list[Reply] = []
        keys = request.keys
        end = first = 0
        for size in request.groups:
            start, end = end, end + _reads_count(size, request.expiry) + 2
            answer = replies[end - 1]
            if isinstance(answer, list):
                if len(answer) != end - start - 2:
                    # The fence counts only whole answers.
                    raise malformed(self.side, request.connection.name, "EXEC")
                answers += answer
                first += size
            else:
                self._aborted(keys[first : first + size], replies[start:end], result)
                keys = keys[:first] + keys[first + size :]
        return _Request(keys, request.node, request.connection, request.expiry), answers

    def _clocked(
        self, db: int, request: _Request, replies: list[Reply]
    ) -> Task[list[Reply]]:
        """Return replies with instants in the place of TIME, PTTLs, TIME."""
        count = len(request.keys)
        if not count:
            return []
        return replies[:count] + (yield from self._instants(db, request, replies[count:]))

    def _instants(
        self, db: int, request: _Request, clocked: list[Reply]
    ) -> Task[list[Reply]]:
        """Return each key's expiry by the clock read around it; ask again where that took long.

        On the second try each PTTL has a TIME before and after it: a server that pauses between two
        commands then spoils one key, not the group, and another one the next time.
        """
        first, last = clocked[0], clocked[-1]
        if is_error(first) or is_error(last):
            return [first if is_error(first) else last] * len(request.keys)
        before, after = (clock_of(request.connection, reply) for reply in (first, last))
        instants = [_instant(left, before, after) for left in clocked[1:-1]]
        spreads = [after - before] * len(instants)
        for _ in range(_CLOCK_TRIES):
            wide = [n for n, spread in enumerate(spreads) if spread > _CLOCK_SPREAD_MS]
            if not wide:
                break
            try:
                pairs = (encode_pttls([request.keys[n]]) + TIME for n in wide)
                # Other tasks may have used the connection since, and selected their database.
                connection = self._links.connect(request.node, db)
                connection.send(TIME + b"".join(pairs))
            except ConnectionLost:
                break
            (outcome,) = yield [Replies(connection, 2 * len(wide) + 1)]
            if not isinstance(outcome, list):
                break
            if any(map(is_error, outcome[::2])):
                break  # TIME is refused by now
            clocks = [clock_of(connection, reply) for reply in outcome[::2]]
            for position, n in enumerate(wide):
                before, after = clocks[position : position + 2]
                if after - before < spreads[n]:
                    spreads[n] = after - before
                    instants[n] = _instant(outcome[2 * position + 1], before, after)
        return instants

    def _sort(
        self, wanted: Wanted, request: _Request, replies: list[Reply], result: Read
    ) -> None:
        """Sort replies into the results of each key."""
        db = wanted.db
        payloads, expiries = self._pairs(request, replies)
        plain = set(map(type, payloads)) == _ONLY_BYTES and set(map(type, expiries)) == _ONLY_INTS
        whole = plain and min(map(len, payloads)) >= SHORTEST_PAYLOAD  # type: ignore[arg-type]
        if whole and min(expiries) > _GONE:  # type: ignore[type-var,operator]
            result.keys += request.keys
            result.payloads += payloads  # type: ignore[arg-type]
            result.expiries += expiries  # type: ignore[arg-type]
            return
        for key, payload, expiry in zip(request.keys, payloads, expiries, strict=True):
            if is_payload(payload) and isinstance(expiry, int) and expiry > _GONE:
                result.keys.append(key)
                result.payloads.append(payload)
                result.expiries.append(expiry)
            elif is_error(payload):
                self._error(db, key, payload, "DUMP", request, result)
            elif is_error(expiry):
                if not self._other_way(request.expiry, expiry):
                    self._error(db, key, expiry, "PTTL", request, result)
                else:
                    result.again.append(key)
            elif payload is None or (is_payload(payload) and expiry == _GONE):
                result.absent(key, wanted, request.connection.process)
            else:
                name = request.connection.name
                raise malformed(self.side, name, "DUMP or the command for its expiry")

    def _pairs(
        self, request: _Request, replies: list[Reply]
    ) -> tuple[list[Reply], list[Reply]]:
        """Split replies into payloads and expiries in their final form."""
        if request.asking:
            payloads, expiries = [replies[1]], [replies[3]]
            if request.expiry == "clock":  # one key in migration: use the local clock
                now = int(time.time() * 1000)
                expiries = [e + now if isinstance(e, int) and e >= 0 else e for e in expiries]
        elif request.expiry == "instant":
            return replies[0::2], replies[1::2]
        else:  # with "clock", already instants: see `_clocked`
            count = len(request.keys)
            payloads, expiries = replies[:count], replies[count:]
        if request.expiry == "left":
            # A time to live of 0 means gone: RESTORE with 0 would make the key immortal.
            expiries = [_GONE if left == 0 else left for left in expiries]
        return payloads, expiries

    def _other_way(self, way: Expiry, error: Reply) -> bool:
        """Return True if an expiry was refused, though its value was not, and another way may read
        it; change the reader to that way, if it has not changed yet."""
        if way == "left" or not (refused(error) or (way == "instant" and key_refused(error))):
            return False
        if way == self._expiry:
            side = self.side
            self._expiry = "clock" if way == "instant" else "left"
            self._notices.append(no_instants(side) if way == "instant" else no_clock(side))
        return True

    def _aborted(self, keys: list[bytes], replies: list[Reply], result: Read) -> None:
        """Handle a group that was not executed. One refused key aborts all: read them one by one;
        but a service that shards behind one address, or a proxy without MULTI, always refuses."""
        errors = [str(reply) for reply in replies if is_error(reply)]
        kinds = {classify(error).kind for error in errors}
        if any(error.startswith("CROSSSLOT") or "MULTI" in error for error in errors):
            self._multi = False
            self._notices.append(no_multi(self.side))
        if Kind.TEMPORARY in kinds:
            result.repeat(keys, errors[0])
            return
        result.again += keys
        result.single.update(keys)

    def _error(
        self, db: int, key: bytes, error: Reply, command: str, request: _Request, result: Read
    ) -> None:
        verdict = classify(error)
        if self._passes(key, error, verdict, request.node, request.connection, result):
            return
        match verdict.kind:
            case Kind.FULL | Kind.ABORTED:
                result.repeat([key], self._complaint(error, request.connection))
            case Kind.PERMANENT:
                raise denial(self.side, request.connection.name, command, error)
            case _:
                result.failures.append(KeyFailure(db, key, verdict.reason, str(error)))


def _known(wanted: Wanted, sizes: Sequence[int] | None) -> dict[bytes, int]:
    """Return the known sizes of wanted keys."""
    return dict(zip(wanted.keys, sizes, strict=True)) if sizes else {}


def _encode_reads(keys: list[bytes], expiry: Expiry) -> bytes:
    if expiry == "instant":
        return encode_dumps_and_expiries(keys)
    if expiry == "clock":
        return encode_dumps(keys) + TIME + encode_pttls(keys) + TIME
    return encode_dumps(keys) + encode_pttls(keys)


def _reads_count(keys: int, expiry: Expiry) -> int:
    return 2 * keys + (2 if expiry == "clock" else 0)


def _instant(left: Reply, before: float, after: float) -> Reply:
    """Return a PTTL between two TIMEs as an instant; whole ms, as PTTL counts them."""
    if not isinstance(left, int) or left < 0:
        return left
    return int((before + after) / 2) + left
