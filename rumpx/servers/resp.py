"""The hot path: commands to bytes, bytes to a socket, replies back. RESP2 only.

A Connection is a blocking socket with a `hiredis.Reader` behind it. Requests are pipelined by
sending any number of commands and later receiving as many replies, in the same order. Sender and
receiver may be different callers, if the order holds.

Reasons for its form (`python -m benchmarks parsing` repeats the figures):

- One `%` format a command in a list comprehension and one join build 200 commands in a quarter of
  the time that a general packer needs. Four parts a command, placed by strides, take a little over
  half of that again, where the parts between are few enough to be cached (RESTORE, and DUMP with
  PEXPIRETIME).
- Replies are parsed as *one array*: before the bytes of N replies the parser is fed an array header
  of our own, so that one call returns them all. Taken one by one they cost about twice as
  much, and four times as much in a long pipeline, since hiredis moves the rest of its buffer down
  after each kilobyte of replies taken.
- Replies to RESTORE are nearly always `+OK`: they are compared as bytes, and parsed only if they
  differ.
- Large payloads go to the socket without being copied into a command, and a pipeline's buffers with
  its fence by one system call (not with TLS, whose sockets cannot gather).

Replies are not trusted to match the requests. Behind each pipeline goes a fence, a PING with a word
that was never used before. Replies are returned only if that word follows exactly as many replies
as there were commands. So one reply too many or too few, from a server or from a middlebox, never
shifts values to other keys. Where PING does not return its argument (`fenced` is False), and behind
a single command, only unrequested bytes are noticed. Answers are limited in bytes, by this
machine's memory, and in time: each wait by the timeout, a whole answer by the timeout and a second
for each kilobyte of requests and replies.

A server often says why it closes a connection ("max number of clients reached", "invalid bulk
length"), out of turn and before it closes. When a connection breaks, also during a send, the bytes
left on the socket are read, and an error reply at their end goes into ConnectionLost.

Not promised: a Connection is not thread-safe, and after ConnectionLost it is closed for good. A
malicious server can answer with wrong values in the right number.

Protocol: https://valkey.io/topics/protocol/
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, cast

import hiredis

from rumpx.errors import Cause, ConnectionLost, Side
from rumpx.processes.machine import usable_memory
from rumpx.servers.replies import Kind, classify, is_farewell, refused
from rumpx.servers.stopwatch import Stopwatch

Reply = bytes | int | None | list["Reply"] | hiredis.ReplyError
Argument = bytes | str | int
Command = Sequence[Argument]

RECEIVE_BYTES: Final = 256 * 1024
# Payloads of this size and larger go to the socket as they are, not joined into one buffer.
LARGE_PAYLOAD: Final = 32 * 1024
NO_EXPIRY: Final = -1
_REMEMBERED_LENGTHS: Final = 4096
# Instants in ms from 2001 to 2286 have as many digits.
_THIRTEEN_DIGITS: Final = 10**12

_OK: Final = b"+OK\r\n"
# The parser's result for an incomplete reply. Not hiredis's False: a reply of 0 equals that.
_NOTHING: Final = object()
# The parser's exceptions for invalid bytes; TypeError for a map whose names are lists.
_UNPARSED: Final = (hiredis.ProtocolError, TypeError)
# Fed before N replies: an array of N + 1, whose first member is filler. hiredis drops parsed bytes
# from its buffer only if they are at least a kilobyte in one go, and only then does `len()` return
# how much follows the array; the filler makes sure of that.
_FILLING: Final = 1024
_AS_ARRAY: Final = b"*%%d\r\n$%d\r\n%b\r\n" % (_FILLING, b"." * _FILLING)
# The most bytes to read from a broken connection's socket.
_LAST_BYTES: Final = 2**20
# Bytes a second; no network is slower, so a slower answer is given up.
_SLOWEST: Final = 1024
# The most bytes of one pipeline's replies that fit here, beside the copies that parsing makes.
_MOST_BYTES: Final = usable_memory() // 4
# A server that has sent less than this when memory runs out has only claimed a size.
_CLAIMED_ONLY: Final = 2**20
# With TLS, a fence is appended to a pipeline's last buffer up to this size, else sent after it.
_JOINED: Final = 64 * 1024
# The most buffers that one system call sends (IOV_MAX of Linux and macOS).
_MOST_BUFFERS: Final = 1024
# Up to this size the parser keeps its buffer for the next replies.
_KEPT_BUFFER: Final = 2**20
_DUMP: Final = b"*2\r\n$4\r\nDUMP\r\n$%d\r\n%b\r\n"
_PTTL: Final = b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"
_MEMORY_USAGE: Final = (
    b"*5\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n$%d\r\n%b\r\n$7\r\nSAMPLES\r\n$1\r\n1\r\n"
)


def encode(*arguments: Argument) -> bytes:
    """Encode one command as an array of bulk strings."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


_FENCE: Final = b"*2\r\n$4\r\nPING\r\n$%d\r\n%b\r\n"
_FENCE_REPLY: Final = b"$%d\r\n%b\r\n"
_COMMAND: Final = re.compile(rb"\$\d+\r\n([A-Z]+)\r\n")
_BEFORE_COMMANDS: Final = frozenset({"MULTI", "ASKING"})
_HEAD_BYTES: Final = 96
_OTHER_NUMBER: Final = "more or fewer replies than commands"
MULTI: Final = encode("MULTI")
EXEC: Final = encode("EXEC")
TIME: Final = encode("TIME")
ASKING: Final = encode("ASKING")


def encode_dumps(keys: Sequence[bytes]) -> bytes:
    """Encode DUMP for each key."""
    return b"".join([_DUMP % (len(key), key) for key in keys])


def encode_pttls(keys: Sequence[bytes]) -> bytes:
    """Encode PTTL for each key."""
    return b"".join([_PTTL % (len(key), key) for key in keys])


def encode_memory_usage(keys: Sequence[bytes]) -> bytes:
    """Encode MEMORY USAGE … SAMPLES 1 for each key."""
    return b"".join([_MEMORY_USAGE % (len(key), key) for key in keys])


class _ByLength(dict[int, bytes]):
    """The bytes before a string of each length: a template, filled in at first use."""

    def __init__(self, template: bytes) -> None:
        self._template = template

    def __missing__(self, length: int) -> bytes:
        made = self._template % length
        if length < _REMEMBERED_LENGTHS:
            self[length] = made
        return made


# Each key's end of line is sent with the start of the next command.
_DUMP_HEADS: Final = _ByLength(b"\r\n*2\r\n$4\r\nDUMP\r\n$%d\r\n")
_PEXPIRETIME_HEADS: Final = _ByLength(b"\r\n*2\r\n$11\r\nPEXPIRETIME\r\n$%d\r\n")


def encode_dumps_and_expiries(keys: Sequence[bytes], groups: Sequence[int] = ()) -> bytes:
    """Encode DUMP, then PEXPIRETIME, for each key in turn.

    Args:
        groups: the number of keys in each MULTI…EXEC, for all keys; none without MULTI.
    """
    sizes = list(map(len, keys))
    parts = [b"\r\n"] * (4 * len(keys) + 1)
    parts[0:-1:4] = map(_DUMP_HEADS.__getitem__, sizes)
    parts[1::4] = keys
    parts[2::4] = map(_PEXPIRETIME_HEADS.__getitem__, sizes)
    parts[3::4] = keys
    parts[0] = parts[0][2:]
    if groups:
        parts[0] = MULTI + parts[0]
        parts[-1] += EXEC
        start = 0
        for size in groups[:-1]:
            start += size
            parts[4 * start] = b"\r\n" + EXEC + MULTI + parts[4 * start][2:]
    return b"".join(parts)


class RestoreEncoder:
    """RESTORE commands with one fixed set of options, as buffers ready to send.

    A command has four parts: the bytes before the key, the key, expiry and payload's length, the
    payload. The lists of parts are placed into one by strides and joined, all of it in C.

    Args:
        replace: with REPLACE, which overwrites a key on the target.
        absolute: expiries are instants (ABSTTL) in ms since 1970, else times to live in ms.
    """

    def __init__(self, *, replace: bool, absolute: bool) -> None:
        options = [name for name, given in ((b"REPLACE", replace), (b"ABSTTL", absolute)) if given]
        self._end = b"\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(o), o) for o in options])
        begin = b"*%d\r\n$7\r\nRESTORE\r\n" % (4 + len(options))
        # Each command's options are sent with the start of the next.
        self._heads = _ByLength(self._end + begin + b"$%d\r\n")
        self._forever = _ByLength(b"\r\n$1\r\n0\r\n$%d\r\n")
        self._instant = _ByLength(b"\r\n$13\r\n%%d\r\n$%d\r\n")

    def encode(
        self, keys: Sequence[bytes], payloads: Sequence[bytes], expiries: Sequence[int]
    ) -> list[bytes]:
        """Return buffers with one RESTORE a key, to send one after the other.

        Args:
            keys, payloads, expiries: of equal length; an expiry is NO_EXPIRY, or > 0.
        """
        sizes = list(map(len, payloads))
        forever, instant = self._forever, self._instant
        parts = [self._end] * (4 * len(keys) + 1)
        parts[0:-1:4] = map(self._heads.__getitem__, map(len, keys))
        parts[1::4] = keys
        parts[2::4] = [
            forever[size]
            if expiry == NO_EXPIRY
            else instant[size] % expiry
            if _THIRTEEN_DIGITS <= expiry < 10 * _THIRTEEN_DIGITS
            else _expiring(expiry, size)
            for expiry, size in zip(expiries, sizes, strict=True)
        ]
        parts[3::4] = payloads
        parts[0] = parts[0][len(self._end) :]
        buffers = []
        start = 0
        if max(sizes, default=0) >= LARGE_PAYLOAD:
            for position in [4 * n + 3 for n, size in enumerate(sizes) if size >= LARGE_PAYLOAD]:
                buffers += [b"".join(parts[start:position]), parts[position]]
                start = position + 1
        return [*buffers, b"".join(parts[start:])]


def _expiring(expiry: int, size: int) -> bytes:
    digits = b"%d" % expiry
    return b"\r\n$%d\r\n%b\r\n$%d\r\n" % (len(digits), digits, size)


def _parser() -> Any:
    """Return a parser; `Any`, since hiredis has no types."""
    parser = hiredis.Reader(notEnoughData=_NOTHING)
    parser.setmaxbuf(_KEPT_BUFFER)
    return parser


class _Sent(NamedTuple):
    """A pipeline whose replies are owed; `head` is its start, `word` that of its fence."""

    head: bytes
    size: int
    word: bytes


class Connection:
    """A blocking, authenticated socket that speaks RESP2.

    Args:
        sock: connected.
        name: `host:port` or a path, for messages.
        db: the selected database.
        side: source or target, for messages.

    Attributes:
        id: the server's client id, if it was asked for and reported.
        process: the server's `run_id`, likewise; "" if it is not known.
        fenced: a fence goes behind each pipeline; `greet` finds out whether PING supports it.
    """

    def __init__(
        self, sock: socket.socket, name: str, db: int = 0, side: Side = "source"
    ) -> None:
        self.name = name
        self.side: Side = side
        self.db = db
        self.id: int | None = None
        self.process = ""
        self.closed = False
        self.fenced = False
        self._sock = sock
        self._gathers = not isinstance(sock, ssl.SSLSocket)
        self._timeout: float | None = None
        self._parser = _parser()
        self._owed: deque[_Sent] = deque()
        self._word = os.urandom(6).hex().encode()
        self._words = 0
        # The answer being received: its bytes so far, and the time of the first.
        self._came = 0
        self._since = 0.0
        # Bytes received behind the last requested replies. The parser itself holds nothing between
        # two calls.
        self._rest = b""
        self._end: ConnectionLost | None = None

    @property
    def owed(self) -> int:
        """Pipelines whose replies have not been received yet."""
        return len(self._owed)

    @property
    def local(self) -> bool:
        """True if the server is on this machine, by its address. (So is the end of a tunnel.)"""
        if self._sock.family == socket.AF_UNIX:
            return True
        try:
            return bool(self._sock.getsockname()[0] == self._sock.getpeername()[0])
        except OSError:
            return False  # the server has closed the connection, which its next use shows

    def set_timeout(self, seconds: float) -> None:
        """Limit each wait, and the time for a whole answer.

        The kernel does the first for plain sockets: Python's own timeout adds a poll() before each
        send and receive, a tenth of the cost of a pipeline here. TLS needs Python's.
        """
        self._timeout = seconds
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(seconds)
            return
        self._sock.settimeout(None)
        timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, option, timeval)

    def call(self, *arguments: Argument) -> Reply:
        """Send one command and return its reply; an error reply is returned, not raised.

        Raises:
            ConnectionLost: the connection broke, timed out, or does not speak RESP.
        """
        self._send((encode(*arguments),), b"")
        return self.receive(1)[0]

    def stopwatch(self) -> Stopwatch:
        """Return a stopwatch for `call_timed`; the caller closes it."""
        return Stopwatch(self._sock)

    def call_timed(self, watch: Stopwatch, *arguments: Argument) -> Reply:
        """As `call`; `watch`, a stopwatch of this connection, has the time that it took."""
        watch.start()
        self._send((encode(*arguments),), b"")
        if not watch.wait(self._timeout):
            raise self._lost(TimeoutError())
        return self.receive(1)[0]

    def call_many(self, commands: Iterable[Command]) -> list[Reply]:
        """Send commands in one pipeline and return their replies in order, as `call` does."""
        encoded = [encode(*command) for command in commands]
        self.send(b"".join(encoded))
        return self.receive(len(encoded))

    def greet(self, commands: Sequence[Command]) -> list[Reply]:
        """As `call_many`, for the first commands; also learn whether PING works as a fence."""
        *replies, last = self.call_many([*commands, ("PING", self._word)])
        self.fenced = last == self._word or _for_a_while(last)
        return replies

    def send(self, *buffers: bytes) -> None:
        """Send buffers whole, in order: one pipeline, whose replies are received in one go."""
        if not self.fenced:
            return self._send(buffers, b"")
        self._words += 1
        word = b"%b-%d" % (self._word, self._words)
        fence = _FENCE % (len(word), word)
        if not self._gathers and len(buffers[-1]) <= _JOINED:
            *buffers, last = buffers  # type: ignore[assignment]
            fence = last + fence
        return self._send((*buffers, fence), word)

    def push(self, *buffers: bytes) -> None:
        """Send the start of a pipeline whose end follows by `send`; no replies are owed until then.
        A pipeline that is never ended needs its connection to be closed."""
        try:
            self._send_rest(buffers, 0)
        except OSError as error:
            raise self._lost(error, (self._rest,)) from None

    def _send(self, buffers: Sequence[bytes], word: bytes) -> None:
        head = b"".join([buffer[:_HEAD_BYTES] for buffer in buffers[:2]])
        size = sum(map(len, buffers))
        self._owed.append(_Sent(head, size, word))
        try:
            sent = 0
            if self._gathers and len(buffers) <= _MOST_BUFFERS:
                sent = self._sock.sendmsg(buffers)
            if sent < size:
                self._send_rest(buffers, sent)
        except OSError as error:
            raise self._lost(error, (self._rest,)) from None

    def _send_rest(self, buffers: Sequence[bytes], sent: int) -> None:
        """Send buffers one after the other, without the first `sent` bytes."""
        for buffer in buffers:
            if sent < len(buffer):
                self._sock.sendall(memoryview(buffer)[sent:])
            sent = max(0, sent - len(buffer))

    def receive(self, count: int) -> list[Reply]:
        """Return the next `count` replies: all those of the oldest pipeline."""
        if self.closed:
            raise self._lost("")
        sent = self._owed[0]
        count += bool(sent.word)
        if not count:
            self._paid()
            return []
        parser = self._parser
        parts = [_AS_ARRAY % (count + 1), self._rest or self._receive_bytes(())]
        try:
            parser.feed(parts[0])
            while True:
                parser.feed(parts[-1])
                size = parser.len()
                replies = parser.gets()
                if replies is not _NOTHING:
                    break
                self._look_for_end(parts[1:])
                parts.append(self._receive_bytes(parts[1:]))
        except _UNPARSED:
            raise self._malformed("bytes that do not follow the Redis protocol") from None
        except MemoryError:
            self._parser = _parser()
            if sum(map(len, parts)) < _CLAIMED_ONLY:
                raise self._malformed("a reply larger than this machine can hold") from None
            raise self._too_large() from None
        self._rest = b""
        if parser.has_data():
            if parser.len() == size:  # the last part had less than a kilobyte: parse all in one go
                parser = _parser()
                parser.feed(b"".join(parts))
                parser.gets()
            self._rest = parts[-1][-parser.len() :]
            self._parser = _parser()
        del replies[0]
        self._settle(replies)
        return cast("list[Reply]", replies)

    def receive_oks(self, count: int) -> list[Reply] | None:
        """As `receive`, but None if every reply is +OK, without parsing."""
        if self.closed:
            raise self._lost("")
        sent = self._owed[0]
        expected = _OK * count
        if sent.word:
            expected += _FENCE_REPLY % (len(sent.word), sent.word)
        raw = self._rest
        while len(raw) < len(expected) and expected.startswith(raw):
            raw += self._receive_bytes((raw,))
        if raw.startswith(expected):
            self._rest = raw[len(expected) :]
            self._paid()
            return None
        self._rest = raw
        replies = self.receive(count)
        return None if all(reply == b"OK" for reply in replies) else replies

    def _settle(self, replies: list[Any]) -> None:
        """Remove the fence's word from the oldest pipeline's replies; without it trust none.

        The fence itself may be refused. If that is temporary (the server loads, or cannot save:
        MISCONF applies to writes and PING), the error takes the word's place. If it is permanent
        (its ACL has changed), the replies may be right, but are not proven, and are requested again
        over another connection.
        """
        sent = self._owed[0]
        if sent.word and (last := replies.pop()) != sent.word and not _for_a_while(last):
            if isinstance(last, hiredis.ReplyError):
                words = "" if refused(last) else str(last)
                raise self._ended(f"PING was refused: {str(last).rstrip('.')}", words=words)
            raise self._malformed(_OTHER_NUMBER)
        self._paid()

    def _paid(self) -> None:
        """Mark the oldest pipeline as received; no bytes may follow the last pipeline's replies."""
        self._owed.popleft()
        self._came = 0
        if self._rest and not self._owed:
            raise self._malformed(_OTHER_NUMBER, (self._rest,))

    def _look_for_end(self, heard: Sequence[bytes]) -> None:
        """Raise if the fence's word has come while replies are missing: they will not come."""
        word = self._owed[0].word
        if not word:
            return
        end = _FENCE_REPLY % (len(word), word)
        tail = b""
        for part in reversed(heard):
            tail = part[-len(end) :] + tail
            if len(tail) >= len(end):
                break
        if tail.endswith(end):
            raise self._malformed(_OTHER_NUMBER)

    def detach(self) -> socket.socket:
        """Return the socket, for a caller that reads its messages by itself. No replies may be
        owed; the connection is closed, and the socket is not."""
        assert not self._owed and not self._rest
        self.closed = True
        return self._sock

    def close(self) -> None:
        """Close the socket; callers that still wait for replies get ConnectionLost."""
        self.closed = True
        self._sock.close()

    def _receive_bytes(self, heard: Sequence[bytes]) -> bytes:
        """Return the next bytes; `heard` are those before them, of replies not returned yet."""
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except OSError as error:
            raise self._lost(error, heard) from None
        if not data:
            raise self._lost("the server closed the connection", heard)
        self._bound(len(data))
        return data

    def _bound(self, came: int) -> None:
        """Raise if the answer has become too large, or is too slow."""
        if not self._came:
            self._since = time.monotonic()
        self._came += came
        if self._came > _MOST_BYTES:
            raise self._too_large()
        if self._timeout is None:
            return
        passed = time.monotonic() - self._since
        if passed > self._timeout + (self._came + self._owed[0].size) / _SLOWEST:
            raise self._ended(
                f"only {self._came:,} bytes of a reply arrived in {passed:.0f} s", "dripping"
            )

    def _too_large(self) -> ConnectionLost:
        return self._ended(
            f"its reply to {self._command()} is larger than this machine can hold", "too large"
        )

    def _malformed(self, what: str, heard: Sequence[bytes] = ()) -> ConnectionLost:
        """Return the exception for an invalid answer, or for the server's reason to close."""
        if words := last_words(heard):
            return self._ended(f"the server said: {words.rstrip('.')}", words=words)
        return self._end_by(
            f"The server at {self.name} answered {self._command()} with {what}. Check that it is "
            "a Redis or Valkey server, and that nothing in between alters replies.",
            "malformed",
        )

    def _command(self) -> str:
        """Return the command whose answer is awaited."""
        head = self._owed[0].head if self._owed else b""
        names = [name.decode() for name in _COMMAND.findall(head)]
        return next((name for name in names if name not in _BEFORE_COMMANDS), "a command")

    def _lost(self, reason: object, heard: Sequence[bytes] = ()) -> ConnectionLost:
        """Explain a broken connection by the server's last words, or by the system's error."""
        if self.closed:
            return self._ended("it was closed after an earlier error")
        if words := last_words([*heard, *self._left_on_the_socket()]):
            return self._ended(f"the server said: {words.rstrip('.')}", words=words)
        if isinstance(reason, (TimeoutError, BlockingIOError)):  # by Python, or the kernel
            return self._ended("no answer in time", "silent")
        if isinstance(reason, OSError):
            reason = reason.strerror or reason
        return self._ended(str(reason))

    def _ended(self, reason: str, cause: Cause = "", words: str = "") -> ConnectionLost:
        return self._end_by(f"The connection to {self.name} was lost: {reason}.", cause, words)

    def _end_by(self, message: str, cause: Cause, words: str = "") -> ConnectionLost:
        """Close the connection; all later callers receive the first error."""
        self.close()
        if self._end is None:
            self._end = ConnectionLost(message, cause=cause, words=words, side=self.side)
        return self._end

    def _left_on_the_socket(self) -> list[bytes]:
        """Return the bytes that have arrived and were not received, without waiting for more."""
        parts: list[bytes] = []
        with contextlib.suppress(OSError):
            self._sock.settimeout(0)
            while sum(map(len, parts)) < _LAST_BYTES and (data := self._sock.recv(RECEIVE_BYTES)):
                parts.append(data)
        return parts


def _for_a_while(reply: object) -> bool:
    """Return True if a server refuses for a temporary reason."""
    return isinstance(reply, hiredis.ReplyError) and classify(reply).kind is Kind.TEMPORARY


def last_words(heard: Iterable[bytes]) -> str:
    """Return the error reply that complete replies end with, unless a command of ours may get it;
    "" if the last of them is no error, or is incomplete, or if the bytes are not replies."""
    parser = _parser()
    last: object = None
    try:
        for part in heard:
            parser.feed(part)
            while (reply := parser.gets()) is not _NOTHING:
                last = reply
    except (*_UNPARSED, MemoryError):
        return ""
    is_error = isinstance(last, hiredis.ReplyError) and not parser.has_data()
    return str(last) if is_error and is_farewell(last) else ""
