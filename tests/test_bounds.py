"""Answers at the edge of what their commands have: too short, too long, below zero, without end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from rumpx.errors import ConnectionLost
from rumpx.servers.replicas import read_state
from rumpx.servers.resp import Connection, last_words
from rumpx.servers.upstream import Upstream, parse_upstream
from rumpx.values.shapes import fits
from support.hostile import INFO, Hostile, Words, answering, bulk, scan_reply
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


# Payloads

SHORT = [b"", b"0123456789"]


@pytest.mark.parametrize("payload", SHORT)
def test_a_payload_too_short_for_a_value_ends_a_copy(
    hostile: Hostile, server: StartServer, payload: bytes
) -> None:
    hostile.answers["DUMP"] = answering(bulk(payload))
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert f"answered DUMP or the question for its expiry {MALFORMED}" in told


def test_a_payload_too_short_for_a_value_ends_a_check(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["DUMP"] = answering(bulk(b""))
    code, told = play(hostile, server("7.0"), command="check")
    assert code == SOURCE
    assert f"answered DUMP {MALFORMED}" in told


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_payload_too_short_for_a_value_ends_a_comparison(hostile: Hostile, side: str) -> None:
    with Hostile(keys=100) as other:
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


def without_instants(server: Hostile, left: int = 5_000_000) -> None:
    """As before Redis 7.0: no PEXPIRETIME."""
    server.answers["PEXPIRETIME"] = answering(b"-ERR unknown command 'PEXPIRETIME'\r\n")
    server.answers["PTTL"] = answering(b":%d\r\n" % left)


@pytest.mark.parametrize(
    "answer", [b"+OK\r\n", b"*1\r\n:1\r\n", b"*2\r\n+a\r\n+b\r\n", b":1\r\n", b"*-1\r\n"]
)
def test_a_time_that_is_none_is_not_taken_for_a_clock(
    hostile: Hostile, server: StartServer, answer: bytes
) -> None:
    """Times left were once taken for instants, of which each key seemed to have expired."""
    without_instants(hostile)
    hostile.answers["TIME"] = lambda words: answer if hostile.called["DUMP"] > 3 else None
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert f"answered TIME {MALFORMED}" in told


@pytest.mark.parametrize("answer", [b"-NOPERM no TIME any more\r\n", b"+OK\r\n"])
def test_a_time_that_is_refused_when_it_is_asked_again(
    hostile: Hostile, server: StartServer, answer: bytes
) -> None:
    """The clock leaps, so that times are asked again and again, and is no clock after a while."""
    target = server("7.0")
    without_instants(hostile)

    def time(words: Words) -> bytes | None:
        calls = hostile.called["TIME"]
        if hostile.called["PTTL"] > 130:
            return answer
        return b"*2\r\n:1800000000\r\n:%d\r\n" % (10_000 * (calls % 100)) if calls > 11 else None

    hostile.answers["TIME"] = time
    code, told = play(hostile, target)
    if answer.startswith(b"-"):
        assert (code, target.do("DBSIZE")) == (0, 100), told
    else:
        assert code == SOURCE and f"answered TIME {MALFORMED}" in told


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


def test_a_cursor_of_thousands_of_digits_ends_a_copy(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["SCAN"] = answering(scan_reply(b"9" * 5000, []))
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert f"answered SCAN {MALFORMED}" in told


@pytest.mark.parametrize("answer", [b"*1\r\n+string\r\n", b":1\r\n"])
def test_a_type_that_is_none_leaves_no_key_out(
    hostile: Hostile, server: StartServer, answer: bytes
) -> None:
    hostile.answers["TYPE"] = answering(answer)
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
