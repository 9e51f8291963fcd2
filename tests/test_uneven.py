"""The budget of bytes holds, whatever was said of values' sizes: values that are larger than their
estimates come few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.engine.plan import Plan
from rumpx.engine.scanner import walk
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.model.partitions import Work
from rumpx.preflight.steps import prepare
from rumpx.servers.connections import select
from rumpx.throttle.rates import Throttle
from rumpx.transfer.chunks import ChunkLimits, cut
from rumpx.transfer.expected_sizes import Expected
from rumpx.transfer.handler import Spec
from rumpx.transfer.messages import Ack, Batch
from rumpx.transfer.runner import Budget, Permit, Runner
from rumpx.verifier.compare_spec import CompareSpec
from rumpx.verifier.verdicts import Rules
from support import data
from support.gates import open_gate
from support.raw import Raw
from support.servers import Server

StartServer = Callable[..., Server]

LARGE = 200_000
BUDGET = 2**19
IN_FLIGHT = 4


class WatchedBudget(Budget):
    """Remembers what was in flight, by the sizes that permits turned out to have."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.events: list[tuple[bool, Permit]] = []
        self.real: dict[Permit, int] = {}

    def _give(self, permit: Permit) -> bool:
        given = super()._give(permit)
        if given:
            self.events.append((True, permit))
        return given

    def release(self, permit: Permit) -> None:
        self.real[permit] = permit.size
        self.events.append((False, permit))
        super().release(permit)

    @property
    def peak(self) -> int:
        """The most bytes that were on their way, or here, at one time."""
        now = most = 0
        for got, permit in self.events:
            now += self.real[permit] if got else -self.real[permit]
            most = max(most, now)
        return most


def work_of(plan: Plan, work: Work) -> Iterator[Batch]:
    (partition,) = plan.partitions
    with closing(plan.source.dialer.connect()) as connection:
        select(connection, 0, "source")
        walked = walk(connection, partition, 0, plan.scans["source"], open_gate(plan))
        found = [key for keys, _ in walked for key in keys]
    # In the order of their names: what SCAN mixes is easier.
    for number, start in enumerate(range(0, len(found), 300)):
        keys = sorted(found)[start : start + 300]
        yield Batch(number, partition.id, 0, None, 0, keys, work)


def peak_of(spec: Spec, batches: list[Batch]) -> int:
    """Do batches as a worker does them, several in flight; the most bytes that were in flight."""
    budget = WatchedBudget(spec.bytes_in_flight)
    runner = Runner(budget)
    acks: list[Ack] = []
    waiting = iter(batches)
    with closing(Throttle()) as throttle, closing(spec.build(budget, throttle)) as handler:
        started = 0
        while len(acks) < len(batches):
            while started < len(acks) + IN_FLIGHT and (batch := next(waiting, None)):
                runner.start(handler.settle(batch))
                started += 1
            result = runner.step()
            if isinstance(result, Ack):
                acks.append(result)
    assert budget.used == 0
    assert not any(ack.failures for ack in acks)
    return budget.peak


@dataclass(frozen=True)
class Values:
    """Keys of a source; `large` says how many values of LARGE bytes may be too much at once."""

    name: str
    fill: Callable[[Raw], object]
    large: float = 1.0


def hashes(raw: Raw, numbers: range, blob: int) -> None:
    for n in numbers:
        few = [word for f in range(150) for word in (f"f{f}", "x" * 20)]
        raw.do("HSET", f"h:{n:05}", *few, *(("blob", "x" * blob) if blob else ()))


def alternating(raw: Raw) -> None:
    for n in range(60):
        hashes(raw, range(n, n + 1), LARGE if n % 2 else 70)


def a_few_among_many(raw: Raw) -> None:
    """From the 900th on, each 60th is large; all have the same estimate."""
    for n in range(1500):
        size = LARGE if n > 900 and not n % 60 else 70
        raw.do("HSET", f"h:{n:05}", "a", "x", "b", "y" * size)


def sorted_sets(raw: Raw) -> None:
    for n in range(40):
        members = [word for m in range(130) for word in (m, f"m{m}")]
        raw.do("ZADD", f"z:{n}", *members, 999, "x" * LARGE)


def unlike_kinds(raw: Raw) -> None:
    raw.many([("SET", f"a:{n:05}", "v" * (n % 300)) for n in range(2000)])
    hashes(raw, range(40), LARGE)


VALUES = [
    Values("uneven hashes", lambda raw: hashes(raw, range(60), LARGE)),
    Values("alternating", alternating, 3.0),
    Values("sorted sets", sorted_sets),
    Values("behind others", unlike_kinds),
    Values("a few among many", a_few_among_many, 4.0),
    Values("true sizes", lambda raw: raw.many([("SET", f"s:{n}", "x" * LARGE) for n in range(40)])),
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: values.name)
def test_bytes_in_flight(server: StartServer, values: Values) -> None:
    source, target = server("7.0", rdbcompression="no"), server("7.0")
    with source.raw() as raw:
        values.fill(raw)
    plan = planned(source, target)

    peak = peak_of(plan.spec, list(work_of(plan, "copy")))

    assert peak < BUDGET + values.large * LARGE * 1.1, f"{peak:,}"
    assert data.compare(source, target) == []


@pytest.mark.parametrize("sizes", ["length", "none"])
def test_bytes_in_flight_where_sizes_are_not_told(
    server: StartServer, sizes: Literal["length", "none"]
) -> None:
    source, target = server("7.0", rdbcompression="no"), server("7.0")
    with source.raw() as raw:
        hashes(raw, range(60), LARGE)
    plan = planned(source, target)
    spec = replace(plan.spec, abilities=replace(plan.spec.abilities, sizes=sizes))

    peak = peak_of(spec, list(work_of(plan, "copy")))

    assert peak < BUDGET + LARGE * 1.1, f"{peak:,}"


@pytest.mark.parametrize("on_source", [LARGE, 0], ids=["both large", "large on the target"])
def test_bytes_in_flight_of_a_comparison(server: StartServer, on_source: int) -> None:
    source, target = (server("7.0", rdbcompression="no") for _ in range(2))
    for side, blob in ((source, on_source), (target, LARGE)):
        with side.raw() as raw:
            hashes(raw, range(60), blob)
    plan = planned(source, target)
    rules = Rules(0, 0, 0, "kept", (None, None))
    spec = CompareSpec(plan.spec, plan.spec.abilities, rules, digests=False)

    peak = peak_of(spec, list(work_of(plan, "compare")))

    assert peak < BUDGET + 2 * LARGE * 1.1, f"{peak:,}"


def planned(source: Server, target: Server) -> Plan:
    job = Job(parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target"))
    return prepare(replace(job, max_bytes_in_flight=BUDGET, on_conflict="replace", partitions=1))


# How chunks are cut


sizes_of_keys = st.integers(0, 3000)
limits_of_chunks = st.builds(
    ChunkLimits,
    pipeline_keys=st.integers(1, 50),
    chunk_bytes=st.integers(1, 5000),
    big=st.integers(1024, 2500),
)


def all_chunks(sizes: list[int], limits: ChunkLimits, expected: Expected) -> list[list[int]]:
    """A batch as it is cut, while each payload turns out to be ten times what was said; as the
    sizes in each chunk."""
    keys = [b"%d" % n for n in range(len(sizes))]
    cut_keys: list[bytes] = []
    chunks = []
    while len(cut_keys) < len(keys):
        chunk = cut(keys, sizes, len(cut_keys), limits, expected)
        cut_keys += chunk.keys
        chunks.append(list(chunk.estimates))
        expected.learn(chunk.estimates, [10 * size for size in chunk.estimates])
    assert cut_keys == keys
    return chunks


@given(sizes=st.lists(sizes_of_keys, max_size=300), limits=limits_of_chunks)
def test_what_came_decides_how_much_is_asked_for_next(
    sizes: list[int], limits: ChunkLimits
) -> None:
    chunks = all_chunks(sizes, limits, Expected())

    seen: set[int] = set()
    for chunk in chunks:
        known = all(size.bit_length() in seen for size in chunk)
        assert len(chunk) == 1 or not known or 10 * sum(chunk) <= limits.chunk_bytes * 1.001
        seen |= {size.bit_length() for size in chunk}


@given(size=st.integers(1, 2**40), limit=st.integers(1, 1000))
def test_an_ordinary_copy_is_at_full_speed_after_a_few_chunks(size: int, limit: int) -> None:
    """And one of nothing but true estimates has no more to learn."""
    expected = Expected()
    asked = []
    while not asked or asked[-1] < limit:
        asked.append(expected.leading([size] * limit).keys)
        assert len(asked) < 7, asked
        expected.learn([size] * asked[-1], [size // 2] * asked[-1])
    assert asked[0] == 1 and asked == sorted(asked)


@given(
    chunks=st.lists(
        st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 2**30)), min_size=1, max_size=40),
        max_size=10,
    )
)
def test_together_is_never_less_than_one_by_one(chunks: list[list[tuple[int, int]]]) -> None:
    """What is told at little cost errs to the safe side only."""
    expected = Expected()
    for chunk in chunks:
        sizes, payloads = zip(*chunk, strict=True)
        expected.learn(sizes * 200, payloads * 200)
        together, largest = expected.together(sizes)
        assert together >= expected.leading(sizes).most * (1 - 1e-9) - len(sizes)
        assert largest >= max(map(expected.of, sizes)) * (1 - 1e-9) - 1
