"""Events that threads of the coordinator put into the engine's mailbox: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rumpx.errors import RumpxError
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node
from rumpx.servers.clients import Left
from rumpx.transfer.messages import Ack, FromWorker

_NONE: Final = Counts()
WalkName = tuple[int, int]
"""A partition's number, and the number of restarts of its walk."""


@dataclass(frozen=True, slots=True)
class Found:
    """From a scanner: keys in scope. `cursor` is where the walk resumes once these keys and all
    before them are settled; for a part of a SCAN reply that is the cursor of this reply."""

    partition: int
    walk: int
    node: Address | None
    keys: list[bytes]
    cursor: int


@dataclass(frozen=True, slots=True)
class Walked:
    """From a scanner: the partition's walk has ended; all its keys were Found."""

    partition: int
    walk: int


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """From a scanner: another server process than planned answers for the partition's node, so
    that earlier cursors are invalid. `node` and `run_id` name the present one."""

    partition: int
    walk: int
    node: Node
    run_id: str


@dataclass(frozen=True, slots=True)
class CursorUnproven:
    """From a scanner: a cursor that the arithmetic of cursor spans does not allow."""

    partition: int
    walk: int


@dataclass(frozen=True, slots=True)
class ScanTrouble:
    """From a scanner: the walk cannot continue, and the run ends with this error."""

    error: RumpxError


@dataclass(frozen=True, slots=True)
class Ended:
    """From the thread that ends a dead worker's connections to the target: what is left of them, or
    the error that leaves it unknown."""

    worker: str
    left: Left
    error: RumpxError | None = None


@dataclass(frozen=True, slots=True)
class Advanced:
    """From a backend that settles keys where it finds them: all keys of a walk up to a cursor are
    settled. `ack` holds their results since the last such event, and no batch's number. `ahead`
    counts the keys beyond the cursor that are settled now: a walk that resumes at the cursor meets
    them again."""

    partition: int
    walk: int
    cursor: int
    ack: Ack
    ahead: Counts = _NONE


FromScanner = Found | Walked | NodeChanged | CursorUnproven | ScanTrouble
Event = FromScanner | Advanced | Ended | FromWorker
