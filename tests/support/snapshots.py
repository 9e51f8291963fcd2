"""Made-up Snapshots, for what is drawn from them."""

from __future__ import annotations

import dataclasses
from typing import Any

from rumpx.model.counts import Counts
from rumpx.model.follow import FollowFacts, FollowStat, Gap, Phase
from rumpx.model.snapshot import Row, Snapshot, State, WorkerStat


def make_rows(count: int, fraction: float = 0.4) -> tuple[Row, ...]:
    return tuple(
        Row(f"part {n + 1}/{count}", fraction, Counts(copied=1000 * n), False) for n in range(count)
    )


def make_workers(*numbers: int) -> tuple[WorkerStat, ...]:
    """Workers of as many machines as there are numbers, so many on each."""
    return tuple(
        WorkerStat(100 + n, 80.0, 50_000_000, 3, f"node-{machine}.example.com")
        for machine, number in enumerate(numbers, 1)
        for n in range(number)
    )


def make_snapshot(state: State = "copying", **changes: Any) -> Snapshot:
    """A copy under way; `changes` are fields of Snapshot."""
    snapshot = Snapshot(
        state=state,
        job="nightly",
        verb="copied",
        source="redis://10.0.0.1:6379/0",
        target="rediss://cache.prod.example.com:6380/0",
        elapsed=62.4,
        fraction=0.4139,
        counts=Counts(copied=412_345, gone=12, payload_bytes=110_000_000),
        keys_expected=1_000_000,
        keys_per_second=172_345.4,
        bytes_per_second=46_100_000.0,
        eta=3.4,
        rows=make_rows(16),
        workers=tuple(WorkerStat(100 + n, 78.2, 52_000_000, 4) for n in range(4)),
        worker_restarts=0,
        batches_in_flight=16,
        coordinator_cpu=43.0,
        coordinator_memory=61_000_000,
    )
    return dataclasses.replace(snapshot, **changes)


GAP_AT = 1_772_480_000.0
WAITS = "the source lacks 3,000 keys that the target has: rumpx ctl nightly accept-deletes"


def make_follow(phase: Phase = "in step", **changes: Any) -> FollowStat:
    """A follow with two gaps behind it; `changes` are fields of FollowStat or of its facts."""
    facts = FollowFacts(
        copied_in=None if phase == "collecting" else 12.5,
        changes=1_234_567,
        settled=1_200_000,
        deleted=12_345,
        gaps=2,
        last_gaps=(
            Gap(GAP_AT, "the feed was lost: the server closed the connection"),
            Gap(GAP_AT + 90_000, "another process answers for the source"),
        ),
        passes=3,
        last_pass=GAP_AT + 91_000,
        last_pass_found=17,
        step_seconds=3_000.0,
    )
    sums = {name: changes.pop(name) for name in list(changes) if hasattr(facts, name)}
    follow = FollowStat(
        phase,
        "tracking",
        dataclasses.replace(facts, **sums),
        lag=None if phase == "collecting" else 0.0034,
        dirty=12,
        changes_per_second=9_640.2,
        settled_per_second=9_512.7,
        in_step_since=GAP_AT + 92_000 if phase == "in step" else None,
    )
    return dataclasses.replace(follow, **changes)
