"""The kinds of values of options: how each is read from the command line, and written for reports.

Reading raises UsageError, which names the option, if the words are invalid.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rumpx.errors import UsageError, printable
from rumpx.units import (
    parse_number,
    parse_percent,
    parse_seconds,
    parse_size,
    write_number,
    write_percent,
    write_seconds,
    write_size,
)

# The most bytes of a value that cannot be read in pieces and is read whole.
WHOLE_BYTES: Final = 64 * 2**20
KEY_TYPES: Final = ("string", "list", "set", "zset", "hash", "stream")


class Kind(NamedTuple):
    """A kind of values.

    Attributes:
        read: words and the flag's name → the value. A repeatable option has several words.
        write: the value → words; none if it is not set.
        repeats: the option may be given several times.
        takes_value: False for a switch.
    """

    read: Callable[[list[str], str], Any]
    write: Callable[[Any], list[str]]
    repeats: bool = False
    takes_value: bool = True


def _single(read: Callable[[str, str], Any], write: Callable[[Any], str]) -> Kind:
    return Kind(
        lambda words, flag: read(words[-1], flag),
        lambda value: [] if value is None else [write(value)],
    )


def _read_whole(text: str, flag: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,40}", text):
        raise UsageError(f"{flag}: {text[:40]!r} is not a whole number.")
    return int(text)


def _read_databases(words: list[str], flag: str) -> tuple[int, ...]:
    return tuple(_read_database(number, flag) for word in words for number in word.split(","))


def _read_database(text: str, flag: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise UsageError(f"{flag}: {text[:40]!r} is not a database number.")
    return int(text)


def _read_database_map(words: list[str], flag: str) -> tuple[tuple[int, int], ...]:
    pairs = [word.partition(":") for word in words]
    if not all(colon for _, colon, _ in pairs):
        raise UsageError(f"{flag} is written FROM:TO, as in 3:0.")
    return tuple((_read_database(a, flag), _read_database(b, flag)) for a, _, b in pairs)


def _read_types(text: str, flag: str) -> tuple[str, ...]:
    """Parse names as TYPE returns them; those of modules' types have nine characters."""
    types = tuple(dict.fromkeys(text.split(",")))
    for name in types:
        if name not in KEY_TYPES and len(name) != 9:
            raise UsageError(
                f"{flag}: {name!r} is not a type of value; known are {', '.join(KEY_TYPES)} and "
                "the nine-character names of module types."
            )
    return types


def _read_prefixes(text: str, flag: str) -> tuple[bytes, ...]:
    prefixes = tuple(os.fsencode(prefix) for prefix in text.split(","))
    if not all(prefixes):
        raise UsageError(f"{flag}: an empty prefix covers every key; leave it out.")
    return prefixes


def whole_bytes(policy: str, flag: str) -> int:
    """Return the most bytes of a value that a policy of `--hot-keys` has read whole.

    Raises:
        UsageError: neither `whole`, `whole=SIZE` nor `fail`.
    """
    name, equals, size = policy.partition("=")
    if name == "whole":
        return parse_size(size, flag) if equals else WHOLE_BYTES
    if policy == "fail":
        return 0
    raise UsageError(
        f"{flag}: {policy[:40]!r} is no policy; write whole, whole=SIZE (as in whole=256MiB), or "
        "fail."
    )


def _read_hot_keys(text: str, flag: str) -> str:
    whole_bytes(text, flag)
    return text


def _joined(write: Callable[[Any], str]) -> Callable[[Any], list[str]]:
    return lambda values: [",".join(map(write, values))] if values else []


def _name(name: bytes) -> str:
    return printable(name, limit=200)


TEXT: Final = _single(lambda text, flag: text, str)
HOT_KEYS: Final = _single(_read_hot_keys, str)
WHOLE: Final = _single(_read_whole, str)
SIZE: Final = _single(parse_size, write_size)
RATE: Final = _single(lambda text, flag: float(parse_size(text, flag)), write_size)
TIME: Final = _single(parse_seconds, write_seconds)
NUMBER: Final = _single(parse_number, write_number)
PERCENT: Final = _single(parse_percent, write_percent)
SWITCH: Final = Kind(
    lambda words, flag: True, lambda on: ["yes"] if on else [], takes_value=False
)
# A switch that sets its field to False.
OFF_SWITCH: Final = Kind(
    lambda words, flag: False, lambda on: [] if on else ["yes"], takes_value=False
)
DATABASES: Final = Kind(_read_databases, _joined(str), repeats=True)
DATABASE_MAP: Final = Kind(
    _read_database_map, lambda pairs: [f"{a}:{b}" for a, b in pairs], repeats=True
)
GLOBS: Final = Kind(
    lambda words, flag: tuple(map(os.fsencode, words)),
    lambda globs: list(map(_name, globs)),
    repeats=True,
)
TYPES: Final = Kind(lambda words, flag: _read_types(words[-1], flag), _joined(str))
PREFIXES: Final = Kind(lambda words, flag: _read_prefixes(words[-1], flag), _joined(_name))
REPEATED: Final = Kind(lambda words, flag: list(words), list, repeats=True)
