"""Choose a run's display, and run it so that it cannot block the copy.

The coordinator's main loop calls a `Display`. `open_display` picks one and wraps it in
`Background`, which runs it in its own thread: the main loop only stores the latest Snapshot and the
pending messages there, so neither a blocked terminal (Ctrl-S, a full pipe) nor an exception while
drawing stops the copy. A display that raises is replaced by plain messages, once.

No method may be called from a signal handler: let the handler set a flag and call `now` from the
main loop. Output that a blocked terminal has not accepted at `stop` is lost.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Literal, TextIO

from rumpx.display.lines import lines, quiet
from rumpx.model.display import Display
from rumpx.model.job import LogFormat, Progress
from rumpx.model.snapshot import Snapshot

PERIOD: Final = 0.25
_STOP_TIMEOUT: Final = 3.0
_PENDING_LIMIT: Final = 1000


def choose(
    progress: Progress, stream: TextIO, environ: Mapping[str, str] = os.environ
) -> Literal["bar", "line", "json", "none"]:
    """Resolve `progress` to a display: `auto` is bars where they can be drawn, else lines."""
    if progress != "auto":
        return progress
    capable = environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
    unicode = (stream.encoding or "").lower().startswith("utf")
    return "bar" if capable and unicode and stream.isatty() else "line"


def open_display(
    progress: Progress,
    stream: TextIO,
    log_format: LogFormat = "text",
    top: TextIO | None = None,
) -> Display:
    """Return the display for a run, not started yet, that writes to `stream`.

    Args:
        log_format: of lines.
        top: terminal for key presses, for a full-screen view instead of bars.
    """
    kind = choose(progress, stream)
    display: Display
    if top:
        from rumpx.display.screen import Top

        display = Top(stream, top)
    elif kind == "bar":
        from rumpx.display.bars import Bars  # import rich for bars only

        display = Bars(stream)
    elif kind == "json":
        from rumpx.display.jsonl import json_lines

        display = json_lines(stream)
    elif kind == "line" and log_format == "json":
        from rumpx.display.jsonl import json_log

        display = json_log(stream)
    else:
        display = lines(stream) if kind == "line" else quiet(stream)
    return Background(display, fallback=quiet(stream))


def beside(main: Display, display: Display, name: str) -> Display:
    """Run a display in its own thread, beside the main one; if it fails, `main` reports that, and
    the run continues without it.

    Args:
        name: for the report, as in "log".
    """
    return Background(display, fallback=_Complaint(main), name=name)


class Background:
    """Runs a display in a thread; every method but `pause` returns at once, and none raises.

    `stop` waits a few seconds at most for pending output.
    """

    def __init__(
        self, display: Display, fallback: Display, name: str = "progress display"
    ) -> None:
        self._display = display
        self._fallback = fallback
        self._name = name
        self._latest: Snapshot | None = None
        self._shown: Snapshot | None = None
        self._pending: deque[Callable[[Display], None]] = deque(maxlen=_PENDING_LIMIT)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, and the display in it."""
        self._thread.start()

    def show(self, snapshot: Snapshot) -> None:
        """Queue the snapshot; it replaces one that is not shown yet."""
        self._latest = snapshot

    def now(self, snapshot: Snapshot) -> None:
        """Queue a request."""
        self._pending.append(lambda display: display.now(snapshot))

    def message(self, text: str) -> None:
        """Queue a message; those queued before `start` appear then."""
        self._pending.append(lambda display: display.message(text))

    def pause(self) -> None:
        """Wait until the display has released the terminal; the only call that waits."""
        done = threading.Event()

        def pause(display: Display) -> None:
            snapshot = self._latest
            if snapshot is not None:
                display.show(snapshot)
            display.pause()
            done.set()

        self._pending.append(pause)
        done.wait(_STOP_TIMEOUT)

    def go_on(self) -> None:
        """Queue the resumption."""
        self._pending.append(lambda display: display.go_on())

    def stop(self) -> None:
        """Show pending output and end the thread; may be called repeatedly or before `start`."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        self._do(lambda display: display.start())
        self._work()
        while not self._stopping.wait(PERIOD):
            self._work()
        self._work()
        self._do(lambda display: display.stop())

    def _work(self) -> None:
        """Write pending messages, then show the latest snapshot if there is a new one."""
        while self._pending:
            self._do(self._pending.popleft())
        snapshot = self._latest
        if snapshot is not None and snapshot is not self._shown:
            self._shown = snapshot
            self._do(lambda display: display.show(snapshot))

    def _do(self, action: Callable[[Display], None]) -> None:
        """Act on the display; on its first error stop it, report, and use the fallback."""
        try:
            action(self._display)
        except Exception as error:
            if self._display is not self._fallback:
                self._fall_back(error)
                with suppress(Exception):
                    action(self._display)

    def _fall_back(self, error: Exception) -> None:
        failed, self._display = self._display, self._fallback
        with suppress(Exception):
            failed.stop()
        reason = f"{type(error).__name__}: {error}"
        with suppress(Exception):
            self._display.message(f"The {self._name} stopped ({reason}); the copy continues.")


class Silent:
    """A display that shows nothing; a base for displays that implement few methods."""

    def start(self) -> None:
        return

    def show(self, snapshot: Snapshot) -> None:
        return

    def now(self, snapshot: Snapshot) -> None:
        return

    def message(self, text: str) -> None:
        return

    def pause(self) -> None:
        return

    def go_on(self) -> None:
        return

    def stop(self) -> None:
        return


class _Complaint(Silent):
    """The fallback of a failed display: passes its error to the other one, which shows all other
    messages anyway."""

    def __init__(self, display: Display) -> None:
        self._other: Display | None = display

    def message(self, text: str) -> None:
        other, self._other = self._other, None
        if other:
            other.message(text)


class Several:
    """Displays in one; the first is the main one."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = tuple(displays)

    def start(self) -> None:
        for display in self._displays:
            display.start()

    def show(self, snapshot: Snapshot) -> None:
        for display in self._displays:
            display.show(snapshot)

    def now(self, snapshot: Snapshot) -> None:
        for display in self._displays:
            display.now(snapshot)

    def message(self, text: str) -> None:
        for display in self._displays:
            display.message(text)

    def pause(self) -> None:
        for display in self._displays:
            display.pause()

    def go_on(self) -> None:
        for display in self._displays:
            display.go_on()

    def stop(self) -> None:
        for display in reversed(self._displays):  # the others may report errors to the first
            display.stop()
