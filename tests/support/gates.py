"""A gate that holds nothing up, for walks without an engine."""

from __future__ import annotations

from rumpx.copy.gate import Gate
from rumpx.copy.prepare import Plan
from rumpx.copy.throttle import Throttle


def open_gate(plan: Plan) -> Gate:
    """As the plan's tuning says."""
    return Gate(Throttle(), plan.tuning.scan_count, plan.tuning.batch_keys)
