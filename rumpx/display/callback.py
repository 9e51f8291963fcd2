"""The API's `on_progress`: a display that hands Snapshots to a function, beside another one."""

from __future__ import annotations

from collections.abc import Callable

from rumpx.display.display import Several, Silent, beside
from rumpx.model.display import Display
from rumpx.model.snapshot import Snapshot


class _Callback(Silent):
    """Passes Snapshots on; sentences are the other display's business."""

    def __init__(self, call: Callable[[Snapshot], None]) -> None:
        self.show = call  # type: ignore[method-assign,assignment]


def with_callback(display: Display, call: Callable[[Snapshot], None]) -> Display:
    """A display that also calls `call` with Snapshots, in a thread of its own. If `call` raises,
    `display` says so and the copy goes on without it."""

    return Several([display, beside(display, _Callback(call), "callback")])
