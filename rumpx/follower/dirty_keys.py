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
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        # Names that have rested; they precede all others.
        self._rested: dict[bytes, float] = {}
        # Ready names come into `_ready`, and are taken from `_next`, where the first one is last:
        # a dict finds its last entry at once, but its first one only behind all deleted ones.
        self._next: dict[bytes, float] = {}
        self._ready: dict[bytes, float] = {}
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
            return self.ready + len(self._held) + resting

    @property
    def ready(self) -> int:
        """The number of names that may be taken now."""
        return len(self._rested) + len(self._next) + len(self._ready)

    def begin(self) -> None:
        """Remember names again after an overflow."""
        with self._lock:
            self.overflowed = False

    def clear(self) -> None:
        """Forget all marks; names that are held stay held."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        for names in (self._rested, self._next, self._ready, self._again, self._postponed):
            names.clear()
        self._resting.clear()
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
            ready, before = self._ready, self.ready
            if not (self._held or self._resting or self._rested or self._next):
                for name in names:
                    ready.setdefault(name, now)
            else:
                for name in names:
                    if name in self._held:
                        self._again.setdefault(name, now)
                    elif name in self._resting:
                        until, mark = self._resting[name]
                        self._resting[name] = until, min(mark, now)
                    elif name not in self._next and name not in self._rested:
                        ready.setdefault(name, now)
            if self.ready + len(self._held) + len(self._resting) > self.most:
                self._forget()
                self.overflowed = True
                return False
            return not before and bool(ready)

    def take(self, most: int, now: float) -> list[bytes]:
        """Take names that are ready, at most so many; they are held until they are `settled`."""
        with self._lock:
            self._wake(now)
            held, rested = self._held, self._rested
            taken = list(islice(rested, most))
            for name in taken:
                held[name] = rested.pop(name)
            if not rested:
                self._rested = {}  # without deleted entries
            while (room := most - len(taken)) and (names := self._firsts()):
                for _ in range(min(room, len(names))):
                    name, mark = names.popitem()
                    held[name] = mark
                    taken.append(name)
            return taken

    def _firsts(self) -> dict[bytes, float]:
        """Return ready names that have not rested, the first one last."""
        if not self._next:
            self._next, self._ready = dict(reversed(self._ready.items())), {}
        return self._next

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
                ready = self._rested, self._next, self._ready
                marks = [names.pop(name, now) for names in ready]
                end, mark = self._resting.get(name, (until, math.inf))
                self._rest(name, max(until, end), min(*marks, mark))

    def _rest(self, name: bytes, until: float, mark: float) -> None:
        self._resting[name] = until, mark
        heapq.heappush(self._rests, (until, name))

    def due(self, now: float) -> float:
        """Return when a name may be taken: `now` if one is ready, infinite if none rests."""
        if self.ready:
            return now
        with self._lock:
            return self._rests[0][0] if self._rests else math.inf

    @property
    def first_ready(self) -> float:
        """The time of the oldest mark of the names that may be taken; infinite if there is none."""
        with self._lock:
            return min(self._first(), next(iter(self._rested.values()), math.inf))

    def _first(self) -> float:
        """Return the oldest mark of the ready names that have not rested."""
        newer = next(iter(self._ready.values()), math.inf)
        return next(reversed(self._next.values()), newer)

    @property
    def oldest(self) -> float:
        """The time of the oldest mark that is not settled; infinite if all are."""
        with self._lock:
            return min(self._first(), min(self._others(), default=math.inf))

    def all_settled(self, moment: float) -> bool:
        """Return True if no mark that is not settled is of this moment, or before: `oldest` is
        later, but that takes longer to find."""
        with self._lock:
            return self._first() > moment and all(mark > moment for mark in self._others())

    def _others(self) -> Iterator[float]:
        """Yield all marks that are not settled but those of `_first`."""
        yield from self._held.values()
        yield from self._rested.values()
        for _, mark in self._resting.values():
            yield mark
