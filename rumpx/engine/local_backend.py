"""The backend of this host: scanner threads find keys, the pool's processes settle them.

Each walk is a thread (`scanner`), which runs ahead of the workers by a bounded number of batches:
it waits for *room*, which a batch takes from the moment its keys are found until it is given out.

Batches are given out as the governor's decision allows: so many in flight, to so many workers, with
so long a pause between two. Urgent ones come first, but each eighth is one of the walks'.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from rumpx.engine.backend import Hooks, WalkOrder
from rumpx.engine.events import Found, FromScanner, WalkName
from rumpx.engine.plan import Plan
from rumpx.engine.pool import Pool
from rumpx.engine.scanner import Scanner, Shelf
from rumpx.throttle.decision import Decision
from rumpx.throttle.rates import Pace
from rumpx.transfer.messages import Batch

# Batches that scanners may have found ahead of the workers, beyond what those hold.
_AHEAD: Final = 2
# The most urgent batches that are given out one after the other while walks have one.
_MOST_URGENT: Final = 7


class LocalBackend(Pool):
    """Threads and processes of this host: a Backend.

    Args:
        plan: the work.
    """

    given: Final = "batches"

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.spec, plan.tuning.batches_in_flight, plan.target.dialer.writer)
        self.walks_at_once = plan.tuning.scanners
        self._scans = plan.scans
        self._hooks: Hooks
        self._shelf = Shelf()
        self._cancels: dict[WalkName, threading.Event] = {}
        self._room = threading.Semaphore(_AHEAD * plan.tuning.workers + plan.tuning.scanners)
        self._ready: deque[Batch] = deque()
        self._decision: Decision | None = None
        self._next_batch_at = 0.0
        self._urgent_before = 0
        self._starved = True
        self._working = False

    @property
    def batches(self) -> int:
        """See `Workload.batches`."""
        return self.in_flight

    def start(self, workers: int, hooks: Hooks) -> None:
        """See `Backend.start`."""
        self._hooks = hooks
        self.start_workers(workers, hooks.selector, hooks.announce, hooks.buried, hooks.post)

    def obey(self, decision: Decision) -> None:
        """See `Backend.obey`."""
        self._decision = decision
        self.pacer.set(decision.pace)

    def hurry(self) -> None:
        """See `Backend.hurry`."""
        self._decision = None
        self.pacer.set(Pace(hurry=True))

    # Walks.

    def walk(self, order: WalkOrder) -> None:
        """See `Backend.walk`."""
        cancelled = self._cancels[order.name] = threading.Event()
        Scanner(
            order.partition,
            order.walk,
            order.cursor,
            order.run_id,
            self._scans[order.partition.side],
            self._shelf,
            self._hooks.gate,
            self._mailbox(order.name, cancelled),
        ).start()

    def _mailbox(
        self, name: WalkName, cancelled: threading.Event
    ) -> Callable[[FromScanner], bool]:
        """Return a scanner's `emit`: it waits for room."""

        def emit(message: FromScanner) -> bool:
            if isinstance(message, Found) and message.keys:
                while not self._room.acquire(timeout=0.1):
                    if cancelled.is_set():
                        return False
            elif not isinstance(message, Found):
                self._cancels.pop(name, None)  # its last message
            self._hooks.post(message)
            return not cancelled.is_set()

        return emit

    def end_walk(self, name: WalkName) -> None:
        """See `Backend.end_walk`."""
        if cancelled := self._cancels.pop(name, None):
            cancelled.set()

    def end_walks(self) -> None:
        """See `Backend.end_walks`."""
        for name in list(self._cancels):
            self.end_walk(name)

    # Batches.

    def give(self, batch: Batch | None) -> None:
        """See `Backend.give`."""
        if batch:
            self._ready.append(batch)
        else:
            self._room.release()

    def turn(self, is_issued: Callable[[int], bool]) -> None:
        """See `Backend.turn`."""
        workers = self._decision.workers if self._decision else 0
        self.dispatch(lambda: self._next_batch(is_issued), workers)
        self._starved = not self.takes_more(workers)
        if self._working and not self.in_flight:
            self._working = False
            self._hooks.gate.calm.leave(time.monotonic())

    def due(self, now: float) -> float:
        """See `Backend.due`."""
        if self._ready and self._next_batch_at > now:
            return self._next_batch_at
        urgent = self._hooks.urgent
        if not urgent or self._is_full or self._starved:
            return math.inf  # an ack comes first
        return max(urgent.due(now), self._next_batch_at)

    @property
    def _is_full(self) -> bool:
        """True if the decision allows no further batch now."""
        decision = self._decision
        return not decision or self.in_flight >= decision.batches_in_flight

    def _next_batch(self, is_issued: Callable[[int], bool]) -> Batch | None:
        """Return the next batch to give out; None if there is none, or none is allowed now."""
        now = time.monotonic()
        if self._is_full or now < self._next_batch_at:
            return None
        batch = self._urgent_batch(now) or self._walks_batch(is_issued)
        if batch and self._decision:
            if not self._working:
                self._working = True
                self._hooks.gate.calm.enter(now)
            self._next_batch_at = now + self._decision.wait
        return batch

    def _urgent_batch(self, now: float) -> Batch | None:
        if not self._hooks.urgent or (self._ready and self._urgent_before >= _MOST_URGENT):
            return None
        batch = self._hooks.urgent.take(now)
        self._urgent_before += batch is not None
        return batch

    def _walks_batch(self, is_issued: Callable[[int], bool]) -> Batch | None:
        self._urgent_before = 0
        while self._ready:
            batch = self._ready.popleft()
            self._room.release()
            if is_issued(batch.id):
                return batch
        return None

    # The end.

    def stop(self) -> None:
        """See `Backend.stop`."""
        self._shelf.clear()
        super().stop()

    def kill(self) -> None:
        """See `Backend.kill`."""
        self._shelf.clear()
        super().kill()
