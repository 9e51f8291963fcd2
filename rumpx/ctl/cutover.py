"""The client's end of a cutover: ask for it, tell its steps, and return how it ended.

The run tells its steps with its status. A cutover that succeeds ends the run, and with it the
socket; its ledger then has the outcome, which was written when all connections to the target were
closed. So nothing is said before that is certain.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rumpx.ctl.client import ask
from rumpx.ctl.server import Cutover, Status
from rumpx.errors import (
    EXIT_DIFFERENCES,
    EXIT_OK,
    EXIT_SOME_KEYS_FAILED,
    RumpxError,
    TemporaryError,
)
from rumpx.ledger.lock import is_held
from rumpx.ledger.schema import open_books
from rumpx.model.follow import CutoverFacts, CutoverOutcome, CutoverStep
from rumpx.serialize import from_plain

_POLL_SECONDS: Final = 0.1
EXIT_CODES: Final[dict[CutoverOutcome, int]] = {
    "switch now": EXIT_OK,
    "not in step": TemporaryError.exit_code,
    "not quiet": TemporaryError.exit_code,
    "differences": EXIT_DIFFERENCES,
    "keys not carried": EXIT_SOME_KEYS_FAILED,
}


def cut_over(
    ledger: Path, request: Cutover, tell: Callable[[CutoverStep], None]
) -> CutoverFacts:
    """Have a running job cut over, and return the cutover once it has ended.

    Args:
        ledger: of the job.
        request: the options.
        tell: receives each step.

    Raises:
        UsageError: the job does not follow, or a cutover is under way.
        TemporaryError: the job cannot be reached, or ended early.
    """
    facts = _facts_in(ask(ledger, request))
    told = 0.0
    while facts:
        for step in facts.steps:
            if step.at > told:
                told = step.at
                tell(step)
        if facts.outcome:
            return facts
        time.sleep(_POLL_SECONDS)
        facts = _now(ledger, facts)
    raise TemporaryError(
        f"The job {ledger.stem} ended during the cutover, which proves nothing. Resume it by "
        f"rumpx resume {ledger.stem}, and ask again."
    )


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
