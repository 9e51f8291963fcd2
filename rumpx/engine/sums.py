"""Sum up walks: counts of keys, statistics of the copied ones, and a line a partition.

Walks of the plan count in full. Of the walks that were added later only those that retry failed
keys count, since the others found keys that are counted already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from rumpx.engine.walks import Retired, RetiredAs
from rumpx.model.content import Content
from rumpx.model.counts import Counts
from rumpx.model.partitions import FOLLOWED, PASS, RETRIED, Partition
from rumpx.model.results import PartitionSummary
from rumpx.model.summary import Walked
from rumpx.transfer.content_stats import Kinds, Largest, content
from rumpx.units import count_of

_FOLLOWING: Final = (FOLLOWED, PASS)

Sum = tuple[str, Counts, Kinds]
"""The reason, the counts, and the types and sizes of one walk, or of several with one reason."""


class Walkable(Protocol):
    """A walk, under way or saved."""

    @property
    def partition(self) -> Partition:
        """Return its partition."""

    @property
    def counts(self) -> Counts:
        """Return its counts."""

    @property
    def done(self) -> bool:
        """Return True if it is at its end."""


def overall(sums: Iterable[Sum]) -> Counts:
    """Return the counts of a whole run: keys walked again count once, failed keys that were retried
    by their last outcome."""
    counts = Counts()
    for reason, came_to, _ in sums:
        if not reason:
            counts += came_to
        elif reason == RETRIED:
            counts += replace(came_to, failed=came_to.failed - came_to.settled)
    return counts


def copied_content(sums: Iterable[Sum], largest: Largest) -> Content:
    """Return the statistics of the keys that `overall` counts as copied."""
    return content([kinds for reason, _, kinds in sums if reason in ("", RETRIED)], largest.top)


def walked(
    walks: Iterable[Walkable],
    retired: Mapping[RetiredAs, Retired],
    sums: Iterable[Sum],
    largest: Largest,
) -> Walked:
    """Return the walks' part of a Summary; those of a follow are no partitions of its copy.

    Args:
        walks: those that are not retired.
        retired: the sums of those that are.
        sums: of both.
        largest: the largest keys that were copied.
    """
    told = [_line(walk) for walk in walks if walk.partition.reason not in _FOLLOWING]
    told += [_retired_line(*item) for item in retired.items() if item[0].reason not in _FOLLOWING]
    return Walked(tuple(told), copied_content(sums, largest))


def _line(walk: Walkable) -> PartitionSummary:
    partition = walk.partition
    bounds = f"{partition}, again: {partition.reason}" if partition.reason else str(partition)
    return PartitionSummary(
        partition.node.label(""), partition.db, bounds, walk.counts, walk.done
    )


def _retired_line(key: RetiredAs, retired: Retired) -> PartitionSummary:
    number = count_of(retired.walks, "walk")
    return PartitionSummary(key.node, key.db, f"{number} again: {key.reason}", retired.counts, True)
