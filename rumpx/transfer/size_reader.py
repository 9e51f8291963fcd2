"""Ask for the sizes of values before they are read, by the best command that the server allows.

By MEMORY USAGE; where that is refused, by TYPE and the length command of each type (a member of a
collection is assumed to have `_MEMBER_BYTES`); where these are refused too, not at all. A refusal
for one key only changes that key's way; one for the command changes the way of all later keys.

Not promised: the size of a payload. MEMORY USAGE counts more than a payload has, except for
collections with uneven members.
"""

from __future__ import annotations

from typing import Final, Literal

from rumpx.errors import ConnectionLost, Side
from rumpx.servers.connections import Links
from rumpx.servers.replies import key_refused, refused
from rumpx.servers.resp import ASKING, Reply, encode, encode_memory_usage
from rumpx.servers.topology import is_error
from rumpx.transfer.handler import Wanted
from rumpx.transfer.runner import Replies, Task

SizesBy = Literal["memory", "length", "none"]
"""The commands that ask for sizes: MEMORY USAGE, the length commands, or none."""

_COMMANDS: Final = {"memory": 1, "length": 2, "none": 0}
_LENGTH: Final = {
    b"string": "STRLEN",
    b"list": "LLEN",
    b"set": "SCARD",
    b"zset": "ZCARD",
    b"hash": "HLEN",
    b"stream": "XLEN",
}
# Assumed size of a collection's member if only the number of members is known.
_MEMBER_BYTES: Final = 128
_ONLY_INTS: Final = {int}


def no_memory_usage(side: Side) -> str:
    """Return the notice for sizes that are estimated from lengths."""
    return f"The {side} refuses MEMORY USAGE: sizes are estimated from the lengths of values."


def no_sizes(side: Side) -> str:
    """Return the notice for a side that does not give lengths either."""
    return (
        f"The {side} refuses MEMORY USAGE and TYPE (or STRLEN, HLEN, …): values are read without "
        "knowing their size."
    )


class SizeReader:
    """Asks one side for sizes.

    Args:
        links: connections to it, shared with the reader.
        by: as found at the start.

    Attributes:
        by: as it is now.
        notices: for the user, since they were last taken.
    """

    def __init__(self, links: Links, by: SizesBy) -> None:
        self.by = by
        self.notices: list[str] = []
        self._links = links

    @property
    def commands(self) -> int:
        """The number of commands, and of pipelines, for each key."""
        return _COMMANDS[self.by]

    def sizes(self, wanted: Wanted, *, asking: bool = False) -> Task[list[int] | None]:
        """Return the estimated bytes of each key's payload, asked of `wanted.node`; None if the
        server gives none, or the connection is lost; a task. `asking`: the one key follows
        ASKING."""
        try:
            if self.by == "memory":
                return (yield from self._memory(wanted, asking))
            return (yield from self._lengths(wanted, wanted.keys, asking))
        except ConnectionLost:
            return None

    def _memory(self, wanted: Wanted, asking: bool) -> Task[list[int] | None]:
        """Ask by MEMORY USAGE; by lengths for keys for which that is refused."""
        asked = encode_memory_usage(wanted.keys)
        replies = yield from self._ask(wanted, asked, len(wanted.keys), asking)
        if set(map(type, replies)) == _ONLY_INTS:
            return replies  # type: ignore[return-value]
        if any(is_error(reply) and refused(reply) for reply in replies):
            self._go_without("memory")
        sizes = [reply if isinstance(reply, int) else 0 for reply in replies]
        untold = [n for n, reply in enumerate(replies) if _is_refusal(reply)]
        if untold:
            keys = [wanted.keys[n] for n in untold]
            lengths = yield from self._lengths(wanted, keys, asking)
            if lengths is None and self.by == "none":
                return None
            for n, length in zip(untold, lengths or (), strict=False):
                sizes[n] = length
        return sizes

    def _lengths(self, wanted: Wanted, keys: list[bytes], asking: bool) -> Task[list[int] | None]:
        """Ask by the length commands; None if these are refused."""
        asked = b"".join([encode("TYPE", key) for key in keys])
        types = yield from self._ask(wanted, asked, len(keys), asking)
        asked = b"".join(
            [
                encode(_LENGTH.get(kind, "EXISTS") if isinstance(kind, bytes) else "EXISTS", key)
                for key, kind in zip(keys, types, strict=True)
            ]
        )
        lengths = yield from self._ask(wanted, asked, len(keys), asking)
        if any(is_error(reply) and refused(reply) for reply in types + lengths):
            self._go_without("length")
            return None
        return [
            length * (1 if kind == b"string" else _MEMBER_BYTES) if isinstance(length, int) else 0
            for length, kind in zip(lengths, types, strict=True)
        ]

    def _ask(
        self, wanted: Wanted, commands: bytes, number: int, asking: bool
    ) -> Task[list[Reply]]:
        connection = self._links.connect(wanted.node, wanted.db)
        connection.send(ASKING + commands if asking else commands)
        (outcome,) = yield [Replies(connection, number + asking)]
        if isinstance(outcome, ConnectionLost):
            raise outcome
        replies: list[Reply] = outcome
        return replies[asking:]

    def _go_without(self, refused: Literal["memory", "length"]) -> None:
        """Ask by the next way from now on."""
        if self.by != refused:
            return  # changed already, or the only way for these keys
        self.by = "length" if refused == "memory" else "none"
        side = self._links.side
        self.notices.append(no_memory_usage(side) if refused == "memory" else no_sizes(side))


def _is_refusal(reply: Reply) -> bool:
    return is_error(reply) and (refused(reply) or key_refused(reply))
