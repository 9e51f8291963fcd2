"""A summary of a run's latencies: for each side the usual, the highest, and the time above its
limit.

A point holds the highest latency of its stretch, so every figure errs to the high side, the more
the longer the points are.

Not promised: different limits of earlier runs; those of the last run apply to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rumpx.errors import SIDES, Side
from rumpx.model.history import Record
from rumpx.model.job import Limits


class Latencies(NamedTuple):
    """Latencies of one side, in seconds above the base.

    Attributes:
        known: seconds with a known latency.
        half, most: not exceeded for half, and for 99 %, of the time.
        highest: of all.
        limit: None if there was none.
        above: seconds above the limit; stretches count whole.
    """

    side: Side
    known: float
    half: float
    most: float
    highest: float
    limit: float | None
    above: float


def latencies(record: Record) -> list[Latencies]:
    """Return the latencies of each side with a known one."""
    found = []
    for side in SIDES:
        values = sorted(
            (value, point.seconds)
            for point in record.points
            if (value := point.latency(side)) is not None
        )
        if values:
            limit = _limit(record.limits, side)
            known = sum(seconds for _, seconds in values)
            above = sum(s for value, s in values if limit is not None and value > limit)
            half, most = _below(values, known / 2), _below(values, known * 0.99)
            found.append(Latencies(side, known, half, most, values[-1][0], limit, above))
    return found


def _limit(limits: Limits, side: Side) -> float | None:
    return limits.max_source_latency if side == "source" else limits.max_target_latency


def _below(values: Sequence[tuple[float, float]], seconds: float) -> float:
    """Return the bound that the sorted values do not exceed for so long."""
    passed = 0.0
    for value, length in values:
        passed += length
        if passed >= seconds:
            return value
    return values[-1][0]
