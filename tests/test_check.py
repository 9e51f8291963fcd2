"""`rumpx check`: every line on a server that is prepared to fail it, and nothing left behind.

Where a copy would be refused, the same copy is begun: it must end with the code that was told.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

import rumpx as package
from rumpx.checker.estimate import Distance, memory_needed, most_keys_a_second, seconds_needed
from rumpx.checker.key_sample import take_sample
from rumpx.checker.payload_trial import LIFETIME
from rumpx.errors import UsageError
from rumpx.model.checkup import Checkup
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job, Scope
from rumpx.model.slots import SLOTS, key_slot
from rumpx.model.tuning import tune
from rumpx.preflight import look
from rumpx.preflight import steps as prepare
from rumpx.report.checkup import Report
from rumpx.servers.info import ServerInfo, parse_info
from rumpx.servers.resp import Connection
from support import data
from support.proxy import Proxy
from support.raw import Raw
from support.run import rumpx, rumpx_pty
from support.servers import ALL, Cluster, Server
from support.services import MEMORYSTORE, OCI_CACHE, Managed, Service
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartManaged = Callable[[Service], Managed]
StartProxy = Callable[..., Proxy]

SECRET = "pl4nted-Secret"
VALUE = "pl4nted-value"
USAGE, SOME_KEYS, TEMPORARY, SOURCE, TARGET = 2, 3, 5, 6, 7


class Checked:
    """What `rumpx check --json` found, and how it ended."""

    def __init__(self, source: str, target: str, *flags: str, **options: Any) -> None:
        words = () if "--dry-run" in flags else ("check", "--json")
        run = rumpx(*words, "--from", source, "--to", target, *flags, **options)
        for output in (run.stdout, run.stderr):
            assert SECRET not in output and VALUE not in output
            assert "Traceback" not in output, output
        self.code = run.returncode
        self.stderr = run.stderr
        self.document: dict[str, Any] = json.loads(run.stdout)
        assert self.document["version"] == 1
        assert self.document["exit_code"] == self.code

    def __str__(self) -> str:
        return json.dumps(self.document["lines"], indent=1)

    def told(self, status: str) -> dict[str, list[str]]:
        """What was said with a status, by subject: text and advice."""
        found: dict[str, list[str]] = {}
        for line in self.document["lines"]:
            if line["status"] == status:
                found.setdefault(line["subject"], []).append(f"{line['text']} {line['advice']}")
        return found

    @property
    def failed(self) -> dict[str, list[str]]:
        return self.told("fail")

    @property
    def warned(self) -> dict[str, list[str]]:
        return self.told("warn")


def check(source: str, target: str, *flags: str, code: int = 0) -> Checked:
    """A check that must end with this code, and leave the target as it was."""
    checked = Checked(source, target, *flags)
    assert checked.code == code, checked
    return checked


def refused_alike(code: int, source: str, target: str, *flags: str) -> Checked:
    """A check that must end with this code, as the copy then does too."""
    checked = check(source, target, *flags, code=code)
    run = rumpx("--from", source, "--to", target, "--progress", "none", *flags)
    assert run.returncode == code, run.stderr
    return checked


def with_keys(server: Server, count: int = 100) -> Server:
    data.fill_mixed(server, count)
    return server


def with_user(server: Server, *rules: str) -> str:
    """The URI of a new user with these ACL rules."""
    server.do("ACL", "SETUSER", "copier", "on", f">{SECRET}", *rules)
    return f"redis://copier:{SECRET}@127.0.0.1:{server.port}"


@pytest.fixture
def source(server: StartServer) -> Server:
    return with_keys(server("7.0"))


@pytest.fixture
def target(server: StartServer) -> Server:
    return server("9.1")


# Nothing is wrong


@pytest.mark.smoke
@pytest.mark.parametrize("version", ALL)
def test_all_is_well(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    keys = data.every_type(source.client(), version)
    source.do("SET", "far", VALUE, db=3)

    checked = check(source.uri, target.uri)

    assert checked.failed == {}
    assert "3: 1 key" in checked.told("ok")["databases"][0]
    [proof] = checked.told("ok")["payloads"]
    for kind in ("string (int)", "list", "set (intset)", "zset", "hash", "stream"):
        assert kind in proof
    assert "payloads" not in checked.told("info"), "no type was left out"
    assert target.info("keyspace") == {}, "something was left behind"
    sample = checked.document["sample"]
    assert (sample["keys"], sample["spread"]) == (len(keys) + 1, "all keys")
    assert checked.document["plan"]["on_conflict"] == "replace"
    for side in ("source", "target"):
        found = checked.document[side]
        assert 20 <= found["latency"]["pings"] <= 200
        idle = found["latency"]
        assert 0 < idle["median"] <= idle["p75"] <= idle["p99"] <= idle["worst"]
        assert version in found["version"] and len(found["servers"]) == 1


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_clusters(cluster: StartCluster, version: str) -> None:
    source, target = cluster(version), cluster(version)
    data.fill_mixed(source, 3000)

    checked = check(source.uri, target.uri, "--sample", "600")

    assert checked.failed == {}
    assert len(checked.told("ok")["slots"]) == 2
    assert "cluster of 3 primaries" in checked.told("ok")["source"][0]
    assert "restored" in checked.told("ok")["payloads"][0]
    sample = checked.document["sample"]
    assert sample["spread"] == "spread" and 590 <= sample["keys"] <= 600
    assert checked.document["estimate"]["keys"] == 3000
    servers = checked.document["source"]["servers"]
    assert sum(server["slots"] for server in servers) == 16384
    assert sum(server["keys"] for server in servers) == 3000
    assert all(node.do("DBSIZE") == 0 for node in target.nodes)


def test_an_empty_source(server: StartServer, target: Server) -> None:
    checked = check(server("7.0").uri, target.uri)

    assert "holds no keys" in checked.told("ok")["databases"][0]
    assert "no key was found" in checked.told("info")["payloads"][0]
    assert checked.document["sample"]["keys"] == 0


def test_the_api(source: Server, target: Server) -> None:
    checkup = package.check(source.uri, target.uri, sample=50, read_only=True)

    assert isinstance(checkup, package.Checkup)
    assert checkup.exit_code == 0
    assert checkup.sample is not None and 45 <= checkup.sample.keys <= 50
    assert checkup.source is not None and checkup.source.uri == source.uri
    with pytest.raises(UsageError, match="--sample is 0"):
        package.check(source.uri, target.uri, sample=0)


def test_none_is_off_where_an_option_can_be_off(source: Server, target: Server) -> None:
    def told(checkup: Checkup) -> str:
        return " ".join(line.text for line in checkup.lines)

    usual = package.check(source.uri, target.uri, read_only=True, limits=None)
    whole = package.check(source.uri, target.uri, read_only=True, stream_from=None)

    assert "commands for values in pieces" in told(usual)
    assert "in pieces" not in told(whole)


# Who does not answer


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_side_that_is_not_there(source: Server, target: Server, side: str) -> None:
    ends = [source.uri, target.uri]
    (source if side == "source" else target).stop()
    code = SOURCE if side == "source" else TARGET

    checked = refused_alike(code, *ends)

    assert "cannot be reached" in checked.failed[side][0]
    other = "target" if side == "source" else "source"
    assert checked.document[side] is None
    assert checked.document[other]["version"], "the other side is looked at all the same"
    assert checked.told("ok")["reading" if other == "source" else "writing"]
    assert bool(checked.document["sample"]) == (other == "source")


def test_both_sides_are_told_of_and_the_first_decides(source: Server, target: Server) -> None:
    source.stop()
    target.stop()

    checked = refused_alike(SOURCE, source.uri, target.uri)

    assert checked.failed.keys() == {"source", "target"}


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_wrong_password(server: StartServer, side: str) -> None:
    ends = {"source": with_keys(server("7.0")).uri, "target": server("7.0").uri}
    guarded = server("7.0", requirepass="another")
    ends[side] = f"redis://:{SECRET}@127.0.0.1:{guarded.port}"

    checked = refused_alike(SOURCE if side == "source" else TARGET, *ends.values())

    assert "rejected the connection" in checked.failed[side][0]


# Permissions


@pytest.mark.parametrize(
    ("version", "command"),
    [("6.2", "dump"), ("9.1", "dump"), *(("7.0", c) for c in ("scan", "dump", "pttl", "select"))],
)
def test_a_user_who_may_not_read(
    server: StartServer, target: Server, version: str, command: str
) -> None:
    source = with_keys(server(version))
    source.do("SET", "far", VALUE, db=2)

    checked = refused_alike(SOURCE, with_user(source, "~*", "+@all", f"-{command}"), target.uri)

    told = " ".join(checked.failed["reading"])
    assert f"user copier may not call {command.upper()}" in told
    assert f"ACL SETUSER copier +{command}" in told
    assert len(checked.failed["reading"]) == 1


@pytest.mark.parametrize(
    ("version", "command"),
    [("6.2", "restore"), ("7.0", "restore"), ("9.1", "restore"), ("7.0", "select")],
)
def test_a_user_who_may_not_write(server: StartServer, version: str, command: str) -> None:
    source, target = with_keys(server("6.2")), server(version)
    source.do("SET", "far", VALUE, db=2)

    checked = refused_alike(TARGET, source.uri, with_user(target, "~*", "+@all", f"-{command}"))

    assert f"ACL SETUSER copier +{command}" in " ".join(checked.failed["writing"])


@pytest.mark.parametrize("dry_run", ["+acl|dryrun", "-acl|dryrun"])
def test_several_refusals_are_told_at_once(
    server: StartServer, target: Server, dry_run: str
) -> None:
    """By trying, which needs no right to ask for one's rights."""
    source = with_keys(server("7.0"))
    user = with_user(source, "~*", "+@all", "-scan", "-dump", "-pttl", "-acl", dry_run)

    checked = refused_alike(SOURCE, user, target.uri)

    told = " ".join(checked.failed["reading"])
    for command in ("+scan", "+dump", "+pttl"):
        assert f"ACL SETUSER copier {command}" in told


def test_what_can_be_done_without_is_a_warning(source: Server, target: Server) -> None:
    reading = with_user(source, "~*", "+@all", "-time", "-memory|usage", "-multi")
    writing = with_user(target, "~*", "+@all", "-info")

    checked = check(reading, writing)

    [told, pieces] = [text for text in checked.warned["reading"] if "ACL SETUSER" in text]
    assert "ACL SETUSER copier +time +memory|usage +multi" in told
    assert "may not call TIME, MULTI:" in pieces and "not copied in pieces" in pieces
    assert "ACL SETUSER copier +info" in " ".join(checked.warned["writing"])
    assert checked.document["sample"]["mean_bytes"] is None


@pytest.mark.parametrize(
    ("version", "rule", "flags", "told"),
    [
        ("6.2", "-renamenx", (), True),
        ("7.0", "-renamenx", (), True),
        ("7.0", "+renamenx", (), False),
        ("7.0", "-renamenx", ("--stream-from", "off"), False),
        ("7.0", "-renamenx", ("--no-size-check",), False),
        ("7.0", "-renamenx", ("--on-conflict", "skip"), False),
        ("9.1", "-renamenx", (), False),  # frees old values in the background
    ],
)
def test_a_user_who_may_not_move_an_old_value_back(
    server: StartServer, version: str, rule: str, flags: tuple[str, ...], told: bool
) -> None:
    """A large old value that is replaced by a small one is then freed at once."""
    source, target = with_keys(server("6.2")), server(version)
    if not flags:
        flags = ("--on-conflict", "replace")
    user = with_user(target, "~*", "+@all", rule)
    checked = check(source.uri, user, *flags)

    words = " ".join(checked.warned.get("writing", []))
    named = "may not call RENAMENX" in words and "ACL SETUSER copier +renamenx" in words
    # Under a policy without REPLACE it gives values that came in pieces their names.
    skips = "skip" in flags
    assert named is (told or skips), checked
    assert ("the copy works without" in words) is told


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_keys_that_may_not_be_read(server: StartServer, target: Server, version: str) -> None:
    source = server(version)
    for number in range(20):
        source.do("SET", f"open:{number}", VALUE)
    source.do("SET", "closed:1", VALUE)

    checked = refused_alike(SOME_KEYS, with_user(source, "~open:*", "+@all"), target.uri)

    [told] = checked.failed["reading"]
    assert "may not access 1 of 21 sampled keys, such as closed:1" in told and "~PATTERN" in told
    assert checked.document["sample"]["denied"] == 1


def test_keys_that_may_not_be_written(source: Server, target: Server) -> None:
    source.do("SET", "open:1", VALUE)

    checked = refused_alike(SOME_KEYS, source.uri, with_user(target, "~open:*", "+@all"))

    assert "of 100 sampled keys, such as k1:" in checked.failed["writing"][0]
    assert "may not write keys named rumpx:check:*" in checked.warned["payloads"][0]


def test_every_right_that_a_copy_needs_can_be_tried(server: StartServer) -> None:
    """A call that a server finds malformed would prove nothing."""
    checked = check(server("9.1").uri, server("9.1").uri, "--functions")

    told = " ".join(checked.told("ok")["reading"] + checked.told("ok")["writing"])
    for name in ("FUNCTION LIST", "FUNCTION LOAD", "CLIENT NO-TOUCH", "PEXPIRETIME", "EXEC"):
        assert name in told


@pytest.mark.parametrize("service", [MEMORYSTORE, OCI_CACHE], ids=lambda service: service.name)
def test_managed_services(managed: StartManaged, server: StartServer, service: Service) -> None:
    source, target = managed(service), managed(service)
    data.fill_mixed(source, 300)

    checked = check(source.uri, target.uri)

    assert checked.failed == {}
    assert "restored" in checked.told("ok")["payloads"][0]


# What the two sides are


def test_the_same_server(source: Server) -> None:
    checked = refused_alike(TARGET, source.uri, source.uri, "--on-conflict", "replace")

    assert "are the same" in checked.failed["identity"][0]
    assert source.do("DBSIZE") == 100


def test_a_replica_as_target(source: Server, server: StartServer) -> None:
    primary, replica = server("7.0"), server("7.0")
    replica.replicate(primary)

    checked = refused_alike(TARGET, source.uri, replica.uri)

    assert "is a replica" in checked.failed["role"][0]
    assert "read-only" in checked.failed["writing"][0]


@pytest.mark.parametrize("side", ["source", "target"])
def test_slots_that_nobody_serves(
    cluster: StartCluster, server: StartServer, side: str
) -> None:
    holed, plain = cluster("7.0", primaries=1), with_keys(server("7.0"), 10)
    holed.nodes[0].do("CLUSTER", "DELSLOTS", 7, 8)
    ends = (holed.uri, plain.uri) if side == "source" else (plain.uri, holed.uri)

    checked = refused_alike(
        SOURCE if side == "source" else TARGET, *ends, "--on-conflict", "replace"
    )

    assert f"In the {side} cluster no primary serves 2 slots" in checked.failed["slots"][0]


def test_a_missing_database(source: Server, server: StartServer) -> None:
    source.do("SET", "far", VALUE, db=9)
    small = server("8.1", databases=4)

    checked = refused_alike(TARGET, source.uri, small.uri)

    assert "database 9" in " ".join(checked.failed["databases"])


def test_databases_that_would_collide(source: Server, target: Server) -> None:
    source.do("SET", "far", VALUE, db=9)

    checked = refused_alike(USAGE, source.uri, target.uri, "--map-db", "9:0")

    assert "Databases 0 and 9" in checked.failed["databases"][0]
    assert checked.document["sample"]["keys"] == 101


def test_a_target_that_holds_keys(source: Server, target: Server) -> None:
    target.do("SET", "already", VALUE)

    checked = refused_alike(TARGET, source.uri, target.uri)
    settled = check(source.uri, target.uri, "--on-conflict", "skip")

    assert "already holds 1 keys" in " ".join(checked.failed["target keys"])
    assert "skip" in " ".join(settled.told("ok")["target keys"])
    assert settled.document["plan"]["on_conflict"] == "skip"
    assert target.do("GET", "already") == VALUE.encode()
    assert target.do("DBSIZE") == 1


def test_clocks_that_differ(server: StartServer) -> None:
    source, target = with_keys(server("8.1")), server("8.1", clock_ahead=120)

    checked = refused_alike(TARGET, source.uri, target.uri)
    settled = check(source.uri, target.uri, "--clock", "absolute")

    assert "+120.0 s off" in checked.failed["clocks"][0]
    assert "+120.0 s off" in settled.warned["clocks"][0]


def test_modules_that_the_target_lacks(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server here has modules with types, so the source's INFO is given some lines more."""
    lines = "module:name=ReJSON,ver=20803,api=1,filters=0\r\nmodule:name=bf,ver=1,api=1\r\n"

    def read_info(connection: Connection) -> ServerInfo:
        reply = connection.call("INFO")
        assert isinstance(reply, bytes)
        more = lines if connection.name.endswith(f":{source.port}") else "module:name=bf,ver=2\r\n"
        return parse_info(reply.decode() + more)

    monkeypatch.setattr(look, "read_info", read_info)

    checkup = package.check(source.uri, target.uri)

    assert checkup.exit_code == 0
    [warning] = [line.text for line in checkup.lines if line.status == "warn"]
    assert "modules that the target lacks (ReJSON)" in warning
    assert checkup.source is not None and checkup.source.modules == ("ReJSON", "bf")


def test_modules_in_info() -> None:
    with_modules = parse_info(
        "redis_version:7.4.0\r\n# Modules\r\n"
        "module:name=ReJSON,ver=20803,api=1,filters=0\r\nmodule:name=lua,ver=1,api=1\r\n"
        "module:name=bf,ver=20803,api=1,filters=0,usedby=[],using=[],options=[]\r\n"
    )

    assert with_modules.modules == ("ReJSON", "bf")


# Memory


@pytest.fixture
def large(server: StartServer) -> Server:
    """A source with 20,000 keys of some 40 MB."""
    source = server("7.0")
    with source.raw() as raw:
        raw.many([("SET", f"key:{n}", "x" * 2000) for n in range(20_000)])
    return source


def test_a_source_that_is_about_to_evict(large: Server, target: Server) -> None:
    used = int(large.info("memory")["used_memory"])
    large.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    large.do("CONFIG", "SET", "maxmemory", int(used / 0.94))

    checked = refused_alike(SOURCE, large.uri, target.uri)

    assert "allkeys-lru" in checked.failed["eviction"][0]
    assert large.do("DBSIZE") == 20_000


def test_a_target_that_is_too_small(large: Server, server: StartServer) -> None:
    small = server("7.0", maxmemory="20mb")

    checked = refused_alike(TEMPORARY, large.uri, small.uri)

    [told] = checked.failed["memory"]
    assert "run out of memory" in told and "Raise its maxmemory" in told
    needed = checked.document["estimate"]["bytes"]
    assert 40e6 < needed < 60e6


def test_a_target_that_is_large_enough_or_does_not_say(
    large: Server, server: StartServer
) -> None:
    enough, untold = server("7.0", maxmemory="200mb"), server("7.0")

    limited = check(large.uri, enough.uri)
    hidden = check(large.uri, with_user(untold, "~*", "+@all", "-info"))

    assert "and has it" in limited.told("ok")["memory"][0]
    assert "does not show its maxmemory" in hidden.told("info")["memory"][0]
    assert "has no maxmemory" in check(large.uri, server("7.0").uri).told("info")["memory"][0]


def test_a_target_that_is_too_small_and_evicts(large: Server, server: StartServer) -> None:
    small = server("7.0", maxmemory="20mb", maxmemory_policy="allkeys-lru")

    checked = refused_alike(TEMPORARY, large.uri, small.uri)

    assert "would evict keys (allkeys-lru)" in checked.failed["memory"][0]
    assert "The target evicts keys" in checked.warned["eviction"][0]


def test_one_node_of_a_cluster_that_is_too_small(
    large: Server, cluster: StartCluster
) -> None:
    target = cluster("7.0", primaries=2, maxmemory="100mb")
    target.nodes[1].do("CONFIG", "SET", "maxmemory", 10 * 2**20)

    checked = check(large.uri, target.uri, code=TEMPORARY)

    assert f"127.0.0.1:{target.nodes[1].port}" in checked.failed["memory"][0]


def test_only_what_is_in_scope_must_fit(large: Server, server: StartServer) -> None:
    small = server("7.0", maxmemory="20mb")

    checked = check(large.uri, small.uri, "--match", "key:1*0")

    assert checked.failed == {}
    estimate = checked.document["estimate"]
    # Of 20,000 names 1,112 begin with 1 and end with 0.
    assert 600 < estimate["keys"] < 1700


def test_a_target_that_is_full(source: Server, server: StartServer) -> None:
    full = server("7.0")
    full.do("CONFIG", "SET", "maxmemory", "1")

    checked = refused_alike(TEMPORARY, source.uri, full.uri)

    assert "out of memory" in " ".join(checked.failed["writing"])


def test_a_copy_says_at_once_what_will_hardly_fit(large: Server, server: StartServer) -> None:
    used = int(large.info("memory")["used_memory"])
    small = server("7.0", maxmemory=str(int(used / 1.2)))

    run = rumpx("--from", large.uri, "--to", small.uri, "--progress", "none")

    assert "they may not fit" in run.stderr.splitlines()[0]
    fits = rumpx("--from", large.uri, "--to", server("7.0", maxmemory="100mb").uri)
    assert fits.returncode == 0 and "may not fit" not in fits.stderr


# Payloads


@pytest.mark.parametrize("versions", [("9.1", "7.0"), ("7.0", "6.2"), ("9.1", "8.1")])
def test_payloads_of_another_version_are_proven_as_they_would_be_sent(
    server: StartServer, versions: tuple[str, str]
) -> None:
    source, target = with_keys(server(versions[0])), server(versions[1])

    checked = check(source.uri, target.uri)

    assert "stamped with another version: " in checked.told("ok")["payloads"][0]
    assert "The target accepts payloads of versions 6 to" in checked.told("ok")["versions"][0]
    assert target.do("DBSIZE") == 0


def test_hashes_whose_fields_expire_are_refused_alike(server: StartServer) -> None:
    source, target = server("9.1"), server("8.1")
    source.do("HSET", "hash", "field", "value")
    source.do("HPEXPIRE", "hash", 1_000_000, "FIELDS", 1, "field")

    checked = refused_alike(SOME_KEYS, source.uri, target.uri)

    assert "its fields expire" in checked.failed["payloads"][0]
    assert "1 hash whose fields expire" in checked.told("warn")["versions"][0]
    assert target.do("DBSIZE") == 0


def test_types_that_no_payload_proved_are_named(server: StartServer, target: Server) -> None:
    source = server("7.0")
    source.do("SET", "large", "x" * 2**21)
    source.do("SADD", "small", VALUE)

    checked = check(source.uri, target.uri)

    assert "set (hashtable)" in checked.told("ok")["payloads"][0]
    [left] = checked.told("info")["payloads"]
    assert "list, zset, hash, stream (no key in the sample)" in left
    assert "string (no small key in the sample" in left


@pytest.mark.parametrize("rules", [("-unlink",), ("-unlink", "-del")])
def test_a_proof_whose_payloads_may_not_be_deleted(
    source: Server, target: Server, rules: tuple[str, ...]
) -> None:
    checked = check(source.uri, with_user(target, "~*", "+@all", *rules))

    left: list[bytes] = target.do("KEYS", "*")
    assert len(left) == (0 if len(rules) == 1 else checked.told("ok")["payloads"][0].count("("))
    for name in left:
        assert re.fullmatch(rb"rumpx:check:[0-9a-f]{32}", name)
        assert 0 < target.do("PTTL", name) <= LIFETIME
    stays = [text for text in checked.told("info").get("payloads", []) if "expire" in text]
    assert bool(stays) == bool(left)


def test_a_proof_that_is_cut_off_leaves_only_what_expires(
    source: Server, target: Server, proxy: StartProxy
) -> None:
    cut = proxy(target)
    cut.cut_within(b"UNLINK", direction="up")

    # Values in pieces need UNLINK, too, which is tried before.
    checked = check(source.uri, cut.uri, "--stream-from", "off", code=TEMPORARY)

    assert "payloads" in checked.failed
    names = target.do("KEYS", "*")
    assert len(names) == 1
    assert 0 < target.do("PTTL", names[0]) <= LIFETIME


@pytest.mark.parametrize("flags", [("--read-only",), ("--dry-run",)])
def test_nothing_is_written_where_that_is_asked_for(
    source: Server, target: Server, flags: tuple[str, ...]
) -> None:
    with Raw(target.address) as raw:
        raw.do("CONFIG", "RESETSTAT")
        words = () if "--dry-run" in flags else ("check",)
        run = rumpx(*words, "--from", source.uri, "--to", target.uri, *flags)
        stats = raw.info("commandstats")

    assert run.returncode == 0, run.stderr
    assert "Not proven by real payloads" in run.stdout
    # One RESTORE is refused for its time to live on purpose; no other write is tried.
    assert not {"cmdstat_unlink", "cmdstat_del", "cmdstat_set"} & stats.keys()
    assert "failed_calls" in stats["cmdstat_restore"]
    calls = dict(part.split("=") for part in stats["cmdstat_restore"].split(","))
    assert calls["calls"] == calls["failed_calls"]
    assert target.info("keyspace") == {}


# The sample


def test_a_sample_of_a_known_keyspace(server: StartServer, target: Server) -> None:
    source = server("7.0")
    with source.raw() as raw:
        raw.many([("SET", f"user:{n}", VALUE) for n in range(60_000)])
        raw.many([("EXPIRE", f"user:{n}", 7200) for n in range(0, 60_000, 2)])
        raw.many([("HSET", f"cart:{n}", "field", VALUE) for n in range(20_000)])
        raw.many([("SADD", "few:1", "a"), ("LPUSH", "few:2", *["x" * 100] * 50_000)])
    wait_until(
        lambda: int(source.info("memory")["used_memory"]) < 25e6, 20, "the buffers are given back"
    )

    # The large list is in the sample or not: the estimate must not depend on that.
    checked = check(source.uri, target.uri, "--sample", "8000")

    sample = checked.document["sample"]
    assert sample["spread"] == "spread" and 7990 <= sample["keys"] <= 8000
    types = {row["type"]: row["keys"] / sample["keys"] for row in sample["types"]}
    assert types["string"] == pytest.approx(0.75, abs=0.03)
    assert types["hash"] == pytest.approx(0.25, abs=0.03)
    prefixes = {row["prefix"]: row["keys"] / sample["keys"] for row in sample["prefixes"]}
    assert prefixes["user:*"] == pytest.approx(0.75, abs=0.03)
    assert sample["expiring"] / sample["keys"] == pytest.approx(0.375, abs=0.03)
    assert 7100 < sample["shortest"] <= sample["median"] <= sample["longest"] <= 7200
    estimate = checked.document["estimate"]
    assert estimate["keys"] == 80_002
    held = int(source.info("memory")["used_memory_dataset"])
    assert 0.7 * held < estimate["bytes"] < 1.5 * held
    assert 0.2 < estimate["quickest"] < estimate["slowest"] < 60


def test_a_sample_comes_from_all_slots(cluster: StartCluster) -> None:
    """On Valkey 9 a scan goes from slot to slot: its beginning would be the first few."""
    source, target = cluster("9.1", primaries=1), cluster("9.1", primaries=1)
    data.fill_mixed(source, 20_000)
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target"))
    plan = prepare.prepare(job)

    sample = take_sample(plan.source, plan.databases, Scope(), 400)

    quarters = Counter(key_slot(key.name) * 4 // SLOTS for key in sample.keys)
    assert len(sample.keys) == len({key.name for key in sample.keys}) == 400
    assert all(quarters[quarter] > 50 for quarter in range(4)), quarters


def test_all_of_a_small_keyspace_is_seen(server: StartServer, target: Server) -> None:
    source = server("7.0")
    for number in range(1, 8):
        source.do("SET", f"key:{number}", "x" * 1000 * number)
    source.do("EXPIRE", "key:7", 100)

    sample = check(source.uri, target.uri).document["sample"]

    assert (sample["keys"], sample["seen"], sample["spread"]) == (7, 7, "all keys")
    assert [row["key"] for row in sample["largest"]] == [f"key:{n}" for n in (7, 6, 5, 4, 3)]
    assert sample["largest"][0]["bytes"] > 7000
    assert sample["expiring"] == 1 and 90 < sample["longest"] <= 100
    assert sample["types"] == [
        {"type": "string", "keys": 7, "bytes": sample["types"][0]["bytes"], "encodings": {"raw": 7}}
    ]


def test_a_sample_that_cannot_be_spread_says_so(server: StartServer, target: Server) -> None:
    """Where INFO is refused nobody knows how the cursor counts."""
    source = with_keys(server("7.0"), 5000)

    checked = check(with_user(source, "~*", "+@all", "-info"), target.uri, "--sample", "500")

    sample = checked.document["sample"]
    assert (sample["keys"], sample["spread"]) == (500, "beginning")


def test_the_scope_is_sampled(server: StartServer, target: Server) -> None:
    source = server("7.0")
    data.fill_mixed(source, 4000, prefix=b"in")
    data.fill_mixed(source, 4000, prefix=b"out")
    flags = ("--match", "in:*", "--exclude", "*1", "--type", "hash,set")

    sample = check(source.uri, target.uri, *flags, "--sample", "8000").document["sample"]

    assert {row["prefix"] for row in sample["prefixes"]} == {"in:*"}
    assert {row["type"] for row in sample["types"]} == {"hash", "set"}
    wanted = [
        key
        for key in data.keys_of(source)
        if key.startswith(b"in:")
        and not key.endswith(b"1")
        and source.do("TYPE", key) in (b"hash", b"set")
    ]
    assert sample["keys"] == len(wanted) and sample["seen"] == 8000


def test_the_source_is_not_touched_and_never_asked_for_much(
    server: StartServer, target: Server
) -> None:
    source = with_keys(server("9.1"), 5000)
    before = data.fingerprint(source)
    source.do("CONFIG", "RESETSTAT")

    check(source.uri, target.uri)

    stats = source.info("commandstats")
    writes = {"set", "del", "unlink", "restore", "expire", "pexpire", "flushall"}
    assert not {f"cmdstat_{name}" for name in writes} & stats.keys()
    # Reading rights are tried on a key that is not there, and of each kind one payload is read.
    dumps = int(stats["cmdstat_dump"].split(",")[0].removeprefix("calls="))
    assert dumps < 25
    assert data.fingerprint(source) == before


# The report


def drawn(checkup: Checkup, width: int, **options: Any) -> str:
    out = StringIO()
    Console(file=out, width=width, highlight=False, **options).print(Report(checkup))
    return out.getvalue()


@pytest.fixture(scope="module")
def crowded() -> Checkup:
    """Everything that can be long is long."""
    source, target = Server("9.1", requirepass=SECRET), Server("7.0", maxmemory="2mb")
    try:
        data.every_type(source.client(), "9.1")
        data.fill_mixed(source, 3000, prefix=b"a-rather-long-prefix-for-a-key-name")
        target.do("SET", "already", VALUE)
        return package.check(source.uri, target.uri)
    finally:
        source.stop()
        target.stop()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_report_fits_its_terminal(crowded: Checkup, width: int) -> None:
    text = drawn(crowded, width)

    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert SECRET not in text and "\x1b" not in text
    words = " ".join(text.split())
    for word in ("✗", "✓", "exit code 7", "payloads", "sample", "largest seen", "time", "plan"):
        assert word in words, word
    if width >= 80:
        assert "--on-conflict replace" in words


def test_a_terminal_without_unicode(crowded: Checkup) -> None:
    run_env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    run = rumpx("check", "--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:1",
                env=run_env)  # fmt: skip

    assert run.returncode == SOURCE, run.stderr
    assert run.stdout.isascii() and run.stdout.startswith("X A copy would end")


def test_a_report_in_a_terminal(source: Server, target: Server) -> None:
    seen = rumpx_pty("check", "--from", source.uri, "--to", target.uri, cols=60, rows=90)

    assert seen.returncode == 0, seen.text
    assert seen.text.startswith("✓ A copy can start")
    assert "spread" in seen.text or "all of them" in seen.text


def test_a_dry_run_prints_the_plan(server: StartServer, target: Server) -> None:
    source = with_keys(server("7.0"), 50_000)

    run = rumpx("--from", source.uri, "--to", target.uri, "--dry-run", "--workers", "3")

    assert run.returncode == 0, run.stderr
    words = " ".join(run.stdout.split())
    assert "part 0.125 to 0.25 of the table" in words
    assert "3 workers" in words and "8 partitions" in words
    assert target.do("DBSIZE") == 0


def test_a_dry_run_ends_as_the_copy_would(source: Server, target: Server) -> None:
    target.do("SET", "already", VALUE)

    run = rumpx("--from", source.uri, "--to", target.uri, "--dry-run")

    assert run.returncode == TARGET
    assert "--on-conflict" in run.stdout


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--sample", "0"], "--sample is 0"),
        (["--sample", "1%"], "invalid int value"),
        (["--workers", "257"], "--workers is 257"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_a_malformed_flag(flags: list[str], word: str) -> None:
    run = rumpx("check", "--from", "redis://a", "--to", "redis://b", *flags)

    assert run.returncode == USAGE and run.stdout == ""
    assert word in run.stderr and run.stderr.count("\n") == 1


def test_both_sides_must_be_given() -> None:
    assert rumpx("check", "--from", "redis://a").returncode == USAGE


# The arithmetic


def test_time_grows_with_keys_sizes_and_distance() -> None:
    near, far = Distance(0.0001, 0.0001), Distance(0.1, 0.1)

    def needed(keys: int, mean: float, distance: Distance) -> tuple[float, float]:
        tuning = tune(distance.source, distance.target, keys=keys, workers=4, nodes=1)
        return seconds_needed(keys, mean, distance, tuning, workers=4, partitions=8)

    small, many = needed(1_000_000, 100, near), needed(10_000_000, 100, near)
    assert small[0] < small[1]
    # Copies of a million mixed keys took 6 and 7 seconds (benchmarks/README.md).
    assert small[0] < 6 and 7 < small[1] < 60
    assert many[0] > 5 * small[0] and many[1] > 5 * small[1]
    assert needed(1_000_000, 100_000, near)[0] > 50 * small[0]
    assert needed(1_000_000, 100, far) > small
    assert needed(0, 0, near)[1] < 1


def test_one_cursor_from_far_away_is_what_limits() -> None:
    far = Distance(0.1, 0.001)
    tuning = tune(0.1, 0.001, keys=1_000_000, workers=4, nodes=1)

    one = most_keys_a_second(far, tuning, workers=4, partitions=1)

    assert one == tuning.scan_count / 0.1
    assert most_keys_a_second(far, tuning, workers=4, partitions=64) > 5 * one


def test_memory_is_what_keys_and_tables_take() -> None:
    assert memory_needed(0, 100, 0.5) == 0
    assert 100_000 < memory_needed(1000, 100, 0.0) < memory_needed(1000, 100, 1.0) < 200_000
