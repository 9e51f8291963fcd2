"""A target in step is as its source, whatever is done there: to values, expiries, databases and
streams; and no older write of a follow lands on a newer one.

`compare` is the judge. Each scenario is one that a follow could get wrong while it looks right.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

import rumpx
from rumpx.ctl.client import ask, running_job
from rumpx.ctl.server import Status
from rumpx.errors import TemporaryError, UsageError
from rumpx.ledger.catalog import Place
from rumpx.throttle.scan_gate import Gate
from support.data import compare, every_type
from support.following import (
    LONG,
    Following,
    Standing,
    assert_digests,
    cut_over,
    kill_feed,
    writing,
)
from support.proxy import Proxy
from support.raw import Arg
from support.servers import ALL, Server, at_least, readers
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]

TARGET, USAGE = 7, 2
PAIRS = sorted({(version, to) for version in ALL for to in (version, readers(version)[-1])})
"""Each version to itself, and to the last that reads what it dumps."""

Command = Sequence[Arg]


def do_all(server: Server, *commands: Command, db: int = 0) -> None:
    """Each command, on one connection, and in one pipeline."""
    with server.raw(db) as raw:
        for command, reply in zip(commands, raw.many(commands), strict=True):
            assert not isinstance(reply, Exception), (command, reply)


def in_transaction(server: Server, *commands: Command, db: int = 0) -> None:
    """All commands at one moment."""
    do_all(server, ("MULTI",), *commands, ("EXEC",), db=db)


def becomes_equal(follow: Following, source: Server, target: Server) -> None:
    """Until both sides are equal, which the follow finds out by itself, sooner or later."""
    follow.wait(lambda _: not compare(source, target), "both sides are equal")


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "to"), PAIRS)
def test_each_way_to_change_a_key_arrives(server: StartServer, version: str, to: str) -> None:
    """Also those that leave no key behind, or change two."""
    source, target = server(version), server(to)
    before: list[Command] = [
        *(("SET", f"s{n}", n) for n in range(20)),
        ("HSET", "hash", "f", 1, "g", 2),
        ("RPUSH", "list", 3, 1, 2),
        ("SADD", "set", "a", "b"),
        ("ZADD", "zset", 1, "a", 2, "b"),
        ("XADD", "stream", "1-1", "f", "v"),
        ("RPUSH", "empty after sort", 1),
        ("SET", "expires", 1, "PX", 3_600_000),
        ("SET", "persists", 1, "PX", 3_600_000),
    ]
    do_all(source, *before)
    changes: list[Command] = [
        ("RENAME", "s0", "s1"),  # over an existing one
        ("RENAMENX", "s2", "renamed"),
        ("DEL", "s3"),
        ("UNLINK", "s4"),
        ("DEL", "hash"),
        ("SET", "hash", "now a string"),
        ("DEL", "s5"),
        ("RPUSH", "s5", "now", "a", "list"),
        ("COPY", "s6", "s7", "REPLACE"),
        ("COPY", "zset", "list", "REPLACE"),  # another type
        ("SORT", "no such list", "STORE", "empty after sort"),
        ("SORT", "set", "ALPHA", "STORE", "sorted"),
        ("PEXPIRE", "s8", 3_600_000),
        ("PERSIST", "persists"),
        ("PEXPIRE", "expires", 7_200_000),
        ("PEXPIREAT", "s9", 1),  # into the past: deleted
        ("SPOP", "set", 2),  # its last members
        ("ZREM", "zset", "a"),
        ("XTRIM", "stream", "MAXLEN", 0),
        ("GETDEL", "s10"),
        ("GETEX", "s11", "PX", 3_600_000),
        ("SETBIT", "s12", 100, 1),
        ("APPEND", "s13", "more"),
        ("BITOP", "NOT", "s14", "s15"),
        ("PFADD", "hyperloglog", "a", "b"),
        ("GEOADD", "geo", 13.3, 38.1, "Palermo"),
        ("EVAL", "redis.call('SET', 'undeclared', 1); redis.call('DEL', 's16')", 0),
        ("SET", "s17", "gone soon", "PX", 30),
    ]
    with Following(source, target) as follow:
        follow.in_step()
        do_all(source, *changes)
        payload = source.do("DUMP", "s18")
        # A restored key whose expiry is in the past is deleted, the one before it too.
        source.do("RESTORE", "s19", 1, payload, "REPLACE", "ABSTTL")
        follow.settled(source, target)
        wait_until(lambda: not source.do("EXISTS", "s17"), LONG, "s17 has expired")
        follow.settled(source, target)
        assert compare(source, target) == []
        assert follow.ask()["gaps"] == 0
        assert not target.do("EXISTS", "s0", "s3", "s4", "s9", "s10", "s16", "s17", "s19", "set")
        if version == to:
            assert_digests(source, target)


@pytest.mark.parametrize(("version", "to"), PAIRS)
def test_each_type_and_encoding_arrives_and_goes(
    server: StartServer, version: str, to: str
) -> None:
    source, target = server(version), server(to)
    with Following(source, target) as follow:
        follow.in_step()
        keys = every_type(source.client(), version)
        follow.settled(source, target)
        assert compare(source, target) == []
        do_all(source, *(("DEL", key) for key in keys))
        follow.settled(source, target)
        assert compare(source, target) == []
        assert target.do("DBSIZE") == 1, "only the marker is left"
        assert follow.ask()["gaps"] == 0


@pytest.mark.parametrize("version", [v for v in ALL if at_least(v, "7.4") and v != "8.1"])
def test_the_expiry_of_fields_and_of_the_last_one_arrives(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version)
    do_all(source, *(("HSET", f"h{n}", "f", 1, "g", 2) for n in range(5)))
    with Following(source, target) as follow:
        follow.in_step()
        do_all(
            source,
            ("HPEXPIRE", "h0", 3_600_000, "FIELDS", 1, "f"),
            ("HPEXPIRE", "h1", 30, "FIELDS", 1, "f"),
            ("HPEXPIRE", "h2", 30, "FIELDS", 2, "f", "g"),  # the key goes with them
            ("HPEXPIRE", "h3", 3_600_000, "FIELDS", 2, "f", "g"),
            ("HPERSIST", "h3", "FIELDS", 1, "g"),
        )
        wait_until(lambda: not source.do("EXISTS", "h2"), LONG, "h2 has expired")
        wait_until(lambda: source.do("HLEN", "h1") == 1, LONG, "the field of h1 has expired")
        follow.settled(source, target)
        assert compare(source, target) == []
        assert not target.do("EXISTS", "h2")


@pytest.mark.parametrize("version", [v for v in ALL if v != "7.0"])
def test_a_value_that_is_over_by_the_clock_of_the_target_leaves_no_older_one(
    server: StartServer, version: str
) -> None:
    """The target would refuse, or drop at once, what expires in its past: its older value must
    go all the same."""
    source, target = server(version), server(version, clock_ahead=30)
    do_all(source, ("SET", "k", "older"), ("SET", "other", "older"))
    with Following(source, target) as follow:
        follow.in_step()
        assert target.do("GET", "k") == b"older"
        source.do("SET", "k", "newer", "PX", 20_000)
        follow.settled(source, target)
        assert source.do("GET", "k") in (b"newer", None)
        assert target.do("GET", "k") is None
        assert target.do("GET", "other") == b"older"


def test_a_bad_payload_that_is_followed_by_a_good_one_is_no_failed_key_any_more(
    server: StartServer,
) -> None:
    """Redis 7.0 has no vector sets."""
    source, target = server("8.2"), server("7.0")
    vector: Command = ("VADD", "v", "VALUES", 2, 1, 0, "a")
    do_all(source, ("SET", "k", 1), vector)
    with Following(source, target) as follow:
        follow.wait(lambda standing: standing["failed"] == 1, "the vector set has failed")
        follow.wait(lambda standing: standing["passes"], "a pass has ended")
        assert follow.ask().phase != "in step"
        do_all(source, ("DEL", "v"), ("SET", "v", "good"))
        follow.wait(lambda _: target.do("GET", "v") == b"good", "the good value arrives")
        for number in range(8):  # some of these fail and are gone before that is saved
            key = f"w{number}"
            do_all(source, ("VADD", key, *vector[2:]))
            follow.wait(lambda standing: standing["failed"] == 1, "another has failed")
            source.do("DEL", key)
            follow.wait(lambda standing: standing["failed"] == 0, "it has gone")
        standing = follow.in_step()
        follow.settled(source, target)
        assert standing["failed"] == 0 and compare(source, target) == []
        done = follow.stop()
    assert done.summary["counts"]["failed"] == 0, done.summary["counts"]
    assert done.summary["failures"] == [] and done.summary["dead_letters"] is None


# --- databases ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
def test_a_flush_out_of_scope_deletes_nothing_and_costs_a_pass(
    server: StartServer, version: str
) -> None:
    """It is told without a database: all that is known is that keys may be gone."""
    source, target = server(version), server(version)
    for db in (0, 3):
        do_all(source, *(("SET", f"k{n}", db) for n in range(100)), db=db)
    target.do("SET", "its own", 1, db=3)
    with Following(source, target, "--db", "0") as follow:
        before = follow.in_step()
        source.do("FLUSHDB", db=3)
        after = follow.after_gap()
        assert after["passes"] > before["passes"] and "flushed" in after.gaps[-1]
        assert after["deleted"] == 0 and after["last_pass_found"] == 0
        assert compare(source, target, db_map={0: 0}, keys=[b"k%d" % n for n in range(100)]) == []
        assert target.do("DBSIZE") == 100 and target.do("GET", "its own", db=3) == b"1"

        source.do("FLUSHDB")
        follow.after_gap(2)
        follow.settled(source, target)
        assert target.do("DBSIZE") == 1, "only the marker is left"
        assert target.do("GET", "its own", db=3) == b"1"


@pytest.mark.parametrize("version", ALL)
def test_one_name_in_two_databases_is_two_keys(server: StartServer, version: str) -> None:
    """The source tells a name without its database."""
    source, target = server(version), server(version)
    for db in (0, 3):
        do_all(source, ("SET", "k", db), ("SET", "both", db), db=db)
    there = {0: 0, 3: 7}
    with Following(source, target, "--map-db", "3:7") as follow:
        follow.in_step()
        source.do("DEL", "k")
        follow.settled(source, target)
        assert compare(source, target, db_map=there) == []
        assert target.do("EXISTS", "k") == 0 and target.do("GET", "k", db=7) == b"3"

        do_all(source, ("DEL", "k"), ("SET", "both", "new"), db=3)
        source.do("SET", "k", "again")
        follow.settled(source, target, db=3, target_db=7)
        assert compare(source, target, db_map=there) == []
        assert target.do("EXISTS", "k", db=7) == 0
        assert target.do("DBSIZE", db=3) == 0
        assert follow.ask()["gaps"] == 0


@pytest.mark.parametrize("version", ALL)
def test_a_database_that_comes_to_hold_keys_is_followed(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version)
    do_all(source, *(("SET", f"k{n}", n) for n in range(50)))
    with Following(source, target) as follow:
        follow.in_step()
        assert source.do("MOVE", "k7", 5) == 1
        follow.settled(source, target)
        follow.wait(lambda _: target.do("EXISTS", "k7", db=5), "the database is followed")
        source.do("SET", "k8", "moved, and more", db=5)
        follow.settled(source, target, db=5)
        assert compare(source, target) == []
        source.do("MOVE", "k7", 0, db=5)
        follow.settled(source, target)
        assert compare(source, target) == []
        assert follow.ask()["gaps"] == 0


def test_it_is_not_called_in_step_before_a_new_database_is_copied(
    server: StartServer, proxy: StartProxy
) -> None:
    source, target = server("8.2"), server("8.2")
    way = proxy(target)
    source.do("SET", "k", 1)
    with Following(source, way) as follow:
        follow.in_step()
        way.stall()
        source.do("SET", "k", 5, db=5)
        follow.wait(lambda standing: standing.phase != "in step", "a database is missing")
        way.go()
        follow.in_step()
        assert target.do("GET", "k", db=5) == b"5"
        assert follow.ask()["gaps"] == 0


@pytest.mark.parametrize("version", ALL)
def test_a_new_database_that_the_target_does_not_have_ends_the_follow(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version, databases=3)
    do_all(source, *(("SET", f"k{n}", n) for n in range(50)))
    with Following(source, target) as follow:
        follow.in_step()
        source.do("MOVE", "k7", 5)
        done = follow.ended(TARGET)
    assert "database 5" in done.summary["error"], done.summary["error"]
    assert "Traceback" not in done.stderr
    assert done.resume_line.startswith("rumpx resume move")


def test_a_new_database_that_would_be_written_over_another_ends_the_follow(
    server: StartServer,
) -> None:
    """Else each key of one would be deleted as one that the other does not have."""
    source, target = server("8.2"), server("8.2")
    source.do("SET", "k", 3, db=3)
    with Following(source, target, "--map-db", "3:7") as follow:
        follow.in_step()
        source.do("SET", "other", 7, db=7)
        done = follow.ended(USAGE)
    assert "Databases 3 and 7" in done.summary["error"], done.summary["error"]
    assert target.do("GET", "k", db=7) == b"3"


@pytest.mark.parametrize("version", ALL)
def test_swapped_databases_are_noticed(server: StartServer, version: str) -> None:
    """No name is told. CONFIG RESETSTAT must not hide it, though its counter is the same then."""
    source, target = server(version), server(version)
    do_all(source, *(("SET", f"k{n}", "zero") for n in range(50)))
    do_all(source, *(("SET", f"k{n}", "one") for n in range(25, 75)), db=1)
    with Following(source, target) as follow:
        follow.in_step()
        source.do("SWAPDB", 0, 1)
        assert "swapped" in follow.after_gap().gaps[-1]
        follow.settled(source, target)
        assert compare(source, target) == []

        in_transaction(source, ("CONFIG", "RESETSTAT"), ("SWAPDB", 0, 1))
        follow.after_gap(2)
        follow.settled(source, target)
        assert compare(source, target) == []


# --- streams --------------------------------------------------------------------------------


ACK: Command = ("XACK", "s", "g", "1-1", "2-1")
RESET: Command = ("CONFIG", "RESETSTAT")
GROUPS: dict[str, list[Command]] = {
    "ack": [ACK],
    "claim": [("XCLAIM", "s", "g", "bob", 0, "3-1")],
    "read": [("XREADGROUP", "GROUP", "g", "carol", "COUNT", 2, "STREAMS", "s", ">")],
    "destroy": [("XGROUP", "DESTROY", "s", "h")],
    "set id": [("XGROUP", "SETID", "s", "g", "5-1")],
    "reset before": [RESET, ACK],
    "reset after": [ACK, RESET],
}


@pytest.mark.parametrize(
    ("version", "how"),
    [
        *((version, how) for version in ALL for how in ("ack", "destroy")),
        *(("6.2", how) for how in ("read", "reset before")),
        *(("8.2", how) for how in ("claim", "set id", "reset after")),
        *(("9.1", how) for how in ("claim", "read", "reset before")),
    ],
)
def test_consumer_groups_arrive_though_no_name_is_told(
    server: StartServer, version: str, how: str
) -> None:
    source, target = server(version), server(version)
    do_all(
        source,
        *(("XADD", "s", f"{n}-1", "f", n) for n in range(1, 21)),
        ("XGROUP", "CREATE", "s", "g", 0),
        ("XGROUP", "CREATE", "s", "h", 0),
        ("XREADGROUP", "GROUP", "g", "alice", "COUNT", 10, "STREAMS", "s", ">"),
        RESET,
    )
    if how == "reset before":
        source.do("XACK", "s", "g", "10-1")  # so that the counter is the same afterwards
    with Following(source, target) as follow:
        standing = follow.in_step()
        in_transaction(source, *GROUPS[how])
        becomes_equal(follow, source, target)
        follow.settled(source, target)
        after = follow.ask()
        assert after["gaps"] == 0 and after["passes"] == standing["passes"]


def test_groups_of_a_new_stream_arrive(server: StartServer) -> None:
    """It is known only since it was settled."""
    source, target = server("8.2"), server("8.2")
    with Following(source, target) as follow:
        follow.in_step()
        for number in range(3):
            key = f"s{number}"
            do_all(source, ("XADD", key, "1-1", "f", 1), ("XGROUP", "CREATE", key, "g", 0))
            source.do("XREADGROUP", "GROUP", "g", "alice", "STREAMS", key, ">")
        becomes_equal(follow, source, target)
        do_all(source, *(("XACK", f"s{number}", "g", "1-1") for number in range(3)))
        becomes_equal(follow, source, target)
        assert follow.ask()["gaps"] == 0


def test_groups_that_change_right_after_a_restart_arrive(server: StartServer) -> None:
    """The counters of the new process must have been read before both sides are compared."""
    source, target = server("8.2"), server("8.2")
    do_all(
        source,
        *(("XADD", "s", f"{n}-1", "f", n) for n in range(1, 21)),
        ("XGROUP", "CREATE", "s", "g", 0),
        ("XREADGROUP", "GROUP", "g", "alice", "COUNT", 20, "STREAMS", "s", ">"),
    )
    with Following(source, target) as follow:
        follow.in_step()
        for number in range(1, 4):
            source.restart(keep_data=True)
            follow.after_gap(number)
            source.do("XACK", "s", "g", f"{number}-1")
            becomes_equal(follow, source, target)


# --- values that cost the source much -------------------------------------------------------


@pytest.mark.parametrize(
    ("stream_from", "readings"), [("1mb", 4), ("off", 1)], ids=["in pieces", "whole"]
)
def test_a_large_value_that_is_written_all_the_time_is_read_seldom(
    server: StartServer, stream_from: str, readings: int
) -> None:
    """It rests so long that reading it takes a small part of the source's time: 5 MB a second. (In
    pieces it is tried three times, and then read whole.) Other keys do not wait for it."""
    source, target = server("8.2"), server("8.2")
    size = 20_000_000
    element = random.Random(7).randbytes(20_000)
    do_all(source, *(("RPUSH", "large", element) for _ in range(size // len(element))))
    pause = size / 5e6
    with Following(source, target, "--stream-from", stream_from) as follow, source.raw() as raw:
        before = follow.in_step()
        sent = int(source.info("stats")["total_net_output_bytes"])

        def write() -> None:
            raw.do("LSET", "large", 5, str(time.monotonic()))
            time.sleep(0.005)

        with writing(write), target.raw() as there:
            follow.wait(lambda now: (now["lag"] or 0) > 0.8 * pause, "it rests")
            for number in range(5):
                source.do("SET", "other", number)
                other = b"%d" % number
                follow.wait(lambda _, v=other: there.do("GET", "other") == v, "other keys arrive")
        after = follow.ask()
        sent = int(source.info("stats")["total_net_output_bytes"]) - sent
        assert sent < 5e6 * (after.asked - before.asked) + (readings + 0.5) * size
        follow.settled(source, target)
        assert compare(source, target) == []


# --- one pair of hands, and late writes -----------------------------------------------------


def test_keys_that_are_written_all_the_time_end_with_their_last_value(
    server: StartServer, proxy: StartProxy
) -> None:
    """Writes of different workers to one key would overtake each other on the way."""
    source, target = server("8.2"), server("8.2")
    way = proxy(target)
    rng = random.Random(7)
    with Following(source, way, "--workers", "4") as follow, source.raw() as raw:
        follow.in_step()
        way.jitter_ms = 30

        def write() -> None:
            keys = rng.choices(range(200), k=20)
            raw.many([("SET", f"hot:{key}", time.monotonic()) for key in keys])
            time.sleep(0.002)

        for _ in range(5):
            with writing(write):
                time.sleep(0.7)  # the load, not a wait
            follow.settled(source, target)
            assert compare(source, target) == []
        assert follow.ask()["gaps"] == 0


KEY = b"the key that is held back"
REFUSED = "does not let rumpx end its own connections"


@pytest.mark.parametrize(
    ("version", "loss", "rule"),
    [
        *((version, "connection", "+client") for version in ALL),
        ("8.2", "worker", "+client"),
        ("8.2", "connection", "-client|kill"),
        ("8.2", "worker", "-client|kill"),
    ],
)
def test_what_was_sent_before_a_loss_does_not_land_on_a_newer_value(
    server: StartServer, proxy: StartProxy, version: str, loss: str, rule: str
) -> None:
    """The proxy holds a write back; its sender loses the connection, or is killed, and the key is
    settled again; then the proxy lets go. Where the target does not let the follow end that
    connection, the old value lands, and the key is settled once more."""
    source, target = server(version), server(version)
    target.do("ACL", "SETUSER", "default", rule)
    # Then each write has REPLACE; one without it would not land over the newer value.
    target.do("CONFIG", "SET", "lazyfree-lazy-server-del", "yes")
    way = proxy(target)
    with Following(source, way, "--workers", "1") as follow:
        follow.in_step()
        way.hold(KEY + b"\r\n$1\r\n0\r\n")
        source.do("SET", KEY, "old")
        follow.wait(lambda _: way.holding, "the proxy holds the write back")
        source.do("SET", KEY, "new")
        if loss == "worker":
            (worker,) = follow.run.workers()
            worker.kill()
        else:
            way.cut_held()
        follow.wait(lambda _: target.do("GET", KEY) == b"new", "the key is settled again")
        if rule != "+client":
            time.sleep(1)  # to settle it too early would be of no use
        way.release()
        wait_until(lambda: not way.held_clients(), LONG, "the held connection has ended")
        if rule == "+client":
            assert target.do("GET", KEY) == b"new"
            assert REFUSED not in follow.messages
        else:
            wait_until(lambda: target.do("GET", KEY) == b"old", LONG, "the late write lands")
            follow.wait(lambda _: target.do("GET", KEY) == b"new", "it is settled once more")
            assert REFUSED in follow.messages
        follow.settled(source, target)
        assert compare(source, target) == []


# --- passes ---------------------------------------------------------------------------------


def test_batches_fit_the_keys_of_a_pass_not_those_of_the_start(
    server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a follow that starts while its source is empty."""
    sizes: list[int] = []
    obey = Gate.set

    def seen(gate: Gate, scan_count: int, batch_keys: int, scans: int, wait: float) -> None:
        sizes.append(batch_keys)
        obey(gate, scan_count, batch_keys, scans, wait)

    monkeypatch.setattr(Gate, "set", seen)
    source, target = server("7.0"), server("7.0")

    def in_step(gaps: int) -> bool:
        with suppress(TemporaryError, UsageError):  # it is starting
            standing = Standing(ask(running_job(Place(None, "move")), Status()), 0.0)
            return standing.phase == "in step" and bool(standing["gaps"] >= gaps)
        return False

    with ThreadPoolExecutor(1) as pool:
        ends = source.uri, target.uri
        # Five pipelines of 20 keys make a batch, if there are so many keys.
        following = pool.submit(
            rumpx.copy, *ends, follow=True, job="move", workers=2, batch_keys=20
        )
        try:
            wait_until(lambda: in_step(0), LONG, "in step")
            source.client().mset({f"key:{n}": n for n in range(5000)})
            wait_until(lambda: target.do("DBSIZE") == 5000, LONG, "the keys arrive")
            assert set(sizes) == {20}
            kill_feed(source)
            wait_until(lambda: in_step(1), LONG, "in step again")
            assert sizes[-1] == 100
        finally:
            cut_over(code=0)
        assert following.result(LONG).exit_code == 0
    assert compare(source, target) == []
