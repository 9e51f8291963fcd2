"""Thousands of databases, few descriptors, few places for clients."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rumpx.model.endpoint import parse_endpoint
from rumpx.model.nodes import STANDALONE
from rumpx.servers.connections import Links, most_kept
from rumpx.servers.dial import Dialer
from support.copying import copy, verify
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]

TEMPORARY = 5


@contextmanager
def allowed(files: int) -> Iterator[None]:
    """While this is open, what is started may open so many files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def fill(server: Server, databases: int) -> None:
    with server.raw() as raw:
        for db in range(databases):
            raw.many([("SELECT", db), ("SET", f"k{db}", f"v{db}"), ("PEXPIRE", f"k{db}", 10**8)])


def test_many_databases(server: StartServer) -> None:
    source, target = (server("6.2", databases=700) for _ in range(2))
    fill(source, 600)
    with allowed(160):
        done = copy(source, target, "--retry-for", "1s")
        assert done.counts["copied"] == 600
        verified = verify(source, target, "--retry-for", "1s")
    assert verified.counts["equal"] == 600
    assert target.info()["db599"].startswith("keys=1,expires=1")


def test_links_keep_few_connections(server: StartServer) -> None:
    one = server("7.0", databases=400)
    with allowed(160):
        links = Links(Dialer(parse_endpoint(one.uri, "source"), "source", 5, 5), STANDALONE)
        most = most_kept()
    busy = links.connect(None, 0)
    busy.send(b"*1\r\n$4\r\nPING\r\n")
    for db in range(1, 300):
        connection = links.connect(None, db)
        assert connection is not busy
        assert connection.call("SET", "k", db) == b"OK"
    assert int(one.info("clients")["connected_clients"]) <= most + 2
    assert busy.receive(1) == [b"PONG"] and busy.db == 0
    for db in range(1, 300):
        assert links.connect(None, db).call("GET", "k") == str(db).encode()
    links.close()


def test_no_descriptors_left_is_told_at_once(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "v")
    ends = ("--from", source.uri, "--to", target.uri)
    with allowed(48):
        done = rumpx(*ends, "--workers", "40", timeout=30)
        checked = rumpx("check", *ends, "--workers", "40")
    assert done.returncode == TEMPORARY, done.stderr
    assert "allows rumpx only 48 open files" in done.stderr and "ulimit -n" in done.stderr
    assert "cannot be reached" not in done.stderr
    assert "40 workers and 2 servers may need" in " ".join(checked.stdout.split())


@pytest.mark.parametrize("workers", [4])
def test_the_checks_have_room_where_few_clients_are_let_in(
    server: StartServer, workers: int
) -> None:
    """Four workers and the observer are six; before they began the checks had room."""
    source, target = server("7.0"), server("7.0", maxclients=6)
    with source.raw() as raw:
        raw.many([("SET", f"k:{n}", "v") for n in range(20_000)])

    done = copy(source, target, "--workers", str(workers), "--retry-for", "5s")

    assert done.summary["target_keys_after"] == 20_000
