"""Reach one side, log in, and ask what it is: topology, INFO of every node, clock."""

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

# A balancer in turns shows itself at the second of these; one at random mostly at one of them.
_CONNECTIONS_TRIED: Final = 4


def look(job: Job, side: Side) -> SideFacts:
    """Reach one side and ask it what it is."""
    endpoint: Endpoint = job.source if side == "source" else job.target
    # Until the copy runs no answer takes long: silence is found out within the connect timeout.
    read_from = job.read_from if side == "source" else "primary"
    dialer = Dialer(endpoint, side, job.connect_timeout, job.connect_timeout, read_from=read_from)
    with at_start(dialer):
        try:
            topology = read_places(dialer)
        except ConnectionLost as error:
            if error.silent or not dialer.hangs_up():
                raise
            why = "it ends the connection at commands that it does not know, as twemproxy does"
            raise unusable(side)(proxy_words(side, str(endpoint), why)) from None
        except NoReplica:
            raise
        except TemporaryError:
            with connected(dialer, None) as connection:
                refuse_silent_replica(side, connection)
            raise
    infos: dict[Address | None, ServerInfo | None] = {}
    clock = ServerClock(None, 0.0)
    no_touch = False
    for number, node in enumerate(topology.nodes):
        with connected(dialer, node.address, mark=node.mark) as connection:
            refuse_foreign(side, connection)
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
    return SideFacts(dialer, topology, infos, clock)


def may_be_balanced(dialer: Dialer, topology: Topology) -> bool:
    """Whether a side is one address that is dialled as it was given."""
    plain = dialer.endpoint.transport == "tcp" and dialer.read_from == "primary"
    return plain and not topology.cluster


def refuse_balancer(dialer: Dialer) -> None:
    """Each connection to one server's address must lead to the same server.

    Raises:
        ConnectionLost: nobody answers there now.
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
    """INFO of a replica that is read in its primary's place."""
    identity = prove(connection, origin)
    info = read_info(connection)
    # A replica evicts nothing of its own accord: it ignores maxmemory (unless told otherwise).
    return info and replace(info, link=identity.partition(":")[2], max_memory=0)


def _prove_readonly(connection: Connection) -> None:
    reply = connection.call("READONLY")
    if is_error(reply):
        raise SourceUnusable(
            f"The source's replica at {connection.name} refused READONLY, without which replicas "
            f"of a cluster are not read: {explain_refusal(reply, 'READONLY')}."
        )


def refuse_foreign(side: Side, connection: Connection) -> None:
    """Whoever answers must be a Redis, must let us in, and must be ready."""
    reply = connection.call("PING")
    told = connection.call("INFO", "server")
    if is_error(told) and is_proxy(told):
        why = f"it answers INFO by {str(told).rstrip('.')!r}"
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
    raise unusable(side)(f"The {side} at {connection.name} does not let us in: {text}")


def refuse_silent_replica(side: Side, connection: Connection) -> None:
    """A replica that loads its primary's data, or that answers no reads while it is cut off."""
    info = read_info(connection)
    upstream = info and info.upstream
    if not upstream:
        return
    reply = connection.call("DBSIZE")
    if str(reply).startswith("LOADING"):
        raise unfit(side, connection.name, upstream.fault or "is loading its data")
    if str(reply).startswith("MASTERDOWN"):
        raise unusable(side)(
            f"The {side} at {connection.name} {upstream.fault or upstream.lag}, and answers no "
            "reads until the link is up again (replica-serve-stale-data no). Mend the link, or "
            "give its primary."
        )


def unfit(side: Side, name: str, fault: str) -> RumpxError:
    return unusable(side)(
        f"The {side} at {name} is a replica and {fault}: what it holds is not its primary's data. "
        "Wait until INFO says master_link_status:up there, or give its primary (or, if its own "
        "data are wanted, detach it by REPLICAOF NO ONE)."
    )
