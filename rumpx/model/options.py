"""A Job told as options of the command line, for reports: every one, and whether it was given.

What is secret is not in it: a password shows as where it came from. `flags` is the other way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rumpx.errors import Side, printable
from rumpx.model.endpoint import Endpoint, Tls, format_address
from rumpx.model.history import Option
from rumpx.model.job import Job, Limits, Scope
from rumpx.model.limits import READERS, in_words

if TYPE_CHECKING:
    from rumpx.model.verify_request import Request

_NOT_GIVEN: Final = ""
_OF_COPIES: Final = ("--on-conflict", "--functions", "--max-failures", "--partitions", "--prefixes")


def options_of(job: Job) -> tuple[Option, ...]:
    """All options that say what a copy does, in the order of `--help`.

    A repeatable one that was given twice is there twice; one that was not given and has no default
    has the value "".
    """
    default = Job(job.source, job.target)
    told = [
        Option("--from", str(job.source), True),
        Option("--to", str(job.target), True),
        _one("--workers", job.workers, default.workers),
        *_scope(job.scope),
        _one("--on-conflict", job.on_conflict, default.on_conflict),
        _switch("--functions", job.functions),
        _one("--max-failures", job.max_failures, None),
        *_behaviour(job, default),
        *_limits(job.limits),
        _one("--partitions", job.partitions or None, None),
        Option("--prefixes", ",".join(map(_name, job.prefixes)), bool(job.prefixes)),
        *_side("source", job.source),
        *_side("target", job.target),
    ]
    return tuple(told)


def options_of_comparison(request: Request) -> tuple[Option, ...]:
    """The same for a comparison that is not of a copy: those that it has, and its own."""
    shared = [o for o in options_of(request.job) if o.flag not in _OF_COPIES]
    tolerance = request.tolerance
    return (
        *shared,
        _one("--sample", f"{100 * request.sample:g}%", "100%"),
        _switch("--digest", request.digests),
        _one("--ttl-tolerance", None if tolerance is None else f"{tolerance}ms", None),
        _one("--differences", request.differences, None),
        _switch("--repair", request.repair),
        _switch("--delete-extra", request.delete_extra),
        _switch("--strict", request.strict),
    )


def _scope(scope: Scope) -> Iterator[Option]:
    yield _one("--db", ",".join(map(str, scope.databases)), _NOT_GIVEN)
    yield from _several("--map-db", [f"{source}:{target}" for source, target in scope.map_db])
    yield from _several("--match", list(map(_name, scope.match)))
    yield from _several("--exclude", list(map(_name, scope.exclude)))
    yield _one("--type", ",".join(scope.types), _NOT_GIVEN)


def _behaviour(job: Job, default: Job) -> Iterator[Option]:
    yield _one("--batch-keys", job.batch_keys or None, None)
    yield _switch("--no-size-check", not job.size_check)
    yield _one("--big-key", _size(job.big_key), _size(default.big_key))
    most, usual = job.max_bytes_in_flight, default.max_bytes_in_flight
    yield _one("--max-bytes-in-flight", _size(most), _size(usual))
    clock = job.clock if job.clock != "refuse" else _NOT_GIVEN
    yield _one("--clock", clock, _NOT_GIVEN)
    yield _one("--read-from", job.read_from, default.read_from)
    yield _switch("--allow-eviction", job.allow_eviction)
    for name in ("connect_timeout", "timeout", "retry_for"):
        flag = f"--{name.replace('_', '-')}"
        yield _one(flag, _time(getattr(job, name)), _time(getattr(default, name)))


def _limits(limits: Limits) -> Iterator[Option]:
    set_, usual = in_words(limits), in_words(Limits())
    for name in READERS:
        value, default = set_.get(name, "off"), usual.get(name, "off")
        yield _one(f"--{name}", value, default)
    yield _one("--schedule", limits.schedule, _NOT_GIVEN)
    yield _one("--time-zone", limits.time_zone, None)
    yield _switch("--exit-when-off", limits.exit_when_off)
    longest = limits.max_duration
    yield _one("--max-duration", None if longest is None else _time(longest), None)


def _side(side: Side, endpoint: Endpoint) -> Iterator[Option]:
    prefix = "--from" if side == "source" else "--to"
    tls = endpoint.tls or Tls()
    yield _one(f"{prefix}-password-file", endpoint.password_file, None)
    yield _one(f"{prefix}-ca", tls.ca, None)
    yield _one(f"{prefix}-cert", tls.cert, None)
    yield _one(f"{prefix}-key", tls.key, None)
    yield _switch(f"{prefix}-insecure", tls.insecure)
    yield _one(f"{prefix}-server-name", tls.server_name, None)
    yield _one(f"{prefix}-sentinel-user", endpoint.sentinel_username, None)
    yield _one(f"{prefix}-sentinel-password-file", endpoint.sentinel_password_file, None)
    cluster = {None: "auto", True: "yes", False: "no"}[endpoint.cluster]
    yield _one(f"{prefix}-cluster", cluster, "auto")
    mapped = [f"{format_address(a)}={format_address(b)}" for a, b in endpoint.address_map]
    yield from _several(f"{prefix}-map-address", mapped)


def _one(flag: str, value: object, default: object) -> Option:
    return Option(flag, "" if value is None else str(value), value != default)


def _switch(flag: str, value: bool) -> Option:
    return Option(flag, "yes" if value else "no", value)


def _several(flag: str, values: list[str]) -> list[Option]:
    return [Option(flag, value, True) for value in values] or [Option(flag, "", False)]


def _name(glob: bytes) -> str:
    return printable(glob, limit=200)


def _size(count: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count and count % 2**power == 0:
            return f"{count >> power}{unit}"
    return str(count)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:g}ms" if seconds < 1 else f"{seconds:g}s"
