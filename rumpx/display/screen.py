"""`rumpx --top` on a terminal: the full screen, key presses, and the return to the normal screen.

`Top` draws on the alternate screen, completely each time, so that neither a resize nor another
program's output remains. It sets the terminal to pass key presses one by one and without echo
(Ctrl-C and Ctrl-Z remain signals). `q` releases the terminal, and bars continue in its place.
Messages, which cannot scroll on a full screen, are kept and printed on the normal one as soon as it
is back. In every case `stop` first leaves the alternate screen, then restores the terminal's modes,
then prints. Until then a Ctrl-C does not discard the terminal's pending output (NOFLSH).

Ctrl-Z may stop it and `fg` continue it: the modes are set again if a shell has changed them. While
it is stopped, the shell's prompt is on the alternate screen; and while it is in the background, it
draws but reads no keys and leaves the modes alone.

Not promised: a restored terminal after SIGKILL or SIGQUIT.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final, TextIO

from rumpx.display.bars import Bars
from rumpx.display.draw import console
from rumpx.display.keyboard import Keyboard
from rumpx.display.lines import line, stamped
from rumpx.display.panels import MOST_MESSAGE_ROWS
from rumpx.display.sparkline import SPAN_SECONDS
from rumpx.display.top import render
from rumpx.model.snapshot import Snapshot, State
from rumpx.model.timeline import Point, Recorder
from rumpx.text import one_line

_MOST_POINTS: Final = int(2 * SPAN_SECONDS)
_MOST_MESSAGES: Final = 1000
# A frame takes about 6 ms of CPU, which the copy lacks on a fully loaded machine.
_DRAW_SECONDS: Final = 0.5


class Top:
    """Draws snapshots on the full screen until q is pressed; then, and at the end, bars.

    Draws in the caller's thread, and so may block and raise as its stream does.

    Args:
        stream: a terminal.
        keys: the terminal that key presses come from; None, or anything else, for no keys.
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
        """Take over the screen and the keyboard."""
        self._inside = True
        self._drawn = None
        self._keyboard.take()
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def show(self, snapshot: Snapshot) -> None:
        """Draw the snapshot, twice a second at most; leave if q was pressed."""
        self._latest = snapshot
        if self._bars:
            self._bars.show(snapshot)
            return
        points = self._record(snapshot)
        if not self._inside:
            return  # a question is open: it owns screen and keys
        if {"q", "Q"} & set(self._keyboard.pressed()):
            self._change_to_bars()
        elif snapshot.state != self._drawn or time.monotonic() >= self._draw_due:
            self._drawn = snapshot.state
            self._draw_due = time.monotonic() + _DRAW_SECONDS
            self._draw(snapshot, points)

    def now(self, snapshot: Snapshot) -> None:
        """Add the snapshot to the messages."""
        self.message(line(snapshot))

    def message(self, text: str) -> None:
        """Show a message among the last ones, and keep it for printing."""
        if self._bars:
            self._bars.message(text)
            return
        said = stamped(one_line(text))
        self._shown_messages.append(said)
        self._unprinted.append(said)
        self._draw_due = 0.0

    def pause(self) -> None:
        """Return to the normal screen."""
        if self._bars:
            self._bars.pause()
        else:
            self._leave()

    def go_on(self) -> None:
        """Take over the screen again."""
        if self._bars:
            self._bars.go_on()
        else:
            self.start()

    def stop(self) -> None:
        """Release the terminal, with the last state as bars leave it."""
        try:
            if not self._bars:
                self._change_to_bars()
        finally:
            if self._bars:
                self._bars.stop()

    def _record(self, snapshot: Snapshot) -> Sequence[Point]:
        """Record the snapshot; return the last minutes, from the first snapshot on."""
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
        """Restore the terminal, and print the messages since then."""
        if self._inside:
            self._inside = False
            try:
                self._console.show_cursor(True)
                self._console.set_alt_screen(False)
            finally:
                self._keyboard.give_back()
        while self._unprinted:
            self._console.print(self._unprinted.popleft())
