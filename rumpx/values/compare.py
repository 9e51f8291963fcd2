"""Compare keys on two servers: the value by meaning, the expiry to the millisecond.

The cheapest proof comes first: equal DUMP bytes are equal values. Equal values may also have
different bytes (hash tables follow each server's hash seed, versions write different footers, a
deletion leaves another encoding); only then is a value read by the commands of its type
(`by_type`).

`differing` compares many keys: groups of keys that are small together, one pipeline of DUMPs and
expiries a side and group, and a few for those of its small values whose DUMPs differ (`small`). A
value that takes a side more than BIG_BYTES is never dumped, since DUMP stalls a server for its
whole duration; it is read in chunks. `compare_large` does that for one key.

Not promised: an answer about one instant; a key that is written meanwhile may count as either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rumpx.servers.rdb import fields_expire, type_of
from rumpx.values.by_type import (
    TOLERANCE_MS,
    NotComparable,
    equal_by_type,
    has_expiring_fields,
    lacks_counters,
    same_payload,
)
from rumpx.values.reading import Caller, Reader, ReadRefused, ValueChanged
from rumpx.values.rewrite import FIELD_EXPIRIES, STREAM_COUNTERS, Loss
from rumpx.values.small import same_small_values

__all__ = [
    "SMALL_BYTES",
    "Caller",
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


def equal_values(source: Caller, target: Caller, key: bytes) -> bool:
    """Return True if both servers hold the same value under a key, or none; expiries do not count.

    Raises:
        NotComparable: the values cannot be compared.
        ReadRefused: a server refused a command.
        ConnectionLost: as raised by the caller's connections.
    """
    return _equal_values(Reader(source, "source"), Reader(target, "target"), key)


def unlike(
    source: Caller, target: Caller, keys: Sequence[bytes]
) -> tuple[dict[bytes, str], dict[bytes, str]]:
    """Return the keys whose values differ in meaning, and those that cannot be compared; expiries
    do not count.

    Args:
        source, target: connections, each with the right database selected.
        keys: their values are read in chunks, one after the other.

    Returns:
        The types of both sides, "hash" or "string, list", by key; and the type of those that cannot
        be compared.

    Raises:
        ReadRefused: a server refused a command.
        ConnectionLost: as raised by the caller's connections.
    """
    readers = Reader(source, "source"), Reader(target, "target")
    told = Told()
    for key in keys:
        _look_into(*readers, key, told)
    commands = [("TYPE", key) for key in told.different]
    types = (reader.read_many(commands) if commands else [] for reader in readers)
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
        still: no client has written the key, on either side, while it was read.
    """

    kinds: tuple[bytes, bytes]
    expiries: tuple[int, int]
    equal: bool
    opaque: str
    expiring: bool
    still: bool


def compare_large(source: Caller, target: Caller, key: bytes) -> LargePair:
    """Compare one key, and read its value in chunks only; raises as `unlike`."""
    readers = Reader(source, "source"), Reader(target, "target")
    for reader in readers:
        reader.caller.call("UNWATCH")
        reader.caller.call("WATCH", key)  # one that is refused proves nothing
    exact = [reader.may_call("PEXPIRETIME", key) for reader in readers]
    kinds = readers[0].read("TYPE", key), readers[1].read("TYPE", key)
    expiries = [
        _states(reader, [key], absolute, dump=False)[0][1]
        for reader, absolute in zip(readers, exact, strict=True)
    ]
    told = Told()
    expiring = False
    if kinds[0] == kinds[1] != b"none":
        _look_into(*readers, key, told)
        expiring = kinds[0] == b"hash" and _expire_on_the_source_alone(*readers, key)
    still = [reader.caller.call_many([("MULTI",), ("EXEC",)])[-1] for reader in readers]
    return LargePair(
        kinds,
        (expiries[0], expiries[1]),
        kinds[0] == kinds[1] and key not in told.different,
        told.incomparable.get(key, ""),
        expiring,
        None not in still,
    )


def _expire_on_the_source_alone(source: Reader, target: Reader, key: bytes) -> bool:
    if target.may_call("HPEXPIRETIME", key, "FIELDS", 1, b""):
        return False
    try:
        return has_expiring_fields(source, key)
    except ValueChanged:
        return False


def differing(
    source: Caller,
    target: Caller,
    keys: Sequence[bytes],
    *,
    expiry_shift: int = 0,
    tolerance: int = 0,
) -> Told:
    """Return the keys that are not the same on both servers, or cannot be compared.

    A key that only one server has differs; one that both lack does not. Expiries may differ by
    2 ms where one of the servers is older than 7.0 and gives only the time left.

    Args:
        source, target: connections, each with the right database selected.
        keys: each only once.
        expiry_shift: ms by which the target's expiries must be later than the source's.
        tolerance: ms by which they may differ in addition.

    Raises:
        ReadRefused: a server refused a command.
        ConnectionLost: as raised by the caller's connections.
    """
    if not keys:
        return Told()
    readers = Reader(source, "source"), Reader(target, "target")
    exact = [reader.may_call("PEXPIRETIME", keys[0]) for reader in readers]
    tolerance = max(tolerance, 0 if all(exact) else TOLERANCE_MS)
    told = Told()
    for group, big in _groups(*readers, keys):
        states, others = (
            _states(reader, group, absolute, dump=not big)
            for reader, absolute in zip(readers, exact, strict=True)
        )
        pairs = {
            key: (_shifted(state, expiry_shift), other)
            for key, state, other in zip(group, states, others, strict=True)
        }
        _differing_pairs(*readers, pairs, tolerance, told, dumped=not big)
    return told


def _shifted(state: _State, milliseconds: int) -> _State:
    payload, expiry = state
    return payload, expiry if expiry < 0 else expiry + milliseconds


def _differing_pairs(
    source: Reader,
    target: Reader,
    pairs: dict[bytes, tuple[_State, _State]],
    tolerance: int,
    told: Told,
    *,
    dumped: bool,
) -> None:
    """Note the keys whose expiries or values differ; compare small values together."""
    same = {key: _same_state(*pair, tolerance) for key, pair in pairs.items()}
    small = [key for key, pair in pairs.items() if same[key] is None and _are_small(pair)]
    same |= same_small_values(source, target, small)
    for key, verdict in same.items():
        if verdict is None:
            _look_into(source, target, key, told)
        elif not verdict:
            told.different.append(key)
    unequal = {*told.different, *told.incomparable}
    for key, ((payload, _), (other, _)) in pairs.items():
        if key in unequal:
            continue
        may_expire = fields_expire(payload) if payload else not dumped
        if may_expire and _expire_on_the_source_alone(source, target, key):
            told.losses[key] = FIELD_EXPIRIES
        may_lack = _streams_of_two_kinds(payload, other) if payload and other else not dumped
        if may_lack and lacks_counters(source, target, key):
            told.losses[key] = STREAM_COUNTERS


def _streams_of_two_kinds(payload: bytes, other: bytes) -> bool:
    return payload[0] != other[0] and type_of(payload[0]) == "stream"


def _are_small(states: tuple[_State, _State]) -> bool:
    return all(payload and len(payload) <= SMALL_BYTES for payload, _ in states)


def _groups(
    source: Reader, target: Reader, keys: Sequence[bytes]
) -> Iterator[tuple[list[bytes], bool]]:
    """Yield keys to dump together, and each big key alone with True; in order."""
    group: list[bytes] = []
    total = 0
    for (key, here), (_, there) in zip(_sizes(source, keys), _sizes(target, keys), strict=True):
        size = max(here, there)
        full = len(group) == _GROUP_KEYS or total + size > _GROUP_BYTES
        if group and full:
            yield group, False
            group, total = [], 0
        if size > BIG_BYTES:
            yield [key], True
        else:
            group.append(key)
            total += size
    if group:
        yield group, False


def _sizes(source: Reader, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    for start in range(0, len(keys), _GROUP_KEYS):
        part = keys[start : start + _GROUP_KEYS]
        commands = [("MEMORY", "USAGE", key, "SAMPLES", "1") for key in part]
        for key, size in zip(part, source.caller.call_many(commands), strict=True):
            if size is None:
                yield key, 0
            else:
                yield key, size if isinstance(size, int) else _UNKNOWN_BYTES


def _states(reader: Reader, keys: list[bytes], absolute: bool, dump: bool) -> list[_State]:
    """Return payload and expiry in ms since 1970 (-1 none, -2 no such key) of each key."""
    commands: list[tuple[str, bytes]] = [("DUMP", key) for key in keys] if dump else []
    if absolute:
        commands += [("PEXPIRETIME", key) for key in keys]
        replies = reader.read_many(commands)
        payloads, expiries = replies[: -len(keys)], replies[-len(keys) :]
    else:
        payloads = reader.read_many(commands)
        now, left = reader.read_at([("PTTL", key) for key in keys])
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


def _equal_values(source: Reader, target: Reader, key: bytes) -> bool:
    dumps: list[Any] = [reader.read("DUMP", key) for reader in (source, target)]
    return same_payload(*dumps) or _by_type(source, target, key)


def _by_type(source: Reader, target: Reader, key: bytes) -> bool:
    try:
        return equal_by_type(source, target, key)
    except ValueChanged:
        return False


def _look_into(source: Reader, target: Reader, key: bytes, told: Told) -> None:
    """Note a key if it is not equal by its type."""
    try:
        if not _by_type(source, target, key):
            told.different.append(key)
    except NotComparable as error:
        told.incomparable[key] = error.type_name
