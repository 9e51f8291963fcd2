"""Refusals: one clear sentence or two, the right exit code, nothing written, no password shown."""

from __future__ import annotations

import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rumpx.cli.main import main
from support import data
from support.proxy import Proxy
from support.run import rumpx
from support.servers import Cluster, Server
from support.tls import TlsFiles

SECRET = "pl4nted-Secret"
"""The password of every server here, which no output may hold."""

USAGE, TEMPORARY, SOURCE, TARGET = 2, 5, 6, 7

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]


def uri(port: int, *, user: str = "", password: str = "", scheme: str = "redis") -> str:
    credentials = f"{user}:{password}@" if user or password else ""
    return f"{scheme}://{credentials}127.0.0.1:{port}"


def check_message(text: str) -> str:
    """What people see of a refusal: one line of at most three sentences, and no secret."""
    assert SECRET not in text
    assert "Traceback" not in text
    assert ".. " not in text and "Error 5" not in text
    assert re.fullmatch(r"rumpx: [A-Z-].*[.:)]\n(rumpx resume \S+\n)?", text), text
    # A sentence of ours ends before a capital; a server's own words may add one.
    assert len(re.findall(r"[a-z)'\"]\. [A-Z]", text)) <= 3, text
    assert len(text) < 450, text
    return text


def message_alone(capsys: Any) -> str:
    """What stands on standard error, checked; nothing stands on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return check_message(captured.err)


def refused(
    code: int,
    source: str,
    target: str,
    *flags: str | Path,
    within: float = 20,
    env: dict[str, str] | None = None,
) -> str:
    """Run a copy that is refused; returns its message."""
    began = time.monotonic()
    run = rumpx("--from", source, "--to", target, *flags, env=env, timeout=30)
    took = time.monotonic() - began
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert took < within, f"refused only after {took:.1f} s"
    return check_message(run.stderr)


@pytest.fixture
def source(server: StartServer) -> Server:
    """A small server with ten keys and a password."""
    return with_keys(server("7.0", requirepass=SECRET))


@pytest.fixture
def target(server: StartServer) -> Server:
    """An empty server."""
    return server("9.1", requirepass=SECRET)


def with_keys(server: Server, count: int = 10) -> Server:
    data.fill_mixed(server, count)
    return server


# Who is asked to copy to whom


@pytest.mark.smoke
def test_a_server_is_not_copied_to_itself(source: Server) -> None:
    before = data.fingerprint(source)

    message = refused(TARGET, source.uri, source.uri.replace("127.0.0.1", "localhost"))

    assert "are the same" in message
    assert data.fingerprint(source) == before


def test_a_server_is_recognised_behind_a_proxy(source: Server, proxy: StartProxy) -> None:
    assert "run_id" in refused(TARGET, source.uri, proxy(source).uri, "--on-conflict", "replace")


def test_a_server_is_recognised_on_its_unix_socket(server: StartServer) -> None:
    only = with_keys(server("8.1", unixsocket=True))

    assert "run_id" in refused(TARGET, f"unix://{only.socket_path}", only.uri)


def test_a_cluster_is_not_copied_to_itself_by_way_of_another_node(cluster: StartCluster) -> None:
    only = cluster("7.0", primaries=2)

    assert "are the same" in refused(TARGET, only.nodes[0].uri, only.nodes[1].uri)


def test_a_replica_is_not_copied_to_its_own_primary(server: StartServer) -> None:
    primary, replica = with_keys(server("6.2")), server("6.2")
    replica.replicate(primary)

    message = refused(TARGET, replica.uri, primary.uri, "--on-conflict", "replace")

    assert "replication history" in message


@pytest.mark.parametrize("read_only", ["yes", "no"])
def test_a_replica_is_no_target(source: Server, server: StartServer, read_only: str) -> None:
    elsewhere, replica = server("7.0"), server("7.0", replica_read_only=read_only)
    replica.replicate(elsewhere)

    message = refused(TARGET, source.uri, replica.uri)

    assert "is a replica" in message and "copy to its primary" in message
    assert replica.do("DBSIZE") == 0


def test_a_target_with_keys_needs_a_conflict_policy(source: Server, target: Server) -> None:
    target.do("SET", "already", "here", db=0)

    message = refused(TARGET, source.uri, target.uri)

    assert "already holds 1 keys" in message
    for policy in ("--on-conflict replace", "skip", "fail"):
        assert policy in message
    assert target.do("DBSIZE") == 1


def test_keys_in_other_databases_of_the_target_do_not_matter(
    source: Server, target: Server
) -> None:
    target.do("SET", "already", "here", db=3)

    assert rumpx("--from", source.uri, "--to", target.uri).returncode == 0


# Who answers at that address


@pytest.fixture
def web_server() -> Iterator[int]:
    """The port of an HTTP server."""
    handler = http.server.BaseHTTPRequestHandler
    handler.log_message = lambda *args: None  # type: ignore[method-assign]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.05,))
        thread.start()
        yield web.server_address[1]
        web.shutdown()
        thread.join()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is reserved, but where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_web_server_is_no_source(web_server: int, target: Server) -> None:
    message = refused(SOURCE, uri(web_server), target.uri)

    assert "do not follow the Redis protocol" in message
    assert f"127.0.0.1:{web_server}" in message


def test_a_web_server_is_no_target(web_server: int, source: Server) -> None:
    assert "do not follow the Redis protocol" in refused(TARGET, source.uri, uri(web_server))


@pytest.mark.parametrize("password", ["", SECRET])
def test_a_silent_server_is_given_up_after_the_connect_timeout(
    silent_port: int, target: Server, password: str
) -> None:
    source = uri(silent_port, password=password)

    message = refused(SOURCE, source, target.uri, "--connect-timeout", "1s", within=5)

    assert f"127.0.0.1:{silent_port}" in message and "--from" in message


def test_a_closed_port_is_named(closed_port: int, source: Server) -> None:
    message = refused(TARGET, source.uri, uri(closed_port), within=5)

    assert f"The target at 127.0.0.1:{closed_port} cannot be reached" in message
    assert "Check --to" in message


def test_an_unknown_host_is_named(target: Server) -> None:
    message = refused(SOURCE, f"redis://:{SECRET}@no-such-host.invalid", target.uri)

    assert "no-such-host.invalid:6379 cannot be reached" in message


def test_a_missing_socket_is_named(target: Server, tmp_path: Path) -> None:
    message = refused(SOURCE, f"unix://{tmp_path}/none.sock", target.uri)

    assert f"{tmp_path}/none.sock cannot be reached" in message


def test_a_sentinel_is_no_source(server: StartServer, target: Server) -> None:
    only = server("7.0", sentinel="")

    message = refused(SOURCE, only.uri, target.uri)

    assert f"127.0.0.1:{only.port}" in message


def test_a_sentinel_that_does_not_know_the_service(server: StartServer, target: Server) -> None:
    only = server("7.0", sentinel="")

    message = refused(SOURCE, f"redis+sentinel://127.0.0.1:{only.port}/billing", target.uri)

    assert "knows no service 'billing'" in message


def test_a_server_that_is_asked_as_if_it_were_a_sentinel(source: Server, target: Server) -> None:
    asked = f"redis+sentinel://:{SECRET}@127.0.0.1:{target.port}/mymaster"

    message = refused(TARGET, source.uri, asked)

    assert f"127.0.0.1:{target.port}" in message


# Passwords


@pytest.mark.smoke
@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_a_wrong_password(server: StartServer, target: Server, version: str) -> None:
    guarded = server(version, requirepass="another")

    message = refused(SOURCE, uri(guarded.port, password=SECRET), target.uri)

    assert "rejected the connection" in message and "password" in message
    assert "RUMPX_FROM_PASSWORD" in message


def test_a_password_for_an_unknown_user(source: Server, target: Server) -> None:
    message = refused(TARGET, source.uri, uri(target.port, user="nobody", password=SECRET))

    assert "rejected the connection" in message and "RUMPX_TO_PASSWORD" in message


def test_a_password_for_a_server_that_has_none(server: StartServer, target: Server) -> None:
    open_to_all = with_keys(server("6.2"))

    message = refused(SOURCE, uri(open_to_all.port, password=SECRET), target.uri)

    assert "rejected the connection" in message and "without any password" in message


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_no_password(server: StartServer, target: Server, version: str) -> None:
    guarded = server(version, requirepass=SECRET)

    message = refused(SOURCE, uri(guarded.port), target.uri)

    assert "requires a password" in message and "RUMPX_FROM_PASSWORD" in message


# Permissions


def with_user(server: Server, *rules: str) -> str:
    """The URI of a new user with these ACL rules."""
    server.do("ACL", "SETUSER", "copier", "on", f">{SECRET}", *rules)
    return uri(server.port, user="copier", password=SECRET)


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
@pytest.mark.parametrize("command", ["scan", "dump"])
def test_a_user_who_may_not_read(
    server: StartServer, target: Server, version: str, command: str
) -> None:
    guarded = with_keys(server(version))

    message = refused(SOURCE, with_user(guarded, "~*", "+@all", f"-{command}"), target.uri)

    assert f"refused {command.upper()}" in message
    assert f"+{command}" in message, "the rule to add"
    assert target.do("DBSIZE") == 0


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_a_user_who_may_not_write(server: StartServer, version: str) -> None:
    source, guarded = with_keys(server("6.2")), server(version)

    message = refused(TARGET, source.uri, with_user(guarded, "~*", "+@all", "-restore"))

    assert "refused RESTORE" in message and "+restore" in message
    assert guarded.do("DBSIZE") == 0


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_the_documented_least_permissions_suffice(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    data.fill_mixed(source, 300)
    reading = with_user(source, "~*", "+scan", "+dump", "+pttl", "+select", "+info", "+cluster")
    writing = with_user(target, "~*", "+restore", "+select", "+info", "+cluster")

    run = rumpx("--from", reading, "--to", writing)

    assert run.returncode == 0, run.stderr
    # Neither TIME nor PEXPIRETIME is allowed, so expiries come by the time left.
    assert data.compare(source, target, ttl_tolerance_ms=2000) == []
    assert SECRET not in run.stderr


@pytest.mark.parametrize("version", ["6.2", "7.0", "9.1"])
def test_keys_that_the_user_may_not_read_fail_one_by_one(
    server: StartServer, target: Server, tmp_path: Path, version: str
) -> None:
    guarded = server(version)
    for n in range(200):
        guarded.do("SET", f"open:{n}", n)
    guarded.do("SET", "closed:1", "x")
    guarded.do("SET", "closed:2", "x")
    report = tmp_path / "summary.json"

    run = rumpx(
        *("--from", with_user(guarded, "~open:*", "+@all"), "--to", target.uri),
        *("--summary", report),
    )

    assert run.returncode == 3, run.stderr
    summary = json.loads(report.read_text())
    assert summary["counts"]["copied"] == 200
    assert summary["counts"]["failed"] == 2
    assert sorted(failure["key"] for failure in summary["failures"]) == ["closed:1", "closed:2"]
    assert summary["failures_by_reason"] == {"no permission": 2}
    assert "closed:1" in run.stderr
    assert target.do("DBSIZE") == 200
    assert SECRET not in run.stderr + run.stdout + report.read_text()


@pytest.mark.parametrize("first_key", ["open:0", "closed:1"])
def test_keys_that_the_user_may_not_write_fail_one_by_one(
    server: StartServer, tmp_path: Path, first_key: str
) -> None:
    """Whichever key is used to try the permission out."""
    source, guarded = server("7.0"), server("9.1")
    other_key = "closed:1" if first_key == "open:0" else "open:0"
    source.do("SET", first_key, 1)
    source.do("SET", other_key, 1, db=1)
    report = tmp_path / "summary.json"

    run = rumpx(
        *("--from", source.uri, "--to", with_user(guarded, "~open:*", "+@all")),
        *("--summary", report),
    )

    assert run.returncode == 3, run.stderr
    failures = json.loads(report.read_text())["failures"]
    assert [failure["key"] for failure in failures] == ["closed:1"]


# The state that a side is in


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cluster_with_slots_that_nobody_serves(
    cluster: StartCluster, server: StartServer, side: str
) -> None:
    holed, plain = cluster("7.0", primaries=1), with_keys(server("7.0"))
    holed.nodes[0].do("CLUSTER", "DELSLOTS", 7, 8)

    if side == "source":
        message = refused(SOURCE, holed.uri, plain.uri, "--on-conflict", "replace")
    else:
        message = refused(TARGET, plain.uri, holed.uri)

    assert f"In the {side} cluster no primary serves 2 slots" in message


def test_a_target_without_the_database(source: Server, server: StartServer) -> None:
    source.do("SET", "far", "out", db=9)
    small = server("8.1", databases=4)

    message = refused(TARGET, source.uri, small.uri)

    assert "database 9" in message and "--map-db" in message
    assert small.info("keyspace") == {}


def test_a_cluster_target_has_only_one_database(source: Server, cluster: StartCluster) -> None:
    source.do("SET", "far", "out", db=2)
    one = cluster("7.0", primaries=1)

    message = refused(TARGET, source.uri, one.uri)

    assert "database 2" in message
    assert one.nodes[0].do("DBSIZE") == 0


def test_a_target_that_is_out_of_memory_before_the_copy(
    source: Server, server: StartServer
) -> None:
    full = server("7.0")
    full.do("CONFIG", "SET", "maxmemory", "1")

    message = refused(TEMPORARY, source.uri, full.uri)

    assert "out of memory" in message and "maxmemory" in message
    assert full.do("DBSIZE") == 0


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_target_that_gets_full_during_the_copy(
    server: StartServer, tmp_path: Path, version: str
) -> None:
    """It takes some of the keys; they are counted, though no batch was finished."""
    source, small = server("7.0"), server(version)
    before = int(source.info("memory")["used_memory"])
    data.fill_mixed(source, 20_000)
    needed = int(source.info("memory")["used_memory"]) - before
    used = int(small.info("memory")["used_memory"])
    small.do("CONFIG", "SET", "maxmemory", used + 2**20 + needed // 5)
    report = tmp_path / "summary.json"

    run = rumpx(
        *("--from", source.uri, "--to", small.uri, "--summary", report, "--progress", "none"),
        *("--max-target-memory", "off"),
    )

    assert run.returncode == TEMPORARY, run.stderr
    assert run.stderr.startswith("failed: copied ")
    message = run.stderr[run.stderr.index("rumpx: ") :]
    assert "out of memory" in check_message(message)
    summary = json.loads(report.read_text())
    assert summary["state"] == "failed"
    assert summary["exit_code"] == TEMPORARY
    copied, there = summary["counts"]["copied"], small.do("DBSIZE")
    assert 0 < copied <= there < 20_000


@pytest.fixture
def nearly_full(server: StartServer) -> Server:
    """A source at 94 % of its maxmemory, which evicts."""
    source = server("7.0", maxmemory_policy="allkeys-lru")
    with source.raw() as raw:
        raw.many([("SET", f"key:{n}", "x" * 2000) for n in range(20_000)])
    source.do("CONFIG", "SET", "maxmemory", int(int(source.info("memory")["used_memory"]) / 0.94))
    return source


def test_a_source_that_is_about_to_evict(nearly_full: Server, target: Server) -> None:
    message = refused(SOURCE, nearly_full.uri, target.uri)

    assert "94%" in message and "allkeys-lru" in message and "--allow-eviction" in message
    assert nearly_full.do("DBSIZE") == 20_000
    assert target.do("DBSIZE") == 0


def test_a_source_that_is_about_to_evict_is_read_if_the_user_says_so(
    nearly_full: Server, target: Server
) -> None:
    run = rumpx("--from", nearly_full.uri, "--to", target.uri, "--allow-eviction")

    assert run.returncode == 0, run.stderr
    assert nearly_full.info("stats")["evicted_keys"] == "0"
    assert target.do("DBSIZE") == 20_000


# TLS


def test_a_wrong_authority(server: StartServer, target: Server, tls_files: TlsFiles) -> None:
    secure = server("7.0", tls=tls_files, requirepass=SECRET)

    message = refused(SOURCE, secure.tls_uri, target.uri, "--from-ca", tls_files.other_ca)

    assert "was not trusted" in message and "--from-ca" in message


def test_an_authority_that_this_machine_does_not_know(
    source: Server, server: StartServer, tls_files: TlsFiles
) -> None:
    secure = server("7.0", tls=tls_files)

    message = refused(TARGET, source.uri, secure.tls_uri)

    assert "was not trusted" in message and "--to-ca" in message


def test_a_certificate_of_another_host(
    source: Server, target: Server, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    middle = proxy(source, tls=tls_files, wrong_host=True)

    message = refused(SOURCE, middle.uri, target.uri, "--from-ca", tls_files.ca)

    assert "was not trusted" in message and "127.0.0.1" in message


def test_a_certificate_of_another_host_is_taken_if_the_user_says_so(
    source: Server, target: Server, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    middle = proxy(source, tls=tls_files, wrong_host=True)

    run = rumpx("--from", middle.uri, "--to", target.uri, "--from-insecure")

    assert run.returncode == 0, run.stderr
    assert data.compare(source, target) == []


@pytest.mark.parametrize("by", ["server", "proxy"])
def test_a_missing_client_certificate(
    server: StartServer,
    source: Server,
    target: Server,
    proxy: StartProxy,
    tls_files: TlsFiles,
    by: str,
) -> None:
    if by == "server":
        address = server("7.0", tls=tls_files, tls_clients="yes").tls_uri
    else:
        address = proxy(source, tls=tls_files, require_client_cert=True).uri

    message = refused(SOURCE, address, target.uri, "--from-ca", tls_files.ca)

    assert "certificate" in message and "--from-cert" in message


def test_plain_text_to_a_tls_port(
    server: StartServer, target: Server, tls_files: TlsFiles
) -> None:
    secure = server("7.0", tls=tls_files)

    message = refused(SOURCE, uri(secure.tls_port), target.uri, "--connect-timeout", "1s")

    assert f"127.0.0.1:{secure.tls_port}" in message


def test_tls_to_a_plain_port(source: Server, target: Server, tls_files: TlsFiles) -> None:
    secure = source.uri.replace("redis://", "rediss://")

    message = refused(SOURCE, secure, target.uri, "--connect-timeout", "1s")

    assert f"127.0.0.1:{source.port}" in message


@pytest.mark.parametrize("flag", ["--from-ca", "--from-cert", "--from-key"])
def test_a_certificate_file_that_is_not_there(flag: str, tmp_path: Path, capsys: Any) -> None:
    missing = str(tmp_path / "missing.pem")
    both = ["--from-cert", missing, "--from-key", missing] if flag != "--from-ca" else []

    code = main(["--from", "rediss://a", "--to", "redis://b", *(both or [flag, missing])])

    assert code == USAGE
    assert f"{missing} cannot be read" in check_message(capsys.readouterr().err)


@pytest.mark.parametrize("bad", ["--from-ca", "--from-cert"])
def test_a_certificate_file_that_holds_none(
    server: StartServer, target: Server, tls_files: TlsFiles, tmp_path: Path, bad: str
) -> None:
    secure = server("7.0", tls=tls_files)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("this is no certificate\n")
    files = {"--from-ca": tls_files.ca, "--from-cert": tls_files.client_cert}
    files |= {"--from-key": tls_files.client_key, bad: garbage}

    message = refused(SOURCE, secure.tls_uri, target.uri, *[w for f in files.items() for w in f])

    assert bad in message


def test_tls_of_the_server_itself(
    server: StartServer, target: Server, tls_files: TlsFiles
) -> None:
    secure = with_keys(server("7.0", tls=tls_files, requirepass=SECRET), 500)

    run = rumpx("--from", secure.tls_uri, "--to", target.uri, "--from-ca", tls_files.ca)

    assert run.returncode == 0, run.stderr
    assert data.compare(secure, target) == []


@pytest.mark.smoke
def test_tls_on_both_sides_with_client_certificates(
    server: StartServer, proxy: StartProxy, tls_files: TlsFiles
) -> None:
    source, target = with_keys(server("6.2"), 500), server("8.1")
    ends = [proxy(one, tls=tls_files, require_client_cert=True) for one in (source, target)]
    flags: list[str | Path] = []
    for side in ("from", "to"):
        flags += [f"--{side}-ca", tls_files.ca, f"--{side}-cert", tls_files.client_cert]
        flags += [f"--{side}-key", tls_files.client_key]

    run = rumpx("--from", ends[0].uri, "--to", ends[1].uri, *flags)

    assert run.returncode == 0, run.stderr
    assert data.compare(source, target, ttl_tolerance_ms=3) == []


# Usage: nothing is contacted


GOOD = ("--from", "redis://a", "--to", "redis://b")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "a:6379",
        "http://{}@a",
        "redis//a",
        "redis://",
        f"redis://:{SECRET}@",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host:0",
        f"redis://:{SECRET}@host:65536",
        f"redis://:{SECRET}@host/x",
        f"redis://:{SECRET}@host/1/2",
        f"redis://:{SECRET}@host/-1",
        f"redis://:{SECRET}@host/99999999999",
        f"redis://:{SECRET}@::1:6379",
        f"redis://:{SECRET}@host?db=x",
        f"redis://:{SECRET}@host?timeout=3",
        f"redis://:{SECRET}@host/1?db=1",
        f"unix://:{SECRET}@relative/path",
        "unix://",
        f"redis+sentinel://:{SECRET}@host",
        f"redis+sentinel://:{SECRET}@host,/service",
        f"redis+sentinel://:{SECRET}@host/service/0/1",
        f"{SECRET}@host",
    ],
)
@pytest.mark.parametrize("flag", ["--from", "--to"])
def test_a_malformed_uri(bad: str, flag: str, capsys: Any) -> None:
    arguments = list(GOOD)
    arguments[arguments.index(flag) + 1] = bad

    assert main(arguments) == USAGE

    assert flag in message_alone(capsys)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--workers", "257"], "--workers"),
        (["--workers", "many"], "--workers"),
        (["--workers", "257"], "--workers"),
        (["--partitions", "-1"], "--partitions"),
        (["--batch-keys", "10001"], "--batch-keys"),
        (["--db", "x"], "--db"),
        (["--db", "1,,2"], "--db"),
        (["--map-db", "3"], "--map-db"),
        (["--map-db", "3:x"], "--map-db"),
        (["--map-db", "3:1", "--map-db", "3:2"], "--map-db"),
        (["--type", "strings"], "--type"),
        (["--type", ""], "--type"),
        (["--on-conflict", "merge"], "--on-conflict"),
        (["--prefixes", "a,,b"], "--prefixes"),
        (["--prefixes", "user:,user:1"], "overlap"),
        (["--prefixes", "a:", "--match", "b*"], "--prefixes"),
        (["--prefixes", "a:", "--partitions", "4"], "--prefixes"),
        (["--stream-from", "large"], "--stream-from"),
        (["--stream-from", "1"], "--stream-from"),
        (["--max-bytes-in-flight", "1k"], "--max-bytes-in-flight"),
        (["--connect-timeout", "soon"], "--connect-timeout"),
        (["--connect-timeout", "0"], "--connect-timeout"),
        (["--timeout", "25h"], "--timeout"),
        (["--retry-for", "-1s"], "--retry-for"),
        (["--retry-for", "8d"], "--retry-for"),
        (["--clock", "fast"], "--clock"),
        (["--progress", "loud"], "--progress"),
        (["--summary", "/no/such/folder/x"], "--summary"),
        (["--summary", "/"], "--summary"),
        (["--from-ca", "/etc/hosts"], "rediss://"),
        (["--to-insecure"], "rediss://"),
        (["--from-cluster", "maybe"], "--from-cluster"),
        (["--from-map-address", "a:1"], "--from-map-address"),
        (["--from-map-address", "a:x=b:1"], "--from-map-address"),
        (["--from-password-file", "/no/such/file"], "--from-password-file"),
        (["--to-password-file", "/dev/null"], "--to-password-file"),
        (["--from-sentinel-password-file", "/no/such/file"], "--from-sentinel-password-file"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--wor", "3"], "--wor"),
        (["stray"], "too many words"),
        (["--from"], "--from"),
    ],
)
def test_a_malformed_flag(flags: Sequence[str], word: str, capsys: Any) -> None:
    assert main([*GOOD, *flags]) == USAGE

    assert word in message_alone(capsys)


@pytest.mark.parametrize("given", [(), ("--from", "redis://a"), ("--to", "redis://a")])
def test_both_sides_must_be_given(given: Sequence[str], capsys: Any) -> None:
    assert main(list(given)) == USAGE

    assert "is missing" in check_message(capsys.readouterr().err)


def test_databases_named_in_uris_and_flags_must_agree(capsys: Any) -> None:
    assert main(["--from", "redis://a/1", "--to", "redis://b", "--db", "2"]) == USAGE
    assert "--db" in check_message(capsys.readouterr().err)

    assert main(["--from", "redis://a", "--to", "redis://b/1", "--map-db", "0:2"]) == USAGE
    assert "--map-db" in check_message(capsys.readouterr().err)


def test_a_password_twice(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    arguments = ["--from", f"redis://:{SECRET}@a", "--to", "redis://b"]

    assert main([*arguments, "--from-password-file", str(file)]) == USAGE

    assert "give one" in check_message(capsys.readouterr().err)


def test_several_databases_into_the_one_that_the_target_names(
    source: Server, target: Server
) -> None:
    source.do("SET", "second", "x", db=1)

    message = refused(USAGE, source.uri, f"{target.uri}/0")

    assert "0, 1" in message and "--db" in message
    assert target.do("DBSIZE") == 0


# Passwords stay where they belong


@pytest.mark.parametrize("progress", ["line", "json"])
def test_no_password_in_anything_a_copy_says(
    source: Server, target: Server, tmp_path: Path, progress: str
) -> None:
    report = tmp_path / "summary.json"

    run = rumpx(
        *("--from", source.uri, "--to", target.uri, "--progress", progress, "--summary", report),
        env={"RUMPX_FROM_PASSWORD": SECRET, "RUMPX_TO_PASSWORD": SECRET},
    )

    assert run.returncode == 0, run.stderr
    assert SECRET not in run.stdout + run.stderr + report.read_text()


def test_no_password_in_the_arguments_of_worker_processes(source: Server, target: Server) -> None:
    data.fill_mixed(source, 5000, seed=2)
    from support.copying import held
    from support.run import start_rumpx

    ends = ("--from", uri(source.port), "--to", uri(target.port))
    passwords = {"RUMPX_FROM_PASSWORD": SECRET, "RUMPX_TO_PASSWORD": SECRET}
    with start_rumpx(*ends, "--batch-keys", "50", "--workers", "1", env=passwords) as run:
        with held(run):
            assert all(SECRET not in " ".join(worker.cmdline()) for worker in run.workers())
        assert run.wait().returncode == 0
