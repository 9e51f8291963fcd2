"""What a server has not removed yet, although it has expired, is neither missing nor extra."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.copying import Copying, copy, verify
from support.data import fill_mixed, keys_of
from support.replication import replicated
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]

KEYS, EXPIRED = 200, 150
MENDING = ("--repair", "--delete-extra", "--yes")


def keep_expired(*servers: Server) -> None:
    """From now on they remove what has expired only when somebody writes or asks for it."""
    for server in servers:
        server.do("DEBUG", "SET-ACTIVE-EXPIRE", 0)


def plant(*servers: Server, ms: int = 300) -> None:
    """Keys that expire on all of them at one moment."""
    seconds, micros = servers[0].do("TIME")
    instant = int(seconds) * 1000 + int(micros) // 1000 + ms
    for server in servers:
        with server.raw() as raw:
            raw.many([("SET", b"soon:%d" % number, "x") for number in range(EXPIRED)])
            raw.many([("PEXPIREAT", b"soon:%d" % number, instant) for number in range(EXPIRED)])


def expired(*servers: Server) -> None:
    for server in servers:
        wait_until(lambda s=server: s.do("EXISTS", "soon:0") == 0, 10, "they have expired")  # type: ignore[misc]


def no_difference(source: Server, target: Server, *flags: str) -> None:
    found = verify(source, target, *flags)
    assert found.found == set()
    assert (found.summary["repaired"], found.counts["deleted"]) == (0, 0)


# --- the count at the end of a copy ----------------------------------------------------------


@pytest.mark.parametrize("volatile", [False, True])
@pytest.mark.parametrize("version", ["6.2", "9.1"])
def test_a_copy_does_not_look_for_keys_that_have_expired(
    server: StartServer, version: str, volatile: bool
) -> None:
    source, target = server(version), server(version)
    keep_expired(source)
    fill_mixed(source, KEYS, ttl_share=1.0 if volatile else 0.0)
    plant(source)
    expired(source)
    source.do("CLIENT", "PAUSE", 100_000, "WRITE")
    assert source.do("DBSIZE") > KEYS
    done = copy(source, target)
    assert target.do("DBSIZE") == KEYS
    assert (done.summary["missing"], done.summary["walked_again"]) == (0, {})
    assert "fewer" not in done.warnings


def test_a_copy_of_a_replica_does_not(server: StartServer) -> None:
    source, replica, target = server("7.0"), server("7.0"), server("7.0")
    keep_expired(source)
    fill_mixed(source, KEYS)
    plant(source)
    replica.replicate(source)
    replicated(source, replica)
    expired(source, replica)
    for flags in ([source, "--read-from", "replica"], [replica]):
        done = copy(flags[0], target, *flags[1:], "--on-conflict", "replace")
        assert (done.summary["missing"], done.summary["walked_again"]) == (0, {})
        target.do("FLUSHALL")


def test_a_key_that_is_missing_is_still_looked_for(server: StartServer) -> None:
    """Beside others that have only expired."""
    source, target = server("7.0"), server("7.0")
    keep_expired(source)
    fill_mixed(source, KEYS, ttl_share=0)
    plant(source)
    expired(source)
    source.do("CLIENT", "PAUSE", 100_000, "WRITE")
    with Copying(source, target) as copying:
        with copying.held_at(target, KEYS // 2):
            target.do("DEL", *sorted(keys_of(target))[:3])
        done = copying.finish()
    assert target.do("DBSIZE") == KEYS
    assert done.summary["walked_again"] == {"keys missing": 1}


# --- comparisons -----------------------------------------------------------------------------


@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("versions", [("7.0", "9.1"), ("6.2", "8.2")])
def test_keys_that_one_side_has_not_removed(
    server: StartServer, versions: tuple[str, str], paused: bool
) -> None:
    lazy, eager = map(server, versions)
    for end in (lazy, eager):
        with end.raw() as raw:
            raw.many([("SET", b"key:%d" % number, "x") for number in range(KEYS)])
    keep_expired(lazy)
    plant(lazy, eager)
    expired(lazy, eager)
    wait_until(lambda: eager.do("DBSIZE") == KEYS, 20, "it has removed them")
    if paused:
        for end in (lazy, eager):
            end.do("CLIENT", "PAUSE", 100_000, "WRITE")
    assert lazy.do("DBSIZE") > KEYS
    for source, target in ((lazy, eager), (eager, lazy)):
        no_difference(source, target)
        if not paused:
            no_difference(source, target, *MENDING)


def test_checksums_of_keys_that_one_side_has_not_removed(server: StartServer) -> None:
    lazy, eager = server("7.0"), server("7.0")
    keep_expired(lazy)
    fill_mixed(lazy, KEYS)
    copy(lazy, eager)
    plant(lazy, eager)
    expired(lazy, eager)
    for pair in ((lazy, eager), (eager, lazy)):
        no_difference(*pair, "--digest")


# --- fields ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8.2", "9.1"])
def test_fields_that_one_side_has_not_removed(server: StartServer, version: str) -> None:
    """Nor a hash that has none left."""
    lazy, eager = server(version), server(version)
    keep_expired(lazy)
    seconds, _ = lazy.do("TIME")
    soon = int(seconds) * 1000 + 1500
    for end in (lazy, eager):
        with end.raw() as raw:
            for key, size in ((b"small", 3), (b"large", 700)):
                fields = [b"f%d" % number for number in range(size)]
                raw.do("HSET", key, *[word for field in fields for word in (field, b"v")])
                raw.do("HPEXPIREAT", key, soon, "FIELDS", 2, *fields[:2])
            for number in range(30):
                raw.do("HSET", b"emptied:%d" % number, "f", "v")
                raw.do("HPEXPIREAT", b"emptied:%d" % number, soon, "FIELDS", 1, "f")
            raw.do("XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM")
            raw.do("XGROUP", "CREATECONSUMER", "stream", "group", "consumer")
    wait_until(lambda: eager.do("DBSIZE") == 3, 20, "it has removed the emptied ones")
    wait_until(lambda: eager.do("HLEN", "large") == 698, 20, "and fields")
    assert (lazy.do("DBSIZE"), lazy.do("HLEN", "small")) == (33, 3)
    for source, target in ((lazy, eager), (eager, lazy)):
        no_difference(source, target)
        no_difference(source, target, *MENDING)
    assert (lazy.do("DBSIZE"), lazy.do("HLEN", "small")) == (33, 3)


def test_hashes_that_the_target_removes_at_once(server: StartServer) -> None:
    """Their fields had expired before they were copied."""
    source, target = server("9.1"), server("9.1")
    keep_expired(source)
    fill_mixed(source, KEYS, ttl_share=0)
    with source.raw() as raw:
        for number in range(30):
            raw.do("HSET", b"emptied:%d" % number, "f", "v")
            raw.do("HPEXPIRE", b"emptied:%d" % number, 1, "FIELDS", 1, "f")
    wait_until(lambda: source.do("HEXISTS", "emptied:29", "f") == 0, 10, "they have expired")
    done = copy(source, target)
    assert (done.summary["missing"], done.summary["walked_again"]) == (0, {})
    wait_until(lambda: target.do("DBSIZE") == KEYS, 20, "the target has removed them")
    no_difference(source, target)


# --- clocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", ["source", "target"])
def test_keys_that_have_expired_by_one_clock_only(server: StartServer, ahead: str) -> None:
    """An hour too early: by the other one they live on."""
    here, there = server("8.1"), server("8.1", clock_ahead=3600)
    source, target = (there, here) if ahead == "source" else (here, there)
    plant(here, there, ms=1_000_000)
    expired(there)
    for end in (here, there):
        end.do("SET", "lasting", "x")
    no_difference(source, target, "--clock", "absolute")
    no_difference(source, target, "--clock", "absolute", *MENDING)
    assert here.do("EXISTS", "soon:0") == 1
