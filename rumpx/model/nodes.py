"""The nodes of a server or cluster, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rumpx.errors import Side
from rumpx.model.endpoint import Address, format_address
from rumpx.model.slots import SLOTS

SlotRange = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Origin:
    """The primary of a replica, when the replica was chosen.

    Attributes:
        primary: its address; None for a standalone server: dial the endpoint itself.
        history: its replication id.
        offset: its offset in that history, in bytes; the replica had reached it.
    """

    primary: Address | None
    history: str
    offset: int


@dataclass(frozen=True, slots=True)
class Node:
    """One primary. `address` is None for a standalone server: dial the endpoint itself.

    `slots` are inclusive ranges; empty for a standalone server. With an `origin` the address is
    that of a replica, which is read in place of its primary; all else is the primary's. `mark` is
    the flag in CLUSTER NODES of an unhealthy node (`fail`, say); "" if healthy.
    """

    address: Address | None
    id: str = ""
    slots: tuple[SlotRange, ...] = ()
    replicas: tuple[Address, ...] = ()
    origin: Origin | None = None
    mark: str = field(default="", compare=False)

    @property
    def primary(self) -> Address | None:
        """Return the primary's address, even if a replica is read."""
        return self.origin.primary if self.origin else self.address

    def label(self, otherwise: str) -> str:
        """Return `host:port` for people, or `otherwise` for a standalone server."""
        return format_address(self.address) if self.address else otherwise


@dataclass(frozen=True, slots=True)
class Topology:
    """The primaries of an endpoint; `ids` are those of all nodes of a cluster, also replicas.

    `notes` list the nodes whose primary is read although a replica was requested. `names` map all
    names of nodes in CLUSTER NODES, also of those without slots, to the addresses to dial.
    """

    cluster: bool
    nodes: tuple[Node, ...]
    ids: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    names: Mapping[Address, Address] = field(default_factory=dict, compare=False)

    @property
    def known(self) -> list[Address]:
        """Return the cluster nodes that can be asked for the topology."""
        places = [address for node in self.nodes for address in (node.address, node.primary)]
        return list(dict.fromkeys(address for address in places if address))

    def called(self, name: Address) -> Address | None:
        """Return the address to dial for a node of that name; None if no node has it."""
        own = {place for node in self.nodes for place in (node.address, *node.replicas)}
        return name if name in own.union(self.known) else self.names.get(name)

    def primaries(self) -> Topology:
        """Return the same with primaries instead of replicas."""
        nodes = tuple(replace(node, address=node.primary, origin=None) for node in self.nodes)
        return replace(self, nodes=nodes)

    def owners(self) -> list[Address | None]:
        """Return the address of each slot's owner; None for an unserved slot."""
        table: list[Address | None] = [None] * SLOTS
        for node in self.nodes:
            for low, high in node.slots:
                table[low : high + 1] = [node.address] * (high + 1 - low)
        return table


@dataclass(frozen=True, slots=True)
class OwnView:
    """One primary's own view: the slots that it serves, and those marked as in migration."""

    slots: frozenset[int]
    moving: frozenset[int]


STANDALONE = Topology(cluster=False, nodes=(Node(address=None),))
NodeName = tuple[Side, Address | None]
