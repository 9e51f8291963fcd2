"""One pass: a comparison of both sides in both directions, whose findings become dirty keys.

1. Walk the source: a key whose value or expiry differs on the target, or that the target lacks, is
   marked at once. A wrong finding, of a key that was being written, costs one more copy of it.
2. Walk the target: keys that the source lacks are collected until the pass ends. A source that has
   restarted without its data lacks all of them; to delete them would empty the last copy. So they
   are marked only if they are few, or if the user agrees (the *fuse*). Of a source that has
   restarted since the last pass even few are too many, if they are a large part.

Values that cannot be compared (of modules, some sketches) are marked only if `certain` is False:
the feed may have missed a change since they were copied.

Not promised: a picture of one moment. Keys that change meanwhile are the feed's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rumpx.engine.plan import plan_partitions
from rumpx.engine.walks import Walk, Walks
from rumpx.model.partitions import PASS, NodeKeys, Partition
from rumpx.model.tuning import Tuning
from rumpx.transfer.messages import Ack

# So many extra keys are kept by name; of more, another pass finds the rest.
_MOST_EXTRAS: Final = 1_000_000
_FEW: Final = 1_000
_SMALL_PART: Final = 0.1


def holds(extras: int, target_keys: int, most: int | None, *, trusted: bool = True) -> bool:
    """Return True if so many keys must not be deleted without the user's consent.

    Args:
        extras: keys that only the target has.
        target_keys: keys of the target.
        most: the user's limit; None chooses by the number of keys.
        trusted: the source is the process that has proven to have its keys.
    """
    if most is not None:
        return extras > most
    return extras > max(_FEW if trusted else 0, _SMALL_PART * target_keys)


def partitions(
    places: Sequence[NodeKeys], back: Sequence[NodeKeys], tuning: Tuning
) -> list[Partition]:
    """Return the walks of a pass.

    Args:
        places: of the source, to compare.
        back: of the target, to look for on the source.
    """
    forward = plan_partitions(places, tuning, (), forced=False)
    backward = plan_partitions(back, tuning, (), forced=False)
    return [
        *(replace(each, reason=PASS, work="compare") for each in forward),
        *(replace(each, reason=PASS, work="look for", side="target") for each in backward),
    ]


@dataclass(slots=True)
class _Numbers:
    compared: int = 0
    found: int = 0
    incomparable: int = 0
    lossy: int = 0


class Pass:
    """A pass that is under way.

    Args:
        walks: of the engine.
        added: those of the pass.
        places: the databases that it walks, of both sides, with their numbers of keys.
        certain: no change can have been missed since the keys were copied.
        mark: takes names of keys that differ.
        may_differ: returns True for a key, with its database, that is known to differ.

    Attributes:
        number_of_extras: keys that only the target has, so far.
        differences: of both sides, so far, without the keys that may differ.
        partitions: the numbers of its walks.
    """

    def __init__(
        self,
        walks: Walks,
        added: Sequence[Walk],
        places: Iterable[NodeKeys],
        mark: Callable[[list[bytes]], None],
        may_differ: Callable[[int, bytes], bool],
        *,
        certain: bool,
    ) -> None:
        self.number_of_extras = self.differences = 0
        self.partitions = [walk.id for walk in added]
        self._walks = walks
        self._keys = {(place.node.address, place.db): place.keys for place in places}
        self._mark = mark
        self._may_differ = may_differ
        self._certain = certain
        self._extras: list[bytes] = []
        self._numbers = _Numbers()

    @property
    def done(self) -> bool:
        """True if all walks have ended."""
        return all(self._part(number) == 1.0 for number in self.partitions)

    @property
    def fraction(self) -> float:
        """The part of the walks that is done, 0.0 to 1.0."""
        if not self.partitions:
            return 1.0
        return sum(map(self._part, self.partitions)) / len(self.partitions)

    def _part(self, number: int) -> float:
        """Return the part of a walk that is done; a retired one is."""
        walk = self._walks.get(number)
        if not walk or walk.done:
            return 1.0
        partition = walk.partition
        exact = partition.span.fraction(walk.frontier.cursor)
        if exact is None or walk.frontier.cursor == 0:
            keys = self._keys.get((partition.node.address, partition.db), 0)
            exact = walk.counts.settled / max(1, keys)
        return min(0.999, max(0.0, exact))

    @property
    def compared(self) -> int:
        """Keys of the source that were compared, so far."""
        return self._numbers.compared

    @property
    def found(self) -> int:
        """Keys that differ, or that the target lacks, so far."""
        return self._numbers.found

    @property
    def incomparable(self) -> int:
        """Keys whose values cannot be compared, so far."""
        return self._numbers.incomparable

    @property
    def lossy(self) -> int:
        """Keys that are equal but for a loss that was accepted, so far."""
        return self._numbers.lossy

    @property
    def complete(self) -> bool:
        """True if all extra keys are known by name."""
        return self.number_of_extras <= _MOST_EXTRAS

    def acknowledged(self, walk: Walk, ack: Ack) -> None:
        """Take the results of a batch of one of its walks."""
        if walk.id not in self.partitions:
            return
        numbers = self._numbers
        numbers.lossy += ack.counts.lossy
        numbers.compared += ack.counts.compared
        different = [failure.key for failure in ack.failures]
        for finding in ack.findings:
            if finding.kind == "extra":
                self._keep(finding.key)
                self._count(finding.db, finding.key)
                continue
            if finding.kind == "incomparable":
                numbers.incomparable += 1
                if self._certain:
                    continue
            else:
                numbers.found += 1
                self._count(finding.db, finding.key)
            different.append(finding.key)
        if different:
            self._mark(different)

    def _count(self, db: int, key: bytes) -> None:
        self.differences += not self._may_differ(db, key)

    def _keep(self, key: bytes) -> None:
        self.number_of_extras += 1
        if len(self._extras) < _MOST_EXTRAS:
            self._extras.append(key)

    def mark_extras(self) -> None:
        """Mark the keys that only the target has: settling deletes those that the source still
        lacks."""
        self._mark(self._extras)
        self._extras = []
