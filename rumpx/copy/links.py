"""One worker's connections to one side, and which node each key is asked of.

For a standalone server there is one address, None, or a replica's. For a cluster the slot map is
learnt from the topology, corrected by each MOVED, and read anew after a fault. Replicas are read
where the dialer says so; each connection to one proves that it is fit (`servers/replicas`). A MOVED
names a primary, in whose place its replica is asked. Connections are kept one a node and
database, so that no SELECT stands between pipelines; a broken one is replaced at its next use, and
if it may have written is ended at the server first: what was sent on it must not land after what is
sent now. At most `most_kept` are kept open: beyond that, the one that has been idle for longest
selects the database that is needed, or is closed if it leads to another node. One with replies
outstanding is never touched, so that there may be as many more as there are pipelines in flight.

Redirections (MOVED, ASK) lead only to nodes that the cluster's own topology names, which is read
anew before that is denied: to all others neither a key nor a password is sent. A single server that
redirects is not followed at all.

Not promised: that a route is right. It is where to ask first; MOVED and ASK tell better.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from rumpx.errors import ConnectionLost, RumpxError, unusable
from rumpx.job import Address, format_address
from rumpx.servers.answers import misshapen
from rumpx.servers.clients import end_clients
from rumpx.servers.dial import Dialer
from rumpx.servers.redials import growing_pause
from rumpx.servers.replicas import prove, read_places
from rumpx.servers.replies import explain_refusal, redirection, refused
from rumpx.servers.resp import Connection
from rumpx.servers.slots import key_slot, key_slots
from rumpx.servers.tls import flag_of
from rumpx.servers.topology import Idle, Topology, is_error, marked

_REFRESH_SECONDS: Final = 0.5
# A worker has up to six Links, and some files of its own, below what the system lets it open.
_SHARES: Final = 8
_OTHER_FILES: Final = 64
_FEWEST: Final = 4
_MOST: Final = 128
# A connection that lived for longer was none of those that are lost as soon as they are used.
_FORGOTTEN_SECONDS: Final = 5.0
_LONGEST_PAUSE: Final = 1.0

_Place = tuple[Address | None, int]
"""A node and a database."""


@dataclass(frozen=True, slots=True)
class _Fruitless:
    """Connections that came to nothing, one after the other; when the next is due."""

    number: int
    due: float
    complaint: str

    @classmethod
    def after(cls, before: _Fruitless | None, now: float, complaint: str) -> _Fruitless:
        """One more."""
        again = before and now - before.due < _FORGOTTEN_SECONDS
        number = before.number + 1 if before and again else 1
        return cls(number, now + growing_pause(number, _LONGEST_PAUSE), complaint)


def most_kept() -> int:
    """How many connections one Links keeps open, whatever the number of nodes and databases."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return _MOST
    return max(_FEWEST, min(_MOST, (allowed - _OTHER_FILES) // _SHARES))


class Unsettled(Protocol):
    """Takes note of keys to be asked for again: at which node after ASKING (`ask`), whether only
    after a pause (`waits`), and what to say if that goes on for too long."""

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
        routes: whether keys may come to be served elsewhere than where they were found.
        unended: whether the server would not end a connection that was lost.
    """

    def __init__(self, dialer: Dialer, topology: Topology) -> None:
        self.dialer = dialer
        self.side = dialer.side
        self.cluster = topology.cluster
        self.routes = topology.cluster or dialer.read_from != "primary"
        self._learn(topology)
        # The one used last stands last.
        self._connections: dict[_Place, Connection] = {}
        self._most = most_kept()
        self._fruitless: dict[_Place, _Fruitless] = {}
        self._well: dict[Address | None, float] = {}
        self._same = 0  # how often the slot map was read and told nothing new
        self._refresh_due = 0.0
        self.unended = False

    @property
    def addresses(self) -> list[Address | None]:
        """The nodes; None for a standalone server."""
        return [node.address for node in self._topology.nodes]

    def _learn(self, topology: Topology) -> None:
        self._topology = topology
        self._owners = topology.owners()
        self._origins = {node.address: node.origin for node in topology.nodes if node.origin}
        self._marks = {node.address: node.mark for node in topology.nodes if not node.origin}
        self._places = {node.primary: node.address for node in topology.nodes}

    def connect(self, address: Address | None, db: int) -> Connection:
        """The connection to a node on which a database is selected, until the caller waits for
        anything but the replies to what it has sent on it: then it asks for one again.

        Raises:
            ConnectionLost: nobody answers there now, or a replica that is not fit to be read.
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
        """A connection where there is none; in the place of one that was lost at once if that has
        served, else after a pause."""
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
        """Keys were read, or written: of the nodes to which connections stand, the next that is
        lost may be replaced at once."""
        for place, each in self._connections.items():
            if not each.closed and not each.owed:
                self._fruitless.pop(place, None)

    def _end(self, lost: Connection, connection: Connection) -> None:
        """End a connection that was lost, at the server, by way of the one that replaces it."""
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
        """Make room for one more: a node's idle connection, taken from another database, or None
        after another node's was closed, where one had to be. (Lost ones stay until they are
        replaced, and ended.)"""
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
        """The node that serves a key, as far as is known."""
        return self._owners[key_slot(key)] if self.cluster else self.addresses[0]

    def by_owner(self, keys: Sequence[bytes]) -> dict[Address | None, list[int]]:
        """Positions of keys, by the node that serves them."""
        if not self.cluster:
            return {self.addresses[0]: list(range(len(keys)))} if keys else {}
        owners = self._owners
        routes: defaultdict[Address | None, list[int]] = defaultdict(list)
        for position, slot in enumerate(key_slots(keys)):
            routes[owners[slot]].append(position)
        return routes

    def redirected(
        self, key: bytes, error: object, by: Address | None, name: str, noted: Unsettled
    ) -> None:
        """A cluster's node said that another one serves a key's slot (MOVED), or just now the key
        (ASK): ask there next, if that is a node.

        Args:
            by, name: the node that said so.
            noted: takes note of the key.
        """
        word, announced = str(error).partition(" ")[0], self._announced(error, by)
        told = f"The {self.side} at {name} redirects to {format_address(announced)} ({word})"
        address = self._node(announced)
        noted.again.append(key)
        if address is None:
            # Where the topology was read a moment ago it is not read again for each such key; the
            # next try finds a node that has joined since.
            noted.waits = True
            noted.complaint = (
                f"{told}, which is none of the nodes that the cluster itself names: nothing is "
                "sent there."
            )
            return
        noted.complaint = f"{told}, and to follow that settles nothing."
        if word == "ASK":
            noted.ask[key] = address
        elif address == by:
            # Nodes of one port without names (`unknown-endpoint`): CLUSTER NODES tells them apart.
            self.refresh()
        else:
            self._owners[key_slot(key)] = self._places.get(address, address)

    def redirected_alone(self, error: object, name: str) -> RumpxError:
        """What to say of a single server that answers with a redirection."""
        place, flag = format_address(self._announced(error, None)), flag_of(self.side)
        return unusable(self.side)(
            f"The {self.side} at {name} redirects to {place} ({error}), as a node of a cluster "
            f"does, but is served as one server: nothing is sent to {place}. If it is a cluster's "
            f"node now, give {flag}-cluster yes."
        )

    def _announced(self, error: object, by: Address | None) -> Address:
        """Where a redirection leads: without a host it is the answering node's own."""
        address = redirection(error)
        assert address is not None  # `classify` calls the others no redirections
        return address if address[0] else (by[0] if by else "", address[1])

    def _node(self, name: Address) -> Address | None:
        """Where to dial the node of that name; None if the cluster has none, also when asked anew.
        (A primary whose replica is to be read is looked for again, too.)"""
        address = self._called(name)
        if address in self._places or (address and self.dialer.read_from == "primary"):
            return address
        self.refresh()
        return self._called(name)

    def _called(self, name: Address) -> Address | None:
        """As `_node`, as far as is known; also by the address to which the user mapped a node's."""
        mapped = [here for here, there in self.dialer.endpoint.address_map if there == name]
        return next(filter(None, map(self._topology.called, [name, *mapped])), None)

    def trouble(self, address: Address | None, since: float) -> str:
        """Why a node does not answer on a new connection; "" if it does, or has since then."""
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
        """Something is wrong: read the slot map anew, unless that was just done. A node that is
        well is asked on the connection that there is to it."""
        now = time.monotonic()
        if not self.routes or now < self._refresh_due:
            return
        before = self._topology.nodes
        try:
            known = self._topology.known if self.cluster else ()
            self._learn(read_places(self.dialer, known, self.addresses, self._idle_one()))
        except RumpxError:
            pass  # keep the old map: its callers retry until `--retry-for` is over
        again = self._topology.nodes == before and now - self._refresh_due < _FORGOTTEN_SECONDS
        self._same = self._same + 1 if again else 1
        self._refresh_due = now + max(_REFRESH_SECONDS, growing_pause(self._same))

    def _idle_one(self) -> Idle | None:
        """An idle connection, of a node that has answered lately."""
        latest_first = reversed(self._connections.items())
        ours = ((node, c) for (node, _), c in latest_first if not c.owed and not c.closed)
        return next(ours, None)

    def drop(self, address: Address | None) -> None:
        """Close a node's connections, since it is not what it was (a primary, say)."""
        for (node, _), connection in self._connections.items():
            if node == address:
                connection.close()

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def select(connection: Connection, db: int, side: str) -> None:
    """Select a database on a new connection; 0 is selected already, also where SELECT is refused.

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
        why = explain_refusal(reply, "SELECT") if refused(reply) else str(reply)
        raise unusable("source" if side == "source" else "target")(
            f"The {side} at {connection.name} refuses database {db}: {why}. Choose others by "
            "--db, or map them by --map-db FROM:TO."
        )
    connection.db = db
