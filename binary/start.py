"""The start of the program in one file.

A fork server and a resource tracker are this program again, with Python code as arguments;
`freeze_support`, in PyInstaller's version, runs that code and ends.

PyInstaller's loader leaves variables behind: where its libraries are, and that it need not look for
them again. All processes that rumpx starts get the user's environment instead: `--on-end` and a
pager must load the system's libraries, and a rumpx among them, or a fork server, finds its own.
"""

import multiprocessing
import os

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


if __name__ == "__main__":
    _restore_environment()
    multiprocessing.freeze_support()

    from rumpx.cli.main import main

    raise SystemExit(main())
