"""How the work is cut and how much of it is under way, by round trips and numbers of keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# As a rule, on the source: its size, its payload, its expiry.
COMMANDS_A_KEY: Final = 3


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the work is cut and how much of it is under way.

    Attributes:
        scanners: partitions that are walked at the same time.
        partitions: partitions a node and database at most; a power of two.
        scan_count: SCAN's COUNT.
        batch_keys: keys that a worker is given at once.
        pipeline_keys: keys in one pipeline to a server; a batch is worked off in several.
        batches_in_flight: batches that one worker holds at the same time.
    """

    scanners: int
    partitions: int
    scan_count: int
    batch_keys: int
    pipeline_keys: int
    batches_in_flight: int


def tune(
    source_round_trip: float,
    target_round_trip: float,
    *,
    keys: int,
    workers: int,
    nodes: int,
    batch_keys: int = 0,
    partitions: int = 0,
) -> Tuning:
    """Settings from what is measured at the start; round trips are in seconds.

    A server works through one client's pipeline before it turns to the next, so pipelines are
    short where the server is near: 200 keys keep another client's GET at a p50 of 2 ms where 1,000
    make it 6 (measured), for a twentieth of the speed. Batches, which only the coordinator feels,
    are larger, but not so large that few keys, of large values perhaps, all go to one worker.
    Distance is made up for by more batches in flight and more cursors, enough for
    `_GOAL` keys a second.
    """
    near = max(source_round_trip, target_round_trip) < 0.002
    pipeline = batch_keys or (200 if near else 500)
    scan_count = max(pipeline, 500 if near else 1000)
    share = max(1, keys // (_BATCHES_A_WORKER * workers))
    scanners = _between(2, math.ceil(1.5 * _GOAL * source_round_trip / scan_count), 32)
    waiting = _GOAL * (2 * source_round_trip + target_round_trip)
    cut = partitions or max(8, 2 * scanners)
    return Tuning(
        scanners=max(scanners, min(nodes, 16)),
        partitions=1 << math.ceil(math.log2(cut)),
        scan_count=scan_count,
        batch_keys=min(share, max(pipeline, min(1000, 5 * pipeline))),
        pipeline_keys=pipeline,
        batches_in_flight=_between(3, 2 + math.ceil(waiting / (pipeline * workers)), 64),
    )


_GOAL: Final = 200_000
_BATCHES_A_WORKER: Final = 4  # at least, so that all have something to do until the end


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
