"""rumpx processes that skip the imports: forked from a process that has done them.

A run of the command spends most of its CPU on importing. Each process of the tests therefore keeps
a *server* (this module, run by itself) that imports rumpx once and forks itself for each run. What
is forked goes on as `python -m rumpx` does: a session, standard streams, an environment, signals,
random numbers and an end of its own. The processes that `multiprocessing` starts for it (the fork
server of its workers, the resource tracker) are forked from it for the same reason.

Protocol, over a unix socket: a length and as much JSON (words, environment, folder, limit of open
files), together with four descriptors (standard input, output, error, and a pipe). The answer is
the process id. When the process has ended, its exit code, as `subprocess` has it, is written into
the pipe.

Not promised: what an interpreter reads from its environment when it starts (`suits`). Runs that set
such variables, and those in a terminal, are started as a user does it.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, util
from typing import IO, Final

_ENVIRONMENT: Final = ("PYTHON", "LC_", "LANG", "COVERAGE", "TZ")

_IMPORTED: Final = (
    "rumpx.cli.main",
    "rumpx.cli.flags",
    "rumpx.cli.outputs",
    "rumpx.copier.run",
    "rumpx.verifier.run",
    "rumpx.checker.run",
    "rumpx.report.checkup",
    "rumpx.report.summary",
)


def suits(environment: Mapping[str, str] | None) -> bool:
    """Whether a run with these variables needs no interpreter of its own."""
    return not any(name.startswith(_ENVIRONMENT) for name in environment or ())


class Forked:
    """A process that the server has forked; as much of `subprocess.Popen` as the tests use."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()
        self._ended = ended

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("rumpx", timeout or 0.0)
        return code

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            ready = select.poll()  # descriptors may have large numbers
            ready.register(self._ended, select.POLLIN)
            if ready.poll(None if timeout is None else timeout * 1000):
                self._take_code()
        return self.returncode

    def _take_code(self) -> None:
        with self._lock:
            if self.returncode is None:
                told = os.read(self._ended, 16)
                os.close(self._ended)
                self.returncode = int(told) if told else -signal.SIGKILL  # the server has ended

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class _Server:
    """Started when it is first needed; ends with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
                environment.pop("PYTHONUNBUFFERED", None)  # which users do not set
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "support.forked", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    start_new_session=True,
                )
            atexit.register(self._close)
        return self._socket

    def _close(self) -> None:
        assert self._socket and self._process
        self._socket.close()
        self._process.wait()

    def fork(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
    ) -> Forked:
        """Run `python -m rumpx` with these words."""
        ended, ends = os.pipe()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        request = json.dumps([list(words), dict(environment), os.getcwd(), files]).encode()
        descriptors = [*(stream.fileno() for stream in streams), ends]
        with self._lock:
            connection = self._connected()
            socket.send_fds(connection, [len(request).to_bytes(4, "big")], descriptors)
            connection.sendall(request)
            pid = int.from_bytes(_exactly(connection, 4), "big")
        os.close(ends)
        return Forked(pid, ended)


server: Final = _Server()


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        more = connection.recv(size - len(received))
        if not more:
            raise EOFError("the server of forked processes has ended")
        received += more
    return received


# --- in the server --------------------------------------------------------------------------


def _serve(connection: socket.socket) -> None:
    """Fork until the other end closes; in a forked process return, with what it is to run set."""
    running: dict[int, tuple[int, int]] = {}  # pidfd: (pid, pipe)
    while True:
        for ready in select.select([connection, *running], [], [])[0]:
            if ready is not connection:
                _report(ready, *running.pop(ready))
                continue
            head, descriptors, _, _ = socket.recv_fds(connection, 4, 4)
            if not head:
                return sys.exit()
            request = _exactly(connection, int.from_bytes(head, "big"))
            pid = os.fork()
            if pid == 0:
                os.setsid()
                connection.sendall(os.getpid().to_bytes(4, "big"))  # it may be killed from now on
                connection.close()
                for pidfd, (_, pipe) in running.items():
                    os.close(pidfd)
                    os.close(pipe)
                os.close(descriptors.pop())
                return _become(json.loads(request), descriptors)
            running[os.pidfd_open(pid)] = pid, descriptors.pop()
            for descriptor in descriptors:
                os.close(descriptor)


def _report(pidfd: int, pid: int, pipe: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    os.write(pipe, str(code).encode())
    os.close(pipe)


def _become(
    request: tuple[list[str], dict[str, str], str, tuple[int, int]], descriptors: list[int]
) -> None:
    """Make this process what a fresh interpreter would be."""
    words, environment, folder, files = request
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, encoding=sys.stdin.encoding, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=sys.stdout.encoding, closefd=False)
    sys.stderr = os.fdopen(
        2, "w", 1, encoding=sys.stderr.encoding, errors="backslashreplace", closefd=False
    )
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    random.seed()
    sys.argv = ["rumpx", *words]
    util.spawnv_passfds = _start_helper


def _start_helper(path: bytes, args: list[str], descriptors: list[int]) -> int:
    """Start a process of `multiprocessing`: `python -c CODE`, with these descriptors open."""
    if threading.active_count() > 1:  # whose locks would stay held
        return _spawn(path, args, descriptors)
    pid = os.fork()
    if pid:
        return pid
    try:
        lowest = 3
        for descriptor in sorted(descriptors):
            os.closerange(lowest, descriptor)
            lowest = max(lowest, descriptor + 1)
        os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))
        forkserver._forkserver._lock = threading.Lock()  # the other is held by who starts this
        exec(args[-1], {"__name__": "__main__"})
    except SystemExit:
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


_spawn = util.spawnv_passfds


if __name__ == "__main__":
    for name in _IMPORTED:
        __import__(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("rumpx", run_name="__main__", alter_sys=True)
