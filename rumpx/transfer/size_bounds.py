"""Know from INFO that no value of a database is large, so that no key's size need be asked.

Before a chunk is cut, a worker asks a node for the distribution of its values' sizes
(`servers.keysizes`), at most once in `_VALID_SECONDS` for each node, on the connection that it
reads from. Where it proves a bound for a database, the chunks of the next seconds are cut by that;
where it proves none, or none any more, sizes are asked again from the next chunk on. A node that
refuses INFO, or does not know the section, is not asked again.

Not promised: that a value has not grown since the last answer. That is the risk that also lies
between a key's size and its DUMP, but for seconds instead of milliseconds: clients may write large
values in that time, and a chunk that reads them is as large as they are.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Final

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import Address
from rumpx.servers.connections import Links
from rumpx.servers.keysizes import SECTIONS, largest_payloads
from rumpx.servers.replies import refused
from rumpx.servers.resp import Reply
from rumpx.servers.topology import is_error
from rumpx.transfer.handler import Wanted
from rumpx.transfer.runner import Replies, Task

_VALID_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Known:
    """One node's last answer, valid until a time of `time.monotonic()`: the most bytes of a
    payload, by database."""

    until: float
    largest: dict[int, int]


_NOTHING: Final = _Known(-math.inf, {})


class SizeBounds:
    """Keeps what nodes have proven of their values' sizes.

    Args:
        links: connections to them, shared with the reader.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self._known: dict[Address | None, _Known] = {}

    def largest(self, wanted: Wanted) -> Task[int | None]:
        """Return how many bytes a payload of `wanted.db` on `wanted.node` has at most; None if
        that is not proven; a task."""
        known = self._known.get(wanted.node, _NOTHING)
        if (now := time.monotonic()) >= known.until:
            if known is not _NOTHING:  # tasks that come before the answer go by the last one
                self._known[wanted.node] = replace(known, until=now + _VALID_SECONDS)
            try:
                known = self._known[wanted.node] = yield from self._ask(wanted)
            except ConnectionLost:
                return None
        return known.largest.get(wanted.db)

    def _ask(self, wanted: Wanted) -> Task[_Known]:
        connection = self._links.connect(wanted.node, wanted.db)
        asked = time.monotonic()
        connection.send(SECTIONS)
        (outcome,) = yield [Replies(connection, 1)]
        if isinstance(outcome, ConnectionLost):
            raise outcome
        return _read(outcome[0], asked)


def _read(reply: Reply, asked: float) -> _Known:
    if is_error(reply) and not refused(reply):
        return _Known(asked + _VALID_SECONDS, {})
    if not isinstance(reply, bytes) or b"# Keysizes" not in reply:
        return _Known(math.inf, {})
    try:
        largest = largest_payloads(reply.decode(errors="replace"))
    except ValueError:
        largest = {}
    return _Known(asked + _VALID_SECONDS, largest)
