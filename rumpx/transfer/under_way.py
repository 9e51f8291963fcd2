"""The large value that is read in pieces at the moment, for displays."""

from __future__ import annotations

import time
from typing import Final

from rumpx.transfer.messages import Streaming

_SHOW_SECONDS: Final = 0.5


class UnderWay:
    """One value at a time; the first message comes _SHOW_SECONDS after its start, so that a quick
    one is not shown."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._message: Streaming | None = None

    def start(self) -> None:
        """Start another value."""
        self._shown = time.monotonic()

    def show(self, key: bytes, fraction: float) -> None:
        """Note the part of the value that was read, 0.0 to 1.0."""
        now = time.monotonic()
        if now - self._shown >= _SHOW_SECONDS:
            self._shown = now
            self._message = Streaming(key, fraction)

    def take(self) -> Streaming | None:
        """Return the progress, if it is time to show it."""
        taken, self._message = self._message, None
        return taken
