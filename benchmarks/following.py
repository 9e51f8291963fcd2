"""`rumpx --follow` as a process: in step when its `with` begins, and stopped when it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psutil

from benchmarks.measure import Failed, ask, servers_cpu
from benchmarks.servers import Side
from rumpx.ctl import client
from rumpx.ctl.server import Pause, Request, Resume, Status
from rumpx.errors import EXIT_OK, TemporaryError, UsageError
from rumpx.ledger.catalog import ledger_path

_JOB: Final = "followed"
_LOOK_SECONDS: Final = 0.01
_MOST_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds so far: of the coordinator, of rumpx's other processes, of both servers."""

    coordinator: float
    others: float
    source: float
    target: float

    def since(self, before: Used) -> Used:
        """Those since an earlier moment."""
        return Used(
            self.coordinator - before.coordinator,
            self.others - before.others,
            self.source - before.source,
            self.target - before.target,
        )


class Following:
    """A follow.

    Args:
        source, target: of one server each; the target is empty.
        flags: of the command, further ones.
    """

    def __init__(self, source: Side, target: Side, *flags: str) -> None:
        self._source = source
        self._target = target
        self._flags = flags
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ledger = Path()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._ledger = ledger_path(Path(self._folder.name), _JOB)
        ends = ["--from", self._source.uri, "--to", self._target.uri, "--follow"]
        kept = ["--state-dir", self._folder.name, "--job", _JOB, "--progress", "none"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rumpx", *ends, *kept, *self._flags],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self._wait(lambda: self._phase == "in step", "be in step")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process and self._folder
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=_MOST_SECONDS)
        finally:
            self._process.kill()  # nothing, if it has ended
            self._folder.cleanup()

    # How it stands

    def _ask(self, request: Request) -> dict[str, Any]:
        return client.ask(self._ledger, request)

    @property
    def _follow(self) -> dict[str, Any]:
        """The part of the status about the follow; {} before there is one."""
        return self._ask(Status()).get("follow") or {}

    @property
    def _phase(self) -> str:
        try:
            return str(self._follow.get("phase", ""))
        except (TemporaryError, UsageError):
            return ""  # it is starting

    @property
    def restored(self) -> int:
        """How often the target has restored a value so far."""
        told = ask(self._target.servers[0], "INFO", "commandstats").decode()
        found = re.search(r"^cmdstat_restore:calls=(\d+).*,failed_calls=(\d+)", told, re.MULTILINE)
        return int(found[1]) - int(found[2]) if found else 0

    @property
    def used(self) -> Used:
        """CPU so far, by the kernel's and the servers' accounts."""
        assert self._process
        coordinator = psutil.Process(self._process.pid)
        own = coordinator.cpu_times()
        others = [child.cpu_times() for child in coordinator.children(recursive=True)]
        return Used(
            own.user + own.system,
            sum(each.user + each.system for each in others),
            servers_cpu(self._source.servers),
            servers_cpu(self._target.servers),
        )

    # What it does

    def pause(self) -> None:
        """Have it only note changes, once all of before are settled."""
        self.settle()
        self._ask(Pause())

    def resume(self) -> None:
        """Have it settle changes again."""
        self._ask(Resume())

    def note(self, change: Callable[[], None], number: int) -> None:
        """Change so many keys, and wait until all their names are noted."""
        before = self._follow["facts"]["changes"]
        change()
        self._wait(lambda: self._follow["facts"]["changes"] - before >= number, "note all changes")

    def settle(self) -> None:
        """Wait until no change is left to settle."""
        self._wait(lambda: self._follow["dirty"] == 0, "settle all changes")

    def wait_restored(self, number: int) -> None:
        """Wait until the target has restored so many values."""
        self._wait(lambda: self.restored >= number, "settle all changes")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        assert self._process
        until = time.monotonic() + _MOST_SECONDS
        while not condition():
            if self._process.poll() is not None:
                errors = self._process.communicate()[1]
                raise Failed(f"The follow ended with {self._process.returncode}:\n{errors[-2000:]}")
            if time.monotonic() > until:
                raise Failed(f"The follow did not {what}.")
            time.sleep(_LOOK_SECONDS)


def require_equal(source: Side, target: Side) -> None:
    """Fail if a key of a side that nobody writes differs from the other's."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["verify", "--from", source.uri, "--to", target.uri, "--progress", "none"]
        done = subprocess.run(
            [sys.executable, "-m", "rumpx", *words, "--state-dir", folder],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != EXIT_OK:
        raise Failed(f"The sides differ after a follow:\n{done.stdout}{done.stderr[-2000:]}")
