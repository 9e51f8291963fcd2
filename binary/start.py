"""The start of the program in one file.

A fork server and a resource tracker are this program again, with Python code as arguments;
`freeze_support`, in PyInstaller's version, runs that code and ends.

PyInstaller's loader leaves variables behind: where its libraries are, and that it need not look for
them again. All processes that rumpx starts get the user's environment instead: `--on-end` and a
pager must load the system's libraries, and a rumpx among them, or a fork server, finds its own.

A run of weeks loads some modules only at its end. systemd-tmpfiles, which removes old files of
/tmp, leaves out folders that are locked.

Not promised: that a run survives when a person removes its folder. `rumpx resume` continues it.
"""

import fcntl
import multiprocessing
import os
import sys
from contextlib import suppress

_LIBRARIES = "LD_LIBRARY_PATH"
_BEFORE = "LD_LIBRARY_PATH_ORIG"  # the loader's name for what the user had set
_LOADER = "_PYI_"


def _restore_environment() -> None:
    for name in [name for name in os.environ if name.startswith(_LOADER)]:
        del os.environ[name]
    os.environ.pop(_LIBRARIES, None)
    before = os.environ.pop(_BEFORE, None)
    if before is not None:
        os.environ[_LIBRARIES] = before


def _keep_folder() -> None:
    with suppress(OSError):
        folder = os.open(os.path.dirname(sys.executable), os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until the process ends


if __name__ == "__main__":
    _restore_environment()
    _keep_folder()
    multiprocessing.freeze_support()

    from rumpx.cli.main import main

    raise SystemExit(main())
