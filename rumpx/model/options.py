"""All options of the command line, in one table.

A `Flag` holds everything about one option: name, help, kind of value, default, range, and the field
of the Job that it sets. The table feeds the parsers (`cli/parsers.py`), the Job from the command
line (`cli/flags.py`), the Job's own defaults and ranges (`model/job.py`), reports
(`model/job_options.py`), `rumpx ctl` (`model/limits.py`), `rumpx help options`
(`guides/options.py`) and `rumpx example config` (`examples/config.py`). `model/clashes.py` lists
the options that exclude or need each other.

The module is light: `rumpx --help` imports it, argparse, and nothing else of rumpx.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from rumpx.errors import UsageError
from rumpx.model.option_kinds import (
    DATABASE_MAP,
    DATABASES,
    GLOBS,
    HOT_KEYS,
    KEY_TYPES,
    NUMBER,
    OFF_SWITCH,
    PERCENT,
    PREFIXES,
    RATE,
    REPEATED,
    SIZE,
    SWITCH,
    TEXT,
    TIME,
    TYPES,
    WHOLE,
    Kind,
)

# Servers number databases by 31 bits.
MAX_DATABASE: Final = 2**31 - 1

COPY: Final = "copy"
CHECK: Final = "check"
MIGRATE: Final = "migrate"
VERIFY: Final = "verify"
RESUME: Final = "resume"
JOBS: Final = "jobs"
REPORT: Final = "report"
CTL: Final = "ctl"
DEMO: Final = "demo"
COMMAND_LINE_ONLY: Final = ("dry-run", "version", "print-completion", "config")
"""Options of a copy that a `--config` file cannot hold."""


class Flag(NamedTuple):
    """One option.

    Attributes:
        name: without the dashes.
        help: for `--help`, the guide and the example file, which append the default. Code stands
            in backticks, which `plain_help` leaves out.
        metavar: the name of the value in `--help`.
        kind: of its values.
        field: the Job's field, as in "scope.match"; "" if it sets none.
        default: as written on the command line; "" if there is none, or if the help explains it.
            `ask` is the one that cannot be given.
        more: further sentences, for the guide.
        example: for the example file, if there is no default.
        choices: all values, if they are few.
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
    more: str = ""
    example: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    off: bool = False
    commands: tuple[str, ...] = (COPY, CHECK, VERIFY)

    @property
    def flag(self) -> str:
        """The name with the dashes."""
        return f"--{self.name}"

    @property
    def plain_help(self) -> str:
        """The help without backticks."""
        return self.help.replace("`", "")

    @property
    def shown_default(self) -> str:
        """The default for people; "" also for a 0, which chooses as the help says."""
        return "" if self.default == "0" else self.default

    def read(self, words: list[str]) -> Any:
        """Parse the words to the field's value.

        Raises:
            UsageError: they are not a value of this option.
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
            (given,), (least,), (most,) = map(self.kind.write, (value, self.least, self.most))
            span = f"{least} to {most}{', or off' if self.off else ''}"
            raise UsageError(f"{self.flag} is {given}; give a value from {span}.")


class Group(NamedTuple):
    """Options with a common title."""

    title: str
    flags: tuple[Flag, ...]


def _of(commands: tuple[str, ...], *flags: Flag) -> tuple[Flag, ...]:
    """Return the options as options of these commands."""
    return tuple(flag._replace(commands=commands) for flag in flags)


def _side(side: str) -> tuple[Flag, ...]:
    """Return the options of the source (`from`) or target (`to`), for its Endpoint."""
    return (
        Flag(f"{side}-password-file", "read the password from the first line of this file (also: "
             f"`RUMPX_{side.upper()}_PASSWORD`)", "FILE", example=f"/etc/rumpx/{side}.password"),
        Flag(f"{side}-ca", "trust the authority with these certificates (PEM)", "FILE",
             example="/etc/rumpx/ca.pem"),
        Flag(f"{side}-cert", "present this client certificate (PEM)", "FILE",
             example="/etc/rumpx/client.pem"),
        Flag(f"{side}-key", "with this private key (PEM)", "FILE",
             example="/etc/rumpx/client.key"),
        Flag(f"{side}-insecure", "do not verify the certificate", "", SWITCH),
        Flag(f"{side}-server-name", "check the certificate for this name, and send it by SNI "
             f"(default: the host's name, before `--{side}-map-address`)", "NAME",
             example="redis.example.com"),
        Flag(f"{side}-sentinel-user", "log in to the sentinels as this user", "NAME",
             example="sentinel"),
        Flag(f"{side}-sentinel-password-file", "read the sentinels' password from the first line "
             "of this file", "FILE", example="/etc/rumpx/sentinel.password"),
        Flag(f"{side}-cluster", "treat it as a cluster or as one server, if it cannot be asked",
             "auto|yes|no", default="auto", choices=("auto", "yes", "no")),
        Flag(f"{side}-map-address", "reach a node that announces INTERNAL at REACHABLE, as "
             "`host:port=host:port` (repeatable)", "INTERNAL=REACHABLE", REPEATED,
             example="10.0.0.7:6379=localhost:7007"),
    )


_NEW: Final = (COPY, CHECK, VERIFY)
_WORK: Final = (*_NEW, RESUME)
_WATCHED: Final = (COPY, VERIFY, RESUME)
_PROGRESS: Final = ("auto", "bar", "line", "json", "none")

FROM: Final = Flag("from", "the source, which is only read", "URI", commands=_NEW,
                   example="redis://old.example.com:6379",
                   more="`-from` works too. See `rumpx help uris`")
TO: Final = Flag("to", "the target", "URI", commands=_NEW,
                 example="redis://new.example.com:6379", more="`-to` works too")

GROUPS: Final = (
    Group("", (
        FROM,
        TO,
        Flag("from", "the source again, with its password", "URI", commands=(RESUME,)),
        Flag("to", "the target again, with its password", "URI", commands=(RESUME,)),
        Flag("keys", "copy N keys", "N", WHOLE, default="200000", least=1, most=100_000_000,
             commands=(DEMO,)),
        Flag("workers", "start N worker processes (default: by the number of servers and of this "
             "machine's cores)", "N", WHOLE, "workers", "0", least=0, most=256,
             commands=(*_NEW, DEMO)),
        Flag("workers", "start N worker processes (default: as before)", "N", WHOLE,
             commands=(RESUME,)),
        Flag("dry-run", "copy nothing: check both sides as `rumpx check` does, and print the plan",
             "", SWITCH, more="It writes nothing at all", commands=(COPY,)),
        Flag("version", "print the version and exit", "", SWITCH, commands=(COPY,)),
        Flag("print-completion", "print a completion script for bash, zsh or tcsh (needs "
             "`rumpx[completion]`)", "SHELL", choices=("bash", "zsh", "tcsh"), commands=(COPY,)),
        Flag("config", "read options of these names from a TOML file; see `rumpx example config`",
             "FILE", commands=_WORK, more="A command takes the options that it has from the file"),
    )),
    Group("the comparison", _of((VERIFY,),
        Flag("sample", "compare this share of the keys, chosen at random, as in 1%", "PERCENT"),
        Flag("digest", "have both servers return only a checksum of each value (`EVAL_RO`, Redis "
             "7.0 or later)", "", SWITCH, more="It spares the network between distant servers; "
             "equal then means that 64 bits agree"),
        Flag("ttl-tolerance", "accept expiries that differ by less (default 1ms; 5ms where a "
             "server is older than 7.0, and 1s more where a copy writes times left)", "TIME",
             more="A server before 7.0 reports no instants. A copy writes times left to targets "
             "without `ABSTTL` (before 5.0), and from sources with neither `PEXPIRETIME` nor "
             "`TIME`"),
        Flag("differences", "list the differences in this file, as JSON lines (default: a file in "
             "the folder of ledgers)", "FILE", more="The fields are `kind`, `db`, `target_db`, "
             "`key`, `key_base64`, `detail` and `repaired`"),
        Flag("repair", "copy missing and different keys again", "", SWITCH),
        Flag("delete-extra", "with `--repair`: delete keys in scope that only the target has; "
             "asks first", "", SWITCH),
        Flag("yes", "answer the question of `--delete-extra`", "", SWITCH),
    )),
    Group("the check", _of((CHECK,),
        Flag("sample", "read N keys of the source (default 10000)", "N", WHOLE,
             more="It reads 100 at a time"),
        Flag("read-only", "write nothing: no trial with real payloads", "", SWITCH),
        Flag("json", "print one JSON object instead of the report", "", SWITCH,
             more="`rumpx/model/checkup.py` lists its fields"),
    )),
    Group("which keys", (
        Flag("db", "only these databases (repeatable; default: all that hold keys)", "N[,N]",
             DATABASES, "scope.databases", example="0,3"),
        Flag("map-db", "copy database FROM to database TO (repeatable; default: the same number)",
             "FROM:TO", DATABASE_MAP, "scope.map_db", example="3:0"),
        Flag("match", "only keys that match a Redis glob (repeatable: one match is enough; "
             "default: all)", "GLOB", GLOBS, "scope.match", example="user:*"),
        Flag("exclude", "no keys that match a Redis glob (repeatable)", "GLOB", GLOBS,
             "scope.exclude", example="*:tmp"),
        Flag("type", f"only these types: {', '.join(KEY_TYPES)}, or a module's (default: all)",
             "TYPE[,TYPE]", TYPES, "scope.types", example="string,hash"),
    )),
    Group("keys on the target", _of((COPY, CHECK),
        Flag("on-conflict", "for keys that the target has: `replace` them, `skip` them (keep the "
             "target's), or `fail` (list them); needed if the target holds keys and there is no "
             "terminal to ask on", "POLICY", field="on_conflict", default="ask", example="replace",
             choices=("replace", "skip", "fail")),
        Flag("functions", "copy function libraries too", "", SWITCH, "functions"),
    )),
    Group("following", (
        Flag("follow", "after the copy keep the target in step with the source, until it is "
             "stopped", "", SWITCH, "follow", more="See `rumpx help follow`",
             commands=(COPY, CHECK)),
        Flag("feed", "how changes are noticed: by `tracking` (`CLIENT TRACKING`), by keyspace "
             "`notifications`, or by `passes` that compare both sides, one after the other; "
             "`auto` is the first that the source allows", "HOW", field="feed", default="auto",
             choices=("auto", "tracking", "notifications", "passes"), commands=(COPY, CHECK)),
        Flag("yes-when-in-step", "cut over as soon as the target is in step, without Enter", "",
             SWITCH, more="It tries again until the source is quiet", commands=(MIGRATE,)),
        Flag("delete-extra", "with `--follow`: delete keys in scope that the target holds and the "
             "source lacks; needed if the target holds keys; asks first", "", SWITCH,
             "delete_extra", commands=(COPY, CHECK)),
        Flag("yes", "answer the question of `--delete-extra`", "", SWITCH, commands=(COPY,)),
        Flag("max-deletes", "with `--follow`: if a pass finds more than N keys that only the "
             "target has, delete them only after `rumpx ctl JOB accept-deletes` (default: more "
             "than 1,000 and a tenth of the target's keys)", "N", WHOLE, "max_deletes",
             example="10000", least=0, most=2**40, commands=(COPY, CHECK)),
    )),
    Group("the job", (
        Flag("job", "its name, for `rumpx resume` (default: date and time)", "NAME",
             example="nightly", commands=(COPY,)),
        Flag("prune", "remove the ledgers of finished jobs, and their lists of failed keys", "",
             SWITCH, commands=(JOBS,)),
        Flag("state-dir", "the folder of ledgers (default: `$XDG_STATE_HOME/rumpx` or "
             "`~/.local/state/rumpx`)", "DIR", example="/var/lib/rumpx",
             commands=(COPY, VERIFY, RESUME, JOBS, REPORT, CTL)),
        Flag("retry-failed", "try the failed keys once more", "", SWITCH, commands=(RESUME,)),
        Flag("max-failures", "stop when more than N keys have failed (default: any number)", "N",
             WHOLE, "max_failures", example="100", least=0, most=2**40, commands=(COPY,)),
        Flag("max-failures", "stop when more than N keys have failed (default: as before)", "N",
             WHOLE, commands=(RESUME,)),
        Flag("verify", "compare both sides after the copy; `--summary` then holds both results",
             "", SWITCH, more="The comparison's is its field `verification`", commands=(COPY,)),
        Flag("strict", "exit with 4 also for values of modules that cannot be compared", "",
             SWITCH, commands=(COPY, VERIFY)),
    )),
    Group("reading and writing", (
        Flag("batch-keys", "put N keys in one pipeline (default: 500, fewer under a latency "
             "limit); long pipelines delay other clients", "N", WHOLE, "batch_keys", "0",
             least=0, most=10_000),
        Flag("no-size-check", "do not ask each key's size before reading it: faster, but memory is "
             "bounded only by the number of keys", "", OFF_SWITCH, "size_check"),
        Flag("stream-from", "copy values from this size on in pieces, so that no other client "
             "waits for them", "SIZE", SIZE, "stream_from", "1MiB", least=2**10, most=2**40,
             off=True, more="The size is that of `MEMORY USAGE`. `off` reads every value whole"),
        Flag("hot-keys", "for such values that are written in each of three tries: read them "
             "`whole`, up to 64 MiB or `whole=SIZE`, or let them `fail`", "POLICY", HOT_KEYS,
             "hot_keys", "whole", more="A value that is read whole stalls both servers, by up to "
             "14 ms for each MB"),
        Flag("max-bytes-in-flight", "bytes read and not yet written, for each worker", "SIZE",
             SIZE, "max_bytes_in_flight", "16MiB", least=2**16, most=2**40),
        Flag("clock", "if the servers' clocks differ by more than a minute: keep the `absolute` "
             "expiries, or the `relative` times left (default: refuse to copy)", "HOW",
             field="clock", example="absolute", choices=("absolute", "relative")),
        Flag("field-expiries", "for hashes whose fields expire, if the target knows no such thing: "
             "`keep` (the key fails) or `drop` (copy the key without, and list it)", "HOW",
             field="field_expiries", default="keep", choices=("keep", "drop")),
        Flag("read-from", "`primary` (the server that `--from` names, a cluster's primaries), "
             "`prefer-replica` (a replica of each, the primary if none is fit), or `replica` "
             "(never a primary)", "WHICH", field="read_from", default="primary",
             choices=("primary", "prefer-replica", "replica"), more="See `rumpx help throttling`"),
        Flag("allow-eviction", "read from a source that is nearly full and evicts", "", SWITCH,
             "allow_eviction"),
        Flag("connect-timeout", "wait this long to connect and log in", "TIME", TIME,
             "connect_timeout", "5s", least=0.001, most=86_400),
        Flag("timeout", "wait this long for each later answer", "TIME", TIME, "timeout", "30s",
             least=0.001, most=86_400),
        Flag("retry-for", "give up after this long without any success", "TIME", TIME,
             "retry_for", "5m", least=0, most=604_800),
    )),
    Group("other machines", (
        Flag("engine", "walk the keyspace with processes of this machine (`local`) or on a Dask "
             "cluster (`dask`; needs `rumpx[dask]` here and on all workers)", "WHICH",
             field="engine", default="local", example="dask", choices=("local", "dask"),
             more="`rumpx verify JOB` takes that of the job, unless given. See `rumpx help scale`"),
        Flag("engine", "`local` or `dask` (default: as before)", "WHICH",
             choices=("local", "dask"), commands=(RESUME,)),
        Flag("dask-scheduler", "its address (default: `$DASK_SCHEDULER_ADDRESS`)", "ADDRESS",
             field="dask_scheduler", example="tcp://scheduler:8786",
             more="With `tls://` the certificates are those of Dask's own configuration"),
        Flag("dask-scheduler", "its address (default: as before)", "ADDRESS",
             commands=(RESUME,)),
        Flag("dask-send-passwords", "send the servers' passwords to the workers, only over "
             "`tls://` (default: each takes `RUMPX_FROM_PASSWORD` and `RUMPX_TO_PASSWORD` of its "
             "own environment, or the password files)", "", SWITCH, "dask_send_passwords"),
    )),
    Group("limits", _of(_WORK,
        Flag("max-source-latency", "slow down while a PING to the source takes this much longer "
             "than when idle", "TIME", TIME, "limits.max_source_latency", "5ms", least=0.0001,
             most=60, off=True),
        Flag("max-target-latency", "the same for the target", "TIME", TIME,
             "limits.max_target_latency", "off", least=0.0001, most=60, off=True),
        Flag("max-keys-per-sec", "copy at most N keys a second", "N", NUMBER,
             "limits.max_keys_per_sec", "off", least=1, most=1e12, off=True),
        Flag("max-bytes-per-sec", "copy at most this many bytes of payloads a second", "SIZE", RATE,
             "limits.max_bytes_per_sec", "off", least=1024, most=2**50, off=True),
        Flag("max-ops-per-sec", "have the source execute at most N commands a second, about three "
             "for each key", "N", NUMBER, "limits.max_ops_per_sec", "off", least=10, most=1e12,
             off=True),
        Flag("max-source-cpu", "slow down while a node of the source uses more than this of a core",
             "PERCENT", PERCENT, "limits.max_source_cpu", "off", least=0.01, most=1, off=True),
        Flag("max-source-memory", "slow down while a node of the source uses more than this of its "
             "`maxmemory`", "PERCENT", PERCENT, "limits.max_source_memory", "off", least=0.01,
             most=1, off=True),
        Flag("max-target-memory", "stop when the data will not fit into this part of the target's "
             "`maxmemory`", "PERCENT", PERCENT, "limits.max_target_memory", "100%", least=0.01,
             most=1, off=True),
        Flag("schedule", 'when to copy, and how fast, as in "Mon-Fri 08:00,off Mon-Fri '
             '20:00,50MiB Sat-Sun 00:00,full"; `off` for always', "TIMETABLE",
             field="limits.schedule", example="Mon-Fri 08:00,off Mon-Fri 20:00,full",
             more="See `rumpx help throttling`"),
        Flag("time-zone", "the timetable's, as in Europe/Berlin (default: the machine's)", "ZONE",
             field="limits.time_zone", example="Europe/Berlin"),
        Flag("exit-when-off", "while the timetable says off: exit with 10, to be resumed, instead "
             "of waiting", "", SWITCH, "limits.exit_when_off"),
        Flag("max-duration", "exit with 10 after this long, to be resumed", "TIME", TIME,
             "limits.max_duration", example="4h", least=1, most=31_536_000, off=True),
    )),
    Group("partitions", _of((COPY, CHECK),
        Flag("partitions", "walk each node and database in N parts (default: by distance and "
             "number of keys)", "N", WHOLE, "partitions", "0", least=0, most=1024),
        Flag("prefixes", "partition by these key prefixes instead; other keys are copied as well",
             "P[,P]", PREFIXES, "prefixes", example="user:,cart:"),
    )),
    Group("display and reports", (
        Flag("progress", "`auto` (bars on a terminal, else line), `bar`, `line` (one each 30 s), "
             "`json` (one object a second), `none` (the summary, only if the exit code is not 0); "
             "SIGUSR1 prints a line at any time", "HOW", default="auto", choices=_PROGRESS,
             commands=_WATCHED),
        Flag("progress", "as for a copy", "HOW", default="auto", choices=_PROGRESS,
             commands=(DEMO,)),
        Flag("html", "write the report as one HTML page, with charts; `-` is standard output",
             "FILE", commands=(REPORT,)),
        Flag("json", "print the answer as JSON", "", SWITCH, commands=(CTL,)),
        *_of(_WATCHED,
            Flag("top", "full-screen view: throughput, latencies, nodes, workers; `q` leaves it",
                 "", SWITCH),
            Flag("summary", "write the final summary as JSON; `-` is standard output", "FILE",
                 example="summary.json"),
            Flag("report", "write a report at the end, as one HTML page (also: `rumpx report JOB "
                 "--html FILE`)", "FILE", example="report.html"),
            Flag("log-file", "append lines, one each 30 s, warnings, and the end of the run",
                 "FILE", example="rumpx.log"),
            Flag("log-format", "of the log's lines, and of those of `--progress line`", "HOW",
                 default="text", choices=("text", "json"), more="`json` is one object a line, with "
                 "the reason of an early end; only errors at the very end are plain text"),
            Flag("metrics", "serve metrics for Prometheus there; without HOST on 127.0.0.1 (needs "
                 "`rumpx[metrics]`)", "[HOST:]PORT", example="9121"),
            Flag("on-end", "run a shell command at the end of every run: the summary as JSON is on "
                 "its standard input, the exit code in `RUMPX_EXIT_CODE`", "COMMAND",
                 example="logger -t rumpx ended with $RUMPX_EXIT_CODE",
                 more="`error` and `resume` are added to the summary. The command may take a "
                 "minute, and does not change the exit code"),
        ),
    )),
    Group("the source", _side("from")),
    Group("the target", _side("to")),
)


def flags_of(*commands: str) -> Iterator[Flag]:
    """Return the options that any of these commands has, in the order of `--help`."""
    return (
        flag for group in GROUPS for flag in group.flags if set(flag.commands) & set(commands)
    )


FIELDS: Final = {flag.field: flag for flag in flags_of(COPY) if flag.field}
"""The options that set a field of the Job, by that field."""
