"""Replies with the type that their command has: a text, a number, a time.

Each function returns None for an error reply, which callers treat as a refusal. A reply of a type
that the command has on no server ends the run, since nothing else from such a server can be relied
on (`replies.malformed`).
"""

from __future__ import annotations

from typing import Final

import hiredis

from rumpx.errors import RumpxError
from rumpx.servers.replies import malformed
from rumpx.servers.resp import Argument, Connection, Reply

# The largest signed 64-bit integer: neither servers nor the ledger count further.
MOST: Final = 2**63 - 1
_DIGITS: Final = len(str(MOST))


def misshapen(connection: Connection, command: str) -> RumpxError:
    """Return the exception for a reply that does not fit its command."""
    return malformed(connection.side, connection.name, command)


def ask_text(connection: Connection, *command: Argument) -> str | None:
    """Call a command whose reply is a text.

    Raises:
        SourceUnusable, TargetUnusable: the reply is not a text.
    """
    return text_of(connection, _named(command), connection.call(*command))


def text_of(connection: Connection, command: str, reply: Reply) -> str | None:
    """Return the text in a reply; raises as `ask_text`."""
    if isinstance(reply, bytes):
        return reply.decode(errors="backslashreplace")
    if isinstance(reply, hiredis.ReplyError):
        return None
    raise misshapen(connection, command)


def ask_number(connection: Connection, *command: Argument) -> int | None:
    """Call a command whose reply is a count.

    Raises:
        SourceUnusable, TargetUnusable: the reply is not a number, or outside a server's range.
    """
    reply = connection.call(*command)
    if isinstance(reply, hiredis.ReplyError):
        return None
    if isinstance(reply, int) and 0 <= reply <= MOST:
        return reply
    raise misshapen(connection, _named(command))


def _named(command: tuple[Argument, ...]) -> str:
    """Name a command for messages: its first word, and a container's subcommand."""
    return " ".join(str(word) for word in command[:2]) if len(command) > 1 else str(command[0])


def whole(text: str | bytes) -> int:
    """Return the number that a server writes as digits.

    Raises:
        ValueError: not a number, or outside a server's range.
    """
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS and (number := int(text)) <= MOST:
        return number
    raise ValueError("not a number that servers write")


def signed(text: str | bytes) -> int:
    """As `whole`, for a number that may be negative."""
    rest = text[1:] if text[:1] in ("-", b"-") else None
    return whole(text) if rest is None else -whole(rest)


def whole_or(text: str, otherwise: int) -> int:
    """As `whole`, but return `otherwise` for any other text: for facts that are optional."""
    try:
        return whole(text)
    except ValueError:
        return otherwise
