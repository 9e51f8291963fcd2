"""Whole copies between two single servers: every kind of key, databases, filters, policies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.copying import copy
from support.data import compare, every_type, fill_mixed, keys_of
from support.servers import ALL, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]

UPWARD = [
    ("6.2", "7.0"),
    ("6.2", "9.1"),
    ("7.0", "8.1"),
    ("7.0", "8.2"),
    ("7.0", "9.1"),
    ("8.1", "9.1"),
]
PAIRS = [(version, version) for version in ALL] + UPWARD


def tolerance(version: str) -> int:
    """In ms: before 7.0 a server does not tell the moment of an expiry."""
    return 2 if version == "6.2" else 0


# --- every kind of key ----------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_type_and_odd_name_arrives_with_its_expiry(
    server: StartServer, old: str, new: str
) -> None:
    source, target = server(old), server(new)
    keys = every_type(source.client(), old)
    fill_mixed(source, 3000)
    done = copy(source, target)
    assert compare(source, target, ttl_tolerance_ms=tolerance(old)) == []
    assert done.counts["copied"] >= len(keys) + 3000
    assert done.counts["failed"] == done.counts["gone"] == 0
    assert done.summary["missing"] == 0
    assert done.summary["warnings"] == []


@pytest.mark.parametrize("number", [2, 300])
def test_payloads_that_the_target_cannot_read_end_the_run(
    server: StartServer, number: int
) -> None:
    source, target = server("8.2"), server("7.0")
    for n in range(number):
        source.do("VADD", f"v{n}", "VALUES", 2, n, 1, "element")
    done = copy(source, target, code=8)
    assert "cannot read the payloads" in done.stderr
    assert "(no module)" in done.stderr
    assert not keys_of(target)


def test_an_empty_source_is_copied_to_nothing(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    done = copy(source, target)
    assert done.counts["copied"] == 0
    assert not keys_of(target)


# --- expiries -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
def test_keys_that_expire_meanwhile_are_gone_and_never_immortal(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version)
    fill_mixed(source, 500, prefix=b"stable")
    with source.raw() as raw:
        raw.many(("SET", f"short:{i}", "x", "PX", 300 + i // 4) for i in range(8000))
    done = copy(source, target, "--batch-keys", "20")
    assert done.counts["failed"] == 0
    with target.raw() as raw:
        left = [key for key in keys_of(target) if key.startswith(b"short:")]
        assert -1 not in raw.many(("PTTL", key) for key in left)

    def over() -> bool:
        return not any(key.startswith(b"short:") for key in keys_of(source) | keys_of(target))

    wait_until(over, 30, "every short-lived key is gone from both sides")
    assert compare(source, target, ttl_tolerance_ms=tolerance(version)) == []


# --- databases ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source_path", "target_path", "flags", "expected"),
    [
        ("", "", [], {0: 0, 3: 3, 9: 9}),
        ("", "", ["--db", "3"], {3: 3}),
        ("", "", ["--db", "0,9"], {0: 0, 9: 9}),
        ("", "", ["--db", "0", "--db", "9"], {0: 0, 9: 9}),
        ("", "", ["--db", "3", "--map-db", "3:0"], {3: 0}),
        ("", "", ["--map-db", "3:0", "--map-db", "0:3"], {0: 3, 3: 0, 9: 9}),
        ("/9", "", [], {9: 9}),
        ("/9", "/1", [], {9: 1}),
        ("", "/1", ["--db", "3"], {3: 1}),
        ("/0", "", ["--map-db", "0:15"], {0: 15}),
    ],
)
def test_databases_go_where_they_are_sent(
    server: StartServer,
    source_path: str,
    target_path: str,
    flags: list[str],
    expected: dict[int, int],
) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, 20_000, db=0)
    fill_mixed(source, 500, seed=2, db=3)
    source.do("SET", "alone", "here", db=9)
    done = copy(source.uri + source_path, target.uri + target_path, *flags)
    assert compare(source, target, db_map=expected) == []
    assert done.summary["missing"] == 0


@pytest.mark.parametrize(
    ("target_path", "flags"),
    [
        ("", ["--map-db", "3:0"]),
        ("/1", []),
        ("/1", ["--db", "0,3"]),
        ("", ["--map-db", "3:5", "--map-db", "0:5"]),
    ],
)
def test_two_databases_into_one_are_refused(
    server: StartServer, target_path: str, flags: list[str]
) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "a", "0", db=0)
    source.do("SET", "a", "3", db=3)
    done = copy(source, target.uri + target_path, *flags, code=2)
    assert "overwrite each other" in done.stderr
    assert target.info("keyspace") == {}


def test_a_database_that_the_target_lacks_is_refused(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0", databases=4)
    source.do("SET", "a", "9", db=9)
    done = copy(source, target, code=7)
    assert "database 9" in done.stderr
    assert "--map-db" in done.stderr


# --- filters --------------------------------------------------------------------------------


def test_filters_take_exactly_the_right_keys(server: StartServer) -> None:
    source, target = server("6.2"), server("9.1")
    with source.raw() as raw:
        for i in range(300):
            raw.many(
                [
                    ("SET", f"user:{i}", i),
                    ("HSET", f"user:{i}:cart", "n", i),
                    ("RPUSH", f"queue:{i}", i),
                    ("SADD", f"tag[{i}]", i),
                    ("ZADD", f"rank:{i}", i, "m"),
                    ("XADD", f"log:{i}", "*", "f", i),
                ]
            )
    keys = keys_of(source)
    starts = bytes.startswith
    string, listed, hashed = (
        {key for key in keys if starts(key, prefix) and key.endswith(b":cart") is cart}
        for prefix, cart in ((b"user:", False), (b"queue:", False), (b"user:", True))
    )
    cases: list[tuple[list[str], set[bytes]]] = [
        (["--match", "user:*"], string | hashed),
        (["--match", "user:*", "--match", "queue:*"], string | hashed | listed),
        (["--match", "tag\\[1?\\]"], {b"tag[%d]" % i for i in range(10, 20)}),
        (["--exclude", "user:*"], keys - string - hashed),
        (["--match", "user:*", "--exclude", "*:cart"], string),
        (["--type", "hash"], hashed),
        (["--type", "string,list"], string | listed),
        (["--type", "hash,string", "--match", "user:1*", "--match", "*:2*"],
         {k for k in string | hashed if starts(k, b"user:1") or b":2" in k}),
        (["--match", "nothing*"], set()),
    ]  # fmt: skip
    for flags, expected in cases:
        target.do("FLUSHALL")
        done = copy(source, target, *flags, "--workers", "1")
        assert keys_of(target) == expected, flags
        assert done.counts["copied"] == len(expected), flags
        assert compare(source, target, keys=expected, ttl_tolerance_ms=2) == []


def test_prefixes_cut_the_work_and_not_the_scope(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    for prefix in (b"a:", b"b:", b"[x]*:", b"other", b"ab"):
        fill_mixed(source, 500, prefix=prefix)
    done = copy(source, target, "--prefixes", "a:,b:,[x]*:")
    assert compare(source, target) == []
    assert done.bounds == ["prefix a:", "prefix b:", "prefix [x]*:", "all other keys"]
    assert [part["counts"]["copied"] for part in done.summary["partitions"]] == [500] * 3 + [1000]


# --- conflicts ------------------------------------------------------------------------------


@pytest.fixture
def conflicting(server: StartServer) -> tuple[Server, Server]:
    """Of the source's 100 keys the target has 20, of which 10 are equal; and one more."""
    source, target = server("7.0"), server("8.1")
    for i in range(100):
        source.do("SET", f"k{i}", f"source {i}", "PXAT", 4_000_000_000_000 + i)
    for i in range(10):
        target.do("SET", f"k{i}", f"source {i}", "PXAT", 4_000_000_000_000 + i)
    for i in range(10, 19):
        target.do("SET", f"k{i}", "of the target")
    target.do("SET", "k19", "source 19")  # the same value, but another expiry
    target.do("SET", "more", "of the target")
    return source, target


def test_replace_overwrites_and_deletes_nothing(conflicting: tuple[Server, Server]) -> None:
    source, target = conflicting
    done = copy(source, target, "--on-conflict", "replace")
    assert done.counts["copied"] == 100
    assert compare(source, target) == ["db0 b'more': only on the target"]


def test_skip_keeps_what_the_target_has(conflicting: tuple[Server, Server]) -> None:
    source, target = conflicting
    before = target.client().mget([f"k{i}" for i in range(20)])
    done = copy(source, target, "--on-conflict", "skip")
    counts = done.counts
    assert (counts["copied"], counts["repeated"], counts["skipped"]) == (80, 10, 10)
    assert target.client().mget([f"k{i}" for i in range(20)]) == before
    assert compare(source, target, keys=[b"k%d" % i for i in range(20, 100)]) == []


def test_fail_lists_the_keys_that_differ(conflicting: tuple[Server, Server]) -> None:
    source, target = conflicting
    done = copy(source, target, "--on-conflict", "fail", code=3)
    counts = done.counts
    assert (counts["copied"], counts["repeated"], counts["failed"]) == (80, 10, 10)
    assert {failure["key"] for failure in done.summary["failures"]} == {
        f"k{i}" for i in range(10, 20)
    }
    assert done.summary["failures_by_reason"] == {"busy key": 10}
    assert target.do("GET", "k10") == b"of the target"
    assert compare(source, target, keys=[b"k%d" % i for i in range(20, 100)]) == []


def test_a_target_with_keys_needs_a_policy(conflicting: tuple[Server, Server]) -> None:
    source, target = conflicting
    done = copy(source, target, code=7)
    assert "already holds 21 keys" in done.stderr
    assert "--on-conflict" in done.stderr
    assert target.do("DBSIZE") == 21


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_policy_does_not_matter_where_the_target_is_empty(
    server: StartServer, policy: str
) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 5000)
    done = copy(source, target, "--on-conflict", policy)
    assert compare(source, target) == []
    assert done.counts["failed"] == done.counts["skipped"] == 0


def test_a_second_copy_finds_everything_there(server: StartServer) -> None:
    source, target = server("6.2"), server("8.1")
    every_type(source.client(), "6.2")
    copy(source, target)
    done = copy(source, target, "--on-conflict", "fail")
    assert done.counts["copied"] == 0
    assert done.counts["repeated"] == source.do("DBSIZE")


# --- functions ------------------------------------------------------------------------------

LIBRARY = "#!lua name=lib\nredis.register_function('f', function() return 1 end)"


def test_functions_are_copied_on_request(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    source.do("FUNCTION", "LOAD", LIBRARY)
    source.do("SET", "a", "1")
    done = copy(source, target, "--functions")
    assert target.do("FCALL", "f", 0) == 1
    assert not any("function" in thing for thing in done.summary["left_behind"])
    assert "Copied 1 function library" in done.stderr


def test_functions_and_users_left_behind_are_named(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("FUNCTION", "LOAD", LIBRARY)
    source.do("ACL", "SETUSER", "somebody", "on", ">x", "~*", "+@all")
    source.do("SET", "a", "1")
    done = copy(source, target)
    assert target.do("FUNCTION", "LIST") == []
    assert "1 function library (--functions copies them)" in done.summary["left_behind"]
    assert "1 ACL user" in done.summary["left_behind"]


# --- what reading leaves on the source ------------------------------------------------------


def with_idle_keys(source: Server, *attribute: str | int) -> list[bytes]:
    """Keys that look as if nobody had used them for long."""
    keys = [b"idle:%d" % i for i in range(200)]
    source.do("SET", "model", "x" * 100)
    payload = source.do("DUMP", "model")
    with source.raw() as raw:
        raw.many(("RESTORE", key, 0, payload, *attribute) for key in keys)
    return keys


@pytest.mark.parametrize("version", ["8.1", "9.1"])
def test_a_copy_leaves_idle_times_alone(server: StartServer, version: str) -> None:
    source = server(version, maxmemory="500mb", maxmemory_policy="allkeys-lru")
    keys = with_idle_keys(source, "IDLETIME", 5000)
    target = server(version)
    done = copy(source, target)
    with source.raw() as raw:
        assert min(raw.many(("OBJECT", "IDLETIME", key) for key in keys)) >= 5000
    assert len(keys_of(target)) == len(keys) + 1
    assert done.summary["warnings"] == []


def test_a_copy_leaves_use_frequencies_alone(server: StartServer) -> None:
    source = server("8.1", maxmemory="500mb", maxmemory_policy="allkeys-lfu", lfu_decay_time=0)
    keys = with_idle_keys(source, "FREQ", 5)
    copy(source, server("8.1"))
    with source.raw() as raw:
        assert set(raw.many(("OBJECT", "FREQ", key) for key in keys)) == {5}


def test_a_source_without_no_touch_is_warned_of(server: StartServer) -> None:
    source = server("7.0", maxmemory="500mb", maxmemory_policy="allkeys-lru")
    source.do("SET", "a", "1")
    done = copy(source, server("7.0"))
    assert "does not know CLIENT NO-TOUCH" in done.warnings


# --- a source that refuses commands ---------------------------------------------------------


def refusing(source: Server, *rules: str) -> str:
    """The URI of a user who may do everything but what the rules take away."""
    source.do("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", *rules)
    return f"redis://limited:secret@127.0.0.1:{source.port}"


@pytest.mark.parametrize(
    ("version", "rules", "warning", "off_by_ms"),
    [
        ("6.2", ["-memory"], "refuses MEMORY USAGE: sizes are estimated", 2),
        ("7.0", ["-memory|usage"], "refuses MEMORY USAGE: sizes are estimated", 0),
        ("8.1", ["-memory", "-type"], "refuses MEMORY USAGE and TYPE", 0),
        ("9.1", ["-pexpiretime", "-multi"], "refuses MULTI", 2),
        ("7.0", ["-pexpiretime", "-time"], "neither PEXPIRETIME nor TIME", 1000),
        ("6.2", ["-time"], "neither PEXPIRETIME nor TIME", 1000),
        ("7.0", ["-multi"], "refuses MULTI", 0),
        ("7.0", ["-info"], "refuses INFO: rumpx searched databases", 0),
        ("7.0", ["-cluster"], "", 0),
        ("9.1", ["-@all", "+scan", "+dump", "+pttl", "+select"], "refuses MEMORY USAGE", 1000),
    ],
)
def test_what_the_source_refuses_is_done_without(
    server: StartServer, version: str, rules: list[str], warning: str, off_by_ms: int
) -> None:
    source, target = server(version), server(version)
    fill_mixed(source, 3000)
    every_type(source.client(), version)
    done = copy(refusing(source, *rules), target)
    assert compare(source, target, ttl_tolerance_ms=off_by_ms) == []
    assert done.warnings.count(warning) == 1 if warning else done.warnings == ""
    assert len(set(done.summary["warnings"])) == len(done.summary["warnings"])


def test_every_database_is_found_where_info_is_refused(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 200, db=0)
    fill_mixed(source, 200, seed=2, db=7)
    copy(refusing(source, "-info"), target)
    assert compare(source, target) == []


def test_short_lived_keys_are_never_immortal_where_only_the_time_left_is_told(
    server: StartServer,
) -> None:
    source, target = server("7.0"), server("7.0")
    with source.raw() as raw:
        raw.many(("SET", f"short:{i}", "x", "PX", 300 + i // 4) for i in range(6000))
    copy(refusing(source, "-pexpiretime", "-time"), target, "--batch-keys", "20")
    with target.raw() as raw:
        assert -1 not in raw.many(("PTTL", key) for key in keys_of(target))


def test_keys_that_the_user_may_not_read_fail_one_by_one(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 300, prefix=b"mine")
    fill_mixed(source, 7, prefix=b"theirs")
    uri = refusing(source, "resetkeys", "~mine:*")
    done = copy(uri, target, code=3)
    assert {failure["key"] for failure in done.summary["failures"]} == {
        f"theirs:{i}" for i in range(7)
    }
    assert compare(source, target, keys=[b"mine:%d" % i for i in range(300)]) == []


@pytest.mark.parametrize(("command", "code"), [("scan", 6), ("dump", 6), ("pttl", 6)])
def test_a_source_that_refuses_what_is_needed_is_unusable(
    server: StartServer, command: str, code: int
) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "a", "1")
    done = copy(refusing(source, f"-{command}"), target, code=code)
    assert f"+{command}" in done.stderr
    assert "secret" not in done.stderr


def test_the_json_events_and_the_summary_agree(server: StartServer) -> None:
    source, target = server("8.1"), server("8.1")
    fill_mixed(source, 2000)
    done = copy(source, target)
    events: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[-1]["event"] == "summary"
    assert events[-1]["counts"] == done.counts
    assert events[-2]["state"] == "done"
    assert events[-2]["fraction"] == 1.0
