"""Follows that are refused, or allowed only by their user's consent, and sources that refuse a
feed: one clear sentence or two, and nothing written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rumpx.ctl.server import AcceptDeletes, AcceptFailures
from rumpx.errors import UsageError
from support.copying import Copying, messages
from support.data import compare, fill_mixed, fingerprint, keys_of
from support.following import Following, Standing, kill_feed, writing
from support.middlemen import Damager
from support.proxy import Proxy
from support.run import Action, Terminal, rumpx, rumpx_pty
from support.servers import Server
from support.waiting import wait_until

USAGE, SOURCE, TARGET, INTERRUPTED = 2, 6, 7, 130
KEYS = 200
QUESTION = "Delete those in scope that the source lacks"

StartServer = Callable[..., Server]


@pytest.fixture
def pair(server: StartServer) -> tuple[Server, Server]:
    """A filled server and an empty one."""
    source, target = server("8.2"), server("8.2")
    fill_mixed(source, KEYS)
    return source, target


def refused(code: int, source: Any, target: Any, *flags: str) -> str:
    """Run a follow that is refused before it writes anything; returns its message."""
    ends = ["--from", source.uri, "--to", target.uri]
    done = rumpx(*ends, "--follow", "--job", "move", *flags, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    return done.stderr


# --- options that exclude each other --------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--follow", "--on-conflict", "skip"), "leave out --on-conflict"),
        (("--follow", "--on-conflict", "fail"), "leave out --on-conflict"),
        (("--follow", "--type", "hash"), "leave out --type"),
        (("--follow", "--read-from", "replica"), "leave out --read-from"),
        (("--follow", "--engine", "dask"), "leave out --engine dask"),
        (("--follow", "--verify"), "leave out --verify"),
        (("--follow", "--yes"), "--yes answers the question of --delete-extra"),
        (("--feed", "tracking"), "about --follow"),
        (("--delete-extra",), "about --follow"),
        (("--max-deletes", "7"), "about --follow"),
    ],
)
def test_options_that_exclude_each_other(flags: tuple[str, ...], words: str) -> None:
    """They are refused before a server is asked: nobody listens there."""
    ends = ("--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:2")

    done = rumpx(*ends, *flags)

    assert done.returncode == USAGE and words in done.stderr, done.stderr


# --- a target that holds keys ---------------------------------------------------------------


@pytest.fixture
def with_extras(pair: tuple[Server, Server]) -> tuple[Server, Server]:
    """The target has keys that the source lacks, and an older value of one that it has."""
    source, target = pair
    target.do("MSET", *(word for n in range(20) for word in (f"extra:{n}", "older")))
    source.do("SET", "both", "newer")
    target.do("SET", "both", "older")
    return source, target


def test_keys_of_the_target_need_consent(with_extras: tuple[Server, Server]) -> None:
    source, target = with_extras
    before = fingerprint(target)

    message = refused(TARGET, source, target)
    again = refused(TARGET, source, target, "--on-conflict", "replace")

    assert "already holds 21 keys" in message and "--delete-extra" in message
    assert message == again, "to replace keys is no consent to delete others"
    assert fingerprint(target) == before


def test_without_a_terminal_consent_needs_yes(with_extras: tuple[Server, Server]) -> None:
    source, target = with_extras
    before = fingerprint(target)

    message = refused(USAGE, source, target, "--delete-extra")

    assert "no terminal" in message and "--yes" in message
    assert fingerprint(target) == before


def test_yes_is_consent(with_extras: tuple[Server, Server]) -> None:
    source, target = with_extras

    with Following(source, target, "--delete-extra", "--yes") as follow:
        follow.in_step()
        assert compare(source, target) == []
        follow.stop()


def test_a_resumed_job_does_not_ask_again(with_extras: tuple[Server, Server]) -> None:
    source, target = with_extras
    with Following(source, target, "--delete-extra", "--yes") as follow:
        follow.in_step()
        follow.stop()
    source.do("DEL", "both")

    with Following.again() as follow:
        follow.in_step()
        assert compare(source, target) == []


@pytest.mark.parametrize("glob", ["in:*", "?n:*"], ids=["a prefix", "no prefix"])
def test_keys_out_of_scope_stay(with_extras: tuple[Server, Server], glob: str) -> None:
    source, target = with_extras
    source.do("SET", "in:scope", "value")

    target.do("SET", "in:extra", "value")
    flags = ("--match", glob, "--delete-extra", "--yes")

    with Following(source, target, *flags) as follow:
        follow.in_step()
        source.do("SET", "in:later", "value")
        source.do("SET", "both", "newest")
        follow.settled(source, target, name="in:marker")

    extras = {f"extra:{number}".encode() for number in range(20)}
    assert keys_of(target) == extras | {b"both", b"in:scope", b"in:later", b"in:marker"}
    assert target.do("GET", "both") == b"older"


def test_with_delete_extra_an_empty_target_is_not_asked_about(
    pair: tuple[Server, Server]
) -> None:
    with Following(*pair, "--delete-extra") as follow:
        follow.in_step()


def asked(ends: tuple[Server, Server], answer: bytes, *more: tuple[str, Action]) -> Terminal:
    """A follow on a terminal, the question answered."""
    source, target = ends
    words = ("--from", source.uri, "--to", target.uri, "--follow", "--delete-extra")
    shown = rumpx_pty(*words, keys=[(QUESTION, answer), *more], cols=120, rows=40)
    assert shown.sent[:1] == [answer], shown.text
    return shown


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"perhaps\n"])
def test_who_does_not_say_yes_keeps_all(
    with_extras: tuple[Server, Server], answer: bytes
) -> None:
    before = fingerprint(with_extras[1])

    shown = asked(with_extras, answer)

    assert shown.returncode == TARGET and "nothing is copied" in shown.text
    assert fingerprint(with_extras[1]) == before


def test_yes_on_a_terminal_is_consent(with_extras: tuple[Server, Server]) -> None:
    source, target = with_extras

    def equal() -> None:
        wait_until(lambda: compare(source, target) == [], 60, "extra keys are deleted")

    shown = asked(with_extras, b"y\n", ("", equal), ("", b"\x03"))

    assert shown.returncode == INTERRUPTED, shown.text
    assert compare(source, target) == []


# --- what a running follow would be spoiled by ----------------------------------------------


def test_a_follow_is_compared_while_it_runs_but_not_repaired(pair: tuple[Server, Server]) -> None:
    with Following(*pair) as follow:
        follow.in_step()

        compared = rumpx("verify", "move")
        repaired = rumpx("verify", "move", "--repair")

        assert compared.returncode == 0 and "all equal" in compared.stderr, compared.stderr
        assert repaired.returncode == USAGE, repaired.stderr
        assert "follows its source now" in repaired.stderr
        follow.stop()
    assert rumpx("verify", "move", "--repair").returncode == 0


def test_a_new_database_that_would_be_mixed_with_another_ends_it(
    pair: tuple[Server, Server]
) -> None:
    """Names of keys that only one of both has would delete those of the other."""
    source, target = pair
    with Following(source, target, "--map-db", "0:5") as follow:
        follow.in_step()
        source.do("SET", "later", "value", db=5)

        done = follow.ended(USAGE)

    assert "Databases 0 and 5 would both be copied to database 5" in done.stderr
    assert compare(source, target, db_map={0: 5}) == []


# --- two follows in opposite directions -----------------------------------------------------


def test_two_follows_in_opposite_directions(pair: tuple[Server, Server]) -> None:
    source, target = pair
    flags = ("--delete-extra", "--yes", "--feed", "auto")
    with Following(source, target) as follow:
        follow.in_step()

        message = refused(USAGE, target, source, *flags, "--job", "back")

        assert "opposite direction" in message
        follow.settled(source, target)
        assert compare(source, target) == []
        follow.stop()
    with Following(target, source, *flags, job="back") as back:
        back.in_step()
        assert "opposite" in refused(USAGE, source, target, *flags, "--job", "forth")


def test_a_follow_without_a_feed_is_noticed_too(pair: tuple[Server, Server]) -> None:
    source, target = pair
    with Following(source, target, "--feed", "passes") as follow:
        follow.wait(lambda standing: standing["passes"], "a pass has ended")

        flags = ("--delete-extra", "--yes", "--job", "back")
        assert "opposite" in refused(USAGE, target, source, *flags)


def test_a_chain_and_a_fan_are_allowed(server: StartServer) -> None:
    first, second, third = (server("7.0") for _ in range(3))
    fill_mixed(first, KEYS)
    with Following(first, second, job="one") as one:
        one.in_step()
        with Following(second, third, job="two") as two, contextlib.ExitStack() as stack:
            two.in_step()
            fourth = server("7.0")
            stack.enter_context(Following(first, fourth, job="three")).in_step()
            first.do("SET", "late", "value")
            one.settled(first, second)
            two.settled(second, third, name="marker2")
            assert compare(first, second, keys=keys_of(first)) == []
            assert compare(second, third) == []


# --- a source that refuses a feed -----------------------------------------------------------

# The command, the rule that takes it away ("" where there is none), and its replacement, for a
# server that does not know it.
REFUSED = {
    "HELLO": ("", b"HELLO\r\n", b"HELLX\r\n"),
    "CLIENT TRACKING": ("-client|tracking", b"TRACKING\r\n", b"TRACKINX\r\n"),
    "SUBSCRIBE": ("-subscribe", b"SUBSCRIBE\r\n", b"SUBSCRIBX\r\n"),
    "the channel": ("resetchannels", b"", b""),
}
DENIED = [
    pytest.param(command, False, id=f"{command} denied")
    for command, (rule, _, _) in REFUSED.items()
    if rule
]
UNKNOWN = [
    pytest.param(command, True, id=f"{command} unknown")
    for command, (_, before, _) in REFUSED.items()
    if before
]


@contextlib.contextmanager
def refuses(source: Server, command: str, *, unknown: bool) -> Iterator[Any]:
    """The source as a side that refuses a command, by ACL or as one that it does not know."""
    rule, before, after = REFUSED[command]
    if not unknown:
        source.do("ACL", "SETUSER", "default", rule)
        yield source
        return
    with Damager(source, before, after, up=True) as way:
        yield way


def after_passes(follow: Following, number: int = 2) -> Standing:
    """Until so many passes have begun and ended."""
    before = int(follow.ask()["passes"])
    return follow.wait(lambda standing: standing["passes"] >= before + number, "passes end")


@pytest.mark.parametrize(("command", "unknown"), [*DENIED, *UNKNOWN])
def test_a_refused_feed_is_replaced_by_passes(
    pair: tuple[Server, Server], command: str, unknown: bool
) -> None:
    source, target = pair
    with refuses(source, command, unknown=unknown) as side, Following(side, target) as follow:
        follow.wait(lambda standing: standing.phase == "reconciling", "the first pass has ended")
        source.do("SET", "later", "value")
        source.do("DEL", next(iter(keys_of(source) - {b"later"})))
        standing = after_passes(follow)

        assert compare(source, target) == []
        assert standing["feed"] == "passes"
        assert standing["in_step_since"] is None
        told = follow.messages
        name = "SUBSCRIBE" if command == "the channel" else command
        assert f"it answers {name}" in told, told
        assert "found by passes instead" in told and "+client|tracking" in told
        follow.stop()


@pytest.mark.parametrize(
    ("command", "unknown"), [DENIED[0], DENIED[1], UNKNOWN[0], UNKNOWN[1]]
)
def test_tracking_that_was_asked_for_is_refused(
    pair: tuple[Server, Server], command: str, unknown: bool
) -> None:
    source, target = pair
    with refuses(source, command, unknown=unknown) as side:
        message = refused(SOURCE, side, target, "--feed", "tracking")

    assert "+client|tracking" in message and "--feed" in message
    assert keys_of(target) == set()


def test_a_connection_that_is_lost_is_no_refusal(
    pair: tuple[Server, Server], proxy: Callable[..., Proxy]
) -> None:
    source, target = pair
    way = proxy(source)
    way.cut_within(b"BCAST", direction="up")
    with Following(way, target) as follow:
        assert follow.in_step()["feed"] == "tracking" and way.cuts == 1
        assert "passes" not in follow.messages
        follow.stop()


def test_a_feed_whose_connection_is_always_lost(
    pair: tuple[Server, Server], proxy: Callable[..., Proxy]
) -> None:
    source, target = pair
    way = proxy(source)

    def cut() -> None:
        way.cut_within(b"BCAST", direction="up")
        time.sleep(0.01)

    with writing(cut):
        message = refused(SOURCE, way, target)
    assert "The feed of changed keys cannot be attached: " in message and way.cuts > 1
    assert "--feed passes" in message and keys_of(target) == set()


@pytest.mark.parametrize("version", ["6.2", "9.1"])
def test_a_source_without_client(server: StartServer, version: str) -> None:
    """Its command is renamed, as some services do."""
    source, target = server(version, rename_command=[("CLIENT", "")]), server(version)
    fill_mixed(source, KEYS)

    with Following(source, target) as follow:
        follow.wait(lambda standing: standing.phase == "reconciling", "the first pass has ended")
        source.do("SET", "later", "value")
        standing = after_passes(follow)

        assert standing["feed"] == "passes"
        assert target.do("GET", "later") == b"value"
        follow.stop()


def test_a_feed_that_is_not_allowed_any_more(pair: tuple[Server, Server]) -> None:
    source, target = pair
    with Following(source, target) as follow:
        follow.in_step()
        source.do("ACL", "SETUSER", "default", "-client|tracking")
        kill_feed(source)
        follow.wait(lambda standing: standing["feed"] == "passes", "passes instead")
        source.do("SET", "later", "value")
        standing = after_passes(follow)

        assert standing["in_step_since"] is None and standing["gaps"] == 1
        assert target.do("GET", "later") == b"value"
        assert "does not report changed keys any more" in follow.messages
        follow.stop()


# --- other commands that are refused --------------------------------------------------------


@contextlib.contextmanager
def without_statistics(source: Server, wording: str) -> Iterator[Any]:
    """The source as a side that refuses INFO commandstats: it gets another command in its place."""
    other = {"unknown": b"INFX", "denied": b"KEYS"}
    asked = b"$4\r\n%b\r\n$12\r\ncommandstats"
    if wording == "nothing":  # an unknown section, of which it tells nothing
        pair = asked % b"INFO", asked.replace(b"stats", b"statz") % b"INFO"
    else:
        pair = asked % b"INFO", asked % other[wording]
    source.do("ACL", "SETUSER", "default", "-keys")
    with Damager(source, *pair, up=True) as way:
        yield way


@pytest.mark.parametrize("wording", ["denied", "unknown", "nothing"])
def test_a_source_without_statistics_of_commands(
    pair: tuple[Server, Server], wording: str
) -> None:
    """The feed is good, and the user is told what nobody notices."""
    source, target = pair
    with without_statistics(source, wording) as side, Following(side, target) as follow:
        follow.in_step()
        source.do("SET", "later", "value")
        follow.settled(source, target)

        assert compare(source, target) == []
        assert follow.ask()["feed"] == "tracking"
        wait_until(lambda: "refuses INFO or INFO commandstats" in follow.messages, 30, "a warning")
        follow.stop()


@pytest.mark.parametrize("unknown", [False, True], ids=["denied", "unknown"])
def test_a_target_without_the_right_to_end_connections(
    pair: tuple[Server, Server], unknown: bool
) -> None:
    """After a worker's death the user is warned, its keys are copied again, and all is in step."""
    source, target = pair
    with contextlib.ExitStack() as stack:
        side: Any = target
        if unknown:
            names = b"LIST\r\n", b"LISX\r\n"
            side = stack.enter_context(Damager(target, *names, up=True))
        else:
            target.do("ACL", "SETUSER", "default", "-client|kill", "-client|list")
        follow = stack.enter_context(Following(source, side))
        follow.in_step()
        with source.raw() as raw:
            follow.run.freeze()
            for number in range(2000):
                raw.do("SET", f"later:{number}", "value")
            follow.run.thaw()
        for worker in follow.run.workers():
            worker.kill()
        source.do("SET", "last", "value")
        follow.settled(source, target)

        assert compare(source, target) == []
        assert "does not let rumpx end its own connections" in follow.messages
        follow.stop()


# --- rumpx ctl ------------------------------------------------------------------------------


def test_nothing_to_accept(pair: tuple[Server, Server]) -> None:
    with Following(*pair) as follow:
        follow.in_step()
        with pytest.raises(UsageError, match="No deletes wait"):
            follow.ask(AcceptDeletes())
        with pytest.raises(UsageError, match="No key has failed"):
            follow.ask(AcceptFailures())
        for verb in ("accept-deletes", "accept-failures"):
            assert rumpx("ctl", "move", verb).returncode == USAGE
        assert follow.ask().phase == "in step"


def test_a_copy_has_nothing_to_accept(pair: tuple[Server, Server], state_home: Path) -> None:
    source, target = pair
    flags = ("--job", "job", "--max-keys-per-sec", "20")
    with Copying(source, target, *flags) as copying:
        copying.wait_keys(target, 1)
        for verb in ("accept-deletes", "accept-failures"):
            done = rumpx("ctl", "job", verb)
            assert done.returncode == USAGE and "does not follow" in done.stderr, done.stderr
        assert "accept" not in messages(copying.run)
