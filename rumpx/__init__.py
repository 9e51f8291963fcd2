"""rumpx copies a live Redis or Valkey keyspace to another server or cluster.

    import rumpx

    if __name__ == "__main__":
        summary = rumpx.copy("redis://old:6379", "rediss://app:secret@new:6380", workers=8)
        print(summary.counts.copied, "keys")

Importing this package is cheap; what talks to servers is imported by the first copy.
"""

from rumpx.api import copy
from rumpx.errors import (
    ConnectionLost,
    Interrupted,
    PayloadIncompatible,
    RumpxError,
    SourceUnusable,
    TargetFull,
    TargetUnusable,
    TemporaryError,
    UsageError,
)
from rumpx.job import Endpoint, Tls, parse_endpoint
from rumpx.report.snapshot import (
    Counts,
    KeyFailure,
    PartitionSummary,
    Row,
    Snapshot,
    Summary,
    WorkerStat,
)

__version__ = "0.1.0"

__all__ = [
    "ConnectionLost",
    "Counts",
    "Endpoint",
    "Interrupted",
    "KeyFailure",
    "PartitionSummary",
    "PayloadIncompatible",
    "Row",
    "RumpxError",
    "Snapshot",
    "SourceUnusable",
    "Summary",
    "TargetFull",
    "TargetUnusable",
    "TemporaryError",
    "Tls",
    "UsageError",
    "WorkerStat",
    "__version__",
    "copy",
    "parse_endpoint",
]
