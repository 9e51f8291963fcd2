"""The full-screen view, drawn: the choice of panels, and the rows of each.

`render` is pure: a Snapshot, the points of the last minutes and the last messages become exactly
the lines of a terminal of some size. At the top are the bars' lines of the whole run, at the bottom
the available keys, and between them as many panels as fit, side by side if wide. Each panel gets
the rows that it needs, the more important first; one that does not fit is left out, never cut. The
remaining rows go, one each in turn, to panels that can use more.

Not promised: that a panel fits into 40 columns in full; numbers are left out, names are
shortened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from rumpx import units
from rumpx.display import panels, processes
from rumpx.display.draw import QUIET, fit, named, numbers, shortened, title, whole
from rumpx.display.lines import ENDED
from rumpx.display.panels import Panel
from rumpx.model.snapshot import Snapshot
from rumpx.model.timeline import Point
from rumpx.text import legible

LEAST_WIDTH: Final = 40
LEAST_HEIGHT: Final = 10
TWO_COLUMNS: Final = 108

_IMPORTANCE: Final = (
    "throughput",
    "pace",
    "messages",
    "gaps",
    "partitions",
    "workers",
    "nodes",
    "largest",
)
_COLUMNS: Final = (("throughput", "pace", "workers"), ("nodes", "gaps", "partitions", "largest"))
_BETWEEN: Final = 3
_ROOMY: Final = 24
_MOST_REASONS: Final = 4
_REASON_WIDTH: Final = 30


def render(
    snapshot: Snapshot,
    history: Sequence[Point],
    messages: Sequence[str],
    width: int,
    height: int,
    *,
    leaves: bool = True,
) -> RenderableType:
    """Draw the run on a screen of `width` columns and `height` lines.

    Args:
        history: points of the last minutes, the oldest first.
        messages: one printable line each, the oldest first.
        leaves: True if a key can leave the view.
    """
    snapshot = legible(snapshot)
    head = _head(snapshot, width)
    body: list[Text] = []
    if width >= LEAST_WIDTH and height >= LEAST_HEIGHT:
        body = _body(snapshot, history, messages, width, height - len(head) - 1)
    above = [*head, *body][: max(0, height - 1)]
    blanks = _blanks(height - 1 - len(above))
    lines = [*above, *blanks, _foot(snapshot, width, leaves)]
    return Group(*(fit(line, width) for line in lines))


def _head(snapshot: Snapshot, width: int) -> list[Text]:
    more = _failures(snapshot)
    if snapshot.job:
        more.append(named("job", snapshot.job))
    lines = [*title(snapshot, width), *whole(snapshot, width), *numbers(snapshot, width, more)]
    if snapshot.note:
        lines.append(Text(snapshot.note, "yellow"))
    return lines


def _failures(snapshot: Snapshot) -> list[Text]:
    """Draw the most frequent reasons of failed keys."""
    reasons = sorted(snapshot.failures.items(), key=lambda item: -item[1])
    told = [
        Text(f"{shortened(reason, _REASON_WIDTH)} {units.keys(count)}", "red")
        for reason, count in reasons[:_MOST_REASONS]
    ]
    rest = len(reasons) - _MOST_REASONS
    return [*told, Text(f"and {rest} more reasons", "red")] if rest > 0 else told


def _foot(snapshot: Snapshot, width: int, leaves: bool) -> Text:
    """Draw the available keys, in the longest words that fit."""
    if snapshot.state in ENDED:
        return Text()
    work = "copy" if snapshot.verb == "copied" else "comparison"
    if snapshot.follow and snapshot.follow.copied:
        work = "follow"
    full = [f"q leaves this view, the {work} runs on"] if leaves else []
    short = ["q leaves"] if leaves else []
    if snapshot.state == "draining":
        full.append("Ctrl-C again stops at once")
    else:
        full.append(f"Ctrl-C stops the {work}")
    short.append("Ctrl-C stops")
    words = " · ".join(full)
    return Text(words if len(words) <= width else " · ".join(short), QUIET)


def _body(
    snapshot: Snapshot, history: Sequence[Point], messages: Sequence[str], width: int, room: int
) -> list[Text]:
    """Draw the panels, in at most `room` lines."""
    gap = int(room >= _ROOMY)
    room -= 2 * gap  # above and below all of them
    across = (width - _BETWEEN) // 2 if width >= TWO_COLUMNS else width
    every = _panels(snapshot, history, across)
    said = panels.messages(messages, width)
    if width < TWO_COLUMNS:
        lines = _stacked({**every, "messages": said}, room, gap)
    else:
        rows = min(said.most, max(said.least, room // 6)) if said else 0
        below = said.draw(rows) if said and rows <= room else []
        room -= len(below) + gap * bool(below)
        left, right = (
            _stacked({name: every[name] for name in names}, room, gap) for names in _COLUMNS
        )
        lines = [*_side_by_side(left, right, across), *_blanks(gap * bool(below)), *below]
    return [*_blanks(gap), *lines]


def _panels(
    snapshot: Snapshot, history: Sequence[Point], width: int
) -> dict[str, Panel | None]:
    """Return the panels in their order from top to bottom."""
    return {
        "throughput": panels.throughput(snapshot, history, width),
        "pace": panels.pace(snapshot, history, width),
        "nodes": processes.nodes(snapshot, width),
        "workers": processes.workers(snapshot, width),
        "gaps": panels.gaps(snapshot, width),
        "partitions": panels.partitions(snapshot, width),
        "largest": panels.largest(snapshot, width),
    }


def _stacked(wanted: Mapping[str, Panel | None], room: int, gap: int) -> list[Text]:
    """Draw as many of the panels as fit, below each other."""
    there = {name: panel for name, panel in wanted.items() if panel}
    ranked = sorted(there, key=_IMPORTANCE.index)
    shares = share_out([(there[name].least, there[name].most) for name in ranked], room, gap)
    rows = dict(zip(ranked, shares, strict=True))
    lines: list[Text] = []
    for name, panel in there.items():
        if rows[name]:
            lines += [*_blanks(gap * bool(lines)), *panel.draw(rows[name])]
    return lines


def share_out(wants: Sequence[tuple[int, int]], room: int, gap: int) -> list[int]:
    """Return the number of rows of each panel, 0 for one that does not fit.

    Args:
        wants: the least and the most rows of each, the most important first.
        room: rows for all of them and the gaps.
        gap: rows between two panels.
    """
    given = [0] * len(wants)
    for number, (least, _) in enumerate(wants):
        need = least + gap * any(given)
        if need <= room:
            given[number] = least
            room -= need
    while room > 0:
        growing = [n for n, (_, most) in enumerate(wants) if 0 < given[n] < most]
        if not growing:
            break
        for number in growing[:room]:
            given[number] += 1
        room -= len(growing[:room])
    return given


def _side_by_side(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    """Draw two columns of that width."""
    lines = []
    for one, other in zip_longest(left, right, fillvalue=Text()):
        one = fit(one, width)
        lines.append(Text.assemble(one, " " * (width + _BETWEEN - one.cell_len), other))
    return lines


def _blanks(count: int) -> list[Text]:
    return [Text() for _ in range(count)]
