"""The pace that the coordinator sets for all workers, and the rates that they share.

A few bytes of memory that all processes map (`shared_memory`): the coordinator writes the largest
pipeline and the rates of keys, payload bytes and commands; a worker reads them before each
pipeline. So a limit holds for all workers together, however the work is spread, and a change
takes effect at once, also for batches that were given out before.

Rates are kept by virtual scheduling: each has a *due* time, on the system's monotonic clock, at
which the next request may be sent. A sender of `n` advances it by n/rate, and waits until its
former value::

    turn = max(due, now - _SLACK);  due = turn + n / rate;  wait = turn - now

Unused rate is kept for at most `_SLACK` seconds, which makes up for processes that wake late; with
pipelines of at most `QUANTUM` seconds' worth, no second sees more than 1.1 times the rate. A value
larger than that takes its turn like any other, and those behind it wait until it is paid off. When
a rate changes, the remaining waits change with it. Payload bytes are estimated first and corrected
when they are known.

Not promised: order among the waiting senders.

Source of the scheme: the generic cell rate algorithm, ITU-T I.371 (03/2004), annex A.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from rumpx.processes.shared_memory import Shared

# Seconds' worth of a rate: the most in one pipeline, and the most that may be made up for.
QUANTUM: Final = 0.03
_SLACK: Final = 0.05
# While waiting for a turn, read the rates this often, in seconds.
_LOOK_SECONDS: Final = 0.1
_PACE: Final = struct.Struct("=6d")
_DUE: Final = struct.Struct("=3d")


@dataclass(frozen=True, slots=True)
class Pace:
    """The workers' pace. 0 means no limit.

    Attributes:
        keys, payload, ops: a second, all workers together.
        pipeline_keys: keys in one pipeline.
        chunk_bytes: bytes of payload in one pipeline; a larger value goes alone.
        hurry: finish all pipelines in flight at once, ignoring the rates.
    """

    keys: float = 0.0
    payload: float = 0.0
    ops: float = 0.0
    pipeline_keys: int = 0
    chunk_bytes: int = 0
    hurry: bool = False

    @property
    def rates(self) -> tuple[float, float, float]:
        """All three rates."""
        return self.keys, self.payload, self.ops

    @property
    def limited(self) -> bool:
        """True if a rate limits the workers."""
        return not self.hurry and bool(self.keys or self.payload or self.ops)


def _slower(before: Pace, now: Pace) -> float:
    """Return the factor by which a remaining wait grows at another pace."""
    if not now.limited:
        return 0.0
    if now.rates == before.rates:
        return 1.0
    pairs = zip(before.rates, now.rates, strict=True)
    return max((old / new for old, new in pairs if old and new), default=0.0)


class Pacer(Protocol):
    """The pace, and turns under the rates, for all who cost the servers something."""

    def pace(self) -> Pace:
        """Return the present pace."""

    def take(self, *, keys: int = 0, payload: float = 0, ops: int = 0) -> float:
        """Take a turn; return the seconds to wait for it at the present rates. A negative `payload`
        gives back an estimate that was too high; a separate one pays for an estimate that was too
        low."""

    def turn(self, *, keys: int = 0, payload: float = 0, ops: int = 0) -> Iterator[float]:
        """Take a turn; yield the seconds to wait until it has come, in pieces, since rates may
        change meanwhile."""


class Throttle:
    """The Pacer of one host: its processes share the memory. Made by the coordinator; passed to
    each worker at its start."""

    def __init__(self) -> None:
        self._shared = Shared(_PACE.size + _DUE.size)
        self._read = bytes(_PACE.size), Pace()

    def set(self, pace: Pace) -> None:
        """Set the pace of all workers from now on."""
        memory = self._shared.memory
        with self._shared.locked():
            now, before = time.monotonic(), self.pace()
            due = _DUE.unpack_from(memory, _PACE.size)
            scaled = [
                now + max(0.0, each - now) * old / new if old and new else 0.0
                for each, old, new in zip(due, before.rates, pace.rates, strict=True)
            ]
            _DUE.pack_into(memory, _PACE.size, *scaled)
            _PACE.pack_into(
                memory, 0, *pace.rates, pace.pipeline_keys, pace.chunk_bytes, pace.hurry
            )

    def pace(self) -> Pace:
        """Return the present pace."""
        raw = bytes(self._shared.memory[: _PACE.size])
        before, pace = self._read
        if raw != before:
            keys, payload, ops, pipeline_keys, chunk_bytes, hurry = _PACE.unpack(raw)
            pace = Pace(keys, payload, ops, int(pipeline_keys), int(chunk_bytes), bool(hurry))
            self._read = raw, pace
        return pace

    def take(self, *, keys: int = 0, payload: float = 0, ops: int = 0) -> float:
        """See `Pacer.take`."""
        pace = self.pace()
        if not pace.limited:
            return 0.0
        now = time.monotonic()
        wait = 0.0
        memory = self._shared.memory
        with self._shared.locked():
            due = list(_DUE.unpack_from(memory, _PACE.size))
            for number, amount in enumerate((keys, payload, ops)):
                if amount and (rate := pace.rates[number]):
                    turn = max(due[number], now - _SLACK)
                    due[number] = turn + amount / rate
                    wait = max(wait, turn - now)
            _DUE.pack_into(memory, _PACE.size, *due)
        return wait

    def turn(self, *, keys: int = 0, payload: float = 0, ops: int = 0) -> Iterator[float]:
        """See `Pacer.turn`."""
        before = self.pace()
        wait = self.take(keys=keys, payload=payload, ops=ops)
        while wait > 0:
            piece = min(wait, _LOOK_SECONDS)
            yield piece
            now = self.pace()
            wait = (wait - piece) * _slower(before, now)
            before = now

    def close(self) -> None:
        """Free the memory; in the coordinator, when all workers have ended."""
        self._shared.close()
