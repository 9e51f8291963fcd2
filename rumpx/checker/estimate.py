"""How long a copy may take and how much memory its keys need: arithmetic on what was measured.

Time: each key and each byte costs its share, at rates between those of a slow and of a fast
machine, and no faster than round trips allow: scans wait for each reply, and what is in flight is
bounded. Memory: the mean of MEMORY USAGE, and what the tables of keys and expiries take beside it.

Not promised: more than an order of magnitude for the time. The network's bandwidth, other clients
of the servers and this machine's load are not measured; that is why it is a wide range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rumpx.model.tuning import Tuning

# Keys a second of a copy, everything on two busy cores (README), and on machines of their own.
_SLOW_KEYS: Final = 50_000
_FAST_KEYS: Final = 250_000
# Bytes a second likewise; the servers' compression and checksums are the limit.
_SLOW_BYTES: Final = 50e6
_FAST_BYTES: Final = 250e6
_START: Final = 0.3
# Beside what MEMORY USAGE counts: a key's place in the table, which is on average three quarters
# full, and the entry of an expiry, which has a table of its own.
_TABLE_BYTES: Final = 12
_EXPIRY_BYTES: Final = 40
# A key's entry in the table, and the head of its value: MEMORY USAGE counts them, the memory of the
# data in INFO does not.
ENTRY_BYTES: Final = 24
# Versions store the same values differently.
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
    """The quickest and the slowest that a copy may be.

    Args:
        keys: to be copied.
        mean_bytes: of a value.
        partitions: walks that can be under way, as far as `tuning` lets them.
    """
    most = most_keys_a_second(distance, tuning, workers=workers, partitions=partitions)
    quickest = keys / min(_FAST_KEYS, most) + keys * mean_bytes / _FAST_BYTES
    slowest = keys / min(_SLOW_KEYS, most / 2) + keys * mean_bytes / _SLOW_BYTES
    return _START + quickest, 2 * _START + slowest


def most_keys_a_second(
    distance: Distance, tuning: Tuning, *, workers: int, partitions: int
) -> float:
    """What round trips allow: of the scans, and of the pipelines that are in flight."""
    scanned = min(tuning.scanners, max(1, partitions)) * tuning.scan_count
    in_flight = workers * tuning.batches_in_flight * tuning.pipeline_keys
    return min(
        scanned / max(distance.source, 1e-6),
        in_flight / max(2 * distance.source + distance.target, 1e-6),
    )


def memory_needed(keys: int, mean_bytes: float, expiring: float) -> int:
    """Bytes on the target.

    Args:
        expiring: the part of the keys that have an expiry, 0.0 to 1.0.
    """
    return round(keys * (mean_bytes + _TABLE_BYTES + expiring * _EXPIRY_BYTES))
