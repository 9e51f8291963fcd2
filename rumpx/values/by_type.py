"""Whether two servers hold the same value under a key, read by the commands of its type.

Encodings do not count, nor does the order of a set, hash or sorted set; that of a list or stream
does. A stream is its entries, last id and counters, its groups, their consumers and what is
pending for each; a hash has its fields' expiries as well. A HyperLogLog is its registers, a vector
set its elements with their vectors, as they are quantised, and attributes, and its settings. A
JSON document is its text. Of another module's type equal DUMPs are equal values; different ones say
nothing, since a module may write the same value in more ways than one: not comparable.

Everything is read in chunks of about CHUNK_BYTES, so that a key of any size can be compared; a
chunk is larger where single members are, or where MEMORY USAGE misjudges uneven members.
Lists, sorted sets, strings and streams are read window by window from both sides. Of sets and
hashes one side is walked by SSCAN or HSCAN and the other asked for what was found.

The names of a vector set's elements are asked for all at once: there is no command for a part of
them, and it takes the server a sixth of a DUMP.

Not compared: the links between a vector set's elements, which a server makes anew at RESTORE, nor
the matrix by which it reduces dimensions; a consumer's seen-time and active-time, which change by
being looked at; the LRU and LFU data; hash fields' expiries where one of the servers does not know
them. Not promised: an answer about one instant. A key that is written meanwhile may count as
either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from rumpx.servers.endless import Endless, never_ends
from rumpx.values.reading import Reader, ValueChanged
from rumpx.values.shapes import FOOTER_BYTES
from rumpx.values.sketches import LARGEST_SKETCH
from rumpx.values.small import meaning

CHUNK_BYTES: Final = 2**20
# By how much two instants may differ of which one was computed from a time to live.
TOLERANCE_MS: Final = 2

_MAX_MEMBERS: Final = 1000
_MEMBERS_OF_UNKNOWN_SIZE: Final = 100
# Of a payload's footer.
CHECKSUM_BYTES: Final = 8


class NotComparable(Exception):
    """Two values are dumped differently, and their module has no command that reads them whole."""

    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.type_name = type_name


def equal_by_type(source: Reader, target: Reader, key: bytes) -> bool:
    """Whether both values mean the same.

    Raises:
        NotComparable: it cannot be told.
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


# The first byte of a payload (rdb.h of both families) tells the type, and whether a hash's fields
# may expire.
_KIND_OF_BYTE: Final = {
    **dict.fromkeys((0,), b"string"),
    **dict.fromkeys((1, 10, 14, 18), b"list"),
    **dict.fromkeys((2, 11, 20), b"set"),
    **dict.fromkeys((3, 5, 12, 17), b"zset"),
    **dict.fromkeys((4, 9, 13, 16, 22, 23, 24, 25), b"hash"),
    **dict.fromkeys((15, 19, 21, 26, 27), b"stream"),
}
# Where the value is a module's, in the old and the new form.
OF_MODULES: Final = frozenset({6, 7})
_EXPIRING_HASHES: Final = frozenset({22, 23, 24, 25})


def kind_of(payload: bytes) -> bytes:
    """The type of the value in a payload, as TYPE names it; b"" where that cannot be told."""
    return _KIND_OF_BYTE.get(payload[0], b"") if payload else b""


def fields_expire(payload: bytes) -> bool:
    """Whether the payload is that of a hash with fields that expire."""
    return payload[:1] != b"" and payload[0] in _EXPIRING_HASHES


def same_payload(one: bytes | None, other: bytes | None) -> bool:
    """Whether two DUMPs hold the same bytes; between versions, the same but for the footer."""
    if one is None or other is None:
        return one is other
    if one[-FOOTER_BYTES:-CHECKSUM_BYTES] == other[-FOOTER_BYTES:-CHECKSUM_BYTES]:
        return one == other
    return one[:-FOOTER_BYTES] == other[:-FOOTER_BYTES]


def _same(source: Reader, target: Reader, *command: bytes | str | int) -> bool:
    return bool(source.read(*command) == target.read(*command))


def _members_at_once(reader: Reader, key: bytes, length: int) -> int:
    """How many members make a chunk, as MEMORY USAGE estimates their size."""
    size = reader.caller.call("MEMORY", "USAGE", key)
    if not isinstance(size, int) or size <= 0:
        return _MEMBERS_OF_UNKNOWN_SIZE
    return max(1, min(_MAX_MEMBERS, CHUNK_BYTES * length // size))


def _windows(reader: Reader, key: bytes, length: int) -> Iterator[tuple[int, int]]:
    """First and last rank of each chunk."""
    step = _members_at_once(reader, key, length)
    return ((start, start + step - 1) for start in range(0, length, step))


def _walk(
    reader: Reader, command: str, key: bytes, count: int, counter: str
) -> Iterator[list[bytes]]:
    """What SSCAN or HSCAN finds, reply by reply.

    Args:
        count: COUNT.
        counter: the command that tells how many members there are.

    Raises:
        SourceUnusable, TargetUnusable: it does not come to an end.
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
        _refuse_endless(reader, command, endless.watch(cursor, len(found), count, size))


def _refuse_endless(reader: Reader, command: str, why: str) -> None:
    """End the run if a walk would never end, for the fault that its watch has found."""
    if why:
        raise never_ends(reader.side, reader.caller.name, command, why)


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
    """By rank: equal sorted sets stand in equal order, ties being broken by the member's bytes."""
    length = source.read("ZCARD", key)
    return length == target.read("ZCARD", key) and all(
        _scored(source, key, *window) == _scored(target, key, *window)
        for window in _windows(source, key, length)
    )


def _scored(reader: Reader, key: bytes, start: int, end: int) -> list[tuple[bytes, float]]:
    """Scores as numbers: versions print the same double with different digits."""
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
    """Each side's fields are looked up on the other.

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
    """Equal in what both servers report: older ones do not count entries added or read."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


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
        _refuse_endless(source, "XRANGE", endless.watch(_number(start), count, count, size))


def _next_id(entry_id: bytes) -> bytes:
    """The id after this one; the exclusive "(id" is not known before 6.2."""
    return b"%d-%d" % divmod(_number(entry_id) + 1, 2**64)


def _number(entry_id: bytes) -> int:
    """An id as one number, in the order of ids."""
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
    """Each group's attributes by its name, but for `lag`, which follows from the others."""
    groups = {}
    for reply in reader.read("XINFO", "GROUPS", key):
        attributes = _pairs(reply)
        attributes.pop(b"lag", None)
        groups[attributes.pop(b"name")] = attributes
    return groups


def _consumers(reader: Reader, key: bytes, group: bytes) -> dict[bytes, int]:
    """Each consumer's number of pending entries by its name."""
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
        why = endless.watch(
            _number(start),
            *(len(entries), _MAX_MEMBERS),
            lambda: sum(_consumers(source, key, group).values()),
        )
        _refuse_endless(source, "XPENDING", why)


def _pending(
    reader: Reader, key: bytes, group: bytes, start: bytes
) -> list[tuple[bytes, bytes, int, int]]:
    """Id, consumer, number of deliveries and the instant of the last one, of a chunk."""
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
    """Each element of one is looked up on the other, and they are equally many."""
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
    """Size and settings."""
    attributes = _pairs(reader.read("VINFO", key) or [])
    if not attributes:
        raise ValueChanged  # the key is gone
    compared = (b"size", b"quant-type", b"vector-dim", b"projection-input-dim", b"hnsw-m")
    return {name: attributes[name] for name in compared}


def _elements(reader: Reader, key: bytes, names: list[bytes]) -> list[Any]:
    """Vector (as it is kept: quantisation, bytes, norm and range) and attribute of each."""
    replies = reader.read_many(
        [("VEMB", key, name, "RAW") for name in names] + [("VGETATTR", key, name) for name in names]
    )
    vectors, attributes = replies[: len(names)], replies[len(names) :]
    return [vector and [*vector[:2], *map(float, vector[2:])] for vector in vectors] + attributes


# Types of modules that a command reads whole.
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
    """Whether values of a type are compared by more than their DUMPs, where servers have it."""
    kind = type_name.encode()
    return kind in _COMPARERS or kind in _WHOLE_VALUES
