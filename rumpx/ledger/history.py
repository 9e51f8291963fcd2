"""A job's ledger → the Record from which its report is drawn, at any time.

The ledger is the only source, so it makes no difference if the job has just ended, ended last week,
was killed, or is running. If the last run recorded its end, its own words and counts apply; if it
was killed, or is running, the counts are those in the ledger, at most a second older.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from rumpx._version import __version__
from rumpx.engine.sums import overall, walked
from rumpx.ledger.lock import is_held
from rumpx.ledger.paths import dead_letter_path, losses_path
from rumpx.ledger.schema import Books, Facts, JobRecord, Progressed, open_books
from rumpx.model.history import Record, RunRecord, Standing
from rumpx.model.job_options import options_of
from rumpx.model.results import Summary
from rumpx.model.summary import Start, summarize
from rumpx.transfer.content_stats import Largest

_FAILURES_SHOWN: Final = 1000


def read_story(path: Path) -> Record:
    """Read a job's whole history for a report.

    Args:
        path: of its ledger.

    Raises:
        UsageError: the ledger cannot be read.
    """
    held = is_held(path)
    with open_books(path) as books:
        progressed, runs, job = books.progressed(), books.runs(), books.record().job
        compared = books.verification()
        standing: Standing = progressed.state
        latest = next((run for run in runs if run.number == progressed.runs), None)
        if latest and latest.ended is not None:
            standing = latest.state
        elif standing == "running" and not (held or is_held(path)):  # may have started meanwhile
            standing = "killed"
        return Record(
            state=standing,
            exit_code=latest.exit_code if latest else None,
            fraction=1.0 if standing == "done" else progressed.fraction,
            summary=_summary(path, books, progressed, standing, runs, latest),
            options=options_of(job),
            limits=job.limits,
            points=books.points(),
            runs=runs,
            verification=compared[1] if compared else None,
            verified=compared[0] if compared else None,
            written=time.time(),
            version=__version__,
        )


def _summary(
    path: Path,
    books: Books,
    progressed: Progressed,
    standing: Standing,
    runs: Sequence[RunRecord],
    latest: RunRecord | None,
) -> Summary:
    record, facts, walks, retired = books.record(), books.facts(), books.walks(), books.retired()
    sums = [(walk.partition.reason, walk.counts, walk.kinds) for walk in walks]
    sums += [(key.reason, each.counts, each.kinds) for key, each in retired.items()]
    last = latest or RunRecord(progressed.runs, record.created, "", "", "")
    if last.ended is None:
        last = replace(
            last,
            seconds=progressed.seconds,
            counts=overall(sums),
            failures_by_reason=books.failures_by_reason(),
            losses=books.losses_by_kind(),
            follow=facts.followed,
        )
        if facts.followed:
            last = replace(last, counts=facts.followed.with_failures(last.counts))
    earlier = [run for run in runs if run is not latest]
    letters, losses = dead_letter_path(path), losses_path(path)
    return summarize(
        start_of(record, facts),
        [*earlier, replace(last, state=standing)],
        walked(walks, retired, sums, Largest(books.largest())),
        books.points(),
        [failed.note for failed in islice(books.failures(), _FAILURES_SHOWN)],
        str(letters) if progressed.failures and letters.exists() else None,
        str(losses) if losses.exists() else None,
    )


def start_of(record: JobRecord, facts: Facts) -> Start:
    """Return the fixed facts of a job's Summary."""
    target = facts.before.target
    return Start(
        record.name,
        record.job.source,
        record.job.target,
        sum(place.keys for place in facts.databases),
        target.keys if target else None,
    )
