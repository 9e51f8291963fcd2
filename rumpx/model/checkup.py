"""What a check found, as plain data: what the report shows and `--json` writes.

Times are in seconds where nothing else is said, sizes in bytes. Key names are text already, with
everything escaped that is not printable; no value and no password is in here.
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
    """One thing that was looked at.

    Attributes:
        status: "ok"; "warn": it will go, but know this; "fail": it will not; "info": a fact.
        subject: one word or two.
        text: what was found.
        advice: what to do about it; "" where there is nothing to do, or `text` says it.
        exit_code: for "fail", the one that the copy would end with.
    """

    status: Status
    subject: str
    text: str
    advice: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """One primary. `keys` are of all databases; memory of 0 is none, or not told."""

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
    """Round trips of `pings` PINGs, one after the other, in ms."""

    pings: int
    median: float
    worst: float


@dataclass(frozen=True, slots=True)
class Ends:
    """One side: its URI without credentials, and what is there.

    `modules` is None where the servers do not tell; `latency` is None if it could not be measured.
    """

    uri: str
    version: str
    cluster: bool
    servers: tuple[Server, ...]
    modules: tuple[str, ...] | None
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class TypeCount:
    """Sampled keys of one type. `bytes` is None where MEMORY USAGE is refused."""

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
    """Sampled keys whose names begin alike."""

    prefix: str
    keys: int
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a sample of the source's keys shows.

    Attributes:
        keys: how many in scope were looked at; `seen` counts those out of scope too.
        spread: "all keys"; or "spread" over the cursor space; or "beginning", where the cursors
            are not known well enough, so that only a scan's first keys were seen.
        expiring: how many have an expiry.
        shortest, median, longest: times left of those, in seconds.
        mean_bytes: MEMORY USAGE of a key; None where it is refused.
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
    """What the copy would take.

    Attributes:
        keys: in scope.
        bytes: memory on the target; None where sizes are unknown.
        quickest, slowest: seconds.
        rests_on: what that was computed from, in words.
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
    """How the copy would go about it; see `rumpx.engine.plan.Tuning`. `bytes_in_flight` is for each
    worker; `on_conflict` is "ask" where the target holds keys and no policy was given."""

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
    """All that a check found. A part is None if it could not be looked at.

    Attributes:
        exit_code: 0, or the code that the copy would end with.
        dry_run: it was asked for in the place of a copy.
        lines: in the order in which a copy looks at things.
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
        """The document of `--json`: every attribute by its name, and "version"."""
        return {"version": CHECKUP_VERSION, **dataclasses.asdict(self)}
