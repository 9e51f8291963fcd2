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

The target chooses its own encoding when it loads the value. Strings are taken over as they are
written, compressed ones too, wherever they are not in a listpack.

All servers ignore bytes after a value, so that a wrong reading would pass unnoticed. Therefore the
source's checksum must be right, since the result has one of its own, and the body must end exactly
at its footer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
    listpack,
    read_bytes,
    read_length,
    read_string,
    string_end,
    write_length,
    write_string,
)

Loss = Literal["field expiries", "stream counters"]

FIELD_EXPIRIES: Final = "field expiries"
_STREAM_COUNTERS: Final = "stream counters"

_HASH: Final = 4
_OF_VALKEY: Final = 22
_TABLE_OF_REDIS: Final = 24
_LISTPACK_OF_REDIS: Final = 25
# Redis takes later field expiries neither from commands nor, from 2^48 on, from payloads.
_LATEST_OF_REDIS: Final = (1 << 46) - 1
_LATEST: Final = (1 << 63) - 1

_PLAIN_NODE: Final = 1
_PACKED_NODE: Final = 2
# Of streams: an id in a list of pending entries, and the instant of its delivery.
_ID_BYTES: Final = 16
_INSTANT_BYTES: Final = 8
_STREAM_6_2: Final = 15
_STREAM_7_0: Final = 19
_STREAM_7_2: Final = 21

_SCORE: Final = Struct("<d")
_INSTANT: Final = Struct("<q")
_NO_EXPIRY: Final = _INSTANT.pack(-1)


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

    There is no need if the target knows the type, one up to 21: then `restamped` suffices. Hashes
    with field expiries, which cannot be stamped anew, are always written in the target's form.

    Args:
        payload: as DUMP gave it.
        dialect: what the target loads.
        shift_ms: added to each field's expiry, in ms; one that would be 0 or less becomes 1.

    Raises:
        ValueError: the payload is damaged, or is not such a value.
    """
    head = payload[0] if payload else 0
    if head in _FORMS:
        return None if dialect.knows(head) else _in_older_form(payload, dialect)
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


def _in_older_form(payload: bytes, dialect: Dialect) -> Rewritten | None:
    for head in _FORMS[payload[0]]:
        version = dialect.version_for(head)
        if version is not None:
            parts = _WRITERS[head](_body_of(payload))
            loses: tuple[Loss, ...] = (_STREAM_COUNTERS,) if head == _STREAM_6_2 else ()
            return Rewritten(_sealed((bytes((head,)), *parts), version), loses)
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


def _stream_of_7_0(body: bytes) -> list[bytes]:
    return _stream(body, counters=True)


def _stream_of_6_2(body: bytes) -> list[bytes]:
    return _stream(body, counters=False)


def _stream(body: bytes, *, counters: bool) -> list[bytes]:
    """Return a stream of type 19 or 21 without active times, with or without its counters.

    entries       number of nodes, then for each: its id, its listpack
    metadata      length, last id (2) · counters: first id (2), highest deleted id (2), added
    groups        their number, then for each: name, last id (2) · counter: entries read ·
                  number of pending entries, then for each: id, instant, times delivered ·
                  number of consumers, then for each: name, seen · active in type 21 · number of
                  pending ids, then these
    """
    parts: list[bytes] = []
    nodes, at = read_length(body, 1)
    for _ in range(nodes):
        at = string_end(body, string_end(body, at))
    at = _lengths_end(body, at, 3)
    parts.append(body[1:at])
    start, at = at, _lengths_end(body, at, 5)
    if counters:
        parts.append(body[start:at])
    start = at
    groups, at = read_length(body, at)
    parts.append(body[start:at])
    for _ in range(groups):
        start, at = at, _lengths_end(body, string_end(body, at), 2)
        parts.append(body[start:at])
        start, at = at, _lengths_end(body, at, 1)
        if counters:
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
            if body[0] == _STREAM_7_2:
                at += _INSTANT_BYTES
            start = at
            pending, at = read_length(body, at)
            at += pending * _ID_BYTES
            parts.append(body[start:at])
    _check_end(body, at)
    return parts


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
    _STREAM_7_2: (_STREAM_7_0, _STREAM_6_2),
    _STREAM_7_0: (_STREAM_6_2,),
}
# By the first byte of the result: the rest of its body, in parts.
_WRITERS: Final[Mapping[int, Callable[[bytes], list[bytes]]]] = {
    1: _list,
    2: _set,
    _HASH: _hash,
    5: _sorted_set,
    _STREAM_6_2: _stream_of_6_2,
    _STREAM_7_0: _stream_of_7_0,
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
    """Return the expiry of a field that has one, which 0 would say that it has not."""
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
