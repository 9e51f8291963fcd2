"""Payloads in a form that an older server, or one of the other family, loads.

Types up to 21 that a target knows only need another version in their footer (`rdb.restamped`).
Here are those that it does not know, and hashes whose fields expire, which each family writes in
its own form:

    from                                     to
    20  set as a listpack                    2   table
    16  hash as a listpack                   4   table
    17  sorted set as a listpack             5   skiplist
    18  list of listpacks and plain nodes    1   list
    21  stream                               19  without the consumers' active times
    19  stream                               15  also without its counters
    22  hash with field expiries (Valkey)    24, or 4 without the expiries
    24  the same (Redis), as a table         22, or 4 without the expiries
    25  the same (Redis), as a listpack      22, 24, or 4 without the expiries

Also those types up to 21 whose listpacks are not read alike by all (`portable`): a stream keeps
its type, the others get the one without listpacks.

The target chooses its own encoding when it loads the value. Strings are taken over as they are
written, compressed ones too, wherever they are not in a listpack.

All servers ignore bytes after a value, so that a wrong reading would pass unnoticed. Therefore the
source's checksum must be right, since the result has one of its own, and the body must end exactly
at its footer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import Final, Literal

from rumpx.servers.crc64 import crc64
from rumpx.servers.rdb import (
    CHECKSUM_BYTES,
    FOOTER_BYTES,
    SHORTEST_PAYLOAD,
    Dialect,
    Family,
    family_of_head,
    fields_expire,
    lowest_version,
    version_of,
)
from rumpx.values.encodings import (
    LZF_BYTES,
    SMALLEST_DISPUTED,
    is_disputed,
    listpack,
    read_bytes,
    read_length,
    read_string,
    string_end,
    string_size,
    with_longer_sizes,
    write_length,
    write_string,
)

Loss = Literal["field expiries", "stream counters"]

FIELD_EXPIRIES: Final = "field expiries"
STREAM_COUNTERS: Final = "stream counters"

_HASH: Final = 4
_OF_VALKEY: Final = 22
_TABLE_OF_REDIS: Final = 24
_LISTPACK_OF_REDIS: Final = 25
# The latest field expiry that Redis loads: its commands refuse those from 2^46 on, its loader
# those from 2^48 on ("Bad data format").
_LATEST_OF_REDIS: Final = (1 << 48) - 1
_LATEST: Final = (1 << 63) - 1

_PLAIN_NODE: Final = 1
_PACKED_NODE: Final = 2
# Of streams: an id in a list of pending entries, and the instant of its delivery.
_ID_BYTES: Final = 16
_INSTANT_BYTES: Final = 8
_STREAM_6_2: Final = 15
_STREAM_7_0: Final = 19
_STREAM_7_2: Final = 21
_STREAMS: Final = (_STREAM_6_2, _STREAM_7_0, _STREAM_7_2)

# A shorter payload has no element of a disputed size, however well it is compressed.
SHORTEST_DISPUTED: Final = SMALLEST_DISPUTED // LZF_BYTES
# The latest version by which a server proves to read disputed sizes in their longer form.
_LATEST_WITH_LONGER_SIZES: Final = 13

_SCORE: Final = Struct("<d")
_INSTANT: Final = Struct("<q")
_NO_EXPIRY: Final = _INSTANT.pack(-1)


class Disputed(ValueError):
    """No payload is read alike by both servers, though both have the value's type."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A payload that the target loads.

    Args:
        payload: with the version and checksum that go with it.
        loses: what the value lacks there.
    """

    payload: bytes
    loses: tuple[Loss, ...]


# A field of a hash: its name and its value, as RDB writes them, and its expiry in ms since 1970;
# 0 if it has none.
_Field = tuple[bytes, int]


def rewritten(payload: bytes, dialect: Dialect, *, shift_ms: int = 0) -> Rewritten | None:
    """Return a payload in a form that the target loads; None if there is none, or no need of one.

    There is no need if the target knows the type, one up to 21, and the payload is `portable`: then
    `restamped` suffices. Hashes with field expiries, which cannot be stamped anew, are always
    written in the target's form.

    Args:
        payload: as DUMP gave it.
        dialect: what the target loads.
        shift_ms: added to each field's expiry, in ms; one that would be 0 or less becomes 1.

    Raises:
        Disputed: it is a stream that is not portable, and the versions do not prove how the target
            reads it.
        ValueError: the payload is damaged, or is not such a value.
    """
    head = payload[0] if payload else 0
    if head in _FORMS:
        return _in_known_form(payload, dialect)
    if head in _FIELDS and _is_of_its_family(payload):
        return _in_form_of(dialect, _moved(_FIELDS[head](_body_of(payload)), shift_ms))
    return None


def shifted(payload: bytes, shift_ms: int) -> bytes:
    """Return a payload for a target that loads it as it is, with each field's expiry shifted.

    Args:
        payload: as DUMP gave it.
        shift_ms: added to each field's expiry, in ms; one that would be 0 or less becomes 1.

    Raises:
        ValueError: the payload is damaged, or its layout is not known.
    """
    if not fields_expire(payload):
        return payload
    head = payload[0]
    if head not in _FIELDS or not _is_of_its_family(payload):
        raise ValueError(f"the layout of the type {head} is not known")
    fields = _moved(_FIELDS[head](_body_of(payload)), shift_ms)
    if not _expire(fields):
        return payload
    return _with_expiries(fields, _FORM_OF[family_of_head(head)], version_of(payload))


def reads_otherwise(version: int, dialect: Dialect) -> bool:
    """Return True if a target writes the sizes in listpacks otherwise than a source whose payloads
    are of this version: then only `portable` ones are read alike."""
    newest = max(dialect.versions, default=0)
    return (version > _LATEST_WITH_LONGER_SIZES) != (newest > _LATEST_WITH_LONGER_SIZES)


def portable(payload: bytes) -> bool:
    """Return True if all servers that know the type, one up to 21, read the value alike.

    They do not if a listpack has an element whose size is written in two ways (`encodings`). Such
    elements have 16,378 bytes, or 2 MiB or 256 MiB less 6: then a payload from Valkey 9.1 that is
    stamped anew crashes a Redis 8.2 that reads the value. Only streams have them by default.
    Takes 0.2 µs for a payload of less than 186 bytes, otherwise 1 µs for each listpack.

    Raises:
        ValueError: it is not such a value.
    """
    if len(payload) < SHORTEST_DISPUTED or payload[0] not in _LISTPACKS:
        return True
    return not any(_is_disputed_at(payload, at) for at in _LISTPACKS[payload[0]](payload))


def _is_of_its_family(payload: bytes) -> bool:
    """Return True unless a candidate of Redis 7.4 wrote a hash that has Valkey's number."""
    return payload[0] != _OF_VALKEY or version_of(payload) >= lowest_version(_OF_VALKEY)


def _body_of(payload: bytes) -> bytes:
    """Return a payload without its footer.

    Raises:
        ValueError: its checksum is wrong.
    """
    if len(payload) < SHORTEST_PAYLOAD:
        raise ValueError("the payload is cut off")
    checksum = int.from_bytes(payload[-CHECKSUM_BYTES:], "little")
    if crc64(memoryview(payload)[:-CHECKSUM_BYTES]) != checksum:
        raise ValueError("the payload's checksum is wrong")
    return payload[:-FOOTER_BYTES]


def _sealed(parts: Iterable[bytes], version: int) -> bytes:
    """Return a body with its footer."""
    body = b"".join((*parts, version.to_bytes(2, "little")))
    return body + crc64(body).to_bytes(CHECKSUM_BYTES, "little")


# --- types up to 21 --------------------------------------------------------------------------


def _in_known_form(payload: bytes, dialect: Dialect) -> Rewritten | None:
    """Return a value of a type up to 21 in the first form that the target knows."""
    head = payload[0]
    if dialect.knows(head):
        if portable(payload):
            return None
        if head in _STREAMS and max(dialect.versions) > _LATEST_WITH_LONGER_SIZES:
            raise Disputed(
                "the stream has a field of 16,378 bytes (or 2 MiB or 256 MiB less 6), which "
                "servers of these versions store in two ways"
            )
    for form in _FORMS[head]:
        version = dialect.version_for(form)
        if version is not None:
            parts = _WRITERS[form](_body_of(payload))
            loses = form == _STREAM_6_2 != head
            return Rewritten(
                _sealed((bytes((form,)), *parts), version), (STREAM_COUNTERS,) if loses else ()
            )
    return None


def _set(body: bytes) -> list[bytes]:
    members = _only_listpack(body)
    return [write_length(len(members)), *map(write_string, members)]


def _hash(body: bytes) -> list[bytes]:
    words = _only_listpack(body)
    return [_count_of(words, 2), *map(write_string, words)]


def _sorted_set(body: bytes) -> list[bytes]:
    words = _only_listpack(body)
    parts = [_count_of(words, 2)]
    for member, score in zip(words[::2], words[1::2], strict=True):
        parts += write_string(member), _SCORE.pack(float(score))
    return parts


def _list(body: bytes) -> list[bytes]:
    nodes, at = read_length(body, 1)
    elements: list[bytes] = []
    for _ in range(nodes):
        container, at = read_length(body, at)
        if container == _PLAIN_NODE:
            end = string_end(body, at)
            elements.append(body[at:end])
            at = end
        elif container == _PACKED_NODE:
            pack, at = read_string(body, at)
            elements += map(write_string, listpack(pack))
        else:
            raise ValueError(f"a node of a list has the form {container}")
    _check_end(body, at)
    return [write_length(len(elements)), *elements]


def _stream(body: bytes, form: int) -> list[bytes]:
    """Return a stream of any form in the same or an older one.

    entries       number of nodes, then for each: its id, its listpack
    metadata      length, last id (2) · from 19 on: first id (2), highest deleted id (2), added
    groups        their number, then for each: name, last id (2) · from 19 on: entries read ·
                  number of pending entries, then for each: id, instant, times delivered ·
                  number of consumers, then for each: name, seen · in 21: active · number of
                  pending ids, then these
    """
    head = body[0]
    parts, at = _nodes(body)
    start, at = at, _lengths_end(body, at, 3)
    parts.append(body[start:at])
    if head >= _STREAM_7_0:
        start, at = at, _lengths_end(body, at, 5)
        if form >= _STREAM_7_0:
            parts.append(body[start:at])
    start = at
    groups, at = read_length(body, at)
    parts.append(body[start:at])
    for _ in range(groups):
        start, at = at, _lengths_end(body, string_end(body, at), 2)
        parts.append(body[start:at])
        if head >= _STREAM_7_0:
            start, at = at, _lengths_end(body, at, 1)
            if form >= _STREAM_7_0:
                parts.append(body[start:at])
        start = at
        pending, at = read_length(body, at)
        for _ in range(pending):
            at = _lengths_end(body, at + _ID_BYTES + _INSTANT_BYTES, 1)
        consumers, at = read_length(body, at)
        parts.append(body[start:at])
        for _ in range(consumers):
            start, at = at, string_end(body, at) + _INSTANT_BYTES
            parts.append(body[start:at])
            if head == _STREAM_7_2:
                start, at = at, at + _INSTANT_BYTES
                if form == _STREAM_7_2:
                    parts.append(body[start:at])
            start = at
            pending, at = read_length(body, at)
            at += pending * _ID_BYTES
            parts.append(body[start:at])
    _check_end(body, at)
    return parts


def _nodes(body: bytes) -> tuple[list[bytes], int]:
    """Return the nodes of a stream in parts, disputed sizes in their longer form, and their end."""
    parts: list[bytes] = []
    kept, (_, end) = 1, read_length(body, 1)
    for at in _listpacks_of_stream(body):
        end = string_end(body, at)
        if _is_disputed_at(body, at):
            pack, _ = read_string(body, at)
            parts += body[kept:at], write_string(with_longer_sizes(pack))
            kept = end
    parts.append(body[kept:end])
    return parts, end


def _is_disputed_at(data: bytes, at: int) -> bool:
    """Return True if the listpack at a position has an element of a disputed size."""
    if string_size(data, at) < SMALLEST_DISPUTED:
        return False
    pack, _ = read_string(data, at)
    return any(map(is_disputed, listpack(pack)))


def _listpack_alone(data: bytes) -> Iterator[int]:
    yield 1


def _listpacks_of_list(data: bytes) -> Iterator[int]:
    nodes, at = read_length(data, 1)
    for _ in range(nodes):
        container, at = read_length(data, at)
        if container == _PACKED_NODE:
            yield at
        at = string_end(data, at)


def _listpacks_of_stream(data: bytes) -> Iterator[int]:
    nodes, at = read_length(data, 1)
    for _ in range(nodes):
        at = string_end(data, at)
        yield at
        at = string_end(data, at)


def _lengths_end(body: bytes, at: int, count: int) -> int:
    for _ in range(count):
        _, at = read_length(body, at)
    return at


def _only_listpack(body: bytes) -> list[bytes]:
    """Return the elements of a value that is one listpack."""
    pack, end = read_string(body, 1)
    _check_end(body, end)
    return listpack(pack)


def _count_of(words: list[bytes], each: int) -> bytes:
    """Return the number of members, of so many words each, as RDB writes it."""
    count, rest = divmod(len(words), each)
    if rest:
        raise ValueError(f"{len(words)} words are not {each} for each member")
    return write_length(count)


def _check_end(body: bytes, at: int) -> None:
    if at != len(body):
        raise ValueError("the value does not end where the payload does")


# By the first byte of a payload: the forms to try, the one with most of the value first.
_FORMS: Final[Mapping[int, tuple[int, ...]]] = {
    20: (2,),
    16: (_HASH,),
    17: (5,),
    18: (1,),
    _STREAM_7_2: (_STREAM_7_2, _STREAM_7_0, _STREAM_6_2),
    _STREAM_7_0: (_STREAM_7_0, _STREAM_6_2),
    _STREAM_6_2: (_STREAM_6_2,),
}
# By the first byte of the result: the rest of its body, in parts.
_WRITERS: Final[Mapping[int, Callable[[bytes], list[bytes]]]] = {
    1: _list,
    2: _set,
    _HASH: _hash,
    5: _sorted_set,
    **{form: partial(_stream, form=form) for form in _STREAMS},
}
# By the first byte: the positions of the strings that are listpacks.
_LISTPACKS: Final[Mapping[int, Callable[[bytes], Iterator[int]]]] = {
    **dict.fromkeys((16, 17, 20), _listpack_alone),
    18: _listpacks_of_list,
    **dict.fromkeys(_STREAMS, _listpacks_of_stream),
}


# --- hashes whose fields expire ---------------------------------------------------------------


def _in_form_of(dialect: Dialect, fields: list[_Field]) -> Rewritten | None:
    """Return a hash in the form of the target's family, if it knows one, or without expiries."""
    expire, form = _expire(fields), _FORM_OF.get(dialect.family)
    if expire and form and dialect.knows(form):
        return Rewritten(_with_expiries(fields, form, lowest_version(form)), ())
    version = dialect.version_for(_HASH)
    if version is None:
        return None
    parts = (bytes((_HASH,)), write_length(len(fields)), *(strings for strings, _ in fields))
    return Rewritten(_sealed(parts, version), (FIELD_EXPIRIES,) if expire else ())


def _with_expiries(fields: list[_Field], form: int, version: int) -> bytes:
    return _sealed((bytes((form,)), *_FIELD_WRITERS[form](fields)), version)


def _expire(fields: list[_Field]) -> bool:
    return any(expires for _, expires in fields)


def _moved(fields: list[_Field], shift_ms: int) -> list[_Field]:
    if not shift_ms:
        return fields
    return [(strings, max(1, at + shift_ms) if at else 0) for strings, at in fields]


def _instant(number: int) -> int:
    """Return the expiry of a field that has one, at least 1: 0 stands for none."""
    if not 0 <= number <= _LATEST:
        raise ValueError(f"a field expires at {number}")
    return max(1, number)


def _read_valkey(body: bytes) -> list[_Field]:
    """Read: number of fields, then for each: field, value, expiry in 8 bytes (-1: none)."""
    count, at = read_length(body, 1)
    fields: list[_Field] = []
    for _ in range(count):
        end = string_end(body, string_end(body, at))
        expiry = read_bytes(body, end, end + _INSTANT_BYTES)
        expires = 0 if expiry == _NO_EXPIRY else _instant(*_INSTANT.unpack(expiry))
        fields.append((body[at:end], expires))
        at = end + _INSTANT_BYTES
    _check_end(body, at)
    return fields


def _read_table(body: bytes) -> list[_Field]:
    """Read: the first expiry in 8 bytes, number of fields, then for each: by how much it expires
    later, plus 1 (0: never), field, value."""
    (first,) = _INSTANT.unpack(read_bytes(body, 1, 1 + _INSTANT_BYTES))
    count, at = read_length(body, 1 + _INSTANT_BYTES)
    fields: list[_Field] = []
    for _ in range(count):
        later, at = read_length(body, at)
        end = string_end(body, string_end(body, at))
        fields.append((body[at:end], _instant(first + later - 1) if later else 0))
        at = end
    _check_end(body, at)
    return fields


def _read_listpack(body: bytes) -> list[_Field]:
    """Read: the first expiry in 8 bytes, then a listpack of field, value, expiry (0: none)."""
    pack, end = read_string(body, 1 + _INSTANT_BYTES)
    _check_end(body, end)
    words = listpack(pack)
    _count_of(words, 3)
    return [
        (write_string(field) + write_string(value), _instant(int(expiry)) if expiry != b"0" else 0)
        for field, value, expiry in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]


def _write_valkey(fields: list[_Field]) -> list[bytes]:
    parts = [write_length(len(fields))]
    for strings, expires in fields:
        parts += strings, _INSTANT.pack(min(expires, _LATEST)) if expires else _NO_EXPIRY
    return parts


def _write_table(fields: list[_Field]) -> list[bytes]:
    """Write the table of Redis; at least one field expires."""
    first = min(min(expires, _LATEST_OF_REDIS) for _, expires in fields if expires)
    parts = [_INSTANT.pack(first), write_length(len(fields))]
    for strings, expires in fields:
        later = min(expires, _LATEST_OF_REDIS) - first + 1 if expires else 0
        parts += write_length(later), strings
    return parts


_FIELDS: Final[Mapping[int, Callable[[bytes], list[_Field]]]] = {
    _OF_VALKEY: _read_valkey,
    _TABLE_OF_REDIS: _read_table,
    _LISTPACK_OF_REDIS: _read_listpack,
}
_FIELD_WRITERS: Final[Mapping[int, Callable[[list[_Field]], list[bytes]]]] = {
    _OF_VALKEY: _write_valkey,
    _TABLE_OF_REDIS: _write_table,
}
# The form in which each family takes fields that expire.
_FORM_OF: Final[Mapping[Family, int]] = {
    "valkey": _OF_VALKEY,
    "redis": _TABLE_OF_REDIS,
}
