"""Files written in one piece, and standard output.

A reader sees the old file or the whole new one, never a part.

The text is written to a temporary file in the same folder, which is then renamed over the old one;
a symlink stays a symlink. A new file is for its owner alone, since rumpx's output names
keys; an existing file keeps its permissions. A destination that is not a regular file (a pipe,
/dev/stderr) is written to and not replaced, as is "-", standard output. A pipe that no process
reads, or keeps reading, is an error; rumpx does not wait for it. `check_writable` tests beforehand
whether the write will be possible.

Not promised: that the disk is not full by then. `writable_by_others` checks owners and permission
bits, not access control lists.
"""

from __future__ import annotations

import errno
import grp
import io
import os
import pwd
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from rumpx.errors import RumpxError, UsageError

STDOUT: Final = "-"
_PIPE_SECONDS: Final = 10.0


def check_writable(destination: str, flag: str) -> None:
    """Check that `write_text` can write to a destination.

    Args:
        flag: the option that names it, as in "--summary".

    Raises:
        UsageError: it cannot.
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
    """Write a file, replacing its old content.

    Args:
        flag: the option that names it, as in "--summary".

    Raises:
        UsageError: it cannot be written.
        RumpxError: standard output cannot be written.
    """
    try:
        if destination == STDOUT:
            print_text(text, end="")
        elif _replaceable(destination):
            with replacing(_real(destination)) as file:
                file.write(text)
        else:
            _write_into(destination, text.encode())
    except OSError as error:
        raise unwritable(destination, flag, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file that replaces the one at a path if the context ends without an error.

    Raises:
        OSError: it cannot be written.
    """
    temporary = _beside(path)
    try:
        with open(temporary, "x", encoding="utf-8", opener=private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # keep the old file's permissions
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_anew(path: Path) -> TextIO:
    """Open a new, empty UTF-8 file in a path's place, visible while it grows. An existing regular
    file or symlink is replaced, not written to; a device or pipe is written to.

    Raises:
        OSError: it cannot be written.
    """
    if not _replaceable(str(path)):
        return open(path, "w", encoding="utf-8", opener=_without_waiting)
    temporary = _beside(path)
    file = open(temporary, "x", encoding="utf-8", opener=private)  # noqa: SIM115 - the caller's
    try:
        temporary.replace(path)
    except OSError:
        file.close()
        temporary.unlink(missing_ok=True)
        raise
    return file


def private(path: str, flags: int) -> int:
    """Open a file for `open`; if it is created, only its owner may read it."""
    return os.open(path, flags, 0o600)


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe or device for `open`; a pipe that no process reads is an error at once."""
    return os.open(path, (flags | os.O_NONBLOCK) & ~(os.O_CREAT | os.O_TRUNC))


def _write_into(destination: str, data: bytes) -> None:
    """Write to a pipe or device, which must take some bytes within each `_PIPE_SECONDS`."""
    descriptor = _without_waiting(destination, os.O_WRONLY)
    try:
        while data:
            if not select.select([], [descriptor], [], _PIPE_SECONDS)[1]:
                raise TimeoutError(errno.ETIMEDOUT, "the process that reads it has stopped reading")
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def writable_by_others(path: Path) -> str:
    """Return which other users may change a file or folder, for a message; "" if none but root.

    The user's own group, without any other member, does not count as others.

    Raises:
        OSError: it does not exist, say.
    """
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to {_user_name(status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return "every user may write to it"
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid):
        return "its group may write to it"
    return ""


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _is_own_group(number: int) -> bool:
    try:
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(number)
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def print_text(text: str, end: str = "\n") -> None:
    """Print on standard output; raises as `standard_output`."""
    with standard_output():
        print(text, end=end)


@contextmanager
def standard_output() -> Iterator[None]:
    """Flush the text printed in this context at its end; escape characters that its encoding lacks.

    Raises:
        RumpxError: it cannot be written.
        BrokenPipeError: no process reads it.
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
    """Discard unwritten output, which would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replaceable(destination: str) -> bool:
    """Return True for a regular file, or a free path: a device must never be renamed over."""
    path = Path(destination)
    return path.is_file() or not path.exists()


def _real(destination: str) -> Path:
    """Return the real file, so that a symlink to it stays a symlink."""
    return Path(os.path.realpath(destination))


def _beside(path: Path) -> Path:
    """Return an unused name in the same folder; a killed process may have left one with our pid."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")


def unwritable(destination: str, flag: str, error: OSError) -> UsageError:
    """Return the exception for a file that cannot be written."""
    if error.errno == errno.ENXIO:
        return UsageError(f"{flag}: {destination} cannot be written: no process reads it.")
    return UsageError(f"{flag}: {destination} cannot be written: {error.strerror or error}.")
