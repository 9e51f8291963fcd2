"""A Dask cluster of a scenario's own: `dask scheduler` and `dask worker` processes, and their CPU.

Workers run without a nanny, one process each, so that a process's account is that worker's.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from benchmarks.measure import Failed
from rumpx.demo import free_port

_START_SECONDS: Final = 60
_END_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class DaskCluster:
    """A running cluster; the address is that of its scheduler."""

    address: str
    scheduler: psutil.Process
    workers: tuple[psutil.Process, ...]

    @property
    def scheduler_cpu(self) -> float:
        """CPU seconds that the scheduler has used."""
        return cpu_of(self.scheduler)

    @property
    def workers_cpu(self) -> float:
        """CPU seconds that all workers have used."""
        return sum(map(cpu_of, self.workers))


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds that a process has used, by the kernel's account."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def dask_cluster(
    workers: int, *, threads: int = 1, profile: bool = True
) -> Iterator[DaskCluster]:
    """A scheduler and workers, ready; they are ended by their pids in any case.

    Args:
        threads: of each worker.
        profile: Dask's own profiler looks at each thread with a task a hundred times a second, as
            it does by default. With hundreds of threads in a process it would take all its time.
    """
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": str(profile)}
    address = f"tcp://127.0.0.1:{free_port()}"
    host, port = address.removeprefix("tcp://").split(":")
    started: list[subprocess.Popen[bytes]] = []
    with TemporaryDirectory() as folder, Path(folder, "log").open("ab") as log:

        def start(*words: str) -> psutil.Process:
            command = [sys.executable, "-m", "dask", *words, "--host", host, "--no-dashboard"]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            started.append(process)
            return psutil.Process(process.pid)

        try:
            scheduler = start("scheduler", "--port", port)
            flags = ("--nthreads", str(threads), "--no-nanny", "--local-directory", folder)
            members = tuple(start("worker", address, *flags) for _ in range(workers))
            try:
                asyncio.run(_ready(address, workers))
            except (OSError, TimeoutError) as error:
                raise Failed(f"Dask did not start: {Path(folder, 'log').read_text()}") from error
            yield DaskCluster(address, scheduler, members)
        finally:
            for process in reversed(started):
                process.terminate()
            for process in reversed(started):
                try:
                    process.wait(_END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


async def _ready(address: str, workers: int) -> None:
    from distributed import Client

    options: dict[str, Any] = {"asynchronous": True, "set_as_default": False}
    async with Client(address, timeout=_START_SECONDS, **options) as client:
        await client.wait_for_workers(workers, timeout=_START_SECONDS)
