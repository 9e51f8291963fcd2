"""The plan of a run, and how it cuts the keyspace into partitions.

Algorithm: each (node, database) pair that holds keys gets as many partitions as `Tuning` says, but
none smaller than `MIN_PARTITION_KEYS`. Spans of buckets are used only if they were tested with the
server's version and its mode is known; else one plain cursor.

Not promised: equal sizes. Buckets are even to within a percent; slots and prefixes need not be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rumpx.engine.scanner import ScanSettings
from rumpx.errors import Side
from rumpx.model.follow import FeedKind
from rumpx.model.job import Job
from rumpx.model.nodes import Node, Topology
from rumpx.model.partitions import (
    CURSORS,
    MIN_PARTITION_KEYS,
    CursorSpan,
    KeySpan,
    NodeKeys,
    Partition,
    SlotSpan,
    Span,
    WholeSpan,
    Work,
)
from rumpx.model.slots import SLOTS, key_slot
from rumpx.model.tuning import Tuning
from rumpx.servers.rdb import Dialect
from rumpx.servers.side import SideFacts
from rumpx.transfer.handler import Spec


def plan_partitions(
    databases: Sequence[NodeKeys], tuning: Tuning, prefixes: Sequence[bytes], *, forced: bool
) -> list[Partition]:
    """Cut each node's database; return the partitions.

    Args:
        prefixes: cut by MATCH prefix, with a last partition for all other keys.
        forced: the user gave the number of partitions, so small databases are cut as well.
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
    """Return `parts` spans that together cover a node's database, for a scheme as in NodeKeys."""
    if scheme == "unknown" or parts <= 1:
        return [WholeSpan()]
    if scheme == "slots":
        return list(_cut_slots(node, parts))
    width = CURSORS // parts
    return [CursorSpan(k * width, (k + 1) * width) for k in range(parts)]


def _cut_slots(node: Node, parts: int) -> list[SlotSpan]:
    """Return ranges with about equally many of the node's slots; other nodes' slots between them
    are empty."""
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
    """Return partitions of exactly these (database, key) pairs, one for each node and database."""
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


Policy = Literal["replace", "skip", "fail"]


@dataclass(frozen=True, slots=True)
class Plan:
    """All settings and facts that a run starts with.

    Attributes:
        databases: (node, database) pairs in scope, with their number of keys.
        scans: settings of the walks, for each side that is walked.
        spec: settings of the workers.
        on_conflict: the policy for a key that the target has.
        target_keys: keys that the target's databases held before the copy.
        reverse: as `databases`, for the target, if that is walked too.
        dialect: the payloads that every primary of the target accepts; None if unknown.
        feed: of a follow: the kind that the source allows.
    """

    job: Job
    source: SideFacts
    target: SideFacts
    databases: tuple[NodeKeys, ...]
    partitions: tuple[Partition, ...]
    tuning: Tuning
    scans: dict[Side, ScanSettings]
    spec: Spec
    on_conflict: Policy
    target_keys: int
    warnings: tuple[str, ...]
    reverse: tuple[NodeKeys, ...] = ()
    dialect: Dialect | None = None
    feed: FeedKind = "passes"

    @property
    def places(self) -> list[tuple[Side, NodeKeys]]:
        """All (node, database) pairs that are walked, with their side."""
        forward: list[tuple[Side, NodeKeys]] = [("source", place) for place in self.databases]
        return forward + [("target", place) for place in self.reverse]

    @property
    def keys_expected(self) -> int:
        """Keys in the databases in scope at the start."""
        return sum(place.keys for place in self.databases)

    @property
    def target_databases(self) -> tuple[int, ...]:
        """The target's databases that the copy writes to."""
        return tuple(sorted({self.spec.scope.target_db(place.db) for place in self.databases}))
