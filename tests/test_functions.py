"""`--functions` keeps to `--on-conflict`, library by library, and says so before the keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.copying import Copying, copy, resume
from support.data import fill_mixed
from support.following import LONG, Following
from support.proxy import Proxy
from support.run import rumpx
from support.servers import Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]

TARGET_UNUSABLE = 7


def lib(name: str, function: str = "", answer: int = 1) -> str:
    call = function or f"f_{name}"
    return f"#!lua name={name}\nredis.register_function('{call}', function() return {answer} end)"


def load(server: Server, *codes: str) -> None:
    for code in codes:
        server.do("FUNCTION", "LOAD", code)


@pytest.fixture
def sides(server: StartServer) -> tuple[Server, Server]:
    """The source has libraries `same`, `other` and `extra`; the target the first two, one with
    other code."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "v")
    load(source, lib("same"), lib("other"), lib("extra"))
    load(target, lib("same"), lib("other", answer=2))
    return source, target


def test_skip_brings_what_the_target_lacks(sides: tuple[Server, Server]) -> None:
    source, target = sides

    done = copy(source, target, "--functions", "--on-conflict", "skip")

    assert "Will copy 1 function library (extra)." in done.stderr
    assert "already" in done.stderr and "keeps its own function library other" in done.stderr
    assert target.do("FCALL", "f_extra", 0) == 1 and target.do("FCALL", "f_other", 0) == 2


def test_replace_overwrites_what_differs(sides: tuple[Server, Server]) -> None:
    source, target = sides

    copy(source, target, "--functions", "--on-conflict", "replace")

    assert target.do("FCALL", "f_extra", 0) == target.do("FCALL", "f_other", 0) == 1


@pytest.mark.parametrize("policy", ["fail", "ask"])
def test_fail_refuses_before_the_keys(sides: tuple[Server, Server], policy: str) -> None:
    source, target = sides
    flags = ("--functions", *(["--on-conflict", policy] if policy != "ask" else []))

    done = copy(source, target, *flags, code=TARGET_UNUSABLE)

    assert "has function library other with other code" in done.stderr
    assert target.do("DBSIZE") == 0 and len(target.do("FUNCTION", "LIST")) == 2
    ends = ("--from", source.uri, "--to", target.uri)
    checked = rumpx("check", *ends, *flags)
    assert checked.returncode == TARGET_UNUSABLE and "function library other" in checked.stdout


def test_equal_libraries_are_no_conflict(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    source.do("SET", "k", "v")
    for side in (source, target):
        load(side, lib("same"))

    done = copy(source, target, "--functions", "--on-conflict", "fail", "--job", "j")

    assert "The target has function library same already." in done.stderr


def test_a_function_in_another_library(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "v")
    load(source, lib("mine", "f"))
    load(target, lib("theirs", "f"))

    done = copy(source, target, "--functions", "--on-conflict", "replace", code=TARGET_UNUSABLE)

    assert "has a function f in its library theirs" in done.stderr
    assert target.do("DBSIZE") == 0


def test_a_source_without_functions_is_told_once(server: StartServer) -> None:
    source, target = server("6.2"), server("7.0")
    source.do("SET", "k", "v")

    done = copy(source, target, "--functions")

    assert done.stderr.count("before 7.0 do not support them") == 1


def test_every_primary_of_a_cluster(
    server: StartServer, cluster: Callable[..., Cluster]
) -> None:
    source, target = server("7.0"), cluster("7.0")
    source.do("SET", "k", "v")
    load(source, lib("same"), lib("extra"))
    load(target.primaries()[1], lib("same"))

    copy(source, target, "--functions", "--on-conflict", "fail")

    for node in target.primaries():
        assert {tuple(each)[1] for each in node.do("FUNCTION", "LIST")} == {b"same", b"extra"}


def test_a_run_that_goes_on_loads_what_is_not_there(server: StartServer) -> None:
    """The right to load is lost while the keys are copied."""
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 1_000)
    load(source, lib("first"), lib("second"))
    target.do("ACL", "SETUSER", "default", "on", "nopass", "+@all", "~*")

    flags = ("--functions", "--job", "j", "--on-conflict", "skip")
    with Copying(source, target, *flags) as copying:
        with copying.held_at(target, 100):
            target.do("ACL", "SETUSER", "default", "-function|load")
        done = copying.finish(TARGET_UNUSABLE)
    assert "function" in done.stderr and "+function|load" in done.stderr

    target.do("ACL", "SETUSER", "default", "+function|load")
    again = resume(job="j")
    assert "Copied 2 function libraries (" in again.stderr
    assert len(target.do("FUNCTION", "LIST")) == 2


# For a while the target executes no write: it lacks replicas, or memory.
PASSING = {"NOREPLICAS": ("min-replicas-to-write", 1), "out of memory": ("maxmemory", 1_000)}


@pytest.mark.parametrize("words", PASSING)
def test_a_follow_outlasts_a_target_that_loads_none_now(server: StartServer, words: str) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "v")
    setting, value = PASSING[words]
    with Following(source, target, "--functions", "--max-target-memory", "off") as follow:
        follow.in_step()
        target.do("CONFIG", "SET", setting, value)
        load(source, lib("late"))
        wait_until(lambda: words in follow.run.stderr, LONG, "it tells")
        target.do("CONFIG", "SET", setting, 0)
        follow.wait(lambda _: target.do("FUNCTION", "LIST"), "the library is loaded")
        follow.settled(source, target)
        assert follow.ask()["gaps"] == 0
    assert target.do("FCALL", "f_late", 0) == 1


def test_a_copy_outlasts_a_target_that_loads_none_at_its_end(
    server: StartServer, proxy: Callable[..., Proxy]
) -> None:
    source, target = server("7.0"), server("7.0")
    way = proxy(target)
    fill_mixed(source, 1_000)
    load(source, lib("late"))
    with Copying(source, way, "--functions", "--progress", "json") as copying:
        with copying.held_at(target, 100):
            way.hold(b"FUNCTION")
        wait_until(lambda: way.holding, LONG, "all keys are there")
        target.do("CONFIG", "SET", "min-replicas-to-write", 1)
        way.release()
        wait_until(lambda: "refuses FUNCTION LOAD now" in copying.run.stderr, LONG, "it tells")
        target.do("CONFIG", "SET", "min-replicas-to-write", 0)
        done = copying.finish()
    assert done.stderr.count("Copied 1 function library (late).") == 1
    assert target.do("FCALL", "f_late", 0) == 1
