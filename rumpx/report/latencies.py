"""What a run's latencies come to: of each side, what was usual, the highest, and for how long it
was above its limit.

A point tells the highest latency of its stretch, so every figure errs to the high side, and the
longer the points are, the more.

Not promised: limits that were other ones in earlier runs; those of the last run are taken for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rumpx.errors import SIDES, Side, UsageError
from rumpx.model.history import Option, Record
from rumpx.units import parse_seconds


class Latencies(NamedTuple):
    """Of one side, in seconds above the best.

    Attributes:
        known: for how many seconds something was known.
        half, most: above these it was not for half, and for 99 %, of the time.
        highest: of all.
        limit: None if there was none.
        above: for how many seconds the limit was exceeded; stretches count whole.
    """

    side: Side
    known: float
    half: float
    most: float
    highest: float
    limit: float | None
    above: float


def latencies(record: Record) -> list[Latencies]:
    """Those of each side of which anything was known."""
    found = []
    for side in SIDES:
        values = sorted(
            (value, point.seconds)
            for point in record.points
            if (value := point.latency(side)) is not None
        )
        if values:
            limit = limit_of(record.options, side)
            known = sum(seconds for _, seconds in values)
            above = sum(s for value, s in values if limit is not None and value > limit)
            half, most = _below(values, known / 2), _below(values, known * 0.99)
            found.append(Latencies(side, known, half, most, values[-1][0], limit, above))
    return found


def limit_of(options: Sequence[Option], side: Side) -> float | None:
    """What a side's latency was limited to, in seconds."""
    for option in options:
        if option.flag == f"--max-{side}-latency" and option.value not in ("", "off"):
            try:
                return parse_seconds(option.value, option.flag)
            except UsageError:  # a word of another version
                return None
    return None


def _below(values: Sequence[tuple[float, float]], seconds: float) -> float:
    """What the sorted values do not exceed for so long."""
    passed = 0.0
    for value, length in values:
        passed += length
        if passed >= seconds:
            return value
    return values[-1][0]
