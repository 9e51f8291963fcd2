"""The addresses at which the nodes of a cluster want to be called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.errors import RumpxError
from rumpx.model.endpoint import Address, Endpoint
from rumpx.model.nodes import Node, Topology
from rumpx.servers.connections import Links
from rumpx.servers.dial import Dialer
from rumpx.servers.replies import Kind, classify, redirection
from rumpx.servers.topology import (
    own_view,
    parse_cluster_nodes,
    parse_names,
    read_topology,
    told_addresses,
)
from rumpx.transfer.handler import Read
from support.copying import copy, verify
from support.data import fill_mixed
from support.hostile import Hostile, array, bulk
from support.run import rumpx
from support.servers import Cluster, Server, at_least, key_slot
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

ELSEWHERE = "127.9.9.9"
"""Nothing listens there: servers are bound to 127.0.0.1."""


def dialer(port: int) -> Dialer:
    return Dialer(Endpoint("tcp", (("127.0.0.1", port),)), "source", 5, 5)


def announce(cluster: Cluster, **settings: str) -> None:
    """Change what all nodes announce, and their IP address to one that is not to be reached.

    Addresses go last: a node that hears of another one's does not reach it any more.
    """
    for node in cluster.nodes:
        node.do("CONFIG", "SET", "cluster-node-timeout", 60_000)
        for name, value in settings.items():
            node.do("CONFIG", "SET", name.replace("_", "-"), value)
    if name := settings.get("cluster_announce_hostname"):
        wait_until(lambda: told(cluster, f",{name}"), 20, "all nodes know the host names")
    for node in cluster.nodes:
        node.do("CONFIG", "SET", "cluster-announce-ip", ELSEWHERE)
    wait_until(lambda: told(cluster, f" {ELSEWHERE}:", of="myself"), 20, "they announce it")


def told(cluster: Cluster, words: str, of: str = "") -> bool:
    """Whether each line of each node's CLUSTER NODES (of which, if not all) has these words."""
    lines = [node.do("CLUSTER", "NODES").decode().splitlines() for node in cluster.nodes]
    return all(words in line for each in lines for line in each if of in line)


@pytest.mark.parametrize(
    ("version", "settings"),
    [
        (
            "7.0",
            {
                "cluster_announce_hostname": "localhost",
                "cluster_preferred_endpoint_type": "hostname",
            },
        ),
        ("8.1", {"cluster_preferred_endpoint_type": "hostname"}),
        ("9.1", {"cluster_preferred_endpoint_type": "unknown-endpoint"}),
    ],
    ids=["host names", "question marks", "unnamed"],
)
def test_nodes_are_called_as_they_want_to_be(
    server: StartServer, cluster: StartCluster, version: str, settings: dict[str, str]
) -> None:
    one, many = server(version), cluster(version, 2)
    announce(many, **settings)
    fill_mixed(one, 300)
    copy(one, many)
    verify(one, many)
    verify(many, one)
    # A key that is written after an ASK.
    key = b"asked"
    here = many.owner(key)
    there = next(node for node in many.nodes if node is not here)
    before = there.do("DBSIZE")
    many.begin_migration(key_slot(key), here, there)
    one.do("SET", key, "1")
    copy(one, many, "--match", "asked", "--on-conflict", "replace")
    assert there.do("DBSIZE") == before + 1


def test_an_address_that_cannot_be_reached_is_told_as_announced(
    server: StartServer, cluster: StartCluster
) -> None:
    one, many = server("7.0"), cluster("7.0", 1)
    announce(many)
    name = f"{ELSEWHERE}:{many.nodes[0].port}"
    one.do("SET", "k", 1)
    refused = copy(one, many, code=7).stderr
    assert "the cluster announces" in refused
    assert f"--to-map-address {name}=HOST:PORT" in refused
    flag = f"--to-map-address={name}=127.0.0.1:{many.nodes[0].port}"
    copy(one, many, flag)
    refused = copy(one, many, f"--to-map-address={name}=127.9.9.8:1", code=7).stderr
    assert f"--to-map-address maps the announced address {name}" in refused


def test_a_dead_primary_is_told_with_its_mark(server: StartServer, cluster: StartCluster) -> None:
    one, many = server("7.0"), cluster("7.0", 2, cluster_require_full_coverage="no")
    first, second = many.nodes
    second.kill()
    wait_until(
        lambda: b"fail?" in first.do("CLUSTER", "NODES"), 20, "the other node misses the primary"
    )
    told = rumpx("--from", f"redis://127.0.0.1:{first.port}", "--to", one.uri, timeout=30)
    assert told.returncode == 6
    assert "CLUSTER NODES marks the node as `fail?`" in told.stderr


def test_replicas_of_6_2_have_their_addresses(cluster: StartCluster) -> None:
    """That version knows no host names."""
    many = cluster("6.2", 1, 1)
    assert not at_least(many.version, "7.0")
    (node,) = read_topology(dialer(many.nodes[1].port)).nodes
    assert node.address == ("127.0.0.1", many.nodes[0].port)
    assert node.replicas == (("127.0.0.1", many.nodes[1].port),)


def place(name: bytes | None, port: int, node: bytes) -> list[object]:
    return [name, port, node, []]


@pytest.mark.parametrize("nothing", [None, b"", b"?"])
def test_the_host_that_answered_stands_in_unless_two_nodes_become_one(
    nothing: bytes | None,
) -> None:
    reply = [[0, 9, place(nothing, 1, b"a"), place(b"named", 1, b"b")]]
    assert told_addresses(reply, "seed") == {"a": ("seed", 1), "b": ("named", 1)}
    reply = [[0, 9, place(nothing, 1, b"a")], [10, 16_383, place(nothing, 1, b"b")]]
    assert told_addresses(reply, "seed") == {}


MARKED = "a :1@2 myself,master - 0 0 1 connected 0-9\nb h:1@2 {} - 0 0 1 connected 10-16383\n"


@pytest.mark.parametrize("flag", ["fail", "fail?", "noaddr", "handshake"])
def test_marks_are_read(flag: str) -> None:
    nodes = parse_cluster_nodes(MARKED.format(f"master,{flag}"), "seed")
    assert [node.mark for node in nodes] == ["", flag]


# --- redirections -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ("MOVED 1 node-1.example:6379", ("node-1.example", 6379)),
        ("ASK 1 :6379", ("", 6379)),
        ("MOVED 1 ?:6379", ("", 6379)),
        ("MOVED 1 2001:db8::1:6379", ("2001:db8::1", 6379)),
        ("ASK 1 [2001:db8::1]:6379", ("2001:db8::1", 6379)),
        ("MOVED 1 host:0", None),
        ("MOVED 1 host:65536", None),
        ("MOVED 1 host:port", None),
        ("MOVED 1 host", None),
        ("MOVED 1", None),
        ("ASK", None),
    ],
)
def test_redirections_are_read(words: str, address: Address | None) -> None:
    assert redirection(words) == address
    assert (classify(words).kind is Kind.TEMPORARY) == (address is None)


@given(st.sampled_from(["MOVED", "ASK"]), st.text())
def test_no_redirection_is_followed_that_cannot_be_read(word: str, rest: str) -> None:
    kind = classify(f"{word} {rest}").kind
    assert (kind in (Kind.MOVED, Kind.ASK)) == (redirection(f"{word} {rest}") is not None)


def test_a_redirection_without_a_host_leads_to_the_host_that_answered() -> None:
    nodes = Node(("a", 1), "1", ((0, 16_383),)), Node(("b", 2), "2")
    links = Links(dialer(1), Topology(True, nodes))
    noted = Read()
    links.redirected(b"k", "MOVED 1 ?:2", ("b", 1), "b:1", noted)
    assert links.owner(b"k") == ("b", 2)
    links.redirected(b"k", "ASK 1 :1", ("a", 2), "a:2", noted)
    assert noted.ask == {b"k": ("a", 1)} and noted.again == [b"k", b"k"] and not noted.waits


@given(st.sampled_from(["MOVED", "ASK"]), st.booleans())
def test_a_node_is_found_by_each_of_its_names(word: str, hostnames: bool) -> None:
    """CLUSTER NODES names also those without slots, which CLUSTER SLOTS does not list."""
    told = {"a": ("called", 1)}
    text = (
        "a 10.0.0.1:1@2,one master - 0 0 1 connected 0-16383\n"
        "b 10.0.0.2:1@2,two master - 0 0 2 connected\n"
        "c :3@4 slave a 0 0 2 connected\n"
    )
    names = parse_names(text, "seed", hostnames=hostnames, told=told)
    second = ("two" if hostnames else "10.0.0.2", 1)
    assert names == {
        ("10.0.0.1", 1): ("called", 1),
        ("one", 1): ("called", 1),
        ("called", 1): ("called", 1),
        ("10.0.0.2", 1): second,
        ("two", 1): second,
        ("seed", 3): ("seed", 3),
    }
    nodes = parse_cluster_nodes(text, "seed", hostnames=hostnames, told=told)
    links = Links(dialer(1), Topology(True, nodes, names=names))
    noted = Read()
    links.redirected(b"k", f"{word} 1 two:1", ("called", 1), "called:1", noted)
    assert (noted.ask.get(b"k") or links.owner(b"k")) == second


# --- answers of no server ------------------------------------------------------------------------


def nodes_reply(line: bytes) -> bytes:
    return bulk(line + b"\n")


BAD_NODES = [
    b"",
    b"a",
    b"a \xff\xfe:1@2 master",
    b"a 127.0.0.1:port@2 master - 0 0 1 connected 0-16383",
    b"a 127.0.0.1:1@2 master - 0 0 1 connected 0-99999999",
    b"a 127.0.0.1:1@2 master - 0 0 1 connected x-y",
    b"a 127.0.0.1:1@2 slave",
]
BAD_SLOTS = [
    b"*-1\r\n",
    array(b":1\r\n"),
    array(array(b":0\r\n", b":16383\r\n")),
    array(array(b":0\r\n", b":16383\r\n", b":5\r\n")),
    array(array(b":0\r\n", b":99999\r\n", array(bulk(b"h"), b":1\r\n"))),
    array(array(b":0\r\n", b":16383\r\n", array(bulk(b"\xff"), bulk(b"x"), bulk(b"a")))),
    array(array(b":0\r\n", b":16383\r\n", array(b":4\r\n", b":1\r\n", bulk(b"\xff")))),
]


NO_NODES = b"-NOPERM this user has no permissions to run the 'cluster|nodes' command\r\n"


def test_malformed_answers_are_told_or_left_aside() -> None:
    good = b"a :%d@2 myself,master - 0 0 1 connected 0-16383"
    with Hostile() as hostile:
        asked = dialer(hostile.port)

        def answer(nodes: bytes, slots: bytes) -> None:
            hostile.answers["CLUSTER"] = lambda words: nodes if words[1] == b"NODES" else slots

        for line in BAD_NODES:
            answer(nodes_reply(line), b"*0\r\n")
            with pytest.raises(RumpxError, match="CLUSTER NODES"):
                raise_unless_read(asked)
        for slots in BAD_SLOTS:
            answer(nodes_reply(good % hostile.port), slots)
            (node,) = read_topology(asked).nodes
            assert node.address == ("127.0.0.1", hostile.port)
            answer(NO_NODES, slots)
            hostile.answers["INFO"] = lambda words: bulk(b"cluster_enabled:1")
            with pytest.raises(RumpxError):
                read_topology(asked)


def raise_unless_read(asked: Dialer) -> None:
    """A topology without nodes counts as unread."""
    topology = read_topology(asked)
    own = asked.connect()
    assert own_view(own) is None
    own.close()
    if not topology.nodes:
        raise RumpxError("CLUSTER NODES names no node.")


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "a\0b", "\x1b[2J", "\udcff"])
def test_a_host_name_that_no_host_has_is_told_as_unreachable(host: str) -> None:
    with pytest.raises(RumpxError, match="cannot be reached") as caught:
        dialer(1).connect((host, 1))
    assert str(caught.value).isprintable()
