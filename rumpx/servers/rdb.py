"""The table of RDB: the types and the footer of DUMP's payloads (rdb.h of both families).

    type     1 byte
    value    as in an RDB file
    version  2 bytes, little-endian
    CRC64    8 bytes, of all bytes before it; DUMP computes it also where `rdbchecksum` is "no"

A server's new encoding of a value is one number in `_TYPES`.

A payload loads if the target accepts the version in its footer and knows its type byte. The
version is then forgotten: the types up to 21 mean the same in both families whatever is stamped,
so that a payload with the lowest version that has its type loads wherever that type is known. (One
exception, rare but fatal to the target: `values.rewrite.portable`.) From 22 on each family has its
own types: stamped anew, a hash of Valkey 9 loads into Redis 8 as an empty or a wrong one, without
an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import Final, Literal, TypeGuard

from rumpx.servers.crc64 import crc64

Family = Literal["redis", "valkey", ""]

# Versions below are common to both families; Redis leaves those from 80 on to Valkey.
FIRST_OF_REDIS: Final = 12
FIRST_OF_VALKEY: Final = 80

CHECKSUM_BYTES: Final = 8
FOOTER_BYTES: Final = 2 + CHECKSUM_BYTES
SHORTEST_PAYLOAD: Final = 1 + FOOTER_BYTES
_CHECKSUM: Final = Struct("<Q")

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
STREAMS: Final = frozenset(_TYPES["stream"])
_KIND_OF: Final = {
    head: name.encode() for head, name in _TYPE_OF.items() if head not in OF_MODULES
}
# Hashes whose fields may expire.
EXPIRING_HASHES: Final = frozenset({22, 23, 24, 25})
# Types that are written as a hash table: the strings of each member, and the bytes after them.
TABLES: Final = {2: (1, 0), 4: (2, 0), 22: (2, 8)}

LOWEST_VERSION: Final[Mapping[int, int]] = {
    **dict.fromkeys((0, 1, 2, 3, 4, 9, 10, 11, 12, 13), 6),
    14: 7,
    **dict.fromkeys((5, 6, 7), 8),
    15: 9,
    **dict.fromkeys((16, 17, 18, 19), 10),
    **dict.fromkeys((20, 21), 11),
}
"""The lowest RDB version with a type, by its first byte: of all types that both families have."""

# The types of one family, and the version of each.
_OF_FAMILY: Final[Mapping[Family, Mapping[int, int]]] = {
    "valkey": {22: 80},
    "redis": {23: 12, 24: 12, 25: 12, 26: 13, 27: 14},  # 23: also candidates of 7.4
}
_FAMILY_OF: Final[Mapping[int, Family]] = {
    head: family for family, heads in _OF_FAMILY.items() for head in heads
}
# The names of modules' types: 9 characters of 6 bits, in the upper bits of a number of 8 bytes.
_NAME_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_NAME_SHIFTS: Final = range(58, 9, -6)
# The number is written as an RDB length, which of 8 bytes begins with 0x81.
_MODULE_STARTS: Final = frozenset(bytes((head, 0x81)) for head in OF_MODULES)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The payloads that a target loads.

    Args:
        versions: the RDB versions that it accepts in a footer.
        family: whose types from 22 on it knows; "" if that is not known, or if it knows none.
    """

    versions: frozenset[int]
    family: Family

    def __str__(self) -> str:
        """The versions, as "6 to 11, 80"."""
        versions = sorted(self.versions)
        spans: list[list[int]] = []
        for version in versions:
            if spans and spans[-1][-1] == version - 1:
                spans[-1][1:] = [version]
            else:
                spans.append([version])
        return ", ".join(" to ".join(map(str, span)) for span in spans)

    def takes(self, version: int) -> bool:
        """Return True if all payloads that a server of this version writes are accepted as they
        are."""
        return version in self.versions and _family_of_version(version) in ("", self.family)

    def knows(self, head: int) -> bool:
        """Return True if the target loads payloads with this first byte, in a version that it
        accepts. Modules' types count as known: the modules decide."""
        if head in OF_MODULES:
            return True
        if head in LOWEST_VERSION:
            return self.version_for(head) is not None
        return _OF_FAMILY.get(self.family, {}).get(head) in self.versions

    @property
    def shared_version(self) -> int:
        """The highest version that both families have and that is accepted; 0 if there is none. It
        has all types up to 21 that are known."""
        return max((version for version in self.versions if version < FIRST_OF_REDIS), default=0)

    def version_for(self, head: int) -> int | None:
        """Return the version to stamp payloads of a type up to 21 with: the lowest that has the
        type, otherwise the lowest accepted version above it. None if there is none, and for all
        other types."""
        lowest = LOWEST_VERSION.get(head)
        if lowest is None or lowest in self.versions:
            return lowest
        return min((version for version in self.versions if version > lowest), default=None)


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


def streams_among(keys: Sequence[bytes], payloads: Sequence[bytes]) -> list[bytes]:
    """Return the keys whose payloads, in the same order, are streams."""
    if STREAMS.isdisjoint(map(itemgetter(0), payloads)):
        return []
    return [key for key, each in zip(keys, payloads, strict=True) if each[0] in STREAMS]


def fields_expire(payload: bytes) -> bool:
    """Return True if the payload is a hash with fields that expire."""
    return payload[:1] != b"" and payload[0] in EXPIRING_HASHES


def version_of(payload: bytes) -> int:
    """Return the RDB version of a payload."""
    return int.from_bytes(payload[-FOOTER_BYTES:-CHECKSUM_BYTES], "little")


def _family_of_version(version: int) -> Family:
    if version < FIRST_OF_REDIS:
        return ""
    return "valkey" if version >= FIRST_OF_VALKEY else "redis"


def family_of_head(head: int) -> Family:
    """Return the family whose type a first byte is; "" if both have it, or if it is not known.

    22 is a hash with field expiries of Valkey 9. Release candidates of Redis 7.4 gave that number
    to another layout; no released Redis writes it.
    """
    return _FAMILY_OF.get(head, "")


def lowest_version(head: int) -> int:
    """Return the lowest RDB version with a type.

    Raises:
        KeyError: the type is not known.
    """
    family = family_of_head(head)
    return _OF_FAMILY[family][head] if family else LOWEST_VERSION[head]


def restamped(payload: bytes, version: int) -> bytes:
    """Return a payload with another version in its footer, and the checksum that goes with it.

    The new checksum is computed from the old one (the CRC is linear), so that a payload that was
    damaged before stays refused. A payload whose checksum is 0, which no server writes, is damaged.

    Raises:
        ValueError: the type is one of those from 22 on, which differ by family.
    """
    if payload[0] not in LOWEST_VERSION:
        raise ValueError(f"a payload of the type {payload[0]} must keep its version")
    footer = int.from_bytes(payload[-FOOTER_BYTES:], "little")
    footer ^= _footer_change(footer & 0xFFFF ^ version)
    return payload[:-FOOTER_BYTES] + footer.to_bytes(FOOTER_BYTES, "little")


def all_restamped(payloads: Sequence[bytes], version: int) -> list[bytes]:
    """As `restamped`, for some payloads that a server wrote; at a third of its time. Those of types
    from 22 on are of no use afterwards."""
    olds = {payload[-FOOTER_BYTES:-CHECKSUM_BYTES] for payload in payloads}
    if len(olds) != 1:
        return [
            restamped(payload, version) if payload[0] in LOWEST_VERSION else payload
            for payload in payloads
        ]
    change = _footer_change(int.from_bytes(olds.pop(), "little") ^ version) >> 16
    stamp = version.to_bytes(2, "little")
    read, write = _CHECKSUM.unpack_from, _CHECKSUM.pack
    return [
        each[:-FOOTER_BYTES] + stamp + write(read(each, len(each) - CHECKSUM_BYTES)[0] ^ change)
        for each in payloads
    ]


def body_checksum(payload: bytes) -> int:
    """Return the checksum of a payload as if its version were 0: equal for equal bodies, whatever
    server wrote them. It is the source's, not computed from the body."""
    footer = int.from_bytes(payload[-FOOTER_BYTES:], "little")
    return (footer ^ _footer_change(footer & 0xFFFF)) >> 16


@lru_cache(256)
def _footer_change(version_bits: int) -> int:
    """Return the bits that change in a footer, little-endian, if these bits of its version do."""
    return crc64(version_bits.to_bytes(2, "little")) << 16 | version_bits


def module_name(payload: bytes) -> str:
    """Return the name of a module's type, of 9 characters, in a payload of type 6 or 7; "" if it
    cannot be read."""
    if payload[:2] not in _MODULE_STARTS or len(payload) < 2 + 8 + FOOTER_BYTES:
        return ""
    number = int.from_bytes(payload[2:10])
    return "".join(_NAME_CHARACTERS[number >> shift & 63] for shift in _NAME_SHIFTS)
