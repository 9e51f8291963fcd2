"""From an Endpoint to authenticated connections. The only importer of redis-py.

redis-py connects (TCP, TLS, unix socket), checks certificates and logs in; the socket is then
taken over by our own `resp.Connection`. RESP2 is asked for explicitly, since older servers refuse
HELLO 3 and redis-py does not fall back; its retries are off, since whoever holds keys must decide
what is repeated.

For a sentinel endpoint each connect asks the sentinels anew and checks by ROLE that the answer
really is a primary: a sentinel may lag behind a failover.

`Dialer` is plain data and can be sent to worker processes; it then holds the passwords.

A connection that may write carries a name by which it can be ended at the server once its process
is gone (`clients`, `copy.fence`). A worker first names it and then looks whether its coordinator
lives; whoever takes the job over first takes the coordinator's lock and then ends what has such a
name. So a connection is found there, or never written to, however slow its worker is.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from dataclasses import dataclass, replace
from typing import Any

import hiredis
import redis
import redis.exceptions
from redis.connection import Connection as RedisConnection
from redis.connection import SSLConnection, UnixDomainSocketConnection

from rumpx.errors import ConnectionLost, MachineLimit, RumpxError, Side, machine_limit, unusable
from rumpx.job import Address, Endpoint, ReadFrom, format_address
from rumpx.servers.replies import Kind, classify, is_farewell
from rumpx.servers.resp import Connection

CLIENT_NAME = "rumpx"


def set_timeout(sock: socket.socket, seconds: float) -> None:
    """Bound each wait of a socket.

    The kernel does it for plain sockets: with Python's own timeout each send and receive would be
    preceded by a poll(), which is a tenth of what a pipeline costs us. TLS needs Python's.
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(seconds)
        return
    sock.settimeout(None)
    timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, timeval)


def _hung_up(descriptor: int) -> bool:
    """Whether the other end of a channel is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _hangs_up(connection: Connection) -> bool:
    """Whether PING is answered, and then INFO is not.

    Raises:
        ConnectionLost: not even PING.
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
    """Whether no socket is to be had: looking up a name then fails as if the name were unknown."""
    try:
        socket.socket().close()
    except OSError as error:
        return machine_limit(error)
    return None


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens connections to one side.

    Attributes:
        endpoint: where to, and as whom.
        side: decides the error class and the wording.
        connect_timeout: seconds for connecting and logging in.
        timeout: seconds for each later wait.
        no_touch: send CLIENT NO-TOUCH ON, so that reading leaves LRU and LFU alone.
        greets: name ourselves on each connection.
        read_from: whether replicas are to be read; then READONLY is sent, without which those of
            a cluster send everybody to their primaries.
        writer: the name of connections that may write; "" if none does.
        lifeline: in a worker, the descriptor of its channel: a connection is of use only as long
            as the coordinator holds the other end. -1 in the coordinator itself.
    """

    endpoint: Endpoint
    side: Side
    connect_timeout: float
    timeout: float
    no_touch: bool = False
    read_from: ReadFrom = "primary"
    greets: bool = True
    writer: str = ""
    lifeline: int = -1

    def connect(self, address: Address | None = None) -> Connection:
        """A connection to a node's announced address, or without one to the endpoint itself.

        Raises:
            ConnectionLost: nobody answers there, or not in time: may pass.
            SourceUnusable, TargetUnusable: wrong password, certificate or protocol: will not pass.
        """
        endpoint = self.endpoint
        if endpoint.transport == "unix":
            make: Any = UnixDomainSocketConnection
            return self._open(make(path=endpoint.path, **self._login()), endpoint.path)
        if address is None:
            if endpoint.transport == "sentinel":
                return self._connect_primary()
            address = endpoint.addresses[0]
        return self._open_tcp(endpoint.mapped(address), self._login())

    def hangs_up(self) -> bool:
        """Whether what is at the endpoint's first address answers PING and ends the connection at
        any other command of ours, twice in a row, as twemproxy does."""
        bare = replace(self, greets=False)
        address = next(iter(self.endpoint.addresses), None)
        try:
            return all(_hangs_up(bare.connect(address)) for _ in range(2))
        except RumpxError:
            return False

    def _connect_primary(self) -> Connection:
        """Ask each sentinel in turn for the primary, and believe only a server that says so."""
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
                connection = self._open_tcp(self.endpoint.mapped(primary), self._login())
            except ConnectionLost as error:
                complaint = str(error).rstrip(".")
                continue
            role = connection.call("ROLE")
            if isinstance(role, list) and role[0] == b"master":
                return connection
            connection.close()
            name = format_address(primary)
            complaint = f"{name} is not a primary (yet)"
            if isinstance(role, hiredis.ReplyError):
                complaint = f"{name} answered ROLE with: {str(role).rstrip('.')}"
        raise ConnectionLost(f"No primary of {self.endpoint} was found: {complaint}.")

    def _ask_sentinel(self, sentinel: Address) -> Address | None:
        login = self._login() | {
            "username": self.endpoint.sentinel_username,
            "password": self.endpoint.sentinel_password,
        }
        connection = self._open_tcp(sentinel, login)
        reply = connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.endpoint.service)
        connection.close()
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("ERR unknown command"):
                reply = hiredis.ReplyError("it is not a sentinel")
            raise self._refused(format_address(sentinel), str(reply))
        if not isinstance(reply, list):
            return None
        host, port = reply
        assert isinstance(host, bytes) and isinstance(port, bytes)
        return host.decode(), int(port)

    def _open_tcp(self, address: Address, login: dict[str, Any]) -> Connection:
        tls = self.endpoint.tls
        login |= {"host": address[0], "port": address[1]}
        make: Any = RedisConnection
        if tls is not None:
            make = SSLConnection
            login |= {
                "ssl_ca_certs": tls.ca,
                "ssl_certfile": tls.cert,
                "ssl_keyfile": tls.key,
                "ssl_cert_reqs": "none" if tls.insecure else "required",
            }
        return self._open(make(**login), format_address(address))

    def _login(self) -> dict[str, Any]:
        return {
            "username": self.endpoint.username,
            "password": self.endpoint.password,
            "socket_connect_timeout": self.connect_timeout,
            "socket_timeout": self.connect_timeout,
            "protocol": 2,
            "retry": None,
            "driver_info": None,
        }

    def _open(self, link: Any, name: str) -> Connection:
        # `Any`: redis-py's connections are only partly annotated.
        try:
            link.connect()
        except redis.exceptions.AuthenticationError as error:
            raise self._refused(name, f"login failed: {str(error).rstrip('.')}") from None
        except redis.exceptions.RedisError as error:
            raise self._explain(name, error) from None
        except (ssl.SSLError, OSError) as error:
            raise self._explain(name, error) from None
        # The socket is ours from here on; redis-py has no public way to hand it over.
        sock: socket.socket = link._sock
        link._sock = None
        connection = Connection(sock, name)
        if self.writer:
            # What is not sent yet when it is closed, or its process is killed, is not sent later.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self.greets:
            self._greet(connection)
        set_timeout(sock, self.timeout)
        return connection

    def _greet(self, connection: Connection) -> None:
        """Name ourselves; a server or service that refuses these is served all the same."""
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", self.writer or CLIENT_NAME)]
        if self.writer:
            commands.append(("CLIENT", "ID"))
        if self.no_touch:
            commands.append(("CLIENT", "NO-TOUCH", "ON"))
        if self.read_from != "primary":
            commands.append(("READONLY",))  # refused where there is no cluster, and not needed
        first, *others = connection.call_many(commands)
        if isinstance(first, hiredis.ReplyError) and is_farewell(first):
            connection.close()
            raise self._turned_away(connection.name, str(first).rstrip("."))
        if self.writer and isinstance(others[0], int):
            connection.id = others[0]
        if self.lifeline >= 0 and _hung_up(self.lifeline):
            connection.close()
            raise ConnectionLost("The coordinator is gone.")

    def _turned_away(self, name: str, words: str) -> RumpxError:
        """What a server's first answer means that is about us, not about our command."""
        if words.startswith("NOAUTH"):
            return self._refused(name, "it asks for a password, and none was given")
        if classify(words).kind is Kind.PERMANENT:
            return self._refused(name, words)
        return ConnectionLost(f"The {self.side} at {name} does not serve us now: {words}.")

    def _refused(self, name: str, reason: str) -> RumpxError:
        flag = "FROM" if self.side == "source" else "TO"
        return unusable(self.side)(
            f"The {self.side} at {name} does not let us in: {reason}. Check the user and password "
            f"(RUMPX_{flag}_PASSWORD, --{flag.lower()}-password-file or the URI)."
        )

    def _explain(self, name: str, error: Exception) -> RumpxError:
        """A certificate will not get better by waiting; a refused connection may."""
        if limit := machine_limit(error) or _no_socket():
            return limit
        text = str(error)
        if isinstance(error, FileNotFoundError) and self.endpoint.transport != "unix":
            return unusable(self.side)(
                f"A certificate or key file for the {self.side} cannot be read: {text}."
            )
        if "PEM lib" in text or "KEY_VALUES_MISMATCH" in text:
            flag = "--from" if self.side == "source" else "--to"
            return unusable(self.side)(
                f"The files of {flag}-cert and {flag}-key hold no certificate with its key, as PEM."
            )
        if "certificate" in text.lower() or "CERTIFICATE" in text:
            return unusable(self.side)(
                f"The {self.side} at {name} was not trusted: {text.strip('. ')}. Give its "
                f"authority by --{'from' if self.side == 'source' else 'to'}-ca FILE."
            )
        if isinstance(error, ssl.SSLError) or "SSL" in text:
            return unusable(self.side)(
                f"The {self.side} at {name} does not speak TLS with us: {text.strip('. ')}."
            )
        return ConnectionLost(f"The {self.side} at {name} cannot be reached: {text.strip('. ')}.")
