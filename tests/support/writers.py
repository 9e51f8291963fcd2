"""Writers as processes of their own: mixed writes at a steady rate, until they are told to stop.

Each has a connection and random numbers of its own, and writes values of all types in several
databases: sets, changes, deletes, expiries, renames, moves, copies, transactions, scripts, streams
with consumer groups. A command may fail, as on a key of another type.

    python -m support.writers PORT SEED RATE      (stops at the end of its standard input)
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.raw import Arg, Raw, RawError
from support.servers import Server

DATABASES = (0, 3, 7)
LONGEST_TTL = 3.0
"""Seconds; other keys expire in hours."""

_PIPELINE = 100
_LATER = 7_200_000

Commands = list[tuple[Arg, ...]]


@dataclass(frozen=True)
class Written:
    """What writers have done: `commands` that write were acknowledged, in so many seconds."""

    commands: int
    seconds: float

    @property
    def rate(self) -> float:
        """Commands a second."""
        return self.commands / self.seconds if self.seconds else 0.0


class Mix:
    """Makes commands, at random.

    Args:
        fields: fields of hashes may expire.
    """

    def __init__(self, rng: random.Random, *, fields: bool) -> None:
        self._rng = rng
        self._fields = fields
        self._kinds: list[tuple[Callable[[], Commands], int]] = [
            (self._strings, 30),
            (self._ends, 15),
            (self._hashes, 12),
            (self._lists, 10),
            (self._sets, 8),
            (self._sorted_sets, 8),
            (self._streams, 5),
            (self._others, 5),
            (self._names, 8),
            (self._transaction, 4),
            (self._script, 4),
        ]

    def commands(self) -> Commands:
        """Some commands for one database."""
        kinds, weights = zip(*self._kinds, strict=True)
        chosen = self._rng.choices(kinds, weights, k=_PIPELINE)
        return [command for kind in chosen for command in kind()]

    def _key(self, kind: str, most: int) -> str:
        return f"{kind}:{self._rng.randrange(most)}"

    def _one(self, *choices: tuple[Arg, ...]) -> Commands:
        return [self._rng.choice(choices)]

    @property
    def _word(self) -> str:
        return f"{self._rng.getrandbits(48):x}"

    @property
    def _brief(self) -> int:
        return self._rng.randrange(20, int(1000 * LONGEST_TTL))

    def _strings(self) -> Commands:
        key, word = self._key("string", 8000), self._word
        return self._one(
            ("SET", key, word),
            ("SET", key, word * 8),
            ("SET", key, word, "PX", self._brief),
            ("SET", key, word, "EX", 7200),
            ("SET", key, word, "NX"),
            ("SET", key, word, "KEEPTTL"),
            ("APPEND", self._key("text", 300), word[:3]),
            ("SETRANGE", key, self._rng.randrange(20), word),
            ("GETSET", key, word),
            ("MSET", key, word, self._key("string", 8000), word),
            ("INCRBY", self._key("number", 500), self._rng.randrange(-9, 99)),
            ("SETBIT", self._key("bits", 100), self._rng.randrange(500), 1),
        )

    def _ends(self) -> Commands:
        """What lets keys go, or stay."""
        kind = self._rng.choice(("string", "hash", "list", "set", "zset", "any", "number", "text"))
        key = self._key(kind, 8000 if kind == "string" else 500)
        return self._one(
            ("DEL", key),
            ("UNLINK", key, self._key("string", 8000)),
            ("PEXPIRE", key, self._brief),
            ("PEXPIRE", key, _LATER),
            ("PEXPIRE", key, -1),
            ("PERSIST", key),
            ("GETDEL", self._key("string", 8000)),
            ("GETEX", self._key("string", 8000), "PX", self._brief),
        )

    def _hashes(self) -> Commands:
        key, field, word = self._key("hash", 800), f"f{self._rng.randrange(30)}", self._word
        choices: Commands = [
            ("HSET", key, field, word),
            ("HSET", key, field, word, "other", word),
            ("HDEL", key, field),
            ("HINCRBY", key, "number", 3),
        ]
        if self._fields:
            choices += [
                ("HPEXPIRE", key, self._brief, "FIELDS", 1, field),
                ("HPEXPIRE", key, _LATER, "FIELDS", 2, field, "other"),
                ("HPERSIST", key, "FIELDS", 1, field),
            ]
        return self._one(*choices)

    def _lists(self) -> Commands:
        key, other, word = self._key("list", 400), self._key("list", 400), self._word
        return self._one(
            ("RPUSH", key, word),
            ("LPUSH", key, word, word[:2]),
            ("LTRIM", key, 0, 40),
            ("LPOP", key),
            ("LSET", key, 0, word),
            ("LMOVE", key, other, "LEFT", "RIGHT"),
            ("SORT", key, "ALPHA", "STORE", other),
        )

    def _sets(self) -> Commands:
        key, other = self._key("set", 400), self._key("set", 400)
        number = self._rng.randrange(60)
        return self._one(
            ("SADD", key, number, f"word{number}"),
            ("SADD", key, number),
            ("SREM", key, number),
            ("SPOP", key),
            ("SMOVE", key, other, number),
            ("SUNIONSTORE", self._key("set", 400), key, other),
            ("SINTERSTORE", self._key("set", 400), key, other),
        )

    def _sorted_sets(self) -> Commands:
        key, other = self._key("zset", 400), self._key("zset", 400)
        score, member = self._rng.random() * 100, f"m{self._rng.randrange(40)}"
        return self._one(
            ("ZADD", key, score, member),
            ("ZADD", key, score, member, 1.5, "fixed"),
            ("ZREM", key, member),
            ("ZINCRBY", key, 0.25, member),
            ("ZPOPMIN", key),
            ("ZRANGESTORE", other, key, 0, 20),
        )

    def _streams(self) -> Commands:
        key, group = self._key("stream", 40), f"group{self._rng.randrange(2)}"
        consumer = f"consumer{self._rng.randrange(3)}"
        return self._one(
            ("XADD", key, "MAXLEN", 30, "*", "field", self._word),
            ("XADD", key, "MAXLEN", 30, "*", "field", self._word),
            ("XTRIM", key, "MAXLEN", 10),
            ("XGROUP", "CREATE", key, group, "0", "MKSTREAM"),
            ("XREADGROUP", "GROUP", group, consumer, "COUNT", 2, "STREAMS", key, ">"),
            ("XAUTOCLAIM", key, group, consumer, 0, "0", "COUNT", 1),
            ("XGROUP", "DELCONSUMER", key, group, consumer),
            ("DEL", key),
        )

    def _others(self) -> Commands:
        return self._one(
            ("PFADD", self._key("hll", 60), self._word),
            ("PFMERGE", self._key("hll", 60), self._key("hll", 60)),
            ("GEOADD", self._key("geo", 60), self._rng.random(), self._rng.random(), "place"),
            ("BITOP", "OR", self._key("bits", 100), self._key("bits", 100)),
            ("BITFIELD", self._key("bits", 100), "SET", "u8", 0, self._rng.randrange(256)),
        )

    def _names(self) -> Commands:
        """What gives a value another name, or a name another type."""
        key, other, word = self._key("any", 500), self._key("any", 500), self._word
        return self._one(
            ("RENAME", self._key("string", 8000), self._key("string", 8000)),
            ("RENAME", key, other),
            ("RENAMENX", key, other),
            ("COPY", self._key("hash", 800), other, "REPLACE"),
            ("COPY", self._key("zset", 400), other, "DB", self._rng.choice(DATABASES), "REPLACE"),
            ("MOVE", key, self._rng.choice(DATABASES)),
            ("SET", key, word),
            ("RPUSH", key, word),
            ("HSET", key, word, word),
            ("SADD", key, word),
        )

    def _transaction(self) -> Commands:
        body = [*self._strings(), *self._ends(), *self._hashes(), *self._names()]
        return [("MULTI",), *body, ("EXEC",)]

    def _script(self) -> Commands:
        keys = self._key("string", 8000), self._key("hash", 800), self._key("any", 500)
        return [("EVAL", _SCRIPT, 3, *keys, self._word)]


_SCRIPT = """
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3])
redis.call('RPUSH', KEYS[3], ARGV[1], ARGV[1])
if redis.call('TYPE', KEYS[2]).ok == 'hash' then redis.call('HDEL', KEYS[2], 'f1', 'f2') end
redis.call('SET', 'undeclared:' .. string.sub(ARGV[1], 1, 2), ARGV[1])
"""


def write(port: int, seed: int, rate: float, ends: threading.Event) -> Written:
    """Write until this is set."""
    rng = random.Random(seed)
    commands = 0
    with Raw(("127.0.0.1", port)) as raw:
        knows = "unknown command" not in str(raw.many([("HPEXPIRE", "-", 1, "FIELDS", 1, "-")])[0])
        mix, began = Mix(rng, fields=knows), time.monotonic()
        while not ends.is_set():
            raw.select(rng.choice(DATABASES))
            made = mix.commands()
            replies = raw.many(made)
            for (name, *_), reply in zip(made, replies, strict=True):
                if name not in ("MULTI", "EXEC") and not isinstance(reply, RawError):
                    commands += 1
            ends.wait(began + commands / rate - time.monotonic())
        return Written(commands, time.monotonic() - began)


class Writers:
    """Several writers, of one source, together at this rate; a context manager that stops them.

    Attributes:
        written: what they have done, once they have stopped.
    """

    def __init__(self, source: Server, rng: random.Random, rate: float, number: int = 3) -> None:
        self.written = Written(0, 0.0)
        tests = Path(__file__).resolve().parents[1]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
        words = [sys.executable, "-m", "support.writers", str(source.port)]
        self._processes = [
            subprocess.Popen(
                [*words, str(rng.getrandbits(32)), str(rate / number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=env,
            )
            for _ in range(number)
        ]

    def stop(self) -> Written:
        """Stop them, and return what they have done."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        told = [json.loads(process.stdout.read()) for process in self._processes]  # type: ignore[union-attr]
        for process in self._processes:
            process.stdout.close()  # type: ignore[union-attr]
            assert process.wait(30) == 0
        self._processes = []
        commands, seconds = sum(each[0] for each in told), max(each[1] for each in told)
        self.written = Written(commands, seconds)
        return self.written

    def kill(self) -> None:
        """End those that have not stopped."""
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


@contextlib.contextmanager
def writers(
    source: Server, rng: random.Random, rate: float, number: int = 3
) -> Iterator[Writers]:
    """Writers that are at work while this is open, or until they are stopped."""
    at_work = Writers(source, rng, rate, number)
    try:
        yield at_work
    finally:
        at_work.kill()


def main() -> None:
    """Write until standard input ends; print the commands and seconds as JSON."""
    port, seed, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    ends = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ends.set()

    threading.Thread(target=wait, daemon=True).start()
    written = write(port, seed, rate, ends)
    print(json.dumps([written.commands, written.seconds]))


if __name__ == "__main__":
    main()
