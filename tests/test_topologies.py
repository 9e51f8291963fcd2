"""Copies between servers, clusters, sentinels, sockets: each way in which keys can be reached."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.copying import copy
from support.data import compare, every_type, fill_mixed
from support.proxy import Proxy
from support.servers import Cluster, Sentinel, Server

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartSentinel = Callable[..., Sentinel]
StartProxy = Callable[..., Proxy]


def fill(source: Server | Cluster, version: str) -> None:
    every_type(source.client(), version)
    fill_mixed(source, 3000)


def assert_equal(source: Server | Cluster, target: Server | Cluster, ttl: int = 0) -> None:
    assert compare(source, target, ttl_tolerance_ms=ttl) == []


def copied_exactly(source: Server | Cluster, target: Server | Cluster, old: str) -> None:
    """Fill the source, whose version is `old`, copy it and compare."""
    fill(source, old)
    done = copy(source, target)
    assert_equal(source, target, 2 if old == "6.2" else 0)
    assert done.summary["missing"] == 0
    assert done.summary["warnings"] == []


@pytest.mark.parametrize(("old", "new"), [("6.2", "7.0"), ("7.0", "9.1")])
def test_from_a_server_to_a_cluster(
    server: StartServer, cluster: StartCluster, old: str, new: str
) -> None:
    copied_exactly(server(old), cluster(new), old)


@pytest.mark.parametrize(("old", "new"), [("6.2", "7.0"), ("7.0", "8.1"), ("9.1", "9.1")])
def test_from_a_cluster_to_a_server(
    server: StartServer, cluster: StartCluster, old: str, new: str
) -> None:
    copied_exactly(cluster(old), server(new), old)


@pytest.mark.parametrize(("old", "new"), [("7.0", "7.0"), ("9.1", "9.1"), ("7.0", "9.1")])
def test_from_a_cluster_to_another_of_other_size(cluster: StartCluster, old: str, new: str) -> None:
    source, target = cluster(old, primaries=3), cluster(new, primaries=2)
    fill(source, old)
    done = copy(source.nodes[-1], target.nodes[-1])
    assert_equal(source, target)
    assert done.counts["failed"] == done.counts["gone"] == 0
    assert {part["node"] for part in done.summary["partitions"]} == {
        f"127.0.0.1:{node.port}" for node in source.nodes
    }


def test_a_cluster_with_several_databases(cluster: StartCluster, server: StartServer) -> None:
    source = cluster("9.1", cluster_databases=16)
    target = cluster("9.1", primaries=2, cluster_databases=16)
    fill_mixed(source, 1000)
    fill_mixed(source, 500, seed=2, db=1)
    source.client(9).set("alone", "here")
    copy(source, target)
    assert_equal(source, target)
    target.flush()
    copy(source, target.uri, "--db", "1", "--map-db", "1:7")
    assert compare(source, target, db_map={1: 7}) == []
    other = server("9.1")
    copy(source.uri + "/9", other.uri + "/2")
    assert compare(source, other, db_map={9: 2}) == []


def test_a_cluster_without_a_database_is_no_target_for_it(
    cluster: StartCluster, server: StartServer
) -> None:
    source, target = server("7.0"), cluster("7.0")
    source.do("SET", "a", "1", db=3)
    done = copy(source, target, code=7)
    assert "database 3" in done.stderr


def test_a_replica_is_a_good_source_and_no_target(server: StartServer) -> None:
    source, replica, target = server("7.0"), server("7.0"), server("7.0")
    replica.replicate(source)
    fill_mixed(source, 1000)
    with source.raw() as raw:  # WAIT concerns what its own connection wrote
        raw.do("SET", "last", "x")
        assert raw.do("WAIT", 1, 5000) == 1
    copy(replica, target)
    assert_equal(source, target)
    assert "replica" in copy(target, replica, code=7).stderr
    assert "are the same" in copy(replica, source, code=7).stderr


def test_sentinels_name_source_and_target(sentinel: StartSentinel, tmp_path: Path) -> None:
    source = sentinel("7.0", sentinel_password="guard", requirepass="pass:word")
    target = sentinel("8.1", sentinel_password="other", requirepass="p@ss")
    fill_mixed(source.primary, 1000)
    passwords = {"from": "guard", "to": "other"}
    flags: list[str | Path] = []
    for side, password in passwords.items():
        (tmp_path / side).write_text(password + "\n")
        flags += [f"--{side}-sentinel-password-file", tmp_path / side]
    done = copy(
        f"redis+sentinel://{','.join(source.addresses)}/mymaster",
        f"redis+sentinel://:p%40ss@{target.addresses[0]}/mymaster/0",
        *flags,
        env={"RUMPX_FROM_PASSWORD": "pass:word"},
    )
    assert_equal(source.primary, target.primary)
    assert not any(word in done.stderr for word in ("guard", "other", "pass:word", "p@ss", "p%40"))
    failed = copy(
        f"redis+sentinel://:pass%3Aword@{source.addresses[0]}/nobody", target.primary, *flags[:2],
        code=6,
    )  # fmt: skip
    assert "knows no service" in failed.stderr


def test_unix_sockets_on_both_sides(server: StartServer) -> None:
    source = server("7.0", unixsocket=True)
    target = server("8.1", unixsocket=True, requirepass="secret")
    fill(source, "7.0")
    fill_mixed(source, 300, db=4)
    copy(f"unix://{source.socket_path}", f"unix://:secret@{target.socket_path}")
    assert_equal(source, target)
    target.do("FLUSHALL")
    copy(f"unix://{source.socket_path}?db=4", f"unix://:secret@{target.socket_path}?db=5")
    assert compare(source, target, db_map={4: 5}) == []


@pytest.mark.parametrize("side", ["from", "to"])
def test_cluster_nodes_are_reached_where_the_map_says(
    server: StartServer, cluster: StartCluster, proxy: StartProxy, side: str
) -> None:
    nodes, single = cluster("7.0"), server("7.0")
    proxies = {node.port: proxy(node) for node in nodes.nodes}
    flags = []
    for port, way in proxies.items():
        flags += [f"--{side}-map-address", f"127.0.0.1:{port}=127.0.0.1:{way.port}"]
    entry = proxies[nodes.nodes[1].port]
    source, target = (nodes, single) if side == "from" else (single, nodes)
    fill_mixed(source, 3000)

    def received(node: Server) -> int:
        return int(node.info("stats")["total_connections_received"])

    before = {node.port: received(node) for node in nodes.nodes}
    done = copy(entry, single, *flags) if side == "from" else copy(single, entry, *flags)
    for node in nodes.nodes:
        # One connection is that of the question itself.
        assert received(node) - before[node.port] - 1 == proxies[node.port].connections > 0
    assert_equal(source, target)
    assert done.summary["missing"] == 0


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="there is no ::1 here")
def test_ipv6_addresses(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    for each in (source, target):
        each.do("CONFIG", "SET", "bind", "127.0.0.1 ::1")
    fill_mixed(source, 500)
    done = copy(f"redis://[::1]:{source.port}", f"redis://[::1]:{target.port}/0")
    assert_equal(source, target)
    assert done.summary["source"] == f"redis://[::1]:{source.port}"


def test_a_cluster_may_be_named_as_such(cluster: StartCluster, server: StartServer) -> None:
    source, target = server("7.0"), cluster("7.0")
    fill_mixed(source, 300)
    copy(source, target, "--to-cluster", "yes", "--from-cluster", "no")
    assert_equal(source, target)
