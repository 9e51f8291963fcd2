"""Limits on real servers: latency, rates, timetables, memory, and `rumpx ctl` while it runs."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.copying import Copying, copy, follow, verify
from support.data import compare, fill_mixed, keys_of
from support.proxy import Proxy
from support.run import Running, rumpx
from support.servers import Cluster, Server
from support.waiting import wait_until, zone_where_it_is

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]
KEYS = 6_000
TIME_OVER = 10
TEMPORARY = 5


@pytest.fixture
def pair(server: StartServer) -> Iterator[tuple[Server, Server]]:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    yield source, target


def ctl(job: str, *words: str, code: int = 0) -> dict[str, Any]:
    """What a running job answers."""
    done = rumpx("ctl", job, *words, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else {}


def wait_ctl(job: str, **wanted: Any) -> dict[str, Any]:
    """Until a job answers, and what it says is so."""

    def asked() -> dict[str, Any] | None:
        done = rumpx("ctl", job, "status", "--json")
        answer = json.loads(done.stdout) if done.returncode == 0 else {}
        return answer if answer and all(answer[k] == v for k, v in wanted.items()) else None

    found = wait_until(asked, 30, f"job {job}: {wanted}")
    assert found
    return found


def progress(run: Running) -> list[dict[str, Any]]:
    """The objects that `--progress json` has written so far."""
    lines = [line for line in run.stderr.splitlines() if line.startswith("{")]
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in found if event["event"] == "progress"]


# --- rates ----------------------------------------------------------------------------------


def samples(run: Running, measure: Callable[[], float]) -> list[tuple[float, float, float]]:
    """(before, value, after) about forty times a second, until the run ends."""
    seen = []
    while run.alive:
        before = time.monotonic()
        seen.append((before, measure(), time.monotonic()))
        time.sleep(0.025)
    return seen


def most_in_a_second(seen: list[tuple[float, float, float]]) -> float:
    """The most by which a value grew within what was surely no more than a second."""
    most = 0.0
    for number, (begin, value, _) in enumerate(seen):
        inside = [later for _, later, end in seen[number:] if end - begin <= 1.0]
        most = max(most, inside[-1] - value if inside else 0.0)
    return most


@pytest.mark.parametrize("workers", ["1", "3"])
def test_keys_a_second(server: StartServer, workers: str) -> None:
    """Never more than that, whoever works; and no faster than that in all."""
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, KEYS)
    rate = 2000
    flags = ("--workers", workers, "--max-keys-per-sec", str(rate), "--job", "j")
    with Copying.of("--from", source.uri, "--to", target.uri, *flags) as copying:
        seen = samples(copying.run, lambda: float(target.do("DBSIZE")))
        done = copying.finish()

    assert compare(source, target) == []
    assert done.summary["seconds"] >= 0.96 * KEYS / rate
    # 1.1 times where nobody is kept from the CPU; else who had a turn may send it late.
    assert most_in_a_second(seen) <= 1.5 * rate


def test_bytes_a_second(server: StartServer) -> None:
    """Of payloads as they are, large and small ones mixed; one that is larger than a tenth of a
    second's allowance is paid off by waiting."""
    source, target = server("7.0"), server("7.0")
    with source.raw() as raw:
        raw.many([("SET", f"small:{n}", b"x%d" % n * 20) for n in range(2000)])
        raw.many([("SET", f"medium:{n}", bytes(range(256)) * 16 + b"%d" % n) for n in range(200)])
        raw.many([("SETRANGE", f"random:{n}", 0, noise(200_000, n)) for n in range(10)])
    rate = 2**20

    done = copy(source, target, "--max-bytes-per-sec", "1MiB")

    assert compare(source, target) == []
    payload = done.counts["payload_bytes"]
    assert payload > 2 * rate
    # The last of them need not be waited for.
    assert done.summary["seconds"] >= 0.96 * (payload - 200_000) / rate - 0.1


def noise(size: int, seed: int) -> bytes:
    """Bytes that do not compress."""
    import random

    return random.Random(seed).randbytes(size)


def test_commands_a_second(server: StartServer) -> None:
    """Of the source, SCAN and all."""
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 3000)
    source.do("CONFIG", "RESETSTAT")

    done = copy(source, target, "--max-ops-per-sec", "3000")

    calls = {
        name: int(re.findall(r"calls=(\d+)", told)[0])
        for name, told in source.info("commandstats").items()
        if name.split("_")[1].split("|")[0] in ("dump", "pexpiretime", "memory", "scan", "exec")
    }
    assert sum(calls.values()) > 8000
    assert done.summary["seconds"] >= 0.9 * sum(calls.values()) / 3000


def test_a_comparison_keeps_to_rates_too(pair: tuple[Server, Server]) -> None:
    source, target = pair
    copy(source, target)

    done = verify(source, target, "--max-keys-per-sec", "3000")

    assert done.summary["seconds"] >= 0.96 * KEYS / 3000
    assert done.counts["equal"] == KEYS


# --- latency --------------------------------------------------------------------------------


def test_it_slows_down_for_the_source_and_comes_back(
    pair: tuple[Server, Server], proxy: StartProxy
) -> None:
    source, target = pair
    way = proxy(source)
    flags = ("--max-source-latency", "50ms", "--max-keys-per-sec", "300", "--job", "j")
    with Copying(way, target, *flags) as copying:
        copying.wait_keys(target, 50)
        free = wait_until(lambda: held(copying.run, ""), 20, "nothing holds it")
        way.rtt_ms = 150
        slow = wait_until(lambda: held(copying.run, "source latency"), 20, "it is held")
        way.rtt_ms = 0
        wait_until(lambda: held(copying.run, ""), 20, "nothing holds it any more")
        ctl("j", "set", "max-keys-per-sec=off")
        copying.finish()

    assert free["held"]["source_latency"] < 0.05 < slow["held"]["source_latency"]
    assert re.fullmatch(r"throttled by source latency \d+\.\d ms > 50 ms", reason(slow))
    assert compare(source, target) == []


def reason(event: dict[str, Any]) -> str:
    """What holds a run, but for rates."""
    told: list[str] = event["held"]["reason"].split("; ")
    return "; ".join(word for word in told if not word.startswith("limited to"))


def held(run: Running, what: str) -> dict[str, Any] | None:
    """The last progress, if that is what holds the run now ("" for nothing)."""
    events = progress(run)
    if not events:
        return None
    last = events[-1]
    if last["held"]["source_latency"] is None or last["state"] != "copying":
        return None
    return last if (what in reason(last) if what else reason(last) == "") else None


def test_a_source_that_is_silent_is_not_calm(
    pair: tuple[Server, Server], proxy: StartProxy
) -> None:
    source, target = pair
    way = proxy(source)
    flags = ("--max-source-latency", "50ms", "--max-keys-per-sec", "300", "--job", "j")
    with Copying(way, target, *flags) as copying:
        copying.wait_keys(target, 50)
        way.stall()
        felt = wait_until(
            lambda: any((e["held"]["source_latency"] or 0) > 0.9 for e in progress(copying.run)),
            20,
            "the silence is felt",
        )
        way.go()
        ctl("j", "set", "max-keys-per-sec=off")
        copying.finish()
    assert felt and compare(source, target) == []


def test_whoever_watches_the_servers_is_replaced(pair: tuple[Server, Server]) -> None:
    source, target = pair
    with Copying(source, target, "--max-keys-per-sec", "300", "--job", "j") as copying:
        copying.wait_keys(target, 50)
        (first,) = wait_until(lambda: observers(copying.run), 20, "there is one")
        first.kill()
        wait_until(
            lambda: [p for p in observers(copying.run) if p.pid != first.pid], 10, "another one"
        )
        ctl("j", "set", "max-keys-per-sec=off")
        copying.finish()
    assert compare(source, target) == []


def observers(run: Running) -> list[psutil.Process]:
    found = []
    for process in run.descendants():
        try:
            if process.name() == "rumpx-prober" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("jitter", [0, 4])
def test_a_source_that_is_slow_holds_a_copy(
    pair: tuple[Server, Server], proxy: StartProxy, jitter: int
) -> None:
    """Next door, also if it is slow before the first SCAN, and through a jittery network. It is as
    slow as another client feels it."""
    source, target = pair
    way = proxy(source)
    way.rtt_ms, way.jitter_ms = 2 * jitter, jitter
    flags = ("--max-source-latency", "5ms", "--max-keys-per-sec", "100", "--job", "j")
    load = [sys.executable, "-c", SLOW, str(source.port)]
    with contextlib.ExitStack() as stack:
        if not jitter:
            slow = stack.enter_context(subprocess.Popen(load))
        copying = stack.enter_context(Copying(way if jitter else source, target, *flags))
        copying.wait_keys(target, 10)
        if jitter:
            slow = stack.enter_context(subprocess.Popen(load))
        try:
            wait_until(lambda: slowest_of(source, 5) > 0.03, 20, "it is slow for other clients")
            event = wait_until(lambda: crawling(copying.run), 40, "the copy is held by that")
        finally:
            slow.kill()
        wait_until(lambda: not crawling(copying.run), 40, "it is faster again")
        ctl("j", "set", "max-keys-per-sec=off", "max-source-latency=off")
        copying.finish()
    assert re.search(r"throttled by source latency \d+\.\d ms > 5 ms", reason(event))
    assert compare(source, target) == []


def crawling(run: Running) -> dict[str, Any] | None:
    event = held(run, "> 5 ms")
    return event if event and event["held"]["share"] < 0.05 else None


def slowest_of(source: Server, number: int) -> float:
    """The longest of some PINGs, as another client sends them."""
    took = []
    for _ in range(number):
        began = time.monotonic()
        source.do("PING")
        took.append(time.monotonic() - began)
    return max(took)


# Answers of 40 ms, nearly one after the other.
SLOW = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
script = ("local e = redis.call('TIME') repeat local t = redis.call('TIME') "
    "until (t[1] - e[1]) * 1000000 + t[2] - e[2] > 40000")
while True:
    command = b"*3\\r\\n$4\\r\\nEVAL\\r\\n$%d\\r\\n%b\\r\\n$1\\r\\n0\\r\\n"
    link.sendall(command % (len(script), script.encode()))
    link.recv(100)
"""


def test_cpu_of_the_source(server: StartServer) -> None:
    """Somebody else keeps it busy."""
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    busy = [sys.executable, "-c", BUSY, str(source.port)]
    flags = ("--max-source-cpu", "20%", "--max-keys-per-sec", "300", "--job", "j")
    with subprocess.Popen(busy) as load, Copying(source, target, *flags) as copying:
        try:
            wait_until(
                lambda: any("source CPU" in reason(event) for event in progress(copying.run)),
                30,
                "it is held",
            )
        finally:
            load.kill()
        ctl("j", "set", "max-keys-per-sec=off", "max-source-cpu=off")
        copying.finish()
    assert compare(source, target) == []


BUSY = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    link.sendall(b"PING\\r\\n" * 500)
    got = 0
    while got < 7 * 500:
        got += len(link.recv(65536))
"""


def test_memory_of_the_source(pair: tuple[Server, Server]) -> None:
    source, target = pair
    used = int(source.info("memory")["used_memory"])
    source.do("CONFIG", "SET", "maxmemory", int(used / 0.5))
    flags = ("--max-source-memory", "30%", "--max-keys-per-sec", "300", "--job", "j")
    with Copying(source, target, *flags) as copying:
        wait_until(
            lambda: any("source memory" in reason(event) for event in progress(copying.run)),
            30,
            "it is held",
        )
        ctl("j", "set", "max-keys-per-sec=off", "max-source-memory=off")
        copying.finish()
    assert compare(source, target) == []


# --- the target's memory --------------------------------------------------------------------


def test_a_target_is_not_filled(server: StartServer) -> None:
    """The run ends before it is full, and before it evicts; larger, it takes the rest."""
    source, target = server("7.0"), server("7.0", maxmemory_policy="allkeys-lru")
    with source.raw() as raw:
        raw.many([("SET", f"key:{n}", noise(1000, n)) for n in range(8000)])
    before = int(target.info("memory")["used_memory"])
    needed = int(source.info("memory")["used_memory"]) - before
    target.do("CONFIG", "SET", "maxmemory", before + int(needed / 1.4))

    ended = copy(
        source, target, "--job", "j", "--max-keys-per-sec", "2000", code=TEMPORARY
    )

    assert "The data will not fit: the target" in ended.stderr
    assert ended.resume_line == "rumpx resume j"
    assert 0 < ended.counts["copied"] < 8000
    assert int(target.info("stats")["evicted_keys"]) == 0
    target.do("CONFIG", "SET", "maxmemory", 0)
    done = follow(ended, "--max-keys-per-sec", "off", "--progress", "json", "--summary", "-")
    assert compare(source, target) == [] and done.counts["copied"] == 8000


def test_what_cannot_fit_is_not_begun(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0", maxmemory="3mb")
    with source.raw() as raw:
        raw.many([("SET", f"key:{n}", noise(1000, n)) for n in range(8000)])

    done = rumpx("--from", source.uri, "--to", target.uri)

    assert done.returncode == TEMPORARY
    assert "they will not fit" in done.stderr and target.do("DBSIZE") == 0


def test_a_small_cluster_node_counts(
    server: StartServer, cluster: Callable[..., Cluster]
) -> None:
    """The others have room enough."""
    source, target = server("7.0"), cluster("7.0", primaries=3)
    with source.raw() as raw:
        raw.many([("SET", f"key:{n}", noise(1000, n)) for n in range(8000)])
    for node in target.nodes:
        node.do("CONFIG", "SET", "maxmemory", 100 * 2**20)
    small = target.nodes[1]
    used = int(small.info("memory")["used_memory"])
    small.do("CONFIG", "SET", "maxmemory", used + 1_500_000)

    ended = copy(
        source, target, "--job", "j", "--max-keys-per-sec", "2000", code=TEMPORARY
    )

    assert "The data will not fit" in ended.stderr and f":{small.port}" in ended.stderr


# --- failovers ------------------------------------------------------------------------------


def test_after_a_failover_the_new_node_is_felt(
    server: StartServer, cluster: Callable[..., Cluster]
) -> None:
    """The dead one holds the run no longer than it takes to find that out."""
    source, target = cluster("7.0", replicas=1), server("7.0")
    fill_mixed(source, KEYS)
    primary = source.primaries()[1]
    (replica,) = source.replicas(primary)
    flags = ("--max-source-latency", "500ms", "--max-keys-per-sec", "200", "--job", "j")
    with Copying(source, target, *flags) as copying:
        copying.wait_keys(target, 100)
        primary.kill()
        wait_until(lambda: replica.info("replication")["role"] == "master", 30, "the takeover")
        wait_until(lambda: held(copying.run, "source latency"), 30, "the dead one is felt")
        wait_until(lambda: felt_again(copying.run), 30, "only living nodes are felt")
        ctl("j", "set", "max-keys-per-sec=off")
        copying.finish()
    assert compare(source, target) == []


def felt_again(run: Running) -> bool:
    latency = progress(run)[-1]["held"]["source_latency"]
    return latency is not None and latency < 0.5


# --- time -----------------------------------------------------------------------------------


def test_a_timetable_holds_a_copy_and_lets_it_go(pair: tuple[Server, Server]) -> None:
    source, target = pair
    words = ("--from", source.uri, "--to", target.uri, "--job", "j", "--progress", "json")
    timetable = "00:00,off 12:00,full"
    # Early enough for a slow start on a busy machine.
    with Running(
        [*words, "--schedule", timetable], env=zone_where_it_is("11:59:30")
    ) as run:
        off = wait_until(
            lambda: [e for e in progress(run) if e["held"]["off"]], 35, "it is off"
        )
        assert target.do("DBSIZE") == 0
        done = run.wait(90)

    assert done.returncode == 0
    assert "off by the timetable until" in off[0]["held"]["reason"]
    assert compare(source, target) == []


def test_a_timetable_ends_a_copy(pair: tuple[Server, Server]) -> None:
    source, target = pair
    ended = copy(
        source,
        target,
        *("--job", "j", "--schedule", "00:00,full 12:00,off", "--exit-when-off"),
        *("--max-keys-per-sec", "100"),  # too few for all of them by noon
        code=TIME_OVER,
        timeout=90,
        env=zone_where_it_is("11:59:30"),
    )

    assert 0 < len(keys_of(target)) < KEYS
    assert ended.summary["state"] == "stopped" and ended.summary["exit_code"] == TIME_OVER
    assert "off by the timetable" in ended.stderr and ended.resume_line == "rumpx resume j"
    told = ("--progress", "json", "--summary", "-", "--max-keys-per-sec", "off")
    line = rumpx("resume", "j", *told, env=zone_where_it_is("09:00:00"))
    assert line.returncode == 0, line.stderr
    assert compare(source, target) == []


def test_the_longest_time_that_it_may_take(pair: tuple[Server, Server]) -> None:
    source, target = pair
    limits = ("--max-duration", "5s", "--max-keys-per-sec", "500")
    ended = copy(source, target, "--job", "j", *limits, code=TIME_OVER)
    assert "--max-duration" in ended.stderr
    assert 0 < len(keys_of(target)) < KEYS

    more = "--max-duration", "60s", "--max-keys-per-sec", "off"
    done = follow(ended, "--progress", "json", "--summary", "-", *more)

    assert compare(source, target) == [] and done.summary["runs"] == 2


def test_a_comparison_can_run_out_of_time(pair: tuple[Server, Server]) -> None:
    source, target = pair
    copy(source, target)

    ended = verify(
        source, target, "--max-duration", "1s", "--max-keys-per-sec", "500", code=TIME_OVER
    )

    assert ended.summary["state"] == "stopped"


# --- rumpx ctl ------------------------------------------------------------------------------


def test_paused_set_and_let_go_while_it_runs(pair: tuple[Server, Server]) -> None:
    source, target = pair
    with Copying(source, target, "--job", "j", "--max-keys-per-sec", "500") as copying:
        copying.wait_keys(target, 100)
        assert ctl("j", "pause")["paused"] is True
        answer = wait_until(lambda: paused_at_rest("j", target), 20, "nothing is in flight")
        assert answer["reason"] == "paused by rumpx ctl"
        there = target.do("DBSIZE")
        seen = len(progress(copying.run))
        wait_until(lambda: len(progress(copying.run)) > seen + 2, 20, "time goes by")
        assert target.do("DBSIZE") == there < KEYS
        set_to = ctl("j", "set", "max-keys-per-sec=off", "max-bytes-per-sec=40MiB")
        assert set_to["limits"]["max-bytes-per-sec"] == "40MiB"
        assert "max-keys-per-sec" not in set_to["limits"]
        assert ctl("j", "set", "max-keys-per-sec=lots", code=2) == {}
        ctl("j", "resume")
        copying.finish()
    assert verify(source, target).counts["equal"] == KEYS


def paused_at_rest(job: str, target: Server) -> dict[str, Any] | None:
    before = target.do("DBSIZE")
    answer = wait_ctl(job, paused=True)
    return answer if target.do("DBSIZE") == before else None


def test_a_paused_run_can_be_stopped(pair: tuple[Server, Server]) -> None:
    source, target = pair
    with Copying(source, target, "--job", "j", "--max-keys-per-sec", "500") as copying:
        copying.wait_keys(target, 100)
        ctl("j", "pause")
        copying.run.send_signal(signal.SIGINT)
        ended = copying.finish(130)
    done = follow(ended, "--progress", "json", "--summary", "-", "--max-keys-per-sec", "off")
    assert compare(source, target) == [] and done.counts["copied"] == KEYS


def test_who_goes_on_keeps_the_limits_that_were_set(
    pair: tuple[Server, Server], state_home: Path
) -> None:
    source, target = pair
    with Copying(source, target, "--job", "j", "--max-keys-per-sec", "500") as copying:
        copying.wait_keys(target, 100)
        ctl("j", "set", "max-keys-per-sec=300")
        wait_until(lambda: b"300" in ledger_record(state_home / "j.ledger"), 10, "it is kept")
        copying.run.send_signal(signal.SIGKILL)
        copying.run.process.wait(10)
    with Copying.of("resume", "j") as going_on:
        assert wait_ctl("j")["limits"]["max-keys-per-sec"] == "300"
        ctl("j", "set", "max-keys-per-sec=off")
        going_on.finish()
    assert compare(source, target) == []


def ledger_record(path: Path) -> bytes:
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as database:
        (record,) = database.execute("SELECT record FROM job").fetchone()
    return json.dumps(json.loads(record)["job"]["limits"]["max_keys_per_sec"]).encode()


# --- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--max-keys-per-sec", "0"), "--max-keys-per-sec is 0"),
        (("--max-bytes-per-sec", "fast"), "'fast' is not a size"),
        (("--max-source-latency", "5 parsecs"), "is not a time"),
        (("--max-source-cpu", "7x"), "is not a share"),
        (("--schedule", "sometimes"), "--schedule:"),
        (("--schedule", "08:00,off", "--time-zone", "Mars/Olympus"), "--time-zone:"),
        (("--exit-when-off",), "needs a --schedule"),
        (("--max-duration", "0s"), "--max-duration is 0s"),
    ],
)
def test_limits_that_cannot_be_meant(flags: tuple[str, ...], told: str) -> None:
    done = rumpx("--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:2", *flags)

    assert done.returncode == 2 and told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_lines_say_what_holds(pair: tuple[Server, Server]) -> None:
    source, target = pair
    done = rumpx(
        *("--from", source.uri, "--to", target.uri, "--progress", "line"),
        *("--max-keys-per-sec", "4000"),
    )
    assert "(limited to 4,000 keys/s)" in done.stderr
    assert [a for a, b in pairwise(done.stderr.splitlines()) if a == b] == []
