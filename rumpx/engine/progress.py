"""The progress of a run: makes Snapshots from the walks' counts.

A partition's progress is its cursor's place in its span, up to which all keys are settled; for a
plain cursor, which has no place, the settled keys divided by the number of keys. The whole is the
mean weighted by the number of keys that each partition was planned with. Rates are those of the
last few seconds; the time left follows from the rate of progress.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import psutil

from rumpx.engine.backend import Workload
from rumpx.engine.plan import Plan
from rumpx.engine.sums import Sum, copied_content, overall
from rumpx.errors import Side
from rumpx.model.content import NO_CONTENT, Content
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address, format_address
from rumpx.model.follow import FollowStat
from rumpx.model.partitions import Partition
from rumpx.model.snapshot import Held, NodeStat, Row, Snapshot, State, Verb, WorkerStat
from rumpx.throttle.governor import Done
from rumpx.transfer.content_stats import Largest

_WINDOW_SECONDS: Final = 5.0
_USAGE_SECONDS: Final = 1.0
_ENDED: Final[tuple[State, ...]] = ("done", "failed", "stopped")


def _let_go(held: Held) -> Held:
    """Return the state without limits that hold, for a run that has ended."""
    return replace(held, reason="", by=(), off=False)


def _place(partition: Partition) -> tuple[Side, Address | None, int]:
    return *partition.place, partition.db


class Progress:
    """The progress of one partition: its settled cursor, counts, and whether it is done."""

    __slots__ = ("counts", "cursor", "done", "partition")

    def __init__(self, partition: Partition, cursor: int, counts: Counts, done: bool) -> None:
        self.partition = partition
        self.cursor = cursor
        self.counts = counts
        self.done = done


@dataclass(frozen=True, slots=True)
class Told:
    """The engine's facts of a run besides its partitions; as in Snapshot."""

    state: State
    note: str
    held: Held
    nodes: tuple[NodeStat, ...]
    failures: dict[str, int]
    largest: Largest
    follow: FollowStat | None


class ProgressMeter:
    """Makes Snapshots.

    Args:
        plan: the work.
        backend: the workers.
        began: `time.monotonic()` of the start.
        seconds: the time that earlier runs of the job took.
        job, verb: as in Snapshot.

    Attributes:
        done: keys settled so far, for the governor.
    """

    done = Done()

    def __init__(
        self,
        plan: Plan,
        backend: Workload,
        began: float,
        seconds: float = 0.0,
        job: str = "",
        verb: Verb = "copied",
    ) -> None:
        self._backend = backend
        self._job = job
        self._verb = verb
        self._plan = plan
        self._seconds = seconds
        self._began = began - seconds
        self._keys = {(side, p.node.address, p.db): p.keys for side, p in plan.places}
        self._parts = Counter(map(_place, plan.partitions))
        self._history: deque[tuple[float, int, int, float]] = deque()
        self._process = psutil.Process()
        self._usage: tuple[tuple[WorkerStat, ...], float, int] = ((), 0.0, 0)
        self._usage_due = 0.0
        self._content = NO_CONTENT
        self._content_due = 0.0

    def begin(self, now: float) -> None:
        """Start the clock: the first SCAN is sent now."""
        self._began = now - self._seconds
        self._history.clear()
        self._usage_due = now

    def elapsed(self, now: float) -> float:
        """Return the seconds since the start."""
        return now - self._began

    def weight(self, partition: Partition) -> float:
        """Return the number of keys that a partition was planned with."""
        place = _place(partition)
        return max(1.0, self._keys.get(place, 0) / (self._parts[place] or 1))

    def fraction(self, progress: Progress) -> float:
        """Return the part of one partition that is settled, 0.0 to 1.0."""
        if progress.done:
            return 1.0
        partition = progress.partition
        exact = partition.span.fraction(progress.cursor)
        if exact is None:
            exact = progress.counts.settled / max(1, self._keys.get(_place(partition), 0))
        elif progress.cursor == partition.span.start:
            exact = 0.0
        elif progress.cursor == 0:
            exact = 1.0  # the walk is at its end; its last batches are settled in a moment
        return min(0.999, max(0.0, exact))

    def whole(self, parts: Sequence[Progress], state: State) -> float:
        """Return the part of the run that is settled, 0.0 to 1.0; 1.0 only at its end, and while it
        follows its source after that."""
        first = [part for part in parts if not part.partition.reason]
        weights = [self.weight(part.partition) for part in first]
        done = sum(w * self.fraction(p) for w, p in zip(weights, first, strict=True))
        fraction = done / sum(weights) if weights else float(state == "done")
        follows = any(part.partition.work == "follow" for part in parts)
        if state != "done" and not follows and any(not part.done for part in parts):
            fraction = min(fraction, 0.999)
        return fraction

    def snapshot(
        self, parts: Sequence[Progress], sums: Sequence[Sum], now: float, told: Told
    ) -> Snapshot:
        """Return the present state of the run.

        Args:
            parts: the walks that are not retired.
            sums: the results of all walks.
        """
        state = told.state
        first = [part for part in parts if not part.partition.reason]
        counts = overall(sums)
        fraction = self.whole(parts, state)
        work = sum((result for _, result, _ in sums), Counts())
        valued = counts.copied + counts.compared
        self.done = Done(work.settled, counts.payload_bytes / max(1, valued))
        keys_rate, bytes_rate, progress_rate = self._rates(now, work, fraction)
        workers, cpu, memory = self._measure(now)
        walking = state in ("copying", "comparing")
        eta = (1 - fraction) / progress_rate if walking and progress_rate > 0 else None
        partitions = self._partitions(first)
        return Snapshot(
            state=state,
            job=self._job,
            verb=self._verb,
            source=str(self._plan.job.source),
            target=str(self._plan.job.target),
            elapsed=self.elapsed(now),
            fraction=fraction,
            counts=counts,
            work=work,
            keys_expected=self._plan.keys_expected,
            keys_per_second=keys_rate,
            bytes_per_second=bytes_rate,
            eta=eta,
            rows=self._rows(first, partitions),
            partitions=partitions,
            workers=workers,
            worker_restarts=self._backend.restarts,
            batches_in_flight=self._backend.batches,
            coordinator_cpu=cpu,
            coordinator_memory=memory,
            note=told.note,
            held=_let_go(told.held) if state in _ENDED else told.held,
            nodes=told.nodes,
            failures=told.failures,
            content=self._weighed(sums, told, now),
            follow=told.follow,
        )

    def _weighed(self, sums: Sequence[Sum], told: Told, now: float) -> Content:
        if now >= self._content_due or told.state in _ENDED:
            self._content_due = now + _USAGE_SECONDS
            self._content = copied_content(sums, told.largest)
        return self._content

    def _rates(self, now: float, counts: Counts, fraction: float) -> tuple[float, float, float]:
        history = self._history
        history.append((now, counts.settled, counts.payload_bytes, fraction))
        while len(history) > 2 and history[0][0] < now - _WINDOW_SECONDS:
            history.popleft()
        then, keys, payload, progress = history[0]
        if len(history) == 1 or now <= then:
            then, keys, payload, progress = self._began, 0, 0, 0.0
        span = max(now - then, 1e-6)
        return (
            max(0.0, (counts.settled - keys) / span),
            max(0.0, (counts.payload_bytes - payload) / span),
            max(0.0, (fraction - progress) / span),
        )

    def _measure(self, now: float) -> tuple[tuple[WorkerStat, ...], float, int]:
        if now >= self._usage_due:
            self._usage_due = now + _USAGE_SECONDS
            self._usage = (
                self._backend.stats(),
                self._process.cpu_percent(),
                self._process.memory_info().rss,
            )
        return self._usage

    def _partitions(self, parts: Sequence[Progress]) -> tuple[Row, ...]:
        """Return a row for each partition: `part 3/16`, with its node and database if there are
        several."""
        one_node = len(self._plan.source.topology.nodes) == 1
        several = len({part.partition.db for part in parts}) > 1
        return tuple(
            Row(
                ("" if one_node else f"{self._node(part)} ")
                + f"part {number}/{len(parts)}"
                + (f" db{part.partition.db}" if several else ""),
                self.fraction(part),
                part.counts,
                part.done,
            )
            for number, part in enumerate(parts, start=1)
        )

    def _rows(
        self, parts: Sequence[Progress], partitions: tuple[Row, ...]
    ) -> tuple[Row, ...]:
        """Return a row for each node and database; for each partition if there is one node."""
        if len(self._plan.source.topology.nodes) == 1:
            return partitions
        places: dict[tuple[str, int], list[tuple[Progress, Row]]] = {}
        for part, row in zip(parts, partitions, strict=True):
            places.setdefault((self._node(part), part.partition.db), []).append((part, row))
        several = len({db for _, db in places}) > 1
        rows = []
        for (label, db), members in places.items():
            weights = [self.weight(part.partition) for part, _ in members]
            done = sum(w * row.fraction for w, (_, row) in zip(weights, members, strict=True))
            rows.append(
                Row(
                    f"{label} db{db}" if several else label,
                    done / sum(weights),
                    sum((row.counts for _, row in members), Counts()),
                    all(row.done for _, row in members),
                )
            )
        return tuple(rows)

    def _node(self, part: Progress) -> str:
        address = part.partition.node.address
        return format_address(address) if address else str(self._plan.job.source)
