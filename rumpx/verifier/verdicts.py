"""The judgement of keys: their states on both sides in, verdicts out; without a connection.

Equal bytes are equal values, and so are those that are equal after the members of hash tables are
sorted; values with other bytes are `unequal` until they are compared by meaning (`by_meaning`).
Expiries may differ by the tolerance. A key that only the source has counts as gone once it has
expired by the target's clock, or if a copy to the source is still writing it.

Each mismatch is a *finding*, with fingerprints of the values on both sides, so that a second look
can detect writes to the key in between.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field

from rumpx.model.counts import Counts
from rumpx.model.results import Finding, KeyFailure
from rumpx.preflight.field_expiries import Fate
from rumpx.servers.rdb import fields_expire, kind_of
from rumpx.servers.resp import NO_EXPIRY
from rumpx.transfer.handler import Reader
from rumpx.transfer.staging import unfinished
from rumpx.values.canonical import in_order, print_of
from rumpx.values.compare import SMALL_BYTES, LargePair
from rumpx.values.rewrite import FIELD_EXPIRIES
from rumpx.values.small import READS
from rumpx.verifier.expired import has_expired
from rumpx.verifier.extras import Clocks

_GONE = -2

State = tuple[bytes, int]
"""Payload (or digest) and expiry, ms since 1970 or NO_EXPIRY."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a comparison.

    Attributes:
        shift: ms by which expiries on the target are later (`--clock relative`).
        tolerance: allowed difference of expiries, in ms, if both servers return absolute expiries.
        coarse_tolerance: the same if one of them returns remaining TTLs.
        field_expiries: "kept", if the target can hold expiries of fields; or "dropped", if their
            loss is accepted, or "lost".
        clocks: the source's and the target's clock minus this machine's, ms, if known.
    """

    shift: int
    tolerance: int
    coarse_tolerance: int
    field_expiries: Fate
    clocks: Clocks


@dataclass(slots=True)
class Seen:
    """The replies of one side for some keys, as three lists; absent keys are in none."""

    keys: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    expiries: list[int] = field(default_factory=list)
    failures: list[KeyFailure] = field(default_factory=list)

    def leave_out(self, positions: set[int]) -> None:
        """Forget the keys at some positions."""
        kept = [n for n in range(len(self.keys)) if n not in positions]
        self.keys = [self.keys[n] for n in kept]
        self.payloads = [self.payloads[n] for n in kept]
        self.expiries = [self.expiries[n] for n in kept]

    def states(self) -> dict[bytes, State]:
        """Return payload and expiry by key."""
        return dict(
            zip(self.keys, zip(self.payloads, self.expiries, strict=True), strict=True)
        )


@dataclass(frozen=True, slots=True)
class Unequal:
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


@dataclass(slots=True)
class Verdicts:
    """The verdicts on a batch's keys so far. The names of the first ones are those of Counts.
    `unequal` and `missing_hashes` are not judged yet; `streams` are the keys that are streams on
    the source."""

    equal: int = 0
    lossy: int = 0
    gone: int = 0
    payload_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    failures: list[KeyFailure] = field(default_factory=list)
    unequal: list[Unequal] = field(default_factory=list)
    missing_hashes: list[Finding] = field(default_factory=list)
    streams: list[bytes] = field(default_factory=list)

    def counts(self) -> Counts:
        """Return the numbers of keys by their verdict."""
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


class Judge:
    """Judges keys.

    Args:
        source, target: the readers of both sides.
        rules: of the comparison.
    """

    def __init__(self, source: Reader, target: Reader, rules: Rules) -> None:
        self._source = source
        self._target = target
        self._rules = rules

    def keys(self, db: int, here: Seen, there: Seen, verdicts: Verdicts) -> None:
        """Judge keys by bytes and expiry; undecided ones wait for the end of the batch."""
        verdicts.failures += [
            KeyFailure(db, f.key, f.reason, f.message) for f in there.failures
        ]
        if here.keys == there.keys and not self._rules.shift:
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
                    self._missing(db, key, mine, verdicts)
        for key, mine, theirs in pairs:
            self._pair(db, key, mine, theirs, verdicts)

    def _missing(self, db: int, key: bytes, mine: State, verdicts: Verdicts) -> None:
        payload, expiry = mine
        prints = print_of(in_order(payload)), b""
        self._absent(db, key, expiry, prints, fields_expire(payload), verdicts)

    def _absent(
        self,
        db: int,
        key: bytes,
        expiry: int,
        prints: tuple[bytes, bytes],
        expires: bool,
        verdicts: Verdicts,
    ) -> None:
        """Judge a key that the target lacks; `expires`: its fields may have expired."""
        there = expiry + self._rules.shift if expiry >= 0 else expiry
        over = has_expired(there, self._rules.clocks[1])
        if over or self._is_staging(key, expiry):
            verdicts.gone += 1
            return
        finding = Finding(db, key, "missing", "", prints, (expiry, _GONE))
        (verdicts.missing_hashes if expires else verdicts.findings).append(finding)

    def _pair(
        self, db: int, key: bytes, mine: State, theirs: State, verdicts: Verdicts
    ) -> None:
        """Judge a key that both sides have."""
        here, there = in_order(mine[0]), in_order(theirs[0])
        prints, expiries = (print_of(here), print_of(there)), (mine[1], theirs[1])
        if here == there:
            self.expiry(db, key, prints, expiries, verdicts)
            return
        kinds = kind_of(mine[0]), kind_of(theirs[0])
        small = max(len(mine[0]), len(theirs[0])) <= SMALL_BYTES
        expiring = fields_expire(mine[0])
        plain = kinds[0] in READS and not (expiring or fields_expire(theirs[0]))
        verdicts.unequal.append(Unequal(key, kinds, small and plain, expiring, prints, expiries))

    def expiry(
        self,
        db: int,
        key: bytes,
        prints: tuple[bytes, bytes],
        expiries: tuple[int, int],
        verdicts: Verdicts,
        opaque: str = "",
    ) -> None:
        """Judge a key whose value is equal, or of a type (`opaque`) that cannot be compared."""
        mine, theirs = expiries
        if self.same_expiry(mine, theirs):
            if opaque:
                finding = Finding(db, key, "incomparable", opaque, prints, expiries)
                verdicts.findings.append(finding)
            else:
                verdicts.equal += 1
            return
        if NO_EXPIRY in expiries:
            detail = "none on the source" if mine == NO_EXPIRY else "none on the target"
        else:
            detail = f"{theirs - mine - self._rules.shift:+d} ms"
        verdicts.findings.append(Finding(db, key, "expiry", detail, prints, expiries))

    def large(self, db: int, key: bytes, pair: LargePair, verdicts: Verdicts) -> None:
        """Judge a key whose value was compared in pieces."""
        (kind, other), expiries = pair.kinds, pair.expiries
        if kind == b"stream":
            verdicts.streams.append(key)
        # A value that is written meanwhile has another print each time.
        prints = (b"", b"") if pair.still else (os.urandom(8), b"")
        detail = kind.decode("utf-8", "backslashreplace")
        if kind == b"none" or self._is_staging(key, expiries[0]):
            verdicts.gone += 1
        elif other == b"none":
            self._absent(db, key, expiries[0], prints, kind == b"hash", verdicts)
        elif kind != other:
            detail = f"{detail}, {other.decode('utf-8', 'backslashreplace')}"
            verdicts.findings.append(Finding(db, key, "type", detail, prints, expiries))
        elif not pair.equal:
            verdicts.findings.append(Finding(db, key, "value", detail, prints, expiries))
        elif pair.expiring and self._rules.field_expiries == "lost":
            detail = FIELD_EXPIRIES
            verdicts.findings.append(Finding(db, key, "value", detail, prints, expiries))
        else:
            verdicts.lossy += pair.expiring and self._rules.field_expiries == "dropped"
            self.expiry(db, key, prints, expiries, verdicts, pair.opaque)

    def same_expiry(self, mine: int, theirs: int) -> bool:
        """Return True if two expiries (ms since 1970, or negative) count as the same."""
        if mine < 0 or theirs < 0:
            return mine == theirs
        exact = self._source.exact and self._target.exact
        tolerance = self._rules.tolerance if exact else self._rules.coarse_tolerance
        return abs(theirs - mine - self._rules.shift) <= tolerance

    def _is_staging(self, key: bytes, expiry: int) -> bool:
        """Return True if the source's key is one that a copy is writing at the moment."""
        now = time.time() * 1000 + (self._rules.clocks[0] or 0.0)
        return bool(unfinished({key: expiry - now}))
