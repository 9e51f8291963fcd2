"""What a report says first, as plain data: the verdict, when it was, and the key figures.

`html` and `tables` both draw this and `sections`, so that page and terminal say the same. What is
worded at the end of a run already (`copied`, `verdict`) is taken from there. The record is
`legible`; for HTML its texts are still to be escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from rumpx import units
from rumpx.errors import EXIT_DIFFERENCES
from rumpx.model.counts import Counts
from rumpx.model.history import Record
from rumpx.model.results import Summary, Verification
from rumpx.report import copied, verdict
from rumpx.report.summary import told
from rumpx.report.text import Entry

Tone = Literal["", "good", "warn", "bad", "busy"]
EXPLAINED: Final = (
    "Rates are means. Latency is how much longer a side took to answer than at best: of fifty "
    "PINGs a second the second-highest, above the best of the last ten minutes; of a cluster the "
    "worst node counts. A payload is what DUMP gives for a value, mostly less than the value takes "
    "in memory."
)
_TONES: Final[dict[str, Tone]] = {"green": "good", "yellow": "warn", "red": "bad"}


class Verdict(NamedTuple):
    """How the job stands: in a word or two, in a sentence, what to know of it, and what to do by
    which command ("" if there is nothing to do)."""

    tone: Tone
    word: str
    sentence: str
    notes: tuple[str, ...] = ()
    purpose: str = ""
    command: str = ""


class Figure(NamedTuple):
    """A number that matters, or, where `value` is "", a statement."""

    label: str
    value: str
    note: str
    tone: Tone = ""


def moment(at: float) -> str:
    """`2025-03-04 12:31:05 +01:00`: local time."""
    local = datetime.fromtimestamp(at).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S} {local.isoformat()[-6:]}"


def tone_of(entry: Entry) -> Tone:
    """How an entry of the summary is meant."""
    return _TONES.get(entry.style.removeprefix("bold "), "")


# The verdict


def reckoned(record: Record) -> Verdict:
    """The verdict."""
    summary = record.summary
    error = summary.error
    notes = (error,) if error else ()
    if isinstance(summary, Verification):
        tone, word = _compared(summary)
        return Verdict(tone, word, sentence(verdict.outcome(summary)), notes)
    outcome = sentence(copied.outcome(replace(summary, state="done")))
    again = ("To go on", f"rumpx resume {summary.job}")
    match record.state:
        case "running":
            now = f"As it was at {moment(record.written)}."
            return Verdict("busy", "Running", outcome, (now,))
        case "killed":
            note = "Its last run ended without a word: it was killed, or its machine went down."
            return Verdict("warn", "Killed", outcome, (note,), *again)
        case "stopped":
            return Verdict("warn", "Stopped", outcome, notes, *again)
        case "failed":
            return Verdict("bad", "Failed", error or outcome, (outcome,) if error else (), *again)
    return _done(summary, record.verification, outcome)


def _done(summary: Summary, then: Verification | None, outcome: str) -> Verdict:
    job = summary.job
    notes = (sentence(f"then {verdict.outcome(then)}"),) if then else ()
    if then and then.state != "done":
        todo = ("To compare all of it", f"rumpx verify {job}")
        differ: Tone = "bad" if any(then.differences.values()) else "warn"
        return Verdict(differ, "Done, but the comparison did not end", outcome, notes, *todo)
    if then and _differ(then):
        todo = ("To mend what differs", f"rumpx verify {job} --repair")
        return Verdict("bad", "Done, but the sides differ", outcome, notes, *todo)
    if summary.counts.failed:
        todo = ("To try those again", f"rumpx resume {job} --retry-failed")
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
    """Whether differences are left."""
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
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def ends(record: Record) -> list[tuple[str, str, str]]:
    """From where and to where: each URI, and the version there."""
    summary = record.summary
    return [
        ("from", summary.source, summary.source_version),
        ("to", summary.target, summary.target_version),
    ]


def head(record: Record) -> list[Entry]:
    """The job, when it was, and how long it took."""
    summary, points = record.summary, record.points
    runs = len(record.runs)
    began = record.runs[0].began if runs else points[0].at - points[0].seconds if points else None
    last = record.runs[-1].ended if runs else points[-1].at if points else None
    entries = []
    if isinstance(summary, Summary):
        entries.append(Entry("job", summary.job))
    if began is not None:
        entries.append(Entry("began", moment(began)))
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
    """The numbers to be seen first."""
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
    if record.state != "done":
        shown.append(Figure("done", units.percent(record.fraction), "of what is to be walked"))
    entries = told(summary)[1]
    shown += _numbered(entries, "gone", "skipped", "repeated")
    shown += [
        Figure(entry.label, "", entry.text, tone_of(entry))
        for entry in entries
        if entry.label == "completeness"
    ]
    then = record.verification
    text = verdict.outcome(then) if then else "not compared"
    return [*shown, Figure("comparison", "", text, _compared(then)[0] if then else "")]


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
        return "as DUMP gives them"
    return f"{units.size(counts.payload_bytes / counts.copied)} a key on average"


def _numbered(entries: Iterable[Entry], *labels: str) -> list[Figure]:
    """Entries whose text begins with a number."""
    found = []
    for entry in entries:
        if entry.label in labels:
            number, _, note = entry.text.partition(" ")
            found.append(Figure(entry.label, number, note.strip("()"), tone_of(entry)))
    return found
