"""The end of a run for people, and the file that `--summary` writes.

`summary_lines` gives plain text and `render_summary` the same entries as a table for a terminal;
both show only what there is to say. `write_summary` writes `Summary.to_json()` in one piece: a
reader sees the old file or the whole new one, never a part. `check_summary_path` finds out before
the copy whether that will be possible; it cannot promise that the disk is not full by the end.

Only the first few failed keys of each reason are shown; the file has up to 100,000.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rumpx.errors import UsageError, printable
from rumpx.report import units
from rumpx.report.lines import one_line
from rumpx.report.snapshot import KeyFailure, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

STDOUT: Final = "-"
KEYS_SHOWN: Final = 3
LABEL_WIDTH: Final = len("completeness")


class Entry(NamedTuple):
    """One line of the table: what it is about, what there is to say, how it looks."""

    label: str
    text: str
    style: str = ""


def render_summary(summary: Summary) -> RenderableType:
    """The summary as a table without lines; long texts fold within their column."""
    from rich.console import Group  # only a terminal's display pays for rich
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    style = _outcome_style(summary)
    mark = {"green": "✓", "yellow": "■"}.get(style, "✗")
    head = Text.assemble((f"{mark} {outcome(summary)}", f"bold {style}"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH)
    table.add_column(overflow="fold")
    for label, text, text_style in entries(summary):
        table.add_row(label, Text(text, text_style))
    return Group(head, Padding(table, (0, 0, 0, 2)))


def summary_lines(summary: Summary) -> list[str]:
    """The summary as lines of plain text."""
    shown = list(entries(summary))
    width = max(LABEL_WIDTH, *(len(entry.label) for entry in shown))
    return [outcome(summary), *(f"  {e.label:<{width}}  {e.text}".rstrip() for e in shown)]


def outcome(summary: Summary) -> str:
    """The whole run in one sentence."""
    counts = summary.counts
    copied = f"copied {_count(counts.copied, 'key')} in {units.duration(summary.seconds)}"
    if summary.state == "stopped":
        return f"stopped: {copied}"
    if summary.state == "failed":
        return f"failed: {copied}"
    if counts.failed:
        return f"{copied}; {units.keys(counts.failed)} could not be copied"
    return copied


def entries(summary: Summary) -> Iterator[Entry]:
    """Everything to be said after the outcome, in the order of reading."""
    counts = summary.counts
    yield Entry("from", _server(summary.source, summary.source_version))
    yield Entry("to", _server(summary.target, summary.target_version))
    yield Entry(
        "rate",
        f"{units.key_rate(summary.keys_per_second)}, {units.byte_rate(summary.bytes_per_second)}"
        f" ({units.size(counts.payload_bytes)} in all)",
    )
    if counts.gone:
        yield Entry("gone", f"{units.keys(counts.gone)} expired or were deleted meanwhile")
    if counts.skipped:
        yield Entry("skipped", f"{units.keys(counts.skipped)} that the target already had")
    if counts.repeated:
        yield Entry("repeated", f"{units.keys(counts.repeated)} met again, on the target already")
    if counts.failed:
        yield Entry("failed", units.keys(counts.failed), "bold red")
    for reason, count in summary.failures_by_reason.items():
        yield Entry(f"  {one_line(reason)}", _failed_keys(summary.failures, reason, count))
    yield from _completeness(summary)
    if summary.walked_again:
        reasons = [f"{one_line(why)}: {n}" for why, n in summary.walked_again.items()]
        total = sum(summary.walked_again.values())
        yield Entry("walked again", f"{_count(total, 'partition')} ({', '.join(reasons)})")
    if summary.worker_restarts:
        verb = "was" if summary.worker_restarts == 1 else "were"
        yield Entry("workers", f"{units.keys(summary.worker_restarts)} died and {verb} replaced")
    if summary.left_behind:
        things = one_line(", ".join(summary.left_behind))
        yield Entry("left behind", f"{things} on the source", "yellow")
    for warning in summary.warnings:
        yield Entry("warning", one_line(warning), "yellow")


def _completeness(summary: Summary) -> Iterator[Entry]:
    if summary.missing:
        text = f"the target's key count falls short by {units.keys(summary.missing)}"
        yield Entry("completeness", text, "bold red")
    elif summary.missing == 0:
        yield Entry("completeness", "the target's key count matches", "green")
    elif summary.state == "done":
        text = "not checked by key count (filters, or the target was not empty)"
        yield Entry("completeness", text)


def _failed_keys(failures: tuple[KeyFailure, ...], reason: str, count: int) -> str:
    """`12: user:1, user:2, db3 user:3, …`; a database is named unless it is 0."""
    shown = [failure for failure in failures if failure.reason == reason][:KEYS_SHOWN]
    names = [
        (f"db{failure.db} " if failure.db else "") + printable(failure.key) for failure in shown
    ]
    if count > len(shown):
        names.append("...")
    return f"{units.keys(count)}: {', '.join(names)}"


def _server(uri: str, version: str) -> str:
    return one_line(f"{uri} ({version})" if version else uri)


def _count(number: int, noun: str) -> str:
    return f"{units.keys(number)} {noun}" + ("" if number == 1 else "s")


def _outcome_style(summary: Summary) -> str:
    if summary.state == "stopped":
        return "yellow"
    return "green" if summary.exit_code == 0 else "red"


def check_summary_path(destination: str) -> None:
    """Find out whether `write_summary` could write there; called before the copy.

    Raises:
        UsageError: it could not.
    """
    if destination == STDOUT:
        return
    try:
        if _replaceable(destination):
            temporary = _beside(_real(destination))
            temporary.touch(exist_ok=False)
            temporary.unlink()
        elif Path(destination).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        elif not os.access(destination, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(destination, error) from None


def write_summary(summary: Summary, destination: str) -> None:
    """Write the summary as JSON to stdout ("-") or a file, whose old content it replaces.

    What is no regular file (a pipe, /dev/stderr) is written to and not replaced.

    Raises:
        UsageError: it cannot be written.
    """
    text = json.dumps(summary.to_json(), indent=2) + "\n"
    try:
        if destination == STDOUT:
            sys.stdout.write(text)
            sys.stdout.flush()
        elif _replaceable(destination):
            _replace(_real(destination), text)
        else:
            Path(destination).write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(destination, error) from None


def _replaceable(destination: str) -> bool:
    """Whether a regular file is there, or nothing: a device must never be renamed over."""
    path = Path(destination)
    return path.is_file() or not path.exists()


def _real(destination: str) -> Path:
    """The file that is meant, so that a symlink to it stays a symlink."""
    return Path(os.path.realpath(destination))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _replace(path: Path, text: str) -> None:
    temporary = _beside(path)
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _unwritable(destination: str, error: OSError) -> UsageError:
    return UsageError(f"--summary: {destination} cannot be written: {error.strerror or error}.")
