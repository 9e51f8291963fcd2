"""The state of walks without processes: loss, restart, duplicates, any order of acks."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rumpx.copier.resume import at_end
from rumpx.engine.events import Advanced, Found
from rumpx.engine.walks import Retired, RetiredAs, Walk, WalkName, Walks
from rumpx.model.counts import Counts
from rumpx.model.nodes import Node, Origin
from rumpx.model.partitions import CursorSpan, KeySpan, Partition, Span, WholeSpan, reverse
from rumpx.model.results import KeyFailure
from rumpx.transfer.content_stats import Kinds
from rumpx.transfer.messages import Ack, Batch

SCANNERS = 3
QUARTER = 1 << 62
NODES = tuple(Node(("node", number)) for number in range(3))


def keys_of(partition: Partition) -> int:
    """One in each SCAN reply; in database 1 the first reply is the last."""
    return 1 if partition.db else 3


def cursors_of(partition: Partition) -> list[int]:
    """Where a walk begins, and the cursors of its replies."""
    span, replies = partition.span, keys_of(partition)
    if isinstance(span, KeySpan):
        return list(range(replies + 1))
    if isinstance(span, WholeSpan):
        return [0, *range(1, replies), 0]
    assert isinstance(span, CursorSpan)
    step = (span.high - span.low) // replies
    return [reverse(span.low + step * n) for n in range(replies)] + [reverse(span.high % 2**64)]


def planned() -> list[Partition]:
    """A node with a table in two parts, one with one cursor, one with both."""
    spans: list[tuple[Node, Span]] = [
        (NODES[0], CursorSpan(0, 2 * QUARTER)),
        (NODES[0], CursorSpan(2 * QUARTER, 4 * QUARTER)),
        (NODES[1], WholeSpan()),
        (NODES[2], WholeSpan()),
        (NODES[2], CursorSpan(QUARTER, 2 * QUARTER)),
    ]
    return [
        Partition(number, node, node == NODES[1], span)
        for number, (node, span) in enumerate(spans)
    ]


class Run(RuleBasedStateMachine):
    """Scanners and workers as a test would have them, against the real state."""

    def __init__(self) -> None:
        super().__init__()
        self.walks = Walks(map(Walk, planned()))
        self.added = 0
        self.scanners: dict[WalkName, tuple[Span, list[int]]] = {}  # cursors, the next one first
        self.told: dict[WalkName, int] = {}
        self.batches: list[Batch] = []
        self.start()

    def start(self) -> None:
        for name in self.walks.take_cancelled():
            self.scanners.pop(name, None)
        for walk in self.walks.starts(SCANNERS):
            for number in walk.after:
                before = self.walks.get(number)
                assert before is None or before.done
            cursors, cursor = cursors_of(walk.partition), walk.frontier.cursor
            left = cursors[1:] if cursor == cursors[0] else cursors[cursors.index(cursor) + 1 :]
            self.scanners[walk.name] = walk.partition.span, left
            self.told[walk.name] = cursor

    def some(self, number: int) -> WalkName:
        return list(self.scanners)[number % len(self.scanners)]

    # What scanners and workers do.

    @precondition(lambda self: self.scanners)
    @rule(number=st.integers(0, 99), empty=st.booleans())
    def a_scanner_goes_on(self, number: int, empty: bool) -> None:
        name = self.some(number)
        _, left = self.scanners[name]
        assert self.walks.is_present(name)
        if not left:
            del self.scanners[name]
            self.walks.walked(name[0])
        elif empty:  # a sign of life, or a reply without keys in scope
            assert self.walks.found(Found(*name, None, [], self.told[name])) is None
        else:
            self.told[name] = left.pop(0)
            batch = self.walks.found(Found(*name, None, [b"k"], self.told[name]))
            assert batch and self.walks.is_issued(batch.id)
            self.batches.append(batch)
        self.start()

    @precondition(lambda self: self.scanners)
    @rule(number=st.integers(0, 99))
    def a_scanner_finds_all_and_it_is_settled(self, number: int) -> None:
        """But the scanner has not said yet that it is at its end."""
        name = self.some(number)
        for cursor in self.scanners[name][1]:
            batch = self.walks.found(Found(*name, None, [b"k"], cursor))
            assert batch
            self.batches.append(batch)
            self.told[name] = cursor
        self.scanners[name][1].clear()
        for batch in [each for each in self.batches if (each.partition, each.walk) == name]:
            self.batches.remove(batch)
            self.walks.acknowledged(Ack(batch.id, Counts(copied=1)))

    @precondition(lambda self: self.batches)
    @rule(number=st.integers(0, 99), again=st.booleans())
    def a_batch_is_acknowledged(self, number: int, again: bool) -> None:
        batch = self.batches.pop(number % len(self.batches))
        ack = Ack(batch.id, Counts(copied=1))
        issued = self.walks.is_issued(batch.id)
        walk = self.walks.acknowledged(ack)
        assert (walk is not None) == issued
        if again:  # a worker that was thought dead
            assert self.walks.acknowledged(ack) is None
        self.start()

    # What servers and overseers do.

    @precondition(lambda self: self.scanners)
    @rule(number=st.integers(0, 99), elsewhere=st.booleans())
    def a_process_changes(self, number: int, elsewhere: bool) -> None:
        name = self.some(number)
        walk = self.walks.get(name[0])
        assert walk
        node = walk.partition.node
        restarted = self.walks.node_changed(
            name[0], replace(node, address=("heir", 1)) if elsewhere else node, known=True
        )
        assert name[0] in {each.id for each in restarted}
        assert not self.walks.is_present(name)
        self.start()

    @precondition(
        lambda self: any(isinstance(span, CursorSpan) for span, _ in self.scanners.values())
    )
    @rule()
    def cursors_are_of_another_kind(self) -> None:
        name = next(n for n, (span, _) in self.scanners.items() if isinstance(span, CursorSpan))
        self.walks.cursor_unproven(name[0])
        self.start()

    @rule(number=st.integers(1, 4), in_order=st.booleans(), held=st.booleans(), keys=st.booleans())
    def walks_are_added(self, number: int, in_order: bool, held: bool, keys: bool) -> None:
        blank = [Partition(0, NODES[n % 3], n % 2, WholeSpan()) for n in range(number)]
        partitions = [
            replace(p, span=KeySpan((b"k",) * keys_of(p)) if keys else p.span, reason="because")
            for p in blank
        ]
        self.walks.add(partitions, in_order=in_order, held=held)
        self.added += sum(map(keys_of, partitions))
        self.start()

    @rule(needed=st.booleans())
    def held_walks_are_decided(self, needed: bool) -> None:
        held = [walk for walk in self.walks if walk.state == "held"]
        self.walks.decide(held, needed=needed)
        if not needed:
            self.added -= sum(keys_of(walk.partition) for walk in held)
        self.start()

    @rule()
    def what_is_done_is_retired(self) -> None:
        self.walks.retire()

    @rule()
    def the_run_is_killed_and_resumed(self) -> None:
        """Only what is booked is known to the next run, in which numbers of batches begin anew."""
        walks = []
        for walk in self.walks:
            frontier = walk.frontier
            again = Walk(
                walk.partition,
                walk.number,
                "held" if walk.state == "held" else "waiting",
                frontier.cursor,
                frontier.counts,
                walk.after,
            )
            if walk.done or at_end(walk.partition.span, frontier.cursor, frontier.counts):
                again.state = "walked"
            walks.append(again)
        self.walks = Walks(walks, self.walks.retired)
        self.scanners, self.batches = {}, []
        self.start()

    # What always holds.

    @invariant()
    def few_scanners_are_under_way(self) -> None:
        walking = [walk.name for walk in self.walks if walk.state == "walking"]
        assert len(walking) <= SCANNERS
        assert set(walking) == set(self.scanners)

    @invariant()
    def settled_means_done(self) -> None:
        done = all(walk.done or walk.state == "held" for walk in self.walks)
        assert self.walks.all_settled == done

    @invariant()
    def no_key_counts_twice(self) -> None:
        for walk in self.walks:
            assert walk.frontier.counts.copied <= walk.counts.copied <= keys_of(walk.partition)

    def teardown(self) -> None:
        held = [walk for walk in self.walks if walk.state == "held"]
        self.walks.decide(held, needed=True)
        self.start()
        for _ in range(100_000):
            if self.walks.all_settled:
                break
            if self.batches:
                self.a_batch_is_acknowledged(0, False)
            else:
                self.a_scanner_goes_on(0, False)
        assert self.walks.all_settled
        self.walks.retire()
        left = [walk for walk in self.walks if walk.partition.reason]
        assert left == []
        for walk in self.walks:
            merged = walk.number and isinstance(walk.partition.span, WholeSpan)
            assert walk.counts == walk.frontier.counts
            keys = keys_of(walk.partition)
            assert walk.counts.copied in ((0, keys) if merged else (keys,))
        because = self.walks.retired.values()
        assert sum(each.counts.copied for each in because) == self.added


TestRun = Run.TestCase
TestRun.settings = hypothesis.settings(max_examples=200, stateful_step_count=60, deadline=None)


def test_a_hundred_thousand_small_walks_leave_nothing_behind() -> None:
    """As a job has them that follows a server for a day: memory stays as it was."""
    walks = Walks(map(Walk, planned()[:1]))
    walks.starts(SCANNERS)

    def one(number: int) -> None:
        key = b"key:%d" % number
        (walk,) = walks.add([Partition(0, NODES[1], 0, KeySpan((key,)), reason="changed")])
        assert walks.starts(SCANNERS) == [walk]
        batch = walks.found(Found(*walk.name, None, [key], 1))
        assert batch
        walks.acknowledged(Ack(batch.id, Counts(copied=1, payload_bytes=9), kinds=Kinds({1: 1})))
        walks.walked(walk.id)
        walks.retire()

    for number in range(1_000):
        one(number)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(100_000):
        one(number)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 50_000
    assert len(walks) == 1
    (sum_,) = walks.retired.items()
    assert sum_[0] == RetiredAs("changed", "node:1", 0)
    assert (sum_[1].walks, sum_[1].counts.copied) == (101_000, 101_000)


def test_numbers_are_not_used_again_by_a_resumed_job() -> None:
    """Failed keys are listed by them."""
    retired = {RetiredAs("changed", "", 0): Retired(7)}
    walks = Walks(map(Walk, planned()), retired)
    (walk,) = walks.add([Partition(0, NODES[1], 0, WholeSpan(), reason="changed")])
    assert walk.id == len(planned()) + 7


def test_walks_start_spread_over_the_nodes() -> None:
    """One node's walk lasts; the other's end one after the other."""
    partitions = [Partition(n, NODES[n // 4], 0, WholeSpan()) for n in range(8)]
    walks = Walks(map(Walk, partitions))
    first, _ = walks.starts(2)
    assert first.partition.node == NODES[0]
    for _ in range(3):
        walks.walked(first.id)
        (first,) = walks.starts(2)
        assert first.partition.node == NODES[0]


def test_walks_stay_spread_when_a_node_has_changed() -> None:
    """Those that wait were queued at the old one."""
    partitions = [Partition(n, NODES[n // 6], 0, WholeSpan()) for n in range(12)]
    walks = Walks(map(Walk, partitions))
    heir = Node(("heir", 0))
    for walk in walks.starts(4):
        if walk.partition.node == NODES[0]:
            walks.node_changed(walk.id, heir, known=True)
            break
    assert set(walks.take_cancelled())
    walks.starts(4)
    walking = [walk.partition.node for walk in walks if walk.state == "walking"]
    assert sorted(node.label("") for node in walking) == ["heir:0", "heir:0", "node:1", "node:1"]
    assert set(walks.read.values()) == {heir, NODES[1]}


def test_a_walk_at_a_replica_is_there_to_the_end() -> None:
    """A resumed run compares the identity that the walk has seen."""
    replica = replace(NODES[1], origin=Origin(NODES[1].address, "f" * 40, 1))
    walks = Walks(map(Walk, planned()[:1]))
    for node in (replica, NODES[2]):
        (walk,) = walks.add([Partition(0, node, 0, WholeSpan(), reason="slots moved")])
        walks.starts(SCANNERS)
        walks.walked(walk.id)
    assert [walk.partition.node for walk in walks.retire()] == [NODES[2]]
    assert [walk.partition.node for walk in walks] == [NODES[0], replica]


@hypothesis.given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 50))))
def test_keys_ahead_of_the_cursor_count_until_they_are_behind_it(
    steps: list[tuple[int, int, int]],
) -> None:
    """Each Advanced counts what was booked since the last one, and all that is settled beyond."""
    walks = Walks([Walk(planned()[2])])
    walk = next(iter(walks))
    cursor = booked = ahead = 0
    for step, copied, ahead in steps:
        cursor += step
        ack = Ack(-1, Counts(copied=copied if step else 0))
        booked += ack.counts.copied
        walks.advanced(Advanced(walk.id, 0, cursor, ack, Counts(copied=ahead)))
        assert walk.counts.copied == booked + ahead
        assert walk.frontier.counts.copied == booked
        assert walk.frontier.cursor == cursor
    walks.advanced(Advanced(walk.id, 0, cursor, Ack(-1, Counts(copied=ahead))))
    walks.walked(walk.id)
    assert walk.done and walk.counts == walk.frontier.counts
    assert walk.counts.copied == booked + ahead


def test_batches_of_a_fed_walk_do_not_wait_for_a_slow_one() -> None:
    """Their keys come in no order, so a batch that takes minutes holds up no result, and nothing is
    kept for it."""
    walks = Walks(())
    walk = walks.add_fed(Partition(0, NODES[0], 7, KeySpan(()), reason="followed", work="follow"))
    slow = walks.named(walk, [b"slow"], "process")
    assert (slow.db, slow.keys, slow.work, slow.process) == (7, [b"slow"], "follow", "process")
    failure, kinds = KeyFailure(7, b"key", "NOPERM", "no"), Kinds({0: 1, 256: 10})
    before = 0
    tracemalloc.start()
    for number in range(1, 2_001):
        batch = walks.named(walk, [b"key"], "")
        ack = Ack(batch.id, Counts(copied=1, failed=1), (failure,), kinds=kinds)
        assert walks.acknowledged(ack) is walk
        assert walk.counts == walk.frontier.counts == Counts(copied=number, failed=number)
        assert walk.frontier.kinds.numbers == {0: number, 256: 10 * number}
        assert walk.frontier.take_notes() == [failure]
        if number == 1_000:
            before, _ = tracemalloc.get_traced_memory()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000
    assert walks.acknowledged(Ack(slow.id, Counts(gone=1))) is walk
    assert walk.counts == walk.frontier.counts == Counts(copied=2_000, failed=2_000, gone=1)
    assert not walks.all_settled and not walk.done, "more keys may be named"
