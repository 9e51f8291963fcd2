"""Walks that only sleep and report, on a real Dask cluster: the limits of one coordinator.

    python -m benchmarks.sleeping SCHEDULER PIDS WALKS SECONDS

is a coordinator without servers; it writes a Slept as JSON. `PIDS` are the processes of the
scheduler and of the workers, for their CPU. All is real (engine, ledger, `DaskBackend`, tasks,
`LoneWalk`, their messages) but two stand-ins, which travel to the workers as others do:

- a dialer whose connections answer SCAN after `_SCAN_SECONDS`, with few keys;
- a handler that settles a batch after `_SETTLE_SECONDS`, with counts as of `_BATCH_KEYS` keys.

So each walk reports twice a second, as a walk over a server does. Figures are of the time in which
all walks work: from the last one's first report on.

Not simulated: PINGs to the nodes, which cost the coordinator time for each node, not for each walk.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from benchmarks.dask_cluster import cpu_of
from rumpx.copier.saver import Saver, saved_walk
from rumpx.engine.engine import Engine
from rumpx.engine.fence import with_writer
from rumpx.engine.key_counts import Census
from rumpx.engine.plan import Plan
from rumpx.engine.scanner import ScanSettings
from rumpx.engine.walks import Walk
from rumpx.errors import Interrupted
from rumpx.ledger.ledger import Ledger, Update
from rumpx.ledger.schema import Facts, JobRecord
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address, Endpoint
from rumpx.model.history import RunRecord
from rumpx.model.job import Job, Limits, Scope
from rumpx.model.nodes import Node, Topology
from rumpx.model.partitions import NodeKeys, Partition, WholeSpan
from rumpx.model.slots import SLOTS
from rumpx.model.snapshot import Snapshot
from rumpx.model.tuning import Tuning
from rumpx.processes.control import Control
from rumpx.remote.backend import DaskBackend
from rumpx.servers.dial import Dialer
from rumpx.servers.info import ServerClock
from rumpx.servers.side import SideFacts
from rumpx.throttle.rates import Pacer
from rumpx.transfer.content_stats import Kinds
from rumpx.transfer.messages import Ack, Batch, Left, Streaming
from rumpx.transfer.runner import Budget, Pause, Task

NODES: Final = 200
_SCAN_SECONDS: Final = 0.4
_SETTLE_SECONDS: Final = 0.05
# 1,000 walks that report so many keys twice a second copy 20 M keys/s.
_BATCH_KEYS: Final = 10_000
_FOUND_KEYS: Final = 10
# Wait at most so long until all walks have reported.
_START_SECONDS: Final = 90.0
_LONGEST_WALK: Final = 1_000_000
_ENDPOINT: Final = Endpoint("tcp", (("sleeping.example", 6379),))
# Five types, and sizes of ten magnitudes, as of mixed keys.
_KINDS: Final = Kinds(
    {kind: 2_000 for kind in (0, 1, 2, 4, 14)}
    | {256 + kind: 300_000 for kind in (0, 1, 2, 4, 14)}
    | {512 + bits: 1_000 for bits in range(4, 14)}
)


@dataclass(frozen=True, slots=True)
class Slept:
    """One simulation, while all its walks worked.

    Attributes:
        walks: at once.
        start: seconds from the first one's submission to the last one's first report.
        seconds: that were measured; all else is of them.
        reports: that were booked.
        coordinator, scheduler, workers: CPU seconds.
        lost: tasks that were given up.
    """

    walks: int
    start: float
    seconds: float
    reports: int
    coordinator: float
    scheduler: float
    workers: float
    lost: int

    @property
    def rate(self) -> float:
        """Reports a second."""
        return self.reports / self.seconds


class _Connection:
    """Stands in for a connection to a server: `servers.resp.Connection` as far as a scanner uses
    it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.db = 0

    def call(self, command: str, *arguments: Any) -> Any:
        """Answer SCAN, late, and INFO."""
        if command == "INFO":
            return b"role:master\r\n"
        assert command == "SCAN"
        time.sleep(_SCAN_SECONDS)
        cursor = int(arguments[0]) + 1
        keys = [b"%s %d %d" % (self.name.encode(), cursor, n) for n in range(_FOUND_KEYS)]
        return [b"%d" % (cursor % _LONGEST_WALK), keys]

    def call_many(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Answer each."""
        return [self.call(*command) for command in commands]

    def close(self) -> None:
        """Do nothing."""


class SleepingDialer(Dialer):
    """Makes connections that sleep."""

    def connect(self, address: Address | None = None) -> Any:
        """See `Dialer.connect`."""
        return _Connection(str(address))


class _Handler:
    """Settles batches by sleeping: a `transfer.handler.Handler`."""

    def dial(self, databases: Sequence[int]) -> None:
        """Do nothing."""

    def settle(self, batch: Batch) -> Task[Ack | Left]:
        """See `Handler.settle`."""
        yield Pause(_SETTLE_SECONDS)
        return Ack(batch.id, Counts(copied=_BATCH_KEYS, payload_bytes=1_500_000), kinds=_KINDS)

    def unfinished(self) -> dict[int, Counts]:
        """See `Handler.unfinished`."""
        return {}

    def take_notices(self) -> list[str]:
        """See `Handler.take_notices`."""
        return []

    def take_streaming(self) -> Streaming | None:
        """See `Handler.take_streaming`."""
        return None

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class SleepingSpec:
    """Makes handlers that sleep: a `transfer.handler.Spec`. The topologies are there since a
    worker's settings have them too."""

    dialers: tuple[Dialer, Dialer]
    topologies: tuple[Topology, Topology]
    databases: tuple[int, ...] = (0,)
    bytes_in_flight: int = 2**26
    beside_server: bool = False
    scope: Scope = field(default_factory=Scope)

    def at(self, place: Callable[[Dialer], Dialer]) -> SleepingSpec:
        """See `Spec.at`."""
        source, target = self.dialers
        return replace(self, dialers=(place(source), place(target)))

    def writing_as(self, writer: str, lives: Callable[[], bool]) -> SleepingSpec:
        """See `Spec.writing_as`."""
        return self

    def build(self, budget: Budget, pacer: Pacer) -> _Handler:
        """See `Spec.build`."""
        return _Handler()


class Silent:
    """A display that shows nothing."""

    def start(self) -> None:
        """Do nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def now(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Write it where it does not disturb."""
        print(text, file=sys.stderr)

    def pause(self) -> None:
        """Do nothing."""

    def go_on(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class _Moment:
    at: float
    reports: int
    coordinator: float
    scheduler: float
    workers: float


class _Watcher:
    """An Overseer: saves as the copier does, measures, and ends the run in time."""

    def __init__(self, pids: Sequence[int], walks: int, seconds: float, control: Control) -> None:
        self.saver: Saver
        self.facts: Facts
        self.started = time.monotonic()
        self.first: _Moment | None = None
        self.last: _Moment | None = None
        self._processes = [psutil.Process(pid) for pid in pids]
        self._waiting = set(range(walks))
        self._seconds = seconds
        self._control = control
        self._reports = 0

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Count a report."""
        self._reports += 1
        self._waiting.discard(walk.id)

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """Refuse: nothing changes here."""
        raise AssertionError(why)

    def unfenced(self, keys: Sequence[tuple[int, bytes]] | None) -> None:
        """Do nothing: there is no target."""

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """Save if due; measure from the time that all walks have reported."""
        if snapshot.state != "starting":
            self.saver.recorder.see(snapshot, time.time())
        if self.saver.is_due(now):
            self.saver.save("running", self.facts, now - self.started)
        if self.first is None:
            if not self._waiting or now - self.started > _START_SECONDS:
                self.first = self._moment()
        elif self.last is None and now - self.first.at > self._seconds:
            self.last = self._moment()
            self._control.stop()

    def _moment(self) -> _Moment:
        scheduler, *workers = map(cpu_of, self._processes)
        own = time.process_time()
        return _Moment(time.monotonic(), self._reports, own, scheduler, sum(workers))


def _plan(scheduler: str, walks: int) -> Plan:
    nodes = tuple(
        Node(
            (f"node{n}.sleeping.example", 6379),
            f"{n:040}",
            ((SLOTS * n // NODES, SLOTS * (n + 1) // NODES - 1),),
        )
        for n in range(NODES)
    )
    topology = Topology(True, nodes, frozenset(node.id for node in nodes))
    source, target = (
        SideFacts(
            SleepingDialer(_ENDPOINT, side, 5.0, 30.0), topology, {}, ServerClock(0.0, 1e-3)
        )
        for side in ("source", "target")
    )
    databases = tuple(NodeKeys(node, 0, 100_000_000, "unknown") for node in nodes)
    limits = Limits(max_source_latency=None, max_target_latency=None)
    scans = ScanSettings(source.dialer, Scope(), 30.0, scan_type=True)
    return Plan(
        Job(_ENDPOINT, _ENDPOINT, engine="dask", dask_scheduler=scheduler, limits=limits),
        source,
        target,
        databases,
        tuple(Partition(n, nodes[n % NODES], 0, WholeSpan()) for n in range(walks)),
        Tuning(
            workers=walks,
            scanners=walks,
            partitions=8,
            scan_count=1000,
            batch_keys=_FOUND_KEYS,
            pipeline_keys=500,
            batches_in_flight=3,
        ),
        {"source": scans},
        SleepingSpec((source.dialer, target.dialer), (topology, topology)),
        "replace",
        0,
        (),
    )


def sleep(
    scheduler: str, pids: Sequence[int], walks: int, seconds: float, folder: Path
) -> Slept:
    """Let so many walks sleep for some seconds, with a ledger in the folder."""
    plan = with_writer(_plan(scheduler, walks), "sleeping")
    facts = Facts(plan.databases, Census(None, None), 0)
    each = [Walk(partition) for partition in plan.partitions]
    first = Update("running", 0.0, 0.0, facts, (), tuple(saved_walk(w, "") for w in each))
    record = JobRecord("sleeping", time.time(), plan.job, (0,), (), (), False, False)
    ledger = Ledger.create(folder / "sleeping.rumpx", record, first)
    ledger.begin(RunRecord(1, time.time(), "", "", ""), plan.job)
    control = Control()
    watcher = _Watcher(pids, walks, seconds, control)
    engine = Engine(plan, each, Silent(), control, watcher, DaskBackend(plan))
    watcher.saver, watcher.facts = Saver(plan, engine, ledger), facts
    try:
        engine.start()
        engine.state = "copying"
        watcher.started = time.monotonic()
        with suppress(Interrupted):
            engine.run_walks()
    finally:
        engine.close(orderly=engine.at_rest)
        ledger.close()
    begin, end = watcher.first, watcher.last
    assert begin and end
    return Slept(
        walks,
        begin.at - watcher.started,
        end.at - begin.at,
        end.reports - begin.reports,
        end.coordinator - begin.coordinator,
        end.scheduler - begin.scheduler,
        end.workers - begin.workers,
        engine.restarts,
    )


def main() -> None:
    scheduler, pids, walks, seconds = sys.argv[1:]
    with TemporaryDirectory() as folder:
        slept = sleep(
            scheduler, [*map(int, pids.split(","))], int(walks), float(seconds), Path(folder)
        )
    json.dump(asdict(slept), sys.stdout)


if __name__ == "__main__":
    main()
