"""HyperLogLogs: the registers in a string, in either encoding.

    "HYLL", encoding (0 dense, 1 sparse), 3 bytes unused, the cached cardinality in 8 bytes, then
    dense: 16,384 registers of 6 bits
    sparse: runs of registers, 00xxxxxx and 01xxxxxx xxxxxxxx of zeros, 1vvvvvxx of a value

PFCOUNT writes the cache even if the value does not change, so equal HyperLogLogs may be different
strings; and a server makes a sparse one dense at a length that its configuration sets.
"""

from __future__ import annotations

from typing import Final

# The longest sparse sketch has a run for each register.
LARGEST_SKETCH: Final = 16 + 2**14

_MAGIC: Final = b"HYLL"
_HEADER: Final = 16
_REGISTERS: Final = 2**14
_DENSE_BYTES: Final = _REGISTERS * 6 // 8


def registers(value: bytes) -> bytes | None:
    """Return the registers in dense encoding; None if the string is not a HyperLogLog."""
    if not value.startswith(_MAGIC) or len(value) < _HEADER:
        return None
    encoding, body = value[len(_MAGIC)], value[_HEADER:]
    if encoding == 0:
        return body if len(body) == _DENSE_BYTES else None
    return _packed(_expanded(body)) if encoding == 1 else None


def _expanded(body: bytes) -> bytes:
    """Return the registers of a sparse sketch, a byte each; of another length if it is invalid."""
    found = bytearray()
    codes = iter(body)
    for code in codes:
        if code & 0x80:
            found += bytes([(code >> 2 & 31) + 1]) * ((code & 3) + 1)
        elif code & 0x40:
            found += bytes(((code & 63) << 8 | next(codes, 0)) + 1)
        else:
            found += bytes(code + 1)
        if len(found) > _REGISTERS:
            break
    return bytes(found)


def _packed(expanded: bytes) -> bytes | None:
    """Pack registers of 6 bits, from the lowest bit on."""
    if len(expanded) != _REGISTERS:
        return None
    fours = zip(*[iter(expanded)] * 4, strict=True)
    return b"".join(
        (a | b << 6 | c << 12 | d << 18).to_bytes(3, "little") for a, b, c, d in fours
    )
