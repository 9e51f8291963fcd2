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
from rumpx.values.reading import Reader, ValueChanged
from rumpx.values.sketches import registers

# By type: the command, and its arguments after the key.
READS: Final[dict[bytes, tuple[str, list[str]]]] = {
    b"string": ("GET", []),
    b"list": ("LRANGE", ["0", "-1"]),
    b"set": ("SMEMBERS", []),
    b"zset": ("ZRANGE", ["0", "-1", "WITHSCORES"]),
    b"hash": ("HGETALL", []),
}


def same_small_values(source: Reader, target: Reader, keys: Sequence[bytes]) -> dict[bytes, bool]:
    """Return whether the values are equal, for the keys that can be decided here.

    Raises:
        ReadRefused: a server refused a command.
    """
    if not keys:
        return {}
    try:
        types = _types(source, keys)
        others = _types(target, keys)
        verdicts = {key: False for key in keys if types[key] != others[key]}
        readable = {
            key: kind for key, kind in types.items() if kind in READS and key not in verdicts
        }
        values = _values(source, readable)
        other_values = _values(target, readable)
        verdicts |= {key: values[key] == other_values[key] for key in readable}
        hashes = {
            key: values[key]
            for key, kind in readable.items()
            if kind == b"hash" and verdicts[key] and values[key]
        }
        return verdicts | _same_field_expiries(source, target, hashes)
    except ValueChanged:
        return {}


def _types(reader: Reader, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(keys, reader.read_many([("TYPE", key) for key in keys]), strict=True))


def _values(reader: Reader, types: dict[bytes, bytes]) -> dict[bytes, Any]:
    """Return values in a form that compares equal for equal values."""
    commands = [read_command(kind, key) for key, kind in types.items()]
    replies = zip(types.items(), reader.read_many(commands), strict=True)
    return {key: meaning(kind, reply) for (key, kind), reply in replies}


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
    source: Reader, target: Reader, hashes: dict[bytes, dict[bytes, bytes]]
) -> dict[bytes, bool]:
    """Compare field expiries of hashes with equal fields; no result if a server lacks them."""
    if not hashes:
        return {}
    commands: list[list[Argument]] = [
        ["HPEXPIRETIME", key, "FIELDS", len(fields), *fields] for key, fields in hashes.items()
    ]
    if not (source.may_call(*commands[0]) and target.may_call(*commands[0])):
        return {}
    pairs = zip(source.read_many(commands), target.read_many(commands), strict=True)
    return {key: one == other for key, (one, other) in zip(hashes, pairs, strict=True)}
