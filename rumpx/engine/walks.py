"""The state of all walks, pure: events in, instructions out. `engine.py` does the I/O.

A walk is one pass over a partition. It is *held* until its overseer decides whether it is needed,
*waiting* for a scanner, *walking*, and *walked* when its scanner has reached the end; it is done
when all its batches are settled as well. A *fed* walk has no scanner: its overseer names its keys,
in no order, so that no batch waits for those before it.

Events are method calls: keys were found, a scanner has ended, a batch was acknowledged, a node's
process changed, cursors proved to be of another kind. They return or collect instructions: batches
to give out, walks to start (`starts`), scanners to end (`take_cancelled`).

1. Walks start while fewer than the backend can do are under way, spread over the nodes. A walk that
   must find the keys that another missed (`after`) waits until that is done.
2. A walk that starts over gets the next number. Messages and acks of earlier numbers are ignored:
   their batches are no longer issued.
3. Walks of the plan keep their entries, since summaries list them. A walk that was added later is
   *retired* once it is done and saved: its entry is folded into a sum. So memory and the time of
   each event, Snapshot and save depend on the walks under way, not on the number of all walks ever
   made. A walk at a replica keeps its entry, too: only at the end of the copy it is proven that the
   replica has stayed the same, and if a resumed run finds another there, the walk starts over.

Partitions are numbered in the order in which they are added; a number is never used again.

Not promised: the order in which walks of one node start.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from rumpx.engine.events import Advanced, Found, WalkName
from rumpx.engine.frontier import Frontier
from rumpx.errors import Side
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node
from rumpx.model.partitions import CursorSpan, Partition, WholeSpan
from rumpx.model.results import KeyNote
from rumpx.transfer.content_stats import NO_KINDS, Kinds
from rumpx.transfer.messages import Ack, Batch

WalkState = Literal["held", "waiting", "walking", "fed", "walked"]
Place = tuple[Side, Address | None]


@dataclass(slots=True)
class Walk:
    """One partition's present walk.

    Attributes:
        number: of its restarts.
        state: see the module docstring.
        cursor, booked, booked_kinds: its start (-1: the span's), and the results before it, if it
            resumes a walk of an earlier run.
        after: partitions that must be done before this walk starts.
        final: it is done, and stays so, whatever becomes of its node.
        counts: results of its batches, in any order.
        ahead: those of them that the last Advanced counted beyond its cursor.
        frontier: the same in order, with their cursor.
    """

    partition: Partition
    number: int = 0
    state: WalkState = "waiting"
    cursor: int = -1
    booked: Counts = field(default_factory=Counts)
    after: tuple[int, ...] = ()
    booked_kinds: Kinds = NO_KINDS
    final: bool = field(default=False, init=False)
    counts: Counts = field(init=False)
    ahead: Counts = field(default_factory=Counts, init=False)
    frontier: Frontier[KeyNote] = field(init=False)

    def __post_init__(self) -> None:
        if self.cursor < 0:
            self.cursor = self.partition.span.start
        self.counts = self.booked
        self.frontier = Frontier(self.cursor, self.booked, self.booked_kinds)

    @property
    def id(self) -> int:
        """The partition's number."""
        return self.partition.id

    @property
    def name(self) -> WalkName:
        """The walk's name among all that were ever made."""
        return self.partition.id, self.number

    @property
    def done(self) -> bool:
        """True if it is at its end, and all keys that it found are settled."""
        return self.state == "walked" and not self.frontier.unsettled


@dataclass(frozen=True, slots=True)
class Retired:
    """The sum of walks that were added and are done."""

    walks: int = 0
    counts: Counts = field(default_factory=Counts)
    kinds: Kinds = NO_KINDS

    def with_walk(self, walk: Walk) -> Retired:
        """Return the sum with one more walk."""
        return Retired(
            self.walks + 1, self.counts + walk.counts, self.kinds + walk.frontier.kinds
        )


class RetiredAs(NamedTuple):
    """The common facts of the walks of one sum: the reason for which they were added, the node's
    name, and the database."""

    reason: str
    node: str
    db: int


NONE_RETIRED: Final[Mapping[RetiredAs, Retired]] = MappingProxyType({})


def next_number(walks: Iterable[Walk], retired: Mapping[RetiredAs, Retired]) -> int:
    """Return the first number that no partition of these walks has, or had."""
    numbers = [walk.id for walk in walks]
    added = len(numbers) + sum(each.walks for each in retired.values())
    return max(added, max(numbers, default=-1) + 1)


class Walks:
    """All walks of a run.

    Args:
        walks: the plan's, and those that earlier runs of the job added.
        retired: sums of walks that earlier runs added.

    Attributes:
        retired: the same, with those of this run.
        read: the node of each place at which keys were read.
    """

    def __init__(
        self,
        walks: Iterable[Walk],
        retired: Mapping[RetiredAs, Retired] = NONE_RETIRED,
    ) -> None:
        self._walks = {walk.id: walk for walk in walks}
        self.retired = dict(retired)
        self.read: dict[Place, Node] = {}
        self._added = next_number(self._walks.values(), retired)
        self._batches = count()
        self._issued: dict[int, WalkName] = {}
        self._unfinished: set[int] = set()
        self._finished: list[int] = []
        self._queues: defaultdict[Place, deque[int]] = defaultdict(deque)
        self._scanning: dict[WalkName, Place] = {}
        self._busy: Counter[Place] = Counter()
        self._waits_for: dict[int, set[int]] = {}
        self._holds_up: defaultdict[int, list[int]] = defaultdict(list)
        self._cancelled: list[WalkName] = []
        for walk in self._walks.values():
            self._enlist(walk)

    def __iter__(self) -> Iterator[Walk]:
        """The walks that are not retired, in the order of their partitions' numbers."""
        return iter(self._walks.values())

    def __len__(self) -> int:
        return len(self._walks)

    def get(self, partition: int) -> Walk | None:
        """Return a partition's walk; None if it is retired."""
        return self._walks.get(partition)

    @property
    def all_settled(self) -> bool:
        """True if every walk is done, or held."""
        return not self._unfinished

    def sums(self) -> Iterator[tuple[str, Counts, Kinds]]:
        """Yield the results of all walks, retired ones included: reason, counts in any order, and
        types and sizes of the booked keys."""
        for walk in self:
            yield walk.partition.reason, walk.counts, walk.frontier.kinds
        for key, each in self.retired.items():
            yield key.reason, each.counts, each.kinds

    # Starting.

    def starts(self, most: int) -> list[Walk]:
        """Return the walks that must be started now, so that `most` are under way."""
        started = []
        while len(self._scanning) < most and self._queues:
            place = min(self._queues, key=self._busy.__getitem__)
            queue = self._queues[place]
            walk = self._walks.get(queue.popleft())
            if not queue:
                del self._queues[place]
            if not walk or walk.state != "waiting":
                continue
            if walk.partition.place != place:  # it has moved since it was queued
                self._queues[walk.partition.place].append(walk.id)
                continue
            walk.state = "walking"
            self._scanning[walk.name] = place
            self._busy[place] += 1
            started.append(walk)
        return started

    def take_cancelled(self) -> list[WalkName]:
        """Return the walks whose scanners must end, since the last call."""
        cancelled, self._cancelled = self._cancelled, []
        return cancelled

    def add(
        self, partitions: Iterable[Partition], *, in_order: bool = False, held: bool = False
    ) -> list[Walk]:
        """Add walks; their partitions get new numbers. Return them.

        Args:
            in_order: each waits for those of other nodes before it.
            held: they wait until `decide` is called.
        """
        added: list[Walk] = []
        for partition in partitions:
            node = partition.node.address
            before = [w.id for w in added if w.partition.node.address != node] if in_order else []
            walk = Walk(
                replace(partition, id=self._added),
                state="held" if held else "waiting",
                after=tuple(before),
            )
            self._added += 1
            self._walks[walk.id] = walk
            self._enlist(walk)
            added.append(walk)
        return added

    def add_fed(self, partition: Partition) -> Walk:
        """Add a walk without a scanner: the keys of its batches are `named`, until it is `walked`.
        Return it."""
        walk = Walk(replace(partition, id=self._added), state="fed")
        self._added += 1
        self._walks[walk.id] = walk
        self._enlist(walk)
        return walk

    def make_final(self) -> None:
        """Let all walks that are done now stay so."""
        for walk in self:
            walk.final = walk.done

    def abandon(self, partitions: Iterable[int]) -> None:
        """End walks before their end, by their numbers; what they have issued does not count any
        more."""
        for number in partitions:
            if (walk := self._walks.get(number)) and not walk.done:
                fresh = self._restart(walk, walk.partition)
                fresh.state = "walked"
                self._finish(fresh)

    def decide(self, walks: Iterable[Walk], *, needed: bool) -> None:
        """Let held walks start, or let them be done if they are not needed."""
        for walk in walks:
            walk.state = "waiting" if needed else "walked"
            self._enlist(walk)

    def hold(self, walk: Walk) -> None:
        """Hold a waiting walk until `decide` is called."""
        walk.state = "held"
        self._unfinished.discard(walk.id)

    def _enlist(self, walk: Walk) -> None:
        self.read[walk.partition.place] = walk.partition.node
        if walk.done:
            self._finish(walk)
        elif walk.state != "held":
            self._unfinished.add(walk.id)
            if walk.state == "waiting":
                self._queue(walk)

    def _queue(self, walk: Walk) -> None:
        waits_for = {n for n in walk.after if (w := self._walks.get(n)) and not w.done}
        if waits_for:
            self._waits_for[walk.id] = waits_for
            for number in waits_for:
                self._holds_up[number].append(walk.id)
        else:
            self._queues[walk.partition.place].append(walk.id)

    # Events.

    def is_present(self, name: WalkName) -> bool:
        """Return True if a walk has not started over since."""
        walk = self._walks.get(name[0])
        return walk is not None and walk.number == name[1]

    def found(self, found: Found) -> Batch | None:
        """Note keys that a scanner found; return their batch, None if there are none."""
        walk = self._walks[found.partition]
        number = next(self._batches)
        walk.frontier.issue(number, found.cursor)
        if not found.keys:
            walk.frontier.settle(number)
            return None
        return self._batch(number, walk, found.node, found.keys)

    def named(self, walk: Walk, keys: list[bytes], process: str) -> Batch:
        """Return a batch of keys of a fed walk; `process` is as in Batch."""
        node = walk.partition.node.address
        return self._batch(next(self._batches), walk, node, keys, process)

    def _batch(
        self,
        number: int,
        walk: Walk,
        node: Address | None,
        keys: list[bytes],
        process: str = "",
    ) -> Batch:
        self._issued[number] = walk.name
        partition = walk.partition
        return Batch(
            number,
            partition.id,
            walk.number,
            node,
            partition.db,
            keys,
            partition.work,
            process,
        )

    def is_issued(self, batch: int) -> bool:
        """Return True if a batch still counts."""
        return batch in self._issued

    def walked(self, partition: int) -> None:
        """Note that the scanner of a partition has ended."""
        walk = self._walks[partition]
        walk.state = "walked"
        self._scan_ended(walk)
        self._finish(walk)

    def acknowledged(self, ack: Ack) -> Walk | None:
        """Note a settled batch; return its walk, None if that has started over."""
        name = self._issued.pop(ack.batch, None)
        if name is None:
            return None
        walk = self._walks[name[0]]
        walk.counts += ack.counts
        notes: list[KeyNote] = [*ack.failures, *ack.losses]
        if walk.state == "fed":
            walk.frontier.advance(walk.frontier.cursor + 1, ack.counts, notes, ack.kinds)
            return walk
        walk.frontier.settle(ack.batch, ack.counts, notes, ack.kinds)
        self._finish(walk)
        return walk

    def advanced(self, event: Advanced) -> Walk:
        """Note settled keys of a walk whose batches are not known here; return the walk."""
        walk, ack = self._walks[event.partition], event.ack
        walk.counts += ack.counts + event.ahead - walk.ahead
        walk.ahead = event.ahead
        notes: list[KeyNote] = [*ack.failures, *ack.losses]
        walk.frontier.advance(event.cursor, ack.counts, notes, ack.kinds)
        return walk

    def count_unfinished(self, batch: int, counts: Counts) -> None:
        """Count the results of a batch that stays unsettled, since its worker ended early."""
        if name := self._issued.get(batch):
            self._walks[name[0]].counts += counts

    def node_changed(self, partition: int, node: Node, *, known: bool) -> list[Walk]:
        """Note that another process serves a walk's node: earlier cursors are invalid.

        Parts of the old process's table are invalid too: they are walked again even if they were
        done. Other walks of the node that wait, or are done, stay as they are.

        Args:
            node: serves the walk's partition now.
            known: the process reports its identity, so the change is certain.

        Returns:
            The walks that start over.
        """
        this = self._walks[partition]
        before = this.partition.place
        restarted = []
        for walk in list(self):
            if walk.partition.place != before:
                continue
            if walk.final:
                continue
            spoiled = isinstance(walk.partition.span, CursorSpan) and known
            if walk is this or spoiled or walk.state == "walking":
                restarted.append(self._restart(walk, replace(walk.partition, node=node)))
            else:
                walk.partition = replace(walk.partition, node=node)
        self._read_elsewhere(before, node)
        return restarted

    def cursor_unproven(self, partition: int) -> None:
        """Note that the cursors of a node's database are not those of a plain hash table: walk it
        by one plain cursor in place of all its parts."""
        this = self._walks[partition].partition
        for walk in list(self):
            same = (walk.partition.place, walk.partition.db) == (this.place, this.db)
            if same and isinstance(walk.partition.span, CursorSpan) and not walk.final:
                fresh = self._restart(walk, replace(walk.partition, span=WholeSpan()))
                if walk.id != partition and fresh.state == "waiting":
                    fresh.state = "walked"
                    self._finish(fresh)

    def moved(self, before: Place, node: Node) -> None:
        """Assign all walks of a node to another node."""
        for walk in self:
            if walk.partition.place == before:
                walk.partition = replace(walk.partition, node=node)
        self._read_elsewhere(before, node)

    def _read_elsewhere(self, before: Place, node: Node) -> None:
        self.read.pop(before, None)
        self.read[before[0], node.address] = node

    def _restart(self, walk: Walk, partition: Partition) -> Walk:
        """Start a walk over, and forget the batches that it has issued; return the new walk."""
        if walk.name in self._scanning:
            self._cancelled.append(walk.name)
            self._scan_ended(walk)
        self._issued = {batch: name for batch, name in self._issued.items() if name != walk.name}
        state: WalkState = "held" if walk.state == "held" else "waiting"
        fresh = Walk(partition, walk.number + 1, state, after=walk.after)
        self._walks[walk.id] = fresh
        self._enlist(fresh)
        return fresh

    def _scan_ended(self, walk: Walk) -> None:
        place = self._scanning.pop(walk.name, None)
        if place is not None:
            self._busy[place] -= 1

    def _finish(self, walk: Walk) -> None:
        """Book a walk if it is done, and let the walks start that waited for it."""
        if not walk.done:
            return
        walk.frontier.book()  # its last cursor may be its first
        self._unfinished.discard(walk.id)
        if walk.partition.reason:
            self._finished.append(walk.id)
        for number in self._holds_up.pop(walk.id, ()):
            waits_for = self._waits_for.get(number)
            if waits_for is None:
                continue
            waits_for.discard(walk.id)
            if not waits_for:
                del self._waits_for[number]
                self._queues[self._walks[number].partition.place].append(number)

    # Retiring.

    def retire(self) -> list[Walk]:
        """Fold walks that were added and are done into sums; return them. Call it once their
        results and failed keys are saved."""
        retired = []
        for number in self._finished:
            walk = self._walks.get(number)
            if walk and walk.done and not walk.partition.node.origin:
                del self._walks[number]
                partition = walk.partition
                key = RetiredAs(partition.reason, partition.node.label(""), partition.db)
                self.retired[key] = self.retired.get(key, Retired()).with_walk(walk)
                retired.append(walk)
        self._finished = []
        return retired
