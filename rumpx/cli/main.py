"""The command line: words → a command (by `parsers`, `flags`) → one call → exit code.

Imports only light modules, so that `--help` appears at once. A command imports the Job's modules
when it parses its flags, and those that talk to servers when it starts. Everything for people goes
to standard error; standard output is for data (`--summary -`, `rumpx jobs`) and for requested
output (`rumpx check`, `rumpx ctl`).

When a run ends early, the last line on standard error is the command that resumes it.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeVar, cast

from rumpx.cli.parsers import (
    build_check_parser,
    build_ctl_parser,
    build_demo_parser,
    build_jobs_parser,
    build_migrate_parser,
    build_parser,
    build_report_parser,
    build_resume_parser,
    build_verify_parser,
)
from rumpx.errors import UNEXPECTED, Interrupted, RumpxError, UsageError, machine_limit
from rumpx.model.options import DEMO, flags_of
from rumpx.text import say, unbuffered

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from rumpx.cli.outputs import Outputs
    from rumpx.ctl.server import Cutover
    from rumpx.engine.plan import Policy
    from rumpx.model.check_request import Request as CheckRequest
    from rumpx.model.display import Display
    from rumpx.model.follow import CutoverStep
    from rumpx.model.job import Job
    from rumpx.model.results import Summary, Verification
    from rumpx.processes.control import Control

CTL_VERSION: Final = 1
"""Of the JSON of `rumpx ctl`; rises when a field changes its meaning or is removed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    command = _COMMANDS.get(words[0]) if words else None
    code, _ = _guarded(lambda: command(words[1:]) if command else _copy(words))
    return code


def _open_streams() -> None:
    """Replace closed standard streams, as by 2>&-, by the null device. Else one of our files or
    sockets would get such a stream's descriptor, and all text for that stream.

    Take the buffer from standard error. It would keep the text that a full disk, or a terminal that
    went away, did not accept; each start of a process would try to write it again, and fail; so
    would the interpreter's end, which then replaces the exit code by 120.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - to the end
    usual = sys.__stderr__
    if usual is not None and sys.stderr is usual:
        sys.stderr = unbuffered(usual)


def _guarded(
    call: Callable[[], int | None], shown: Callable[[RumpxError], bool] = lambda error: False
) -> tuple[int, RumpxError | None]:
    """Return the exit code of a call, and the error that ended it early, after showing it.

    Args:
        shown: receives the error; True if it has shown it to the user itself.
    """
    try:
        return call() or 0, None
    except RumpxError as error:
        with suppress(OSError):  # standard error accepts nothing
            _show_error(error, shown)
        return error.exit_code, error
    except KeyboardInterrupt:
        with suppress(OSError):
            say("rumpx: Stopped.")
        return 128 + signal.SIGINT, Interrupted("Stopped.", signal.SIGINT)
    except BrokenPipeError:
        return 1, None
    except OSError as error:
        limit = machine_limit(error)
        if limit is None:
            raise
        with suppress(OSError):
            _show_error(limit, shown)
        return limit.exit_code, limit


def _show_error(error: RumpxError, shown: Callable[[RumpxError], bool]) -> None:
    if error.__cause__ is not None:  # an unexpected error: a bug report needs its place
        import traceback

        say(*"".join(traceback.format_exception(error.__cause__)).rstrip().split("\n"))
    if shown(error):
        return
    # The summary says that a run was interrupted.
    if not (isinstance(error, Interrupted) and error.summary):
        say(f"rumpx: {error}")
    if error.resume:
        say(error.resume)


def _parsed(
    parser: argparse.ArgumentParser, words: list[str], *, names_job: bool = False
) -> argparse.Namespace:
    """Parse a command's words, and its `--config` file if they name one."""
    if not any(word.partition("=")[0] == "--config" for word in words):
        return parser.parse_args(words)
    from rumpx.cli.config import with_config

    return with_config(parser, words, names_job=names_job)


def _demo(words: list[str]) -> int:
    arguments = build_demo_parser().parse_args(words)
    for flag in flags_of(DEMO):
        flag.check(getattr(arguments, flag.name))
    from rumpx import demo

    return demo.run(arguments.workers, arguments.keys, arguments.progress)


def _help(words: list[str]) -> int:
    from rumpx import guides

    return guides.run(words)


def _copy(words: list[str]) -> int:
    parser = build_parser()
    arguments = _parsed(parser, words)
    if arguments.version:
        from rumpx._version import __version__

        return _print(f"rumpx {__version__}")
    if arguments.print_completion:
        return _print_completion(parser, arguments.print_completion)
    if arguments.dry_run:
        from rumpx.cli.config import blaming_config
        from rumpx.cli.flags import make_copy
        from rumpx.model.check_request import Request as DryRun

        with blaming_config(arguments):
            return _checked(DryRun(make_copy(arguments), dry_run=True), as_json=False)
    return _watched(arguments, lambda outputs: _do_copy(arguments, outputs))


def _migrate(words: list[str]) -> int:
    arguments = _parsed(build_migrate_parser(), words)
    return _watched(arguments, lambda outputs: _do_copy(arguments, outputs))


def _checked_before(job: Job) -> int:
    """Check both sides of a migration; return the exit code."""
    from rumpx.checker.run import check
    from rumpx.display.draw import console
    from rumpx.model.check_request import Request
    from rumpx.report.checkup import Report

    checkup = check(Request(job))
    with suppress(OSError):
        console(sys.stderr).print(Report(checkup))
    return checkup.exit_code


def _do_copy(arguments: argparse.Namespace, outputs: Outputs) -> int:
    from rumpx.cli.flags import make_copy

    job = make_copy(arguments)
    outputs.open()
    migrates = arguments.migrates
    if migrates:
        if code := _checked_before(job):
            return code
        outputs.asks_for_cutover(at_once=arguments.yes_when_in_step)
    _warm_up()
    from rumpx.copier.run import run
    from rumpx.follower.run import way_of
    from rumpx.ledger.catalog import Place

    place = Place(arguments.state_dir, arguments.job)
    asks = sys.stdin.isatty() and sys.stderr.isatty()

    def copy(display: Display, control: Control) -> Summary:
        consent: Callable[[str], bool] | None = None
        if arguments.yes:
            consent = bool
        elif asks:
            consent = lambda question: _confirm(question, control)  # noqa: E731
        way = way_of(job, _ask if asks else None, consent, migrates=migrates)
        return run(job, display, control, place, way)

    copied = _shown(outputs, copy)
    if not (arguments.verify and outputs.copied):
        return copied.exit_code
    from rumpx.model.verify_request import Request
    from rumpx.verifier.run import verify

    request = Request(
        job, strict=arguments.strict, state_dir=arguments.state_dir, name=outputs.copied.job
    )
    compared = _shown(outputs, lambda display, control: verify(request, display, control))
    return compared.exit_code or copied.exit_code


def _resume(words: list[str]) -> int:
    arguments = _parsed(build_resume_parser(), words, names_job=True)
    return _watched(arguments, lambda outputs: _do_resume(arguments, outputs), arguments.name)


def _do_resume(arguments: argparse.Namespace, outputs: Outputs) -> int:
    outputs.open()
    from rumpx.ledger.catalog import migrates

    if migrates(arguments.state_dir, arguments.name):
        outputs.asks_for_cutover(at_once=False)
    _warm_up()
    from rumpx.cli.flags import limits_given
    from rumpx.copier.run import Again, resume
    from rumpx.follower.run import way_again
    from rumpx.ledger.catalog import Place

    place = Place(arguments.state_dir, arguments.name)
    again = Again(
        arguments.source,
        arguments.target,
        arguments.workers,
        arguments.max_failures,
        arguments.retry_failed,
        lambda before: limits_given(arguments, before),
        arguments.engine,
        arguments.dask_scheduler,
    )
    return _shown(
        outputs, lambda display, control: resume(again, display, control, place, way_again)
    ).exit_code


def _jobs(words: list[str]) -> int:
    arguments = build_jobs_parser().parse_args(words)
    from rumpx.ledger.catalog import all_jobs, prune, state_folder
    from rumpx.report.jobs import job_lines

    folder = state_folder(arguments.state_dir)
    if not arguments.prune:
        return _print(*job_lines(all_jobs(folder)))
    removed = prune(folder)
    return _print(f"Removed {len(removed)}: {', '.join(removed)}." if removed else "None is done.")


def _ctl(words: list[str]) -> int:
    arguments = build_ctl_parser().parse_intermixed_args(words)
    from rumpx.ctl.server import read_words

    name, request = read_words(arguments.words)
    from rumpx.ctl.client import ask, running_job
    from rumpx.ctl.server import Cutover
    from rumpx.display.status import status_lines
    from rumpx.ledger.catalog import Place

    ledger = running_job(Place(arguments.state_dir, name))
    if isinstance(request, Cutover):
        return _cut_over(ledger, request, as_json=arguments.json)
    answer = ask(ledger, request)
    if arguments.json:
        return _print_answer(answer)
    return _print(*(status_lines(answer) or ["Done."]))


def _print_answer(answer: object) -> int:
    """Print a document that a run has sent, as `--json` promises it."""
    import json

    from rumpx.serialize import untagged

    return _print(json.dumps({"version": CTL_VERSION, **untagged(answer)}))


def _cut_over(ledger: Path, request: Cutover, *, as_json: bool) -> int:
    """Cut over; the steps go to standard error, the outcome to standard output. A signal cancels
    it."""
    from rumpx.ctl.cutover import EXIT_CODES, cut_over
    from rumpx.processes.control import Control

    control = Control()
    control.running = True
    _catch_signals(control)

    def tell(step: CutoverStep) -> None:
        say(f"{time.strftime('%H:%M:%S', time.localtime(step.at))} {step.text}")

    facts = cut_over(ledger, request, tell, control)
    if as_json:
        from rumpx.serialize import to_plain

        _print_answer(to_plain(facts))
    else:
        if facts.way_back:
            say(facts.way_back)
        _print(*facts.told)
    if control.stops and facts.outcome == "cancelled":
        return 128 + control.signal_number
    return EXIT_CODES[facts.outcome]


def _report(words: list[str]) -> int:
    arguments = build_report_parser().parse_args(words)
    if arguments.html == "":  # from a script with an unset variable
        raise UsageError("--html is empty; leave it out.")
    from rumpx.ledger.catalog import Place, existing_ledger
    from rumpx.ledger.history import read_story

    record = read_story(existing_ledger(Place(arguments.state_dir, arguments.name)))
    if arguments.html:
        from rumpx.files import write_text
        from rumpx.report.html import render_html

        write_text(arguments.html, render_html(record), "--html")
    else:
        from rumpx.report.tables import render_record

        _print_rich(render_record(record))
    return 0


def _example(words: list[str]) -> int:
    from rumpx import examples

    return examples.run(words)


def _check(words: list[str]) -> int:
    arguments = _parsed(build_check_parser(), words)
    from rumpx.cli.config import blaming_config
    from rumpx.cli.flags import make_check

    with blaming_config(arguments):
        return _checked(make_check(arguments), as_json=arguments.json)


def _checked(request: CheckRequest, *, as_json: bool) -> int:
    """Check, print the findings on standard output, and return the exit code."""
    from rumpx.checker.run import check

    checkup = check(request)
    if as_json:
        import json

        _print(*json.dumps(checkup.to_json(), indent=2).splitlines())
    else:
        from rumpx.report.checkup import Report

        _print_rich(Report(checkup))
    return checkup.exit_code


def _print(*lines: str) -> int:
    """Print on standard output; returns 0, the command's exit code."""
    from rumpx.files import standard_output

    with standard_output():
        say(*lines, stream=sys.stdout)
    return 0


def _print_rich(drawn: RenderableType) -> None:
    """Print for people on standard output."""
    from rumpx.display.draw import console
    from rumpx.files import standard_output

    with standard_output():
        console(sys.stdout).print(drawn)


def _verify(words: list[str]) -> int:
    arguments = _parsed(build_verify_parser(), words)
    return _watched(arguments, lambda outputs: _do_verify(arguments, outputs), arguments.name)


def _do_verify(arguments: argparse.Namespace, outputs: Outputs) -> int:
    from rumpx.cli.flags import make_comparison
    from rumpx.model.job_options import options_of_comparison

    request = make_comparison(arguments)
    outputs.options, outputs.limits = options_of_comparison(request), request.job.limits
    outputs.open()
    _warm_up()
    from rumpx.verifier.run import verify

    def compare(display: Display, control: Control) -> Verification:
        asks = sys.stdin.isatty() and sys.stderr.isatty()
        confirm = (lambda question: _confirm(question, control)) if asks else None
        return verify(request, display, control, confirm)

    return _shown(outputs, compare).exit_code


def _warm_up() -> None:
    from rumpx.processes.forkserver import warm_up

    warm_up()  # before our own imports


def _watched(
    arguments: argparse.Namespace, work: Callable[[Outputs], int], name: str | None = None
) -> int:
    """Do the work with its displays and files; returns the exit code.

    Args:
        work: opens the outputs when it has parsed its flags.
        name: of the job to resume or compare, if one was given.
    """
    from rumpx.cli.config import blaming_config
    from rumpx.cli.flags import make_wanted
    from rumpx.cli.outputs import Outputs

    outputs = Outputs(make_wanted(arguments), arguments.state_dir, name)
    code: int = RumpxError.exit_code
    error: RumpxError | None = RumpxError(f"{UNEXPECTED}.")
    try:
        code, error = _guarded(blaming_config(arguments)(lambda: work(outputs)), outputs.failed)
        _ignore_signals()
        unwritten, complaint = _guarded(outputs.write_summary)
        code, error = code or unwritten, error or complaint
    finally:
        _ignore_signals()
        outputs.end(code, error)
        outputs.close()
    return code


Result = TypeVar("Result", "Summary", "Verification")


def _shown(outputs: Outputs, call: Callable[[Display, Control], Result]) -> Result:
    """Do a part of the work with displays and signals."""
    from rumpx.processes.control import Control

    control = Control()
    _catch_signals(control)
    try:
        result = call(outputs.display(), control)
    except RumpxError as error:
        if error.summary:
            outputs.part(cast("Summary | Verification", error.summary))
        raise
    outputs.part(result)
    return result


def _catch_signals(control: Control) -> None:
    from rumpx.processes.control import stopping_signals

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and control.stops:
            return  # a closed terminal sends it more than once
        if not control.running:
            raise Interrupted("Stopped before it started; nothing was written.", number)
        control.stop(number)

    for number in stopping_signals():
        signal.signal(number, stop)
    signal.signal(signal.SIGUSR1, lambda number, frame: control.report())


def _ignore_signals() -> None:
    """Let nothing interrupt the last writes, after the work has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)


def _ask(question: str) -> Policy | None:
    """Ask on the terminal for a policy for keys that the target has."""
    say(question)
    say(
        "For keys that both have: [r]eplace the target's, [s]kip them, [f]ail (list them), or "
        "anything else to quit: ",
        end="",
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
    from rumpx.files import print_text

    print_text(shtab.complete(parser, shell))
    return 0


def _confirm(question: str, control: Control) -> bool:
    """Ask on the terminal for permission to delete; False also if a signal stops the run."""
    say(f"{question} [y/N] ", end="")
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
    "migrate": _migrate,
    "resume": _resume,
    "jobs": _jobs,
    "ctl": _ctl,
    "verify": _verify,
    "report": _report,
    "example": _example,
}
