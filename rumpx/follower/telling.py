"""A follow for displays, the ledger and `rumpx ctl`: its facts so far, and how it stands now."""

from __future__ import annotations

import math
from dataclasses import replace

from rumpx.follower.dirty_keys import DirtyKeys
from rumpx.follower.listener import Listener
from rumpx.follower.settler import Settler
from rumpx.follower.standing import Standing
from rumpx.model.follow import FollowFacts, FollowStat
from rumpx.units import count_of


class Telling:
    """Reads the parts of one run, and changes none.

    Args:
        job: its name.
        before: the facts of earlier runs.
        standing, listener, dirty, settler: the parts.
    """

    def __init__(
        self,
        job: str,
        before: FollowFacts,
        standing: Standing,
        listener: Listener,
        dirty: DirtyKeys,
        settler: Settler,
    ) -> None:
        self._job = job
        self._before = before
        self._standing = standing
        self._listener = listener
        self._dirty = dirty
        self._settler = settler

    def stat(self, now: float) -> FollowStat:
        """Return how the follow stands at `now` (`time.monotonic()`)."""
        standing, settler = self._standing, self._settler
        changes, settled = standing.per_second(now, self._dirty.marked, settler.settled)
        return FollowStat(
            standing.phase,
            self._listener.kind,
            self._facts,
            self._lag(now),
            len(self._dirty),
            changes,
            settled,
            standing.under_way.fraction if standing.under_way else None,
            standing.held_deletes,
            len(settler.failed),
            standing.in_step_since,
            self.waits_for,
        )

    @property
    def _facts(self) -> FollowFacts:
        before, settler = self._before, self._settler
        return replace(
            self._standing.facts(),
            changes=before.changes + self._dirty.marked,
            settled=before.settled + settler.settled,
            deleted=before.deleted + settler.deleted,
            accepted_failures=len(self._standing.accepted & settler.failed),
        )

    def _lag(self, now: float) -> float | None:
        feed = self._listener.feed
        if not self._standing.settles or not feed:
            return None
        oldest = self._dirty.oldest
        waited = 0.0 if oldest == math.inf else max(0.0, now - oldest)
        return max(waited, feed.silent_for(now))

    @property
    def waits_for(self) -> str:
        """What keeps the target from being in step until the user acts, or a server answers; a
        clause, or ""."""
        standing = self._standing
        if standing.held_deletes:
            return (
                f"the source lacks {count_of(standing.held_deletes, 'key')} that the target has: "
                f"rumpx ctl {self._job} accept-deletes"
            )
        unaccepted = len(self._settler.failed - standing.accepted)
        if standing.settles and unaccepted and not standing.under_way:
            return (
                f"{count_of(unaccepted, 'key')} cannot be copied: rumpx ctl {self._job} "
                "accept-failures"
            )
        if standing.settles and (silent := self._listener.silent):
            return f"the {silent} does not answer"
        return ""

    @property
    def unsettled(self) -> str:
        """What is not settled, or not proven, as a clause."""
        if self._standing.phase == "in step":
            return f"{count_of(len(self._dirty), 'changed key')} not settled yet"
        return f"it is {self._standing.phase}"
