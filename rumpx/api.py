"""The Python API: `copy` does what the command does, and returns a Summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

# Imported before `rumpx` gives its name to the function: the import system binds a package to its
# parent when it is first imported, and would put it in the function's place later.
import rumpx.copy  # noqa: F401

if TYPE_CHECKING:
    from rumpx.job import Clock, Endpoint, OnConflict, Progress
    from rumpx.report.snapshot import Snapshot, Summary


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
    functions: bool = False,
    allow_eviction: bool = False,
    connect_timeout: float = 5.0,
    timeout: float = 30.0,
    retry_for: float = 300.0,
    progress: Progress = "none",
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Summary:
    """Copy a live keyspace. Blocks until the copy is done.

    Worker processes are started afresh by multiprocessing, so a script that calls this
    needs the usual `if __name__ == "__main__":` around its own work. Call it from the main thread
    to have Ctrl-C end the copy at once, with KeyboardInterrupt.

    Args:
        source, target: URIs as on the command line (`rumpx.job`), or Endpoints, which also hold
            certificates, a forced mode and address maps.
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
        functions: copy function libraries too.
        allow_eviction: read from a source that is nearly full and evicts.
        connect_timeout, timeout: seconds to connect and log in, and for each later answer.
        retry_for: seconds of unbroken trouble after which the copy gives up.
        progress: a display on standard error, as `--progress`.
        on_progress: called with a Snapshot about four times a second, in a thread of its own.

    Returns:
        What was copied and what was not. `summary.exit_code` is 3 if some keys failed.

    Raises:
        UsageError: the arguments cannot be meant.
        SourceUnusable, TargetUnusable: refused before the first write, or permanently.
        TemporaryError: trouble outlasted `retry_for`. `error.summary` tells what was copied.
    """
    from rumpx.job import Job, Scope, parse_endpoint

    job = Job(
        source=parse_endpoint(source, "source") if isinstance(source, str) else source,
        target=parse_endpoint(target, "target") if isinstance(target, str) else target,
        scope=Scope(
            tuple(databases),
            tuple((map_db or {}).items()),
            tuple(match),
            tuple(exclude),
            tuple(types),
        ),
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
    )
    from rumpx.copy.forks import warm_up

    warm_up()  # before our own imports
    from rumpx.copy.control import Control
    from rumpx.copy.run import run
    from rumpx.report.callback import with_callback
    from rumpx.report.display import open_display

    display = open_display(progress, sys.stderr)
    if on_progress:
        display = with_callback(display, on_progress)
    return run(job, display, Control())
