"""A job is held by a lock (`flock`) on a file beside its ledger. The system releases it when the
process ends, however it ends.

Not promised: locks on a network file system.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from rumpx.errors import JobHeld
from rumpx.ledger.paths import lock_path

# `is_held` takes the lock for a moment.
_CHECK_SECONDS: Final = 0.5


def hold(path: Path) -> int:
    """Lock the job of a ledger; returns the descriptor, whose closing releases it.

    Raises:
        JobHeld: another process has it.
    """
    lock = os.open(lock_path(path), os.O_CREAT | os.O_RDWR, 0o600)
    until = time.monotonic() + _CHECK_SECONDS
    while not _locked(lock, fcntl.LOCK_EX):
        if time.monotonic() > until:
            os.close(lock)
            raise JobHeld(
                f"Another process works on the job {path.stem} now. Wait for its end, or stop it."
            )
        time.sleep(_CHECK_SECONDS / 100)  # it may be another process's `is_held`
    return lock


def is_held(path: Path) -> bool:
    """Return True if a live process works on the job."""
    try:
        lock = os.open(lock_path(path), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:
        return False
    try:
        return not _locked(lock, fcntl.LOCK_SH)  # shared: several processes may check at once
    finally:
        os.close(lock)


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
