"""The coordinator's messages: orders to all workers, reports and results of tasks back.

Dask's client has a thread with a loop of its own (`cluster`). Coroutines in that loop send orders,
ask the scheduler for its workers, and await the results of tasks. They put all that they learn into
a mailbox, which the engine's thread reads once a socket has become readable.

The orders that were told last are sent at once, and again every RENEW_SECONDS.
"""

from __future__ import annotations

import asyncio
import math
import queue
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from rumpx.errors import RumpxError, TemporaryError
from rumpx.model.job import Job
from rumpx.remote import task as remote
from rumpx.remote.cluster import Cluster, Member, lost, scheduler_of
from rumpx.remote.lease import LEASE_SECONDS
from rumpx.remote.messages import (
    RENEW_SECONDS,
    Done,
    Hello,
    Orders,
    Reported,
    WalkTask,
    unpack,
)
from rumpx.transfer.handler import Spec

# Orders are sent at most this often.
ORDERS_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.25
_REST_SECONDS: Final = 2.0
_SUBSCRIBE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Facts:
    """Of workers that have joined, by address; what each told of itself, or an exception."""

    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a task, or how it was lost."""

    number: int
    result: Done | BaseException


Message = Hello | Reported | Finished | Facts | tuple[Member, ...] | RumpxError | None
"""A tuple holds all workers of the moment; None only wakes the engine."""


class Exchange:
    """Sends and receives, once it is open.

    Args:
        job: names the scheduler.
        run: the topic of the tasks' messages.

    Attributes:
        wakes: becomes readable when there are messages; to be registered with a selector.
        ready: the workers have imported what tasks need.
    """

    def __init__(self, job: Job, run: str) -> None:
        self.ready = False
        self.wakes, self._waker = socket.socketpair()
        self.wakes.setblocking(False)
        self._waker.setblocking(False)
        self._job = job
        self._run = run
        self._mail: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cluster: Cluster | None = None
        self._asked: set[str] = set()  # only the loop's thread
        self._orders: Orders
        self._changed = asyncio.Event()

    @property
    def cluster(self) -> Cluster:
        """The connection to the scheduler, of an open exchange."""
        assert self._cluster
        return self._cluster

    @property
    def is_open(self) -> bool:
        """True from `open` on."""
        return self._cluster is not None

    def open(self, spec: Spec) -> tuple[Member, ...]:
        """Connect, prepare the workers for a spec, and begin to send orders; return the workers.

        Raises:
            TemporaryError: the scheduler is not reached, or does not answer.
        """
        cluster = Cluster(scheduler_of(self._job), self._job.connect_timeout)
        self._cluster = cluster
        members = cluster.call(self._subscribe, _SUBSCRIBE_SECONDS)
        cluster.spawn(lambda: self._prepare(spec))
        cluster.spawn(self._renew)
        return members

    def close(self) -> None:
        """Disconnect, if it is open, and free the sockets."""
        if self._cluster:
            self._cluster.close()
        self.wakes.close()
        self._waker.close()

    # For the engine's thread.

    def messages(self) -> Iterator[Message]:
        """Yield the messages that have come."""
        with suppress(BlockingIOError):
            self.wakes.recv(4096)
        while not self._mail.empty():
            yield self._mail.get()

    def wake_for_rest(self) -> None:
        """Make `wakes` readable if messages are left, since one of them was an error."""
        if not self._mail.empty():
            self._put(None)

    def tell(self, orders: Orders) -> None:
        """Send these orders from now on."""
        self._orders = orders
        if self._cluster:
            self._cluster.soon(self._changed.set)

    def tell_at_once(self, workers: list[str]) -> None:
        """Send the present orders to some workers first."""
        orders = self._orders
        self.cluster.spawn(lambda: self._send(orders, workers))

    def tell_and_wait(self, orders: Orders) -> None:
        """Send orders, this once, and wait until they have arrived, for some seconds at most."""
        with suppress(TemporaryError):  # a worker that hangs
            self.cluster.call(lambda: self._send(orders), _REST_SECONDS)

    def submit(self, task: WalkTask, allowed: frozenset[str]) -> None:
        """Have one of these workers do a task; its result comes as Finished."""
        self.cluster.spawn(lambda: self._run_task(task, allowed))

    # In the client's loop.

    async def _subscribe(self) -> tuple[Member, ...]:
        members = await self.cluster.members()
        self._asked = {member.address for member in members}  # `inspect` has just asked
        self.cluster.client.subscribe_topic(self._run, self._from_task)
        return members

    async def _from_task(self, event: tuple[float, Any]) -> None:
        if message := unpack(event[1]):
            self._put(message)

    def _put(self, message: Message) -> None:
        """Take a message in any thread."""
        self._mail.put(message)
        with suppress(BlockingIOError):
            self._waker.send(b"!")

    async def _prepare(self, spec: Spec) -> None:
        """Wait until the workers have imported what tasks need."""
        with suppress(Exception):  # as `_send`
            run = self.cluster.client.run(remote.prepare, spec, on_error="ignore")
            await asyncio.wait_for(run, LEASE_SECONDS)
        self.ready = True
        self._put(None)

    async def _renew(self) -> None:
        """Send orders, at once when they change, and at least every RENEW_SECONDS."""
        at, looked = -math.inf, time.monotonic()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK_SECONDS)
            if self.cluster.lost:
                self._put(lost(self.cluster.address))
                return
            now = time.monotonic()
            if now - looked >= RENEW_SECONDS:
                looked = now
                self.cluster.spawn(self._look)
            if not self._changed.is_set() and now - at < RENEW_SECONDS:
                continue
            self._changed.clear()
            at, orders = now, self._orders
            self.cluster.spawn(lambda orders=orders: self._send(orders))  # type: ignore[misc]
            await asyncio.sleep(ORDERS_SECONDS)

    async def _send(self, orders: Orders, workers: list[str] | None = None) -> None:
        # A worker that hangs does not answer; the others must not wait for it.
        orders = replace(orders, sent=time.monotonic())
        with suppress(Exception):
            client = self.cluster.client
            run = client.run(remote.obey, orders, workers=workers, on_error="ignore")
            await asyncio.wait_for(run, LEASE_SECONDS)

    async def _look(self) -> None:
        """Learn which workers there are, and ask new ones for their versions."""
        with suppress(Exception):
            members = await asyncio.wait_for(self.cluster.members(), LEASE_SECONDS)
            self._put(members)
            for address in {member.address for member in members} - self._asked:
                self._asked.add(address)
                self.cluster.spawn(lambda a=address: self._ask(a))  # type: ignore[misc]

    async def _ask(self, address: str) -> None:
        try:
            told = await asyncio.wait_for(self.cluster.facts([address]), LEASE_SECONDS)
            self._put(Facts(told))
        except Exception:
            self._asked.discard(address)  # it has gone, or the next look asks again

    async def _run_task(self, task: WalkTask, allowed: frozenset[str]) -> None:
        try:
            future = self.cluster.client.submit(
                remote.run_walk,
                task,
                key=f"{self._run}-{task.number}",
                pure=False,
                retries=0,
                workers=sorted(allowed),
                allow_other_workers=False,
            )
            self._put(Finished(task.number, await future))
        except (asyncio.CancelledError, Exception) as error:
            self._put(Finished(task.number, error))
