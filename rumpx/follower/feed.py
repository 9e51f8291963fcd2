"""The feed: a connection on which the source tells the names of the keys that change.

There are two *manners*:

- `TRACKING` uses client-side caching in its broadcasting mode, which a managed service allows where
  it refuses PSYNC: after `CLIENT TRACKING ON BCAST` the server sends the name of each key that is
  written, deleted, evicted or expires, in any database, in messages of their own (RESP3).
- `NOTIFICATIONS` subscribes to keyspace notifications, where the server has them switched on.
  Modules need not send any, and FLUSHALL sends none.

1. *Attach*: HELLO 3, CLIENT TRACKING ON BCAST [PREFIX …], SUBSCRIBE; or PSUBSCRIBE alone. The
   subscription makes the server treat the connection as one of pub/sub, and close it when it is
   read too slowly; without it the server would buffer its messages without a limit.
2. A thread receives the messages and hands the names on. A message of TRACKING without names says
   that all keys may have changed (FLUSHALL, a reload).
3. It asks PING, one at a time, each second. The server answers *some time after* it has sent the
   names of earlier writes, but with I/O threads not always before: a write can be acknowledged
   before its name is sent, and then a PING may be answered before that name. The second PONG is
   behind it. So PONG number n proves that all writes that were acknowledged before PING n - 1 was
   sent have been received. `proven` is that moment.
4. Each ten seconds it asks whether the server still tracks (whether it still notifies, `watch`
   asks). A PING that is not answered in time, an answer that says no, or the end of the connection
   end the feed, which is told once. A server that is busy with a script, or loads its data,
   answers PING with an error: that proves nothing, and ends nothing.

Not promised: names in the order of the changes; one message for each change. Consumer groups,
SWAPDB and functions are not reported: `watch` finds these. A proxy that shards behind one address
may report a part only.

Sources: https://valkey.io/topics/client-side-caching/ and …/notifications/; of rule 3, the order of
`beforeSleep` in the servers' server.c (replies of I/O threads leave after the broadcast of the
*next* cycle).
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import hiredis

from rumpx.errors import ConnectionLost
from rumpx.model.job import Scope
from rumpx.servers.dial import Dialer
from rumpx.servers.replies import Kind, cannot_save, classify, without_arguments
from rumpx.servers.resp import RECEIVE_BYTES, Command, encode

CHANNEL: Final = "rumpx:follow"
PATTERN: Final = "__keyspace@*__:*"
_PING_SECONDS: Final = 1.0
_INFO_SECONDS: Final = 10.0
# Its thread ends at once, unless it is kept from the CPU.
_END_SECONDS: Final = 5.0
_PING: Final = encode("PING")
# As a subscriber is answered in RESP2, too.
_PONGS: Final = (b"PONG", [b"pong", b""])
# The parser's result for an incomplete message.
_NOTHING: Final = object()
# Errors of invalid bytes and messages; TypeError also for a map whose names are lists.
_UNPARSED: Final = (hiredis.ProtocolError, TypeError, LookupError)
_SPECIAL: Final = frozenset(b"*?[\\")


class FeedRefused(Exception):
    """The source does not allow a feed; the message says which command it answered how."""


@dataclass(frozen=True, slots=True)
class FeedEnded:
    """A feed has ended, so that events may be lost; `why` is a clause, `process` the run_id of the
    server to which it led."""

    why: str
    process: str


@dataclass(frozen=True, slots=True)
class Flushed:
    """All keys may have changed: a database was emptied, or the data was loaded anew."""


def prefixes(scope: Scope) -> tuple[bytes, ...]:
    """Return the least prefixes that all keys in scope have: none if a key may have any name.

    >>> prefixes(Scope(match=(b"user:*", b"user:7:*", b"cart:[0-9]*")))
    (b'cart:', b'user:')
    """
    literal = {_literal(glob) for glob in scope.match}
    if not literal or b"" in literal:
        return ()
    shortest: list[bytes] = []
    for prefix in sorted(literal):
        if not shortest or not prefix.startswith(shortest[-1]):
            shortest.append(prefix)
    return tuple(shortest)


def _literal(glob: bytes) -> bytes:
    """Return the bytes before a glob's first special one."""
    end = next((n for n, byte in enumerate(glob) if byte in _SPECIAL), len(glob))
    return glob[:end]


class Manner(NamedTuple):
    """A way in which a server tells.

    Attributes:
        commands: attach a feed, in order, by the scope.
        names: returns the names in a message of the server: None for all keys, () for none.
        question: is asked now and then; b"" for none.
    """

    commands: Callable[[Scope], list[Command]]
    names: Callable[[list[Any]], Sequence[bytes] | None]
    question: bytes = b""


def _tracking(scope: Scope) -> list[Command]:
    wanted = [word for prefix in prefixes(scope) for word in (b"PREFIX", prefix)]
    return [
        ("HELLO", 3),
        ("CLIENT", "TRACKING", "ON", "BCAST", *wanted),
        ("SUBSCRIBE", CHANNEL),
    ]


def _invalidated(message: list[Any]) -> Sequence[bytes] | None:
    """Read `invalidate`, and the names."""
    found: Sequence[bytes] | None = message[1] if message[0] == b"invalidate" else ()
    return found


def _notified(message: list[Any]) -> Sequence[bytes]:
    """Read `pmessage`, the pattern, `__keyspace@0__:KEY`, and the event."""
    return (message[2].partition(b"__:")[2],) if message[0] == b"pmessage" else ()


TRACKING: Final = Manner(_tracking, _invalidated, encode("CLIENT", "TRACKINGINFO"))
NOTIFICATIONS: Final = Manner(lambda scope: [("PSUBSCRIBE", PATTERN)], _notified)
# Messages that answer a command.
_REPLIES: Final = (b"subscribe", b"psubscribe", b"pong")


class Feed:
    """A feed that is attached.

    Args:
        manner: in which the server tells.
        dialer: of the source, without a writer's name; `identifies`.
        name: of the connection at the server.
        scope: the keys of which changes are wanted.
        take: receives the names, in the feed's thread.
        tell: receives its end and other events, in the feed's thread, once it has started.

    Attributes:
        process: the `run_id` of the server; "" if it does not tell.
        proven: the `time.monotonic()` before which all acknowledged writes have been received.

    Raises:
        FeedRefused: the source does not allow it.
        ConnectionLost, SourceUnusable: as `Dialer.connect`.
    """

    def __init__(
        self,
        manner: Manner,
        dialer: Dialer,
        name: str,
        scope: Scope,
        take: Callable[[list[bytes]], None],
        tell: Callable[[FeedEnded | Flushed], None],
    ) -> None:
        connection = dialer.connect()
        self._manner = manner
        self.process = connection.process
        self.proven = -1.0
        self._name = connection.name
        self._timeout = dialer.timeout
        self._take = take
        self._tell = tell
        self._parser: Any = hiredis.Reader(notEnoughData=_NOTHING)
        self._names: list[bytes] = []
        self._flushed = False
        self._asked_at = -1.0  # of the PING before the one under way
        self._ping_at = -1.0  # of the PING under way; negative if there is none
        self._next_ping = 0.0
        self._owed: deque[bytes] = deque()  # commands that are not answered yet
        self._wanted = -1.0
        self._closing = False
        self._sock = connection.detach()
        self._wakes, self._waker = socket.socketpair()
        try:
            self._attach([("CLIENT", "SETNAME", name), *manner.commands(scope)])
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Start to hand on names."""
        self._thread.start()

    def close(self) -> None:
        """End the feed, without telling: no name is handed on afterwards."""
        self._closing = True
        if self._thread.ident is None:
            self._close()
        else:
            self._wake()
            self._thread.join(_END_SECONDS)

    def prove(self, moment: float) -> None:
        """Have `proven` reach a moment soon."""
        self._wanted = max(self._wanted, moment)
        self._wake()

    def silent_for(self, now: float) -> float:
        """Return the seconds for which the server has not answered a PING; 0.0 if none is open."""
        return max(0.0, now - self._ping_at) if self._ping_at >= 0 else 0.0

    # Attaching.

    def _attach(self, wanted: Sequence[Command]) -> None:
        """Send the commands, and take their replies; names may come between them."""
        try:
            self._sock.sendall(b"".join(encode(*command) for command in wanted))
            replies: list[Any] = []
            while len(replies) < len(wanted):
                replies += self._received(self._sock.recv(RECEIVE_BYTES))
        except OSError as error:
            raise self._lost(error) from None
        for command, reply in zip(wanted, replies, strict=False):
            if isinstance(reply, hiredis.ReplyError):
                if classify(reply).kind is Kind.TEMPORARY:
                    raise ConnectionLost(f"The source at {self._name} answered: {reply}.")
                words = " ".join(str(word) for word in command[:2] if isinstance(word, str))
                raise FeedRefused(f"it answers {words} with: {without_arguments(reply)}")
        greeted = dict(zip(wanted, replies, strict=False)).get(("HELLO", 3), {})
        if not isinstance(greeted, dict):
            raise FeedRefused("it answers HELLO 3 with something else than its protocol says")

    def _lost(self, error: OSError) -> ConnectionLost:
        what = "no answer in time" if _is_silence(error) else error.strerror or str(error)
        return ConnectionLost(f"The connection to {self._name} was lost: {what}.")

    # The thread.

    def _run(self) -> None:
        why = ""
        try:
            why = self._watch()
        except OSError as error:
            why = error.strerror or str(error)
        except _UNPARSED:
            why = "the server sent something else than its protocol says"
        finally:
            self._close()
            if not self._closing:
                self._tell(FeedEnded(why, self.process))

    def _close(self) -> None:
        for each in (self._sock, self._wakes, self._waker):
            each.close()

    def _wake(self) -> None:
        try:
            self._waker.send(b"!", socket.MSG_DONTWAIT)
        except OSError:
            return  # it will wake anyway, or has ended

    def _watch(self) -> str:
        """Receive until the feed ends; return the reason."""
        info_at = time.monotonic() + _INFO_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            selector.register(self._wakes, selectors.EVENT_READ)
            while not self._closing:
                now = time.monotonic()
                if now >= info_at:
                    info_at = now + _INFO_SECONDS
                    if self._manner.question:
                        self._send(self._manner.question)
                due = self._ask(now)
                if self.silent_for(now) > self._timeout:
                    return f"it did not answer for {self._timeout:g} s"
                self._hand_on()
                pending = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()
                ready = selector.select(0 if pending else max(0.0, due - now))
                if any(key.fileobj is self._wakes for key, _ in ready):
                    self._wakes.recv(4096)
                if not pending and all(key.fileobj is not self._sock for key, _ in ready):
                    continue
                data = self._sock.recv(RECEIVE_BYTES)
                if not data:
                    return "the server closed the connection"
                replies = self._received(data)
                self._hand_on()  # first: an answer proves that these have been handed on
                for reply in replies:
                    if complaint := self._answered(reply):
                        return complaint
        return ""

    def _ask(self, now: float) -> float:
        """Send a PING if one is due; return when the next question may be due."""
        if self._ping_at >= 0:
            return now + _PING_SECONDS
        due = now if self._wanted > self.proven else self._asked_at + _PING_SECONDS
        due = max(due, self._next_ping)
        if due > now:
            return due
        self._ping_at = now
        self._send(_PING)
        return now + _PING_SECONDS

    def _send(self, command: bytes) -> None:
        self._owed.append(command)
        self._sock.sendall(command)

    def _answered(self, reply: object) -> str:
        """Take a reply; return why the feed must end, or ""."""
        if self._owed.popleft() == _PING:
            return self._ponged(reply)
        if isinstance(reply, hiredis.ReplyError):
            return _complaint(reply)
        flags = reply.get(b"flags", ()) if isinstance(reply, dict) else ()
        if b"on" in flags and b"bcast" in flags:
            return ""
        return "the server does not track keys for it any more"

    def _ponged(self, reply: object) -> str:
        """Take the reply to a PING, likewise."""
        asked_at, self._ping_at = self._ping_at, -1.0
        if reply in _PONGS or cannot_save(reply):
            # All that the server had to tell before it has read this PING is here, but for what
            # it acknowledged in the meantime: see the module's docstring.
            self.proven, self._asked_at = self._asked_at, asked_at
            return ""
        self._next_ping = asked_at + _PING_SECONDS
        return _complaint(reply)

    def _received(self, data: bytes) -> list[Any]:
        """Parse bytes; collect names, and return the replies.

        Raises:
            OSError: there are no bytes.
        """
        if not data:
            raise OSError("the server closed the connection")
        parser, names, replies = self._parser, self._names, []
        names_of = self._manner.names
        parser.feed(data)
        while (message := parser.gets()) is not _NOTHING:
            if not isinstance(message, list) or message[0] in _REPLIES:
                replies.append(message)
            else:
                told = names_of(message)
                if told is None:
                    self._flushed = True
                else:
                    names += told
        return replies

    def _hand_on(self) -> None:
        """Hand on what has come."""
        if self._names:
            names, self._names = self._names, []
            self._take(names)
        if self._flushed:
            self._flushed = False
            self._tell(Flushed())


def _complaint(reply: object) -> str:
    """Return why a feed with this error must end, or "" if it will pass."""
    if isinstance(reply, hiredis.ReplyError) and classify(reply).kind is Kind.TEMPORARY:
        return ""
    return f"the server answered: {without_arguments(reply)}"


def _is_silence(error: OSError) -> bool:
    return isinstance(error, (TimeoutError, BlockingIOError))


def feed_name(mark: str) -> str:
    """Return the name of a job's feed at the source, by the job's mark."""
    return f"rumpx:{mark}:feed:{os.urandom(4).hex()}"
