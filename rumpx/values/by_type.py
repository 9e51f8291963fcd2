"""Compare one key's value on two servers by the commands of its type.

Encodings do not count, nor does the order of a set, hash or sorted set; that of a list or stream
does. A stream is compared by its entries, last id and counters, its groups, their consumers and the
pending entries of each; a hash by its fields' expiries as well. A HyperLogLog is compared by its
registers; a vector set by its elements with their vectors, as they are quantised, and attributes,
and its settings; a JSON document by its text. For another module's type equal DUMPs mean equal
values; different ones mean nothing, since a module may encode one value in several ways: not
comparable.

Everything is read in chunks of about CHUNK_BYTES, so that a key of any size can be compared; a
chunk is larger where single members are, or where MEMORY USAGE misjudges uneven members.
Lists, sorted sets, strings and streams are read window by window from both sides. Sets and hashes
are walked by SSCAN or HSCAN on one side and looked up on the other.

The names of a vector set's elements are read all at once: no command returns a part of them, and
that takes the server a sixth of a DUMP.

Not compared: the links between a vector set's elements, which a server builds again at RESTORE, nor
the matrix by which it reduces dimensions; a consumer's seen-time and active-time, which reading
changes; LRU and LFU data; hash fields' expiries if one of the servers does not support them. Not
promised: an answer about one instant. A key that is written meanwhile may count as either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from rumpx.servers.endless import Endless, refuse_endless
from rumpx.servers.rdb import CHECKSUM_BYTES, FOOTER_BYTES
from rumpx.values.reading import Reader, ValueChanged
from rumpx.values.sketches import LARGEST_SKETCH
from rumpx.values.small import meaning

CHUNK_BYTES: Final = 2**18
# The most that two instants may differ by if one was computed from a time to live.
TOLERANCE_MS: Final = 2

_MAX_MEMBERS: Final = 500
_MEMBERS_OF_UNKNOWN_SIZE: Final = 100


class NotComparable(Exception):
    """The DUMPs differ, and the values' module has no command that reads them whole."""

    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.type_name = type_name


def equal_by_type(source: Reader, target: Reader, key: bytes) -> bool:
    """Return True if both values have the same meaning.

    Raises:
        NotComparable: the values cannot be compared.
        ValueChanged: the key was deleted or became another type while it was read.
        ReadRefused: a server refused a command.
    """
    kind = source.read("TYPE", key)
    if kind != target.read("TYPE", key):
        return False
    if kind == b"none":
        return True
    compare = _COMPARERS.get(kind)
    if compare:
        return compare(source, target, key)
    if same_payload(source.read("DUMP", key), target.read("DUMP", key)):
        return True
    command = _WHOLE_VALUES.get(kind)
    if command and all(reader.may_call(command, key) for reader in (source, target)):
        return _same(source, target, command, key)
    raise NotComparable(kind.decode("utf-8", "backslashreplace"))


def same_payload(one: bytes | None, other: bytes | None) -> bool:
    """Return True if two DUMPs hold the same bytes, apart from the footer between versions."""
    if one is None or other is None:
        return one is other
    if one[-FOOTER_BYTES:-CHECKSUM_BYTES] == other[-FOOTER_BYTES:-CHECKSUM_BYTES]:
        return one == other
    return one[:-FOOTER_BYTES] == other[:-FOOTER_BYTES]


def _same(source: Reader, target: Reader, *command: bytes | str | int) -> bool:
    return bool(source.read(*command) == target.read(*command))


def _members_at_once(reader: Reader, key: bytes, length: int) -> int:
    """Return how many members make a chunk, by MEMORY USAGE's estimate of their size."""
    size = reader.caller.call("MEMORY", "USAGE", key)
    if not isinstance(size, int) or size <= 0:
        return _MEMBERS_OF_UNKNOWN_SIZE
    return max(1, min(_MAX_MEMBERS, CHUNK_BYTES * length // size))


def _windows(reader: Reader, key: bytes, length: int) -> Iterator[tuple[int, int]]:
    """Return the first and last rank of each chunk."""
    step = _members_at_once(reader, key, length)
    return ((start, start + step - 1) for start in range(0, length, step))


def _walk(
    reader: Reader, command: str, key: bytes, count: int, counter: str
) -> Iterator[list[bytes]]:
    """Yield the members that SSCAN or HSCAN finds, reply by reply.

    Args:
        count: COUNT.
        counter: the command that counts the members.

    Raises:
        SourceUnusable, TargetUnusable: the walk never ends.
    """
    cursor, endless = 0, Endless("members", counter)
    while True:
        reply = reader.read(command, key, cursor, "COUNT", count)
        cursor, found = int(reply[0]), reply[1]
        if found:
            yield found
        if not cursor:
            return
        size = partial(reader.read, counter, key)
        fault = endless.watch(cursor, len(found), count, size)
        refuse_endless(reader.side, reader.caller.name, command, fault)


def _equal_strings(source: Reader, target: Reader, key: bytes) -> bool:
    lengths = [reader.read("STRLEN", key) for reader in (source, target)]
    if max(lengths) <= LARGEST_SKETCH:
        return bool(
            meaning(b"string", source.read("GET", key))
            == meaning(b"string", target.read("GET", key))
        )
    length = lengths[0]
    return length == lengths[1] and all(
        _same(source, target, "GETRANGE", key, start, start + CHUNK_BYTES - 1)
        for start in range(0, length, CHUNK_BYTES)
    )


def _equal_lists(source: Reader, target: Reader, key: bytes) -> bool:
    length = source.read("LLEN", key)
    return length == target.read("LLEN", key) and all(
        _same(source, target, "LRANGE", key, start, end)
        for start, end in _windows(source, key, length)
    )


def _equal_sorted_sets(source: Reader, target: Reader, key: bytes) -> bool:
    """Compare by rank: equal sorted sets have equal order, since a member's bytes break ties."""
    length = source.read("ZCARD", key)
    return length == target.read("ZCARD", key) and all(
        _scored(source, key, *window) == _scored(target, key, *window)
        for window in _windows(source, key, length)
    )


def _scored(reader: Reader, key: bytes, start: int, end: int) -> list[tuple[bytes, float]]:
    """Return scores as numbers: versions print the same double with different digits."""
    flat = reader.read("ZRANGE", key, start, end, "WITHSCORES")
    return [(member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]


def _equal_sets(source: Reader, target: Reader, key: bytes) -> bool:
    length = source.read("SCARD", key)
    if length != target.read("SCARD", key):
        return False
    count = _members_at_once(source, key, length)
    return all(
        all(target.read_many([("SISMEMBER", key, member) for member in members]))
        for members in _walk(source, "SSCAN", key, count, "SCARD")
    )


def _equal_hashes(source: Reader, target: Reader, key: bytes) -> bool:
    """Look up each side's fields on the other.

    Lengths would save the second walk, but HLEN counts fields that have expired.
    """
    return _holds_fields_of(source, target, key) and _holds_fields_of(target, source, key)


def _holds_fields_of(one: Reader, other: Reader, key: bytes) -> bool:
    count = _members_at_once(one, key, one.read("HLEN", key))
    probe = ("HPEXPIRETIME", key, "FIELDS", 1, b"")
    expiries = one.may_call(*probe) and other.may_call(*probe)
    for found in _walk(one, "HSCAN", key, count, "HLEN"):
        fields = found[::2]
        if other.read("HMGET", key, *fields) != found[1::2]:
            return False
        if expiries and not _same(one, other, "HPEXPIRETIME", key, "FIELDS", len(fields), *fields):
            return False
    return True


def has_expiring_fields(reader: Reader, key: bytes) -> bool:
    """Return True if a field of a hash has an expiry.

    Raises:
        ValueChanged, ReadRefused: as `equal_by_type`.
    """
    if not reader.may_call("HPEXPIRETIME", key, "FIELDS", 1, b""):
        return False
    count = _members_at_once(reader, key, reader.read("HLEN", key))
    for found in _walk(reader, "HSCAN", key, count, "HLEN"):
        fields = found[::2]
        expiries = reader.read("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
        if any(expiry >= 0 for expiry in expiries or ()):
            return True
    return False


def _equal_streams(source: Reader, target: Reader, key: bytes) -> bool:
    return (
        _same_attributes(_stream(source, key), _stream(target, key))
        and _equal_entries(source, target, key)
        and _equal_groups(source, target, key)
    )


def _stream(reader: Reader, key: bytes) -> dict[bytes, Any]:
    attributes = _pairs(reader.read("XINFO", "STREAM", key))
    compared = (b"length", b"last-generated-id", b"entries-added", b"max-deleted-entry-id")
    return {name: attributes[name] for name in compared if name in attributes}


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _same_attributes(one: dict[bytes, Any], other: dict[bytes, Any]) -> bool:
    """Compare the fields that both report; older servers do not count added or read entries."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def lacks_counters(source: Reader, target: Reader, key: bytes) -> bool:
    """Return True if a key is a stream whose counters the source has, and the target has no place
    for (before Redis 7.0).

    Raises:
        ReadRefused: a server refused a command.
    """
    try:
        kinds = {reader.read("TYPE", key) for reader in (source, target)}
        if kinds != {b"stream"}:
            return False
        counters = (b"entries-added", b"max-deleted-entry-id")
        return bool((_stream(source, key).keys() - _stream(target, key).keys()) & set(counters))
    except ValueChanged:
        return False


def _equal_entries(source: Reader, target: Reader, key: bytes) -> bool:
    count = _members_at_once(source, key, source.read("XLEN", key))
    start, endless = b"-", Endless("entries", "XLEN")
    while True:
        entries = source.read("XRANGE", key, start, "+", "COUNT", count)
        if entries != target.read("XRANGE", key, start, "+", "COUNT", count):
            return False
        if len(entries) < count:
            return True
        start = _next_id(entries[-1][0])
        size = partial(source.read, "XLEN", key)
        fault = endless.watch(_number(start), count, count, size)
        refuse_endless(source.side, source.caller.name, "XRANGE", fault)


def _next_id(entry_id: bytes) -> bytes:
    """Return the id after this one; servers before 6.2 do not know the exclusive "(id"."""
    return b"%d-%d" % divmod(_number(entry_id) + 1, 2**64)


def _number(entry_id: bytes) -> int:
    """Return an id as one number, in the order of ids."""
    milliseconds, sequence = map(int, entry_id.split(b"-"))
    return milliseconds * 2**64 + sequence


def _equal_groups(source: Reader, target: Reader, key: bytes) -> bool:
    groups = _groups(source, key)
    others = _groups(target, key)
    return groups.keys() == others.keys() and all(
        _same_attributes(attributes, others[name])
        and _consumers(source, key, name) == _consumers(target, key, name)
        and _equal_pending(source, target, key, name)
        for name, attributes in groups.items()
    )


def _groups(reader: Reader, key: bytes) -> dict[bytes, dict[bytes, Any]]:
    """Return each group's attributes by its name, without `lag`, which follows from the others."""
    groups = {}
    for reply in reader.read("XINFO", "GROUPS", key):
        attributes = _pairs(reply)
        attributes.pop(b"lag", None)
        groups[attributes.pop(b"name")] = attributes
    return groups


def _consumers(reader: Reader, key: bytes, group: bytes) -> dict[bytes, int]:
    """Return each consumer's number of pending entries by its name."""
    replies = map(_pairs, reader.read("XINFO", "CONSUMERS", key, group))
    return {consumer[b"name"]: consumer[b"pending"] for consumer in replies}


def _equal_pending(source: Reader, target: Reader, key: bytes, group: bytes) -> bool:
    start, endless = b"-", Endless("pending entries", "XINFO CONSUMERS")
    while True:
        entries = _pending(source, key, group, start)
        others = _pending(target, key, group, start)
        if len(entries) != len(others) or not all(map(_same_delivery, entries, others)):
            return False
        if len(entries) < _MAX_MEMBERS:
            return True
        start = _next_id(entries[-1][0])
        fault = endless.watch(
            _number(start),
            *(len(entries), _MAX_MEMBERS),
            lambda: sum(_consumers(source, key, group).values()),
        )
        refuse_endless(source.side, source.caller.name, "XPENDING", fault)


def _pending(
    reader: Reader, key: bytes, group: bytes, start: bytes
) -> list[tuple[bytes, bytes, int, int]]:
    """Return a chunk's ids, consumers, numbers of deliveries and instants of the last delivery."""
    now, [entries] = reader.read_at([("XPENDING", key, group, start, "+", _MAX_MEMBERS)])
    return [
        (entry_id, consumer, deliveries, now - idle)
        for entry_id, consumer, idle, deliveries in entries
    ]


def _same_delivery(
    one: tuple[bytes, bytes, int, int], other: tuple[bytes, bytes, int, int]
) -> bool:
    return one[:3] == other[:3] and abs(one[3] - other[3]) <= TOLERANCE_MS


def _equal_vector_sets(source: Reader, target: Reader, key: bytes) -> bool:
    """Look up each element of one set on the other; both have the same size."""
    attributes = _vector_set(source, key)
    if attributes != _vector_set(target, key):
        return False
    length = attributes[b"size"]
    elements = source.read("VRANDMEMBER", key, length)
    step = _members_at_once(source, key, length)
    return all(
        _elements(source, key, part) == _elements(target, key, part)
        for part in (elements[start : start + step] for start in range(0, len(elements), step))
    )


def _vector_set(reader: Reader, key: bytes) -> dict[bytes, Any]:
    """Return size and settings."""
    attributes = _pairs(reader.read("VINFO", key) or [])
    if not attributes:
        raise ValueChanged  # the key is gone
    compared = (b"size", b"quant-type", b"vector-dim", b"projection-input-dim", b"hnsw-m")
    return {name: attributes[name] for name in compared}


def _elements(reader: Reader, key: bytes, names: list[bytes]) -> list[Any]:
    """Return each element's vector as stored (quantisation, bytes, norm, range), and attribute."""
    replies = reader.read_many(
        [("VEMB", key, name, "RAW") for name in names] + [("VGETATTR", key, name) for name in names]
    )
    vectors, attributes = replies[: len(names)], replies[len(names) :]
    return [vector and [*vector[:2], *map(float, vector[2:])] for vector in vectors] + attributes


# Module types that one command reads whole.
_WHOLE_VALUES: Final = {b"ReJSON-RL": "JSON.GET"}
_COMPARERS: Final[dict[bytes, Callable[[Reader, Reader, bytes], bool]]] = {
    b"string": _equal_strings,
    b"list": _equal_lists,
    b"set": _equal_sets,
    b"hash": _equal_hashes,
    b"zset": _equal_sorted_sets,
    b"stream": _equal_streams,
    b"vectorset": _equal_vector_sets,
}


def compared(type_name: str) -> bool:
    """Return True if values of a type are compared by more than their DUMPs, on servers with it."""
    kind = type_name.encode()
    return kind in _COMPARERS or kind in _WHOLE_VALUES
