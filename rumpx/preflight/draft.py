"""The findings so far of the steps before the first write."""

from __future__ import annotations

from collections.abc import Callable

from rumpx.engine.plan import Plan, Policy
from rumpx.model.follow import FeedKind
from rumpx.model.job import Job, Scope
from rumpx.model.partitions import NodeKeys
from rumpx.model.tuning import Tuning
from rumpx.preflight.abilities import Sample
from rumpx.preflight.worker_spec import Dialects
from rumpx.servers.side import SideFacts
from rumpx.transfer.dump_reader import Abilities

Ask = Callable[[str], Policy | None]
"""Asks the user a question; returns the policy for keys that the target has; None for none."""
Consent = Callable[[str], bool]
"""Asks the user a question; returns True for yes."""


class Draft:
    """The steps' findings so far: an attribute exists once its step has been taken.

    Args:
        ask: None if nobody can be asked.
        consent: asks for permission to delete keys of the target; None likewise.

    Attributes:
        feed, reverse: of a follow: the target's databases that the scope can reach.
    """

    threads: int
    source: SideFacts
    target: SideFacts
    shift: int
    databases: list[NodeKeys]
    scope: Scope
    sample: Sample
    abilities: Abilities
    absttl: bool
    dialects: Dialects
    target_keys: int
    policy: Policy
    tuning: Tuning
    plan: Plan
    feed: FeedKind
    reverse: list[NodeKeys]

    def __init__(
        self, job: Job, ask: Ask | None = None, consent: Consent | None = None
    ) -> None:
        self.job = job
        self.ask = ask
        self.consent = consent
        self.warnings: list[str] = []

    @property
    def replaces(self) -> bool:
        """Return True if the copy may overwrite keys, or may still be told to."""
        return self.job.on_conflict in ("replace", "ask")

    @property
    def target_databases(self) -> list[int]:
        """Return the target databases that the copy would write to."""
        return sorted({self.scope.target_db(place.db) for place in self.databases})
