"""The cost of a copy, measured from outside: time, CPU, memory, and delays of other clients.

A contender is always a command in a process of its own, so that rumpx and its rivals are measured
alike. Meanwhile others measure:

- `benchmarks.usage`, the parent of the command, counts its time and the CPU of all its processes.
- A thread reads the memory of its process tree, by psutil, twenty times a second: the largest sum
  of resident sets, in which pages that processes share count once for each.
- Another is a client of the source that sends a GET each millisecond and records the time to its
  answer. On a machine with fewer cores than busy processes that is mostly its own turn for a core.
  (`benchmarks.client` is not delayed by others, and is used where that matters.)
- The servers' CPU is their own account of it (INFO cpu), before and after.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import psutil

from benchmarks.usage import Usage
from rumpx.demo import Server
from rumpx.servers.info import ServerInfo, parse_info
from rumpx.servers.resp import encode

_LOOK_SECONDS: Final = 0.05
_LOOKS_A_CENSUS: Final = 5  # how often the process tree is listed anew
_GET_SECONDS: Final = 0.001
_PACKAGES: Final = ("rumpx", "redis", "hiredis")
MEGA: Final = 1e6


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line for every scenario."""

    keys: int
    rounds: int
    workers: int


@dataclass(frozen=True, slots=True)
class Chart:
    """A bar chart: a group of bars a label, one bar a series in each."""

    unit: str
    labels: list[str]
    series: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A diagram over two axes.

    Attributes:
        series: dots by the name of their series.
        names: of the dots, by their place in each series; without them dots are joined to lines.
        log: whether the y axis is logarithmic.
        level: a height that is marked, and what it is.
        span: from where to where on the x axis something was the case, and what.
    """

    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]
    names: list[str] = field(default_factory=list)
    log: bool = False
    level: tuple[float, str] | None = None
    span: tuple[float, float, str] | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    """Panels one below another, over one x axis."""

    title: str
    panels: list[Panel]


@dataclass(frozen=True, slots=True)
class Report:
    """A scenario's result.

    Attributes:
        title, columns, rows: a table for people.
        ratios: by name; what may be compared with a run on another day or machine.
        chart: None if a picture would not tell more than the table.
        plots: other pictures, by what is added to the scenario's name in theirs.
        notes: sentences below the table.
        data: everything measured, for the JSON file.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    ratios: dict[str, float]
    chart: Chart | None = None
    plots: dict[str, Plot] = field(default_factory=dict)
    notes: Sequence[str] = ()
    data: dict[str, Any] = field(default_factory=dict)


Scenario = Callable[[Options], Report]


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of one command. Times in seconds, memory in bytes, waits in ms.

    Attributes:
        wall: from its start to its end, the start of Python included.
        cpu_main: of the command's own process; cpu_others: of those that it started.
        source_cpu, target_cpu: of all servers of a side.
        get_p50, get_p99, get_p999: a GET by another client of the source; 0 if there was none.
    """

    wall: float
    cpu_main: float
    cpu_others: float
    peak_memory: float
    source_cpu: float
    target_cpu: float
    get_p50: float
    get_p99: float
    get_p999: float
    output: str


class Failed(Exception):
    """A command that was to be measured did not do what it should."""


def measure(
    command: Sequence[str],
    source: Sequence[Server],
    target: Sequence[Server],
    *,
    with_gets: bool = True,
) -> Cost:
    """Run a command to its end.

    Args:
        with_gets: while another client of the source sends GETs.

    Raises:
        Failed: its exit code is not 0.
    """
    before = servers_cpu(source), servers_cpu(target)
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as counted:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.usage", str(writer), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=[writer],
        )
        os.close(writer)
        other = OtherClient(source[0])
        with _Memory(process.pid) as memory, other if with_gets else nullcontext():
            output, errors = process.communicate()
        written = counted.read()
    if not written:
        raise Failed(f"{' '.join(command)} was not measured:\n{errors[-2000:]}")
    usage = Usage(**json.loads(written))
    if usage.code:
        raise Failed(f"{' '.join(command)} ended with {usage.code}:\n{errors[-2000:]}")
    p50, p99, p999 = other.percentiles()
    return Cost(
        wall=usage.wall,
        cpu_main=usage.cpu_main,
        cpu_others=max(0.0, usage.cpu - usage.cpu_main),
        peak_memory=memory.peak,
        source_cpu=servers_cpu(source) - before[0],
        target_cpu=servers_cpu(target) - before[1],
        get_p50=p50,
        get_p99=p99,
        get_p999=p999,
        output=output,
    )


class Watch(threading.Thread):
    """A thread that looks until its `with` ends."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


class _Memory(Watch):
    """The peak of the memory of all descendants of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.peak = 0
        self._root = psutil.Process(pid)

    def run(self) -> None:
        looks = 0
        tree: list[psutil.Process] = []
        while not self.done.wait(_LOOK_SECONDS):
            if looks % _LOOKS_A_CENSUS == 0:
                with suppress(psutil.Error):
                    tree = self._root.children(recursive=True)
            looks += 1
            memory = 0
            for process in tree:
                with suppress(psutil.Error):
                    memory += process.memory_info().rss
            self.peak = max(self.peak, memory)


class OtherClient(Watch):
    """The times of another client's GETs on a server meanwhile."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._seconds: list[float] = []

    def run(self) -> None:
        get = encode("GET", "no such key")
        with closing(self._server.connect()) as connection:
            while not self.done.is_set():
                began = time.perf_counter()
                connection.send(get)
                connection.receive(1)
                took = time.perf_counter() - began
                self._seconds.append(took)
                time.sleep(max(0.0, _GET_SECONDS - took))

    def percentiles(self) -> tuple[float, float, float]:
        """p50, p99, p99.9 in ms."""
        if len(self._seconds) < 2:
            return 0.0, 0.0, 0.0
        cuts = statistics.quantiles(self._seconds, n=1000, method="inclusive")
        return cuts[499] * 1e3, cuts[989] * 1e3, cuts[998] * 1e3


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    figures = [asdict(cost) for cost in costs]
    names = [name for name in figures[0] if name != "output"]
    medians = {name: statistics.median(cost[name] for cost in figures) for name in names}
    return Cost(**medians, output="")


def servers_cpu(servers: Sequence[Server]) -> float:
    """CPU seconds that servers have used, all their threads and children together."""
    return sum(_server_cpu(server) for server in servers)


def _server_cpu(server: Server) -> float:
    kinds = r"^used_cpu_(?:user|sys)(?:_children)?:([\d.]+)"
    return sum(map(float, re.findall(kinds, ask(server, "INFO", "cpu").decode(), re.MULTILINE)))


def ask(server: Server, *command: str | bytes | int) -> Any:
    """One command on a connection of its own. `Any`: the shape of a reply is known by its command.

    Raises:
        Failed: the server refused it.
    """
    with closing(server.connect()) as connection:
        reply: Any = connection.call(*command)
    if isinstance(reply, Exception):
        raise Failed(f"{server.program} refused {command[0]!s}: {reply}")
    return reply


def server_facts(server: Server) -> ServerInfo:
    """A server's own name and version; as text "valkey 9.1.2"."""
    reply = ask(server, "INFO")
    assert isinstance(reply, bytes)
    return parse_info(reply.decode())


def environment() -> dict[str, Any]:
    """The machine of a measurement, to compare it with another.

    `load_before` is the load average of the last minute, so call this before measuring.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
    }


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
