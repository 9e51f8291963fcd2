"""A storm: a source under thousands of mixed writes a second is followed, while feeds, workers, the
run itself and connections are killed and cut at random moments; then both sides must be the same.

    python -m support.storm --seconds 600 --cuts 10      (with the folder `tests` in PYTHONPATH)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from support.copying import Side
from support.data import compare, fill_mixed
from support.following import Following, kill_feed
from support.proxy import Proxy
from support.servers import Server
from support.waiting import wait_until
from support.writers import DATABASES, LONGEST_TTL, Writers, Written, writers

KEYS = 20_000
PATIENCE = 240.0
"""Seconds to wait until a follow is in step again, on a loaded machine."""
STREAMS = 90.0
"""Seconds in which consumer groups are the same: no feed reports them."""


@dataclass
class Report:
    """How a storm went.

    Attributes:
        written: by the writers.
        cuts: the kind of each, and the seconds until the target was in step again.
        gaps, passes, settled, deleted: as the follow tells.
        in_step: the part of the time in which it was.
        quiet: seconds from the last write until all was settled.
    """

    written: Written = field(default_factory=lambda: Written(0, 0.0))
    cuts: list[tuple[str, float]] = field(default_factory=list)
    gaps: int = 0
    passes: int = 0
    settled: int = 0
    deleted: int = 0
    in_step: float = 0.0
    quiet: float = 0.0

    def __str__(self) -> str:
        cuts = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in self.cuts)
        return (
            f"{self.written.rate:,.0f} writes/s for {self.written.seconds:.0f} s; in step again "
            f"after: {cuts}; {self.gaps} gaps, {self.passes} passes, {self.settled:,} settled, "
            f"{self.deleted:,} deleted; in step {self.in_step:.0%} of the time; all settled "
            f"{self.quiet:.1f} s after the last write"
        )


class Storm:
    """One storm; a context manager that ends all.

    Args:
        source, target: empty servers.
        rng: decides all.
    """

    def __init__(self, source: Server, target: Server, rng: random.Random) -> None:
        self.source, self.target = source, target
        self.report = Report()
        self._rng = rng
        self._stack = contextlib.ExitStack()
        self._ways = [self._stack.enter_context(Proxy(side)) for side in (source, target)]
        self._follow: Following

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, seconds: float, cuts: int, rate: float) -> Report:
        """Let it rage for so many seconds, with so many cuts; then compare both sides."""
        for number, db in enumerate(DATABASES):
            fill_mixed(self.source, KEYS if db == 0 else KEYS // 10, seed=number + 1, db=db)
        began = time.monotonic()
        with writers(self.source, self._rng, rate) as at_work:
            self._begin(*self._ways)
            self._follow.in_step(PATIENCE)
            for kind, moment in self._plan(cuts, time.monotonic(), began + seconds):
                threading.Event().wait(moment - time.monotonic())
                self._cut(kind)
            threading.Event().wait(began + seconds - time.monotonic())
            self._end(at_work)
        return self.report

    def _begin(self, source: Side, target: Side) -> None:
        flags = ("--retry-for", "60s")
        self._follow = self._stack.enter_context(Following(source, target, *flags))

    def _plan(self, cuts: int, first: float, last: float) -> list[tuple[str, float]]:
        """The kinds of the cuts, all of them before one comes again, and when each is due."""
        kinds: list[str] = []
        while len(kinds) < cuts:
            kinds += self._rng.sample(list(_CUTS), len(_CUTS))
        length = max(1.0, last - first) / cuts
        moments = [first + length * (n + self._rng.uniform(0, 0.5)) for n in range(cuts)]
        return list(zip(kinds[:cuts], moments, strict=True))

    # The cuts.

    def _cut(self, kind: str) -> None:
        before, began = self._follow.ask()["gaps"], time.monotonic()
        gap = _CUTS[kind](self)
        self._follow.after_gap(before + gap, PATIENCE)
        self.report.cuts.append((kind, time.monotonic() - began))

    def _kill_feed(self) -> int:
        kill_feed(self.source)
        return 1

    def _kill_worker(self) -> int:
        wait_until(lambda: self._follow.run.kill_random_worker(self._rng), 60, "a worker dies")
        return 0

    def _kill_run(self) -> int:
        self._follow.run.send_signal(signal.SIGKILL, group=self._rng.random() < 0.5)
        self._follow.ended(-signal.SIGKILL)
        threading.Event().wait(self._rng.uniform(0, 2))
        self._follow = self._stack.enter_context(Following.again())
        return 0  # a gap of another kind: the pass of each new run mends it

    def _kill_target_connections(self) -> int:
        _kill_clients(self.target)
        return 0

    def _kill_source_connections(self) -> int:
        _kill_clients(self.source)
        return 1

    def _cut_source(self) -> int:
        self._ways[0].cut()
        return 1

    def _cut_target(self) -> int:
        self._ways[1].reset()
        return 0

    def _cut_a_reply(self) -> int:
        way = self._rng.choice(self._ways)
        way.cut_after(self._rng.randrange(1, 100_000), self._rng.choice(("up", "down")))
        return 0

    def _stall(self) -> int:
        way = self._rng.choice(self._ways)
        way.stall()
        threading.Event().wait(self._rng.uniform(0.5, 4))
        way.go()
        return 0

    # The end.

    def _end(self, at_work: Writers) -> None:
        report = self.report
        report.written = at_work.stop()
        stopped = time.monotonic()
        for db in DATABASES:
            standing = self._follow.settled(
                self.source, self.target, db=db, name=f"marker:{db}", timeout=PATIENCE
            )
        report.quiet = time.monotonic() - stopped
        report.gaps, report.passes = standing["gaps"], standing["passes"]
        report.settled, report.deleted = standing["settled"], standing["deleted"]
        report.in_step = standing["step_seconds"] / report.written.seconds
        print(report, flush=True)
        # No key expires while both sides are compared.
        wait_until(lambda: time.monotonic() > stopped + LONGEST_TTL + 1, 60, "brief keys are gone")
        found = self._differences()
        others = [line for line in found if "'stream:" not in line]
        assert others == [], others
        wait_until(lambda: self._differences() == [], STREAMS, "the groups are equal")
        if self.source.version == self.target.version:
            # Expired fields of hashes are part of it until the server has removed them.
            wait_until(self._has_one_digest, 60, "DEBUG DIGEST is the same")
        assert self._follow.ask().phase == "in step"
        self._follow.stop()

    def _differences(self) -> list[str]:
        # Redis 6.2 does not tell the moment at which a key expires, but the time that is left.
        tolerance = 2 if "6.2" in (self.source.version, self.target.version) else 0
        return compare(self.source, self.target, ttl_tolerance_ms=tolerance)

    def _has_one_digest(self) -> bool:
        return bool(self.source.do("DEBUG", "DIGEST") == self.target.do("DEBUG", "DIGEST"))


_CUTS: dict[str, Callable[[Storm], int]] = {
    "feed killed": Storm._kill_feed,
    "worker killed": Storm._kill_worker,
    "run killed": Storm._kill_run,
    "connections to the target killed": Storm._kill_target_connections,
    "connections to the source killed": Storm._kill_source_connections,
    "network to the source cut": Storm._cut_source,
    "network to the target cut": Storm._cut_target,
    "a message cut": Storm._cut_a_reply,
    "network stalled": Storm._stall,
}
"""What may happen, by its name; each returns how many gaps it must cause."""


def _kill_clients(server: Server) -> None:
    """End all connections but those of the writers."""
    with server.raw() as raw:
        listed = raw.do("CLIENT", "LIST").decode().splitlines()
        numbers = [line.split()[0].removeprefix("id=") for line in listed if "name=rumpx" in line]
        raw.many([("CLIENT", "KILL", "ID", number) for number in numbers])


def main(words: Sequence[str] | None = None) -> None:
    """Let one rage, and print how it went."""
    parser = argparse.ArgumentParser(prog="support.storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--rate", type=float, default=10_000.0, help="writes a second")
    parser.add_argument("--version", default="8.2", help="of both servers")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    chosen = parser.parse_args(words)
    print(f"seed {chosen.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        os.environ["XDG_STATE_HOME"] = stack.enter_context(tempfile.TemporaryDirectory())
        source, target = (stack.enter_context(Server(chosen.version)) for _ in range(2))
        storm = stack.enter_context(Storm(source, target, random.Random(chosen.seed)))
        storm.run(chosen.seconds, chosen.cuts, chosen.rate)
    print("both sides are the same")


if __name__ == "__main__":
    main()
