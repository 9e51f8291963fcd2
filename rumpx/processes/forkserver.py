"""How worker processes begin: in a fresh interpreter that has what they import, and in silence.

On Linux by a fork server, a process that imports the worker's modules once and is forked for each
worker: a third of a second of CPU for all of them, where each that is spawned would need as much.
Where the system's libraries do not bear a fork, each is spawned. Neither inherits threads or locks
of the program that calls us.

`warm_up` has the fork server begin early, so that its imports and ours go on side by side. This
module imports nothing of ours for that reason.

Not promised: that it is our own fork server. A program that calls the API may have started one,
whose children then import what they need themselves.
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
_PRELOADED: Final = "rumpx.engine.worker"
# A Ctrl-C, and a terminal that goes away, reach the whole process group; what happens then is the
# coordinator's decision.
HELD_BACK: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def warm_up() -> None:
    """Start the fork server, if it is what we use and none runs yet."""
    if _METHOD == "forkserver":
        forkserver.set_forkserver_preload([_PRELOADED])
        with signals_blocked():
            forkserver.ensure_running()


def process_context() -> Any:
    """The multiprocessing context of worker processes. `Any`: they differ by start method."""
    return multiprocessing.get_context(_METHOD)


def name_process(name: str) -> None:
    """How `ps` and `top` call this process, where the system lets us say: at most 15 characters."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block what is held back: it stays blocked in a process that is started here, from its first
    instruction on, and in what the fork server starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)  # it has unblocked some of them
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
