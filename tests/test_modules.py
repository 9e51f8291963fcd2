"""Values that servers dump differently although they are equal, and payloads of modules."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from rumpx.servers.resp import Connection
from rumpx.values.compare import NotComparable, differing, equal_values
from rumpx.values.sides import run_over
from support.copying import copy, verify
from support.run import rumpx
from support.servers import Server, graph_module

StartServer = Callable[..., Server]


def test_a_check_never_restores_a_modules_payload(server: StartServer) -> None:
    source, target = (server("8.2", loadmodule=graph_module()) for _ in range(2))
    source.do("GRAPH.QUERY", "g", "UNWIND range(1,50) AS i CREATE (:P {n:i})")
    target.do("GRAPH.QUERY", "g", "CREATE (:Own {n:1})")
    done = rumpx("check", "--from", source.uri, "--to", target.uri, "--on-conflict", "skip")
    told = " ".join(done.stdout.split())
    assert "Not proven, module types graphdata" in told
    assert "Not comparable by rumpx verify if DUMPs differ: values of graphdata" in told
    assert target.do("GRAPH.QUERY", "g", "MATCH (x) RETURN count(x)")[1] == [[1]]


@pytest.mark.parametrize("quantised", ["NOQUANT", "Q8", "BIN"])
def test_vector_sets_are_compared_by_their_elements(server: StartServer, quantised: str) -> None:
    source, target = server("8.2"), server("8.2")
    for n in range(100):
        vector = [n % 7, -n, n * n % 11, 1]
        source.do("VADD", "v", "VALUES", 4, *vector, f"e{n}", quantised, "SETATTR", f'{{"n":{n}}}')
    copy(source, target)
    assert verify(source, target).counts["equal"] == 1
    target.do("VSETATTR", "v", "e5", "{}")
    assert verify(source, target, code=4).found == {("value", 0, b"v")}


@pytest.mark.parametrize("versions", [("6.2", "9.1"), ("8.2", "8.2")])
def test_hyperloglogs_are_compared_by_their_registers(
    server: StartServer, versions: tuple[str, str]
) -> None:
    source, target = map(server, versions)
    for key, number in (("sparse", 20), ("dense", 5000)):
        source.do("PFADD", key, *range(number))
    copy(source, target)
    target.do("PFCOUNT", "sparse")
    target.do("PFDEBUG", "TODENSE", "sparse")
    target.do("PFCOUNT", "dense")
    assert verify(source, target).counts["equal"] == 2
    target.do("PFADD", "dense", "another", "and another", "x", "y", "z", *range(6000, 6100))
    assert verify(source, target, code=4).found == {("value", 0, b"dense")}


# FalkorDB writes a stream of the queries that it gets.
ONLY = "--exclude", "telemetry*"


def graphs(server: StartServer) -> tuple[Server, Server]:
    """Two servers that know graphs, and one on the source, of 50 nodes."""
    source, target = (server("8.2", loadmodule=graph_module()) for _ in range(2))
    source.do("GRAPH.QUERY", "g", "UNWIND range(1,50) AS i CREATE (:P {n:i})-[:R]->(:Q {n:i})")
    return source, target


def nodes(server: Server, graph: str = "g") -> int:
    number: int = server.do("GRAPH.QUERY", graph, "MATCH (x) RETURN count(x)")[1][0][0]
    return number


def test_a_graph_is_not_comparable_and_a_repair_leaves_it_alone(server: StartServer) -> None:
    source, target = graphs(server)
    source.do("SET", "k", "v")
    copy(source, target)
    target.do("GRAPH.QUERY", "g", "CREATE (:Own {n:1})")
    for flags in ((), ("--repair",)):
        done = verify(source, target, *flags, *ONLY)
        assert done.found == {("incomparable", 0, b"g")}
        assert done.counts["incomparable"] == 1
        assert (done.counts["equal"], done.counts["different"]) == (1, 0)
        assert done.summary["incomparable"] == {"graphdata": 1}
    assert nodes(target) == 101
    shown = rumpx("verify", "--strict", "--from", source.uri, "--to", target.uri, *ONLY)
    assert shown.returncode == 4
    text = " ".join((shown.stdout + shown.stderr).split())
    assert "1 key not comparable, all others are equal" in text
    assert "graphdata: 1" in text


def test_expiry_and_presence_of_what_is_not_comparable_count(server: StartServer) -> None:
    source, target = graphs(server)
    copy(source, target)
    target.do("EXPIRE", "g", 1000)
    assert verify(source, target, *ONLY, code=4).found == {("expiry", 0, b"g")}
    mended = verify(source, target, "--repair", *ONLY)
    assert mended.summary["repaired"] == 1
    assert mended.summary["incomparable"] == {"graphdata": 1}
    assert target.do("TTL", "g") == -1
    assert nodes(target) == 100
    target.do("DEL", "g")
    assert verify(source, target, *ONLY, code=4).found == {("missing", 0, b"g")}
    target.do("SET", "g", "no graph")
    assert verify(source, target, *ONLY, code=4).found == {("type", 0, b"g")}


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_a_graph_that_is_there_is_never_taken_for_copied(server: StartServer, policy: str) -> None:
    source, target = graphs(server)
    target.do("GRAPH.QUERY", "g", "CREATE (:Own {n:1})")
    code = 3 if policy == "fail" else 0
    done = copy(source, target, *ONLY, "--on-conflict", policy, code=code)
    assert (done.counts["copied"], done.counts["repeated"]) == (0, 0)
    assert done.counts["skipped"] == (policy == "skip")
    if policy == "fail":
        assert done.summary["failures_by_reason"] == {"busy key, not comparable": 1}
    assert nodes(target) == 1


def connected(server: Server) -> Connection:
    return Connection(socket.create_connection(server.address, timeout=20), str(server))


def test_what_a_graph_holds_cannot_be_told(server: StartServer) -> None:
    source, target = graphs(server)
    copy(source, target)
    target.do("GRAPH.QUERY", "g", "CREATE (:Own {n:1})")
    with closing(connected(source)) as one, closing(connected(target)) as other:
        told = run_over(one, other, lambda sides: differing(sides, [b"g", b"none"]))
        assert (told.different, told.incomparable) == ([], {b"g": "graphdata"})
        with pytest.raises(NotComparable):
            run_over(one, other, lambda sides: equal_values(sides, b"g"))
        assert run_over(one, one, lambda sides: equal_values(sides, b"none"))


def test_strict_makes_the_comparison_after_a_copy_fail(server: StartServer) -> None:
    source, target = graphs(server)
    flags = "--verify", "--strict", *ONLY
    done = copy(source, target, *flags, code=4)
    assert done.summary["exit_code"] == 0
    assert done.summary["verification"]["exit_code"] == 4


def test_a_graph_that_is_written_over_is_not_doubled(server: StartServer) -> None:
    source, target = graphs(server)
    copy(source, target)
    copy(source, target, "--on-conflict", "replace")
    assert nodes(target) == 100
