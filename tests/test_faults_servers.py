"""Servers that restart, fail over, lose writes, are full, or refuse: nothing is lost, and what
cannot be helped is said."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.copying import Copied, Copying, assert_exact, at_rest, copy, follow, resume
from support.data import compare, fill_mixed, fingerprint, keys_of
from support.faults import full
from support.proxy import Proxy
from support.run import rumpx
from support.servers import Cluster, Server, key_slot
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]

KEYS = 12_000
TOLD = ("--progress", "json", "--summary", "-")


def filled(source: Server | Cluster) -> None:
    fill_mixed(source, KEYS)
    at_rest(*(source.nodes if isinstance(source, Cluster) else [source]))


@contextlib.contextmanager
def between_runs(copying: Copying, target: Server, keys: int) -> Iterator[None]:
    """While this is open the job is stopped, with so many keys copied; afterwards see `end`."""
    copying.stop_at(target, keys)
    copying.finish(130)
    yield


def end(copying: Copying) -> Copied:
    """The end of the job, in the run that is under way or in another."""
    return resume() if copying.run.process.returncode == 130 else copying.finish()


Moment = Callable[[Copying, Server, int], contextlib.AbstractContextManager[None]]
MOMENTS = [pytest.param(Copying.held_at, id="during a run"), full(between_runs, id="between runs")]


# --- the source restarts --------------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("version", ["7.0", full("6.2"), full("8.1"), full("9.1")])
def test_the_source_restarts(server: StartServer, version: str, moment: Moment) -> None:
    source, target = server(version), server(version)
    filled(source)
    with Copying(source, target, "--job", "job", "--partitions", "4") as copying:
        with moment(copying, target, KEYS // 2):
            source.restart(keep_data=True)
        done = end(copying)
    assert_exact(done, source, target, KEYS, ttl=2 if version == "6.2" else 0)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("version", ["7.0", full("6.2"), full("8.1"), full("9.1")])
def test_cursors_of_another_process_are_worthless(
    server: StartServer, state_home: Path, version: str, trusted: bool
) -> None:
    """If the ledger claims that they are the new process's, keys are lost: so it is the `run_id`
    that saves them. (A filter, so that counting keys at the end does not.)"""
    source, target = server(version), server(version)
    filled(source)
    flags = ("--job", "job", "--exclude", "nothing:*")
    with Copying(source, target, *flags) as copying:
        copying.stop_at(target, KEYS // 4)
        copying.finish(130)
    before = source.info("server")["run_id"]
    source.restart(keep_data=True)
    after = source.info("server")["run_id"]
    assert before != after
    with contextlib.closing(sqlite3.connect(state_home / "job.ledger")) as ledger, ledger:
        told = ledger.execute("SELECT DISTINCT run_id FROM partitions").fetchall()
        assert told == [(before,)]
        if trusted:
            ledger.execute("UPDATE partitions SET run_id = ?", (after,))

    resume()

    missing = len(keys_of(source) - keys_of(target))
    assert missing > 100 if trusted else missing == 0


# --- the target restarts --------------------------------------------------------------------


def keep_all(target: Server, size: int) -> None:
    target.restart()


def keep_half(target: Server, size: int) -> None:
    """What it wrote of late never came to the disk."""
    target.kill()
    with open(append_only_file(target), "r+b") as file:
        file.truncate(size)
    target.restart()


def keep_nothing(target: Server, size: int) -> None:
    target.kill()
    append_only_file(target).write_bytes(b"")
    target.restart()


def append_only_file(target: Server) -> Path:
    (path,) = [p for p in target.folder.rglob("*appendonly*.aof*") if "incr" in p.name] or [
        target.folder / "appendonly.aof"
    ]
    return path


@pytest.mark.parametrize("version", ["7.0", full("6.2"), full("9.1")])
@pytest.mark.parametrize(
    ("keep", "moment"),
    [
        pytest.param(keep_half, Copying.held_at, id="half, during a run"),
        pytest.param(keep_nothing, between_runs, id="nothing, between runs"),
        full(keep_half, between_runs, id="half, between runs"),
        full(keep_nothing, Copying.held_at, id="nothing, during a run"),
        full(keep_all, Copying.held_at, id="all, during a run"),
        full(keep_all, between_runs, id="all, between runs"),
    ],
)
def test_the_target_restarts(
    server: StartServer, version: str, moment: Moment, keep: Callable[[Server, int], None]
) -> None:
    source = server(version)
    target = server(version, appendonly="yes", appendfsync="always", aof_use_rdb_preamble="no")
    filled(source)
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, KEYS // 4):
            size = append_only_file(target).stat().st_size
        with moment(copying, target, KEYS // 2):
            acknowledged = len(keys_of(target))
            keep(target, size)
            kept = len(keys_of(target))
        done = end(copying)
    assert_exact(done, source, target, KEYS, ttl=2 if version == "6.2" else 0)
    assert done.summary["walked_again"] == {"the target's node changed": 1}
    assert "does not prove that it kept the key" in done.warnings
    lost = acknowledged - kept
    assert lost == 0 if keep is keep_all else lost > 0
    assert kept == 0 if keep is keep_nothing else kept > 0
    assert ("keys fewer than it acknowledged" in done.warnings) == (lost > 0)


@pytest.mark.parametrize("version", ["7.0", full("9.1")])
def test_a_target_that_is_empty_at_the_end(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    """A migration that does not end holds the run up when all is copied."""
    source, target = cluster(version), server(version)
    filled(source)
    here, there = source.primaries()[:2]
    used = set(map(key_slot, keys_of(source)))
    slot = next(s for s in range(16384) if s not in used and source.owner(s) is here)
    source.begin_migration(slot, here, there)
    with Copying(source, target, "--batch-keys", "200") as copying:
        wait_until(lambda: "finish their migration" in copying.run.stderr, 30, "it waits")
        assert len(keys_of(target)) == KEYS
        target.restart()
        source.finish_migration(slot)
        done = copying.finish()
    assert_exact(done, source, target, KEYS)
    assert "The target restarted and is empty" in done.warnings


@pytest.mark.parametrize("kill", [True, full(False)])
def test_a_suspicion_is_not_forgotten(
    server: StartServer, proxy: StartProxy, kill: bool
) -> None:
    """The target has lost everything, which has been seen; but before the walks again can be
    planned, the run ends. (A filter, so that counting keys does not save it.)"""
    source, target = server("7.0"), server("8.1")
    filled(source)
    to_source, to_target = proxy(source), proxy(target)
    flags = ("--job", "job", "--exclude", "nothing:*")
    with Copying(to_source, to_target, *flags) as copying:
        with copying.held_at(target, 1000):
            to_source.refuse = to_target.refuse = True  # connections that are there live on
        wait_until(lambda: '"checking"' in copying.run.stderr, 30, "all is copied")
        target.restart()
        to_target.refuse = False
        refused = f"The connection to 127.0.0.1:{to_source.port} was lost"
        wait_until(lambda: refused in copying.run.stderr, 30, "it asks the source")
        # The books are saved as often as they are shown, once a second.
        shown = copying.run.stderr.count('"progress"')
        wait_until(lambda: copying.run.stderr.count('"progress"') > shown + 2, 20, "it is saved")
        copying.run.send_signal(signal.SIGKILL if kill else signal.SIGINT)
        copying.run.wait()
    to_source.refuse = False
    resume()
    assert compare(source, target) == []


# --- clusters that fail over ----------------------------------------------------------------


def lose_primary(nodes: Cluster, primary: Server, replica: Server) -> None:
    """The replica takes over, without what did not get to it."""
    primary.kill()
    wait_until(lambda: replica.info("replication")["role"] == "master", 30, "the takeover")
    nodes.wait_ok()


@pytest.mark.parametrize("killed", [False, full(True)])
@pytest.mark.parametrize("version", ["7.0", full("9.1")])
def test_the_target_fails_over_and_loses_writes(
    cluster: StartCluster, server: StartServer, version: str, killed: bool
) -> None:
    """Also where the run itself is killed then, and another goes on."""
    source, target = server("7.0"), cluster(version, replicas=1)
    filled(source)
    primary = target.primaries()[1]  # the first is the one by which the command finds the others
    (replica,) = target.replicas(primary)
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, KEYS // 4):
            target.make_deaf(replica, primary)
        with copying.held_at(target, KEYS // 2):
            acknowledged = len(keys_of(target))
            if killed:
                copying.run.send_signal(signal.SIGKILL)
            lose_primary(target, primary, replica)
            assert len(keys_of(target)) < acknowledged
        done = resume() if killed else copying.finish()
    assert_exact(done, source, target, KEYS)
    assert set(done.summary["walked_again"]) == {"the target's node changed"}


@pytest.mark.parametrize("killed", [False, full(True)])
@pytest.mark.parametrize("version", ["7.0", full("9.1")])
def test_the_source_fails_over_and_loses_writes(
    cluster: StartCluster, server: StartServer, version: str, killed: bool
) -> None:
    """What was written to the old primary alone is gone; all else is copied."""
    source, target = cluster(version, replicas=1), server(version)
    filled(source)
    primary = source.primaries()[1]
    (replica,) = source.replicas(primary)
    replicated(source)
    lasting = keys_of(source)
    ports = source.slot_ports()
    mine = [key for key in numbered(b"lost", 3000) if ports[key_slot(key)] == primary.port]
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, KEYS // 4):
            source.make_deaf(replica, primary)
            with primary.raw() as raw:
                raw.many([("SET", key, "x") for key in mine])
            assert len(keys_of(source)) == KEYS + len(mine)
        with copying.held_at(target, KEYS // 2):  # some of these, maybe, among them
            if killed:
                copying.run.send_signal(signal.SIGKILL)
            lose_primary(source, primary, replica)
            assert keys_of(source) == lasting, "these writes are lost"
        done = resume() if killed else copying.finish()
    assert compare(source, target, keys=lasting) == []
    assert done.counts["failed"] == 0


def numbered(name: bytes, count: int) -> list[bytes]:
    return [b"%b:%d" % (name, number) for number in range(count)]


def replicated(nodes: Cluster) -> None:
    """Until each primary's replica has what was written."""
    for primary in nodes.primaries():
        for replica in nodes.replicas(primary):
            wait_until(
                lambda p=primary, r=replica: p.do("DBSIZE") == r.do("DBSIZE"),  # type: ignore[misc]
                30,
                f"{replica!r} has it all",
            )


@pytest.mark.parametrize("side", ["source", full("target")])
@pytest.mark.parametrize("version", ["7.0", full("9.1")])
def test_slots_move_while_a_job_is_stopped(
    cluster: StartCluster, server: StartServer, version: str, side: str
) -> None:
    """Some to nodes that have been walked to the end, some from those. (MIGRATE moves expiries.)"""
    nodes, single = cluster(version), server(version)
    source: Cluster | Server = nodes if side == "source" else single
    target: Cluster | Server = single if side == "source" else nodes
    filled(source)
    with Copying(source, target, "--job", "job") as copying:
        copying.stop_at(target, KEYS // 4)
        copying.finish(130)
    primaries = nodes.primaries()
    slots = [slots_with_keys(nodes, node, 5) for node in primaries]
    for number, here in enumerate(primaries):
        for slot in slots[number]:
            nodes.migrate_slot(slot, here, primaries[number - 1])
    done = resume()
    assert compare(source, target, ttl_tolerance_ms=100 if side == "target" else 0) == []
    assert ("slots moved" in done.summary["walked_again"]) == (side == "source")


def slots_with_keys(nodes: Cluster, node: Server, count: int) -> list[int]:
    """Slots of a primary that hold keys."""
    ports = nodes.slot_ports()
    found = {slot for key in keys_of(nodes) if ports[slot := key_slot(key)] == node.port}
    return sorted(found)[:count]


# --- servers that refuse for a while --------------------------------------------------------


@contextlib.contextmanager
def every_second(work: Callable[[], object]) -> Iterator[list[int]]:
    """Do something now and each second, in a thread, while this is open; the list has an entry a
    time."""
    over = threading.Event()
    done: list[int] = []

    def repeat() -> None:
        while True:
            work()
            done.append(1)
            if over.wait(1):
                return

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("sides", [("source", "target"), full(("source",)), full(("target",))])
@pytest.mark.parametrize("times", [2, full(8)])
def test_all_connections_are_killed_each_second(
    server: StartServer, proxy: StartProxy, sides: tuple[str, ...], times: int
) -> None:
    """So slow, and with so little in flight, that it takes more than these."""
    source, target = server("7.0"), server("8.1")
    filled(source)
    way = proxy(source)
    ends = {"source": source, "target": target}
    with Copying(way, target, "--job", "job", "--batch-keys", "1") as copying:
        with copying.held_at(target, 100):
            way.rtt_ms = 100
        with every_second(
            lambda: [ends[side].do("CLIENT", "KILL", "TYPE", "normal") for side in sides]
        ) as killed:
            wait_until(lambda: len(killed) >= times, 60, "some kills")
            assert copying.run.alive
            way.rtt_ms = 0
            done = copying.finish()
    assert_exact(done, source, target, KEYS)


@pytest.mark.parametrize("side", ["target", full("source")])
@pytest.mark.parametrize(
    ("mode", "pause_ms"), [("WRITE", 700), full("ALL", 700), full("WRITE", 4000), full("ALL", 4000)]
)
def test_clients_are_paused(server: StartServer, side: str, mode: str, pause_ms: int) -> None:
    """Shorter than the timeout, and longer."""
    source, target = server("7.0"), server("8.1")
    filled(source)
    paused = source if side == "source" else target
    with Copying(source, target, "--job", "job", "--timeout", "1500ms") as copying:
        for keys in (KEYS // 4, KEYS // 2):
            with copying.held_at(target, keys):
                paused.do("CLIENT", "PAUSE", pause_ms, mode)
            if (side, mode) != ("source", "WRITE"):  # which holds up no reader
                paused.do("DEL", "nobody")  # answered when the pause is over
        done = copying.finish()
    assert_exact(done, source, target, KEYS)


def replica_of_nobody(target: Server) -> Callable[[], object]:
    target.do("REPLICAOF", "127.0.0.1", 1)
    return lambda: target.do("REPLICAOF", "NO", "ONE")


def without_replicas(target: Server) -> Callable[[], object]:
    target.do("CONFIG", "SET", "min-replicas-to-write", 1)
    return lambda: target.do("CONFIG", "SET", "min-replicas-to-write", 0)


@pytest.mark.parametrize("refuse", [replica_of_nobody, full(without_replicas)])
@pytest.mark.parametrize("seconds", [1, full(5)])
def test_a_target_that_is_read_only_for_a_while(
    server: StartServer, refuse: Callable[[Server], Callable[[], object]], seconds: int
) -> None:
    source, target = server("7.0"), server("8.1")
    filled(source)
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, KEYS // 2):
            accept = refuse(target)
            there = len(keys_of(target))
        time.sleep(seconds)  # not for luck: so long it is read-only
        assert copying.run.alive and len(keys_of(target)) == there
        accept()
        done = copying.finish()
    assert_exact(done, source, target, KEYS)


@pytest.mark.parametrize(
    ("side", "command", "code"), [("source", "dump", 6), full("target", "restore", 7)]
)
@pytest.mark.parametrize("version", ["7.0", full("9.1")])
def test_a_permission_is_taken_away_and_given_back(
    server: StartServer, version: str, side: str, command: str, code: int
) -> None:
    source, target = server(version), server(version)
    filled(source)
    refusing = source if side == "source" else target
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, KEYS // 2):
            refusing.do("ACL", "SETUSER", "default", f"-{command}")
        ended = copying.finish(code)
    assert f"+{command}" in ended.stderr and ended.counts["copied"] < KEYS
    refusing.do("ACL", "SETUSER", "default", f"+{command}")
    assert_exact(follow(ended, *TOLD), source, target, KEYS)


# --- memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["7.0", full("6.2"), full("8.1"), full("9.1")])
def test_a_target_out_of_memory(server: StartServer, version: str) -> None:
    """It drains, and goes on when there is room."""
    source, target = server(version), server(version)
    filled(source)
    with Copying(source, target, "--job", "job", "--max-target-memory", "off") as copying:
        with copying.held_at(target, KEYS // 3):
            target.do("CONFIG", "SET", "maxmemory", target.info("memory")["used_memory"])
        ended = copying.finish(5)
    assert "out of memory" in ended.stderr and "maxmemory" in ended.stderr
    # Others that were in flight, a pipeline of each batch, may have been written without our having
    # seen the answer.
    there = len(keys_of(target))
    assert there - 64 * 5 <= ended.counts["copied"] <= there < KEYS
    assert ended.counts["failed"] == 0
    follow(ended, code=5)  # it is still full
    target.do("CONFIG", "SET", "maxmemory", 0)
    assert_exact(follow(ended, *TOLD), source, target, KEYS, ttl=2 if version == "6.2" else 0)


@pytest.mark.parametrize("version", ["7.0", full("8.1"), full("9.1")])
def test_a_target_that_evicts(server: StartServer, version: str) -> None:
    """It is said before; and what was evicted, afterwards, with a repair that fails no better."""
    source, target = server(version), server(version)
    filled(source)
    # Enough for the buffers of all connections beside some keys: they count, and cannot be evicted.
    room = int(target.info("memory")["used_memory"]) + 1_000_000
    target.do("CONFIG", "SET", "maxmemory", room)
    target.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    done = copy(source, target, "--max-target-memory", "off")
    evicted = int(target.info("stats")["evicted_keys"])
    assert evicted > 0 and done.summary["missing"] > 0
    assert "The target evicts keys when its memory is full (allkeys-lru)" in done.warnings
    assert "The target evicted" in done.warnings
    # What is asked of the target after its keys were counted may make it evict some more.
    assert 0 < len(keys_of(target)) <= KEYS - done.summary["missing"]
    target.do("CONFIG", "SET", "maxmemory", 0)
    repaired = rumpx("verify", "--from", source.uri, "--to", target.uri, "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert compare(source, target) == []


# --- clocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [3600, full(-3600)])
@pytest.mark.parametrize(
    ("old", "new"), [("7.0", "8.1"), full("8.1", "9.1"), full("9.1", "9.1")]
)
def test_clocks_an_hour_apart(server: StartServer, old: str, new: str, ahead: int) -> None:
    """Refused; absolute keeps the instants, relative the times left."""
    source, target = server(old), server(new, clock_ahead=ahead)
    fill_mixed(source, 1000, ttl_share=0.5)
    source.do("SET", "soon", "x", "PX", 600_000)  # by the target's clock it may be over

    refused = copy(source, target, code=7)
    assert f"{ahead:+,}" in refused.stderr and "--clock" in refused.stderr
    assert keys_of(target) == set()

    done = copy(source, target, "--clock", "absolute")
    gone = 1 if ahead > 0 else 0
    assert done.counts["copied"] == 1001 - gone and done.counts["gone"] == gone
    wanted = keys_of(source) - ({b"soon"} if gone else set())
    assert compare(source, target, keys=wanted, ttl_tolerance_ms=2) == []
    target.do("FLUSHALL")

    done = copy(source, target, "--clock", "relative")
    assert done.counts["copied"] == 1001 and done.counts["gone"] == 0
    shifts = expiry_shifts(source, target)
    assert len(shifts) > 300
    assert all(abs(shift - ahead * 1000) < 100 for shift in shifts)


def expiry_shifts(source: Server, target: Server) -> list[int]:
    """ms from each expiry of the source to that of the target; all else is equal."""
    there = fingerprint(target)
    shifts = []
    for place, value in fingerprint(source).items():
        other = there.pop(place)
        assert (value.kind, value.data) == (other.kind, other.data)
        if value.expiry[0] >= 0 or other.expiry[0] >= 0:
            shifts.append(other.expiry[0] - value.expiry[0])
    assert not there
    return shifts
