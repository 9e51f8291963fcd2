"""The coordinator: gives batches to workers until every partition is settled, and proves it.

One thread owns all state here. Scanner threads and workers only send messages (`messages`), which
it takes from a mailbox and from the workers' channels. In each turn of its loop it

1. waits, at most a quarter of a second, for a message;
2. books what came: keys found become a batch, acks move a partition's frontier;
3. starts walks while fewer than `tuning.scanners` are under way;
4. gives batches to workers that have credit;
5. makes a Snapshot for the display.

When all walks are settled come the checks, each of which may add walks, whereupon it all goes on:
slots of the source that moved, nodes of the target whose process changed (`watch`), and the count
of keys: if the target has fewer than churn explains, each node is walked once more with one plain
cursor.

It never touches a value. Scanners run ahead of the workers by a bounded number of batches.
"""

from __future__ import annotations

import queue
import selectors
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, TypeVar

from rumpx.copy.completeness import Census, missing_keys, take_census
from rumpx.copy.control import Control
from rumpx.copy.frontier import Frontier
from rumpx.copy.messages import (
    Ack,
    Batch,
    CursorUnproven,
    Found,
    FromScanner,
    FromWorker,
    NodeChanged,
    Notice,
    ScanTrouble,
    Trouble,
    Walked,
)
from rumpx.copy.plan import CursorSpan, Partition, SlotSpan, WholeSpan
from rumpx.copy.pool import Pool
from rumpx.copy.prepare import Plan
from rumpx.copy.progress import Progress, ProgressMeter
from rumpx.copy.scan import Scanner, Shelf
from rumpx.copy.watch import SlotWatch, suspect_slots, target_identity
from rumpx.errors import (
    Interrupted,
    PayloadIncompatible,
    RumpxError,
    SourceUnusable,
    TargetUnusable,
    TemporaryError,
)
from rumpx.report.display import Display
from rumpx.report.snapshot import Counts, KeyFailure, PartitionSummary, State
from rumpx.servers.topology import Node

_TICK: Final = 0.25
# Batches that scanners may have found ahead of the workers, beyond what those hold.
_AHEAD: Final = 2
_FAILURES_KEPT: Final = 100_000
# So many refused payloads and not one accepted: it is the version, not the keys.
_HOPELESS_PAYLOADS: Final = 200
_MOST_WALKS: Final = 20
_MOST_SUSPICIONS: Final = 10
_DRAIN_SECONDS: Final = 5.0
_PAUSE: Final = 0.5
# How often, with `_PAUSE` between, we look whether a slot's migration has ended.
_MIGRATION_POLLS: Final = 20

T = TypeVar("T")


@dataclass(slots=True)
class _Walk:
    """One partition's present walk: the coordinator's book on it."""

    partition: Partition
    number: int = 0
    state: str = "waiting"  # then "walking", then "walked"
    counts: Counts = field(default_factory=Counts)
    failures: list[KeyFailure] = field(default_factory=list)
    after: tuple[int, ...] = ()  # partitions that must be done before this walk begins
    frontier: Frontier = field(init=False)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.frontier = Frontier(self.partition.span.start)

    @property
    def done(self) -> bool:
        return self.state == "walked" and not self.frontier.unsettled


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, for the Summary."""

    seconds: float
    counts: Counts
    failures: tuple[KeyFailure, ...]
    failures_by_reason: dict[str, int]
    partitions: tuple[PartitionSummary, ...]
    walked_again: dict[str, int]
    before: Census | None
    after: Census | None
    missing: int | None
    restarts: int
    warnings: tuple[str, ...]


class Coordinator:
    """One run of one plan.

    Args:
        plan: what to do.
        display: is shown Snapshots and sentences.
        control: is looked at for a wish to stop.
    """

    def __init__(self, plan: Plan, display: Display, control: Control) -> None:
        self._plan = plan
        self._display = display
        self._control = control
        self._warnings = list(plan.warnings)
        self._walks = [_Walk(partition) for partition in plan.partitions]
        self._run_ids = {node: plan.source.run_id(node) for node in plan.source.infos}
        self._ids = count()
        self._issued: dict[int, tuple[int, int]] = {}
        self._ready: deque[Batch] = deque()
        self._mail: queue.SimpleQueue[FromScanner] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD * plan.job.workers + plan.tuning.scanners)
        self._shelf = Shelf()
        self._walks_changed = True
        self._walked_again: Counter[str] = Counter()
        self._state: State = "starting"
        self._note = ""
        self._seconds = 0.0
        self._before: Census | None = None
        self._after: Census | None = None
        self._missing: int | None = None
        self._grace = _MIGRATION_POLLS
        self._suspicions = 0
        self._counted_again = False
        self._pool: Pool | None = None
        self._target_now: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(control.wakened, selectors.EVENT_READ)
        self._next_tick = 0.0
        self._meter = ProgressMeter(plan, time.monotonic())

    def run(self) -> None:
        """Copy everything; `outcome` tells, then and at any time, what was copied.

        Raises:
            Interrupted: asked to stop.
            RumpxError: something ended the run early.
        """
        plan = self._plan
        self._before = take_census(plan)
        self._target_now = target_identity(plan.target.dialer, plan.target.topology)
        if not any(self._target_now):
            self._warn(
                "The target does not tell its run_id: if it restarts during the copy, keys that "
                "it lost then are not noticed."
            )
        for warning in plan.warnings:
            self._display.message(warning)
        self._watch = SlotWatch(plan.source)
        self._pool = Pool(
            plan.spec,
            plan.job.workers if plan.partitions else 0,
            plan.tuning.batches_in_flight,
            self._selector,
            self._warn,
        )
        self._meter.pool = self._pool
        orderly = False
        try:
            self._copy()
            orderly = True
        except RumpxError as error:
            if not isinstance(error, Interrupted):
                self._give_up()
            raise
        finally:
            self._cancel(self._walks)
            self._shelf.clear()
            self._watch.stop()
            if orderly:
                self._pool.stop()
            else:
                self._pool.kill()
            self._selector.close()

    @property
    def _workers(self) -> Pool:
        assert self._pool is not None
        return self._pool

    def outcome(self) -> Outcome:
        """What was done so far. Keys that were walked again are counted once."""
        counts = sum((walk.counts for walk in self._walks if not walk.partition.reason), Counts())
        failures = {(f.db, f.key): f for walk in self._walks for f in walk.failures}
        failed = sum(walk.counts.failed for walk in self._walks)
        return Outcome(
            seconds=self._seconds or self._meter.elapsed(time.monotonic()),
            counts=replace(counts, failed=min(failed, max(len(failures), counts.failed))),
            failures=tuple(failures.values()),
            failures_by_reason=dict(Counter(f.reason for f in failures.values()).most_common()),
            partitions=tuple(_partition_summary(walk) for walk in self._walks),
            walked_again=dict(self._walked_again),
            before=self._before,
            after=self._after,
            missing=self._missing,
            restarts=self._pool.restarts if self._pool else 0,
            warnings=tuple(self._warnings),
        )

    # The loop.

    def _copy(self) -> None:
        while not self._workers.awake:
            self._turn(_TICK)
            if self._control.stops:
                self._stop()
        self._state = "copying"
        self._meter.begin(time.monotonic())
        self._run_walks()
        self._seconds = self._meter.elapsed(time.monotonic())
        self._state = "checking"
        while self._checks_add_walks():
            self._run_walks()
        self._refuse_hopeless(at_end=True)
        self._state = "done"
        self._tick(force=True)

    def _run_walks(self) -> None:
        """Until every walk is settled, in the order of the walks' stages."""
        self._start_walks()  # or the first turn would wait for something to happen
        while not all(walk.done for walk in self._walks):
            self._turn(max(0.0, self._next_tick - time.monotonic()))
            if self._control.stops:
                self._stop()

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._control.wakened:
                self._control.drain_wakes()
            else:
                for message in self._workers.receive(key.data):
                    self._from_worker(message)
        while not self._mail.empty():
            self._from_scanner(self._mail.get())
        if self._state not in ("starting", "draining"):
            self._start_walks()
            self._workers.dispatch(self._next_batch)
        self._tick()

    def _start_walks(self) -> None:
        """Start walks while there are fewer than the tuning says, spread over the nodes."""
        if not self._walks_changed:
            return
        self._walks_changed = False
        busy = Counter(w.partition.node.address for w in self._walks if w.state == "walking")
        waiting = [w for w in self._walks if w.state == "waiting" and self._may_start(w)]
        while waiting and busy.total() < self._plan.tuning.scanners:
            walk = min(waiting, key=lambda walk: busy[walk.partition.node.address])
            waiting.remove(walk)
            busy[walk.partition.node.address] += 1
            self._start(walk)

    def _may_start(self, walk: _Walk) -> bool:
        """Walks again are one after the other where one must see what another missed."""
        return all(self._walks[number].done for number in walk.after)

    def _start(self, walk: _Walk) -> None:
        walk.state = "walking"
        partition = walk.partition
        Scanner(
            partition,
            walk.number,
            self._run_ids.get(partition.node.address, ""),
            self._plan.scan,
            self._shelf,
            self._mailbox(walk.cancelled),
        ).start()

    def _mailbox(self, cancelled: threading.Event) -> Callable[[FromScanner], bool]:
        """What a scanner calls: waits for room, so that scanners do not run far ahead."""

        def emit(message: FromScanner) -> bool:
            if isinstance(message, Found) and message.keys:
                while not self._room.acquire(timeout=0.1):
                    if cancelled.is_set():
                        return False
            self._mail.put(message)
            self._control.wake()
            return not cancelled.is_set()

        return emit

    def _next_batch(self) -> Batch | None:
        while self._ready:
            batch = self._ready.popleft()
            self._room.release()
            if batch.id in self._issued:
                return batch
        return None

    # Messages.

    def _from_scanner(self, message: FromScanner) -> None:
        if isinstance(message, ScanTrouble):
            raise message.error
        walk = self._walks[message.partition]
        if message.walk != walk.number:
            if isinstance(message, Found) and message.keys:
                self._room.release()
            return
        match message:
            case Found():
                self._found(walk, message)
            case Walked():
                walk.state = "walked"
                self._walks_changed = True
            case NodeChanged():
                self._node_changed(walk, message)
            case CursorUnproven():
                self._cursor_unproven(walk)

    def _found(self, walk: _Walk, found: Found) -> None:
        number = next(self._ids)
        walk.frontier.issue(number, found.cursor)
        if not found.keys:
            walk.frontier.settle(number)
            return
        partition = walk.partition
        self._issued[number] = partition.id, walk.number
        self._ready.append(
            Batch(number, partition.id, walk.number, found.node, partition.db, found.keys)
        )

    def _from_worker(self, message: FromWorker) -> None:
        match message:
            case Ack():
                self._acknowledged(message)
            case Notice():
                if message.text not in self._warnings:
                    self._warn(message.text)
            case Trouble():
                self._book_unfinished(message)
                raise message.error

    def _acknowledged(self, ack: Ack) -> None:
        issued = self._issued.pop(ack.batch, None)
        if issued is None:
            return  # its walk was started over
        walk = self._walks[issued[0]]
        walk.frontier.settle(ack.batch)
        walk.counts += ack.counts
        self._walks_changed |= walk.done  # another may have waited for it
        if ack.failures:
            kept = sum(len(walk.failures) for walk in self._walks)
            walk.failures += ack.failures[: max(0, _FAILURES_KEPT - kept)]
            self._refuse_hopeless(at_end=False)

    def _book_unfinished(self, trouble: Trouble) -> None:
        """Count the keys, but leave the batches unsettled."""
        for batch, counts in trouble.unfinished.items():
            if batch in self._issued:
                walk = self._walks[self._issued[batch][0]]
                walk.counts += counts

    def _refuse_hopeless(self, *, at_end: bool) -> None:
        """Stop where the target can read no payload at all."""
        failed = sum(walk.counts.failed for walk in self._walks)
        if not failed or (failed < _HOPELESS_PAYLOADS and not at_end):
            return
        if any(walk.counts.copied + walk.counts.repeated for walk in self._walks):
            return
        if all(f.reason == "bad payload" for walk in self._walks for f in walk.failures):
            raise PayloadIncompatible(
                f"The target ({self._plan.target.version}) cannot read the payloads that the "
                f"source ({self._plan.source.version}) writes: all {failed:,} keys so far were "
                "refused. A payload loads only into the same or a newer version; copy to a newer "
                "target."
            )

    # Walking again.

    def _restart(self, walk: _Walk, node: Node) -> None:
        """Start a partition over, on the node that serves it now."""
        walk.cancelled.set()
        if walk.number >= _MOST_WALKS:
            raise SourceUnusable(
                f"The source's node {walk.partition.node.label(str(self._plan.job.source))} "
                f"changed its identity {_MOST_WALKS} times during the walk of one partition. "
                "Copy from a server behind no load balancer, or give --from-cluster."
            )
        fresh = _Walk(
            replace(walk.partition, node=node), walk.number + 1, after=walk.after
        )
        self._forget(walk)
        self._walks[walk.partition.id] = fresh
        self._walks_changed = True

    def _forget(self, walk: _Walk) -> None:
        """Batches of a walk that is over are not waited for."""
        this = walk.partition.id, walk.number
        self._issued = {batch: of for batch, of in self._issued.items() if of != this}

    def _node_changed(self, walk: _Walk, message: NodeChanged) -> None:
        """Cursors from before mean nothing; parts of the old process's table mean nothing either,
        so those are walked anew even if they were done."""
        before, now = walk.partition.node.address, message.node
        self._run_ids[now.address] = message.run_id
        touched = 0
        for other in list(self._walks):
            if other.partition.node.address != before:
                continue
            spoiled = isinstance(other.partition.span, CursorSpan) and message.run_id
            if other is walk or spoiled or other.state == "walking":
                touched += 1
                self._restart(other, now)
            else:
                other.partition = replace(other.partition, node=now)
        self._walked_again["the source's node changed"] += touched
        self._warn(
            f"The source's node {walk.partition.node.label(str(self._plan.job.source))} restarted "
            f"or failed over: {touched} partitions start over."
        )

    def _cursor_unproven(self, walk: _Walk) -> None:
        """One plain cursor in place of all parts of this database's table."""
        place = walk.partition.node.address, walk.partition.db
        for other in list(self._walks):
            same = (other.partition.node.address, other.partition.db) == place
            if same and isinstance(other.partition.span, CursorSpan):
                other.cancelled.set()
                self._forget(other)
                whole = other.partition.id == walk.partition.id
                emptied = _Walk(replace(other.partition, span=WholeSpan()), other.number + 1)
                emptied.state = "waiting" if whole else "walked"
                self._walks[other.partition.id] = emptied
                self._walks_changed = True
        self._warn(
            "The source's cursors are not those of a plain hash table, so it is walked by one "
            "cursor a node."
        )

    def _add_walks(self, partitions: Iterable[Partition], in_order: bool) -> int:
        """Further walks; `in_order`: each waits for those of other nodes before it."""
        added: list[_Walk] = []
        for partition in partitions:
            after = tuple(
                walk.partition.id
                for walk in added
                if in_order and walk.partition.node.address != partition.node.address
            )
            walk = _Walk(replace(partition, id=len(self._walks)), after=after)
            self._walks.append(walk)
            self._walks_changed = True
            added.append(walk)
            self._walked_again[partition.reason] += 1
        return len(added)

    def _checks_add_walks(self) -> bool:
        return self._check_slots() or self._check_target() or self._check_completeness()

    def _check_slots(self) -> bool:
        """Slots of the source that moved, or were marked, since they were walked."""
        seen = self._ask(self._watch.poll)
        disturbed = self._watch.take()
        if seen is None or not disturbed:
            return False
        if seen.marked and self._grace > 0:
            # Wait for migrations to end, for a while; then walk both their nodes.
            self._grace -= 1
            self._note = f"waiting for {len(seen.marked)} slots to finish their migration"
            self._watch.put_back(disturbed)
            self._wait(_PAUSE)
            return True
        self._note = ""
        self._watch.excuse(seen.marked)
        self._warn(f"{len(disturbed)} slots moved on the source; their keys are walked again.")
        dbs = sorted({place.db for place in self._plan.databases})
        return self._add_walks(
            (
                Partition(0, node, db, span, slots=disturbed, reason="slots moved")
                for node in seen.takers_last()
                for db in dbs
                for span in self._spans_for(node, db, disturbed)
            ),
            in_order=bool(seen.marked),
        ) > 0

    def _spans_for(self, node: Node, db: int, slots: frozenset[int]) -> list[WholeSpan | SlotSpan]:
        """What to walk on a node to see some slots: just those where the cursor allows it."""
        schemes = {place.scheme for place in self._plan.databases}
        if schemes != {"slots"}:
            return [WholeSpan()]
        spans: list[WholeSpan | SlotSpan] = []
        for slot in sorted(slots):
            last = spans[-1] if spans else None
            if isinstance(last, SlotSpan) and last.high == slot:
                spans[-1] = SlotSpan(last.low, slot + 1)
            else:
                spans.append(SlotSpan(slot, slot + 1))
        return spans

    def _check_target(self) -> bool:
        """Nodes of the target whose process is another one than at the start."""
        now = self._ask(self._target_identity)
        suspect = suspect_slots(self._target_now, now)
        self._target_now = now
        if suspect is not None and not suspect:
            return False
        self._suspicions += 1
        if self._suspicions > _MOST_SUSPICIONS:
            raise TargetUnusable(
                f"The target restarted or failed over {_MOST_SUSPICIONS} times during the copy; "
                "what it kept cannot be told. Find out why, and run the command again."
            )
        what = "The target" if suspect is None else "A node of the target"
        self._warn(
            f"{what} restarted or failed over: an acknowledgement from before does not prove that "
            "it kept the keys, so they are walked again."
        )
        self._add_walks(self._all_again("the target's node changed", suspect), in_order=False)
        return True

    def _all_again(self, reason: str, slots: frozenset[int] | None) -> Iterable[Partition]:
        nodes = self._ask(self._source_nodes)
        for db in sorted({place.db for place in self._plan.databases}):
            for node in nodes:
                yield Partition(0, node, db, WholeSpan(), slots=slots, reason=reason)

    def _source_nodes(self) -> tuple[Node, ...]:
        return self._plan.source.topology_now().nodes

    def _target_identity(self) -> list[str]:
        target = self._plan.target
        return target_identity(target.dialer, target.topology_now())

    def _check_completeness(self) -> bool:
        """If the target holds fewer keys than it should, walk the source once more."""
        assert self._before is not None
        self._after = self._ask(lambda: take_census(self._plan))
        counts = self.outcome().counts
        self._missing = missing_keys(self._plan, self._before, self._after, counts)
        if not self._missing:
            return False
        if self._counted_again:
            self._warn(
                f"The target holds {self._missing:,} keys fewer than it should, also after a "
                "second walk of the source. Does it evict, or do others delete there?"
            )
            return False
        self._counted_again = True
        self._warn(
            f"The target holds {self._missing:,} keys fewer than it should: the source is walked "
            "once more by one plain cursor a node."
        )
        return self._add_walks(self._all_again("keys missing", None), in_order=False) > 0

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the servers something in the end phase, again and again until `retry_for` is over."""
        give_up = time.monotonic() + self._plan.job.retry_for
        while True:
            try:
                return question()
            except TemporaryError as error:
                if time.monotonic() > give_up:
                    raise
                self._note = str(error)
            self._wait(_PAUSE)

    def _wait(self, seconds: float) -> None:
        """Turn the loop for a while, so that displays live and signals are seen."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(min(left, _TICK))
            if self._control.stops:
                self._stop()

    # Ending.

    def _stop(self) -> None:
        """Asked to stop: let what workers hold land; asked again: end at once."""
        self._state = "draining"
        self._note = "stopping: waiting for batches in flight; Ctrl-C again stops at once"
        self._cancel(self._walks)
        while self._workers.in_flight and self._control.stops < 2:
            self._workers.dispatch(lambda: None)
            self._turn(_TICK)
        self._state = "stopped"
        self._tick(force=True)
        raise Interrupted("Stopped by a signal.", self._control.signal_number)

    def _give_up(self) -> None:
        """Trouble: let what workers hold land if that is soon, so that the counts are true."""
        self._state = "failed"
        self._cancel(self._walks)
        self._workers.close()
        until = time.monotonic() + _DRAIN_SECONDS
        while self._workers.in_flight and time.monotonic() < until and not self._control.stops:
            for key, _ in self._selector.select(_TICK):
                if key.fileobj is self._control.wakened:
                    self._control.drain_wakes()
                    continue
                for message in self._workers.receive(key.data):
                    if isinstance(message, Ack):
                        self._acknowledged(message)
                    elif isinstance(message, Trouble):
                        self._book_unfinished(message)
        self._tick(force=True)

    def _cancel(self, walks: Iterable[_Walk]) -> None:
        for walk in walks:
            walk.cancelled.set()

    # Telling.

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._display.message(text)

    def _tick(self, *, force: bool = False) -> None:
        now = time.monotonic()
        wanted = self._control.take_report()
        if not (force or wanted or now >= self._next_tick):
            return
        self._next_tick = now + _TICK
        parts = [
            Progress(walk.partition, walk.frontier.cursor, walk.counts, walk.done)
            for walk in self._walks
        ]
        snapshot = self._meter.snapshot(parts, self._state, self._note, now)
        if wanted:
            self._display.now(snapshot)
        self._display.show(snapshot)


def _partition_summary(walk: _Walk) -> PartitionSummary:
    partition = walk.partition
    bounds = f"{partition}, again: {partition.reason}" if partition.reason else str(partition)
    return PartitionSummary(
        partition.node.label(""), partition.db, bounds, walk.counts, walk.done
    )
