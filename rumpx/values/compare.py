"""Compare keys on two servers: the value by meaning, the expiry to the millisecond.

The cheapest proof comes first: equal DUMP bytes are equal values. Equal values may also have
different bytes (hash tables follow each server's hash seed, versions write different footers, a
deletion leaves another encoding); only then is a value read by the commands of its type
(`by_type`).

`differing` compares many keys: groups of keys that are small together, one pipeline of DUMPs and
expiries a side and group, and a few for those of its small values whose DUMPs differ (`small`). A
value that takes a side more than BIG_BYTES is never dumped, since DUMP stalls a server for its
whole duration; it is read in chunks. `compare_large` does that for one key.

All are generators (`reading`): they have no connections, and read both sides at once.

Not promised: an answer about one instant; a key that is written meanwhile may count as either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rumpx.servers.rdb import fields_expire, type_of
from rumpx.values.by_type import (
    NotComparable,
    equal_by_type,
    has_expiring_fields,
    same_payload,
)
from rumpx.values.equal_streams import TOLERANCE_MS, lacks_counters
from rumpx.values.reading import Reader, Reading, ReadRefused, ValueChanged, side_by_side, together
from rumpx.values.rewrite import FIELD_EXPIRIES, STREAM_COUNTERS, Loss
from rumpx.values.sides import Sides
from rumpx.values.small import same_small_values

__all__ = [
    "SMALL_BYTES",
    "LargePair",
    "NotComparable",
    "ReadRefused",
    "Told",
    "compare_large",
    "differing",
    "equal_values",
    "unlike",
]

BIG_BYTES: Final = 2**20

_GROUP_BYTES: Final = 4 * 2**20
_GROUP_KEYS: Final = 200
SMALL_BYTES: Final = 64 * 2**10
_GONE: Final = -2
# Keys whose values `unlike` reads at once.
_SIDE_BY_SIDE: Final = 10
# Size assumed for a key if MEMORY USAGE is refused, which keeps groups of unknown sizes small.
_UNKNOWN_BYTES: Final = 256 * 2**10

_State = tuple[bytes | None, int]


@dataclass(slots=True)
class Told:
    """The result of comparing many keys; those in neither field are equal.

    Attributes:
        different: keys that are not the same, in the order given.
        incomparable: the type of those keys whose values cannot be compared (`NotComparable`).
        losses: what equal values have on the source, and the target has no place for: expiries of
            a hash's fields, or a stream's counters.
    """

    different: list[bytes] = field(default_factory=list)
    incomparable: dict[bytes, str] = field(default_factory=dict)
    losses: dict[bytes, Loss] = field(default_factory=dict)


def equal_values(sides: Sides, key: bytes) -> Reading[bool]:
    """Return True if both servers hold the same value under a key, or none; expiries do not count.

    Raises:
        NotComparable: the values cannot be compared.
        ReadRefused: a server refused a command.
    """
    dumps = yield from sides.read("DUMP", key)
    return same_payload(*dumps) or (yield from _by_type(sides, key))


def unlike(
    sides: Sides, keys: Sequence[bytes]
) -> Reading[tuple[dict[bytes, str], dict[bytes, str]]]:
    """Return the keys whose values differ in meaning, and those that cannot be compared; expiries
    do not count.

    Args:
        sides: in the right databases.
        keys: their values are read in chunks, those of a few keys side by side.

    Returns:
        The types of both sides, "hash" or "string, list", by key; and the type of those that cannot
        be compared.

    Raises:
        ReadRefused: a server refused a command.
    """
    told = Told()
    for start in range(0, len(keys), _SIDE_BY_SIDE):
        part = keys[start : start + _SIDE_BY_SIDE]
        yield from side_by_side([_look_into(sides, key, told) for key in part])
    commands = [("TYPE", key) for key in told.different]
    both = sides.source.read_many(commands), sides.target.read_many(commands)
    types = yield from together(*both)
    return {
        key: ", ".join(kind.decode("utf-8", "backslashreplace") for kind in dict.fromkeys(both))
        for key, *both in zip(told.different, *types, strict=True)
    }, told.incomparable


@dataclass(frozen=True, slots=True)
class LargePair:
    """One key on both sides.

    Attributes:
        kinds: the types of the values; b"none" where there is no such key.
        expiries: ms since 1970; -1 none, -2 no such key.
        equal: the values have the same meaning.
        opaque: the type, if they cannot be compared.
        expiring: fields of the source's hash have expiries, which the target cannot hold.
        still: no write of the key, on either side, was noticed while it was read; a server that
            refuses WATCH notices none.
    """

    kinds: tuple[bytes, bytes]
    expiries: tuple[int, int]
    equal: bool
    opaque: str
    expiring: bool
    still: bool


def compare_large(sides: Sides, key: bytes) -> Reading[LargePair]:
    """Compare one key, and read its value in chunks only; raises as `unlike`. It watches the key:
    nothing else may use the connections meanwhile."""
    source, target = sides.source, sides.target
    watch = [("UNWATCH",), ("WATCH", key)]  # one that is refused proves nothing
    yield from together(source.ask(watch), target.ask(watch))
    exact = yield from _may_both(sides, "PEXPIRETIME", key)
    kinds = yield from sides.read("TYPE", key)
    (here,), (there,) = yield from _both_states(sides, [key], exact, dump=False)
    told = Told()
    expiring = False
    if kinds[0] == kinds[1] != b"none":
        yield from _look_into(sides, key, told)
        expiring = kinds[0] == b"hash" and (yield from _expire_on_the_source_alone(sides, key))
    end = [("MULTI",), ("EXEC",)]
    ends = yield from together(source.ask(end), target.ask(end))
    return LargePair(
        kinds,
        (here[1], there[1]),
        kinds[0] == kinds[1] and key not in told.different,
        told.incomparable.get(key, ""),
        expiring,
        all(replies[-1] is not None for replies in ends),
    )


def _may_both(sides: Sides, *command: str | bytes | int) -> Reading[tuple[bool, bool]]:
    both = sides.source.may_call(*command), sides.target.may_call(*command)
    return (yield from together(*both))


def _expire_on_the_source_alone(sides: Sides, key: bytes) -> Reading[bool]:
    if (yield from sides.target.may_call("HPEXPIRETIME", key, "FIELDS", 1, b"")):
        return False
    try:
        return (yield from has_expiring_fields(sides, sides.source, key))
    except ValueChanged:
        return False


def differing(
    sides: Sides,
    keys: Sequence[bytes],
    *,
    sizes: Mapping[bytes, int] | None = None,
    expiry_shift: int = 0,
    tolerance: int = 0,
) -> Reading[Told]:
    """Return the keys that are not the same on both servers, or cannot be compared.

    A key that only one server has differs; one that both lack does not. Expiries may differ by
    2 ms where one of the servers is older than 7.0 and gives only the time left.

    Args:
        sides: in the right databases.
        keys: each only once.
        sizes: bytes of some keys' values, as far as they are known.
        expiry_shift: ms by which the target's expiries must be later than the source's.
        tolerance: ms by which they may differ in addition.

    Raises:
        ReadRefused: a server refused a command.
    """
    if not keys:
        return Told()
    exact = yield from _may_both(sides, "PEXPIRETIME", keys[0])
    tolerance = max(tolerance, 0 if all(exact) else TOLERANCE_MS)
    told = Told()
    here, there = yield from together(_sizes(sides.source, keys), _sizes(sides.target, keys))
    known = map((sizes or {}).get, keys, [0] * len(keys))
    for group, big in _groups(dict(zip(keys, map(max, here, there, known), strict=True))):
        states, others = yield from _both_states(sides, group, exact, dump=not big)
        pairs = {
            key: (_shifted(state, expiry_shift), other)
            for key, state, other in zip(group, states, others, strict=True)
        }
        yield from _differing_pairs(sides, pairs, tolerance, told, dumped=not big)
    return told


def _shifted(state: _State, milliseconds: int) -> _State:
    payload, expiry = state
    return payload, expiry if expiry < 0 else expiry + milliseconds


def _differing_pairs(
    sides: Sides,
    pairs: dict[bytes, tuple[_State, _State]],
    tolerance: int,
    told: Told,
    *,
    dumped: bool,
) -> Reading[None]:
    """Note the keys whose expiries or values differ; compare small values together."""
    same = {key: _same_state(*pair, tolerance) for key, pair in pairs.items()}
    small = [key for key, pair in pairs.items() if same[key] is None and _are_small(pair)]
    same |= yield from same_small_values(sides, small)
    for key, verdict in same.items():
        if verdict is None:
            yield from _look_into(sides, key, told)
        elif not verdict:
            told.different.append(key)
    unequal = {*told.different, *told.incomparable}
    for key, ((payload, _), (other, _)) in pairs.items():
        if key in unequal:
            continue
        may_expire = fields_expire(payload) if payload else not dumped
        if may_expire and (yield from _expire_on_the_source_alone(sides, key)):
            told.losses[key] = FIELD_EXPIRIES
        may_lack = _streams_of_two_kinds(payload, other) if payload and other else not dumped
        if may_lack and (yield from lacks_counters(sides, key)):
            told.losses[key] = STREAM_COUNTERS


def _streams_of_two_kinds(payload: bytes, other: bytes) -> bool:
    return payload[0] != other[0] and type_of(payload[0]) == "stream"


def _are_small(states: tuple[_State, _State]) -> bool:
    return all(payload and len(payload) <= SMALL_BYTES for payload, _ in states)


def _groups(sizes: dict[bytes, int]) -> list[tuple[list[bytes], bool]]:
    """Return keys to dump together, and each big key alone with True; in order."""
    groups: list[tuple[list[bytes], bool]] = []
    group: list[bytes] = []
    total = 0
    for key, size in sizes.items():
        full = len(group) == _GROUP_KEYS or total + size > _GROUP_BYTES
        if group and full:
            groups.append((group, False))
            group, total = [], 0
        if size > BIG_BYTES:
            groups.append(([key], True))
        else:
            group.append(key)
            total += size
    return [*groups, (group, False)] if group else groups


def _sizes(reader: Reader, keys: Sequence[bytes]) -> Reading[list[int]]:
    sizes: list[int] = []
    for start in range(0, len(keys), _GROUP_KEYS):
        part = keys[start : start + _GROUP_KEYS]
        replies = yield from reader.ask([("MEMORY", "USAGE", key, "SAMPLES", "1") for key in part])
        told = [0 if size is None else size for size in replies]
        sizes += [size if isinstance(size, int) else _UNKNOWN_BYTES for size in told]
    return sizes


def _both_states(
    sides: Sides, keys: list[bytes], exact: tuple[bool, bool], dump: bool
) -> Reading[tuple[list[_State], list[_State]]]:
    both = zip((sides.source, sides.target), exact, strict=True)
    one, other = (_states(reader, keys, absolute, dump) for reader, absolute in both)
    return (yield from together(one, other))


def _states(
    reader: Reader, keys: list[bytes], absolute: bool, dump: bool
) -> Reading[list[_State]]:
    """Return payload and expiry in ms since 1970 (-1 none, -2 no such key) of each key."""
    commands: list[tuple[str, bytes]] = [("DUMP", key) for key in keys] if dump else []
    if absolute:
        commands += [("PEXPIRETIME", key) for key in keys]
        replies = yield from reader.read_many(commands)
        payloads, expiries = replies[: -len(keys)], replies[-len(keys) :]
    else:
        payloads = yield from reader.read_many(commands)
        now, left = yield from reader.read_at([("PTTL", key) for key in keys])
        expiries = [now + ms if ms >= 0 else ms for ms in left]
    return list(zip(payloads or [None] * len(keys), expiries, strict=True))


def _same_expiry(one: int, other: int, tolerance: int) -> bool:
    if one < 0 or other < 0:
        return one == other
    return abs(one - other) <= tolerance


def _same_state(one: _State, other: _State, tolerance: int) -> bool | None:
    """Return whether payload and expiry are the same; None if the values must be read."""
    if not _same_expiry(one[1], other[1], tolerance):
        return False
    if one[1] == _GONE or (one[0] is not None and same_payload(one[0], other[0])):
        return True
    return None


def _by_type(sides: Sides, key: bytes) -> Reading[bool]:
    try:
        return (yield from equal_by_type(sides, key))
    except ValueChanged:
        return False


def _look_into(sides: Sides, key: bytes, told: Told) -> Reading[None]:
    """Note a key if it is not equal by its type."""
    try:
        if not (yield from _by_type(sides, key)):
            told.different.append(key)
    except NotComparable as error:
        told.incomparable[key] = error.type_name
