"""What a copy of keys leaves on the source: functions, ACL users, configuration.

Functions are copied on request, by FUNCTION DUMP and FUNCTION RESTORE (≥ 7.0) to each primary of
the target. The rest is only counted, where the source tells; passwords are never read.
"""

from __future__ import annotations

from rumpx.copy.prepare import SideFacts, connected
from rumpx.errors import RumpxError, SourceUnusable, TargetUnusable
from rumpx.servers.replies import explain_refusal
from rumpx.servers.topology import is_error


def copy_functions(source: SideFacts, target: SideFacts, *, replace: bool) -> str:
    """Copy all function libraries.

    Args:
        replace: overwrite libraries that the target has; else they are an error.

    Returns:
        A sentence for the user.

    Raises:
        SourceUnusable, TargetUnusable: FUNCTION is refused, or a library is there already.
    """
    with connected(source.dialer, source.topology_now().nodes[0].address) as connection:
        libraries = connection.call("FUNCTION", "LIST")
        payload = connection.call("FUNCTION", "DUMP")
    if not isinstance(payload, bytes) or not isinstance(libraries, list):
        raise SourceUnusable(
            f"The source's functions cannot be read: {explain_refusal(payload, 'FUNCTION')}. "
            "Run without --functions."
        )
    if not libraries:
        return "The source has no functions."
    for node in target.topology_now().nodes:
        with connected(target.dialer, node.address) as connection:
            policy = "REPLACE" if replace else "APPEND"
            reply = connection.call("FUNCTION", "RESTORE", payload, policy)
            if is_error(reply):
                raise TargetUnusable(
                    f"The target at {connection.name} did not take the source's functions: "
                    f"{explain_refusal(reply, 'FUNCTION')}."
                )
    return f"Copied {_count(len(libraries), 'function library', 'function libraries')}."


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
