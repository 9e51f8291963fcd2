"""A copy that is killed or stopped, at whatever moment, and gone on with: nothing is lost or
counted twice, and nobody outlives it."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rumpx.engine.events import Found, FromScanner, Walked
from rumpx.engine.frontier import Frontier
from rumpx.engine.plan import Plan
from rumpx.engine.scanner import Scanner, Shelf, walk
from rumpx.model.counts import Counts
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.model.partitions import Partition
from rumpx.preflight.steps import prepare
from support.copying import (
    Copying,
    Resuming,
    Side,
    assert_exact,
    at_rest,
    follow,
    resume,
    uri_of,
)
from support.data import compare, fill_mixed, keys_of
from support.faults import full, seeded
from support.gates import open_gate
from support.run import Running, start_rumpx
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

KEYS = 12_000
ORPHANS_MAY_LIVE = 5.0
"""Seconds, after the death of the coordinator: one, and more where the machine is busy."""

Kill = Callable[[Running, random.Random], object]


def coordinator(run: Running, rng: random.Random) -> None:
    run.send_signal(signal.SIGKILL)


def everyone(run: Running, rng: random.Random) -> None:
    run.send_signal(signal.SIGKILL, group=True)


def a_worker(run: Running, rng: random.Random) -> None:
    run.kill_random_worker(rng)


# --- killed at random moments ---------------------------------------------------------------


class Victim:
    """Jobs that are killed at random moments, so many times in all, and gone on with until they
    are done."""

    def __init__(
        self, source: Side, target: Side, state: Path, rng: random.Random, times: int
    ) -> None:
        self.ledger = state / "job.ledger"
        self.words = ["--from", uri_of(source), "--to", uri_of(target), "--job", "job"]
        self.words += ["--workers", "2", "--batch-keys", "20"]
        self.rng = rng
        self.left = times

    def start(self) -> Running:
        """The job's next run. A run that was killed early has not begun one."""
        words = ["resume", "job"] if self.ledger.exists() else self.words
        return start_rumpx(*words, "--progress", "none")

    def measure(self) -> float:
        """Seconds that an undisturbed copy takes."""
        began = time.monotonic()
        with self.start() as run:
            assert run.wait().returncode == 0
        return time.monotonic() - began

    def finish(self, kill: Kill, longest: float) -> None:
        """Begin it and go on with it, until a run is done before it is killed."""
        while not self._run(kill, longest):
            pass

    def _run(self, kill: Kill, longest: float) -> bool:
        with self.start() as run:
            if self.left:
                # Random on purpose: anywhere from the program's start to a moment after its end.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(self.rng.uniform(0.1, 1.1) * longest)
                if run.alive:
                    kill(run, self.rng)
                    self.left -= 1
            done = run.wait()
            if done.returncode == 0:
                return True
            assert done.returncode == -signal.SIGKILL, done.stderr[-4000:]
            if self.rng.random() < 0.5:  # else the next run meets what is left of this one
                check_alone(run)
        return False


def check_alone(run: Running) -> None:
    wait_until(lambda: run.orphans() == [], ORPHANS_MAY_LIVE, "nobody outlives it")


@pytest.mark.parametrize(
    ("kill", "times"),
    [
        (coordinator, 4),
        (everyone, 4),
        (a_worker, 3),
        full(coordinator, 50),
        full(everyone, 30),
        full(a_worker, 30),
    ],
)
def test_kill_9_at_random_moments(
    server: StartServer, state_home: Path, kill: Kill, times: int
) -> None:
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, KEYS)
    at_rest(source)
    victim = Victim(source, target, state_home, seeded(), times)
    longest = victim.measure()
    while victim.left:
        empty(target, state_home)
        victim.finish(kill, longest)
        assert_exact(resume(), source, target, KEYS)


def empty(target: Server | Cluster, state: Path) -> None:
    """As if nothing had been copied."""
    for file in state.glob("job.*"):
        file.unlink()
    if isinstance(target, Cluster):
        target.flush()
    else:
        target.do("FLUSHALL")


@pytest.mark.parametrize("times", [full(20)])
def test_kill_9_at_random_moments_between_clusters(
    cluster: StartCluster, state_home: Path, times: int
) -> None:
    source, target = cluster("7.0"), cluster("9.1", primaries=2)
    fill_mixed(source, KEYS)
    at_rest(*source.nodes)
    victim = Victim(source, target, state_home, seeded(), times)
    longest = victim.measure()
    while victim.left:
        empty(target, state_home)
        victim.finish(coordinator, longest)
        assert_exact(resume(), source, target, KEYS)


@pytest.mark.parametrize("times", [2, full(10)])
def test_killed_when_the_ledger_has_just_come_into_being(
    server: StartServer, state_home: Path, times: int
) -> None:
    source, target = server("8.1"), server("8.1")
    fill_mixed(source, 1000)
    at_rest(source)
    victim = Victim(source, target, state_home, random.Random(), 0)
    for _ in range(times):
        empty(target, state_home)
        with victim.start() as run:
            # As soon as can be: within the milliseconds in which it is made.
            wait_until(victim.ledger.exists, 20, "a ledger", interval=0)
            everyone(run, victim.rng)
            run.wait()
        assert_exact(resume(), source, target, 1000)


@pytest.mark.parametrize("batch_keys", [50, full(10), full(20)])
def test_wherever_a_walk_ends_cursor_and_counts_belong_together(
    server: StartServer, batch_keys: int
) -> None:
    """Who goes on from a frontier's cursor meets just the keys that its counts lack, though
    replies are cut into several batches, some without a remainder."""
    source = server("7.0")
    fill_mixed(source, KEYS)
    at_rest(source)
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(server("7.0").uri, "target"))
    plan = prepare(replace(job, batch_keys=batch_keys, partitions=2))
    settings = plan.scans["source"]
    for partition in plan.partitions:
        start = partition.span.start
        connection = plan.source.dialer.connect()
        replies = list(walk(connection, partition, start, settings, open_gate(plan)))
        connection.close()
        before = {start: 0}  # keys before each cursor
        for (_, cursor), (keys, later) in pairwise([([], start), *replies]):
            before[later] = before[cursor] + len(keys)
        batches = found_by_scanner(plan, partition)
        assert len(batches) > len(replies), "replies are cut"

        frontier = Frontier(start)
        for number, found in enumerate(batches):
            frontier.issue(number, found.cursor)
            frontier.settle(number, Counts(copied=len(found.keys)))
            assert frontier.counts.copied == before[frontier.cursor]


def found_by_scanner(plan: Plan, partition: Partition) -> list[Found]:
    """What a partition's walk hands to the coordinator."""
    told: list[FromScanner] = []

    def emit(message: FromScanner) -> bool:
        told.append(message)
        return True

    run_id = plan.source.run_id(partition.node.address)
    start, shelf = partition.span.start, Shelf()
    scans = plan.scans["source"]
    Scanner(
        partition, 0, start, run_id, scans, shelf, open_gate(plan), emit
    ).start().join()
    shelf.clear()
    assert isinstance(told[-1], Walked)
    return [message for message in told if isinstance(message, Found)]


# --- killed in the middle -------------------------------------------------------------------


@pytest.mark.parametrize("version", ["7.0", full("6.2"), full("8.1"), full("9.1")])
def test_writes_go_on_while_a_job_is_dead(server: StartServer, version: str) -> None:
    """What is written meanwhile behind the cursor is not copied, what is before it is; whatever
    was there all the time is."""
    source, target = server(version), server(version)
    fill_mixed(source, KEYS)
    lasting = keys_of(source)
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, KEYS // 3):
            coordinator(copying.run, random.Random())
        check_alone(copying.run)
    fill_mixed(source, 3 * KEYS, prefix=b"later")  # the table grows: cursors must bear that

    done = resume()

    assert compare(source, target, keys=lasting, ttl_tolerance_ms=2) == []
    assert done.counts["copied"] >= KEYS and done.counts["failed"] == 0


@pytest.mark.parametrize("stalled", [False, full(True)])
def test_orphans_end_and_nobody_waits_for_them(
    server: StartServer, proxy: Callable[..., Any], stalled: bool
) -> None:
    """A resume may begin at once, while workers of the killed run are still there."""
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, KEYS)
    at_rest(source)
    way = proxy(source)
    with Copying(way, target, "--job", "job", "--workers", "3") as copying:
        with copying.held_at(target, 2000):
            if stalled:
                way.stall()
            assert len(copying.run.workers()) == 3
            coordinator(copying.run, random.Random())
        way.go()
        with start_rumpx("resume", "job", "--progress", "none") as run:
            check_alone(copying.run)
            assert run.wait().returncode == 0, run.stderr
    assert_exact(resume(), source, target, KEYS)


# --- stopped, and gone on with by the last line ---------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), full(signal.SIGINT, 130)],
)
def test_the_last_line_goes_on_after_a_signal(
    server: StartServer, tmp_path: Path, number: int, code: int
) -> None:
    """Also where the ledger is in a folder whose name a shell would take apart."""
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, KEYS)
    at_rest(source)
    folder = tmp_path / "my state; (it's here)"
    with Copying(source, target, "--state-dir", folder) as copying:
        copying.stop_at(target, 2000, number)
        ended = copying.finish(code)
        check_alone(copying.run)
    assert ended.summary["state"] == "stopped"
    assert ended.counts["copied"] == len(keys_of(target)) < KEYS
    done = follow(ended, "--progress", "json", "--summary", "-")
    assert_exact(done, source, target, KEYS)
    assert done.summary["runs"] == 2


@pytest.mark.parametrize("version", ["7.0", full("9.1")])
def test_a_job_is_stopped_many_times(server: StartServer, version: str) -> None:
    """Each run does a part; the counts of all are those of one."""
    source, target = server(version), server(version)
    fill_mixed(source, KEYS)
    at_rest(source)
    for part in range(1, 5):
        there = target.do("DBSIZE")
        # In one partition keys are new when those of a reply that was not settled whole, which the
        # ledger leaves out, have been copied again.
        flags = ("--job", "job", "--partitions", "1", "--batch-keys", "2")
        run = Copying(source, target, *flags) if part == 1 else Resuming()
        with run as copying:
            copying.stop_at(target, there + 500)
            ended = copying.finish(130)
        assert ended.summary["runs"] == part
        assert ended.counts["copied"] == len(keys_of(target))
    assert_exact(follow(ended, "--progress", "json", "--summary", "-"), source, target, KEYS)
