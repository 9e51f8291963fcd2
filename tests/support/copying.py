"""Whole copies and comparisons by the command: run to the end, held up, or gone on with."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from support.data import compare, keys_of
from support.proxy import Proxy
from support.run import Running, is_worker, rumpx, run_line
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
    def resume_line(self) -> str:
        """What a run that ended early tells last: the command that goes on with it."""
        return self.stderr.rstrip("\n").rpartition("\n")[2]

    @property
    def bounds(self) -> list[str]:
        """What the partitions were, as text."""
        return [part["bounds"] for part in self.summary["partitions"]]


def _arguments(source: Side, target: Side, flags: tuple[str | Path, ...]) -> list[str | Path]:
    few = [] if {"--workers", "--engine"} & set(flags) else ["--workers", "2"]
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


@dataclass(frozen=True)
class Verified:
    """How a comparison ended: its exit code, `--summary`, messages, and the listed differences."""

    code: int
    summary: dict[str, Any]
    stderr: str
    lines: list[dict[str, Any]]

    @property
    def counts(self) -> dict[str, int]:
        found: dict[str, int] = self.summary["counts"]
        return found

    @property
    def warnings(self) -> str:
        return "\n".join(self.summary["warnings"])

    @property
    def found(self) -> set[tuple[str, int, bytes]]:
        """Kind, database and key of each line; none may be there twice."""
        named = [
            (line["kind"], line["db"], base64.b64decode(line["key_base64"])) for line in self.lines
        ]
        assert len(set(named)) == len(named), named
        return set(named)

    @property
    def messages(self) -> list[str]:
        """What the user was told meanwhile."""
        events = [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]
        return [event["text"] for event in events if event["event"] == "message"]


def differences_in(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a list of differences."""
    return [json.loads(line) for line in Path(path).read_text(encoding="ascii").splitlines()]


def verified(code: int, stdout: str, stderr: str) -> Verified:
    """What `rumpx verify --progress json --summary -` said."""
    summary = json.loads(stdout) if stdout else {}
    listed = summary.get("differences_file")
    return Verified(code, summary, stderr, differences_in(listed) if listed else [])


def verify_words(source: Side, target: Side, *flags: str | Path) -> list[str | Path]:
    """The words of a comparison whose end `verified` understands."""
    return ["verify", *_arguments(source, target, flags)]


def verify(
    source: Side,
    target: Side,
    *flags: str | Path,
    code: int = 0,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> Verified:
    """Run a comparison to its end, which must come with this exit code."""
    done = rumpx(*verify_words(source, target, *flags), timeout=timeout, env=env)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return verified(done.returncode, done.stdout, done.stderr)


TURN, FIRST_TURN = 0.004, 0.02
"""Seconds for which a run's coordinator moves, and then at most the others; the latter before there
are workers, while most of what they do is to import."""


@contextlib.contextmanager
def frozen(run: Running, ready: Callable[[], object], timeout: float = 60) -> Iterator[None]:
    """From the moment that this is so, and while this is open, none of the run's processes moves.

    Until then the coordinator and the others move in turns, and nobody while we look. So between
    two looks no more is done than workers hold (64 batches each at most, of five times
    `--batch-keys`), however long we are kept from the CPU: a copy of thousands of keys takes a
    fraction of a second.
    """
    until = time.monotonic() + timeout
    try:
        while True:
            run.freeze()
            assert run.alive, f"ended too early:\n{run.stderr[-4000:]}"
            if ready():
                break
            assert time.monotonic() < until, f"not within {timeout:g} s:\n{run.stderr[-4000:]}"
            _move(run)
        yield
    finally:
        run.thaw()


def _move(run: Running) -> None:
    others = run.descendants()
    working = any(map(is_worker, others))
    run.send_signal(signal.SIGCONT)
    time.sleep(TURN if working else FIRST_TURN)
    run.send_signal(signal.SIGSTOP)
    for process in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    # Random, so that workers are stopped anywhere in a batch.
    time.sleep(random.uniform(0, TURN) if working else FIRST_TURN)


@contextlib.contextmanager
def held(
    run: Running, ready: Callable[[], object] = lambda: True, timeout: float = 60
) -> Iterator[None]:
    """From the moment that this is so and there are workers, and while this is open, none of them
    moves, so that the run cannot end (unless they hold all that is left). The coordinator does, and
    may notice what happens; so do workers that begin meanwhile."""
    with frozen(run, lambda: ready() and run.workers(), timeout):
        workers = run.workers()
        for process in run.descendants():
            if process not in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        run.send_signal(signal.SIGCONT)
        yield


def resume(
    *flags: str | Path, job: str = "job", code: int = 0, timeout: float = 60
) -> Copied:
    """Go on with a job to its end, which must come with this exit code."""
    done = rumpx(
        "resume", job, "--progress", "json", "--summary", "-", *flags, timeout=timeout
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stderr[-4000:]}"
    return _copied(done.returncode, done.stdout, done.stderr)


def follow(ended: Copied, *flags: str | Path, code: int = 0, timeout: float = 60) -> Copied:
    """Type the last line of a run that ended early, as it stands there (and flags that only tell
    more)."""
    line = " ".join([ended.resume_line, *map(str, flags)])
    assert line.startswith("rumpx resume "), ended.stderr[-2000:]
    done = run_line(line, timeout=timeout)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stderr[-4000:]}"
    return _copied(done.returncode, done.stdout, done.stderr)


def ctl(*words: str) -> dict[str, Any]:
    """What the job `job` answers."""
    done = rumpx("ctl", "job", *words, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def events(run: Running | Copied, kind: str = "progress") -> list[dict[str, Any]]:
    """Its JSON events of a kind so far."""
    lines = [line for line in run.stderr.splitlines() if line.startswith("{")]
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def messages(run: Running | Copied) -> str:
    """What it has told the user so far."""
    return "\n".join(event["text"] for event in events(run, "message"))


def assert_exact(
    done: Copied, source: Server | Cluster, target: Server | Cluster, keys: int, *, ttl: int = 0
) -> None:
    """A copy of a source at rest: both sides are equal, and the counts say just that."""
    assert compare(source, target, ttl_tolerance_ms=ttl) == []
    counts = done.counts
    assert counts["copied"] + counts["repeated"] + counts["skipped"] == keys, counts
    assert counts["failed"] == counts["gone"] == 0, counts
    assert done.summary["state"] == "done" and done.summary["missing"] in (0, None)


def at_rest(*servers: Server) -> None:
    """Until no table of database 0 grows any more: while one does, SCAN returns keys twice, and
    they are counted twice."""
    for server in servers:
        wait_until(lambda s=server: _is_still(s), 30, f"still tables of {server!r}")  # type: ignore[misc]


def _is_still(server: Server) -> bool:
    told: bytes = server.do("DEBUG", "HTSTATS", 0)
    return b"rehashing target" not in told and told.count(b"rehashing index: -1") == told.count(
        b"rehashing index:"
    )


def _count(target: Server | Cluster, prefix: bytes) -> int:
    if prefix:
        return sum(key.startswith(prefix) for key in keys_of(target))
    nodes = target.primaries() if isinstance(target, Cluster) else [target]
    return sum(node.do("DBSIZE") for node in nodes)


class Copying:
    """A copy under way, whose workers can be held up; small batches make that exact."""

    def __init__(self, source: Side, target: Side, *flags: str | Path) -> None:
        slow = [] if "--engine" in flags else ["--workers", "1"]
        slow += [] if "--batch-keys" in flags else ["--batch-keys", "5"]
        self.run = Running(_arguments(source, target, (*slow, *flags)))

    @classmethod
    def of(cls, *words: str | Path) -> Self:
        """Any other command, as `resume`, with the displays that `finish` reads."""
        copying = cls.__new__(cls)
        copying.run = Running([*words, "--progress", "json", "--summary", "-"])
        return copying

    def wait_keys(self, target: Server | Cluster, number: int, timeout: float = 60) -> None:
        """Until the target has so many keys; the copy goes on, and must be one that lasts."""

        def enough() -> bool:
            assert self.run.alive, f"ended too early:\n{self.run.stderr[-4000:]}"
            return _count(target, b"") >= number

        wait_until(enough, timeout, f"{number} keys are copied")

    @contextlib.contextmanager
    def held_at(
        self, target: Server | Cluster, number: int, *, prefix: bytes = b"", timeout: float = 60
    ) -> Iterator[None]:
        """From the moment that the target has so many keys (that begin so) in database 0, and while
        this is open, no worker moves, so that the copy cannot end."""
        with held(self.run, lambda: _count(target, prefix) >= number, timeout):
            yield

    def stop_at(
        self, target: Server | Cluster, keys: int, number: int = signal.SIGINT
    ) -> None:
        """Send a signal to a copy that has copied so many keys, and cannot end before the signal
        comes; `finish` waits for the end."""
        with self.held_at(target, keys):
            self.run.send_signal(number)

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


class Resuming(Copying):
    """A job that is gone on with, likewise."""

    def __init__(self, *flags: str | Path, job: str = "job") -> None:
        told = ["--progress", "json", "--summary", "-"]
        self.run = Running(["resume", job, "--workers", "1", *told, *flags])
