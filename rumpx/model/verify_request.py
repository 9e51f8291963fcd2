"""The options of a comparison, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from rumpx.errors import UsageError
from rumpx.model import clashes
from rumpx.model.job import Job


@dataclass(frozen=True, slots=True)
class Request:
    """One comparison.

    Attributes:
        job: endpoints, scope and limits, as for a copy.
        sample: the share of the keys to compare, 0.0 to 1.0.
        digests: compare checksums computed by the servers.
        tolerance: ms by which expiries may differ; None chooses by the servers' versions.
        differences: the file for the differences; None creates one in the folder of ledgers.
        repair: copy missing and different keys again.
        delete_extra: delete keys that only the target has.
        yes: delete without asking.
        strict: incomparable values count as differences for the exit code.
        state_dir: the folder of ledgers, if given.
        name: of the compared copy; its ledger then stores the result.
    """

    job: Job
    sample: float = 1.0
    digests: bool = False
    tolerance: int | None = None
    differences: str | None = None
    repair: bool = False
    delete_extra: bool = False
    yes: bool = False
    strict: bool = False
    state_dir: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise UsageError(
                f"--sample is {100 * self.sample:g} %; it must be a share of the keys above 0 % "
                "and up to 100 %."
            )
        if self.tolerance is not None and self.tolerance < 0:
            raise UsageError(f"--ttl-tolerance is {self.tolerance} ms; it must be 0 or more.")
        clashes.refuse(clashes.IN_COMPARISON, self)
