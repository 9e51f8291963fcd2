"""One command for each of many keys, at the node that serves it now, until each is answered.

Used for EXISTS, UNLINK and the digests: one pipeline for each node; redirections are followed, and
trouble is retried as `Patience` says. An error reply about a single key is its answer. When keys
lose their connection repeatedly, the culprit is found (`suspects`); its answer is an error reply
too, made here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import hiredis

from rumpx.errors import ConnectionLost
from rumpx.model.endpoint import Address
from rumpx.servers.connections import Links
from rumpx.servers.replies import Kind, classify, denial, malformed
from rumpx.servers.resp import ASKING, Connection, Reply
from rumpx.servers.topology import is_error
from rumpx.transfer.chunks import Intake
from rumpx.transfer.handler import Again
from rumpx.transfer.peer import Peer
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.suspects import Lost, Suspects
from rumpx.values.shapes import fits


@dataclass(slots=True)
class _Sent:
    keys: list[bytes]
    node: Address | None
    connection: Connection
    asking: bool


@dataclass(slots=True)
class _Round(Again):
    """The result of asking for some keys once."""

    answers: dict[bytes, Reply] = field(default_factory=dict)


class Calls(Peer):
    """Asks one side.

    Args:
        links: connections to it.
        retry_for: seconds of trouble after which the run gives up.
        intake: decides when a key may be asked for alone.

    Attributes:
        side, name: the side, and its address as the user gave it, for messages.
    """

    def __init__(self, links: Links, retry_for: float, intake: Intake) -> None:
        super().__init__(links)
        self.name = str(links.dialer.endpoint)
        self._intake = intake
        self._retry_for = retry_for

    def each(
        self,
        command: Callable[[bytes], bytes],
        name: str,
        db: int,
        keys: Sequence[bytes],
        *,
        needed: bool = True,
        patient: bool = True,
    ) -> Task[dict[bytes, Reply]]:
        """Return the reply to a command for each key; a task.

        Args:
            command: makes the command's bytes for a key.
            name: of the command, which sets the shape of its replies; "" if it is not one command.
            needed: end the run if the command is refused; else the refusal is the answer.
            patient: ask again for keys whose connection is lost; else the loss is the answer.

        Raises:
            TemporaryError: nothing was answered for `retry_for` seconds.
            SourceUnusable, TargetUnusable: the command is refused for every key, or a reply does
                not fit it.
        """
        answers: dict[bytes, Reply] = {}
        patience = Patience(self._retry_for, (self,))
        suspects = Suspects()
        asked: dict[bytes, Address] = {}
        parts = [(list(keys), False)]
        while True:
            before = len(answers)
            again: list[bytes] = []
            blamed: list[tuple[Lost, bool]] = []
            waits, complaint = False, ""
            for part, alone in parts:
                permit = yield from self._intake.leave(alone=alone)
                try:
                    came = yield from self._try(command, name, db, part, asked, needed)
                finally:
                    self._intake.release(permit)
                answers |= came.answers
                again += came.again
                asked |= came.ask
                waits |= came.waits
                blamed += [(lost, alone) for lost in came.lost]
                complaint = came.complaint or complaint
            if not patient:
                for lost, _ in blamed:
                    answers |= dict.fromkeys(lost.keys, hiredis.ReplyError(str(lost.error)))
                again, blamed = [key for key in again if key not in answers], []
            if not again:
                return answers
            if len(answers) > before:
                patience.succeeded()
            yield from patience.before_next_try(trouble=waits, complaint=complaint)
            for lost, alone in blamed:
                if (yield from patience.until_well(self, lost)):
                    suspects.acquit()
                elif failure := suspects.blame(db, lost, alone=alone):
                    answers[failure.key] = hiredis.ReplyError(failure.message)
                    again.remove(failure.key)
            singled, others = suspects.take(again)
            parts = [(others, False)] * bool(others) + [(part, True) for part in singled]
            if not parts:
                return answers

    def _try(
        self,
        command: Callable[[bytes], bytes],
        name: str,
        db: int,
        keys: list[bytes],
        asked: dict[bytes, Address],
        needed: bool,
    ) -> Task[_Round]:
        """Ask for keys once; take them out of `asked`."""
        came = _Round()
        ask = {key: asked.pop(key) for key in keys if key in asked}
        sent = self._send(command, db, keys, ask, came)
        outcomes = yield [
            Replies(part.connection, len(part.keys) * (2 if part.asking else 1)) for part in sent
        ]
        for part, outcome in zip(sent, outcomes, strict=True):
            if not isinstance(outcome, list):
                self._lost(part.keys, part.node, outcome, {}, came)
                continue
            replies = outcome[1::2] if part.asking else outcome
            if not all(is_error(reply) or fits(name, reply) for reply in replies):
                raise malformed(self.side, part.connection.name, name)
            if hiredis.ReplyError not in set(map(type, replies)):
                came.answers.update(zip(part.keys, replies, strict=True))
                continue
            for key, reply in zip(part.keys, replies, strict=True):
                if is_error(reply) and self._again(key, reply, part, came):
                    continue
                if needed:
                    self._refuse(reply, part, name)
                came.answers[key] = reply
        if came.answers:
            self._links.serves()
        return came

    def _send(
        self,
        command: Callable[[bytes], bytes],
        db: int,
        keys: list[bytes],
        ask: dict[bytes, Address],
        came: _Round,
    ) -> list[_Sent]:
        sent: list[_Sent] = []
        for route, connection in self._connected(self._routes(keys, ask), db, keys, came):
            node, positions, asking = route
            group = [keys[n] for n in positions]
            try:
                before = ASKING if asking else b""
                connection.send(b"".join([before + command(key) for key in group]))
                sent.append(_Sent(group, node, connection, asking))
            except ConnectionLost as error:
                self._lost(group, node, error, {}, came)
        return sent

    def _again(self, key: bytes, reply: Reply, part: _Sent, came: _Round) -> bool:
        """Return True if the key must be asked for again, and note it."""
        verdict = classify(reply)
        if self._passes(key, reply, verdict, part.node, part.connection, came):
            return True
        if verdict.kind is not Kind.FULL:
            return False
        came.repeat([key], self._complaint(reply, part.connection))
        return True

    def _refuse(self, reply: Reply, part: _Sent, name: str) -> None:
        if is_error(reply) and classify(reply).kind is Kind.PERMANENT:
            raise denial(self.side, part.connection.name, name, reply)
