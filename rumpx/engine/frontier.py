"""The cursor up to which a walk is settled: the contiguous-ack rule.

Batches of a walk are issued in the order of its cursors, and settled in any order. The frontier's
cursor is that of the last batch before which all batches are settled: a walk that resumes there
skips no key.

Counts are booked in the same order, so that cursor and counts always belong together: a walk that
resumes at a cursor counts no key twice and omits none. A batch that ends within a SCAN reply does
not advance the cursor; its counts wait for the last batch of the reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from rumpx.model.counts import Counts
from rumpx.transfer.content_stats import NO_KINDS, Kinds

_NOTHING = Counts()
Note = TypeVar("Note")


class Frontier(Generic[Note]):
    """The settled part of one walk; notes are facts about keys, kept in the same order.

    Attributes:
        cursor: the walk resumes here.
        counts: results of the keys before the cursor.
        kinds: types and sizes of those that were copied.

    Args:
        cursor: the start of the walk.
        counts, kinds: results before it, if the walk resumes another.
    """

    def __init__(self, cursor: int, counts: Counts = _NOTHING, kinds: Kinds = NO_KINDS) -> None:
        self.cursor = cursor
        self.counts = counts
        self.kinds = kinds
        self._order: deque[tuple[int, int]] = deque()
        self._settled: dict[int, tuple[Counts, Sequence[Note], Kinds]] = {}
        self._held = _NOTHING  # settled in order, but at no new cursor yet
        self._held_kinds = NO_KINDS
        self._held_notes: list[Note] = []
        self._notes: list[Note] = []

    @property
    def unsettled(self) -> bool:
        """True if an issued batch is not settled, or waits for one before it."""
        return bool(self._order)

    def issue(self, batch: int, cursor: int) -> None:
        """Note a batch that is given out; after it the walk resumes at `cursor`."""
        self._order.append((batch, cursor))

    def settle(
        self,
        batch: int,
        counts: Counts = _NOTHING,
        notes: Sequence[Note] = (),
        kinds: Kinds = NO_KINDS,
    ) -> None:
        """Note an issued batch whose keys are all settled, and their results; `notes` are about
        them."""
        self._settled[batch] = counts, notes, kinds
        while self._order and self._order[0][0] in self._settled:
            settled, cursor = self._order.popleft()
            counts, notes, kinds = self._settled.pop(settled)
            if counts is not _NOTHING:
                self._held += counts
                self._held_kinds += kinds
                self._held_notes += notes
            if cursor != self.cursor:
                self.cursor = cursor
                self.book()

    def advance(
        self, cursor: int, counts: Counts, notes: Sequence[Note], kinds: Kinds
    ) -> None:
        """Note that all keys up to a cursor are settled, and the results since the last one."""
        number = -1  # no batch has it: a walk whose keys are settled elsewhere issues none
        self.issue(number, cursor)
        self.settle(number, counts, notes, kinds)

    def book(self) -> None:
        """Count all batches that are settled in order. Call it when the walk has ended, since its
        last cursor may be its first."""
        if self._held is _NOTHING:
            return
        self.counts += self._held
        self.kinds += self._held_kinds
        self._notes += self._held_notes
        self._held, self._held_kinds, self._held_notes = _NOTHING, NO_KINDS, []

    @property
    def counts_ahead(self) -> Counts:
        """Results of the settled keys beyond the cursor."""
        return sum((counts for counts, _, _ in self._settled.values()), self._held)

    def ahead(self) -> list[Note]:
        """Return notes beyond the cursor: a walk that resumes there meets these keys again."""
        return self._held_notes + [note for _, notes, _ in self._settled.values() for note in notes]

    def take_notes(self) -> list[Note]:
        """Return the notes that were booked since the last call."""
        notes, self._notes = self._notes, []
        return notes
