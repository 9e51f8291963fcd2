"""Redirections: they lead only to nodes that the cluster itself names, and come to an end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from rumpx.engine.filters import name_tests
from rumpx.model.job import Scope
from support.hostile import Answer, Answers, Hostile, Words, array, bulk
from support.proxy import Proxy
from support.run import rumpx
from support.servers import Server
from support.tls import TlsFiles

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]
SOURCE, TARGET, TEMPORARY = 6, 7, 5
PASSWORD = "secret"


class Listener:
    """A stranger: takes connections and all that comes over them, and answers nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.heard = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                with client, contextlib.suppress(OSError):
                    client.settimeout(1.0)
                    self.heard += client.recv(2**16)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def stranger() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile(keys=100) as server:
        yield server


@pytest.fixture
def hostile_target() -> Iterator[Hostile]:
    with Hostile(keys=0) as server:
        server.run_id = "e" * 40
        yield server


def redirect(word: str, port: int) -> Answers:
    """Redirects every key, but not the keys that rights are tried on."""

    def answer(words: Words) -> Answer:
        if words[0].upper() == b"RESTORE" and words[2] == b"-1":
            return None
        return b"-%s 1 127.0.0.1:%d\r\n" % (word.encode(), port)

    return answer


def make_cluster(first: Hostile, *others: int, slots: str = "0-16383", port: int = 0) -> None:
    """Have a server say that it is a cluster's node; the others have no slots."""
    port = port or first.port
    lines = [f"{'a' * 40} 127.0.0.1:{port}@1 myself,master - 0 0 1 connected {slots}"]
    for number, other in enumerate(others):
        lines.append(f"{number:040} 127.0.0.1:{other}@1 master - 0 0 2 connected")
    nodes = bulk("".join(f"{line}\n" for line in lines).encode())
    place = array(bulk(b"127.0.0.1"), b":%d\r\n" % port, bulk(b"a" * 40))
    answers = {b"NODES": nodes, b"SLOTS": array(array(b":0\r\n", b":16383\r\n", place))}
    first.answers["CLUSTER"] = lambda words: answers.get(words[1].upper())


def with_password(uri: str) -> str:
    """A hostile server takes any."""
    return uri.replace("://", f"://:{PASSWORD}@")


def play(source: str, target: str, *flags: str, verb: str = "") -> tuple[int, str]:
    words = [verb, "--from", source, "--to", target] if verb else ["--from", source, "--to", target]
    patience = ("--retry-for", "1s", "--timeout", "2s", "--progress", "none", "--workers", "1")
    done = rumpx(*words, *patience, *flags, timeout=40)
    assert "Traceback" not in done.stderr and PASSWORD not in done.stderr
    return done.returncode, done.stderr


# --- a single server ------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "verb"), [("MOVED", ""), ("ASK", ""), ("MOVED", "verify")])
def test_a_source_that_is_no_cluster_is_not_followed(
    hostile: Hostile, server: StartServer, stranger: Listener, word: str, verb: str
) -> None:
    hostile.answers["DUMP"] = redirect(word, stranger.port)
    code, told = play(with_password(hostile.uri), server("7.0").uri, verb=verb)
    assert code == SOURCE
    assert f"at 127.0.0.1:{hostile.port} redirects to 127.0.0.1:{stranger.port} ({word}" in told
    assert "--from-cluster yes" in told
    assert stranger.connections == 0


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_target_that_is_no_cluster_is_not_followed(
    hostile: Hostile, hostile_target: Hostile, stranger: Listener, word: str
) -> None:
    hostile_target.answers["RESTORE"] = redirect(word, stranger.port)
    code, told = play(hostile.uri, with_password(hostile_target.uri))
    assert code == TARGET
    assert f"redirects to 127.0.0.1:{stranger.port} ({word}" in told
    assert "--to-cluster yes" in told
    assert stranger.connections == 0


def test_keys_that_are_there_are_compared_with_no_redirection(
    hostile: Hostile, server: StartServer, stranger: Listener
) -> None:
    """Of the comparison that a conflict asks for."""
    target = server("7.0")
    for key in hostile.keys[:10]:
        target.do("SET", key, "other")
    hostile.answers["GET"] = hostile.answers["STRLEN"] = redirect("MOVED", stranger.port)
    code, told = play(hostile.uri, target.uri, "--on-conflict", "skip")
    assert code == SOURCE
    assert f"redirects to 127.0.0.1:{stranger.port} (MOVED" in told
    assert stranger.connections == 0


# --- redirections that settle nothing -------------------------------------------------------------


@pytest.mark.parametrize(("word", "verb"), [("MOVED", ""), ("ASK", ""), ("ASK", "verify")])
def test_redirections_in_a_circle_end(
    hostile: Hostile, server: StartServer, word: str, verb: str
) -> None:
    make_cluster(hostile)
    hostile.answers["DUMP"] = redirect(word, hostile.port)
    code, told = play(hostile.uri, server("7.0").uri, verb=verb)
    assert code == TEMPORARY
    assert f"redirects to 127.0.0.1:{hostile.port} ({word})" in told
    # With pauses that grow, not as fast as it can: with each round comes one pipeline for them all.
    assert hostile.called["DUMP"] < 100 * 30


def test_redirections_in_a_circle_end_at_the_target(
    hostile: Hostile, hostile_target: Hostile
) -> None:
    target = hostile_target
    make_cluster(target)
    target.answers["RESTORE"] = redirect("MOVED", target.port)
    code, told = play(hostile.uri, target.uri)
    assert code == TEMPORARY
    assert f"redirects to 127.0.0.1:{target.port} (MOVED)" in told


def test_looking_for_keys_on_the_source_ends(hostile: Hostile, server: StartServer) -> None:
    """EXISTS, of which no payload comes."""
    target = server("7.0")
    target.do("SET", "k:0", "value")
    target.do("SET", "only here", "value")
    hostile.keys = hostile.keys[:1]
    make_cluster(hostile)
    hostile.answers["EXISTS"] = redirect("MOVED", hostile.port)
    code, told = play(hostile.uri, target.uri, verb="verify")
    assert code == TEMPORARY
    assert f"redirects to 127.0.0.1:{hostile.port} (MOVED)" in told


# --- nodes that a cluster does not name -----------------------------------------------------------


@pytest.mark.parametrize(("word", "verb"), [("MOVED", ""), ("ASK", ""), ("ASK", "verify")])
def test_a_node_that_the_source_does_not_name_is_sent_nothing(
    hostile: Hostile, server: StartServer, stranger: Listener, word: str, verb: str
) -> None:
    make_cluster(hostile)
    hostile.answers["DUMP"] = redirect(word, stranger.port)
    code, told = play(with_password(hostile.uri), server("7.0").uri, verb=verb)
    assert code == TEMPORARY
    names = f"at 127.0.0.1:{hostile.port} redirects to 127.0.0.1:{stranger.port} ({word})"
    assert names in told and "not one of the nodes that the cluster itself names" in told
    assert stranger.connections == 0


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_node_that_the_target_does_not_name_is_sent_nothing(
    hostile: Hostile, hostile_target: Hostile, stranger: Listener, word: str
) -> None:
    make_cluster(hostile_target)
    hostile_target.answers["RESTORE"] = redirect(word, stranger.port)
    code, told = play(hostile.uri, with_password(hostile_target.uri))
    assert code == TEMPORARY
    assert f"redirects to 127.0.0.1:{stranger.port} ({word})" in told
    assert stranger.connections == 0


@pytest.mark.parametrize("word", ["MOVED", "ASK"])
def test_a_node_that_joined_meanwhile_is_found_by_asking_anew(
    hostile: Hostile, server: StartServer, word: str
) -> None:
    """Though it has no slots: CLUSTER NODES alone names it."""
    target = server("7.0")
    make_cluster(hostile)
    with Hostile(keys=100) as joined:

        def answer(words: Words) -> Answer:
            make_cluster(hostile, joined.port)
            return redirect(word, joined.port)(words)

        hostile.answers["DUMP"] = answer
        code, told = play(hostile.uri, target.uri)
        assert (code, told) == (0, "")
        assert joined.called["DUMP"] >= 100
    assert target.do("DBSIZE") == 100


def test_a_redirection_to_a_mapped_address_leads_to_its_node(
    hostile: Hostile, server: StartServer
) -> None:
    target = server("7.0")
    with Hostile(keys=100) as other:
        make_cluster(hostile, 7)  # where nobody listens
        hostile.answers["DUMP"] = redirect("ASK", other.port)
        mapped = f"127.0.0.1:7=127.0.0.1:{other.port}"
        assert play(hostile.uri, target.uri, "--from-map-address", mapped) == (0, "")
    assert target.do("DBSIZE") == 100


# --- slots that never come to rest ----------------------------------------------------------------


def test_a_slot_that_moves_to_and_fro_ends_the_copy(server: StartServer) -> None:
    with Hostile(keys=100) as one, Hostile(keys=0) as two:
        looks = 0

        def nodes(me: Hostile, words: Words) -> Answer:
            """Once keys are read a slot is the one's and the other's by turns: who looks for moves
            asks the second one last."""
            nonlocal looks
            if words[1].upper() != b"NODES":
                return None
            cut = 16_381 + (looks + (one.called["DUMP"] >= len(one.keys))) % 2
            looks += me is two
            lines = [
                f"{each.port:040} 127.0.0.1:{each.port}@1 "
                f"{'myself,' * (each is me)}master - 0 0 1 connected {slots}"
                for each, slots in ((one, f"0-{cut}"), (two, f"{cut + 1}-16383"))
            ]
            return bulk("".join(f"{line}\n" for line in lines).encode())

        for each in (one, two):
            each.answers["CLUSTER"] = partial(nodes, each)
        code, told = play(one.uri, server("7.0").uri)
    assert code == TEMPORARY
    assert "A slot of the source moved 11 times" in told


# --- TLS ------------------------------------------------------------------------------------------


def test_a_plain_port_of_a_cluster_with_tls_is_told_no_password(
    hostile: Hostile,
    server: StartServer,
    proxy: StartProxy,
    stranger: Listener,
    tls_files: TlsFiles,
) -> None:
    """Even where the cluster names it."""
    way = proxy(hostile.port, tls=tls_files)
    make_cluster(hostile, stranger.port, port=way.port)
    hostile.answers["DUMP"] = redirect("ASK", stranger.port)
    uri = with_password(f"rediss://127.0.0.1:{way.port}")
    code, told = play(uri, server("7.0").uri, "--from-ca", str(tls_files.ca))
    assert code in (SOURCE, TEMPORARY), told
    assert stranger.connections > 0
    assert stranger.heard.startswith(b"\x16\x03")
    assert PASSWORD.encode() not in stranger.heard and b"AUTH" not in stranger.heard


# --- keys that were not asked for -----------------------------------------------------------------


def test_keys_that_scan_was_not_asked_for_are_left_alone(
    hostile: Hostile, server: StartServer
) -> None:
    """The server is asked for some by MATCH, and shows all."""
    target = server("7.0")
    assert play(hostile.uri, target.uri, "--match", "k:1?") == (0, "")
    assert set(target.do("KEYS", "*")) == {b"k:%d" % n for n in range(10, 20)}
    assert play(target.uri, hostile.uri, "--match", "k:1?", verb="verify")[0] == 0
    hostile.called.clear()
    flags = ("--prefixes", "k:1,k:2", "--on-conflict", "replace")
    assert play(hostile.uri, target.uri, *flags) == (0, "")
    # Each key is in one partition only; a few more are tried at the start.
    assert 100 <= hostile.called["DUMP"] < 120
    assert target.do("DBSIZE") == 100


@pytest.mark.parametrize(
    ("key", "passes"),
    [(b"b", True), (b"A", True), (b"\xff", True), (b"\x80", True), (b"bb", False)],
)
def test_either_order_of_bytes_will_do_where_a_server_has_decided(
    key: bytes, passes: bool
) -> None:
    """The range of one glob is read in one way on x86, and in another on ARM."""
    (test,) = name_tests(Scope(match=(b"[a-\xff]",)))
    assert bool(test(key)) is passes
    (test,) = name_tests(Scope(match=(b"[a-\xff]", b"none")))
    assert bool(test(key)) is (passes and key in (b"A", b"\xff"))
