"""Copy a large string by one SET: its length is announced, and its bytes follow as GETRANGE returns
them, so that neither server holds its other clients up, and no worker holds it whole.

A few windows are on the wire at once. The connection to the target is in the middle of a command
until the last byte: if the copy ends early, it is closed, and the server forgets the command.

Not promised: strings above the target's proto-max-bulk-len. It refuses them by SET and by APPEND
(measured on Redis 6.2, 7.0, 8.2, Valkey 8.1, 9.1), and cuts the connection: the key fails with that
advice (`suspects`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from rumpx.errors import ConnectionLost
from rumpx.servers.resp import Command
from rumpx.transfer.chunks import Intake
from rumpx.transfer.runner import Replies, Task
from rumpx.transfer.staging import TTL_MS
from rumpx.transfer.stream_requests import Draining, Requests, Try
from rumpx.values.chunked_reader import UnfitReply, string_windows
from rumpx.values.reading import ValueChanged

_WINDOW_BYTES: Final = 128 * 2**10
_WINDOWS_AHEAD: Final = 2


def copy_string(
    requests: Requests, intake: Intake, one: Try, show: Callable[[float], None]
) -> Task[None]:
    """Copy the string to its staging key; a task.

    Args:
        show: called with the fraction that was read, 0.0 to 1.0.

    Raises:
        Draining, Unsettled, Refused, ReadWhole, ValueChanged, UnfitReply: see `Streamer`.
    """
    (length,) = yield from requests.read(one, [("STRLEN", one.key)])
    head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(one.staging), one.staging, length)
    one.begun = True
    waits: deque[tuple[list[Command], Replies]] = deque()
    try:
        _push(requests, one, head)
        windows = string_windows(length, min(_WINDOW_BYTES, intake.amount.size))
        ended = False
        while True:
            while not ended and len(waits) < _WINDOWS_AHEAD:
                window = next(windows, None)
                ended = window is None
                if window is not None:
                    waits.append((yield from _ask_window(requests, intake, one, *window)))
            if not waits:
                break
            asked, wait = waits.popleft()
            (outcome,) = yield [wait]
            (piece,) = requests.source_replies(one, asked, wait, outcome)
            wanted = int(asked[0][3]) - int(asked[0][2]) + 1
            if len(piece) > wanted:
                raise UnfitReply("GETRANGE")
            if len(piece) < wanted:
                raise ValueChanged
            one.payload += len(piece)
            show(one.payload / length)
            intake.streamed(one.permit, len(piece), wanted)
            _push(requests, one, piece)
    except BaseException as error:
        one.target.close()  # in the middle of a command
        if waits and not isinstance(error, GeneratorExit):
            yield [wait for _, wait in waits]  # no replies may be left to another value
        raise
    end = b"\r\n$2\r\nPX\r\n$6\r\n%d\r\n" % TTL_MS
    (reply,) = yield from requests.ask_target(one, end, 1)
    if reply != b"OK":
        raise requests.refusal(one, requests.target, "SET", reply)
    one.streamed.chunks += 1


def _ask_window(
    requests: Requests, intake: Intake, one: Try, start: int, end: int
) -> Task[tuple[list[Command], Replies]]:
    if intake.hurries:
        raise Draining
    yield from intake.turn(0, end - start + 1, 1)
    asked: list[Command] = [("GETRANGE", one.key, start, end)]
    return asked, requests.send_source(one, asked)


def _push(requests: Requests, one: Try, data: bytes) -> None:
    try:
        one.target.push(data)
    except ConnectionLost as error:
        raise requests.lost(one, requests.target, error) from None
