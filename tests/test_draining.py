"""After one signal a run ends in bounded time, whatever the servers do, and can be resumed."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import rumpx
from rumpx.copier.run import copying, run
from rumpx.display.display import open_display
from rumpx.engine import engine
from rumpx.errors import Interrupted
from rumpx.ledger.catalog import Place
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job
from rumpx.model.verify_request import Request
from rumpx.processes.control import Control
from rumpx.verifier.run import verify
from support.faults import full
from support.hostile import Answer, Hostile, Words, array, bulk
from support.run import start_rumpx
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
DRAIN = 1.0
SLACK = 5.0


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process's runs."""
    monkeypatch.setattr(engine, "DRAIN_SECONDS", DRAIN)


class Silent(Hostile):
    """A source that leaves a command unanswered while a run is under way.

    Attributes:
        control: of that run, if it is one of this process.
        begun: whether it is under way.
        waiting: clients that wait for an answer, or have waited.
    """

    def __init__(self, command: str, cluster: bool = False) -> None:
        super().__init__(keys=100)
        self.control = Control()
        self.begun: Callable[[], bool] = lambda: self.control.running
        self.waiting = 0
        self._speaks = threading.Event()
        self.answers |= {"CLUSTER": self._nodes} if cluster else {}
        usual = self.answers.get(command, lambda words: None)

        def answer(words: Words) -> Answer:
            if self.begun() and not self._speaks.is_set():
                self.waiting += 1
                self._speaks.wait(120)
            return usual(words)

        self.answers[command] = answer

    def _nodes(self, words: Words) -> Answer:
        host = b"127.0.0.1"
        if words[1].upper() == b"NODES":
            line = b"%b %b:%d@1 myself,master - 0 0 1 connected 0-16383\n"
            return bulk(line % (b"a" * 40, host, self.port))
        place = array(bulk(host), b":%d\r\n" % self.port, bulk(b"a" * 40))
        return array(array(b":0\r\n", b":16383\r\n", place))

    def speak(self) -> None:
        self._speaks.set()

    def close(self) -> None:
        self.control.close()
        super().close()


def job_of(source: Hostile, target: Server) -> Job:
    ends = parse_endpoint(source.uri, "source"), parse_endpoint(target.uri, "target")
    return Job(*ends, workers=1, timeout=60.0, retry_for=600.0)


def copy(source: Silent, target: Server) -> object:
    display = open_display("none", sys.stderr)
    return run(job_of(source, target), display, source.control, Place(None, "job"), copying())


def compare(source: Silent, target: Server) -> object:
    request = Request(job_of(source, target))
    return verify(request, open_display("none", sys.stderr), source.control)


def stopped(
    source: Silent, target: Server, work: Callable[[Silent, Server], object]
) -> tuple[Interrupted, float]:
    """How a run ends, and after which time, that is told once to stop while the source is
    silent."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work, source, target)
        try:
            wait_until(lambda: source.waiting or running.done(), 20, "the source is asked")
            began = time.monotonic()
            source.control.stop(signal.SIGTERM)
            error = running.exception(DRAIN + 20)
        finally:
            source.control.stop()
            source.speak()
    assert isinstance(error, Interrupted) and error.exit_code == 128 + signal.SIGTERM
    assert error.summary and error.summary.state == "stopped"
    return error, time.monotonic() - began


@pytest.mark.usefixtures("hurried")
def test_a_copy_ends_and_is_resumed(server: StartServer) -> None:
    target = server("7.0")
    with Silent("DUMP") as source:
        error, seconds = stopped(source, target, copy)
        assert DRAIN <= seconds < DRAIN + SLACK
        assert error.summary and "did not land within 1 s" in error.summary.warnings[-1]
        assert target.do("DBSIZE") == 0
        done = rumpx.resume("job")
    assert done.exit_code == 0 and done.counts.copied == 100
    assert target.do("DBSIZE") == 100


@pytest.mark.usefixtures("hurried")
def test_a_comparison_ends(server: StartServer) -> None:
    with Silent("DUMP") as source:
        error, seconds = stopped(source, server("7.0"), compare)
    assert DRAIN <= seconds < DRAIN + SLACK
    assert error.summary and "did not land within 1 s" in error.summary.warnings[-1]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("work", [copy, compare])
def test_a_cluster_that_tells_its_slots_no_more_holds_up_no_end(
    server: StartServer, work: Callable[[Silent, Server], object]
) -> None:
    """Which are watched all the time."""
    with Silent("CLUSTER", cluster=True) as source:
        later = b"-TRYAGAIN later\r\n"
        source.answers["DUMP"] = lambda words: later if source.control.running else None
        _, seconds = stopped(source, server("7.0"), work)
    assert seconds < DRAIN + SLACK


@pytest.mark.parametrize("verb", [full("copy"), full("verify")])
def test_one_signal_is_enough(server: StartServer, verb: str) -> None:
    """With the half minute that users have."""
    with Silent("DUMP") as source:
        source.begun = lambda: source.called["DUMP"] > 10  # a few are tried before it begins
        words = [] if verb == "copy" else [verb]
        ends = ("--from", source.uri, "--to", server("7.0").uri, "--timeout", "10m")
        with start_rumpx(*words, *ends, "--retry-for", "1h", "--progress", "none") as running:
            wait_until(lambda: source.waiting, 20, "the source is asked")
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(60).returncode == 128 + signal.SIGTERM
            assert 29 < time.monotonic() - began < 45
            assert "did not land within 30 s" in running.stderr
