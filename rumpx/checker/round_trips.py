"""Idle round trips of a server, and the limit of latency that they allow."""

from __future__ import annotations

import itertools
import statistics
import time
from contextlib import closing
from typing import Final

from rumpx.errors import Side
from rumpx.model.checkup import Latency, Line
from rumpx.servers.side import SideFacts, connected
from rumpx.throttle.baseline import BASE_QUANTILE, Baseline, quantile
from rumpx.throttle.decision import LATENCY_HIGH
from rumpx.units import count_of

_MOST_PINGS: Final = 200
_FEWEST_PINGS: Final = 20
_SECONDS: Final = 2.0
# The network itself exceeds a limit if more idle PINGs than the rest are above it.
_USUAL: Final = 0.95


def measure_idle(side: SideFacts) -> list[float]:
    """PING the first primary repeatedly, for two seconds at most, and return the seconds that each
    took; a refused PING takes as long.

    Raises:
        SourceUnusable, TargetUnusable: it does not answer.
    """
    took: list[float] = []
    began = time.monotonic()
    with (
        connected(side.dialer, side.topology.nodes[0].address) as connection,
        closing(connection.stopwatch()) as watch,
    ):
        for number in range(_MOST_PINGS):
            if number >= _FEWEST_PINGS and time.monotonic() - began > _SECONDS:
                break
            connection.call_timed(watch, "PING")
            if watch.took is not None:
                took.append(watch.took)
    return took


def describe_idle(times: list[float]) -> Latency:
    """Return the figures of idle PINGs, in ms."""
    figures = (
        statistics.median(times), quantile(times, 0.75), quantile(times, 0.99), max(times)
    )
    return Latency(len(times), *(round(1000 * each, 3) for each in figures))


def judge_limit(side: Side, times: list[float], limit: float) -> Line | None:
    """Return a line if idle PINGs alone exceed a limit of latency, in seconds; None if not."""
    baseline = Baseline()
    sent = itertools.accumulate(times, initial=0.0)
    for sample in zip(sent, times, strict=False):
        baseline.add(sample, idle=True)
    threshold = LATENCY_HIGH * limit
    late = [took for took in times if took > baseline.base + threshold]
    usual = quantile(times, _USUAL) - baseline.base
    if usual <= threshold:
        return None
    forgiven = baseline.forgives_all(len(late) / len(times), threshold)
    text = (
        f"{len(late)} of {count_of(len(times), 'idle PING')} to the {side} took "
        f"{1000 * threshold:.3g} ms (half of the limit) longer than {BASE_QUANTILE:.0%} of them, "
        f"while nothing was copied: with --max-{side}-latency {1000 * limit:g}ms "
    )
    text += (
        "the copy allows for that, and notices only load that delays most answers"
        if forgiven
        else "it would throttle the copy"
    )
    advice = f"--max-{side}-latency {_round_up(1000 * usual / LATENCY_HIGH)}ms is above that"
    return Line("info" if forgiven else "warn", "latency", text, advice)


def _round_up(number: float) -> int:
    """Return the next of 1, 2, 5, 10, 20, …"""
    power = 1
    while 5 * power < number:
        power *= 10
    return next(step * power for step in (1, 2, 5) if step * power >= number)
