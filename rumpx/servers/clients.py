"""Which clients a server has, and ending some of them: CLIENT LIST, CLIENT KILL.

A client that is ended takes along what it sent and what the server has not executed yet, wherever
that is: in the server's own buffers, or held up on the way, for instance by a proxy whose
connection to the server this is. So a write that was sent and never answered cannot happen later.

A client is known by its name *and*, where one connection is meant, its id: ids begin anew when the
server restarts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal

from rumpx.servers.resp import Connection, Reply
from rumpx.servers.topology import is_error

Left = Literal["nothing", "some", "unknown"]
"""What is left of clients that were to be ended: nothing, surely; some, since CLIENT KILL is
refused; unknown, since the server does not list its clients, or not all."""

_ENTRY: Final = re.compile(rb"^id=(\d{1,20}) .*? name=(\S*)", re.MULTILINE)
# A client that is at work in a thread of a module may take a moment to end.
_ROUNDS: Final = 20


def _listed(connection: Connection, lost: int | None) -> dict[int, str] | None:
    """The names of clients by their ids; None where the server does not tell.

    CLIENT SETNAME and CLIENT LIST are believed only where they show this connection, named.
    """
    if connection.id is None:
        return None
    reply: Reply = None
    if lost is not None:
        reply = connection.call("CLIENT", "LIST", "ID", connection.id, lost)
    if not isinstance(reply, bytes):  # before 6.2 all are listed, or none
        reply = connection.call("CLIENT", "LIST")
    if not isinstance(reply, bytes):
        return None
    clients = {int(n): name.decode(errors="replace") for n, name in _ENTRY.findall(reply)}
    return clients if clients.get(connection.id) else None


def end_clients(
    connection: Connection, doomed: Callable[[str], bool], lost: int | None = None
) -> Left:
    """End a server's clients, but never the one that asks, until none of them is listed.

    Args:
        doomed: by its name, whether a client is one of them.
        lost: the id of the only one that is meant; None for all.

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
