"""Read a server's INFO, clock offset and round trip.

`parse_info` turns INFO's text into a ServerInfo. Where INFO is refused (some managed services)
the fields are empty, and callers do without them. `measure_clock` compares the server's TIME with
the local clock, and measures the round trip with the same calls.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis

from rumpx.servers.answers import ask_text, misshapen, whole, whole_or
from rumpx.servers.resp import Connection
from rumpx.servers.upstream import Upstream, parse_upstream

_CLOCK_SAMPLES: Final = 5
# Seconds since 1970 beyond any clock.
_NO_TIME: Final = 2**40
# Servers on which the cursor arithmetic of `engine.plan` was tested; newer majors are not trusted.
_PROVEN_MAJORS: Final = {"redis": range(4, 9), "valkey": range(7, 10)}

# Modules that ship with the server and add no types: Valkey 9 has its Lua as one.
_NO_TYPES: Final = {"lua"}


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Facts from INFO; memory in bytes. Empty or zero where the server does not report them.

    `keys` maps a database to its number of keys, `expiring` to the number of those with an expiry;
    `modules` are those that may add types of their
    own; `upstream` is a replica's report about its primary, and `link` identifies the dataset that
    it received from there (`replicas`).
    """

    flavour: str = ""
    version: tuple[int, ...] = ()
    mode: str = ""
    run_id: str = ""
    replication_id: str = ""
    role: str = ""
    used_memory: int = 0
    startup_memory: int = 0
    dataset_memory: int = 0
    cpu_seconds: float = 0.0
    max_memory: int = 0
    policy: str = ""
    expired_keys: int = 0
    expired_fields: int = 0
    evicted_keys: int = 0
    keys: dict[int, int] = field(default_factory=dict)
    expiring: dict[int, int] = field(default_factory=dict)
    expiring_hashes: dict[int, int] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    upstream: Upstream | None = None
    link: str | None = None

    def __str__(self) -> str:
        version = ".".join(map(str, self.version))
        return f"{self.flavour} {version}" if self.flavour else "a server of unknown version"

    @property
    def identity(self) -> str:
        """The process, and a replica's dataset: the scope in which a cursor is valid."""
        if not self.run_id or self.link is None:
            return self.run_id
        return f"{self.run_id}:{self.link}"

    @property
    def evicts(self) -> bool:
        """True if the server deletes keys by itself when memory runs short."""
        return self.max_memory > 0 and self.policy not in ("", "noeviction")

    @property
    def data_memory(self) -> int:
        """Bytes of keys and values, without their tables and without clients' buffers."""
        return self.dataset_memory or max(0, self.used_memory - self.startup_memory)

    @property
    def proven_cursors(self) -> bool:
        """True if this version's cursor scheme was tested."""
        majors = _PROVEN_MAJORS.get(self.flavour, range(0))
        return bool(self.version) and self.version[0] in majors


def info_fields(text: str) -> dict[str, str]:
    """Return INFO's text by field."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return dict(pairs)


def parse_info(text: str) -> ServerInfo:
    """Parse INFO's text. Every Valkey also claims `redis_version:7.2.4`.

    An invalid number counts as not reported, except where keys would be lost by it.

    Raises:
        ValueError: a field about databases or the primary is one that no server writes.
    """
    fields = info_fields(text)
    flavour = "valkey" if "valkey_version" in fields else "redis"
    version = fields.get(f"{flavour}_version", "")

    databases = {
        whole(name[2:]): _statistics(text)
        for name, text in fields.items()
        if re.fullmatch(r"db\d+", name)
    }

    def number(name: str) -> int:
        return whole_or(fields.get(name, ""), 0)

    return ServerInfo(
        flavour=flavour if version else "",
        version=tuple(int(part) for part in re.findall("[0-9]{1,9}", version)[:3]),
        mode=fields.get("server_mode") or fields.get("redis_mode", ""),
        run_id=fields.get("run_id", ""),
        replication_id=fields.get("master_replid", ""),
        role=fields.get("role", ""),
        used_memory=number("used_memory"),
        startup_memory=number("used_memory_startup"),
        dataset_memory=number("used_memory_dataset"),
        cpu_seconds=sum(_seconds(fields.get(f"used_cpu_{kind}", "")) for kind in ("sys", "user")),
        max_memory=number("maxmemory"),
        policy=fields.get("maxmemory_policy", ""),
        expired_keys=number("expired_keys"),
        # Redis from 7.4 on; Valkey from 9.0 on.
        expired_fields=number("expired_subkeys") or number("expired_fields"),
        evicted_keys=number("evicted_keys"),
        keys={number: whole(stats.get("keys", "")) for number, stats in databases.items()},
        expiring={
            number: whole_or(stats.get("expires", ""), 0) for number, stats in databases.items()
        },
        expiring_hashes={
            number: whole_or(stats.get("subexpiry") or stats.get("keys_with_volatile_items", ""), 0)
            for number, stats in databases.items()
        },
        modules=tuple(
            name
            for name in re.findall(r"^module:name=([^,\s]+)", text, re.M)
            if name not in _NO_TYPES
        ),
        upstream=parse_upstream(fields),
    )


def _seconds(text: str) -> float:
    """Parse a time; 0 if it is invalid."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _statistics(database: str) -> dict[str, str]:
    """`keys=12,expires=3,…` → {"keys": "12", "expires": "3", …}."""
    return dict(re.findall("([a-z_]+)=([^,]*)", database))


def read_info(connection: Connection) -> ServerInfo | None:
    """Return the server's INFO; None if it is refused.

    Raises:
        SourceUnusable, TargetUnusable: the reply is not INFO's.
    """
    text = ask_text(connection, "INFO")
    if text is None:
        return None
    try:
        return parse_info(text)
    except ValueError:
        raise misshapen(connection, "INFO") from None


@dataclass(frozen=True, slots=True)
class ServerClock:
    """`offset`: the server's clock minus the local one, ms, or None where TIME is refused;
    `round_trip`: the fastest of a few, in seconds."""

    offset: float | None
    round_trip: float


def measure_clock(connection: Connection) -> ServerClock:
    """Compare clocks by a few TIME calls; use the one with the shortest round trip."""
    best = float("inf")
    offset = None
    for _ in range(_CLOCK_SAMPLES):
        sent, wall = time.perf_counter(), time.time()
        reply = connection.call("TIME")
        round_trip = time.perf_counter() - sent
        if round_trip < best:
            best = round_trip
            if not isinstance(reply, hiredis.ReplyError):
                offset = clock_of(connection, reply) - (wall + round_trip / 2) * 1000
    return ServerClock(offset, best)


def clock_of(connection: Connection, reply: Any) -> float:
    """TIME's reply in ms since 1970.

    Raises:
        SourceUnusable, TargetUnusable: it is no time.
    """
    try:
        return milliseconds(reply)
    except (ValueError, TypeError):
        raise misshapen(connection, "TIME") from None


def milliseconds(time_reply: object) -> float:
    """Convert TIME's reply (seconds, microseconds) to ms since 1970.

    Raises:
        ValueError, TypeError: the reply is not a time.
    """
    if not isinstance(time_reply, list):
        raise TypeError("not a list")
    seconds, microseconds = time_reply
    if isinstance(seconds, bytes) and isinstance(microseconds, bytes):
        seconds, microseconds = whole(seconds), whole(microseconds)  # some services send numbers
    if not (0 <= seconds < _NO_TIME and 0 <= microseconds < 10**6):
        raise ValueError("not a time")
    return float(seconds * 1000 + microseconds / 1000)
