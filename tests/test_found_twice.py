"""Every key is handed on, and counted, once, however often SCAN shows it."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rumpx.engine.plan import cut_spans
from rumpx.engine.recent_keys import NAMES, FoundLately
from rumpx.engine.scanner import ScanSettings, walk
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job, Scope
from rumpx.model.nodes import Node
from rumpx.model.partitions import Partition, reverse
from rumpx.preflight.steps import prepare
from rumpx.throttle.rates import Throttle
from rumpx.throttle.scan_gate import Gate
from support.copying import Copying, at_rest, copy, resume
from support.data import fill_mixed
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

CURSORS = 1 << 64


# The arithmetic, on a table that is resized between any two replies


class Table:
    """A server's table as dictScan shows it, which has another size at each SCAN.

    Args:
        names: of keys, by their hashes.
        bits: that its size may have.
    """

    name = "table"

    def __init__(self, names: dict[int, bytes], bits: list[int], rng: random.Random) -> None:
        self.names = names
        self.bits = bits
        self.rng = rng

    def call(self, *command: Any) -> Any:
        return self.call_many([command])[0]

    def call_many(self, commands: list[Any]) -> Any:
        """In one pipeline, between whose commands nothing happens."""
        masks = sorted((1 << bits) - 1 for bits in self.rng.choices(self.bits, k=2))
        moved = self.rng.randrange(masks[0] + 2)  # buckets of the small one that are in the large
        return [self._answer(masks, moved, *command) for command in commands]

    def _answer(self, masks: list[int], moved: int, name: str, *arguments: Any) -> Any:
        if name == "DBSIZE":
            return 2**40
        cursor, _, number = arguments
        keys: list[bytes] = []
        for _ in range(10 * number):
            shown, cursor = self._step(cursor, masks, moved)
            keys += shown
            if not cursor or len(keys) >= number:
                break
        return [b"%d" % cursor, keys]

    def _step(self, cursor: int, masks: list[int], moved: int) -> tuple[list[bytes], int]:
        small, large = masks
        shown = {h for h in self.names if h & small == cursor & small and h & small >= moved}
        while True:
            shown |= {h for h in self.names if h & large == cursor & large and h & small < moved}
            cursor = reverse((reverse((cursor | ~large) & (CURSORS - 1)) + 1) % CURSORS)
            if not cursor & (small ^ large):
                return [self.names[h] for h in shown], cursor


def handed_on(table: Table, parts: int) -> Counter[bytes]:
    """How often each key is, by walks of all parts, in any order, with any COUNT."""
    rng = table.rng
    with closing(Throttle()) as throttle:
        gate = Gate(throttle, 1, 100)
        settings = ScanSettings(cast(Any, None), Scope(), 0.0, False)
        walks = [
            walk(
                cast(Any, table), Partition(n, Node(None), 0, span), span.start, settings, gate
            )
            for n, span in enumerate(cut_spans(Node(None), "table", parts))
        ]
        found: Counter[bytes] = Counter()
        while walks:
            gate.set(rng.choice([1, 2, 5, 20]), 100, 1, 0.0)
            one = rng.choice(walks)
            keys, _ = next(one, (None, 0))
            if keys is None:
                walks.remove(one)
            else:
                found.update(keys)
        return found


hashes = st.sets(st.integers(0, CURSORS - 1), min_size=1, max_size=80)
tables = st.lists(st.integers(0, 8), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(hashes, tables, st.integers(0, 4), st.randoms(use_true_random=False))
def test_a_table_that_is_resized_shows_each_key_once(
    hashes: set[int], bits: list[int], parts: int, rng: random.Random
) -> None:
    names = {h: b"%d" % n for n, h in enumerate(sorted(hashes))}

    found = handed_on(Table(names, bits, rng), 1 << parts)

    assert set(found) == set(names.values()), "no key is missed, however small the table gets"
    if min(bits) >= parts + 3:
        assert set(found.values()) == {1}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(4, 9), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_a_table_that_shrinks_shows_each_key_once(bits: list[int], rng: random.Random) -> None:
    names = {rng.randrange(CURSORS): b"%d" % n for n in range(100)}

    found = handed_on(Table(names, bits, rng), 1)

    assert len(found) == len(names) and set(found.values()) == {1}


def test_names_are_kept_in_bounds() -> None:
    lately = FoundLately("table")
    for number in range(100):
        lately.add(reverse((number + 1) << 40), [b"%d:%d" % (number, n) for n in range(500)])
    assert lately._names <= NAMES
    lately.add(reverse(200 << 40), [b"x" * 2**21])
    assert lately._names == 1


# Real servers




@pytest.mark.parametrize("version", ["6.2", "9.1"])
def test_count_may_change_between_replies(server: StartServer, version: str) -> None:
    """As the governor has it: what lies behind a part's end is no more and no less for that."""
    source = server(version)
    fill_mixed(source, 3000)
    at_rest(source)
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(server("7.0").uri, "target"))
    plan = prepare(job)
    found: Counter[bytes] = Counter()
    with closing(Throttle()) as throttle, closing(plan.source.dialer.connect()) as connection:
        gate = Gate(throttle, 10, 100)
        for number, span in enumerate(cut_spans(Node(None), "table", 8)):
            partition = Partition(number, Node(None), 0, span)
            replies = walk(connection, partition, span.start, plan.scans["source"], gate)
            for turn, (keys, _) in enumerate(replies):
                found.update(keys)
                gate.set((600, 50, 7)[turn % 3], 100, 1, 0.0)
    assert len(found) == 3000 and set(found.values()) == {1}


STABLE, CHURN = 6_000, 25_000


@contextmanager
def churning(source: Server) -> Iterator[Callable[[], None]]:
    """Other keys come and go, so that the table grows and shrinks; gives what waits for that."""
    ending = threading.Event()
    cycles: list[None] = []

    def work() -> None:
        with source.raw() as raw:
            while not ending.is_set():
                for word in (["SET", "x"], ["DEL"]):
                    for start in range(0, CHURN, 500):
                        names = range(start, start + 500)
                        raw.many([(word[0], f"churn:{n}", *word[1:]) for n in names])
                cycles.append(None)

    def wait_cycle() -> None:
        before = len(cycles)
        wait_until(lambda: len(cycles) > before + 1, 60, "the table has grown and shrunk")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield wait_cycle
    finally:
        ending.set()
        thread.join()


@pytest.mark.parametrize("version", ["6.2", "9.1"])
def test_copied_is_exact_while_the_table_grows_and_shrinks(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version)
    fill_mixed(source, STABLE, prefix=b"stable")
    flags = ("--match", "stable:*", "--batch-keys", "50", "--partitions", "8")
    with Copying(source, target, *flags) as copying, churning(source) as wait_cycle:
        for keys in (500, 2500):
            with copying.held_at(target, keys):
                wait_cycle()
        done = copying.finish()
    assert done.counts["copied"] == target.do("DBSIZE") == STABLE
    assert done.counts["repeated"] == 0


def test_copied_is_exact_when_a_worker_is_killed_and_over_a_resume(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, STABLE)
    at_rest(source)
    with Copying(source, target, "--job", "j", "--partitions", "8") as copying:
        with copying.held_at(target, 1000):
            for worker in copying.run.workers():
                worker.kill()
        with copying.held_at(target, 3000):
            copying.run.send_signal(signal.SIGKILL)
        copying.run.wait()
    counts = resume(job="j").counts
    assert counts["copied"] == target.do("DBSIZE") == STABLE
    assert counts["repeated"] == counts["skipped"] == 0


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_copied_is_exact_of_a_small_cluster_in_many_parts(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    """Where one reply reaches over several parts."""
    source, target = cluster(version, primaries=2), server("9.1")
    fill_mixed(source, 1500)
    counts = copy(source, target, "--partitions", "32").counts
    assert counts["copied"] == target.do("DBSIZE") == 1500
    assert counts["repeated"] == 0


def test_copied_is_exact_of_a_small_table_in_many_parts(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, 1000)
    for flags in (("--partitions", "64"), ("--type", "string", "--partitions", "16")):
        target.do("FLUSHALL")
        counts = copy(source, target, *flags).counts
        assert counts["copied"] == target.do("DBSIZE")
        assert counts["repeated"] == 0
