"""A Job as options of the command line, for reports: all of them, and which were given.

Without secrets: a password appears as the file that holds it. `cli/flags.py` is the other
direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rumpx.model.endpoint import Endpoint, Tls, format_address
from rumpx.model.history import Option
from rumpx.model.job import Job
from rumpx.model.options import COPY, VERIFY, Flag, flags_of
from rumpx.units import write_seconds

if TYPE_CHECKING:
    from rumpx.model.verify_request import Request


def options_of(job: Job) -> tuple[Option, ...]:
    """Return all options that define a copy, in the order of `--help`.

    A repeatable option appears once for each value; one that was not given and has no default has
    the value "".
    """
    return tuple(_options_of(job, COPY))


def options_of_comparison(request: Request) -> tuple[Option, ...]:
    """Return those of a comparison without a job: the options of `rumpx verify`."""
    tolerance = request.tolerance
    return (
        *_options_of(request.job, VERIFY),
        _one("sample", f"{100 * request.sample:g}%", "100%"),
        _switch("digest", request.digests),
        _one("ttl-tolerance", None if tolerance is None else write_seconds(tolerance / 1000), None),
        _one("differences", request.differences, None),
        _switch("repair", request.repair),
        _switch("delete-extra", request.delete_extra),
        _switch("strict", request.strict),
    )


def _options_of(job: Job, command: str) -> Iterator[Option]:
    default = Job(job.source, job.target)
    yield Option("--from", str(job.source), True)
    yield Option("--to", str(job.target), True)
    for flag in flags_of(command):
        if flag.field:
            value = attrgetter(flag.field)
            yield from _written(flag, value(job), value(default))
    yield from _side("from", job.source)
    yield from _side("to", job.target)


def _written(flag: Flag, value: Any, default: Any) -> Iterator[Option]:
    """Yield one field's options."""
    given = value != default
    words = ["off"] if value is None and flag.off else flag.kind.write(value)
    if not flag.kind.takes_value:
        words = words or ["no"]
    elif not given and not flag.shown_default:
        words = []
    for word in words or [""]:
        yield Option(flag.flag, word, given)


def _side(side: str, endpoint: Endpoint) -> Iterator[Option]:
    tls = endpoint.tls or Tls()
    yield _one(f"{side}-password-file", endpoint.password_file, None)
    yield _one(f"{side}-ca", tls.ca, None)
    yield _one(f"{side}-cert", tls.cert, None)
    yield _one(f"{side}-key", tls.key, None)
    yield _switch(f"{side}-insecure", tls.insecure)
    yield _one(f"{side}-server-name", tls.server_name, None)
    yield _one(f"{side}-sentinel-user", endpoint.sentinel_username, None)
    yield _one(f"{side}-sentinel-password-file", endpoint.sentinel_password_file, None)
    cluster = {None: "auto", True: "yes", False: "no"}[endpoint.cluster]
    yield _one(f"{side}-cluster", cluster, "auto")
    mapped = [f"{format_address(a)}={format_address(b)}" for a, b in endpoint.address_map]
    for text in mapped or [""]:
        yield Option(f"--{side}-map-address", text, bool(mapped))


def _one(name: str, value: object, default: object) -> Option:
    return Option(f"--{name}", "" if value is None else str(value), value != default)


def _switch(name: str, on: bool) -> Option:
    return Option(f"--{name}", "yes" if on else "no", on)
