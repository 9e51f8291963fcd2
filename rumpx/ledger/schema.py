"""The tables of a ledger's file, and their reader.

One SQLite file a job:

- `job`: one row: the copy's options (no password, ever), both sides, the state at the start and
  later events (`Facts`), and the progress;
- `nodes`: each server's process (`run_id`) and role as last seen;
- `partitions`: for each walk its bounds, the cursor up to which the target has answered for every
  batch, without a gap, the `run_id` for which that cursor is valid, and the outcomes of the keys
  before it;
- `failures`: the keys before those cursors that could not be copied, with the reasons;
- `largest`: the names of the largest copied keys;
- `series`: the points of a report's charts, one a second, thinned;
- `runs`: the start of each run, and its end if it was recorded;
- `verification`: the result of the last comparison, unless the job was resumed after it;
- `retired`: sums over the walks that were added during the copy and are done.

The process that holds the job writes (`ledger`); any process may read meanwhile. Resuming a job
upgrades a file of an older schema. A file that is damaged, or of a newer schema, is refused and
left as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

from rumpx.engine.key_counts import Census
from rumpx.engine.walks import Retired, RetiredAs
from rumpx.errors import Side, UsageError
from rumpx.files import writable_by_others
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address
from rumpx.model.follow import FollowFacts, FollowStat
from rumpx.model.history import RunRecord
from rumpx.model.job import Job
from rumpx.model.partitions import NodeKeys, Partition
from rumpx.model.results import KeyFailure, KeyLoss, KeyNote, Verification
from rumpx.model.timeline import Point
from rumpx.serialize import from_plain, to_plain
from rumpx.transfer.content_stats import NO_KINDS, Kinds, Large

SCHEMA: Final = 5
APPLICATION: Final = 0x72756D70  # "rump": distinguishes a ledger from other databases
_BUSY_SECONDS: Final = 5.0

JobState = Literal["running", "stopped", "failed", "done"]
T = TypeVar("T")
N = TypeVar("N", bound=KeyNote)

# Added in schema 2.
_SINCE_2: Final = """
CREATE TABLE largest (
    db INTEGER NOT NULL, key BLOB NOT NULL, head INTEGER NOT NULL, size INTEGER NOT NULL
);
CREATE TABLE series (
    run INTEGER NOT NULL, at REAL NOT NULL, elapsed REAL NOT NULL, seconds REAL NOT NULL,
    keys INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    source_latency REAL, target_latency REAL, held TEXT NOT NULL
);
CREATE TABLE runs (number INTEGER PRIMARY KEY, run TEXT NOT NULL);
CREATE TABLE verification (
    one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL, result TEXT NOT NULL
);
"""
# Added in schema 3.
_SINCE_3: Final = """
CREATE TABLE retired (
    reason TEXT NOT NULL, node TEXT NOT NULL, db INTEGER NOT NULL,
    walks INTEGER NOT NULL, counts TEXT NOT NULL, kinds TEXT NOT NULL,
    PRIMARY KEY (reason, node, db)
);
"""
# Added in schema 4.
_SINCE_4: Final = """
CREATE TABLE losses (
    db INTEGER NOT NULL, key BLOB NOT NULL, what TEXT NOT NULL,
    partition INTEGER NOT NULL, walk INTEGER NOT NULL, PRIMARY KEY (db, key)
) WITHOUT ROWID;
"""
# Added in schema 5. Facts may have those of a follow, which an older rumpx cannot continue.
_SINCE_5: Final = "ALTER TABLE series ADD COLUMN lag REAL;"
TABLES: Final = (
    """
CREATE TABLE job (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    record TEXT NOT NULL, facts TEXT NOT NULL,
    state TEXT NOT NULL, fraction REAL NOT NULL, seconds REAL NOT NULL, runs INTEGER NOT NULL
);
CREATE TABLE nodes (
    side TEXT NOT NULL, address TEXT NOT NULL, id TEXT NOT NULL, run_id TEXT NOT NULL,
    role TEXT NOT NULL, PRIMARY KEY (side, address)
);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, bounds TEXT NOT NULL, walk INTEGER NOT NULL, cursor TEXT NOT NULL,
    run_id TEXT NOT NULL, done INTEGER NOT NULL, counts TEXT NOT NULL, after TEXT NOT NULL,
    kinds TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE failures (
    db INTEGER NOT NULL, key BLOB NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    partition INTEGER NOT NULL, walk INTEGER NOT NULL, PRIMARY KEY (db, key)
) WITHOUT ROWID;
"""
    + _SINCE_2
    + _SINCE_3
    + _SINCE_4
    + _SINCE_5
)
PUT_RETIRED: Final = "INSERT OR REPLACE INTO retired VALUES (?, ?, ?, ?, ?, ?)"
PUT_RUN: Final = "INSERT OR REPLACE INTO runs VALUES (?, ?)"
# By a file's schema, the statements that upgrade it to the next one.
_UPGRADES: Final = {
    1: "ALTER TABLE partitions ADD COLUMN kinds TEXT NOT NULL DEFAULT '[]';" + _SINCE_2,
    2: _SINCE_3,
    3: _SINCE_4,
    4: _SINCE_5,
}


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job: fixed at its start, except for limits, workers and `max_failures`, which are those of
    the latest run.

    Attributes:
        name: chosen by the user, or the date and time of its start.
        created: seconds since 1970.
        job: the Job without passwords, with the decided conflict policy.
        databases: of the source, those that held keys at the start.
        source_nodes, target_nodes: ids of the cluster's nodes; none for one server.
        source_password, target_password: True if one is needed.
        migrates: its user is asked on the terminal for the cutover.
    """

    name: str
    created: float
    job: Job
    databases: tuple[int, ...]
    source_nodes: tuple[str, ...]
    target_nodes: tuple[str, ...]
    source_password: bool
    target_password: bool
    migrates: bool = False

    @property
    def mark(self) -> str:
        """A mark of this job alone, also among jobs of its name in other folders or machines."""
        unique = f"{self.name} {self.created!r} {self.job.source} {self.job.target}"
        return f"{self.name}.{hashlib.blake2b(unique.encode(), digest_size=6).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Facts:
    """The basis of the final checks; changes seldom.

    Attributes:
        databases: with the number of keys at the start.
        before: both sides' numbers of keys at the start.
        target_keys: the number of keys that the target's databases held then.
        target_runs: (first slot, last slot, run_id) of the processes to which the acknowledged
            writes went; one entry with slots 0 to 0 for a single server.
        owners: (first slot, last slot, owner) of the source's slots as last seen.
        disturbed: slots of the source that moved, or were marked, and were not walked again yet.
        counted_again: the source was walked again for keys that the target lacked.
        landed: the last run ended without writes in flight (unless it was killed).
        leased: tasks of a run on other machines may still work until their lease is over (unless
            `landed`).
        followed: how a job that follows its source stood when this was saved; else None.
    """

    databases: tuple[NodeKeys, ...]
    before: Census
    target_keys: int
    target_runs: tuple[tuple[int, int, str], ...] = ()
    owners: tuple[tuple[int, int, Address | None], ...] = ()
    disturbed: frozenset[int] = frozenset()
    counted_again: bool = False
    landed: bool = False
    leased: bool = False
    followed: FollowStat | None = None

    @property
    def follow(self) -> FollowFacts | None:
        """The sums of a follow; None if the job does not follow."""
        return self.followed.facts if self.followed else None


@dataclass(frozen=True, slots=True)
class SavedWalk:
    """One walk: `counts` are those of the keys before `cursor`; `run_id` says for which process
    the cursor is valid; `after` are the partitions that must be done before its start; `kinds` are
    types and sizes of the keys copied before `cursor`."""

    partition: Partition
    number: int
    cursor: int
    run_id: str
    done: bool
    counts: Counts
    after: tuple[int, ...] = ()
    kinds: Kinds = NO_KINDS


@dataclass(frozen=True, slots=True)
class SavedNode:
    """A server as last seen."""

    side: Side
    address: str
    id: str
    run_id: str
    role: str


@dataclass(frozen=True, slots=True)
class Noted(Generic[N]):
    """A key that failed, or was copied with a loss, and the walk that met it."""

    note: N
    partition: int
    walk: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """A job's progress: `fraction` is 0.0 to 1.0, `runs` the number of its runs, `failures` the
    number of failed keys, `followed` as in Facts."""

    state: JobState
    fraction: float
    seconds: float
    runs: int
    failures: int
    followed: FollowStat | None = None


class Books:
    """The contents of one ledger, read by a connection.

    Errors of the database propagate unchanged; see `explained`.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def record(self) -> JobRecord:
        """Return the job's record; without the options that only earlier rumpx had."""
        return self._one("SELECT json_remove(record, '$.job.big_key') FROM job", JobRecord)

    def progressed(self) -> Progressed:
        """Return the job's progress."""
        failures = "(SELECT count(*) FROM failures)"
        columns = f"state, fraction, seconds, runs, {failures}, json_extract(facts, '$.followed')"
        *row, followed = self._database.execute(f"SELECT {columns} FROM job").fetchone()
        told = followed and from_plain(FollowStat, json.loads(followed))
        return replace(Progressed(*row), followed=told)

    def facts(self) -> Facts:
        """Return the basis of the final checks."""
        return self._one("SELECT facts FROM job", Facts)

    def retired(self) -> dict[RetiredAs, Retired]:
        """Return the sums of the walks that were added and are done."""
        rows = self._database.execute("SELECT reason, node, db, walks, counts, kinds FROM retired")
        return {
            RetiredAs(reason, node, db): Retired(
                walks, from_plain(Counts, json.loads(counts)), Kinds(dict(json.loads(kinds)))
            )
            for reason, node, db, walks, counts, kinds in rows
        }

    def walks(self) -> list[SavedWalk]:
        """Return all walks that are not retired, in the order of their partitions' ids."""
        columns = "bounds, walk, cursor, run_id, done, counts, after, kinds"
        rows = self._database.execute(f"SELECT {columns} FROM partitions ORDER BY id")
        return [
            SavedWalk(
                from_plain(Partition, json.loads(bounds)),
                number,
                int(cursor),
                run_id,
                bool(done),
                from_plain(Counts, json.loads(counts)),
                tuple(json.loads(after)),
                Kinds(dict(json.loads(kinds))),
            )
            for bounds, number, cursor, run_id, done, counts, after, kinds in rows
        ]

    def failures(self) -> Iterator[Noted[KeyFailure]]:
        """Yield the failed keys, by database and key."""
        columns = "partition, walk, db, key, reason, message"
        rows = self._database.execute(f"SELECT {columns} FROM failures ORDER BY db, key")
        return (Noted(KeyFailure(*note), partition, walk) for partition, walk, *note in rows)

    def losses(self) -> Iterator[Noted[KeyLoss]]:
        """Yield the keys that were copied with a loss, by database and key."""
        columns = "partition, walk, db, key, what"
        rows = self._database.execute(f"SELECT {columns} FROM losses ORDER BY db, key")
        return (Noted(KeyLoss(*note), partition, walk) for partition, walk, *note in rows)

    def losses_by_kind(self) -> dict[str, int]:
        """Return the number of keys copied with a loss, by what is missing."""
        rows = "SELECT what, count(*) AS n FROM losses GROUP BY what ORDER BY n DESC, what"
        return dict(self._database.execute(rows).fetchall())

    def failures_by_reason(self) -> dict[str, int]:
        """Return the number of failed keys by reason, the most frequent first."""
        rows = "SELECT reason, count(*) AS n FROM failures GROUP BY reason ORDER BY n DESC, reason"
        return dict(self._database.execute(rows).fetchall())

    def largest(self) -> tuple[Large, ...]:
        """Return the largest copied keys, the largest first."""
        rows = "SELECT size, head, db, key FROM largest ORDER BY size DESC, db, key"
        return tuple(Large(*row) for row in self._database.execute(rows))

    def points(self) -> tuple[Point, ...]:
        """Return the series, in order."""
        columns = (
            "run, at, elapsed, seconds, keys, payload_bytes, source_latency, target_latency, held, "
            "lag"
        )
        rows = self._database.execute(f"SELECT {columns} FROM series ORDER BY rowid")
        return tuple(
            Point(run, at, elapsed, seconds, keys, size, source, target, json.loads(held), lag)
            for run, at, elapsed, seconds, keys, size, source, target, held, lag in rows
        )

    def runs(self) -> tuple[RunRecord, ...]:
        """Return the runs, in order."""
        rows = self._database.execute("SELECT run FROM runs ORDER BY number")
        return tuple(from_plain(RunRecord, json.loads(text)) for (text,) in rows)

    def verification(self) -> tuple[float, Verification] | None:
        """Return the `time.time()` and the result of the last comparison; None if there is none."""
        row = self._database.execute("SELECT at, result FROM verification").fetchone()
        return row and (row[0], from_plain(Verification, json.loads(row[1])))

    def _one(self, statement: str, kind: type[T]) -> T:
        (text,) = self._database.execute(statement).fetchone()
        found: T = from_plain(kind, json.loads(text))
        return found


@contextlib.contextmanager
def open_books(path: Path) -> Iterator[Books]:
    """Read a ledger, also while another process holds it.

    Raises:
        UsageError: it cannot be read, or is of an older schema.
    """
    with _opened(path) as database:
        database.execute("BEGIN")  # so that all reads are of one moment
        yield Books(database)


def look_into(path: Path) -> tuple[JobRecord, Progressed]:
    """Read a job's record and progress, from a ledger of any schema.

    Raises:
        UsageError: it cannot be read.
    """
    with explained(path), contextlib.closing(connect(path)) as database:
        check(path, database)
        books = Books(database)
        return books.record(), books.progressed()


def keep_run(path: Path, run: RunRecord) -> None:
    """Store a run, in place of its earlier record.

    Raises:
        UsageError: it cannot be written.
    """
    _put(path, PUT_RUN, run.number, as_text(run))


def keep_verification(path: Path, result: Verification) -> None:
    """Store the result of a comparison of the job's two sides.

    Raises:
        UsageError: it cannot be written.
    """
    statement = "INSERT OR REPLACE INTO verification VALUES (1, ?, ?)"
    _put(path, statement, time.time(), as_text(result))


def _put(path: Path, statement: str, *values: Any) -> None:
    with _opened(path) as database, database:
        database.execute(statement, values)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with _damage_explained(path), contextlib.closing(connect(path)) as database:
        if check(path, database) < SCHEMA:
            raise UsageError(
                f"The ledger {path} is from an older rumpx; rumpx resume {path.stem} upgrades it."
            )
        yield database


def as_text(value: Any) -> str:
    """Return a dataclass as the text of a column."""
    return json.dumps(to_plain(value))


def retired_row(key: RetiredAs, retired: Retired) -> tuple[Any, ...]:
    """Return a sum as a row of its table."""
    kinds = json.dumps(list(retired.kinds.numbers.items()))
    return *key, retired.walks, as_text(retired.counts), kinds


def point_row(point: Point) -> tuple[Any, ...]:
    """Return a point as a row of its table."""
    return (
        point.run,
        point.at,
        point.elapsed,
        point.seconds,
        point.keys,
        point.payload_bytes,
        point.source_latency,
        point.target_latency,
        json.dumps(point.held),
        point.lag,
    )


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection to an existing file; any thread may use it."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)


def check(path: Path, database: sqlite3.Connection) -> int:
    """Return a ledger's schema.

    Raises:
        UsageError: it is newer than this one, or other users may write to the file.
        ValueError, sqlite3.Error: the file is damaged, or not a ledger.
    """
    if reason := writable_by_others(path):
        # It names the password files, and the servers that receive those passwords.
        raise UsageError(
            f"The ledger {path} is not trusted, since {reason}. If it is one of yours, make it "
            "belong to you alone (chown, chmod 600)."
        )
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (schema,) = database.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION and schema > SCHEMA:
        raise UsageError(
            f"The ledger {path} is from a newer rumpx (its schema is {schema}, this version's is "
            f"{SCHEMA}): use that version."
        )
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    known = schema == SCHEMA or schema in _UPGRADES
    if application != APPLICATION or not known or verdict != "ok":
        raise ValueError(verdict if verdict != "ok" else "it is not a ledger")
    return int(schema)


def upgrade(database: sqlite3.Connection, schema: int) -> None:
    """Upgrade a ledger to this schema, each step in one transaction."""
    while schema < SCHEMA:
        steps = f"BEGIN; {_UPGRADES[schema]} PRAGMA user_version = {schema + 1}; COMMIT;"
        database.executescript(steps)
        schema += 1


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise the file's errors as a UsageError of one clear sentence."""
    try:
        with _damage_explained(path):
            yield
    except OSError as error:
        raise UsageError(
            f"The ledger {path} cannot be written: {error.strerror}. Choose another --state-dir."
        ) from None


@contextlib.contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    """Do so for the database's errors, not for those of other files written meanwhile."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "no such" in str(error):  # a table, a column
            raise _damaged(path, error) from None
        raise UsageError(
            f"The ledger {path} cannot be written: {error}. Free space or fix its permissions, "
            "or choose another --state-dir."
        ) from None
    except (sqlite3.DatabaseError, ValueError, TypeError, LookupError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"The ledger {path} is damaged ({str(error)[:100]}), and was left as it is. Its progress "
        "is lost: start the copy anew, with another --job and --on-conflict replace."
    )
