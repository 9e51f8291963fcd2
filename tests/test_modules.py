"""Values that servers dump differently although they are equal, and payloads of modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.copying import copy, verify
from support.run import rumpx
from support.servers import Server, graph_module

StartServer = Callable[..., Server]


def test_a_check_never_restores_a_modules_payload(server: StartServer) -> None:
    source, target = (server("8.2", loadmodule=graph_module()) for _ in range(2))
    source.do("GRAPH.QUERY", "g", "UNWIND range(1,50) AS i CREATE (:P {n:i})")
    target.do("GRAPH.QUERY", "g", "CREATE (:Own {n:1})")
    done = rumpx("check", "--from", source.uri, "--to", target.uri, "--on-conflict", "skip")
    assert "Not proven, module types graphdata" in " ".join(done.stdout.split())
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
