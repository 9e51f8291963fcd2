"""Memory for old values that stand beside new ones while these are written in pieces."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rumpx.copier.target_memory import Growth, at_the_end, overflows
from rumpx.preflight.memory import old_values
from rumpx.servers.keysizes import largest_values
from support.copying import copy
from support.data import compare
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]

MB = 2**20


def test_the_largest_values_one_a_worker() -> None:
    sizes = [1, 50, 20, 30, 9]
    assert old_values(sizes, 2, 10, 1000) == 80
    assert old_values(sizes, 9, 10, 1000) == 100, "smaller ones are not streamed"
    assert old_values(sizes, 2, 10, 60) == 60, "no more than the target holds"
    assert old_values(sizes, 2, None, 1000) == old_values([], 2, 10, 1000) == 0


def test_the_largest_values_by_their_classes() -> None:
    text = (
        "# Keysizes\r\ndb0_distrib_strings_sizes:16=90,64M=2\r\n"
        "db0_distrib_hashes_items:1M=7\r\ndb3_distrib_strings_sizes:0=1,32M=1,128M=1\r\n"
    )
    assert largest_values(text, 4) == [128 * MB, 64 * MB, 64 * MB, 32 * MB]
    assert largest_values(text, 1) == [128 * MB]
    assert largest_values("db0_distrib_strings_sizes:8=2\r\n", 5) == [8, 8]
    assert largest_values("", 5) == []
    with pytest.raises(ValueError, match="class"):
        largest_values("db0_distrib_strings_sizes:8=x\r\n", 5)


def test_pieces_are_no_growth_that_lasts() -> None:
    assert at_the_end(Growth(100, 130, 0, old_values=40), 0.0, 0.1) == 140
    assert at_the_end(Growth(100, 150, 0, old_values=40), 0.0, 0.5) == 160
    assert at_the_end(Growth(100, 90, 0, old_values=40), 0.0, 0.5) == 130
    assert overflows(Growth(100, 110, 130, old_values=40), 0.0, 0.5, 1.0)
    assert not overflows(Growth(100, 110, 150, old_values=40), 0.0, 0.5, 1.0)
    assert not overflows(Growth(100, 110, 130), 0.0, 0.5, 1.0)


def fill(server: Server, kind: str, seed: str) -> None:
    """One value of 30 MB."""
    if kind == "string":
        server.do("SET", "large", seed * 30 * MB)
        return
    client = server.client()
    for n in range(0, 300, 10):
        client.hset("large", mapping={f"{n + m}": seed * 100_000 for m in range(10)})


@pytest.mark.parametrize(("kind", "version"), [("hash", "7.0"), ("string", "8.2")])
def test_a_target_without_room_for_both(server: StartServer, kind: str, version: str) -> None:
    """A check foretells it by its sample; a copy by INFO, where that shows the sizes of values. The
    old value stays."""
    source, target = server(version), server(version)
    fill(source, kind, "x")
    fill(target, kind, "o")
    used = int(target.info("memory")["used_memory"])
    target.do("CONFIG", "SET", "maxmemory", used + 12 * MB)
    ends = ("--from", source.uri, "--to", target.uri, "--on-conflict", "replace")

    checked = json.loads(rumpx("check", "--json", *ends).stdout)

    (line,) = [line for line in checked["lines"] if line["subject"] == "memory"]
    assert line["status"] == "warn" and "of them for old values" in line["text"]
    assert "Raise its maxmemory, or use fewer --workers" in line["advice"]
    flags = ("--on-conflict", "replace", "--job", "j")
    done = copy(source, target, *flags, code=5)
    assert "out of memory" in done.stderr
    foretold = "a large value is written beside the old one" in done.warnings
    assert foretold == (version == "8.2")
    assert target.do("EXISTS", "large") == 1 and compare(source, target) != []

    # A server holds a long string twice while it takes it: the argument, and the next one's buffer.
    target.do("CONFIG", "SET", "maxmemory", used + (75 if kind == "string" else 45) * MB)

    assert json.loads(rumpx("check", "--json", *ends).stdout)["exit_code"] == 0
    done = copy(source, target, "--on-conflict", "replace")
    assert "old one" not in done.warnings
    assert compare(source, target) == []


def test_room_is_not_asked_for_where_nothing_is_replaced(server: StartServer) -> None:
    source, target = server("8.2"), server("8.2", maxmemory=75 * MB)
    fill(source, "string", "x")
    ends = ("--from", source.uri, "--to", target.uri)

    checked = json.loads(rumpx("check", "--json", *ends).stdout)

    assert "old values" not in json.dumps(checked)
    assert copy(source, target).warnings == ""
