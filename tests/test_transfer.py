"""One partition copied in one process, without a pool: scan, transfer, acks in the same place.

Also how a batch is cut into chunks, on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.engine.plan import Plan
from rumpx.engine.scanner import walk
from rumpx.errors import TargetFull, TargetUnusable, TemporaryError
from rumpx.model.counts import Counts
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job, Scope
from rumpx.model.partitions import Partition
from rumpx.preflight.steps import prepare
from rumpx.servers.connections import select
from rumpx.throttle.rates import Throttle
from rumpx.transfer.chunks import Chunk, ChunkLimits, cut, cut_unsized
from rumpx.transfer.expected_sizes import Expected
from rumpx.transfer.messages import Ack, Batch
from rumpx.transfer.runner import Budget, Runner
from rumpx.transfer.spec import WorkerSpec
from support import data
from support.gates import open_gate
from support.proxy import Proxy
from support.servers import ALL, Server

StartServer = Callable[..., Server]


def planned(source: Server | Proxy, target: Server | Proxy, **options: object) -> Plan:
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target"))
    return prepare(replace(job, **options))  # type: ignore[arg-type]


def batches(plan: Plan, partition: Partition) -> Iterator[Batch]:
    """Walk a partition in this thread."""
    with closing(plan.source.dialer.connect(partition.node.address)) as connection:
        select(connection, partition.db, "source")
        start = partition.span.start
        found = walk(connection, partition, start, plan.scans["source"], open_gate(plan))
        for number, (keys, _) in enumerate(found):
            if keys:
                yield Batch(number, partition.id, 0, partition.node.address, partition.db, keys)


def transfer(spec: WorkerSpec, work: list[Batch], in_flight: int = 4) -> list[Ack]:
    """Do batches as a worker does them, several in flight, in this thread."""
    budget = Budget(spec.bytes_in_flight)
    runner = Runner(budget)
    acks: list[Ack] = []
    waiting = iter(work)
    with closing(Throttle()) as throttle, closing(spec.build(budget, throttle)) as copier:
        started = 0
        while len(acks) < len(work):
            while started < len(acks) + in_flight and (batch := next(waiting, None)):
                runner.start(copier.settle(batch))
                started += 1
            result = runner.step()
            if isinstance(result, Ack):
                acks.append(result)
    assert budget.used == 0, "every permit is given back"
    assert runner.delay() is None
    return acks


def total(acks: list[Ack]) -> Counts:
    return sum((ack.counts for ack in acks), Counts())


def copy_partition(plan: Plan, partition: Partition) -> list[Ack]:
    return transfer(plan.spec, list(batches(plan, partition)))


# Whole partitions


@pytest.mark.smoke
@pytest.mark.parametrize("version", ALL)
def test_one_partition_with_every_type(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    keys = data.every_type(source.client(), version)
    plan = planned(source, target)
    (partition,) = plan.partitions

    acks = copy_partition(plan, partition)

    assert total(acks).copied == len(keys)
    assert total(acks).failed == 0
    tolerance = 3 if version == "6.2" else 0
    assert data.compare(source, target, ttl_tolerance_ms=tolerance) == []


def test_the_parts_of_a_table_make_the_whole(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 4000)
    plan = planned(source, target, partitions=4)
    assert len(plan.partitions) == 4

    for partition in plan.partitions:
        copied = total(copy_partition(plan, partition)).copied
        assert 800 < copied < 1200

    assert data.compare(source, target) == []


def test_one_part_of_a_cluster(cluster: Callable[..., object], server: StartServer) -> None:
    source, target = cluster("8.1", primaries=2), server("9.1")
    data.fill_mixed(source, 2000)  # type: ignore[arg-type]
    plan = planned(source, target)  # type: ignore[arg-type]

    for partition in plan.partitions:
        assert total(copy_partition(plan, partition)).failed == 0

    assert data.compare(source, target) == []  # type: ignore[arg-type]


def test_into_another_database(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 300, db=3)
    plan = planned(source, target, scope=Scope(databases=(3,), map_db=((3, 7),)))

    for partition in plan.partitions:
        copy_partition(plan, partition)

    assert data.compare(source, target, db_map={3: 7}) == []


# What becomes of keys


def test_keys_that_are_gone_are_counted(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 10)
    plan = planned(source, target)
    (batch,) = batches(plan, plan.partitions[0])
    source.do("DEL", b"k1:1", b"k1:2")
    source.do("PEXPIREAT", b"k1:3", 1)

    (ack,) = transfer(plan.spec, [batch])

    assert (ack.counts.copied, ack.counts.gone, ack.counts.failed) == (7, 3, 0)
    assert data.compare(source, target) == []


def test_a_repeated_batch_does_no_harm(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 100)
    plan = planned(source, target)
    work = list(batches(plan, plan.partitions[0]))

    transfer(plan.spec, work)
    again = total(transfer(plan.spec, work))
    failing = total(transfer(replace(plan.spec, on_conflict="fail"), work))

    assert again.copied == 100, "overwritten by the same"
    assert (failing.copied, failing.repeated, failing.failed) == (0, 100, 0)
    assert data.compare(source, target) == []


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_other_values_are_not_overwritten_by_policy(server: StartServer, policy: str) -> None:
    source, target = server("7.0"), server("9.1")
    source.do("SET", "same", "value")
    target.do("SET", "same", "value")
    source.do("SET", "other", "theirs")
    target.do("SET", "other", "mine")
    source.do("SET", "expires", "x", "EX", 1000)
    target.do("SET", "expires", "x", "EX", 5000)
    source.do("SET", "new", "value")
    plan = planned(source, target, on_conflict=policy)

    (ack,) = copy_partition(plan, plan.partitions[0])

    counts = ack.counts
    assert (counts.copied, counts.repeated) == (1, 1)
    assert (counts.skipped, counts.failed) == ((2, 0) if policy == "skip" else (0, 2))
    failed = sorted(failure.key for failure in ack.failures)
    assert failed == ([] if policy == "skip" else [b"expires", b"other"])
    assert target.do("GET", "other") == b"mine"
    assert target.do("TTL", "expires") > 4000


def test_payloads_that_the_target_cannot_read_fail_by_key(server: StartServer) -> None:
    source, target = server("8.2"), server("6.2")
    source.do("SET", "plain", "value")
    source.do("VADD", "vectors", "VALUES", 2, 1, 1, "element")
    plan = planned(source, target)

    (ack,) = copy_partition(plan, plan.partitions[0])

    assert ack.counts.copied == 1
    (failure,) = ack.failures
    assert (failure.key, failure.reason) == (b"vectors", "no module")
    assert "the module type vectorset" in failure.message


# Trouble


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_connections_that_break_in_the_middle(
    server: StartServer, proxy: Callable[..., Proxy], side: str, direction: str
) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 2000)
    middle = proxy(source if side == "source" else target)
    ends = (middle, target) if side == "source" else (source, middle)
    plan = planned(*ends)
    work = list(batches(plan, plan.partitions[0]))
    # Replies of RESTORE are five bytes each; everything else is larger.
    middle.cut_after(3001 if (side, direction) == ("target", "down") else 30_001, direction)

    acks = transfer(plan.spec, work)

    assert middle.cuts == 1
    assert total(acks).copied == 2000 and total(acks).failed == 0
    assert data.compare(source, target) == []


def test_a_target_that_does_not_come_back(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 50)
    plan = planned(source, target, retry_for=0.2)
    work = list(batches(plan, plan.partitions[0]))
    target.kill()

    with pytest.raises(TemporaryError, match=r"Gave up after 0.2 s .* cannot be reached"):
        transfer(plan.spec, work)


def test_a_target_that_is_full(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 50)
    plan = planned(source, target)
    target.do("CONFIG", "SET", "maxmemory", 1)

    with pytest.raises(TargetFull, match="out of memory"):
        copy_partition(plan, plan.partitions[0])


def test_a_permission_that_is_taken_away(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 50)
    plan = planned(source, target)
    target.do("ACL", "SETUSER", "default", "-restore")

    with pytest.raises(TargetUnusable, match=r"\+restore"):
        copy_partition(plan, plan.partitions[0])


# Sizes


def test_large_values_are_read_in_chunks_that_fit_the_budget(
    server: StartServer, proxy: Callable[..., Proxy]
) -> None:
    source, target = server("7.0"), server("9.1")
    with source.raw() as raw:
        raw.many([("SET", f"large:{n}", bytes([n]) * 300_000) for n in range(40)])
        raw.many([("SETRANGE", f"huge:{n}", 3_000_000, "x") for n in range(3)])
    data.fill_mixed(source, 500)
    plan = planned(source, target, max_bytes_in_flight=2**20, stream_from=2**21)

    acks = copy_partition(plan, plan.partitions[0])

    assert total(acks).copied == 543
    assert data.compare(source, target) == []


limits = st.builds(
    ChunkLimits,
    pipeline_keys=st.integers(1, 50),
    chunk_bytes=st.integers(1, 5000),
    big=st.integers(1024, 2500),
)


def trusted() -> Expected:
    """Sizes of all magnitudes have proven so true."""
    expected = Expected(least=0.0)
    for power in range(40):
        expected.learn([2**power] * 200, [2**power] * 200)
    return expected


@given(sizes=st.lists(st.integers(1, 3000), max_size=200), limits=limits)
def test_chunks_by_size(sizes: list[int], limits: ChunkLimits) -> None:
    keys = [b"%d" % n for n in range(len(sizes))]
    expected = trusted()

    chunks: list[Chunk] = []
    while (done := sum(len(chunk.keys) for chunk in chunks)) < len(keys):
        chunks.append(cut(keys, sizes, done, limits, expected))

    assert [key for chunk in chunks for key in chunk.keys] == keys
    assert [size for chunk in chunks for size in chunk.sizes or ()] == sizes
    for chunk in chunks:
        assert chunk.keys and chunk.size == chunk.estimate == sum(chunk.sizes or ())
        assert chunk.size <= limits.chunk_bytes or len(chunk.keys) == 1
        assert not chunk.alone or (len(chunk.keys) == 1 and chunk.size >= limits.big)
    alone = {key for chunk in chunks if chunk.alone for key in chunk.keys}
    for key, size in zip(keys, sizes, strict=True):
        if size >= limits.big:
            assert key in alone, "a big key is DUMPed with nothing else in flight"


@given(count=st.integers(1, 300), size=st.integers(1, 10**6), limits=limits)
def test_chunks_without_sizes(count: int, size: int, limits: ChunkLimits) -> None:
    """All payloads were of one size."""
    keys = [b"%d" % n for n in range(count)]
    expected = Expected(least=0.0)
    expected.learn([512] * 200, [size] * 200)

    done = 0
    while done < count:
        chunk = cut_unsized(keys, done, limits, expected)
        assert chunk.keys == keys[done : done + len(chunk.keys)]
        assert len(chunk.keys) == 1 or len(chunk.keys) * size <= limits.chunk_bytes + 1
        assert chunk.alone == (size >= limits.big)
        done += len(chunk.keys)
