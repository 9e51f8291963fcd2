"""Certificates for the tests, made anew for each session and thrown away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files. All certificates but `other_ca` are signed by `ca`."""

    ca: Path
    """The authority to trust."""
    cert: Path
    """The server's certificate chain: 127.0.0.1, ::1, localhost."""
    key: Path
    wrong_cert: Path
    """A server certificate for another host name."""
    wrong_key: Path
    client_cert: Path
    """A certificate for clients to show."""
    client_key: Path
    other_ca: Path
    """An authority that signed none of these."""
    other_client_cert: Path
    """A client certificate signed by `other_ca`."""
    other_client_key: Path


def make_tls_files(folder: Path) -> TlsFiles:
    """Write a set of certificates into a folder."""
    ca, other = trustme.CA(), trustme.CA()

    def write(name: str, cert: trustme.LeafCert) -> tuple[Path, Path]:
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
        cert.private_key_pem.write_to_path(str(key))
        return chain, key

    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other-ca.pem"))
    server = write("server", ca.issue_cert("127.0.0.1", "::1", "localhost"))
    wrong = write("wrong", ca.issue_cert("elsewhere.example"))
    client = write("client", ca.issue_cert("client@rumpx.example"))
    stranger = write("stranger", other.issue_cert("client@rumpx.example"))
    return TlsFiles(
        folder / "ca.pem",
        *server,
        *wrong,
        *client,
        folder / "other-ca.pem",
        *stranger,
    )
