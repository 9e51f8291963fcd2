"""The ledger: the SQLite file from which a stopped copy goes on.

One file a job. It holds

- `job`: one row: what the copy is to do (no password, ever), who the two sides are, what was found
  at the start and what has happened since (`Facts`), and how far it is;
- `nodes`: each server's process (`run_id`) and role as last seen;
- `partitions`: for each walk its bounds, the cursor up to which every batch has been answered by
  the target, without a gap, the `run_id` for which that cursor is valid, and what the keys before
  it came to;
- `failures`: the keys before those cursors that could not be copied, and why.

Algorithm: the coordinator leaves an `Update` twice a second; a thread writes what is pending
in one transaction. Whatever moment the process is killed at, the file holds one of the states that
the coordinator left, whole: to go on from an older one repeats some keys and skips none. The WAL
is not synced at each commit: a power cut may cost the last seconds, which is an older state again.

While the disk is full the updates are kept and tried again; `trouble` tells. A file that is damaged
or of a newer version is refused, and never replaced.

A job is held by a lock on a file beside it (`flock`), which the system lets go of when the process
ends, however it ends.

Not promised: that a ledger on a network file system can be locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from rumpx.copy.completeness import Census
from rumpx.copy.plan import NodeKeys, Partition
from rumpx.errors import JobHeld, Side, UsageError
from rumpx.job import Address, Job, Limits
from rumpx.plain import from_plain, to_plain
from rumpx.report.snapshot import Counts, KeyFailure

SCHEMA: Final = 1
_APPLICATION: Final = 0x72756D70  # "rump": how `file` and we tell a ledger from other databases
_RETRY_SECONDS: Final = 1.0
_BUSY_SECONDS: Final = 5.0
# To look whether a job is held takes its lock for a moment.
_LOOK_SECONDS: Final = 0.5

JobState = Literal["running", "stopped", "failed", "done"]

_TABLES: Final = """
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
    run_id TEXT NOT NULL, done INTEGER NOT NULL, counts TEXT NOT NULL, after TEXT NOT NULL
);
CREATE TABLE failures (
    db INTEGER NOT NULL, key BLOB NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    partition INTEGER NOT NULL, walk INTEGER NOT NULL, PRIMARY KEY (db, key)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What a job is: fixed when it begins.

    Attributes:
        name: chosen by the user, or made up.
        created: seconds since 1970.
        job: what it does, without passwords; the conflict policy is decided.
        databases: of the source, those that held keys at the start.
        source_nodes, target_nodes: ids of the cluster's nodes; none for one server.
        source_password, target_password: whether one is needed.
    """

    name: str
    created: float
    job: Job
    databases: tuple[int, ...]
    source_nodes: tuple[str, ...]
    target_nodes: tuple[str, ...]
    source_password: bool
    target_password: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks at the end rest on; changes seldom.

    Attributes:
        databases: with the number of keys at the start.
        before: both sides' number of keys at the start.
        target_keys: keys that the target's databases held then.
        target_runs: (first slot, last slot, run_id) of the processes to which the acknowledged
            writes went; one entry with slots 0 to 0 for a single server.
        owners: (first slot, last slot, owner) of the source's slots as last seen.
        disturbed: slots of the source that moved, or were marked, and were not walked again yet.
        counted_again: the source was walked again for keys that the target lacked.
    """

    databases: tuple[NodeKeys, ...]
    before: Census
    target_keys: int
    target_runs: tuple[tuple[int, int, str], ...] = ()
    owners: tuple[tuple[int, int, Address | None], ...] = ()
    disturbed: frozenset[int] = frozenset()
    counted_again: bool = False


@dataclass(frozen=True, slots=True)
class SavedWalk:
    """One walk: `counts` are those of the keys before `cursor`; `run_id` says for which process
    the cursor is valid; `after` are the partitions that must be done before it begins."""

    partition: Partition
    number: int
    cursor: int
    run_id: str
    done: bool
    counts: Counts
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedNode:
    """A server as last seen."""

    side: Side
    address: str
    id: str
    run_id: str
    role: str


@dataclass(frozen=True, slots=True)
class LedgerFailure:
    """A failed key, and the walk that met it."""

    failure: KeyFailure
    partition: int
    walk: int


@dataclass(frozen=True, slots=True)
class Update:
    """The coordinator's books at one moment, as far as they have changed.

    `settled` are failed keys of before that were tried again; those that failed again are among
    `failures` too. `limits` are those in force, so that whoever goes on keeps them.
    """

    state: JobState
    fraction: float
    seconds: float
    facts: Facts
    nodes: tuple[SavedNode, ...]
    walks: tuple[SavedWalk, ...]
    failures: tuple[LedgerFailure, ...] = ()
    settled: tuple[tuple[int, bytes], ...] = ()
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a job is: `fraction` is 0.0 to 1.0, `runs` how often it was begun or gone on with,
    `failures` the number of failed keys."""

    state: JobState
    fraction: float
    seconds: float
    runs: int
    failures: int


@dataclass(slots=True)
class _Pending:
    """Updates that are not written yet, merged."""

    update: Update
    walks: dict[int, SavedWalk] = field(default_factory=dict)
    rows: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)


class Ledger:
    """One job's file, held by this process.

    Use `Ledger.create` or `Ledger.open`, then `save`, and `close` at the end.

    Attributes:
        record: what the job is.
        path: the file.
        trouble: why the last write failed, or ""; `trouble_since` is then `time.monotonic()`.
        saved: `time.time()` of the last state that is in the file.
        earlier: how far the job was when this run began.
    """

    def __init__(self, path: Path, lock: int, database: sqlite3.Connection) -> None:
        self.path = path
        self.trouble = ""
        self.trouble_since = 0.0
        self.saved = time.time()
        self.earlier = Progressed("running", 0.0, 0.0, 1, 0)
        self._lock = lock
        self._database = database
        self._pending: _Pending | None = None
        self._facts: Facts | None = None
        self._nodes: tuple[SavedNode, ...] = ()
        self._bounds: dict[int, Partition] = {}  # as they are in the file
        self._mutex = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._write_pending, name="ledger", daemon=True)
        self.record: JobRecord

    @classmethod
    def create(cls, path: Path, record: JobRecord, first: Update) -> Ledger:
        """A new job's ledger, with its first state written.

        Raises:
            JobHeld: another process holds a job of that name.
            UsageError: the file is there already, or cannot be written.
        """
        with _explained(path):
            lock = _hold(path)
            try:
                if path.exists():
                    raise UsageError(
                        f"There is a job {record.name} already ({path}). Go on with it by rumpx "
                        f"resume {record.name}, or choose another --job."
                    )
                _make(path, record, first)
                try:
                    ledger = cls(path, lock, _connect(path))
                    ledger.record = record
                    ledger._begin()
                except BaseException:
                    remove(path)  # nothing has been copied
                    raise
            except BaseException:
                os.close(lock)
                raise
        return ledger

    def _begin(self) -> None:
        """Write in a way that leaves a whole state at each moment, from now on."""
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._thread.start()

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """A job's ledger, to go on with it.

        Raises:
            JobHeld: another process holds the job.
            UsageError: there is no such file, or it cannot be read.
        """
        if not path.exists():
            raise UsageError(f"There is no job {path.stem} ({path}). rumpx jobs lists all.")
        with _explained(path):
            lock = _hold(path)
            try:
                database = _connect(path)
                ledger = cls(path, lock, database)
                _check(path, database)
                ledger.record = _read_record(database)
                before = _progressed(database)
                ledger.facts(), ledger.walks()  # what cannot be read is left as it is
                with database:
                    database.execute("UPDATE job SET state = 'running', runs = runs + 1")
                ledger.earlier = replace(before, state="running", runs=before.runs + 1)
                ledger._begin()
            except BaseException:
                os.close(lock)
                raise
        return ledger

    # Reading, before the first save.

    def facts(self) -> Facts:
        """What the checks at the end rest on."""
        with _explained(self.path):
            (text,) = self._database.execute("SELECT facts FROM job").fetchone()
            facts: Facts = from_plain(Facts, json.loads(text))
            return facts

    def walks(self) -> list[SavedWalk]:
        """All walks, in the order of their partitions' ids."""
        rows = (
            "SELECT bounds, walk, cursor, run_id, done, counts, after FROM partitions ORDER BY id"
        )
        with _explained(self.path):
            return [
                SavedWalk(
                    from_plain(Partition, json.loads(bounds)),
                    number,
                    int(cursor),
                    run_id,
                    bool(done),
                    from_plain(Counts, json.loads(counts)),
                    tuple(json.loads(after)),
                )
                for bounds, number, cursor, run_id, done, counts, after in self._database.execute(
                    rows
                )
            ]

    def failures(self) -> Iterator[LedgerFailure]:
        """The failed keys, by database and key."""
        rows = "SELECT db, key, reason, message, partition, walk FROM failures ORDER BY db, key"
        with _explained(self.path), contextlib.closing(_connect(self.path)) as database:
            for db, key, reason, message, partition, walk in database.execute(rows):
                yield LedgerFailure(KeyFailure(db, key, reason, message), partition, walk)

    def failures_by_reason(self) -> dict[str, int]:
        """Number of failed keys by reason, the most frequent first."""
        rows = "SELECT reason, count(*) AS n FROM failures GROUP BY reason ORDER BY n DESC"
        with _explained(self.path), contextlib.closing(_connect(self.path)) as database:
            return dict(database.execute(rows).fetchall())

    # Writing.

    def save(self, update: Update) -> None:
        """Leave a state to be written; returns at once."""
        with self._mutex:
            self._pending = _merged(self._pending, update)
            self._mutex.notify()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, at most so long; whether it is."""
        with self._mutex:
            return self._mutex.wait_for(lambda: self._pending is None, seconds)

    def close(self) -> None:
        """Write what is pending, if that can be, and let go of the job."""
        with self._mutex:
            self._ending = True
            self._mutex.notify()
        self._thread.join()
        self._release()

    def _release(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._database.close()
        os.close(self._lock)

    def _write_pending(self) -> None:
        while True:
            with self._mutex:
                self._mutex.wait_for(lambda: self._pending or self._ending)
                pending = self._pending
                ending = self._ending
            if pending:
                self._try(pending)
            with self._mutex:
                if not self.trouble and self._pending is pending:
                    self._pending = None
                self._mutex.notify_all()
                if ending and (self._pending is None or self.trouble):
                    return
                if self.trouble:
                    self._mutex.wait_for(lambda: self._ending, _RETRY_SECONDS)

    def _try(self, pending: _Pending) -> None:
        try:
            self._write(pending)
        except sqlite3.Error as error:
            if not self.trouble:
                self.trouble_since = time.monotonic()
            self.trouble = str(error)
            return
        self.trouble = ""
        self.saved = time.time()

    def _write(self, pending: _Pending) -> None:
        """One transaction."""
        update, record = pending.update, self.record
        database = self._database
        with self._mutex:
            walks, rows = list(pending.walks.values()), list(pending.rows)
        with database:
            if update.facts != self._facts:
                database.execute("UPDATE job SET facts = ?", (_facts_text(update.facts),))
            if update.nodes != self._nodes:
                database.execute("DELETE FROM nodes")
                database.executemany(
                    "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)",
                    [(n.side, n.address, n.id, n.run_id, n.role) for n in update.nodes],
                )
            if update.limits and update.limits != record.job.limits:
                record = replace(record, job=replace(record.job, limits=update.limits))
                database.execute("UPDATE job SET record = ?", (json.dumps(to_plain(record)),))
            database.execute(
                "UPDATE job SET state = ?, fraction = ?, seconds = ?",
                (update.state, update.fraction, update.seconds),
            )
            for statement, values in rows:
                database.execute(statement, values)
            for walk in walks:
                # What failed in an earlier walk of the partition is tried again by this one.
                database.execute(
                    "DELETE FROM failures WHERE partition = ? AND walk <> ?",
                    (walk.partition.id, walk.number),
                )
                self._write_walk(walk)
        self.record = record
        self._facts, self._nodes = update.facts, update.nodes
        self._bounds |= {walk.partition.id: walk.partition for walk in walks}
        with self._mutex:
            del pending.rows[: len(rows)]

    def _write_walk(self, walk: SavedWalk) -> None:
        partition = walk.partition
        if self._bounds.get(partition.id) is not partition:  # they may name a million keys
            _insert_walk(self._database, walk)
            return
        self._database.execute(
            "UPDATE partitions SET walk = ?, cursor = ?, run_id = ?, done = ?, counts = ?, "
            "after = ? WHERE id = ?",
            (*_changing(walk), partition.id),
        )


def _make(path: Path, record: JobRecord, first: Update) -> None:
    """A new ledger with its first state. It gets its name when it is whole, or whoever is killed
    meanwhile would leave one that nobody can go on with, nor begin anew."""
    new = _unfinished_path(path)
    try:
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(_connect(new)) as database:
            # What is left of a killed process or after a power cut is made anew.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_TABLES)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
            row = json.dumps(to_plain(record)), _facts_text(first.facts)
            with database:
                database.execute("INSERT INTO job VALUES (1, ?, ?, 'running', 0, 0, 1)", row)
                for walk in first.walks:
                    _insert_walk(database, walk)
        _sync(new)
        new.replace(path)
        _sync(path.parent)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _unfinished_path(path: Path) -> Path:
    """Where a ledger is made."""
    return path.with_suffix(".new")


def _sync(path: Path) -> None:
    """Have it on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _insert_walk(database: sqlite3.Connection, walk: SavedWalk) -> None:
    bounds = json.dumps(to_plain(walk.partition))
    database.execute(
        "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (walk.partition.id, bounds, *_changing(walk)),
    )


def _changing(walk: SavedWalk) -> tuple[Any, ...]:
    """A partition's columns but for its id and bounds."""
    return (
        walk.number,
        str(walk.cursor),  # up to 2**64, which an INTEGER does not hold
        walk.run_id,
        int(walk.done),
        json.dumps(to_plain(walk.counts)),
        json.dumps(walk.after),
    )


def _merged(pending: _Pending | None, update: Update) -> _Pending:
    """A new object each time, so that the writer sees whether anything came while it wrote."""
    merged = _Pending(update)
    if pending:
        merged.walks = pending.walks
        merged.rows = pending.rows
    merged.walks |= {walk.partition.id: walk for walk in update.walks}
    merged.rows += [
        ("DELETE FROM failures WHERE db = ? AND key = ?", key) for key in update.settled
    ]
    merged.rows += [
        ("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", _failure_row(failure))
        for failure in update.failures
    ]
    return merged


def _failure_row(failed: LedgerFailure) -> tuple[Any, ...]:
    failure = failed.failure
    return (
        failure.db,
        failure.key,
        failure.reason,
        failure.message,
        failed.partition,
        failed.walk,
    )


def _facts_text(facts: Facts) -> str:
    return json.dumps(to_plain(facts))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)


def _hold(path: Path) -> int:
    """The descriptor of the job's lock, which is held as long as that is open."""
    lock = os.open(lock_path(path), os.O_CREAT | os.O_RDWR, 0o600)
    until = time.monotonic() + _LOOK_SECONDS
    while not _locked(lock, fcntl.LOCK_EX):
        if time.monotonic() > until:
            os.close(lock)
            raise JobHeld(
                f"Another process works on the job {path.stem} now. Wait for its end, or stop it."
            )
        time.sleep(_LOOK_SECONDS / 100)  # somebody may just be looking whether it is held
    return lock


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_path(path: Path) -> Path:
    """The file whose lock holds a job."""
    return path.with_suffix(".lock")


def dead_letter_path(path: Path) -> Path:
    """Where the failed keys of a job are listed."""
    return path.with_suffix(".failed.jsonl")


def ctl_path(path: Path) -> Path:
    """The socket by which a running job is asked."""
    return path.with_suffix(".ctl")


def is_held(path: Path) -> bool:
    """Whether a live process works on a job."""
    try:
        lock = os.open(lock_path(path), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:
        return False
    try:
        return not _locked(lock, fcntl.LOCK_SH)  # others may look, too
    finally:
        os.close(lock)


def remove(path: Path) -> None:
    """Delete a job's files."""
    sqlite = Path(f"{path}-wal"), Path(f"{path}-shm")
    others = _unfinished_path(path), dead_letter_path(path), ctl_path(path), lock_path(path)
    for file in (path, *sqlite, *others):
        file.unlink(missing_ok=True)


def look_into(path: Path) -> tuple[JobRecord, Progressed]:
    """A job's record and how far it is, without holding it.

    Raises:
        UsageError: it cannot be read.
    """
    with _explained(path), contextlib.closing(_connect(path)) as database:
        _check(path, database)
        return _read_record(database), _progressed(database)


def _progressed(database: sqlite3.Connection) -> Progressed:
    failures = "(SELECT count(*) FROM failures)"
    columns = f"state, fraction, seconds, runs, {failures}"
    return Progressed(*database.execute(f"SELECT {columns} FROM job").fetchone())


def _read_record(database: sqlite3.Connection) -> JobRecord:
    (text,) = database.execute("SELECT record FROM job").fetchone()
    record: JobRecord = from_plain(JobRecord, json.loads(text))
    return record


def _check(path: Path, database: sqlite3.Connection) -> None:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (schema,) = database.execute("PRAGMA user_version").fetchone()
    if application == _APPLICATION and schema > SCHEMA:
        raise UsageError(
            f"The ledger {path} was written by a newer rumpx (its schema is {schema}, this one "
            f"knows {SCHEMA}): go on with that version."
        )
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if application != _APPLICATION or schema != SCHEMA or verdict != "ok":
        raise ValueError(verdict if verdict != "ok" else "it is no ledger")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Faults of the file as one clear sentence."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"The ledger {path} cannot be written: {error.strerror}. Choose another --state-dir."
        ) from None
    except sqlite3.OperationalError as error:
        if "no such" in str(error):  # a table, a column
            raise _damaged(path, error) from None
        raise UsageError(
            f"The ledger {path} cannot be written: {error}. Free space or mend its permissions, "
            "or choose another --state-dir."
        ) from None
    except (sqlite3.DatabaseError, ValueError, TypeError, LookupError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"The ledger {path} is damaged ({str(error)[:100]}). It was left as it is; what it "
        "knew is lost, so start the copy anew, with another --job and --on-conflict replace."
    )
