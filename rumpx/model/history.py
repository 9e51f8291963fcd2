"""What a report is drawn from: a job's whole story, as plain data.

A `Record` is made from the ledger, whether the job has just ended, ended last week, was killed, or
runs; or, for a comparison, from what it came to. `html` draws a page of it and `tables` a
terminal's text; both say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rumpx.model.counts import Counts
from rumpx.model.results import Summary, Verification
from rumpx.model.timeline import Point

# "killed": the ledger says that it runs, and no process holds it.
Standing = Literal["running", "killed", "stopped", "failed", "done"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One of the runs that a job took: its beginning, and its end if it could tell of that.

    Attributes:
        number: the first is 1.
        began, ended: seconds since 1970; `ended` is None while it runs, or if it was killed.
        state: "running" until it has ended, so also if it was killed.
        exit_code: None likewise.
        error: the sentence that it ended with, or "".
        version: rumpx's.
        source_version, target_version: as in "valkey 9.1.2".
        seconds: of all runs together, at its end.
        counts: of the whole job, at its end.
        failures_by_reason: likewise.
        source_keys_after, target_keys_after, missing, walked_again, worker_restarts, left_behind,
            warnings: as in Summary, of this run.
    """

    number: int
    began: float
    version: str
    source_version: str
    target_version: str
    ended: float | None = None
    state: Standing = "running"
    exit_code: int | None = None
    error: str = ""
    seconds: float = 0.0
    counts: Counts = field(default_factory=Counts)
    failures_by_reason: dict[str, int] = field(default_factory=dict)
    source_keys_after: int | None = None
    target_keys_after: int | None = None
    missing: int | None = None
    walked_again: dict[str, int] = field(default_factory=dict)
    worker_restarts: int = 0
    left_behind: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """An option as on the command line, without its value where that is a secret. `given` says that
    it is not the default."""

    flag: str
    value: str
    given: bool


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that a report says.

    Attributes:
        state: where the job stands.
        exit_code: of its last run; None if that runs, or was killed.
        fraction: 0.0 to 1.0 of its walks that are done.
        summary: of the copy, or of a comparison by itself. (The `state` and `exit_code` in it are
            those of a run that ended.)
        options: those in force.
        points: the series for the charts.
        runs: the runs that a copy took, in order; none for a comparison.
        verification: how the last comparison of the job ended, if one came after the last run.
        verified: when that was, in seconds since 1970.
        written: when this record was made, in seconds since 1970.
        version: of the rumpx that made it.
    """

    state: Standing
    exit_code: int | None
    fraction: float
    summary: Summary | Verification
    options: tuple[Option, ...]
    points: tuple[Point, ...]
    runs: tuple[RunRecord, ...]
    verification: Verification | None
    verified: float | None
    written: float
    version: str
