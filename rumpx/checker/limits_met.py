"""What may not pass, as far as it can be known beforehand: values above a side's limits, and
connections for which a server has no room.

The limits are asked for by CONFIG GET; where that is refused, the target is taken to have the
default for its arguments, and nothing is said of the others.

Not promised: that what is warned of fails. The sample tells the memory of a value, which is more
than its payload as a rule; nor is the largest value in the sample the largest of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rumpx import units
from rumpx.checker.key_sample import Key
from rumpx.errors import printable
from rumpx.model.checkup import Line
from rumpx.preflight.draft import Draft
from rumpx.servers.answers import ask_text, whole_or
from rumpx.servers.info import info_fields
from rumpx.servers.resp import Connection
from rumpx.servers.side import SideFacts, connected

_DEFAULT_ARGUMENT: Final = 512 * 2**20
# Connections of the process that observes, to each node.
_OBSERVERS: Final = 2


def limits_of_values(draft: Draft, keys: Sequence[Key]) -> list[Line]:
    """Whether the largest value of the sample is above a limit of a side.

    Raises:
        RumpxError: a side does not answer any more.
    """
    largest = max((key for key in keys if key.bytes), key=lambda key: key.bytes or 0, default=None)
    if largest is None:
        return []
    lines = []
    size = largest.bytes or 0
    argument = min(map(_argument_limit, _each(draft.target)), default=_DEFAULT_ARGUMENT)
    answer = min(filter(None, map(_answer_limit, _each(draft.source))), default=0)
    for side, name, limit in (
        ("target", "proto-max-bulk-len", argument),
        ("source", "client-output-buffer-limit", answer),
    ):
        if limit and size > limit:
            lines.append(
                Line(
                    "warn",
                    "values",
                    f"{printable(largest.name)} takes {units.size(size)}, and the {side}'s {name} "
                    f"is {units.size(limit)}: such a value may not pass, and would fail by itself",
                    f"CONFIG SET {name} on the {side}, for the time of the copy",
                )
            )
    return lines


def limits_of_clients(draft: Draft) -> list[Line]:
    """Whether the servers have room for the connections of a copy.

    Raises:
        RumpxError: a side does not answer any more.
    """
    lines = []
    for side, scanners in ((draft.source, draft.tuning.scanners), (draft.target, 0)):
        needed = draft.job.workers + scanners + _OBSERVERS
        room = min((r for r in map(_room_for_clients, _each(side)) if r is not None), default=None)
        if room is not None and room < needed:
            name = side.dialer.side
            lines.append(
                Line(
                    "warn",
                    "clients",
                    f"The {name} has room for {max(0, room)} more clients (maxclients), and a copy "
                    f"opens up to {needed} connections to it",
                    f"Raise its maxclients, or ask for fewer than {draft.job.workers} --workers",
                )
            )
    return lines


def _each(side: SideFacts) -> Iterator[Connection]:
    """A connection to each node, one after the other."""
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            yield connection


def _argument_limit(connection: Connection) -> int:
    return whole_or(_setting(connection, "proto-max-bulk-len"), _DEFAULT_ARGUMENT)


def _answer_limit(connection: Connection) -> int:
    """The hard limit of what waits for a normal client; 0 if there is none, or it is not told."""
    words = _setting(connection, "client-output-buffer-limit").split()
    if "normal" not in words[:-1]:
        return 0
    return whole_or(words[words.index("normal") + 1], 0)


def _room_for_clients(connection: Connection) -> int | None:
    """For how many more clients there is room, without this connection."""
    most = whole_or(_setting(connection, "maxclients"), -1)
    told = info_fields(ask_text(connection, "INFO", "clients") or "")
    now = whole_or(told.get("connected_clients", ""), -1)
    return most - now + 1 if most >= 0 and now >= 0 else None


def _setting(connection: Connection, name: str) -> str:
    """A configuration setting; "" where CONFIG is refused, or has no such setting."""
    reply = connection.call("CONFIG", "GET", name)
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
        return reply[1].decode(errors="replace")
    return ""
