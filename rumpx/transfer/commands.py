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

from rumpx.errors import ConnectionLost, unusable
from rumpx.model.endpoint import Address
from rumpx.servers.connections import Links
from rumpx.servers.replies import Kind, classify, explain_refusal, malformed
from rumpx.servers.resp import ASKING, Connection, Reply
from rumpx.servers.topology import is_error
from rumpx.transfer.chunks import Intake
from rumpx.transfer.retry import Patience
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.suspects import Lost, Suspects, refusal
from rumpx.values.shapes import fits


@dataclass(slots=True)
class _Sent:
    keys: list[bytes]
    node: Address | None
    connection: Connection
    asking: bool


@dataclass(slots=True)
class _Round:
    """The result of asking for some keys once. `asked` names the node that was asked after ASKING,
    and `ask` the node to ask next in that way; `waits` and `complaint` as in Unsettled."""

    asked: dict[bytes, Address]
    answers: dict[bytes, Reply] = field(default_factory=dict)
    again: list[bytes] = field(default_factory=list)
    ask: dict[bytes, Address] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    waits: bool = False
    complaint: str = ""


class Calls:
    """Asks one side.

    Args:
        links: connections to it.
        retry_for: seconds of trouble after which the run gives up.
        intake: decides when a key may be asked for alone.
    """

    def __init__(self, links: Links, retry_for: float, intake: Intake) -> None:
        self.links = links
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
        patience = Patience(self._retry_for, (self.links,))
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
                if came.answers:
                    self.links.serves()
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
                if (yield from patience.until_well(self.links, lost)):
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
        came = _Round({key: asked.pop(key) for key in keys if key in asked})
        sent = self._send(command, db, keys, came)
        outcomes = yield [
            Replies(part.connection, len(part.keys) * (2 if part.asking else 1)) for part in sent
        ]
        for part, outcome in zip(sent, outcomes, strict=True):
            if not isinstance(outcome, list):
                self._lost(part.keys, part.node, outcome, came)
                continue
            replies = outcome[1::2] if part.asking else outcome
            if not all(is_error(reply) or fits(name, reply) for reply in replies):
                raise malformed(self.links.side, part.connection.name, name)
            if hiredis.ReplyError not in set(map(type, replies)):
                came.answers.update(zip(part.keys, replies, strict=True))
                continue
            for key, reply in zip(part.keys, replies, strict=True):
                if is_error(reply) and self._again(key, reply, part, came):
                    continue
                if needed:
                    self._refuse(reply, part, name)
                came.answers[key] = reply
        return came

    def _send(
        self, command: Callable[[bytes], bytes], db: int, keys: list[bytes], came: _Round
    ) -> list[_Sent]:
        sent: list[_Sent] = []
        for node, group, asking in self._routes(keys, came.asked):
            try:
                connection = self.links.connect(node, db)
            except ConnectionLost as error:
                self._repeat(came, group, str(error))
                continue
            try:
                before = ASKING if asking else b""
                connection.send(b"".join([before + command(key) for key in group]))
                sent.append(_Sent(group, node, connection, asking))
            except ConnectionLost as error:
                self._lost(group, node, error, came)
        return sent

    def _lost(
        self, keys: list[bytes], node: Address | None, error: ConnectionLost, came: _Round
    ) -> None:
        if fatal := refusal(error, self.links.side):
            raise fatal
        came.lost.append(Lost(keys, self.links.side, node, error, {}, self.links.dialer.timeout))
        self._repeat(came, keys, str(error))

    def _repeat(self, came: _Round, keys: list[bytes], complaint: str) -> None:
        came.again += keys
        came.waits = True
        came.complaint = complaint

    def _routes(
        self, keys: list[bytes], asked: dict[bytes, Address]
    ) -> list[tuple[Address | None, list[bytes], bool]]:
        """Return (node, keys, after ASKING) for each request."""
        plain = [key for key in keys if key not in asked]
        parts: list[tuple[Address | None, list[bytes], bool]] = [
            (node, [plain[n] for n in positions], False)
            for node, positions in self.links.by_owner(plain).items()
        ]
        return parts + [(node, [key], True) for key, node in asked.items()]

    def _again(self, key: bytes, reply: Reply, part: _Sent, came: _Round) -> bool:
        """Return True if the key must be asked for again, and note it."""
        name = part.connection.name
        match classify(reply).kind:
            case Kind.MOVED | Kind.ASK:
                if not self.links.cluster:
                    raise self.links.redirected_alone(reply, name)
                self.links.redirected(key, reply, part.node, name, came)
                return True
            case Kind.TEMPORARY | Kind.FULL:
                if str(reply).startswith("READONLY"):
                    self.links.drop(part.node)
                self._repeat(came, [key], f"The {self.links.side} at {name} answered: {reply!s}.")
                return True
        return False

    def _refuse(self, reply: Reply, part: _Sent, name: str) -> None:
        if is_error(reply) and classify(reply).kind is Kind.PERMANENT:
            raise unusable(self.links.side)(
                f"The {self.links.side} at {part.connection.name} refused {name}: "
                f"{explain_refusal(reply, name)}."
            )
