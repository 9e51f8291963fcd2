"""Does a SCAN come to its end? A server that goes round, or shows new names for ever, is found out.

Cursors are the server's own, and only where their arithmetic is proven do they tell how far a walk
is. For all others there are two bounds, neither of which needs memory:

- a cursor that comes again: each is compared with one seen before, which is replaced by the present
  one after 1, 2, 4, 8, … replies (Brent's algorithm), so that a circle of n replies is noticed
  within 3n;
- far more keys than there are: when the walk has shown four times as many as DBSIZE says, and
  `_FREE_KEYS` more, DBSIZE is asked again, since others may write.

Not promised: to notice an end that is only far away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_FREE_KEYS: Final = 100_000
_TIMES: Final = 4


class Endless:
    """Watches one walk over one connection."""

    def __init__(self) -> None:
        self._mark = -1
        self._left = self._power = 1
        self._keys = 0
        self._most = _FREE_KEYS

    def goes_round(self, cursor: int) -> bool:
        """Whether a reply's cursor is one that came before in the same walk."""
        if cursor == self._mark:
            return True
        self._left -= 1
        if not self._left:
            self._mark = cursor
            self._power *= 2
            self._left = self._power
        return False

    def is_too_much(self, keys: int, size: Callable[[], int]) -> bool:
        """Whether the walk, with so many keys more, has shown far more than there are.

        Args:
            size: asks how many there are now.
        """
        self._keys += keys
        if self._keys <= self._most:
            return False
        self._most = _TIMES * size() + _FREE_KEYS
        return self._keys > self._most
