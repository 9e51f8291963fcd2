"""Answers as their commands have them: a text, a number, the time.

Each function returns None for an error reply, which its callers take for a refusal. An answer of
another shape than its command has on any server ends the run, since nothing that such a server says
can be relied on (`replies.malformed`).
"""

from __future__ import annotations

from typing import Final

import hiredis

from rumpx.errors import RumpxError
from rumpx.servers.replies import malformed
from rumpx.servers.resp import Argument, Connection, Reply

# What fits into 64 bits with a sign: servers count no further, nor does the ledger.
MOST: Final = 2**63 - 1
_DIGITS: Final = len(str(MOST))


def misshapen(connection: Connection, command: str) -> RumpxError:
    """What to raise for an answer that is none to a command."""
    return malformed(connection.side, connection.name, command)


def ask_text(connection: Connection, *command: Argument) -> str | None:
    """A command that is answered by a text.

    Raises:
        SourceUnusable, TargetUnusable: the answer is none.
    """
    return text_of(connection, _named(command), connection.call(*command))


def text_of(connection: Connection, command: str, reply: Reply) -> str | None:
    """The text in a reply; raises as `ask_text`."""
    if isinstance(reply, bytes):
        return reply.decode(errors="backslashreplace")
    if isinstance(reply, hiredis.ReplyError):
        return None
    raise misshapen(connection, command)


def ask_number(connection: Connection, *command: Argument) -> int | None:
    """A command that counts something.

    Raises:
        SourceUnusable, TargetUnusable: the answer is no number, or none that a server counts to.
    """
    reply = connection.call(*command)
    if isinstance(reply, hiredis.ReplyError):
        return None
    if isinstance(reply, int) and 0 <= reply <= MOST:
        return reply
    raise misshapen(connection, _named(command))


def _named(command: tuple[Argument, ...]) -> str:
    """A command for messages: its name and, of a container, the subcommand's."""
    return " ".join(str(word) for word in command[:2]) if len(command) > 1 else str(command[0])


def whole(text: str | bytes) -> int:
    """The number that a server writes as digits.

    Raises:
        ValueError: that is none, or none that a server counts to.
    """
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS and (number := int(text)) <= MOST:
        return number
    raise ValueError("not a number that servers write")


def signed(text: str | bytes) -> int:
    """The same, of a number that may be below zero."""
    rest = text[1:] if text[:1] in ("-", b"-") else None
    return whole(text) if rest is None else -whole(rest)


def whole_or(text: str, otherwise: int) -> int:
    """The same, or `otherwise` where it is none: of facts that can be done without."""
    try:
        return whole(text)
    except ValueError:
        return otherwise
