"""Another client of the source, whose own delays do not spoil its measurements.

Each millisecond it sends a GET or a SET, in turn, of a key of its own on each of its connections,
also while earlier answers are missing, and records for each the time from its *appointed* moment to
its answer. So a server that blocks for a second delays all requests of that second, not only one.
(Cf. "coordinated omission", G. Tene, "How NOT to Measure Latency", 2013.)

Real clients are on other machines; this one shares a few cores with the servers and the copier.
Hence

- it is a process of its own, with real-time priority if the system grants it, else with the best
  niceness that it grants, so that it is woken in time however busy the others are;
- it records the delay of each send (`Felt.late`): a figure not far above that says nothing about
  the server.

Run as a command:

    python -m benchmarks.client PORT CONNECTIONS

prints a line at its start, stops at the end of its standard input, and then writes the appointed
time of each request (`time.perf_counter()`, which on Linux is the same clock in all processes), the
seconds until the answer, and the seconds by which it was sent late, as three arrays of doubles.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import hiredis

from benchmarks.measure import Failed
from rumpx.demo import Server
from rumpx.servers.resp import encode

PREFIX: Final = "gentle:"
_KEYS: Final = 1000
_VALUE: Final = b"v" * 32
_INTERVAL: Final = 0.001
_HOST: Final = "127.0.0.1"
_REALTIME_PRIORITY: Final = 10
_NICENESS: Final = -15
_END_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In seconds."""

    p50: float
    p99: float
    p999: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Percentiles:
        """Of at least two times."""
        cuts = statistics.quantiles(times, n=1000, method="inclusive")
        return cls(cuts[499], cuts[989], cuts[998])


@dataclass(frozen=True, slots=True)
class Felt:
    """A client's measurements: for each request, in their order, its appointed time by
    `time.perf_counter()`, the seconds until its answer, and those by which it was sent late."""

    at: Sequence[float]
    took: Sequence[float]
    late: Sequence[float]

    def between(self, begin: float, end: float) -> Felt:
        """The requests whose appointed time was in [begin, end)."""
        cut = slice(bisect_left(self.at, begin), bisect_left(self.at, end))
        return Felt(self.at[cut], self.took[cut], self.late[cut])

    def seconds(self) -> list[Felt]:
        """Cut into whole seconds from the first request on; a rest of less than a second is left
        out."""
        if not len(self.at):
            return []
        begin = self.at[0]
        number = int(self.at[-1] - begin + 0.01)
        return [self.between(begin + n, begin + n + 1) for n in range(number)]


class Client:
    """The client while a `with` is open; `felt` is known afterwards.

    Args:
        connections: each sends a request each millisecond.
    """

    def __init__(self, server: Server, connections: int) -> None:
        self._server = server
        self._words = [str(server.port), str(connections)]
        self._process: subprocess.Popen[bytes] | None = None
        self.felt = Felt([], [], [])

    def __enter__(self) -> Client:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.client", *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise Failed("The other client of the source did not begin.")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        try:
            written, _none = self._process.communicate(timeout=_END_SECONDS)
        finally:
            self._process.kill()  # nothing, if it has ended
        if self._process.returncode:
            raise Failed("The other client of the source failed.")
        numbers = array("d", written)
        third = len(numbers) // 3
        self.felt = Felt(numbers[:third], numbers[third : 2 * third], numbers[2 * third :])


def put_keys(server: Server) -> None:
    """Make the client's keys, so that it changes no number of keys later."""
    with closing(server.connect()) as connection:
        commands = [("SET", f"{PREFIX}{number}", _VALUE) for number in range(_KEYS)]
        for reply in connection.call_many(commands):
            if reply != b"OK":
                raise Failed(f"{server.program} refused a write: {reply!r}")


def be_on_time() -> None:
    """Be woken before others, as far as this is granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
    except (OSError, AttributeError):
        try:
            os.nice(_NICENESS)
        except OSError:
            return  # `late` will show what that means


class _Asker:
    """The requests, and what became of them."""

    def __init__(self, port: int, connections: int) -> None:
        self._sockets = [socket.create_connection((_HOST, port)) for _ in range(connections)]
        for sock in self._sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # `Any`, since hiredis has no types.
        self._readers: dict[socket.socket, Any] = {s: hiredis.Reader() for s in self._sockets}
        self._unanswered: dict[socket.socket, deque[int]] = {s: deque() for s in self._sockets}
        self._requests = [
            request
            for number in range(_KEYS)
            for request in (
                encode("GET", f"{PREFIX}{number}"),
                encode("SET", f"{PREFIX}{number}", _VALUE),
            )
        ]
        self._took = array("d")
        self._late = array("d")
        self._begin = 0.0

    def run(self) -> None:
        """Ask until standard input ends, then wait for the last answers."""
        watched: list[Any] = [*self._sockets, sys.stdin]
        self._begin = time.perf_counter()
        while sys.stdin in watched:
            self._send_due()
            rest = self._appointed(len(self._took)) - time.perf_counter()
            ready, _, _ = select.select(watched, [], [], max(0.0, rest))
            self._receive(ready)
            if sys.stdin in ready:
                watched.remove(sys.stdin)
        while any(self._unanswered.values()):
            ready, _, _ = select.select(watched, [], [])
            self._receive(ready)

    def _appointed(self, number: int) -> float:
        """Return the appointed time of a request."""
        return self._begin + number // len(self._sockets) * _INTERVAL

    def _send_due(self) -> None:
        while (late := time.perf_counter() - self._appointed(len(self._took))) >= 0:
            for sock in self._sockets:
                number = len(self._took)
                self._unanswered[sock].append(number)
                self._took.append(0.0)
                self._late.append(late)
                sock.sendall(self._requests[number % len(self._requests)])

    def _receive(self, ready: list[Any]) -> None:
        for sock in ready:
            reader = self._readers.get(sock)
            if reader is None:
                continue
            data = sock.recv(2**16)
            if not data:
                raise Failed("The source closed the other client's connection.")
            now = time.perf_counter()
            reader.feed(data)
            unanswered = self._unanswered[sock]
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise Failed(f"The source refused the other client: {reply}")
                number = unanswered.popleft()
                self._took[number] = now - self._appointed(number)

    def write(self) -> None:
        """Write the measurements to standard output."""
        at = array("d", map(self._appointed, range(len(self._took))))
        for numbers in (at, self._took, self._late):
            sys.stdout.buffer.write(numbers.tobytes())


def main() -> None:
    port, connections = map(int, sys.argv[1:])
    asker = _Asker(port, connections)
    print("begins", flush=True)
    gc.disable()
    be_on_time()
    asker.run()
    asker.write()


if __name__ == "__main__":
    main()
