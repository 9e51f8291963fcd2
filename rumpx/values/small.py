"""Compare the small values of many keys on two servers: a few pipelines for all of them.

Equal values whose DUMPs differ are common (every set before Redis 7.2, every hash with one long
value), and each would cost several round trips. So one pipeline reads the types of all keys, and
another the values, whole.

Left to `by_type`: streams, modules' types, and values that change meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rumpx.servers.resp import Argument
from rumpx.values.reading import Reader, Reading, ValueChanged, together
from rumpx.values.sides import Sides
from rumpx.values.sketches import registers

# By type: the command, and its arguments after the key.
READS: Final[dict[bytes, tuple[str, list[str]]]] = {
    b"string": ("GET", []),
    b"list": ("LRANGE", ["0", "-1"]),
    b"set": ("SMEMBERS", []),
    b"zset": ("ZRANGE", ["0", "-1", "WITHSCORES"]),
    b"hash": ("HGETALL", []),
}


def same_small_values(sides: Sides, keys: Sequence[bytes]) -> Reading[dict[bytes, bool]]:
    """Return whether the values are equal, for the keys that can be decided here.

    Raises:
        ReadRefused: a server refused a command.
    """
    if not keys:
        return {}
    source, target = sides.source, sides.target
    try:
        types, others = yield from together(_types(source, keys), _types(target, keys))
        verdicts = {key: False for key in keys if types[key] != others[key]}
        readable = {
            key: kind for key, kind in types.items() if kind in READS and key not in verdicts
        }
        both = _values(source, readable), _values(target, readable)
        values, other_values = yield from together(*both)
        verdicts |= {key: values[key] == other_values[key] for key in readable}
        hashes = {
            key: values[key]
            for key, kind in readable.items()
            if kind == b"hash" and verdicts[key] and values[key]
        }
        return verdicts | (yield from _same_field_expiries(sides, hashes))
    except ValueChanged:
        return {}


def _types(reader: Reader, keys: Sequence[bytes]) -> Reading[dict[bytes, bytes]]:
    replies = yield from reader.read_many([("TYPE", key) for key in keys])
    return dict(zip(keys, replies, strict=True))


def _values(reader: Reader, types: dict[bytes, bytes]) -> Reading[dict[bytes, Any]]:
    """Return values in a form that compares equal for equal values."""
    replies = yield from reader.read_many([read_command(kind, key) for key, kind in types.items()])
    pairs = zip(types.items(), replies, strict=True)
    return {key: meaning(kind, reply) for (key, kind), reply in pairs}


def read_command(kind: bytes, key: bytes) -> list[Argument]:
    """Return the command that reads a whole value whose type is in READS."""
    name, options = READS[kind]
    return [name, key, *options]


def meaning(kind: bytes, reply: Any) -> Any:
    """Return a reply without the parts that do not count: the order of members, the digits of a
    score, a HyperLogLog's cache."""
    if kind == b"string" and (sketch := registers(reply or b"")):
        return "HyperLogLog", sketch
    if kind == b"set":
        return set(reply)
    if kind == b"hash":
        return dict(zip(reply[::2], reply[1::2], strict=True))
    if kind == b"zset":
        return [(name, float(score)) for name, score in zip(reply[::2], reply[1::2], strict=True)]
    return reply


def _same_field_expiries(
    sides: Sides, hashes: dict[bytes, dict[bytes, bytes]]
) -> Reading[dict[bytes, bool]]:
    """Compare field expiries of hashes with equal fields; no result if a server lacks them."""
    if not hashes:
        return {}
    commands: list[list[Argument]] = [
        ["HPEXPIRETIME", key, "FIELDS", len(fields), *fields] for key, fields in hashes.items()
    ]
    source, target = sides.source, sides.target
    both = source.may_call(*commands[0]), target.may_call(*commands[0])
    if not all((yield from together(*both))):
        return {}
    replies = yield from together(source.read_many(commands), target.read_many(commands))
    pairs = zip(*replies, strict=True)
    return {key: one == other for key, (one, other) in zip(hashes, pairs, strict=True)}
