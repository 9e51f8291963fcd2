"""Read values for a comparison: replies are returned, error replies raised.

A comparison is a generator without a connection: it yields a `Round` of commands for both sides,
and is sent their replies. Its caller provides connections, turns and pauses. Between two
rounds no reply is outstanding, so that it may be closed there.

An error reply in the middle of a comparison is neither "equal" nor "different". It raises
`ReadRefused`, unless it only says that the key has changed meanwhile (deleted, or of another type
now): that raises `ValueChanged`, which a comparison counts as different.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

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


class Round(NamedTuple):
    """The commands of one round, one pipeline a side; none for a side that is not asked."""

    source: Sequence[Command]
    target: Sequence[Command]


Answers = tuple[list[Reply], list[Reply]]
"""The replies to a round, those of the source and those of the target."""
T = TypeVar("T")
U = TypeVar("U")
Reading = Generator[Round, Answers, T]
"""A comparison, or a read of one side, that returns T."""


def together(one: Reading[T], other: Reading[U]) -> Reading[tuple[T, U]]:
    """Read two things at once: the commands of each round go together. Return both results."""
    parts: list[Reading[Any]] = [one, other]
    first, second = yield from side_by_side(parts)
    return first, second


def side_by_side(parts: Sequence[Reading[T]]) -> Reading[list[T]]:
    """As `together`, for any number."""
    results: dict[int, T] = {}
    came: dict[int, Any] = dict.fromkeys(range(len(parts)))
    while True:
        asked: dict[int, Round] = {}
        for n, replies in came.items():
            try:
                asked[n] = parts[n].send(replies)
            except StopIteration as end:
                results[n] = end.value
        if not asked:
            return [results[n] for n in range(len(parts))]
        rounds = asked.values()
        source, target = yield Round(
            [command for each in rounds for command in each.source],
            [command for each in rounds for command in each.target],
        )
        came, here, there = {}, 0, 0
        for n, each in asked.items():
            mine, theirs = here + len(each.source), there + len(each.target)
            came[n] = source[here:mine], target[there:theirs]
            here, there = mine, theirs


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
    """One side of a comparison. The type of a reply follows from its command, hence `Any`.

    Attributes:
        side: the side.
        name: its server, for messages.
    """

    side: Side
    name: str

    def ask(self, commands: Sequence[Command]) -> Reading[list[Reply]]:
        """Return the replies to pipelined commands, errors too."""
        if not commands:
            return []
        if self.side == "source":
            return (yield Round(commands, ()))[0]
        return (yield Round((), commands))[1]

    def read(self, *command: Argument) -> Reading[Any]:
        """Return the reply to one command.

        Raises:
            ValueChanged, ReadRefused: it is an error.
            SourceUnusable, TargetUnusable: it does not fit the command.
        """
        return (yield from self.read_many([command]))[0]

    def read_many(self, commands: Sequence[Command]) -> Reading[list[Any]]:
        """Return the replies to pipelined commands; raises as `read`, at the first error."""
        replies = yield from self.ask(commands)
        return [self._checked(*pair) for pair in zip(commands, replies, strict=True)]

    def may_call(self, *command: Argument) -> Reading[bool]:
        """Return True if the server knows this command and allows it for this key."""
        (reply,) = yield from self.ask([command])
        error = isinstance(reply, hiredis.ReplyError)
        return not (error and (refused(reply) or key_refused(reply)))

    def read_at(self, commands: Sequence[Command]) -> Reading[tuple[int, list[Any]]]:
        """Return the server's clock in ms, and the replies that it gave within that millisecond.

        This makes relative times (PTTL, idle times) exact. A pipeline during which the clock ticks
        is repeated; one that never fits into a millisecond is off by its duration.
        """
        for _ in range(_TRIES):
            before, *replies, after = yield from self.read_many([("TIME",), *commands, ("TIME",)])
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
            raise malformed(self.side, self.name, name)
        return reply


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    """Return a flat reply of names and values as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
