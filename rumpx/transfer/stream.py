"""Copy one large value in chunks, so that neither server's other clients wait for it.

    source   WATCH key · chunk, chunk, … · its expiry in a transaction
    target   chunk, chunk, … to a staging key, which then takes the key's name in a transaction

The source's EXEC (`stream_end`) is refused if anything has written the key since WATCH: its value,
its expiry, or that of a field. So the value that arrives, and its expiry, are those of one instant.
The target's old value stays until the new one takes its place, whole, in one transaction; that is
not started unless the staging key has all members that were written, and not executed if it changes
meanwhile. Under a policy without REPLACE the key is looked for first, and RENAMENX is used. A chunk
is a transaction too, so that no staging key is ever without its TTL (`staging`).

- Chunks are members (`stream_parts`), or windows of a string (`stream_string`). The next one is
  read while the last one is written, and each takes its turn under the rates.
- A value that is written meanwhile is given up and read again, TRIES times; then read whole if
  `--hot-keys` allows its size, else it has failed.
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

from typing import Final, Literal

from rumpx.errors import printable
from rumpx.model.option_kinds import WHOLE_BYTES
from rumpx.model.results import KeyFailure, KeyLoss
from rumpx.servers.connections import Links
from rumpx.servers.rdb import head_of
from rumpx.servers.replies import malformed, wrong_syntax
from rumpx.servers.resp import encode
from rumpx.servers.topology import is_error
from rumpx.transfer.bridge import NO_FIELD_EXPIRIES
from rumpx.transfer.chunks import Chunk, Intake
from rumpx.transfer.content_stats import Scale
from rumpx.transfer.handler import Wanted
from rumpx.transfer.messages import Streaming
from rumpx.transfer.runner import Pause, Permit, Task
from rumpx.transfer.staging import STAGING_LEFT_OUT, TTL_MS, staging_name, unfinished
from rumpx.transfer.stream_end import NO_KEY, Ending
from rumpx.transfer.stream_parts import HUGE_MEMBER, copy_parts
from rumpx.transfer.stream_requests import (
    Draining,
    ReadWhole,
    Refused,
    Requests,
    StagingLost,
    Streamed,
    Try,
    Unsettled,
    naming,
    staging_trials,
    watching,
)
from rumpx.transfer.stream_string import copy_string
from rumpx.transfer.under_way import UnderWay
from rumpx.units import size as in_words
from rumpx.units import write_size
from rumpx.values.chunked_reader import UnfitReply, chunked_reader
from rumpx.values.reading import ValueChanged
from rumpx.values.rewrite import FIELD_EXPIRIES
from rumpx.values.typed_writer import LATEST_MS, FieldsExpire, MembersLost, TypedWriter

TRIES: Final = 3
# Before each try.
_PAUSES: Final = (0.0, 0.5, 2.0)
# While another value is streamed, look this often, in seconds.
_LOOK_SECONDS: Final = 0.05
_STRING: Final = b"string"
# In the place of a type: a key that a copy to the source is writing.
_STAGING: Final = b""


class Streamer:
    """Copies large values.

    Args:
        source, target: connections that are used for nothing else.
        intake: grants turns, and says how large a chunk may be.
        expiry: how the source's expiries are read (`dump_reader`).
        replace: existing keys are replaced; else they are `busy`.
        shift: ms to add to each instant.
        clock_offset: the target's clock minus ours, ms; None where unknown.
        whole_bytes: the most of a value that is read whole if it is written in each try.
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
        whole_bytes: int,
        drops: bool,
    ) -> None:
        self._requests = Requests(source, target)
        self._ending = Ending(
            self._requests, expiry, replace=replace, shift=shift, clock_offset=clock_offset
        )
        self._intake = intake
        self._replaces = replace
        self._shift = shift
        self._whole_bytes = whole_bytes
        self._drops = drops
        self._scale = Scale()
        self._busy = False
        self._under_way = UnderWay()
        self._notices: list[str] = []
        self._said: set[str] = set()
        self._huge_told = False

    @property
    def unended(self) -> bool:
        """True if the target did not end a lost connection, so that a write may come late."""
        return self._requests.target.unended

    def take_notices(self) -> list[str]:
        """Return the notices for the user since the last call."""
        taken, self._notices = self._notices, []
        return taken

    def take_streaming(self) -> Streaming | None:
        """Return the progress of a value, if it is time to show it."""
        return self._under_way.take()

    def close(self) -> None:
        """Close all connections; others are opened when they are needed."""
        self._requests.source.close()
        self._requests.target.close()

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
                self._requests.source.refresh()
                self._requests.target.refresh()
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
                streamed.tries += 1
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
                raise malformed("source", self._requests.source.name, str(error)) from None
            except FieldsExpire:
                streamed.read.failures.append(
                    KeyFailure(wanted.db, key, FIELD_EXPIRIES, NO_FIELD_EXPIRIES)
                )
                return
            except Refused as error:
                words, reason = error.args
                streamed.read.failures.append(KeyFailure(wanted.db, key, reason, words))
                return
        if why == "changes" and size <= self._whole_bytes:
            streamed.whole = True
            return
        never = _changes(wanted.db, key, size) if why == "changes" else _lost(wanted.db, key)
        streamed.read.failures.append(never)

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
        if wanted.by_slot and self._requests.source.routes:
            node = self._requests.source.owner(key)
        owner = self._requests.target.owner(key)
        source = self._requests.source.connect(key, node, wanted.db, streamed.read)
        target = self._requests.target.connect(key, owner, db, streamed.written)
        name = staging_name(key)
        return Try(
            wanted, key, size, db, permit, streamed, node, owner, source, target, name
        )

    def _once(self, one: Try) -> Task[None]:
        try:
            kind = yield from self._watch(one)
            if kind == _STAGING:
                one.streamed.read.staging += 1
                return
            if kind == b"none":
                one.streamed.read.absent(one.key, one.wanted, one.source.process)
                return
            if not (yield from self._prepare(one, kind)):
                one.streamed.written.busy.append(one.key)
                return
            writer = yield from self._copy_value(one, kind)
            expiry = yield from self._ending.expiry(one)
            if self._ending.is_past(expiry):
                one.streamed.written.gone.append(one.key)
                yield from self._ending.abandon(one)
                return
            match (yield from self._ending.swap(one, writer, expiry)):
                case "copied":
                    self._count(one, kind, writer)
                case "busy":
                    one.streamed.written.busy.append(one.key)
                case "gone":
                    one.streamed.written.gone.append(one.key)
        except Exception:
            yield from self._ending.abandon(one)
            raise

    def _watch(self, one: Try) -> Task[bytes]:
        """Watch the key; return its type, or `_STAGING`."""
        replies = yield from self._requests.read(one, watching(one.key))
        kind: bytes = replies[2]
        left: int = replies[3]
        if unfinished({one.key: left}):
            self._say(STAGING_LEFT_OUT)
            return _STAGING
        if kind not in (b"none", _STRING) and not chunked_reader(kind, b"", 0, "source", ""):
            name = kind.decode("utf-8", "backslashreplace")
            raise ReadWhole(f"Values of the type {name} cannot be read in pieces")
        return kind

    def _prepare(self, one: Try, kind: bytes) -> Task[bool]:
        """Try the target's commands on the staging key, which does not exist; return False if the
        key is busy."""
        requests, staging = self._requests, one.staging
        rename = naming(staging, one.key, replace=self._replaces)
        tried = staging_trials(staging)
        if kind == _STRING:
            tried.append(("SET", staging, "", "XX", "PX", TTL_MS))
        commands = [*tried, rename, ("EXISTS", one.key)]
        if kind == b"hash":
            commands.append(("HPEXPIREAT", staging, LATEST_MS + 1, "FIELDS", 1, b""))
        if kind == b"stream":
            zero = "0-0"
            commands.append(("XSETID", staging, "0-1", "ENTRIESADDED", 0, "MAXDELETEDID", zero))
        data = b"".join([encode(*command) for command in commands])
        replies = yield from requests.ask_target(one, data, len(commands))
        for command, reply in zip(tried, replies, strict=False):
            if is_error(reply):
                raise requests.refusal(one, requests.target, str(command[0]), reply)
        renamed, exists, *more = replies[len(tried) :]
        if not is_error(renamed) or not str(renamed).startswith(NO_KEY):
            raise requests.refusal(one, requests.target, str(rename[0]), renamed)
        if is_error(exists):
            raise requests.refusal(one, requests.target, "EXISTS", exists)
        if more:
            answer = more[0]
            one.limited = "invalid expire time" in str(answer)
            known = one.limited or not is_error(answer) or str(answer).startswith(NO_KEY)
            one.field_expiries = one.counters = known
            if not known and not (wrong_syntax(answer) or "unknown command" in str(answer)):
                raise requests.refusal(one, requests.target, str(commands[-1][0]), answer)
        return self._replaces or exists == 0

    def _copy_value(self, one: Try, kind: bytes) -> Task[TypedWriter | None]:
        """Write the value to its staging key; return the writer of its members, if it has any."""

        def show(fraction: float) -> None:
            self._under_way.show(one.key, fraction)

        if kind == _STRING:
            yield from copy_string(self._requests, self._intake, one, show)
            return None
        writer = TypedWriter(
            kind,
            one.staging,
            shift=self._shift,
            field_expiries=one.field_expiries,
            latest=LATEST_MS if one.limited else None,
            drops=self._drops,
            counters=one.counters,
        )
        largest = yield from copy_parts(self._requests, self._intake, one, kind, writer, show)
        if largest >= HUGE_MEMBER and not self._huge_told:
            self._huge_told = True
            self._notices.append(
                f"The key {printable(one.key)} has a member of {in_words(largest)}: one command "
                "reads it and one writes it, and other clients wait for them. Further such keys "
                "are not named."
            )
        return writer

    def _count(self, one: Try, kind: bytes, writer: TypedWriter | None) -> None:
        written, db = one.streamed.written, one.wanted.db
        kinds, large = self._scale.weigh_streamed(db, one.key, head_of(kind), one.payload)
        written.copied += 1
        written.payload_bytes += one.payload
        written.kinds += kinds
        written.large += large
        if writer:
            written.losses += [KeyLoss(db, one.key, loss) for loss in writer.losses]
        self._requests.source.serves()
        self._requests.target.serves()

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


def _lost(db: int, key: bytes) -> KeyFailure:
    """Return the failure of a value whose staging key vanished in each try."""
    return KeyFailure(
        db,
        key,
        "staging key lost",
        f"the target lost the key that it was written to, {TRIES} times: does it evict keys with a "
        "TTL, or is it flushed?",
    )


def _changes(db: int, key: bytes, size: int) -> KeyFailure:
    """Return the failure of a value that was written in each try."""
    return KeyFailure(
        db,
        key,
        "changes while it is read",
        f"it was written, or a field of it expired, during each of {TRIES} tries. Copy it at a "
        "quiet hour or with --read-from replica, or let its "
        f"{in_words(size)} be read whole with --hot-keys whole={write_size(_mebibytes(size))}, "
        "which stalls both servers",
    )


def _mebibytes(size: int) -> int:
    """Round a size up to whole MiB, with room for growth."""
    return -(-size * 5 // 4 // 2**20) * 2**20
