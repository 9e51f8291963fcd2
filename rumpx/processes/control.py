"""Requests to a run from outside: stop, or show a snapshot.

Safe to call from signal handlers and other threads; the coordinator polls here in each turn of
its loop. The first `stop` asks it to drain; a second one to end at once.
"""

from __future__ import annotations

import contextlib
import signal
import socket


def stopping_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop a run; not SIGHUP if the parent ignores it, as nohup does."""
    always = (signal.SIGINT, signal.SIGTERM)
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return always if nohup else (*always, signal.SIGHUP)


class Control:
    """The handle on one run.

    Attributes:
        running: the copy has started, so that a stop drains it.
        stops: how often `stop` was called.
        signal_number: the signal for the exit code.
    """

    def __init__(self) -> None:
        self.running = False
        self.stops = 0
        self.signal_number = int(signal.SIGINT)
        self._report_wanted = False
        self._woken = False
        self._waker, self.wakened = socket.socketpair()
        self._waker.setblocking(False)
        self.wakened.setblocking(False)

    def stop(self, signal_number: int = signal.SIGINT) -> None:
        """Drain and end; called again: end at once."""
        if not self.stops:
            self.signal_number = signal_number
        self.stops += 1
        self.wake()

    def report(self) -> None:
        """Request a snapshot now."""
        self._report_wanted = True
        self.wake()

    def take_report(self) -> bool:
        """Return True if a snapshot was requested since the last call."""
        wanted, self._report_wanted = self._report_wanted, False
        return wanted

    def wake(self) -> None:
        """End the coordinator's wait. Costs a system call only if it may be waiting."""
        if self._woken:
            return
        self._woken = True
        try:
            self._waker.send(b"!")
        except OSError:
            return  # full: it will wake anyway; or closed: the run has ended

    def drain_wakes(self) -> None:
        """Discard the wakes so far; call it before reading the state that they announce."""
        with contextlib.suppress(BlockingIOError):
            self.wakened.recv(4096)
        self._woken = False  # last: a caller that skipped its wake had set its request before

    def close(self) -> None:
        """Close the handle; the run has ended."""
        self._waker.close()
        self.wakened.close()
