"""Worker processes that die: their work is done again, by others, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rumpx.engine.fence import Fence, with_writer
from rumpx.engine.plan import Plan
from rumpx.engine.pool import DEATHS, Pool
from rumpx.engine.scanner import walk
from rumpx.errors import RumpxError
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.preflight.steps import prepare
from rumpx.servers.connections import select
from rumpx.transfer.messages import Ack, Batch, FromWorker
from support import data
from support.copying import held
from support.gates import open_gate
from support.proxy import Proxy
from support.run import Running, is_worker, start_rumpx
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]


# Killed from outside, in whole copies


def kill_workers(run: Running, target: Server, times: int, keys: int) -> None:
    """Kill random workers, one after the other, before so many keys are copied."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")  # pytest shows it if the test fails
    rng = random.Random(seed)
    old: set[int] = set()
    # The moment is random on purpose: anywhere in a batch, or in a worker's start.
    for number, there in enumerate(sorted(rng.sample(range(keys), times))):
        with held(run, lambda n=there: target.do("DBSIZE") > n):  # type: ignore[misc]
            workers = run.workers()
            # A suspect batch is alone with a new worker: if that were killed three times in a row,
            # it would rightly be set aside.
            older = [w for w in workers if w.pid in old] if number % 2 else []
            victim = rng.choice(older or workers)
            victim.kill()
            victim.wait(20)
            old = {worker.pid for worker in workers if worker != victim}


@pytest.mark.parametrize("policy", ["ask", "fail"])
def test_ten_workers_killed_in_one_copy(
    server: StartServer, tmp_path: Path, policy: str
) -> None:
    """With "fail" our own earlier writes must not be taken for somebody else's keys."""
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 60_000)
    report = tmp_path / "summary.json"
    flags = () if policy == "ask" else ("--on-conflict", policy)
    words = ("--from", source.uri, "--to", target.uri, "--workers", "3", "--batch-keys", "20")

    with start_rumpx(*words, *flags, "--summary", report, "--progress", "json") as run:
        kill_workers(run, target, 10, 40_000)
        done = run.wait(60)

    assert done.returncode == 0, done.stderr
    summary = json.loads(report.read_text())
    assert summary["counts"]["failed"] == 0 and summary["missing"] == 0
    assert 1 <= summary["worker_restarts"] <= 10
    assert "signal SIGKILL" in done.stderr
    assert data.compare(source, target) == []


@pytest.mark.smoke
def test_one_worker_of_one_killed(server: StartServer, tmp_path: Path) -> None:
    source, target = server("8.1"), server("8.1")
    data.fill_mixed(source, 5000)
    report = tmp_path / "summary.json"
    words = ("--from", source.uri, "--to", target.uri, "--workers", "1", "--batch-keys", "50")

    with start_rumpx(*words, "--summary", report) as run:
        with held(run, lambda: target.do("DBSIZE") > 0):
            assert run.kill_random_worker(random.Random(1))
        done = run.wait(60)

    assert done.returncode == 0, done.stderr
    assert "died (signal SIGKILL); it is replaced" in done.stderr
    assert json.loads(report.read_text())["worker_restarts"] == 1
    assert data.compare(source, target) == []


def test_stopped_workers_hold_the_copy_up_but_lose_nothing(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 5000)
    words = ("--from", source.uri, "--to", target.uri, "--workers", "2", "--batch-keys", "20")

    with start_rumpx(*words) as run:
        with held(run, lambda: target.do("DBSIZE") > 0):
            before = target.do("DBSIZE")
            time.sleep(1)  # not for luck: so long they are stopped
            assert run.alive and target.do("DBSIZE") == before
        done = run.wait()

    assert done.returncode == 0 and "died" not in done.stderr
    assert data.compare(source, target) == []


# The pool itself, with real processes


class Bench:
    """A pool whose messages and sentences are collected."""

    def __init__(self, plan: Plan, workers: int, credits: int = 2) -> None:
        self.selector = selectors.DefaultSelector()
        self.said: list[str] = []
        self.buried: list[str] = []
        self.acks: list[Ack] = []
        self.work: deque[Batch] = deque()
        self.able = workers
        self.pool = Pool(plan.spec, credits, plan.target.dialer.writer)
        self.pool.start_workers(
            workers, self.selector, self.said.append, self.buried.append, self._take
        )

    def turn(self, timeout: float = 0.05) -> None:
        for key, _ in self.selector.select(timeout):
            for message in self.pool.receive(key.data):
                self._take(message)
        # Last, so that who looks between turns sees what is given out before it can be settled.
        self.pool.dispatch(lambda: self.work.popleft() if self.work else None, self.able)

    def _take(self, message: FromWorker) -> None:
        assert isinstance(message, Ack), message
        self.acks.append(message)

    def turn_until(self, condition: Callable[[], Any], what: str, timeout: float = 30) -> None:
        def turned() -> bool:
            self.turn()
            return bool(condition())

        wait_until(turned, timeout, what)

    def processes(self) -> list[psutil.Process]:
        return [child for child in psutil.Process().children(recursive=True) if is_worker(child)]


@contextmanager
def bench(plan: Plan, workers: int, credits: int = 2) -> Iterator[Bench]:
    made = Bench(plan, workers, credits)
    try:
        yield made
    finally:
        made.pool.kill()
        made.selector.close()
        assert made.processes() == []


def planned(source: Server | Proxy, target: Server | Proxy) -> Plan:
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target"))
    return prepare(job)


def batches(plan: Plan) -> Iterator[Batch]:
    """The keys of database 0, a batch for each."""
    (partition,) = plan.partitions
    connection = plan.source.dialer.connect()
    select(connection, 0, "source")
    walked = walk(connection, partition, 0, plan.scans["source"], open_gate(plan))
    found = [key for keys, _ in walked for key in keys]
    connection.close()
    for number, key in enumerate(sorted(found)):
        yield Batch(number, partition.id, 0, None, 0, [key])


def test_a_batch_that_kills_three_workers_is_set_aside(
    server: StartServer, proxy: StartProxy
) -> None:
    """Whoever holds the batch of the key `deadly` is killed, as by the kernel's memory killer."""
    source, target = server("7.0"), server("7.0")
    for name in ("deadly", "innocent-1", "innocent-2", "innocent-3"):
        source.do("SET", name, name)
    slow = proxy(source)
    plan = planned(slow, target)
    slow.rtt_ms = 100  # so that nobody can finish a batch before it is seen
    with bench(plan, workers=2) as bed:
        work = list(batches(plan_of(plan, source)))
        assert work[0].keys == [b"deadly"]
        bed.work.extend(work)
        # The first time it shares its worker with another batch, which proves nothing.
        for _ in range(DEATHS + 1):
            kill_holder(bed, 0)
        slow.rtt_ms = 0
        bed.turn_until(lambda: len(bed.acks) == len(work), "every batch is settled")

    by_batch = {ack.batch: ack for ack in bed.acks}
    assert by_batch[0].counts.failed == 1
    assert [(f.key, f.reason) for f in by_batch[0].failures] == [(b"deadly", "killed workers")]
    assert all(by_batch[number].counts.copied == 1 for number in (1, 2, 3)), "nobody else fails"
    assert data.keys_of(target) == {b"innocent-1", b"innocent-2", b"innocent-3"}
    assert len(bed.said) == DEATHS + 1 and all("SIGKILL" in text for text in bed.said)


def test_a_batch_is_set_aside_once_its_last_write_cannot_land_any_more(
    server: StartServer, proxy: StartProxy
) -> None:
    """Else a newer batch with the same key, of a follow, might be written before it."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "deadly", "old")
    slow, way = proxy(source), proxy(target)
    plan = with_writer(planned(slow, way), "job")
    slow.rtt_ms = 100  # so that it is seen before it is settled
    fence = Fence(plan.target, 10)
    with bench(plan, workers=2) as bed:
        bed.work.extend(batches(plan_of(plan, source)))
        for death in range(DEATHS - 1):
            kill_holder(bed, 0)
            assert fence.worker(bed.buried[death]) == "nothing"
            assert bed.pool.fenced(bed.buried[death])
        way.hold(b"\r\ndeadly\r\n$1\r\n0\r\n")  # its RESTORE
        bed.turn_until(lambda: way.holding, "the write is under way")
        kill_holder(bed, 0)
        assert not bed.acks and bed.pool.in_flight == 1

        assert fence.worker(bed.buried[-1]) == "nothing"
        assert bed.pool.fenced(bed.buried[-1]) == []
        assert [ack.counts.failed for ack in bed.acks] == [1] and bed.pool.in_flight == 0
        way.release()
        wait_until(lambda: not way.held_clients(), 20, "the held connection has ended")
    assert data.keys_of(target) == set()


def kill_holder(bed: Bench, batch: int) -> None:
    """Kill the worker that is at work at a batch, and have the pool notice it."""
    bed.turn_until(lambda: holder_of(bed, batch), "the batch is given out")
    holder, deaths = holder_of(bed, batch), bed.pool.restarts
    assert holder
    os.kill(holder, signal.SIGKILL)
    bed.turn_until(lambda: bed.pool.restarts > deaths, "the death is noticed")


def plan_of(plan: Plan, source: Server) -> Plan:
    """The same plan, but scanned past the proxy."""
    endpoint = parse_endpoint(source.uri, "source")
    dialer = replace(plan.source.dialer, endpoint=endpoint)
    return replace(plan, source=replace(plan.source, dialer=dialer))


def holder_of(bed: Bench, batch: int) -> int | None:
    """The process that holds a batch and is at work."""
    holders = [m.process.pid for m in bed.pool._workers if batch in m.held and m.awake]
    return holders[0] if holders else None


def test_workers_that_die_on_start_end_the_run_with_a_clear_error(server: StartServer) -> None:
    """Each new worker is killed as soon as it is there."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "key", "value")
    plan = planned(source, target)

    with bench(plan, workers=2) as bed, pytest.raises(RumpxError) as caught:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for worker in bed.processes():
                with contextlib.suppress(psutil.NoSuchProcess):  # its last kill was still at work
                    worker.kill()
            bed.turn()

    assert "die as soon as they start (signal SIGKILL)" in str(caught.value)
    assert "--workers" in str(caught.value)


@pytest.mark.parametrize("beside", [False, True])
def test_workers_give_way_only_to_a_server_on_this_machine(
    server: StartServer, beside: bool
) -> None:
    plan = planned(server("7.0"), server("7.0"))
    assert plan.source.local and plan.target.local and plan.spec.beside_server, "both are on it"
    elsewhere = replace(plan, spec=replace(plan.spec, beside_server=beside))  # type: ignore[type-var]

    with bench(elsewhere, workers=1) as bed:
        bed.turn_until(lambda: bed.pool.awake, "it has started")
        (worker,) = bed.processes()

        assert worker.nice() == min(19, psutil.Process().nice() + 10 * beside)


def test_the_first_workers_get_the_work_where_only_some_may(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 60)
    plan = planned(source, target)

    with bench(plan, workers=3) as bed:
        bed.able = 1
        bed.work.extend(batches(plan))
        bed.turn_until(lambda: bed.pool.awake, "all have started")
        assert {len(m.held) for m in bed.pool._workers[1:]} == {0}
        bed.turn_until(lambda: len(bed.acks) > 10, "one does the work")
        assert {len(m.held) for m in bed.pool._workers[1:]} == {0}
        bed.able = 3
        bed.turn_until(lambda: len(bed.acks) == 60, "all is copied")

    assert data.compare(source, target) == []


def test_idle_workers_end_when_they_are_told_to(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 20)
    plan = planned(source, target)
    with bench(plan, workers=2) as bed:
        bed.work.extend(batches(plan))
        bed.turn_until(lambda: len(bed.acks) == 20, "all is copied")
        began = time.monotonic()

        bed.pool.stop()

        assert time.monotonic() - began < 4
        assert bed.processes() == []
    assert bed.said == [] and bed.pool.restarts == 0
    assert data.compare(source, target) == []


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_no_local_user_reaches_the_fork_server(server: StartServer) -> None:
    """An abstract socket has no permissions: who connects would have us run a pickle
    (CVE-2022-42919, in Python 3.11.0)."""
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 1000)
    run = start_rumpx("--from", source.uri, "--to", target.uri, "--batch-keys", "5")
    with run, held(run, lambda: target.do("DBSIZE") > 100):
        parent = psutil.Process(run.process.pid)
        family = [parent, *parent.children(recursive=True)]
        sockets = [s.laddr for process in family for s in process.net_connections("unix")]
    assert any("/" in name for name in sockets)  # the fork server's, in a folder of ours
    assert not [name for name in sockets if name.startswith(("@", "\0"))]
