"""Watch for changes during a copy: the source's slots, the target's processes.

**Slots.** While a slot migrates, its keys pass one by one from a node that may not be scanned yet
to one that already is, without any reply that says so. `SlotWatch` asks each source primary
itself, every second from a thread of its own and at the end, which slots it serves and which it
marks as in migration. A slot that was marked, or that changed its owner, is *disturbed*, and is
walked again. (Valkey 9's atomic migration sets no mark, and shows only as a change of owner.) The
walks go first to the nodes that hand slots over and then to those that take them, one after the
other: a key that a walk of the first node misses has moved to the second, whose walk comes later.

**Target.** An ack proves that the target had a key, not that it kept it: replication is
asynchronous, and a restart may lose writes. `target_runs` names the process behind each slot;
where it differs at the end from the start, the keys written there are *suspect* and are walked
again.

Not promised: to see a migration that starts and is taken back within a second.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from rumpx.errors import RumpxError, TemporaryError
from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node, OwnView, Topology
from rumpx.model.slots import SLOTS
from rumpx.servers.dial import Dialer
from rumpx.servers.info import read_info
from rumpx.servers.side import SideFacts
from rumpx.servers.topology import marked, own_view, read_topology

_POLL_SECONDS: Final = 1.0
_LAST_POLL_SECONDS: Final = 1.0

T = TypeVar("T")
SlotOwner = tuple[int, int, Address | None]
TargetRun = tuple[int, int, str]
"""(first slot, last slot, owner or run_id); slots 0 to 0 for a single server."""


@dataclass(frozen=True, slots=True)
class SlotViews:
    """Each primary's own view of its slots, all read at about one moment."""

    topology: Topology
    views: dict[Address | None, OwnView]

    @property
    def marked(self) -> frozenset[int]:
        """Slots in migration."""
        return frozenset().union(*(view.moving for view in self.views.values()))

    def owners(self) -> dict[int, Address | None]:
        """Return the owner of each slot, by the owner's own report."""
        return {slot: node for node, view in self.views.items() for slot in view.slots}

    def takers_last(self) -> list[Node]:
        """Return the primaries; those that take marked slots without owning them yet come last."""
        owners = self.owners()

        def takes(node: Node) -> bool:
            view = self.views.get(node.address)
            return bool(view) and any(owners.get(s) != node.address for s in view.moving)  # type: ignore[union-attr]

        return sorted(self.topology.nodes, key=takes)


class SlotWatch:
    """Collects the disturbed slots of a source cluster; does nothing on a standalone source.

    Args:
        source: as found now.
        owners: of its slots as last seen by an earlier run of the job; empty at the start.
        disturbed: slots that such a run had yet to walk again.
    """

    def __init__(
        self,
        source: SideFacts,
        owners: Sequence[SlotOwner] = (),
        disturbed: frozenset[int] = frozenset(),
    ) -> None:
        self._dialer = source.dialer
        self._topology = source.topology.primaries()
        self._owners: dict[int, Address | None] = {}
        self._disturbed: set[int] = set(disturbed)
        self._taken: frozenset[int] = frozenset()
        self._excused: set[int] = set()
        self._ranges: tuple[SlotOwner, ...] | None = None
        # Polls wait for servers; callers that only read the state must not wait with them.
        self._asking = threading.Lock()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        if source.topology.cluster:
            seen = enumerate(self._topology.owners())
            self._owners = {slot: owner for slot, owner in seen if owner}
            # The first comparison finds the slots that changed their owner between the runs.
            self._owners |= {s: owner for low, high, owner in owners for s in range(low, high + 1)}
            self._thread = threading.Thread(target=self._watch, name="slot watch", daemon=True)
            self._thread.start()

    def poll(self) -> SlotViews | None:
        """Ask now; None on a standalone source.

        Raises:
            ConnectionLost, TemporaryError: a primary does not answer.
        """
        if not self._topology.cluster:
            return None
        with self._asking:
            known = [node.address for node in self._topology.nodes if node.address]
            self._topology = read_topology(self._dialer, known)
            views = {}
            for node in self._topology.nodes:
                with marked(node.mark):
                    connection = self._dialer.connect(node.address)
                try:
                    if view := own_view(connection):
                        views[node.address] = view
                finally:
                    connection.close()
            seen = SlotViews(self._topology, views)
            with self._lock:
                self._compare(seen)
            return seen

    def _compare(self, seen: SlotViews) -> None:
        owners = seen.owners()
        moved = {s for s, owner in owners.items() if self._owners.get(s, owner) != owner}
        self._disturbed |= (seen.marked | moved) - self._excused
        self._excused -= moved
        if moved or not owners.keys() <= self._owners.keys():
            self._ranges = None
        self._owners |= owners

    def take(self) -> frozenset[int]:
        """Return the slots disturbed since the last call; the ledger must keep them until they are
        `settled`."""
        with self._lock:
            self._taken, self._disturbed = frozenset(self._disturbed), set()
            return self._taken

    def put_back(self) -> None:
        """Return the taken slots to the disturbed ones."""
        with self._lock:
            self._disturbed |= self._taken
            self._taken = frozenset()

    def settled(self) -> None:
        """Forget the taken slots; those that were disturbed again since remain."""
        with self._lock:
            self._taken = frozenset()

    def books(self) -> tuple[tuple[SlotOwner, ...], frozenset[int]]:
        """Return, for the ledger, the owners as last seen and the slots that are not settled."""
        with self._lock:
            if self._ranges is None:
                self._ranges = _ranges(sorted(self._owners.items()))
            return self._ranges, self._taken.union(self._disturbed)

    def excuse(self, slots: frozenset[int]) -> None:
        """Ignore marks on slots that are about to be walked in the right order, which stays right
        while they migrate, and when they arrive."""
        with self._lock:
            self._excused |= slots

    def stop(self) -> None:
        """End the thread; if it waits for a server it ends when that answers, or times out."""
        self._end.set()
        if self._thread:
            self._thread.join(_LAST_POLL_SECONDS)

    def _watch(self) -> None:
        while not self._end.wait(_POLL_SECONDS):
            try:
                self.poll()
            except RumpxError:
                continue  # a node is unreachable; the poll at the end must succeed


def _ranges(items: Sequence[tuple[int, T]]) -> tuple[tuple[int, int, T], ...]:
    """Merge neighbours with the same value into one (first, last, value)."""
    ranges: list[tuple[int, int, T]] = []
    for number, value in items:
        if ranges and ranges[-1][1] == number - 1 and ranges[-1][2] == value:
            ranges[-1] = ranges[-1][0], number, value
        else:
            ranges.append((number, number, value))
    return tuple(ranges)


def target_runs(dialer: Dialer, topology: Topology) -> tuple[TargetRun, ...]:
    """Return the run_id of the process behind each of the target's slots, or of the one server.

    Raises:
        ConnectionLost: a primary does not answer.
    """
    return _ranges(list(enumerate(_run_ids(dialer, topology))))


def _run_ids(dialer: Dialer, topology: Topology) -> list[str]:
    run_ids = {}
    for node in topology.nodes:
        with marked(node.mark):
            connection = dialer.connect(node.address)
        try:
            info = read_info(connection)
            if info and info.role == "slave":
                raise TemporaryError(f"The target at {connection.name} has become a replica.")
            run_ids[node.address] = info.run_id if info else ""
        finally:
            connection.close()
    if not topology.cluster:
        return [run_ids[None]]
    return [run_ids.get(owner, "") for owner in topology.owners()]


def suspect_slots(
    before: tuple[TargetRun, ...], now: tuple[TargetRun, ...]
) -> frozenset[int] | None:
    """Return slots whose target process changed; None for all, where the target is one server."""
    earlier, later = _by_slot(before), _by_slot(now)
    if len(earlier) != SLOTS or len(later) != SLOTS:
        return frozenset() if earlier == later else None
    return frozenset(slot for slot in range(SLOTS) if earlier[slot] != later[slot])


def _by_slot(runs: tuple[TargetRun, ...]) -> dict[int, str]:
    return {slot: run_id for low, high, run_id in runs for slot in range(low, high + 1)}
