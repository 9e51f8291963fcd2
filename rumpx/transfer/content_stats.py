"""Count the types and sizes of the copied values, and find the largest.

The worker that has written payloads reads each one's first byte, which gives its type (the `type`
of RDB files, as in Redis's rdb.h), and its length. The numbers go with the ack and are booked with
the counts (`frontier`), so that they are as exact: a run that resumes from a ledger counts none
twice. That costs 0.1 us a key.

Largest keys are candidates: a worker names those that are larger than the tenth it has named, and
the coordinator keeps ten of them, by name.

Not promised: the very largest ten if a worker has died that had named some whose batch did not
count; nor the present size of a key that was copied again and is no longer among the largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from operator import itemgetter
from typing import Final, NamedTuple

from rumpx.model.content import LARGEST_KEPT, Content, LargeKey, SizeCount, TypeCount
from rumpx.servers.rdb import FIRST_BYTES, type_of

# The names of the counters in `Kinds.numbers`.
_KEYS, _BYTES, _SIZES = 0, 256, 512
_SIZE_BITS: Final = 48
# A key in the upper bits of a number, its bytes in the lower: one addition for both.
_ONE: Final = 1 << 44
_first_byte = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Kinds:
    """Keys and bytes by first byte, and keys by the number of bits of their size: one dict for all,
    since it is added up for each ack. Named 0 to 255: keys; 256 to 511: bytes; from 512: sizes."""

    numbers: dict[int, int] = field(default_factory=dict)

    @property
    def payload_bytes(self) -> int:
        """The sum over all types."""
        return sum(number for name, number in self.numbers.items() if _BYTES <= name < _SIZES)

    def has_any(self, heads: frozenset[int]) -> bool:
        """Return True if a key was counted with one of these first bytes."""
        return not heads.isdisjoint(self.numbers)

    def __add__(self, other: Kinds) -> Kinds:
        if not self.numbers or not other.numbers:
            return other if other.numbers else self
        total = dict(self.numbers)
        for name, number in other.numbers.items():
            total[name] = total.get(name, 0) + number
        return Kinds(total)


NO_KINDS: Final = Kinds()


class Large(NamedTuple):
    """A key that may be one of the largest; `head` is its payload's first byte."""

    size: int
    head: int
    db: int
    key: bytes


class Scale:
    """Weighs the payloads that a worker has written."""

    def __init__(self) -> None:
        self._floor = 0
        self._named: dict[tuple[int, bytes], int] = {}

    def weigh(
        self, db: int, keys: Sequence[bytes], payloads: Sequence[bytes]
    ) -> tuple[Kinds, list[Large]]:
        """Count payloads, and return the keys that may be among the largest.

        Args:
            db: the source's database.
            keys, payloads: correspond to each other; a payload is never empty.
        """
        heads = [0] * 256
        sizes = [0] * _SIZE_BITS
        for head, size in zip(map(_first_byte, payloads), map(len, payloads), strict=True):
            heads[head] += _ONE + size
            sizes[size.bit_length()] += 1
        numbers = {_SIZES + bits: number for bits, number in enumerate(sizes) if number}
        shown = heads if any(heads[FIRST_BYTES:]) else heads[:FIRST_BYTES]
        for head, packed in enumerate(shown):
            if packed:
                numbers[_KEYS + head], numbers[_BYTES + head] = divmod(packed, _ONE)
        large: list[Large] = []
        if any(sizes[self._floor.bit_length() :]):
            large = self._larger(
                Large(len(payload), payload[0], db, key)
                for key, payload in zip(keys, payloads, strict=True)
            )
        return Kinds(numbers), large

    def weigh_streamed(
        self, db: int, key: bytes, head: int, size: int
    ) -> tuple[Kinds, list[Large]]:
        """As `weigh`, for one value that was read in pieces: the first byte that its payload would
        have, and its bytes."""
        numbers = {_SIZES + size.bit_length(): 1, _KEYS + head: 1, _BYTES + head: size}
        return Kinds(numbers), self._larger([Large(size, head, db, key)])

    def _larger(self, keys: Iterable[Large]) -> list[Large]:
        found = nlargest(LARGEST_KEPT, (large for large in keys if large.size > self._floor))
        named = self._named | {(large.db, large.key): large.size for large in found}
        self._named = dict(nlargest(LARGEST_KEPT, named.items(), key=lambda item: item[1]))
        if len(self._named) == LARGEST_KEPT:
            self._floor = min(self._named.values())
        return found


class Largest:
    """Keeps, in the coordinator, the largest keys that workers named."""

    def __init__(self, known: Iterable[Large] = ()) -> None:
        self._by_name: dict[tuple[int, bytes], Large] = {}
        self.add(known)

    def add(self, named: Iterable[Large]) -> None:
        """Add keys; the last size of each counts."""
        self._by_name |= {(large.db, large.key): large for large in named}
        if len(self._by_name) > 10 * LARGEST_KEPT:
            self._by_name = {(large.db, large.key): large for large in self.top}

    @property
    def top(self) -> tuple[Large, ...]:
        """The largest keys, in descending order."""
        return tuple(nlargest(LARGEST_KEPT, self._by_name.values()))


def content(kinds: Iterable[Kinds], largest: Iterable[Large]) -> Content:
    """Return the totals for display."""
    total: dict[int, int] = {}
    for each in kinds:
        for name, number in each.numbers.items():
            total[name] = total.get(name, 0) + number
    types: dict[str, TypeCount] = {}
    for head in (name for name in total if name < _BYTES):
        kind = type_of(head)
        before = types.get(kind, TypeCount(kind, 0, 0))
        types[kind] = TypeCount(
            kind,
            before.keys + total[head],
            before.payload_bytes + total.get(_BYTES + head, 0),
        )
    return Content(
        tuple(sorted(types.values(), key=lambda count: (-count.keys, count.type))),
        tuple(
            SizeCount(1 << bits >> 1, (1 << bits) - 1, total[_SIZES + bits])
            for bits in sorted(name - _SIZES for name in total if name >= _SIZES)
        ),
        tuple(LargeKey(large.db, large.key, type_of(large.head), large.size) for large in largest),
    )
