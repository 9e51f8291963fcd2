"""The end of a comparison for people: the same kind of entries as a copy's summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rumpx import units
from rumpx.model.results import Verification
from rumpx.report.text import Entry, failed_keys
from rumpx.text import server
from rumpx.units import count_of

# The columns of the table by prefix, in reading order.
KINDS: Final = ("missing", "extra", "type", "value", "expiry")
_MEANING: Final = {
    "missing": "only on the source",
    "extra": "only on the target",
    "type": "of another type on the target",
    "value": "with another value on the target",
    "expiry": "with another expiry on the target",
}


def outcome(result: Verification) -> str:
    """Describe the whole comparison in one sentence."""
    sample = "a sample of " if result.sample else ""
    keys = count_of(result.counts.compared, "key")
    compared = f"compared {sample}{keys} in {units.duration(result.seconds)}"
    if result.state != "done":
        return f"{result.state}: {compared}"
    differing = sum(result.differences.values())
    unknown = _unknown(result)
    if not differing:
        if result.counts.failed:
            failed = count_of(result.counts.failed, "key")
            return f"{compared}; {failed} could not be compared, all others are equal"
        return f"{compared}{unknown}, all others are equal" if unknown else f"{compared}: all equal"
    if result.repaired == differing:
        return f"{compared}; {count_of(differing, 'difference')} repaired{unknown}"
    left = f"; {units.keys(result.repaired)} repaired" if result.repaired else ""
    return f"{compared}: {count_of(differing, 'key')} {_differ(differing)}{left}{unknown}"


def _unknown(result: Verification) -> str:
    number = sum(result.incomparable.values())
    return f"; {count_of(number, 'key')} not comparable" if number else ""


def _differ(count: int) -> str:
    return "differs" if count == 1 else "differ"


def entries(result: Verification) -> Iterator[Entry]:
    """Yield all entries after the outcome, in reading order."""
    counts = result.counts
    yield Entry("from", server(result.source, result.source_version))
    yield Entry("to", server(result.target, result.target_version))
    rates = units.key_rate(result.keys_per_second), units.byte_rate(result.bytes_per_second)
    yield Entry("rate", ", ".join(rates))
    yield Entry("equal", f"{units.keys(counts.equal)} ({result.proof})")
    if counts.lossy:
        text = f"{units.keys(counts.lossy)} of them without field expiries, as accepted"
        yield Entry("lossy", text, "yellow")
    for kind in KINDS:
        if number := result.differences.get(kind, 0):
            yield Entry(kind, f"{units.keys(number)} {_MEANING[kind]}", "bold red")
    if result.incomparable:
        keys = units.keys(sum(result.incomparable.values()))
        types = ", ".join(f"{t}: {units.keys(n)}" for t, n in result.incomparable.items())
        text = f"{keys} whose modules have no command to compare values ({types})"
        yield Entry("not comparable", text, "yellow")
    if counts.changing:
        text = f"{units.keys(counts.changing)} written during the comparison"
        yield Entry("changing", text, "yellow")
    if counts.gone:
        yield Entry("gone", f"{units.keys(counts.gone)} expired or were deleted meanwhile")
    yield Entry("back", _back(result))
    if result.sample:
        yield Entry("sample", result.sample)
    if result.repaired or counts.deleted:
        text = f"{units.keys(counts.copied)} copied again"
        if counts.deleted:
            text += f", {units.keys(counts.deleted)} deleted from the target"
        yield Entry("repaired", f"{text}, and then found equal: {units.keys(result.repaired)}")
    for reason, count in result.failures_by_reason.items():
        yield Entry(reason, failed_keys(result.failures, reason, count), "red")
    if result.differences_file:
        yield Entry("listed in", result.differences_file)
    for warning in result.warnings:
        yield Entry("warning", warning, "yellow")


def _back(result: Verification) -> str:
    if result.back == "walked":
        return f"{units.keys(result.counts.found)} keys of the target found on the source"
    if result.back == "not needed":
        return "the target has as many keys as were matched, so no extra ones"
    return "extra keys on the target were not searched for"


def prefix_rows(result: Verification, kinds: Sequence[str]) -> Iterator[list[str]]:
    """Yield each prefix, and its numbers of differences of these kinds."""
    for row in result.prefixes:
        numbers = (row.kinds.get(kind, 0) for kind in kinds)
        yield [row.prefix, *(units.keys(n) if n else "" for n in numbers)]


def prefix_entries(result: Verification) -> list[Entry]:
    """Return the same as one line a prefix."""
    return [
        Entry(
            name, ", ".join(f"{n} {kind}" for n, kind in zip(cells, KINDS, strict=True) if n)
        )
        for name, *cells in prefix_rows(result, KINDS)
    ]
