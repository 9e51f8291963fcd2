"""The modes of the terminal that keys come from, while a display reads it.

They are restored by `give_back`, and at the process's end. Only a process in the foreground sets
them: one in the background that did so would be stopped.

Not promised: restored modes after SIGKILL or SIGQUIT.
"""

from __future__ import annotations

import atexit
import os
import select
import termios
from typing import Any, Final, TextIO

_MOST_BYTES: Final = 1024
_LOCAL_MODES: Final = 3  # index in the list from tcgetattr


class Keyboard:
    """A terminal whose echo is off.

    Args:
        keys: the terminal; None, or anything else, for none.
        lines: keys come line by line; else one by one, for `pressed`.

    Attributes:
        there: True if there is a terminal.
    """

    def __init__(self, keys: TextIO | None, *, lines: bool = False) -> None:
        self._off = termios.ECHO | termios.ECHONL | (0 if lines else termios.ICANON)
        self._fd = keys.fileno() if keys is not None and keys.isatty() else -1
        self._before: list[Any] | None = None
        self.there = self._fd >= 0

    def take(self) -> None:
        """Set the modes, until `give_back` or the process's end."""
        if not self._before and self._in_front():
            self._before = termios.tcgetattr(self._fd)
            atexit.register(self.give_back)
            self._set_modes()

    def keep(self) -> bool:
        """Set the modes again if a shell has changed them; return False in the background, where
        they are left alone."""
        if not self._in_front():
            return False
        self.take()
        self._set_modes()
        return True

    def pressed(self) -> str:
        """Return the keys since the last call."""
        if not self.keep():
            return ""
        ready, _, _ = select.select([self._fd], [], [], 0)
        return os.read(self._fd, _MOST_BYTES).decode("ascii", "replace") if ready else ""

    def give_back(self) -> None:
        """Restore the modes, and drop unread keys, so that they do not answer the next prompt."""
        before, self._before = self._before, None
        atexit.unregister(self.give_back)
        if before and self._in_front():
            termios.tcsetattr(self._fd, termios.TCSANOW, before)  # does not wait for output
            termios.tcflush(self._fd, termios.TCIFLUSH)

    def _set_modes(self) -> None:
        modes = termios.tcgetattr(self._fd)
        wanted = modes[_LOCAL_MODES] & ~self._off | termios.NOFLSH
        if modes[_LOCAL_MODES] != wanted:
            modes[_LOCAL_MODES] = wanted
            termios.tcsetattr(self._fd, termios.TCSANOW, modes)

    def _in_front(self) -> bool:
        """Return True in the foreground: a background process that uses the terminal is stopped."""
        if not self.there:
            return False
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # no controlling terminal: no background either
            return True
