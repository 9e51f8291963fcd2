"""One try to stream a value: its connections, its requests, and the meaning of each reply.

A reply that does not let the try go on is raised: `Unsettled` if the key was noted for a retry,
`ReadWhole` if it cannot be streamed, `Refused` if it has failed, `StagingLost`, `ValueChanged`. A
denial that every key would get, or a reply of a wrong shape, ends the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import Address
from rumpx.servers.connections import Links
from rumpx.servers.replies import (
    Kind,
    classify,
    denial,
    key_refused,
    malformed,
    out_of_memory,
    refused,
    without_arguments,
)
from rumpx.servers.resp import EXEC, MULTI, Command, Connection, Reply, encode
from rumpx.servers.topology import is_error
from rumpx.transfer.handler import Again, Read, Wanted, Written
from rumpx.transfer.peer import Peer
from rumpx.transfer.runner import Permit, Replies, Task
from rumpx.transfer.staging import TTL_MS
from rumpx.values.chunked_reader import OPTIONAL
from rumpx.values.reading import CHANGED, CONTAINERS, ValueChanged
from rumpx.values.shapes import fits


def watching(key: bytes) -> list[Command]:
    """Return the source's commands before a value is read."""
    return [("UNWATCH",), ("WATCH", key), ("TYPE", key), ("PTTL", key)]


def staging_trials(staging: bytes) -> list[Command]:
    """Return the target's commands for a staging key of any type; they change nothing if it does
    not exist."""
    return [
        ("UNWATCH",),
        ("WATCH", staging),
        ("UNLINK", staging),
        ("PEXPIRE", staging, TTL_MS),
        ("PERSIST", staging),
        ("PEXPIREAT", staging, 1),
    ]


def naming(staging: bytes, key: bytes, *, replace: bool) -> Command:
    """Return the command that gives a staging key its real name."""
    return ("RENAME" if replace else "RENAMENX"), staging, key


@dataclass(slots=True)
class Streamed:
    """The result for one key.

    Attributes:
        whole: nothing was written; read the key whole.
        chunks: those that were written, in all tries.
        tries: the number of these.
    """

    read: Read = field(default_factory=Read)
    written: Written = field(default_factory=Written)
    whole: bool = False
    chunks: int = 0
    tries: int = 0


class Draining(Exception):
    """The run ends; the value was given up, and the key is unsettled."""


class ReadWhole(Exception):
    """The key cannot be streamed; its argument says why."""


class Unsettled(Exception):
    """The key was noted in Read or Written."""


class StagingLost(Exception):
    """The staging key has vanished, or lost members."""


class Refused(Exception):
    """A reply that fails the key: words, reason."""


class Side(Peer):
    """One side; `noted` collects what a key needs before it is asked for again."""

    def owner(self, key: bytes) -> Address | None:
        """See `Links.owner`."""
        return self._links.owner(key)

    @property
    def name(self) -> str:
        """The side as the user gave it, for messages."""
        return str(self._links.dialer.endpoint)

    @property
    def routes(self) -> bool:
        """See `Links.routes`."""
        return self._links.routes

    @property
    def unended(self) -> bool:
        """See `Links.unended`."""
        return self._links.unended

    def connect(self, key: bytes, node: Address | None, db: int, noted: Again) -> Connection:
        """Return the connection to a node."""
        try:
            return self._links.connect(node, db)
        except ConnectionLost as error:
            noted.repeat([key], str(error))
            raise Unsettled from None

    def lost(
        self, key: bytes, node: Address | None, error: ConnectionLost, size: int, noted: Again
    ) -> Unsettled:
        """Note a key whose connection was lost."""
        written = self.side == "target"
        self._lost([key], node, error, {key: size}, noted, written=written)
        return Unsettled()

    def judge(
        self,
        key: bytes,
        command: str,
        error: Reply,
        node: Address | None,
        connection: Connection,
        noted: Again,
    ) -> Exception:
        """Return the exception for an error reply to a command about a key."""
        verdict = classify(error)
        at, words = f"The {self.side} at {connection.name}", without_arguments(error)
        if str(error).startswith("CROSSSLOT"):
            return ReadWhole(f"{at} shards behind one address ({words})")
        # ASK: the slot is in migration. A value whose staging key is on one node and whose own key
        # is on another cannot be streamed, so it is tried again until the slot has moved.
        asked = verdict.kind is Kind.ASK and self._links.cluster
        if asked or verdict.kind is Kind.ABORTED:
            noted.repeat([key], self._complaint(error, connection))
            return Unsettled()
        if self._passes(key, error, verdict, node, connection, noted):
            return Unsettled()
        if refused(error) or key_refused(error):
            return ReadWhole(f"{at} refuses {command} ({words})")
        if verdict.kind is Kind.PERMANENT:
            return denial(self.side, connection.name, "a command of a streamed value", error)
        return Refused(words, verdict.reason)

    def redirects(
        self, key: bytes, error: Reply, node: Address | None, connection: Connection, noted: Again
    ) -> bool:
        """Note the node that a redirection names; return False for any other error."""
        verdict = classify(error)
        redirected = verdict.kind in (Kind.MOVED, Kind.ASK)
        return redirected and self._passes(key, error, verdict, node, connection, noted)

    def serves(self) -> None:
        """See `Links.serves`."""
        self._links.serves()


@dataclass(slots=True)
class Try:
    """One try to stream one key; `node` is the source's, `owner` the target's. `source` and
    `target` are the connections for the whole try: WATCH ends with its connection, so a closed one
    is never replaced within a try."""

    wanted: Wanted
    key: bytes
    size: int
    db: int
    permit: Permit
    streamed: Streamed
    node: Address | None
    owner: Address | None
    source: Connection
    target: Connection
    staging: bytes
    begun: bool = False
    payload: int = 0
    guessed: int = 0
    field_expiries: bool = False
    limited: bool = False
    counters: bool = False


class Requests:
    """Sends the requests of tries, and takes their replies.

    Args:
        source, target: connections that are used for nothing else.
    """

    def __init__(self, source: Links, target: Links) -> None:
        self.source = Side(source)
        self.target = Side(target)

    def read(self, one: Try, commands: Sequence[Command]) -> Task[list[Any]]:
        """Return the source's replies."""
        wait = self.send_source(one, commands)
        (outcome,) = yield [wait]
        return self.source_replies(one, commands, wait, outcome)

    def send_source(self, one: Try, commands: Sequence[Command]) -> Replies:
        data = b"".join([encode(*command) for command in commands])
        return self.send_raw(one, self.source, data, len(commands))

    def source_replies(
        self,
        one: Try,
        commands: Sequence[Command],
        wait: Replies,
        outcome: object,
    ) -> list[Any]:
        """Return replies, each of its command's shape, or None for an OPTIONAL one's absence."""
        replies = self.outcome(one, self.source, outcome)
        came: list[Any] = []
        for command, reply in zip(commands, replies, strict=True):
            name = str(command[0])
            if is_error(reply):
                if str(reply).startswith(CHANGED):
                    raise ValueChanged
                unknown = "unknown command" in str(reply).lower()
                if not (unknown and name in OPTIONAL):
                    raise self.refusal(one, self.source, name, reply)
                came.append(None)
                continue
            if name in CONTAINERS:
                name = f"{name} {command[1]!s}"
            if not fits(name, reply):
                raise malformed("source", one.source.name, name)
            came.append(reply)
        return came

    def write(self, one: Try, commands: list[bytes]) -> Task[list[Any]]:
        """Write a chunk of commands to the staging key; return their replies."""
        wait = self.send_chunk(one, commands)
        (outcome,) = yield [wait]
        return self.chunk_replies(one, wait, outcome, len(commands))

    def send_chunk(self, one: Try, commands: list[bytes]) -> Replies:
        """Send commands in a transaction that also asks whether the staging key exists, and renews
        its TTL."""
        exists, ttl = encode("EXISTS", one.staging), encode("PEXPIRE", one.staging, TTL_MS)
        data = b"".join([MULTI, exists, *commands, ttl, EXEC])
        return self.send_raw(one, self.target, data, len(commands) + 4)

    def chunk_replies(
        self, one: Try, wait: Replies, outcome: object, number: int
    ) -> list[Any]:
        begun, one.begun = one.begun, True
        replies = self.outcome(one, self.target, outcome)
        self.no_errors(one, self.target, replies)
        done = replies[-1]
        if not isinstance(done, list) or len(done) != number + 2:
            raise malformed("target", one.target.name, "EXEC")
        self.no_errors(one, self.target, done)
        if done[0] != int(begun):
            raise StagingLost
        one.streamed.chunks += 1
        return done[1:-1]

    def ask_target(self, one: Try, data: bytes, number: int) -> Task[list[Any]]:
        """Return the target's replies; errors too."""
        wait = self.send_raw(one, self.target, data, number)
        (outcome,) = yield [wait]
        return self.outcome(one, self.target, outcome)

    def send_raw(self, one: Try, side: Side, data: bytes, number: int) -> Replies:
        connection = self._connection(one, side)
        try:
            connection.send(data)
        except ConnectionLost as error:
            raise self.lost(one, side, error) from None
        return Replies(connection, number)

    def outcome(self, one: Try, side: Side, outcome: object) -> list[Any]:
        if isinstance(outcome, ConnectionLost):
            raise self.lost(one, side, outcome)
        assert isinstance(outcome, list)
        return outcome

    def lost(self, one: Try, side: Side, error: ConnectionLost) -> Unsettled:
        noted = self._noted(one, side)
        return side.lost(one.key, self._place(one, side), error, one.size, noted)

    def _noted(self, one: Try, side: Side) -> Again:
        return one.streamed.read if side is self.source else one.streamed.written

    def _connection(self, one: Try, side: Side) -> Connection:
        return one.source if side is self.source else one.target

    def _place(self, one: Try, side: Side) -> Address | None:
        return one.node if side is self.source else one.owner

    def no_errors(self, one: Try, side: Side, replies: Sequence[Any]) -> None:
        """Raise for the first error among replies."""
        for reply in replies:
            if is_error(reply):
                raise self.refusal(one, side, "a command of its type", reply)

    def refusal(self, one: Try, side: Side, command: str, reply: Any) -> Exception:
        """Return the exception for an error reply, or an unexpected one."""
        noted, connection = self._noted(one, side), self._connection(one, side)
        if not is_error(reply):
            return malformed(side.side, connection.name, command)
        if "OOM" in str(reply)[:80] and side is self.target:
            noted.end(out_of_memory(connection.name, reply))
            return Unsettled()
        return side.judge(one.key, command, reply, self._place(one, side), connection, noted)
