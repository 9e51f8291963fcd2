"""The gate that every SCAN passes: the number in flight, their size, and their rate.

SCAN alone can hurt: eight scanners with COUNT 1000 and not one DUMP took a PING from 0.16 to 3.4 ms
(measured), and where a filter passes few keys no other limit would hold them. The number of
partitions being walked is independent of the number of SCANs in flight.

The engine's thread sets it, scanner threads pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rumpx.throttle.calm import Calm
from rumpx.throttle.rates import Pacer


class GateClosed(Exception):
    """The run ends; no more SCANs may be sent."""


class Gate:
    """Lets SCANs through.

    Args:
        pacer: the rate of commands, shared with workers.
        scan_count, batch_keys: initial values, until `set`.

    Attributes:
        batch_keys: the most keys that a scanner hands on together.
        scan_count: COUNT of a SCAN.
        calm: the times at which nothing is in flight; entered for each SCAN.
    """

    def __init__(self, pacer: Pacer, scan_count: int, batch_keys: int) -> None:
        self.batch_keys = batch_keys
        self.calm = Calm()
        self._pacer = pacer
        self.scan_count = scan_count
        self._most = 1 << 20
        self._wait = 0.0
        self._passing = 0
        self._next = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def set(self, scan_count: int, batch_keys: int, scans: int, wait: float) -> None:
        """Allow `scans` of this COUNT in flight from now on, `wait` seconds between them."""
        with self._changed:
            self.batch_keys = batch_keys
            self.scan_count = scan_count
            self._most = scans
            self._wait = wait
            self._changed.notify_all()

    @contextmanager
    def scan(self) -> Iterator[int]:
        """Hold one place for a SCAN with the COUNT yielded.

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
            self.calm.enter(time.monotonic())
            try:
                yield count
            finally:
                self.calm.leave(time.monotonic())
        finally:
            with self._changed:
                self._passing -= 1
                self._changed.notify()

    @contextmanager
    def asking(self) -> Iterator[int]:
        """Hold one place for a pipeline of questions about as many keys as are yielded.

        Raises:
            GateClosed: no more.
        """
        with self.scan() as count:
            self._take(count)
            yield count

    def _take(self, ops: int) -> None:
        for seconds in self._pacer.turn(ops=ops):
            time.sleep(seconds)

    def close(self) -> None:
        """Let no more SCANs through; waiting threads give up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
