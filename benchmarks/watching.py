"""Scenario `watching`: the cost of displays and records to a copy.

In turns, each at its top speed:

- a copy that records nothing: no types, no sizes, no series for the report;
- an unwatched copy, which has all of that in its ledger;
- one with bars, on a terminal of 200 columns;
- one with everything: the full-screen view there, metrics that are scraped once a second, a log as
  JSON, a report and a hook at its end.

The copy's own time counts, from the first SCAN to the last answer; the report is written after it.
All have a terminal of their own, also where nothing is drawn: the scheduler treats the processes of
a session as one, so that one without would be measured against one with.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import urllib.request
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

from benchmarks.contenders import (
    TOP_SPEED,
    Contender,
    Round,
    against,
    as_data,
    cells,
    columns,
    turns,
)
from benchmarks.measure import Chart, Options, Report, Watch, measure, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, fill, free_port

# Read by each Python that begins, workers' fork server included.
_BLIND: Final = """
from rumpx.transfer import content_stats as kinds
from rumpx.model import timeline as series
kinds.Scale.weigh = lambda self, db, keys, payloads: (kinds.NO_KINDS, [])
series.Recorder.see = lambda self, snapshot, wall: None
"""
_TERMINAL: Final = """
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
try:
    while os.read(terminal, 65536):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def run(options: Options) -> Report:
    """As `loopback.run`."""
    contenders: dict[str, Contender] = {
        "recording nothing": _copy(options, "--progress", "none", blind=True),
        "unwatched": _copy(options, "--progress", "none"),
        "bars": _copy(options),
        "everything": _copy(options, "--top", everything=True),
    }
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        fill(source.servers[0], options.keys, SEED)
        made = turns(contenders, source, target, options.rounds)
    base = made["unwatched"]
    return Report(
        title=f"{options.keys:,} mixed keys on loopback, {version}, median of {options.rounds}",
        columns=("copy", *columns("x unwatched")),
        rows=[(name, *cells(rounds, options.keys, base)) for name, rounds in made.items()],
        ratios={
            "everything / unwatched": against(made["everything"], base),
            "bars / unwatched": against(made["bars"], base),
            "unwatched / recording nothing": against(base, made["recording nothing"]),
        },
        chart=Chart(
            "times the speed of an unwatched copy",
            list(made),
            {"": [against(rounds, base) for rounds in made.values()]},
        ),
        data={"server": version, "rounds": as_data(made)},
    )


def _copy(
    options: Options,
    *flags: str,
    blind: bool = False,
    everything: bool = False,
) -> Contender:
    def copy(source: Side, target: Side) -> Round:
        with tempfile.TemporaryDirectory() as folder:
            summary = Path(folder, "summary.json")
            command = [sys.executable, "-c", _TERMINAL]
            if blind:
                Path(folder, "sitecustomize.py").write_text(_BLIND, encoding="utf-8")
                paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
                command += ["env", f"PYTHONPATH={os.pathsep.join(paths)}"]
            command += [sys.executable, "-m", "rumpx", "--from", source.uri, "--to", target.uri]
            command += [*TOP_SPEED, "--workers", str(options.workers), *flags]
            command += ["--state-dir", folder, "--summary", str(summary)]
            port = free_port()
            if everything:
                command += [*("--metrics", str(port)), *("--report", f"{folder}/report.html")]
                command += [*("--log-file", f"{folder}/log"), *("--log-format", "json")]
                command += ["--on-end", "true"]
            with _Scraper(port) if everything else nullcontext():
                cost = measure(command, source.servers, target.servers)
            told = json.loads(summary.read_text(encoding="utf-8"))
        counts = told["counts"]
        return Round(told["seconds"], counts["copied"], counts["payload_bytes"], cost)

    return copy


class _Scraper(Watch):
    """A Prometheus that asks once a second."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._url = f"http://127.0.0.1:{port}/metrics"

    def run(self) -> None:
        while not self.done.wait(1.0):
            with suppress(OSError), urllib.request.urlopen(self._url, timeout=5) as answer:
                answer.read()
