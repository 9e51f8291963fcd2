"""A process that measures the servers as their other clients see them, for the coordinator.

It is a separate process since the coordinator's threads wait for each other, and would measure
themselves. For each node it has

- a thread that sends a bare PING on a connection of its own and waits for the answer, timed by the
  kernel (`servers.stopwatch`), so that a busy machine here does not count as a slow server there. A
  PING without an answer, or a connection that cannot be restored, counts as the time waited for it,
  never as nothing;
- a thread that asks INFO for CPU and memory once a second, on another connection.

Each connection starts with a *burst* of PINGs, one right after the other, from which the
coordinator learns the node's baseline before the first SCAN; it may order another one.

Ten times a second, and after a burst, it reports the time of each PING since the last report
(`latency`), including one that still waits. If a node has not answered for some seconds, it reads
the topology again: another node may have replaced it. It ends when its coordinator does.

Not promised: fifty PINGs a second for each node of a large cluster; there it is fifty for each side
and five for each node. Nor over a long distance, since one PING is in flight at a time.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from rumpx.errors import RumpxError, Side
from rumpx.model.endpoint import Address
from rumpx.model.nodes import NodeName
from rumpx.processes.channel import Channel, receive, send
from rumpx.processes.forkserver import (
    HELD_BACK,
    name_process,
    process_context,
    signals_blocked,
)
from rumpx.servers.dial import Dialer
from rumpx.servers.info import parse_info
from rumpx.servers.redials import growing_pause
from rumpx.servers.replies import Kind, cannot_save, classify
from rumpx.servers.resp import Connection, Reply
from rumpx.servers.stopwatch import Stopwatch
from rumpx.servers.topology import is_error, read_topology
from rumpx.throttle.latency import Sample

PROBE_TIMEOUT: Final = 1.0
_INTERVAL: Final = 0.02
_LONGEST_INTERVAL: Final = 0.2
# A burst at the start of a connection: so long, but at least so many PINGs, at least so far apart.
_BURST_SECONDS: Final = 0.05
_BURST_PINGS: Final = 2
_BURST_INTERVAL: Final = 0.0005
_TELL_SECONDS: Final = 0.1
_INFO_SECONDS: Final = 1.0
_INFO_TIMEOUT: Final = 5.0
_LONGEST_PAUSE: Final = 1.0
_SILENT_SECONDS: Final = 3.0
_RESTART_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Felt:
    """The PINGs of a node since the last report.

    Attributes:
        samples: when each was sent, by `time.monotonic()`, and the seconds that it took.
        waiting: one that has no answer yet, with the seconds so far; it is reported again later.
        connected: the time of the connection; after another one it may be another server.
        interval: seconds between two PINGs.
    """

    node: NodeName
    samples: tuple[Sample, ...]
    connected: float
    interval: float
    waiting: Sample | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """INFO's report: `cpu` seconds since the server's start, memory in bytes (`max_memory` 0: no
    limit). At `at`, by `time.monotonic()`."""

    node: NodeName
    at: float
    cpu: float
    memory: int
    max_memory: int


@dataclass(frozen=True, slots=True)
class Watching:
    """The nodes of a side have changed: only these are watched from now on."""

    side: Side
    nodes: tuple[NodeName, ...]


@dataclass(frozen=True, slots=True)
class Burst:
    """An order to the prober: send PINGs to a node one right after the other, for so long."""

    node: NodeName
    seconds: float


Measured = Felt | Used | Watching


@dataclass(frozen=True, slots=True)
class Watched:
    """One side, and those of its nodes that are read or written."""

    dialer: Dialer
    nodes: tuple[Address | None, ...]


class Pinger:
    """Sends PINGs to one node, in a thread of its own, until it is stopped."""

    def __init__(
        self,
        dialer: Dialer,
        address: Address | None,
        interval: float,
        burst_ended: Callable[[], None],
    ) -> None:
        self.node: NodeName = (dialer.side, address)
        self.stopped = threading.Event()
        self._dialer = replace(
            dialer,
            timeout=PROBE_TIMEOUT,
            connect_timeout=max(PROBE_TIMEOUT, dialer.connect_timeout / 5),
        )
        self._address = address
        self._interval = interval
        self._burst_ended = burst_ended
        self._lock = threading.Lock()
        self._samples: list[Sample] = []
        self._waits_since: float | None = None
        self._watch: Stopwatch | None = None
        self._connected = 0.0
        self._answered = time.monotonic()
        self._burst_until = 0.0
        self._ordered = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, daemon=True).start()

    def burst(self, seconds: float) -> None:
        """Send PINGs one right after the other for so long from now on."""
        self._burst_until = time.monotonic() + seconds
        self._ordered.set()

    def stop(self) -> None:
        """End the thread soon."""
        self.stopped.set()
        self._ordered.set()

    def silent(self, now: float) -> bool:
        """Return True if there was no answer for some seconds."""
        return now - self._answered > _SILENT_SECONDS

    def _run(self) -> None:
        failures = 0
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                self._ping(self._dialer.connect(self._address))
            except Exception:  # any error means: no answer
                now = time.monotonic()
                with self._lock:
                    self._waits_since = self._waits_since or now
                failures = 1 if now - began > _LONGEST_PAUSE else failures + 1
                self.stopped.wait(max(self._interval, growing_pause(failures, _LONGEST_PAUSE)))

    def _ping(self, connection: Connection) -> None:
        """Send PINGs until the connection is lost. It may lead to another server than the last."""
        with closing(connection), closing(connection.stopwatch()) as watch:
            first = connection.call_timed(watch, "PING")  # slower: the server sets up a new client
            with self._lock:
                self._watch = watch
                if not _waits(first):
                    self._waits_since = None
                self._connected = time.monotonic()
            try:
                self._burst_until = time.monotonic() + _BURST_SECONDS
                self._burst(connection, watch, _BURST_PINGS)
                self._regularly(connection, watch)
            finally:
                with self._lock:
                    self._watch = None

    def _burst(self, connection: Connection, watch: Stopwatch, least: int) -> None:
        sent = 0
        while not self.stopped.is_set() and (sent < least or time.monotonic() < self._burst_until):
            self._one(connection, watch)
            sent += 1
            time.sleep(max(0.0, watch.sent + _BURST_INTERVAL - time.monotonic()))
        self._burst_ended()

    def _regularly(self, connection: Connection, watch: Stopwatch) -> None:
        due = time.monotonic()
        while not self.stopped.is_set():
            due = max(due + self._interval, time.monotonic())
            if self._ordered.wait(max(0.0, due - time.monotonic())):
                self._ordered.clear()
                self._burst(connection, watch, 0)
            self._one(connection, watch)

    def _one(self, connection: Connection, watch: Stopwatch) -> None:
        """Send a PING, and keep its time."""
        sent = time.monotonic()
        with self._lock:
            self._waits_since = self._waits_since or sent
        if _waits(connection.call_timed(watch, "PING")):
            return
        with self._lock:
            self._answered = time.monotonic()
            if watch.took is not None:
                self._samples.append((sent, watch.took))
            self._waits_since = None

    def take(self, now: float) -> Felt | None:
        """Return the measurements since the last call."""
        with self._lock:
            samples, self._samples = self._samples, []
            waits, watch, connected = self._waits_since, self._watch, self._connected
            # A reply that is here, and this process has not got the CPU for, is no wait.
            here = watch is not None and watch.arrived()
        waiting = None
        if waits is not None and now - waits > self._interval and not here:
            waiting = waits, now - waits
        if not samples and not waiting:
            return None
        return Felt(self.node, tuple(samples), connected, self._interval, waiting)


def _waits(reply: Reply) -> bool:
    """Return True if a server answers that its clients must wait, as while it loads its data."""
    passes = is_error(reply) and classify(reply).kind is Kind.TEMPORARY
    return passes and not cannot_save(reply)


class Prober:
    """Measures all nodes of both sides."""

    def __init__(self, channel: Channel, sides: Sequence[Watched]) -> None:
        self._channel = channel
        self._lock = threading.Lock()  # of the channel
        self._sides = {side.dialer.side: side for side in sides}
        self._pingers: dict[NodeName, Pinger] = {}
        self._looks: dict[Side, threading.Thread] = {}
        self._looked = time.monotonic()
        self._due = threading.Event()  # set to report before the next tenth of a second

    def run(self) -> None:
        """Measure until the coordinator has ended."""
        for side in self._sides.values():
            self._watch(side.dialer, side.nodes)
        while True:
            self._due.wait(_TELL_SECONDS)
            self._due.clear()
            now = time.monotonic()
            for pinger in list(self._pingers.values()):
                if felt := pinger.take(now):
                    self._tell(felt)
            if now - self._looked > _SILENT_SECONDS:
                self._looked = now
                silent = {p.node[0] for p in self._pingers.values() if p.silent(now)}
                for name in silent:
                    self._begin_look(name)

    def _watch(self, dialer: Dialer, nodes: Sequence[Address | None]) -> None:
        interval = min(_LONGEST_INTERVAL, _INTERVAL * len(nodes))
        for address in nodes:
            pinger = self._pingers[dialer.side, address] = Pinger(
                dialer, address, interval, self._due.set
            )
            pinger.start()
            threading.Thread(target=self._ask_info, args=(dialer, pinger), daemon=True).start()

    def obey(self) -> None:
        """Take the coordinator's orders, and end this process with it; in a thread."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                order: Burst = receive(self._channel)
                if pinger := self._pingers.get(order.node):
                    pinger.burst(order.seconds)
        os._exit(0)

    def _begin_look(self, name: Side) -> None:
        """Start to read the topology, unless a read is running, which may outlast the pause."""
        look = self._looks.get(name)
        if look is None or not look.is_alive():
            self._looks[name] = threading.Thread(target=self._look_again, args=(name,), daemon=True)
            self._looks[name].start()

    def _look_again(self, name: Side) -> None:
        """Read the topology: another node may have replaced a silent one."""
        side = self._sides[name]
        known = [address for address in side.nodes if address]
        try:
            topology = read_topology(side.dialer, known)
        except RumpxError:
            return  # no node answers: the PINGs measure that
        nodes = tuple(node.address for node in topology.nodes)
        if set(nodes) == set(side.nodes):
            return
        self._sides[name] = replace(side, nodes=nodes)
        for address in set(side.nodes) - set(nodes):
            self._pingers.pop((name, address)).stop()
        self._watch(side.dialer, [address for address in nodes if address not in side.nodes])
        self._tell(Watching(name, tuple((name, address) for address in nodes)))

    def _ask_info(self, dialer: Dialer, pinger: Pinger) -> None:
        while not pinger.stopped.is_set():
            try:
                connection = replace(dialer, timeout=_INFO_TIMEOUT).connect(pinger.node[1])
                while not pinger.stopped.is_set():
                    told = _usage(connection, pinger.node)
                    if told is None:
                        return  # INFO is refused here
                    self._tell(told)
                    pinger.stopped.wait(_INFO_SECONDS)
            except Exception:  # any error means: nothing is known now
                pinger.stopped.wait(_INFO_SECONDS)

    def _tell(self, message: Measured) -> None:
        with self._lock:
            try:
                send(self._channel, message)
            except OSError:
                os._exit(0)  # the coordinator has closed the channel


def main(channel: Channel, sides: Sequence[Watched]) -> None:
    """Run the process."""
    name_process("rumpx-prober")
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    prober = Prober(channel, sides)
    threading.Thread(target=prober.obey, daemon=True).start()
    prober.run()


def _usage(connection: Connection, node: NodeName) -> Used | None:
    told = ""
    for section in ("cpu", "memory"):
        reply = connection.call("INFO", section)
        if not isinstance(reply, bytes):
            return None
        told += reply.decode(errors="replace")
    info = parse_info(told)
    return Used(node, time.monotonic(), info.cpu_seconds, info.used_memory, info.max_memory)


class Probing:
    """The prober process, as the coordinator holds it.

    Args:
        sides: the nodes to measure.
    """

    def __init__(self, sides: Sequence[Watched]) -> None:
        self._sides = sides
        self._selector: selectors.BaseSelector | None = None
        self._channel: Channel | None = None
        self._restart_at = 0.0

    def start(self, selector: selectors.BaseSelector) -> None:
        """Start the process; its channel is registered with the selector, with this object as
        data."""
        self._selector = selector
        context = process_context()
        self._channel, theirs = context.Pipe()
        with signals_blocked():
            context.Process(
                target=main, args=(theirs, self._sides), name="rumpx prober", daemon=True
            ).start()
        theirs.close()
        selector.register(self._channel, selectors.EVENT_READ, self)

    def receive(self) -> Measured | None:
        """Return the next message of a readable channel; None if the process has died. Then it is
        started again after a second: without measurements a server must not pass for calm."""
        assert self._channel is not None and self._selector is not None
        try:
            measured: Measured = receive(self._channel)
        except (EOFError, OSError):
            self._selector.unregister(self._channel)
            self.close()
            self._restart_at = time.monotonic() + _RESTART_SECONDS
            return None
        return measured

    def order(self, burst: Burst) -> None:
        """Have PINGs sent to a node, one right after the other."""
        if self._channel:
            with contextlib.suppress(OSError):  # it has died: `receive` will notice
                send(self._channel, burst)

    def restart_if_due(self, now: float) -> None:
        """Start the process again, if it has died a while ago; `now` is `time.monotonic()`."""
        if self._selector and self._channel is None and now >= self._restart_at:
            self.start(self._selector)

    def close(self) -> None:
        """End the process, if there is one, by closing its channel."""
        if self._channel:
            self._channel.close()
            self._channel = None
