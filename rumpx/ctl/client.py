"""The client's end of a run's socket: find the run, and send it one request.

Not promised: a reply to every request. A run replies between two turns of its loop; while a server
blocks it, the client reports after some seconds that nothing was done.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any, Final

from rumpx.ctl.server import Request, address_of, encode, receive_line
from rumpx.errors import RumpxError, TemporaryError, UsageError
from rumpx.ledger.catalog import Place, ledger_path, running_jobs, state_folder
from rumpx.ledger.lock import is_held
from rumpx.ledger.paths import ctl_path

# Longer than the run takes to reply that it is busy.
_ANSWER_SECONDS: Final = 10.0
_MOST_ANSWER_BYTES: Final = 2**20


def running_job(place: Place) -> Path:
    """Return the ledger of a running job: the one of that name, or the only one.

    Raises:
        TemporaryError: the job is not running, or none is.
        UsageError: no such job, several run and none is named, or it belongs to another user.
    """
    folder = state_folder(place.folder)
    if place.name is None:
        return _only_running(folder)
    path = ledger_path(folder, place.name)
    try:
        known = path.exists()
    except PermissionError:
        raise UsageError(f"The folder {folder} belongs to another user.") from None
    if not known:
        raise UsageError(f"There is no job {place.name} ({path}). rumpx jobs lists all.")
    if not is_held(path):
        raise TemporaryError(f"The job {place.name} is not running; rumpx jobs lists all.")
    return path


def _only_running(folder: Path) -> Path:
    running = running_jobs(folder)
    if len(running) == 1:
        return running[0]
    if not running:
        raise TemporaryError(f"No job in {folder} is running; rumpx jobs lists all.")
    names = ", ".join(path.stem for path in running[:5])
    raise UsageError(f"Several jobs are running: {names}. Name one: rumpx ctl NAME status.")


def ask(ledger: Path, request: Request, seconds: float = _ANSWER_SECONDS) -> dict[str, Any]:
    """Send a run a request and return its reply without "ok".

    Args:
        ledger: of a running job.
        seconds: timeout for the reply.

    Raises:
        UsageError: the run refuses the request, or belongs to another user.
        TemporaryError: the run cannot be reached, or does not reply in time.
        RumpxError: an unexpected error in the run.
    """
    name = ledger.stem
    try:
        line = _exchange(ctl_path(ledger), encode(request), seconds)
    except PermissionError:
        raise UsageError(f"The job {name} belongs to another user, who alone may use it.") from None
    except TimeoutError:
        raise TemporaryError(f"The job {name} did not answer within {seconds:g} s.") from None
    except (OSError, UsageError):
        raise TemporaryError(
            f"The job {name} is running but cannot be reached: it may be starting or ending, or it "
            "has warned at its start that it has no socket. Try again."
        ) from None
    return _checked(line, name)


def _exchange(path: Path, request: bytes, seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        with address_of(path) as address:
            connection.connect(address)
        with contextlib.suppress(BrokenPipeError):  # refused unread; the reply has the reason
            connection.sendall(request)
        return receive_line(connection, seconds, _MOST_ANSWER_BYTES)


def _checked(line: bytes, name: str) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise RumpxError(f"The job {name} sent an invalid reply; it runs another rumpx version.")
    if answer.pop("ok"):
        return answer
    kinds: dict[Any, type[RumpxError]] = {2: UsageError, 5: TemporaryError}
    raise kinds.get(answer.get("exit_code"), RumpxError)(str(answer.get("error", "Refused.")))
