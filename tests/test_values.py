"""Comparing values by meaning, on real servers of every version there is."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from typing import Any

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rumpx.errors import RumpxError
from rumpx.servers.resp import Argument, Command, Connection, Reply
from rumpx.values import by_type, compare, equal_streams
from rumpx.values.by_type import same_payload
from rumpx.values.chunked_reader import Amount
from rumpx.values.compare import ReadRefused, Told
from rumpx.values.sides import USUAL_AMOUNT, run_over
from support.servers import Server, at_least, available, readers

KEY = b"key \xff\r\n"
Commands = list[tuple[Argument, ...]]
Pair = tuple[Connection, Connection]


def differing(
    one: Any, other: Any, keys: list[bytes], amount: Amount = USUAL_AMOUNT, **how: Any
) -> list[bytes]:
    """The different ones; none of the values here is not comparable."""
    told: Told = run_over(one, other, lambda sides: compare.differing(sides, keys, **how), amount)
    assert not told.incomparable
    return told.different


def equal_values(one: Any, other: Any, key: bytes) -> bool:
    return run_over(one, other, lambda sides: compare.equal_values(sides, key))


def dial(server: Server, *login: str) -> Connection:
    connection = Connection(socket.create_connection(server.address, timeout=20), str(server))
    if login:
        assert connection.call("AUTH", *login) == b"OK"
    return connection


def do(connection: Connection, *commands: tuple[Argument, ...]) -> list[Reply]:
    replies = connection.call_many(commands)
    errors = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
    assert not errors, errors[0]
    return replies


class Servers:
    """Two servers of each version, started when first asked for."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.started: dict[tuple[str, int], Connection] = {}

    def get(self, version: str, number: int) -> Connection:
        if (version, number) not in self.started:
            server = self.stack.enter_context(Server(version))
            connection = dial(server)
            self.stack.callback(connection.close)
            self.started[version, number] = connection
        connection = self.started[version, number]
        do(connection, ("FLUSHALL",))
        return connection


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    pool = Servers()
    with pool.stack:
        yield pool


PAIRS = [(version, version) for version in available()]
if len(available()) > 1:
    PAIRS.append((available()[0], available()[-1]))


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(pair))
def pair(request: pytest.FixtureRequest, servers: Servers) -> Pair:
    one, other = request.param
    return servers.get(one, 0), servers.get(other, 1)


def version(connection: Connection) -> str:
    info = connection.call("INFO", "server")
    assert isinstance(info, bytes)
    fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return fields.get("valkey_version") or fields["redis_version"]


MANY = [b"m%04d" % number for number in range(600)]
SCORED: Commands = [("ZADD", KEY, score, member) for member, score in (
    ("a", "0.1"), ("b", "0.1"), ("c", "-inf"), ("d", "1e300"), ("e", "3"), (b"\xff", "inf"),
)]  # fmt: skip
ENTRIES: Commands = [("XADD", KEY, f"{number}-1", "f", "v") for number in range(1, 6)]

# The same value, reached in two ways that leave different encodings or orders.
EQUAL: dict[str, tuple[Commands, Commands]] = {
    "string": ([("SET", KEY, "123")], [("APPEND", KEY, "1"), ("APPEND", KEY, "23")]),
    "empty string": ([("SET", KEY, "")], [("SET", KEY, "")]),
    "list": (
        [("RPUSH", KEY, *MANY)],
        [("LPUSH", KEY, *reversed(MANY)), ("LPUSH", KEY, "x"), ("LPOP", KEY)],
    ),
    "small set": (
        [("SADD", KEY, "1", "2", "3")],
        [("SADD", KEY, "3", "x", "1", "2"), ("SREM", KEY, "x")],
    ),
    "large set": ([("SADD", KEY, *MANY)], [("SADD", KEY, *reversed(MANY))]),
    "small hash": (
        [("HSET", KEY, "a", "1", "b", "2")],
        [("HSET", KEY, "b", "2", "a", "1", "c", b"x" * 100), ("HDEL", KEY, "c")],
    ),
    "large hash": (
        [("HSET", KEY, member, member[::-1]) for member in MANY],
        [("HSET", KEY, member, member[::-1]) for member in reversed(MANY)],
    ),
    "small sorted set": (
        SCORED,
        [("ZADD", KEY, "5", b"x" * 100), *reversed(SCORED), ("ZREM", KEY, b"x" * 100)],
    ),
    "large sorted set": (
        [("ZADD", KEY, 7, member) for member in MANY],
        [("ZADD", KEY, 7, member) for member in reversed(MANY)],
    ),
    "stream": (
        [*ENTRIES, ("XADD", KEY, "9-9", "f", "v"), ("XDEL", KEY, "3-1"), ("XDEL", KEY, "9-9")],
        [*ENTRIES, ("XADD", KEY, "9-9", "g", b"v" * 99), ("XDEL", KEY, "3-1", "9-9")],
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_values_in_other_encodings_are_equal(pair: Pair, name: str) -> None:
    for connection, commands in zip(pair, EQUAL[name], strict=True):
        do(connection, *commands)
    assert equal_values(*pair, KEY)
    assert differing(*pair, [KEY]) == []


# What one change to a value makes of it; "" stands for every type.
CHANGES: list[tuple[str, Commands]] = [
    ("", [("DEL", KEY)]),
    ("", [("DEL", KEY), ("GEOADD", KEY, 1, 2, "x")]),
    ("string", [("SETRANGE", KEY, 2, "4")]),
    ("string", [("APPEND", KEY, " ")]),
    ("list", [("LSET", KEY, 300, "other")]),
    ("list", [("RPOPLPUSH", KEY, KEY)]),
    ("list", [("RPOP", KEY)]),
    ("small set", [("SREM", KEY, "3"), ("SADD", KEY, "4")]),
    ("large set", [("SREM", KEY, b"m0300"), ("SADD", KEY, b"M0300")]),
    ("large set", [("SREM", KEY, b"m0300")]),
    ("small hash", [("HSET", KEY, "b", "3")]),
    ("large hash", [("HSET", KEY, b"m0300", "")]),
    ("large hash", [("HDEL", KEY, b"m0300")]),
    ("large hash", [("HSET", KEY, "new", "")]),
    ("small sorted set", [("ZADD", KEY, "0.10000000000000002", "a")]),
    ("large sorted set", [("ZADD", KEY, 8, b"m0300")]),
    ("large sorted set", [("ZREM", KEY, b"m0300")]),
    ("stream", [("XADD", KEY, "10-1", "f", "v")]),
    ("stream", [("XDEL", KEY, "4-1")]),
    ("stream", [("XSETID", KEY, "99-1")]),
    ("stream", [("XGROUP", "CREATE", KEY, "g", "0")]),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=lambda value: str(value)[:40])
def test_one_change_makes_them_differ(pair: Pair, name: str, change: Commands) -> None:
    for connection, commands in zip(pair, EQUAL[name or "small set"], strict=True):
        do(connection, *commands)
    do(pair[1], *change)
    assert not equal_values(*pair, KEY)
    assert not equal_values(pair[1], pair[0], KEY)
    assert differing(*pair, [KEY]) == [KEY]


GROUPS: Commands = [
    *ENTRIES,
    ("XGROUP", "CREATE", KEY, "g", "0"),
    ("XGROUP", "CREATE", KEY, "h", "2-1"),
    ("XREADGROUP", "GROUP", "g", "ann", "COUNT", 2, "STREAMS", KEY, ">"),
    ("XREADGROUP", "GROUP", "g", "bob", "COUNT", 2, "STREAMS", KEY, ">"),
    ("XCLAIM", KEY, "g", "ann", 0, "1-1", "2-1", "TIME", 1_700_000_000_000, "RETRYCOUNT", 1),
    ("XCLAIM", KEY, "g", "bob", 0, "3-1", "4-1", "TIME", 1_700_000_000_000, "RETRYCOUNT", 1),
]
GROUP_CHANGES: list[Commands] = [
    [("XGROUP", "SETID", KEY, "h", "3-1")],
    [("XGROUP", "DESTROY", KEY, "h")],
    [("XGROUP", "DELCONSUMER", KEY, "g", "bob")],
    [("XACK", KEY, "g", "2-1")],
    [("XCLAIM", KEY, "g", "bob", 0, "1-1", "TIME", 1_700_000_000_000, "RETRYCOUNT", 1)],
    [("XCLAIM", KEY, "g", "ann", 0, "1-1", "TIME", 1_700_000_000_000, "RETRYCOUNT", 2)],
    [("XCLAIM", KEY, "g", "ann", 0, "1-1", "TIME", 1_700_000_000_999, "RETRYCOUNT", 1)],
    [("XREADGROUP", "GROUP", "g", "cid", "COUNT", 1, "STREAMS", KEY, ">")],
]


def test_groups_consumers_and_pending_entries_are_compared(pair: Pair) -> None:
    for connection in pair:
        do(connection, *GROUPS)
    # Consumers' seen-times make the DUMPs differ; another encoding of the entries makes sure.
    do(pair[1], ("XADD", KEY, "5-2", "g", b"v" * 99), ("XDEL", KEY, "5-2"))
    do(pair[0], ("XADD", KEY, "5-2", "f", "v"), ("XDEL", KEY, "5-2"))
    assert equal_values(*pair, KEY)


@pytest.mark.parametrize("change", GROUP_CHANGES, ids=lambda value: str(value[0])[:60])
def test_one_change_to_a_group_makes_streams_differ(pair: Pair, change: Commands) -> None:
    for connection in pair:
        do(connection, *GROUPS)
    assert equal_values(*pair, KEY)
    do(pair[1], *change)
    assert not equal_values(*pair, KEY)


def test_entries_added_count_where_both_servers_count_them(pair: Pair) -> None:
    for connection in pair:
        do(connection, *ENTRIES)
    if not all(at_least(version(connection), "7.0.0") for connection in pair):
        pytest.skip("one of them does not count")
    do(pair[1], ("XSETID", KEY, "5-1", "ENTRIESADDED", 17, "MAXDELETEDID", "0-0"))
    assert not equal_values(*pair, KEY)


def test_expiries_of_hash_fields(pair: Pair) -> None:
    if not all(at_least(version(connection), "9.0.0") for connection in pair):
        pytest.skip("hash fields do not expire there")
    for connection, members in zip(pair, (MANY, MANY[::-1]), strict=True):
        do(connection, *[("HSET", KEY, member, "") for member in members])
        do(connection, ("HPEXPIREAT", KEY, 9_000_000_000_000, "FIELDS", 1, b"m0300"))
    assert equal_values(*pair, KEY)
    assert differing(*pair, [KEY]) == []
    changes: Commands = [
        ("HPEXPIREAT", KEY, 9_000_000_000_001, "FIELDS", 1, b"m0300"),
        ("HPERSIST", KEY, "FIELDS", 1, b"m0300"),
    ]
    for change in changes:
        do(pair[1], change)
        assert not equal_values(*pair, KEY)
        assert differing(*pair, [KEY]) == [KEY]


def test_an_expired_field_does_not_stand_for_one_that_is_there(servers: Servers) -> None:
    """HLEN counts it, so that equal lengths and one walk alone would say "equal"."""
    if "9.1" not in available():
        pytest.skip("hash fields do not expire there")
    pair = servers.get("9.1", 0), servers.get("9.1", 1)
    for connection in pair:
        do(connection, ("DEBUG", "SET-ACTIVE-EXPIRE", 0))
        do(connection, *[("HSET", KEY, member, "") for member in MANY])
    do(pair[0], ("HSET", KEY, "gone", ""), ("HPEXPIRE", KEY, 1, "FIELDS", 1, "gone"))
    do(pair[1], ("HSET", KEY, "extra", ""))
    while do(pair[0], ("HGET", KEY, "gone")) != [None]:
        time.sleep(0.001)
    assert not equal_values(*pair, KEY)
    assert differing(*pair, [KEY]) == [KEY]
    do(pair[1], ("HDEL", KEY, "extra"))
    assert equal_values(*pair, KEY)
    assert differing(*pair, [KEY]) == []


def test_differing_lists_keys_in_order(pair: Pair) -> None:
    for connection in pair:
        do(connection, *[("SET", b"k%04d" % number, number) for number in range(1000)])
    do(pair[0], ("DEL", "k0500"))
    do(pair[1], ("DEL", "k0100"), ("SET", "k0999", "other"), ("PEXPIRE", "k0001", 10_000_000))
    keys = [b"k%04d" % number for number in range(1001)]
    assert differing(*pair, keys) == [b"k0001", b"k0100", b"k0500", b"k0999"]
    assert differing(*pair, keys[::-1]) == [b"k0999", b"k0500", b"k0100", b"k0001"]
    assert differing(*pair, []) == []


def test_expiries_to_the_millisecond_where_both_can_tell(pair: Pair) -> None:
    exact = all(at_least(version(connection), "7.0.0") for connection in pair)
    at = int(time.time() * 1000) + 10_000_000
    keys = [b"+%d" % shift for shift in range(6)]
    for shift, key in enumerate(keys):
        do(pair[0], ("SET", key, ""), ("PEXPIREAT", key, at))
        do(pair[1], ("SET", key, ""), ("PEXPIREAT", key, at + shift))
    found = differing(*pair, keys)
    # With times to live, what lies beyond the tolerance is found, and what lies within is not.
    assert found == (keys[1:] if exact else keys[3:])
    assert differing(pair[0], pair[0], keys) == []


def test_expiries_that_were_shifted_on_purpose(pair: Pair) -> None:
    at = int(time.time() * 1000) + 10_000_000
    for connection, instant in zip(pair, (at, at + 90_000), strict=True):
        do(connection, ("SET", KEY, ""), ("PEXPIREAT", KEY, instant), ("SET", "forever", ""))
    assert differing(*pair, [KEY, b"forever", b"none"], expiry_shift=90_000) == []
    assert differing(*pair, [KEY, b"forever", b"none"], expiry_shift=90_010) == [KEY]


@pytest.mark.parametrize("name", EQUAL)
def test_restored_on_another_version_nothing_differs(name: str, servers: Servers) -> None:
    there = available()
    for one, other in [(a, b) for a in there for b in readers(a) if b in there and b != a]:
        pair = servers.get(one, 0), servers.get(other, 1)
        do(pair[0], *(GROUPS if name == "stream" else EQUAL[name][0]))
        do(pair[0], ("PEXPIREAT", KEY, 9_000_000_000_000))
        payload = do(pair[0], ("DUMP", KEY))[0]
        assert isinstance(payload, bytes)
        do(pair[1], ("RESTORE", KEY, 9_000_000_000_000, payload, "ABSTTL"))
        assert differing(*pair, [KEY]) == []


class Recorder:
    """A connection that notes what is sent."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.commands: list[Command] = []
        self.round_trips = 0

    @property
    def name(self) -> str:
        return self.connection.name

    def call(self, *arguments: Argument) -> Reply:
        self.round_trips += 1
        self.commands.append(arguments)
        return self.connection.call(*arguments)

    def call_many(self, commands: Iterable[Command], /) -> list[Reply]:
        self.round_trips += 1
        listed = list(commands)
        self.commands += listed
        return self.connection.call_many(listed)

    def names(self) -> list[str]:
        return [str(command[0]) for command in self.commands]


@pytest.mark.parametrize("name", EQUAL)
def test_big_values_are_read_in_chunks_and_never_dumped(
    pair: Pair, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    amount = Amount(2, 100)
    monkeypatch.setattr(equal_streams, "_PENDING_AT_ONCE", 2)
    monkeypatch.setattr(compare, "BIG_BYTES", 10)
    for connection, commands in zip(pair, EQUAL[name], strict=True):
        do(connection, *commands)
    if name == "stream":
        for connection in pair:
            do(connection, ("DEL", KEY), *GROUPS)
    if name == "string":
        for connection in pair:
            do(connection, ("SETRANGE", KEY, 17_000, "x"))  # larger than a HyperLogLog
    recorders = Recorder(pair[0]), Recorder(pair[1])
    assert differing(*recorders, [KEY], amount) == []
    for recorder in recorders:
        assert "DUMP" not in recorder.names()
    if name in ("string", "list", "large set", "large hash", "large sorted set", "stream"):
        reads = ("GETRANGE", "LRANGE", "SSCAN", "HSCAN", "ZRANGE", "XRANGE")
        assert sum(recorders[0].names().count(read) for read in reads) > 1
    changes = [change for kind, change in CHANGES if kind == name]
    for change in changes:
        for connection, commands in zip(pair, EQUAL[name], strict=True):
            do(connection, ("DEL", KEY), *commands)
        do(pair[1], *change)
        assert differing(*recorders, [KEY], amount) == [KEY]


def test_equal_dumps_cost_no_reads_by_type(pair: Pair) -> None:
    for connection in pair:
        do(connection, ("SET", KEY, "v"))
    recorder = Recorder(pair[0])
    assert equal_values(recorder, pair[1], KEY)
    assert recorder.names() == ["DUMP"]


def test_small_values_cost_no_round_trip_each(pair: Pair) -> None:
    keys = [b"%b%d" % (kind, number) for number in range(30) for kind in (b"set", b"hash", b"zset")]
    for connection, members in zip(pair, (MANY[:200], MANY[199::-1]), strict=True):
        for key in keys:
            if key.startswith(b"set"):
                do(connection, ("SADD", key, *members))
            elif key.startswith(b"hash"):
                do(connection, *[("HSET", key, member, b"x" * 99) for member in members])
            else:
                do(connection, *[("ZADD", key, 1, member) for member in members])
    recorders = Recorder(pair[0]), Recorder(pair[1])
    assert differing(*recorders, keys) == []
    assert recorders[0].round_trips < 20
    do(pair[1], ("SADD", "set3", "x"), ("HSET", "hash5", MANY[0], ""), ("ZINCRBY", "zset7", 1, "x"))
    assert differing(*recorders, keys) == [b"set3", b"hash5", b"zset7"]


def test_groups_of_keys_are_bounded_by_bytes(pair: Pair) -> None:
    keys = [b"k%d" % number for number in range(10)]
    for connection in pair:
        do(connection, *[("SET", key, b"x" * 900_000) for key in keys])
    recorder = Recorder(pair[0])
    assert differing(recorder, pair[1], keys) == []
    names = "".join(recorder.names())
    assert "DUMP" * 3 in names
    assert "DUMP" * 5 not in names


@contextmanager
def limited(version: str, *rules: str) -> Iterator[Connection]:
    with Server(version) as server, closing(dial(server)) as admin:
        do(admin, ("ACL", "SETUSER", "u", "on", ">pw", "~*", "+@all", *rules))
        with closing(dial(server, "u", "pw")) as connection:
            yield connection


def test_a_refused_command_is_neither_equal_nor_different(pair: Pair) -> None:
    do(pair[0], ("SET", KEY, "v"))
    with limited(available()[-1], "-dump") as target:
        with pytest.raises(ReadRefused, match=r"target refused DUMP.*key \\xff\\r\\n.*NOPERM") as e:
            differing(pair[0], target, [KEY])
        assert e.value.side == "target"
        assert str(e.value.reply).startswith("NOPERM")
        with pytest.raises(ReadRefused, match="source refused DUMP"):
            equal_values(target, pair[0], KEY)


def test_without_pexpiretime_or_memory_usage(pair: Pair) -> None:
    do(pair[0], ("SET", KEY, "v"), ("PEXPIREAT", KEY, 9_000_000_000_000))
    version = available()[-1]
    with limited(version, "-pexpiretime", "-memory|usage") as source:
        do(source, ("SET", KEY, "v"), ("PEXPIREAT", KEY, 9_000_000_000_000))
        assert differing(source, pair[0], [KEY, b"none"]) == []
        assert differing(pair[0], source, [KEY, b"none"]) == []
        do(pair[0], ("PEXPIREAT", KEY, 9_000_000_000_010))
        assert differing(source, pair[0], [KEY]) == [KEY]


class Scripted:
    """A server that answers by the command's name."""

    name = "there"

    def __init__(self, **replies: Reply) -> None:
        self.replies = replies

    def call(self, *arguments: Argument) -> Reply:
        name = str(arguments[0])
        return self.replies[name if name in self.replies else f"{name} {arguments[1]}"]

    def call_many(self, commands: Iterable[Command], /) -> list[Reply]:
        return [self.call(*command) for command in commands]


def test_module_types_are_equal_only_by_their_dumps() -> None:
    one = Scripted(TYPE=b"MBbloom--", MEMORY=9, DUMP=b"body1" + b"\x0b\x00" + b"checksum")
    same = Scripted(TYPE=b"MBbloom--", MEMORY=9, DUMP=b"body1" + b"\x0c\x00" + b"CHECKSUM")
    other = Scripted(TYPE=b"MBbloom--", MEMORY=9, DUMP=b"body2" + b"\x0b\x00" + b"checksum")
    assert equal_values(one, same, KEY)
    with pytest.raises(by_type.NotComparable, match="MBbloom--"):
        equal_values(one, other, KEY)


garbage = st.recursive(
    st.none() | st.integers() | st.binary(max_size=6) | st.sampled_from([b"0", b"1-1"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
STREAM = [b"length", 1, b"last-generated-id", b"1-1"]
VECTORS = dict.fromkeys([b"quant-type", b"vector-dim", b"projection-input-dim", b"hnsw-m"], 1)
GOOD: dict[bytes, dict[str, Any]] = {
    b"string": {"STRLEN": 1, "GET": b"a"},
    b"list": {"LLEN": 1, "LRANGE": [b"a"]},
    b"set": {"SCARD": 1, "SSCAN": [b"0", [b"a"]], "SISMEMBER": 1, "SMEMBERS": [b"a"]},
    b"zset": {"ZCARD": 1, "ZRANGE": [b"a", b"1"]},
    b"hash": {
        "HLEN": 1, "HSCAN": [b"0", [b"a", b"b"]], "HMGET": [b"b"], "HPEXPIRETIME": [-1],
        "HGETALL": [b"a", b"b"],
    },
    b"stream": {
        "XINFO STREAM": STREAM, "XINFO GROUPS": [[b"name", b"g", b"pending", 0]],
        "XINFO CONSUMERS": [[b"name", b"c", b"pending", 0]], "XLEN": 1,
        "XRANGE": [[b"1-1", [b"a", b"b"]]], "XPENDING": [],
    },
    b"vectorset": {
        "VINFO": [*chain.from_iterable(VECTORS.items()), b"size", 1], "VRANDMEMBER": [b"a"],
        "VEMB": [b"f32", b"1234", b"1"], "VGETATTR": None,
    },
}  # fmt: skip


@given(data=st.data(), kind=st.sampled_from(sorted(GOOD)), hostile_source=st.booleans())
def test_no_answer_breaks_a_comparison(
    data: st.DataObject, kind: bytes, hostile_source: bool
) -> None:
    """Of one server whose answers are anything; what is no answer is told with its command."""
    common = {"TYPE": kind, "MEMORY": 10, "PEXPIRETIME": -1, "TIME": [b"1", b"1"]}
    common |= {"HPEXPIRETIME": None}  # asked of keys whose type is not known yet
    common |= dict.fromkeys(["UNWATCH", "WATCH", "MULTI"], b"OK") | {"EXEC": []}
    good = Scripted(DUMP=b"a" * 20, **common | GOOD[kind])
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(good.replies)), garbage, min_size=1))
    bad = Scripted(**good.replies | {"DUMP": b"b" * 20} | wrong)
    source, target = (bad, good) if hostile_source else (good, bad)
    for asked in (
        lambda: equal_values(source, target, KEY),
        lambda: differing(source, target, [KEY]),
        lambda: run_over(source, target, lambda sides: compare.unlike(sides, [KEY])),
        lambda: run_over(source, target, lambda sides: compare.compare_large(sides, KEY)),
    ):
        try:
            asked()
        except RumpxError as error:
            assert error.exit_code == (6 if hostile_source else 7)
            assert "at there answered" in str(error)
        except by_type.NotComparable:  # TYPE may name a module's
            pass


def test_a_message_never_repeats_a_member() -> None:
    words = "ERR unknown command 'SISMEMBER', with args beginning with: 'key' 'secret'"
    one = Scripted(DUMP=b"a" * 20, TYPE=b"set", SCARD=1, MEMORY=100, SSCAN=[b"0", [b"secret"]])
    other = Scripted(DUMP=b"b" * 20, TYPE=b"set", SCARD=1, SISMEMBER=hiredis.ReplyError(words))
    with pytest.raises(ReadRefused) as error:
        equal_values(one, other, KEY)
    assert "SISMEMBER" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_key_that_changes_its_type_meanwhile_differs() -> None:
    one = Scripted(DUMP=b"a" * 20, TYPE=b"string", STRLEN=1, GETRANGE=b"a")
    other = Scripted(DUMP=b"b" * 20, TYPE=b"string", STRLEN=hiredis.ReplyError("WRONGTYPE …"))
    assert not equal_values(one, other, KEY)


def test_a_key_that_goes_while_small_values_are_read_is_looked_at_alone() -> None:
    common: dict[str, Reply] = {"MEMORY": 10, "PEXPIRETIME": -1, "TYPE": b"list", "LLEN": 0}
    one = Scripted(DUMP=b"a" * 20, LRANGE=hiredis.ReplyError("WRONGTYPE …"), **common)
    other = Scripted(DUMP=b"b" * 20, LRANGE=[], **common)
    assert differing(one, other, [KEY]) == []


def test_same_payload() -> None:
    assert same_payload(None, None)
    assert not same_payload(b"x" * 11, None)
    assert same_payload(b"body" + b"\x09\0" + b"12345678", b"body" + b"\x0a\0" + b"abcdefgh")
    assert not same_payload(b"body" + b"\x09\0" + b"12345678", b"body" + b"\x09\0" + b"abcdefgh")


MEMBERS = st.dictionaries(st.binary(max_size=80), st.floats(allow_nan=False), min_size=1)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(members=MEMBERS, order=st.randoms(use_true_random=False), data=st.data())
def test_order_of_writing_never_counts_but_content_does(
    servers: Servers, members: dict[bytes, float], order: object, data: st.DataObject
) -> None:
    pair = servers.get(available()[0], 0), servers.get(available()[-1], 1)
    names = list(members)
    shuffled = data.draw(st.permutations(names))
    for connection, sequence in zip(pair, (names, shuffled), strict=True):
        do(connection, ("SADD", "set", *sequence))
        for name in sequence:
            do(connection, ("HSET", "hash", name, repr(members[name])))
            do(connection, ("ZADD", "zset", repr(members[name]), name))
    keys = [b"set", b"hash", b"zset"]
    assert differing(*pair, keys) == []
    victim = data.draw(st.sampled_from(names))
    do(pair[1], ("SREM", "set", victim), ("HDEL", "hash", victim), ("ZREM", "zset", victim))
    assert differing(*pair, keys) == keys
