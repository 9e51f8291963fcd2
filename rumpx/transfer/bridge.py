"""Make the source's payloads fit the target, where it would refuse them as they are.

For each payload, by its version and first byte, and the target's `Dialect`:

1. as it is, if the target takes its version;
2. stamped with another version, if the target knows the first byte and reads it alike: in constant
   time, and the source's checksum still guards the value (`servers.rdb`);
3. rewritten, if the target has another encoding of the value (`values.rewrite`);
4. copied by the commands of its type (`stream`), if no payload is read alike by both, though both
   have the type: streams with fields of certain sizes (`rewrite.portable`);
5. failed: the target has nothing that holds the value. If only the expiries of a hash's fields
   would be lost, `--field-expiries drop` accepts that, and each such key is listed.

A batch is of one node and so of one version: the first payload decides whether any must change.
With `--clock relative` the expiries of fields are shifted too.

The dialects are those found before the first key. A node may be replaced by one of another version
meanwhile: the writer asks it again when it refuses a version (`learn`), and keys are read again and
fit anew.

Not promised: that a module of the same name on the target reads what the source's wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Final, NamedTuple

from rumpx.model.endpoint import Address
from rumpx.model.job import FieldExpiries
from rumpx.model.results import KeyFailure
from rumpx.servers.dialect import common
from rumpx.servers.rdb import (
    EXPIRING_HASHES,
    LOWEST_VERSION,
    Dialect,
    all_restamped,
    fields_expire,
    restamped,
    version_of,
)
from rumpx.transfer.handler import Records, Rewrite, Written
from rumpx.values.rewrite import (
    FIELD_EXPIRIES,
    SHORTEST_DISPUTED,
    Disputed,
    portable,
    reads_otherwise,
    rewritten,
    shifted,
)

_ALL: Final = frozenset(range(256))
AS_IS: Final = "as they are"
STAMPED: Final = "stamped with another version"
REWRITTEN: Final = "rewritten"
WAYS: Final = (AS_IS, STAMPED, REWRITTEN)
NO_FIELD_EXPIRIES: Final = (
    "its fields expire, and the target knows no such thing: they would live for ever. "
    "--field-expiries drop copies the key without"
)
_first_byte = itemgetter(0)


class Fitted(NamedTuple):
    """A payload that the target accepts, how it was made, and the loss in it; "" if there is
    none."""

    payload: bytes
    way: str
    loss: str = ""


class _Plan(NamedTuple):
    """The way of most payloads: those with one of the `known` first bytes are stamped with a
    version, or with a `stamp` of 0 sent as they are; if they are portable, where that matters
    (`wary`). All others need more."""

    known: frozenset[int]
    stamp: int
    wary: bool

    def suffices(self, payloads: Sequence[bytes]) -> bool:
        """Return True if no payload needs more."""
        if not self.known.issuperset(map(_first_byte, payloads)):
            return False
        return not self.wary or all(
            len(payload) < SHORTEST_DISPUTED or _is_portable(payload) for payload in payloads
        )

    def needs_more(self, payload: bytes) -> bool:
        """Return True if a payload needs more."""
        return payload[0] not in self.known or (self.wary and not _is_portable(payload))


_NOTHING_TO_DO: Final = _Plan(_ALL, 0, wary=False)


class Bridge:
    """Fits payloads to the target.

    Args:
        dialects: of the target's primaries, as far as they are known.
        field_expiries: "drop" accepts the loss of field expiries.
        shift: ms to add to field expiries.
    """

    def __init__(
        self,
        dialects: Iterable[tuple[Address | None, Dialect]],
        field_expiries: FieldExpiries,
        shift: int,
    ) -> None:
        self._dialects = dict(dialects)
        self._dialect = common(self._dialects.values())
        self._drops = field_expiries == "drop"
        self._shift = shift
        self._plans: dict[int, _Plan] = {}  # by version

    def learn(self, node: Address | None, dialect: Dialect) -> None:
        """Take the dialect that a node has now."""
        self._dialects[node] = dialect
        self._dialect = common(self._dialects.values())
        self._plans.clear()

    def fit(self, records: Records, result: Written) -> Records:
        """Return records with payloads that the target accepts; note the keys of others."""
        if not records.payloads:
            return records
        plan = self._plan_for(version_of(records.payloads[0]))
        return records if plan == _NOTHING_TO_DO else self._fit(plan, records, result)

    def fitted(self, payload: bytes) -> Fitted:
        """Return one payload as the target accepts it.

        Raises:
            Unfit: nothing that the target accepts holds the value.
        """
        plan = self._plan_for(version_of(payload))
        if plan.needs_more(payload):
            return self._changed(payload)
        if plan.stamp:
            return Fitted(restamped(payload, plan.stamp), STAMPED)
        return Fitted(payload, AS_IS)

    def _fit(self, plan: _Plan, records: Records, result: Written) -> Records:
        payloads = records.payloads
        if plan.stamp:
            payloads = all_restamped(payloads, plan.stamp)
        if plan.suffices(records.payloads):
            return replace(records, payloads=payloads)
        payloads = list(payloads)
        rewrites: dict[bytes, Rewrite] = {}
        kept = []
        for position, payload in enumerate(records.payloads):
            if plan.needs_more(payload):
                key = records.keys[position]
                try:
                    fitted = self._changed(payload)
                except Unfit as error:
                    if error.in_pieces and not records.whole:
                        result.in_pieces.append(key)
                        continue
                    failure = KeyFailure(records.source_db, key, error.reason, error.message)
                    result.failures.append(failure)
                    continue
                payloads[position] = fitted.payload
                rewrites[key] = Rewrite(payload, fitted.loss)
            kept.append(position)
        return replace(records, payloads=payloads, rewrites=rewrites).chosen(kept)

    def _plan_for(self, version: int) -> _Plan:
        plan = self._plans.get(version)
        if plan is None:
            plan = self._plans[version] = self._plan(version)
        return plan

    def _plan(self, version: int) -> _Plan:
        """Return the plan for payloads of a version."""
        dialect = self._dialect
        wary = dialect is not None and reads_otherwise(version, dialect)
        if dialect is None or dialect.takes(version):
            return _Plan(_ALL - EXPIRING_HASHES if self._shift else _ALL, 0, wary)
        known = frozenset(filter(dialect.knows, LOWEST_VERSION))
        return _Plan(known, dialect.shared_version, wary)

    def _changed(self, payload: bytes) -> Fitted:
        """Return a payload that is more than stamped anew.

        Raises:
            Unfit: nothing that the target accepts holds the value.
        """
        dialect = self._dialect
        try:
            fits = dialect is None or dialect.takes(version_of(payload))
            if dialect is None or (fits and fields_expire(payload)):
                return Fitted(shifted(payload, self._shift), REWRITTEN)
            changed = rewritten(payload, dialect, shift_ms=self._shift)
        except Disputed as error:
            words = f"no payload holds its value: {error}"
            raise Unfit("bad data", words, in_pieces=True) from None
        except ValueError as error:
            raise Unfit("bad data", f"rumpx cannot read its payload: {error}") from None
        if changed is None:
            raise Unfit(
                "unknown type",
                f"its payload begins with byte {payload[0]}, which the target (payloads of "
                f"versions {dialect}) does not know",
            )
        if FIELD_EXPIRIES in changed.loses and not self._drops:
            raise Unfit(FIELD_EXPIRIES, NO_FIELD_EXPIRIES)
        return Fitted(changed.payload, REWRITTEN, ", ".join(changed.loses))


def _is_portable(payload: bytes) -> bool:
    """As `portable`; False for a payload that cannot be read."""
    try:
        return portable(payload)
    except ValueError:
        return False


class Unfit(Exception):
    """No payload that the target accepts holds the value; `reason` and `message` as in
    KeyFailure; `in_pieces`: the commands of its type do."""

    def __init__(self, reason: str, message: str, *, in_pieces: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.in_pieces = in_pieces
