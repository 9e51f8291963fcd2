"""Canonical payloads: without the order of a hash table's members, and without the footer.

DUMP gives the members of a set or hash that is stored as a hash table in the table's order. That
order follows the server's hash seed, and changes without a write, since a table that has grown is
rehashed in steps, also by reads. Sorted, payloads of equal tables are mostly equal, so that the
values need not be read again. A digest of a sorted payload is kept for a value that differs, to
detect at the re-check that it was written meanwhile.

    type, number of members, then for each: a string (a set), or field and value (a hash), and the
    field's expiry in 8 bytes (Valkey's hashes with such)

Strings are cut out by their lengths, and not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from rumpx.servers.rdb import FOOTER_BYTES, OF_MODULES, TABLES
from rumpx.values.encodings import read_length, string_end

_DIGEST_BYTES: Final = 8


def in_order(payload: bytes) -> bytes:
    """Return a payload without its footer, a table's members sorted by their bytes.

    The result is stable for one value (but a module's) on one server. Equal results mean equal
    values, on any servers; different results do not prove different values.
    """
    body = payload[:-FOOTER_BYTES]
    layout = TABLES.get(body[0]) if body else None
    if layout:
        # A payload that turns out not to be such a table is returned unsorted.
        with suppress(ValueError):
            return body[:1] + b"".join(sorted(_members(body, *layout)))
    return body


def print_of(ordered: bytes) -> bytes:
    """Return a digest of a sorted payload. For a module's value the digest is only its type byte:
    two DUMPs of the same graph may differ, and it would always seem to be written."""
    if ordered[:1] and ordered[0] in OF_MODULES:
        return ordered[:1]
    return blake2b(ordered, digest_size=_DIGEST_BYTES).digest()


def _members(body: bytes, strings: int, tail: int) -> Iterator[bytes]:
    """Yield the members of a table, each in one piece.

    Raises:
        ValueError: the payload is not such a table.
    """
    count, at = read_length(body, 1)
    for _ in range(count):
        start = at
        for _ in range(strings):
            at = string_end(body, at)
        at += tail
        yield body[start:at]
    if at != len(body):
        raise ValueError
