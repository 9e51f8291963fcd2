"""What a replica says of the link to its primary, and whether it holds that primary's data at all.

A replica answers reads before its first synchronisation, and after one that failed: it is empty
then, or has keys of its own, which its primary's will replace. INFO tells such replicas from those
that have lost their primary and hold old data (on Redis 6.2, 7.0 and 8.2, Valkey 8.1 and 9.1):

- `master_link_down_since_seconds` is -1 until the link is up for the first time in this process;
- `slave_repl_offset` is 0 or 1 then, unless the process has loaded a replica's data at its start,
  or was a primary;
- `master_sync_in_progress` is 1 while a dataset comes in and is loaded.

Not promised: to notice old data below a replica whose own link is up (a chain of replicas) until
its primary has been silent for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rumpx.servers.answers import signed

# Offsets that stand for none; a primary may have them too that nobody has written to yet.
_NO_OFFSET: Final = 1
# Primaries send a PING every 10 seconds, unless `repl-ping-replica-period` says otherwise.
_SILENT_SECONDS: Final = 25


@dataclass(frozen=True, slots=True)
class Upstream:
    """A replica's link to its primary, from INFO.

    Attributes:
        primary: its primary, host:port.
        up: whether the link is.
        syncing: a whole dataset comes in, or is loaded.
        loading: the process loads a dataset, whichever.
        offset: how far it has got in its primary's history, in bytes; -1 if unknown.
        down_for: seconds since the link was lost; -1 if it never was up in this process.
        silent_for: seconds since the primary was last heard of; -1 if unknown.
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
        """How far the replica is known to be behind, to end a sentence; "" if it is not."""
        if self.up and self.silent_for > _SILENT_SECONDS:
            return f"has heard nothing from its primary {self.primary} for {self.silent_for:,} s"
        if self.up:
            return ""
        if self.down_for < 0:
            return f"has not reached its primary {self.primary} since it started"
        return f"lost the link to its primary {self.primary} {self.down_for:,} s ago"


def parse_upstream(fields: Mapping[str, str]) -> Upstream | None:
    """INFO's fields (sections replication, persistence and keyspace) → Upstream; None of a server
    that is not a replica.

    Raises:
        ValueError: a number in them is none.
    """
    if fields.get("role") != "slave":
        return None

    def number(name: str, otherwise: int) -> int:
        text = fields.get(name) or ""
        return signed(text) if text else otherwise

    def seconds(name: str) -> int:
        # A difference of two times of the wall clock, which may have been set back in between.
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
