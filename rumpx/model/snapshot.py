"""One frozen record of a run's state, from which every display is drawn.

The engine makes a Snapshot a few times a second; displays only read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from rumpx.errors import Side
from rumpx.model.content import NO_CONTENT, Content
from rumpx.model.counts import Counts

State = Literal[
    "starting", "copying", "checking", "comparing", "draining", "done", "failed", "stopped"
]
Verb = Literal["copied", "compared"]
# What can hold a run.
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
    """Progress of one node, or of one partition where there is a single node.

    `label` is short ("10.0.0.1:6379", "10.0.0.1:6379 db3", "part 3/16"); `fraction` is 0.0 to 1.0.
    """

    label: str
    fraction: float
    counts: Counts
    done: bool


@dataclass(frozen=True, slots=True)
class WorkerStat:
    """One worker process as psutil sees it: `cpu` in percent of one core, `memory` in bytes."""

    pid: int
    cpu: float
    memory: int
    batches: int


@dataclass(frozen=True, slots=True)
class NodeStat:
    """One server process as it is felt, and as its INFO says.

    Attributes:
        side: "source" or "target".
        label: its address, or its side's URI where it is the only one.
        latency: as `Held.source_latency`, of this node; None where nothing is known.
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
    """What the governor says.

    Attributes:
        reason: what holds the run, as in "held by source latency 6.1 ms > 5 ms"; "" if nothing.
        off: nothing is done now, by the timetable or the user.
        source_latency, target_latency: the second-highest of the last second of a node's PINGs, in
            seconds above its best, of the worst node; None before they are known.
        by: the same as `reason` without numbers: names of `HOLDS`.
        share: 0.0 to 1.0 of what an unhindered run has under way.
        seconds: for how many seconds of this run each of `HOLDS` has held it, if any.
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
        state: what the run is doing.
        job: its name; of a comparison, that of the copy that is compared, or "".
        verb: what is done with keys, as in "copied" or "compared".
        source, target: the endpoints' URIs without credentials.
        elapsed: seconds since the copy began.
        fraction: 0.0 to 1.0 of the walk that is settled; exact where cursors tell, else by keys.
        counts: of the whole run, each key once.
        work: the same with what is walked, or tried, again; what rates are made of.
        keys_expected: the source's DBSIZE in scope at the start; with filters an upper bound.
        keys_per_second, bytes_per_second: over the last few seconds.
        eta: seconds left, or None while unknown.
        rows: a row a node, or a row a partition where there is one node.
        partitions: a row a partition.
        workers: the live worker processes.
        worker_restarts: workers that died and were replaced.
        batches_in_flight: batches that workers hold now.
        coordinator_cpu: in percent of one core.
        coordinator_memory: bytes.
        note: one short sentence on what the run is waiting for, or "".
        held: what the servers feel, and what holds the run for it.
        nodes: the servers, one by one.
        failures: number of keys that failed, by reason, as this run met them.
        content: what the copied keys are; renewed once a second.
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
