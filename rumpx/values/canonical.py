"""Payloads without what does not count: the order of a hash table's members, and the footer.

The members of a set or hash that is kept as a hash table come in the table's order in what DUMP
gives: it follows the server's hash seed, and changes without a write, since a table that has grown
is moved to its new place in steps, also by being read. Put in order, payloads of equal tables are
mostly equal, so that the values need not be read again; and a print of that stands for a value that
differs, to tell at the next look whether somebody has written it meanwhile.

    type, number of members, then for each: a string (a set), or field and value (a hash), and the
    field's expiry in 8 bytes (Valkey's hashes with such)

Strings are cut out as they are, by their lengths, and not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from rumpx.values.by_type import OF_MODULES
from rumpx.values.shapes import FOOTER_BYTES

_DIGEST_BYTES: Final = 8
# By the payload's first byte: strings for each member, and bytes after them.
_TABLES: Final = {2: (1, 0), 4: (2, 0), 22: (2, 8)}


def in_order(payload: bytes) -> bytes:
    """A payload without its footer, the members of a table in the order of their bytes.

    The same for the same value (but a module's) on the same server, at any time. Two that are
    equal are of equal values, whatever the servers; two that are not need not be of different ones.
    """
    body = payload[:-FOOTER_BYTES]
    layout = _TABLES.get(body[0]) if body else None
    if layout:
        # What is no such table after all is taken as it comes.
        with suppress(IndexError, ValueError):
            return body[:1] + b"".join(sorted(_members(body, *layout)))
    return body


def print_of(ordered: bytes) -> bytes:
    """What stands for a payload that was put in order. Of a module's value that is only that it is
    one: two DUMPs of the same graph may differ, and it would seem to be written all the time."""
    if ordered[:1] and ordered[0] in OF_MODULES:
        return ordered[:1]
    return blake2b(ordered, digest_size=_DIGEST_BYTES).digest()


def _members(body: bytes, strings: int, tail: int) -> Iterator[bytes]:
    """The members of a table, each in one piece.

    Raises:
        IndexError, ValueError: it is not built like that.
    """
    count, at = _length(body, 1)
    for _ in range(count):
        start = at
        for _ in range(strings):
            at = _string_end(body, at)
        at += tail
        yield body[start:at]
    if at != len(body):
        raise ValueError


def _length(body: bytes, at: int) -> tuple[int, int]:
    """A length as RDB files have it, and where it ends."""
    first = body[at]
    match first >> 6:
        case 0:
            return first & 0x3F, at + 1
        case 1:
            return (first & 0x3F) << 8 | body[at + 1], at + 2
        case 2:
            size = 8 if first & 1 else 4
            return int.from_bytes(body[at + 1 : at + 1 + size]), at + 1 + size
    raise ValueError


def _string_end(body: bytes, at: int) -> int:
    first = body[at]
    if first < 0xC0:
        size, at = _length(body, at)
        return at + size
    if first < 0xC3:  # a number of 1, 2 or 4 bytes
        return at + 1 + (1 << (first & 3))
    if first > 0xC3:
        raise ValueError
    size, at = _length(body, at + 1)  # compressed: both lengths come first
    _, at = _length(body, at)
    return at + size
