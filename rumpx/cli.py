"""The command line: words → a command (by `parsers`, `flags`) → one call → exit code.

Imports only what is light, so that `--help` comes at once; what a Job needs is imported when there
are flags to understand, and what talks to servers when a copy begins. Everything for people goes to
standard error; standard output is for data (`--summary -`, `rumpx jobs`) and for what was asked for
(`rumpx check`, `rumpx ctl`).

When a run ends early, the last line on standard error is the command that goes on with it.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Final

from rumpx.errors import Interrupted, RumpxError, UsageError
from rumpx.parsers import (
    build_check_parser,
    build_ctl_parser,
    build_demo_parser,
    build_jobs_parser,
    build_parser,
    build_resume_parser,
    build_verify_parser,
)

if TYPE_CHECKING:
    from rumpx.check.request import Request as CheckRequest
    from rumpx.copy.control import Control
    from rumpx.copy.prepare import Policy
    from rumpx.report.display import Display
    from rumpx.report.snapshot import Summary, Verification


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        command = _COMMANDS.get(words[0]) if words else None
        return command(words[1:]) if command else _copy(words)
    except RumpxError as error:
        if error.__cause__ is not None:  # nobody foresaw it: whoever mends it needs to know where
            traceback.print_exception(error.__cause__)
        print(f"rumpx: {error}", file=sys.stderr)
        if error.resume:
            print(error.resume, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rumpx: Stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _demo(words: list[str]) -> int:
    arguments = build_demo_parser().parse_args(words)
    if not 1 <= arguments.keys <= 100_000_000:
        raise UsageError("--keys must be from 1 to 100000000.")
    from rumpx import demo

    return demo.run(arguments.workers, arguments.keys, arguments.progress)


def _help(words: list[str]) -> int:
    from rumpx import guides

    return guides.run(words)


def _copy(words: list[str]) -> int:
    parser = build_parser()
    arguments = parser.parse_args(words)
    if arguments.version:
        from rumpx import __version__

        print(f"rumpx {__version__}")
        return 0
    if arguments.print_completion:
        return _print_completion(parser, arguments.print_completion)
    from rumpx.flags import make_job

    job = make_job(arguments)
    if arguments.dry_run:
        from rumpx.check.request import Request as DryRun

        return _checked(DryRun(job, dry_run=True), as_json=False)
    _check_summary(arguments)
    _warm_up()
    from rumpx.copy.jobs import Place
    from rumpx.copy.run import run

    place = Place(arguments.state_dir, arguments.job)
    ask = _ask if sys.stdin.isatty() and sys.stderr.isatty() else None
    done: list[Summary] = []

    def copy(display: Display, control: Control) -> Summary:
        done.append(run(job, display, control, place, ask))
        return done[0]

    code = _shown(arguments, copy, last=not arguments.verify)
    if not (arguments.verify and done):
        return code
    from rumpx.verify.request import Request
    from rumpx.verify.run import verify

    request = Request(job, state_dir=arguments.state_dir)
    verdict = _shown(
        arguments, lambda display, control: verify(request, display, control), copied=done[0]
    )
    return verdict or code


def _resume(words: list[str]) -> int:
    arguments = build_resume_parser().parse_args(words)
    _check_summary(arguments)
    _warm_up()
    from rumpx.copy.jobs import Place
    from rumpx.copy.run import Again, resume
    from rumpx.flags import limits_given

    place = Place(arguments.state_dir, arguments.name)
    again = Again(
        arguments.source,
        arguments.target,
        arguments.workers,
        arguments.max_failures,
        arguments.retry_failed,
        lambda before: limits_given(arguments, before),
    )
    return _shown(arguments, lambda display, control: resume(again, display, control, place))


def _jobs(words: list[str]) -> int:
    arguments = build_jobs_parser().parse_args(words)
    from rumpx.copy.jobs import all_jobs, prune, state_folder
    from rumpx.report.jobs import job_lines

    folder = state_folder(arguments.state_dir)
    if arguments.prune:
        removed = prune(folder)
        print(f"Removed {len(removed)}: {', '.join(removed)}." if removed else "None is done.")
    else:
        print("\n".join(job_lines(all_jobs(folder))))
    return 0


def _ctl(words: list[str]) -> int:
    arguments = build_ctl_parser().parse_intermixed_args(words)
    import json

    from rumpx.copy.ctl import read_words

    name, request = read_words(arguments.words)
    from rumpx.copy.ctl_client import ask, running_job
    from rumpx.copy.jobs import Place
    from rumpx.report.status import status_lines

    answer = ask(running_job(Place(arguments.state_dir, name)), request)
    if arguments.json:
        print(json.dumps(answer))
    else:
        print("\n".join(status_lines(answer)) or "Done.")
    return 0
def _check(words: list[str]) -> int:
    arguments = build_check_parser().parse_args(words)
    from rumpx.flags import make_check

    return _checked(make_check(arguments), as_json=arguments.json)


def _checked(request: CheckRequest, *, as_json: bool) -> int:
    """Check, print what was found on standard output, and tell the exit code."""
    from rumpx.check.run import check

    checkup = check(request)
    if as_json:
        import json

        print(json.dumps(checkup.to_json(), indent=2))
    else:
        import io

        from rich.console import Console

        from rumpx.report.checkup import Report

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        Console(soft_wrap=False, highlight=False).print(Report(checkup))
    return checkup.exit_code


def _verify(words: list[str]) -> int:
    arguments = build_verify_parser().parse_args(words)
    from rumpx.flags import make_comparison

    request = make_comparison(arguments)
    _check_summary(arguments)
    _warm_up()
    from rumpx.verify.run import verify

    def compare(display: Display, control: Control) -> Verification:
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        confirm = (lambda question: _confirm(question, control)) if asks else None
        return verify(request, display, control, confirm)

    return _shown(arguments, compare)


def _check_summary(arguments: argparse.Namespace) -> None:
    from rumpx.report.summary import check_summary_path

    if arguments.summary:
        check_summary_path(arguments.summary)


def _warm_up() -> None:
    from rumpx.copy.forks import warm_up

    warm_up()  # before our own imports


def _shown(
    arguments: argparse.Namespace,
    call: Callable[[Display, Control], Summary | Verification],
    *,
    last: bool = True,
    copied: Summary | None = None,
) -> int:
    """Do something long with a display, signals and a summary; returns the exit code.

    Args:
        last: nothing comes after it, so that its summary is written even if all is well.
        copied: the copy that was done before.
    """
    from rumpx.copy.control import Control
    from rumpx.report.display import choose, open_display
    from rumpx.report.summary import write_summary

    control = Control()
    _catch_signals(control)
    display = open_display(arguments.progress, sys.stderr)
    drawn = choose(arguments.progress, sys.stderr)
    try:
        summary = call(display, control)
    except RumpxError as error:
        if error.summary:
            _finish(error.summary, drawn, arguments.summary, copied)
            if isinstance(error, Interrupted):
                if error.resume:
                    print(error.resume, file=sys.stderr)
                return error.exit_code  # the summary says it
        elif copied and arguments.summary:
            write_summary(copied, arguments.summary)
        raise
    _finish(summary, drawn, arguments.summary if last else None, copied)
    return summary.exit_code


def _finish(
    summary: Summary | Verification, drawn: str, destination: str | None, copied: Summary | None
) -> None:
    """Show the end of a run in the way in which its progress was shown."""
    from rumpx.report.summary import render_summary, summary_lines, write_summary

    if drawn == "bar":
        from rich.console import Console

        Console(stderr=True).print("", render_summary(summary))
    elif drawn == "line":
        print("\n".join(summary_lines(summary)), file=sys.stderr)
    elif drawn == "json":
        from rumpx.report.jsonl import summary_json

        print(summary_json(summary), file=sys.stderr)
    if destination:
        write_summary(summary, destination, copied)


def _catch_signals(control: Control) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        if not control.running:
            raise Interrupted("Stopped before it began; nothing was written.", number)
        control.stop(number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, lambda number, frame: control.report())


def _ask(question: str) -> Policy | None:
    """Ask on the terminal what to do with keys that the target has."""
    print(
        f"{question}\nFor keys that both have: [r]eplace the target's, [s]kip them, [f]ail (list "
        "them), or anything else to leave it: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    answer = sys.stdin.readline().strip().lower()[:1]
    answers: dict[str, Policy] = {"r": "replace", "s": "skip", "f": "fail"}
    return answers.get(answer)


def _print_completion(parser: argparse.ArgumentParser, shell: str) -> int:
    try:
        import shtab
    except ImportError:
        raise UsageError(
            "--print-completion needs the package shtab: pip install 'rumpx[completion]'."
        ) from None
    print(shtab.complete(parser, shell))
    return 0


def _confirm(question: str, control: Control) -> bool:
    """Ask on the terminal for leave to delete; False also when a signal stops the run."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    while not control.stops:
        ready, _, _ = select.select([sys.stdin, control.wakened], [], [])
        if sys.stdin in ready:
            return sys.stdin.readline().strip().lower() in ("y", "yes")
        control.drain_wakes()
    return False


_COMMANDS: Final[dict[str, Callable[[list[str]], int]]] = {
    "check": _check,
    "demo": _demo,
    "help": _help,
    "resume": _resume,
    "jobs": _jobs,
    "ctl": _ctl,
    "verify": _verify,
}
