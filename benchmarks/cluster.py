"""Scenario `cluster`: three primaries to three, one server to three primaries, six to three.

All servers share this machine's cores, so more servers are not faster here. The floor routes its
writes by slot as a copier must.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final

from benchmarks.contenders import (
    RUMPX_PIPELINE,
    against,
    as_data,
    cells,
    columns,
    floor,
    rumpx,
    turns,
)
from benchmarks.measure import Chart, Options, Report, server_facts
from benchmarks.servers import Side, cluster, standalone
from rumpx.demo import SEED, fill

_SHAPES: Final = ((3, 3), (1, 3), (6, 3))


def run(options: Options) -> Report:
    """As `loopback.run`, for each shape."""
    rows = []
    ratios = {}
    data: dict[str, Any] = {}
    names = [f"{_name(source)} to {_name(target)}" for source, target in _SHAPES]
    bars: dict[str, list[float]] = {}
    workers = options.workers
    contenders = {
        "rumpx": rumpx("--no-size-check", "--workers", str(workers)),
        "rumpx, sizes": rumpx("--workers", str(workers)),
        "floor": floor(workers),
        "floor, as rumpx asks": floor(workers, RUMPX_PIPELINE),
    }
    for name, (sources, targets) in zip(names, _SHAPES, strict=True):
        with ExitStack() as stack:
            source = stack.enter_context(_side(sources))
            target = stack.enter_context(_side(targets))
            version = str(server_facts(source.servers[0]))
            fill_side(source, options)
            made = turns(contenders, source, target, options.rounds)
        data[name] = as_data(made)
        ratios[f"{name}: rumpx / floor"] = against(made["rumpx"], made["floor"])
        for contender, rounds in made.items():
            bars.setdefault(contender, []).append(against(rounds, made["floor"]))
            rows.append((name, contender, *cells(rounds, options.keys, made["floor"])))
    return Report(
        title=f"{options.keys:,} mixed keys, {version}, {workers} workers, "
        f"median of {options.rounds}",
        columns=("primaries", "contender", *columns("x floor")),
        rows=rows,
        ratios=ratios,
        chart=Chart("times the speed of the floor", names, bars),
        data={"server": version, "rounds": data},
    )


def _name(servers: int) -> str:
    return "1 server" if servers == 1 else f"{servers} primaries"


def _side(servers: int) -> AbstractContextManager[Side]:
    return standalone() if servers == 1 else cluster(servers)


def fill_side(side: Side, options: Options) -> None:
    """The same keys in each shape; a cluster gets them by a copy."""
    if len(side.servers) == 1:
        fill(side.servers[0], options.keys, SEED)
        return
    with standalone() as origin:
        fill(origin.servers[0], options.keys, SEED)
        turns({"filling the source": rumpx("--no-size-check")}, origin, side, 1)
