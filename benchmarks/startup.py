"""Scenario `start-up`: how long the command takes before, or without, any work.

Wall time of whole commands, in turns, median: Python's own start, `--help`, a usage error, a copy
of an empty server, and a copy of one key, which starts the workers.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Final

from benchmarks.contenders import TOP_SPEED
from benchmarks.measure import Chart, Failed, Options, Report, ask, server_facts
from benchmarks.servers import standalone

_TIMES: Final = 11
_USAGE: Final = 2


def run(options: Options) -> Report:
    """Start each command eleven times, whatever the number of rounds.

    Raises:
        Failed: a command ended otherwise than it should.
    """
    with standalone() as source, standalone() as target, standalone() as full:
        version = str(server_facts(source.servers[0]))
        ask(full.servers[0], "SET", "key", "value")
        rumpx = [sys.executable, "-m", "rumpx"]
        to = ["--to", target.uri, "--on-conflict", "replace", "--progress", "none", *TOP_SPEED]
        commands = {
            "bare Python": ([sys.executable, "-c", "pass"], 0),
            "rumpx --help": ([*rumpx, "--help"], 0),
            "a usage error": ([*rumpx, "--workers", "many"], _USAGE),
            "an empty copy": ([*rumpx, "--from", source.uri, *to], 0),
            "a copy of one key": ([*rumpx, "--from", full.uri, *to], 0),
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(_TIMES):
            for name, (command, code) in commands.items():
                taken[name].append(_seconds(command, code))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    bare = medians["bare Python"]
    return Report(
        title=f"Start-up, {version}, median of {_TIMES}",
        columns=("command", "ms", "x bare Python"),
        rows=[(name, f"{1e3 * s:.0f}", f"{s / bare:.1f}") for name, s in medians.items()],
        ratios={f"{name} / bare Python": seconds / bare for name, seconds in medians.items()},
        chart=Chart("ms", list(medians), {"": [1e3 * s for s in medians.values()]}),
        data={"server": version, "seconds": taken},
    )


def _seconds(command: list[str], code: int) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True)
    took = time.perf_counter() - began
    if done.returncode != code:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr!r}")
    return took
