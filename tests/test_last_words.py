"""What a server says last before it closes a connection is told."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import parse_endpoint
from rumpx.servers.dial import Dialer
from rumpx.servers.resp import Connection, encode
from support.servers import Server

StartServer = Callable[..., Server]


def dialer(server: Server) -> Dialer:
    return Dialer(parse_endpoint(server.uri, "target"), "target", 5.0, 5.0)


def test_after_a_failed_send(server: StartServer) -> None:
    target = server("7.0", proto_max_bulk_len="1mb")
    connection = dialer(target).connect()
    with pytest.raises(ConnectionLost, match="invalid bulk length"):
        for _ in range(20):
            connection.send(encode("SET", "big", b"x" * 2_400_000))
        connection.receive(1)
        connection.receive(1)


def test_where_a_server_has_no_room(server: StartServer) -> None:
    target = server("7.0")
    first = dialer(target).connect()
    target.do("CONFIG", "SET", "maxclients", 1)
    with pytest.raises(ConnectionLost, match="max number of clients"):
        dialer(target).connect()
    first.close()


@pytest.mark.parametrize("words", ["ERR max number of clients reached", "LOADING it loads"])
def test_before_the_end_of_a_pipeline(words: str) -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, "there")
    connection.send(b"")
    theirs.sendall(b"+OK\r\n-" + words.encode() + b"\r\n")
    theirs.close()
    with pytest.raises(ConnectionLost, match=words):
        connection.receive(3)


def test_an_error_about_a_command_is_none() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, "there")
    connection.send(b"")
    theirs.sendall(b"-BUSYKEY Target key name already exists.\r\n")
    theirs.close()
    with pytest.raises(ConnectionLost) as lost:
        connection.receive_oks(2)
    assert "BUSYKEY" not in str(lost.value)
