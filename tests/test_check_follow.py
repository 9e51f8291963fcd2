"""`rumpx check --follow`: the feed, the rights beyond a copy's, and all that a follow refuses."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from support.following import Following
from support.run import rumpx
from support.servers import ALL, Cluster, Server
from test_check import (
    SOURCE,
    TARGET,
    USAGE,
    VALUE,
    check,
    refused_alike,
    with_keys,
    with_user,
)

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

# All that reads a source, as `rumpx help services` lists it, but for the feed.
LEAST = "~*", "resetchannels", "+scan", "+dump", "+pttl", "+exists", "+select", "+info", "+time"


@pytest.fixture
def source(server: StartServer) -> Server:
    return with_keys(server("8.2"))


@pytest.fixture
def target(server: StartServer) -> Server:
    return server("8.2")


@pytest.mark.parametrize("version", ALL)
def test_all_is_well(server: StartServer, version: str) -> None:
    source, target = with_keys(server(version)), server(version)
    changes = target.info("persistence")["rdb_changes_since_last_save"]

    checked = check(source.uri, target.uri, "--follow", "--read-only")

    assert checked.failed == {}
    [feed] = checked.told("ok")["feed"]
    assert "reported by CLIENT TRACKING" in feed
    reading, writing = (" ".join(checked.told("ok")[side]) for side in ("reading", "writing"))
    for name in ("EXISTS", "HELLO", "CLIENT TRACKING", "CLIENT TRACKINGINFO", "PING", "SUBSCRIBE"):
        assert name in reading
    for name in ("SCAN", "DUMP", "PTTL", "EXISTS", "UNLINK"):
        assert name in writing
    for told in (reading, writing):
        assert "all commands that compare values by their types" in told
    assert checked.document["plan"]["on_conflict"] == "replace"
    assert target.info("keyspace") == {}
    assert target.info("persistence")["rdb_changes_since_last_save"] == changes
    assert b":feed:" not in source.do("CLIENT", "LIST")


def test_a_copy_is_told_nothing_of_follows(source: Server, target: Server) -> None:
    checked = check(source.uri, target.uri)

    subjects = {line["subject"] for line in checked.document["lines"]}
    assert "feed" not in subjects
    assert "CLIENT TRACKING" not in str(checked)


# The feed


def test_without_a_feed_the_rule_for_one_is_told(source: Server, target: Server) -> None:
    """And with that rule the feed is there."""
    user = with_user(source, *LEAST)

    checked = check(user, target.uri, "--follow")

    [feed] = checked.told("info")["feed"]
    assert "passes compare both sides" in feed
    [why] = checked.warned["feed"]
    assert "it answers CLIENT SETNAME with: NOPERM" in why and "&rumpx:*" in why
    told = " ".join(checked.warned["reading"])
    found = re.search(r"ACL SETUSER copier (\+client\|setname .*?) \(", told)
    assert found, told
    source.do("ACL", "SETUSER", "copier", *found[1].split())
    [feed] = check(user, target.uri, "--follow").told("ok")["feed"]
    assert "CLIENT TRACKING" in feed


def test_the_rule_of_the_warning_is_enough(source: Server, target: Server) -> None:
    user = with_user(source, *LEAST)
    [why] = check(user, target.uri, "--follow").warned["feed"]
    found = re.search(r"ACL SETUSER name (\S.*)\. *$", why)
    assert found
    source.do("ACL", "SETUSER", "copier", *found[1].split())

    with Following(user, target) as follow:
        follow.in_step()
        assert follow.ask()["feed"] == "tracking"
        follow.stop()


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("-client|tracking", "+client|tracking"),
        ("-subscribe", "+subscribe &rumpx:*"),
        ("resetchannels", "+subscribe &rumpx:*"),
    ],
)
def test_tracking_that_was_asked_for_is_refused_alike(
    source: Server, target: Server, rule: str, told: str
) -> None:
    user = with_user(source, "~*", "+@all", "&*", rule)

    checked = refused_alike(SOURCE, user, target.uri, "--follow", "--feed", "tracking")

    [line] = checked.failed["reading"]
    assert f"ACL SETUSER copier {told}" in line


def test_notifications(server: StartServer, target: Server) -> None:
    source = with_keys(server("7.0"))  # Redis 8 has a module, of whose keys they may not tell
    source.do("CONFIG", "SET", "notify-keyspace-events", "KA")
    user = with_user(source, "~*", "+@all", "&*", "-client|tracking")

    [feed] = check(user, target.uri, "--follow").told("info")["feed"]
    assert "keyspace notifications" in feed
    [feed] = check(source.uri, target.uri, "--follow", "--feed", "notifications").told("ok")["feed"]
    assert "keyspace notifications" in feed
    source.do("CONFIG", "SET", "notify-keyspace-events", "Kg")
    flags = ("--follow", "--feed", "notifications")
    [why] = refused_alike(SOURCE, source.uri, target.uri, *flags).failed["feed"]
    assert "CONFIG SET notify-keyspace-events KA" in why


def test_passes_that_were_asked_for_need_no_feed(source: Server, target: Server) -> None:
    user = with_user(source, "~*", "+@all", "-client|tracking", "-subscribe")

    checked = check(user, target.uri, "--follow", "--feed", "passes")

    [feed] = checked.told("ok")["feed"]
    assert "passes compare both sides" in feed
    assert "tracking" not in str(checked.warned)


# Rights


def test_a_source_that_may_not_be_asked_for_keys(source: Server, target: Server) -> None:
    user = with_user(source, "~*", "+@all", "&*", "-exists")

    checked = refused_alike(SOURCE, user, target.uri, "--follow")

    [told] = checked.failed["reading"]
    assert "may not call EXISTS" in told and "ACL SETUSER copier +exists" in told


@pytest.mark.parametrize("command", ["scan", "dump", "pttl", "exists", "unlink"])
def test_a_target_that_may_not_be_compared_or_deleted_from(
    source: Server, target: Server, command: str
) -> None:
    user = with_user(target, "~*", "+@all", f"-{command}")
    flags = ("--stream-from", "off")  # values in pieces need some of them, too

    checked = refused_alike(TARGET, source.uri, user, "--follow", *flags)

    [told] = checked.failed["writing"]
    assert f"ACL SETUSER copier +{command}" in told
    assert target.info("keyspace") == {}


@pytest.mark.parametrize("side", ["source", "target"])
def test_commands_that_compare_by_type_are_wanted_only(
    source: Server, target: Server, side: str
) -> None:
    users = {"source": source.uri, "target": target.uri}
    server = source if side == "source" else target
    users[side] = with_user(server, "~*", "+@all", "&*", "-hgetall", "-smembers")

    checked = check(users["source"], users["target"], "--follow")

    told = " ".join(checked.warned["reading" if side == "source" else "writing"])
    assert "may not call SMEMBERS, HGETALL; the follow works without" in told
    assert "ACL SETUSER copier +smembers +hgetall" in told


# What a follow refuses


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cluster(cluster: StartCluster, server: StartServer, side: str) -> None:
    nodes, plain = cluster("7.0"), server("7.0")
    ends = (nodes.uri, plain.uri) if side == "source" else (plain.uri, nodes.uri)

    checked = refused_alike(USAGE, *ends, "--follow")

    assert f"The {side} is a cluster" in checked.failed[side][0]


def test_a_follow_in_the_opposite_direction(source: Server, target: Server) -> None:
    with Following(source, target) as follow:
        follow.in_step()
        flags = ("--follow", "--delete-extra")

        checked = check(target.uri, source.uri, *flags, code=USAGE)

        assert "opposite direction" in checked.failed["direction"][0]
        follow.stop()


def test_a_target_that_holds_keys(source: Server, target: Server) -> None:
    target.do("SET", "already", VALUE)

    checked = refused_alike(TARGET, source.uri, target.uri, "--follow")
    settled = check(source.uri, target.uri, "--follow", "--delete-extra")

    assert "Give --delete-extra" in checked.failed["target keys"][0]
    told = " ".join(settled.told("ok")["target keys"])
    assert "Of 1 key of the target those in scope that the source lacks will be deleted" in told
    assert target.do("GET", "already") == VALUE.encode()


def test_pauses_by_a_timetable(source: Server, target: Server) -> None:
    flags = ("--follow", "--schedule", "08:00,off 20:00,full")

    checked = check(source.uri, target.uri, *flags)

    assert "changed keys are only noted" in checked.warned["timetable"][0]


def test_a_dry_run(source: Server, target: Server) -> None:
    source.do("ACL", "SETUSER", "default", "-client|tracking")
    changes = target.info("persistence")["rdb_changes_since_last_save"]

    run = rumpx("--from", source.uri, "--to", target.uri, "--follow", "--dry-run")

    assert run.returncode == 0, run.stderr
    assert "passes compare both sides" in " ".join(run.stdout.split())
    assert "+client|tracking" in run.stdout
    assert target.info("persistence")["rdb_changes_since_last_save"] == changes


def test_sides_that_are_not_there(server: StartServer) -> None:
    """All that can be said of the other side is said."""
    source, target = with_keys(server("7.0")), server("7.0")
    target.stop()

    checked = refused_alike(TARGET, source.uri, target.uri, "--follow")

    assert "CLIENT TRACKING" in checked.told("ok")["feed"][0]
