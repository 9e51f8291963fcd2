"""The governor at work: measurements to it, its decisions to scanners and workers.

Several times a second the governor decides, from the prober's measurements, the limits and the
time. A decision takes effect in the gate that SCANs of this host pass, and in the backend.
"""

from __future__ import annotations

import selectors
import time
from typing import Any, Final

from rumpx.engine.backend import Backend
from rumpx.engine.plan import Plan
from rumpx.throttle.calm import Calm
from rumpx.throttle.decision import Decision, Full
from rumpx.throttle.governor import Done, Governor
from rumpx.throttle.prober import Probing, Watched
from rumpx.throttle.scan_gate import Gate

_DECIDE_SECONDS: Final = 0.1
# During a learning pause.
_LEARN_SECONDS: Final = 0.01
# A run starts without baselines if a node has not answered for so long.
_BASELINE_SECONDS: Final = 1.0


class Steering:
    """Holds a run to its limits.

    Args:
        plan: the limits, and the work in flight of an unlimited run.
        backend: does the walks.

    Attributes:
        governor: decides.
        gate: for SCANs of this host.
        decision: the last one, once there is one.
    """

    def __init__(self, plan: Plan, backend: Backend) -> None:
        self.gate = Gate(backend.pacer, plan.tuning.scan_count, plan.tuning.batch_keys)
        self.governor = _governor(plan, self.gate.calm)
        self.decision: Decision | None = None
        self._due = 0.0
        self._backend = backend
        self._started = 0.0
        sides = plan.source, plan.target
        self._nodes = [(side.dialer.side, node) for side in sides for node in side.infos]
        self._probing = Probing([Watched(side.dialer, tuple(side.infos)) for side in sides])

    def start(self, selector: selectors.BaseSelector) -> None:
        """Start to measure; the prober's channel is registered with the selector."""
        self._started = time.monotonic()
        self._probing.start(selector)

    @property
    def ready(self) -> bool:
        """True if the first SCAN may be sent: baselines are known, or a node does not answer."""
        waited = time.monotonic() - self._started
        return waited > _BASELINE_SECONDS or self.governor.knows_idle(self._nodes)

    def observes(self, ready: Any) -> bool:
        """Take a measurement, if the data of a readable file is the prober's; return False for any
        other."""
        if ready is not self._probing:
            return False
        if measured := self._probing.receive():
            self.governor.observe(measured)
        return True

    @property
    def due(self) -> float:
        """When the next decision is due, by `time.monotonic()`."""
        return self._due

    def decide_anew(self, done: Done) -> None:
        """As `decide`, at once."""
        self._due = 0.0
        self.decide(done)

    def decide(self, done: Done) -> None:
        """Have the governor decide, if that is due, and pass its decision on.

        Args:
            done: of this run.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._probing.restart_if_due(now)
        decision = self.governor.decide(now, time.time(), done)
        for burst in self.governor.bursts():
            self._probing.order(burst)
        self._due = now + (_LEARN_SECONDS if self.governor.learning else _DECIDE_SECONDS)
        if decision == self.decision:
            return
        self.decision = decision
        self._backend.obey(decision)
        self.gate.set(
            decision.scan_count, decision.batch_keys, decision.scans_in_flight, decision.wait
        )

    def close(self) -> None:
        """End the prober."""
        self._probing.close()


def _governor(plan: Plan, calm: Calm) -> Governor:
    limits, timetable = plan.job.limits, None
    if limits.schedule:
        from rumpx.model.schedule import parse_timetable

        timetable = parse_timetable(limits.schedule, limits.time_zone)
    round_trips = plan.source.clock.round_trip + plan.target.clock.round_trip
    return Governor(
        Full.of(plan.tuning, round_trips),
        limits,
        timetable,
        calm=calm,
    )
