"""The sizes of values on both sides of a comparison, so that neither side dumps a large one.

A key's size is that of its larger value. The target is not asked where it proves that all of its
values are small (`transfer.size_bounds`), nor the source where the target's sizes are enough.

Not promised: sizes that a side refuses to tell.
"""

from __future__ import annotations

from dataclasses import replace

from rumpx.model.job import Scope
from rumpx.transfer.handler import Reader, Wanted
from rumpx.transfer.runner import Task


class BothSizes:
    """Asks both sides; `transfer.chunks.Sizes`.

    Args:
        source, target: their readers.
        scope: for the target's database.
    """

    def __init__(self, source: Reader, target: Reader, scope: Scope) -> None:
        self._source = source
        self._target = target
        self._scope = scope

    @property
    def tells_sizes(self) -> bool:
        """True if `sizes` asks a server at all."""
        return self._source.tells_sizes or self._target.tells_sizes

    def ops(self, keys: int, *, sized: bool) -> int:
        """Return how many commands the source executes for that many keys."""
        return self._source.ops(keys, sized=sized)

    def largest(self, wanted: Wanted) -> Task[int | None]:
        """Return how many bytes a payload has at most, if both sides prove that; a task."""
        here = yield from self._source.largest(wanted)
        if here is None:
            return None
        there = yield from self._target.largest(self._there(wanted))
        return None if there is None else max(here, there)

    def sizes(self, wanted: Wanted) -> Task[list[int] | None]:
        """Return the estimated bytes of each key's larger payload, None if unknown; a task."""
        away, theirs = self._there(wanted), None
        small = (yield from self._source.largest(wanted)) is not None
        if (yield from self._target.largest(away)) is None:
            theirs = yield from self._target.sizes(away)
        if theirs and small:
            return theirs
        mine = yield from self._source.sizes(wanted)
        return list(map(max, mine, theirs)) if mine and theirs else mine or theirs

    def _there(self, wanted: Wanted) -> Wanted:
        return replace(wanted, db=self._scope.target_db(wanted.db), node=None, by_slot=True)
