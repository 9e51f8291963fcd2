"""Comparisons by type beside a worker's other work: large values, several batches, the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Literal

import pytest

from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.preflight.steps import prepare
from rumpx.throttle.rates import Pace, Throttle
from rumpx.transfer import under_way
from rumpx.transfer.messages import Ack, Batch, Left
from rumpx.transfer.runner import Budget, Runner
from rumpx.transfer.size_reader import SizesBy
from rumpx.verifier.compare_spec import CompareSpec
from rumpx.verifier.comparer import Comparer
from rumpx.verifier.verdicts import Rules
from support.servers import Server

StartServer = Callable[..., Server]
Policy = Literal["skip", "fail"]

MEMBERS = 20_000


def calls(server: Server, command: str) -> int:
    """How often a server has executed a command."""
    told = server.info("commandstats").get(f"cmdstat_{command}", "calls=0,")
    return int(told.partition("calls=")[2].partition(",")[0])


class Worker:
    """What a worker runs, to take one step after the other."""

    def __init__(
        self, source: Server, target: Server, throttle: Throttle, sizes: SizesBy, digests: bool
    ) -> None:
        ends = parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target")
        self.plan = prepare(replace(Job(*ends), on_conflict="replace", timeout=5))
        copying = replace(self.plan.spec, stream_from=2**16)
        rules = Rules(0, 0, 0, "kept", (None, None))
        abilities = replace(copying.abilities, sizes=sizes)
        copying = replace(copying, abilities=abilities)
        spec = CompareSpec(copying, replace(abilities, multi=False), rules, digests)
        self.budget = Budget(spec.bytes_in_flight)
        self.throttle = throttle
        self.comparer: Comparer = spec.build(self.budget, throttle)
        self.runner = Runner(self.budget)
        self.results: list[Ack | Left] = []

    def start(self, *batches: list[bytes]) -> None:
        (partition,) = self.plan.partitions
        for number, keys in enumerate(batches):
            batch = Batch(number, partition.id, 0, None, 0, keys, "compare")
            self.runner.start(self.comparer.settle(batch))

    def run(self, until: Callable[[], object] = lambda: False) -> None:
        while self.runner.delay() is not None and not until():
            result = self.runner.step()
            if result is not None:
                self.results.append(result)


@contextmanager
def worker(
    source: Server, target: Server, sizes: SizesBy = "memory", digests: bool = False
) -> Iterator[Worker]:
    with closing(Throttle()) as throttle:
        one = Worker(source, target, throttle, sizes, digests)
        with closing(one.comparer):
            yield one


def hashes(*servers: Server, key: str, number: int = MEMBERS) -> None:
    for server in servers:
        client = server.client()
        client.hset(key, mapping={f"{key}:{n}": "x" * 50 + str(n) for n in range(number)})


def test_two_batches_of_large_values_in_one_worker(server: StartServer) -> None:
    """No reply meets another value's comparison; and each WATCH is its own."""
    source, target = server("7.0"), server("8.2")
    for key in ("one", "two", "three", "four"):
        hashes(source, target, key=key)
    target.do("HSET", "two", "two:77", "other")
    target.client().hdel("four", "four:5")
    with worker(source, target) as one:
        before = calls(source, "dump"), calls(target, "dump")
        one.start([b"one", b"two"], [b"three", b"four"])
        one.run()
    assert one.budget.used == 0
    acks = sorted(one.results, key=lambda result: result.batch)
    for ack, wrong in zip(acks, (b"two", b"four"), strict=True):
        assert isinstance(ack, Ack)
        assert not ack.failures
        assert [(f.key, f.kind) for f in ack.findings] == [(wrong, "value")]
        assert (ack.counts.equal, ack.counts.different) == (1, 1)
    assert (calls(source, "dump"), calls(target, "dump")) == before


def test_a_write_is_noticed_beside_another_large_value(server: StartServer) -> None:
    """The other one's UNWATCH and EXEC end no WATCH of this one."""
    source, target = server("7.0"), server("7.0")
    for key in ("one", "two"):
        hashes(source, target, key=key)
        target.do("HSET", key, f"{key}:last", "x")
    with worker(source, target) as one:
        one.start([b"one"], [b"two"])
        one.run(until=lambda: calls(source, "hscan") > 5)
        source.do("HSET", "one", "one:last", "y")
        one.run()
    first, second = sorted(one.results, key=lambda result: result.batch)
    assert isinstance(first, Ack) and isinstance(second, Ack)
    assert first.findings[0].prints != (b"", b"")
    assert second.findings[0].prints == (b"", b"")


def test_a_small_batch_passes_a_large_value(server: StartServer) -> None:
    """One of values that must be compared by type, too."""
    source, target = server("7.0"), server("7.0")
    hashes(source, target, key="large")
    for side, members in ((source, "abc"), (target, "cba")):
        side.do("XADD", "stream", "1-1", "f", "v")
        side.do("SADD", "set", *members)
    target.do("XADD", "stream", "2-1", "f", "v")
    with worker(source, target) as one:
        one.start([b"large"])
        one.run(until=lambda: calls(source, "hscan") > 3)
        one.start([b"stream", b"set"])
        one.run(until=lambda: one.results)
        (small,) = one.results
        assert isinstance(small, Ack)
        assert (small.counts.equal, small.counts.different) == (1, 1)
        assert calls(source, "hscan") < MEMBERS / 500
        one.run()
    large = one.results[1]
    assert isinstance(large, Ack)
    assert large.counts.equal == 1


def test_the_run_ends_in_the_middle_of_a_large_value(server: StartServer) -> None:
    """Its batch is left, and one that waits for its turn, too."""
    source, target = server("7.0"), server("7.0")
    for key in ("large", "next"):
        hashes(source, target, key=key)
    with worker(source, target) as one:
        one.start([b"large"], [b"next"])
        one.run(until=lambda: calls(source, "hscan") > 5)
        one.throttle.set(Pace(hurry=True))
        one.run()
    assert sorted(map(type, one.results), key=str) == [Left, Left]
    assert not any(result.counts.compared for result in one.results)
    assert one.budget.used == 0
    assert calls(source, "hscan") < MEMBERS / 500


def test_a_large_value_that_is_compared_is_shown(
    server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_way, "_SHOW_SECONDS", 0.0)
    source, target = server("7.0"), server("7.0")
    hashes(source, target, key="large")
    shown: list[float] = []
    with worker(source, target) as one:
        one.start([b"large"])

        def look() -> bool:
            if message := one.comparer.take_streaming():
                assert message.key == b"large"
                shown.append(message.fraction)
            return False

        one.run(until=look)
    assert shown == sorted(shown)
    assert len(shown) > 10 and 0 < shown[0] < 0.5 < shown[-1] <= 1


def test_a_value_that_turns_out_large_is_dumped_once(server: StartServer) -> None:
    """On the source, since sizes are not asked; and never on the target."""
    source, target = server("7.0"), server("9.1")
    hashes(source, target, key="large")
    for side in (source, target):
        side.do("SET", "small", "v")
    with worker(source, target, sizes="none") as one:
        before = calls(source, "dump"), calls(target, "dump")
        one.start([b"large", b"small"])
        one.run()
        (ack,) = one.results
    assert isinstance(ack, Ack)
    assert ack.counts.equal == 2
    assert calls(source, "dump") - before[0] == 2
    assert calls(target, "dump") - before[1] == 1


def test_a_value_that_is_large_on_the_target_only(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    hashes(target, key="large")
    source.do("HSET", "large", "large:0", "x")
    with worker(source, target) as one:
        before = calls(target, "dump")
        one.start([b"large"])
        one.run()
        (ack,) = one.results
    assert isinstance(ack, Ack)
    assert [(finding.key, finding.kind) for finding in ack.findings] == [(b"large", "value")]
    assert calls(target, "dump") == before


def test_a_digest_of_a_value_that_turns_out_large(server: StartServer) -> None:
    """Each side computed its checksum from a DUMP; the difference is found without another."""
    source, target = server("7.0"), server("9.1")
    for key in ("equal", "other"):
        hashes(source, target, key=key)
    target.do("HSET", "other", "other:7", "y")
    for side in (source, target):
        side.do("ACL", "SETUSER", "default", "-memory|usage")
    with worker(source, target, sizes="none", digests=True) as one:
        before = calls(source, "dump"), calls(target, "dump")
        one.start([b"equal", b"other"])
        one.run()
        (ack,) = one.results
    assert isinstance(ack, Ack)
    assert [(finding.key, finding.kind) for finding in ack.findings] == [(b"other", "value")]
    assert ack.counts.equal == 1
    assert (calls(source, "dump") - before[0], calls(target, "dump") - before[1]) == (2, 2)


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_a_large_conflict_is_not_dumped_again(server: StartServer, policy: Policy) -> None:
    """The payload that was read told its size, though MEMORY USAGE is refused."""
    source, target = server("7.0"), server("7.0")
    hashes(source, target, key="large", number=3 * MEMBERS)
    users = []
    for side in (source, target):
        side.do("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", "-memory|usage")
        users.append(f"redis://mover:secret@127.0.0.1:{side.port}")
    ends = parse_endpoint(users[0], "source"), parse_endpoint(users[1], "target")
    plan = prepare(replace(Job(*ends), on_conflict=policy, size_check=False, timeout=5))
    budget = Budget(plan.spec.bytes_in_flight)
    with closing(Throttle()) as throttle, closing(plan.spec.build(budget, throttle)) as copier:
        before = calls(source, "dump"), calls(target, "dump")
        runner, result = Runner(budget), None
        runner.start(copier.settle(Batch(0, plan.partitions[0].id, 0, None, 0, [b"large"])))
        while result is None:
            result = runner.step()
    assert isinstance(result, Ack)
    assert result.counts.repeated == 1
    assert (calls(source, "dump") - before[0], calls(target, "dump") - before[1]) == (1, 0)
