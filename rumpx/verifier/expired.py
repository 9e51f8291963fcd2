"""Keys that one side has, and that count as gone: they have expired, or all their fields have.

A server removes such keys late: until then EXISTS counts them, and the other side may have removed
its own already.
"""

from __future__ import annotations

import time
from typing import Final

from rumpx.servers.endless import Endless, refuse_endless
from rumpx.servers.resp import encode
from rumpx.transfer.commands import Calls
from rumpx.transfer.runner import Task

# HSCAN's COUNT in the first search for fields that have not expired; doubled in each further round,
# up to the maximum.
_FIELDS_SEEN: Final = 10
_MOST_FIELDS_SEEN: Final = 1000


def has_expired(instant: int, offset: float | None) -> bool:
    """Return True if an expiry (ms since 1970, or negative for none) has passed by a clock.

    Args:
        offset: that clock minus this machine's, ms; None if unknown.
    """
    if instant < 0 or offset is None:
        return False
    return instant <= time.time() * 1000 + offset


def without_fields(calls: Calls, db: int, keys: list[bytes]) -> Task[set[bytes]]:
    """Return the hashes whose fields have all expired or are gone: until a server removes such a
    key, EXISTS still counts it."""
    empty: set[bytes] = set()
    cursors: dict[bytes, bytes] = dict.fromkeys(keys, b"0")
    watches = {key: Endless("fields", "HLEN") for key in keys}
    count = _FIELDS_SEEN

    def look(key: bytes) -> bytes:
        return encode("HSCAN", key, cursors[key], "COUNT", count)

    while cursors:
        replies = yield from calls.each(look, "HSCAN", db, list(cursors), needed=False)
        for key, reply in replies.items():
            del cursors[key]
            if isinstance(reply, list) and not reply[1]:
                if reply[0] == b"0":
                    empty.add(key)
                else:
                    cursors[key] = reply[0]  # type: ignore[assignment]
                    watches[key].add(int(cursors[key]), 0, count)
        yield from _watch_hscans(calls, db, {key: watches[key] for key in cursors})
        count = min(2 * count, _MOST_FIELDS_SEEN)
    return empty


def _watch_hscans(calls: Calls, db: int, watches: dict[bytes, Endless]) -> Task[None]:
    """Raise if one of these HSCANs would never end."""
    far = [key for key, watch in watches.items() if watch.is_far]
    if far:
        lengths = yield from calls.each(_hlen, "HLEN", db, far, needed=False)
        for key, length in lengths.items():
            watches[key].expect(length if isinstance(length, int) else None)
    for watch in watches.values():
        refuse_endless(calls.side, calls.name, "HSCAN", watch.fault)


def _hlen(key: bytes) -> bytes:
    return encode("HLEN", key)
