"""The client's end of a cutover: ask for it, tell its steps, and return how it ended.

The run tells its steps with its status. A cutover that succeeds ends the run, and with it the
socket; its ledger then has the outcome, which was written when all connections to the target were
closed. So nothing is said before that is certain.

A signal, or steps that cannot be told any more, cancel the cutover. One that has proven all by then
goes on to its end.

Not promised: that a cutover is cancelled when its client is killed; `rumpx ctl JOB cancel-cutover`
does that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from rumpx.ctl.client import ask
from rumpx.ctl.server import CancelCutover, Cutover, Status
from rumpx.errors import (
    EXIT_DIFFERENCES,
    EXIT_OK,
    EXIT_SOME_KEYS_FAILED,
    Interrupted,
    RumpxError,
    TemporaryError,
    UsageError,
)
from rumpx.ledger.lock import is_held
from rumpx.ledger.schema import open_books
from rumpx.model.follow import CutoverFacts, CutoverOutcome, CutoverStep
from rumpx.processes.control import Control
from rumpx.serialize import from_plain

_POLL_SECONDS: Final = 0.1
EXIT_CODES: Final[dict[CutoverOutcome, int]] = {
    "switch now": EXIT_OK,
    "not in step": TemporaryError.exit_code,
    "not quiet": TemporaryError.exit_code,
    "differences": EXIT_DIFFERENCES,
    "keys not carried": EXIT_SOME_KEYS_FAILED,
    "cancelled": TemporaryError.exit_code,
}


def cut_over(
    ledger: Path,
    request: Cutover,
    tell: Callable[[CutoverStep], None],
    control: Control | None = None,
) -> CutoverFacts:
    """Have a running job cut over, and return the cutover once it has ended.

    Args:
        ledger: of the job.
        request: the options.
        tell: receives each step; an OSError of it cancels the cutover.
        control: asks for a stop, which cancels the cutover; a second one ends the call at once.

    Raises:
        UsageError: the job does not follow, or a cutover is under way.
        TemporaryError: the job cannot be reached, or ended early.
        Interrupted: a stop was requested twice.
        OSError: of `tell`.
    """
    facts = _facts_in(ask(ledger, request))
    try:
        return _until_ended(ledger, facts, tell, control)
    except OSError:
        with suppress(RumpxError):
            ask(ledger, CancelCutover())
        raise


def _until_ended(
    ledger: Path,
    facts: CutoverFacts | None,
    tell: Callable[[CutoverStep], None],
    control: Control | None,
) -> CutoverFacts:
    told, cancelled = 0.0, False
    while facts:
        for step in facts.steps:
            if step.at > told:
                told = step.at
                tell(step)
        if facts.outcome:
            return facts
        if control and control.stops > 1:
            raise Interrupted(
                f"Stopped. The cutover may go on: rumpx ctl {ledger.stem} status shows it.",
                control.signal_number,
            )
        if control and control.stops and not cancelled:
            cancelled = _cancel(ledger, tell)
        time.sleep(_POLL_SECONDS)
        facts = _now(ledger, facts)
    raise TemporaryError(
        f"The job {ledger.stem} ended during the cutover, which proves nothing. Resume it by "
        f"rumpx resume {ledger.stem}, and ask again."
    )


def _cancel(ledger: Path, tell: Callable[[CutoverStep], None]) -> bool:
    """Cancel a cutover; return False if the run does not answer now."""
    try:
        ask(ledger, CancelCutover())
    except UsageError as error:  # it is too late
        tell(CutoverStep(time.time(), str(error).rstrip(".")))
    except TemporaryError:
        return False
    return True


def _now(ledger: Path, before: CutoverFacts) -> CutoverFacts | None:
    """Return how the cutover stands: as before, if the run does not answer at this moment; None if
    the run has ended early."""
    try:
        facts = _facts_in(ask(ledger, Status()))
    except TemporaryError:
        if is_held(ledger):  # it is busy, or ending
            return before
        with open_books(ledger) as books:
            follow = books.facts().follow
        facts = follow.cutover if follow and follow.cutover and follow.cutover.outcome else None
    return facts if facts and facts.asked == before.asked else None  # it may have been resumed


def _facts_in(status: dict[str, Any]) -> CutoverFacts | None:
    """Return the cutover in a run's reply; None if there is none."""
    try:
        facts: CutoverFacts | None = from_plain(
            CutoverFacts | None, status["follow"]["facts"]["cutover"]
        )
    except (LookupError, TypeError, ValueError):
        raise RumpxError("The job sent an invalid reply; it runs another rumpx version.") from None
    return facts
