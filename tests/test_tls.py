"""TLS: which name a certificate is checked for, and what is said where a handshake fails."""

from __future__ import annotations

import datetime
import html
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from rumpx.errors import ConnectionLost, RumpxError, TargetUnusable, UsageError
from rumpx.model.endpoint import Address, Endpoint, Tls, parse_endpoint
from rumpx.serialize import from_plain, to_plain
from rumpx.servers.dial import Dialer
from rumpx.servers.tls import certificate_names, client_context
from support import data
from support.proxy import Proxy
from support.run import rumpx
from support.servers import Sentinel, Server
from support.tls import TlsFiles

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]
StartSentinel = Callable[..., Sentinel]

NAME = "elsewhere.example"
"""The only name of `TlsFiles.wrong_cert`."""
PASSWORD = "pl4nted-Secret"


@pytest.fixture
def target(server: StartServer) -> Server:
    return server("8.1")


def endpoint(uri: str, tls: Tls | None, *mapped: tuple[Address, Address]) -> Endpoint:
    return replace(parse_endpoint(uri, "target"), tls=tls, address_map=mapped)


def fails(to: Endpoint, seconds: float = 5) -> RumpxError:
    """What dialling an endpoint raises."""
    with pytest.raises(RumpxError) as caught:
        Dialer(to, "target", seconds, seconds).connect().close()
    assert PASSWORD not in str(caught.value)
    return caught.value


def unusable(to: Endpoint, seconds: float = 5) -> str:
    error = fails(to, seconds)
    assert isinstance(error, TargetUnusable), error
    return str(error)


# The name


def test_a_certificate_is_checked_for_the_name_before_the_map(
    server: StartServer, target: Server, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    source = server("7.0")
    data.fill_mixed(source, 100)
    way = proxy(target, tls=tls_files, wrong_host=True)

    run = rumpx(
        "--from", source.uri, "--to", f"rediss://{NAME}:6379", "--to-ca", tls_files.ca,
        "--to-map-address", f"{NAME}:6379=127.0.0.1:{way.port}", "--workers", "2",
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    assert set(way.server_names) == {NAME}
    assert data.compare(source, target, ttl_tolerance_ms=3) == []


def test_a_server_name_is_kept_by_the_job(
    server: StartServer, target: Server, proxy: StartProxy, tls_files: TlsFiles, tmp_path: Path
) -> None:
    source = server("7.0")
    data.fill_mixed(source, 100)
    way = proxy(source, tls=tls_files, wrong_host=True)
    job = ("--job", "named", "--state-dir", tmp_path)

    run = rumpx(
        "--from", f"rediss://localhost:{way.port}", "--to", target.uri, "--workers", "2", *job,
        "--from-ca", tls_files.ca, "--from-server-name", NAME,
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    assert set(way.server_names) == {NAME}
    way.server_names.clear()
    again = rumpx("verify", "named", "--state-dir", tmp_path)
    assert again.returncode == 0, again.stderr
    assert set(way.server_names) == {NAME}


def test_an_ip_address_is_a_name_too(
    target: Server, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    way = proxy(target, tls=tls_files)
    reachable = ("localhost", way.port)
    tls = Tls(str(tls_files.ca))

    mapped = endpoint("rediss://127.0.0.1:1", tls, (("127.0.0.1", 1), reachable))
    Dialer(mapped, "target", 5, 5).connect().close()

    other = endpoint("rediss://127.0.0.9:1", tls, (("127.0.0.9", 1), reachable))
    assert "is for 127.0.0.1, ::1, localhost, not for 127.0.0.9" in unusable(other).replace(
        "0:0:0:0:0:0:0:1", "::1"
    )


def test_another_name_is_told_with_those_of_the_certificate(
    server: StartServer, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    one = server("7.0", requirepass=PASSWORD)
    way = proxy(one, tls=tls_files, wrong_host=True)

    message = unusable(endpoint(way.uri, Tls(str(tls_files.ca))))

    assert f"its certificate is for {NAME}, not for 127.0.0.1" in message
    assert "--to-server-name" in message and "--to-ca" not in message
    assert way.bytes_up == 0, "something was sent to a server that is not trusted"


@pytest.mark.parametrize("name", ["", "a:6379", "a b", ".a", "a..b", "x@a", "a" * 64])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="server-name"):
        Tls(server_name=name)


def test_a_host_that_tls_cannot_check(
    target: Server, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    way = proxy(target, tls=tls_files, wrong_host=True)
    host = "a" * 64
    mapped = ((host, 1), ("127.0.0.1", way.port))
    to = endpoint(f"rediss://{host}:1", Tls(str(tls_files.ca)), mapped)

    assert "--to-server-name" in unusable(to)
    assert to.tls
    named = replace(to, tls=replace(to.tls, server_name=NAME))
    Dialer(named, "target", 5, 5).connect().close()


def test_names_of_a_certificate() -> None:
    subject = ((("commonName", "common"),),)
    assert certificate_names({"subject": subject}) == ["common"]
    alternatives = (("DNS", "a"), ("URI", "b"), ("IP Address", "::1"))
    assert certificate_names({"subject": subject, "subjectAltName": alternatives}) == ["a", "::1"]
    assert certificate_names({}) == []


def test_endpoints_of_older_ledgers_are_read() -> None:
    now = Endpoint("tcp", (("a", 1),), tls=Tls(ca="/ca.pem"))
    old = json.loads(json.dumps(to_plain(now)))
    del old["tls"]["server_name"], old["sentinels_plain"]

    assert from_plain(Endpoint, old) == now


# The rest of a certificate


@pytest.fixture
def shown(
    tmp_path: Path, target: Server, proxy: StartProxy, tls_files: TlsFiles
) -> Iterator[Callable[[trustme.CA, trustme.LeafCert | None], Endpoint]]:
    """The endpoint of a proxy that shows an authority's certificate, or the authority's own."""

    def start(authority: trustme.CA, leaf: trustme.LeafCert | None) -> Endpoint:
        cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
        (leaf.cert_chain_pems[0] if leaf else authority.cert_pem).write_to_path(str(cert))
        (leaf.private_key_pem if leaf else authority.private_key_pem).write_to_path(str(key))
        authority.cert_pem.write_to_path(str(ca))
        way = proxy(target, tls=replace(tls_files, cert=cert, key=key))
        return endpoint(way.uri, Tls(str(ca)))

    yield start


Shown = Callable[[trustme.CA, trustme.LeafCert | None], Endpoint]


def test_a_certificate_out_of_its_time(shown: Shown) -> None:
    ca = trustme.CA()
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)

    old = ca.issue_cert("127.0.0.1", not_before=now - 2 * day, not_after=now - day)
    message = unusable(shown(ca, old))
    assert "expired" in message and "-ca" not in message and "-name" not in message

    new = ca.issue_cert("127.0.0.1", not_before=now + day, not_after=now + 2 * day)
    message = unusable(shown(ca, new))
    assert "not valid yet" in message and "-ca" not in message and "-name" not in message


def test_a_certificate_of_an_unknown_authority(shown: Shown, tls_files: TlsFiles) -> None:
    ca = trustme.CA()
    to = shown(ca, ca.issue_cert("127.0.0.1"))

    for given in (None, str(tls_files.ca)):
        message = unusable(replace(to, tls=Tls(given)))
        assert "Give its authority with --to-ca" in message and "-name" not in message
        assert given is None or given in message


def test_a_certificate_signed_by_itself(shown: Shown) -> None:
    to = shown(trustme.CA(), None)

    message = unusable(replace(to, tls=Tls()))

    assert "self-signed" in message and "--to-ca" in message


def test_a_server_with_old_versions_only(server: StartServer, tls_files: TlsFiles) -> None:
    """Also one that is not verified."""
    old = {"tls_protocols": "TLSv1.1", "tls_ciphers": "DEFAULT@SECLEVEL=0"}
    source = server("7.0", tls=tls_files, requirepass=PASSWORD, **old)

    for how in (Tls(str(tls_files.ca)), Tls(insecure=True)):
        message = unusable(endpoint(source.tls_uri, how))
        assert "it supports neither TLS 1.2 nor 1.3" in message


def test_the_versions_do_not_depend_on_this_machines_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lax = ssl.create_default_context()
    lax.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    monkeypatch.setattr(ssl, "create_default_context", lambda: lax)
    assert client_context(Tls(), "source").minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_certificate_that_is_not_verified_is_told_once(
    server: StartServer, tls_files: TlsFiles, tmp_path: Path
) -> None:
    """However many connections are made; by a copy, which lists its warnings at the end as well, a
    check and a comparison, and in the report."""
    source, target = server("7.0", tls=tls_files), server("7.0")
    data.fill_mixed(source, 100)
    ends = ("--from", source.tls_uri, "--from-insecure", "--to", target.uri)
    page = tmp_path / "report.html"
    told = "--from-insecure: the source's certificate is not verified"

    for words in (("check", *ends), (*ends, "--report", page), ("verify", *ends)):
        run = rumpx(*words)
        assert run.returncode == 0, run.stderr
        assert 1 <= " ".join((run.stdout + run.stderr).split()).count(told) <= 2
    assert told in html.unescape(page.read_text())


@pytest.mark.parametrize("given", [False, True])
def test_our_certificate_is_refused(
    server: StartServer, tls_files: TlsFiles, given: bool
) -> None:
    secure = server("7.0", tls=tls_files, tls_clients="yes")
    tls = Tls(str(tls_files.ca))
    if given:
        tls = replace(
            tls, cert=str(tls_files.other_client_cert), key=str(tls_files.other_client_key)
        )

    message = unusable(endpoint(secure.tls_uri, tls))

    assert "client certificate" in message and "--to-cert and --to-key" in message
    assert "--to-ca" not in message


# The other of TLS and plain text


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_plain_port_spoken_to_with_tls(server: StartServer, password: str | None) -> None:
    plain = server("8.2", requirepass=password) if password else server("6.2")
    uri = plain.uri.replace("redis:", "rediss:")

    message = unusable(endpoint(uri, Tls()), 1)

    assert "does not speak TLS" in message and "write redis:// in --to" in message


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_tls_port_spoken_to_plainly(
    server: StartServer, tls_files: TlsFiles, password: str | None
) -> None:
    options = {"requirepass": password} if password else {}
    secure = server("7.0", tls=tls_files, **options)

    message = unusable(endpoint(secure.tls_uri.replace("rediss:", "redis:"), None))

    assert "speaks TLS, not plain text" in message and "write rediss:// in --to" in message


@pytest.mark.parametrize("tls", [None, Tls()])
def test_a_connection_that_ends_at_once_may_pass(
    target: Server, proxy: StartProxy, tls: Tls | None
) -> None:
    way = proxy(target)
    way.refuse = True

    assert isinstance(fails(endpoint(way.uri, tls)), ConnectionLost)


# Sentinels


def test_plain_sentinels_of_a_primary_with_tls(
    server: StartServer, sentinel: StartSentinel, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    service = sentinel("7.0", replicas=0)
    primary = service.primary
    way = proxy(primary, tls=tls_files)
    source = server("7.0")
    data.fill_mixed(source, 50)
    place = f"127.0.0.1:{service.sentinels[0].port}/mymaster"
    mapped = (("127.0.0.1", primary.port), ("127.0.0.1", way.port))
    tls = Tls(str(tls_files.ca))

    message = unusable(endpoint(f"rediss+sentinel://{place}", tls, mapped), 1)
    assert "The sentinel at" in message and "?sentinels=plain" in message

    message = unusable(endpoint(f"redis+sentinel://{place}", None, mapped))
    assert "The target at" in message and "rediss+sentinel://" in message
    assert "?sentinels=plain" in message

    run = rumpx(
        "--from", source.uri, "--to", f"rediss+sentinel://{place}?sentinels=plain",
        "--to-ca", tls_files.ca, "--workers", "2",
        "--to-map-address", f"127.0.0.1:{primary.port}=127.0.0.1:{way.port}",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert data.compare(source, primary, ttl_tolerance_ms=3) == []


def test_sentinels_with_tls(
    sentinel: StartSentinel, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    """They are reached by the map as well, and spoken to as the URI says."""
    service = sentinel("7.0", replicas=0)
    primary = service.primary
    watcher = proxy(service.sentinels[0].port, tls=tls_files, wrong_host=True)
    way = proxy(primary, tls=tls_files)
    mapped: list[tuple[Address, Address]] = [
        (("127.0.0.1", primary.port), ("127.0.0.1", way.port)),
        ((NAME, 26379), ("127.0.0.1", watcher.port)),
    ]
    tls = Tls(str(tls_files.ca))

    uri = f"rediss+sentinel://{NAME}/mymaster"
    Dialer(endpoint(uri, tls, *mapped), "target", 5, 5).connect().close()
    assert set(watcher.server_names) == {NAME}

    message = unusable(endpoint(f"redis+sentinel://{NAME}/mymaster", None, *mapped))
    assert "The sentinel at" in message and "write rediss+sentinel:// in --to" in message

    message = unusable(replace(endpoint(uri, tls, *mapped), sentinels_plain=True))
    assert "leave ?sentinels=plain out of --to" in message


def test_where_sentinels_may_be_plain() -> None:
    uri = "rediss+sentinel://a/s/1?sentinels=plain"
    assert parse_endpoint(uri, "source").sentinels_plain
    assert parse_endpoint("rediss+sentinel://a/s?db=1&sentinels=plain", "source").db == 1
    for other in ("redis+sentinel://a/s", "rediss://a"):
        with pytest.raises(UsageError, match="sentinels=plain"):
            parse_endpoint(f"{other}?sentinels=plain", "source")
    with pytest.raises(UsageError, match=r"after the '\?'"):
        parse_endpoint("rediss+sentinel://a/s?sentinels=tls", "source")
