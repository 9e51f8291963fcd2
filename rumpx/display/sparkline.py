"""Charts in block characters: a run's last minutes, the newest on the right.

A series of points is cut into columns of whole seconds, as short as the width allows; a column's
start does not depend on the time of drawing, so that drawn columns only move to the left. A point
counts in each column in proportion to its overlap. Then each column is a bar in steps of an eighth
of a line: the highest value reaches the top, any value above zero is visible, zero is a dot, and an
unknown value is blank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from rumpx.errors import Side
from rumpx.model.timeline import Point

SPAN_SECONDS: Final = 300.0
# Least top of charts of latencies, in seconds, so that low latencies do not look high.
LEAST_LATENCY: Final = 1e-3

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_NOTHING: Final = "."


def sparkline(
    values: Sequence[float | None], width: int, height: int = 1, top: float = 0.0
) -> list[str]:
    """Return the last `width` values as lines of that many characters, the top line first.

    Args:
        values: not negative; None if unknown.
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
    """Return the block of a bar in a line with so many eighths below it."""
    if eighths == 0 and below == 0:
        return _NOTHING
    return _BLOCKS[min(8, max(0, (eighths or 0) - below))]


def key_rates(points: Sequence[Point], width: int) -> list[float | None]:
    """Return keys per second in each of the last `width` columns; None if unknown."""
    keys, seconds = [0.0] * width, [0.0] * width
    for column, point, part in _parts(points, width):
        keys[column] += point.keys * part / point.seconds
        seconds[column] += part
    return [k / s if s else None for k, s in zip(keys, seconds, strict=True)]


def latencies(points: Sequence[Point], width: int, side: Side) -> list[float | None]:
    """Return the highest latency in each of the last `width` columns, in seconds; None if
    unknown."""
    highest: list[float | None] = [None] * width
    for column, point, _ in _parts(points, width):
        value = point.latency(side)
        if value is not None:
            highest[column] = max(value, highest[column] or 0.0)
    return highest


def column_seconds(points: Sequence[Point], width: int) -> int:
    """Return the duration of a column if the points are drawn in `width` of them."""
    if not points or not width:
        return 1
    span = points[-1].elapsed - points[0].elapsed + points[0].seconds
    return max(1, math.ceil(min(span, SPAN_SECONDS) / width))


def _parts(points: Sequence[Point], width: int) -> Iterator[tuple[int, Point, float]]:
    """Split the points by columns: column, point, and seconds of the point in it."""
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
