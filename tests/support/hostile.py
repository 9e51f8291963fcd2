"""A server that speaks RESP and answers what it likes.

It holds a few equal strings and answers, as a well-behaved Redis 7.0 would, what a copy, a check
or a comparison asks of a source or a target. A test makes it hostile by answers of its own::

    with Hostile(keys=100) as server:
        server.answers["DUMP"] = lambda words: b"-MOVED 1 127.0.0.1:%d\\r\\n" % server.port
        server.answers["SCAN"] = MODES["endless cursor"]

An answer is what goes on the wire, or None for the usual one; it may be a generator of pieces, with
the pauses between them that the generator makes. `MODES` holds those that several tests use, by
name. `called` counts the commands, `connections` the connections; both by any client.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import hiredis

from support.listener import Listener

Words = list[bytes]
Answer = bytes | Iterable[bytes] | None
Answers = Callable[[Words], Answer]

# DUMP of the string "value" by Redis 7.0: type 0, length 5, version 10, CRC64.
PAYLOAD = bytes.fromhex("000576616c75650a00") + bytes.fromhex("0000000000000000")
INFO = """\
# Server
redis_version:7.0.15
redis_mode:standalone
process_id:1
run_id:{run_id}
# Memory
used_memory:1000000
used_memory_startup:900000
used_memory_dataset:100000
maxmemory:0
maxmemory_policy:noeviction
# Persistence
loading:0
# Stats
expired_keys:0
evicted_keys:0
# Replication
role:master
master_replid:{run_id}
master_repl_offset:0
# CPU
used_cpu_sys:1.0
used_cpu_user:1.0
# Cluster
cluster_enabled:0
# Keyspace
db0:keys={keys},expires=0,avg_ttl=0
"""


def bulk(data: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def array(*replies: bytes) -> bytes:
    """An array of replies that are encoded already."""
    return b"*%d\r\n%b" % (len(replies), b"".join(replies))


def scan_reply(cursor: int | bytes, keys: Iterable[bytes]) -> bytes:
    """What SCAN answers."""
    cursor = cursor if isinstance(cursor, bytes) else b"%d" % cursor
    return array(bulk(cursor), array(*map(bulk, keys)))


class Hostile(Listener):
    """One such server.

    Args:
        keys: how many it claims to have, and shows by SCAN.

    Attributes:
        arrivals: when each connection came, by `time.monotonic()`.
        door: what a new connection is told before it is closed; None serves it.
        executes: from the replies to what MULTI has queued, what EXEC answers.
    """

    def __init__(self, keys: int = 100) -> None:
        self.keys = [b"k:%d" % number for number in range(keys)]
        self.answers: dict[str, Answers] = {}
        self.called: Counter[str] = Counter()
        self.restored: dict[bytes, bytes] = {}
        self.connections = 0
        self.arrivals: list[float] = []
        self.door: bytes | None = None
        self.executes: Callable[[list[bytes]], bytes] = lambda replies: array(*replies)
        self.run_id = "f" * 40
        super().__init__()

    def arrived(self) -> None:
        self.connections += 1
        self.arrivals.append(time.monotonic())

    def serve(self, client: socket.socket) -> None:
        """Answer commands."""
        reader = hiredis.Reader(notEnoughData=Ellipsis)
        queued: list[bytes] | None = None
        if self.door is not None:
            client.sendall(self.door)
            return
        while data := client.recv(2**16):
            reader.feed(data)
            while (words := reader.gets()) is not ...:
                queued = self._answer(client, words, queued)

    def _answer(
        self, client: socket.socket, words: Words, queued: list[bytes] | None
    ) -> list[bytes] | None:
        """Answer a command; what MULTI has queued, before and after."""
        name = words[0].upper().decode(errors="replace")
        with self._lock:
            self.called[name] += 1
        if name == "MULTI" and name not in self.answers:
            client.sendall(b"+OK\r\n")
            return []
        if name == "EXEC" and queued is not None:
            client.sendall(self.executes(queued))
            return None
        answer = self.answers[name](words) if name in self.answers else None
        if answer is None:
            answer = self._usual(name, words)
        pieces = [answer] if isinstance(answer, bytes) else answer
        if queued is not None:
            queued.append(b"".join(pieces))
            client.sendall(b"+QUEUED\r\n")
            return queued
        for piece in pieces:
            client.sendall(piece)
        return None

    def _usual(self, name: str, words: Words) -> bytes:
        match name:
            case "PING":
                return bulk(words[1]) if len(words) > 1 else b"+PONG\r\n"
            case "ECHO":
                return bulk(words[1])
            case "SELECT":
                return b"+OK\r\n" if words[1] == b"0" else b"-ERR DB index is out of range\r\n"
            case "AUTH" | "CLIENT" | "READONLY" | "ASKING":
                return b"+OK\r\n"
            case "INFO":
                text = INFO.format(run_id=self.run_id, keys=len(self.keys))
                return bulk(text.replace("\n", "\r\n").encode())
            case "DBSIZE":
                return b":%d\r\n" % (len(self.keys) + len(self.restored))
            case "TIME":
                seconds, micros = divmod(time.time_ns() // 1000, 10**6)
                return array(bulk(b"%d" % seconds), bulk(b"%d" % micros))
            case "SCAN":
                return self._scan(int(words[1]), int(words[3]) if len(words) > 3 else 10)
            case "DUMP":
                return bulk(PAYLOAD) if words[1] in self.keys else b"$-1\r\n"
            case "PEXPIRETIME" | "PTTL":
                return b":-1\r\n" if words[1] in self.keys else b":-2\r\n"
            case "MEMORY":
                return b":60\r\n" if words[2] in self.keys else b"$-1\r\n"
            case "TYPE":
                return b"+string\r\n" if words[1] in self.keys else b"+none\r\n"
            case "RESTORE":
                return self._restore(words)
            case "CLUSTER":
                return b"-ERR This instance has cluster support disabled\r\n"
            case _:
                return b"-ERR unknown command '%b'\r\n" % words[0]

    def _restore(self, words: Words) -> bytes:
        if words[2] == b"-1":
            return b"-ERR Invalid TTL value, must be >= 0\r\n"
        if words[3][:1] == b"\xff":
            return b"-ERR Bad data format\r\n"
        self.restored[words[1]] = words[3]
        return b"+OK\r\n"

    def _scan(self, cursor: int, count: int) -> bytes:
        end = min(cursor + count, len(self.keys))
        return scan_reply(end if end < len(self.keys) else 0, self.keys[cursor:end])


def _endless() -> Answers:
    """New names for ever, under a cursor that never comes to its end."""
    number = itertools.count(1)

    def answer(words: Words) -> bytes:
        cursor = next(number)
        return scan_reply(cursor, [b"new:%d:%d" % (cursor, n) for n in range(100)])

    return answer


def _endless_and_empty() -> Answers:
    """No name at all, under a cursor that never comes to its end, nor leaves the first slot."""
    number = itertools.count(1)
    return lambda words: scan_reply(next(number) << 14, [])


def _round() -> Answers:
    """The same names for ever, under cursors that go round."""

    def answer(words: Words) -> bytes:
        cursor = int(words[1]) % 7 + 1
        return scan_reply(cursor, [b"k:%d" % (10 * cursor + n) for n in range(10)])

    return answer


def _dripping(pause: threading.Event) -> Answers:
    """An answer of which a byte comes at a time, each soon after the one before."""

    def pieces() -> Iterator[bytes]:
        for byte in bulk(PAYLOAD):
            yield bytes([byte])
            pause.wait(0.3)

    return lambda words: pieces()


def answering(data: bytes) -> Answers:
    """The same bytes, whatever is asked."""
    return lambda words: data


MODES: dict[str, Callable[[], Answers]] = {
    "endless cursor": _endless,
    "endless and empty": _endless_and_empty,
    "cursor that goes round": _round,
    "dripping": lambda: _dripping(threading.Event()),
    "array of 4 billion": lambda: answering(b"*4000000000\r\n"),
    "string of 4 GB": lambda: answering(b"$4000000000\r\nxx"),
    "deep": lambda: answering(b"*1\r\n" * 100_000 + b":1\r\n"),
    "push": lambda: answering(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"),
    "garbage": lambda: answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "binary": lambda: answering(bulk(bytes(range(256)))),
    "null": lambda: answering(b"*-1\r\n"),
    "number": lambda: answering(b":12\r\n"),
    "map": lambda: answering(b"%1\r\n+a\r\n+b\r\n"),
}


def crc64(data: bytes) -> int:
    """Of DUMP's footer (Jones), for payloads that a real server is to take."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return crc


PAYLOAD = PAYLOAD[:-8] + crc64(PAYLOAD[:-8]).to_bytes(8, "little")


def any_reply(data: bytes) -> Any:
    """What hiredis makes of bytes, for tests of this module."""
    reader = hiredis.Reader()
    reader.feed(data)
    return reader.gets()
