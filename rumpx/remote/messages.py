"""Messages between the coordinator and the tasks of a Dask cluster.

Downwards, several times a second at most, `Orders` go to all workers together. Upwards a task first
says `Hello`, and reports by numbered events; what has not arrived when it ends is its result
(`Done`), which Dask delivers. All are pickled: both ends are the same version of rumpx.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any, Final

from rumpx.engine.backend import WalkOrder
from rumpx.engine.lone_walk import Finish, Report
from rumpx.engine.scanner import ScanSettings
from rumpx.errors import RumpxError, Side
from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node
from rumpx.throttle.rates import Pace
from rumpx.transfer.handler import Spec

# Seconds between two orders, at most.
RENEW_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a task needs beside its settings.

    Attributes:
        passwords: by side and kind ("password", "sentinel_password"), if they are sent; else each
            worker takes them from its own environment or files.
        authorities: by side: the certificates of CAs, PEM.
    """

    passwords: dict[tuple[Side, str], str] = field(default_factory=dict, repr=False)
    authorities: dict[Side, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WalkTask:
    """One walk for one task.

    Attributes:
        run: names the run; topic of its events.
        number: of the task, unique in the run.
        settings, spec: without passwords and certificates.
        nodes: all nodes that it must reach, by side, with the `run_id` of the plan, "" if unknown.
        writer: the beginning of the names of its connections to the target; "" if it writes
            nothing.
    """

    run: str
    number: int
    order: WalkOrder
    settings: ScanSettings
    spec: Spec
    nodes: tuple[tuple[Side, Node, str], ...]
    writer: str
    secrets: Secrets


@dataclass(frozen=True, slots=True)
class Orders:
    """The state of a run, for all its tasks; each message replaces the one before, and renews the
    lease.

    Attributes:
        number: of the message; an older one is ignored.
        pace: rates of one task.
        scan_count, batch_keys, wait: as in Decision, for one task.
        scans, batches: by token, how many may be in flight.
        accepted: tokens of the tasks that may work.
        ended: tokens of those that must end.
        received: by token, the number of reports that have arrived.
        stop: all tasks end, once their batches in flight are settled.
        rest: processes without a task close all their connections.
        sent: by the coordinator's monotonic clock.
    """

    run: str
    number: int
    pace: Pace
    scan_count: int
    scans: dict[str, int]
    batch_keys: int
    batches: dict[str, int]
    wait: float
    accepted: frozenset[str]
    ended: frozenset[str]
    received: dict[str, int]
    stop: bool = False
    rest: bool = False
    sent: float = 0.0


@dataclass(frozen=True, slots=True)
class Identity:
    """One node, as a worker reached it: its `run_id`, "" if unknown, or why it did not."""

    side: Side
    address: Address | None
    run_id: str = ""
    trouble: RumpxError | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """A task has started. Each start has a token of its own: Dask may start a lost task again.

    Attributes:
        identities: of the nodes that it does not reach, or as which another server answers than in
            the plan.
        writer: the name of its connections to the target; "" if it writes nothing.
    """

    number: int
    token: str
    worker: str
    host: str
    pid: int
    identities: tuple[Identity, ...]
    writer: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """A worker process: `cpu` in percent of one core, `memory` in bytes; batches in flight."""

    cpu: float
    memory: int
    batches: int


@dataclass(frozen=True, slots=True)
class Reported:
    """A task's report number `sequence`, counted from 0."""

    number: int
    token: str
    sequence: int
    report: Report
    usage: Usage


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a task.

    Attributes:
        rest: reports of which the task does not know that they have arrived.
        finish: None if the walk did not start, or did not end by itself.
        error: the run cannot continue.
        lapsed: the lease was over.
    """

    token: str
    rest: tuple[Reported, ...] = ()
    finish: Finish | None = None
    error: RumpxError | None = None
    lapsed: bool = False


def pack(message: Hello | Reported) -> bytes:
    """Return an event's body: Dask's events travel as msgpack, which knows bytes."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def unpack(body: Any) -> Hello | Reported | None:
    """Return the message of an event; None if it is none of ours."""
    if not isinstance(body, bytes):
        return None
    message = pickle.loads(body)
    return message if isinstance(message, Hello | Reported) else None
