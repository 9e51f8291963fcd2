"""The timetable of `--schedule`: the copy's limit by the time of the week.

::

    Mon-Fri 08:00,off  Mon-Fri 20:00,50MiB  Sat-Sun 00:00,full

Entries are separated by spaces. Each is `[DAYS ]HH:MM,LIMIT`: the limit holds from that time until
the next entry; before the first one of a week the last one does. DAYS are `Mon`, `Mon-Fri`,
`Sat-Mon` (over the week's end) or several of these with commas, in English, short or in full;
without them an entry is for every day. LIMIT is `off` (nothing is copied), `full` (no limit) or
bytes a second, as in `50MiB`. (This follows rclone's timetables, which use `off` for `full`.)

Times are local times of a time zone. When the clock is put forward, an entry in the skipped hour
holds from the moment of the jump; when it is put back, an entry in the repeated hour holds from
its first occurrence.

Algorithm: an entry's moment is the first one at which the clock shows its time or a later one. The
moments of the days around an instant are computed one by one and walked through in order.

Not promised: future time zone rules. The rules are those of the machine's time zone database.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from itertools import pairwise
from operator import itemgetter
from typing import Final, Literal
from zoneinfo import ZoneInfo

from rumpx.errors import UsageError
from rumpx.units import parse_size

Limit = Literal["off", "full"] | int
"""Zero, no limit, or bytes a second."""

_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NUMBERS: Final = {
    name: number
    for number, day in enumerate(_DAYS)
    for name in (day.lower(), day[:3].lower())
}
_EXAMPLE: Final = "Mon-Fri 08:00,off Mon-Fri 20:00,50MiB Sat-Sun 00:00,full"
# The limit changes each week, unless the clock jumps over all entries that differ.
_REACH: Final = 16


@dataclass(frozen=True, slots=True)
class Window:
    """A time during which one limit holds: from `since` until before `until`, both in seconds
    since 1970; infinite if the limit never changes. `ends` is the end in local time, as in
    "Mon 20:00"."""

    limit: Limit
    since: float
    until: float
    ends: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Timetable:
    """A week's entries. Made by `parse_timetable`.

    Attributes:
        days: for each day from Monday on its entries in order: time, limit.
        zone: the time zone; None is the machine's own.
    """

    days: tuple[tuple[tuple[time, Limit], ...], ...]
    zone: tzinfo | None

    def at(self, now: float) -> Window:
        """Return the window at a time in seconds since 1970.

        This takes some tenths of a millisecond: keep the window while it lasts.
        """
        limits = {limit for day in self.days for _, limit in day}
        if len(limits) == 1:
            return Window(limits.pop(), -math.inf, math.inf)
        changes = [
            (moment, limit)
            for (_, before), (moment, limit) in pairwise(self._moments_around(now).items())
            if limit != before
        ]
        last = bisect_right(changes, now, key=itemgetter(0)) - 1
        (since, limit), (until, _) = changes[last : last + 2]
        return Window(limit, since, until, f"{self._wall(until):%a %H:%M}")

    def _moments_around(self, now: float) -> dict[float, Limit]:
        """Return the moments at which entries take effect, in order. If a jump moves several to one
        moment, only the last remains."""
        today = self._wall(now).date()
        moments: dict[float, Limit] = {}
        for distance in range(-_REACH, _REACH + 1):
            date = today + timedelta(days=distance)
            for clock, limit in self.days[date.weekday()]:
                moments[self._moment(datetime.combine(date, clock))] = limit
        return moments

    def _wall(self, moment: float) -> datetime:
        """Return the local time of a moment."""
        return datetime.fromtimestamp(moment, self.zone).replace(tzinfo=None)

    def _moment(self, wall: datetime) -> float:
        """Return the first moment at which the clock shows that time or a later one."""
        by_rule_before = wall.replace(tzinfo=self.zone, fold=0).timestamp()
        by_rule_after = wall.replace(tzinfo=self.zone, fold=1).timestamp()
        if by_rule_before <= by_rule_after:
            return by_rule_before  # the same, or the first of two
        # The clock never shows it: it jumps over it between these two.
        between = range(int(by_rule_after), int(by_rule_before))
        return float(between.start + bisect_left(between, wall, key=self._wall))


def parse_timetable(text: str, zone: str | None) -> Timetable:
    """Parse a timetable; see the module docstring.

    Args:
        zone: an IANA name as in Europe/Berlin; None is the machine's own zone.

    Raises:
        UsageError: the text is invalid, or the zone or a time zone database is missing.
    """
    week: list[dict[time, Limit]] = [{} for _ in _DAYS]
    days: list[int] = []
    for word in text.split():
        if word[0].isalpha():
            if days:
                raise _refused(f"a time is missing between the days and {word[:40]!r}")
            days = _read_days(word)
        else:
            clock, limit = _read_entry(word)
            for day in days or range(len(_DAYS)):
                if week[day].setdefault(clock, limit) != limit:
                    raise _refused(f"two limits are given for {_DAYS[day]} {clock:%H:%M}")
            days = []
    if days:
        raise _refused("a time is missing after the last days")
    if not any(week):
        raise _refused("it is empty")
    return Timetable(tuple(tuple(sorted(day.items())) for day in week), _read_zone(zone))


def _read_days(word: str) -> list[int]:
    """Parse `Mon-Wed,Sun` to [0, 1, 2, 6]."""
    days = []
    for part in word.split(","):
        first, dash, last = part.lower().partition("-")
        if first not in _NUMBERS or (dash and last not in _NUMBERS):
            raise _refused(f"{word[:40]!r} is not a list of days")
        start = _NUMBERS[first]
        length = (_NUMBERS[last] - start) % 7 if dash else 0
        days += [(start + step) % 7 for step in range(length + 1)]
    return days


def _read_entry(word: str) -> tuple[time, Limit]:
    """Parse `20:00,50MiB` to a time and a limit."""
    clock, comma, limit = word.partition(",")
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", clock)
    if not match or int(match[1]) > 23 or int(match[2]) > 59:
        raise _refused(f"{clock[:40]!r} is not a time from 00:00 to 23:59")
    if not comma:
        raise _refused(f"a limit is missing after {clock}")
    return time(int(match[1]), int(match[2])), _read_limit(limit)


def _read_limit(text: str) -> Limit:
    name = text.lower()
    if name == "off":
        return "off"
    if name == "full":
        return "full"
    try:
        rate = parse_size(text, "--schedule")
    except UsageError:
        raise UsageError(
            f"--schedule: {text[:40]!r} is not a limit; write off (nothing is copied), full (no "
            "limit), or bytes a second such as 50MiB."
        ) from None
    if rate < 1:
        raise UsageError(f"--schedule: {text[:40]!r} bytes a second is zero; write off.")
    return rate


def _read_zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    if zone := _zone(name):
        return zone
    if _zone("UTC") is None:
        raise UsageError(
            f"--time-zone: cannot look up {name[:40]!r}, since this machine has no time zone "
            "database: pip install tzdata."
        )
    raise UsageError(
        f"--time-zone: there is no zone {name[:40]!r}; use for example Europe/Berlin or UTC."
    )


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # no such file; no name; a folder
        return None


def _refused(what: str) -> UsageError:
    return UsageError(f"--schedule: {what}; write for example {_EXAMPLE!r}.")
