"""The end of a run for people, and the file that `--summary` writes.

What there is to say is in `copied` for a copy and in `verdict` for a comparison. `summary_lines`
gives plain text and `render_summary` the same entries as a table for a terminal; both show only
what there is to say. `write_summary` writes the summary's JSON in one piece: a reader sees the old
file or the whole new one, never a part. `check_summary_path` finds out before the run whether that
will be possible; it cannot promise that the disk is not full by the end.

Only the first few failed keys of each reason are shown; the file has up to 100,000.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rumpx.errors import UsageError
from rumpx.report import copied, verdict
from rumpx.report.entries import Entry
from rumpx.report.snapshot import Summary, Verification

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

STDOUT: Final = "-"
LABEL_WIDTH: Final = len("completeness")


def told(summary: Summary | Verification) -> tuple[str, list[Entry]]:
    """The outcome in one sentence, and everything else."""
    if isinstance(summary, Verification):
        return verdict.outcome(summary), list(verdict.entries(summary))
    return copied.outcome(summary), list(copied.entries(summary))


def render_summary(summary: Summary | Verification) -> RenderableType:
    """The summary as a table without lines; long texts fold within their column."""
    from rich.console import Group  # only a terminal's display pays for rich
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    style = _outcome_style(summary)
    mark = {"green": "✓", "yellow": "■"}.get(style, "✗")
    outcome, entries = told(summary)
    head = Text.assemble((f"{mark} {outcome}", f"bold {style}"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH)
    table.add_column(overflow="fold")
    for label, text, text_style in entries:
        table.add_row(label, Text(text, text_style))
    blocks: list[RenderableType] = [head, Padding(table, (0, 0, 0, 2))]
    if isinstance(summary, Verification) and summary.prefixes:
        blocks.append(Padding(_prefix_table(summary), (1, 0, 0, 2)))
    return Group(*blocks)


def _prefix_table(result: Verification) -> Table:
    """Differing keys by prefix and kind."""
    from rich import box
    from rich.table import Table

    kinds = [kind for kind in verdict.KINDS if result.differences.get(kind)]
    table = Table("keys", *kinds, box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, *cells in verdict.prefix_rows(result, kinds):
        table.add_row(name, *cells)
    return table


def summary_lines(summary: Summary | Verification) -> list[str]:
    """The summary as lines of plain text."""
    outcome, shown = told(summary)
    if isinstance(summary, Verification):
        shown += verdict.prefix_entries(summary)
    width = max(LABEL_WIDTH, *(len(entry.label) for entry in shown))
    return [outcome, *(f"  {e.label:<{width}}  {e.text}".rstrip() for e in shown)]


def _outcome_style(summary: Summary | Verification) -> str:
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


def write_summary(
    summary: Summary | Verification, destination: str, copied: Summary | None = None
) -> None:
    """Write the summary as JSON to stdout ("-") or a file, whose old content it replaces.

    A comparison after a copy (`copied`) stands in the copy's document, as "verification". What is
    no regular file (a pipe, /dev/stderr) is written to and not replaced.

    Raises:
        UsageError: it cannot be written.
    """
    document = summary.to_json()
    if copied:
        document = {**copied.to_json(), "verification": document}
    text = json.dumps(document, indent=2) + "\n"
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
