"""The set of keys that the source has changed and that are not settled yet; pure.

Each name is in one of three places:

- *ready*: it may be taken, the longest marked first;
- *held*: it was taken, and is being settled by one pair of hands. A mark that comes meanwhile is
  remembered, and with it the name returns once it is settled: no two batches ever hold one name;
- *resting*: it may not be taken before a moment, since its value is costly or it is written all the
  time; the mark is remembered.

A name has one entry, however often it is marked, and the time of its first mark since it was taken:
`oldest` is the moment up to which the target is in step. Names beyond `most` would need too much
memory: all are dropped then, and until `begin` nothing is remembered. So an overflow costs a pass.

Feed threads mark, the engine's thread does the rest; a lock guards all.

Not promised: the order of keys. A name says nothing about a database, a type, or the change.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

MOST_DIRTY: Final = 2_000_000
"""The most changed keys that are remembered while changes are settled."""
# Seconds for which a name rests that was marked again while it was held: it is written all the
# time, and would be settled as often as the servers allow.
_HOT_SECONDS: Final = 0.1


class DirtyKeys:
    """The set of keys to settle.

    Args:
        most: the most names that are remembered.

    Attributes:
        most: may be changed.
        overflowed: more names were marked; none is remembered until `begin`.
        marked: the number of marks so far, each name of each report.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.overflowed = False
        self.marked = 0
        self._lock = threading.Lock()
        self._ready: dict[bytes, float] = {}
        # Names that have rested; they precede those in `_ready`.
        self._rested: dict[bytes, float] = {}
        self._held: dict[bytes, float] = {}
        self._again: dict[bytes, float] = {}
        # Those of `_again` that were postponed, and until when.
        self._postponed: dict[bytes, float] = {}
        # The end of each rest, and the mark, infinite if there is none.
        self._resting: dict[bytes, tuple[float, float]] = {}
        self._rests: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        """The number of names that are not settled."""
        with self._lock:
            resting = sum(mark < math.inf for _, mark in self._resting.values())
            return len(self._ready) + len(self._rested) + len(self._held) + resting

    @property
    def ready(self) -> int:
        """The number of names that may be taken now."""
        return len(self._ready) + len(self._rested)

    def begin(self) -> None:
        """Remember names again after an overflow."""
        with self._lock:
            self.overflowed = False

    def clear(self) -> None:
        """Forget all marks; names that are held stay held."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        for names in (self._ready, self._rested, self._again, self._postponed, self._resting):
            names.clear()
        self._rests.clear()

    def mark(self, names: Sequence[bytes], now: float) -> bool:
        """Note that keys have changed.

        Args:
            now: `time.monotonic()`, as everywhere here.

        Returns:
            True if no name was ready before, and one is now.
        """
        with self._lock:
            self.marked += len(names)
            if self.overflowed:
                return False
            ready, before = self._ready, len(self._ready) + len(self._rested)
            if not (self._held or self._resting or self._rested):
                for name in names:
                    ready.setdefault(name, now)
            else:
                for name in names:
                    if name in self._held:
                        self._again.setdefault(name, now)
                    elif name in self._resting:
                        until, mark = self._resting[name]
                        self._resting[name] = until, min(mark, now)
                    elif name not in self._rested:
                        ready.setdefault(name, now)
            known = len(ready) + len(self._rested) + len(self._held) + len(self._resting)
            if known > self.most:
                self._forget()
                self.overflowed = True
                return False
            return not before and bool(ready)

    def take(self, most: int, now: float) -> list[bytes]:
        """Take names that are ready, at most so many; they are held until they are `settled`."""
        with self._lock:
            self._wake(now)
            taken: list[bytes] = []
            for names in (self._rested, self._ready):
                part = list(islice(names, most - len(taken)))
                for name in part:
                    self._held[name] = names.pop(name)
                taken += part
            return taken

    def _wake(self, now: float) -> None:
        """End the rests that are over."""
        while self._rests and self._rests[0][0] <= now:
            end, name = heapq.heappop(self._rests)
            until, mark = self._resting.get(name, (math.nan, math.inf))
            if until != end:
                continue  # it rests longer, or not any more
            del self._resting[name]
            if mark < math.inf:
                self._rested[name] = mark

    def settled(
        self, names: Sequence[bytes], now: float, rests: Mapping[bytes, float] | None = None
    ) -> None:
        """Let go of names that were taken; one that was marked meanwhile is dirty again.

        Args:
            rests: seconds for which some of them may not be taken again.
        """
        with self._lock:
            held, again = self._held, self._again
            for name in names:
                del held[name]
            if not (again or rests):
                return
            for name in names:
                mark = again.pop(name, math.inf)
                until = now + _HOT_SECONDS if mark < math.inf else now
                until = max(until, self._postponed.pop(name, now))
                if rests:
                    until = max(until, now + rests.get(name, 0.0))
                if until > now:
                    self._rest(name, until, mark)

    def postpone(self, names: Iterable[bytes], until: float, now: float) -> None:
        """Mark keys that may not be taken before a moment; one that is held returns after that."""
        with self._lock:
            for name in names:
                if name in self._held:
                    self._again.setdefault(name, now)
                    self._postponed[name] = max(until, self._postponed.get(name, until))
                    continue
                marks = [self._ready.pop(name, now), self._rested.pop(name, now)]
                end, mark = self._resting.get(name, (until, math.inf))
                self._rest(name, max(until, end), min(*marks, mark))

    def _rest(self, name: bytes, until: float, mark: float) -> None:
        self._resting[name] = until, mark
        heapq.heappush(self._rests, (until, name))

    def due(self, now: float) -> float:
        """Return when a name may be taken: `now` if one is ready, infinite if none rests."""
        if self._ready or self._rested:
            return now
        with self._lock:
            return self._rests[0][0] if self._rests else math.inf

    @property
    def first_ready(self) -> float:
        """The time of the oldest mark of the names that may be taken; infinite if there is none."""
        with self._lock:
            marks = [next(iter(names.values()), math.inf) for names in (self._rested, self._ready)]
            return min(marks)

    @property
    def oldest(self) -> float:
        """The time of the oldest mark that is not settled; infinite if all are."""
        with self._lock:
            first = next(iter(self._ready.values()), math.inf)
            marks = [*self._rested.values(), *self._held.values()]
            resting = (mark for _, mark in self._resting.values())
            return min(first, min(marks, default=math.inf), min(resting, default=math.inf))
