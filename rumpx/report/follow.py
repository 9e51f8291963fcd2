"""A follow for people, after it or while it runs: one sentence, entries, and a table of its gaps.

The ledger has a follow as it was last seen; only a run that has ended in order has seen its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rumpx import units
from rumpx.model.follow import CutoverCheck, CutoverFacts, FeedKind, FollowFacts, FollowStat
from rumpx.model.results import Summary
from rumpx.report.text import Entry, moment
from rumpx.units import count_of

_FEEDS: Final[dict[FeedKind, str]] = {
    "tracking": "messages of client-side caching (CLIENT TRACKING)",
    "notifications": "keyspace notifications",
    "passes": "none: changes are found by passes over both sides",
}


def copied_in(summary: Summary) -> float:
    """Return the seconds of the copy by itself."""
    follow = summary.follow
    if follow and follow.facts.copied_in is not None:
        return follow.facts.copied_in
    return summary.seconds


def outcome(follow: FollowStat) -> str:
    """Describe how a follow stood when it was last seen, as the end of a sentence."""
    if follow.facts.is_over:
        return " and cut over"
    if follow.feed == "passes" and follow.facts.last_pass is not None:
        return f"; the last pass found {count_of(follow.facts.last_pass_found, 'difference')}"
    if not follow.in_step:
        return "; not in step"
    return "; in step" if follow.lag is None else f"; in step, {units.age(follow.lag)} behind"


def entries(follow: FollowStat) -> Iterator[Entry]:
    """Yield the sums of a follow, in reading order."""
    facts = follow.facts
    if follow.waits_for:
        yield Entry("waits for", follow.waits_for, "bold red")
    yield Entry("feed", _FEEDS[follow.feed])
    settled = f"{units.keys(facts.settled)} settled, {units.keys(facts.deleted)} of them deleted"
    reported = "" if follow.feed == "passes" else f"{units.keys(facts.changes)} reported, "
    yield Entry("changes", reported + settled)
    if facts.last_pass is None:
        yield Entry("passes", "none has ended")
    else:
        found = count_of(facts.last_pass_found, "difference")
        last = f"the last ended at {moment(facts.last_pass)} and found {found}"
        yield Entry("passes", f"{units.keys(facts.passes)}; {last}")
    if facts.incomparable:
        text = f"{units.keys(facts.incomparable)} whose modules have no command to compare values"
        yield Entry("not comparable", text, "yellow")
    if facts.lossy:
        text = f"{units.keys(facts.lossy)} without what the target cannot hold, as accepted"
        yield Entry("lossy", text, "yellow")
    yield Entry("gaps", _gaps(follow))
    if follow.feed != "passes":
        yield Entry("in step", f"for {units.duration(facts.step_seconds)} in all")
    if follow.dirty:
        yield Entry("to settle", count_of(follow.dirty, "changed key"))
    if facts.accepted_failures:
        text = f"{count_of(facts.accepted_failures, 'failed key')} that need not be on the target"
        yield Entry("accepted", text, "yellow")


def cutover_entries(facts: CutoverFacts) -> Iterator[Entry]:
    """Yield what a cutover has proven, how, and what not."""
    good = facts.outcome == "switch now"
    outcome = facts.outcome or "none yet"
    yield Entry("outcome", outcome, "green" if good else "bold red")
    yield Entry("asked at", moment(facts.asked))
    if facts.proven is not None:
        yield Entry("proven at", moment(facts.proven))
    yield Entry("compared", _COMPARED[facts.check].format(units.keys(facts.compared)))
    if facts.share < 1:
        share = units.percent(facts.share)
        yield Entry("sample", f"a random {share} of the changed keys, which were many", "yellow")
    if facts.last_pass is not None:
        yield Entry("all compared", f"at {moment(facts.last_pass)}")
    if facts.not_carried:
        text = f"{count_of(facts.not_carried, 'key')}: failed, lossy, or not comparable"
        yield Entry("not carried", text, "yellow")
    if facts.ignores:
        text = f"{units.keys(facts.ignored)} writes to keys that match {', '.join(facts.ignores)}"
        yield Entry("ignored", text, "yellow")
    if facts.way_back:
        yield Entry("way back", facts.way_back)
    if facts.writers:
        label, style = ("wrote before", "") if good else ("still wrote", "bold red")
        yield Entry(label, ", ".join(facts.writers), style)


_COMPARED: Final[dict[CutoverCheck, str]] = {
    "changed": "{} keys, those changed since the last pass",
    "full": "{} keys, all of them",
    "counts": "only the numbers of keys",
}


def _gaps(follow: FollowStat) -> str:
    facts = follow.facts
    if not facts.last_gaps:
        return units.keys(facts.gaps)
    last = facts.last_gaps[-1]
    return f"{units.keys(facts.gaps)}; the last at {moment(last.at)}: {last.why}"


def gap_rows(facts: FollowFacts) -> tuple[tuple[str, str], ...]:
    """Return the time and the reason of each of the last gaps, the latest first."""
    return tuple((moment(gap.at), gap.why) for gap in reversed(facts.last_gaps))
