"""The sizes of batches and pipelines and the concurrency, by round trips and numbers of keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# Shorter pipelines gain other clients nothing.
FEWEST_KEYS: Final = 50
# Seconds for which a key of a usual size occupies the source, until that is measured.
KEY_SECONDS: Final = 5e-6
# The part of a latency limit for which one pipeline may occupy the source.
PIPELINE_PART: Final = 0.3
# The usual commands on the source: size, payload, expiry.
COMMANDS_A_KEY: Final = 3


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes and concurrency of the work.

    Attributes:
        workers: processes.
        scanners: partitions that are walked at the same time.
        partitions: partitions a node and database at most; a power of two.
        scan_count: SCAN's COUNT.
        batch_keys: keys in a worker's batch.
        pipeline_keys: keys in one pipeline to a server; a batch takes several.
        batches_in_flight: batches that one worker holds at the same time.
    """

    workers: int
    scanners: int
    partitions: int
    scan_count: int
    batch_keys: int
    pipeline_keys: int
    batches_in_flight: int


def worker_count(nodes: int, cores: int, *, encrypted: bool) -> int:
    """Return how many workers keep the servers busy.

    A key costs a worker about as much CPU as it costs the source, and with TLS twice as much. Two
    workers a node keep it busy while one of them waits for the other side. More than this machine
    has cores only take turns; but two are needed in any case.

    Args:
        nodes: those that work at the same time, on the side that has fewer.
        cores: of this machine.
        encrypted: a side uses TLS.
    """
    return _between(2, nodes * (4 if encrypted else 2), max(2, min(cores, _MOST_WORKERS)))


def tune(
    source_round_trip: float,
    target_round_trip: float,
    *,
    keys: int,
    workers: int,
    nodes: int,
    batch_keys: int = 0,
    partitions: int = 0,
    latency_limit: float = math.inf,
    walks: int = 0,
) -> Tuning:
    """Return settings for measurements at the start; round trips, and the limit of the source's or
    the target's latency, are in seconds; `walks` is how many a backend can do at once, if not as
    many as there are `scanners`.

    A server executes one client's pipeline before it serves the next client, so a latency limit
    shortens pipelines; each chunk of keys costs a worker as much as 50 keys do, so without a limit
    they are long. More batches in flight and more cursors compensate for distance, enough for
    `_GOAL` keys a second.
    """
    pipeline = batch_keys or _pipeline_keys(_PIPELINE_KEYS, latency_limit)
    scan_count = max(pipeline, 1000)
    scanners = _between(2, math.ceil(1.5 * _GOAL * source_round_trip / scan_count), 32)
    waiting = _GOAL * (2 * source_round_trip + target_round_trip)
    cut = partitions or max(8, 2 * scanners, _WALKS_A_THREAD * walks / nodes)
    return Tuning(
        workers=workers,
        scanners=max(scanners, min(nodes, 16)),
        partitions=1 << math.ceil(math.log2(cut)),
        scan_count=scan_count,
        batch_keys=fitting_batch(keys, workers, pipeline),
        pipeline_keys=pipeline,
        batches_in_flight=_between(
            max(FEWEST_BATCHES, math.ceil(_BUSY_BATCHES / workers)),
            2 + math.ceil(waiting / (pipeline * workers)),
            _MOST_BATCHES,
        ),
    )


def fitting_batch(keys: int, workers: int, pipeline: int) -> int:
    """Return the keys in a batch, where so many keys are walked, by pipelines of that length.

    Batches affect only the coordinator, which takes a quarter less CPU with 2,000 keys than with
    1,000 (measured); but they are not so large that few keys, of large values perhaps, all go to
    one worker.
    """
    share = max(1, keys // max(_FEWEST_SHARES, _SHARES_A_WORKER * workers))
    return min(share, max(pipeline, min(_BATCH_KEYS, 5 * pipeline)))


def _pipeline_keys(most: int, latency_limit: float) -> int:
    if most * KEY_SECONDS <= PIPELINE_PART * latency_limit:
        return most
    return max(FEWEST_KEYS, int(PIPELINE_PART * latency_limit / KEY_SECONDS))


_GOAL: Final = 200_000
_MOST_WORKERS: Final = 32
# The least batches that one worker holds at full speed, and those of all workers that keep a near
# server busy.
FEWEST_BATCHES: Final = 3
_BUSY_BATCHES: Final = 8
_MOST_BATCHES: Final = 64
_PIPELINE_KEYS: Final = 500
_BATCH_KEYS: Final = 2000
# Walks for each thread that does them, so that the last ones do not leave the others idle.
_WALKS_A_THREAD: Final = 4
# Batches of a whole run, at least, so that all workers have work until the end.
_SHARES_A_WORKER: Final = 4
_FEWEST_SHARES: Final = 16


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))
