"""The Python API: each function does what the command of its name does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

if TYPE_CHECKING:
    from rumpx.model.checkup import Checkup
    from rumpx.model.display import Display
    from rumpx.model.endpoint import Endpoint, ReadFrom
    from rumpx.model.job import (
        Clock,
        Engine,
        Feed,
        FieldExpiries,
        Job,
        Limits,
        OnConflict,
        Progress,
        Scope,
    )
    from rumpx.model.results import Summary, Verification
    from rumpx.model.snapshot import Snapshot


class VerifyOptions(TypedDict, total=False):
    """Options of a comparison and of a copy; one that is not given has the command's default.

    databases: source databases; none means every one that holds keys.
    map_db: target database by source database; others keep their number.
    match, exclude: globs as the server reads them. A key is in scope if one of `match` fits, or
        none is given, and none of `exclude` fits.
    types: "string", "list", "set", "zset", "hash", "stream", or a module's; none means all.
    workers: worker processes; 0 chooses.
    batch_keys: keys in one pipeline; 0 chooses by the latency limits.
    size_check: ask each key's size before its DUMP.
    stream_from: bytes from which a value is copied in pieces; None copies every value whole.
    hot_keys: for such values that are written in each of three tries: "whole", "whole=SIZE" or
        "fail".
    max_bytes_in_flight: bytes read and not yet restored, for each worker.
    clock: where the servers' clocks differ by more than a minute: "refuse" (of a job's comparison:
        the job's), keep the "absolute" expiries, or the "relative" times left.
    field_expiries: for hashes whose fields expire, if the target knows no such thing: "keep" (the
        key fails) or "drop" (of a job's comparison: the job's).
    read_from: "primary": the server that `source` names, a cluster's primaries; "replica": a
        replica of each, and never a primary; "prefer-replica": a primary where no replica is fit.
    allow_eviction: read from a source that is nearly full and evicts.
    connect_timeout, timeout: seconds to connect and log in, and for each later answer.
    retry_for: seconds of unbroken trouble after which the run gives up.
    engine: "local", or "dask" for a Dask cluster, which needs the extra `rumpx[dask]`.
    dask_scheduler: its address; "" takes DASK_SCHEDULER_ADDRESS of the environment.
    dask_send_passwords: send the servers' passwords to the workers, only over tls://.
    limits: what it may cost the servers, and when it may run; None for the defaults (of a job's
        comparison: for the job's).
    """

    databases: Iterable[int]
    map_db: Mapping[int, int] | None
    match: Iterable[bytes]
    exclude: Iterable[bytes]
    types: Iterable[str]
    workers: int
    batch_keys: int
    size_check: bool
    stream_from: int | None
    hot_keys: str
    max_bytes_in_flight: int
    clock: Clock
    field_expiries: FieldExpiries
    read_from: ReadFrom
    allow_eviction: bool
    connect_timeout: float
    timeout: float
    retry_for: float
    engine: Engine
    dask_scheduler: str
    dask_send_passwords: bool
    limits: Limits | None


class CheckOptions(VerifyOptions, total=False):
    """Options of a copy that a check has as well: those of `VerifyOptions`, and these.

    on_conflict: for keys that the target has: "replace", "skip" or "fail". "ask", the default,
        refuses a target that holds keys.
    functions: copy function libraries too.
    follow: after the copy keep the target in step with the source, until it is stopped.
    feed: how changes are noticed: by "tracking", by keyspace "notifications", or by "passes" that
        compare both sides, one after the other; "auto" is the first that the source allows.
    delete_extra: with `follow`: delete keys in scope that the target holds and the source lacks;
        needed if the target holds keys. Nothing asks.
    max_deletes: with `follow`: if a pass finds more keys than this that only the target has, delete
        them only after `rumpx ctl JOB accept-deletes`; None, the default, is more than 1,000
        and a tenth of the target's keys.
    partitions: walks of each node and database, rounded up to a power of two; 0 chooses.
    prefixes: partition by these key prefixes instead.
    """

    on_conflict: OnConflict
    functions: bool
    follow: bool
    feed: Feed
    delete_extra: bool
    max_deletes: int | None
    partitions: int
    prefixes: Iterable[bytes]


class CopyOptions(CheckOptions, total=False):
    """Options of a copy: those of `CheckOptions`, and this one.

    max_failures: stop when more keys than this have failed; None for no such limit.
    """

    max_failures: int | None


def copy(
    source: str | Endpoint,
    target: str | Endpoint,
    *,
    job: str | None = None,
    state_dir: str | None = None,
    progress: Progress = "none",
    on_progress: Callable[[Snapshot], None] | None = None,
    **options: Unpack[CopyOptions],
) -> Summary:
    """Copy a live keyspace. Blocks until the copy is done.

    Worker processes are started afresh by multiprocessing, so a script that calls this
    needs the usual `if __name__ == "__main__":` around its own work. Call it from the main thread
    to have Ctrl-C end the copy at once, with KeyboardInterrupt.

    Args:
        source, target: URIs as on the command line (`rumpx.model.endpoint`), or Endpoints, which
            also hold certificates, a forced mode and address maps.
        job: a name for `resume`; None makes one up, which `summary.job` holds.
        state_dir: the folder of ledgers; None as on the command line.
        progress: a display on standard error, as `--progress`.
        on_progress: called with a Snapshot about four times a second, in a thread of its own.
        **options: keys, policy, speed and limits, as `rumpx.CopyOptions` lists them.

    Returns:
        The numbers of keys by outcome, and more. `summary.exit_code` is 3 if some keys failed.

    Raises:
        UsageError: the arguments are invalid.
        SourceUnusable, TargetUnusable: refused before the first write, or permanently.
        TemporaryError: trouble outlasted `retry_for`. `error.summary` holds what was copied;
            `resume` continues.
        TimeOver: the time that `limits` allow is over; `resume` continues.
        TooManyFailures: more keys failed than `max_failures`, or all of the first thousand.
    """
    _refuse_unknown("copy", options, CopyOptions.__optional_keys__)
    wanted = _job(source, target, options)
    from rumpx.processes.forkserver import warm_up

    warm_up()  # before our own imports
    from rumpx.copier.run import run
    from rumpx.follower.run import way_of
    from rumpx.ledger.catalog import Place
    from rumpx.processes.control import Control

    way = way_of(wanted, consent=bool)  # `delete_extra` is the consent
    return run(wanted, _display(progress, on_progress), Control(), Place(state_dir, job), way)


def resume(
    job: str | None = None,
    *,
    state_dir: str | None = None,
    retry_failed: bool = False,
    source: str | None = None,
    target: str | None = None,
    workers: int | None = None,
    max_failures: int | None = None,
    engine: Engine | None = None,
    dask_scheduler: str | None = None,
    limits: Limits | None = None,
    progress: Progress = "none",
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Summary:
    """Resume a copy that was stopped, killed or failed.

    Args:
        job: its name; None for the only one that can be resumed.
        state_dir: the folder of its ledger.
        retry_failed: retry the failed keys, too.
        source, target: URIs of the same endpoints, for their passwords; else those come from the
            files or environment variables that they came from.
        workers, max_failures, engine, dask_scheduler, progress, on_progress: as for `copy`; all
            else stays as it was.
        limits: from now on; None for those that were in force last.

    Returns:
        The Summary of the whole job, earlier runs included.

    Raises:
        UsageError: there is no such job, its ledger cannot be read, or other endpoints are given.
        JobHeld: another process works on it.
        RumpxError: as `copy`.
    """
    from rumpx.processes.forkserver import warm_up

    warm_up()
    from rumpx.copier.run import Again
    from rumpx.copier.run import resume as run
    from rumpx.follower.run import way_again
    from rumpx.ledger.catalog import Place
    from rumpx.processes.control import Control

    again = Again(
        source,
        target,
        workers,
        max_failures,
        retry_failed,
        None if limits is None else lambda before: limits,
        engine,
        dask_scheduler,
    )
    display = _display(progress, on_progress)
    return run(again, display, Control(), Place(state_dir, job), way_again)


def verify(
    source: str | Endpoint | None = None,
    target: str | Endpoint | None = None,
    *,
    job: str | None = None,
    state_dir: str | None = None,
    sample: float = 1.0,
    digest: bool = False,
    ttl_tolerance: float | None = None,
    differences: str | None = None,
    repair: bool = False,
    delete_extra: bool = False,
    yes: bool = False,
    strict: bool = False,
    progress: Progress = "none",
    on_progress: Callable[[Snapshot], None] | None = None,
    **options: Unpack[VerifyOptions],
) -> Verification:
    """Compare both sides in both directions, key by key; repair differences if asked to.

    Needs `if __name__ == "__main__":` around the script's own work, as `copy` does.

    Args:
        source, target: as for `copy`.
        job: a copy whose endpoints, scope, limits and clock are used; then `source` and `target`
            are needed only for passwords, as URIs, and the scope is not given again.
        state_dir: the folder of its ledger, and of the list of differences.
        sample: the share of the keys that is compared, chosen at random; 0.01 is 1 %.
        digest: have both servers return only a checksum of each value.
        ttl_tolerance: seconds by which expiries may differ; None is 1 ms, or 5 ms where a server
            is older than Redis 7.0.
        differences: the file that lists them; None makes one in `state_dir`, if there are any.
        repair: copy missing and different keys again.
        delete_extra: and delete keys in scope that only the target has. Needs `yes`, since nothing
            asks.
        strict: end with 4 also if there are values (of modules) that cannot be compared.
        progress, on_progress: as for `copy`.
        **options: scope, speed and limits, as `rumpx.VerifyOptions` lists them.

    Returns:
        The result and the differences. `exit_code` is 0 if all is equal or repaired, 3 if
        some keys could not be compared, 4 if some differ.

    Raises:
        UsageError: the arguments are invalid.
        SourceUnusable, TargetUnusable: refused before the comparison, or permanently.
        TemporaryError: trouble outlasted `retry_for`, or slots of a cluster moved.
    """
    _refuse_unknown("verify", options, VerifyOptions.__optional_keys__)
    wanted = _compared_job(source, target, job, state_dir, options)
    from rumpx.model.verify_request import Request

    request = Request(
        wanted,
        sample,
        digest,
        None if ttl_tolerance is None else round(ttl_tolerance * 1000),
        differences,
        repair,
        delete_extra,
        yes,
        strict,
        state_dir,
        job,
    )
    from rumpx.processes.forkserver import warm_up

    warm_up()  # before our own imports
    from rumpx.processes.control import Control
    from rumpx.verifier.run import verify as run

    return run(request, _display(progress, on_progress), Control())


def check(
    source: str | Endpoint,
    target: str | Endpoint,
    *,
    sample: int = 10_000,
    read_only: bool = False,
    **options: Unpack[CheckOptions],
) -> Checkup:
    """Check both sides before a copy: obstacles, and what a copy would take.

    A few small payloads are restored to the target under random names that expire, and deleted
    again. Starts no processes.

    Args:
        source, target: as for `copy`.
        sample: number of keys of the source to read.
        read_only: write nothing, and so leave out the proof by real payloads.
        **options: those of the copy, as `rumpx.CheckOptions` lists them.

    Returns:
        The findings. Trouble with a side is in its lines, not raised; `exit_code` is 0, or the
        one that the copy would end with.

    Raises:
        UsageError: the arguments are invalid.
    """
    _refuse_unknown("check", options, CheckOptions.__optional_keys__)
    from rumpx.checker.run import check as run
    from rumpx.model.check_request import Request

    return run(Request(_job(source, target, options), sample, read_only))


def _refuse_unknown(function: str, options: VerifyOptions, known: frozenset[str]) -> None:
    """Raise TypeError for an option that the function does not have."""
    for name in sorted(options.keys() - known):
        raise TypeError(f"rumpx.{function}() got an unexpected keyword argument {name!r}")


def _compared_job(
    source: str | Endpoint | None,
    target: str | Endpoint | None,
    name: str | None,
    state_dir: str | None,
    options: VerifyOptions,
) -> Job:
    from rumpx.errors import UsageError
    from rumpx.model.job import Scope

    if name is not None:
        from rumpx.ledger.catalog import Place, job_to_compare

        scope, fields = _fields(options)
        if scope != Scope():
            raise UsageError("A job has its scope; leave out databases, match and the like.")
        if not (isinstance(source, str | None) and isinstance(target, str | None)):
            raise UsageError("A job has its endpoints; give URIs, for their passwords, or none.")
        return job_to_compare(Place(state_dir, name), source, target, fields)
    if source is None or target is None:
        raise UsageError("Give source and target, or the name of a job.")
    return _job(source, target, options)


def _job(source: str | Endpoint, target: str | Endpoint, options: VerifyOptions) -> Job:
    from rumpx.model.endpoint import parse_endpoint
    from rumpx.model.job import Job

    scope, fields = _fields(options)
    return Job(
        source=parse_endpoint(source, "source") if isinstance(source, str) else source,
        target=parse_endpoint(target, "target") if isinstance(target, str) else target,
        scope=scope,
        **fields,
    )


def _fields(options: VerifyOptions) -> tuple[Scope, dict[str, Any]]:
    """Options → a Scope, and the Job's other fields; None stands for one that is not given, unless
    it means "off"."""
    from rumpx.model.job import Scope
    from rumpx.model.options import FIELDS

    given: dict[str, Any] = {
        name: value
        for name, value in options.items()
        if value is not None or (name in FIELDS and FIELDS[name].off)
    }
    scope = {name: given.pop(name) for name in Scope.__slots__ if name in given}
    if "map_db" in scope:
        scope["map_db"] = scope["map_db"].items()
    if "prefixes" in given:
        given["prefixes"] = tuple(given["prefixes"])
    return Scope(**{name: tuple(values) for name, values in scope.items()}), given


def _display(progress: Progress, on_progress: Callable[[Snapshot], None] | None) -> Display:
    from rumpx.display.callback import with_callback
    from rumpx.display.display import open_display

    display = open_display(progress, sys.stderr)
    return with_callback(display, on_progress) if on_progress else display
