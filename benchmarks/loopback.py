"""Scenario `loopback`: many small mixed keys between two servers on this machine.

There is no distance and no disk, so the copier's own cost shows: on enough cores the servers are
the limit, on few the copier takes from them. Contenders take turns, round after round, each into an
emptied target; the median round counts. A copy whose key count is wrong ends the benchmark.

    rumpx              the command without its size check
    rumpx, sizes       the command as a user runs it, which asks every key's size first
    redis-py           one process with pipelines: what most would write
    raw-socket floor   as many processes as rumpx has workers, on bare sockets: no checks at all

Rates are the source's keys over the copy's own seconds (from the first SCAN to the last answer), so
Python's start-up does not count; `command` is the wall time of the whole command.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import (
    Cost,
    Failed,
    Options,
    Report,
    measure,
    server_info,
    server_version,
)
from rumpx.demo import SEED, SERVER_VARIABLE, Server, fill

_COLUMNS: Final = (
    "contender",
    "keys/s",
    "MB/s",
    "x redis-py",
    "x floor",
    "command s",
    "CPU s/M keys",
    "source s/M",
    "target s/M",
    "peak MB",
)


@dataclass(frozen=True, slots=True)
class Round:
    """One copy by one contender: what it says of itself, and what is seen from outside.

    `copied` may exceed the number of keys, since SCAN shows some twice. Floats throughout, since
    medians are Rounds as well.
    """

    seconds: float
    copied: float
    payload_bytes: float
    wall: float
    cpu: float
    source_cpu: float
    target_cpu: float
    peak_memory: float


Contender = Callable[[Server, Server, int], Round]


def run(options: Options) -> Report:
    """Fill a server, let the contenders copy it in turns, compare them.

    Raises:
        Failed: a contender failed or copied a wrong number of keys, or the servers are too old.
    """
    rounds: dict[str, list[Round]] = {name: [] for name in CONTENDERS}
    with Server() as source, Server() as target:
        _check_version(source)
        fill(source.port, options.keys, SEED)
        for number in range(1, options.rounds + 1):
            for name, contender in CONTENDERS.items():
                print(f"round {number} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                _flush(target)
                rounds[name].append(contender(source, target, options.workers))
                _check_complete(name, source, target)
        version = server_version(source)
    medians = {name: _median_round(made) for name, made in rounds.items()}
    return Report(
        title=f"{options.keys:,} mixed keys on loopback, {version}, {options.workers} workers, "
        f"median of {options.rounds}",
        columns=_COLUMNS,
        rows=[_row(name, medians, options.keys) for name in medians],
        data={
            "server": version,
            "median": {name: asdict(made) for name, made in medians.items()},
            "rounds": {name: [asdict(made) for made in all_] for name, all_ in rounds.items()},
        },
    )


def _check_version(server: Server) -> None:
    if int(server_info(server, "server")["redis_version"].split(".")[0]) < 7:
        raise Failed(
            f"{server.program} is older than 7.0, whose PEXPIRETIME the rivals need; name another "
            f"server program by {SERVER_VARIABLE}."
        )


def _flush(server: Server) -> None:
    with closing(server.connect()) as connection:
        connection.call("FLUSHALL", "SYNC")


def _check_complete(name: str, source: Server, target: Server) -> None:
    expected, found = _key_count(source), _key_count(target)
    if expected != found:
        raise Failed(f"{name} left {found:,} keys on the target of the source's {expected:,}.")


def _key_count(server: Server) -> int:
    with closing(server.connect()) as connection:
        count = connection.call("DBSIZE")
    assert isinstance(count, int)
    return count


def _rumpx(*flags: str) -> Contender:
    def copy(source: Server, target: Server, workers: int) -> Round:
        with tempfile.TemporaryDirectory() as folder:
            summary_path = Path(folder, "summary.json")
            command = [sys.executable, "-m", "rumpx", "--from", source.uri, "--to", target.uri]
            command += ["--workers", str(workers), "--progress", "none", *flags]
            cost = measure([*command, "--summary", str(summary_path)], source, target)
            summary = json.loads(summary_path.read_text(encoding="utf-8"))
        counts = summary["counts"]
        return _round(cost, summary["seconds"], counts["copied"], counts["payload_bytes"])

    return copy


def _rival(name: str, source: Server, target: Server, *more: int) -> Round:
    numbers = (source.port, target.port, *more)
    command = [sys.executable, "-m", "benchmarks.rivals", name, *map(str, numbers)]
    cost = measure(command, source, target)
    told: dict[str, Any] = json.loads(cost.output)
    return _round(cost, told["seconds"], told["copied"], told["payload_bytes"])


def _redis_py(source: Server, target: Server, _workers: int) -> Round:
    return _rival("redis-py", source, target)


def _floor(source: Server, target: Server, workers: int) -> Round:
    return _rival("floor", source, target, workers)


def _round(cost: Cost, seconds: float, copied: int, payload_bytes: int) -> Round:
    return Round(
        seconds=seconds,
        copied=copied,
        payload_bytes=payload_bytes,
        wall=cost.wall,
        cpu=cost.cpu,
        source_cpu=cost.source_cpu,
        target_cpu=cost.target_cpu,
        peak_memory=cost.peak_memory,
    )


CONTENDERS: Final[dict[str, Contender]] = {
    "rumpx": _rumpx("--no-size-check"),
    "rumpx, 1000": _rumpx("--no-size-check", "--batch-keys", "1000"),  # the floor's pipelines
    "rumpx, sizes": _rumpx(),
    "redis-py": _redis_py,
    "raw-socket floor": _floor,
}


def _median_round(rounds: list[Round]) -> Round:
    """The median of each figure by itself."""
    figures = [asdict(made) for made in rounds]
    return Round(**{name: statistics.median(made[name] for made in figures) for name in figures[0]})


def _row(name: str, medians: dict[str, Round], keys: int) -> tuple[str, ...]:
    made = medians[name]
    millions = keys / 1e6
    return (
        name,
        f"{keys / made.seconds:,.0f}",
        f"{made.payload_bytes / made.seconds / 1e6:.1f}",
        f"{medians['redis-py'].seconds / made.seconds:.2f}",
        f"{medians['raw-socket floor'].seconds / made.seconds:.2f}",
        f"{made.wall:.2f}",
        f"{made.cpu / millions:.2f}",
        f"{made.source_cpu / millions:.2f}",
        f"{made.target_cpu / millions:.2f}",
        f"{made.peak_memory / 1e6:.0f}",
    )
