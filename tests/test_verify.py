"""Comparing both sides: exactly what differs is found, whatever it is and whoever stores it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.values.canonical import in_order
from rumpx.verifier.confidence import share_that_differs, what_a_sample_proves
from support.copying import copy, verify
from support.data import ODD_NAMES, every_type, fill_mixed
from support.proxy import Proxy
from support.raw import Arg
from support.servers import ALL, Cluster, Server, at_least
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

DIFFER = 4
SECRET = "s3cr3t"
AT = 4_000_000_000_000
"""An instant in the next century: an expiry."""

K = b"<key>"
"""Stands for the key in commands."""
Commands = list[tuple[Arg, ...]]


def apply(server: Server, key: bytes, commands: Commands, db: int = 0) -> None:
    with server.raw(db) as raw:
        for command in commands:
            raw.do(*(key if word is K else word for word in command))


# Copies are equal


@pytest.mark.parametrize(
    ("old", "new"),
    [("6.2", "7.0"), ("6.2", "9.1"), ("7.0", "8.1"), ("8.1", "9.1"), ("9.1", "9.1")],
)
def test_a_copy_is_equal_between_versions_encodings_and_hash_seeds(
    server: StartServer, old: str, new: str
) -> None:
    source, target = server(old), server(new)
    keys = every_type(source.client(), old)
    fill_mixed(source, 500, db=3)

    copy(source, target)
    done = verify(source, target)

    assert done.counts["equal"] == len(keys) + 500
    assert done.summary["proof"] == "values and expiries equal"
    assert done.summary["back"] == "not needed"
    assert done.summary["differences"] == {} and done.summary["differences_file"] is None
    assert done.messages == []
    # The other way round nothing differs either, whoever has the newer encodings.
    assert verify(target, source).counts["equal"] == len(keys) + 500


# One difference of each kind in each type

MANY = [f"{SECRET}:{n:04}" for n in range(300)]
LATER = ("PEXPIREAT", K, AT)
ENTRIES: Commands = [("XADD", K, f"{n}-1", "f", SECRET) for n in range(1, 6)]
DELIVERED = ("TIME", 1_700_000_000_000, "RETRYCOUNT", 1)

VALUES: dict[str, Commands] = {
    "string": [("SET", K, SECRET), LATER],
    "long-string": [("SET", K, SECRET * 20_000)],
    "list": [("RPUSH", K, SECRET, "a", "b")],
    "long-list": [("RPUSH", K, *MANY)],
    "set": [("SADD", K, SECRET, "a", "b")],
    "large-set": [("SADD", K, *MANY)],
    "zset": [("ZADD", K, "0.1", SECRET, "0.2", "a", "inf", "b"), LATER],
    "large-zset": [("ZADD", K, 7, member) for member in MANY],
    "hash": [("HSET", K, "a", SECRET, "b", "2"), LATER],
    "large-hash": [("HSET", K, member, SECRET) for member in MANY],
    "stream": [
        *ENTRIES,
        ("XGROUP", "CREATE", K, "g", "0"),
        ("XREADGROUP", "GROUP", "g", "ann", "COUNT", 2, "STREAMS", K, ">"),
        ("XCLAIM", K, "g", "ann", 0, "1-1", "2-1", *DELIVERED),
    ],
    "field-ttl": [("HSET", K, "a", SECRET, "b", "2"), ("HPEXPIREAT", K, AT, "FIELDS", 1, "a")],
}


class Planted(NamedTuple):
    """What is done to a value on the target, and what is to be found then."""

    value: str
    name: str
    change: Commands
    kind: str
    detail: str = ""


PLANTED = [
    *(Planted(value, "missing", [("DEL", K)], "missing") for value in VALUES),
    *(
        Planted(value, "type", [("DEL", K), ("GEOADD", K, 1, 2, SECRET)], "type", f"{kind}, zset")
        for value, kind in (("string", "string"), ("list", "list"), ("stream", "stream"))
    ),
    *(
        Planted(value, name, [change], "expiry", detail)
        for value in ("string", "zset", "hash")
        for name, change, detail in (
            ("later", ("PEXPIREAT", K, AT + 20), "+20 ms"),
            ("sooner", ("PEXPIREAT", K, AT - 20), "-20 ms"),
            ("forever", ("PERSIST", K), "none on the target"),
        )
    ),
    Planted("list", "expires", [LATER], "expiry", "none on the source"),
    Planted("string", "value", [("SET", K, SECRET.upper(), "KEEPTTL")], "value", "string"),
    Planted("long-string", "last-byte", [("SETRANGE", K, 119_999, "T")], "value", "string"),
    Planted("list", "order", [("RPOPLPUSH", K, K)], "value", "list"),
    Planted("list", "longer", [("RPUSH", K, "")], "value", "list"),
    Planted("long-list", "member", [("LSET", K, 299, "")], "value", "list"),
    Planted("set", "member", [("SREM", K, "a"), ("SADD", K, "A")], "value", "set"),
    Planted("large-set", "smaller", [("SREM", K, MANY[7])], "value", "set"),
    Planted("zset", "score", [("ZADD", K, "0.10000000000000002", SECRET)], "value", "zset"),
    Planted("large-zset", "score", [("ZADD", K, 8, MANY[7])], "value", "zset"),
    Planted("hash", "value", [("HSET", K, "b", "3")], "value", "hash"),
    Planted("hash", "field", [("HDEL", K, "b"), ("HSET", K, "B", "2")], "value", "hash"),
    Planted("large-hash", "value", [("HSET", K, MANY[7], "")], "value", "hash"),
    Planted("stream", "entry", [("XDEL", K, "3-1")], "value", "stream"),
    Planted("stream", "last-id", [("XSETID", K, "99-1")], "value", "stream"),
    Planted("stream", "group", [("XGROUP", "CREATE", K, "h", "0")], "value", "stream"),
    Planted("stream", "delivered-id", [("XGROUP", "SETID", K, "g", "4-1")], "value", "stream"),
    Planted("stream", "consumer", [("XGROUP", "CREATECONSUMER", K, "g", "x")], "value", "stream"),
    Planted("stream", "pending", [("XACK", K, "g", "2-1")], "value", "stream"),
    Planted(
        "stream",
        "deliveries",
        [("XCLAIM", K, "g", "ann", 0, "2-1", *DELIVERED[:2], "RETRYCOUNT", 2)],
        "value",
        "stream",
    ),
    Planted("field-ttl", "later", [("HPEXPIREAT", K, AT + 1, "FIELDS", 1, "a")], "value", "hash"),
    Planted("field-ttl", "forever", [("HPERSIST", K, "FIELDS", 1, "a")], "value", "hash"),
]


@pytest.mark.parametrize(
    ("old", "new"), [("6.2", "6.2"), ("6.2", "7.0"), ("7.0", "7.0"), ("7.0", "9.1"), ("9.1", "9.1")]
)
def test_exactly_what_differs_is_found(
    server: StartServer, old: str, new: str, tmp_path: Path
) -> None:
    """With one difference for each key, and none in keys beside it; and no value is told."""
    source, target = server(old), server(new)
    expires = {value for value in VALUES if value != "field-ttl" or at_least(old, "9.0")}
    planted = [plant for plant in PLANTED if plant.value in expires]
    for end in (source, target):
        fill_mixed(end, 300, ttl_share=0)
        for value in expires:
            apply(end, f"{value}:untouched".encode(), VALUES[value])
    for plant in planted:
        key = f"{plant.value}:{plant.name}".encode()
        for end in (source, target):
            apply(end, key, VALUES[plant.value])
        apply(target, key, plant.change)
    apply(target, b"extra:1", VALUES["hash"])

    done = verify(source, target, "--differences", tmp_path / "list", code=DIFFER)

    told = {line["key"]: (line["kind"], line["detail"]) for line in done.lines}
    wanted = {f"{plant.value}:{plant.name}": (plant.kind, plant.detail) for plant in planted}
    wanted["extra:1"] = ("extra", "")
    if not at_least(old, "7.0"):  # it computes expiries, to within a few milliseconds
        told, wanted = ({key: (k, d[:1]) for key, (k, d) in t.items()} for t in (told, wanted))
    assert told == wanted
    assert len(done.lines) == len(wanted)
    assert done.summary["differences"] == dict(Counter(kind for kind, _ in wanted.values()))
    assert done.counts["equal"] == 300 + len(expires)
    for text in (done.stderr, json.dumps(done.summary), (tmp_path / "list").read_text()):
        assert SECRET not in text.lower()



def test_a_table_that_is_being_rehashed_does_not_seem_to_be_written(server: StartServer) -> None:
    """Redis moves a hash's fields when it is read, so that each look sees another order."""
    source, target = server("7.0"), server("7.0")
    for end in (source, target):
        with end.raw() as raw:
            raw.many(("HSET", "hash", f"field:{n}", f"{SECRET}:{n}") for n in range(8193))
    target.do("HSET", "hash", "field:0", "")

    assert verify(source, target, code=DIFFER).found == {("value", 0, b"hash")}


@pytest.mark.parametrize(
    ("flags", "found"),
    [((), {2, 3}), (("--ttl-tolerance", "0"), {1, 2, 3})],
)
def test_expiries_within_the_tolerance_are_equal(
    server: StartServer, flags: tuple[str, ...], found: set[int]
) -> None:
    source, target = server("7.0"), server("9.1")
    for shift in range(4):
        source.do("SET", f"late:{shift}", "", "PXAT", AT)
        target.do("SET", f"late:{shift}", "", "PXAT", AT + shift)
        source.do("SET", f"early:{shift}", "", "PXAT", AT + shift)
        target.do("SET", f"early:{shift}", "", "PXAT", AT)

    done = verify(source, target, *flags, code=DIFFER)

    assert {(line["key"], line["detail"]) for line in done.lines} == {
        *((f"late:{shift}", f"+{shift} ms") for shift in found),
        *((f"early:{shift}", f"-{shift} ms") for shift in found),
    }


def test_computed_expiries_have_a_wider_tolerance(server: StartServer) -> None:
    source, target = server("6.2"), server("9.1")
    for shift in (1, 15):
        source.do("SET", f"key:{shift}", "")
        source.do("PEXPIREAT", f"key:{shift}", AT)
        target.do("SET", f"key:{shift}", "", "PXAT", AT + shift)

    assert verify(source, target, code=DIFFER).found == {("expiry", 0, b"key:15")}


def test_any_name_of_a_key_is_listed_as_it_is(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    for number, name in enumerate(ODD_NAMES):
        for end in (source, target):
            end.do("SET", name, "")
        target.do("SET", name, str(number % 2))

    done = verify(source, target, code=DIFFER)

    assert done.found == {("value", 0, name) for name in ODD_NAMES}
    shown = {line["key"] for line in done.lines}
    assert shown >= {"with space", "line\r\nbreak", "\\xff\\xfe\\x80 not utf-8", "ключ \U0001f511"}


def test_differences_are_counted_by_prefix(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    for number in range(5):
        source.do("SET", f"user:{number}", "")
        target.do("SET", f"queue.{number % 3}", "")
    source.do("SET", "user:both", "")
    target.do("SET", "user:both", SECRET)
    source.do("MSET", "alone", "", "lonely", "")
    source.do("SET", b"\xff\x1b:key", "")

    done = verify(source, target, code=DIFFER)

    assert done.summary["prefixes"] == [
        {"prefix": "user:*", "kinds": {"missing": 5, "value": 1}},
        {"prefix": "queue.*", "kinds": {"extra": 3}},
        {"prefix": "(others)", "kinds": {"missing": 2}},
        {"prefix": "\\xff\\x1b:*", "kinds": {"missing": 1}},
    ]


# The scope


@pytest.fixture
def scoped(server: StartServer) -> tuple[Server, Server]:
    """In databases 0 and 3 strings and lists, one of each missing, extra and different; in 5 a
    string that is extra."""
    source, target = server("7.0"), server("9.1")
    for db in (0, 3):
        for write, kind in (("SET", "user"), ("RPUSH", "queue")):
            for end, names in ((source, "missing"), (target, "extra")):
                for name in (names, *range(20), "differs"):
                    value = name == "differs" and end is target
                    end.do(write, f"{kind}:{name}", int(value), db=db)
    target.do("SET", "user:extra", 0, db=5)
    return source, target


def three(kind: str, db: int) -> set[tuple[str, int, bytes]]:
    """What is to be found in a database among keys of one kind."""
    names = {"missing": "missing", "extra": "extra", "value": "differs"}
    return {(what, db, f"{kind}:{name}".encode()) for what, name in names.items()}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            [],
            {("extra", 5, b"user:extra")}.union(
                *(three(kind, db) for kind in ("user", "queue") for db in (0, 3))
            ),
        ),
        (["--db", "3"], three("user", 3) | three("queue", 3)),
        (["--match", "user:*", "--db", "0"], three("user", 0)),
        (["--exclude", "user:*"], three("queue", 0) | three("queue", 3)),
        (["--type", "list"], three("queue", 0) | three("queue", 3)),
        (["--type", "string,hash", "--exclude", "*:extra"],
         {one for db in (0, 3) for one in three("user", db) if one[0] != "extra"}),
    ],
)  # fmt: skip
def test_the_scope_counts_in_both_directions(
    scoped: tuple[Server, Server], flags: list[str], expected: set[tuple[str, int, bytes]]
) -> None:
    assert verify(*scoped, *flags, code=DIFFER).found == expected


@pytest.mark.parametrize(
    ("source_path", "target_path", "flags", "databases"),
    [
        ("", "", ["--db", "3", "--map-db", "3:5"], {3: 5}),
        ("", "", ["--map-db", "3:5"], {0: 0, 3: 5}),
        ("/3", "/5", [], {3: 5}),
    ],
)
def test_databases_are_compared_as_they_are_mapped(
    scoped: tuple[Server, Server],
    source_path: str,
    target_path: str,
    flags: list[str],
    databases: dict[int, int],
) -> None:
    """And a database whose keys go elsewhere receives none: what the target has there may stay."""
    source, target = scoped
    target.do("SWAPDB", 3, 5)
    target.do("SET", "unrelated", "", db=3)

    done = verify(source.uri + source_path, target.uri + target_path, *flags, code=DIFFER)

    assert done.found == {
        one for db in databases for kind in ("user", "queue") for one in three(kind, db)
    }
    assert {(line["db"], line["target_db"]) for line in done.lines} == set(databases.items())


# Clusters


@pytest.mark.parametrize(("one", "other"), [(3, 2), (0, 3), (2, 0)])
def test_clusters_and_servers_are_compared_with_each_other(
    server: StartServer, cluster: StartCluster, one: int, other: int
) -> None:
    ends = [
        cluster("7.0", primaries=nodes) if nodes else server("7.0") for nodes in (one, other)
    ]
    for end in ends:
        fill_mixed(end, 600, ttl_share=0)
    source, target = (end.client() for end in ends)
    for number in range(10):
        source.set(f"missing:{number}", "")
        target.set(f"extra:{number}", "")
        source.sadd(f"value:{number}", "1")
        target.sadd(f"value:{number}", "2")

    done = verify(*ends, code=DIFFER)

    assert done.found == {
        (kind, 0, f"{kind}:{number}".encode())
        for kind in ("missing", "extra", "value")
        for number in range(10)
    }
    assert done.counts["equal"] == 600


# Whether the target has more is walked, or proven by numbers


@pytest.mark.parametrize(
    ("flags", "rules", "back"),
    [
        ([], [], "not needed"),
        (["--match", "*"], [], "walked"),
        (["--sample", "100%"], [], "not needed"),
        (["--sample", "99%"], [], "walked"),
        ([], ["-info"], "walked"),
    ],
)
def test_the_way_back_is_left_out_where_numbers_prove_that_nothing_is_there(
    server: StartServer, flags: list[str], rules: list[str], back: str
) -> None:
    source, target = server("7.0"), server("7.0")
    for end in (source, target):
        fill_mixed(end, 100, ttl_share=0)

    done = verify(limited(source, *rules), target, *flags)

    assert done.summary["back"] == back
    assert (done.counts["found"] > 0) == (back == "walked")


@pytest.mark.parametrize(
    "differences",
    [
        {("missing", 0, b"mine"), ("extra", 0, b"theirs")},  # as many on both sides
        {("extra", 0, b"theirs")},
        {("extra", 9, b"theirs")},  # in a database that the source does not have
    ],
)
def test_keys_that_only_the_target_has_are_found(
    server: StartServer, differences: set[tuple[str, int, bytes]]
) -> None:
    source, target = server("7.0"), server("7.0")
    for end in (source, target):
        fill_mixed(end, 100, ttl_share=0)
    for kind, db, key in differences:
        (source if kind == "missing" else target).do("SET", key, "", db=db)

    assert verify(source, target, code=DIFFER).found == differences


def test_databases_that_the_source_cannot_have_are_not_compared(
    server: StartServer, cluster: StartCluster
) -> None:
    """Nothing could have been copied from there."""
    target = server("7.0")
    target.do("SET", "elsewhere", "", db=9)

    done = verify(server("7.0", databases=4), target)

    assert done.counts["extra"] == 0
    assert any("cannot have database 9" in message for message in done.messages)
    assert verify(cluster("7.0", primaries=1), target).counts["extra"] == 0


# What may not be read


def limited(server: Server, *rules: str) -> str:
    """The URI of a user who may do everything but what the rules take away."""
    if not rules:
        return server.uri
    server.do("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", *rules)
    return f"redis://limited:pw@127.0.0.1:{server.port}"


@pytest.mark.parametrize("side", ["source", "target"])
def test_keys_that_may_not_be_read_could_not_be_compared(server: StartServer, side: str) -> None:
    ends = {"source": server("7.0"), "target": server("7.0")}
    for end in ends.values():
        fill_mixed(end, 100, prefix=b"mine", ttl_share=0)
        fill_mixed(end, 7, prefix=b"theirs", ttl_share=0)
    uris = {name: end.uri for name, end in ends.items()}
    uris[side] = limited(ends[side], "resetkeys", "~mine:*")

    done = verify(uris["source"], uris["target"], code=3)

    assert (done.counts["equal"], done.counts["failed"], done.lines) == (100, 7, [])
    named = sorted(failure["key"] for failure in done.summary["failures"])
    assert named == [f"theirs:{number}" for number in range(7)]
    assert sum(done.summary["failures_by_reason"].values()) == 7


def test_what_differs_counts_more_than_what_could_not_be_compared(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "mine", "")
    source.do("SET", "theirs", "")

    done = verify(limited(source, "resetkeys", "~mine"), target, code=DIFFER)

    assert done.found == {("missing", 0, b"mine")}
    assert done.counts["failed"] == 1


def test_a_server_is_not_compared_with_itself(
    server: StartServer, proxy: Callable[..., Proxy]
) -> None:
    one = server("7.0")

    done = verify(one, proxy(one), code=2)

    assert "which always equals itself" in done.stderr


def test_a_replica_is_compared_with_its_primary_but_not_mended(server: StartServer) -> None:
    primary, replica = server("7.0"), server("7.0")
    primary.do("SET", "key", "")
    replica.replicate(primary)
    wait_until(lambda: replica.do("DBSIZE") == 1, 30, "the replica has the key")

    assert verify(primary, replica).counts["equal"] == 1
    refused = verify(primary, replica, "--repair", code=7)

    assert "are the same" in refused.stderr


# Checksums


def fill_large(*ends: Server) -> int:
    """Equal values on both sides; returns how large they are."""
    for end in ends:
        for number in range(20):
            end.do("SET", f"large:{number}", f"{number}" * 100_000)
            end.do("HSET", f"hash:{number}", *MANY)
    return 20 * 100_000


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_with_digests_values_stay_where_they_are(
    server: StartServer, proxy: Callable[..., Proxy], version: str
) -> None:
    source, target = server(version), server(version)
    size = fill_large(source, target)
    on_the_way = proxy(source, rtt_ms=0)

    equal = verify(on_the_way, target, "--digest")

    assert equal.counts["equal"] == 40
    assert equal.summary["proof"] == "64-bit checksums equal"
    # Hash tables are dumped in another order and so compared by their fields.
    assert on_the_way.bytes_down < size / 4

    target.do("SETRANGE", "large:3", 99_999, "x")
    target.do("HSET", "hash:4", MANY[0], "x")
    target.do("PEXPIREAT", "large:5", AT)
    source.do("DEL", "large:6")
    target.do("DEL", "large:7")

    done = verify(source, target, "--digest", code=DIFFER)

    assert done.found == {
        ("value", 0, b"large:3"),
        ("value", 0, b"hash:4"),
        ("expiry", 0, b"large:5"),
        ("extra", 0, b"large:6"),
        ("missing", 0, b"large:7"),
    }


@pytest.mark.parametrize(
    ("version", "rules", "sentence"),
    [
        ("6.2", [], "--digest needs Redis 7.0 or Valkey on both sides"),
        ("7.0", ["-eval_ro"], "The target refuses EVAL_RO, which --digest needs"),
        ("7.0", ["-pexpiretime"], "--digest needs"),
    ],
)
def test_without_digests_whole_values_are_read(
    server: StartServer, version: str, rules: list[str], sentence: str
) -> None:
    source, target = server("6.2" if version == "6.2" else "7.0"), server(version)
    fill_large(source, target)

    done = verify(source, limited(target, *rules), "--digest")

    assert done.counts["equal"] == 40
    assert done.summary["proof"] == "values and expiries equal"
    assert sum(sentence in message for message in done.messages) == len(done.messages) == 1


# Samples


def test_a_sample_is_some_of_the_keys_and_says_what_it_proves(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    for end in (source, target):
        fill_mixed(end, 4000, ttl_share=0)

    done = verify(source, target, "--sample", "10%")

    # 400 on average, with a standard deviation of 19.
    assert 250 < done.counts["equal"] < 550
    assert done.summary["sample"].startswith(f"None of {done.counts['equal']} keys")
    target.do("FLUSHALL")

    done = verify(source, target, "--sample", "2%", code=DIFFER)

    number = done.counts["missing"]
    assert 20 < number < 160 and len(done.lines) == number
    assert done.summary["sample"].startswith(f"{number} of {number} keys chosen at random differ")


TABLES: dict[str, Commands] = {
    "hash": [("HSET", K, name, value) for name, value in (
        ("a", "1"), ("b", "-300"), ("c", "70000"), ("d", b"x" * 99), ("e", b"y" * 30_000),
        ("f", bytes(range(256)) * 80), ("", ""), *((member, "") for member in MANY),
        *((str(n), n * n) for n in range(600)),
    )],
    "set": [("SADD", K, member) for member in (*MANY, *range(600), b"x" * 30_000, "")],
}  # fmt: skip


@pytest.mark.parametrize("version", ALL)
def test_payloads_in_order_do_not_depend_on_the_order_of_a_table(
    server: StartServer, version: str
) -> None:
    ends = server(version), server(version)
    for kind, commands in TABLES.items():
        for end, ordered in zip(ends, (commands, commands[::-1]), strict=True):
            apply(end, kind.encode(), ordered)
            if kind == "hash" and at_least(version, "9.0"):
                apply(end, b"ttl", [*ordered, ("HPEXPIREAT", K, AT, "FIELDS", 2, "a", "b")])
    for key in ends[0].do("KEYS", "*"):
        one, other = (end.do("DUMP", key) for end in ends)
        assert one != other  # by the servers' hash seeds
        assert in_order(one) == in_order(other), key
    last = {"set": ("SMOVE", "set", "set2", ""), "hash": ("HSET", "hash", "b", "-301")}
    last["ttl"] = ("HPEXPIREAT", "ttl", AT + 1, "FIELDS", 1, "b")
    for key in ends[0].do("KEYS", "*"):
        before = ends[0].do("DUMP", key)
        ends[0].do(*last[key.decode()])
        assert in_order(ends[0].do("DUMP", key)) != in_order(before), key


def stored(text: bytes) -> bytes:
    """A string as payloads have it; as a number where it is one of two bytes, say."""
    if len(text) == 2:
        return b"\xc1" + text
    if len(text) < 64:
        return bytes([len(text)]) + text
    return b"\x80" + len(text).to_bytes(4) + text


def payload(fields: list[tuple[bytes, bytes]]) -> bytes:
    """A hash as a table."""
    body = b"".join(stored(text) for pair in fields for text in pair)
    return b"\4\x40" + bytes([len(fields)]) + body + b"<footer.>!"


TEXTS = st.binary(max_size=4) | st.binary(min_size=60, max_size=70)
FIELDS = st.lists(st.tuples(TEXTS, TEXTS), max_size=5)


@given(one=FIELDS, data=st.data())
def test_payloads_in_order_are_equal_exactly_if_their_members_are(
    one: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    same = data.draw(st.permutations(one))
    other = data.draw(FIELDS)

    assert in_order(payload(one)) == in_order(payload(same))
    equal = Counter(one) == Counter(other)
    assert (in_order(payload(one)) == in_order(payload(other))) == equal


@given(st.binary(max_size=80), st.sampled_from([b"", b"\2", b"\4", b"\x16"]))
def test_anything_can_be_put_in_order(body: bytes, kind: bytes) -> None:
    assert len(in_order(kind + body)) <= len(kind + body)


def test_what_a_sample_proves() -> None:
    """Against published figures: the rule of three, and Wilson's interval for 10 of 100."""
    assert share_that_differs(300, 0) == (0.0, pytest.approx(0.00994, abs=1e-5))
    assert share_that_differs(100, 10) == (
        pytest.approx(0.0552, abs=1e-4),
        pytest.approx(0.1744, abs=1e-4),
    )
    assert "proves nothing" in what_a_sample_proves(0, 0)
    assert "fewer than 0.99 %" in what_a_sample_proves(300, 0)
    assert "between 5.5 % and 17 %" in what_a_sample_proves(100, 10)


@given(compared=st.integers(1, 10**9), data=st.data())
def test_a_sample_never_proves_too_much(compared: int, data: st.DataObject) -> None:
    different = data.draw(st.integers(0, compared))

    low, high = share_that_differs(compared, different)

    assert 0 <= low <= different / compared <= high <= 1
    if not different and high < 1:
        # If more keys than that differed, a sample without any would be a matter of 5 %.
        assert (1 - high) ** compared == pytest.approx(0.05, rel=1e-3)
