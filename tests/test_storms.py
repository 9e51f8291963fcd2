"""While a side is down, the connections that a run tries are few and spread; and clients of its own
ports do not hold it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from rumpx.model.slots import key_slot
from support.hostile import Answer, Hostile, Words, array, bulk
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


SMALL = ("--workers", str(WORKERS), "--batch-keys", "10", "--progress", "none")


def copying(source: Hostile | Server, target: Hostile | Server, *flags: str) -> Running:
    ends = ("--from", source.uri, "--to", target.uri)
    return Running([*ends, *SMALL, "--on-conflict", "replace", *flags])


def filled(server: Server) -> Server:
    server.do("EVAL", "for n = 1, ARGV[1] do redis.call('SET', 'k:' .. n, n) end", 0, KEYS)
    return server


def storm(side: Hostile, began: float, seconds: float = DOWN_SECONDS) -> tuple[int, float]:
    """The connections of the first second, and how many came a second after it."""
    wait_until(lambda: time.monotonic() > began + seconds, 2 * seconds, "the storm")
    came = [at - began for at in side.arrivals if began <= at < began + seconds]
    first = sum(at < 1.0 for at in came)
    return first, (len(came) - first) / (seconds - 1.0)


def away_for_a_while(
    away: Hostile, *others: Hostile, door: str = "closes at once"
) -> list[tuple[int, float]]:
    """Have a side end all connections, and turn new ones away for some seconds: the `storm` at it,
    and at others meanwhile."""
    away.door = DOORS[door]
    away.hang_up()
    began = time.monotonic()
    storms = [storm(each, began) for each in (away, *others)]
    away.door = None
    return storms


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
        ((first, after),) = away_for_a_while(away, door=door)
        ended = run.wait(20)
        copied = real.do("DBSIZE") if side == "source" else len(away.restored)
    assert (ended.returncode, copied) == (0, KEYS), ended.stderr
    assert first <= AT_FIRST
    assert after <= A_SECOND


def test_a_node_that_is_away_and_the_others(server: StartServer) -> None:
    """The rest of the cluster, which is well, is asked who serves its slots now."""
    with Hostile(keys=KEYS) as well, Hostile() as away:
        pair, cut = (well, away), 8_192

        def cluster(me: Hostile, words: Words) -> Answer:
            if words[1].upper() != b"NODES":
                return None
            lines = [
                f"{each.port:040} 127.0.0.1:{each.port}@1 "
                f"{'myself,' * (each is me)}master - 0 0 1 connected {slots}"
                for each, slots in ((well, f"0-{cut - 1}"), (away, f"{cut}-16383"))
            ]
            return bulk("".join(f"{line}\n" for line in lines).encode())

        keys = well.keys
        for each in pair:
            each.answers["CLUSTER"] = partial(cluster, each)
            each.keys = [key for key in keys if (key_slot(key) < cut) is (each is well)]
        target = server("7.0")
        run = copying(well, target)
        wait_until(lambda: away.called["DUMP"] > 20, 20, "a copy under way")
        (first, after), asked = away_for_a_while(away, well)
        ended = run.wait(20)
        assert (ended.returncode, target.do("DBSIZE")) == (0, KEYS), ended.stderr
    assert first <= AT_FIRST
    assert after <= A_SECOND
    assert asked[0] <= A_SECOND
    assert asked[1] <= A_SECOND / 2


def test_a_side_that_goes_away_from_a_comparison(server: StartServer) -> None:
    with Hostile(keys=KEYS) as source, Hostile(keys=KEYS) as away:
        away.run_id = "e" * 40
        run = Running(["verify", "--from", source.uri, "--to", away.uri, *SMALL])
        wait_until(lambda: away.called["DUMP"] > 20, 20, "a comparison under way")
        ((first, after),) = away_for_a_while(away)
        ended = run.wait(20)
    assert ended.returncode == 0, ended.stderr
    assert first <= AT_FIRST
    assert after <= A_SECOND


def test_a_primary_that_is_away_and_its_sentinel(server: StartServer) -> None:
    with Hostile(keys=KEYS) as away, Hostile() as sentinel:
        place = array(bulk(b"127.0.0.1"), bulk(b"%d" % away.port))
        sentinel.answers["SENTINEL"] = lambda words: place
        away.answers["ROLE"] = lambda words: array(bulk(b"master"), b":0\r\n", array())
        target = server("7.0")
        uri = f"redis+sentinel://127.0.0.1:{sentinel.port}/service"
        run = Running(["--from", uri, "--to", target.uri, *SMALL])
        wait_until(lambda: away.called["DUMP"] > 20, 20, "a copy under way")
        (first, after), asked = away_for_a_while(away, sentinel)
        ended = run.wait(20)
        assert (ended.returncode, target.do("DBSIZE")) == (0, KEYS), ended.stderr
    assert max(first, asked[0]) <= AT_FIRST
    assert max(after, asked[1]) <= A_SECOND


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
