"""A worker's part of a comparison: batches of key names in, findings out.

A batch from the source is compared, cheapest proof first:

1. DUMP and expiry of each key from both sides, in the pipelines of a copy. Equal bytes are equal
   values, and so are those that are equal after the members of hash tables are sorted. (With
   digests: an 8-byte checksum of each value instead.)
2. Values whose bytes differ are compared by the commands of their type: the order of a set, an
   encoding, a version's footer do not count. A module's type may have no such command: then it is
   reported as incomparable, unless the expiries differ, which proves a difference.
3. Expiries may differ by the tolerance.

A key that only one side has does not count as missing or extra once it has expired: by the other
side's clock, or field by field (`_without_fields`).

The keys of a batch from the target are checked on the source by EXISTS; a key that is absent there
and still on the target is extra. A batch of extras is deleted, each key only right after an EXISTS
on the source's primary has returned 0. A batch of repairs is copied like any other. If replicas of
the source are read, keys that one of them lacks are checked on its primary before they count as
extra.

Each mismatch is a *finding*, with fingerprints of the values on both sides, so that a second look
can detect writes to the key in between.

Not promised: a result for one instant.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rumpx.engine.worker import WorkerSpec
from rumpx.model.counts import Counts
from rumpx.model.job import Scope
from rumpx.model.results import Finding, FindingKind, KeyFailure
from rumpx.servers.connections import Links
from rumpx.servers.endless import Endless, refuse_endless
from rumpx.servers.rdb import fields_expire, kind_of
from rumpx.servers.replies import malformed
from rumpx.servers.resp import NO_EXPIRY, Reply, encode
from rumpx.servers.topology import is_error
from rumpx.throttle.rates import Throttle
from rumpx.transfer.aside import Aside
from rumpx.transfer.chunks import Chunk, Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.dump_reader import Abilities, DumpReader, Wanted
from rumpx.transfer.messages import Ack, Batch
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Budget, Permit, Task
from rumpx.transfer.suspects import Lost, Suspects
from rumpx.transfer.transfer import Transfer
from rumpx.values.canonical import in_order, print_of
from rumpx.values.compare import SMALL_BYTES, unlike
from rumpx.values.shapes import fits
from rumpx.values.small import READS, meaning, read_command

_GONE = -2
# HSCAN's COUNT in the first search for fields that have not expired; doubled in each further round,
# up to the maximum.
_FIELDS_SEEN = 10
_MOST_FIELDS_SEEN = 1000
# The checksum at the end of a DUMP payload (CRC64), and the expiry.
_DIGEST_SCRIPT = (
    "local d = redis.call('DUMP', KEYS[1]) "
    "if not d then return {'', -2} end "
    "return {string.sub(d, -8), redis.call('PEXPIRETIME', KEYS[1])}"
)

State = tuple[bytes, int]
"""Payload (or digest) and expiry, ms since 1970 or NO_EXPIRY."""


@dataclass(frozen=True, slots=True)
class CompareSpec:
    """Settings of a comparing worker.

    Attributes:
        copying: both sides, the scope and the limits; and the settings of repairs.
        target_abilities: the commands for reading that the target allows.
        tolerance: allowed difference of expiries, in ms, if both servers return absolute expiries.
        coarse_tolerance: the same if one of them returns remaining TTLs.
        digests: compare checksums computed by the servers.
        clocks: the source's and the target's clock minus this machine's, ms, if known.
    """

    copying: WorkerSpec
    target_abilities: Abilities
    tolerance: int
    coarse_tolerance: int
    digests: bool
    clocks: tuple[float | None, float | None]

    @property
    def databases(self) -> tuple[int, ...]:
        return self.copying.databases

    @property
    def bytes_in_flight(self) -> int:
        return self.copying.bytes_in_flight

    @property
    def scope(self) -> Scope:
        return self.copying.scope

    def writing_as(self, writer: str, lifeline: int) -> CompareSpec:
        """Return the same with named connections to the target."""
        return replace(self, copying=self.copying.writing_as(writer, lifeline))

    def build(self, budget: Budget, throttle: Throttle) -> Comparer:
        """Return the comparer."""
        spec = self.copying
        source = DumpReader(Links(spec.source, spec.source_topology), spec.abilities)
        return Comparer(
            source,
            DumpReader(Links(spec.target, spec.target_topology), self.target_abilities),
            spec.aside(),
            spec.build(budget, throttle),
            Intake(source, budget, spec.limits(budget), throttle, sides=2),
            self,
            spec.primaries(),
        )


@dataclass(slots=True)
class _Seen:
    """The replies of one side for some keys, as three lists; absent keys are in none."""

    keys: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    expiries: list[int] = field(default_factory=list)
    failures: list[KeyFailure] = field(default_factory=list)

    def states(self) -> dict[bytes, State]:
        """Return payload and expiry by key."""
        return dict(
            zip(self.keys, zip(self.payloads, self.expiries, strict=True), strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Unequal:
    """A key whose bytes differ, until its value is compared by type.

    `kinds` are the types on both sides; `whole` is True if both values are small enough to be read
    whole, and consist of members only.
    """

    key: bytes
    kinds: tuple[bytes, bytes]
    whole: bool
    prints: tuple[bytes, bytes]
    expiries: tuple[int, int]


class _LostAgain(Exception):
    """Keys of a chunk lost their connections: continue in parts, without those that failed."""

    def __init__(self, failed: set[bytes]) -> None:
        super().__init__()
        self.failed = failed


@dataclass(slots=True)
class _Verdicts:
    equal: int = 0
    gone: int = 0
    payload_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    failures: list[KeyFailure] = field(default_factory=list)
    unequal: list[_Unequal] = field(default_factory=list)
    missing_hashes: list[Finding] = field(default_factory=list)

    def counts(self) -> Counts:
        kinds = Counter(finding.kind for finding in self.findings)
        return Counts(
            gone=self.gone,
            failed=len(self.failures),
            payload_bytes=self.payload_bytes,
            equal=self.equal,
            missing=kinds["missing"],
            different=len(self.findings) - kinds["missing"] - kinds["incomparable"],
            incomparable=kinds["incomparable"],
        )


class Comparer:
    """Compares keys, checks their existence, deletes, and copies.

    Args:
        source, target: readers.
        aside: further connections to both, for comparison by type.
        transfer: copies the repairs.
        intake: cuts batches, and grants reads of their chunks.
        spec: tolerance, scope, digests.
        primaries: connections to the source's primaries, if replicas are read.
    """

    def __init__(
        self,
        source: DumpReader,
        target: DumpReader,
        aside: tuple[Links, Links],
        transfer: Transfer,
        intake: Intake,
        spec: CompareSpec,
        primaries: Links | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._transfer = transfer
        self._intake = intake
        self._spec = spec
        self._scope = spec.scope
        self._shift = spec.copying.expiry_shift
        self._retry_for = spec.copying.retry_for
        self._aside = Aside(aside, self._retry_for, self._scope)
        self._source_calls = self._primary_calls = Calls(source.links, self._retry_for, intake)
        if primaries:
            self._primary_calls = Calls(primaries, self._retry_for, intake)
        self._target_calls = Calls(target.links, self._retry_for, intake)

    def dial(self, databases: Sequence[int]) -> None:
        """Open only the connections that a copy opens ahead of time."""
        self._transfer.dial(databases)

    def settle(self, batch: Batch) -> Task[Ack]:
        """Do the batch's work; a task.

        Raises:
            TemporaryError: no key was settled for `retry_for` seconds.
            SourceUnusable, TargetUnusable: a command is refused for every key.
        """
        match batch.work:
            case "compare":
                return (yield from self._compare_batch(batch))
            case "look for":
                return (yield from self._look_for(batch))
            case "delete":
                return (yield from self._delete(batch))
        return (yield from self._transfer.settle(batch))

    def unfinished(self) -> dict[int, Counts]:
        """Return the counts of unfinished copies; unfinished comparisons have settled no key."""
        return self._transfer.unfinished()

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        notices = self._source.notices + self._target.notices + self._transfer.take_notices()
        self._source.notices, self._target.notices = [], []
        return notices

    def close(self) -> None:
        """Close all connections."""
        self._transfer.close()
        for links in (self._source.links, self._target.links, *self._aside.links):
            links.close()
        self._primary_calls.links.close()

    # From the source.

    def _compare_batch(self, batch: Batch) -> Task[Ack]:
        verdicts = _Verdicts()
        for keys in self._intake.parts(batch.keys):
            yield from self._compare_part(batch, keys, verdicts)
        if verdicts.unequal:
            yield from self._judge_by_meaning(batch, verdicts)
        if verdicts.missing_hashes:
            yield from self._judge_missing_hashes(batch, verdicts)
        failures, findings = tuple(verdicts.failures), tuple(verdicts.findings)
        return Ack(batch.id, verdicts.counts(), failures, findings)

    def _compare_part(self, batch: Batch, keys: list[bytes], verdicts: _Verdicts) -> Task[None]:
        if self._spec.digests:
            keys = yield from self._by_digest(batch, keys, verdicts)
        if not keys:
            return
        for chunk in (yield from self._intake.chunks(Wanted(batch.db, keys, batch.node))):
            yield from self._compare_chunk(batch, chunk, verdicts)

    def _compare_chunk(self, batch: Batch, chunk: Chunk, verdicts: _Verdicts) -> Task[None]:
        """Compare a chunk; if it loses its connections, in parts (see `suspects`)."""
        suspects = Suspects()
        chunks = deque([chunk])
        while chunks:
            part = chunks.popleft()
            permit = yield from self._intake.permit(part)
            try:
                yield from self._compare_whole(batch, part, permit, suspects, verdicts)
            except _LostAgain as lost:
                left = [key for key in part.keys if key not in lost.failed]
                alone, others = suspects.take(left)
                parts = [*alone, others] if others else alone
                chunks += [self._intake.alone(keys, suspects.sizes) for keys in parts]
            finally:
                self._intake.release(permit)

    def _compare_whole(
        self,
        batch: Batch,
        chunk: Chunk,
        permit: Permit,
        suspects: Suspects,
        verdicts: _Verdicts,
    ) -> Task[None]:
        def blame(lost: Sequence[Lost]) -> None:
            """Record losses; end this try if the chunk must be split, or has a culprit."""
            failures = [suspects.blame(batch.db, one, alone=chunk.alone) for one in lost]
            found = [failure for failure in failures if failure]
            verdicts.failures += found
            if found or suspects.split:
                raise _LostAgain({failure.key for failure in found})

        here = yield from self._fetch(
            self._source, Wanted(batch.db, chunk.keys, batch.node), chunk.sizes, blame
        )
        keys = here.keys
        self._intake.correct(permit, chunk, keys, here.payloads)
        there = _Seen()
        if keys:
            db = self._scope.target_db(batch.db)
            wanted = Wanted(db, keys, None, by_slot=self._target.links.routes)
            sizes = list(map(len, here.payloads))
            there = yield from self._fetch(self._target, wanted, sizes, blame)
            self._intake.also(permit, chunk, there.keys, there.payloads)
        verdicts.failures += here.failures
        verdicts.gone += len(chunk.keys) - len(keys) - len(here.failures)
        verdicts.payload_bytes += sum(map(len, here.payloads))
        self._judge(batch, here, there, verdicts)

    def _fetch(
        self,
        reader: DumpReader,
        wanted: Wanted,
        sizes: Sequence[int] | None,
        blame: Callable[[Sequence[Lost]], None],
    ) -> Task[_Seen]:
        """Read payload and expiry of keys, and retry until each has a reply. `blame` receives lost
        connections once the server is reachable, and may raise."""
        seen = _Seen()
        patience = Patience(self._retry_for, (reader.links,))
        single: set[bytes] = set()
        while True:
            read = yield from reader.read(wanted, sizes)
            seen.keys += read.keys
            seen.payloads += read.payloads
            seen.expiries += _instants(read.expiries) if read.left else read.expiries
            seen.failures += read.failures
            if read.keys:
                reader.links.serves()
            if not read.again:
                return seen
            if len(read.again) < len(wanted.keys):
                patience.succeeded()
            yield from patience.before_next_try(trouble=read.waits, complaint=read.complaint)
            blamed = []
            for lost in read.lost:
                if not (yield from patience.until_well(reader.links, lost)):
                    blamed.append(lost)
            blame(blamed)
            single |= read.single
            sizes = None
            wanted = Wanted(
                wanted.db,
                read.again,
                wanted.node,
                by_slot=reader.links.routes,
                ask=read.ask,
                single=frozenset(single),
            )

    def _judge(self, batch: Batch, here: _Seen, there: _Seen, verdicts: _Verdicts) -> None:
        """Judge keys by bytes and expiry; undecided ones wait for the end of the batch."""
        verdicts.failures += [
            KeyFailure(batch.db, f.key, f.reason, f.message) for f in there.failures
        ]
        if here.keys == there.keys and not self._shift:
            # Nearly all keys are on both sides, and nearly all have equal bytes.
            columns = zip(here.payloads, there.payloads, here.expiries, there.expiries, strict=True)
            open_ones = [n for n, (a, b, c, d) in enumerate(columns) if a != b or c != d]
            verdicts.equal += len(here.keys) - len(open_ones)
            pairs = [
                (
                    here.keys[n],
                    (here.payloads[n], here.expiries[n]),
                    (there.payloads[n], there.expiries[n]),
                )
                for n in open_ones
            ]
        else:
            states, refused = there.states(), {failure.key for failure in there.failures}
            pairs = []
            for key, mine in here.states().items():
                if key in states:
                    pairs.append((key, mine, states[key]))
                elif key not in refused:
                    self._judge_missing(batch, key, mine, verdicts)
        for key, mine, theirs in pairs:
            self._judge_pair(batch, key, mine, theirs, verdicts)

    def _judge_missing(
        self, batch: Batch, key: bytes, mine: State, verdicts: _Verdicts
    ) -> None:
        payload, expiry = mine
        if self._has_expired(expiry + self._shift if expiry >= 0 else expiry, side=1):
            verdicts.gone += 1
            return
        prints = print_of(in_order(payload)), b""
        finding = Finding(batch.db, key, "missing", "", prints, (expiry, _GONE))
        expires = fields_expire(payload)
        (verdicts.missing_hashes if expires else verdicts.findings).append(finding)

    def _has_expired(self, instant: int, side: Literal[0, 1]) -> bool:
        """Return True if an expiry has passed by the clock of one side."""
        offset = self._spec.clocks[side]
        if instant < 0 or offset is None:
            return False
        return instant <= time.time() * 1000 + offset

    def _judge_missing_hashes(self, batch: Batch, verdicts: _Verdicts) -> Task[None]:
        """Judge hashes with expiring fields that only the source has."""
        keys = [finding.key for finding in verdicts.missing_hashes]
        empty = yield from _without_fields(self._source_calls, batch.db, keys)
        verdicts.gone += len(empty)
        verdicts.findings += [f for f in verdicts.missing_hashes if f.key not in empty]

    def _judge_pair(
        self, batch: Batch, key: bytes, mine: State, theirs: State, verdicts: _Verdicts
    ) -> None:
        here, there = in_order(mine[0]), in_order(theirs[0])
        prints, expiries = (print_of(here), print_of(there)), (mine[1], theirs[1])
        if here == there:
            self._judge_expiry(batch, key, prints, expiries, verdicts)
            return
        kinds = kind_of(mine[0]), kind_of(theirs[0])
        small = max(len(mine[0]), len(theirs[0])) <= SMALL_BYTES
        plain = kinds[0] in READS and not (fields_expire(mine[0]) or fields_expire(theirs[0]))
        verdicts.unequal.append(_Unequal(key, kinds, small and plain, prints, expiries))

    def _judge_expiry(
        self,
        batch: Batch,
        key: bytes,
        prints: tuple[bytes, bytes],
        expiries: tuple[int, int],
        verdicts: _Verdicts,
        opaque: str = "",
    ) -> None:
        """Judge a key whose value is equal, or of a type (`opaque`) that cannot be compared."""
        mine, theirs = expiries
        if self._same_expiry(mine, theirs):
            if opaque:
                finding = Finding(batch.db, key, "incomparable", opaque, prints, expiries)
                verdicts.findings.append(finding)
            else:
                verdicts.equal += 1
            return
        if NO_EXPIRY in expiries:
            detail = "none on the source" if mine == NO_EXPIRY else "none on the target"
        else:
            detail = f"{theirs - mine - self._shift:+d} ms"
        verdicts.findings.append(Finding(batch.db, key, "expiry", detail, prints, expiries))

    # By type.

    def _judge_by_meaning(self, batch: Batch, verdicts: _Verdicts) -> Task[None]:
        """Judge all keys of a batch whose bytes differ: plain, small values together."""
        alike = [one for one in verdicts.unequal if one.kinds[0] == one.kinds[1]]
        types: dict[bytes, str] = {
            one.key: f"{one.kinds[0].decode()}, {one.kinds[1].decode()}"
            for one in verdicts.unequal
            if one.kinds[0] != one.kinds[1] and all(one.kinds)
        }
        whole = [one for one in alike if one.whole]
        open_keys = [o.key for o in verdicts.unequal if o.key not in types and not o.whole]
        failures: list[KeyFailure] = []
        opaque: dict[bytes, str] = {}
        if whole:
            types |= yield from self._whole_values(batch, whole, failures)
        if open_keys:
            differ, opaque = yield from self._by_type(batch, open_keys, failures)
            types |= differ
        verdicts.failures += failures
        refused = {failure.key for failure in failures}
        for one in verdicts.unequal:
            if one.key in types:
                told_types = types[one.key]
                kind: FindingKind = "type" if "," in told_types else "value"
                verdicts.findings.append(
                    Finding(batch.db, one.key, kind, told_types, one.prints, one.expiries)
                )
            elif one.key not in refused:
                type_name = opaque.get(one.key, "")
                self._judge_expiry(batch, one.key, one.prints, one.expiries, verdicts, type_name)

    def _whole_values(
        self, batch: Batch, unequal: list[_Unequal], failures: list[KeyFailure]
    ) -> Task[dict[bytes, str]]:
        """Read values whole on both sides, one pipeline a side; return those that differ."""
        kinds = {one.key: one.kinds[0] for one in unequal}
        keys = list(kinds)

        def command(key: bytes) -> bytes:
            return encode(*read_command(kinds[key], key))

        here = yield from self._source_calls.each(command, "", batch.db, keys, needed=False)
        db = self._scope.target_db(batch.db)
        there = yield from self._target_calls.each(command, "", db, keys, needed=False)
        types = {}
        for key, kind in kinds.items():
            for calls, reply in ((self._source_calls, here[key]), (self._target_calls, there[key])):
                if not is_error(reply) and not fits(READS[kind][0], reply):
                    dialer = calls.links.dialer
                    raise malformed(dialer.side, str(dialer.endpoint), READS[kind][0])
            errors = [str(reply) for reply in (here[key], there[key]) if is_error(reply)]
            if any(not error.startswith("WRONGTYPE") for error in errors):
                failures.append(KeyFailure(batch.db, key, "cannot be compared", errors[0]))
            elif errors or meaning(kind, here[key]) != meaning(kind, there[key]):
                types[key] = kind.decode()
        return types

    def _by_type(
        self, batch: Batch, keys: list[bytes], failures: list[KeyFailure]
    ) -> Task[tuple[dict[bytes, str], dict[bytes, str]]]:
        """Compare values of any size and type; return the different and the incomparable."""
        most = self._intake.limits.pipeline_keys
        compared = yield from self._aside.compare(batch.db, keys, {}, most, unlike)
        failures += compared.refused + compared.lost
        types: dict[bytes, str] = {}
        opaque: dict[bytes, str] = {}
        for differ, unknown in compared.results:
            types |= differ
            opaque |= unknown
        return types, opaque

    def _same_expiry(self, mine: int, theirs: int) -> bool:
        if mine < 0 or theirs < 0:
            return mine == theirs
        exact = self._source.exact and self._target.exact
        tolerance = self._spec.tolerance if exact else self._spec.coarse_tolerance
        return abs(theirs - mine - self._shift) <= tolerance

    # Checksums.

    def _by_digest(self, batch: Batch, keys: list[bytes], verdicts: _Verdicts) -> Task[list[bytes]]:
        """Count the keys whose checksums and expiries match; return all others, including those
        that lost a connection: with their sizes known, a culprit is found sooner."""
        yield from self._intake.turn(len(keys), ops=len(keys))
        here = yield from self._source_calls.each(
            _digest, "EVAL_RO", batch.db, keys, patient=False
        )
        db = self._scope.target_db(batch.db)
        there = yield from self._target_calls.each(_digest, "EVAL_RO", db, keys, patient=False)
        others = []
        for key in keys:
            mine, theirs = _state(here[key]), _state(there[key])
            same = mine and theirs and mine[0] == theirs[0]
            if same and self._same_expiry(mine[1], theirs[1]):  # type: ignore[index]
                verdicts.equal += 1
            else:
                others.append(key)
        return others

    # From the target.

    def _look_for(self, batch: Batch) -> Task[Ack]:
        db = self._scope.source_db(batch.db)
        replies = yield from self._exist(self._source_calls, db, batch.keys)
        failures = tuple(
            KeyFailure(db, key, "cannot be compared", str(reply))
            for key, reply in replies.items()
            if not isinstance(reply, int)
        )
        absent = [key for key, reply in replies.items() if reply == 0]
        if self._primary_calls is not self._source_calls:
            asked = yield from self._primary_calls.each(_exists, "EXISTS", db, absent)
            absent = [key for key, reply in asked.items() if reply == 0]
        # SCAN returned them, but some may be gone by now.
        there = yield from self._target_calls.each(_exists, "EXISTS", batch.db, absent)
        extra = [key for key, reply in there.items() if reply != 0]
        if extra:
            over = yield from self._all_over(batch.db, extra)
            extra = [key for key in extra if key not in over]
        counts = Counts(
            gone=len(absent) - len(extra),
            failed=len(failures),
            extra=len(extra),
            found=len(batch.keys) - len(absent) - len(failures),
        )
        findings = tuple(Finding(db, key, "extra") for key in extra)
        return Ack(batch.id, counts, failures, findings)

    def _all_over(self, db: int, keys: list[bytes]) -> Task[set[bytes]]:
        """Return the keys of the target that have expired, or whose fields all have: the source may
        have removed them, or its clock may be ahead."""
        calls = self._target_calls
        types = yield from calls.each(_type, "TYPE", db, keys, needed=False)
        hashes = [key for key, reply in types.items() if reply == b"hash"]
        over = yield from _without_fields(calls, db, hashes)
        source, target = self._spec.clocks
        if source is None or target is None:
            return over
        left = yield from calls.each(_pttl, "PTTL", db, keys, needed=False)
        now = time.time() * 1000 + target - self._shift
        return over | {
            key
            for key, reply in left.items()
            if isinstance(reply, int) and reply >= 0 and self._has_expired(int(now) + reply, side=0)
        }

    def _exist(self, source: Calls, db: int, keys: list[bytes]) -> Task[dict[bytes, Reply]]:
        """Return the source's replies to EXISTS."""
        replies: dict[bytes, Reply] = {}
        for part in self._intake.parts(keys):
            yield from self._intake.turn(len(part), ops=len(part))
            replies |= yield from source.each(_exists, "EXISTS", db, part)
        return replies

    def _delete(self, batch: Batch) -> Task[Ack]:
        db = self._scope.source_db(batch.db)
        replies = yield from self._exist(self._primary_calls, db, batch.keys)
        absent = [key for key, reply in replies.items() if reply == 0]
        gone = yield from self._target_calls.each(_unlink, "UNLINK", batch.db, absent)
        failures = tuple(
            KeyFailure(db, key, "cannot be deleted", str(reply))
            for key, reply in gone.items()
            if not isinstance(reply, int)
        )
        deleted = sum(reply == 1 for reply in gone.values())
        counts = Counts(
            failed=len(failures),
            deleted=deleted,
            gone=len(absent) - deleted - len(failures),
            found=len(batch.keys) - len(absent),
        )
        return Ack(batch.id, counts, failures)


def _without_fields(calls: Calls, db: int, keys: list[bytes]) -> Task[set[bytes]]:
    """Return the hashes whose fields have all expired or are gone: until a server removes such a
    key, EXISTS still counts it."""
    empty: set[bytes] = set()
    cursors: dict[bytes, bytes] = dict.fromkeys(keys, b"0")
    watches = {key: Endless("fields", "HLEN") for key in keys}
    count = _FIELDS_SEEN

    def look(key: bytes) -> bytes:
        return encode("HSCAN", key, cursors[key], "COUNT", count)

    while cursors:
        replies = yield from calls.each(look, "HSCAN", db, list(cursors), needed=False)
        for key, reply in replies.items():
            del cursors[key]
            if isinstance(reply, list) and not reply[1]:
                if reply[0] == b"0":
                    empty.add(key)
                else:
                    cursors[key] = reply[0]  # type: ignore[assignment]
                    watches[key].add(int(cursors[key]), 0, count)
        yield from _watch_hscans(calls, db, {key: watches[key] for key in cursors})
        count = min(2 * count, _MOST_FIELDS_SEEN)
    return empty


def _watch_hscans(calls: Calls, db: int, watches: dict[bytes, Endless]) -> Task[None]:
    """Raise if one of these HSCANs would never end."""
    far = [key for key, watch in watches.items() if watch.is_far]
    if far:
        lengths = yield from calls.each(_hlen, "HLEN", db, far, needed=False)
        for key, length in lengths.items():
            watches[key].expect(length if isinstance(length, int) else None)
    dialer = calls.links.dialer
    for watch in watches.values():
        refuse_endless(dialer.side, str(dialer.endpoint), "HSCAN", watch.fault)


def _instants(left: list[int]) -> list[int]:
    """Convert remaining TTLs of a server without absolute ones, by this machine's clock."""
    now = int(time.time() * 1000)
    return [now + ms if ms >= 0 else ms for ms in left]


def _exists(key: bytes) -> bytes:
    # A template, for speed: this command may be sent for every key of a side.
    return b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(key), key)


def _type(key: bytes) -> bytes:
    return encode("TYPE", key)


def _pttl(key: bytes) -> bytes:
    return encode("PTTL", key)


def _hlen(key: bytes) -> bytes:
    return encode("HLEN", key)


def _unlink(key: bytes) -> bytes:
    return encode("UNLINK", key)


def _digest(key: bytes) -> bytes:
    return encode("EVAL_RO", _DIGEST_SCRIPT, 1, key)


def _state(reply: Reply) -> State | None:
    """Return the reply of the digest script; None if the key is absent or the reply an error."""
    if isinstance(reply, list) and len(reply) == 2 and reply[0]:
        digest, expiry = reply
        if isinstance(digest, bytes) and isinstance(expiry, int):
            return digest, expiry
    return None
