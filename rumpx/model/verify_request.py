"""What a comparison is to do, as plain data."""

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
        sample: the part of the keys that is compared, 0.0 to 1.0.
        digests: have the servers send checksums of values.
        tolerance: ms by which expiries may differ; None chooses by the servers' versions.
        differences: the file that lists the differences; None makes one in the folder of ledgers.
        repair: copy again what is missing or different.
        delete_extra: and delete what only the target has.
        yes: without asking.
        strict: values that cannot be compared make it end as differences do.
        state_dir: the folder of ledgers, if given.
        name: of the copy that is compared, whose ledger then takes the result.
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
                f"--sample is {100 * self.sample:g} %; give a share of the keys above 0 % and up "
                "to 100 %."
            )
        if self.tolerance is not None and self.tolerance < 0:
            raise UsageError(f"--ttl-tolerance is {self.tolerance} ms; give 0 or more.")
        clashes.refuse(clashes.IN_COMPARISON, self)
