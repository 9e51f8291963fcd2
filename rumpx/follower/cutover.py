"""The cutover: prove that the target has all that the source has, and let go of both.

The user has stopped the writers. Then

1. wait until the target is in step (the follower does that);
2. read the source's counters of commands; have the feed prove that it has told all, and settle it,
   streams included, whose groups no feed reports;
3. read the counters again: if a command that may write was called, the source is not *quiet*
   (`quiet`): name keys, commands and clients, and go to 2, until the time is over;
4. compare the keys that were settled since the last pass began, in both directions: a difference is
   settled, and all is compared again, three times at most;
5. refuse if keys were not carried: failed, copied with an accepted loss, or not comparable; the
   user may accept that;
6. have the feed prove once more that nothing is missing, and read the counters once more: the time
   of this look is T1. All that the source acknowledged before T1 is on the target.

Then the follower ends the job: its workers stop, and their connections to the target are closed,
before "switch now" is said. A late write of ours over the application's first one on the target
would be the worst that could happen.

A gap on the way leads back to 1. A cutover that does not succeed leaves the follow as it was. So
does one that is cancelled before step 6 has ended; a comparison that is under way goes on to its
end, since the follow relies on what its last pass has found.

Not promised: that a writer which was silent for a second stays silent. With `verify=changed`, what
the last pass compared and no feed has reported since is not compared again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from rumpx.ctl.server import Cutover as Request
from rumpx.engine.plan import Plan, key_partitions
from rumpx.errors import printable
from rumpx.follower import way_back
from rumpx.follower.changed import Changed
from rumpx.follower.passes import Pass
from rumpx.follower.quiet import Heard, Noise, Told, groups_of, noise, write_commands, writers
from rumpx.follower.watch import Look, look_at
from rumpx.model.follow import CutoverFacts, CutoverOutcome, CutoverStep
from rumpx.model.partitions import PASS, Partition
from rumpx.servers.answers import ask_text
from rumpx.servers.resp import Connection
from rumpx.units import count_of

# The source is watched for at least so many seconds.
_LEAST_SECONDS: Final = 1.0
_COMPARISONS: Final = 3
_AGAIN_SECONDS: Final = 0.5
_NAMED: Final = 5

T = TypeVar("T")


class Follows(Protocol):
    """The follower, as a cutover uses it. Each method that takes a while returns early at a gap."""

    @property
    def plan(self) -> Plan:
        """The run's plan."""

    @property
    def has_gap(self) -> bool:
        """True if events may have been lost since the last pass began."""

    @property
    def has_feed(self) -> bool:
        """True if changes are reported; else passes find them."""

    @property
    def changed(self) -> Changed:
        """The keys that were settled since then."""

    @property
    def databases(self) -> set[int]:
        """The source's databases that are followed."""

    @property
    def last_pass(self) -> float | None:
        """The end of the last pass, in seconds since 1970."""

    @property
    def not_carried(self) -> dict[str, int]:
        """Numbers of keys that are not as on the source, and known to be so, by the reason."""

    @property
    def failed(self) -> list[bytes]:
        """Some of the keys that could not be settled."""

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Ask the source by a connection of its own, until it answers."""

    def wait(self, seconds: float) -> None:
        """Go on following for some seconds."""

    def see(self, look: Look) -> None:
        """Take a look at the source, for the databases that hold keys."""

    def watched_since(self, moment: float) -> bool:
        """Wait until both sides were looked at since a moment; return False at a gap, or if that
        takes too long."""

    def listen(self, heard: Heard | None) -> None:
        """Have an object receive all names that the feed tells from now on; None ends that. Keys
        that it leaves out may differ meanwhile."""

    def mark_streams(self) -> list[bytes]:
        """Mark all known streams; return them."""

    def settle_all(self) -> bool:
        """Settle all that the source has acknowledged so far; return False at a gap."""

    def compare(self, partitions: Sequence[Partition]) -> Pass:
        """Do the walks of a comparison, whose findings are marked."""

    def pass_once(self) -> Pass | None:
        """Compare all keys; None at a gap."""

    def count(self) -> list[tuple[int, int, int]]:
        """Return the numbers of keys of each database followed, on both sides."""


class Cutover:
    """A cutover that was asked for.

    Args:
        request: its options.
        follows: the follower.

    Attributes:
        facts: as far as it has come.
    """

    def __init__(self, request: Request, follows: Follows) -> None:
        self._request = request
        self._follows = follows
        self._until = time.monotonic() + request.timeout
        self._writes: frozenset[str] | None = None
        self._settling = 0.0
        self._waits = True
        self._writers: tuple[str, ...] = ()
        self.facts = CutoverFacts(time.time(), check=request.verify, ignores=request.ignore)
        self._step("waiting until the target is in step")

    @property
    def over(self) -> bool:
        """True if it has ended, or has nothing to prove any more."""
        return self.facts.outcome != "" or self.proven

    @property
    def proven(self) -> bool:
        """True if all is on the target; it has succeeded once nothing of ours can write there."""
        return self.facts.proven is not None

    @property
    def late(self) -> bool:
        """True if its time is over while it waits for the target to be in step."""
        return self._waits and not self.over and time.monotonic() > self._until

    def expire(self, why: str) -> None:
        """End it, since it is late; `why` is a clause."""
        if self._writers:
            self._give_up()
        else:
            self._end("not in step", f"The target is not in step: {why}.")

    def cancel(self) -> None:
        """End it at the user's request; it must not be over."""
        self._end("cancelled", "The cutover is cancelled: the job follows its source as before.")

    def run(self) -> None:
        """Do the steps, until it has ended or a gap has come."""
        follows = self._follows
        if self._writes is None:
            self._writes = write_commands(follows.ask(lambda c: c.call("COMMAND")))
        heard = Heard(glob.encode() for glob in self._request.ignore)
        try:
            while not (self.over or follows.has_gap):
                self._waits = True
                self._attempt(heard)
        finally:
            self._waits = True
            follows.listen(None)

    def _attempt(self, heard: Heard) -> None:
        """Do the steps once; either it has ended then, or it is not quiet, or a gap has come."""
        follows, began = self._follows, time.monotonic()
        self._step("settling all changes so far")
        before = self._look()
        if not before:
            return
        heard.reset()
        follows.listen(heard)
        streams = follows.mark_streams()
        groups = follows.ask(lambda c: groups_of(c, follows.databases, streams))

        def same_groups() -> bool:
            return follows.ask(lambda c: groups_of(c, follows.databases, streams)) == groups

        def found() -> Noise | None:
            told = heard.told  # before the look, which then shows all expiries that were told
            now = self._look()
            if not now:
                return None
            return noise(
                before,
                now,
                self._writes or frozenset(),
                told,
                ignores=bool(self._request.ignore) and follows.has_feed,
                same_groups=same_groups,
            )

        def quiet() -> bool:
            self._settling = time.time()
            if not follows.settle_all() or self.over:
                return False
            if first := found():
                follows.wait(_AGAIN_SECONDS)  # more of it shows who writes
                self._not_quiet(found() or first, began)
            return not (first or self.over)

        if not quiet():
            return
        self._waits = False  # from here on it takes as long as it takes
        if not self._differs_not(quiet) or self.over or not self._carries():
            return
        self._step("watching the source once more")
        follows.wait(began + _LEAST_SECONDS - time.monotonic())
        # What only the watches notice, as a target that has restarted, is a gap by then.
        if follows.watched_since(time.monotonic()) and quiet() and not follows.has_gap:
            self._succeed(heard.told)

    def _look(self) -> Look | None:
        """Look at the source; end the cutover, and return None, if that cannot show whether it is
        written: without its counters, or the list of its commands, the names that the feed tells
        must do."""
        look = self._follows.ask(look_at)
        if look and not self._writes:
            look = replace(look, calls=None)
        if look and look.info.role == "slave":
            self._end(
                "not quiet",
                "The source is a replica, which may lack the last writes of its primary: nothing "
                "shows that it has them all. Follow the primary.",
            )
            return None
        if look:
            self._follows.see(look)
        if look and (self._follows.has_feed or look.calls is not None):
            return look
        refused = "INFO commandstats, or COMMAND, and has no feed" if look else "INFO"
        self._end(
            "not quiet",
            f"Nothing shows that the source is not written any more, since it refuses {refused}.",
            "Allow it to the source's user, and ask again; the target is followed as before.",
        )
        return None

    def _not_quiet(self, found: Noise, began: float) -> None:
        """Tell who writes, and try again or give up."""
        clients = self._follows.ask(lambda c: ask_text(c, "CLIENT", "LIST")) or ""
        who = writers(clients, self._writes or frozenset(), time.monotonic() - began + 1)
        written = f"The source is still written: {found}"
        named = (f"Clients that write: {', '.join(who)}.",) if who else ()
        self._writers = (f"{written}.", *named)
        self.facts = replace(self.facts, writers=tuple(who))
        if time.monotonic() > self._until:
            self._give_up()
            return
        self._step(written)

    def _give_up(self) -> None:
        """End it, since the source was written all the time."""
        told = "Stop them, and ask again; the target stays in step."
        self._end("not quiet", *self._writers, told)

    def _differs_not(self, quiet: Callable[[], bool]) -> bool:
        """Compare; return True if nothing differs. Without a feed, a full pass that finds nothing
        takes its place.

        Args:
            quiet: settles what differs; returns False if the source is written, which explains it.
        """
        check, found = self._request.verify if self._follows.has_feed else "full", 0
        self.facts = replace(self.facts, check=check)
        for _ in range(_COMPARISONS):
            if check == "counts":
                return self._count(quiet)
            differ = self._compare_all() if check == "full" else self._compare_changed()
            if differ is None or self.over:
                return False
            if not differ:
                return self._count(quiet)
            found = differ
            self._step(f"settling {count_of(found, 'key')} that differed")
            if not quiet():
                return False
        self._end(
            "differences",
            f"{count_of(found, 'key')} still {'differs' if found == 1 else 'differ'} after "
            f"{_COMPARISONS} comparisons. The job goes on; rumpx verify lists them.",
        )
        return False

    def _compare_all(self) -> int | None:
        self._step("comparing all keys")
        done = self._follows.pass_once()
        if done is None:
            return None
        self.facts = replace(self.facts, compared=done.compared)
        return done.differences

    def _compare_changed(self) -> int | None:
        """Compare the keys that were settled since the last pass began, in both directions."""
        follows, plan = self._follows, self._follows.plan
        names, share = follows.changed.names, follows.changed.share
        some = "" if share == 1.0 else f", a random {share:.1%} of those"
        many = count_of(len(names), "key")
        self._step(f"comparing {many}{some} that changed since the last pass")
        scope = plan.spec.scope
        here = [(db, name) for db in follows.databases for name in names]
        there = [(scope.target_db(db), name) for db, name in here]
        done = follows.compare(
            [
                *key_partitions(plan.source.topology, here, reason=PASS, work="compare"),
                *key_partitions(
                    plan.target.topology, there, reason=PASS, work="look for", side="target"
                ),
            ]
        )
        done.mark_extras()
        if follows.has_gap:
            return None
        self.facts = replace(
            self.facts, compared=len(names), share=share, last_pass=follows.last_pass
        )
        return done.differences

    def _count(self, quiet: Callable[[], bool]) -> bool:
        """Compare the numbers of keys, where none expires and none may be written."""
        if self._request.ignore:
            return True
        differ = [
            f"database {db}: {source:,} keys on the source, {target:,} on the target"
            for db, source, target in self._follows.count()
            if source != target
        ]
        if not differ:
            return True
        if not quiet():
            return False
        self._end(
            "differences",
            f"The numbers of keys differ: {'; '.join(differ)}. Ask again with verify=full.",
        )
        return False

    def _carries(self) -> bool:
        """Return True if all keys were carried, or the user accepts that some were not."""
        missing = self._follows.not_carried
        number = sum(missing.values())
        self.facts = replace(self.facts, not_carried=number)
        if not number:
            return True
        reasons = ", ".join(f"{many:,} {why}" for why, many in missing.items())
        told = f"{_keys_are(number)} not as on the source: {reasons}."
        keys = ", ".join(printable(key) for key in self._follows.failed[:_NAMED])
        if self._request.accept_failed:
            self._step(told.rstrip("."))
            return True
        named = f" Failed: {keys}." if keys else ""
        self._end(
            "keys not carried",
            f"{told}{named}",
            "Mend them, or ask again with accept-failed; the target stays in step.",
        )
        return False

    def _succeed(self, told: Told) -> None:
        self.facts = replace(
            self.facts,
            proven=self._settling,
            ignored=told.ignored,
            last_pass=self._follows.last_pass,
        )
        self._step("closing all connections to the target")

    def confirm(self) -> None:
        """End it: it is proven, and nothing of ours can write to the target any more."""
        self.facts = replace(self.facts, way_back=way_back.told(self._follows.plan.job))
        self._end("switch now", *sentences(self.facts))

    # The facts.

    def _step(self, text: str) -> None:
        steps = self.facts.steps
        if not steps or steps[-1].text != text:
            self.facts = replace(self.facts, steps=(*steps[-50:], CutoverStep(time.time(), text)))

    def _end(self, outcome: CutoverOutcome, *told: str) -> None:
        """End it, unless it was cancelled meanwhile."""
        if not self.facts.outcome:
            self.facts = replace(self.facts, outcome=outcome, told=told)


def sentences(facts: CutoverFacts) -> tuple[str, ...]:
    """Return what a cutover has proven, as sentences for the user."""
    assert facts.proven is not None
    told = []
    if facts.not_carried:
        told.append(f"{_keys_are(facts.not_carried)} not as on the source, as you accept.")
    told.append(
        f"All that the source acknowledged before {clock_time(facts.proven)} is on the target."
    )
    if facts.check == "full":
        told.append(f"All {facts.compared:,} keys were compared after the last write.")
    else:
        when = clock_time(facts.last_pass) if facts.last_pass else "never"
        told.append(f"The last full comparison was at {when}.")
    if facts.check == "changed":
        some = "" if facts.share == 1.0 else f" (a random {facts.share:.1%} of those changed)"
        told.append(f"{count_of(facts.compared, 'key')} changed since then compared again{some}.")
    if facts.ignores:
        told.append(
            f"{facts.ignored:,} writes to keys that match {', '.join(facts.ignores)} were ignored."
        )
    told.append("Nothing of rumpx writes to the target any more: switch now.")
    return tuple(told)


def _keys_are(number: int) -> str:
    return f"{count_of(number, 'key')} {'is' if number == 1 else 'are'}"


def clock_time(at: float) -> str:
    """Return a time of the day, with milliseconds: 03:12:09.123."""
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"
