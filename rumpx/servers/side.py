"""The facts about one side of a run, and connections to it for a few questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from rumpx.errors import ConnectionLost, NoReplica, SourceUnusable, unusable
from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node, Topology
from rumpx.servers.connections import select
from rumpx.servers.dial import Dialer
from rumpx.servers.info import ServerClock, ServerInfo
from rumpx.servers.replicas import read_identity, read_places
from rumpx.servers.resp import Connection
from rumpx.servers.tls import flag_of
from rumpx.servers.topology import marked, read_topology


@dataclass(frozen=True, slots=True)
class SideFacts:
    """The facts about one side. `infos` has an entry for each node that is read (or written), None
    where INFO is refused; `clock` is that of the first node; `local` if a node is on this machine.
    """

    dialer: Dialer
    topology: Topology
    infos: dict[Address | None, ServerInfo | None]
    clock: ServerClock
    local: bool = False

    @property
    def version(self) -> str:
        """The servers' version, for messages."""
        found = sorted({str(info) for info in self.infos.values() if info})
        return ", ".join(found) or "a server of unknown version"

    def run_id(self, address: Address | None) -> str:
        """Return the identity of a server's process; "" if unknown."""
        info = self.infos.get(address)
        return info.identity if info else ""

    def identity_now(self, node: Node) -> str:
        """Return the identity of the server that answers for a node now; "" if unknown.

        Raises:
            ConnectionLost: it does not answer, or is a replica that is not fit to be read.
        """
        with closing(self.dialer.connect(node.address)) as connection:
            return read_identity(connection, node)

    def topology_now(self, before: Iterable[Address | None] = ()) -> Topology:
        """Return the present nodes: a failover may have replaced those in `topology`.

        Args:
            before: replicas that are read already; none means those of the start.

        Raises:
            ConnectionLost: no node answers.
            NoReplica: a node has no replica that can be read now.
        """
        if self.dialer.read_from == "primary":
            return self.primaries_now()
        known = self.topology.known if self.topology.cluster else ()
        return read_places(self.dialer, known, before or self.infos)

    def primaries_now(self) -> Topology:
        """As `topology_now`, but the primaries themselves.

        Raises:
            ConnectionLost: no node answers.
        """
        if not self.topology.cluster:
            return self.topology.primaries()
        return read_topology(self.dialer, self.topology.known)


@contextmanager
def at_start(dialer: Dialer) -> Iterator[None]:
    """Turn a lost connection into an unusable side: at the start nothing is retried."""
    try:
        yield
    except NoReplica as error:
        raise SourceUnusable(
            f"{error} Fix that, or leave out --read-from to read primaries, or give --read-from "
            "prefer-replica to read a primary where no replica can be read."
        ) from None
    except ConnectionLost as error:
        flag = flag_of(dialer.side)
        advice = f"Check {flag}, and that the server is running."
        tls = dialer.endpoint.tls
        if tls:
            # With TLS 1.3 a handshake seems to succeed before the server refuses our certificate.
            verb = "check" if tls.cert else "give"
            advice += f" If it requires a client certificate, {verb} {flag}-cert and {flag}-key."
        raise unusable(dialer.side)(f"{error} {advice}") from None


@contextmanager
def connected(
    dialer: Dialer, address: Address | None, db: int = 0, mark: str = ""
) -> Iterator[Connection]:
    """Open a connection for a few questions; `mark` is the node's."""
    with at_start(dialer), marked(mark):
        connection = dialer.connect(address)
        try:
            select(connection, db, dialer.side)
            yield connection
        finally:
            connection.close()
