"""Find the key that costs its connection: a chunk that is lost again is halved until it is alone.

A value may be too large for a side: an argument above the target's proto-max-bulk-len or
client-query-buffer-limit, a reply above the source's client-output-buffer-limit, either above
maxmemory-clients, a DUMP that takes longer than `--timeout`. The server
then closes the connection, or is silent, and every key in flight there is lost with it. From
outside that looks like a bad network. Algorithm, for one chunk:

1. Its keys lost their connection for the first time: retry them, as after any trouble.
2. They lost it again, or it was silence, or the server said that the request was at fault: split
   them. A key that has half of all the bytes is set apart, else the chunk is halved. Each part goes
   alone, with nothing else of this worker in flight, so that a loss is its own.
3. A key has failed when it has lost its connection three times in a row, two of them alone. Two
   times, one of them alone, are enough where a retry would cost the server the same again: the
   server has said that it is the request, or was silent, and the value is so large that a DUMP may
   take longer than the timeout. For smaller values, and those of unknown size, silence must have
   occurred three times while they were alone: another worker's slow DUMP delays them, too. A value
   that is known to be small is above no limit that lets the others pass: without a word of the
   server's, or silence, it is never blamed.

Losses count only while the server is healthy: before keys are retried after a loss, it must answer
on another connection. A server that cannot be reached acquits all keys, and so does one that says
that it is busy or loading, or that no longer serves these keys.

Not promised: that a network which cuts exactly one key's connections three times in a row, and
lets a PING pass meanwhile, is distinguished from a value that cannot pass. The key is then listed
as failed, and can be tried again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rumpx.errors import ConnectionLost, Side
from rumpx.model.endpoint import Address
from rumpx.model.results import KeyFailure
from rumpx.servers.replies import Kind, classify
from rumpx.units import size

# Smaller values are above no limit.
_SUSPICIOUS_BYTES: Final = 2**15
# A value of fewer bytes for each second of the timeout is not too slow by itself.
_SLOW_BYTES_A_SECOND: Final = 2**20
REASON: Final = "connection lost"


@dataclass(frozen=True, slots=True)
class Lost:
    """Keys whose connection was lost while they were read, or written to the target; `node` is the
    server, `sizes` the known sizes in bytes, `timeout` how long a server may be silent. Lost at
    `at`, by `time.monotonic()`, at the latest."""

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
        """True if the keys may be at fault: not if the server has said that it is in trouble, or
        its answer does not end."""
        if self.error.cause == "dripping":
            return False
        return not self.error.words or classify(self.error.words).kind is Kind.KEY

    @property
    def is_costly(self) -> bool:
        """True if a retry of the whole would cost the server the same again, for nothing."""
        return self.error.cause in ("silent", "too large") or bool(self.error.words)


class Suspects:
    """The suspects of one chunk.

    Attributes:
        sizes: the known sizes in bytes.
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
            The failure of its one key, if that is the culprit; do not retry it.
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
        """Return True if a key that was alone is the culprit."""
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
        """True if there are parts to try alone."""
        return bool(self._parts)

    def acquit(self) -> None:
        """Forget all losses: the server or the network was the cause."""
        self._losses.clear()
        self._alone.clear()
        self._parts.clear()

    def take(self, keys: Sequence[bytes]) -> tuple[list[list[bytes]], list[bytes]]:
        """Split keys to retry into parts that go alone, and all others."""
        wanted = set(keys)
        parts = [part for part in ([k for k in p if k in wanted] for p in self._parts) if part]
        self._parts = []
        alone = {key for part in parts for key in part}
        return parts, [key for key in keys if key not in alone]


def split(keys: Sequence[bytes], sizes: Mapping[bytes, int]) -> list[list[bytes]]:
    """Split keys in two parts, the less suspicious one first: the largest apart if it has half of
    all bytes, else halves; a single key in one part."""
    if len(keys) == 1:
        return [list(keys)]
    largest = max(keys, key=lambda key: sizes.get(key, 0))
    if 2 * sizes.get(largest, 0) >= sum(sizes.get(key, 0) for key in keys) > 0:
        return [[key for key in keys if key != largest], [largest]]
    half = len(keys) // 2
    return [list(keys[:half]), list(keys[half:])]


def failed(db: int, lost: Lost, known: int) -> KeyFailure:
    """Return the failure of the one key that cost its connection; `known` is its size, or 0."""
    key, error = lost.keys[0], lost.error
    done = "written" if lost.written else "read"
    about = f"{size(known)}, " if known else ""
    if error.words:
        why = f"the {lost.side} said: {error.words.rstrip('.')}"
    elif error.silent:
        why = "no answer within --timeout; a longer timeout may let it pass"
    elif error.cause == "too large":
        why = "larger than this machine can hold"
    else:
        limit = "client-query-buffer-limit" if lost.written else "client-output-buffer-limit"
        why = f"above the {lost.side}'s {limit} or maxmemory-clients? Raise it for the copy"
    return KeyFailure(db, key, REASON, f"connection lost while it was {done}: {about}{why}")
