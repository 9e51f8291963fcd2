"""The copy's coordinator: has the engine settle every partition, proves it, and keeps the ledger.

Before a run that resumes writes anything, it ends what earlier runs left at the target (`fence`).

When all walks are settled come the checks, each of which may add walks, whereupon it all goes on:
keys of which an earlier write could not be kept from landing late, if there are any,
replicas that were read and are not what they were, slots of the source that moved, nodes of the
target whose process changed (`watch`), and the count of keys: if the target has fewer than churn
explains, each node is walked once more with one plain cursor.

Twice a second, and at each partition's end, the books go to the ledger: for each walk the cursor up
to which all is settled and what the keys before it came to, and what the checks rest on. All of it
is of one moment, so that a run which goes on from there does what this one had still to do.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, starmap
from typing import Any, Final

from rumpx.copier.target_memory import Growth, at_the_end, overflows
from rumpx.ctl.server import CtlServer, Pause, Request, Resume, Set
from rumpx.engine.engine import Engine
from rumpx.engine.fence import LATE_SECONDS, MEND_FENCE, UNFENCED, Fence
from rumpx.engine.key_counts import Census, Tally, count_shown, missing_keys, take_census
from rumpx.engine.plan import Plan, key_partitions
from rumpx.engine.progress import copied_content, overall, partition_summary, retired_summary
from rumpx.engine.scanner import read_identity
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk
from rumpx.errors import (
    Interrupted,
    PayloadIncompatible,
    RumpxError,
    Side,
    TargetFull,
    TargetUnusable,
    TemporaryError,
    TimeOver,
    TooManyFailures,
    UsageError,
)
from rumpx.ledger.ledger import Ledger, Update
from rumpx.ledger.paths import ctl_path
from rumpx.ledger.schema import (
    Facts,
    JobState,
    LedgerFailure,
    SavedNode,
    SavedWalk,
    open_books,
)
from rumpx.model.content import Content
from rumpx.model.counts import Counts
from rumpx.model.display import Display
from rumpx.model.endpoint import Address, format_address
from rumpx.model.limits import in_words, limits_with
from rumpx.model.nodes import Node, Topology
from rumpx.model.partitions import LATE, RETRIED, KeySpan, Partition, SlotSpan, WholeSpan
from rumpx.model.results import KeyFailure, PartitionSummary
from rumpx.model.snapshot import Snapshot
from rumpx.model.timeline import Recorder, held_seconds
from rumpx.preflight.look import may_be_balanced, refuse_balancer
from rumpx.processes.control import Control
from rumpx.servers.replicas import other_dataset
from rumpx.servers.slot_watch import SlotWatch, TargetRun, suspect_slots, target_runs
from rumpx.servers.topology import heir
from rumpx.transfer.content_stats import Largest
from rumpx.transfer.messages import Ack
from rumpx.units import size

FAILURES_SHOWN: Final = 100_000
# So many refused payloads and not one accepted: it is the version, not the keys.
_HOPELESS_PAYLOADS: Final = 200
# So many failures for one reason and not one key copied: it would go on like that.
_HOPELESS_KEYS: Final = 1_000
_MOST_SUSPICIONS: Final = 10
# How often one slot may be found to have moved. A resharding moves many, but each of them once.
_MOST_MOVES: Final = 10
# Keys that may be written late and are remembered by name; of more, all keys are copied again.
_MOST_LATE: Final = 500_000
_PAUSE: Final = 0.5
# How often, with `_PAUSE` between, we look whether a slot's migration has ended.
_MIGRATION_POLLS: Final = 20
_SAVE_SECONDS: Final = 0.5
_LAST_SAVE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, for the Summary."""

    seconds: float
    counts: Counts
    failures: tuple[KeyFailure, ...]
    failures_by_reason: dict[str, int]
    partitions: tuple[PartitionSummary, ...]
    walked_again: dict[str, int]
    before: Census
    after: Census | None
    missing: int | None
    restarts: int
    warnings: tuple[str, ...]
    held_seconds: dict[str, float]
    content: Content


def first_facts(plan: Plan) -> Facts:
    """What the checks at the end compare with, as it is before the first write.

    Raises:
        ConnectionLost: a primary does not answer.
    """
    target = plan.target
    return Facts(
        plan.databases,
        take_census(plan),
        plan.target_keys,
        target_runs(target.dialer, target.topology),
    )


class Coordinator:
    """One run of one plan.

    Args:
        plan: what to do.
        walks: its partitions, begun anew or where an earlier run ended.
        facts: as found at the job's start, and as left by an earlier run.
        ledger: is kept up to date.
        display: is shown Snapshots and sentences.
        control: is looked at for a wish to stop.
        retired: sums of walks that earlier runs added.
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
    ) -> None:
        self._plan = plan
        self._facts = facts
        self._ledger = ledger
        self._engine = Engine(
            plan,
            walks,
            display,
            control,
            self,
            retired=retired,
            seconds=ledger.earlier.seconds,
            job=ledger.record.name,
        )
        self._watch: SlotWatch | None = None
        self._saved: dict[int, SavedWalk] = {}
        self._save_due = 0.0
        self._walked_again: Counter[str] = Counter(
            walk.partition.reason
            for walk in walks
            if walk.partition.reason and walk.partition.reason != RETRIED
        )
        self._seconds = 0.0
        self._after: Census | None = None
        self._missing: int | None = None
        self._grace = _MIGRATION_POLLS
        self._suspicions = 0
        self._moves: Counter[int] = Counter()
        self._replicas_lost: Counter[tuple[Side, Address | None]] = Counter()
        self._late = 0
        self._late_due = 0.0
        self._begun_at = 0.0
        self._recorder = Recorder(
            ledger.earlier.runs,
            ledger.books.points(),
            ledger.earlier.seconds,
            sum((counts for _, counts, _ in self._engine.walks.sums()), Counts()),
        )
        self._engine.largest = Largest(ledger.books.largest())
        self._ctl = CtlServer(ctl_path(ledger.path), self._told, control.wake)

    def run(self, finish: Callable[[], None]) -> None:
        """Copy everything; `outcome` tells, then and at any time, what was copied.

        Args:
            finish: what remains to be done when all keys are there, before the job is done.

        Raises:
            Interrupted: asked to stop.
            RumpxError: something ended the run early.
        """
        engine, facts = self._engine, self._facts
        if not any(run_id for _, _, run_id in facts.target_runs):
            engine.warn(
                "The target does not tell its run_id: if it restarts during the copy, keys that "
                "it lost then are not noticed."
            )
        if trouble := self._ctl.start():
            engine.warn(trouble)
        self._begun_at = engine.fraction
        self._watch = SlotWatch(self._plan.source, facts.owners, facts.disturbed)
        state: JobState = "failed"
        try:
            self._copy()
            engine.meanwhile(finish)
            state = "done"
        except (Interrupted, TimeOver):
            state = "stopped"
            raise
        except RumpxError:
            engine.give_up()
            raise
        finally:
            self._watch.stop()
            self._ctl.close()
            landed = engine.at_rest
            engine.close(orderly=state == "done")
            self._seconds = self._seconds or engine.elapsed
            self._recorder.finish(time.time())
            self._facts = replace(self._facts, landed=landed)
            self._save(state)
            written = self._ledger.flush(_LAST_SAVE_SECONDS)
            if not written and state != "done":
                engine.warn(str(self._ledger_trouble()))
        if not written:
            raise self._ledger_trouble()

    def outcome(self) -> Outcome:
        """What was done so far, by this run of the job and those before."""
        walks = self._engine.walks
        counts = overall(walks.sums())
        ahead = [failure for walk in walks for failure in walk.frontier.ahead()]
        reasons, listed, trouble = self._booked_failures()
        reasons.update(failure.reason for failure in ahead)
        shown = [*listed, *ahead][:FAILURES_SHOWN]
        failed = sum(each.failed for _, each, _ in walks.sums())
        return Outcome(
            seconds=self._seconds or self._engine.elapsed,
            counts=replace(counts, failed=min(failed, max(reasons.total(), counts.failed))),
            failures=tuple(shown),
            failures_by_reason=dict(reasons.most_common()),
            partitions=(
                *(partition_summary(w.partition, w.counts, w.done) for w in walks),
                *starmap(retired_summary, walks.retired.items()),
            ),
            walked_again=dict(self._walked_again),
            before=self._facts.before,
            after=self._after,
            missing=self._missing,
            restarts=self._engine.restarts,
            warnings=(*self._engine.warnings, *trouble),
            held_seconds=held_seconds(self._recorder.points),
            content=copied_content(walks.sums(), self._engine.largest),
        )

    def _booked_failures(self) -> tuple[Counter[str], list[KeyFailure], list[str]]:
        """By reason, some of them, and why not if they cannot be read: a copy that is done stays
        done, though its ledger is lost."""
        try:
            with open_books(self._ledger.path) as books:
                listed = [each.failure for each in islice(books.failures(), FAILURES_SHOWN)]
                return Counter(books.failures_by_reason()), listed, []
        except UsageError as error:
            return Counter(), [], [f"The failed keys cannot be told: {error}"]

    def _copy(self) -> None:
        engine = self._engine
        engine.start()
        if self._ledger.earlier.runs > 1:
            self._end_earlier_runs()
        engine.state = "copying"
        engine.run_walks()
        self._seconds = engine.elapsed
        engine.state = "checking"
        engine.rest()
        while self._checks_add_walks():
            engine.run_walks()
        self._refuse_hopeless(at_end=True)
        engine.ask(self._fence.workers)  # also what they lost and did not replace
        engine.state = "done"
        engine.tick(force=True)

    # What the engine tells.

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """A batch is settled."""
        if walk.done:
            self._save_due = 0.0
        if ack.late:
            self.unfenced([(walk.partition.db, key) for key in ack.late])
        if not ack.failures or walk.partition.reason == RETRIED:
            return
        self._refuse_hopeless(at_end=False, example=ack.failures[0])

    def unfenced(self, keys: Sequence[tuple[int, bytes]]) -> None:
        """Earlier writes of these keys may land late: copy them again at the end."""
        topology = self._plan.source.topology
        walks = key_partitions(topology, keys, reason=LATE)
        self._late += len(keys)
        if self._late > _MOST_LATE:
            walks = []
            if self._late - len(keys) <= _MOST_LATE:
                walks = [
                    Partition(0, place.node, place.db, WholeSpan(), reason=LATE)
                    for place in self._plan.databases
                ]
        self._copy_late(walks)

    def _copy_late(self, partitions: Iterable[Partition]) -> None:
        """Copy these again when all else is done. (Without REPLACE a late write of ours is refused
        wherever there is a newer value.)"""
        replaces = self._plan.on_conflict == "replace"
        again = " The keys concerned are copied again at the end." if replaces else ""
        text = f"{UNFENCED}{again} {MEND_FENCE}"
        if text not in self._engine.warnings:
            self._engine.warn(text)
        if replaces:
            self._late_due = time.monotonic() + LATE_SECONDS
            self._engine.walks.add(partitions, held=True)

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """Partitions are walked anew."""
        name = node.label(str(self._plan.job.source))
        if why == "node changed":
            self._walked_again["the source's node changed"] += walks
            self._engine.warn(
                f"The source's node {name} restarted or failed over: {walks} partitions start over."
            )
        else:
            self._engine.warn(
                "The source's cursors are not those of a plain hash table, so it is walked by one "
                "cursor a node."
            )

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """Record the Snapshot, answer `rumpx ctl`, look at the target's memory, leave the books to
        the ledger if that is due, and see whether it can be written."""
        if snapshot.state != "starting":
            self._recorder.see(snapshot, time.time())
        self._ctl.serve()
        self._refuse_overflow(snapshot.fraction)
        if now >= self._save_due:
            self._save_due = now + _SAVE_SECONDS
            self._save("running")
        trouble = self._ledger.trouble
        if trouble:
            self._engine.note = f"the ledger cannot be written: {trouble}"
            since = self._ledger.trouble_since
            if self._engine.state == "copying" and now - since > self._plan.job.retry_for:
                raise self._ledger_trouble()
        elif self._engine.note.startswith("the ledger"):
            self._engine.note = ""

    def _ledger_trouble(self) -> TemporaryError:
        since = time.strftime("%H:%M:%S", time.localtime(self._ledger.saved))
        return TemporaryError(
            f"The ledger {self._ledger.path} cannot be written: {self._ledger.trouble}. It stands "
            f"as of {since}. Make room, and go on from there."
        )

    # Stopping where it makes no sense to go on.

    def _refuse_hopeless(self, *, at_end: bool, example: KeyFailure | None = None) -> None:
        counts = overall(self._engine.walks.sums())
        if not counts.failed:
            return
        self._refuse_many(counts, at_end=at_end)
        reasons = list(self._engine.reasons)
        if counts.copied or counts.repeated or counts.skipped or len(reasons) != 1:
            return
        if reasons[0] == "bad payload" and (at_end or counts.failed >= _HOPELESS_PAYLOADS):
            raise PayloadIncompatible(
                f"The target ({self._plan.target.version}) cannot read the payloads that the "
                f"source ({self._plan.source.version}) writes: all {counts.failed:,} keys so far "
                "were refused. A payload loads only into the same or a newer version; copy to a "
                "newer target."
            )
        if counts.failed >= _HOPELESS_KEYS and example and not at_end:
            words = example.message.rstrip(".")
            raise TooManyFailures(
                f"All of the first {counts.failed:,} keys failed for one reason ({reasons[0]}): "
                f"{words}. It would be so for the others; mend that, and go on."
            )

    def _refuse_many(self, counts: Counts, *, at_end: bool) -> None:
        most = self._plan.job.max_failures
        if most is not None and counts.failed > most and not at_end:
            raise TooManyFailures(
                f"{counts.failed:,} keys failed, and --max-failures allows {most:,}: stopped "
                "before the end."
            )

    def _refuse_overflow(self, fraction: float) -> None:
        """Never fill the target: end before that."""
        engine, limit = self._engine, self._engine.governor.limits.max_target_memory
        if limit is None or engine.walks.all_settled:
            return
        for used in engine.governor.used("target"):
            info = self._plan.target.infos.get(used.node[1])
            if info is None:
                continue
            growth = Growth(info.used_memory, used.memory, used.max_memory)
            if overflows(growth, self._begun_at, fraction, limit):
                full = growth.now >= limit * growth.most
                end = at_the_end(growth, self._begun_at, fraction)
                more = "" if full else f", and would need about {size(end)}"
                name = format_address(used.node[1]) if used.node[1] else str(self._plan.job.target)
                raise TargetFull(
                    f"The data will not fit: the target {name} uses {size(growth.now)} of its "
                    f"maxmemory of {size(growth.most)}{more}. Enlarge it, and go on; or choose "
                    "another --max-target-memory."
                )

    # What `rumpx ctl` asks.

    def _told(self, request: Request) -> dict[str, Any]:
        governor = self._engine.governor
        match request:
            case Set():
                governor.limits = limits_with(governor.limits, request.changes)
            case Pause():
                governor.paused = True
            case Resume():
                governor.paused = False
        self._engine.decide_anew()
        return self._status()

    def _status(self) -> dict[str, Any]:
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
            "limits": in_words(governor.limits),
            "source_latency_ms": held.source_latency and 1e3 * held.source_latency,
            "target_latency_ms": held.target_latency and 1e3 * held.target_latency,
        }

    # The books.

    def _save(self, state: JobState) -> None:
        walks = []
        failures: list[LedgerFailure] = []
        settled: list[tuple[int, bytes]] = []
        for walk in self._engine.walks:
            saved = saved_walk(walk, self._engine.run_ids.get(walk.partition.place, ""))
            before = self._saved.get(saved.partition.id)
            if saved == before:
                continue
            self._saved[saved.partition.id] = saved
            walks.append(saved)
            number = saved.partition.id, walk.number
            failures += [LedgerFailure(f, *number) for f in walk.frontier.take_failures()]
            settled += _tried_again(saved, before.cursor if before else walk.cursor)
        gone = tuple(walk.name for walk in self._engine.walks.retire())
        for partition, _ in gone:
            del self._saved[partition]
        if self._watch:
            owners, disturbed = self._watch.books()
            self._facts = replace(self._facts, owners=owners, disturbed=disturbed)
        anew, points = self._recorder.take()
        self._ledger.save(
            Update(
                state=state,
                fraction=self._engine.fraction,
                seconds=self._seconds or self._engine.elapsed,
                facts=self._facts,
                nodes=saved_nodes(self._plan, self._engine),
                walks=tuple(walks),
                failures=tuple(failures),
                settled=tuple(settled),
                gone=gone,
                retired=dict(self._engine.walks.retired) if gone else None,
                limits=self._engine.governor.limits,
                largest=self._engine.largest.top,
                points=points,
                anew=anew,
            )
        )

    # Earlier runs.

    @property
    def _fence(self) -> Fence:
        assert self._engine.fence
        return self._engine.fence

    def _end_earlier_runs(self) -> None:
        """End their connections, before anything is written. Where that is refused, what they had
        under way is in what is not walked yet: it is walked twice."""
        engine = self._engine
        engine.note = "ending connections of an earlier run"
        until = time.monotonic() + LATE_SECONDS
        while (left := engine.ask(self._fence.earlier_runs)) == "some":
            if time.monotonic() > until:
                break
            engine.wait(_PAUSE)
        engine.note = ""
        if left == "nothing" or (self._facts.landed and not self._ledger.killed):
            return
        unfinished = [walk for walk in engine.walks if not walk.done]
        for walk in unfinished:
            if walk.partition.reason == LATE:
                engine.walks.hold(walk)
        self._copy_late(
            replace(walk.partition, reason=LATE) for walk in unfinished if walk.state != "held"
        )

    # The checks.

    def _checks_add_walks(self) -> bool:
        self._refuse_balancers()
        return (
            self._check_late()
            or self._check_replicas()
            or self._check_slots()
            or self._check_target()
            or self._check_completeness()
        )

    def _refuse_balancers(self) -> None:
        """A worker's connection may have led to another server than the walk's, where a key was
        gone, or where it was written in vain."""
        for side in (self._plan.source, self._plan.target):
            if may_be_balanced(side.dialer, side.topology):
                self._engine.ask(partial(refuse_balancer, side.dialer))

    def _add_walks(self, partitions: Iterable[Partition], *, in_order: bool = False) -> bool:
        added = self._engine.walks.add(partitions, in_order=in_order)
        self._walked_again.update(walk.partition.reason for walk in added)
        return bool(added)

    def _check_late(self) -> bool:
        """Keys of which an earlier write may have landed late."""
        engine = self._engine
        if not any(walk.state == "held" for walk in engine.walks):
            return False
        engine.note = "waiting for writes that may land late"
        engine.wait(self._late_due - time.monotonic())
        engine.note = ""
        held = [walk for walk in engine.walks if walk.state == "held"]
        self._walked_again[LATE] = len(held)
        engine.walks.decide(held, needed=True)
        return True

    def _check_replicas(self) -> bool:
        """Replicas that were lost, emptied or promoted: workers may have found keys gone there that
        were not, after the walks that named them had ended."""
        engine = self._engine
        now, identities = engine.ask(self._identities_now)
        lost = set()
        for place, node in engine.walks.read.items():
            before, after = engine.run_ids.get(place, ""), identities.get(place[1], "")
            if other_dataset(before, after) or (node.origin and before != after):
                lost.add(place)
        if not lost:
            return False
        self._replicas_lost.update(lost)
        if max(self._replicas_lost.values()) > _MOST_SUSPICIONS:
            raise TemporaryError(
                f"A replica of the source restarted, failed over or was filled anew "
                f"{_MOST_SUSPICIONS} times during the copy. Resume it when that is over."
            )
        engine.warn(
            f"{len(lost)} replicas of the source restarted, failed over or were filled anew: what "
            "was read there is read again."
        )
        heirs = set()
        for place in lost:
            node = heir(now, engine.walks.read[place])
            engine.run_ids["source", node.address] = identities.get(node.address, "")
            engine.walks.moved(place, node)
            heirs.add(node)
        return self._add_walks(
            Partition(0, node, db, WholeSpan(), reason="the source's replica changed")
            for node in heirs
            for db in sorted({place.db for place in self._plan.databases})
        )

    def _identities_now(self) -> tuple[Topology, dict[Address | None, str]]:
        """Where the source is read now, and who answers there."""
        topology = self._topology_now()
        identities = {}
        for node in topology.nodes:
            connection = self._plan.source.dialer.connect(node.address)
            try:
                identities[node.address] = read_identity(connection, node)
            finally:
                connection.close()
        return topology, identities

    def _topology_now(self) -> Topology:
        return self._plan.source.topology_now(
            {address for _, address in self._engine.walks.read}
        )

    def _places_of(self, primaries: Iterable[Node]) -> list[Node]:
        """Where the source's primaries are to be read, in the same order."""
        if self._plan.source.dialer.read_from == "primary":
            return list(primaries)
        places = {node.primary: node for node in self._engine.ask(self._topology_now).nodes}
        return [places.get(node.address, node) for node in primaries]

    def _check_slots(self) -> bool:
        """Slots of the source that moved, or were marked, since they were walked."""
        engine, watch = self._engine, self._watch
        assert watch
        seen = engine.ask(watch.poll)
        disturbed = watch.take()
        if seen is None or not disturbed:
            return False
        if seen.marked and self._grace > 0:
            # Wait for migrations to end, for a while; then walk both their nodes.
            self._grace -= 1
            engine.note = f"waiting for {len(seen.marked)} slots to finish their migration"
            watch.put_back()
            engine.wait(_PAUSE)
            return True
        engine.note = ""
        self._moves.update(disturbed)
        if (moves := max(self._moves.values())) > _MOST_MOVES:
            raise TemporaryError(
                f"Slots of the source moved {moves} times during the copy, so that it does not "
                "come to an end. Resume it when the cluster has come to rest."
            )
        watch.excuse(seen.marked)
        engine.warn(f"{len(disturbed)} slots moved on the source; their keys are walked again.")
        dbs = sorted({place.db for place in self._plan.databases})
        nodes = self._places_of(seen.takers_last())
        watch.settled()  # with the walks, which the next save has
        return self._add_walks(
            (
                Partition(0, node, db, span, slots=disturbed, reason="slots moved")
                for node in nodes
                for db in dbs
                for span in self._spans_for(disturbed)
            ),
            in_order=bool(seen.marked),
        )

    def _spans_for(self, slots: frozenset[int]) -> list[WholeSpan | SlotSpan]:
        """What to walk on a node to see some slots: just those where the cursor allows it."""
        schemes = {place.scheme for place in self._plan.databases}
        if schemes != {"slots"}:
            return [WholeSpan()]
        spans: list[WholeSpan | SlotSpan] = []
        for slot in sorted(slots):
            last = spans[-1] if spans else None
            if isinstance(last, SlotSpan) and last.high == slot:
                spans[-1] = SlotSpan(last.low, slot + 1)
            else:
                spans.append(SlotSpan(slot, slot + 1))
        return spans

    def _check_target(self) -> bool:
        """Nodes of the target whose process is another one than at the start."""
        engine = self._engine
        now = engine.ask(self._target_runs)
        suspect = suspect_slots(self._facts.target_runs, now)
        if suspect is not None and not suspect:
            return False
        self._suspicions += 1
        if self._suspicions > _MOST_SUSPICIONS:
            raise TargetUnusable(
                f"The target restarted or failed over {_MOST_SUSPICIONS} times during the copy; "
                "what it kept cannot be told. Find out why, and go on."
            )
        what = "The target" if suspect is None else "A node of the target"
        held = engine.ask(lambda: take_census(self._plan)).target
        lost = self._lost_by_count(held)
        if suspect is None and held and not held.keys:
            engine.warn(
                f"{what} restarted and is empty: it lost what was copied, so all of it is copied "
                "again. Does it save its data?"
            )
        else:
            engine.warn(
                f"{what} restarted or failed over: an acknowledgement from before does not prove "
                "that it kept the keys, so they are walked again."
                + (f" It holds {lost:,} keys fewer than it acknowledged." if lost else "")
            )
        again = self._all_again("the target's node changed", suspect)
        # Only now: the ledger is saved also while we ask, and it must not know the new process
        # before it knows the walks.
        self._facts = replace(self._facts, target_runs=now)
        return self._add_walks(again)

    def _lost_by_count(self, held: Tally | None) -> int:
        """Keys that the target acknowledged and does not have, where their number tells."""
        before = self._facts.before.target
        if not held or not before or before.keys:
            return 0
        counts = overall(self._engine.walks.sums())
        return max(0, counts.copied - held.keys)

    def _all_again(self, reason: str, slots: frozenset[int] | None) -> list[Partition]:
        nodes = self._engine.ask(self._source_nodes)
        return [
            Partition(0, node, db, WholeSpan(), slots=slots, reason=reason)
            for db in sorted({place.db for place in self._plan.databases})
            for node in nodes
        ]

    def _source_nodes(self) -> tuple[Node, ...]:
        return self._topology_now().nodes

    def _target_runs(self) -> tuple[TargetRun, ...]:
        target = self._plan.target
        return target_runs(target.dialer, target.topology_now())

    def _check_completeness(self) -> bool:
        """If the target holds fewer keys than it should, walk the source once more."""
        engine, plan, before = self._engine, self._plan, self._facts.before
        self._after = engine.ask(lambda: take_census(self._plan))
        counts = overall(engine.walks.sums())
        self._missing = missing_keys(plan, before, self._after, counts)
        again = self._all_again("keys missing", None) if self._missing else []
        if self._missing and self._after.source:
            # Of those that the source counts, some may have expired.
            settings = plan.scans["source"]
            shown = engine.ask_at_length(lambda gate: count_shown(settings, gate, again))
            if shown is not None:
                self._missing = max(0, self._missing - max(0, self._after.source.keys - shown))
        if evicted := _evicted(before, self._after):
            engine.warn(
                f"The target evicted {evicted:,} keys during the copy, of these or of others: its "
                "memory is too small. Enlarge it, and copy again or verify with --repair."
            )
        if not self._missing:
            return False
        if self._facts.counted_again:
            engine.warn(
                f"The target holds {self._missing:,} keys fewer than it should, also after a "
                "second walk of the source. Does it evict, or do others delete there?"
            )
            return False
        engine.warn(
            f"The target holds {self._missing:,} keys fewer than it should: the source is walked "
            "once more by one plain cursor a node."
        )
        self._facts = replace(self._facts, counted_again=True)
        return self._add_walks(again)


def saved_walk(walk: Walk, run_id: str) -> SavedWalk:
    """A walk for the ledger; `run_id` is of the process that is walked."""
    frontier = walk.frontier
    return SavedWalk(
        walk.partition,
        walk.number,
        frontier.cursor,
        run_id,
        walk.done,
        frontier.counts,
        walk.after,
        frontier.kinds,
    )


def _evicted(before: Census, after: Census) -> int:
    if not (before.target and after.target):
        return 0
    return max(0, after.target.evicted - before.target.evicted)


def _tried_again(saved: SavedWalk, start: int) -> list[tuple[int, bytes]]:
    """Keys that failed in an earlier run and have been settled since the cursor was at `start`."""
    partition = saved.partition
    if partition.reason != RETRIED or not isinstance(partition.span, KeySpan):
        return []
    return [(partition.db, key) for key in partition.span.keys[start : saved.cursor]]


def saved_nodes(plan: Plan, engine: Engine) -> tuple[SavedNode, ...]:
    """Every server as last seen."""
    nodes = []
    for facts in (plan.source, plan.target):
        side = facts.dialer.side
        ids = {node.address: node.id for node in facts.topology.nodes}
        for address, info in facts.infos.items():
            nodes.append(
                SavedNode(
                    side,
                    format_address(address) if address else "",
                    ids.get(address, ""),
                    engine.run_ids.get((side, address), ""),
                    info.role if info else "",
                )
            )
    return tuple(nodes)
