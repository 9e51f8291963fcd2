"""Servers that answer what they like: every run ends, says why, and loses nothing silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.errors import plain
from rumpx.servers.endless import Endless
from support.hostile import MODES, Answers, Hostile, answering, any_reply, bulk, scan_reply
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]
SOURCE, TARGET = 6, 7


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile(keys=100) as server:
        yield server


def play(source: Hostile | Server, target: Hostile | Server, *flags: str) -> tuple[int, str]:
    ends = ("--from", source.uri, "--to", target.uri)
    patience = ("--retry-for", "2s", "--timeout", "2s", "--progress", "none")
    done = rumpx(*ends, *patience, *flags, timeout=40)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_server_that_behaves(hostile: Hostile, server: StartServer) -> None:
    """So that what follows is about what it answers, not about the server itself."""
    target = server("7.0")
    assert play(hostile, target, "--verify") == (0, "")
    assert target.do("GET", "k:7") == b"value"
    with Hostile(keys=0) as other:
        assert play(target, other)[0] == 0
        assert len(other.restored) == 100


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("endless cursor", "shows several times the keys that DBSIZE reports"),
        ("cursor that goes round", "the server repeats a cursor"),
        ("push", "answered SCAN with an invalid reply"),
        ("map", "SCAN"),
        ("array of 4 billion", "a reply larger than this machine can hold"),
    ],
)
def test_scans_that_are_none(
    hostile: Hostile, server: StartServer, mode: str, words: str
) -> None:
    hostile.answers["SCAN"] = MODES[mode]()
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert words in told


@pytest.mark.parametrize(
    "answer",
    [
        scan_reply(b"seven", []),
        scan_reply(b"18446744073709551616", []),
        b"*2\r\n$1\r\n0\r\n*1\r\n*1\r\n$1\r\nk\r\n",
        b"*1\r\n$1\r\n0\r\n",
    ],
)
def test_a_reply_to_scan_that_is_misshapen(
    hostile: Hostile, server: StartServer, answer: bytes
) -> None:
    hostile.answers["SCAN"] = answering(answer)
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert "answered SCAN with an invalid reply" in told


@pytest.mark.parametrize("answer", [b":12\r\n", b"*0\r\n", b"*1\r\n$1\r\nk\r\n"])
def test_a_payload_that_is_none_is_not_taken_for_a_key_that_is_gone(
    hostile: Hostile, server: StartServer, answer: bytes
) -> None:
    hostile.answers["DUMP"] = answering(answer)
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert "answered DUMP or the command for its expiry with an invalid reply" in told


@pytest.mark.parametrize("answer", [b":1\r\n", b"$-1\r\n", b"+QUEUED\r\n"])
def test_an_answer_that_is_not_ok_is_no_acknowledgement(
    server: StartServer, answer: bytes
) -> None:
    source = server("7.0")
    source.do("SET", "k", "1")
    with Hostile() as target:
        usual: Answers = lambda words: None if words[2] == b"-1" else answer  # noqa: E731
        target.answers["RESTORE"] = usual
        code, told = play(source, target, "--on-conflict", "replace")
    assert code == TARGET
    assert "answered RESTORE with an invalid reply" in told


def test_what_a_server_says_does_not_reach_the_terminal_raw(
    hostile: Hostile, server: StartServer
) -> None:
    words = "\x1b]0;owned\x07\x1b[2J\u202eevil\u200b\x9b31m"
    hostile.answers["SCAN"] = answering(f"-ERR {words}\r\n".encode())
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert "owned" in told and all(line.isprintable() for line in told.splitlines())


@given(st.text())
def test_plain_text_is_printable_and_stays_what_it_was(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(text) == text or not text.isprintable()


@given(length=st.integers(1, 2000), before=st.integers(0, 500))
def test_every_circle_is_noticed_soon(length: int, before: int) -> None:
    cursors = [*range(1, before + 1), *(before + 1 + n % length for n in range(3 * length + 2000))]
    watch = Endless()
    noticed = next(n for n, cursor in enumerate(cursors) if watch.watch(cursor, 0, 1, lambda: 0))
    assert before + length <= noticed <= 4 * (before + length) + 4


@given(st.lists(st.integers(0, 2**64 - 1), unique=True))
def test_no_circle_is_seen_where_none_is(cursors: list[int]) -> None:
    watch = Endless()
    assert not any(watch.watch(cursor, 0, 1, lambda: 0) for cursor in cursors)


def test_the_servers_payload_is_one_that_a_real_server_takes() -> None:
    assert any_reply(bulk(b"x")) == b"x"
