"""Partitions: how the source's keyspace is cut into pieces that are walked on their own.

A partition is one SCAN loop over a *span* of one node's database:

- `WholeSpan`: one plain cursor. Always right. Its progress is not in the cursor.
- `CursorSpan`: a part of one hash table. The server's cursor is a counter over the table's buckets
  with its bits reversed, so the part that begins at position `low` of 2**64 starts at cursor
  `reverse(low)` and ends as soon as `reverse(cursor) >= high`, or the cursor is 0. That holds while
  the table grows and shrinks. Progress is exact.
- `SlotSpan`: a range of hash slots on a cluster node that keeps one table a slot (Valkey ≥ 8,
  Redis ≥ 7.4). The low 14 bits of its cursor are the slot and a scan may start at any slot.
- `KeySpan`: a list of keys, not scanned for at all: those that failed, or that differ. Its cursor
  counts them.

A span's `slots` filter or a `prefix` narrows further what the walk hands on.

Algorithm: every (node, database) pair that holds keys gets as many partitions as `Tuning` says,
but none smaller than `MIN_PARTITION_KEYS`. Spans of buckets are only used where the server's
version is one on which they were tested and its mode is what it should be; else one plain cursor.

A CursorSpan means something only within one server process, whose hash seed decides which keys
are in it: if the process changes, *all* CursorSpans of that database must be walked anew, also
those that were done. The others survive.

Not promised: equal sizes. Buckets are even to within a percent; slots and prefixes need not be.

Source of the cursor: `dictScan` in the servers' dict.c; of the slots in it: kvstore.c.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rumpx.errors import Side
from rumpx.model.job import Address
from rumpx.model.slots import SLOTS, key_slot
from rumpx.servers.topology import Node, Topology

MIN_PARTITION_KEYS: Final = 5_000
_CURSOR_BITS: Final = 64
_CURSORS: Final = 1 << _CURSOR_BITS
# A table may be larger than its keys need (after mass deletes), but not by more than this.
_TABLE_SLACK: Final = 64
_SMALLEST_TABLE: Final = 1024


def reverse(number: int) -> int:
    """The 64 bits of a number in reverse order.

    >>> reverse(1) == 1 << 63
    True
    """
    return int(f"{number:064b}"[::-1], 2)


def reached(cursor: int) -> int:
    """The position up to which a table has been walked when SCAN answers with this cursor."""
    return reverse(cursor) or _CURSORS


@dataclass(frozen=True, slots=True)
class WholeSpan:
    """The whole database by one plain cursor."""

    start: int = 0

    def ended(self, cursor: int) -> bool:
        return cursor == 0

    def fraction(self, cursor: int) -> float | None:
        """Unknown: the caller counts keys instead."""
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
        return f"part {self.low / _CURSORS:.4g} to {self.high / _CURSORS:.4g} of the table"


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
    """Keys that are known by name."""

    keys: tuple[bytes, ...]
    start: int = 0

    def ended(self, cursor: int) -> bool:
        return cursor >= len(self.keys)

    def fraction(self, cursor: int) -> float | None:
        return cursor / max(1, len(self.keys))

    def __str__(self) -> str:
        return f"{len(self.keys):,} keys"


Span = WholeSpan | CursorSpan | SlotSpan | KeySpan

# The reason of a walk of keys that failed before.
RETRIED: Final = "failed before"
# That of keys of which an earlier write may land late, in the place of a newer one.
LATE: Final = "written late, perhaps"

# What is done with the keys of a partition.
Work = Literal["copy", "compare", "look for", "delete"]


@dataclass(frozen=True, slots=True)
class Partition:
    """One walk: the unit of progress and of starting over.

    Attributes:
        id: its place in the run's list of partitions.
        node, db, span: what is walked.
        prefix: only keys that begin so, by SCAN MATCH; None for all.
        beside: prefixes that other partitions take and this one leaves out.
        slots: only keys in these hash slots; None for all.
        reason: why the keys are walked a second time; "" for the first walk.
        work: what is done with the keys that are found.
        side: which side the node is of.
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
        """The server that is walked."""
        return self.side, self.node.address

    def __str__(self) -> str:
        if self.prefix is not None:
            return f"prefix {self.prefix.decode('utf-8', 'backslashreplace')}"
        return "all other keys" if self.beside else str(self.span)


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the work is cut and how much of it is under way.

    Attributes:
        scanners: partitions that are walked at the same time.
        partitions: partitions a node and database at most; a power of two.
        scan_count: SCAN's COUNT.
        batch_keys: keys that a worker is given at once.
        pipeline_keys: keys in one pipeline to a server; a batch is worked off in several.
        batches_in_flight: batches that one worker holds at the same time.
    """

    scanners: int
    partitions: int
    scan_count: int
    batch_keys: int
    pipeline_keys: int
    batches_in_flight: int


def tune(
    source_round_trip: float,
    target_round_trip: float,
    *,
    keys: int,
    workers: int,
    nodes: int,
    batch_keys: int = 0,
    partitions: int = 0,
) -> Tuning:
    """Settings from what is measured at the start; round trips are in seconds.

    A server works through one client's pipeline before it turns to the next, so pipelines are
    short where the server is near: 200 keys keep another client's GET at a p50 of 2 ms where 1,000
    make it 6 (measured), for a twentieth of the speed. Batches, which only the coordinator feels,
    are larger, but not so large that few keys, of large values perhaps, all go to one worker.
    Distance is made up for by more batches in flight and more cursors, enough for
    `_GOAL` keys a second.
    """
    near = max(source_round_trip, target_round_trip) < 0.002
    pipeline = batch_keys or (200 if near else 500)
    scan_count = max(pipeline, 500 if near else 1000)
    share = max(1, keys // (_BATCHES_A_WORKER * workers))
    scanners = _between(2, math.ceil(1.5 * _GOAL * source_round_trip / scan_count), 32)
    waiting = _GOAL * (2 * source_round_trip + target_round_trip)
    cut = partitions or max(8, 2 * scanners)
    return Tuning(
        scanners=max(scanners, min(nodes, 16)),
        partitions=1 << math.ceil(math.log2(cut)),
        scan_count=scan_count,
        batch_keys=min(share, max(pipeline, min(1000, 5 * pipeline))),
        pipeline_keys=pipeline,
        batches_in_flight=_between(3, 2 + math.ceil(waiting / (pipeline * workers)), 64),
    )


_GOAL: Final = 200_000
_BATCHES_A_WORKER: Final = 4  # at least, so that all have something to do until the end


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What the plan needs to know of one database on one node.

    `scheme` is "table" (one hash table), "slots" (one table a slot) or "unknown".
    """

    node: Node
    db: int
    keys: int
    scheme: str


def plan_partitions(
    databases: Sequence[NodeKeys], tuning: Tuning, prefixes: Sequence[bytes], *, forced: bool
) -> list[Partition]:
    """Cut each node's database.

    Args:
        prefixes: cut by MATCH prefix instead, with a last partition for all other keys.
        forced: the user asked for this number of partitions: small databases are cut as well.
    """
    partitions: list[Partition] = []
    for place in databases:
        if prefixes:
            for prefix in prefixes:
                partitions.append(
                    Partition(len(partitions), place.node, place.db, WholeSpan(), prefix)
                )
            partitions.append(
                Partition(
                    len(partitions), place.node, place.db, WholeSpan(), beside=tuple(prefixes)
                )
            )
            continue
        parts = tuning.partitions
        while not forced and parts > 1 and place.keys < parts * MIN_PARTITION_KEYS:
            parts //= 2
        for span in cut_spans(place.node, place.scheme, parts):
            partitions.append(Partition(len(partitions), place.node, place.db, span))
    return partitions


def cut_spans(node: Node, scheme: str, parts: int) -> list[Span]:
    """`parts` spans that together cover a node's database, for a scheme as in NodeKeys."""
    if scheme == "unknown" or parts <= 1:
        return [WholeSpan()]
    if scheme == "slots":
        return list(_cut_slots(node, parts))
    width = _CURSORS // parts
    return [CursorSpan(k * width, (k + 1) * width) for k in range(parts)]


def _cut_slots(node: Node, parts: int) -> list[SlotSpan]:
    """Ranges with about as many of the node's slots each; slots of others between are empty."""
    served = [slot for low, high in node.slots for slot in range(low, high + 1)]
    parts = min(parts, len(served))
    starts = [served[k * len(served) // parts] for k in range(parts)]
    return [
        SlotSpan(low, high) for low, high in zip(starts, [*starts[1:], SLOTS], strict=True)
    ]


def key_partitions(
    topology: Topology,
    keys: Iterable[tuple[int, bytes]],
    *,
    reason: str,
    work: Work = "copy",
    side: Side = "source",
) -> list[Partition]:
    """Partitions of exactly these (database, key) pairs, one for each node and database."""
    nodes = {node.address: node for node in topology.nodes}
    owners = topology.owners() if topology.cluster else []
    places: defaultdict[tuple[Node, int], list[bytes]] = defaultdict(list)
    for db, key in keys:
        node = nodes[owners[key_slot(key)]] if owners else topology.nodes[0]
        places[node, db].append(key)
    return [
        Partition(number, node, db, KeySpan(tuple(found)), reason=reason, work=work, side=side)
        for number, ((node, db), found) in enumerate(places.items())
    ]


def cursor_is_plausible(cursor: int, keys: int) -> bool:
    """Whether a hash table of a database with so many keys can have this cursor."""
    return cursor < _TABLE_SLACK * max(keys, _SMALLEST_TABLE)


@dataclass(frozen=True, slots=True)
class SamplePage:
    """One SCAN reply of a cluster node, for `cursor_scheme`."""

    before: int
    after: int
    keys: tuple[bytes, ...]


def cursor_scheme(pages: Sequence[SamplePage], keys: int) -> str:
    """Tell how a cluster node's cursor counts, by looking: "table", "slots" or "unknown".

    With one table a slot, the keys of a reply lie in the slots that the cursor passed. By chance
    that is as unlikely as that some dozens of evenly spread keys all fall in a given half.
    """
    seen = [(page, [key_slot(key) for key in page.keys]) for page in pages]
    count = sum(len(slots) for _, slots in seen)
    in_order = all(
        page.before % SLOTS <= slot <= (page.after % SLOTS if page.after else SLOTS)
        for page, slots in seen
        for slot in slots
    )
    if in_order and count >= 20:
        return "slots"
    if not in_order and all(cursor_is_plausible(page.after, keys) for page, _ in seen):
        return "table"
    return "unknown"
