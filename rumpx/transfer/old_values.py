"""Ask the target how large the old values are that a chunk replaces (`restore_writer`).

By `size_reader`: MEMORY USAGE, or the length commands where that is refused. If these are refused
too, the sizes do not matter any more, which is said once.

Most of a second copy's keys exist, and none of a first one's. So the last chunk says whether to ask
before the next one is sent (`likely`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rumpx.servers.connections import Links
from rumpx.transfer.handler import Records, Wanted
from rumpx.transfer.peer import Route
from rumpx.transfer.runner import Task
from rumpx.transfer.size_reader import SizeReader

LOST: Final = -1
"""In the place of a size: the connection was lost."""
NO_OLD_SIZES: Final = (
    "The target refuses MEMORY USAGE and TYPE (or STRLEN, HLEN, …): where a small value replaces a "
    "large one, the target frees that at once, and its other clients wait."
)


class OldValues:
    """Asks for sizes.

    Args:
        links: connections to the target, shared with the writer.
        large_from: bytes from which a value is large.

    Attributes:
        likely: most keys of the last chunk existed.
    """

    def __init__(self, links: Links, large_from: int) -> None:
        self.likely = False
        self._large_from = large_from
        self._sizes = SizeReader(links, "memory")

    @property
    def told(self) -> bool:
        """True unless the target refuses all that asks for sizes."""
        return self._sizes.by != "none"

    def sizes(self, records: Records, routes: Sequence[Route]) -> Task[list[int]]:
        """Return the size of each key's old value in bytes, 0 if there is none or its size is not
        told; or LOST; a task."""
        sizes = [LOST] * len(records.keys)
        for route in routes:
            asked = Wanted(records.db, [records.keys[n] for n in route.positions], route.node)
            came = yield from self._sizes.sizes(asked, asking=route.asking)
            if came is None and not self.told:
                return [0] * len(sizes)
            if len(routes) == 1 and came is not None:
                return came
            for position, size in zip(route.positions, came or (), strict=False):
                sizes[position] = size
        return sizes

    def found(self, existing: int, keys: int) -> None:
        """Record how many keys of a chunk existed."""
        self.likely = 2 * existing > keys

    def is_large(self, size: int) -> bool:
        """Return True if an old value of so many bytes is not freed in line."""
        return size >= self._large_from
