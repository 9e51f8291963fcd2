r"""Redis's glob patterns on bytes, exactly as the server's `stringmatchlen` reads them.

Differences from fnmatch: `[^a]` negates, `\` escapes (also inside brackets), a range may be written
backwards, an unclosed bracket ends with the pattern, and the empty key matches no pattern but `*`
and the empty one. In a range, bytes from 0x80 on sort before all others, since C's `char` is signed
on x86; a server on ARM reads a range that holds both kinds the other way, as with `signed=False`. A
glob becomes one regular expression; each `*` and the part up to the next `*` form an atomic group,
so that matching takes time linear in the number of stars.
"""

from __future__ import annotations

import re

_SPECIAL = re.compile(rb"([*?\[\]^\\])")


def escape(prefix: bytes) -> bytes:
    """Return a glob that matches exactly these bytes."""
    return _SPECIAL.sub(rb"\\\1", prefix)


def compile_glob(glob: bytes, *, signed: bool = True) -> re.Pattern[bytes]:
    """Return a pattern whose `fullmatch` agrees with the server's MATCH for every key."""
    if glob == b"*":
        return re.compile(rb"(?s:.*)")
    pieces = [b""]
    position = 0
    while position < len(glob):
        if glob[position] == ord("*"):
            pieces.append(b"")
            position += 1
        else:
            piece, position = _one_byte(glob, position, signed)
            pieces[-1] += piece
    head, *rest = pieces
    if not rest:
        return re.compile(rb"(?s:%b)" % head)
    # `(?!\Z)` at the front: the server's loop never starts on an empty key.
    middle = b"".join(b"(?>.*?%b)" % piece for piece in rest[:-1] if piece)
    return re.compile(rb"(?s:(?!\Z)%b%b.*%b)" % (head, middle, rest[-1]))


def _one_byte(glob: bytes, position: int, signed: bool) -> tuple[bytes, int]:
    """Return the expression for the one-byte element at `position`, and the position after it."""
    byte = glob[position : position + 1]
    if byte == b"?":
        return b".", position + 1
    if byte == b"[":
        return _bracket(glob, position + 1, signed)
    if byte == b"\\" and position + 1 < len(glob):
        position += 1
        byte = glob[position : position + 1]
    return re.escape(byte), position + 1


def _bracket(glob: bytes, position: int, signed: bool) -> tuple[bytes, int]:
    """Return the bytes between brackets as a class of hex escapes; position is after the `[`."""
    negated = glob[position : position + 1] == b"^"
    position += negated
    members: set[int] = set()
    while position < len(glob) and (byte := glob[position]) != ord("]"):
        if byte == ord("\\") and position + 1 < len(glob):
            position += 1
            members.add(glob[position])
        elif glob[position + 1 : position + 2] == b"-" and position + 2 < len(glob):
            ends = byte, glob[position + 2]
            low, high = sorted(map(_signed, ends) if signed else ends)
            members.update(number & 0xFF for number in range(low, high + 1))
            position += 2
        else:
            members.add(byte)
        position += 1
    chosen = set(range(256)) - members if negated else members
    expression = b"".join(b"\\x%02x" % member for member in sorted(chosen))
    return (b"[%b]" % expression if chosen else b"(?!)"), position + 1


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte
