"""The end of a streamed value: its expiry is read, and its staging key takes its name.

    source   MULTI · PEXPIRETIME · EXEC        refused if the key has been written since WATCH
    target   WATCH staging · its length · MULTI · UNLINK key · PEXPIREAT or PERSIST staging ·
             RENAME staging key · EXEC

Without WATCH the old value could be lost: a staging key that is evicted or flushed just before
would leave UNLINK without RENAME. UNLINK comes first, since RENAME frees the old value in line on
Redis. Under a policy without REPLACE there is no UNLINK, and RENAMENX.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Literal

from rumpx.errors import ConnectionLost, RumpxError
from rumpx.servers.info import milliseconds
from rumpx.servers.replies import malformed
from rumpx.servers.resp import ASKING, EXEC, MULTI, NO_EXPIRY, Command, encode
from rumpx.servers.topology import is_error
from rumpx.transfer.handler import Again
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.stream_requests import Requests, StagingLost, Try, Unsettled, naming
from rumpx.values.reading import ValueChanged
from rumpx.values.shapes import fits
from rumpx.values.typed_writer import TypedWriter

NO_KEY: Final = "ERR no such key"
# Nodes that are asked to delete a staging key whose slot moves.
_REDIRECTIONS: Final = 4
_GONE: Final = -2

Outcome = Literal["copied", "busy", "gone"]


@dataclass(frozen=True, slots=True)
class Expiry:
    """An expiry: ms since 1970, NO_EXPIRY, or, if `left`, the ms left."""

    at: int
    left: bool = False


class Ending:
    """Ends tries.

    Args:
        requests: of the tries.
        way: how the source's expiries are read (`dump_reader`).
        replace: existing keys are replaced; else they are `busy`.
        shift: ms to add to each instant.
        clock_offset: the target's clock minus ours, ms; None where unknown.
    """

    def __init__(
        self,
        requests: Requests,
        way: Literal["instant", "clock", "left"],
        *,
        replace: bool,
        shift: int,
        clock_offset: float | None,
    ) -> None:
        self._requests = requests
        self._way = way
        self._replaces = replace
        self._shift = shift
        self._clock_offset = clock_offset

    def expiry(self, one: Try) -> Task[Expiry]:
        """Return the key's expiry.

        Raises:
            ValueChanged: the key has been written since it was watched.
        """
        requests = self._requests
        ways = {"instant": ("PEXPIRETIME",), "clock": ("PTTL", "TIME"), "left": ("PTTL",)}
        commands: list[Command] = [
            (name, one.key) if name != "TIME" else (name,) for name in ways[self._way]
        ]
        data = MULTI + b"".join([encode(*command) for command in commands]) + EXEC
        wait = requests.send_raw(one, requests.source, data, len(commands) + 2)
        (outcome,) = yield [wait]
        replies = requests.outcome(one, requests.source, outcome)
        requests.no_errors(one, requests.source, replies)
        last = replies[-1]
        if last is None:
            raise ValueChanged
        if not isinstance(last, list) or len(last) != len(commands):
            raise malformed("source", one.source.name, "EXEC")
        requests.no_errors(one, requests.source, last)
        expiry = last[0]
        if not isinstance(expiry, int) or expiry < _GONE:
            raise malformed("source", one.source.name, str(commands[0][0]))
        if expiry == _GONE:
            raise ValueChanged
        if self._way == "clock" and not fits("TIME", last[1]):
            raise malformed("source", one.source.name, "TIME")
        if self._way == "clock" and expiry >= 0:
            expiry += int(milliseconds(last[1]))
        return Expiry(expiry, self._way == "left")

    def is_past(self, expiry: Expiry) -> bool:
        """Return True if an expiry is known to be past on the target's clock."""
        known = expiry.at != NO_EXPIRY and not expiry.left
        return known and self._has_passed(expiry.at + self._shift)

    def _has_passed(self, instant: float) -> bool:
        offset = self._clock_offset
        return offset is not None and instant <= time.time() * 1000 + offset

    def swap(self, one: Try, writer: TypedWriter | None, expiry: Expiry) -> Task[Outcome]:
        """Give the value its name, and its expiry.

        Args:
            writer: None for a string.

        Raises:
            StagingLost: the staging key has vanished, or lost members.
        """
        if not (yield from self._is_whole(one, writer)):
            return "gone"
        commands = self._renaming(one, expiry)
        data = MULTI + b"".join([encode(*command) for command in commands]) + EXEC
        requests = self._requests
        replies = yield from requests.ask_target(one, data, len(commands) + 2)
        requests.no_errors(one, requests.target, replies)
        done = replies[-1]
        if done is None:
            raise StagingLost
        if not isinstance(done, list) or len(done) != len(commands):
            raise malformed("target", one.target.name, "EXEC")
        *others, renamed = done
        requests.no_errors(one, requests.target, others)
        if is_error(renamed):
            if not str(renamed).startswith(NO_KEY):
                raise requests.refusal(one, requests.target, "RENAME", renamed)
            if others[-1] == 1 and expiry.at != NO_EXPIRY:
                return "gone"  # the staging key was there, and its expiry was past
            raise StagingLost
        if renamed == 0 and not self._replaces:
            yield from self.abandon(one)
            return "busy"
        if renamed not in (b"OK", 1):
            raise malformed("target", one.target.name, "RENAME")
        return "copied"

    def _is_whole(self, one: Try, writer: TypedWriter | None) -> Task[bool]:
        """Watch the staging key; return False if all its members have expired."""
        staging, requests = one.staging, self._requests
        counter: Command = writer.counter if writer else ("STRLEN", staging)
        # UNWATCH: the key has been written since it was watched for the trial of commands.
        commands: list[Command] = [("UNWATCH",), ("WATCH", staging), ("EXISTS", staging), counter]
        ask = b"".join([encode(*command) for command in commands])
        replies = yield from requests.ask_target(one, ask, len(commands))
        requests.no_errors(one, requests.target, replies)
        *_, exists, length = replies
        if not (isinstance(exists, int) and isinstance(length, int)):
            raise malformed("target", one.target.name, "EXISTS or a length")
        if not exists and writer and self._has_passed(writer.last_instant):
            return False
        holds = writer.holds(length) if writer else length == one.payload
        if not exists or not holds:
            raise StagingLost
        return True

    def _renaming(self, one: Try, expiry: Expiry) -> list[Command]:
        staging, key, at = one.staging, one.key, expiry.at
        commands: list[Command] = [("UNLINK", key)] if self._replaces else []
        if at == NO_EXPIRY:
            commands.append(("PERSIST", staging))
        elif expiry.left:
            commands.append(("PEXPIRE", staging, max(1, at)))
        else:
            commands.append(("PEXPIREAT", staging, max(1, at + self._shift)))
        commands.append(naming(staging, key, replace=self._replaces))
        return commands

    def abandon(self, one: Try) -> Task[None]:
        """Delete the staging key, if it may exist. If that fails, its TTL ends it."""
        if not one.begun:
            return
        one.begun = False
        key, noted, unlink = one.staging, Again(), encode("UNLINK", one.staging)
        target = self._requests.target
        try:
            for _ in range(_REDIRECTIONS):
                asking = key in noted.ask
                node = noted.ask.pop(key) if asking else target.owner(key)
                connection = target.connect(key, node, one.db, noted)
                connection.send(ASKING + unlink if asking else unlink)
                (outcome,) = yield [Replies(connection, 1 + asking)]
                if isinstance(outcome, ConnectionLost) or not is_error(outcome[-1]):
                    return
                if not target.redirects(key, outcome[-1], node, connection, noted):
                    return
        except (RumpxError, Unsettled):
            return
