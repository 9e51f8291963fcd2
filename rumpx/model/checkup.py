"""The result of a check, as plain data: shown in the report and written by `--json`.

Times are in seconds unless stated otherwise, sizes in bytes. Key names are text already, with
all unprintable bytes escaped; no value and no password is in here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Literal

Status = Literal["ok", "warn", "fail", "info"]
Spread = Literal["all keys", "spread", "beginning"]

CHECKUP_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Line:
    """The result of one check.

    Attributes:
        status: "ok"; "warn": the copy will run, with this problem; "fail": it will not; "info": a
            fact.
        subject: one word or two.
        text: the finding.
        advice: the remedy; "" if there is none, or `text` has it.
        exit_code: for "fail", the copy's exit code.
    """

    status: Status
    subject: str
    text: str
    advice: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """One primary. `keys` are of all databases; memory of 0 is none or unknown."""

    address: str
    version: str
    mode: str
    role: str
    slots: int
    keys: int
    used_memory: int
    max_memory: int
    policy: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips of `pings` PINGs, one after the other, while nothing is copied, in ms."""

    pings: int
    median: float
    p75: float
    p99: float
    worst: float


@dataclass(frozen=True, slots=True)
class Ends:
    """One side: its URI without credentials, and its servers.

    `modules` is None if the servers do not list them; `latency` is None if the measurement failed.
    """

    uri: str
    version: str
    cluster: bool
    servers: tuple[Server, ...]
    modules: tuple[str, ...] | None
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class TypeCount:
    """Sampled keys of one type. `bytes` is None if MEMORY USAGE is refused."""

    type: str
    keys: int
    bytes: int | None
    encodings: dict[str, int]


@dataclass(frozen=True, slots=True)
class LargeKey:
    """One of the largest keys of the sample."""

    db: int
    key: str
    type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PrefixCount:
    """Sampled keys with a common prefix."""

    prefix: str
    keys: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Sampled:
    """The statistics of a sample of the source's keys.

    Attributes:
        keys: number of sampled keys in scope; `seen` counts those out of scope too.
        spread: "all keys"; or "spread" over the cursor space; or "beginning", if the cursor scheme
            is unknown, so that the sample is a scan's first keys.
        expiring: number of keys with an expiry.
        shortest, median, longest: remaining TTLs of those, in seconds.
        mean_bytes: MEMORY USAGE of a key; None if it is refused.
        denied: keys that the user may not read.
        types, largest, prefixes: the most frequent, or the largest, first.
    """

    keys: int
    seen: int
    spread: Spread
    expiring: int
    shortest: float | None
    median: float | None
    longest: float | None
    mean_bytes: float | None
    denied: int
    types: tuple[TypeCount, ...]
    largest: tuple[LargeKey, ...]
    prefixes: tuple[PrefixCount, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of the copy.

    Attributes:
        keys: in scope.
        bytes: memory on the target; None if sizes are unknown.
        quickest, slowest: seconds.
        rests_on: the inputs of the estimate, in words.
    """

    keys: int
    bytes: int | None
    quickest: float
    slowest: float
    rests_on: str


@dataclass(frozen=True, slots=True)
class Part:
    """One walk of the plan."""

    node: str
    db: int
    bounds: str


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan of the copy; see `rumpx.model.tuning.Tuning`. `bytes_in_flight` is for each
    worker; `on_conflict` is "ask" if the target holds keys and no policy was given."""

    partitions: tuple[Part, ...]
    workers: int
    scanners: int
    scan_count: int
    batch_keys: int
    pipeline_keys: int
    batches_in_flight: int
    bytes_in_flight: int
    on_conflict: str


@dataclass(frozen=True, slots=True)
class Checkup:
    """All findings of a check. A part is None if it could not be checked.

    Attributes:
        exit_code: 0, or the copy's exit code.
        dry_run: requested instead of a copy.
        lines: in the order of the copy's steps.
    """

    exit_code: int
    dry_run: bool
    lines: tuple[Line, ...]
    source: Ends | None
    target: Ends | None
    sample: Sampled | None
    estimate: Estimate | None
    plan: Planned | None

    def to_json(self) -> dict[str, Any]:
        """Return the document of `--json`: every attribute by its name, and "version"."""
        return {"version": CHECKUP_VERSION, **dataclasses.asdict(self)}
