"""Save a run to its ledger: twice a second, at each partition's end, and at the end.

An update has, for each walk, the cursor up to which all keys are settled and the counts of the keys
before it, and the facts that the checks compare with. All of it is of one moment, so a resumed run
does exactly the work that this one had left. Only walks that have changed since the last update are
in it. Walks that only compare are not saved: a resumed run begins them anew.

A ledger that cannot be written does not stop a copy or a follow at once: the run notes it, and ends
when the trouble has lasted as long as `--retry-for` allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple

from rumpx.engine.engine import Engine
from rumpx.engine.plan import Plan
from rumpx.engine.walks import Walk
from rumpx.errors import TemporaryError, UsageError
from rumpx.ledger.ledger import Ledger, Update
from rumpx.ledger.schema import (
    Facts,
    JobState,
    Noted,
    SavedNode,
    SavedWalk,
    open_books,
)
from rumpx.model.counts import Counts
from rumpx.model.endpoint import format_address
from rumpx.model.partitions import PASSING, RETRIED, KeySpan
from rumpx.model.results import KeyFailure, KeyNote
from rumpx.model.snapshot import State
from rumpx.model.timeline import Recorder

FAILURES_SHOWN: Final = 100_000
_SAVE_SECONDS: Final = 0.5
_LAST_SAVE_SECONDS: Final = 5.0
# The run ends anyway, and its last update tells whether it was written.
_ENDING: Final[tuple[State, ...]] = ("draining", "stopped", "failed", "done")


class Saver:
    """Saves one run.

    Args:
        plan: the run's plan.
        engine: has the walks.
        ledger: receives the updates.

    Attributes:
        recorder: the series of the job; the next update has its new points.
        stands: returns False for a note about a key that was settled since.
    """

    def __init__(self, plan: Plan, engine: Engine, ledger: Ledger) -> None:
        self._plan = plan
        self._engine = engine
        self._ledger = ledger
        self._saved: dict[int, SavedWalk] = {}
        self._due = 0.0
        self._note = ""
        self._healed: list[tuple[int, bytes]] = []
        self.stands: Callable[[KeyNote], bool] = lambda note: True
        self.recorder = Recorder(
            ledger.earlier.runs,
            ledger.books.points(),
            ledger.earlier.seconds,
            sum((counts for _, counts, _ in engine.walks.sums()), Counts()),
        )

    def heal(self, keys: list[tuple[int, bytes]]) -> None:
        """Take (database, key) pairs off the lists of failed and lossy keys with the next update,
        before those that it adds."""
        self._healed += keys

    def hurry(self) -> None:
        """Make the next update due now."""
        self._due = 0.0

    def is_due(self, now: float) -> bool:
        """Return True if an update is due."""
        return now >= self._due

    def save(self, state: JobState, facts: Facts, seconds: float) -> None:
        """Give the ledger an update.

        Args:
            state: the job's.
            facts: what the checks compare with.
            seconds: of all runs together.
        """
        engine = self._engine
        self._due = time.monotonic() + _SAVE_SECONDS
        walks = []
        noted: list[Noted[KeyNote]] = []
        settled, self._healed = self._healed, []
        for walk in engine.walks:
            if walk.partition.work in PASSING:
                continue
            saved = saved_walk(walk, engine.run_ids.get(walk.partition.place, ""))
            before = self._saved.get(saved.partition.id)
            if saved == before:
                continue
            self._saved[saved.partition.id] = saved
            walks.append(saved)
            number = saved.partition.id, walk.number
            notes = filter(self.stands, walk.frontier.take_notes())
            noted += [Noted(note, *number) for note in notes]
            settled += _retried(saved, before.cursor if before else walk.cursor)
        gone = tuple(walk.name for walk in engine.walks.retire())
        for partition, _ in gone:
            self._saved.pop(partition, None)
        anew, points = self.recorder.take()
        self._ledger.save(
            Update(
                state=state,
                fraction=engine.fraction,
                seconds=seconds,
                facts=facts,
                nodes=_saved_nodes(self._plan, engine),
                walks=tuple(walks),
                noted=tuple(noted),
                settled=tuple(settled),
                gone=gone,
                retired=dict(engine.walks.retired) if gone else None,
                limits=engine.governor.limits,
                largest=engine.largest.top,
                points=points,
                anew=anew,
            )
        )

    def finish(self, state: JobState, facts: Facts, seconds: float) -> bool:
        """Give the ledger the last update, and return True if it has written everything."""
        self.recorder.finish(time.time())
        self.save(state, facts, seconds)
        return self._ledger.flush(_LAST_SAVE_SECONDS)

    def heed_trouble(self, now: float) -> None:
        """Note that the ledger cannot be written.

        Raises:
            TemporaryError: it could not be written for as long as `--retry-for` allows.
        """
        engine, trouble = self._engine, self._ledger.trouble
        if trouble:
            engine.note = self._note = f"the ledger cannot be written: {trouble}"
            since = self._ledger.trouble_since
            if engine.state not in _ENDING and now - since > self._plan.job.retry_for:
                raise self.trouble()
        elif self._note:
            if engine.note == self._note:
                engine.note = ""
            self._note = ""

    def trouble(self) -> TemporaryError:
        """Return the exception for a ledger that cannot be written."""
        since = time.strftime("%H:%M:%S", time.localtime(self._ledger.saved))
        return TemporaryError(
            f"The ledger {self._ledger.path} cannot be written: {self._ledger.trouble}. Its last "
            f"state is of {since}. Make room on the disk, then resume."
        )

    def listed(self) -> tuple[Listed, list[str]]:
        """Return the saved failures and losses, and warnings: a copy that is done stays done,
        though its ledger cannot be read."""
        try:
            with open_books(self._ledger.path) as books:
                failures = [each.note for each in islice(books.failures(), FAILURES_SHOWN)]
                losses = books.losses_by_kind()
                return Listed(books.failures_by_reason(), failures, losses), []
        except UsageError as error:
            return Listed({}, [], {}), [f"The failed keys cannot be listed: {error}"]


class Listed(NamedTuple):
    """The keys that a ledger lists: failures by reason, the first `FAILURES_SHOWN`, and losses by
    kind."""

    by_reason: dict[str, int]
    failures: list[KeyFailure]
    losses: dict[str, int]


def saved_walk(walk: Walk, run_id: str) -> SavedWalk:
    """Return a walk for the ledger; `run_id` is of the process that is walked."""
    frontier = walk.frontier
    return SavedWalk(
        walk.partition,
        walk.number,
        frontier.cursor,
        run_id,
        walk.done,
        frontier.counts,
        walk.after,
        frontier.kinds,
    )


def _retried(saved: SavedWalk, start: int) -> list[tuple[int, bytes]]:
    """Return the keys that an earlier run had failed on, and that were settled after `start`."""
    partition = saved.partition
    if partition.reason != RETRIED or not isinstance(partition.span, KeySpan):
        return []
    return [(partition.db, key) for key in partition.span.keys[start : saved.cursor]]


def _saved_nodes(plan: Plan, engine: Engine) -> tuple[SavedNode, ...]:
    """Return every server as last seen."""
    nodes = []
    for facts in (plan.source, plan.target):
        side = facts.dialer.side
        ids = {node.address: node.id for node in facts.topology.nodes}
        for address, info in facts.infos.items():
            nodes.append(
                SavedNode(
                    side,
                    format_address(address) if address else "",
                    ids.get(address, ""),
                    engine.run_ids.get((side, address), ""),
                    info.role if info else "",
                )
            )
    return tuple(nodes)
