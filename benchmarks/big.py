"""Scenario `big`: the delays of other clients of both servers while one huge value is copied.

With the default of a million `--keys`: a hash of 1.5 million fields of 200 bytes, a sorted set and
a list of 3 million members, a string of 200 MB. Each is copied alone into an emptied target, in
turns, by rumpx with `--stream-from off`, which reads it whole by one DUMP, and by rumpx with its
defaults, which copies it in pieces. The clients (`benchmarks.client`), one of each server, send a
GET or a SET each millisecond; their worst time is that of all rounds.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

from benchmarks.client import Client, put_keys
from benchmarks.contenders import Round, against, rumpx
from benchmarks.measure import MEGA, Failed, Options, Report, ask, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, Server
from rumpx.servers.resp import encode

_KEY: Final = b"big"
_AT_ONCE: Final = 5000
_STRING_BYTES: Final = 200  # a key of --keys
_WHOLE: Final = "whole"
_PIECES: Final = "in pieces"
_FLAGS: Final = {_WHOLE: ("--stream-from", "off"), _PIECES: ()}

Fill = Callable[[int, random.Random], Iterator[bytes]]


def _hash(keys: int, chance: random.Random) -> Iterator[bytes]:
    for start in range(0, 3 * keys // 2, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, 3 * keys // 2))
        pairs = [part for n in numbers for part in (b"f%d" % n, chance.randbytes(200))]
        yield encode("HSET", _KEY, *pairs)


def _sorted_set(keys: int, chance: random.Random) -> Iterator[bytes]:
    for start in range(0, 3 * keys, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, 3 * keys))
        pairs = [p for n in numbers for p in (repr(chance.random()), b"member:%d" % n)]
        yield encode("ZADD", _KEY, *pairs)


def _list(keys: int, chance: random.Random) -> Iterator[bytes]:
    for start in range(0, 3 * keys, _AT_ONCE):
        number = min(_AT_ONCE, 3 * keys - start)
        yield encode("RPUSH", _KEY, *[chance.randbytes(60) for _ in range(number)])


def _string(keys: int, chance: random.Random) -> Iterator[bytes]:
    yield encode("SET", _KEY, chance.randbytes(_STRING_BYTES * keys))


_VALUES: Final[dict[str, tuple[Fill, str]]] = {
    "hash": (_hash, "HLEN"),
    "sorted set": (_sorted_set, "ZCARD"),
    "list": (_list, "LLEN"),
    "string": (_string, "STRLEN"),
}


class _Made:
    """The rounds of one contender, and its clients' times in ms."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.times: dict[str, list[float]] = {"source": [], "target": []}

    def cells(self, memory: int) -> tuple[str, ...]:
        """Speed, and the 99.9th percentile and worst of both sides."""
        seconds = sorted(one.seconds for one in self.rounds)[len(self.rounds) // 2]
        told = [f"{seconds:.1f}", f"{memory / seconds / MEGA:.0f}"]
        for times in self.times.values():
            ordered = sorted(times)
            told += [f"{ordered[len(ordered) * 999 // 1000]:.1f}", f"{ordered[-1]:.1f}"]
        return tuple(told)

    def data(self) -> dict[str, Any]:
        """For the JSON file."""
        worst = {side: max(times) for side, times in self.times.items()}
        return {"seconds": [one.seconds for one in self.rounds], "worst_ms": worst}


def run(options: Options) -> Report:
    """As `loopback.run`, for each huge value."""
    rows, ratios = [], {}
    data: dict[str, Any] = {}
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        for name, (fill, counter) in _VALUES.items():
            source.flush()
            _fill(source.servers[0], fill(options.keys, random.Random(SEED)))
            put_keys(source.servers[0])
            memory = int(ask(source.servers[0], "MEMORY", "USAGE", _KEY))
            made = {contender: _Made() for contender in _FLAGS}
            for number in range(1, options.rounds + 1):
                for contender in _FLAGS:
                    print(f"round {number}: {name} {contender}", file=sys.stderr, flush=True)
                    _copy(source, target, contender, counter, options.workers, made[contender])
            for contender, one in made.items():
                rows.append((name, f"{memory / MEGA:.0f}", contender, *one.cells(memory)))
            ratios[f"{name}: pieces / whole"] = against(made[_PIECES].rounds, made[_WHOLE].rounds)
            data[name] = {contender: one.data() for contender, one in made.items()}
    return Report(
        title=f"One huge value, {version}, {options.workers} workers; another client's ms",
        columns=(
            *("value", "MB of memory", "rumpx", "s", "MB/s"),
            *("source p99.9", "worst", "target p99.9", "worst"),
        ),
        rows=rows,
        ratios=ratios,
        data={"server": version, "values": data},
    )


def _copy(
    source: Side, target: Side, contender: str, counter: str, workers: int, made: _Made
) -> None:
    target.flush()
    put_keys(target.servers[0])
    flags = ("--match", "big", "--on-conflict", "replace", "--workers", str(workers))
    copy = rumpx(*flags, *_FLAGS[contender], governed=True, with_gets=False)
    sides = {"source": source.servers[0], "target": target.servers[0]}
    with Client(sides["source"], 1) as here, Client(sides["target"], 1) as there:
        made.rounds.append(copy(source, target))
    made.times["source"] += [1e3 * took for took in here.felt.took]
    made.times["target"] += [1e3 * took for took in there.felt.took]
    lengths = {ask(server, counter, _KEY) for server in sides.values()}
    if len(lengths) != 1:
        raise Failed(f"The copy of the value is not as long as the value: {lengths}.")


def _fill(server: Server, commands: Iterator[bytes]) -> None:
    with closing(server.connect()) as connection:
        for command in commands:
            connection.send(command)
            (reply,) = connection.receive(1)
            if isinstance(reply, Exception):
                raise Failed(f"{server.program} refused a write: {reply}")
