"""The guide `options`, rendered from the table of options.

`python -m rumpx.guides.options` writes `options.md` anew, after a change of the table;
`tests/test_readme.py` compares both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from rumpx.model.options import (
    CHECK,
    COPY,
    CTL,
    DEMO,
    GROUPS,
    JOBS,
    MIGRATE,
    REPORT,
    RESUME,
    VERIFY,
    Flag,
    flags_of,
)

_HEAD: Final = """\
# Options: every option of every command

Sizes are powers of 1024 (`500k`, `64MiB`); times are `500ms`, `5s`, `5m`, `4h`. Options may also \
stand in a TOML file for `--config`, by their names; `rumpx example config` prints such a file \
with each option and its meaning. The command line overrides the file.

## Options

Options of a copy, `rumpx --from URI --to URI`. Only `--from` and `--to` are required. Two \
examples:

    # a password that ps does not show; the target is a cluster with TLS
    RUMPX_TO_PASSWORD=… rumpx --from redis://old --to rediss://app@new:6380

    # some keys of database 3, into database 0, over those of the target
    rumpx --from redis://old --to redis://new --db 3 --map-db 3:0 \\
      --match 'user:*' --on-conflict replace
"""
_COMMANDS: Final = {
    MIGRATE: "`rumpx migrate` has the options of a copy, but for `--follow` and `--on-conflict`, "
    "which it implies, and `--dry-run`, `--verify` and `--strict`. See `rumpx help follow`.",
    CHECK: "See `rumpx help check`.",
    RESUME: "`rumpx resume [JOB]` keeps the limits and workers of the job unless it has others. "
    "See `rumpx help resume`.",
    VERIFY: "`rumpx verify JOB` takes the endpoints, scope, limits, clock and engine of a job. See "
    "`rumpx help verify`.",
    JOBS: "See `rumpx help resume`.",
    REPORT: "`rumpx report JOB` prints the report as tables. See `rumpx help report`.",
    CTL: "`rumpx ctl [JOB] status|pause|resume|set`: see `rumpx help running`.",
    DEMO: "`rumpx demo` starts two servers, copies between them and compares every key.",
}
"""The other commands, each with a few words about it."""


def render_options() -> str:
    """Return the guide: the options of a copy by groups, and for each other command its own options
    and those that it shares with a copy."""
    return "\n".join([_HEAD, *_of_copy(), *(_of_command(command) for command in _COMMANDS)])


def _of_copy() -> Iterator[str]:
    for group in GROUPS:
        rows = [_row(flag) for flag in group.flags if COPY in flag.commands]
        if not group.title:
            rows.append("| `-h`, `--help` | show the options |")
        elif rows:
            yield f"### {_capital(group.title)}\n"
        if rows:
            yield _table("option", rows)


def _of_command(command: str) -> str:
    own = [flag for flag in flags_of(command) if COPY not in flag.commands]
    parts = [f"## rumpx {command}\n", f"{_COMMANDS[command]}\n"]
    if own:
        parts.append(_table(f"option of `rumpx {command}`", map(_row, own)))
    if shared := list(_shared(command)):
        parts.append(f"As for a copy: {', '.join(shared)}.\n")
    return "\n".join(parts)


def _shared(command: str) -> Iterator[str]:
    """Name the options that a command shares with a copy, by the group where it has all of it."""
    for group in GROUPS:
        of_copy = [flag for flag in group.flags if COPY in flag.commands]
        shared = [flag for flag in of_copy if command in flag.commands]
        if group.title and shared == of_copy and len(shared) > 1:
            yield f"all of “{_capital(group.title)}”"
        else:
            yield from (f"`{flag.flag}`" for flag in shared)


def _table(title: str, rows: Iterable[str]) -> str:
    return "\n".join([f"| {title} | meaning |", "|---|---|", *rows, ""])


def _row(flag: Flag) -> str:
    name = f"{flag.flag} {flag.metavar}".rstrip().replace("|", "\\|")
    text = flag.help
    if flag.shown_default:
        text += f"; default {flag.shown_default}"
    if flag.more:
        text += f". {_capital(flag.more)}"
    return f"| `{name}` | {text} |"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(render_options(), encoding="utf-8")
