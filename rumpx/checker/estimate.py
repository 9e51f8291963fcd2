"""Estimate a copy's duration and its keys' memory by arithmetic on measured values.

Time: each key and each byte adds its share, at rates between those of a slow and of a fast
machine, and no faster than round trips allow: scans wait for each reply, and the data in flight
are bounded. Memory: the mean of MEMORY USAGE, plus the table entries of keys and expiries.

Not promised: more than an order of magnitude for the time. The network's bandwidth, the servers'
other clients and this machine's load are not measured, hence the wide range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rumpx.model.tuning import Tuning

# A copy's keys a second: on two busy cores (benchmarks/README.md), and on separate machines.
_SLOW_KEYS: Final = 50_000
_FAST_KEYS: Final = 250_000
# Bytes a second on the same; the servers' compression and checksums are the limit.
_SLOW_BYTES: Final = 50e6
_FAST_BYTES: Final = 250e6
_START: Final = 0.3
# Beside the bytes in MEMORY USAGE: a key's place in the table, which is three quarters full on
# average, and the entry of an expiry in its own table.
_TABLE_BYTES: Final = 12
_EXPIRY_BYTES: Final = 40
# A key's entry in the table and the head of its value: in MEMORY USAGE, but not in the dataset
# memory of INFO.
ENTRY_BYTES: Final = 24
# Versions store the same values in different sizes.
UNCERTAINTY: Final = 0.2


@dataclass(frozen=True, slots=True)
class Distance:
    """Round trips to both sides, in seconds."""

    source: float
    target: float


def seconds_needed(
    keys: int,
    mean_bytes: float,
    distance: Distance,
    tuning: Tuning,
    *,
    workers: int,
    partitions: int,
) -> tuple[float, float]:
    """Return the shortest and the longest likely duration of a copy.

    Args:
        keys: to be copied.
        mean_bytes: of a value.
        partitions: possible concurrent walks, within the limits of `tuning`.
    """
    most = most_keys_a_second(distance, tuning, workers=workers, partitions=partitions)
    quickest = keys / min(_FAST_KEYS, most) + keys * mean_bytes / _FAST_BYTES
    slowest = keys / min(_SLOW_KEYS, most / 2) + keys * mean_bytes / _SLOW_BYTES
    return _START + quickest, 2 * _START + slowest


def most_keys_a_second(
    distance: Distance, tuning: Tuning, *, workers: int, partitions: int
) -> float:
    """Return the keys a second that round trips allow the scans and the pipelines in flight."""
    scanned = min(tuning.scanners, max(1, partitions)) * tuning.scan_count
    in_flight = workers * tuning.batches_in_flight * tuning.pipeline_keys
    return min(
        scanned / max(distance.source, 1e-6),
        in_flight / max(2 * distance.source + distance.target, 1e-6),
    )


def memory_needed(keys: int, mean_bytes: float, expiring: float) -> int:
    """Return the bytes needed on the target.

    Args:
        expiring: the share of keys with an expiry, 0.0 to 1.0.
    """
    return round(keys * (mean_bytes + _TABLE_BYTES + expiring * _EXPIRY_BYTES))
