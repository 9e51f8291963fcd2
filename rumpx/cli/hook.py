"""`--on-end COMMAND`: run a command at the end of a run.

The shell runs it, with the summary's JSON on its standard input and the exit code in
RUMPX_EXIT_CODE. Its output goes to standard error. It may run for a minute, or until SIGINT or
SIGTERM, in a session of its own. Its environment does not have the passwords of rumpx's.

Not promised: that it succeeds. A failure is reported, and does not change rumpx's exit code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

EXIT_VARIABLE: Final = "RUMPX_EXIT_CODE"
HOOK_SECONDS: Final = 60.0
_SECRETS: Final = ("RUMPX_FROM_PASSWORD", "RUMPX_TO_PASSWORD")


def run_hook(
    command: str, document: dict[str, Any], exit_code: int, seconds: float = HOOK_SECONDS
) -> str:
    """Run the command to its end; return a sentence about its failure, or "".

    Args:
        document: for its standard input, as JSON.
        exit_code: of rumpx.
        seconds: after which it is killed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    summary = json.dumps(document).encode()
    with _ended_by_signals() as started:
        try:
            hook = subprocess.Popen(
                command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=sys.stderr.fileno(),
                start_new_session=True,
                env=environment | {EXIT_VARIABLE: str(exit_code)},
            )
        except OSError as error:
            return f"The command of --on-end could not be run: {error.strerror}."
        started(hook)
        try:
            hook.communicate(summary, timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(hook)
            hook.communicate()
            return f"The command of --on-end was killed: it was still running after {seconds:g} s."
    if hook.returncode:
        how = f"exit code {hook.returncode}" if hook.returncode > 0 else "a signal"
        return f"The command of --on-end ended with {how}."
    return ""


def _kill(hook: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(hook.pid, signal.SIGKILL)


@contextmanager
def _ended_by_signals() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Kill the command at Ctrl-C or SIGTERM, also if the signal came just before its start. Yields
    the function to call at its start."""
    hooks: list[subprocess.Popen[bytes]] = []
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for hook in hooks:
            _kill(hook)

    def started(hook: subprocess.Popen[bytes]) -> None:
        hooks.append(hook)
        if came:
            _kill(hook)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
