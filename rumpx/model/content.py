"""Statistics of the copied keys: the types of the values, their sizes, and the largest keys.

All of it comes from the copied payloads: a payload's first byte is its type, its length is its
size. So the source receives no further command. (A value in memory is mostly larger than its
payload, and differs between versions.)

Not promised: keys that were skipped, had gone, or failed; of those no payload was written. Nor, for
a run that failed, the last copied keys: they count once all before them are settled.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

LARGEST_KEPT: Final = 10


@dataclass(frozen=True, slots=True)
class TypeCount:
    """Keys of one type, as in "hash", and the bytes of their payloads."""

    type: str
    keys: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class SizeCount:
    """Keys whose payloads have from `least` to `most` bytes; `least` and `most` + 1 are powers of
    two."""

    least: int
    most: int
    keys: int


@dataclass(frozen=True, slots=True)
class LargeKey:
    """One of the largest keys."""

    db: int
    key: bytes
    type: str
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """Statistics of the copied keys.

    Attributes:
        types: the most frequent first.
        sizes: from small to large, without empty groups.
        largest: at most ten, the largest first.
    """

    types: tuple[TypeCount, ...] = ()
    sizes: tuple[SizeCount, ...] = ()
    largest: tuple[LargeKey, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as in `--summary`: key names as text with `backslashreplace` escapes."""
        document = dataclasses.asdict(self)
        for large in document["largest"]:
            large["key"] = large["key"].decode("utf-8", "backslashreplace")
        return document


NO_CONTENT: Final = Content()
