"""Read one value in chunks, by the commands of its type; without a connection of its own.

A ChunkedReader returns commands (`request`) and takes their replies (`take`), in turns, until it is
`done`. The first replies give the value's length. Each later turn gives at most one Part:

- a set or hash: SSCAN, HSCAN; a hash's field expiries are asked for together with the next chunk;
- a list or sorted set: LRANGE, ZRANGE by rank, scores as the source prints them;
- a stream: XRANGE from the last id, and for each window the pending entries of each group;
- a string is read by windows of GETRANGE (`string_windows`).

The first chunk has FIRST_MEMBERS members, later ones as many as fit a number of bytes, by the mean
size so far or that of the last chunk. The caller guards the key by WATCH: only then are the parts
one value. A reply that another state of the key explains raises ValueChanged; one that none
explains raises UnfitReply.

Not promised: chunks of a limited size. One member is never cut, and a server returns small hashes
and sets whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from rumpx.errors import Side
from rumpx.servers.endless import Endless, refuse_endless
from rumpx.servers.info import milliseconds
from rumpx.servers.resp import NO_EXPIRY, Command
from rumpx.values.reading import ValueChanged

FIRST_MEMBERS: Final = 10
# Bytes that a member takes beside its own.
_MEMBER_BYTES: Final = 16
_NO_FIELD: Final = -2
_PENDING_AT_ONCE: Final = 500
# Repeated requests during which the server's clock ticked, which makes idle times inexact.
_TICKS: Final = 10

STRING: Final = b"string"
COUNTERS: Final = {
    b"list": "LLEN",
    b"set": "SCARD",
    b"zset": "ZCARD",
    b"hash": "HLEN",
    b"stream": "XLEN",
}
"""By type: the command that returns a value's length."""
OPTIONAL: Final = frozenset({"HPEXPIRETIME", "TIME"})
"""Commands that a server may lack: the reply to take is None then."""


class UnfitReply(Exception):
    """A reply of the right shape that no state of the key explains; its argument is the command."""


@dataclass(frozen=True, slots=True)
class Amount:
    """The most to ask for in one chunk."""

    members: int
    size: int


class Measure:
    """How many members of a value make the next chunk.

    Attributes:
        members: those of all chunks so far.
        mean: expected bytes of the next member.
    """

    def __init__(self) -> None:
        self.members = 0
        self.mean = 0.0
        self._bytes = 0

    def count(self, amount: Amount) -> int:
        """Return how many members make the next chunk."""
        fitting = int(amount.size / max(1.0, self.mean))
        most = amount.members if self.members else FIRST_MEMBERS
        return max(1, min(fitting, most, amount.members))

    def add(self, number: int, size: int) -> None:
        """Count a chunk: its members, and their bytes."""
        self.members += number
        self._bytes += size + number * _MEMBER_BYTES
        if number:
            last = size / number + _MEMBER_BYTES
            self.mean = max(last, self._bytes / self.members)


@dataclass(frozen=True, slots=True)
class Pending:
    """A pending entry of a stream's group; `instant` of its last delivery, ms since 1970."""

    group: bytes
    entry: bytes
    consumer: bytes
    instant: int
    deliveries: int


@dataclass(frozen=True, slots=True)
class Group:
    """A stream's group; `entries_read` is None if it is not known."""

    name: bytes
    last_id: bytes
    entries_read: int | None
    consumers: tuple[bytes, ...]
    pending: int


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """A stream without its entries; `added` and `max_deleted` are None before Redis 7.0."""

    last_id: bytes
    added: int | None
    max_deleted: bytes | None
    length: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Some members of a value.

    Attributes:
        members: elements; field, value, …; member, score, …; none for a stream.
        size: bytes.
        expiries: of a hash's fields, ms since 1970 or NO_EXPIRY; none if they cannot expire.
        entries: of a stream, in the order of ids: id, and fields with values.
        pending: those in the window of ids of `entries`.
        stream: in the first part of a stream.
    """

    members: list[bytes]
    size: int
    expiries: list[int] = field(default_factory=list)
    entries: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    stream: StreamFacts | None = None


class ChunkedReader:
    """Reads one value.

    Args:
        key: its name.
        size: its size in bytes, as the server estimates it.
        side, name: the server, for messages.

    Attributes:
        length: its members; 0 before the first replies.
        done: all parts were returned.
    """

    kind = b""

    def __init__(self, key: bytes, size: int, side: Side, name: str) -> None:
        self.key = key
        self.side: Side = side
        self.name = name
        self.length = 0
        self.done = False
        self._size = size
        self._read = Measure()

    @property
    def fraction(self) -> float:
        """The part that was read, 0.0 to 1.0."""
        return min(1.0, self._read.members / self.length) if self.length else 0.0

    def request(self, amount: Amount) -> list[Command]:
        """Return the next commands."""
        if not self.length:
            return self._opening()
        return self._next(self._read.count(amount))

    def trial(self) -> list[Command]:
        """Return each command that reads such a value, of a reader that is not used."""
        return [*self._opening(), *self._next(1)]

    def take(self, replies: list[Any]) -> Part | None:
        """Take the replies to the last request, in order, each of its command's shape.

        Raises:
            ValueChanged: the key was written meanwhile.
            UnfitReply: no server replies so.
        """
        if not self.length:
            self._open(replies)
            return None
        return self._took(replies)

    def _opening(self) -> list[Command]:
        return [(COUNTERS[self.kind], self.key)]

    def _open(self, replies: list[Any]) -> None:
        if replies[0] <= 0:
            raise ValueChanged
        self.length = replies[0]
        self._read.mean = self._size / self.length

    def _next(self, count: int) -> list[Command]:
        raise NotImplementedError

    def _took(self, replies: list[Any]) -> Part | None:
        raise NotImplementedError

    def _part(self, members: list[bytes], number: int, expiries: list[int] | None = None) -> Part:
        size = sum(map(len, members))
        self._read.add(number, size)
        return Part(members, size, expiries or [])


class _Ranks(ChunkedReader):
    """A value that is read by ranks: `width` replies for each member."""

    command = ""
    options: tuple[str, ...] = ()
    width = 1

    def __init__(self, key: bytes, size: int, side: Side, name: str) -> None:
        super().__init__(key, size, side, name)
        self._asked = 0

    def _next(self, count: int) -> list[Command]:
        start = self._read.members
        self._asked = min(count, self.length - start)
        return [(self.command, self.key, start, start + self._asked - 1, *self.options)]

    def _took(self, replies: list[Any]) -> Part:
        (found,) = replies
        number = len(found) // self.width
        if number > self._asked:
            raise UnfitReply(self.command)
        if number < self._asked:
            raise ValueChanged
        part = self._part(found, number)
        self.done = self._read.members >= self.length
        return part


class _List(_Ranks):
    kind = b"list"
    command = "LRANGE"


class _SortedSet(_Ranks):
    kind = b"zset"
    command = "ZRANGE"
    options = ("WITHSCORES",)
    width = 2


class _Cursor(ChunkedReader):
    """A value that is read by a cursor."""

    command = ""
    width = 1

    def __init__(self, key: bytes, size: int, side: Side, name: str) -> None:
        super().__init__(key, size, side, name)
        self._cursor = 0
        self._asked = 0
        self._ended = False
        self._endless = Endless("members", COUNTERS[self.kind])

    def _next(self, count: int) -> list[Command]:
        self._asked = count
        return [(self.command, self.key, self._cursor, "COUNT", count)]

    def _found(self, reply: Any) -> list[bytes]:
        """Return the members of a SCAN's reply, and note its cursor."""
        self._cursor, found = int(reply[0]), reply[1]
        self._ended = not self._cursor
        if not self._ended:
            number = len(found) // self.width
            fault = self._endless.watch(self._cursor, number, self._asked, lambda: self.length)
            refuse_endless(self.side, self.name, self.command, fault)
        members: list[bytes] = found
        return members


class _Set(_Cursor):
    kind = b"set"
    command = "SSCAN"

    def _took(self, replies: list[Any]) -> Part:
        found = self._found(replies[0])
        self.done = self._ended
        return self._part(found, len(found))


class _Hash(_Cursor):
    """The fields of one reply of HSCAN wait for their expiries, which are asked for with the next
    one."""

    kind = b"hash"
    command = "HSCAN"
    width = 2

    def __init__(self, key: bytes, size: int, side: Side, name: str) -> None:
        super().__init__(key, size, side, name)
        self._expire = False
        self._waiting: list[bytes] = []

    def _opening(self) -> list[Command]:
        return [*super()._opening(), ("HPEXPIRETIME", self.key, "FIELDS", 1, b"")]

    def _open(self, replies: list[Any]) -> None:
        super()._open(replies)
        self._expire = replies[1] is not None

    def _next(self, count: int) -> list[Command]:
        commands: list[Command] = []
        if self._waiting:
            fields = self._waiting[::2]
            commands.append(("HPEXPIRETIME", self.key, "FIELDS", len(fields), *fields))
        if not self._ended:
            commands += super()._next(count)
        return commands

    def _took(self, replies: list[Any]) -> Part | None:
        pairs, part = self._waiting, None
        if pairs:
            part = self._with_expiries(pairs, replies.pop(0))
        self._waiting = []
        if not self._ended:
            found = self._found(replies[0])
            if not self._expire:
                part = self._part(found, len(found) // 2)
            else:
                self._waiting = found
        self.done = self._ended and not self._waiting
        return part

    def _with_expiries(self, pairs: list[bytes], expiries: Any) -> Part:
        if expiries is None:
            raise ValueChanged
        if len(expiries) != len(pairs) // 2:
            raise UnfitReply("HPEXPIRETIME")
        number = len(expiries)
        if _NO_FIELD in expiries:  # these have expired since
            kept = [n for n, expiry in enumerate(expiries) if expiry != _NO_FIELD]
            pairs = [word for n in kept for word in pairs[2 * n : 2 * n + 2]]
            expiries = [expiries[n] for n in kept]
        if set(expiries) == {NO_EXPIRY}:
            expiries = []
        return self._part(pairs, number, expiries)


class _Stream(ChunkedReader):
    """First the stream and its groups, then the groups' consumers, then windows of entries, each
    followed by the pending entries with ids in that window."""

    kind = b"stream"

    def __init__(self, key: bytes, size: int, side: Side, name: str) -> None:
        super().__init__(key, size, side, name)
        self._info: dict[bytes, Any] = {}
        self._groups: list[dict[bytes, Any]] = []
        self._facts: StreamFacts | None = None
        self._told = False
        self._start = 0  # of the next window of ids
        self._asked = 0
        self._window: list[tuple[bytes, list[bytes]]] | None = None
        self._last = 0  # of this window
        self._starts: dict[bytes, int] = {}  # groups whose pending entries are asked for, from
        self._pending: list[Pending] = []
        self._ticks = _TICKS

    def request(self, amount: Amount) -> list[Command]:
        if not self._info:
            return self._opening()
        if self._facts is None:
            return [self._consumers_of(group[b"name"]) for group in self._groups]
        if self._window is None:
            return self._next(self._read.count(amount))
        commands: list[Command] = []
        for group, first in self._starts.items():
            commands += self._pending_of(group, first)
        return commands

    def trial(self) -> list[Command]:
        return [*super().trial(), self._consumers_of(b""), *self._pending_of(b"", 0)]

    def _opening(self) -> list[Command]:
        return [("XINFO", "STREAM", self.key), ("XINFO", "GROUPS", self.key)]

    def _consumers_of(self, group: bytes) -> Command:
        return "XINFO", "CONSUMERS", self.key, group

    def _next(self, count: int) -> list[Command]:
        self._asked = count
        return [("XRANGE", self.key, _id(self._start), "+", "COUNT", count)]

    def _pending_of(self, group: bytes, first: int) -> list[Command]:
        window = _id(first), _id(self._last), _PENDING_AT_ONCE
        return [("TIME",), ("XPENDING", self.key, group, *window), ("TIME",)]

    def take(self, replies: list[Any]) -> Part | None:
        if not self._info:
            self._open(replies)
            return None
        if self._facts is None:
            self._take_consumers(replies)
            return None
        if self._window is None:
            self._take_entries(replies[0])
        else:
            self._take_pending(replies)
        return None if self._starts else self._finished()

    def _open(self, replies: list[Any]) -> None:
        self._info = _pairs(replies[0])
        if not {b"length", b"last-generated-id"} <= self._info.keys():
            raise UnfitReply("XINFO STREAM")
        self._groups = [_pairs(reply) for reply in replies[1]]
        if not all({b"last-delivered-id", b"pending"} <= group.keys() for group in self._groups):
            raise UnfitReply("XINFO GROUPS")
        self.length = self._info[b"length"]
        self._read.mean = self._size / max(1, self.length)
        if not self._groups:
            self._take_consumers([])

    def _take_consumers(self, replies: list[Any]) -> None:
        info = self._info
        self._facts = StreamFacts(
            info[b"last-generated-id"],
            info.get(b"entries-added"),
            info.get(b"max-deleted-entry-id"),
            self.length,
            tuple(
                Group(
                    group[b"name"],
                    group[b"last-delivered-id"],
                    group.get(b"entries-read"),
                    tuple(_pairs(consumer)[b"name"] for consumer in consumers),
                    group[b"pending"],
                )
                for group, consumers in zip(self._groups, replies, strict=True)
            ),
        )

    def _take_entries(self, entries: Any) -> None:
        assert self._facts
        if len(entries) > self._asked:
            raise UnfitReply("XRANGE")
        ids = [number_of(entry_id) for entry_id, _ in entries]
        if ids != sorted(ids) or (ids and ids[0] < self._start):
            raise UnfitReply("XRANGE")
        if any(fields is None for _, fields in entries):
            raise UnfitReply("XRANGE")
        self._window = [(entry_id, fields) for entry_id, fields in entries]
        whole = len(entries) < self._asked
        self._last = 2**128 - 1 if whole else ids[-1]
        self._starts = {g.name: self._start for g in self._facts.groups if g.pending}

    def _take_pending(self, replies: list[Any]) -> None:
        starts = self._starts
        self._starts = {}
        columns = replies[::3], replies[1::3], replies[2::3]
        for (group, start), before, entries, after in zip(starts.items(), *columns, strict=True):
            now = time.time() * 1000 if before is None else milliseconds(before)
            if after is not None and int(milliseconds(after)) != int(now) and self._ticks:
                self._ticks -= 1
                self._starts[group] = start  # idle times count from either: ask again
                continue
            ids = [number_of(entry[0]) for entry in entries]
            if len(ids) > _PENDING_AT_ONCE or ids != sorted(ids) or (ids and ids[0] < start):
                raise UnfitReply("XPENDING")
            self._pending += [
                Pending(group, entry_id, consumer, int(now) - idle, deliveries)
                for entry_id, consumer, idle, deliveries in entries
            ]
            self._ticks = _TICKS
            if len(ids) == _PENDING_AT_ONCE and ids[-1] < self._last:
                self._starts[group] = ids[-1] + 1

    def _finished(self) -> Part:
        """Return the part of a window that is complete."""
        assert self._window is not None
        entries, pending = self._window, self._pending
        self._window, self._pending = None, []
        size = sum(len(entry_id) + sum(map(len, fields)) for entry_id, fields in entries)
        self._read.add(len(entries), size)
        size += 32 * len(pending)
        self.done = self._last >= 2**128 - 1
        self._start = self._last + 1
        facts = None if self._told else self._facts
        self._told = True
        return Part([], size, entries=entries, pending=pending, stream=facts)


_READERS: Final[dict[bytes, type[ChunkedReader]]] = {
    reader.kind: reader for reader in (_List, _SortedSet, _Set, _Hash, _Stream)
}


KINDS: Final = (STRING, *_READERS)
"""The types whose values can be copied in pieces."""


def chunked_reader(
    kind: bytes, key: bytes, size: int, side: Side, name: str
) -> ChunkedReader | None:
    """Return a reader for a value of a type; None if there is none for that type."""
    reader = _READERS.get(kind)
    return reader(key, size, side, name) if reader else None


def trial_reads(kind: bytes, key: bytes) -> list[Command]:
    """Return each command that reads values of a type in pieces, for a key that does not exist."""
    if kind == STRING:
        return [("STRLEN", key), ("GETRANGE", key, 0, 0)]
    return _READERS[kind](key, 0, "source", "").trial()


def string_windows(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last position of each window of a string."""
    return ((start, min(start + size, length) - 1) for start in range(0, length, size))


def number_of(entry_id: bytes) -> int:
    """Return a stream's id as one number, in the order of ids."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds) * 2**64 + int(sequence)


def _id(number: int) -> bytes:
    return b"%d-%d" % divmod(number, 2**64)


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
