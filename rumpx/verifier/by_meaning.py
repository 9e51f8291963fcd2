"""Compare values by the commands of their type: those whose bytes differ, and large ones.

The order of a set, an encoding, a version's footer do not count. Plain, small values are read
whole, those of a batch together; all others in pieces, over connections of their own
(`transfer.aside`). A module's type may have no such command: then a value is incomparable, unless
the expiries differ, which proves a difference.
"""

from __future__ import annotations

from rumpx.model.job import Scope
from rumpx.model.results import Finding, FindingKind, KeyFailure
from rumpx.preflight.field_expiries import Fate
from rumpx.servers.replies import malformed
from rumpx.servers.resp import encode
from rumpx.servers.topology import is_error
from rumpx.transfer.aside import Aside
from rumpx.transfer.chunks import Chunk, Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.messages import Batch
from rumpx.transfer.runner import Task
from rumpx.values.compare import LargePair, compare_large, unlike
from rumpx.values.reading import Reading
from rumpx.values.rewrite import FIELD_EXPIRIES
from rumpx.values.shapes import fits
from rumpx.values.sides import Sides
from rumpx.values.small import READS, meaning, read_command
from rumpx.verifier.verdicts import Judge, Unequal, Verdicts


class ByMeaning:
    """Compares values by meaning.

    Args:
        source, target: ask both sides.
        aside: compares values of any size.
        intake: grants turns and permits.
        judge: judges the results.
        scope: for the target's database.
        field_expiries: as in Rules.
    """

    def __init__(
        self,
        source: Calls,
        target: Calls,
        aside: Aside,
        intake: Intake,
        judge: Judge,
        scope: Scope,
        field_expiries: Fate,
    ) -> None:
        self._source = source
        self._target = target
        self._aside = aside
        self._intake = intake
        self._judge = judge
        self._scope = scope
        self._field_expiries = field_expiries

    def large(self, batch: Batch, chunk: Chunk, verdicts: Verdicts) -> Task[None]:
        """Compare the one, large value of a chunk; a task.

        Raises:
            Draining: the run ends meanwhile.
        """

        def compare(sides: Sides, keys: list[bytes]) -> Reading[LargePair]:
            return compare_large(sides, keys[0])

        permit = yield from self._intake.stream_permit(chunk)
        try:
            sizes = dict(zip(chunk.keys, chunk.estimates, strict=True))
            compared = yield from self._aside.compare(
                batch.db, chunk.keys, sizes, 1, compare, large=True
            )
        finally:
            self._intake.release(permit)
        verdicts.failures += compared.refused + compared.lost
        verdicts.payload_bytes += compared.came
        for pair in compared.results:
            self._judge.large(batch.db, chunk.keys[0], pair, verdicts)

    def unequal(self, batch: Batch, verdicts: Verdicts) -> Task[None]:
        """Judge all keys of a batch whose bytes differ; a task."""
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
            elif one.expiring and self._field_expiries == "lost":
                verdicts.findings.append(
                    Finding(batch.db, one.key, "value", FIELD_EXPIRIES, one.prints, one.expiries)
                )
            elif one.key not in refused:
                verdicts.lossy += one.expiring and self._field_expiries == "dropped"
                type_name = opaque.get(one.key, "")
                state = one.key, one.prints, one.expiries
                self._judge.expiry(batch.db, *state, verdicts, type_name)

    def _whole_values(
        self, batch: Batch, unequal: list[Unequal], failures: list[KeyFailure]
    ) -> Task[dict[bytes, str]]:
        """Read values whole on both sides, one pipeline a side; return those that differ."""
        kinds = {one.key: one.kinds[0] for one in unequal}
        keys = list(kinds)

        def command(key: bytes) -> bytes:
            return encode(*read_command(kinds[key], key))

        here = yield from self._source.each(command, "", batch.db, keys, needed=False)
        db = self._scope.target_db(batch.db)
        there = yield from self._target.each(command, "", db, keys, needed=False)
        types = {}
        for key, kind in kinds.items():
            for calls, reply in ((self._source, here[key]), (self._target, there[key])):
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
