"""Timetables: what they say at any time, in zones with all kinds of clocks.

The oracle knows no arithmetic of zones: it watches the clock on the wall minute by minute, and
notes which entries come by.
"""

from __future__ import annotations

import math
import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rumpx.errors import UsageError
from rumpx.model.schedule import Limit, Timetable, Window, parse_timetable

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ZONES = (
    *("Europe/Berlin", "America/New_York", "America/Santiago", "Asia/Kolkata", "UTC"),
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # left out 30 December 2011
)
MIB = 2**20
WEEK = 7 * 24 * 60


def moment(text: str, zone: str = "UTC") -> float:
    """`2026-03-29 03:00` in a zone → seconds since 1970."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def limit_at(timetable: Timetable, text: str, zone: str = "UTC") -> Limit:
    return timetable.at(moment(text, zone)).limit


# What may be written


@pytest.mark.smoke
def test_the_timetable_of_the_manual() -> None:
    text = "Mon-Fri 08:00,off Mon-Fri 20:00,50MiB Sat-Sun 00:00,full"
    timetable = parse_timetable(text, "UTC")

    # 20 April 2026 is a Monday.
    assert limit_at(timetable, "2026-04-20 07:59") == "full"
    assert limit_at(timetable, "2026-04-20 08:00") == "off"
    assert limit_at(timetable, "2026-04-20 19:59:59.999") == "off"
    assert limit_at(timetable, "2026-04-20 20:00") == 50 * MIB
    assert limit_at(timetable, "2026-04-21 07:59") == 50 * MIB
    assert limit_at(timetable, "2026-04-24 23:59") == 50 * MIB
    assert limit_at(timetable, "2026-04-25 00:00") == "full"
    monday, saturday = moment("2026-04-27 08:00"), moment("2026-04-25 00:00")
    assert timetable.at(moment("2026-04-26 12:00")) == Window("full", saturday, monday)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("sat-mon 8:00,OFF 20:00,Full", "Sat,Sun,Mon 08:00,off Mon-Sun 20:00,full"),
        ("Monday,wednesday-FRIDAY 00:00,1k 12:00,2KB", "Mon,Wed,Thu,Fri 0:00,1024 12:00,2048"),
        (" 08:00,off\n\t09:00,full ", "Mon-Sun 08:00,off Tue-Mon 09:00,full"),
        ("Mon 08:00,off Mon 08:00,off", "Mon-Mon 08:00,off"),
    ],
)
def test_other_ways_to_write_it(text: str, same: str) -> None:
    assert parse_timetable(text, "UTC") == parse_timetable(same, "UTC")


def test_one_entry_means_always() -> None:
    for text in ("Wed 12:00,50MiB", "12:00,50MiB", "Mon 01:00,50MiB Tue 02:00,51200k"):
        timetable = parse_timetable(text, "Europe/Berlin")
        assert timetable.at(0.0) == Window(50 * MIB, -math.inf, math.inf)


def test_a_window_is_over_when_the_limit_changes_not_when_an_entry_comes() -> None:
    timetable = parse_timetable("08:00,off 12:00,off Tue 20:00,full", "UTC")

    assert timetable.at(moment("2026-04-20 10:00")) == Window(
        "off", moment("2026-04-15 08:00"), moment("2026-04-21 20:00")
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("Mon-Fri", "a time is missing after the last days"),
        ("Mon Tue 08:00,off", "a time is missing between the days and 'Tue'"),
        ("08:00,off Mon", "a time is missing after the last days"),
        ("Mon-10:00,512k", "'Mon-10:00,512k' is not a list of days"),  # as rclone has it
        ("Mo 08:00,off", "'Mo' is not a list of days"),
        ("Mon- 08:00,off", "'Mon-' is not a list of days"),
        ("Mon, Tue 08:00,off", "'Mon,' is not a list of days"),
        ("Mon-Wed-Fri 08:00,off", "'Mon-Wed-Fri' is not a list of days"),
        ("24:00,off", "'24:00' is not a time"),
        ("08:60,off", "'08:60' is not a time"),
        ("8,off", "'8' is not a time"),
        ("-08:00,off", "'-08:00' is not a time"),
        ("\u0660\u0668:\u0660\u0660,off", "is not a time"),
        ("08:00", "a limit is missing after 08:00"),
        ("08:00, off", "'' is not a limit"),
        ("08:00,fast", "'fast' is not a limit; write off (nothing is copied), full (no limit)"),
        ("08:00,-5", "'-5' is not a limit"),
        ("08:00,0", "'0' bytes a second is zero; write off"),
        ("08:00,0.2B", "'0.2B' bytes a second is zero; write off"),
        ("08:00,off Tue 08:00,full", "two limits are given for Tuesday 08:00"),
    ],
)
def test_what_cannot_be_meant(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_timetable(text, "UTC")

    message = str(caught.value)
    assert message.startswith("--schedule: ") and complaint in message
    assert "write" in message and "\n" not in message


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "Europe", "../UTC", "/etc/passwd", "", "a\0b"])
def test_a_zone_that_does_not_exist(zone: str) -> None:
    with pytest.raises(UsageError, match=r"--time-zone: there is no zone .*Europe/Berlin"):
        parse_timetable("08:00,off", zone)


def test_no_time_zone_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr("rumpx.model.schedule.ZoneInfo", missing)
    with pytest.raises(UsageError, match=r"no time zone database: pip install tzdata\.$"):
        parse_timetable("08:00,off", "Europe/Berlin")
    assert parse_timetable("08:00,off", None).at(0.0).limit == "off"


# Clocks that are put forward and back


@pytest.mark.smoke
def test_a_time_that_the_clock_jumps_over_counts_from_the_jump() -> None:
    timetable = parse_timetable("02:30,off 04:00,full", "Europe/Berlin")
    jump = moment("2026-03-29 01:00")  # 02:00 becomes 03:00

    assert timetable.at(jump - 1).limit == "full"
    assert timetable.at(jump) == Window("off", jump, jump + 3600)


def test_what_lies_wholly_in_the_jump_does_not_happen() -> None:
    timetable = parse_timetable("Sun 02:10,off Sun 02:50,full", "Europe/Berlin")
    jump = moment("2026-03-29 01:00")

    week = 7 * 86_400
    assert timetable.at(jump) == timetable.at(jump + 86_400) == timetable.at(jump - 86_400)
    window = timetable.at(jump)
    assert window == Window("full", jump - week + 3000, jump + week - 3000)


@pytest.mark.smoke
def test_a_time_that_comes_twice_counts_from_its_first_coming() -> None:
    timetable = parse_timetable("02:30,off 04:00,full", "Europe/Berlin")
    back = moment("2026-10-25 01:00")  # 03:00 becomes 02:00

    assert timetable.at(back - 1801).limit == "full"
    # 02:30 to 03:00, 02:00 to 03:00 once more, and 03:00 to 04:00
    assert timetable.at(back) == Window("off", back - 1800, back + 7200)


def test_half_an_hour_back_and_forth() -> None:
    timetable = parse_timetable("01:45,off 02:15,full", "Australia/Lord_Howe")
    back, forth = moment("2026-04-04 15:00"), moment("2026-10-03 15:30")

    # At 02:00 it becomes 01:30: 01:45 has been, and 02:15 is three quarters of an hour away.
    assert timetable.at(back) == Window("off", back - 900, back + 2700)
    # At 02:00 it becomes 02:30.
    assert timetable.at(forth - 1) == Window("off", forth - 900, forth)
    assert timetable.at(forth).limit == "full"


def test_midnight_is_left_out() -> None:
    timetable = parse_timetable("Sun 00:00,off Sun 12:00,full", "America/Santiago")
    jump = moment("2026-09-06 04:00")  # Saturday's end becomes Sunday 01:00

    assert timetable.at(jump - 1).limit == "full"
    assert timetable.at(jump) == Window("off", jump, jump + 11 * 3600)


@pytest.mark.smoke
def test_a_day_is_left_out() -> None:
    timetable = parse_timetable("Fri 00:00,off Sat 00:00,full", "Pacific/Apia")
    jump = moment("2011-12-30 10:00")  # Thursday's end becomes Saturday

    window = timetable.at(jump)
    assert window.limit == "full"
    assert window.since == moment("2011-12-24 00:00", "Pacific/Apia")
    assert window.until == moment("2012-01-06 00:00", "Pacific/Apia")


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The machine is elsewhere."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield "America/New_York"
    time.tzset()


def test_the_machines_own_zone_has_its_jumps_too(local_zone: str) -> None:
    text = "01:30,off 02:30,1k 03:15,full Sun 14:00,2k"
    here, there = parse_timetable(text, None), parse_timetable(text, local_zone)

    for jump in ("2026-03-08 07:00", "2026-11-01 06:00", "2026-07-01 00:00"):
        for quarters in range(-40, 40):
            now = moment(jump) + quarters * 900
            assert here.at(now) == there.at(now), now


# Any timetable, at any time

limits: st.SearchStrategy[Limit] = st.sampled_from(("off", "full", 1024, 50 * MIB))
minutes = st.one_of(
    st.integers(0, 1439), st.sampled_from((0, 60, 90, 105, 120, 135, 150, 179, 180, 1439))
)
entries = st.dictionaries(
    st.tuples(st.integers(0, 6), minutes), limits, min_size=1, max_size=8
)
# Half of them near the days on which some zone changes.
JUMPS = (
    *("2026-03-08", "2026-11-01", "2026-03-29", "2026-10-25", "2011-12-30"),
    *("2026-04-05", "2026-10-04", "2026-04-04", "2026-09-06", "2024-04-07"),
)
days = st.one_of(
    st.dates(date(2010, 1, 1), date(2036, 12, 31)),
    st.builds(
        lambda day, more: date.fromisoformat(day) + timedelta(days=more),
        st.sampled_from(JUMPS),
        st.integers(-8, 8),
    ),
)


def watched(week: dict[tuple[int, int], Limit], zone: str, now: float) -> Window:
    """What the timetable says, by watching the clock from 17 days before until 17 days after."""
    clock = ZoneInfo(zone)
    by_minute = {day * 1440 + minute: limit for (day, minute), limit in week.items()}
    begin = int(now // 60) * 60 - 17 * 86_400
    shown: int | None = None  # the latest time of all that the clock has shown
    changes: list[tuple[float, Limit]] = []
    held: Limit | None = None
    for second in range(begin, begin + 34 * 86_400, 60):
        wall = datetime.fromtimestamp(second, UTC).astimezone(clock)
        # Ordinal 1 was a Monday.
        reads = (wall.toordinal() - 1) * 1440 + wall.hour * 60 + wall.minute
        before = held
        for minute in range(reads if shown is None else shown + 1, reads + 1):
            held = by_minute.get(minute % WEEK, held)
        shown = reads if shown is None else max(shown, reads)
        if held != before:
            changes.append((float(second), held))  # type: ignore[arg-type]
    past = [change for change in changes if change[0] <= now]
    future = [change for change in changes if change[0] > now]
    if len(set(week.values())) == 1:
        return Window(past[-1][1], -math.inf, math.inf)
    return Window(past[-1][1], past[-1][0], future[0][0])


@settings(max_examples=80, deadline=None)
@given(
    week=entries,
    zone=st.sampled_from(ZONES),
    day=days,
    second=st.one_of(st.integers(0, 86_399), st.integers(0, 47).map(lambda half: half * 1800)),
)
@example({(6, 130): "off", (6, 170): "full"}, "Europe/Berlin", date(2026, 4, 5), 0)
@example({(4, 0): "off", (5, 0): "full"}, "Pacific/Apia", date(2012, 1, 5), 0)
def test_any_timetable_is_what_somebody_sees_who_watches_the_clock(
    week: dict[tuple[int, int], Limit], zone: str, day: date, second: int
) -> None:
    words = (
        f"{DAYS[number]} {minute // 60:02}:{minute % 60:02},{limit}"
        for (number, minute), limit in week.items()
    )
    timetable = parse_timetable(" ".join(words), zone)
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    now = midnight.timestamp() + second

    window = timetable.at(now)

    assert window == watched(week, zone, now)
    assert window.since <= now < window.until
    if window.until < math.inf:
        # It is the same window from its first to its last moment, and another one after it.
        assert timetable.at(window.since) == timetable.at(window.until - 1e-3) == window
        after = timetable.at(window.until)
        assert after.since == window.until and after.limit != window.limit
