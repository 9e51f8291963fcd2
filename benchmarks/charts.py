"""A Report's pictures as PNGs, by matplotlib (extra `rumpx[bench]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Chart, Failed, Panel, Plot

_INCHES: Final = 8.0
_INCHES_A_BAR: Final = 0.28
_INCHES_AROUND: Final = 1.1
_INCHES_A_PANEL: Final = 3.0
_DPI: Final = 110
# How much of the width of a panel a name may take.
_NAME_WIDTH: Final = 0.25
_COLOURS: Final = ("#2b6cb0", "#90cdf4", "#718096", "#cbd5e0")


def draw(chart: Chart, title: str, path: Path) -> None:
    """Write the picture: horizontal bars, the first on top, each with its figure.

    Raises:
        Failed: matplotlib is not there.
    """
    several = len(chart.series)
    bars = len(chart.labels) * (several + (several > 1))
    figure = _figure(_INCHES_AROUND + _INCHES_A_BAR * bars)
    axes: Any = figure.add_subplot()
    thickness = 0.8 / several
    largest = max(max(values) for values in chart.series.values())
    for number, (name, values) in enumerate(chart.series.items()):
        places = [n + (number - (several - 1) / 2) * thickness for n in range(len(values))]
        drawn = axes.barh(
            places, values, height=thickness, color=_COLOURS[number % len(_COLOURS)], label=name
        )
        axes.bar_label(drawn, fmt="{:,.0f}" if largest > 20 else "{:.2f}", padding=3, fontsize=8)
    axes.set_yticks(range(len(chart.labels)), chart.labels)
    axes.invert_yaxis()
    axes.set_xlabel(chart.unit)
    axes.set_xmargin(0.1)
    axes.set_title(title, fontsize=9, wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    if several > 1:
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=_DPI)


def draw_plot(plot: Plot, path: Path) -> None:
    """Write the picture: panels one below another.

    Raises:
        Failed: matplotlib is not there.
    """
    number = len(plot.panels)
    figure = _figure(_INCHES_A_PANEL * number)
    figure.suptitle(plot.title, fontsize=9, wrap=True)
    column = figure.subplots(number, 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(column, plot.panels, strict=True):
        _draw_panel(axes, panel)
        axes.label_outer()
    figure.savefig(path, dpi=_DPI)


def _draw_panel(axes: Any, panel: Panel) -> None:
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    for (name, dots), colour in zip(panel.series.items(), _COLOURS, strict=False):
        xs, ys = zip(*dots, strict=True)
        if panel.names:
            axes.scatter(xs, ys, s=28, color=colour, label=name, zorder=3)
        else:
            axes.plot(xs, ys, linewidth=1.2, color=colour, label=name)
    if panel.names:
        _name_dots(axes, panel)
    if panel.level:
        height, words = panel.level
        axes.axhline(height, color="#c53030", linewidth=0.8, linestyle="--", label=words)
    if panel.span:
        begin, end, words = panel.span
        axes.axvspan(begin, end, color="#fed7d7", alpha=0.6, linewidth=0, label=words)
    axes.set_title(panel.title, fontsize=8, loc="left")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if not panel.log:
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylim(bottom=0)
    axes.margins(x=0.08 if panel.names else 0.0, y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _name_dots(axes: Any, panel: Panel) -> None:
    """Join the dots of each name, and write it above them, or below where its neighbour's is."""
    columns = sorted(
        (dots[0][0], [height for _, height in dots], name)
        for name, dots in zip(panel.names, zip(*panel.series.values(), strict=True), strict=True)
    )
    width = columns[-1][0] - columns[0][0] or 1.0
    # Where the last name ends, in each of the lines above and below in which names may stand.
    ends = {line: -width for line in (6, -6, 16, -16, 26, -26)}
    for x, heights, name in columns:
        axes.vlines(x, min(heights), max(heights), color="#cbd5e0", linewidth=1, zorder=1)
        free = (line for line, end in ends.items() if x - end > _NAME_WIDTH * width)
        points = next(free, 6)
        ends[points] = x
        axes.annotate(
            name,
            (x, max(heights) if points > 0 else min(heights)),
            xytext=(0, points),
            textcoords="offset points",
            ha="center",
            va="bottom" if points > 0 else "top",
            fontsize=7,
            bbox={"facecolor": "white", "linewidth": 0, "pad": 1, "alpha": 0.8},
        )


def require_matplotlib() -> None:
    """Raise before anything is measured, rather than when it is drawn.

    Raises:
        Failed: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise Failed("Charts need matplotlib: pip install -e '.[bench]'.") from None


def _figure(height: float) -> Any:
    import matplotlib.figure

    return matplotlib.figure.Figure(figsize=(_INCHES, height), layout="constrained")
