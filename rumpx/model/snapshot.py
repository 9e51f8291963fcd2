"""A frozen record of a run's state at one moment, which every display draws.

The engine makes a Snapshot a few times a second; displays only read it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, Literal

from rumpx.errors import Side
from rumpx.model.content import NO_CONTENT, Content
from rumpx.model.counts import Counts
from rumpx.model.follow import FollowStat

State = Literal[
    "starting",
    "copying",
    "checking",
    "comparing",
    "following",
    "draining",
    "done",
    "failed",
    "stopped",
]
Verb = Literal["copied", "compared"]
# Causes of throttling.
HOLDS: Final = (
    "source latency",
    "target latency",
    "source CPU",
    "source memory",
    "keys a second",
    "bytes a second",
    "commands a second",
    "timetable",
    "pause",
)


@dataclass(frozen=True, slots=True)
class Row:
    """Progress of one node, or of one partition if there is a single node.

    `label` is short ("10.0.0.1:6379", "10.0.0.1:6379 db3", "part 3/16"); `fraction` is 0.0 to 1.0.
    """

    label: str
    fraction: float
    counts: Counts
    done: bool


@dataclass(frozen=True, slots=True)
class WorkerStat:
    """One worker process as psutil sees it: `cpu` in percent of one core, `memory` in bytes; `host`
    is its machine, "" for this one."""

    pid: int
    cpu: float
    memory: int
    batches: int
    host: str = ""


@dataclass(frozen=True, slots=True)
class MachineStat:
    """The workers of one machine: their number, and the sums of their WorkerStats."""

    host: str
    workers: int
    cpu: float
    memory: int
    batches: int


@dataclass(frozen=True, slots=True)
class NodeStat:
    """One server process: its measured latency, and values from its INFO.

    Attributes:
        side: "source" or "target".
        label: its address, or its side's URI if it is the only node.
        latency: as `Held.source_latency`, of this node; None if unknown.
        cpu: percent of one core, or None.
        memory, max_memory: bytes, or None; `max_memory` 0 is no limit.
    """

    side: Side
    label: str
    latency: float | None
    cpu: float | None
    memory: int | None
    max_memory: int | None


@dataclass(frozen=True, slots=True)
class Held:
    """The governor's state.

    Attributes:
        reason: of throttling, as in "throttled by source latency 6.1 ms > 5 ms"; "" if none.
        off: True if the timetable or the user stops all work now.
        source_latency, target_latency: the second-highest of the last second of a node's PINGs (not
            counting those that straggle when nothing is copied), in seconds above its idle ones, of
            the worst node; None before they are known.
        by: the same as `reason` without numbers: names of `HOLDS`.
        share: 0.0 to 1.0 of full concurrency.
        seconds: seconds of this run for which each of `HOLDS` has throttled it, if any.
    """

    reason: str = ""
    off: bool = False
    source_latency: float | None = None
    target_latency: float | None = None
    by: tuple[str, ...] = ()
    share: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The run at one instant.

    Attributes:
        state: state of the run.
        job: its name; of a comparison, that of the compared copy, or "".
        verb: the outcome of keys, as in "copied" or "compared".
        source, target: the endpoints' URIs without credentials.
        elapsed: seconds since the copy started.
        fraction: 0.0 to 1.0 of the walk that is settled; exact if cursors show it, else by keys.
        counts: of the whole run, each key once.
        work: the same, repeated walks and retries included; the base of the rates.
        keys_expected: the source's DBSIZE in scope at the start; with filters an upper bound.
        keys_per_second, bytes_per_second: over the last few seconds.
        eta: remaining seconds, or None while unknown.
        rows: a row a node, or a row a partition if there is one node.
        partitions: a row a partition.
        workers: the live worker processes.
        worker_restarts: workers that died and were replaced.
        batches_in_flight: batches that workers currently hold.
        coordinator_cpu: in percent of one core.
        coordinator_memory: bytes.
        note: a short text on the event that the run is waiting for, or "".
        held: the governor's state.
        nodes: all servers.
        failures: number of failed keys of this run, by reason.
        content: statistics of the copied keys; updated once a second.
        follow: of a job that follows its source; else None.
    """

    state: State
    job: str
    verb: Verb
    source: str
    target: str
    elapsed: float
    fraction: float
    counts: Counts
    keys_expected: int
    keys_per_second: float
    bytes_per_second: float
    eta: float | None
    rows: tuple[Row, ...]
    workers: tuple[WorkerStat, ...]
    worker_restarts: int
    batches_in_flight: int
    coordinator_cpu: float
    coordinator_memory: int
    note: str = ""
    held: Held = Held()
    partitions: tuple[Row, ...] = ()
    nodes: tuple[NodeStat, ...] = ()
    failures: dict[str, int] = field(default_factory=dict)
    content: Content = NO_CONTENT
    work: Counts = field(default_factory=Counts)
    follow: FollowStat | None = None

    @property
    def machines(self) -> tuple[MachineStat, ...]:
        """The machines of the workers, by name; none if all workers run on this one."""
        by_host = defaultdict[str, list[WorkerStat]](list)
        for worker in self.workers:
            if worker.host:
                by_host[worker.host].append(worker)
        return tuple(
            MachineStat(
                host,
                len(stats),
                sum(stat.cpu for stat in stats),
                sum(stat.memory for stat in stats),
                sum(stat.batches for stat in stats),
            )
            for host, stats in sorted(by_host.items())
        )
