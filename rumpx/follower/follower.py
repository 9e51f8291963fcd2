"""The overseer of a follow: a copy whose target is then kept in step with its source.

1. *Collecting.* A feed is attached before the first SCAN. While the walks of the copy are under way
   changed keys are only noted: no two parts of the work ever write one key at the same time.
2. *Proving.* A pass compares both sides, and changed keys are settled from now on. When it has
   ended, the feed has proven that it lacks nothing from before the pass's end, and all that was
   marked until then is settled, the target is
3. *in step*, and stays so, with the lag that is told, until a *gap*: a moment at which events may
   have been lost. Then the feed is attached anew, and
4. *reconciling* is as proving. One mechanism proves the copy, mends each gap, and resumes a job
   that was stopped or killed: nothing of the set of changed keys is saved.

Without a feed one pass follows the other, and the target is never called in step.

Proof that in step means in step: let w be the last write to a key k that was acknowledged before
the pass ended, with no gap since the feed was attached. If w came after that, its name is read
before the second PONG, so k was marked after w and read after that mark; the write to the target
that follows this read is our last one to k, since one pair of hands at a time has k (`settler`),
and a connection whose end is not known is ended at the target before its keys are read again. If w
came before, k did not change during the whole pass: SCAN shows it, and the comparison finds a
difference; or it does not exist, and the walk over the target finds it there.

Gaps: the feed has ended or is not believed · another process or role of the source or the target ·
all keys may have changed · databases were swapped · too many changed keys to remember.

Not promised: in step again soon after a gap, since a pass walks both sides. What happens between
two looks of `watch`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from rumpx.copier.coordinator import Coordinator, Outcome
from rumpx.copier.functions import copy_functions
from rumpx.ctl.server import AcceptDeletes, AcceptFailures, CancelCutover, Request
from rumpx.ctl.server import Cutover as CutoverRequest
from rumpx.engine.fence import MEND_FENCE, UNFENCED
from rumpx.engine.plan import Plan
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk
from rumpx.errors import Interrupted, TimeOver, TooManyFailures, UsageError
from rumpx.follower.changed import Changed
from rumpx.follower.cutover import Cutover
from rumpx.follower.databases import Databases
from rumpx.follower.dirty_keys import MOST_DIRTY, DirtyKeys
from rumpx.follower.listener import Listener
from rumpx.follower.passes import Pass, holds, partitions
from rumpx.follower.plan import databases_now, patiently
from rumpx.follower.quiet import Heard
from rumpx.follower.settler import Settler
from rumpx.follower.standing import Standing
from rumpx.follower.telling import Telling
from rumpx.follower.watch import Look
from rumpx.ledger.ledger import Ledger
from rumpx.ledger.schema import Facts, JobState
from rumpx.model.display import Display
from rumpx.model.follow import FollowFacts, FollowStat, follow_in_words
from rumpx.model.history import RunRecord
from rumpx.model.nodes import Node
from rumpx.model.partitions import PASS, RETRIED, KeySpan, NodeKeys, Partition
from rumpx.model.snapshot import Snapshot
from rumpx.processes.control import Control
from rumpx.serialize import to_plain
from rumpx.servers.redials import growing_pause
from rumpx.servers.resp import Connection
from rumpx.servers.side import connected
from rumpx.transfer.messages import Ack
from rumpx.units import count_of

# The most changed keys that are remembered during the copy: the pass finds the others.
_MOST_COLLECTED: Final = 1_000_000
# Without a feed, seconds between two passes.
_BETWEEN_PASSES: Final = 1.0

T = TypeVar("T")


class Follower(Coordinator):
    """One run of a job that follows its source; the arguments are those of `Coordinator`."""

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
        books = ledger.books
        failed = {(each.note.db, each.note.key) for each in books.failures()}
        lossy = {(each.note.db, each.note.key) for each in books.losses()}
        self._dirty = DirtyKeys(_MOST_COLLECTED)
        self._settler = Settler(
            self._dirty, failed.difference(*map(_retried, walks)), lossy, self._healed
        )
        super().__init__(
            plan, walks, facts, ledger, display, control, retired, urgent=self._settler
        )
        self._display = display
        self._control = control
        before = _without_open_cutover(facts.follow or FollowFacts())
        new = ledger.earlier.runs == 1  # a resumed run has no names of before
        self._standing = Standing(before, certain=new)
        if new:
            self._standing.trust(plan.source.run_id(plan.source.topology.nodes[0].address))
        self._listener = Listener(
            plan, ledger.record.mark, self._engine, self._dirty, control.wake
        )
        self._databases = Databases(plan, self._engine.walks, self._settler, self._ask)
        known = self._settler.failed
        if len(known) <= before.accepted_failures:
            self._standing.accepted = set(known)
        self._telling = Telling(
            ledger.record.name, before, self._standing, self._listener, self._dirty, self._settler
        )
        self._attempts = 0  # passes since the last one that has ended
        self._consented = False
        self._at_end: FollowStat | None = None
        self._engine.follow = self._telling.stat
        self._saver.stands = self._settler.stands

    def run(self, finish: Callable[[], None]) -> None:
        """See `Coordinator.run`; a follow ends when it is cut over, or by an error."""
        try:
            super().run(finish)
        finally:
            self._at_end = self._telling.stat(time.monotonic())
            self._listener.close()
        if cutover := self._standing.cutover:  # it has succeeded, and the ledger says so
            for sentence in cutover.facts.told:
                self._display.message(sentence)

    # The phases.

    def _walk(self) -> None:
        """Attach the feed, and copy all walks."""
        self._listener.attach()
        self._learn_process()
        self._listener.watch()
        if not self._listener.feed:
            self._standing.certain = False
        super()._walk()

    def _complete(self) -> None:
        """Follow until the run ends, or is cut over."""
        engine, standing = self._engine, self._standing
        self._late.dismiss()
        engine.state = "following"
        if standing.copied_in is None:
            standing.copied_in = engine.elapsed
        engine.walks.make_final()  # no key is copied beside those that are settled
        self._dirty.most = MOST_DIRTY
        standing.settles = True
        try:
            while not standing.proven:
                self._begin()
                if standing.gap:
                    continue
                proven = self._prove()
                if self._listener.kind != "passes":
                    if proven:
                        self._stay()
                elif self._standing.wants_cutover and not standing.gap:
                    self._cut_over()
                else:
                    engine.wait(_BETWEEN_PASSES)
        except (Interrupted, TimeOver):
            raise  # the phase stays, as the one in which it was stopped
        except BaseException:
            standing.step_ends()
            raise
        self._settler.close()
        engine.run_until(lambda: engine.at_rest)

    def _over(self, done: Callable[[], bool]) -> Callable[[], bool]:
        """Return the condition that ends a part of the work: it is done, or a gap has come."""

        def over() -> bool:
            self._hear()
            return bool(self._standing.gap) or done()

        return over

    def _begin(self) -> None:
        """Make a pass possible; afterwards there is a gap if it is not.

        Attach a feed, if there is to be one, learn which process the source is, and wait until it
        is watched and there may be work. Events of meanwhile cost nothing, since the pass begins
        after them. Batches under way are settled first: they were read before, and would be written
        after a key's comparison. Then workers connect anew: after a failover their connections may
        lead to the old primary, which serves its clients for a while.
        """
        standing, listener, settler = self._standing, self._listener, self._settler
        standing.doubt()
        settler.waits = True
        if self._attempts:
            self._engine.wait(growing_pause(self._attempts))
        self._attempts += 1
        listener.attach()
        self._learn_process()
        self._engine.run_until(self._may_begin)
        self._engine.rest()
        settler.waits = False
        if listener.watches and (listener.feed or listener.kind == "passes"):
            standing.mend()

    def _may_begin(self) -> bool:
        """Return True if nothing keeps a pass from beginning: the timetable, earlier writes that
        may land after it, work that is under way, or a source that was not looked at yet."""
        looked = self._listener.has_looked
        self._hear()
        late = time.monotonic() < self._settler.late_until
        busy = self._settler.busy or not self._engine.at_rest
        return looked and not (late or busy or self._engine.off)

    def _learn_process(self) -> None:
        """Learn which process the source is now. What is known of an earlier one must delete no key
        that this one may have lost."""
        if self._listener.learn_process():
            self._dirty.clear()
            self._consented = False
        self._settler.process = self._listener.process

    def _prove(self) -> bool:
        """Do a pass; return True if the target is in step at its end, False if a gap came."""
        done = self.pass_once()
        return done is not None and self.settle_all() and done.complete

    def pass_once(self) -> Pass | None:
        """Compare all keys, and mark those that differ; return None if a gap came."""
        if self._dirty.overflowed:
            self._standing.certain = False
        self._dirty.begin()
        self._settler.changed.clear()
        self._listener.streams.clear()
        places, back = self._ask(lambda: databases_now(self._plan, []))
        # Also those that only the target holds: the source may have emptied them.
        scope = self._plan.spec.scope
        there = {scope.source_db(place.db) for place in back}
        self._databases.follow(there.union(place.db for place in places))
        # What is known to differ may be so no longer.
        self._mark([key for _, key in self._settler.failed | self._settler.lossy])
        walks = partitions(places, back, self._plan.tuning)
        # The run was planned for the keys of its start, which may have been none.
        self._engine.governor.fit(sum(place.keys for place in (*places, *back)))
        done = self.compare(walks, [*places, *back])
        if self._standing.gap or not self._may_delete(done, sum(place.keys for place in back)):
            return None
        done.mark_extras()
        self._standing.passed(done)
        self._attempts = 0
        return done

    def compare(self, walks_of: Sequence[Partition], places: Sequence[NodeKeys] = ()) -> Pass:
        """Do the walks of a comparison, until that is done or a gap comes.

        Args:
            walks_of: their partitions.
            places: the databases that they walk, with their numbers of keys.
        """
        walks = self._engine.walks
        added = walks.add(walks_of)
        under_way = Pass(
            walks,
            added,
            places,
            self._mark,
            self._may_differ,
            certain=self._standing.certain,
        )
        self._standing.under_way = under_way
        self._engine.run_until(self._over(lambda: under_way.done))
        walks.abandon(under_way.partitions)
        self._standing.under_way = None
        return under_way

    def _may_differ(self, db: int, key: bytes) -> bool:
        """Return True for a key that is known to differ: it has failed, or a cutover leaves it
        out."""
        heard = self._listener.heard
        return (db, key) in self._settler.failed or (heard is not None and heard.ignores(key))

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the servers by functions of the preflight, until they answer."""
        answer = self._engine.ask(patiently(question))
        self._engine.note = ""
        return answer

    def _may_delete(self, done: Pass, target_keys: int) -> bool:
        """Return True once a pass's extra keys may be deleted; False if a gap came meanwhile."""
        job, standing, source = self._plan.job, self._standing, self._listener.identity
        extras, trusted = done.number_of_extras, self._standing.trusts(source)
        if trusted and job.delete_extra and not standing.has_passed:
            extras -= self._facts.target_keys  # the user has agreed to lose these
        held = holds(extras, target_keys, job.max_deletes, trusted=trusted)
        if held and not self._consented:
            if not standing.held_deletes:
                many = count_of(done.number_of_extras, "key")
                self._engine.warn(
                    f"A pass found {many} of the target that the source lacks (did it restart "
                    "empty?): nothing is deleted until you allow it by rumpx ctl "
                    f"{self._ledger.record.name} accept-deletes."
                )
            standing.held_deletes = done.number_of_extras
            if self._listener.kind == "passes":  # further ones find what changes meanwhile
                self._attempts = 0
                self.wait(_BETWEEN_PASSES)
                return False
            self._engine.run_until(self._over(lambda: self._consented))
        standing.held_deletes = 0
        if standing.gap:
            self._consented = False
            return False
        self._consented = self._consented and not done.complete
        standing.trust(source)
        return True

    def settle_all(self) -> bool:
        """Wait until all that the source acknowledged so far is settled; return True if the target
        is in step then, False if a gap came."""
        self._care_for()
        if feed := self._listener.feed:
            began = time.monotonic()
            feed.prove(began)
            self._engine.run_until(self._over(lambda: feed.proven >= began))
        marked = time.monotonic()
        self._engine.run_until(self._over(lambda: self._dirty.all_settled(marked)))
        return not self._standing.gap

    def _stay(self) -> None:
        """Stay in step until a gap comes."""
        while not self._standing.gap:
            self._engine.run_until(self._over(self._is_unsettled))
            if self._standing.gap:
                return
            if self._standing.wants_cutover:
                self._cut_over()
                if self._standing.proven:
                    return
            elif not self.settle_all():
                return

    def _is_unsettled(self) -> bool:
        """Return True if the straight line of `_stay` has work. The target is in step meanwhile,
        unless keys have failed, a whole database is missing, or a side does not answer."""
        new = self._databases.new(self._listener.found)
        if self._settler.failed <= self._standing.accepted and not (new or self._listener.silent):
            self._standing.step_begins()
        else:
            self._standing.step_ends()
        changed = self._listener.functions_changed
        return bool(new or changed or self._standing.wants_cutover)

    # What the feed does not tell.

    def _care_for(self) -> None:
        """Copy changed functions, and follow new databases."""
        plan, listener = self._plan, self._listener
        changed, listener.functions_changed = listener.functions_changed, False
        if changed and plan.job.functions:
            told = self._ask(lambda: copy_functions(plan.source, plan.target, "replace"))
            if told:
                self._display.message(told)
        while (new := self._databases.new(listener.found)) and not self._standing.gap:
            self._databases.follow(new)
            places, _ = self._ask(lambda: databases_now(plan, []))
            fresh = [place for place in places if place.db in new]
            self.compare(partitions(fresh, (), plan.tuning), fresh)

    # The cutover; the public methods are those of `cutover.Follows`.

    def _cut_over(self) -> None:
        """Cut over; after a gap it goes on when the target is in step again."""
        assert self._standing.cutover
        self._standing.cutover.run()

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return self._plan

    @property
    def has_gap(self) -> bool:
        """True if events may have been lost since the last pass began."""
        return bool(self._standing.gap)

    @property
    def has_feed(self) -> bool:
        """True if changes are reported; else passes find them."""
        return self._listener.kind != "passes"

    @property
    def changed(self) -> Changed:
        """The keys that were settled since then."""
        return self._settler.changed

    @property
    def databases(self) -> set[int]:
        """The source's databases that are followed."""
        return self._settler.databases

    @property
    def last_pass(self) -> float | None:
        """The end of the last pass, in seconds since 1970."""
        return self._standing.last_pass

    @property
    def not_carried(self) -> dict[str, int]:
        """Numbers of keys that are not as on the source, and known to be so, by the reason."""
        numbers = {
            "failed": len(self._settler.failed),
            "copied with a loss": len(self._settler.lossy),
            "not comparable": self._standing.incomparable,
        }
        return {why: number for why, number in numbers.items() if number}

    @property
    def failed(self) -> list[bytes]:
        """The keys that could not be settled."""
        return sorted(key for _, key in self._settler.failed)

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Ask the source by a connection of its own, until it answers."""
        source = self._plan.source

        def ask() -> T:
            with connected(source.dialer, source.topology.nodes[0].address) as connection:
                return question(connection)

        return self._ask(ask)

    def wait(self, seconds: float) -> None:
        """Go on following for some seconds, or until a gap."""
        until = time.monotonic() + seconds
        self._engine.run_until(self._over(lambda: time.monotonic() >= until))

    def see(self, look: Look) -> None:
        """Take a look at the source, for the databases that hold keys."""
        self._listener.found.update(db for db, keys in look.info.keys.items() if keys)

    def watched_since(self, moment: float) -> bool:
        """Wait until both sides were looked at since a moment (`time.monotonic()`); return False at
        a gap, or if that takes too long."""
        until, listener = time.monotonic() + self._plan.job.timeout, self._listener
        self._engine.run_until(
            self._over(lambda: listener.looked > moment or time.monotonic() > until)
        )
        return listener.looked > moment and not self._standing.gap

    def listen(self, heard: Heard | None) -> None:
        """Have an object receive all names that the feed tells from now on; None ends that. Keys
        that it leaves out may differ meanwhile."""
        self._listener.heard = heard

    def mark_streams(self) -> list[bytes]:
        """Mark all known streams; return them."""
        names = self._listener.streams.names
        self._mark(names)
        return names

    def count(self) -> list[tuple[int, int, int]]:
        """Return the numbers of keys of each database followed, on both sides."""
        return self._databases.count()

    def _facts_at_end(self, state: JobState) -> Facts:
        """As for a copy; the cutover has succeeded now that nothing of ours writes any more."""
        cutover = self._standing.cutover
        if state == "done" and cutover and cutover.proven:
            cutover.confirm()
        return super()._facts_at_end(state)

    # Events.

    def _mark(self, names: list[bytes]) -> None:
        """Mark keys that a pass has found."""
        self._dirty.mark(names, time.monotonic())

    def _hear(self) -> None:
        """Handle the events so far."""
        standing = self._standing
        for why in self._listener.hear():
            self._gap_at(why)
        if self._dirty.overflowed and standing.settles and not standing.gap:
            self._gap_at(f"more than {self._dirty.most:,} keys were changed and not settled")
        self._listener.streams.tick(self._dirty, time.monotonic())
        if standing.cutover and standing.cutover.late:
            telling = self._telling
            standing.cutover.expire(standing.gap or telling.waits_for or telling.unsettled)

    def _gap_at(self, why: str) -> None:
        """Note that events may have been lost, such as that the source has lost its keys. So what
        is known of changes must delete none: the pass finds them, and holds deletes."""
        if told := self._standing.gap_at(why):
            self._display.message(told)
        self._dirty.clear()

    # The engine's overseer.

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Take the results of a batch."""
        self._listener.streams.add(ack.streams)
        if walk.partition.work == "follow":
            self._settler.acknowledged(walk, ack)
            if ack.late:
                self._warn_unfenced()
            if ack.unproven:
                self._gap_at("another process answers for the source")
            self._refuse_failures()
        elif walk.partition.reason == PASS:
            if under_way := self._standing.under_way:
                under_way.acknowledged(walk, ack)
        else:
            self._settler.note(ack)
            super().acknowledged(walk, ack)

    def unfenced(self, keys: Sequence[tuple[int, bytes]] | None) -> None:
        """Settle keys again, whose earlier writes may land late."""
        if not self._standing.settles:
            super().unfenced(keys)
            return
        self._warn_unfenced()
        if keys is None:
            self._gap_at("writes of a lost worker may land late")
        else:
            self._settler.mark_late([key for _, key in keys], time.monotonic())

    def _warn_unfenced(self) -> None:
        text = f"{UNFENCED} The keys concerned are copied again. {MEND_FENCE}"
        if text not in self._engine.warnings:
            self._engine.warn(text)

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """Handle a walk that found another process, or another kind of cursor."""
        if self._standing.settles and why == "node changed":
            self._gap_at("another process answers for a side that is being compared")
        else:
            super().started_over(walks, node, why)

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """As for a copy; also handle events while the copy's walks are under way."""
        whole = min(self._listener.proven, self._dirty.oldest)
        self._hear()
        if self._standing.phase == "in step" and math.isfinite(whole):  # both sides were looked at
            self._standing.whole_until = time.time() - (time.monotonic() - whole)
        super().tick(now, snapshot)

    def _healed(self, keys: list[tuple[int, bytes]]) -> None:
        self._saver.heal(keys)

    def _refuse_failures(self) -> None:
        most, failed = self._plan.job.max_failures, len(self._settler.failed)
        if most is not None and failed > most:
            raise TooManyFailures(
                f"{failed:,} keys failed, and --max-failures allows {most:,}: stopped following."
            )

    # The ledger, `rumpx ctl`, the display.

    @property
    def _facts_now(self) -> Facts:
        return replace(super()._facts_now, followed=self._telling.stat(time.monotonic()))

    def outcome(self, run: RunRecord) -> Outcome:
        """See `Coordinator.outcome`; failed keys are those that are not on the target now."""
        outcome = super().outcome(run)
        follow = self._at_end or self._telling.stat(time.monotonic())
        counts = follow.with_failures(outcome.run.counts)
        return replace(outcome, run=replace(outcome.run, counts=counts, follow=follow))

    def _status(self) -> dict[str, Any]:
        follow = self._telling.stat(time.monotonic())
        text = ", ".join(follow_in_words(follow, now=time.time()))
        return super()._status() | {"follow": to_plain(follow) | {"text": text}}

    def _execute(self, request: Request) -> dict[str, Any]:
        standing = self._standing
        match request:
            case AcceptDeletes():
                if not standing.held_deletes:
                    raise UsageError("No deletes wait for your consent.")
                self._consented = True
                self._control.wake()
                return self._status()
            case AcceptFailures():
                if not self._settler.failed:
                    raise UsageError("No key has failed.")
                standing.accepted = set(self._settler.failed)
                self._control.wake()
                return self._status()
            case CutoverRequest():
                if standing.wants_cutover or standing.proven:
                    raise UsageError("A cutover is under way already.")
                standing.cutover = Cutover(request, self)
                self._control.wake()
                return self._status()
            case CancelCutover():
                if standing.proven:
                    raise UsageError("All is proven: the cutover cannot be cancelled any more.")
                if not standing.cutover or standing.cutover.over:
                    raise UsageError("No cutover is under way.")
                standing.cutover.cancel()
                return self._status()
        return super()._execute(request)


def _without_open_cutover(facts: FollowFacts) -> FollowFacts:
    """Return the facts of earlier runs without a cutover that was under way when the last one was
    killed: it proves nothing."""
    open_one = facts.cutover is not None and not facts.cutover.outcome
    return replace(facts, cutover=None) if open_one else facts


def _retried(walk: Walk) -> set[tuple[int, bytes]]:
    """Return the failed keys that a walk tries again, each with its database."""
    partition = walk.partition
    if partition.reason != RETRIED or not isinstance(partition.span, KeySpan):
        return set()
    return {(partition.db, key) for key in partition.span.keys}
