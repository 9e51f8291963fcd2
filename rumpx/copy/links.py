"""One worker's connections to one side, and which node each key is asked of.

For a standalone server there is one address, None. For a cluster the slot map is learnt from the
topology, corrected by each MOVED, and read anew after a fault. Connections are kept one a node and
database, so that no SELECT stands between pipelines; a broken one is replaced at its next use.

Not promised: that a route is right. It is where to ask first; MOVED and ASK tell better.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from rumpx.errors import RumpxError, unusable
from rumpx.job import Address
from rumpx.servers.dial import Dialer
from rumpx.servers.replies import explain_refusal, refused
from rumpx.servers.resp import Connection
from rumpx.servers.slots import key_slot, key_slots
from rumpx.servers.topology import Topology, is_error, read_topology

_REFRESH_SECONDS: Final = 0.5


class Links:
    """Connections to one side.

    Args:
        dialer: opens them.
        topology: as last seen.
    """

    def __init__(self, dialer: Dialer, topology: Topology) -> None:
        self.dialer = dialer
        self.side = dialer.side
        self.cluster = topology.cluster
        self._owners = topology.owners()
        self._seeds = [node.address for node in topology.nodes if node.address]
        self._connections: dict[tuple[Address | None, int], Connection] = {}
        self._refreshed = 0.0

    @property
    def addresses(self) -> list[Address | None]:
        """The nodes; None for a standalone server."""
        return list(self._seeds) if self.cluster else [None]

    def connect(self, address: Address | None, db: int) -> Connection:
        """The connection to a node on which a database is selected.

        Raises:
            ConnectionLost: nobody answers there now.
            SourceUnusable, TargetUnusable: login or SELECT refused.
        """
        connection = self._connections.get((address, db))
        if connection is None or connection.closed:
            connection = self.dialer.connect(address)
            select(connection, db, self.side)
            self._connections[address, db] = connection
        return connection

    def owner(self, key: bytes) -> Address | None:
        """The node that serves a key, as far as is known."""
        return self._owners[key_slot(key)] if self.cluster else None

    def by_owner(self, keys: Sequence[bytes]) -> dict[Address | None, list[int]]:
        """Positions of keys, by the node that serves them."""
        if not self.cluster:
            return {None: list(range(len(keys)))} if keys else {}
        owners = self._owners
        routes: defaultdict[Address | None, list[int]] = defaultdict(list)
        for position, slot in enumerate(key_slots(keys)):
            routes[owners[slot]].append(position)
        return routes

    def moved(self, key: bytes, address: Address) -> None:
        """A node said that another one serves this key's slot."""
        self._owners[key_slot(key)] = address

    def announced(self, address: Address, by: Address | None) -> Address:
        """The full address of a redirection: without a host it is the answering node's own."""
        return address if address[0] else (by[0] if by else "", address[1])

    def refresh(self) -> None:
        """Something is wrong: read the slot map anew, unless that was just done."""
        if not self.cluster or time.monotonic() - self._refreshed < _REFRESH_SECONDS:
            return
        self._refreshed = time.monotonic()
        try:
            topology = read_topology(self.dialer, self._seeds)
        except RumpxError:
            return  # the old map stays; whoever needs it tries again until `--retry-for` is over
        self._owners = topology.owners()
        self._seeds = [node.address for node in topology.nodes if node.address]

    def drop(self, address: Address | None) -> None:
        """Close a node's connections, since it is not what it was (a primary, say)."""
        for (node, _), connection in self._connections.items():
            if node == address:
                connection.close()

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()


def select(connection: Connection, db: int, side: str) -> None:
    """Select a database on a new connection; 0 is selected already, also where SELECT is refused.

    Raises:
        SourceUnusable, TargetUnusable: the server has no such database, or refuses SELECT.
    """
    if connection.db == db:
        return
    reply = connection.call("SELECT", db)
    if is_error(reply):
        connection.close()
        why = explain_refusal(reply, "SELECT") if refused(reply) else str(reply)
        raise unusable("source" if side == "source" else "target")(
            f"The {side} at {connection.name} refuses database {db}: {why}. Choose others by "
            "--db, or map them by --map-db FROM:TO."
        )
    connection.db = db
