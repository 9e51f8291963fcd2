"""`--on-end COMMAND`: tell somebody how a run ended.

The command is run by the shell, with the summary's JSON on its standard input and the exit code in
RUMPX_EXIT_CODE. What it prints goes to standard error. It is given a minute, or until SIGINT or
SIGTERM, and is a session of its own. Passwords that rumpx got from its environment are not in the
command's.

Not promised: that it succeeds. Whether it does changes nothing but a sentence.
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
    """Run the command to its end; what went wrong, or "".

    Args:
        document: for its standard input, as JSON.
        exit_code: of rumpx.
        seconds: it is killed after that.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    told = json.dumps(document).encode()
    with _ended_by_signals() as begun:
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
            return f"--on-end could not be run: {error.strerror}."
        begun(hook)
        try:
            hook.communicate(told, timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(hook)
            hook.communicate()
            return f"--on-end was not done after {seconds:g} s and was killed."
    if hook.returncode:
        how = f"exit code {hook.returncode}" if hook.returncode > 0 else "a signal"
        return f"--on-end ended with {how}."
    return ""


def _kill(hook: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(hook.pid, signal.SIGKILL)


@contextmanager
def _ended_by_signals() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Whoever presses Ctrl-C now does not want to wait for the command; nor if that was just before
    it had begun. Gives what is to be called when it has."""
    hooks: list[subprocess.Popen[bytes]] = []
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for hook in hooks:
            _kill(hook)

    def begun(hook: subprocess.Popen[bytes]) -> None:
        hooks.append(hook)
        if came:
            _kill(hook)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield begun
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
