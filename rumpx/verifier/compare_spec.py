"""Settings of a comparing worker, and the parts that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rumpx.model.job import Scope
from rumpx.servers.connections import Links
from rumpx.servers.dial import Dialer
from rumpx.throttle.rates import Pacer
from rumpx.transfer.chunks import Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.dump_reader import Abilities, DumpReader
from rumpx.transfer.runner import Budget
from rumpx.transfer.spec import WorkerSpec
from rumpx.verifier.by_meaning import ByMeaning
from rumpx.verifier.comparer import ComparedSide, Comparer
from rumpx.verifier.digests import Digests
from rumpx.verifier.extras import Extras
from rumpx.verifier.sizes import BothSizes
from rumpx.verifier.verdicts import Judge, Rules


@dataclass(frozen=True, slots=True)
class CompareSpec:
    """Settings of a comparing worker.

    Attributes:
        copying: both sides, the scope and the limits; and the settings of repairs.
        target_abilities: the commands for reading that the target allows.
        rules: of the judgement.
        digests: compare checksums computed by the servers.
    """

    copying: WorkerSpec
    target_abilities: Abilities
    rules: Rules
    digests: bool

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
        spec, scope = self.copying, self.scope
        here = Links(spec.source, spec.source_topology)
        there = Links(spec.target, spec.target_topology)
        reader, other = DumpReader(here, spec.abilities), DumpReader(there, self.target_abilities)
        # Without streaming, no value is too large for a DUMP, and the target's sizes do not matter.
        sizes = BothSizes(reader, other, scope) if spec.stream_from else reader
        intake = Intake(sizes, budget, spec.limits(budget), pacer, sides=2)
        source = ComparedSide(reader, Calls(here, spec.retry_for, intake))
        target = ComparedSide(other, Calls(there, spec.retry_for, intake))
        among = spec.primaries()
        primaries = Calls(among, spec.retry_for, intake) if among else source.calls
        judge = Judge(source.reader, target.reader, self.rules)
        both = source.calls, target.calls
        aside = spec.aside(intake)
        clocks, shift = self.rules.clocks, self.rules.shift
        return Comparer(
            source,
            primaries,
            target,
            spec.build(budget, pacer, aside),
            intake,
            judge,
            ByMeaning(*both, aside, intake, judge, scope, self.rules.field_expiries),
            Digests(*both, intake, judge, scope, spec.stream_from) if self.digests else None,
            Extras(source.calls, primaries, target.calls, intake, scope, clocks, shift),
            scope,
            spec.retry_for,
        )
