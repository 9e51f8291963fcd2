"""`rumpx check` tries the commands for values in pieces; the guide has all rules that they need."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest

from rumpx.checker.pieces import pieces_to_read, pieces_to_write
from support.copying import copy, verify
from support.data import compare, every_type, keys_of
from support.run import rumpx
from support.servers import ALL, Cluster, Server
from test_streaming import calls, expiring_hash, fill_large

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

FROM_1K = ("--stream-from", "1KiB")
GUIDE = (resources.files("rumpx.guides") / "services.md").read_text(encoding="utf-8")
EFFECT = "are not copied in pieces"


def limited(server: Server | Cluster, *rules: str) -> str:
    for node in server.nodes if isinstance(server, Cluster) else [server]:
        node.do("ACL", "SETUSER", "mover", "on", ">secret", "~*", *rules)
    return server.uri.replace("redis://", "redis://mover:secret@")


def lines_of(source: str, target: str, *flags: str) -> list[dict[str, str]]:
    """What a check says of values in pieces."""
    done = rumpx("check", "--json", "--from", source, "--to", target, *flags)
    found: list[dict[str, str]] = json.loads(done.stdout)["lines"]
    return [line for line in found if "in pieces" in line["text"]]


@pytest.mark.parametrize("version", ALL)
def test_all_commands_are_allowed(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    source.do("SET", "key", "value")
    lines = lines_of(source.uri, target.uri)
    assert [(line["status"], line["subject"]) for line in lines] == [
        ("ok", "reading"), ("ok", "writing"),
    ]  # fmt: skip
    assert keys_of(target) == set()
    written = ("rpush", "sadd", "hset", "zadd", "xadd", "set", "xgroup", "xgroup|create")
    assert [name for name in written if calls(target, name)] == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cluster(cluster: StartCluster, side: str) -> None:
    ends = {"source": cluster("7.0"), "target": cluster("7.0")}
    uris = {name: end.uri for name, end in ends.items()}
    uris[side] = limited(ends[side], "+@all", "-scard", "-exec")
    (line,) = [x for x in lines_of(uris["source"], uris["target"]) if x["status"] == "warn"]
    assert "may not call" in line["text"] and "+exec" in line["advice"]
    assert ends["target"].client().execute_command("DBSIZE") == 0


READS = {
    "watch": "values from", "sscan": "of the type set", "getrange": "of the type string",
    "xinfo|groups": "of the type stream", "llen": "of the type list", "zrange": "of the type zset",
}  # fmt: skip
WRITES = {
    "rename": "values from", "unlink": "values from", "pexpireat": "values from",
    "sadd": "of the type set", "set": "of the type string", "xgroup|create": "of the type stream",
    "zrem": "of the type zset", "hset": "of the type hash", "xtrim": "of the type stream",
}  # fmt: skip


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
@pytest.mark.parametrize(
    ("side", "command", "what"),
    [*(("source", *pair) for pair in READS.items()), *(("target", *p) for p in WRITES.items())],
)
def test_a_command_that_is_refused(
    server: StartServer, version: str, side: str, command: str, what: str
) -> None:
    container = command.partition("|")[0]
    rules = [f"-{command}"]
    if version == "6.2" and "|" in command:  # it has no way to forbid a subcommand
        rules = [f"-{container}", f"+{container}|help"]
    ends = {"source": server(version), "target": server(version)}
    uris = {name: end.uri for name, end in ends.items()}
    uris[side] = limited(ends[side], "+@all", *rules)
    subject = "reading" if side == "source" else "writing"

    warned = [x for x in lines_of(uris["source"], uris["target"]) if x["status"] == "warn"]

    (line,) = warned
    assert line["subject"] == subject and what in line["text"] and EFFECT in line["text"]
    assert "from 1MiB on" in line["text"] and "Up to 64MiB" in line["text"]
    assert command.upper().replace("|", " ") in line["text"]
    ends[side].do(*line["advice"].split())
    assert all(x["status"] == "ok" for x in lines_of(uris["source"], uris["target"]))


def test_all_rules_are_named_at_once(server: StartServer) -> None:
    """MULTI among them, without which writes cannot be tried."""
    source, target = server("7.0"), server("7.0")
    to = limited(target, "-@all", "+restore", "+info")
    _, line = lines_of(source.uri, to)
    assert "MULTI, within which writes are tried: values from" in line["text"]
    target.do(*line["advice"].split())
    assert all(x["status"] == "ok" for x in lines_of(source.uri, to))


def test_commands_that_a_server_lacks(server: StartServer) -> None:
    source = server("7.0", rename_command=[("hscan", ""), ("sscan", "")])
    target = server("7.0", rename_command=[("multi", "")])
    reading, writing = lines_of(source.uri, target.uri)
    assert "has no SSCAN, HSCAN: values of the types set, hash from" in reading["text"]
    assert "has no MULTI: values from 1MiB on" in writing["text"]
    assert "--stream-from off" in reading["advice"] and reading["status"] == "warn"


def test_nothing_is_tried_where_nothing_goes_in_pieces(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    to = limited(target, "+@all", "-watch", "-hset")
    assert lines_of(source.uri, to, "--stream-from", "off") == []
    assert calls(source, "watch") == 0
    assert len(lines_of(source.uri, to)) == 2


def test_keys_of_others_are_not_the_commands_fault(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    target.do("ACL", "SETUSER", "mover", "on", ">secret", "~app:*", "+@all")
    to = f"redis://mover:secret@127.0.0.1:{target.port}"
    assert all(line["status"] == "ok" for line in lines_of(source.uri, to))


@pytest.mark.parametrize("version", ["6.2", "7.0", "8.2", "9.1"])
@pytest.mark.parametrize("policy", ["replace", "skip"])
def test_each_command_that_copies_in_pieces_is_tried(
    server: StartServer, version: str, policy: str
) -> None:
    source, target = server(version), server(version)
    fill_large(source, version)
    if version in ("8.2", "9.1"):
        expiring_hash(source)
    # Pending entries that were deleted, after others and before all; a stream without groups; -0.
    for n in range(600):
        source.do("XADD", "trimmed", f"{n + 1}-0", "field", "x" * 20)
        source.do("XADD", "alone", f"{n + 1}-0", "field", "x" * 20)
    source.do("XGROUP", "CREATE", "trimmed", "group", "0")
    source.do("XREADGROUP", "GROUP", "group", "one", "COUNT", 300, "STREAMS", "trimmed", ">")
    source.do("XTRIM", "trimmed", "MINID", "100-0")
    source.do("ZADD", "zeros", "-0", "zero", *[w for n in range(600) for w in (n, f"m{n}")])
    for each in (source, target):
        each.do("CONFIG", "RESETSTAT")

    copy(source, target, *FROM_1K, "--on-conflict", policy)

    stats = [end.info("commandstats") for end in (source, target)]
    both = pieces_to_read(), pieces_to_write(replace=policy == "replace")
    for stat, pieces in zip(stats, both, strict=True):
        tried = {piece.right.name.lower().replace(" ", "|") for piece in pieces}
        tried |= {name.partition("|")[0] for name in tried}  # 6.2 counts no subcommands
        called = {name.removeprefix("cmdstat_") for name in stat}
        # What a copy calls in any case; `permissions` tries these.
        usual = {
            "scan", "dump", "pttl", "pexpiretime", "time", "info", "client|no-touch", "multi",
            "client", "client|setname", "client|id", "client|list", "client|kill", "ping",
            "memory|usage", "memory", "select", "restore", "dbsize", "cluster|slots", "cluster",
            "cluster|nodes", "config|resetstat", "config|get", "config", "function|list",
            "function",
            "acl|users", "acl|list", "acl", "ft._list", "role", "module|list", "hello",
        }  # fmt: skip
        assert called - tried - usual == set()
    assert compare(source, target, ttl_tolerance_ms=2 if version == "6.2" else 0) == []


# The guide


def rules(where: str) -> list[str]:
    found = re.search(rf"{where} `([^`]+)`", GUIDE)
    assert found, where
    return found[1].split()


NEW = ("+hpexpiretime", "+hpexpireat", "+client|no-touch")
# Asked at the start of a copy that replaces keys, for how the target frees values; at the end, for
# what a copy leaves behind; and by a comparison.
UNNEEDED = {
    "config|get", "function|list", "acl|users", "acl|list", "ft._list", "acl|whoami",
    "script|exists",
}  # fmt: skip


@pytest.mark.parametrize("version", ["7.0", "9.1"])
@pytest.mark.parametrize("digest", [(), ("--digest",)])
def test_the_rules_of_the_guide_suffice_for_all(
    server: StartServer, version: str, digest: tuple[str, ...]
) -> None:
    source, target = server(version), server(version)
    fill_large(source, version)
    every_type(source.client(), version)
    new = NEW if version == "9.1" else ()
    if new:
        expiring_hash(source)
        assert all(f"`{rule}`" in GUIDE for rule in new)
    both = ["-@all", *rules("on both sides"), *new]
    uris = [limited(source, *both), limited(target, *both, *rules("on the target also"))]
    for each in (source, target):
        each.do("ACL", "LOG", "RESET")

    done = copy(*uris, *FROM_1K)
    again = copy(*uris, *FROM_1K, "--on-conflict", "skip")
    compared = verify(*uris, *FROM_1K, *digest)

    assert done.warnings == again.warnings == compared.warnings == ""
    assert compare(source, target) == []
    assert again.counts["repeated"] == done.counts["copied"] == compared.counts["equal"]
    for each in (source, target):
        refused = {entry_of(entry)[b"object"].decode() for entry in each.do("ACL", "LOG", 128)}
        assert refused <= UNNEEDED
    lines = json.loads(rumpx("check", "--json", "--from", uris[0], "--to", uris[1]).stdout)["lines"]
    assert [x for x in lines if x["status"] == "warn" and "may not call" in x["text"]] == []


def entry_of(flat: list[Any]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
