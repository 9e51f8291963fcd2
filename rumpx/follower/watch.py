"""Look at both servers once a second, and find what the feed does not tell.

A thread asks each side for INFO over a connection of its own, which it opens anew every few
seconds, so that it notices that another server answers (a failover, a load balancer). `judged` is
pure: two looks in, events out.

- another process, or another role, of the source or the target: events, or writes, may be lost;
- SWAPDB was called on the source: no name is told;
- commands that change consumer groups were called: the values of streams may have changed;
- commands that change functions were called;
- databases were emptied, which keyspace notifications do not tell;
- keyspace notifications are switched off;
- commands that always change a key were called for a while, and not one name was told: the feed is
  not believed.

A connection that is lost, or on which no answer comes within `--timeout`, is replaced by the next
look, which is compared with the last one that succeeded: so nothing is missed, but it is noticed
late. Until then `silent_for` grows, and the follower calls nothing in step when that is too long.

A server that refuses INFO commandstats shows only the first. CONFIG RESETSTAT sets all counters to
0, which shows since those of our own looks fall. Then consumer groups and functions may have
changed; databases count as swapped or emptied if that command was ever called, before or since.

Not promised: that anything is found sooner than a second after it has happened; the first SWAPDB of
a server if CONFIG RESETSTAT follows within that second.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from rumpx.errors import RumpxError, Side
from rumpx.servers.dial import Dialer
from rumpx.servers.info import ServerInfo, info_fields, parse_info
from rumpx.servers.resp import Connection

_SECONDS: Final = 1.0
_ANEW_SECONDS: Final = 5.0
_SECTIONS: Final = ("server", "replication", "stats", "keyspace", "commandstats")
_SWAPS: Final = frozenset({"swapdb"})
GROUPS: Final = frozenset(
    {"xreadgroup", "xack", "xackdel", "xclaim", "xautoclaim", "xgroup", "xsetid"}
)
_FLUSHES: Final = frozenset({"flushdb", "flushall"})
_FUNCTIONS: Final = frozenset(
    {"function|load", "function|delete", "function|flush", "function|restore"}
)
# Each call that succeeds changes a key.
_ALWAYS_CHANGES: Final = frozenset(
    {"incr", "incrby", "incrbyfloat", "append", "lpush", "rpush", "hincrby"}
)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a server.

    Attributes:
        at: `time.monotonic()`.
        info: its INFO, without the memory.
        calls: the number of calls by command, in lower case; None if it is not told.
        failed: of these, the calls that were answered by an error.
        notifies: keyspace notifications tell of all commands that change keys; None if unknown.
    """

    at: float
    info: ServerInfo
    calls: Mapping[str, int] | None = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    notifies: bool | None = None

    def called(self, names: frozenset[str]) -> int:
        """Return the number of calls of some commands; their subcommands count."""
        return _of(self.calls or {}, names)

    def succeeded(self, names: frozenset[str]) -> int:
        """Return the number of their calls that were not answered by an error."""
        return self.called(names) - _of(self.failed, names)


def _were_reset(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    """Return True if counters have fallen."""
    return any(now.get(name, 0) < number for name, number in before.items())


def _of(numbers: Mapping[str, int], names: frozenset[str]) -> int:
    return sum(
        number
        for name, number in numbers.items()
        if name in names or name.partition("|")[0] in names
    )


@dataclass(frozen=True, slots=True)
class OtherServer:
    """Another process answers for a side than before (`other`), or the same in another role; `why`
    is a clause."""

    side: Side
    why: str
    run_id: str
    other: bool


@dataclass(frozen=True, slots=True)
class Swapped:
    """Databases of the source were swapped."""


@dataclass(frozen=True, slots=True)
class GroupsChanged:
    """Consumer groups of the source may have changed."""


@dataclass(frozen=True, slots=True)
class Emptied:
    """Databases of the source were emptied."""


@dataclass(frozen=True, slots=True)
class Mute:
    """The source sends no keyspace notifications, or not of all commands."""


@dataclass(frozen=True, slots=True)
class FunctionsChanged:
    """Functions of the source may have changed."""


@dataclass(frozen=True, slots=True)
class Wrote:
    """So many commands that always change a key were executed between two looks at the source, the
    first at `since`."""

    calls: int
    since: float


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The source's databases that hold keys now."""

    databases: frozenset[int]


@dataclass(frozen=True, slots=True)
class Blind:
    """A server refuses INFO or INFO commandstats; may be told again and again."""

    side: Side


Seen = (
    OtherServer
    | Swapped
    | GroupsChanged
    | Emptied
    | Mute
    | FunctionsChanged
    | Wrote
    | Keyspace
    | Blind
)


def judged(side: Side, before: Look | None, now: Look) -> list[Seen]:
    """Return what has happened at a side between two looks; at the first, without one before, what
    holds now."""
    found: list[Seen] = []
    if side == "source":
        found.append(Keyspace(frozenset(db for db, keys in now.info.keys.items() if keys)))
    if now.notifies is False:
        found.append(Mute())
    if before is None:
        return found
    then, info = before.info, now.info
    if then.run_id != info.run_id:
        why = f"another process answers for the {side}"
        found.append(OtherServer(side, why, info.run_id, other=True))
        return found
    if then.role != info.role:
        role = "a replica" if info.role == "slave" else "a primary"
        found.append(OtherServer(side, f"the {side} has become {role}", info.run_id, other=False))
    if side == "target" or before.calls is None or now.calls is None:
        return found
    reset = _were_reset(before.calls, now.calls)

    def moved(names: frozenset[str]) -> bool:
        called = now.called(names)
        return before.called(names) != called or (reset and called > 0)

    if moved(_SWAPS):
        found.append(Swapped())
    if moved(_FLUSHES):
        found.append(Emptied())
    if reset or moved(GROUPS):
        found.append(GroupsChanged())
    if reset or moved(_FUNCTIONS):
        found.append(FunctionsChanged())
    wrote = now.succeeded(_ALWAYS_CHANGES) - before.succeeded(_ALWAYS_CHANGES)
    found.append(Wrote(max(0, wrote), before.at))
    return found


class Watch:
    """Watches one side, in a thread, until it is closed.

    Args:
        dialer: of that side.
        name: of the connections at the server; "" leaves the usual one.
        notifications: watch whether the server sends keyspace notifications.
        tell: receives the events, in the watch's thread.

    Attributes:
        looked: the moment of the last look (`time.monotonic()`); before the first, -inf.
        process: the `run_id` of the server at that look; "" if it does not tell. What happens there
            from then on is noticed.
    """

    def __init__(
        self,
        dialer: Dialer,
        name: str,
        tell: Callable[[Seen], None],
        *,
        notifications: bool = False,
    ) -> None:
        self._dialer = dialer
        self._name = name
        self._notifications = notifications
        self._tell = tell
        self.looked = -math.inf
        self.process = ""
        self._before: Look | None = None
        self._started = math.inf
        self._ends = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"watch of the {dialer.side}", daemon=True
        )

    def start(self) -> None:
        """Start to watch."""
        self._started = time.monotonic()
        self._thread.start()

    def silent_for(self, now: float) -> float:
        """Return the seconds since the last look, or, before the first, since the start."""
        since = self._started if self.looked == -math.inf else self.looked
        return max(0.0, now - since)

    def close(self) -> None:
        """Stop. (A look that waits for an answer ends with the process.)"""
        self._ends.set()

    def _run(self) -> None:
        connection: Connection | None = None
        opened = 0.0
        while not self._ends.is_set():
            if connection and time.monotonic() - opened > _ANEW_SECONDS:
                connection.close()
                connection = None
            # A server that does not answer is noticed by `silent_for`.
            with suppress(RumpxError):
                if connection is None or connection.closed:
                    connection, opened = self._dialer.connect(), time.monotonic()
                    if self._name:
                        connection.call("CLIENT", "SETNAME", self._name)
                if look := self._look(connection):
                    for seen in judged(self._dialer.side, self._before, look):
                        self._tell(seen)
                    self._before = look
                self.process = look.info.run_id if look else ""
                self.looked = time.monotonic()
            self._ends.wait(_SECONDS)
        if connection:
            connection.close()

    def _look(self, connection: Connection) -> Look | None:
        """Ask the server; return None if it refuses INFO."""
        look = look_at(connection)
        if self._before is None and (
            look is None or (look.calls is None and self._dialer.side == "source")
        ):
            self._tell(Blind(self._dialer.side))
        if look and self._notifications:
            look = replace(look, notifies=notifies(connection))
        return look


def look_at(connection: Connection) -> Look | None:
    """Look at a server; return None if it refuses INFO, or if its INFO makes no sense."""
    replies = connection.call_many([("INFO", section) for section in _SECTIONS])
    texts = [
        reply.decode(errors="replace") if isinstance(reply, bytes) else "" for reply in replies
    ]
    told = bool(texts[-1])  # it counts our own INFO at least
    calls = _numbers(texts[-1], "calls") if told else None
    failed = _numbers(texts[-1], "failed_calls")
    try:
        info = parse_info("\n".join(texts[:-1]))
    except ValueError:
        return None
    return Look(time.monotonic(), info, calls, failed) if texts[0] else None


def notifies(connection: Connection) -> bool | None:
    """Return True if a server sends keyspace notifications of all commands that change a key; None
    if it does not tell."""
    reply = connection.call("CONFIG", "GET", "notify-keyspace-events")
    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], bytes):
        return None
    # "A" stands for all classes but those of keys that are missed or new.
    return b"K" in reply[1] and b"A" in reply[1]


def _numbers(commandstats: str, what: str) -> dict[str, int]:
    """Parse `cmdstat_xgroup|create:calls=2,usec=…` → {"xgroup|create": 2}, for "calls"."""
    numbers = {}
    for name, text in info_fields(commandstats).items():
        fields = dict(part.partition("=")[::2] for part in text.split(","))
        if name.startswith("cmdstat_") and fields.get(what, "").isdigit():
            numbers[name.removeprefix("cmdstat_").lower()] = int(fields[what])
    return numbers
