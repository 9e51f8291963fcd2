"""Scenario `tail`: the time that the last 2 % of the keys take.

Mixed keys, and the same with 20 strings of 10 MB among them, at random places of the walk as all
keys are, since SCAN follows their hashes. The target's number of keys, 20 times a second, shows
when it had the first, 98 % and all of them. At an even speed the last 2 % take 2 % of the time.
"""

from __future__ import annotations

import random
import statistics
import sys
from contextlib import closing
from typing import Any, Final

from benchmarks.beside import Growth
from benchmarks.contenders import Contender, Round, as_data, median, require_keys, rumpx
from benchmarks.measure import MEGA, Chart, Failed, Options, Report, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, Server, fill

_LARGE: Final = 20
_LARGE_BYTES: Final = 10_000_000
_TAIL: Final = 0.02
_LOOK_SECONDS: Final = 0.05


def run(options: Options) -> Report:
    """As `loopback.run`, from both sources in turns."""
    contenders = {
        "rumpx": rumpx(governed=True, with_gets=False),
        "rumpx unlimited": rumpx(with_gets=False),
    }
    made: dict[tuple[str, str], list[Round]] = {}
    shares: dict[tuple[str, str], list[float]] = {}
    with standalone() as plain, standalone() as mixed, standalone() as target:
        version = str(server_facts(plain.servers[0]))
        sources = {"small values": plain, f"and {_LARGE} of 10 MB": mixed}
        for source in sources.values():
            fill(source.servers[0], options.keys, SEED)
        _put_large(mixed.servers[0])
        for number in range(1, options.rounds + 1):
            for values, source in sources.items():
                for name, contender in contenders.items():
                    print(
                        f"round {number} of {options.rounds}: {values}, {name}",
                        file=sys.stderr,
                        flush=True,
                    )
                    one, share = _copied(contender, source, target)
                    made.setdefault((values, name), []).append(one)
                    shares.setdefault((values, name), []).append(share)
    middles = {run: statistics.median(found) for run, found in shares.items()}
    return Report(
        title=f"{options.keys:,} mixed keys on loopback, {version}, "
        f"median of {options.rounds}",
        columns=("values", "contender", "s", f"share of the last {_TAIL:.0%}", "peak MB"),
        rows=[
            (
                *run,
                f"{median(made[run]).seconds:.2f}",
                f"{share:.1%}",
                f"{median(made[run]).cost.peak_memory / MEGA:.0f}",
            )
            for run, share in middles.items()
        ],
        ratios={
            f"{values}, {name}: time of the last {_TAIL:.0%} / of all": share
            for (values, name), share in middles.items()
        },
        chart=Chart(
            f"% of the time for the last {_TAIL:.0%} of the keys",
            [f"{values}, {name}" for values, name in middles],
            {"": [100 * share for share in middles.values()]},
        ),
        data={
            "server": version,
            "rounds": as_data({", ".join(run): rounds for run, rounds in made.items()}),
            "shares": {", ".join(run): found for run, found in shares.items()},
        },
    )


def _copied(contender: Contender, source: Side, target: Side) -> tuple[Round, float]:
    """Return one copy, and the share of the time for the last keys."""
    target.flush()
    with Growth(target, _LOOK_SECONDS) as growth:
        made = contender(source, target)
    keys = require_keys(source, target)
    begin, end = growth.span(keys)
    whole = max(_LOOK_SECONDS, end - begin)
    return made, (end - growth.when((1 - _TAIL) * keys)) / whole


def _put_large(server: Server) -> None:
    chance = random.Random(SEED)
    with closing(server.connect()) as connection:
        for number in range(_LARGE):
            reply: Any = connection.call("SET", f"large:{number}", chance.randbytes(_LARGE_BYTES))
            if reply != b"OK":
                raise Failed(f"{server.program} refused a write: {reply!r}")
