"""A process that does nothing but feel what the servers feel, and tell the coordinator.

It is a process of its own since the coordinator's threads wait for each other: what they would
measure is themselves. For each node it has

- a thread that sends a bare PING on a connection of its own and waits for the answer, at fixed
  intervals. A PING that gets no answer, or no connection, counts as its timeout, never as nothing;
- a question for INFO's CPU and memory once a second, on another connection.

Ten times a second it tells of each node the two worst times since (`latency`), with those that
still wait. It ends when its coordinator does.

Not promised: fifty PINGs a second for each node of a large cluster; there it is fifty or more for
each side, and five for each node.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from rumpx.copy.channel import Channel, receive, send
from rumpx.copy.forks import HELD_BACK, name_process
from rumpx.copy.latency import Best, with_omitted
from rumpx.errors import RumpxError, Side
from rumpx.job import Address
from rumpx.servers.dial import Dialer
from rumpx.servers.resp import Connection

PROBE_TIMEOUT: Final = 1.0
_INTERVAL: Final = 0.02
_LONGEST_INTERVAL: Final = 0.2
_TELL_SECONDS: Final = 0.1
_INFO_SECONDS: Final = 1.0

NodeName = tuple[Side, Address | None]


@dataclass(frozen=True, slots=True)
class Felt:
    """The two worst times of a node's PINGs since the last word, in seconds above its best; `at` is
    `time.monotonic()`, `best` its quickest of the last ten minutes."""

    node: NodeName
    at: float
    above: tuple[float, ...]
    best: float


@dataclass(frozen=True, slots=True)
class Used:
    """What INFO said: `cpu` seconds since the server's start, memory in bytes (`max_memory` 0: no
    limit). At `at`, by `time.monotonic()`."""

    node: NodeName
    at: float
    cpu: float
    memory: int
    max_memory: int


@dataclass(frozen=True, slots=True)
class Watched:
    """One side, and the nodes of it that are read or written."""

    dialer: Dialer
    nodes: tuple[Address | None, ...]


class Pinger:
    """Sends PINGs to one node, in a thread of its own."""

    def __init__(self, dialer: Dialer, address: Address | None, interval: float) -> None:
        self.node: NodeName = (dialer.side, address)
        self._dialer = replace(dialer, timeout=PROBE_TIMEOUT)
        self._address = address
        self._interval = interval
        self._lock = threading.Lock()
        self._best = Best()
        self._took: list[float] = []
        self._waits_since: float | None = None

    def start(self) -> None:
        """Begin; it ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection = self._dialer.connect(self._address)
                self._ping(connection)
            except RumpxError:
                with self._lock:
                    self._waits_since = None
                    self._took.append(PROBE_TIMEOUT)
                time.sleep(self._interval)

    def _ping(self, connection: Connection) -> None:
        """Until the connection is lost. It may have led elsewhere than the one before."""
        self._best = Best()
        connection.call("PING")  # the first is slower, by what the server does for a new client
        due = time.monotonic()
        while True:
            due = max(due + self._interval, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            sent = time.monotonic()
            with self._lock:
                self._waits_since = sent
            connection.call("PING")
            now = time.monotonic()
            with self._lock:
                self._waits_since = None
                self._best.add(now, now - sent)
                self._took.append(now - sent)

    def take(self, now: float) -> Felt | None:
        """What was felt since the last call."""
        with self._lock:
            took, self._took = self._took, []
            waits, best = self._waits_since, self._best.value
        if waits is not None and now - waits > self._interval:
            took.append(now - waits)
        if not took:
            return None
        all_of_them = (each for one in took for each in with_omitted(one, self._interval))
        worst = heapq.nlargest(2, all_of_them)
        return Felt(self.node, now, tuple(max(0.0, each - best) for each in worst), best)


def main(channel: Channel, sides: Sequence[Watched]) -> None:
    """The process's whole life."""
    name_process("rumpx-observer")
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    threading.Thread(target=_end_with_coordinator, args=(channel,), daemon=True).start()
    lock = threading.Lock()
    pingers: list[Pinger] = []
    for side in sides:
        interval = min(_LONGEST_INTERVAL, _INTERVAL * len(side.nodes))
        pingers += [Pinger(side.dialer, address, interval) for address in side.nodes]
        for address in side.nodes:
            threading.Thread(
                target=_ask_info, args=(channel, lock, side.dialer, address), daemon=True
            ).start()
    for pinger in pingers:
        pinger.start()
    while True:
        time.sleep(_TELL_SECONDS)
        now = time.monotonic()
        for pinger in pingers:
            if felt := pinger.take(now):
                _tell(channel, lock, felt)


def _ask_info(
    channel: Channel, lock: threading.Lock, dialer: Dialer, address: Address | None
) -> None:
    while True:
        try:
            connection = dialer.connect(address)
            while told := _usage(connection, (dialer.side, address)):
                _tell(channel, lock, told)
                time.sleep(_INFO_SECONDS)
            return  # INFO is refused here
        except RumpxError:
            time.sleep(_INFO_SECONDS)


def _usage(connection: Connection, node: NodeName) -> Used | None:
    fields: dict[str, str] = {}
    for section in ("cpu", "memory"):
        reply = connection.call("INFO", section)
        if not isinstance(reply, bytes):
            return None
        lines = reply.decode(errors="replace").splitlines()
        fields |= dict(line.split(":", 1) for line in lines if ":" in line)
    return Used(
        node,
        time.monotonic(),
        sum(float(fields.get(f"used_cpu_{kind}", 0)) for kind in ("sys", "user")),
        int(fields.get("used_memory", 0)),
        int(fields.get("maxmemory", 0)),
    )


def _tell(channel: Channel, lock: threading.Lock, message: Felt | Used) -> None:
    with lock:
        try:
            send(channel, message)
        except OSError:
            os._exit(0)  # nobody listens any more


def _end_with_coordinator(channel: Channel) -> None:
    with contextlib.suppress(EOFError, OSError):
        receive(channel)
    os._exit(0)
