"""A Dask cluster whose workers, scheduler or coordinator die or hang: nothing is lost, nothing is
counted twice, and no old value lands after a newer one."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.copying import (
    Copying,
    assert_exact,
    at_rest,
    copy,
    ctl,
    differences_in,
    events,
    follow,
    messages,
    resume,
    verified,
    verify_words,
)
from support.dask import Dask, Machine, Worker
from support.data import compare, fill_mixed, keys_of
from support.faults import full
from support.proxy import Proxy
from support.run import Running, rumpx
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartDask = Callable[..., Dask]
StartProxy = Callable[..., Proxy]
TEMPORARY, DIFFER, INTERRUPTED = 5, 4, 130
KEYS = 6000
LEASE = 10.0
"""Seconds, as `rumpx.remote.choice` has it."""

pytestmark = pytest.mark.timeout(300)


def filled(source: Server | Cluster, keys: int = KEYS) -> None:
    fill_mixed(source, keys)
    at_rest(*(source.nodes if isinstance(source, Cluster) else [source]))


def slowly(source: Server | Cluster | Proxy, target: Any, pool: Dask, *flags: str) -> Copying:
    """A copy of the job `job` that lasts until `hurry`."""
    pace = ("--max-keys-per-sec", str(KEYS // 10)) if "--max-keys-per-sec" not in flags else ()
    return Copying(source, target, *pool.flags, "--job", "job", *pace, *flags)


def hurry() -> None:
    ctl("set", "max-keys-per-sec=off")


def at_work(run: Running, pool: Dask) -> list[Worker]:
    """The workers that have walks, as the last progress says."""
    told = events(run)
    pids = {stat["pid"] for stat in told[-1]["workers"]} if told else set()
    return [worker for worker in pool.workers if worker.alive and worker.pid in pids]


# --- workers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "killed", "keys"), [(2, 1, KEYS), full(4, 2, 100_000), full(4, 2, 1_000_000)]
)
def test_killed_workers_lose_nothing_and_nothing_is_counted_twice(
    dask: StartDask, cluster: StartCluster, workers: int, killed: int, keys: int
) -> None:
    source, target = cluster("7.0"), cluster("9.1")
    filled(source, keys)
    pool = dask()
    pool.start_workers(workers)
    with slowly(source, target, pool, "--max-keys-per-sec", str(keys // 10)) as copying:
        for number in range(killed):
            copying.wait_keys(target, (number + 1) * keys // 8)
            (victim, *_) = wait_until(lambda: at_work(copying.run, pool), 30, "some work")
            victim.kill()
            wait_until(
                lambda v=victim: f"{v.address} was lost" in messages(copying.run),  # type: ignore[misc]
                60,
                "it is missed",
            )
        hurry()
        done = copying.finish(timeout=200)
    assert_exact(done, source, target, keys)
    assert done.summary["worker_restarts"] >= killed
    if keys < 1_000_000:
        again = rumpx(*verify_words(source, target, *pool.flags), timeout=120)
        assert verified(again.returncode, again.stdout, again.stderr).counts["equal"] == keys


def test_keys_of_a_lost_worker_whose_connections_cannot_be_ended_are_copied_again(
    dask: StartDask, server: StartServer
) -> None:
    """Which keys it had under way is not known here: all are copied again."""
    source, target = server("7.0"), server("7.0")
    filled(source)
    target.do("ACL", "SETUSER", "default", "-client|list")
    pool = dask()
    pool.start_workers(2)
    with slowly(source, target, pool, "--on-conflict", "replace") as copying:
        copying.wait_keys(target, KEYS // 10)
        (victim, *_) = wait_until(lambda: at_work(copying.run, pool), 30, "some work")
        victim.kill()
        wait_until(lambda: f"{victim.address} was lost" in messages(copying.run), 60, "the loss")
        hurry()
        done = copying.finish(timeout=200)
    assert compare(source, target) == []
    assert "copied again at the end" in done.warnings
    assert "written late, perhaps" in done.summary["walked_again"]


def test_a_worker_that_its_nanny_restarts(dask: StartDask, server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    filled(source)
    pool = dask()
    worker = pool.worker(nanny=True)
    before = worker.address
    with slowly(source, target, pool) as copying:
        copying.wait_keys(target, KEYS // 8)
        worker.child().kill()
        wait_until(lambda: worker.address != before, 60, "it is restarted")
        hurry()
        done = copying.finish(timeout=120)
    assert_exact(done, source, target, KEYS)
    assert f"{before} was lost" in messages(done)
    assert done.summary["worker_restarts"] >= 1


def test_a_worker_that_hung_for_longer_than_its_lease_writes_nothing_old(
    dask: StartDask, server: StartServer, proxy: StartProxy
) -> None:
    """A worker is stopped with values in hand; its walk is done elsewhere with newer values; then
    it continues, and orders of the time in which it was stopped reach it."""
    source, target = server("7.0"), server("7.0")
    client = source.client()
    client.mset({f"k:{number}": "old" for number in range(KEYS)})
    at_rest(source)
    way = proxy(source)
    pool = dask(DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="5s")
    pool.start_workers(2)
    # One walk; its requests are long under way, so that many values are in hand at any time.
    flags = ("--partitions", "1", "--max-keys-per-sec", "400", "--max-source-latency", "off")
    with slowly(way, target, pool, *flags) as copying:
        copying.wait_keys(target, 400)
        way.rtt_ms = 500
        copying.wait_keys(target, 800)
        (stopped,) = wait_until(lambda: at_work(copying.run, pool), 30, "it has the walk")
        stopped.pause()
        wait_until(lambda: "was lost" in messages(copying.run), 60, "it is missed")
        client.mset({f"k:{number}": "new" for number in range(KEYS)})
        way.rtt_ms = 0

        def renewed() -> set[bytes]:
            keys = sorted(keys_of(target))
            values = target.client().mget(keys) if keys else []
            return {key for key, value in zip(keys, values, strict=True) if value == b"new"}

        ctl("set", "max-keys-per-sec=4000")
        wait_until(lambda: len(renewed()) > KEYS // 4, 60, "another has it")
        ctl("set", "max-keys-per-sec=200")
        newer = renewed()
        stopped.go()
        before = target.do("DBSIZE")
        copying.wait_keys(target, min(KEYS - 200, before + 600))
        hurry()
        done = copying.finish(timeout=120)
    assert newer <= renewed(), sorted(newer - renewed())[:5]
    counts = done.counts
    assert counts["copied"] + counts["repeated"] == KEYS
    assert set(keys_of(target)) == set(keys_of(source))


_DEADLY = (
    "import os, socket\n"
    "for name in ('send', 'sendall', 'sendmsg'):\n"
    "    def sends(self, data, *args, real=getattr(socket.socket, name)):\n"
    "        whole = data if isinstance(data, (bytes, bytearray, memoryview)) else b''.join(data)\n"
    "        if b'RESTORE' in bytes(whole) and b'deadly-value' in bytes(whole):\n"
    "            os.kill(os.getpid(), 9)\n"
    "        return real(self, data, *args)\n"
    "    setattr(socket.socket, name, sends)"
)


@pytest.mark.parametrize("keys", [full(KEYS)])
def test_a_value_that_kills_its_workers(
    dask: StartDask, server: StartServer, state_home: Path, tmp_path: Path, keys: int
) -> None:
    """Its walk is set aside, all others are done; the local engine then finds the key. (Its own
    processes survive: the value is deadly in Dask's workers only.)"""
    source, target = server("7.0"), server("7.0")
    filled(source, keys)
    source.do("SET", "the-key", "deadly-value")
    pool = dask()
    env = Machine(tmp_path / "m", _DEADLY).environment
    workers = [pool.worker(nanny=True, env=env) for _ in range(2)]
    assert all(worker.alive for worker in workers)
    flags = (*pool.flags, "--job", "job", "--partitions", "8")

    done = copy(source, target, *flags, code=TEMPORARY, timeout=200)

    assert "set aside" in done.stderr and "--engine local" in done.stderr
    assert b"the-key" not in keys_of(target)
    assert len(keys_of(target)) > keys * 3 // 4, "only the rest of one of eight walks is missing"
    again = resume("--engine", "local")
    assert compare(source, target) == []
    counts = again.counts
    assert counts["copied"] + counts["repeated"] == keys + 1


# --- the scheduler --------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["local", full("dask")])
def test_the_scheduler_is_killed(
    dask: StartDask, server: StartServer, engine: str
) -> None:
    source, target = server("7.0"), server("9.1")
    filled(source)
    pool = dask()
    pool.start_workers(2)
    with slowly(source, target, pool, "--connect-timeout", "2s") as copying:
        copying.wait_keys(target, KEYS // 8)
        pool.scheduler.kill()
        ended = copying.finish(TEMPORARY, timeout=120)
    assert pool.address in ended.stderr and "--engine local" in ended.stderr
    assert ended.summary["state"] == "failed"
    assert 0 < ended.counts["copied"] <= target.do("DBSIZE")
    flags: tuple[str, ...] = ("--engine", "local")
    if engine == "dask":
        other = dask()
        other.start_workers(2)
        flags = other.flags
    done = resume(*flags, "--max-keys-per-sec", "off", timeout=120)
    assert_exact(done, source, target, KEYS)
    assert done.summary["runs"] == 2


# --- the coordinator ------------------------------------------------------------------------


_NAME = re.compile(r"name=(rumpx:\S+:[0-9a-f]{8})(\.\S+)? ")


def writers(target: Server) -> set[str]:
    """The runs of whose workers, or tasks, there are connections at the target."""
    found = _NAME.findall(target.do("CLIENT", "LIST").decode())
    return {run for run, worker in found if worker}


@pytest.mark.parametrize("engine", ["dask", full("local")])
def test_tasks_end_by_themselves_once_the_coordinator_is_killed(
    dask: StartDask, server: StartServer, engine: str
) -> None:
    source, target = server("7.0"), server("9.1")
    filled(source)
    pool = dask()
    workers = pool.start_workers(2)
    with slowly(source, target, pool, "--max-keys-per-sec", "150") as copying:
        copying.wait_keys(target, KEYS // 20)
        copying.run.send_signal(signal.SIGKILL, group=True)
        copying.run.wait()
        assert writers(target), "tasks may still write"
        # Idle connections are kept for the time of another lease; nothing is written over them.
        wait_until(lambda: not writers(target), 2 * LEASE + 6, "their leases are over")
    there = target.do("DBSIZE")
    assert all(worker.alive for worker in workers)
    done = resume("--engine", engine, "--max-keys-per-sec", "off", timeout=120)
    assert_exact(done, source, target, KEYS)
    assert there < KEYS


@pytest.mark.parametrize("engine", ["local", full("dask")])
def test_a_resume_waits_for_the_tasks_of_a_killed_coordinator(
    dask: StartDask, server: StartServer, engine: str
) -> None:
    """Whatever they write meanwhile, nothing of it lands after the first write of the new run."""
    source, target = server("7.0"), server("9.1")
    filled(source)
    pool = dask()
    pool.start_workers(2)
    with slowly(source, target, pool, "--max-keys-per-sec", "150") as copying:
        copying.wait_keys(target, KEYS // 20)
        copying.run.send_signal(signal.SIGKILL, group=True)
        copying.run.wait()
        old = writers(target)
        assert len(old) == 1
        words = ("resume", "job", "--engine", engine, "--max-keys-per-sec", "off")
        with Copying.of(*words) as again:
            beside: list[set[str]] = []

            def over() -> bool:
                copies = any(event["state"] == "copying" for event in events(again.run))
                beside.extend([old] if copies and old & writers(target) else [])
                return not again.run.alive

            wait_until(over, 120, "it is done", interval=0.05)
            done = again.finish(timeout=120)
    assert beside == [], "the new run copies beside the old one's connections"
    assert any(event["state"] == "copying" for event in events(done))
    assert_exact(done, source, target, KEYS)


def test_stopped_by_ctrl_c_and_resumed_by_either_engine(
    dask: StartDask, server: StartServer
) -> None:
    source, target = server("7.0"), server("9.1")
    filled(source)
    pool = dask()
    pool.start_workers(2)
    with slowly(source, target, pool) as copying:
        copying.wait_keys(target, KEYS // 8)
        copying.run.send_signal(signal.SIGINT)
        ended = copying.finish(INTERRUPTED)
    assert ended.counts["copied"] == target.do("DBSIZE"), "batches in flight have landed"
    assert not writers(target)
    with Copying.of("resume", "job", "--engine", "local", "--workers", "1") as again:
        again.wait_keys(target, KEYS // 4)
        again.run.send_signal(signal.SIGINT)
        ended = again.finish(INTERRUPTED)
    assert ended.counts["copied"] == target.do("DBSIZE")
    done = resume(*pool.flags, "--max-keys-per-sec", "off", timeout=120)
    assert_exact(done, source, target, KEYS)
    assert done.summary["runs"] == 3


@pytest.mark.parametrize("keys", [full(KEYS)])
def test_the_last_line_continues_on_the_cluster(
    dask: StartDask, server: StartServer, keys: int
) -> None:
    source, target = server("7.0"), server("9.1")
    filled(source, keys)
    pool = dask()
    pool.start_workers(1)
    with slowly(source, target, pool) as copying:
        copying.wait_keys(target, keys // 8)
        copying.run.send_signal(signal.SIGTERM)
        ended = copying.finish(143)
    told = ("--progress", "json", "--summary", "-", "--max-keys-per-sec", "off")
    done = follow(ended, *told, timeout=120)
    assert_exact(done, source, target, keys)
    assert {stat["pid"] for event in events(done) for stat in event["workers"]} <= {
        worker.pid for worker in pool.workers
    }


# --- the servers ----------------------------------------------------------------------------


def test_the_source_restarts(dask: StartDask, server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    filled(source)
    pool = dask()
    pool.start_workers(2)
    with slowly(source, target, pool) as copying:
        copying.wait_keys(target, KEYS // 4)
        source.restart(keep_data=True)
        wait_until(lambda: "start over" in messages(copying.run), 60, "it is noticed")
        hurry()
        done = copying.finish(timeout=120)
    assert_exact(done, source, target, KEYS)
    assert done.summary["worker_restarts"] == 0


@pytest.mark.parametrize("side", [full("source"), full("target")])
def test_a_primary_fails_over(dask: StartDask, cluster: StartCluster, side: str) -> None:
    source = cluster("7.0", replicas=int(side == "source"))
    target = cluster("7.0", replicas=int(side == "target"))
    filled(source)
    pool = dask()
    pool.start_workers(2)
    with slowly(source, target, pool) as copying:
        copying.wait_keys(target, KEYS // 4)
        failing = source if side == "source" else target
        failing.failover(failing.replicas()[0])
        hurry()
        done = copying.finish(timeout=150)
    assert compare(source, target) == []
    assert done.counts["failed"] == 0


@pytest.mark.parametrize("what", [full("source restarts"), full("worker killed")])
def test_a_comparison_is_disturbed(
    dask: StartDask, server: StartServer, tmp_path: Path, what: str
) -> None:
    source, target = server("7.0"), server("9.1")
    filled(source)
    copy(source, target)
    wrong = sorted(keys_of(source))[:: KEYS // 20]
    for key in wrong:
        target.do("DEL", key)
    pool = dask()
    pool.start_workers(2)
    listed = tmp_path / "differences"
    words = verify_words(source, target, *pool.flags, "--max-keys-per-sec", str(KEYS // 8))
    with Running([*words, "--differences", str(listed)]) as run:
        wait_until(lambda: _compared(run) > KEYS // 5, 60, "some are compared")
        if what == "source restarts":
            source.restart(keep_data=True)
        else:
            at_work(run, pool)[0].kill()
        done = run.wait(200)
    told = verified(done.returncode, done.stdout, done.stderr)
    assert told.code == DIFFER, done.stderr
    assert {key for kind, _, key in told.found if kind == "missing"} == set(wrong)
    assert len(differences_in(listed)) == len(wrong)
    counts = told.counts
    assert counts["equal"] + counts["missing"] == KEYS, counts


def _compared(run: Running) -> int:
    told = events(run)
    counts = told[-1]["counts"] if told else {}
    return sum(counts.get(name, 0) for name in ("equal", "missing", "found"))


def test_no_process_of_a_cluster_outlives_it() -> None:
    with Dask() as pool:
        worker = pool.worker(nanny=True)
        family = [psutil.Process(pool.scheduler.pid), psutil.Process(worker.pid), worker.child()]
        assert all(process.is_running() for process in family)
    gone, alive = psutil.wait_procs(family, 10)
    assert alive == [] and len(gone) == 3
