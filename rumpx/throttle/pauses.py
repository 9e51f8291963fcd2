"""Decide when the run pauses for a moment to learn baselines, and when it has learnt enough.

A latency may be above its limit only because the baseline is poorly known. Before a cut for such a
reason nothing is sent for a moment: the batches and SCANs in flight land, and the prober sends
PINGs to the nodes in question. That is gentler than any cut. Pauses are rare: the least time
between two doubles from a second to a minute, and is at least fifty times the length of the last
one, so that after the first one they cost no more than 2 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from rumpx.model.nodes import NodeName
from rumpx.throttle.calm import Calm
from rumpx.throttle.latency import NodeLatency

_FIRST_GAP: Final = 1.0
_LONGEST_GAP: Final = 60.0
_COST: Final = 50
# A pause is given up after so many seconds: what is in flight takes long, or a node is silent.
_LONGEST: Final = 1.0
_SHORTEST_BURST: Final = 0.05
_LONGEST_BURST: Final = 0.4
# A baseline needs so many idle PINGs, none of them older than so many seconds.
_ENOUGH: Final = 8
_FRESH_SECONDS: Final = 10.0
_FEWEST: Final = 2


def burst_seconds(round_trip: float) -> float:
    """Return how long to send PINGs to a node: for eight round trips, within limits."""
    return min(_LONGEST_BURST, max(_SHORTEST_BURST, _ENOUGH * round_trip))


def has_learnt(latency: NodeLatency, calm: Calm) -> bool:
    """Return True if enough PINGs were answered since all was calm, with those shortly before."""
    idle = latency.baseline.samples
    return idle(calm.since) >= _FEWEST and idle(calm.since - _FRESH_SECONDS) >= _ENOUGH


@dataclass(slots=True)
class Pauses:
    """The learning pauses of a run; times are of `time.monotonic()`.

    Attributes:
        nodes: to learn now; none while there is no pause.
        by: the limit that would have cut.
        ended: the last pause's end.
    """

    nodes: tuple[NodeName, ...] = ()
    by: str = ""
    ended: float = -math.inf
    _started: float = -math.inf
    _ordered: bool = False
    _after: float = -math.inf
    _gap: float = _FIRST_GAP

    def may_start(self, now: float) -> bool:
        """Return True if the last pause is long enough ago."""
        return not self.nodes and now >= self._after

    def start(self, now: float, by: str, nodes: tuple[NodeName, ...]) -> None:
        """Start a pause."""
        self.nodes, self.by, self._started, self._ordered = nodes, by, now, False

    def take_order(self, calm: Calm) -> bool:
        """Return True once in each pause, when nothing is in flight any more: PINGs are due."""
        if not self.nodes or self._ordered or not calm.now:
            return False
        self._ordered = True
        return True

    def too_long(self, now: float) -> bool:
        """Return True if the pause is to be given up."""
        return now - self._started > _LONGEST

    def end(self, now: float) -> None:
        """End the pause."""
        self._after = now + max(self._gap, _COST * (now - self._started))
        self._gap = min(_LONGEST_GAP, 2 * self._gap)
        self.nodes, self.ended = (), now


def since_pause(calm: Calm) -> float:
    """Return the time from which on idle PINGs are the baseline, at a pause's end."""
    return calm.since - _FRESH_SECONDS
