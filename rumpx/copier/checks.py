"""The checks at the end of a copy: prove that it is complete, or add walks that make it so.

Each time all walks are settled, in this order, until none adds walks:

1. Late writes: keys whose earlier write may have landed after a newer one (`late_writes`).
2. Replicas: those that were read and have changed since are read again.
3. Slots: those of the source that moved, or were in migration, are walked again (`slot_watch`).
4. The target's processes: where one changed, the acknowledged keys are walked again.
5. Key counts: if the target has fewer keys than churn explains, walk each node once more with one
   plain cursor (`key_counts`).

Not promised: see the modules of the single checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from rumpx.copier.late_writes import LateWrites
from rumpx.engine.engine import Engine
from rumpx.engine.key_counts import Census, Tally, count_shown, missing_keys, take_census
from rumpx.engine.plan import Plan
from rumpx.engine.sums import overall
from rumpx.engine.walks import Retired, RetiredAs, Walk
from rumpx.errors import Side, TargetUnusable, TemporaryError
from rumpx.ledger.schema import Facts
from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node, Topology
from rumpx.model.partitions import FOLLOWED, LATE, PASS, RETRIED, Partition, SlotSpan, WholeSpan
from rumpx.preflight.look import may_be_balanced, refuse_balancer
from rumpx.servers.replicas import other_dataset
from rumpx.servers.slot_watch import SlotWatch, TargetRun, suspect_slots, target_runs
from rumpx.servers.topology import heir

_MOST_SUSPICIONS: Final = 10
# Moves of one slot. A resharding moves many slots, but each of them once.
_MOST_MOVES: Final = 10
_PAUSE: Final = 0.5
# Looks, with `_PAUSE` between, for the end of a slot's migration.
_MIGRATION_POLLS: Final = 20


def first_facts(plan: Plan) -> Facts:
    """Return the facts that the checks compare with, as they are before the first write.

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


class Checks:
    """The checks of one run, and the facts that they compare with.

    Args:
        plan: the run's plan.
        engine: does the walks.
        facts: as of the job's start, and as an earlier run left them.
        walks: of earlier runs too.
        retired: sums of walks that earlier runs added.
        late: the late writes.

    Attributes:
        walked_again: number of partitions that were walked again, by reason.
        after: the key counts of the last check; None before it.
        missing: keys that the target lacks; None if that was not checked.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        facts: Facts,
        walks: Iterable[Walk],
        retired: Mapping[RetiredAs, Retired],
        late: LateWrites,
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._facts = facts
        self._late = late
        self._watch: SlotWatch | None = None
        self.walked_again: Counter[str] = Counter(walk.partition.reason for walk in walks)
        for key, each in retired.items():
            self.walked_again[key.reason] += each.walks
        for reason in ("", RETRIED, FOLLOWED, PASS):
            del self.walked_again[reason]
        self.after: Census | None = None
        self.missing: int | None = None
        self._grace = _MIGRATION_POLLS
        self._suspicions = 0
        self._moves: Counter[int] = Counter()
        self._replicas_lost: Counter[tuple[Side, Address | None]] = Counter()

    @property
    def facts(self) -> Facts:
        """Return the facts for the ledger, as they are now."""
        if self._watch is None:
            return self._facts
        owners, disturbed = self._watch.books()
        return replace(self._facts, owners=owners, disturbed=disturbed)

    def start(self) -> None:
        """Start to watch the source's slots."""
        facts = self._facts
        self._watch = SlotWatch(self._plan.source, facts.owners, facts.disturbed)
        if not any(run_id for _, _, run_id in facts.target_runs):
            self._engine.warn(
                "The target does not report its run_id: if it restarts during the copy, keys that "
                "it loses then are not detected."
            )

    def stop(self) -> None:
        """Stop to watch them."""
        if self._watch:
            self._watch.stop()

    def add_walks(self) -> bool:
        """Return True if a check has added walks.

        Raises:
            RumpxError: one of the checks cannot succeed.
        """
        self._refuse_balancers()
        return (
            self._check_late()
            or self._check_replicas()
            or self._check_slots()
            or self._check_target()
            or self._check_completeness()
        )

    def _refuse_balancers(self) -> None:
        """Refuse a load balancer: a worker's connection may have led to another server than the
        walk's, where a key was gone, or where it was written in vain."""
        for side in (self._plan.source, self._plan.target):
            if may_be_balanced(side.dialer, side.topology):
                self._engine.ask(partial(refuse_balancer, side.dialer))

    def _add(self, partitions: Iterable[Partition], *, in_order: bool = False) -> bool:
        added = self._engine.walks.add(partitions, in_order=in_order)
        self.walked_again.update(walk.partition.reason for walk in added)
        return bool(added)

    def _check_late(self) -> bool:
        """Copy keys again whose earlier write may have landed late."""
        released = self._late.release()
        if released:
            self.walked_again[LATE] = released
        return released > 0

    def _check_replicas(self) -> bool:
        """Read the source again where a replica was lost, emptied or promoted: workers may have
        missed keys there after the walks that named these had ended."""
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
                f"A replica of the source restarted, failed over or was resynchronised "
                f"{_MOST_SUSPICIONS} times during the copy. Resume it when the replicas are stable."
            )
        engine.warn(
            f"{len(lost)} replicas of the source restarted, failed over or were resynchronised: "
            "their keys are read again."
        )
        heirs = set()
        for place in lost:
            node = heir(now, engine.walks.read[place])
            engine.run_ids["source", node.address] = identities.get(node.address, "")
            engine.walks.moved(place, node)
            heirs.add(node)
        return self._add(
            Partition(0, node, db, WholeSpan(), reason="the source's replica changed")
            for node in heirs
            for db in sorted({place.db for place in self._plan.databases})
        )

    def _identities_now(self) -> tuple[Topology, dict[Address | None, str]]:
        """Return the nodes at which the source is read now, and the identities of their servers."""
        topology, source = self._topology_now(), self._plan.source
        return topology, {node.address: source.identity_now(node) for node in topology.nodes}

    def _topology_now(self) -> Topology:
        return self._plan.source.topology_now(
            {address for _, address in self._engine.walks.read}
        )

    def _places_of(self, primaries: Iterable[Node]) -> list[Node]:
        """Return the nodes at which to read the source's primaries, in the same order."""
        if self._plan.source.dialer.read_from == "primary":
            return list(primaries)
        places = {node.primary: node for node in self._engine.ask(self._topology_now).nodes}
        return [places.get(node.address, node) for node in primaries]

    def _check_slots(self) -> bool:
        """Walk the source's slots again that moved, or were marked, since they were walked."""
        engine, watch = self._engine, self._watch
        assert watch
        seen = engine.ask(watch.poll)
        disturbed = watch.take()
        if seen is None or not disturbed:
            return False
        if seen.marked and self._grace > 0:
            # Wait for migrations to end, but not for ever; then walk both nodes.
            self._grace -= 1
            engine.note = f"waiting for {len(seen.marked)} slots to finish their migration"
            watch.put_back()
            engine.wait(_PAUSE)
            return True
        engine.note = ""
        self._moves.update(disturbed)
        if (moves := max(self._moves.values())) > _MOST_MOVES:
            raise TemporaryError(
                f"A slot of the source moved {moves} times during the copy, so the copy cannot "
                "end. Resume it when no slots are moving."
            )
        watch.excuse(seen.marked)
        engine.warn(f"{len(disturbed)} slots moved on the source; their keys are walked again.")
        dbs = sorted({place.db for place in self._plan.databases})
        nodes = self._places_of(seen.takers_last())
        watch.settled()  # with the walks, which the next save has
        return self._add(
            (
                Partition(0, node, db, span, slots=disturbed, reason="slots moved")
                for node in nodes
                for db in dbs
                for span in self._spans_for(disturbed)
            ),
            in_order=bool(seen.marked),
        )

    def _spans_for(self, slots: frozenset[int]) -> list[WholeSpan | SlotSpan]:
        """Return the spans of a node that show some slots: only those if its cursor allows it."""
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
        """Walk the keys again of target nodes whose process has changed since the start."""
        engine = self._engine
        now = engine.ask(self._target_runs)
        suspect = suspect_slots(self._facts.target_runs, now)
        if suspect is not None and not suspect:
            return False
        self._suspicions += 1
        if self._suspicions > _MOST_SUSPICIONS:
            raise TargetUnusable(
                f"The target restarted or failed over {_MOST_SUSPICIONS} times during the copy; "
                "it is unknown which keys it kept. Find the cause, then resume."
            )
        what = "The target" if suspect is None else "A node of the target"
        held = engine.ask(lambda: take_census(self._plan)).target
        lost = self._lost_by_count(held)
        if suspect is None and held and not held.keys:
            engine.warn(
                f"{what} restarted and is empty: it lost the copied keys, so all of them are "
                "copied again. Check that it saves its data."
            )
        else:
            engine.warn(
                f"{what} restarted or failed over: an earlier acknowledgement does not prove that "
                "it kept the key, so its keys are walked again."
                + (f" It holds {lost:,} keys fewer than it acknowledged." if lost else "")
            )
        again = self._all_again("the target's node changed", suspect)
        # Only now: the ledger is also saved during these questions, and it must not have the new
        # process before it has the walks.
        self._facts = replace(self._facts, target_runs=now)
        return self._add(again)

    def _lost_by_count(self, held: Tally | None) -> int:
        """Return the number of keys that the target acknowledged and lacks; 0 if unknown."""
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
        """Walk the source once more if the target holds fewer keys than it should."""
        engine, plan, before = self._engine, self._plan, self._facts.before
        self.after = engine.ask(lambda: take_census(self._plan))
        counts = overall(engine.walks.sums())
        self.missing = missing_keys(plan, before, self.after, counts)
        again = self._all_again("keys missing", None) if self.missing else []
        if self.missing and self.after.source:
            # Some of the keys that the source counts may have expired.
            settings = plan.scans["source"]
            shown = engine.ask_at_length(lambda gate: count_shown(settings, gate, again))
            if shown is not None:
                self.missing = max(0, self.missing - max(0, self.after.source.keys - shown))
        if evicted := _evicted(before, self.after):
            engine.warn(
                f"The target evicted {evicted:,} keys during the copy, of these or of others: its "
                "memory is too small. Raise its maxmemory, then copy again or verify with --repair."
            )
        if not self.missing:
            return False
        if self._facts.counted_again:
            engine.warn(
                f"The target holds {self.missing:,} keys fewer than it should, also after a "
                "second walk of the source. Check if it evicts, or if other clients delete keys."
            )
            return False
        engine.warn(
            f"The target holds {self.missing:,} keys fewer than it should: the source is walked "
            "once more by one plain cursor a node."
        )
        self._facts = replace(self._facts, counted_again=True)
        return self._add(again)


def _evicted(before: Census, after: Census) -> int:
    if not (before.target and after.target):
        return 0
    return max(0, after.target.evicted - before.target.evicted)
