"""Jobs by name: find their ledgers, list them, and prepare one to be resumed.

Ledgers are in one folder: `--state-dir`, else `$XDG_STATE_HOME/rumpx`, else
`~/.local/state/rumpx`. It and its files are readable by their owner alone: they hold key names.

A job is its endpoints, as given, and for clusters the ids of their nodes. Passwords are not stored:
a resumed job reads the same files or variables (RUMPX_FROM_PASSWORD, RUMPX_TO_PASSWORD) again; one
that was part of a URI must be given by such a variable.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rumpx.engine.plan import Plan
from rumpx.errors import JobHeld, Side, UsageError, unusable
from rumpx.ledger.lock import is_held
from rumpx.ledger.paths import ctl_path, remove
from rumpx.ledger.schema import JobRecord, Progressed, look_into
from rumpx.model.endpoint import Endpoint, parse_endpoint, read_password_file
from rumpx.model.job import Job, with_engine
from rumpx.text import shell_words

_SUFFIX: Final = ".ledger"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a run's ledger: `folder` and `name` as given, or None."""

    folder: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A job as `rumpx jobs` shows it. If its ledger cannot be read, `trouble` has the reason and
    `record` and `progressed` are None. `held` means that a live process works on it."""

    name: str
    path: Path
    held: bool
    record: JobRecord | None
    progressed: Progressed | None
    trouble: str = ""

    @property
    def state(self) -> str:
        """Its state in one word, for people."""
        if self.progressed is None:
            return "unreadable"
        if self.progressed.state == "running" and not self.held:
            return "killed"
        return self.progressed.state


def state_folder(given: str | None) -> Path:
    """Return the folder of the ledgers, after creating it if necessary.

    Raises:
        UsageError: it cannot be created.
    """
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    folder = Path(given) if given else base / "rumpx"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"The folder of the ledgers, {folder}, cannot be created: {error.strerror}. Choose "
            "another --state-dir."
        ) from None
    return folder.absolute()


def ledger_path(folder: Path, name: str) -> Path:
    """Return the path of a job's ledger.

    Raises:
        UsageError: the name is invalid.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} is not a job's name: use up to 64 letters, digits, '.', '_' and '-', "
            "and do not start with '.' or '-'."
        )
    return folder / f"{name}{_SUFFIX}"


def new_ledger_path(place: Place) -> Path:
    """Return the path of a new job's ledger. A finished job of that name is replaced when the new
    one starts.

    Raises:
        JobHeld: another process works on a job of that name.
        UsageError: an unfinished job has that name.
    """
    folder = state_folder(place.folder)
    if place.name is None:
        made_up = time.strftime("%Y%m%d-%H%M%S")
        names = (made_up + (f"-{number}" if number > 1 else "") for number in range(1, 1000))
        return next(
            path for name in names if not (path := ledger_path(folder, name)).exists()
        )
    path = ledger_path(folder, place.name)
    if path.exists():
        if is_held(path):
            raise JobHeld(
                f"Another process works on the job {place.name} now. Wait for its end, or choose "
                "another --job."
            )
        listed = _listed(path)
        if listed.trouble:
            raise UsageError(listed.trouble)
        if listed.state != "done" or (listed.progressed and listed.progressed.failures):
            raise UsageError(
                f"There is a job {place.name} already, which is not done or has failed keys. "
                f"Resume it by rumpx resume {place.name}, or choose another --job."
            )
    return path


def make_room(path: Path) -> None:
    """Remove a finished job, since one of the same name starts: after the checks of the new one,
    and never one that another process has started meanwhile."""
    if path.exists() and _listed(path).state == "done" and not is_held(path):
        remove(path)


def existing_ledger(place: Place) -> Path:
    """Return the path of a named job's ledger.

    Raises:
        UsageError: it does not exist.
    """
    assert place.name is not None
    path = ledger_path(state_folder(place.folder), place.name)
    if not path.exists():
        raise UsageError(f"There is no job {place.name} ({path}). rumpx jobs lists all.")
    return path


def all_jobs(folder: Path) -> list[Listed]:
    """Return all jobs of a folder, the latest first."""
    jobs = [_listed(path) for path in folder.glob(f"*{_SUFFIX}")]
    return sorted(jobs, key=lambda job: job.record.created if job.record else 0.0, reverse=True)


def running_jobs(folder: Path) -> list[Path]:
    """Return the ledgers of the running jobs that have a socket."""
    ledgers = sorted(folder.glob(f"*{_SUFFIX}"))
    return [path for path in ledgers if ctl_path(path).exists() and is_held(path)]


def _listed(path: Path) -> Listed:
    held = is_held(path)
    try:
        record, progressed = look_into(path)
    except UsageError as error:
        return Listed(path.stem, path, held, None, None, str(error))
    return Listed(path.stem, path, held, record, progressed)


def job_to_resume(place: Place, *, retry_failed: bool) -> Path:
    """Return the ledger of the job to resume: the named one, or the only one that can be resumed.

    Raises:
        UsageError: no job, or several, can be resumed, or the name is invalid.
    """
    folder = state_folder(place.folder)
    if place.name is not None:
        return ledger_path(folder, place.name)
    unfinished = [
        job
        for job in all_jobs(folder)
        if job.progressed
        and not job.held
        and (job.state != "done" or (retry_failed and job.progressed.failures))
    ]
    if len(unfinished) == 1:
        return unfinished[0].path
    if not unfinished:
        raise UsageError(f"No job in {folder} can be resumed; rumpx jobs lists all.")
    names = ", ".join(job.name for job in unfinished[:5])
    raise UsageError(f"Several jobs can be resumed: {names}. Name one: rumpx resume NAME.")


def migrates(folder: str | None, name: str | None) -> bool:
    """Return True if the job to resume is a migration; False also if it cannot be read now."""
    try:
        return look_into(job_to_resume(Place(folder, name), retry_failed=False))[0].migrates
    except (OSError, UsageError):
        return False


def prune(folder: Path) -> list[str]:
    """Remove the files of finished jobs; returns their names."""
    done = [job for job in all_jobs(folder) if job.state == "done" and not job.held]
    for job in done:
        remove(job.path)
    return [job.name for job in done]


def make_record(path: Path, plan: Plan, *, migrates: bool) -> JobRecord:
    """Return a new job's record: without passwords, and with the decided conflict policy."""
    job = plan.job
    return JobRecord(
        name=path.stem,
        created=time.time(),
        job=replace(
            job,
            source=_without_passwords(job.source),
            target=_without_passwords(job.target),
            on_conflict=plan.on_conflict,
        ),
        databases=tuple(sorted({place.db for place in plan.databases})),
        source_nodes=_node_ids(plan, "source"),
        target_nodes=_node_ids(plan, "target"),
        source_password=job.source.password is not None,
        target_password=job.target.password is not None,
        migrates=migrates,
    )


def _without_passwords(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, password=None, sentinel_password=None)


def _node_ids(plan: Plan, side: Side) -> tuple[str, ...]:
    topology = plan.source.topology if side == "source" else plan.target.topology
    return tuple(sorted(topology.ids))


def job_again(record: JobRecord, source: str | None = None, target: str | None = None) -> Job:
    """Return the job to resume, with passwords.

    Args:
        source, target: URIs, if given again; they must name the same endpoints.

    Raises:
        UsageError: they do not, or a password is missing.
    """
    job = endpoints_again(record, source, target)
    if job.source.db is None:
        # Databases created since are not part of this job.
        job = replace(job, scope=replace(job.scope, databases=record.databases))
    return job


def job_to_compare(
    place: Place, source: str | None, target: str | None, behaviour: dict[str, Any]
) -> Job:
    """Return a copy's job for its comparison.

    It keeps its endpoints, keys, partitions, limits, clock and field expiries, and its engine; its
    other fields say how to work, and have their defaults again, unless given.

    Args:
        source, target: as for `job_again`.
        behaviour: the given fields of Job that say how, not what. The clock "refuse" counts as not
            given: the job's is the one by which its expiries were copied.

    Raises:
        UsageError: there is no such job, its ledger cannot be read, or as `job_again`.
    """
    record, _ = look_into(existing_ledger(place))
    job = endpoints_again(record, source, target)
    compared = Job(
        job.source,
        job.target,
        job.scope,
        partitions=job.partitions,
        prefixes=job.prefixes,
        on_conflict=job.on_conflict,
        max_failures=job.max_failures,
        functions=job.functions,
        clock=job.clock,
        field_expiries=job.field_expiries,
        limits=job.limits,
        engine=job.engine,
        dask_scheduler=job.dask_scheduler,
        dask_send_passwords=job.dask_send_passwords,
    )
    engine, scheduler = behaviour.get("engine"), behaviour.get("dask_scheduler")
    compared = with_engine(compared, engine, scheduler)
    if behaviour.get("clock") == "refuse":
        behaviour = {name: value for name, value in behaviour.items() if name != "clock"}
    return replace(compared, **behaviour)


def endpoints_again(
    record: JobRecord, source: str | None = None, target: str | None = None
) -> Job:
    """Return the job with passwords and its original scope, to compare both sides."""
    job = record.job
    return replace(
        job,
        source=_endpoint_again(job.source, "source", source, needed=record.source_password),
        target=_endpoint_again(job.target, "target", target, needed=record.target_password),
    )


def _endpoint_again(
    endpoint: Endpoint, side: Side, uri: str | None, *, needed: bool
) -> Endpoint:
    flag = "--from" if side == "source" else "--to"
    password = None
    if uri is not None:
        given = parse_endpoint(uri, side)
        if str(given) != str(endpoint):
            raise UsageError(
                f"{flag} is {given}, but the job's {side} is {endpoint}; a job resumes only "
                "between its original endpoints. Start another one for others."
            )
        password = given.password
    variable = password_variable(side)
    if password is None and endpoint.password_file:
        password = read_password_file(endpoint.password_file, f"{flag}-password-file")
    password = password or os.environ.get(variable) or None
    if needed and password is None:
        raise UsageError(
            f"The password of the {side} is needed again, since ledgers store none: set "
            f"{variable}."
        )
    sentinel = endpoint.sentinel_password_file
    return replace(
        endpoint,
        password=password,
        sentinel_password=sentinel
        and read_password_file(sentinel, f"{flag}-sentinel-password-file"),
    )


def password_variable(side: Side) -> str:
    """Return the environment variable of a side's password."""
    return f"RUMPX_{'FROM' if side == 'source' else 'TO'}_PASSWORD"


def refuse_other_clusters(record: JobRecord, plan: Plan) -> None:
    """Refuse another cluster at the same address. Failovers and new nodes change a cluster, but not
    all of its nodes.

    Raises:
        SourceUnusable, TargetUnusable: no node belongs to the job's cluster.
    """
    sides: tuple[tuple[Side, tuple[str, ...]], ...] = (
        ("source", record.source_nodes),
        ("target", record.target_nodes),
    )
    for side, before in sides:
        now = _node_ids(plan, side)
        if before and now and not set(before) & set(now):
            raise unusable(side)(
                f"The {side} {record.job.source if side == 'source' else record.job.target} is "
                f"another cluster than that of the job {record.name}: none of the job's nodes is "
                "in it. Start another job."
            )


def resume_command(path: Path, folder: str | None, job: Job) -> str:
    """Return the command that resumes a job, with the variables to set for it."""
    words = ["rumpx", "resume", path.stem]
    if folder:
        words += ["--state-dir", str(path.parent)]
    settings = [
        f"{variable}=..."
        for side, endpoint in (("source", job.source), ("target", job.target))
        if endpoint.password and not endpoint.password_file
        # It was part of the URI.
        if os.environ.get(variable := password_variable(side)) != endpoint.password  # type: ignore[arg-type]
    ]
    return " ".join([*settings, shell_words(*words)])
