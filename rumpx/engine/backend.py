"""The protocol between the engine and those who do its walks, wherever they run.

The engine decides which partition is walked, from which cursor, and books the results. A backend
finds the keys of a walk and has them settled. `local_backend.py` implements it with threads and
processes of this host.

A backend reports keys that it found (`Found`), and then the engine makes a batch of them, which it
gives back to be settled (`give`); or it reports only settled keys.

Not promised by a backend: that keys are settled once. The work of a dead worker is given out again.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rumpx.engine.events import Event, WalkName
from rumpx.model.partitions import Partition
from rumpx.model.snapshot import WorkerStat
from rumpx.throttle.decision import Decision
from rumpx.throttle.rates import Pacer
from rumpx.throttle.scan_gate import Gate
from rumpx.transfer.messages import Batch


class Urgent(Protocol):
    """Makes batches that precede those of the walks."""

    def take(self, now: float) -> Batch | None:
        """Return a batch to give out now; None if there is none. `now` is `time.monotonic()`."""

    def due(self, now: float) -> float:
        """Return when `take` may have a batch without another event; infinite if it has none."""


class Workload(Protocol):
    """A backend as Snapshots show it."""

    @property
    def restarts(self) -> int:
        """The number of workers that were replaced."""

    @property
    def in_flight(self) -> int:
        """The number of batches, or walks, that were given out and are not settled: see `given`."""

    @property
    def given(self) -> Literal["batches", "walks"]:
        """The unit of work that is given out to workers."""

    @property
    def batches(self) -> int:
        """The number of batches that are not settled, as far as it is known."""

    def stats(self) -> tuple[WorkerStat, ...]:
        """Return CPU (since the last call) and memory of the live workers."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The engine, as its backend uses it.

    Attributes:
        selector: gets a file object for each source of messages; its data is the argument of
            `Backend.receive` once the file is readable.
        gate: SCANs of this host pass it.
        post: takes an event, from any thread; the engine wakes.
        announce: takes messages for the user.
        urgent: batches that precede those of the walks; None if there are none. Only a backend
            that gives out batches has them.
        buried: called with the writer's name of each dead worker that may have written. Its work
            waits until `Backend.fenced` is called with that name.
    """

    selector: selectors.BaseSelector
    gate: Gate
    post: Callable[[Event], None]
    announce: Callable[[str], None]
    buried: Callable[[str], None]
    urgent: Urgent | None = None


@dataclass(frozen=True, slots=True)
class WalkOrder:
    """A walk to do: the partition, the number of its walk, the cursor from which it starts, and the
    `run_id` of the process for which that cursor is valid, "" if unknown. Of a walk that is
    `walked`, all keys are settled, and only the check of the process at its end is left: a cursor
    at the end may be the one at the start."""

    partition: Partition
    walk: int
    cursor: int
    run_id: str
    walked: bool = False

    @property
    def name(self) -> WalkName:
        """The walk's name among all that were ever made."""
        return self.partition.id, self.walk


class Backend(Workload, Protocol):
    """Does walks."""

    @property
    def pacer(self) -> Pacer:
        """The rates, for requests of the coordinator's own."""

    @property
    def walks_at_once(self) -> int:
        """The most walks that may be under way now."""

    @property
    def awake(self) -> bool:
        """True if all workers have started."""

    @property
    def dropped(self) -> bool:
        """True if work of dead workers was not given out again."""

    def start(self, workers: int, hooks: Hooks) -> None:
        """Start workers."""

    def obey(self, decision: Decision) -> None:
        """Hold all work to the governor's decision from now on."""

    def hurry(self) -> None:
        """Let all that is in flight end at once, ignoring the rates."""

    def walk(self, order: WalkOrder) -> None:
        """Start a walk."""

    def end_walk(self, name: WalkName) -> None:
        """End a walk that starts over; its later events are ignored."""

    def end_walks(self) -> None:
        """Find no more keys."""

    def give(self, batch: Batch | None) -> None:
        """Take the batch of a Found, to be settled; None if its walk has started over."""

    def turn(self, is_issued: Callable[[int], bool]) -> None:
        """Give out work, as far as the decision allows. `is_issued` returns False for the number of
        a batch whose walk has started over."""

    def due(self, now: float) -> float:
        """Return when `turn` has work again without an event, by `time.monotonic()`, as `now`;
        infinite if it has none."""

    def receive(self, ready: Any) -> Iterator[Event]:
        """Yield the messages from a source that is readable.

        Raises:
            RumpxError: workers die as soon as they start.
        """

    def fenced(self, writer: str) -> list[Batch] | None:
        """Release the work of a dead worker, whose connections to the target have ended as far as
        they can be; return the batches that are repeated, None if they are not known."""

    def rest(self) -> None:
        """Have workers, which must be idle, close their connections until there is work again."""

    def close(self) -> None:
        """Wait for results only: replace no dead worker from now on, and repeat no work."""

    def stop(self) -> None:
        """End idle workers, and free all that they share."""

    def kill(self) -> None:
        """End all workers at once, and free all that they share."""
