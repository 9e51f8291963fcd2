"""Dask clusters of real processes: a scheduler and its workers, in a temporary folder.

A worker has an environment of its own, and may be on "another machine": `Machine` is a folder on
its PYTHONPATH whose `sitecustomize` changes what that machine would differ in, before anything else
is imported. All processes are sessions of their own, ended by their ids.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from support.run import environment
from support.tls import TlsFiles
from support.waiting import wait_until

_PROGRAM = Path(sys.executable).with_name("dask")
START_TIMEOUT = 60.0
"""Seconds: to import Dask takes two of CPU, on a machine that others use as well."""

_live: list[Dask] = []


@atexit.register
def _stop_leftovers() -> None:
    for cluster in list(_live):
        cluster.stop()


def dask_logs() -> Iterator[tuple[str, str]]:
    """The ends of the logs of all processes that are there."""
    for cluster in _live:
        for process in [cluster.scheduler, *cluster.workers]:
            yield process.name, "\n".join(process.log.splitlines()[-25:])


def tls_environment(files: TlsFiles) -> dict[str, str]:
    """Dask's own configuration of TLS, for scheduler, workers and clients."""
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    told = {f"{prefix}CA_FILE": str(files.ca)}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        told[f"{prefix}{role}__CERT"] = str(files.cert)
        told[f"{prefix}{role}__KEY"] = str(files.key)
    return told


class Machine:
    """What differs on the machine of a worker: code that its interpreter runs first."""

    def __init__(self, folder: Path, *lines: str) -> None:
        folder.mkdir(parents=True)
        (folder / "sitecustomize.py").write_text("\n".join([*lines, ""]), encoding="utf-8")
        self.environment = {"PYTHONPATH": str(folder)}


def named(name: str) -> str:
    """Its host name."""
    return f"import platform; platform.node = lambda: {name!r}"


def routed(ports: Mapping[int, int]) -> str:
    """Where its network leads to, for ports of this one."""
    return (
        "import socket\n"
        "connect = socket.create_connection\n"
        f"ports = {dict(ports)!r}\n"
        "def other(address, *args, **options):\n"
        "    return connect((address[0], ports.get(address[1], address[1])), *args, **options)\n"
        "socket.create_connection = other"
    )


def without(package: str) -> str:
    """A package that it lacks."""
    return (
        "import sys\n"
        "class Lacks:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Lacks())"
    )


class DaskProcess:
    """A process of `dask`, and its log."""

    def __init__(self, folder: Path, name: str, words: list[str], env: Mapping[str, str]) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        whole = environment({})
        # Its own folders come first.
        paths = filter(None, [env.get("PYTHONPATH"), whole["PYTHONPATH"]])
        whole |= {**env, "PYTHONPATH": os.pathsep.join(paths)}
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [str(_PROGRAM), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=whole,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, for all its processes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: its connections stay open, and what comes over them waits in the kernel."""
        os.killpg(self.pid, signal.SIGSTOP)

    def go(self) -> None:
        """SIGCONT."""
        os.killpg(self.pid, signal.SIGCONT)

    def wait_log(self, words: str, what: str) -> None:
        """Wait for words in its log."""

        def said() -> bool:
            assert self.alive, f"{self.name} has ended:\n{self.log[-3000:]}"
            return words in self.log

        wait_until(said, START_TIMEOUT, what, interval=0.05)


class Worker(DaskProcess):
    """A worker; with a `nanny` its process is a child of this one."""

    @property
    def address(self) -> str:
        """As the scheduler calls it."""
        found = re.findall(r"Start worker at:\s+(\S+)", self.log)
        assert found, self.log[-3000:]
        return str(found[-1])

    def child(self) -> psutil.Process:
        """The working process below the nanny."""
        children = psutil.Process(self.pid).children(recursive=True)
        working = [child for child in children if "resource_tracker" not in _words(child)]
        return working[-1]

    def wait_ready(self) -> None:
        """Until the scheduler knows it."""
        self.wait_log("Registered to:", f"{self.name} is registered")


def _words(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class Dask:
    """A scheduler, and the workers that `worker` starts.

    `tls` encrypts all connections; `env` is the environment of the scheduler and all workers.
    """

    def __init__(self, *, tls: TlsFiles | None = None, **env: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rumpx-dask-"))
        self.client_environment = tls_environment(tls) if tls else {}
        self._environment = {**self.client_environment, **env}
        self.workers: list[Worker] = []
        self._file = self.folder / "scheduler.json"
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        words += ["--scheduler-file", str(self._file)]
        words += ["--protocol", "tls"] if tls else []
        self.scheduler = DaskProcess(self.folder, "scheduler", words, self._environment)
        _live.append(self)
        try:
            self.address = wait_until(self._told, START_TIMEOUT, "a scheduler")
        except BaseException:
            self.stop()
            raise

    def _told(self) -> str:
        """Its address, "" until it has written its file."""
        assert self.scheduler.alive, self.scheduler.log[-3000:]
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(self._file.read_text())["address"])
        return ""

    @property
    def flags(self) -> tuple[str, ...]:
        """For a copy by these workers."""
        return "--engine", "dask", "--dask-scheduler", self.address

    def worker(
        self,
        *,
        nanny: bool = False,
        threads: int = 1,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> Worker:
        """Start a worker."""
        name = f"w{len(self.workers)}"
        words = ["worker", self.address, "--name", name, "--host", "127.0.0.1", "--no-dashboard"]
        words += ["--nthreads", str(threads), "--nanny" if nanny else "--no-nanny"]
        words += ["--local-directory", str(self.folder / name)]
        worker = Worker(self.folder, name, words, {**self._environment, **(env or {})})
        self.workers.append(worker)
        if wait:
            worker.wait_ready()
        return worker

    def start_workers(self, number: int) -> list[Worker]:
        """Start several at the same time."""
        started = [self.worker(wait=False) for _ in range(number)]
        for worker in started:
            worker.wait_ready()
        return started

    @property
    def logs(self) -> str:
        """Of all processes."""
        return "\n".join(process.log for process in [self.scheduler, *self.workers])

    def stop(self) -> None:
        if self in _live:
            _live.remove(self)
        for process in [*self.workers, self.scheduler]:
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
