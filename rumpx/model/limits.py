"""Limits by their names and values as people write them: `max-keys-per-sec=5000`, `off`.

One table serves the command line's flags, a job that goes on with other limits, and `rumpx ctl`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from rumpx.errors import UsageError
from rumpx.model.job import Limits
from rumpx.units import parse_seconds, parse_size


def parse_number(text: str, flag: str) -> float:
    """`5000`, `5k`, `1.5m` -> a number; k and m are thousands and millions.

    Raises:
        UsageError: not a number.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([km]?)", text.strip().lower())
    if not match:
        raise UsageError(f"{flag}: {text[:40]!r} is not a number; write it as in 5000 or 20k.")
    return float(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2]]


def parse_percent(text: str, flag: str) -> float:
    """`60%`, or `60` -> 0.6.

    Raises:
        UsageError: not a share.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%?", text.strip())
    if not match:
        raise UsageError(f"{flag}: {text[:40]!r} is not a share; write it as in 60%.")
    return float(match[1]) / 100


def _parse_rate(text: str, flag: str) -> float:
    return float(parse_size(text, flag))


# What `rumpx ctl` can set while a run is under way.
READERS: Final[dict[str, Callable[[str, str], float]]] = {
    "max-source-latency": parse_seconds,
    "max-target-latency": parse_seconds,
    "max-keys-per-sec": parse_number,
    "max-bytes-per-sec": _parse_rate,
    "max-ops-per-sec": parse_number,
    "max-source-cpu": parse_percent,
    "max-source-memory": parse_percent,
    "max-target-memory": parse_percent,
}


def limits_with(limits: Limits, changes: Iterable[tuple[str, str]]) -> Limits:
    """The same limits, some of them changed.

    Args:
        changes: (name, value) pairs, as in ("max-keys-per-sec", "5000"); "off" lifts a limit.

    Raises:
        UsageError: there is no such limit, or the value cannot be meant.
    """
    changed: dict[str, Any] = {}
    for name, text in changes:
        read = READERS.get(name)
        if read is None:
            raise UsageError(f"{name[:40]!r} is no limit; known are {', '.join(READERS)}.")
        off = text.strip().lower() == "off"
        changed[name.replace("-", "_")] = None if off else read(text, f"--{name}")
    return replace(limits, **changed)


def in_words(limits: Limits) -> dict[str, str]:
    """The limits that are set, by their names on the command line, as they are written there."""
    words = {}
    for name, read in READERS.items():
        value = getattr(limits, name.replace("-", "_"))
        if value is not None:
            words[name] = _WRITERS[read](value)
    if limits.schedule:
        words["schedule"] = limits.schedule
    return words


_WRITERS: Final[dict[Callable[[str, str], float], Callable[[float], str]]] = {
    parse_seconds: lambda seconds: f"{seconds * 1e3:g}ms",
    parse_number: lambda number: f"{number:.15g}",
    _parse_rate: lambda size: f"{size / 2**20:.6g}MiB",
    parse_percent: lambda share: f"{100 * share:g}%",
}
