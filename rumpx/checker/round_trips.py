"""Idle round trips of a server."""

from __future__ import annotations

import statistics
import time
from typing import Final

from rumpx.model.checkup import Latency
from rumpx.servers.side import SideFacts, connected

_PINGS: Final = 50


def measure_latency(side: SideFacts) -> Latency:
    """PING the first primary repeatedly; a refused PING takes as long.

    Raises:
        SourceUnusable, TargetUnusable: it does not answer.
    """
    took = []
    with connected(side.dialer, side.topology.nodes[0].address) as connection:
        for _ in range(_PINGS):
            began = time.perf_counter()
            connection.call("PING")
            took.append((time.perf_counter() - began) * 1000)
    return Latency(_PINGS, round(statistics.median(took), 3), round(max(took), 3))
