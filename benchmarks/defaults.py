"""Scenario `defaults`: rumpx as people run it, beside other tools, and beside floors that ask the
same of the servers.

Whole commands in turns, their start included; the time of the copying alone stands beside it.
rumpx itself chooses its number of workers.

- rumpx with its defaults, whose latency limit holds it back: alone, without its size check, and
  beside another client of the source that sends a request each millisecond (`benchmarks.beside`).
  That client's delays without a copy are measured before each such copy.
- rumpx with `--max-source-latency off`, with and without its size check, in pipelines of 200 keys,
  its own choice for near servers, and of 1,000.
- For each of these four a floor of bare sockets with --workers processes, which asks for sizes or
  not, in pipelines of as many keys, with MULTI around as many (`benchmarks.rivals`).
- SCAN, DUMP and PEXPIRETIME alone, without MULTI or a target: the least that the source must do.
- redis-shake and riot, where they are on PATH.

The CPU of all processes is split by who spends it, in microseconds a key. A ratio is the median of
the ratios within each round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks import beside
from benchmarks.beside import Run, within, within_cell
from benchmarks.client import put_keys
from benchmarks.contenders import (
    LONG_PIPELINE,
    RUMPX_GROUP,
    RUMPX_PIPELINE,
    Contender,
    Round,
    against,
    as_data,
    floor,
    median,
    others_on_path,
    rival,
    rumpx,
    turns,
    whole,
)
from benchmarks.measure import MEGA, Chart, Cost, Options, Report, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, fill

_DEFAULTS: Final = "rumpx"
_UNSIZED: Final = "rumpx, no sizes"
_BESIDE: Final = "rumpx, another client"
_READS: Final = "reads alone"
_SHAKE: Final = "redis-shake"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of the source: sizes or not, by how many keys at once."""

    sizes: bool
    pipeline: int

    @property
    def rumpx(self) -> str:
        return f"unlimited, {self}"

    @property
    def floor(self) -> str:
        return f"floor, {self}"

    @property
    def flags(self) -> tuple[str, ...]:
        sizes = () if self.sizes else ("--no-size-check",)
        keys = () if self.pipeline == RUMPX_PIPELINE else ("--batch-keys", str(self.pipeline))
        return (*sizes, *keys)

    def __str__(self) -> str:
        return f"{'sizes' if self.sizes else 'no sizes'}, {self.pipeline:,} keys"


_ASKED: Final = [
    _Asked(sizes, pipeline)
    for pipeline in (RUMPX_PIPELINE, LONG_PIPELINE)
    for sizes in (True, False)
]
_USUAL, _USUAL_UNSIZED = _ASKED[:2]


def run(options: Options) -> Report:
    """As `loopback.run`."""
    felt: list[Run] = []
    contenders = _contenders(options.workers, felt)
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        fill(source.servers[0], options.keys, SEED)
        put_keys(source.servers[0])
        keys = source.keys
        made = turns(contenders, source, target, options.rounds, reading={_READS})
    commands = {name: whole(rounds) for name, rounds in made.items()}
    ratios = _ratios(made, commands, felt)
    return Report(
        title=f"{options.keys:,} mixed keys on loopback, {version}, "
        f"whole commands, floors of {options.workers} workers, median of {options.rounds}; "
        "CPU in us/key",
        columns=(
            *("contender", "keys/s", "copying", "x redis-shake", "x own floor", "copying"),
            *("CPU: main", "others", "source", "target", "sum", "s within limit"),
        ),
        rows=[
            (*_cells(name, made, commands, keys), within_cell(felt if name == _BESIDE else []))
            for name in made
        ],
        ratios=ratios,
        chart=Chart(
            "microseconds of CPU a key, of all processes",
            list(made),
            {"": [_cpu(rounds, _sum) / keys * MEGA for rounds in made.values()]},
        ),
        notes=[f"{name}: {ratio:.2f}" for name, ratio in ratios.items()],
        data={
            "server": version,
            "rounds": as_data(made),
            "seconds_above": [one.above for one in felt],
        },
    )


def _contenders(workers: int, felt: list[Run]) -> dict[str, Contender]:
    """In their order within a round; `felt` gets what another client felt."""
    governed = rumpx(governed=True, with_gets=False)

    def with_client(source: Side, target: Side) -> Round:
        idle = beside.no_copy(source, 1)
        run = beside.copy(governed, source, target, 1, idle.felt.p50)
        assert run.made
        felt.append(run)
        return run.made

    return {
        _DEFAULTS: governed,
        _UNSIZED: rumpx("--no-size-check", governed=True, with_gets=False),
        _BESIDE: with_client,
        **{asked.rumpx: rumpx(*asked.flags, with_gets=False) for asked in _ASKED},
        **{
            asked.floor: floor(
                workers, asked.pipeline, RUMPX_GROUP, sizes=asked.sizes, with_gets=False
            )
            for asked in _ASKED
        },
        _READS: rival("reads", workers, RUMPX_PIPELINE, 0, 0, with_gets=False),
        **others_on_path(with_gets=False),
    }


def _floor_of(name: str) -> str | None:
    if name in (_DEFAULTS, _BESIDE):
        return _USUAL.floor
    if name == _UNSIZED:
        return _USUAL_UNSIZED.floor
    return next((asked.floor for asked in _ASKED if asked.rumpx == name), None)


def _cells(
    name: str, made: Mapping[str, list[Round]], commands: Mapping[str, list[Round]], keys: int
) -> tuple[str, ...]:
    own = _floor_of(name)
    cost = median(made[name]).cost
    return (
        name,
        f"{keys / median(commands[name]).seconds:,.0f}",
        f"{keys / median(made[name]).seconds:,.0f}",
        f"{against(commands[name], commands[_SHAKE]):.2f}" if _SHAKE in commands else "-",
        f"{against(commands[name], commands[own]):.2f}" if own else "-",
        f"{against(made[name], made[own]):.2f}" if own else "-",
        *(
            f"{seconds / keys * MEGA:.1f}"
            for seconds in (
                cost.cpu_main,
                cost.cpu_others,
                cost.source_cpu,
                cost.target_cpu,
                _cpu(made[name], _sum),
            )
        ),
    )


def _ratios(
    made: Mapping[str, list[Round]], commands: Mapping[str, list[Round]], felt: list[Run]
) -> dict[str, float]:
    unlimited = _USUAL.rumpx
    ratios = {
        "rumpx / unlimited": against(commands[_DEFAULTS], commands[unlimited]),
        "CPU of the copier: rumpx / unlimited": _times(made[_DEFAULTS], made[unlimited], _copier),
    }
    for name in (_DEFAULTS, _UNSIZED):
        ratios[f"CPU of the source: {name} / reads alone"] = _times(
            made[name], made[_READS], _source
        )
    if _SHAKE in commands:
        for name in (_DEFAULTS, _UNSIZED, _BESIDE, unlimited):
            ratios[f"{name} / redis-shake"] = against(commands[name], commands[_SHAKE])
    if (share := within(felt)) is not None:
        ratios["seconds within limit"] = share
    for asked in _ASKED:
        ratios[f"{asked.rumpx} / its floor"] = against(commands[asked.rumpx], commands[asked.floor])
        ratios[f"copying alone, {asked.rumpx} / its floor"] = against(
            made[asked.rumpx], made[asked.floor]
        )
        ratios[f"CPU of the copier: {asked.rumpx} / its floor"] = _times(
            made[asked.rumpx], made[asked.floor], _copier
        )
    return ratios


def _times(rounds: list[Round], others: list[Round], figure: Callable[[Cost], float]) -> float:
    """A cost as a multiple of another contender's: the median of the ratios within each round."""
    return statistics.median(
        figure(made.cost) / figure(other.cost)
        for made, other in zip(rounds, others, strict=True)
    )


def _cpu(rounds: list[Round], figure: Callable[[Cost], float]) -> float:
    return statistics.median(figure(made.cost) for made in rounds)


def _copier(cost: Cost) -> float:
    return cost.cpu_main + cost.cpu_others


def _source(cost: Cost) -> float:
    return cost.source_cpu


def _sum(cost: Cost) -> float:
    return _copier(cost) + cost.source_cpu + cost.target_cpu
