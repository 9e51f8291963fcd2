"""Nobody writes to the source any more: how that is read off.

INFO commandstats counts the calls of each command, also inside scripts and transactions. COMMAND
says which commands may write. If between two looks no counter of such a command has moved, nothing
was written: keys that expire by themselves, and reads, move none. That is over-cautious: a command
that changed nothing, such as a SET NX that failed, counts as well, since the next one may succeed.

- XREADGROUP of an empty stream changes no group: it is allowed if XINFO GROUPS shows the same as
  before for each known stream.
- The keys of a health check are left out by a pattern; then the feed's names decide in place of the
  counters: none but these may have been told, and no command of consumer groups been called.
- Where the counters are refused, the feed's names decide, too: no more of them may have been told
  than keys have expired or were evicted.

Not promised: that a client which has been silent so far stays so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rumpx.errors import printable
from rumpx.follower.watch import GROUPS, Look
from rumpx.servers.globs import compile_glob
from rumpx.servers.resp import Connection, Reply
from rumpx.units import count_of

_SUBCOMMANDS: Final = 9
_NAMED: Final = 5
# Commands that run others.
_MAY_WRITE: Final = frozenset({"eval", "evalsha", "fcall", "exec"})
_ASKED_AT_ONCE: Final = 1_000
_CLIENT: Final = re.compile(
    r"^id=\d+ addr=(\S+) .*?name=(\S*) age=\d+ idle=(\d+) .*?cmd=(\S+)", re.MULTILINE
)


def write_commands(reply: Reply) -> frozenset[str]:
    """Return the commands that may write, in lower case, from COMMAND's reply; subcommands as in
    `xgroup|create`."""
    found: set[str] = set()
    for entry in reply if isinstance(reply, list) else ():
        if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[0], bytes):
            continue
        flags = entry[2] if isinstance(entry[2], list) else []
        if b"write" in flags:
            found.add(entry[0].decode(errors="replace").lower())
        if len(entry) > _SUBCOMMANDS and isinstance(entry[_SUBCOMMANDS], list):
            found |= write_commands(entry[_SUBCOMMANDS])
    return frozenset(found)


def moved(before: Look, now: Look, writes: frozenset[str]) -> dict[str, int] | None:
    """Return how often each writing command was called between two looks, if it was; and below 0
    each counter that has fallen, of any command: all were reset, and hide calls before that. None
    where that is not told."""
    if before.calls is None or now.calls is None:
        return None
    called = {
        name: now.calls.get(name, 0) - before.calls.get(name, 0)
        for name in before.calls.keys() | now.calls.keys()
    }
    return {n: number for n, number in called.items() if number < 0 or (number and n in writes)}


class Told(NamedTuple):
    """Names that the feed has told.

    Attributes:
        keys: the first few of those that are not left out.
        number, ignored: of these, and of those that are left out.
    """

    keys: tuple[bytes, ...] = ()
    number: int = 0
    ignored: int = 0


class Heard:
    """The names that the feed tells, from now on.

    Args:
        ignore: globs of keys that are left out.

    Attributes:
        told: so far.
    """

    def __init__(self, ignore: Iterable[bytes]) -> None:
        self.told = Told()
        self._left_out = [compile_glob(glob).fullmatch for glob in ignore]

    def ignores(self, name: bytes) -> bool:
        """Return True for a key that is left out."""
        return any(match(name) for match in self._left_out)

    def reset(self) -> None:
        """Begin anew."""
        self.told = Told()

    def add(self, names: Sequence[bytes]) -> None:
        """Take names, from any thread."""
        others = [name for name in names if not self.ignores(name)]
        keys, number, ignored = self.told
        if len(keys) < _NAMED:
            keys = tuple(dict.fromkeys((*keys, *others)))[:_NAMED]
        self.told = Told(keys, number + len(others), ignored + len(names) - len(others))


@dataclass(frozen=True, slots=True)
class Noise:
    """What shows that the source is still written.

    Attributes:
        commands: and how often each was called.
        keys: some that were written.
        unexplained: names that were told and that no expiry or eviction explains.
    """

    commands: Mapping[str, int]
    keys: tuple[bytes, ...]
    unexplained: int = 0

    def __str__(self) -> str:
        """A clause for the user."""
        counted = sorted((name, n) for name, n in self.commands.items() if n > 0)[:_NAMED]
        parts = []
        if any(n < 0 for n in self.commands.values()):
            parts.append("its counters were reset (CONFIG RESETSTAT)")
        if counted:
            parts.append(
                ", ".join(f"{count_of(n, 'call')} of {name.upper()}" for name, n in counted)
            )
        if self.unexplained:
            parts.append(f"{count_of(self.unexplained, 'key')} changed")
        if self.keys:
            parts.append(f"keys written: {', '.join(printable(key) for key in self.keys)}")
        return "; ".join(parts)


def noise(
    before: Look,
    now: Look,
    writes: frozenset[str],
    told: Told,
    *,
    ignores: bool,
    same_groups: Callable[[], bool],
) -> Noise | None:
    """Return what was written between two looks at the source; None if nothing was.

    Args:
        writes: the commands that may write.
        told: the names that the feed has told between them.
        ignores: some keys are left out.
        same_groups: returns True if all consumer groups are as they were at `before`.
    """
    called = moved(before, now, writes)
    if called is None:
        gone = _vanished(now) - _vanished(before)
        unexplained = told.number - gone
        return Noise({}, told.keys, unexplained) if unexplained > 0 else None
    if ignores:
        groups = {
            name: n for name, n in called.items() if n < 0 or name.partition("|")[0] in GROUPS
        }
        return Noise(groups, told.keys, told.number) if groups or told.number else None
    if set(called) == {"xreadgroup"} and same_groups():
        return None
    return Noise(called, told.keys) if called else None


def _vanished(look: Look) -> int:
    info = look.info
    return info.expired_keys + info.evicted_keys + info.expired_fields


def writers(clients: str, writes: frozenset[str], seconds: float) -> list[str]:
    """Return the clients of CLIENT LIST whose last command may write, and is not older: address,
    name and command."""
    may_write = writes | _MAY_WRITE
    return [
        f"{addr}{f' ({printable(name.encode())})' if name else ''}: {command.upper()}"
        for addr, name, idle, command in _CLIENT.findall(clients)
        if command.lower() in may_write and int(idle) <= seconds and not name.startswith("rumpx")
    ][:_NAMED]


def groups_of(
    connection: Connection, databases: Iterable[int], streams: Sequence[bytes]
) -> list[Reply]:
    """Return XINFO GROUPS of each stream in each database, as it is now; an error counts as one."""
    told: list[Reply] = []
    for db in sorted(databases):
        connection.call("SELECT", db)
        for start in range(0, len(streams), _ASKED_AT_ONCE):
            some = streams[start : start + _ASKED_AT_ONCE]
            replies = connection.call_many([("XINFO", "GROUPS", key) for key in some])
            told += [None if isinstance(reply, Exception) else reply for reply in replies]
    return told
