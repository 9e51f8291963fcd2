"""A relay to a server, of which it answers some commands as another server would: RESTORE as a
version that knows fewer options, and FT._LIST as one with search indexes. It also tells of each
command before the server has it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from typing import Any, BinaryIO

import hiredis

from rumpx.servers.resp import encode
from support.listener import Listener


class Impostor(Listener):
    """One relay.

    Args:
        port: of the server behind it.
        options: the options of RESTORE that are known; None for those of the server.
        indexes: what FT._LIST answers; none is an unknown command.
        before: is called with each command before it is answered.
    """

    def __init__(
        self,
        port: int,
        options: Collection[bytes] | None = None,
        indexes: tuple[bytes, ...] = (),
        before: Callable[[list[bytes]], None] = lambda command: None,
    ) -> None:
        self._server = port
        self._before = before
        self._options = options
        self._indexes = indexes
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        """Relay commands, and answer some."""
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self._server)) as server:
            replies = server.makefile("rb")
            while data := client.recv(2**18):
                reader.feed(data)
                answers = []
                while (command := reader.gets()) is not False:
                    answers.append(self._answer(command, server, replies))
                client.sendall(b"".join(answers))

    def _answer(self, command: list[Any], server: socket.socket, replies: BinaryIO) -> bytes:
        self._before(command)
        name = command[0].upper()
        known = self._options
        words = command[4:] if name == b"RESTORE" and known is not None else ()
        if any(word.upper() not in (known or ()) for word in words):
            return b"-ERR syntax error\r\n"
        if name == b"FT._LIST" and self._indexes:
            return encode(*self._indexes)
        server.sendall(encode(*command))
        return _reply(replies)


def _reply(replies: BinaryIO) -> bytes:
    """One reply's bytes."""
    line = replies.readline()
    if not line:
        raise EOFError
    kind, number = line[:1], line[1:]
    if kind == b"$" and int(number) >= 0:
        return line + replies.read(int(number) + 2)
    if kind == b"*" and int(number) > 0:
        return line + b"".join(_reply(replies) for _ in range(int(number)))
    return line
