"""The backend that does walks on a Dask cluster: one task a walk.

The coordinator remains the only owner of the books. A task finds and settles the keys of its walk
and reports how far it has come (`task`); reports are booked in their order, so that a walk whose
task is lost goes on elsewhere from the last booked cursor.

- **Which task works.** Dask starts a lost task again by itself, with its old arguments. So each
  start has a token; one token a task is accepted, and a start that is not accepted ends before it
  scans. A second start shows that the first one is lost.
- **Which servers it reaches.** A start names the `run_id` of every node, as its machine reaches it.
  One that differs from the plan's, and from what the coordinator reads now, is another server: that
  ends the run. A worker that does not reach a node, or is refused there, is left out.
- **The lease.** Orders renew it every two seconds, and count from the time at which they are sent,
  however late they are delivered. A lost task may still run behind a broken network, until its
  lease is over. Only then are its connections to the target ended (`Hooks.buried`), and its walk
  continues elsewhere.
- **Three losses** of one walk: it is set aside, and the run ends once all others are done.
- **Limits** are shared out among the tasks, by the orders.

Not promised: that a network whose fastest message takes longer than `_LEAST_DELAY` does not prolong
a lease.
"""

from __future__ import annotations

import asyncio
import math
import queue
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

from rumpx.engine.backend import Hooks, WalkOrder
from rumpx.engine.events import Advanced, Event, WalkName
from rumpx.engine.plan import Plan
from rumpx.engine.pool import DEATHS
from rumpx.errors import RumpxError, Side, TemporaryError, UsageError, unusable
from rumpx.model.endpoint import Address, format_address
from rumpx.model.nodes import Node
from rumpx.model.snapshot import WorkerStat
from rumpx.remote import task as remote
from rumpx.remote.cluster import Cluster, Member, lost, refuse_unfit, scheduler_of
from rumpx.remote.lease import LEASE_SECONDS
from rumpx.remote.messages import (
    RENEW_SECONDS,
    Done,
    Hello,
    Identity,
    Orders,
    Reported,
    Secrets,
    Usage,
    WalkTask,
    unpack,
)
from rumpx.servers.dial import Dialer
from rumpx.servers.side import SideFacts
from rumpx.throttle.decision import Decision
from rumpx.throttle.rates import Pace, Throttle
from rumpx.transfer.messages import Batch
from rumpx.units import count_of

# Orders are sent at most this often.
_ORDERS_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.25
_REST_SECONDS: Final = 2.0
_SUBMIT_SECONDS: Final = 10.0
# A task that does not start is submitted again after so long, so often for all walks together.
_AGAIN_SECONDS: Final = 1.0
_MOST_MISSTARTS: Final = 100
# A worker that does not reach a node which this machine reaches, so often in a row, is left out.
_MOST_REFUSALS: Final = 3
_VERDICT_SECONDS: Final = 5.0
# The fastest message from here to a worker takes less.
_LEAST_DELAY: Final = 1.0
# From the loss of a task until its lease is certainly over.
_LOST_SECONDS: Final = LEASE_SECONDS + _LEAST_DELAY


_NO_USAGE: Final = Usage(0.0, 0, 0)


@dataclass(eq=False, slots=True)
class _Task:
    """One submission of a walk.

    Attributes:
        cursor: of the last booked report; the walk continues from there.
        walked: that report was the walk's last one.
        token, writer, worker, host, pid: of the start that was accepted.
        booked: reports booked, and so the number of the next one.
        dropped: the walk has started over, or the task was lost: its result does not count.
        allowed: the workers that may take it.
    """

    number: int
    order: WalkOrder
    cursor: int
    allowed: frozenset[str] = frozenset()
    token: str = ""
    writer: str = ""
    worker: str = ""
    host: str = ""
    pid: int = 0
    booked: int = 0
    dropped: bool = False
    walked: bool = False

    @property
    def rest(self) -> WalkOrder:
        """What is left of the walk."""
        walked = self.order.walked or self.walked
        return replace(self.order, cursor=self.cursor, walked=walked)


@dataclass(slots=True)
class _Mourning:
    """A lost task, until its lease is over and its connections have ended; or one that did not
    start, until the next try."""

    task: _Task
    until: float
    fencing: bool = False


@dataclass(slots=True)
class _Facts:
    told: dict[str, Any]


@dataclass(slots=True)
class _Finished:
    number: int
    result: Done | BaseException


class DaskBackend:
    """A Dask cluster: a Backend.

    Args:
        plan: the work; its job names the scheduler.
    """

    given: Final = "walks"

    def __init__(self, plan: Plan) -> None:
        self.pacer = Throttle()
        self.restarts = 0
        self.dropped = False
        self._plan = plan
        self._job = plan.job
        self._writer = plan.target.dialer.writer
        self._run = self._writer or f"rumpx:{plan.source.dialer.endpoint}:{time.time_ns()}"
        self._secrets = secrets_of(plan)
        self._sides: dict[Side, SideFacts] = {"source": plan.source, "target": plan.target}
        self._hooks: Hooks
        self._cluster: Cluster
        self._started = False
        self._members: tuple[Member, ...] = ()
        self._asked: set[str] = set()  # only the loop's thread
        self._known: set[str] = set()
        self._left_out: set[str] = set()
        self._numbers, self._messages = count(), count()
        self._tasks: dict[int, _Task] = {}
        self._mourned: dict[int, _Mourning] = {}
        self._usages: dict[tuple[str, int], Usage] = {}
        self._deaths: dict[WalkName, int] = {}
        self._misstarts = 0
        self._refusals: dict[str, int] = {}
        self._verdicts: dict[tuple[Side, Address | None], tuple[float, str | None]] = {}
        self._aside: list[_Task] = []
        self._ended: set[str] = set()
        self._decision: Decision | None = None
        self._stopping = self._closing = False
        self._mail: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._orders = self._make_orders()
        self._changed = asyncio.Event()
        self._hasty: set[str] = set()
        self._awake = self._working = False
        self._worked = 0.0

    # The frame.

    def start(self, workers: int, hooks: Hooks) -> None:
        """See `Backend.start`."""
        self._hooks = hooks
        self._cluster = Cluster(scheduler_of(self._job), self._job.connect_timeout)
        self._started, self._worked = True, time.monotonic()
        hooks.gate.calm.by_pausing = False  # tasks report the end of their batches too late
        hooks.selector.register(self._wakes, selectors.EVENT_READ, self)
        self._cluster.call(self._subscribe, _SUBMIT_SECONDS)
        self._cluster.spawn(self._renew)

    async def _subscribe(self) -> None:
        self._members = await self._cluster.members()
        self._known = {member.address for member in self._members}  # `inspect` has just asked
        self._asked = set(self._known)
        self._cluster.client.subscribe_topic(self._run, self._from_task)

    async def _from_task(self, event: tuple[float, Any]) -> None:
        if message := unpack(event[1]):
            self._put(message)

    def _put(self, message: Any) -> None:
        """Take a message in any thread."""
        self._mail.put(message)
        with suppress(BlockingIOError):
            self._waker.send(b"!")

    async def _renew(self) -> None:
        """Send orders, at once when they change, and at least every RENEW_SECONDS."""
        at, looked = -math.inf, time.monotonic()
        self._cluster.spawn(self._wake)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_SECONDS)
            if self._cluster.lost:
                self._put(lost(self._cluster.address))
                return
            now = time.monotonic()
            if now - looked >= RENEW_SECONDS:
                looked = now
                self._cluster.spawn(self._look)
            if not self._changed.is_set() and now - at < RENEW_SECONDS:
                continue
            self._changed.clear()
            at, orders = now, self._orders
            self._cluster.spawn(lambda orders=orders: self._send(orders))  # type: ignore[misc]
            await asyncio.sleep(_ORDERS_SECONDS)

    async def _send(self, orders: Orders, workers: list[str] | None = None) -> None:
        # A worker that hangs does not answer; the others must not wait for it.
        orders = replace(orders, sent=time.monotonic())
        with suppress(Exception):
            client = self._cluster.client
            run = client.run(remote.obey, orders, workers=workers, on_error="ignore")
            await asyncio.wait_for(run, LEASE_SECONDS)

    async def _wake(self) -> None:
        """Wait until the workers have imported what tasks need."""
        spec = self._plan.spec.at(bare)
        with suppress(Exception):  # as `_send`
            run = self._cluster.client.run(remote.prepare, spec, on_error="ignore")
            await asyncio.wait_for(run, LEASE_SECONDS)
        self._awake = True
        self._put(None)

    async def _look(self) -> None:
        """Learn which workers there are, and ask new ones for their versions."""
        with suppress(Exception):
            members = await asyncio.wait_for(self._cluster.members(), LEASE_SECONDS)
            self._put(members)
            for address in {member.address for member in members} - self._asked:
                self._asked.add(address)
                self._cluster.spawn(lambda a=address: self._ask(a))  # type: ignore[misc]

    async def _ask(self, address: str) -> None:
        try:
            told = await asyncio.wait_for(self._cluster.facts([address]), LEASE_SECONDS)
            self._put(_Facts(told))
        except Exception:
            self._asked.discard(address)  # it has gone, or the next look asks again

    # What the engine asks.

    @property
    def walks_at_once(self) -> int:
        """See `Backend.walks_at_once`: a walk a thread, and one a worker that waits."""
        places = sum(member.threads + 1 for member in self._able())
        return places + len(self._aside) if places else 0  # those are under way for the engine

    def _able(self) -> list[Member]:
        """Return the workers that get walks."""
        able = self._known - self._left_out
        return [member for member in self._members if member.address in able]

    @property
    def awake(self) -> bool:
        """See `Backend.awake`."""
        return self._awake

    @property
    def in_flight(self) -> int:
        """The walks that were given out and are not done."""
        return len(self._tasks) + len(self._mourned)

    @property
    def batches(self) -> int:
        """See `Workload.batches`: as of the last report of each worker."""
        return sum(stat.batches for stat in self.stats())

    def stats(self) -> tuple[WorkerStat, ...]:
        """See `Backend.stats`."""
        processes = {(task.host, task.pid) for task in self._tasks.values() if task.pid}
        used = [(one, self._usages.get(one, _NO_USAGE)) for one in sorted(processes)]
        return tuple(
            WorkerStat(pid, usage.cpu, usage.memory, usage.batches, host)
            for (host, pid), usage in used
        )

    def obey(self, decision: Decision) -> None:
        """See `Backend.obey`."""
        self._decision = decision
        self.pacer.set(decision.pace)
        self._tell()

    def hurry(self) -> None:
        """See `Backend.hurry`."""
        self._stopping = True
        self.pacer.set(Pace(hurry=True))
        self._tell()

    def walk(self, order: WalkOrder) -> None:
        """See `Backend.walk`."""
        self._submit(order)

    def end_walk(self, name: WalkName) -> None:
        """See `Backend.end_walk`."""
        lost = [mourning.task for mourning in self._mourned.values()]
        for task in [*self._tasks.values(), *lost]:
            if task.order.name == name:
                task.dropped = True
                self._ended.add(task.token)
        self._aside = [task for task in self._aside if task.order.name != name]
        self._tell()

    def end_walks(self) -> None:
        """See `Backend.end_walks`."""
        self._stopping = True
        self._tell()

    def give(self, batch: Batch | None) -> None:
        """Never called: tasks settle their keys."""
        raise AssertionError("A task reports settled keys only.")

    def turn(self, is_issued: Callable[[int], bool]) -> None:
        """See `Backend.turn`: let walks of lost tasks go on, once their lease is over."""
        now = time.monotonic()
        for mourning in list(self._mourned.values()):
            if now < mourning.until or mourning.fencing:
                continue
            mourning.fencing = True
            if mourning.task.writer:  # it was accepted
                self._hooks.buried(mourning.task.writer)
            else:
                self._walk_on(mourning.task.number)
        if self._stopping or not self._started:  # a comparison asks questions first
            return
        self._refuse_solitude(now)
        if self._aside and not self.in_flight and self.walks_at_once:
            raise TemporaryError(
                f"{len(self._aside)} walks lost their Dask workers {DEATHS} times each, and were "
                "set aside; all others are done. Resume the job with --engine local, which finds "
                "the key at fault, if one is."
            )

    def _refuse_solitude(self, now: float) -> None:
        """End the run if there has been no worker for too long."""
        if self.walks_at_once:
            self._worked = now
        elif now - self._worked > self._job.retry_for:
            raise TemporaryError(
                f"The Dask scheduler at {self._cluster.address} has had no workers for "
                f"{self._job.retry_for:g} s. Start some, then resume."
            )

    def due(self, now: float) -> float:
        """See `Backend.due`."""
        return min((m.until for m in self._mourned.values() if not m.fencing), default=math.inf)

    def fenced(self, writer: str) -> None:
        """See `Backend.fenced`; the keys that were in flight are not known here."""
        for number, mourning in self._mourned.items():
            if mourning.task.writer == writer:
                self._walk_on(number)
                return

    def _walk_on(self, number: int) -> None:
        """Let the walk of a lost task continue, unless it has started over."""
        task = self._mourned.pop(number).task
        if task.dropped:
            return
        if self._closing or self._stopping:
            self.dropped = True
        elif self._deaths.get(task.order.name, 0) >= DEATHS:
            self._aside.append(task)
        else:
            self._submit(task.rest)

    def rest(self) -> None:
        """See `Backend.rest`."""
        orders = replace(self._make_orders(), rest=True)
        with suppress(TemporaryError):  # a worker that hangs
            self._cluster.call(lambda: self._send(orders), _REST_SECONDS)

    def close(self) -> None:
        """See `Backend.close`."""
        self._closing = True

    def stop(self) -> None:
        """See `Backend.stop`."""
        self._leave()

    def kill(self) -> None:
        """See `Backend.kill`. Tasks that do not end have no lease any more when this returns."""
        self._stopping = self._closing = True
        self._tell()
        over = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < max(
            [over if self._tasks else 0.0, *(m.until for m in self._mourned.values())]
        ):
            with suppress(RumpxError):  # the run ends with its first error
                deque(self.receive(self), maxlen=0)
            time.sleep(_ORDERS_SECONDS)
        self._leave()

    def _leave(self) -> None:
        if self._started:
            self.rest()
            self._hooks.selector.unregister(self._wakes)
            self._cluster.close()
        self._wakes.close()
        self._waker.close()
        self.pacer.close()

    # Orders.

    def _tell(self) -> None:
        self._orders = self._make_orders()
        if self._started:
            self._cluster.soon(self._changed.set)

    def _tell_hasty(self) -> None:
        """Tell workers whose tasks wait to be accepted, at once; all others soon."""
        workers, self._hasty = list(self._hasty), set()
        self._tell()
        orders = self._orders
        self._cluster.spawn(lambda: self._send(orders, workers))

    def _make_orders(self) -> Orders:
        """Return the orders of this moment: the decision, shared out."""
        working = [task for task in self._tasks.values() if task.token]
        received = {task.token: task.booked for task in working}
        able = tuple(task.token for task in working)
        number = next(self._messages)
        decision = self._decision
        if decision is None or self._stopping:
            pace = Pace(hurry=self._stopping)
            # No lease is renewed once the run waits for results only.
            accepted = frozenset(() if self._closing else able)
            return Orders(
                self._run, number, pace, 1000, {}, 1000, {}, 0.0, accepted,
                frozenset(self._ended), received, self._stopping,
            )  # fmt: skip
        share = max(1, len(able))
        pace = decision.pace
        keys, payload, ops = (rate / share for rate in pace.rates)
        return Orders(
            self._run,
            number,
            replace(pace, keys=keys, payload=payload, ops=ops),
            decision.scan_count,
            shares(decision.scans_in_flight, able),
            decision.batch_keys,
            shares(decision.batches_in_flight, able),
            decision.wait * share,
            frozenset(able),
            frozenset(self._ended),
            received,
        )

    # Tasks.

    def _submit(self, order: WalkOrder) -> None:
        number, able = next(self._numbers), self._able()
        # Else Dask gives work to a worker that has just joined; one without rumpx ends by that.
        allowed = frozenset(member.address for member in able)
        task = _Task(number, order, order.cursor, allowed)
        self._tasks[number] = task
        settings = self._plan.scans[order.partition.side]
        sent = WalkTask(
            self._run,
            number,
            order,
            replace(settings, dialer=bare(settings.dialer)),
            self._plan.spec.at(bare),
            nodes_of(self._plan),
            self._writer,
            self._secrets,
        )
        if allowed:  # else `_move_on` submits it
            self._cluster.spawn(lambda: self._run_task(number, sent, allowed))
        if not self._working:
            self._working = True
            self._hooks.gate.calm.enter(time.monotonic())

    async def _run_task(self, number: int, task: WalkTask, allowed: frozenset[str]) -> None:
        try:
            future = self._cluster.client.submit(
                remote.run_walk,
                task,
                key=f"{self._run}-{number}",
                pure=False,
                retries=0,
                workers=sorted(allowed),
                allow_other_workers=False,
            )
            self._put(_Finished(number, await future))
        except asyncio.CancelledError as error:
            self._put(_Finished(number, error))
        except Exception as error:
            self._put(_Finished(number, error))

    def receive(self, ready: Any) -> Iterator[Event]:
        """See `Backend.receive`."""
        with suppress(BlockingIOError):
            self._wakes.recv(4096)
        try:
            while not self._mail.empty():
                yield from self._take(self._mail.get())
        finally:
            if not self._mail.empty():  # after an error
                self._put(None)
        if self._hasty:
            self._tell_hasty()
        if self._working and not self.in_flight:
            self._working = False
            self._hooks.gate.calm.leave(time.monotonic())

    def _take(self, message: Any) -> Iterator[Event]:
        match message:
            case Hello() as hello:
                self._greeted(hello)
            case Reported() as reported:
                yield from self._booked(reported)
            case _Finished() as finished:
                yield from self._finished(finished)
            case tuple() as members:
                self._met(members)
            case _Facts() as facts:
                self._checked(facts.told)
            case RumpxError() as error:
                raise error

    def _greeted(self, hello: Hello) -> None:
        task = self._tasks.get(hello.number)
        if task is None or task.dropped or self._stopping:
            self._ended.add(hello.token)
        elif task.token and task.token != hello.token:
            self._ended.add(hello.token)
            self._mourn(task, "was started again elsewhere")
        elif barred := self._barred(hello):
            self._ended.add(hello.token)
            self._refused(task, hello, barred)
        else:
            self._refuse_others(hello)
            self._misstarts = 0
            self._refusals.pop(hello.worker, None)
            task.token, task.worker, task.writer = hello.token, hello.worker, hello.writer
            task.host, task.pid = hello.host, hello.pid
        self._hasty.add(hello.worker)

    def _refuse_others(self, hello: Hello) -> None:
        """Raise if a worker reaches other servers than the coordinator."""
        for one in hello.identities:
            side, node = self._sides[one.side], self._node(one)
            planned = side.run_id(one.address)
            if one.trouble or not planned or one.run_id == planned:
                continue
            now = self._identity_now(one)
            if now is not None and now != one.run_id:  # else the walk itself will notice a change
                raise UsageError(
                    f"The Dask worker {hello.worker} on {hello.host} reaches another server for "
                    f"{node.label(str(side.dialer.endpoint))} of the {one.side} than this machine "
                    "does. Give an address that is the same everywhere."
                )

    def _barred(self, hello: Hello) -> Identity | None:
        """Return a node that a worker does not reach, and this machine does. (One that is down for
        both is the walk's to wait for.)"""
        for one in hello.identities:
            if not one.trouble:
                continue
            if not isinstance(one.trouble, TemporaryError) or self._identity_now(one) is not None:
                return one
        return None

    def _identity_now(self, one: Identity) -> str | None:
        """Return the `run_id` of a node, as this machine reaches it; None if it does not. The
        answer holds for some seconds, since to dial a dead node takes a while."""
        name, now = (one.side, one.address), time.monotonic()
        asked, told = self._verdicts.get(name, (-math.inf, None))
        if now - asked > _VERDICT_SECONDS:
            told = None
            with suppress(TemporaryError):
                told = self._sides[one.side].identity_now(self._node(one))
            self._verdicts[name] = time.monotonic(), told
        return told

    def _node(self, one: Identity) -> Node:
        nodes = self._sides[one.side].topology.nodes
        return next(node for node in nodes if node.address == one.address)

    def _refused(self, task: _Task, hello: Hello, barred: Identity) -> None:
        """Start the task again after a pause: a node that restarts may serve this machine, and not
        have served the worker a moment before. A worker that reports it several times in a row is
        left out."""
        refusals = self._refusals[hello.worker] = self._refusals.get(hello.worker, 0) + 1
        if isinstance(barred.trouble, TemporaryError) and refusals < _MOST_REFUSALS:
            del self._tasks[task.number]
            self._mourned[task.number] = _Mourning(task, time.monotonic() + _AGAIN_SECONDS)
        else:
            self._leave_out(task, hello, barred)

    def _leave_out(self, task: _Task, hello: Hello, barred: Identity) -> None:
        """Give the task to other workers from now on."""
        if hello.worker not in self._left_out:
            self._left_out.add(hello.worker)
            self._hooks.announce(
                f"The Dask worker {hello.worker} on {hello.host} is left out: {barred.trouble}"
            )
        if not self.walks_at_once:
            raise _unreached(barred)
        del self._tasks[task.number]
        self._submit(task.rest)

    def _booked(self, reported: Reported) -> Iterator[Event]:
        """Yield a report, if it is the next one of its task."""
        task = self._tasks.get(reported.number)
        if task is None or task.token != reported.token or task.dropped:
            return
        self._usages[task.host, task.pid] = reported.usage
        if reported.sequence != task.booked:
            return  # it will be sent again, or was booked already
        task.booked += 1
        if isinstance(reported.report, Advanced):
            self._advanced(task, reported.report)
        yield reported.report

    def _advanced(self, task: _Task, event: Advanced) -> None:
        if event.cursor != task.cursor:
            self._deaths.pop(task.order.name, None)
        elif not event.ack.counts.settled:
            return  # only keys beyond the cursor
        task.cursor = event.cursor
        task.walked = task.order.partition.span.ended(event.cursor)

    def _finished(self, finished: _Finished) -> Iterator[Event]:
        task, done = self._tasks.get(finished.number), finished.result
        if isinstance(done, Done):
            self._ended.discard(done.token)
        if task is None:
            return
        if not isinstance(done, Done):
            if self._cluster.lost:
                raise lost(self._cluster.address)
            if task.token:
                self._mourn(task, f"ended ({type(done).__name__})")
            else:
                self._misstarted(task, done)
            return
        if task.dropped:
            del self._tasks[task.number]
            return
        if done.token != task.token:
            self._ended_unaccepted(task)
            return
        for reported in done.rest:
            yield from self._booked(reported)
        if done.lapsed and not self._stopping:
            self._mourn(task, "had no orders for too long")
            return
        del self._tasks[task.number]
        self.dropped |= done.lapsed
        if done.error:
            raise done.error
        if finish := done.finish:
            if finish.last:
                yield finish.last
            if finish.ending:
                yield finish.ending

    def _misstarted(self, task: _Task, error: BaseException) -> None:
        """Submit a walk again whose task did not start: its worker has died, or is one that does
        not fit, and is left out once it is known."""
        self._misstarts += 1
        if self._misstarts > _MOST_MISSTARTS:
            raise TemporaryError(f"Tasks do not start on the Dask workers: {error!r}.")
        del self._tasks[task.number]
        self._mourned[task.number] = _Mourning(task, time.monotonic() + _AGAIN_SECONDS)

    def _ended_unaccepted(self, task: _Task) -> None:
        """Note the end of a start that was not accepted, and so did nothing."""
        if task.token:
            self._mourn(task, "was started again elsewhere")
            return
        del self._tasks[task.number]
        if not self._stopping:
            self._submit(task.rest)

    def _mourn(self, task: _Task, why: str) -> None:
        """Note a lost task; its walk goes on once its lease is over."""
        del self._tasks[task.number]
        self._ended.add(task.token)
        self.restarts += 1
        name = task.order.name
        self._deaths[name] = self._deaths.get(name, 0) + 1
        self._mourned[task.number] = _Mourning(task, time.monotonic() + _LOST_SECONDS)
        self._hooks.announce(
            f"A task on the Dask worker {task.worker or '(unknown)'} was lost: it {why}. Its walk "
            "goes on elsewhere from its last cursor."
        )
        self._tell()

    def _met(self, members: tuple[Member, ...]) -> None:
        """Note which workers there are now."""
        before = {member.address for member in self._members}
        now = {member.address for member in members}
        self._members = members
        for addresses, what in (now - before, "Joined"), (before - now, "Gone"):
            if addresses:
                named = count_of(len(addresses), "Dask worker")
                self._hooks.announce(f"{what}: {named} ({', '.join(sorted(addresses)[:3])}).")
        for task in list(self._tasks.values()):
            if task.worker and task.worker not in now:
                self._mourn(task, "has gone with its worker")
        self._move_on()
        self._tell()  # so that reports are acknowledged

    def _move_on(self) -> None:
        """Give tasks to other workers if none is left of those that may take them."""
        able = {member.address for member in self._able()}
        for task in list(self._tasks.values()):
            if able and not task.token and not task.allowed & able:
                del self._tasks[task.number]
                self._submit(task.rest)

    def _checked(self, told: dict[str, Any]) -> None:
        """Note the facts of workers that have joined; leave out those that do not fit."""
        for address, facts in told.items():
            self._known.add(address)
            try:
                refuse_unfit(self._job, {address: facts})
            except UsageError as error:
                self._left_out.add(address)
                self._hooks.announce(f"The Dask worker {address} is left out: {error}")
        self._move_on()


def _unreached(one: Identity) -> RumpxError:
    name = format_address(one.address) if one.address else "it"
    return unusable(one.side)(
        f"No Dask worker reaches the {one.side} ({name}) as it must: {one.trouble} Workers take "
        "passwords from RUMPX_FROM_PASSWORD and RUMPX_TO_PASSWORD of their own environment."
    )


def shares(batches: int, tokens: tuple[str, ...]) -> dict[str, int]:
    """Return how many of the batches each task may have in flight: evenly, the first ones more; so
    with fewer batches than tasks some rest."""
    if not tokens:
        return {}
    each, more = divmod(batches, len(tokens))
    return {token: each + (n < more) for n, token in enumerate(tokens)}


def bare(dialer: Dialer) -> Dialer:
    """Return a dialer without passwords, and without what only this machine has."""
    endpoint = dialer.endpoint
    tls = endpoint.tls and replace(endpoint.tls, ca=None)
    endpoint = replace(endpoint, password=None, sentinel_password=None, tls=tls)
    return replace(dialer, endpoint=endpoint, redials=None, writer="")


def nodes_of(plan: Plan) -> tuple[tuple[Side, Node, str], ...]:
    """Return all nodes that tasks reach, as `WalkTask.nodes`."""
    return tuple(
        (side.dialer.side, node, side.run_id(node.address))
        for side in (plan.source, plan.target)
        for node in side.topology.nodes
    )


def secrets_of(plan: Plan) -> Secrets:
    """Return what tasks need beside their settings.

    Raises:
        UsageError: a certificate's file cannot be read; passwords may not be sent.
    """
    passwords: dict[tuple[Side, str], str] = {}
    authorities: dict[Side, bytes] = {}
    for side in (plan.source, plan.target):
        endpoint, name = side.dialer.endpoint, side.dialer.side
        if endpoint.tls and endpoint.tls.ca:
            try:
                authorities[name] = Path(endpoint.tls.ca).read_bytes()
            except OSError as error:
                raise UsageError(f"{endpoint.tls.ca} cannot be read: {error.strerror}.") from None
        if plan.job.dask_send_passwords:
            for kind in ("password", "sentinel_password"):
                if (word := getattr(endpoint, kind)) is not None:
                    passwords[name, kind] = word
    return Secrets(passwords, authorities)
