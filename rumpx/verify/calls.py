"""One command for each of many keys, at whichever node serves it now, until each is answered.

What EXISTS, UNLINK and the digests need: a pipeline a node; redirections are followed, and trouble
is waited for, as `Patience` says. Error replies that are about a single key are its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import hiredis

from rumpx.copy.links import Links
from rumpx.copy.patience import Patience
from rumpx.copy.tasks import Replies, Task
from rumpx.errors import ConnectionLost, unusable
from rumpx.job import Address
from rumpx.servers.replies import Kind, classify, explain_refusal
from rumpx.servers.resp import ASKING, Connection, Reply
from rumpx.servers.topology import is_error


@dataclass(slots=True)
class _Sent:
    keys: list[bytes]
    node: Address | None
    connection: Connection
    asking: bool


class Calls:
    """Asks one side.

    Args:
        links: connections to it.
        retry_for: seconds of trouble after which the run gives up.
    """

    def __init__(self, links: Links, retry_for: float) -> None:
        self.links = links
        self._retry_for = retry_for

    def each(
        self,
        command: Callable[[bytes], bytes],
        name: str,
        db: int,
        keys: Sequence[bytes],
        *,
        needed: bool = True,
    ) -> Task[dict[bytes, Reply]]:
        """The reply to a command for each key; a task.

        Args:
            command: makes the command's bytes for a key.
            name: of the command, for messages.
            needed: whether the run ends if the command is refused; else the refusal is the answer.

        Raises:
            TemporaryError: nothing was answered for `retry_for` seconds.
            SourceUnusable, TargetUnusable: the command is refused for every key.
        """
        answers: dict[bytes, Reply] = {}
        asked: dict[bytes, Address] = {}
        patience = Patience(self._retry_for, (self.links,))
        left = list(keys)
        while True:
            again: list[bytes] = []
            sent, complaint = self._send(command, db, left, asked, again)
            asked = {}
            outcomes = yield [
                Replies(part.connection, len(part.keys) * (2 if part.asking else 1))
                for part in sent
            ]
            for part, outcome in zip(sent, outcomes, strict=True):
                if isinstance(outcome, ConnectionLost) or outcome is None:
                    again += part.keys
                    complaint = str(outcome)
                    continue
                replies = outcome[1::2] if part.asking else outcome
                if hiredis.ReplyError not in set(map(type, replies)):
                    answers.update(zip(part.keys, replies, strict=True))
                    continue
                for key, reply in zip(part.keys, replies, strict=True):
                    if is_error(reply) and self._again(key, reply, part, asked):
                        again.append(key)
                        if classify(reply).kind is Kind.TEMPORARY:
                            complaint = f"The {self.links.side} answered: {reply!s}."
                    else:
                        if needed:
                            self._refuse(reply, part, name)
                        answers[key] = reply
            if not again:
                return answers
            if len(again) < len(left):
                patience.succeeded()
            yield from patience.before_next_try(trouble=bool(complaint), complaint=complaint)
            left = again

    def _send(
        self,
        command: Callable[[bytes], bytes],
        db: int,
        keys: list[bytes],
        asked: dict[bytes, Address],
        again: list[bytes],
    ) -> tuple[list[_Sent], str]:
        sent: list[_Sent] = []
        complaint = ""
        for node, group, asking in self._routes(keys, asked):
            try:
                connection = self.links.connect(node, db)
                before = ASKING if asking else b""
                connection.send(b"".join([before + command(key) for key in group]))
                sent.append(_Sent(group, node, connection, asking))
            except ConnectionLost as error:
                again += group
                complaint = str(error)
        return sent, complaint

    def _routes(
        self, keys: list[bytes], asked: dict[bytes, Address]
    ) -> list[tuple[Address | None, list[bytes], bool]]:
        """(node, keys, whether after ASKING)."""
        plain = [key for key in keys if key not in asked]
        parts: list[tuple[Address | None, list[bytes], bool]] = [
            (node, [plain[n] for n in positions], False)
            for node, positions in self.links.by_owner(plain).items()
        ]
        return parts + [(node, [key], True) for key, node in asked.items()]

    def _again(
        self, key: bytes, reply: Reply, part: _Sent, asked: dict[bytes, Address]
    ) -> bool:
        """Whether the key is to be asked for again."""
        match classify(reply).kind:
            case Kind.MOVED:
                self.links.moved(key, reply, part.node)
                return True
            case Kind.ASK:
                asked[key] = self.links.announced(reply, part.node)
                return True
            case Kind.TEMPORARY | Kind.FULL:
                if str(reply).startswith("READONLY"):
                    self.links.drop(part.node)
                return True
        return False

    def _refuse(self, reply: Reply, part: _Sent, name: str) -> None:
        if is_error(reply) and classify(reply).kind is Kind.PERMANENT:
            raise unusable(self.links.side)(
                f"The {self.links.side} at {part.connection.name} refused {name}: "
                f"{explain_refusal(reply, name)}."
            )
