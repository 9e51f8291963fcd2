"""The command line: flags → Job (by `flags`) → one call → exit code.

Imports only what is light, so that `--help` comes at once; what a Job needs is imported when there
are flags to understand, and what talks to servers when a copy begins. Everything for people goes to
standard error; standard output is for data (`--summary -`).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from rumpx.errors import Interrupted, RumpxError, UsageError

if TYPE_CHECKING:
    from rumpx.copy.control import Control
    from rumpx.copy.prepare import Policy
    from rumpx.job import Job
    from rumpx.report.snapshot import Summary

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
  0 done   2 usage   3 done, but some keys failed   5 temporary trouble, run it again later
  6 source unusable   7 target unusable   8 the target cannot read the source's payloads
  130, 143 stopped by a signal   1 anything else

  rumpx demo      starts two small servers, copies between them and compares every key
"""


class _Parser(argparse.ArgumentParser):
    """Errors as one sentence, without the page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See rumpx --help.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the copy itself."""
    parser = _Parser(
        prog="rumpx",
        usage="rumpx --from URI --to URI [options]\n       rumpx demo [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from", "-from", dest="source", metavar="URI", help="the source, which is only read")
    add("--to", "-to", dest="target", metavar="URI", help="the target")
    add("--workers", type=int, default=4, metavar="N", help="worker processes (default 4)")
    add("--version", action="store_true", help="print the version and exit")
    add(
        "--print-completion",
        choices=("bash", "zsh", "tcsh"),
        metavar="SHELL",
        help="print a completion script for bash, zsh or tcsh (needs rumpx[completion])",
    )
    _add_scope(parser)
    _add_behaviour(parser)
    _add_display(parser)
    for side in ("from", "to"):
        _add_side(parser, side)
    return parser


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
    add(
        "--on-conflict",
        choices=("replace", "skip", "fail"),
        default="ask",
        metavar="POLICY",
        help="for keys that the target has: replace them, skip them (keep the target's), or fail "
        "(list them); needed if the target holds keys",
    )
    add("--functions", action="store_true", help="copy function libraries too")


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how").add_argument
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


def _add_display(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is shown").add_argument
    add(
        "--progress",
        choices=("auto", "bar", "line", "json", "none"),
        default="auto",
        metavar="HOW",
        help="auto (default: bars on a terminal, else line), bar, line (one each 30 s), json "
        "(one object a second), none; SIGUSR1 shows a line at any time",
    )
    add("--summary", metavar="FILE", help="write the final summary as JSON; - is standard output")


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["demo"]:
            return _demo(words[1:])
        return _copy(build_parser(), words)
    except RumpxError as error:
        print(f"rumpx: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rumpx: Stopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _demo(words: list[str]) -> int:
    parser = _Parser(
        prog="rumpx demo",
        description="Start two servers, fill one, copy it with bars, compare every key, stop them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--keys", type=int, default=200_000, metavar="N", help="keys to copy (default 200000)")
    add("--workers", type=int, default=4, metavar="N", help="worker processes (default 4)")
    add("--progress", choices=("auto", "bar", "line", "json", "none"), default="auto")
    arguments = parser.parse_args(words)
    if not 1 <= arguments.keys <= 100_000_000:
        raise UsageError("--keys must be from 1 to 100000000.")
    from rumpx import demo

    return demo.run(arguments.workers, arguments.keys, arguments.progress)


def _copy(parser: argparse.ArgumentParser, words: list[str]) -> int:
    arguments = parser.parse_args(words)
    if arguments.version:
        from rumpx import __version__

        print(f"rumpx {__version__}")
        return 0
    if arguments.print_completion:
        return _print_completion(parser, arguments.print_completion)
    from rumpx.flags import make_job

    job = make_job(arguments)
    from rumpx.report.summary import check_summary_path

    if arguments.summary:
        check_summary_path(arguments.summary)
    return _run(job, arguments)


def _run(job: Job, arguments: argparse.Namespace) -> int:
    from rumpx.copy.forks import warm_up

    warm_up()  # before our own imports
    from rumpx.copy.control import Control
    from rumpx.copy.run import run
    from rumpx.report.display import choose, open_display

    control = Control()
    _catch_signals(control)
    display = open_display(arguments.progress, sys.stderr)
    ask = _ask if sys.stdin.isatty() and sys.stderr.isatty() else None
    drawn = choose(arguments.progress, sys.stderr)
    try:
        summary = run(job, display, control, ask)
    except RumpxError as error:
        if error.summary:
            _finish(error.summary, drawn, arguments.summary)
            if isinstance(error, Interrupted):
                return error.exit_code  # the summary says it
        raise
    _finish(summary, drawn, arguments.summary)
    return summary.exit_code


def _finish(summary: Summary, drawn: str, destination: str | None) -> None:
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
        write_summary(summary, destination)


def _catch_signals(control: Control) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        if not control.running:
            raise Interrupted("Stopped before the copy began; nothing was written.", number)
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
