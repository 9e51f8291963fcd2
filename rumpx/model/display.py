"""The protocol between an engine and the displays of a run."""

from __future__ import annotations

from typing import Protocol

from rumpx.model.snapshot import Snapshot


class Display(Protocol):
    """Shows a running job."""

    def start(self) -> None:
        """Start; called once, before the first snapshot."""

    def show(self, snapshot: Snapshot) -> None:
        """Receive the latest state; the display chooses when to show it."""

    def now(self, snapshot: Snapshot) -> None:
        """Write this state at once, as a permanent line (on SIGUSR1)."""

    def message(self, text: str) -> None:
        """Write one permanent sentence: a warning, a worker's death."""

    def pause(self) -> None:
        """Release the terminal for a question to the user."""

    def go_on(self) -> None:
        """Continue after the question was answered."""

    def stop(self) -> None:
        """Stop, with the last snapshot still visible."""
