"""Copy one large value in chunks, so that neither server's other clients wait for it.

    source   WATCH key · chunk, chunk, … · MULTI · PEXPIRETIME · EXEC
    target   chunk, chunk, … to a staging key · WATCH staging · its length · MULTI · UNLINK key ·
             PEXPIREAT or PERSIST staging · RENAME staging key · EXEC

The source's EXEC is refused if anything has written the key since WATCH: its value, its expiry, or
that of a field. So the value that arrives, and its expiry, are those of one instant. The target's
old value stays until the new one takes its place, whole, in one transaction; that is not started
unless the staging key has all members that were written, and not executed if it changes meanwhile.
Under a policy without REPLACE the key is looked for first, and RENAMENX is used. A chunk is a
transaction too, so that no staging key is ever without its TTL (`staging`).

- The next chunk is read while the last one is written. Each takes its turn under the rates.
- A string is one SET: its length is announced, and its bytes follow as GETRANGE returns them.
- A value that is written meanwhile is given up and read again, TRIES times; then read whole if it
  has at most WHOLE_BYTES and `--hot-keys` allows, else it has failed.
- Types without a reader, and servers that refuse a command of this scheme: the key is read whole
  if it has at most WHOLE_BYTES, which is said once, else it has failed.
- Redirections, passing errors and lost connections are noted in Read and Written, for a retry.
- If the run ends, the value is given up between two chunks (`Draining`).

WATCH belongs to a connection, and any EXEC there ends it. So the connections are used for nothing
else, each try keeps the same two, and one value at a time is streamed by a worker; other batches
continue meanwhile.

Not promised: LRU and LFU data, encodings, a stream's consumers' seen-time and active-time. That a
single huge member is cut. That a value that never rests is copied.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final, Literal

from rumpx.errors import ConnectionLost, RumpxError
from rumpx.model.results import KeyFailure, KeyLoss
from rumpx.servers.connections import Links
from rumpx.servers.info import milliseconds
from rumpx.servers.rdb import head_of
from rumpx.servers.replies import (
    malformed,
    wrong_syntax,
)
from rumpx.servers.resp import (
    ASKING,
    EXEC,
    MULTI,
    NO_EXPIRY,
    Command,
    encode,
)
from rumpx.servers.topology import is_error
from rumpx.transfer.bridge import NO_FIELD_EXPIRIES
from rumpx.transfer.chunks import Chunk, Intake
from rumpx.transfer.content_stats import Scale
from rumpx.transfer.handler import Again, Wanted
from rumpx.transfer.messages import Streaming
from rumpx.transfer.runner import Pause, Permit, Replies, Task
from rumpx.transfer.staging import STAGING_LEFT_OUT, TTL_MS, staging_name, unfinished
from rumpx.transfer.stream_requests import (
    Draining,
    ReadWhole,
    Refused,
    Requests,
    StagingLost,
    Streamed,
    Try,
    Unsettled,
)
from rumpx.transfer.under_way import UnderWay
from rumpx.units import size as in_words
from rumpx.values.chunked_reader import (
    ChunkedReader,
    Part,
    UnfitReply,
    chunked_reader,
    string_windows,
)
from rumpx.values.reading import ValueChanged
from rumpx.values.rewrite import FIELD_EXPIRIES
from rumpx.values.shapes import fits
from rumpx.values.typed_writer import LATEST_MS, FieldsExpire, MembersLost, TypedWriter

TRIES: Final = 3
# Before each try.
_PAUSES: Final = (0.0, 0.5, 2.0)
WHOLE_BYTES: Final = 64 * 2**20
# While another value is streamed, look this often, in seconds.
_LOOK_SECONDS: Final = 0.05
_WINDOW_BYTES: Final = 128 * 2**10
_WINDOWS_AHEAD: Final = 2
# Nodes that are asked to delete a staging key whose slot moves.
_REDIRECTIONS: Final = 4
_GONE: Final = -2
_STRING: Final = b"string"
_NO_KEY: Final = "ERR no such key"

HotKeys = Literal["whole", "fail"]


class Streamer(Requests):
    """Copies large values.

    Args:
        source, target: connections that are used for nothing else.
        intake: grants turns, and says how large a chunk may be.
        expiry: how the source's expiries are read (`dump_reader`).
        replace: existing keys are replaced; else they are `busy`.
        shift: ms to add to each instant.
        clock_offset: the target's clock minus ours, ms; None where unknown.
        hot_keys: the policy for values that are written in each try.
        drops: a hash goes without its field expiries to a target that has none.
    """

    def __init__(
        self,
        source: Links,
        target: Links,
        intake: Intake,
        *,
        expiry: Literal["instant", "clock", "left"],
        replace: bool,
        shift: int,
        clock_offset: float | None,
        hot_keys: HotKeys,
        drops: bool,
    ) -> None:
        super().__init__(source, target)
        self._intake = intake
        self._expiry = expiry
        self._replaces = replace
        self._shift = shift
        self._clock_offset = clock_offset
        self._hot_keys = hot_keys
        self._drops = drops
        self._scale = Scale()
        self._busy = False
        self._under_way = UnderWay()
        self._notices: list[str] = []
        self._said: set[str] = set()

    @property
    def unended(self) -> bool:
        """True if the target did not end a lost connection, so that a write may come late."""
        return self._target.unended

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        taken, self._notices = self._notices, []
        return taken

    def take_streaming(self) -> Streaming | None:
        """Return the progress of a value, if it is time to show it."""
        return self._under_way.take()

    def close(self) -> None:
        """Close all connections; others are opened when they are needed."""
        self._source.close()
        self._target.close()

    def copy(self, wanted: Wanted, db: int, chunk: Chunk, permit: Permit) -> Task[Streamed]:
        """Stream the one key of a chunk; a task.

        Args:
            wanted: where to read it.
            db: the target's database.
            permit: of `Intake.stream_permit`.

        Raises:
            Draining: the run ends.
            SourceUnusable, TargetUnusable: a side will never serve us.
        """
        streamed = Streamed()
        while self._busy:
            yield Pause(_LOOK_SECONDS)
            if self._intake.hurries:
                raise Draining
        self._busy = True
        self._under_way.start()
        try:
            if wanted.by_slot:  # after trouble
                self._source.refresh()
                self._target.refresh()
            yield from self._tries(wanted, db, chunk, permit, streamed)
        finally:
            self._busy = False
        return streamed

    def _tries(
        self, wanted: Wanted, db: int, chunk: Chunk, permit: Permit, streamed: Streamed
    ) -> Task[None]:
        """Try until the value is copied, or must not be tried again now."""
        (key,), (size,) = chunk.keys, chunk.estimates
        why = ""
        for pause in _PAUSES:
            if pause:
                yield Pause(pause)
            try:
                one = self._start(wanted, key, size, db, permit, streamed)
                yield from self._once(one)
                return
            except Unsettled:
                return
            except ReadWhole as error:
                self._read_whole(wanted.db, key, size, str(error), streamed)
                return
            except ValueChanged:
                why = "changes"
            except (StagingLost, MembersLost):
                why = "staging"
            except UnfitReply as error:
                raise malformed("source", self._source.name, str(error)) from None
            except FieldsExpire:
                streamed.read.failures.append(
                    KeyFailure(wanted.db, key, FIELD_EXPIRIES, NO_FIELD_EXPIRIES)
                )
                return
            except Refused as error:
                words, reason = error.args
                streamed.read.failures.append(KeyFailure(wanted.db, key, reason, words))
                return
        if why == "changes" and self._hot_keys == "whole" and size <= WHOLE_BYTES:
            streamed.whole = True
            return
        streamed.read.failures.append(_never(wanted.db, key, size, why, self._hot_keys))

    def _read_whole(
        self, db: int, key: bytes, size: int, why: str, streamed: Streamed
    ) -> None:
        """Have the key read whole, unless that stalls the servers for too long."""
        if size > WHOLE_BYTES:
            streamed.read.failures.append(_too_large(db, key, size, why))
            return
        streamed.whole = True
        self._say(
            f"{why}: such large values are read and written whole, and delay other clients."
        )

    # One try.

    def _start(
        self,
        wanted: Wanted,
        key: bytes,
        size: int,
        db: int,
        permit: Permit,
        streamed: Streamed,
    ) -> Try:
        """Connect to both sides."""
        node = wanted.node
        if wanted.by_slot and self._source.routes:
            node = self._source.owner(key)
        owner = self._target.owner(key)
        source = self._source.connect(key, node, wanted.db, streamed.read)
        target = self._target.connect(key, owner, db, streamed.written)
        name = staging_name(key)
        return Try(
            wanted, key, size, db, permit, streamed, node, owner, source, target, name
        )

    def _once(self, one: Try) -> Task[None]:
        try:
            kind = yield from self._watch(one)
            if kind == b"none":
                one.streamed.read.gone += 1
                return
            if not (yield from self._prepare(one, kind)):
                one.streamed.written.busy.append(one.key)
                return
            if kind == _STRING:
                writer = None
                yield from self._copy_string(one)
            else:
                writer = yield from self._copy_parts(one, kind)
            expiry = yield from self._expiry_at_end(one)
            if self._is_past(expiry):
                one.streamed.written.gone += 1
                yield from self._abandon(one)
                return
            yield from self._swap(one, kind, writer, expiry)
        except Exception:
            yield from self._abandon(one)
            raise

    def _watch(self, one: Try) -> Task[bytes]:
        """Watch the key; return its type."""
        ask = [("UNWATCH",), ("WATCH", one.key), ("TYPE", one.key), ("PTTL", one.key)]
        replies = yield from self._read(one, ask)
        kind: bytes = replies[2]
        left: int = replies[3]
        if unfinished({one.key: left}):
            self._say(STAGING_LEFT_OUT)
            return b"none"
        if kind not in (b"none", _STRING) and not chunked_reader(kind, b"", 0, "source", ""):
            name = kind.decode("utf-8", "backslashreplace")
            raise ReadWhole(f"Values of the type {name} cannot be read in pieces")
        return kind

    def _prepare(self, one: Try, kind: bytes) -> Task[bool]:
        """Try the target's commands on the staging key, which does not exist; return False if the
        key is busy."""
        staging = one.staging
        rename = "RENAME" if self._replaces else "RENAMENX"
        tried: list[Command] = [
            ("UNWATCH",),
            ("WATCH", staging),
            ("UNLINK", staging),
            ("PEXPIRE", staging, TTL_MS),
            ("PERSIST", staging),
            ("PEXPIREAT", staging, 1),
        ]
        if kind == _STRING:
            tried.append(("SET", staging, "", "XX", "PX", TTL_MS))
        commands = [*tried, (rename, staging, one.key), ("EXISTS", one.key)]
        if kind == b"hash":
            commands.append(("HPEXPIREAT", staging, LATEST_MS + 1, "FIELDS", 1, b""))
        if kind == b"stream":
            zero = "0-0"
            commands.append(("XSETID", staging, "0-1", "ENTRIESADDED", 0, "MAXDELETEDID", zero))
        data = b"".join([encode(*command) for command in commands])
        replies = yield from self._ask_target(one, data, len(commands))
        for command, reply in zip(tried, replies, strict=False):
            if is_error(reply):
                raise self._refusal(one, self._target, str(command[0]), reply)
        renamed, exists, *more = replies[len(tried) :]
        if not is_error(renamed) or not str(renamed).startswith(_NO_KEY):
            raise self._refusal(one, self._target, rename, renamed)
        if is_error(exists):
            raise self._refusal(one, self._target, "EXISTS", exists)
        if more:
            answer = more[0]
            one.limited = "invalid expire time" in str(answer)
            known = one.limited or not is_error(answer) or str(answer).startswith(_NO_KEY)
            one.field_expiries = one.counters = known
            if not known and not (wrong_syntax(answer) or "unknown command" in str(answer)):
                raise self._refusal(one, self._target, str(commands[-1][0]), answer)
        return self._replaces or exists == 0

    def _copy_parts(self, one: Try, kind: bytes) -> Task[TypedWriter]:
        """Read and write all parts: the next one is read while the last one is written."""
        reader = chunked_reader(kind, one.key, one.size, "source", one.source.name)
        assert reader
        writer = TypedWriter(
            kind,
            one.staging,
            shift=self._shift,
            field_expiries=one.field_expiries,
            latest=LATEST_MS if one.limited else None,
            drops=self._drops,
            counters=one.counters,
        )
        part: Part | None = None
        while part or not reader.done:
            following = None
            if not reader.done:
                following = yield from self._turn(one, reader)
            part = yield from self._exchange(one, reader, following, writer, part)
        if kind != b"hash" and writer.written != reader.length:
            raise ValueChanged
        if last := writer.finish():
            yield from self._write(one, [encode(*command) for command in last])
        elif not one.begun:
            raise ValueChanged
        return writer

    def _turn(self, one: Try, reader: ChunkedReader) -> Task[list[Command]]:
        """Wait for the next chunk's turn; return its commands."""
        if self._intake.hurries:
            raise Draining
        amount = self._intake.amount
        commands = reader.request(amount)
        one.guessed = amount.size
        yield from self._intake.turn(0, amount.size, len(commands))
        return commands

    def _exchange(
        self,
        one: Try,
        reader: ChunkedReader,
        asked: list[Command] | None,
        writer: TypedWriter,
        part: Part | None,
    ) -> Task[Part | None]:
        """Send the commands for the next part, and a part to write; wait for both."""
        waits: list[Replies] = []
        commands: list[bytes] = []
        if part:
            commands = [encode(*command) for command in writer.put(part)]
        try:
            if asked:
                waits.append(self._send_source(one, asked))
            if commands:
                waits.append(self._send_chunk(one, commands))
        except Exception:
            if waits:
                yield waits  # no replies may be left to another value
            raise
        if not waits:
            return None
        outcomes = yield waits
        following = None
        if commands:
            assert part
            replies = self._chunk_replies(one, waits[-1], outcomes.pop(), len(commands))
            try:
                writer.took(part, replies)
            except TypeError:  # not the number of members
                raise malformed("target", self._target.name, "a command for members") from None
        if asked:
            replies = self._source_replies(one, asked, waits[0], outcomes[0])
            following = reader.take(replies)
            self._under_way.show(one.key, reader.fraction)
            size = following.size if following else 0
            one.payload += size
            self._intake.streamed(one.permit, size, one.guessed)
        return following

    # Strings.

    def _copy_string(self, one: Try) -> Task[None]:
        """Copy a string by one SET whose bytes are sent as they are read."""
        (length,) = yield from self._read(one, [("STRLEN", one.key)])
        head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(one.staging), one.staging, length)
        one.begun = True
        waits: deque[tuple[list[Command], Replies]] = deque()
        try:
            self._push(one, head)
            size = min(_WINDOW_BYTES, self._intake.amount.size)
            windows = string_windows(length, size)
            ended = False
            while True:
                while not ended and len(waits) < _WINDOWS_AHEAD:
                    window = next(windows, None)
                    ended = window is None
                    if window is not None:
                        waits.append((yield from self._ask_window(one, *window)))
                if not waits:
                    break
                asked, wait = waits.popleft()
                (outcome,) = yield [wait]
                (piece,) = self._source_replies(one, asked, wait, outcome)
                wanted = int(asked[0][3]) - int(asked[0][2]) + 1
                if len(piece) > wanted:
                    raise UnfitReply("GETRANGE")
                if len(piece) < wanted:
                    raise ValueChanged
                one.payload += len(piece)
                self._under_way.show(one.key, one.payload / length)
                self._intake.streamed(one.permit, len(piece), wanted)
                self._push(one, piece)
        except BaseException as error:
            one.target.close()  # in the middle of a command
            if waits and not isinstance(error, GeneratorExit):
                yield [wait for _, wait in waits]  # no replies may be left to another value
            raise
        end = b"\r\n$2\r\nPX\r\n$6\r\n%d\r\n" % TTL_MS
        (reply,) = yield from self._ask_target(one, end, 1)
        if reply != b"OK":
            raise self._refusal(one, self._target, "SET", reply)
        one.streamed.chunks += 1

    def _ask_window(self, one: Try, start: int, end: int) -> Task[tuple[list[Command], Replies]]:
        if self._intake.hurries:
            raise Draining
        yield from self._intake.turn(0, end - start + 1, 1)
        asked: list[Command] = [("GETRANGE", one.key, start, end)]
        return asked, self._send_source(one, asked)

    def _push(self, one: Try, data: bytes) -> None:
        try:
            one.target.push(data)
        except ConnectionLost as error:
            raise self._lost(one, self._target, error) from None

    # The end.

    def _expiry_at_end(self, one: Try) -> Task[tuple[int, bool]]:
        """Return the key's expiry, ms since 1970 or NO_EXPIRY, and False; or the ms left, and True.

        Raises:
            ValueChanged: the key has been written since it was watched.
        """
        ways = {"instant": ("PEXPIRETIME",), "clock": ("PTTL", "TIME"), "left": ("PTTL",)}
        commands: list[Command] = [
            (name, one.key) if name != "TIME" else (name,) for name in ways[self._expiry]
        ]
        data = MULTI + b"".join([encode(*command) for command in commands]) + EXEC
        wait = self._send_raw(one, self._source, data, len(commands) + 2)
        (outcome,) = yield [wait]
        replies = self._outcome(one, self._source, outcome)
        self._no_errors(one, self._source, replies)
        last = replies[-1]
        if last is None:
            raise ValueChanged
        if not isinstance(last, list) or len(last) != len(commands):
            raise malformed("source", one.source.name, "EXEC")
        self._no_errors(one, self._source, last)
        expiry = last[0]
        if not isinstance(expiry, int) or expiry < _GONE:
            raise malformed("source", one.source.name, str(commands[0][0]))
        if expiry == _GONE:
            raise ValueChanged
        if self._expiry == "clock" and not fits("TIME", last[1]):
            raise malformed("source", one.source.name, "TIME")
        if self._expiry == "clock" and expiry >= 0:
            expiry += int(milliseconds(last[1]))
        return expiry, self._expiry == "left"

    def _is_past(self, expiry: tuple[int, bool]) -> bool:
        at, left = expiry
        return at != NO_EXPIRY and not left and self._has_passed(at + self._shift)

    def _has_passed(self, instant: float) -> bool:
        """True if an instant, ms since 1970, is known to be past on the target's clock."""
        offset = self._clock_offset
        return offset is not None and instant <= time.time() * 1000 + offset

    def _swap(
        self, one: Try, kind: bytes, writer: TypedWriter | None, expiry: tuple[int, bool]
    ) -> Task[None]:
        """Give the value its name, and its expiry."""
        staging, key, written = one.staging, one.key, one.streamed.written
        counter: Command = writer.counter if writer else ("STRLEN", staging)
        # UNWATCH: the key has been written since `_prepare` watched it.
        commands: list[Command] = [("UNWATCH",), ("WATCH", staging), ("EXISTS", staging), counter]
        ask = b"".join([encode(*command) for command in commands])
        replies = yield from self._ask_target(one, ask, len(commands))
        self._no_errors(one, self._target, replies)
        *_, exists, length = replies
        if not (isinstance(exists, int) and isinstance(length, int)):
            raise malformed("target", one.target.name, "EXISTS or a length")
        if not exists and writer and self._has_passed(writer.last_instant):
            written.gone += 1
            return
        holds = writer.holds(length) if writer else length == one.payload
        if not exists or not holds:
            raise StagingLost
        at, left = expiry
        commands = []
        if self._replaces:
            commands.append(("UNLINK", key))
        if at == NO_EXPIRY:
            commands.append(("PERSIST", staging))
        elif left:
            commands.append(("PEXPIRE", staging, max(1, at)))
        else:
            commands.append(("PEXPIREAT", staging, max(1, at + self._shift)))
        commands.append(("RENAME" if self._replaces else "RENAMENX", staging, key))
        data = MULTI + b"".join([encode(*command) for command in commands]) + EXEC
        replies = yield from self._ask_target(one, data, len(commands) + 2)
        self._no_errors(one, self._target, replies)
        done = replies[-1]
        if done is None:
            raise StagingLost
        if not isinstance(done, list) or len(done) != len(commands):
            raise malformed("target", one.target.name, "EXEC")
        *others, renamed = done
        expires = others[-1] == 1 and at != NO_EXPIRY
        self._no_errors(one, self._target, others)
        if is_error(renamed):
            if str(renamed).startswith(_NO_KEY):
                if not expires:
                    raise StagingLost
                written.gone += 1  # the staging key was there, and its expiry was past
                return
            raise self._refusal(one, self._target, "RENAME", renamed)
        if renamed == 0 and not self._replaces:
            written.busy.append(key)
            yield from self._abandon(one)
            return
        if renamed not in (b"OK", 1):
            raise malformed("target", one.target.name, "RENAME")
        kinds, large = self._scale.weigh_streamed(
            one.wanted.db, key, head_of(kind), one.payload
        )
        written.copied += 1
        written.payload_bytes += one.payload
        written.kinds += kinds
        written.large += large
        if writer:
            written.losses += [KeyLoss(one.wanted.db, key, loss) for loss in writer.losses]
        self._source.serves()
        self._target.serves()

    def _abandon(self, one: Try) -> Task[None]:
        """Delete the staging key, if it may exist. If that fails, its TTL ends it."""
        if not one.begun:
            return
        one.begun = False
        key, noted, unlink = one.staging, Again(), encode("UNLINK", one.staging)
        try:
            for _ in range(_REDIRECTIONS):
                asking = key in noted.ask
                node = noted.ask.pop(key) if asking else self._target.owner(key)
                connection = self._target.connect(key, node, one.db, noted)
                connection.send(ASKING + unlink if asking else unlink)
                (outcome,) = yield [Replies(connection, 1 + asking)]
                if isinstance(outcome, ConnectionLost) or not is_error(outcome[-1]):
                    return
                if not self._target.redirects(key, outcome[-1], node, connection, noted):
                    return
        except (RumpxError, Unsettled):
            return

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._notices.append(text)


def _too_large(db: int, key: bytes, size: int, why: str) -> KeyFailure:
    """Return the failure of a value that cannot be streamed, and is too large to read whole."""
    return KeyFailure(
        db,
        key,
        "too large to read whole",
        f"{why}, and to read {in_words(size)} whole stalls both servers. At a quiet hour, "
        "--stream-from off reads every value whole",
    )


def _never(db: int, key: bytes, size: int, why: str, hot_keys: HotKeys) -> KeyFailure:
    """Return the failure of a value that was given up in each try."""
    if why == "staging":
        return KeyFailure(
            db,
            key,
            "staging key lost",
            f"the target lost the key that it was written to, {TRIES} times: does it evict keys "
            "with a TTL, or is it flushed?",
        )
    large = f"; {in_words(size)} are too many to read whole" if hot_keys == "whole" else ""
    return KeyFailure(
        db,
        key,
        "changes while it is read",
        f"it was written, or a field of it expired, during each of {TRIES} tries{large}. Copy it "
        "at a quiet hour, or with --read-from replica",
    )
