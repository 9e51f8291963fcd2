"""Settles dirty keys: takes names from the set, has workers read and write them, and lets go.

A name says nothing about its database, so it is settled in every database that is followed: one
batch for each, and the name is let go when all of them are acknowledged. Until then no other batch
holds it. So the reads and writes of one key follow each other, and the last write of ours to a key
has a value that was read after the key's last mark.

Batches are small while there is little to do, since each goes out at once; they grow as soon as
workers have work, which costs the servers less for each key.

A costly value rests after it was settled, for a time in which the source could have sent 5 MB for
each second: however often it is written, reading it takes a twentieth of the source's time.

Not promised: an order between keys.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from rumpx.engine.fence import LATE_SECONDS
from rumpx.engine.walks import Walk, Walks
from rumpx.follower.changed import Changed
from rumpx.follower.dirty_keys import DirtyKeys
from rumpx.model.nodes import Node
from rumpx.model.partitions import FOLLOWED, KeySpan, Partition
from rumpx.model.results import KeyLoss, KeyNote
from rumpx.transfer.messages import Ack, Batch

_MOST_NAMES: Final = 500
# While so many batches are under way, names wait for others to go with, for so many seconds.
_FEW_BATCHES: Final = 4
_PATIENCE: Final = 0.004
# Bytes a second of one costly value.
_HEAVY_RATE: Final = 5e6

Name = tuple[int, bytes]
"""A source database, and a key in it."""


@dataclass(slots=True)
class _Hand:
    """Names that were taken together, and the number of batches that hold them."""

    names: list[bytes]
    left: int
    rests: dict[bytes, float] = field(default_factory=dict)
    late: set[bytes] = field(default_factory=set)


class Settler:
    """Makes batches of dirty keys: an `Urgent`.

    Args:
        dirty: the set.
        failed, lossy: keys that have failed before, or were copied with a loss.
        healed: is called with the keys of a batch that had failed, or were copied with a loss, and
            have been settled now; those that failed again, too.

    Attributes:
        process: the `run_id` of the source's process that reports the changes.
        failed: the keys that could not be settled.
        lossy: the keys that were copied with an accepted loss.
        changed: the keys that were settled, since it was cleared.
        settled, deleted: numbers of keys so far.
        late_until: the moment (`time.monotonic()`) from which on no earlier write is executed any
            more.
        waits: takes no names now.
    """

    def __init__(
        self,
        dirty: DirtyKeys,
        failed: Iterable[Name],
        lossy: Iterable[Name],
        healed: Callable[[list[Name]], None],
    ) -> None:
        self.process = ""
        self.failed = set(failed)
        self.settled = self.deleted = 0
        self.lossy = set(lossy)
        self.late_until = 0.0
        self.waits = False
        self._healed = healed
        self._dirty = dirty
        self._walks: Walks
        self.changed = Changed()
        self._fed: dict[int, Walk] = {}
        self._hands: dict[int, _Hand] = {}
        self._made: deque[Batch] = deque()

    def follow(self, walks: Walks, node: Node, db: int) -> None:
        """Settle names in one more database of the source from now on."""
        self._walks = walks
        span = KeySpan(())
        self._fed[db] = walks.add_fed(
            Partition(0, node, db, span, reason=FOLLOWED, work="follow")
        )

    def close(self) -> None:
        """Make no more batches."""
        self._fed.clear()
        self._made.clear()

    @property
    def databases(self) -> set[int]:
        """The databases that are followed."""
        return set(self._fed)

    @property
    def busy(self) -> bool:
        """True if names were taken that are not settled."""
        return bool(self._hands)

    # Batches.

    def take(self, now: float) -> Batch | None:
        """See `backend.Urgent`."""
        if self._made:
            return self._made.popleft()
        if not self._fed or now < self.due(now):
            return None
        names = self._dirty.take(_MOST_NAMES, now)
        if not names:
            return None
        hand = _Hand(names, len(self._fed))
        for walk in self._fed.values():
            batch = self._walks.named(walk, names, self.process)
            self._hands[batch.id] = hand
            self._made.append(batch)
        return self._made.popleft()

    def due(self, now: float) -> float:
        """See `backend.Urgent`."""
        if self._made:
            return now
        if not self._fed or self.waits:
            return math.inf
        due = self._dirty.due(now)
        if due > now or len(self._hands) < _FEW_BATCHES or self._dirty.ready >= _MOST_NAMES:
            return due
        first = self._dirty.first_ready
        return due if first == math.inf else max(now, first + _PATIENCE)

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Take the results of a batch."""
        hand = self._hands.pop(ack.batch)
        db = walk.partition.db
        self.settled += len(hand.names)
        self.deleted += ack.counts.deleted
        self._keep(db, hand.names, ack)
        for key, size in ack.heavy:  # each time that it was read
            hand.rests[key] = hand.rests.get(key, 0.0) + size / _HEAVY_RATE
        hand.late.update(ack.late)
        hand.left -= 1
        if hand.left:
            return
        now = time.monotonic()
        self._dirty.settled(hand.names, now, hand.rests)
        self.changed.add(hand.names)
        if hand.late:
            self.mark_late(hand.late, now)

    def mark_late(self, names: Iterable[bytes], now: float) -> None:
        """Mark keys of which an earlier write may still be executed, over a newer one: settle them
        once that can no longer happen."""
        self.late_until = now + LATE_SECONDS
        self._dirty.postpone(names, self.late_until, now)

    def stands(self, note: KeyNote) -> bool:
        """Return True if a key is still as a note says: failed, or copied with a loss."""
        return (note.db, note.key) in (self.lossy if isinstance(note, KeyLoss) else self.failed)

    def note(self, ack: Ack) -> None:
        """Note the keys of the copy that have failed, or were copied with a loss."""
        self.failed.update((each.db, each.key) for each in ack.failures)
        self.lossy.update((each.db, each.key) for each in ack.losses)

    def _keep(self, db: int, names: list[bytes], ack: Ack) -> None:
        """Keep the lists of keys that failed, or were copied with a loss, up to date."""
        if self.failed or self.lossy:
            here = {(db, name) for name in names}
            if known := here & self.failed | here & self.lossy:
                self.failed -= known
                self.lossy -= known
                self._healed(list(known))
        if ack.failures or ack.losses:
            self.note(ack)
