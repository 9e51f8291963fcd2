"""Predict failures at servers' limits: values above a side's limits, and connections for which a
server has no room.

Values that a copy streams pass in pieces, except that a string is one argument for the target.

CONFIG GET returns the limits; if it is refused, the target is assumed to have the default for its
arguments, and the others are not checked.

Not promised: that a key with a warning fails. The sample shows the memory of a value, usually more
than its payload; nor is the largest value in the sample the largest of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rumpx import units
from rumpx.checker.key_sample import Key
from rumpx.errors import Side, printable
from rumpx.model.checkup import Line
from rumpx.model.option_kinds import KEY_TYPES
from rumpx.preflight.draft import Draft
from rumpx.servers.answers import ask_text, whole_or
from rumpx.servers.info import info_fields
from rumpx.servers.resp import Connection
from rumpx.servers.side import SideFacts, connected

_DEFAULT_ARGUMENT: Final = 512 * 2**20
# Connections of the prober process to each node.
_OBSERVERS: Final = 2


def limits_of_values(draft: Draft, keys: Sequence[Key]) -> list[Line]:
    """Warn if the largest value of the sample is above a limit of a side.

    Raises:
        RumpxError: a side no longer answers.
    """
    sized = sorted((key for key in keys if key.bytes), key=lambda key: key.bytes or 0)
    if not sized:
        return []
    lines = []
    stream_from = draft.job.stream_from
    argument = min(map(_argument_limit, _each(draft.target)), default=_DEFAULT_ARGUMENT)
    query = min(filter(None, map(_query_limit, _each(draft.target))), default=0)
    answer = min(filter(None, map(_answer_limit, _each(draft.source))), default=0)
    limits: tuple[tuple[Side, str, int], ...] = (
        ("target", "proto-max-bulk-len", argument),
        ("target", "client-query-buffer-limit", query),
        ("source", "client-output-buffer-limit", answer),
    )
    for side, name, limit in limits:
        whole = [key for key in sized if not _goes_in_pieces(key, stream_from, side)]
        largest = whole[-1] if whole else None
        size = largest.bytes or 0 if largest else 0
        if largest and limit and size > limit:
            lines.append(
                Line(
                    "warn",
                    "values",
                    f"{printable(largest.name)} takes {units.size(size)}, and the {side}'s {name} "
                    f"is {units.size(limit)}: it may be too large to copy, and would fail",
                    f"CONFIG SET {name} on the {side} for the duration of the copy",
                )
            )
    return lines


def _goes_in_pieces(key: Key, stream_from: int | None, side: Side) -> bool:
    """Return True if a value passes a side in pieces: a string is one argument for the target, and
    modules' values go whole."""
    if stream_from is None or (key.bytes or 0) < stream_from:
        return False
    return key.type in KEY_TYPES and not (key.type == "string" and side == "target")


def limits_of_clients(draft: Draft) -> list[Line]:
    """Warn if a server lacks room for the connections of a copy.

    Raises:
        RumpxError: a side no longer answers.
    """
    lines = []
    walks = draft.threads or draft.tuning.scanners
    for side, scanners in ((draft.source, walks), (draft.target, 0)):
        needed = draft.tuning.workers + scanners + _OBSERVERS
        room = min((r for r in map(_room_for_clients, _each(side)) if r is not None), default=None)
        if room is not None and room < needed:
            name = side.dialer.side
            lines.append(
                Line(
                    "warn",
                    "clients",
                    f"The {name} has room for {max(0, room)} more clients (maxclients), and a copy "
                    f"opens up to {needed} connections to it",
                    f"Raise its maxclients, or {draft.job.fewer_workers}",
                )
            )
    return lines


def _each(side: SideFacts) -> Iterator[Connection]:
    """Yield a connection to each node, one after the other."""
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            yield connection


def _argument_limit(connection: Connection) -> int:
    return whole_or(_setting(connection, "proto-max-bulk-len"), _DEFAULT_ARGUMENT)


def _query_limit(connection: Connection) -> int:
    """Return the most bytes of a request; 0 if unknown."""
    return whole_or(_setting(connection, "client-query-buffer-limit"), 0)


def _answer_limit(connection: Connection) -> int:
    """Return the hard limit of a normal client's output buffer; 0 if none or unknown."""
    words = _setting(connection, "client-output-buffer-limit").split()
    if "normal" not in words[:-1]:
        return 0
    return whole_or(words[words.index("normal") + 1], 0)


def _room_for_clients(connection: Connection) -> int | None:
    """Return the number of further clients that fit, not counting this connection."""
    most = whole_or(_setting(connection, "maxclients"), -1)
    told = info_fields(ask_text(connection, "INFO", "clients") or "")
    now = whole_or(told.get("connected_clients", ""), -1)
    return most - now + 1 if most >= 0 and now >= 0 else None


def _setting(connection: Connection, name: str) -> str:
    """Return a configuration setting; "" if CONFIG is refused or has no such setting."""
    reply = connection.call("CONFIG", "GET", name)
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
        return reply[1].decode(errors="replace")
    return ""
