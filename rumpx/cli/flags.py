"""The command line's flags → Job: argparse's Namespace, read by the table of options."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rumpx.cli.outputs import Wanted
from rumpx.errors import Side, UsageError
from rumpx.model import clashes
from rumpx.model.endpoint import (
    Endpoint,
    Tls,
    parse_address_map,
    parse_endpoint,
    read_password_file,
)
from rumpx.model.job import Job, Limits, Scope
from rumpx.model.options import flags_of
from rumpx.units import parse_seconds

if TYPE_CHECKING:
    from rumpx.model.check_request import Request as CheckRequest
    from rumpx.model.verify_request import Request


def make_wanted(arguments: argparse.Namespace) -> Wanted:
    """Return the outputs that the flags request."""
    return Wanted(
        arguments.progress or "auto",
        arguments.top,
        arguments.summary,
        arguments.report,
        arguments.log_file,
        arguments.log_format or "text",
        arguments.metrics,
        arguments.on_end,
    )


def make_check(arguments: argparse.Namespace) -> CheckRequest:
    """Return the Request of `rumpx check`.

    Raises:
        UsageError: they are invalid.
    """
    from rumpx.model.check_request import SAMPLE_KEYS, Request

    number = SAMPLE_KEYS if arguments.sample is None else arguments.sample
    return Request(make_job(arguments), number, arguments.read_only)


def make_comparison(arguments: argparse.Namespace) -> Request:
    """Return the Request of `rumpx verify`.

    Raises:
        UsageError: they are invalid.
    """
    from rumpx.model.verify_request import Request

    if arguments.name is not None:
        job = _job_of(arguments)
    else:
        job = replace(make_job(arguments), on_conflict="replace")
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
    """Return a job with the endpoints and scope of a copy's ledger, and this command's other
    flags."""
    from rumpx.ledger.catalog import Place, job_to_compare

    fields = _fields(arguments)
    if any(name.startswith("scope.") for name in fields):
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
        {name: value for name, value in fields.items() if "." not in name},
    )
    return replace(job, limits=limits_given(arguments, job.limits))


def _share(text: str) -> float:
    """Parse `1%`, or `1`, to 0.01."""
    number = text.strip().removesuffix("%").strip()
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--sample: {text[:40]!r} is not a share; write it as in 1% or 0.5%.")
    return share


def make_job(arguments: argparse.Namespace) -> Job:
    """Return the Job that the flags describe.

    Raises:
        UsageError: they are invalid.
    """
    for flag, value in (("--from", arguments.source), ("--to", arguments.target)):
        if not value:
            raise UsageError(
                f"{flag} is missing. Start a copy by rumpx --from URI --to URI; see rumpx --help."
            )
    fields = _fields(arguments)
    return Job(
        source=_endpoint(arguments, "source"),
        target=_endpoint(arguments, "target"),
        scope=Scope(**_part(fields, "scope.")),
        limits=limits_given(arguments, Limits()),
        **{name: value for name, value in fields.items() if "." not in name},
    )


def make_copy(arguments: argparse.Namespace) -> Job:
    """Return the Job of a copy, whose other options fit it too.

    Raises:
        UsageError: they are invalid.
    """
    job = make_job(arguments)
    clashes.refuse(clashes.IN_COPY, arguments)
    return job


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the Job's fields that flags set, by their names in the table.

    Raises:
        UsageError: a value is invalid.
    """
    given = vars(arguments)
    fields = {}
    for flag in flags_of(arguments.command):
        words = given.get(flag.name.replace("-", "_"))
        if flag.field and words is not None and words is not False and words != []:
            fields[flag.field] = flag.read(words if isinstance(words, list) else [str(words)])
    return fields


def _part(fields: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the fields of a part of the Job."""
    return {
        name.removeprefix(prefix): value
        for name, value in fields.items()
        if name.startswith(prefix)
    }


def limits_given(arguments: argparse.Namespace, limits: Limits) -> Limits:
    """Return the limits with the flags' changes.

    Raises:
        UsageError: they are invalid.
    """
    changes = _part(_fields(arguments), "limits.")
    if changes.get("time_zone") == "":
        del changes["time_zone"]  # of an unset variable: not given
    if changes.get("schedule") == "off":
        # Without a timetable, its zone and its end have no meaning.
        changes |= {"schedule": "", "time_zone": None, "exit_when_off": False}
    elif "schedule" in changes:
        changes.setdefault("exit_when_off", False)
    return replace(limits, **changes)


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
        cluster={None: None, "auto": None, "yes": True, "no": False}[options[f"{prefix}_cluster"]],
        address_map=parse_address_map(
            options[f"{prefix}_map_address"], f"--{prefix}-map-address"
        ),
        password_file=absolute(options[f"{prefix}_password_file"]),
        sentinel_password_file=absolute(sentinel_file),
    )


def absolute(path: str | None) -> str | None:
    """Return an absolute path: a job may be resumed in another folder."""
    return os.path.abspath(path) if path else path


def _password(endpoint: Endpoint, prefix: str, file: str | None) -> str | None:
    """Return the password of the file, else of the URI, else of the environment."""
    if file:
        if endpoint.password is not None:
            raise UsageError(
                f"--{prefix}-password-file is given and the URI holds a password; give one."
            )
        return read_password_file(file, f"--{prefix}-password-file")
    if endpoint.password is not None:
        return endpoint.password
    return os.environ.get(f"RUMPX_{prefix.upper()}_PASSWORD") or None
