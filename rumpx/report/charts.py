"""Charts as inline SVG, drawn from points: pure functions from numbers to markup.

A chart is an SVG as wide as its box and of a fixed height. Text is in the outer one, placed by
percent and sized by the page's style, so that it is readable on a phone and on paper; the data is
in an inner one of 1000 units that is stretched to the width. Narrow charts have fewer labels: both
sets are drawn, and the style shows one (classes `wide`, `narrow`). Colours are the style's, by
class.

Values are drawn as steps, a stretch in its full length, so that even one second is visible.

Not promised: a correct chart of points that are not in the order of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple

from rumpx import units
from rumpx.model.content import SizeCount
from rumpx.model.timeline import Point
from rumpx.report.scales import BRIEF, Axis, binned, extent, powers, ticks, time_ticks

_UNITS: Final = 1000
_LABELS: Final = {"wide": (8, 7.0), "narrow": (4, 16.0)}  # intervals of time, percents between runs
_LANE_MOST_BINS: Final = 300
_LANE, _STRIP = 34, 10
_BAR, _BAR_GAP = 14, 8
# A cause that throttled a stretch for a smaller share than this is not drawn.
_LEAST_SHARE: Final = 0.02


class Line(NamedTuple):
    """A series with one value a point, None if unknown; `style` is its class."""

    style: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over time.

    Attributes:
        name: for identifiers.
        title, description: for screen readers.
        unit: of the values, as shown at the axis.
        lines: drawn on top of each other.
        limits: values with a line across, each with its class.
        label: formats a value at the axis.
        least: least end of the axis; an axis of powers starts there.
        powers: True for an axis of powers of ten, for values of very different size.
        height: of the data area, in pixels.
        filled: True to fill the area below the first line.
    """

    name: str
    title: str
    description: str
    unit: str
    lines: tuple[Line, ...]
    label: Callable[[float], str]
    limits: tuple[tuple[str, float], ...] = ()
    least: float = 1.0
    powers: bool = False
    height: int = 200
    filled: bool = False


# Over time


def over_time(chart: Chart, points: Sequence[Point]) -> str:
    """Draw values over the running time.

    Args:
        points: the points of the values.
    """
    values = [v for line in chart.lines for v in line.values if v is not None]
    limits = [value for _, value in chart.limits]
    top, height, total = max([chart.least, *values, *limits]), chart.height, _total(points)
    if chart.powers:
        axis = Axis(powers(min([chart.least, *limits]), top), powers=True)
    else:
        axis = Axis(ticks(top, 5 if height > 150 else 3))
    parts = [_axis(axis, height, chart.label), _runs(points, total, height)]
    parts.append(_inner(height, "".join(_drawn(chart, line, points, axis) for line in chart.lines)))
    parts += [_rule("limit " + style, _down(value, axis, height)) for style, value in chart.limits]
    parts += [_time_axis(total, height), _text("unit", "-64", "-16", chart.unit)]
    return _outer(chart.name, chart.title, chart.description, height + 44, parts)


def _drawn(chart: Chart, line: Line, points: Sequence[Point], axis: Axis) -> str:
    total, height = _total(points), chart.height
    strokes, areas = [], []
    for stretch in _stretches(points, line.values):
        first, path = stretch[0][0], ""
        for point, value in stretch:
            path += f"V{_down(value, axis, height):.1f}H{_along(point.elapsed, total):.1f}"
        start = _along(first.elapsed - first.seconds, total)
        strokes.append(f"M{start:.1f} {path[1:]}")
        areas.append(f"M{start:.1f} {height}{path}V{height}Z")
    drawn = f'<path class="line {line.style}" d="{"".join(strokes)}"/>'
    if chart.filled and line is chart.lines[0]:
        drawn = f'<path class="area {line.style}" d="{"".join(areas)}"/>' + drawn
    return drawn


def _stretches(
    points: Sequence[Point], values: Sequence[float | None]
) -> list[list[tuple[Point, float]]]:
    """Return the points with values, grouped by unbroken sequences."""
    found: list[list[tuple[Point, float]]] = []
    end = -math.inf
    for point, value in zip(points, values, strict=True):
        if value is None:
            end = -math.inf
            continue
        if point.elapsed - point.seconds - end > point.seconds / 2:
            found.append([])
        found[-1].append((point, value))
        end = point.elapsed
    return found


def held_lanes(name: str, title: str, points: Sequence[Point], held: Sequence[str]) -> str:
    """Draw the time of each throttling cause: a strip for each, the darker the longer.

    Args:
        held: the causes.
    """
    points, total = binned(points, _LANE_MOST_BINS), _total(points)
    height = _LANE * len(held)
    parts = [_runs(points, total, height)]
    for number, reason in enumerate(held):
        y = _LANE * (number + 1) - _STRIP
        parts += [
            _text("lane", "0", str(y - 7), reason),
            f'<rect class="track" x="0" y="{y}" width="100%" height="{_STRIP}"/>',
        ]
    parts.append(_inner(height, "".join(_strips(points, total, held))))
    parts.append(_time_axis(total, height + 4))
    told = f"In this order: {', '.join(held)}."
    return _outer(name, title, told, height + 48, parts, "plot lanes")


def _strips(points: Sequence[Point], total: float, held: Sequence[str]) -> list[str]:
    """Draw a path for each cause and strength (1 to 3)."""
    paths: dict[tuple[int, int], str] = {}
    for number, reason in enumerate(held):
        y = _LANE * (number + 1) - _STRIP
        for point in points:
            share = min(1.0, point.held.get(reason, 0.0) / point.seconds) if point.seconds else 0.0
            strength = math.ceil(3 * share) if share > _LEAST_SHARE else 0
            x, start = _along(point.elapsed, total), _along(point.elapsed - point.seconds, total)
            if strength:
                path = paths.get((number, strength), "")
                paths[number, strength] = path + f"M{start:.1f} {y}H{x:.1f}v{_STRIP}H{start:.1f}Z"
    return [f'<path class="held s{strength}" d="{d}"/>' for (_, strength), d in paths.items()]


# Of sizes


def histogram(name: str, title: str, groups: Sequence[SizeCount]) -> str:
    """Draw a bar for each group of sizes."""
    most = max(group.keys for group in groups)
    marks = ticks(max(1.0, most), 4)
    height = len(groups) * (_BAR + _BAR_GAP) + _BAR_GAP
    parts = []
    for number, mark in enumerate(marks):
        x, style = _percent(mark, marks[-1]), "" if number % 2 == 0 else " odd"
        parts += [
            f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height}"/>',
            _text(f"x{style}", x, str(height + 18), units.short_keys(mark)),
        ]
    for number, group in enumerate(groups):
        y, x = _BAR_GAP + number * (_BAR + _BAR_GAP), _percent(group.keys, marks[-1])
        parts.append(_text("y", "-10", str(y + _BAR - 3), extent(group)))
        if group.keys:
            parts.append(f'<rect class="bar" y="{y}" width="{x}" height="{_BAR}" rx="2"/>')
            parts.append(_text("count", x, str(y + _BAR - 3), units.keys(group.keys), dx="8"))
    parts += [_text("unit", "-144", "-12", "payload size"), _unit_x("keys", height)]
    description = "; ".join(
        f"{extent(group)}: {units.keys(group.keys)} keys" for group in groups if group.keys
    )
    return _outer(name, title, description, height + 44, parts, "plot sizes")


# Pieces


def _outer(
    name: str, title: str, description: str, height: int, parts: Iterable[str], style: str = "plot"
) -> str:
    return (
        f'<svg class="{style}" role="img" width="100%" height="{height}" '
        f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}'
        f'</title><desc id="{name}-desc">{escape(description)}</desc>{"".join(parts)}</svg>'
    )


def _inner(height: int, paths: str) -> str:
    return (
        f'<svg width="100%" height="{height}" viewBox="0 0 {_UNITS} {height}" '
        f'preserveAspectRatio="none">{paths}</svg>'
    )


def _text(style: str, x: str, y: str, text: str, dx: str = "") -> str:
    more = f' dx="{dx}"' if dx else ""
    return f'<text class="{style}" x="{x}" y="{y}"{more}>{escape(text)}</text>'


def _rule(style: str, y: float) -> str:
    return f'<line class="{style}" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'


def _axis(axis: Axis, height: int, label: Callable[[float], str]) -> str:
    drawn = []
    for mark in axis.marks:
        y = _down(mark, axis, height)
        drawn += [_rule("grid", y), _text("y", "-10", f"{y + 4:.1f}", label(mark))]
    return "".join(drawn)


def _time_axis(total: float, height: int) -> str:
    label = units.duration if total < BRIEF else units.clock
    drawn = []
    for style, (most, _) in _LABELS.items():
        drawn.append(f'<g class="{style}">')
        for at in time_ticks(total, most):
            x = _percent(at, total)
            drawn += [
                f'<line class="tick" x1="{x}" x2="{x}" y1="{height}" y2="{height + 5}"/>',
                _text("x", x, str(height + 20), label(at)),
            ]
        drawn.append("</g>")
    return "".join([*drawn, _unit_x("running time", height)])


def _unit_x(unit: str, height: int) -> str:
    return _text("unit end", "100%", str(height + 40), unit)


def _runs(points: Sequence[Point], total: float, height: int) -> str:
    """Draw a line at the start of each run, and its name if it fits."""
    starts: list[tuple[int, float]] = []
    for before, point in pairwise(points):
        if point.run != before.run:
            starts.append((point.run, 100 * (point.elapsed - point.seconds) / total))
    drawn = [
        f'<line class="run" x1="{x:.2f}%" x2="{x:.2f}%" y1="-4" y2="{height}"/>' for _, x in starts
    ]
    for style, (_, gap) in _LABELS.items():
        drawn.append(f'<g class="{style}">')
        free = 0.0
        for run, x in starts:
            if x >= free:
                free = x + gap
                middle = min(max(x, gap / 2), 100 - gap / 2)
                drawn.append(_text("run", f"{middle:.2f}%", "-10", f"run {run}"))
        drawn.append("</g>")
    return "".join(drawn)


def _total(points: Sequence[Point]) -> float:
    return max(points[-1].elapsed, 1e-6)


def _along(at: float, total: float) -> float:
    return _UNITS * max(0.0, at) / total


def _down(value: float, axis: Axis, height: int) -> float:
    return height * (1 - axis.place(value))


def _percent(value: float, whole: float) -> str:
    return f"{100 * value / whole:.2f}%"
