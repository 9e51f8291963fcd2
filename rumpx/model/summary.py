"""Build the Summary of a copy: from its runs, its walks' sums and its series.

The end of a run and a report of a job both use it, so each field of a Summary has one source:

- how the last run ended, and its checks: that run's `RunRecord`;
- workers' deaths and warnings: the RunRecords of all runs that are given;
- rates: the counts over the seconds, both of the last RunRecord; of a job that follows its source
  over the seconds of its copy;
- all others as they are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rumpx.model.content import Content
from rumpx.model.endpoint import Endpoint
from rumpx.model.history import RunRecord, Standing
from rumpx.model.results import KeyFailure, PartitionSummary, Summary
from rumpx.model.snapshot import State
from rumpx.model.timeline import Point, held_seconds

_STATES: Final[dict[Standing, State]] = {
    "done": "done",
    "failed": "failed",
    "stopped": "stopped",
    "killed": "stopped",
    "running": "copying",
}


@dataclass(frozen=True, slots=True)
class Start:
    """The fixed facts of a copy: the job's name, both endpoints, and the keys in scope on each side
    before the first write; on the target None if unknown."""

    job: str
    source: Endpoint
    target: Endpoint
    source_keys: int
    target_keys: int | None


@dataclass(frozen=True, slots=True)
class Walked:
    """The sums of a copy's walks: an entry a partition, and the statistics of the copied keys."""

    partitions: tuple[PartitionSummary, ...]
    content: Content


def summarize(
    start: Start,
    runs: Sequence[RunRecord],
    walked: Walked,
    points: Iterable[Point],
    failures: Sequence[KeyFailure],
    dead_letters: str | None,
    losses_file: str | None,
) -> Summary:
    """Return the Summary of a copy.

    Args:
        start: the fixed facts.
        runs: the runs to report, the last one at the end; its counts and seconds are the job's.
        walked: the sums of the walks.
        points: the series of all runs.
        failures: failed keys to list.
        dead_letters: the path of the file that lists all failed keys; None if none failed.
        losses_file: the same for keys copied with a loss.
    """
    last = runs[-1]
    copied_in = last.follow.facts.copied_in if last.follow else None
    seconds = max(copied_in or last.seconds, 1e-6)
    return Summary(
        state=_STATES[last.state],
        exit_code=last.exit_code or 0,
        job=start.job,
        runs=last.number,
        source=str(start.source),
        target=str(start.target),
        source_version=last.source_version,
        target_version=last.target_version,
        target_accepts=last.target_accepts,
        seconds=last.seconds,
        counts=last.counts,
        keys_per_second=last.counts.settled / seconds,
        bytes_per_second=last.counts.payload_bytes / seconds,
        failures_by_reason=last.failures_by_reason,
        failures=tuple(failures),
        dead_letters=dead_letters,
        source_keys_before=start.source_keys,
        source_keys_after=last.source_keys_after,
        target_keys_before=start.target_keys,
        target_keys_after=last.target_keys_after,
        missing=last.missing,
        walked_again=last.walked_again,
        worker_restarts=sum(run.worker_restarts for run in runs),
        left_behind=last.left_behind,
        warnings=tuple(dict.fromkeys(text for run in runs for text in run.warnings)),
        partitions=walked.partitions,
        error=last.error,
        held_seconds=held_seconds(points),
        content=walked.content,
        losses=last.losses,
        losses_file=losses_file,
        follow=last.follow,
    )
