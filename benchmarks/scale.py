"""Scenario `scale`: walks on a Dask cluster, and where its limits are.

- **Copies** by 1, 2 and 4 Dask workers, in turns with the local engine and as many processes: keys
  a second, the coordinator's CPU a key without its start, the scheduler's CPU a key.
- **A simulation** (`benchmarks.sleeping`): walks that only sleep and report, at most 1,000 of them
  on 200 nodes. The coordinator, the scheduler, the workers and all their messages are real. It
  gives CPU for each report, and from that the size at which one process is full.

All of it runs on this machine, whose cores it must share: the scheduler and the coordinator too.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.contenders import Contender, Round, against, as_data, rumpx, turns
from benchmarks.dask_cluster import DaskCluster, dask_cluster
from benchmarks.measure import MEGA, Chart, Failed, Options, Report, ask, server_facts
from benchmarks.servers import Side, standalone
from benchmarks.sleeping import NODES, Slept
from rumpx.demo import SEED, fill

_WORKERS: Final = (1, 2, 4)
_WALKS: Final = (50, 200, 500, 1000)
_SIMULATED_PROCESSES: Final = 4
_GOAL: Final = 20e6
_REPORTS_A_WALK: Final = 2  # a second, as in `engine.lone_walk`


@dataclass(frozen=True, slots=True)
class _Copies:
    """One number of workers: both engines' rounds, and of each round by Dask the CPU s of the
    scheduler and of all workers."""

    dask: list[Round]
    local: list[Round]
    cluster: list[tuple[float, float]]


def run(options: Options) -> Report:
    """As `loopback.run`."""
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        start = _start(source, target)
        fill(source.servers[0], options.keys, SEED)
        copies = {workers: _copies(workers, source, target, options) for workers in _WORKERS}
    slept = [_sleep(walks, options.keys) for walks in _WALKS]
    rows = [
        row
        for workers, made in copies.items()
        for row in (
            _row(f"dask, {workers} workers", made.dask, start["dask"], options, made.cluster),
            _row(f"local, {workers} workers", made.local, start["local"], options, []),
        )
    ]
    return Report(
        title=f"{options.keys:,} mixed keys, {version}, median of {options.rounds}",
        columns=(
            "copy",
            "keys/s",
            "whole command",
            "coordinator us/key",
            "without start",
            "% of a core",
            "scheduler us/key",
            "workers us/key",
        ),
        rows=rows,
        ratios={
            f"dask / local, {workers} workers": _speed(made) for workers, made in copies.items()
        },
        chart=Chart(
            "keys/s",
            [f"{workers} workers" for workers in copies],
            {
                "dask": [_rate(made.dask) for made in copies.values()],
                "local": [_rate(made.local) for made in copies.values()],
            },
        ),
        notes=[*_speeds(copies), *map(_told, slept), *arithmetic(slept[-1])],
        data={
            "server": version,
            "start_cpu": start,
            "rounds": {
                str(workers): as_data({"dask": made.dask, "local": made.local})
                for workers, made in copies.items()
            },
            "cluster_cpu": {str(workers): made.cluster for workers, made in copies.items()},
            "slept": [asdict(one) for one in slept],
        },
    )


# Copies.


def _dask(cluster: DaskCluster, used: list[tuple[float, float]]) -> Contender:
    """A copy on a cluster, which appends the CPU seconds of its scheduler and its workers."""
    copy = rumpx("--no-size-check", "--engine", "dask", "--dask-scheduler", cluster.address)

    def copied(source: Side, target: Side) -> Round:
        before = cluster.scheduler_cpu, cluster.workers_cpu
        made = copy(source, target)
        used.append((cluster.scheduler_cpu - before[0], cluster.workers_cpu - before[1]))
        return made

    return copied


def _local(workers: int) -> Contender:
    return rumpx("--no-size-check", "--workers", str(workers))


def _copies(workers: int, source: Side, target: Side, options: Options) -> _Copies:
    used: list[tuple[float, float]] = []
    with dask_cluster(workers) as cluster:
        contenders = {"dask": _dask(cluster, used), "local": _local(workers)}
        made = turns(contenders, source, target, options.rounds)
    return _Copies(made["dask"], made["local"], used)


def _start(source: Side, target: Side) -> dict[str, float]:
    """CPU seconds of each engine's coordinator that copies one key."""
    ask(source.servers[0], "SET", "key", "value")
    with dask_cluster(1) as cluster:
        made = turns({"dask": _dask(cluster, []), "local": _local(1)}, source, target, 3)
    source.flush()
    return {name: min(one.cost.cpu_main for one in rounds) for name, rounds in made.items()}


def _rate(rounds: list[Round]) -> float:
    return statistics.median(one.copied / one.seconds for one in rounds)


def _speed(made: _Copies) -> float:
    """The speed of dask in parts of local's, while keys are copied: the median of all rounds."""
    pairs = zip(made.dask, made.local, strict=True)
    return statistics.median(local.seconds / dask.seconds for dask, local in pairs)


def _speeds(copies: dict[int, _Copies]) -> list[str]:
    return [
        f"{workers} workers: dask copies {_speed(made):.2f} times as fast as local (whole commands "
        f"{against(made.dask, made.local):.2f})."
        for workers, made in copies.items()
    ]


def _row(
    name: str,
    rounds: list[Round],
    start: float,
    options: Options,
    cluster: list[tuple[float, float]],
) -> tuple[str, ...]:
    """One row; without a `cluster` workers are the command's other processes."""
    others = [one.cost.cpu_others for one in rounds]
    scheduler = statistics.median(one for one, _ in cluster) if cluster else 0.0
    workers = statistics.median(one for _, one in cluster) if cluster else statistics.median(others)
    cpu = statistics.median(one.cost.cpu_main for one in rounds)
    seconds = statistics.median(one.seconds for one in rounds)
    wall = statistics.median(one.cost.wall for one in rounds)
    own = max(0.0, cpu - start)
    return (
        name,
        f"{_rate(rounds):,.0f}",
        f"{options.keys / wall:,.0f}",
        f"{cpu / options.keys * MEGA:.2f}",
        f"{own / options.keys * MEGA:.2f}",
        f"{100 * own / seconds:.1f}",
        f"{scheduler / options.keys * MEGA:.2f}" if cluster else "-",
        f"{workers / options.keys * MEGA:.2f}",
    )


# The simulation.


def _sleep(walks: int, keys: int) -> Slept:
    """Simulate so many walks; few `keys` make it short.

    Raises:
        Failed: it did not end well.
    """
    print(f"{walks} walks that sleep", file=sys.stderr, flush=True)
    seconds = 20 if keys >= MEGA / 10 else 4
    threads = -(-walks // _SIMULATED_PROCESSES)
    with dask_cluster(_SIMULATED_PROCESSES, threads=threads, profile=False) as cluster:
        words = (cluster.address, str(cluster.scheduler.pid), str(walks), str(seconds))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sleeping", *words],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise Failed(f"The simulation of {walks} walks failed:\n{done.stderr[-2000:]}")
    return Slept(**json.loads(done.stdout))


def _told(slept: Slept) -> str:
    return (
        f"{slept.walks:,} sleeping walks on {NODES} nodes: {slept.reports / slept.seconds:,.0f} "
        f"reports/s of {_REPORTS_A_WALK * slept.walks:,} due; coordinator "
        f"{100 * slept.coordinator / slept.seconds:.0f} % of a core, "
        f"{slept.coordinator / slept.reports * MEGA:,.0f} us a report; scheduler "
        f"{100 * slept.scheduler / slept.seconds:.0f} %, "
        f"{slept.scheduler / slept.reports * MEGA:,.0f} us a report."
    )


def arithmetic(slept: Slept) -> list[str]:
    """The sentences that reckon keys a second from a simulation."""
    lines = []
    for name, cpu in (("coordinator", slept.coordinator), ("scheduler", slept.scheduler)):
        each = cpu / slept.reports
        most = 1 / each
        keys = _GOAL / (_REPORTS_A_WALK * slept.walks)
        lines.append(
            f"The {name} is full at 1 s / {each * MEGA:,.0f} us = {most:,.0f} reports/s, those of "
            f"{most / _REPORTS_A_WALK:,.0f} walks. {_GOAL / MEGA:g} M keys/s by {slept.walks:,} "
            f"walks are {keys:,.0f} keys a report, so {each * MEGA / keys:.3f} us a key and "
            f"{100 * each * _REPORTS_A_WALK * slept.walks:.0f} % of a core."
        )
    return lines
