"""Fixtures: factories of servers, clusters, sentinels and proxies, stopped after each test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from support import rerun, servers
from support.dask import Dask, dask_logs
from support.proxy import Proxy
from support.servers import Cluster, Sentinel, Server
from support.services import Managed, Service, start_service
from support.tls import TlsFiles, make_tls_files


def pytest_configure(config: pytest.Config) -> None:
    """Let programs that tests start be stopped by what stops them, though the tests run under nohup
    or behind an &: that a signal is ignored is inherited, a handler for it is not."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    rerun.register(config)
    # A machine that many tests share keeps no deadline of an example.
    hypothesis.settings.register_profile("shared machine", deadline=None)
    hypothesis.settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has ledgers of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "rumpx"


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    """``start = server("7.0", maxmemory="10mb")`` starts a `Server`; see there."""
    with ExitStack() as stack:

        def start(version: str, **options: Any) -> Server:
            return stack.enter_context(Server(version, **options))

        yield start


@pytest.fixture
def cluster() -> Iterator[Callable[..., Cluster]]:
    """``cluster("9.1", primaries=3, replicas=1)`` makes a `Cluster`; see there."""
    with ExitStack() as stack:

        def start(version: str, primaries: int = 3, replicas: int = 0, **options: Any) -> Cluster:
            return stack.enter_context(Cluster(version, primaries, replicas, **options))

        yield start


@pytest.fixture
def managed() -> Iterator[Callable[[Service], Managed]]:
    """``managed(MEMORYSTORE)`` starts what stands in for a managed service; see `services`."""
    with ExitStack() as stack:
        yield lambda service: stack.enter_context(start_service(service))


@pytest.fixture
def sentinel() -> Iterator[Callable[..., Sentinel]]:
    """``sentinel("8.1", sentinels=3)`` makes a watched primary with a replica: `Sentinel`."""
    with ExitStack() as stack:

        def start(version: str, **options: Any) -> Sentinel:
            return stack.enter_context(Sentinel(version, **options))

        yield start


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """``proxy(server, rtt_ms=20)`` puts a `Proxy` before a server (or a port)."""
    with ExitStack() as stack:

        def start(target: Server | int, **options: Any) -> Proxy:
            return stack.enter_context(Proxy(target, **options))

        yield start


@pytest.fixture
def dask() -> Iterator[Callable[..., Dask]]:
    """``dask(tls=files, NAME="value")`` starts a scheduler without workers: `Dask`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Dask(**options))


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Certificates: a CA, good and wrong server certificates, client certificates."""
    folder: Path = tmp_path_factory.mktemp("tls")
    return make_tls_files(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """If a test fails, show the ends of the logs of the servers that are still there."""
    report = yield
    if report.failed:
        for server in servers.live():
            state = "" if server.alive else " (dead)"
            report.sections.append((f"log of {server!r}{state}", server.log_tail()))
        for name, text in dask_logs():
            report.sections.append((f"log of {name}", text))
    return report
