"""The frame of servers that tests make up: a port, and a thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

import hiredis


class Listener:
    """Listens on a port of 127.0.0.1 while it is open.

    A subclass implements `serve`. It calls this class's `__init__` last, since connections may come
    from then on.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and end all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections."""
        with self._lock:
            for client in self._open:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def arrived(self) -> None:
        """Note a new connection; called in their order."""

    def serve(self, client: socket.socket) -> None:
        """Serve one connection, in a thread of its own, until it ends or fails."""
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    self._open.add(client)
                    self.arrived()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Like a server, it ends a connection on which something else than RESP is spoken.
        with client, contextlib.suppress(OSError, EOFError, hiredis.ProtocolError):
            self.serve(client)
        with self._lock:
            self._open.discard(client)
