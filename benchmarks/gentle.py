"""Scenario `gentle`: the delays of another client of the source while keys are copied.

The client (`benchmarks.client`) sends a GET or a SET each millisecond; in a second run 5,000 a
second, on five connections. In turns, each into an emptied target, within each round:

- no copy: the client's delays without one;
- rumpx with `--max-source-latency off`, whose speed is 1;
- rumpx with its defaults;
- rumpx at a fixed rate, 60 % of the unlimited speed of this round, and without a limit of latency;
- a plain copier with one connection to each side: redis-py's pipelines.

`benchmarks.beside` explains which seconds are within the limit; those of all rounds count together.
The client's own remaining error is the delay of its sends, which is shown.

Then once, with four times as many keys, *backing off*: rumpx with its defaults has been copying for
a while when another load on the source starts (redis-benchmark from PATH, 50 clients with pipelines
of 16), which ends after 20 s. The target's number of keys, ten times a second, shows when the
copy's speed over the last half second fell below half of its speed before, and when after the
load's end it was at 80 % again. The copy is stopped then.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from benchmarks import beside
from benchmarks.beside import LIMIT, LOOK_SECONDS, Growth, Run, within, within_cell
from benchmarks.client import PREFIX, Client, Felt, Percentiles, put_keys
from benchmarks.contenders import Contender, Round, against, as_data, median, rival, rumpx
from benchmarks.measure import MEGA, Failed, Options, Panel, Plot, Report, server_facts
from benchmarks.servers import Side, standalone
from rumpx.demo import SEED, Server, fill
from rumpx.servers.resp import encode

# Connections, each of which sends a request each millisecond.
_CLIENTS: Final = {"1 each ms": 1, "5,000 a second": 5}
_FIXED_SHARE: Final = 0.6

_NO_COPY: Final = "no copy"
_DEFAULTS: Final = "rumpx, defaults"
_OFF: Final = "rumpx, latency off"
_FIXED: Final = "rumpx, fixed rate"
_PLAIN: Final = "redis-py"
_SHOWN: Final = (_NO_COPY, _DEFAULTS, _OFF, _FIXED, _PLAIN)

_LOAD_KEYS: Final = 4  # times as many
_BEFORE_SECONDS: Final = 8.0
_LOAD_SECONDS: Final = 20.0
_AFTER_SECONDS: Final = 8.0
_SPEED_SECONDS: Final = 0.5  # over which a speed is told
_BASE_SECONDS: Final = 5.0  # over which it is told before the load
_BACKED_OFF: Final = 0.5
_BACK: Final = 0.8
_LOAD_CLIENTS: Final = 50
_LOAD_PIPELINE: Final = 16


def run(options: Options) -> Report:
    """As `loopback.run`; the copies of all rounds, then the one that backs off."""
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        fill(source.servers[0], options.keys, SEED)
        put_keys(source.servers[0])
        runs: dict[str, dict[str, list[Run]]] = {
            client: {name: [] for name in _SHOWN} for client in _CLIENTS
        }
        for number in range(1, options.rounds + 1):
            for client, connections in _CLIENTS.items():
                told = f"round {number} of {options.rounds}, {client}"
                for name, one in _round(source, target, connections, options, told):
                    runs[client][name].append(one)
        loaded = _backing_off(source, target, options)
    return Report(
        title=f"{options.keys:,} mixed keys on loopback, {version}, median of {options.rounds}; "
        f"the client's times from the appointed instant; limit {LIMIT * 1e3:g} ms",
        columns=(
            *("client", "contender", "keys/s", "x unlimited", "p50 ms", "p99", "p99.9"),
            *("seconds within limit", "CPU s/M: copier", "source"),
        ),
        rows=[
            (client, name, *_cells(by_name[name], by_name[_OFF], options.keys))
            for client, by_name in runs.items()
            for name in _SHOWN
        ],
        ratios=_ratios(runs) | loaded.ratios(),
        plots={
            "": _speed_plot(runs, options, version),
            "-load": loaded.plot(),
        },
        notes=[*_notes(runs), loaded.sentence()],
        data={
            "server": version,
            "limit": LIMIT,
            "runs": {
                client: {name: _as_data(made) for name, made in by_name.items()}
                for client, by_name in runs.items()
            },
            "load": loaded.as_data(),
        },
    )


# Copies beside a client


def _round(
    source: Side, target: Side, connections: int, options: Options, told: str
) -> Iterator[tuple[str, Run]]:
    workers = ("--workers", str(options.workers))

    def copy(name: str, contender: Contender) -> Run:
        print(f"{told}: {name}", file=sys.stderr, flush=True)
        target.flush()
        return beside.copy(contender, source, target, connections, idle.felt.p50)

    print(f"{told}: {_NO_COPY}", file=sys.stderr, flush=True)
    target.flush()
    idle = beside.no_copy(source, connections)
    yield _NO_COPY, idle
    unlimited = copy(_OFF, rumpx(*workers, with_gets=False))
    yield _OFF, unlimited
    yield _DEFAULTS, copy(_DEFAULTS, rumpx(*workers, governed=True, with_gets=False))
    assert unlimited.made
    rate = max(1000, round(_FIXED_SHARE * source.keys / unlimited.made.seconds, -3))
    fixed = rumpx(*workers, "--max-keys-per-sec", f"{rate:.0f}", with_gets=False)
    yield _FIXED, copy(_FIXED, fixed)
    yield _PLAIN, copy(_PLAIN, rival("redis-py", with_gets=False))


def _rounds(runs: list[Run]) -> list[Round]:
    return [one.made for one in runs if one.made]


def _middle(runs: list[Run], figure: Callable[[Run], float]) -> float:
    return statistics.median(map(figure, runs))


def _cells(runs: list[Run], unlimited: list[Run], keys: int) -> tuple[str, ...]:
    speed = ratio = copier = source = "-"
    if rounds := _rounds(runs):
        made = median(rounds)
        speed = f"{keys / made.seconds:,.0f}"
        ratio = f"{against(rounds, _rounds(unlimited)):.2f}"
        copier = f"{(made.cost.cpu_main + made.cost.cpu_others) / keys * MEGA:.1f}"
        source = f"{made.cost.source_cpu / keys * MEGA:.1f}"
    return (
        speed,
        ratio,
        f"{_middle(runs, lambda one: one.felt.p50) * 1e3:.2f}",
        f"{_middle(runs, lambda one: one.felt.p99) * 1e3:.1f}",
        f"{_middle(runs, lambda one: one.felt.p999) * 1e3:.1f}",
        within_cell(runs),
        copier,
        source,
    )


def _ratios(runs: dict[str, dict[str, list[Run]]]) -> dict[str, float]:
    ratios = {}
    for client, by_name in runs.items():
        for name in (_DEFAULTS, _FIXED, _PLAIN):
            speed = against(_rounds(by_name[name]), _rounds(by_name[_OFF]))
            ratios[f"{client}: {name} / unlimited"] = speed
            ratios[f"{client}: p99, {name} / unlimited"] = statistics.median(
                one.felt.p99 / other.felt.p99
                for one, other in zip(by_name[name], by_name[_OFF], strict=True)
            )
        for name in _SHOWN:
            if (share := within(by_name[name])) is not None:
                ratios[f"{client}: seconds within limit, {name}"] = share
    return ratios


def _notes(runs: dict[str, dict[str, list[Run]]]) -> Iterator[str]:
    for client, by_name in runs.items():
        all_runs = [one for made in by_name.values() for one in made]
        late = max(one.late.p99 for one in all_runs), max(one.late.p999 for one in all_runs)
        yield (
            f"{client}: the client itself sent late by at most {late[0] * 1e3:.2f} ms (p99), "
            f"{late[1] * 1e3:.2f} ms (p99.9) in any run."
        )


def _speed_plot(runs: dict[str, dict[str, list[Run]]], options: Options, version: str) -> Plot:
    def dots(by_name: dict[str, list[Run]], figure: Callable[[Run], float]) -> Any:
        return [(_speed(made, options.keys), _middle(made, figure)) for made in by_name.values()]

    return Plot(
        f"What another client of the source feels while {options.keys:,} keys are copied, "
        f"{version}, median of {options.rounds}",
        [
            Panel(
                f"{client}, half GET, half SET",
                "keys/s",
                "ms",
                {
                    "p99.9": dots(by_name, lambda one: one.felt.p999 * 1e3),
                    "p99": dots(by_name, lambda one: one.felt.p99 * 1e3),
                    "p50": dots(by_name, lambda one: one.felt.p50 * 1e3),
                },
                list(by_name),
                log=True,
                level=(_level(by_name[_NO_COPY]), "limit"),
            )
            for client, by_name in runs.items()
        ],
    )


def _speed(runs: list[Run], keys: int) -> float:
    rounds = _rounds(runs)
    return keys / median(rounds).seconds if rounds else 0.0


def _level(idle: list[Run]) -> float:
    """The limit above the delays without a copy, in ms."""
    return (_middle(idle, lambda one: one.felt.p50) + LIMIT) * 1e3


def _as_data(runs: list[Run]) -> list[dict[str, Any]]:
    return [
        {
            "felt": asdict(one.felt),
            "late": asdict(one.late),
            "seconds_above": one.above,
            "copy": as_data({"": [one.made]})[""][0] if one.made else None,
        }
        for one in runs
    ]


# Backing off


@dataclass(slots=True)
class _Loaded:
    """A copy during which another load began and ended, at these instants.

    Attributes:
        copying: when the first keys arrived.
        told: what rumpx said each second: when, and `held` of its progress.
        ended: whether the copy was over before it should have been stopped.
    """

    load: str
    growth: Growth
    copying: float = 0.0
    begin: float = 0.0
    end: float = 0.0
    stopped: float = 0.0
    ended: bool = False
    felt: Felt = field(default_factory=lambda: Felt([], [], []))
    told: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    @property
    def before(self) -> float:
        """Keys a second before the load."""
        return self.growth.speed(self.begin - _BASE_SECONDS, self.begin)

    @property
    def during(self) -> float:
        """Keys a second from when it should have backed off until the load's end."""
        return self.growth.speed(self.begin + 2, self.end)

    def speeds(self, begin: float, end: float) -> Iterator[tuple[float, float]]:
        """At instants a tenth of a second apart: the speed until then."""
        for step in itertools.count():
            at = begin + step * LOOK_SECONDS
            if at > end:
                return
            yield at, self.growth.speed(at - _SPEED_SECONDS, at)

    def backed_off(self) -> float | None:
        """Seconds from the load's begin until the speed was below half; None if it never was."""
        slow = _BACKED_OFF * self.before
        found = (at - self.begin for at, speed in self.speeds(self.begin, self.end) if speed < slow)
        return next(found, None)

    def back(self) -> float | None:
        """Seconds from the load's end until the speed was at 80 % again."""
        fast = _BACK * self.before
        found = (at - self.end for at, speed in self.speeds(self.end, self.stopped) if speed > fast)
        return next(found, None)

    def sentence(self) -> str:
        """For people."""
        slow, fast = (
            "never" if seconds is None else f"{seconds:.1f} s after"
            for seconds in (self.backed_off(), self.back())
        )
        return (
            f"Backing off: {self.before:,.0f} keys/s before {self.load}, "
            f"{self.during:,.0f} meanwhile; below {_BACKED_OFF:.0%} {slow} its begin, at "
            f"{_BACK:.0%} again {fast} its end."
            + (" The copy ended too early to tell; give more --keys." if self.ended else "")
        )

    def ratios(self) -> dict[str, float]:
        """The results, as far as there are any."""
        found = {
            "seconds until backed off": self.backed_off(),
            "seconds until back": self.back(),
            "speed during another load / before": self.during / self.before,
        }
        return {name: figure for name, figure in found.items() if figure is not None}

    def plot(self) -> Plot:
        """Speed, and what another client felt, over time."""
        begin = self.copying
        load = (self.begin - begin, self.end - begin, self.load)
        # Each second's figure is drawn at its middle.
        felt = [(one.at[0] - begin + 0.5, Percentiles.of(one.took)) for one in self._seconds()]
        return Plot(
            f"rumpx with its defaults, and another load on the source: {self.load}",
            [
                Panel(
                    f"speed, over {_SPEED_SECONDS:g} s",
                    "",
                    "keys/s",
                    {
                        "copied": [
                            (at - begin, speed)
                            for at, speed in self.speeds(begin + _SPEED_SECONDS, self.stopped)
                        ]
                    },
                    level=(_BACKED_OFF * self.before, f"{_BACKED_OFF:.0%} of before"),
                    span=load,
                ),
                Panel(
                    "another client, 1 each ms, each second",
                    "s since the first keys arrived",
                    "ms",
                    {
                        "p99": [(at, cuts.p99 * 1e3) for at, cuts in felt],
                        "p50": [(at, cuts.p50 * 1e3) for at, cuts in felt],
                    },
                    log=True,
                    level=(LIMIT * 1e3, "limit"),
                    span=load,
                ),
            ],
        )

    def _seconds(self) -> Sequence[Felt]:
        return self.felt.between(self.copying, self.stopped).seconds()

    def as_data(self) -> dict[str, Any]:
        """All of it, in seconds since the first keys arrived."""
        begin = self.copying
        return {
            "load": self.load,
            "load_begin": self.begin - begin,
            "load_end": self.end - begin,
            "stopped": self.stopped - begin,
            "keys": [(at - begin, number) for at, number in self.growth.seen],
            "held": [{"at": at - begin, **held} for at, held in self.told],
            "p99": [Percentiles.of(one.took).p99 for one in self._seconds()],
            "before": self.before,
            "during": self.during,
            "backed_off": self.backed_off(),
            "back": self.back(),
        }


def _backing_off(source: Side, target: Side, options: Options) -> _Loaded:
    source.flush()
    target.flush()
    print("backing off: filling the source", file=sys.stderr, flush=True)
    fill(source.servers[0], _LOAD_KEYS * options.keys, SEED)
    put_keys(source.servers[0])
    command, name = _load_command(source.servers[0])
    growth = Growth(target)
    loaded = _Loaded(name, growth)
    copying = _copying(source, target, options, loaded)
    print(f"backing off: {name}", file=sys.stderr, flush=True)
    with Client(source.servers[0], 1) as client, growth, copying as copy:
        loaded.copying = _first_keys(growth, copy)
        _wait(copy, _BEFORE_SECONDS)
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            loaded.begin = time.perf_counter()
            _wait(copy, _LOAD_SECONDS)
            if load.poll() is not None:
                raise Failed(f"{command[0]} ended with {load.returncode}.")
        finally:
            load.kill()
            load.wait()
            loaded.end = time.perf_counter()
        _wait(copy, _AFTER_SECONDS)
        loaded.stopped = time.perf_counter()
        loaded.ended = copy.poll() is not None
    loaded.felt = client.felt
    return loaded


@contextmanager
def _copying(
    source: Side, target: Side, options: Options, loaded: _Loaded
) -> Iterator[subprocess.Popen[str]]:
    """rumpx with its defaults, stopped at the end; what it says is noted."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rumpx", "--from", source.uri, "--to", target.uri]
        command += ["--progress", "json", "--state-dir", folder, "--workers", str(options.workers)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        reader = threading.Thread(target=_note, args=(process, loaded), daemon=True)
        reader.start()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
            reader.join()


def _note(process: subprocess.Popen[str], loaded: _Loaded) -> None:
    assert process.stderr
    for line in process.stderr:
        if line.startswith("{") and (held := json.loads(line).get("held")):
            loaded.told.append((time.perf_counter(), held))


def _first_keys(growth: Growth, copy: subprocess.Popen[str]) -> float:
    while not (growth.seen and growth.seen[-1][1]):
        if copy.poll() is not None:
            raise Failed(f"The copy ended with {copy.returncode} before any key arrived.")
        time.sleep(LOOK_SECONDS)
    return growth.seen[-1][0]


def _wait(copy: subprocess.Popen[str], seconds: float) -> None:
    """Some seconds, or until the copy has ended."""
    try:
        copy.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _load_command(server: Server) -> tuple[list[str], str]:
    """Return the command of another endless load, and its name."""
    program = shutil.which("redis-benchmark")
    if not program:
        print("There is no redis-benchmark; the load is one of our own.", file=sys.stderr)
        return [sys.executable, "-m", "benchmarks.gentle", str(server.port)], "a load of our own"
    words = ["-p", str(server.port), "-c", str(_LOAD_CLIENTS), "-P", str(_LOAD_PIPELINE)]
    return [program, *words, "-l", "-q", "GET", f"{PREFIX}0"], "redis-benchmark"


def main() -> None:
    """Another load: as many connections, each with a pipeline of GETs under way, until killed."""
    address = ("127.0.0.1", int(sys.argv[1]))
    sockets = [socket.create_connection(address) for _ in range(_LOAD_CLIENTS)]
    gets = encode("GET", f"{PREFIX}0") * _LOAD_PIPELINE
    while True:
        for sock in sockets:
            sock.sendall(gets)
        for sock in sockets:
            sock.recv(2**16)


if __name__ == "__main__":
    main()
