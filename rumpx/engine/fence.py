"""End old connections to the target: those of earlier runs, and of dead workers.

A process's last writes may still be under way when it is killed, held up by the network or a proxy,
and would overwrite newer values. So connections to the target that may write have names

    rumpx:JOB:RUN     of the coordinator
    rumpx:JOB:RUN.N   of its worker number N

where JOB is the job's mark, which no other job has, and RUN is new for each run. They are ended at
every node of the target (`servers.clients`):

- those of earlier runs, before a run that resumes writes anything;
- a dead worker's, before its batches are given out again;
- those of this run's workers, open and lost ones alike, before the run is done.

(A live worker ends a connection that it lost before it uses a new one: `servers.connections`.)

If CLIENT KILL is refused, the fence waits for the connections to end by themselves, as those of
dead processes do unless something holds them. If some remain, or CLIENT LIST is refused, the caller
is told.

Not promised: that a replica which does not answer, or an old primary that was cut off by a failover
and has not come back, holds no such connection; neither accepts writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rumpx.engine.plan import Plan
from rumpx.errors import RumpxError, TemporaryError
from rumpx.model.endpoint import Address
from rumpx.servers.clients import Left, end_clients
from rumpx.servers.side import SideFacts

# Longer than the kernel or a proxy holds sent data, unless the network itself is broken.
LATE_SECONDS: Final = 10.0
UNFENCED: Final = (
    "The target does not let rumpx end its own connections there, so a write that was under way "
    "when a connection, a worker or a run was lost may still land, over a newer value."
)
MEND_FENCE: Final = (
    "Allow it by ACL SETUSER name +client|setname +client|id +client|list +client|kill, or verify "
    "before you switch over."
)
_PAUSE: Final = 0.5
_WORSE: Final = {"nothing": 0, "some": 1, "unknown": 2}


def with_writer(plan: Plan, mark: str) -> Plan:
    """Return the plan with a name for all of a new run's connections to the target.

    Args:
        mark: the job's: letters, digits, '.', '_' and '-'.
    """
    writer = f"rumpx:{mark}:{os.urandom(4).hex()}"
    dialer = replace(plan.target.dialer, writer=writer)
    return replace(plan, target=replace(plan.target, dialer=dialer))


class Fence:
    """Ends connections to the target.

    Args:
        target: its dialer holds the name of this run.
        retry_for: seconds of trouble after which `worker` gives up.
    """

    def __init__(self, target: SideFacts, retry_for: float) -> None:
        self._target = target
        self._retry_for = retry_for
        self._run = target.dialer.writer
        self._job = self._run[: self._run.rindex(":") + 1]
        self._workers = f"{self._run}."

    def earlier_runs(self) -> Left:
        """End the connections of the job's earlier runs, at once; return those that are left.

        Raises:
            TemporaryError: a primary does not answer.
        """
        ours = self._run, self._workers
        return self._end(lambda name: name.startswith(self._job) and not name.startswith(ours))

    def workers(self) -> Left:
        """End the connections of this run's workers, which are idle, at once; return those that are
        left.

        Raises:
            TemporaryError: a primary does not answer.
        """
        return self._end(lambda name: name.startswith(self._workers))

    def worker(self, name: str) -> Left:
        """End a dead worker's connections, within `LATE_SECONDS`; return those that are left.

        Raises:
            TemporaryError: a primary did not answer for `retry_for` seconds.
        """
        began = time.monotonic()
        while True:
            try:
                left = self._end(lambda other: other == name)
                if left != "some" or time.monotonic() - began > LATE_SECONDS:
                    return left
            except TemporaryError:
                if time.monotonic() - began > self._retry_for:
                    raise
            time.sleep(_PAUSE)

    def _end(self, doomed: Callable[[str], bool]) -> Left:
        topology = self._target.topology_now()
        left: Left = "nothing"
        for node in topology.nodes:
            left = max(left, self._end_at(node.address, doomed), key=_WORSE.__getitem__)
            for replica in node.replicas:
                try:
                    self._end_at(replica, doomed)
                except RumpxError:
                    continue  # it accepts no writes now
        return left

    def _end_at(self, address: Address | None, doomed: Callable[[str], bool]) -> Left:
        connection = self._target.dialer.connect(address)
        try:
            return end_clients(connection, doomed)
        finally:
            connection.close()
