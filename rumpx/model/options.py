"""All options of the command line, in one table.

A `Flag` holds everything about one option: name, help, how its value is written, default, range,
and the field of the Job that it sets. The table feeds the parsers (`cli/parsers.py`), the Job from
the command line (`cli/flags.py`), the Job's own defaults and ranges (`model/job.py`), reports
(`model/job_options.py`), `rumpx ctl` (`model/limits.py`), `rumpx help options` and
`rumpx example config` (`cli/pages.py`). `CLASHES` lists the options that exclude or need each
other; `model/job.py` and the requests refuse those.

The module is light: `rumpx --help` imports it, argparse, and nothing else of rumpx.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from rumpx.errors import UsageError, printable
from rumpx.units import (
    parse_number,
    parse_percent,
    parse_seconds,
    parse_size,
    write_number,
    write_percent,
    write_seconds,
    write_size,
)

KEY_TYPES: Final = ("string", "list", "set", "zset", "hash", "stream")
# Servers count databases by numbers of 31 bits.
MAX_DATABASE: Final = 2**31 - 1

COPY: Final = "copy"
CHECK: Final = "check"
VERIFY: Final = "verify"
RESUME: Final = "resume"
_ALL: Final = (COPY, CHECK, VERIFY)
COMMAND_LINE_ONLY: Final = ("dry-run", "version", "print-completion", "config")
"""Options of a copy that a `--config` file cannot hold."""


class Kind(NamedTuple):
    """How a value is written on the command line.

    Attributes:
        read: words and the flag's name → the value. A repeatable option has several words.
        write: the value → words; none if it is not set.
        repeats: the option may be given several times.
        takes_value: False for a switch.
    """

    read: Callable[[list[str], str], Any]
    write: Callable[[Any], list[str]]
    repeats: bool = False
    takes_value: bool = True


def _single(read: Callable[[str, str], Any], write: Callable[[Any], str]) -> Kind:
    return Kind(
        lambda words, flag: read(words[-1], flag),
        lambda value: [] if value is None else [write(value)],
    )


def _read_whole(text: str, flag: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise UsageError(f"{flag}: {text[:40]!r} is not a whole number.")
    return int(text)


def _read_databases(words: list[str], flag: str) -> tuple[int, ...]:
    return tuple(_read_database(number, flag) for word in words for number in word.split(","))


def _read_database(text: str, flag: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise UsageError(f"{flag}: {text[:40]!r} is not a database number.")
    return int(text)


def _read_database_map(words: list[str], flag: str) -> tuple[tuple[int, int], ...]:
    pairs = [word.partition(":") for word in words]
    if not all(colon for _, colon, _ in pairs):
        raise UsageError(f"{flag} is written FROM:TO, as in 3:0.")
    return tuple((_read_database(a, flag), _read_database(b, flag)) for a, _, b in pairs)


def _read_types(text: str, flag: str) -> tuple[str, ...]:
    """Names as TYPE returns them; names of modules' types have nine characters."""
    types = tuple(dict.fromkeys(text.split(",")))
    for name in types:
        if name not in KEY_TYPES and len(name) != 9:
            raise UsageError(
                f"{flag}: {name!r} is not a type of value; known are {', '.join(KEY_TYPES)} and "
                "the nine-character names of module types."
            )
    return types


def _read_prefixes(text: str, flag: str) -> tuple[bytes, ...]:
    prefixes = tuple(os.fsencode(prefix) for prefix in text.split(","))
    if not all(prefixes):
        raise UsageError(f"{flag}: an empty prefix covers every key; leave it out.")
    return prefixes


def _joined(write: Callable[[Any], str]) -> Callable[[Any], list[str]]:
    return lambda values: [",".join(map(write, values))] if values else []


def _name(name: bytes) -> str:
    return printable(name, limit=200)


TEXT: Final = _single(lambda text, flag: text, str)
WHOLE: Final = _single(_read_whole, str)
SIZE: Final = _single(parse_size, write_size)
RATE: Final = _single(lambda text, flag: float(parse_size(text, flag)), write_size)
TIME: Final = _single(parse_seconds, write_seconds)
NUMBER: Final = _single(parse_number, write_number)
PERCENT: Final = _single(parse_percent, write_percent)
SWITCH: Final = Kind(
    lambda words, flag: True, lambda on: ["yes"] if on else [], takes_value=False
)
# For an option that switches a field off.
OFF_SWITCH: Final = Kind(
    lambda words, flag: False, lambda on: [] if on else ["yes"], takes_value=False
)
DATABASES: Final = Kind(_read_databases, _joined(str), repeats=True)
DATABASE_MAP: Final = Kind(
    _read_database_map, lambda pairs: [f"{a}:{b}" for a, b in pairs], repeats=True
)
GLOBS: Final = Kind(
    lambda words, flag: tuple(map(os.fsencode, words)),
    lambda globs: list(map(_name, globs)),
    repeats=True,
)
TYPES: Final = Kind(lambda words, flag: _read_types(words[-1], flag), _joined(str))
PREFIXES: Final = Kind(lambda words, flag: _read_prefixes(words[-1], flag), _joined(_name))
REPEATED: Final = Kind(lambda words, flag: list(words), list, repeats=True)


class Flag(NamedTuple):
    """One option.

    Attributes:
        name: without the dashes.
        help: for `--help`, the guide and the example file; the default is appended.
        metavar: what stands for the value in `--help`.
        field: the Job's field, as in "scope.match"; "" for options that are not the Job's.
        default: as written on the command line; "" for none.
        example: for the example file, where there is no default.
        least, most: the range of the value, in the field's unit.
        off: "off" is a value, None in the Job.
        commands: those that have the option.
    """

    name: str
    help: str
    metavar: str = ""
    kind: Kind = TEXT
    field: str = ""
    default: str = ""
    example: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    off: bool = False
    commands: tuple[str, ...] = _ALL

    @property
    def flag(self) -> str:
        """With the dashes."""
        return f"--{self.name}"

    @property
    def shown_default(self) -> str:
        """The default, where it can be given as well."""
        return "" if self.choices and self.default not in self.choices else self.default

    def read(self, words: list[str]) -> Any:
        """The value of the field.

        Raises:
            UsageError: the words are not a value of this option.
        """
        if self.off and words[-1].strip().lower() == "off":
            return None
        return self.kind.read(words, self.flag)

    def check(self, value: Any) -> None:
        """Refuse a value outside the range.

        Raises:
            UsageError: with the range.
        """
        if value is None or self.least is None or self.most is None:
            return
        if not self.least <= value <= self.most:
            (told,), (least,), (most,) = map(self.kind.write, (value, self.least, self.most))
            either = ", or off" if self.off else ""
            raise UsageError(f"{self.flag} is {told}; give a value from {least} to {most}{either}.")


class Group(NamedTuple):
    """Options that stand together."""

    title: str
    flags: tuple[Flag, ...]


def _side(side: str) -> tuple[Flag, ...]:
    """Of the source (`from`) or the target (`to`); `cli/flags.py` makes an Endpoint of them."""
    return (
        Flag(
            f"{side}-password-file",
            f"read the password from the first line of this file (also: "
            f"RUMPX_{side.upper()}_PASSWORD)",
            "FILE",
            example=f"/etc/rumpx/{side}.password",
        ),
        Flag(
            f"{side}-ca",
            "trust the authority with these certificates (PEM)",
            "FILE",
            example="/etc/rumpx/ca.pem",
        ),
        Flag(
            f"{side}-cert",
            "present this client certificate (PEM)",
            "FILE",
            example="/etc/rumpx/client.pem",
        ),
        Flag(
            f"{side}-key",
            "with this private key (PEM)",
            "FILE",
            example="/etc/rumpx/client.key",
        ),
        Flag(f"{side}-insecure", "do not verify the certificate", kind=SWITCH),
        Flag(
            f"{side}-server-name",
            "check the certificate for this name, and send it by SNI (default: the host's name, "
            f"before --{side}-map-address)",
            "NAME",
            example="redis.example.com",
        ),
        Flag(
            f"{side}-sentinel-user",
            "log in to the sentinels as this user",
            "NAME",
            example="sentinel",
        ),
        Flag(
            f"{side}-sentinel-password-file",
            "read the sentinels' password from the first line of this file",
            "FILE",
            example="/etc/rumpx/sentinel.password",
        ),
        Flag(
            f"{side}-cluster",
            "treat it as a cluster or as one server, where it cannot be asked",
            "auto|yes|no",
            default="auto",
            choices=("auto", "yes", "no"),
        ),
        Flag(
            f"{side}-map-address",
            "reach a node that announces INTERNAL at REACHABLE, as host:port=host:port "
            "(repeatable)",
            "INTERNAL=REACHABLE",
            kind=REPEATED,
            example="10.0.0.7:6379=localhost:7007",
        ),
    )


FROM: Final = Flag(
    "from",
    "the source, which is only read",
    "URI",
    example="redis://old.example.com:6379",
    commands=(*_ALL, RESUME),
)
TO: Final = Flag(
    "to",
    "the target",
    "URI",
    example="redis://new.example.com:6379",
    commands=(*_ALL, RESUME),
)
STATE_DIR: Final = Flag(
    "state-dir",
    "keep ledgers in this folder (default: $XDG_STATE_HOME/rumpx or ~/.local/state/rumpx)",
    "DIR",
    example="/var/lib/rumpx",
    commands=(COPY, VERIFY, RESUME),
)

GROUPS: Final = (
    Group(
        "",
        (
            FROM,
            TO,
            Flag(
                "workers",
                "start N worker processes",
                "N",
                WHOLE,
                "workers",
                "4",
                least=1,
                most=256,
                commands=(*_ALL, RESUME),
            ),
            Flag(
                "dry-run",
                "copy nothing: check both sides as rumpx check does, and print the plan",
                kind=SWITCH,
                commands=(COPY,),
            ),
            Flag("version", "print the version and exit", kind=SWITCH, commands=(COPY,)),
            Flag(
                "print-completion",
                "print a completion script for bash, zsh or tcsh (needs rumpx[completion])",
                "SHELL",
                choices=("bash", "zsh", "tcsh"),
                commands=(COPY,),
            ),
            Flag(
                "config",
                "read options of these names from a TOML file; see rumpx example config",
                "FILE",
                commands=(*_ALL, RESUME),
            ),
        ),
    ),
    Group(
        "the comparison",
        (
            Flag(
                "sample",
                "compare this share of the keys, chosen at random, as in 1%",
                "PERCENT",
                commands=(VERIFY,),
            ),
            Flag(
                "digest",
                "have both servers return only a checksum of each value (EVAL_RO, Redis 7.0 or "
                "later)",
                kind=SWITCH,
                commands=(VERIFY,),
            ),
            Flag(
                "ttl-tolerance",
                "accept expiries that differ by less (default 1ms; 5ms where a server is older "
                "than 7.0, and 1s more where a copy writes times left)",
                "TIME",
                commands=(VERIFY,),
            ),
            Flag(
                "differences",
                "list the differences in this file, as JSON lines",
                "FILE",
                commands=(VERIFY,),
            ),
            Flag(
                "repair",
                "copy missing and different keys again",
                kind=SWITCH,
                commands=(VERIFY,),
            ),
            Flag(
                "delete-extra",
                "with --repair: delete keys in scope that only the target has; asks first",
                kind=SWITCH,
                commands=(VERIFY,),
            ),
            Flag("yes", "do not ask", kind=SWITCH, commands=(VERIFY,)),
        ),
    ),
    Group(
        "the check",
        (
            Flag(
                "sample",
                "look at N keys (default 10000)",
                "N",
                WHOLE,
                commands=(CHECK,),
            ),
            Flag(
                "read-only",
                "write nothing: no proof by real payloads",
                kind=SWITCH,
                commands=(CHECK,),
            ),
            Flag(
                "json",
                "print one JSON object instead of the report",
                kind=SWITCH,
                commands=(CHECK,),
            ),
        ),
    ),
    Group(
        "which keys",
        (
            Flag(
                "db",
                "only these databases (repeatable; default: every one that holds keys)",
                "N[,N]",
                DATABASES,
                "scope.databases",
                example="0,3",
            ),
            Flag(
                "map-db",
                "copy database FROM to database TO (repeatable; default: the same number)",
                "FROM:TO",
                DATABASE_MAP,
                "scope.map_db",
                example="3:0",
            ),
            Flag(
                "match",
                "only keys that match a Redis glob (repeatable: one match is enough; default: all)",
                "GLOB",
                GLOBS,
                "scope.match",
                example="user:*",
            ),
            Flag(
                "exclude",
                "no keys that match a Redis glob (repeatable)",
                "GLOB",
                GLOBS,
                "scope.exclude",
                example="*:tmp",
            ),
            Flag(
                "type",
                f"only these types: {', '.join(KEY_TYPES)}, or a module's (default: all)",
                "TYPE[,TYPE]",
                TYPES,
                "scope.types",
                example="string,hash",
            ),
        ),
    ),
    Group(
        "keys on the target",
        (
            Flag(
                "on-conflict",
                "for keys that the target has: replace them, skip them (keep the target's), or "
                "fail (list them); needed if the target holds keys",
                "POLICY",
                field="on_conflict",
                default="ask",
                example="replace",
                choices=("replace", "skip", "fail"),
                commands=(COPY, CHECK),
            ),
            Flag(
                "functions",
                "copy function libraries too",
                kind=SWITCH,
                field="functions",
                commands=(COPY, CHECK),
            ),
        ),
    ),
    Group(
        "the job",
        (
            Flag(
                "job",
                "its name, for rumpx resume (default: date and time)",
                "NAME",
                example="nightly",
                commands=(COPY,),
            ),
            STATE_DIR,
            Flag(
                "retry-failed",
                "try the failed keys once more",
                kind=SWITCH,
                commands=(RESUME,),
            ),
            Flag(
                "max-failures",
                "stop when more than N keys have failed (default: any number)",
                "N",
                WHOLE,
                "max_failures",
                example="100",
                least=0,
                most=2**40,
                commands=(COPY, RESUME),
            ),
            Flag(
                "verify",
                "compare both sides after the copy; --summary then holds both results",
                kind=SWITCH,
                commands=(COPY,),
            ),
            Flag(
                "strict",
                "exit with 4 also for values of modules that cannot be compared",
                kind=SWITCH,
                commands=(COPY, VERIFY),
            ),
        ),
    ),
    Group(
        "how",
        (
            Flag(
                "batch-keys",
                "put N keys in one pipeline (default: 200 near, 500 far); other clients feel long "
                "pipelines",
                "N",
                WHOLE,
                "batch_keys",
                "0",
                least=0,
                most=10_000,
            ),
            Flag(
                "no-size-check",
                "do not ask each key's size before reading it: faster, but memory is bounded only "
                "by the number of keys",
                kind=OFF_SWITCH,
                field="size_check",
            ),
            Flag(
                "big-key",
                "read values from this size on with nothing else in flight",
                "SIZE",
                SIZE,
                "big_key",
                "64MiB",
                least=2**10,
                most=2**40,
            ),
            Flag(
                "max-bytes-in-flight",
                "bytes read and not yet written, for each worker",
                "SIZE",
                SIZE,
                "max_bytes_in_flight",
                "16MiB",
                least=2**16,
                most=2**40,
            ),
            Flag(
                "clock",
                "where the servers' clocks differ by more than a minute: keep the absolute "
                "expiries, or the relative times left",
                "HOW",
                field="clock",
                default="refuse",
                example="absolute",
                choices=("absolute", "relative"),
            ),
            Flag(
                "read-from",
                "primary (the server that --from names, a cluster's primaries), prefer-replica "
                "(a replica of each, the primary where none is fit), or replica (never a primary)",
                "WHICH",
                field="read_from",
                default="primary",
                choices=("primary", "prefer-replica", "replica"),
            ),
            Flag(
                "allow-eviction",
                "read from a source that is nearly full and evicts",
                kind=SWITCH,
                field="allow_eviction",
            ),
            Flag(
                "connect-timeout",
                "wait this long to connect and log in",
                "TIME",
                TIME,
                "connect_timeout",
                "5s",
                least=0.001,
                most=86_400,
            ),
            Flag(
                "timeout",
                "wait this long for each later answer",
                "TIME",
                TIME,
                "timeout",
                "30s",
                least=0.001,
                most=86_400,
            ),
            Flag(
                "retry-for",
                "give up after this long without any success",
                "TIME",
                TIME,
                "retry_for",
                "5m",
                least=0,
                most=604_800,
            ),
        ),
    ),
    Group(
        "limits",
        tuple(
            flag._replace(commands=(*_ALL, RESUME))
            for flag in (
                Flag(
                    "max-source-latency",
                    "slow down while a PING to the source takes this much longer than at best",
                    "TIME",
                    TIME,
                    "limits.max_source_latency",
                    "5ms",
                    least=0.0001,
                    most=60,
                    off=True,
                ),
                Flag(
                    "max-target-latency",
                    "the same for the target",
                    "TIME",
                    TIME,
                    "limits.max_target_latency",
                    "off",
                    least=0.0001,
                    most=60,
                    off=True,
                ),
                Flag(
                    "max-keys-per-sec",
                    "copy at most N keys a second",
                    "N",
                    NUMBER,
                    "limits.max_keys_per_sec",
                    "off",
                    least=1,
                    most=1e12,
                    off=True,
                ),
                Flag(
                    "max-bytes-per-sec",
                    "copy at most this many bytes of payloads a second",
                    "SIZE",
                    RATE,
                    "limits.max_bytes_per_sec",
                    "off",
                    least=1024,
                    most=1e15,
                    off=True,
                ),
                Flag(
                    "max-ops-per-sec",
                    "send at most N commands a second to the source, which executes more of them",
                    "N",
                    NUMBER,
                    "limits.max_ops_per_sec",
                    "off",
                    least=10,
                    most=1e12,
                    off=True,
                ),
                Flag(
                    "max-source-cpu",
                    "slow down while a node of the source uses more than this of a core",
                    "PERCENT",
                    PERCENT,
                    "limits.max_source_cpu",
                    "off",
                    least=0.01,
                    most=1,
                    off=True,
                ),
                Flag(
                    "max-source-memory",
                    "slow down while a node of the source uses more than this of its maxmemory",
                    "PERCENT",
                    PERCENT,
                    "limits.max_source_memory",
                    "off",
                    least=0.01,
                    most=1,
                    off=True,
                ),
                Flag(
                    "max-target-memory",
                    "stop when the data will not fit into this part of the target's maxmemory",
                    "PERCENT",
                    PERCENT,
                    "limits.max_target_memory",
                    "100%",
                    least=0.01,
                    most=1,
                    off=True,
                ),
                Flag(
                    "schedule",
                    'when to copy, and how fast, as in "Mon-Fri 08:00,off Mon-Fri 20:00,50MiB '
                    'Sat-Sun 00:00,full"; off for always',
                    "TIMETABLE",
                    field="limits.schedule",
                    example="Mon-Fri 08:00,off Mon-Fri 20:00,full",
                ),
                Flag(
                    "time-zone",
                    "of the timetable, as in Europe/Berlin (default: the machine's)",
                    "ZONE",
                    field="limits.time_zone",
                    example="Europe/Berlin",
                ),
                Flag(
                    "exit-when-off",
                    "where the timetable says off: exit with 10, to be resumed, instead of waiting",
                    kind=SWITCH,
                    field="limits.exit_when_off",
                ),
                Flag(
                    "max-duration",
                    "exit with 10 after this long, to be resumed",
                    "TIME",
                    TIME,
                    "limits.max_duration",
                    "off",
                    example="4h",
                    least=1,
                    most=31_536_000,
                    off=True,
                ),
            )
        ),
    ),
    Group(
        "partitions",
        (
            Flag(
                "partitions",
                "walk each node and database in N parts (default: by distance and number of keys)",
                "N",
                WHOLE,
                "partitions",
                "0",
                least=0,
                most=1024,
                commands=(COPY, CHECK),
            ),
            Flag(
                "prefixes",
                "partition by these key prefixes instead; other keys are copied as well",
                "P[,P]",
                PREFIXES,
                "prefixes",
                example="user:,cart:",
                commands=(COPY, CHECK),
            ),
        ),
    ),
    Group(
        "display and reports",
        tuple(
            flag._replace(commands=(COPY, VERIFY, RESUME))
            for flag in (
                Flag(
                    "progress",
                    "auto (bars on a terminal, else line), bar, line (one each 30 s), json (one "
                    "object a second), none (only the summary, unless the exit code is 0); "
                    "SIGUSR1 prints a line at any time",
                    "HOW",
                    default="auto",
                    choices=("auto", "bar", "line", "json", "none"),
                ),
                Flag(
                    "top",
                    "full-screen view: throughput, latencies, nodes, workers; q leaves it",
                    kind=SWITCH,
                ),
                Flag(
                    "summary",
                    "write the final summary as JSON; - is standard output",
                    "FILE",
                    example="summary.json",
                ),
                Flag(
                    "report",
                    "write a report at the end, as one HTML page (also: rumpx report JOB --html "
                    "FILE)",
                    "FILE",
                    example="report.html",
                ),
                Flag(
                    "log-file",
                    "append lines, one each 30 s, and how the run ended",
                    "FILE",
                    example="rumpx.log",
                ),
                Flag(
                    "log-format",
                    "of lines, there and with --progress line",
                    "HOW",
                    default="text",
                    choices=("text", "json"),
                ),
                Flag(
                    "metrics",
                    "serve metrics for Prometheus there; without HOST on 127.0.0.1 (needs "
                    "rumpx[metrics])",
                    "[HOST:]PORT",
                    example="9121",
                ),
                Flag(
                    "on-end",
                    "run a shell command at the end of every run: the summary as JSON is on its "
                    "standard input, the exit code in RUMPX_EXIT_CODE",
                    "COMMAND",
                    example="logger -t rumpx ended with $RUMPX_EXIT_CODE",
                ),
            )
        ),
    ),
    Group("the source", _side("from")),
    Group("the target", _side("to")),
)


def flags_of(*commands: str) -> Iterator[Flag]:
    """The options that any of these commands has, in the order of `--help`."""
    return (
        flag for group in GROUPS for flag in group.flags if set(flag.commands) & set(commands)
    )


FIELDS: Final = {flag.field: flag for flag in flags_of(COPY) if flag.field}
"""The options that set a field of the Job, by that field."""


DEFAULTS: Final[dict[str, Any]] = {
    field: flag.read([flag.default]) for field, flag in FIELDS.items() if flag.default
}
"""The Job's defaults that are not empty, by field."""


def check_ranges(prefix: str, data: object) -> None:
    """Refuse fields outside their ranges.

    Args:
        prefix: "" for the Job itself, "limits." for its limits.
        data: whose fields they are.

    Raises:
        UsageError: naming the option and its range.
    """
    for field, flag in FIELDS.items():
        name = field.removeprefix(prefix)
        if field.startswith(prefix) and "." not in name:
            flag.check(getattr(data, name))
