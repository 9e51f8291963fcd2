"""Scenario `scale`: walks on a Dask cluster, and where its limits are.

- **Copies** by 1, 2 and 4 Dask workers, in turns with the local engine and as many processes: keys
  a second, the coordinator's CPU a key without its start, the scheduler's CPU a key.
- **A simulation** (`benchmarks.sleeping`): walks that only sleep and report, at most 1,000 of them
  on 200 nodes. The coordinator, the scheduler, the workers and all their messages are real. From
  several sizes it reckons what a second costs in any case, what a report costs, and with that the
  size at which one process is full. A size counts only if nearly all its reports arrived: the
  workers of a thousand walks need two cores (1 ms a report), and here share them with all others.

With few keys both are short, and show only that they work.
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
_WALKS: Final = (20, 100, 200, 500, 1000)
_FEW_WALKS: Final = (4, 16)
_FEW_KEYS: Final = 100_000
_SIMULATED_PROCESSES: Final = 4
_GOAL: Final = 20e6
_GOAL_WALKS: Final = 1000
# The part of the reports due that must have arrived, else the size does not count.
_HELD: Final = 0.85
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
    few = options.keys < _FEW_KEYS
    seconds = 3.0 if few else 20.0
    slept = [_sleep(walks, seconds) for walks in (_FEW_WALKS if few else _WALKS)]
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
        notes=[*_speeds(copies), *map(_told, slept), *arithmetic(slept)],
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


def _sleep(walks: int, seconds: float) -> Slept:
    """Simulate so many walks, for so long.

    Raises:
        Failed: it did not end well.
    """
    print(f"{walks} walks that sleep", file=sys.stderr, flush=True)
    threads = -(-walks // _SIMULATED_PROCESSES)
    with dask_cluster(_SIMULATED_PROCESSES, threads=threads, profile=False) as cluster:
        pids = ",".join(str(each.pid) for each in (cluster.scheduler, *cluster.workers))
        words = (cluster.address, pids, str(walks), str(seconds))
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
        f"{slept.walks:,} sleeping walks on {NODES} nodes: {slept.rate:,.0f} reports/s of "
        f"{_REPORTS_A_WALK * slept.walks:,} due, all working after {slept.start:.0f} s; of a core "
        f"the coordinator took {100 * slept.coordinator / slept.seconds:.0f} %, the scheduler "
        f"{100 * slept.scheduler / slept.seconds:.0f} %, the workers together "
        f"{100 * slept.workers / slept.seconds:.0f} %; {slept.lost} tasks were lost."
    )


def arithmetic(slept: list[Slept]) -> list[str]:
    """The sentences that reckon keys a second from simulations of several sizes."""
    held = [one for one in slept if one.rate >= _HELD * _REPORTS_A_WALK * one.walks]
    if len(held) < 2:
        return ["This machine was too busy: too few reports arrived to reckon from."]
    goal = _REPORTS_A_WALK * _GOAL_WALKS
    keys = _GOAL / goal
    lines = [
        f"{_GOAL / MEGA:g} M keys/s by {_GOAL_WALKS:,} walks are {goal:,} reports/s of {keys:,.0f} "
        f"keys. Lines through {len(held)} sizes:"
    ]
    rates = [one.rate for one in held]
    for name, cpu in (
        ("coordinator", [one.coordinator / one.seconds for one in held]),
        ("scheduler", [one.scheduler / one.seconds for one in held]),
    ):
        each, fixed = statistics.linear_regression(rates, cpu)
        used = fixed + goal * each
        most = (1 - fixed) / each
        lines.append(
            f"{name}: {1e3 * fixed:.0f} ms/s + {each * MEGA:,.0f} us a report. At {goal:,} "
            f"reports/s {100 * used:.0f} % of a core, {used / _GOAL * MEGA:.3f} us a key; full at "
            f"(1 s - {fixed:.3f} s) / {each * MEGA:,.0f} us = {most:,.0f} reports/s, those of "
            f"{most / _REPORTS_A_WALK:,.0f} walks."
        )
    return lines
