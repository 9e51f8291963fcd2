"""Sizes are not asked where INFO's distributions prove that no value is large; else they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from rumpx.engine.plan import Plan
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.preflight.steps import prepare
from rumpx.servers.keysizes import largest_payloads
from rumpx.throttle.rates import Throttle
from rumpx.transfer.messages import Ack, Batch
from rumpx.transfer.runner import Budget, Runner
from support.copying import Copying, assert_exact, copy, verify
from support.data import compare
from support.raw import Raw
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

BOUNDED = "8.2"
KEYS = 2000
# A copy and a comparison try MEMORY USAGE on one key before they start.
TRIED = 2


def asked(server: Server) -> int:
    """How many keys' sizes a server was asked for by a run."""
    stats = server.info("commandstats")
    told = stats.get("cmdstat_memory|usage") or stats.get("cmdstat_memory", "calls=0,")
    found = re.search(r"calls=(\d+)", told)
    assert found
    return max(0, int(found[1]) - TRIED)


def strings(number: int, *, size: int = 100) -> list[tuple[Any, ...]]:
    return [("SET", f"s:{n:05}", "v" * (n % size)) for n in range(number)]


def filled(server: Server, commands: list[tuple[Any, ...]], db: int = 0) -> Server:
    with server.raw() as raw:
        raw.do("SELECT", db)
        raw.many(commands)
    return server


# What INFO proves


SIZES = [0, 1, 2, 3, 15, 16, 63, 64, 65, 1023, 1024, 1025, 16_383, 16_384, 2**20 - 1, 2**20]


def read_bounds(raw: Raw) -> dict[int, int]:
    told: bytes = raw.do("INFO", "keysizes", "keyspace")
    return largest_payloads(told.decode())


@pytest.mark.parametrize("size", SIZES)
def test_no_payload_is_larger_than_proven(server: StartServer, size: int) -> None:
    with filled(server(BOUNDED, rdbcompression="no"), strings(10, size=1)).raw() as raw:
        raw.do("SET", "largest", "x" * size)
        raw.do("SET", "number", 10**17)
        payloads: list[bytes] = [raw.do("DUMP", key) for key in ("largest", "number")]

        (bound,) = read_bounds(raw).values()

        assert max(map(len, payloads)) <= bound <= 2 * max(size, 16) + 18


def test_each_database_by_itself(server: StartServer) -> None:
    source = filled(server(BOUNDED), [("SET", "a", "x" * 40)])
    filled(source, [("SET", "b", "x" * 5000), ("SET", "gone", "x" * 90_000), ("DEL", "gone")], 3)
    filled(source, [("SET", "c", "x"), ("HSET", "h", "f", "v")], 4)
    filled(source, [("SET", "d", "x"), ("XADD", "e", "*", "f", "v")], 5)
    filled(source, [("SET", "f", "x"), ("VADD", "v", "VALUES", 1, 1, "a")], 6)
    with source.raw() as raw:
        assert read_bounds(raw) == {0: 63 + 18, 3: 8191 + 18}


HASHES = """\
# Keysizes\r
db0_distrib_strings_sizes:0=1,16=2\r
db0_distrib_hashes_items:1=4,2M=1\r
{sizes}\
db1_distrib_lists_items:2=3\r
\r
# Keyspace\r
db0:keys=8,expires=0,avg_ttl=0,subexpiry=0\r
db1:keys=3,expires=0,avg_ttl=0,subexpiry=0\r
"""


@pytest.mark.parametrize(
    ("sizes", "bounds"),
    [
        ("", {}),
        ("db0_distrib_hashes_sizes:64=4,1K=1\r\n", {0: 2047 + 18}),
        ("db0_distrib_hashes_sizes:64=4,1E=1\r\n", {0: 2 * 2**60 - 1 + 18}),
        ("db0_distrib_hashes_sizes:64=4\r\n", {}),
    ],
)
def test_bytes_of_collections(sizes: str, bounds: dict[int, int]) -> None:
    """As Redis 8.6 writes them with `key-memory-histograms yes`."""
    assert largest_payloads(HASHES.format(sizes=sizes)) == bounds


@pytest.mark.parametrize("classes", ["", "16", "16=x", "-1=2", "16=3,", "1Q=3"])
def test_unknown_classes_prove_nothing(classes: str) -> None:
    with pytest.raises(ValueError, match="class"):
        largest_payloads(f"db0_distrib_strings_sizes:{classes}\r\ndb0:keys=3\r\n")


# What a run asks


@pytest.mark.smoke
@pytest.mark.parametrize("limit", ["off", "20"])
def test_small_strings_alone(server: StartServer, limit: str) -> None:
    source, target = filled(server(BOUNDED), strings(KEYS)), server(BOUNDED)
    filled(source, strings(KEYS), 7)

    done = copy(source, target, "--max-source-latency", limit)
    verify(source, target, "--max-source-latency", limit)

    assert_exact(done, source, target, 2 * KEYS)
    assert asked(source) <= TRIED  # the comparison's own try


MEDIUM = [("SET", f"m:{n}", "x" * 20_000) for n in range(100)]
OTHERS: dict[str, list[tuple[Any, ...]]] = {
    "a large string": [("SET", "large", "x" * 100_000)],
    "a hash": [("HSET", "hash", "field", "value")],
    "a stream": [("XADD", "stream", "*", "field", "value")],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=list(OTHERS))
def test_others_among_them(server: StartServer, other: list[tuple[Any, ...]]) -> None:
    """Of a database with others each key's size is asked, of one without none."""
    source, target = filled(server(BOUNDED), [*strings(KEYS), *other]), server(BOUNDED)
    filled(source, strings(3 * KEYS), 1)

    done = copy(source, target)

    assert_exact(done, source, target, 4 * KEYS + 1)
    assert KEYS < asked(source) < 2 * KEYS


def test_groups_of_strings_that_may_be_too_large(server: StartServer) -> None:
    """A group of 50 keys in MULTI could have more than a MiB, however many bytes may be in flight
    together."""
    source, target = filled(server(BOUNDED), MEDIUM), server(BOUNDED)

    copy(source, target, "--max-bytes-in-flight", "1GiB")

    assert asked(source) >= len(MEDIUM)


def test_pipelines_of_a_limited_rate(server: StartServer) -> None:
    """Where a pipeline of the largest is more than a rate of bytes allows, sizes are asked."""
    source, target = filled(server(BOUNDED), strings(KEYS, size=1500)), server(BOUNDED)

    copy(source, target, "--max-bytes-per-sec", "1MB")

    assert asked(source) >= KEYS


@pytest.mark.parametrize("version", ["6.2", "7.0", "8.1", "9.1"])
def test_servers_without_distributions(server: StartServer, version: str) -> None:
    source, target = filled(server(version), strings(KEYS)), server(version)

    done = copy(source, target)

    assert_exact(done, source, target, KEYS, ttl=0)
    assert asked(source) >= KEYS
    assert "failed_calls=0" in source.info("commandstats")["cmdstat_info"]


def test_a_source_that_refuses_info(server: StartServer) -> None:
    source, target = filled(server(BOUNDED), strings(KEYS)), server(BOUNDED)
    source.do("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-info")
    uri = source.uri.replace("redis://", "redis://reader:secret@")

    copy(uri, target)

    assert compare(source, target) == []
    assert asked(source) >= KEYS


def test_each_node_by_itself(cluster: StartCluster, server: StartServer) -> None:
    source, target = cluster(BOUNDED, 3), server(BOUNDED)
    client = source.client()
    for n in range(KEYS):
        client.set(f"s:{n}", "v" * (n % 100))
    client.hset("hash", "field", "value")
    nodes = source.primaries()
    counts = [node.do("DBSIZE") for node in nodes]
    own = [bool(node.info("keysizes").get("db0_distrib_hashes_items")) for node in nodes]

    copy(source, target)

    assert compare(source, target) == []
    for node, keys, holds_hash in zip(nodes, counts, own, strict=True):
        assert asked(node) >= keys - TRIED if holds_hash else asked(node) == 0


def test_a_large_string_in_the_middle_of_a_copy(server: StartServer) -> None:
    """From then on sizes are asked, within seconds."""
    keys = 20_000
    source, target = filled(server(BOUNDED), strings(keys)), server(BOUNDED)
    with Copying(source, target, "--max-keys-per-sec", "1000") as copying:
        with copying.held_at(target, 1000):
            assert asked(source) == 0
            source.do("SET", "large", "x" * 10_000_000)
        wait_until(lambda: asked(source) > 0, 20, "sizes are asked")
        assert copying.run.alive


# What is in flight


def planned(source: Server, target: Server, **changes: Any) -> Plan:
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target"))
    return prepare(replace(job, on_conflict="replace", partitions=1, **changes))


class CountingThrottle(Throttle):
    """Counts the commands that turns were taken for."""

    ops = 0

    def take(self, *, keys: int = 0, payload: float = 0, ops: int = 0) -> float:
        self.ops += ops
        return super().take(keys=keys, payload=payload, ops=ops)


class Worker:
    """Settles batches as a worker does."""

    def __init__(self, plan: Plan) -> None:
        self.budget = Budget(plan.spec.bytes_in_flight)
        self.runner = Runner(self.budget)
        self.throttle = CountingThrottle()
        self.handler = plan.spec.build(self.budget, self.throttle)
        self.peak = 0

    def settle(self, names: list[str]) -> list[Ack]:
        keys = [name.encode() for name in names]
        parts = [keys[start : start + 1000] for start in range(0, len(keys), 1000)]
        for number, part in enumerate(parts):
            self.runner.start(self.handler.settle(Batch(number, 0, 0, None, 0, part)))
        acks: list[Ack] = []
        while len(acks) < len(parts):
            result = self.runner.step()
            self.peak = max(self.peak, self.budget.used)
            if isinstance(result, Ack):
                acks.append(result)
        return acks

    def close(self) -> None:
        self.handler.close()
        self.throttle.close()


@pytest.mark.parametrize(("size", "none_asked"), [(500, True), (520, False)])
def test_the_budget_holds_all_that_is_not_asked(
    server: StartServer, size: int, none_asked: bool
) -> None:
    """200 values of 529 bytes are a quarter of the budget at most, such of 1,041 are more: then
    sizes are asked."""
    commands = [("SET", f"s:{n:05}", "x" * size) for n in range(3000)]
    source, target = filled(server(BOUNDED, rdbcompression="no"), commands), server(BOUNDED)
    plan = planned(source, target, max_bytes_in_flight=440_000, workers=4, batch_keys=200)
    assert (plan.spec.pipeline_keys, plan.spec.batches_in_flight) == (200, 3)

    with closing(Worker(plan)) as worker:
        acks = worker.settle([f"s:{n:05}" for n in range(3000)])

    assert sum(ack.counts.copied for ack in acks) == 3000
    assert worker.peak <= 440_000
    assert (asked(source) == 0) is none_asked
    assert compare(source, target) == []


@pytest.mark.parametrize("more", [[], OTHERS["a hash"]], ids=["none asked", "asked"])
def test_a_rate_of_commands_counts_those_that_are_sent(
    server: StartServer, more: list[tuple[Any, ...]]
) -> None:
    source, target = filled(server(BOUNDED), [*strings(KEYS), *more]), server(BOUNDED)
    plan = planned(source, target)
    source.do("CONFIG", "RESETSTAT")
    with closing(Worker(plan)) as worker:
        worker.settle([f"s:{n:05}" for n in range(KEYS)])

    stats = source.info("commandstats")
    read = {"dump", "pexpiretime", "multi", "exec", "memory|usage"}
    calls = {
        name: int(told.removeprefix("calls=").partition(",")[0])
        for name, told in stats.items()
        if name.removeprefix("cmdstat_") in read
    }
    assert ("cmdstat_memory|usage" in calls) is bool(more)
    assert 0 < worker.throttle.ops - sum(calls.values()) < 100  # the PING of each pipeline


def test_a_value_that_has_grown_and_cannot_pass(server: StartServer) -> None:
    """Then its size is asked, before it is blamed, and told."""
    source, target = server(BOUNDED, rdbcompression="no"), server(BOUNDED)
    filled(source, strings(500))
    plan = planned(source, target, stream_from=None)
    with closing(Worker(plan)) as worker:
        worker.settle([f"s:{n:05}" for n in range(100)])
        source.do("CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0")
        source.do("SET", "s:00300", "x" * 20_000_000)
        (ack,) = worker.settle([f"s:{n:05}" for n in range(100, 500)])

    (failure,) = ack.failures
    assert failure.key == b"s:00300" and ack.counts.copied == 399
    assert re.search(r"connection lost while it was read: 21\.0 MB,", failure.message)
