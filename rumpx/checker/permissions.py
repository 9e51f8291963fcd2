"""Find the commands that the users of both sides may call, by calling them.

Each call is complete but changes nothing: its key does not exist, or it has an argument that the
server rejects only after all permissions. (A wrong number of arguments proves nothing, since that
is rejected first.) This needs no extra permission, works on every version, and also finds commands
that a service has renamed or removed, which `ACL DRYRUN`, where it exists and is allowed, does not
show.

Key patterns are tried on names of the sample: reads by the sample itself, writes by a RESTORE that
cannot succeed.

Not promised: that a permission for one key holds for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rumpx.errors import EXIT_SOME_KEYS_FAILED, printable, unusable
from rumpx.model.checkup import Line, Status
from rumpx.model.job import Job
from rumpx.preflight.abilities import frees_in_line, no_restore, unguessable
from rumpx.preflight.draft import Draft
from rumpx.servers.answers import ask_text
from rumpx.servers.dial import CLIENT_NAME
from rumpx.servers.replies import Kind, classify, key_refused, refused, wrong_syntax
from rumpx.servers.resp import Argument, Command, Connection, Reply
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error
from rumpx.transfer.staging import staging_name

SUBJECTS: Final = {"source": "reading", "target": "writing"}
# Commands whose subcommands have permissions of their own.
_CONTAINERS: Final = ("XGROUP", "XINFO")
_NAMES_TRIED: Final = 100
_DISCARDED: Final = "EXECABORT Transaction discarded because of: "


@dataclass(frozen=True, slots=True)
class Right:
    """A command.

    Attributes:
        name: as in a message.
        call: a call of it that changes nothing.
        needed: a copy, or a follow, requires it.
        channels: the pattern of channels that it needs; "" for none.
    """

    name: str
    call: tuple[Argument, ...]
    needed: bool = False
    channels: str = ""

    @property
    def rule(self) -> str:
        """The ACL rule that allows it."""
        rule = "+" + self.name.lower().replace(" ", "|")
        return f"{rule} &{self.channels}" if self.channels else rule


def right_of(command: Command) -> Right:
    """Return a command that is not needed, with this call of it."""
    words = command[:2] if command[0] in _CONTAINERS else command[:1]
    return Right(" ".join(map(str, words)), tuple(command))


# Commands that end connections of an earlier run or of a dead worker. No client has this number.
_FENCE: Final = (
    Right("CLIENT SETNAME", ("CLIENT", "SETNAME", CLIENT_NAME)),
    Right("CLIENT ID", ("CLIENT", "ID")),
    Right("CLIENT LIST", ("CLIENT", "LIST", "TYPE", "pubsub")),
    Right("CLIENT KILL", ("CLIENT", "KILL", "ID", 2**62)),
)


def rights_to_read(job: Job, source: SideFacts, databases: Iterable[int]) -> list[Right]:
    """Return a copy's calls on the source; MULTI and EXEC last, since they change what follows."""
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
    """Return a copy's calls on the target; RESTORE's ABSTTL is tried separately."""
    job, target = draft.job, draft.target
    restore = no_restore(unguessable(), replace=draft.replaces, absttl=False)
    rights = [
        Right("RESTORE", restore, True),
        *_select(databases),
        Right("TIME", ("TIME",)),
        Right("INFO", ("INFO", "server")),
        *_FENCE,
    ]
    swaps = draft.replaces and job.size_check and job.stream_from is not None
    if swaps and frees_in_line(target):
        # The other commands that swap a large old value are those for values in pieces.
        key = unguessable()
        rights.append(right_of(("RENAMENX", staging_name(key), key)))
    if job.functions:
        # The server rejects an invalid library only after all permissions.
        rights.append(Right("FUNCTION LIST", ("FUNCTION", "LIST"), True))
        rights.append(Right("FUNCTION LOAD", ("FUNCTION", "LOAD", b"x"), True))
    if target.topology.cluster:
        rights.append(Right("CLUSTER NODES", ("CLUSTER", "NODES")))
        rights.append(Right("ASKING", ("ASKING",)))
    return rights


def _select(databases: Iterable[int]) -> list[Right]:
    return [Right("SELECT", ("SELECT", 0), True)] if any(databases) else []


def try_rights(
    side: SideFacts, rights: Sequence[Right], task: str = "the copy", as_one: str = ""
) -> list[Line]:
    """Try each call on every primary and report refusals, with the ACL rule to add. Commands with
    an option unknown to the server are not reported.

    Args:
        task: works without commands that are not needed.
        as_one: says which commands these are, in place of their names if all are allowed.
    """
    forbidden: dict[str, Right] = {}
    absent: dict[str, Right] = {}
    malformed: set[str] = set()
    user = ""
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            user = user or user_name(side, connection)
            for right in rights:
                error = cause_of(connection.call(*right.call))
                if classify(error).kind is not Kind.PERMANENT:
                    continue
                if refused(error):
                    no_permission = error.startswith("NOPERM")
                    (forbidden if no_permission else absent)[right.name] = right
                elif wrong_syntax(error):
                    malformed.add(right.name)
    told = [right for right in rights if right.name not in malformed]
    if as_one and not (forbidden or absent):
        shown = printable(user.encode())
        return [Line("ok", SUBJECTS[side.dialer.side], f"User {shown} may call {as_one}")]
    return list(_told(side, told, forbidden, absent, user, task))


def cause_of(reply: Reply) -> str:
    """Return the words of an error reply, "" for any other; of EXEC's, those that say why."""
    return str(reply).removeprefix(_DISCARDED) if is_error(reply) else ""


def user_name(side: SideFacts, connection: Connection) -> str:
    """Return the name of the user on the server."""
    told = ask_text(connection, "ACL", "WHOAMI")
    return told if told is not None else side.dialer.endpoint.username or "default"


def _told(
    side: SideFacts,
    rights: Sequence[Right],
    forbidden: dict[str, Right],
    absent: dict[str, Right],
    user: str,
    task: str,
) -> Iterable[Line]:
    name = side.dialer.side
    subject, code = SUBJECTS[name], unusable(name).exit_code
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
            f"The {name}'s user {shown} may not call {names_of(helpful)}; {task} works without.",
            f"ACL SETUSER {shown} {' '.join(right.rule for right in helpful)} "
            "(rumpx help services lists the effects)",
        )
    if missing := [right for right in rights if right.name in absent and not right.needed]:
        yield Line(
            "info", subject, f"The {name} has no {names_of(missing)}; {task} works without."
        )


def names_of(rights: Sequence[Right]) -> str:
    """Return the names of commands, for a sentence."""
    return ", ".join(right.name for right in rights)


def denied_reads(source: SideFacts, denied: Sequence[bytes], looked_at: int) -> list[Line]:
    """Report the sampled keys that the user may not read."""
    if not denied:
        return []
    with connected(source.dialer, source.topology.nodes[0].address) as connection:
        user = user_name(source, connection)
    return [_pattern("source", "reading", user, denied, looked_at)]


def denied_writes(draft: Draft, names: Sequence[bytes]) -> list[Line]:
    """Try on names of the sample whether the target's user may write them; report the denied."""
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
        f"The {side}'s user {shown} may not access {len(denied):,} of {looked_at:,} sampled keys, "
        f"such as {printable(denied[0])}: each would fail.",
        f"ACL SETUSER {shown} ~PATTERN, or exclude these keys with --match or --exclude",
        EXIT_SOME_KEYS_FAILED,
    )
