"""The socket by which a running job is asked how far it is, paused, and given other limits.

It lies beside the job's ledger and only its owner can open it. A client connects, sends one line
of JSON, gets one, and is done::

    {"do": "set", "max-keys-per-sec": "5000", "max-source-cpu": "off"}
    {"do": "pause"}      {"do": "resume"}      {"do": "status"}

    {"ok": true, ...}    {"ok": false, "error": "one sentence", "exit_code": 2}

Algorithm: a thread accepts clients, and a thread for each (there are few) reads its request. Only
the thread that owns a run's books may act on it: requests wait in a queue until that calls
`CtlServer.serve`. A client whose request is not taken up in time is told so, and the request is
dropped: what was refused is not done later.

A request has a longest size and a longest time, and clients have a largest number, so that none
can hold up others or the run. A copy never fails because of its socket: where it cannot be made
the run cannot be asked, that is all.

Not promised: sockets on every file system. (Network file systems have none, or show ours to other
machines, where nobody answers.)
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rumpx.errors import TemporaryError, UsageError
from rumpx.model.limits import NAMED

_MOST_CLIENTS: Final = 16
_MOST_REQUEST_BYTES: Final = 4096
_REQUEST_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 5.0
_LAST_ANSWERS_SECONDS: Final = 1.0
# Linux takes 107 bytes in an address, others a few less.
_MOST_PATH_BYTES: Final = 100


@dataclass(frozen=True, slots=True)
class Set:
    """Other limits from now on: (name, value) pairs. The names are of `limits.NAMED`, the
    values what the user wrote, as for the flags of these names; `off` for none."""

    changes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Copy nothing until `Resume`."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on after `Pause`."""


@dataclass(frozen=True, slots=True)
class Status:
    """Tell how far the run is, and what limits it."""


Request = Set | Pause | Resume | Status
_PLAIN: Final[dict[str, Pause | Resume | Status]] = {
    "pause": Pause(),
    "resume": Resume(),
    "status": Status(),
}
VERBS: Final = ("set", *_PLAIN)


def encode(request: Request) -> bytes:
    """A request as its line."""
    changes = dict(request.changes) if isinstance(request, Set) else {}
    return json.dumps({"do": type(request).__name__.lower()} | changes).encode() + b"\n"


def decode(line: bytes) -> Request:
    """A line as its request.

    Raises:
        UsageError: it is none.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("The request is not a line of JSON.") from None
    if not isinstance(fields, dict) or not isinstance(verb := fields.pop("do", None), str):
        raise UsageError('The request is no JSON object with "do".')
    if verb == "set":
        return make_set(tuple(fields.items()))
    if verb not in _PLAIN:
        raise UsageError(f"{verb[:40]!r} cannot be asked of a run; ask {', '.join(VERBS)}.")
    if fields:
        raise UsageError(f"{verb} takes nothing else; leave out {str(next(iter(fields)))[:40]!r}.")
    return _PLAIN[verb]


def make_set(changes: tuple[tuple[str, Any], ...]) -> Set:
    """Limits by their names, which are checked here; whoever sets them reads the values.

    Raises:
        UsageError: there are none, an unknown one, one twice, or one without a text as its value.
    """
    if not changes:
        raise UsageError("set needs what is to be set, as in max-keys-per-sec=5000.")
    names = [name for name, _ in changes]
    for name, value in changes:
        if name not in NAMED:
            raise UsageError(
                f"{name[:40]!r} cannot be set while a copy runs; what can be is "
                f"{', '.join(NAMED)}."
            )
        if names.count(name) > 1:
            raise UsageError(f"{name} is set twice; give one value.")
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name} needs a value as for --{name}, or off for none.")
    return Set(changes)


def read_words(words: list[str]) -> tuple[str | None, Request]:
    """What the words of `rumpx ctl` ask: a job's name, if they begin with one, and a request.

    Only NAME=VALUE follows a verb, so that a job may have the name of a verb.

    Raises:
        UsageError: they cannot be meant.
    """
    name = None
    if len(words) > 1 and words[1] in VERBS:
        name, *words = words
    verb, *rest = words or [""]
    if verb == "set":
        return name, make_set(tuple(_change(word) for word in rest))
    if verb not in _PLAIN:
        raise UsageError(
            f"rumpx ctl is told a job and what to do: {', '.join(VERBS)}. See rumpx ctl --help."
        )
    if rest:
        raise UsageError(f"Nothing comes after {verb}; leave out {rest[0][:40]!r}.")
    return name, _PLAIN[verb]


def _change(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"{word[:40]!r}: a limit is set by NAME=VALUE, as in max-source-cpu=50.")
    return name, value


class CtlServer:
    """The server's side. All but `serve` is quick; nothing here raises because of a client.

    One thread, the one that owns the run's books, calls all methods: `start`; `serve` in each turn
    of its loop; `close`, before it lets go of the job, since whoever takes that next puts a socket
    of its own in the same place.

    Args:
        path: of the socket, `ledger.ctl_path(…)`. What is there from a killed run is replaced: the
            caller holds the job.
        handle: does what is asked and returns what is to be answered, as JSON has it. It is called
            by `serve`. UsageError refuses the request; no other exception gets out either.
        wake: called by other threads when `serve` has something to do; `Control.wake`.
        request_seconds, answer_seconds: for a client to send its request, and for `serve` to take
            it up.
    """

    def __init__(
        self,
        path: Path,
        handle: Callable[[Request], dict[str, Any]],
        wake: Callable[[], None],
        *,
        request_seconds: float = _REQUEST_SECONDS,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self._path = path
        self._handle = handle
        self._wake = wake
        self._request_seconds = request_seconds
        self._answer_seconds = answer_seconds
        self._asked: queue.SimpleQueue[tuple[Request, Future[bytes]]] = queue.SimpleQueue()
        self._mutex = threading.Lock()  # of what follows
        self._clients: set[threading.Thread] = set()
        self._ending = False
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._enders: tuple[socket.socket, socket.socket] | None = None

    def start(self) -> str:
        """Begin to accept clients; returns "", or a warning that there is no socket, and why."""
        try:
            self._listener = _listen(self._path)
            self._enders = socket.socketpair()
            self._thread = threading.Thread(target=self._accept, name="ctl", daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:
            self._thread = None
            self.close()
            reason = getattr(error, "strerror", None) or error
            return (
                f"rumpx ctl cannot reach this run: its socket {self._path} cannot be made "
                f"({reason}). The run goes on without."
            )
        return ""

    def serve(self) -> None:
        """Do what clients asked for since the last call. Does not wait."""
        while True:
            try:
                request, answer = self._asked.get_nowait()
            except queue.Empty:
                return
            if answer.set_running_or_notify_cancel():
                answer.set_result(self._answer(request))

    def close(self) -> None:
        """Remove the socket; clients that still wait are told that the run has ended."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._enders:
            self._enders[0].close()
        if self._thread:
            self._thread.join()
        if self._enders:
            self._enders[1].close()
        listener.close()
        with self._mutex:
            self._ending = True
            clients = list(self._clients)
        while not self._asked.empty():
            self._asked.get()[1].cancel()
        until = time.monotonic() + _LAST_ANSWERS_SECONDS
        for client in clients:
            client.join(max(0.0, until - time.monotonic()))

    def _answer(self, request: Request) -> bytes:
        try:
            return _line({"ok": True} | self._handle(request))
        except UsageError as error:
            return _refusal(error)
        except Exception as error:  # the run must not end because somebody asked
            return _line(
                {"ok": False, "error": f"Something that nobody foresaw: {error!r}.", "exit_code": 1}
            )

    # In the thread that accepts.

    def _accept(self) -> None:
        assert self._listener and self._enders
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._enders[1], selectors.EVENT_READ)
            while all(key.fileobj is self._listener for key, _ in selector.select()):
                try:
                    client, _ = self._listener.accept()
                    self._welcome(client)
                except (OSError, RuntimeError):
                    # No descriptor or no thread is left: it may be better in a moment.
                    time.sleep(0.1)

    def _welcome(self, client: socket.socket) -> None:
        thread = threading.Thread(
            target=self._converse, args=(client,), name="ctl client", daemon=True
        )
        with self._mutex:
            many = len(self._clients) >= _MOST_CLIENTS
            if not many:
                self._clients.add(thread)
        if many:
            with client:
                client.setblocking(False)
                client.sendall(_refusal(TemporaryError("Too many ask at once; try again.")))
            return
        try:
            thread.start()
        except RuntimeError:
            client.close()
            with self._mutex:
                self._clients.discard(thread)
            raise

    # In a client's thread.

    def _converse(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):  # it has gone
                answer = self._answer_to(client)
                client.settimeout(self._request_seconds)
                client.sendall(answer)
        finally:
            with self._mutex:
                self._clients.discard(threading.current_thread())

    def _answer_to(self, client: socket.socket) -> bytes:
        try:
            line = receive_line(client, self._request_seconds, _MOST_REQUEST_BYTES)
            return self._pass_on(decode(line))
        except TimeoutError:
            return _refusal(UsageError("The request did not come in time."))
        except UsageError as error:
            return _refusal(error)

    def _pass_on(self, request: Request) -> bytes:
        answer: Future[bytes] = Future()
        with self._mutex:
            if self._ending:
                return _refusal(TemporaryError("The run has just ended."))
            self._asked.put((request, answer))
        self._wake()
        try:
            return answer.result(self._answer_seconds)
        except CancelledError:
            return _refusal(TemporaryError("The run has just ended."))
        except TimeoutError:
            if not answer.cancel():
                return answer.result()  # it is being done
        return _refusal(
            TemporaryError(
                f"The run was busy for {self._answer_seconds:g} s and did not do what was asked; "
                "try again."
            )
        )


def _listen(path: Path) -> socket.socket:
    """A socket at a path, for its owner alone: nobody can connect before `listen`."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with address_of(path) as address:
            listener.bind(address)
        try:
            path.chmod(0o600)
            listener.listen()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        listener.setblocking(False)  # who wanted to connect may have gone before `accept`
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """A name of a socket that is short enough for an address, for as long as the context lasts.

    Raises:
        OSError: the folder cannot be opened.
    """
    if len(os.fsencode(path)) <= _MOST_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def receive_line(connection: socket.socket, seconds: float, most_bytes: int) -> bytes:
    """What comes before the first line end.

    Raises:
        TimeoutError: it took longer, all in all.
        UsageError: it is longer, or the other side said less than a line.
        OSError: the connection broke.
    """
    until = time.monotonic() + seconds
    line = bytearray()
    while b"\n" not in line:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(4096)
        if not part:
            raise UsageError("The connection ended before a whole line had come.")
        line += part
        if len(line) > most_bytes:
            raise UsageError(f"The line is longer than {most_bytes} bytes.")
    return bytes(line.partition(b"\n")[0])


def _refusal(error: UsageError | TemporaryError) -> bytes:
    return _line({"ok": False, "error": str(error), "exit_code": error.exit_code})


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"
