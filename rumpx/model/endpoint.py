"""The address and login of a server, as plain data.

Everything here is validated on creation and needs no connection, so that a mistake costs the user
nothing. An `Endpoint` holds a password, which `repr`, `str(endpoint)` and every message leave
out.

URIs::

    redis://[user[:password]@]host[:port][/db]            also valkey://
    rediss://…                                            TLS, certificate verified; also valkeys://
    unix://[user[:password]@]/path/to.sock[?db=N]
    redis+sentinel://[user[:password]@]host[:port][,host…]/service[/db]
    rediss+sentinel://…[?sentinels=plain]                 TLS, also to the sentinels unless so given

The user, password and service name are percent-decoded; an IPv6 host is in brackets.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, unquote

from rumpx.errors import Side, UsageError
from rumpx.model.options import MAX_DATABASE

Address = tuple[str, int]
ReadFrom = Literal["primary", "prefer-replica", "replica"]
DEFAULT_PORT: Final = 6379
DEFAULT_SENTINEL_PORT: Final = 26379
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
    """The check of a TLS server, and our own certificate. Paths of PEM files.

    `server_name` is the name for the check of its certificate and for SNI, instead of the host's
    own.
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
    """Return True if TLS can check a certificate for this name."""
    try:
        if ":" in text:
            return bool(socket.inet_pton(socket.AF_INET6, text))
        return bool(re.fullmatch(r"[^\[\]@/\s]+", text) and text.encode("idna"))
    except (OSError, UnicodeError):
        return False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of a copy, as given by the user.

    `addresses` are the servers to ask first (for sentinel: the sentinels); none for a unix socket.
    `cluster` is True or False if forced by the user, and None to ask the server. `address_map` maps
    addresses that cluster nodes or sentinels announce, or that the user gave, to those to dial;
    certificates are checked for the names before mapping. `sentinels_plain`: `tls` is for the
    primary alone.
    `password_file` and `sentinel_password_file` are the sources of the passwords, if files.
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
        """Return the URI without credentials, for messages, reports and a job's identity."""
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
        """Return the address to dial for one that a server announced, or that the user gave."""
        for announced, reachable in self.address_map:
            if announced == address:
                return reachable
        return address


def parse_endpoint(uri: str, side: Side) -> Endpoint:
    """Parse a URI of one of the module docstring's forms.

    Raises:
        UsageError: the URI is malformed; the message shows none of its credentials.
    """
    flag = "--from" if side == "source" else "--to"
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES if not name.startswith("valkey"))
        raise UsageError(f"{flag} is not a known URI; it must start with one of {known}.")
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
                f"{flag}: a sentinel's URI names the service after the hosts, for example "
                "redis+sentinel://host:26379/mymaster/0."
            )
        endpoint = replace(endpoint, service=parts.pop(0))
        addresses = tuple(
            parse_address(host, DEFAULT_SENTINEL_PORT, flag) for host in hosts.split(",")
        )
    else:
        if len(parts) > 1:
            raise UsageError(f"{flag}: only a database number may follow the host, such as /0.")
        addresses = (parse_address(hosts, DEFAULT_PORT, flag),)
    if parts and parts[0]:
        if db is not None:
            raise UsageError(f"{flag} names a database twice; use one of them.")
        db = _parse_db(parts[0], flag)
    return replace(endpoint, addresses=addresses, db=db)


def _sentinels_plain(query: str) -> tuple[str, bool]:
    """Return the rest of a query, and True if it contains sentinels=plain."""
    fields = query.split("&")
    rest = [field for field in fields if field != "sentinels=plain"]
    return "&".join(rest), len(rest) < len(fields)


def _parse_query(query: str, flag: str) -> int | None:
    options = dict(parse_qsl(query, keep_blank_values=True))
    db = options.pop("db", None)
    if options:
        raise UsageError(
            f"{flag}: after the '?' of a URI only ?db=N, and ?sentinels=plain of "
            "rediss+sentinel://, are allowed. (Write a '?' in the password as %3F.)"
        )
    return None if db is None else _parse_db(db, flag)


def _parse_db(text: str, flag: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_DATABASE:
        raise UsageError(
            f"{flag}: the database in the URI is not a number. (Write a '/' or '?' in the password "
            "as %2F or %3F.)"
        )
    return int(text)


def parse_address(text: str, default_port: int, flag: str) -> Address:
    """Parse `host`, `host:port` or `[v6]:port` to (host, port).

    Raises:
        UsageError: no host, or no port number from 1 to 65535.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:@/\s]+))(?::(\d{1,5}))?", text)
    if not match or not 1 <= (port := int(match[3] or default_port)) <= 65_535:
        raise UsageError(
            f"{flag}: host[:port] is missing or invalid. Write an IPv6 address in brackets, "
            "and '@', ':' and '/' in a password as %40, %3A and %2F."
        )
    return (match[1] or match[2], port)


def format_address(address: Address) -> str:
    """Format (host, port) as `host:port`, with brackets around an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address_map(texts: list[str], flag: str) -> tuple[tuple[Address, Address], ...]:
    """Parse `internal:port=reachable:port` entries to pairs of addresses."""
    pairs = []
    for text in texts:
        announced, equals, reachable = text.partition("=")
        if not equals:
            raise UsageError(f"{flag} must be internal:port=reachable:port.")
        pairs.append(
            (
                parse_address(announced, DEFAULT_PORT, flag),
                parse_address(reachable, DEFAULT_PORT, flag),
            )
        )
    return tuple(pairs)


def read_password_file(path: str, flag: str) -> str:
    """Read the first line of a file, without its line end."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):  # it may be the password itself
            path = "the file that it names"
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{flag}: cannot read {path}: {reason}.") from None
    if not lines or not lines[0]:
        raise UsageError(f"{flag}: the first line of {path} must be a password, but is empty.")
    return lines[0]
