"""Labelled entries for the ends of runs, and texts for counts and keys."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from rumpx import units
from rumpx.errors import printable
from rumpx.model.results import KeyFailure

KEYS_SHOWN: Final = 3


class Entry(NamedTuple):
    """One line of the table: label, text, style."""

    label: str
    text: str
    style: str = ""


def moment(at: float) -> str:
    """Format local time: `2025-03-04 12:31:05 +01:00`."""
    local = datetime.fromtimestamp(at).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S} {local.isoformat()[-6:]}"


def failed_keys(failures: tuple[KeyFailure, ...], reason: str, count: int) -> str:
    """Format `12: user:1, user:2, db3 user:3, …`; database 0 is not named."""
    shown = [failure for failure in failures if failure.reason == reason][:KEYS_SHOWN]
    names = [
        (f"db{failure.db} " if failure.db else "") + printable(failure.key) for failure in shown
    ]
    if count > len(shown):
        names.append("...")
    return f"{units.keys(count)}: {', '.join(names)}"
