"""Cut a batch's keys into chunks, and decide when each chunk may be read.

A chunk is one pipeline, and so the unit for which the server's other clients wait. Algorithm:

1. A batch is taken in parts of at most three pipelines, whose sizes take a server as long as one
   pipeline's payloads. A part's sizes are asked (the request is on the wire while other batches'
   DUMPs are, so it costs no round trip), and the part is cut into chunks by keys and bytes; a value
   that alone is larger, or big, is a chunk of its own, and one that takes the server `stream_from`
   bytes is not read whole (`stream`). The bytes are those `expected` for such
   sizes, and each chunk is cut when the one before it is done, by the knowledge of that time. Sizes
   are not asked where the server proves that all values are so small that they do not matter
   (`Intake._is_small`).
2. A chunk waits for its turn under the rates that all workers share (`throttle.rates`), then for a
   permit of this worker's budget of bytes in flight (`runner`).
3. The chunk's real size corrects both, and the expected sizes of other keys, also of those that
   wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from rumpx.throttle.rates import Pace, Pacer
from rumpx.transfer.expected_sizes import Expected
from rumpx.transfer.handler import Wanted
from rumpx.transfer.runner import Budget, Pause, Permit, Task
from rumpx.values.chunked_reader import FIRST_MEMBERS, Amount

# A key's size where sizes are not asked: the same for all, so that their mean is learnt.
_GUESSED_BYTES: Final = 512
# Keys of an unknown kind may take this part of the budget; the rest is for ordinary ones in flight.
_UNKNOWN_PART: Final = 0.75
_PIPELINES_A_PART: Final = 3
BIG_BYTES: Final = 64 * 2**20
# The most of one value in a chunk; members cost a server as much as bytes.
STREAM_BYTES: Final = 256 * 2**10
STREAM_MEMBERS: Final = 500


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """`pipeline_keys` and `chunk_bytes`: the most in one pipeline; `stream_from`: values that take
    the server so many bytes are streamed, None for none; `small`: values of so many bytes fit the
    budget in any number that a worker holds; `big`: values of at least so many bytes, if they are
    DUMPed, are DUMPed alone."""

    pipeline_keys: int
    chunk_bytes: int
    stream_from: int | None = None
    small: int = 0
    big: int = BIG_BYTES


    def streams(self, estimate: int) -> bool:
        """Return True if a value that takes the server so many bytes is streamed."""
        return self.stream_from is not None and estimate >= self.stream_from


@dataclass(frozen=True, slots=True)
class Chunk:
    """Keys that are read together.

    Attributes:
        estimates: the source's estimate of each key's size.
        sizes: the expected size of each key, where it is needed.
        size: the most bytes expected of all keys.
        share, expected: as in Sum; and the object that computed them.
        plain: all keys are of kinds that are well known.
        alone: nothing else may be in flight.
        sized: sizes were asked, if the server gives any.
        stream: the one key goes in pieces (`stream`).
        whole: the one key cannot go in pieces.
    """

    keys: list[bytes]
    estimates: Sequence[int]
    sizes: Sequence[int] | None
    size: int
    share: float
    expected: Expected
    plain: bool
    alone: bool = False
    sized: bool = True
    stream: bool = False
    whole: bool = False

    @property
    def estimate(self) -> int:
        """The sum for all keys."""
        return sum(self.estimates)


class Sizes(Protocol):
    """Knows the sizes of values; see `handler.Reader`."""

    @property
    def tells_sizes(self) -> bool:
        """True if `sizes` asks a server at all."""

    def ops(self, keys: int, *, sized: bool) -> int:
        """Return how many commands the source executes for that many keys."""

    def largest(self, wanted: Wanted) -> Task[int | None]:
        """Return how many bytes a payload has at most, if that is proven; a task."""

    def sizes(self, wanted: Wanted) -> Task[list[int] | None]:
        """Return the estimated bytes of each key's payload, None if unknown; a task."""


class Intake:
    """Cuts batches, and admits their chunks.

    Args:
        reader: asks for sizes.
        budget: bytes in flight of this worker.
        limits: for one chunk, when no limit holds the run.
        pacer: the pace of the run.
        sides: on how many sides a chunk's payloads are read.
    """

    def __init__(
        self,
        reader: Sizes,
        budget: Budget,
        limits: ChunkLimits,
        pacer: Pacer,
        sides: int = 1,
    ) -> None:
        self._reader = reader
        self._budget = budget
        self._most = limits
        self._pacer = pacer
        self._sides = sides
        self._sized = Expected()
        self._unsized = Expected(least=0.0)
        self._bounded = Expected(trusted=True)
        self._waiting: dict[Permit, Chunk] = {}
        # The last pace, and the limits by it.
        self._present: tuple[Pace | None, ChunkLimits] = None, limits

    def parts(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        """Yield a batch's keys in parts of a few of the present pipelines."""
        start = 0
        while (left := len(keys) - start) > 0:
            pipeline = self.limits.pipeline_keys
            pipelines = -(-left // pipeline)
            step = pipeline * -(-pipelines // -(-pipelines // _PIPELINES_A_PART))
            yield keys[start : start + step]
            start += step

    def chunks(self, wanted: Wanted) -> Task[Iterator[Chunk]]:
        """Ask for the sizes of keys, if the reader can and they matter, and cut chunks on demand,
        one at a time; a task."""
        sizes = most = None
        if self._reader.tells_sizes:
            permit = yield from self.leave()
            try:
                most = yield from self._reader.largest(wanted)
                if most is None or not self._is_small(most):
                    most = None
                    sizes = yield from self._reader.sizes(wanted)
            finally:
                self.release(permit)
        return self._cut(wanted.keys, sizes, most)

    def _is_small(self, most: int) -> bool:
        """Return True if values of at most so many bytes need no sizes: full pipelines of the
        largest fit into the budget in the number that the worker holds, and each into a chunk."""
        limits = self.limits
        fits = limits.pipeline_keys * most <= limits.chunk_bytes
        return fits and self._sides * most <= limits.small

    def leave(self, *, alone: bool = False) -> Task[Permit]:
        """Wait for a permit of zero bytes, to return by `release`; a task. A key that goes alone
        blocks it too."""
        permit = Permit(0, alone)
        yield permit
        return permit

    def _cut(
        self, keys: list[bytes], sizes: list[int] | None, most: int | None
    ) -> Iterator[Chunk]:
        start = 0
        while start < len(keys):
            if most is not None:
                chunk = cut_bounded(keys, start, most, self.limits, self._bounded)
            elif sizes is None:
                chunk = cut_unsized(keys, start, self.limits, self._unsized)
            else:
                chunk = cut(keys, sizes, start, self.limits, self._sized)
            start += len(chunk.keys)
            yield chunk

    def alone(self, keys: list[bytes], sizes: Mapping[bytes, int]) -> Chunk:
        """Make a chunk that excludes all others from flight; `sizes` are those that are known. One
        key that is large goes in pieces instead."""
        told = all(key in sizes for key in keys)
        estimates = [sizes.get(key, _GUESSED_BYTES) for key in keys]
        if len(keys) == 1 and self._most.streams(estimates[0]):
            return _streamed(keys[0], estimates[0], self._sized)
        return Chunk(
            keys,
            estimates,
            estimates if told else None,
            sum(estimates),
            0.0,
            self._sized if told else self._unsized,
            plain=False,
            alone=True,
        )

    def whole(self, chunk: Chunk) -> Chunk:
        """Return a chunk to read whole, after all, for one that cannot be streamed."""
        size = max(1, int(chunk.expected.of(chunk.estimate)))
        alone = size >= self._most.big
        return replace(chunk, sizes=[size], size=size, alone=alone, stream=False, whole=True)

    def in_pieces(self, key: bytes, size: int) -> Chunk:
        """Return a chunk to stream a key of so many bytes, for one that no payload holds."""
        return _streamed(key, size, self._sized)

    @property
    def amount(self) -> Amount:
        """The most of one value in a chunk that is read now."""
        limits = self.limits
        return Amount(
            max(FIRST_MEMBERS, min(STREAM_MEMBERS, limits.pipeline_keys)),
            min(STREAM_BYTES, limits.chunk_bytes),
        )

    @property
    def hurries(self) -> bool:
        """True if the run ends: only pipelines in flight are finished."""
        return self._pacer.pace().hurry

    def stream_permit(self, chunk: Chunk) -> Task[Permit]:
        """Wait for a permit to stream a chunk's key, to return by `release`: for two chunks of it,
        one that is read while the other is written; a task."""
        yield from self.turn(len(chunk.keys), ops=self._reader.ops(1, sized=chunk.sized))
        permit = Permit(2 * STREAM_BYTES, apart=True)
        yield permit
        return permit

    def streamed(self, permit: Permit, came: int, guessed: int) -> None:
        """Record the bytes of one chunk of a value, for which a turn of `guessed` was taken."""
        self._budget.correct(permit, 2 * max(came, STREAM_BYTES))
        self._pacer.take(payload=came - guessed)

    @property
    def limits(self) -> ChunkLimits:
        """The limits for a chunk that is cut now."""
        pace = self._pacer.pace()
        before, limits = self._present
        if pace is not before:
            keys, size = self._most.pipeline_keys, self._most.chunk_bytes
            limits = replace(
                self._most,
                pipeline_keys=min(keys, pace.pipeline_keys or keys),
                chunk_bytes=min(size, pace.chunk_bytes or size),
            )
            self._present = pace, limits
        return limits

    def permit(self, chunk: Chunk) -> Task[Permit]:
        """Wait for a permit to read a chunk, to return by `release`; a task."""
        number = len(chunk.keys)
        ops = self._reader.ops(number, sized=chunk.sized)
        yield from self.turn(number, self._guess(chunk), ops)
        permit = Permit(self._reserve(chunk.size, chunk.share), chunk.alone)
        self._waiting[permit] = chunk
        try:
            yield permit
        finally:
            del self._waiting[permit]
        return permit

    def _reserve(self, size: float, share: float) -> int:
        """Return the bytes to reserve: two chunks of unknown kinds are never in flight together."""
        return int(max(self._sides * size, share * _UNKNOWN_PART * self._budget.limit))

    def turn(self, keys: int, payload: float = 0.0, ops: int = 0) -> Task[None]:
        """Wait until the rates allow this much; a task."""
        for seconds in self._pacer.turn(keys=keys, payload=payload, ops=ops):
            yield Pause(seconds)

    def _guess(self, chunk: Chunk) -> float:
        return chunk.expected.ratio * chunk.estimate

    def correct(
        self, permit: Permit, chunk: Chunk, keys: list[bytes], payloads: list[bytes]
    ) -> None:
        """Record a chunk's real payloads; its other keys are gone, or were not read."""
        payload = sum(map(len, payloads))
        self._budget.correct(permit, self._sides * payload)
        self._pacer.take(payload=payload - self._guess(chunk))
        estimate = chunk.estimate
        if keys:
            chunk.expected.ratio += (payload / max(1, estimate) - chunk.expected.ratio) / 8
        as_told = payload <= chunk.size <= 2 * max(payload, chunk.expected.least * estimate)
        if not (chunk.plain and as_told):
            self._learn(chunk, keys, payloads)

    def _learn(self, chunk: Chunk, keys: list[bytes], payloads: list[bytes]) -> None:
        sizes, came = chunk.estimates, list(map(len, payloads))
        if len(keys) < len(chunk.keys):
            by_key = dict(zip(keys, came, strict=True))
            told = zip(chunk.keys, chunk.estimates, strict=True)
            # A key without a size is usually gone; it then proves that such keys are small.
            known = {key: size for key, size in told if key in by_key or not size}
            sizes, came = list(known.values()), [by_key.get(key, 0) for key in known]
        chunk.expected.learn(sizes, came)
        for permit, waiting in self._waiting.items():
            now = waiting.expected.leading(waiting.estimates)
            self._budget.correct(permit, self._reserve(now.most, now.share))

    def also(
        self, permit: Permit, chunk: Chunk, keys: list[bytes], payloads: list[bytes]
    ) -> None:
        """Record the other side's payloads for a chunk; call it after `correct`."""
        payload = sum(map(len, payloads))
        self._budget.correct(permit, permit.size // self._sides + payload)
        if payload > chunk.size:
            self._learn(chunk, keys, payloads)

    def release(self, permit: Permit) -> None:
        """Return a permit when its chunk has been read, and written."""
        self._budget.release(permit)


def even_parts(keys: Sequence[object], size: int) -> Iterator[slice]:
    """Yield slices that cut keys into equal parts of about `size`, at most an eighth larger."""
    count = max(1, -(-(len(keys) - size // 8) // size))
    step = max(1, -(-len(keys) // count))
    for start in range(0, len(keys), step):
        yield slice(start, start + step)


def cut(
    keys: list[bytes], sizes: list[int], start: int, limits: ChunkLimits, expected: Expected
) -> Chunk:
    """Return the chunk from `start` on: about `pipeline_keys` keys and at most `chunk_bytes`; a key
    that alone is larger, or big, or streamed, is a chunk of its own."""
    place = _next_part(start, len(keys), limits.pipeline_keys)
    estimates = sizes[place]
    most, largest = expected.together(estimates)
    streamed = limits.streams(max(estimates))
    if most <= limits.chunk_bytes and largest < limits.big and not streamed:
        return Chunk(keys[place], estimates, estimates, int(most), 0.0, expected, plain=True)
    if limits.streams(estimates[0]):
        return _streamed(keys[start], estimates[0], expected)
    big = [limits.streams(size) or expected.of(size) >= limits.big for size in estimates]
    if big[0]:
        estimates = estimates[:1]
    elif True in big:
        estimates = estimates[: big.index(True)]
    found = expected.leading(estimates, limits.chunk_bytes)
    estimates = estimates[: found.keys]
    return Chunk(
        keys[start : start + found.keys],
        estimates,
        [int(expected.of(size)) for size in estimates],
        int(found.most),
        found.share,
        expected,
        plain=False,
        alone=big[0],
    )


def _streamed(key: bytes, estimate: int, expected: Expected) -> Chunk:
    sizes = [estimate]
    return Chunk([key], sizes, sizes, 0, 0.0, expected, plain=False, stream=True)


def cut_unsized(
    keys: list[bytes], start: int, limits: ChunkLimits, expected: Expected
) -> Chunk:
    """As `cut`, where sizes are not known."""
    chunk = cut(keys, [_GUESSED_BYTES] * len(keys), start, limits, expected)
    return replace(chunk, sizes=None if chunk.plain else chunk.sizes)


def cut_bounded(
    keys: list[bytes], start: int, most: int, limits: ChunkLimits, expected: Expected
) -> Chunk:
    """As `cut`, where sizes are not asked since no value has more than `most` bytes."""
    chunk = cut(keys, [most] * len(keys), start, limits, expected)
    return replace(chunk, sizes=None, sized=False)


def _next_part(start: int, end: int, size: int) -> slice:
    """Return the next part, as `even_parts` cuts the rest."""
    part = next(even_parts(range(start, end), size))
    return slice(start, start + part.stop)
