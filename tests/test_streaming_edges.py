"""Streamed values at the edges: mixed versions, failovers, clocks apart, limits of servers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.copying import Copying, copy, verify
from support.data import HOUR, compare, fill_mixed, keys_of
from support.run import rumpx
from support.servers import Cluster, Server
from support.waiting import wait_until
from test_streaming import FROM_1K, calls, expiring_hash, fill_large, writing

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

MB = 2**20
MARK = b":rumpx-"


class MixedCluster(Cluster):
    """A cluster with a primary of each version."""

    def __init__(self, *versions: str) -> None:
        left = iter(versions)

        def start(_: str, **options: Any) -> Server:
            return Server(next(left), **options)

        self.kind = start  # type: ignore[assignment]
        super().__init__(versions[0], primaries=len(versions))


@pytest.mark.parametrize("versions", [("7.0", "9.1"), ("8.1", "7.0"), ("8.2", "9.1")])
def test_a_cluster_of_mixed_versions(server: StartServer, versions: tuple[str, str]) -> None:
    """Small values fit both; large ones go by the commands that each has."""
    source = server("8.2")
    fill_mixed(source, 1000)
    keys = fill_large(source, "8.2")
    with MixedCluster(*versions) as target:
        assert sorted(node.version for node in target.primaries()) == sorted(versions)
        done = copy(source, target, *FROM_1K)
        assert compare(source, target) == []
        assert all(calls(node, "rename") and calls(node, "restore") for node in target.primaries())
        assert done.counts["copied"] == len(keys) and done.counts["lossy"] == 0
        assert verify(source, target, *FROM_1K).counts["equal"] == done.counts["copied"]


def test_field_expiries_on_a_cluster_where_one_node_knows_none(server: StartServer) -> None:
    """Each hash by its own node: the one arrives, the other fails."""
    source = server("8.2")
    with MixedCluster("9.1", "7.0") as target:
        names: dict[Server, str] = {}
        for n in range(100):
            names.setdefault(target.owner(b"fields:%d" % n), f"fields:{n}")
        by_version = {node.version: name for node, name in names.items()}
        for name in by_version.values():
            expiring_hash(source, name)
        done = copy(source, target, *FROM_1K, code=3)
        assert done.summary["failures_by_reason"] == {"field expiries": 1}
        assert done.summary["failures"][0]["key"] == by_version["7.0"]
        assert compare(source, target, keys=[by_version["9.1"].encode()]) == []
        assert target.client().execute_command("EXISTS", by_version["7.0"]) == 0


@pytest.mark.parametrize("kind", ["string", "list", "stream"])
def test_a_failover_of_the_source_in_a_value(
    server: StartServer, cluster: StartCluster, kind: str
) -> None:
    source, target = cluster("7.0", primaries=1, replicas=1), server("9.1")
    call = source.client().execute_command
    match kind:
        case "string":
            call("SET", "large", random.Random(1).randbytes(2_000_000))
        case "list":
            call("RPUSH", "large", *[b"%d:" % n + bytes(400) for n in range(5000)])
        case _:
            for n in range(5000):
                call("XADD", "large", f"{n + 1}-0", "field", "x" * 400)
    (first,) = source.primaries()
    (replica,) = source.replicas(first)
    call("WAIT", 1, 5000)
    read = {"string": "getrange", "list": "lrange", "stream": "xrange"}[kind]
    with Copying(source, target, *FROM_1K, "--max-bytes-per-sec", "1MiB") as copying:
        wait_until(lambda: calls(first, read) > 2, 60, "a value under way")
        assert keys_of(target) == set() or all(MARK in key for key in keys_of(target))
        source.failover(replica)
        done = copying.finish(timeout=100)
    assert calls(replica, "watch") >= 1, "it began anew there"
    assert compare(source, target) == []
    assert done.counts["copied"] + done.counts["repeated"] >= 1 and keys_of(target) == {b"large"}


@pytest.mark.parametrize("new", ["8.2", "9.1"])
def test_clocks_apart_move_all_expiries(server: StartServer, new: str) -> None:
    """Those of keys and of fields, to the millisecond by one shift."""
    source, target = server("8.2"), server(new, clock_ahead=-300)
    keys = fill_large(source, "8.2")
    expiring_hash(source)
    source.do("PEXPIRE", "fields", 5 * HOUR)

    copy(source, target, *FROM_1K, "--clock", "relative")

    assert calls(target, "rename") >= len(keys)
    expiring = [key for key in keys if key.startswith(b"expiring")] + [b"fields"]
    shifts = {
        target.do("PEXPIRETIME", key) - source.do("PEXPIRETIME", key) for key in expiring
    }
    fields = [f"field:{n}" for n in range(3000)]
    asked = ("HPEXPIRETIME", "fields", "FIELDS", 3000, *fields)
    for one, other in zip(source.do(*asked), target.do(*asked), strict=True):
        assert (one == -1) == (other == -1)
        if one != -1 and one < 2**46 - 1:
            shifts.add(other - one)
    (shift,) = shifts
    assert abs(shift + 300_000) < 1000
    assert all(target.do("PTTL", key) == -1 for key in keys if key.startswith(b"plain"))


def test_a_value_above_the_most_that_is_read_whole_never_rests(
    server: StartServer, state_home: Path
) -> None:
    source, target = server("7.0"), server("7.0")
    client = source.client()
    client.execute_command("SETRANGE", "hot", 70 * MB, "x")
    fill_mixed(source, 100)
    with writing(lambda: client.execute_command("SETRANGE", "hot", 5, "y"), pause=0.02):
        done = copy(source, target, "--job", "j", code=3)
        (failure,) = done.summary["failures"]
        assert failure["reason"] == "changes while it is read" and done.counts["copied"] == 100
        assert "3 tries" in failure["message"] and "--hot-keys whole=" in failure["message"]
        assert not [key for key in keys_of(target) if MARK in key or key == b"hot"]
        (letter,) = (state_home / "j.failed.jsonl").read_text().splitlines()
        assert (json.loads(letter)["key"], json.loads(letter)["reason"]) == (
            "hot", "changes while it is read",
        )  # fmt: skip
        advice = failure["message"].partition("--hot-keys ")[2].partition(",")[0]
        copy(source, target, "--on-conflict", "replace", "--hot-keys", advice)
    assert target.do("STRLEN", "hot") == 70 * MB + 1


@pytest.mark.parametrize("limit", ["client_query_buffer_limit", "maxmemory_clients"])
@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_string_above_a_targets_limit_for_clients(
    server: StartServer, version: str, limit: str
) -> None:
    """It costs its connection, and fails alone; the others pass. A check foretells the limit of a
    request."""
    source, target = server("7.0"), server(version, **{limit: "20mb"})
    source.do("SETRANGE", "string", 64 * MB, "x")
    source.client().rpush("list", *[b"x" * MB] * 40)
    fill_mixed(source, 1000)
    checked = rumpx("check", "--from", source.uri, "--to", target.uri).stdout
    foretold = "client-query-buffer-limit" in checked and "would fail" in checked
    assert foretold == (limit == "client_query_buffer_limit")
    done = copy(source, target, code=3)
    (failure,) = done.summary["failures"]
    assert failure["key"] == "string" and failure["reason"] == "connection lost"
    assert "client-query-buffer-limit or maxmemory-clients? Raise it" in failure["message"]
    assert done.counts["copied"] == 1001
    assert keys_of(target) == keys_of(source) - {b"string"}
    target.do("CONFIG", "SET", limit.replace("_", "-"), 2**30)
    assert compare(source, target, keys=list(keys_of(target))) == []
    copy(source, target, "--on-conflict", "replace")
    assert compare(source, target) == []


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_one_field_of_100_mb(server: StartServer, version: str) -> None:
    """One command each way, since no server gives a part of it; the user is told."""
    source, target = server(version), server(version)
    call = source.client().execute_command
    call("HSET", "hash", "huge", random.Random(1).randbytes(100 * MB))
    call("PEXPIRE", "hash", HOUR)
    done = copy(source, target, "--timeout", "30")
    assert calls(source, "dump") < 10, "the checks at the start"
    assert calls(target, "rename") == 2 and calls(target, "hset") == 1
    assert compare(source, target) == []
    assert "The key hash has a member of 105 MB" in done.warnings
    assert done.counts["payload_bytes"] > 100 * MB
    (large,) = done.summary["content"]["largest"]
    assert (large["key"], large["type"]) == ("hash", "hash")
