"""Scenario `hindered`: copies that other programs, or the network, make slow.

rumpx with its defaults in turns with `--max-source-latency off`, without a size check:

- beside three processes that do nothing but use CPU, on the machine that all share;
- over a network whose delay varies, by `benchmarks.delay` before both servers: 10 ms and up to
  15 ms more each way, and 80 ms besides for 0.5, 2 and 5 % of what is sent.

Neither is a load on the source, so a limit of the source's latency should not slow the copy.
Whole commands; the time of the copying alone stands beside it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmarks.contenders import Contender, Round, against, as_data, median, rumpx, turns, whole
from benchmarks.delay import Network, delayed
from benchmarks.measure import Chart, Options, Report, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, fill

_HOGS: Final = 3
_ROUND_TRIP_MS: Final = 20.0
_JITTER_MS: Final = 15.0
_STRAGGLERS: Final = (0.005, 0.02, 0.05)
_STRAGGLER_MS: Final = 80.0
_DEFAULTS: Final = "rumpx"
_UNLIMITED: Final = "rumpx unlimited"


def run(options: Options) -> Report:
    """As `loopback.run`, with each hindrance."""
    made: dict[str, dict[str, list[Round]]] = {}
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        fill(source.servers[0], options.keys, SEED)
        with hogs(_HOGS):
            made[f"{_HOGS} CPU hogs"] = turns(_contenders(), source, target, options.rounds)
        for share in _STRAGGLERS:
            network = Network(_ROUND_TRIP_MS, _JITTER_MS, share, _STRAGGLER_MS)
            with _between(network, source, target) as uris:
                made[f"jitter, {share:.1%} stragglers"] = turns(
                    _contenders(uris), source, target, options.rounds
                )
    ratios = {
        f"{hindrance}: rumpx / unlimited": against(*_wholes(by_name))
        for hindrance, by_name in made.items()
    }
    return Report(
        title=f"{options.keys:,} mixed keys, {version}, whole commands, "
        f"median of {options.rounds}",
        columns=("hindrance", "contender", "keys/s", "copying", "x unlimited"),
        rows=[
            (
                hindrance,
                name,
                f"{options.keys / median(whole(rounds)).seconds:,.0f}",
                f"{options.keys / median(rounds).seconds:,.0f}",
                f"{against(whole(rounds), whole(by_name[_UNLIMITED])):.2f}",
            )
            for hindrance, by_name in made.items()
            for name, rounds in by_name.items()
        ],
        ratios=ratios,
        chart=Chart("times the unlimited speed", list(made), {"": list(ratios.values())}),
        data={
            "server": version,
            "rounds": {hindrance: as_data(by_name) for hindrance, by_name in made.items()},
        },
    )


def _contenders(proxied: tuple[str, str] | None = None) -> dict[str, Contender]:
    return {
        name: rumpx("--no-size-check", proxied=proxied, governed=name == _DEFAULTS, with_gets=False)
        for name in (_DEFAULTS, _UNLIMITED)
    }


def _wholes(by_name: dict[str, list[Round]]) -> tuple[list[Round], list[Round]]:
    return whole(by_name[_DEFAULTS]), whole(by_name[_UNLIMITED])


@contextmanager
def _between(network: Network, source: Side, target: Side) -> Iterator[tuple[str, str]]:
    """A network before both sides."""
    with delayed(source.ports[0], network) as one, delayed(target.ports[0], network) as other:
        yield one, other


@contextmanager
def hogs(number: int) -> Iterator[None]:
    """So many processes that use all the CPU they get, while entered."""
    with ExitStack() as stack:
        for _ in range(number):
            hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(hog.wait)
            stack.callback(hog.kill)
        yield
