"""The building blocks of RDB values: lengths, strings, listpacks.

    length    00nnnnnn · 01nnnnnn n · 0x80, 4 bytes · 0x81, 8 bytes, big-endian
    string    its length and its bytes · 0xC0, 0xC1, 0xC2 and a number of 1, 2, 4 bytes,
              little-endian · 0xC3, compressed length, length, bytes compressed by LZF
    listpack  its size in 4 bytes, number of elements in 2 (65,535: more), elements, 0xFF;
              each element: type and length, bytes, then the size of both, 7 bits a byte, to be
              read from the end

Servers differ in one point: an element whose size is 16,383 (or 2^21 - 1, or 2^28 - 1) has its size
in three bytes by Redis up to 8.2 and Valkey up to 8.1, and in two (three, four) by Valkey 9.1 and
later versions of Redis. A server that meets the other form takes the element's last byte for the
next element: Valkey 9.1 refuses the payload, Redis loads it and crashes when it reads the value.
Readers here take both forms.

Payloads come from the wire, so that each position is checked before the bytes there are read:
whatever the bytes are, a reader returns or raises ValueError. It takes time and memory in
proportion to the bytes that are there; an announced length alone allocates nothing.
"""

from __future__ import annotations

from typing import Final

# LZF makes at most 264 bytes of three.
LZF_BYTES: Final = 88
_LZF_MATCH: Final = 32
_LZF_LONG_MATCH: Final = 7

_COMPRESSED: Final = 0xC3
_LISTPACK_HEADER: Final = 6
_LISTPACK_END: Final = 0xFF
_UNCOUNTED: Final = 0xFFFF
# Elements of such sizes end in different ways: 5 bytes of type and length, and these.
_DISPUTED: Final = frozenset((1 << bits) - 1 - 5 for bits in (14, 21, 28))
SMALLEST_DISPUTED: Final = min(_DISPUTED)
# Elements of a listpack that are numbers of 2, 3, 4 or 8 bytes, by their type.
_NUMBER_BYTES: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}

_ONE_BYTE: Final = tuple(bytes((number,)) for number in range(256))
_SMALL_NUMBERS: Final = tuple(b"%d" % number for number in range(128))


def read_length(data: bytes, at: int) -> tuple[int, int]:
    """Return the length at a position, and the position after it.

    Raises:
        ValueError: there is none.
    """
    try:
        first = data[at]
        if first < 0x40:
            return first, at + 1
        if first < 0x80:
            return (first & 0x3F) << 8 | data[at + 1], at + 2
    except IndexError:
        raise ValueError("the value is cut off") from None
    if first > 0x81:
        raise ValueError(f"a length begins with {first:#x}")
    end = at + (9 if first & 1 else 5)
    return int.from_bytes(read_bytes(data, at + 1, end)), end


def read_bytes(data: bytes, start: int, end: int) -> bytes:
    """Return the bytes between two positions.

    Raises:
        ValueError: the data ends before.
    """
    if end > len(data):
        raise ValueError("the value is cut off")
    return data[start:end]


def string_end(data: bytes, at: int) -> int:
    """Return the position after the string at a position.

    Raises:
        ValueError: there is none.
    """
    try:
        first = data[at]
        if first < 0x40:
            end = at + 1 + first
        elif first < 0x80:
            end = at + 2 + ((first & 0x3F) << 8 | data[at + 1])
        elif first < 0xC0:
            size, at = read_length(data, at)
            end = at + size
        elif first < 0xC3:
            end = at + 1 + (1 << (first & 3))
        elif first == _COMPRESSED:
            size, at = read_length(data, at + 1)
            _, at = read_length(data, at)
            end = at + size
        else:
            raise ValueError(f"a string begins with {first:#x}")
    except IndexError:
        raise ValueError("the value is cut off") from None
    if end > len(data):
        raise ValueError("the value is cut off")
    return end


def read_string(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the string at a position, and the position after it.

    Raises:
        ValueError: there is none.
    """
    end = string_end(data, at)
    first = data[at]
    if first < 0xC0:
        _, at = read_length(data, at)
        return data[at:end], end
    if first < 0xC3:
        return b"%d" % int.from_bytes(data[at + 1 : end], "little", signed=True), end
    _, at = read_length(data, at + 1)
    size, at = read_length(data, at)
    return _decompressed(data[at:end], size), end


def _decompressed(data: bytes, size: int) -> bytes:
    """Return bytes that LZF compressed.

    Raises:
        ValueError: they do not give exactly `size` bytes.
    """
    if size > LZF_BYTES * len(data):
        raise ValueError(f"{len(data)} compressed bytes cannot give {size}")
    out = bytearray()
    at, end = 0, len(data)
    try:
        while at < end:
            control = data[at]
            at += 1
            if control < _LZF_MATCH:  # bytes as they are
                start, at = at, at + control + 1
                out += data[start:at]
                continue
            count = control >> 5
            if count == _LZF_LONG_MATCH:
                count += data[at]
                at += 1
            count += 2
            start = len(out) - ((control & 31) << 8) - data[at] - 1
            at += 1
            if start < 0:
                raise ValueError("compressed bytes refer to bytes before the first")
            if start + count <= len(out):
                out += out[start : start + count]
            else:  # the bytes that it writes are repeated too
                match = out[start:]
                out += (match * (count // len(match) + 1))[:count]
    except IndexError:
        raise ValueError("compressed bytes are cut off") from None
    if len(out) != size:
        raise ValueError(f"compressed bytes give {len(out)} bytes, not {size}")
    return bytes(out)


def listpack(pack: bytes) -> list[bytes]:
    """Return the elements of a listpack, numbers as decimal digits.

    Raises:
        ValueError: it is not a listpack.
    """
    found: list[bytes] = []
    add = found.append
    at, last = _LISTPACK_HEADER, len(pack) - 1
    if int.from_bytes(pack[:4], "little") != len(pack) or pack[last:] != _ONE_BYTE[_LISTPACK_END]:
        raise ValueError("a listpack gives another size than its own")
    try:
        while at < last:
            first = pack[at]
            if first < 0x80:
                add(_SMALL_NUMBERS[first])
                at += 2
                continue
            if first < 0xC0:
                start = at + 1
                end = start + (first & 0x3F)
                add(pack[start:end])
            elif first < 0xE0:
                number = (first & 0x1F) << 8 | pack[at + 1]
                add(b"%d" % (number - 0x2000 if number & 0x1000 else number))
                at += 3
                continue
            elif first < 0xF0:
                start = at + 2
                end = start + ((first & 0x0F) << 8 | pack[at + 1])
                add(pack[start:end])
            elif first == 0xF0:
                start = at + 5
                end = start + int.from_bytes(pack[at + 1 : start], "little")
                add(pack[start:end])
            else:
                end = at + 1 + _NUMBER_BYTES[first]
                add(b"%d" % int.from_bytes(pack[at + 1 : end], "little", signed=True))
            size = end - at
            # The size behind the element; its first byte is 0 if it takes one byte too many.
            at = end + (1 if size < 128 else _size_bytes(size) + (not pack[end]))
    except (IndexError, KeyError):
        raise ValueError("a listpack has an element that is none") from None
    if at != last or int.from_bytes(pack[4:6], "little") not in (_UNCOUNTED, len(found)):
        raise ValueError("a listpack has other elements than it announces")
    return found


def is_disputed(element: bytes) -> bool:
    """Return True if servers write the size of this element of a listpack in two ways."""
    return len(element) in _DISPUTED


def with_longer_sizes(pack: bytes) -> bytes:
    """Return a listpack with each disputed size in its longer form, as older servers read it.

    Raises:
        ValueError: it is not a listpack.
    """
    parts = [pack[4:_LISTPACK_HEADER]]
    kept = at = _LISTPACK_HEADER
    for element in listpack(pack):
        end = _element_end(pack, at)
        at = end + _size_bytes(end - at) + (not pack[end])
        if is_disputed(element) and pack[end]:
            parts += pack[kept:end], b"\0" + b"\xff" * (at - end)
            kept = at
    body = b"".join((*parts, pack[kept:]))
    return (4 + len(body)).to_bytes(4, "little") + body


def _size_bytes(size: int) -> int:
    """Return the fewest bytes that a size takes behind an element."""
    return (size.bit_length() + 6) // 7


def _element_end(pack: bytes, at: int) -> int:
    """Return the position of the size behind an element of a valid listpack."""
    first = pack[at]
    if first < 0x80:
        return at + 1
    if first < 0xC0:
        return at + 1 + (first & 0x3F)
    if first < 0xE0:
        return at + 2
    if first < 0xF0:
        return at + 2 + ((first & 0x0F) << 8 | pack[at + 1])
    if first == 0xF0:
        return at + 5 + int.from_bytes(pack[at + 1 : at + 5], "little")
    return at + 1 + _NUMBER_BYTES[first]


def string_size(data: bytes, at: int) -> int:
    """Return the length that the string at a position announces, in bytes when decompressed; 0
    for one that is written as a number.

    Raises:
        ValueError: there is none.
    """
    if at < len(data) and data[at] == _COMPRESSED:
        _, at = read_length(data, at + 1)
    elif at < len(data) and data[at] >= 0xC0:
        return 0
    return read_length(data, at)[0]


def write_length(number: int) -> bytes:
    """Return a length, from 0 to 2^64 - 1, as RDB writes it."""
    if number < 0x40:
        return _ONE_BYTE[number]
    if number < 0x4000:
        return (number | 0x4000).to_bytes(2)
    if number < 1 << 32:
        return b"\x80" + number.to_bytes(4)
    return b"\x81" + number.to_bytes(8)


def write_string(value: bytes) -> bytes:
    """Return a string as RDB writes it, neither compressed nor as a number."""
    size = len(value)
    return (_ONE_BYTE[size] if size < 0x40 else write_length(size)) + value
