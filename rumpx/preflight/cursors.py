"""The cursor scheme of each node and database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from rumpx.engine.scanner import scanned
from rumpx.errors import Side
from rumpx.model.partitions import NodeKeys, cursor_is_plausible
from rumpx.model.slots import SLOTS, key_slot
from rumpx.servers.connections import select
from rumpx.servers.resp import Connection
from rumpx.servers.side import SideFacts, connected

_SAMPLE_PAGES: Final = 3
_SAMPLE_COUNT: Final = 50


@dataclass(frozen=True, slots=True)
class SamplePage:
    """One SCAN reply of a cluster node, for `cursor_scheme`."""

    before: int
    after: int
    keys: tuple[bytes, ...]


def cursor_scheme(pages: Sequence[SamplePage], keys: int) -> str:
    """Detect how a cluster node's cursor counts: "table", "slots" or "unknown".

    With one table a slot, the keys of a reply lie in the slots that the cursor passed. The chance
    of a false match is that of some dozens of evenly spread keys all falling in one given half.
    """
    seen = [(page, [key_slot(key) for key in page.keys]) for page in pages]
    count = sum(len(slots) for _, slots in seen)
    in_order = all(
        page.before % SLOTS <= slot <= (page.after % SLOTS if page.after else SLOTS)
        for page, slots in seen
        for slot in slots
    )
    if in_order and count >= 20:
        return "slots"
    if not in_order and all(cursor_is_plausible(page.after, keys) for page, _ in seen):
        return "table"
    return "unknown"


def with_schemes(side: SideFacts, databases: list[NodeKeys]) -> list[NodeKeys]:
    """Return the same databases with their cursor schemes."""
    found: dict[NodeKeys, NodeKeys] = {}
    for node in dict.fromkeys(place.node for place in databases):
        with connected(side.dialer, node.address) as connection:
            for place in databases:
                if place.node == node:
                    found[place] = replace(place, scheme=find_scheme(side, place, connection))
    return [found[place] for place in databases]


def find_scheme(source: SideFacts, place: NodeKeys, connection: Connection) -> str:
    """Return the cursor scheme of a database if it is proven, else "unknown"."""
    info = source.infos[place.node.address]
    if info is None or not info.proven_cursors or source.dialer.endpoint.cluster is False:
        return "unknown"
    if not source.topology.cluster:
        plausible = info.mode == "standalone" and _plausible(place, connection, source.dialer.side)
        return "table" if plausible else "unknown"
    if info.mode != "cluster":
        return "unknown"
    return cursor_scheme(_sample_pages(place, connection, source.dialer.side), place.keys)


def _plausible(place: NodeKeys, connection: Connection, side: Side) -> bool:
    return all(
        cursor_is_plausible(page.after, place.keys)
        for page in _sample_pages(place, connection, side)
    )


def _sample_pages(place: NodeKeys, connection: Connection, side: Side) -> list[SamplePage]:
    """Return the first few SCAN replies."""
    pages = []
    cursor = 0
    select(connection, place.db, side)
    for _ in range(_SAMPLE_PAGES):
        reply = connection.call("SCAN", cursor, "COUNT", _SAMPLE_COUNT)
        if not isinstance(reply, list):
            break
        after, keys = scanned(connection, side, reply)
        pages.append(SamplePage(cursor, after, tuple(keys)))
        cursor = after
        if not cursor:
            break
    return pages
