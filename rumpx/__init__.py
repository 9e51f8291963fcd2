"""rumpx copies a live Redis or Valkey keyspace to another server or cluster.

    import rumpx

    if __name__ == "__main__":
        summary = rumpx.copy("redis://old:6379", "rediss://app:secret@new:6380", workers=8)
        print(summary.counts.copied, "keys")

Importing this package is cheap; what talks to servers is imported by the first copy.
"""

from typing import TYPE_CHECKING, Any

from rumpx._version import __version__
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
    from rumpx.api import (
        CheckOptions,
        CopyOptions,
        VerifyOptions,
        check,
        copy,
        resume,
        verify,
    )
    from rumpx.model.checkup import Checkup
    from rumpx.model.counts import Counts
    from rumpx.model.endpoint import Endpoint, Tls, parse_endpoint
    from rumpx.model.follow import FollowFacts, FollowStat
    from rumpx.model.job import Limits
    from rumpx.model.results import (
        KeyFailure,
        PartitionSummary,
        PrefixDifferences,
        Summary,
        Verification,
    )
    from rumpx.model.snapshot import Row, Snapshot, WorkerStat

__all__ = [
    "CheckOptions",
    "Checkup",
    "ConnectionLost",
    "CopyOptions",
    "Counts",
    "Endpoint",
    "FollowFacts",
    "FollowStat",
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
    "VerifyOptions",
    "WorkerStat",
    "__version__",
    "check",
    "copy",
    "parse_endpoint",
    "resume",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the API's functions and data when first named: `rumpx --help` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rumpx import api
    from rumpx.model import checkup, counts, endpoint, follow, job, results, snapshot

    homes = (api, checkup, counts, endpoint, follow, job, results, snapshot)
    return next(getattr(home, name) for home in homes if hasattr(home, name))


def __dir__() -> list[str]:
    return __all__
