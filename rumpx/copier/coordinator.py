"""The overseer of a copy: has the engine settle every partition, then proves that it is complete.

1. A run that resumes first ends the connections that earlier runs left at the target (`fence`).
2. The engine copies all walks. Meanwhile the saver (`saver`) keeps the ledger up to date.
3. The checks (`checks`) may add walks, which are copied too, until no check adds any.

A copy that cannot succeed is stopped early: if all keys fail for one reason, more keys fail than
`--max-failures` allows, or the target's memory will not hold the rest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final

from rumpx.copier.checks import Checks
from rumpx.copier.late_writes import LateWrites
from rumpx.copier.saver import FAILURES_SHOWN, Saver
from rumpx.copier.target_memory import Growth, at_the_end, overflows
from rumpx.ctl.server import (
    AcceptDeletes,
    AcceptFailures,
    CancelCutover,
    CtlServer,
    Cutover,
    Pause,
    Request,
    Resume,
    Set,
)
from rumpx.engine.backend import Urgent
from rumpx.engine.engine import Engine
from rumpx.engine.plan import Plan
from rumpx.engine.sums import overall, walked
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk
from rumpx.errors import (
    Interrupted,
    PayloadIncompatible,
    RumpxError,
    TargetFull,
    TimeOver,
    TooManyFailures,
    UsageError,
)
from rumpx.ledger.ledger import Ledger
from rumpx.ledger.paths import ctl_path
from rumpx.ledger.schema import Facts, JobState
from rumpx.model.counts import Counts
from rumpx.model.display import Display
from rumpx.model.endpoint import format_address
from rumpx.model.history import RunRecord
from rumpx.model.limits import in_words, limits_with
from rumpx.model.nodes import Node
from rumpx.model.partitions import PASSING, RETRIED
from rumpx.model.results import KeyFailure, KeyLoss
from rumpx.model.snapshot import Snapshot
from rumpx.model.summary import Walked
from rumpx.model.timeline import Point
from rumpx.preflight.memory import beside, old_values
from rumpx.processes.control import Control
from rumpx.remote.choice import backend_of
from rumpx.remote.lease import LEASE_SECONDS
from rumpx.servers.info import ServerInfo
from rumpx.transfer.content_stats import Largest
from rumpx.transfer.messages import Ack
from rumpx.units import size

# So many refused payloads, and none accepted: the versions do not fit.
_HOPELESS_PAYLOADS: Final = 200
# The reasons of keys whose payloads the target cannot read: of any type, or of some.
_REFUSED: Final = "bad payload"
_UNREADABLE: Final = (_REFUSED, "no module", "unknown type")
# So many failures for one reason, and no key copied: the others would fail alike.
_HOPELESS_KEYS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run so far, for its Summary.

    Attributes:
        run: its record, with all that the coordinator knows: not its end, state, exit code and
            error, nor `left_behind`.
        facts: what the checks compare with.
        walked: the sums of all walks.
        points: the series of the job.
        failures: the first `FAILURES_SHOWN` failed keys.
    """

    run: RunRecord
    facts: Facts
    walked: Walked
    points: tuple[Point, ...]
    failures: tuple[KeyFailure, ...]


class Coordinator:
    """One run of one plan.

    Args:
        plan: the run's plan.
        walks: its partitions, at their start or where an earlier run ended.
        facts: as of the job's start, and as an earlier run left them.
        ledger: is kept up to date.
        display: receives Snapshots and sentences.
        control: asks for a stop.
        retired: sums of walks that earlier runs added.
        urgent: batches that precede those of the walks, if there are any.
    """

    def __init__(
        self,
        plan: Plan,
        walks: Sequence[Walk],
        facts: Facts,
        ledger: Ledger,
        display: Display,
        control: Control,
        retired: Mapping[RetiredAs, Retired] = NONE_RETIRED,
        urgent: Urgent | None = None,
    ) -> None:
        self._leased = facts.leased
        self._alone = False  # no earlier run can write any more
        self._plan = plan
        self._facts = facts
        self._ledger = ledger
        self._engine = Engine(
            plan,
            walks,
            display,
            control,
            self,
            backend_of(plan),
            retired=retired,
            seconds=ledger.earlier.seconds,
            job=ledger.record.name,
            urgent=urgent,
        )
        self._late = LateWrites(plan, self._engine)
        self._checks = Checks(plan, self._engine, facts, walks, retired, self._late)
        self._saver = Saver(plan, self._engine, ledger)
        self._settled_after = 0.0
        self._fraction_at_start = 0.0
        self._engine.largest = Largest(ledger.books.largest())
        self._ctl = CtlServer(ctl_path(ledger.path), self._execute, control.wake)

    def run(self, finish: Callable[[], None]) -> None:
        """Copy everything; `outcome` returns the result, then and at any time.

        Args:
            finish: the work that remains when all keys are there, before the job is done; it is
                repeated after a TemporaryError.

        Raises:
            Interrupted: a stop was requested.
            RumpxError: the run ended early.
        """
        engine = self._engine
        if trouble := self._ctl.start():
            engine.warn(trouble)
        self._fraction_at_start = engine.fraction
        self._checks.start()
        state: JobState = "failed"
        try:
            self._copy()
            engine.ask(finish)
            state = "done"
        except (Interrupted, TimeOver):
            state = "stopped"
            raise
        except RumpxError:
            engine.give_up()
            raise
        finally:
            self._checks.stop()
            self._ctl.close()
            landed = engine.at_rest and self._alone
            engine.close(orderly=state == "done")
            self._settled_after = self._seconds
            facts = replace(self._facts_at_end(state), landed=landed)
            written = self._saver.finish(state, facts, self._seconds)
            if not written and state != "done":
                engine.warn(str(self._saver.trouble()))
        if not written:
            raise self._saver.trouble()

    def _copy(self) -> None:
        engine = self._engine
        engine.start()
        if self._ledger.earlier.runs > 1:
            landed = self._facts.landed and not self._ledger.killed
            if self._leased and not landed:  # also if the run before this one was stopped here
                engine.note = "waiting for the lease of the last run's tasks to end"
                engine.wait(LEASE_SECONDS)
                engine.note = ""
            self._late.end_earlier_runs(landed=landed)
        self._alone, self._leased = True, self._plan.job.engine == "dask"
        self._walk()
        self._complete()
        self._refuse_hopeless(at_end=True)
        engine.ask(self._late.fence.workers)  # also those that were lost and not replaced
        engine.state = "done"
        engine.tick(force=True)

    def _walk(self) -> None:
        """Copy all walks."""
        self._engine.state = "copying"
        self._engine.run_walks()

    def _complete(self) -> None:
        """Prove that the copy is complete."""
        engine = self._engine
        self._settled_after = engine.elapsed
        engine.state = "checking"
        engine.rest()
        while self._checks.add_walks():
            engine.run_walks()

    def _facts_at_end(self, state: JobState) -> Facts:
        """Return the facts for the ledger, once nothing of this run can write any more."""
        return self._facts_now

    @property
    def _facts_now(self) -> Facts:
        return replace(self._checks.facts, leased=self._leased)

    @property
    def _seconds(self) -> float:
        """Return the seconds of all runs together: until the first time that all was settled."""
        return self._settled_after or self._engine.elapsed

    def outcome(self, run: RunRecord) -> Outcome:
        """Return the result so far, of this run of the job and those before.

        Args:
            run: this run's record, as of its start.
        """
        engine, checks = self._engine, self._checks
        walks, after = engine.walks, checks.after
        sums = list(walks.sums())
        counts = overall(sums)
        listed, trouble = self._saver.listed()
        reasons, losses = Counter(listed.by_reason), Counter(listed.losses)
        ahead = []
        saved = (walk for walk in walks if walk.partition.work not in PASSING)
        noted = chain.from_iterable(walk.frontier.ahead() for walk in saved)
        for note in filter(self._saver.stands, noted):
            if isinstance(note, KeyLoss):
                losses[note.what] += 1
            else:
                ahead.append(note)
        reasons.update(failure.reason for failure in ahead)
        failed = sum(each.failed for _, each, _ in sums)
        ended = replace(
            run,
            seconds=self._seconds,
            counts=replace(counts, failed=min(failed, max(reasons.total(), counts.failed))),
            failures_by_reason=dict(reasons.most_common()),
            losses=dict(losses.most_common()),
            source_keys_after=after.source.keys if after and after.source else None,
            target_keys_after=after.target.keys if after and after.target else None,
            missing=checks.missing,
            walked_again=dict(checks.walked_again),
            worker_restarts=engine.restarts,
            warnings=(*engine.warnings, *trouble),
        )
        return Outcome(
            ended,
            self._facts_now,
            walked(walks, walks.retired, sums, engine.largest),
            tuple(self._saver.recorder.points),
            tuple([*listed.failures, *ahead][:FAILURES_SHOWN]),
        )

    # Events of the engine.

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Record a settled batch."""
        if walk.done:
            self._saver.hurry()
        if ack.late:
            self.unfenced([(walk.partition.db, key) for key in ack.late])
        if not ack.failures or walk.partition.reason == RETRIED:
            return
        self._refuse_hopeless(at_end=False, example=ack.failures[0])

    def unfenced(self, keys: Sequence[tuple[int, bytes]] | None) -> None:
        """Copy keys again at the end, whose earlier writes may land late."""
        self._late.add(keys)

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """Warn that partitions are walked again from the start."""
        name = node.label(str(self._plan.job.source))
        if why == "node changed":
            self._checks.walked_again["the source's node changed"] += walks
            self._engine.warn(
                f"The source's node {name} restarted or failed over: {walks} partitions start over."
            )
        else:
            self._engine.warn(
                "The source's cursors are not those of a plain hash table, so it is walked by one "
                "cursor a node."
            )

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """Record the Snapshot, answer `rumpx ctl`, watch the target's memory, and save if due."""
        if snapshot.state != "starting":
            self._saver.recorder.see(snapshot, time.time())
        self._ctl.serve()
        self._refuse_overflow(snapshot.fraction)
        if self._saver.is_due(now):
            self._saver.save("running", self._facts_now, self._seconds)
        self._saver.heed_trouble(now)

    # Stopping a copy that cannot succeed.

    def _refuse_hopeless(self, *, at_end: bool, example: KeyFailure | None = None) -> None:
        counts = overall(self._engine.walks.sums())
        if not counts.failed:
            return
        self._refuse_many(counts, at_end=at_end)
        reasons = list(self._engine.reasons)
        if counts.copied or counts.repeated or counts.skipped or len(reasons) != 1:
            return
        many = reasons[0] == _REFUSED and counts.failed >= _HOPELESS_PAYLOADS
        if many or (at_end and reasons[0] in _UNREADABLE):
            raise PayloadIncompatible(
                f"The target ({self._plan.target.version}) cannot read the payloads that the "
                f"source ({self._plan.source.version}) writes, nor any that rumpx makes of them: "
                f"all {counts.failed:,} keys so far failed ({reasons[0]}). Copy to another target."
            )
        if counts.failed >= _HOPELESS_KEYS and example and not at_end:
            words = example.message.rstrip(".")
            raise TooManyFailures(
                f"All of the first {counts.failed:,} keys failed for one reason ({reasons[0]}): "
                f"{words}. The others would fail alike. Fix the cause, then resume."
            )

    def _refuse_many(self, counts: Counts, *, at_end: bool) -> None:
        most = self._plan.job.max_failures
        if most is not None and counts.failed > most and not at_end:
            raise TooManyFailures(
                f"{counts.failed:,} keys failed, and --max-failures allows {most:,}: stopped "
                "before the end."
            )

    def _refuse_overflow(self, fraction: float) -> None:
        """End the run before it fills the target."""
        engine, limit = self._engine, self._engine.governor.limits.max_target_memory
        if limit is None or all(walk.done for walk in engine.walks):
            return
        for used in engine.governor.used("target"):
            info = self._plan.target.infos.get(used.node[1])
            if info is None:
                continue
            old = self._old_values(info)
            growth = Growth(info.used_memory, used.memory, used.max_memory, old)
            if overflows(growth, self._fraction_at_start, fraction, limit):
                full = growth.now >= limit * growth.most
                end = at_the_end(growth, self._fraction_at_start, fraction)
                more = "" if full else f", and would need about {size(end)}"
                fewer = ""
                if old and not full:
                    more, fewer = more + beside(old), f", {self._plan.job.fewer_workers},"
                name = format_address(used.node[1]) if used.node[1] else str(self._plan.job.target)
                raise TargetFull(
                    f"The data will not fit: the target {name} uses {size(growth.now)} of its "
                    f"maxmemory of {size(growth.most)}{more}. Raise its maxmemory{fewer} or "
                    "set another --max-target-memory, then resume."
                )

    def _old_values(self, info: ServerInfo) -> int:
        """Return the bytes of old values that a target node may hold beside new ones, by the
        largest values that this job has met."""
        plan = self._plan
        if plan.on_conflict != "replace" or not self._facts.target_keys:
            return 0
        met = [large.size for large in self._engine.largest.top]
        return old_values(met, plan.tuning.workers, plan.job.stream_from, info.data_memory)

    # Requests of `rumpx ctl`.

    def _execute(self, request: Request) -> dict[str, Any]:
        governor = self._engine.governor
        match request:
            case Set():
                governor.limits = limits_with(governor.limits, request.changes)
            case Pause():
                governor.paused = True
            case Resume():
                governor.paused = False
            case AcceptDeletes() | AcceptFailures() | Cutover() | CancelCutover():
                raise UsageError("This job does not follow its source; start one with --follow.")
        self._engine.decide_anew()
        return self._status()

    def _status(self) -> dict[str, Any]:
        """Return the answer to `rumpx ctl JOB status`."""
        now, governor = self._engine.status(), self._engine.governor
        held = now.held
        return {
            "state": now.state,
            "job": now.job,
            "fraction": now.fraction,
            "copied": now.counts.copied,
            "keys_per_second": now.keys_per_second,
            "bytes_per_second": now.bytes_per_second,
            "eta": now.eta,
            "reason": held.reason,
            "paused": governor.paused,
            "workers": len(now.workers),
            "machines": {machine.host: machine.workers for machine in now.machines},
            "limits": in_words(governor.limits),
            "source_latency_ms": held.source_latency and 1e3 * held.source_latency,
            "target_latency_ms": held.target_latency and 1e3 * held.target_latency,
        }
