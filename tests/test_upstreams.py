"""A replica that is named by --from, and may not have what its primary has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rumpx.servers.upstream import Upstream
from support.copying import Copied, Copying, copy, held, resume, verify
from support.data import compare, fill_mixed, keys_of
from support.replication import attach, cut_off, link, replicated, resynchronise
from support.run import rumpx
from support.servers import Server, free_port
from support.waiting import wait_until

StartServer = Callable[..., Server]

SOURCE, TEMPORARY = 6, 5
KEYS = 600


def check_code(source: Server, target: Server) -> int:
    return rumpx("check", "--from", source.uri, "--to", target.uri).returncode


def refused(source: Server, target: Server, said: str) -> None:
    """By all commands, which change nothing."""
    before = keys_of(target)
    assert said in copy(source, target, code=SOURCE).stderr
    assert said in verify(source, target, code=SOURCE).stderr
    mending = ("--repair", "--delete-extra", "--yes")
    assert said in verify(source, target, *mending, code=SOURCE).stderr
    assert check_code(source, target) == SOURCE
    assert keys_of(target) == before


def attached(server: StartServer, version: str, **options: str) -> tuple[Server, Server]:
    """A filled primary and its replica."""
    primary, replica = server(version), server(version, **options)
    fill_mixed(primary, KEYS, ttl_share=0)
    replica.replicate(primary)
    replicated(primary, replica)
    return primary, replica


LOADING = {"loading_process_events_interval_bytes": "1024"}
"""So that a server which loads answers between two keys, if those are large."""


def fill_large(server: Server, number: int) -> None:
    """Keys each of which is sent by itself."""
    with server.raw() as raw:
        raw.many([("SET", b"large:%d" % one, os.urandom(20_000)) for one in range(number)])


@contextmanager
def slow_synchronisation(primary: Server, replica: Server) -> Iterator[None]:
    """One that is under way while this is open."""
    primary.do("CONFIG", "SET", "rdb-key-save-delay", 50_000)
    replica.do("REPLICAOF", "127.0.0.1", primary.port)
    wait_until(
        lambda: replica.info()["master_sync_in_progress"] == "1", 20, "the primary sends its keys"
    )
    yield
    assert link(replica) == "down"
    primary.kill()


# --- before a copy ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["6.2", "9.1"])
def test_a_replica_that_has_never_synchronised(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    target.do("SET", "mine", "x")
    source.do("REPLICAOF", "127.0.0.1", free_port())
    refused(source, target, "has never synchronised with its primary 127.0.0.1:")


def test_one_with_keys_of_its_own(server: StartServer) -> None:
    """Which it will drop when it reaches its primary."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "own", "x")
    source.do("REPLICAOF", "127.0.0.1", free_port())
    done = copy(source, target, code=SOURCE)
    assert "has never synchronised" in done.stderr and "REPLICAOF NO ONE" in done.stderr
    source.do("REPLICAOF", "NO", "ONE")
    copy(source, target)
    assert keys_of(target) == {b"own"}


def test_a_replica_of_it(server: StartServer) -> None:
    between, source, target = server("7.0"), server("7.0"), server("7.0")
    between.do("REPLICAOF", "127.0.0.1", free_port())
    source.do("REPLICAOF", "127.0.0.1", between.port)
    done = copy(source, target, code=SOURCE)
    assert f"never synchronised with its primary 127.0.0.1:{between.port}" in done.stderr


def test_a_source_that_has_become_one_by_the_time_of_resume(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    with Copying(source, target, "--job", "job") as copying:
        copying.stop_at(target, KEYS // 4)
        copying.finish(130)
    source.restart()
    source.do("REPLICAOF", "127.0.0.1", free_port())
    assert "has never synchronised" in resume(code=SOURCE).stderr


def test_a_replica_that_is_being_synchronised(server: StartServer) -> None:
    primary, source, target = server("7.0"), server("7.0"), server("7.0")
    fill_large(primary, 1500)
    with slow_synchronisation(primary, source):
        refused(source, target, "is loading the data of its primary")


def test_a_replica_that_is_loading(server: StartServer) -> None:
    primary, target = server("7.0"), server("7.0")
    source = server("7.0", repl_diskless_load="swapdb", **LOADING)
    fill_large(primary, 1500)
    with slow_synchronisation(primary, source):
        wait_until(lambda: source.info()["loading"] == "1", 20, "the first of them arrive")
        done = copy(source, target, code=SOURCE)
        assert "is loading the data of its primary" in done.stderr


def test_a_replica_that_lost_its_data(server: StartServer) -> None:
    """It dropped them for those of its primary, which did not come."""
    _, source = attached(server, "8.1", repl_diskless_load="flush-before-load", **LOADING)
    other, target = server("8.1"), server("8.1")
    fill_large(other, 500)
    with slow_synchronisation(other, source):
        wait_until(lambda: source.info()["loading"] == "1", 20, "the first of them arrive")
    wait_until(lambda: source.info()["loading"] == "0", 20, "it has given up")
    refused(source, target, "holds no keys, and the link to its primary")


@pytest.mark.parametrize("version", ["6.2", "7.0"])
def test_a_replica_that_shows_no_stale_data(server: StartServer, version: str) -> None:
    primary, source = attached(server, version)
    target = server(version)
    source.do("CONFIG", "SET", "replica-serve-stale-data", "no")
    primary.kill()
    wait_until(lambda: link(source) == "down", 10, "the link is down")
    refused(source, target, "replica-serve-stale-data no")


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_replica_that_is_cut_off_is_read_and_that_is_said(
    server: StartServer, version: str
) -> None:
    primary, source = attached(server, version)
    target = server(version)
    assert copy(source, server(version)).warnings == ""
    primary.kill()
    wait_until(lambda: link(source) == "down", 10, "the link is down")
    done = copy(source, target)
    assert f"lost the link to its primary 127.0.0.1:{primary.port}" in done.warnings
    assert " s ago: it lacks all writes since then" in done.warnings
    assert compare(source, target) == []
    same = verify(source, target)
    assert "lost the link" in "\n".join(same.summary["warnings"])
    assert check_code(source, target) in (0, 7)  # 7: the target holds keys


def link_of(**told: int | bool) -> Upstream:
    facts: dict[str, int | bool] = {
        "up": True, "syncing": False, "loading": False, "offset": 900, "down_for": 5,
        "silent_for": 3, "empty": False,
    }  # fmt: skip
    return Upstream("p:1", **(facts | told))  # type: ignore[arg-type]


def test_how_far_a_replica_is_behind() -> None:
    assert (link_of().fault, link_of().lag) == ("", "")
    assert link_of(silent_for=90).lag == "has heard nothing from its primary p:1 for 90 s"
    assert link_of(up=False).lag == "lost the link to its primary p:1 5 s ago"
    restarted = link_of(up=False, down_for=-1)
    assert (restarted.fault, "since it started" in restarted.lag) == ("", True)
    # A primary that was never written to has no offset; its replica has all that it had.
    assert link_of(up=False, offset=0).fault == ""
    assert "holds no keys" in link_of(up=False, empty=True).fault


# --- during a copy, and a comparison ---------------------------------------------------------


def read_anew(done: Copied) -> bool:
    """Because of what the source is, not because keys seemed to be missing at the end."""
    return any(why.startswith("the source's ") for why in done.summary["walked_again"])


@pytest.mark.parametrize("version", ["6.2", "9.1"])
def test_a_full_resynchronisation_has_the_walks_start_over(
    server: StartServer, version: str
) -> None:
    primary, source = attached(server, version)
    target = server(version)
    with Copying(source, target) as copying:
        with copying.held_at(target, KEYS // 4):
            resynchronise(source, primary)
        done = copying.finish()
    assert compare(source, target) == []
    assert read_anew(done)


def test_keys_that_were_named_before_are_read_again(server: StartServer) -> None:
    """The walk has ended, but workers, which still read its keys, find none."""
    primary, source = attached(server, "7.0")
    target = server("7.0")
    with Copying(source, target, "--batch-keys", "300") as copying:
        with copying.held_at(target, 0):
            primary.do("FLUSHALL")
            replicated(primary, source)
            fill_mixed(primary, KEYS, ttl_share=0)
            resynchronise(source, primary)
        done = copying.finish()
    assert compare(source, target) == []
    assert read_anew(done)


def test_a_primary_that_becomes_a_replica(server: StartServer) -> None:
    source, other, target = server("7.0"), server("7.0"), server("7.0")
    fill_mixed(source, KEYS, ttl_share=0)
    fill_mixed(other, KEYS, ttl_share=0, prefix=b"other")
    with Copying(source, target) as copying:
        with copying.held_at(target, KEYS // 4):
            source.replicate(other)
            replicated(other, source)
        done = copying.finish()
    assert keys_of(other) <= keys_of(target)
    assert read_anew(done)


def test_a_replica_without_data_is_waited_for(server: StartServer) -> None:
    primary, source = attached(server, "7.0")
    target = server("7.0")
    with Copying(source, target, "--retry-for", "2s", "--job", "job") as copying:
        with copying.held_at(target, KEYS // 4):
            cut_off(source, primary)
            source.do("REPLICAOF", "NO", "ONE")
            source.do("FLUSHALL")
            source.do("CONFIG", "SET", "replica-read-only", "no")
            source.do("REPLICAOF", "127.0.0.1", free_port())
        copying.finish(TEMPORARY)
    source.do("REPLICAOF", "127.0.0.1", primary.port)
    attach(source, primary)
    replicated(primary, source)
    resume()
    assert compare(source, target) == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_comparison_with_a_replica_that_is_filled_anew(server: StartServer, side: str) -> None:
    """It ends early, rather than call missing what the replica has."""
    primary, replica = attached(server, "7.0")
    other = server("7.0")
    copy(primary, other)
    ends = (replica, other) if side == "source" else (other, replica)
    words = ["verify", "--from", ends[0].uri, "--to", ends[1].uri, "--workers", "1"]
    with Copying.of(*words, "--batch-keys", "5") as verifying:
        with held(verifying.run):
            resynchronise(replica, primary)
        ended = verifying.finish(TEMPORARY)
    assert "verify again" in ended.stderr
    assert verify(*ends).counts["equal"] == KEYS
