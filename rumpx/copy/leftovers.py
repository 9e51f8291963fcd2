"""What a copy of keys leaves on the source: functions, indexes, scripts, ACL users, configuration.

It is only counted, where the source tells; passwords are never read. Functions are copied on
request (`functions`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rumpx.copy.prepare import SideFacts, connected
from rumpx.errors import RumpxError
from rumpx.servers.probe import info_fields
from rumpx.servers.replies import classify
from rumpx.servers.resp import Reply
from rumpx.servers.topology import is_error


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of thing that stays behind; `number` reads it from the command's reply."""

    one: str
    many: str
    command: tuple[str, ...]
    number: Callable[[Reply], int]
    remedy: str = ""


def _listed(reply: Reply) -> int:
    return len(reply) if isinstance(reply, list) else 0


def _cached_scripts(reply: Reply) -> int:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
    return int(info_fields(text).get("number_of_cached_scripts", 0))


_FUNCTIONS: Final = _Kind(
    "function library",
    "function libraries",
    ("FUNCTION", "LIST"),
    _listed,
    " (--functions copies them)",
)
_OTHERS: Final = (
    _Kind("search index", "search indexes", ("FT._LIST",), _listed),
    _Kind("cached script", "cached scripts", ("INFO", "memory"), _cached_scripts),
    # All but the user that every server has.
    _Kind("ACL user", "ACL users", ("ACL", "USERS"), lambda reply: _listed(reply) - 1),
)


def left_behind(source: SideFacts, *, functions_copied: bool) -> tuple[str, ...]:
    """What of the source a copy of its keys does not take along, for a check and for the end of a
    copy's report."""
    kinds = _OTHERS if functions_copied else (_FUNCTIONS, *_OTHERS)
    try:
        with connected(source.dialer, source.topology_now().nodes[0].address) as connection:
            found = [_told(kind, connection.call(*kind.command)) for kind in kinds]
    except RumpxError:
        found = []  # the copy is complete; that the source has just gone away does not spoil it
    return (*filter(None, found), "the server's configuration")


def _told(kind: _Kind, reply: Reply) -> str:
    """What stays, or that this is not known; "" where there is none, or the server has no such
    thing."""
    if is_error(reply):
        unknown = classify(reply).reason == "unknown command"
        return "" if unknown else f"{kind.many} (not known: {' '.join(kind.command)} is refused)"
    number = kind.number(reply)
    return f"{_count(number, kind.one, kind.many)}{kind.remedy}" if number > 0 else ""


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
