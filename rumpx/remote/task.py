"""A task: one walk, in a thread of a Dask worker.

1. It reaches every node once and says `Hello` with their identities. Only the coordinator can tell
   whether these are the servers that the plan was made for; it accepts the task's token, or not.
2. It does the walk (`engine.lone_walk`) and reports. Reports are events, which may be lost: a task
   keeps each until it is known to have arrived, and sends it again; at the end the rest is its
   result.
3. It works while its lease lasts. Each of the coordinator's orders that accepts it renews it. A
   worker does not see whether the coordinator lives: once the lease is over, no request takes a
   turn, and no new connection to the target is used. A lease counts from the time at which the
   orders were sent, and one that is over stays over: a process that hung finds old orders waiting,
   while its walk may be done elsewhere.

One `Run` a process holds what its tasks share: the rates, the gate, the identities. A
walk that has ended leaves its connections to the next one (`Tools`). They are closed when the
coordinator orders it, or when there has been no task for as long as a lease lasts.

Not promised: that requests in flight when the lease ends are not executed. The coordinator waits
for the lease, and then ends the connections (`engine.fence`).
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

import psutil

from rumpx.engine.lone_walk import LoneWalk, Report
from rumpx.engine.scanner import Shelf
from rumpx.errors import MachineLimit, RumpxError, Side, machine_limit
from rumpx.model.endpoint import Endpoint, read_password_file
from rumpx.model.nodes import Node
from rumpx.remote.lease import LEASE_SECONDS
from rumpx.remote.messages import (
    Done,
    Hello,
    Identity,
    Orders,
    Reported,
    Secrets,
    Usage,
    WalkTask,
    pack,
)
from rumpx.servers.dial import Dialer
from rumpx.servers.redials import Redials
from rumpx.servers.replicas import read_identity
from rumpx.servers.tls import flag_of
from rumpx.throttle.rates import Pace, Pacer, Throttle
from rumpx.throttle.scan_gate import Gate
from rumpx.transfer.handler import Handler, Spec
from rumpx.transfer.runner import Budget, Runner

# An unacknowledged report is sent again after so long.
_RESEND_SECONDS: Final = 5.0
_USAGE_SECONDS: Final = 1.0
_HELLO_SECONDS: Final = 2.0
# Clocks of two machines differ by less, in seconds a second.
_DRIFT: Final = 1e-3


class LeaseOver(RumpxError):
    """The coordinator has not renewed the lease: this task ends."""


class Lease:
    """The time for which a task may work. One that is over stays over."""

    def __init__(self) -> None:
        self._until = time.monotonic() + LEASE_SECONDS

    def lives(self) -> bool:
        """Return True while it lasts."""
        return time.monotonic() < self._until

    def renew(self, sent: float) -> None:
        """Prolong it, by orders that were sent at a time of this machine's monotonic clock."""
        if self.lives():
            self._until = max(self._until, sent + LEASE_SECONDS)

    def refuse_end(self) -> None:
        """Raise if it is over.

        Raises:
            LeaseOver: it is.
        """
        if not self.lives():
            raise LeaseOver("The coordinator has not been heard of for too long.")


class SenderClock:
    """The coordinator's monotonic clock, as this machine knows it: orders are at least as long
    under way as the fastest that ever came."""

    def __init__(self) -> None:
        self._ahead = math.inf
        self._heard = time.monotonic()

    def here(self, sent: float) -> float:
        """Return a time of the coordinator's, at which it sent orders that have come now, by this
        machine's clock."""
        now = time.monotonic()
        self._ahead = min(self._ahead + _DRIFT * (now - self._heard), now - sent)
        self._heard = now
        return sent + self._ahead


class Tenancy:
    """The lease of the task that uses a slot now."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def lives(self) -> bool:
        """See `Lease.lives`."""
        return self.lease.lives()


class LeasedPacer:
    """The rates of this process, for the task that uses a slot while its lease lasts."""

    def __init__(self, pacer: Pacer, tenancy: Tenancy) -> None:
        self.pace, self.take = pacer.pace, pacer.take
        self._turn = pacer.turn
        self._tenancy = tenancy

    def turn(self, *, keys: int = 0, payload: float = 0, ops: int = 0) -> Iterator[float]:
        """See `Pacer.turn`.

        Raises:
            LeaseOver: no more requests.
        """
        for seconds in self._turn(keys=keys, payload=payload, ops=ops):
            self._tenancy.lease.refuse_end()
            yield seconds
        self._tenancy.lease.refuse_end()


@dataclass(eq=False)
class _Working:
    """One task of this process: its reports, and its walk once it has started. It admits the
    walk's batches (`lone_walk.Admission`)."""

    run: Run
    number: int
    token: str
    send: Callable[[bytes], None]
    lease: Lease = field(default_factory=Lease)
    batches: int = 0
    wait: float = 0.0
    next_at: float = 0.0
    accepted: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    walk: LoneWalk | None = None
    sequence: int = 0
    kept: deque[tuple[float, Reported]] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allows(self, in_flight: int) -> bool:
        """See `Admission.allows`.

        Raises:
            LeaseOver: the lease is over.
        """
        self.lease.refuse_end()
        return in_flight < self.batches and time.monotonic() >= self.next_at

    def gave(self) -> None:
        """See `Admission.gave`."""
        self.next_at = time.monotonic() + self.wait

    def report(self, report: Report) -> None:
        """Send a report, and keep it until it has arrived."""
        usage = self.run.usage()
        with self.lock:
            message = Reported(self.number, self.token, self.sequence, report, usage)
            self.sequence += 1
            self.kept.append((time.monotonic(), message))
        self.send(pack(message))

    def received(self, number: int) -> None:
        """Note how many reports have arrived; send those again that seem lost."""
        now, again = time.monotonic(), []
        with self.lock:
            while self.kept and self.kept[0][1].sequence < number:
                self.kept.popleft()
            if self.kept and now - self.kept[0][0] > _RESEND_SECONDS:
                again = [message for _, message in self.kept]
                self.kept = deque((now, message) for message in again)
        for message in again:
            self.send(pack(message))

    def rest(self) -> tuple[Reported, ...]:
        """Return the reports that may not have arrived."""
        with self.lock:
            return tuple(message for _, message in self.kept)

    def end(self) -> None:
        """Have the walk end."""
        self.ended = True
        self.accepted.set()
        if self.walk:
            self.walk.stop()


@dataclass(frozen=True, slots=True)
class Slot:
    """Settles the batches of one walk at a time, over connections of its own; `writer` is the name
    of those to the target."""

    writer: str
    handler: Handler
    runner: Runner
    tenancy: Tenancy


class Tools:
    """What the tasks of a run use in this process: endpoints with this machine's passwords and
    certificates, and the slots of walks that have ended.

    Args:
        run: of these tasks.
        task: one of them.

    Raises:
        UsageError: a password's file cannot be read.
    """

    def __init__(self, run: Run, task: WalkTask) -> None:
        self._run = run
        self._files = contextlib.ExitStack()
        self._secured = self._files.enter_context(own_secrets(task.secrets))
        self._spec = task.spec.at(self.here)
        self._writer = task.writer and f"{task.writer}.{os.urandom(4).hex()}"
        self._numbers = count()
        self._free: list[Slot] = []
        self.dialers = self._spec.dialers

    def here(self, dialer: Dialer) -> Dialer:
        """Return a plan's dialer as one of this machine."""
        endpoint = self._secured(dialer.endpoint, dialer.side)
        return replace(dialer, endpoint=endpoint, redials=self._run.redials)

    def take(self, lease: Lease) -> Slot:
        """Return a slot that no walk uses, for the task of a lease."""
        with contextlib.suppress(IndexError):
            slot = self._free.pop()
            slot.tenancy.lease = lease
            return slot
        spec, writer, tenancy = self._spec, "", Tenancy(lease)
        if self._writer:
            writer = f"{self._writer}.{next(self._numbers)}"
            spec = spec.writing_as(writer, tenancy.lives)
        budget = Budget(spec.bytes_in_flight)
        pacer = LeasedPacer(self._run.pacer, tenancy)
        return Slot(writer, spec.build(budget, pacer), Runner(budget), tenancy)

    def put(self, slot: Slot) -> None:
        """Keep a slot, of which nothing is in flight, for another walk."""
        self._free.append(slot)

    def close(self) -> None:
        """Close all free slots; call it when no walk has one."""
        for slot in self._free:
            slot.handler.close()
        self._files.close()


class Run:
    """The tasks of one run in this process.

    Attributes:
        pacer, gate, shelf: as in a coordinator, for these tasks.
    """

    def __init__(self) -> None:
        self.pacer = Throttle()
        self.gate = Gate(self.pacer, 1000, 1000)
        self.shelf = Shelf()
        self.redials = Redials()
        self._clock = SenderClock()
        self._heard = time.monotonic()
        self._number = -1
        self._tasks: dict[str, _Working] = {}
        self._lock = threading.Lock()
        self._tools: Tools | None = None
        self._leave = threading.Timer(0.0, self._let_go)
        self._asking = threading.Lock()
        self._identities: tuple[Identity, ...] | None = None
        self._process = psutil.Process()
        self._usage = Usage(self._process.cpu_percent(), 0, 0)
        self._usage_due = 0.0

    @property
    def over(self) -> bool:
        """True if it has no task, and no coordinator."""
        return not self._tasks and time.monotonic() - self._heard > LEASE_SECONDS

    def obey(self, orders: Orders) -> None:
        """Take the coordinator's orders."""
        sent = self._clock.here(orders.sent)
        if orders.number < self._number:
            return
        self._number = orders.number
        self._heard = time.monotonic()
        with self._lock:
            tasks = list(self._tasks.values())
        share = sum(task.token in orders.accepted for task in tasks) or 1
        self.pacer.set(shared(orders.pace, share))
        scans = sum(orders.scans.get(task.token, 0) for task in tasks)
        self.gate.set(orders.scan_count, orders.batch_keys, scans, orders.wait / share)
        for task in tasks:
            if task.token in orders.accepted or not task.accepted.is_set():
                task.lease.renew(sent)
            task.received(orders.received.get(task.token, 0))
            task.batches, task.wait = orders.batches.get(task.token, 0), orders.wait
            if orders.stop or task.token in orders.ended:
                task.end()
            elif task.token in orders.accepted:
                task.accepted.set()
        if orders.rest:
            self._let_go()

    def add(self, task: _Working) -> None:
        """Note a task that has started."""
        with self._lock:
            self._leave.cancel()
            self._tasks[task.token] = task

    def remove(self, task: _Working) -> None:
        """Note a task that has ended. If it was the last one, what they shared is kept for a while,
        for the next one; but not if its lease was over."""
        with self._lock:
            del self._tasks[task.token]
            if not self._tasks:
                kept = LEASE_SECONDS if task.lease.lives() else 0.0
                self._leave = threading.Timer(kept, self._let_go)
                self._leave.daemon = True
                self._leave.start()

    def tools(self, task: WalkTask) -> Tools:
        """Return those of this run; `task` is one of its tasks, and under way.

        Raises:
            UsageError: see `Tools`.
        """
        with self._lock:
            if self._tools is None:
                self._tools = Tools(self, task)
            return self._tools

    def _let_go(self) -> None:
        """Close what the tasks share, unless there is one."""
        with self._lock:
            if self._tasks:
                return
            tools, self._tools = self._tools, None
            self.shelf.clear()
            self.gate.close()  # scanners of ended walks may wait there
            self.gate = Gate(self.pacer, 1000, 1000)
        if tools:
            tools.close()

    def identities(self, task: WalkTask, dialers: Iterable[Dialer]) -> tuple[Identity, ...]:
        """Return the identities of those nodes that this process does not reach, or as which others
        than the plan's answer. If there are any, the next task asks again."""
        with self._asking:
            if self._identities != ():
                asked = (
                    (planned, _identity(replace(dialer, redials=None), node))
                    for dialer in dialers
                    for side, node, planned in task.nodes
                    if side == dialer.side
                )
                self._identities = tuple(
                    one for planned, one in asked if one.trouble or one.run_id != planned != ""
                )
            return self._identities

    def usage(self) -> Usage:
        """Return what this process uses."""
        now = time.monotonic()
        if now >= self._usage_due:
            self._usage_due = now + _USAGE_SECONDS
            walks = [task.walk for task in list(self._tasks.values())]
            batches = sum(walk.in_flight for walk in walks if walk)
            memory = self._process.memory_info().rss
            self._usage = Usage(self._process.cpu_percent(), memory, batches)
        return self._usage


_runs: dict[str, Run] = {}
_runs_lock = threading.Lock()


def _run_of(name: str) -> Run:
    """Return a run of this process; runs that are over are forgotten."""
    with _runs_lock:
        for other, run in list(_runs.items()):
            if other != name and run.over:
                del _runs[other]
        return _runs.setdefault(name, Run())


def obey(orders: Orders) -> None:
    """Take the coordinator's orders, in a worker; called by Dask."""
    _run_of(orders.run).obey(orders)


def prepare(spec: Spec) -> None:
    """Do nothing, in a worker: a process that has received a spec has imported what its tasks
    need."""


def shared(pace: Pace, tasks: int) -> Pace:
    """Return the pace of a process with so many tasks, given that of one."""
    keys, payload, ops = (rate * tasks for rate in pace.rates)
    return replace(pace, keys=keys, payload=payload, ops=ops)


def _identity(dialer: Dialer, node: Node) -> Identity:
    try:
        with contextlib.closing(dialer.connect(node.address)) as connection:
            return Identity(dialer.side, node.address, read_identity(connection, node))
    except RumpxError as error:
        return Identity(dialer.side, node.address, trouble=_plain(error))


def run_walk(task: WalkTask) -> Done:
    """Do a task; called by Dask, in a worker."""
    from distributed import get_worker

    worker = get_worker()
    return walk(task, worker.address, worker.log_event)


def walk(task: WalkTask, address: str, log_event: Callable[[str, Any], None]) -> Done:
    """Do a task.

    Args:
        address: of this worker.
        log_event: sends a topic's event to the coordinator.
    """
    run, token = _run_of(task.run), os.urandom(8).hex()
    working = _Working(run, task.number, token, lambda body: log_event(task.run, body))
    run.add(working)
    try:
        return _work(run, task, working, address)
    except LeaseOver:
        return Done(token, working.rest(), lapsed=True)
    except RumpxError as error:
        return Done(token, working.rest(), error=_plain(error))
    except Exception as error:
        wrong: RumpxError = RumpxError(f"Unexpected error in a task at {address}: {error!r}.")
        if limit := machine_limit(error):
            wrong = MachineLimit(f"On {platform.node()}: {limit}")
        return Done(token, working.rest(), error=wrong)
    finally:
        run.remove(working)


def _plain(error: RumpxError) -> RumpxError:
    """Return an error that can be pickled with its message."""
    error.__cause__ = error.__context__ = None
    return error


def _work(run: Run, task: WalkTask, working: _Working, address: str) -> Done:
    tools = run.tools(task)
    identities = run.identities(task, tools.dialers)
    slot, kept = tools.take(working.lease), False
    try:
        hello = Hello(
            task.number,
            working.token,
            address,
            platform.node(),
            os.getpid(),
            identities,
            slot.writer,
        )
        working.send(pack(hello))
        while not working.accepted.wait(_HELLO_SECONDS):
            working.lease.refuse_end()
            working.send(pack(hello))
        if working.ended:
            return Done(working.token)
        working.walk = LoneWalk(
            task.order,
            replace(task.settings, dialer=tools.here(task.settings.dialer)),
            slot.handler,
            slot.runner,
            run.gate,
            working,
            run.shelf,
            working.report,
        )
        if working.ended:  # meanwhile
            working.walk.stop()
        finish = working.walk.run()
        # The connections of a task that was told to end may be those that the fence will end.
        kept = finish.ending is not None and not working.ended
        return Done(working.token, working.rest(), finish)
    finally:
        if kept:
            tools.put(slot)
        else:
            slot.handler.close()


@contextlib.contextmanager
def own_secrets(secrets: Secrets) -> Iterator[Callable[[Endpoint, Side], Endpoint]]:
    """Return what gives an endpoint its passwords, those of this machine if none were sent, and its
    CA's certificates, as a file that is deleted at the end."""
    with contextlib.ExitStack() as files:
        paths: dict[Side, str] = {}
        for side, authority in secrets.authorities.items():
            file = files.enter_context(tempfile.NamedTemporaryFile(suffix=".pem"))
            file.write(authority)
            file.flush()
            paths[side] = file.name

        def secured(endpoint: Endpoint, side: Side) -> Endpoint:
            if endpoint.tls and side in paths:
                endpoint = replace(endpoint, tls=replace(endpoint.tls, ca=paths[side]))
            return replace(
                endpoint,
                password=_password(secrets, side, "password", endpoint.password_file),
                sentinel_password=_password(
                    secrets, side, "sentinel_password", endpoint.sentinel_password_file
                ),
            )

        yield secured


def _password(secrets: Secrets, side: Side, kind: str, file: str | None) -> str | None:
    sent = secrets.passwords.get((side, kind))
    if sent is not None:
        return sent
    flag = flag_of(side)
    name = kind.replace("_", "-")
    own = os.environ.get(f"RUMPX_{flag[2:].upper()}_{kind.upper()}")
    if own is not None:
        return own
    return read_password_file(file, f"{flag}-{name}-file") if file else None
