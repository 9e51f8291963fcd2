"""A job's ledger → the Record from which its report is drawn, at any time.

The ledger is the only source, so it makes no difference if the job has just ended, ended last week,
was killed, or is running. If the last run recorded its end, its own words and counts apply; if it
was killed, or is running, the counts are those in the ledger, at most a second older.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice, starmap
from pathlib import Path
from typing import Final

from rumpx._version import __version__
from rumpx.engine.progress import copied_content, overall, partition_summary, retired_summary
from rumpx.ledger.lock import is_held
from rumpx.ledger.paths import dead_letter_path
from rumpx.ledger.schema import Books, Progressed, open_books
from rumpx.model.history import Record, RunRecord, Standing
from rumpx.model.job_options import options_of
from rumpx.model.results import Summary
from rumpx.model.snapshot import State
from rumpx.model.timeline import Point, held_seconds
from rumpx.transfer.content_stats import Largest

_FAILURES_SHOWN: Final = 1000
_STATES: Final[dict[Standing, State]] = {
    "done": "done",
    "failed": "failed",
    "stopped": "stopped",
    "killed": "stopped",
    "running": "copying",
}


def read_story(path: Path) -> Record:
    """Read a job's whole history for a report.

    Args:
        path: of its ledger.

    Raises:
        UsageError: the ledger cannot be read.
    """
    held = is_held(path)
    with open_books(path) as books:
        progressed, runs, points = books.progressed(), books.runs(), books.points()
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
            summary=_summary(path, books, progressed, standing, runs, latest, points),
            options=options_of(books.record().job),
            points=points,
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
    run: RunRecord | None,
    points: Sequence[Point],
) -> Summary:
    record, facts, walks, retired = books.record(), books.facts(), books.walks(), books.retired()
    sums = [(walk.partition.reason, walk.counts, walk.kinds) for walk in walks]
    sums += [(key.reason, each.counts, each.kinds) for key, each in retired.items()]
    latest = run or RunRecord(progressed.runs, record.created, "", "", "")
    last = latest if latest.ended is not None else None
    counts = last.counts if last else overall(sums)
    seconds = last.seconds if last else progressed.seconds
    letters = dead_letter_path(path)
    return Summary(
        state=_STATES[standing],
        exit_code=(last and last.exit_code) or 0,
        job=record.name,
        runs=progressed.runs,
        source=str(record.job.source),
        target=str(record.job.target),
        source_version=latest.source_version,
        target_version=latest.target_version,
        seconds=seconds,
        counts=counts,
        keys_per_second=counts.settled / max(seconds, 1e-6),
        bytes_per_second=counts.payload_bytes / max(seconds, 1e-6),
        failures_by_reason=last.failures_by_reason if last else books.failures_by_reason(),
        failures=tuple(failed.failure for failed in islice(books.failures(), _FAILURES_SHOWN)),
        dead_letters=str(letters) if progressed.failures and letters.exists() else None,
        source_keys_before=sum(place.keys for place in facts.databases),
        source_keys_after=latest.source_keys_after,
        target_keys_before=facts.before.target.keys if facts.before.target else None,
        target_keys_after=latest.target_keys_after,
        missing=latest.missing,
        walked_again=latest.walked_again,
        worker_restarts=sum(run.worker_restarts for run in runs),
        left_behind=latest.left_behind,
        warnings=tuple(dict.fromkeys(text for run in runs for text in run.warnings)),
        partitions=(
            *(partition_summary(w.partition, w.counts, w.done) for w in walks),
            *starmap(retired_summary, retired.items()),
        ),
        error=latest.error,
        held_seconds=held_seconds(points),
        content=copied_content(sums, Largest(books.largest())),
    )
