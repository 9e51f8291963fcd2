"""The engine: walks partitions and has workers settle their keys, until every walk is done.

One thread owns all state here. A `backend` does the walks, and reports by `events` in a mailbox and
by `messages`. Each turn of the loop

1. waits, at most a quarter of a second, for an event;
2. records the events: keys found become a batch, acks advance a walk's frontier;
3. starts walks while fewer are under way than the backend can do;
4. has the backend give out work, as much as the governor allows (`steering`);
5. makes a Snapshot for the display and the overseer, a few times a second.

The engine does not know the purpose of the work. An `Overseer` (the copy's coordinator, a
comparison) receives each ack, may add walks at any time, and decides when all is done.

Values never reach the engine.
"""

from __future__ import annotations

import queue
import selectors
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from rumpx.engine.backend import Backend, Hooks, Urgent, WalkOrder
from rumpx.engine.events import (
    Advanced,
    CursorUnproven,
    Ended,
    Event,
    Found,
    NodeChanged,
    ScanTrouble,
    Walked,
)
from rumpx.engine.fence import Fence
from rumpx.engine.plan import Plan
from rumpx.engine.progress import ProgressMeter, Told
from rumpx.engine.status import LargeValue, Warnings, held, node_stats, progress
from rumpx.engine.steering import Steering
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk, Walks
from rumpx.errors import (
    Interrupted,
    RumpxError,
    Side,
    TemporaryError,
    TimeOver,
    unusable,
)
from rumpx.model.display import Display
from rumpx.model.endpoint import Address
from rumpx.model.follow import FollowStat
from rumpx.model.nodes import Node
from rumpx.model.snapshot import Snapshot, State, Verb
from rumpx.processes.control import Control
from rumpx.servers.replies import balancer_words, permanent
from rumpx.throttle.governor import Governor
from rumpx.throttle.scan_gate import Gate
from rumpx.transfer.content_stats import Largest
from rumpx.transfer.messages import Ack, FromWorker, Left, Notice, Streaming, Trouble

TICK: Final = 0.25
_MOST_WALKS: Final = 20
_MOST_RETURNS: Final = 2
# Seconds that batches in flight may take to land after a signal; then the run ends as after a
# second one.
DRAIN_SECONDS: Final = 30.0
# The same after trouble.
_LANDING_SECONDS: Final = 5.0
_PAUSE: Final = 0.5
# The least pause between two Snapshots, in multiples of the time that one takes.
_SNAPSHOT_SHARE: Final = 10

T = TypeVar("T")


class Overseer(Protocol):
    """Knows the purpose of the walks, and receives their events."""

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Handle the ack of a walk's batch; the walk has counted it already."""

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """Handle the restart of a number of walks of a node."""

    def unfenced(self, keys: Sequence[tuple[int, bytes]] | None) -> None:
        """Handle (source database, key) pairs of which a dead worker's writes may land later, since
        its connections to the target could not be ended; None if they are not known."""

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """Do periodic work, a few times a second, between turns; `now` is `time.monotonic()`."""


class Engine:
    """Does the walks of one plan, and those that are added.

    Args:
        plan: the work.
        walks: of the plan's partitions, new or from where an earlier run ended.
        display: shows Snapshots and messages.
        control: holds requests to stop.
        overseer: receives acks, restarts and Snapshots.
        backend: does the walks; not yet started.
        retired: sums of walks that earlier runs added.
        seconds: the time that earlier runs took.
        job, verb: as in Snapshot.
        urgent: as in `backend.Hooks`.

    Attributes:
        walks: the state of all walks.
        run_ids: of the process that serves each place, as last seen.
        state, note: as in Snapshot; set by the overseer.
        reasons: failed keys by reason.
        largest: the largest values copied.
        follow: returns Snapshot's `follow`, at a time of `time.monotonic()`; set by the overseer.
        fence: ends connections to the target; None if nothing is written.
    """

    def __init__(
        self,
        plan: Plan,
        walks: Sequence[Walk],
        display: Display,
        control: Control,
        overseer: Overseer,
        backend: Backend,
        *,
        retired: Mapping[RetiredAs, Retired] = NONE_RETIRED,
        seconds: float = 0.0,
        job: str = "",
        verb: Verb = "copied",
        urgent: Urgent | None = None,
    ) -> None:
        self.walks = Walks(walks, retired)
        self._warnings = Warnings(plan.warnings, display.message)
        source, target = str(plan.job.source), str(plan.job.target)
        self._names: dict[Side, str] = {"source": source, "target": target}
        self.run_ids: dict[tuple[Side, Address | None], str] = {
            (side.dialer.side, address): side.run_id(address)
            for side in (plan.source, plan.target)
            for address in side.infos
        }
        self._processes: dict[Side, Counter[str]] = {}
        self.state: State = "starting"
        self.note = ""
        self._large = LargeValue()
        self.reasons: Counter[str] = Counter()
        self.largest = Largest()
        self.follow: Callable[[float], FollowStat | None] = lambda now: None
        self._plan = plan
        self._display = display
        self._control = control
        self._overseer = overseer
        self._backend = backend
        self._urgent = urgent
        self._steering = Steering(plan, backend)
        self._began = time.monotonic()
        self._mail: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.fence = Fence(plan.target, plan.job.retry_for) if plan.target.dialer.writer else None
        self._selector = selectors.DefaultSelector()
        self._selector.register(control.wakened, selectors.EVENT_READ)
        self._next_tick = 0.0
        self._meter = ProgressMeter(plan, backend, time.monotonic(), seconds, job, verb)

    # The frame.

    def start(self) -> None:
        """Start the workers, and wait until they are ready.

        Raises:
            Interrupted, RumpxError: see `run_walks`.
        """
        self._warnings.show_all()
        workers = self._plan.tuning.workers if self.walks or self._urgent else 0
        # First the prober, which learns the baselines while the workers start.
        self._steering.start(self._selector)
        hooks = Hooks(
            self._selector,
            self._steering.gate,
            self._post,
            self.warn,
            self._end_connections,
            self._urgent,
        )
        self._backend.start(workers, hooks)
        while not self._backend.awake or (workers and not self._steering.ready):
            self._turn(TICK)
            self.heed()
        self._meter.begin(time.monotonic())
        self.governor.held_seconds.clear()

    def run_walks(self) -> None:
        """Run until every walk is settled, and nothing is in flight of those that started over.

        Raises:
            Interrupted: a stop was requested.
            TimeOver: the run's time limit is reached.
            RumpxError: the run cannot continue.
        """
        self.run_until(lambda: self.walks.all_settled and not self._backend.in_flight)

    def run_until(self, over: Callable[[], bool]) -> None:
        """Run until a condition holds, which is tested before each turn of the loop.

        Raises:
            Interrupted, TimeOver, RumpxError: see `run_walks`.
        """
        self._start_walks()  # else the first turn would wait for a message
        while not over():
            self._turn(self._pause(time.monotonic()))
            self.heed()

    def _pause(self, now: float) -> float:
        """Return the seconds until the next periodic work."""
        return max(0.0, min(self._next_tick, self._steering.due, self._backend.due(now)) - now)

    def close(self, *, orderly: bool) -> None:
        """End walks and workers; workers that may hold work (not `orderly`) at once."""
        self._backend.end_walks()
        self._steering.gate.close()
        if orderly:
            self._backend.stop()
        else:
            self._backend.kill()
        self._steering.close()
        self._selector.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the first SCAN, plus those of earlier runs."""
        return self._meter.elapsed(time.monotonic())

    @property
    def at_rest(self) -> bool:
        """True if every batch that was given out is settled."""
        return not (self._backend.in_flight or self._backend.dropped)

    @property
    def restarts(self) -> int:
        """The number of workers that were replaced."""
        return self._backend.restarts

    @property
    def off(self) -> bool:
        """True if the timetable or the user stops all work now."""
        decision = self._steering.decision
        return decision is not None and decision.off

    @property
    def governor(self) -> Governor:
        """Decides how much may be in flight; its limits may be changed."""
        return self._steering.governor

    def status(self) -> Snapshot:
        """Return the present state of the run."""
        now = time.monotonic()
        told = Told(
            self.state,
            self.note or (self._large.text(now) if self._backend.in_flight else ""),
            held(self.governor, self._steering.decision, now),
            node_stats(self.governor, self._names, now),
            dict(self.reasons),
            self.largest,
            self.follow(now),
        )
        return self._meter.snapshot(progress(self.walks), list(self.walks.sums()), now, told)

    @property
    def fraction(self) -> float:
        """The part of the walks that is done, 0.0 to 1.0."""
        return self._meter.whole(progress(self.walks), self.state)

    # The loop.

    def _turn(self, timeout: float) -> None:
        for message in self._received(timeout):
            self._take(message)
        while not self._mail.empty():
            self._take(self._mail.get())
        if self.state != "draining":
            self._steering.decide(self._meter.done)
        if self.state not in ("starting", "draining"):
            self._start_walks()
        self._backend.turn(self.walks.is_issued)
        self.tick()

    def _received(self, timeout: float) -> Iterator[Event]:
        """Wait for messages; yield those of the backend."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._control.wakened:
                self._control.drain_wakes()
            elif not self._steering.observes(key.data):
                yield from self._backend.receive(key.data)

    def decide_anew(self) -> None:
        """Have the governor decide at once, after a change of its limits."""
        if self.state != "draining":
            self._steering.decide_anew(self._meter.done)

    def _start_walks(self) -> None:
        """Start and end walks, as the walks instruct."""
        for name in self.walks.take_cancelled():
            self._backend.end_walk(name)
        for walk in self.walks.starts(self._backend.walks_at_once):
            partition = walk.partition
            run_id = self.run_ids.get(partition.place, "")
            order = WalkOrder(partition, walk.number, walk.frontier.cursor, run_id)
            self._backend.walk(order)

    def _post(self, event: Event) -> None:
        """Take an event from any thread."""
        self._mail.put(event)
        self._control.wake()

    # Messages.

    def _take(self, event: Event) -> None:
        match event:
            case Found() | Walked() | NodeChanged() | CursorUnproven() | Advanced():
                self._from_walk(event)
            case ScanTrouble():
                raise event.error
            case Ended():
                self._from_fence(event)
            case _:
                self._from_worker(event)

    def _from_walk(
        self, event: Found | Walked | NodeChanged | CursorUnproven | Advanced
    ) -> None:
        if not self.walks.is_present((event.partition, event.walk)):
            if isinstance(event, Found) and event.keys:
                self._backend.give(None)
            return
        match event:
            case Found():
                if batch := self.walks.found(event):
                    self._backend.give(batch)
            case Walked():
                self.walks.walked(event.partition)
            case NodeChanged():
                self._node_changed(event)
            case CursorUnproven():
                self._cursor_unproven(event)
            case Advanced():
                self._settled(self.walks.advanced(event), event.ack)

    def _from_worker(self, message: FromWorker) -> None:
        match message:
            case Ack():
                self._acknowledged(message)
            case Left():
                self.walks.count_unfinished(message.batch, message.counts)
            case Notice():
                self.warn(message.text)
            case Streaming():
                self._large.add(message)
            case Trouble():
                self._book_unfinished(message)
                raise message.error

    def _acknowledged(self, ack: Ack) -> None:
        walk = self.walks.acknowledged(ack)
        if walk:  # else it has started over
            self._settled(walk, ack)

    def _settled(self, walk: Walk, ack: Ack) -> None:
        if ack.large:
            self.largest.add(ack.large)
        if ack.failures:
            self.reasons.update(failure.reason for failure in ack.failures)
        self._overseer.acknowledged(walk, ack)

    def _book_unfinished(self, trouble: Trouble) -> None:
        """Count the settled keys, but leave the batches unsettled."""
        for batch, counts in trouble.unfinished.items():
            self.walks.count_unfinished(batch, counts)

    # Dead workers.

    def _end_connections(self, worker: str) -> None:
        """End a dead worker's connections to the target, in a thread, since it may take a while."""
        fence = self.fence
        assert fence

        def end() -> None:
            try:
                self._post(Ended(worker, fence.worker(worker)))
            except RumpxError as error:
                self._post(Ended(worker, "unknown", error))

        threading.Thread(target=end, name="fence", daemon=True).start()

    def _from_fence(self, message: Ended) -> None:
        if message.error:
            raise message.error
        batches = self._backend.fenced(message.worker)
        if message.left == "nothing":
            return
        keys = None if batches is None else [(b.db, key) for b in batches for key in b.keys]
        self._overseer.unfenced(keys)

    # Walking again.

    def _node_changed(self, message: NodeChanged) -> None:
        walk = self.walks.get(message.partition)
        assert walk
        side, node = walk.partition.side, message.node
        self._refuse_balancer((side, node), message.run_id)
        self.run_ids[side, node.address] = message.run_id
        changed = self.walks.node_changed(walk.id, node, known=bool(message.run_id))
        if any(each.number > _MOST_WALKS for each in changed):
            flag = "--from-cluster" if side == "source" else "--to-cluster"
            raise unusable(side)(
                f"The {side}'s node {walk.partition.node.label(self._names[side])} "
                f"changed its identity {_MOST_WALKS} times during the walk of one partition. "
                f"Give a server behind no load balancer, or give {flag}."
            )
        self._overseer.started_over(len(changed), walk.partition.node, "node changed")

    def _refuse_balancer(self, where: tuple[Side, Node], run_id: str) -> None:
        """Raise if the run_ids of a node alternate, as behind a load balancer: a server that
        restarts never has an earlier run_id again; after a failover and back one may return,
        once."""
        side, node = where
        if node.address is not None or not run_id:
            return
        seen = self._processes.setdefault(side, Counter({self.run_ids.get((side, None), ""): 1}))
        seen[run_id] += 1
        if seen[run_id] > _MOST_RETURNS:
            raise unusable(side)(balancer_words(side, self._names[side]))

    def _cursor_unproven(self, message: CursorUnproven) -> None:
        walk = self.walks.get(message.partition)
        assert walk
        self.walks.cursor_unproven(walk.id)
        self._overseer.started_over(1, walk.partition.node, "cursors unproven")

    # For overseers.

    def ask(self, question: Callable[[], T]) -> T:
        """Ask the servers, and retry until `retry_for` is over; return the answer.

        Raises:
            TemporaryError: the last failure of a `question` that failed for `retry_for` seconds.
            Interrupted, TimeOver, RumpxError: see `run_walks`.
        """
        give_up = time.monotonic() + self._plan.job.retry_for
        while True:
            try:
                return self.meanwhile(question)
            except TemporaryError as error:
                if fatal := permanent(error):
                    raise fatal from None
                if time.monotonic() > give_up:
                    raise
                self.note = str(error)
            self.wait(_PAUSE)

    def ask_at_length(self, question: Callable[[Gate], T]) -> T:
        """Ask once a question that takes long and whose SCANs pass the gate; see `meanwhile`."""
        return self.meanwhile(lambda: question(self._steering.gate))

    def meanwhile(self, question: Callable[[], T]) -> T:
        """Ask in a thread while the loop turns, so that signals are heeded although a server does
        not answer; return the answer. (If the run ends here, the thread ends with the process.)"""
        answer: Future[T] = Future()

        def ask() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)
            self._control.wake()

        threading.Thread(target=ask, name="question", daemon=True).start()
        while not answer.done():
            self._turn(TICK)
            self.heed()
        return answer.result()

    def rest(self) -> None:
        """Have idle workers close their connections: the checks at the end need some of the
        servers' few places for clients, and connections may lead to an old primary."""
        self._backend.rest()

    def wait(self, seconds: float) -> None:
        """Turn the loop for some seconds, so that displays are drawn and signals heeded."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(min(left, TICK))
            self.heed()

    def warn(self, text: str) -> None:
        """Show a message to the user, and keep it for the Summary. A repeated one is shown again
        when its number has grown tenfold."""
        self._warnings.add(text)

    @property
    def warnings(self) -> list[str]:
        """The messages so far, each once, with its number of occurrences."""
        return self._warnings.texts

    # Ending.

    def heed(self) -> None:
        """End the run if a stop was requested, or its time is over.

        Raises:
            Interrupted: a stop was requested.
            TimeOver: `--max-duration` is reached, or the timetable says "off".
        """
        if self._control.stops:
            self._stop()
        if why := self._time_over():
            self._drain(f"{why}: waiting for batches in flight", 1)
            raise TimeOver(f"{why}; the rest is left for later.")

    def _time_over(self) -> str:
        limits, decision = self.governor.limits, self._steering.decision
        if limits.exit_when_off and decision and self.governor.closed:
            return f"The run is {decision.reason}"
        longest = limits.max_duration
        if longest is not None and time.monotonic() - self._began > longest:
            return f"The run has taken the {longest:g} s of --max-duration"
        return ""

    def _stop(self) -> None:
        """Let batches in flight land, unless a second stop is requested; then end."""
        self._drain("stopping: waiting for batches in flight; Ctrl-C again stops at once", 2)
        raise Interrupted("Stopped by a signal.", self._control.signal_number)

    def _drain(self, note: str, stops: int) -> None:
        """Let batches in flight land, ignoring the rates, for `DRAIN_SECONDS`, or until so many
        stops were requested. Batches that have not landed then stay unsettled, in the ledger and
        for the run that resumes the job."""
        self.state = "draining"
        self.note = note
        self._backend.end_walks()
        self._backend.hurry()
        until = time.monotonic() + DRAIN_SECONDS
        while self._backend.in_flight and self._control.stops < stops:
            if time.monotonic() > until:
                left = f"{self._backend.in_flight:,} {self._backend.given} in flight"
                self.warn(
                    f"{left} did not land within {DRAIN_SECONDS:g} s: they are left unsettled."
                )
                break
            self._turn(TICK)
        self.state = "stopped"
        self.tick(force=True)

    def give_up(self) -> None:
        """After trouble, let batches in flight land for some seconds, so that counts are true."""
        self.state = "failed"
        self._backend.hurry()
        self._backend.end_walks()
        self._backend.close()
        until = time.monotonic() + _LANDING_SECONDS
        while self._backend.in_flight and time.monotonic() < until and not self._control.stops:
            with suppress(RumpxError):  # the run ends with its first error
                for message in self._received(TICK):
                    self._take(message)
        self.tick(force=True)

    # The display.

    def tick(self, *, force: bool = False) -> None:
        """Show the state of the run, if that is due or `force`d."""
        now = time.monotonic()
        wanted = self._control.take_report()
        if not (force or wanted or now >= self._next_tick):
            return
        snapshot = self.status()
        if wanted:
            self._display.now(snapshot)
        self._display.show(snapshot)
        self._overseer.tick(now, snapshot)
        # A Snapshot of thousands of partitions takes a while.
        took = time.monotonic() - now
        self._next_tick = now + max(TICK, _SNAPSHOT_SHARE * took)
