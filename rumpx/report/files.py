"""Files written in one piece, and standard output.

A reader sees the old file or the whole new one, never a part.

The text goes into a file beside it, which is then renamed over it; a symlink stays one. What is no
regular file (a pipe, /dev/stderr) is written to and not replaced, nor is "-", standard output.
`check_writable` finds out beforehand whether that will be possible.

Not promised: that the disk is not full by then.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rumpx.errors import RumpxError, UsageError

STDOUT: Final = "-"


def check_writable(destination: str, flag: str) -> None:
    """Find out whether `write_text` could write there.

    Args:
        flag: the option that names it, as in "--summary".

    Raises:
        UsageError: it could not.
    """
    if destination == STDOUT:
        return
    try:
        if _replaceable(destination):
            temporary = _beside(_real(destination))
            temporary.touch(exist_ok=False)
            temporary.unlink()
        elif Path(destination).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        elif not os.access(destination, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(destination, flag, error) from None


def write_text(destination: str, text: str, flag: str) -> None:
    """Write a file, whose old content is replaced.

    Args:
        flag: the option that names it, as in "--summary".

    Raises:
        UsageError: it cannot be written.
        RumpxError: standard output cannot be.
    """
    try:
        if destination == STDOUT:
            print_text(text, end="")
        elif _replaceable(destination):
            _replace(_real(destination), text)
        else:
            Path(destination).write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(destination, flag, error) from None


def print_text(text: str, end: str = "\n") -> None:
    """Print on standard output; raises as `standard_output` does."""
    with standard_output():
        print(text, end=end)


@contextmanager
def standard_output() -> Iterator[None]:
    """What is printed meanwhile is written when this ends; characters that its encoding does not
    have, escaped.

    Raises:
        RumpxError: it cannot be.
        BrokenPipeError: nobody reads it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        raise
    except OSError as error:
        _silence()
        raise RumpxError(f"Standard output cannot be written: {error.strerror}.") from None


def _silence() -> None:
    """What is left to be written would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replaceable(destination: str) -> bool:
    """Whether a regular file is there, or nothing: a device must never be renamed over."""
    path = Path(destination)
    return path.is_file() or not path.exists()


def _real(destination: str) -> Path:
    """The file that is meant, so that a symlink to it stays a symlink."""
    return Path(os.path.realpath(destination))


def _beside(path: Path) -> Path:
    """A name that none has: one that was killed here may have left its own, under our pid."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


def _replace(path: Path, text: str) -> None:
    temporary = _beside(path)
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # whoever may not read the old one may not read the new one either
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unwritable(destination: str, flag: str, error: OSError) -> UsageError:
    """What to tell the user."""
    return UsageError(f"{flag}: {destination} cannot be written: {error.strerror or error}.")
