"""A proxy that makes a server on loopback a distant one.

    python -m benchmarks.delay TARGET_PORT ROUND_TRIP_MS JITTER_MS STRAGGLERS STRAGGLER_MS

Listens on a free loopback port, which it prints, and hands on what it receives after half the round
trip, in both directions. One thread, one `select`: each direction of each connection is a queue of
(due, bytes). A queue of more than `_WINDOW` bytes is not added to, as by a receiver whose window is
full; that is far above what the copies here have under way.

Each piece may be delayed further: by up to JITTER_MS, all delays alike probable, and a share
STRAGGLERS of all pieces by STRAGGLER_MS besides. As on a TCP connection, later pieces wait behind
an earlier one.

It costs CPU that the copy then lacks, so a distance is compared with the same proxy at 0 ms. To
cost no more than that it looks only so often that the round trip is right to a tenth.
"""

from __future__ import annotations

import random
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import Final

from rumpx.demo import SEED

_HOST: Final = "127.0.0.1"
_CHUNK: Final = 2**18
_WINDOW: Final = 2**26
_SHORTEST_PAUSED: Final = 0.005


@dataclass(frozen=True, slots=True)
class Network:
    """The delays of a network, in milliseconds; `stragglers` is a share of one."""

    round_trip_ms: float
    jitter_ms: float = 0.0
    stragglers: float = 0.0
    straggler_ms: float = 0.0

    def delay(self, chance: random.Random) -> float:
        """Seconds for one piece, in one direction."""
        late = self.straggler_ms if chance.random() < self.stragglers else 0.0
        return (self.round_trip_ms / 2 + chance.uniform(0, self.jitter_ms) + late) / 1000


@dataclass(eq=False, slots=True)
class _Pipe:
    """One direction of a connection."""

    receiver: socket.socket
    sender: socket.socket
    delay: Callable[[], float]
    queue: deque[tuple[float, memoryview]] = field(default_factory=deque)
    held: int = 0
    blocked: bool = False

    def take(self) -> bool:
        """Receive; False at the end of the stream."""
        try:
            data = self.receiver.recv(_CHUNK)
        except OSError:
            return False
        self.queue.append((time.monotonic() + self.delay(), memoryview(data)))
        self.held += len(data)
        return bool(data)

    def give(self, now: float) -> None:
        """Hand on what is due, as much as the other side takes."""
        self.blocked = False
        while self.queue and self.queue[0][0] <= now:
            due, data = self.queue[0]
            try:
                sent = self.sender.send(data)
            except BlockingIOError:
                self.blocked = True
                return
            self.held -= sent
            if sent < len(data):
                self.queue[0] = due, data[sent:]
                self.blocked = True
                return
            self.queue.popleft()


def serve(target_port: int, network: Network) -> None:
    """Run until killed."""
    delay = partial(network.delay, random.Random(SEED))
    shortest = network.round_trip_ms / 2000
    # Between looks, for what came and for what is due; shorter ones would cost more than they save.
    pause = shortest / 10 if shortest > _SHORTEST_PAUSED else 0.0
    with socket.create_server((_HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        pipes: dict[socket.socket, _Pipe] = {}
        while True:
            time.sleep(pause)
            now = time.monotonic()
            dues = [pipe.queue[0][0] for pipe in pipes.values() if pipe.queue and not pipe.blocked]
            readable, _, _ = select.select(
                [listener, *(sock for sock, pipe in pipes.items() if pipe.held < _WINDOW)],
                [],
                [],
                max(0.0, min(dues) - now) if dues else _wait_of(pipes),
            )
            for sock in readable:
                if sock is listener:
                    client = listener.accept()[0]
                    server = socket.create_connection((_HOST, target_port))
                    _join(client, server, delay, pipes)
                elif sock in pipes and not pipes[sock].take():
                    _close(sock, pipes)
            now = time.monotonic()
            for pipe in list(pipes.values()):
                try:
                    pipe.give(now)
                except OSError:
                    _close(pipe.receiver, pipes)


def _wait_of(pipes: dict[socket.socket, _Pipe]) -> float | None:
    """Someone who takes no more now is tried again soon; else only a receive wakes us."""
    return 0.001 if any(pipe.blocked for pipe in pipes.values()) else None


def _join(
    client: socket.socket,
    server: socket.socket,
    delay: Callable[[], float],
    pipes: dict[socket.socket, _Pipe],
) -> None:
    for sock in (client, server):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pipes[client] = _Pipe(client, server, delay)
    pipes[server] = _Pipe(server, client, delay)


def _close(sock: socket.socket, pipes: dict[socket.socket, _Pipe]) -> None:
    other = pipes[sock].sender
    for end in (sock, other):
        pipes.pop(end, None)
        end.close()


@contextmanager
def delayed(port: int, network: Network) -> Iterator[str]:
    """The URI of a proxy before the server on a port, while entered."""
    numbers = map(str, (port, *astuple(network)))
    command = [sys.executable, "-m", "benchmarks.delay", *numbers]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"redis://{_HOST}:{process.stdout.readline().strip()}"
        finally:
            process.kill()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Network(*map(float, sys.argv[2:])))
