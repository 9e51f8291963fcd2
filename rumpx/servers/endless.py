"""Does a walk by cursors come to its end? A server that goes round, or goes on for ever, is found
out: of SCAN, of SSCAN and HSCAN on one value, and of a stream by its ids.

Cursors are the server's own, and only where their arithmetic is proven do they tell how far a walk
is. For all others there are three bounds, none of which needs memory:

- a cursor that comes again: each is compared with one seen before, which is replaced by the present
  one after 1, 2, 4, 8, … replies (Brent's algorithm), so that a circle of n replies is noticed
  within 3n;
- far more members than there are: when the walk has shown `_TIMES` as many as there are said to be,
  and `_FREE_MEMBERS` more;
- far more room than they can take: a reply that is not the last has shown as many members as its
  COUNT, or has looked into ten times as many buckets. So the COUNTs of all replies add up to no
  more than the members and a tenth of the buckets, whatever is filtered out. `_ROOM` times the
  members, and never less than `_LEAST_ROOM` of them, is a table 310 times larger than they need:
  as after most of them were deleted while a child process keeps the server from shrinking it; or
  of 168 million buckets, all but empty; or 16,384 tables, one a slot, of 9,000 buckets each.

Before a walk is given up for one of the last two it is asked anew how many members there are, since
others may write. Where that is refused a walk may go on as far as `_UNTOLD` members, which is more
than the largest servers hold: a healthy walk ends long before, and one without end after some
minutes of empty replies, or some hours of keys.

Not promised: to notice an end that is only far away, as that of a server which says that it holds
numbers without end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rumpx.errors import RumpxError, Side, unusable

_FREE_MEMBERS: Final = 100_000
_TIMES: Final = 4
_ROOM: Final = 32
_LEAST_ROOM: Final = 2**19
_UNTOLD: Final = 2**32


class Endless:
    """Watches one walk.

    Args:
        members: what is walked, for messages.
        counter: the command that counts them.
    """

    def __init__(self, members: str = "keys", counter: str = "DBSIZE") -> None:
        self._members = members
        self._counter = counter
        self._mark = -1
        self._left = self._power = 1
        self._round = False
        self._shown = self._asked = self._replies = 0
        self._most_shown = self._most_asked = 0
        self._told = True
        self.expect(0)

    def resume(self) -> None:
        """The walk goes on over another connection, perhaps from a cursor that it has met."""
        self._mark = -1

    def add(self, cursor: int, shown: int, asked: int) -> None:
        """A reply came that is not the last.

        Args:
            cursor: the next one.
            shown: members in it.
            asked: its COUNT.
        """
        self._round = cursor == self._mark
        self._left -= 1
        if not self._left:
            self._mark = cursor
            self._power *= 2
            self._left = self._power
        self._shown += shown
        self._asked += asked
        self._replies += 1

    @property
    def is_far(self) -> bool:
        """Whether it is to be asked how many members there are now, and told to `expect`."""
        return self._shown > self._most_shown or self._asked > self._most_asked

    def expect(self, size: int | None) -> None:
        """So many members there are; None if that is not told."""
        self._told = size is not None
        shown, asked = _UNTOLD, _UNTOLD
        if size is not None:
            shown, asked = _TIMES * size + _FREE_MEMBERS, _ROOM * max(size, _LEAST_ROOM)
        self._most_shown = max(self._most_shown, shown)
        self._most_asked = max(self._most_asked, asked)

    @property
    def fault(self) -> str:
        """Why the walk will not end, to end a sentence; "" if it may."""
        if self._round:
            return "it goes round: a cursor came twice"
        counted = f"{self._members} as {self._counter} says there are"
        if self._shown > self._most_shown:
            shown = f"several times as many {counted}"
            return f"it shows {shown if self._told else f'more {self._members} than servers hold'}"
        if self._asked > self._most_asked:
            room = f"so many {counted}" if self._told else f"all {self._members} of any server"
            return f"after {self._replies:,} replies it has looked through more than {room} take up"
        return ""

    def watch(self, cursor: int, shown: int, asked: int, size: Callable[[], int | None]) -> str:
        """As `add`; the result is the `fault`.

        Args:
            size: asks how many members there are now.
        """
        self.add(cursor, shown, asked)
        if self.is_far:
            self.expect(size())
        return self.fault


def never_ends(side: Side, name: str, command: str, why: str) -> RumpxError:
    """What to raise for a walk that will not end.

    Args:
        command: by which it is walked.
        why: the `fault`.
    """
    return unusable(side)(
        f"{command} on the {side} at {name} does not come to an end: {why}. Is it a Redis or "
        "Valkey server, and what stands in between?"
    )
