"""Small values that replace large ones: freed in the background, and never absent meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.copying import Copied, Copying, copy, verify
from support.data import compare, every_type, fill_mixed, keys_of
from support.middlemen import Damager
from support.proxy import Proxy
from support.servers import ALL, Cluster, Server, at_least, key_slot
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]

REPLACE = ("--on-conflict", "replace")
FROM_1K = ("--stream-from", "1KiB", *REPLACE)
IN_LINE = ["6.2", "7.0", "8.2"]
MILLION = 1_000_000


def calls(server: Server, command: str) -> int:
    """How often a server has executed a command."""
    stats = server.info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(stats.partition("calls=")[2].partition(",")[0])


def fill_hash(server: Server, key: str, fields: int) -> None:
    with server.client().pipeline(transaction=False) as pipe:
        for start in range(0, fields, 1000):
            end = min(fields, start + 1000)
            pipe.hset(key, mapping={f"old:{n}": n for n in range(start, end)})
        pipe.execute()


def large_and_small(source: Server | Cluster, target: Server | Cluster, keys: int) -> None:
    """Hashes on the target that small strings of the source replace, some of which expire."""
    here, there = source.client(), target.client()
    for n in range(keys):
        here.execute_command("SET", f"key:{n}", f"new {n}", *(("EX", 5000) if n % 2 else ()))
        fields = [word for field in range(300) for word in (f"old:{field}", field)]
        there.execute_command("HSET", f"key:{n}", *fields, "never a listpack", "x" * 1000)


def limited(server: Server, *rules: str) -> str:
    server.do("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", *rules)
    return f"redis://mover:secret@127.0.0.1:{server.port}"


# The target goes on


@pytest.mark.parametrize("version", ALL)
def test_a_million_fields_are_freed_in_the_background(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    source.do("SET", "key", "small")
    fill_hash(target, "key", MILLION)
    target.do("CONFIG", "SET", "slowlog-log-slower-than", 200_000)  # in line: 500,000 or more
    target.do("SLOWLOG", "RESET")
    before = int(target.info("memory").get("lazyfreed_objects", 0))
    copy(source, target, *REPLACE)
    assert target.do("GET", "key") == b"small"
    slow = {entry[3][0] for entry in target.do("SLOWLOG", "GET", 100)}
    assert not slow & {b"RESTORE", b"EXEC", b"RENAME", b"RENAMENX", b"UNLINK"}
    freed = lambda: int(target.info("memory")["lazyfreed_objects"]) - before  # noqa: E731
    wait_until(freed, 30, "the old value is freed")
    assert keys_of(target) == {b"key"}


@pytest.mark.parametrize("version", ["8.1", "9.1"])
def test_a_server_that_frees_all_in_the_background_is_asked_nothing(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version)
    large_and_small(source, target, 20)
    before = calls(target, "memory|usage")
    copy(source, target, *FROM_1K)
    assert compare(source, target) == []
    assert calls(target, "rename") == 0 and calls(target, "memory|usage") == before


def test_a_redis_that_frees_all_in_the_background_is_asked_nothing(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    target.do("CONFIG", "SET", "lazyfree-lazy-server-del", "yes")
    large_and_small(source, target, 20)
    copy(source, target, *FROM_1K)
    assert compare(source, target) == []
    assert calls(target, "rename") == 0 and calls(target, "memory|usage") == 0


# Each reader finds the old value or the new one


@contextmanager
def reading(server: Server, keys: int, seen: set[object]) -> Iterator[None]:
    """Read all keys in one transaction after the other."""
    ended = threading.Event()
    client = server.client()

    def read() -> None:
        while not ended.is_set():
            with client.pipeline() as pipe:
                for n in range(keys):
                    pipe.type(f"key:{n}")
                    pipe.execute_command("OBJECT", "ENCODING", f"key:{n}")
                seen.update(zip(*[iter(pipe.execute())] * 2, strict=True))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("version", IN_LINE)
def test_a_key_is_never_absent(server: StartServer, version: str) -> None:
    source, target = server("7.0"), server(version)
    large_and_small(source, target, 50)
    seen: set[object] = set()
    with reading(target, 50, seen):
        copy(source, target, *FROM_1K, "--max-keys-per-sec", "100")
    assert seen == {(b"hash", b"hashtable"), (b"string", b"embstr")}
    assert calls(target, "renamenx") == 50
    tolerance = 0 if at_least(version, "7.0") else 2
    assert compare(source, target, ttl_tolerance_ms=tolerance) == []


@pytest.mark.parametrize("version", IN_LINE)
def test_every_type_over_large_values(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    keys = every_type(source.client(), version)
    for key in keys:
        target.client().hset(key, mapping={f"old:{n}": "x" * 100 for n in range(300)})
    done = copy(source, target, "--stream-from", "20KiB", *REPLACE)
    assert compare(source, target, ttl_tolerance_ms=2) == []
    assert done.counts["copied"] == len(keys)
    assert calls(target, "renamenx") > 20


def test_a_cluster(cluster: StartCluster) -> None:
    source, target = cluster("7.0"), cluster("7.0")
    large_and_small(source, target, 60)
    copy(source, target, *FROM_1K)
    assert compare(source, target) == []
    assert sum(calls(node, "renamenx") for node in target.primaries()) == 60


def test_a_slot_of_the_target_in_migration(cluster: StartCluster) -> None:
    """The key waits for its end."""
    source, target = cluster("7.0", primaries=1), cluster("7.0", primaries=3)
    large_and_small(source, target, 1)
    slot = key_slot(b"key:0")
    owner = target.owner(slot)
    other = next(node for node in target.primaries() if node is not owner)
    target.begin_migration(slot, owner, other)
    target.migrate_keys(slot)
    with Copying(source, target, *FROM_1K) as copying:
        wait_until(lambda: calls(other, "memory|usage"), 60, "its size is asked")
        target.finish_migration(slot)
        copying.finish()
    assert compare(source, target) == []
    assert calls(other, "renamenx") == 1


# The old value stays


def test_a_target_that_is_full_at_that_moment(server: StartServer, proxy: StartProxy) -> None:
    source, target = server("7.0"), server("7.0")
    large_and_small(source, target, 1)
    before = target.do("HGETALL", "key:0")
    way = proxy(target)
    way.hold(b"RENAMENX")
    with Copying(source, way, *FROM_1K, "--max-target-memory", "off") as copying:
        wait_until(lambda: way.holding, 60, "the transaction")
        target.do("CONFIG", "SET", "maxmemory", 1_000_000)
        way.release()
        done = copying.finish(5)
    assert "out of memory" in done.stderr
    assert target.do("HGETALL", "key:0") == before and keys_of(target) == {b"key:0"}


@pytest.mark.parametrize("new", IN_LINE)
def test_a_payload_that_the_target_refuses(server: StartServer, new: str) -> None:
    source, target = server("6.2"), server(new)
    for n in range(3):
        source.do("SADD", f"set:{n}", "a", "b", "damaged" if n == 1 else "sound")
        target.client().hset(f"set:{n}", mapping={f"old:{n}": n for n in range(300)})
        target.do("PEXPIRE", f"set:{n}", 5_000_000)
    at = target.do("PTTL", "set:1")
    with Damager(source, b"damaged", b"DAMAGED") as middle:
        done = copy(middle.uri, target, *FROM_1K, code=3)
    (failure,) = done.summary["failures"]
    assert (failure["key"], failure["reason"]) == ("set:1", "bad payload")
    assert done.counts["copied"] == 2
    assert target.do("HLEN", "set:1") == 300 and 0 < target.do("PTTL", "set:1") <= at
    assert keys_of(target) == keys_of(source)


def test_an_expiry_that_passes_at_that_moment(server: StartServer, proxy: StartProxy) -> None:
    """As where it is past before: the key counts as gone, and the target keeps its own."""
    source, target = server("7.0"), server("7.0")
    large_and_small(source, target, 1)
    way = proxy(target)
    way.hold(b"RENAMENX")
    source.do("PEXPIRE", "key:0", 8000)
    with Copying(source, way, *FROM_1K) as copying:
        wait_until(lambda: way.holding, 60, "the transaction")
        wait_until(lambda: source.do("EXISTS", "key:0") == 0, 60, "the expiry")
        way.release()
        done = copying.finish()
    assert (done.counts["gone"], done.counts["copied"]) == (1, 0)
    assert target.do("HLEN", "key:0") == 301 and keys_of(target) == {b"key:0"}


def test_a_connection_lost_at_that_moment(server: StartServer, proxy: StartProxy) -> None:
    source, target = server("7.0"), server("7.0")
    large_and_small(source, target, 5)
    way = proxy(target)
    way.hold(b"RENAMENX")
    with Copying(source, way, *FROM_1K) as copying:
        wait_until(lambda: way.holding, 60, "the transaction")
        way.cut()
        way.release()
        copying.finish()
    assert compare(source, target) == []


# Refusals


@pytest.mark.parametrize(
    ("rules", "said", "swapped"),
    [(["-memory"], "", True), (["-memory", "-type"], "refuses MEMORY USAGE and TYPE", False),
     (["-rename"], "RENAME", False), (["-renamenx"], "RENAMENX", False),
     (["-unlink"], "UNLINK", False), (["-multi"], "MULTI", False), (["-config"], "", True)],
)  # fmt: skip
def test_a_user_who_may_not(
    server: StartServer, rules: list[str], said: str, swapped: bool
) -> None:
    """It is said once, and old values are freed in line."""
    source, target = server("7.0"), server("7.0")
    large_and_small(source, target, 20)
    fill_hash(target, "large", 2000)
    source.do("SET", "large", "small")
    done = copy(source, limited(target, *rules), *FROM_1K, "--batch-keys", "5")
    assert compare(source, target) == []
    assert (calls(target, "renamenx") == 21) is swapped
    if rules == ["-multi"]:  # else they would be executed one by one
        assert calls(target, "rename") == calls(target, "renamenx") == 0
    told = [line for line in done.warnings.splitlines() if "its other clients wait" in line]
    assert len(told) == (not swapped) and said in done.warnings


def test_a_user_of_some_keys(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    large_and_small(source, target, 20)
    to = limited(target, "resetkeys", "~key:*")
    done = copy(source, to, *FROM_1K)
    assert compare(source, target) == []
    assert calls(target, "renamenx") == 20 and "other clients wait" not in done.warnings


@pytest.mark.parametrize("flags", [("--stream-from", "off"), ("--no-size-check",)])
def test_a_run_that_does_not_look_at_sizes(server: StartServer, flags: tuple[str, ...]) -> None:
    source, target = server("7.0"), server("7.0")
    large_and_small(source, target, 20)
    copy(source, target, *REPLACE, *flags)
    assert compare(source, target) == []
    assert calls(target, "rename") == 0 and calls(target, "memory|usage") == 0


# Cost


def test_payloads_are_sent_once_and_sizes_only_where_keys_exist(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 20_000)

    def count(done: Copied) -> tuple[int, int]:
        assert done.counts["copied"] == 20_000 and compare(source, target) == []
        counts = calls(target, "restore"), calls(target, "memory|usage")
        target.do("CONFIG", "RESETSTAT")
        return counts

    workers = ("--workers", "1")
    target.do("CONFIG", "RESETSTAT")
    restores, asked = count(copy(source, target, *workers))
    assert restores < 20_500 and asked == 0
    restores, asked = count(copy(source, target, *workers, *REPLACE))
    assert asked == 20_000 and restores < 40_000


# Repairs


def test_a_repair(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    large_and_small(source, target, 20)
    fill_hash(target, "extra", 2000)
    before = int(target.info("memory")["lazyfreed_objects"])
    flags = ("--repair", "--delete-extra", "--yes", "--stream-from", "1KiB")
    done = verify(source, target, *flags)
    assert done.summary["repaired"] == 21
    assert compare(source, target) == []
    assert calls(target, "renamenx") == 20 and calls(target, "del") == 0
    freed = lambda: int(target.info("memory")["lazyfreed_objects"]) - before  # noqa: E731
    wait_until(lambda: freed() == 21, 30, "all are freed in the background")


# Streams that no payload holds


@pytest.mark.parametrize("old", [version for version in ALL if version != "9.1"])
def test_a_stream_that_no_payload_holds(server: StartServer, old: str) -> None:
    source, target = server(old), server("9.1")
    call = source.client().execute_command
    call("XADD", "stream", "1-1", "field", "x" * 16_378)
    call("XADD", "stream", "2-1", "field", "after", "other", "x" * 16_378)
    call("XGROUP", "CREATE", "stream", "group", "0")
    call("XREADGROUP", "GROUP", "group", "consumer", "COUNT", 1, "STREAMS", "stream", ">")
    call("PEXPIRE", "stream", 5_000_000)
    for n in range(20):
        call("SET", f"string:{n}", n)
    done = copy(source, target)
    assert done.counts["copied"] == 21
    assert compare(source, target, ttl_tolerance_ms=2) == []
    assert verify(source, target).counts["equal"] == 21
    again = copy(source, target, "--on-conflict", "skip")
    assert again.counts["repeated"] == 21


def test_such_a_stream_for_a_user_who_may_not_watch(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    source.do("XADD", "stream", "1-1", "field", "x" * 16_378)
    source.do("SET", "string", "value")
    done = copy(limited(source, "-watch"), target, code=3)
    assert done.summary["failures_by_reason"] == {"bad data": 1}
    assert keys_of(target) == {b"string"}
