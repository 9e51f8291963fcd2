"""Will it fit? The target's memory at the end, from its growth so far.

What the target uses now, and what the part of the copy that is done made it grow, give what the
rest will make it grow: growth x left / done. It is an estimate: hash tables double at once, and
keys are not of equal size, so that it must be above the limit by a margin, a larger one while
little is known. Whatever the estimate, a target that is full is not written to.

A pure function of INFO's figures; the coordinator asks it once a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# From so much of the copy on, done by this run, the growth means something; and a good deal.
_LITTLE: Final = 0.03
_MUCH: Final = 0.25
_MARGINS: Final = (1.25, 1.05)


@dataclass(frozen=True, slots=True)
class Growth:
    """One node of the target: bytes used when the run began, bytes used now, and its maxmemory."""

    before: int
    now: int
    most: int


def at_the_end(growth: Growth, begun: float, done: float) -> float:
    """Bytes that a node will use when all is copied.

    Args:
        begun, done: the fraction of the job, 0.0 to 1.0, when the run began, and now.
    """
    grown = max(0, growth.now - growth.before)
    return growth.now + grown * (1 - done) / max(done - begun, 1e-9)


def overflows(growth: Growth, begun: float, done: float, limit: float) -> bool:
    """Whether a node is full, or surely will be.

    Args:
        limit: of its maxmemory, 0.0 to 1.0.
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
