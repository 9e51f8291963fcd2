"""`rumpx migrate`: it checks, copies and follows, and Enter cuts over, when it is time."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from rumpx.ctl.client import ask, running_job
from rumpx.ctl.server import Status
from rumpx.ledger.catalog import Place
from support.data import compare
from support.following import LONG, cut_over
from support.run import Running, Terminal, rumpx, rumpx_pty, run_pty, start_rumpx
from support.servers import Server
from support.waiting import wait_until
from test_cutover import at_work, fill_with, of_rumpx

StartServer = Callable[..., Server]

OK, TARGET_UNUSABLE, KILLED = 0, 7, -signal.SIGKILL
ENTER = b"\n"
FEW = ("--workers", "2", "--max-source-latency", "off", "--job", "move")
IN_STEP = "The target is in step. Stop all that writes to the source"
LAST = "Nothing of rumpx writes to the target any more: switch now."


def words(source: Server, target: Server, *flags: str) -> list[str]:
    return ["migrate", "--from", source.uri, "--to", target.uri, *FEW, *flags]


def in_terminal(*args: str, keys: list[tuple[str, bytes | int | Callable[[], object]]]) -> Terminal:
    return rumpx_pty(*args, cols=160, rows=50, keys=list(keys), timeout=2 * LONG)


def is_over(source: Server, target: Server) -> None:
    assert compare(source, target) == []
    assert of_rumpx(source) == of_rumpx(target) == []


def no_job(folder: Path) -> bool:
    return not list(folder.glob("*.ledger"))


def test_check_copy_follow_enter(server: StartServer) -> None:
    source, target = server("7.0"), server("8.2")
    fill_with(source)

    def write() -> None:
        source.do("SET", "key:7", "new")
        wait_until(lambda: target.do("GET", "key:7") == b"new", LONG, "it is followed")

    # The first Enter comes before the copy; the second while the target is in step.
    seen = in_terminal(
        *words(source, target),
        keys=[("", ENTER), ("press Enter, or call rumpx ctl move cutover.", write), ("", ENTER)],
    )
    assert seen.returncode == OK, seen.text
    order = ["Not yet: the copy is under way.", IN_STEP, "comparing ", "watching", LAST]
    places = [seen.text.find(text) for text in order]
    assert -1 not in places and places == sorted(places), seen.text
    assert seen.text.find("permission") < places[0]
    assert seen.text.count(LAST) == 1
    is_over(source, target)


def test_enter_is_not_echoed(server: StartServer) -> None:
    """Else it would move the cursor, and leave a line of the bars above the messages."""
    source, target = server("7.0"), server("7.0")
    fill_with(source)
    seen = in_terminal(*words(source, target), keys=[(IN_STEP, b"typed\n")])
    assert seen.returncode == OK and LAST in seen.text, seen.text
    assert b"typed" not in seen.raw
    assert seen.modes_restored and not seen.cursor_hidden


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_terminal_is_restored_by_a_signal(server: StartServer, number: int) -> None:
    source, target = server("7.0"), server("7.0")
    fill_with(source)
    seen = in_terminal(*words(source, target), keys=[(IN_STEP, number)])
    assert seen.returncode == 128 + number and seen.modes_restored, seen.text


def test_the_terminal_is_restored_by_an_error(server: StartServer) -> None:
    # The target's databases are fewer than the source's, which ends a follow.
    source, target = server("7.0"), server("7.0", databases=3)
    source.do("SET", "k", "v")
    moved: tuple[str, Callable[[], object]] = (IN_STEP, lambda: source.do("MOVE", "k", 5))
    seen = in_terminal(*words(source, target), keys=[moved])
    assert seen.returncode == TARGET_UNUSABLE and seen.modes_restored, seen.text


SHELL = """
set -m
"$@"
for mode in $(stty -a); do case $mode in echo|-echo) echo "while stopped: $mode";; esac; done
fg
"""
"""A shell that starts a job and, once Ctrl-Z has stopped it, continues it."""


def test_the_terminal_is_restored_while_it_is_stopped(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_with(source)
    command = ["/bin/dash", "-c", SHELL, "sh", sys.executable, "-m", "rumpx"]
    command += words(source, target)
    seen = run_pty(
        command,
        cols=160,
        rows=50,
        keys=[(IN_STEP, b"\x1a"), ("while stopped: echo", until_unechoed), ("", b"typed\n")],
        timeout=2 * LONG,
    )
    assert seen.returncode == OK and LAST in seen.text, seen.text
    assert b"typed" not in seen.raw and seen.modes_restored
    is_over(source, target)


def until_unechoed() -> None:
    """Until the run goes on: it answers, and has set the modes again."""
    ledger = running_job(Place(None, "move"))
    for _ in range(2):  # each is answered in another turn, in which a snapshot is shown, too
        ask(ledger, Status(), LONG)


def until_proving() -> None:
    """Until the run's first pass is under way."""
    ledger = running_job(Place(None, "move"))
    wait_until(lambda: ask(ledger, Status())["follow"]["phase"] == "proving", LONG, "it proves")


def test_enter_while_a_pass_proves_the_copy(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_with(source, 400)
    # The pass is as slow as the copy.
    seen = in_terminal(
        *words(source, target, "--max-keys-per-sec", "100", "--batch-keys", "10"),
        keys=[("", ENTER), ("Not yet: the copy", until_proving), ("", ENTER), (IN_STEP, ENTER)],
    )
    assert seen.returncode == OK and LAST in seen.text, seen.text
    assert "Not yet in step: the first pass proves the copy." in seen.text
    is_over(source, target)


def told(run: Running) -> str:
    assert run.alive or LAST in run.stderr, run.stderr[-4000:]
    return run.stderr


def test_without_a_terminal_ctl_cuts_over(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    fill_with(source)
    with start_rumpx(*words(source, target), "--progress", "line") as run:
        wait_until(lambda: IN_STEP in told(run), LONG, "it is in step")
        assert "then call rumpx ctl move cutover." in run.stderr and "Enter" not in run.stderr
        cut_over(code=OK)
        done = run.wait()
    assert done.returncode == OK and done.stderr.count(LAST) == 1
    is_over(source, target)


def test_by_itself_once_the_source_is_quiet(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_with(source)
    with ExitStack() as stack:
        writing = stack.enter_context(ExitStack())
        writing.enter_context(at_work(source, lambda raw: raw.do("INCR", "count")))
        flags = ("--yes-when-in-step", "--progress", "line")
        run = stack.enter_context(start_rumpx(*words(source, target, *flags)))
        wait_until(lambda: "still written" in told(run), LONG, "it is not quiet")
        writing.close()
        done = run.wait()
    assert done.returncode == OK and LAST in done.stderr and IN_STEP not in done.stderr
    is_over(source, target)


def test_it_is_killed_and_resumed_and_enter_is_asked_for_again(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_with(source)
    killed = in_terminal(*words(source, target), keys=[(IN_STEP, signal.SIGKILL)])
    assert killed.returncode == KILLED
    source.do("SET", "meanwhile", "new")
    source.do("DEL", "key:1")
    again = in_terminal("resume", keys=[(IN_STEP, ENTER)])
    assert again.returncode == OK and LAST in again.text, again.text
    is_over(source, target)


def test_a_check_that_fails_starts_nothing(server: StartServer, state_home: Path) -> None:
    source, target = server("7.0"), server("7.0")
    fill_with(source)
    target.do("ACL", "SETUSER", "default", "-restore")
    done = rumpx(*words(source, target))
    assert done.returncode != OK and "restore" in done.stderr.lower()
    assert no_job(state_home) and target.do("DBSIZE") == 0 and IN_STEP not in done.stderr
    target.do("ACL", "SETUSER", "default", "+restore")
    target.stop()
    done = rumpx(*words(source, target))
    assert done.returncode == TARGET_UNUSABLE and no_job(state_home)


def test_it_has_no_options_that_it_implies(server: StartServer) -> None:
    for flag in ("--follow", "--on-conflict=skip", "--dry-run", "--verify"):
        done = rumpx("migrate", "--from", "redis://a", "--to", "redis://b", flag)
        assert done.returncode == 2 and flag.partition("=")[0] in done.stderr, done.stderr
