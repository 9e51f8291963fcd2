"""All text for users passes through here, on its way to a terminal, a log or a page.

Names, addresses, versions and messages come from servers, users and files, and may contain
anything. Two functions make them safe for display:

- `say` writes lines to a stream. An argument is one line, whatever it contains.
- `legible` takes a document (a Snapshot, a Summary, a Record, …) that is about to be drawn, and
  escapes each of its texts before any width is computed.

`unbuffered` makes a stream that keeps no text back.

Output for programs is JSON, which is ASCII here and keeps each text as it was.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from functools import cache
from os import fsencode
from typing import Any, BinaryIO, Final, TextIO, TypeVar, cast

from rumpx.errors import plain, printable

LONGEST_TEXT: Final = 1000
# Fields of these types hold no text; most fields of documents are of these types.
_TEXTLESS: Final = {"int", "float", "bool", "bytes", "None"}

Document = TypeVar("Document")


def say(*lines: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Write lines for users, in one piece.

    Args:
        stream: standard error, unless another is given.
        end: the end of each line.

    Raises:
        OSError: the stream cannot be written.
    """
    stream = stream or sys.stderr
    stream.write("".join(f"{plain(line)}{end}" for line in lines))
    stream.flush()


def unbuffered(stream: TextIO) -> TextIO:
    """Return a stream to the same file that keeps no text back: what the file does not accept is
    lost, with an OSError."""
    raw = cast("BinaryIO", _WholeWrites(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=True)


class _WholeWrites(io.FileIO):
    """A file that goes on after a signal interrupted a write to a full pipe."""

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest:
            written = super().write(rest)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            rest = rest[written:]
        return len(data)


def one_line(text: str) -> str:
    """Return a text without line ends and terminal controls, and limited in length."""
    if text.isprintable() and len(text) <= LONGEST_TEXT:
        return text
    return printable(text.encode("utf-8", "backslashreplace"), limit=LONGEST_TEXT)


def legible(document: Document) -> Document:
    """Return a document with `one_line` applied to each text; bytes stay as they are."""
    import dataclasses

    made: Any = document
    match document:
        case str():
            made = one_line(document)
        case dict():
            made = {legible(key): legible(value) for key, value in document.items()}
        case tuple() | list():
            made = type(document)(map(legible, document))
        case _ if dataclasses.is_dataclass(document):
            names = _fields_with_texts(document.__class__)
            told = {name: legible(getattr(document, name)) for name in names}
            made = dataclasses.replace(made, **told) if told else document
    return cast("Document", made)


@cache
def _fields_with_texts(kind: Any) -> tuple[str, ...]:
    import dataclasses
    import re

    fields = dataclasses.fields(kind)
    return tuple(f.name for f in fields if not set(re.findall(r"\w+", str(f.type))) <= _TEXTLESS)


def shell_words(*words: str) -> str:
    """Quote words for a shell; unprintable characters become bash's $'…'."""
    import shlex

    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    shown = (c if c.isprintable() and c not in "'\\" else _as_bytes(c) for c in word)
    return f"$'{''.join(shown)}'"


def _as_bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in fsencode(character))


def server(uri: str, version: str) -> str:
    """Return an endpoint and its server's version."""
    return f"{uri} ({version})" if version else uri
