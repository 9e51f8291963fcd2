"""The contenders: rumpx with its flags, its rivals, and other tools on PATH.

A Contender copies from one Side to another by a command, and returns the time of the copying
itself: from the first SCAN to the last answer, so that Python's start does not count (`cost.wall`
has it). For tools that do not report it, it is the command's whole time.

`turns` lets contenders copy in turns, round after round, each into an emptied target, so that a
machine's mood is shared; the median round counts. A copy whose key count is wrong ends the
benchmark.

rumpx runs with `--max-source-latency off` (`TOP_SPEED`) unless it says "governed": by default it
slows down as soon as other clients of the source wait, and on few cores that is early.
`benchmarks.gentle` measures its defaults.

Other tools take part where they are on PATH:

- `redis-shake` (4.2) with its scan_reader, one connection to each side. COUNT is 1,000, as its
  default of 1 costs a round trip a key. Larger pipelines (`pipeline_count_limit` 4,096 and 16,384
  in place of 1,024) and `ncpu` of 2 or 4 made it no faster, `ncpu` of 1 slower; with `off_reply` it
  lost keys.
- `riot` (4.0.4) by DUMP and RESTORE, without its comparison at the end, with 4 threads that read
  and write 500 keys at once. That was a few percent faster than its own choice, 1 thread and 50.
- `rump` was not at hand when this was written: its command line follows its documentation.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import MEGA, Cost, Failed, measure, median_cost
from benchmarks.servers import Side
from rumpx.model.tuning import tune
from rumpx.transfer.dump_reader import GROUP_KEYS

# As many keys as rumpx asks for at once by default on a near server, and has in a MULTI.
RUMPX_PIPELINE: Final = tune(0.0, 0.0, keys=0, workers=1, nodes=1).pipeline_keys
RUMPX_GROUP: Final = GROUP_KEYS
LONG_PIPELINE: Final = 1000
TOP_SPEED: Final = ("--max-source-latency", "off")


@dataclass(frozen=True, slots=True)
class Round:
    """One copy by one contender, or the median of several.

    `copied` may exceed the number of keys, since SCAN shows some twice.
    """

    seconds: float
    copied: float
    payload_bytes: float
    cost: Cost


Contender = Callable[[Side, Side], Round]


def rumpx(
    *flags: str,
    proxied: tuple[str, str] | None = None,
    governed: bool = False,
    with_gets: bool = True,
) -> Contender:
    """The command as a user runs it.

    Args:
        proxied: URIs to give in the place of the sides' own.
        governed: with the limits of its defaults, not at its top speed.
        with_gets: as for `measure`.
    """
    limits = () if governed else TOP_SPEED

    def copy(source: Side, target: Side) -> Round:
        uris = proxied or (source.uri, target.uri)
        with tempfile.TemporaryDirectory() as folder:
            summary_path = Path(folder, "summary.json")
            command = [sys.executable, "-m", "rumpx", "--from", uris[0], "--to", uris[1]]
            command += ["--progress", "none", "--summary", str(summary_path)]
            command += ["--state-dir", folder, *limits, *flags]
            cost = measure(command, source.servers, target.servers, with_gets=with_gets)
            summary = json.loads(summary_path.read_text(encoding="utf-8"))
        counts = summary["counts"]
        return Round(summary["seconds"], counts["copied"], counts["payload_bytes"], cost)

    return copy


def rival(name: str, *numbers: int, with_gets: bool = True) -> Contender:
    """One of `benchmarks.rivals`."""

    def copy(source: Side, target: Side) -> Round:
        ports = (",".join(map(str, side.ports)) for side in (source, target))
        command = [sys.executable, "-m", "benchmarks.rivals", name, *ports, *map(str, numbers)]
        cost = measure(command, source.servers, target.servers, with_gets=with_gets)
        told: dict[str, Any] = json.loads(cost.output)
        return Round(told["seconds"], told["copied"], told["payload_bytes"], cost)

    return copy


def floor(
    workers: int,
    pipeline: int = LONG_PIPELINE,
    group: int = 0,
    *,
    sizes: bool = False,
    with_gets: bool = True,
) -> Contender:
    """Bare sockets; see `benchmarks.rivals`."""
    return rival("floor", workers, pipeline, group, int(sizes), with_gets=with_gets)


def others_on_path(*, with_gets: bool = True) -> dict[str, Contender]:
    """Other tools that this machine has; for standalone servers."""
    known = {"rump": _rump, "redis-shake": _redis_shake, "riot": _riot}
    return {
        name: partial(copy, with_gets=with_gets)
        for name, copy in known.items()
        if shutil.which(name)
    }


def _rump(source: Side, target: Side, *, with_gets: bool) -> Round:
    command = ["rump", "-from", source.uri + "/0", "-to", target.uri + "/0", "-ttl", "-silent"]
    return _whole_command(command, source, target, with_gets)


_SHAKE: Final = """
[scan_reader]
address = "127.0.0.1:{source}"
count = 1000
ksn = false

[redis_writer]
address = "127.0.0.1:{target}"

[advanced]
dir = "{folder}"
log_level = "warn"
rdb_restore_command_behavior = "rewrite"
"""


def _redis_shake(source: Side, target: Side, *, with_gets: bool) -> Round:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shake.toml")
        ports = {"source": source.ports[0], "target": target.ports[0]}
        path.write_text(_SHAKE.format(**ports, folder=folder), encoding="utf-8")
        return _whole_command(["redis-shake", str(path)], source, target, with_gets)


_RIOT: Final = ("--threads", "4", "--batch", "500", "--read-threads", "4", "--read-batch", "500")


def _riot(source: Side, target: Side, *, with_gets: bool) -> Round:
    command = ["riot", "replicate", "--compare", "NONE", "--progress", "NONE", "--mem-limit", "-1"]
    return _whole_command([*command, *_RIOT, source.uri, target.uri], source, target, with_gets)


def _whole_command(command: list[str], source: Side, target: Side, with_gets: bool) -> Round:
    cost = measure(command, source.servers, target.servers, with_gets=with_gets)
    return Round(cost.wall, target.keys, 0, cost)


def turns(
    contenders: Mapping[str, Contender],
    source: Side,
    target: Side,
    rounds: int,
    *,
    reading: Collection[str] = (),
) -> dict[str, list[Round]]:
    """Each contender's rounds; those in `reading` write nothing.

    Raises:
        Failed: a contender failed or copied a wrong number of keys.
    """
    made: dict[str, list[Round]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name, copy in contenders.items():
            print(f"round {number} of {rounds}: {name}", file=sys.stderr, flush=True)
            target.flush()
            made[name].append(copy(source, target))
            if name not in reading:
                require_keys(source, target)
    return made


def require_keys(source: Side, target: Side) -> int:
    """Return the number of keys on both sides.

    Raises:
        Failed: the target has fewer or more.
    """
    expected, found = source.keys, target.keys
    if found != expected:
        raise Failed(f"The copy left {found:,} keys on the target of {expected:,}.")
    return expected


def median(rounds: list[Round]) -> Round:
    """The median of each figure by itself."""
    return Round(
        statistics.median(made.seconds for made in rounds),
        statistics.median(made.copied for made in rounds),
        statistics.median(made.payload_bytes for made in rounds),
        median_cost([made.cost for made in rounds]),
    )


def whole(rounds: list[Round]) -> list[Round]:
    """The same, with the times of the whole commands."""
    return [replace(made, seconds=made.cost.wall) for made in rounds]


def against(rounds: list[Round], others: list[Round]) -> float:
    """Return the speed as a multiple of another's: the median of the ratios within each round,
    since a machine's speed changes from round to round."""
    return statistics.median(
        other.seconds / made.seconds for made, other in zip(rounds, others, strict=True)
    )


def columns(*ratios: str) -> tuple[str, ...]:
    """The headings of `cells`; `ratios` are those of the bases."""
    return (
        "keys/s",
        "MB/s",
        *ratios,
        "CPU s/M: main",
        "others",
        "source",
        "target",
        "peak MB",
        "GET p50 ms",
        "p99",
        "p99.9",
    )


def cells(rounds: list[Round], keys: int, *bases: list[Round]) -> tuple[str, ...]:
    """The median Round under `columns`, with the speed relative to each of the bases after the
    rates; CPU in seconds for a million keys."""
    made = median(rounds)
    cost = made.cost
    millions = keys / MEGA
    return (
        f"{keys / made.seconds:,.0f}",
        f"{made.payload_bytes / made.seconds / MEGA:.1f}" if made.payload_bytes else "-",
        *(f"{against(rounds, base):.2f}" for base in bases),
        f"{cost.cpu_main / millions:.2f}",
        f"{cost.cpu_others / millions:.2f}",
        f"{cost.source_cpu / millions:.2f}",
        f"{cost.target_cpu / millions:.2f}",
        f"{cost.peak_memory / MEGA:.0f}",
        f"{cost.get_p50:.2f}",
        f"{cost.get_p99:.1f}",
        f"{cost.get_p999:.1f}",
    )


def as_data(made: Mapping[str, list[Round]]) -> dict[str, Any]:
    """All rounds, for the JSON file."""
    return {name: [_without_output(one) for one in rounds] for name, rounds in made.items()}


def _without_output(made: Round) -> dict[str, Any]:
    return asdict(replace(made, cost=replace(made.cost, output="")))
