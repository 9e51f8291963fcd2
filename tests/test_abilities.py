"""What both sides let a copy use: users with rights to some keys only, targets of old versions, and
what a copy of keys leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Scope
from rumpx.preflight.abilities import SCANS, readable_key
from rumpx.servers.dial import Dialer
from rumpx.servers.replies import key_refused, refused
from support.copying import Copying, copy, resume, verify
from support.data import compare, keys_of
from support.impostor import Impostor
from support.raw import Raw, pack
from support.run import rumpx
from support.servers import ALL, Cluster, Server

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]


def keeper(server: Server, *rules: str) -> str:
    """The URI of a user with these ACL rules."""
    server.do("ACL", "SETUSER", "mover", "on", ">pw", *rules)
    return f"redis://mover:pw@127.0.0.1:{server.port}"


def check(source: str, target: str, *flags: str) -> dict[str, list[str]]:
    """The texts of a check's lines by status and subject."""
    run = rumpx("check", "--json", "--from", source, "--to", target, *flags)
    found: dict[str, list[str]] = {}
    for line in json.loads(run.stdout)["lines"]:
        found.setdefault(f"{line['status']} {line['subject']}", []).append(line["text"])
    return found


@pytest.mark.parametrize("version", ALL)
def test_a_key_and_a_command_that_are_refused_are_told_apart(
    server: StartServer, version: str
) -> None:
    guarded = server(version)
    guarded.do("ACL", "SETUSER", "keymaster", "on", ">pw", "~app:*", "+@all", "-dump", "-memory")
    with guarded.raw() as raw:
        raw.do("AUTH", "keymaster", "pw")
        for command in (("DUMP", "app:1"), ("DUMP", "other"), ("MEMORY", "USAGE", "other")):
            reply = _error(raw, *command)
            assert refused(reply) and not key_refused(reply), reply
        for command in (("PTTL", "other"), ("RESTORE", "other", -1, "x", "REPLACE", "ABSTTL")):
            reply = _error(raw, *command)
            assert key_refused(reply) and not refused(reply), reply


def _error(raw: Raw, *command: str | int) -> str:
    raw.send(pack(*command))
    return str(raw.replies(1)[0])


@pytest.mark.parametrize("flags", [("--match", "app:*"), ()])
def test_abilities_are_tried_on_a_key_that_the_user_may_read(
    server: StartServer, flags: tuple[str, ...]
) -> None:
    source, target = server("7.0"), server("7.0")
    for number in range(600):
        source.do("SET", f"other:{number}", number)
    for number in range(20):
        source.do("SET", f"app:{number}", number, "PX", 3_600_000 + number)
    user = keeper(source, "~app:*", "+@all")

    done = copy(user, target, *flags, code=0 if flags else 3)

    assert "MEMORY USAGE" not in done.stderr
    assert done.counts["copied"] == 20
    if flags:
        told = check(user, target.uri, "--on-conflict", "replace", *flags)
        assert "warn reading" not in told
        assert "MEMORY USAGE" in " ".join(told["ok reading"])


def test_a_key_to_try_is_looked_for_with_a_bounded_number_of_scans(server: StartServer) -> None:
    source = server("7.0")
    source.do("EVAL", "for i=1,20000 do redis.call('set', 'k:'..i, i) end", 0)
    connection = Dialer(parse_endpoint(source.uri, "source"), "source", 5, 5).connect(None)

    found = readable_key(connection, "source", Scope(match=(b"none:*",)), True, SCANS)

    assert found == (None, None, SCANS)
    connection.close()


# Targets without ABSTTL


@pytest.fixture
def old(server: StartServer) -> Iterator[tuple[Server, Impostor]]:
    target = server("7.0")
    with Impostor(target.port, {b"REPLACE"}) as relay:
        yield target, relay


def test_a_target_without_absttl_gets_times_left(
    server: StartServer, old: tuple[Server, Impostor]
) -> None:
    source, (target, relay) = server("7.0"), old
    for number in range(200):
        source.do("SET", f"k:{number}", number)
    for number in range(50):
        source.do("SET", f"e:{number}", number, "PX", 3_600_000)

    told = check(source.uri, relay.uri)
    assert "no ABSTTL" in told["warn writing"][0]
    done = copy(source, relay.uri)

    assert done.counts["copied"] == 250
    assert sum("no ABSTTL" in warning for warning in done.summary["warnings"]) == 1
    assert compare(source, target, ttl_tolerance_ms=1000) == []
    again = copy(source, relay.uri, "--on-conflict", "fail")
    assert again.counts["repeated"] == 250
    mended = verify(source, relay.uri, "--repair")
    assert mended.counts["equal"] == 250
    target.do("PEXPIREAT", "e:0", source.do("PEXPIRETIME", "e:0") + 700)
    plain = verify(source, relay.uri)
    assert plain.counts["equal"] == 250
    assert "no ABSTTL" in plain.warnings


def test_a_target_without_replace_is_refused(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", 1)
    with Impostor(target.port, set()) as relay:
        done = rumpx("--from", source.uri, "--to", relay.uri, "--progress", "none")
        assert done.returncode == 7 and "has no RESTORE … REPLACE" in done.stderr
        told = check(source.uri, relay.uri)
        assert "has no RESTORE … REPLACE" in told["fail writing"][0]
        assert not any("RESTORE" in text for text in told.get("ok writing", []))
        copy(source, relay.uri, "--on-conflict", "skip")
    assert target.do("GET", "k") == b"1"


def test_a_copy_to_a_target_without_absttl_is_gone_on_with(
    server: StartServer, old: tuple[Server, Impostor]
) -> None:
    source, (target, relay) = server("7.0"), old
    for number in range(3000):
        source.do("SET", f"k:{number}", number, "PX", 3_600_000)
    with Copying(source, relay.uri, "--job", "job") as copying:
        copying.stop_at(target, 300)
        copying.finish(code=130)
    assert 300 <= len(keys_of(target)) < 3000

    done = resume()

    assert sum("no ABSTTL" in warning for warning in done.summary["warnings"]) == 1
    assert compare(source, target, ttl_tolerance_ms=1000) == []


@pytest.mark.parametrize(
    ("options", "flags", "expected"),
    [
        (None, ["--on-conflict", "replace"], [b"REPLACE", b"ABSTTL"]),
        (None, ["--on-conflict", "skip"], [b"ABSTTL"]),
        ({b"REPLACE"}, [], [b"REPLACE"]),
    ],
)
def test_payloads_are_proven_by_the_command_of_the_copy(
    server: StartServer, options: set[bytes] | None, flags: list[str], expected: list[bytes]
) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "value")
    proofs: list[list[bytes]] = []

    def note(command: list[bytes]) -> None:
        if command[0] == b"RESTORE" and int(command[2]) > 1:  # not one that must be refused
            proofs.append(command)

    with Impostor(target.port, options, before=note) as relay:
        told = check(source.uri, relay.uri, *flags)

    assert "string" in told["ok payloads"][0]
    [proof] = proofs
    assert proof[4:] == expected
    now = int(target.do("TIME")[0]) * 1000
    assert abs(int(proof[2]) - 10_000 - (now if b"ABSTTL" in proof else 0)) < 60_000
    assert keys_of(target) == set()


# What is refused in the middle


def changing(source: Server, *rules: str, after: int = 100) -> Callable[[list[bytes]], None]:
    """Sets these ACL rules of the user once so many keys were asked for."""
    name = b"MEMORY" if "-memory" in rules else b"DUMP"
    asked = [0]

    def count(command: list[bytes]) -> None:
        asked[0] += command[0] == name
        if asked[0] == after:
            source.do("ACL", "SETUSER", "mover", *rules)

    return count


def expiring_keys(source: Server | Cluster, number: int) -> None:
    with source.client() as client:
        for n in range(number):
            client.set(f"k:{n}", n, px=3_600_000 + n if n % 2 else None)


@pytest.mark.parametrize(
    ("rules", "told", "tolerance"),
    [
        (["-pexpiretime"], ["refuses PEXPIRETIME for some keys"], 2),
        (
            ["-pexpiretime", "-time"],
            ["refuses PEXPIRETIME for some keys", "neither PEXPIRETIME nor TIME"],
            1000,
        ),
        (["-memory"], ["refuses MEMORY USAGE: sizes are estimated"], 0),
        (["-memory", "-strlen"], ["refuses MEMORY USAGE:", "refuses MEMORY USAGE and TYPE"], 0),
        (["-multi"], ["refuses MULTI"], 0),
    ],
)
def test_what_is_refused_in_the_middle_is_done_without(
    server: StartServer, rules: list[str], told: list[str], tolerance: int
) -> None:
    source, target = server("7.0"), server("7.0")
    expiring_keys(source, 600)
    keeper(source, "~*", "+@all")

    with Impostor(source.port, before=changing(source, *rules)) as relay:
        user = f"redis://mover:pw@127.0.0.1:{relay.port}"
        done = copy(user, target, "--batch-keys", "50", "--workers", "1")

    assert done.counts["copied"] == 600
    assert compare(source, target, ttl_tolerance_ms=tolerance) == []
    for words in told:
        assert sum(words in warning for warning in done.summary["warnings"]) == 1, done.warnings


def test_a_comparison_goes_on_where_expiries_are_refused_in_the_middle(
    server: StartServer,
) -> None:
    source, target = server("7.0"), server("7.0")
    expiring_keys(source, 600)
    copy(source, target)
    keeper(source, "~*", "+@all")

    with Impostor(source.port, before=changing(source, "-pexpiretime")) as relay:
        done = verify(f"redis://mover:pw@127.0.0.1:{relay.port}", target, "--batch-keys", "50")

    assert done.counts["equal"] == 600
    assert "refuses PEXPIRETIME for some keys" in done.warnings


def test_a_node_of_a_cluster_that_refuses_more_than_the_others(
    cluster: StartCluster, server: StartServer
) -> None:
    source, target = cluster("7.0"), server("7.0")
    expiring_keys(source, 300)
    for node in source.primaries()[1:]:
        node.do("ACL", "SETUSER", "default", "-pexpiretime", "-memory")

    done = copy(source, target)

    for node in source.primaries():
        node.do("ACL", "SETUSER", "default", "+@all")  # for the oracle
    assert done.counts["copied"] == 300
    assert compare(source, target, ttl_tolerance_ms=2) == []
    assert "refuses PEXPIRETIME for some keys" in done.warnings


def test_a_selector_that_tells_expiries_of_some_keys_only(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    expiring_keys(source, 300)
    source.do("SET", "other", 1, "PX", 3_600_000)
    refused = ("-pexpiretime", "-memory")
    user = keeper(source, "~*", "+@all", *refused, "(~k:* +pexpiretime +memory)")

    done = copy(user, target, "--on-conflict", "replace")

    assert done.counts["copied"] == 301
    assert compare(source, target, ttl_tolerance_ms=2) == []


def test_a_key_whose_expiry_is_refused_in_every_way_has_failed(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    expiring_keys(source, 300)
    source.do("SET", "other", 1, "PX", 3_600_000)
    user = keeper(source, "~*", "+@all", "-pexpiretime", "-pttl", "(~k:* +pexpiretime +pttl)")

    done = copy(user, target, "--on-conflict", "replace", code=3)

    assert done.counts["copied"] == 300 and done.counts["failed"] == 1
    assert b"other" not in keys_of(target)


def test_groups_are_proven_by_what_is_read_in_them(server: StartServer) -> None:
    """Also where the only keys in scope may not be read, which would abort any group."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "other", 1)
    groups: list[list[bytes]] = []
    user = keeper(source, "~app:*", "+@all")

    with Impostor(source.port, before=groups.append) as relay:
        done = copy(user.replace(str(source.port), str(relay.port)), target, code=3)

    names = [command[0] for command in groups]
    first = names.index(b"MULTI")
    assert names[first : first + 4] == [b"MULTI", b"DUMP", b"PEXPIRETIME", b"EXEC"]
    assert "refuses MULTI" not in done.warnings


# What stays behind


def test_what_stays_behind_is_told_by_check_and_copy_in_the_same_words(
    server: StartServer,
) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", 1)
    library = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
    source.do("FUNCTION", "LOAD", library)
    source.do("SCRIPT", "LOAD", "return 1")
    source.do("ACL", "SETUSER", "app")
    words = [
        "1 function library (--functions copies them)",
        "1 cached script",
        "1 ACL user",
        "the server's configuration",
    ]

    [told] = check(source.uri, target.uri)["info left behind"]
    done = copy(source, target)

    assert told == f"{', '.join(words)} on the source"
    assert done.summary["left_behind"] == words


def test_all_primaries_of_a_cluster_are_asked(
    cluster: StartCluster, server: StartServer
) -> None:
    source, target = cluster("7.0"), server("7.0")
    first, second, third = source.primaries()
    first.do("ACL", "SETUSER", "both")
    second.do("ACL", "SETUSER", "both")
    second.do("ACL", "SETUSER", "app")
    first.do("SCRIPT", "LOAD", "return 1")
    for text in ("return 2", "return 3"):
        third.do("SCRIPT", "LOAD", text)

    [told] = check(source.uri, target.uri)["info left behind"]

    assert "2 cached scripts" in told and "2 ACL users" in told


def test_what_may_not_be_asked_for_is_not_known(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", 1)
    user = keeper(source, "~*", "+@all", "-acl", "-function", "-info")

    [told] = check(user, target.uri)["info left behind"]

    for command in ("ACL USERS", "FUNCTION LIST", "INFO memory"):
        assert f"(not known: {command} is refused)" in told
    assert "search" not in told


def test_search_indexes_stay_behind(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", 1)
    with Impostor(source.port, indexes=(b"one", b"two")) as relay:
        [told] = check(relay.uri, target.uri)["info left behind"]
    assert "2 search indexes" in told
