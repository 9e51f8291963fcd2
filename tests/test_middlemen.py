"""Load balancers over several servers, and sharding proxies: each is told as what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.copying import Copying, copy
from support.middlemen import Balancer, ShardingProxy
from support.servers import Server

StartServer = Callable[..., Server]

SOURCE_UNUSABLE, TARGET_UNUSABLE = 6, 7
_DATA = {b"GET", b"SET", b"DEL", b"DUMP", b"RESTORE", b"PTTL", b"TYPE", b"PING"}


def _few(name: bytes) -> bool:
    return name in _DATA


def test_a_balancer_is_refused_on_either_side(server: StartServer) -> None:
    one, two = server("7.0"), server("7.0")
    plain = server("7.0")
    one.do("SET", "k", "v")
    plain.do("SET", "k", "v")
    with Balancer([one, two]) as balancer:
        done = copy(balancer.uri, plain, code=SOURCE_UNUSABLE)
        assert "load balancer" in done.stderr and "as --from" in done.stderr
        done = copy(plain, balancer.uri, code=TARGET_UNUSABLE)
        assert "load balancer" in done.stderr and "as --to" in done.stderr


def test_a_balancer_that_shows_itself_in_the_middle(server: StartServer) -> None:
    """It led to one server while the copy began, and then does not."""
    one, two, target = server("7.0"), server("7.0"), server("7.0")
    for each in (one, two):
        with each.client() as client, client.pipeline(transaction=False) as pipeline:
            for number in range(3_000):
                pipeline.set(f"k:{number}", "v")
            pipeline.execute()
    with (
        Balancer([one, two], steady=True) as balancer,
        Copying(balancer.uri, target, "--batch-keys", "20") as copying,
    ):
        with copying.held_at(target, 100):
            balancer.steady = False
            balancer.cut()
        done = copying.finish(SOURCE_UNUSABLE)
    assert "load balancer" in done.stderr and "as --from" in done.stderr
    assert done.resume_line.startswith("rumpx resume ")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "ERR unsupported command '{}'",
        "ERR invalid request",
        "ERR handle request, command '{}' is not allowed",
    ],
    ids=["twemproxy", "envoy", "older envoy", "codis"],
)
def test_sharding_proxies(server: StartServer, words: str) -> None:
    behind, plain = server("7.0"), server("7.0")
    plain.do("SET", "k", "v")
    with ShardingProxy(behind, _few, words) as proxy:
        for source, target, code in (
            (proxy.uri, plain, SOURCE_UNUSABLE),
            (plain, proxy.uri, TARGET_UNUSABLE),
        ):
            done = copy(source, target, code=code)
            assert "is a proxy, not a server" in done.stderr and "each shard" in done.stderr


def test_a_proxy_that_answers_info_but_not_scan(server: StartServer) -> None:
    behind, target = server("7.0"), server("7.0")
    behind.do("SET", "k", "v")
    allowed = _DATA | {b"INFO", b"TIME", b"SELECT", b"CLIENT"}
    words = "ERR unsupported command '{}'"
    with ShardingProxy(behind, allowed.__contains__, words) as proxy:
        done = copy(proxy.uri, target, code=SOURCE_UNUSABLE)
    assert "refused SCAN: it is a proxy" in done.stderr
