"""One side, as reader, writer and `Calls` use it: requests by node, and answers that are not final.

Keys are split by the node that serves each; a key that was redirected by ASK goes alone, to the
node that ASK named, after ASKING. A reply or an event that does not settle its key is noted in
`Again`, one rule for all:

- MOVED, ASK: retry at the named node (`Links.redirected`); from a standalone server that ends the
  run;
- a passing error (loading, cluster down, …): retry after a pause; READONLY closes the node's
  connections too, since its role has changed;
- a lost connection: retry after a pause, with the keys in flight on it as suspects (`suspects`);
  last words that are permanent end the run;
- a node that cannot be reached: retry after a pause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import Address
from rumpx.servers.connections import Links
from rumpx.servers.replies import Kind, Verdict, permanent
from rumpx.servers.resp import Connection
from rumpx.transfer.handler import Again
from rumpx.transfer.suspects import Lost


class Route(NamedTuple):
    """A request: its node, the positions of its keys, and whether each key follows ASKING."""

    node: Address | None
    positions: Sequence[int]
    asking: bool = False


class Peer:
    """One side.

    Args:
        links: connections to it.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self.side = links.side

    def dial(self, databases: Sequence[int]) -> None:
        """Open some connections for these databases; see `Links.dial`."""
        self._links.dial(databases)

    def refresh(self) -> None:
        """Read the topology again after trouble."""
        self._links.refresh()

    def trouble(self, node: Address | None, since: float) -> str | None:
        """See `Links.trouble`."""
        return self._links.trouble(node, since)

    def close(self) -> None:
        """Close all connections; others are opened when they are needed."""
        self._links.close()

    def _routes(self, keys: Sequence[bytes], ask: Mapping[bytes, Address]) -> list[Route]:
        """Return the requests for keys: one for each node that serves some of them, and one for
        each key of `ask`."""
        owners = self._links.by_owner(keys)
        if not ask:
            return [Route(node, positions) for node, positions in owners.items()]
        routes = []
        for node, positions in owners.items():
            if plain := [n for n in positions if keys[n] not in ask]:
                routes.append(Route(node, plain))
        return routes + [Route(ask[key], [n], True) for n, key in enumerate(keys) if key in ask]

    def _connected(
        self, routes: Sequence[Route], db: int, keys: Sequence[bytes], noted: Again
    ) -> Iterator[tuple[Route, Connection]]:
        """Yield each route with its connection; note the keys of a node that cannot be reached."""
        for route in routes:
            try:
                connection = self._links.connect(route.node, db)
            except ConnectionLost as error:
                noted.repeat([keys[n] for n in route.positions], str(error))
                continue
            yield route, connection

    def _lost(
        self,
        keys: list[bytes],
        node: Address | None,
        error: ConnectionLost,
        sizes: Mapping[bytes, int],
        noted: Again,
        *,
        written: bool = False,
    ) -> None:
        """Note keys whose connection was lost; `sizes` are those that are known, in bytes."""
        if fatal := permanent(error):
            noted.end(fatal)
        timeout = self._links.dialer.timeout
        noted.lost.append(Lost(keys, self.side, node, error, sizes, timeout, written))
        noted.repeat(keys, str(error))

    def _passes(
        self,
        key: bytes,
        error: object,
        verdict: Verdict,
        node: Address | None,
        connection: Connection,
        noted: Again,
    ) -> bool:
        """Note a key that was answered by a redirection or a passing error; return False for any
        other verdict."""
        name = connection.name
        if verdict.kind in (Kind.MOVED, Kind.ASK):
            if self._links.cluster:
                self._links.redirected(key, error, node, name, noted)
            else:
                noted.end(self._links.redirected_alone(error, name))
            return True
        if verdict.kind is not Kind.TEMPORARY:
            return False
        if str(error).startswith("READONLY"):
            self._links.drop(node)
        noted.repeat([key], self._complaint(error, connection))
        return True

    def _complaint(self, error: object, connection: Connection) -> str:
        return f"The {self.side} at {connection.name} answered: {error}."
