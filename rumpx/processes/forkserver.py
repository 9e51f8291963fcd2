"""Start worker processes from a fresh interpreter with their imports done, and signals blocked.

On Linux this is a fork server, a process that imports the worker's modules once and is forked for
each worker: a third of a second of CPU for all of them; each spawned process would need as much.
Where the system's libraries are not safe to fork, each worker is spawned. Neither inherits threads
or locks of the calling program.

`warm_up` starts the fork server early, so that its imports and ours run in parallel. For that
reason this module imports no other module of the package.

Not promised: that the fork server is our own. A program that calls the API may have started one,
whose children then do their imports themselves.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, Final

_METHOD: Final = "forkserver" if sys.platform == "linux" else "spawn"
_PRELOADED: Final = ("rumpx.engine.worker", "rumpx.transfer.spec")
# A Ctrl-C, and a terminal that closes, reach the whole process group; the coordinator alone decides
# on the reaction.
HELD_BACK: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def warm_up() -> None:
    """Start the fork server, if it is the start method and none runs yet."""
    if _METHOD == "forkserver":
        forkserver.set_forkserver_preload(list(_PRELOADED))
        with signals_blocked():
            forkserver.ensure_running()


def process_context() -> Any:
    """Return the multiprocessing context of workers. `Any`: its type depends on the method."""
    return multiprocessing.get_context(_METHOD)


def name_process(name: str) -> None:
    """Set the name that `ps` and `top` show, if the system allows it: at most 15 characters."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals in HELD_BACK. They stay blocked in a process that is started here, from its
    first instruction on, and in processes that the fork server starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)  # the call above unblocks some
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
