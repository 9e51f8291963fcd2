"""rumpx copies a live Redis or Valkey keyspace to another server or cluster.

    import rumpx

    if __name__ == "__main__":
        summary = rumpx.copy("redis://old:6379", "rediss://app:secret@new:6380", workers=8)
        print(summary.counts.copied, "keys")

Importing this package is cheap; what talks to servers is imported by the first copy.
"""

from typing import TYPE_CHECKING, Any

from rumpx.api import check, copy, resume, verify
from rumpx.errors import (
    ConnectionLost,
    Interrupted,
    JobHeld,
    PayloadIncompatible,
    RumpxError,
    SourceUnusable,
    TargetFull,
    TargetUnusable,
    TemporaryError,
    TimeOver,
    TooManyFailures,
    UsageError,
)

if TYPE_CHECKING:
    from rumpx.model.checkup import Checkup
    from rumpx.model.job import Endpoint, Limits, Tls, parse_endpoint
    from rumpx.model.snapshot import (
        Counts,
        KeyFailure,
        PartitionSummary,
        PrefixDifferences,
        Row,
        Snapshot,
        Summary,
        Verification,
        WorkerStat,
    )

__version__ = "0.1.0"

__all__ = [
    "Checkup",
    "ConnectionLost",
    "Counts",
    "Endpoint",
    "Interrupted",
    "JobHeld",
    "KeyFailure",
    "Limits",
    "PartitionSummary",
    "PayloadIncompatible",
    "PrefixDifferences",
    "Row",
    "RumpxError",
    "Snapshot",
    "SourceUnusable",
    "Summary",
    "TargetFull",
    "TargetUnusable",
    "TemporaryError",
    "TimeOver",
    "Tls",
    "TooManyFailures",
    "UsageError",
    "Verification",
    "WorkerStat",
    "__version__",
    "check",
    "copy",
    "parse_endpoint",
    "resume",
    "verify",
]


def __getattr__(name: str) -> Any:
    """The plain data of the API, imported when first named: `rumpx --help` needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rumpx.model import checkup as document
    from rumpx.model import job, snapshot

    homes = [home for home in (job, document, snapshot) if hasattr(home, name)]
    return getattr(homes[0], name)


def __dir__() -> list[str]:
    return __all__
