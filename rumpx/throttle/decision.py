"""The decision how much may be in flight now, and the reason.

`decide` is a pure function of the observations (`governor` keeps them), the limits and the time.
Feedback (latency of both
sides, a source's CPU and memory) adjusts one number, the *share* of an unlimited run's work in
flight, by multiplicative decrease and increase:

- each limit has a *pressure*. A CPU's is its use divided by the limit. A latency's is 1 at half
  of the limit already, since the second-highest of fifty PINGs is about the p97 of other clients'
  waits, and the limit is for their p99. Memory has none until it is above its limit;
- the highest is above 1: the share is cut to where it should be at three quarters, at most to a
  third, and observations start again from there: a cut is judged by its own effect;
- it is below a half: the share grows by a quarter and a little, five times a second;
- between: it grows by a twentieth, so that a run is not stuck where others cause all the latency;
- a limited quantity is not known now, or not yet since the last change: the share does not grow.

A smaller share is less work, not the same work in smaller pieces, which would cost both servers
and this machine more for each key. It takes away, in this order:

1. batches and SCANs in flight, and with them workers: three batches on one worker wake fewer
   processes than one on each of three. A server executes one client's pipeline before it serves the
   next, so another client waits for all pipelines that are in flight;
2. below one batch: time. One pipeline at a time, with pauses between that grow up to 0.2 s; never
   nothing.

A pipeline is short enough at any share: it occupies the source for at most three tenths of the
latency limit, by the measured time that a key takes (`key_seconds`), or a tenth once there are
pauses; but has at least `FEWEST_KEYS`, below which other clients gain nothing. Its payloads
together, unless it is a single one, are sent within the limit.

Rates need no feedback: `rates` keeps them exactly. Here they only limit the size of a pipeline, so
that each is smooth, and the work given out ahead, so that a change takes effect soon.

Reason for the numbers: `python -m benchmarks gentle`. With cuts at 90 % of the limit the p99 of
other clients was within it in half of the seconds, at 60 % in 84 of 100, at 50 % in 95.
A run starts with a few batches on one worker, since nothing has been measured yet, and doubles them
each tenth of a second until a limit is near.

Not promised: that a limit holds regardless of other clients. If the source is slow without us, the
run continues at its slowest, and reports that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from rumpx.model.job import Limits
from rumpx.model.tuning import (
    COMMANDS_A_KEY,
    FEWEST_BATCHES,
    FEWEST_KEYS,
    KEY_SECONDS,
    PIPELINE_PART,
    Tuning,
)
from rumpx.throttle.rates import QUANTUM, Pace

if TYPE_CHECKING:
    from rumpx.model.schedule import Window as TimeWindow

# The part of a latency limit for which one pipeline may occupy the source with pauses between.
_PAUSED_PART: Final = 0.1
# Seconds for which a byte occupies the source; a key of SCAN.
_BYTE_SECONDS: Final = 2e-9
_SCANNED_SECONDS: Final = 0.5e-6
# A pipeline's way through both servers and back takes this many times as long as on the source.
_WHOLE_TURN: Final = 4.0
_SETTLE_SECONDS: Final = 0.3
_GROW_SECONDS: Final = 0.2
_FIRST_GROW_SECONDS: Final = 0.1
# A latency's share of its limit at which the pressure is 1.
LATENCY_HIGH: Final = 0.5
_MEMORY_HIGH: Final = 3.0
_UNKNOWN: Final = -1.0
_AIM: Final = 0.75
_CALM: Final = 0.5
# Fifty keys at a time with this pause between are a load of a tenth of a percent.
_LONGEST_WAIT: Final = 0.2
_LOWEST: Final = 0.02
# Batches are given out this far ahead of a rate, in seconds, besides the round trip to the servers.
_AHEAD_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Full:
    """An unlimited run's work in flight; `batches` are those of all `workers`, `way` is the round
    trip to both sides, in seconds."""

    scan_count: int
    scans: int
    batch_keys: int
    pipeline_keys: int
    batches: int
    workers: int = 1
    way: float = 0.0

    @property
    def first(self) -> float:
        """The share of a run that starts: a few batches, on one worker."""
        return min(1.0, FEWEST_BATCHES / self.batches)

    @property
    def one_batch(self) -> float:
        """The share at which one batch is in flight."""
        return 1 / self.batches

    @classmethod
    def of(cls, tuning: Tuning, way: float) -> Full:
        """Return the work in flight as planned."""
        return cls(
            tuning.scan_count,
            tuning.scanners,
            tuning.batch_keys,
            tuning.pipeline_keys,
            tuning.workers * tuning.batches_in_flight,
            tuning.workers,
            way,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Observations of the worst node each; None if unknown.

    Attributes:
        source_latency, target_latency: seconds above the base, of the last second, but only since
            the last cut or learning pause.
        source_cpu: of one core.
        source_memory: of maxmemory.
        payload: mean bytes of the keys so far.
        key_seconds: for which a key occupies the source; 0.0 if unknown.
        source_second, target_second: the latencies of the whole last second, for display.
    """
    source_latency: float | None = None
    target_latency: float | None = None
    source_cpu: float | None = None
    source_memory: float | None = None
    payload: float = 0.0
    key_seconds: float = 0.0
    source_second: float | None = None
    target_second: float | None = None


class Hold(NamedTuple):
    """A limit that holds a run: `by` is one of `model.snapshot.HOLDS`, `words` are for display."""

    by: str
    words: str


@dataclass(frozen=True, slots=True)
class Share:
    """The share of a full run that may be in flight, the times of its last change and its last cut
    (`time.monotonic()`), and the limit that held it."""

    value: float
    changed: float = -math.inf
    cut: float = -math.inf
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The work that may be in flight now.

    Attributes:
        scan_count, scans_in_flight: of SCAN, for all partitions together.
        batch_keys, batches_in_flight: of batches, for all workers together; none while it is off.
        workers: that may get batches.
        wait: seconds between two batches, and between two SCANs.
        pace: for the workers.
        holds: the limits that hold the run.
        off: stopped for now by the timetable or the user.
    """

    scan_count: int
    scans_in_flight: int
    batch_keys: int
    batches_in_flight: int
    workers: int
    wait: float
    pace: Pace
    holds: tuple[Hold, ...] = ()
    off: bool = False

    @property
    def reason(self) -> str:
        """The limits that hold the run, for display; "" if none does."""
        return "; ".join(hold.words for hold in self.holds)


def decide(
    share: Share,
    seen: Seen,
    limits: Limits,
    window: TimeWindow | None,
    paused: bool,
    full: Full,
    now: float,
) -> tuple[Share, Decision]:
    """Decide how much may be in flight from now on.

    Args:
        share: as the last call returned it.
        window: the timetable's present window.
        paused: by the user.
        now: `time.monotonic()`.
    """
    share = adapt(share, seen, limits, full, now)
    rates = Pace(
        keys=limits.max_keys_per_sec or 0.0,
        payload=_lower(limits.max_bytes_per_sec, window),
        ops=limits.max_ops_per_sec or 0.0,
    )
    decision = settings(full, share.value, rates, seen, limits.tightest_latency)
    if off := _off(window, paused):
        nothing = replace(decision, batches_in_flight=0, scans_in_flight=0)
        return share, replace(nothing, holds=(off,), off=True)
    holds = [share.hold] if share.value < 1 and share.hold else []
    return share, replace(decision, holds=(*holds, *_rates_hold(rates)))


def _lower(limit: float | None, window: TimeWindow | None) -> float:
    scheduled = window.limit if window else "full"
    if isinstance(scheduled, int):
        return min(limit or math.inf, scheduled)
    return limit or 0.0


def _off(window: TimeWindow | None, paused: bool) -> Hold | None:
    if paused:
        return Hold("pause", "paused by rumpx ctl")
    if window is None or window.limit != "off":
        return None
    until = "" if math.isinf(window.until) else f" until {window.ends}"
    return Hold("timetable", f"off by the timetable{until}")


def _rates_hold(rates: Pace) -> Iterable[Hold]:
    if rates.keys:
        yield Hold("keys a second", f"limited to {rates.keys:,.0f} keys/s")
    if rates.payload:
        yield Hold("bytes a second", f"limited to {rates.payload / 2**20:,.4g} MiB/s")
    if rates.ops:
        yield Hold("commands a second", f"limited to {rates.ops:,.0f} commands/s")


def adapt(share: Share, seen: Seen, limits: Limits, full: Full, now: float) -> Share:
    """Return the share after an observation."""
    pressures = list(_pressures(seen, limits))
    if not pressures:
        return Share(1.0, now)
    highest, hold = max(pressures)
    if highest > 1:
        if now - share.cut < _SETTLE_SECONDS:
            return replace(share, hold=hold)
        value = max(_LOWEST * full.one_batch, share.value * max(1 / 3, _AIM / highest))
        return Share(min(value, share.value), now, now, hold)
    known = all(pressure > _UNKNOWN for pressure, _ in pressures)
    if not known:
        hold = share.hold or min(pressures)[1]
    never_cut = math.isinf(share.cut)
    pause = _FIRST_GROW_SECONDS if never_cut else _GROW_SECONDS
    if share.value == 1 or not known or now - share.changed < pause:
        return replace(share, hold=hold)
    if highest < _CALM:
        grown = 2 * share.value if never_cut else 1.25 * share.value + 0.01
    else:
        grown = 1.05 * share.value
    return replace(share, value=min(1.0, grown), changed=now, hold=hold)


def _pressures(seen: Seen, limits: Limits) -> Iterable[tuple[float, Hold]]:
    """Yield each limit's pressure, and the hold to report if it limits the run."""
    for by, value, second, limit in (
        ("source latency", seen.source_latency, seen.source_second, limits.max_source_latency),
        ("target latency", seen.target_latency, seen.target_second, limits.max_target_latency),
    ):
        if limit is not None and value is None:
            yield _UNKNOWN, _not_known(by)
        elif limit is not None and value is not None:
            told = max(value, second or 0.0)
            words = _in_words(by, f"{told * 1e3:.1f} ms", f"{limit * 1e3:g} ms", told > limit)
            yield value / limit / LATENCY_HIGH, Hold(by, words)
    for by, value, limit in (
        ("source CPU", seen.source_cpu, limits.max_source_cpu),
        ("source memory", seen.source_memory, limits.max_source_memory),
    ):
        if limit is not None and value is None:
            yield _UNKNOWN, _not_known(by)
        elif limit is not None and value is not None:
            above = value > limit
            pressure = value / limit if by == "source CPU" else _MEMORY_HIGH * above
            yield pressure, Hold(by, _in_words(by, f"{value:.0%}", f"{limit:.0%}", above))


def _not_known(by: str) -> Hold:
    """Return the hold for an unknown quantity, as before the first report and after a change."""
    return Hold(by, f"throttled until the {by} is known")


def _in_words(what: str, value: str, limit: str, above: bool) -> str:
    return f"throttled by {what} {value} {'>' if above else 'of'} {limit}"


def settings(
    full: Full, share: float, rates: Pace, seen: Seen, latency_limit: float = math.inf
) -> Decision:
    """Return the work that may be in flight with a share, within rates.

    Args:
        latency_limit: seconds.
    """
    paused = share < full.one_batch
    occupies = latency_limit * (_PAUSED_PART if paused else PIPELINE_PART)
    key_seconds = seen.key_seconds or KEY_SECONDS
    pipeline = _within(full.pipeline_keys, occupies / key_seconds)
    scan_count = _within(full.scan_count, occupies / _SCANNED_SECONDS)
    batches = max(1, round(full.batches * share))
    wait = 0.0
    if paused:
        turn = _WHOLE_TURN * pipeline * key_seconds
        wait = min(_LONGEST_WAIT, turn * full.one_batch / share)
    batch = pipeline if paused else max(pipeline, full.batch_keys)
    keys_rate = min(
        rates.keys or math.inf,
        rates.ops / COMMANDS_A_KEY or math.inf,
        rates.payload / seen.payload if rates.payload and seen.payload else math.inf,
    )
    if math.isfinite(keys_rate):
        pipeline = min(pipeline, max(1, int(keys_rate * QUANTUM)))
        ahead = keys_rate * (_AHEAD_SECONDS + 2 * full.way)
        batch = pipeline
        batches = min(batches, max(1, math.ceil(ahead / pipeline)))
    unhindered = pipeline == full.pipeline_keys
    bytes_at_once = min(rates.payload * QUANTUM or math.inf, latency_limit / _BYTE_SECONDS)
    pace = replace(
        rates,
        pipeline_keys=0 if unhindered else pipeline,
        chunk_bytes=max(1, int(bytes_at_once)) if math.isfinite(bytes_at_once) else 0,
    )
    return Decision(
        scan_count=scan_count,
        scans_in_flight=max(1, round(full.scans * share)),
        batch_keys=batch,
        batches_in_flight=batches,
        workers=min(full.workers, math.ceil(batches / FEWEST_BATCHES)),
        wait=wait,
        pace=pace,
    )


def _within(full: int, most: float) -> int:
    """Return at most `most` of `full` keys, but not fewer than have any effect."""
    return full if most >= full else max(min(full, FEWEST_KEYS), int(most))
