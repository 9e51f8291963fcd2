"""Slots, primaries and connections that change under a running copy: nothing may be missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.copying import Copying
from support.data import compare, fill_mixed, keys_of
from support.proxy import Proxy
from support.servers import Cluster, Server, key_slot
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]

KEYS = 8_000


def slots_with_keys(cluster: Cluster, node: Server, count: int) -> list[int]:
    """Slots of one primary that hold keys, spread over its range."""
    ports = cluster.slot_ports()
    found = sorted({slot for key in keys_of(cluster) if ports[slot := key_slot(key)] == node.port})
    return found[:: max(1, len(found) // count)][:count]


def key_of(cluster: Cluster, node: Server) -> bytes:
    """A key's name that belongs to a primary."""
    return next(b"own:%d" % i for i in range(1000) if cluster.owner(b"own:%d" % i) is node)


def migrate_some(cluster: Cluster, count: int) -> None:
    """Move slots of each primary to the next one."""
    nodes = cluster.primaries()
    for here, there in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        for slot in slots_with_keys(cluster, here, count):
            cluster.migrate_slot(slot, here, there)


MIGRATED_MS = 100
"""MIGRATE itself moves expiries by the time that it takes."""


# --- slots that move ------------------------------------------------------------------------


SLOW_MS = 1000
"""Such a round trip makes half the keys, with all that may be in flight, last for many seconds."""


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_slots_that_move_on_the_source(
    cluster: StartCluster, server: StartServer, proxy: StartProxy, version: str
) -> None:
    source, target = cluster(version), server(version)
    fill_mixed(source, KEYS)
    way = proxy(target)
    with Copying(source, way) as copying:
        with copying.held_at(target, 500):
            migrate_some(source, 4)
        with copying.held_at(target, 4000):
            migrate_some(source, 4)
            way.rtt_ms = SLOW_MS
        migrate_some(source, 4)
        way.rtt_ms = 0
        done = copying.finish()
    assert compare(source, target) == []
    assert done.summary["walked_again"]["slots moved"] > 0
    assert "slots moved on the source" in done.warnings
    assert done.summary["missing"] == 0


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_slots_that_move_on_the_target(
    cluster: StartCluster, server: StartServer, proxy: StartProxy, version: str
) -> None:
    source, target = server("7.0"), cluster(version)
    fill_mixed(source, KEYS)
    way = proxy(source)
    with Copying(way, target) as copying:
        with copying.held_at(target, 500):
            migrate_some(target, 4)
        with copying.held_at(target, 4000):
            migrate_some(target, 4)
            way.rtt_ms = SLOW_MS
        migrate_some(target, 4)
        way.rtt_ms = 0
        copying.finish()
    assert compare(source, target, ttl_tolerance_ms=MIGRATED_MS) == []


def test_a_slot_left_half_migrated_on_the_source(
    cluster: StartCluster, server: StartServer
) -> None:
    source, target = cluster("7.0"), server("7.0")
    fill_mixed(source, 2000)
    here, there = source.primaries()[:2]
    tag = next(b"{%d}" % i for i in range(1000) if source.owner(b"%d" % i) is here)
    fill_mixed(source, 200, prefix=tag)
    slot = key_slot(tag)
    with Copying(source, target) as copying:
        with copying.held_at(target, 100):
            source.begin_migration(slot, here, there)
            source.migrate_keys(slot, 100)
        copying.finish()
    assert compare(source, target) == []
    assert len(keys_of(target)) == 2200


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_slot_left_half_migrated_on_the_target(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    source, target = server("7.0"), cluster(version)
    here, there = target.primaries()[:2]
    tag = next(b"{%d}" % i for i in range(1000) if target.owner(b"%d" % i) is here)
    fill_mixed(source, 1000)
    fill_mixed(source, 400, prefix=tag)
    slot = key_slot(tag)
    with Copying(source, target) as copying:
        with copying.held_at(target, 50, prefix=tag):
            target.begin_migration(slot, here, there)
            target.migrate_keys(slot, 25)
        copying.finish()
    target.migrate_keys(slot)
    target.finish_migration(slot)
    assert compare(source, target, ttl_tolerance_ms=MIGRATED_MS) == []


def test_a_migration_that_ends_after_all_keys_are_copied_is_waited_for(
    cluster: StartCluster, server: StartServer
) -> None:
    source, target = cluster("7.0"), server("7.0")
    fill_mixed(source, 2000)
    here, there = source.primaries()[:2]
    slot = slots_with_keys(source, here, 1)[0]
    source.begin_migration(slot, here, there)
    with Copying(source, target) as copying:
        wait_until(lambda: "finish their migration" in copying.run.stderr, 60, "it waits")
        assert len(keys_of(target)) == 2000
        source.migrate_keys(slot)
        source.finish_migration(slot)
        copying.finish()
    assert compare(source, target) == []


# --- nodes that fail over or restart --------------------------------------------------------


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_source_primary_fails_over(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    source, target = cluster(version, replicas=1), server(version)
    fill_mixed(source, KEYS)
    for primary in source.primaries():
        with primary.raw() as raw:
            raw.do("SET", key_of(source, primary), "x")
            assert raw.do("WAIT", 1, 5000) == 1
    with Copying(source, target) as copying:
        with copying.held_at(target, 500):
            source.failover(source.replicas(source.primaries()[1])[0])
        copying.finish()
    assert compare(source, target) == []


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_target_primary_fails_over(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    source, target = server("7.0"), cluster(version, replicas=1)
    fill_mixed(source, KEYS)
    with Copying(source, target) as copying:
        with copying.held_at(target, 500):
            target.failover(target.replicas(target.primaries()[1])[0])
        done = copying.finish()
    assert compare(source, target) == []
    assert "failed over" in done.warnings
    assert done.summary["walked_again"]["the target's node changed"] > 0


def test_a_source_primary_is_killed(cluster: StartCluster, server: StartServer) -> None:
    source, target = cluster("7.0", replicas=1), server("7.0")
    fill_mixed(source, KEYS)
    for primary in source.primaries():
        with primary.raw() as raw:
            raw.do("SET", key_of(source, primary), "x")
            assert raw.do("WAIT", 1, 5000) == 1
    with Copying(source, target) as copying:
        with copying.held_at(target, 500):
            source.kill_primary(0)
        copying.finish()
    assert compare(source, target) == []


def test_a_target_primary_is_killed_before_its_replica_has_everything(
    cluster: StartCluster, server: StartServer, proxy: StartProxy
) -> None:
    """While workers write to it."""
    source, target = server("7.0"), cluster("7.0", replicas=1)
    fill_mixed(source, KEYS)
    way = proxy(source)
    primary = target.primaries()[0]
    (replica,) = target.replicas(primary)
    with Copying(way, target) as copying:
        with copying.held_at(target, 500):
            target.make_deaf(replica, primary)
        with copying.held_at(target, 2000):
            assert replica.do("DBSIZE") < primary.do("DBSIZE")
            way.rtt_ms = SLOW_MS
        target.kill_primary(0)
        way.rtt_ms = 0
        copying.finish()
    assert compare(source, target) == []


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_the_source_restarts_with_its_data(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    fill_mixed(source, KEYS)
    with Copying(source, target, "--partitions", "8") as copying:
        with copying.held_at(target, 3000):
            source.restart(keep_data=True)
        done = copying.finish()
    assert compare(source, target, ttl_tolerance_ms=2 if version == "6.2" else 0) == []
    assert "start over" in done.warnings
    assert done.summary["walked_again"]["the source's node changed"] > 0


def test_the_target_restarts_empty(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    with Copying(source, target) as copying:
        with copying.held_at(target, 3000):
            target.restart()
        done = copying.finish()
    assert compare(source, target) == []
    assert done.summary["walked_again"]["the target's node changed"] > 0


# --- connections that break -----------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_connections_are_cut_many_times(server: StartServer, proxy: StartProxy, side: str) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, KEYS)
    way = proxy(source if side == "source" else target)
    ends = (way, target) if side == "source" else (source, way)
    with Copying(*ends) as copying:
        for number, keys in enumerate(range(250, KEYS - 1000, 500)):
            with copying.held_at(target, keys):
                way.cut() if number % 2 else way.reset()
                way.cut_after(5000 + 777 * number, "down" if number % 3 else "up")
        done = copying.finish()
    assert compare(source, target) == []
    assert way.cuts > 2
    assert done.counts["failed"] == 0


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_lost_replies_are_no_conflicts(server: StartServer, proxy: StartProxy, policy: str) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, 3000)
    way = proxy(target)
    with Copying(source, way, "--on-conflict", policy) as copying:
        for keys in range(200, 2200, 300):
            with copying.held_at(target, keys):
                way.cut_after(23, "down")
        done = copying.finish()
    assert compare(source, target) == []
    assert done.counts["failed"] == done.counts["skipped"] == 0


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_stall_longer_than_the_timeout(server: StartServer, proxy: StartProxy, side: str) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, 3000)
    way = proxy(source if side == "source" else target)
    ends = (way, target) if side == "source" else (source, way)
    with Copying(*ends, "--timeout", "1s", "--connect-timeout", "1s") as copying:
        with copying.held_at(target, 300):
            before = way.connections
            way.stall()
        # Somebody has given up waiting and dials again, though nobody answers there either.
        wait_until(lambda: way.connections > before, 60, "a new connection")
        way.go()
        copying.finish()
    assert compare(source, target) == []
