"""How a follow stands: as plain data for displays and the ledger, and in words for people."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rumpx import units
from rumpx.model.counts import Counts

Phase = Literal["collecting", "proving", "in step", "reconciling"]
"""collecting: the copy's walks are under way, and changed keys are only noted.
proving: the first pass compares both sides, and changes are settled.
in step: no event can have been lost since the last pass began, and all that it found is settled.
reconciling: events may have been lost, and a pass looks for their effects."""
FeedKind = Literal["tracking", "notifications", "passes"]
"""Reports that keys have changed: messages of client-side caching; keyspace notifications; or
nothing does, and one pass follows the other."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A moment, in seconds since 1970, at which events may have been lost, and why."""

    at: float
    why: str


CutoverCheck = Literal["changed", "full", "counts"]
"""Compared at a cutover: the keys that were changed since the last pass; all keys; only numbers."""
CutoverOutcome = Literal[
    "", "switch now", "not in step", "not quiet", "differences", "keys not carried", "cancelled"
]
"""The end of a cutover; "" while it is under way."""


@dataclass(frozen=True, slots=True)
class CutoverStep:
    """A step of a cutover: its beginning, in seconds since 1970, and a sentence without its end."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class CutoverFacts:
    """A cutover, as far as it has come.

    Attributes:
        asked: seconds since 1970.
        steps: so far.
        outcome: see `CutoverOutcome`.
        told: sentences for the user about the outcome.
        proven: all that the source acknowledged before this moment, in seconds since 1970, is on
            the target; None if that is not proven.
        check: see `CutoverCheck`.
        compared: keys that were compared.
        share: of the keys that were changed, 0.0 to 1.0.
        last_pass: the end of the last full comparison, in seconds since 1970.
        ignored: writes to keys that were left out of the test for quiet.
        ignores: the globs of these keys.
        not_carried: keys that failed, were copied with an accepted loss, or cannot be compared.
        writers: clients of the source that still wrote.
        way_back: after a success, the way back as a sentence.
    """

    asked: float
    steps: tuple[CutoverStep, ...] = ()
    outcome: CutoverOutcome = ""
    told: tuple[str, ...] = ()
    proven: float | None = None
    check: CutoverCheck = "changed"
    compared: int = 0
    share: float = 1.0
    last_pass: float | None = None
    ignored: int = 0
    ignores: tuple[str, ...] = ()
    not_carried: int = 0
    writers: tuple[str, ...] = ()
    way_back: str = ""


@dataclass(frozen=True, slots=True)
class FollowFacts:
    """The facts of a follow that outlive a run.

    Attributes:
        copied_in: seconds of the job until the walks of the copy had ended; None before.
        changes: names of keys that the source has reported as changed, each as often as it was.
        settled: keys read anew from the source, and written or deleted.
        deleted: of these, the keys that were deleted on the target.
        gaps: the number of gaps so far.
        last_gaps: the last ones, the latest last.
        passes: the number of passes that have ended.
        last_pass: the end of the last one, in seconds since 1970; None if there was none.
        last_pass_found: the differences that it found.
        step_seconds: seconds that it was in step, so far.
        incomparable: keys that the last pass could not compare.
        lossy: keys that the last pass found equal but for an accepted loss.
        accepted_failures: failed keys that do not keep it from being in step, since the user has
            accepted them.
        cutover: the last one that was asked for.
        source: the source's identity (its `run_id`) when the job began, or when a pass last
            deleted what the source lacks; another one may have lost its keys.
    """

    copied_in: float | None = None
    changes: int = 0
    settled: int = 0
    deleted: int = 0
    gaps: int = 0
    last_gaps: tuple[Gap, ...] = ()
    passes: int = 0
    last_pass: float | None = None
    last_pass_found: int = 0
    step_seconds: float = 0.0
    incomparable: int = 0
    lossy: int = 0
    accepted_failures: int = 0
    cutover: CutoverFacts | None = None
    source: str = ""

    @property
    def is_over(self) -> bool:
        """True if the application may have switched to the target."""
        return self.cutover is not None and self.cutover.outcome == "switch now"


@dataclass(frozen=True, slots=True)
class FollowStat:
    """A follow at one instant, or, in a ledger, as it was last seen.

    Attributes:
        phase: see `Phase`.
        feed: see `FeedKind`.
        facts: the sums so far.
        lag: seconds since the oldest change that is not settled, or since a question that the feed
            has not answered; 0.0 if there is none; None before changes are settled at all.
        dirty: keys that have changed and are not settled.
        changes_per_second, settled_per_second: over the last few seconds.
        pass_fraction: of the pass that is under way, 0.0 to 1.0; None if none is.
        held_deletes: keys that only the target has, and that wait for the user's consent to be
            deleted.
        failed: keys that could not be settled.
        in_step_since: seconds since 1970; None if it is not in step.
        waits_for: what the follow waits for, or ""; a sentence for the user.
    """

    phase: Phase
    feed: FeedKind
    facts: FollowFacts
    lag: float | None = None
    dirty: int = 0
    changes_per_second: float = 0.0
    settled_per_second: float = 0.0
    pass_fraction: float | None = None
    held_deletes: int = 0
    failed: int = 0
    in_step_since: float | None = None
    waits_for: str = ""

    @property
    def copied(self) -> bool:
        """True once the walks of the copy have ended."""
        return self.phase != "collecting" or self.facts.copied_in is not None

    @property
    def in_step(self) -> bool:
        """True if the target is in step."""
        return self.phase == "in step"

    def with_failures(self, counts: Counts) -> Counts:
        """Return the counts of the copy, but as failed only those keys that still are: others have
        been settled since."""
        if self.phase == "collecting":
            return counts
        return replace(counts, failed=self.failed)


def follow_in_words(
    follow: FollowStat, *, ended: bool = False, now: float | None = None
) -> list[str]:
    """Return how a follow stands, as a few short texts; the first is the phase.

    The lag is told only of a target that is in step: it says nothing of changes that were missed.

    Args:
        ended: it does not follow any more: tell how it stood then.
        now: seconds since 1970; times of this day are told without their date. None: with it.
    """
    words = [_phase(follow, ended, now)]
    if follow.feed == "passes":
        words += _by_passes(follow, now)
    elif follow.phase == "collecting":
        words.append(f"{units.count_of(follow.dirty, 'changed key')} noted")
    else:
        if follow.in_step and follow.lag is not None:
            words.append(f"{units.age(follow.lag)} behind")
        words.append(f"{units.count_of(follow.dirty, 'key')} to settle")
    if follow.feed != "passes" and not ended:
        words.append(f"{units.keys(follow.changes_per_second)} changes/s")
    if follow.failed:
        words.append(f"{units.count_of(follow.failed, 'key')} failed")
    cutover = follow.facts.cutover
    if cutover and cutover.steps and not cutover.outcome and not ended:
        words.append(f"cutover: {cutover.steps[-1].text}")
    if follow.facts.gaps:
        words.append(_gaps(follow.facts, now))
    return words


def _phase(follow: FollowStat, ended: bool, now: float | None) -> str:
    if ended:
        return f"was {follow.phase}"
    if follow.in_step and follow.in_step_since is not None:
        return f"in step since {units.local_time(follow.in_step_since, now)}"
    part = "" if follow.pass_fraction is None else f"pass {units.percent(follow.pass_fraction)}"
    if follow.feed == "passes" and follow.phase != "collecting":
        return part or ("waiting" if follow.waits_for else "between two passes")
    return f"{follow.phase}, {part}" if part else follow.phase


def _by_passes(follow: FollowStat, now: float | None) -> list[str]:
    words, facts = ["changes are found by passes"], follow.facts
    if facts.last_pass is not None:
        found = units.count_of(facts.last_pass_found, "difference")
        words.append(f"last pass {units.local_time(facts.last_pass, now)} found {found}")
    if follow.dirty:
        words.append(f"{units.count_of(follow.dirty, 'key')} to settle")
    return words


def _gaps(facts: FollowFacts, now: float | None) -> str:
    number = units.count_of(facts.gaps, "gap")
    if not facts.last_gaps:
        return number
    last = facts.last_gaps[-1]
    return f"{number}, last {units.local_time(last.at, now)} ({last.why})"
