"""A Dask cluster, and the checks of its workers before anything is planned.

Dask's client runs in a thread with an event loop of its own. `Cluster.call` waits for a coroutine
there, `Cluster.spawn` does not.

Every worker must have the versions of rumpx, hiredis and Python that the coordinator has, since
tasks and their results are pickled. An address like 127.0.0.1 or a unix socket means another server
on another machine: such endpoints are refused unless all workers run on the coordinator's machine.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rumpx._version import __version__
from rumpx.errors import RumpxError, TemporaryError, UsageError
from rumpx.model.endpoint import Endpoint
from rumpx.model.job import Job

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
# Workers may join while a cluster starts.
_WORKERS_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One Dask worker: its versions, and the machine that it runs on."""

    rumpx: str
    hiredis: str
    python: str
    machine: str
    host: str


@dataclass(frozen=True, slots=True)
class Member:
    """A Dask worker, as the scheduler knows it: its address, and its threads for tasks."""

    address: str
    threads: int


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """The workers of a cluster at the start."""

    members: tuple[Member, ...]

    @property
    def threads(self) -> int:
        """All threads for tasks."""
        return sum(member.threads for member in self.members)


def facts_here() -> WorkerFacts:
    """Return those of this process; called in each worker, by Dask.

    Raises:
        ModuleNotFoundError: a package that tasks need is not installed.
    """
    import hiredis

    import rumpx.remote.task  # noqa: F401

    machine = platform.node()
    if _BOOT_ID.exists():
        machine = f"{machine} {_BOOT_ID.read_text(encoding='ascii').strip()}"
    python = ".".join(map(str, sys.version_info[:2]))
    return WorkerFacts(__version__, hiredis.__version__, python, machine, platform.node())


def scheduler_of(job: Job) -> str:
    """Return the address of a job's scheduler.

    Raises:
        UsageError: there is none, or passwords would be sent without TLS.
    """
    address = job.dask_scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
    if not address:
        raise UsageError(
            "--engine dask needs the address of a scheduler: give --dask-scheduler, or set "
            "DASK_SCHEDULER_ADDRESS."
        )
    if job.dask_send_passwords and not address.startswith("tls://"):
        raise UsageError(
            "--dask-send-passwords sends passwords only over TLS, and the scheduler's address does "
            "not begin with tls://."
        )
    return address


class Cluster:
    """A connection to a scheduler.

    Args:
        address: of the scheduler.
        timeout: seconds to reach it.

    Raises:
        UsageError: Dask is not installed.
        TemporaryError: the scheduler is not reached.
    """

    def __init__(self, address: str, timeout: float) -> None:
        try:
            from distributed import Client
        except ImportError:
            lacking = ", which the program in one file lacks" if hasattr(sys, "frozen") else ""
            raise UsageError(
                f"--engine dask needs Dask{lacking}: pip install 'rumpx[dask]', here and on all "
                "workers."
            ) from None
        self.address = address
        self._scheduler = ""
        self._restarted = False
        self._loop = asyncio.new_event_loop()
        self._spawned: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dask", daemon=True)
        self._thread.start()

        async def connect() -> Client:
            return await Client(address, asynchronous=True, timeout=timeout, set_as_default=False)

        try:
            self.client = self.call(connect, timeout + 5)
        except (OSError, TemporaryError, ValueError) as error:
            self._end_loop()
            why = str(error).partition("\n")[0].rstrip(". ") or "no answer"
            raise TemporaryError(
                f"The Dask scheduler at {address} cannot be reached: {why}. Check "
                "--dask-scheduler, and that `dask scheduler` is running; or give --engine local."
            ) from None

    def call(self, function: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> T:
        """Run a coroutine in the loop and return its result.

        Raises:
            TemporaryError: not in time.
        """
        future = asyncio.run_coroutine_threadsafe(function(), self._loop)
        try:
            return future.result(timeout)
        except NotInTime:
            future.cancel()
            raise TemporaryError(
                f"The Dask scheduler at {self.address} did not answer within {timeout:g} s."
            ) from None

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine in the loop; it must not raise."""

        def start() -> None:
            task = self._loop.create_task(function())
            self._spawned.add(task)
            task.add_done_callback(self._spawned.discard)

        self.soon(start)

    def soon(self, function: Callable[[], None]) -> None:
        """Call a function in the loop."""
        self._loop.call_soon_threadsafe(function)

    @property
    def lost(self) -> bool:
        """True if the scheduler has gone; also if another one has taken its place, which knows
        nothing of our tasks and topics."""
        return self._restarted or self.client.status not in ("running", "connecting")

    async def members(self) -> tuple[Member, ...]:
        """Return the present workers; in the loop."""
        told = await self.client.scheduler.identity(n_workers=-1)
        self._restarted |= bool(self._scheduler) and told["id"] != self._scheduler
        self._scheduler = told["id"]
        return tuple(
            Member(address, worker["nthreads"]) for address, worker in told["workers"].items()
        )

    async def facts(self, workers: list[str] | None = None) -> dict[str, Any]:
        """Ask workers, all by default; return by address their facts, or the exceptions that they
        raised instead; in the loop."""
        told: dict[str, Any] = await self.client.run(
            facts_here, workers=workers, on_error="return"
        )
        return told

    def close(self) -> None:
        """Leave the cluster."""

        async def close() -> None:
            for task in self._spawned:
                task.cancel()
            await self.client.close(timeout=2)

        with suppress(OSError, TemporaryError, RuntimeError):  # the scheduler has gone
            self.call(close, 5)
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


def inspect(job: Job) -> ClusterFacts:
    """Return the workers of a job's cluster, once they are checked.

    Raises:
        UsageError: a worker of another version; an endpoint that means another server there.
        TemporaryError: no scheduler, or no worker.
    """
    address = scheduler_of(job)
    cluster = Cluster(address, job.connect_timeout)
    try:
        members = cluster.call(lambda: _some_members(cluster), _WORKERS_SECONDS + 10)
        if not members:
            raise TemporaryError(
                f"The Dask scheduler at {address} has no workers. Start some with "
                f"`dask worker {address} --nthreads 1`."
            )
        told = cluster.call(cluster.facts, job.timeout)
    finally:
        cluster.close()
    plain = [one.address for one in members if not one.address.startswith("tls://")]
    if job.dask_send_passwords and plain:
        raise UsageError(
            f"--dask-send-passwords sends passwords only over TLS, and the Dask worker {plain[0]} "
            "does not use it."
        )
    refuse_unfit(job, told)
    return ClusterFacts(members)


async def _some_members(cluster: Cluster) -> tuple[Member, ...]:
    """Wait until there are workers."""
    for _ in range(round(_WORKERS_SECONDS / _LOOK_SECONDS)):
        if members := await cluster.members():
            return members
        await asyncio.sleep(_LOOK_SECONDS)
    return ()


def refuse_unfit(job: Job, told: dict[str, Any]) -> None:
    """Refuse workers that cannot do a job's walks, or would do them elsewhere.

    Args:
        told: as Cluster.facts.

    Raises:
        UsageError: see `refuse_others` and `refuse_local`.
    """
    refuse_others(told)
    for endpoint, flag in ((job.source, "--from"), (job.target, "--to")):
        refuse_local(endpoint, flag, told.values())


def refuse_others(told: dict[str, Any]) -> None:
    """Refuse workers of other versions.

    Args:
        told: as Cluster.facts.

    Raises:
        UsageError: with the first such worker.
    """
    here = facts_here()
    for address, facts in told.items():
        if not isinstance(facts, WorkerFacts):
            # Dask passes on only the words of what a worker could not unpickle.
            lacks = re.search(r"No module named [\\'\"]*([\w.]+)", str(facts))
            why = f"lacks the module {lacks[1]}" if lacks else f"failed: {facts!r}"
            raise UsageError(
                f"The Dask worker {address} {why}. Install rumpx {__version__} with its extra "
                "`dask` on all workers."
            )
        for name in ("rumpx", "hiredis", "python"):
            theirs, ours = getattr(facts, name), getattr(here, name)
            if theirs != ours:
                raise UsageError(
                    f"The Dask worker {address} has {name} {theirs}, and this machine has {ours}: "
                    "install the same versions everywhere."
                )


def refuse_local(endpoint: Endpoint, flag: str, told: Iterable[Any]) -> None:
    """Refuse an endpoint that is another server on another machine.

    Raises:
        UsageError: some workers run elsewhere, and it is a unix socket or this machine itself.
    """
    here = facts_here().machine
    elsewhere = sorted({facts.host for facts in told if facts.machine != here})
    if elsewhere and (endpoint.transport == "unix" or any(map(_is_loopback, _hosts(endpoint)))):
        raise UsageError(
            f"{flag}: {endpoint} means another server on {elsewhere[0]}, where Dask workers run. "
            "Give an address that is the same everywhere."
        )


def _hosts(endpoint: Endpoint) -> list[str]:
    mapped = [reachable for _, reachable in endpoint.address_map]
    return [host for host, _ in [*endpoint.addresses, *mapped]]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def lost(address: str) -> RumpxError:
    """Return the exception for a scheduler that has gone."""
    return TemporaryError(
        f"The Dask scheduler at {address} was lost. Resume the job when it is back, or with "
        "--engine local."
    )
