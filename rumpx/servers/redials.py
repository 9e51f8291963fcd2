"""Decide when to dial an unreachable server again, without a storm from many processes.

Workers, scanners and pingers that have lost their connections each want another. While a place is
unreachable they dial as one: after a failed dial the place has a pause, which grows, and one of
them takes the next turn; all others receive the last dial's error at once, without opening a
socket. The first success ends the pause for all. A healthy server that lost a connection is dialled
at once.

The state is in memory that all processes of the run share (`rumpx.processes.shared_memory`): a
table with a row for each unreachable place. If two of them hash to one row, the later takes it, and
the other is dialled more often.

Not promised: that processes which lose their connections at the same moment dial one by one. Each
dials once, before the first dial has failed.
"""

from __future__ import annotations

import hashlib
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Final

from rumpx.errors import ConnectionLost
from rumpx.processes.shared_memory import Shared

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_LONGEST_DIAL_PAUSE: Final = 0.5
_ROWS: Final = 1024
# Place, failures in a row, when the last of them was recorded, when the next dial is due, silent,
# unreached, the error message.
_ROW: Final = struct.Struct("=QIdd??200p")


def growing_pause(failures: int, longest: float = _LONGEST_PAUSE) -> float:
    """Return the seconds to wait after a number of failures in a row, at least one. Random jitter
    keeps processes from waking together."""
    pause: float = min(longest, _FIRST_PAUSE * 2 ** min(failures - 1, 10))
    return pause * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class _Row:
    place: int = 0
    failures: int = 0
    told: float = 0.0
    due: float = 0.0
    silent: bool = False
    unreached: bool = False
    words: bytes = b""

    def due_again(self, now: float) -> _Row:
        return replace(self, due=now + growing_pause(self.failures, _LONGEST_DIAL_PAUSE))


def _place(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class Redials:
    """One table for a run, given to each of its processes as that starts."""

    def __init__(self) -> None:
        self._shared = Shared(_ROWS * _ROW.size)

    @contextmanager
    def turn(self, name: str) -> Iterator[Turn]:
        """Enter one try to reach a place, by its name.

        Raises:
            ConnectionLost: the place was unreachable a moment ago, or is now.
        """
        turn = Turn(self, _place(name), time.monotonic())
        self._take(turn)
        try:
            yield turn
        except ConnectionLost as error:
            turn.failed(error)
            raise
        if self._read(turn.place):
            with self._shared.locked():
                self._write(turn.place, _Row())

    def _take(self, turn: Turn) -> None:
        """Take the next turn, if it is due; where no dial has failed all may try."""
        if not self._read(turn.place):
            return
        with self._shared.locked():
            row = self._read(turn.place)
            if row is None:
                return
            if turn.began >= row.due:
                self._write(turn.place, row.due_again(turn.began))
                return
        raise ConnectionLost(
            row.words.decode(errors="ignore"),
            cause="silent" if row.silent else "",
            unreached=row.unreached,
        )

    def failed(self, turn: Turn, error: ConnectionLost) -> bool:
        """See `Turn.failed`."""
        with self._shared.locked():
            before = self._read(turn.place)
            if before and before.told > turn.began:
                return False
            now = time.monotonic()
            row = _Row(
                turn.place,
                before.failures + 1 if before else 1,
                now,
                now,
                error.silent,
                error.unreached,
                str(error).encode(),
            )
            self._write(turn.place, row.due_again(now))
        return True

    def _read(self, place: int) -> _Row | None:
        row = _Row(*_ROW.unpack_from(self._shared.memory, place % _ROWS * _ROW.size))
        return row if row.place == place else None

    def _write(self, place: int, row: _Row) -> None:
        _ROW.pack_into(self._shared.memory, place % _ROWS * _ROW.size, *astuple(row))


@dataclass(frozen=True, slots=True)
class Turn:
    """One try to reach a place."""

    redials: Redials
    place: int
    began: float

    def failed(self, error: ConnectionLost) -> bool:
        """Record a failed try. Return True for the first of several that started together."""
        return self.redials.failed(self, error)
