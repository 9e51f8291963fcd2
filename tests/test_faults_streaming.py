"""Faults while a value is copied in pieces: no part of it is ever under its name, nothing stays."""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.copying import Copying, copy, resume
from support.data import compare, keys_of
from support.faults import seeded
from support.proxy import Proxy
from support.run import Running, start_rumpx
from support.servers import Cluster, Server, key_slot
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]

FROM_1K = ("--stream-from", "1KiB")
SLOW = (*FROM_1K, "--max-bytes-per-sec", "400KiB", "--workers", "1")
MARK = b":rumpx-"


def fill(server: Server) -> None:
    """A value of each type of about 700 KB, which takes two seconds at SLOW's rate."""
    client = server.client()
    words = [b"%d:" % n + random.Random(n).randbytes(40) for n in range(12_000)]
    client.set("string", b"".join(words))
    client.rpush("list", *words)
    client.sadd("set", *words)
    client.zadd("zset", {word: n / 7 for n, word in enumerate(words)})
    client.hset("hash", mapping={b"%d" % n: word for n, word in enumerate(words)})
    pipe = client.pipeline(transaction=False)
    for n, word in enumerate(words):
        pipe.execute_command("XADD", "stream", f"{n + 1}-0", "field", word)
    pipe.execute()


def staging(target: Server) -> list[bytes]:
    return [key for key in keys_of(target) if MARK in key]


def assert_no_part(target: Server) -> None:
    """Each key under its own name has all members, and each staging key has a TTL."""
    counters = {
        b"list": "LLEN", b"set": "SCARD", b"zset": "ZCARD", b"hash": "HLEN", b"stream": "XLEN",
    }  # fmt: skip
    for key in keys_of(target):
        if MARK in key:
            left = target.do("PTTL", key)
            assert left == -2 or 0 < left <= 600_000, (key, left)
        elif key in counters:
            assert target.do(counters[key], key) == 12_000, key


def kill_within(run: Running, target: Server, whom: str, rng: random.Random) -> None:
    """Kill a run, or a worker and then the run, at a random moment of a value's way."""
    wait_until(lambda: staging(target) or not run.alive, 60, "a value under way")
    time.sleep(rng.uniform(0, 1.5))  # random on purpose: any step
    if whom == "a worker":
        run.kill_random_worker(rng)
        wait_until(lambda: not run.alive or run.workers(), 60, "another worker")
    run.send_signal(signal.SIGKILL, group=whom != "the coordinator")
    run.wait()


@pytest.mark.parametrize("whom", ["a worker", "the coordinator", "everyone"])
def test_killed_while_it_streams(server: StartServer, state_home: Path, whom: str) -> None:
    """At random moments: before a value takes its name, and right after."""
    rng = seeded()
    source, target = server("7.0"), server("9.1")
    fill(source)
    words = ["--from", source.uri, "--to", target.uri, "--job", "job", *SLOW, "--progress", "none"]
    for _ in range(3):
        words = ["resume", "job"] if (state_home / "job.ledger").exists() else words
        with start_rumpx(*words) as run:
            kill_within(run, target, whom, rng)
        assert_no_part(target)
    resume("--max-bytes-per-sec", "off")
    left = staging(target)
    wanted = [key for key in keys_of(source) if MARK not in key]
    assert compare(source, target, keys=wanted) == []
    assert all(0 < target.do("PTTL", key) <= 600_000 for key in left)


def test_ctrl_c_in_a_long_value(server: StartServer) -> None:
    """It ends soon, leaves nothing, and the resumed run copies the value."""
    source, target = server("7.0"), server("7.0")
    source.client().rpush("list", *[b"x" * 400] * 20_000)
    with Copying(source, target, *FROM_1K, "--max-bytes-per-sec", "100KiB", "--job", "job") as run:
        wait_until(lambda: staging(target), 60, "a value under way")
        wait_until(lambda: "big: list" in run.run.stderr, 30, "its progress")
        asked = time.monotonic()
        run.run.send_signal(signal.SIGINT)
        done = run.finish(130)
        assert time.monotonic() - asked < 20
    assert re.search(r'"note": "big: list [0-9.]+ %"', done.stderr)
    assert keys_of(target) == set()
    resume("--max-bytes-per-sec", "off")
    assert compare(source, target) == []


def test_a_value_takes_its_turns(server: StartServer) -> None:
    """The rate holds within it."""
    source, target = server("7.0"), server("7.0")
    source.client().rpush("list", *[b"x" * 400] * 5000)
    began = time.monotonic()
    copy(source, target, *FROM_1K, "--max-bytes-per-sec", "500KiB")
    assert time.monotonic() - began > 2_000_000 / 500_000 * 0.8
    assert compare(source, target) == []


def test_a_target_that_loses_the_staging_key(server: StartServer) -> None:
    """As if it evicted it, or were flushed: the old value stays, the key fails by name."""
    source, target = server("7.0"), server("9.1")
    source.client().sadd("set", *range(30_000), "x")
    target.do("SET", "set", "old")
    ended = threading.Event()

    def delete() -> None:
        client = target.client()
        while not ended.wait(0.005):
            for key in client.scan_iter(match="*:rumpx-*", count=1000):
                client.delete(key)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        done = copy(
            source, target, *FROM_1K, "--max-bytes-per-sec", "100KiB", "--on-conflict", "replace",
            code=3,
        )  # fmt: skip
    finally:
        ended.set()
        thread.join()
    assert done.summary["failures_by_reason"] == {"staging key lost": 1}
    assert target.do("GET", "set") == b"old" and keys_of(target) == {b"set"}


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_a_key_that_appears_on_the_target_meanwhile(server: StartServer, policy: str) -> None:
    """It was not there at first, and is the target's own."""
    source, target = server("7.0"), server("9.1")
    source.client().rpush("list", *[b"x" * 400] * 5000)
    flags = (*FROM_1K, "--max-bytes-per-sec", "1MiB", "--on-conflict", policy)
    with Copying(source, target, *flags) as copying:
        wait_until(lambda: staging(target), 60, "a value under way")
        target.do("SET", "list", "the target's own")
        done = copying.finish(0 if policy == "skip" else 3)
    assert done.counts["skipped" if policy == "skip" else "failed"] == 1
    assert target.do("GET", "list") == b"the target's own"
    assert keys_of(target) == {b"list"}


def test_a_target_that_is_full_in_the_middle(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.client().rpush("list", *[b"x" * 400 + b"%d" % n for n in range(30_000)])
    flags = (*FROM_1K, "--max-target-memory", "off", "--max-bytes-per-sec", "4MiB", "--job", "job")
    with Copying(source, target, *flags) as copying:
        wait_until(lambda: staging(target), 60, "a value under way")
        used = int(target.info("memory")["used_memory"])
        target.do("CONFIG", "SET", "maxmemory", used + 1_000_000)
        done = copying.finish(5)
    assert "out of memory" in done.stderr
    assert keys_of(target) == set()
    target.do("CONFIG", "SET", "maxmemory", 0)
    resume()
    assert compare(source, target) == []


def test_members_above_the_targets_limit(server: StartServer) -> None:
    """Only that key fails."""
    source, target = server("7.0"), server("7.0", proto_max_bulk_len="1mb")
    client = source.client()
    client.rpush("fits", *[b"x" * 500_000] * 10)
    huge = random.Random(1).randbytes(2_000_000)
    client.hset("huge field", mapping={n: huge for n in range(3)})
    client.set("huge string", huge)
    done = copy(source, target, code=3)
    names = {failure["key"] for failure in done.summary["failures"]}
    assert names == {"huge field", "huge string"}
    assert all("invalid bulk length" in f["message"] for f in done.summary["failures"])
    assert compare(source, target, keys=[b"fits"]) == [] and keys_of(target) == {b"fits"}


@pytest.mark.parametrize("side", ["source", "target"])
def test_connections_that_are_cut(server: StartServer, proxy: StartProxy, side: str) -> None:
    source, target = server("7.0"), server("9.1")
    fill(source)
    way = proxy(source if side == "source" else target)
    way.cut_after(1_500_000, "down" if side == "source" else "up", times=4)
    ends = (way, target) if side == "source" else (source, way)
    done = copy(*ends, *FROM_1K, "--workers", "1")
    assert way.cuts >= 3 and done.counts["copied"] == 6
    assert_no_part(target)
    assert compare(source, target, keys=list(keys_of(source))) == []


def test_a_batch_that_is_given_twice(server: StartServer) -> None:
    """Two workers stream one key at once: each to a key of its own."""
    source, target = server("7.0"), server("9.1")
    fill(source)
    done: list[object] = []

    def work(job: str) -> None:
        flags = ("--on-conflict", "replace", "--job", job)
        done.append(copy(source, target, *FROM_1K, *flags))

    threads = [threading.Thread(target=work, args=(job,)) for job in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert compare(source, target) == []


def test_slots_that_move_meanwhile(cluster: StartCluster) -> None:
    """The source's node redirects in the middle; a target's does."""
    source, target = cluster("7.0"), cluster("7.0")
    router = source.client()
    words = [b"%d:" % n + bytes(60) for n in range(15_000)]
    for n in range(6):
        router.execute_command("RPUSH", f"list:{n}", *words)
    with Copying(source, target, *FROM_1K, "--max-bytes-per-sec", "1MiB") as copying:
        wait_until(
            lambda: any(MARK in key for node in target.primaries() for key in keys_of(node)),
            60,
            "a value under way",
        )
        for end in (source, target):
            for n in range(6):
                slot = key_slot(b"list:%d" % n)
                owner = end.owner(slot)
                others = [node for node in end.primaries() if node is not owner]
                end.migrate_slot(slot, owner, others[0])
        copying.finish(timeout=120)
    assert compare(source, target) == []
