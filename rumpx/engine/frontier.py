"""Up to which cursor a partition is done: the contiguous-ack rule.

Batches of a partition are issued in the order of the walk, and settled in any order. The cursor
that counts is that of the last batch before which no batch is unsettled: whoever walks on from
there skips nothing.

What the batches came to is booked in the same order, so that cursor and counts always belong
together: who goes on from a cursor counts no key twice and none too few. A batch that ends within
a SCAN reply does not move the cursor, and what it came to waits for the reply's last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rumpx.model.counts import Counts
from rumpx.model.results import KeyFailure
from rumpx.transfer.content_stats import NO_KINDS, Kinds

_NOTHING = Counts()


class Frontier:
    """The settled part of one walk.

    Attributes:
        cursor: walk on from here.
        counts: what the keys before the cursor came to.
        kinds: types and sizes of those that were copied.

    Args:
        cursor: where the walk begins.
        counts, kinds: what was settled before it, if it goes on where another ended.
    """

    def __init__(self, cursor: int, counts: Counts = _NOTHING, kinds: Kinds = NO_KINDS) -> None:
        self.cursor = cursor
        self.counts = counts
        self.kinds = kinds
        self._order: deque[tuple[int, int]] = deque()
        self._settled: dict[int, tuple[Counts, Sequence[KeyFailure], Kinds]] = {}
        self._held = _NOTHING  # settled in order, but at no new cursor yet
        self._held_kinds = NO_KINDS
        self._held_failures: list[KeyFailure] = []
        self._failures: list[KeyFailure] = []

    @property
    def unsettled(self) -> bool:
        """Whether some issued batch is not settled, or waits for one before it."""
        return bool(self._order)

    def issue(self, batch: int, cursor: int) -> None:
        """A batch is on its way; its walk goes on at `cursor`."""
        self._order.append((batch, cursor))

    def settle(
        self,
        batch: int,
        counts: Counts = _NOTHING,
        failures: Sequence[KeyFailure] = (),
        kinds: Kinds = NO_KINDS,
    ) -> None:
        """Every key of an issued batch is settled; this is what they came to."""
        self._settled[batch] = counts, failures, kinds
        while self._order and self._order[0][0] in self._settled:
            settled, cursor = self._order.popleft()
            counts, failures, kinds = self._settled.pop(settled)
            if counts is not _NOTHING:
                self._held += counts
                self._held_kinds += kinds
                self._held_failures += failures
            if cursor != self.cursor:
                self.cursor = cursor
                self.book()

    def book(self) -> None:
        """What is settled in order counts; to be called when the walk has ended, since its last
        cursor may be its first."""
        if self._held is _NOTHING:
            return
        self.counts += self._held
        self.kinds += self._held_kinds
        self._failures += self._held_failures
        self._held, self._held_kinds, self._held_failures = _NOTHING, NO_KINDS, []

    def ahead(self) -> list[KeyFailure]:
        """Failures that do not count yet: who goes on from the cursor meets these keys again."""
        later = [failure for _, failures, _ in self._settled.values() for failure in failures]
        return self._held_failures + later

    def take_failures(self) -> list[KeyFailure]:
        """The failures that came to count since the last call."""
        failures, self._failures = self._failures, []
        return failures
