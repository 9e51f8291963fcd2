"""The harness itself: the oracle sees, the proxy disturbs, clusters move, sentinels switch."""

from __future__ import annotations

import random
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import redis

from support import run
from support.copying import Copying
from support.data import (
    ODD_NAMES,
    compare,
    every_type,
    fill_mixed,
    fingerprint,
    keys_of,
    show,
)
from support.proxy import Proxy
from support.raw import Raw, RawError
from support.servers import ALL, Cluster, Sentinel, Server, graph_module, key_slot, readers
from support.tls import TlsFiles
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]


def copy(source: Server, target: Server, key: bytes, db: int = 0) -> None:
    """One key by DUMP and RESTORE (on versions that have PEXPIRETIME)."""
    with source.raw(db) as a, target.raw(db) as b:
        moment = max(0, a.do("PEXPIRETIME", key))
        b.do("RESTORE", key, moment, a.do("DUMP", key), "REPLACE", "ABSTTL")


# --- servers --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
def test_a_server_restarts_pauses_and_reports(server: StartServer, version: str) -> None:
    one = server(version, requirepass="secret", unixsocket=True, maxmemory="100mb")
    client = one.client(3)
    client.set(b"\xff", b"1")
    first = one.info("server")
    assert first["process_id"] == str(one.pid)
    assert one.do("CONFIG", "GET", "maxmemory")[1] == b"104857600"
    assert "secret" in one.uri
    one.restart(keep_data=True)
    assert client.get(b"\xff") == b"1"
    assert one.info("server")["run_id"] != first["run_id"]
    one.restart()
    assert client.dbsize() == 0
    assert one.socket_path
    with Raw(one.socket_path, password="secret") as raw:
        assert raw.do("PING") == b"PONG"
    one.pause()
    hasty = one.client(socket_timeout=0.1)
    with pytest.raises(redis.exceptions.TimeoutError):
        hasty.ping()
    one.resume()
    assert client.ping()
    pid = one.pid
    one.stop()
    assert not psutil.pid_exists(pid)
    assert not one.folder.exists()


@pytest.mark.smoke
def test_redis_8_2_has_vector_sets_and_loads_graphs(server: StartServer) -> None:
    one = server("8.2", loadmodule=graph_module())
    assert one.do("VADD", "vectors", "VALUES", 2, 1, 2, "a") == 1
    one.do("GRAPH.QUERY", "graph", "CREATE (:P)")
    assert [one.do("TYPE", key) for key in ("vectors", "graph")] == [b"vectorset", b"graphdata"]


def test_a_taken_port_is_not_mistaken_for_success(
    server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = server("7.0")
    real = run_ports = iter([first.port, first.port])

    def choose() -> int:
        return next(run_ports, 0) or original()

    from support import servers

    original = servers.free_port
    monkeypatch.setattr(servers, "free_port", choose)
    second = server("7.0")
    assert second.port != first.port
    assert next(real, None) is None


def test_a_wait_fails_with_its_reason() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the moon"):
        wait_until(lambda: False, 0.05, "the moon")


def test_a_server_speaks_tls_itself(server: StartServer, tls_files: TlsFiles) -> None:
    one = server("7.0", tls=tls_files, tls_clients="yes")
    options: dict[str, Any] = {
        "port": one.tls_port,
        "ssl": True,
        "ssl_ca_certs": str(tls_files.ca),
        "ssl_certfile": str(tls_files.client_cert),
        "ssl_keyfile": str(tls_files.client_key),
    }
    assert one.client(**options).ping()
    with pytest.raises(redis.exceptions.ConnectionError):
        one.client(**options | {"ssl_certfile": None, "ssl_keyfile": None}).ping()


# --- the oracle -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
def test_every_type_survives_replication_to_every_later_version(
    server: StartServer, version: str
) -> None:
    source = server(version)
    keys = every_type(source.client(), version)
    every_type(source.client(7), version)
    fill_mixed(source, 3000, db=2)
    assert keys_of(source) == set(keys)
    before = fingerprint(source)
    assert len(before) == 2 * len(keys) + 3000
    for later in readers(version):
        target = server(later)
        target.replicate(source)
        assert compare(source, target) == []
        assert compare(source.client(), target.client()) == []
    assert fingerprint(source) == before


def test_the_oracle_finds_each_kind_of_difference(server: StartServer) -> None:
    source, target = server("9.1"), server("9.1")
    keys = every_type(source.client(), "9.1")
    for key in keys:
        copy(source, target, key)
    assert compare(source, target) == []

    dead = b"1700000000000-9"
    planted: list[tuple[bytes, tuple[object, ...], str]] = [
        (b"type:string-raw", ("DEL",), "missing on the target"),
        (b"another", ("SET", "x"), "only on the target"),
        (b"type:string-raw", ("APPEND", "x"), "string differs"),
        (b"type:string-int", ("INCR",), "-42' != b'-41"),
        (b"type:string-int", ("PEXPIRE", 1_000_000), "expiry none != "),
        (b"type:string-int:expiring", ("PERSIST",), " != none"),
        (b"type:string-int:expiring", ("PEXPIRE", 1_000_000), "expiry "),
        (b"type:list-small", ("LSET", 1, "x"), "[1] b'' != b'x'"),
        (b"type:list-long", ("RPUSH", "x"), "2000 != 2001 elements"),
        (b"type:set-hashtable", ("SREM", "member-7"), "b'member-7' is only on the source"),
        (b"type:set-hashtable", ("SADD", "x"), "b'x' is only on the target"),
        (b"type:zset-skiplist", ("ZADD", "142.42857142857145", "member-997"), "[b'member-997']"),
        (b"type:hash-hashtable", ("HSET", "field-1", "x"), "[b'field-1'][0] b'value-1' != b'x'"),
        (b"type:hash-hashtable", ("HDEL", "field-1"), "[b'field-1'] is only on the source"),
        (b"type:hash-field-ttl", ("HPERSIST", "FIELDS", 1, "a"), "[b'a'][1]"),
        (b"type:hash-listpack", ("HPEXPIRE", 9_000_000, "FIELDS", 1, "a"), "[b'a'][1] -1 != "),
        (b"type:stream-plain", ("XDEL", "1700000000000-0"), "[length]"),
        (b"type:stream-plain", ("XSETID", "1900000000000-0"), "[last-generated-id]"),
        (b"type:stream-plain", ("XSETID", "1700000000000-1", "ENTRIESADDED", 9, "MAXDELETEDID",
                                "0-0"), "[?entries-added] 2 != 9"),
        (b"type:stream-plain", ("XSETID", "1700000000000-1", "ENTRIESADDED", 2, "MAXDELETEDID",
                                "1700000000000-1"), "[?max-deleted-entry-id]"),
        (b"type:stream", ("XGROUP DESTROY", "untouched"), "[b'untouched'] is only on"),
        (b"type:stream", ("XGROUP SETID", "untouched", "9-9"), "[last-delivered-id]"),
        (b"type:stream", ("XGROUP SETID", "untouched", "300-1", "ENTRIESREAD", 4), "entries-read"),
        (b"type:stream", ("XGROUP DELCONSUMER", "first", "idle"), "[b'idle'] is only on the"),
        (b"type:stream", ("XACK", "first", "1-2"), "[b'1-2'] is only on the source"),
        (b"type:stream", ("XCLAIM", "first", "alice", 0, "1-2", "RETRYCOUNT", 7), "[b'1-2']"),
        (b"type:geo", ("ZADD", 1, "Palermo"), "Palermo"),
        (b"type:hll-dense", ("PFADD", "new", "newer", dead), "string differs"),
        (ODD_NAMES[-1], ("HSET", "field", "x"), "(1048576 bytes)"),
        (ODD_NAMES[0], ("SET", "x"), "db0 b'': string"),
    ]  # fmt: skip
    with target.raw() as raw:
        for key, (command, *rest), expected in planted:
            raw.do(*str(command).split(), key, *rest)  # type: ignore[arg-type]
            found = compare(source, target)
            assert len(found) == 1 and expected in found[0] and show(key) in found[0], (
                show(key),
                command,
                rest,
                found,
            )
            assert compare(source, target, keys=set(keys) - {key}) == []
            if key in keys:
                copy(source, target, key)
            else:
                raw.do("DEL", key)
        assert compare(source, target) == []
        raw.do("ZREM", b"type:zset-skiplist", "m2")
        raw.do("ZADD", b"type:zset-skiplist", "0", "m2")  # it was -0.0
        (text,) = compare(source, target)
        assert "zset-skiplist': zset differs: [b'm2']" in text
        copy(source, target, b"type:zset-skiplist")
        raw.do("DEL", b"type:list-small")
        raw.do("SET", b"type:list-small", "x")
        assert compare(source, target) == ["db0 b'type:list-small': type list != string"]


def test_the_oracle_knows_databases_and_limits(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, 200, db=3)
    fill_mixed(source, 10, seed=2, db=4)
    assert len(compare(source, target)) == 50
    assert len(compare(source, target, limit=500)) == 210
    for key in keys_of(source, 3):
        with source.raw(3) as a, target.raw(9) as b:
            moment = max(0, a.do("PEXPIRETIME", key))
            b.do("RESTORE", key, moment, a.do("DUMP", key), "ABSTTL")
    assert compare(source, target, db_map={3: 9}) == []
    assert len(compare(source, target, db_map={3: 9, 4: 4})) == 10
    assert len(compare(source, target, db_map={4: 9}, limit=999)) == 210
    key = next(iter(keys_of(target, 9)))
    target.do("SET", key, "x", db=9)
    (text,) = compare(source, target, db_map={3: 9})
    assert text.startswith(f"db3->db9 {key!r}: ")


def test_the_oracle_reads_expiries_of_6_2_to_the_millisecond(server: StartServer) -> None:
    source, target = server("6.2"), server("9.1")
    moment = int(time.time() * 1000) + 5_000_123
    for index in range(300):
        source.do("SET", str(index), "x", "PXAT", moment + index)
        target.do("SET", str(index), "x", "PXAT", moment + index)
    assert compare(source, target) == compare(target, source) == []
    assert {value.expiry[0] - moment for value in fingerprint(source).values()} == set(range(300))
    target.do("SET", "7", "x", "PXAT", moment + 107)
    (text,) = compare(source, target)
    assert "db0 b'7': expiry" in text
    assert compare(source, target, ttl_tolerance_ms=101) == []


# --- clusters -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
def test_a_cluster_moves_a_slot_and_fails_over(cluster: StartCluster, version: str) -> None:
    options = {"cluster_databases": 16} if version == "9.1" else {}
    one = cluster(version, 3, 1, **options)
    assert len(one.primaries()) == len(one.replicas()) == 3
    client = one.client()
    every_type(client, version)
    if version == "9.1":
        one.client(5).set("{here}other", "x")
    for index in range(100):
        client.set(b"{here}%d" % index, b"%d" % index)
    before = fingerprint(one)
    source = one.owner(b"{here}")
    target = next(p for p in one.primaries() if p is not source)

    def halfway() -> None:
        with source.raw() as raw, pytest.raises(RawError, match="ASK"):
            raw.many([("GET", b"{here}%d" % i) for i in range(100)])
            for index in range(100):
                raw.do("GET", b"{here}%d" % index)
        assert fingerprint(one) == before
        assert [client.get(b"{here}%d" % i) for i in range(100)] == [b"%d" % i for i in range(100)]

    moved = one.migrate_slot(key_slot(b"{here}"), source, target, halfway)
    assert moved == 100 + (version == "9.1")
    assert one.owner(b"{here}") is target
    assert fingerprint(one) == before
    replica = one.replicas()[0]
    one.failover(replica)
    assert replica in one.primaries()
    # A replica of 7.0 does not learn `entries-read` of a group's second consumer.
    for state in (before, after := fingerprint(one)):
        for name in (b"type:stream", b"type:stream:expiring"):
            state.pop((0, name))
    assert after == before


def test_a_cluster_survives_the_loss_of_a_primary(cluster: StartCluster) -> None:
    one = cluster("8.1", 3, 1)
    lost = one.primaries()[1]
    new = one.kill_primary(1)
    assert not lost.alive and new in one.primaries() and lost not in one.primaries()
    one.client().set("key", "value")


def test_the_oracle_compares_a_server_with_a_cluster(
    server: StartServer, cluster: StartCluster
) -> None:
    single, three = server("9.1"), cluster("9.1", cluster_databases=16)
    for db in (0, 11):
        fill_mixed(single, 5000, seed=db, ttl_share=0, db=db)
        fill_mixed(three, 5000, seed=db, ttl_share=0, db=db)
    assert min(p.do("DBSIZE") for p in three.primaries()) > 1000
    assert compare(single, three) == compare(three, single) == []
    assert compare(three.client(), single.client(), db_map={11: 11, 0: 0}) == []
    assert three.client(11).delete(b"k11:42") == 1
    assert compare(single, three) == ["db11 b'k11:42': missing on the target"]
    assert compare(three, single) == ["db11 b'k11:42': only on the target"]


# --- sentinels ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ALL)
def test_a_sentinel_fails_over(sentinel: Callable[..., Sentinel], version: str) -> None:
    one = sentinel(version, requirepass="data", sentinel_password="watch")
    old = one.primary
    new = one.failover()
    assert new is not old and one.primary is new
    new.client().set("key", "value")


def test_three_sentinels_notice_a_dead_primary(sentinel: Callable[..., Sentinel]) -> None:
    one = sentinel("7.0", sentinels=3)
    old = one.primary
    new = one.kill_primary()
    assert new is not old
    assert new.info("replication")["role"] == "master"


# --- the proxy ------------------------------------------------------------------------------


def test_the_proxy_delays_without_throttling(server: StartServer, proxy: StartProxy) -> None:
    one = server("7.0")
    one.client().set("big", b"x" * 8_000_000)
    link = proxy(one, rtt_ms=40)
    with Raw(("127.0.0.1", link.port)) as raw:

        def once() -> float:
            """Of several, as a busy machine makes some slow."""
            took = []
            for _ in range(10):
                start = time.monotonic()
                raw.do("PING")
                took.append(time.monotonic() - start)
            return min(took)

        raw.do("PING")
        assert 0.04 <= once() < 0.2
        start = time.monotonic()
        assert raw.many([("GET", "big"), ("ECHO", "end")])[1] == b"end"
        assert time.monotonic() - start < 1
        link.rtt_ms = 0
        assert once() < 0.03
    assert link.connections == 1 and link.bytes_down > 8_000_000 > link.bytes_up > 0
    wait_until(lambda: link.open_connections == 0, 5, "the proxy notices the close")


def test_the_proxy_cuts_and_resets(server: StartServer, proxy: StartProxy) -> None:
    one = server("7.0")
    link = proxy(one)
    address = ("127.0.0.1", link.port)
    with Raw(address) as raw:
        raw.do("SET", "key", "0123456789")
        link.cut()
        with pytest.raises(ConnectionError):
            raw.do("PING")
    with Raw(address) as raw:
        raw.do("PING")
        link.reset()
        with pytest.raises(ConnectionResetError):
            raw.replies(1)
    with Raw(address) as raw:
        link.cut_after(8)
        raw.send(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
        wait_until(lambda: link.cuts == 1, 5, "the cut")
        got = b""
        while part := raw.sock.recv(100):
            got += part
        assert got == b"$10\r\n012"
    with Raw(address) as raw:
        link.cut_after(5, "up")
        with pytest.raises(ConnectionError):
            raw.do("SET", "key", "changed")
    link.refuse = True
    with pytest.raises(ConnectionError), Raw(address) as raw:
        raw.do("PING")
    link.refuse = False
    link.trickle = True
    with Raw(address) as raw:
        assert raw.do("GET", "key") == b"0123456789"
    link.trickle = False
    link.fail_fraction = 0.3
    failed = 0
    for _ in range(60):
        try:
            with Raw(address) as raw:
                raw.do("PING")
        except ConnectionError:
            failed += 1
    assert 5 < failed < 40 and link.refused == failed + 1


def test_the_proxy_stalls(server: StartServer, proxy: StartProxy) -> None:
    link = proxy(server("7.0"))
    with Raw(("127.0.0.1", link.port), timeout=20) as raw:
        raw.do("PING")
        link.stall()
        raw.send(b"*1\r\n$4\r\nPING\r\n")
        raw.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.replies(1)
        raw.sock.settimeout(20)
        link.go()
        assert raw.replies(1) == [b"PONG"]


def test_the_proxy_stalls_one_direction(server: StartServer, proxy: StartProxy) -> None:
    one = server("7.0")
    link = proxy(one)
    with Raw(("127.0.0.1", link.port), timeout=20) as raw:
        raw.do("PING")
        link.stall("down")
        raw.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.do("SET", "key", "value")
        raw.sock.settimeout(20)
        wait_until(lambda: one.do("GET", "key") == b"value", 20, "the command has arrived")
        link.go()
        assert raw.replies(1) == [b"OK"]


def test_the_proxy_cuts_within_a_value(server: StartServer, proxy: StartProxy) -> None:
    one = server("7.0")
    one.do("SET", "key", "0123456789")
    link = proxy(one)
    with Raw(("127.0.0.1", link.port)) as raw:
        link.cut_within(b"345", 2)
        assert raw.do("PING") == b"PONG"
        raw.send(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
        got = b""
        while part := raw.sock.recv(100):
            got += part
    assert got == b"$10\r\n01234567" and link.cuts == 1


def test_the_proxy_encrypts(server: StartServer, proxy: StartProxy, tls_files: TlsFiles) -> None:
    one = server("7.0")
    good = proxy(one, tls=tls_files, require_client_cert=True)
    wrong = proxy(one, tls=tls_files, wrong_host=True)

    def ping(port: int, context: ssl.SSLContext) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            sock.sendall(b"PING\r\n")
            reply = sock.recv(100)
            if not reply:
                raise ConnectionError("closed")
            return reply

    context = ssl.create_default_context(cafile=str(tls_files.ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        ping(wrong.port, context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ping(good.port, context)
    context.load_cert_chain(tls_files.client_cert, tls_files.client_key)
    assert ping(good.port, context) == b"+PONG\r\n"
    with pytest.raises(ssl.SSLCertVerificationError):
        ping(good.port, ssl.create_default_context(cafile=str(tls_files.other_ca)))
    good.cut()


# --- running processes ----------------------------------------------------------------------

_SHOW = """
import os, shutil, signal, sys
size = shutil.get_terminal_size()
print("\\x1b[31msize\\x1b[0m", size.columns, size.lines, sys.stdout.isatty(), flush=True)
# Blocked, so that one which comes before it is waited for is not lost.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH, signal.SIGINT})
print("got", input("? "), flush=True)
assert signal.sigwait({signal.SIGWINCH}) == signal.SIGWINCH
print("now", os.get_terminal_size().columns, flush=True)
assert signal.sigwait({signal.SIGINT}) == signal.SIGINT
print("interrupted")
sys.exit(3)
"""


def test_a_program_in_a_terminal() -> None:
    result = run.run_pty(
        [sys.executable, "-c", _SHOW],
        cols=50,
        rows=10,
        keys=[("? ", b"hello\n"), ("got hello", (70, 12)), ("now 70", b"\x03")],
        timeout=20,
    )
    assert result.returncode == 3
    assert result.lines[0] == "size 50 10 True"
    assert "interrupted" in result.text
    assert b"\x1b[31m" in result.raw
    assert len(result.frames) >= 3 and len(result.sent) == 3
    assert result.modes_restored and not result.cursor_hidden


_POOL = """
import multiprocessing as mp, sys, time
def work():
    open("/proc/self/comm", "w").write("rumpx-worker")
    time.sleep(60)
if __name__ == "__main__":
    context = mp.get_context("forkserver")
    lock = context.Lock()
    for _ in range(2):
        context.Process(target=work, daemon=True).start()
    print("started", flush=True)
    sys.stdin.read()
    time.sleep(60)
"""


def test_a_program_with_workers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    script = tmp_path_factory.mktemp("pool") / "pool.py"
    script.write_text(_POOL)
    command = [sys.executable, str(script)]
    with run.Running([], command=command) as one:
        wait_until(lambda: "started" in one.stdout, 20, "the pool's start")
        wait_until(lambda: len(one.workers()) == 2, 20, "two workers")
        assert len(one.descendants()) > 2  # the fork server is no worker
        victim = one.kill_random_worker(random.Random(1))
        assert victim
        wait_until(lambda: len(one.workers()) == 1, 10, "one worker less")
        one.send_signal(signal.SIGTERM)
        assert one.wait(10).returncode == -signal.SIGTERM
        assert one.orphans()  # the other worker
    assert not one.orphans()
    again = run.Running([], command=command)
    with again, pytest.raises(pytest.fail.Exception, match="not finished after"):
        again.wait(timeout=0.5)


def test_a_copy_that_is_held(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, 10_000)
    with Copying(source, target) as copying:
        with copying.held_at(target, 1000):
            workers, others = copying.run.workers(), copying.run.descendants()
            assert workers
            wait_until(
                lambda: all(one.status() == psutil.STATUS_STOPPED for one in workers),
                10,
                "the workers have stopped",
            )
            moving = [psutil.Process(copying.run.pid), *(o for o in others if o not in workers)]
            assert all(one.status() != psutil.STATUS_STOPPED for one in moving)
            there = target.do("DBSIZE")
            assert 1000 <= there < 2700  # they had 64 batches of 5 * 5 keys at most
            workers[0].kill()  # another takes its place
        with copying.held_at(target, there + 1000):
            assert [one.pid for one in copying.run.workers()] != [one.pid for one in workers]
            assert target.do("DBSIZE") < 10_000
        too_many = copying.held_at(target, 10_001)
        with pytest.raises(AssertionError, match="ended too early"), too_many:
            pass
        assert copying.finish().counts["copied"] == len(keys_of(target)) == 10_000
