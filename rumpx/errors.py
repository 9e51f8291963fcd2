"""The exceptions, and the exit code with which each ends a run.

    RumpxError                    1   unexpected error
    ├── UsageError                2   a flag, a URI or a file that is invalid
    ├── TooManyFailures           3   stopped, since too many keys failed
    ├── TemporaryError            5   trouble that may pass: resume later
    │   ├── ConnectionLost        5   one connection broke, or was silent for too long
    │   ├── NoReplica             5   no replica can be read now, and no primary may be
    │   └── TargetFull            5   the target answered OOM: no more is written to it
    ├── MachineLimit              5   this machine has no more open files, or ports
    ├── SourceUnusable            6   the source cannot be copied from as it is
    ├── TargetUnusable            7   the target cannot be copied to as it is
    ├── PayloadIncompatible       8   the target cannot read this source's DUMP payloads
    ├── TimeOver                 10   the run's time limit is reached
    ├── JobHeld                  11   another run holds this job
    └── Interrupted     129/130/143   stopped by SIGHUP, SIGINT or SIGTERM

Exit 0 means that everything in scope was copied, exit 3 that the run is complete but some keys
could not be copied, exit 4 that a comparison found differences; these come with a Summary, not
with an exception.

A message is one sentence or two: what happened, to which key or server, and what to do.
It never holds a value or a password; key names are bytes and go through `printable`.
"""

from __future__ import annotations

import errno
import re
import resource
from typing import Any, Final, Literal, Protocol

Side = Literal["source", "target"]
SIDES: Final[tuple[Side, Side]] = ("source", "target")
# Why a connection was given up: no answer, one that does not end, one that is too large for this
# machine, one that is invalid.
Cause = Literal["", "silent", "dripping", "too large", "malformed"]

# To the last @ of the line: a password may hold anything, spaces and further URIs included.
_USERINFO: Final = re.compile(r"://[^\n]*@")

UNEXPECTED: Final = "An unexpected error ended the run"

EXIT_OK: Final = 0
EXIT_SOME_KEYS_FAILED: Final = 3
EXIT_DIFFERENCES: Final = 4


class Result(Protocol):
    """The work done before an error: a Summary or a Verification (`rumpx.model.results`)."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data, as `--summary` writes it."""


class RumpxError(Exception):
    """Base of every error that rumpx raises on purpose. Its message is escaped for terminals.

    Attributes:
        exit_code: the process's.
        summary: the keys copied before the error, if the copy had started.
        resume: the command that resumes this run, if it can be resumed.
    """

    exit_code = 1
    summary: Result | None = None
    resume: str | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(plain(message))


class UsageError(RumpxError):
    """A flag, URI, pattern or file that is invalid; nothing was contacted or written.

    The user's words may be quoted; credentials in a URI are removed.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(_USERINFO.sub("://", message))


class TooManyFailures(RumpxError):
    """More keys failed than allowed, or all of them: the run is not complete."""

    exit_code = 3


class TemporaryError(RumpxError):
    """Trouble that outlasted `--retry-for`; the same command may succeed later."""

    exit_code = 5


class ConnectionLost(TemporaryError):
    """One connection is gone; its keys are retried on a new one.

    Args:
        message: for the user.
        cause: why it was given up; "" if it broke.
        words: the server's last error reply on it; "" if there was none.
        unreached: it was never established.
        side: the side it led to, if known.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: Cause = "",
        words: str = "",
        unreached: bool = False,
        side: Side | None = None,
    ) -> None:
        super().__init__(message)
        self.side = side
        self.cause = cause
        self.words = words
        self.unreached = unreached

    @property
    def silent(self) -> bool:
        """True if no answer came in time."""
        return self.cause == "silent"


class NoReplica(TemporaryError):
    """A source node has no replica that can be read now; at the start that is SourceUnusable."""


class TargetFull(TemporaryError):
    """The target refused a write with OOM."""


class MachineLimit(RumpxError):
    """This machine, not a server, is at a limit: a retry would fail too, only later."""

    exit_code = 5


def machine_limit(error: BaseException) -> MachineLimit | None:
    """Return the limit of this machine behind an error, if that is the cause."""
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if number == errno.EMFILE:
            allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return MachineLimit(
                f"This machine allows rumpx only {allowed:,} open files a process, and they are "
                "used up. Raise the limit (ulimit -n), or have fewer workers on it."
            )
        if number == errno.ENFILE:
            return MachineLimit(
                "This machine has no more open files for any process (fs.file-max). Raise that, or "
                "end processes that hold many."
            )
        if number == errno.EADDRNOTAVAIL:
            return MachineLimit(
                "This machine has no local port or address left for one more connection. Wait a "
                "minute, or widen net.ipv4.ip_local_port_range."
            )
        cause = cause.__cause__ or cause.__context__
    return None


class SourceUnusable(RumpxError):
    """The source is absent, not a Redis, refuses us, or must not be read as asked."""

    exit_code = 6


class TargetUnusable(RumpxError):
    """The target is absent, refuses us, or must not be written to as asked."""

    exit_code = 7


class PayloadIncompatible(RumpxError):
    """The target's version cannot read the payloads of the source's version."""

    exit_code = 8


class TimeOver(RumpxError):
    """The run's time limit is reached; the rest is left for later."""

    exit_code = 10


class JobHeld(RumpxError):
    """Another live process works on the same job."""

    exit_code = 11


class Interrupted(RumpxError):
    """The run was stopped by a signal; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def unusable(side: Side) -> type[RumpxError]:
    """Return the error class for a permanent fault of one side."""
    return SourceUnusable if side == "source" else TargetUnusable


def plain(text: str) -> str:
    """Return external text with each character escaped that a terminal would obey, or not show.

    These are all characters that Unicode's categories call not printable: C0 and C1 controls, ESC
    among them, marks of direction, characters without width, line and paragraph separators.

    >>> plain("ERR \\x1b[2J")
    'ERR \\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(key: bytes, limit: int = 60) -> str:
    """Return a key name for messages: control and non-UTF-8 bytes escaped, at most `limit`
    characters.

    >>> printable(b"user:1\\r\\n")
    'user:1\\\\r\\\\n'
    """
    escaped = plain(key[: 4 * limit].decode("utf-8", "backslashreplace"))
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"
