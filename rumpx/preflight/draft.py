"""What the steps before the first write have found so far."""

from __future__ import annotations

from collections.abc import Callable

from rumpx.engine.plan import Plan, Policy
from rumpx.model.job import Job, Scope
from rumpx.model.partitions import NodeKeys
from rumpx.model.tuning import Tuning
from rumpx.preflight.abilities import Sample
from rumpx.servers.side import SideFacts
from rumpx.transfer.dump_reader import Abilities

Ask = Callable[[str], Policy | None]


class Draft:
    """What the steps have found so far: an attribute is there once its step has been taken."""

    source: SideFacts
    target: SideFacts
    shift: int
    databases: list[NodeKeys]
    scope: Scope
    sample: Sample
    abilities: Abilities
    absttl: bool
    target_keys: int
    policy: Policy
    tuning: Tuning
    plan: Plan

    def __init__(self, job: Job, ask: Ask | None = None) -> None:
        self.job = job
        self.ask = ask
        self.warnings: list[str] = []

    @property
    def replaces(self) -> bool:
        """Whether the copy may write over keys; it may be told so only later."""
        return self.job.on_conflict in ("replace", "ask")

    @property
    def target_databases(self) -> list[int]:
        """Where the copy would write to."""
        return sorted({self.scope.target_db(place.db) for place in self.databases})
