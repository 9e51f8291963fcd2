"""The end of a copy for people: counts of keys by outcome, and notes."""

from __future__ import annotations

from collections.abc import Iterator

from rumpx import units
from rumpx.model.results import Summary
from rumpx.report import follow
from rumpx.report.text import Entry, failed_keys
from rumpx.text import server
from rumpx.units import count_of


def outcome(summary: Summary) -> str:
    """Describe the whole run in one sentence."""
    counts = summary.counts
    took = follow.copied_in(summary)
    copied = f"copied {count_of(counts.copied, 'key')} in {units.duration(took)}"
    if summary.follow and summary.follow.copied:
        followed = units.duration(max(0.0, summary.seconds - took))
        copied += f", then followed for {followed}{follow.outcome(summary.follow)}"
    if summary.state == "stopped":
        return f"stopped: {copied}"
    if summary.state == "failed":
        return f"failed: {copied}"
    if counts.failed:
        return f"{copied}; {units.keys(counts.failed)} could not be copied"
    return copied


def entries(summary: Summary) -> Iterator[Entry]:
    """Yield all entries after the outcome, in reading order."""
    counts = summary.counts
    yield Entry("from", server(summary.source, summary.source_version))
    yield Entry("to", server(summary.target, summary.target_version))
    runs = f", in {summary.runs} runs" if summary.runs > 1 else ""
    yield Entry("job", f"{summary.job}{runs}")
    yield Entry(
        "rate",
        f"{units.key_rate(summary.keys_per_second)}, {units.byte_rate(summary.bytes_per_second)}"
        f" ({units.size(counts.payload_bytes)} in all)",
    )
    if counts.rewritten:
        text = f"{units.keys(counts.rewritten)} rewritten: the target accepts payloads of versions "
        yield Entry("payloads", text + summary.target_accepts)
    if counts.gone:
        yield Entry("gone", f"{units.keys(counts.gone)} expired or were deleted meanwhile")
    if counts.skipped:
        yield Entry("skipped", f"{units.keys(counts.skipped)} that the target already had")
    if counts.repeated:
        yield Entry("repeated", f"{units.keys(counts.repeated)} found again, already on the target")
    if counts.failed:
        yield Entry("failed", units.keys(counts.failed), "bold red")
    for reason, count in summary.failures_by_reason.items():
        yield Entry(f"  {reason}", failed_keys(summary.failures, reason, count))
    if summary.dead_letters:
        yield Entry("listed in", summary.dead_letters)
        yield Entry("try again", f"rumpx resume {summary.job} --retry-failed")
    for what, count in summary.losses.items():
        text = f"the {what} of {units.keys(count)}, which the target cannot hold"
        yield Entry("lost", text, "yellow")
    if summary.losses_file:
        yield Entry("listed in", summary.losses_file)
    if summary.follow and summary.follow.copied:
        yield from follow.entries(summary.follow)
    yield from _completeness(summary)
    if summary.walked_again:
        reasons = [f"{why}: {n}" for why, n in summary.walked_again.items()]
        total = sum(summary.walked_again.values())
        yield Entry("walked again", f"{count_of(total, 'partition')} ({', '.join(reasons)})")
    if summary.worker_restarts:
        verb = "was" if summary.worker_restarts == 1 else "were"
        yield Entry("workers", f"{units.keys(summary.worker_restarts)} died and {verb} replaced")
    if summary.left_behind:
        things = ", ".join(summary.left_behind)
        yield Entry("left behind", f"{things} on the source", "yellow")
    for warning in summary.warnings:
        yield Entry("warning", warning, "yellow")


def _completeness(summary: Summary) -> Iterator[Entry]:
    if summary.missing:
        text = f"the target's key count falls short by {units.keys(summary.missing)}"
        yield Entry("completeness", text, "bold red")
    elif summary.missing == 0:
        yield Entry("completeness", "the target's key count matches", "green")
    elif summary.state == "done" and not summary.follow:
        text = "not checked by key count (filters, or the target was not empty)"
        yield Entry("completeness", text)
