"""What a worker asks for at once: a batch's keys cut into chunks, and when each may be read.

A chunk is one pipeline, and what other clients of the server wait for. Algorithm:

1. A batch is taken in parts of the pipeline's size of the moment, or whole where nothing holds the
   run back. A part's sizes are asked (the request is on the wire while other batches' DUMPs are, so
   it costs no round trip), and it is cut into chunks of so many keys and bytes; a value that alone
   is larger, or big, is a chunk of its own.
2. A chunk waits for its turn under the rates that all workers share (`throttle`), then for a permit
   of this worker's budget of bytes in flight (`tasks`).
3. What it really held corrects both, and the guesses to come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from rumpx.copy.dump import DumpReader, Wanted, even_parts
from rumpx.copy.tasks import Budget, Pause, Permit, Task
from rumpx.copy.throttle import Throttle

# Until payloads have been seen, and where sizes are not asked.
_GUESSED_BYTES: Final = 512.0


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """`pipeline_keys` and `chunk_bytes`: the most that is asked for at once; `big_key`: bytes from
    which on a value is DUMPed alone."""

    pipeline_keys: int
    chunk_bytes: int
    big_key: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Keys that are read together, and the bytes expected of them."""

    keys: list[bytes]
    sizes: list[int] | None
    size: int
    alone: bool = False


class Intake:
    """Cuts batches, and lets their chunks in.

    Args:
        reader: tells sizes.
        budget: bytes in flight of this worker.
        limits: of one chunk, where nothing holds the run back.
        throttle: what holds it back.
        sides: on how many sides a chunk's payloads are read.
    """

    def __init__(
        self,
        reader: DumpReader,
        budget: Budget,
        limits: ChunkLimits,
        throttle: Throttle,
        sides: int = 1,
    ) -> None:
        self._reader = reader
        self._budget = budget
        self._most = limits
        self._throttle = throttle
        self._sides = sides
        self._mean_bytes = _GUESSED_BYTES
        # Payload bytes for each byte that a size said.
        self._ratio = 1.0

    def parts(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        """A batch's keys, as many at a time as may be asked for now."""
        start = 0
        while start < len(keys):
            step = self._throttle.pace().pipeline_keys or len(keys)
            yield keys[start : start + step]
            start += step

    def chunks(self, wanted: Wanted) -> Task[list[Chunk]]:
        """Ask the sizes of keys, where the reader can, and cut them; a task."""
        sizes = None
        if self._reader.tells_sizes:
            # A permit of no bytes: a key that is DUMPed alone holds back size requests too.
            permit = Permit(0)
            yield permit
            try:
                sizes = yield from self._reader.sizes(wanted)
            finally:
                self._budget.release(permit)
        return list(cut(wanted.keys, sizes, self.limits, self._mean_bytes))

    def alone(self, keys: list[bytes], sizes: Mapping[bytes, int]) -> Chunk:
        """A chunk with nothing else in flight beside it; `sizes` are those that are known."""
        if any(key not in sizes for key in keys):
            return Chunk(keys, None, self.limits.chunk_bytes, alone=True)
        known = [sizes[key] for key in keys]
        return Chunk(keys, known, sum(known), alone=True)

    @property
    def limits(self) -> ChunkLimits:
        """Of a chunk that is cut now."""
        pace, limits = self._throttle.pace(), self._most
        keys = pace.pipeline_keys or limits.pipeline_keys
        size = pace.chunk_bytes or limits.chunk_bytes
        if keys >= limits.pipeline_keys and size >= limits.chunk_bytes:
            return limits
        return replace(
            limits,
            pipeline_keys=min(keys, limits.pipeline_keys),
            chunk_bytes=min(size, limits.chunk_bytes),
        )

    def permit(self, chunk: Chunk) -> Task[Permit]:
        """Leave to read a chunk, to be given back by `release`; a task."""
        number = len(chunk.keys)
        yield from self.turn(number, self._guess(chunk), self._reader.ops(number))
        permit = Permit(self._sides * chunk.size, chunk.alone)
        yield permit
        return permit

    def turn(self, keys: int, payload: float = 0.0, ops: int = 0) -> Task[None]:
        """Wait until so much may be asked for; a task."""
        for seconds in self._throttle.turn(keys=keys, payload=payload, ops=ops):
            yield Pause(seconds)

    def _guess(self, chunk: Chunk) -> float:
        return chunk.size if chunk.sizes is None else self._ratio * chunk.size

    def correct(self, permit: Permit, chunk: Chunk, payload: int, keys: int) -> None:
        """So many bytes of payload, and keys, a chunk really held."""
        self._budget.correct(permit, self._sides * payload)
        self._throttle.take(payload=payload - self._guess(chunk))
        self._mean_bytes += (payload / keys - self._mean_bytes) / 8
        if chunk.sizes is not None and chunk.size:
            self._ratio += (payload / chunk.size - self._ratio) / 8

    def release(self, permit: Permit) -> None:
        """What a permit was for has been read, and written."""
        self._budget.release(permit)


def cut(
    keys: list[bytes], sizes: list[int] | None, limits: ChunkLimits, guess: float
) -> Iterator[Chunk]:
    """Chunks of about `pipeline_keys` keys and at most `chunk_bytes`, in order; a key that alone
    is larger, or big, is a chunk of its own.

    Args:
        sizes: of the keys; without them each key counts as `guess` bytes.
    """
    step = limits.pipeline_keys
    if sizes is None:
        # Parts may be an eighth larger.
        step = min(step, max(1, int(limits.chunk_bytes / max(guess, 1.0) * 8 / 9)))
    for place in even_parts(keys, step):
        part = keys[place]
        if sizes is None:
            yield Chunk(part, None, int(guess * len(part)))
            continue
        part_sizes = sizes[place]
        total = sum(part_sizes)
        if total <= limits.chunk_bytes and max(part_sizes) < limits.big_key:
            yield Chunk(part, part_sizes, total)
        else:
            yield from _cut_large(part, part_sizes, limits)


def _cut_large(keys: list[bytes], sizes: list[int], limits: ChunkLimits) -> Iterator[Chunk]:
    start = 0
    total = 0
    big = False
    for position, size in enumerate(sizes):
        after_big, big = big, size >= limits.big_key
        full = total + size > limits.chunk_bytes
        if position > start and (full or big or after_big):
            yield _chunk(keys, sizes, start, position, total, limits)
            start, total = position, 0
        total += size
    yield _chunk(keys, sizes, start, len(keys), total, limits)


def _chunk(
    keys: list[bytes], sizes: list[int], start: int, end: int, total: int, limits: ChunkLimits
) -> Chunk:
    alone = end == start + 1 and total >= limits.big_key
    return Chunk(keys[start:end], sizes[start:end], total, alone)
