"""What a copy of keys leaves on the source: functions, ACL users, configuration.

It is only counted, where the source tells; passwords are never read. Functions are copied on
request (`functions`).
"""

from __future__ import annotations

from rumpx.copy.prepare import SideFacts, connected
from rumpx.errors import RumpxError


def left_behind(source: SideFacts, *, functions_copied: bool) -> tuple[str, ...]:
    """What of the source a copy of its keys does not take along, for the end of the report."""
    try:
        found = _libraries_and_users(source, functions_copied=functions_copied)
    except RumpxError:
        found = []  # the copy is complete; that the source has just gone away does not spoil it
    return (*found, "the server's configuration")


def _libraries_and_users(source: SideFacts, *, functions_copied: bool) -> list[str]:
    found = []
    with connected(source.dialer, source.topology_now().nodes[0].address) as connection:
        libraries = connection.call("FUNCTION", "LIST")
        if isinstance(libraries, list) and libraries and not functions_copied:
            count = _count(len(libraries), "function library", "function libraries")
            found.append(f"{count} (--functions copies them)")
        users = connection.call("ACL", "USERS")
        if isinstance(users, list) and len(users) > 1:
            found.append(_count(len(users) - 1, "ACL user", "ACL users"))
    return found


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
