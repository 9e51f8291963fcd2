"""A worker's part of a comparison: batches of key names in, findings out.

A batch from the source is compared, cheapest proof first:

1. DUMP and expiry of each key from both sides, in the pipelines of a copy. Equal bytes are equal
   values, and so are those that are equal after the members of hash tables are sorted. (With
   digests: an 8-byte checksum of each value instead, which is the same for any version.)
2. Values whose bytes differ are compared by the commands of their type: the order of a set, an
   encoding, a version's footer do not count. A module's type may have no such command: then it is
   reported as incomparable, unless the expiries differ, which proves a difference.
3. Expiries may differ by the tolerance.

A value so large that a copy streams it is compared by its type at once, in pieces, and is never
dumped.

A key that only one side has does not count as missing or extra once it has expired: by the other
side's clock, or field by field (`expired`). Batches from the target, and batches of extras to
delete, are for `extras`; a batch of repairs is copied like any other.

Each mismatch is a *finding*, with fingerprints of the values on both sides, so that a second look
can detect writes to the key in between.

Not promised: a result for one instant.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from rumpx.model.counts import Counts
from rumpx.model.job import Scope
from rumpx.model.results import Finding, FindingKind, KeyFailure
from rumpx.preflight.field_expiries import Fate
from rumpx.servers.connections import Links
from rumpx.servers.dial import Dialer
from rumpx.servers.rdb import FOOTER_BYTES, body_checksum, fields_expire, kind_of
from rumpx.servers.replies import malformed
from rumpx.servers.resp import NO_EXPIRY, Connection, Reply, encode
from rumpx.servers.topology import is_error
from rumpx.throttle.rates import Pacer
from rumpx.transfer.aside import Aside, Paced
from rumpx.transfer.chunks import Chunk, Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.dump_reader import Abilities, DumpReader
from rumpx.transfer.handler import Reader, Wanted
from rumpx.transfer.messages import Ack, Batch, Left, Streaming
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Budget, Permit, Task
from rumpx.transfer.spec import WorkerSpec
from rumpx.transfer.staging import unfinished
from rumpx.transfer.suspects import Lost, Suspects
from rumpx.transfer.transfer import Transfer
from rumpx.values.canonical import in_order, print_of
from rumpx.values.compare import SMALL_BYTES, LargePair, compare_large, unlike
from rumpx.values.rewrite import FIELD_EXPIRIES
from rumpx.values.shapes import fits
from rumpx.values.small import READS, meaning, read_command
from rumpx.verifier.expired import has_expired, without_fields
from rumpx.verifier.extras import Clocks, Extras

_GONE = -2
# The footer of a DUMP payload, with its checksum, and the expiry; "" for a value that is so large
# that it is read in pieces.
_DIGEST_SCRIPT = (
    "local m = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', '1') "
    "if type(m) == 'number' and m >= tonumber(ARGV[1]) then return {'', -2} end "
    "local d = redis.call('DUMP', KEYS[1]) "
    "if not d then return {'', -2} end "
    f"return {{string.sub(d, -{FOOTER_BYTES}), redis.call('PEXPIRETIME', KEYS[1])}}"
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
        field_expiries: "kept", if the target can hold expiries of fields; or "dropped", if their
            loss is accepted, or "lost".
        clocks: the source's and the target's clock minus this machine's, ms, if known.
    """

    copying: WorkerSpec
    target_abilities: Abilities
    tolerance: int
    coarse_tolerance: int
    digests: bool
    field_expiries: Fate
    clocks: Clocks

    @property
    def databases(self) -> tuple[int, ...]:
        return self.copying.databases

    @property
    def bytes_in_flight(self) -> int:
        return self.copying.bytes_in_flight

    @property
    def beside_server(self) -> bool:
        return self.copying.beside_server

    @property
    def scope(self) -> Scope:
        return self.copying.scope

    def at(self, place: Callable[[Dialer], Dialer]) -> CompareSpec:
        """Return the same with other dialers."""
        return replace(self, copying=self.copying.at(place))

    @property
    def dialers(self) -> tuple[Dialer, Dialer]:
        """Those of the source and the target."""
        return self.copying.dialers

    def writing_as(self, writer: str, lives: Callable[[], bool]) -> CompareSpec:
        """Return the same with named connections to the target."""
        return replace(self, copying=self.copying.writing_as(writer, lives))

    def build(self, budget: Budget, pacer: Pacer) -> Comparer:
        """Return the comparer."""
        spec = self.copying
        links = Links(spec.source, spec.source_topology)
        reader = DumpReader(links, spec.abilities)
        intake = Intake(reader, budget, spec.limits(budget), pacer, sides=2)
        source = ComparedSide(reader, Calls(links, spec.retry_for, intake))
        primaries = spec.primaries()
        links = Links(spec.target, spec.target_topology)
        return Comparer(
            source,
            Calls(primaries, spec.retry_for, intake) if primaries else source.calls,
            ComparedSide(
                DumpReader(links, self.target_abilities), Calls(links, spec.retry_for, intake)
            ),
            spec.aside(),
            spec.build(budget, pacer),
            intake,
            self,
        )


@dataclass(frozen=True, slots=True)
class ComparedSide:
    """One side of a comparison: reads its values, and asks it single commands."""

    reader: Reader
    calls: Calls

    def close(self) -> None:
        """Close all connections."""
        self.reader.close()
        self.calls.close()


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
    whole, and consist of members only; `expiring` is True if the source's value is a hash whose
    fields expire.
    """

    key: bytes
    kinds: tuple[bytes, bytes]
    whole: bool
    expiring: bool
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
    lossy: int = 0
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
            lossy=self.lossy,
            missing=kinds["missing"],
            different=len(self.findings) - kinds["missing"] - kinds["incomparable"],
            incomparable=kinds["incomparable"],
        )


class Comparer:
    """Compares keys, checks their existence, deletes, and copies.

    Args:
        source, target: the sides.
        primaries: asks the source's primaries, also if replicas are read.
        aside: compares values by type, over further connections to both.
        transfer: copies the repairs.
        intake: cuts batches, and grants reads of their chunks.
        spec: tolerance, scope, digests.
    """

    def __init__(
        self,
        source: ComparedSide,
        primaries: Calls,
        target: ComparedSide,
        aside: Aside,
        transfer: Transfer,
        intake: Intake,
        spec: CompareSpec,
    ) -> None:
        self._source = source
        self._primaries = primaries
        self._target = target
        self._aside = aside
        self._transfer = transfer
        self._intake = intake
        self._spec = spec
        self._scope = spec.scope
        self._shift = spec.copying.expiry_shift
        self._retry_for = spec.copying.retry_for
        self._clocks = spec.clocks
        self._extras = Extras(
            source.calls,
            primaries,
            target.calls,
            intake,
            spec.scope,
            spec.clocks,
            spec.copying.expiry_shift,
        )

    def dial(self, databases: Sequence[int]) -> None:
        """Open only the connections that a copy opens ahead of time."""
        self._transfer.dial(databases)

    def settle(self, batch: Batch) -> Task[Ack | Left]:
        """Do the batch's work; a task.

        Raises:
            TemporaryError: no key was settled for `retry_for` seconds.
            SourceUnusable, TargetUnusable: a command is refused for every key.
        """
        match batch.work:
            case "compare":
                return (yield from self._compare_batch(batch))
            case "look for":
                return (yield from self._extras.look_for(batch))
            case "delete":
                return (yield from self._extras.delete(batch))
        return (yield from self._transfer.settle(batch))

    def unfinished(self) -> dict[int, Counts]:
        """Return the counts of unfinished copies; unfinished comparisons have settled no key."""
        return self._transfer.unfinished()

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        read = self._source.reader.take_notices() + self._target.reader.take_notices()
        return read + self._transfer.take_notices()

    def take_streaming(self) -> Streaming | None:
        """Return the progress of a large value, if it is time to show it."""
        return self._transfer.take_streaming()

    def close(self) -> None:
        """Close all connections."""
        for each in (self._transfer, self._source, self._primaries, self._target, self._aside):
            each.close()

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
        """Compare a chunk; if it loses its connections, in parts (see `suspects`); a large value in
        pieces."""
        if chunk.stream:
            yield from self._compare_large(batch, chunk, verdicts)
            return
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
                for keys in parts:
                    again = self._intake.alone(keys, suspects.sizes)
                    if again.stream:
                        yield from self._compare_large(batch, again, verdicts)
                    else:
                        chunks.append(again)
            finally:
                self._intake.release(permit)

    def _compare_large(self, batch: Batch, chunk: Chunk, verdicts: _Verdicts) -> Task[None]:
        """Compare a large value by the commands of its type."""

        def compare(
            source: Connection, target: Connection, keys: list[bytes]
        ) -> tuple[LargePair, int]:
            paced = Paced(source, self._intake)
            return compare_large(paced, target, keys[0]), paced.came

        permit = yield from self._intake.stream_permit(chunk)
        try:
            sizes = dict(zip(chunk.keys, chunk.estimates, strict=True))
            compared = yield from self._aside.compare(batch.db, chunk.keys, sizes, 1, compare)
        finally:
            self._intake.release(permit)
        verdicts.failures += compared.refused + compared.lost
        for pair, came in compared.results:
            verdicts.payload_bytes += came
            self._judge_large(batch, chunk.keys[0], pair, verdicts)

    def _judge_large(
        self, batch: Batch, key: bytes, pair: LargePair, verdicts: _Verdicts
    ) -> None:
        (kind, other), expiries = pair.kinds, pair.expiries
        # A value that is written meanwhile has another print each time.
        prints = (b"", b"") if pair.still else (os.urandom(8), b"")
        detail = kind.decode("utf-8", "backslashreplace")
        if kind == b"none" or self._is_staging(key, expiries[0]):
            verdicts.gone += 1
        elif other == b"none":
            self._judge_absent(batch, key, expiries[0], prints, kind == b"hash", verdicts)
        elif kind != other:
            detail = f"{detail}, {other.decode('utf-8', 'backslashreplace')}"
            verdicts.findings.append(Finding(batch.db, key, "type", detail, prints, expiries))
        elif not pair.equal:
            verdicts.findings.append(Finding(batch.db, key, "value", detail, prints, expiries))
        elif pair.expiring and self._spec.field_expiries == "lost":
            detail = FIELD_EXPIRIES
            verdicts.findings.append(Finding(batch.db, key, "value", detail, prints, expiries))
        else:
            verdicts.lossy += pair.expiring and self._spec.field_expiries == "dropped"
            self._judge_expiry(batch, key, prints, expiries, verdicts, pair.opaque)

    def _is_staging(self, key: bytes, expiry: int) -> bool:
        """Return True if the source's key is one that a copy is writing at the moment."""
        now = time.time() * 1000 + (self._clocks[0] or 0.0)
        return bool(unfinished({key: expiry - now}))

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
            self._source.reader, Wanted(batch.db, chunk.keys, batch.node), chunk.sizes, blame
        )
        keys = here.keys
        self._intake.correct(permit, chunk, keys, here.payloads)
        there = _Seen()
        if keys:
            db = self._scope.target_db(batch.db)
            wanted = Wanted(db, keys, None, by_slot=True)
            sizes = list(map(len, here.payloads))
            there = yield from self._fetch(self._target.reader, wanted, sizes, blame)
            self._intake.also(permit, chunk, there.keys, there.payloads)
        verdicts.failures += here.failures
        verdicts.gone += len(chunk.keys) - len(keys) - len(here.failures)
        verdicts.payload_bytes += sum(map(len, here.payloads))
        self._judge(batch, here, there, verdicts)

    def _fetch(
        self,
        reader: Reader,
        wanted: Wanted,
        sizes: Sequence[int] | None,
        blame: Callable[[Sequence[Lost]], None],
    ) -> Task[_Seen]:
        """Read payload and expiry of keys, and retry until each has a reply. `blame` receives lost
        connections once the server is reachable, and may raise."""
        seen = _Seen()
        patience = Patience(self._retry_for, (reader,))
        single: set[bytes] = set()
        while True:
            read = yield from reader.read(wanted, sizes)
            seen.keys += read.keys
            seen.payloads += read.payloads
            seen.expiries += _instants(read.expiries) if read.left else read.expiries
            seen.failures += read.failures
            if not read.again:
                return seen
            if len(read.again) < len(wanted.keys):
                patience.succeeded()
            yield from patience.before_next_try(trouble=read.waits, complaint=read.complaint)
            blamed = []
            for lost in read.lost:
                if not (yield from patience.until_well(reader, lost)):
                    blamed.append(lost)
            blame(blamed)
            single |= read.single
            sizes = None
            wanted = Wanted(
                wanted.db,
                read.again,
                wanted.node,
                by_slot=True,
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
        prints = print_of(in_order(payload)), b""
        self._judge_absent(batch, key, expiry, prints, fields_expire(payload), verdicts)

    def _judge_absent(
        self,
        batch: Batch,
        key: bytes,
        expiry: int,
        prints: tuple[bytes, bytes],
        expires: bool,
        verdicts: _Verdicts,
    ) -> None:
        """Judge a key that the target lacks; `expires`: its fields may have expired."""
        over = has_expired(expiry + self._shift if expiry >= 0 else expiry, self._clocks[1])
        if over or self._is_staging(key, expiry):
            verdicts.gone += 1
            return
        finding = Finding(batch.db, key, "missing", "", prints, (expiry, _GONE))
        (verdicts.missing_hashes if expires else verdicts.findings).append(finding)

    def _judge_missing_hashes(self, batch: Batch, verdicts: _Verdicts) -> Task[None]:
        """Judge hashes with expiring fields that only the source has."""
        keys = [finding.key for finding in verdicts.missing_hashes]
        empty = yield from without_fields(self._source.calls, batch.db, keys)
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
        expiring = fields_expire(mine[0])
        plain = kinds[0] in READS and not (expiring or fields_expire(theirs[0]))
        verdicts.unequal.append(_Unequal(key, kinds, small and plain, expiring, prints, expiries))

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
            elif one.expiring and self._spec.field_expiries == "lost":
                verdicts.findings.append(
                    Finding(batch.db, one.key, "value", FIELD_EXPIRIES, one.prints, one.expiries)
                )
            elif one.key not in refused:
                verdicts.lossy += one.expiring and self._spec.field_expiries == "dropped"
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

        here = yield from self._source.calls.each(command, "", batch.db, keys, needed=False)
        db = self._scope.target_db(batch.db)
        there = yield from self._target.calls.each(command, "", db, keys, needed=False)
        types = {}
        for key, kind in kinds.items():
            for calls, reply in ((self._source.calls, here[key]), (self._target.calls, there[key])):
                if not is_error(reply) and not fits(READS[kind][0], reply):
                    raise malformed(calls.side, calls.name, READS[kind][0])
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
        exact = self._source.reader.exact and self._target.reader.exact
        tolerance = self._spec.tolerance if exact else self._spec.coarse_tolerance
        return abs(theirs - mine - self._shift) <= tolerance

    # Checksums.

    def _by_digest(self, batch: Batch, keys: list[bytes], verdicts: _Verdicts) -> Task[list[bytes]]:
        """Count the keys whose checksums and expiries match; return all others, including those
        that lost a connection: with their sizes known, a culprit is found sooner."""
        yield from self._intake.turn(len(keys), ops=len(keys))
        most = self._spec.copying.stream_from
        digest = partial(_digest, stream_from=2**62 if most is None else most)
        here = yield from self._source.calls.each(
            digest, "EVAL_RO", batch.db, keys, patient=False
        )
        db = self._scope.target_db(batch.db)
        there = yield from self._target.calls.each(digest, "EVAL_RO", db, keys, patient=False)
        others = []
        for key in keys:
            mine, theirs = _state(here[key]), _state(there[key])
            same = mine and theirs and body_checksum(mine[0]) == body_checksum(theirs[0])
            if same and self._same_expiry(mine[1], theirs[1]):  # type: ignore[index]
                verdicts.equal += 1
            else:
                others.append(key)
        return others

def _instants(left: list[int]) -> list[int]:
    """Convert remaining TTLs of a server without absolute ones, by this machine's clock."""
    now = int(time.time() * 1000)
    return [now + ms if ms >= 0 else ms for ms in left]


def _digest(key: bytes, stream_from: int) -> bytes:
    return encode("EVAL_RO", _DIGEST_SCRIPT, 1, key, stream_from)


def _state(reply: Reply) -> State | None:
    """Return the reply of the digest script; None if the key is absent or the reply an error."""
    if isinstance(reply, list) and len(reply) == 2:
        digest, expiry = reply
        if not isinstance(digest, bytes) or len(digest) != FOOTER_BYTES:
            return None
        if isinstance(expiry, int):
            return digest, expiry
    return None
