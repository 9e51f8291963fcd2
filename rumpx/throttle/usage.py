"""The CPU and memory that servers use, as their INFO reports them; and the time of a key.

A node's share of a core is the CPU that it used between two reports. The time of a key is the CPU
of all source nodes between two reports, divided by the keys that were settled meanwhile; the median
of the last reports. It includes what other clients have the source do, so it is rather too long.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from rumpx.errors import Side
from rumpx.model.nodes import NodeName
from rumpx.throttle.prober import Used

# The time of a key is the median of so many intervals in which enough keys were settled, and within
# what servers take for keys of any kind.
_KEY_INTERVALS: Final = 10
_ENOUGH_KEYS: Final = 1000
_LEAST_KEY_SECONDS: Final = 2e-6
_LONGEST_KEY_SECONDS: Final = 50e-6
# A report older than this, in seconds, is not used.
_AGE: Final = 5.0


@dataclass(slots=True)
class _Node:
    """One node's last report, with the run's `keys` by then; its `share` of a core from `since` on,
    if there was a report before; the seconds of a key in the last intervals."""

    used: Used
    keys: int
    since: float = math.inf
    share: float = 0.0
    key_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEY_INTERVALS))


class Usage:
    """Keeps the last report of each node."""

    def __init__(self) -> None:
        self._nodes: dict[NodeName, _Node] = {}

    def observe(self, used: Used, keys: int) -> None:
        """Take a report.

        Args:
            keys: settled by the run until now.
        """
        before = self._nodes.get(used.node)
        node = self._nodes[used.node] = _Node(used, keys)
        if before and used.at > before.used.at and used.cpu >= before.used.cpu:
            spent = used.cpu - before.used.cpu
            node.since = before.used.at
            node.share = spent / (used.at - before.used.at)
            node.key_seconds = before.key_seconds
            if (settled := keys - before.keys) > _ENOUGH_KEYS:
                node.key_seconds.append(spent / settled)

    def keep(self, side: Side, nodes: Container[NodeName]) -> None:
        """Forget all nodes of a side but these."""
        for node in [each for each in self._nodes if each[0] == side and each not in nodes]:
            del self._nodes[node]

    @property
    def nodes(self) -> list[NodeName]:
        """The nodes that have reported."""
        return list(self._nodes)

    def last(self, node: NodeName) -> Used | None:
        """Return a node's last report."""
        return known.used if (known := self._nodes.get(node)) else None

    def of(self, side: Side) -> list[Used]:
        """Return the last report of each node of a side."""
        return [known.used for node, known in self._nodes.items() if node[0] == side]

    def share(self, node: NodeName) -> float | None:
        """Return a node's share of a core between its last two reports; None if unknown."""
        known = self._nodes.get(node)
        return known.share if known and math.isfinite(known.since) else None

    def highest_cpu(self, side: Side, now: float, began: float, ended: float) -> float | None:
        """Return the highest share of a core of a side's nodes, by reports that began and ended
        after these times and are recent; None if unknown."""
        return max(
            (
                known.share
                for node, known in self._nodes.items()
                if node[0] == side
                and math.inf > known.since >= began
                and known.used.at > max(ended, now - _AGE)
            ),
            default=None,
        )

    def highest_memory(self, side: Side, now: float, since: float) -> float | None:
        """Return the highest part of its maxmemory that a node of a side uses, by recent reports
        after `since`; None if unknown."""
        return max(
            (
                used.memory / used.max_memory if used.max_memory else 0.0
                for used in self.of(side)
                if used.at > max(since, now - _AGE)
            ),
            default=None,
        )

    def key_seconds(self) -> float:
        """Return the seconds for which a key occupies the source; 0.0 if unknown."""
        nodes = [known for node, known in self._nodes.items() if node[0] == "source"]
        medians = [median(known.key_seconds) for known in nodes if known.key_seconds]
        if not medians or len(medians) < len(nodes):
            return 0.0
        return min(_LONGEST_KEY_SECONDS, max(_LEAST_KEY_SECONDS, sum(medians)))
