"""Clients of a source that is followed: writers that keep a rate, and a probe of the lag.

A *writer* is a process that sends SETs of random keys on one connection. Each millisecond it sends
those that are due, also while earlier answers are missing, so that the rate is kept as long as the
source can do it; the rate that was reached is that of the answers.

The *probe* is a process that sets a key of its own on the source each 10 ms, whether or not earlier
ones have arrived, and records for each the time from its sending until the target has it. The
target tells that at once (client-side caching, for the probe's keys alone), so nothing is polled.

Both are woken before others as far as the system grants it: see `client`. Run as commands,

    python -m benchmarks.changes write PORT RATE KEYS SEED
    python -m benchmarks.changes probe SOURCE-PORT TARGET-PORT

they print a line at their start, stop at the end of standard input, and then write their results.
"""

from __future__ import annotations

import gc
import json
import random
import select
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any, Final, Self

import hiredis

from benchmarks.client import Percentiles, be_on_time
from benchmarks.measure import Failed
from rumpx.demo import SEED, Server
from rumpx.servers.resp import encode

WRITERS: Final = 2
_HOST: Final = "127.0.0.1"
_OK: Final = b"+OK\r\n"
_SET: Final = b"*3\r\n$3\r\nSET\r\n$18\r\nchanged:%010d\r\n$64\r\n%016d%b\r\n"
_NOISE: Final = [random.Random(SEED + n).randbytes(48) for n in range(1000)]
_CHOICES: Final = 2**16
_TURN_SECONDS: Final = 0.001
_CHUNK_KEYS: Final = 1000
_PROBE_SECONDS: Final = 0.01
_PROBE: Final = "probe:%d"
# A lag of more than ten seconds is none any more.
_PROBES: Final = 1000
_ARRIVE_SECONDS: Final = 60.0


def sets(keys: Iterator[int], number: int, first: int) -> bytes:
    """Return SETs of the next `number` keys. Each value is another one, by its number, from `first`
    on, and cannot be compressed."""
    return b"".join(
        [
            _SET % (key, n, _NOISE[n % len(_NOISE)])
            for n, key in enumerate(islice(keys, number), first)
        ]
    )


def change_all(server: Server, keys: int, first: int) -> None:
    """SET each key that the writers of so many keys may write; values as of `sets`."""
    numbers = iter(range(keys))
    with socket.create_connection((_HOST, server.port), timeout=60) as sock:
        for start in range(0, keys, _CHUNK_KEYS):
            number = min(_CHUNK_KEYS, keys - start)
            sock.sendall(sets(numbers, number, first + start))
            missing = number * len(_OK)
            while missing:
                missing -= len(_answers(sock))


def _answers(sock: socket.socket) -> bytes:
    """Return the next bytes of answers, which must all be +OK."""
    data = sock.recv(2**16)
    if not data or b"-" in data:
        raise Failed(f"The source refused a write: {data[:200]!r}")
    return data


class _Process:
    """One of this module's commands while a `with` is open; `told` is its output afterwards."""

    def __init__(self, *words: object) -> None:
        self._words = [*map(str, words)]
        self._process: subprocess.Popen[bytes] | None = None
        self.told = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.changes", *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise Failed(f"A client did not begin: {' '.join(self._words)}.")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        try:
            self.told, _none = self._process.communicate(timeout=2 * _ARRIVE_SECONDS)
        finally:
            self._process.kill()  # nothing, if it has ended
        if self._process.returncode:
            raise Failed(f"A client failed: {' '.join(self._words)}.")


class Writers:
    """Writers of a source while a `with` is open.

    Args:
        rate: writes a second of all together.
        keys: the number of keys that they write.

    Attributes:
        written: acknowledged writes; `rate`: a second; both are known afterwards.
    """

    def __init__(self, server: Server, rate: float, keys: int) -> None:
        each = rate / WRITERS
        self._processes = [
            _Process("write", server.port, each, keys, SEED + n) for n in range(WRITERS)
        ]
        self._stack = ExitStack()
        self.written = 0
        self.rate = 0.0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for process in self._processes:
                stack.enter_context(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for process in self._processes:
            told = json.loads(process.told)
            self.written += told["written"]
            self.rate += told["written"] / told["seconds"]


class Probe(_Process):
    """The probe while a `with` is open."""

    def __init__(self, source: Server, target: Server) -> None:
        super().__init__("probe", source.port, target.port)

    @property
    def lag(self) -> Percentiles:
        """Of the seconds until each change was on the target."""
        return Percentiles.of(array("d", self.told))


# The commands


def _write(port: int, rate: float, keys: int, seed: int) -> None:
    chosen = cycle(random.Random(seed).choices(range(keys), k=_CHOICES))
    sent = missing = 0
    with socket.create_connection((_HOST, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watched: list[Any] = [sock, sys.stdin]
        begin = time.perf_counter()
        while sys.stdin in watched or missing:
            due = int((time.perf_counter() - begin) * rate) - sent
            if sys.stdin in watched and due > 0:
                sock.sendall(sets(chosen, due, seed + sent))
                sent += due
                missing += due * len(_OK)
            time.sleep(_TURN_SECONDS)
            ready, _, _ = select.select(watched, [], [], 0)
            if sock in ready:
                missing -= len(_answers(sock))
            if sys.stdin in ready:
                watched.remove(sys.stdin)
        seconds = time.perf_counter() - begin
    json.dump({"written": sent, "seconds": seconds}, sys.stdout)


class _Lag:
    """The probe's connections, and what became of its changes."""

    def __init__(self, source_port: int, target_port: int) -> None:
        self._source = socket.create_connection((_HOST, source_port))
        self._source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._target = socket.create_connection((_HOST, target_port))
        prefix = _PROBE.partition("%")[0]
        asked = ("HELLO", 3), ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)
        self._target.sendall(b"".join(encode(*command) for command in asked))
        self._parser: Any = hiredis.Reader()  # hiredis has no types
        self._under_way: dict[bytes, float] = {}
        self._took = array("d")

    def run(self) -> None:
        """Change keys until standard input ends, and wait until the last one has arrived."""
        watched: list[Any] = [self._source, self._target, sys.stdin]
        begin, number = time.perf_counter(), 0
        until = float("inf")
        while sys.stdin in watched or self._under_way:
            now = time.perf_counter()
            rest = begin + number * _PROBE_SECONDS - now
            if sys.stdin not in watched:
                rest = _ARRIVE_SECONDS
                if now > until:
                    raise Failed(f"{len(self._under_way)} changes did not arrive.")
            elif rest <= 0:
                self._change(number)
                number += 1
                continue
            ready, _, _ = select.select(watched, [], [], rest)
            if self._target in ready:
                self._hear()
            if self._source in ready:
                _answers(self._source)
            if sys.stdin in ready:
                watched.remove(sys.stdin)
                until = now + _ARRIVE_SECONDS

    def _change(self, number: int) -> None:
        name = _PROBE % (number % _PROBES)
        self._under_way[name.encode()] = time.perf_counter()
        self._source.sendall(encode("SET", name, number))

    def _hear(self) -> None:
        data = self._target.recv(2**16)
        now = time.perf_counter()
        self._parser.feed(data)
        while (message := self._parser.gets()) is not False:
            if isinstance(message, hiredis.ReplyError) or not data:
                raise Failed(f"The target does not tell of changes: {message}")
            if isinstance(message, list):
                arrived = filter(None, (self._under_way.pop(name, None) for name in message[1]))
                self._took.extend(now - sent for sent in arrived)

    def write(self) -> None:
        """Write the seconds that each change took to standard output."""
        sys.stdout.buffer.write(self._took.tobytes())


def main() -> None:
    command, *words = sys.argv[1:]
    probe = _Lag(*map(int, words)) if command == "probe" else None
    print("begins", flush=True)
    gc.disable()
    be_on_time()
    if probe:
        probe.run()
        probe.write()
    else:
        port, rate, keys, seed = words
        _write(int(port), float(rate), int(keys), int(seed))


if __name__ == "__main__":
    main()
