"""The names of the source's streams, which are settled again when consumer groups may have changed.

No feed reports XREADGROUP, XACK, XCLAIM and the like, though they change what DUMP returns. INFO
counts these commands, but does not tell their keys. So when a counter has moved, all known streams
are marked: at most every five seconds, and so seldom that their settling takes a twentieth of the
time.

The names come with the acks of compared and followed keys; each pass sees all streams, so they are
forgotten when one begins. A stream that becomes known after a change may have been read before it,
so it counts as changed.

Not promised: the groups' state between two such rounds; more than `_MOST` streams, of which a pass
has to find the changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from rumpx.follower.dirty_keys import DirtyKeys

_MOST: Final = 100_000
_LEAST_SECONDS: Final = 5.0
_SHARE: Final = 20


class StreamNames:
    """The streams of the source.

    Attributes:
        too_many: there are more than are remembered.
    """

    def __init__(self) -> None:
        self.too_many = False
        self._names: set[bytes] = set()
        self._changed = self._ever_changed = False
        self._due = -math.inf
        self._marked: float | None = None

    def add(self, names: Iterable[bytes]) -> None:
        """Remember streams."""
        if names and not self.too_many:
            before = len(self._names)
            self._names.update(names)
            self._changed |= self._ever_changed and len(self._names) > before
            self.too_many = len(self._names) > _MOST

    def clear(self) -> None:
        """Forget all streams, since a pass begins."""
        self._names.clear()
        self.too_many = False

    @property
    def names(self) -> list[bytes]:
        """The streams that are known."""
        return list(self._names)

    def changed(self) -> None:
        """Note that consumer groups may have changed."""
        self._changed = self._ever_changed = True

    def tick(self, dirty: DirtyKeys, now: float) -> None:
        """Mark all streams, if their groups may have changed and it is time for that."""
        if self._marked is not None and dirty.all_settled(self._marked):
            self._due = now + max(_LEAST_SECONDS, _SHARE * (now - self._marked))
            self._marked = None
        if self._changed and self._marked is None and now >= self._due:
            self._changed = False
            self._marked = now
            dirty.mark(self.names, now)
