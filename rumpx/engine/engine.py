"""The engine: walks partitions and has workers settle their keys, until every walk is done.

One thread owns all state here. Scanner threads and workers only send messages (`messages`), which
it takes from a mailbox and from the workers' channels. In each turn of its loop it

1. waits, at most a quarter of a second, for a message;
2. books what came: keys found become a batch, acks move a walk's frontier;
3. starts walks while fewer than `tuning.scanners` are under way;
4. gives batches to workers that have credit, as many as the governor allows;
5. makes a Snapshot for the display, a few times a second, and tells its overseer the time.

What the governor decides goes three ways: to the gate before scanners, to the memory that workers
look into, and to the number of batches in flight.

It knows nothing of what the work is for. An `Overseer` (the copy's coordinator, a comparison) is
told of each ack, may add walks at any time, and decides when all is done.

It never touches a value. Scanners run ahead of the workers by a bounded number of batches.
"""

from __future__ import annotations

import queue
import selectors
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Final, Protocol, TypeVar

from rumpx.engine.fence import Fence
from rumpx.engine.plan import Plan
from rumpx.engine.pool import Pool
from rumpx.engine.progress import Progress, ProgressMeter, Told
from rumpx.engine.scanner import Scanner, Shelf
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk, WalkName, Walks
from rumpx.errors import (
    Interrupted,
    RumpxError,
    Side,
    TemporaryError,
    TimeOver,
    unusable,
)
from rumpx.model.display import Display
from rumpx.model.endpoint import Address, format_address
from rumpx.model.nodes import Node
from rumpx.model.schedule import parse_timetable
from rumpx.model.snapshot import Held, NodeStat, Snapshot, State, Verb
from rumpx.processes.channel import Channel, receive
from rumpx.processes.control import Control
from rumpx.processes.forkserver import process_context, signals_blocked
from rumpx.servers.replies import balancer_words, permanent
from rumpx.throttle import prober as observer
from rumpx.throttle.governor import Decision, Full, Governor
from rumpx.throttle.prober import Watched
from rumpx.throttle.rates import Pace, Throttle
from rumpx.throttle.scan_gate import Gate
from rumpx.transfer.content_stats import Largest
from rumpx.transfer.messages import (
    Ack,
    Batch,
    CursorUnproven,
    Ended,
    Found,
    FromScanner,
    FromWorker,
    NodeChanged,
    Notice,
    ScanTrouble,
    Trouble,
    Walked,
)

TICK: Final = 0.25
_DECIDE_SECONDS: Final = 0.1
_OBSERVE_AGAIN_SECONDS: Final = 1.0
# Batches that scanners may have found ahead of the workers, beyond what those hold.
_AHEAD: Final = 2
_MOST_WALKS: Final = 20
_MOST_RETURNS: Final = 2
# How long batches in flight may take to land after a signal; then it is as after a second one.
DRAIN_SECONDS: Final = 30.0
# The same where the run ends with trouble.
_LANDING_SECONDS: Final = 5.0
_PAUSE: Final = 0.5
# Of the time that it takes to tell where the run stands, so much is left for the run itself.
_TELL_SHARE: Final = 10

T = TypeVar("T")


class Overseer(Protocol):
    """Whose work the engine does."""

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """A batch of a walk is settled, and booked."""

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """So many partitions of a node are walked anew."""

    def unfenced(self, keys: Sequence[tuple[int, bytes]]) -> None:
        """What a dead worker wrote of these (source database, key) may land later, since its
        connections to the target could not be ended."""

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """Called a few times a second, between turns; `now` is `time.monotonic()`."""


class Engine:
    """Does the walks of one plan, and any that are added.

    Args:
        plan: what to do.
        walks: the plan's partitions, begun anew or where an earlier run ended.
        retired: sums of walks that earlier runs added.
        display: is shown Snapshots and sentences.
        control: is looked at for a wish to stop.
        overseer: whose work it is.
        seconds: that earlier runs took.
        job, verb: as in Snapshot.
    """

    def __init__(
        self,
        plan: Plan,
        walks: Sequence[Walk],
        display: Display,
        control: Control,
        overseer: Overseer,
        *,
        retired: Mapping[RetiredAs, Retired] = NONE_RETIRED,
        seconds: float = 0.0,
        job: str = "",
        verb: Verb = "copied",
    ) -> None:
        self.walks = Walks(walks, plan.tuning.scanners, retired)
        self._warned = Counter(plan.warnings)
        self.run_ids: dict[tuple[Side, Address | None], str] = {
            (side.dialer.side, address): side.run_id(address)
            for side in (plan.source, plan.target)
            for address in side.infos
        }
        self._processes: dict[Side, Counter[str]] = {}
        self.state: State = "starting"
        self.note = ""
        self.reasons: Counter[str] = Counter()
        self.largest = Largest()
        self._plan = plan
        self._display = display
        self._control = control
        self._overseer = overseer
        self.governor = _governor(plan)
        self._throttle = Throttle()
        self._gate = Gate(self._throttle, plan.tuning.scan_count, plan.tuning.batch_keys)
        self._decision: Decision | None = None
        self._decide_due = 0.0
        self._next_batch_at = 0.0
        self._observer: Channel | None = None
        self._observe_at = 0.0
        self._began = time.monotonic()
        self._cancels: dict[WalkName, threading.Event] = {}
        self._ready: deque[Batch] = deque()
        self._mail: queue.SimpleQueue[FromScanner | Ended] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD * plan.job.workers + plan.tuning.scanners)
        self._shelf = Shelf()
        self._pool: Pool | None = None
        self.fence = Fence(plan.target, plan.job.retry_for) if plan.target.dialer.writer else None
        self._selector = selectors.DefaultSelector()
        self._selector.register(control.wakened, selectors.EVENT_READ)
        self._next_tick = 0.0
        self._meter = ProgressMeter(plan, time.monotonic(), seconds, job, verb)

    # The frame.

    def start(self) -> None:
        """Start the workers and wait until they are ready.

        Raises:
            Interrupted, RumpxError: see `run_walks`.
        """
        plan = self._plan
        for warning in self.warnings:
            self._display.message(warning)
        self._pool = self._meter.pool = Pool(
            plan.spec,
            self._throttle,
            plan.job.workers if self.walks else 0,
            plan.tuning.batches_in_flight,
            self._selector,
            self.warn,
            plan.target.dialer.writer,
            self._end_connections,
        )
        self._observe()
        while not self._workers.awake:
            self._turn(TICK)
            self.heed()
        self._meter.begin(time.monotonic())
        self.governor.held_seconds.clear()

    def _observe(self) -> None:
        """Start the process that feels what the servers feel."""
        context = process_context()
        self._observer, theirs = context.Pipe()
        sides = [
            Watched(side.dialer, tuple(side.infos))
            for side in (self._plan.source, self._plan.target)
        ]
        with signals_blocked():
            context.Process(
                target=observer.main, args=(theirs, sides), name="rumpx observer", daemon=True
            ).start()
        theirs.close()
        self._selector.register(self._observer, selectors.EVENT_READ)

    def run_walks(self) -> None:
        """Until every walk is settled, in the order of the walks' stages.

        Raises:
            Interrupted: asked to stop.
            RumpxError: something ended the run early.
        """
        self._start_walks()  # or the first turn would wait for something to happen
        while not self.walks.all_settled:
            self._turn(self._pause(time.monotonic()))
            self.heed()

    def _pause(self, now: float) -> float:
        """Seconds until there is something to do, whatever comes."""
        due = min(self._next_tick, self._decide_due)
        if self._ready and self._next_batch_at > now:
            due = min(due, self._next_batch_at)
        return max(0.0, due - now)

    def close(self, *, orderly: bool) -> None:
        """End scanners and workers; those that may hold something at once."""
        self._cancel_scanners()
        self._gate.close()
        self._shelf.clear()
        if self._pool and orderly:
            self._pool.stop()
        elif self._pool:
            self._pool.kill()
        if self._observer:
            self._observer.close()  # which ends it
        self._selector.close()
        self._throttle.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the first SCAN, with those of earlier runs."""
        return self._meter.elapsed(time.monotonic())

    @property
    def at_rest(self) -> bool:
        """Whether every batch that was given out is settled."""
        return not self._pool or not (self._pool.in_flight or self._pool.dropped)

    @property
    def restarts(self) -> int:
        """Workers that were replaced."""
        return self._pool.restarts if self._pool else 0

    def status(self) -> Snapshot:
        """The run now."""
        now = time.monotonic()
        return self._meter.snapshot(
            self._progress(),
            list(self.walks.sums()),
            now,
            Told(
                self.state,
                self.note,
                self._held(now),
                self._nodes(now),
                dict(self.reasons),
                self.largest,
            ),
        )

    @property
    def fraction(self) -> float:
        """0.0 to 1.0 of the walks are done."""
        return self._meter.whole(self._progress(), self.state)

    @property
    def _workers(self) -> Pool:
        assert self._pool is not None
        return self._pool

    # The loop.

    def _turn(self, timeout: float) -> None:
        for message in self._received(timeout):
            self._from_worker(message)
        while not self._mail.empty():
            self._take(self._mail.get())
        self._decide()
        if self.state not in ("starting", "draining"):
            self._start_walks()
            self._workers.dispatch(self._next_batch)
        self.tick()

    def _received(self, timeout: float) -> Iterator[FromWorker]:
        """Wait for something to come; what workers say is the caller's."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._control.wakened:
                self._control.drain_wakes()
            elif key.fileobj is self._observer:
                self._from_observer()
            else:
                yield from self._workers.receive(key.data)

    def _from_observer(self) -> None:
        assert self._observer is not None
        try:
            self.governor.observe(receive(self._observer))
        except (EOFError, OSError):
            # Somebody killed it: what cannot be felt must not be taken for calm.
            self._selector.unregister(self._observer)
            self._observer.close()
            self._observer = None
            self._observe_at = time.monotonic() + _OBSERVE_AGAIN_SECONDS

    def decide_anew(self) -> None:
        """Something was told to the governor: it decides at once."""
        self._decide_due = 0.0
        self._decide()

    def _decide(self) -> None:
        """Have the governor decide, a few times a second, and pass it on."""
        now = time.monotonic()
        if now < self._decide_due or self.state == "draining":
            return
        self._decide_due = now + _DECIDE_SECONDS
        if self._observer is None and self._observe_at and now >= self._observe_at:
            self._observe()
        decision = self.governor.decide(now, time.time(), self._meter.mean_payload)
        if decision == self._decision:
            return
        self._decision = decision
        self._throttle.set(decision.pace)
        self._gate.set(
            decision.scan_count, decision.batch_keys, decision.scans_in_flight, decision.wait
        )

    def _start_walks(self) -> None:
        """Start and end scanners, as the walks have it."""
        for name in self.walks.take_cancelled():
            self._cancels.pop(name).set()
        for walk in self.walks.starts():
            cancelled = self._cancels[walk.name] = threading.Event()
            partition = walk.partition
            Scanner(
                partition,
                walk.number,
                walk.frontier.cursor,
                self.run_ids.get(partition.place, ""),
                self._plan.scans[partition.side],
                self._shelf,
                self._gate,
                self._mailbox(cancelled),
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
        """The next one to be given out, if the governor allows any."""
        decision = self._decision
        assert decision is not None
        now = time.monotonic()
        if self._workers.in_flight >= decision.batches_in_flight or now < self._next_batch_at:
            return None
        while self._ready:
            batch = self._ready.popleft()
            self._room.release()
            if self.walks.is_issued(batch.id):
                self._next_batch_at = now + decision.wait
                return batch
        return None

    # Messages.

    def _take(self, message: FromScanner | Ended) -> None:
        if isinstance(message, Ended):
            self._from_fence(message)
        else:
            self._from_scanner(message)

    def _from_scanner(self, message: FromScanner) -> None:
        if isinstance(message, ScanTrouble):
            raise message.error
        name = message.partition, message.walk
        if not self.walks.is_present(name):
            if isinstance(message, Found) and message.keys:
                self._room.release()
            return
        match message:
            case Found():
                if batch := self.walks.found(message):
                    self._ready.append(batch)
            case Walked():
                self._cancels.pop(name)
                self.walks.walked(message.partition)
            case NodeChanged():
                self._node_changed(message)
            case CursorUnproven():
                self._cursor_unproven(message)

    def _from_worker(self, message: FromWorker) -> None:
        match message:
            case Ack():
                self._acknowledged(message)
            case Notice():
                self.warn(message.text)
            case Trouble():
                self._book_unfinished(message)
                raise message.error

    def _acknowledged(self, ack: Ack) -> None:
        walk = self.walks.acknowledged(ack)
        if walk is None:
            return  # it was started over
        if ack.large:
            self.largest.add(ack.large)
        if ack.failures:
            self.reasons.update(failure.reason for failure in ack.failures)
        self._overseer.acknowledged(walk, ack)

    def _book_unfinished(self, trouble: Trouble) -> None:
        """Count the keys, but leave the batches unsettled."""
        for batch, counts in trouble.unfinished.items():
            self.walks.count_unfinished(batch, counts)

    # Dead workers.

    def _end_connections(self, worker: str) -> None:
        """End a dead worker's connections to the target, in a thread: it may take a while."""
        fence = self.fence
        assert fence

        def end() -> None:
            try:
                self._mail.put(Ended(worker, fence.worker(worker)))
            except RumpxError as error:
                self._mail.put(Ended(worker, "unknown", error))
            self._control.wake()

        threading.Thread(target=end, name="fence", daemon=True).start()

    def _from_fence(self, message: Ended) -> None:
        if message.error:
            raise message.error
        batches = self._workers.fenced(message.worker)
        if message.left != "nothing":
            keys = [(batch.db, key) for batch in batches for key in batch.keys]
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
            name = str(self._plan.job.source if side == "source" else self._plan.job.target)
            raise unusable(side)(
                f"The {side}'s node {walk.partition.node.label(name)} "
                f"changed its identity {_MOST_WALKS} times during the walk of one partition. "
                f"Give a server behind no load balancer, or give {flag}."
            )
        self._overseer.started_over(len(changed), walk.partition.node, "node changed")

    def _refuse_balancer(self, where: tuple[Side, Node], run_id: str) -> None:
        """A server that restarts never has an earlier run_id again; after a failover and back one
        may return, once."""
        side, node = where
        if node.address is not None or not run_id:
            return
        seen = self._processes.setdefault(side, Counter({self.run_ids.get((side, None), ""): 1}))
        seen[run_id] += 1
        if seen[run_id] > _MOST_RETURNS:
            job = self._plan.job
            name = str(job.source if side == "source" else job.target)
            raise unusable(side)(balancer_words(side, name))

    def _cursor_unproven(self, message: CursorUnproven) -> None:
        walk = self.walks.get(message.partition)
        assert walk
        self.walks.cursor_unproven(walk.id)
        self._overseer.started_over(1, walk.partition.node, "cursors unproven")

    # For overseers.

    def ask(self, question: Callable[[], T]) -> T:
        """Ask the servers something, again and again until `retry_for` is over."""
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
        """Ask something that takes long and passes the gate; once."""
        return self.meanwhile(lambda: question(self._gate))

    def meanwhile(self, question: Callable[[], T]) -> T:
        """Ask something in a thread, and turn the loop: a server that does not answer must not keep
        signals from being heeded. (The thread of a run that ends here ends with its process.)"""
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
        """All walks are settled: leave the servers' few places for clients to the checks."""
        self._workers.rest()

    def wait(self, seconds: float) -> None:
        """Turn the loop for a while, so that displays live and signals are seen."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(min(left, TICK))
            self.heed()

    def warn(self, text: str) -> None:
        """A sentence for the user, which also the Summary will have. One that comes again is shown
        when its number has grown tenfold."""
        self._warned[text] += 1
        number = self._warned[text]
        if str(number).strip("0") == "1":
            self._display.message(_times(text, number))

    @property
    def warnings(self) -> list[str]:
        """What was said so far, each sentence once, and how often."""
        return [_times(text, number) for text, number in self._warned.items()]

    # Ending.

    def heed(self) -> None:
        """End here if asked to stop.

        Raises:
            Interrupted: asked to.
            TimeOver: the time that it may take, or in which it may run, is over.
        """
        if self._control.stops:
            self._stop()
        if why := self._time_over():
            self._drain(f"{why}: waiting for batches in flight", 1)
            raise TimeOver(f"{why}; the rest is left for later.")

    def _time_over(self) -> str:
        limits, decision = self.governor.limits, self._decision
        if limits.exit_when_off and decision and self.governor.closed:
            return f"The run is {decision.reason}"
        longest = limits.max_duration
        if longest is not None and time.monotonic() - self._began > longest:
            return f"The run has taken the {longest:g} s of --max-duration"
        return ""

    def _stop(self) -> None:
        """Asked to stop: let what workers hold land; asked again: end at once."""
        self._drain("stopping: waiting for batches in flight; Ctrl-C again stops at once", 2)
        raise Interrupted("Stopped by a signal.", self._control.signal_number)

    def _drain(self, note: str, stops: int) -> None:
        """Let what is in flight land, whatever the rates, for a while, or until asked so often to
        stop. What has not landed then is unsettled, for this run's books and whoever resumes it."""
        self.state = "draining"
        self.note = note
        self._cancel_scanners()
        self._throttle.set(Pace(hurry=True))
        until = time.monotonic() + DRAIN_SECONDS
        while self._pool and self._pool.in_flight and self._control.stops < stops:
            if time.monotonic() > until:
                self.warn(
                    f"{self._pool.in_flight:,} batches in flight did not land within "
                    f"{DRAIN_SECONDS:g} s: they are left unsettled."
                )
                break
            self._pool.dispatch(lambda: None)
            self._turn(TICK)
        self.state = "stopped"
        self.tick(force=True)

    def give_up(self) -> None:
        """Trouble: let what workers hold land if that is soon, so that the counts are true."""
        self.state = "failed"
        self._throttle.set(Pace(hurry=True))
        if not self._pool:
            return
        self._cancel_scanners()
        self._pool.close()
        until = time.monotonic() + _LANDING_SECONDS
        while self._pool.in_flight and time.monotonic() < until and not self._control.stops:
            for message in self._received(TICK):
                if isinstance(message, Trouble):
                    self._book_unfinished(message)
                elif isinstance(message, Ack):
                    self._settle_late(message)
        self.tick(force=True)

    def _settle_late(self, ack: Ack) -> None:
        try:
            self._acknowledged(ack)
        except RumpxError:
            return  # the run ends with its first trouble

    def _cancel_scanners(self) -> None:
        for cancelled in self._cancels.values():
            cancelled.set()

    # Telling.

    def _held(self, now: float) -> Held:
        decision, governor = self._decision, self.governor
        return Held(
            decision.reason if decision else "",
            bool(decision and decision.off),
            governor.latency("source", now),
            governor.latency("target", now),
            tuple(dict.fromkeys(hold.by for hold in decision.holds)) if decision else (),
            governor.share,
            dict(governor.held_seconds),
        )

    def _nodes(self, now: float) -> tuple[NodeStat, ...]:
        job = self._plan.job
        stats = []
        for side, address in self.governor.nodes:
            latency, cpu, used = self.governor.node((side, address), now)
            label = str(job.source if side == "source" else job.target)
            stats.append(
                NodeStat(
                    side,
                    format_address(address) if address else label,
                    latency,
                    None if cpu is None else 100 * cpu,
                    used.memory if used else None,
                    used.max_memory if used else None,
                )
            )
        return tuple(sorted(stats, key=lambda stat: (stat.side, stat.label)))

    def _progress(self) -> list[Progress]:
        return [
            Progress(walk.partition, walk.frontier.cursor, walk.counts, walk.done)
            for walk in self.walks
        ]

    def tick(self, *, force: bool = False) -> None:
        """Show where the run stands, if that is due."""
        now = time.monotonic()
        wanted = self._control.take_report()
        if not (force or wanted or now >= self._next_tick):
            return
        snapshot = self.status()
        if wanted:
            self._display.now(snapshot)
        self._display.show(snapshot)
        self._overseer.tick(now, snapshot)
        # Thousands of partitions take a while to tell of, which must not be all that is done.
        took = time.monotonic() - now
        self._next_tick = now + max(TICK, _TELL_SHARE * took)


def _times(text: str, number: int) -> str:
    return text if number == 1 else f"{text} ({number:,} times)"


def _governor(plan: Plan) -> Governor:
    limits = plan.job.limits
    way = plan.source.clock.round_trip + plan.target.clock.round_trip
    return Governor(
        Full.of(plan.tuning, plan.job.workers, way),
        limits,
        parse_timetable(limits.schedule, limits.time_zone) if limits.schedule else None,
    )
