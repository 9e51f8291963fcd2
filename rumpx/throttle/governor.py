"""The governor: keeps the observations of a run's servers, and decides from them (`decision`).

The prober's measurements come in by `observe`; `decide` passes on those that count now. A latency
counts from the last cut, the last learning pause or the start of work on, whichever is latest, so
that each decision is judged by its own effect.

If a latency may be above its limit, and a better known baseline could forgive that, nothing is sent
for a moment, if `pauses` allows it, so that the prober learns the baseline (`latency`). The share
stays, and observations start again from there. A baseline that forgives something is learnt again
each minute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from rumpx.errors import SIDES, Side
from rumpx.model.job import Limits
from rumpx.model.nodes import NodeName
from rumpx.model.tuning import fitting_batch
from rumpx.throttle.calm import Calm
from rumpx.throttle.decision import LATENCY_HIGH, Decision, Full, Hold, Seen, Share, decide
from rumpx.throttle.latency import NodeLatency
from rumpx.throttle.pauses import Pauses, burst_seconds, has_learnt, since_pause
from rumpx.throttle.prober import Burst, Felt, Measured, Used, Watching
from rumpx.throttle.usage import Usage

if TYPE_CHECKING:
    from rumpx.model.schedule import Timetable
    from rumpx.model.schedule import Window as TimeWindow

# A baseline that forgives something is learnt again after so many seconds.
_LEARN_AGAIN_SECONDS: Final = 60.0
_MOST_LEARNT_AT_ONCE: Final = 8


class Done(NamedTuple):
    """Keys settled so far, and their mean payload in bytes; 0 if unknown."""

    keys: int = 0
    mean_payload: float = 0.0


@dataclass(slots=True)
class Governor:
    """Keeps the observations, and decides.

    Args:
        full: an unlimited run's work in flight; see `fit`.
        limits: may be replaced during the run.
        timetable: None for always.
        calm: when nothing of the run is in flight.

    Attributes:
        held_seconds: how long each of `model.snapshot.HOLDS` has held the run, if any.
    """

    full: Full
    limits: Limits
    timetable: Timetable | None = None
    paused: bool = False
    calm: Calm = field(default_factory=Calm)
    held_seconds: dict[str, float] = field(default_factory=dict)
    _share: Share = field(init=False)
    _keys: int = 0
    _decided: float | None = None
    _window: TimeWindow | None = None
    _pauses: Pauses = field(default_factory=Pauses)
    _felt: dict[NodeName, NodeLatency] = field(default_factory=dict)
    _usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._share = Share(self.full.first)

    def fit(self, keys: int) -> None:
        """Choose the size of batches anew, for walks of so many keys."""
        full = self.full
        size = fitting_batch(keys, full.workers, full.pipeline_keys)
        self.full = replace(full, batch_keys=size)

    @property
    def share(self) -> float:
        """0.0 to 1.0 of an unlimited run's work in flight."""
        return self._share.value

    def node(self, node: NodeName, now: float) -> tuple[float | None, float | None, Used | None]:
        """Return one node's seconds above its base, share of a core, and last usage; None if
        unknown."""
        felt = self._felt.get(node)
        return (
            felt.latency(now, -math.inf, self._threshold(node[0])) if felt else None,
            self._usage.share(node),
            self._usage.last(node),
        )

    @property
    def nodes(self) -> list[NodeName]:
        """All watched nodes."""
        return list(dict.fromkeys([*self._felt, *self._usage.nodes]))

    @property
    def closed(self) -> bool:
        """True while the timetable says "off"."""
        return bool(self._window and self._window.limit == "off")

    def observe(self, told: Measured) -> None:
        """Take a measurement, or the new list of watched nodes."""
        if isinstance(told, Watching):
            for node in [n for n in self._felt if n[0] == told.side and n not in told.nodes]:
                del self._felt[node]
            self._usage.keep(told.side, told.nodes)
            return
        if isinstance(told, Felt):
            felt = self._felt.get(told.node)
            if felt is None or felt.connected != told.connected:
                felt = self._felt[told.node] = NodeLatency(told.connected, told.interval)
            for sent, took in told.samples:
                felt.add((sent, took), idle=self.calm.covers(sent, sent + took))
            if told.waiting:
                felt.window.add(told.waiting)
            return
        self._usage.observe(told, self._keys)

    def used(self, side: Side) -> list[Used]:
        """Return the last usage of each node of a side."""
        return self._usage.of(side)

    def latency(self, side: Side, now: float, since: float = -math.inf) -> float | None:
        """Return the latency of a side's worst node, in seconds above its base."""
        threshold = self._threshold(side)
        values = [
            value
            for node, felt in self._felt.items()
            if node[0] == side and (value := felt.latency(now, since, threshold)) is not None
        ]
        return max(values, default=None)

    def _threshold(self, side: Side) -> float | None:
        """Return the latency of a side at which the pressure is 1; None for no limit."""
        limit = self.limits.max_latency(side)
        return None if limit is None else LATENCY_HIGH * limit

    def knows_idle(self, nodes: Iterable[NodeName]) -> bool:
        """Return True if each of these nodes whose latency is limited has a baseline."""
        return all(
            (felt := self._felt.get(node)) is not None and felt.baseline.known
            for node in nodes
            if self.limits.max_latency(node[0]) is not None
        )

    def decide(self, now: float, wall: float, done: Done) -> Decision:
        """Decide how much may be in flight now.

        Args:
            now, wall: `time.monotonic()` and `time.time()`.
            done: of this run.
        """
        self._keys = done.keys
        if self.timetable and not (self._window and wall < self._window.until):
            self._window = self.timetable.at(wall)
        if self._pauses.nodes and self._has_learnt(now):
            self._end_pause(now)
        known = Seen(payload=done.mean_payload, key_seconds=self._usage.key_seconds())
        share, decision = self._decide(self._seen(known, now), now)
        if not decision.off and (self._pauses.nodes or self._starts_pause(now)):
            # Nothing is observed meanwhile, so the share stays.
            share, decision = self._decide(known, now)
            hold = Hold(self._pauses.by, f"pausing to learn the idle {self._pauses.by}")
            decision = replace(
                decision, batches_in_flight=0, scans_in_flight=0, holds=(hold,)
            )
        self._share = share
        passed = now - self._decided if self._decided is not None else 0.0
        self._decided = now
        for by, _ in decision.holds:
            self.held_seconds[by] = self.held_seconds.get(by, 0.0) + max(0.0, passed)
        return decision

    def _decide(self, seen: Seen, now: float) -> tuple[Share, Decision]:
        return decide(
            self._share, seen, self.limits, self._window, self.paused, self.full, now
        )

    @property
    def learning(self) -> bool:
        """True during a learning pause."""
        return bool(self._pauses.nodes)

    def bursts(self) -> list[Burst]:
        """Return the bursts of PINGs to order now."""
        if not self._pauses.take_order(self.calm):
            return []
        return [
            Burst(node, burst_seconds(self._felt[node].baseline.base))
            for node in self._pauses.nodes
            if node in self._felt
        ]

    def _starts_pause(self, now: float) -> bool:
        """Start a learning pause, if one is due and allowed; return True if so."""
        calm = self.calm
        if not (self._pauses.may_start(now) and calm.by_pausing) or math.isinf(calm.began):
            return False
        for side in SIDES:
            threshold = self._threshold(side)
            if threshold is None:
                continue
            felt = {node: felt for node, felt in self._felt.items() if node[0] == side}
            if nodes := self._doubtful(felt, threshold, now) or _forgiven(felt, threshold, now):
                self._pauses.start(now, f"{side} latency", tuple(nodes[:_MOST_LEARNT_AT_ONCE]))
                return True
        return False

    def _doubtful(
        self, felt: Mapping[NodeName, NodeLatency], threshold: float, now: float
    ) -> list[NodeName]:
        """Return the nodes whose latency may be too high, if a better known baseline could forgive
        all of it."""
        since = self._observed_since
        if any(each.beyond_doubt(now, since, threshold) for each in felt.values()):
            return []
        return [node for node, each in felt.items() if each.suspect(now, since, threshold)]

    def _has_learnt(self, now: float) -> bool:
        if self._pauses.too_long(now):
            return True
        felt = [self._felt[node] for node in self._pauses.nodes if node in self._felt]
        return self.calm.now and all(has_learnt(each, self.calm) for each in felt)

    def _end_pause(self, now: float) -> None:
        if self.calm.now:
            for node in self._pauses.nodes:
                if node in self._felt:
                    self._felt[node].baseline.forget(since_pause(self.calm))
        self._pauses.end(now)

    @property
    def _observed_since(self) -> float:
        """The time from which on latencies count: the last cut, the last pause's end, or the start
        of work."""
        began = self.calm.began
        return max(
            self._share.cut, self._pauses.ended, began if math.isfinite(began) else -math.inf
        )

    def _seen(self, known: Seen, now: float) -> Seen:
        """Return the present observations, beside those that are known."""
        share, since = self._share, self._observed_since
        return replace(
            known,
            source_latency=self.latency("source", now, since),
            target_latency=self.latency("target", now, since),
            source_cpu=self._usage.highest_cpu("source", now, share.cut, share.changed),
            source_memory=self._usage.highest_memory("source", now, share.cut),
            source_second=self.latency("source", now),
            target_second=self.latency("target", now),
        )


def _forgiven(
    felt: Mapping[NodeName, NodeLatency], threshold: float, now: float
) -> list[NodeName]:
    """Return the nodes whose baseline forgives something, and is old."""
    return [
        node
        for node, each in felt.items()
        if now - each.baseline.learnt > _LEARN_AGAIN_SECONDS
        and each.baseline.forgives(threshold, each.spacing)
    ]
