"""Scanning: one thread walks one partition and hands keys to the coordinator, batch by batch.

`walk` is the SCAN loop itself: a generator over one connection. `Scanner` adds what a long walk of
a live server needs: a bound on how far it runs ahead (`emit` blocks), reconnects with growing
pauses until `retry_for` is over, and the proof that cursors are still valid. A cursor is valid only
within one server process, so `run_id` is read on every new connection and at the end; if it differs
(or is unknown) the coordinator starts the partition over. The identity of a replica says more
(`servers/replicas`), and one that is not fit to be read counts as unreachable. A walk that repeats
another starts when the replica has caught up with its primary.

Keys are filtered by SCAN itself or here (`filters`).

A key is handed on once, as far as `recent_keys` can detect. At the end of a part of a table a reply
reaches into the next part. Its keys there are asked for once more, from the part's end up to where
the reply ended, and left out: the next part's walk finds them, provided that no range of the table
lies in both, which the cursors prove. So COUNT, which changes meanwhile, does not matter.

Not promised: that keys written or deleted meanwhile are found.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from rumpx.engine.events import (
    CursorUnproven,
    Found,
    FromScanner,
    NodeChanged,
    ScanTrouble,
    Walked,
)
from rumpx.engine.filters import key_filter, of_types, scan_options
from rumpx.engine.recent_keys import FoundLately
from rumpx.errors import (
    ConnectionLost,
    RumpxError,
    Side,
    machine_limit,
)
from rumpx.model.endpoint import Address
from rumpx.model.job import Scope
from rumpx.model.nodes import Node
from rumpx.model.partitions import (
    CursorSpan,
    KeySpan,
    Partition,
    SlotSpan,
    cursor_is_plausible,
    reached,
    reverse,
)
from rumpx.model.slots import key_slot
from rumpx.servers.connections import select
from rumpx.servers.dial import Dialer
from rumpx.servers.endless import Endless, refuse_endless
from rumpx.servers.replicas import catch_up, read_identity, read_place
from rumpx.servers.replies import Kind, classify, denial, malformed, permanent
from rumpx.servers.resp import Argument, Connection, Reply
from rumpx.servers.topology import heir, read_topology
from rumpx.throttle.scan_gate import Gate, GateClosed
from rumpx.transfer.retry import Retries
from rumpx.values.shapes import fits

# The most bytes of the names in one batch.
BATCH_NAME_BYTES: Final = 2**20
# If a filter passes no keys, progress is still reported this often, in seconds.
_SIGN_OF_LIFE: Final = 0.25

# A node's address, and the `run_id` of the process that serves it.
Place = tuple[Address | None, str]
# The most connections that wait for another walk.
_SHELF: Final = 32


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """Settings of all walks of one side. `scan_type`: the server knows SCAN … TYPE; `sample`: the
    part of the keys that is handed on, 0.0 to 1.0."""

    dialer: Dialer
    scope: Scope
    retry_for: float
    scan_type: bool
    sample: float = 1.0


class _UnprovenCursor(Exception):
    """A cursor that the arithmetic does not allow."""


def walk(
    connection: Connection,
    partition: Partition,
    cursor: int,
    settings: ScanSettings,
    gate: Gate,
    lately: FoundLately | None = None,
    endless: Endless | None = None,
) -> Iterator[tuple[list[bytes], int]]:
    """Walk a partition from a cursor on; yield (keys in scope, next cursor) for each SCAN.

    Args:
        lately: names that the walk found before, over another connection.
        endless: has watched the walk over that connection.

    Raises:
        GateClosed: the run ends.
        ConnectionLost: also for error replies that may pass.
        SourceUnusable, TargetUnusable: SCAN is refused, or never ends.
    """
    if isinstance(partition.span, KeySpan):
        yield from _listed(partition.span, cursor, gate)
        return
    options = scan_options(partition, settings.scope, scan_type=settings.scan_type)
    keep = key_filter(partition, settings.scope, settings.sample)
    ask_types = len(settings.scope.types) > (1 if settings.scan_type else 0)
    span = partition.span
    lately = lately or found_lately(partition)
    endless = endless or Endless()
    size = 0
    while True:
        before = cursor
        cursor, found, count = _scan(connection, partition.side, before, gate, options)
        if isinstance(span, CursorSpan):
            size = _size_for(connection, cursor, size)
        ended = span.ended(cursor)
        if not ended:
            watch_scan(connection, partition.side, endless, cursor, len(found), count)
        if ended and found:
            # A reply is not cut at the span's end: the keys beyond belong to the next span, which
            # would count them again.
            if isinstance(span, CursorSpan) and (end := reached(cursor)) > span.high:
                others = _of_the_next(connection, partition, span.high, end, gate, options)
                found = [key for key in found if key not in others]
            elif isinstance(span, SlotSpan):
                found = [key for key in found if key_slot(key) < span.high]
        if keep is not None:
            found = [key for key in found if keep(key)]
        if ask_types and found:
            found = of_types(connection, partition.side, found, settings.scope.types, gate)
        found = lately.new(before, cursor, found)
        lately.add(cursor, found)  # the caller hands the keys on before anything can fail
        yield found, cursor
        if ended:
            return


def watch_scan(
    connection: Connection, side: Side, endless: Endless, cursor: int, keys: int, count: int
) -> None:
    """Check that a walk will end, after a SCAN with a COUNT returned some number of keys.

    Raises:
        SourceUnusable, TargetUnusable: it never ends.
    """

    def size() -> int | None:
        reply = connection.call("DBSIZE")
        return reply if isinstance(reply, int) else None

    fault = endless.watch(cursor, keys, count, size)
    refuse_endless(side, connection.name, "SCAN", fault)


def _listed(span: KeySpan, cursor: int, gate: Gate) -> Iterator[tuple[list[bytes], int]]:
    """Yield listed keys, which were in scope when they were listed, without SCAN."""
    while cursor < len(span.keys):
        end = min(cursor + gate.batch_keys, len(span.keys))
        yield list(span.keys[cursor:end]), end
        cursor = end


def _of_the_next(
    connection: Connection,
    partition: Partition,
    high: int,
    end: int,
    gate: Gate,
    options: list[Argument],
) -> set[bytes]:
    """Return the keys between `high`, the end of a part of a table, and `end`, up to which a reply
    reached.

    They can be left out: the walk that starts at `high` finds them, however the table changes
    meanwhile; except in a table that has shrunk to fewer buckets than parts, where a range lies on
    both sides of `high`, and its keys may belong to a part that was walked before. The position
    after a reply is the end of such a range: if no higher power of two divides it than `high`,
    ranges are small enough. A SCAN of a few buckets from the first one on, in the same pipeline,
    has such an end. If even that proves nothing, all keys are kept.
    """
    found: set[bytes] = set()
    endless = Endless()
    at = high
    while at < end:
        with gate.scan() as number:
            replies = connection.call_many(
                [("SCAN", reverse(at), "COUNT", number, *options), ("SCAN", 0, "COUNT", 1)]
            )
        (cursor, keys), (other, _) = (scanned(connection, partition.side, r) for r in replies)
        watch_scan(connection, partition.side, endless, cursor, len(keys), number)
        ends = reached(cursor), reached(other)
        if ends[0] <= at or min(each & -each for each in ends) > high & -high:
            return set()
        found.update(keys)
        at = ends[0]
    return found


def found_lately(partition: Partition) -> FoundLately:
    """Return the empty memory of a new walk."""
    if isinstance(partition.span, SlotSpan):
        return FoundLately("slots")
    cut = isinstance(partition.span, CursorSpan)
    return FoundLately("table" if cut or not partition.node.slots else "unknown")


def _scan(
    connection: Connection, side: Side, cursor: int, gate: Gate, options: list[Argument]
) -> tuple[int, list[bytes], int]:
    """Return the next cursor, the keys, and the COUNT that was sent."""
    with gate.scan() as number:
        reply = connection.call("SCAN", cursor, "COUNT", number, *options)
    return *scanned(connection, side, reply), number


def scanned(connection: Connection, side: Side, reply: Reply) -> tuple[int, list[bytes]]:
    """Return the next cursor and the keys of a reply to SCAN.

    Raises:
        ConnectionLost: an error reply that may pass.
        SourceUnusable, TargetUnusable: SCAN is refused, or the reply is invalid.
    """
    if not isinstance(reply, list):
        raise _scan_refused(connection, side, reply)
    if not fits("SCAN", reply):
        raise malformed(side, connection.name, "SCAN")
    cursor, keys = reply
    return int(cursor), keys  # type: ignore[arg-type,return-value]


def _size_for(connection: Connection, cursor: int, size: int) -> int:
    """Return a size of the database with which the cursor is plausible: the last known one, or the
    present one. (Asked for each reply, it would cost another round trip for each SCAN.)"""
    if cursor_is_plausible(cursor, size):
        return size
    now = connection.call("DBSIZE")
    if not isinstance(now, int) or not cursor_is_plausible(cursor, now):
        raise _UnprovenCursor
    return now


def _scan_refused(connection: Connection, side: Side, reply: object) -> RumpxError:
    if classify(reply).kind in (Kind.TEMPORARY, Kind.FULL):
        connection.close()
        return ConnectionLost(f"The {side} at {connection.name} cannot be scanned now: {reply}.")
    return denial(side, connection.name, "SCAN", reply)


class Shelf:
    """Connections of walks that have ended, for other walks of the same node. To open one and to
    read its identity takes four round trips, to select another database one.

    A connection leads to one process as long as it is open, so its `run_id` stays valid.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[tuple[Place, Connection]] = []

    def take(self, place: Place) -> Connection | None:
        """Return a connection to a node whose process has that `run_id`, if there is one."""
        with self._lock:
            for number, (where, connection) in enumerate(self._free):
                if where == place:
                    del self._free[number]
                    return connection
        return None

    def put(self, place: Place, connection: Connection) -> None:
        """Keep a connection for other walks; close the oldest beyond the most that are kept."""
        with self._lock:
            self._free.append((place, connection))
            if len(self._free) > _SHELF:
                self._free.pop(0)[1].close()

    def clear(self) -> None:
        """Close all: at the end, and when one was lost, since others may be too."""
        with self._lock:
            for _, connection in self._free:
                connection.close()
            self._free.clear()


@dataclass(slots=True)
class Scanner:
    """Walks one partition in a thread of its own and emits the keys that it finds.

    Args:
        walk: the number of this walk of the partition.
        cursor: the start, or where an earlier walk ended.
        run_id: of the server process that the plan was made for; "" if unknown.
        settings: of all walks.
        shelf: connections for further walks.
        gate: its SCANs pass it.
        emit: takes each message; may block, and returns False once the walk must end.
        walked: all keys were found; only the process is checked.
    """

    partition: Partition
    walk: int
    cursor: int
    run_id: str
    settings: ScanSettings
    shelf: Shelf
    gate: Gate
    emit: Callable[[FromScanner], bool]
    walked: bool = False
    _node: Node | None = None
    _lately: FoundLately = field(init=False)
    _endless: Endless = field(default_factory=Endless)
    _connected: bool = False
    _pending: list[bytes] = field(default_factory=list)
    _pending_bytes: int = 0
    _told: float = 0.0
    _told_cursor: int = -1

    def __post_init__(self) -> None:
        self._told_cursor = self.cursor
        self._lately = found_lately(self.partition)

    def start(self) -> threading.Thread:
        """Start and return the thread, which ends by itself after its last message."""
        thread = threading.Thread(target=self._run, name=f"scan {self.partition.id}", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            last = self._walk_until_done()
        except RumpxError as error:
            last = ScanTrouble(error)
        except GateClosed:
            last = None
        except _UnprovenCursor:
            last = CursorUnproven(self.partition.id, self.walk)
        except Exception as error:
            limit = machine_limit(error)
            last = ScanTrouble(
                limit or RumpxError(f"Unexpected error while scanning: {error!r}.")
            )
        if last is not None:
            self.emit(last)

    def _walk_until_done(self) -> FromScanner | None:
        """Return the last message, or None if the walk was told to end."""
        node = self._node = self.partition.node
        retries = Retries(self.settings.retry_for)
        while True:
            before = self.cursor
            try:
                return self._visit(node)
            except ConnectionLost as error:
                if fatal := permanent(error):
                    raise fatal from None
                self.shelf.clear()
                if self.cursor != before:
                    retries.succeeded()
                pause = retries.failed(str(error))
            time.sleep(pause)
            node = self._node = self._locate(node)

    def _visit(self, node: Node) -> FromScanner | None:
        """Walk over one connection; the result is as that of `_walk_until_done`."""
        place = node.address, self.run_id
        connection = self.shelf.take(place)
        try:
            if connection is None:
                connection = self.settings.dialer.connect(node.address)
                run_id = read_identity(connection, node)
                if run_id != self.run_id or (self._connected and not run_id):
                    return NodeChanged(self.partition.id, self.walk, node, run_id)
            select(connection, self.partition.db, self.partition.side)
            if node.origin and self.partition.reason and not self._connected:
                catch_up(self.settings.dialer, connection, node.origin)
            self._connected = True
            if not self.walked and not self._walk_connection(connection):
                return None
            self.walked = True  # if the connection is lost now, only the identity is read again
            run_id = read_identity(connection, node)
            if run_id != self.run_id:
                return NodeChanged(self.partition.id, self.walk, node, run_id)
            if run_id:
                self.shelf.put(place, connection)
                connection = None
            return Walked(self.partition.id, self.walk)
        finally:
            if connection:
                connection.close()

    def _walk_connection(self, connection: Connection) -> bool:
        """Walk from the cursor; return False if the coordinator has told the walk to end."""
        self._endless.resume()
        found = walk(
            connection,
            self.partition,
            self.cursor,
            self.settings,
            self.gate,
            self._lately,
            self._endless,
        )
        for keys, cursor in found:
            if not self._hand_on(keys, cursor):
                return False
        return not self._pending or self._tell(self.cursor)

    def _hand_on(self, keys: list[bytes], cursor: int) -> bool:
        """Add the keys of one SCAN reply to those pending, and emit full batches.

        If a reply is too large for one batch, a batch that ends within it carries the cursor from
        before it: a walk that resumes there finds the reply again, and no keys of another one. The
        reply's own cursor goes with its last keys.
        """
        most, count = self.gate.batch_keys, self.gate.scan_count
        size = self._pending_bytes + sum(map(len, keys))
        # SCAN returns some more than its COUNT, which should not start another batch.
        roomy = most + count // 8
        if size <= BATCH_NAME_BYTES and len(self._pending) + len(keys) <= roomy:
            self._pending += keys
            self._pending_bytes = size
        elif not self._hand_on_parts(keys):
            return False
        self.cursor = cursor
        waiting = len(self._pending)
        enough = 2 * waiting >= most and waiting + count > roomy
        if enough or time.monotonic() - self._told > _SIGN_OF_LIFE:
            return self._tell(cursor)
        return True

    def _hand_on_parts(self, keys: list[bytes]) -> bool:
        # Also if nothing is pending: else the first part would be the first message with the cursor
        # of the reply before, and be booked with that, though a walk from there finds it again.
        untold = self._pending or self.cursor != self._told_cursor
        if untold and not self._tell(self.cursor):
            return False
        for key in keys:
            full = len(self._pending) >= self.gate.batch_keys
            if (full or self._pending_bytes >= BATCH_NAME_BYTES) and not self._tell(self.cursor):
                return False
            self._pending.append(key)
            self._pending_bytes += len(key)
        return True  # the last part waits for the reply's own cursor

    def _tell(self, cursor: int) -> bool:
        keys, self._pending, self._pending_bytes = self._pending, [], 0
        self._told = time.monotonic()
        self._told_cursor = cursor
        node = self._node.address if self._node else None
        return self.emit(Found(self.partition.id, self.walk, node, keys, cursor))

    def _locate(self, node: Node) -> Node:
        """Return the partition's present node: a failover may have moved its slots to another one,
        and another replica may be the one to read."""
        dialer = self.settings.dialer
        if not node.slots and dialer.read_from == "primary":
            return node
        known = [node.address, node.primary, *node.replicas] if node.slots else []
        try:
            topology = read_topology(dialer, filter(None, known))
            return read_place(dialer, heir(topology, node), [node.address])[0]
        except RumpxError:
            return node
