"""Expected payload sizes, learnt from estimates and the payloads that followed them.

An estimate (MEMORY USAGE … SAMPLES 1) is too low for a collection with uneven members: a hash of
4 300 short fields and one of 2 MB counts as 23 kB. So estimates are sorted into classes, by their
magnitude, and for each class `Expected` keeps how many payload bytes followed each byte estimated:
the mean and the spread, of the last few hundred keys. Keys of sizes s are then expected to have

    mean · Σ s + 2 · spread · √(Σ s²)

bytes together, and no less than estimated: an estimate that is too high costs only caution.

A class is trusted in proportion to the keys seen. One chunk, and all that is in flight, hold at
most `allowed` keys of it: 1, then 4, 16, 64, 256. So the first large value comes alone, whatever
its estimate, and an ordinary copy is at full speed after five chunks. (A few keys of a rare class
do not slow a chunk down: an eighth of `allowed` may come with the others.)

Not promised: that a chunk is never larger than expected. Once a class is trusted, the first chunk
that deviates from it comes whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final

_SPREADS: Final = 2.0
# Keys over which mean and spread are averaged.
_MEMORY: Final = 400
# A class with that many keys seen is trusted in any number.
_ENOUGH: Final = 170
_GROWTH: Final = 3
# Chunks that may be in flight together, about.
_CHUNKS: Final = 8


@dataclass(slots=True)
class _Class:
    """Estimates of one magnitude: payload bytes for each byte estimated, and their square."""

    seen: int = 0
    mean: float = 0.0
    square: float = 0.0

    def learn(self, keys: int, ratios: float, squares: float) -> None:
        """Learn from keys, the sum of their ratios, and the sum of the squares of these."""
        self.seen += keys
        weight = min(1.0, keys / min(self.seen, _MEMORY))
        self.mean += (ratios / keys - self.mean) * weight
        self.square += (squares / keys - self.square) * weight

    @property
    def variance(self) -> float:
        return max(0.0, self.square - self.mean * self.mean)

    @property
    def allowed(self) -> float:
        """Keys of this class allowed in one chunk."""
        return math.inf if self.seen >= _ENOUGH else 1 + _GROWTH * self.seen


@dataclass(frozen=True, slots=True)
class Sum:
    """Some keys together.

    Attributes:
        keys: their number.
        most: the most bytes expected.
        share: their part of the keys allowed in flight of their classes; 1.0 where nothing is
            known of one of them, 0.0 where all are trusted.
    """

    keys: int
    most: float
    share: float


class Expected:
    """The expected sizes of one population of keys.

    Args:
        least: payload bytes for each byte estimated that are always expected.
        trusted: estimates are upper bounds, so that no class need prove itself first.

    Attributes:
        ratio: payload bytes for each byte estimated, of the last chunks.
    """

    def __init__(self, least: float = 1.0, *, trusted: bool = False) -> None:
        self.least = least
        self.ratio = 1.0
        seen = _ENOUGH if trusted else 0
        self._classes = [_Class(seen) for _ in range(_place(2**64) + 1)]
        self._rates: dict[frozenset[int], tuple[float, float, tuple[tuple[int, float], ...]]] = {}

    def together(self, sizes: Sequence[int]) -> tuple[float, float]:
        """Return the most bytes of all these keys, and of the largest one, as if each was of the
        worst of their classes, which is very cheap to compute. Infinite while one of those is not
        trusted."""
        each = list(map(int.bit_length, sizes))
        lengths = frozenset(each)
        rates = self._rates.get(lengths)
        if rates is None:
            rates = self._rates[lengths] = self._worst(lengths)
        mean, spread, seldom = rates
        if any(each.count(length) > most for length, most in seldom):
            return math.inf, math.inf
        if 0 in lengths:
            sizes = [size or 1 for size in sizes]
        total, largest = sum(sizes), max(sizes)
        return mean * total + _SPREADS * spread * math.sqrt(total * largest), mean * largest

    def _worst(
        self, lengths: Iterable[int]
    ) -> tuple[float, float, tuple[tuple[int, float], ...]]:
        """Return mean and spread, and the lengths that are limited to a number of keys."""
        classes = {length: self._classes[(length + 1) // 2] for length in lengths}
        seldom = tuple(
            (length, one.allowed / (2 * _CHUNKS))  # two lengths are of one class
            for length, one in classes.items()
            if one.seen < _ENOUGH
        )
        mean = max(one.mean for one in classes.values())
        spread = math.sqrt(max(one.variance for one in classes.values()))
        return max(self.least, mean), spread, seldom

    def of(self, size: int) -> float:
        """Return the expected bytes of one key."""
        return max(self.least, self._classes[_place(size)].mean) * max(1, size)

    def leading(self, sizes: Iterable[int], limit: float = math.inf) -> Sum:
        """Return how many keys, from the first one on, may be asked for together; at least one.

        Args:
            limit: the most bytes for them.
        """
        counts: dict[int, int] = {}
        number, most, share, mean, variance = 0, 0.0, 0.0, 0.0, 0.0
        for size in sizes:
            place = _place(size)
            one = self._classes[place]
            counts[place] = counts.get(place, 0) + 1
            part = counts[place] / one.allowed
            mean += self.of(size)
            variance += one.variance * size * size
            total = mean + _SPREADS * math.sqrt(variance)
            if number and (part > 1.0 or total > limit):
                break
            number, most, share = number + 1, total, max(share, part)
        return Sum(number, most, share)

    def learn(self, sizes: Sequence[int], payloads: Sequence[int]) -> None:
        """Learn from the payloads that followed estimates."""
        by_size: dict[int, list[int]] = {}
        if sizes and sizes.count(sizes[0]) == len(sizes):
            by_size[sizes[0]] = list(payloads)
        else:
            for size, payload in zip(sizes, payloads, strict=True):
                by_size.setdefault(size, []).append(payload)
        for size, came in by_size.items():
            unit = max(1, size)
            squares = sum(map(mul, came, came))
            self._classes[_place(size)].learn(len(came), sum(came) / unit, squares / unit**2)
        self._rates.clear()


def _place(size: int) -> int:
    """Return the class of an estimate; each covers sizes four times those of the one before."""
    return (size.bit_length() + 1) // 2
