"""The control socket of a running job: query, pause and resume it, and change its limits.

The socket is beside the job's ledger and only its owner can open it. A client connects, sends one
line of JSON, receives one, and is done::

    {"do": "set", "max-keys-per-sec": "5000", "max-source-cpu": "off"}
    {"do": "pause"}      {"do": "resume"}      {"do": "status"}
    {"do": "accept-deletes"}      {"do": "accept-failures"}
    {"do": "cutover", "timeout": "60s", "verify": "changed", "ignore": ["health:*"]}
    {"do": "cancel-cutover"}

    {"ok": true, ...}    {"ok": false, "error": "one sentence", "exit_code": 2}

Algorithm: a thread accepts clients, and a thread for each (there are few) reads its request. Only
the thread that owns a run's state may execute it: requests wait in a queue until that thread calls
`CtlServer.serve`. A client whose request is not started in time receives an error, and the request
is dropped: a refused request is never executed later.

The size and the time of a request and the number of clients are bounded, so that none can block
others or the run. A copy never fails because of its socket: without one, the run continues and
cannot be controlled.

Not promised: sockets on every file system. (Network file systems have none, or show ours to other
machines, where no process answers.)
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from rumpx.errors import TemporaryError, UsageError
from rumpx.model.follow import CutoverCheck
from rumpx.model.limits import NAMED
from rumpx.units import parse_seconds

_MOST_CLIENTS: Final = 16
_MOST_REQUEST_BYTES: Final = 4096
_REQUEST_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 5.0
_LAST_ANSWERS_SECONDS: Final = 1.0
# Linux accepts 107 bytes in an address, others a few less.
_MOST_PATH_BYTES: Final = 100


@dataclass(frozen=True, slots=True)
class Set:
    """Change limits: (name, value) pairs. The names are those of `limits.NAMED`, the values the
    user's text, as for the flags of these names; `off` for none."""

    changes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Copy nothing until `Resume`."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue after `Pause`."""


@dataclass(frozen=True, slots=True)
class Status:
    """Return progress and limits of the run."""


@dataclass(frozen=True, slots=True)
class AcceptDeletes:
    """To a follow: delete the keys that wait for the user's consent."""


@dataclass(frozen=True, slots=True)
class AcceptFailures:
    """To a follow: the keys that have failed so far need not be on the target."""


@dataclass(frozen=True, slots=True)
class CancelCutover:
    """To a follow: end the cutover that is under way, unless all is proven already."""


@dataclass(frozen=True, slots=True)
class Cutover:
    """To a follow: prove that the target has all that the source has, and end the job.

    Attributes:
        timeout: seconds for the source to become quiet.
        verify: see `model.follow.CutoverCheck`.
        ignore: globs of keys that may still be written.
        accept_failed: end it although keys have failed, were copied with a loss, or cannot be
            compared.
    """

    timeout: float = 60.0
    verify: CutoverCheck = "changed"
    ignore: tuple[str, ...] = ()
    accept_failed: bool = False


Plain = Pause | Resume | Status | AcceptDeletes | AcceptFailures | CancelCutover
Request = Set | Cutover | Plain
_PLAIN: Final[dict[str, Plain]] = {
    "pause": Pause(),
    "resume": Resume(),
    "status": Status(),
    "accept-deletes": AcceptDeletes(),
    "accept-failures": AcceptFailures(),
    "cancel-cutover": CancelCutover(),
}
_VERB_OF: Final = {request: verb for verb, request in _PLAIN.items()}
_ACCEPT_FAILED: Final = "accept-failed"
_CUTOVER: Final = ("timeout", "verify", "ignore", _ACCEPT_FAILED)
VERBS: Final = ("set", "cutover", *_PLAIN)


def encode(request: Request) -> bytes:
    """Encode a request as a line."""
    fields: dict[str, Any]
    if isinstance(request, Set):
        fields = {"do": "set"} | dict(request.changes)
    elif isinstance(request, Cutover):
        fields = {
            "do": "cutover",
            "timeout": f"{request.timeout}s",
            "verify": request.verify,
            "ignore": list(request.ignore),
            _ACCEPT_FAILED: request.accept_failed,
        }
    else:
        fields = {"do": _VERB_OF[request]}
    return json.dumps(fields).encode() + b"\n"


def decode(line: bytes) -> Request:
    """Decode a request from a line.

    Raises:
        UsageError: the line is no request.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("The request is not a line of JSON.") from None
    if not isinstance(fields, dict) or not isinstance(verb := fields.pop("do", None), str):
        raise UsageError('The request must be a JSON object with "do".')
    if verb == "set":
        return make_set(tuple(fields.items()))
    if verb == "cutover":
        return make_cutover(fields)
    if verb not in _PLAIN:
        raise UsageError(f"{verb[:40]!r} is not a request; use {', '.join(VERBS)}.")
    if fields:
        raise UsageError(f"{verb} takes no argument; leave out {str(next(iter(fields)))[:40]!r}.")
    return _PLAIN[verb]


def make_set(changes: tuple[tuple[str, Any], ...]) -> Set:
    """Return a request for limits; names are checked here, values where they are set.

    Raises:
        UsageError: no limit, an unknown one, one twice, or a value that is empty or not text.
    """
    if not changes:
        raise UsageError("set needs a limit, for example max-keys-per-sec=5000.")
    names = [name for name, _ in changes]
    for name, value in changes:
        if name not in NAMED:
            raise UsageError(
                f"{name[:40]!r} cannot be set during a copy; these can: {', '.join(NAMED)}."
            )
        if names.count(name) > 1:
            raise UsageError(f"{name} is set twice; give one value.")
        if not isinstance(value, str) or not value:
            raise UsageError(f"{name} needs a value as for --{name}, or off for none.")
    return Set(changes)


def make_cutover(fields: Mapping[str, Any]) -> Cutover:
    """Return a request for a cutover from its options.

    Raises:
        UsageError: an option is unknown, or its value invalid.
    """
    if unknown := [name for name in fields if name not in _CUTOVER]:
        raise UsageError(
            f"{unknown[0][:40]!r} is no option of cutover; use timeout=60s, verify=changed, "
            "ignore=PATTERN or accept-failed."
        )
    verify, ignore = fields.get("verify", "changed"), fields.get("ignore", [])
    if verify not in get_args(CutoverCheck):
        raise UsageError(f"verify={str(verify)[:40]}: use {', '.join(get_args(CutoverCheck))}.")
    if not isinstance(ignore, list) or not all(isinstance(glob, str) and glob for glob in ignore):
        raise UsageError("ignore needs a pattern of keys, as in ignore=health:*.")
    accepts = fields.get(_ACCEPT_FAILED, False)
    if not isinstance(accepts, bool):
        raise UsageError(f"{_ACCEPT_FAILED} takes no value; give it alone, or leave it out.")
    timeout = parse_seconds(str(fields.get("timeout", "60s")), "timeout")
    return Cutover(timeout, verify, tuple(ignore), accepts)


def _cutover_words(words: list[str]) -> Cutover:
    fields: dict[str, Any] = {"ignore": []}
    for word in words:
        if word == _ACCEPT_FAILED:
            fields[word] = True
            continue
        name, value = _change(word)
        if name == "ignore":
            fields[name].append(value)
        elif name in fields:
            raise UsageError(f"{name} is given twice; give one value.")
        else:
            fields[name] = value
    return make_cutover(fields)


def read_words(words: list[str]) -> tuple[str | None, Request]:
    """Parse the words of `rumpx ctl`: a job's name, if they start with one, and a request.

    Only NAME=VALUE follows a verb, so that a job may have the name of a verb.

    Raises:
        UsageError: the words are invalid.
    """
    name = None
    if len(words) > 1 and words[1] in VERBS:
        name, *words = words
    verb, *rest = words or [""]
    if verb == "set":
        return name, make_set(tuple(_change(word) for word in rest))
    if verb == "cutover":
        return name, _cutover_words(rest)
    if verb not in _PLAIN:
        raise UsageError(
            f"rumpx ctl needs a job and an action: {', '.join(VERBS)}. See rumpx ctl --help."
        )
    if rest:
        raise UsageError(f"{verb} takes no argument; leave out {rest[0][:40]!r}.")
    return name, _PLAIN[verb]


def _change(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"{word[:40]!r}: write NAME=VALUE, for example max-source-cpu=50.")
    return name, value


class CtlServer:
    """The server's end. All methods but `serve` are quick; clients cannot make any of them raise.

    One thread, the owner of the run's state, calls all methods: `start`; `serve` in each turn of
    its loop; `close`, before it releases the job, since the job's next run puts its socket in the
    same place.

    Args:
        path: of the socket, `ledger.paths.ctl_path`. A socket left by a killed run is replaced: the
            caller holds the job.
        handle: executes a request and returns the reply's fields for JSON. `serve` calls it.
            UsageError refuses the request; no other exception propagates either.
        wake: called by other threads when `serve` has work to do; `Control.wake`.
        request_seconds, answer_seconds: for a client to send its request, and for `serve` to start
            it.
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
        self._mutex = threading.Lock()  # guards the attributes below
        self._clients: set[threading.Thread] = set()
        self._ending = False
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._enders: tuple[socket.socket, socket.socket] | None = None

    def start(self) -> str:
        """Start to accept clients; return "", or a warning with the reason for no socket."""
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
                f"rumpx ctl cannot reach this run: cannot create its socket {self._path} "
                f"({reason}). The run continues without it."
            )
        return ""

    def serve(self) -> None:
        """Execute the requests since the last call. Does not wait."""
        while True:
            try:
                request, answer = self._asked.get_nowait()
            except queue.Empty:
                return
            if answer.set_running_or_notify_cancel():
                answer.set_result(self._answer(request))

    def close(self) -> None:
        """Remove the socket; clients that still wait receive an error."""
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
        except Exception as error:  # a request must not end the run
            return _line(
                {"ok": False, "error": f"Unexpected error: {error!r}.", "exit_code": 1}
            )

    # In the accepting thread.

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
                    # No descriptor or no thread is left: retry in a moment.
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
                client.sendall(_refusal(TemporaryError("Too many clients at once; try again.")))
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
            with client, contextlib.suppress(OSError):  # it has disconnected
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
            return _refusal(UsageError("The request did not arrive in time."))
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
                return answer.result()  # already started
        return _refusal(
            TemporaryError(
                f"The run was busy for {self._answer_seconds:g} s and did not execute the request; "
                "try again."
            )
        )


def _listen(path: Path) -> socket.socket:
    """Create a socket at a path, for its owner only: no client can connect before `listen`."""
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
        listener.setblocking(False)  # a client may disconnect before `accept`
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield a name of a socket that is short enough for an address, valid within the context.

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
    """Read up to the first line end.

    Raises:
        TimeoutError: it took longer in total.
        UsageError: the line is too long or incomplete.
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
            raise UsageError("The connection ended before a complete line.")
        line += part
        if len(line) > most_bytes:
            raise UsageError(f"The line is longer than {most_bytes} bytes.")
    return bytes(line.partition(b"\n")[0])


def _refusal(error: UsageError | TemporaryError) -> bytes:
    return _line({"ok": False, "error": str(error), "exit_code": error.exit_code})


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"
