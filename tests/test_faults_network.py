"""Networks that fail, on the source's side, on the target's, on both: nothing is lost, and what
lasts too long ends the run with the command that goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import pytest

from support.copying import Copying, assert_exact, at_rest, follow
from support.data import fill_mixed
from support.faults import full
from support.proxy import Proxy
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]

KEYS = 8_000
STEPS = range(500, 5_500, 1_000)
"""So many keys are copied when a fault strikes again."""

SHORT = ("--timeout", "1s", "--connect-timeout", "1s")
SIDES = (("source",), ("target",), ("source", "target"))


@dataclass(frozen=True)
class Fault:
    """What happens to a way, and how to tell that it was felt.

    Attributes:
        begin: makes the trouble; `number` counts how often it struck.
        end: takes it away; called when it was felt.
        counter, count: that counter of the proxy has grown by so much when the fault was felt.
    """

    name: str
    begin: Callable[[Proxy, int], None]
    end: Callable[[Proxy], None] = lambda way: None
    counter: str = "connections"
    count: int = 1


def refuse(way: Proxy, number: int) -> None:
    way.refuse = True
    way.cut()


def accept(way: Proxy) -> None:
    way.refuse = False


def trickle(way: Proxy, number: int) -> None:
    way.trickle = True


def flow(way: Proxy) -> None:
    way.trickle = False


def delay(way: Proxy, number: int) -> None:
    way.rtt_ms = 40


def hurry(way: Proxy) -> None:
    way.rtt_ms = 0


FAULTS = (
    Fault("cut", lambda way, n: way.cut()),
    Fault("reset", lambda way, n: way.reset()),
    Fault("cut within the replies", lambda way, n: way.cut_after(1_001 + 577 * n, "down")),
    Fault("cut within the commands", lambda way, n: way.cut_after(1_001 + 577 * n, "up")),
    Fault("cut within a key", lambda way, n: way.cut_within(b"k1:", n % 3, "up")),
    Fault("cut before a length", lambda way, n: way.cut_within(b"\r\n$", n % 3, "up")),
    Fault("cut within a reply's end", lambda way, n: way.cut_within(b"\r", n % 2, "down")),
    Fault("stall", lambda way, n: way.stall(), Proxy.go),
    Fault("stall of the replies", lambda way, n: way.stall("down"), Proxy.go),
    Fault("stall of the commands", lambda way, n: way.stall("up"), Proxy.go),
    Fault("refusal", refuse, accept, "refused", 3),
    Fault("trickle", trickle, flow, "bytes_down", 2_000),
    Fault("delay", delay, hurry, "bytes_down", 2_000),
)


def in_short(fault: Fault, sides: tuple[str, ...]) -> bool:
    """Whether the short form has it: one or two faults a side."""
    return (fault.name, sides) in {
        ("cut within a reply's end", ("source",)),
        ("stall of the replies", ("target",)),
        ("cut within a key", ("target",)),
        ("reset", ("source", "target")),
    }


CASES = [
    (pytest.param if in_short(fault, sides) else full)(
        fault, sides, id=f"{fault.name} on {' and '.join(sides)}"
    )
    for fault, sides in product(FAULTS, SIDES)
]


class Ways:
    """A source and a target, each behind a proxy; some of them are disturbed."""

    def __init__(self, source: Server, target: Server, start: StartProxy, sides: Sequence[str]):
        fill_mixed(source, KEYS)
        at_rest(source)
        self.source = source
        self.target = target
        self.ends = {"source": start(source, seed=3), "target": start(target, seed=4)}
        self.disturbed = [self.ends[side] for side in sides]

    def copying(self, *flags: str) -> Copying:
        return Copying(self.ends["source"], self.ends["target"], "--job", "job", *SHORT, *flags)

    def strike(self, copying: Copying, keys: int, fault: Fault, number: int) -> None:
        """When so many keys are copied, trouble on all ways that are to have it, until one of them
        has felt it."""
        with copying.held_at(self.target, keys):
            before = [getattr(way, fault.counter) for way in self.disturbed]
            for way in self.disturbed:
                fault.begin(way, number)

        def felt() -> bool:
            now = [getattr(way, fault.counter) for way in self.disturbed]
            return any(b - a >= fault.count for a, b in zip(before, now, strict=True))

        wait_until(felt, 60, f"{fault.name} was felt")
        for way in self.disturbed:
            fault.end(way)


@pytest.mark.parametrize(("fault", "sides"), CASES)
def test_a_network_that_fails_again_and_again(
    server: StartServer, proxy: StartProxy, fault: Fault, sides: tuple[str, ...]
) -> None:
    ways = Ways(server("7.0"), server("8.1"), proxy, sides)
    with ways.copying() as copying:
        for number, keys in enumerate(STEPS):
            ways.strike(copying, keys, fault, number)
        done = copying.finish()
    assert_exact(done, ways.source, ways.target, KEYS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sides", [("source", "target"), full(("source",)), full(("target",))])
@pytest.mark.parametrize("policy", ["replace", full("fail")])
def test_every_fifth_connection_fails(
    server: StartServer, proxy: StartProxy, sides: tuple[str, ...], policy: str
) -> None:
    """And those that do not are cut soon, so that there are many. With "fail" our own earlier
    writes must not be taken for others' keys."""
    ways = Ways(server("7.0"), server("8.1"), proxy, sides)
    with ways.copying("--on-conflict", policy) as copying:
        with copying.held_at(ways.target, 10):
            for way in ways.disturbed:
                way.fail_fraction = 0.2
        for keys in range(100, 5_100, 100):
            with copying.held_at(ways.target, keys):
                for way in ways.disturbed:
                    way.cut()
        done = copying.finish()
    assert all(way.refused > 0 for way in ways.disturbed)
    assert_exact(done, ways.source, ways.target, KEYS)


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    "trouble", [lambda way: refuse(way, 0), full(lambda way: way.stall())], ids=["refuse", "stall"]
)
def test_trouble_that_lasts_ends_with_the_line_that_goes_on(
    server: StartServer, proxy: StartProxy, side: str, trouble: Callable[[Proxy], None]
) -> None:
    ways = Ways(server("7.0"), server("8.1"), proxy, [side])
    (way,) = ways.disturbed
    with ways.copying("--retry-for", "1s") as copying:
        with copying.held_at(ways.target, KEYS // 3):
            trouble(way)
        ended = copying.finish(5)
    assert ended.summary["state"] == "failed" and ended.counts["failed"] == 0
    # An answer that was lost is not counted, though its keys are there.
    assert 0 < ended.counts["copied"] <= ways.target.do("DBSIZE") < KEYS
    way.go()
    way.refuse = False

    done = follow(ended, "--progress", "json", "--summary", "-")

    assert_exact(done, ways.source, ways.target, KEYS)
    assert done.summary["runs"] == 2


@pytest.mark.parametrize(("side", "code"), [("source", 6), full("target", 7)])
def test_a_side_that_is_away_when_a_job_goes_on(
    server: StartServer, proxy: StartProxy, side: str, code: int
) -> None:
    """The job is left as it was, and the line that goes on with it is told again."""
    ways = Ways(server("7.0"), server("8.1"), proxy, [side])
    (way,) = ways.disturbed
    with ways.copying() as copying:
        copying.stop_at(ways.target, KEYS // 3)
        ended = copying.finish(130)
    way.refuse = True

    again = follow(ended, code=code)

    assert again.resume_line == ended.resume_line
    way.refuse = False
    done = follow(again, "--progress", "json", "--summary", "-")
    assert_exact(done, ways.source, ways.target, KEYS)


FAULTS_OF_NODES = [
    (pytest.param if fault.name == "reset" else full)(fault, id=fault.name)
    for fault in FAULTS
    if fault.name in ("reset", "cut within a key", "stall of the replies")
]


@pytest.mark.parametrize("side", ["to", full("from")])
@pytest.mark.parametrize("fault", FAULTS_OF_NODES)
def test_the_ways_to_a_cluster_fail(
    cluster: StartCluster, server: StartServer, proxy: StartProxy, side: str, fault: Fault
) -> None:
    """Each node's in turn."""
    nodes, single = cluster("7.0"), server("7.0")
    source: Cluster | Server = nodes if side == "from" else single
    target: Cluster | Server = single if side == "from" else nodes
    fill_mixed(source, KEYS)
    at_rest(*(source.nodes if isinstance(source, Cluster) else [source]))
    ways = [proxy(node) for node in nodes.nodes]
    flags: list[str] = [*SHORT]
    for node, way in zip(nodes.nodes, ways, strict=True):
        flags += [f"--{side}-map-address", f"127.0.0.1:{node.port}=127.0.0.1:{way.port}"]
    ends = (ways[0], single) if side == "from" else (single, ways[0])
    with Copying(*ends, "--job", "job", *flags) as copying:
        for number, keys in enumerate(STEPS):
            way = ways[number % len(ways)]
            with copying.held_at(target, keys):
                before = way.connections
                fault.begin(way, number)
            wait_until(lambda w=way, b=before: w.connections > b, 60, f"{fault.name} was felt")  # type: ignore[misc]
            fault.end(way)
        done = copying.finish()
    assert_exact(done, source, target, KEYS)
