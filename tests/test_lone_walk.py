"""One partition, walked whole in one process without an engine: from SCAN to RESTORE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rumpx.engine import lone_walk
from rumpx.engine.backend import WalkOrder
from rumpx.engine.events import Advanced, NodeChanged, Walked
from rumpx.engine.lone_walk import Ending, LoneWalk, Report
from rumpx.engine.plan import Plan
from rumpx.engine.scanner import Shelf
from rumpx.errors import RumpxError, TargetUnusable
from rumpx.model.counts import Counts
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.model.partitions import CursorSpan, Partition
from rumpx.model.verify_request import Request
from rumpx.preflight.steps import prepare
from rumpx.throttle.rates import Throttle
from rumpx.transfer.handler import Handler
from rumpx.transfer.messages import Ack, Batch, Left
from rumpx.transfer.runner import Budget, Runner, Task
from rumpx.verifier.plan import prepare_comparison
from support.copying import at_rest
from support.data import compare, fill_mixed, keys_of
from support.gates import open_gate
from support.servers import Server

StartServer = Callable[..., Server]
KEYS = 3000
BATCH_KEYS = 40
"""In one batch; a SCAN returns more, so that replies are cut."""


def planned(source: Server, target: Server, **options: object) -> Plan:
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target"))
    plan = prepare(replace(job, **options))  # type: ignore[arg-type]
    return replace(plan, tuning=replace(plan.tuning, batch_keys=BATCH_KEYS, scan_count=90))


class Admission:
    """Lets so many batches be settled at once; calls `then` once so many were given out."""

    def __init__(
        self, at_once: int = 4, given: int = -1, then: Callable[[], object] = lambda: None
    ) -> None:
        self.at_once, self.given, self.then = at_once, given, then

    def allows(self, in_flight: int) -> bool:
        return in_flight < self.at_once

    def gave(self) -> None:
        self.given -= 1
        if self.given == 0:
            self.then()


@dataclass
class Bench:
    """Walks of one plan, one after the other, and what they report."""

    plan: Plan
    reports: list[Report] = field(default_factory=list)
    endings: list[Ending | None] = field(default_factory=list)

    def order(self, partition: Partition, walk: int = 0) -> WalkOrder:
        """What the reports so far leave of a partition."""
        run_id = self.plan.source.run_id(partition.node.address)
        start, walked = partition.span.start, False
        for each in self.advances:
            # A report of keys ahead of the cursor alone settles nothing.
            if each.partition == partition.id and (each.cursor != start or each.ack.counts.settled):
                start, walked = each.cursor, partition.span.ended(each.cursor)
        return WalkOrder(partition, walk, start, run_id, walked)

    def walk(
        self,
        order: WalkOrder,
        admission: Admission | None = None,
        made: Callable[[Handler], Handler] = lambda handler: handler,
        stop_after: int = -1,
    ) -> None:
        """Do a walk; stop it once so many batches were given out."""
        budget, pacer, shelf = Budget(self.plan.spec.bytes_in_flight), Throttle(), Shelf()
        handler = made(self.plan.spec.build(budget, pacer))
        admission = admission or Admission(given=stop_after, then=lambda: walk.stop())
        walk = LoneWalk(
            order,
            self.plan.scans[order.partition.side],
            handler,
            Runner(budget),
            open_gate(self.plan),
            admission,
            shelf,
            self.reports.append,
        )
        try:
            finish = walk.run()
            self.endings.append(finish.ending)
            self.reports += filter(None, [finish.last])
        finally:
            handler.close()
            shelf.clear()
            pacer.close()

    @property
    def advances(self) -> list[Advanced]:
        return [report for report in self.reports if isinstance(report, Advanced)]

    @property
    def counts(self) -> Counts:
        return sum((each.ack.counts for each in self.advances), Counts())


def test_partitions_are_copied_and_compared_without_any_other_process(
    server: StartServer,
) -> None:
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, KEYS)
    at_rest(source)
    copied = Bench(planned(source, target, partitions=4))
    for partition in copied.plan.partitions:
        copied.walk(copied.order(partition))
        assert copied.endings[-1] == Walked(partition.id, 0)

    assert len(copied.endings) > 1
    assert copied.counts.copied == KEYS and copied.counts.settled == KEYS
    assert compare(source, target) == []

    kinds = sum(n for each in copied.advances for n in each.ack.kinds.numbers.values())
    assert kinds > 0

    changed = sorted(keys_of(source))[:5]
    for key in changed:
        target.do("DEL", key)
        target.do("SET", key, "other")
    compared = Bench(prepare_comparison(Request(copied.plan.job))[0])
    for partition in compared.plan.partitions:
        compared.walk(compared.order(partition))
    found = {finding.key for each in compared.advances for finding in each.ack.findings}
    assert found == set(changed)


@pytest.mark.parametrize("parts", [1, 3])
def test_wherever_a_walk_stops_the_next_one_continues_exactly(
    server: StartServer, parts: int
) -> None:
    """Walks are stopped at any batch, each continues from the last cursor that was reported, and
    the reports together count each key once; also one that is stopped when all its keys are
    settled, and whose last cursor is its first."""
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS, ttl_share=0)
    at_rest(source)
    plan = planned(source, target, partitions=parts)
    if parts > 1:
        assert any(isinstance(each.span, CursorSpan) for each in plan.partitions)

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.integers(1, 40), max_size=8))
    def law(stops: list[int]) -> None:
        target.do("FLUSHALL")
        bench = Bench(plan)
        for partition in plan.partitions:
            for number, stop in enumerate([*stops, -1]):
                order = bench.order(partition, number)
                bench.walk(order, stop_after=stop)
                if bench.endings[-1]:
                    break
            assert isinstance(bench.endings[-1], Walked)
        counts = bench.counts
        assert (counts.copied + counts.repeated, counts.settled) == (KEYS, KEYS)
        assert target.do("DBSIZE") == KEYS

    law()
    assert compare(source, target) == []


def test_a_stopped_walk_reports_all_that_it_settled(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS, ttl_share=0)
    at_rest(source)
    bench = Bench(planned(source, target, partitions=1))
    (partition,) = bench.plan.partitions

    bench.walk(bench.order(partition), stop_after=10)

    assert bench.endings == [None]
    # The next walk meets the keys ahead again: those of the reply that was not found to its end.
    ahead = bench.advances[-1].ahead.copied
    assert bench.counts.copied > 0 and 0 <= ahead <= 4 * 2 * BATCH_KEYS
    assert bench.counts.copied + ahead == target.do("DBSIZE") <= 10 * 2 * BATCH_KEYS


def test_no_batch_is_settled_before_it_is_admitted(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    bench = Bench(planned(source, target, partitions=1))
    seen: list[int] = []

    class Strict(Admission):
        """Closed until it was asked often; then one batch at a time."""

        asked = 0

        def allows(self, in_flight: int) -> bool:
            self.asked += 1
            seen.append(in_flight)
            if self.asked < 10:
                assert target.do("DBSIZE") == 0
                return False
            return in_flight < 1

    (partition,) = bench.plan.partitions
    bench.walk(bench.order(partition), Strict())
    assert set(seen) == {0, 1}
    assert bench.counts.settled == KEYS and compare(source, target) == []


def test_an_admission_that_raises_ends_the_walk(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS, ttl_share=0)
    at_rest(source)
    bench = Bench(planned(source, target, partitions=1))
    (partition,) = bench.plan.partitions

    class Lease(Admission):
        over = False

        def allows(self, in_flight: int) -> bool:
            if self.over:
                raise RumpxError("It is over.")
            return super().allows(in_flight)

    lease = Lease(given=5)
    lease.then = lambda: setattr(lease, "over", True)
    with pytest.raises(RumpxError, match="It is over"):
        bench.walk(bench.order(partition), lease)
    assert bench.counts.copied <= target.do("DBSIZE") < KEYS

    bench.walk(bench.order(partition, 1))
    assert bench.counts.settled == KEYS


def test_reports_that_list_many_keys_are_sent_early(
    server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report is one message of the network, so its size is bounded: by a thousand keys, and by
    what was settled before its turn, which waits for the next report."""
    monkeypatch.setattr(lone_walk, "_REPORT_SECONDS", 3600.0)
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS, ttl_share=0)
    at_rest(source)
    for key in keys_of(source):
        target.do("SET", key, "another value")
    bench = Bench(planned(source, target, partitions=1, on_conflict="fail"))
    (partition,) = bench.plan.partitions

    bench.walk(bench.order(partition))

    listed = [len(each.ack.failures) for each in bench.advances]
    assert sum(listed) == KEYS == bench.counts.failed
    assert max(listed) < 2000 and len(listed) > 1


class Failing:
    """A handler that cannot go on after so many batches."""

    def __init__(self, handler: Handler, after: int, error: RumpxError) -> None:
        self._handler, self._left, self._error = handler, after, error
        self.take_notices, self.take_streaming = handler.take_notices, handler.take_streaming
        self.dial, self.unfinished, self.close = handler.dial, handler.unfinished, handler.close

    def settle(self, batch: Batch) -> Task[Ack | Left]:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return (yield from self._handler.settle(batch))


@pytest.mark.parametrize("after", [0, 1, 30])
def test_an_error_of_the_handler_ends_the_walk_with_what_was_settled(
    server: StartServer, after: int
) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS, ttl_share=0)
    at_rest(source)
    bench = Bench(planned(source, target, partitions=1))
    (partition,) = bench.plan.partitions
    error = TargetUnusable("The target is no more.")

    with pytest.raises(TargetUnusable, match="no more"):
        bench.walk(bench.order(partition), made=lambda handler: Failing(handler, after, error))

    assert bench.counts.copied <= target.do("DBSIZE") <= after * 2 * BATCH_KEYS
    bench.walk(bench.order(partition, 1))
    assert bench.counts.settled == KEYS and compare(source, target) == []


def test_a_restarted_source_ends_the_walk(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    bench = Bench(planned(source, target, partitions=1))
    (partition,) = bench.plan.partitions
    source.restart(keep_data=True)

    bench.walk(bench.order(partition))

    (ending,) = bench.endings
    assert isinstance(ending, NodeChanged) and ending.run_id == source.info("server")["run_id"]
    assert bench.advances == []


def test_scans_run_ahead_by_a_few_batches_only(server: StartServer) -> None:
    """Else a walk that is paused would hold the names of the whole keyspace."""
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 10 * KEYS, ttl_share=0)
    bench = Bench(planned(source, target, partitions=1))
    (partition,) = bench.plan.partitions
    before = scans_of(source)

    class Closed(Admission):
        asked = 0

        def allows(self, in_flight: int) -> bool:
            self.asked += 1
            if self.asked == 30:
                raise RumpxError("enough")
            return False

    with pytest.raises(RumpxError, match="enough"):
        bench.walk(bench.order(partition), Closed())
    # Two batches, and the reply that the next ones are cut from.
    assert scans_of(source) - before <= 4


def scans_of(source: Server) -> int:
    told = source.info("commandstats").get("cmdstat_scan", "calls=0")
    return int(told.partition("calls=")[2].partition(",")[0])
