"""The data of a report: a job's whole history, as plain data.

A `Record` is made from the ledger, whether the job has just ended, ended last week, was killed, or
is running; or, for a comparison, from its result. `html` draws a page of it and `tables` a
terminal's text with the same content.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rumpx.model.counts import Counts
from rumpx.model.follow import FollowStat
from rumpx.model.job import Limits
from rumpx.model.results import Summary, Verification
from rumpx.model.timeline import Point

# "killed": running by its ledger, but no process holds it.
Standing = Literal["running", "killed", "stopped", "failed", "done"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a job: its start, and its end if it was recorded.

    Attributes:
        number: the first is 1.
        began, ended: seconds since 1970; `ended` is None while it runs, or if it was killed.
        state: "running" until it has ended, so also if it was killed.
        exit_code: None likewise.
        error: the sentence of the error that ended it, or "".
        version: rumpx's.
        source_version, target_version: as in "valkey 9.1.2".
        target_accepts: as in Summary.
        seconds: of all runs together, at its end.
        counts: of the whole job, at its end.
        failures_by_reason, losses: likewise.
        source_keys_after, target_keys_after, missing, walked_again, worker_restarts, left_behind,
            warnings: as in Summary, of this run.
        follow: of a job that follows its source, as it was at this run's end; else None.
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
    losses: dict[str, int] = field(default_factory=dict)
    source_keys_after: int | None = None
    target_keys_after: int | None = None
    missing: int | None = None
    walked_again: dict[str, int] = field(default_factory=dict)
    worker_restarts: int = 0
    left_behind: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    target_accepts: str = ""
    follow: FollowStat | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """An option as on the command line, without its value if that is a secret. `given` means that
    it is not the default."""

    flag: str
    value: str
    given: bool


@dataclass(frozen=True, slots=True)
class Record:
    """The complete data of a report.

    Attributes:
        state: state of the job.
        exit_code: of its last run; None if that is running, or was killed.
        fraction: 0.0 to 1.0 of its walks that are done.
        summary: of the copy, or of a comparison by itself. (Its `state` and `exit_code` are those
            of a run that ended.)
        options: those in force.
        limits: the same ones of `options`, as values.
        points: the series for the charts.
        runs: the runs of a copy, in order; none for a comparison.
        verification: the result of the job's last comparison, if it came after the last run.
        verified: its time, in seconds since 1970.
        written: time of this record, in seconds since 1970.
        version: of the rumpx that made it.
    """

    state: Standing
    exit_code: int | None
    fraction: float
    summary: Summary | Verification
    options: tuple[Option, ...]
    limits: Limits
    points: tuple[Point, ...]
    runs: tuple[RunRecord, ...]
    verification: Verification | None
    verified: float | None
    written: float
    version: str
