"""What a command shows while it works, and what it leaves when it ends: displays, log, metrics,
summary, report, and a command to run.

    open    every file and port is tried, so that a mistake is told before anything is contacted
    display for each part of the work (a copy, then its comparison) what to show it on
    part    a part has ended
    end     the whole has: the report is written, the hook is run

What people look at goes to standard error. No display can stop the work (`report.display`), and
what fails at the end is told on standard error and changes no exit code, since the copy is what it
is; but for a summary that cannot be written, which others wait for.

Not promised: a report or a hook of a process that was killed (`rumpx report` makes the former
later), or while standard error takes nothing, as a terminal after Ctrl-S.
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
    """What is to be shown and left; the attributes are options of the command line."""

    progress: Progress = "auto"
    top: bool = False
    summary: str | None = None
    report: str | None = None
    log_file: str | None = None
    log_format: LogFormat = "text"
    metrics: str | None = None
    on_end: str | None = None


class Outputs:
    """All of it, for one command.

    Args:
        wanted: what is asked for.
        state_dir: the folder of ledgers, if given; reports are made of them.
        name: of the job that is gone on with, or compared, if it was named.

    Attributes:
        copied, compared: how the copy, and the comparison, ended, if one has.
        options, limits: those of a comparison that is not of a job.
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
        self._drawn = choose(wanted.progress, sys.stderr)

    # Before.

    def open(self) -> None:
        """Try what will be needed.

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
        """Of a script whose variable is not set."""
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
        """What the next part of the work is shown on."""
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
        return Several(displays) if len(displays) > 1 else main

    # When it has ended.

    def part(self, result: Summary | Verification) -> None:
        """Show how a part of the work ended."""
        if isinstance(result, Summary):
            self.copied = result
        else:
            self.compared = result
        self._show_end(result)

    def write_summary(self) -> None:
        """Write `--summary`, if any part has ended.

        Raises:
            RumpxError: it cannot be written, as `write_text` tells.
        """
        if self._wanted.summary and (self.copied or self.compared):
            from rumpx.report.summary import document, write_summary

            write_summary(document(self.copied, self.compared), self._wanted.summary)

    def _show_end(self, result: Summary | Verification) -> None:
        self._log_end(result)
        with suppress(OSError, SystemExit):  # rich's word for a pipe that nobody reads
            self._tell_end(result)

    def _log_end(self, result: Summary | Verification) -> None:
        if self._logs_json:
            from rumpx.display.jsonl import summary_json

            self._write_log(summary_json(result))
        else:
            from rumpx.display.lines import dated
            from rumpx.report.summary import summary_lines

            self._write_log(*map(dated, summary_lines(result)))

    def _tell_end(self, result: Summary | Verification) -> None:
        """Tell people, in the way in which they were shown the progress; without any, only of an
        end that is not what they wanted."""
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
        """The work ended early; whether this was told on standard error here."""
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
        """Everything has ended: write the report, run the hook. Never raises.

        Args:
            exit_code: the command's.
            error: what ended it early.
        """
        if self._wanted.report and (self._begun or not isinstance(error, UsageError)):
            self._last(lambda: self._write_report(self._wanted.report or ""))
        if self._wanted.summary and not self._begun and not isinstance(error, UsageError):
            _tell_of_old("--summary", self._wanted.summary)
        if self._wanted.on_end:
            self._last(lambda: self._run_hook(self._wanted.on_end or "", exit_code, error))

    @property
    def _begun(self) -> bool:
        return bool(self.copied or self.compared)

    def _last(self, act: Callable[[], None]) -> None:
        """Do one of the last things; its faults are told, and are its own."""
        try:
            act()
        except RumpxError as error:
            _complain(str(error))
        except Exception as error:
            _complain(f"Something that nobody foresaw: {error!r}.")

    def _run_hook(self, command: str, exit_code: int, error: RumpxError | None) -> None:
        from rumpx.cli.hook import run_hook
        from rumpx.report.summary import document

        told = document(self.copied, self.compared) or _nothing_done(exit_code, error)
        told |= {"error": str(error or ""), "resume": error.resume if error else None}
        if complaint := run_hook(command, told, exit_code):
            _complain(complaint)

    def _write_report(self, path: str) -> None:
        from rumpx.report.html import render_html

        try:
            if record := self._record():
                write_text(path, render_html(record), "--report")
            else:
                _tell_of_old("--report", path)
        except Exception:
            if self.copied:
                _complain(f"rumpx report {self.copied.job} --html FILE makes the report later.")
            raise

    def _record(self) -> Record | None:
        """Of the job if there is one, else of the comparison; None if nothing has begun."""
        name = self.copied.job if self.copied else self._name
        if name is not None:
            from rumpx.ledger.catalog import Place, existing_ledger
            from rumpx.ledger.history import read_story

            try:
                return read_story(existing_ledger(Place(self._state_dir, name)))
            except UsageError:  # the ledger is of an older version: then of the comparison alone
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
        """Let go of files and ports."""
        self._stack.close()


class _Series(Silent):
    """Keeps what the charts of a comparison's report are drawn from; a copy's are in its ledger."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.fraction = 0.0

    def show(self, snapshot: Snapshot) -> None:
        self.fraction = snapshot.fraction
        if snapshot.state != "starting":
            self.recorder.see(snapshot, time.time())


def _open_log(path: str) -> TextIO:
    """A pipe that nobody empties must be an error: waiting for it would hold up the end."""
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
    with suppress(OSError):  # what it could not write has been told
        log.close()


def _log_display(stream: TextIO, log_format: LogFormat) -> Display:
    if log_format == "json":
        from rumpx.display.jsonl import json_log

        return json_log(stream)
    from rumpx.display.lines import text_log

    return text_log(stream)


def _nothing_done(exit_code: int, error: RumpxError | None) -> dict[str, Any]:
    """The summary of a run that ended before it began."""
    state: State = "stopped" if isinstance(error, Interrupted) else "failed"
    return {"version": SUMMARY_VERSION, "state": state, "exit_code": exit_code}


def _tell_of_old(flag: str, path: str) -> None:
    """Nothing has begun, so nothing was written; what is there must not be taken for news."""
    if os.path.isfile(path):
        _complain(f"{flag}: nothing has begun, so {path} was left as it is, of an earlier run.")


def _complain(text: str) -> None:
    with suppress(OSError):
        say(f"rumpx: {text}")
