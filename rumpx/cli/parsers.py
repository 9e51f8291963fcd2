"""The parsers of the command and its subcommands.

Light: nothing but argparse, so that `--help` comes at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from rumpx.errors import UsageError

_DESCRIPTION: Final = """\
Copy a live Redis or Valkey keyspace to another server or cluster, by SCAN, DUMP and RESTORE.
The source is only read. Nothing on the target is deleted.
"""

_EPILOG: Final = """\
URIs:
  redis://[user[:password]@]host[:port][/db]       rediss:// for TLS, certificate verified
  unix:///path/to.sock[?db=N]
  redis+sentinel://host[:port][,host...]/service[/db]      rediss+sentinel:// likewise
  A cluster is found out by asking any of its nodes. Passwords are better given by
  RUMPX_FROM_PASSWORD and RUMPX_TO_PASSWORD or in a file than in a URI, which `ps` shows.

Exit codes:
  0 done   2 usage   3 some keys failed   4 verify found differences
  5 temporary trouble, resume later   6 source unusable   7 target unusable
  8 the target cannot read the source's payloads   10 time is over, resume later
  11 another run holds this job
  129, 130, 143 stopped by a signal, can be resumed   1 anything else

Other commands, each with its own --help:
  rumpx resume [JOB]    goes on with a copy that ended early, however it ended
  rumpx jobs            lists copies and how far they are
  rumpx report JOB      what a copy did and how it went; --html FILE as a page
  rumpx ctl [JOB] ...   asks a running copy, pauses it, changes its limits
  rumpx check           looks at both sides: what a copy would trip over, and what it would take
  rumpx verify          compares both sides, key by key; --repair mends what differs
  rumpx demo            starts two small servers, copies between them and compares every key
  rumpx help            lists the guides; rumpx help services: what managed services refuse
  rumpx example         lists ready files: systemd, container, grafana, config
"""


class Parser(argparse.ArgumentParser):
    """Errors as one sentence, without the page of usage, and without words that may be secrets."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See rumpx --help.")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._known(*self.parse_known_args(args, namespace))

    def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self._known(*self.parse_known_intermixed_args(args, namespace))

    def _known(self, arguments: Any, unknown: list[str]) -> Any:
        """The arguments, if none is unknown. Of those the values are not told, nor words that are
        no options: --from-password is none, but what follows it is a password."""
        if unknown:
            names = [_option_name(word) for word in unknown]
            told = [name for name in names if name] or ["there are too many words"]
            self.error(f"unrecognized arguments: {', '.join(told)}")
        return arguments


def _option_name(word: str) -> str:
    """What of a word is the name of an option."""
    found = re.match(r"--[a-z][a-z-]{0,30}(?==|$)|-[A-Za-z]$", word)
    return found[0] if found else ""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the copy itself."""
    parser = Parser(
        prog="rumpx",
        usage="rumpx --from URI --to URI [options]\n"
        "       rumpx check|resume|jobs|ctl|verify|report|demo|help|example [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from", "-from", dest="source", metavar="URI", help="the source, which is only read")
    add("--to", "-to", dest="target", metavar="URI", help="the target")
    add("--workers", type=int, default=4, metavar="N", help="worker processes (default 4)")
    add(
        "--dry-run",
        action="store_true",
        help="copy nothing: check both sides as rumpx check does, and print the plan",
    )
    add("--version", action="store_true", help="print the version and exit")
    add(
        "--print-completion",
        choices=("bash", "zsh", "tcsh"),
        metavar="SHELL",
        help="print a completion script for bash, zsh or tcsh (needs rumpx[completion])",
    )
    _add_config(parser)
    _add_scope(parser)
    _add_policy(parser)
    _add_job(parser)
    _add_behaviour(parser)
    _add_limits(parser)
    _add_cutting(parser)
    _add_display(parser)
    _add_sides(parser)
    return parser


def build_resume_parser() -> argparse.ArgumentParser:
    """The parser of `rumpx resume`."""
    parser = Parser(
        prog="rumpx resume",
        description="Go on with a copy that ended early, from its ledger. Passwords come from "
        "where they came from at its start; one that stood in a URI by RUMPX_FROM_PASSWORD or "
        "RUMPX_TO_PASSWORD.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="JOB", help="its name (default: the only one there is)")
    add("--state-dir", metavar="DIR", help="the folder of its ledger")
    add("--retry-failed", action="store_true", help="try the keys that failed once more")
    _add_max_failures(parser)
    add("--workers", type=int, metavar="N", help="worker processes (default: as before)")
    add("--from", dest="source", metavar="URI", help="the source again, with its password")
    add("--to", dest="target", metavar="URI", help="the target again, with its password")
    _add_config(parser)
    _add_limits(parser)
    _add_display(parser)
    return parser


def build_jobs_parser() -> argparse.ArgumentParser:
    """The parser of `rumpx jobs`."""
    parser = Parser(
        prog="rumpx jobs",
        description="List the copies whose ledgers are kept, the latest first.",
        allow_abbrev=False,
    )
    parser.add_argument("--prune", action="store_true", help="remove those that are done")
    parser.add_argument("--state-dir", metavar="DIR", help="the folder of the ledgers")
    return parser


def build_report_parser() -> argparse.ArgumentParser:
    """The parser of `rumpx report`."""
    parser = Parser(
        prog="rumpx report",
        description="Tell from its ledger what a copy did and how it went, whether it is done, "
        "stopped, was killed, or runs.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", metavar="JOB", help="its name; rumpx jobs lists all")
    add(
        "--html",
        metavar="FILE",
        help="write it as one HTML page, with charts; - is standard output",
    )
    add("--state-dir", metavar="DIR", help="the folder of its ledger")
    return parser


def build_ctl_parser() -> argparse.ArgumentParser:
    """The parser of `rumpx ctl`."""
    parser = Parser(
        prog="rumpx ctl",
        usage="rumpx ctl [JOB] status|pause|resume [--json]\n"
        "       rumpx ctl [JOB] set NAME=VALUE [NAME=VALUE ...]",
        description="Ask a copy that runs how far it is, pause it, or change its limits. NAME is "
        "that of a limit's flag, as in max-keys-per-sec, VALUE what the flag takes, or off. Ends "
        "with 5 if the job does not run now.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="JOB VERB", help="JOB may be left out if only one runs")
    add("--state-dir", metavar="DIR", help="the folder of its ledger")
    add("--json", action="store_true", help="print the answer as JSON")
    return parser


def build_verify_parser() -> argparse.ArgumentParser:
    """The parser of `rumpx verify`."""
    parser = Parser(
        prog="rumpx verify",
        usage="rumpx verify --from URI --to URI [options]\n       rumpx verify JOB [options]",
        description="Compare source and target in both directions, key by key: value, type and "
        "expiry. Nothing is written without --repair. Ends with 0 if all is equal, else with 4.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="JOB", help="a copy whose endpoints and scope are meant")
    add("--state-dir", metavar="DIR", help="the folder of its ledger")
    add("--from", dest="source", metavar="URI", help="the source, which is only read")
    add("--to", dest="target", metavar="URI", help="the target")
    add("--workers", type=int, default=4, metavar="N", help="worker processes (default 4)")
    _add_config(parser)
    _add_comparison(parser)
    _add_scope(parser)
    _add_behaviour(parser)
    _add_limits(parser)
    _add_display(parser)
    _add_sides(parser)
    parser.set_defaults(
        on_conflict="replace", functions=False, max_failures=None, partitions=0, prefixes=None
    )
    return parser


def build_check_parser() -> argparse.ArgumentParser:
    """The parser of `rumpx check`."""
    parser = Parser(
        prog="rumpx check",
        usage="rumpx check --from URI --to URI [options]",
        description="Look at both sides before a copy: what it would trip over and what to do "
        "about it, a sample of the keys, and what a copy would take. A few small payloads are "
        "restored to the target and deleted again, to prove that it can read them. Ends with 0, or "
        "with the code that the copy would end with.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from", dest="source", metavar="URI", help="the source, which is only read")
    add("--to", dest="target", metavar="URI", help="the target")
    add("--workers", type=int, default=4, metavar="N", help="worker processes (default 4)")
    _add_config(parser)
    add = parser.add_argument_group("the check").add_argument
    add("--sample", type=int, metavar="N", help="look at so many keys (default 10000)")
    add("--read-only", action="store_true", help="write nothing: no proof by real payloads")
    add("--json", action="store_true", help="print one JSON object in the place of the report")
    _add_scope(parser)
    _add_policy(parser)
    _add_behaviour(parser)
    _add_limits(parser)
    _add_cutting(parser)
    _add_sides(parser)
    parser.set_defaults(max_failures=None)
    return parser


def build_demo_parser() -> argparse.ArgumentParser:
    """The parser of `rumpx demo`."""
    parser = Parser(
        prog="rumpx demo",
        description="Start two servers, fill one, copy it with bars, compare every key, stop them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--keys", type=int, default=200_000, metavar="N", help="keys to copy (default 200000)")
    add("--workers", type=int, default=4, metavar="N", help="worker processes (default 4)")
    add("--progress", choices=("auto", "bar", "line", "json", "none"), default="auto")
    return parser


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the comparison").add_argument
    add(
        "--sample",
        metavar="PERCENT",
        help="compare only so many of the keys, chosen at random, as in 1%%",
    )
    add(
        "--digest",
        action="store_true",
        help="have both servers send only a checksum of each value (EVAL_RO, Redis 7.0 or later)",
    )
    add(
        "--ttl-tolerance",
        metavar="TIME",
        help="by how much expiries may differ (default 1ms; 5ms where a server is older than 7.0, "
        "and 1s more where a copy writes times left)",
    )
    add("--differences", metavar="FILE", help="where to list them, as JSON lines")
    add("--repair", action="store_true", help="copy again what is missing or different")
    add(
        "--delete-extra",
        action="store_true",
        help="with --repair: delete keys in scope that only the target has; asks before",
    )
    add("--yes", action="store_true", help="do not ask")
    _add_strict(add)


def _add_strict(add: Callable[..., object]) -> None:
    add(
        "--strict",
        action="store_true",
        help="values of modules that cannot be compared make a comparison end with 4",
    )


def _add_job(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the job").add_argument
    add("--job", metavar="NAME", help="its name, for rumpx resume (default: date and time)")
    add(
        "--state-dir",
        metavar="DIR",
        help="the folder of ledgers (default: $XDG_STATE_HOME/rumpx or ~/.local/state/rumpx)",
    )
    _add_max_failures(parser)
    add(
        "--verify",
        action="store_true",
        help="compare both sides after the copy; --summary then has both",
    )
    _add_strict(add)


def _add_max_failures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-failures", type=int, metavar="N", help="stop when more keys than this have failed"
    )


def _add_sides(parser: argparse.ArgumentParser) -> None:
    for side in ("from", "to"):
        _add_side(parser, side)


def _add_scope(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("which keys").add_argument
    add("--db", action="append", default=[], metavar="N[,N]", help="only these databases")
    add(
        "--map-db",
        action="append",
        default=[],
        metavar="FROM:TO",
        help="copy database FROM to database TO (repeatable)",
    )
    add(
        "--match",
        action="append",
        default=[],
        metavar="GLOB",
        help="only keys that a Redis glob matches (repeatable)",
    )
    add(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="no keys that a Redis glob matches (repeatable)",
    )
    add(
        "--type",
        metavar="TYPE[,TYPE]",
        help="only these types: string, list, set, zset, hash, stream",
    )


def _add_policy(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is there already").add_argument
    add(
        "--on-conflict",
        choices=("replace", "skip", "fail"),
        default="ask",
        metavar="POLICY",
        help="for keys that the target has: replace them, skip them (keep the target's), or fail "
        "(list them); needed if the target holds keys",
    )
    add("--functions", action="store_true", help="copy function libraries too")


def _add_cutting(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how the work is cut").add_argument
    add(
        "--partitions",
        type=int,
        default=0,
        metavar="N",
        help="walk each node and database in N parts (default: by distance and number of keys)",
    )
    add(
        "--prefixes",
        metavar="P[,P]",
        help="partition by these key prefixes instead; other keys are copied as well",
    )


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how").add_argument
    add(
        "--batch-keys",
        type=int,
        default=0,
        metavar="N",
        help="keys in one pipeline (default: 200 near, 500 far); other clients feel large ones",
    )
    add(
        "--no-size-check",
        action="store_true",
        help="do not ask each key's size before reading it: faster, but memory is bounded only "
        "by the number of keys",
    )
    add(
        "--big-key",
        default="64MiB",
        metavar="SIZE",
        help="values from this size on are read with nothing else in flight (default 64MiB)",
    )
    add(
        "--max-bytes-in-flight",
        default="16MiB",
        metavar="SIZE",
        help="bytes read and not yet written, for each worker (default 16MiB)",
    )
    add(
        "--clock",
        choices=("absolute", "relative"),
        default="refuse",
        metavar="HOW",
        help="where the servers' clocks differ by more than a minute: keep the absolute instants "
        "of expiry, or the relative times left",
    )
    add(
        "--read-from",
        choices=("primary", "prefer-replica", "replica"),
        default="primary",
        metavar="WHICH",
        help="primary (default: what --from names, a cluster's primaries), prefer-replica (a "
        "replica of each, the primary where none is fit), or replica (never a primary)",
    )
    add(
        "--allow-eviction",
        action="store_true",
        help="read from a source that is nearly full and evicts",
    )
    add(
        "--connect-timeout",
        default="5s",
        metavar="TIME",
        help="to connect and log in (default 5s)",
    )
    add("--timeout", default="30s", metavar="TIME", help="for each later answer (default 30s)")
    add(
        "--retry-for",
        default="5m",
        metavar="TIME",
        help="give up after so long without any success (default 5m)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what it may cost the servers").add_argument
    add(
        "--max-source-latency",
        metavar="TIME",
        help="slow down while a PING to the source takes so much longer than at best (default "
        "5ms; off to disable)",
    )
    add("--max-target-latency", metavar="TIME", help="the same for the target (default off)")
    add("--max-keys-per-sec", metavar="N", help="copy at most so many keys a second")
    add("--max-bytes-per-sec", metavar="SIZE", help="at most so many bytes of payloads a second")
    add(
        "--max-ops-per-sec",
        metavar="N",
        help="at most so many commands a second on the source, which executes more of them",
    )
    add(
        "--max-source-cpu",
        metavar="PERCENT",
        help="slow down while a node of the source uses more than this of a core",
    )
    add(
        "--max-source-memory",
        metavar="PERCENT",
        help="slow down while a node of the source uses more than this of its maxmemory",
    )
    add(
        "--max-target-memory",
        metavar="PERCENT",
        help="stop when the data will not fit into this part of the target's maxmemory (default "
        "100%%; off to disable)",
    )
    add(
        "--schedule",
        metavar="TIMETABLE",
        help='when to copy, and how fast, as in "Mon-Fri 08:00,off Mon-Fri 20:00,50MiB Sat-Sun '
        '00:00,full"; off for always',
    )
    add("--time-zone", metavar="ZONE", help="of the timetable, as in Europe/Berlin")
    add(
        "--exit-when-off",
        action="store_true",
        help="where the timetable says off: end with exit code 10, to be resumed, instead of "
        "waiting",
    )
    add(
        "--max-duration",
        metavar="TIME",
        help="end after so long with exit code 10, to be resumed; off for no such limit",
    )


def _add_display(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is shown").add_argument
    add(
        "--progress",
        choices=("auto", "bar", "line", "json", "none"),
        default="auto",
        metavar="HOW",
        help="auto (default: bars on a terminal, else line), bar, line (one each 30 s), json "
        "(one object a second), none (only how it ended, if that is not exit 0); SIGUSR1 shows a "
        "line at any time",
    )
    add(
        "--top",
        action="store_true",
        help="a full-screen view: throughput, latencies, nodes, workers; q leaves it",
    )
    add("--summary", metavar="FILE", help="write the final summary as JSON; - is standard output")
    add(
        "--report",
        metavar="FILE",
        help="write a report at the end, as one HTML page (also: rumpx report JOB --html FILE)",
    )
    add("--log-file", metavar="FILE", help="append lines, one each 30 s, and how the run ended")
    add(
        "--log-format",
        choices=("text", "json"),
        default="text",
        metavar="HOW",
        help="of lines, there and with --progress line: text (default) or json",
    )
    add(
        "--metrics",
        metavar="[HOST:]PORT",
        help="serve metrics for Prometheus there; without HOST on 127.0.0.1 (needs rumpx[metrics])",
    )
    add(
        "--on-end",
        metavar="COMMAND",
        help="run a shell command at the end, however it came: the summary as JSON is on its "
        "standard input, the exit code in RUMPX_EXIT_CODE",
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a TOML file with options of these names; see rumpx example config",
    )


def _add_side(parser: argparse.ArgumentParser, side: str) -> None:
    name = "source" if side == "from" else "target"
    add = parser.add_argument_group(f"the {name}").add_argument
    add(
        f"--{side}-password-file",
        metavar="FILE",
        help=f"its first line is the password (also: RUMPX_{side.upper()}_PASSWORD)",
    )
    add(f"--{side}-ca", metavar="FILE", help="certificates of the authority to trust (PEM)")
    add(f"--{side}-cert", metavar="FILE", help="our client certificate (PEM)")
    add(f"--{side}-key", metavar="FILE", help="its key (PEM)")
    add(f"--{side}-insecure", action="store_true", help="do not verify the certificate")
    add(
        f"--{side}-server-name",
        metavar="NAME",
        help="the name that its certificate is checked for; default the host's, before "
        f"--{side}-map-address",
    )
    add(f"--{side}-sentinel-user", metavar="NAME", help="the sentinels' own user")
    add(f"--{side}-sentinel-password-file", metavar="FILE", help="the sentinels' own password")
    add(
        f"--{side}-cluster",
        choices=("auto", "yes", "no"),
        default="auto",
        metavar="auto|yes|no",
        help="whether it is a cluster, where it cannot be asked",
    )
    add(
        f"--{side}-map-address",
        action="append",
        default=[],
        metavar="INTERNAL=REACHABLE",
        help="where to reach an address that a node announces, as host:port=host:port "
        "(repeatable)",
    )
