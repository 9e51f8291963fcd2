"""The user's part of a migration: Enter cuts over.

A display that shows nothing by itself. When the target is in step for the first time, it says how
to go on. A thread reads the terminal: Enter asks the run for a cutover by its control socket, as
`rumpx ctl JOB cutover` does, or says why it is too early. Without a terminal, or at its end, only
`rumpx ctl` cuts over. With `at_once` it asks by itself, and again while the source is not quiet.

Meanwhile the terminal does not echo: an Enter that moves the cursor would leave a line of the bars
above the messages. Its modes are restored at the end, and while Ctrl-Z has stopped the process.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Final, TextIO

from rumpx.ctl.client import running_job
from rumpx.ctl.cutover import cut_over
from rumpx.ctl.server import Cutover
from rumpx.display.display import Silent
from rumpx.display.keyboard import Keyboard
from rumpx.errors import RumpxError
from rumpx.ledger.catalog import Place
from rumpx.model.display import Display
from rumpx.model.follow import CutoverOutcome
from rumpx.model.snapshot import Snapshot

_AGAIN: Final[tuple[CutoverOutcome, ...]] = ("not in step", "not quiet")
_AGAIN_SECONDS: Final = 5.0


class Prompt(Silent):
    """Asks for the cutover.

    Args:
        main: shows the messages.
        state_dir: the folder of ledgers, if given.
        keys: the terminal, or another input; None if nothing is read.
        at_once: cut over as soon as the target is in step.
    """

    def __init__(
        self, main: Display, state_dir: str | None, keys: TextIO | None, *, at_once: bool
    ) -> None:
        self._main = main
        self._state_dir = state_dir
        self._keys = None if at_once else keys
        self._keyboard = Keyboard(self._keys, lines=True)
        self._at_once = at_once
        self._latest: Snapshot | None = None
        self._told = False

    def start(self) -> None:
        """Start to read."""
        if self._keyboard.there:
            self._keyboard.take()
            if signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
                signal.signal(signal.SIGTSTP, self._suspend)
        if self._keys is not None:
            threading.Thread(target=self._read, name="prompt", daemon=True).start()

    def stop(self) -> None:
        """Restore the terminal."""
        self._keyboard.give_back()
        if signal.getsignal(signal.SIGTSTP) == self._suspend:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Restore the terminal, and stop until SIGCONT; the next snapshot takes it again."""
        self._keyboard.give_back()
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), number)  # to this thread: so it stops here
        signal.signal(number, self._suspend)

    def show(self, snapshot: Snapshot) -> None:
        """Take the state; at the first moment in step, say how to go on."""
        self._latest = snapshot
        self._keyboard.keep()
        follow = snapshot.follow
        if self._told or not follow or follow.phase != "in step":
            return
        self._told = True
        if self._at_once:
            threading.Thread(target=self._cut_over_at_once, name="prompt", daemon=True).start()
            return
        enter = "press Enter, or " if self._keyboard.there else ""
        self._main.message(
            f"The target is in step. Stop all that writes to the source, then {enter}call rumpx "
            f"ctl {snapshot.job} cutover."
        )

    def _read(self) -> None:
        """Cut over at each line until the input ends."""
        assert self._keys
        for _ in self._keys:
            if too_early := self._too_early():
                self._main.message(too_early)
            else:
                self._cut_over()

    def _too_early(self) -> str:
        """Return why it is too early for a cutover; "" if it is not."""
        now = self._latest
        follow = now.follow if now else None
        if not now or not follow or follow.phase == "collecting":
            return "Not yet: the copy is under way."
        if follow.phase == "in step":
            return ""
        doing = "the first pass proves the copy" if follow.phase == "proving" else (
            "a pass looks for changes that may have been missed"
        )
        return f"Not yet in step: {follow.waits_for or doing}."

    def _cut_over_at_once(self) -> None:
        while self._cut_over() in _AGAIN:
            time.sleep(_AGAIN_SECONDS)

    def _cut_over(self) -> CutoverOutcome:
        """Cut over; return the outcome, "" if there is none."""
        assert self._latest
        try:
            ledger = running_job(Place(self._state_dir, self._latest.job))
            facts = cut_over(ledger, Cutover(), lambda step: self._main.message(step.text))
        except RumpxError as error:
            self._main.message(str(error))
            return ""
        if facts.outcome != "switch now":  # the run itself tells that, at its end
            for sentence in facts.told:
                self._main.message(sentence)
        return facts.outcome
