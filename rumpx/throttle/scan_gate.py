"""The gate that every SCAN passes: how many may be under way, how large, and how often.

SCAN alone can hurt: eight scanners with COUNT 1000 and not one DUMP took a PING from 0.16 to 3.4 ms
(measured), and where a filter lets little through nothing else would hold them. The number of
partitions that are walked is one thing, the number of SCANs in flight another.

The engine's thread sets it, scanner threads pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rumpx.throttle.rates import Throttle


class GateClosed(Exception):
    """The run ends: nobody passes any more."""


class Gate:
    """Lets SCANs through.

    Args:
        throttle: the rate of commands, which workers share.
        scan_count, batch_keys: until `set` says others.

    Attributes:
        batch_keys: keys that a scanner hands on together, at most.
        scan_count: COUNT of a SCAN.
    """

    def __init__(self, throttle: Throttle, scan_count: int, batch_keys: int) -> None:
        self.batch_keys = batch_keys
        self._throttle = throttle
        self.scan_count = scan_count
        self._most = 1 << 20
        self._wait = 0.0
        self._passing = 0
        self._next = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def set(self, scan_count: int, batch_keys: int, scans: int, wait: float) -> None:
        """From now on `scans` of this COUNT may be in flight, `wait` seconds between them."""
        with self._changed:
            self.batch_keys = batch_keys
            self.scan_count = scan_count
            self._most = scans
            self._wait = wait
            self._changed.notify_all()

    @contextmanager
    def scan(self) -> Iterator[int]:
        """While this is open one SCAN may be sent, with this COUNT.

        Raises:
            GateClosed: no more.
        """
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._passing < self._most and now >= self._next:
                    break
                self._changed.wait(max(0.001, self._next - now) if now < self._next else None)
            if self._closed:
                raise GateClosed
            self._passing += 1
            self._next = now + self._wait
            count = self.scan_count
        try:
            self._take(1)
            yield count
        finally:
            with self._changed:
                self._passing -= 1
                self._changed.notify()

    @contextmanager
    def asking(self) -> Iterator[int]:
        """While this is open so many keys may be asked about, in one pipeline.

        Raises:
            GateClosed: no more.
        """
        with self.scan() as count:
            self._take(count)
            yield count

    def _take(self, ops: int) -> None:
        for seconds in self._throttle.turn(ops=ops):
            time.sleep(seconds)

    def close(self) -> None:
        """Nobody passes any more; who waits gives up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
