"""Answers that are not what was asked for: one too many, one too few, too slow, too large."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import parse_endpoint
from rumpx.servers import resp
from rumpx.servers.dial import Dialer
from rumpx.servers.resp import Connection, encode
from rumpx.throttle.prober import Pinger
from support.data import compare
from support.hostile import MODES, PAYLOAD, Answers, Hostile, answering, array, bulk, crc64
from support.raw import RawError
from support.run import rumpx
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
OUT_OF_STEP = "with more or fewer replies than commands"


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile(keys=200) as server:
        server.answers["DUMP"] = lambda words: bulk(payload_of(words[1]))
        yield server


def payload_of(key: bytes) -> bytes:
    """DUMP of a string that is its key's own name, as Redis 7.0 writes it."""
    body = b"\0" + bytes([len(key)]) + key + PAYLOAD[-10:-8]
    return body + crc64(body).to_bytes(8, "little")


def play(source: Hostile | Server, target: Hostile | Server, *flags: str) -> tuple[int, str]:
    ends = ("--from", source.uri, "--to", target.uri)
    patience = ("--retry-for", "2s", "--timeout", "1s", "--progress", "none")
    done = rumpx(*ends, *patience, *flags, timeout=40)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def seldom(command: Answers, at: int, instead: Callable[[bytes], bytes]) -> Answers:
    """An answer that is another one at one call."""
    calls = itertools.count()

    def answer(words: list[bytes]) -> bytes:
        usual = command(words)
        assert isinstance(usual, bytes)
        return instead(usual) if next(calls) == at else usual

    return answer


def own_value(words: list[bytes]) -> bytes:
    return bulk(payload_of(words[1]))


def no_expiry(words: list[bytes]) -> bytes:
    return b":-1\r\n"


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda usual: b"",
    "two": lambda usual: usual + usual,
    # A pair more: the payloads and expiries behind it look right, and belong to the key before.
    "a pair more": lambda usual: usual + b":-1\r\n" + usual,
}


def test_the_servers_values_are_told_apart(hostile: Hostile, server: StartServer) -> None:
    target = server("7.0")
    assert play(hostile, target, "--verify") == (0, "")
    assert target.do("GET", "k:7") == b"k:7"


@pytest.mark.parametrize(
    ("change", "multi"), [("none", True), ("two", True), ("none", False), ("a pair more", False)]
)
def test_no_value_goes_to_another_key(
    hostile: Hostile, server: StartServer, change: str, multi: bool
) -> None:
    """One reply is left out, or comes twice, in the middle of a copy."""
    hostile.answers["DUMP"] = seldom(own_value, 90, CHANGES[change])
    if not multi:
        hostile.answers["MULTI"] = answering(b"-ERR unknown command 'MULTI'\r\n")
        hostile.answers["EXEC"] = answering(b"-ERR unknown command 'EXEC'\r\n")
    target = server("7.0")
    code, told = play(hostile, target)
    there = {key: target.do("GET", key) for key in target.do("KEYS", "*")}
    assert all(key == value for key, value in there.items())
    assert code == 6 and "answered" in told
    assert OUT_OF_STEP in told or "an invalid reply" in told


def test_no_value_goes_to_the_key_of_another_group(hostile: Hostile, server: StartServer) -> None:
    """One EXEC has a pair of replies less, the next one a pair more: the pipeline's number is right
    and so is that of all replies in it."""
    kept: list[bytes] = []

    def executes(replies: list[bytes]) -> bytes:
        if len(replies) < 20:
            return array(*replies)
        replies = [*kept, *replies]
        kept[:] = [] if kept else replies[-2:]
        return array(*replies[: len(replies) - len(kept)])

    hostile.executes = executes
    target = server("7.0")
    code, told = play(hostile, target)
    there = {key: target.do("GET", key) for key in target.do("KEYS", "*")}
    assert all(key == value for key, value in there.items())
    assert code == 6 and "answered EXEC with an invalid reply" in told


@pytest.mark.parametrize("change", ["none", "two"])
def test_no_expiry_goes_to_another_key(
    hostile: Hostile, server: StartServer, change: str
) -> None:
    hostile.answers["PEXPIRETIME"] = seldom(no_expiry, 90, CHANGES[change])
    code, told = play(hostile, server("7.0"))
    assert code == 6
    assert OUT_OF_STEP in told or "an invalid reply" in told


@pytest.mark.parametrize("change", ["none", "two"])
def test_no_acknowledgement_is_taken_for_another_keys(server: StartServer, change: str) -> None:
    source = server("7.0")
    for n in range(200):
        source.do("SET", f"k:{n}", n)
    with Hostile(keys=0) as target:

        def restore(words: list[bytes]) -> bytes:
            return b"-ERR Invalid TTL value\r\n" if words[2] == b"-1" else b"+OK\r\n"

        target.answers["RESTORE"] = seldom(restore, 120, CHANGES[change])
        code, told = play(source, target)
    assert code == 7
    assert f"answered RESTORE {OUT_OF_STEP}" in told


def test_a_server_that_does_not_echo_is_copied_all_the_same(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["PING"] = answering(b"+PONG\r\n")
    assert play(hostile, server("7.0"), "--verify") == (0, "")


def test_a_source_that_cannot_save(server: StartServer, tmp_path: Path) -> None:
    """MISCONF is about writes, and PING; reading goes on."""
    source, target = server("7.0", save="3600 1", enable_protected_configs="yes"), server("7.0")
    source.do("EVAL", "for n = 1, 300 do redis.call('SET', n, n) end", 0)
    gone = tmp_path / "gone"
    gone.mkdir()
    source.do("CONFIG", "SET", "dir", str(gone))
    gone.rmdir()
    source.do("BGSAVE")
    failed: Callable[[], bool] = lambda: source.info()["rdb_last_bgsave_status"] == "err"  # noqa: E731
    wait_until(failed, 10, "a save that fails")
    with pytest.raises(RawError, match="MISCONF"):
        source.do("PING")
    assert play(source, target)[0] == 0
    assert target.do("DBSIZE") == 300


def test_a_source_that_cannot_save_is_felt(hostile: Hostile) -> None:
    hostile.answers["PING"] = answering(b"-MISCONF it cannot save\r\n")
    dialer = Dialer(parse_endpoint(hostile.uri, "source"), "source", 5.0, 5.0)
    pinger = Pinger(dialer, None, 0.02, lambda: None)
    pinger.start()
    wait_until(lambda: hostile.called["PING"] > 10, 5, "some PINGs")
    # It was made longer ago than a tenth of a second before that: it has been answered since.
    wait_until(lambda: not pinger.silent(time.monotonic() + 2.9), 5, "an answer")
    pinger.stop()


def test_a_fence_that_is_refused_for_a_while_is_tried_again(
    hostile: Hostile, server: StartServer
) -> None:
    """The connections are made while the server cannot save."""
    fences: list[bytes] = []

    def ping(words: list[bytes]) -> bytes | None:
        if hostile.called["DUMP"] < 20:
            return b"-MISCONF it cannot save\r\n"
        fences.extend(words[1:])
        return None

    hostile.answers["PING"] = ping
    assert play(hostile, server("7.0"), "--workers", "1", "--batch-keys", "10")[0] == 0
    assert sum(b"-" in word for word in fences) > 10


def test_a_user_who_may_not_ping(server: StartServer) -> None:
    """Also where that begins in the middle: the answers are asked for once more."""
    source, target = server("7.0"), server("7.0")
    for n in range(300):
        source.do("SET", f"k:{n}", n)
    source.do("ACL", "SETUSER", "default", "-ping")
    assert play(source, target)[0] == 0
    assert compare(source, target) == []


# --- one connection ---------------------------------------------------------------------------


class Played:
    """A connection to a server whose every byte the test writes."""

    def __init__(self, timeout: float = 5.0) -> None:
        ours, self.theirs = socket.socketpair()
        self.connection = Connection(ours, "there")
        self.connection.set_timeout(timeout)
        self.connection.fenced = True

    def fence(self) -> bytes:
        """Send one command, and give the reply to its fence."""
        self.connection.send(encode("GET", "k"))
        asked = self.theirs.recv(2**16)
        return bulk(asked.split(b"\r\n")[-2])


@given(
    before=st.integers(0, 3),
    sent=st.integers(0, 6),
    expected=st.integers(1, 3),
    cut=st.integers(1, 80),
)
def test_replies_are_given_out_only_if_their_number_is_right(
    before: int, sent: int, expected: int, cut: int
) -> None:
    """However the bytes are cut into pieces, and however many pipelines were right before."""
    played = Played()
    with closing(played.connection), played.theirs, pytest.MonkeyPatch.context() as patch:
        for n in range(before):
            played.theirs.sendall(b":%d\r\n" % n + played.fence())
            assert played.connection.receive(1) == [n]
        played.theirs.sendall(b":7\r\n" * sent + played.fence())
        patch.setattr(resp, "RECEIVE_BYTES", cut)
        if sent == expected:
            assert played.connection.receive(expected) == [7] * expected
            return
        with pytest.raises(ConnectionLost) as lost:
            played.connection.receive(expected)
        assert lost.value.cause == "malformed"
        assert f"The server at there answered GET {OUT_OF_STEP}." in str(lost.value)


@given(oks=st.integers(0, 6), expected=st.integers(1, 4))
def test_the_same_of_acknowledgements(oks: int, expected: int) -> None:
    played = Played()
    with closing(played.connection), played.theirs:
        played.theirs.sendall(b"+OK\r\n" * oks + played.fence())
        if oks == expected:
            assert played.connection.receive_oks(expected) is None
            return
        with pytest.raises(ConnectionLost) as lost:
            played.connection.receive_oks(expected)
        assert lost.value.cause == "malformed"


def test_what_comes_unasked_behind_a_single_answer() -> None:
    played = Played()
    with closing(played.connection), played.theirs:
        played.theirs.sendall(b"+PONG\r\n+PONG\r\n")
        with pytest.raises(ConnectionLost) as lost:
            played.connection.call("PING")
        assert lost.value.cause == "malformed"


def test_a_fence_that_is_refused_proves_nothing() -> None:
    """A user who may no longer call PING: the answers are asked for again."""
    played = Played()
    with closing(played.connection), played.theirs:
        played.fence()
        played.theirs.sendall(b":1\r\n-NOPERM no permission to run the 'ping' command\r\n")
        with pytest.raises(ConnectionLost) as lost:
            played.connection.receive(1)
    assert (lost.value.cause, lost.value.words) == ("", "")


def test_a_fence_that_is_refused_for_a_while_stands_for_its_word() -> None:
    played = Played()
    with closing(played.connection), played.theirs:
        played.fence()
        played.theirs.sendall(b":1\r\n-MISCONF it cannot save\r\n")
        assert played.connection.receive(1) == [1]
        played.theirs.sendall(b":1\r\n" + played.fence())
        assert played.connection.receive(1) == [1]


def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though each of its bytes comes in time."""
    monkeypatch.setattr(resp, "_SLOWEST", 10**6)
    played = Played(timeout=1.0)
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.1):
                played.theirs.sendall(b"1")

    played.connection.send(encode("GET", "k"))
    played.theirs.sendall(b":")
    thread = threading.Thread(target=drip)
    thread.start()
    with closing(played.connection), played.theirs:
        with pytest.raises(ConnectionLost) as lost:
            played.connection.receive(1)
        over.set()
        thread.join()
    assert lost.value.cause == "dripping"
    assert "bytes of a reply arrived in 1 s" in str(lost.value)


def test_an_answer_that_this_machine_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp, "_MOST_BYTES", 2**20)
    played = Played()
    played.connection.send(encode("DUMP", "k"))
    stream = threading.Thread(target=_stream, args=(played.theirs,))
    stream.start()
    with closing(played.connection), played.theirs:
        with pytest.raises(ConnectionLost) as lost:
            played.connection.receive(1)
        stream.join()
    assert lost.value.cause == "too large"
    assert "its reply to DUMP is larger than this machine can hold" in str(lost.value)


def _stream(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(b"$4000000000\r\n")
        while True:
            sock.sendall(b"x" * 2**16)


@pytest.mark.parametrize(
    "mode", ["array of 4 billion", "deep", "push", "map", "garbage", "number"]
)
def test_payloads_that_are_none(hostile: Hostile, server: StartServer, mode: str) -> None:
    hostile.answers["DUMP"] = MODES[mode]()
    code, told = play(hostile, server("7.0"))
    assert code == 6
    assert "answered DUMP" in told and "make room" not in told


def test_a_source_whose_answers_drip(hostile: Hostile, server: StartServer) -> None:
    """No key is blamed, and the run ends when its patience does."""
    drip = MODES["dripping"]()
    calls = itertools.count()
    # What is asked before the copy begins is answered as it should be.
    hostile.answers["DUMP"] = lambda words: drip(words) if next(calls) > 20 else own_value(words)
    hostile.answers["MULTI"] = answering(b"-ERR unknown command 'MULTI'\r\n")
    code, told = play(hostile, server("7.0"))
    assert code == 5, told
    assert "bytes of a reply arrived in" in told
