"""The files of a job: its ledger `NAME.ledger`, and others of that name beside it."""

from __future__ import annotations

from pathlib import Path


def lock_path(path: Path) -> Path:
    """Return the file whose lock holds the job; see `lock`."""
    return path.with_suffix(".lock")


def unfinished_path(path: Path) -> Path:
    """Return the file of a ledger until its first state is complete."""
    return path.with_suffix(".new")


def dead_letter_path(path: Path) -> Path:
    """Return the file that lists the failed keys."""
    return path.with_suffix(".failed.jsonl")


def losses_path(path: Path) -> Path:
    """Return the file that lists the keys copied with a loss."""
    return path.with_suffix(".losses.jsonl")


def ctl_path(path: Path) -> Path:
    """Return the control socket of the running job."""
    return path.with_suffix(".ctl")


def remove(path: Path) -> None:
    """Delete all files of a job."""
    sqlite = Path(f"{path}-wal"), Path(f"{path}-shm")
    lists = dead_letter_path(path), losses_path(path)
    others = unfinished_path(path), ctl_path(path), lock_path(path)
    for file in (path, *sqlite, *lists, *others):
        file.unlink(missing_ok=True)
