"""A copy from its Job to its Summary: prepare, keep a ledger, coordinate, sum up.

`run` begins a job, `resume` goes on with one. Nothing is written to the target before the ledger
is there; from then on every end, but for SIGKILL, tells the command that goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rumpx._version import __version__
from rumpx.copier.coordinator import Coordinator, first_facts, saved_walk
from rumpx.copier.functions import copy_functions, plan_functions
from rumpx.copier.leftovers import left_behind
from rumpx.copier.resume import reconcile
from rumpx.engine.fence import with_writer
from rumpx.engine.plan import Plan, key_partitions
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk
from rumpx.errors import (
    EXIT_OK,
    EXIT_SOME_KEYS_FAILED,
    UNEXPECTED,
    RumpxError,
    TimeOver,
    UsageError,
    machine_limit,
)
from rumpx.files import writable_by_others
from rumpx.ledger.catalog import (
    Place,
    job_again,
    job_to_resume,
    make_record,
    make_room,
    new_ledger_path,
    refuse_other_clusters,
    resume_command,
)
from rumpx.ledger.failed_keys import write_dead_letters
from rumpx.ledger.ledger import Ledger, Update
from rumpx.ledger.schema import Facts, keep_run
from rumpx.model.display import Display
from rumpx.model.history import RunRecord, Standing
from rumpx.model.job import Job, Limits
from rumpx.model.partitions import RETRIED
from rumpx.model.results import Summary
from rumpx.model.snapshot import State
from rumpx.preflight.draft import Ask
from rumpx.preflight.steps import prepare
from rumpx.processes.control import Control


@dataclass(frozen=True, slots=True)
class Again:
    """What may be said anew when a job goes on; None means as it was.

    Attributes:
        source, target: URIs of the same endpoints, for their passwords.
        workers, max_failures: as in Job.
        retry_failed: try the failed keys again, too.
        limits: makes the limits out of those before.
    """

    source: str | None = None
    target: str | None = None
    workers: int | None = None
    max_failures: int | None = None
    retry_failed: bool = False
    limits: Callable[[Limits], Limits] | None = None


def run(
    job: Job, display: Display, control: Control, place: Place, ask: Ask | None = None
) -> Summary:
    """Do a whole copy.

    Args:
        job: what to do.
        display: not started yet; it is started once the copy begins, and stopped in any case.
        control: stops the run from outside; closed at the end.
        place: where its ledger is to be.
        ask: asks the user, on a terminal, what to do with keys that the target has.

    Raises:
        RumpxError: the copy was refused, or ended early; then `summary` tells what was copied,
            and `resume` how to go on.
    """
    try:
        path = new_ledger_path(place)
        plan = _prepared(job, display, ask)
        facts = first_facts(plan)
        walks = [Walk(partition) for partition in plan.partitions]
        saved = tuple(saved_walk(w, plan.source.run_id(w.partition.node.address)) for w in walks)
        first = Update("running", 0.0, 0.0, facts, (), saved)
        control.running = True  # from here on a signal stops the run, which can then be resumed
        make_room(path)
        ledger = Ledger.create(path, make_record(path, plan), first)
        return _copy(plan, walks, facts, ledger, display, control, place)
    finally:
        control.close()


def resume(again: Again, display: Display, control: Control, place: Place) -> Summary:
    """Go on with a job.

    Args:
        again: what is said anew.
        place: where its ledger is; without a name the only one that can be gone on with.

    Raises:
        JobHeld: another process works on it.
        RumpxError: as `run`.
    """
    try:
        path = job_to_resume(place, retry_failed=again.retry_failed)
        ledger = Ledger.open(path)
        job = ledger.record.job
        try:
            job = _job_with(job_again(ledger.record, again.source, again.target), again)
            plan = _prepared(job, display)
            refuse_other_clusters(ledger.record, plan)
            plan, walks, facts = reconcile(plan, ledger.books.walks(), ledger.books.facts())
            retired = ledger.books.retired()
        except RumpxError as error:
            ledger.close()
            error.resume = resume_command(path, place.folder, job)
            raise
        control.running = True
        if again.retry_failed and not any(_being_retried(walk) for walk in walks):
            failed = ((entry.failure.db, entry.failure.key) for entry in ledger.books.failures())
            tried = key_partitions(plan.source.topology, failed, reason=RETRIED)
            added = len(walks) + sum(each.walks for each in retired.values())
            walks += [Walk(replace(p, id=n)) for n, p in enumerate(tried, added)]
        return _copy(plan, walks, facts, ledger, display, control, place, retired)
    finally:
        control.close()


def _prepared(job: Job, display: Display, ask: Ask | None = None) -> Plan:
    plan = prepare(job, ask)
    if job.functions:
        display.message(plan_functions(plan.source, plan.target, _functions_policy(plan)))
    return plan


def _functions_policy(plan: Plan) -> Literal["ask", "replace", "skip", "fail"]:
    """Where the target held no key nothing was asked, and so no leave given to replace anything."""
    return plan.on_conflict if plan.target_keys else plan.job.on_conflict


def _being_retried(walk: Walk) -> bool:
    """An earlier run was about to try these failed keys again: that comes first."""
    return walk.partition.reason == RETRIED and not walk.done


def _job_with(job: Job, again: Again) -> Job:
    if again.workers is not None:
        job = replace(job, workers=again.workers)
    limits = again.limits(job.limits) if again.limits else job.limits
    return replace(job, max_failures=again.max_failures, limits=limits)


def _copy(
    plan: Plan,
    walks: list[Walk],
    facts: Facts,
    ledger: Ledger,
    display: Display,
    control: Control,
    place: Place,
    retired: Mapping[RetiredAs, Retired] = NONE_RETIRED,
) -> Summary:
    command = resume_command(ledger.path, place.folder, plan.job)
    plan = with_writer(plan, ledger.record.mark)
    if reason := writable_by_others(folder := ledger.path.parent):
        warning = f"Other users can remove this job's files in {folder}, since {reason}: chmod 700."
        plan = replace(plan, warnings=(*plan.warnings, warning))
    run = RunRecord(
        ledger.earlier.runs, time.time(), __version__, plan.source.version, plan.target.version
    )
    behind: list[str] = []

    def finish() -> None:
        if plan.job.functions:
            told = copy_functions(plan.source, plan.target, _functions_policy(plan))
            if told:
                display.message(told)
        behind.extend(left_behind(plan.source, functions_copied=plan.job.functions))

    try:
        ledger.begin(run, plan.job)
        coordinator = Coordinator(plan, walks, facts, ledger, display, control, retired)
        display.start()
        try:
            coordinator.run(finish)
        except RumpxError as error:
            stopped = control.stops or isinstance(error, TimeOver)
            state: State = "stopped" if stopped else "failed"
            _sum_up_early(plan, coordinator, ledger, run, error, state)
            raise
        except Exception as error:
            unforeseen: RumpxError = machine_limit(error) or RumpxError(
                f"{UNEXPECTED}: {error!r}."
            )
            _sum_up_early(plan, coordinator, ledger, run, unforeseen, "failed")
            raise unforeseen from (error if type(unforeseen) is RumpxError else None)
        finally:
            display.stop()
        summary = summarize(plan, coordinator, ledger, "done", None, tuple(behind))
        return _ended(ledger, run, summary)
    except RumpxError as error:
        error.resume = command
        raise
    finally:
        ledger.close()


def _sum_up_early(
    plan: Plan,
    coordinator: Coordinator,
    ledger: Ledger,
    run: RunRecord,
    error: RumpxError,
    state: State,
) -> None:
    """Give an error its summary, and write down how the run ended. What goes wrong with that must
    not take the error's place: the ledger goes on without."""
    try:
        summary = summarize(plan, coordinator, ledger, state, error.exit_code, ())
        error.summary = _ended(ledger, run, replace(summary, error=str(error)))
    except Exception as trouble:
        error.add_note(f"There is no summary of it: {trouble}")


def _ended(ledger: Ledger, run: RunRecord, summary: Summary) -> Summary:
    """Write down how a run ended; the same summary, with a warning if that cannot be."""
    states: dict[State, Standing] = {"done": "done", "stopped": "stopped"}
    ended = replace(
        run,
        ended=time.time(),
        state=states.get(summary.state, "failed"),
        exit_code=summary.exit_code,
        error=summary.error,
        seconds=summary.seconds,
        counts=summary.counts,
        failures_by_reason=summary.failures_by_reason,
        source_keys_after=summary.source_keys_after,
        target_keys_after=summary.target_keys_after,
        missing=summary.missing,
        walked_again=summary.walked_again,
        worker_restarts=summary.worker_restarts,
        left_behind=summary.left_behind,
        warnings=summary.warnings,
    )
    try:
        keep_run(ledger.path, ended)
    except UsageError as error:
        return replace(summary, warnings=(*summary.warnings, str(error)))
    return summary


def summarize(
    plan: Plan,
    coordinator: Coordinator,
    ledger: Ledger,
    state: State,
    exit_code: int | None,
    behind: tuple[str, ...],
) -> Summary:
    """The coordinator's books as a Summary; the failed keys are listed in their file.

    Args:
        exit_code: None where the copy came to its end, and the failed keys decide.
    """
    outcome = coordinator.outcome()
    if exit_code is None:
        exit_code = EXIT_SOME_KEYS_FAILED if outcome.counts.failed else EXIT_OK
    before, after = outcome.before, outcome.after
    seconds = max(outcome.seconds, 1e-6)
    warnings = outcome.warnings
    letters = None
    try:
        letters = write_dead_letters(ledger.path)
    except (OSError, UsageError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        warnings += (f"The failed keys could not be listed in a file: {why}.",)
    return Summary(
        state=state,
        exit_code=exit_code,
        job=ledger.record.name,
        runs=ledger.earlier.runs,
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
        dead_letters=str(letters) if letters else None,
        source_keys_before=sum(place.keys for place in plan.databases),
        source_keys_after=after.source.keys if after and after.source else None,
        target_keys_before=before.target.keys if before.target else None,
        target_keys_after=after.target.keys if after and after.target else None,
        missing=outcome.missing,
        walked_again=outcome.walked_again,
        worker_restarts=outcome.restarts,
        left_behind=behind,
        warnings=warnings,
        partitions=outcome.partitions,
        held_seconds=outcome.held_seconds,
        content=outcome.content,
    )
