"""What both sides let a copy use: users with rights to some keys only, targets of old versions, and
what a copy of keys leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from rumpx.copy.abilities import SCANS, readable_key
from rumpx.job import Scope, parse_endpoint
from rumpx.servers.dial import Dialer
from rumpx.servers.replies import key_refused, refused
from support.copying import copy, verify
from support.data import compare
from support.old_target import OldTarget
from support.raw import Raw, pack
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]


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


@pytest.mark.parametrize("version", ["6.2", "7.0", "8.1", "8.2", "9.1"])
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
def old(server: StartServer) -> Iterator[tuple[Server, OldTarget]]:
    target = server("7.0")
    with OldTarget(target.port, {b"REPLACE"}) as relay:
        yield target, relay


def test_a_target_without_absttl_gets_times_left(
    server: StartServer, old: tuple[Server, OldTarget]
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


def test_a_target_without_replace_is_refused(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", 1)
    with OldTarget(target.port, set()) as relay:
        done = rumpx("--from", source.uri, "--to", relay.uri, "--progress", "none")
        assert done.returncode == 7 and "does not know RESTORE … REPLACE" in done.stderr
        copy(source, relay.uri, "--on-conflict", "skip")
    assert target.do("GET", "k") == b"1"


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
    with OldTarget(source.port, None, indexes=(b"one", b"two")) as relay:
        [told] = check(relay.uri, target.uri)["info left behind"]
    assert "2 search indexes" in told
