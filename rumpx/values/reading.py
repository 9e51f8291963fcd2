"""Read values for a comparison: replies are returned, error replies raised.

An error reply in the middle of a comparison is neither "equal" nor "different". It raises
`ReadRefused`, unless it only says that the key has changed meanwhile (deleted, or of another type
now): that raises `ValueChanged`, which a comparison counts as different.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import hiredis

from rumpx.errors import RumpxError, Side, printable
from rumpx.servers.answers import misshapen
from rumpx.servers.info import milliseconds
from rumpx.servers.rdb import is_payload
from rumpx.servers.replies import key_refused, malformed, refused, without_arguments
from rumpx.servers.resp import Argument, Command, Connection, Reply
from rumpx.values.shapes import fits

CHANGED: Final = ("WRONGTYPE", "ERR no such key", "NOGROUP")
"""Starts of error replies that only say that the key has changed meanwhile."""
CONTAINERS: Final = ("XINFO",)
"""Commands with subcommands whose replies have a shape of their own."""
_TRIES: Final = 10


def dumped(connection: Connection, key: bytes) -> bytes | None:
    """A key's payload; None if there is no such key, or DUMP is refused.

    Raises:
        ConnectionLost: as `Connection.call`.
        SourceUnusable, TargetUnusable: the reply is no payload.
    """
    payload = connection.call("DUMP", key)
    if payload is None or isinstance(payload, hiredis.ReplyError):
        return None
    if not is_payload(payload):
        raise misshapen(connection, "DUMP")
    return payload


class Caller(Protocol):
    """The part of a connection that a comparison needs; `servers.resp.Connection` has it."""

    @property
    def name(self) -> str:
        """Its server, for messages."""

    def call(self, *arguments: Argument) -> Reply:
        """Send one command and return its reply."""

    def call_many(self, commands: Iterable[Command], /) -> list[Reply]:
        """Send commands in one pipeline and return their replies in order."""


class ReadRefused(RumpxError):
    """A server answered a read with an error; `servers.replies.classify(reply)` gives its kind."""

    def __init__(self, side: Side, command: Command, reply: hiredis.ReplyError) -> None:
        words = without_arguments(reply)
        # In every command that a comparison sends, the first argument that is bytes is the key.
        keys = [argument for argument in command if isinstance(argument, bytes)]
        about = f" for the key {printable(keys[0])}" if keys else ""
        super().__init__(f"The {side} refused {command[0]!s}{about}: {words}.")
        self.side = side
        self.reply = reply


class ValueChanged(Exception):
    """The key was deleted, or became another type, between two reads of it."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One side of a comparison. The type of a reply follows from its command, hence `Any`."""

    caller: Caller
    side: Side

    def read(self, *command: Argument) -> Any:
        """Return the reply to one command.

        Raises:
            ValueChanged, ReadRefused: it is an error.
            SourceUnusable, TargetUnusable: it does not fit the command.
        """
        return self._checked(command, self.caller.call(*command))

    def read_many(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to pipelined commands; raises as `read`, at the first error."""
        replies = self.caller.call_many(commands)
        return [self._checked(*pair) for pair in zip(commands, replies, strict=True)]

    def may_call(self, *command: Argument) -> bool:
        """Return True if the server knows this command and allows it for this key."""
        reply = self.caller.call(*command)
        error = isinstance(reply, hiredis.ReplyError)
        return not (error and (refused(reply) or key_refused(reply)))

    def read_at(self, commands: Sequence[Command]) -> tuple[int, list[Any]]:
        """Return the server's clock in ms, and the replies that it gave within that millisecond.

        This makes relative times (PTTL, idle times) exact. A pipeline during which the clock ticks
        is repeated; one that never fits into a millisecond is off by its duration.
        """
        for _ in range(_TRIES):
            before, *replies, after = self.read_many([("TIME",), *commands, ("TIME",)])
            if int(milliseconds(before)) == int(milliseconds(after)):
                break
        return int(milliseconds(before)), replies

    def _checked(self, command: Command, reply: Reply) -> Any:
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith(CHANGED):
                raise ValueChanged
            raise ReadRefused(self.side, command, reply)
        name = " ".join(map(str, command[: 1 + (command[0] in CONTAINERS)]))
        if not fits(name, reply):
            raise malformed(self.side, self.caller.name, name)
        return reply
