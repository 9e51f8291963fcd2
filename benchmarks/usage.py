"""The CPU time of a command and of all processes that it starts, as the kernel counts it.

    python -m benchmarks.usage DESCRIPTOR COMMAND …

runs the command as its only child and writes a Usage as JSON to the descriptor when no process of
it is left. The kernel adds the times of each process to those of the process that reaps it.
Processes whose parent has ended, such as the workers of a fork server, are adopted by this one
(PR_SET_CHILD_SUBREAPER), so that it counts them as well. Linux only.

Not promised: processes that another one reaps unseen, with SIGCHLD ignored; the kernel forgets
their times.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """One run of a command, in seconds.

    Attributes:
        code: its exit code.
        wall: from its start to its end.
        cpu_main: of its own process, in steps of 0.01 s.
        cpu: of this and all processes that it started.
    """

    code: int
    wall: float
    cpu_main: float
    cpu: float


def run(command: list[str]) -> Usage:
    """Run a command until it and all its descendants have ended; call it once in a process."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    began = time.perf_counter()
    process = subprocess.Popen(command)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    wall = time.perf_counter() - began
    cpu_main = _own_cpu(process.pid)
    code = process.wait()
    with suppress(ChildProcessError):
        while True:
            os.wait()
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Usage(code, wall, cpu_main, reaped.ru_utime + reaped.ru_stime)


def _own_cpu(pid: int) -> float:
    """Return the time of a process that has ended and is not reaped, without its children's."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def main() -> None:
    descriptor, *command = sys.argv[1:]
    with open(int(descriptor), "w", encoding="utf-8") as file:
        json.dump(asdict(run(command)), file)


if __name__ == "__main__":
    main()
