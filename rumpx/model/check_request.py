"""The options of a check, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rumpx.errors import UsageError
from rumpx.model.job import Job

SAMPLE_KEYS: Final = 10_000
_MOST_KEYS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """One check.

    Attributes:
        job: the copy to check.
        sample: number of the source's keys to sample.
        read_only: write nothing, and so leave out the proof by real payloads.
        dry_run: requested instead of the copy; writes nothing either.
    """

    job: Job
    sample: int = SAMPLE_KEYS
    read_only: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.sample <= _MOST_KEYS:
            raise UsageError(
                f"--sample is {self.sample}; it must be a number of keys from 1 to {_MOST_KEYS}."
            )
