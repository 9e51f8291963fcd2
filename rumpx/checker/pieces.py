"""Find the commands for values in pieces that the users of both sides may call.

Those that read are called, of a key that does not exist. Those that write are queued in a
transaction that is never executed: a server checks the permissions of each command when it queues
it, and forgets it when the connection is closed. Where MULTI is refused, or something else than
QUEUED is answered, no write is sent.

The commands are those of the modules that copy: `transfer.stream_requests`,
`values.chunked_reader`, `values.typed_writer`. Without one of them values of some types, or of all,
are read whole.

Not promised: that a permission for one key holds for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rumpx.checker.permissions import (
    SUBJECTS,
    Right,
    cause_of,
    names_of,
    right_of,
    user_name,
)
from rumpx.errors import printable
from rumpx.model.checkup import Line
from rumpx.model.job import Job
from rumpx.model.option_kinds import WHOLE_BYTES
from rumpx.preflight.abilities import unguessable
from rumpx.servers.replies import refused
from rumpx.servers.resp import Command, Connection, Reply
from rumpx.servers.side import SideFacts, connected
from rumpx.transfer.staging import staging_name
from rumpx.transfer.stream_requests import naming, staging_trials, watching
from rumpx.units import write_size
from rumpx.values.chunked_reader import KINDS, OPTIONAL, trial_reads
from rumpx.values.typed_writer import OPTIONAL_WRITES, trial_writes

_QUEUED: Final = b"QUEUED"
_OPTIONAL: Final = OPTIONAL | OPTIONAL_WRITES


@dataclass(frozen=True, slots=True)
class Piece:
    """A command for values of these types.

    Attributes:
        right: the command, and a call of it.
        kinds: the types; as TYPE names them.
        writes: it must not be executed.
    """

    right: Right
    kinds: tuple[bytes, ...]
    writes: bool = False


_MULTI: Final = Piece(Right("MULTI", ("MULTI",)), KINDS)


def pieces_to_read() -> list[Piece]:
    """Return the calls on the source."""
    key = unguessable()
    pieces = [_piece(command, KINDS) for command in watching(key)]
    for kind in KINDS:
        pieces += [_piece(command, (kind,)) for command in trial_reads(kind, key)]
    return [*pieces, _piece(("EXEC",), KINDS)]


def pieces_to_write(*, replace: bool) -> list[Piece]:
    """Return the calls on the target."""
    key = unguessable()
    staging = staging_name(key)
    common = [*staging_trials(staging), naming(staging, key, replace=replace), ("EXISTS", key)]
    # WATCH cannot be queued.
    pieces = [_piece(command, KINDS, writes=command[0] != "WATCH") for command in common]
    pieces.append(_piece(("EXEC",), KINDS))
    for kind in KINDS:
        pieces += [_piece(command, (kind,), writes=True) for command in trial_writes(kind, staging)]
    return pieces


def _piece(command: Command, kinds: tuple[bytes, ...], *, writes: bool = False) -> Piece:
    return Piece(right_of(command), kinds, writes)


def try_pieces(side: SideFacts, job: Job, pieces: Sequence[Piece]) -> list[Line]:
    """Try each call on every primary; report the types that cannot be copied in pieces, and the ACL
    rule to add. Nothing is tried if no value is streamed."""
    if job.stream_from is None:
        return []
    forbidden: dict[str, Piece] = {}
    absent: dict[str, Piece] = {}
    user = ""
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            user = user or user_name(side, connection)
            for piece, reply in _tried(connection, pieces):
                error = cause_of(reply)
                if not refused(error):
                    continue
                if error.startswith("NOPERM"):
                    _add(forbidden, piece)
                elif piece.right.name not in _OPTIONAL:
                    _add(absent, piece)
    untried: dict[str, Piece] = {}
    if _MULTI.right.name in forbidden:
        for piece in pieces:
            if piece.writes and piece.right.name not in _OPTIONAL:
                _add(untried, piece)
    return _told(side, job, printable(user.encode()), forbidden, untried, absent)


def _told(
    side: SideFacts,
    job: Job,
    user: str,
    forbidden: dict[str, Piece],
    untried: dict[str, Piece],
    absent: dict[str, Piece],
) -> list[Line]:
    name = side.dialer.side
    subject = SUBJECTS[name]
    lines: list[Line] = []
    if forbidden:
        lacking = names_of([piece.right for piece in forbidden.values()])
        if untried:
            lacking = f"{lacking}, within which writes are tried"
        rules = " ".join(piece.right.rule for piece in (forbidden | untried).values())
        text = f"The {name}'s user {user} may not call {lacking}"
        advice = f"ACL SETUSER {user} {rules}"
        lines.append(Line("warn", subject, f"{text}: {_effect(job, forbidden)}", advice))
    if absent:
        lacking = names_of([piece.right for piece in absent.values()])
        text = f"The {name} has no {lacking}: {_effect(job, absent)}"
        advice = "At a quiet hour, --stream-from off reads values of any size whole"
        lines.append(Line("warn", subject, text, advice))
    if not lines:
        text = f"User {user} may call all commands for values in pieces"
        lines.append(Line("ok", subject, text))
    return lines


def _tried(connection: Connection, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Reply]]:
    """Yield each call, and MULTI, with its reply; writes only if the server queues them. Within a
    transaction no pipeline can be fenced, so its calls go one by one."""
    called = [piece for piece in pieces if not piece.writes]
    replies = connection.call_many([piece.right.call for piece in called])
    yield from zip(called, replies, strict=True)
    yield _MULTI, connection.call(*_MULTI.right.call)
    if connection.call("EXISTS", unguessable()) == _QUEUED:
        for piece in pieces:
            if piece.writes:
                yield piece, connection.call(*piece.right.call)


def _add(found: dict[str, Piece], piece: Piece) -> None:
    """Note a command, once, with all types that need it."""
    name = piece.right.name
    before = found[name].kinds if name in found else ()
    kinds = tuple(kind for kind in KINDS if kind in (*before, *piece.kinds))
    found[name] = Piece(piece.right, kinds)


def _effect(job: Job, found: dict[str, Piece]) -> str:
    """Return what happens to values without these commands."""
    kinds = [kind for kind in KINDS if any(kind in piece.kinds for piece in found.values())]
    what = "values"
    if len(kinds) < len(KINDS):
        what = f"values of the type{'s'[: len(kinds) > 1]} {b', '.join(kinds).decode()}"
    return (
        f"{what} from {write_size(job.stream_from or 0)} on are not copied in pieces. Up to "
        f"{write_size(WHOLE_BYTES)} they are read and written whole, and both servers' other "
        "clients wait; above that they fail"
    )
