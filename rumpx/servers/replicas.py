"""Choose the replicas to read in place of their primaries, and prove that they are fit.

A replica is fit to be read if its link to its primary is up and it has reached the offset in the
primary's history that the primary had at the start (`Origin`). A read from it then returns the
primary's state at some moment since: a key that existed at the start and was not deleted is found,
also if the replica falls behind later.

1. The primary's INFO gives its replication id and offset, and, outside a cluster, its replicas. (A
   cluster's are in its topology.)
2. All replicas are asked until one is fit: the one that is read already if it is attached, else the
   first to catch up. That takes a few seconds at most; if none is attached, no wait.
3. Each new connection to a replica proves it again (`prove`), and so does the end of each walk. A
   replica that is not fit counts as unreachable: its readers choose another node.

**Full resynchronisations** empty a replica and fill it again within the same process: its `run_id`
stays, and an earlier cursor has missed keys. They show in the id of the replica's own connection
from its primary in CLIENT LIST: on Redis 6.2 and 7.0, Valkey 8.1 and 9.1, also with
`repl-diskless-load swapdb` and dual channels, a partial resynchronisation keeps that id and a full
one never does. (`master_replid` stays, offsets only grow, `sync_full` counts the primary's other
replicas as well.)
The id is joined to the `run_id`: together they are the replica's identity, within which a cursor is
valid. The same holds for a replica that is itself named as an endpoint (`identify`): it is read as
it is, behind or cut off, as long as it has its primary's data at all (`upstream`).

Not promised: to notice a full resynchronisation where CLIENT LIST is refused; that a value is of
the last second, since a replica whose link is up may still be behind; to find keys that were
deleted on the replica itself while it was detached, and came back when it was attached again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from rumpx.errors import ConnectionLost, NoReplica, RumpxError
from rumpx.model.endpoint import Address, format_address
from rumpx.model.nodes import Node, Origin, Topology
from rumpx.servers.answers import misshapen, signed, text_of
from rumpx.servers.dial import Dialer
from rumpx.servers.info import info_fields
from rumpx.servers.replies import port_of
from rumpx.servers.resp import Connection, Reply
from rumpx.servers.topology import Idle, read_topology
from rumpx.servers.upstream import Upstream, parse_upstream

_CATCH_UP_SECONDS: Final = 5.0
_PAUSE: Final = 0.02
_QUESTIONS: Final = (
    ("INFO", "server"),
    ("INFO", "replication"),
    ("INFO", "keyspace"),
    ("CLIENT", "LIST", "TYPE", "master"),
)
_WHO: Final = _QUESTIONS[:2]


@dataclass(frozen=True, slots=True)
class State:
    """A server's report of its part in replication.

    Attributes:
        link: the id of the connection from its primary; "" without one, or if not reported.
        attached: that link is up.
        histories: the replication ids of the history it has, the present one first.
        offset: its position in that history, in bytes; below 0 if unknown.
        replicas: those that are connected to it.
        upstream: of a replica.
    """

    run_id: str
    role: str
    link: str
    attached: bool
    histories: tuple[str, ...]
    offset: int
    replicas: tuple[Address, ...]
    upstream: Upstream | None

    @property
    def dataset(self) -> str | None:
        """The identity of a replica's dataset, beside the process; None for other servers.

        While the link is down the connection from the primary has no id, but the offset stays the
        same until a synchronisation changes it.
        """
        if self.upstream is None:
            return None
        return self.link if self.attached else f"@{self.offset}"

    @property
    def identity(self) -> str:
        """The process and its dataset: the scope of a cursor; "" if run_id is not reported."""
        if not self.run_id or self.dataset is None:
            return self.run_id
        return f"{self.run_id}:{self.dataset}"


def read_state(connection: Connection) -> State | None:
    """Ask a server for its state; None if INFO is refused.

    Raises:
        ConnectionLost: it does not answer.
        SourceUnusable, TargetUnusable: the reply is not INFO's.
    """
    *infos, clients = connection.call_many(_QUESTIONS)
    fields = _fields(connection, infos)
    if fields is None:
        return None
    try:
        return _state(fields, clients)
    except ValueError:
        raise misshapen(connection, "INFO") from None


def _state(fields: dict[str, str], clients: Reply) -> State:
    upstream = parse_upstream(fields)
    offset = fields.get("slave_repl_offset" if upstream else "master_repl_offset")
    link = re.match(rb"id=(\d+)", clients) if isinstance(clients, bytes) else None
    return State(
        run_id=fields.get("run_id", ""),
        role=fields.get("role", ""),
        link=link[1].decode() if link else "",
        attached=fields.get("master_link_status") == "up",
        histories=(fields.get("master_replid", ""), fields.get("master_replid2", "")),
        offset=signed(offset) if offset else -1,
        replicas=tuple(
            (place["ip"], port)
            for name, value in fields.items()
            if re.fullmatch(r"slave\d+", name)
            and "ip" in (place := dict(re.findall(r"(\w+)=([^,]*)", value)))
            and (port := port_of(place.get("port", "")))
        ),
        upstream=upstream,
    )


def _fields(connection: Connection, infos: Iterable[Reply]) -> dict[str, str] | None:
    """Return the fields of several sections of INFO; None if one is refused."""
    fields: dict[str, str] = {}
    for info in infos:
        text = text_of(connection, "INFO", info)
        if text is None:
            return None
        fields |= info_fields(text)
    return fields


def identify(connection: Connection) -> str:
    """Return the identity of a server that is itself the endpoint; "" if INFO is refused.

    Raises:
        ConnectionLost: it is a replica without its primary's data, or does not answer; the
            connection is closed then.
    """
    fields = _fields(connection, connection.call_many(_WHO))
    if fields is None or fields.get("role") != "slave":
        # CLIENT LIST walks all clients, of which a primary may have thousands.
        return fields.get("run_id", "") if fields else ""
    state = read_state(connection)
    if state and state.upstream and (fault := state.upstream.fault):
        connection.close()
        raise ConnectionLost(f"The replica at {connection.name} {fault}.")
    return state.identity if state else ""


def read_places(
    dialer: Dialer,
    known: Iterable[Address] = (),
    before: Iterable[Address | None] = (),
    idle: Idle | None = None,
) -> Topology:
    """Return the topology with the address at which to read each node: a primary or a replica.

    Args:
        known, idle: as for `read_topology`.
        before: addresses that are read already; they are kept if they are fit.

    Raises:
        NoReplica: a node has no replica that is fit, and primaries must not be read.
        ConnectionLost, SourceUnusable, TargetUnusable: as `read_topology`, of any primary.
    """
    topology = read_topology(dialer, known, idle)
    if dialer.read_from == "primary":
        return topology
    before = frozenset(before)
    places = [read_place(dialer, node, before) for node in topology.nodes]
    nodes, notes = zip(*places, strict=True)
    return replace(topology, nodes=nodes, notes=tuple(filter(None, notes)))


def read_place(dialer: Dialer, node: Node, before: Collection[Address | None]) -> tuple[Node, str]:
    """Return a node with the address at which to read it, and why that is the primary's own.

    Raises:
        NoReplica, ConnectionLost: as `read_places`.
    """
    if dialer.read_from == "primary":
        return node, ""
    try:
        return _by_replica(dialer, node, before), ""
    except NoReplica as error:
        if dialer.read_from == "replica":
            raise
        return node, f"{error} Its primary is read instead."


def _by_replica(dialer: Dialer, node: Node, before: Collection[Address | None]) -> Node:
    name = node.label(str(dialer.endpoint))
    primary = _ask_primary(dialer, node.address)
    if primary is None:
        raise NoReplica(f"The source's node {name} refuses INFO, so its replicas' lag is unknown.")
    if primary.role == "slave":
        raise NoReplica(
            f"The source's node {name} is itself a replica, so its own lag is unknown."
        )
    origin = Origin(node.address, primary.histories[0], primary.offset)
    named = node.replicas
    if not node.slots:  # a primary names only those that are connected to it
        named = tuple(dict.fromkeys([*primary.replicas, *filter(None, before)]))
    faults: dict[Address, str] = {}
    with ExitStack() as stack:
        connections: dict[Address, Connection] = {}
        for address in named:
            try:
                connections[address] = dialer.connect(address)
                stack.callback(connections[address].close)
            except RumpxError:
                faults[address] = "cannot be reached"
        until = time.monotonic() + _CATCH_UP_SECONDS
        while True:
            states = {address: _ask(connections[address]) for address in connections}
            attached = [address for address in states if _follows(states[address], origin)]
            for address, state in states.items():
                strange = "" if address in attached else "has another primary"
                faults[address] = _fault(state, origin) or strange
            fit = [address for address in attached if not faults[address]]
            over = not attached or time.monotonic() > until
            # Wait for the replica that is read already: another one means a new walk.
            mine = [address for address in attached if address in before] or fit
            if fit and (over or set(mine) & set(fit)):
                chosen = min(fit, key=lambda address: (address not in before, address))
                return replace(node, address=chosen, origin=origin)
            if over:
                break
            time.sleep(_PAUSE)
    known = [f"{format_address(address)} {fault}" for address, fault in faults.items()]
    raise NoReplica(
        f"The source's node {name} has no replica that can be read: "
        f"{'; '.join(known) or 'it has no replicas'}."
    )


def _ask_primary(dialer: Dialer, address: Address | None) -> State | None:
    connection = dialer.connect(address)
    try:
        return read_state(connection)
    finally:
        connection.close()


def _ask(connection: Connection) -> State | None:
    try:
        return read_state(connection)
    except ConnectionLost:
        return None


def _follows(state: State | None, origin: Origin) -> bool:
    """Return True if a server is attached to the primary's history, even if it is behind."""
    return bool(state and state.attached and origin.history in state.histories)


def _fault(state: State | None, origin: Origin) -> str:
    """Return why a server cannot be read as a replica of that origin; "" if it can."""
    if state is None:
        return "does not answer INFO"
    if state.role != "slave":
        return "is no longer a replica"
    if not state.attached:
        return "has lost the link to its primary"
    # A history that started later holds nothing older than the start.
    if origin.history in state.histories and state.offset < origin.offset:
        return f"is {origin.offset - state.offset:,} bytes behind its primary"
    return ""


def other_dataset(before: str, after: str) -> bool:
    """Return True if two identities belong to a server that is, or was, a replica and may have been
    filled again in between."""
    return bool(before and after) and before != after and ":" in before + after


def prove(connection: Connection, origin: Origin) -> str:
    """Return the identity of a replica that is fit to be read.

    Raises:
        ConnectionLost: it is not fit, or does not answer; the connection is closed then.
    """
    state = read_state(connection)
    fault = _fault(state, origin)
    if state is None or fault:
        connection.close()
        raise ConnectionLost(f"The source's replica at {connection.name} {fault}.")
    return state.identity


def read_identity(connection: Connection, node: Node) -> str:
    """Return the identity of the server that answers for a node: of a replica that is fit to be
    read in place of its primary, else of the endpoint itself; "" if unknown.

    Raises:
        ConnectionLost: it is not fit, or does not answer; the connection is closed then.
    """
    return prove(connection, node.origin) if node.origin else identify(connection)


def catch_up(dialer: Dialer, connection: Connection, origin: Origin) -> None:
    """Wait until a replica has all that its primary has now.

    Raises:
        ConnectionLost: it has not caught up after a few seconds, or a server does not answer.
    """
    primary = _ask_primary(dialer, origin.primary)
    until = time.monotonic() + _CATCH_UP_SECONDS
    while primary and primary.role != "slave" and time.monotonic() < until:
        now = Origin(origin.primary, primary.histories[0], primary.offset)
        state = read_state(connection)
        if _follows(state, now) and not _fault(state, now):
            return
        time.sleep(_PAUSE)
    connection.close()
    raise ConnectionLost(
        f"The source's replica at {connection.name} has not caught up with its primary."
    )
