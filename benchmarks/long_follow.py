"""Hours of a follow without servers: what they leave behind in memory and in the ledger.

    python -m benchmarks.long_follow CHANGES

follows so many changes of one source, about a thousand a second of a simulated clock, and writes a
Million for each million as JSON. All of the coordinator that sees a change is real: the set of
changed keys, the batches made of it, the walks that book them, the saver and the ledger. Only
names, acks and the passage of time are made up, as a busy source would make them:

- some keys are written all the time; now and then a script changes many keys at once;
- a few keys fail, are copied with a loss, are costly, or are deleted;
- every few minutes one batch takes two minutes;
- a pass is made every ten minutes, as after a gap.

Not simulated: the feed's thread, messages to workers, the display.
"""

from __future__ import annotations

import gc
import json
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

import psutil

from benchmarks.measure import MEGA, Failed
from benchmarks.sleeping import Silent, SleepingDialer, SleepingSpec
from rumpx.copier.saver import Saver
from rumpx.demo import SEED
from rumpx.engine.engine import Engine
from rumpx.engine.events import Found
from rumpx.engine.key_counts import Census
from rumpx.engine.local_backend import LocalBackend
from rumpx.engine.plan import Plan
from rumpx.follower.dirty_keys import MOST_DIRTY, DirtyKeys
from rumpx.follower.settler import Settler
from rumpx.ledger.ledger import Ledger, Update
from rumpx.ledger.schema import Facts, JobRecord
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Endpoint
from rumpx.model.follow import FollowFacts, FollowStat
from rumpx.model.history import RunRecord
from rumpx.model.job import Job
from rumpx.model.nodes import Node, Topology
from rumpx.model.partitions import PASS, NodeKeys, Partition, WholeSpan
from rumpx.model.results import KeyFailure, KeyLoss
from rumpx.model.tuning import Tuning
from rumpx.processes.control import Control
from rumpx.servers.info import ServerClock
from rumpx.servers.side import SideFacts
from rumpx.transfer.content_stats import Kinds
from rumpx.transfer.messages import Ack, Batch

_MILLION: Final = 1_000_000
_STEP_SECONDS: Final = 0.02
_CHANGES_A_STEP: Final = 20
_KEYS: Final = 200_000
_HOT_KEYS: Final = 20
_SCRIPT_KEYS: Final = 300_000
_SCRIPT_SECONDS: Final = 900.0
_PASS_SECONDS: Final = 600.0
_PASS_WALKS: Final = 16
_SLOW_SECONDS: Final = 120.0
_SLOW_EVERY: Final = 300.0
# One change in so many ends like that.
_HOT, _FAILED, _LOSSY, _HEAVY, _DELETED = 10, 5_000, 20_000, 10_000, 20
_HEAVY_BYTES: Final = 2_000_000
_KINDS: Final = Kinds({0: 1, 256: 75, 519: 1})
_ENDPOINT: Final = Endpoint("tcp", (("followed.example", 6379),))


@dataclass(frozen=True, slots=True)
class Million:
    """What is there after so many `changes`.

    Attributes:
        hours: simulated so far.
        memory: resident bytes of the whole process.
        rows, ledger: the ledger's rows and bytes.
        cpu: seconds for each of the last changes, the simulation's own included.
    """

    changes: int
    hours: float
    memory: int
    rows: int
    ledger: int
    cpu: float

    @property
    def told(self) -> str:
        """A sentence."""
        return (
            f"Simulated, after {self.changes:,} changes in {self.hours:.1f} h: "
            f"{self.memory / MEGA:.1f} MB, {self.rows:,} rows and {self.ledger / MEGA:.2f} MB of "
            f"ledger, {MEGA * self.cpu:.2f} us a change."
        )


def simulate(changes: int) -> list[Million]:
    """Simulate so many changes in a process of its own; at least one part is measured.

    Raises:
        Failed: it did not end well.
    """
    print(f"{changes:,} simulated changes", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.long_follow", str(changes)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"The simulation failed:\n{done.stderr[-2000:]}")
    return [Million(**told) for told in json.loads(done.stdout)]


class _Clock:
    """Stands in for `time.monotonic`."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


class _Source:
    """Makes changes, and acks."""

    def __init__(self) -> None:
        self._chance = random.Random(SEED)
        self._scripted = _SCRIPT_SECONDS
        self._slow_at = _SLOW_EVERY

    def names(self, elapsed: float) -> list[bytes]:
        """Return the names that are told in one step."""
        below = self._chance.random
        names = [
            b"hot:%d" % (below() * _HOT_KEYS)
            if below() < 1 / _HOT
            else b"a key of the source:%d" % (below() * _KEYS)
            for _ in range(_CHANGES_A_STEP)
        ]
        if elapsed > self._scripted:
            self._scripted += _SCRIPT_SECONDS
            names += [b"a key of the script:%d" % number for number in range(_SCRIPT_KEYS)]
        return names

    def seconds(self, elapsed: float) -> float:
        """Return how long a batch takes."""
        if elapsed > self._slow_at:
            self._slow_at += _SLOW_EVERY
            return _SLOW_SECONDS
        return 0.0

    def ack(self, batch: Batch) -> Ack:
        """Return the ack of a followed batch."""
        keys = batch.keys
        failures = [KeyFailure(batch.db, k, "NOPERM", "no") for k in self._some(keys, _FAILED)]
        deleted = len(self._some(keys, _DELETED))
        copied = len(keys) - len(failures) - deleted
        return Ack(
            batch.id,
            Counts(copied=copied, failed=len(failures), deleted=deleted),
            tuple(failures),
            kinds=_KINDS,
            losses=tuple(KeyLoss(batch.db, k, "field expiries") for k in self._some(keys, _LOSSY)),
            heavy=tuple((key, _HEAVY_BYTES) for key in self._some(keys, _HEAVY)),
        )

    def _some(self, keys: list[bytes], one_in: int) -> list[bytes]:
        """Return each key with this chance."""
        if self._chance.random() > len(keys) / one_in:
            return []
        return [self._chance.choice(keys)]


def _plan() -> Plan:
    node = Node(None)
    topology = Topology(False, (node,))
    source, target = (
        SideFacts(
            SleepingDialer(_ENDPOINT, side, 5.0, 30.0), topology, {}, ServerClock(0.0, 1e-3)
        )
        for side in ("source", "target")
    )
    return Plan(
        Job(_ENDPOINT, _ENDPOINT, follow=True),
        source,
        target,
        (NodeKeys(node, 0, _KEYS, "unknown"),),
        (Partition(0, node, 0, WholeSpan()),),
        Tuning(
            workers=2,
            scanners=2,
            partitions=8,
            scan_count=1000,
            batch_keys=1000,
            pipeline_keys=500,
            batches_in_flight=4,
        ),
        {},
        SleepingSpec((source.dialer, target.dialer), (topology, topology)),
        "replace",
        0,
        (),
    )


class _Follow:
    """The coordinator's parts of a follow, without a loop: its steps are called."""

    def __init__(self, folder: Path) -> None:
        plan = _plan()
        self._node = plan.source.topology.nodes[0]
        self._facts = Facts(plan.databases, Census(None, None), 0)
        record = JobRecord("long", time.time(), plan.job, (0,), (), (), False, False)
        first = Update("running", 0.0, 0.0, self._facts, (), ())
        self.ledger = Ledger.create(folder / "long.ledger", record, first)
        self.ledger.begin(RunRecord(1, time.time(), "", "", ""), plan.job)
        self._backend = LocalBackend(plan)
        nobody: Any = None  # the engine does not run
        self._engine = Engine(plan, [], Silent(), Control(), nobody, self._backend)
        self._saver = Saver(plan, self._engine, self.ledger)
        self.dirty = DirtyKeys(MOST_DIRTY)
        self._settler = Settler(self.dirty, (), (), self._saver.heal)
        self._settler.follow(self._engine.walks, self._node, 0)
        self._source = _Source()
        self._under_way: list[tuple[float, Batch]] = []
        self._passed = 0.0

    def step(self, now: float, elapsed: float) -> None:
        """Mark names, settle what has come back, give out batches, save if it is due."""
        self.dirty.mark(self._source.names(elapsed), now)
        back = [each for end, each in self._under_way if end <= now]
        self._under_way = [each for each in self._under_way if each[0] > now]
        for each in back:
            ack = self._source.ack(each)
            walk = self._engine.walks.acknowledged(ack)
            assert walk
            self._settler.acknowledged(walk, ack)
        while batch := self._settler.take(now):
            self._under_way.append((now + self._source.seconds(elapsed), batch))
        if elapsed > self._passed + _PASS_SECONDS:
            self._passed = elapsed
            self._pass()
        if self._saver.is_due(now):
            self._save(elapsed)

    def _pass(self) -> None:
        """Do the walks of a pass, at once."""
        walks, node = self._engine.walks, self._node
        walks.add(
            [
                Partition(0, node, 0, WholeSpan(), reason=PASS, work="compare")
                for _ in range(_PASS_WALKS)
            ]
        )
        self._settler.changed.clear()
        for walk in walks.starts(_PASS_WALKS):
            batch = walks.found(Found(walk.id, walk.number, None, [b"key"], 0))
            assert batch
            walks.walked(walk.id)
            walks.acknowledged(Ack(batch.id, Counts(equal=1)))

    def _save(self, elapsed: float) -> None:
        self._saver.recorder.see(self._engine.status(), elapsed)
        settler = self._settler
        sums = FollowFacts(1.0, self.dirty.marked, settler.settled, settler.deleted)
        stands = FollowStat("in step", "tracking", sums, lag=0.0, dirty=len(self.dirty))
        self._saver.save("running", replace(self._facts, followed=stands), elapsed)

    def close(self) -> None:
        """End all."""
        self.ledger.close()
        self._backend.pacer.close()


def _follow(changes: int, folder: Path) -> list[Million]:
    clock = _Clock()
    millions: list[Million] = []
    with patch("time.monotonic", clock), closing(_Follow(folder)) as follow:
        start, cpu, counted = clock.now, time.process_time(), 0
        while follow.dirty.marked < changes:
            clock.now += _STEP_SECONDS
            follow.step(clock.now, clock.now - start)
            if (made := follow.dirty.marked) >= min(changes, (len(millions) + 1) * _MILLION):
                used = (time.process_time() - cpu) / (made - counted)
                millions.append(_measured(made, clock.now - start, used, follow.ledger))
                cpu, counted = time.process_time(), made
    return millions


def _measured(changes: int, seconds: float, cpu: float, ledger: Ledger) -> Million:
    ledger.flush(60.0)
    with closing(sqlite3.connect(ledger.path)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        counts = [database.execute(f"SELECT count(*) FROM {name}").fetchone() for (name,) in tables]
        rows = sum(chain.from_iterable(counts))
    files = ledger.path.parent.glob(f"{ledger.path.name}*")
    gc.collect()
    memory = psutil.Process().memory_info().rss
    size = sum(file.stat().st_size for file in files)
    return Million(changes, seconds / 3600, memory, rows, size, cpu)


def main() -> None:
    with TemporaryDirectory() as folder:
        millions = _follow(int(sys.argv[1]), Path(folder))
    json.dump([asdict(each) for each in millions], sys.stdout)


if __name__ == "__main__":
    main()
