"""Choose the backend of a run, and look at a Dask cluster before it is planned, if there is one."""

from __future__ import annotations

from rumpx.engine.backend import Backend
from rumpx.engine.local_backend import LocalBackend
from rumpx.engine.plan import Plan
from rumpx.model.job import Job


def backend_of(plan: Plan) -> Backend:
    """Return the backend that the plan's job names, not yet started.

    Raises:
        UsageError: a file that tasks need cannot be read.
    """
    if plan.job.engine == "dask":
        from rumpx.remote.backend import DaskBackend

        return DaskBackend(plan)
    return LocalBackend(plan)


def threads_of(job: Job) -> int:
    """Return the number of threads for tasks of a job's cluster, once it is checked; 0 for an
    engine without one.

    Raises:
        UsageError, TemporaryError: see `cluster.inspect`.
    """
    if job.engine != "dask":
        return 0
    from rumpx.remote.cluster import inspect

    return inspect(job).threads
