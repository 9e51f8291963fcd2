"""When a server that cannot be reached may be dialled again: no storm, however many want it back.

Each worker, scanner and pinger has lost its connection and wants another. While one cannot be had,
they dial as one: after a failed dial the place has a pause, which grows, and one of them takes the
next turn; all others are told at once, without a socket, how the last dial failed. The first
success ends that for all. A server that lost a connection and is well is dialled at once.

What is known stands in memory that all processes of the run share
(`rumpx.processes.shared_memory`): a table with a row for each place that cannot be reached. Where
two of these fall on one row, the later has it, and the other is dialled more often.

Not promised: that those who lost their connections at the same moment dial one by one. They all do
once, before the first of them has failed.
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
# Place, failures in a row, when the last of them was told, when the next dial is due, silent,
# unreached, how it failed.
_ROW: Final = struct.Struct("=QIdd??200p")


def growing_pause(failures: int, longest: float = _LONGEST_PAUSE) -> float:
    """Seconds to wait after so many failures in a row, of which there is one at least. At random a
    little less, so that those who wait do not wake together."""
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
    """Of one run; given to each of its processes as that starts."""

    def __init__(self) -> None:
        self._shared = Shared(_ROWS * _ROW.size)

    @contextmanager
    def turn(self, name: str) -> Iterator[Turn]:
        """Try in here to reach something, by its name.

        Raises:
            ConnectionLost: it could not be reached a moment ago; or what is raised in here.
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
        """Take the next turn, if it has come; where none has failed all may try."""
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
        """It came to nothing. Whether that is news: of those that begin together one tells."""
        return self.redials.failed(self, error)
