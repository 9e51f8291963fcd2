"""The quickest way from Python to a server: a socket and hiredis, commands in bulk.

`redis-py` costs tens of microseconds per command, which a million keys cannot afford.
RESP2 only; an error reply is returned as a value (`RawError`), never raised by `many`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import hiredis

Arg = bytes | str | int | float
Address = tuple[str, int] | str


class RawError(Exception):
    """An error reply of a server."""


def pack(*args: Arg) -> bytes:
    """One command as RESP bytes."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed


class Raw:
    """One connection to one server, by (host, port) or by the path of a unix socket."""

    def __init__(
        self,
        address: Address,
        *,
        password: str | None = None,
        username: str | None = None,
        db: int = 0,
        timeout: float = 30.0,
    ) -> None:
        self.address = address
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(timeout)
            try:
                self.sock.connect(address)
            except OSError:
                self.sock.close()
                raise
        else:
            self.sock = socket.create_connection(address, timeout=timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader(replyError=RawError, notEnoughData=Ellipsis)
        self.reader.setmaxbuf(0)
        self.buffer = bytearray(1 << 20)
        self.db = 0
        try:
            if password is not None:
                self.do("AUTH", *((username,) if username else ()), password)
            self.select(db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def select(self, db: int) -> None:
        """Choose a database; costs nothing if it is the current one."""
        if db != self.db:
            self.do("SELECT", db)
            self.db = db

    def send(self, data: bytes) -> None:
        """Send commands already packed; their replies must be fetched with `replies`."""
        self.sock.sendall(data)

    def replies(self, count: int) -> list[Any]:
        """The next `count` replies; errors are values of the type `RawError`."""
        out: list[Any] = []
        gets, feed = self.reader.gets, self.reader.feed
        while len(out) < count:
            reply = gets()
            if reply is ...:
                size = self.sock.recv_into(self.buffer)
                if not size:
                    raise ConnectionError(f"{self.address} closed the connection")
                feed(self.buffer, 0, size)  # type: ignore[arg-type]
            else:
                out.append(reply)
        return out

    def many(self, commands: Iterable[Sequence[Arg]]) -> list[Any]:
        """Send a batch of commands and return all replies."""
        packed = [pack(*command) for command in commands]
        self.send(b"".join(packed))
        return self.replies(len(packed))

    def do(self, *args: Arg) -> Any:
        """One command; an error reply is raised."""
        self.send(pack(*args))
        reply = self.replies(1)[0]
        if isinstance(reply, RawError):
            raise RawError(f"{args[0]!r} to {self.address}: {reply}")
        return reply

    def info(self, section: str = "everything") -> dict[str, str]:
        """INFO as a flat dictionary of text."""
        text: bytes = self.do("INFO", section)
        pairs = (line.partition(":") for line in text.decode().splitlines())
        return {name: value for name, colon, value in pairs if colon}
