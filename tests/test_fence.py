"""Nothing that an earlier run, or a worker that is dead, had on its way lands on newer values.

A proxy holds one pipeline with a RESTORE back; its sender dies, or loses the connection, the key
gets another value and is copied again; then the proxy lets go.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import rumpx
from rumpx.copier import late_writes
from rumpx.engine import fence
from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.partitions import LATE
from rumpx.model.results import Summary
from rumpx.servers.clients import end_clients
from rumpx.servers.dial import Dialer
from support.copying import Copying, Side, held, resume
from support.data import compare
from support.proxy import Proxy
from support.run import is_worker
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]

KEY = b"the key that is held back"
# Of its RESTORE, which has no expiry; not of the one that tries the right to it, with one of -1.
WRITTEN = KEY + b"\r\n$1\r\n0\r\n"
REFUSED = "does not let rumpx end its own connections"


def fill(source: Server, keys: int = 200) -> None:
    source.client().mset({f"key:{number}": "old" for number in range(keys)})
    source.do("SET", KEY, "old")


def held_back(copying: Copying, way: Proxy) -> None:
    def holding() -> bool:
        assert copying.run.alive, copying.run.stderr[-4000:]
        return way.holding

    wait_until(holding, 20, "the proxy holds the RESTORE back")


def let_go(way: Proxy) -> None:
    """Until what was held back has been written, or cannot be any more."""
    way.release()
    wait_until(lambda: not way.held_clients(), 20, "the held connection has ended")


def assert_new(source: Server | Cluster, target: Server | Cluster) -> None:
    assert target.client().get(KEY) == b"new"
    assert compare(source, target) == []


@contextmanager
def killed_while_held(
    source: Side, target: Side, way: Proxy, *flags: str | Path, group: bool = True
) -> Iterator[Copying]:
    """A job named `job`, whose run was killed while the proxy held its RESTORE back."""
    way.hold(WRITTEN)
    with Copying(source, target, "--job", "job", "--batch-keys", "20", *flags) as copying:
        held_back(copying, way)
        copying.run.send_signal(signal.SIGKILL, group=group)
        copying.run.process.wait(20)
        yield copying


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_what_a_killed_run_had_sent_does_not_land_after_the_run_that_resumed(
    server: StartServer, proxy: StartProxy, version: str
) -> None:
    source, target = server("6.2"), server(version)
    fill(source)
    way = proxy(target)
    with killed_while_held(source, way, way):
        source.do("SET", KEY, "new")
        done = resume()
        assert REFUSED not in done.stderr
        assert_new(source, target)
        let_go(way)
    assert_new(source, target)


def test_nor_at_the_nodes_of_a_cluster(
    cluster: StartCluster, server: StartServer, proxy: StartProxy
) -> None:
    source, target = server("7.0"), cluster("7.0", replicas=1)
    fill(source)
    ways = {node.port: proxy(node) for node in target.primaries()}
    maps: list[str] = []
    for port, way in ways.items():
        maps += ["--to-map-address", f"127.0.0.1:{port}=127.0.0.1:{way.port}"]
    primary = target.owner(KEY)
    with killed_while_held(source, target, ways[primary.port], *maps):
        source.do("SET", KEY, "new")
        # The old primary is a replica while the run resumes, and a primary again later.
        (replica,) = target.replicas(primary)
        target.failover(replica)
        resume()
        assert target.client().get(KEY) == b"new"
        target.failover(primary)
        let_go(ways[primary.port])
    assert_new(source, target)


def test_a_job_of_the_same_name_elsewhere_is_left_alone(
    server: StartServer, proxy: StartProxy, tmp_path: Path
) -> None:
    source, target = server("7.0"), server("7.0")
    fill(source)
    way = proxy(target)
    folder = ("--state-dir", tmp_path)
    with killed_while_held(source, way, way):
        # Those of the other workers end when the proxy notices.
        wait_until(lambda: len(writers(target)) == 1, 20, "only the held connection is left")
        (left,) = writers(target)
        with Copying(source, way, "--job", "job", "--on-conflict", "replace", *folder) as other:
            with other.held_at(target, 0):
                other.run.send_signal(signal.SIGKILL, group=True)
            other.run.process.wait(20)
        resume(*folder)
        wait_until(lambda: writers(target) == [left], 20, "the held connection is left alone")
        resume()
        wait_until(lambda: writers(target) == [], 20, "the held connection has been ended")


def writers(target: Server) -> list[bytes]:
    """The names of the connections that may write."""
    return re.findall(rb" name=(rumpx:\S+)", target.do("CLIENT", "LIST"))


@pytest.mark.parametrize("version", ["7.0", "8.1"])
def test_what_a_killed_worker_had_sent_does_not_land_after_it_was_repeated(
    server: StartServer, proxy: StartProxy, version: str
) -> None:
    source, target = server("7.0"), server(version)
    fill(source, 3000)
    way = proxy(target)
    way.hold(WRITTEN)
    with Copying(source, way, "--workers", "2", "--batch-keys", "20") as copying:
        with held(copying.run, lambda: way.holding):
            source.do("SET", KEY, "new")
            (holder,) = [worker for worker in copying.run.workers() if holds(worker, way)]
            holder.kill()
        let_go_before_the_end(copying, way, target)
        done = copying.finish()
    assert done.summary["worker_restarts"] == 1 and REFUSED not in done.stderr
    assert_new(source, target)


def let_go_before_the_end(copying: Copying, way: Proxy, target: Server) -> None:
    """As soon as the key has been repeated; what is still to be copied must not be needed."""
    with held(copying.run, lambda: target.do("GET", KEY) == b"new"):
        let_go(way)
        assert target.do("GET", KEY) == b"new"


def holds(worker: psutil.Process, way: Proxy) -> bool:
    """Whether a worker has the connection that is held back."""
    ports = {writer.get_extra_info("peername")[1] for writer in way.held_clients()}
    return any(c.laddr and c.laddr.port in ports for c in worker.net_connections())


def test_what_was_sent_on_a_lost_connection_does_not_land_after_it_was_repeated(
    server: StartServer, proxy: StartProxy
) -> None:
    source, target = server("7.0"), server("9.1")
    fill(source, 3000)
    way = proxy(target)
    way.hold(WRITTEN)
    with Copying(source, way, "--batch-keys", "20") as copying:
        with held(copying.run, lambda: way.holding):
            source.do("SET", KEY, "new")
            way.cut_held()
        let_go_before_the_end(copying, way, target)
        done = copying.finish()
    assert REFUSED not in done.stderr
    assert_new(source, target)


def test_done_means_that_no_connection_is_left(
    server: StartServer, proxy: StartProxy
) -> None:
    """The key that was being written is gone by the time that its connection is lost: nobody
    repeats it, but somebody may set it after the switch."""
    source, target = server("7.0"), server("7.0")
    fill(source)
    way = proxy(target)
    way.hold(WRITTEN)
    with Copying(source, way, "--workers", "1", "--batch-keys", "400") as copying:
        held_back(copying, way)
        source.do("FLUSHALL")
        way.cut_held()
        copying.finish()
        target.do("SET", KEY, "new")
        let_go(way)
    assert target.do("GET", KEY) == b"new"
    assert writers(target) == []


# --- where the target does not let us ------------------------------------------------------


def refuse(target: Server, rule: str) -> None:
    target.do("ACL", "SETUSER", "default", rule)


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("+client", "nothing"),
        ("-client|kill", "some"),
        ("-client|list", "unknown"),
        ("-client|id", "unknown"),
        ("-client|setname", "unknown"),
    ],
)
@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_what_is_left_is_told(server: StartServer, version: str, rule: str, left: str) -> None:
    target = server(version)
    refuse(target, rule)
    endpoint = parse_endpoint(target.uri, "target")
    dialer = Dialer(endpoint, "target", 5, 5, writer="rumpx:job:run")
    other = replace(dialer, writer="rumpx:job:other").connect()
    asking = dialer.connect()
    assert end_clients(asking, lambda name: name == "rumpx:job:other") == left
    if left == "nothing":
        with pytest.raises(ConnectionLost):
            other.call("PING")
    else:
        assert other.call("PING") == b"PONG"
    other.close()
    asking.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process's runs late writes are waited for a little less long."""
    for module in (fence, late_writes):
        monkeypatch.setattr(module, "LATE_SECONDS", 3.0)


@contextmanager
def in_thread(run: Callable[..., Summary], *words: Any, **how: Any) -> Iterator[Future[Summary]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run, *words, **how)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("rule", ["-client|kill", "-client"])
def test_what_a_killed_run_had_under_way_is_copied_again_at_the_end(
    server: StartServer, proxy: StartProxy, rule: str
) -> None:
    source, target = server("7.0"), server("7.0")
    fill(source)
    refuse(target, rule)
    # Then each write has REPLACE; one without it would not land over the newer value.
    target.do("CONFIG", "SET", "lazyfree-lazy-server-del", "yes")
    way = proxy(target)
    with killed_while_held(source, way, way):
        source.do("SET", KEY, "new")
        with in_thread(rumpx.resume, "job") as resuming:
            land_late(way, target)
            done = resuming.result(60)
    assert_told_once(done)
    assert_new(source, target)


def land_late(way: Proxy, target: Server) -> None:
    wait_until(lambda: target.do("GET", KEY) == b"new", 30, "the newer value is copied")
    way.release()
    wait_until(lambda: target.do("GET", KEY) == b"old", 20, "the late write lands")


def assert_told_once(done: Summary) -> None:
    warnings = "\n".join(done.warnings)
    assert warnings.count(REFUSED) == 1, warnings
    assert "+client|kill" in warnings and "copied again at the end" in warnings
    assert set(done.walked_again) == {LATE} and done.exit_code == 0


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("how", ["worker", "connection"])
def test_so_is_what_a_worker_had(server: StartServer, proxy: StartProxy, how: str) -> None:
    source, target = server("7.0"), server("9.1")
    fill(source)
    refuse(target, "-client")
    way = proxy(target)
    way.hold(WRITTEN)
    with in_thread(rumpx.copy, source.uri, way.uri, workers=1, batch_keys=20) as copying:
        wait_until(lambda: way.holding, 20, "the proxy holds the RESTORE back")
        source.do("SET", KEY, "new")
        if how == "worker":
            (worker,) = filter(is_worker, psutil.Process().children(recursive=True))
            worker.kill()
        else:
            way.cut_held()
        land_late(way, target)
        done = copying.result(60)
    assert_told_once(done)
    assert_new(source, target)


def test_a_run_that_was_stopped_in_order_leaves_no_doubt(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill(source)
    refuse(target, "-client")
    with Copying(source, target, "--job", "job") as copying:
        copying.stop_at(target, 50)
        copying.finish(130)
    done = resume()
    assert REFUSED not in done.stderr and done.summary["walked_again"] == {}
    assert compare(source, target) == []


# --- workers that outlive their coordinator --------------------------------------------------


def test_a_worker_that_stood_still_while_its_run_was_killed_writes_nothing_later(
    server: StartServer, proxy: StartProxy
) -> None:
    """It moves again when the run that resumed is done, and finds its connections ended, and no
    coordinator for new ones."""
    source, target = server("7.0"), server("7.0")
    fill(source)
    copying = Copying(source, target, "--job", "job", "--batch-keys", "20")
    with copying:
        with copying.held_at(target, 40):
            run = copying.run
            (worker,) = run.workers()
            run.send_signal(signal.SIGKILL)
            run.process.wait(20)
            source.client().mset({f"key:{n}": "new" for n in range(200)})
            source.do("SET", KEY, "new")
            resume()
            assert_new(source, target)
        worker.resume()
        wait_until(lambda: not alive(worker), 20, "the worker has ended")
    assert_new(source, target)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_repairs_that_were_killed_do_not_land_after_the_next_ones(
    server: StartServer, proxy: StartProxy, state_home: Path
) -> None:
    source, target = server("7.0"), server("7.0")
    fill(source)
    way = proxy(target)
    words = ("verify", "--from", source.uri, "--to", way.uri, "--repair")
    way.hold(WRITTEN)
    with Copying.of(*words) as repairing:
        held_back(repairing, way)
        repairing.run.send_signal(signal.SIGKILL, group=True)
        repairing.run.process.wait(20)
        source.do("SET", KEY, "new")
        with Copying.of(*words) as again:
            again.finish()
        assert_new(source, target)
        let_go(way)
    assert_new(source, target)
    assert list(state_home.glob("*.lock")) == []


def test_repairs_end_what_the_copy_left(server: StartServer, proxy: StartProxy) -> None:
    source, target = server("7.0"), server("7.0")
    fill(source)
    way = proxy(target)
    with killed_while_held(source, way, way):
        source.do("SET", KEY, "new")
        with Copying.of("verify", "job", "--repair") as repairing:
            repairing.finish()
        assert_new(source, target)
        let_go(way)
    assert_new(source, target)

