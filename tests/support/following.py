"""A follow as a process: started, asked how it stands, waited for, ended.

`settled` is the moment to compare both sides: all that the source acknowledged before it was called
is on the target, as far as the follow knows. It writes a marker to the source, waits until the feed
has brought it to the target (so all earlier names have been read), and then until the oldest change
that the follow has not settled is a later one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rumpx.ctl.client import ask, running_job
from rumpx.ctl.server import Request, Status
from rumpx.errors import TemporaryError, UsageError
from rumpx.ledger.catalog import Place
from support.copying import Copied, Side, messages, uri_of
from support.run import Running, rumpx
from support.servers import Server
from support.waiting import wait_until

INTERRUPTED = 130
"""The exit code of a follow that was stopped by SIGINT."""

LONG = 60.0
"""Seconds to wait for what a loaded machine does at its leisure."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Standing:
    """The answer to `rumpx ctl JOB status`, of which `follow` and its sums are a part; it was
    `asked` for at that moment (`time.monotonic()`)."""

    status: dict[str, Any]
    asked: float

    def __getitem__(self, name: str) -> Any:
        """A field of the follow, or one of its sums, as gaps, passes, settled."""
        follow = self.status["follow"]
        return follow[name] if name in follow else follow["facts"][name]

    @property
    def phase(self) -> str:
        """The phase; "" before the run tells one."""
        return str((self.status.get("follow") or {}).get("phase", ""))

    @property
    def gaps(self) -> list[str]:
        """Why events may have been lost, the last gaps, oldest first."""
        return [gap["why"] for gap in self["last_gaps"]]


@dataclass(frozen=True)
class CutOver:
    """How `rumpx ctl JOB cutover` ended.

    Attributes:
        code: its exit code.
        facts: what it printed with --json.
        steps: the lines it wrote meanwhile.
    """

    code: int
    facts: dict[str, Any]
    steps: str

    @property
    def outcome(self) -> str:
        return str(self.facts["outcome"])

    @property
    def told(self) -> str:
        """Its sentences."""
        return " ".join(self.facts["told"])


def cut_over(
    *words: str, code: int, job: str = "move", timeout: float = 2 * LONG
) -> CutOver:
    """Cut a job over, which must come with this exit code."""
    done = rumpx("ctl", job, "cutover", *words, "--json", timeout=timeout)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return CutOver(done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr)


class Following:
    """A follow under way, from its start: a context manager, at whose end all is killed.

    Args:
        source, target: the sides.
        flags: further ones; two workers unless they say otherwise.
        job: its name.
        env: as for `Running`.

    Attributes:
        run: the process.
    """

    def __init__(
        self,
        source: Side,
        target: Side,
        *flags: str | Path,
        job: str = "move",
        env: Mapping[str, str] | None = None,
    ) -> None:
        few = [] if "--workers" in flags else ["--workers", "2"]
        ends = ["--from", uri_of(source), "--to", uri_of(target)]
        words = [*ends, "--follow", "--job", job, *few, *_TOLD, *flags]
        self._take(Running(words, env=env), job)

    @classmethod
    def again(
        cls, *flags: str | Path, job: str = "move", env: Mapping[str, str] | None = None
    ) -> Self:
        """The same job, resumed."""
        following = cls.__new__(cls)
        following._take(Running(["resume", job, *_TOLD, *flags], env=env), job)
        return following

    @classmethod
    def of(cls, run: Running, job: str = "move") -> Self:
        """One that was started in another way."""
        following = cls.__new__(cls)
        following._take(run, job)
        return following

    def _take(self, run: Running, job: str) -> None:
        self.run = run
        self._job = job

    # How it stands

    def ask(self, request: Request | None = None) -> Standing:
        """Send a request as `rumpx ctl` does, by default for the status."""
        ledger, asked = running_job(Place(None, self._job)), time.monotonic()
        return Standing(ask(ledger, request or Status()), asked)

    def wait(
        self, condition: Callable[[Standing], object], what: str, timeout: float = LONG
    ) -> Standing:
        """Until this is true of an answer; returns that answer."""

        def met() -> Standing | None:
            assert self.run.alive, f"ended too early:\n{self._end_of_output()}"
            try:
                standing = self.ask()
            except (TemporaryError, UsageError):  # it is starting
                return None
            return standing if standing.phase and condition(standing) else None

        try:
            found = wait_until(met, timeout, what, interval=0.02)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._end_of_output()}") from error
        assert found
        return found

    def in_step(self, timeout: float = LONG) -> Standing:
        """Until it is in step."""
        return self.wait(lambda standing: standing.phase == "in step", "in step", timeout)

    def after_gap(self, gaps: int = 1, timeout: float = LONG) -> Standing:
        """Until it is in step after so many gaps at least."""
        return self.wait(
            lambda standing: standing.phase == "in step" and standing["gaps"] >= gaps,
            f"in step after {gaps} gaps",
            timeout,
        )

    def settled(
        self,
        source: Server,
        target: Server,
        *,
        db: int = 0,
        target_db: int | None = None,
        name: str = "marker",
        timeout: float = LONG,
    ) -> Standing:
        """Until all that the source has acknowledged so far is settled.

        Args:
            db: a database that is followed, and
            target_db: where its keys go, by default to the same.
            name: of the marker, which must be in scope. It stays on both sides.
        """
        word = str(next(_numbers)).encode()
        to = db if target_db is None else target_db
        source.do("SET", name, word, db=db)
        with target.raw(to) as raw:
            self.wait(lambda _: raw.do("GET", name) == word, "the marker arrives", timeout)
        arrived = time.monotonic()

        def later(standing: Standing) -> bool:
            return standing["lag"] is not None and standing.asked - standing["lag"] > arrived

        return self.wait(later, "all earlier changes are settled", timeout)

    @property
    def messages(self) -> str:
        """What it has told the user so far."""
        return messages(self.run)

    def _end_of_output(self) -> str:
        return self.run.stderr[-4000:]

    # Its end

    def stop(self, number: int = signal.SIGINT, code: int = INTERRUPTED) -> Copied:
        """Stop it by a signal; it must end with this exit code."""
        self.run.send_signal(number)
        return self.ended(code)

    def ended(self, code: int, timeout: float = LONG) -> Copied:
        """Wait for its end, which must come with this exit code."""
        done = self.run.wait(timeout)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stderr[-4000:]}"
        summary = json.loads(done.stdout) if done.stdout else {}
        return Copied(done.returncode, summary, done.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.run.stop()


_TOLD: tuple[str, ...] = ("--progress", "json", "--summary", "-")


@contextlib.contextmanager
def writing(*works: Callable[[], object]) -> Iterator[None]:
    """While this is open, each of these is called again and again, in a thread of its own. (Each
    needs a connection of its own, and sets its pace.) An exception of one is raised at the end."""
    ends = threading.Event()
    troubles: list[BaseException] = []

    def go_on(work: Callable[[], object]) -> None:
        try:
            while not ends.is_set():
                work()
        except BaseException as error:
            troubles.append(error)

    threads = [threading.Thread(target=go_on, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    if troubles:
        raise troubles[0]


def kill_feed(source: Server) -> None:
    """End a feed's connection by CLIENT KILL, and those of the watch, whose name it shares."""
    with source.raw() as raw:
        listed = raw.do("CLIENT", "LIST").decode().splitlines()
        numbers = [line.split()[0].removeprefix("id=") for line in listed if ":feed:" in line]
        assert numbers, "no feed is attached"
        raw.many([("CLIENT", "KILL", "ID", number) for number in numbers])


def assert_digests(source: Server, target: Server) -> None:
    """Both sides have the same DEBUG DIGEST. (Servers of one version, no streams with groups.)"""
    assert source.do("DEBUG", "DIGEST") == target.do("DEBUG", "DIGEST")
