"""How a server's latency is felt: PINGs by the kernel's clock, idle baselines, learning pauses."""

from __future__ import annotations

import math
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.checker.round_trips import judge_limit
from rumpx.model.endpoint import Tls, parse_endpoint
from rumpx.model.job import Limits
from rumpx.servers.dial import Dialer
from rumpx.servers.resp import Connection, encode
from rumpx.servers.stopwatch import Stopwatch
from rumpx.throttle.baseline import Baseline, Best, Stragglers, highest_base, stragglers_of
from rumpx.throttle.calm import Calm
from rumpx.throttle.decision import Full
from rumpx.throttle.governor import Done, Governor
from rumpx.throttle.latency import NodeLatency, Window, held_up, kth
from rumpx.throttle.pauses import Pauses, burst_seconds
from rumpx.throttle.prober import Felt, Pinger
from support.servers import Server
from support.tls import TlsFiles
from support.waiting import wait_until

StartServer = Callable[..., Server]
INTERVAL = 0.02
THRESHOLD = 0.003
FULL = Full(scan_count=500, scans=4, batch_keys=1000, pipeline_keys=200, batches=12)
NODE: Any = ("source", None)

seconds = st.floats(1e-5, 2.0)
distances = st.floats(1e-5, 0.3)


# --- the kernel's clock ---------------------------------------------------------------------


@pytest.fixture
def link(server: StartServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server("7.0").port), 5) as sock:
        sock.settimeout(None)
        yield sock


def ask(sock: socket.socket, watch: Stopwatch) -> None:
    watch.start()
    sock.sendall(b"PING\r\n")


def connect(server: StartServer, tls_files: TlsFiles, transport: str) -> Connection:
    source = server("7.0", unixsocket=True, tls=tls_files)
    uris = {"tcp": source.uri, "tls": source.tls_uri, "unix": f"unix://{source.socket_path}"}
    endpoint = parse_endpoint(uris[transport], "source")
    endpoint = replace(endpoint, tls=Tls(insecure=True)) if transport == "tls" else endpoint
    return Dialer(endpoint, "source", 5.0, 5.0).connect()


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_process_that_wakes_late_measures_the_server(
    server: StartServer, tls_files: TlsFiles, transport: str
) -> None:
    connection = connect(server, tls_files, transport)
    watch = connection.stopwatch()

    def stamped() -> bool:
        """The kernel turns stamps on a moment after the first was asked for."""
        watch.start()
        connection.send(encode("PING"))
        wait_until(watch.arrived, 5, "an answer")
        time.sleep(0.05)  # as if this process had no CPU
        assert watch.wait(1.0) and connection.receive(1) == [b"PONG"]
        return watch.took is not None and watch.took < 0.05

    wait_until(stamped, 5, "a time without our own delay")
    assert transport == "tls" or connection._sock.getblocking()
    watch.close()
    connection.close()


def test_a_time_across_a_step_of_the_clock_is_dropped(link: socket.socket) -> None:
    watch = Stopwatch(link)
    ask(link, watch)
    watch._wall += 3600  # as if the clock had been put back since
    assert watch.wait(1.0) and watch.took is None
    watch.close()


def test_no_answer_is_no_time(link: socket.socket) -> None:
    watch = Stopwatch(link)
    watch.start()
    assert not watch.wait(0.01) and not watch.arrived()
    watch.close()


@pytest.mark.parametrize("transport", ["tcp", "unix", "tls"])
def test_every_transport_is_timed(
    server: StartServer, tls_files: TlsFiles, transport: str
) -> None:
    connection = connect(server, tls_files, transport)
    watch = connection.stopwatch()
    for _ in range(5):
        assert connection.call_timed(watch, "PING") == b"PONG"
        assert watch.took is not None and 0 < watch.took < 1
    watch.close()
    connection.close()


def test_an_answer_that_is_here_is_not_waited_for(server: StartServer) -> None:
    """However long the prober gets no CPU to read it."""
    dialer = Dialer(parse_endpoint(server("7.0").uri, "source"), "source", 5.0, 5.0)
    pinger = Pinger(dialer, None, INTERVAL, lambda: None)
    connection = dialer.connect()
    watch = pinger._watch = connection.stopwatch()
    pinger._waits_since = time.monotonic() - 1
    silent = pinger.take(time.monotonic())
    assert silent is not None and silent.waiting is not None and silent.waiting[1] >= 1

    connection.send(b"*1\r\n$4\r\nPING\r\n")
    wait_until(watch.arrived, 5, "an answer")

    assert pinger.take(time.monotonic()) is None
    watch.close()
    connection.close()


def test_a_connection_starts_with_a_burst_and_more_can_be_ordered(server: StartServer) -> None:
    ended: list[float] = []
    dialer = Dialer(parse_endpoint(server("7.0").uri, "source"), "source", 5.0, 5.0)
    pinger = Pinger(dialer, None, 60.0, lambda: ended.append(time.monotonic()))
    pinger.start()
    wait_until(lambda: ended, 10, "the first burst")
    first = pinger.take(time.monotonic())
    pinger.burst(0.05)
    wait_until(lambda: len(ended) > 1, 10, "the second burst")
    second = pinger.take(time.monotonic())
    pinger.stop()

    assert first and second
    assert len(first.samples) >= 2 and len(second.samples) >= 1
    assert first.connected == second.connected < second.samples[0][0]


# --- one window -----------------------------------------------------------------------------


def near(above: list[float], *, idle: int = 100) -> NodeLatency:
    """A node 0.1 ms away: idle PINGs, then these, one every 20 ms from 100.0 on."""
    node = NodeLatency(0.0, INTERVAL)
    for number in range(idle):
        node.add((90 + number / 1000, 0.0001), idle=True)
    for number, more in enumerate(above):
        node.add((100 + number * INTERVAL, 0.0001 + more), idle=False)
    return node


def test_the_second_highest_of_the_last_second() -> None:
    node = near([0.0005] * 20 + [0.004] + [0.0005] * 9 + [0.015])

    assert node.latency(100.7, -math.inf, THRESHOLD) == pytest.approx(0.004)
    assert node.latency(100.7, 100.41, THRESHOLD) == pytest.approx(0.0005)
    assert node.latency(100.7, 100.59, THRESHOLD) is None, "one PING proves nothing"
    assert node.latency(101.7, -math.inf, THRESHOLD) is None


def test_a_stall_is_not_one_sample_of_fifty() -> None:
    assert list(held_up((5.0, 0.1), 0.0, 0.03)) == pytest.approx([0.1, 0.07, 0.04, 0.01])
    assert list(held_up((5.0, 0.001), 0.0, 0.02)) == [0.001]
    assert len(list(held_up((5.0, 1e6), 0.0, 0.02))) < 100


def test_a_ping_sent_before_a_cut_counts_from_then_on() -> None:
    assert list(held_up((5.0, 0.1), 5.05, 0.02)) == pytest.approx([0.04, 0.02])
    assert list(held_up((5.0, 0.001), 5.05, 0.02)) == []


def test_a_ping_that_waits_is_one_however_often_it_is_told() -> None:
    window = Window()
    for waited in (0.1, 0.2, 0.3):
        window.add((5.0, waited))
    assert list(window.ended_after(5.0)) == [(5.0, 0.3)]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1e-5, 10)), min_size=1, max_size=60))
def test_the_best_of_the_last_ten_minutes(waits: list[tuple[float, float]]) -> None:
    best, now, told = Best(), 0.0, []
    for wait, took in waits:
        now += wait
        best.add(now, took)
        told.append((now, took))
    lately = min(took for at, took in told if at > now - 540)
    ever = min(took for at, took in told if at >= now - 660)

    assert ever <= best.value <= lately, "it forgets a minute at a time"


# --- baselines ------------------------------------------------------------------------------


@given(times=st.lists(seconds, min_size=1, max_size=60), best=distances)
def test_what_a_baseline_forgives_is_bounded_by_distance(times: list[float], best: float) -> None:
    """Whatever the idle PINGs were."""
    baseline = Baseline()
    for number, took in enumerate([best, *(max(best, took) for took in times)]):
        baseline.add((number * 3.0, took), idle=True)
    spacing = max(INTERVAL, baseline.base)
    found = baseline.stragglers(THRESHOLD, spacing)

    assert best <= baseline.base <= highest_base(best)
    assert found.mean <= 64 * 0.25 * min(1.0, best / THRESHOLD) ** 2 + 1e-9
    if best < 0.0003 and all(took < best + THRESHOLD for took in times):
        assert kth(50, found) <= 3, "next door one straggler proves something"


@given(st.integers(2, 400), st.floats(1e-5, 0.0003), st.floats(0.0005, 1))
def test_a_quiet_server_next_door_has_the_second_highest(
    number: int, best: float, threshold: float
) -> None:
    found = stragglers_of([best] * max(20, number), best, best, max(threshold, 0.002), INTERVAL)

    assert kth(50, found) == 2


@given(
    mean=st.floats(0, 0.25), number=st.integers(2, 60), few=st.integers(1, 50)
)
def test_more_idle_pings_make_it_no_more_lenient(mean: float, number: int, few: int) -> None:
    known = [Stragglers(mean, mean * (1 - mean), n) for n in (few, few + 50)]

    assert kth(number, known[1]) <= kth(number, known[0])
    assert kth(number, known[1]) >= 2


def test_a_source_that_is_busy_at_the_start_is_not_normal() -> None:
    """Next door, a third of its answers take ten ms: that stays latency."""
    node = NodeLatency(0.0, INTERVAL)
    for number in range(110):
        took = 0.0101 if number % 3 == 0 else 0.0001
        node.add((98.8 + number * INTERVAL, took), idle=number < 60)

    found = node.latency(101.0, -math.inf, THRESHOLD)
    assert found is not None and found > THRESHOLD
    assert node.beyond_doubt(101.0, -math.inf, THRESHOLD)


def test_a_while_of_lower_times_replaces_a_baseline() -> None:
    node = NodeLatency(0.0, INTERVAL)
    node.add((0.0, 0.02), idle=True)
    for number in range(20):
        node.add((1 + number / 10, 0.035), idle=True)
    assert node.baseline.base == 0.035
    for number in range(1400):
        node.add((4 + number / 50, 0.021), idle=False)

    assert node.baseline.base == 0.021


def far(rng: random.Random, stragglers: float) -> float:
    """A round trip of 20 ms, jitter of 15 ms each way, some packets 80 ms late."""
    late = sum(0.08 for _ in range(2) if rng.random() < stragglers)
    return 0.02 + rng.uniform(0, 0.015) + rng.uniform(0, 0.015) + late


def distant(
    rng: random.Random, stragglers: float, load: float, *, idle: int = 8
) -> tuple[int, int]:
    """Ten times a second for ten seconds: how often the latency was known, and above the
    threshold. A run starts after some idle PINGs, and adds a load to each one's time."""
    node, now = NodeLatency(0.0, INTERVAL), 0.0
    for _ in range(idle):
        took = far(rng, stragglers)
        node.add((now, took), idle=True)
        now += took
    began, due, known, above = now, now + 0.1, 0, 0
    while now < began + 10:
        took = far(rng, stragglers) + load
        node.add((now, took), idle=False)
        now += max(INTERVAL, took)
        while due < now:
            found = node.latency(due, began, THRESHOLD)
            known += found is not None
            above += found is not None and found > THRESHOLD
            due += 0.1
    return known, above


@pytest.mark.parametrize("stragglers", [0.0, 0.005, 0.02, 0.05])
def test_jitter_is_not_load(stragglers: float) -> None:
    rng = random.Random(1)
    found = [distant(rng, stragglers, 0.0) for _ in range(50)]

    assert sum(above for _, above in found) < 0.2 * sum(known for known, _ in found)


@pytest.mark.parametrize("stragglers", [0.0, 0.005, 0.02])
def test_load_is_felt_through_jitter(stragglers: float) -> None:
    rng = random.Random(2)
    found = [distant(rng, stragglers, 0.03) for _ in range(50)]

    assert sum(above for _, above in found) > 0.7 * sum(known for known, _ in found)


def test_a_stall_is_felt_through_jitter() -> None:
    rng = random.Random(3)
    node, now = NodeLatency(0.0, INTERVAL), 0.0
    for number in range(60):
        took = far(rng, 0.02)
        node.add((now, took), idle=number < 20)
        now += took
    node.add((now, 1.0), idle=False)

    found = node.latency(now + 1, -math.inf, THRESHOLD)
    assert found is not None and found > 0.3


# --- what a check says ----------------------------------------------------------------------


def test_a_check_knows_what_the_network_does_by_itself() -> None:
    rng = random.Random(4)
    jittery = [far(rng, 0.02) for _ in range(200)]
    told = judge_limit("source", jittery, 0.005)
    quiet = judge_limit("source", [0.0001] * 100, 0.005)
    busy = judge_limit("target", [0.0001, 0.0001, 0.0101] * 30, 0.005)

    assert quiet is None
    assert told is not None and told.status == "info"
    assert "of 200 idle PINGs to the source took 2.5 ms (half of the limit) longer" in told.text
    assert busy is not None and busy.status == "warn" and "throttle the copy" in busy.text
    assert busy.advice == "--max-target-latency 20ms is above that"
    for line in (told, busy):
        suggested = float(line.advice.split()[1].removesuffix("ms")) / 1000
        times = jittery if line is told else [0.0001, 0.0001, 0.0101] * 30
        assert judge_limit("source", times, suggested) is None


# --- pauses ---------------------------------------------------------------------------------


def test_calm_is_when_nothing_is_in_flight() -> None:
    calm = Calm()
    assert calm.now and calm.covers(-5, 5) and math.isinf(calm.began)
    calm.enter(1.0)
    calm.enter(2.0)
    calm.leave(3.0)
    assert not calm.now and calm.covers(0.0, 1.0) and not calm.covers(0.5, 1.1)
    calm.leave(4.0)
    assert calm.now and calm.covers(4.0, 9.0) and not calm.covers(3.9, 9.0)
    assert calm.began == 1.0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), max_size=60))
def test_pauses_cost_little(steps: list[tuple[float, float]]) -> None:
    """After the first one two percent, and once in a minute at most in the end."""
    pauses, now, spent, ends = Pauses(), 0.0, [], []
    for length, wait in steps:
        now += wait
        if pauses.may_start(now):
            pauses.start(now, "source latency", (NODE,))
            assert not pauses.may_start(now)
            now += length
            pauses.end(now)
            spent.append(length)
            ends.append(now)
    assert sum(spent[:-1]) <= 0.02 * now + 1e-6
    for number in range(7, len(ends)):
        assert ends[number] - ends[number - 1] >= 60


@given(seconds)
def test_a_burst_is_short(round_trip: float) -> None:
    assert 0.05 <= burst_seconds(round_trip) <= 0.4


def observed(governor: Governor, begin: float, times: list[float]) -> float:
    """Have PINGs observed one after the other; return the last one's end."""
    for took in times:
        governor.observe(Felt(NODE, ((begin, took),), 0.0, INTERVAL))
        begin += max(INTERVAL, took)
    return begin


def doubtful() -> tuple[Governor, float]:
    """A far node whose idle PINGs were too few and too low: PINGs that take 30 ms more often than
    they showed."""
    governor = Governor(FULL, Limits())
    now = observed(governor, 10.0, [0.02, 0.021, 0.02])
    governor.calm.enter(now)
    assert governor.decide(now, 0.0, Done()).batches_in_flight > 0
    now = observed(governor, now, [0.030, 0.021] * 10)
    return governor, now


@pytest.mark.parametrize("round_trip", [0.03, 0.05, 0.1, 0.2, 0.4, 0.9])
def test_a_ping_that_waits_does_not_teach_that_the_network_is_short(round_trip: float) -> None:
    """Over a distance each report finds one in flight; an idle node has no latency for that."""
    governor = Governor(FULL, Limits())
    now = 10.0
    while now < 30.0:
        if now > 15.0:
            governor.calm.enter(15.0)
        waits = now, 0.6 * round_trip
        governor.observe(Felt(NODE, (), 0.0, INTERVAL, waits))
        governor.observe(Felt(NODE, ((now, round_trip),), 0.0, INTERVAL))
        now += max(INTERVAL, round_trip)
        governor.decide(now, 0.0, Done())

    assert governor.latency("source", now) == pytest.approx(0.0, abs=1e-9)
    assert governor.share == 1.0 and not governor.learning


def test_a_first_ping_that_waits_is_no_error() -> None:
    governor = Governor(FULL, Limits())
    governor.observe(Felt(NODE, (), 0.0, INTERVAL, (1.0, 0.5)))

    assert governor.decide(1.6, 0.0, Done()).batches_in_flight > 0


def test_a_doubtful_latency_is_learnt_before_it_cuts() -> None:
    governor, now = doubtful()
    share = governor.share
    paused = governor.decide(now, 0.0, Done())

    assert paused.batches_in_flight == paused.scans_in_flight == 0 and not paused.off
    assert paused.reason == "pausing to learn the idle source latency"
    assert governor.learning and governor.bursts() == [], "something is still in flight"
    governor.calm.leave(now + 0.05)
    (burst,) = governor.bursts()
    assert burst.node == NODE and burst.seconds == pytest.approx(8 * 0.021)
    assert governor.bursts() == []
    assert governor.decide(now + 0.06, 0.0, Done()).batches_in_flight == 0
    now = observed(governor, now + 0.06, [0.030, 0.021] * 5)
    going_on = governor.decide(now, 0.0, Done())
    assert going_on.batches_in_flight > 0 and governor.share == share
    assert not governor.learning
    governor.calm.enter(now)
    now = observed(governor, now, [0.030, 0.021] * 10)
    assert governor.decide(now, 0.0, Done()).batches_in_flight > 0
    assert governor.share >= share, "it is no load"


def test_a_pause_that_proves_load_is_followed_by_the_cut() -> None:
    governor, now = doubtful()
    share = governor.share
    governor.decide(now, 0.0, Done())
    governor.calm.leave(now)
    now = observed(governor, now, [0.021, 0.02] * 6)
    governor.decide(now, 0.0, Done())
    governor.calm.enter(now)
    now = observed(governor, now, [0.030, 0.031] * 20)
    governor.decide(now, 0.0, Done())

    assert governor.share < share and not governor.learning


def test_a_latency_beyond_doubt_cuts_at_once() -> None:
    governor, now = doubtful()
    share = governor.share
    now = observed(governor, now, [0.2] * 10)
    decision = governor.decide(now, 0.0, Done())

    assert governor.share < share and not governor.learning
    assert decision.batches_in_flight > 0


def test_a_pause_that_is_not_answered_is_given_up() -> None:
    governor, now = doubtful()
    governor.decide(now, 0.0, Done())
    assert governor.decide(now + 0.9, 0.0, Done()).batches_in_flight == 0
    assert governor.decide(now + 1.1, 0.0, Done()).batches_in_flight > 0


def test_a_baseline_that_forgives_is_learnt_again() -> None:
    """Also if nothing holds the run: the network may have become quieter."""
    governor = Governor(FULL, Limits())
    now = observed(governor, 10.0, [0.02, 0.035, 0.03] * 5)
    governor.calm.enter(now)
    governor.decide(now, 0.0, Done())
    later = observed(governor, now + 61, [0.021] * 20)
    governor.decide(later, 0.0, Done())

    assert governor.learning
    governor.calm.leave(later)
    later = observed(governor, later, [0.021] * 10)
    assert governor.decide(later, 0.0, Done()).batches_in_flight > 0
    assert governor._felt[NODE].baseline.base == 0.021


def test_another_connection_is_another_server() -> None:
    governor, now = doubtful()
    governor.observe(Felt(NODE, tuple((now + n / 5, 0.2) for n in range(5)), now, INTERVAL))

    assert governor.latency("source", now + 1) == 0.0
    assert not governor.knows_idle([NODE])
    assert governor.knows_idle([("target", None)]), "its latency has no limit"
