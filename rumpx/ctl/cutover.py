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
    while True:
        for step in facts.steps:
            if step.at > told:
                told = step.at
                tell(step)
        if facts.outcome:
            return facts
        time.sleep(_POLL_SECONDS)
        try:
            facts = _facts_in(ask(ledger, Status()))
        except RumpxError:
            facts = _facts_at_end(ledger)


def _facts_at_end(ledger: Path) -> CutoverFacts:
    """Return the cutover of a job whose run does not answer any more."""
    while is_held(ledger):  # it is ending
        time.sleep(_POLL_SECONDS)
    with open_books(ledger) as books:
        follow, state = books.facts().follow, books.progressed().state
    facts = follow.cutover if follow else None
    if state != "done" or facts is None or not facts.outcome:
        raise TemporaryError(
            f"The job {ledger.stem} ended during the cutover, which proves nothing. Resume it by "
            f"rumpx resume {ledger.stem}, and ask again."
        )
    return facts


def _facts_in(status: dict[str, Any]) -> CutoverFacts:
    """Return the cutover in a run's reply."""
    try:
        facts: CutoverFacts = from_plain(CutoverFacts, status["follow"]["facts"]["cutover"])
    except (LookupError, TypeError, ValueError):
        raise RumpxError("The job sent an invalid reply; it runs another rumpx version.") from None
    return facts
