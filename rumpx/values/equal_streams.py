"""Compare a stream on two servers: entries, last id and counters, groups, their consumers, and the
pending entries of each; see `by_type`."""

from __future__ import annotations

from typing import Any, Final

from rumpx.servers.endless import Endless, refuse_endless
from rumpx.values.chunked_reader import Measure
from rumpx.values.reading import Reader, Reading, ValueChanged, pairs, together
from rumpx.values.sides import Sides

# The most that two instants may differ by if one was computed from a time to live.
TOLERANCE_MS: Final = 2

_PENDING_AT_ONCE: Final = 500


def equal_streams(sides: Sides, key: bytes) -> Reading[bool]:
    attributes = yield from together(_stream(sides.source, key), _stream(sides.target, key))
    if not _same_attributes(*attributes) or not (yield from _equal_entries(sides, key)):
        return False
    return (yield from _equal_groups(sides, key))


def _stream(reader: Reader, key: bytes) -> Reading[dict[bytes, Any]]:
    attributes = pairs((yield from reader.read("XINFO", "STREAM", key)))
    compared = (b"length", b"last-generated-id", b"entries-added", b"max-deleted-entry-id")
    return {name: attributes[name] for name in compared if name in attributes}


def lacks_counters(sides: Sides, key: bytes) -> Reading[bool]:
    """Return True if a key is a stream whose counters the source has, and the target has no place
    for (before Redis 7.0).

    Raises:
        ReadRefused: a server refused a command.
    """
    try:
        if set((yield from sides.read("TYPE", key))) != {b"stream"}:
            return False
        both = yield from together(_stream(sides.source, key), _stream(sides.target, key))
    except ValueChanged:
        return False
    counters = {b"entries-added", b"max-deleted-entry-id"}
    return bool((both[0].keys() - both[1].keys()) & counters)


def _same_attributes(one: dict[bytes, Any], other: dict[bytes, Any]) -> bool:
    """Compare the fields that both report; older servers do not count added or read entries."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _equal_entries(sides: Sides, key: bytes) -> Reading[bool]:
    length = yield from sides.source.read("XLEN", key)
    start, endless, measure = b"-", Endless("entries", "XLEN"), Measure()
    while True:
        count = measure.count(sides.amount)
        entries, others = yield from sides.read("XRANGE", key, start, "+", "COUNT", count)
        if entries != others:
            return False
        if len(entries) < count:
            return True
        start = _next_id(entries[-1][0])
        measure.add(len(entries), sum(sum(map(len, members or ())) for _, members in entries))
        sides.show(key, measure.members, length)
        endless.add(_number(start), len(entries), count)
        if endless.is_far:
            endless.expect((yield from sides.source.read("XLEN", key)))
        refuse_endless(sides.source.side, sides.source.name, "XRANGE", endless.fault)


def _next_id(entry_id: bytes) -> bytes:
    """Return the id after this one; servers before 6.2 do not know the exclusive "(id"."""
    return b"%d-%d" % divmod(_number(entry_id) + 1, 2**64)


def _number(entry_id: bytes) -> int:
    """Return an id as one number, in the order of ids."""
    milliseconds, sequence = map(int, entry_id.split(b"-"))
    return milliseconds * 2**64 + sequence


def _equal_groups(sides: Sides, key: bytes) -> Reading[bool]:
    source, target = sides.source, sides.target
    groups, others = yield from together(_groups(source, key), _groups(target, key))
    if groups.keys() != others.keys():
        return False
    for name, attributes in groups.items():
        if not _same_attributes(attributes, others[name]):
            return False
        both = _consumers(source, key, name), _consumers(target, key, name)
        consumers, theirs = yield from together(*both)
        if consumers != theirs or not (yield from _equal_pending(sides, key, name)):
            return False
    return True


def _groups(reader: Reader, key: bytes) -> Reading[dict[bytes, dict[bytes, Any]]]:
    """Return each group's attributes by its name, without `lag`, which follows from the others."""
    groups = {}
    for reply in (yield from reader.read("XINFO", "GROUPS", key)):
        attributes = pairs(reply)
        attributes.pop(b"lag", None)
        groups[attributes.pop(b"name")] = attributes
    return groups


def _consumers(reader: Reader, key: bytes, group: bytes) -> Reading[dict[bytes, int]]:
    """Return each consumer's number of pending entries by its name."""
    replies = map(pairs, (yield from reader.read("XINFO", "CONSUMERS", key, group)))
    return {consumer[b"name"]: consumer[b"pending"] for consumer in replies}


def _equal_pending(sides: Sides, key: bytes, group: bytes) -> Reading[bool]:
    source, target = sides.source, sides.target
    start, endless = b"-", Endless("pending entries", "XINFO CONSUMERS")
    while True:
        both = _pending(source, key, group, start), _pending(target, key, group, start)
        entries, others = yield from together(*both)
        if len(entries) != len(others) or not all(map(_same_delivery, entries, others)):
            return False
        if len(entries) < _PENDING_AT_ONCE:
            return True
        start = _next_id(entries[-1][0])
        endless.add(_number(start), len(entries), _PENDING_AT_ONCE)
        if endless.is_far:
            endless.expect(sum((yield from _consumers(source, key, group)).values()))
        refuse_endless(source.side, source.name, "XPENDING", endless.fault)


def _pending(
    reader: Reader, key: bytes, group: bytes, start: bytes
) -> Reading[list[tuple[bytes, bytes, int, int]]]:
    """Return a chunk's ids, consumers, numbers of deliveries and instants of the last delivery."""
    asked = "XPENDING", key, group, start, "+", _PENDING_AT_ONCE
    now, [entries] = yield from reader.read_at([asked])
    return [
        (entry_id, consumer, deliveries, now - idle)
        for entry_id, consumer, idle, deliveries in entries
    ]


def _same_delivery(
    one: tuple[bytes, bytes, int, int], other: tuple[bytes, bytes, int, int]
) -> bool:
    return one[:3] == other[:3] and abs(one[3] - other[3]) <= TOLERANCE_MS
