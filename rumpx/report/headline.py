"""The head of a report as plain data: the verdict, the times, and the key figures.

`html` and `tables` both draw this and `sections`, so that page and terminal have the same content.
Texts for the end of a run come from `copied` and `verdict`. The record is `legible`; HTML must
still escape its texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from rumpx import units
from rumpx.errors import EXIT_DIFFERENCES
from rumpx.model.counts import Counts
from rumpx.model.follow import FollowStat
from rumpx.model.history import Record
from rumpx.model.results import Summary, Verification
from rumpx.report import copied, verdict
from rumpx.report.summary import told
from rumpx.report.text import Entry, moment

Tone = Literal["", "good", "warn", "bad", "busy"]
EXPLAINED: Final = (
    "Rates are means. Latency is the time of a reply above that of an idle server: of fifty PINGs "
    "a second the second-highest, minus the p75 of PINGs while nothing was copied; of a cluster "
    "the worst node counts. A payload is the result of DUMP for a value, mostly smaller than the "
    "value in memory."
)
_TONES: Final[dict[str, Tone]] = {"green": "good", "yellow": "warn", "red": "bad"}


class Verdict(NamedTuple):
    """The state of the job: a word or two, a sentence, notes, and the purpose and text of the next
    command ("" if there is none)."""

    tone: Tone
    word: str
    sentence: str
    notes: tuple[str, ...] = ()
    purpose: str = ""
    command: str = ""


class Figure(NamedTuple):
    """A key figure or, if `value` is "", a statement."""

    label: str
    value: str
    note: str
    tone: Tone = ""


def tone_of(entry: Entry) -> Tone:
    """Return the tone of a summary's entry."""
    return _TONES.get(entry.style.removeprefix("bold "), "")


# The verdict


def reckoned(record: Record) -> Verdict:
    """Return the verdict."""
    summary = record.summary
    error = summary.error
    notes: tuple[str, ...] = (error,) if error else ()
    if isinstance(summary, Verification):
        how, word = _compared(summary)
        return Verdict(how, word, sentence(verdict.outcome(summary)), notes)
    outcome = sentence(copied.outcome(replace(summary, state="done")))
    follow = followed(record)
    again = ("To follow again" if follow else "To resume", f"rumpx resume {summary.job}")
    notes += _until(record)
    match record.state:
        case "running":
            now = f"State at {moment(record.written)}."
            if follow and follow.in_step:
                return Verdict("good", "In step", outcome, (now,))
            return Verdict("busy", "Following" if follow else "Running", outcome, (now,))
        case "killed":
            note = "Its last run ended without a record: it was killed, or its machine went down."
            return Verdict("warn", "Killed", outcome, (note, *notes), *again)
        case "stopped":
            return Verdict("warn", "Stopped", outcome, notes, *again)
        case "failed":
            said = (outcome, *_until(record)) if error else _until(record)
            return Verdict("bad", "Failed", error or outcome, said, *again)
    if follow and follow.facts.cutover and follow.facts.is_over:
        tone: Tone = "warn" if follow.facts.cutover.not_carried else "good"
        return Verdict(tone, "Cut over", outcome, follow.facts.cutover.told)
    return _done(summary, record.verification, outcome)


def followed(record: Record) -> FollowStat | None:
    """Return how a follow stands that has copied all keys; None for any other job."""
    summary = record.summary
    if isinstance(summary, Summary) and summary.follow and summary.follow.copied:
        return summary.follow
    return None


def _until(record: Record) -> tuple[str, ...]:
    """Return until when a follow that does not run, and is not done, has followed."""
    follow = followed(record)
    if not follow or record.state in ("running", "done"):
        return ()
    ended = record.runs[-1].ended if record.runs else None
    seen = ended or (record.points[-1].at if record.points else record.written)
    until = f"Followed until {moment(seen)}"
    if follow.in_step:
        return (f"{until}: later changes of the source are not on the target.",)
    return (f"{until}, not in step then: changes of the source may be missing on the target.",)


def _done(summary: Summary, then: Verification | None, outcome: str) -> Verdict:
    job = summary.job
    notes = (sentence(f"then {verdict.outcome(then)}"),) if then else ()
    if then and then.state != "done":
        todo = ("To compare everything", f"rumpx verify {job}")
        differ: Tone = "bad" if any(then.differences.values()) else "warn"
        return Verdict(differ, "Done, but the comparison did not finish", outcome, notes, *todo)
    if then and _differ(then):
        todo = ("To repair the differences", f"rumpx verify {job} --repair")
        return Verdict("bad", "Done, but the sides differ", outcome, notes, *todo)
    if summary.counts.failed:
        todo = ("To retry them", f"rumpx resume {job} --retry-failed")
        return Verdict("bad", "Done, except for failed keys", outcome, notes, *todo)
    if then and then.exit_code == EXIT_DIFFERENCES:  # --strict
        return Verdict("bad", "Done, but not all can be compared", outcome, notes)
    if summary.missing:
        return Verdict("bad", "Done, but the target falls short", outcome, notes)
    if then and then.counts.failed:
        todo = ("To compare again", f"rumpx verify {job}")
        return Verdict("warn", "Done, but not all could be compared", outcome, notes, *todo)
    return Verdict("good", "Done", outcome, notes)


def _differ(result: Verification) -> bool:
    """Return True if differences are left."""
    return sum(result.differences.values()) > result.repaired


def _compared(result: Verification) -> tuple[Tone, str]:
    if result.state == "stopped":
        return "warn", "Stopped"
    if result.state != "done":
        return "bad", "Failed"
    if result.exit_code == EXIT_DIFFERENCES:
        return "bad", "The sides differ" if _differ(result) else "Not all can be compared"
    if result.counts.failed:
        return "warn", "Equal, except for failed keys"
    if result.incomparable:
        return "warn", "Equal, as far as can be compared"
    return ("", "The sample is equal") if result.sample else ("good", "Equal")


def sentence(text: str) -> str:
    """Add a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def ends(record: Record) -> list[tuple[str, str, str]]:
    """Return source and target: each URI, and the version there."""
    summary = record.summary
    return [
        ("from", summary.source, summary.source_version),
        ("to", summary.target, summary.target_version),
    ]


def head(record: Record) -> list[Entry]:
    """Return the job, its times and its duration."""
    summary, points = record.summary, record.points
    runs = len(record.runs)
    began = record.runs[0].began if runs else points[0].at - points[0].seconds if points else None
    last = record.runs[-1].ended if runs else points[-1].at if points else None
    entries = []
    if isinstance(summary, Summary):
        entries.append(Entry("job", summary.job))
    if began is not None:
        entries.append(Entry("started", moment(began)))
    if last is not None:
        entries.append(Entry("ended", moment(last)))
    elif record.state == "killed" and points:
        entries.append(Entry("last sign", moment(points[-1].at)))
    within = f", in {runs} runs" if runs > 1 else ""
    entries.append(Entry("running time", units.duration(summary.seconds) + within))
    if record.exit_code is not None:
        then = record.verification
        told = str(record.exit_code)
        if then and then.exit_code != record.exit_code:
            told += f", then {then.exit_code} of the comparison"
        entries.append(Entry("exit code", told))
    return entries


# The key figures


def figures(record: Record) -> list[Figure]:
    """Return the key figures."""
    if isinstance(record.summary, Verification):
        return _figures_of_comparison(record.summary)
    summary = record.summary
    counts = summary.counts
    shown = [
        Figure(
            "keys copied",
            units.keys(counts.copied),
            f"the source had {units.keys(summary.source_keys_before)} at the start",
        ),
        Figure("payloads", units.size(counts.payload_bytes), _mean(counts)),
        _rate(summary),
        Figure(
            "failed",
            units.keys(counts.failed),
            "could not be copied",
            "bad" if counts.failed else "good",
        ),
    ]
    follow = followed(record)
    if follow:
        shown += _figures_of_follow(follow)
    elif record.state != "done":
        shown.append(Figure("done", units.percent(record.fraction), "of the walk"))
    entries = told(summary)[1]
    shown += _numbered(entries, "gone", "skipped", "repeated")
    shown += [
        Figure(entry.label, "", entry.text, tone_of(entry))
        for entry in entries
        if entry.label == "completeness"
    ]
    then = record.verification
    if follow:
        shown += _statements_of_follow(follow)
        if not then:
            return shown
    text = verdict.outcome(then) if then else "not compared"
    return [*shown, Figure("comparison", "", text, _compared(then)[0] if then else "")]


def _figures_of_follow(follow: FollowStat) -> list[Figure]:
    facts = follow.facts
    deleted = f"{units.keys(facts.deleted)} of them deleted"
    shown = [
        Figure("changes settled", units.keys(facts.settled), deleted),
        Figure("gaps", units.keys(facts.gaps), "moments at which changes may have been missed"),
    ]
    if follow.feed != "passes":
        note = "of the time after the copy"
        shown.append(Figure("in step", units.duration(facts.step_seconds), note))
    return shown


def _statements_of_follow(follow: FollowStat) -> list[Figure]:
    facts, shown = follow.facts, []
    if facts.last_pass is not None:
        found = units.count_of(facts.last_pass_found, "difference")
        shown.append(Figure("last pass", "", f"{moment(facts.last_pass)}, found {found}"))
    if follow.waits_for:
        shown.append(Figure("waits for", "", follow.waits_for, "bad"))
    return shown


def _figures_of_comparison(result: Verification) -> list[Figure]:
    counts, differing = result.counts, sum(result.differences.values())
    entries = told(result)[1]
    return [
        Figure("keys compared", units.keys(counts.compared), "of the source"),
        *_numbered(entries, "equal"),
        Figure(
            "different",
            units.keys(differing),
            f"{units.keys(result.repaired)} of them repaired" if result.repaired else "keys",
            "bad" if differing > result.repaired else "good",
        ),
        *_numbered(entries, "not comparable", "changing", "gone"),
        Figure(
            "failed",
            units.keys(counts.failed),
            "could not be compared",
            "bad" if counts.failed else "good",
        ),
        _rate(result),
    ]


def _rate(summary: Summary | Verification) -> Figure:
    rates = units.key_rate(summary.keys_per_second), units.byte_rate(summary.bytes_per_second)
    return Figure("mean rate", *rates)


def _mean(counts: Counts) -> str:
    if not counts.copied:
        return "as returned by DUMP"
    return f"{units.size(counts.payload_bytes / counts.copied)} a key on average"


def _numbered(entries: Iterable[Entry], *labels: str) -> list[Figure]:
    """Return the entries whose text starts with a number."""
    found = []
    for entry in entries:
        if entry.label in labels:
            number, _, note = entry.text.partition(" ")
            found.append(Figure(entry.label, number, note.strip("()"), tone_of(entry)))
    return found
