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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from rumpx.copier.coordinator import Coordinator
from rumpx.copier.functions import copy_functions
from rumpx.ctl.server import AcceptDeletes, AcceptFailures, Request
from rumpx.ctl.server import Cutover as CutoverRequest
from rumpx.engine.fence import MEND_FENCE, UNFENCED
from rumpx.engine.filters import name_tests
from rumpx.engine.plan import Plan
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk
from rumpx.errors import ConnectionLost, RumpxError, Side, TooManyFailures, UsageError
from rumpx.follower.changed import Changed
from rumpx.follower.cutover import Cutover
from rumpx.follower.dirty_keys import DirtyKeys
from rumpx.follower.feed import Feed, FeedEnded, FeedRefused, Flushed, feed_name
from rumpx.follower.passes import PASS, Pass, holds, partitions
from rumpx.follower.plan import MANNERS, MOST_DIRTY, anew, databases_now, feed_kind
from rumpx.follower.quiet import Heard
from rumpx.follower.settler import Settler
from rumpx.follower.streams import StreamNames
from rumpx.follower.watch import (
    Blind,
    Emptied,
    FunctionsChanged,
    GroupsChanged,
    Keyspace,
    Mute,
    OtherServer,
    Seen,
    Swapped,
    Watch,
    Wrote,
)
from rumpx.ledger.ledger import Ledger
from rumpx.ledger.schema import Facts, JobState
from rumpx.model.display import Display
from rumpx.model.follow import FollowFacts, FollowStat, Gap, Phase
from rumpx.model.nodes import Node
from rumpx.model.partitions import RETRIED, KeySpan, NodeKeys, Partition
from rumpx.model.snapshot import Snapshot
from rumpx.preflight.databases import chosen_databases, database_map, prove_databases
from rumpx.processes.control import Control
from rumpx.serialize import to_plain
from rumpx.servers.resp import Connection
from rumpx.servers.side import connected
from rumpx.transfer.messages import Ack
from rumpx.units import count_of

# The most changed keys that are remembered during the copy: the pass finds the others.
_MOST_COLLECTED: Final = 1_000_000
_GAPS_KEPT: Final = 20
# Writes of commands that always change a key, and not one name, for so many seconds.
_SILENT_SECONDS: Final = 10.0
_RATE_SECONDS: Final = 5.0
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
        self._dirty = DirtyKeys(_MOST_COLLECTED)
        failed = {(each.note.db, each.note.key) for each in books.failures()}
        self._settler = Settler(
            self._dirty,
            failed.difference(*map(_retried, walks)),
            ((each.note.db, each.note.key) for each in books.losses()),
            self._healed,
        )
        super().__init__(
            plan, walks, facts, ledger, display, control, retired, urgent=self._settler
        )
        self._engine.follow = self._stat
        self._display = display
        self._control = control
        self._tests = name_tests(plan.spec.scope)
        self._mark_of_job = ledger.record.mark
        # A resumed run has no names of before.
        self._certain = ledger.earlier.runs == 1
        self._before = _without_open_cutover(facts.follow or FollowFacts())
        known = self._settler.failed
        accepted = self._before.accepted_failures
        self._accepted = set(known) if len(known) <= accepted else set()
        self._kind, _ = feed_kind(plan.job, plan.source)
        self._feed: Feed | None = None
        self._watches: list[Watch] = []
        self._events: deque[Seen | FeedEnded | Flushed] = deque()
        self._streams = StreamNames()
        self._gaps: deque[Gap] = deque(self._before.last_gaps, _GAPS_KEPT)
        self._number_of_gaps = 0
        self._gap = ""
        self._pass: Pass | None = None
        self._passes = 0
        self._last_pass: tuple[float | None, int] = (
            self._before.last_pass,
            self._before.last_pass_found,
        )
        self._incomparable, self._lossy = self._before.incomparable, self._before.lossy
        self._phase: Phase = "collecting"
        self._in_step_since: float | None = None
        self._step_seconds = 0.0
        self._settles = False
        self._held_deletes = 0
        self._consented = False
        self._first_pass = self._before.passes == 0
        self._found: set[int] = set()
        self._functions_changed = plan.job.functions
        self._wrote: tuple[float, int] | None = None
        self._rates: deque[tuple[float, int, int]] = deque()
        self._heard: Heard | None = None
        self._cutover: Cutover | None = None

    def run(self, finish: Callable[[], None]) -> None:
        """See `Coordinator.run`; a follow ends by an error only, as when it is stopped."""
        try:
            super().run(finish)
        finally:
            for watch in self._watches:
                watch.close()
            if self._feed:
                self._feed.close()
        if self._cutover:  # it has succeeded, and the ledger says so
            for sentence in self._cutover.facts.told:
                self._display.message(sentence)

    # The phases.

    def _walk(self) -> None:
        """Attach the feed, and copy all walks."""
        self._attach()
        self._watch()
        super()._walk()

    def _complete(self) -> None:
        """Follow until the run ends, or is cut over."""
        engine = self._engine
        self._late.dismiss()
        engine.state = "following"
        self._dirty.most = MOST_DIRTY
        self._settles = True
        try:
            while not (self._cutover and self._cutover.proven):
                self._gap = ""
                self._attach()
                proven = self._prove()
                if self._kind != "passes":
                    if proven:
                        self._stay()
                elif self._wants_cutover and not self._gap:
                    self._cut_over()
                else:
                    engine.wait(_BETWEEN_PASSES)
        finally:
            self._step_ends()
        self._settler.close()
        engine.run_until(lambda: engine.at_rest)

    def _over(self, done: Callable[[], bool]) -> Callable[[], bool]:
        """Return the condition that ends a part of the work: it is done, or a gap has come."""

        def over() -> bool:
            self._hear()
            return bool(self._gap) or done()

        return over

    def _attach(self) -> None:
        """Attach a feed, if there is to be one and none is attached."""
        if self._kind == "passes" or self._feed:
            return
        manner = MANNERS[self._kind]
        engine, source = self._engine, self._plan.source
        engine.note = "attaching the feed"
        name = feed_name(self._mark_of_job)

        def attach() -> Feed | FeedRefused:
            try:
                return Feed(
                    manner, source.dialer, name, self._plan.spec.scope, self._take, self._tell
                )
            except FeedRefused as error:
                return error

        found = engine.ask(attach)
        engine.note = ""
        if isinstance(found, FeedRefused):
            self._kind = "passes"
            engine.warn(
                f"The source does not report changed keys any more: {found}. Changes are found by "
                "passes instead."
            )
            return
        if found.process != self._settler.process:
            # Names of before say nothing about another process: it may have restarted without its
            # data, and to settle them would delete keys. The pass finds what differs.
            self._dirty.clear()
        self._feed = found
        self._settler.process = found.process
        self._answers("source", found.process)
        found.start()

    def _watch(self) -> None:
        """Watch both sides."""
        source, target = self._plan.source, self._plan.target
        name, notifies = feed_name(self._mark_of_job), self._kind == "notifications"
        self._watches = [
            Watch(source.dialer, name, self._tell, notifications=notifies),
            Watch(target.dialer, "", self._tell),
        ]
        for watch in self._watches:
            watch.start()

    def _prove(self) -> bool:
        """Do a pass; return True if the target is in step at its end, False if a gap came."""
        self._phase = "proving" if self._passes + self._before.passes == 0 else "reconciling"
        done = self.pass_once()
        if done and not done.complete:
            self._gap_at("the target holds more keys of its own than one pass remembers")
        return done is not None and self.settle_all()

    def pass_once(self) -> Pass | None:
        """Compare all keys, and mark those that differ; return None if a gap came."""
        engine = self._engine
        engine.run_until(self._over(lambda: not engine.off))
        self._certain = self._certain and not self._dirty.overflowed
        self._dirty.begin()
        self._settler.changed.clear()
        if self._gap:
            return None
        places, back = self._ask(self._look_around)
        self._follow_databases({place.db for place in places})
        walks = partitions(places, back, self._plan.tuning)
        done = self.compare(walks, [*places, *back])
        if self._gap or not self._may_delete(done, sum(place.keys for place in back)):
            return None
        done.mark_extras()
        self._passes += 1
        self._certain = True
        self._last_pass = time.time(), done.found + done.number_of_extras
        self._incomparable, self._lossy = done.incomparable, done.lossy
        return done

    def compare(self, walks_of: Sequence[Partition], places: Sequence[NodeKeys] = ()) -> Pass:
        """Do the walks of a comparison, until that is done or a gap comes.

        Args:
            walks_of: their partitions.
            places: the databases that they walk, with their numbers of keys.
        """
        walks = self._engine.walks
        added = walks.add(walks_of)
        under_way = Pass(walks, added, places, self._mark, self._may_differ, certain=self._certain)
        self._pass = under_way
        self._engine.run_until(self._over(lambda: under_way.done))
        walks.abandon(under_way.partitions)
        self._pass = None
        return under_way

    def _may_differ(self, db: int, key: bytes) -> bool:
        """Return True for a key that is known to differ: it has failed, or a cutover leaves it
        out."""
        heard = self._heard
        return (db, key) in self._settler.failed or (heard is not None and heard.ignores(key))

    def _look_around(self) -> tuple[list[NodeKeys], list[NodeKeys]]:
        """Return both sides' databases, as `databases_now`."""
        return databases_now(self._plan, [])

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the servers by functions of the preflight, for which a lost connection is the end;
        here it is asked again."""

        def ask() -> T:
            try:
                return question()
            except RumpxError as error:
                if isinstance(error.__context__, ConnectionLost):
                    raise error.__context__ from None
                raise

        answer = self._engine.ask(ask)
        self._engine.note = ""
        return answer

    def _may_delete(self, done: Pass, target_keys: int) -> bool:
        """Return True once a pass's extra keys may be deleted; False if a gap came meanwhile."""
        job = self._plan.job
        extras = done.number_of_extras
        if self._first_pass and job.delete_extra:
            extras -= self._facts.target_keys  # the user has agreed to lose these
        if holds(extras, target_keys, job.max_deletes) and not self._consented:
            self._held_deletes = done.number_of_extras
            self._engine.warn(
                f"A pass found {count_of(self._held_deletes, 'key')} of the target that the source "
                "lacks (did it restart empty?): nothing is deleted until you allow it by rumpx ctl "
                f"{self._ledger.record.name} accept-deletes."
            )
            self._engine.run_until(self._over(lambda: self._consented))
            self._held_deletes = 0
        if self._gap:
            return False
        self._consented = self._consented and not done.complete
        self._first_pass = False
        return True

    def settle_all(self) -> bool:
        """Wait until all that the source acknowledged so far is settled; return True if the target
        is in step then, False if a gap came."""
        self._care_for()
        if self._feed:
            feed, began = self._feed, time.monotonic()
            feed.prove(began)
            self._engine.run_until(self._over(lambda: feed.proven >= began))
        marked = time.monotonic()
        self._engine.run_until(self._over(lambda: self._dirty.oldest > marked))
        return not self._gap

    def _stay(self) -> None:
        """Stay in step until a gap comes."""
        while not self._gap:
            self._engine.run_until(self._over(self._is_unsettled))
            if not self._gap:
                self._care_for()
            if not self._gap and self._wants_cutover:
                self._cut_over()
                if self._cutover and self._cutover.proven:
                    return

    def _is_unsettled(self) -> bool:
        """Return True if the straight line of `_stay` has work; keep the phase up to date."""
        self._step_begins() if self._settler.failed <= self._accepted else self._step_ends()
        return bool(self._new_databases or self._functions_changed or self._wants_cutover)

    def _step_begins(self) -> None:
        if self._in_step_since is None:
            self._in_step_since = time.time()
            self._phase = "in step"

    def _step_ends(self) -> None:
        if self._in_step_since is not None:
            self._step_seconds += time.time() - self._in_step_since
            self._in_step_since = None
        if self._phase == "in step":
            self._phase = "reconciling"

    # What the feed does not tell.

    def _care_for(self) -> None:
        """Copy changed functions, and follow new databases."""
        plan = self._plan
        if self._functions_changed and plan.job.functions:
            self._functions_changed = False
            told = self._ask(lambda: copy_functions(plan.source, plan.target, "replace"))
            if told:
                self._display.message(told)
        self._functions_changed = False
        while (new := self._new_databases) and not self._gap:
            self._follow_databases(new)
            places, _ = self._ask(self._look_around)
            fresh = [place for place in places if place.db in new]
            self.compare(partitions(fresh, (), plan.tuning), fresh)

    @property
    def _new_databases(self) -> set[int]:
        """The databases in scope that hold keys and are not followed yet."""
        chosen = chosen_databases(self._plan.job)
        wanted = self._found & set(chosen) if chosen else self._found
        return wanted - self._settler.databases

    def _follow_databases(self, databases: set[int]) -> None:
        """Settle changed keys in these databases, too, from now on.

        Raises:
            TargetUnusable: the target has no such database.
            UsageError: all would be copied into the one that the target's URI names.
        """
        plan, node = self._plan, self._plan.source.topology.nodes[0]
        followed = self._settler.databases
        new = sorted(databases - followed)
        if not followed and not new:
            new = [next(iter(chosen_databases(plan.job)), 0)]  # nothing holds keys yet
        database_map(plan.job, [NodeKeys(node, db, 0, "unknown") for db in (*followed, *new)])
        there = [plan.spec.scope.target_db(db) for db in new]
        self._ask(lambda: prove_databases(plan.target, there))
        for db in new:
            self._settler.follow(self._engine.walks, node, db)

    # The cutover; the public methods are those of `cutover.Follows`.

    @property
    def _wants_cutover(self) -> bool:
        return self._cutover is not None and not self._cutover.over

    def _cut_over(self) -> None:
        """Cut over; after a gap it goes on when the target is in step again."""
        assert self._cutover
        self._cutover.run()

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return self._plan

    @property
    def has_gap(self) -> bool:
        """True if events may have been lost since the last pass began."""
        return bool(self._gap)

    @property
    def has_feed(self) -> bool:
        """True if changes are reported; else passes find them."""
        return self._kind != "passes"

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
        return self._last_pass[0]

    @property
    def not_carried(self) -> dict[str, int]:
        """Numbers of keys that are not as on the source, and known to be so, by the reason."""
        numbers = {
            "failed": len(self._settler.failed),
            "copied with a loss": len(self._settler.lossy),
            "not comparable": self._incomparable,
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

    def listen(self, heard: Heard | None) -> None:
        """Have an object receive all names that the feed tells from now on; None ends that. Keys
        that it leaves out may differ meanwhile."""
        self._heard = heard

    def mark_streams(self) -> list[bytes]:
        """Mark all known streams; return them."""
        names = self._streams.names
        self._mark(names)
        return names

    def count(self) -> list[tuple[int, int, int]]:
        """Return (database, the source's keys, the target's) of those followed in which no key
        expires or has failed, if all their keys are in scope."""
        plan, scope = self._plan, self._plan.spec.scope
        if scope.filtered:
            return []
        here, there = (
            self._ask(partial(anew, side)).infos[side.topology.nodes[0].address]
            for side in (plan.source, plan.target)
        )
        if here is None or there is None:
            return []
        failed = {db for db, _ in self._settler.failed}
        return [
            (db, here.keys.get(db, 0), there.keys.get(scope.target_db(db), 0))
            for db in sorted(self._settler.databases - failed)
            if not (here.expiring.get(db) or there.expiring.get(scope.target_db(db)))
        ]

    def _facts_at_end(self, state: JobState) -> Facts:
        """As for a copy; the cutover has succeeded now that nothing of ours writes any more."""
        if state == "done" and self._cutover and self._cutover.proven:
            self._cutover.confirm()
        return super()._facts_at_end(state)

    # Events.

    def _take(self, names: list[bytes]) -> None:
        """Take names from the feed, in its thread."""
        for test in self._tests:
            names = [name for name in names if test(name)]
        if self._dirty.mark(names, time.monotonic()) and self._settles:
            self._control.wake()
        if heard := self._heard:
            heard.add(names)

    def _tell(self, event: Seen | FeedEnded | Flushed) -> None:
        """Take an event, from any thread."""
        self._events.append(event)
        self._control.wake()

    def _mark(self, names: list[bytes]) -> None:
        """Mark keys that a pass has found."""
        self._dirty.mark(names, time.monotonic())

    def _hear(self) -> None:
        """Handle the events so far."""
        while self._events:
            self._heed(self._events.popleft())
        if self._dirty.overflowed and self._settles and not self._gap:
            self._gap_at(f"more than {self._dirty.most:,} keys were changed and not settled")
        self._streams.tick(self._dirty, time.monotonic())
        if self._cutover and self._cutover.late:
            self._cutover.expire(self._gap or self._waits_for() or self._unsettled())

    def _heed(self, event: Seen | FeedEnded | Flushed) -> None:
        match event:
            case FeedEnded():
                if self._feed and event.process == self._feed.process:
                    self._drop_feed(event.why)
            case Flushed():
                self._gap_at("the source was flushed or loaded its data anew")
            case OtherServer():
                self._other_server(event)
            case Emptied():
                if self._kind == "notifications":
                    self._gap_at("databases of the source were emptied")
            case Mute():
                if self._kind == "notifications":
                    self._distrust("its keyspace notifications were switched off")
            case Swapped():
                self._gap_at("databases of the source were swapped")
            case GroupsChanged():
                self._streams.changed()
                if self._streams.too_many:
                    self._gap_at("consumer groups of more streams changed than are remembered")
            case FunctionsChanged():
                self._functions_changed = True
            case Keyspace():
                self._found |= event.databases
            case Wrote():
                self._check_silence(event)
            case Blind():
                self._warn_once(
                    f"The {event.side} refuses INFO or INFO commandstats: changes of consumer "
                    "groups, SWAPDB and changes of functions there are not noticed, only found by "
                    "a later pass."
                )

    def _drop_feed(self, why: str) -> None:
        if self._feed:
            self._feed.close()
            self._feed = None
        self._gap_at(f"the feed was lost: {why}")

    def _other_server(self, event: OtherServer) -> None:
        """Handle another process, or another role of one."""
        if event.side == "source" and self._feed:
            if event.other and event.run_id == self._feed.process:
                return  # the feed leads to it already
            self._feed.close()
            self._feed = None
        self._answers(event.side, event.run_id)
        self._gap_at(event.why)

    def _answers(self, side: Side, run_id: str) -> None:
        """Note which process answers for a side, so that walks start with it."""
        facts = self._plan.source if side == "source" else self._plan.target
        self._engine.run_ids[side, facts.topology.nodes[0].address] = run_id

    def _check_silence(self, event: Wrote) -> None:
        """Stop to believe a feed that tells nothing while keys are changed."""
        if not self._feed or self._tests:
            return
        marked = self._dirty.marked
        if not event.calls or (self._wrote and self._wrote[1] != marked):
            self._wrote = None
        if event.calls and self._wrote is None:
            self._wrote = event.since, marked
        if self._wrote and time.monotonic() - self._wrote[0] > _SILENT_SECONDS:
            self._distrust("it reported no changed key while it executed writes")

    def _distrust(self, why: str) -> None:
        """Do without a feed from now on."""
        if self._feed:
            self._feed.close()
        self._feed, self._kind, self._wrote = None, "passes", None
        self._engine.warn(
            f"The source's feed is not believed any more, since {why}: changes are found by passes."
        )
        self._gap_at(why)

    def _gap_at(self, why: str) -> None:
        """Note that events may have been lost."""
        self._step_ends()
        self._certain = False
        if not self._gap:
            self._gap = why
            self._number_of_gaps += 1
            self._gaps.append(Gap(time.time(), why))

    # The engine's overseer.

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Take the results of a batch."""
        self._streams.add(ack.streams)
        if walk.partition.work == "follow":
            self._settler.acknowledged(walk, ack)
            if ack.late:
                self._warn_unfenced()
            if ack.unproven:
                self._gap_at("another process answers for the source")
            self._refuse_failures()
        elif walk.partition.reason == PASS:
            if self._pass:
                self._pass.acknowledged(walk, ack)
        else:
            self._settler.note(ack)
            super().acknowledged(walk, ack)

    def unfenced(self, keys: Sequence[tuple[int, bytes]] | None) -> None:
        """Settle keys again, whose earlier writes may land late."""
        if not self._settles:
            super().unfenced(keys)
            return
        self._warn_unfenced()
        if keys is None:
            self._gap_at("writes of a lost worker may land late")
        else:
            self._settler.mark_late([key for _, key in keys], time.monotonic())

    def _warn_unfenced(self) -> None:
        self._warn_once(f"{UNFENCED} The keys concerned are copied again. {MEND_FENCE}")

    def _warn_once(self, text: str) -> None:
        if text not in self._engine.warnings:
            self._engine.warn(text)

    def started_over(self, walks: int, node: Node, why: str) -> None:
        """Handle a walk that found another process, or another kind of cursor."""
        if self._settles and why == "node changed":
            self._gap_at("another process answers for a side that is being compared")
        else:
            super().started_over(walks, node, why)

    def tick(self, now: float, snapshot: Snapshot) -> None:
        """As for a copy; also handle events while the copy's walks are under way."""
        self._hear()
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
        return replace(super()._facts_now, follow=self._follow_facts())

    def _follow_facts(self) -> FollowFacts:
        before = self._before
        step = 0.0 if self._in_step_since is None else time.time() - self._in_step_since
        ended, found = self._last_pass
        return FollowFacts(
            changes=before.changes + self._dirty.marked,
            settled=before.settled + self._settler.settled,
            deleted=before.deleted + self._settler.deleted,
            gaps=before.gaps + self._number_of_gaps,
            last_gaps=tuple(self._gaps),
            passes=before.passes + self._passes,
            last_pass=ended,
            last_pass_found=found,
            step_seconds=before.step_seconds + self._step_seconds + step,
            incomparable=self._incomparable,
            lossy=self._lossy,
            accepted_failures=len(self._accepted),
            cutover=self._cutover.facts if self._cutover else before.cutover,
        )

    def _stat(self, now: float) -> FollowStat:
        """Return how the follow stands."""
        changes, settled = self._per_second(now)
        return FollowStat(
            self._phase,
            self._kind,
            self._follow_facts(),
            self._lag(now),
            len(self._dirty),
            changes,
            settled,
            self._pass.fraction if self._pass else None,
            self._held_deletes,
            len(self._settler.failed),
            self._in_step_since,
            self._waits_for(),
        )

    def _lag(self, now: float) -> float | None:
        if not self._settles or not self._feed:
            return None
        oldest = self._dirty.oldest
        waited = 0.0 if oldest == math.inf else max(0.0, now - oldest)
        return max(waited, self._feed.silent_for(now))

    def _waits_for(self) -> str:
        if self._held_deletes:
            return (
                f"the source lacks {count_of(self._held_deletes, 'key')} that the target has: "
                f"rumpx ctl {self._ledger.record.name} accept-deletes"
            )
        unaccepted = len(self._settler.failed - self._accepted)
        if self._settles and unaccepted and not self._pass:
            return (
                f"{count_of(unaccepted, 'key')} cannot be copied: rumpx ctl "
                f"{self._ledger.record.name} accept-failures"
            )
        return ""

    def _unsettled(self) -> str:
        if self._phase == "in step":
            return f"{count_of(len(self._dirty), 'changed key')} not settled yet"
        return f"it is {self._phase}"

    def _per_second(self, now: float) -> tuple[float, float]:
        history = self._rates
        history.append((now, self._dirty.marked, self._settler.settled))
        while len(history) > 2 and history[0][0] < now - _RATE_SECONDS:
            history.popleft()
        then, marked, settled = history[0]
        span = max(now - then, 1e-6)
        if len(history) == 1:
            return 0.0, 0.0
        return (
            (self._dirty.marked - marked) / span,
            (self._settler.settled - settled) / span,
        )

    def _status(self) -> dict[str, Any]:
        return super()._status() | {"follow": to_plain(self._stat(time.monotonic()))}

    def _execute(self, request: Request) -> dict[str, Any]:
        match request:
            case AcceptDeletes():
                if not self._held_deletes:
                    raise UsageError("No deletes wait for your consent.")
                self._consented = True
                self._control.wake()
                return self._status()
            case AcceptFailures():
                if not self._settler.failed:
                    raise UsageError("No key has failed.")
                self._accepted = set(self._settler.failed)
                self._control.wake()
                return self._status()
            case CutoverRequest():
                if self._wants_cutover:
                    raise UsageError("A cutover is under way already.")
                self._cutover = Cutover(request, self)
                self._control.wake()
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
