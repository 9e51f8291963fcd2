"""Waiting for a condition with a deadline, instead of sleeping and hoping."""

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
