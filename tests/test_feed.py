"""The feed by itself, at real servers: a moment that it has proven is one before which it has told
all that the server had acknowledged.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from rumpx.follower import feed as feed_module
from rumpx.follower.feed import NOTIFICATIONS, TRACKING, Feed, FeedEnded, Flushed, Manner
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Scope
from rumpx.servers.dial import Dialer
from support.servers import ALL, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]

WRITES = 40_000

# Writes fresh keys in small pipelines on many connections, and prints when each was acknowledged,
# by the clock that all processes of a machine have in common.
_WRITER = """
import socket, sys, time
socks = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(6)]
acknowledged = []
for start in range(0, int(sys.argv[2]), 60):
    parts = {sock: range(start + 10 * n, start + 10 * n + 10) for n, sock in enumerate(socks)}
    for sock, numbers in parts.items():
        sock.sendall(b"".join(b"SET own:%d 1\\r\\n" % number for number in numbers))
    for sock, numbers in parts.items():
        left = 10 * len(b"+OK\\r\\n")
        while left:
            left -= len(sock.recv(left))
        now = time.monotonic()
        acknowledged += [(number, now) for number in numbers]
for number, moment in acknowledged:
    print(number, repr(moment))
"""


class Told:
    """The names that a feed has told, each with the moment that it had proven before."""

    feed: Feed

    def __init__(self) -> None:
        self.after: dict[bytes, float] = {}
        self.events: list[FeedEnded | Flushed] = []

    def take(self, names: list[bytes]) -> None:
        proven = self.feed.proven
        for name in names:
            self.after.setdefault(name, proven)

    def tell(self, event: FeedEnded | Flushed) -> None:
        self.events.append(event)


@contextmanager
def feed_of(server: Server, manner: Manner, told: Told, *match: bytes) -> Iterator[Feed]:
    dialer = Dialer(parse_endpoint(server.uri, "source"), "source", 20.0, 20.0)
    dialer = replace(dialer, identifies=True)
    feed = Feed(manner, dialer, "rumpx:test:feed", Scope(match=match), told.take, told.tell)
    told.feed = feed
    feed.start()
    try:
        yield feed
    finally:
        feed.close()


@pytest.mark.parametrize("manner", [TRACKING, NOTIFICATIONS], ids=["tracking", "notifications"])
@pytest.mark.parametrize(
    ("version", "threads"), [*((version, 1) for version in ALL), ("8.2", 2), ("8.2", 3), ("9.1", 3)]
)
def test_what_was_acknowledged_before_a_proven_moment_has_been_told(
    server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    threads: int,
    manner: Manner,
) -> None:
    """With I/O threads a write may be acknowledged, and a PING after it answered, before the feed
    is told of the write: one PING is not enough. (The name often arrives together with the PONG,
    but for that a network gives no guarantee.)"""
    monkeypatch.setattr(feed_module, "RECEIVE_BYTES", 24)
    source = server(version, io_threads=threads, notify_keyspace_events="KA")
    told = Told()
    with feed_of(source, manner, told) as feed:
        feed.prove(math.inf)  # it never stops to ask
        writer = [sys.executable, "-c", _WRITER, str(source.port), str(WRITES)]
        done = subprocess.run(writer, capture_output=True, text=True, check=True, timeout=100)
        last = time.monotonic()
        wait_until(lambda: feed.proven > last or told.events, 60, "all is proven")
    assert told.events == []
    missed = 0
    for line in done.stdout.splitlines():
        number, moment = line.split()
        # A later moment was proven before the name was told.
        missed += told.after.get(b"own:" + number.encode(), math.inf) > float(moment)
    assert not missed, f"{missed} of {WRITES:,} writes were told too late"


@pytest.mark.parametrize("version", ALL)
def test_names_are_told_for_all_databases_but_only_with_the_prefixes_wanted(
    server: StartServer, version: str
) -> None:
    source, told = server(version), Told()
    with feed_of(source, TRACKING, told, b"user:*", b"cart:[1-9]", b"user:7:*") as feed:
        source.do("SET", "user:1", 1)
        source.do("SET", "user:7:a", 1, db=3)
        source.do("SET", "other", 1)
        source.do("SET", "cart:x", 1)
        source.do("RENAME", "user:1", "elsewhere")
        prove(feed)
    assert set(told.after) == {b"user:1", b"user:7:a", b"cart:x"}
    assert told.events == []


@pytest.mark.parametrize("flush", ["FLUSHDB", "FLUSHALL"])
@pytest.mark.parametrize("version", ALL)
def test_a_flush_is_told_also_of_an_empty_database(
    server: StartServer, version: str, flush: str
) -> None:
    source, told = server(version), Told()
    with feed_of(source, TRACKING, told, b"user:*") as feed:
        source.do(flush, db=3)
        prove(feed)
    assert told.events == [Flushed()]


@pytest.mark.parametrize("version", ALL)
def test_the_end_of_a_feed_is_told_once(server: StartServer, version: str) -> None:
    source, told = server(version), Told()
    with feed_of(source, TRACKING, told) as feed:
        prove(feed)
        source.do("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: told.events, 20, "the end is told")
        feed.prove(math.inf)
    run_id = source.info("server")["run_id"]
    (ended,) = told.events
    assert isinstance(ended, FeedEnded) and ended.process == run_id


def test_a_feed_that_is_closed_tells_no_end(server: StartServer) -> None:
    source, told = server("8.2"), Told()
    with feed_of(source, TRACKING, told):
        pass
    wait_until(lambda: b"rumpx:test" not in source.do("CLIENT", "LIST"), 20, "it has ended")
    assert told.events == []


def prove(feed: Feed) -> None:
    """Until all that has been written so far has been told."""
    now = time.monotonic()
    feed.prove(now)
    wait_until(lambda: feed.proven >= now, 20, "all is proven")
