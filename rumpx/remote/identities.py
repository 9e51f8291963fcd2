"""Which servers the workers reach: the same ones as the coordinator, or the run must not write.

A start of a task names the nodes that its worker does not reach, and those where a server answers
that is not the plan's (`Hello.identities`). The coordinator then looks for itself.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Final

from rumpx.engine.plan import Plan
from rumpx.errors import RumpxError, Side, TemporaryError, UsageError, unusable
from rumpx.model.endpoint import Address, format_address
from rumpx.model.nodes import Node
from rumpx.remote.messages import Hello, Identity
from rumpx.servers.side import SideFacts

# An answer of a node holds for so many seconds, since to dial a dead one takes a while.
_VERDICT_SECONDS: Final = 5.0


class Identities:
    """Compares what workers and the coordinator reach.

    Args:
        plan: its sides know the `run_id` of each node.
    """

    def __init__(self, plan: Plan) -> None:
        self._sides: dict[Side, SideFacts] = {"source": plan.source, "target": plan.target}
        self._verdicts: dict[tuple[Side, Address | None], tuple[float, str | None]] = {}

    def refuse_others(self, hello: Hello) -> None:
        """Raise if a worker reaches other servers than the coordinator."""
        for one in hello.identities:
            side, node = self._sides[one.side], self._node(one)
            planned = side.run_id(one.address)
            if one.trouble or not planned or one.run_id == planned:
                continue
            now = self._identity_now(one)
            if now is not None and now != one.run_id:  # else the walk itself will notice a change
                raise UsageError(
                    f"The Dask worker {hello.worker} on {hello.host} reaches another server for "
                    f"{node.label(str(side.dialer.endpoint))} of the {one.side} than this machine "
                    "does. Give an address that is the same everywhere."
                )

    def barred(self, hello: Hello) -> Identity | None:
        """Return a node that a worker does not reach, and this machine does. (One that is down for
        both is the walk's to wait for.)"""
        for one in hello.identities:
            if not one.trouble:
                continue
            if not isinstance(one.trouble, TemporaryError) or self._identity_now(one) is not None:
                return one
        return None

    def _identity_now(self, one: Identity) -> str | None:
        """Return the `run_id` of a node, as this machine reaches it; None if it does not. The
        answer holds for some seconds, since to dial a dead node takes a while."""
        name, now = (one.side, one.address), time.monotonic()
        asked, told = self._verdicts.get(name, (-math.inf, None))
        if now - asked > _VERDICT_SECONDS:
            told = None
            with suppress(TemporaryError):
                told = self._sides[one.side].identity_now(self._node(one))
            self._verdicts[name] = time.monotonic(), told
        return told

    def _node(self, one: Identity) -> Node:
        nodes = self._sides[one.side].topology.nodes
        return next(node for node in nodes if node.address == one.address)


def unreached(one: Identity) -> RumpxError:
    """Return the error of a node that no worker reaches."""
    name = format_address(one.address) if one.address else "it"
    return unusable(one.side)(
        f"No Dask worker reaches the {one.side} ({name}) as it must: {one.trouble} Workers take "
        "passwords from RUMPX_FROM_PASSWORD and RUMPX_TO_PASSWORD of their own environment."
    )
