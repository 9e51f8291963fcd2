"""Names that a walk has found already: keys that SCAN returns again after a table has shrunk.

A key's place in a table is its hash, read with the bits reversed as a number below 2**64; a table
of 2**n buckets cuts these numbers into 2**n equal ranges, and a walk passes through them in order
(`plan`). While a table grows, each range is cut in two and no key is returned again. After it has
shrunk, the next reply starts with the whole of a larger range, part of which was returned before:
keys between the start of that range and the cursor come twice. No others do: the next cursor is the
end of such a range too, so that the range is no larger than the largest power of two which divides
it, which limits how far back a reply may reach.

So `FoundLately` keeps the names of the last replies, with the places where these ended, and reads
those that a reply may reach; nearly always that is none or the last one. If there is one table a
slot, a reply that starts within a slot may repeat keys of that slot. If it is unknown how a
cluster's node counts, all are read.

Not promised: that a key is handed on only once

- if a table shrinks, between two replies, to a range that held more than `NAMES` keys;
- if it shrinks while a job is stopped, or to fewer than eight buckets for each part;
- if its slot moves to another node, whose walks find it again.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import Final, Literal

from rumpx.model.partitions import reached, reverse
from rumpx.model.slots import SLOTS

# The most names that are kept of one walk, and their most bytes.
NAMES: Final = 8192
_NAME_BYTES: Final = 2**20


class FoundLately:
    """The names that one walk has handed on lately.

    Args:
        scheme: the meaning of the cursor: ranges of one table, or slots and ranges of each.
    """

    def __init__(self, scheme: Literal["table", "slots", "unknown"]) -> None:
        self._scheme = scheme
        # The place after each reply, its names, and their bytes.
        self._replies: deque[tuple[int, list[bytes], int]] = deque()
        self._names = 0
        self._bytes = 0

    def new(self, before: int, after: int, keys: list[bytes]) -> list[bytes]:
        """Return those of a reply's keys that were not found before.

        Args:
            before, after: the cursor that was sent, and the one that was returned.
        """
        begin = self._reaches(before, after)
        earlier = [names for end, names, _ in self._replies if end > begin]
        if not earlier or not keys:
            return keys
        known = set(keys).intersection(chain.from_iterable(earlier))
        return [key for key in keys if key not in known] if known else keys

    def add(self, after: int, keys: list[bytes]) -> None:
        """Keep the keys of a reply that are handed on."""
        if not keys:
            return
        size = sum(map(len, keys))
        self._replies.append((self._place(after), keys, size))
        self._names += len(keys)
        self._bytes += size
        while len(self._replies) > 1 and (self._names > NAMES or self._bytes > _NAME_BYTES):
            _, dropped, size = self._replies.popleft()
            self._names -= len(dropped)
            self._bytes -= size

    def _reaches(self, before: int, after: int) -> int:
        """Return the first place of which a reply may contain keys."""
        if self._scheme == "unknown":
            return -1
        if self._scheme == "slots":
            return before % SLOTS - 1 if before >= SLOTS else SLOTS
        end = reached(after)
        return reverse(before) & -(end & -end)

    def _place(self, cursor: int) -> int:
        if self._scheme == "slots":
            return cursor % SLOTS if cursor else SLOTS
        return reached(cursor)
