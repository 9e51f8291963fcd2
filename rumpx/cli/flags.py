"""What the command line's flags mean: argparse's Namespace → Job."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rumpx.cli.outputs import Wanted
from rumpx.errors import Side, UsageError
from rumpx.model.endpoint import (
    Endpoint,
    Tls,
    parse_address_map,
    parse_endpoint,
    read_password_file,
)
from rumpx.model.job import KEY_TYPES, Job, Limits, Scope
from rumpx.model.limits import READERS, limits_with
from rumpx.units import parse_seconds, parse_size

if TYPE_CHECKING:
    from rumpx.model.check_request import Request as CheckRequest
    from rumpx.model.verify_request import Request


def make_wanted(arguments: argparse.Namespace) -> Wanted:
    """Flags → what is to be shown and left."""
    return Wanted(
        arguments.progress,
        arguments.top,
        arguments.summary,
        arguments.report,
        arguments.log_file,
        arguments.log_format,
        arguments.metrics,
        arguments.on_end,
    )


def make_check(arguments: argparse.Namespace) -> CheckRequest:
    """Flags of `rumpx check` → what to check.

    Raises:
        UsageError: they cannot be meant.
    """
    from rumpx.model.check_request import SAMPLE_KEYS, Request

    number = SAMPLE_KEYS if arguments.sample is None else arguments.sample
    return Request(make_job(arguments), number, arguments.read_only)


def make_comparison(arguments: argparse.Namespace) -> Request:
    """Flags of `rumpx verify` → what to compare.

    Raises:
        UsageError: they cannot be meant.
    """
    from rumpx.model.verify_request import Request

    job = make_job(arguments) if arguments.name is None else _job_of(arguments)
    tolerance = arguments.ttl_tolerance
    return Request(
        job=job,
        sample=_share(arguments.sample) if arguments.sample else 1.0,
        digests=arguments.digest,
        tolerance=round(parse_seconds(tolerance, "--ttl-tolerance") * 1000) if tolerance else None,
        differences=absolute(arguments.differences),
        repair=arguments.repair,
        delete_extra=arguments.delete_extra,
        yes=arguments.yes,
        strict=arguments.strict,
        state_dir=arguments.state_dir,
        name=arguments.name,
    )


def _job_of(arguments: argparse.Namespace) -> Job:
    """Endpoints and scope of a copy whose ledger is there, with this command's other flags."""
    from rumpx.ledger.catalog import Place, job_to_compare

    given = [*arguments.db, *arguments.map_db, *arguments.match, *arguments.exclude]
    if given or arguments.type:
        raise UsageError("A job has its scope; leave out --db, --map-db, --match and the like.")
    for flag, value in vars(arguments).items():
        if flag.startswith(("from_", "to_")) and value and value != "auto":
            raise UsageError(
                f"A job has its endpoints; leave out --{flag.replace('_', '-')}. Of --from and "
                "--to only the passwords count."
            )
    job = job_to_compare(
        Place(arguments.state_dir, arguments.name),
        arguments.source,
        arguments.target,
        _behaviour(arguments),
    )
    return replace(job, limits=limits_given(arguments, job.limits))


def _share(text: str) -> float:
    """`1%`, or `1` → 0.01."""
    number = text.strip().removesuffix("%").strip()
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--sample: {text[:40]!r} is not a share; write it as in 1% or 0.5%.")
    return share


def make_job(arguments: argparse.Namespace) -> Job:
    """Flags → Job.

    Raises:
        UsageError: they cannot be meant.
    """
    for flag, value in (("--from", arguments.source), ("--to", arguments.target)):
        if not value:
            raise UsageError(
                f"{flag} is missing. A copy is started by rumpx --from URI --to URI; see "
                "rumpx --help."
            )
    return Job(
        source=_endpoint(arguments, "source"),
        target=_endpoint(arguments, "target"),
        scope=Scope(
            databases=tuple(_number(n, "--db") for text in arguments.db for n in text.split(",")),
            map_db=tuple(_pair(text) for text in arguments.map_db),
            match=tuple(os.fsencode(glob) for glob in arguments.match),
            exclude=tuple(os.fsencode(glob) for glob in arguments.exclude),
            types=_types(arguments.type),
        ),
        partitions=arguments.partitions,
        prefixes=_prefixes(arguments.prefixes),
        on_conflict=arguments.on_conflict,
        max_failures=arguments.max_failures,
        functions=arguments.functions,
        limits=limits_given(arguments, Limits()),
        **_behaviour(arguments),
    )


def _behaviour(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of Job that say how, not what."""
    return {
        "workers": arguments.workers,
        "batch_keys": arguments.batch_keys,
        "size_check": not arguments.no_size_check,
        "big_key": parse_size(arguments.big_key, "--big-key"),
        "max_bytes_in_flight": parse_size(arguments.max_bytes_in_flight, "--max-bytes-in-flight"),
        "clock": arguments.clock,
        "read_from": arguments.read_from,
        "allow_eviction": arguments.allow_eviction,
        "connect_timeout": parse_seconds(arguments.connect_timeout, "--connect-timeout"),
        "timeout": parse_seconds(arguments.timeout, "--timeout"),
        "retry_for": parse_seconds(arguments.retry_for, "--retry-for"),
    }


def limits_given(arguments: argparse.Namespace, limits: Limits) -> Limits:
    """Limits with those that the flags change.

    Raises:
        UsageError: they cannot be meant.
    """
    given: dict[str, Any] = vars(arguments)
    changes = [(name, given[name.replace("-", "_")]) for name in READERS]
    limits = limits_with(limits, ((name, text) for name, text in changes if text is not None))
    if arguments.schedule == "off":
        limits = replace(limits, schedule="", time_zone=None, exit_when_off=False)
    elif arguments.schedule is not None:
        limits = replace(limits, schedule=arguments.schedule, exit_when_off=False)
    if arguments.max_duration == "off":
        limits = replace(limits, max_duration=None)
    elif arguments.max_duration is not None:
        seconds = parse_seconds(arguments.max_duration, "--max-duration")
        limits = replace(limits, max_duration=seconds)
    if arguments.schedule == "off":
        return limits  # without what hangs on one
    return replace(
        limits,
        time_zone=arguments.time_zone or limits.time_zone,
        exit_when_off=arguments.exit_when_off or limits.exit_when_off,
    )


def _endpoint(arguments: argparse.Namespace, side: Side) -> Endpoint:
    prefix = "from" if side == "source" else "to"
    options: dict[str, Any] = vars(arguments)
    endpoint = parse_endpoint(options[side], side)
    tls = Tls(
        absolute(options[f"{prefix}_ca"]),
        absolute(options[f"{prefix}_cert"]),
        absolute(options[f"{prefix}_key"]),
        options[f"{prefix}_insecure"],
        options[f"{prefix}_server_name"],
    )
    if tls != Tls() and endpoint.tls is None:
        raise UsageError(
            f"--{prefix}-ca, -cert, -key, -insecure and -server-name need a rediss:// URI."
        )
    if bool(tls.cert) != bool(tls.key):
        raise UsageError(f"--{prefix}-cert and --{prefix}-key belong together; give both.")
    for flag in ("ca", "cert", "key"):
        path = options[f"{prefix}_{flag}"]
        if path and not os.access(path, os.R_OK):
            raise UsageError(f"--{prefix}-{flag}: {path} cannot be read.")
    sentinel_file = options[f"{prefix}_sentinel_password_file"]
    return replace(
        endpoint,
        password=_password(endpoint, prefix, options[f"{prefix}_password_file"]),
        tls=tls if endpoint.tls else None,
        sentinel_username=options[f"{prefix}_sentinel_user"],
        sentinel_password=sentinel_file
        and read_password_file(sentinel_file, f"--{prefix}-sentinel-password-file"),
        cluster={"auto": None, "yes": True, "no": False}[options[f"{prefix}_cluster"]],
        address_map=parse_address_map(
            options[f"{prefix}_map_address"], f"--{prefix}-map-address"
        ),
        password_file=absolute(options[f"{prefix}_password_file"]),
        sentinel_password_file=absolute(sentinel_file),
    )


def absolute(path: str | None) -> str | None:
    """A file as it is found from any folder: a job may be resumed from another one."""
    return os.path.abspath(path) if path else path


def _password(endpoint: Endpoint, prefix: str, file: str | None) -> str | None:
    """From the file, else the URI, else the environment."""
    if file:
        if endpoint.password is not None:
            raise UsageError(
                f"--{prefix}-password-file is given and the URI holds a password; give one."
            )
        return read_password_file(file, f"--{prefix}-password-file")
    if endpoint.password is not None:
        return endpoint.password
    return os.environ.get(f"RUMPX_{prefix.upper()}_PASSWORD") or None


def _number(text: str, flag: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise UsageError(f"{flag}: {text[:40]!r} is not a database number.")
    return int(text)


def _pair(text: str) -> tuple[int, int]:
    source, colon, target = text.partition(":")
    if not colon:
        raise UsageError("--map-db is written FROM:TO, as in 3:0.")
    return _number(source, "--map-db"), _number(target, "--map-db")


def _types(text: str | None) -> tuple[str, ...]:
    """Names as TYPE gives them; those of modules have nine characters."""
    types = tuple(dict.fromkeys(text.split(","))) if text is not None else ()
    for name in types:
        if name not in KEY_TYPES and len(name) != 9:
            raise UsageError(
                f"--type: {name!r} is no type of value; known are {', '.join(KEY_TYPES)} and the "
                "nine-character names of module types."
            )
    return types


def _prefixes(text: str | None) -> tuple[bytes, ...]:
    if text is None:
        return ()
    prefixes = tuple(os.fsencode(prefix) for prefix in text.split(","))
    if not all(prefixes):
        raise UsageError("--prefixes: an empty prefix covers every key; leave it out.")
    return prefixes
