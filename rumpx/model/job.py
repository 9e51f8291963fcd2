"""What one run is to do, as plain data: two endpoints, a scope, limits.

Everything here is validated when it is made and needs no connection, so that a mistake costs the
user nothing. An `Endpoint` holds a password, which `repr`, `str(endpoint)` and every message leave
out.

URIs::

    redis://[user[:password]@]host[:port][/db]            also valkey://
    rediss://…                                            TLS, certificate verified; also valkeys://
    unix://[user[:password]@]/path/to.sock[?db=N]
    redis+sentinel://[user[:password]@]host[:port][,host…]/service[/db]
    rediss+sentinel://…[?sentinels=plain]                 TLS, also to the sentinels unless so said

The user, password and service name are percent-decoded; an IPv6 host stands in brackets.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, unquote

from rumpx.errors import Side, UsageError

Address = tuple[str, int]
OnConflict = Literal["ask", "replace", "skip", "fail"]
Clock = Literal["refuse", "absolute", "relative"]
ReadFrom = Literal["primary", "prefer-replica", "replica"]
Progress = Literal["auto", "bar", "line", "json", "none"]
LogFormat = Literal["text", "json"]

DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
MAX_DATABASE: Final = 2**31 - 1
KEY_TYPES: Final = ("string", "list", "set", "zset", "hash", "stream")

_SCHEMES: Final = {
    "redis": ("tcp", False),
    "valkey": ("tcp", False),
    "rediss": ("tcp", True),
    "valkeys": ("tcp", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "valkey+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "valkeys+sentinel": ("sentinel", True),
}


@dataclass(frozen=True, slots=True)
class Tls:
    """How a TLS server is checked, and what we show it. Paths of PEM files.

    `server_name` is the name that its certificate is checked for, and that SNI names, in the place
    of the host's own.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False
    server_name: str | None = None

    def __post_init__(self) -> None:
        if self.server_name is not None and not is_host(self.server_name):
            raise UsageError(
                f"--from-server-name or --to-server-name: {self.server_name!r} is no host name or "
                "IP address. Give it without a port."
            )


def is_host(text: str) -> bool:
    """Whether TLS can check a certificate for this name."""
    try:
        if ":" in text:
            return bool(socket.inet_pton(socket.AF_INET6, text))
        return bool(re.fullmatch(r"[^\[\]@/\s]+", text) and text.encode("idna"))
    except (OSError, UnicodeError):
        return False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of a copy, as the user gave it.

    `addresses` are the servers to ask first (for sentinel: the sentinels); none for a unix socket.
    `cluster` is True or False where the user forced it and None where the server is asked.
    `address_map` says where to dial for addresses that cluster nodes or sentinels announce, or the
    user gave; certificates are checked for the names before it. `sentinels_plain`: `tls` is for the
    primary alone.
    `password_file` and `sentinel_password_file` are where the passwords came from, if from files.
    """

    transport: Literal["tcp", "unix", "sentinel"]
    addresses: tuple[Address, ...] = ()
    path: str = ""
    service: str = ""
    db: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    cluster: bool | None = None
    address_map: tuple[tuple[Address, Address], ...] = ()
    password_file: str | None = None
    sentinel_password_file: str | None = None
    sentinels_plain: bool = False

    def __str__(self) -> str:
        """The URI without credentials: what messages, reports and a job's identity show."""
        database = "" if self.db is None else f"/{self.db}"
        if self.transport == "unix":
            return f"unix://{quote(self.path)}" + (f"?db={self.db}" if database else "")
        hosts = ",".join(format_address(address) for address in self.addresses)
        scheme = "rediss" if self.tls else "redis"
        if self.transport == "sentinel":
            query = "?sentinels=plain" if self.sentinels_plain else ""
            return f"{scheme}+sentinel://{hosts}/{quote(self.service, safe='')}{database}{query}"
        return f"{scheme}://{hosts}{database}"

    def mapped(self, address: Address) -> Address:
        """Where to dial for an address that a server announced, or that the user gave."""
        for announced, reachable in self.address_map:
            if announced == address:
                return reachable
        return address


@dataclass(frozen=True, slots=True)
class Scope:
    """Which keys are copied, and to which database.

    `databases` is empty for "every database that holds keys"; `map_db` holds (from, to) pairs;
    `match` and `exclude` are globs on bytes (a key is in scope if any `match` fits, or none is
    given, and no `exclude` fits); `types` is empty for all.
    """

    databases: tuple[int, ...] = ()
    map_db: tuple[tuple[int, int], ...] = ()
    match: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()
    types: tuple[str, ...] = ()

    @property
    def filtered(self) -> bool:
        """Whether some keys of a copied database may be out of scope."""
        return bool(self.match or self.exclude or self.types)

    def target_db(self, db: int) -> int:
        """The target's database for a source database."""
        return dict(self.map_db).get(db, db)

    def source_db(self, db: int) -> int:
        """The source's database for a target database."""
        return {target: source for source, target in self.map_db}.get(db, db)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may cost the servers, and when it may run. None means no limit.

    Attributes:
        max_source_latency, max_target_latency: seconds by which a PING may take longer than it
            does at best.
        max_keys_per_sec, max_bytes_per_sec, max_ops_per_sec: keys, bytes of payload, and commands
            that the busier side executes; all workers together.
        max_source_cpu: of one core, 0.6 for 60 %; of the busiest node.
        max_source_memory, max_target_memory: of maxmemory; of the fullest node.
        schedule: a timetable as `rumpx.model.schedule` reads it; "" for always.
        time_zone: of the timetable; None for the machine's.
        exit_when_off: end where the timetable says "off", rather than wait.
        max_duration: seconds after which the run ends, to be resumed.
    """

    max_source_latency: float | None = 0.005
    max_target_latency: float | None = None
    max_keys_per_sec: float | None = None
    max_bytes_per_sec: float | None = None
    max_ops_per_sec: float | None = None
    max_source_cpu: float | None = None
    max_source_memory: float | None = None
    max_target_memory: float | None = 1.0
    schedule: str = ""
    time_zone: str | None = None
    exit_when_off: bool = False
    max_duration: float | None = None

    def __post_init__(self) -> None:
        for name, low, high, unit in (
            ("max_source_latency", 0.0001, 60, " s"),
            ("max_target_latency", 0.0001, 60, " s"),
            ("max_keys_per_sec", 1, 1e12, ""),
            ("max_bytes_per_sec", 1024, 1e15, " bytes"),
            ("max_ops_per_sec", 10, 1e12, ""),
            ("max_source_cpu", 0.01, 1, ""),
            ("max_source_memory", 0.01, 1, ""),
            ("max_target_memory", 0.01, 1, ""),
            ("max_duration", 1, 31_536_000, " s"),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {value:g}{unit}; give something from {low:g} "
                    f"to {high:g}{unit}, or off."
                )
        if self.exit_when_off and not self.schedule:
            raise UsageError("--exit-when-off needs a --schedule that says when.")
        if self.schedule:
            from rumpx.model.schedule import (
                parse_timetable,  # which reads sizes as this module does
            )

            parse_timetable(self.schedule, self.time_zone)


@dataclass(frozen=True, slots=True)
class Job:
    """One copy. Sizes are in bytes, times in seconds.

    `batch_keys` and `partitions` of 0 mean "choose from what is measured at the start";
    `max_failures` of None means that any number of keys may fail; `read_from` chooses between each
    source node's primary and its replicas (`servers/replicas.py`).
    """

    source: Endpoint
    target: Endpoint
    scope: Scope = Scope()
    workers: int = 4
    partitions: int = 0
    prefixes: tuple[bytes, ...] = ()
    batch_keys: int = 0
    on_conflict: OnConflict = "ask"
    size_check: bool = True
    big_key: int = 64 * 2**20
    max_bytes_in_flight: int = 16 * 2**20
    clock: Clock = "refuse"
    read_from: ReadFrom = "primary"
    max_failures: int | None = None
    functions: bool = False
    allow_eviction: bool = False
    connect_timeout: float = 5.0
    timeout: float = 30.0
    retry_for: float = 300.0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        _check_range("--workers", self.workers, 1, 256)
        _check_range("--partitions", self.partitions, 0, 1024)
        _check_range("--batch-keys", self.batch_keys, 0, 10_000)
        _check_range("--big-key", self.big_key, 2**10, 2**40)
        _check_range("--max-bytes-in-flight", self.max_bytes_in_flight, 2**16, 2**40)
        if self.max_failures is not None:
            _check_range("--max-failures", self.max_failures, 0, 2**40)
        for flag, seconds in (
            ("--connect-timeout", self.connect_timeout),
            ("--timeout", self.timeout),
        ):
            if not 0.001 <= seconds <= 86_400:
                raise UsageError(f"{flag} is {seconds:g} s; give a time from 1ms to 24h.")
        if not 0 <= self.retry_for <= 604_800:
            raise UsageError(f"--retry-for is {self.retry_for:g} s; give a time from 0 to 7 days.")
        if self.prefixes and self.partitions:
            raise UsageError("--prefixes and --partitions exclude each other; give one of them.")
        if self.prefixes and self.scope.match:
            raise UsageError(
                "--prefixes cut the work by SCAN MATCH and so cannot be joined with --match; "
                "give one of them."
            )
        check_prefixes(self.prefixes)
        if self.read_from != "primary" and self.source.transport == "unix":
            raise UsageError(
                "--read-from needs a source that is reached by TCP, as its replicas are; give its "
                "host and port as --from."
            )
        check_databases(self)


def check_prefixes(prefixes: tuple[bytes, ...]) -> None:
    """Refuse prefixes of which one begins another: their keys would be copied twice."""
    for position, prefix in enumerate(prefixes):
        for other in prefixes[position + 1 :]:
            if prefix.startswith(other) or other.startswith(prefix):
                raise UsageError(
                    f"--prefixes: {prefix!r} and {other!r} overlap; give prefixes of which none "
                    "begins another."
                )


def check_databases(job: Job) -> None:
    """Refuse databases that contradict each other, before anything is contacted."""
    scope = job.scope
    for db in (*scope.databases, *(n for pair in scope.map_db for n in pair)):
        _check_range("a database", db, 0, MAX_DATABASE)
    if job.source.db is not None and scope.databases:
        raise UsageError(
            f"The source's URI names database {job.source.db} and --db is given too; "
            "give one of them."
        )
    sources = [source for source, _ in scope.map_db]
    if len(set(sources)) < len(sources):
        raise UsageError("--map-db names one source database twice; map each only once.")
    if job.target.db is not None and scope.map_db:
        raise UsageError(
            f"The target's URI names database {job.target.db} and --map-db is given too; "
            "give one of them."
        )


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}; give a whole number from {low} to {high}.")


def parse_endpoint(uri: str, side: Side) -> Endpoint:
    """Read one URI of the module docstring's forms.

    Raises:
        UsageError: the URI is malformed; the message shows none of its credentials.
    """
    flag = "--from" if side == "source" else "--to"
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES if not name.startswith("valkey"))
        raise UsageError(f"{flag} is not a URI that rumpx knows; it begins with one of {known}.")
    transport, encrypted = _SCHEMES[scheme.lower()]
    rest, _, query = rest.partition("?")
    credentials, at, location = rest.rpartition("@")
    username, colon, password = credentials.partition(":")
    endpoint = Endpoint(
        transport=transport,  # type: ignore[arg-type]
        username=unquote(username) or None,
        password=unquote(password) if at and colon else None,
        tls=Tls() if encrypted else None,
    )
    query, plain = _sentinels_plain(query)
    if plain and (transport != "sentinel" or not encrypted):
        raise UsageError(f"{flag}: ?sentinels=plain is only for rediss+sentinel://.")
    endpoint = replace(endpoint, sentinels_plain=plain)
    db = _parse_query(query, flag)
    if transport == "unix":
        if not location.startswith("/"):
            raise UsageError(f"{flag}: a unix socket's URI is unix:///absolute/path[?db=N].")
        return replace(endpoint, path=unquote(location), db=db)
    hosts, _, tail = location.partition("/")
    parts = [unquote(part) for part in tail.split("/")] if tail else []
    if transport == "sentinel":
        if not parts or not parts[0] or len(parts) > 2:
            raise UsageError(
                f"{flag}: a sentinel's URI names the service after the hosts, as in "
                "redis+sentinel://host:26379/mymaster/0."
            )
        endpoint = replace(endpoint, service=parts.pop(0))
        addresses = tuple(
            parse_address(host, DEFAULT_SENTINEL_PORT, flag) for host in hosts.split(",")
        )
    else:
        if len(parts) > 1:
            raise UsageError(f"{flag}: after the host comes only a database number, as in /0.")
        addresses = (parse_address(hosts, DEFAULT_PORT, flag),)
    if parts and parts[0]:
        if db is not None:
            raise UsageError(f"{flag} names a database twice; give one of them.")
        db = _parse_db(parts[0], flag)
    return replace(endpoint, addresses=addresses, db=db)


def _sentinels_plain(query: str) -> tuple[str, bool]:
    """The rest of a query, and whether it says sentinels=plain."""
    fields = query.split("&")
    rest = [field for field in fields if field != "sentinels=plain"]
    return "&".join(rest), len(rest) < len(fields)


def _parse_query(query: str, flag: str) -> int | None:
    options = dict(parse_qsl(query, keep_blank_values=True))
    db = options.pop("db", None)
    if options:
        raise UsageError(
            f"{flag}: only ?db=N, and ?sentinels=plain of rediss+sentinel://, are known after the "
            "'?' of a URI. (If the password holds a '?', write it as %3F.)"
        )
    return None if db is None else _parse_db(db, flag)


def _parse_db(text: str, flag: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_DATABASE:
        raise UsageError(
            f"{flag}: the database in the URI is not a number. (If the password holds a '/' or "
            "'?', write it as %2F or %3F.)"
        )
    return int(text)


def parse_address(text: str, default_port: int, flag: str) -> Address:
    """`host`, `host:port` or `[v6]:port` → (host, port).

    Raises:
        UsageError: no host, or no port number from 1 to 65535.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:@/\s]+))(?::(\d{1,5}))?", text)
    if not match or not 1 <= (port := int(match[3] or default_port)) <= 65_535:
        raise UsageError(
            f"{flag}: there is no host[:port] where one should be. An IPv6 address stands in "
            "brackets; '@', ':' and '/' in a password are written %40, %3A and %2F."
        )
    return (match[1] or match[2], port)


def format_address(address: Address) -> str:
    """(host, port) → `host:port`, with brackets round an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address_map(texts: list[str], flag: str) -> tuple[tuple[Address, Address], ...]:
    """`internal:port=reachable:port` entries → pairs of addresses."""
    pairs = []
    for text in texts:
        announced, equals, reachable = text.partition("=")
        if not equals:
            raise UsageError(f"{flag} is written internal:port=reachable:port.")
        pairs.append(
            (
                parse_address(announced, DEFAULT_PORT, flag),
                parse_address(reachable, DEFAULT_PORT, flag),
            )
        )
    return tuple(pairs)


def read_password_file(path: str, flag: str) -> str:
    """The first line of a file, without its line end."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):  # it may be the password itself
            path = "the file that it names"
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{flag}: {path} cannot be read: {reason}.") from None
    if not lines or not lines[0]:
        raise UsageError(f"{flag}: {path} holds no password; its first line is used.")
    return lines[0]


_UNITS: Final = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str, flag: str) -> int:
    """`64MiB`, `64MB`, `64m`, `65536` → bytes; units are powers of 1024.

    Raises:
        UsageError: not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match or len(match[1]) > 20:
        raise UsageError(f"{flag}: {text[:40]!r} is not a size; write it as in 64MiB or 500k.")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_seconds(text: str, flag: str) -> float:
    """`500ms`, `5s`, `5m`, `4h`, `5` → seconds.

    Raises:
        UsageError: not a time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", text.strip().lower())
    if not match:
        raise UsageError(
            f"{flag}: {text[:40]!r} is not a time; write it as in 500ms, 30s, 5m or 4h."
        )
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[match[2] or "s"]
    return float(match[1]) * unit
