"""Charts in block characters: a run's last minutes, the newest on the right.

A series of points is cut into columns of whole seconds, as few as let its last minutes fit; where a
column begins does not depend on when it is drawn, so that what was drawn only moves to the left. A
point counts in each column for the part of it that lies there. Then each column is a bar in steps
of an eighth of a line: the highest value reaches the top, what is more than nothing shows, nothing
is a dot, and what is not known is left blank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from rumpx.errors import Side
from rumpx.model.timeline import Point

SPAN_SECONDS: Final = 300.0
# A top for charts of latencies, in seconds: where all are lower, none is drawn as if it were high.
LEAST_LATENCY: Final = 1e-3

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_NOTHING: Final = "."


def sparkline(
    values: Sequence[float | None], width: int, height: int = 1, top: float = 0.0
) -> list[str]:
    """The last `width` values as lines of that many characters, the upper ones first.

    Args:
        values: not negative; None where nothing is known.
        height: of the chart, in lines.
        top: the value at its top, if none is higher.
    """
    shown = [*[None] * (width - len(values)), *values[max(0, len(values) - width) :]]
    top = max([top, *(value for value in shown if value is not None)])
    eighths = [None if value is None else _eighths(value, top, height) for value in shown]
    return [
        "".join(_block(value, 8 * line) for value in eighths) for line in reversed(range(height))
    ]


def _eighths(value: float, top: float, height: int) -> int:
    return max(1, round(value / top * 8 * height)) if value > 0 else 0


def _block(eighths: int | None, below: int) -> str:
    """What a bar shows in a line that has so many eighths below it."""
    if eighths == 0 and below == 0:
        return _NOTHING
    return _BLOCKS[min(8, max(0, (eighths or 0) - below))]


def key_rates(points: Sequence[Point], width: int) -> list[float | None]:
    """Keys per second in each of the last `width` columns; None where nothing is known."""
    keys, seconds = [0.0] * width, [0.0] * width
    for column, point, part in _parts(points, width):
        keys[column] += point.keys * part / point.seconds
        seconds[column] += part
    return [k / s if s else None for k, s in zip(keys, seconds, strict=True)]


def latencies(points: Sequence[Point], width: int, side: Side) -> list[float | None]:
    """The highest latency in each of the last `width` columns, in seconds; None where nothing is
    known."""
    highest: list[float | None] = [None] * width
    for column, point, _ in _parts(points, width):
        value = point.latency(side)
        if value is not None:
            highest[column] = max(value, highest[column] or 0.0)
    return highest


def column_seconds(points: Sequence[Point], width: int) -> int:
    """How long a column is when the points are drawn in `width` of them."""
    if not points or not width:
        return 1
    span = points[-1].elapsed - points[0].elapsed + points[0].seconds
    return max(1, math.ceil(min(span, SPAN_SECONDS) / width))


def _parts(points: Sequence[Point], width: int) -> Iterator[tuple[int, Point, float]]:
    """The points cut up by columns: column, point, and seconds of the point in it."""
    if not points:
        return
    step = column_seconds(points, width)
    first = math.ceil(points[-1].elapsed / step) - width
    for point in points:
        began = point.elapsed - point.seconds
        for column in range(
            max(0, math.floor(began / step) - first),
            min(width, math.ceil(point.elapsed / step) - first),
        ):
            start = (first + column) * step
            part = min(point.elapsed, start + step) - max(began, start)
            if part > 0:
                yield column, point, part
