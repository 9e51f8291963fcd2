"""Answers at the edge of what their commands have: too short, too long, below zero, without end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, get_args

import pytest

from rumpx.copy.dump import Abilities, DumpReader, Expiry, Read, Wanted
from rumpx.copy.links import Links
from rumpx.copy.scan import scanned
from rumpx.copy.tasks import Budget, Runner
from rumpx.errors import ConnectionLost, SourceUnusable
from rumpx.job import parse_endpoint
from rumpx.servers.dial import Dialer
from rumpx.servers.replicas import read_state
from rumpx.servers.resp import Connection, last_words
from rumpx.servers.topology import STANDALONE
from rumpx.servers.upstream import Upstream, parse_upstream
from rumpx.values.shapes import fits
from support.hostile import INFO, Hostile, answering, bulk, scan_reply
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]
SOURCE, TARGET = 6, 7
MALFORMED = "with something that is no answer"


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile(keys=100) as server:
        yield server


@pytest.fixture
def connection(hostile: Hostile) -> Iterator[Connection]:
    sock = socket.create_connection(("127.0.0.1", hostile.port), timeout=20)
    with closing(Connection(sock, "there")) as dialled:
        yield dialled


def play(
    source: Hostile | Server, target: Hostile | Server, *flags: str, command: str = ""
) -> tuple[int, str]:
    ends = ("--from", source.uri, "--to", target.uri)
    patience = ("--timeout", "2s") if command else ("--retry-for", "2s", "--timeout", "2s")
    done = rumpx(*filter(None, [command]), *ends, *patience, *flags, timeout=40)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def read(source: Hostile, expiry: Expiry) -> Read:
    """Read all keys as a worker does, in this process."""
    links = Links(Dialer(parse_endpoint(source.uri, "source"), "source", 5.0, 5.0), STANDALONE)
    reader = DumpReader(links, Abilities(expiry, multi=False, sizes="none"))
    runner = Runner(Budget(2**30))
    runner.start(reader.read(Wanted(0, source.keys, None), None))
    try:
        while (result := runner.step()) is None:
            pass
    finally:
        links.close()
    assert isinstance(result, Read)
    return result


# Payloads

SHORT = [b"", b"0123456789"]


def test_a_payload_too_short_for_a_value_ends_a_copy(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["DUMP"] = answering(bulk(b""))
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert f"answered DUMP or the question for its expiry {MALFORMED}" in told


@pytest.mark.parametrize("expiry", get_args(Expiry))
@pytest.mark.parametrize("payload", SHORT)
def test_a_payload_too_short_for_a_value_is_neither_read_nor_gone(
    hostile: Hostile, payload: bytes, expiry: Expiry
) -> None:
    for gone in (False, True):
        hostile.answers["DUMP"] = lambda words: bulk(payload) if words[1] == b"k:7" else None
        if gone:
            hostile.answers["PTTL"] = hostile.answers["PEXPIRETIME"] = answering(b":-2\r\n")
        with pytest.raises(SourceUnusable, match=f"answered DUMP .* {MALFORMED}"):
            read(hostile, expiry)


def test_an_expiry_that_is_none_is_no_answer(hostile: Hostile) -> None:
    hostile.answers["PEXPIRETIME"] = answering(b":-3\r\n")
    with pytest.raises(SourceUnusable, match=f"the question for its expiry {MALFORMED}"):
        read(hostile, "instant")


def test_a_payload_too_short_for_a_value_fails_a_check(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["DUMP"] = answering(bulk(b""))
    code, told = play(hostile, server("7.0"), command="check")
    assert code == SOURCE
    assert f"answered DUMP {MALFORMED}" in " ".join(told.split())


@pytest.mark.parametrize("side", ["target"])
def test_a_payload_too_short_for_a_value_ends_a_comparison(hostile: Hostile, side: str) -> None:
    with Hostile(keys=100) as other:
        other.run_id = "e" * 40
        hostile.answers["DUMP"] = answering(bulk(b""))
        both = (hostile, other) if side == "source" else (other, hostile)
        code, told = play(*both, command="verify")
    assert code == (SOURCE if side == "source" else TARGET)
    assert f"{side} at" in told and "answered DUMP" in told and MALFORMED in told


@pytest.mark.parametrize("payload", SHORT)
def test_a_payload_too_short_for_a_value_is_no_answer_to_dump(payload: bytes) -> None:
    assert not fits("DUMP", payload)
    assert fits("DUMP", b"\0" + payload.rjust(10)) and fits("DUMP", None)


# What the parser does not take

UNPARSED = [b"%1\r\n*0\r\n+x\r\n", b">1\r\n%1\r\n~0\r\n:1\r\n", b"*1\r\n%1\r\n%0\r\n:1\r\n"]


@pytest.mark.parametrize("answer", UNPARSED)
def test_a_map_whose_names_are_lists_is_no_answer(
    hostile: Hostile, connection: Connection, answer: bytes
) -> None:
    hostile.answers["ECHO"] = answering(answer)
    with pytest.raises(ConnectionLost) as lost:
        connection.call("ECHO", "x")
    assert lost.value.cause == "malformed"
    assert "answered ECHO with bytes that are not of the Redis protocol" in str(lost.value)


@pytest.mark.parametrize("heard", [*UNPARSED, b"*4294967295\r\n", b"?", b"$-7\r\n"])
def test_what_is_no_reply_is_no_last_word(heard: bytes) -> None:
    assert last_words([heard]) == ""
    assert last_words([b"-LOADING wait\r\n", heard]) == ""


# Clocks

IN_AN_HOUR = 3_600_000
NO_TIMES = [b"+OK\r\n", b"*1\r\n:1\r\n", b"*2\r\n+a\r\n+b\r\n", b":1\r\n", b"*-1\r\n"]


@pytest.mark.parametrize("answer", NO_TIMES)
@pytest.mark.parametrize("before", [0, 1, 2, 3, 4])
def test_a_time_that_is_none_is_not_taken_for_a_clock(
    hostile: Hostile, answer: bytes, before: int
) -> None:
    """Times left were once taken for instants then, of which each key seemed to have expired."""
    hostile.answers["PTTL"] = answering(b":%d\r\n" % IN_AN_HOUR)
    hostile.answers["TIME"] = lambda words: (
        leaping(hostile) if hostile.called["TIME"] <= before else answer
    )
    with pytest.raises(SourceUnusable, match=f"answered TIME {MALFORMED}"):
        read(hostile, "clock")


def leaping(server: Hostile) -> bytes:
    """Of a clock that leaps between two looks, so that expiries are asked for again."""
    return b"*2\r\n:1800000000\r\n:%d\r\n" % (10_000 * (server.called["TIME"] % 100))


@pytest.mark.parametrize("before", [4, 5, 6, 30])
def test_a_time_that_is_refused_when_it_is_asked_again(hostile: Hostile, before: int) -> None:
    """What was reckoned before is kept."""
    hostile.answers["PTTL"] = answering(b":%d\r\n" % IN_AN_HOUR)
    hostile.answers["TIME"] = lambda words: (
        leaping(hostile) if hostile.called["TIME"] <= before else b"-NOPERM no TIME any more\r\n"
    )
    found = read(hostile, "clock")
    assert (len(found.keys), found.gone) == (100, 0)
    assert min(found.expiries) >= 1_800_000_000_000 + IN_AN_HOUR


@pytest.mark.parametrize("reply", [[b"1", b"2"], [1, 2]])
def test_a_time_may_be_told_by_numbers(reply: list[Any]) -> None:
    assert fits("TIME", reply)


@pytest.mark.parametrize("reply", [b"1", None, [1], [1, b"2"], [-1, 2], [1, 10**6], [[1], [2]]])
def test_what_is_no_time(reply: Any) -> None:
    assert not fits("TIME", reply)


# Cursors and types


@pytest.mark.parametrize("cursor", [b"9" * 5000, b"18446744073709551616", b"-1", b""])
def test_a_cursor_that_no_server_counts_to(cursor: bytes) -> None:
    for command in ("SCAN", "SSCAN", "HSCAN"):
        assert not fits(command, [cursor, []])
        assert fits(command, [b"18446744073709551615", []])


def test_a_cursor_of_thousands_of_digits(hostile: Hostile, connection: Connection) -> None:
    hostile.answers["SCAN"] = answering(scan_reply(b"9" * 5000, []))
    with pytest.raises(SourceUnusable, match=f"answered SCAN {MALFORMED}"):
        scanned(connection, "source", connection.call("SCAN", 0))


def test_a_type_that_is_none_leaves_no_key_out(hostile: Hostile, server: StartServer) -> None:
    hostile.answers["TYPE"] = answering(b"*1\r\n+string\r\n")
    code, told = play(hostile, server("7.0"), "--type", "string,hash")
    assert code == SOURCE
    assert f"answered TYPE {MALFORMED}" in told


# Replicas


def upstream(**fields: str) -> Upstream:
    known = {"role": "slave", "master_host": "h", "master_port": "1", "db0": "keys=1"}
    told = parse_upstream(known | fields)
    assert told
    return told


def test_seconds_below_zero_are_those_of_a_clock_that_was_set_back() -> None:
    up = upstream(master_link_status="up", master_last_io_seconds_ago="-3600")
    assert (up.silent_for, up.lag, up.fault) == (0, "", "")
    down = upstream(master_link_down_since_seconds="-7", slave_repl_offset="1")
    assert (down.down_for, down.fault) == (0, "")
    assert "lost the link" in down.lag
    never = upstream(master_link_down_since_seconds="-1", slave_repl_offset="-1")
    assert "never synchronised" in never.fault


@pytest.mark.parametrize("text", ["-", "--1", "1-", "-9999999999999999999999", "x"])
def test_seconds_that_are_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        upstream(master_last_io_seconds_ago=text)


def test_a_replica_that_does_not_know_its_offset(
    hostile: Hostile, connection: Connection
) -> None:
    text = INFO.format(run_id="f", keys=1).replace("role:master", "role:slave")
    hostile.answers["INFO"] = answering(
        bulk(f"{text}slave_repl_offset:-1\nmaster_last_io_seconds_ago:-2\n".encode())
    )
    state = read_state(connection)
    assert state and (state.offset, state.role) == (-1, "slave")
