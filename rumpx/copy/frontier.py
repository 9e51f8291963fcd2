"""Up to which cursor a partition is done: the contiguous-ack rule.

Batches of a partition are issued in the order of the walk, and settled in any order. The cursor
that counts is that of the last batch before which no batch is unsettled: whoever walks on from
there skips nothing.
"""

from __future__ import annotations

from collections import deque


class Frontier:
    """The settled part of one walk.

    Attributes:
        cursor: walk on from here.
    """

    def __init__(self, start: int) -> None:
        self.cursor = start
        self._order: deque[tuple[int, int]] = deque()
        self._settled: set[int] = set()

    @property
    def unsettled(self) -> bool:
        """Whether some issued batch is not settled, or waits for one before it."""
        return bool(self._order)

    def issue(self, batch: int, cursor: int) -> None:
        """A batch is on its way; its walk goes on at `cursor`."""
        self._order.append((batch, cursor))

    def settle(self, batch: int) -> None:
        """Every key of an issued batch is settled."""
        self._settled.add(batch)
        while self._order and self._order[0][0] in self._settled:
            settled, self.cursor = self._order.popleft()
            self._settled.remove(settled)
