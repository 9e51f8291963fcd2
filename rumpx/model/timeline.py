"""The data of a run's charts: a point a second, thinned to a few thousand.

A `Recorder` receives every Snapshot. It closes a point after each second; at `MOST_POINTS` it
merges neighbours in pairs, and from then on a point takes twice as long. Merged points keep all
sums (keys, bytes, throttled time), and of latencies the highest, so that a peak of one second is
still visible in a run of a week.

A resumed job has one series: each point has the number of its run, and `elapsed` counts over all of
them.

Not promised: points of equal length; each has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from rumpx.errors import Side
from rumpx.model.counts import Counts
from rumpx.model.snapshot import Snapshot

MOST_POINTS: Final = 3600
FIRST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Point:
    """One stretch of a run.

    Attributes:
        run: number of the job's run; the first is 1.
        at: end of the stretch, in seconds since 1970.
        elapsed: seconds of all runs together until then.
        seconds: its length.
        keys, payload_bytes: settled in it, repeated walks included.
        source_latency, target_latency: the highest one shown, in seconds above the base; None if
            unknown.
        held: seconds of throttling by cause, as in {"source latency": 0.8}.
        lag: the highest lag shown of a follow, in seconds; None if it has none.
    """

    run: int
    at: float
    elapsed: float
    seconds: float
    keys: int
    payload_bytes: int
    source_latency: float | None = None
    target_latency: float | None = None
    held: dict[str, float] = field(default_factory=dict)
    lag: float | None = None

    def latency(self, side: Side) -> float | None:
        """Return a side's latency, in seconds above the base."""
        return self.source_latency if side == "source" else self.target_latency

    @property
    def keys_per_second(self) -> float:
        """Return the mean rate of keys."""
        return self.keys / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Return the mean rate of payload bytes."""
        return self.payload_bytes / self.seconds if self.seconds > 0 else 0.0


class _Mark(NamedTuple):
    """The start or end of a point."""

    elapsed: float
    work: Counts
    held: Mapping[str, float] = MappingProxyType({})


def held_seconds(points: Iterable[Point]) -> dict[str, float]:
    """Return the throttled seconds by cause, the longest first."""
    total: dict[str, float] = {}
    for point in points:
        total = _sums(total, point.held)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def joined(first: Point, second: Point) -> Point:
    """Merge two neighbours of one run."""
    return Point(
        second.run,
        second.at,
        second.elapsed,
        first.seconds + second.seconds,
        first.keys + second.keys,
        first.payload_bytes + second.payload_bytes,
        _highest(first.source_latency, second.source_latency),
        _highest(first.target_latency, second.target_latency),
        _sums(first.held, second.held),
        _highest(first.lag, second.lag),
    )


def thinned(points: Iterable[Point]) -> list[Point]:
    """Merge neighbours in pairs, none across the border of two runs."""
    kept: list[Point] = []
    open_ = False  # the last point has no partner yet
    for point in points:
        if open_ and kept[-1].run == point.run:
            kept[-1] = joined(kept[-1], point)
            open_ = False
        else:
            kept.append(point)
            open_ = True
    return kept


class Recorder:
    """Turns Snapshots into a series of points.

    Args:
        run: number of this run of the job.
        points: of earlier runs.
        elapsed, work: at the start of this run, as in Snapshot.

    Attributes:
        points: so far, without the open one.
    """

    def __init__(
        self,
        run: int = 1,
        points: Iterable[Point] = (),
        elapsed: float = 0.0,
        work: Counts | None = None,
    ) -> None:
        self.points = list(points)
        self._run = run
        # A single point is longer if the run, or its machine, was suspended.
        self._length = _usual_length(self.points) if self.points else FIRST_SECONDS
        self._since = _Mark(elapsed, work or Counts())
        self._latest = self._since
        self._latencies: tuple[float | None, float | None] = (None, None)
        self._lag: float | None = None
        self._taken = len(self.points)
        self._rewritten = False

    def see(self, snapshot: Snapshot, wall: float) -> None:
        """Record the next Snapshot; `wall` is `time.time()`."""
        held = snapshot.held
        self._latest = _Mark(snapshot.elapsed, snapshot.work, held.seconds)
        self._latencies = (
            _highest(self._latencies[0], held.source_latency),
            _highest(self._latencies[1], held.target_latency),
        )
        if snapshot.follow:
            self._lag = _highest(self._lag, snapshot.follow.lag)
        if snapshot.elapsed - self._since.elapsed >= self._length:
            self._close(wall)

    def finish(self, wall: float) -> None:
        """Close the open point at the end of the run."""
        if self._latest is not self._since:
            self._close(wall)
            self._join_rest()

    def take(self) -> tuple[bool, tuple[Point, ...]]:
        """Return True if all earlier points must be replaced, and the points: all, or the new ones
        since the last call."""
        rewritten, self._rewritten = self._rewritten, False
        new = self.points if rewritten else self.points[self._taken :]
        self._taken = len(self.points)
        return rewritten, tuple(new)

    def _join_rest(self) -> None:
        """Merge a last point that is much shorter than others, since its rate is mostly chance."""
        if len(self.points) < 2:
            return
        before, last = self.points[-2:]
        if before.run == last.run and last.seconds < self._length / 2:
            self.points[-2:] = [joined(before, last)]
            self._rewritten = True

    def _close(self, wall: float) -> None:
        before, now = self._since, self._latest
        self.points.append(
            Point(
                self._run,
                wall,
                now.elapsed,
                max(0.0, now.elapsed - before.elapsed),
                max(0, now.work.settled - before.work.settled),
                max(0, now.work.payload_bytes - before.work.payload_bytes),
                *self._latencies,
                _differences(before.held, now.held),
                self._lag,
            )
        )
        self._since, self._latencies, self._lag = now, (None, None), None
        if len(self.points) >= MOST_POINTS:
            self.points = thinned(self.points)
            self._length *= 2
            self._rewritten = True


def _usual_length(points: Sequence[Point]) -> float:
    from statistics import median_low  # slow to import, and a new job needs none

    return median_low([_length_of(point) for point in points])


def _length_of(point: Point) -> float:
    """Return the planned length of a point, a power of two."""
    length = FIRST_SECONDS
    while length * 2 <= point.seconds:
        length *= 2
    return length


def _highest(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _sums(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}


def _differences(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    grown = {name: value - before.get(name, 0.0) for name, value in now.items()}
    return {name: value for name, value in grown.items() if value > 0}
