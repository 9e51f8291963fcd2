"""Check that replies have the shape of their command, for the commands that read keys and values.

A comparison takes replies apart by the shape that their command has. This module checks that shape
once, by the command's name, so that a server or middlebox that answers in another shape ends the
comparison with a message that names it.

Not promised: that a value of the right shape is the right one. Commands that are not listed are
compared as they are, without a check.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from rumpx.servers.info import milliseconds
from rumpx.servers.rdb import is_payload

_ID: Final = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_CURSOR: Final = re.compile(rb"[0-9]{1,20}")
_BYTES: Final = {bytes}


def fits(command: str, reply: object) -> bool:
    """Return True if a reply, which is not an error, has its command's shape.

    Args:
        command: its name, with that of the subcommand if it has one.
    """
    shape = _SHAPES.get(command)
    return shape is None or shape(reply)


def _is_text(reply: Any) -> bool:
    return isinstance(reply, bytes)


def _is_text_or_none(reply: Any) -> bool:
    return reply is None or isinstance(reply, bytes)


def _is_payload_or_none(reply: Any) -> bool:
    return reply is None or is_payload(reply)


def _is_number(reply: Any) -> bool:
    return isinstance(reply, int)


def _are_texts(reply: Any) -> bool:
    return isinstance(reply, list) and set(map(type, reply)) <= _BYTES


def _are_pairs(reply: Any) -> bool:
    return _are_texts(reply) and len(reply) % 2 == 0


def _are_scored(reply: Any) -> bool:
    return _are_pairs(reply) and all(map(_is_float, reply[1::2]))


def _is_float(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _are_values(reply: Any) -> bool:
    return isinstance(reply, list) and all(map(_is_text_or_none, reply))


def _are_numbers(reply: Any) -> bool:
    return reply is None or (isinstance(reply, list) and set(map(type, reply)) <= {int})


def _is_clock(reply: Any) -> bool:
    try:
        milliseconds(reply)
    except (ValueError, TypeError):
        return False
    return True


def _is_found(reply: Any) -> bool:
    """A cursor, and members."""
    return (
        isinstance(reply, list)
        and len(reply) == 2
        and _is_text(reply[0])
        and _CURSOR.fullmatch(reply[0]) is not None
        and int(reply[0]) < 2**64
        and _are_texts(reply[1])
    )


def _are_found_pairs(reply: Any) -> bool:
    return _is_found(reply) and len(reply[1]) % 2 == 0


def _are_entries(reply: Any) -> bool:
    """A stream's entries: each an id, and fields with values."""
    return isinstance(reply, list) and all(
        isinstance(entry, list)
        and len(entry) == 2
        and _is_id(entry[0])
        and (entry[1] is None or _are_pairs(entry[1]))
        for entry in reply
    )


def _is_id(text: Any) -> bool:
    return isinstance(text, bytes) and _ID.fullmatch(text) is not None


def _are_pending(reply: Any) -> bool:
    return isinstance(reply, list) and all(
        isinstance(entry, list)
        and len(entry) == 4
        and _is_id(entry[0])
        and _is_text(entry[1])
        and isinstance(entry[2], int)
        and isinstance(entry[3], int)
        for entry in reply
    )


def _is_named(reply: Any) -> bool:
    """Names, each followed by its value."""
    return isinstance(reply, list) and len(reply) % 2 == 0 and all(map(_is_text, reply[::2]))


def _have(*names: bytes) -> Callable[[Any], bool]:
    """A list of such lists, each with certain names."""

    def shape(reply: Any) -> bool:
        return isinstance(reply, list) and all(
            _is_named(each) and {*names} <= {*each[::2]} for each in reply
        )

    return shape


def _are_vectors(reply: Any) -> bool:
    """Quantisation, bytes, and numbers."""
    return reply is None or (
        isinstance(reply, list) and len(reply) > 2 and all(map(_is_float, reply[2:]))
    )


def _is_vector_set(reply: Any) -> bool:
    wanted = {b"size", b"quant-type", b"vector-dim", b"projection-input-dim", b"hnsw-m"}
    if not reply:
        return reply is None or reply == []
    return _is_named(reply) and wanted <= {*reply[::2]} and _is_number(_named(reply)[b"size"])


def _named(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


_SHAPES: Final[dict[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("TYPE", "GETRANGE"), _is_text),
    "DUMP": _is_payload_or_none,
    "GET": _is_text_or_none,
    **dict.fromkeys(("STRLEN", "LLEN", "SCARD", "ZCARD", "HLEN", "XLEN"), _is_number),
    **dict.fromkeys(("EXISTS", "UNLINK", "SISMEMBER", "PEXPIRETIME", "PTTL"), _is_number),
    **dict.fromkeys(("LRANGE", "SMEMBERS"), _are_texts),
    **dict.fromkeys(("HMGET", "VRANDMEMBER"), _are_values),
    "HGETALL": _are_pairs,
    "HPEXPIRETIME": _are_numbers,
    "HSCAN": _are_found_pairs,
    **dict.fromkeys(("SCAN", "SSCAN"), _is_found),
    "TIME": _is_clock,
    "VEMB": _are_vectors,
    "VINFO": _is_vector_set,
    "XINFO CONSUMERS": _have(b"name", b"pending"),
    "XINFO GROUPS": _have(b"name"),
    "XINFO STREAM": _is_named,
    "XPENDING": _are_pending,
    "XRANGE": _are_entries,
    "ZRANGE": _are_scored,
}
