"""Scenario `distance`: the same copy with 0, 1, 20 and 100 ms of round trip on both sides.

Both servers stand behind a delaying proxy (`benchmarks.delay`), which at 0 ms is the base. rumpx
runs with its defaults: it measures the round trips and chooses how many cursors it walks and how
many batches it has in flight.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks.contenders import Contender, against, as_data, cells, columns, rumpx, turns
from benchmarks.delay import Network, delayed
from benchmarks.measure import Chart, Options, Report, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, fill

_ROUND_TRIPS_MS: Final = (0, 1, 20, 100)


def run(options: Options) -> Report:
    """As `loopback.run`; the rates are compared with that at 0 ms."""
    with ExitStack() as stack:
        source = stack.enter_context(standalone())
        target = stack.enter_context(standalone())
        version = str(server_facts(source.servers[0]))
        fill(source.servers[0], options.keys, SEED)
        contenders = {
            f"{milliseconds} ms": _at(milliseconds, source, target, stack, options.workers)
            for milliseconds in _ROUND_TRIPS_MS
        }
        made = turns(contenders, source, target, options.rounds)
    base = made[f"{_ROUND_TRIPS_MS[0]} ms"]
    return Report(
        title=f"{options.keys:,} mixed keys, {version}, rumpx with {options.workers} workers, "
        f"delays on both sides, median of {options.rounds}",
        columns=("round trip", *columns("x 0 ms")),
        rows=[(name, *cells(rounds, options.keys, base)) for name, rounds in made.items()],
        ratios={f"{name} / 0 ms": against(rounds, base) for name, rounds in made.items()},
        chart=Chart(
            "times the speed at 0 ms",
            list(made),
            {"": [against(rounds, base) for rounds in made.values()]},
        ),
        data={"server": version, "rounds": as_data(made)},
    )


def _at(
    milliseconds: float, source: Side, target: Side, stack: ExitStack, workers: int
) -> Contender:
    uris = tuple(
        stack.enter_context(delayed(side.ports[0], Network(milliseconds)))
        for side in (source, target)
    )
    return rumpx("--no-size-check", "--workers", str(workers), proxied=(uris[0], uris[1]))
