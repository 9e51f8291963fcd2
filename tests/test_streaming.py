"""Values that are copied in pieces: of every type, between all versions, whole and of one moment."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from support.copying import copy
from support.data import HOUR, compare, keys_of
from support.servers import ALL, Cluster, Server

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

FROM_1K = ("--stream-from", "1KiB")
PAIRS = [(version, version) for version in ALL]
PAIRS += [("7.0", "9.1"), ("8.2", "7.0"), ("6.2", "9.1"), ("9.1", "6.2"), ("8.2", "9.1")]


def tolerance(*versions: str) -> int:
    """In ms: before 7.0 a server does not tell the moment of an expiry."""
    return 2 if "6.2" in versions else 0


def calls(server: Server, command: str) -> int:
    """How often a server has executed a command."""
    stats = server.info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(stats.partition("calls=")[2].partition(",")[0])


def fill_large(server: Server | Cluster, version: str, seed: int = 1) -> list[bytes]:
    """One value of each type, of some hundred kilobytes, with and without an expiry."""
    rng = random.Random(seed)
    client = server.router() if isinstance(server, Cluster) else server.client()
    call = client.execute_command
    words = [rng.randbytes(rng.randint(1, 60)) for _ in range(3000)]
    for name in (b"plain", b"expiring", b"{tag}ged", b"odd}{\x00\xff"):
        call("SET", name + b":string", rng.randbytes(700_001))
        call("RPUSH", name + b":list", *words)
        call("SADD", name + b":set", *words)
        call("SADD", name + b":intset", *range(0, 40_000, 100))
        call("HSET", name + b":hash", *[part for n, word in enumerate(words) for part in (n, word)])
        scored = [part for n, word in enumerate(words) for part in (rng.gauss(0, 1e9) / 3, word)]
        call("ZADD", name + b":zset", "inf", "most", "-inf", "least", *scored)
        for n in range(700):
            call("XADD", name + b":stream", f"{n + 1}-{n}", "field", words[n], "n", n)
        call("XGROUP", "CREATE", name + b":stream", "group", "0")
        for consumer in ("one", b"two\xff"):
            call("XREADGROUP", "GROUP", "group", consumer, "COUNT", 200, "STREAMS",
                 name + b":stream", ">")  # fmt: skip
        call("XDEL", name + b":stream", "3-2", "250-249", "699-698")
        call("XGROUP", "CREATE", name + b":stream", "late", "$")
        call("XTRIM", name + b":stream", "MAXLEN", 600)
    keys = sorted(keys_of(server))
    for n, key in enumerate(key for key in keys if key.startswith(b"expiring")):
        call("PEXPIRE", key, HOUR + 1000 * n)
    return keys


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_type_in_pieces(server: StartServer, old: str, new: str) -> None:
    source, target = server(old), server(new)
    keys = fill_large(source, old)
    done = copy(source, target, *FROM_1K)
    assert compare(source, target, ttl_tolerance_ms=tolerance(old, new)) == []
    assert done.counts["copied"] == len(keys)
    assert "large values" not in done.warnings
    assert calls(target, "rename") >= len(keys)
    assert calls(target, "restore") < 10  # the check's
