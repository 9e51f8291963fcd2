"""Streamed values: trouble in the middle of one, by other batches, by services, by the target."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from rumpx.engine.plan import Plan
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.model.slots import key_slot
from rumpx.preflight.steps import prepare
from rumpx.throttle.rates import Throttle
from rumpx.transfer.messages import Ack, Batch
from rumpx.transfer.runner import Budget, Permit, Runner
from rumpx.transfer.staging import staging_name, unfinished
from rumpx.transfer.transfer import Transfer
from support.copying import Copying, copy
from support.data import HOUR, compare, keys_of
from support.proxy import Proxy
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]

FROM_1K = ("--stream-from", "1KiB")
MARK = b":rumpx-"


def calls(server: Server, command: str, stat: str = ",calls") -> int:
    """How often a server has executed a command, or rejected it."""
    stats = "," + server.info("commandstats").get(f"cmdstat_{command}", "")
    return int(stats.partition(f"{stat}=")[2].partition(",")[0] or 0)


def limited(server: Server, *rules: str) -> str:
    server.do("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", *rules)
    return f"redis://mover:secret@127.0.0.1:{server.port}"


# One connection for a whole try


@contextmanager
def worker(
    source: Server | Cluster, target: Server | Cluster
) -> Iterator[tuple[Plan, Transfer, Runner]]:
    """What a worker runs, to take one step after the other."""
    ends = parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target")
    plan = prepare(replace(Job(*ends), stream_from=1024, timeout=5))
    budget = Budget(plan.spec.bytes_in_flight)
    with closing(Throttle()) as throttle, closing(plan.spec.build(budget, throttle)) as copier:
        yield plan, copier, Runner(budget)


def test_a_lost_watch_ends_the_try(server: StartServer) -> None:
    """The source's connection is closed while nothing is asked on it: another one watches
    nothing."""
    source, target = server("7.0"), server("7.0")
    client = source.client()
    client.rpush("hot", *range(20_000))
    with worker(source, target) as (plan, copier, runner):
        (partition,) = plan.partitions
        batch = Batch(0, partition.id, 0, partition.node.address, partition.db, [b"hot"])
        links = copier._streamer._requests.source._links
        runner.start(copier.settle(batch))
        cut = turned = 0
        result = None
        while not isinstance(result, Ack):
            result = runner.step()
            for connection in links._connections.values():
                if not cut and not connection.owed:
                    connection.close()
                    cut += 1
            if cut and turned < 10:
                client.execute_command("LMOVE", "hot", "hot", "LEFT", "RIGHT")
                turned += 1
    assert cut and result.counts.copied == 1
    assert target.do("LRANGE", "hot", 0, -1) == source.do("LRANGE", "hot", 0, -1)


def test_another_batchs_redirection_in_the_middle_of_a_string(cluster: StartCluster) -> None:
    """The target's slots are not asked on the connection that carries half a SET."""
    source, target = cluster("7.0", primaries=3), cluster("7.0", primaries=1)
    call = source.client().execute_command
    for key in ("one", "two"):
        call("SET", key, random.Random(key).randbytes(4_000_000))
    with worker(source, target) as (plan, copier, runner):
        right = source.owner(b"one")
        wrong = next(node for node in source.primaries() if node is not source.owner(b"two"))
        batches = [
            Batch(n, plan.partitions[0].id, 0, node.address, 0, [key])
            for n, (node, key) in enumerate(((right, b"one"), (wrong, b"two")))
        ]
        runner.start(copier.settle(batches[0]))
        while not calls(right, "getrange"):
            runner.step()
        runner.start(copier.settle(batches[1]))
        before = calls(source.owner(b"two"), "dump")
        acks: list[Ack] = []
        while len(acks) < 2:
            result = runner.step()
            if isinstance(result, Ack):
                acks.append(result)
    assert [ack.counts.copied for ack in acks] == [1, 1]
    assert calls(source.owner(b"two"), "dump") == before, "after a redirection it is large, too"
    tries = sum(calls(node, "watch") for node in source.primaries())
    assert tries == 2, "no connection was lost, or waited until it timed out"
    assert compare(source, target) == []


def test_a_target_slot_in_migration(cluster: StartCluster) -> None:
    """A large value waits for its end, and is not dumped."""
    source, target = cluster("7.0", primaries=1), cluster("7.0", primaries=3)
    source.client().execute_command("SADD", "big", *range(5000), "x")
    slot = key_slot(b"big")
    owner = target.owner(slot)
    other = next(node for node in target.primaries() if node is not owner)
    (node,) = source.primaries()
    before = calls(node, "dump")
    target.begin_migration(slot, owner, other)
    with Copying(source, target, *FROM_1K) as copying:
        wait_until(lambda: calls(node, "watch"), 60, "a try")
        target.finish_migration(slot)
        copying.finish()
    assert compare(source, target) == []
    assert calls(node, "dump") - before < 10


def test_a_source_slot_in_migration(cluster: StartCluster) -> None:
    """Of a key that has moved already: it is asked for its size there, and not dumped."""
    source, target = cluster("7.0", primaries=3), cluster("7.0", primaries=1)
    source.client().execute_command("SADD", "big", *range(5000), "x")
    slot = key_slot(b"big")
    owner = source.owner(slot)
    other = next(node for node in source.primaries() if node is not owner)
    source.begin_migration(slot, owner, other)
    source.migrate_keys(slot)
    with Copying(source, target, *FROM_1K) as copying:
        wait_until(lambda: calls(owner, "watch", "rejected_calls") > 1, 60, "two tries")
        source.finish_migration(slot)
        copying.finish()
    assert compare(source, target) == []
    assert calls(target.primaries()[0], "rename") >= 1
    assert sum(calls(node, "dump") for node in source.primaries()) < 10


# Replies to SET


def test_a_target_that_is_full_at_the_end_of_a_string(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "string", random.Random(1).randbytes(2_000_000))
    flags = (*FROM_1K, "--max-target-memory", "off", "--max-bytes-per-sec", "1MiB")
    with Copying(source, target, *flags) as copying:
        wait_until(lambda: calls(source, "getrange"), 60, "a value under way")
        target.do("CONFIG", "SET", "maxmemory", 1_000_000)
        done = copying.finish(5)
    assert "out of memory" in done.stderr


def test_a_target_that_becomes_a_replica_at_the_end_of_a_string(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "string", random.Random(1).randbytes(1_000_000))
    with Copying(source, target, *FROM_1K, "--max-bytes-per-sec", "400KiB") as copying:
        wait_until(lambda: calls(source, "getrange"), 60, "a value under way")
        target.do("REPLICAOF", "127.0.0.1", 1)
        wait_until(lambda: calls(source, "watch") > 1, 60, "another try")
        target.do("REPLICAOF", "NO", "ONE")
        copying.finish()
    assert compare(source, target) == []


# Read whole


def test_a_user_without_set(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "string", "x" * 10_000)
    done = copy(source, limited(target, "-set"), *FROM_1K)
    assert compare(source, target) == []
    assert done.warnings.count("refuses SET") == 1
    assert calls(source, "getrange") == 0, "it was asked before the value was read"


def test_words_of_refusals_have_no_members(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0", rename_command=[("HSET", "")])
    source.do("HSET", "hash", *[word for n in range(500) for word in (f"confidential {n}", n)])
    done = copy(source, target, *FROM_1K)
    assert compare(source, target) == []
    assert done.warnings.count("unknown command") == 1
    assert "confidential" not in done.warnings + done.stderr + str(done.summary)


def test_a_value_too_large_to_be_read_whole(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SETRANGE", "string", 70 * 2**20, "x")
    uri = limited(source, "-watch")
    done = copy(uri, target, *FROM_1K, code=3)
    assert done.summary["failures_by_reason"] == {"too large to read whole": 1}
    assert "--stream-from off" in done.summary["failures"][0]["message"]
    copy(uri, target, "--stream-from", "off")
    assert compare(source, target) == []


def test_a_service_that_shards_behind_one_address(cluster: StartCluster) -> None:
    """It looks standalone, and refuses to rename across slots."""
    source, target = cluster("7.0", primaries=1), cluster("7.0", primaries=1)
    source.client().execute_command("SADD", "big", *range(5000), "x")
    done = copy(source, target, *FROM_1K, "--to-cluster", "no", "--from-cluster", "no")
    assert compare(source, target) == []
    (node,) = target.primaries()
    assert calls(node, "rename") == 2 and "whole" not in done.warnings


@pytest.mark.parametrize("key", [b"key", b"a{tag}b", b"odd}{\x00\xff", b"", b"{}"])
def test_a_staging_key_is_in_its_keys_slot(key: bytes) -> None:
    name = staging_name(key)
    assert key_slot(name) == key_slot(key)
    assert unfinished({name: 600_000, key: 5}) == [name]
    assert not unfinished({name: 600_001}) and not unfinished({name: -1})


# Values at the edge


def test_a_hash_of_fields_that_expire_whose_staging_key_is_lost(
    server: StartServer, proxy: StartProxy
) -> None:
    """Right before it takes its name: it is not gone."""
    source, target = server("8.2"), server("8.2")
    call = source.client().execute_command
    call("HSET", "hash", *[word for n in range(1000) for word in (n, "x" * 20)])
    call("HPEXPIRE", "hash", HOUR, "FIELDS", 1000, *range(1000))
    way = proxy(target)
    way.hold(b"HLEN")
    with Copying(source, way, *FROM_1K) as copying:
        wait_until(lambda: way.holding, 60, "the count of its fields")
        target.do("FLUSHALL")
        way.release()
        done = copying.finish()
    assert done.counts["copied"] == 1 and done.counts["gone"] == 0
    assert compare(source, target) == []


def test_a_streams_counters_that_the_target_has_no_place_for(server: StartServer) -> None:
    """Listed, whether it is streamed or not."""
    source, target = server("7.0"), server("6.2")
    for _ in range(1000):
        source.do("XADD", "large", "*", "field", "x" * 100)
    source.do("XADD", "small", "*", "field", 1)
    done = copy(source, target, "--stream-from", "20KiB")
    assert done.summary["losses"] == {"stream counters": 2}
    assert calls(target, "rename") == 2


@pytest.mark.parametrize("new", ["8.2", "9.1"])
def test_field_expiries_in_the_far_future(server: StartServer, new: str) -> None:
    source, target = server("9.1"), server(new)
    source.do("HSET", "hash", *[word for n in range(1000) for word in (n, n)])
    source.do("HPEXPIREAT", "hash", 2**47, "FIELDS", 1, "7")
    copy(source, target, *FROM_1K)
    wanted = 2**47 if new == "9.1" else 2**46 - 1
    assert target.do("HPEXPIRETIME", "hash", "FIELDS", 1, "7") == [wanted]
    assert target.do("HLEN", "hash") == 1000


def test_an_empty_string_with_a_long_name(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "x" * 5000, "")
    source.do("SET", "y" * 5000, "", "PX", HOUR)
    assert copy(source, target, *FROM_1K).counts["copied"] == 2
    assert compare(source, target) == []


def test_staging_keys_by_the_sources_clock(server: StartServer) -> None:
    """Large or small ones are left out, and that is said once."""
    source, target = server("7.0"), server("7.0")
    for kind, number in (("small", 5), ("large", 5000)):
        name = f"{kind}:rumpx-0123456789ab-17"
        source.do("SADD", name, *range(number), "x")
        source.do("PEXPIRE", name, 500_000)
        done = copy(source, target, *FROM_1K)
        assert done.warnings.count("…:rumpx-…") == 1 and done.counts["gone"] >= 1
        source.do("DEL", name)
    assert keys_of(target) == set()


# Permits


def test_alone_does_not_wait_for_a_streamed_value() -> None:
    budget = Budget(100)
    streamed, alone, small = Permit(20, apart=True), Permit(500, alone=True), Permit(1)
    assert budget.grant_at_once(streamed)
    assert budget.grant_at_once(alone)
    assert not budget.grant_at_once(small), "it is alone, streamed values apart"
    budget.release(alone)
    assert budget.grant_at_once(small)
    assert not budget.grant_at_once(alone), "it waits for all others"


def test_a_value_of_which_a_field_expires_each_time(server: StartServer) -> None:
    """The message does not say that it was written."""
    source, target = server("8.2"), server("8.2")
    client = source.client()
    client.hset("hot", mapping={n: "x" * 20 for n in range(5000)})
    for n in range(2000):  # one after the other, every 20 ms
        client.execute_command("HPEXPIRE", "hot", 2000 + 20 * n, "FIELDS", 1, n)
    flags = ("--hot-keys", "fail", "--max-bytes-per-sec", "60KiB")
    done = copy(source, target, *FROM_1K, *flags, code=3)
    assert "a field of it expired" in done.summary["failures"][0]["message"]


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_stream_counters_of_keys_that_were_copied_already(
    server: StartServer, policy: str
) -> None:
    """Listed again, whether they were streamed or not; as where a batch is given twice."""
    source, target = server("8.2"), server("6.2")
    call = source.client().execute_command
    for key, number in (("huge", 25_000), ("large", 1000), ("small", 1)):
        with source.raw() as raw:
            raw.many([("XADD", key, "*", "field", "x" * 100)] * number)
    call("RPUSH", "list", *range(1000))
    flags = ("--stream-from", "20KiB", "--on-conflict", policy)
    copy(source, target, *flags)
    done = copy(source, target, *flags)
    assert (done.counts["repeated"], done.counts["lossy"]) == (4, 3)
    assert done.summary["losses"] == {"stream counters": 3}
