"""Settings of a copying worker, and the parts that are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rumpx.model.endpoint import Address
from rumpx.model.job import FieldExpiries, Scope
from rumpx.model.nodes import Topology
from rumpx.servers.connections import Links
from rumpx.servers.dial import Dialer
from rumpx.servers.rdb import Dialect
from rumpx.throttle.rates import Pacer
from rumpx.transfer.aside import Aside
from rumpx.transfer.bridge import Bridge
from rumpx.transfer.chunks import ChunkLimits, Intake
from rumpx.transfer.dump_reader import Abilities, DumpReader
from rumpx.transfer.restore_writer import RestoreWriter
from rumpx.transfer.runner import Budget
from rumpx.transfer.stream import Streamer
from rumpx.transfer.transfer import Transfer


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Settings of a copying worker.

    Attributes:
        databases: the source's databases that hold keys.
        pipeline_keys: the most keys that are read, or written, in one pipeline.
        bytes_in_flight: the byte budget of one worker.
        stream_from: values that take the server so many bytes are streamed; None for none.
        whole_bytes: the most of a value that is read whole if it changes while it is streamed.
        batches_in_flight: batches that one worker holds at the same time.
        retry_for: seconds of trouble after which the run gives up.
        source_clock: the source's clock minus ours, ms, if known.
        clock_offset: the target's clock minus ours, ms, if known.
        expiry_shift: ms to add to expiries (`--clock relative`).
        absttl: the target's RESTORE takes instants.
        large_from: the target frees old values of so many bytes only if they are moved aside; None
            if it frees all in the background, or the size does not matter.
        dialects: of the target's primaries, as far as they are known.
        field_expiries: "drop" accepts the loss of field expiries.
        beside_server: a server is on this machine.
    """

    source: Dialer
    target: Dialer
    source_topology: Topology
    target_topology: Topology
    abilities: Abilities
    databases: tuple[int, ...]
    scope: Scope
    on_conflict: Literal["replace", "skip", "fail"]
    pipeline_keys: int
    bytes_in_flight: int
    stream_from: int | None
    whole_bytes: int
    batches_in_flight: int
    retry_for: float
    source_clock: float | None
    clock_offset: float | None
    expiry_shift: int
    absttl: bool
    large_from: int | None
    dialects: tuple[tuple[Address | None, Dialect], ...]
    field_expiries: FieldExpiries
    beside_server: bool

    def at(self, place: Callable[[Dialer], Dialer]) -> WorkerSpec:
        """Return the same with other dialers."""
        return dataclasses.replace(self, source=place(self.source), target=place(self.target))

    @property
    def dialers(self) -> tuple[Dialer, Dialer]:
        """Those of the source and the target."""
        return self.source, self.target

    def writing_as(self, writer: str, lives: Callable[[], bool]) -> WorkerSpec:
        """Return the same with named connections to the target."""
        target = dataclasses.replace(self.target, writer=writer, lives=lives)
        return dataclasses.replace(self, target=target)

    def build(self, budget: Budget, pacer: Pacer, aside: Aside | None = None) -> Transfer:
        """Return reader and writer, joined; `aside`: one that is there already."""
        reader = DumpReader(Links(self.source, self.source_topology), self.abilities)
        intake = Intake(reader, budget, self.limits(budget), pacer)
        return Transfer(
            reader,
            RestoreWriter(
                Links(self.target, self.target_topology),
                Bridge(self.dialects, self.field_expiries, self.expiry_shift),
                replace=self.on_conflict == "replace",
                shift=self.expiry_shift,
                clock_offset=self.clock_offset,
                absttl=self.absttl,
                large_from=self.large_from,
            ),
            aside or self.aside(intake),
            intake,
            self.streamer(intake),
            self.retry_for,
            self.scope,
            self.on_conflict,
            self.expiry_shift,
            drops=self.field_expiries == "drop",
            source_clock=self.source_clock or 0.0,
        )

    def aside(self, intake: Intake) -> Aside:
        """Return the comparer of keys, over further connections to both sides."""
        usual, large = [
            (Links(self.source, self.source_topology), Links(self.target, self.target_topology))
            for _ in range(2)
        ]
        return Aside(usual, large, intake, self.retry_for, self.scope)

    def streamer(self, intake: Intake) -> Streamer:
        """Return the copier of large values, over connections of its own."""
        return Streamer(
            Links(self.source, self.source_topology),
            Links(self.target, self.target_topology),
            intake,
            expiry=self.abilities.expiry,
            replace=self.on_conflict == "replace",
            shift=self.expiry_shift,
            clock_offset=self.clock_offset,
            whole_bytes=self.whole_bytes,
            drops=self.field_expiries == "drop",
        )

    def primaries(self) -> Links | None:
        """Return connections to the source's primaries if replicas are read in their place."""
        if self.source.read_from == "primary":
            return None
        dialer = dataclasses.replace(self.source, read_from="primary")
        return Links(dialer, self.source_topology.primaries())

    def limits(self, budget: Budget) -> ChunkLimits:
        """Return the most that may be asked for at once."""
        small = budget.limit // (self.pipeline_keys * self.batches_in_flight)
        return ChunkLimits(
            self.pipeline_keys,
            max(1, budget.limit // 4),
            self.stream_from,
            small if self.stream_from is None else min(small, self.stream_from - 1),
        )
