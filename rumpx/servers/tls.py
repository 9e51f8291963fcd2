"""TLS: the name to check a certificate for, the cause of a failed handshake, a port's protocol.

The certificate is checked for, and SNI names, the host as the user, the cluster or the sentinels
name it, or `--from-server-name` and `--to-server-name`; an address map changes only the address
that is dialled.

Further connections explain a failed one; they send no command but PING and no password: a
handshake that checks the authority but not the name shows which names a certificate has; a PING in
plain text, or a handshake that checks nothing, shows that a port speaks the other of the two.

Not told apart: an expired certificate of the server's and one of its authority's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Final, TypeGuard

from rumpx.errors import RumpxError, Side, machine_limit, unusable
from rumpx.model.endpoint import Address, Tls, format_address

# OpenSSL's X509_V_ERR_*: the errors of a verification.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SELF_SIGNED: Final = 18
_NO_AUTHORITY: Final = (2, 19, 20, 21)
_OTHER_NAME: Final = (62, 64)

# Alerts by which a server refuses the client certificate.
_OURS_REFUSED: Final = (
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "UNSUPPORTED_CERTIFICATE",
    "ACCESS_DENIED",
)
_NAMES_TOLD: Final = 4
# The files of authorities that a system trusts: Debian, Alpine; Red Hat; SUSE; others.
_TRUSTED: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# For answers that come at once or never: an answer to PING in plain text, an alert.
_ANSWER_SECONDS: Final = 1.0


def client_context(tls: Tls, side: Side) -> ssl.SSLContext:
    """Return the context for handshakes of one side.

    Raises:
        SourceUnusable, TargetUnusable: a file of `tls` cannot be used.
    """
    flag = flag_of(side)
    context = ssl.create_default_context()
    _trust_system(context)
    # Whatever OpenSSL's settings here: older versions can be read by others (RFC 8996).
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        try:
            context.load_cert_chain(tls.cert, tls.key)
        except OSError as error:
            raise machine_limit(error) or unusable(side)(
                f"The files of {flag}-cert and {flag}-key do not hold a certificate and its key "
                f"in PEM format{_reason(error)}."
            ) from None
    if tls.ca:
        try:
            context.load_verify_locations(tls.ca)
        except OSError as error:
            raise machine_limit(error) or unusable(side)(
                f"The file of {flag}-ca does not hold certificates in PEM format{_reason(error)}."
            ) from None
    return context


def _trust_system(context: ssl.SSLContext) -> None:
    """Trust the authorities of this system also if Python was built on another one, whose places
    are not here, as that of the program in one file."""
    usual = ssl.get_default_verify_paths()
    if usual.cafile is None and usual.capath is None:
        for file in filter(os.path.isfile, _TRUSTED):
            with contextlib.suppress(OSError):  # unreadable, or empty
                context.load_verify_locations(file)
                return


def _reason(error: OSError) -> str:
    """Return why a file cannot be read; "" for SSL's errors, which only mean other content."""
    return "" if isinstance(error, ssl.SSLError) else f": {error.strerror}"


def flag_of(side: Side) -> str:
    """Return the flag of a side's URI, which is also the prefix of its other flags."""
    return "--from" if side == "source" else "--to"


@dataclass(frozen=True, slots=True)
class Port:
    """An address that was dialled, and how.

    Attributes:
        side: selects the error class and the flags in messages.
        address: the dialled address.
        tls: None for plain text.
        server_name: the name that the certificate is checked for.
        seconds: for each wait of a further connection.
        what: "source", "target" or "sentinel".
        otherwise: advice for a port that speaks the other of TLS and plain text.
    """
    side: Side
    address: Address
    tls: Tls | None
    server_name: str
    seconds: float
    what: str
    otherwise: str

    def explain(self, error: BaseException) -> RumpxError | None:
        """Return the exception for a failed connection, if TLS is the cause."""
        cause = _cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._unusable("was not trusted", self._distrust(cause))
        if _is_alert(cause):
            return self._refused(cause)
        if not _reached(cause):
            return None
        if self.tls is None:
            return self._speaks_otherwise() if self._speaks_tls() else None
        if not isinstance(cause, TimeoutError) and (alert := self._alert()):
            return self._refused(alert)
        if self._speaks_plainly():
            return self._speaks_otherwise()
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return self._unusable("failed the TLS handshake", _words(cause))
        return None

    def _unusable(self, happened: str, why: str) -> RumpxError:
        place = format_address(self.address)
        return unusable(self.side)(f"The {self.what} at {place} {happened}: {why}.")

    def _distrust(self, error: ssl.SSLCertVerificationError) -> str:
        """Return why the certificate was refused, and advice."""
        code, flag = error.verify_code, flag_of(self.side)
        if code in _OTHER_NAME:
            names = ", ".join(self._certificate_names())
            named = f"for {names}, not" if names else "not"
            return (
                f"its certificate is {named} for {self.server_name}. If it is the right server, "
                f"give the name to check for with {flag}-server-name NAME"
            )
        if code == _EXPIRED:
            return (
                "its certificate, or its authority's, has expired by this machine's clock. Renew "
                "it on the server"
            )
        if code == _NOT_YET_VALID:
            return (
                "its certificate, or its authority's, is not valid yet by this machine's clock. "
                "Compare the clocks"
            )
        if code == _SELF_SIGNED:
            return (
                f"its certificate is self-signed. Give that certificate with {flag}-ca "
                "FILE"
            )
        if code in _NO_AUTHORITY:
            known = f"those in {self.tls.ca}" if self.tls and self.tls.ca else "those known here"
            return (
                f"its certificate is signed by none of {known} ({error.verify_message}). Give its "
                f"authority with {flag}-ca FILE"
            )
        return error.verify_message or _words(error)

    def _refused(self, error: ssl.SSLError) -> RumpxError:
        """Return the exception for a server's alert."""
        flag, reason = flag_of(self.side), error.reason or ""
        ours = f"{flag}-cert and {flag}-key"
        shown = self.tls is not None and self.tls.cert is not None
        happened, why = "failed the TLS handshake", _words(error)
        if "CERTIFICATE_REQUIRED" in reason:
            why = f"it requires a client certificate. Give {ours}"
        elif "PROTOCOL_VERSION" in reason:
            why = "it supports neither TLS 1.2 nor 1.3, the safe versions. Enable one of them there"
        elif "UNRECOGNIZED_NAME" in reason:
            why = f"it has no name {self.server_name}. Give its name with {flag}-server-name NAME"
        elif shown and any(word in reason for word in _OURS_REFUSED):
            happened = "refused the client certificate"
            why = f"{why}. Check {ours}"
        elif not shown and any(word in reason for word in (*_OURS_REFUSED, "HANDSHAKE_FAILURE")):
            why = f"{why}. If it requires a client certificate, give {ours}"
        return self._unusable(happened, why)

    def _speaks_otherwise(self) -> RumpxError:
        place = format_address(self.address)
        spoken = "does not speak TLS" if self.tls else "speaks TLS, not plain text"
        return unusable(self.side)(f"The {self.what} at {place} {spoken}: {self.otherwise}.")

    def _certificate_names(self) -> list[str]:
        """Return the first names that the certificate is for; none if it is no longer available."""
        assert self.tls is not None
        context = client_context(self.tls, self.side)
        context.check_hostname = False
        certificate: dict[str, object] = {}
        with (
            contextlib.suppress(OSError),
            socket.create_connection(self.address, self.seconds) as sock,
            context.wrap_socket(sock, server_hostname=self.server_name) as secure,
        ):
            certificate = dict(secure.getpeercert() or {})
        names = certificate_names(certificate)
        more = [f"{len(names) - _NAMES_TOLD} more"] if len(names) > _NAMES_TOLD else []
        return names[:_NAMES_TOLD] + more

    def _speaks_tls(self) -> bool:
        context = client_context(Tls(insecure=True), self.side)
        try:
            with (
                socket.create_connection(self.address, self.seconds) as sock,
                context.wrap_socket(sock, server_hostname=self.server_name),
            ):
                return True
        except OSError as error:
            return _is_alert(error)

    def _alert(self) -> ssl.SSLError | None:
        """Return the alert by which a server ends a connection on which nothing is sent.

        With TLS 1.3 a server refuses the client certificate after the client's handshake is done;
        bytes sent after that may end the connection before the alert is read.
        """
        assert self.tls is not None
        context = client_context(self.tls, self.side)
        try:
            with (
                socket.create_connection(self.address, self.seconds) as sock,
                context.wrap_socket(sock, server_hostname=self.server_name) as secure,
            ):
                secure.settimeout(min(self.seconds, _ANSWER_SECONDS))
                secure.recv(1)
        except OSError as error:
            return error if _is_alert(error) else None
        return None

    def _speaks_plainly(self) -> bool:
        seconds = min(self.seconds, _ANSWER_SECONDS)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(self.address, seconds) as sock,
        ):
            sock.sendall(b"PING\r\n")
            return sock.recv(1) in (b"+", b"-")
        return False


def certificate_names(certificate: dict[str, object]) -> list[str]:
    """Return the names in `getpeercert`'s result: alternative names, else the common name."""
    alternatives: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())  # type: ignore[assignment]
    names = [name for kind, name in alternatives if kind in ("DNS", "IP Address")]
    subject: tuple[tuple[tuple[str, str], ...], ...] = certificate.get("subject", ())  # type: ignore[assignment]
    common = [name for part in subject for kind, name in part if kind == "commonName"]
    return names or common


def _is_alert(error: OSError | None) -> TypeGuard[ssl.SSLError]:
    """Return True if the other end speaks TLS and sent an alert before closing."""
    return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def _reached(cause: OSError | None) -> bool:
    """Return True if the connection was made and then ended, or was silent in the TLS handshake."""
    if isinstance(cause, TimeoutError):
        return "handshake" in str(cause)
    return cause is None or isinstance(
        cause, (ssl.SSLError, ConnectionResetError, BrokenPipeError)
    )


def _cause(error: BaseException) -> OSError | None:
    """Return the socket's error behind an exception.

    Search no further back: that would find errors of earlier connections.
    """
    candidates = (error, error.__cause__, error.__context__)
    return next((one for one in candidates if isinstance(one, OSError)), None)


def _words(error: ssl.SSLError) -> str:
    """`TLSV1_ALERT_PROTOCOL_VERSION` → "tlsv1 alert protocol version"."""
    return (error.reason or str(error)).replace("_", " ").lower()
