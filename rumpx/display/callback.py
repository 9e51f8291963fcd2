"""The API's `on_progress`: a display that passes Snapshots to a function, beside another one."""

from __future__ import annotations

from collections.abc import Callable

from rumpx.display.display import Several, Silent, beside
from rumpx.model.display import Display
from rumpx.model.snapshot import Snapshot


class _Callback(Silent):
    """Passes Snapshots on; the other display shows messages."""

    def __init__(self, call: Callable[[Snapshot], None]) -> None:
        self.show = call  # type: ignore[method-assign,assignment]


def with_callback(display: Display, call: Callable[[Snapshot], None]) -> Display:
    """Return a display that also calls `call` with Snapshots, in its own thread. If `call` raises,
    `display` shows the error and the copy continues without it."""

    return Several([display, beside(display, _Callback(call), "callback")])
