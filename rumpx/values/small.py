"""Whether two servers hold the same small values under many keys: a few pipelines for them all.

Values whose DUMPs differ although they are equal are common (every set before Redis 7.2, every hash
with one long value), and key by key each would cost several round trips. So the types of all keys
are asked for in one pipeline, and the values, read whole, in another.

Left to `by_type`: streams, modules' types, and whatever changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rumpx.servers.resp import Argument
from rumpx.values.reading import Reader, ValueChanged
from rumpx.values.sketches import registers

# By type: the command, and what stands in it after the key.
READS: Final[dict[bytes, tuple[str, list[str]]]] = {
    b"string": ("GET", []),
    b"list": ("LRANGE", ["0", "-1"]),
    b"set": ("SMEMBERS", []),
    b"zset": ("ZRANGE", ["0", "-1", "WITHSCORES"]),
    b"hash": ("HGETALL", []),
}


def same_small_values(source: Reader, target: Reader, keys: Sequence[bytes]) -> dict[bytes, bool]:
    """Whether the values are equal, for those keys of which this can tell.

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
    """Values in a form in which equal ones are equal."""
    commands = [read_command(kind, key) for key, kind in types.items()]
    replies = zip(types.items(), reader.read_many(commands), strict=True)
    return {key: meaning(kind, reply) for (key, kind), reply in replies}


def read_command(kind: bytes, key: bytes) -> list[Argument]:
    """What reads the whole of a value whose type is in READS."""
    name, options = READS[kind]
    return [name, key, *options]


def meaning(kind: bytes, reply: Any) -> Any:
    """A reply without what does not count: the order of members, the digits of a score, what a
    HyperLogLog has cached."""
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
    """For each hash, given with fields that both sides have; none where one knows no expiries."""
    if not hashes:
        return {}
    commands: list[list[Argument]] = [
        ["HPEXPIRETIME", key, "FIELDS", len(fields), *fields] for key, fields in hashes.items()
    ]
    if not (source.may_call(*commands[0]) and target.may_call(*commands[0])):
        return {}
    pairs = zip(source.read_many(commands), target.read_many(commands), strict=True)
    return {key: one == other for key, (one, other) in zip(hashes, pairs, strict=True)}
