"""A gate that holds nothing up, for walks without an engine."""

from __future__ import annotations

from rumpx.engine.plan import Plan
from rumpx.throttle.rates import Throttle
from rumpx.throttle.scan_gate import Gate


def open_gate(plan: Plan) -> Gate:
    """As the plan's tuning says."""
    return Gate(Throttle(), plan.tuning.scan_count, plan.tuning.batch_keys)
