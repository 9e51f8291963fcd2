"""Scenario `proof`: what it costs to be able to resume, and to prove that a copy is whole.

In turns, with the size check as by default:

- a copy, and one that writes nothing to its ledger once that is there;
- a comparison of both sides, and one that walks back over the target although the numbers of keys
  prove that it need not;
- a copy that is killed (SIGKILL) five times, at even distances, and resumed five times. Its time is
  that of the whole: the starts, and what was done since the last save and is done again.

Each copy is compared at the end; one that is not equal ends the benchmark.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.contenders import TOP_SPEED
from benchmarks.measure import MEGA, Chart, Failed, Options, Report, measure, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, fill

_KILLS: Final = 5
_NO_LEDGER: Final = """
from rumpx.copier.coordinator import Coordinator
Coordinator._save = lambda self, state: None
"""
_WALK_BACK: Final = """
from rumpx.verifier.overseer import Verifier
Verifier._walk_back_needed = lambda self, before: True
"""
_MAIN: Final = """
import sys
from rumpx.cli.main import main
sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class _Made:
    """One run: seconds from the first SCAN, of the whole command, and CPU of the source."""

    seconds: float
    wall: float
    source_cpu: float


def run(options: Options) -> Report:
    """As `loopback.run`."""
    contenders: dict[str, Callable[[Side, Side], _Made]] = {
        "copy": _copy(options),
        "copy, nothing saved": _copy(options, _NO_LEDGER),
        "verify": _verify(options),
        "verify, walked back": _verify(options, _WALK_BACK),
        f"copy, killed {_KILLS} times": _killed(options),
    }
    made: dict[str, list[_Made]] = {name: [] for name in contenders}
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        fill(source.servers[0], options.keys, SEED)
        for number in range(1, options.rounds + 1):
            for name, contender in contenders.items():
                print(f"round {number} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                if name.startswith("copy"):
                    target.flush()
                made[name].append(contender(source, target))
    ratios = {
        "time of verify / copy": _against(made["verify"], made["copy"]),
        "time of verify, walked back / copy": _against(made["verify, walked back"], made["copy"]),
        "speed with ledger / without": _against(made["copy, nothing saved"], made["copy"]),
        f"time killed {_KILLS} times / undisturbed": statistics.median(
            killed.wall / whole.wall
            for killed, whole in zip(
                made[f"copy, killed {_KILLS} times"], made["copy"], strict=True
            )
        ),
        "source's CPU of verify / copy": statistics.median(
            one.source_cpu / other.source_cpu
            for one, other in zip(made["verify"], made["copy"], strict=True)
        ),
        "source's CPU of verify, walked back / copy": statistics.median(
            one.source_cpu / other.source_cpu
            for one, other in zip(made["verify, walked back"], made["copy"], strict=True)
        ),
    }
    return Report(
        title=f"{options.keys:,} mixed keys on loopback, {version}, median of {options.rounds}",
        columns=("run", "s", "whole command s", "source CPU us/key"),
        rows=[(name, *_cells(rounds, options.keys)) for name, rounds in made.items()],
        ratios=ratios,
        chart=Chart(
            "seconds",
            list(made),
            {"": [statistics.median(one.wall for one in rounds) for rounds in made.values()]},
        ),
        data={"server": version, "ratios": ratios},
    )


def _against(rounds: list[_Made], others: list[_Made]) -> float:
    pairs = zip(rounds, others, strict=True)
    return statistics.median(one.seconds / other.seconds for one, other in pairs)


def _cells(rounds: list[_Made], keys: int) -> tuple[str, ...]:
    def middle(figure: Callable[[_Made], float]) -> float:
        return statistics.median(map(figure, rounds))

    return (
        f"{middle(lambda made: made.seconds):.2f}",
        f"{middle(lambda made: made.wall):.2f}",
        f"{middle(lambda made: made.source_cpu) / keys * MEGA:.2f}",
    )


def _command(patch: str, *words: str) -> list[str]:
    return [sys.executable, "-c", patch + _MAIN, *words]


def _words(options: Options, source: Side, target: Side) -> list[str]:
    ends = ["--from", source.uri, "--to", target.uri]
    return [*ends, *TOP_SPEED, "--workers", str(options.workers), "--progress", "none"]


def _measured(options: Options, source: Side, target: Side, patch: str, *words: str) -> _Made:
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder, "summary.json")
        command = _command(
            patch,
            *words,
            *_words(options, source, target),
            *("--state-dir", folder, "--summary", str(summary)),
        )
        cost = measure(command, source.servers, target.servers)
        told = json.loads(summary.read_text(encoding="utf-8"))
    return _Made(told["seconds"], cost.wall, cost.source_cpu)


def _copy(options: Options, patch: str = "") -> Callable[[Side, Side], _Made]:
    return lambda source, target: _measured(options, source, target, patch)


def _verify(options: Options, patch: str = "") -> Callable[[Side, Side], _Made]:
    return lambda source, target: _measured(options, source, target, patch, "verify")


def _killed(options: Options) -> Callable[[Side, Side], _Made]:
    """The copy's duration is measured first, so that the kills fall evenly into it."""

    def copy(source: Side, target: Side) -> _Made:
        whole = _copy(options)(source, target).wall
        target.flush()
        with tempfile.TemporaryDirectory() as folder:
            words = [*_words(options, source, target), "--job", "killed", "--state-dir", folder]
            resume = ["resume", "killed", "--state-dir", folder, "--progress", "none"]
            began = time.perf_counter()
            for number in range(_KILLS + 1):
                process = subprocess.Popen(_command("", *(resume if number else words)))
                if number < _KILLS:
                    # A start takes its time each time; of the copying each has its share.
                    time.sleep(_START_SECONDS + (whole - _START_SECONDS) / (_KILLS + 1))
                    process.kill()
                if process.wait() and number == _KILLS:
                    raise Failed("A resumed copy failed.")
            wall = time.perf_counter() - began
        _measured(options, source, target, "", "verify")
        return _Made(wall, wall, 0.0)

    return copy


_START_SECONDS: Final = 0.4
