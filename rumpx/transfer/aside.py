"""Compare keys over separate connections, of which some keys may cost one.

A comparison (`values.reading`) yields rounds of commands for both sides. Each round takes its turn
under the rates, is sent to both sides, and waited for as any other pipeline of the worker, so that
its other batches continue. If the run ends, a large value is given up between two rounds
(`Draining`).

One comparison at a time uses a pair of connections: so a lost connection is the fault of its keys,
and no other command ends its WATCH. Large values have a pair of their own; all others do not wait
for them.

A comparison does not report which key it was reading when a connection was lost, or a command
refused. So its keys are halved, as those of a pipeline are (`suspects`), until the culprit is alone
and has failed; all others are compared.

Not promised: that nothing else of this worker is in flight; other pipelines use other connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import Address
from rumpx.model.job import Scope
from rumpx.model.results import KeyFailure
from rumpx.servers.connections import Links
from rumpx.servers.replies import Kind, classify, permanent
from rumpx.servers.resp import Connection, Reply, encode
from rumpx.transfer.chunks import STREAM_BYTES, Intake, even_parts
from rumpx.transfer.messages import Streaming
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Pause, Replies, Task
from rumpx.transfer.stream_requests import Draining
from rumpx.transfer.suspects import Lost, Suspects, split
from rumpx.transfer.under_way import UnderWay
from rumpx.values.reading import Answers, Reader, Reading, ReadRefused, Round
from rumpx.values.sides import Sides

REASON: Final = "cannot be compared"
_PASSING: Final = (Kind.TEMPORARY, Kind.MOVED, Kind.ASK)
# While another comparison uses the connections, look this often, in seconds.
_LOOK_SECONDS: Final = 0.002
_T = TypeVar("_T")

Pair = tuple[Links, Links]
"""Connections to the source and to the target."""
Comparison = Callable[[Sides, list[bytes]], Reading[_T]]
"""Compares keys; called with both sides, in the right databases."""


@dataclass(slots=True)
class Compared(Generic[_T]):
    """The results of a comparison for each part of the keys; keys for which it was refused; keys
    that cost their connections; and bytes of the source's replies."""

    results: list[_T] = field(default_factory=list)
    refused: list[KeyFailure] = field(default_factory=list)
    lost: list[KeyFailure] = field(default_factory=list)
    came: int = 0


@dataclass(slots=True, eq=False)
class _Lane:
    """A pair of connections, and whether a comparison uses it."""

    links: Pair
    busy: bool = False


@dataclass(slots=True)
class _Part:
    """Keys that are compared together; the connections are those of both sides, as far as they are
    open."""

    db: int
    keys: list[bytes]
    sizes: Mapping[bytes, int]
    links: Pair
    connections: list[Connection] = field(default_factory=list)


def _bytes_in(reply: Reply) -> int:
    if isinstance(reply, bytes):
        return len(reply)
    return sum(map(_bytes_in, reply)) if isinstance(reply, list) else 0


class Aside:
    """Compares keys.

    Args:
        usual, large: connections that are used for nothing else; those for a large value.
        intake: grants turns, and says how large a chunk may be.
        retry_for: seconds of trouble after which the run gives up.
        scope: for the target's database.
    """

    def __init__(
        self, usual: Pair, large: Pair, intake: Intake, retry_for: float, scope: Scope
    ) -> None:
        self._usual = _Lane(usual)
        self._large = _Lane(large)
        self._intake = intake
        self._retry_for = retry_for
        self._scope = scope
        self._under_way = UnderWay()

    def compare(
        self,
        db: int,
        keys: Sequence[bytes],
        sizes: Mapping[bytes, int],
        most: int,
        comparison: Comparison[_T],
        *,
        large: bool = False,
    ) -> Task[Compared[_T]]:
        """Compare keys until each has its answer; a task.

        Args:
            db: of the source.
            sizes: the known sizes of keys in bytes.
            most: the most keys in one comparison.
            large: their values are read in many chunks.

        Raises:
            Draining: the run ends while a large value is compared.
            TemporaryError: nothing was compared for `retry_for` seconds.
            SourceUnusable, TargetUnusable: a side says that it will never serve us.
        """
        lane = self._large if large else self._usual
        while lane.busy:
            yield Pause(_LOOK_SECONDS)
            if large and self._intake.hurries:
                raise Draining
        lane.busy = True
        try:
            return (yield from self._all(lane.links, db, keys, sizes, most, comparison))
        finally:
            lane.busy = False

    def take_streaming(self) -> Streaming | None:
        """Return the progress of a large value, if it is time to show it."""
        return self._under_way.take()

    def close(self) -> None:
        """Close all connections; others are opened when they are needed."""
        for links in (*self._usual.links, *self._large.links):
            links.close()

    def _all(
        self,
        links: Pair,
        db: int,
        keys: Sequence[bytes],
        sizes: Mapping[bytes, int],
        most: int,
        comparison: Comparison[_T],
    ) -> Task[Compared[_T]]:
        done: Compared[_T] = Compared()
        suspects = Suspects()
        suspects.sizes |= sizes
        patience = Patience(self._retry_for, links)
        parts = deque(_by_places(links, keys, most))
        while parts:
            part = _Part(db, parts.popleft(), sizes, links)
            try:
                self._connect(part)
                done.results.append((yield from self._run(part, comparison, done)))
                patience.succeeded()
                for side in links:
                    side.serves()
            except ReadRefused as error:
                _refuse_redirection(error, part)
                if classify(error.reply).kind in _PASSING:
                    yield from patience.before_next_try(trouble=True, complaint=str(error))
                    parts += _by_places(links, part.keys, most)
                elif len(part.keys) > 1:
                    parts += split(part.keys, {})
                else:
                    done.refused.append(KeyFailure(db, part.keys[0], REASON, str(error)))
            except ConnectionLost as error:
                yield from patience.before_next_try(trouble=True, complaint=str(error))
                lost = _lost(part, error)
                failure = (yield from _blame(part, lost, suspects, patience)) if lost else None
                if failure:
                    done.lost.append(failure)
                    patience.succeeded()
                    continue
                halves, others = suspects.take(part.keys)
                for again in [*halves, others]:
                    parts += _by_places(links, again, most)
        return done

    def _connect(self, part: _Part) -> None:
        databases = part.db, self._scope.target_db(part.db)
        for links, number in zip(part.links, databases, strict=True):
            part.connections.append(links.connect(links.owner(part.keys[0]), number))

    def _run(
        self, part: _Part, comparison: Comparison[_T], done: Compared[_T]
    ) -> Task[_T]:
        """Return the comparison's result; its replies are counted in `done`."""
        source, target = part.connections
        sides = Sides(Reader("source", source.name), Reader("target", target.name))
        reading = comparison(sides, part.keys)
        answers: Answers | None = None
        key, before, last = b"", done.came, 0
        while True:
            sides.amount = self._intake.amount
            try:
                asked = reading.send(answers)  # type: ignore[arg-type]  # None starts it
            except StopIteration as end:
                result: _T = end.value
                return result
            if sides.key != key:
                key, before = sides.key, done.came
                self._under_way.start()
            if key and done.came - before >= STREAM_BYTES:
                self._under_way.show(key, sides.fraction)
                if self._intake.hurries:
                    raise Draining
            yield from self._intake.turn(0, last, len(asked.source))
            answers = yield from _exchange(part.connections, asked)
            last = _bytes_in(answers[0])
            done.came += last


def _exchange(connections: Sequence[Connection], asked: Round) -> Task[Answers]:
    """Send a round to both sides, and wait for its replies.

    Raises:
        ConnectionLost: a connection was lost.
    """
    waits: list[Replies] = []
    lost: ConnectionLost | None = None
    for connection, commands in zip(connections, asked, strict=True):
        if commands and not lost:
            try:
                connection.send(b"".join([encode(*command) for command in commands]))
                waits.append(Replies(connection, len(commands)))
            except ConnectionLost as error:
                lost = error
    outcomes = yield waits  # also after a loss: no replies may be left to another comparison
    for outcome in outcomes:
        if isinstance(outcome, ConnectionLost):
            lost = lost or outcome
    if lost:
        raise lost
    here = outcomes.pop(0) if asked.source else []
    there = outcomes.pop(0) if asked.target else []
    return here, there


def _refuse_redirection(error: ReadRefused, part: _Part) -> None:
    """Raise for a redirection from a standalone server, which is permanent."""
    if classify(error.reply).kind in (Kind.MOVED, Kind.ASK):
        for links, connection in zip(part.links, part.connections, strict=True):
            if links.side == error.side and not links.cluster:
                raise links.redirected_alone(error.reply, connection.name)


def _lost(part: _Part, error: ConnectionLost) -> Lost | None:
    """Return the keys lost in a comparison; None if it did not start."""
    began = len(part.connections) == len(part.links)
    broken = [n for n, connection in enumerate(part.connections) if connection.closed]
    links = part.links[broken[0] if began and broken else len(part.connections) - began]
    if fatal := permanent(error):
        raise fatal
    if not began:
        return None
    node, timeout = links.owner(part.keys[0]), links.dialer.timeout
    return Lost(part.keys, links.side, node, error, part.sizes, timeout)


def _blame(
    part: _Part, lost: Lost, suspects: Suspects, patience: Patience
) -> Task[KeyFailure | None]:
    links = next(links for links in part.links if links.side == lost.side)
    if (yield from patience.until_well(links, lost)):
        suspects.acquit()
        return None
    failure = suspects.blame(part.db, lost, alone=True)
    if failure:
        return KeyFailure(part.db, failure.key, REASON, failure.message)
    return None


def _by_places(links: Pair, keys: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
    """Yield groups of keys that share both their nodes."""
    source, target = links
    places: dict[tuple[Address | None, Address | None], list[bytes]] = {}
    for key in keys:
        places.setdefault((source.owner(key), target.owner(key)), []).append(key)
    for group in places.values():
        for part in even_parts(group, most):
            yield group[part]
