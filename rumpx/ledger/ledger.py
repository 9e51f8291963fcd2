"""The ledger: holds one job (`lock`), and writes its file (`schema`), from which a stopped copy
resumes.

Algorithm: the coordinator saves an `Update` twice a second; a thread writes all pending updates in
one transaction. If the process is killed at any moment, the file holds one of the saved states,
complete: resuming from an older one repeats some keys and skips none. The WAL is not synced at each
commit: a power cut may cost the last seconds, which leaves an older state again.

While the disk is full, updates are kept and their write is retried; `trouble` has the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rumpx.engine.events import WalkName
from rumpx.engine.walks import Retired, RetiredAs
from rumpx.errors import UsageError
from rumpx.ledger.lock import hold
from rumpx.ledger.paths import remove, unfinished_path
from rumpx.ledger.schema import (
    APPLICATION,
    PUT_RETIRED,
    PUT_RUN,
    SCHEMA,
    TABLES,
    Books,
    Facts,
    JobRecord,
    JobState,
    Noted,
    Progressed,
    SavedNode,
    SavedWalk,
    as_text,
    check,
    connect,
    explained,
    point_row,
    retired_row,
    upgrade,
)
from rumpx.model.history import RunRecord
from rumpx.model.job import Job, Limits
from rumpx.model.partitions import Partition
from rumpx.model.results import KeyLoss, KeyNote
from rumpx.model.timeline import Point
from rumpx.transfer.content_stats import Large

_RETRY_SECONDS: Final = 1.0
_PUT_FAILURE: Final = "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)"
_PUT_LOSS: Final = "INSERT OR REPLACE INTO losses VALUES (?, ?, ?, ?, ?)"
# The notes of a partition's other walks.
_FORGET_OTHER_WALKS: Final = (
    "DELETE FROM failures WHERE partition = ? AND walk <> ?",
    "DELETE FROM losses WHERE partition = ? AND walk <> ?",
)


@dataclass(frozen=True, slots=True)
class Update:
    """The coordinator's state at one moment, as far as it has changed.

    `settled` are failed or lossy keys that were retried; those that failed again are among `noted`
    too. `gone` are retired walks, whose sums are in `retired`. `limits` are those in
    force, for a resumed run. `points` are added to the series, or with `anew` replace it.
    """

    state: JobState
    fraction: float
    seconds: float
    facts: Facts
    nodes: tuple[SavedNode, ...]
    walks: tuple[SavedWalk, ...]
    noted: tuple[Noted[KeyNote], ...] = ()
    settled: tuple[tuple[int, bytes], ...] = ()
    gone: tuple[WalkName, ...] = ()
    retired: Mapping[RetiredAs, Retired] | None = None
    limits: Limits | None = None
    largest: tuple[Large, ...] = ()
    points: tuple[Point, ...] = ()
    anew: bool = False


@dataclass(slots=True)
class _Pending:
    """Merged updates that are not written yet."""

    update: Update
    walks: dict[int, SavedWalk] = field(default_factory=dict)
    rows: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)


class Ledger:
    """One job's file, held by this process.

    Use `Ledger.create` or `Ledger.open`, then `save`, and `close` at the end.

    Attributes:
        record: the job.
        path: the file.
        trouble: the reason if the last write failed, or ""; `trouble_since` is then the
            `time.monotonic()` of the first failure.
        saved: `time.time()` of the latest state in the file.
        earlier: the job's progress when this run started.
        killed: the previous run did not record its end.
    """

    def __init__(self, path: Path, lock: int, database: sqlite3.Connection) -> None:
        self.path = path
        self.trouble = ""
        self.trouble_since = 0.0
        self.saved = time.time()
        self.earlier = Progressed("running", 0.0, 0.0, 1, 0)
        self.killed = False
        self._lock = lock
        self._database = database
        self._pending: _Pending | None = None
        self._facts: Facts | None = None
        self._nodes: tuple[SavedNode, ...] = ()
        self._largest: tuple[Large, ...] = ()
        self._bounds: dict[int, Partition] = {}  # as they are in the file
        self._mutex = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._write_pending, name="ledger", daemon=True)
        self.record: JobRecord

    @classmethod
    def create(cls, path: Path, record: JobRecord, first: Update) -> Ledger:
        """Create a new job's ledger, with its first state written.

        Raises:
            JobHeld: another process holds a job of that name.
            UsageError: the file is there already, or cannot be written.
        """
        with explained(path):
            lock = hold(path)
            try:
                if path.exists():
                    raise UsageError(
                        f"There is a job {record.name} already ({path}). Resume it by rumpx "
                        f"resume {record.name}, or choose another --job."
                    )
                _make(path, record, first)
                try:
                    ledger = cls(path, lock, connect(path))
                    ledger.record = record
                    ledger._start()
                except BaseException:
                    remove(path)  # nothing has been copied
                    raise
            except BaseException:
                os.close(lock)
                raise
        return ledger

    def begin(self, run: RunRecord, job: Job) -> None:
        """Record the start of a run. Nothing of the job is changed before, so that a refused run
        leaves no trace.

        Args:
            run: its record, `number` as in `earlier`.
            job: its job; workers, engine, limits and `max_failures` may differ from earlier runs.

        Raises:
            UsageError: it cannot be written.
        """
        record = self.record
        changed = replace(
            record.job,
            workers=job.workers,
            max_failures=job.max_failures,
            engine=job.engine,
            dask_scheduler=job.dask_scheduler,
            dask_send_passwords=job.dask_send_passwords,
        )
        self.record = replace(record, job=replace(changed, limits=job.limits))
        with explained(self.path), self._database as database:
            database.execute(
                "UPDATE job SET record = ?, state = 'running', runs = ?",
                (as_text(self.record), run.number),
            )
            database.execute("DELETE FROM verification")  # it does not cover this run
            database.execute(PUT_RUN, (run.number, as_text(run)))

    def _start(self) -> None:
        """Start to write, by transactions that leave a complete state at each moment."""
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._thread.start()

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Open a job's ledger to resume it; one of an older schema is upgraded.

        Raises:
            JobHeld: another process holds the job.
            UsageError: the file does not exist, or cannot be read.
        """
        if not path.exists():
            raise UsageError(f"There is no job {path.stem} ({path}). rumpx jobs lists all.")
        with explained(path):
            lock = hold(path)
            try:
                database = connect(path)
                ledger = cls(path, lock, database)
                schema = check(path, database)
                books = ledger.books
                ledger.record, before = books.record(), books.progressed()
                if schema < SCHEMA:
                    upgrade(database, schema)
                # Refuse a damaged ledger before the first write.
                books.facts(), books.walks(), books.largest(), books.points(), books.runs()
                ledger.killed = before.state == "running"
                ledger.earlier = replace(before, state="running", runs=before.runs + 1)
                ledger._start()
            except BaseException:
                os.close(lock)
                raise
        return ledger

    @property
    def books(self) -> Books:
        """The contents; read them before the first save."""
        return Books(self._database)

    # Writing.

    def save(self, update: Update) -> None:
        """Leave a state for the writer; returns at once."""
        with self._mutex:
            self._pending = _merged(self._pending, update)
            self._mutex.notify()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, at most so long; returns True if it is."""
        with self._mutex:
            return self._mutex.wait_for(lambda: self._pending is None, seconds)

    def close(self) -> None:
        """Write the pending state, if possible, and release the job."""
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
        """Write one transaction."""
        update, record = pending.update, self.record
        database = self._database
        with self._mutex:
            walks, rows = list(pending.walks.values()), list(pending.rows)
            gone = list(pending.gone)
        with database:
            if update.facts != self._facts:
                database.execute("UPDATE job SET facts = ?", (as_text(update.facts),))
            if update.nodes != self._nodes:
                database.execute("DELETE FROM nodes")
                database.executemany(
                    "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)",
                    [(n.side, n.address, n.id, n.run_id, n.role) for n in update.nodes],
                )
            if update.limits and update.limits != record.job.limits:
                record = replace(record, job=replace(record.job, limits=update.limits))
                database.execute("UPDATE job SET record = ?", (as_text(record),))
            database.execute(
                "UPDATE job SET state = ?, fraction = ?, seconds = ?",
                (update.state, update.fraction, update.seconds),
            )
            for statement, values in rows:
                database.execute(statement, values)
            if update.largest != self._largest:
                database.execute("DELETE FROM largest")
                database.executemany(
                    "INSERT INTO largest (size, head, db, key) VALUES (?, ?, ?, ?)", update.largest
                )
            for walk in walks:
                # This walk retries the failed keys of the partition's earlier walks.
                for statement in _FORGET_OTHER_WALKS:
                    database.execute(statement, (walk.partition.id, walk.number))
                self._write_walk(walk)
        self.record = record
        self._facts, self._nodes, self._largest = update.facts, update.nodes, update.largest
        self._bounds |= {walk.partition.id: walk.partition for walk in walks}
        for number in gone:
            self._bounds.pop(number, None)
        with self._mutex:
            del pending.rows[: len(rows)]
            del pending.gone[: len(gone)]

    def _write_walk(self, walk: SavedWalk) -> None:
        partition = walk.partition
        if self._bounds.get(partition.id) is not partition:  # bounds may name a million keys
            _insert_walk(self._database, walk)
            return
        self._database.execute(
            "UPDATE partitions SET walk = ?, cursor = ?, run_id = ?, done = ?, counts = ?, "
            "after = ?, kinds = ? WHERE id = ?",
            (*_changing(walk), partition.id),
        )


def _make(path: Path, record: JobRecord, first: Update) -> None:
    """Make a new ledger with its first state. It is named when it is complete: a killed process
    would otherwise leave one that can be neither resumed nor started anew."""
    new = unfinished_path(path)
    try:
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(connect(new)) as database:
            # A file left by a killed process or a power cut is made anew.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(TABLES)
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
            row = as_text(record), as_text(first.facts)
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


def _sync(path: Path) -> None:
    """Sync a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _insert_walk(database: sqlite3.Connection, walk: SavedWalk) -> None:
    bounds = as_text(walk.partition)
    database.execute(
        "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (walk.partition.id, bounds, *_changing(walk)),
    )


def _changing(walk: SavedWalk) -> tuple[Any, ...]:
    """Return a partition's columns except its id and bounds."""
    return (
        walk.number,
        str(walk.cursor),  # up to 2**64, which an INTEGER does not hold
        walk.run_id,
        int(walk.done),
        as_text(walk.counts),
        json.dumps(walk.after),
        json.dumps(list(walk.kinds.numbers.items())),
    )


def _merged(pending: _Pending | None, update: Update) -> _Pending:
    """Return the merged updates, a new object each time: the writer compares it with the one that
    it wrote."""
    merged = _Pending(update)
    if pending:
        merged.walks = pending.walks
        merged.rows = pending.rows
        merged.gone = pending.gone
    merged.walks |= {walk.partition.id: walk for walk in update.walks}
    for number, walk in update.gone:
        merged.walks.pop(number, None)
        merged.gone.append(number)
        merged.rows += [
            *((statement, (number, walk)) for statement in _FORGET_OTHER_WALKS),
            ("DELETE FROM partitions WHERE id = ?", (number,)),
        ]
    merged.rows += [(PUT_RETIRED, retired_row(*item)) for item in (update.retired or {}).items()]
    merged.rows += [
        (f"DELETE FROM {table} WHERE db = ? AND key = ?", key)
        for key in update.settled
        for table in ("failures", "losses")
    ]
    merged.rows += map(_note_row, update.noted)
    if update.anew:
        merged.rows.append(("DELETE FROM series", ()))
    merged.rows += [
        ("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", point_row(point))
        for point in update.points
    ]
    return merged


def _note_row(noted: Noted[KeyNote]) -> tuple[str, tuple[Any, ...]]:
    note, walk = noted.note, (noted.partition, noted.walk)
    if isinstance(note, KeyLoss):
        return _PUT_LOSS, (note.db, note.key, note.what, *walk)
    return _PUT_FAILURE, (note.db, note.key, note.reason, note.message, *walk)
