"""Do one walk in this thread: find its keys, settle them, report how far it has come.

The parts are those of a local run, without other processes:

1. A scanner thread finds keys, and runs ahead by a bounded number of batches (`scanner`).
2. The runner settles several batches at once (`transfer.runner`).
3. The frontier orders their results, so that each report holds the results of all keys between its
   cursor and the last one's, and of no others: a walk that starts again from the last cursor that
   was reported counts no key twice, and omits none.

Reports come twice a second, and early once they list many keys. Without scanner threads, processes
and Dask it is what a partition's copy *is*: `remote` runs it on other machines.

Not promised: that a walk which is stopped has settled what it found. It reports what is settled.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from rumpx.engine.backend import WalkOrder
from rumpx.engine.events import (
    Advanced,
    CursorUnproven,
    Found,
    FromScanner,
    NodeChanged,
    ScanTrouble,
    Walked,
)
from rumpx.engine.frontier import Frontier
from rumpx.engine.scanner import Scanner, ScanSettings, Shelf
from rumpx.model.counts import Counts
from rumpx.throttle.scan_gate import Gate
from rumpx.transfer.content_stats import NO_KINDS
from rumpx.transfer.handler import Handler
from rumpx.transfer.messages import Ack, Batch, Left, Notice, Streaming
from rumpx.transfer.runner import Runner

_REPORT_SECONDS: Final = 0.5
# Keys that one report lists, before it is sent early.
_MANY_KEYS: Final = 1_000
_TICK: Final = 0.1
_AHEAD: Final = 2
# For the scanner, which may wait for a server; it ends by itself.
_LEAVE_SECONDS: Final = 5.0

Report = Advanced | Notice | Streaming
Ending = Walked | NodeChanged | CursorUnproven


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a walk, in one piece.

    Attributes:
        ending: its last event; None if it was stopped.
        last: the results that were not reported: at the end of a walk they may belong to the cursor
            of the last report, so that a walk which started there again would count them twice.
    """

    ending: Ending | None
    last: Advanced | None


class Admission(Protocol):
    """Decides when one more batch may be settled."""

    def allows(self, in_flight: int) -> bool:
        """Return True if one more may be, beside so many.

        Raises:
            RumpxError: none may be any more, nor continue.
        """

    def gave(self) -> None:
        """Note that one more is."""


class LoneWalk:
    """One walk.

    Args:
        order: the walk.
        settings: of the scans of its side.
        handler, runner: settle its batches.
        gate: its SCANs pass it.
        admission: says when one more batch may be settled.
        shelf: connections of other walks.
        report: takes each report.
    """

    def __init__(
        self,
        order: WalkOrder,
        settings: ScanSettings,
        handler: Handler,
        runner: Runner,
        gate: Gate,
        admission: Admission,
        shelf: Shelf,
        report: Callable[[Report], None],
    ) -> None:
        self._order = order
        self._handler = handler
        self._runner = runner
        self._admission = admission
        self._report = report
        self._frontier: Frontier[Ack] = Frontier(order.cursor)
        self._reported = order.cursor, Counts()
        self._report_due = time.monotonic() + _REPORT_SECONDS
        self._listed = 0
        self._in_flight = 0
        self._left = False
        self._numbers = count()
        self._mail: queue.SimpleQueue[FromScanner] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._stopped = threading.Event()
        self._ending: Ending | None = None
        self._scanner = Scanner(
            order.partition,
            order.walk,
            order.cursor,
            order.run_id,
            settings,
            shelf,
            gate,
            self._emit,
            order.walked,
        )

    def stop(self) -> None:
        """Find no more keys; `run` returns when those in flight are settled. From any thread."""
        self._stopped.set()

    def run(self) -> Finish:
        """Do the walk.

        Raises:
            RumpxError: the run cannot continue. What is settled was reported.
        """
        thread = self._scanner.start()
        try:
            while not self._is_over:
                self._turn()
        finally:
            self._stopped.set()
            self._tell()
            thread.join(_LEAVE_SECONDS)
        if self._left:  # the run ends: what was found is not all settled
            return Finish(None, self._advanced())
        if self._ending:
            self._frontier.book()
        return Finish(self._ending, self._advanced())

    @property
    def in_flight(self) -> int:
        """The number of batches that are not settled."""
        return self._in_flight

    @property
    def _is_over(self) -> bool:
        ended = self._ending or self._stopped.is_set()
        return bool(ended) and not self._in_flight

    def _emit(self, message: FromScanner) -> bool:
        if isinstance(message, Found) and message.keys:
            while not self._room.acquire(timeout=_TICK):
                if self._stopped.is_set():
                    return False
        self._mail.put(message)
        return not self._stopped.is_set()

    def _turn(self) -> None:
        """Take a message of the scanner, or let the runner take a step; report if that is due."""
        delay = self._runner.delay()
        wait = min(_TICK, _TICK if delay is None else delay)
        takes = not self._stopped.is_set() and self._admission.allows(self._in_flight)
        if takes and not (wait == 0 and self._mail.empty()):
            with suppress(queue.Empty):
                self._take(self._mail.get(timeout=wait) if wait else self._mail.get_nowait())
        elif wait:
            time.sleep(wait)
        else:
            self._step()
        if time.monotonic() >= self._report_due:
            self._tell()

    def _take(self, message: FromScanner) -> None:
        match message:
            case Found():
                self._found(message)
            case ScanTrouble():
                raise message.error
            case _:
                self._ending = message

    def _found(self, found: Found) -> None:
        number = next(self._numbers)
        self._frontier.issue(number, found.cursor)
        if not found.keys:
            self._frontier.settle(number)
            return
        self._room.release()
        self._admission.gave()
        self._in_flight += 1
        partition = self._order.partition
        batch = Batch(
            number,
            partition.id,
            self._order.walk,
            found.node,
            partition.db,
            found.keys,
            partition.work,
        )
        self._runner.start(self._handler.settle(batch))

    def _step(self) -> None:
        result = self._runner.step()
        if isinstance(result, Ack):
            self._in_flight -= 1
            self._frontier.settle(result.batch, result.counts, [result], result.kinds)
            self._listed += len(result.failures) + len(result.losses) + len(result.findings)
            if self._listed >= _MANY_KEYS:
                self._tell()
        elif isinstance(result, Left):
            self._in_flight -= 1
            self._left = True
        if streaming := self._handler.take_streaming():
            self._report(streaming)

    def _tell(self) -> None:
        """Report the keys that were settled in order since the last report."""
        self._report_due = time.monotonic() + _REPORT_SECONDS
        self._listed = 0
        for text in self._handler.take_notices():
            self._report(Notice(text))
        if advanced := self._advanced():
            self._report(advanced)

    def _advanced(self) -> Advanced | None:
        """Return the results since the last call, if there are any."""
        frontier, order = self._frontier, self._order
        acks, now = frontier.take_notes(), (frontier.cursor, frontier.counts_ahead)
        if not acks and now == self._reported:
            return None
        self._reported = now
        return Advanced(order.partition.id, order.walk, now[0], joined(acks), now[1])


def joined(acks: list[Ack]) -> Ack:
    """Return one ack, of no batch, for several."""
    return Ack(
        -1,
        sum((ack.counts for ack in acks), Counts()),
        tuple(each for ack in acks for each in ack.failures),
        tuple(each for ack in acks for each in ack.findings),
        sum((ack.kinds for ack in acks), NO_KINDS),
        tuple(each for ack in acks for each in ack.large),
        tuple(each for ack in acks for each in ack.late),
        tuple(each for ack in acks for each in ack.losses),
    )
