"""What may stand between the program and servers: a balancer, and proxies that pass on little.

Both take connections in threads of their own until they are stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from support.servers import Server


class _Listener:
    """Takes connections on 127.0.0.1:`port`."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._ends: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                self._ends.append(client)
                self._begin(client)

    def _begin(self, client: socket.socket) -> None:
        raise NotImplementedError

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        self._end(source, target)

    def _dial(self, server: Server) -> socket.socket:
        end = socket.create_connection(("127.0.0.1", server.port))
        self._ends.append(end)
        return end

    @staticmethod
    def _end(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections; others may begin."""
        self._end(*self._ends[1:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._end(*self._ends)
        for end in self._ends:
            end.close()


class Balancer(_Listener):
    """Gives each connection to the next of some servers; `steady` gives all to the first."""

    def __init__(self, servers: Sequence[Server], *, steady: bool = False) -> None:
        self.steady = steady
        self.first = servers[0]
        self._turns = itertools.cycle(servers)
        super().__init__()

    def _begin(self, client: socket.socket) -> None:
        server = self._dial(self.first if self.steady else next(self._turns))
        for ends in ((client, server), (server, client)):
            threading.Thread(target=self._forward, args=ends, daemon=True).start()


class Damager(_Listener):
    """Replaces some bytes that a server (`up`: a client) sends by others, of the same length."""

    def __init__(self, server: Server, before: bytes, after: bytes, *, up: bool = False) -> None:
        assert len(before) == len(after)
        self._server, self._before, self._after, self._up = server, before, after, up
        super().__init__()

    def _begin(self, client: socket.socket) -> None:
        server = self._dial(self._server)
        ends = (client, server) if self._up else (server, client)
        threading.Thread(target=self._forward, args=ends[::-1], daemon=True).start()
        threading.Thread(target=self._damage, args=ends, daemon=True).start()

    def _damage(self, sender: socket.socket, receiver: socket.socket) -> None:
        kept = b""
        with contextlib.suppress(OSError):
            while True:
                if kept and not select.select([sender], [], [], 0.02)[0]:
                    receiver.sendall(kept)  # no rest comes: it was the end
                    kept = b""
                if not (data := sender.recv(1 << 16)):
                    break
                data = (kept + data).replace(self._before, self._after)
                # What may be the beginning of the bytes waits for the rest.
                ends = range(1, len(self._before))
                waits = max((n for n in ends if data.endswith(self._before[:n])), default=0)
                data, kept = data[: len(data) - waits], data[len(data) - waits :]
                receiver.sendall(data)
        self._end(sender, receiver)


class ShardingProxy(_Listener):
    """Passes on what `allows` lets through, and answers all else by an error reply, or, where
    `words` is empty, by ending the connection."""

    def __init__(self, server: Server, allows: Callable[[bytes], bool], words: str) -> None:
        self._server = server
        self._allows = allows
        self._words = words
        super().__init__()

    def _begin(self, client: socket.socket) -> None:
        threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = self._dial(self._server)
        stream = client.makefile("rb")
        replies = server.makefile("rb")
        with contextlib.suppress(OSError, ValueError):
            while header := stream.readline():
                parts = [_bulk(stream) for _ in range(int(header[1:]))]
                name = parts[0].upper()
                if self._allows(name):
                    encoded = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
                    server.sendall(b"*%d\r\n" % len(parts) + encoded)
                    client.sendall(_reply(replies))
                elif self._words:
                    client.sendall(f"-{self._words.format(name.decode())}\r\n".encode())
                else:
                    break
        self._end(client, server)


def _bulk(stream: object) -> bytes:
    size = int(stream.readline()[1:])  # type: ignore[attr-defined]
    return stream.read(size + 2)[:-2]  # type: ignore[attr-defined,no-any-return]


def _reply(stream: object) -> bytes:
    line: bytes = stream.readline()  # type: ignore[attr-defined]
    if line[:1] == b"$" and int(line[1:]) >= 0:
        return line + stream.read(int(line[1:]) + 2)  # type: ignore[attr-defined,no-any-return]
    if line[:1] == b"*":
        return line + b"".join(_reply(stream) for _ in range(int(line[1:])))
    return line
