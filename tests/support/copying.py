"""Whole copies by the command, run to the end or held up in the middle."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from support.data import keys_of
from support.proxy import Proxy
from support.run import Running, rumpx
from support.servers import Cluster, Server
from support.waiting import wait_until

Side = Server | Cluster | Proxy | str


def uri_of(side: Side) -> str:
    return side if isinstance(side, str) else side.uri


@dataclass(frozen=True)
class Copied:
    """How a copy ended: its exit code, `--summary` and messages."""

    code: int
    summary: dict[str, Any]
    stderr: str

    @property
    def counts(self) -> dict[str, int]:
        found: dict[str, int] = self.summary["counts"]
        return found

    @property
    def warnings(self) -> str:
        return "\n".join(self.summary["warnings"])

    @property
    def bounds(self) -> list[str]:
        """What the partitions were, as text."""
        return [part["bounds"] for part in self.summary["partitions"]]


def _arguments(source: Side, target: Side, flags: tuple[str | Path, ...]) -> list[str | Path]:
    few = [] if "--workers" in flags else ["--workers", "2"]
    ends = ["--from", uri_of(source), "--to", uri_of(target)]
    return [*ends, *few, "--progress", "json", "--summary", "-", *flags]


def _copied(code: int, stdout: str, stderr: str) -> Copied:
    return Copied(code, json.loads(stdout) if stdout else {}, stderr)


def copy(
    source: Side,
    target: Side,
    *flags: str | Path,
    code: int = 0,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Copied:
    """Run a copy to its end, which must come with this exit code."""
    done = rumpx(*_arguments(source, target, flags), timeout=timeout, env=env)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stderr[-4000:]}"
    return _copied(done.returncode, done.stdout, done.stderr)


class Copying:
    """A copy under way, whose workers can be held up; small batches make that exact."""

    def __init__(self, source: Side, target: Side, *flags: str | Path) -> None:
        slow = ["--workers", "1"]
        slow += [] if "--batch-keys" in flags else ["--batch-keys", "10"]
        self.run = Running(_arguments(source, target, (*slow, *flags)))

    def wait_keys(
        self, target: Server | Cluster, number: int, *, prefix: bytes = b"", timeout: float = 30
    ) -> None:
        """Until the target has so many keys (that begin so) in database 0."""

        def enough() -> bool:
            assert self.run.alive, f"ended too early:\n{self.run.stderr[-4000:]}"
            return sum(key.startswith(prefix) for key in keys_of(target)) >= number

        wait_until(enough, timeout, f"{number} keys are copied")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this is open no worker moves, so that the copy cannot end."""
        assert self.run.alive, f"ended too early:\n{self.run.stderr[-4000:]}"
        workers = self.run.workers()
        assert workers
        for worker in workers:
            worker.suspend()
        try:
            yield
        finally:
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.resume()

    def finish(self, code: int = 0, timeout: float = 60) -> Copied:
        done = self.run.wait(timeout)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stderr[-4000:]}"
        return _copied(done.returncode, done.stdout, done.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.run.stop()
