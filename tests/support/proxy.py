"""A TCP proxy that makes a network between the program and a server: slow, faulty, encrypted.

It runs in a thread of its own with an asyncio loop. The switches are plain attributes and
methods, to be used from the test's thread while data flows.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, Self

from support.servers import Server
from support.tls import TlsFiles

Direction = Literal["up", "down"]
"""up: from the client to the server; down: the replies."""

DIRECTIONS: tuple[Direction, ...] = ("up", "down")

CHUNK = 1 << 18
BACKLOG = 1 << 25
"""So many bytes may be under way in each direction if there is a delay (else one chunk)."""


class _Cut(Exception):
    """The connection is to end here, though neither side closed it."""


class _Flow:
    """One direction of one connection: chunks with the time they are due at the other end."""

    def __init__(self, proxy: Proxy, direction: Direction) -> None:
        self.proxy = proxy
        self.direction = direction
        self.queue: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.arrived = asyncio.Event()
        self.space = asyncio.Event()
        self.held = False

    async def receive(self, reader: asyncio.StreamReader) -> None:
        """Read chunks and put them on their way; an empty one is the end."""
        loop = asyncio.get_running_loop()
        chunk = b"-"
        while chunk:
            await self.proxy._flowing[self.direction].wait()
            try:
                chunk = await reader.read(CHUNK)
            except OSError:
                chunk = b""
            self.queue.append((loop.time() + self.proxy.delay(), chunk))
            self.size += len(chunk)
            self.arrived.set()
            while self.size >= (BACKLOG if self.proxy.rtt_ms else CHUNK):
                self.space.clear()
                await self.space.wait()

    async def deliver(self, writer: asyncio.StreamWriter) -> None:
        """Write chunks when they are due; returns at the end of the stream."""
        loop = asyncio.get_running_loop()
        while True:
            while not self.queue:
                self.arrived.clear()
                await self.arrived.wait()
            due, chunk = self.queue[0]
            delay = due - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            await self.proxy._flowing[self.direction].wait()
            if self.direction == "up":
                await self._hold(chunk)
            self.queue.popleft()
            if not chunk:
                return
            await self._write(writer, chunk)
            self.size -= len(chunk)
            self.space.set()

    async def _hold(self, chunk: bytes) -> None:
        """Wait, if this is to be held back, or something before it was."""
        proxy = self.proxy
        if proxy._hold_from and proxy._hold_from in chunk:
            proxy._hold_from = b""
            self.held = proxy.holding = True
        if self.held:
            await proxy._released.wait()

    async def _write(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        chunk, cut = self.proxy._count(self.direction, chunk)
        if self.proxy.trickle:
            for at in range(len(chunk)):
                await self.proxy._flowing[self.direction].wait()
                writer.write(chunk[at : at + 1])
                await writer.drain()
                await asyncio.sleep(0)
        elif chunk:
            writer.write(chunk)
            await writer.drain()
        if cut:
            raise _Cut


class Proxy:
    """Forwards 127.0.0.1:`port` to a server (or port) on 127.0.0.1.

    `tls` makes it speak TLS to its clients and plain text to the server;
    `require_client_cert` makes it demand a certificate signed by the CA, and `wrong_host` shows
    the certificate of another host name. `rtt_ms` is added to each round trip, half in each
    direction, without limiting the throughput (timers may add up to 1 ms to each half), and
    up to `jitter_ms` to each chunk, at random.

    Switches: `rtt_ms`, `jitter_ms`, `refuse` (accept and close at once), `trickle` (one byte at a
    time), `fail_fraction` (this share of new connections is closed at once; seeded), `hold` and
    `release` (what was sent on a connection before it was lost, and lands later).
    `server_names` are the names that clients asked for by SNI.
    Counters: `connections` (accepted), `refused` (of these, closed at once), `cuts` (done by
    `cut_after` and `cut_within`), `bytes_up`, `bytes_down`.
    """

    def __init__(
        self,
        target: Server | int,
        *,
        tls: TlsFiles | None = None,
        require_client_cert: bool = False,
        wrong_host: bool = False,
        rtt_ms: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.target_port = target if isinstance(target, int) else target.port
        self.password = None if isinstance(target, int) else target.password
        self.port = 0
        self.rtt_ms = rtt_ms
        self.jitter_ms = 0.0
        self.refuse = False
        self.trickle = False
        self.fail_fraction = 0.0
        self.connections = 0
        self.refused = 0
        self.cuts = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._rng = random.Random(seed)
        self._cut_after: tuple[Direction, int] | None = None
        self._cuts_left: list[int] = []
        self._cut_within: tuple[Direction, bytes, int] | None = None
        self._lock = threading.Lock()
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._clients: dict[_Flow, asyncio.StreamWriter] = {}
        self.server_names: list[str | None] = []
        self._ssl: ssl.SSLContext | None = None
        if tls:
            self._ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._ssl.sni_callback = lambda _, name, __: self.server_names.append(name)
            if wrong_host:
                self._ssl.load_cert_chain(tls.wrong_cert, tls.wrong_key)
            else:
                self._ssl.load_cert_chain(tls.cert, tls.key)
            if require_client_cert:
                self._ssl.load_verify_locations(tls.ca)
                self._ssl.verify_mode = ssl.CERT_REQUIRED
        self.holding = False
        self._hold_from = b""
        self._failed: BaseException | None = None
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="proxy", daemon=True
        )
        self._thread.start()
        started.wait()
        if self._failed:
            raise RuntimeError("the proxy did not start") from self._failed

    # The switches

    @property
    def uri(self) -> str:
        """redis[s]://[:password@]127.0.0.1:port, with the server's password if known."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis{'s' if self._ssl else ''}://{secret}127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Close all connections now, dropping what is under way; new ones are accepted."""
        self._call(self._abort_all(rst=False))

    def reset(self) -> None:
        """End all connections by RST ("connection reset by peer")."""
        self._call(self._abort_all(rst=True))

    def stall(self, *directions: Direction) -> None:
        """Stop reading and forwarding, in one direction or in both; connections stay open, and new
        ones are accepted."""
        for direction in directions or DIRECTIONS:
            self._loop.call_soon_threadsafe(self._flowing[direction].clear)

    def go(self) -> None:
        """End a stall."""
        for flowing in self._flowing.values():
            self._loop.call_soon_threadsafe(flowing.set)

    def cut_after(self, n_bytes: int, direction: Direction = "down", times: int = 1) -> None:
        """Let n more bytes through in a direction, then close the connection they were on; that
        often, one after the other."""
        with self._lock:
            self._cut_after = (direction, n_bytes)
            self._cuts_left = [n_bytes] * (times - 1)

    def cut_within(self, words: bytes, more: int = 0, direction: Direction = "down") -> None:
        """Once: let what comes in a direction through up to and with these words and so many bytes
        more, then close the connection they were on. (Words that fall on two of the chunks in
        which data is read are not seen; the next are.)"""
        with self._lock:
            self._cut_within = (direction, words, more)

    def hold(self, words: bytes) -> None:
        """Once: hold back what comes up on a connection, from the chunk on that has these words,
        until `release`, also when the client is gone. `holding` tells that it came to that."""
        self._hold_from = words

    def cut_held(self) -> None:
        """Cut the connection whose words are held back on the client's side alone."""
        self._call(self._abort_held())

    def release(self) -> None:
        """Let what was held back go on to the server, if that still takes it."""
        self._loop.call_soon_threadsafe(self._released.set)

    def delay(self) -> float:
        """The seconds for which the next chunk is on its way, one way."""
        return self.rtt_ms / 2000 + self._rng.uniform(0, self.jitter_ms / 1000)

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def stop(self) -> None:
        """Close everything and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)
            assert not self._thread.is_alive(), "the proxy does not stop"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    # What goes on in the thread

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._main(started))
        except BaseException as exc:
            self._failed = exc
            started.set()

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._flowing = {direction: asyncio.Event() for direction in DIRECTIONS}
        for flowing in self._flowing.values():
            flowing.set()
        self._released = asyncio.Event()
        server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=CHUNK, ssl=self._ssl, backlog=512
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopping.wait()
        server.close()
        # A connection that was accepted just now has a task that has not begun: it must, for it is
        # what closes the connection.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0)
            await self._abort_all(rst=False)
            await asyncio.wait(others, timeout=0.1)
        await asyncio.sleep(0.001)  # lets the transports' last callbacks run

    def _count(self, direction: Direction, chunk: bytes) -> tuple[bytes, bool]:
        """Count a chunk that is about to be forwarded; it is shortened if a cut is due in it."""
        cut = False
        with self._lock:
            if self._cut_within and self._cut_within[0] == direction:
                _, words, more = self._cut_within
                at = chunk.find(words)
                if at >= 0:
                    chunk, cut = chunk[: at + len(words) + more], True
                    self._cut_within = None
                    self.cuts += 1
            if self._cut_after and self._cut_after[0] == direction:
                left = self._cut_after[1]
                if len(chunk) >= left:
                    chunk, cut = chunk[:left], True
                    left = self._cuts_left.pop() if self._cuts_left else 0
                    self._cut_after = (direction, left) if left else None
                    self.cuts += 1
                else:
                    self._cut_after = (direction, left - len(chunk))
        if direction == "up":
            self.bytes_up += len(chunk)
        else:
            self.bytes_down += len(chunk)
        return chunk, cut

    async def _abort_all(self, rst: bool) -> None:
        for task, writers in list(self._open.items()):
            for writer in writers:
                if rst:
                    sock = writer.get_extra_info("socket")
                    linger = struct.pack("ii", 1, 0)
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            task.cancel()
        await asyncio.sleep(0.001)  # lets the transports close their sockets

    def held_clients(self) -> list[asyncio.StreamWriter]:
        """The clients' ends of the connection that is held back, for a look at them."""
        return [writer for flow, writer in list(self._clients.items()) if flow.held]

    async def _abort_held(self) -> None:
        for writer in self.held_clients():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        writers = [writer]
        self._open[task] = writers
        try:
            if self.refuse or (self.fail_fraction and self._rng.random() < self.fail_fraction):
                self.refused += 1
                return
            try:
                up_reader, up_writer = await asyncio.open_connection(
                    "127.0.0.1", self.target_port, limit=CHUNK
                )
            except OSError:
                return
            writers.append(up_writer)
            await self._forward(reader, writer, up_reader, up_writer)
        except asyncio.CancelledError:
            pass  # cut or stopped; all is closed below
        finally:
            for each in writers:
                each.close()
            for each in writers:
                with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
                    await asyncio.wait_for(each.wait_closed(), 1)
                each.transport.abort()
            del self._open[task]

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Until one direction has delivered its end, or the connection is cut."""
        up, down = _Flow(self, "up"), _Flow(self, "down")
        self._clients[up] = writer
        receiving = [
            asyncio.ensure_future(up.receive(reader)),
            asyncio.ensure_future(down.receive(up_reader)),
        ]
        delivering = [
            asyncio.ensure_future(up.deliver(up_writer)),
            asyncio.ensure_future(down.deliver(writer)),
        ]
        try:
            await asyncio.wait(delivering, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._clients[up]
            tasks = [*receiving, *delivering]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
