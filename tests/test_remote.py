"""Walks on a Dask cluster of real processes: `--engine dask`.

Most tests share a scheduler and two workers (`pool`), and start further workers that are different.
"""

from __future__ import annotations

import json
import platform
import selectors
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rumpx import _version
from rumpx.engine.backend import Hooks, WalkOrder
from rumpx.engine.events import Advanced, Event, Walked
from rumpx.engine.lone_walk import Finish
from rumpx.engine.plan import Plan
from rumpx.model.counts import Counts
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.preflight.steps import prepare
from rumpx.remote import task as remote
from rumpx.remote.backend import DaskBackend, _Task
from rumpx.remote.exchange import Finished
from rumpx.remote.messages import Done, Hello, Orders, Reported, pack, unpack
from rumpx.remote.orders import shares
from rumpx.throttle.rates import Pace
from rumpx.transfer.messages import Ack
from support.copying import (
    Copying,
    assert_exact,
    at_rest,
    copy,
    ctl,
    events,
    messages,
    verify,
)
from support.dask import Dask, Machine, Worker, named, routed, without
from support.data import compare, fill_mixed, keys_of
from support.gates import open_gate
from support.run import ROOT, rumpx
from support.servers import Cluster, Server, free_port
from support.tls import TlsFiles
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartDask = Callable[..., Dask]
USAGE, TEMPORARY, SOURCE, TARGET = 2, 5, 6, 7
KEYS = 6000


@pytest.fixture(scope="module")
def pool() -> Iterator[Dask]:
    """A scheduler and two workers, for tests that leave them alone."""
    with Dask() as cluster:
        cluster.start_workers(2)
        yield cluster


@pytest.fixture
def extra(pool: Dask) -> Iterator[Callable[..., Worker]]:
    """``extra(env=…)`` starts a further worker of the pool, for this test alone."""
    started: list[Worker] = []

    def start(**options: Any) -> Worker:
        started.append(pool.worker(**options))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        pool.workers.remove(worker)


@pytest.mark.parametrize("engine", ["local", "dask"])
def test_a_check_advises_fewer_workers_of_the_engine(
    pool: Dask, server: StartServer, engine: str
) -> None:
    source, target = server("7.0", maxclients=5), server("7.0")
    flags = pool.flags if engine == "dask" else ["--workers", "4"]
    done = rumpx("check", "--from", source.uri, "--to", target.uri, *flags, "--json")

    (line,) = [one for one in json.loads(done.stdout)["lines"] if one["subject"] == "clients"]
    fewer = {"local": "use fewer --workers", "dask": "start fewer threads of Dask workers"}
    assert line["advice"] == f"Raise its maxclients, or {fewer[engine]}"


# --- whole copies ---------------------------------------------------------------------------


def test_a_cluster_is_copied_and_verified_by_several_workers(
    pool: Dask, cluster: StartCluster
) -> None:
    source, target = cluster("7.0"), cluster("9.1", primaries=2)
    fill_mixed(source, KEYS)
    at_rest(*source.nodes)

    # So slow that snapshots show the workers.
    done = copy(source, target, *pool.flags, "--verify", "--max-keys-per-sec", str(KEYS // 4))

    assert_exact(done, source, target, KEYS)
    assert done.summary["verification"]["counts"]["equal"] == KEYS
    assert done.summary["verification"]["state"] == "done"
    stats = [stat for event in events(done) for stat in event["workers"]]
    pids = {worker.pid for worker in pool.workers}
    assert stats and {stat["pid"] for stat in stats} <= pids
    assert {stat["host"] for stat in stats} == {platform.node()}


def test_databases_functions_and_filters(pool: Dask, server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    for db in (0, 3, 7):
        fill_mixed(source, 500, db=db, prefix=b"wanted")
        fill_mixed(source, 200, db=db, prefix=b"other")
    code = "#!lua name=lib\nredis.register_function('f', function() return 1 end)"
    source.do("FUNCTION", "LOAD", code)
    flags = ("--functions", "--match", "wanted:*", "--map-db", "7:8", "--type", "hash")

    done = copy(source, target, *pool.flags, *flags)

    wanted = {
        db: {key for key in keys_of(source, db) if key.startswith(b"wanted")} for db in (0, 3, 7)
    }
    hashes = {
        db: {key for key in keys if source.do("TYPE", key, db=db) == b"hash"}
        for db, keys in wanted.items()
    }
    assert all(hashes.values())
    assert {db: keys_of(target, db) for db in (0, 3, 8)} == {
        0: hashes[0],
        3: hashes[3],
        8: hashes[7],
    }
    assert done.counts["copied"] == sum(map(len, hashes.values()))
    assert target.do("FCALL", "f", 0) == 1


def restored(target: Server) -> tuple[float, int]:
    """The time, and how many RESTOREs a server has executed."""
    told = target.info("commandstats").get("cmdstat_restore", "calls=0")
    return time.monotonic(), int(told.partition("calls=")[2].partition(",")[0])


def rate_over(target: Server, seconds: float) -> float:
    """RESTOREs a second, from now on."""
    began, before = restored(target)
    wait_until(lambda: time.monotonic() > began + seconds, seconds + 5, "it is over")
    ended, after = restored(target)
    return (after - before) / (ended - began)


def test_limits_and_ctl_hold_for_all_workers_and_a_new_one_gets_work(
    pool: Dask, extra: Callable[..., Worker], server: StartServer
) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 20_000)
    at_rest(source)
    flags = (*pool.flags, "--job", "job", "--max-keys-per-sec", "600", "--partitions", "24")
    with Copying(source, target, *flags) as copying:
        copying.wait_keys(target, 300)
        assert 150 < rate_over(target, 4) < 800

        assert ctl("pause")["paused"]
        wait_until(lambda: rate_over(target, 1) == 0, 20, "all workers pause")
        assert not ctl("resume")["paused"]
        before = restored(target)[1]
        wait_until(lambda: restored(target)[1] > before, 20, "they continue")

        new = extra()
        wait_until(lambda: new.address in messages(copying.run), 30, "it is noticed")
        assert f"Joined: 1 Dask worker ({new.address})." in messages(copying.run)
        ctl("set", "max-keys-per-sec=1500")
        wait_until(
            lambda: new.pid in {s["pid"] for s in events(copying.run)[-1]["workers"]},
            30,
            "it has work",
        )
        assert rate_over(target, 3) < 2000
        ctl("set", "max-keys-per-sec=off")
        done = copying.finish()
    assert_exact(done, source, target, 20_000)
    assert done.summary["worker_restarts"] == 0


# --- workers that are different --------------------------------------------------------------


def refused(pool: Dask, source: Server, target: Server, *flags: str, code: int) -> str:
    """The sentence with which a copy ends before anything is written."""
    done = rumpx(
        "--from", source.uri, "--to", target.uri, *pool.flags, "--progress", "none", *flags
    )
    assert done.returncode == code, done.stderr
    assert target.do("DBSIZE") == 0 and "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def sides(server: StartServer) -> tuple[Server, Server]:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 1000)
    at_rest(source)
    return source, target


def test_a_worker_with_another_rumpx_is_refused(
    pool: Dask, extra: Callable[..., Worker], sides: tuple[Server, Server], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "rumpx", tmp_path / "old" / "rumpx")
    (tmp_path / "old" / "rumpx" / "_version.py").write_text('__version__ = "0.0.1"\n')
    worker = extra(env={"PYTHONPATH": str(tmp_path / "old")})

    said = refused(pool, *sides, code=USAGE)

    assert f"The Dask worker {worker.address} has rumpx 0.0.1" in said
    assert f"this machine has {_version.__version__}" in said


@pytest.mark.parametrize("package", ["rumpx", "hiredis"])
def test_a_worker_without_a_package_is_refused(
    pool: Dask,
    extra: Callable[..., Worker],
    sides: tuple[Server, Server],
    tmp_path: Path,
    package: str,
) -> None:
    worker = extra(env=Machine(tmp_path / "bare", without(package)).environment)

    said = refused(pool, *sides, code=USAGE)

    assert f"The Dask worker {worker.address} lacks the module {package}" in said
    assert f"Install rumpx {_version.__version__}" in said


def test_a_worker_with_another_hiredis_is_refused(
    pool: Dask, extra: Callable[..., Worker], sides: tuple[Server, Server], tmp_path: Path
) -> None:
    old = Machine(tmp_path / "old", "import hiredis", "hiredis.__version__ = '0.1'")
    worker = extra(env=old.environment)

    said = refused(pool, *sides, code=USAGE)

    assert f"The Dask worker {worker.address} has hiredis 0.1" in said


def test_a_worker_that_joins_later_and_does_not_fit_is_left_out(
    pool: Dask, extra: Callable[..., Worker], server: StartServer, tmp_path: Path
) -> None:
    """It has idle threads, so that Dask gives it work before anything is known of it."""
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    at_rest(source)
    flags = ("--job", "job", "--max-keys-per-sec", "500", "--partitions", "24")
    with Copying(source, target, *pool.flags, *flags) as copying:
        copying.wait_keys(target, 200)
        bare = extra(env=Machine(tmp_path / "bare", without("rumpx")).environment, threads=8)
        wait_until(lambda: "is left out" in messages(copying.run), 60, "it is noticed")
        ctl("set", "max-keys-per-sec=off")
        done = copying.finish()
    (told,) = [line for line in messages(done).splitlines() if "is left out" in line]
    assert bare.address in told and "lacks the module rumpx" in told
    assert_exact(done, source, target, KEYS)
    assert done.summary["worker_restarts"] == 0


@pytest.mark.parametrize("side", ["source", "target"])
def test_workers_without_the_password_are_left_out(
    pool: Dask, extra: Callable[..., Worker], server: StartServer, side: str
) -> None:
    """If no other is left, the run ends."""
    passwords = {side: "s3cret-word"}
    source = server("7.0", requirepass=passwords.get("source", ""))
    target = server("7.0", requirepass=passwords.get("target", ""))
    fill_mixed(source, 1000)
    at_rest(source)

    said = refused(pool, source, target, code=SOURCE if side == "source" else TARGET)

    name = "RUMPX_FROM_PASSWORD" if side == "source" else "RUMPX_TO_PASSWORD"
    assert name in said and "No Dask worker reaches" in said

    able = extra(env={name: "s3cret-word"})
    done = copy(source, target, *pool.flags, "--partitions", "8")
    assert_exact(done, source, target, 1000)
    left_out = [line for line in messages(done).splitlines() if "is left out" in line]
    assert 1 <= len(left_out) <= 2 and able.address not in "".join(left_out)
    assert all(any(w.address in line for w in pool.workers) for line in left_out)
    assert "s3cret" not in done.stderr + pool.logs


def test_a_worker_without_a_route_is_left_out(
    pool: Dask, extra: Callable[..., Worker], sides: tuple[Server, Server], tmp_path: Path
) -> None:
    source, target = sides
    nowhere = routed({target.port: free_port()})
    lost = extra(env=Machine(tmp_path / "m", nowhere).environment, threads=4)

    done = copy(source, target, *pool.flags, "--partitions", "8")

    assert_exact(done, source, target, 1000)
    assert f"The Dask worker {lost.address}" in messages(done)
    assert "is left out" in messages(done)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_worker_that_reaches_another_server_ends_the_run_before_any_write(
    pool: Dask,
    extra: Callable[..., Worker],
    server: StartServer,
    sides: tuple[Server, Server],
    tmp_path: Path,
    side: str,
) -> None:
    """Its machine has another server at that address. Nothing is written to that either."""
    source, target = sides
    other = server("7.0")
    port = (source if side == "source" else target).port
    machine = Machine(tmp_path / "m", routed({port: other.port}))
    # With so many threads it gets the most tasks.
    worker = extra(env=machine.environment, threads=8)

    done = rumpx(
        "--from", source.uri, "--to", target.uri, *pool.flags, "--progress", "none",
        "--partitions", "16",
    )  # fmt: skip

    assert done.returncode == USAGE, done.stderr
    assert f"{worker.address}" in done.stderr and "reaches another server" in done.stderr
    assert other.do("DBSIZE") == 0
    assert "cmdstat_restore" not in other.info("commandstats")


def test_this_machines_own_addresses_are_refused_if_workers_run_elsewhere(
    pool: Dask,
    extra: Callable[..., Worker],
    server: StartServer,
    sides: tuple[Server, Server],
    tmp_path: Path,
) -> None:
    source, target = sides
    extra(env=Machine(tmp_path / "m", named("other-machine")).environment)

    said = refused(pool, source, target, code=USAGE)

    assert "other-machine" in said and "same everywhere" in said and "--from" in said

    local = server("7.0", unixsocket=True)
    done = rumpx(
        "--from", f"unix://{local.socket_path}", "--to", target.uri, *pool.flags,
        "--progress", "none",
    )  # fmt: skip
    assert done.returncode == USAGE and "other-machine" in done.stderr


def test_no_scheduler_and_no_workers(
    dask: StartDask, sides: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = sides
    empty = dask()
    said = refused(empty, source, target, code=TEMPORARY)
    assert f"The Dask scheduler at {empty.address} has no workers" in said
    empty.scheduler.kill()
    said = refused(empty, source, target, "--connect-timeout", "1s", code=TEMPORARY)
    assert f"The Dask scheduler at {empty.address} cannot be reached" in said
    done = rumpx("--from", source.uri, "--to", target.uri, "--engine", "dask")
    assert done.returncode == USAGE and "DASK_SCHEDULER_ADDRESS" in done.stderr


# --- passwords and TLS -----------------------------------------------------------------------


def test_passwords_are_never_sent_in_clear(pool: Dask, server: StartServer) -> None:
    source, target = server("7.0"), server("7.0", requirepass="s3cret-word")
    source.do("SET", "k", "v")
    done = rumpx(
        "--from", source.uri, "--to", target.uri, *pool.flags, "--dask-send-passwords"
    )
    assert done.returncode == USAGE and "tls://" in done.stderr


def test_passwords_are_sent_over_tls_and_appear_nowhere(
    dask: StartDask, server: StartServer, tls_files: TlsFiles, state_home: Path, tmp_path: Path
) -> None:
    source = server("7.0", tls=tls_files, requirepass="from-s3cret")
    target = server("7.0", requirepass="to-s3cret")
    fill_mixed(source, 1000)
    at_rest(source)
    cluster = dask(tls=tls_files, DASK_LOGGING__DISTRIBUTED="debug")
    assert cluster.address.startswith("tls://")
    place = tmp_path / "of-the-worker"
    place.mkdir()
    worker = cluster.worker(env={"TMPDIR": str(place)})
    env = cluster.client_environment | {
        "RUMPX_FROM_PASSWORD": "from-s3cret",
        "RUMPX_TO_PASSWORD": "to-s3cret",
    }
    # The CA's file is known on this machine only: it travels with the task.
    own = tmp_path / "own-ca.pem"
    shutil.copy(tls_files.ca, own)
    ends = [f"rediss://127.0.0.1:{source.tls_port}", f"redis://127.0.0.1:{target.port}"]
    flags = (*cluster.flags, "--from-ca", str(own), "--job", "job")

    done = rumpx("--from", ends[0], "--to", ends[1], *flags, env=env)
    assert done.returncode == TARGET or done.returncode == SOURCE, done.stderr
    assert "No Dask worker reaches" in done.stderr

    told = (*flags[:-1], "job2", "--dask-send-passwords", "--progress", "json", "--summary", "-")
    run = rumpx("--from", ends[0], "--to", ends[1], *told, env=env)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["counts"]["copied"] == 1000
    assert compare(source, target) == []

    words = " ".join(psutil.Process(worker.pid).cmdline())
    files = [path for path in state_home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".ledger" for path in files)
    kept = b"".join(path.read_bytes() for path in files)
    for text in (cluster.logs, run.stderr, run.stdout, words, done.stderr):
        assert "s3cret" not in text
    assert b"s3cret" not in kept
    wait_until(lambda: not list(place.iterdir()), 20, "the worker has removed the CA's file")


# --- verify ----------------------------------------------------------------------------------


def test_verify_and_repair_run_on_the_workers(
    pool: Dask, server: StartServer, tmp_path: Path
) -> None:
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, 3000)
    at_rest(source)
    copy(source, target)
    keys = sorted(keys_of(source))
    for key in keys[:5]:
        target.do("DEL", key)
    for key in keys[5:9]:
        target.do("DEL", key)
        target.do("SET", key, "other")
    target.do("SET", "only-here", "x")

    found = verify(source, target, *pool.flags, code=4)

    assert found.counts["missing"] == 5 and found.counts["different"] == 4
    assert found.counts["extra"] == 1 and found.counts["equal"] == 3000 - 9
    kinds = {"type": "other", "value": "other"}
    named = {(kinds.get(kind, kind), key) for kind, _, key in found.found}
    assert named == {
        *(("missing", key) for key in keys[:5]),
        *(("other", key) for key in keys[5:9]),
        ("extra", b"only-here"),
    }
    verify(source, target, *pool.flags, "--repair", "--delete-extra", "--yes")
    assert compare(source, target) == []


def test_a_comparison_runs_where_its_job_ran(pool: Dask, server: StartServer) -> None:
    """Unless another engine is given."""
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 3000)
    copy(source, target, *pool.flags, "--job", "job")
    ours = {worker.pid for worker in pool.workers}

    def workers(*flags: str) -> set[int]:
        done = rumpx("verify", "job", "--progress", "json", "--max-keys-per-sec", "1500", *flags)
        assert done.returncode == 0, done.stderr
        told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        return {stat["pid"] for event in told for stat in event.get("workers", ())}

    kept, changed = workers(), workers("--engine", "local")
    assert kept and kept <= ours
    assert changed and not changed & ours


# --- lost, duplicated and reordered events ---------------------------------------------------

TOKEN = "t"
Step = tuple[str, int]


def planned(source: Server, target: Server) -> Plan:
    ends = parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target")
    return prepare(Job(*ends, engine="local"))


def refuse(*args: Any) -> None:
    pytest.fail(f"not expected: {args}")


@pytest.fixture
def backend(server: StartServer) -> Iterator[DaskBackend]:
    """One that has not started, for its books alone."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "v")
    plan = planned(source, target)
    made, selector = DaskBackend(plan), selectors.DefaultSelector()
    made._hooks = Hooks(selector, open_gate(plan), refuse, lambda text: None, refuse)
    yield made
    selector.close()
    made._exchange.close()
    made.pacer.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["report", "report", "deliver", "deliver", "orders", "old orders"]),
        st.integers(0, 30),
    ),
    max_size=40,
)


def test_whatever_happens_to_events_each_report_is_booked_once_and_in_order(
    backend: DaskBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what a task has sent, any event is delivered at any time, never or again; so are the
    orders, which acknowledge. Its result brings the rest."""
    monkeypatch.setattr(remote, "_RESEND_SECONDS", -1.0)  # at each order
    partition = backend._plan.partitions[0]
    order = WalkOrder(partition, 0, 0, "")
    run = remote.Run()

    @settings(max_examples=300, deadline=None)
    @given(STEPS, st.booleans(), st.booleans())
    def law(steps: list[Step], accepted: bool, more: bool) -> None:
        sent: list[bytes] = []
        acknowledged = [0]
        booked: list[Event] = []
        working = remote._Working(run, 7, TOKEN, sent.append)
        backend._tasks = {7: _Task(7, order, 0, token=TOKEN if accepted else "another")}

        def deliver(body: bytes) -> None:
            message = unpack(body)
            assert isinstance(message, Reported)
            booked.extend(backend._booked(message))

        reports = 0
        for what, number in steps:
            if what == "report":
                reports += 1
                ack = Ack(-1, Counts(copied=1))
                working.report(Advanced(partition.id, 0, reports, ack))
            elif what == "deliver" and sent:
                deliver(sent[number % len(sent)])
            elif what == "orders":
                acknowledged.append(backend._tasks[7].booked)
                working.received(acknowledged[-1])
            elif what == "old orders":
                working.received(acknowledged[number % len(acknowledged)])
        late = sent[-3:]
        last = Advanced(partition.id, 0, reports + 1, Ack(-1, Counts(copied=1))) if more else None
        done = Done(TOKEN, working.rest(), Finish(Walked(partition.id, 0), last))
        booked += list(backend._finished(Finished(7, done)))
        for body in late:
            deliver(body)

        if accepted:
            *advances, ending = booked
            assert isinstance(ending, Walked)
            cursors = [event.cursor for event in advances if isinstance(event, Advanced)]
            assert cursors == list(range(1, reports + more + 1)) and len(cursors) == len(advances)
            assert not backend._tasks and not backend._mourned
        else:
            assert booked == []
            assert list(backend._mourned) == [7], "the accepted start was lost"
        backend._mourned = {}

    try:
        law()
    finally:
        run.pacer.close()


# --- leases ---------------------------------------------------------------------------------


class Clock:
    """The monotonic clock of a worker's machine; `ahead` of the coordinator's."""

    def __init__(self, ahead: float = 5000.0) -> None:
        self.now = 9000.0
        self.ahead = ahead

    def monotonic(self) -> float:
        return self.now

    @property
    def there(self) -> float:
        return self.now - self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(remote, "time", made)
    return made


def orders(number: int, sent: float, *accepted: str) -> Orders:
    return Orders(
        "run", number, Pace(), 1000, {}, 1000, {}, 0.0, frozenset(accepted), frozenset(), {},
        sent=sent,
    )  # fmt: skip


@pytest.fixture
def tasks(clock: Clock) -> Iterator[tuple[remote.Run, list[remote._Working]]]:
    """Two of a run in this process, `a` and `b`."""
    run = remote.Run()
    made = [remote._Working(run, n, token, lambda body: None) for n, token in enumerate("ab")]
    for task in made:
        run.add(task)
    yield run, made
    run.pacer.close()


def test_a_lease_that_is_over_stays_over(
    clock: Clock, tasks: tuple[remote.Run, list[remote._Working]]
) -> None:
    """A process that hung finds old orders waiting, while its walk is done elsewhere."""
    run, (a, b) = tasks
    run.obey(orders(0, clock.there, "a", "b"))
    clock.now += 9.9
    assert a.lease.lives() and b.lease.lives()
    clock.now += 0.2
    for number in range(1, 5):
        run.obey(orders(number, clock.there, "a", "b"))
    assert not a.lease.lives() and not b.lease.lives()
    with pytest.raises(remote.LeaseOver):
        a.allows(0)
    with pytest.raises(remote.LeaseOver):
        list(remote.LeasedPacer(run.pacer, remote.Tenancy(a.lease)).turn(keys=1))


def test_only_accepted_tasks_have_their_leases_renewed(
    clock: Clock, tasks: tuple[remote.Run, list[remote._Working]]
) -> None:
    run, (a, b) = tasks
    run.obey(orders(0, clock.there, "a", "b"))
    for number in range(1, 8):
        clock.now += 2
        run.obey(orders(number, clock.there, "b"))
    assert not a.lease.lives() and b.lease.lives()


def test_a_task_that_waits_for_its_acceptance_keeps_its_lease(
    clock: Clock, tasks: tuple[remote.Run, list[remote._Working]]
) -> None:
    run, (a, b) = tasks
    for number in range(8):
        clock.now += 2
        run.obey(orders(number, clock.there, "b"))
    assert a.lease.lives() and b.lease.lives()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.1, 2.0), st.floats(0.0, 15.0)), min_size=1, max_size=30
    ),
    st.floats(-1e6, 1e6),
    st.floats(0.001, 0.5),
)
def test_orders_renew_from_the_time_at_which_they_were_sent(
    sendings: list[tuple[float, float]], ahead: float, fastest: float
) -> None:
    """Each order waits somewhere for some seconds: no lease lasts for more than 10 s after the last
    one was sent, but for the time that the fastest order took."""
    clock = Clock(ahead)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "time", clock)
        lease, sender = remote.Lease(), remote.SenderClock()
        start = sent = clock.now
        arrivals = [(start, start + fastest)]  # the first comes at once
        for pause, wait in sendings:
            sent += pause
            arrivals.append((sent, max(sent + fastest + wait, arrivals[-1][1])))
        for sent, arrival in arrivals:
            clock.now = arrival
            lease.renew(sender.here(sent - ahead))
        drift = 0.001 * (clock.now - start) + 1e-6 * (1 + abs(ahead) / 1e3)
        assert lease._until <= sent + fastest + 10.0 + drift
        if all(wait < 5 for _, wait in sendings):
            assert lease.lives(), "orders every 2 s, late by less than the rest of the lease"


def test_foreign_events_are_ignored() -> None:
    for body in (None, 1, "text", {"a": 1}, [b"x"]):
        assert unpack(body) is None
    hello = Hello(1, TOKEN, "tcp://w", "h", 1, ())
    assert unpack(pack(hello)) == hello


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 500), st.lists(st.text(min_size=1), unique=True, max_size=20))
def test_batches_are_shared_out_whole(batches: int, tokens: list[str]) -> None:
    told = shares(batches, tuple(tokens))
    assert set(told) == set(tokens)
    if tokens:
        assert sum(told.values()) == batches
        assert max(told.values()) - min(told.values()) <= 1
