"""What rumpx is measured against: the natural script, and the least that moves the bytes.

`redis-py` is what one writes who has ten minutes: one process, SCAN, pipelines, RESTORE.
`floor` is as many processes as rumpx has workers, each of which walks its own part of the source's
cursor space on bare sockets: no coordinator, no look at a key's size, no retries, no progress; a
wrong answer is not even noticed. No Python copier can be expected to be much faster.

Run as a command, since that is how contenders are measured; prints what was copied as JSON:

    python -m benchmarks.rivals redis-py SOURCE_PORT TARGET_PORT
    python -m benchmarks.rivals floor SOURCE_PORT TARGET_PORT WORKERS

Both need servers of 7.0 or later on loopback (PEXPIRETIME), the source standalone.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from typing import Any, Final

import hiredis
import redis

_HOST: Final = "127.0.0.1"
_COUNT: Final = 1000
_OK: Final = b"+OK\r\n"


@dataclass(frozen=True, slots=True)
class Copied:
    """`seconds` run from the first SCAN to the last answer; a key met twice is copied twice."""

    seconds: float
    copied: int
    payload_bytes: int


def redis_py(source_port: int, target_port: int) -> Copied:
    """One process, redis-py's pipelines."""
    source = redis.Redis(port=source_port)
    target = redis.Redis(port=target_port)
    began = time.perf_counter()
    copied = payload_bytes = 0
    cursor = 0
    while True:
        cursor, keys = source.scan(cursor, count=_COUNT)
        reads = source.pipeline(transaction=False)
        for key in keys:
            reads.dump(key)
            reads.pexpiretime(key)  # type: ignore[arg-type]
        replies = reads.execute()
        writes = target.pipeline(transaction=False)
        for key, payload, expiry in zip(keys, replies[::2], replies[1::2], strict=True):
            if payload is None:
                continue
            writes.restore(key, max(expiry, 0), payload, replace=True, absttl=True)
            copied += 1
            payload_bytes += len(payload)
        writes.execute()
        if cursor == 0:
            return Copied(time.perf_counter() - began, copied, payload_bytes)


def floor(source_port: int, target_port: int, workers: int) -> Copied:
    """Bare sockets, `workers` processes, each with its parts of the cursor space."""
    bits = (workers - 1).bit_length()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(workers + 1)
    results: Any = context.SimpleQueue()
    processes = [
        context.Process(
            target=_floor_worker,
            args=(
                source_port,
                target_port,
                range(number, 1 << bits, workers),
                bits,
                barrier,
                results,
            ),
        )
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    began = time.perf_counter()
    counted = [results.get() for _ in processes]
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return Copied(seconds, sum(keys for keys, _ in counted), sum(size for _, size in counted))


def _floor_worker(
    source_port: int, target_port: int, parts: range, bits: int, barrier: Barrier, results: Any
) -> None:
    source = socket.create_connection((_HOST, source_port))
    target = socket.create_connection((_HOST, target_port))
    for sock in (source, target):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    barrier.wait()
    counts = [_copy_part(source, target, part, bits) for part in parts]
    results.put((sum(keys for keys, _ in counts), sum(size for _, size in counts)))


def _copy_part(
    source: socket.socket, target: socket.socket, part: int, bits: int
) -> tuple[int, int]:
    """Copy one part; the next SCAN travels with the DUMPs, and the target works meanwhile."""
    copied = payload_bytes = unanswered = 0
    reader = hiredis.Reader()
    shift = 64 - bits
    cursor = _reversed(part << shift)
    source.sendall(_scan(cursor))
    (reply,) = _replies(source, reader, 1)
    more = True
    while more:
        cursor, keys = int(reply[0]), reply[1]
        more = cursor != 0 and _reversed(cursor) < (part + 1) << shift
        source.sendall(b"".join(_reads(keys)) + (_scan(cursor) if more else b""))
        replies = list(_replies(source, reader, 2 * len(keys) + more))
        reply = replies.pop() if more else None
        payloads, expiries = replies[::2], replies[1::2]
        _skip_oks(target, unanswered)
        target.sendall(b"".join(_writes(keys, payloads, expiries)))
        unanswered = len(keys)
        copied += len(keys)
        payload_bytes += sum(map(len, payloads))
    _skip_oks(target, unanswered)
    return copied, payload_bytes


def _reversed(number: int) -> int:
    """A 64-bit number with its bits in the opposite order."""
    return int(f"{number:064b}"[::-1], 2)


def _scan(cursor: int) -> bytes:
    digits = b"%d" % cursor
    return b"*4\r\n$4\r\nSCAN\r\n$%d\r\n%b\r\n$5\r\nCOUNT\r\n$4\r\n%d\r\n" % (
        len(digits),
        digits,
        _COUNT,
    )


def _reads(keys: list[bytes]) -> list[bytes]:
    return [
        b"*2\r\n$4\r\nDUMP\r\n$%d\r\n%b\r\n*2\r\n$11\r\nPEXPIRETIME\r\n$%d\r\n%b\r\n"
        % (len(key), key, len(key), key)
        for key in keys
    ]


def _writes(keys: list[bytes], payloads: list[bytes], expiries: list[int]) -> list[bytes]:
    # An instant in ms has 13 digits until the year 2286.
    return [
        b"*6\r\n$7\r\nRESTORE\r\n$%d\r\n%b\r\n$%d\r\n%d\r\n$%d\r\n%b\r\n"
        b"$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"
        % (len(key), key, 1 if expiry < 0 else 13, max(expiry, 0), len(payload), payload)
        for key, payload, expiry in zip(keys, payloads, expiries, strict=True)
    ]


def _replies(sock: socket.socket, reader: hiredis.Reader, count: int) -> Iterator[Any]:
    for _ in range(count):
        while (reply := reader.gets()) is False:
            reader.feed(sock.recv(2**18))
        yield reply


def _skip_oks(sock: socket.socket, count: int) -> None:
    left = len(_OK) * count
    while left:
        left -= len(sock.recv(left))


def main() -> None:
    name, *numbers = sys.argv[1:]
    contenders: dict[str, Callable[..., Copied]] = {"redis-py": redis_py, "floor": floor}
    print(json.dumps(asdict(contenders[name](*map(int, numbers)))))


if __name__ == "__main__":
    main()
