"""What a run's charts are drawn from: a point a second, thinned to a few thousand.

A `Recorder` is shown every Snapshot. It closes a point when a second is over; when there are
`MOST_POINTS`, neighbours are joined in pairs and from then on a point takes twice as long. Joined
points lose nothing that is summed (keys, bytes, time held), and of latencies keep the highest, so
that a peak of one second is still to be seen in a run of a week.

A job that is gone on with has one series: each point says of which run it is, and `elapsed` counts
on over all of them.

Not promised: that points are of equal length; each says how long it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median_low
from types import MappingProxyType
from typing import Final, NamedTuple

from rumpx.errors import Side
from rumpx.model.counts import Counts
from rumpx.model.snapshot import Snapshot

MOST_POINTS: Final = 3600
FIRST_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Point:
    """What happened in a stretch of a run.

    Attributes:
        run: which run of the job; the first is 1.
        at: when the stretch ended, in seconds since 1970.
        elapsed: seconds of all runs together until then.
        seconds: its length.
        keys, payload_bytes: settled in it, also those that were walked again.
        source_latency, target_latency: the highest that was shown, in seconds above the best; None
            where nothing was known.
        held: for how many seconds what held the run, as in {"source latency": 0.8}.
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

    def latency(self, side: Side) -> float | None:
        """A side's, in seconds above the best."""
        return self.source_latency if side == "source" else self.target_latency

    @property
    def keys_per_second(self) -> float:
        """Its mean rate."""
        return self.keys / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Its mean rate."""
        return self.payload_bytes / self.seconds if self.seconds > 0 else 0.0


class _Mark(NamedTuple):
    """Where a point begins or ends."""

    elapsed: float
    work: Counts
    held: Mapping[str, float] = MappingProxyType({})


def held_seconds(points: Iterable[Point]) -> dict[str, float]:
    """For how long what held the runs, the longest first."""
    total: dict[str, float] = {}
    for point in points:
        total = _sums(total, point.held)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def joined(first: Point, second: Point) -> Point:
    """Two neighbours of one run as one."""
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
    )


def thinned(points: Iterable[Point]) -> list[Point]:
    """Neighbours joined in pairs, none over the border between two runs."""
    kept: list[Point] = []
    open_ = False  # the last one waits for its partner
    for point in points:
        if open_ and kept[-1].run == point.run:
            kept[-1] = joined(kept[-1], point)
            open_ = False
        else:
            kept.append(point)
            open_ = True
    return kept


class Recorder:
    """Makes a series of Snapshots.

    Args:
        run: which run of the job this is.
        points: of earlier runs.
        elapsed, work: where this run begins, as in Snapshot.

    Attributes:
        points: so far, without the one that is not closed yet.
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
        # A single point is longer where the run, or its machine, stood still.
        self._length = median_low([_length_of(point) for point in self.points] or [FIRST_SECONDS])
        self._since = _Mark(elapsed, work or Counts())
        self._latest = self._since
        self._latencies: tuple[float | None, float | None] = (None, None)
        self._taken = len(self.points)
        self._rewritten = False

    def see(self, snapshot: Snapshot, wall: float) -> None:
        """The next Snapshot; `wall` is `time.time()`."""
        held = snapshot.held
        self._latest = _Mark(snapshot.elapsed, snapshot.work, held.seconds)
        self._latencies = (
            _highest(self._latencies[0], held.source_latency),
            _highest(self._latencies[1], held.target_latency),
        )
        if snapshot.elapsed - self._since.elapsed >= self._length:
            self._close(wall)

    def finish(self, wall: float) -> None:
        """The run has ended: close what is open."""
        if self._latest is not self._since:
            self._close(wall)
            self._join_rest()

    def take(self) -> tuple[bool, tuple[Point, ...]]:
        """Whether what was taken before is to be replaced, and the points: all, or those that are
        new since the last call."""
        rewritten, self._rewritten = self._rewritten, False
        new = self.points if rewritten else self.points[self._taken :]
        self._taken = len(self.points)
        return rewritten, tuple(new)

    def _join_rest(self) -> None:
        """A last point that is much shorter than others tells of chance, not of a rate."""
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
            )
        )
        self._since, self._latencies = now, (None, None)
        if len(self.points) >= MOST_POINTS:
            self.points = thinned(self.points)
            self._length *= 2
            self._rewritten = True


def _length_of(point: Point) -> float:
    """The power of two that a point was to last for."""
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
