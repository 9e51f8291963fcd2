"""The parsers of the command and its subcommands, built from the table of options.

Light: nothing but argparse and the table, so that `--help` appears at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

from rumpx.errors import UsageError
from rumpx.model.option_kinds import WHOLE
from rumpx.model.options import (
    CHECK,
    COPY,
    CTL,
    DEMO,
    FROM,
    GROUPS,
    JOBS,
    MIGRATE,
    REPORT,
    RESUME,
    TO,
    VERIFY,
    Flag,
    flags_of,
)

_DESCRIPTION: Final = """\
Copy a live Redis or Valkey keyspace to another server or cluster, by SCAN, DUMP and RESTORE.
The source is only read. Nothing on the target is deleted, but by --follow.
"""

_EPILOG: Final = """\
URIs:
  redis://[user[:password]@]host[:port][/db]       rediss:// for TLS, certificate verified
  unix:///path/to.sock[?db=N]
  redis+sentinel://host[:port][,host...]/service[/db]      rediss+sentinel:// likewise
  Any node of a cluster will do: rumpx discovers the others. Give passwords by RUMPX_FROM_PASSWORD
  and RUMPX_TO_PASSWORD or in a file rather than in a URI, which `ps` shows.

Exit codes:
  0 done   2 usage   3 some keys failed   4 verify found differences
  5 temporary trouble, resume later   6 source unusable   7 target unusable
  8 the target cannot read the source's payloads   10 time is over, resume later
  11 another run holds this job
  129, 130, 143 stopped by a signal, can be resumed   1 anything else

Other commands, each with its own --help:
  rumpx migrate         checks, copies, follows the source, and cuts over
  rumpx resume [JOB]    resumes a copy that was stopped, killed or failed
  rumpx jobs            lists copies and their progress
  rumpx report JOB      prints the report of a copy; --html FILE writes it as a page
  rumpx ctl [JOB] ...   queries a running copy, pauses it, changes its limits
  rumpx check           checks both sides: obstacles, time and memory of a copy
  rumpx verify          compares both sides, key by key; --repair copies differences again
  rumpx demo            starts two small servers, copies between them and compares every key
  rumpx help            lists the guides; rumpx help NAME shows one, as services or resume
  rumpx example         lists ready files: systemd, container, grafana, config
"""


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names only. Reports errors as one sentence, without usage, and
    without words that may be secrets."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See rumpx --help.")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._known(*self.parse_known_args(args, namespace))

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._known(*self.parse_known_intermixed_args(args, namespace))

    def _known(self, arguments: Any, unknown: list[str]) -> Any:
        """Return the arguments, or refuse unknown ones. The message quotes only names of options:
        --from-password is none, but a password follows it."""
        if unknown:
            names = [_option_name(word) for word in unknown]
            shown = [name for name in names if name] or ["there are too many words"]
            self.error(f"unrecognized arguments: {', '.join(shown)}")
        return arguments


def _option_name(word: str) -> str:
    """Return the part of a word that is the name of an option, or ""."""
    found = re.match(r"--[a-z][a-z-]{0,30}(?==|$)|-[A-Za-z]$", word)
    return found[0] if found else ""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the copy itself."""
    parser = Parser(
        prog="rumpx",
        usage="rumpx --from URI --to URI [options]\n"
        "       rumpx migrate|check|resume|jobs|ctl|verify|report|demo|help|example [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(parser, COPY)
    parser.set_defaults(migrates=False)
    return parser


def build_migrate_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx migrate`: a copy's options but for those that it implies, or that
    do something else."""
    parser = Parser(
        prog="rumpx migrate",
        usage="rumpx migrate --from URI --to URI [options]",
        description="Move an application to another server: check both sides, copy, keep the "
        "target in step with the source, and cut over when Enter is pressed, or by rumpx ctl JOB "
        "cutover. See rumpx help follow.",
    )
    _add_options(parser, COPY, without=_NOT_IN_MIGRATE, also=MIGRATE)
    parser.set_defaults(migrates=True)
    return parser


_NOT_IN_MIGRATE: Final[dict[str, object]] = {
    "follow": True,
    "dry-run": False,
    "version": False,
    "print-completion": None,
    "verify": False,
    "strict": False,
    "on-conflict": None,
}
"""Options of a copy that a migration has not, and their values there."""


def build_resume_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx resume`."""
    parser = Parser(
        prog="rumpx resume",
        description="Resume a copy that ended early, from its ledger. Passwords come from the same "
        "files or variables as before; give one that was part of a URI by RUMPX_FROM_PASSWORD or "
        "RUMPX_TO_PASSWORD, or by --from or --to. Limits and --workers stay as they were, unless "
        "given.",
    )
    parser.add_argument("name", nargs="?", metavar="JOB", help="its name (default: the only one)")
    _add_options(parser, RESUME)
    return parser


def build_jobs_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx jobs`."""
    parser = Parser(
        prog="rumpx jobs",
        description="List the copies whose ledgers are kept, the latest first.",
    )
    _add_few_options(parser, JOBS)
    return parser


def build_report_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx report`."""
    parser = Parser(
        prog="rumpx report",
        description="Print the report of a copy, from its ledger: one that is done, stopped, "
        "killed or still running.",
    )
    parser.add_argument("name", metavar="JOB", help="its name; rumpx jobs lists all")
    _add_few_options(parser, REPORT)
    return parser


def build_ctl_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx ctl`."""
    parser = Parser(
        prog="rumpx ctl",
        usage="rumpx ctl [JOB] status|pause|resume [--json]\n"
        "       rumpx ctl [JOB] set NAME=VALUE [NAME=VALUE ...]",
        description="Query a running copy, pause it, or change its limits. NAME is the name of a "
        "limit's option, as in max-keys-per-sec, VALUE a value of that option, or off. Exits with "
        "5 if the job is not running, or is too busy to answer.",
    )
    parser.add_argument(
        "words", nargs="*", metavar="JOB VERB", help="JOB may be left out if only one is running"
    )
    _add_few_options(parser, CTL)
    return parser


def build_verify_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx verify`."""
    parser = Parser(
        prog="rumpx verify",
        usage="rumpx verify --from URI --to URI [options]\n       rumpx verify JOB [options]",
        description="Compare source and target in both directions, key by key: value, type and "
        "expiry. Writes nothing without --repair. Exits with 0 if all is equal, else with 4.",
    )
    parser.add_argument("name", nargs="?", metavar="JOB", help="take endpoints and scope of a copy")
    _add_options(parser, VERIFY)
    return parser


def build_check_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx check`."""
    parser = Parser(
        prog="rumpx check",
        usage="rumpx check --from URI --to URI [options]",
        description="Check both sides before a copy: obstacles with a fix for each, a sample of "
        "the keys, and the time and memory that a copy would take. Restores a few small payloads "
        "to the target and deletes them, to prove that it can read them. Exits with 0, or with the "
        "exit code of such a copy.",
    )
    _add_options(parser, CHECK)
    return parser


def build_demo_parser() -> argparse.ArgumentParser:
    """Build the parser of `rumpx demo`."""
    parser = Parser(
        prog="rumpx demo",
        description="Start two servers, fill one, copy it with bars, compare every key, stop them.",
    )
    _add_few_options(parser, DEMO)
    parser.set_defaults(**{flag.name: flag.read([flag.default]) for flag in flags_of(DEMO)})
    return parser


def _add_options(
    parser: argparse.ArgumentParser,
    command: str,
    without: Mapping[str, object] = MappingProxyType({}),
    also: str = "",
) -> None:
    """Add the options of a command, in their groups. One that is not given is None.

    Args:
        without: those that are left out, with their values.
        also: another command whose options are added.
    """
    parser.set_defaults(command=command)
    parser.set_defaults(**{name.replace("-", "_"): value for name, value in without.items()})
    for group in GROUPS:
        flags = [
            flag
            for flag in group.flags
            if (command in flag.commands or also in flag.commands) and flag.name not in without
        ]
        if flags:
            section = parser.add_argument_group(group.title) if group.title else parser
            for flag in flags:
                if command == RESUME and flag.field:
                    flag = flag._replace(default="")  # the job's value stays in force
                short = [f"-{flag.name}"] if command == COPY and flag in (FROM, TO) else []
                _add(section.add_argument, flag, *short)


def _add_few_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of a command without groups."""
    for flag in flags_of(command):
        _add(parser.add_argument, flag)


def _add(add: Callable[..., object], flag: Flag, *names: str) -> None:
    how: dict[str, Any] = {"dest": {"from": "source", "to": "target"}.get(flag.name)}
    if not flag.kind.takes_value:
        how["action"] = "store_true"
    else:
        how["metavar"] = flag.metavar
        how["choices"] = flag.choices or None
        how["type"] = int if flag.kind is WHOLE and not flag.off else None
    if flag.kind.repeats:
        how |= {"action": "append", "default": [], "choices": None}
    text = flag.plain_help
    if flag.shown_default:
        text += f" (default {flag.shown_default})"
    add(
        flag.flag,
        *names,
        help=text.replace("%", "%%"),
        **{name: value for name, value in how.items() if value is not None},
    )
