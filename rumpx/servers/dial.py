"""Open authenticated connections to an Endpoint.

A socket is connected (TCP, unix), wrapped in TLS by `tls`, and given to a `resp.Connection`, which
logs in and greets in one pipeline, and limits the time for each answer. The protocol stays RESP2,
since older servers refuse HELLO 3. Nothing is retried here: the part that holds the keys decides
what to repeat.

For a sentinel endpoint each connect asks the sentinels again and checks by ROLE that the answer is
a primary: a sentinel may lag behind a failover.

`Dialer` is plain data and can be sent to worker processes; it then holds the passwords.

A connection that may write carries a name, by which it can be ended at the server once its process
is gone (`clients`, `engine.fence`). A worker first names it and then checks that its coordinator is
alive; a run that takes over the job first takes the coordinator's lock and then ends all
connections of that name. So each connection is found there, or is never written to, however slow
its worker is.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import hiredis

from rumpx.errors import ConnectionLost, MachineLimit, RumpxError, Side, machine_limit, unusable
from rumpx.model.endpoint import Address, Endpoint, ReadFrom, format_address, is_host
from rumpx.servers.info import info_fields
from rumpx.servers.redials import Redials, Turn
from rumpx.servers.replies import Kind, classify, is_farewell, malformed, port_of
from rumpx.servers.resp import Connection
from rumpx.servers.tls import Port, client_context, flag_of

if TYPE_CHECKING:
    import ssl

CLIENT_NAME: Final = "rumpx"
# A peer that has vanished without a word ends its connections within a minute.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def _hangs_up(connection: Connection) -> bool:
    """Return True if PING is answered and the connection is lost at INFO.

    Raises:
        ConnectionLost: PING is not answered either.
    """
    try:
        if connection.call("PING") != b"PONG":
            return False
        try:
            connection.call("INFO", "server")
        except ConnectionLost:
            return True
        return False
    finally:
        connection.close()


def _no_socket() -> MachineLimit | None:
    """Return the limit that prevents new sockets; a lookup then fails as if the name were
    unknown."""
    try:
        socket.socket().close()
    except OSError as error:
        return machine_limit(error)
    return None


def _tcp_socket(address: Address, seconds: float) -> socket.socket:
    """Return a connected TCP socket; `seconds` limits each of its waits, too.

    Raises:
        OSError, ValueError: not reached; not a valid host name.
    """
    sock = socket.create_connection(address, seconds)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if option := getattr(socket, name, None):  # not on every system
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except BaseException:
        sock.close()
        raise
    return sock


def _unix_socket(path: str, seconds: float) -> socket.socket:
    """Return a connected unix socket.

    Raises:
        OSError: not reached.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, context: ssl.SSLContext, server_name: str) -> socket.socket:
    """Return a socket after the TLS handshake, closing it if that fails.

    Raises:
        OSError, ValueError: the handshake failed; not a valid host name.
    """
    try:
        return context.wrap_socket(sock, server_hostname=server_name)
    except BaseException:
        sock.close()
        raise


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens connections to one side.

    Attributes:
        endpoint: the address and the login.
        side: selects the error class and the wording.
        connect_timeout: seconds for connecting and logging in.
        timeout: seconds for each later wait.
        no_touch: send CLIENT NO-TOUCH ON, so that reads leave LRU and LFU unchanged.
        greets: set the client name on each connection.
        read_from: which nodes are read; for replicas READONLY is sent, without which a cluster's
            replicas redirect all clients to their primaries.
        identifies: learn the process of the server on each connection (`Connection.process`).
        writer: the name of connections that may write; "" if none does.
        lives: in a worker, returns False once its coordinator has ended: a connection opened then
            is not used. None in the coordinator itself.
        redials: when to dial an unreachable place again; None, at the start: at once.
    """

    endpoint: Endpoint
    side: Side
    connect_timeout: float
    timeout: float
    no_touch: bool = False
    read_from: ReadFrom = "primary"
    greets: bool = True
    identifies: bool = False
    writer: str = ""
    lives: Callable[[], bool] | None = None
    redials: Redials | None = None

    def connect(self, address: Address | None = None) -> Connection:
        """Return a connection to a node's announced address, or to the endpoint itself.

        Raises:
            ConnectionLost: no answer, or not in time: may pass.
            SourceUnusable, TargetUnusable: wrong password, certificate or protocol: will not pass.
        """
        endpoint = self.endpoint
        if endpoint.transport == "unix":
            return self._open(
                lambda: _unix_socket(endpoint.path, self.connect_timeout), endpoint.path
            )
        if address is None:
            if endpoint.transport == "sentinel":
                with self._turn(str(endpoint)):
                    return self._connect_primary()
            address = endpoint.addresses[0]
        return self._open_announced(address)

    def hangs_up(self) -> bool:
        """Return True if the endpoint's first address answers PING and closes the connection at any
        other command, twice in a row, as twemproxy does."""
        bare = replace(self, greets=False)
        address = next(iter(self.endpoint.addresses), None)
        try:
            return all(_hangs_up(bare.connect(address)) for _ in range(2))
        except RumpxError:
            return False

    def _connect_primary(self) -> Connection:
        """Ask each sentinel in turn for the primary; accept only a server whose ROLE confirms."""
        complaint = "no sentinel was asked"
        for sentinel in self.endpoint.addresses:
            try:
                primary = self._ask_sentinel(sentinel)
                if primary is None:
                    complaint = (
                        f"the sentinel at {format_address(sentinel)} knows no service "
                        f"{self.endpoint.service!r}"
                    )
                    continue
                connection = self._open_announced(primary)
            except ConnectionLost as error:
                complaint = str(error).rstrip(".")
                continue
            role = connection.call("ROLE")
            if isinstance(role, list) and role[:1] == [b"master"]:
                return connection
            connection.close()
            name = format_address(primary)
            complaint = f"{name} is not a primary (yet)"
            if isinstance(role, hiredis.ReplyError):
                complaint = f"{name} answered ROLE with: {str(role).rstrip('.')}"
        raise ConnectionLost(f"No primary of {self.endpoint} was found: {complaint}.")

    def _ask_sentinel(self, sentinel: Address) -> Address | None:
        connection = self._open_tcp(sentinel, sentinel=True)
        reply = connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.endpoint.service)
        connection.close()
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("ERR unknown command"):
                reply = hiredis.ReplyError("it is not a sentinel")
            raise self._refused(format_address(sentinel), str(reply))
        match reply:
            case None:
                return None
            case [bytes(host), bytes(port)] if (number := port_of(port)):
                return host.decode(errors="backslashreplace"), number
        raise malformed(self.side, connection.name, "SENTINEL GET-MASTER-ADDR-BY-NAME")

    def _open_announced(self, address: Address) -> Connection:
        """Dial an address that the user gave or a server announced."""
        try:
            return self._open_tcp(address)
        except ConnectionLost as error:
            ours = self.endpoint.transport == "tcp" and address in self.endpoint.addresses
            if ours or not error.unreached:
                raise
            told = f"{error} {self._announced(address)}"
            raise ConnectionLost(told, cause=error.cause) from None

    def _announced(self, address: Address) -> str:
        """Return advice for an announced address that cannot be reached from here."""
        name, flag = format_address(address), "from" if self.side == "source" else "to"
        if self.endpoint.mapped(address) != address:
            return f"--{flag}-map-address maps the announced address {name} to it."
        sentinel = self.endpoint.transport == "sentinel"
        teller = "the sentinels announce" if sentinel else "the cluster announces"
        return (
            f"That is the address that {teller}; if the node has another address from here, give "
            f"--{flag}-map-address {name}=HOST:PORT."
        )

    def _open_tcp(self, address: Address, *, sentinel: bool = False) -> Connection:
        """Dial the mapped address; check the certificate for the name before mapping."""
        endpoint = self.endpoint
        tls = None if sentinel and endpoint.sentinels_plain else endpoint.tls
        # An IPv6 address may have a zone, which concerns only this machine.
        server_name = (tls and tls.server_name) or address[0].partition("%")[0]
        place = endpoint.mapped(address)
        if tls and not is_host(server_name):
            raise unusable(self.side)(
                f"The certificate of the {self.side} cannot be checked for {server_name!r}, "
                f"which is not a host name. Give one with {flag_of(self.side)}-server-name NAME."
            )
        context = client_context(tls, self.side) if tls else None

        def dial() -> socket.socket:
            sock = _tcp_socket(place, self.connect_timeout)
            return _secured(sock, context, server_name) if context else sock

        what = "sentinel" if sentinel else self.side
        tried = Port(
            self.side, place, tls, server_name, self.connect_timeout, what, self._otherwise(what)
        )
        return self._open(dial, format_address(place), tried)

    def _otherwise(self, what: str) -> str:
        """Return how to write that a port speaks the other of TLS and plain text."""
        endpoint = self.endpoint
        secure, flag = endpoint.tls is not None, flag_of(self.side)
        if endpoint.transport != "sentinel":
            return f"write {'redis' if secure else 'rediss'}:// in {flag}"
        if what != "sentinel":
            if secure:
                return f"write redis+sentinel:// in {flag}"
            return (
                f"write rediss+sentinel:// in {flag}, with ?sentinels=plain at its end, since the "
                "sentinels do not"
            )
        if endpoint.sentinels_plain:
            return f"leave ?sentinels=plain out of {flag}"
        if secure:
            return (
                f"write ?sentinels=plain at the end of {flag} if the primary does, else "
                "redis+sentinel://"
            )
        return f"write rediss+sentinel:// in {flag}"

    def _turn(self, name: str) -> AbstractContextManager[Turn | None]:
        """Enter one try to reach a place, by its name."""
        return self.redials.turn(f"{self.side} {name}") if self.redials else nullcontext()

    def _open(
        self, dial: Callable[[], socket.socket], name: str, tried: Port | None = None
    ) -> Connection:
        with self._turn(name) as turn:
            return self._open_now(dial, name, tried, turn)

    def _open_now(
        self, dial: Callable[[], socket.socket], name: str, tried: Port | None, turn: Turn | None
    ) -> Connection:
        try:
            sock = dial()
        except (OSError, ValueError) as error:
            raise self._explain(name, error, tried, turn) from None
        connection = Connection(sock, name, side=self.side)
        connection.set_timeout(self.connect_timeout)
        if self.writer:
            # Discard unsent data when the socket is closed or its process is killed.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._greet(connection, tried, turn)
        connection.set_timeout(self.timeout)
        return connection

    def _greet(self, connection: Connection, tried: Port | None, turn: Turn | None) -> None:
        """Log in and set the client name; a server or service that refuses names is used without.

        Raises:
            ConnectionLost, SourceUnusable, TargetUnusable: as `connect`.
        """
        login = self._login(tried.what if tried else self.side)
        names = self._names() if self.greets else []
        if not login and not names:
            return
        try:
            replies = connection.greet(login + names)
            if login and "wrong number of arguments" in str(replies[0]):
                login = [("AUTH", login[0][-1])]  # Redis before 6.0 has no users
                replies = connection.greet(login + names)
        except ConnectionLost as error:
            told = error.words or error.silent
            if tried and not told and _is_news(turn, error) and (why := tried.explain(error)):
                raise why from None
            if error.cause == "malformed":
                raise unusable(self.side)(f"{error} Check {flag_of(self.side)}.") from None
            raise
        first = replies[0]
        if isinstance(first, hiredis.ReplyError) and (login or is_farewell(first)):
            connection.close()
            raise self._turned_away(connection.name, str(first).rstrip("."))
        if self.greets and self.writer and isinstance(number := replies[len(login) + 1], int):
            connection.id = number
        if self.greets and self.identifies and isinstance(replies[-1], bytes):
            connection.process = info_fields(replies[-1].decode(errors="replace")).get("run_id", "")
        if self.lives and not self.lives():
            connection.close()
            raise ConnectionLost("The coordinator has ended.")

    def _login(self, what: str) -> list[tuple[str, ...]]:
        """Return AUTH, if there is a user or a password."""
        endpoint = self.endpoint
        user, password = endpoint.username, endpoint.password
        if what == "sentinel":
            user, password = endpoint.sentinel_username, endpoint.sentinel_password
        if user:
            return [("AUTH", user, password or "")]
        return [] if password is None else [("AUTH", password)]

    def _names(self) -> list[tuple[str, ...]]:
        """Return the commands that set our name, and our effect on LRU, LFU and replicas."""
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", self.writer or CLIENT_NAME)]
        if self.writer:
            commands.append(("CLIENT", "ID"))
        if self.no_touch:
            commands.append(("CLIENT", "NO-TOUCH", "ON"))
        if self.read_from != "primary":
            commands.append(("READONLY",))  # refused, and not needed, outside a cluster
        if self.identifies:
            commands.append(("INFO", "server"))
        return commands

    def _turned_away(self, name: str, words: str) -> RumpxError:
        """Return the exception for a first reply that refuses the client, not the command."""
        if words.startswith("NOAUTH"):
            return self._refused(name, "it requires a password, and none was given")
        # Servers without AUTH repeat its arguments in the error: the password.
        words = words.partition(", with args")[0]
        if classify(words).kind is not Kind.TEMPORARY:
            return self._refused(name, f"login failed: {words}")
        return ConnectionLost(f"The {self.side} at {name} does not serve clients now: {words}.")

    def _refused(self, name: str, reason: str) -> RumpxError:
        flag = flag_of(self.side)
        return unusable(self.side)(
            f"The {self.side} at {name} rejected the connection: {reason}. Check the user and "
            f"password (RUMPX_{flag[2:].upper()}_PASSWORD, {flag}-password-file or the URI)."
        )

    def _explain(
        self, name: str, error: OSError | ValueError, tried: Port | None, turn: Turn | None
    ) -> RumpxError:
        """Classify a failed dial: a bad certificate is permanent, a refused connection may pass."""
        if limit := machine_limit(error) or _no_socket():
            return limit
        told = (isinstance(error, OSError) and error.strerror) or str(error)
        silent = isinstance(error, TimeoutError)
        lost = ConnectionLost(
            f"The {self.side} at {name} cannot be reached: {told.strip('. ')}.",
            cause="silent" if silent else "",
            unreached=True,
        )
        nameless = not isinstance(error, OSError)  # not a valid host name: nothing was dialled
        if tried and not nameless and _is_news(turn, lost):
            return tried.explain(error) or lost
        return lost


def _is_news(turn: Turn | None, lost: ConnectionLost) -> bool:
    """Return True if further connections should explain this failure."""
    return turn is None or turn.failed(lost)
