"""The end of a run for people, and the file that `--summary` writes.

The texts are in `copied` for a copy and in `verdict` for a comparison. `summary_lines` returns
plain text and `render_summary` the same entries as a table for a terminal; both omit empty entries.
`write_summary` writes the summary's JSON in one piece (`files`).

Only the first few failed keys of each reason are shown; the file has up to 100,000.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from rumpx.files import write_text
from rumpx.model.results import Summary, Verification
from rumpx.report import copied, verdict
from rumpx.report.text import Entry
from rumpx.text import legible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LABEL_WIDTH: Final = len("completeness")


def told(summary: Summary | Verification) -> tuple[str, list[Entry]]:
    """Return the outcome in one sentence, and all further entries."""
    if isinstance(summary, Verification):
        return verdict.outcome(summary), list(verdict.entries(summary))
    return copied.outcome(summary), list(copied.entries(summary))


def render_summary(summary: Summary | Verification) -> RenderableType:
    """Draw the summary as a table without lines; long texts fold within their column."""
    from rich.console import Group  # import rich for terminals only
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    style = _outcome_style(summary)
    mark = {"green": "✓", "yellow": "■"}.get(style, "✗")
    summary = legible(summary)
    outcome, entries = told(summary)
    head = Text.assemble((f"{mark} {outcome}", f"bold {style}"))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=LABEL_WIDTH)
    table.add_column(overflow="fold")
    for label, text, text_style in entries:
        table.add_row(Text(label), Text(text, text_style))
    blocks: list[RenderableType] = [head, Padding(table, (0, 0, 0, 2))]
    if isinstance(summary, Verification) and summary.prefixes:
        blocks.append(Padding(_prefix_table(summary), (1, 0, 0, 2)))
    return Group(*blocks)


def _prefix_table(result: Verification) -> Table:
    """Draw differing keys by prefix and kind."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    kinds = [kind for kind in verdict.KINDS if result.differences.get(kind)]
    table = Table("keys", *kinds, box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, *cells in verdict.prefix_rows(result, kinds):
        table.add_row(Text(name), *cells)
    return table


def summary_lines(summary: Summary | Verification) -> list[str]:
    """Return the summary as lines of plain text."""
    summary = legible(summary)
    outcome, shown = told(summary)
    if isinstance(summary, Verification):
        shown += verdict.prefix_entries(summary)
    width = max(LABEL_WIDTH, *(len(entry.label) for entry in shown))
    return [outcome, *(f"  {e.label:<{width}}  {e.text}".rstrip() for e in shown)]


def _outcome_style(summary: Summary | Verification) -> str:
    if summary.state == "stopped":
        return "yellow"
    return "green" if summary.exit_code == 0 else "red"


def document(copied: Summary | None, compared: Verification | None) -> dict[str, Any]:
    """Return the content of `--summary`; a comparison after a copy is its "verification"."""
    if copied and compared:
        return copied.to_json() | {"verification": compared.to_json()}
    result = copied or compared
    return result.to_json() if result else {}


def write_summary(document: dict[str, Any], destination: str) -> None:
    """Write a document as JSON to stdout ("-") or a file, whose old content it replaces.

    A pipe or a device (/dev/stderr) is written to and not replaced.

    Raises:
        RumpxError: the file cannot be written; see `write_text`.
    """
    write_text(destination, json.dumps(document, indent=2) + "\n", "--summary")
