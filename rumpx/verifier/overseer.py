"""The comparison's overseer: walks both sides, re-checks mismatches, repairs them on request.

1. Compare every key of the source; check every key of the target for existence on the source.
   The walk over the target is left out if key counts prove that it would find nothing: no filter,
   nothing missing, no duplicate seen, and source, target and matched keys equally many.
2. Re-check each mismatch after one second. If it is the same mismatch of the same values, report
   it. If the values still change at the third look, or are equal now, the key is *changing*: a
   client writes it. Report an incomparable value at once, since another look cannot resolve it.
3. With a repair, in chunks: copy missing and different keys again; delete extras, if requested; and
   compare all of these once more.

Memory is bounded by the mismatches that wait for their second look, not by the number of all; plus
the names of up to two million keys each that differ or fail, to detect duplicates.

Not promised: that a key which changes more slowly than the pauses counts as changing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from rumpx.engine.engine import Engine
from rumpx.engine.fence import MEND_FENCE, UNFENCED
from rumpx.engine.key_counts import Census, take_census
from rumpx.engine.plan import Plan, key_partitions
from rumpx.engine.walks import Walk
from rumpx.errors import Interrupted, RumpxError, TemporaryError, TimeOver
from rumpx.model.counts import Counts
from rumpx.model.display import Display
from rumpx.model.nodes import Node
from rumpx.model.partitions import KeySpan
from rumpx.model.results import Back, Finding, KeyFailure
from rumpx.model.snapshot import Snapshot
from rumpx.model.verify_request import Request
from rumpx.processes.control import Control
from rumpx.remote.choice import backend_of
from rumpx.servers.replicas import other_dataset
from rumpx.servers.slot_watch import SlotWatch
from rumpx.transfer.messages import Ack
from rumpx.units import count_of
from rumpx.verifier.differences import NAMES_REMEMBERED, Findings, Line

Confirm = Callable[[str], bool]

_LOOK_AGAIN: Final = "re-checked"
_REPAIRED: Final = "repaired"
_DELETED: Final = "deleted"
_CHECKED: Final = "checked after the repair"
# Seconds between two looks; a key that is written less often counts as unchanged.
_PAUSE: Final = 1.0
_LOOKS: Final = 3
# Keys in one group of second looks; fewer after so many seconds.
_GROUP_KEYS: Final = 20_000
_GROUP_SECONDS: Final = 5.0
_FAILURES_KEPT: Final = 1_000

_Name = tuple[int, bytes]


@dataclass(slots=True)
class _Candidate:
    """A mismatch that was seen `looks` times."""

    finding: Finding
    looks: int
    seen: float


@dataclass(slots=True)
class Verdict:
    """The result so far; `incomparable` counts keys that a repair has copied."""

    back: Back = "not done"
    repaired: int = 0
    incomparable: Counter[str] = field(default_factory=Counter)
    failures: list[KeyFailure] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


class Verifier:
    """One comparison.

    Args:
        plan: the walks.
        tolerance: ms by which an expiry may seem to move between two looks.
        request: the options.
        findings: collects the differences.
        display, control: as for a copy.
        confirm: asks for permission to delete; None without a terminal.
    """

    def __init__(
        self,
        plan: Plan,
        tolerance: int,
        request: Request,
        findings: Findings,
        display: Display,
        control: Control,
        confirm: Confirm | None,
    ) -> None:
        self.verdict = Verdict()
        self._plan = plan
        self._tolerance = tolerance
        self._request = request
        self._findings = findings
        self._confirm = confirm
        self._display = display
        forward = [Walk(p) for p in plan.partitions if p.work == "compare"]
        self._backward = [Walk(p, state="held") for p in plan.partitions if p.work == "look for"]
        self.engine = Engine(
            plan,
            [*forward, *self._backward],
            display,
            control,
            self,
            backend_of(plan),
            job=request.name or "",
            verb="compared",
        )
        self._waiting: dict[_Name, _Candidate] = {}
        self._looked_at: dict[int, dict[_Name, _Candidate]] = {}
        self._found_again: dict[int, dict[_Name, Finding]] = {}
        self._unmended: set[_Name] = set()
        self._failed: set[_Name] = set()
        self._seconds = 0.0

    def run(self) -> None:
        """Compare everything.

        Raises:
            Interrupted: a stop was requested.
            RumpxError: the comparison ended early.
        """
        engine = self.engine
        watches = [SlotWatch(self._plan.source), SlotWatch(self._plan.target)]
        orderly = False
        try:
            self._compare(watches)
            if self._request.repair and self._findings.total:
                self._repair()
            if engine.fence:
                engine.ask(engine.fence.workers)
            engine.state, engine.note = "done", ""
            engine.tick(force=True)
            orderly = True
        except (Interrupted, TimeOver):
            raise
        except RumpxError:
            engine.give_up()
            raise
        finally:
            for watch in watches:
                watch.stop()
            engine.close(orderly=orderly)

    @property
    def seconds(self) -> float:
        """Return the time from the first SCAN to the last reply, without a repair."""
        return self._seconds or self.engine.elapsed

    def counts(self) -> Counts:
        """Return keys by final result; `copied` and `deleted` are repairs."""
        total = Counts()
        mended = Counts()
        failed = 0
        for reason, counts, _ in self.engine.walks.sums():
            failed += counts.failed
            if not reason:
                total += counts
            elif reason in (_REPAIRED, _DELETED):
                mended += counts
        kinds = self._findings.kinds
        return Counts(
            copied=mended.copied,
            deleted=mended.deleted,
            gone=total.gone,
            failed=failed,
            payload_bytes=total.payload_bytes,
            equal=total.equal,
            lossy=total.lossy,
            different=kinds["type"] + kinds["value"] + kinds["expiry"],
            missing=kinds["missing"],
            extra=kinds["extra"],
            changing=self._findings.changing,
            found=total.found,
            incomparable=self._findings.incomparable.total(),
        )

    # Events of the engine.

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Record a settled batch."""
        self._note_failures(walk, ack)
        if ack.late:
            self.unfenced([(walk.partition.db, key) for key in ack.late])
        partition = walk.partition
        now = time.monotonic()
        if partition.reason == _LOOK_AGAIN:
            found = self._found_again.setdefault(partition.id, {})
            found |= {(finding.db, finding.key): finding for finding in ack.findings}
        elif partition.reason == _CHECKED:
            for finding in ack.findings:
                if finding.kind == "incomparable":  # all that is comparable has been repaired
                    self.verdict.incomparable[finding.detail] += 1
                else:
                    self._unmended.add((finding.db, finding.key))
            self._unmended |= {(failure.db, failure.key) for failure in ack.failures}
        else:
            for finding in ack.findings:
                if finding.kind == "incomparable":
                    self._findings.add(finding)
                else:
                    self._waiting[finding.db, finding.key] = _Candidate(finding, 1, now)

    def unfenced(self, keys: Sequence[tuple[int, bytes]] | None) -> None:
        """Warn that earlier repairs may be applied late."""
        text = f"{UNFENCED} {MEND_FENCE}"
        if text not in self.engine.warnings:
            self.engine.warn(text)

    def _note_failures(self, walk: Walk, ack: Ack) -> None:
        """Record failures; a key that fails in every walk counts once."""
        known = 0
        for failure in ack.failures:
            name = failure.db, failure.key
            if name in self._failed:
                known += 1
                continue
            if len(self._failed) < NAMES_REMEMBERED:
                self._failed.add(name)
            self.verdict.reasons[failure.reason] += 1
            if len(self.verdict.failures) < _FAILURES_KEPT:
                self.verdict.failures.append(failure)
        walk.counts -= Counts(failed=known)

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """Warn that partitions are walked again from the start."""
        self.engine.warn(
            f"The node {node.label('that is compared')} restarted, failed over, or uses its own "
            f"cursors: {walks} partitions are compared again."
        )

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """Start second looks that are due."""
        if self.engine.state == "comparing":
            self._judge_finished()
            self._look_again(now, all_of_them=False)

    # Comparing.

    def _compare(self, watches: list[SlotWatch]) -> None:
        engine = self.engine
        before = engine.ask(lambda: take_census(self._plan))
        engine.start()
        if engine.fence:
            engine.ask(engine.fence.earlier_runs)
        engine.state = "comparing"
        self._run_walks()
        needed = self._walk_back_needed(before)
        self.verdict.back = "walked" if needed else "not needed"
        engine.note = "looking for keys that only the target has" if needed else ""
        engine.walks.decide(self._backward, needed=needed)
        self._run_walks()
        self._seconds = engine.elapsed
        self._refuse_moved_slots(watches)
        self._refuse_new_datasets()

    def _run_walks(self) -> None:
        """Run until everything is compared, second and third looks included."""
        engine = self.engine
        engine.run_walks()
        self._judge_finished()
        while self._waiting:
            engine.wait(0.05)
            self._look_again(time.monotonic(), all_of_them=True)
            engine.run_walks()
            self._judge_finished()

    def _walk_back_needed(self, before: Census) -> bool:
        plan, counts = self._plan, self.counts()
        after = self.engine.ask(lambda: take_census(plan))
        sides = before.source, after.source, before.target, after.target
        if plan.spec.scope.filtered or self._request.sample < 1.0 or None in sides:
            return True
        matched = counts.equal + counts.different + counts.incomparable
        known = {place.db for place in plan.reverse} <= set(plan.target_databases)
        clean = not (counts.missing or counts.changing or counts.gone or counts.failed)
        return not (known and clean and {side.keys for side in sides if side} == {matched})

    def _refuse_moved_slots(self, watches: list[SlotWatch]) -> None:
        """Refuse a result if slots moved: their keys may have been read twice or not at all."""
        for watch in watches:
            self.engine.ask(watch.poll)
            if moved := watch.take():
                raise TemporaryError(
                    f"{len(moved):,} slots moved during the comparison, so keys may have been "
                    "missed: run rumpx verify again when no slots are moving."
                )

    def _refuse_new_datasets(self) -> None:
        """Refuse a result if a replica was resynchronised: it may have lacked keys meanwhile."""
        for side in (self._plan.source, self._plan.target):
            for node in side.topology.nodes:
                if node.origin:
                    continue  # missing keys were checked on its primary
                now = self.engine.ask(partial(side.identity_now, node))
                if other_dataset(side.run_id(node.address), now):
                    where = node.label(str(side.dialer.endpoint))
                    raise TemporaryError(
                        f"The {side.dialer.side} at {where} is a replica that was resynchronised, "
                        "lost its primary or was promoted during the comparison, so keys may have "
                        "been missing meanwhile: run rumpx verify again."
                    )

    # Second looks.

    def _look_again(self, now: float, *, all_of_them: bool) -> None:
        due = [name for name, c in self._waiting.items() if now - c.seen >= _PAUSE]
        if not due:
            return
        waited = now - self._waiting[due[0]].seen
        if not all_of_them and len(due) < _GROUP_KEYS and waited < _GROUP_SECONDS:
            return
        for start in range(0, len(due), _GROUP_KEYS):
            self._begin_looks({n: self._waiting.pop(n) for n in due[start : start + _GROUP_KEYS]})

    def _begin_looks(self, group: dict[_Name, _Candidate]) -> None:
        plan, scope = self._plan, self._plan.spec.scope
        extra = [name for name, c in group.items() if c.finding.kind == "extra"]
        others = [name for name, c in group.items() if c.finding.kind != "extra"]
        partitions = key_partitions(
            plan.source.topology, others, reason=_LOOK_AGAIN, work="compare"
        ) + key_partitions(
            plan.target.topology,
            [(scope.target_db(db), key) for db, key in extra],
            reason=_LOOK_AGAIN,
            work="look for",
            side="target",
        )
        for walk in self.engine.walks.add(partitions):
            names = self._names(walk)
            self._looked_at[walk.partition.id] = {name: group[name] for name in names}

    def _names(self, walk: Walk) -> list[_Name]:
        """Return the source's names of a walk's keys."""
        partition = walk.partition
        assert isinstance(partition.span, KeySpan)
        db = partition.db
        if partition.side == "target":
            db = self._plan.spec.scope.source_db(db)
        return [(db, key) for key in partition.span.keys]

    def _judge_finished(self) -> None:
        """Judge finished second looks; not at an ack, since a walk may learn of its end later."""
        for number in list(self._looked_at):
            walk = self.engine.walks.get(number)
            if walk is None or walk.done:
                self._judge(number)
        self.engine.walks.retire()

    def _judge(self, number: int) -> None:
        """Judge all keys of a finished second look."""
        found = self._found_again.pop(number, {})
        for name, candidate in self._looked_at.pop(number).items():
            now = found.get(name)
            if name in self._failed:
                continue
            if now is None:
                self._findings.add(candidate.finding, changing=True)
            elif now.kind == "incomparable" or same_difference(
                candidate.finding, now, self._tolerance
            ):
                self._findings.add(now)
            elif candidate.looks + 1 < _LOOKS:
                self._waiting[name] = _Candidate(now, candidate.looks + 1, time.monotonic())
            else:
                self._findings.add(now, changing=True)

    # Repairs.

    def _repair(self) -> None:
        engine = self.engine
        engine.state = "copying"
        delete = self._may_delete()
        engine.note = "copying missing and different keys again"
        self.verdict.repaired = self._findings.rewrite(self._repair_chunks(delete))
        engine.note = ""

    def _may_delete(self) -> bool:
        extras = self._findings.kinds["extra"]
        if not (self._request.delete_extra and extras):
            return False
        if self._request.yes:
            return True
        if self._confirm is None:
            return False
        self.engine.note = "waiting for an answer"
        self.engine.tick(force=True)
        number = count_of(extras, "key")
        self._display.pause()
        try:
            leave = self._confirm(
                f"Delete {number} of the target that are not on the source?"
            )
        finally:
            self._display.go_on()
        self.engine.heed()
        return leave

    def _repair_chunks(self, delete: bool) -> Iterator[tuple[list[Line], set[_Name]]]:
        engine, plan, scope = self.engine, self._plan, self._plan.spec.scope
        source, target = plan.source.topology, plan.target.topology
        for lines in self._findings.chunks():
            copied = [(line.db, line.key) for line in lines if line.repairable]
            doomed = [(line.db, line.key) for line in lines if delete and line.kind == "extra"]
            there = [(scope.target_db(db), key) for db, key in doomed]
            engine.walks.add(
                key_partitions(source, copied, reason=_REPAIRED)
                + key_partitions(target, there, reason=_DELETED, work="delete", side="target")
            )
            engine.run_walks()
            self._unmended = set()
            engine.walks.add(
                # Deleted keys as well: the source may have them by now.
                key_partitions(source, copied + doomed, reason=_CHECKED, work="compare")
                + key_partitions(target, there, reason=_CHECKED, work="look for", side="target")
            )
            engine.run_walks()
            engine.walks.retire()
            yield lines, set(copied + doomed) - self._unmended


def same_difference(one: Finding, other: Finding, tolerance: int) -> bool:
    """Return True if two looks at a key saw the same, so no client wrote it in between.

    Expiries computed from remaining TTLs may seem to move by the tolerance.
    """
    still = all(
        abs(then - now) <= tolerance if then >= 0 and now >= 0 else then == now
        for then, now in zip(one.expiries, other.expiries, strict=True)
    )
    return one.kind == other.kind and one.prints == other.prints and still
