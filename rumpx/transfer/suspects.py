"""Which key costs its connection: a chunk that is lost again is halved until the culprit is alone.

A value may be more than a side can pass: an argument above the target's proto-max-bulk-len, a reply
above the source's client-output-buffer-limit, a DUMP that takes longer than `--timeout`. The server
then cuts the connection, or is silent, and takes with it every key in flight there. From outside
that looks like a bad network. Algorithm, for one chunk:

1. Its keys lost their connection for the first time: repeat them, as after any trouble.
2. They lost it again, or it was silence, or the server said that the request was at fault: split
   them. A key that has half of all the bytes is set apart, else the chunk is halved. Each part goes
   alone, with nothing else of this worker in flight, so that it answers for itself.
3. A key has failed when it has lost its connection three times in a row, two of them alone. Two
   times, one of them alone, are enough where a repetition would cost the server the same again: the
   server has said that it is the request, or was silent, and the value is so large that a DUMP may
   take longer than the timeout. For smaller values, and those of unknown size, silence must have
   come three times while they were alone: another worker's slow DUMP holds them up, too. A value
   that is known to be small is above no limit that lets the others pass: without a word of the
   server's, or silence, it is never blamed.

Only losses count while the server is well: before keys are repeated after a loss, it must answer on
another connection. A server that cannot be reached acquits all, and so does one that says that it
is busy or loading, or that does not serve these keys any more.

Not promised: that a network which cuts exactly one key's connections three times in a row, and
lets a PING pass meanwhile, is told apart from a value that cannot pass. The key is listed as failed
then, and can be tried again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rumpx.errors import ConnectionLost, RumpxError, Side, unusable
from rumpx.model.endpoint import Address
from rumpx.model.results import KeyFailure
from rumpx.servers.replies import Kind, classify
from rumpx.units import size

# Smaller values are above no limit.
_SUSPICIOUS_BYTES: Final = 2**15
# A value of fewer bytes a second of the timeout is not too slow by itself.
_SLOW_BYTES_A_SECOND: Final = 2**20
REASON: Final = "connection lost"


@dataclass(frozen=True, slots=True)
class Lost:
    """Keys whose connection was lost while they were read, or written to the target; `node` is
    where, `sizes` what is known of their bytes, `timeout` how long a server may be silent. At `at`,
    by `time.monotonic()`, at the latest."""

    keys: Sequence[bytes]
    side: Side
    node: Address | None
    error: ConnectionLost
    sizes: Mapping[bytes, int]
    timeout: float
    written: bool = False
    at: float = field(default_factory=time.monotonic)

    @property
    def blames(self) -> bool:
        """Whether the keys may be at fault: not if the server has said that it is in trouble, or
        does not come to an end with what it says."""
        if self.error.cause == "dripping":
            return False
        return not self.error.words or classify(self.error.words).kind is Kind.KEY

    @property
    def is_costly(self) -> bool:
        """Whether a repetition of the whole would cost the server the same again, for nothing."""
        return self.error.cause in ("silent", "too large") or bool(self.error.words)


def refusal(error: ConnectionLost, side: Side) -> RumpxError | None:
    """What ends the run, if a server's last words say that it will never serve us, or nothing that
    it says can be relied on."""
    permanent = error.words and classify(error.words).kind is Kind.PERMANENT
    if permanent or error.cause == "malformed":
        return unusable(side)(str(error))
    return None


class Suspects:
    """Of one chunk.

    Attributes:
        sizes: what is known of the keys' bytes.
    """

    def __init__(self) -> None:
        self.sizes: dict[bytes, int] = {}
        self._losses: dict[bytes, int] = {}
        self._alone: dict[bytes, int] = {}
        self._parts: list[list[bytes]] = []

    def blame(self, db: int, lost: Lost, *, alone: bool) -> KeyFailure | None:
        """Note a loss.

        Args:
            db: of the source.
            alone: nothing else of this worker was in flight.

        Returns:
            The failure of its one key, if that is the culprit; it is not to be repeated.
        """
        if not lost.blames:
            return None
        self.sizes |= lost.sizes
        for key in lost.keys:
            self._losses[key] = self._losses.get(key, 0) + 1
        if len(lost.keys) == 1 and alone and self._is_proven(lost):
            return failed(db, lost, self.sizes.get(lost.keys[0], 0))
        if lost.is_costly or all(self._losses[key] > 1 for key in lost.keys):
            self._parts += split(lost.keys, self.sizes)
        return None

    def _is_proven(self, lost: Lost) -> bool:
        """Whether a key that was alone is the culprit."""
        (key,) = lost.keys
        known = self.sizes.get(key, 0)
        if not lost.is_costly and 0 < known < _SUSPICIOUS_BYTES:
            return False
        alone = self._alone[key] = self._alone.get(key, 0) + 1
        if lost.error.silent and known < _SLOW_BYTES_A_SECOND * lost.timeout:
            return alone >= 3
        if lost.is_costly:
            return self._losses[key] >= 2
        return self._losses[key] >= 3 and alone >= 2

    @property
    def split(self) -> bool:
        """Whether there are parts to be tried alone."""
        return bool(self._parts)

    def acquit(self) -> None:
        """It was the server, or the way to it."""
        self._losses.clear()
        self._alone.clear()
        self._parts.clear()

    def take(self, keys: Sequence[bytes]) -> tuple[list[list[bytes]], list[bytes]]:
        """Keys that are to be repeated: parts that go alone, and all others."""
        wanted = set(keys)
        parts = [part for part in ([k for k in p if k in wanted] for p in self._parts) if part]
        self._parts = []
        alone = {key for part in parts for key in part}
        return parts, [key for key in keys if key not in alone]


def split(keys: Sequence[bytes], sizes: Mapping[bytes, int]) -> list[list[bytes]]:
    """Keys in two parts, the innocent-looking one first: the largest apart if it has half of all
    bytes, else halves; a single key in one part."""
    if len(keys) == 1:
        return [list(keys)]
    largest = max(keys, key=lambda key: sizes.get(key, 0))
    if 2 * sizes.get(largest, 0) >= sum(sizes.get(key, 0) for key in keys) > 0:
        return [[key for key in keys if key != largest], [largest]]
    half = len(keys) // 2
    return [list(keys[:half]), list(keys[half:])]


def failed(db: int, lost: Lost, known: int) -> KeyFailure:
    """What to list of the one key that cost its connection; `known` are its bytes, or 0."""
    key, error = lost.keys[0], lost.error
    done = "written" if lost.written else "read"
    about = f"{size(known)}, " if known else ""
    if error.words:
        why = f"the {lost.side} said: {error.words.rstrip('.')}"
    elif error.silent:
        why = "no answer within --timeout; a longer one may let it pass"
    elif error.cause == "too large":
        why = "larger than this machine can hold"
    else:
        limit = "proto-max-bulk-len" if lost.written else "client-output-buffer-limit"
        why = f"above the {lost.side}'s {limit}?"
    return KeyFailure(db, key, REASON, f"connection lost while it was {done}: {about}{why}")
