"""The arithmetic of charts: points merged to a visible number, and axes with round numbers.

Neighbouring points are merged: rates become means, latencies the highest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rumpx import units
from rumpx.model.content import SizeCount
from rumpx.model.timeline import Point, joined

MOST_BINS: Final = 600
MOST_SIZES: Final = 12
# Seconds; shorter times are shown in fractions of a second.
BRIEF: Final = 5.0

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_TIME_STEPS: Final = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
)


def binned(points: Sequence[Point], most: int = MOST_BINS) -> list[Point]:
    """Merge neighbouring points of a run, to at most `most` and one more for each further run.

    The running time is cut into stretches of equal length; a point belongs to the one of its
    middle.
    """
    if len(points) <= most:
        return list(points)
    step = points[-1].elapsed / most
    bins: list[Point] = []
    place = (0, -1)
    for point in points:
        before, place = place, (point.run, int((point.elapsed - point.seconds / 2) / step))
        if place == before:
            bins[-1] = joined(bins[-1], point)
        else:
            bins.append(point)
    return bins


class Axis(NamedTuple):
    """The marks on an axis, from one end to the other, and whether they are powers of ten, equally
    spaced."""

    marks: Sequence[float]
    powers: bool = False

    def place(self, value: float) -> float:
        """Return the place of a value: 0.0 at the first mark, 1.0 at the last or beyond."""
        first, last = self.marks[0], self.marks[-1]
        if self.powers:
            first, last = math.log10(first), math.log10(last)
            value = math.log10(max(value, self.marks[0]))
        return min(1.0, max(0.0, (value - first) / (last - first)))


def powers(least: float, top: float) -> list[float]:
    """Return powers of ten from at most `least` to at least `top`; two or more."""
    first = math.floor(math.log10(least) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(top) - 1e-9))
    return [10.0**power for power in range(first, last + 1)]


def ticks(top: float, most: int) -> list[float]:
    """Return round numbers from 0 to at least `top`, in at most `most` equal steps of 1, 2 or 5
    times a power of ten."""
    power = 10.0 ** math.floor(math.log10(top / most))
    step = next(power * n for n in (1, 2, 5, 10) if power * n * most >= top * (1 - 1e-9))
    return [step * n for n in range(math.ceil(top / step - 1e-9) + 1)]


def time_ticks(total: float, most: int) -> list[float]:
    """Return round times from 0 to `total` seconds, in at most `most` equal steps."""
    if total < BRIEF:
        return [at for at in ticks(max(total, 0.1), most) if at <= total]
    days = max(1.0, ticks(max(1.0, total / _DAY), most)[1])
    step = next((step for step in _TIME_STEPS if step * most >= total), _DAY * days)
    return [float(step * n) for n in range(math.floor(total / step) + 1)]


def size_groups(sizes: Iterable[SizeCount], most: int = MOST_SIZES) -> list[SizeCount]:
    """Merge powers of two, equally many in each group, to at most `most` groups from the least to
    the largest; those in between may have no keys."""
    by_bits = {size.most.bit_length(): size.keys for size in sizes}
    if not by_bits:
        return []
    low, high = min(by_bits), max(by_bits)
    width = 1
    while high // width - low // width >= most:
        width += 1
    return [
        SizeCount(
            1 << bits >> 1,
            (1 << (bits + width - 1)) - 1,
            sum(by_bits.get(bits + n, 0) for n in range(width)),
        )
        for bits in range(low - low % width, high + 1, width)
    ]


def extent(group: SizeCount) -> str:
    """Format a group as `256 B to 2.0 kB`; the end is the start of the next."""
    return f"{units.size(group.least)} to {units.size(group.most + 1)}"
