"""Reading from the source's replicas: primaries feel nothing, and nothing is lost by it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from random import Random

import pytest

from support.copying import Copied, Copying, copy, held, resume, verify
from support.data import compare, fill_mixed, keys_of
from support.proxy import Proxy
from support.replication import attach, cut_off, link, replicated, resynchronise
from support.run import rumpx
from support.servers import ALL, Cluster, Sentinel, Server, key_slot
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartSentinel = Callable[..., Sentinel]
StartProxy = Callable[..., Proxy]

KEYS = 8_000
REPLICA = ("--read-from", "replica")
PREFER = ("--read-from", "prefer-replica")
SOURCE, TEMPORARY, DIFFER = 6, 5, 4
READS = {"scan", "dump", "pexpiretime", "pttl", "memory|usage", "type", "exists"}


def called(server: Server) -> set[str]:
    """The commands that a server has executed since its statistics were reset."""
    return {name.removeprefix("cmdstat_") for name in server.info("commandstats")}


@contextlib.contextmanager
def untouched(*primaries: Server) -> Iterator[None]:
    """Nobody reads keys of these servers meanwhile."""
    for primary in primaries:
        primary.do("CONFIG", "RESETSTAT")
    yield
    for primary in primaries:
        assert called(primary).isdisjoint(READS), called(primary)


def node_of(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def nodes_read(done: Copied) -> set[str]:
    return {part["node"] for part in done.summary["partitions"]}


def with_replicas(server: StartServer, version: str, count: int = 1) -> list[Server]:
    """A filled primary, and its replicas."""
    servers = [server(version) for _ in range(1 + count)]
    fill_mixed(servers[0], KEYS)
    for replica in servers[1:]:
        replica.replicate(servers[0])
        replicated(servers[0], replica)
    return servers


def filled_cluster(cluster: StartCluster, version: str) -> Cluster:
    """Three primaries with a replica each."""
    nodes = cluster(version, replicas=1)
    fill_mixed(nodes, KEYS)
    for primary in nodes.primaries():
        for replica in nodes.replicas(primary):
            replicated(primary, replica)
    return nodes


# --- all is well ----------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [REPLICA, PREFER])
@pytest.mark.parametrize("version", ["6.2", "7.0", "8.1"])
def test_the_primary_is_not_read(server: StartServer, version: str, wish: tuple[str, ...]) -> None:
    source, replica = with_replicas(server, version)
    target = server(version)
    with untouched(source):
        done = copy(source, target, *wish)
    assert compare(source, target, ttl_tolerance_ms=2 if version == "6.2" else 0) == []
    assert (done.warnings, done.summary["missing"]) == ("", 0)
    assert done.summary["walked_again"] == {}
    assert nodes_read(done) == {node_of(replica)}


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_the_primaries_of_a_cluster_are_not_read(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    source, target = filled_cluster(cluster, version), server(version)
    with untouched(*source.primaries()):
        done = copy(source, target, *REPLICA)
        verified = verify(source, target, *REPLICA)
    assert compare(source, target) == []
    assert (done.warnings, done.summary["missing"]) == ("", 0)
    assert done.summary["walked_again"] == {}
    assert nodes_read(done) == {node_of(replica) for replica in source.replicas()}
    assert verified.counts["equal"] == KEYS


def test_without_the_flag_primaries_are_read(cluster: StartCluster, server: StartServer) -> None:
    source, target = filled_cluster(cluster, "7.0"), server("7.0")
    done = copy(source, target, "--read-from", "primary")
    assert nodes_read(done) == {node_of(primary) for primary in source.primaries()}


def test_sentinels_name_the_primary_and_that_its_replicas(
    sentinel: StartSentinel, server: StartServer
) -> None:
    source, target = sentinel("7.0", requirepass="secret"), server("7.0")
    fill_mixed(source.primary, KEYS)
    (replica,) = (node for node in source.nodes if node is not source.primary)
    uri = f"redis+sentinel://:secret@{source.addresses[0]}/mymaster"
    with untouched(source.primary):
        done = copy(uri, target, *REPLICA)
    assert compare(source.primary, target) == []
    assert nodes_read(done) == {node_of(replica)}


def test_replicas_are_reached_where_the_map_says(server: StartServer, proxy: StartProxy) -> None:
    source, replica = with_replicas(server, "7.0")
    target, way = server("7.0"), proxy(replica)
    copy(
        source, target, *REPLICA, "--from-map-address",
        f"127.0.0.1:{replica.port}=127.0.0.1:{way.port}",
    )  # fmt: skip
    assert compare(source, target) == []
    assert way.bytes_down > 0


def test_expired_keys_are_gone_and_not_missing(server: StartServer) -> None:
    """A replica keeps them until its primary removes them, but shows them to nobody."""
    source, replica = with_replicas(server, "7.0")
    target = server("7.0")
    with source.raw() as raw:
        raw.many([("SET", b"soon:%d" % number, "x", "PX", 400) for number in range(3000)])
    wait_until(lambda: replica.do("EXISTS", "soon:2999") == 0, 10, "they have expired")
    wait_until(lambda: source.do("DBSIZE") == KEYS, 20, "the primary has removed them")
    done = copy(source, target, *REPLICA)
    assert compare(source, target) == []
    assert (done.counts["copied"], done.summary["missing"]) == (KEYS, 0)


# --- no replica that is fit -----------------------------------------------------------------


def refused(source: Server | Cluster, target: Server, *, said: str) -> None:
    """With `replica` a copy is refused, with `prefer-replica` it reads the primary and says so."""
    done = copy(source, target, *REPLICA, code=SOURCE)
    assert said in done.stderr and "--read-from" in done.stderr, done.stderr[-2000:]
    assert keys_of(target) == set()
    done = copy(source, target, *PREFER)
    assert said in done.warnings and "Its primary is read instead." in done.warnings
    assert compare(source, target) == []


def test_a_source_without_replicas(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 500)
    refused(source, target, said="it has no replicas")


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_node_whose_replica_is_dead(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    source, target = filled_cluster(cluster, version), server(version)
    (dead,) = source.replicas(source.primaries()[1])
    dead.kill()
    refused(source, target, said=f"The source's node {node_of(source.primaries()[1])}")


def test_a_replica_that_has_lost_its_primary(cluster: StartCluster, server: StartServer) -> None:
    """(A standalone primary would not even name it.)"""
    source, target = filled_cluster(cluster, "7.0"), server("7.0")
    primary = source.primaries()[1]
    (replica,) = source.replicas(primary)
    cut_off(replica, primary)
    refused(source, target, said=f"{node_of(replica)} has lost the link")


def test_a_replica_that_is_behind(server: StartServer, proxy: StartProxy) -> None:
    """Its link is up, but what is written does not get there."""
    source, replica, target = server("7.0"), server("7.0"), server("7.0")
    way = proxy(source)
    fill_mixed(source, 500)
    replica.do("REPLICAOF", "127.0.0.1", way.port)
    wait_until(lambda: link(replica) == "up", 10, "it is attached")
    way.stall("down")
    source.do("SET", "late", "x")
    refused(source, target, said="behind its primary")
    target.do("FLUSHALL")
    way.go()
    copy(source, target, *REPLICA)
    assert compare(source, target) == []


def test_it_is_waited_for_a_replica_that_is_catching_up(
    server: StartServer, proxy: StartProxy
) -> None:
    source, replica, target = server("7.0"), server("7.0"), server("7.0")
    way = proxy(source)
    fill_mixed(source, 500)
    replica.do("REPLICAOF", "127.0.0.1", way.port)
    wait_until(lambda: link(replica) == "up", 10, "it is attached")
    way.stall("down")
    source.do("SET", "late", "x")
    asked = calls(replica, "info")
    with Copying(source, target, *REPLICA) as copying:
        wait_until(lambda: calls(replica, "info") > asked + 40, 10, "it is asked again and again")
        way.go()
        copying.finish()
    assert compare(source, target) == []


def calls(server: Server, command: str) -> int:
    told = server.info("commandstats").get(f"cmdstat_{command}", "calls=0,")
    return int(told.removeprefix("calls=").partition(",")[0])


def test_a_source_that_is_a_replica_itself(server: StartServer) -> None:
    """It is read without the flag, and its lag is nobody's concern."""
    source, replica = with_replicas(server, "7.0")
    target = server("7.0")
    done = copy(replica, target, *REPLICA, code=SOURCE)
    assert "is itself a replica" in done.stderr and "leave out --read-from" in done.stderr
    done = copy(replica, target, *PREFER)
    assert "is itself a replica" in done.warnings
    assert compare(source, target) == []


def test_what_a_replica_must_allow(cluster: StartCluster, server: StartServer) -> None:
    source, target = filled_cluster(cluster, "7.0"), server("7.0")
    for node in source.nodes:
        node.do("ACL", "SETUSER", "default", "-readonly")
    done = copy(source, target, *REPLICA, code=SOURCE)
    assert "READONLY" in done.stderr and "+readonly" in done.stderr
    for node in source.nodes:
        node.do("ACL", "SETUSER", "default", "+readonly", "-client|list")
    done = copy(source, target, *REPLICA)
    assert "refuses CLIENT LIST" in done.warnings
    assert compare(source, target) == []


def test_flags_that_cannot_be_meant(server: StartServer) -> None:
    done = rumpx("--from", "redis://a", "--to", "redis://b", "--read-from", "secondary")
    assert done.returncode == 2 and "--read-from" in done.stderr
    done = rumpx("--from", "unix:///s", "--to", "redis://b", *REPLICA)
    assert done.returncode == 2 and "TCP" in done.stderr


# --- while it copies ------------------------------------------------------------------------


def test_a_replica_that_dies(server: StartServer) -> None:
    """The other one is read in its place."""
    source, *replicas = with_replicas(server, "7.0", 2)
    target = server("7.0")
    with untouched(source), Copying(source, target, *REPLICA) as copying:
        with copying.held_at(target, KEYS // 4):
            (dead,) = (one for one in replicas if calls(one, "scan"))
            dead.kill()
        done = copying.finish()
    (other,) = (one for one in replicas if one is not dead)
    assert compare(source, target) == []
    assert nodes_read(done) == {node_of(other)}


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_the_last_replica_dies(cluster: StartCluster, server: StartServer, version: str) -> None:
    """Its primary is read, if that is allowed; else the run ends, and can be gone on with."""
    source, target = filled_cluster(cluster, version), server(version)
    primary = source.primaries()[1]
    (dead,) = source.replicas(primary)
    flags = ("--job", "job", "--retry-for", "2s")
    with Copying(source, target, *REPLICA, *flags) as copying:
        with copying.held_at(target, KEYS // 4):
            dead.kill()
        ended = copying.finish(TEMPORARY)
    assert node_of(dead) in ended.stderr
    dead.restart()
    source.wait_ok()
    with untouched(*source.primaries()):
        resume()
    assert compare(source, target) == []


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_the_primary_stands_in_for_its_last_replica(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    source, target = filled_cluster(cluster, version), server(version)
    primary = source.primaries()[1]
    (dead,) = source.replicas(primary)
    with Copying(source, target, *PREFER) as copying:
        with copying.held_at(target, KEYS // 4):
            dead.kill()
        done = copying.finish()
    assert compare(source, target) == []
    assert node_of(primary) in nodes_read(done)


@pytest.mark.parametrize("load", ["disabled", "swapdb"])
@pytest.mark.parametrize("version", ALL)
def test_a_full_resynchronisation_has_the_walks_start_over(
    server: StartServer, version: str, load: str
) -> None:
    """It empties the replica, whose process lives on."""
    source, replica = with_replicas(server, version)
    target = server(version)
    replica.do("CONFIG", "SET", "repl-diskless-load", load)
    process = replica.info("server")["run_id"]
    with untouched(source), Copying(source, target, *REPLICA) as copying:
        with copying.held_at(target, KEYS // 4):
            resynchronise(replica, source)
        done = copying.finish()
    assert replica.info("server")["run_id"] == process
    assert compare(source, target, ttl_tolerance_ms=2 if version == "6.2" else 0) == []
    assert done.summary["walked_again"]["the source's node changed"] > 0


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_partial_resynchronisation_does_not(server: StartServer, version: str) -> None:
    source, replica = with_replicas(server, version)
    target = server(version)
    with Copying(source, target, *REPLICA) as copying:
        with copying.held_at(target, KEYS // 4):
            source.do("CLIENT", "KILL", "TYPE", "replica")
            wait_until(lambda: link(replica) == "up", 20, "it is attached again")
        done = copying.finish()
    assert int(source.info("stats")["sync_full"]) == 1
    assert compare(source, target) == []
    assert done.summary["walked_again"] == {}


def test_a_replica_that_is_cut_off_for_a_while(server: StartServer) -> None:
    """Only when it is attached again can be told that it was not emptied: so long no walk ends."""
    source, replica = with_replicas(server, "7.0")
    target = server("7.0")
    with Copying(source, target, *REPLICA) as copying:
        with copying.held_at(target, KEYS // 4):
            cut_off(replica, source)
        copying.wait_keys(target, KEYS)
        assert copying.run.alive
        attach(replica, source)
        done = copying.finish()
    assert compare(source, target) == []
    assert done.summary["walked_again"] == {}


def test_a_replica_that_is_cut_off_for_good(server: StartServer) -> None:
    source, replica = with_replicas(server, "7.0")
    target = server("7.0")
    with Copying(source, target, *REPLICA, "--retry-for", "1s") as copying:
        with copying.held_at(target, KEYS // 4):
            cut_off(replica, source)
        ended = copying.finish(TEMPORARY)
    assert "lost the link to its primary" in ended.stderr


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_replica_becomes_the_primary(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    """The old primary, now its replica, is read."""
    source, target = filled_cluster(cluster, version), server(version)
    primary = source.primaries()[1]
    (replica,) = source.replicas(primary)
    with Copying(source, target, *REPLICA) as copying:
        with copying.held_at(target, KEYS // 4):
            source.failover(replica)
            wait_until(lambda: link(primary) == "up", 20, "it is a replica")
        done = copying.finish()
    assert compare(source, target) == []
    assert node_of(primary) in nodes_read(done) and node_of(replica) not in nodes_read(done)


def test_a_replica_is_detached_and_emptied(server: StartServer) -> None:
    """It is none any more, whatever it has."""
    source, *replicas = with_replicas(server, "7.0", 2)
    target = server("7.0")
    with Copying(source, target, *REPLICA) as copying:
        with copying.held_at(target, KEYS // 4):
            (read,) = (one for one in replicas if calls(one, "scan"))
            read.do("REPLICAOF", "NO", "ONE")
            read.do("FLUSHALL")
        done = copying.finish()
    assert compare(source, target) == []
    assert node_of(read) not in nodes_read(done)


def test_a_replica_is_emptied_after_the_walk(server: StartServer, proxy: StartProxy) -> None:
    """Over a connection that is there already, a worker then finds the last keys gone."""
    source, *replicas = [server("7.0", **ALL_SLOW) for _ in range(3)]
    target = server("7.0")
    random = Random(1)
    with source.raw() as raw:
        raw.many([("SET", b"large:%d" % n, random.randbytes(30_000)) for n in range(60)])
    for replica in replicas:
        replica.replicate(source)
    way = proxy(target)
    way.trickle = True  # and so little is in flight that most keys are read late
    with Copying(source, way, *REPLICA, "--max-bytes-in-flight", "64k") as copying:
        copying.wait_keys(target, 1)
        (read,) = (one for one in replicas if calls(one, "scan"))
        wait_until(lambda: walked(read), 20, "the walk has ended")
        read.do("REPLICAOF", "NO", "ONE")
        read.do("FLUSHALL")
        assert len(keys_of(target)) < 50
        way.trickle = False
        done = copying.finish()
    assert compare(source, target) == []
    assert set(done.summary["walked_again"]) == {"the source's replica changed"}


# Keeps all commands.
ALL_SLOW = {"slowlog_log_slower_than": 0, "slowlog_max_len": 100_000}


def walked(replica: Server) -> bool:
    """Whether the connection that scanned last has asked for the replica's identity since."""
    identified = set()
    for _, _, _, words, client, *_ in replica.do("SLOWLOG", "GET", -1):  # the newest first
        if words[0].upper() == b"SCAN":
            return client in identified
        if [word.upper() for word in words[:2]] == [b"CLIENT", b"LIST"]:
            identified.add(client)
    return False


def test_a_replica_comes_back_empty(server: StartServer) -> None:
    """Until it has all again, that it lacks a key says nothing."""
    source, replica = with_replicas(server, "7.0")
    target = server("7.0")
    with untouched(source), Copying(source, target, *REPLICA) as copying:
        with copying.held_at(target, KEYS // 4):
            replica.restart()
            assert replica.do("DBSIZE") == 0
        wait_until(lambda: calls(replica, "client|list") > 5, 20, "scanners and workers ask it")
        assert copying.run.alive and len(keys_of(target)) < KEYS
        replica.replicate(source)
        done = copying.finish()
    assert compare(source, target) == []
    assert done.counts["gone"] == 0


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_slots_move_during_a_copy(cluster: StartCluster, server: StartServer, version: str) -> None:
    """In both directions, some to the end and some not before the walks are over. (A filter, so
    that counting keys does not save it.)"""
    source, target = filled_cluster(cluster, version), server(version)
    primaries = source.primaries()
    ports = source.slot_ports()
    slots: dict[int, list[int]] = {}
    for key in sorted(keys_of(source)):
        slots.setdefault(ports[key_slot(key)], []).append(key_slot(key))
    mine = {port: list(dict.fromkeys(found))[:40] for port, found in slots.items()}
    with Copying(source, target, *REPLICA, "--exclude", "nothing:*") as copying:
        with copying.held_at(target, KEYS // 4):
            for number, here in enumerate(primaries):
                for slot in mine[here.port][:20]:
                    source.migrate_slot(slot, here, primaries[number - 1])
                for slot in mine[here.port][20:]:
                    source.begin_migration(slot, here, primaries[number - 1])
                    source.migrate_keys(slot)
        copying.wait_keys(target, KEYS * 9 // 10)
        for found in mine.values():
            for slot in found[20:]:
                source.finish_migration(slot)
        done = copying.finish()
    assert compare(source, target) == []
    assert done.summary["walked_again"]["slots moved"] > 0


# --- going on with a job --------------------------------------------------------------------


def test_a_job_goes_on_with_the_same_replica(server: StartServer) -> None:
    source, *replicas = with_replicas(server, "7.0", 2)
    target = server("7.0")
    done = stopped_and_resumed(source, target, lambda: None)
    assert done.summary["walked_again"] == {}
    assert sum(calls(one, "scan") > 0 for one in replicas) == 1
    assert done.counts["copied"] + done.counts["repeated"] == KEYS


def test_a_job_goes_on_with_another_replica(server: StartServer) -> None:
    """What means nothing there starts over."""
    source, *replicas = with_replicas(server, "7.0", 2)
    target = server("7.0")

    def kill() -> None:
        (dead,) = (one for one in replicas if calls(one, "scan"))
        dead.kill()

    done = stopped_and_resumed(source, target, kill)
    (other,) = (one for one in replicas if one.alive)
    assert nodes_read(done) == {node_of(other)}


def stopped_and_resumed(source: Server, target: Server, between: Callable[[], object]) -> Copied:
    with untouched(source):
        with Copying(source, target, *REPLICA, "--job", "job") as copying:
            copying.stop_at(target, KEYS // 4)
            copying.finish(130)
        between()
        done = resume()
    assert compare(source, target) == []
    return done


# --- comparisons ----------------------------------------------------------------------------


def test_a_comparison_reads_replicas_and_mends(server: StartServer) -> None:
    source, _ = with_replicas(server, "7.0")
    target = server("7.0")
    copy(source, target, *REPLICA)
    target.do("DEL", *sorted(keys_of(target))[:3])
    target.do("SET", "extra", "x")
    with untouched(source):
        found = verify(source, target, *REPLICA, "--exclude", "extra", code=DIFFER)
    assert (found.counts["missing"], found.counts["extra"]) == (3, 0)
    mended = verify(source, target, *REPLICA, "--repair", "--delete-extra", "--yes")
    assert mended.counts["deleted"] == 1
    assert "scan" not in called(source)
    assert compare(source, target) == []


def test_what_a_replica_lacks_its_primary_may_have(server: StartServer, proxy: StartProxy) -> None:
    """A key that came while the replica was behind is neither extra nor deleted."""
    source, replica, target = server("7.0"), server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    copy(source, target)
    way = proxy(source)
    replica.do("REPLICAOF", "127.0.0.1", way.port)
    wait_until(lambda: link(replica) == "up", 10, "it is attached")
    replicated(source, replica)
    flags = ("--repair", "--delete-extra", "--yes", "--batch-keys", "10", "--workers", "1")
    words = ["verify", "--from", source.uri, "--to", target.uri, *REPLICA, *flags]
    with Copying.of(*words) as verifying:
        with held(verifying.run, lambda: calls(replica, "dump") > 1000):
            way.stall("down")
            for end in (source, target):
                end.do("SET", "new", "x")
            target.do("SET", "extra", "x")
        wait_until(lambda: calls(target, "exists") > 0, 30, "the target's keys are looked for")
        wait_until(lambda: calls(source, "exists") > 0, 30, "the primary is asked")
        way.go()
        verifying.finish()
    assert target.do("EXISTS", "new") == 1 and target.do("EXISTS", "extra") == 0
