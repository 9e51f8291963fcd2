"""The outputs of a command: displays, log and metrics while it works; summary, report and hook at
its end.

    open     try each file and port, so that a mistake is reported before any server is contacted
    display  the display of the next part of the work (a copy, then its comparison)
    part     a part has ended
    end      all has ended: write the report, run the hook

Output for people goes to standard error. No display can stop the work (`display.display`). A
failure at the end is reported on standard error and does not change the exit code, except for a
summary that cannot be written, which other programs wait for.

Not promised: a report or a hook of a process that was killed (`rumpx report` makes the former
later), or while standard error accepts nothing, as a terminal after Ctrl-S.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rumpx.display.display import Several, Silent, beside, choose, open_display
from rumpx.errors import Interrupted, RumpxError, UsageError
from rumpx.files import check_writable, private, write_text
from rumpx.model import clashes
from rumpx.model.display import Display
from rumpx.model.job import Limits, LogFormat, Progress
from rumpx.model.results import SUMMARY_VERSION, Summary, Verification
from rumpx.model.snapshot import Snapshot, State
from rumpx.model.timeline import Recorder
from rumpx.text import say

if TYPE_CHECKING:
    from rumpx.display.metrics import Metrics
    from rumpx.model.history import Option, Record, Standing


@dataclass(frozen=True, slots=True)
class Wanted:
    """The requested outputs; the attributes are options of the command line."""

    progress: Progress = "auto"
    top: bool = False
    summary: str | None = None
    report: str | None = None
    log_file: str | None = None
    log_format: LogFormat = "text"
    metrics: str | None = None
    on_end: str | None = None


class Outputs:
    """All outputs of one command.

    Args:
        wanted: the requested ones.
        state_dir: the folder of ledgers, if given; reports are made from them.
        name: of the job to resume or compare, if it was given.

    Attributes:
        copied, compared: the results of the copy and of the comparison, once they have ended.
        options, limits: those of a comparison without a job.
    """

    def __init__(
        self, wanted: Wanted, state_dir: str | None = None, name: str | None = None
    ) -> None:
        self.copied: Summary | None = None
        self.compared: Verification | None = None
        self.options: tuple[Option, ...] = ()
        self.limits = Limits()
        self._wanted = wanted
        self._state_dir = state_dir
        self._name = name
        self._stack = ExitStack()
        self._log: TextIO | None = None
        self._metrics: Metrics | None = None
        self._series = _Series()
        self._asks: bool | None = None
        self._drawn = choose(wanted.progress, sys.stderr)

    # Before.

    def open(self) -> None:
        """Open the log and the port, and try the other files.

        Raises:
            UsageError: a file cannot be written, a port is taken, there is no terminal.
        """
        wanted = self._wanted
        self._refuse_empty()
        clashes.refuse(clashes.IN_DISPLAYS, wanted)
        if wanted.top:
            self._refuse_top()
        if wanted.summary:
            check_writable(wanted.summary, "--summary")
        if wanted.report:
            check_writable(wanted.report, "--report")
        if wanted.log_file:
            self._log = _open_log(wanted.log_file)
            self._stack.callback(_close_log, self._log)
        if wanted.metrics:
            from rumpx.display.metrics import Metrics, parse_listen

            self._metrics = Metrics(parse_listen(wanted.metrics))
            self._stack.callback(self._metrics.close)

    def _refuse_empty(self) -> None:
        """Refuse empty values, from a script with an unset variable."""
        for name in ("summary", "report", "log_file", "metrics", "on_end"):
            if getattr(self._wanted, name) == "":
                raise UsageError(f"--{name.replace('_', '-')} is empty; leave it out.")

    def _refuse_top(self) -> None:
        if self._drawn != "bar" or not (sys.stderr.isatty() and sys.stdin.isatty()):
            raise UsageError(
                "--top needs a terminal that can draw (TERM, UTF-8), on standard error and on "
                "standard input; leave it out."
            )

    # While it works.

    def display(self) -> Display:
        """Return the display of the next part of the work."""
        wanted = self._wanted
        main = open_display(
            wanted.progress, sys.stderr, wanted.log_format, sys.stdin if wanted.top else None
        )
        displays: list[Display] = [main]
        if self._log:
            displays.append(beside(main, _log_display(self._log, wanted.log_format), "log"))
        if self._metrics:
            displays.append(self._metrics)
        if wanted.report and self.options:
            displays.append(self._series)
        if self._asks is not None:
            from rumpx.cli.prompt import Prompt

            keys = None if wanted.top else sys.stdin
            displays.append(Prompt(main, self._state_dir, keys, at_once=self._asks))
        return Several(displays) if len(displays) > 1 else main

    def asks_for_cutover(self, *, at_once: bool) -> None:
        """Have Enter cut over a migration, or cut over `at_once` when the target is in step."""
        self._asks = at_once

    # At the end.

    def part(self, result: Summary | Verification) -> None:
        """Show the result of a part of the work."""
        if isinstance(result, Summary):
            self.copied = result
        else:
            self.compared = result
        self._show_end(result)

    def write_summary(self) -> None:
        """Write `--summary`, if any part has ended.

        Raises:
            RumpxError: it cannot be written; see `write_text`.
        """
        if self._wanted.summary and (self.copied or self.compared):
            from rumpx.report.summary import document, write_summary

            write_summary(document(self.copied, self.compared), self._wanted.summary)

    def _show_end(self, result: Summary | Verification) -> None:
        self._log_end(result)
        with suppress(OSError, SystemExit):  # rich exits at a closed pipe
            self._print_end(result)

    def _log_end(self, result: Summary | Verification) -> None:
        if self._logs_json:
            from rumpx.display.jsonl import summary_json

            self._write_log(summary_json(result))
        else:
            from rumpx.display.lines import dated
            from rumpx.report.summary import summary_lines

            self._write_log(*map(dated, summary_lines(result)))

    def _print_end(self, result: Summary | Verification) -> None:
        """Print the result in the form of the progress; without progress only if the exit code is
        not 0."""
        from rumpx.report.summary import render_summary, summary_lines

        if self._drawn == "bar":
            from rumpx.display.draw import console

            console(sys.stderr).print("", render_summary(result))
        elif self._drawn == "json" or (self._drawn == "line" and self._logs_json):
            from rumpx.display.jsonl import summary_json

            say(summary_json(result))
        elif self._drawn == "line" or result.exit_code:
            say(*summary_lines(result))

    @property
    def _logs_json(self) -> bool:
        return self._wanted.log_format == "json"

    def failed(self, error: RumpxError) -> bool:
        """Log the error that ended the work early; True if it was also printed here."""
        from rumpx.display.lines import dated

        if not self._logs_json:
            self._write_log(dated(str(error)), *([dated(error.resume)] if error.resume else []))
            return False
        from rumpx.display.jsonl import error_json

        self._write_log(error_json(error))
        if self._drawn == "line":
            say(error_json(error))
        return self._drawn == "line"

    def _write_log(self, *lines: str) -> None:
        if self._log is None:
            return
        try:
            say(*lines, stream=self._log)
        except OSError as error:
            _complain(f"The log {self._wanted.log_file} cannot be written: {error.strerror}.")
            self._log = None

    def end(self, exit_code: int, error: RumpxError | None) -> None:
        """Write the report and run the hook. Never raises.

        Args:
            exit_code: the command's.
            error: the error that ended it early, if any.
        """
        if self._wanted.report and (self._started or not isinstance(error, UsageError)):
            self._last(lambda: self._write_report(self._wanted.report or ""))
        if self._wanted.summary and not self._started and not isinstance(error, UsageError):
            _warn_of_old("--summary", self._wanted.summary)
        if self._wanted.on_end:
            self._last(lambda: self._run_hook(self._wanted.on_end or "", exit_code, error))

    @property
    def _started(self) -> bool:
        return bool(self.copied or self.compared)

    def _last(self, act: Callable[[], None]) -> None:
        """Do one of the last things; report its failure, and do not propagate it."""
        try:
            act()
        except RumpxError as error:
            _complain(str(error))
        except Exception as error:
            _complain(f"An unexpected error at the end of the run: {error!r}.")

    def _run_hook(self, command: str, exit_code: int, error: RumpxError | None) -> None:
        from rumpx.cli.hook import run_hook
        from rumpx.report.summary import document

        summary = document(self.copied, self.compared) or _nothing_done(exit_code, error)
        summary |= {"error": str(error or ""), "resume": error.resume if error else None}
        if complaint := run_hook(command, summary, exit_code):
            _complain(complaint)

    def _write_report(self, path: str) -> None:
        from rumpx.report.html import render_html

        try:
            if record := self._record():
                write_text(path, render_html(record), "--report")
            else:
                _warn_of_old("--report", path)
        except Exception:
            if self.copied:
                _complain(f"rumpx report {self.copied.job} --html FILE makes the report later.")
            raise

    def _record(self) -> Record | None:
        """Return the job's record if there is one, else the comparison's; None if neither has
        started."""
        name = self.copied.job if self.copied else self._name
        if name is not None:
            from rumpx.ledger.catalog import Place, existing_ledger
            from rumpx.ledger.history import read_story

            try:
                return read_story(existing_ledger(Place(self._state_dir, name)))
            except UsageError:  # a ledger of an older schema: report the comparison alone
                if self.copied or not self.compared:
                    raise
        return self._record_of_comparison() if self.compared else None

    def _record_of_comparison(self) -> Record:
        assert self.compared is not None
        from rumpx._version import __version__
        from rumpx.model.history import Record

        self._series.recorder.finish(time.time())
        states: dict[State, Standing] = {"done": "done", "stopped": "stopped"}
        return Record(
            state=states.get(self.compared.state, "failed"),
            exit_code=self.compared.exit_code,
            fraction=self._series.fraction,
            summary=self.compared,
            options=self.options,
            limits=self.limits,
            points=tuple(self._series.recorder.points),
            runs=(),
            verification=None,
            verified=None,
            written=time.time(),
            version=__version__,
        )

    def close(self) -> None:
        """Close files and ports."""
        self._stack.close()


class _Series(Silent):
    """Keeps the points for the charts of a comparison's report; a copy's are in its ledger."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.fraction = 0.0

    def show(self, snapshot: Snapshot) -> None:
        self.fraction = snapshot.fraction
        if snapshot.state != "starting":
            self.recorder.see(snapshot, time.time())


def _open_log(path: str) -> TextIO:
    """Open the log so that a write to a full pipe is an error: waiting would delay the end."""
    try:
        return open(
            path,
            "a",
            encoding="utf-8",
            errors="backslashreplace",
            opener=lambda name, flags: private(name, flags | os.O_NONBLOCK),
        )
    except OSError as error:
        raise UsageError(f"--log-file: {path} cannot be written: {error.strerror}.") from None


def _close_log(log: TextIO) -> None:
    with suppress(OSError):  # a failed write was reported before
        log.close()


def _log_display(stream: TextIO, log_format: LogFormat) -> Display:
    if log_format == "json":
        from rumpx.display.jsonl import json_log

        return json_log(stream)
    from rumpx.display.lines import text_log

    return text_log(stream)


def _nothing_done(exit_code: int, error: RumpxError | None) -> dict[str, Any]:
    """Return the summary of a run that ended before it started."""
    state: State = "stopped" if isinstance(error, Interrupted) else "failed"
    return {"version": SUMMARY_VERSION, "state": state, "exit_code": exit_code}


def _warn_of_old(flag: str, path: str) -> None:
    """Warn of an old file, which must not be mistaken for this run's: it wrote none."""
    if os.path.isfile(path):
        _complain(f"{flag}: nothing was copied or compared; {path} is still an earlier run's.")


def _complain(text: str) -> None:
    with suppress(OSError):
        say(f"rumpx: {text}")
