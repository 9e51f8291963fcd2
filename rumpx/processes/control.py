"""How a run is told from outside to stop, or to say where it stands.

Safe to call from signal handlers and other threads; the coordinator looks here in each turn of
its loop. The first `stop` asks it to drain; a second one to end at once.
"""

from __future__ import annotations

import contextlib
import signal
import socket


def stopping_signals() -> tuple[signal.Signals, ...]:
    """Those that stop a run; SIGHUP not where whoever started it has it ignored, as nohup does."""
    always = (signal.SIGINT, signal.SIGTERM)
    nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return always if nohup else (*always, signal.SIGHUP)


class Control:
    """The handle on one run.

    Attributes:
        running: the copy has begun, so that a stop means to drain.
        stops: how often `stop` was called.
        signal_number: the signal that the exit code will tell.
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
        """Show a snapshot now."""
        self._report_wanted = True
        self.wake()

    def take_report(self) -> bool:
        """Whether a snapshot was asked for since the last call."""
        wanted, self._report_wanted = self._report_wanted, False
        return wanted

    def wake(self) -> None:
        """Make the coordinator's wait end. Costs a system call only if it may be waiting."""
        if self._woken:
            return
        self._woken = True
        try:
            self._waker.send(b"!")
        except OSError:
            return  # full: it will wake anyway; or closed: the run has ended

    def drain_wakes(self) -> None:
        """Forget the wakes so far; to be called before looking at what they were about."""
        with contextlib.suppress(BlockingIOError):
            self.wakened.recv(4096)
        self._woken = False  # last: whoever relied on it has left word before, and is seen now

    def close(self) -> None:
        """The run has ended."""
        self._waker.close()
        self.wakened.close()
