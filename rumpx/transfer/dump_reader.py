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
selector) is read again by the next of the three ways, and so is every later key. Sizes are also
asked by the next way after a refusal.

Keys that cannot be read now are returned for a retry; keys that are gone are counted; a key that
the server refuses is a failure. `read` is a task (see `runner`).

Not promised: that a pair outside MULTI is of one instant. A key overwritten between its DUMP and
its expiry gets the old value with the new expiry.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from rumpx.errors import ConnectionLost, Side, unusable
from rumpx.model.endpoint import Address
from rumpx.model.results import KeyFailure
from rumpx.servers.connections import Links
from rumpx.servers.info import clock_of
from rumpx.servers.rdb import SHORTEST_PAYLOAD, is_payload
from rumpx.servers.replies import (
    Kind,
    classify,
    explain_refusal,
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
    encode_memory_usage,
    encode_pttls,
)
from rumpx.servers.topology import is_error
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.suspects import Lost, refusal

Expiry = Literal["instant", "clock", "left"]

GROUP_KEYS: Final = 50
GROUP_BYTES: Final = 2**20
_GONE: Final = -2
_ONLY_BYTES: Final = {bytes}
_ONLY_INTS: Final = {int}
# The number of commands that read a key's size.
_SIZE_COMMANDS: Final = {"memory": 1, "length": 2, "none": 0}
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


def no_memory_usage(side: Side) -> str:
    """Return the notice for sizes that are estimated from lengths."""
    return f"The {side} refuses MEMORY USAGE: sizes are estimated from the lengths of values."


def no_sizes(side: Side) -> str:
    """Return the notice for a side that does not give lengths either."""
    return (
        f"The {side} refuses MEMORY USAGE and TYPE (or STRLEN, HLEN, …): values are read without "
        "knowing their size."
    )


def even_parts(keys: Sequence[object], size: int) -> Iterator[slice]:
    """Yield slices that cut keys into equal parts of about `size`, at most an eighth larger."""
    count = max(1, -(-(len(keys) - size // 8) // size))
    step = max(1, -(-len(keys) // count))
    for start in range(0, len(keys), step):
        yield slice(start, start + step)


@dataclass(frozen=True, slots=True)
class Abilities:
    """The commands that the source allows.

    Attributes:
        expiry: how expiries are read (module docstring).
        multi: MULTI groups; only on a standalone source.
        sizes: how sizes are asked before a DUMP: by MEMORY USAGE, by the length commands, or not.
    """

    expiry: Expiry
    multi: bool
    sizes: Literal["memory", "length", "none"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Keys to read. `ask` names nodes to ask a key of after ASKING; `single` keys are read
    without MULTI; `node` is the node to ask, or with `by_slot` the owner of each key's slot."""

    db: int
    keys: list[bytes]
    node: Address | None
    by_slot: bool = False
    ask: dict[bytes, Address] = field(default_factory=dict)
    single: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class Read:
    """The results for the keys of one `read`.

    `keys`, `payloads` and `expiries` (ms since 1970, or with `left` ms left, or NO_EXPIRY)
    correspond to each other. `again` keys must be retried, some at another node (`ask`), some
    without MULTI (`single`); with `waits` only after a pause. `complaint` is the last reason.
    `lost` lists those of them that were in flight on a connection that broke.
    """

    keys: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    expiries: list[int] = field(default_factory=list)
    left: bool = False
    gone: int = 0
    failures: list[KeyFailure] = field(default_factory=list)
    again: list[bytes] = field(default_factory=list)
    ask: dict[bytes, Address] = field(default_factory=dict)
    single: set[bytes] = field(default_factory=set)
    waits: bool = False
    complaint: str = ""
    lost: list[Lost] = field(default_factory=list)


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


class DumpReader:
    """Reads keys from the source.

    Args:
        links: connections to it.
        abilities: as found at the start.
    """

    def __init__(self, links: Links, abilities: Abilities) -> None:
        self.links = links
        self.notices: list[str] = []
        self._expiry = abilities.expiry
        self._multi = abilities.multi
        self._sizes = abilities.sizes

    @property
    def exact(self) -> bool:
        """True if the source itself gives instants; else they are computed."""
        return self._expiry == "instant"

    @property
    def tells_sizes(self) -> bool:
        """True if `sizes` asks the source at all."""
        return self._sizes != "none"

    def ops(self, keys: int) -> int:
        """Return how many commands the source executes for that many keys."""
        groups = -(-keys // GROUP_KEYS) * 2 * (self._multi + (self._expiry == "clock"))
        pipelines = 1 + _SIZE_COMMANDS[self._sizes]  # each with its fence
        return keys * (2 + _SIZE_COMMANDS[self._sizes]) + groups + pipelines

    def sizes(self, wanted: Wanted) -> Task[list[int] | None]:
        """Return the estimated bytes of each key's payload; None if the source gives none.

        MEMORY USAGE counts more than a payload has, except for collections with uneven members.
        """
        if not self.tells_sizes or wanted.by_slot or wanted.ask:
            return None
        try:
            if self._sizes == "memory":
                return (yield from self._memory(wanted))
            return (yield from self._lengths(wanted, wanted.keys))
        except ConnectionLost:
            return None

    def _memory(self, wanted: Wanted) -> Task[list[int] | None]:
        """Ask for sizes by MEMORY USAGE; by lengths for keys for which that is refused."""
        replies = yield from self._ask(wanted, encode_memory_usage(wanted.keys), len(wanted.keys))
        if set(map(type, replies)) == _ONLY_INTS:
            return replies  # type: ignore[return-value]
        if any(is_error(reply) and refused(reply) for reply in replies):
            self._go_without("memory")
        sizes = _numbers(replies)
        untold = [n for n, reply in enumerate(replies) if _is_refusal(reply)]
        if untold:
            lengths = yield from self._lengths(wanted, [wanted.keys[n] for n in untold])
            if lengths is None and not self.tells_sizes:
                return None
            for n, length in zip(untold, lengths or (), strict=False):
                sizes[n] = length
        return sizes

    def _lengths(self, wanted: Wanted, keys: list[bytes]) -> Task[list[int] | None]:
        """Ask for sizes by the length commands; None if these are refused."""
        asked = b"".join([encode("TYPE", key) for key in keys])
        types = yield from self._ask(wanted, asked, len(keys))
        asked = b"".join(
            [
                encode(_LENGTH.get(kind, "EXISTS") if isinstance(kind, bytes) else "EXISTS", key)
                for key, kind in zip(keys, types, strict=True)
            ]
        )
        lengths = yield from self._ask(wanted, asked, len(keys))
        if any(is_error(reply) and refused(reply) for reply in types + lengths):
            self._go_without("length")
            return None
        return [
            length * (1 if kind == b"string" else _MEMBER_BYTES) if isinstance(length, int) else 0
            for length, kind in zip(lengths, types, strict=True)
        ]

    def _ask(self, wanted: Wanted, commands: bytes, number: int) -> Task[list[Reply]]:
        connection = self.links.connect(wanted.node, wanted.db)
        connection.send(commands)
        (outcome,) = yield [Replies(connection, number)]
        if isinstance(outcome, ConnectionLost):
            raise outcome
        replies: list[Reply] = outcome
        return replies

    def _go_without(self, refused: Literal["memory", "length"]) -> None:
        """Ask for sizes by the next way from now on."""
        if self._sizes != refused:
            return  # changed already, or the only way for these keys
        self._sizes = "length" if refused == "memory" else "none"
        side = self.links.side
        self.notices.append(no_memory_usage(side) if refused == "memory" else no_sizes(side))

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
                self._lost(result, pipeline.keys, pipeline.node, outcome, wanted, sizes)
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
                self._sort(wanted.db, request, replies, result)
        return result

    def _send(
        self, wanted: Wanted, sizes: Sequence[int] | None, result: Read
    ) -> list[_Pipeline]:
        """Send the requests for all keys; keys whose node cannot be reached go to `again`."""
        pipelines = []
        for node, keys, asking in self._routes(wanted):
            try:
                connection = self.links.connect(node, wanted.db)
            except ConnectionLost as error:
                self._repeat(result, keys, str(error))
                continue
            requests = self._requests(wanted, node, connection, keys, sizes, asking)
            try:
                connection.send(b"".join([self._encode(request) for request in requests]))
                pipelines.append(_Pipeline(keys, node, connection, requests))
            except ConnectionLost as error:
                self._lost(result, keys, node, error, wanted, sizes)
        return pipelines

    def _routes(self, wanted: Wanted) -> list[tuple[Address | None, list[bytes], bool]]:
        """Return (node, keys, asking) for each request: nearly always one, the keys' own node."""
        if not wanted.by_slot and not wanted.ask:
            return [(wanted.node, wanted.keys, False)]
        asked = [(node, [key], True) for key, node in wanted.ask.items()]
        plain = [key for key in wanted.keys if key not in wanted.ask]
        routes = self.links.by_owner(plain)
        return [
            (node, [plain[n] for n in positions], False) for node, positions in routes.items()
        ] + asked

    def _requests(
        self,
        wanted: Wanted,
        node: Address | None,
        connection: Connection,
        keys: list[bytes],
        sizes: Sequence[int] | None,
        asking: bool,
    ) -> list[_Request]:
        expiry = self._expiry
        if asking or (not self._multi and expiry != "clock"):
            return [_Request(keys, node, connection, expiry, asking=asking)]
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
        keys: list[bytes] = []
        end = first = 0
        for size in request.groups:
            start, end = end, end + _reads_count(size, request.expiry) + 2
            group = request.keys[first : first + size]
            first += size
            answer = replies[end - 1]
            if isinstance(answer, list):
                if len(answer) != end - start - 2:
                    # The fence counts only whole answers.
                    raise malformed(self.links.side, request.connection.name, "EXEC")
                answers += answer
                keys += group
            else:
                self._aborted(group, replies[start:end], result)
        return replace(request, keys=keys, groups=[]), answers

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
                connection = self.links.connect(request.node, db)
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

    def _sort(self, db: int, request: _Request, replies: list[Reply], result: Read) -> None:
        """Sort replies into the results of each key."""
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
                result.gone += 1
            else:
                name = request.connection.name
                raise malformed(self.links.side, name, "DUMP or the command for its expiry")

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
            side = self.links.side
            self._expiry = "clock" if way == "instant" else "left"
            self.notices.append(no_instants(side) if way == "instant" else no_clock(side))
        return True

    def _aborted(self, keys: list[bytes], replies: list[Reply], result: Read) -> None:
        """Handle a group that was not executed. One refused key aborts all: read them one by one;
        but a service that shards behind one address, or a proxy without MULTI, always refuses."""
        errors = [str(reply) for reply in replies if is_error(reply)]
        kinds = {classify(error).kind for error in errors}
        if any(error.startswith("CROSSSLOT") or "MULTI" in error for error in errors):
            self._multi = False
            self.notices.append(no_multi(self.links.side))
        if Kind.TEMPORARY in kinds:
            self._repeat(result, keys, errors[0])
            return
        result.again += keys
        result.single.update(keys)

    def _error(
        self, db: int, key: bytes, error: Reply, command: str, request: _Request, result: Read
    ) -> None:
        verdict = classify(error)
        match verdict.kind:
            case Kind.MOVED | Kind.ASK:
                name = request.connection.name
                if not self.links.cluster:
                    raise self.links.redirected_alone(error, name)
                self.links.redirected(key, error, request.node, name, result)
            case Kind.TEMPORARY | Kind.FULL | Kind.ABORTED:
                complaint = f"The {self.links.side} at {request.connection.name}: {error!s}."
                self._repeat(result, [key], complaint)
            case Kind.PERMANENT:
                raise unusable(self.links.side)(
                    f"The {self.links.side} at {request.connection.name} refused {command}: "
                    f"{explain_refusal(error, command)}."
                )
            case _:
                result.failures.append(KeyFailure(db, key, verdict.reason, str(error)))

    def _lost(
        self,
        result: Read,
        keys: list[bytes],
        node: Address | None,
        error: ConnectionLost,
        wanted: Wanted,
        sizes: Sequence[int] | None,
    ) -> None:
        side = self.links.side
        if fatal := refusal(error, side):
            raise fatal
        known = dict(zip(wanted.keys, sizes, strict=True)) if sizes else {}
        result.lost.append(Lost(keys, side, node, error, known, self.links.dialer.timeout))
        self._repeat(result, keys, str(error))

    def _repeat(self, result: Read, keys: list[bytes], complaint: str) -> None:
        result.again += keys
        result.waits = True
        result.complaint = complaint


_LENGTH: Final = {
    b"string": "STRLEN",
    b"list": "LLEN",
    b"set": "SCARD",
    b"zset": "ZCARD",
    b"hash": "HLEN",
    b"stream": "XLEN",
}
# Assumed size of a collection's member if only the number of members is known.
_MEMBER_BYTES: Final = 128


def _encode_reads(keys: list[bytes], expiry: Expiry) -> bytes:
    if expiry == "instant":
        return encode_dumps_and_expiries(keys)
    if expiry == "clock":
        return encode_dumps(keys) + TIME + encode_pttls(keys) + TIME
    return encode_dumps(keys) + encode_pttls(keys)


def _reads_count(keys: int, expiry: Expiry) -> int:
    return 2 * keys + (2 if expiry == "clock" else 0)


def _is_refusal(reply: Reply) -> bool:
    return is_error(reply) and (refused(reply) or key_refused(reply))


def _numbers(replies: list[Reply]) -> list[int]:
    """Return replies with 0 for each that is not a number."""
    return [reply if isinstance(reply, int) else 0 for reply in replies]


def _instant(left: Reply, before: float, after: float) -> Reply:
    """Return a PTTL between two TIMEs as an instant; whole ms, as PTTL counts them."""
    if not isinstance(left, int) or left < 0:
        return left
    return int((before + after) / 2) + left
