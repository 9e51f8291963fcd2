"""Scenario `values`: few large values instead of many small ones, in MB/s.

Strings are random bytes, which LZF cannot compress, so that DUMP and RESTORE move them as they are;
hashes have 1,000 fields. rumpx runs with its defaults, its size check included, since that is what
keeps large values from piling up; the floor asks for about 4 MB at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.contenders import against, as_data, floor, median, rumpx, turns
from benchmarks.measure import MEGA, Chart, Failed, Options, Report, server_facts
from benchmarks.servers import standalone
from rumpx.demo import SEED, Server
from rumpx.servers.resp import encode

_PIPELINE_BYTES: Final = 4 * 2**20
_FIELDS: Final = 1000
_CHUNK: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Values:
    """`number` values of about `size` bytes each."""

    number: int
    size: int
    command: Callable[[bytes, int, random.Random], bytes]


def _string(key: bytes, size: int, chance: random.Random) -> bytes:
    return encode("SET", key, chance.randbytes(size))


def _hash(key: bytes, size: int, chance: random.Random) -> bytes:
    length = size // _FIELDS - 8
    pairs = [part for n in range(_FIELDS) for part in (b"f%05d" % n, chance.randbytes(length))]
    return encode("HSET", key, *pairs)


_KINDS: Final = {
    "strings of 1 KB": _Values(200_000, 1_000, _string),
    "strings of 100 KB": _Values(3_000, 100_000, _string),
    "strings of 1 MB": _Values(300, 1_000_000, _string),
    "strings of 32 MB": _Values(16, 32_000_000, _string),
    "hashes of 1,000 fields": _Values(10_000, 24_000, _hash),
}


def run(options: Options) -> Report:
    """As `loopback.run`, for each kind of value."""
    rows = []
    ratios = {}
    data: dict[str, Any] = {}
    rates: dict[str, list[float]] = {"rumpx": [], "floor": []}
    workers = options.workers
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        for name, values in _KINDS.items():
            source.flush()
            _fill(source.servers[0], values)
            pipeline = max(1, min(1000, _PIPELINE_BYTES // values.size))
            contenders = {
                "rumpx": rumpx("--workers", str(workers)),
                "floor": floor(workers, pipeline),
            }
            made = turns(contenders, source, target, options.rounds)
            ratios[f"{name}: rumpx / floor"] = against(made["rumpx"], made["floor"])
            data[name] = as_data(made)
            for contender, rounds in made.items():
                one = median(rounds)
                rates[contender].append(one.payload_bytes / one.seconds / MEGA)
                rows.append(
                    (
                        name,
                        contender,
                        f"{one.payload_bytes / one.seconds / MEGA:.0f}",
                        f"{against(rounds, made['floor']):.2f}",
                        f"{values.number / one.seconds:,.0f}",
                        f"{one.cost.peak_memory / MEGA:.0f}",
                    )
                )
    return Report(
        title=f"Large values, {version}, {workers} workers, median of {options.rounds}",
        columns=("values", "contender", "MB/s", "x floor", "keys/s", "peak MB"),
        rows=rows,
        ratios=ratios,
        chart=Chart("MB/s", list(_KINDS), rates),
        data={"server": version, "rounds": data},
    )


def _fill(server: Server, values: _Values) -> None:
    chance = random.Random(SEED)
    with closing(server.connect()) as connection:
        for commands in _chunks(values, chance):
            connection.send(b"".join(commands))
            for reply in connection.receive(len(commands)):
                if isinstance(reply, Exception):
                    raise Failed(f"{server.program} refused a write: {reply}")


def _chunks(values: _Values, chance: random.Random) -> Iterator[list[bytes]]:
    step = max(1, _CHUNK // values.size)
    for start in range(0, values.number, step):
        numbers = range(start, min(start + step, values.number))
        yield [values.command(b"key:%d" % n, values.size, chance) for n in numbers]
