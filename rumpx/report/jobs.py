"""The table of `rumpx jobs`: one line a job, plain, for cut and grep."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rumpx import units
from rumpx.text import legible

if TYPE_CHECKING:
    from rumpx.ledger.catalog import Listed
    from rumpx.ledger.schema import Progressed

_HEAD = ("JOB", "STATE", "DONE", "FAILED", "STARTED", "SOURCE -> TARGET")


def job_lines(jobs: Iterable[Listed]) -> list[str]:
    """Return a head and a line for each job; times are local."""
    rows = [_HEAD, *(legible(_row(job)) for job in jobs)]
    if len(rows) == 1:
        return ["No jobs."]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    return [
        "  ".join([*(cell.ljust(n) for cell, n in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]


def _row(job: Listed) -> tuple[str, ...]:
    if job.record is None or job.progressed is None:
        return job.name, job.state, "?", "?", "?", job.trouble
    done, record = job.progressed, job.record
    return (
        job.name,
        job.state,
        _done(job.state, done),
        units.keys(done.failures),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created)),
        f"{record.job.source} -> {record.job.target}",
    )


def _done(state: str, done: Progressed) -> str:
    """Return the part that is done; of a follow that has copied all keys how it stands."""
    follow = done.followed
    if follow and follow.copied and state != "done":
        return "in step" if state == "running" and follow.in_step else "copied"
    return units.percent(1.0 if done.state == "done" else min(done.fraction, 0.999))
