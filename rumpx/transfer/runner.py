"""Several batches in flight on one worker's connections, without threads.

A *task* is a generator that copies one batch. It sends requests itself and yields the object that
it waits for: `Replies` on connections, a `Permit` for bytes in flight, or a `Pause`. The Runner
resumes tasks in the order in which they started to wait. Because a task sends and at once yields,
the order of waiting is the order on the wire, so that each connection's replies meet the task
that asked for them: no request needs an id, and a blocking receive of the oldest is the whole event
loop. While it blocks, every other request is in the network, so that distance costs little.

Permits limit memory, ours and the servers': `Budget` grants them in order, first come, first
served. One that is larger than the budget is granted when nothing else is; one that is `alone`
waits until nothing else is in flight, streamed values apart, and blocks all others. (A streamed
value may take hours, in small pieces: waiting for it, a permit would block all those behind it.)

Not promised: fairness between connections. If the oldest request's server is slow, replies of
others wait in their sockets; their number is limited by the permits.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from rumpx.errors import ConnectionLost
from rumpx.servers.resp import Connection, Reply


@dataclass(frozen=True, slots=True)
class Replies:
    """Wait for `number` replies; with `oks`, the outcome is None if each is +OK."""

    connection: Connection
    number: int
    oks: bool = False


# The result of waiting for Replies: the replies, None for "all OK", or the connection's end.
Outcome = list[Reply] | None | ConnectionLost


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait some seconds."""

    seconds: float


@dataclass(slots=True, eq=False)
class Permit:
    """Permission to have `size` bytes in flight, to return by `Budget.release`; `apart`: for a
    streamed value, over connections of its own."""

    size: int
    alone: bool = False
    apart: bool = False


Wait = list[Replies] | Pause | Permit
T = TypeVar("T")
Task = Generator[Wait, Any, T]


class Budget:
    """Bytes in flight of one worker.

    Args:
        limit: the most bytes in flight together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._holders: set[Permit] = set()
        self._waiting: deque[Permit] = deque()
        self._closed_by: Permit | None = None

    def ask(self, permit: Permit) -> None:
        """Queue for a permit; `grant` gives it out."""
        self._waiting.append(permit)

    def grant(self) -> Permit | None:
        """Return the next permit if it can be granted now, or None."""
        if not self._waiting or self._closed_by:
            return None
        return self._waiting.popleft() if self._give(self._waiting[0]) else None

    def grant_at_once(self, permit: Permit) -> bool:
        """Grant a permit that has not queued, if none waits and the budget allows it now."""
        return not self._waiting and not self._closed_by and self._give(permit)

    def _give(self, permit: Permit) -> bool:
        if permit.alone:
            waits = not all(holder.apart for holder in self._holders)
        else:
            waits = bool(self._holders) and self.used + permit.size > self.limit
        if waits:
            return False
        self._holders.add(permit)
        self.used += permit.size
        if permit.alone:
            self._closed_by = permit
        return True

    def correct(self, permit: Permit, size: int) -> None:
        """Correct the size of a permit, whether it is granted or waiting."""
        if permit in self._holders:
            self.used += size - permit.size
        permit.size = size

    def release(self, permit: Permit) -> None:
        """Return a permit to the budget."""
        self._holders.remove(permit)
        self.used -= permit.size
        if self._closed_by is permit:
            self._closed_by = None


@dataclass(slots=True)
class _Waiting:
    task: Task[Any]
    replies: list[Replies]
    outcomes: list[Outcome] = field(default_factory=list)


class Runner:
    """Resumes tasks; see the module docstring."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._ready: deque[tuple[Task[Any], Any]] = deque()
        self._receiving: deque[_Waiting] = deque()
        self._permits: dict[Permit, Task[Any]] = {}
        self._paused: list[tuple[float, int, Task[Any]]] = []
        self._sequence = count()

    def start(self, task: Task[Any]) -> None:
        """Start a task at the next `step`."""
        self._ready.append((task, None))

    def delay(self) -> float | None:
        """Return the seconds until `step` has work; None if there is no task."""
        if self._ready or self._receiving or self._permits:
            return 0.0
        if self._paused:
            return max(0.0, self._paused[0][0] - time.monotonic())
        return None

    def step(self) -> Any | None:
        """Resume one task; return its result if it ended, else None.

        Blocks for replies if nothing else can be done. Raises the task's exceptions.
        """
        while self._paused and self._paused[0][0] <= time.monotonic():
            self._ready.append((heapq.heappop(self._paused)[2], None))
        while permit := self.budget.grant():
            self._ready.append((self._permits.pop(permit), None))
        if self._ready:
            return self._resume(*self._ready.popleft())
        if self._receiving:
            waiting = self._receiving.popleft()
            for replies in waiting.replies:
                waiting.outcomes.append(_receive(replies))
            return self._resume(waiting.task, waiting.outcomes)
        return None

    def _resume(self, task: Task[Any], value: Any) -> Any | None:
        try:
            wait = task.send(value)
            while isinstance(wait, Permit) and self.budget.grant_at_once(wait):
                wait = task.send(None)
        except StopIteration as end:
            return end.value
        if isinstance(wait, list):
            self._receiving.append(_Waiting(task, wait))
        elif isinstance(wait, Permit):
            self._permits[wait] = task
            self.budget.ask(wait)
        else:
            due = time.monotonic() + wait.seconds
            heapq.heappush(self._paused, (due, next(self._sequence), task))
        return None


def _receive(wait: Replies) -> Outcome:
    try:
        if wait.oks:
            return wait.connection.receive_oks(wait.number)
        return wait.connection.receive(wait.number)
    except ConnectionLost as error:
        return error
