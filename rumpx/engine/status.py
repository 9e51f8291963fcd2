"""The state of a run, as Snapshots show it, and its messages for the user."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from rumpx.engine.progress import Progress
from rumpx.engine.walks import Walk
from rumpx.errors import Side, printable
from rumpx.model.endpoint import format_address
from rumpx.model.snapshot import Held, NodeStat
from rumpx.throttle.decision import Decision
from rumpx.throttle.governor import Governor
from rumpx.transfer.messages import Streaming
from rumpx.units import percent

_SHOWN_SECONDS: Final = 2.0


def held(governor: Governor, decision: Decision | None, now: float) -> Held:
    """Return the limits that hold the run, and the latencies of both sides; `now` is
    `time.monotonic()`."""
    return Held(
        decision.reason if decision else "",
        bool(decision and decision.off),
        governor.latency("source", now),
        governor.latency("target", now),
        tuple(dict.fromkeys(hold.by for hold in decision.holds)) if decision else (),
        governor.share,
        dict(governor.held_seconds),
    )


def node_stats(governor: Governor, names: dict[Side, str], now: float) -> tuple[NodeStat, ...]:
    """Return the measurements of each node, in the order of sides and labels.

    Args:
        names: of each side, for a node without an address.
        now: `time.monotonic()`.
    """
    stats = []
    for side, address in governor.nodes:
        latency, cpu, used = governor.node((side, address), now)
        stats.append(
            NodeStat(
                side,
                format_address(address) if address else names[side],
                latency,
                None if cpu is None else 100 * cpu,
                used.memory if used else None,
                used.max_memory if used else None,
            )
        )
    return tuple(sorted(stats, key=lambda stat: (stat.side, stat.label)))


def progress(walks: Iterable[Walk]) -> list[Progress]:
    """Return the progress of each walk."""
    return [
        Progress(walk.partition, walk.frontier.cursor, walk.counts, walk.done) for walk in walks
    ]


class LargeValue:
    """The large value that was last reported to be under way."""

    def __init__(self) -> None:
        self._last = Streaming(b"", 0.0)
        self._at = -math.inf

    def add(self, message: Streaming) -> None:
        """Take a worker's message."""
        self._last, self._at = message, time.monotonic()

    def text(self, now: float) -> str:
        """Return a note about it; "" if there was none recently. `now` is `time.monotonic()`."""
        if now - self._at > _SHOWN_SECONDS:
            return ""
        return f"big: {printable(self._last.key, 40)} {percent(self._last.fraction)}"


class Warnings:
    """The messages of a run, each once, with its number of occurrences.

    Args:
        first: those from before the run.
        show: shows one to the user.
    """

    def __init__(self, first: Iterable[str], show: Callable[[str], None]) -> None:
        self._counts = Counter(first)
        self._show = show

    def show_all(self) -> None:
        """Show all messages so far."""
        for text in self.texts:
            self._show(text)

    def add(self, text: str) -> None:
        """Count a message. A repeated one is shown when its number has grown tenfold."""
        self._counts[text] += 1
        number = self._counts[text]
        if str(number).strip("0") == "1":
            self._show(_times(text, number))

    @property
    def texts(self) -> list[str]:
        """Each message once, with its number of occurrences if it was repeated."""
        return [_times(text, number) for text, number in self._counts.items()]


def _times(text: str, number: int) -> str:
    return text if number == 1 else f"{text} ({number:,} times)"
