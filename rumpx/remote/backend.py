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

import math
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

from rumpx.engine.backend import Hooks, WalkOrder
from rumpx.engine.events import Advanced, Event, WalkName
from rumpx.engine.plan import Plan
from rumpx.engine.pool import DEATHS
from rumpx.errors import RumpxError, TemporaryError, UsageError
from rumpx.model.snapshot import WorkerStat
from rumpx.remote.cluster import Member, lost, refuse_unfit
from rumpx.remote.exchange import ORDERS_SECONDS, Exchange, Facts, Finished, Message
from rumpx.remote.identities import Identities, unreached
from rumpx.remote.lease import LEASE_SECONDS
from rumpx.remote.members import Members
from rumpx.remote.messages import Done, Hello, Identity, Orders, Reported, Usage, WalkTask
from rumpx.remote.orders import free_orders, orders_of
from rumpx.remote.settings import bare, nodes_of, secrets_of
from rumpx.throttle.decision import Decision
from rumpx.throttle.rates import Pace, Throttle
from rumpx.transfer.messages import Batch
from rumpx.units import count_of

# A task that does not start is submitted again after so long, so often for all walks together.
_AGAIN_SECONDS: Final = 1.0
_MOST_MISSTARTS: Final = 100
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
        self._hooks: Hooks
        self._exchange = Exchange(plan.job, self._run)
        self._members = Members()
        self._identities = Identities(plan)
        self._started = False
        self._numbers, self._messages = count(), count()
        self._tasks: dict[int, _Task] = {}
        self._mourned: dict[int, _Mourning] = {}
        self._usages: dict[tuple[str, int], Usage] = {}
        self._deaths: dict[WalkName, int] = {}
        self._misstarts = 0
        self._aside: list[_Task] = []
        self._ended: set[str] = set()
        self._decision: Decision | None = None
        self._stopping = self._closing = False
        self._hasty: set[str] = set()
        self._working = False
        self._worked = 0.0
        self._tell()

    # The frame.

    def start(self, workers: int, hooks: Hooks) -> None:
        """See `Backend.start`."""
        self._hooks = hooks
        self._started, self._worked = True, time.monotonic()
        hooks.gate.calm.by_pausing = False  # tasks report the end of their batches too late
        hooks.selector.register(self._exchange.wakes, selectors.EVENT_READ, self)
        self._members.met(self._exchange.open(self._plan.spec.at(bare)))
        self._members.know(self._members.addresses)  # `inspect` has just asked

    # What the engine asks.

    @property
    def walks_at_once(self) -> int:
        """See `Backend.walks_at_once`."""
        places = self._members.places
        return places + len(self._aside) if places else 0  # those are under way for the engine

    @property
    def awake(self) -> bool:
        """See `Backend.awake`."""
        return self._exchange.ready

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
                f"The Dask scheduler at {self._exchange.cluster.address} has had no workers for "
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
        self._exchange.tell_and_wait(replace(self._make_orders(), rest=True))

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
            time.sleep(ORDERS_SECONDS)
        self._leave()

    def _leave(self) -> None:
        if self._exchange.is_open:
            self.rest()
        if self._started:
            self._hooks.selector.unregister(self._exchange.wakes)
        self._exchange.close()
        self.pacer.close()

    # Orders.

    def _tell(self) -> None:
        self._exchange.tell(self._make_orders())

    def _tell_hasty(self) -> None:
        """Tell workers whose tasks wait to be accepted, at once; all others soon."""
        workers, self._hasty = list(self._hasty), set()
        self._tell()
        self._exchange.tell_at_once(workers)

    def _make_orders(self) -> Orders:
        """Return the orders of this moment."""
        booked = {task.token: task.booked for task in self._tasks.values() if task.token}
        run, number, decision = self._run, next(self._messages), self._decision
        if decision is None or self._stopping:
            stop, renew = self._stopping, not self._closing
            return free_orders(run, number, booked, self._ended, stop=stop, renew=renew)
        return orders_of(run, number, decision, booked, self._ended)

    # Tasks.

    def _submit(self, order: WalkOrder) -> None:
        number = next(self._numbers)
        # Else Dask gives work to a worker that has just joined; one without rumpx ends by that.
        allowed = self._members.able
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
            self._exchange.submit(sent, allowed)
        if not self._working:
            self._working = True
            self._hooks.gate.calm.enter(time.monotonic())

    def receive(self, ready: Any) -> Iterator[Event]:
        """See `Backend.receive`."""
        try:
            for message in self._exchange.messages():
                yield from self._take(message)
        finally:
            self._exchange.wake_for_rest()  # after an error
        if self._hasty:
            self._tell_hasty()
        if self._working and not self.in_flight:
            self._working = False
            self._hooks.gate.calm.leave(time.monotonic())

    def _take(self, message: Message) -> Iterator[Event]:
        match message:
            case Hello() as hello:
                self._greeted(hello)
            case Reported() as reported:
                yield from self._booked(reported)
            case Finished() as finished:
                yield from self._finished(finished)
            case tuple() as members:
                self._met(members)
            case Facts() as facts:
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
        elif barred := self._identities.barred(hello):
            self._ended.add(hello.token)
            self._refused(task, hello, barred)
        else:
            self._identities.refuse_others(hello)
            self._misstarts = 0
            self._members.accepted(hello.worker)
            task.token, task.worker, task.writer = hello.token, hello.worker, hello.writer
            task.host, task.pid = hello.host, hello.pid
        self._hasty.add(hello.worker)

    def _refused(self, task: _Task, hello: Hello, barred: Identity) -> None:
        """Start the task again after a pause, or on other workers."""
        passing = isinstance(barred.trouble, TemporaryError)
        if self._members.refused(hello.worker, passing=passing):
            self._leave_out(task, hello, barred)
        else:
            self._try_again(task)

    def _try_again(self, task: _Task) -> None:
        """Start a task again after a pause."""
        del self._tasks[task.number]
        self._mourned[task.number] = _Mourning(task, time.monotonic() + _AGAIN_SECONDS)

    def _leave_out(self, task: _Task, hello: Hello, barred: Identity) -> None:
        """Give the task to other workers from now on."""
        if self._members.leave_out(hello.worker):
            self._hooks.announce(
                f"The Dask worker {hello.worker} on {hello.host} is left out: {barred.trouble}"
            )
        if not self.walks_at_once:
            raise unreached(barred)
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

    def _finished(self, finished: Finished) -> Iterator[Event]:
        task, done = self._tasks.get(finished.number), finished.result
        if isinstance(done, Done):
            self._ended.discard(done.token)
        if task is None:
            return
        if not isinstance(done, Done):
            if self._exchange.cluster.lost:
                raise lost(self._exchange.cluster.address)
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
        self._try_again(task)

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
        joined, gone = self._members.met(members)
        now = self._members.addresses
        for addresses, what in (joined, "Joined"), (gone, "Gone"):
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
        able = self._members.able
        for task in list(self._tasks.values()):
            if able and not task.token and not task.allowed & able:
                del self._tasks[task.number]
                self._submit(task.rest)

    def _checked(self, told: dict[str, Any]) -> None:
        """Note the facts of workers that have joined; leave out those that do not fit."""
        self._members.know(told)
        for address, facts in told.items():
            try:
                refuse_unfit(self._job, {address: facts})
            except UsageError as error:
                self._members.leave_out(address)
                self._hooks.announce(f"The Dask worker {address} is left out: {error}")
        self._move_on()
