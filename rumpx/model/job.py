"""The task of one run, as plain data: two endpoints, a scope, limits.

All of it is validated at construction and without a connection, so that a mistake costs the
user nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from rumpx.errors import Side, UsageError
from rumpx.model import clashes
from rumpx.model.endpoint import Endpoint, ReadFrom
from rumpx.model.option_kinds import whole_bytes
from rumpx.model.options import FIELDS, MAX_DATABASE

OnConflict = Literal["ask", "replace", "skip", "fail"]
Clock = Literal["refuse", "absolute", "relative"]
FieldExpiries = Literal["keep", "drop"]
Engine = Literal["local", "dask"]
Feed = Literal["auto", "tracking", "notifications", "passes"]
Progress = Literal["auto", "bar", "line", "json", "none"]
LogFormat = Literal["text", "json"]

DEFAULTS: Final[dict[str, Any]] = {
    field: flag.read([flag.default]) for field, flag in FIELDS.items() if flag.default
}
"""The defaults that are not empty, by the name of the field in the table of options."""


def check_ranges(prefix: str, data: object) -> None:
    """Refuse fields outside their ranges.

    Args:
        prefix: "" for the Job itself, "limits." for its limits.
        data: the object with these fields.

    Raises:
        UsageError: naming the option and its range.
    """
    for field, flag in FIELDS.items():
        name = field.removeprefix(prefix)
        if field.startswith(prefix) and "." not in name:
            flag.check(getattr(data, name))


@dataclass(frozen=True, slots=True)
class Scope:
    """The keys to copy, and their databases on the target.

    `databases` is empty for "every database that holds keys"; `map_db` holds (from, to) pairs;
    `match` and `exclude` are globs on bytes (a key is in scope if any `match` fits, or none is
    given, and no `exclude` fits); `types` is empty for all.
    """

    databases: tuple[int, ...] = ()
    map_db: tuple[tuple[int, int], ...] = ()
    match: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()
    types: tuple[str, ...] = ()

    @property
    def filtered(self) -> bool:
        """True if some keys of a copied database may be out of scope."""
        return bool(self.match or self.exclude or self.types)

    def target_db(self, db: int) -> int:
        """Return the target's database for a source database."""
        return dict(self.map_db).get(db, db)

    def source_db(self, db: int) -> int:
        """Return the source's database for a target database."""
        return {target: source for source, target in self.map_db}.get(db, db)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the load, the rate and the hours of a run. None means no limit.

    Attributes:
        max_source_latency, max_target_latency: seconds by which a PING may take longer than when
            nothing of ours is in flight.
        max_keys_per_sec, max_bytes_per_sec, max_ops_per_sec: keys, bytes of payload, and commands
            that the busier side executes; all workers together.
        max_source_cpu: of one core, 0.6 for 60 %; of the busiest node.
        max_source_memory, max_target_memory: of maxmemory; of the fullest node.
        schedule: a timetable as `rumpx.model.schedule` reads it; "" for always.
        time_zone: of the timetable; None for the machine's.
        exit_when_off: end where the timetable says "off", rather than wait.
        max_duration: seconds after which the run ends, to be resumed.
    """

    max_source_latency: float | None = DEFAULTS["limits.max_source_latency"]
    max_target_latency: float | None = DEFAULTS["limits.max_target_latency"]
    max_keys_per_sec: float | None = DEFAULTS["limits.max_keys_per_sec"]
    max_bytes_per_sec: float | None = DEFAULTS["limits.max_bytes_per_sec"]
    max_ops_per_sec: float | None = DEFAULTS["limits.max_ops_per_sec"]
    max_source_cpu: float | None = DEFAULTS["limits.max_source_cpu"]
    max_source_memory: float | None = DEFAULTS["limits.max_source_memory"]
    max_target_memory: float | None = DEFAULTS["limits.max_target_memory"]
    schedule: str = ""
    time_zone: str | None = None
    exit_when_off: bool = False
    max_duration: float | None = None

    def max_latency(self, side: Side) -> float | None:
        """Return a side's limit of latency, in seconds; None if it has none."""
        return self.max_source_latency if side == "source" else self.max_target_latency

    @property
    def tightest_latency(self) -> float:
        """The lower limit of latency of both sides, in seconds; infinite without one."""
        limits = (self.max_source_latency, self.max_target_latency)
        return min([limit for limit in limits if limit is not None], default=math.inf)

    def __post_init__(self) -> None:
        check_ranges("limits.", self)
        clashes.refuse(clashes.IN_LIMITS, self)
        if self.schedule:
            from rumpx.model.schedule import (
                parse_timetable,  # which reads sizes as this module does
            )

            parse_timetable(self.schedule, self.time_zone)


@dataclass(frozen=True, slots=True)
class Job:
    """One copy. Sizes are in bytes, times in seconds.

    `workers`, `batch_keys` and `partitions` of 0 mean "choose from what is found at the start";
    `max_failures` of None means that any number of keys may fail; `read_from` chooses between each
    source node's primary and its replicas (`servers/replicas.py`); `max_deletes` of None means "by
    the number of the target's keys".
    """

    source: Endpoint
    target: Endpoint
    scope: Scope = Scope()
    workers: int = DEFAULTS["workers"]
    partitions: int = DEFAULTS["partitions"]
    prefixes: tuple[bytes, ...] = ()
    batch_keys: int = DEFAULTS["batch_keys"]
    on_conflict: OnConflict = DEFAULTS["on_conflict"]
    size_check: bool = True
    stream_from: int | None = DEFAULTS["stream_from"]
    hot_keys: str = DEFAULTS["hot_keys"]
    max_bytes_in_flight: int = DEFAULTS["max_bytes_in_flight"]
    clock: Clock = "refuse"
    field_expiries: FieldExpiries = DEFAULTS["field_expiries"]
    read_from: ReadFrom = DEFAULTS["read_from"]
    max_failures: int | None = None
    functions: bool = False
    follow: bool = False
    feed: Feed = DEFAULTS["feed"]
    delete_extra: bool = False
    max_deletes: int | None = None
    engine: Engine = DEFAULTS["engine"]
    dask_scheduler: str = ""
    dask_send_passwords: bool = False
    allow_eviction: bool = False
    connect_timeout: float = DEFAULTS["connect_timeout"]
    timeout: float = DEFAULTS["timeout"]
    retry_for: float = DEFAULTS["retry_for"]
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        check_ranges("", self)
        clashes.refuse(clashes.IN_JOB, self)
        whole_bytes(self.hot_keys, "--hot-keys")
        check_prefixes(self.prefixes)
        check_databases(self)

    @property
    def fewer_workers(self) -> str:
        """Return the advice to ask less of a server at the same time, for the end of a sentence."""
        if self.engine == "dask":
            return "start fewer threads of Dask workers"
        return "use fewer --workers"


def with_engine(job: Job, engine: Engine | None, scheduler: str | None) -> Job:
    """Return a job of an earlier run with this engine and scheduler, each None or "" if it is not
    given; what belongs to another engine is left behind.

    Raises:
        UsageError: a scheduler is given, and the engine has none.
    """
    if (engine or job.engine) == "dask":
        scheduler = scheduler or job.dask_scheduler
        return replace(job, engine="dask", dask_scheduler=scheduler, workers=0)
    return replace(
        job, engine="local", dask_scheduler=scheduler or "", dask_send_passwords=False
    )


def check_prefixes(prefixes: tuple[bytes, ...]) -> None:
    """Refuse prefixes of which one begins another: their keys would be copied twice."""
    for position, prefix in enumerate(prefixes):
        for other in prefixes[position + 1 :]:
            if prefix.startswith(other) or other.startswith(prefix):
                raise UsageError(
                    f"--prefixes: {prefix!r} and {other!r} overlap; give prefixes of which none "
                    "begins another."
                )


def check_databases(job: Job) -> None:
    """Refuse databases that no server has, or that are mapped twice."""
    scope = job.scope
    for db in (*scope.databases, *(n for pair in scope.map_db for n in pair)):
        if not 0 <= db <= MAX_DATABASE:
            raise UsageError(f"Database {db} does not exist; give one from 0 to {MAX_DATABASE}.")
    sources = [source for source, _ in scope.map_db]
    if len(set(sources)) < len(sources):
        raise UsageError("--map-db names one source database twice; map each only once.")
