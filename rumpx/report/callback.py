"""The API's `on_progress`: a display that hands Snapshots to a function, beside another one."""

from __future__ import annotations

from collections.abc import Callable

from rumpx.report.display import Background, Display
from rumpx.report.snapshot import Snapshot


class _Callback:
    """Passes Snapshots on; sentences are the other display's business."""

    def __init__(self, call: Callable[[Snapshot], None]) -> None:
        self.show = call

    def start(self) -> None:
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


class Both:
    """Two displays in one."""

    def __init__(self, first: Display, second: Display) -> None:
        self._displays = first, second

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
        for display in reversed(self._displays):  # the second may complain to the first
            display.stop()


def with_callback(display: Display, call: Callable[[Snapshot], None]) -> Display:
    """A display that also calls `call` with Snapshots, in a thread of its own. If `call` raises,
    `display` says so and the copy goes on without it."""

    return Both(display, Background(_Callback(call), fallback=_Complaint(display)))


class _Complaint(_Callback):
    """What is left of a callback that failed: its complaint goes to the other display."""

    def __init__(self, display: Display) -> None:
        super().__init__(lambda snapshot: None)
        self.message = display.message  # type: ignore[method-assign]
