"""Combine PINGs into the latency that a server shows to its other clients, because of us.

A probe is a bare PING on a connection of its own, fifty times a second (fewer where the round trip
takes longer than that allows: only one is in flight). Its time is compared with the node's
*baseline* (`baseline`): the times of PINGs while nothing of ours was in flight, so that neither
distance nor the jitter of the network counts as load.

The value is the k-th highest time of the last second, above the base. In a quiet network k is 2, so
that one late packet does not count; where idle PINGs straggle, it is as many more as straggle in a
second, and 2.5 standard deviations::

    k = 2 + floor(N·m + 2.5·sqrt(N·v·(1 + min(1, N/n))))

N is the number of PINGs, of which each counts m times on average, with variance v, if nothing of
ours is in flight, as n idle PINGs show. With few of them k is larger.

A probe that waits holds up those after it, which would have waited as well, each an interval less:
they are counted as if they had been sent (or a stall of a second would be one sample of fifty).
Over a long distance the interval is the round trip. Cf. "coordinated omission", G. Tene, "How NOT
to Measure Latency", 2013.

Not promised: that a source which is busy from the first moment on is told apart from a jittery
network. The baseline's limits bound the error.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from rumpx.throttle.baseline import (
    MOST_HELD_UP,
    NONE_STRAGGLE,
    Baseline,
    Stragglers,
)

WINDOW_SECONDS: Final = 1.0
# Times of so many seconds, at least so many of them, replace a baseline that is higher.
_LONG_SECONDS: Final = 10.0
_LONG_PINGS: Final = 50
_SIGMAS: Final = 2.5
# So many idle PINGs are enough to forgive by.
_WELL_KNOWN: Final = 50
# Where more count, so many are enough: the lowest of them then counts.
_FEWEST: Final = 4
# Over a distance of which a second holds fewer PINGs, a window has so many.
_LEAST_SPACINGS: Final = 6

# When a PING was sent, by `time.monotonic()`, and the seconds that it took, or has waited so far.
Sample = tuple[float, float]


def held_up(sample: Sample, since: float, spacing: float) -> Iterator[float]:
    """Yield the time of a PING, and those of the PINGs that it held up, one every `spacing`
    seconds; of those that were due from `since` on, the longest first."""
    sent, took = sample
    first = max(0, math.ceil((since - sent) / spacing)) if since > sent else 0
    for number in range(first, first + MOST_HELD_UP):
        left = took - number * spacing
        if left <= 0:
            return
        yield left


@dataclass(slots=True)
class Window:
    """The recent PINGs of one node, each once, in the order of sending."""

    _samples: dict[float, float] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Add a PING; a later sample with the same time of sending takes its place."""
        sent, took = sample
        self._samples[sent] = took
        while (first := next(iter(self._samples))) < sent + took - _LONG_SECONDS and first < sent:
            del self._samples[first]

    def ended_after(self, begin: float) -> Iterator[Sample]:
        """Yield the PINGs that were answered, or waited, after `begin`, the latest first."""
        for sent in reversed(self._samples):
            if sent + self._samples[sent] <= begin:
                return
            yield sent, self._samples[sent]

    def times(self) -> list[float]:
        """Return the times of all, up to ten seconds back."""
        return list(self._samples.values())


def kth(number: int, stragglers: Stragglers) -> int:
    """Return the rank that counts, among `number` PINGs of which so many straggle when idle."""
    variance = number * stragglers.variance * (1 + min(1.0, number / stragglers.known))
    return 2 + int(number * stragglers.mean + _SIGMAS * math.sqrt(variance))


def value(
    samples: Iterable[Sample], since: float, base: float, spacing: float, stragglers: Stragglers
) -> float | None:
    """Return the k-th highest time above the base, in seconds, of the PINGs due from `since` on;
    None if there are not so many."""
    number, times = 0, []
    for sample in samples:
        found = list(held_up(sample, since, spacing))
        number += bool(found)
        times += found
    rank = kth(number, stragglers)
    highest = heapq.nlargest(rank, times)
    return max(0.0, highest[-1] - base) if len(highest) >= min(rank, _FEWEST) else None


@dataclass(slots=True)
class NodeLatency:
    """The PINGs of one node over one connection.

    Args:
        connected: the connection's time, by `time.monotonic()`; another one may lead to another
            server.
        interval: seconds between two PINGs.
    """

    connected: float
    interval: float
    window: Window = field(default_factory=Window)
    baseline: Baseline = field(default_factory=Baseline)
    _compared: float = -math.inf

    def add(self, sample: Sample, *, idle: bool) -> None:
        """Add a PING; `idle`: nothing of ours was in flight."""
        self.window.add(sample)
        self.baseline.add(sample, idle=idle)
        now = sum(sample)
        if now - self._compared > _LONG_SECONDS:
            self._compared = now
            lately = self.window.times()
            if len(lately) >= _LONG_PINGS:
                self.baseline.lower(now, lately)

    @property
    def spacing(self) -> float:
        """Seconds between two PINGs of which the first takes as long as the base."""
        return max(self.interval, self.baseline.base)

    def latency(self, now: float, since: float, threshold: float | None) -> float | None:
        """Return the latency of the last second, at most back to `since`, in seconds above the
        base; None if too few PINGs are known.

        Args:
            threshold: idle PINGs this far above the base, in seconds, count as stragglers; None
                for none.
        """
        spacing = self.spacing
        stragglers = (
            self.baseline.stragglers(threshold, spacing) if threshold else NONE_STRAGGLE
        )
        return self._value(now, since, self.baseline.base, spacing, stragglers)

    def _value(
        self, now: float, since: float, base: float, spacing: float, stragglers: Stragglers
    ) -> float | None:
        seconds = max(WINDOW_SECONDS, _LEAST_SPACINGS * spacing)
        recent = self.window.ended_after(max(now - seconds, since))
        return value(recent, since, base, spacing, stragglers)

    def suspect(self, now: float, since: float, threshold: float) -> bool:
        """Return True if the latency is above the threshold, or would be if so many idle PINGs
        straggled as the few known ones show."""
        stragglers = self.baseline.stragglers(threshold, self.spacing)
        if stragglers.known < _WELL_KNOWN:
            stragglers = stragglers._replace(known=math.inf)
        found = self._value(now, since, self.baseline.base, self.spacing, stragglers)
        return found is not None and found > threshold

    def beyond_doubt(self, now: float, since: float, threshold: float) -> bool:
        """Return True if the latency is above the threshold by any baseline that this distance
        allows."""
        base, stragglers = self.baseline.most_forgiven(threshold, self.spacing)
        found = self._value(now, since, base, max(self.interval, base), stragglers)
        return found is not None and found > threshold
