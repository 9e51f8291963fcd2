"""Numbers for users: keys, bytes, rates, percentages, times.

Pure functions from a number to a short text. Sizes are decimal (1 MB is 10^6 bytes), as disks and
networks are sold; a percentage is truncated, not rounded, so that "100.0 %" means that all is done.
Numbers must be finite and not negative: nothing here checks that.
"""

from __future__ import annotations

import re
import time
from typing import Final

from rumpx.errors import UsageError

_SIZE_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_COUNT_UNITS: Final = ("", "k", "M", "G", "T")


def keys(count: float) -> str:
    """Format a count in full: `1,234,567`."""
    return f"{count:,.0f}"


def short_keys(count: float) -> str:
    """Format a count in at most six characters: `950`, `12.3 k`, `1.2 M`, `412 M`."""
    return _scaled(count, _COUNT_UNITS)


def size(count: float) -> str:
    """Format bytes: `512 B`, `12.3 MB`, `412 GB`."""
    return _scaled(count, _SIZE_UNITS)


def key_rate(per_second: float) -> str:
    """Format a rate of keys: `172,345 keys/s`."""
    return f"{keys(per_second)} keys/s"


def byte_rate(per_second: float) -> str:
    """Format a rate of bytes: `46.1 MB/s`."""
    return f"{size(per_second)}/s"


def percent(fraction: float) -> str:
    """Format a fraction: `41.3 %`, truncated to one decimal and limited to 0 to 100."""
    tenths = int(min(max(fraction, 0.0), 1.0) * 1000 + 1e-6)
    return f"{tenths / 10:.1f} %"


def clock(seconds: float) -> str:
    """Format a running time at constant width: `0:03`, `12:31`, `1:02:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def duration(seconds: float) -> str:
    """Format a duration: `4.2 s`, and from a minute on `12:31` or `1:02:03`."""
    return f"{seconds:.1f} s" if seconds < 59.95 else clock(round(seconds))


def age(seconds: float) -> str:
    """Format the age of something that should be recent: `0.003 s`, and from 10 s on as a
    duration."""
    return f"{seconds:.3f} s" if seconds < 9.9995 else duration(seconds)


def local_time(at: float, now: float | None) -> str:
    """Format a local time, both in seconds since 1970: `03:12`, with the date before it unless that
    is the one of `now`."""
    clock, date = (time.strftime(form, time.localtime(at)) for form in ("%H:%M", "%Y-%m-%d"))
    today = now is not None and date == time.strftime("%Y-%m-%d", time.localtime(now))
    return clock if today else f"{date} {clock}"


def milliseconds(seconds: float) -> str:
    """Format a latency: `6.1 ms`."""
    return f"{seconds * 1e3:.1f} ms"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """Scale a value to the first unit below 1000, with at most three digits."""
    if value < 999.5:
        return f"{value:.0f} {units[0]}".rstrip()
    power = 1
    while value >= 999.5 * 1000**power and power < len(units) - 1:
        power += 1
    scaled = value / 1000**power
    return f"{scaled:.{1 if scaled < 99.95 else 0}f} {units[power]}"

_BYTES: Final = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str, flag: str) -> int:
    """Parse `64MiB`, `64MB`, `64m` or `65536` into bytes; units are powers of 1024.

    Raises:
        UsageError: not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or len(match[1]) > 20:
        raise UsageError(f"{flag}: {text[:40]!r} is not a size; write it as in 64MiB or 500k.")
    return int(float(match[1]) * _BYTES[match[2]])


def write_size(count: float) -> str:
    """Write a size: `64MiB`, `1.5MiB`; whole bytes if no unit is exact."""
    for unit in ("t", "g", "m", "k"):
        if count >= _BYTES[unit] and count * 1000 % _BYTES[unit] == 0:
            return f"{count / _BYTES[unit]:.15g}{unit.upper()}iB"
    return f"{count:.0f}"


def parse_seconds(text: str, flag: str) -> float:
    """Parse `500ms`, `5s`, `5m`, `4h` or `5` into seconds.

    Raises:
        UsageError: not a time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", text.strip().lower())
    if not match:
        raise UsageError(
            f"{flag}: {text[:40]!r} is not a time; write it as in 500ms, 30s, 5m or 4h."
        )
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[match[2] or "s"]
    return float(match[1]) * unit


def write_seconds(seconds: float) -> str:
    """Write a time in the largest exact unit, to the microsecond: `500ms`, `90s`, `5m`, `0s`."""
    if 0 < seconds < 1:
        return f"{round(seconds * 1e3, 3):.15g}ms"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:.15g}{unit}"
    return f"{seconds:.15g}s"


def parse_number(text: str, flag: str) -> float:
    """`5000`, `5k`, `1.5m` -> a number; k and m are thousands and millions.

    Raises:
        UsageError: not a number.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([km]?)", text.strip().lower())
    if not match:
        raise UsageError(f"{flag}: {text[:40]!r} is not a number; write it as in 5000 or 20k.")
    return float(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2]]


def write_number(number: float) -> str:
    """Write a number: `5000`."""
    return f"{number:.15g}"


def parse_percent(text: str, flag: str) -> float:
    """`60%`, or `60` -> 0.6.

    Raises:
        UsageError: not a share.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%?", text.strip())
    if not match:
        raise UsageError(f"{flag}: {text[:40]!r} is not a share; write it as in 60%.")
    return float(match[1]) / 100


def write_percent(share: float) -> str:
    """Write a share: `60%`."""
    return f"{100 * share:.15g}%"


def count_of(number: int, noun: str) -> str:
    """Format a count with its noun: `1 key`, `2 keys`."""
    return f"{keys(number)} {noun}" + ("" if number == 1 else "s")
