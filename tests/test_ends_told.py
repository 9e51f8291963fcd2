"""`--progress none` shows no progress; a run that does not end well tells how it ended."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from support import data
from support.copying import held
from support.proxy import Proxy
from support.run import rumpx, start_rumpx
from support.servers import Server

StartServer = Callable[..., Server]
Pair = tuple[Server, Server]

QUIET = ("--progress", "none", "--workers", "1")


@pytest.fixture
def pair(server: StartServer) -> Pair:
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 2000)
    return source, target


def ends(pair: Pair) -> tuple[str, ...]:
    return ("--from", pair[0].uri, "--to", pair[1].uri, *QUIET)


def test_nothing_is_told_of_a_copy_and_a_comparison_that_end_well(pair: Pair) -> None:
    copied = rumpx(*ends(pair), "--verify")
    assert (copied.returncode, copied.stderr) == (0, "")
    compared = rumpx("verify", *ends(pair))
    assert (compared.returncode, compared.stderr) == (0, "")


def test_differences_are_told(pair: Pair) -> None:
    pair[0].do("SET", "only-here", "x")
    done = rumpx(*ends(pair), "--exclude", "only-here")
    assert (done.returncode, done.stderr) == (0, "")

    done = rumpx("verify", *ends(pair))

    assert done.returncode == 4 and done.stdout == ""
    assert "1 key differs" in done.stderr and "only-*" in done.stderr


def test_keys_that_failed_are_told_and_the_comparison_after_them(pair: Pair) -> None:
    pair[0].do("SET", "mine", "x")
    pair[1].do("SET", "mine", "y")

    done = rumpx(*ends(pair), "--on-conflict", "fail", "--verify")

    assert done.returncode in (3, 4)
    assert "1 key" in done.stderr and "busy key" in done.stderr and "mine" in done.stderr
    assert "differ" in done.stderr


def test_a_copy_that_lost_its_target_is_summed_up(
    pair: Pair, proxy: Callable[..., Proxy]
) -> None:
    way = proxy(pair[1])
    words = (*QUIET, "--batch-keys", "5", "--retry-for", "1s")
    with start_rumpx("--from", pair[0].uri, "--to", way.uri, *words) as run:
        with held(run, lambda: pair[1].do("DBSIZE") >= 5):
            way.stop()
        ended = run.wait(60)
    assert ended.returncode == 5
    assert "copied" in ended.stderr and "rumpx resume" in ended.stderr


def test_a_copy_that_is_stopped_is_summed_up(pair: Pair) -> None:
    words = ("--from", pair[0].uri, "--to", pair[1].uri, *QUIET, "--batch-keys", "5")
    with start_rumpx(*words) as run:
        with held(run, lambda: pair[1].do("DBSIZE") >= 5):
            run.send_signal(signal.SIGTERM)
        ended = run.wait(60)
    assert ended.returncode == 143
    assert "stopped" in ended.stderr.lower() and "copied" in ended.stderr
