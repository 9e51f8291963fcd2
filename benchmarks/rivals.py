"""The rivals of rumpx: the natural script, the servers' own commands, and the least that moves the
bytes.

- `redis-py` is ten minutes' work: one process, SCAN, pipelines, RESTORE.
- `floor` is as many processes as rumpx has workers, each of which walks its own parts of the
  source's cursor space: no coordinator, no retries, no progress; a wrong answer is not even
  noticed. Sizes (MEMORY USAGE as rumpx asks it) and MULTI are optional; the SCAN for a chunk, the
  sizes of the one before and the payloads of the one before that travel together. It uses rumpx's
  encoder and parser (`rumpx.servers.resp`), as nothing faster was found, with nothing around them,
  so no Python copier can be expected to be much faster. (With replies taken one by one, as is
  usual, it was a tenth slower.)
- `reads` is a floor without a target: the payloads are thrown away.
- `migrate` has the source send its keys itself: MIGRATE … COPY REPLACE KEYS, 1,000 at a time.
- `replicaof` makes the target a replica until it has caught up.

Run as a command, since that is how contenders are measured; prints what was copied as JSON:

    python -m benchmarks.rivals redis-py SOURCE_PORT TARGET_PORT
    python -m benchmarks.rivals floor SOURCE_PORT,… TARGET_PORT,… WORKERS PIPELINE GROUP SIZES
    python -m benchmarks.rivals reads SOURCE_PORT,… TARGET_PORT,… WORKERS PIPELINE GROUP SIZES
    python -m benchmarks.rivals migrate SOURCE_PORT TARGET_PORT
    python -m benchmarks.rivals replicaof SOURCE_PORT TARGET_PORT

PIPELINE is the number of keys asked for at once; GROUP, if not 0, the number of keys in a MULTI, as
rumpx has them; SIZES is 1 if sizes are asked for, else 0. Several ports are the primaries of a
cluster with equal shares of the slots. All need servers of 7.0 or later on loopback (PEXPIRETIME).
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import socket
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from typing import Any, Final

from benchmarks.servers import shares
from rumpx.engine.plan import cut_spans
from rumpx.model.nodes import Node
from rumpx.model.partitions import Span
from rumpx.model.slots import key_slot
from rumpx.servers.info import read_info
from rumpx.servers.resp import (
    EXEC,
    MULTI,
    Connection,
    RestoreEncoder,
    encode,
    encode_dumps_and_expiries,
    encode_memory_usage,
)

_HOST: Final = "127.0.0.1"
_COUNT: Final = 1000
_POLL_SECONDS: Final = 0.002


@dataclass(frozen=True, slots=True)
class Copied:
    """`seconds` run from the first SCAN to the last answer; a key met twice is copied twice."""

    seconds: float
    copied: int
    payload_bytes: int


def redis_py(source_port: int, target_port: int) -> Copied:
    """One process, redis-py's pipelines."""
    import redis  # whose import the floors would pay for

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


def migrate(source_port: int, target_port: int) -> Copied:
    """Have the source send its keys itself, to database 0; it serves no other client meanwhile."""
    copied = 0
    with closing(_connect(source_port)) as source:
        began = time.perf_counter()
        cursor = 0
        while True:
            reply: Any = source.call("SCAN", cursor, "COUNT", _COUNT)
            cursor, keys = int(reply[0]), reply[1]
            if keys:
                head = ("MIGRATE", _HOST, target_port, "", 0, 60_000, "COPY", "REPLACE", "KEYS")
                answer = source.call(*head, *keys)
                if answer != b"OK":
                    raise RuntimeError(answer)
                copied += len(keys)
            if cursor == 0:
                return Copied(time.perf_counter() - began, copied, 0)


def replicaof(source_port: int, target_port: int) -> Copied:
    """A full synchronisation, until the target has all keys; the target is a primary again then."""
    with closing(_connect(source_port)) as source, closing(_connect(target_port)) as target:
        source.call("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        began = time.perf_counter()
        target.call("REPLICAOF", _HOST, source_port)
        while b"master_link_status:up" not in target.call("INFO", "replication"):  # type: ignore[operator]
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - began
        target.call("REPLICAOF", "NO", "ONE")
        copied = target.call("DBSIZE")
    assert isinstance(copied, int)
    return Copied(seconds, copied, 0)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a floor asks of the source; see above."""

    pipeline: int
    group: int
    sizes: bool


def floor(source_ports: list[int], target_ports: list[int], workers: int, asked: Asked) -> Copied:
    """Bare sockets, `workers` processes, each with its parts of each node's cursor space; without
    `target_ports` the payloads are thrown away."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(workers + 1)
    results: Any = context.SimpleQueue()
    processes = [
        context.Process(
            target=_Floor(source_ports, target_ports, asked).work,
            args=(number, workers, barrier, results),
        )
        for number in range(workers)
    ]
    gc.freeze()
    for process in processes:
        process.start()
    barrier.wait()
    began = time.perf_counter()
    counted = [results.get() for _ in processes]
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return Copied(seconds, sum(keys for keys, _ in counted), sum(size for _, size in counted))


class _Floor:
    """One process's part of a floor: the targets work while the source does."""

    def __init__(self, source_ports: list[int], target_ports: list[int], asked: Asked) -> None:
        self._source_ports = source_ports
        self._target_ports = target_ports
        self._asked = asked
        self._encoder = RestoreEncoder(replace=True, absolute=True)
        self._unanswered: list[tuple[Connection, int]] = []
        self._copied = 0
        self._bytes = 0

    def work(self, number: int, workers: int, barrier: Barrier, results: Any) -> None:
        """Copy part `number` of `workers` (a power of two) of each source node."""
        sources = [_connect(port) for port in self._source_ports]
        targets = [_connect(port) for port in self._target_ports]
        owners = [
            target
            for target, (low, high) in zip(targets, shares(len(targets)), strict=True)
            for _ in range(low, high)
        ]
        spans = [
            _span(source, low, high, number, workers)
            for source, (low, high) in zip(sources, shares(len(sources)), strict=True)
        ]
        barrier.wait()
        for source, span in zip(sources, spans, strict=True):
            self._walk(source, owners, span)
        self._skip_answers()
        results.put((self._copied, self._bytes))

    def _walk(self, source: Connection, owners: list[Connection], span: Span) -> None:
        cursor: int | None = span.start
        unsized: list[bytes] = []
        keys: list[bytes] = []
        while cursor is not None or unsized or keys:
            scan = b"" if cursor is None else encode("SCAN", cursor, "COUNT", self._asked.pipeline)
            source.send(self._reads(keys) + encode_memory_usage(unsized) + scan)
            replies = self._replies(source, len(keys), len(unsized) + bool(scan))
            found: list[bytes] = []
            if scan:
                reply = replies.pop()
                cursor, found = int(reply[0]), reply[1]
                if span.ended(cursor):
                    cursor = None
            self._skip_answers()
            if keys:
                read = replies[: 2 * len(keys)]
                self._write(owners, keys, read[::2], read[1::2])
            keys, unsized = (unsized, found) if self._asked.sizes else (found, [])

    def _reads(self, keys: list[bytes]) -> bytes:
        step = self._asked.group
        if not step:
            return encode_dumps_and_expiries(keys)
        groups = [keys[n : n + step] for n in range(0, len(keys), step)]
        return b"".join([MULTI + encode_dumps_and_expiries(group) + EXEC for group in groups])

    def _replies(self, source: Connection, keys: int, more: int) -> list[Any]:
        """Return those to `_reads` without their groups, then `more` others."""
        step = self._asked.group
        if not step:
            return source.receive(2 * keys + more)
        sizes = [min(step, keys - n) for n in range(0, keys, step)]
        raw: list[Any] = source.receive(sum(sizes) * 2 + 2 * len(sizes) + more)
        flat: list[Any] = []
        end = 0
        for size in sizes:
            end += 2 * size + 2
            flat += raw[end - 1]
        return flat + raw[end:]

    def _write(
        self,
        owners: list[Connection],
        keys: list[bytes],
        payloads: list[bytes],
        expiries: list[int],
    ) -> None:
        self._copied += len(keys)
        self._bytes += sum(map(len, payloads))
        if not self._target_ports:
            return
        if len(self._target_ports) == 1:
            self._send(owners[0], keys, payloads, expiries)
            return
        places: dict[Connection, list[int]] = {}
        for position, key in enumerate(keys):
            places.setdefault(owners[key_slot(key)], []).append(position)
        for owner, positions in places.items():
            lists: Any = ([column[n] for n in positions] for column in (keys, payloads, expiries))
            self._send(owner, *lists)

    def _send(
        self, owner: Connection, keys: list[bytes], payloads: list[bytes], expiries: list[int]
    ) -> None:
        owner.send(*self._encoder.encode(keys, payloads, expiries))
        self._unanswered.append((owner, len(keys)))

    def _skip_answers(self) -> None:
        for owner, count in self._unanswered:
            owner.receive_oks(count)
        self._unanswered.clear()


def _connect(port: int) -> Connection:
    sock = socket.create_connection((_HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Connection(sock, f"{_HOST}:{port}")


def _span(source: Connection, low: int, high: int, number: int, of: int) -> Span:
    """Part `number` of a node that serves the slots [low, high)."""
    info = read_info(source)
    assert info
    # One table a slot: in a cluster of Valkey 8 or later, or Redis 7.4 or later.
    since = (8,) if info.flavour == "valkey" else (7, 4)
    scheme = "slots" if info.mode == "cluster" and info.version >= since else "table"
    return cut_spans(Node(None, slots=((low, high - 1),)), scheme, of)[number]


def main() -> None:
    name, *words = sys.argv[1:]
    numbers = [[int(part) for part in word.split(",")] for word in words]
    if name in ("floor", "reads"):
        sources, targets, (workers,), (pipeline,), (group,), (sizes,) = numbers
        asked = Asked(pipeline, group, bool(sizes))
        copied = floor(sources, targets if name == "floor" else [], workers, asked)
    else:
        rivals = {"redis-py": redis_py, "migrate": migrate, "replicaof": replicaof}
        copied = rivals[name](numbers[0][0], numbers[1][0])
    print(json.dumps(asdict(copied)))


if __name__ == "__main__":
    main()
