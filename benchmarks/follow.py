"""Scenario `follow`: the lag, the speed and the cost of keeping a target in step.

Each round, on one source and one target with `keys` strings of 64 bytes, by two workers:

1. *The feed*: the source's CPU at 50,000 writes a second, alone and with a feed attached that
   nothing else is done for.
2. *Other clients* of the source (`client`): their p99 at 10,000 writes a second, without a follow;
   with one, in step 4.
3. *Lag*: the time from a SET on the source until the target has it, while writers (`changes`) keep
   a rate.
5. *Draining*: a follow is paused, all keys are changed, it is resumed; the time until the target
   has restored all of them, and the CPU of all processes meanwhile. Before that, what it costs the
   coordinator to note the names.

Then both sides are compared. What days of changes leave behind is simulated, without servers
(`long_follow`).

Lag, draining and the other clients' times are those of rumpx as it is, which slows down where
other clients of the source have to wait.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from benchmarks.changes import Probe, Writers, change_all
from benchmarks.client import Client, Percentiles, put_keys
from benchmarks.following import Following, Used, require_equal
from benchmarks.long_follow import simulate
from benchmarks.measure import MEGA, Options, Report, server_facts, servers_cpu
from benchmarks.servers import Side, standalone
from rumpx.follower.feed import TRACKING, Feed
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Scope
from rumpx.servers.dial import Dialer

RATES: Final = (1_000, 10_000, 50_000)
_WORKERS: Final = 2
_USUAL_RATE: Final = 10_000
_FEED_RATE: Final = 50_000
_FEW_KEYS: Final = 100_000
_SECONDS: Final = 10.0
_FEW_SECONDS: Final = 1.0
_SIMULATED: Final = 10


@dataclass(frozen=True, slots=True)
class Lag:
    """At one rate: the one that was reached, in writes a second, and the lag."""

    reached: float
    lag: Percentiles


@dataclass(frozen=True, slots=True)
class Load:
    """The source's CPU seconds for each write, and for each second, at a rate that was reached."""

    reached: float
    write: float
    second: float


@dataclass(frozen=True, slots=True)
class Drain:
    """A backlog: keys a second, and CPU seconds for each key: to note it, and to settle it."""

    rate: float
    noting: float
    settling: Used


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of a round."""

    bare: Load
    fed: Load
    alone: Percentiles
    beside: Percentiles
    lags: dict[int, Lag]
    drain: Drain


def run(options: Options) -> Report:
    """As `loopback.run`."""
    rounds = []
    with standalone() as source, standalone() as target:
        version = str(server_facts(source.servers[0]))
        put_keys(source.servers[0])
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", file=sys.stderr, flush=True)
            rounds.append(_round(source, target, options.keys, number))
    millions = simulate(min(_SIMULATED * 1_000_000, 20 * options.keys))
    return Report(
        title=f"{options.keys:,} strings of 64 bytes, {version}, {_WORKERS} workers, median of "
        f"{options.rounds}",
        columns=("measured", "figure", "aim"),
        rows=[*_lag_rows(rounds), *_drain_rows(rounds), *_source_rows(rounds)],
        ratios={
            "source's CPU with a feed / without": _middle(
                [one.fed.write / one.bare.write for one in rounds]
            ),
            "other clients' p99 beside a follow / alone": _middle(
                [one.beside.p99 / one.alone.p99 for one in rounds]
            ),
            "simulated: CPU of the last million / of the first": millions[-1].cpu / millions[0].cpu,
        },
        notes=[each.told for each in millions],
        data={
            "server": version,
            "rounds": [asdict(one) for one in rounds],
            "millions": [asdict(one) for one in millions],
        },
    )


def _middle(figures: Sequence[float]) -> float:
    return statistics.median(figures)


# The measurements


def _round(source: Side, target: Side, keys: int, number: int) -> Round:
    one, seconds = source.servers[0], _SECONDS if keys >= _FEW_KEYS else _FEW_SECONDS
    writers = partial(Writers, one, keys=keys)
    # Values of no round are those of another.
    change = partial(change_all, one, keys)
    change(number * keys)
    target.flush()
    bare, fed = (_load(source, writers(_FEED_RATE), seconds, feed=feed) for feed in (False, True))
    alone = _client(source, writers(_USUAL_RATE), seconds)
    with Following(source, target, "--workers", str(_WORKERS)) as following:
        lags = {rate: _lag(source, target, writers(rate), seconds) for rate in RATES}
        following.settle()
        beside = _client(source, writers(_USUAL_RATE), seconds)
        drain = _drain(following, lambda: change((number + 1) * keys), keys)
        following.settle()
        require_equal(source, target)
    return Round(bare, fed, alone, beside, lags, drain)


def _load(source: Side, writers: Writers, seconds: float, *, feed: bool) -> Load:
    """The source's CPU, with a feed attached or without."""
    with closing(_feed(source)) if feed else nullcontext():
        before = servers_cpu(source.servers)
        with writers:
            time.sleep(seconds)
        used = servers_cpu(source.servers) - before
    return Load(writers.rate, used / writers.written, used * writers.rate / writers.written)


def _feed(source: Side) -> Feed:
    dialer = Dialer(parse_endpoint(source.uri, "source"), "source", 5.0, 30.0, identifies=True)
    feed = Feed(TRACKING, dialer, "feed", Scope(), lambda names: None, lambda event: None)
    feed.start()
    return feed


def _client(source: Side, writers: Writers, seconds: float) -> Percentiles:
    """The delays of another client of the source."""
    with writers, Client(source.servers[0], 1) as client:
        time.sleep(seconds)
    return Percentiles.of(client.felt.took)


def _lag(source: Side, target: Side, writers: Writers, seconds: float) -> Lag:
    with writers, Probe(source.servers[0], target.servers[0]) as probe:
        time.sleep(seconds)
    return Lag(writers.rate, probe.lag)


def _drain(following: Following, change: Callable[[], None], keys: int) -> Drain:
    following.pause()
    before = following.used
    following.note(change, keys)
    noting = following.used.since(before).coordinator / keys
    restored, before = following.restored, following.used
    following.resume()
    began = time.monotonic()
    following.wait_restored(restored + keys)
    seconds = time.monotonic() - began
    used = following.used.since(before)
    each = [figure / keys for figure in (used.coordinator, used.others, used.source, used.target)]
    return Drain(keys / seconds, noting, Used(*each))


# The table


def _lag_rows(rounds: Sequence[Round]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for rate in RATES:
        lags = [one.lags[rate] for one in rounds]
        aims = {50: "≤ 5 ms", 99: "≤ 40 ms"} if rate == _USUAL_RATE else {}
        reached = _middle([each.reached for each in lags])
        for part, figures in ((50, [e.lag.p50 for e in lags]), (99, [e.lag.p99 for e in lags])):
            words = f"lag at {reached:,.0f} writes/s, p{part}"
            rows.append((words, f"{1e3 * _middle(figures):.1f} ms", aims.get(part, "-")))
    return rows


def _drain_rows(rounds: Sequence[Round]) -> list[tuple[str, ...]]:
    drains = [one.drain for one in rounds]
    used = [drain.settling for drain in drains]
    return [
        ("a backlog", f"{_middle([d.rate for d in drains]):,.0f} changes/s", "≥ 40,000"),
        ("its CPU: coordinator", _us([each.coordinator for each in used]), "≤ 1.5 us"),
        ("its CPU: coordinator, to note names", _us([drain.noting for drain in drains]), "-"),
        ("its CPU: others of rumpx", _us([each.others for each in used]), "-"),
        ("its CPU: source", _us([each.source for each in used]), "-"),
        ("its CPU: target", _us([each.target for each in used]), "-"),
    ]


def _source_rows(rounds: Sequence[Round]) -> list[tuple[str, ...]]:
    reached = _middle([one.fed.reached for one in rounds])
    more = _middle([one.fed.second - one.bare.second for one in rounds])
    return [
        (
            f"source's CPU for a feed, {reached:,.0f} writes/s",
            f"{_us([one.fed.write - one.bare.write for one in rounds])} a write",
            "≤ 2.5 us",
        ),
        ("", f"{100 * more:.1f} % of a core", "≤ 7 %"),
        ("without a feed", f"{_us([one.bare.write for one in rounds])} a write", "-"),
        *(
            (f"other clients' p99 {where}, {_USUAL_RATE:,} writes/s", _ms(figures), "-")
            for where, figures in (
                ("alone", [one.alone.p99 for one in rounds]),
                ("beside a follow", [one.beside.p99 for one in rounds]),
            )
        ),
    ]


def _us(figures: Sequence[float]) -> str:
    return f"{MEGA * _middle(figures):.2f} us"


def _ms(figures: Sequence[float]) -> str:
    return f"{1e3 * _middle(figures):.1f} ms"
