"""Retries of keys that could not be settled, or found: for how long, and with which pauses.

After a first redirection retry at once, after trouble with a growing pause; after `retry_for`
seconds without any success the run gives up. A second redirection without any success in between is
trouble too: one redirection is enough to find a slot that has moved, and a loop of them may never
end. Before a retry after trouble, the topology is read again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rumpx.errors import TemporaryError
from rumpx.servers.redials import growing_pause
from rumpx.transfer.handler import Reachable
from rumpx.transfer.runner import Pause, Task
from rumpx.transfer.suspects import Lost


class Retries:
    """The tries since the last success.

    Args:
        retry_for: seconds of trouble after which to give up.
    """

    def __init__(self, retry_for: float) -> None:
        self._retry_for = retry_for
        self._tries = 0
        self._trouble_since: float | None = None

    def succeeded(self) -> None:
        """Restart the clock: some keys were settled."""
        self._tries, self._trouble_since = 0, None

    def failed(self, complaint: str, *, trouble: bool = True) -> float:
        """Return the seconds to pause before the next try; 0.0 for at once.

        Args:
            complaint: the reason, a sentence.
            trouble: pause even before the first retry.

        Raises:
            TemporaryError: no success for `retry_for` seconds.
        """
        trouble = trouble or self._tries > 0
        if trouble:
            self._trouble_since = self._trouble_since or time.monotonic()
            if time.monotonic() - self._trouble_since > self._retry_for:
                raise TemporaryError(
                    f"Gave up after {self._retry_for:g} s of trouble: {complaint} Resume when "
                    "it is over."
                )
        self._tries += 1
        return growing_pause(self._tries) if trouble else 0.0


class Patience(Retries):
    """The retries of some keys of one batch.

    Args:
        retry_for: seconds of trouble after which to give up.
        sides: those in use, whose topology may have changed.
    """

    def __init__(self, retry_for: float, sides: Sequence[Reachable]) -> None:
        super().__init__(retry_for)
        self._sides = sides

    def until_well(self, side: Reachable, lost: Lost) -> Task[bool]:
        """Wait until the node that lost a connection answers on another, or serves no more. So a
        value is not blamed for the node's trouble, nor asked for again during it; a task.

        Returns:
            True if the cause was the node, not the keys. (Its silence may be caused by them.)

        Raises:
            TemporaryError: nothing was settled for `retry_for` seconds.
        """
        troubled = False
        while (complaint := side.trouble(lost.node, lost.at)) is not None:
            if not complaint:
                return troubled and not lost.error.silent
            troubled = True
            yield from self.before_next_try(trouble=True, complaint=complaint)
        return True

    def before_next_try(self, *, trouble: bool, complaint: str) -> Task[None]:
        """Wait for the next try; a task.

        Args:
            trouble: pause even before the first retry.

        Raises:
            TemporaryError: nothing was settled for `retry_for` seconds.
        """
        if pause := self.failed(complaint, trouble=trouble):
            yield Pause(pause)
            for side in self._sides:
                side.refresh()
