"""A worker's connections to one side, and the node that serves each key.

A standalone server has one address, None, or a replica's. A cluster's slot map is read from the
topology, corrected by each MOVED, and read again after a fault. Replicas are read if the dialer
says so; each connection to a replica proves that it is fit (`servers/replicas`). A MOVED names a
primary; its replica is asked in its place. One connection is kept for each node and database, so
that pipelines need no SELECT between them. A broken connection is replaced at its next use. One
that may have written is first ended at the server: nothing sent on it may be executed after the
next write. At most `most_kept` connections stay open. Beyond that, the longest idle one selects the
database that is needed, or is closed if it leads to another node. A connection with replies
outstanding is never touched, so there may be as many more as there are pipelines in flight.

Redirections (MOVED, ASK) are followed only to nodes that the cluster's own topology names, which is
read again before one is refused: no other address receives a key or a password. A redirection from
a standalone server is not followed at all.

Not promised: that a route is right. It names the node to ask first; MOVED and ASK correct it.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Final, Protocol

from rumpx.errors import ConnectionLost, RumpxError, unusable
from rumpx.model.endpoint import Address, format_address
from rumpx.model.nodes import Topology
from rumpx.model.slots import key_slot, key_slots
from rumpx.servers.answers import misshapen
from rumpx.servers.clients import end_clients
from rumpx.servers.dial import Dialer
from rumpx.servers.redials import growing_pause
from rumpx.servers.replicas import prove, read_places
from rumpx.servers.replies import Kind, classify, explain_refusal, redirection, refused
from rumpx.servers.resp import Connection
from rumpx.servers.tls import flag_of
from rumpx.servers.topology import Idle, is_error, marked

_REFRESH_SECONDS: Final = 0.5
# A worker has up to nine Links, and some files of its own, below the system's limit on open files.
_SHARES: Final = 11
_OTHER_FILES: Final = 64
_FEWEST: Final = 4
_MOST: Final = 128
# A connection that lived for longer is not one of those that are lost as soon as they are used.
_FORGOTTEN_SECONDS: Final = 5.0
# Connections that are opened before there is work; there may be a hundred nodes.
_DIALED_AHEAD: Final = 8
_LONGEST_PAUSE: Final = 1.0

_Place = tuple[Address | None, int]
"""A node and a database."""


@dataclass(frozen=True, slots=True)
class _Fruitless:
    """Consecutive failed connections, and when the next one is due."""

    number: int
    due: float
    complaint: str

    @classmethod
    def after(cls, before: _Fruitless | None, now: float, complaint: str) -> _Fruitless:
        """Count one more failure."""
        again = before and now - before.due < _FORGOTTEN_SECONDS
        number = before.number + 1 if before and again else 1
        return cls(number, now + growing_pause(number, _LONGEST_PAUSE), complaint)


def most_kept() -> int:
    """Return how many connections one Links keeps open, for any number of nodes and databases."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return _MOST
    return max(_FEWEST, min(_MOST, (allowed - _OTHER_FILES) // _SHARES))


class Noted(Protocol):
    """Collects the keys to ask for again: the node to ask after ASKING (`ask`), whether to pause
    first (`waits`), and the error message once retries run out (`complaint`)."""

    again: list[bytes]
    ask: dict[bytes, Address]
    waits: bool
    complaint: str


class Links:
    """Connections to one side.

    Args:
        dialer: opens them.
        topology: as last seen.

    Attributes:
        routes: keys may move to a node other than the one on which they were found.
        unended: the server did not end a lost connection.
    """

    def __init__(self, dialer: Dialer, topology: Topology) -> None:
        self.dialer = dialer
        self.side = dialer.side
        self.cluster = topology.cluster
        self.routes = topology.cluster or dialer.read_from != "primary"
        self._learn(topology)
        # Ordered by use: the most recent last.
        self._connections: dict[_Place, Connection] = {}
        self._most = most_kept()
        self._fruitless: dict[_Place, _Fruitless] = {}
        self._well: dict[Address | None, float] = {}
        self._same = 0  # consecutive reads of the slot map that showed no change
        self._refresh_due = 0.0
        self.unended = False

    @property
    def addresses(self) -> list[Address | None]:
        """Addresses of the nodes; None for a standalone server."""
        return [node.address for node in self._topology.nodes]

    def _learn(self, topology: Topology) -> None:
        self._topology = topology
        self._owners = topology.owners()
        self._origins = {node.address: node.origin for node in topology.nodes if node.origin}
        self._marks = {node.address: node.mark for node in topology.nodes if not node.origin}
        self._places = {node.primary: node.address for node in topology.nodes}

    def dial(self, databases: Sequence[int]) -> None:
        """Open the first `_DIALED_AHEAD` connections that are certainly needed, since over a
        distance each takes a while. A node that cannot be reached now is dialled again later.

        Raises:
            SourceUnusable, TargetUnusable: a login or SELECT is refused.
        """
        with contextlib.suppress(ConnectionLost):  # one timeout is enough for a side
            for address, db in islice(product(self.addresses, databases), _DIALED_AHEAD):
                self.connect(address, db)

    def connect(self, address: Address | None, db: int) -> Connection:
        """Return the connection to a node with a database selected. It is valid until the caller
        waits for anything but the replies to what it has sent on it; after that, ask for it again.

        Raises:
            ConnectionLost: the node does not answer now, or is a replica that is not fit to be
                read.
            SourceUnusable, TargetUnusable: login or SELECT refused.
        """
        place = address, db
        connection = self._connections.get(place)
        if connection is None or connection.closed:
            connection = self._replace(place, connection)
            select(connection, db, self.side)
        self._connections.pop(place, None)
        self._connections[place] = connection
        return connection

    def _replace(self, place: _Place, lost: Connection | None) -> Connection:
        """Open a missing connection; replace a lost one at once if it has served, else after a
        pause."""
        now, before = time.monotonic(), self._fruitless.get(place)
        if before and now < before.due:
            raise ConnectionLost(before.complaint)
        try:
            connection = self._idle(place[0]) or self._dial(place[0])
        except ConnectionLost as error:
            self._fruitless[place] = _Fruitless.after(before, now, str(error))
            raise
        if lost:
            complaint = f"Connections to {lost.name} are lost as soon as they are used."
            self._fruitless[place] = _Fruitless.after(before, now, complaint)
            if self.dialer.writer:
                self._end(lost, connection)
        return connection

    def serves(self) -> None:
        """Note that keys were read or written: each node that has an open connection may have its
        next lost connection replaced at once."""
        for place, each in self._connections.items():
            if not each.closed and not each.owed:
                self._fruitless.pop(place, None)

    def _end(self, lost: Connection, connection: Connection) -> None:
        """End a lost connection at the server, over the connection that replaces it."""
        if lost.id is None:
            self.unended = True
            return
        left = end_clients(connection, lambda name: name == self.dialer.writer, lost.id)
        self.unended |= left != "nothing"

    def _dial(self, address: Address | None) -> Connection:
        with marked(self._marks.get(address, "")):
            connection = self.dialer.connect(address)
        if origin := self._origins.get(address):
            prove(connection, origin)
        return connection

    def _idle(self, address: Address | None) -> Connection | None:
        """Make room for one more connection. Return an idle connection to the same node, taken from
        another database, or None, after closing another node's idle connection if needed. (Lost
        connections stay until they are replaced, and ended.)"""
        if sum(not each.closed for each in self._connections.values()) < self._most:
            return None
        idle = [
            place for place, each in self._connections.items() if not each.owed and not each.closed
        ]
        if not idle:
            return None
        place = next((each for each in idle if each[0] == address), idle[0])
        connection = self._connections.pop(place)
        if place[0] == address:
            return connection
        connection.close()
        return None

    def owner(self, key: bytes) -> Address | None:
        """Return the node that serves a key, as far as is known."""
        return self._owners[key_slot(key)] if self.cluster else self.addresses[0]

    def by_owner(self, keys: Sequence[bytes]) -> Mapping[Address | None, Sequence[int]]:
        """Group the positions of keys by the node that serves them."""
        if not self.cluster:
            return {self.addresses[0]: range(len(keys))} if keys else {}
        owners = self._owners
        routes: defaultdict[Address | None, list[int]] = defaultdict(list)
        for position, slot in enumerate(key_slots(keys)):
            routes[owners[slot]].append(position)
        return routes

    def redirected(
        self, key: bytes, error: object, by: Address | None, name: str, noted: Noted
    ) -> None:
        """Follow a redirection from a cluster's node: another node serves the key's slot (MOVED),
        or only this key (ASK). Ask there next, if the address is one of the cluster's nodes.

        Args:
            by, name: the node that redirects.
            noted: collects the key.
        """
        word, announced = str(error).partition(" ")[0], self._announced(error, by)
        told = f"The {self.side} at {name} redirects to {format_address(announced)} ({word})"
        address = self._node(announced)
        noted.again.append(key)
        if address is None:
            # A topology that was read a moment ago is not read again for each such key; the next
            # try finds a node that has joined since.
            noted.waits = True
            noted.complaint = (
                f"{told}, which is not one of the nodes that the cluster itself names: nothing is "
                "sent there."
            )
            return
        noted.complaint = f"{told}, and following that does not settle the key."
        if word == "ASK":
            noted.ask[key] = address
        elif address == by:
            # Nodes on one port without names (`unknown-endpoint`); CLUSTER NODES separates them.
            self.refresh()
        else:
            self._owners[key_slot(key)] = self._places.get(address, address)

    def redirected_alone(self, error: object, name: str) -> RumpxError:
        """Return the exception for a standalone server that answers with a redirection."""
        place, flag = format_address(self._announced(error, None)), flag_of(self.side)
        return unusable(self.side)(
            f"The {self.side} at {name} redirects to {place} ({error}), as a cluster node does, "
            f"but is treated as a standalone server: nothing is sent to {place}. If it is a "
            f"cluster node now, give {flag}-cluster yes."
        )

    def _announced(self, error: object, by: Address | None) -> Address:
        """Return the address in a redirection; an empty host stands for the answering node."""
        address = redirection(error)
        assert address is not None  # `classify` calls no other reply a redirection
        return address if address[0] else (by[0] if by else "", address[1])

    def _node(self, name: Address) -> Address | None:
        """Return the address at which to dial the node of that name; None if the cluster has no
        such node, even after a refresh. (If replicas are read, refresh also for a primary without
        a known one.)"""
        address = self._called(name)
        if address in self._places or (address and self.dialer.read_from == "primary"):
            return address
        self.refresh()
        return self._called(name)

    def _called(self, name: Address) -> Address | None:
        """As `_node`, without a refresh; also finds a node by the address the user mapped it to."""
        mapped = [here for here, there in self.dialer.endpoint.address_map if there == name]
        return next(filter(None, map(self._topology.called, [name, *mapped])), None)

    def trouble(self, address: Address | None, since: float) -> str | None:
        """Return why a node does not answer on a new connection; "" if it does, or has since a time
        of `time.monotonic()`; None if it is no longer one of the nodes."""
        if address is not None and address not in self.addresses:
            return None
        if self._well.get(address, 0.0) > since:
            return ""
        now = time.monotonic()
        try:
            with marked(self._marks.get(address, "")):
                self.dialer.connect(address).close()
        except ConnectionLost as error:
            return str(error)
        self._well[address] = now
        return ""

    def refresh(self) -> None:
        """Read the slot map again after a fault, unless that was just done. A healthy node is asked
        over the connection that is open to it."""
        now = time.monotonic()
        if not self.routes or now < self._refresh_due:
            return
        before = self._topology.nodes
        try:
            known = self._topology.known if self.cluster else ()
            self._learn(read_places(self.dialer, known, self.addresses, self._idle_one()))
        except RumpxError:
            pass  # keep the old map; callers retry until `--retry-for` is over
        again = self._topology.nodes == before and now - self._refresh_due < _FORGOTTEN_SECONDS
        self._same = self._same + 1 if again else 1
        self._refresh_due = now + max(_REFRESH_SECONDS, growing_pause(self._same))

    def _idle_one(self) -> Idle | None:
        """Return an idle connection to a node that has answered recently."""
        latest_first = reversed(self._connections.items())
        ours = ((node, c) for (node, _), c in latest_first if not c.owed and not c.closed)
        return next(ours, None)

    def drop(self, address: Address | None) -> None:
        """Close a node's connections, since its role has changed (no longer a primary, say)."""
        for (node, _), connection in self._connections.items():
            if node == address:
                connection.close()

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def select(connection: Connection, db: int, side: str) -> None:
    """Select a database on a new connection. 0 is already selected, even if SELECT is refused.

    Raises:
        SourceUnusable, TargetUnusable: the server has no such database, or refuses SELECT.
    """
    if connection.db == db:
        return
    reply = connection.call("SELECT", db)
    if reply != b"OK":
        connection.close()
        if not is_error(reply):
            raise misshapen(connection, "SELECT")
        if classify(reply).kind is Kind.TEMPORARY:
            raise ConnectionLost(f"The {side} at {connection.name} answered SELECT: {reply!s}.")
        why = explain_refusal(reply, "SELECT") if refused(reply) else str(reply)
        raise unusable("source" if side == "source" else "target")(
            f"The {side} at {connection.name} refuses database {db}: {why}. Choose others with "
            "--db, or map them with --map-db FROM:TO."
        )
    connection.db = db
