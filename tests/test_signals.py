"""Stopping a copy from outside: what is done lands, the summary is true, nothing stays behind."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import data
from support.copying import at_rest, held
from support.proxy import Proxy
from support.run import HANG_UP, Running, rumpx_pty, start_rumpx
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]

KEYS = 20_000
# With a round trip of 0.2 s, which is added once the workers start, this takes many seconds. (A
# longer way from the start would be made up for by more batches in flight.)
SLOWLY = ("--workers", "2", "--batch-keys", "5", "--partitions", "2")
SLOW_MS = 200


class Slow:
    """A source behind a slow network, a target, and the words that start a copy."""

    def __init__(self, source: Server, target: Server, proxy: Proxy, folder: Path) -> None:
        self.source = source
        self.target = target
        self.proxy = proxy
        self.report = folder / "summary.json"
        self.words = ("--from", proxy.uri, "--to", target.uri, *SLOWLY, "--summary", self.report)

    def start(self, *words: str) -> Running:
        """A copy that has copied some keys and has most of them before it."""
        run = start_rumpx(*self.words, *words)
        with held(run):
            self.proxy.rtt_ms = SLOW_MS
        wait_until(lambda: self.target.do("DBSIZE") > 100, 60, "the copy is under way")
        return run

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.report.read_text())
        return summary


@pytest.fixture
def slow(
    server: StartServer, proxy: Callable[..., Proxy], tmp_path: Path
) -> Slow:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, KEYS)
    at_rest(source)
    return Slow(source, target, proxy(source), tmp_path)


@pytest.fixture
def copying(slow: Slow) -> Iterator[Running]:
    with slow.start("--progress", "json") as run:
        yield run


def check_alone(run: Running) -> None:
    """Whoever is still there is ending by itself (the tracker that multiprocessing starts)."""
    wait_until(lambda: run.orphans() == [], 10, "nobody is left")


def check_stopped(slow: Slow, run: Running) -> None:
    """The summary says what is on the target, and nobody is left."""
    summary = slow.summary()
    assert summary["state"] == "stopped"
    assert 100 < summary["counts"]["copied"] == slow.target.do("DBSIZE") < KEYS
    assert summary["counts"]["failed"] == 0 and summary["worker_restarts"] == 0
    check_alone(run)
    assert "Traceback" not in run.stderr
    copied = data.keys_of(slow.target)
    assert data.compare(slow.source, slow.target, keys=copied) == []


@pytest.mark.smoke
@pytest.mark.parametrize("everyone", [False, True])
def test_ctrl_c_lets_what_is_in_flight_land(
    slow: Slow, copying: Running, everyone: bool
) -> None:
    """Also when the whole process group gets it, as from a terminal."""
    copying.send_signal(signal.SIGINT, group=everyone)

    assert copying.wait(20).returncode == 130
    check_stopped(slow, copying)
    assert slow.summary()["exit_code"] == 130


def test_sigterm_does_the_same(slow: Slow, copying: Running) -> None:
    copying.send_signal(signal.SIGTERM)

    assert copying.wait(20).returncode == 143
    check_stopped(slow, copying)


def test_a_terminal_that_goes_away_ends_it_like_ctrl_c(slow: Slow, tmp_path: Path) -> None:
    """It gets SIGHUP, and can write nothing there any more."""
    told = tmp_path / "told"
    slow.proxy.rtt_ms = SLOW_MS
    hook = ("--on-end", f'echo "$RUMPX_EXIT_CODE" > {told}')
    shown = rumpx_pty(*slow.words, "--top", *hook, keys=[("copying", HANG_UP)])

    assert shown.returncode == 129
    summary = slow.summary()
    assert summary["state"] == "stopped" and summary["exit_code"] == 129
    assert summary["counts"]["copied"] == slow.target.do("DBSIZE") < KEYS
    assert summary["worker_restarts"] == 0
    assert told.read_text() == "129\n"


def test_hanging_up_twice_is_no_second_ctrl_c(slow: Slow, copying: Running) -> None:
    """A shell that loses its terminal tells its jobs once more."""
    slow.proxy.stall()
    for _ in range(3):
        copying.send_signal(signal.SIGHUP, group=True)
        wait_until(lambda: '"draining"' in copying.stderr, 20, "it drains")
    slow.proxy.go()

    assert copying.wait(20).returncode == 129
    check_stopped(slow, copying)


def test_nohup_is_respected(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, KEYS)
    words = [sys.executable, "-m", "rumpx", "--from", source.uri, "--to", target.uri]
    with Running([], command=["nohup", *words]) as run:
        with held(run):
            run.send_signal(signal.SIGHUP, group=True)
        assert run.wait(60).returncode == 0
    assert data.compare(source, target) == []


def test_the_second_ctrl_c_does_not_wait(slow: Slow, copying: Running) -> None:
    slow.proxy.stall()  # what is in flight will not land
    copying.send_signal(signal.SIGINT)
    wait_until(lambda: '"draining"' in copying.stderr, 20, "it drains")
    assert copying.alive

    began = time.monotonic()
    copying.send_signal(signal.SIGINT)

    assert copying.wait(20).returncode == 130
    assert time.monotonic() - began < 10  # and not the half minute after which a server is given up
    check_alone(copying)
    summary = slow.summary()
    assert summary["state"] == "stopped"
    # Keys whose acknowledgement was under way may be there without being counted.
    assert summary["counts"]["copied"] <= slow.target.do("DBSIZE") < KEYS


def test_ctrl_c_before_the_copy_begins(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    source.pause()
    ends = ("--from", source.uri, "--to", target.uri, "--connect-timeout", "60s")
    with start_rumpx(*ends) as run:
        wait_until(lambda: connected_to(run, source), 20, "it waits for the source")

        run.send_signal(signal.SIGINT)

        assert run.wait(20).returncode == 130
        assert "Traceback" not in run.stderr
    source.resume()


def connected_to(run: Running, server: Server) -> bool:
    import psutil

    try:
        links = psutil.Process(run.pid).net_connections("tcp")
    except psutil.Error:  # it has just ended
        return False
    return any(link.raddr and link.raddr.port == server.port for link in links)


def test_a_stopped_copy_goes_on_where_keys_are_missing(slow: Slow, copying: Running) -> None:
    copying.send_signal(signal.SIGINT)
    assert copying.wait(20).returncode == 130
    before = slow.target.do("DBSIZE")

    ends = ("--from", slow.source.uri, "--to", slow.target.uri, "--on-conflict", "fail")
    with start_rumpx(*ends, "--summary", slow.report) as run:
        assert run.wait(60).returncode == 0, run.stderr

    assert slow.summary()["counts"]["repeated"] >= before
    assert data.compare(slow.source, slow.target) == []


def test_sigusr1_shows_a_line_now(slow: Slow) -> None:
    with slow.start("--progress", "none") as run:
        assert run.stderr == ""

        run.send_signal(signal.SIGUSR1)

        line = wait_until(lambda: run.stderr, 20, "a line")
        assert "copying" in line and f"of ~{KEYS:,} keys" in line
        run.send_signal(signal.SIGUSR1)
        wait_until(lambda: run.stderr.count("copying") == 2, 20, "another line")
        assert run.alive


def test_workers_end_when_the_coordinator_is_killed(slow: Slow, copying: Running) -> None:
    assert len(copying.workers()) == 2

    copying.send_signal(signal.SIGKILL)

    wait_until(lambda: copying.orphans() == [], 10, "the workers have ended")


def test_workers_that_wait_for_a_silent_server_end_too(slow: Slow, copying: Running) -> None:
    slow.proxy.stall()

    copying.send_signal(signal.SIGKILL)

    wait_until(lambda: copying.orphans() == [], 10, "the workers have ended")


@pytest.mark.parametrize("key", [b"\x03", b"\x03\x03"])
def test_ctrl_c_gives_the_terminal_back(slow: Slow, key: bytes) -> None:
    slow.proxy.rtt_ms = SLOW_MS
    shown = rumpx_pty(*slow.words, keys=[("copying", key)], cols=100, rows=30)

    assert shown.sent == [key]
    assert shown.returncode == 130, shown.text
    assert shown.modes_restored and not shown.cursor_hidden
    assert "stopped" in shown.text and "Traceback" not in shown.text


def test_a_copy_that_ends_by_itself_leaves_nobody(server: StartServer) -> None:
    source, target = server("8.1"), server("8.1")
    data.fill_mixed(source, 500)
    with start_rumpx("--from", source.uri, "--to", target.uri) as run:
        assert run.wait(30).returncode == 0
        check_alone(run)
