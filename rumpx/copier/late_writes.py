"""Keys whose earlier write may still land on the target: copy them again at the end.

Such writes are on their way when a connection, a worker or a run is lost, and the target does not
let rumpx end its connections (`fence`). The walks of these keys are held until all others are done
and `LATE_SECONDS` have passed since the last such loss. Without REPLACE nothing is copied again:
the target refuses a late write where it has a newer value.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from rumpx.engine.engine import Engine
from rumpx.engine.fence import LATE_SECONDS, MEND_FENCE, UNFENCED, Fence
from rumpx.engine.plan import Plan, key_partitions
from rumpx.model.partitions import LATE, Partition, WholeSpan

# Keys remembered by name; of more, all keys are copied again.
_MOST_KEYS: Final = 500_000
_PAUSE: Final = 0.5


class LateWrites:
    """The late writes of one run.

    Args:
        plan: the run's plan.
        engine: walks the keys again.
    """

    def __init__(self, plan: Plan, engine: Engine) -> None:
        self._plan = plan
        self._engine = engine
        self._keys = 0
        self._due = 0.0

    @property
    def fence(self) -> Fence:
        """Return the fence, which every copy has."""
        assert self._engine.fence
        return self._engine.fence

    def add(self, keys: Sequence[tuple[int, bytes]] | None) -> None:
        """Copy keys, each with its database, again at the end; None are any: then, and if they
        become too many, that is every key, once."""
        before = self._keys
        self._keys += _MOST_KEYS + 1 if keys is None else len(keys)
        walks: list[Partition] = []
        if keys is not None and self._keys <= _MOST_KEYS:
            walks = key_partitions(self._plan.source.topology, keys, reason=LATE)
        elif before <= _MOST_KEYS:
            walks = [
                Partition(0, place.node, place.db, WholeSpan(), reason=LATE)
                for place in self._plan.databases
            ]
        self._hold(walks)

    def _hold(self, partitions: Iterable[Partition]) -> None:
        replaces = self._plan.on_conflict == "replace"
        again = " The keys concerned are copied again at the end." if replaces else ""
        text = f"{UNFENCED}{again} {MEND_FENCE}"
        if text not in self._engine.warnings:
            self._engine.warn(text)
        if replaces:
            self._due = time.monotonic() + LATE_SECONDS
            self._engine.walks.add(partitions, held=True)

    def end_earlier_runs(self, *, landed: bool) -> None:
        """End the connections of earlier runs, before anything is written. If the target refuses
        that, their late writes are of keys that are not walked yet: walk those twice.

        Args:
            landed: the last run ended with nothing on its way.
        """
        engine = self._engine
        engine.note = "ending connections of an earlier run"
        until = time.monotonic() + LATE_SECONDS
        while (left := engine.ask(self.fence.earlier_runs)) == "some":
            if time.monotonic() > until:
                break
            engine.wait(_PAUSE)
        engine.note = ""
        if left == "nothing" or landed:
            return
        unfinished = [walk for walk in engine.walks if not walk.done]
        for walk in unfinished:
            if walk.partition.reason == LATE:
                engine.walks.hold(walk)
        self._hold(
            replace(walk.partition, reason=LATE) for walk in unfinished if walk.state != "held"
        )

    def dismiss(self) -> None:
        """Wait until late writes have landed, and let the held walks be done: for a job that
        compares both sides afterwards."""
        self._engine.wait(self._due - time.monotonic())
        held = [walk for walk in self._engine.walks if walk.state == "held"]
        self._engine.walks.decide(held, needed=False)

    def release(self) -> int:
        """Wait until late writes have landed, and start the held walks; return their number."""
        engine = self._engine
        if not any(walk.state == "held" for walk in engine.walks):
            return 0
        engine.note = "waiting for writes that may land late"
        engine.wait(self._due - time.monotonic())
        engine.note = ""
        held = [walk for walk in engine.walks if walk.state == "held"]
        engine.walks.decide(held, needed=True)
        return len(held)
