"""Copies between any two versions: as they are, stamped anew, rewritten, or failed by name."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rumpx.servers.dialect import Dialect, common, dialect_of, probes
from rumpx.servers.resp import Connection
from support.copying import Copying, copy, verify
from support.data import compare, every_type, fill_mixed, keys_of
from support.middlemen import Balancer, Damager
from support.run import rumpx
from support.servers import Cluster, Server, available
from support.waiting import wait_until

StartServer = Callable[..., Server]

ALL = available()
PAIRS = [(one, other) for one in ALL for other in ALL if one != other]
FIELD_EXPIRIES = ("7.4", "8.2", "9.1")
"""Versions with expiries of fields."""

ACCEPTED = {
    "6.2": Dialect(frozenset(range(6, 10)), ""),
    "7.0": Dialect(frozenset(range(6, 11)), ""),
    "7.4": Dialect(frozenset(range(6, 13)), "redis"),
    "8.1": Dialect(frozenset(range(6, 12)), ""),
    "8.2": Dialect(frozenset(range(6, 13)), "redis"),
    "9.1": Dialect(frozenset([*range(6, 12), 80]), "valkey"),
}


def dialect(server: Server, key: bytes = b"new") -> Dialect | None:
    with closing(Connection(socket.create_connection(server.address), str(server))) as connection:
        return dialect_of(connection.call_many(probes(key)))


def expiring_hashes(server: Server, number: int) -> None:
    """Hashes of ten fields of which two expire, in both encodings."""
    now = int(time.time() * 1000)
    for n in range(number):
        key, value = f"expiring:{n}", "v" * (100 if n % 2 else 5)
        server.do("HSET", key, *(word for i in range(10) for word in (f"f{i}", value)))
        server.do("HPEXPIREAT", key, now + 3_600_000 + n, "FIELDS", 1, "f0")
        server.do("HPEXPIREAT", key, now + 7_200_000 + n, "FIELDS", 1, "f1")


# The target's dialect


@pytest.mark.parametrize("version", ALL)
def test_a_server_shows_what_it_accepts_and_nothing_is_written(
    server: StartServer, version: str
) -> None:
    probed = server(version)
    probed.do("SET", "probed", "value", "EX", 1000)

    assert dialect(probed) == ACCEPTED[version]
    assert dialect(probed, b"probed") is None
    assert keys_of(probed) == {b"probed"}
    assert probed.do("GET", "probed") == b"value"
    assert probed.do("TTL", "probed") > 900


def test_relaxed_valkeys_show_their_family(server: StartServer) -> None:
    old = server("8.1", rdb_version_check="relaxed")
    new = server("9.1", rdb_version_check="relaxed")
    assert dialect(old) == ACCEPTED["8.1"]
    found = dialect(new)
    assert found and found.family == "valkey" and {12, 80} <= found.versions
    assert not found.takes(12)


def test_a_server_that_refuses_restore_shows_nothing(server: StartServer) -> None:
    probed = server("7.0")
    probed.do("ACL", "SETUSER", "default", "-restore")
    assert dialect(probed) is None


def test_what_several_servers_accept() -> None:
    both = common([ACCEPTED["8.2"], ACCEPTED["9.1"]])
    assert both == Dialect(frozenset(range(6, 12)), "")
    assert common([]) is None


# Copies


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_type_arrives_on_any_version(server: StartServer, old: str, new: str) -> None:
    source, target = server(old), server(new)
    every_type(source.client(), old)
    fill_mixed(source, 500)
    lossy = old in FIELD_EXPIRIES and new not in FIELD_EXPIRIES
    accepted = ["--field-expiries", "drop"] if lossy else []
    lost = {key for key in keys_of(source) if b"vector" in key} if old == "8.2" else set()
    plain = [key for key in keys_of(source) if key not in lost]

    done = copy(source, target, *accepted, code=3 if lost and new != "8.2" else 0)

    assert done.counts["copied"] == len(plain) + (new == "8.2") * len(lost)
    assert done.summary["failures_by_reason"].keys() <= {"no module"}
    if not lossy:
        tolerance = 2 if "6.2" in (old, new) else 0
        assert compare(source, target, ttl_tolerance_ms=tolerance, keys=plain) == []
    told = verify(source, target, *accepted, code=4 if lost and new != "8.2" else 0)
    assert told.counts["equal"] == done.counts["copied"]


@pytest.mark.parametrize(("old", "new"), [("8.2", "9.1"), ("9.1", "8.2")])
def test_field_expiries_cross_the_families_and_fire(
    server: StartServer, old: str, new: str
) -> None:
    source, target = server(old), server(new)
    expiring_hashes(source, 20)
    soon = int(time.time() * 1000) + 3000
    source.do("HSET", "soon", "stays", "1", "goes", "2")
    source.do("HPEXPIREAT", "soon", soon, "FIELDS", 1, "goes")

    assert copy(source, target).counts["rewritten"] == 21

    for n in range(20):
        ask = ("HPEXPIRETIME", f"expiring:{n}", "FIELDS", 3, "f0", "f1", "f2")
        assert source.do(*ask) == target.do(*ask)
    assert target.do("HPEXPIRETIME", "soon", "FIELDS", 2, "stays", "goes") == [-1, soon]
    wait_until(lambda: target.do("HGETALL", "soon") == [b"stays", b"1"], 20, "the field expires")
    assert time.time() * 1000 >= soon


@pytest.mark.parametrize(("old", "new"), [("8.2", "7.0"), ("9.1", "8.1"), ("8.2", "6.2")])
def test_field_expiries_are_kept_or_the_key_fails(
    server: StartServer, old: str, new: str
) -> None:
    source, target = server(old), server(new)
    expiring_hashes(source, 4)
    source.do("HSET", "plain", "field", "value")

    done = copy(source, target, code=3)

    assert "4 hashes whose fields expire" in done.warnings
    assert done.summary["failures_by_reason"] == {"field expiries": 4}
    assert keys_of(target) == {b"plain"}
    letters = Path(done.summary["dead_letters"]).read_text().splitlines()
    assert all("--field-expiries drop" in json.loads(line)["error"] for line in letters)


def test_a_loss_that_is_accepted_is_listed_and_no_difference(server: StartServer) -> None:
    source, target = server("9.1"), server("7.0")
    expiring_hashes(source, 4)
    source.do("HSET", "plain", "field", "value")

    done = copy(source, target, "--field-expiries", "drop")

    assert (done.counts["copied"], done.counts["lossy"]) == (5, 4)
    assert done.summary["losses"] == {"field expiries": 4}
    listed = Path(done.summary["losses_file"]).read_text().splitlines()
    keys = {json.loads(line)["key"] for line in listed}
    assert keys == {f"expiring:{n}" for n in range(4)}
    assert target.do("HLEN", "expiring:0") == 10
    equal = verify(source, target, "--field-expiries", "drop")
    assert (equal.counts["equal"], equal.counts["lossy"]) == (5, 4)
    of_job = rumpx("verify", done.summary["job"], "--summary", "-")
    assert json.loads(of_job.stdout)["counts"]["lossy"] == 4
    differ = verify(source, target, code=4)
    assert differ.found == {("value", 0, f"expiring:{n}".encode()) for n in range(4)}


@pytest.mark.parametrize("accepted", [[], ["--field-expiries", "drop"]])
@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_the_policy_decides_about_keys_that_do_not_fit(
    server: StartServer, policy: str, accepted: list[str]
) -> None:
    source, target = server("8.2"), server("8.1")
    expiring_hashes(source, 4)
    target.do("SET", "expiring:0", "mine")
    source.do("HSET", "same", "field", "value")
    source.do("HPEXPIRE", "same", 1_000_000, "FIELDS", 1, "field")
    target.do("HSET", "same", "field", "value")

    whole = policy == "skip" and accepted
    done = copy(source, target, "--on-conflict", policy, *accepted, code=0 if whole else 3)

    assert target.do("GET", "expiring:0") == b"mine"
    failed, counts = done.summary["failures_by_reason"], done.counts
    if accepted:
        assert counts["repeated"] == 1
        assert done.summary["losses"] == {"field expiries": 4}
        assert failed == ({} if policy == "skip" else {"busy key": 1})
    else:
        assert counts["repeated"] == 0
        assert counts["skipped"] == (2 if policy == "skip" else 0)
        busy = {} if policy == "skip" else {"busy key": 2}
        assert failed == {"field expiries": 3} | busy


def test_a_comparison_finds_lost_expiries_without_info(server: StartServer) -> None:
    source, target = server("8.2"), server("8.1")
    expiring_hashes(source, 1)
    target.do("HSET", "expiring:0", *(w for i in range(10) for w in (f"f{i}", "v" * 5)))
    source.do("ACL", "SETUSER", "default", "-info")
    assert verify(source, target, code=4).found == {("value", 0, b"expiring:0")}
    done = verify(source, target, "--field-expiries", "drop")
    assert (done.counts["equal"], done.counts["lossy"]) == (1, 1)


def test_values_of_modules_do_not_end_a_run_that_has_others(server: StartServer) -> None:
    source, target = server("8.2"), server("7.0")
    with closing(source.client().pipeline(transaction=False)) as pipe:
        for n in range(3000):
            pipe.execute_command("VADD", f"v{n}", "VALUES", 2, n, 1, "element")
        pipe.execute()
    for n in range(5):
        source.do("SET", f"string:{n}", "value")
    done = copy(source, target, "--max-source-latency", "off", code=3)
    assert done.counts["copied"] == 5
    assert done.summary["failures_by_reason"] == {"no module": 3000}


@pytest.mark.parametrize(("old", "new"), [("8.1", "9.1"), ("9.1", "8.2")])
def test_elements_whose_size_is_written_in_two_ways(
    server: StartServer, old: str, new: str
) -> None:
    source, target = server(old), server(new)
    source.do("CONFIG", "SET", "hash-max-listpack-value", 20_000)
    source.do("HSET", "hash", "field", "x" * 16_378)
    assert source.do("OBJECT", "ENCODING", "hash") == b"listpack"
    copy(source, target)
    assert target.do("HGET", "hash", "field") == b"x" * 16_378
    assert compare(source, target) == []


def test_fields_of_streams_that_6_2_does_not_have_are_told(server: StartServer) -> None:
    source, target = server("8.2"), server("6.2")
    source.do("XADD", "stream", "1-1", "field", "value")
    done = copy(source, target)
    assert done.summary["losses"] == {"stream counters": 1}
    assert compare(source, target) == []


def test_clocks_apart_move_the_expiries_of_fields_too(server: StartServer) -> None:
    source = server("8.2")
    for version in ("8.2", "9.1"):
        target = server(version, clock_ahead=-300)
        source.do("HSET", "hash", "field", "value", "other", "value")
        source.do("HPEXPIRE", "hash", 1_000_000, "FIELDS", 1, "field")
        copy(source, target, "--clock", "relative", "--on-conflict", "replace")
        asked = ("HPEXPIRETIME", "hash", "FIELDS", 2, "field", "other")
        (instant, _), (other, none) = source.do(*asked), target.do(*asked)
        assert abs(other - instant + 300_000) < 5_000
        assert none == -1


def test_a_relaxed_valkey_gets_redis_hashes_in_its_own_form(server: StartServer) -> None:
    source, target = server("8.2"), server("9.1", rdb_version_check="relaxed")
    expiring_hashes(source, 4)
    fill_mixed(source, 200)
    copy(source, target)
    assert compare(source, target) == []


# Servers that change, and payloads that are damaged


def test_a_cluster_of_two_versions_gets_what_both_accept(
    server: StartServer, cluster: Callable[..., Cluster]
) -> None:
    source, target = server("8.2"), cluster("9.1", primaries=3)
    fill_mixed(source, 1500)
    every_type(source.client(), "8.1")
    copy(source, target)
    assert compare(source, target) == []


@pytest.mark.parametrize(("first", "then"), [("8.2", "7.0"), ("9.1", "8.2"), ("7.0", "9.1")])
def test_a_target_that_becomes_another_version_is_asked_again(
    server: StartServer, first: str, then: str
) -> None:
    source, one, other = server("8.2"), server(first), server(then)
    fill_mixed(source, 3000)
    rate = ("--max-keys-per-sec", "1500", "--workers", "2")
    with Balancer([one], steady=True) as middle, Copying(source, middle.uri, *rate) as copying:
        copying.wait_keys(one, 300)
        middle.first = other
        middle.cut()
        done = copying.finish()
    assert done.counts["failed"] == 0
    assert compare(source, other) == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [("8.2", "7.0", "bad data"), ("8.2", "8.1", "bad payload"), ("8.2", "8.2", "bad payload")],
)
def test_a_payload_damaged_on_the_way_fails_alone(
    server: StartServer, old: str, new: str, reason: str
) -> None:
    source, target = server(old), server(new)
    for n in range(50):
        source.do("SADD", f"set:{n}", "a", "b", "damaged" if n == 7 else "sound")
    with Damager(source, b"damaged", b"DAMAGED") as middle:
        done = copy(middle.uri, target, code=3)
    assert done.counts["copied"] == 49
    (failure,) = done.summary["failures"]
    assert (failure["key"], failure["reason"]) == ("set:7", reason)
    assert compare(source, target, keys=[b"set:%d" % n for n in range(50) if n != 7]) == []


def test_digests_are_compared_across_versions(server: StartServer) -> None:
    source, target = server("8.2"), server("9.1")
    fill_mixed(source, 500)
    copy(source, target)
    source.do("CONFIG", "RESETSTAT")
    done = verify(source, target, "--digest")
    assert done.counts["equal"] == 500
    assert "cmdstat_dump" in source.info("commandstats") or done.warnings == ""
    target.do("SET", keys_of(target).pop(), "another value")
    assert len(verify(source, target, "--digest", code=4).found) == 1


def test_a_check_foretells_each_way_and_loss(server: StartServer) -> None:
    source, target = server("8.2"), server("7.0")
    source.do("SET", "string", "value")
    source.do("SADD", "set", "a", "b")
    expiring_hashes(source, 4)
    told = " ".join(checked(source, target, code=3))
    assert "stamped with another version: string (embstr)" in told
    assert "rewritten: set (listpack)" in told
    assert "4 hashes whose fields expire" in told
    assert "hash (listpackex)" in told
    told = " ".join(checked(source, target, "--field-expiries", "drop"))
    assert "cannot hold the field expiries of hash" in told


def checked(source: Server, target: Server, *flags: str, code: int = 0) -> list[str]:
    done = rumpx("check", "--from", source.uri, "--to", target.uri, *flags)
    assert done.returncode == code, done.stdout
    return done.stdout.split()
