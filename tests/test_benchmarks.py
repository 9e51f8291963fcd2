"""The benchmarks measure correctly: CPU of all processes, the contenders' copies, the proxy's
delays; and their newer scenarios run. Nothing here asserts a speed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

import psutil
import pytest
import redis

from benchmarks.__main__ import SCENARIOS
from benchmarks.beside import Growth
from benchmarks.changes import Probe, Writers, change_all
from benchmarks.contenders import Contender, floor, others_on_path, rival
from benchmarks.delay import Network, delayed
from benchmarks.following import Following, require_equal
from benchmarks.hindered import hogs
from benchmarks.long_follow import simulate
from benchmarks.measure import Failed, Options, measure
from benchmarks.servers import Side
from benchmarks.usage import Usage
from rumpx.demo import SEED, SERVER_VARIABLE, Server, fill
from support.data import compare
from support.servers import binary
from support.waiting import wait_until

KEYS = 3_000
# A main process that uses 0.3 s, and forks a child that forks one of its own and ends; that one
# uses 1 s.
BURN = """
import os, sys, time
def burn(seconds):
    while time.process_time() < seconds:
        pass
if os.fork() == 0:
    if os.fork() == 0:
        burn(1.0)
    os._exit(0)
os.wait()
burn(0.3)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> str:
    """The server program of the scenarios, whose PEXPIRETIME needs 7.0."""
    found = binary("7.0")
    monkeypatch.setenv(SERVER_VARIABLE, found)
    return found


def usage_of(*command: str) -> Usage:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.usage", str(writer), *command], pass_fds=[writer]
    )
    os.close(writer)
    with open(reader, encoding="utf-8") as counted:
        told = json.load(counted)
    assert process.wait() == 0
    return Usage(**told)


def test_the_cpu_of_processes_counts_whose_parents_have_ended() -> None:
    used = usage_of(sys.executable, "-c", BURN, "7")
    assert used.code == 7
    assert 0.28 <= used.cpu_main < 0.9
    assert 0.99 <= used.cpu - used.cpu_main < 2.0
    assert used.wall >= 0.28


def test_a_command_that_fails_ends_the_benchmark(program: str) -> None:
    with Server(program) as one, pytest.raises(Failed, match=r"ended with 3:\nno luck"):
        words = "import sys; print('no luck', file=sys.stderr); sys.exit(3)"
        measure([sys.executable, "-c", words], [one], [one])


def test_the_cost_of_a_command(program: str) -> None:
    with Server(program) as one:
        cost = measure([sys.executable, "-c", BURN, "0"], [one], [one], with_gets=False)
    assert cost.cpu_main >= 0.28
    assert cost.cpu_others >= 0.99
    assert cost.peak_memory > 1_000_000


# The contenders


def copies_everything(contender: Contender) -> None:
    """Have a filled server copied, and compare both with their expiries."""
    with Server() as source, Server() as target:
        fill(source, KEYS, SEED)
        made = contender(Side([source]), Side([target]))
        assert made.copied >= KEYS
        ends = [redis.Redis(port=one.port) for one in (source, target)]
        assert compare(*ends, ttl_tolerance_ms=1_000) == []


@pytest.mark.parametrize("name", ["redis-shake", "riot"])
def test_other_tools_copy_everything(name: str, program: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"no {name} on PATH")
    copies_everything(others_on_path(with_gets=False)[name])


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("group", [0, 50])
def test_floors_copy_everything(group: int, sizes: bool, program: str) -> None:
    copies_everything(floor(2, 200, group, sizes=sizes, with_gets=False))


@pytest.mark.parametrize("sizes", [0, 1])
def test_reads_alone_write_nothing(sizes: int, program: str) -> None:
    with Server() as source, Server() as target:
        fill(source, KEYS, SEED)
        before = calls(source, target)
        made = rival("reads", 2, 200, 0, sizes, with_gets=False)(Side([source]), Side([target]))
        asked = {
            name: number - before.get(name, 0) for name, number in calls(source, target).items()
        }
    assert made.copied == asked["dump"] == asked["pexpiretime"] >= KEYS
    assert asked.get("memory|usage", 0) == sizes * made.copied
    assert "restore" not in asked


def calls(*servers: Server) -> dict[str, int]:
    """How often servers together executed each command."""
    found: dict[str, int] = {}
    for one in servers:
        for name, told in redis.Redis(port=one.port).info("commandstats").items():
            command = name.removeprefix("cmdstat_")
            found[command] = found.get(command, 0) + told["calls"]
    return found


# The network


def test_delays_are_those_of_the_network() -> None:
    chance = random.Random(SEED)
    network = Network(20, jitter_ms=15, stragglers=0.05, straggler_ms=80)
    delays = [1000 * network.delay(chance) for _ in range(10_000)]
    late = [delay for delay in delays if delay > 25]
    ordinary = [delay for delay in delays if delay <= 25]
    assert min(ordinary) < 11 and max(ordinary) > 24
    assert 0.04 < len(late) / len(delays) < 0.06
    assert min(late) >= 90
    assert max(late) <= 105
    assert min(delays) >= 10
    assert Network(20).delay(chance) == 0.01


def test_answers_over_a_network_are_late_and_in_order(program: str) -> None:
    network = Network(4, jitter_ms=3, stragglers=0.2, straggler_ms=10)
    with Server() as one, delayed(one.port, network) as uri:
        client = redis.Redis.from_url(uri)
        for _ in range(5):
            began = time.monotonic()
            client.ping()
            assert time.monotonic() - began >= 0.004
        pipeline = client.pipeline(transaction=False)
        words = [b"%d" % number * 200 for number in range(5_000)]
        for word in words:
            pipeline.echo(word)
        assert pipeline.execute() == words


def test_hogs_end_with_their_scenario() -> None:
    children = psutil.Process().children
    before = set(children())
    with hogs(3):
        assert len(set(children()) - before) == 3
    assert set(children()) <= before


# A follow


def test_writers_keep_a_rate_and_count_their_writes(program: str) -> None:
    with Server() as one:
        with Writers(one, 2_000, KEYS) as writers:
            wait_until(lambda: calls(one).get("set", 0) >= 2_000, 60, "writes of a second")
        client = redis.Redis(port=one.port)
        assert calls(one)["set"] == writers.written
        # Late starters make the sum of the two a little smaller, never larger.
        assert 0 < writers.rate <= 2_000
        before = {name: client.get(name) for name in client.scan_iter()}
        assert len(before) <= KEYS
        change_all(one, KEYS, 10**9)
        after = {name: client.get(name) for name in client.scan_iter()}
        assert len(after) == len(set(after.values())) == KEYS
        assert before.keys() <= after.keys()
        assert not set(before.values()) & set(after.values())


def test_the_lag_is_the_time_until_the_target_has_a_change(program: str) -> None:
    """A key's first value arrives, later ones of another key as well; each after 50 ms at least."""
    with Server() as source, Server() as target:
        here, there = (redis.Redis(port=one.port) for one in (source, target))
        ends = threading.Event()
        copied: set[bytes | str] = set()

        def carry() -> None:
            while not ends.is_set():
                new = [name for name in here.keys("probe:*") if name not in copied]
                ends.wait(0.05)
                for name in new:
                    copied.add(name)
                    there.set(name, "here")

        thread = threading.Thread(target=carry)
        thread.start()
        try:
            with Probe(source, target) as probe:
                wait_until(lambda: len(copied) > 20, 60, "twenty changes")
        finally:
            ends.set()
            thread.join()
        assert probe.lag.p50 >= 0.05
        assert len(probe.told) // 8 == here.dbsize() == there.dbsize()


def test_a_failed_restore_is_none(program: str) -> None:
    with Server() as source, Server() as target:
        here, there = (redis.Redis(port=one.port) for one in (source, target))
        following = Following(Side([source]), Side([target]))
        assert following.restored == 0
        here.set("key", "value")
        payload = here.dump("key")
        assert payload
        for replace in (False, True, True):
            there.restore("key", 0, payload, replace=replace)
        with pytest.raises(redis.ResponseError):
            there.restore("key", 0, payload)
        assert following.restored == 3


def test_sides_that_differ_end_the_benchmark(program: str) -> None:
    with Server() as source, Server() as target:
        redis.Redis(port=source.port).set("key", "value")
        with pytest.raises(Failed, match="differ"):
            require_equal(Side([source]), Side([target]))
        redis.Redis(port=target.port).set("key", "value")
        require_equal(Side([source]), Side([target]))


def test_the_simulated_follow_settles_what_it_is_told() -> None:
    (end,) = simulate(30_000)
    assert 30_000 <= end.changes < 31_000
    assert 0 < end.hours < 1
    assert end.rows > 1 and end.ledger > 0 and end.memory > 0 and end.cpu > 0


# The scenarios


def test_when_a_side_had_so_many_keys() -> None:
    growth = Growth(Side([]))
    growth.seen = [(1.0, 0), (2.0, 10), (3.0, 30), (4.0, 30)]
    assert growth.when(20) == 2.5
    assert growth.when(10) == 2.0
    assert growth.when(31) == 4.0
    assert growth.span(30) == (2.0, 3.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name, keys",
    [
        ("defaults", 20_000),
        ("hindered", 1_000),
        ("tail", 2_000),
        ("big", 5_000),
        ("follow", 1_000),
    ],
)
def test_a_scenario_runs(name: str, keys: int, program: str) -> None:
    report = SCENARIOS[name](Options(keys=keys, rounds=1, workers=2))
    assert {len(row) for row in report.rows} == {len(report.columns)}
    assert report.ratios
    assert all(ratio >= 0 for ratio in report.ratios.values())
    json.dumps(report.data)
