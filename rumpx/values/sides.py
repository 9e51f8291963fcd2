"""The two sides of a comparison, and the simplest way to run one.

A worker runs its comparisons beside other work (`transfer.aside`); `run_over` blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from rumpx.servers.resp import Argument, Command, Reply
from rumpx.values.chunked_reader import Amount
from rumpx.values.reading import Answers, Reader, Reading, together

USUAL_AMOUNT: Final = Amount(500, 2**18)

_T = TypeVar("_T")


@dataclass(slots=True)
class Sides:
    """Both sides of one comparison.

    Attributes:
        source, target: the readers.
        amount: the most of one value in a chunk that is read now; set by the caller.
        key, fraction: the value that is being read in chunks, and the part of it that was read, 0.0
            to 1.0; set by the comparison.
    """

    source: Reader
    target: Reader
    amount: Amount = USUAL_AMOUNT
    key: bytes = b""
    fraction: float = 0.0

    def show(self, key: bytes, read: int, length: int) -> None:
        """Set how much of a value was read."""
        self.key, self.fraction = key, min(1.0, read / length) if length else 0.0

    def read(self, *command: Argument) -> Reading[tuple[Any, Any]]:
        """Return the replies of both sides to one command; raises as `Reader.read`."""
        return (yield from together(self.source.read(*command), self.target.read(*command)))

    def agree(self, *command: Argument) -> Reading[bool]:
        """Return True if both sides give one reply to a command; raises as `Reader.read`."""
        one, other = yield from self.read(*command)
        return bool(one == other)


class Caller(Protocol):
    """The part of a connection that `run_over` needs; `servers.resp.Connection` has it."""

    @property
    def name(self) -> str:
        """Its server, for messages."""

    def call_many(self, commands: Iterable[Command], /) -> list[Reply]:
        """Send commands in one pipeline and return their replies in order."""


def run_over(
    source: Caller,
    target: Caller,
    comparison: Callable[[Sides], Reading[_T]],
    amount: Amount = USUAL_AMOUNT,
) -> _T:
    """Run a comparison over two connections, and wait for its result.

    Args:
        source, target: connections, each with the right database selected.
        comparison: starts it.
        amount: the most of one value in a chunk.

    Raises:
        ConnectionLost: as raised by the connections; and all that the comparison raises.
    """
    sides = Sides(Reader("source", source.name), Reader("target", target.name), amount)
    reading = comparison(sides)
    try:
        asked = next(reading)
        while True:
            # An empty pipeline is not sent.
            here = source.call_many(asked.source) if asked.source else []
            there = target.call_many(asked.target) if asked.target else []
            answers: Answers = here, there
            asked = reading.send(answers)
    except StopIteration as end:
        result: _T = end.value
        return result
