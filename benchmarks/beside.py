"""A copy beside another client of the source, and the client's delays meanwhile.

Only the client's delays while keys arrived on the target count, not the start of a copier. The
limit is meant above the delays without a copy, so a second *is within the limit* if its p99 is at
most `LIMIT` above the median of the same round without a copy.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.client import Client, Felt, Percentiles
from benchmarks.contenders import Contender, Round, require_keys
from benchmarks.measure import Failed, Watch
from benchmarks.servers import Side
from rumpx.model.job import Limits

LIMIT: Final = Limits().max_source_latency or 0.0
LOOK_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """The client's delays during one run, and the copy, if there was one.

    Attributes:
        above: for each second of it, the p99 less the median without a copy.
    """

    felt: Percentiles
    late: Percentiles
    above: list[float]
    made: Round | None


def no_copy(source: Side, connections: int) -> Run:
    """The client's delays without a copy; their median is `Run.felt.p50`."""
    with Client(source.servers[0], connections) as client:
        time.sleep(_IDLE_SECONDS)
    return _run(client.felt, statistics.median(client.felt.took), None)


def copy(contender: Contender, source: Side, target: Side, connections: int, idle: float) -> Run:
    """One copy into an empty target; `idle` is the median without a copy, in seconds.

    Raises:
        Failed: the contender failed, or copied a wrong number of keys.
    """
    with Client(source.servers[0], connections) as client, Growth(target) as growth:
        made = contender(source, target)
    keys = require_keys(source, target)
    return _run(client.felt.between(*growth.span(keys)), idle, made)


def _run(felt: Felt, idle: float, made: Round | None) -> Run:
    if len(felt.took) < 2:
        raise Failed("The copy was too short for the other client to feel anything.")
    return Run(
        Percentiles.of(felt.took),
        Percentiles.of(felt.late),
        [Percentiles.of(second.took).p99 - idle for second in felt.seconds()],
        made,
    )


def within(runs: Sequence[Run]) -> float | None:
    """The share of all runs' seconds that were within the limit; None if there was not one."""
    seconds = [above for one in runs for above in one.above]
    return sum(above <= LIMIT for above in seconds) / len(seconds) if seconds else None


def within_cell(runs: Sequence[Run]) -> str:
    """The same, and of how many seconds."""
    share = within(runs)
    return "-" if share is None else f"{share:.0%} of {sum(len(one.above) for one in runs)}"


class Growth(Watch):
    """A side's number of keys, as often as `look_seconds` say."""

    def __init__(self, side: Side, look_seconds: float = LOOK_SECONDS) -> None:
        super().__init__()
        self._side = side
        self._look_seconds = look_seconds
        self.seen: list[tuple[float, int]] = []

    def run(self) -> None:
        with closing(self._side.servers[0].connect()) as connection:
            while not self.done.wait(self._look_seconds):
                reply: Any = connection.call("DBSIZE")
                self.seen.append((time.perf_counter(), int(reply)))

    def span(self, keys: int) -> tuple[float, float]:
        """From when on there were keys, until there were as many as `keys`, or no more to come."""
        begin = next((at for at, number in self.seen if number), 0.0)
        end = next((at for at, number in self.seen if number >= keys), time.perf_counter())
        return begin, end

    def when(self, keys: float) -> float:
        """The instant at which there were so many, between two looks in proportion; that of the
        last look if there never were."""
        after = next((n for n, look in enumerate(self.seen) if look[1] >= keys), len(self.seen))
        if after in (0, len(self.seen)):
            return self.seen[min(after, len(self.seen) - 1)][0]
        (begin, fewer), (end, more) = self.seen[after - 1 : after + 1]
        return begin + (end - begin) * (keys - fewer) / (more - fewer)

    def keys_at(self, at: float) -> float:
        """The number at an instant, between two looks in proportion."""
        after = bisect_right(self.seen, at, key=lambda look: look[0])
        if after in (0, len(self.seen)):
            return self.seen[min(after, len(self.seen) - 1)][1]
        (begin, fewer), (end, more) = self.seen[after - 1 : after + 1]
        return fewer + (more - fewer) * (at - begin) / (end - begin)

    def speed(self, begin: float, end: float) -> float:
        """Keys a second, from one instant to another."""
        return (self.keys_at(end) - self.keys_at(begin)) / (end - begin)
