"""Values that are copied in pieces: of every type, between all versions, each of one moment."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.copying import Copying, Verified, copy, verify
from support.data import HOUR, compare, every_type, fill_mixed, keys_of
from support.proxy import Proxy
from support.servers import ALL, Cluster, Server
from support.tls import TlsFiles

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

KINDS = (b"string", b"list", b"set", b"zset", b"hash", b"stream")
FROM_1K = ("--stream-from", "1KiB")
PAIRS = [(version, version) for version in ALL]
PAIRS += [("7.0", "9.1"), ("8.2", "7.0"), ("6.2", "9.1"), ("9.1", "6.2"), ("8.2", "9.1")]


def tolerance(*versions: str) -> int:
    """In ms: before 7.0 a server does not tell the moment of an expiry."""
    return 2 if "6.2" in versions else 0


def calls(server: Server, command: str) -> int:
    """How often a server has executed a command."""
    stats = server.info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(stats.partition("calls=")[2].partition(",")[0])


def fill_large(server: Server | Cluster, version: str, seed: int = 1) -> list[bytes]:
    """One value of each type, of some hundred kilobytes, with and without an expiry."""
    rng = random.Random(seed)
    call: Callable[..., object] = server.client().execute_command
    words = [rng.randbytes(rng.randint(1, 60)) for _ in range(3000)]
    for name in (b"plain", b"expiring", b"{tag}ged", b"odd}{\x00\xff"):
        call("SET", name + b":string", rng.randbytes(700_001))
        call("RPUSH", name + b":list", *words)
        call("SADD", name + b":set", *words)
        call("SADD", name + b":intset", *range(0, 40_000, 100))
        call("HSET", name + b":hash", *[part for n, word in enumerate(words) for part in (n, word)])
        scored = [part for n, word in enumerate(words) for part in (rng.gauss(0, 1e9) / 3, word)]
        call("ZADD", name + b":zset", "inf", "most", "-inf", "least", *scored)
        for n in range(700):
            call("XADD", name + b":stream", f"{n + 1}-{n}", "field", words[n], "n", n)
        call("XGROUP", "CREATE", name + b":stream", "group", "0")
        for consumer in ("one", b"two\xff"):
            call("XREADGROUP", "GROUP", "group", consumer, "COUNT", 200, "STREAMS",
                 name + b":stream", ">")  # fmt: skip
        call("XCLAIM", name + b":stream", "group", "one", 0, "5-4", "RETRYCOUNT", 9)
        call("XDEL", name + b":stream", "3-2", "250-249", "699-698")
        call("XGROUP", "CREATE", name + b":stream", "late", "$")
        call("XTRIM", name + b":stream", "MAXLEN", 600)
    keys = sorted(keys_of(server))
    for n, key in enumerate(key for key in keys if key.startswith(b"expiring")):
        call("PEXPIRE", key, HOUR + 1000 * n)
    return keys


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_type_in_pieces(server: StartServer, old: str, new: str) -> None:
    source, target = server(old), server(new)
    keys = fill_large(source, old)
    done = copy(source, target, *FROM_1K)
    assert calls(source, "dump") < 10  # the checks at the start
    assert calls(target, "rename") >= len(keys)
    assert "large values" not in done.warnings
    assert done.counts["copied"] == len(keys)
    assert compare(source, target, ttl_tolerance_ms=tolerance(old, new)) == []


@pytest.mark.parametrize("version", ALL)
def test_every_type_and_odd_name_in_pieces(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    keys = every_type(source.client(), version)
    done = copy(source, target, *FROM_1K)
    assert compare(source, target, ttl_tolerance_ms=tolerance(version)) == []
    assert done.counts["copied"] == len(keys)
    assert calls(target, "rename") > 10


@pytest.mark.parametrize(("old", "new"), [("7.0", "9.1"), ("8.2", "8.2")])
def test_clusters_in_pieces(cluster: StartCluster, old: str, new: str) -> None:
    source, target = cluster(old), cluster(new)
    keys = every_type(source.client(), old) + fill_large(source, old)
    done = copy(source, target, *FROM_1K)
    assert compare(source, target) == []
    assert done.counts["failed"] == 0 and len(set(keys)) == done.counts["copied"]


def test_a_replica_is_read_in_pieces(server: StartServer) -> None:
    source, replica, target = server("7.0"), server("7.0"), server("7.0")
    keys = fill_large(source, "7.0")
    replica.replicate(source)
    done = copy(source, target, *FROM_1K, "--read-from", "replica")
    assert calls(replica, "watch") == len(keys) and calls(source, "watch") == 0
    assert compare(source, target) == [] and done.counts["copied"] == len(keys)


def test_pieces_through_tls(
    server: StartServer, proxy: Callable[..., Proxy], tls_files: TlsFiles
) -> None:
    source, target = server("7.0"), server("7.0")
    fill_large(source, "7.0")
    ends = [f"rediss://127.0.0.1:{proxy(each, tls=tls_files).port}" for each in (source, target)]
    certificates = ("--from-ca", tls_files.ca, "--to-ca", tls_files.ca)
    copy(*ends, *FROM_1K, *certificates)
    assert compare(source, target) == []
    assert calls(target, "rename") >= len(keys_of(source))


def test_a_failover_of_the_target(cluster: StartCluster) -> None:
    """The staging key goes on the new primary, or the value starts anew."""
    source, target = cluster("7.0"), cluster("7.0", replicas=1)
    keys = fill_large(source, "7.0")
    flags = ("--max-bytes-per-sec", "1500KiB", "--workers", "2")
    with Copying(source, target, *FROM_1K, *flags) as copying:
        for primary in target.primaries():
            copying.wait_keys(target, 1)
            target.failover(target.replicas(primary)[0])
        done = copying.finish(timeout=100)
    assert compare(source, target, keys=keys) == []
    # Those of a node that was no primary any more end by themselves.
    call = target.client().execute_command
    others = set().union(*map(keys_of, target.primaries())) - set(keys)
    assert all(b":rumpx-" in key and 0 < call("PTTL", key) <= 600_000 for key in others)
    assert done.counts["copied"] + done.counts["repeated"] == len(keys)


# Fields that expire


def expiring_hash(server: Server, key: str = "fields", number: int = 3000) -> None:
    """Some fields expire, at instants of their own, alike, or far away."""
    call = server.client().execute_command
    call("HSET", key, *[word for n in range(number) for word in (f"field:{n}", f"value:{n}")])
    now = int(time.time() * 1000)
    for n in range(0, number, 3):
        call("HPEXPIREAT", key, now + HOUR + n, "FIELDS", 1, f"field:{n}")
    alike = [f"field:{n}" for n in range(1, number, 30)]
    call("HPEXPIREAT", key, now + 3 * HOUR, "FIELDS", len(alike), *alike)
    call("HPEXPIREAT", key, 2**46 - 1, "FIELDS", 1, "field:2")


@pytest.mark.parametrize(("old", "new"), [("8.2", "8.2"), ("8.2", "9.1"), ("9.1", "8.2")])
def test_field_expiries_in_pieces(server: StartServer, old: str, new: str) -> None:
    source, target = server(old), server(new)
    expiring_hash(source)
    call = source.client().execute_command
    call("HSET", "soon", *[word for n in range(3000) for word in (f"field:{n}", n)])
    call("HPEXPIRE", "soon", 1500, "FIELDS", 1000, *[f"field:{n}" for n in range(1000)])
    copy(source, target, *FROM_1K)
    assert compare(source, target, keys=[b"fields"]) == []
    until = time.monotonic() + 20
    while target.do("HLEN", "soon") != 2000 and time.monotonic() < until:
        time.sleep(0.1)
    assert compare(source, target) == []
    assert calls(target, "rename") >= 2


@pytest.mark.parametrize("drop", [False, True])
def test_a_target_without_field_expiries(server: StartServer, drop: bool) -> None:
    source, target = server("8.2"), server("7.0")
    expiring_hash(source)
    source.do("HSET", "plain", *[word for n in range(3000) for word in (f"field:{n}", n)])
    flags = ("--field-expiries", "drop") if drop else ()
    done = copy(source, target, *FROM_1K, *flags, code=0 if drop else 3)
    assert compare(source, target, keys=[b"plain"]) == []
    if drop:
        assert target.do("HLEN", "fields") == 3000
        assert done.counts["lossy"] == 1 and done.summary["losses"] == {"field expiries": 1}
    else:
        assert keys_of(target) == {b"plain"}
        assert done.summary["failures_by_reason"] == {"field expiries": 1}


# Written meanwhile


@contextmanager
def writing(write: Callable[[], object], pause: float = 0.002) -> Iterator[None]:
    """Write, again and again, while this is open."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not ended.wait(pause):
                write()
        except BaseException as error:  # the test's own
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not errors, errors


MEMBERS = 20_000


def hot_list(source: Server) -> Callable[[], object]:
    """A list that turns: at each moment its numbers follow each other."""
    raw = source.client()
    raw.rpush("hot", *range(MEMBERS))
    return lambda: raw.execute_command("LMOVE", "hot", "hot", "LEFT", "RIGHT")


def is_turned(numbers: list[bytes]) -> bool:
    first = int(numbers[0])
    return [int(n) for n in numbers] == [(first + n) % MEMBERS for n in range(MEMBERS)]


def test_a_list_that_never_rests_is_read_whole(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    write = hot_list(source)
    with writing(write):
        done = copy(source, target, *FROM_1K)
    assert done.counts["copied"] == 1
    assert is_turned(target.do("LRANGE", "hot", 0, -1))
    assert keys_of(target) == {b"hot"}


@pytest.mark.parametrize("policy", ["fail", "whole=50KiB", "whole=1MiB"])
def test_the_size_up_to_which_a_value_that_never_rests_is_read_whole(
    server: StartServer, policy: str
) -> None:
    source, target = server("7.0"), server("7.0")
    write = hot_list(source)
    size = source.do("MEMORY", "USAGE", "hot")
    assert 50 * 2**10 < size < 2**20
    with writing(write):
        whole = policy == "whole=1MiB"
        done = copy(source, target, *FROM_1K, "--hot-keys", policy, code=0 if whole else 3)
    assert done.counts["copied"] == whole
    if not whole:
        (failure,) = done.summary["failures"]
        assert failure["reason"] == "changes while it is read"
        assert "--hot-keys whole=1MiB" in failure["message"]


def test_a_huge_member_is_told_of(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    for key in ("huge", "huger"):
        source.do("HSET", key, "large", "x" * (17 * 2**20))
    source.do("XADD", "log", "*", "large", "x" * 2**21)
    done = copy(source, target, "--workers", "1")
    assert done.counts["copied"] == 3
    told = [text for text in done.summary["warnings"] if "has a member of" in text]
    assert len(told) == 1 and "17.8 MB" in told[0] and "The key huge" in told[0]
    assert target.do("HSTRLEN", "huger", "large") == 17 * 2**20


def test_a_value_that_rests_for_a_moment_is_of_one_moment(server: StartServer) -> None:
    """Some tries fail, and none leaves a mixture."""
    source, target = server("7.0"), server("7.0")
    write = hot_list(source)
    with writing(write, pause=0.2):
        done = copy(source, target, *FROM_1K)
    assert done.counts["copied"] == 1
    assert is_turned(target.do("LRANGE", "hot", 0, -1))


def test_other_keys_do_not_end_the_watch(server: StartServer) -> None:
    """Small keys are read in transactions meanwhile, by the same worker: over other connections,
    since an EXEC ends what its own connection watches."""
    source, target = server("7.0"), server("7.0")
    write = hot_list(source)
    fill_mixed(source, 20_000)
    flags = ("--hot-keys", "fail", "--workers", "1", "--batch-keys", "100")
    with writing(write):
        done = copy(source, target, "--stream-from", "20KiB", *flags, code=3)
    assert done.summary["failures_by_reason"] == {"changes while it is read": 1}
    assert done.counts["copied"] == 20_000


HOT: dict[str, tuple[list[list[object]], list[object]]] = {
    "an equal value": (
        [["HSET", "hot", *[w for n in range(5000) for w in (n, "x" * 20)]]],
        ["HSET", "hot", 17, "x" * 20],
    ),
    "an expiry": ([["SADD", "hot", *range(5000), "x"]], ["PEXPIRE", "hot", 10_000_000]),
    "a score": (
        [["ZADD", "hot", *[w for n in range(5000) for w in (n, n)]]],
        ["ZINCRBY", "hot", 5000.5, 1],
    ),
    "a string": ([["SETRANGE", "hot", 3_000_000, "x"]], ["SETRANGE", "hot", 9, "y"]),
    "an entry": (
        [["XADD", "hot", "*", "n", n] for n in range(3000)],
        ["XADD", "hot", "*", "n", 1],
    ),
    "another type": (
        [["RPUSH", "hot", *range(5000)]],
        ["EVAL", "redis.call('DEL', KEYS[1]); for n = 1, 5000 do redis.call(math.random(2) == 1 "
         "and 'SADD' or 'PFADD', KEYS[1], n) break end redis.call('DEL', KEYS[1]); "
         "redis.call('SETRANGE', KEYS[1], 100000, 'x')", 1, "hot"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOT)
def test_a_value_that_never_rests_may_fail(server: StartServer, what: str) -> None:
    source, target = server("7.0"), server("9.1")
    client = source.client()
    first, write = HOT[what]
    for command in first:
        client.execute_command(*command)
    target.do("SET", "hot", "old")
    with writing(lambda: client.execute_command(*write)):
        flags = ("--hot-keys", "fail", "--on-conflict", "replace")
        # So slow that each try takes longer than the writer's pauses.
        done = copy(source, target, *FROM_1K, *flags, "--max-bytes-per-sec", "200KiB", code=3)
    assert done.summary["failures_by_reason"] == {"changes while it is read": 1}
    (failure,) = done.summary["failures"]
    assert "--read-from replica" in failure["message"]
    assert target.do("GET", "hot") == b"old"
    assert keys_of(target) == {b"hot"}


def test_a_field_that_expires_meanwhile(server: StartServer) -> None:
    source, target = server("8.2"), server("8.2")
    client = source.client()
    client.hset("hot", mapping={n: "x" * 20 for n in range(5000)})

    def write() -> None:
        client.execute_command("HSET", "hot", "short", 1)
        client.execute_command("HPEXPIRE", "hot", 1, "FIELDS", 1, "short")

    with writing(write):
        done = copy(source, target, *FROM_1K, "--hot-keys", "fail", code=3)
    assert done.summary["failures_by_reason"] == {"changes while it is read": 1}
    assert keys_of(target) == set()


# What the target has


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_keys_that_the_target_has(server: StartServer, policy: str) -> None:
    source, target = server("7.0"), server("9.1")
    keys = fill_large(source, "7.0")
    copy(source, target, *FROM_1K)
    target.do("RPUSH", "plain:list", "another")
    target.do("DEL", "plain:set")
    target.do("SET", "plain:set", "another type")
    target.do("PERSIST", "expiring:zset")
    target.do("DEL", "plain:hash")

    code = 3 if policy == "fail" else 0
    done = copy(source, target, *FROM_1K, "--on-conflict", policy, code=code)

    assert done.counts["copied"] == 1 and done.counts["repeated"] == len(keys) - 4
    assert done.counts["skipped" if policy == "skip" else "failed"] == 3
    assert target.do("GET", "plain:set") == b"another type"
    changed = {b"plain:list", b"plain:set", b"expiring:zset"}
    assert compare(source, target, keys=[key for key in keys if key not in changed]) == []


def test_the_old_value_stays_until_the_new_one_is_there(server: StartServer) -> None:
    """Under the real name there is never a part of a value, and never none."""
    source, target = server("7.0"), server("8.2")
    source.do("SADD", "key", *range(40_000), "x")
    target.client().hset("key", mapping={f"field:{n}": n for n in range(20_000)})
    seen = set()
    client = target.client()

    def look() -> None:
        kind = client.type("key")
        count = {b"hash": client.hlen, b"set": client.scard}.get(kind)
        if count:
            try:
                seen.add((kind, count("key")))
            except Exception as error:  # it became the other type between the two
                assert "WRONGTYPE" in str(error)
        else:
            seen.add((kind, 0))

    with writing(look):
        copy(source, target, *FROM_1K, "--on-conflict", "replace")
    look()
    assert seen == {(b"hash", 20_000), (b"set", 40_001)}


# Who may do what


def limited(server: Server, *rules: str) -> str:
    server.do("ACL", "SETUSER", "mover", "on", ">secret", *rules)
    return f"redis://mover:secret@127.0.0.1:{server.port}"


def test_a_user_of_some_keys_may_stream_them(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SADD", "app:{big", *range(5000), "x")
    to = limited(target, "~app:*", "+@all")
    done = copy(limited(source, "~app:*", "+@all"), to, *FROM_1K)
    assert calls(target, "rename") == 2  # one is tried first
    assert calls(source, "dump") < 5 and "large values" not in done.warnings
    assert compare(source, target) == []


@pytest.mark.parametrize(
    ("side", "rules"),
    [("source", "-watch"), ("target", "-watch"), ("target", "-rename"), ("target", "-sadd"),
     ("source", "-sscan"), ("target", "-unlink")],
)  # fmt: skip
def test_a_user_who_may_not_stream(server: StartServer, side: str, rules: str) -> None:
    """It is said once, and the values go whole."""
    source, target = server("7.0"), server("7.0")
    for n in range(4):
        source.do("SADD", f"big:{n}", *range(5000), "x")
    ends = {"source": source.uri, "target": target.uri}
    ends[side] = limited(source if side == "source" else target, "~*", "+@all", rules)
    done = copy(ends["source"], ends["target"], *FROM_1K)
    assert compare(source, target) == []
    assert done.warnings.count("refuses") == 1 and rules[1:] in done.warnings.lower()
    assert keys_of(target) == keys_of(source)
    assert done.counts["copied"] == 4


# Comparisons


def verify_without_dumps(source: Server, target: Server, *flags: str, code: int = 0) -> Verified:
    """Compare; neither side may dump more than the checks at the start do."""
    before = calls(source, "dump"), calls(target, "dump")
    done = verify(source, target, *FROM_1K, *flags, code=code)
    assert calls(source, "dump") - before[0] < 10 and calls(target, "dump") - before[1] < 10
    return done


@pytest.mark.parametrize("digest", [False, True])
def test_a_comparison_in_pieces(server: StartServer, digest: bool) -> None:
    source, target = server("7.0"), server("9.1")
    keys = fill_large(source, "7.0")
    copy(source, target, *FROM_1K)
    flags = ("--digest",) if digest else ()
    done = verify_without_dumps(source, target, *flags)
    assert done.counts["equal"] == len(keys)

    call = target.client().execute_command
    call("SETRANGE", "plain:string", 600_000, "other")
    call("LSET", "plain:list", 1500, "other")
    call("SADD", "plain:set", "other")
    call("ZINCRBY", "plain:zset", "0.001", "most"), call("ZADD", "plain:zset", 1, "least")
    call("HSET", "plain:hash", "1500", "other")
    call("XACK", "plain:stream", "group", "101-100")
    call("PEXPIRE", "expiring:list", 5 * HOUR)
    call("DEL", "expiring:set")
    call("DEL", "expiring:hash"), call("SET", "expiring:hash", "of another type")
    call("RPUSH", "only there", *range(5000))
    done = verify_without_dumps(source, target, *flags, code=4)
    assert done.found == {
        *(("value", 0, b"plain:" + kind) for kind in KINDS),
        ("expiry", 0, b"expiring:list"),
        ("missing", 0, b"expiring:set"),
        ("type", 0, b"expiring:hash"),
        ("extra", 0, b"only there"),
    }

    verify(source, target, *FROM_1K, *flags, "--repair", "--delete-extra", "--yes")
    assert compare(source, target) == []


def test_a_large_value_that_is_being_written_is_changing(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    client = source.client()
    for one in (source, target):
        one.client().rpush("hot", *range(MEMBERS))
    target.do("LSET", "hot", MEMBERS - 1, "other")
    with writing(lambda: client.lset("hot", 0, "0")):
        done = verify(source, target, *FROM_1K, "--max-bytes-per-sec", "200KiB")
    assert done.counts["changing"] == 1 and done.counts["different"] == 0


def test_staging_keys_are_left_alone(server: StartServer) -> None:
    """Those of another copy; but a user's own key of such a name is like any other."""
    source, target = server("7.0"), server("7.0")
    named = "key:rumpx-0123456789ab-17"
    for kind in ("small", "large"):
        members = range(5000 if kind == "large" else 5)
        source.do("SADD", f"{kind} {named}", *members, "x")
        source.do("PEXPIRE", f"{kind} {named}", 500_000)
        source.do("SADD", f"{kind} own {named}", *members, "x")
        source.do("SADD", f"{kind}:rumpx-", *members, "x")
        source.do("PEXPIRE", f"{kind}:rumpx-", 500_000)
    done = copy(source, target, *FROM_1K)
    ours = {f"small {named}".encode(), f"large {named}".encode()}
    assert keys_of(target) == keys_of(source) - ours
    assert done.counts["gone"] == 2
    target.do("SADD", f"target {named}", 1)
    target.do("PEXPIRE", f"target {named}", 500_000)
    done_there = verify(source, target, *FROM_1K)
    assert done_there.counts["equal"] == 4 and not done_there.found
    target.do("SADD", f"own target {named}", 1)
    assert verify(source, target, *FROM_1K, code=4).found == {
        ("extra", 0, f"own target {named}".encode())
    }
