"""The result of a run: a Summary of a copy, a Verification of a comparison.

The API returns them, and `--summary` writes them as JSON.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rumpx.model.content import NO_CONTENT, Content
from rumpx.model.counts import Counts
from rumpx.model.follow import FollowStat
from rumpx.model.snapshot import State

SUMMARY_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class KeyFailure:
    """A key that could not be copied: `reason` is a short class of reasons ("NOPERM",
    "bad payload", "busy key", …), `message` the server's reply."""

    db: int
    key: bytes
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class KeyLoss:
    """A key that was copied without something that the target cannot hold: `what` is "field
    expiries" or "stream counters"."""

    db: int
    key: bytes
    what: str


KeyNote = KeyFailure | KeyLoss
"""A key that a ledger lists."""

Back = Literal["walked", "not needed", "not done"]
FindingKind = Literal["missing", "extra", "type", "value", "expiry", "incomparable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A key that differs between the sides, or cannot be compared.

    Attributes:
        db: the source's database.
        detail: of the difference, without any value: "string, list", "+1000 ms"; of a value that
            cannot be compared its type.
        prints: a fingerprint of a few bytes for each side's value, to detect later changes; empty
            if there is no value.
        expiries: of both sides, ms since 1970; -1 is none, -2 no such key.
    """

    db: int
    key: bytes
    kind: FindingKind
    detail: str = ""
    prints: tuple[bytes, bytes] = (b"", b"")
    expiries: tuple[int, int] = (-2, -2)


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """One partition's bounds (as text), node, database and counts."""

    node: str
    db: int
    bounds: str
    counts: Counts
    complete: bool


@dataclass(frozen=True, slots=True)
class PrefixDifferences:
    """Numbers of differing keys with a prefix, by kind."""

    prefix: str
    kinds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a comparison of both sides.

    Attributes:
        state: "done", "failed" or "stopped".
        exit_code: 0 all equal, 3 some keys could not be read, 4 some differ (with `strict` also if
            some cannot be compared).
        source, target, source_version, target_version: as in Summary.
        seconds: from the first SCAN to the end.
        counts: `equal`, `different`, `missing`, `extra`, `changing`, `incomparable`, `found`,
            `gone` and `failed` before repairs; `copied` and `deleted` are repairs.
        keys_per_second, bytes_per_second: of the source's keys and payloads.
        proof: the evidence for "equal", in words.
        sample: the evidence of a sample, in words; "" if all keys were compared.
        back: the walk over the target's keys: "walked", or "not needed" if key counts prove that
            there are no extra ones, or "not done".
        differences: number of differing keys by kind: missing, extra, type, value, expiry.
        prefixes: the same by key prefix, the most frequent first; at most ten.
        differences_file: lists all of them, as JSON lines; None if there are none.
        repaired: differences that were repaired, and then found equal.
        failures_by_reason, failures: keys that could not be compared; at most 1,000 are listed.
        worker_restarts, warnings, error: as in Summary.
        incomparable: number of keys by the type of their values, which cannot be compared: found
            ones, and those copied by a repair.
    """

    state: State
    exit_code: int
    source: str
    target: str
    source_version: str
    target_version: str
    seconds: float
    counts: Counts
    keys_per_second: float
    bytes_per_second: float
    proof: str
    sample: str
    back: Back
    differences: dict[str, int]
    prefixes: tuple[PrefixDifferences, ...]
    differences_file: str | None
    repaired: int
    failures_by_reason: dict[str, int]
    failures: tuple[KeyFailure, ...]
    worker_restarts: int
    warnings: tuple[str, ...]
    error: str = ""
    incomparable: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `--summary`: every attribute by its name, and "version"."""
        return _document(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a copy.

    Attributes:
        state: "done", "failed" or "stopped".
        exit_code: the command's exit code.
        job: the job's name, for resuming it.
        runs: number of runs of the job, this one included.
        source, target: URIs without credentials.
        source_version, target_version: server versions, as in "valkey 9.1.2".
        target_accepts: versions of payloads that each primary of the target accepts, as in
            "6 to 11, 80"; "" if unknown.
        seconds: from the first SCAN to the last acknowledgement, of all runs together.
        counts: of the whole job, without keys walked twice.
        keys_per_second, bytes_per_second: `counts` over `seconds`; of a job that follows its source
            over the seconds until the copy's walks had ended.
        failures_by_reason: number of failed keys by reason.
        failures: the failed keys, at most 100,000.
        dead_letters: the file that lists all of them; None if none failed.
        losses: number of keys copied without something that the target cannot hold, by what is
            missing: "field expiries", "stream counters".
        losses_file: lists all of them; None if there are none.
        source_keys_before, source_keys_after: DBSIZE in scope, at the start and the end.
        target_keys_before, target_keys_after: the same on the target, or None if unknown.
        missing: keys that the target lacks after the completeness check; 0 if it matched; None if
            it does not apply (filters, or a target that was not empty).
        walked_again: partitions that were walked again, by reason.
        worker_restarts: workers that died and were replaced.
        left_behind: source objects that a copy of keys leaves ("3 functions", "2 ACL users").
        warnings: sentences, in their order.
        partitions: one entry a partition.
        error: the error that ended the run early, or "".
        held_seconds: seconds for which each of `HOLDS` throttled the job, the longest first.
        content: types, sizes and largest keys of the copied data.
        follow: how a job that follows its source stands, or stood when it was last seen; else None.
    """

    state: State
    exit_code: int
    job: str
    runs: int
    source: str
    target: str
    source_version: str
    target_version: str
    seconds: float
    counts: Counts
    keys_per_second: float
    bytes_per_second: float
    failures_by_reason: dict[str, int]
    failures: tuple[KeyFailure, ...]
    dead_letters: str | None
    source_keys_before: int
    source_keys_after: int | None
    target_keys_before: int | None
    target_keys_after: int | None
    missing: int | None
    walked_again: dict[str, int]
    worker_restarts: int
    left_behind: tuple[str, ...]
    warnings: tuple[str, ...]
    partitions: tuple[PartitionSummary, ...] = field(default=())
    error: str = ""
    held_seconds: dict[str, float] = field(default_factory=dict)
    content: Content = NO_CONTENT
    losses: dict[str, int] = field(default_factory=dict)
    losses_file: str | None = None
    target_accepts: str = ""
    follow: FollowStat | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document of `--summary`: every attribute by its name, and "version".

        Key names are text with `backslashreplace` escapes, since JSON has no bytes.
        """
        return _document(self)


def _document(result: Summary | Verification) -> dict[str, Any]:
    document = dataclasses.asdict(result)
    for failure in document["failures"]:
        failure["key"] = failure["key"].decode("utf-8", "backslashreplace")
    if isinstance(result, Summary):
        document["content"] = result.content.to_json()
    return {"version": SUMMARY_VERSION, **document}
