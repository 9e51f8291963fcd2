"""Scenario `versions`: copies between two servers of different versions, beside equal ones.

Mixed keys, and for each fifty of them a hash of ten fields, each with an expiry, if the server has
such. RUMPX_OTHER_SERVER names the second server program; without it both are the same. Each round
copies from each program to each, with a comparison at the end (`--verify`), so that every copy is
proven, also the expiries of fields.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, closing
from typing import Any, Final

from benchmarks.contenders import Contender, Round, as_data, median, rumpx
from benchmarks.measure import MEGA, Failed, Options, Report, server_facts
from benchmarks.servers import Side
from rumpx.demo import SEED, Server, fill
from rumpx.servers.topology import is_error

OTHER_VARIABLE: Final = "RUMPX_OTHER_SERVER"
_KEYS_A_HASH: Final = 50
_FIELDS: Final = 10
_LIFETIME_MS: Final = 86_400_000
_CHUNK: Final = 500


def run(options: Options) -> Report:
    """As `loopback.run`, from each version to each in turns."""
    programs = (None, os.environ.get(OTHER_VARIABLE))
    contenders = {
        "rumpx": rumpx("--verify", governed=True, with_gets=False),
        "rumpx unlimited": rumpx("--verify", with_gets=False),
    }
    made: dict[tuple[str, str, str], list[Round]] = {}
    with ExitStack() as stack:
        sources, targets = (
            [Side([stack.enter_context(Server(program))]) for program in programs]
            for _ in range(2)
        )
        names = [str(server_facts(side.servers[0])) for side in sources]
        for source in sources:
            fill(source.servers[0], options.keys, SEED)
            _put_hashes(source.servers[0], options.keys // _KEYS_A_HASH)
        pairs = [(here, there) for here in (0, 1) for there in (0, 1)]
        for number in range(1, options.rounds + 1):
            for here, there in pairs:
                for name, contender in contenders.items():
                    where = f"{names[here]} to {names[there]}"
                    print(
                        f"round {number} of {options.rounds}: {where}, {name}",
                        file=sys.stderr,
                        flush=True,
                    )
                    one = _copied(contender, sources[here], targets[there])
                    made.setdefault((names[here], names[there], name), []).append(one)
    middles = {run: median(rounds) for run, rounds in made.items()}
    rates = {run: middle.copied / middle.seconds for run, middle in middles.items()}
    return Report(
        title=f"{options.keys:,} mixed keys and {options.keys // _KEYS_A_HASH:,} hashes whose "
        f"fields expire, with --verify, median of {options.rounds}",
        columns=("from", "to", "contender", "keys/s", "x equal versions", "peak MB"),
        rows=[
            (
                *run,
                f"{rate:,.0f}",
                f"{rate / rates[run[0], run[0], run[2]]:.2f}",
                f"{middles[run].cost.peak_memory / MEGA:.0f}",
            )
            for run, rate in rates.items()
        ],
        ratios={
            f"{name}, {here} to {there} / equal versions": rate / rates[here, here, name]
            for (here, there, name), rate in rates.items()
            if here != there
        },
        data={"rounds": as_data({", ".join(run): rounds for run, rounds in made.items()})},
    )


def _copied(contender: Contender, source: Side, target: Side) -> Round:
    target.flush()
    made = contender(source, target)
    if target.keys != source.keys:
        raise Failed(f"The copy left {target.keys:,} keys on the target of {source.keys:,}.")
    return made


def _put_hashes(server: Server, number: int) -> None:
    """Write hashes whose fields expire in a day; none if the server does not know that."""
    until = int(time.time() * 1000) + _LIFETIME_MS
    fields = [f"field{n}" for n in range(_FIELDS)]
    values = [word for field in fields for word in (field, f"value of {field}")]
    with closing(server.connect()) as connection:
        for start in range(0, number, _CHUNK):
            commands: list[Any] = []
            for n in range(start, min(number, start + _CHUNK)):
                key = f"expiring:{n}"
                commands.append(("HSET", key, *values))
                commands.append(("HPEXPIREAT", key, until + n, "FIELDS", _FIELDS, *fields))
            if any(map(is_error, connection.call_many(commands)[1:2])):
                return
