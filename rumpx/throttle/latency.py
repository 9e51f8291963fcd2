"""Combine probes into the latency that a server shows to its other clients.

A probe is a bare PING on a connection of its own, fifty times a second (fewer where the round trip
takes longer than that allows: only one is in flight). The value is the second-highest of the last
second, so that one late packet does not count, above the lowest of the last ten minutes, so that
distance does not count.

A probe that waits holds up those after it, which would have waited as well, each an interval less:
they are counted as if they had been sent (or a stall of a second would be one sample of fifty).
Cf. "coordinated omission", G. Tene, "How NOT to Measure Latency", 2013.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 1.0
_BEST_SLICE_SECONDS: Final = 60.0
_BEST_SLICES: Final = 10


def with_omitted(took: float, interval: float) -> Iterator[float]:
    """Yield a probe's time, and that of the first probe that it held up, if any; in seconds. (Later
    ones were held up for less, and only the two worst are used.)"""
    yield took
    if took > interval:
        yield took - interval


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
class Window:
    """The recent latencies of one node: times above its best, in seconds."""

    _felt: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, at: float, above: Iterable[float]) -> None:
        """Add the two worst probes of a moment."""
        self._felt.extend((at, took) for took in above)
        while self._felt and self._felt[0][0] < at - WINDOW_SECONDS:
            self._felt.popleft()

    def value(self, now: float, since: float = float("-inf")) -> float | None:
        """Return the second-highest time of the last second, at most back to `since`; None for
        fewer than two probes."""
        begin = max(now - WINDOW_SECONDS, since)
        recent = sorted(took for at, took in self._felt if at > begin)
        return recent[-2] if len(recent) > 1 else None
