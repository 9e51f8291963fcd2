"""The set of changed keys: against a model of its promises, and what the feed and the looks decide.

Everything here is pure: no server, no process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rumpx.follower.dirty_keys import DirtyKeys

pytestmark = pytest.mark.smoke

NAMES = st.sets(st.sampled_from([b"a", b"b", b"c", b"d"]), min_size=1).map(sorted)
MOST = st.sampled_from([100, 3, 2])
HOT = 0.1  # seconds for which a name rests that was marked while it was held


@dataclass
class Key:
    """A name as its promises tell it: its first mark since it was last taken, the mark with which
    it was taken, if it is held, and the moment before which it may not be taken."""

    mark: float = math.inf
    held: float = math.inf
    until: float = -math.inf

    def may_be_taken(self, now: float) -> bool:
        return self.mark < math.inf and self.held == math.inf and self.until <= now


class DirtyKeysMachine(RuleBasedStateMachine):
    """Names are marked, taken, settled in any order, rest and are postponed, while time goes on.

    A name is never in two hands; a mark is forgotten only by an overflow, by `clear`, or because
    the name was taken after it; and nobody sleeps while there is a name to take.
    """

    @initialize(most=MOST)
    def begin(self, most: int) -> None:
        self.dirty = DirtyKeys(most)
        self.now = 1000.0
        self.keys: dict[bytes, Key] = {}
        self.hands: list[list[bytes]] = []
        self.marks = 0
        self.overflowed = False

    def key(self, name: bytes) -> Key:
        return self.keys.setdefault(name, Key())

    def forget(self) -> None:
        for key in self.keys.values():
            key.mark, key.until = math.inf, -math.inf

    def eligible(self) -> set[bytes]:
        return {name for name, key in self.keys.items() if key.may_be_taken(self.now)}

    # Time is a multiple of a quarter of a hot key's rest, so that moments coincide.
    @rule(quarters=st.integers(1, 12))
    def wait(self, quarters: int) -> None:
        self.now += quarters * HOT / 4

    @rule(names=NAMES)
    def mark(self, names: list[bytes]) -> None:
        asleep = self.dirty.due(self.now) > self.now
        told = self.dirty.mark(names, self.now)
        self.marks += len(names)
        if not self.overflowed:
            for name in names:
                key = self.key(name)
                key.mark = min(key.mark, self.now)
        known = self.unsettled + self.resting
        assert self.dirty.overflowed == (self.overflowed or known > self.dirty.most)
        if self.overflowed:
            assert not told
        elif self.dirty.overflowed:
            self.overflowed = True
            self.forget()
        elif asleep:
            assert told == (self.dirty.due(self.now) <= self.now), "it wakes whom it must"

    @property
    def unsettled(self) -> int:
        return sum(min(key.mark, key.held) < math.inf for key in self.keys.values())

    @property
    def resting(self) -> int:
        """Names that are known only since they rest."""
        return sum(
            key.mark == key.held == math.inf and key.until > -math.inf
            for key in self.keys.values()
        )

    @rule(most=st.integers(1, 4))
    def take(self, most: int) -> None:
        eligible = self.eligible()
        taken = self.dirty.take(most, self.now)
        assert len(taken) == len(set(taken)) == min(most, len(eligible))
        assert set(taken) <= eligible, "none that is held, rests, or was not marked"
        never_rested = [n for n in taken if self.keys[n].until == -math.inf]
        for before, after in pairwise(never_rested):
            assert self.keys[before].mark <= self.keys[after].mark, "the longest marked first"
        for name in taken:
            self.keys[name] = Key(held=self.keys[name].mark)
        if taken:
            self.hands.append(taken)
        else:
            assert self.dirty.due(self.now) > self.now, "or the loop would spin"

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), rests=st.dictionaries(st.sampled_from([b"a", b"b"]), st.just(0.3)))
    def settle(self, data: st.DataObject, rests: dict[bytes, float]) -> None:
        hand = self.hands.pop(data.draw(st.integers(0, len(self.hands) - 1)))
        self.dirty.settled(hand, self.now, rests)
        for name in hand:
            key = self.keys[name]
            key.held = math.inf
            seconds = max(HOT if key.mark < math.inf else 0.0, rests.get(name, 0.0))
            if seconds:
                key.until = max(key.until, self.now + seconds)

    @rule(names=NAMES, quarters=st.integers(1, 40))
    def postpone(self, names: list[bytes], quarters: int) -> None:
        until = self.now + quarters * HOT / 4
        self.dirty.postpone(names, until, self.now)
        for name in names:
            key = self.key(name)
            key.mark = min(key.mark, self.now)
            key.until = max(key.until, until)

    @rule(most=MOST, clears=st.booleans())
    def begin_anew(self, most: int, clears: bool) -> None:
        if clears:
            self.dirty.clear()
            self.forget()
        self.dirty.most = most
        self.dirty.begin()
        self.overflowed = False

    @invariant()
    def nothing_is_lost(self) -> None:
        keys = self.keys.values()
        assert len(self.dirty) == self.unsettled
        oldest = min((min(k.mark, k.held) for k in keys), default=math.inf)
        assert self.dirty.oldest == oldest
        for moment in (self.now, oldest):
            assert self.dirty.all_settled(moment) == (oldest > moment)
        assert self.dirty.marked == self.marks

    @invariant()
    def nobody_sleeps_too_long(self) -> None:
        free = [k for k in self.keys.values() if k.mark < math.inf and k.held == math.inf]
        first = min((max(k.until, self.now) for k in free), default=math.inf)
        assert self.dirty.due(self.now) <= first


TestDirtyKeys = DirtyKeysMachine.TestCase
TestDirtyKeys.settings = settings(max_examples=500, stateful_step_count=40)


def test_the_longest_marked_come_first_also_while_others_are_marked() -> None:
    dirty = DirtyKeys(1_000)
    for number in range(100):
        dirty.mark([b"%d" % number], float(number))
    taken: list[bytes] = []
    for number in range(100, 150):
        names = dirty.take(2, 200.0)
        assert dirty.oldest == len(taken), "what is held is not settled"
        dirty.settled(names, 200.0)
        taken += names
        assert dirty.oldest == dirty.first_ready == len(taken)
        dirty.mark([b"%d" % number], float(number))
    while names := dirty.take(7, 200.0):
        taken += names
    assert taken == [b"%d" % number for number in range(150)]
