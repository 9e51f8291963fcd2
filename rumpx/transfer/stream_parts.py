"""Copy the members of a large value to its staging key, part by part.

The next part is read while the last one is written; each takes its turn under the rates. The source
guards the key by WATCH (see `stream`), so that the parts are one value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rumpx.servers.replies import malformed
from rumpx.servers.resp import Command, encode
from rumpx.transfer.chunks import Intake
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.stream_requests import Draining, Requests, Try
from rumpx.values.chunked_reader import ChunkedReader, Part, chunked_reader
from rumpx.values.reading import ValueChanged
from rumpx.values.typed_writer import TypedWriter

# Bytes of a member for which other clients wait noticeably.
HUGE_MEMBER: Final = 16 * 2**20


def copy_parts(
    requests: Requests,
    intake: Intake,
    one: Try,
    kind: bytes,
    writer: TypedWriter,
    show: Callable[[float], None],
) -> Task[int]:
    """Copy all members; a task.

    Args:
        writer: encodes them for the staging key.
        show: called with the fraction that was read, 0.0 to 1.0.

    Returns:
        The bytes of the largest member, if it has at least HUGE_MEMBER; else 0, or less than that.

    Raises:
        Draining, Unsettled, Refused, ReadWhole, ValueChanged, UnfitReply, StagingLost, MembersLost,
            FieldsExpire: see `Streamer`.
    """
    reader = chunked_reader(kind, one.key, one.size, "source", one.source.name)
    assert reader
    largest = 0
    part: Part | None = None
    while part or not reader.done:
        asked = None
        if not reader.done:
            asked = yield from _turn(intake, one, reader)
        part = yield from _exchange(requests, intake, one, reader, asked, writer, part)
        if part and part.size >= HUGE_MEMBER:
            largest = max(largest, _largest(part))
        show(reader.fraction)
    if kind != b"hash" and writer.written != reader.length:
        raise ValueChanged
    if last := writer.finish():
        yield from requests.write(one, [encode(*command) for command in last])
    elif not one.begun:
        raise ValueChanged
    return largest


def _turn(intake: Intake, one: Try, reader: ChunkedReader) -> Task[list[Command]]:
    """Wait for the next chunk's turn; return its commands."""
    if intake.hurries:
        raise Draining
    amount = intake.amount
    commands = reader.request(amount)
    one.guessed = amount.size
    yield from intake.turn(0, amount.size, len(commands))
    return commands


def _exchange(
    requests: Requests,
    intake: Intake,
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
            waits.append(requests.send_source(one, asked))
        if commands:
            waits.append(requests.send_chunk(one, commands))
    except Exception:
        if waits:
            yield waits  # no replies may be left to another value
        raise
    if not waits:
        return None
    outcomes = yield waits
    if commands:
        assert part
        replies = requests.chunk_replies(one, waits[-1], outcomes.pop(), len(commands))
        try:
            writer.took(part, replies)
        except TypeError:  # not the number of members
            raise malformed("target", requests.target.name, "a command for members") from None
    if not asked:
        return None
    following = reader.take(requests.source_replies(one, asked, waits[0], outcomes[0]))
    size = following.size if following else 0
    one.payload += size
    intake.streamed(one.permit, size, one.guessed)
    return following


def _largest(part: Part) -> int:
    fields = [field for _, fields in part.entries for field in fields]
    return max(map(len, [*part.members, *fields]))
