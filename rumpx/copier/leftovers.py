"""Count the objects that a copy of keys leaves on the source: functions, search indexes, scripts,
ACL users; and name its configuration.

They are counted only, as far as the source allows; passwords are never read. Functions are copied
on request (`functions`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rumpx.errors import RumpxError
from rumpx.servers.answers import whole_or
from rumpx.servers.info import info_fields
from rumpx.servers.replies import classify
from rumpx.servers.resp import Reply
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error

# More than any server has.
_MOST_SCRIPTS: Final = 10**6


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of object that stays behind; `things` returns their names from the command's reply,
    so that an object on several primaries counts once."""

    one: str
    many: str
    command: tuple[str, ...]
    things: Callable[[Reply], set[object]]
    remedy: str = ""


def _libraries(reply: Reply) -> set[object]:
    libraries = reply if isinstance(reply, list) else []
    return _names([each[1] for each in libraries if isinstance(each, list) and len(each) > 1])


def _names(reply: Reply) -> set[object]:
    return {name for name in reply if isinstance(name, bytes)} if isinstance(reply, list) else set()


def _cached_scripts(reply: Reply) -> set[object]:
    """INFO returns only their number; of several primaries the largest is a lower bound."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
    number = whole_or(info_fields(text).get("number_of_cached_scripts", ""), 0)
    return set(range(min(number, _MOST_SCRIPTS)))


def _users(reply: Reply) -> set[object]:
    """Return all but the one that every server has."""
    return _names(reply) - {b"default"}


_FUNCTIONS: Final = _Kind(
    "function library",
    "function libraries",
    ("FUNCTION", "LIST"),
    _libraries,
    " (--functions copies them)",
)
_OTHERS: Final = (
    _Kind("search index", "search indexes", ("FT._LIST",), _names),
    _Kind("cached script", "cached scripts", ("INFO", "memory"), _cached_scripts),
    _Kind("ACL user", "ACL users", ("ACL", "USERS"), _users),
)


def left_behind(source: SideFacts, *, functions_copied: bool) -> tuple[str, ...]:
    """Return the kinds of objects that a copy of the keys leaves on the source, with their numbers,
    as in "2 ACL users"."""
    kinds = _OTHERS if functions_copied else (_FUNCTIONS, *_OTHERS)
    answers: dict[_Kind, list[Reply]] = {kind: [] for kind in kinds}
    # The copy is complete: a primary that has just been lost must not make it fail.
    with contextlib.suppress(RumpxError):
        for node in source.topology_now().nodes:
            with connected(source.dialer, node.address) as connection:
                for kind, replies in answers.items():
                    replies.append(connection.call(*kind.command))
    told = [_told(kind, replies) for kind, replies in answers.items()]
    return (*filter(None, told), "the server's configuration")


def _told(kind: _Kind, replies: Sequence[Reply]) -> str:
    """Return the number of objects of a kind, or that it is unknown; "" if there are none, or the
    servers do not have that kind."""
    things = set().union(*(kind.things(reply) for reply in replies))
    if things:
        number = len(things)
        return f"{number} {kind.one if number == 1 else kind.many}{kind.remedy}"
    errors = [reply for reply in replies if is_error(reply)]
    if all(classify(error).reason == "unknown command" for error in errors):
        return ""
    return f"{kind.many} (not known: {' '.join(kind.command)} is refused)"
