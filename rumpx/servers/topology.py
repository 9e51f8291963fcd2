"""Which nodes hold the keys of an endpoint, and which of a cluster's slots each one serves.

A standalone server is a topology of one node whose address is the endpoint itself. A cluster is
read from CLUSTER NODES, asked of the first node that answers: the seeds of the URI, then every
node known from before. Where that command is refused CLUSTER SLOTS tells the same, without marks.

Marks of slots in migration (`[77->-id]`, `[93-<-id]`) stand only in a node's own line, so whoever
needs them asks each primary itself (`own_view`).

Formats: https://valkey.io/commands/cluster-nodes/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import hiredis

from rumpx.errors import ConnectionLost, TemporaryError, unusable
from rumpx.job import Address, format_address
from rumpx.servers.dial import Dialer
from rumpx.servers.replies import explain_refusal, refused
from rumpx.servers.resp import Connection
from rumpx.servers.slots import SLOTS

SlotRange = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a replica has its keys from, as it was when the replica was chosen.

    Attributes:
        primary: its address; None for a standalone server: dial the endpoint itself.
        history: its replication id.
        offset: how far it was in that history, in bytes; the replica had got there.
    """

    primary: Address | None
    history: str
    offset: int


@dataclass(frozen=True, slots=True)
class Node:
    """One primary. `address` is None for a standalone server: dial the endpoint itself.

    `slots` are inclusive ranges; empty for a standalone server. With an `origin` the address is
    that of a replica, which is read in the primary's place; all else is the primary's.
    """

    address: Address | None
    id: str = ""
    slots: tuple[SlotRange, ...] = ()
    replicas: tuple[Address, ...] = ()
    origin: Origin | None = None

    @property
    def primary(self) -> Address | None:
        """The primary's address, whoever is read."""
        return self.origin.primary if self.origin else self.address

    def label(self, otherwise: str) -> str:
        """`host:port` for people, or `otherwise` for a standalone server."""
        return format_address(self.address) if self.address else otherwise


@dataclass(frozen=True, slots=True)
class Topology:
    """The primaries of an endpoint; `ids` are those of all nodes of a cluster, also replicas.

    `notes` say of which nodes the primary is read, although a replica was wished for.
    """

    cluster: bool
    nodes: tuple[Node, ...]
    ids: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> list[Address]:
        """Cluster nodes that may be asked what the cluster is."""
        places = [address for node in self.nodes for address in (node.address, node.primary)]
        return list(dict.fromkeys(address for address in places if address))

    def primaries(self) -> Topology:
        """The same without replicas in the place of primaries."""
        nodes = tuple(replace(node, address=node.primary, origin=None) for node in self.nodes)
        return replace(self, nodes=nodes)

    def owners(self) -> list[Address | None]:
        """The address of each slot's owner; None for a slot that nobody serves."""
        table: list[Address | None] = [None] * SLOTS
        for node in self.nodes:
            for low, high in node.slots:
                table[low : high + 1] = [node.address] * (high + 1 - low)
        return table


@dataclass(frozen=True, slots=True)
class OwnView:
    """What one primary says of itself: the slots it serves, and those marked as in migration."""

    slots: frozenset[int]
    moving: frozenset[int]


STANDALONE = Topology(cluster=False, nodes=(Node(address=None),))


def read_topology(dialer: Dialer, known: Iterable[Address] = ()) -> Topology:
    """Ask the endpoint what it is.

    Args:
        known: further cluster nodes that may be asked when the URI's own does not answer.

    Raises:
        ConnectionLost: no node answers.
        SourceUnusable, TargetUnusable: login refused, or cluster commands refused on a cluster.
    """
    endpoint = dialer.endpoint
    if endpoint.cluster is False or endpoint.transport == "sentinel":
        dialer.connect().close()
        return STANDALONE
    failure: ConnectionLost | None = None
    for seed in dict.fromkeys([*endpoint.addresses, *known]) or [None]:
        try:
            connection = dialer.connect(seed)
            try:
                return _ask(dialer, connection, seed)
            finally:
                connection.close()
        except ConnectionLost as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _ask(dialer: Dialer, connection: Connection, seed: Address | None) -> Topology:
    forced = dialer.endpoint.cluster is True
    reply = connection.call("CLUSTER", "NODES")
    host = seed[0] if seed else ""
    if isinstance(reply, bytes):
        text = reply.decode()
        nodes = parse_cluster_nodes(text, host, hostnames=dialer.endpoint.tls is not None)
        ids = frozenset(line.partition(" ")[0] for line in text.splitlines())
        return Topology(cluster=True, nodes=nodes, ids=ids)
    if not refused(reply):
        if "cluster support disabled" in str(reply) and not forced:
            return STANDALONE
        if str(reply).startswith(("LOADING", "MASTERDOWN", "BUSY")):
            raise TemporaryError(f"The {dialer.side} at {connection.name} is not ready: {reply}.")
        if not forced:
            _refuse_foreign(dialer, connection, reply)
            return STANDALONE
    if not forced and not _says_cluster(connection):
        return STANDALONE
    reply = connection.call("CLUSTER", "SLOTS")
    if isinstance(reply, list) and reply:
        return Topology(cluster=True, nodes=parse_cluster_slots(reply, host))
    flag = "from" if dialer.side == "source" else "to"
    raise unusable(dialer.side)(
        f"The {dialer.side} at {connection.name} is a cluster, but CLUSTER NODES is refused: "
        f"{explain_refusal(reply, 'CLUSTER')}; or copy it as one server with --{flag}-cluster no."
    )


def _refuse_foreign(dialer: Dialer, connection: Connection, reply: object) -> None:
    text = str(reply)
    if text.startswith(("NOAUTH", "WRONGPASS")):
        raise unusable(dialer.side)(
            f"The {dialer.side} at {connection.name} does not let us in: {text}"
        )


def _says_cluster(connection: Connection) -> bool:
    """Whether INFO calls the server a cluster node; where INFO is refused too it is taken as one
    server."""
    reply = connection.call("INFO")
    return isinstance(reply, bytes) and b"cluster_enabled:1" in reply


def parse_cluster_nodes(text: str, host: str, *, hostnames: bool = False) -> tuple[Node, ...]:
    """CLUSTER NODES → the primaries that serve slots, by address.

    Args:
        host: stands in for the host of a node that does not know its own.
        hostnames: prefer announced host names to IP addresses (for checking certificates).
    """
    replicas: dict[str, list[Address]] = {}
    primaries = []
    for line in text.splitlines():
        fields = line.split(" ")
        flags = fields[2].split(",")
        address = _node_address(fields[1], host, hostnames)
        if "slave" in flags and "fail" not in flags:
            replicas.setdefault(fields[3], []).append(address)
        elif "master" in flags and (slots := _slot_ranges(fields[8:])):
            primaries.append((fields[0], address, slots))
    return tuple(
        Node(address, node_id, slots, tuple(replicas.get(node_id, ())))
        for node_id, address, slots in sorted(primaries, key=lambda primary: primary[2])
    )


def _node_address(text: str, host: str, hostnames: bool) -> Address:
    """`ip:port@bus[,hostname[,…]]` → (host, port)."""
    location, _, names = text.partition(",")
    ip, _, port = location.partition("@")[0].rpartition(":")
    hostname = names.partition(",")[0] if hostnames else ""
    return hostname or ip or host, int(port)


def _slot_ranges(fields: list[str]) -> tuple[SlotRange, ...]:
    ranges = []
    for field in fields:
        if field and not field.startswith("["):
            low, _, high = field.partition("-")
            ranges.append((int(low), int(high or low)))
    return tuple(ranges)


def parse_cluster_slots(reply: Sequence[object], host: str) -> tuple[Node, ...]:
    """CLUSTER SLOTS → the primaries, by their first slot."""
    slots: dict[Address, list[SlotRange]] = {}
    replicas: dict[Address, tuple[Address, ...]] = {}
    for entry in reply:
        assert isinstance(entry, list)
        low, high, *places = entry
        primary, *others = ((name.decode() if name else host, port) for name, port, *_ in places)
        slots.setdefault(primary, []).append((low, high))
        replicas[primary] = tuple(others)
    return tuple(
        Node(address, "", tuple(sorted(ranges)), replicas[address])
        for address, ranges in slots.items()
    )


def own_view(connection: Connection) -> OwnView | None:
    """The slots that a primary says it serves, and those it marks; None where it will not say."""
    reply = connection.call("CLUSTER", "NODES")
    if not isinstance(reply, bytes):
        return None
    for line in reply.decode().splitlines():
        fields = line.split(" ")
        if "myself" in fields[2].split(","):
            served = {
                slot for low, high in _slot_ranges(fields[8:]) for slot in range(low, high + 1)
            }
            marks = re.findall(r"\[(\d+)-[<>]-", line)
            return OwnView(frozenset(served), frozenset(map(int, marks)))
    return None


def heir(topology: Topology, node: Node) -> Node:
    """The node that now is what another one was: that with its id, else that with its slots."""
    if not topology.cluster:
        return topology.nodes[0]
    for now in topology.nodes:
        if now.id == node.id and now.id:
            return now
    first_slot = node.slots[0][0]
    for now in topology.nodes:
        if any(low <= first_slot <= high for low, high in now.slots):
            return now
    return node


def unserved_slots(topology: Topology) -> int:
    """How many slots of a cluster nobody serves."""
    return topology.owners().count(None) if topology.cluster else 0


def is_error(reply: object) -> bool:
    """Whether a reply is an error reply."""
    return isinstance(reply, hiredis.ReplyError)
