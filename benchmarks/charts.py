"""A Report's chart as a PNG, by matplotlib (extra `rumpx[bench]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Chart, Failed

_INCHES: Final = 8.0
_INCHES_A_BAR: Final = 0.28
_INCHES_AROUND: Final = 1.1
_COLOURS: Final = ("#2b6cb0", "#90cdf4", "#718096", "#cbd5e0")


def draw(chart: Chart, title: str, path: Path) -> None:
    """Write the picture: horizontal bars, the first on top, each with its figure.

    Raises:
        Failed: matplotlib is not there.
    """
    try:
        import matplotlib.figure
    except ImportError:
        raise Failed("Charts need matplotlib: pip install -e '.[bench]'.") from None
    several = len(chart.series)
    bars = len(chart.labels) * (several + (several > 1))
    figure = matplotlib.figure.Figure(
        figsize=(_INCHES, _INCHES_AROUND + _INCHES_A_BAR * bars), layout="constrained"
    )
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
    figure.savefig(path, dpi=110)
