"""Scenario `losses`: a cluster copied and compared by Dask workers, of which some are killed.

A cluster of three primaries is copied to another one, and compared (`rumpx verify`), by four Dask
workers; in turns with the same copy of which two workers are killed (SIGKILL) on the way, when a
third and two thirds of the keys are there. The walks of a killed worker wait for its lease of ten
seconds, and then go on elsewhere. Each copy ends with as many keys copied as the source holds, and
the comparison finds nothing, or the benchmark fails.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster import fill_side
from benchmarks.dask_cluster import DaskCluster, dask_cluster
from benchmarks.measure import Failed, Options, Report, server_facts
from benchmarks.servers import Side, cluster

_PRIMARIES: Final = 3
_WORKERS: Final = 4
_KILLED: Final = 2
_LOOK_SECONDS: Final = 0.05
_MOST_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class _Made:
    """Seconds of one copy and its comparison, and the walks that were lost."""

    copy: float
    verify: float
    lost: int


def run(options: Options) -> Report:
    """As `loopback.run`."""
    made: dict[int, list[_Made]] = {0: [], _KILLED: []}
    with cluster(_PRIMARIES) as source, cluster(_PRIMARIES) as target:
        version = str(server_facts(source.servers[0]))
        fill_side(source, options)
        for number in range(1, options.rounds + 1):
            for kills, rounds in made.items():
                print(f"round {number}: {kills} killed", file=sys.stderr, flush=True)
                target.flush()
                with dask_cluster(_WORKERS) as dask:
                    rounds.append(_copied(source, target, dask, kills))
    return Report(
        title=f"{options.keys:,} mixed keys, {_PRIMARIES} primaries of {version}, {_WORKERS} Dask "
        f"workers, median of {options.rounds}",
        columns=("workers killed", "copy s", "verify s", "walks lost"),
        rows=[(str(kills), *_cells(rounds)) for kills, rounds in made.items()],
        ratios={
            "seconds more with killed workers": _middle(made[_KILLED]) - _middle(made[0]),
        },
        data={"server": version},
    )


def _middle(rounds: list[_Made]) -> float:
    return statistics.median(one.copy for one in rounds)


def _cells(rounds: list[_Made]) -> tuple[str, ...]:
    verify = statistics.median(one.verify for one in rounds)
    lost = statistics.median(one.lost for one in rounds)
    return f"{_middle(rounds):.1f}", f"{verify:.1f}", f"{lost:g}"


def _copied(source: Side, target: Side, dask: DaskCluster, kills: int) -> _Made:
    keys = source.keys
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process = _start(source, target, dask, folder, "copy")
        for number in range(kills):
            _wait_for_keys(process, target, keys * (number + 1) // (kills + 1))
            dask.workers[number].kill()
        copied = _end(process, folder, "copy")
        took = time.monotonic() - began
        if copied["counts"]["copied"] != keys:
            raise Failed(f"{copied['counts']['copied']:,} of {keys:,} keys were copied.")
        began = time.monotonic()
        compared = _end(_start(source, target, dask, folder, "verify"), folder, "verify")
        if compared["counts"]["equal"] != keys:
            raise Failed(f"{compared['counts']['equal']:,} of {keys:,} keys are equal.")
        return _Made(took, time.monotonic() - began, copied["worker_restarts"])


def _start(
    source: Side, target: Side, dask: DaskCluster, folder: str, command: str
) -> subprocess.Popen[str]:
    words = ["verify"] if command == "verify" else []
    flags = ["--engine", "dask", "--dask-scheduler", dask.address, "--progress", "none"]
    kept = ["--state-dir", folder, "--summary", str(Path(folder, f"{command}.json"))]
    ends = ["--from", source.uri, "--to", target.uri]
    return subprocess.Popen(
        [sys.executable, "-m", "rumpx", *words, *ends, *flags, *kept],
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_keys(process: subprocess.Popen[str], target: Side, keys: int) -> None:
    while process.poll() is None and target.keys < keys:
        time.sleep(_LOOK_SECONDS)


def _end(process: subprocess.Popen[str], folder: str, command: str) -> dict[str, Any]:
    try:
        _, errors = process.communicate(timeout=_MOST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failed(f"The {command} did not end.") from None
    if process.returncode:
        raise Failed(f"The {command} ended with {process.returncode}:\n{errors[-2000:]}")
    told: dict[str, Any] = json.loads(Path(folder, f"{command}.json").read_text(encoding="utf-8"))
    return told
