"""Detect a walk by cursors that never ends, because the server repeats cursors or keeps sending new
ones: SCAN, SSCAN and HSCAN on one value, and a stream by its ids.

Cursors are the server's own; only where their arithmetic is proven do they show the progress of a
walk. Three limits bound all other walks, none of which needs memory:

- a repeated cursor: each is compared with an earlier one, which is replaced by the present one
  after 1, 2, 4, 8, … replies (Brent's algorithm), so that a cycle of n replies is detected within
  3n;
- far more members than exist: the walk has shown `_TIMES` the reported number, and `_FREE_MEMBERS`
  more;
- far more buckets than the members can take: each reply but the last has shown as many members as
  its COUNT, or has visited ten times as many buckets. So the COUNTs of all replies add up to at
  most the members and a tenth of the buckets, whatever is filtered out. `_ROOM` times the members,
  and never less than `_LEAST_ROOM` of them, is a table 310 times larger than they need: as after
  most of them were deleted while a child process keeps the server from shrinking it; or of 168
  million buckets, all but empty; or 16,384 tables, one a slot, of 9,000 buckets each.

Before one of the last two limits ends a walk, the number of members is read again, since others may
write. If that is refused a walk may reach `_UNTOLD` members, more than the largest servers hold: a
healthy walk ends long before, and an endless one after some minutes of empty replies, or some hours
of keys.

Not promised: to detect an end that is only far away, as on a server that reports an unlimited
number of members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rumpx.errors import Side, unusable

_FREE_MEMBERS: Final = 100_000
_TIMES: Final = 4
_ROOM: Final = 32
_LEAST_ROOM: Final = 2**19
_UNTOLD: Final = 2**32


class Endless:
    """Watches one walk.

    Args:
        members: the name of the walked items, for messages.
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
        """Continue the walk over another connection, perhaps from a cursor seen before."""
        self._mark = -1

    def add(self, cursor: int, shown: int, asked: int) -> None:
        """Record a reply that is not the last.

        Args:
            cursor: the next one.
            shown: members in the reply.
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
        """True if the number of members must be read again and passed to `expect`."""
        return self._shown > self._most_shown or self._asked > self._most_asked

    def expect(self, size: int | None) -> None:
        """Set the number of members; None if the server does not report it."""
        self._told = size is not None
        shown, asked = _UNTOLD, _UNTOLD
        if size is not None:
            shown, asked = _TIMES * size + _FREE_MEMBERS, _ROOM * max(size, _LEAST_ROOM)
        self._most_shown = max(self._most_shown, shown)
        self._most_asked = max(self._most_asked, asked)

    @property
    def fault(self) -> str:
        """Return why the walk will not end, to end a sentence; "" if it may."""
        if self._round:
            return "the server repeats a cursor"
        counted = f"the {self._members} that {self._counter} reports"
        if self._shown > self._most_shown:
            shown = f"several times {counted}"
            return f"it shows {shown if self._told else f'more {self._members} than servers hold'}"
        if self._asked > self._most_asked:
            room = f"all {counted}" if self._told else f"all {self._members} of any server"
            return f"after {self._replies:,} replies it has read more buckets than {room} can fill"
        return ""

    def watch(self, cursor: int, shown: int, asked: int, size: Callable[[], int | None]) -> str:
        """As `add`, but return the `fault`.

        Args:
            size: reads the number of members from the server.
        """
        self.add(cursor, shown, asked)
        if self.is_far:
            self.expect(size())
        return self.fault


def refuse_endless(side: Side, name: str, command: str, fault: str) -> None:
    """End the run if a walk never ends.

    Args:
        command: the command of the walk.
        fault: as `Endless.fault`; "" if the walk may end.

    Raises:
        SourceUnusable, TargetUnusable: it never ends.
    """
    if fault:
        raise unusable(side)(
            f"{command} on the {side} at {name} never ends: {fault}. Check that it is a Redis or "
            "Valkey server, and that nothing in between alters replies."
        )
