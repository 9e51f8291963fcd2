"""Options that exclude or need each other, in one list, each with the reason.

A clash is refused (exit code 2) before any server is contacted; all other options combine. A
new capability adds its rows here; `tests/test_clashes.py` has a command line for each.

Not in the list: one option's value that is invalid by itself (`model/options.py`), and options that
have no effect on a command that shares its `--config` file with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from rumpx.errors import UsageError


class Clash(NamedTuple):
    """One combination that is refused.

    Attributes:
        options: names without dashes.
        message: the reason, and what to change.
        found: true if the data (Limits, Job, Request, parsed arguments) hold it.
    """

    options: tuple[str, ...]
    message: str
    found: Callable[[Any], object]


IN_LIMITS: Final = (
    Clash(
        ("exit-when-off", "schedule"),
        "--exit-when-off needs a --schedule that says when.",
        lambda limits: limits.exit_when_off and not limits.schedule,
    ),
)

IN_JOB: Final = (
    Clash(
        ("prefixes", "partitions"),
        "--prefixes and --partitions exclude each other; give one of them.",
        lambda job: job.prefixes and job.partitions,
    ),
    Clash(
        ("prefixes", "match"),
        "--prefixes and --match both use SCAN MATCH, which takes one pattern; give one of them.",
        lambda job: job.prefixes and job.scope.match,
    ),
    Clash(
        ("read-from", "from"),
        "--read-from needs a source that is reached by TCP, as its replicas are; give its host "
        "and port as --from.",
        lambda job: job.read_from != "primary" and job.source.transport == "unix",
    ),
    Clash(
        ("db", "from"),
        "The source's URI names a database and --db is given too; give one of them.",
        lambda job: job.source.db is not None and job.scope.databases,
    ),
    Clash(
        ("workers", "engine"),
        "--workers is the number of processes of this machine, and a Dask cluster has its own; "
        "leave it out, or give --engine local.",
        lambda job: job.workers and job.engine == "dask",
    ),
    Clash(
        ("dask-scheduler", "engine"),
        "--dask-scheduler and --dask-send-passwords need --engine dask.",
        lambda job: (job.dask_scheduler or job.dask_send_passwords) and job.engine != "dask",
    ),
    Clash(
        ("feed", "follow"),
        "--feed, --delete-extra and --max-deletes are about --follow; give it too.",
        lambda job: not job.follow
        and (job.feed != "auto" or job.delete_extra or job.max_deletes is not None),
    ),
    Clash(
        ("follow", "on-conflict"),
        "--follow makes the target equal to the source; leave out --on-conflict skip or fail.",
        lambda job: job.follow and job.on_conflict in ("skip", "fail"),
    ),
    Clash(
        ("follow", "type"),
        "--follow is told the names of changed keys, but not their types; leave out --type, or "
        "choose keys by --match.",
        lambda job: job.follow and job.scope.types,
    ),
    Clash(
        ("follow", "read-from"),
        "--follow reads the server that reports the changes; leave out --read-from.",
        lambda job: job.follow and job.read_from != "primary",
    ),
    Clash(
        ("follow", "engine"),
        "--follow works on this machine; leave out --engine dask.",
        lambda job: job.follow and job.engine == "dask",
    ),
    Clash(
        ("map-db", "to"),
        "The target's URI names a database and --map-db is given too; give one of them.",
        lambda job: job.target.db is not None and job.scope.map_db,
    ),
)

_YES: Final = Clash(
    ("yes", "delete-extra"),
    "--yes answers the question of --delete-extra; give both.",
    lambda given: given.yes and not given.delete_extra,
)

IN_COMPARISON: Final = (
    Clash(
        ("delete-extra", "repair"),
        "--delete-extra needs --repair; give both.",
        lambda request: request.delete_extra and not request.repair,
    ),
    _YES,
    Clash(
        ("repair", "sample"),
        "--repair needs a full comparison; leave out --sample.",
        lambda request: request.repair and request.sample < 1,
    ),
)

IN_COPY: Final = (
    _YES,
    Clash(
        ("follow", "verify"),
        "--follow compares both sides after the copy, and again whenever it must; leave out "
        "--verify.",
        lambda arguments: arguments.follow and arguments.verify,
    ),
    Clash(
        ("strict", "verify"),
        "--strict is about the comparison of --verify; give both.",
        lambda arguments: arguments.strict and not arguments.verify,
    ),
)

IN_DISPLAYS: Final = (
    Clash(
        ("top", "progress"),
        "--top and --progress exclude each other; give one of them.",
        lambda wanted: wanted.top and wanted.progress not in ("auto", "bar"),
    ),
    Clash(
        ("report", "summary"),
        "--report and --summary are both standard output; name a file.",
        lambda wanted: wanted.report == wanted.summary == "-",
    ),
)

ALL: Final = (*IN_LIMITS, *IN_JOB, *IN_COMPARISON, *IN_COPY, *IN_DISPLAYS)


def refuse(clashes: Iterable[Clash], data: object) -> None:
    """Refuse the first clash in the data.

    Raises:
        UsageError: with its message.
    """
    for clash in clashes:
        if clash.found(data):
            raise UsageError(clash.message)
