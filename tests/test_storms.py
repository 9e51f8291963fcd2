"""While a side is down, the connections that a run tries are few and spread; and clients of its own
ports do not hold it up."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from support.hostile import Hostile
from support.run import Running
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]

KEYS = 2_000
WORKERS = 8
DOWN_SECONDS = 2.5
# A connection of each worker, of the walks and of the observer may find out at the same time.
AT_FIRST = 25
A_SECOND = 10


def copying(source: Hostile | Server, target: Hostile | Server, *flags: str) -> Running:
    ends = ("--from", source.uri, "--to", target.uri)
    small = ("--workers", str(WORKERS), "--batch-keys", "10", "--progress", "none")
    return Running([*ends, *small, "--on-conflict", "replace", *flags])


def filled(server: Server) -> Server:
    server.do("EVAL", "for n = 1, ARGV[1] do redis.call('SET', 'k:' .. n, n) end", 0, KEYS)
    return server


def storm(side: Hostile, began: float, seconds: float = DOWN_SECONDS) -> tuple[int, float]:
    """The connections of the first second, and how many came a second after it."""
    wait_until(lambda: time.monotonic() > began + seconds, 2 * seconds, "the storm")
    came = [at - began for at in side.arrivals if began <= at < began + seconds]
    first = sum(at < 1.0 for at in came)
    return first, (len(came) - first) / (seconds - 1.0)


DOORS = {
    "closes at once": b"",
    "is full": b"-ERR max number of clients reached\r\n",
    "is loading": b"-LOADING Redis is loading the dataset in memory\r\n",
}


@pytest.mark.parametrize(
    ("side", "door"),
    [("source", "closes at once"), ("target", "is full"), ("target", "is loading")],
)
def test_a_side_that_is_away(server: StartServer, side: str, door: str) -> None:
    real = server("7.0")
    with Hostile(keys=KEYS if side == "source" else 0) as away:
        ends = (away, real) if side == "source" else (filled(real), away)
        run = copying(*ends)
        done: Callable[[], int] = lambda: away.called["DUMP"] + len(away.restored)  # noqa: E731
        wait_until(lambda: done() > 20, 20, "a copy under way")
        away.door = DOORS[door]
        away.hang_up()
        first, after = storm(away, time.monotonic())
        away.door = None
        ended = run.wait(20)
        copied = real.do("DBSIZE") if side == "source" else len(away.restored)
    assert (ended.returncode, copied) == (0, KEYS), ended.stderr
    assert first <= AT_FIRST
    assert after <= A_SECOND


def test_a_side_that_serves_until_it_is_asked_for_values(server: StartServer) -> None:
    """It greets each connection, and answers PING and SCAN."""
    with Hostile(keys=KEYS) as source:
        target = server("7.0")
        run = copying(source, target)
        wait_until(lambda: source.called["DUMP"] > 20, 20, "a copy under way")

        def hang_up(words: list[bytes]) -> bytes:
            raise OSError

        source.answers["DUMP"] = hang_up
        first, after = storm(source, time.monotonic())
        del source.answers["DUMP"]
        run.stop()
    assert first <= 8 * AT_FIRST
    assert after <= 4 * A_SECOND
