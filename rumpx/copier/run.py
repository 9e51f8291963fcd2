"""A copy from its Job to its Summary: prepare, keep a ledger, coordinate, summarize.

`run` starts a job, `resume` continues one. Nothing is written to the target before the ledger
exists; from then on every end but SIGKILL names the command that resumes the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from rumpx._version import __version__
from rumpx.copier.checks import first_facts
from rumpx.copier.coordinator import Coordinator
from rumpx.copier.functions import copy_functions, plan_functions
from rumpx.copier.leftovers import left_behind
from rumpx.copier.resume import reconcile
from rumpx.copier.saver import saved_walk
from rumpx.engine.fence import with_writer
from rumpx.engine.plan import Plan, key_partitions
from rumpx.engine.walks import NONE_RETIRED, Retired, RetiredAs, Walk, next_number
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
from rumpx.ledger.failed_keys import write_dead_letters, write_losses
from rumpx.ledger.history import start_of
from rumpx.ledger.ledger import Ledger, Update
from rumpx.ledger.schema import Facts, keep_run
from rumpx.model.display import Display
from rumpx.model.history import RunRecord, Standing
from rumpx.model.job import Engine, Job, Limits, with_engine
from rumpx.model.partitions import RETRIED
from rumpx.model.results import Summary
from rumpx.model.summary import summarize
from rumpx.preflight.draft import Ask
from rumpx.preflight.steps import prepare
from rumpx.processes.control import Control


@dataclass(frozen=True, slots=True)
class Again:
    """Options that a resume can change; None means unchanged.

    Attributes:
        source, target: URIs of the same endpoints, for their passwords.
        workers, max_failures: as in Job.
        retry_failed: retry the failed keys too.
        limits: returns the new limits from those in force before.
        engine, dask_scheduler: as in Job.
    """

    source: str | None = None
    target: str | None = None
    workers: int | None = None
    max_failures: int | None = None
    retry_failed: bool = False
    limits: Callable[[Limits], Limits] | None = None
    engine: Engine | None = None
    dask_scheduler: str | None = None


class Coordinates(Protocol):
    """Makes the coordinator of a run; the arguments are those of `Coordinator`."""

    def __call__(
        self,
        plan: Plan,
        walks: Sequence[Walk],
        facts: Facts,
        ledger: Ledger,
        display: Display,
        control: Control,
        retired: Mapping[RetiredAs, Retired],
    ) -> Coordinator: ...


@dataclass(frozen=True, slots=True)
class Way:
    """A way to do a job.

    Attributes:
        prepare: inspects both sides, refuses, and returns the plan of a run.
        coordinator: does it.
        migrates: its user is asked on the terminal for the cutover.
    """

    prepare: Callable[[Job], Plan]
    coordinator: Coordinates
    migrates: bool = False


def copying(ask: Ask | None = None) -> Way:
    """Return the way to copy.

    Args:
        ask: asks the user, on a terminal, for the policy for keys that the target has.
    """
    return Way(lambda job: prepare(job, ask), Coordinator)


def run(job: Job, display: Display, control: Control, place: Place, way: Way) -> Summary:
    """Do a whole job.

    Args:
        job: the copy.
        display: not started yet; started once the copy starts, and stopped in any case.
        control: stops the run from outside; closed at the end.
        place: the folder and name for its ledger.
        way: how it is done.

    Raises:
        RumpxError: the copy was refused, or ended early; `summary` then has the result so far, and
            `resume` the command that resumes it.
    """
    try:
        path = new_ledger_path(place)
        plan = _prepared(job, display, way)
        facts = replace(first_facts(plan), leased=job.engine == "dask")
        walks = [Walk(partition) for partition in plan.partitions]
        saved = tuple(saved_walk(w, plan.source.run_id(w.partition.node.address)) for w in walks)
        first = Update("running", 0.0, 0.0, facts, (), saved)
        control.running = True  # from here on a signal stops the run, which can then be resumed
        make_room(path)
        record = make_record(path, plan, migrates=way.migrates)
        ledger = Ledger.create(path, record, first)
        return _copy(plan, walks, facts, ledger, display, control, place, way)
    finally:
        control.close()


def resume(
    again: Again,
    display: Display,
    control: Control,
    place: Place,
    way_of: Callable[[Job], Way],
) -> Summary:
    """Resume a job.

    Args:
        again: the changed options.
        display, control: as for `run`.
        place: the folder and name of its ledger; without a name, the only job that can be resumed.
        way_of: returns how a job is resumed.

    Raises:
        JobHeld: another process is running it.
        RumpxError: as `run`.
    """
    try:
        path = job_to_resume(place, retry_failed=again.retry_failed)
        ledger = Ledger.open(path)
        _refuse_switched(ledger)
        job = ledger.record.job
        try:
            job = _job_with(job_again(ledger.record, again.source, again.target), again)
            way = way_of(job)
            plan = _prepared(job, display, way)
            refuse_other_clusters(ledger.record, plan)
            plan, walks, facts = reconcile(plan, ledger.books.walks(), ledger.books.facts())
            retired = ledger.books.retired()
        except RumpxError as error:
            ledger.close()
            error.resume = resume_command(path, place.folder, job)
            raise
        control.running = True
        if again.retry_failed and not any(_being_retried(walk) for walk in walks):
            failed = ((entry.note.db, entry.note.key) for entry in ledger.books.failures())
            tried = key_partitions(plan.source.topology, failed, reason=RETRIED)
            first = next_number(walks, retired)
            walks += [Walk(replace(p, id=n)) for n, p in enumerate(tried, first)]
        return _copy(plan, walks, facts, ledger, display, control, place, way, retired)
    finally:
        control.close()


def _refuse_switched(ledger: Ledger) -> None:
    """Refuse to resume a job after its cutover: the application writes to the target now."""
    follow = ledger.books.facts().follow
    if follow and follow.is_over:
        ledger.close()
        raise UsageError(
            f"The job {ledger.record.name} was cut over, and its application may write to the "
            "target now: nothing is to be resumed. rumpx report shows the cutover."
        )


def _prepared(job: Job, display: Display, way: Way) -> Plan:
    plan = way.prepare(job)
    if job.functions:
        display.message(plan_functions(plan.source, plan.target, _functions_policy(plan)))
    return plan


def _functions_policy(plan: Plan) -> Literal["ask", "replace", "skip", "fail"]:
    """Return the policy for functions: if the target held no keys the user was not asked, and so
    has not allowed to replace anything."""
    return plan.on_conflict if plan.target_keys else plan.job.on_conflict


def _being_retried(walk: Walk) -> bool:
    """Return True for an earlier run's unfinished retry of failed keys, which comes first."""
    return walk.partition.reason == RETRIED and not walk.done


def _job_with(job: Job, again: Again) -> Job:
    job = with_engine(job, again.engine, again.dask_scheduler)
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
    way: Way,
    retired: Mapping[RetiredAs, Retired] = NONE_RETIRED,
) -> Summary:
    command = resume_command(ledger.path, place.folder, plan.job)
    plan = with_writer(plan, ledger.record.mark)
    if reason := writable_by_others(folder := ledger.path.parent):
        warning = f"Other users can remove this job's files in {folder}, since {reason}: chmod 700."
        plan = replace(plan, warnings=(*plan.warnings, warning))
    run = RunRecord(
        ledger.earlier.runs,
        time.time(),
        __version__,
        plan.source.version,
        plan.target.version,
        target_accepts=str(plan.dialect or ""),
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
        coordinator = way.coordinator(plan, walks, facts, ledger, display, control, retired)
        display.start()
        try:
            coordinator.run(finish)
        except RumpxError as error:
            stopped = control.stops or isinstance(error, TimeOver)
            _end_early(coordinator, ledger, run, error, "stopped" if stopped else "failed")
            raise
        except Exception as error:
            unforeseen: RumpxError = machine_limit(error) or RumpxError(
                f"{UNEXPECTED}: {error!r}."
            )
            _end_early(coordinator, ledger, run, unforeseen, "failed")
            raise unforeseen from (error if type(unforeseen) is RumpxError else None)
        finally:
            display.stop()
        return _end(coordinator, ledger, replace(run, state="done", left_behind=tuple(behind)))
    except RumpxError as error:
        error.resume = command
        raise
    finally:
        ledger.close()


def _end_early(
    coordinator: Coordinator, ledger: Ledger, run: RunRecord, error: RumpxError, state: Standing
) -> None:
    """Give an error its summary, and save the end of the run. A failure to do so must not replace
    the error."""
    try:
        ended = replace(run, state=state, exit_code=error.exit_code, error=str(error))
        error.summary = _end(coordinator, ledger, ended)
    except Exception as trouble:
        error.add_note(f"There is no summary of the run: {trouble}")


def _end(coordinator: Coordinator, ledger: Ledger, run: RunRecord) -> Summary:
    """Save the end of a run, and return its summary; warn of what cannot be saved.

    Args:
        run: its record with its state; without an exit code, which the failed keys then decide.
    """
    outcome = coordinator.outcome(run)
    ended = outcome.run
    if ended.exit_code is None:
        failed = EXIT_SOME_KEYS_FAILED if ended.counts.failed else EXIT_OK
        ended = replace(ended, exit_code=failed)
    letters = losses = None
    try:
        letters, losses = write_dead_letters(ledger.path), write_losses(ledger.path)
    except (OSError, UsageError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        ended = _warned(ended, f"The failed and lossy keys could not be listed in files: {why}.")
    ended = replace(ended, ended=time.time())
    try:
        keep_run(ledger.path, ended)
    except UsageError as error:
        ended = _warned(ended, str(error))
    return summarize(
        start_of(ledger.record, outcome.facts),
        [ended],
        outcome.walked,
        outcome.points,
        outcome.failures,
        str(letters) if letters else None,
        str(losses) if losses else None,
    )


def _warned(run: RunRecord, text: str) -> RunRecord:
    return replace(run, warnings=(*run.warnings, text))
