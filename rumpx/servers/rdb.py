"""The table of RDB: the types and the footer of DUMP's payloads (rdb.h of both families).

    type     1 byte
    value    as in an RDB file
    version  2 bytes, little-endian
    CRC64    8 bytes

A server's new encoding of a value is one number in `_TYPES`.
"""

from __future__ import annotations

from typing import Final, TypeGuard

CHECKSUM_BYTES: Final = 8
FOOTER_BYTES: Final = 2 + CHECKSUM_BYTES
SHORTEST_PAYLOAD: Final = 1 + FOOTER_BYTES

# By type, as TYPE names it: the first bytes of its payloads, one for each encoding.
_TYPES: Final = {
    "string": (0,),
    "list": (1, 10, 14, 18),
    "set": (2, 11, 20),
    "zset": (3, 5, 12, 17),
    "hash": (4, 9, 13, 16, 22, 23, 24, 25),
    "stream": (15, 19, 21, 26, 27),
    "module": (6, 7),  # in the old and the new form
}
_TYPE_OF: Final = {head: name for name, heads in _TYPES.items() for head in heads}
# No first byte is greater so far.
FIRST_BYTES: Final = 32
OF_MODULES: Final = frozenset(_TYPES["module"])
_KIND_OF: Final = {
    head: name.encode() for head, name in _TYPE_OF.items() if head not in OF_MODULES
}
# Hashes whose fields may expire.
_EXPIRING_HASHES: Final = frozenset({22, 23, 24, 25})
# Types that are written as a hash table: the strings of each member, and the bytes after them.
TABLES: Final = {2: (1, 0), 4: (2, 0), 22: (2, 8)}


def is_payload(reply: object) -> TypeGuard[bytes]:
    """Return True if a reply may be a payload of DUMP."""
    return isinstance(reply, bytes) and len(reply) >= SHORTEST_PAYLOAD


def type_of(head: int) -> str:
    """Return the type that a payload's first byte gives, as TYPE names it; "module" for all
    modules' types, "other" if it is not known."""
    return _TYPE_OF.get(head, "other")


def head_of(kind: bytes) -> int:
    """Return the first byte of the plainest payloads of a type, as TYPE names it."""
    return _TYPES[kind.decode()][0]


def kind_of(payload: bytes) -> bytes:
    """Return the type of the value in a payload, as TYPE names it; b"" if it is not known."""
    return _KIND_OF.get(payload[0], b"") if payload else b""


def fields_expire(payload: bytes) -> bool:
    """Return True if the payload is a hash with fields that expire."""
    return payload[:1] != b"" and payload[0] in _EXPIRING_HASHES


def version_of(payload: bytes) -> int:
    """Return the RDB version of a payload."""
    return int.from_bytes(payload[-FOOTER_BYTES:-CHECKSUM_BYTES], "little")
