"""What one run is to do, as plain data: two endpoints, a scope, limits.

Everything here is validated when it is made and needs no connection, so that a mistake costs the
user nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from rumpx.errors import UsageError
from rumpx.model.endpoint import MAX_DATABASE, Endpoint, ReadFrom, check_range

OnConflict = Literal["ask", "replace", "skip", "fail"]
Clock = Literal["refuse", "absolute", "relative"]
Progress = Literal["auto", "bar", "line", "json", "none"]
LogFormat = Literal["text", "json"]

KEY_TYPES: Final = ("string", "list", "set", "zset", "hash", "stream")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which keys are copied, and to which database.

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
        """Whether some keys of a copied database may be out of scope."""
        return bool(self.match or self.exclude or self.types)

    def target_db(self, db: int) -> int:
        """The target's database for a source database."""
        return dict(self.map_db).get(db, db)

    def source_db(self, db: int) -> int:
        """The source's database for a target database."""
        return {target: source for source, target in self.map_db}.get(db, db)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may cost the servers, and when it may run. None means no limit.

    Attributes:
        max_source_latency, max_target_latency: seconds by which a PING may take longer than it
            does at best.
        max_keys_per_sec, max_bytes_per_sec, max_ops_per_sec: keys, bytes of payload, and commands
            that the busier side executes; all workers together.
        max_source_cpu: of one core, 0.6 for 60 %; of the busiest node.
        max_source_memory, max_target_memory: of maxmemory; of the fullest node.
        schedule: a timetable as `rumpx.model.schedule` reads it; "" for always.
        time_zone: of the timetable; None for the machine's.
        exit_when_off: end where the timetable says "off", rather than wait.
        max_duration: seconds after which the run ends, to be resumed.
    """

    max_source_latency: float | None = 0.005
    max_target_latency: float | None = None
    max_keys_per_sec: float | None = None
    max_bytes_per_sec: float | None = None
    max_ops_per_sec: float | None = None
    max_source_cpu: float | None = None
    max_source_memory: float | None = None
    max_target_memory: float | None = 1.0
    schedule: str = ""
    time_zone: str | None = None
    exit_when_off: bool = False
    max_duration: float | None = None

    def __post_init__(self) -> None:
        for name, low, high, unit in (
            ("max_source_latency", 0.0001, 60, " s"),
            ("max_target_latency", 0.0001, 60, " s"),
            ("max_keys_per_sec", 1, 1e12, ""),
            ("max_bytes_per_sec", 1024, 1e15, " bytes"),
            ("max_ops_per_sec", 10, 1e12, ""),
            ("max_source_cpu", 0.01, 1, ""),
            ("max_source_memory", 0.01, 1, ""),
            ("max_target_memory", 0.01, 1, ""),
            ("max_duration", 1, 31_536_000, " s"),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {value:g}{unit}; give something from {low:g} "
                    f"to {high:g}{unit}, or off."
                )
        if self.exit_when_off and not self.schedule:
            raise UsageError("--exit-when-off needs a --schedule that says when.")
        if self.schedule:
            from rumpx.model.schedule import (
                parse_timetable,  # which reads sizes as this module does
            )

            parse_timetable(self.schedule, self.time_zone)


@dataclass(frozen=True, slots=True)
class Job:
    """One copy. Sizes are in bytes, times in seconds.

    `batch_keys` and `partitions` of 0 mean "choose from what is measured at the start";
    `max_failures` of None means that any number of keys may fail; `read_from` chooses between each
    source node's primary and its replicas (`servers/replicas.py`).
    """

    source: Endpoint
    target: Endpoint
    scope: Scope = Scope()
    workers: int = 4
    partitions: int = 0
    prefixes: tuple[bytes, ...] = ()
    batch_keys: int = 0
    on_conflict: OnConflict = "ask"
    size_check: bool = True
    big_key: int = 64 * 2**20
    max_bytes_in_flight: int = 16 * 2**20
    clock: Clock = "refuse"
    read_from: ReadFrom = "primary"
    max_failures: int | None = None
    functions: bool = False
    allow_eviction: bool = False
    connect_timeout: float = 5.0
    timeout: float = 30.0
    retry_for: float = 300.0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        check_range("--workers", self.workers, 1, 256)
        check_range("--partitions", self.partitions, 0, 1024)
        check_range("--batch-keys", self.batch_keys, 0, 10_000)
        check_range("--big-key", self.big_key, 2**10, 2**40)
        check_range("--max-bytes-in-flight", self.max_bytes_in_flight, 2**16, 2**40)
        if self.max_failures is not None:
            check_range("--max-failures", self.max_failures, 0, 2**40)
        for flag, seconds in (
            ("--connect-timeout", self.connect_timeout),
            ("--timeout", self.timeout),
        ):
            if not 0.001 <= seconds <= 86_400:
                raise UsageError(f"{flag} is {seconds:g} s; give a time from 1ms to 24h.")
        if not 0 <= self.retry_for <= 604_800:
            raise UsageError(f"--retry-for is {self.retry_for:g} s; give a time from 0 to 7 days.")
        if self.prefixes and self.partitions:
            raise UsageError("--prefixes and --partitions exclude each other; give one of them.")
        if self.prefixes and self.scope.match:
            raise UsageError(
                "--prefixes cut the work by SCAN MATCH and so cannot be joined with --match; "
                "give one of them."
            )
        check_prefixes(self.prefixes)
        if self.read_from != "primary" and self.source.transport == "unix":
            raise UsageError(
                "--read-from needs a source that is reached by TCP, as its replicas are; give its "
                "host and port as --from."
            )
        check_databases(self)


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
    """Refuse databases that contradict each other, before anything is contacted."""
    scope = job.scope
    for db in (*scope.databases, *(n for pair in scope.map_db for n in pair)):
        check_range("a database", db, 0, MAX_DATABASE)
    if job.source.db is not None and scope.databases:
        raise UsageError(
            f"The source's URI names database {job.source.db} and --db is given too; "
            "give one of them."
        )
    sources = [source for source, _ in scope.map_db]
    if len(set(sources)) < len(sources):
        raise UsageError("--map-db names one source database twice; map each only once.")
    if job.target.db is not None and scope.map_db:
        raise UsageError(
            f"The target's URI names database {job.target.db} and --map-db is given too; "
            "give one of them."
        )
