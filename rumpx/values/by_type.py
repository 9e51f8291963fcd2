"""Compare one key's value on two servers by the commands of its type.

Encodings do not count, nor does the order of a set, hash or sorted set; that of a list or stream
does. A stream is compared by its entries, last id and counters, its groups, their consumers and the
pending entries of each; a hash by its fields' expiries as well. A HyperLogLog is compared by its
registers; a vector set by its elements with their vectors, as they are quantised, and attributes,
and its settings; a JSON document by its text. For another module's type equal DUMPs mean equal
values; different ones mean nothing, since a module may encode one value in several ways: not
comparable.

Everything is read in chunks, so that a key of any size can be compared: a few members first, then
as many as `Sides.amount` allows, by the size of those before. A chunk is larger only where single
members are. Lists, sorted sets, strings and streams are read window by window from both sides at
once. Sets and hashes are walked by SSCAN or HSCAN on one side and looked up on the other, while the
walk continues. A module's value is read whole, if it takes both servers at most WHOLE_BYTES.

The names of a vector set's elements are read all at once: no command returns a part of them, and
that takes the server a sixth of a DUMP.

Not compared: the links between a vector set's elements, which a server builds again at RESTORE, nor
the matrix by which it reduces dimensions; a consumer's seen-time and active-time, which reading
changes; LRU and LFU data; hash fields' expiries if one of the servers does not support them. Not
promised: an answer about one instant. A key that is written meanwhile may count as either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rumpx.model.option_kinds import WHOLE_BYTES
from rumpx.servers.endless import Endless, refuse_endless
from rumpx.servers.rdb import CHECKSUM_BYTES, FOOTER_BYTES
from rumpx.servers.resp import Argument, Command
from rumpx.values.chunked_reader import FIRST_MEMBERS, Measure
from rumpx.values.equal_streams import equal_streams
from rumpx.values.reading import Reader, Reading, ValueChanged, pairs, together
from rumpx.values.sides import Sides
from rumpx.values.sketches import LARGEST_SKETCH
from rumpx.values.small import meaning


class NotComparable(Exception):
    """The DUMPs differ, and the values' module has no command that reads them whole; or they are
    too large to be read whole."""

    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.type_name = type_name


def equal_by_type(sides: Sides, key: bytes) -> Reading[bool]:
    """Return True if both values have the same meaning.

    Raises:
        NotComparable: the values cannot be compared.
        ValueChanged: the key was deleted or became another type while it was read.
        ReadRefused: a server refused a command.
    """
    kind, other = yield from sides.read("TYPE", key)
    if kind != other:
        return False
    if kind == b"none":
        return True
    compare = _COMPARERS.get(kind)
    if compare:
        return (yield from compare(sides, key))
    return (yield from _equal_whole(sides, key, kind))


def _equal_whole(sides: Sides, key: bytes, kind: bytes) -> Reading[bool]:
    """Compare the values of a module."""
    name = kind.decode("utf-8", "backslashreplace")
    usage = [("MEMORY", "USAGE", key)]
    asked = yield from together(sides.source.ask(usage), sides.target.ask(usage))
    if any(isinstance(size, int) and size > WHOLE_BYTES for (size,) in asked):
        raise NotComparable(f"{name} (too large)")
    if same_payload(*(yield from sides.read("DUMP", key))):
        return True
    if command := _WHOLE_VALUES.get(kind):
        both = sides.source.may_call(command, key), sides.target.may_call(command, key)
        if all((yield from together(*both))):
            return (yield from sides.agree(command, key))
    raise NotComparable(name)


def same_payload(one: bytes | None, other: bytes | None) -> bool:
    """Return True if two DUMPs hold the same bytes, apart from the footer between versions."""
    if one is None or other is None:
        return one is other
    if one[-FOOTER_BYTES:-CHECKSUM_BYTES] == other[-FOOTER_BYTES:-CHECKSUM_BYTES]:
        return one == other
    return one[:-FOOTER_BYTES] == other[:-FOOTER_BYTES]


class _Walk:
    """A walk through a set or hash by SSCAN or HSCAN, reply by reply.

    Args:
        command: SSCAN or HSCAN.
        counter: the command that counts the members.
        width: replies for each member.

    Attributes:
        done: all replies were taken.
        members: those in them.
    """

    def __init__(
        self, sides: Sides, reader: Reader, command: str, key: bytes, counter: str, width: int
    ) -> None:
        self.done = False
        self._sides = sides
        self._reader = reader
        self._command = command
        self._key = key
        self._counter = counter
        self._width = width
        self._cursor = 0
        self._count = FIRST_MEMBERS // 2
        self._measure = Measure()
        self._endless = Endless("members", counter)

    @property
    def members(self) -> int:
        return self._measure.members

    def more(self) -> Reading[list[bytes]]:
        """Return what the next reply shows: nothing once the walk is done, or in between.

        Raises:
            SourceUnusable, TargetUnusable: the walk never ends.
        """
        if self.done:
            return []
        amount = self._sides.amount
        if self.members:
            count = self._measure.count(amount)
        else:  # so far, only empty buckets
            count = self._count = min(2 * self._count, amount.members)
        asked = self._command, self._key, self._cursor, "COUNT", count
        reply = yield from self._reader.read(*asked)
        self._cursor = int(reply[0])
        found: list[bytes] = reply[1]
        self._measure.add(len(found) // self._width, sum(map(len, found)))
        self.done = not self._cursor
        if not self.done:
            reader, key = self._reader, self._key
            self._endless.add(self._cursor, len(found), count)
            if self._endless.is_far:
                self._endless.expect((yield from reader.read(self._counter, key)))
            refuse_endless(reader.side, reader.name, self._command, self._endless.fault)
        return found


def _equal_strings(sides: Sides, key: bytes) -> Reading[bool]:
    length, other = yield from sides.read("STRLEN", key)
    if max(length, other) <= LARGEST_SKETCH:
        mine, theirs = yield from sides.read("GET", key)
        return bool(meaning(b"string", mine) == meaning(b"string", theirs))
    if length != other:
        return False
    start = 0
    while start < length:
        end = start + max(1, sides.amount.size)
        if not (yield from sides.agree("GETRANGE", key, start, end - 1)):
            return False
        start = end
        sides.show(key, start, length)
    return True


def _equal_lists(sides: Sides, key: bytes) -> Reading[bool]:
    return (yield from _equal_ranks(sides, key, "LLEN", "LRANGE"))


def _equal_sorted_sets(sides: Sides, key: bytes) -> Reading[bool]:
    """Compare by rank: equal sorted sets have equal order, since a member's bytes break ties."""
    return (yield from _equal_ranks(sides, key, "ZCARD", "ZRANGE", "WITHSCORES"))


def _equal_ranks(
    sides: Sides, key: bytes, counter: str, command: str, *options: str
) -> Reading[bool]:
    length, other = yield from sides.read(counter, key)
    if length != other:
        return False
    measure = Measure()
    while (start := measure.members) < length:
        count = measure.count(sides.amount)
        end = start + count - 1
        mine, theirs = yield from sides.read(command, key, start, end, *options)
        if mine != theirs and not (options and _scored(mine) == _scored(theirs)):
            return False
        measure.add(count, sum(map(len, mine)))
        sides.show(key, measure.members, length)
    return True


def _scored(flat: list[bytes]) -> list[tuple[bytes, float]]:
    """Return scores as numbers: versions print the same double with different digits."""
    return [(member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]


def _equal_sets(sides: Sides, key: bytes) -> Reading[bool]:
    """Look up each member of one set on the other, while the next ones are found."""
    length, other = yield from sides.read("SCARD", key)
    if length != other:
        return False
    walk = _Walk(sides, sides.source, "SSCAN", key, "SCARD", 1)
    found: list[bytes] = []
    while found or not walk.done:
        known = sides.target.read_many([("SISMEMBER", key, member) for member in found])
        found, answers = yield from together(walk.more(), known)
        if not all(answers):
            return False
        sides.show(key, walk.members, length)
    return True


def _equal_hashes(sides: Sides, key: bytes) -> Reading[bool]:
    """Look up each side's fields on the other.

    Lengths would save the second walk, but HLEN counts fields that have expired.
    """
    probe = ("HPEXPIRETIME", key, "FIELDS", 1, b"")
    both = sides.source.may_call(*probe), sides.target.may_call(*probe)
    expire = all((yield from together(*both)))
    lengths = yield from sides.read("HLEN", key)
    read, length = 0, sum(lengths)
    for one, other in ((sides.source, sides.target), (sides.target, sides.source)):
        walk = _Walk(sides, one, "HSCAN", key, "HLEN", 2)
        found: list[bytes] = []
        while found or not walk.done:
            same = _same_fields(one, other, key, found, expire)
            found, equal = yield from together(walk.more(), same)
            if not equal:
                return False
            sides.show(key, read + walk.members, length)
        read += walk.members
    return True


def _same_fields(
    one: Reader, other: Reader, key: bytes, found: list[bytes], expire: bool
) -> Reading[bool]:
    """Return True if the other side has these fields, with their values, and expiries."""
    fields = found[::2]
    if not fields:
        return True
    expiries: list[Command] = [("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)] * expire
    asked: list[Command] = [("HMGET", key, *fields), *expiries]
    (values, *theirs), mine = yield from together(other.read_many(asked), one.read_many(expiries))
    return bool(values == found[1::2] and theirs == mine)


def has_expiring_fields(sides: Sides, reader: Reader, key: bytes) -> Reading[bool]:
    """Return True if a field of a hash has an expiry.

    Args:
        reader: its side.

    Raises:
        ValueChanged, ReadRefused: as `equal_by_type`.
    """
    if not (yield from reader.may_call("HPEXPIRETIME", key, "FIELDS", 1, b"")):
        return False
    walk = _Walk(sides, reader, "HSCAN", key, "HLEN", 2)
    while not walk.done:
        fields = (yield from walk.more())[::2]
        if fields:
            asked: list[Argument] = ["HPEXPIRETIME", key, "FIELDS", len(fields), *fields]
            expiries = yield from reader.read(*asked)
            if any(expiry >= 0 for expiry in expiries or ()):
                return True
    return False


def _equal_vector_sets(sides: Sides, key: bytes) -> Reading[bool]:
    """Look up each element of one set on the other; both have the same size."""
    source, target = sides.source, sides.target
    attributes, others = yield from together(_vector_set(source, key), _vector_set(target, key))
    if attributes != others:
        return False
    names = yield from source.read("VRANDMEMBER", key, attributes[b"size"])
    measure = Measure()
    while part := names[measure.members : measure.members + measure.count(sides.amount)]:
        both = _elements(source, key, part), _elements(target, key, part)
        mine, theirs = yield from together(*both)
        if mine != theirs:
            return False
        size = sum(len(vector[1]) for vector in mine[: len(part)] if vector)
        measure.add(len(part), size)
        sides.show(key, measure.members, len(names))
    return True


def _vector_set(reader: Reader, key: bytes) -> Reading[dict[bytes, Any]]:
    """Return size and settings."""
    attributes = pairs((yield from reader.read("VINFO", key)) or [])
    if not attributes:
        raise ValueChanged  # the key is gone
    compared = (b"size", b"quant-type", b"vector-dim", b"projection-input-dim", b"hnsw-m")
    return {name: attributes[name] for name in compared}


def _elements(reader: Reader, key: bytes, names: list[bytes]) -> Reading[list[Any]]:
    """Return each element's vector as stored (quantisation, bytes, norm, range), and attribute."""
    replies = yield from reader.read_many(
        [("VEMB", key, name, "RAW") for name in names] + [("VGETATTR", key, name) for name in names]
    )
    vectors, attributes = replies[: len(names)], replies[len(names) :]
    return [vector and [*vector[:2], *map(float, vector[2:])] for vector in vectors] + attributes


# Module types that one command reads whole.
_WHOLE_VALUES: Final = {b"ReJSON-RL": "JSON.GET"}
_COMPARERS: Final[dict[bytes, Callable[[Sides, bytes], Reading[bool]]]] = {
    b"string": _equal_strings,
    b"list": _equal_lists,
    b"set": _equal_sets,
    b"hash": _equal_hashes,
    b"zset": _equal_sorted_sets,
    b"stream": equal_streams,
    b"vectorset": _equal_vector_sets,
}


def compared(type_name: str) -> bool:
    """Return True if values of a type are compared by more than their DUMPs, on servers with it."""
    kind = type_name.encode()
    return kind in _COMPARERS or kind in _WHOLE_VALUES
