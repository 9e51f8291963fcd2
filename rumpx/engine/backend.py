"""The protocol between the engine and the workers that settle its batches, wherever they run.

The engine gives out batches and takes acks; it knows no process, channel or shared memory. Limits
reach the workers as a `Pace`. `pool.py` implements the protocol with processes of this host.

Not promised by a backend: that a batch is done once. One whose worker dies is given out again.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rumpx.model.snapshot import WorkerStat
from rumpx.throttle.rates import Pace, Pacer
from rumpx.transfer.messages import Batch, FromWorker


class Workload(Protocol):
    """A backend as Snapshots show it."""

    @property
    def restarts(self) -> int:
        """The number of workers that were replaced."""

    @property
    def in_flight(self) -> int:
        """The number of batches that were given out and are not settled."""

    def stats(self) -> tuple[WorkerStat, ...]:
        """Return CPU (since the last call) and memory of the live workers."""


class Backend(Workload, Protocol):
    """Workers."""

    @property
    def pacer(self) -> Pacer:
        """The rates, for requests of the coordinator's own."""

    @property
    def awake(self) -> bool:
        """True if all workers have started."""

    @property
    def dropped(self) -> bool:
        """True if batches of dead workers were not given out again."""

    def start(
        self,
        workers: int,
        selector: selectors.BaseSelector,
        announce: Callable[[str], None],
        buried: Callable[[str], None],
    ) -> None:
        """Start workers.

        Args:
            workers: how many.
            selector: gets a file object for each source of messages; its data is the argument of
                `receive` once the file is readable.
            announce: takes messages for the user.
            buried: called with the writer's name of each dead worker that may have written. Its
                batches wait until `fenced` is called with that name.
        """

    def set_pace(self, pace: Pace) -> None:
        """Set the pace of all workers together from now on."""

    def dispatch(self, take: Callable[[], Batch | None], workers: int) -> None:
        """Give out the batches that `take` returns, to `workers` of the workers, until it returns
        None or none of these has credit."""

    def receive(self, ready: Any) -> Iterator[FromWorker]:
        """Yield the messages from a source that is readable.

        Raises:
            RumpxError: workers die as soon as they start.
        """

    def fenced(self, writer: str) -> list[Batch]:
        """Release the batches of a dead worker, whose connections to the target have ended as far
        as they can be; return them."""

    def rest(self) -> None:
        """Have workers, which must be idle, close their connections until there is work again."""

    def close(self) -> None:
        """Wait for acks only: replace no dead worker from now on, and repeat no work."""

    def stop(self) -> None:
        """End idle workers, and free all that they share."""

    def kill(self) -> None:
        """End all workers at once, and free all that they share."""
