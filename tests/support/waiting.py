"""Waiting for a condition with a deadline, instead of sleeping and hoping; clocks on the wall."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], timeout: float, what: str, *, interval: float = 0.01
) -> T:
    """Poll `condition` until it returns something true, and return that.

    Fails with `what` (and the last exception, if the last poll raised a connection-like
    OSError or a redis error) once `timeout` seconds have passed.
    """
    from redis.exceptions import RedisError

    deadline = time.monotonic() + timeout
    trouble: Exception | None = None
    while True:
        try:
            result = condition()
            trouble = None
            if result:
                return result
        except (OSError, RedisError) as exc:
            trouble = exc
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}") from trouble
        time.sleep(interval)


def zone_where_it_is(clock: str) -> dict[str, str]:
    """A time zone in which a clock on the wall shows HH:MM:SS now."""
    hours, minutes, seconds = map(int, clock.split(":"))
    wanted = 3600 * hours + 60 * minutes + seconds
    west = (int(time.time()) - wanted) % 86_400
    if west > 43_200:
        west -= 86_400
    sign = "-" if west < 0 else ""
    west = abs(west)
    return {"TZ": f"XXX{sign}{west // 3600}:{west // 60 % 60:02}:{west % 60:02}"}
