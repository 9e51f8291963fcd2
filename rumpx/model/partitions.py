"""Partitions: pieces of the keyspace, each with a walk of its own.

A partition is one SCAN loop over a *span* of one node's database:

- `WholeSpan`: one plain cursor. Always right. Its progress is not in the cursor.
- `CursorSpan`: a part of one hash table. The server's cursor is a counter over the table's buckets
  with its bits reversed, so the part that starts at position `low` of 2**64 starts at cursor
  `reverse(low)` and ends as soon as `reverse(cursor) >= high`, or the cursor is 0. That holds while
  the table grows and shrinks. Progress is exact.
- `SlotSpan`: a range of hash slots on a cluster node that keeps one table a slot (Valkey ≥ 8,
  Redis ≥ 7.4). The low 14 bits of its cursor are the slot and a scan may start at any slot.
- `KeySpan`: a list of keys, without a SCAN: those that failed, or that differ. Its cursor counts
  them.

A span's `slots` filter or a `prefix` further restricts the keys of the walk.

A CursorSpan is valid only within one server process, whose hash seed assigns keys to positions: if
the process changes, *all* CursorSpans of that database must be walked again, also those that were
done. The others stay valid.

Source of the cursor: `dictScan` in the servers' dict.c; of the slots in it: kvstore.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from rumpx.errors import Side
from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node
from rumpx.model.slots import SLOTS

MIN_PARTITION_KEYS: Final = 5_000
_CURSOR_BITS: Final = 64
CURSORS: Final = 1 << _CURSOR_BITS
# A table may be larger than its keys need (after mass deletes), but not by more than this.
_TABLE_SLACK: Final = 64
_SMALLEST_TABLE: Final = 1024


def reverse(number: int) -> int:
    """Return the 64 bits of a number in reverse order.

    >>> reverse(1) == 1 << 63
    True
    """
    return int(f"{number:064b}"[::-1], 2)


def reached(cursor: int) -> int:
    """Return the position that a walk has reached in a table when SCAN returns this cursor."""
    return reverse(cursor) or CURSORS


@dataclass(frozen=True, slots=True)
class WholeSpan:
    """The whole database by one plain cursor."""

    start: int = 0

    def ended(self, cursor: int) -> bool:
        return cursor == 0

    def fraction(self, cursor: int) -> float | None:
        """Return None: the caller counts keys instead."""
        return None

    def __str__(self) -> str:
        return "all keys"


@dataclass(frozen=True, slots=True)
class CursorSpan:
    """Positions [low, high) of 2**64 of a hash table."""

    low: int
    high: int

    @property
    def start(self) -> int:
        return reverse(self.low)

    def ended(self, cursor: int) -> bool:
        return reached(cursor) >= self.high

    def fraction(self, cursor: int) -> float | None:
        return (reverse(cursor) - self.low) / (self.high - self.low)

    def __str__(self) -> str:
        return f"part {self.low / CURSORS:.4g} to {self.high / CURSORS:.4g} of the table"


@dataclass(frozen=True, slots=True)
class SlotSpan:
    """Slots [low, high) of a node that keeps one table a slot."""

    low: int
    high: int

    @property
    def start(self) -> int:
        return self.low

    def ended(self, cursor: int) -> bool:
        return cursor == 0 or cursor % SLOTS >= self.high

    def fraction(self, cursor: int) -> float | None:
        return max(0, cursor % SLOTS - self.low) / (self.high - self.low)

    def __str__(self) -> str:
        return f"slots {self.low} to {self.high - 1}"


@dataclass(frozen=True, slots=True)
class KeySpan:
    """A list of key names."""

    keys: tuple[bytes, ...]
    start: int = 0

    def ended(self, cursor: int) -> bool:
        return cursor >= len(self.keys)

    def fraction(self, cursor: int) -> float | None:
        return cursor / max(1, len(self.keys))

    def __str__(self) -> str:
        return f"{len(self.keys):,} keys"


Span = WholeSpan | CursorSpan | SlotSpan | KeySpan
# Reason of a walk over keys that failed before.
RETRIED: Final = "failed before"
# Reason for keys of which an earlier write may be applied late, after a newer one.
LATE: Final = "written late, perhaps"
# Reason of walks that settle changed keys, and of those that compare both sides for a follow.
FOLLOWED: Final = "followed"
PASS: Final = "compared again"
# The work on the keys of a partition.
Work = Literal["copy", "compare", "look for", "delete", "follow"]
# Works that change nothing.
PASSING: Final[tuple[Work, ...]] = ("compare", "look for")


@dataclass(frozen=True, slots=True)
class Partition:
    """One walk: the unit of progress and of restarts.

    Attributes:
        id: its index in the run's list of partitions.
        node, db, span: the keys to walk.
        prefix: only keys with this prefix, by SCAN MATCH; None for all.
        beside: prefixes of other partitions, which this one leaves out.
        slots: only keys in these hash slots; None for all.
        reason: of a repeated walk; "" for the first.
        work: done on the keys that are found.
        side: the node's side.
    """

    id: int
    node: Node
    db: int
    span: Span
    prefix: bytes | None = None
    beside: tuple[bytes, ...] = ()
    slots: frozenset[int] | None = None
    reason: str = ""
    work: Work = "copy"
    side: Side = "source"

    @property
    def place(self) -> tuple[Side, Address | None]:
        """Return the server to walk."""
        return self.side, self.node.address

    def __str__(self) -> str:
        if self.prefix is not None:
            return f"prefix {self.prefix.decode('utf-8', 'backslashreplace')}"
        return "all other keys" if self.beside else str(self.span)


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """One database on one node, for the plan.

    `scheme` is "table" (one hash table), "slots" (one table a slot) or "unknown".
    """

    node: Node
    db: int
    keys: int
    scheme: str


def cursor_is_plausible(cursor: int, keys: int) -> bool:
    """Return True if a table of a database with so many keys can have this cursor."""
    return cursor < _TABLE_SLACK * max(keys, _SMALLEST_TABLE)
