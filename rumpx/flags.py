"""What the command line's flags mean: argparse's Namespace → Job."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

from rumpx.errors import Side, UsageError
from rumpx.job import (
    KEY_TYPES,
    Endpoint,
    Job,
    Scope,
    Tls,
    parse_address_map,
    parse_endpoint,
    parse_seconds,
    parse_size,
    read_password_file,
)


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
        workers=arguments.workers,
        partitions=arguments.partitions,
        prefixes=_prefixes(arguments.prefixes),
        batch_keys=arguments.batch_keys,
        on_conflict=arguments.on_conflict,
        size_check=not arguments.no_size_check,
        big_key=parse_size(arguments.big_key, "--big-key"),
        max_bytes_in_flight=parse_size(arguments.max_bytes_in_flight, "--max-bytes-in-flight"),
        clock=arguments.clock,
        functions=arguments.functions,
        allow_eviction=arguments.allow_eviction,
        connect_timeout=parse_seconds(arguments.connect_timeout, "--connect-timeout"),
        timeout=parse_seconds(arguments.timeout, "--timeout"),
        retry_for=parse_seconds(arguments.retry_for, "--retry-for"),
    )


def _endpoint(arguments: argparse.Namespace, side: Side) -> Endpoint:
    prefix = "from" if side == "source" else "to"
    options: dict[str, Any] = vars(arguments)
    endpoint = parse_endpoint(options[side], side)
    tls = Tls(
        options[f"{prefix}_ca"],
        options[f"{prefix}_cert"],
        options[f"{prefix}_key"],
        options[f"{prefix}_insecure"],
    )
    if tls != Tls() and endpoint.tls is None:
        raise UsageError(f"--{prefix}-ca, -cert, -key and -insecure need a rediss:// URI.")
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
    )


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
