"""Running the command line program as real processes, plain or in a terminal."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import os
import random
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import psutil
import pytest

from support import forked
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

_running: list[Running] = []


@atexit.register
def _stop_leftovers() -> None:
    for run in list(_running):
        run.stop()


def environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment without settings of rumpx, of the terminal's size, or of buffers.

    The program is the package this process would import.
    """
    left_out = ("COLUMNS", "LINES", "PYTHONUNBUFFERED")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RUMPX_") and name not in left_out
    }
    spec = importlib.util.find_spec("rumpx")
    place = Path(spec.origin).parents[1] if spec and spec.origin else ROOT
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(place), env.get("PYTHONPATH")]))
    return env | dict(extra or {})


def _words(args: Sequence[str | Path]) -> list[str]:
    words = [str(arg) for arg in args]
    place = 1 if words[:1] in (["check"], ["verify"]) else 0
    begins = "--from" in words and words[place].startswith("-")
    if begins and "--max-source-latency" not in words:
        # Other tests' load, and proxies that change their delay, are not to hold it back.
        words[place:place] = ["--max-source-latency", "off"]
    return words


def program() -> Path | None:
    """The built program that RUMPX_TEST_PROGRAM names, which is to be tested instead of the
    package's source; None for the source."""
    named = os.environ.get("RUMPX_TEST_PROGRAM")
    return (ROOT / named).resolve() if named else None


def _command(words: Sequence[str]) -> list[str]:
    built = program()
    return [*([str(built)] if built else [sys.executable, "-m", "rumpx"]), *words]


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is a living worker."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.name() == "rumpx-worker"
    except psutil.Error:
        return False


class Running:
    """A rumpx process in a session of its own, its output going to files.

    `command` is run instead of rumpx with `args`. Without one, and unless `env` has what needs a
    fresh interpreter, the process is `forked`.
    """

    def __init__(
        self,
        args: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        words = _words(args)
        self.args = list(command) if command is not None else _command(words)
        self.folder = Path(tempfile.mkdtemp(prefix="rumpx-run-"))
        (self.folder / "in").write_text(stdin or "")
        with (
            open(self.folder / "in", "rb") as source,
            open(self.folder / "out", "wb") as out,
            open(self.folder / "err", "wb") as err,
        ):
            self.process: subprocess.Popen[bytes] | forked.Forked
            if command is None and program() is None and forked.suits(env):
                self.process = forked.server.fork(words, environment(env), (source, out, err))
            else:
                self.process = subprocess.Popen(
                    self.args,
                    stdin=source,
                    stdout=out,
                    stderr=err,
                    env=environment(env),
                    start_new_session=True,
                )
        _running.append(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8", errors="backslashreplace")

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._text("out")

    @property
    def stderr(self) -> str:
        return self._text("err")

    def send_signal(self, number: int = signal.SIGINT, *, group: bool = False) -> None:
        """Send a signal to the main process, or to all (as a terminal does for Ctrl-C)."""
        if self.alive:
            if group:
                os.killpg(self.pid, number)
            else:
                self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop all its processes at once, also those that are just being forked."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all that are left of them go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def descendants(self) -> list[psutil.Process]:
        """Every living process below the main one."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.Error:
            found = []
        return [p for p in found if p.is_running()]

    def workers(self) -> list[psutil.Process]:
        """The living worker processes, in order of their process ids."""
        return sorted(filter(is_worker, self.descendants()), key=lambda p: p.pid)

    def kill_random_worker(self, rng: random.Random, number: int = signal.SIGKILL) -> int | None:
        """Kill one of the workers; returns its pid, or None if there is none."""
        workers = self.workers()
        while workers:
            victim = workers.pop(rng.randrange(len(workers)))
            try:
                victim.send_signal(number)
            except psutil.NoSuchProcess:
                continue
            return victim.pid
        return None

    def orphans(self) -> list[psutil.Process]:
        """Processes of this run (its session) that outlived the main process."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                own = process.pid != self.pid and os.getsid(process.pid) == self.pid
                if own and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait(self, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Wait for the end; kills everything and fails with the output if it takes too long."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            out, err = self.stdout, self.stderr
            self.stop()
            pytest.fail(
                f"not finished after {timeout:g} s: {' '.join(self.args)}\n"
                f"--- stdout (end)\n{out[-3000:]}\n--- stderr (end)\n{err[-6000:]}"
            )
        return subprocess.CompletedProcess(self.args, code, self.stdout, self.stderr)

    def stop(self) -> None:
        """Kill whatever is left of it and remove the files."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            os.killpg(self.pid, 0)  # raises if nobody else is left
            wait_until(lambda: not self.orphans(), 10, "the end of killed processes")
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in _running:
            _running.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()


def start_rumpx(
    *args: str | Path, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> Running:
    """Start rumpx and go on; use it as a context manager, or call `stop`."""
    return Running(args, env=env, stdin=stdin)


def rumpx(
    *args: str | Path,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run rumpx to its end; `returncode`, `stdout` and `stderr` of the result."""
    with Running(args, env=env, stdin=stdin) as run:
        return run.wait(timeout)


def run_line(
    line: str, *, timeout: float = 60, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command line as if typed into a shell, on whose PATH `rumpx` is the program."""
    with tempfile.TemporaryDirectory(prefix="rumpx-bin-") as folder:
        script = Path(folder) / "rumpx"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(_command([]))} "$@"\n')
        script.chmod(0o700)
        path = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
        with Running([], env={"PATH": path} | dict(env or {}), command=["sh", "-c", line]) as run:
            return run.wait(timeout)


# --- in a terminal --------------------------------------------------------------------------

Action = bytes | int | tuple[int, int] | Callable[[], object] | Literal["hang up"]
"""Bytes to type, a signal to send to the main process, a new size (columns, rows), a call, or the
terminal's end."""

HANG_UP: Final = "hang up"

# Makes the terminal on standard input the controlling one, so that Ctrl-C and a change of
# size reach the program as signals, and becomes the program.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass
class Terminal:
    """What a run in a terminal left behind."""

    returncode: int
    lines: list[str]
    """The final screen, without trailing blanks."""
    scrolled: list[str]
    """The lines that scrolled off above it."""
    frames: list[list[str]]
    """Each different screen that was seen, in order."""
    raw: bytes
    """Everything the program wrote."""
    cursor_hidden: bool
    modes_restored: bool
    """Whether the terminal's modes (echo and so on) are again as they were."""
    sent: list[Action] = field(default_factory=list)
    """The actions that came to pass."""

    @property
    def text(self) -> str:
        """All lines, scrolled off and visible, without empty lines at the end."""
        return "\n".join([*self.scrolled, *self.lines]).rstrip()


def _set_size(fd: int, cols: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def rumpx_pty(
    *args: str | Path,
    cols: int = 80,
    rows: int = 24,
    keys: Sequence[tuple[str, Action]] | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Terminal:
    """Run rumpx in a pseudo-terminal of a given size and keep what was on the screen.

    `keys` are pairs (text, action), done in order: when the text is on the screen (the empty
    text: at once), the action is done.
    """
    command = _command(_words(args))
    return run_pty(command, cols=cols, rows=rows, keys=keys, timeout=timeout, env=env)


def run_pty(
    command: Sequence[str],
    *,
    cols: int = 80,
    rows: int = 24,
    keys: Sequence[tuple[str, Action]] | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Terminal:
    """`rumpx_pty` for any command."""
    pyte = pytest.importorskip("pyte")
    screen = pyte.HistoryScreen(cols, rows, history=100_000)
    stream = pyte.ByteStream(screen)
    master, slave = os.openpty()
    nowhere = os.open(os.devnull, os.O_RDWR)
    process: subprocess.Popen[bytes] | None = None
    raw = bytearray()
    frames: list[list[str]] = []
    waiting = list(keys or ())
    sent: list[Action] = []
    try:
        _set_size(master, cols, rows)
        before = termios.tcgetattr(master)
        try:
            process = subprocess.Popen(
                [sys.executable, "-ISc", _TAKE_TERMINAL, *command],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=environment({"TERM": "xterm-256color"} | dict(env or {})),
                start_new_session=True,
            )
        finally:
            os.close(slave)
        deadline = time.monotonic() + timeout
        while True:
            ended = process.poll() is not None  # first: its last lines are read then
            ready = select.select([master], [], [], 0.05)[0]
            if ready:
                try:
                    chunk = os.read(master, 1 << 16)
                except OSError:  # EIO: the last process has closed the terminal
                    break
                if not chunk:
                    break
                raw += chunk
                stream.feed(chunk)
                lines = [line.rstrip() for line in screen.display]
                if not frames or frames[-1] != lines:
                    frames.append(lines)
            elif ended:
                break
            while waiting and waiting[0][0] in "\n".join(screen.display):
                action = waiting.pop(0)[1]
                sent.append(action)
                if action == HANG_UP:
                    os.dup2(nowhere, master)  # which closes it
                elif isinstance(action, bytes):
                    os.write(master, action)
                elif isinstance(action, int):
                    process.send_signal(action)
                elif callable(action):
                    action()
                else:
                    _set_size(master, *action)
                    screen.resize(action[1], action[0])
            if time.monotonic() > deadline:
                shown = "\n".join(frames[-1] if frames else ())
                pytest.fail(f"not finished after {timeout:g} s: {command}\n{shown}")
        code = process.wait(max(1.0, deadline - time.monotonic()))
        restored = HANG_UP not in sent and termios.tcgetattr(master) == before
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(master)
        os.close(nowhere)
    history = ["".join(line[x].data for x in range(screen.columns)) for line in screen.history.top]
    return Terminal(
        returncode=code,
        lines=[line.rstrip() for line in screen.display],
        scrolled=[line.rstrip() for line in history],
        frames=frames,
        raw=bytes(raw),
        cursor_hidden=bool(screen.cursor.hidden),
        modes_restored=restored,
        sent=sent,
    )
