"""The building blocks of RDB values: lengths, strings, listpacks.

    length    00nnnnnn · 01nnnnnn n · 0x80, 4 bytes · 0x81, 8 bytes, big-endian
    string    its length and its bytes · 0xC0, 0xC1, 0xC2 and a number of 1, 2, 4 bytes,
              little-endian · 0xC3, compressed length, length, bytes compressed by LZF
    listpack  its size in 4 bytes, number of elements in 2 (65,535: more), elements, 0xFF;
              each element: type and length, bytes, then the size of both, read from the end

Payloads come from the wire, so that each position is checked before the bytes there are read:
whatever the bytes are, a reader returns or raises ValueError. It takes time and memory in
proportion to the bytes that are there; an announced length alone allocates nothing.
"""

from __future__ import annotations

from typing import Final

# LZF makes at most 264 bytes of three.
_LZF_BYTES: Final = 88
_LZF_MATCH: Final = 32
_LZF_LONG_MATCH: Final = 7

_LISTPACK_HEADER: Final = 6
_LISTPACK_END: Final = 0xFF
_UNCOUNTED: Final = 0xFFFF
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
        elif first == 0xC3:
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
    if size > _LZF_BYTES * len(data):
        raise ValueError(f"{len(data)} compressed bytes cannot give {size}")
    out = bytearray()
    at, end = 0, len(data)
    try:
        while at < end:
            control = data[at]
            at += 1
            if control < _LZF_MATCH:  # bytes as they are
                out += read_bytes(data, at, at := at + control + 1)
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
            match = out[start : start + count]
            if len(match) < count:  # the bytes that it writes are repeated too
                match = (match * (count // len(match) + 1))[:count]
            out += match
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
            # The size behind an element takes a byte for each 7 bits; from two bytes on, one more
            # if all of them are set.
            at = end + (1 if size < 128 else ((size + 1).bit_length() + 6) // 7)
    except (IndexError, KeyError):
        raise ValueError("a listpack has an element that is none") from None
    if at != last or int.from_bytes(pack[4:6], "little") not in (_UNCOUNTED, len(found)):
        raise ValueError("a listpack has other elements than it announces")
    return found


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
    return write_length(len(value)) + value
