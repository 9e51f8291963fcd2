"""A run's socket and `rumpx ctl`: who may ask, what is answered, and that nobody is held up.

A small loop stands for the engine: it waits to be woken, and serves. The job's ledger is an empty
file and its lock is real: a client looks no further.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rumpx.cli.main import main
from rumpx.ctl.client import ask
from rumpx.ctl.server import (
    CtlServer,
    Pause,
    Request,
    Resume,
    Set,
    Status,
    address_of,
    decode,
    encode,
    read_words,
)
from rumpx.display.status import status_lines
from rumpx.errors import RumpxError, TemporaryError, UsageError
from rumpx.ledger.catalog import prune
from rumpx.ledger.paths import ctl_path, lock_path, remove
from rumpx.processes.control import Control
from support.run import rumpx
from support.waiting import wait_until

USAGE, TEMPORARY = 2, 5
NOBODY = 65534
ANSWER = {
    "job": "nightly",
    "state": "copying",
    "fraction": 0.4136,
    "copied": 412_345,
    "keys_per_second": 5000.2,
    "bytes_per_second": 1_310_000.0,
    "eta": 125.0,
    "reason": "the limit of keys a second",
    "paused": False,
    "limits": {"max-keys-per-sec": 5000, "max-target-latency": "5ms", "max-source-cpu": None},
    "source_latency_ms": 0.83,
    "target_latency_ms": 1.2,
    "workers": 12,
    "machines": {"a.example.com": 8, "b.example.com": 4},
}


class Engine:
    """A run of a job: it holds the ledger, and a thread of it serves what is asked.

    Attributes:
        ledger: the job's.
        done: what was asked and handled.
        handle: what answers.
        warning: what `start` returned.
    """

    def __init__(self, folder: Path, name: str = "nightly", **seconds: float) -> None:
        self.ledger = folder / f"{name}.ledger"
        self.done: list[Request] = []
        self.handle: Callable[[Request], Any] = lambda request: ANSWER
        self._lock = hold(self.ledger)
        self._control = Control()
        self.server = CtlServer(
            ctl_path(self.ledger), self._handled, self._control.wake, **seconds
        )
        self.warning = self.server.start()
        self._thread = threading.Thread(target=self._run)

    def _handled(self, request: Request) -> dict[str, Any]:
        assert threading.current_thread() is self._thread
        self.done.append(request)
        answer: dict[str, Any] = self.handle(request)
        return answer

    def _run(self) -> None:
        while not self._control.stops:
            select.select([self._control.wakened], [], [])
            self._control.drain_wakes()
            self.server.serve()

    def turn(self) -> None:
        """Begin to serve; before that it is busy."""
        self._thread.start()

    def stop(self) -> None:
        """The run is over."""
        self._control.stop()
        if self._thread.ident:
            self._thread.join()
        self.server.close()
        self._control.close()
        os.close(self._lock)


def hold(ledger: Path) -> int:
    """A ledger that a process holds: the descriptor of its lock."""
    ledger.touch()
    lock = os.open(lock_path(ledger), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


@contextmanager
def running(folder: Path, name: str = "nightly", **seconds: float) -> Iterator[Engine]:
    """An engine that serves."""
    engine = Engine(folder, name, **seconds)
    try:
        engine.turn()
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def folder(state_home: Path) -> Path:
    """Where ledgers are."""
    state_home.mkdir(mode=0o700, parents=True)
    return state_home


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    with running(folder) as engine:
        yield engine


@contextmanager
def connected(engine: Engine) -> Iterator[socket.socket]:
    """A client of another kind."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(20)
        with address_of(ctl_path(engine.ledger)) as address:
            client.connect(address)
        yield client


def said(client: socket.socket) -> dict[str, Any]:
    """The answer's line."""
    text = b""
    while not text.endswith(b"\n"):
        part = client.recv(4096)
        assert part, text
        text += part
    answer: dict[str, Any] = json.loads(text)
    return answer


def told(engine: Engine, request: bytes) -> dict[str, Any]:
    """The answer to any bytes."""
    with connected(engine) as client:
        client.sendall(request)
        return said(client)


# What can be asked


@pytest.mark.parametrize(
    ("words", "name", "request_"),
    [
        ("status", None, Status()),
        ("nightly pause", "nightly", Pause()),
        ("resume", None, Resume()),
        ("status resume", "status", Resume()),  # a job may have any name
        ("set set max-source-cpu=50", "set", Set((("max-source-cpu", "50"),))),
        (
            "nightly set max-keys-per-sec=5000 max-source-latency=off",
            "nightly",
            Set((("max-keys-per-sec", "5000"), ("max-source-latency", "off"))),
        ),
    ],
)
def test_words_and_lines_are_requests(words: str, name: str | None, request_: Request) -> None:
    assert read_words(words.split()) == (name, request_)
    assert decode(encode(request_)) == request_


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "needs a job and an action"),
        ("nightly", "needs a job and an action: set, cutover, pause, resume, status"),
        ("nightly stop", "needs a job and an action"),
        ("set", "set needs a limit"),
        ("nightly set", "set needs a limit"),
        ("set max-keys-per-sec", "'max-keys-per-sec': write NAME=VALUE"),
        ("set max-keys-per-sec=", "max-keys-per-sec needs a value"),
        ("set workers=8", "'workers' cannot be set during a copy; these can: max-source"),
        ("set max-source-cpu=5 max-source-cpu=6", "max-source-cpu is set twice"),
        ("nightly pause now", "pause takes no argument; leave out 'now'"),
    ],
)
def test_words_that_cannot_be_meant(words: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_words(words.split())
    assert complaint in str(caught.value)
    run = rumpx("ctl", *words.split())
    assert run.returncode == USAGE and complaint in run.stderr


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"GET / HTTP/1.1", b"\xff\xfe\0", b"[" * 4000, b"[]", b"17", b"{}", b'{"do": 1}'),
        *(b'{"do": "stop"}', b'{"do": "pause", "for": "1h"}', b'{"do": "set"}'),
        *(b'{"do": "set", "max-keys-per-sec": 5}', b'{"do": "set", "timeout": "5"}'),
    ],
)
def test_garbage_is_refused_and_does_no_harm(engine: Engine, line: bytes) -> None:
    answer = told(engine, line + b"\n")

    assert answer["ok"] is False and answer["exit_code"] == USAGE
    assert answer["error"].endswith(".") and "\n" not in answer["error"]
    assert ask(engine.ledger, Status()) == ANSWER
    assert engine.done == [Status()]


def test_a_request_that_is_too_long_is_refused(engine: Engine) -> None:
    with connected(engine) as client:
        with suppress(BrokenPipeError):  # nobody reads all that
            client.sendall(b"x" * 2_000_000)
        answer = said(client)

    assert answer["error"] == "The line is longer than 4096 bytes."
    assert ask(engine.ledger, Status()) == ANSWER


def test_the_engines_thread_handles_requests_in_order(engine: Engine) -> None:
    asked: list[Request] = [Pause(), Set((("max-source-cpu", "50"),)), Resume(), Status()]
    for request in asked:
        ask(engine.ledger, request)

    assert engine.done == asked


def test_what_the_handler_refuses_is_a_usage_error(engine: Engine) -> None:
    def refuse(request: Request) -> None:
        raise UsageError("max-source-cpu is '5x'; give a percentage.")

    engine.handle = refuse
    with pytest.raises(UsageError, match=r"^max-source-cpu is '5x'; give a percentage\.$"):
        ask(engine.ledger, Set((("max-source-cpu", "5x"),)))


@pytest.mark.parametrize("fault", ["raises", "is no JSON"])
def test_the_engine_outlives_a_handler_that_fails(engine: Engine, fault: str) -> None:
    engine.handle = lambda request: {"x": 1 / 0} if fault == "raises" else {"x": object()}
    with pytest.raises(RumpxError, match="Unexpected error") as caught:
        ask(engine.ledger, Status())
    assert caught.value.exit_code == 1

    engine.handle = lambda request: ANSWER
    assert ask(engine.ledger, Status()) == ANSWER


# Clients in each other's way


def test_silent_clients_hold_up_nobody(engine: Engine) -> None:
    with connected(engine), connected(engine) as half, connected(engine):
        half.sendall(b'{"do": "sta')
        for _ in range(3):
            assert ask(engine.ledger, Status()) == ANSWER
        half.sendall(b'tus"}\n')
        assert said(half)["ok"] is True


def test_a_silent_client_is_told_so_in_the_end(folder: Path) -> None:
    with running(folder, request_seconds=0.2) as engine, connected(engine) as client:
        assert said(client)["error"] == "The request did not arrive in time."
        assert client.recv(1) == b""


def test_a_client_that_goes_away_is_nobodys_concern(engine: Engine) -> None:
    for words in (b"", b'{"do"', b'{"do": "pause"}\n'):
        with connected(engine) as client:
            client.sendall(words)
    wait_until(lambda: engine.done == [Pause()], 10, "the whole request was done")
    assert ask(engine.ledger, Status()) == ANSWER


def test_many_clients_at_once(engine: Engine) -> None:
    answers: list[dict[str, Any]] = []

    def client() -> None:
        for _ in range(5):
            answers.append(ask(engine.ledger, Status()))

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()

    assert answers == [ANSWER] * 40 and engine.done == [Status()] * 40


def test_too_many_clients_are_refused(folder: Path) -> None:
    with running(folder, request_seconds=60) as engine:
        with ExitStack() as silent:
            for _ in range(16):
                silent.enter_context(connected(engine))
            with pytest.raises(TemporaryError, match="Too many clients at once"):
                ask(engine.ledger, Status())
        wait_until(lambda: answers(engine), 10, "clients are served again")


@contextmanager
def another_user() -> Iterator[None]:
    """The process is somebody else's, who is not root."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def answers(engine: Engine) -> bool:
    try:
        return ask(engine.ledger, Status()) == ANSWER
    except TemporaryError:
        return False


def test_a_busy_engine_is_not_waited_for_and_does_nothing_later(folder: Path) -> None:
    engine = Engine(folder, answer_seconds=0.2)
    try:
        with pytest.raises(TemporaryError, match=r"busy for 0.2 s and did not execute the request"):
            ask(engine.ledger, Pause())
        engine.turn()
        wait_until(lambda: answers(engine), 20, "it answers again")
        assert Pause() not in engine.done
    finally:
        engine.stop()


def test_what_is_being_done_when_the_time_is_over_is_answered(folder: Path) -> None:
    with running(folder, answer_seconds=1) as engine:
        begun, go_on = threading.Event(), threading.Event()

        def slowly(request: Request) -> dict[str, Any]:
            begun.set()
            assert go_on.wait(20)
            return {"paused": True}

        engine.handle = slowly
        with connected(engine) as client:
            client.sendall(encode(Pause()))
            assert begun.wait(20)
            ready, _, _ = select.select([client], [], [], 1.5)  # longer than its time
            go_on.set()
            assert not ready and said(client) == {"ok": True, "paused": True}


def test_a_client_gives_up_by_itself(folder: Path) -> None:
    engine = Engine(folder)
    try:
        with pytest.raises(TemporaryError, match=r"nightly did not answer within 0.1 s"):
            ask(engine.ledger, Status(), 0.1)
    finally:
        engine.stop()


def test_whoever_waits_at_the_end_is_told(folder: Path) -> None:
    engine = Engine(folder)
    with connected(engine) as client:
        client.sendall(encode(Pause()))
        wait_until(lambda: not engine.server._asked.empty(), 10, "the request waits")
        engine.stop()
        answer = said(client)

    assert answer == {"ok": False, "error": "The run has just ended.", "exit_code": TEMPORARY}
    assert engine.done == []


# The socket


@pytest.mark.smoke
def test_the_socket_is_its_owners_and_goes_with_the_run(folder: Path) -> None:
    before = os.umask(0)
    try:
        with running(folder) as engine:
            path = ctl_path(engine.ledger)
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
            assert path.parent == folder and stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert ask(engine.ledger, Status()) == ANSWER
    finally:
        os.umask(before)
    assert not path.exists()
    engine.server.close()  # once more does no harm


def test_nobody_can_connect_before_the_socket_is_closed_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    chmod = Path.chmod

    def connect_first(path: Path, mode: int) -> None:
        with closing(socket.socket(socket.AF_UNIX)) as client:
            with pytest.raises(ConnectionRefusedError):
                client.connect(str(path))
            tried.append(path.name)
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", connect_first)
    with running(folder) as engine:
        assert ask(engine.ledger, Status()) == ANSWER
    assert tried == ["nightly.ctl"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_cannot_connect() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # not even where the folder is open to all
        with running(Path(name)) as engine:
            with another_user():
                assert ctl_path(engine.ledger).is_socket()
                with pytest.raises(UsageError, match="nightly belongs to another user"):
                    ask(engine.ledger, Status())
            assert ask(engine.ledger, Status()) == ANSWER and engine.done == [Status()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name, running(Path(name)), another_user():
        code, _, err = command(capsys, "--state-dir", name, "nightly", "status")
        assert code == USAGE and f"The folder {name} belongs to another user." in err
        code, _, err = command(capsys, "--state-dir", name, "status")
        assert code == TEMPORARY and "No job in" in err


@pytest.mark.parametrize("left", ["a socket", "a file"])
def test_what_a_killed_run_left_is_replaced(folder: Path, left: str) -> None:
    path = folder / "nightly.ctl"
    if left == "a socket":
        with closing(socket.socket(socket.AF_UNIX)) as stale:
            stale.bind(str(path))
    else:
        path.write_text("x")

    with running(folder) as engine:
        assert engine.warning == ""
        assert ask(engine.ledger, Status()) == ANSWER


def test_a_path_that_is_too_long_for_an_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    with running(deep, "j" * 64) as engine:
        assert engine.warning == ""
        assert ctl_path(engine.ledger).is_socket()
        assert stat.S_IMODE(ctl_path(engine.ledger).stat().st_mode) == 0o600
        assert ask(engine.ledger, Status()) == ANSWER
        run = rumpx("ctl", "--state-dir", deep, "status", "--json")
        assert json.loads(run.stdout) == {"version": 1, **ANSWER}
    assert not ctl_path(engine.ledger).exists()


def test_a_socket_that_cannot_be_made_is_only_a_warning(folder: Path) -> None:
    (folder / "nightly.ctl").mkdir()

    engine = Engine(folder)
    engine.server.serve()
    engine.stop()

    assert engine.warning.startswith("rumpx ctl cannot reach this run: cannot create its socket ")
    assert "nightly.ctl (" in engine.warning
    assert engine.warning.endswith("The run continues without it.")


def test_no_socket_is_left_if_no_thread_can_be_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        engine = Engine(folder)
    engine.stop()

    assert "(can't start new thread)" in engine.warning
    assert not ctl_path(engine.ledger).exists()


def test_removing_a_job_removes_its_socket(folder: Path) -> None:
    ledger = folder / "nightly.ledger"
    for file in (ledger, ctl_path(ledger)):
        file.touch()

    remove(ledger)

    assert list(folder.iterdir()) == []
    assert prune(folder) == []


# The command


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    capsys.readouterr()
    code = main(["ctl", *words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.smoke
def test_status_for_people_and_for_programs(engine: Engine) -> None:
    people, programs = rumpx("ctl", "nightly", "status"), rumpx("ctl", "status", "--json")

    assert people.returncode == programs.returncode == 0
    assert people.stderr == programs.stderr == ""
    assert people.stdout.splitlines() == [
        "nightly  copying 41.3 %  ETA 2:05",
        "  copied   412,345 keys, 5,000 keys/s, 1.3 MB/s",
        "  limits   max-keys-per-sec 5000, max-target-latency 5ms",
        "  latency  source 0.8 ms, target 1.2 ms",
        "  workers  12 on 2 machines: a.example.com 8, b.example.com 4",
        "  now      the limit of keys a second",
    ]
    assert json.loads(programs.stdout) == {"version": 1, **ANSWER}


def test_set_pause_and_resume(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.handle = lambda request: {}
    words = ("nightly", "set", "max-keys-per-sec=5000", "max-source-cpu=off")

    assert command(capsys, *words) == (0, "Done.\n", "")
    assert command(capsys, "pause") == (0, "Done.\n", "")
    engine.handle = lambda request: {"state": "copying", "paused": isinstance(request, Pause)}
    assert command(capsys, "nightly", "pause") == (0, "copying (paused)\n", "")
    assert command(capsys, "nightly", "resume") == (0, "copying\n", "")

    changes = (("max-keys-per-sec", "5000"), ("max-source-cpu", "off"))
    assert engine.done == [Set(changes), Pause(), Pause(), Resume()]


def test_options_between_the_words(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(engine.ledger.parent)

    code, out, _ = command(capsys, "nightly", "--state-dir", folder, "set", "max-source-cpu=5")

    assert code == 0 and out.startswith("nightly  copying")


def test_a_refusal_is_a_usage_error(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(request: Request) -> None:
        raise UsageError("max-source-cpu is '5x'; give a percentage.")

    engine.handle = refuse
    code, out, err = command(capsys, "set", "max-source-cpu=5x")
    assert (code, out, err) == (USAGE, "", "rumpx: max-source-cpu is '5x'; give a percentage.\n")


def test_a_job_that_does_not_run_or_does_not_exist(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "old.ledger").touch()
    (folder / "old.ctl").touch()  # it was killed

    code, _, err = command(capsys, "old", "status")
    assert code == TEMPORARY
    assert err == "rumpx: The job old is not running; rumpx jobs lists all.\n"
    code, _, err = command(capsys, "status")
    assert code == TEMPORARY and f"No job in {folder} is running" in err
    code, _, err = command(capsys, "nightly", "status")
    assert code == USAGE and "There is no job nightly" in err
    code, _, err = command(capsys, "../nightly", "status")
    assert code == USAGE and "is not a job's name" in err


def test_a_job_that_runs_without_a_socket(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with os.fdopen(hold(folder / "nightly.ledger")):
        code, _, err = command(capsys, "nightly", "status")
        assert code == TEMPORARY and "nightly is running but cannot be reached" in err

        with closing(socket.socket(socket.AF_UNIX)) as stale:
            stale.bind(str(folder / "nightly.ctl"))
        code, _, err = command(capsys, "status")
        assert code == TEMPORARY and "nightly is running but cannot be reached" in err


def test_without_a_name_only_one_job_may_run(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(engine.ledger.parent, "second") as second:
        code, _, err = command(capsys, "pause")
        assert code == USAGE and "Several jobs are running: nightly, second. Name one" in err
        assert command(capsys, "second", "pause")[0] == 0
    assert second.done == [Pause()] and engine.done == []


@pytest.mark.parametrize("line", ["", "no json", "[]", '{"ok": 1}', '{"error": "x"}'])
def test_an_answer_that_is_none(folder: Path, line: str) -> None:
    """Somebody else listens there."""
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(folder / "nightly.ctl"))
        other.listen()

        def answer() -> None:
            client, _ = other.accept()
            with client:
                client.recv(4096)
                client.sendall(f"{line}\n".encode() if line else b"")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RumpxError, match=r"nightly (sent an invalid|is running but cannot)"):
            ask(folder / "nightly.ledger", Status())
        thread.join()


# The lines


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        ({}, []),
        ({"later": 1, "ok": True}, []),
        ({"job": "j"}, ["j"]),
        ({"state": "waiting", "paused": True}, ["waiting (paused)"]),
        ({"paused": True}, ["(paused)"]),
        ({"fraction": 1}, ["100.0 %"]),
        ({"job": "j", "eta": None, "reason": "", "limits": {}}, ["j", "  limits   none"]),
        ({"limits": {"max-source-cpu": None}}, ["  limits   none"]),
        ({"keys_per_second": 0.0}, ["  copied   0 keys/s"]),
        ({"target_latency_ms": 12}, ["  latency  target 12.0 ms"]),
        ({"workers": 4, "machines": {}}, ["  workers  4"]),
        ({"workers": 4, "machines": {"a": 4, "b": None}}, ["  workers  4 on 1 machine: a 4"]),
        ({"workers": 4, "machines": [4]}, ["  workers  4"]),
        ({"machines": {"a": 4}}, []),
        ({"state": 5, "fraction": "x", "copied": True, "eta": -1, "limits": []}, []),
        ({"copied": float("nan"), "bytes_per_second": float("inf")}, []),
        ({"state": "a\x1b[2J\nb"}, ["a\\x1b[2J\\nb"]),
    ],
)
def test_a_status_with_parts_missing_or_odd(answer: dict[str, Any], lines: list[str]) -> None:
    assert status_lines(answer) == lines
