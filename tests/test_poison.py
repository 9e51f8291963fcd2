"""One value that a side cannot pass: it fails by itself, is named, and all else is copied."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.errors import ConnectionLost
from rumpx.servers.resp import Connection, last_words
from rumpx.transfer.suspects import Lost, Suspects, split
from support import data
from support.copying import Copying, copy, verify
from support.proxy import Proxy
from support.raw import Raw
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]
SMALL = 600
BIG = os.urandom(2_400_000)
FAST = ("--retry-for", "30s", "--progress", "none", "--job", "job")
WHOLE = ("--stream-from", "off")


def fill(source: Server) -> None:
    client = source.client()
    client.mset({f"k:{number}": number for number in range(SMALL)})
    client.set("big", BIG)


def listed(state_home: Path) -> dict[str, str]:
    """Failed keys and why."""
    text = (state_home / "job.failed.jsonl").read_text()
    return {line["key"]: line["error"] for line in map(json.loads, text.splitlines())}


def ends(source: Server | Proxy, target: Server | Proxy) -> tuple[str, ...]:
    return ("--from", source.uri, "--to", target.uri)


# Copies


@pytest.mark.parametrize("versions", [("7.0", "7.0"), ("6.2", "9.1")])
def test_an_argument_above_the_targets_limit(
    server: StartServer, state_home: Path, versions: tuple[str, str]
) -> None:
    source, target = server(versions[0]), server(versions[1], proto_max_bulk_len="1mb")
    fill(source)
    done = rumpx(*ends(source, target), *FAST)

    assert done.returncode == 3, done.stderr
    assert target.do("DBSIZE") == SMALL
    (error,) = listed(state_home).values()
    # It is said in the culprit's turn, or when it is alone.
    words = "ERR Protocol error: invalid bulk length"
    lost = rf"(connection lost while it was written: 2\.\d MB, the target said: )?{words}"
    assert re.fullmatch(lost, error)

    dumps = source.client().info("commandstats")["cmdstat_dump"]["calls"]
    assert rumpx("resume", "job", "--progress", "none").returncode == 3
    assert source.client().info("commandstats")["cmdstat_dump"]["calls"] - dumps < 10

    target.do("CONFIG", "SET", "proto-max-bulk-len", "512mb")
    again = rumpx("resume", "job", "--retry-failed", "--progress", "none")
    assert again.returncode == 0, again.stderr
    assert data.compare(source, target) == []


def test_an_answer_above_the_sources_limit(server: StartServer, state_home: Path) -> None:
    source = server("7.0", client_output_buffer_limit="normal 1mb 0 0")
    target = server("7.0")
    fill(source)
    done = rumpx(*ends(source, target), *FAST, *WHOLE)

    assert done.returncode == 3, done.stderr
    assert target.do("DBSIZE") == SMALL
    assert list(listed(state_home)) == ["big"]
    words = r"connection lost while it was read: 2\.\d MB, above the source's client-output-buffer-"
    assert re.match(words, listed(state_home)["big"])


def test_a_dump_that_takes_longer_than_the_timeout(
    server: StartServer, state_home: Path
) -> None:
    """It holds up the source each time, so it is asked for no more than twice."""
    source, target = server("7.0"), server("7.0")
    source.client().mset({f"k:{number}": number for number in range(SMALL)})
    pipeline = source.client().pipeline(transaction=False)
    for part in range(150):
        pipeline.hset("big", mapping={f"field:{part}:{i}": f"v{i}" for i in range(10_000)})
    pipeline.execute()
    source.do("CONFIG", "RESETSTAT")
    source.do("CONFIG", "SET", "slowlog-log-slower-than", "100000")
    done = rumpx(*ends(source, target), *FAST, *WHOLE, "--timeout", "100ms")

    assert done.returncode == 3, done.stderr
    assert target.do("DBSIZE") == SMALL
    assert "no answer within --timeout" in listed(state_home)["big"]
    slow = source.do("SLOWLOG", "GET", "-1")
    assert sum(entry[3][:2] == [b"DUMP", b"big"] for entry in slow) <= 2


def test_several_at_once_among_many_batches(server: StartServer, state_home: Path) -> None:
    source, target = server("7.0"), server("7.0", proto_max_bulk_len="1mb")
    client = source.client()
    client.mset({f"k:{number}": number for number in range(5000)})
    for number in range(0, 5000, 1000):
        client.set(f"k:{number}", BIG)
    done = rumpx(*ends(source, target), *FAST, "--batch-keys", "50", "--workers", "2")

    assert done.returncode == 3, done.stderr
    assert target.do("DBSIZE") == 4995
    assert sorted(listed(state_home)) == [f"k:{number}" for number in range(0, 5000, 1000)]


def test_a_network_that_cuts_makes_no_healthy_key_fail(
    server: StartServer, proxy: StartProxy
) -> None:
    """Every connection is cut after some kilobytes, again and again, yet each value passes."""
    source, target = server("7.0"), server("7.0")
    source.client().mset({f"k:{number}": os.urandom(400) for number in range(3000)})
    way = proxy(source)
    way.cut_after(100_000, times=10)  # of 1.2 MB, and of all that is read again
    done = copy(way, target, "--batch-keys", "100", "--workers", "2")
    assert way.cuts == 10
    assert done.counts["copied"] == 3000 and done.counts["failed"] == 0
    assert data.compare(source, target) == []


# Comparisons


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_comparison_names_the_value_that_cannot_be_read(
    server: StartServer, side: str
) -> None:
    source, target = server("7.0"), server("7.0")
    for one in (source, target):
        fill(one)
    tight = source if side == "source" else target
    tight.do("CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0")
    done = verify(source, target, *WHOLE, code=3)

    assert done.counts["failed"] == 1 and done.counts["equal"] == SMALL


def tighten(server: Server) -> None:
    """From now on it cuts off whoever is sent more than 1 MB."""
    server.do("CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0")


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_a_conflict_about_a_value_that_cannot_be_read(
    server: StartServer, state_home: Path, policy: str
) -> None:
    """The target cuts off who reads its value; whether that is ours cannot be told."""
    source, target = server("7.0"), server("7.0")
    for one in (source, target):
        fill(one)
        one.do("DEL", "big")
        one.client().hset("big", mapping={"one field": BIG})
    target.do("SET", "k:7", "other")
    tighten(target)
    done = copy(source, target, "--on-conflict", policy, "--job", "job", code=3)

    assert done.counts["repeated"] == SMALL - 1
    failed = listed(state_home)
    assert sorted(failed) == (["big"] if policy == "skip" else ["big", "k:7"])
    assert re.match("connection lost while it was read: .*above the target's", failed["big"])


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_comparison_by_type_names_the_member_that_cannot_be_read(
    server: StartServer, side: str
) -> None:
    """DUMP compresses the value, so that only its members are more than a side passes."""
    source, target = server("7.0"), server("7.0")
    for one in (source, target):
        one.client().mset({f"k:{number}": number for number in range(SMALL)})
        for number in range(5):
            one.client().hset(f"h:{number}", mapping={one.uri: 1, "b": 2})
            one.client().hdel(f"h:{number}", one.uri)
    source.client().hset("big", mapping={"a": "x" * 2_400_000, "b": 1})
    target.client().hset("big", mapping={"a": "x" * 2_400_000, "b": 2})
    tighten(source if side == "source" else target)
    done = verify(source, target, code=3)

    assert done.counts["failed"] == 1 and done.counts["equal"] == SMALL + 5


def test_digests_of_a_value_that_takes_longer_than_the_timeout(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    for one in (source, target):
        one.client().mset({f"k:{number}": number for number in range(SMALL)})
        pipeline = one.client().pipeline(transaction=False)
        for part in range(100):
            pipeline.hset("big", mapping={f"field:{part}:{i}": f"v{i}" for i in range(10_000)})
        pipeline.execute()
    source.do("CONFIG", "SET", "slowlog-log-slower-than", "100000")
    done = verify(source, target, *WHOLE, "--digest", "--timeout", "100ms", code=3)

    assert done.counts["failed"] == 1 and done.counts["equal"] == SMALL
    slow = [entry[3][0] for entry in source.do("SLOWLOG", "GET", "-1")]
    # One is the script's own.
    assert slow.count(b"EVAL_RO") <= 1 and slow.count(b"DUMP") <= 3, "each holds up the source"


def test_the_only_value_is_larger_than_the_source_passes(
    server: StartServer, state_home: Path
) -> None:
    """The copy begins all the same."""
    source, target = server("7.0"), server("7.0")
    source.client().set("big", BIG)
    tighten(source)
    done = rumpx(*ends(source, target), *FAST, *WHOLE)
    assert done.returncode == 3, done.stderr
    assert list(listed(state_home)) == ["big"]


def test_values_above_the_sources_limit_pass_in_pieces(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill(source)
    source.client().hset("big hash", mapping={f"field:{n}": os.urandom(50) for n in range(40_000)})
    tighten(source)
    done = copy(source, target)
    assert done.counts["copied"] == SMALL + 2
    source.do("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
    assert data.compare(source, target) == []


def test_a_value_that_was_too_large_to_be_read_whole_goes_in_pieces(server: StartServer) -> None:
    """Sizes are not asked; what was read of a value shows its size when it cannot be written."""
    source, target = server("7.0", rdbcompression="no"), server("7.0", proto_max_bulk_len="1mb")
    source.client().mset({f"k:{number}": number for number in range(SMALL)})
    source.client().rpush("big", *[os.urandom(1000) for _ in range(4000)])
    copy(source, target, "--no-size-check")
    assert data.compare(source, target) == []


# Checks


def test_a_check_says_what_may_not_pass(server: StartServer) -> None:
    source = server("7.0", client_output_buffer_limit="normal 1mb 0 0")
    target = server("7.0", proto_max_bulk_len="1mb", maxclients=6)
    fill(source)
    told = rumpx("check", *ends(source, target), "--workers", "8").stdout
    whole = rumpx("check", *ends(source, target), "--workers", "8", *WHOLE).stdout

    answer = "the source's client-output-buffer-limit is 1."
    assert answer in " ".join(whole.split()) and answer not in " ".join(told.split())
    words = " ".join(told.split())
    assert "the target's proto-max-bulk-len is 1." in words
    assert "big takes 2." in words
    assert re.search(r"The target has room for \d more clients \(maxclients\)", words)


def test_a_check_is_silent_of_limits_that_are_kept(server: StartServer) -> None:
    source, target = server("6.2"), server("9.1")
    source.do("SET", "k", "1")
    told = rumpx("check", *ends(source, target)).stdout
    assert "it may be too large to copy" not in told and "maxclients" not in told


# Last words


def spoken(words: bytes, *, reset: bool = False) -> tuple[ConnectionLost, ConnectionLost]:
    """What is raised by a send and by a receive after a server said some words and was gone."""
    raised = []
    for sends in (True, False):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = Connection(socket.create_connection(listener.getsockname()), "there")
            theirs, _ = listener.accept()
            theirs.sendall(words)
            ours.send(b"*1\r\n$4\r\nPING\r\n")
            if not reset:
                theirs.recv(2**10)
            else:  # what we send is not read: the kernel answers with a reset
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
            with closing(ours), pytest.raises(ConnectionLost) as caught:
                while sends:
                    ours.send(b"x" * 2**20)
                ours.receive(3)
            raised.append(caught.value)
    return raised[0], raised[1]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        "ERR Protocol error: invalid bulk length",
        "ERR max number of clients reached",
        "NOAUTH Authentication required.",
        "LOADING Redis is loading the dataset in memory",
        "DENIED Redis is running in protected mode.",
    ],
)
def test_what_a_server_says_before_it_goes(words: str, reset: bool) -> None:
    for error in spoken(f"-{words}\r\n".encode(), reset=reset):
        assert error.words == words
        assert f"the server said: {words.rstrip('.')}." in str(error)


@given(st.binary(max_size=200), st.integers(0, 3))
def test_no_value_is_taken_for_last_words(value: bytes, whole: int) -> None:
    """A value may hold what looks like an error; torn, it is none."""
    reply = b"$%d\r\n%b\r\n" % (len(value) + 9, value + b"\r\n-ERR x\r\n")
    assert last_words([b"+OK\r\n" * whole, reply]) == ""
    for end in range(len(reply)):
        assert last_words([b"+OK\r\n" * whole, reply[:end]]) == ""


def test_an_answer_to_a_key_is_no_last_word() -> None:
    for answer in ("BUSYKEY Target key name already exists.", "MOVED 1 a:1", "ERR Bad data format"):
        assert last_words([f"-{answer}\r\n".encode()]) == ""


def test_a_target_that_has_no_room_for_clients(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0", maxclients=1)
    source.do("SET", "k", "1")
    with target.client() as other:
        other.ping()
        done = rumpx(*ends(source, target), "--retry-for", "1s", "--progress", "none")
    assert done.returncode in (5, 7)
    assert "max number of clients reached" in done.stderr


def test_a_target_that_begins_to_ask_for_a_password(server: StartServer) -> None:
    """In the middle of a copy: it is told as that, at once."""
    source, target = server("7.0"), server("7.0")
    data.fill_mixed(source, 2000)
    with Copying(source, target, "--retry-for", "60s") as copying:
        with copying.held_at(target, 300):
            target.do("CONFIG", "SET", "requirepass", "new")
            with closing(Raw(("127.0.0.1", target.port), password="new")) as raw:
                raw.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        done = copying.finish(7)
    assert "NOAUTH" in done.stderr or "requires a password" in done.stderr


# How the culprit is found


def lost(keys: list[bytes], sizes: dict[bytes, int], *, silent: bool = False) -> Lost:
    error = ConnectionLost("gone", cause="silent" if silent else "")
    return Lost(keys, "source", None, error, sizes, timeout=0.1)


@given(
    sizes=st.dictionaries(st.binary(min_size=1, max_size=4), st.integers(0, 10**6), min_size=1),
    draw=st.data(),
    silent=st.booleans(),
    known=st.booleans(),
)
def test_every_culprit_is_found_and_nothing_else(
    sizes: dict[bytes, int], draw: st.DataObject, silent: bool, known: bool
) -> None:
    """Whatever the sizes say, and however many there are; in a bounded number of tries."""
    keys = list(sizes)
    culprits = set(draw.draw(st.lists(st.sampled_from(keys), unique=True)))
    # A small value is not blamed.
    sizes = {key: size + 2**15 * (key in culprits) for key, size in sizes.items()}
    told = sizes if known else {}
    suspects, failed, passed = Suspects(), set(), set()
    parts, others, alone = [], keys, []
    tries = 0
    while parts or others:
        again: list[bytes] = []
        for part, by_itself in [(others, False)] * bool(others) + [(p, True) for p in parts]:
            tries += 1
            if culprits.isdisjoint(part):
                passed.update(part)
                continue
            again += part
            failure = suspects.blame(0, lost(part, told, silent=silent), alone=by_itself)
            if failure:
                failed.add(failure.key)
                again.remove(failure.key)
        parts, others = suspects.take(again)
    assert failed == culprits and passed == set(keys) - culprits
    assert tries <= 5 + 6 * len(culprits) * max(1, len(keys)).bit_length() and not alone


@given(st.dictionaries(st.binary(min_size=1, max_size=4), st.integers(0, 1000), min_size=1))
def test_a_split_keeps_every_key_once(sizes: dict[bytes, int]) -> None:
    parts = split(list(sizes), sizes)
    assert sorted(key for part in parts for key in part) == sorted(sizes)
    assert all(parts) and (len(parts) == 2) == (len(sizes) > 1)
