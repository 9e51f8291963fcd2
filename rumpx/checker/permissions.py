"""Which commands the users of both sides may call, found out by calling them.

Each command is called in a form that is complete but changes nothing: on a key that is not there,
or with an argument that the server refuses only after all permissions. (A wrong number of arguments
proves nothing, since that is refused before.) This needs no further right, works on every version,
and also finds what a service has renamed or taken away, which `ACL DRYRUN` does not tell, where it
is there and allowed at all.

Key patterns are tried on names of the sample: reading by what the sample was read with, writing by
a RESTORE that cannot succeed.

Not promised: that what holds on one key holds on all.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rumpx.errors import EXIT_SOME_KEYS_FAILED, printable, unusable
from rumpx.model.checkup import Line, Status
from rumpx.model.job import Job
from rumpx.preflight.abilities import no_restore
from rumpx.preflight.draft import Draft
from rumpx.servers.answers import ask_text
from rumpx.servers.dial import CLIENT_NAME
from rumpx.servers.replies import Kind, classify, key_refused, refused
from rumpx.servers.resp import Argument, Connection
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error

_SUBJECTS: Final = {"source": "reading", "target": "writing"}
_NAMES_TRIED: Final = 100


@dataclass(frozen=True, slots=True)
class Right:
    """A command, a call of it that changes nothing, and whether a copy is impossible without."""

    name: str
    call: tuple[Argument, ...]
    needed: bool = False

    @property
    def rule(self) -> str:
        """What an ACL says to allow it."""
        return "+" + self.name.lower().replace(" ", "|")


# What ends connections of an earlier run, or of a dead worker. No client has that number.
_FENCE: Final = (
    Right("CLIENT SETNAME", ("CLIENT", "SETNAME", CLIENT_NAME)),
    Right("CLIENT ID", ("CLIENT", "ID")),
    Right("CLIENT LIST", ("CLIENT", "LIST", "TYPE", "pubsub")),
    Right("CLIENT KILL", ("CLIENT", "KILL", "ID", 2**62)),
)


def unguessable() -> bytes:
    """A key name that nobody has."""
    return b"rumpx:check:" + secrets.token_hex(16).encode()


def rights_to_read(job: Job, source: SideFacts, databases: Iterable[int]) -> list[Right]:
    """What a copy calls on the source; MULTI and EXEC last, since they change what follows."""
    key, cluster = unguessable(), source.topology.cluster
    rights = [
        Right("SCAN", ("SCAN", 0, "COUNT", 1), True),
        Right("DUMP", ("DUMP", key), True),
        Right("PTTL", ("PTTL", key), True),
        *_select(databases),
        Right("PEXPIRETIME", ("PEXPIRETIME", key)),
        Right("TIME", ("TIME",)),
        Right("INFO", ("INFO", "server")),
        Right("CLIENT NO-TOUCH", ("CLIENT", "NO-TOUCH", "ON")),
    ]
    if job.size_check:
        rights.append(Right("MEMORY USAGE", ("MEMORY", "USAGE", key, "SAMPLES", 1)))
    if len(job.scope.types) > 0:
        rights.append(Right("TYPE", ("TYPE", key)))
    if job.functions:
        rights.append(Right("FUNCTION LIST", ("FUNCTION", "LIST"), True))
    if cluster:
        return [*rights, Right("CLUSTER NODES", ("CLUSTER", "NODES"))]
    return [*rights, Right("MULTI", ("MULTI",)), Right("EXEC", ("EXEC",))]


def rights_to_write(draft: Draft, databases: Iterable[int]) -> list[Right]:
    """What a copy calls on the target. (That RESTORE has ABSTTL is looked for by itself.)"""
    job, target = draft.job, draft.target
    restore = no_restore(unguessable(), replace=draft.replaces, absttl=False)
    rights = [
        Right("RESTORE", restore, True),
        *_select(databases),
        Right("TIME", ("TIME",)),
        Right("INFO", ("INFO", "server")),
        *_FENCE,
    ]
    if job.functions:
        # What is no library is refused as such only after all permissions.
        rights.append(Right("FUNCTION LIST", ("FUNCTION", "LIST"), True))
        rights.append(Right("FUNCTION LOAD", ("FUNCTION", "LOAD", b"x"), True))
    if target.topology.cluster:
        rights.append(Right("CLUSTER NODES", ("CLUSTER", "NODES")))
        rights.append(Right("ASKING", ("ASKING",)))
    return rights


def _select(databases: Iterable[int]) -> list[Right]:
    return [Right("SELECT", ("SELECT", 0), True)] if any(databases) else []


def try_rights(side: SideFacts, rights: Sequence[Right]) -> list[Line]:
    """Call each on every primary, and say what was refused, with the ACL rule to add. Nothing is
    said of a command in which the server does not know an option."""
    forbidden: dict[str, Right] = {}
    absent: dict[str, Right] = {}
    malformed: set[str] = set()
    user = ""
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            user = user or user_name(side, connection)
            for right in rights:
                reply = connection.call(*right.call)
                if not is_error(reply) or classify(reply).kind is not Kind.PERMANENT:
                    continue
                if refused(reply):
                    no_permission = str(reply).startswith("NOPERM")
                    (forbidden if no_permission else absent)[right.name] = right
                elif classify(reply).reason == "syntax error":
                    malformed.add(right.name)
    told = [right for right in rights if right.name not in malformed]
    return list(_told(side, told, forbidden, absent, user))


def user_name(side: SideFacts, connection: Connection) -> str:
    """Who we are to the server."""
    told = ask_text(connection, "ACL", "WHOAMI")
    return told if told is not None else side.dialer.endpoint.username or "default"


def _told(
    side: SideFacts,
    rights: Sequence[Right],
    forbidden: dict[str, Right],
    absent: dict[str, Right],
    user: str,
) -> Iterable[Line]:
    name = side.dialer.side
    subject, code = _SUBJECTS[name], unusable(name).exit_code
    shown = printable(user.encode())
    for right in rights:
        if right.needed and right.name in forbidden:
            yield Line(
                "fail",
                subject,
                f"The {name}'s user {shown} may not call {right.name}.",
                f"ACL SETUSER {shown} {right.rule}",
                code,
            )
        elif right.needed and right.name in absent:
            yield Line(
                "fail",
                subject,
                f"The {name} has no {right.name}: it is renamed, disabled, or the server is too "
                "old.",
                "",
                code,
            )
    refusals = forbidden.keys() | absent.keys()
    if allowed := [right.name for right in rights if right.name not in refusals]:
        needed_refused = any(right.needed and right.name in refusals for right in rights)
        status: Status = "info" if needed_refused else "ok"
        yield Line(status, subject, f"User {shown} may call {', '.join(allowed)}")
    if helpful := [right for right in rights if right.name in forbidden and not right.needed]:
        yield Line(
            "warn",
            subject,
            f"The {name}'s user {shown} may not call {_names(helpful)}; the copy does without.",
            f"ACL SETUSER {shown} {' '.join(right.rule for right in helpful)} "
            "(rumpx help services tells what is lost without)",
        )
    if missing := [right for right in rights if right.name in absent and not right.needed]:
        yield Line(
            "info", subject, f"The {name} has no {_names(missing)}; the copy does without."
        )


def _names(rights: Sequence[Right]) -> str:
    return ", ".join(right.name for right in rights)


def denied_reads(source: SideFacts, denied: Sequence[bytes], looked_at: int) -> list[Line]:
    """What it means that the sample met keys which the user may not read."""
    if not denied:
        return []
    with connected(source.dialer, source.topology.nodes[0].address) as connection:
        user = user_name(source, connection)
    return [_pattern("source", "reading", user, denied, looked_at)]


def denied_writes(draft: Draft, names: Sequence[bytes]) -> list[Line]:
    """Try on some names of the sample whether the target's user may write them."""
    target, tried = draft.target, names[:_NAMES_TRIED]
    with connected(target.dialer, target.topology.nodes[0].address) as connection:
        absttl, replace = draft.absttl, draft.replaces
        commands = [no_restore(name, replace=replace, absttl=absttl) for name in tried]
        replies = connection.call_many(commands)
        denied = [
            name
            for name, reply in zip(tried, replies, strict=True)
            if key_refused(reply)
        ]
        if not denied:
            return []
        user = user_name(target, connection)
    return [_pattern("target", "writing", user, denied, len(tried))]


def _pattern(
    side: str, subject: str, user: str, denied: Sequence[bytes], looked_at: int
) -> Line:
    shown = printable(user.encode())
    return Line(
        "fail",
        subject,
        f"The {side}'s user {shown} has no right to {len(denied):,} of {looked_at:,} sampled keys, "
        f"such as {printable(denied[0])}: they would fail one by one.",
        f"ACL SETUSER {shown} ~PATTERN, or leave such keys out by --match or --exclude",
        EXIT_SOME_KEYS_FAILED,
    )
