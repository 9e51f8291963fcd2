"""The source's databases that are followed.

A name that the feed tells belongs to no database, so it is settled in each of these. One that comes
to hold keys later is followed from then on, and compared once: names that were settled before may
have belonged to it. A database that has become empty stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from rumpx.engine.plan import Plan
from rumpx.engine.walks import Walks
from rumpx.follower.plan import anew
from rumpx.follower.settler import Settler
from rumpx.model.partitions import NodeKeys
from rumpx.preflight.databases import (
    chosen_databases,
    database_map,
    prove_databases,
    refuse_collisions,
)


class Databases:
    """The databases of one run.

    Args:
        plan: the run's plan.
        walks: of the engine.
        settler: settles names in each database.
        ask: asks the servers until they answer.
    """

    def __init__(
        self,
        plan: Plan,
        walks: Walks,
        settler: Settler,
        ask: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._plan = plan
        self._walks = walks
        self._settler = settler
        self._ask = ask

    def new(self, found: Iterable[int]) -> set[int]:
        """Return those in scope of the databases that hold keys, which are not followed yet."""
        chosen = chosen_databases(self._plan.job)
        wanted = {db for db in found if not chosen or db in chosen}
        return wanted - self._settler.databases

    def follow(self, databases: Iterable[int]) -> None:
        """Settle changed keys in these databases, too, from now on.

        Raises:
            TargetUnusable: the target has no such database.
            UsageError: two would be copied into one.
        """
        plan, node = self._plan, self._plan.source.topology.nodes[0]
        followed = self._settler.databases
        new = sorted(set(databases) - followed)
        if not followed and not new:
            new = [next(iter(chosen_databases(plan.job)), 0)]  # nothing holds keys yet
        database_map(plan.job, [NodeKeys(node, db, 0, "unknown") for db in (*followed, *new)])
        refuse_collisions([*followed, *new], dict(plan.spec.scope.map_db))
        there = [plan.spec.scope.target_db(db) for db in new]
        self._ask(lambda: prove_databases(plan.target, there))
        for db in new:
            self._settler.follow(self._walks, node, db)

    def count(self) -> list[tuple[int, int, int]]:
        """Return (database, the source's keys, the target's) of those followed in which no key
        expires or has failed, if all their keys are in scope."""
        plan, scope = self._plan, self._plan.spec.scope
        if scope.filtered:
            return []
        here, there = (
            self._ask(partial(anew, side)).infos[side.topology.nodes[0].address]
            for side in (plan.source, plan.target)
        )
        if here is None or there is None:
            return []
        failed = {db for db, _ in self._settler.failed}
        return [
            (db, here.keys.get(db, 0), there.keys.get(scope.target_db(db), 0))
            for db in sorted(self._settler.databases - failed)
            if not (here.expiring.get(db) or there.expiring.get(scope.target_db(db)))
        ]
