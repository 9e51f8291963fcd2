"""A comparison from its Request to its Verification: prepare, compare, repair, summarize."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rumpx.engine.fence import with_writer
from rumpx.engine.plan import Plan
from rumpx.errors import (
    EXIT_DIFFERENCES,
    EXIT_OK,
    EXIT_SOME_KEYS_FAILED,
    JobHeld,
    RumpxError,
    TimeOver,
    UsageError,
)
from rumpx.ledger.catalog import ledger_path, state_folder
from rumpx.ledger.lock import hold, is_held
from rumpx.ledger.paths import lock_path
from rumpx.ledger.schema import keep_verification, look_into
from rumpx.model.display import Display
from rumpx.model.results import Verification
from rumpx.model.snapshot import State
from rumpx.model.verify_request import Request
from rumpx.processes.control import Control
from rumpx.verifier.compare_spec import CompareSpec
from rumpx.verifier.confidence import what_a_sample_proves
from rumpx.verifier.differences import Findings
from rumpx.verifier.overseer import Confirm, Verifier
from rumpx.verifier.plan import prepare_comparison


def verify(
    request: Request, display: Display, control: Control, confirm: Confirm | None = None
) -> Verification:
    """Compare both sides, and repair differences on request.

    Args:
        display: not started yet; started once the comparison starts, and stopped in any case.
        control: stops it from outside; closed at the end.
        confirm: asks the user, on a terminal, for permission to delete.

    Raises:
        RumpxError: refused, or ended early; `summary` then holds the results so far.
    """
    try:
        if request.delete_extra and not request.yes and confirm is None:
            raise UsageError(
                "--delete-extra asks before it deletes, but there is no terminal: give --yes."
            )
        _refuse_to_repair_a_follow(request)
        run = _run_compared(request)
        listed = _differences_path(request)
        plan, spec = prepare_comparison(request)
        with contextlib.ExitStack() as stack:
            if request.repair:
                plan = with_writer(plan, stack.enter_context(_mark(request)))
            findings = Findings(listed, spec.scope)
            verifier = Verifier(
                plan, spec.rules.coarse_tolerance, request, findings, display, control, confirm
            )
            display.start()
            control.running = True
            try:
                verifier.run()
            except RumpxError as error:
                stopped = control.stops or isinstance(error, TimeOver)
                state: State = "stopped" if stopped else "failed"
                result = _sum_up(plan, spec, request, verifier, findings, state, error.exit_code)
                error.summary = _kept(replace(result, error=str(error)), request, run)
                raise
            finally:
                display.stop()
        result = _sum_up(plan, spec, request, verifier, findings, "done", None)
        return _kept(result, request, run)
    finally:
        control.close()


def _refuse_to_repair_a_follow(request: Request) -> None:
    """Refuse to write what a running follow writes, too: an older value could land over a newer."""
    if not request.repair or request.name is None:
        return
    path = ledger_path(state_folder(request.state_dir), request.name)
    if is_held(path) and look_into(path)[0].job.follow:
        raise UsageError(
            f"The job {request.name} follows its source now, and repairs what differs by itself: "
            "leave out --repair, or stop it first."
        )


def _run_compared(request: Request) -> int | None:
    """Return the last run of the compared job before the comparison; None without a job, or if it
    is running."""
    if request.name is None:
        return None
    path = ledger_path(state_folder(request.state_dir), request.name)
    return None if is_held(path) else look_into(path)[1].runs


@contextlib.contextmanager
def _mark(request: Request) -> Iterator[str]:
    """Return the mark of the repairs; connections of earlier repairs with the same mark are ended
    first. It is the compared job's, unless that is running; without a job, one that is kept beside
    the ledgers until these repairs end, so that the next ones find it if these are killed."""
    made_up = f"verify.{os.urandom(6).hex()}"
    if request.name is not None:
        path = ledger_path(state_folder(request.state_dir), request.name)
        yield made_up if is_held(path) else look_into(path)[0].mark
        return
    ends = f"{request.job.source} {request.job.target}"
    name = f"verify-{hashlib.blake2b(ends.encode(), digest_size=6).hexdigest()}"
    try:
        path = state_folder(request.state_dir) / name
        lock = hold(path)
    except (JobHeld, UsageError, OSError):  # another comparison is running, or no such folder
        yield made_up
        return
    try:
        before = os.pread(lock, 100, 0).decode()
        if not before:
            os.pwrite(lock, made_up.encode(), 0)
        yield before or made_up
        lock_path(path).unlink(missing_ok=True)
    finally:
        os.close(lock)


def _kept(result: Verification, request: Request, run: int | None) -> Verification:
    """Save the result for reports in the ledger of the compared job; warn if that fails. Skip it if
    the job was resumed meanwhile."""
    if request.name is None or run is None:
        return result
    try:
        if _run_compared(request) == run:
            keep_verification(ledger_path(state_folder(request.state_dir), request.name), result)
    except UsageError as error:
        return replace(result, warnings=(*result.warnings, str(error)))
    return result


def _differences_path(request: Request) -> Path:
    if request.differences:
        path = Path(request.differences)
        if not path.parent.is_dir() or path.is_dir():
            raise UsageError(f"--differences: {path} must be a file in an existing folder.")
        return path
    name = time.strftime("verify-%Y%m%d-%H%M%S.differences.jsonl")
    return state_folder(request.state_dir) / name


def _sum_up(
    plan: Plan,
    spec: CompareSpec,
    request: Request,
    verifier: Verifier,
    findings: Findings,
    state: State,
    exit_code: int | None,
) -> Verification:
    verdict, counts = verifier.verdict, verifier.counts()
    incomparable = findings.incomparable + verdict.incomparable
    listed = findings.flush()
    findings.close()
    if exit_code is None:
        exit_code = EXIT_OK
        if findings.total > verdict.repaired or (request.strict and incomparable):
            exit_code = EXIT_DIFFERENCES
        elif counts.failed:
            exit_code = EXIT_SOME_KEYS_FAILED
    seconds = max(verifier.seconds, 1e-6)
    sample = ""
    if request.sample < 1.0:
        differing = counts.different + counts.missing + counts.extra
        sample = what_a_sample_proves(counts.compared + counts.extra, differing)
    return Verification(
        state=state,
        exit_code=exit_code,
        source=str(plan.job.source),
        target=str(plan.job.target),
        source_version=plan.source.version,
        target_version=plan.target.version,
        seconds=verifier.seconds,
        counts=counts,
        keys_per_second=counts.compared / seconds,
        bytes_per_second=counts.payload_bytes / seconds,
        proof="64-bit checksums equal" if spec.digests else "values and expiries equal",
        sample=sample,
        back=verdict.back,
        differences=dict(findings.kinds.most_common()),
        prefixes=findings.prefixes(),
        differences_file=str(listed) if listed else None,
        repaired=verdict.repaired,
        failures_by_reason=dict(verdict.reasons.most_common()),
        failures=tuple(verdict.failures),
        worker_restarts=verifier.engine.restarts,
        warnings=tuple(verifier.engine.warnings),
        incomparable=dict(incomparable.most_common()),
    )
