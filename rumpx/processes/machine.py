"""The CPUs and the memory that this process may use.

Python's own count of CPUs (`os.cpu_count`) is the machine's. A process may be bound to some of
them, and a container may have a share of their time (Linux: `cpu.max` of cgroup v2,
`cpu.cfs_quota_us` of v1).
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Final

_QUOTA_V2: Final = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1: Final = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_V1: Final = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
# A container's memory limit; "max" if it has none.
_MEMORY_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def usable_memory() -> int:
    """Return the bytes of memory of this machine, or of the container."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(path.read_text()))
    return memory


def usable_cores() -> int:
    """Return the number of CPUs that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, math.ceil(quota)) if quota < cores else cores


def _quota() -> float:
    """Return the CPUs' time that the container may use, in CPUs; infinite without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = _QUOTA_V2.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int(_QUOTA_V1.read_text())
        return math.inf if quota_us < 0 else quota_us / int(_PERIOD_V1.read_text())
    return math.inf
