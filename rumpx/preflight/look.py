"""Connect to one side, log in, and read its topology, the INFO of every node, and its clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from rumpx.errors import (
    ConnectionLost,
    NoReplica,
    RumpxError,
    Side,
    SourceUnusable,
    TemporaryError,
    unusable,
)
from rumpx.model.endpoint import Address, Endpoint
from rumpx.model.job import Job
from rumpx.model.nodes import Origin, Topology
from rumpx.servers.answers import misshapen
from rumpx.servers.dial import Dialer
from rumpx.servers.info import ServerClock, ServerInfo, measure_clock, read_info
from rumpx.servers.redials import Redials
from rumpx.servers.replicas import prove, read_places, read_state
from rumpx.servers.replies import (
    balancer_words,
    cannot_save,
    explain_refusal,
    is_proxy,
    proxy_words,
    refused,
)
from rumpx.servers.resp import Connection
from rumpx.servers.side import SideFacts, at_start, connected
from rumpx.servers.topology import is_error

# A round-robin balancer shows at the second connection, a random one at one of them most times.
_CONNECTIONS_TRIED: Final = 4


def look(job: Job, side: Side) -> SideFacts:
    """Connect to one side and read its facts."""
    endpoint: Endpoint = job.source if side == "source" else job.target
    # Before the copy runs no reply takes long: the connect timeout detects a silent server.
    read_from = job.read_from if side == "source" else "primary"
    dialer = Dialer(endpoint, side, job.connect_timeout, job.connect_timeout, read_from=read_from)
    with at_start(dialer):
        try:
            topology = read_places(dialer)
        except ConnectionLost as error:
            if error.silent or not dialer.hangs_up():
                raise
            why = "it closes the connection on unknown commands, as twemproxy does"
            raise unusable(side)(proxy_words(side, str(endpoint), why)) from None
        except NoReplica:
            raise
        except TemporaryError:
            with connected(dialer, None) as connection:
                refuse_silent_replica(side, connection)
            raise
    infos: dict[Address | None, ServerInfo | None] = {}
    clock = ServerClock(None, 0.0)
    no_touch = local = False
    for number, node in enumerate(topology.nodes):
        with connected(dialer, node.address, mark=node.mark) as connection:
            refuse_foreign(side, connection)
            local |= connection.local
            info = read_info(connection)
            infos[node.address] = info
            if node.origin:
                infos[node.address] = _replica_info(connection, node.origin)
                if topology.cluster:
                    _prove_readonly(connection)
            elif info and info.upstream:
                refuse_silent_replica(side, connection)
                state = read_state(connection)
                infos[node.address] = replace(info, link=state.dataset if state else None)
            if number == 0:
                clock = measure_clock(connection)
                no_touch = connection.call("CLIENT", "NO-TOUCH", "ON") == b"OK"
    if may_be_balanced(dialer, topology):
        with at_start(dialer):
            refuse_balancer(dialer)
    dialer = replace(dialer, timeout=job.timeout, no_touch=no_touch, redials=Redials())
    return SideFacts(dialer, topology, infos, clock, local)


def may_be_balanced(dialer: Dialer, topology: Topology) -> bool:
    """Return True if a side is one address that is dialled as given."""
    plain = dialer.endpoint.transport == "tcp" and dialer.read_from == "primary"
    return plain and not topology.cluster


def refuse_balancer(dialer: Dialer) -> None:
    """Refuse one address whose connections lead to different servers.

    Raises:
        ConnectionLost: the server no longer answers.
    """
    found = set()
    for _ in range(_CONNECTIONS_TRIED):
        connection = dialer.connect()
        try:
            info = read_info(connection)
        finally:
            connection.close()
        if info is None:
            return
        found.add(info.run_id)
        if len(found) > 1:
            raise unusable(dialer.side)(balancer_words(dialer.side, connection.name))


def _replica_info(connection: Connection, origin: Origin) -> ServerInfo | None:
    """Return the INFO of a replica that is read in place of its primary."""
    identity = prove(connection, origin)
    info = read_info(connection)
    # A replica evicts nothing by itself: it ignores maxmemory by default.
    return info and replace(info, link=identity.partition(":")[2], max_memory=0)


def _prove_readonly(connection: Connection) -> None:
    reply = connection.call("READONLY")
    if is_error(reply):
        raise SourceUnusable(
            f"The source's replica at {connection.name} refused READONLY, without which a cluster "
            f"replica cannot be read: {explain_refusal(reply, 'READONLY')}."
        )


def refuse_foreign(side: Side, connection: Connection) -> None:
    """Refuse a server that is no Redis or Valkey, rejects the login, or is not ready."""
    reply = connection.call("PING")
    told = connection.call("INFO", "server")
    if is_error(told) and is_proxy(told):
        why = f"it answers INFO with {str(told).rstrip('.')!r}"
        raise unusable(side)(proxy_words(side, connection.name, why))
    if refused(reply) or reply == b"PONG":
        return
    if not is_error(reply):
        raise misshapen(connection, "PING")
    text = str(reply)
    if cannot_save(reply):
        return
    if text.startswith(("LOADING", "MASTERDOWN", "BUSY ")):
        refuse_silent_replica(side, connection)
        raise TemporaryError(f"The {side} at {connection.name} is not ready: {text}")
    raise unusable(side)(f"The {side} at {connection.name} rejected the connection: {text}")


def refuse_silent_replica(side: Side, connection: Connection) -> None:
    """Refuse a replica that is loading its primary's data, or serves no reads while cut off."""
    info = read_info(connection)
    upstream = info and info.upstream
    if not upstream:
        return
    reply = connection.call("DBSIZE")
    if str(reply).startswith("LOADING"):
        raise unfit(side, connection.name, upstream.fault or "is loading its data")
    if str(reply).startswith("MASTERDOWN"):
        raise unusable(side)(
            f"The {side} at {connection.name} {upstream.fault or upstream.lag}, and serves no "
            "reads until the link is up again (replica-serve-stale-data no). Fix the link, or "
            "give its primary."
        )


def unfit(side: Side, name: str, fault: str) -> RumpxError:
    return unusable(side)(
        f"The {side} at {name} is a replica and {fault}: it does not hold its primary's data. "
        "Wait until its INFO shows master_link_status:up, or give its primary (or, to use its own "
        "data, detach it by REPLICAOF NO ONE)."
    )
