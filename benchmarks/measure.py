"""What a run costs, seen from outside: wall time, CPU, memory, the servers' CPU.

A contender is always a command in a process of its own, so that rumpx and its rivals are measured
alike. The CPU is that of the command and of all processes that it has waited for (RUSAGE_CHILDREN);
memory is the largest sum of the resident sets of its process tree among samples, so pages that
processes share count once for each; the servers' CPU is their own account of it (INFO cpu).
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import psutil

from rumpx.demo import Server

_SAMPLE_SECONDS: Final = 0.2
_PACKAGES: Final = ("rumpx", "redis", "hiredis")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about every scenario."""

    keys: int
    rounds: int
    workers: int


@dataclass(frozen=True, slots=True)
class Report:
    """A scenario's result: a table for people, and everything measured for the JSON file."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    data: dict[str, Any]


Scenario = Callable[[Options], Report]


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of one command. Times in seconds, memory in bytes."""

    wall: float
    cpu: float
    peak_memory: int
    source_cpu: float
    target_cpu: float
    output: str


class Failed(Exception):
    """A command that was to be measured did not do what it should."""


def measure(command: Sequence[str], source: Server, target: Server) -> Cost:
    """Run a command to its end.

    Raises:
        Failed: its exit code is not 0.
    """
    servers_before = server_cpu(source), server_cpu(target)
    cpu_before = _children_cpu()
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    sampler = _MemorySampler(process.pid)
    sampler.start()
    output, errors = process.communicate()
    wall = time.perf_counter() - began
    sampler.finish()
    if process.returncode:
        raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{errors[-2000:]}")
    return Cost(
        wall=wall,
        cpu=_children_cpu() - cpu_before,
        peak_memory=sampler.peak,
        source_cpu=server_cpu(source) - servers_before[0],
        target_cpu=server_cpu(target) - servers_before[1],
        output=output,
    )


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def server_cpu(server: Server) -> float:
    """CPU seconds that a server has used, all its threads together."""
    info = server_info(server, "cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def server_info(server: Server, section: str) -> dict[str, str]:
    """A section of INFO by name."""
    with closing(server.connect()) as connection:
        reply = connection.call("INFO", section)
    assert isinstance(reply, bytes)
    lines = reply.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def server_version(server: Server) -> str:
    """As in "valkey 9.1.2"; every Valkey also says that it is a Redis 7.2."""
    info = server_info(server, "server")
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info['redis_version']}"


class _MemorySampler(threading.Thread):
    """Looks at a process tree a few times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, _tree_memory(self._pid))

    def finish(self) -> None:
        self._done.set()
        self.join()


def _tree_memory(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def environment() -> dict[str, Any]:
    """Where a measurement is made: what one needs to compare it with another.

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
