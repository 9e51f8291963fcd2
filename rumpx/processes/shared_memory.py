"""Memory that all processes of a run map, with a lock around it.

The lock is the kernel's, on the file behind the memory: it is released when its holder dies. The
object can be passed to a process at its start, and is the same memory there.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import reduction
from typing import Any

from rumpx.errors import MachineLimit, machine_limit


class Shared:
    """Some bytes, initially 0; freed with the object, in each process.

    Raises:
        MachineLimit: there is no room for them.

    Attributes:
        memory: may be read at any time, and written only while `locked`.
    """

    def __init__(self, size: int) -> None:
        try:
            with tempfile.TemporaryFile(buffering=0) as file:
                # Written, not only extended: a full disk shows now, not as SIGBUS later.
                if file.write(bytes(size)) < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                descriptor = os.dup(file.fileno())
        except OSError as error:
            raise machine_limit(error) or MachineLimit(
                f"A file of {size:,} bytes cannot be written in {tempfile.gettempdir()}: "
                f"{error.strerror}. Free space there, or set TMPDIR to another folder."
            ) from None
        self._open(descriptor, size)

    def _open(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self.memory = mmap.mmap(descriptor, size)
        self._lock = threading.Lock()  # the kernel's lock does not hold between threads
        self._free = weakref.finalize(self, os.close, descriptor)

    def __getstate__(self) -> Any:
        return reduction.DupFd(self._descriptor), self._size

    def __setstate__(self, state: Any) -> None:
        descriptor, size = state
        self._open(descriptor.detach(), size)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock against all other threads and processes."""
        with self._lock:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Free the memory now, in this process."""
        self.memory.close()
        self._free()
