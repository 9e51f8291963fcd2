"""Memory stays bounded: ours by the budget of bytes in flight, and so the source's."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from support import data
from support.raw import Raw
from support.run import Running, start_rumpx
from support.servers import Server

MB = 10**6
StartServer = Callable[..., Server]


def memory_of(process: psutil.Process) -> int:
    """What a process has for itself and its share of what it shares (libraries)."""
    with contextlib.suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


@dataclass
class Watch:
    """The highest memory of a run (all its processes), and of a server, seen in short intervals."""

    run: Running
    server: Server
    ours: int = 0
    servers: int = 0
    samples: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        with self.server.raw() as raw:
            while not self._end.is_set():
                self._look(raw)

    def _look(self, raw: Raw) -> None:
        self.servers = max(self.servers, int(raw.info("memory")["used_memory"]))
        with contextlib.suppress(psutil.Error):
            main = psutil.Process(self.run.pid)
            family = [main, *main.children(recursive=True)]
            self.ours = max(self.ours, sum(map(memory_of, family)))
            self.samples += 1

    def end(self) -> None:
        self._end.set()


@contextlib.contextmanager
def watched(run: Running, server: Server) -> Iterator[Watch]:
    watch = Watch(run, server)
    thread = threading.Thread(target=watch.watch)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


def copy_watched(source: Server, target: Server, *flags: str) -> Watch:
    """A whole copy, which must succeed."""
    words = ("--from", source.uri, "--to", target.uri, "--progress", "none", *flags)
    with start_rumpx(*words) as run, watched(run, source) as watch:
        done = run.wait(100)
    assert done.returncode == 0, done.stderr
    assert watch.samples >= 3
    return watch


def add_large(server: Server, name: str, size: int, seed: int) -> None:
    """A string of random bytes, written in pieces."""
    rng = random.Random(seed)
    with server.raw() as raw:
        for start in range(0, size, MB):
            raw.do("SETRANGE", name, start, rng.randbytes(min(MB, size - start)))


def used_memory(server: Server) -> int:
    return int(server.info("memory")["used_memory"])


@pytest.mark.smoke
def test_small_keys_need_little(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 200_000)

    watch = copy_watched(source, target, "--workers", "4")

    assert watch.ours < 250 * MB, f"{watch.ours / MB:.0f} MB"
    assert target.do("DBSIZE") == 200_000


def test_large_values_need_no_more_than_the_budget(server: StartServer) -> None:
    """40 values of 20 MB; each is larger than one worker's budget, which is 16 MiB."""
    # Without compression, which random bytes would only be slowed down by.
    source, target = server("7.0", rdbcompression="no"), server("7.0", rdbcompression="no")
    size, workers = 20 * MB, 4
    add_large(source, "large:0", size, seed=1)
    with source.raw() as raw:
        for n in range(1, 40):
            raw.do("COPY", "large:0", f"large:{n}")
    before = used_memory(source)

    watch = copy_watched(source, target, "--workers", str(workers))

    assert watch.ours < 1000 * MB, f"{watch.ours / MB:.0f} MB"
    growth = watch.servers - before
    allowed = workers * (16 * 2**20 + size) + 10 * MB
    assert growth < allowed, f"{growth / MB:.0f} MB of {allowed / MB:.0f}"
    assert target.do("DBSIZE") == 40
    assert data.compare(source, target, keys=[b"large:0", b"large:39"]) == []


def test_a_small_budget_holds_too(server: StartServer) -> None:
    source, target = server("9.1", rdbcompression="no"), server("9.1", rdbcompression="no")
    with source.raw() as raw:
        for n in range(150):
            raw.do("SET", f"middling:{n}", random.Random(n).randbytes(500_000))
    before = used_memory(source)

    watch = copy_watched(
        source, target, "--workers", "2", "--max-bytes-in-flight", "2MiB", "--batch-keys", "1000"
    )

    # The budget of both workers, one value more for each, and what connections need.
    assert watch.servers - before < 2 * (2 * 2**20 + 500_000) + 8 * MB
    assert watch.ours < 300 * MB
    assert data.compare(source, target) == []


def test_values_above_the_stream_limit(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 2000)
    add_large(source, "big string", 30 * MB, seed=2)
    with source.raw() as raw:
        for start in range(0, 60_000, 10_000):
            pairs = [word for n in range(start, start + 10_000) for word in (f"field-{n}", n)]
            raw.do("HSET", "big hash", *pairs)
            raw.do("RPUSH", "big list", *pairs)
    source.do("PEXPIRE", "big string", 3_600_000)

    copy_watched(source, target, "--stream-from", "1MiB")

    assert data.compare(source, target) == []
