"""A sample of the source's keys: their types, sizes, encodings and expiries.

Each (node, database) gives keys in proportion to its size. If its cursor scheme is known
(`engine.plan`) the database is cut as for a copy, and each part is scanned from its start until it
has given its share: the parts are even, and keys lie in them at random. Otherwise the sample is the
first keys of one plain scan, and the check says so. A database with no more keys than its share is
scanned whole.

SCAN's COUNT and each pipeline are 100 keys, so that other clients do not wait long.

Not promised: a random sample. Keys of one slot, or of one bucket, come together; a database that
clients are filling may be seen in part; and with filters the share in scope is itself an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from rumpx.engine.plan import cut_spans
from rumpx.engine.scanner import scanned, watch_scan
from rumpx.errors import printable
from rumpx.model.checkup import LargeKey, PrefixCount, Sampled, Spread, TypeCount
from rumpx.model.endpoint import Address
from rumpx.model.job import Scope
from rumpx.model.partitions import NodeKeys
from rumpx.servers.endless import Endless
from rumpx.servers.globs import compile_glob
from rumpx.servers.replies import Kind, classify, key_refused
from rumpx.servers.resp import Command, Connection, Reply
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error
from rumpx.verifier.differences import prefix_of

PIPELINE: Final = 100
_PARTS: Final = 64
# If most keys are out of scope: the most names read per key in scope.
_NAMES_FOR_ONE: Final = 10
# A part may be almost empty: leave it after this many SCANs without a key.
_EMPTY_SCANS: Final = 100
# Weakest first.
_SPREADS: Final[tuple[Spread, ...]] = ("beginning", "spread", "all keys")
_LARGEST: Final = 5
_PREFIXES: Final = 8
# Prefixes below this share of the sample are not named.
_RARE: Final = 0.005
_T = TypeVar("_T", str, bytes)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the sample. `bytes` and `encoding` are None and "" if the server refuses them;
    `left` is the TTL in ms, or None without one."""

    node: Address | None
    db: int
    name: bytes
    type: str
    bytes: int | None
    left: int | None
    encoding: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The sampled keys in scope, and counts.

    Attributes:
        seen: number of names read, in scope or not.
        denied: names of keys that the user may not read.
        spread: how the keys were chosen.
    """

    keys: tuple[Key, ...]
    seen: int
    denied: tuple[bytes, ...]
    spread: Spread


def take_sample(
    source: SideFacts, places: Sequence[NodeKeys], scope: Scope, number: int
) -> Sample:
    """Sample `number` keys in scope, or all if there are fewer.

    Raises:
        SourceUnusable, TemporaryError: SCAN is refused or never ends, or the source does not
            answer.
    """
    total = sum(place.keys for place in places)
    keys: list[Key] = []
    denied: list[bytes] = []
    seen = 0
    spreads: set[Spread] = {"all keys"}
    fits = name_filter(scope)
    for place in places:
        share = max(1, number * place.keys // max(1, total))
        walk = _Walk(place, share)
        with connected(source.dialer, place.node.address, place.db) as connection:
            for found in walk.names(connection):
                wanted = [name for name in found if fits(name)]
                seen += len(found)
                read, refused = read_keys(connection, place, wanted, scope.types)
                walk.taken += len(read)
                keys += read
                denied += refused
        spreads.add(walk.spread)
    worst: Spread = next(name for name in _SPREADS if name in spreads)
    return Sample(tuple(keys), seen, tuple(denied), worst)


def name_filter(scope: Scope) -> Callable[[bytes], bool]:
    """Return a test of whether a key name is in scope."""
    wanted = [compile_glob(glob).fullmatch for glob in scope.match]
    unwanted = [compile_glob(glob).fullmatch for glob in scope.exclude]
    return lambda name: (not wanted or any(fits(name) for fits in wanted)) and not any(
        fits(name) for fits in unwanted
    )


class _Walk:
    """The scan of one place.

    Args:
        share: number of keys in scope to collect.

    Attributes:
        taken: number of keys collected, counted by the caller.
        spread: how they are chosen.
    """

    def __init__(self, place: NodeKeys, share: int) -> None:
        self._whole = place.keys <= share
        parts = 1 if self._whole else min(_PARTS, 2 ** (share.bit_length() - 1))
        self._spans = cut_spans(place.node, place.scheme, parts)
        self._share = share
        self.taken = 0
        self.spread: Spread = "all keys"
        if not self._whole:
            self.spread = "beginning" if place.scheme == "unknown" else "spread"

    def names(self, connection: Connection) -> Iterator[list[bytes]]:
        """Yield the key names of one SCAN after the other, each name once."""
        known: set[bytes] = set()
        for number, span in enumerate(self._spans, start=1):
            enough = -(-self._share * number // len(self._spans))
            most = enough * _NAMES_FOR_ONE
            cursor, empty, endless = span.start, 0, Endless()
            while self._whole or (
                self.taken < enough and len(known) < most and empty < _EMPTY_SCANS
            ):
                cursor, found = _scan(connection, cursor)
                new = [name for name in dict.fromkeys(found) if name not in known]
                if not self._whole:
                    del new[enough - self.taken :]
                known.update(new)
                yield new
                empty = 0 if found else empty + 1
                if span.ended(cursor):
                    break
                watch_scan(connection, "source", endless, cursor, len(found), PIPELINE)


def _scan(connection: Connection, cursor: int) -> tuple[int, list[bytes]]:
    return scanned(connection, "source", connection.call("SCAN", cursor, "COUNT", PIPELINE))


def read_keys(
    connection: Connection, place: NodeKeys, names: Sequence[bytes], types: Sequence[str]
) -> tuple[list[Key], list[bytes]]:
    """Read the facts of keys; return them, and the names for which permission is missing.

    Keys that are gone, or not of these types (any, if empty), are left out.
    """
    keys: list[Key] = []
    denied: list[bytes] = []
    for start in range(0, len(names), PIPELINE):
        part = names[start : start + PIPELINE]
        replies = connection.call_many([command for name in part for command in _questions(name)])
        for number, name in enumerate(part):
            kind, size, left, encoding = replies[4 * number : 4 * number + 4]
            if any(_is_denied(reply) for reply in (kind, size, left)):
                denied.append(name)
            elif (key := _key(place, name, kind, size, left, encoding)) and (
                not types or key.type in types
            ):
                keys.append(key)
    return keys, denied


def _questions(name: bytes) -> tuple[Command, ...]:
    return (
        ("TYPE", name),
        ("MEMORY", "USAGE", name),
        ("PTTL", name),
        ("OBJECT", "ENCODING", name),
    )


def _is_denied(reply: Reply) -> bool:
    """Return True if access to this key is refused, not the command."""
    return is_error(reply) and key_refused(reply)


def _key(
    place: NodeKeys, name: bytes, kind: Reply, size: Reply, left: Reply, encoding: Reply
) -> Key | None:
    if kind == b"none" or left == -2 or _moved(kind):
        return None
    return Key(
        place.node.address,
        place.db,
        name,
        kind.decode(errors="backslashreplace") if isinstance(kind, bytes) else "unknown",
        size if isinstance(size, int) else None,
        left if isinstance(left, int) and left >= 0 else None,
        encoding.decode(errors="backslashreplace") if isinstance(encoding, bytes) else "",
    )


def _moved(reply: Reply) -> bool:
    return is_error(reply) and classify(reply).kind in (Kind.MOVED, Kind.ASK)


def describe(sample: Sample) -> Sampled:
    """Summarize the sample in numbers."""
    keys = sample.keys
    left = sorted(key.left / 1000 for key in keys if key.left is not None)
    sized = [key for key in keys if key.bytes is not None]
    largest = sorted(sized, key=lambda key: -(key.bytes or 0))[:_LARGEST]
    return Sampled(
        keys=len(keys),
        seen=sample.seen,
        spread=sample.spread,
        expiring=len(left),
        shortest=left[0] if left else None,
        median=left[len(left) // 2] if left else None,
        longest=left[-1] if left else None,
        mean_bytes=sum(key.bytes or 0 for key in sized) / len(sized) if sized else None,
        denied=len(sample.denied),
        types=tuple(_types(keys)),
        largest=tuple(
            LargeKey(key.db, printable(key.name), key.type, key.bytes or 0) for key in largest
        ),
        prefixes=tuple(_prefixes(keys)),
    )


def _types(keys: Sequence[Key]) -> Iterator[TypeCount]:
    for kind, members in _grouped(keys, lambda key: key.type):
        encodings: dict[str, int] = {}
        for key in members:
            encodings[key.encoding] = encodings.get(key.encoding, 0) + 1
        encodings.pop("", None)
        ranked = sorted(encodings.items(), key=lambda item: -item[1])
        yield TypeCount(kind, len(members), _bytes(members), dict(ranked))


def _prefixes(keys: Sequence[Key]) -> Iterator[PrefixCount]:
    groups = _grouped(keys, lambda key: prefix_of(key.name))
    few = max(2, _RARE * len(keys))
    main = [group for group in groups if group[0] and len(group[1]) >= few][:_PREFIXES]
    for prefix, members in main:
        yield PrefixCount(f"{printable(prefix)}*", len(members), _bytes(members))
    named = {prefix for prefix, _ in main}
    if others := [key for prefix, members in groups if prefix not in named for key in members]:
        yield PrefixCount("(others)", len(others), _bytes(others))


def _grouped(keys: Sequence[Key], by: Callable[[Key], _T]) -> list[tuple[_T, list[Key]]]:
    groups: dict[_T, list[Key]] = {}
    for key in keys:
        groups.setdefault(by(key), []).append(key)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def _bytes(keys: Sequence[Key]) -> int | None:
    sizes = [key.bytes for key in keys if key.bytes is not None]
    return sum(sizes) if sizes else None
