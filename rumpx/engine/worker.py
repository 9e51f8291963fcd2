"""A worker process: takes batches from its channel, copies them, sends acks.

The main thread runs the tasks of `transfer` one step at a time, so that all batches it was given
are in flight together. A second thread does nothing but read the channel: the coordinator's sends
then never wait for a busy worker, and the end of the channel is seen even while the main thread
waits for a server. A worker whose coordinator is gone ends within a second or so.

SIGINT, SIGTERM and SIGHUP are blocked by the coordinator before a worker starts (and by the worker,
should a fork server of the calling program have started it): a Ctrl-C, or a terminal that goes
away, reaches the whole process group, and it is the coordinator that decides what happens then.

A worker keeps nothing that matters. Whatever it held when it dies is given out again.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, Self

from rumpx.errors import RumpxError
from rumpx.model.counts import Counts
from rumpx.model.job import Scope
from rumpx.model.nodes import Topology
from rumpx.processes.channel import Channel, receive, send
from rumpx.processes.forkserver import HELD_BACK, name_process
from rumpx.servers.connections import Links
from rumpx.servers.dial import Dialer
from rumpx.throttle.rates import Throttle
from rumpx.transfer.chunks import ChunkLimits, Intake
from rumpx.transfer.dump_reader import Abilities, DumpReader
from rumpx.transfer.messages import (
    Ack,
    Batch,
    FromWorker,
    Notice,
    Ready,
    Rest,
    Stop,
    ToWorker,
    Trouble,
)
from rumpx.transfer.restore_writer import RestoreWriter
from rumpx.transfer.runner import Budget, Runner, Task
from rumpx.transfer.transfer import Transfer

_GRACE_SECONDS: Final = 1.0
# A server on this machine goes first. On two cores that both servers share with four workers, the
# source's other clients then wait 10 ms (p99) instead of 15, at the same speed.
_NICENESS: Final = 10


class Handler(Protocol):
    """What a worker does with batches; `Transfer` copies them."""

    def dial(self, databases: Sequence[int]) -> None:
        """Open the connections that are surely needed."""

    def settle(self, batch: Batch) -> Task[Ack]:
        """Settle each of a batch's keys; a task."""

    def unfinished(self) -> dict[int, Counts]:
        """Of each batch that was begun and not settled, what has become of its keys so far."""

    def take_notices(self) -> list[str]:
        """Sentences for the user that came up since the last call."""

    def close(self) -> None:
        """Close all connections; others are opened as they are needed."""


class Spec(Protocol):
    """All that a worker needs to know, sent once when it starts."""

    @property
    def databases(self) -> tuple[int, ...]:
        """Of the source, those that hold keys."""

    @property
    def bytes_in_flight(self) -> int:
        """This worker's budget."""

    @property
    def scope(self) -> Scope:
        """Which keys, and where to."""

    def writing_as(self, writer: str, lifeline: int) -> Self:
        """The same for one worker: what its connections to the target are called, and its channel's
        descriptor; see `Dialer`."""

    def build(self, budget: Budget, throttle: Throttle) -> Handler:
        """What does the work."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker that copies needs to know.

    Attributes:
        databases: of the source, those that hold keys.
        pipeline_keys: keys asked for, or written, in one pipeline.
        bytes_in_flight: this worker's budget.
        clock_offset: the target's clock minus ours, ms, if known.
        expiry_shift: ms to add to expiries (`--clock relative`).
        absttl: the target's RESTORE takes instants.
    """

    source: Dialer
    target: Dialer
    source_topology: Topology
    target_topology: Topology
    abilities: Abilities
    databases: tuple[int, ...]
    scope: Scope
    on_conflict: Literal["replace", "skip", "fail"]
    pipeline_keys: int
    bytes_in_flight: int
    big_key: int
    retry_for: float
    clock_offset: float | None
    expiry_shift: int
    absttl: bool

    def writing_as(self, writer: str, lifeline: int) -> WorkerSpec:
        """With named connections to the target."""
        target = dataclasses.replace(self.target, writer=writer, lifeline=lifeline)
        return dataclasses.replace(self, target=target)

    def build(self, budget: Budget, throttle: Throttle) -> Transfer:
        """Reader, writer and what joins them."""
        reader = DumpReader(Links(self.source, self.source_topology), self.abilities)
        return Transfer(
            reader,
            RestoreWriter(
                Links(self.target, self.target_topology),
                replace=self.on_conflict == "replace",
                shift=self.expiry_shift,
                clock_offset=self.clock_offset,
                absttl=self.absttl,
            ),
            self.aside(),
            Intake(reader, budget, self.limits(budget), throttle),
            self.retry_for,
            self.scope,
            self.on_conflict,
            self.expiry_shift,
        )

    def aside(self) -> tuple[Links, Links]:
        """Further links to both sides, for questions that are not pipelined with the rest."""
        return Links(self.source, self.source_topology), Links(self.target, self.target_topology)

    def primaries(self) -> Links | None:
        """Links to the source's primaries, where replicas are read in their place."""
        if self.source.read_from == "primary":
            return None
        dialer = dataclasses.replace(self.source, read_from="primary")
        return Links(dialer, self.source_topology.primaries())

    def limits(self, budget: Budget) -> ChunkLimits:
        """What may be asked for at once."""
        return ChunkLimits(self.pipeline_keys, max(1, budget.limit // 4), self.big_key)


def main(channel: Channel, spec: Spec, throttle: Throttle, writer: str) -> None:
    """The process's whole life.

    Args:
        writer: the name of its connections to the target; "" where it writes nothing.
    """
    name_process("rumpx-worker")
    os.nice(_NICENESS)
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    gc.freeze()  # what has been imported is never garbage: no need to look at it again
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    budget = Budget(spec.bytes_in_flight)
    if writer:
        spec = spec.writing_as(writer, channel.fileno())
    handler = spec.build(budget, throttle)
    runner = Runner(budget)
    try:
        handler.dial(spec.databases)
        _tell(channel, Ready())
        _work(inbox, channel, handler, runner)
    except RumpxError as error:
        _tell(channel, Trouble(error, handler.unfinished()))
    handler.close()


def _work(
    inbox: queue.SimpleQueue[ToWorker], channel: Channel, handler: Handler, runner: Runner
) -> None:
    stopping = False
    while True:
        delay = runner.delay()
        if stopping and delay is None:
            return
        if delay != 0.0 or not inbox.empty():
            try:
                message = inbox.get(timeout=delay)
            except queue.Empty:
                continue
            if isinstance(message, Stop):
                stopping = True
            elif isinstance(message, Rest):
                handler.close()
            else:
                runner.start(handler.settle(message))
            continue
        result = runner.step()
        if isinstance(result, Ack):
            _tell(channel, result)
        for text in handler.take_notices():
            _tell(channel, Notice(text))


def _tell(channel: Channel, message: FromWorker) -> None:
    try:
        send(channel, message)
    except OSError:
        return  # the coordinator is gone, and _listen will end us


def _listen(channel: Channel, inbox: queue.SimpleQueue[ToWorker]) -> None:
    try:
        while True:
            inbox.put(receive(channel))
    except (EOFError, OSError):
        inbox.put(Stop())
        time.sleep(_GRACE_SECONDS)
        os._exit(1)  # the main thread waits for a server; nobody waits for us
