"""`rumpx --top` on a terminal: the full screen, its keys, and the way back.

`Top` draws on the alternate screen, anew each time, so that neither a change of size nor what
another program left there stays. It has the terminal hand over keys one by one and without an echo
(Ctrl-C and Ctrl-Z remain signals). `q` gives the terminal back, and bars go on in its place. What
cannot scroll on a full screen, messages, is kept and printed on the normal one as soon as that is
there again. However it ends, `stop` first leaves the alternate screen, then restores the terminal's
modes, then prints. Until then a Ctrl-C does not have the terminal forget what it has not drawn yet
(NOFLSH).

It may be stopped by Ctrl-Z and go on by `fg`: the modes are set again if a shell has changed them.
As long as it is stopped, the shell's prompt is on the alternate screen; and while it is in the
background, it draws but reads no keys and leaves the modes alone.

Not promised: a terminal as it was after SIGKILL or SIGQUIT.
"""

from __future__ import annotations

import atexit
import os
import select
import termios
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TextIO

from rumpx.display.bars import Bars
from rumpx.display.draw import console
from rumpx.display.lines import line, stamped
from rumpx.display.panels import MOST_MESSAGE_ROWS
from rumpx.display.sparkline import SPAN_SECONDS
from rumpx.display.top import render
from rumpx.model.snapshot import Snapshot, State
from rumpx.model.timeline import Point, Recorder
from rumpx.text import one_line

_MOST_POINTS: Final = int(2 * SPAN_SECONDS)
_MOST_MESSAGES: Final = 1000
_MOST_BYTES: Final = 1024
# A frame takes some 6 ms of CPU, which on a machine that is full the copy lacks.
_DRAW_SECONDS: Final = 0.5
_LOCAL_MODES: Final = 3  # their place in what termios tells


class Top:
    """Draws snapshots on the full screen until somebody presses q; then, and at the end, bars.

    It draws where it is called, and so may block and raise as its stream does.

    Args:
        stream: a terminal.
        keys: the terminal on which keys are pressed; None, or anything else, for no keys.
    """

    def __init__(self, stream: TextIO, keys: TextIO | None) -> None:
        self._stream = stream
        self._console = console(stream)
        self._keyboard = Keyboard(keys)
        self._recorder: Recorder | None = None
        self._shown_messages: deque[str] = deque(maxlen=MOST_MESSAGE_ROWS)
        self._unprinted: deque[str] = deque(maxlen=_MOST_MESSAGES)
        self._latest: Snapshot | None = None
        self._inside = False
        self._drawn: State | None = None
        self._draw_due = 0.0
        self._bars: Bars | None = None

    def start(self) -> None:
        """Take the whole screen and the keyboard."""
        self._inside = True
        self._drawn = None
        self._keyboard.take()
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def show(self, snapshot: Snapshot) -> None:
        """Draw the snapshot, twice a second at most, or leave if that was asked for."""
        self._latest = snapshot
        if self._bars:
            self._bars.show(snapshot)
            return
        points = self._record(snapshot)
        if not self._inside:
            return  # somebody asks a question: screen and keys are theirs
        if {"q", "Q"} & set(self._keyboard.pressed()):
            self._change_to_bars()
        elif snapshot.state != self._drawn or time.monotonic() >= self._draw_due:
            self._drawn = snapshot.state
            self._draw_due = time.monotonic() + _DRAW_SECONDS
            self._draw(snapshot, points)

    def now(self, snapshot: Snapshot) -> None:
        """Say the snapshot as a message."""
        self.message(line(snapshot))

    def message(self, text: str) -> None:
        """Show a message among the last ones, and keep it to be printed."""
        if self._bars:
            self._bars.message(text)
            return
        said = stamped(one_line(text))
        self._shown_messages.append(said)
        self._unprinted.append(said)
        self._draw_due = 0.0

    def pause(self) -> None:
        """Go back to the normal screen."""
        if self._bars:
            self._bars.pause()
        else:
            self._leave()

    def go_on(self) -> None:
        """Take the screen again."""
        if self._bars:
            self._bars.go_on()
        else:
            self.start()

    def stop(self) -> None:
        """Give the terminal back, with the last state where bars would leave it."""
        try:
            if not self._bars:
                self._change_to_bars()
        finally:
            if self._bars:
                self._bars.stop()

    def _record(self, snapshot: Snapshot) -> Sequence[Point]:
        """The last minutes, from the first snapshot on."""
        if self._recorder is None:
            self._recorder = Recorder(elapsed=snapshot.elapsed, work=snapshot.work)
        self._recorder.see(snapshot, time.time())
        del self._recorder.points[:-_MOST_POINTS]
        return self._recorder.points

    def _draw(self, snapshot: Snapshot, points: Sequence[Point]) -> None:
        width, height = self._console.size
        drawn = render(
            snapshot,
            points,
            tuple(self._shown_messages),
            width,
            height,
            leaves=self._keyboard.there,
        )
        self._console.show_cursor(False)
        options = self._console.options.update_dimensions(width, height)
        self._console.update_screen(drawn, options=options)

    def _change_to_bars(self) -> None:
        self._leave()
        if self._latest:
            self._bars = Bars(self._stream)
            self._bars.start()
            self._bars.show(self._latest)

    def _leave(self) -> None:
        """Restore everything, and print what was said meanwhile."""
        if self._inside:
            self._inside = False
            try:
                self._console.show_cursor(True)
                self._console.set_alt_screen(False)
            finally:
                self._keyboard.give_back()
        while self._unprinted:
            self._console.print(self._unprinted.popleft())


class Keyboard:
    """A terminal's keys, one by one and without an echo.

    Attributes:
        there: whether there is a terminal.
    """

    def __init__(self, keys: TextIO | None) -> None:
        self._fd = keys.fileno() if keys is not None and keys.isatty() else -1
        self._before: list[Any] | None = None
        self.there = self._fd >= 0

    def take(self) -> None:
        """Have keys handed over as they are pressed, until `give_back` or the process's end."""
        if not self._before and self._in_front():
            self._before = termios.tcgetattr(self._fd)
            atexit.register(self.give_back)
            self._set_modes()

    def pressed(self) -> str:
        """The keys since the last call."""
        if not self._in_front():
            return ""
        self.take()
        self._set_modes()
        ready, _, _ = select.select([self._fd], [], [], 0)
        return os.read(self._fd, _MOST_BYTES).decode("ascii", "replace") if ready else ""

    def give_back(self) -> None:
        """The modes as they were. Keys that nobody has read are no answer to what comes next."""
        before, self._before = self._before, None
        atexit.unregister(self.give_back)
        if before and self._in_front():
            termios.tcsetattr(self._fd, termios.TCSANOW, before)  # which waits for no output
            termios.tcflush(self._fd, termios.TCIFLUSH)

    def _set_modes(self) -> None:
        modes = termios.tcgetattr(self._fd)
        wanted = modes[_LOCAL_MODES] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH
        if modes[_LOCAL_MODES] != wanted:
            modes[_LOCAL_MODES] = wanted
            termios.tcsetattr(self._fd, termios.TCSANOW, modes)

    def _in_front(self) -> bool:
        """Whether the terminal is ours: one in the background is stopped if it touches it."""
        if not self.there:
            return False
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # not the terminal of this session, in which nobody is in the background
            return True
