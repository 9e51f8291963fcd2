"""Files written in one piece: a reader sees the old one or the whole new one, never a part.

The text goes into a file beside it, which is then renamed over it; a symlink stays one. What is no
regular file (a pipe, /dev/stderr) is written to and not replaced, nor is "-", standard output.
`check_writable` finds out beforehand whether that will be possible.

Not promised: that the disk is not full by then.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Final

from rumpx.errors import UsageError

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
    """
    try:
        if destination == STDOUT:
            sys.stdout.write(text)
            sys.stdout.flush()
        elif _replaceable(destination):
            _replace(_real(destination), text)
        else:
            Path(destination).write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(destination, flag, error) from None


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
