"""The baseline of a node: what its PINGs take while nothing of ours is in flight.

Two things are learnt from the idle PINGs: the *base*, their p75, and the *stragglers*, the share of
them that is far above the base. Both forgive latency, so both are bounded, lest a source that is
busy from the start teaches that this is normal. Jitter is in proportion to distance, for which the
lowest time of the last ten minutes stands:

- the base is at most twice the lowest, or 0.3 ms above it, whichever is more;
- stragglers are at most a quarter, and below a distance of the threshold fewer, by its square: on
  the same host none;
- few idle PINGs prove little: half a straggler more is assumed, scaled likewise.

Idle PINGs are kept for as long as no later ones replace them: those of a learning pause do, and
those of ten seconds of work whose p75 and p95 are both lower.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

BASE_QUANTILE: Final = 0.75
# Of a PING that waits, count at most so many that it holds up.
MOST_HELD_UP: Final = 64
_MOST_SAMPLES: Final = 400
_HIGH_QUANTILE: Final = 0.95
_BASE_FACTOR: Final = 2.0
_BASE_SECONDS: Final = 0.0003
_MOST_STRAGGLERS: Final = 0.25
# A baseline that forgives more stragglers, or more of the threshold, is learnt again.
_FORGIVEN_STRAGGLERS: Final = 0.02
_FORGIVEN_BASE: Final = 0.1
_BEST_SLICE_SECONDS: Final = 60.0
_BEST_SLICES: Final = 10


class Stragglers(NamedTuple):
    """How often a PING is far above the base when idle: the mean number of times that it counts,
    those included that it holds up, and the variance; of how many PINGs."""

    mean: float
    variance: float
    known: float


NONE_STRAGGLE: Final = Stragglers(0.0, 0.0, math.inf)


def quantile(times: Iterable[float], share: float) -> float:
    """Return the time that about this share of times is below; rather a higher one."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def highest_base(best: float) -> float:
    """Return the highest base for a lowest time, in seconds."""
    return max(_BASE_FACTOR * best, best + _BASE_SECONDS)


def _distance(best: float, threshold: float) -> float:
    """Return the factor, 0.0 to 1.0, by which a network of this length may straggle."""
    return min(1.0, best / threshold) ** 2


def stragglers_of(
    times: Sequence[float], best: float, base: float, threshold: float, spacing: float
) -> Stragglers:
    """Return the stragglers among idle PINGs.

    Args:
        times: of the PINGs, in seconds.
        best, base: the lowest time, and the base.
        threshold: seconds above the base from which a PING is a straggler.
        spacing: seconds between two PINGs.
    """
    allowed = _distance(best, threshold)
    counts = [_counts(time - base - threshold, spacing) for time in times]
    known = len(counts) + 1
    share = (sum(map(bool, counts)) + allowed / 2) / known
    forgiven = min(1.0, _MOST_STRAGGLERS * allowed / share) if share else 1.0
    mean = forgiven * (sum(counts) + allowed / 2) / known
    squares = forgiven * (sum(count * count for count in counts) + allowed / 2) / known
    return Stragglers(mean, max(0.0, squares - mean * mean), known)


def _counts(above: float, spacing: float) -> int:
    """Return how many PINGs are above the threshold, if one is by `above` seconds: itself, and
    those that it holds up."""
    return min(MOST_HELD_UP, 1 + int(above / spacing)) if above > 0 else 0


def most_forgiven(
    times: Sequence[float], best: float, threshold: float, spacing: float
) -> tuple[float, Stragglers]:
    """Return the highest base, and the most stragglers, that more idle PINGs could show; arguments
    as of `stragglers_of`."""
    base = highest_base(best)
    share = _MOST_STRAGGLERS * _distance(best, threshold)
    count = max([1, *(_counts(time - base - threshold, spacing) for time in times)])
    mean = share * count
    return base, Stragglers(mean, mean * count - mean * mean, len(times) + 1)


@dataclass(slots=True)
class Best:
    """The lowest time of the last ten minutes, in seconds; it expires a minute at a time."""

    _slices: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, at: float, took: float) -> None:
        """Add a probe's time."""
        slices = self._slices
        if not slices or at - slices[-1][0] >= _BEST_SLICE_SECONDS:
            slices.append((at, took))
        elif took < slices[-1][1]:
            slices[-1] = slices[-1][0], took
        while slices[0][0] < at - _BEST_SLICE_SECONDS * _BEST_SLICES:
            slices.popleft()

    @property
    def value(self) -> float:
        """The lowest time; 0 before the first."""
        return min((took for _, took in self._slices), default=0.0)


@dataclass(slots=True)
class Baseline:
    """The idle PINGs of one node, and what follows from them. Before the first idle PING the base
    is the lowest time of all.

    Attributes:
        learnt: `time.monotonic()` of the last idle PING; -inf before the first.
    """

    learnt: float = -math.inf
    _idle: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))
    _best: Best = field(default_factory=Best)
    _p75: float | None = None
    _known: tuple[tuple[float, ...], Stragglers] | None = None

    def add(self, sample: tuple[float, float], *, idle: bool) -> None:
        """Add a PING, by the time of sending and the seconds that it took; `idle`: nothing of ours
        was in flight."""
        sent, took = sample
        self._best.add(sent + took, took)
        if idle:
            if self._idle and self._idle[-1][0] == sent:
                self._idle.pop()  # it waited then, and waits still, or has been answered
            self._idle.append(sample)
            self.learnt = sent + took
            self._changed()

    def lower(self, now: float, times: Sequence[float]) -> None:
        """Let the times of a while of work be the idle ones, if they are lower."""
        idle = self._times
        if idle and all(
            quantile(times, share) < quantile(idle, share)
            for share in (BASE_QUANTILE, _HIGH_QUANTILE)
        ):
            self._idle.clear()
            self._idle.extend((now, took) for took in times)
            self._changed()

    def forget(self, before: float) -> None:
        """Forget the idle PINGs sent before this time, unless none would be left."""
        if self._idle and self._idle[-1][0] >= before:
            while self._idle[0][0] < before:
                self._idle.popleft()
            self._changed()

    def _changed(self) -> None:
        self._p75 = self._known = None

    def samples(self, since: float) -> int:
        """Return the number of idle PINGs sent from `since` on."""
        return sum(sent >= since for sent, _ in self._idle)

    @property
    def known(self) -> bool:
        """True if two idle PINGs are known."""
        return len(self._idle) > 1

    def forgives(self, threshold: float, spacing: float) -> bool:
        """Return True if the baseline forgives more than a quiet network's would."""
        lenient = self.stragglers(threshold, spacing).mean > _FORGIVEN_STRAGGLERS
        return lenient or self.base - self.best > _FORGIVEN_BASE * threshold

    def forgives_all(self, share: float, threshold: float) -> bool:
        """Return True if so large a share of stragglers is forgiven at this distance."""
        return share <= _MOST_STRAGGLERS * _distance(self.best, threshold)

    @property
    def best(self) -> float:
        """The lowest time of the last ten minutes, in seconds; 0 before the first."""
        return self._best.value

    @property
    def base(self) -> float:
        """The time that counts as no latency, in seconds."""
        if not self._idle:
            return self.best
        if self._p75 is None:
            self._p75 = quantile(self._times, BASE_QUANTILE)
        return min(self._p75, highest_base(self.best))

    def stragglers(self, threshold: float, spacing: float) -> Stragglers:
        """Return the share of idle PINGs that is further above the base than the threshold."""
        asked = self.best, self.base, threshold, spacing
        if not self._known or self._known[0] != asked:
            self._known = asked, stragglers_of(self._times, *asked)
        return self._known[1]

    def most_forgiven(self, threshold: float, spacing: float) -> tuple[float, Stragglers]:
        """Return the highest base, and the most stragglers, that more idle PINGs could show."""
        return most_forgiven(self._times, self.best, threshold, spacing)

    @property
    def _times(self) -> list[float]:
        return [took for _, took in self._idle]
