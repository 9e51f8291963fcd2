"""Numbers of keys by outcome, which can be added."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of keys by outcome. Each key given to a worker is counted once, when it is settled.

    Attributes:
        copied: keys that the target acknowledged.
        gone: keys that expired or were deleted between SCAN and DUMP, or before RESTORE.
        skipped: keys that the target already had, under `--on-conflict skip`.
        repeated: keys found again that were already on the target, with equal value and expiry.
        failed: keys that could not be copied.
        payload_bytes: DUMP payload bytes of the keys copied.
        equal: keys that are the same on both sides. This and the rest is for comparisons.
        different: keys whose value, type or expiry differs on the target.
        missing: keys that the target lacks.
        extra: keys that only the target has.
        found: keys of the target that are on the source too, from the walk over the target.
        changing: keys that were written during the comparison.
        deleted: extra keys that were deleted from the target.
        incomparable: keys on both sides whose values, of a module's type, cannot be compared.
        rewritten: of the copied keys, those whose payload was rewritten for the target.
        lossy: of the copied or equal keys, those without something that the target cannot hold.
    """

    copied: int = 0
    gone: int = 0
    skipped: int = 0
    repeated: int = 0
    failed: int = 0
    payload_bytes: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    found: int = 0
    changing: int = 0
    deleted: int = 0
    incomparable: int = 0
    rewritten: int = 0
    lossy: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Acks hold Counts, and the default for dataclasses with slots takes twice as long.
        return Counts, self.numbers

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return all numbers, in the order of their names above."""
        return _numbers(self)

    @property
    def compared(self) -> int:
        """Return the number of the source's keys that were compared."""
        return self.equal + self.different + self.missing + self.changing + self.incomparable

    @property
    def settled(self) -> int:
        """Return the number of keys with no work left."""
        return sum(self.numbers) - self.payload_bytes - self.rewritten - self.lossy

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, self.numbers, other.numbers))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*map(operator.sub, self.numbers, other.numbers))


_numbers: Callable[[Counts], tuple[int, ...]] = operator.attrgetter(
    *(field.name for field in dataclasses.fields(Counts))
)
