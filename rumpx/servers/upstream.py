"""Read a replica's report of its link, and decide whether it holds its primary's data at all.

A replica answers reads before its first synchronisation, and after a failed one: it is then empty,
or has keys of its own, which the primary's will replace. INFO distinguishes such replicas from
those that have lost their primary and hold old data (on Redis 6.2, 7.0 and 8.2, Valkey 8.1 and
9.1):

- `master_link_down_since_seconds` is -1 until the link is up for the first time in this process;
- `slave_repl_offset` is 0 or 1 until then, unless the process has loaded a replica's data at its
  start, or was a primary;
- `master_sync_in_progress` is 1 while a dataset is received and loaded.

Not promised: to notice old data below a replica whose own link is up (a chain of replicas) until
its primary has been silent for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rumpx.servers.answers import signed

# Offsets that mean none; a primary without any writes may have them too.
_NO_OFFSET: Final = 1
# Primaries send a PING every 10 seconds, unless `repl-ping-replica-period` says otherwise.
_SILENT_SECONDS: Final = 25


@dataclass(frozen=True, slots=True)
class Upstream:
    """A replica's link to its primary, from INFO.

    Attributes:
        primary: its primary, host:port.
        up: the link is up.
        syncing: a whole dataset is being received, or loaded.
        loading: the process loads a dataset, from any origin.
        offset: its position in its primary's history, in bytes; -1 if unknown.
        down_for: seconds since the link was lost; -1 if it was never up in this process.
        silent_for: seconds since the last byte from the primary; -1 if unknown.
        empty: it holds no key.
    """

    primary: str
    up: bool
    syncing: bool
    loading: bool
    offset: int
    down_for: int
    silent_for: int
    empty: bool

    @property
    def fault(self) -> str:
        """Why the replica lacks its primary's data, to end a sentence; "" if it has them."""
        if self.loading or self.syncing:
            return f"is loading the data of its primary {self.primary}"
        if self.up:
            return ""
        if self.down_for < 0 and self.offset <= _NO_OFFSET:
            return f"has never synchronised with its primary {self.primary}"
        if self.empty:
            return f"holds no keys, and the link to its primary {self.primary} is down"
        return ""

    @property
    def lag(self) -> str:
        """The replica's known lag, to end a sentence; "" if none is known."""
        if self.up and self.silent_for > _SILENT_SECONDS:
            return f"has heard nothing from its primary {self.primary} for {self.silent_for:,} s"
        if self.up:
            return ""
        if self.down_for < 0:
            return f"has not reached its primary {self.primary} since it started"
        return f"lost the link to its primary {self.primary} {self.down_for:,} s ago"


def parse_upstream(fields: Mapping[str, str]) -> Upstream | None:
    """Parse INFO's fields (sections replication, persistence and keyspace); None for a server that
    is not a replica.

    Raises:
        ValueError: a field is not a number.
    """
    if fields.get("role") != "slave":
        return None

    def number(name: str, otherwise: int) -> int:
        text = fields.get(name) or ""
        return signed(text) if text else otherwise

    def seconds(name: str) -> int:
        # A difference of two wall clock times; the clock may have been set back in between.
        told = number(name, -1)
        return told if told == -1 else max(0, told)

    return Upstream(
        primary=f"{fields.get('master_host', '?')}:{fields.get('master_port', '?')}",
        up=fields.get("master_link_status") == "up",
        syncing=fields.get("master_sync_in_progress") == "1",
        loading=fields.get("loading") == "1" or fields.get("async_loading") == "1",
        offset=number("slave_repl_offset", 0),
        down_for=seconds("master_link_down_since_seconds"),
        silent_for=seconds("master_last_io_seconds_ago"),
        empty=not any(name.startswith("db") and "keys=" in fields[name] for name in fields),
    )
