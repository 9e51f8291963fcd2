"""What shows a run while it lasts: the protocol between an engine and its displays."""

from __future__ import annotations

from typing import Protocol

from rumpx.model.snapshot import Snapshot


class Display(Protocol):
    """Shows a run while it goes on."""

    def start(self) -> None:
        """Begin; called once, before the first snapshot."""

    def show(self, snapshot: Snapshot) -> None:
        """Here is the latest state; a display shows it when it sees fit."""

    def now(self, snapshot: Snapshot) -> None:
        """Somebody asked (SIGUSR1): write this state at once, as a line that stays."""

    def message(self, text: str) -> None:
        """Write one sentence that stays: a warning, a worker's death."""

    def pause(self) -> None:
        """Leave the terminal to somebody who asks a question."""

    def go_on(self) -> None:
        """The question was answered."""

    def stop(self) -> None:
        """End, with the last snapshot still to be seen."""
