"""Estimate the target's memory at the end of a copy from its growth so far.

The target will grow further by growth x left / done. Hash tables double at once and keys differ in
size, so a run ends only if this estimate is above the limit by a margin, which is larger while
little has been copied; and always if the target is full already.

Where large values go in pieces, the target needs room for their old values too, beside the new ones
(`preflight.memory.old_values`). So much of the growth so far may be such pieces, and is not
extrapolated.

Pure functions of INFO's figures; the coordinator calls them once a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# The shares of the copy, done by this run, from which the growth is a rough and a good measure.
_LITTLE: Final = 0.03
_MUCH: Final = 0.25
_MARGINS: Final = (1.25, 1.05)


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory of one target node, in bytes: used at the run's start, used now, its maxmemory, and
    the old values that it may hold beside new ones."""

    before: int
    now: int
    most: int
    old_values: int = 0


def at_the_end(growth: Growth, begun: float, done: float) -> float:
    """Return the bytes that a node will use at most, at the end of the copy or shortly before.

    Args:
        begun, done: the fraction of the job, 0.0 to 1.0, at the run's start and now.
    """
    grown = max(0, growth.now - growth.before)
    lasting = max(0, grown - growth.old_values)
    further = lasting * (1 - done) / max(done - begun, 1e-9)
    return growth.now - grown + lasting + further + growth.old_values


def overflows(growth: Growth, begun: float, done: float, limit: float) -> bool:
    """Return True if a node is full, or almost certainly will be.

    Args:
        begun, done: as for `at_the_end`.
        limit: the share of its maxmemory that it may use, 0.0 to 1.0.
    """
    room = limit * growth.most
    if not growth.most:
        return False
    if growth.now >= room:
        return True
    share = done - begun
    if share < _LITTLE or done >= 1:
        return False
    margin = _MARGINS[share >= _MUCH]
    return at_the_end(growth, begun, done) > margin * room
