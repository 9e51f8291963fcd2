"""Limits by their names and values as people write them: `max-keys-per-sec=5000`, `off`.

The command line, a resumed job and `rumpx ctl` share this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from rumpx.errors import UsageError
from rumpx.model.job import Limits
from rumpx.model.options import FIELDS

# What `rumpx ctl` can set while a run is under way: the limits that need no clock.
NAMED: Final = {
    flag.name: flag
    for field, flag in FIELDS.items()
    if field.startswith("limits.") and flag.off and field != "limits.max_duration"
}


def limits_with(limits: Limits, changes: Iterable[tuple[str, str]]) -> Limits:
    """Return the limits with some changes.

    Args:
        changes: (name, value) pairs, as in ("max-keys-per-sec", "5000"); "off" lifts a limit.

    Raises:
        UsageError: there is no such limit, or the value is invalid.
    """
    changed: dict[str, Any] = {}
    for name, text in changes:
        flag = NAMED.get(name)
        if flag is None:
            raise UsageError(f"{name[:40]!r} is not a limit; known are {', '.join(NAMED)}.")
        changed[name.replace("-", "_")] = flag.read([text])
    return replace(limits, **changed)


def in_words(limits: Limits) -> dict[str, str]:
    """Return the limits in force by their names on the command line, as written there."""
    words = {}
    for name, flag in NAMED.items():
        value = getattr(limits, name.replace("-", "_"))
        if value is not None:
            (words[name],) = flag.kind.write(value)
    if limits.schedule:
        words["schedule"] = limits.schedule
    return words
