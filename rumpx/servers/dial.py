"""From an Endpoint to authenticated connections. The only importer of redis-py.

redis-py connects (TCP, TLS, unix socket), checks certificates and logs in; the socket is then
taken over by our own `resp.Connection`. RESP2 is asked for explicitly, since older servers refuse
HELLO 3 and redis-py does not fall back; its retries are off, since whoever holds keys must decide
what is repeated.

For a sentinel endpoint each connect asks the sentinels anew and checks by ROLE that the answer
really is a primary: a sentinel may lag behind a failover.

`Dialer` is plain data and can be sent to worker processes; it then holds the passwords.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

import hiredis
import redis
import redis.exceptions
from redis.connection import Connection as RedisConnection
from redis.connection import SSLConnection, UnixDomainSocketConnection

from rumpx.errors import ConnectionLost, RumpxError, Side, unusable
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


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens connections to one side.

    Attributes:
        endpoint: where to, and as whom.
        side: decides the error class and the wording.
        connect_timeout: seconds for connecting and logging in.
        timeout: seconds for each later wait.
        no_touch: send CLIENT NO-TOUCH ON, so that reading leaves LRU and LFU alone.
        read_from: whether replicas are to be read; then READONLY is sent, without which those of
            a cluster send everybody to their primaries.
    """

    endpoint: Endpoint
    side: Side
    connect_timeout: float
    timeout: float
    no_touch: bool = False
    read_from: ReadFrom = "primary"

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
            complaint = f"{format_address(primary)} is not a primary (yet)"
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
        self._greet(connection)
        set_timeout(sock, self.timeout)
        return connection

    def _greet(self, connection: Connection) -> None:
        """Name ourselves; a server or service that refuses these is served all the same."""
        commands: list[tuple[str, ...]] = [("CLIENT", "SETNAME", CLIENT_NAME)]
        if self.no_touch:
            commands.append(("CLIENT", "NO-TOUCH", "ON"))
        if self.read_from != "primary":
            commands.append(("READONLY",))  # refused where there is no cluster, and not needed
        first = connection.call_many(commands)[0]
        if not isinstance(first, hiredis.ReplyError) or not is_farewell(first):
            return
        connection.close()
        words = str(first).rstrip(".")
        if words.startswith("NOAUTH"):
            raise self._refused(connection.name, "it asks for a password, and none was given")
        if classify(first).kind is Kind.PERMANENT:
            raise self._refused(connection.name, words)
        raise ConnectionLost(
            f"The {self.side} at {connection.name} does not serve us now: {words}."
        )

    def _refused(self, name: str, reason: str) -> RumpxError:
        flag = "FROM" if self.side == "source" else "TO"
        return unusable(self.side)(
            f"The {self.side} at {name} does not let us in: {reason}. Check the user and password "
            f"(RUMPX_{flag}_PASSWORD, --{flag.lower()}-password-file or the URI)."
        )

    def _explain(self, name: str, error: Exception) -> RumpxError:
        """A certificate will not get better by waiting; a refused connection may."""
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
