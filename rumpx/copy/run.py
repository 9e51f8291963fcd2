"""A copy from its Job to its Summary: prepare, coordinate, sum up."""

from __future__ import annotations

from rumpx.copy.control import Control
from rumpx.copy.coordinator import Coordinator
from rumpx.copy.leftovers import copy_functions, left_behind
from rumpx.copy.prepare import Ask, Plan, prepare
from rumpx.errors import EXIT_OK, EXIT_SOME_KEYS_FAILED, RumpxError
from rumpx.job import Job
from rumpx.report.display import Display
from rumpx.report.snapshot import State, Summary


def run(job: Job, display: Display, control: Control, ask: Ask | None = None) -> Summary:
    """Do a whole copy.

    Args:
        job: what to do.
        display: not started yet; it is started once the copy begins, and stopped in any case.
        control: stops the run from outside; closed at the end.
        ask: asks the user, on a terminal, what to do with keys that the target has.

    Raises:
        RumpxError: the copy was refused, or ended early; then `summary` tells what was copied.
    """
    try:
        plan = prepare(job, ask)
        return _copy(plan, display, control)
    finally:
        control.close()


def _copy(plan: Plan, display: Display, control: Control) -> Summary:
    coordinator = Coordinator(plan, display, control)
    display.start()
    control.running = True
    try:
        coordinator.run()
        if plan.job.functions:
            replace = plan.spec.on_conflict == "replace"
            display.message(copy_functions(plan.source, plan.target, replace=replace))
        behind = left_behind(plan.source, functions_copied=plan.job.functions)
    except RumpxError as error:
        state: State = "stopped" if control.stops else "failed"
        error.summary = summarize(plan, coordinator, state, error.exit_code, ())
        raise
    finally:
        display.stop()
    failed = coordinator.outcome().counts.failed
    code = EXIT_SOME_KEYS_FAILED if failed else EXIT_OK
    return summarize(plan, coordinator, "done", code, behind)


def summarize(
    plan: Plan, coordinator: Coordinator, state: State, exit_code: int, behind: tuple[str, ...]
) -> Summary:
    """The coordinator's books as a Summary."""
    outcome = coordinator.outcome()
    before, after = outcome.before, outcome.after
    seconds = max(outcome.seconds, 1e-6)
    return Summary(
        state=state,
        exit_code=exit_code,
        source=str(plan.job.source),
        target=str(plan.job.target),
        source_version=plan.source.version,
        target_version=plan.target.version,
        seconds=outcome.seconds,
        counts=outcome.counts,
        keys_per_second=outcome.counts.settled / seconds,
        bytes_per_second=outcome.counts.payload_bytes / seconds,
        failures_by_reason=outcome.failures_by_reason,
        failures=outcome.failures,
        source_keys_before=plan.keys_expected,
        source_keys_after=after.source.keys if after and after.source else None,
        target_keys_before=before.target.keys if before and before.target else None,
        target_keys_after=after.target.keys if after and after.target else None,
        missing=outcome.missing,
        walked_again=outcome.walked_again,
        worker_restarts=outcome.restarts,
        left_behind=behind,
        warnings=outcome.warnings,
        partitions=outcome.partitions,
    )
