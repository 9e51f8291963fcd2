"""List a server's clients and end some of them: CLIENT LIST, CLIENT KILL.

Ending a client discards all that it sent and that the server has not executed yet, wherever that
is: in the server's own buffers, or delayed in the network, for instance by a proxy whose connection
to the server this is. So a write that was sent and never answered cannot be executed later.

A client is identified by its name *and*, for a single connection, by its id: a server that restarts
counts ids from the start again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal

from rumpx.servers.resp import Connection, Reply
from rumpx.servers.topology import is_error

Left = Literal["nothing", "some", "unknown"]
"""The clients that remain of those to end: nothing, for certain; some, since CLIENT KILL is
refused; unknown, since the server does not list its clients, or not all of them."""

_ENTRY: Final = re.compile(rb"^id=(\d{1,20}) .*? name=(\S*)", re.MULTILINE)
# A client that runs in a module's thread may take a moment to end.
_ROUNDS: Final = 20


def _listed(connection: Connection, lost: int | None) -> dict[int, str] | None:
    """Return the names of clients by id; None if the server does not list them.

    CLIENT SETNAME and CLIENT LIST are trusted only if the list shows this connection, named.
    """
    if connection.id is None:
        return None
    reply: Reply = None
    if lost is not None:
        reply = connection.call("CLIENT", "LIST", "ID", connection.id, lost)
    if not isinstance(reply, bytes):  # servers before 6.2 list all clients, or none
        reply = connection.call("CLIENT", "LIST")
    if not isinstance(reply, bytes):
        return None
    clients = {int(n): name.decode(errors="replace") for n, name in _ENTRY.findall(reply)}
    return clients if clients.get(connection.id) else None


def end_clients(
    connection: Connection, doomed: Callable[[str], bool], lost: int | None = None
) -> Left:
    """End a server's clients, except the connection that asks, until none of them is listed.

    Args:
        doomed: returns True for the name of a client to end.
        lost: the id of the only client to end; None for all.

    Raises:
        ConnectionLost: the server does not answer.
    """
    for _ in range(_ROUNDS):
        clients = _listed(connection, lost)
        if clients is None:
            return "unknown"
        meant = clients.keys() - {connection.id} if lost is None else clients.keys() & {lost}
        found = [number for number in meant if doomed(clients[number])]
        if not found:
            return "nothing"
        replies = connection.call_many([("CLIENT", "KILL", "ID", number) for number in found])
        if any(map(is_error, replies)):
            return "some"
    return "some"
