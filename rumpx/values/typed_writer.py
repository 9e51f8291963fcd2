"""Write one value in parts, by the commands of its type; without a connection of its own.

A TypedWriter returns the commands for each Part of a ChunkedReader (`put`), and checks their
replies (`took`), which count the members. At the end `holds` says whether the key has as many
members as were written: a key that the server evicted, or flushed, meanwhile and that later parts
made anew has fewer.

Field expiries are written right after their fields, one HPEXPIREAT for each instant; a field whose
instant is past on the server's clock is deleted by it. A stream's groups are created first. A
pending entry needs its entry, so each deleted one is added for a moment, and removed when it has
been claimed. Last id and counters are set at the end (`finish`).

Not promised: a consumer's seen-time and active-time; encodings; LRU and LFU data.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from math import inf
from typing import Any, Final

from rumpx.servers.resp import NO_EXPIRY, Argument, Command
from rumpx.values.chunked_reader import (
    COUNTERS,
    STRING,
    Group,
    Part,
    Pending,
    StreamFacts,
    number_of,
)
from rumpx.values.rewrite import FIELD_EXPIRIES, STREAM_COUNTERS, Loss

_ADD: Final = {b"list": "RPUSH", b"set": "SADD", b"hash": "HSET"}
LATEST_MS: Final = 2**46 - 1
"""The latest field expiry that Redis's commands take; Valkey's take any."""
_FAR_MS: Final = 24 * 3600 * 1000
_PLACEHOLDER: Final = b"x"
# Above any sensible zset-max-listpack-value.
_LONG_MEMBER: Final = 4096


OPTIONAL_WRITES: Final = frozenset({"HPEXPIREAT"})
"""Commands that a server may lack: it has no field expiries then."""


class FieldsExpire(Exception):
    """The value's fields expire, and the target cannot store that."""


class MembersLost(Exception):
    """The key that is written has lost members."""


class TypedWriter:
    """Writes one value.

    Args:
        kind: its type.
        key: the name to write to, which does not exist yet.
        shift: ms to add to fields' expiries.
        field_expiries: the target has HPEXPIREAT.
        latest: the latest instant that it takes; later ones become this. None: it takes any.
        drops: fields are written without expiries where it has not.
        counters: the target's XSETID takes a stream's counters (≥ 7.0).

    Attributes:
        written: the members so far.
        last_instant: when the last of a hash's fields expires, ms since 1970; infinite for every
            other value.
        losses: parts of the value that the target has no place for.
    """

    def __init__(
        self,
        kind: bytes,
        key: bytes,
        *,
        shift: int,
        field_expiries: bool,
        latest: int | None,
        drops: bool,
        counters: bool,
    ) -> None:
        self._kind = kind
        self._key = key
        self._shift = shift
        self._field_expiries = field_expiries
        self._latest = latest
        self._drops = drops
        self._counters = counters
        self._stream: StreamFacts | None = None
        self.written = 0
        self.last_instant = 0.0
        self.losses: list[Loss] = []
        self._lasting = 0  # of those written, the ones that will not expire soon
        self._soon = time.time() * 1000 + _FAR_MS

    @property
    def counter(self) -> Command:
        """The command that counts the members."""
        return COUNTERS[self._kind], self._key

    def holds(self, length: int) -> bool:
        """Return True if the key still has all members that were written, apart from fields that
        may have expired."""
        return self._lasting <= length <= self.written

    def put(self, part: Part) -> list[Command]:
        """Return the commands that write a part.

        Raises:
            FieldsExpire: the target cannot store field expiries.
        """
        if self._kind == b"stream":
            return self._put_entries(part)
        if not part.members:
            return []
        if self._kind == b"zset":
            return self._put_scores(part.members)
        return [(_ADD[self._kind], self._key, *part.members), *self._expiring(part)]

    def _put_scores(self, members: list[bytes]) -> list[Command]:
        words: list[bytes] = [b""] * len(members)
        words[::2], words[1::2] = members[1::2], members[::2]
        if b"-0" not in words[::2]:
            return [("ZADD", self._key, *words)]
        # A small sorted set's encoding has no -0; a long member gives it the other one for good.
        long = os.urandom(_LONG_MEMBER)
        return [("ZADD", self._key, "0", long, *words), ("ZREM", self._key, long)]

    def _expiring(self, part: Part) -> list[Command]:
        by_instant: defaultdict[int, list[bytes]] = defaultdict(list)
        for name, expiry in zip(part.members[::2], part.expiries, strict=False):
            if expiry != NO_EXPIRY:
                instant = max(1, expiry + self._shift)
                if self._latest:
                    instant = min(instant, self._latest)
                by_instant[instant].append(name)
        if by_instant and not self._field_expiries:
            if not self._drops:
                raise FieldsExpire
            if not self.losses:
                self.losses.append(FIELD_EXPIRIES)
            return []
        return [
            ("HPEXPIREAT", self._key, instant, "FIELDS", len(names), *names)
            for instant, names in by_instant.items()
        ]

    def took(self, part: Part, replies: list[Any]) -> None:
        """Count the members by the replies to `put`'s commands, none of which is an error.

        Raises:
            MembersLost: the key has fewer than it had.
        """
        match self._kind:
            case b"list":
                self.written += len(part.members)
                if replies and replies[-1] != self.written:
                    raise MembersLost
            case b"stream":
                self.written += len(part.entries)
            case b"zset":
                self.written += replies[0] - sum(replies[1:])
            case _ if replies:
                self.written += replies[0]
                expiring = [e + self._shift for e in part.expiries if e != NO_EXPIRY]
                soon = sum(instant <= self._soon for instant in expiring)
                self._lasting += replies[0] - soon * self._field_expiries
                all_expire = expiring and len(expiring) == len(part.members) // 2
                lasts = not (all_expire and self._field_expiries)
                self.last_instant = max(self.last_instant, inf if lasts else max(expiring))
                return
        self._lasting = self.written
        self.last_instant = inf

    # Streams.

    def _put_entries(self, part: Part) -> list[Command]:
        commands: list[Command] = []
        if part.stream:
            commands += self._create(part.stream)
        entries = {entry_id: fields for entry_id, fields in part.entries}
        missing = {pending.entry for pending in part.pending} - entries.keys()
        entries |= {entry_id: [_PLACEHOLDER, _PLACEHOLDER] for entry_id in missing}
        for entry_id in sorted(entries, key=number_of) if missing else entries:
            commands.append(("XADD", self._key, entry_id, *entries[entry_id]))
        commands += self._claim(part.pending)
        if missing:
            commands.append(self._remove(part, sorted(missing, key=number_of)))
        return commands

    def _create(self, stream: StreamFacts) -> list[Command]:
        self._stream = stream
        if stream.added is not None and not self._counters:
            self.losses.append(STREAM_COUNTERS)
        commands: list[Command] = []
        for group in stream.groups:
            commands.append(("XGROUP", "CREATE", self._key, group.name, group.last_id, "MKSTREAM"))
            commands += [
                ("XGROUP", "CREATECONSUMER", self._key, group.name, name)
                for name in group.consumers
            ]
        if not stream.groups:
            name = b"rumpx"
            commands.append(("XGROUP", "CREATE", self._key, name, "0", "MKSTREAM"))
            commands.append(("XGROUP", "DESTROY", self._key, name))
        return commands

    def _claim(self, pending: list[Pending]) -> list[Command]:
        alike: defaultdict[tuple[bytes, bytes, int, int], list[bytes]] = defaultdict(list)
        for one in pending:
            alike[one.group, one.consumer, one.instant, one.deliveries].append(one.entry)
        commands: list[Command] = []
        for (group, consumer, instant, deliveries), ids in alike.items():
            claim: list[Argument] = ["XCLAIM", self._key, group, consumer, 0, *ids]
            state = instant, "RETRYCOUNT", deliveries
            commands.append([*claim, "TIME", *state, "FORCE", "JUSTID"])
        return commands

    def _remove(self, part: Part, missing: list[bytes]) -> Command:
        """Return the command that removes placeholders. Those that precede all entries were trimmed
        on the source: XTRIM leaves the greatest deleted id as it is."""
        assert self._stream
        first = number_of(part.entries[0][0]) if part.entries else 2**128
        last = number_of(missing[-1])
        trimmed = self._stream.max_deleted == b"0-0" and not self.written and last < first
        if trimmed:
            after = b"%d-%d" % divmod(last + 1, 2**64)
            return "XTRIM", self._key, "MINID", after
        return "XDEL", self._key, *missing

    def finish(self) -> list[Command]:
        """Return the commands after all parts."""
        stream = self._stream
        if not stream:
            return []
        last: list[Argument] = ["XSETID", self._key, stream.last_id]
        if not self._counters:
            return [last]
        added = stream.length if stream.added is None else stream.added
        last += ["ENTRIESADDED", added, "MAXDELETEDID", stream.max_deleted or b"0-0"]
        commands: list[Command] = [last]
        for group in stream.groups:
            if group.entries_read is not None:
                place = self._key, group.name, group.last_id
                commands.append(("XGROUP", "SETID", *place, "ENTRIESREAD", group.entries_read))
        return commands


def trial_writes(kind: bytes, key: bytes) -> list[Command]:
    """Return each command that writes values of a type in pieces. They must not be executed."""
    if kind == STRING:
        return [("STRLEN", key), ("SET", key, b"", "XX", "PX", 1)]
    writer = TypedWriter(
        kind, key, shift=0, field_expiries=True, latest=None, drops=False, counters=True
    )
    commands = [writer.counter]
    if kind != b"stream":
        return commands + writer.put(Part([b"0", b"-0"], 0, [_FAR_MS, NO_EXPIRY]))
    name, entry = b"rumpx", b"1-0"
    group = Group(name, entry, 0, (name,), 1)
    pending = [Pending(name, entry, name, 1, 1)]
    for groups, deleted in ((), b"0-0"), ((group,), b"0-0"), ((group,), entry):
        facts = StreamFacts(entry, 1, deleted, 1, groups)
        commands += writer.put(Part([], 0, pending=pending if groups else [], stream=facts))
    return commands + writer.finish()
