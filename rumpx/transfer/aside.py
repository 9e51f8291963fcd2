"""Compare keys over separate connections, of which some keys may cost one.

A comparison calls both sides and waits; it does not report which key it was reading when a
connection was lost, or a command refused. So its keys are halved, as those of a pipeline are
(`suspects`), until the culprit is alone and has failed; all others are compared.

Not promised: that nothing else of this worker is in flight; other pipelines use other connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import Address
from rumpx.model.job import Scope
from rumpx.model.results import KeyFailure
from rumpx.servers.connections import Links
from rumpx.servers.replies import Kind, classify, permanent
from rumpx.servers.resp import Argument, Command, Connection, Reply
from rumpx.transfer.chunks import Intake, even_parts
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Task
from rumpx.transfer.suspects import Lost, Suspects, split
from rumpx.values.compare import ReadRefused

REASON: Final = "cannot be compared"
_PASSING: Final = (Kind.TEMPORARY, Kind.MOVED, Kind.ASK)
_T = TypeVar("_T")

Comparison = Callable[[Connection, Connection, list[bytes]], _T]
"""Compares keys; called with a connection to each side, the right databases selected."""


@dataclass(slots=True)
class Compared(Generic[_T]):
    """The results of a comparison for each part of the keys; keys for which it was refused; keys
    that cost their connections."""

    results: list[_T] = field(default_factory=list)
    refused: list[KeyFailure] = field(default_factory=list)
    lost: list[KeyFailure] = field(default_factory=list)


class Paced:
    """A connection for a long comparison: each of its pipelines takes its turn under the rates.

    Attributes:
        came: bytes of replies.
    """

    def __init__(self, connection: Connection, intake: Intake) -> None:
        self.name = connection.name
        self.came = 0
        self._connection = connection
        self._intake = intake
        self._last = 0

    def call(self, *arguments: Argument) -> Reply:
        """As `Connection.call`."""
        return self.call_many([arguments])[0]

    def call_many(self, commands: Iterable[Command]) -> list[Reply]:
        """As `Connection.call_many`. The bytes of a pipeline are paid by the next."""
        asked = list(commands)
        self._intake.wait(self._last, len(asked))
        replies = self._connection.call_many(asked)
        self._last = _bytes_in(replies)
        self.came += self._last
        return replies


def _bytes_in(reply: Reply) -> int:
    if isinstance(reply, bytes):
        return len(reply)
    return sum(map(_bytes_in, reply)) if isinstance(reply, list) else 0


class Aside:
    """Compares keys.

    Args:
        links: to source and target, used for nothing else.
        retry_for: seconds of trouble after which the run gives up.
        scope: for the target's database.
    """

    def __init__(self, links: tuple[Links, Links], retry_for: float, scope: Scope) -> None:
        self._links = links
        self._retry_for = retry_for
        self._scope = scope

    def compare(
        self,
        db: int,
        keys: Sequence[bytes],
        sizes: Mapping[bytes, int],
        most: int,
        comparison: Comparison[_T],
    ) -> Task[Compared[_T]]:
        """Compare keys until each has its answer; a task.

        Args:
            db: of the source.
            sizes: the known sizes of keys in bytes.
            most: the most keys in one comparison.

        Raises:
            TemporaryError: nothing was compared for `retry_for` seconds.
            SourceUnusable, TargetUnusable: a side says that it will never serve us.
        """
        done: Compared[_T] = Compared()
        suspects = Suspects()
        suspects.sizes |= sizes
        patience = Patience(self._retry_for, self._links)
        parts = deque(self._by_places(keys, most))
        while parts:
            part = parts.popleft()
            connections: list[Connection] = []
            try:
                self._connect(db, part, connections)
                done.results.append(comparison(connections[0], connections[1], part))
                patience.succeeded()
                for links in self._links:
                    links.serves()
            except ReadRefused as error:
                self._refuse_redirection(error, connections)
                if classify(error.reply).kind in _PASSING:
                    yield from patience.before_next_try(trouble=True, complaint=str(error))
                    parts += self._by_places(part, most)
                elif len(part) > 1:
                    parts += split(part, {})
                else:
                    done.refused.append(KeyFailure(db, part[0], REASON, str(error)))
            except ConnectionLost as error:
                yield from patience.before_next_try(trouble=True, complaint=str(error))
                lost = self._lost(part, connections, error, sizes)
                failure = (yield from self._blame(db, lost, suspects, patience)) if lost else None
                if failure:
                    done.lost.append(failure)
                    patience.succeeded()
                    continue
                halves, others = suspects.take(part)
                for again in [*halves, others]:
                    parts += self._by_places(again, most)
        return done

    def close(self) -> None:
        """Close all connections."""
        for links in self._links:
            links.close()

    def _connect(self, db: int, keys: list[bytes], connections: list[Connection]) -> None:
        for links, number in zip(self._links, (db, self._scope.target_db(db)), strict=True):
            connections.append(links.connect(links.owner(keys[0]), number))

    def _refuse_redirection(self, error: ReadRefused, connections: list[Connection]) -> None:
        """Raise for a redirection from a standalone server, which is permanent."""
        if classify(error.reply).kind in (Kind.MOVED, Kind.ASK):
            for links, connection in zip(self._links, connections, strict=True):
                if links.side == error.side and not links.cluster:
                    raise links.redirected_alone(error.reply, connection.name)

    def _lost(
        self,
        keys: list[bytes],
        connections: list[Connection],
        error: ConnectionLost,
        sizes: Mapping[bytes, int],
    ) -> Lost | None:
        """Return the keys lost in a comparison; None if it did not start."""
        began = len(connections) == len(self._links)
        broken = [n for n, connection in enumerate(connections) if connection.closed]
        links = self._links[broken[0] if began and broken else len(connections) - began]
        if fatal := permanent(error):
            raise fatal
        if not began:
            return None
        return Lost(keys, links.side, links.owner(keys[0]), error, sizes, links.dialer.timeout)

    def _blame(
        self, db: int, lost: Lost, suspects: Suspects, patience: Patience
    ) -> Task[KeyFailure | None]:
        links = next(links for links in self._links if links.side == lost.side)
        if (yield from patience.until_well(links, lost)):
            suspects.acquit()
            return None
        failure = suspects.blame(db, lost, alone=True)
        if failure:
            return KeyFailure(db, failure.key, REASON, failure.message)
        return None

    def _by_places(self, keys: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
        """Yield groups of keys that share both their nodes."""
        source, target = self._links
        places: dict[tuple[Address | None, Address | None], list[bytes]] = {}
        for key in keys:
            places.setdefault((source.owner(key), target.owner(key)), []).append(key)
        for group in places.values():
            for part in even_parts(group, most):
                yield group[part]
