"""The Python API: each function does what the command of its name does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rumpx.model.checkup import Checkup
    from rumpx.model.display import Display
    from rumpx.model.endpoint import Endpoint, ReadFrom
    from rumpx.model.job import Clock, Job, Limits, OnConflict, Progress, Scope
    from rumpx.model.results import Summary, Verification
    from rumpx.model.snapshot import Snapshot


def copy(
    source: str | Endpoint,
    target: str | Endpoint,
    *,
    workers: int = 4,
    databases: Iterable[int] = (),
    map_db: Mapping[int, int] | None = None,
    match: Iterable[bytes] = (),
    exclude: Iterable[bytes] = (),
    types: Iterable[str] = (),
    on_conflict: OnConflict = "ask",
    partitions: int = 0,
    prefixes: Iterable[bytes] = (),
    batch_keys: int = 0,
    size_check: bool = True,
    big_key: int = 64 * 2**20,
    max_bytes_in_flight: int = 16 * 2**20,
    clock: Clock = "refuse",
    read_from: ReadFrom = "primary",
    functions: bool = False,
    allow_eviction: bool = False,
    connect_timeout: float = 5.0,
    timeout: float = 30.0,
    retry_for: float = 300.0,
    limits: Limits | None = None,
    max_failures: int | None = None,
    job: str | None = None,
    state_dir: str | None = None,
    progress: Progress = "none",
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Summary:
    """Copy a live keyspace. Blocks until the copy is done.

    Worker processes are started afresh by multiprocessing, so a script that calls this
    needs the usual `if __name__ == "__main__":` around its own work. Call it from the main thread
    to have Ctrl-C end the copy at once, with KeyboardInterrupt.

    Args:
        source, target: URIs as on the command line (`rumpx.model.job`), or Endpoints, which
            also hold certificates, a forced mode and address maps.
        workers: worker processes.
        databases: source databases; none means every one that holds keys.
        map_db: target database by source database; others keep their number.
        match, exclude: globs as the server reads them. A key is copied if one of `match` fits, or
            none is given, and none of `exclude` fits.
        types: "string", "list", "set", "zset", "hash", "stream"; none means all.
        on_conflict: what to do with keys that the target has: "replace", "skip" or "fail". "ask"
            refuses a target that holds keys, since there is nobody to ask.
        partitions: walks of each node and database, rounded up to a power of two; 0 chooses.
        prefixes: partition by these key prefixes instead.
        batch_keys: keys in one pipeline; 0 chooses by distance.
        size_check: ask each key's size before its DUMP.
        big_key: bytes from which a value is DUMPed with nothing else in flight on its connection.
        max_bytes_in_flight: bytes asked for and not yet restored, for each worker.
        clock: where the servers' clocks differ by more than a minute: "refuse", keep the
            "absolute" instants of expiry, or the "relative" times left.
        read_from: "primary": what `source` names, a cluster's primaries; "replica": a replica of
            each, and never a primary; "prefer-replica": a primary where no replica is fit.
        functions: copy function libraries too.
        allow_eviction: read from a source that is nearly full and evicts.
        connect_timeout, timeout: seconds to connect and log in, and for each later answer.
        retry_for: seconds of unbroken trouble after which the copy gives up.
        limits: what it may cost the servers, and when it may run; None for the defaults.
        max_failures: stop when more keys than this have failed; None for no such limit.
        job: a name for `resume`; None makes one up, which `summary.job` tells.
        state_dir: the folder of ledgers; None as on the command line.
        progress: a display on standard error, as `--progress`.
        on_progress: called with a Snapshot about four times a second, in a thread of its own.

    Returns:
        What was copied and what was not. `summary.exit_code` is 3 if some keys failed.

    Raises:
        UsageError: the arguments cannot be meant.
        SourceUnusable, TargetUnusable: refused before the first write, or permanently.
        TemporaryError: trouble outlasted `retry_for`. `error.summary` tells what was copied, and
            `resume` goes on.
        TimeOver: the time that `limits` leave it is over; `resume` goes on.
        TooManyFailures: more keys failed than `max_failures`, or all of the first thousand.
    """
    from rumpx.model.job import Limits

    wanted = _job(
        source,
        target,
        _scope(databases, map_db, match, exclude, types),
        workers=workers,
        partitions=partitions,
        prefixes=tuple(prefixes),
        batch_keys=batch_keys,
        on_conflict=on_conflict,
        size_check=size_check,
        big_key=big_key,
        max_bytes_in_flight=max_bytes_in_flight,
        clock=clock,
        read_from=read_from,
        functions=functions,
        allow_eviction=allow_eviction,
        connect_timeout=connect_timeout,
        timeout=timeout,
        retry_for=retry_for,
        limits=limits or Limits(),
        max_failures=max_failures,
    )
    from rumpx.processes.forkserver import warm_up

    warm_up()  # before our own imports
    from rumpx.copier.run import run
    from rumpx.ledger.catalog import Place
    from rumpx.processes.control import Control

    return run(wanted, _display(progress, on_progress), Control(), Place(state_dir, job))


def resume(
    job: str | None = None,
    *,
    state_dir: str | None = None,
    retry_failed: bool = False,
    source: str | None = None,
    target: str | None = None,
    workers: int | None = None,
    max_failures: int | None = None,
    limits: Limits | None = None,
    progress: Progress = "none",
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Summary:
    """Go on with a copy that ended early, however it ended.

    Args:
        job: its name; None is the only one that can be gone on with.
        state_dir: the folder of its ledger.
        retry_failed: try the keys that failed once more, too.
        source, target: URIs of the same endpoints, for their passwords; else those come from the
            files or environment variables that they came from.
        workers, max_failures, progress, on_progress: as for `copy`; the rest is as it was.
        limits: others from now on; None for those that were in force last.

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
    from rumpx.ledger.catalog import Place
    from rumpx.processes.control import Control

    again = Again(
        source,
        target,
        workers,
        max_failures,
        retry_failed,
        None if limits is None else lambda before: limits,
    )
    return run(again, _display(progress, on_progress), Control(), Place(state_dir, job))


def verify(
    source: str | Endpoint | None = None,
    target: str | Endpoint | None = None,
    *,
    job: str | None = None,
    state_dir: str | None = None,
    databases: Iterable[int] = (),
    map_db: Mapping[int, int] | None = None,
    match: Iterable[bytes] = (),
    exclude: Iterable[bytes] = (),
    types: Iterable[str] = (),
    sample: float = 1.0,
    digest: bool = False,
    ttl_tolerance: float | None = None,
    differences: str | None = None,
    repair: bool = False,
    delete_extra: bool = False,
    yes: bool = False,
    strict: bool = False,
    workers: int = 4,
    batch_keys: int = 0,
    size_check: bool = True,
    big_key: int = 64 * 2**20,
    max_bytes_in_flight: int = 16 * 2**20,
    clock: Clock = "refuse",
    read_from: ReadFrom = "primary",
    allow_eviction: bool = False,
    connect_timeout: float = 5.0,
    timeout: float = 30.0,
    retry_for: float = 300.0,
    limits: Limits | None = None,
    progress: Progress = "none",
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Verification:
    """Compare both sides in both directions, key by key; and mend what differs if asked to.

    Needs `if __name__ == "__main__":` around the script's own work, as `copy` does.

    Args:
        source, target: as for `copy`.
        job: a copy whose endpoints and scope are meant; then `source` and `target` are needed only
            for passwords, as URIs, and the scope is not given again.
        state_dir: the folder of its ledger, and of the list of differences.
        databases, map_db, match, exclude, types: as for `copy`, and for both sides.
        sample: the part of the keys that is compared, chosen at random; 0.01 is 1 %.
        digest: have both servers send only a checksum of each value.
        ttl_tolerance: seconds by which expiries may differ; None is 1 ms, or 5 ms where a server
            is older than Redis 7.0.
        differences: the file that lists them; None makes one in `state_dir`, if there are any.
        repair: copy again what is missing or different.
        delete_extra: and delete keys in scope that only the target has. Needs `yes`, since there
            is nobody to ask.
        strict: end with 4 also if there are values (of modules) that cannot be compared.
        workers, batch_keys, size_check, big_key, max_bytes_in_flight, clock, read_from,
            allow_eviction, connect_timeout, timeout, retry_for, progress, on_progress: as for
            `copy`.
        limits: likewise; None for those of the job, or the defaults.

    Returns:
        What was compared, and what differs. `exit_code` is 0 if all is equal or repaired, 3 if
        some keys could not be compared, 4 if some differ.

    Raises:
        UsageError: the arguments cannot be meant.
        SourceUnusable, TargetUnusable: refused before the comparison, or permanently.
        TemporaryError: trouble outlasted `retry_for`, or slots of a cluster moved.
    """
    how = ({} if limits is None else {"limits": limits}) | {
        "workers": workers,
        "batch_keys": batch_keys,
        "size_check": size_check,
        "big_key": big_key,
        "max_bytes_in_flight": max_bytes_in_flight,
        "clock": clock,
        "read_from": read_from,
        "allow_eviction": allow_eviction,
        "connect_timeout": connect_timeout,
        "timeout": timeout,
        "retry_for": retry_for,
    }
    scope = _scope(databases, map_db, match, exclude, types)
    wanted = _compared_job(source, target, job, state_dir, scope, how)
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
    workers: int = 4,
    databases: Iterable[int] = (),
    map_db: Mapping[int, int] | None = None,
    match: Iterable[bytes] = (),
    exclude: Iterable[bytes] = (),
    types: Iterable[str] = (),
    on_conflict: OnConflict = "ask",
    partitions: int = 0,
    prefixes: Iterable[bytes] = (),
    batch_keys: int = 0,
    size_check: bool = True,
    big_key: int = 64 * 2**20,
    max_bytes_in_flight: int = 16 * 2**20,
    clock: Clock = "refuse",
    functions: bool = False,
    allow_eviction: bool = False,
    connect_timeout: float = 5.0,
    timeout: float = 30.0,
    retry_for: float = 300.0,
    read_from: ReadFrom = "primary",
    limits: Limits | None = None,
) -> Checkup:
    """Look at both sides before a copy: what it would trip over, and what it would take.

    A few small payloads are restored to the target under random names that expire, and deleted
    again. Starts no processes.

    Args:
        source, target: as for `copy`.
        sample: how many keys of the source are looked at.
        read_only: write nothing, and so leave out the proof by real payloads.
        workers, databases, map_db, match, exclude, types, on_conflict, partitions, prefixes,
            batch_keys, size_check, big_key, max_bytes_in_flight, clock, functions,
            allow_eviction, connect_timeout, timeout, retry_for, read_from, limits: those of the
            copy that is meant.

    Returns:
        What was found. Trouble with a side is in its lines, not raised; `exit_code` is 0, or the
        one that the copy would end with.

    Raises:
        UsageError: the arguments cannot be meant.
    """
    from rumpx.checker.run import check as run
    from rumpx.model.check_request import Request
    from rumpx.model.job import Limits

    wanted = _job(
        source,
        target,
        _scope(databases, map_db, match, exclude, types),
        workers=workers,
        partitions=partitions,
        prefixes=tuple(prefixes),
        batch_keys=batch_keys,
        on_conflict=on_conflict,
        size_check=size_check,
        big_key=big_key,
        max_bytes_in_flight=max_bytes_in_flight,
        clock=clock,
        functions=functions,
        allow_eviction=allow_eviction,
        connect_timeout=connect_timeout,
        timeout=timeout,
        retry_for=retry_for,
        read_from=read_from,
        limits=limits or Limits(),
    )
    return run(Request(wanted, sample, read_only))


def _compared_job(
    source: str | Endpoint | None,
    target: str | Endpoint | None,
    name: str | None,
    state_dir: str | None,
    scope: Scope,
    how: dict[str, Any],
) -> Job:
    from rumpx.errors import UsageError
    from rumpx.model.job import Scope

    if name is not None:
        from rumpx.ledger.catalog import Place, job_to_compare

        if scope != Scope():
            raise UsageError("A job has its scope; leave out databases, match and the like.")
        if not (isinstance(source, str | None) and isinstance(target, str | None)):
            raise UsageError("A job has its endpoints; give URIs, for their passwords, or none.")
        return job_to_compare(Place(state_dir, name), source, target, how)
    if source is None or target is None:
        raise UsageError("Give source and target, or the name of a job.")
    return _job(source, target, scope, **how)


def _job(source: str | Endpoint, target: str | Endpoint, scope: Scope, **how: Any) -> Job:
    """A Job; `how` are its other fields."""
    from rumpx.model.endpoint import parse_endpoint
    from rumpx.model.job import Job

    return Job(
        source=parse_endpoint(source, "source") if isinstance(source, str) else source,
        target=parse_endpoint(target, "target") if isinstance(target, str) else target,
        scope=scope,
        **how,
    )


def _scope(
    databases: Iterable[int],
    map_db: Mapping[int, int] | None,
    match: Iterable[bytes],
    exclude: Iterable[bytes],
    types: Iterable[str],
) -> Scope:
    from rumpx.model.job import Scope

    return Scope(
        tuple(databases),
        tuple((map_db or {}).items()),
        tuple(match),
        tuple(exclude),
        tuple(types),
    )


def _display(progress: Progress, on_progress: Callable[[Snapshot], None] | None) -> Display:
    from rumpx.display.callback import with_callback
    from rumpx.display.display import open_display

    display = open_display(progress, sys.stderr)
    return with_callback(display, on_progress) if on_progress else display
