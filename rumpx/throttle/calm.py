"""Records when nothing of the run is in flight: a PING of that time shows the server without us.

Scanner threads enter and leave for each SCAN (`scan_gate`), the backend for all that it has given
out together. Only the present calm, or the last one, is kept.
"""

from __future__ import annotations

import math
import threading


class Calm:
    """The times of rest, by `time.monotonic()`.

    Attributes:
        began: the time of the run's first request; infinite before.
        since, until: the present calm (`until` is infinite), or the last one.
        by_pausing: a pause makes it calm at once; False if the end of work is not seen.
    """

    def __init__(self) -> None:
        self.began = math.inf
        self.since = -math.inf
        self.until = math.inf
        self.by_pausing = True
        self._active = 0
        self._lock = threading.Lock()

    def enter(self, now: float) -> None:
        """Note that a request, or a group of them, is about to be sent."""
        with self._lock:
            self._active += 1
            if self._active == 1:
                self.until = now
                self.began = min(self.began, self.until)

    def leave(self, now: float) -> None:
        """Note that it has been answered."""
        with self._lock:
            self._active -= 1
            if not self._active:
                self.since, self.until = now, math.inf

    @property
    def now(self) -> bool:
        """True while nothing is in flight."""
        return math.isinf(self.until)

    def covers(self, begin: float, end: float) -> bool:
        """Return True if nothing was in flight from `begin` to `end`."""
        with self._lock:
            return self.since <= begin and end <= self.until
