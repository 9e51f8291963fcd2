"""Scanning: one thread walks one partition and hands keys to the coordinator, batch by batch.

`walk` is the SCAN loop itself: a generator over one connection. `Scanner` puts around it what a
long walk of a live server needs: a bound on how far it runs ahead (`emit` blocks), reconnects with
growing pauses until `retry_for` is over, and the check that cursors still mean something: a cursor
is valid only within one server process, so `run_id` is read on every new connection and at the
end, and where it differs (or cannot be had) the coordinator is told to start the partition over.
Of a replica the identity says more (`servers/replicas`), and one that is not fit to be read counts
as unreachable. A walk again begins when it has caught up once more.

Filters: one `--match` or a prefix is pushed down to SCAN, one `--type` likewise where the server
has SCAN … TYPE; all else is decided here, on the key's bytes or by asking TYPE. What comes back is
checked against `--match` and prefix all the same. Not against a type that was pushed down: only the
server that is not believed could be asked for it again, and it may change until the key is read.

A key is handed on once, as far as `lately` can tell. At the end of a part of a table a reply
reaches into the next part. The keys there are asked for once more, from the part's end up to where
the reply ended, and left out: the next part's walk is shown them, provided that no range of the
table lies in both, which the cursors prove. So COUNT, which changes meanwhile, does not matter.

Not promised: that keys written or deleted meanwhile are found.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from rumpx.engine.recent_keys import FoundLately
from rumpx.errors import (
    ConnectionLost,
    RumpxError,
    Side,
    TemporaryError,
    machine_limit,
    unusable,
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
from rumpx.servers.globs import compile_glob, escape
from rumpx.servers.redials import growing_pause
from rumpx.servers.replicas import catch_up, read_identity, read_place
from rumpx.servers.replies import Kind, classify, explain_refusal, malformed
from rumpx.servers.resp import Argument, Connection, Reply
from rumpx.servers.topology import heir, is_error, read_topology
from rumpx.throttle.scan_gate import Gate, GateClosed
from rumpx.transfer.messages import (
    CursorUnproven,
    Found,
    FromScanner,
    NodeChanged,
    ScanTrouble,
    Walked,
)
from rumpx.transfer.suspects import refusal
from rumpx.values.shapes import fits

# Names in one batch may not be larger than this, so that a batch of long names is no surprise.
BATCH_NAME_BYTES: Final = 2**20
# Where a filter lets nothing through, progress is still told this often, in seconds.
_SIGN_OF_LIFE: Final = 0.25

# A node's address, and the `run_id` of the process that serves it.
Place = tuple[Address | None, str]
# Connections that wait for another walk, at most.
_SHELF: Final = 32


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """What all walks of one side share. `scan_type`: the server knows SCAN … TYPE; `sample`: the
    part of the keys that is looked at, 0.0 to 1.0."""

    dialer: Dialer
    scope: Scope
    retry_for: float
    scan_type: bool
    sample: float = 1.0


class _UnprovenCursor(Exception):
    """A cursor that the arithmetic does not allow."""


NameTest = Callable[[bytes], object]


def name_tests(scope: Scope) -> list[NameTest]:
    """Tests that the names of keys in scope pass."""
    tests: list[NameTest] = []
    if scope.match:
        tests.append(_any_glob(scope.match))
    if scope.exclude:
        unwanted = [compile_glob(glob).fullmatch for glob in scope.exclude]
        tests.append(lambda key: not any(match(key) for match in unwanted))
    return tests


def _any_glob(globs: Sequence[bytes]) -> NameTest:
    # One alone was SCAN's MATCH: the server has decided by its own order of bytes, whichever that
    # is. Both orders are nearly always one and the same pattern.
    orders = (True, False) if len(globs) == 1 else (True,)
    patterns = {compile_glob(glob, signed=signed) for glob in globs for signed in orders}
    wanted = [pattern.fullmatch for pattern in patterns]
    return wanted[0] if len(wanted) == 1 else lambda key: any(match(key) for match in wanted)


def key_filter(partition: Partition, scope: Scope, sample: float = 1.0) -> NameTest | None:
    """What a walk decides on a key's bytes by itself; None where it keeps every key."""
    tests = name_tests(scope)
    if (prefix := partition.prefix) is not None:
        tests.append(lambda key: key.startswith(prefix))
    if partition.beside:
        tests.append(lambda key: not key.startswith(partition.beside))
    if (slots := partition.slots) is not None:
        tests.append(lambda key: key_slot(key) in slots)
    if sample < 1.0:
        # Python's hash of bytes is keyed anew by each process: a random choice, but the same one
        # for both sides.
        below = int(sample * 2**32)
        tests.append(lambda key: hash(key) & 0xFFFFFFFF < below)
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda key: all(test(key) for test in tests)


def scan_options(partition: Partition, settings: ScanSettings) -> list[Argument]:
    """What SCAN filters by itself."""
    options: list[Argument] = []
    scope = settings.scope
    if partition.prefix is not None:
        options += ["MATCH", escape(partition.prefix) + b"*"]
    elif len(scope.match) == 1:
        options += ["MATCH", scope.match[0]]
    if len(scope.types) == 1 and settings.scan_type:
        options += ["TYPE", scope.types[0]]
    return options


def walk(
    connection: Connection,
    partition: Partition,
    cursor: int,
    settings: ScanSettings,
    gate: Gate,
    lately: FoundLately | None = None,
    endless: Endless | None = None,
) -> Iterator[tuple[list[bytes], int]]:
    """Walk a partition from a cursor on: yields (keys in scope, next cursor) for each SCAN.

    `lately` is what the walk found before, over another connection; `endless` has watched that.

    Raises:
        GateClosed: it is to end.
        ConnectionLost: also for replies that say "later".
        SourceUnusable, TargetUnusable: SCAN is refused, or does not come to an end.
    """
    if isinstance(partition.span, KeySpan):
        yield from _listed(partition.span, cursor, gate)
        return
    options = scan_options(partition, settings)
    keep = key_filter(partition, settings.scope, settings.sample)
    ask_types = len(settings.scope.types) > (1 if settings.scan_type else 0)
    span = partition.span
    lately = lately or found_lately(partition)
    endless = endless or Endless()
    while True:
        before = cursor
        cursor, found, count = _scan(connection, partition.side, before, gate, options)
        if isinstance(span, CursorSpan):
            _check_cursor(connection, cursor)
        ended = span.ended(cursor)
        if not ended:
            watch_scan(connection, partition.side, endless, cursor, len(found), count)
        if ended and found:
            # A reply is not cut at the span's end: the keys behind it are of the next one, which
            # would count them again.
            if isinstance(span, CursorSpan) and (end := reached(cursor)) > span.high:
                others = _of_the_next(connection, partition, span.high, end, gate, options)
                found = [key for key in found if key not in others]
            elif isinstance(span, SlotSpan):
                found = [key for key in found if key_slot(key) < span.high]
        if keep is not None:
            found = [key for key in found if keep(key)]
        if ask_types and found:
            found = _of_types(connection, partition.side, found, settings.scope.types, gate)
        found = lately.new(before, cursor, found)
        lately.add(cursor, found)  # nothing comes between this and the keys' being handed on
        yield found, cursor
        if ended:
            return


def watch_scan(
    connection: Connection, side: Side, endless: Endless, cursor: int, keys: int, count: int
) -> None:
    """End the run if a walk would never end, by a reply with so many keys to a SCAN of that COUNT.

    Raises:
        SourceUnusable, TargetUnusable: it would not.
    """

    def size() -> int | None:
        reply = connection.call("DBSIZE")
        return reply if isinstance(reply, int) else None

    fault = endless.watch(cursor, keys, count, size)
    refuse_endless(side, connection.name, "SCAN", fault)


def _listed(span: KeySpan, cursor: int, gate: Gate) -> Iterator[tuple[list[bytes], int]]:
    """Keys that need not be scanned for. They were in scope when they were listed."""
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
    """The keys between `high`, the end of a part of a table, and `end`, up to which a reply
    reached.

    Safe to leave out: the walk that begins at `high` is shown them, whatever the table does
    meanwhile; but for a table that has shrunk to fewer buckets than parts, where a range lies on
    both sides of `high`, and its keys may be of a part that was walked before. The position after
    a reply is the end of such a range: where no higher power of two divides it than `high`, ranges
    are small enough. A SCAN of a few buckets from the first one on, in the same pipeline, has such
    an end. Where even that is no proof, all keys are kept.
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
    """For a walk that begins."""
    if isinstance(partition.span, SlotSpan):
        return FoundLately("slots")
    cut = isinstance(partition.span, CursorSpan)
    return FoundLately("table" if cut or not partition.node.slots else "unknown")


def _scan(
    connection: Connection, side: Side, cursor: int, gate: Gate, options: list[Argument]
) -> tuple[int, list[bytes], int]:
    """The next cursor, the keys, and the COUNT that was asked for."""
    with gate.scan() as number:
        reply = connection.call("SCAN", cursor, "COUNT", number, *options)
    return *scanned(connection, side, reply), number


def scanned(connection: Connection, side: Side, reply: Reply) -> tuple[int, list[bytes]]:
    """A reply to SCAN: the next cursor, and the keys.

    Raises:
        ConnectionLost: the server says "later".
        SourceUnusable, TargetUnusable: SCAN is refused, or that is no reply to it.
    """
    if not isinstance(reply, list):
        raise _scan_refused(connection, side, reply)
    if not fits("SCAN", reply):
        raise malformed(side, connection.name, "SCAN")
    cursor, keys = reply
    return int(cursor), keys  # type: ignore[arg-type,return-value]


def _check_cursor(connection: Connection, cursor: int) -> None:
    if not cursor_is_plausible(cursor, 0):
        keys = connection.call("DBSIZE")
        if not isinstance(keys, int) or not cursor_is_plausible(cursor, keys):
            raise _UnprovenCursor


def _of_types(
    connection: Connection, side: Side, keys: list[bytes], types: tuple[str, ...], gate: Gate
) -> list[bytes]:
    wanted = {name.lower().encode() for name in types}
    replies: list[Reply] = []
    while (done := len(replies)) < len(keys):
        with gate.asking() as number:
            replies += connection.call_many([("TYPE", key) for key in keys[done : done + number]])
    if not all(is_error(reply) or fits("TYPE", reply) for reply in replies):
        raise malformed(side, connection.name, "TYPE")
    return [
        key
        for key, reply in zip(keys, replies, strict=True)
        if isinstance(reply, bytes) and reply.lower() in wanted
    ]


def _scan_refused(connection: Connection, side: Side, reply: object) -> RumpxError:
    if classify(reply).kind in (Kind.TEMPORARY, Kind.FULL):
        connection.close()
        return ConnectionLost(f"The {side} at {connection.name} cannot be scanned now: {reply}.")
    return unusable(side)(
        f"The {side} at {connection.name} refused SCAN: {explain_refusal(reply, 'SCAN')}."
    )


class Shelf:
    """Connections of walks that have ended, for other walks of the same node: to open one and to
    ask who answers takes four round trips, to select another database one.

    A connection leads to the same process as long as it lives, so that its `run_id` holds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[tuple[Place, Connection]] = []

    def take(self, place: Place) -> Connection | None:
        """A connection to a node, whose process has that `run_id`, if there is one."""
        with self._lock:
            for number, (where, connection) in enumerate(self._free):
                if where == place:
                    del self._free[number]
                    return connection
        return None

    def put(self, place: Place, connection: Connection) -> None:
        """For others to take; the oldest is closed where there are enough."""
        with self._lock:
            self._free.append((place, connection))
            if len(self._free) > _SHELF:
                self._free.pop(0)[1].close()

    def clear(self) -> None:
        """Close those that nobody took: at the end, and when one was lost, since others may be."""
        with self._lock:
            for _, connection in self._free:
                connection.close()
            self._free.clear()


@dataclass(slots=True)
class Scanner:
    """Walks one partition in a thread of its own and tells what it finds.

    Args:
        partition: what to walk.
        walk: the number of this walk of the partition.
        cursor: where to begin, or to go on.
        run_id: of the server process that the plan was made for; "" if unknown.
        settings: shared by all walks.
        shelf: connections for further walks.
        gate: what its SCANs pass.
        emit: takes each message; may block, and returns False once the walk is to end.
    """

    partition: Partition
    walk: int
    cursor: int
    run_id: str
    settings: ScanSettings
    shelf: Shelf
    gate: Gate
    emit: Callable[[FromScanner], bool]
    _node: Node | None = None
    _lately: FoundLately = field(init=False)
    _endless: Endless = field(default_factory=Endless)
    _connected: bool = False
    _walked: bool = False
    _pending: list[bytes] = field(default_factory=list)
    _pending_bytes: int = 0
    _told: float = 0.0
    _told_cursor: int = -1

    def __post_init__(self) -> None:
        self._told_cursor = self.cursor
        self._lately = found_lately(self.partition)

    def start(self) -> threading.Thread:
        """Begin; the thread ends by itself after Walked, NodeChanged or trouble."""
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
                limit or RumpxError(f"Unexpected trouble while scanning: {error!r}.")
            )
        if last is not None:
            self.emit(last)

    def _walk_until_done(self) -> FromScanner | None:
        """The last message, or None if the walk was told to end."""
        node = self._node = self.partition.node
        trouble_since: float | None = None
        pauses = 0
        while True:
            before = self.cursor
            try:
                return self._visit(node)
            except ConnectionLost as error:
                if fatal := refusal(error, self.partition.side):
                    raise fatal from None
                self.shelf.clear()
                if self.cursor != before:
                    trouble_since, pauses = None, 0
                trouble_since = trouble_since or time.monotonic()
                if time.monotonic() - trouble_since > self.settings.retry_for:
                    raise TemporaryError(
                        f"Gave up after {self.settings.retry_for:g} s of trouble: {error} "
                        "Go on when it is over."
                    ) from None
            pauses += 1
            time.sleep(growing_pause(pauses))
            node = self._node = self._locate(node)

    def _visit(self, node: Node) -> FromScanner | None:
        """Walk on over one connection; the result is as that of `_walk_until_done`."""
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
            if not self._walked and not self._walk_connection(connection):
                return None
            self._walked = True  # so that a connection lost now does not walk it again
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
        """Walk on from the cursor; False if the coordinator has told us to end."""
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
        """Put keys of one SCAN reply to those pending, and emit full batches.

        Where a reply is too large for one, a batch that ends within it carries the cursor from
        before it: whoever walks on from there meets the reply again, and nothing of another one.
        The reply's own cursor goes with its last keys.
        """
        most, count = self.gate.batch_keys, self.gate.scan_count
        size = self._pending_bytes + sum(map(len, keys))
        # SCAN gives some more than its COUNT, which should not begin another batch.
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
        # Also where nothing is pending: else the first part would be the first to tell of the
        # reply before it, and be booked with that, though it is met again from there.
        untold = self._pending or self.cursor != self._told_cursor
        if untold and not self._tell(self.cursor):
            return False
        for key in keys:
            full = len(self._pending) >= self.gate.batch_keys
            if (full or self._pending_bytes >= BATCH_NAME_BYTES) and not self._tell(self.cursor):
                return False
            self._pending.append(key)
            self._pending_bytes += len(key)
        return True  # the last part waits, for the reply's own cursor

    def _tell(self, cursor: int) -> bool:
        keys, self._pending, self._pending_bytes = self._pending, [], 0
        self._told = time.monotonic()
        self._told_cursor = cursor
        node = self._node.address if self._node else None
        return self.emit(Found(self.partition.id, self.walk, node, keys, cursor))

    def _locate(self, node: Node) -> Node:
        """Where the partition's node is now: a failover may have moved its slots elsewhere, and
        another replica may have to be read."""
        dialer = self.settings.dialer
        if not node.slots and dialer.read_from == "primary":
            return node
        known = [node.address, node.primary, *node.replicas] if node.slots else []
        try:
            topology = read_topology(dialer, filter(None, known))
            return read_place(dialer, heir(topology, node), [node.address])[0]
        except RumpxError:
            return node
