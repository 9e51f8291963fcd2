"""Logging in: to servers of all ages, by user and password, by one of them, and in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.hostile import Hostile, answering
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile(keys=100) as server:
        yield server


def play(source: str, target: str, *flags: str) -> tuple[int, str]:
    done = rumpx("--from", source, "--to", target, "--progress", "none", *flags, timeout=30)
    assert "Traceback" not in done.stderr and "secret" not in done.stderr
    return done.returncode, done.stderr


def test_a_server_older_than_users(hostile: Hostile, server: StartServer) -> None:
    """Redis before 6.0 takes a password alone; many URIs name a user all the same."""
    seen = set()

    def log_in(words: list[bytes]) -> bytes:
        seen.add(tuple(words[1:]))
        if len(words) == 2:
            return b"+OK\r\n"
        return b"-ERR wrong number of arguments for 'auth' command\r\n"

    hostile.answers["AUTH"] = log_in
    uri = hostile.uri.replace("://", "://h:secret@")
    target = server("7.0")
    assert play(uri, target.uri) == (0, "")
    assert target.do("DBSIZE") == 100
    assert seen == {(b"h", b"secret"), (b"secret",)}


def test_a_user_without_a_password(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "v")
    source.do("ACL", "SETUSER", "alice", "on", "nopass", "~*", "-@all", "+ping")
    code, told = play(source.uri.replace("://", "://alice@"), target.uri)
    assert code == 6 and "ACL SETUSER" in told
    source.do("ACL", "SETUSER", "alice", "+@all")
    assert play(source.uri.replace("://", "://alice@"), target.uri) == (0, "")


def test_a_server_that_repeats_the_password(hostile: Hostile, server: StartServer) -> None:
    hostile.answers["AUTH"] = answering(
        b"-ERR unknown command 'AUTH', with args beginning with: 'secret' \r\n"
    )
    code, told = play(hostile.uri.replace("://", "://:secret@"), server("7.0").uri)
    assert code == 6 and "login failed: ERR unknown command 'AUTH'. Check" in told


def test_what_is_no_redis_takes_a_servers_place_during_a_copy(server: StartServer) -> None:
    """Found out at once, not after --retry-for."""
    source = server("7.0")
    source.do("EVAL", "for n = 1, 300 do redis.call('SET', n, n) end", 0)
    with Hostile(keys=0) as target:
        def info(words: list[bytes]) -> bytes | None:
            return b"HTTP/1.1 400 Bad Request\r\n\r\n" if len(target.restored) == 300 else None

        target.answers["INFO"] = info
        code, told = play(source.uri, target.uri, "--retry-for", "1h")
    assert code == 7 and "answered INFO with bytes that do not follow the Redis protocol" in told
