"""Read which nodes hold the keys of an endpoint, and which of a cluster's slots each one serves.

A standalone server is a topology of one node whose address is the endpoint itself. A cluster is
read from CLUSTER NODES, asked of the first node that answers: the seeds of the URI, then every
node known from before. Where that command is refused CLUSTER SLOTS gives the same, without marks.

Addresses are those of CLUSTER SLOTS, asked in the same pipeline, since it names nodes as clients
must address them (`cluster-preferred-endpoint-type`), as redirections do: by IP address, by host
name, or not at all. The host that answered stands for an unnamed node, unless that would give two
nodes one address; such nodes, and those that CLUSTER SLOTS does not list, keep the address of
CLUSTER NODES.

Marks of slots in migration (`[77->-id]`, `[93-<-id]`) appear only in a node's own line, so each
primary must be asked itself (`own_view`).

Formats: https://valkey.io/commands/cluster-nodes/
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Final

import hiredis

from rumpx.errors import ConnectionLost, TemporaryError, unusable
from rumpx.model.endpoint import Address
from rumpx.model.nodes import STANDALONE, Node, OwnView, SlotRange, Topology
from rumpx.model.slots import SLOTS
from rumpx.servers.answers import ask_text, misshapen
from rumpx.servers.dial import Dialer
from rumpx.servers.replies import explain_refusal, port_of, refused
from rumpx.servers.resp import Connection

Idle = tuple[Address | None, Connection]
"""A node, and a connection to it on which no replies are outstanding."""


_MARKS: Final = ("fail", "fail?", "noaddr", "handshake")
_UNNAMED: Final = (None, b"", b"?")


@contextmanager
def marked(mark: str) -> Iterator[None]:
    """Add the mark (`Node.mark`) of the node being dialled to the message of a failure."""
    try:
        yield
    except ConnectionLost as error:
        if not mark:
            raise
        told = f"{error} CLUSTER NODES marks the node as `{mark}`."
        raise ConnectionLost(told, cause=error.cause, words=error.words, side=error.side) from None


def read_topology(
    dialer: Dialer,
    known: Iterable[Address] = (),
    idle: Idle | None = None,
) -> Topology:
    """Ask the endpoint for its topology.

    Args:
        known: further cluster nodes to ask if the URI's own do not answer.
        idle: a connection to a node, which is asked before any is dialled.

    Raises:
        ConnectionLost: no node answers.
        SourceUnusable, TargetUnusable: login refused, or cluster commands refused on a cluster.
    """
    endpoint = dialer.endpoint
    if endpoint.cluster is False or endpoint.transport == "sentinel":
        dialer.connect().close()
        return STANDALONE
    if idle:
        with suppress(ConnectionLost):
            return _ask(dialer, idle[1], idle[0])
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
    reply, places = connection.call_many([("CLUSTER", "NODES"), ("CLUSTER", "SLOTS")])
    host = seed[0] if seed else ""
    if isinstance(reply, bytes):
        text = reply.decode(errors="backslashreplace")
        told = told_addresses(places, host)
        hostnames = dialer.endpoint.tls is not None
        try:
            nodes = parse_cluster_nodes(text, host, hostnames=hostnames, told=told)
            names = parse_names(text, host, hostnames=hostnames, told=told)
        except (ValueError, IndexError):
            raise misshapen(connection, "CLUSTER NODES") from None
        if not nodes:
            raise unusable(dialer.side)(
                f"The {dialer.side} at {connection.name} is in a cluster in which no primary "
                "serves a slot; repair the cluster first (see CLUSTER NODES)."
            )
        ids = frozenset(line.partition(" ")[0] for line in text.splitlines())
        return Topology(cluster=True, nodes=nodes, ids=ids, names=names)
    if not is_error(reply):
        raise misshapen(connection, "CLUSTER NODES")
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
    if isinstance(places, list) and places:
        try:
            return Topology(cluster=True, nodes=parse_cluster_slots(places, host))
        except ValueError:
            raise misshapen(connection, "CLUSTER SLOTS") from None
    flag = "from" if dialer.side == "source" else "to"
    raise unusable(dialer.side)(
        f"The {dialer.side} at {connection.name} is a cluster, but CLUSTER NODES is refused: "
        f"{explain_refusal(places, 'CLUSTER')}; or copy it as one server with --{flag}-cluster no."
    )


def _refuse_foreign(dialer: Dialer, connection: Connection, reply: object) -> None:
    text = str(reply)
    if text.startswith(("NOAUTH", "WRONGPASS")):
        raise unusable(dialer.side)(
            f"The {dialer.side} at {connection.name} rejected the connection: {text}"
        )


def _says_cluster(connection: Connection) -> bool:
    """Return True if INFO calls the server a cluster node; if INFO is refused too it counts as
    standalone."""
    return "cluster_enabled:1" in (ask_text(connection, "INFO") or "")


def parse_cluster_nodes(
    text: str,
    host: str,
    *,
    hostnames: bool = False,
    told: Mapping[str, Address] = MappingProxyType({}),
) -> tuple[Node, ...]:
    """Parse CLUSTER NODES into the primaries that serve slots, sorted by slots.

    Args:
        host: stands for the host of a node that does not know its own.
        hostnames: prefer announced host names to IP addresses (for checking certificates).
        told: better addresses, by node id.

    Raises:
        ValueError, IndexError: no server writes that text.
    """
    replicas: dict[str, list[Address]] = {}
    primaries = []
    for line in text.splitlines():
        fields = line.split(" ")
        flags = fields[2].split(",")
        address = told.get(fields[0]) or _node_address(fields[1], host, hostnames)
        if "slave" in flags and "fail" not in flags:
            replicas.setdefault(fields[3], []).append(address)
        elif "master" in flags and (slots := _slot_ranges(fields[8:])):
            mark = next((mark for mark in _MARKS if mark in flags), "")
            primaries.append((fields[0], address, slots, mark))
    return tuple(
        Node(address, node_id, slots, tuple(replicas.get(node_id, ())), mark=mark)
        for node_id, address, slots, mark in sorted(primaries, key=lambda primary: primary[2])
    )


def parse_names(
    text: str,
    host: str,
    *,
    hostnames: bool = False,
    told: Mapping[str, Address] = MappingProxyType({}),
) -> dict[Address, Address]:
    """Map each name in CLUSTER NODES to the address to dial; see `parse_cluster_nodes`."""
    names: dict[Address, Address] = {}
    for line in text.splitlines():
        node_id, place = line.split(" ")[:2]
        ip, hostname = (_node_address(place, host, named) for named in (False, True))
        called = told.get(node_id) or (hostname if hostnames else ip)
        names |= {name: called for name in (ip, hostname) if name not in names}
    return names | {called: called for called in names.values()}


def _node_address(text: str, host: str, hostnames: bool) -> Address:
    """`ip:port@bus[,hostname[,…]]` → (host, port)."""
    location, _, names = text.partition(",")
    ip, _, port = location.partition("@")[0].rpartition(":")
    hostname = names.partition(",")[0] if hostnames else ""
    number = port_of(port)
    if number is None:
        raise ValueError("not a port")
    return hostname or ip or host, number


def _slot_ranges(fields: list[str]) -> tuple[SlotRange, ...]:
    ranges = []
    for text in fields:
        if text and not text.startswith("["):
            low, _, high = text.partition("-")
            ranges.append(_slot_range(int(low), int(high or low)))
    return tuple(ranges)


def _slot_range(low: object, high: object) -> SlotRange:
    if isinstance(low, int) and isinstance(high, int) and 0 <= low <= high < SLOTS:
        return low, high
    raise ValueError("not a range of slots")


def told_addresses(reply: object, host: str) -> dict[str, Address]:
    """Map node ids to the addresses in CLUSTER SLOTS, as far as it is valid.

    Args:
        host: the host that answered: it stands for a node without a name (null, empty or `?`).
    """
    told: dict[str, Address] = {}
    unnamed = set()
    for entry in reply if isinstance(reply, list) else ():
        for place in entry[2:] if isinstance(entry, list) else ():
            match place:
                case [name, int(), bytes() as raw_id, *_]:
                    node_id = raw_id.decode(errors="backslashreplace")
                    try:
                        told[node_id] = _slots_address(place, host)
                    except ValueError:
                        continue
                    if name in _UNNAMED:
                        unnamed.add(node_id)
    shared = Counter(told.values())
    return {
        node_id: address
        for node_id, address in told.items()
        if node_id not in unnamed or shared[address] == 1
    }


def _slots_address(place: object, host: str) -> Address:
    match place:
        case [None | bytes() as name, int(port), *_] if 0 < port < 65_536:
            named = name.decode(errors="backslashreplace") if name not in _UNNAMED else host
            return named, port
    raise ValueError("not an address")


def parse_cluster_slots(reply: Iterable[object], host: str) -> tuple[Node, ...]:
    """Parse CLUSTER SLOTS into the primaries, by their first slot.

    Raises:
        ValueError: no server writes that reply.
    """
    slots: dict[Address, list[SlotRange]] = {}
    replicas: dict[Address, tuple[Address, ...]] = {}
    for entry in reply:
        match entry:
            case [low, high, place, *others]:
                primary = _slots_address(place, host)
                slots.setdefault(primary, []).append(_slot_range(low, high))
                replicas[primary] = tuple(_slots_address(other, host) for other in others)
            case _:
                raise ValueError("not a range of slots with its nodes")
    return tuple(
        Node(address, "", tuple(sorted(ranges)), replicas[address])
        for address, ranges in slots.items()
    )


def own_view(connection: Connection) -> OwnView | None:
    """Return the slots that a primary serves, and those it marks; None if it does not say."""
    reply = connection.call("CLUSTER", "NODES")
    if not isinstance(reply, bytes):
        return None
    for line in reply.decode(errors="backslashreplace").splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and "myself" in fields[2].split(","):
            try:
                ranges = _slot_ranges(fields[8:])
            except ValueError:
                return None
            served = {slot for low, high in ranges for slot in range(low, high + 1)}
            marks = re.findall(r"\[([0-9]{1,5})-[<>]-", line)
            return OwnView(frozenset(served), frozenset(map(int, marks)))
    return None


def heir(topology: Topology, node: Node) -> Node:
    """Return the present node that replaces another: the one with its id, else with its slots."""
    if not topology.cluster:
        return topology.nodes[0]
    for now in topology.nodes:
        if now.id == node.id and now.id:
            return now
    first_slot = node.slots[0][0] if node.slots else 0
    for now in topology.nodes:
        if any(low <= first_slot <= high for low, high in now.slots):
            return now
    return node


def unserved_slots(topology: Topology) -> int:
    """Return how many slots of a cluster have no owner."""
    return topology.owners().count(None) if topology.cluster else 0


def is_error(reply: object) -> bool:
    """Return True if the reply is an error reply."""
    return isinstance(reply, hiredis.ReplyError)
