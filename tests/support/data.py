"""Filling servers with data of every kind, and comparing two of them.

`every_type` makes one key of each type and encoding a version has, `fill_mixed` many small
keys quickly, and `compare` is the oracle: it finds every difference between two endpoints
by means that have nothing in common with the program under test but the commands.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import redis

from support.raw import Arg, Raw, RawError, pack
from support.servers import Cluster, Router, Server, at_least, key_slot

Target = Server | Cluster | redis.Redis
"""What the functions below can read from or write to."""

HOUR = 3_600_000


def show(data: bytes) -> str:
    """A key or value for people to read: escaped, and shortened if long."""
    if len(data) <= 80:
        return repr(data)
    return f"{data[:60]!r}…({len(data)} bytes)"


# --- connecting -----------------------------------------------------------------------------


@dataclass
class _Endpoint:
    """All primaries of one side, and what its version can tell."""

    nodes: list[Raw]
    cluster: bool
    has_expiretime: bool = False
    """PEXPIRETIME exists (7.0 and later)."""
    has_field_ttl: bool = False
    """HPEXPIRETIME exists (Valkey 9.0 and later)."""
    dbs: list[int] = field(default_factory=list)


def _connections(target: Target) -> tuple[list[Raw], bool]:
    if isinstance(target, Router):
        target = target._cluster
    if isinstance(target, Cluster):
        return [node.raw() for node in target.primaries()], True
    if isinstance(target, Server):
        return [target.raw()], False
    known: dict[str, Any] = target.connection_pool.connection_kwargs
    address = known.get("path") or (known["host"], int(known["port"]))
    return [Raw(address, password=known.get("password"), username=known.get("username"))], False


def _open(target: Target, stack: ExitStack) -> _Endpoint:
    nodes, cluster = _connections(target)
    for node in nodes:
        stack.enter_context(node)
    end = _Endpoint(nodes, cluster)
    # Not asked of COMMAND, which some servers do not have.
    probes = nodes[0].many([("PEXPIRETIME", "key"), ("HPEXPIRETIME", "key", "FIELDS", 1, "field")])
    end.has_expiretime, end.has_field_ttl = ("unknown command" not in str(r) for r in probes)
    dbs = {int(name[2:]) for node in nodes for name in node.info("keyspace") if name[:2] == "db"}
    end.dbs = sorted(dbs)
    return end


def _scan(node: Raw) -> Iterator[list[bytes]]:
    cursor: bytes = b"0"
    while True:
        cursor, keys = node.do("SCAN", cursor, "COUNT", 5000)
        yield keys
        if cursor == b"0":
            return


def _keys(end: _Endpoint, db: int, wanted: frozenset[bytes] | None = None) -> dict[bytes, int]:
    """Every key of a database, with the index of the node that has it."""
    found: dict[bytes, int] = {}
    if db not in end.dbs:
        return found
    for index, node in enumerate(end.nodes):
        node.select(db)
        for keys in _scan(node):
            if wanted is not None:
                keys = [key for key in keys if key in wanted]
            found.update(dict.fromkeys(keys, index))
    return found


# --- reading values by type -----------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """A key's type, content and expiry (in ms since 1970; -1: none; -2: no such key).

    `expiry` is a range, since a server before 7.0 does not tell the moment exactly; in nearly
    all cases it is a range of one.
    """

    kind: str
    data: Any
    expiry: tuple[int, int]


def _ask(end: _Endpoint, node: Raw, commands: Sequence[Sequence[Arg]]) -> list[Any]:
    """A batch of commands that also reaches the keys of a slot that is just being imported."""
    if not end.cluster:
        return node.many(commands)
    both = [part for command in commands for part in (("ASKING",), command)]
    return node.many(both)[1::2]


def _milliseconds(reply: Sequence[bytes]) -> int:
    """The reply of TIME."""
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


def _expiries(end: _Endpoint, node: Raw, keys: Sequence[bytes]) -> list[tuple[int, int]]:
    if end.has_expiretime:
        exact = _ask(end, node, [("PEXPIRETIME", key) for key in keys])
        return [(moment, moment) if isinstance(moment, int) else (-3, -3) for moment in exact]
    found: dict[bytes, tuple[int, int]] = {}
    for _ in range(20):  # until the clock did not tick around any PTTL
        rest = [key for key in keys if key not in found or found[key][0] != found[key][1]]
        if not rest:
            break
        commands = [cmd for key in rest for cmd in (("TIME",), ("PTTL", key), ("TIME",))]
        replies = _ask(end, node, commands)
        for key, early, left, late in zip(
            rest, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            if not isinstance(left, int):
                found[key] = (-3, -3)
            elif left < 0:
                found[key] = (left, left)
            else:
                found[key] = (_milliseconds(early) + left, _milliseconds(late) + left)
    return [found[key] for key in keys]


def _pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _stream(reply: Sequence[Any]) -> dict[str, Any]:
    """XINFO STREAM FULL as nested dictionaries; names with "?" are not known to all versions."""
    top = _pairs(reply)
    groups: dict[bytes, Any] = {}
    for flat in top[b"groups"]:
        group = _pairs(flat)
        told: dict[str, Any] = {"last-delivered-id": group[b"last-delivered-id"]}
        if b"entries-read" in group:
            told["?entries-read"] = group[b"entries-read"]
        told["pending"] = {
            entry: (consumer, moment, count) for entry, consumer, moment, count in group[b"pending"]
        }
        told["consumers"] = {}
        for consumer in map(_pairs, group[b"consumers"]):
            told["consumers"][consumer[b"name"]] = {
                entry: (moment, count) for entry, moment, count in consumer[b"pending"]
            }
        groups[group[b"name"]] = told
    stream = {
        "length": top[b"length"],
        "last-generated-id": top[b"last-generated-id"],
        "entries": tuple((entry, tuple(fields)) for entry, fields in top[b"entries"]),
        "groups": groups,
    }
    for name in ("max-deleted-entry-id", "entries-added"):
        if name.encode() in top:
            stream[f"?{name}"] = top[name.encode()]
    return stream


def _score(text: bytes) -> bytes:
    """A score as the bits of its number: versions print the same number differently."""
    return struct.pack(">d", float(text))


_READ: dict[str, tuple[Sequence[Arg], Sequence[Arg], Callable[[Any], Any]]] = {
    # type: what stands before the key, what after it, how to understand the reply
    "string": (("GET",), (), lambda reply: reply),
    "list": (("LRANGE",), (0, -1), tuple),
    "set": (("SMEMBERS",), (), frozenset),
    "zset": (
        ("ZRANGE",),
        (0, -1, "WITHSCORES"),
        lambda reply: {member: _score(score) for member, score in _pairs(reply).items()},
    ),
    "hash": (("HGETALL",), (), lambda reply: {k: (v, -1) for k, v in _pairs(reply).items()}),
    "stream": (("XINFO", "STREAM"), ("FULL", "COUNT", 0), _stream),
}


def _read(end: _Endpoint, node: Raw, keys: Sequence[bytes]) -> list[Value]:
    """The values of many keys of one node (its current database), in few round trips."""
    kinds = [
        reply.decode() if isinstance(reply, bytes) else f"error: {reply}"
        for reply in _ask(end, node, [("TYPE", key) for key in keys])
    ]
    expiries = _expiries(end, node, keys)
    plans = [_READ.get(kind, (("DUMP",), (), lambda reply: reply)) for kind in kinds]
    replies = _ask(
        end, node, [(*plan[0], key, *plan[1]) for plan, key in zip(plans, keys, strict=True)]
    )
    data: list[Any] = []
    for kind, plan, reply in zip(kinds, plans, replies, strict=True):
        if isinstance(reply, RawError):
            data.append(f"error: {reply}")
        elif reply is None and kind != "none":
            data.append(None)  # gone since TYPE
        else:
            data.append(plan[2](reply))
    if end.has_field_ttl:
        hashes = [i for i, kind in enumerate(kinds) if kind == "hash" and data[i]]
        asked = [("HPEXPIRETIME", keys[i], "FIELDS", len(data[i]), *data[i]) for i in hashes]
        for i, moments in zip(hashes, _ask(end, node, asked), strict=True):
            if isinstance(moments, list):
                pairs = zip(data[i].items(), moments, strict=True)
                data[i] = {name: (value[0], moment) for (name, value), moment in pairs}
    return [Value(*parts) for parts in zip(kinds, data, expiries, strict=True)]


def _batches(keys: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def fingerprint(target: Target) -> dict[tuple[int, bytes], Value]:
    """Everything an endpoint has, as (database, key) -> `Value`; for small data."""
    out: dict[tuple[int, bytes], Value] = {}
    with ExitStack() as stack:
        end = _open(target, stack)
        for db in end.dbs:
            for index, node in enumerate(end.nodes):
                keys = [key for key, where in _keys(end, db).items() if where == index]
                node.select(db)
                for batch in _batches(keys, 500):
                    for key, value in zip(batch, _read(end, node, batch), strict=True):
                        if value.kind != "none":
                            out[db, key] = value
    return out


def keys_of(target: Target, db: int = 0) -> set[bytes]:
    """All keys of a database, of the whole cluster if it is one."""
    with ExitStack() as stack:
        return set(_keys(_open(target, stack), db))


# --- comparing ------------------------------------------------------------------------------


def _what(value: Any) -> str:
    if isinstance(value, bytes):
        return show(value)
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first difference between two nested values, or None."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *(other for other in b if other not in a)]:
            where = f"{path}[{show(name) if isinstance(name, bytes) else name}]"
            if name in a and name in b:
                found = _difference(a[name], b[name], where)
                if found:
                    return found
            elif not (isinstance(name, str) and name.startswith("?")):
                return f"{where} is only on the {'source' if name in a else 'target'}"
        return None
    if isinstance(a, tuple) and isinstance(b, tuple):
        for index, (x, y) in enumerate(zip(a, b, strict=False)):
            found = _difference(x, y, f"{path}[{index}]")
            if found:
                return found
        return None if len(a) == len(b) else f"{path} has {len(a)} != {len(b)} elements"
    if isinstance(a, frozenset) and isinstance(b, frozenset) and a != b:
        side, more = ("source", a - b) if a - b else ("target", b - a)
        return f"{path} member {_what(min(more))} is only on the {side}"
    return None if a == b else f"{path} {_what(a)} != {_what(b)}"


def _far(a: tuple[int, int], b: tuple[int, int], tolerance: int) -> bool:
    """Whether two expiries differ by more than the tolerance; having none equals only none."""
    if a[0] < 0 or b[0] < 0:
        return a != b
    return max(a[0] - b[1], b[0] - a[1]) > tolerance


def _compare_values(a: Value, b: Value, tolerance: int) -> str | None:
    if a.kind != b.kind:
        if "none" in (a.kind, b.kind):
            return "missing on the target" if b.kind == "none" else "only on the target"
        return f"type {a.kind} != {b.kind}"
    found = _difference(a.data, b.data)
    if found:
        return f"{a.kind} differs:{' ' if found[0] != ' ' else ''}{found}"
    if _far(a.expiry, b.expiry, tolerance):
        return f"expiry {_moment(a.expiry)} != {_moment(b.expiry)}"
    return None


def _moment(expiry: tuple[int, int]) -> str:
    if expiry[0] < 0:
        return "none"
    return str(expiry[0]) if expiry[0] == expiry[1] else f"{expiry[0]}..{expiry[1]}"


_DUMP = b"*2\r\n$4\r\nDUMP\r\n$%d\r\n%b\r\n"
_EXACT = _DUMP + b"*2\r\n$11\r\nPEXPIRETIME\r\n$%d\r\n%b\r\n"
_TIME = b"*1\r\n$4\r\nTIME\r\n"
_RELATIVE = _DUMP + _TIME + b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n"


def _ask_dumps(end: _Endpoint, node: Raw, keys: Sequence[bytes]) -> None:
    form = _EXACT if end.has_expiretime else _RELATIVE
    data = b"".join([form % (n := len(key), key, n, key) for key in keys])
    node.send(data if end.has_expiretime else data + _TIME)


def _get_dumps(end: _Endpoint, node: Raw, count: int) -> tuple[list[Any], list[Any]]:
    """Dumps and expiries of `_ask_dumps`: numbers where exact, else ranges."""
    if end.has_expiretime:
        replies = node.replies(2 * count)
        return replies[::2], replies[1::2]
    replies = node.replies(3 * count + 1)
    times = [_milliseconds(reply) for reply in replies[1::3]] + [_milliseconds(replies[-1])]
    lefts = [left if isinstance(left, int) else -3 for left in replies[2::3]]
    ranges = [
        (left, left) if left < 0 else (times[i] + left, times[i + 1] + left)
        for i, left in enumerate(lefts)
    ]
    return replies[:-1:3], ranges


def _range(expiry: Any) -> tuple[int, int]:
    if isinstance(expiry, int):
        return (expiry, expiry)
    return expiry if isinstance(expiry, tuple) else (-3, -3)


def _unequal(
    source: _Endpoint, a: Raw, target: _Endpoint, b: Raw, keys: Sequence[bytes], tolerance: int
) -> list[bytes]:
    """The keys of a batch whose serialised value or expiry is not the same on both sides."""
    _ask_dumps(source, a, keys)
    _ask_dumps(target, b, keys)
    dumps_a, expiries_a = _get_dumps(source, a, len(keys))
    dumps_b, expiries_b = _get_dumps(target, b, len(keys))
    if dumps_a == dumps_b and expiries_a == expiries_b:
        return []  # also if both are gone by now
    out = []
    for key, x, y, p, q in zip(keys, dumps_a, dumps_b, expiries_a, expiries_b, strict=True):
        # The last ten bytes are the format's version and a checksum.
        same = isinstance(x, bytes) and isinstance(y, bytes) and (x == y or x[:-10] == y[:-10])
        if not same or (p != q and _far(_range(p), _range(q), tolerance)):
            out.append(key)
    return out


def compare(
    source: Target,
    target: Target,
    *,
    ttl_tolerance_ms: int = 0,
    db_map: Mapping[int, int] | None = None,
    keys: Iterable[bytes] | None = None,
    limit: int = 50,
) -> list[str]:
    """Every difference between two endpoints, over all databases, as text; at most `limit`.

    With `db_map` only its source databases are expected, each in the target database it names;
    whatever else the target has is a difference. With `keys`, other keys do not matter.
    Serialised values are compared first; where those differ (other version, other order in a
    hash table) the values are read and compared by members. A difference that is gone when
    looked at again (a key expired just then) is none.
    """
    wanted = None if keys is None else frozenset(keys)
    found: list[str] = []
    with ExitStack() as stack:
        ends = _open(source, stack), _open(target, stack)
        pairs = dict(db_map) if db_map is not None else {db: db for db in ends[0].dbs}
        for target_db in sorted({*pairs.values(), *ends[1].dbs}):
            on_target = _keys(ends[1], target_db, wanted)
            extra = set(on_target)
            for source_db in [db for db, to in pairs.items() if to == target_db]:
                on_source = _keys(ends[0], source_db, wanted)
                extra -= on_source.keys()
                found += _compare_db(
                    ends, (source_db, target_db), on_source, on_target,
                    ttl_tolerance_ms, limit - len(found),
                )  # fmt: skip
                if len(found) >= limit:
                    return found[:limit]
            found += _check_extra(ends[1], target_db, on_target, sorted(extra), limit - len(found))
    return found[:limit]


def _check_extra(
    end: _Endpoint, db: int, where: dict[bytes, int], extra: list[bytes], limit: int
) -> list[str]:
    out: list[str] = []
    for key in extra:
        if len(out) >= limit:
            break
        node = end.nodes[where[key]]
        node.select(db)
        if _read(end, node, [key])[0].kind != "none":
            out.append(f"db{db} {show(key)}: only on the target")
    return out


def _compare_db(
    ends: tuple[_Endpoint, _Endpoint],
    dbs: tuple[int, int],
    on_source: dict[bytes, int],
    on_target: dict[bytes, int],
    tolerance: int,
    limit: int,
) -> list[str]:
    source, target = ends
    name = f"db{dbs[0]}" if dbs[0] == dbs[1] else f"db{dbs[0]}->db{dbs[1]}"
    groups: dict[tuple[int, int], list[bytes]] = {}
    missing: list[bytes] = []
    if len(source.nodes) == len(target.nodes) == 1:
        common = [key for key in on_source if key in on_target]
        groups[0, 0] = common
        if len(common) < len(on_source):
            missing = [key for key in on_source if key not in on_target]
    else:
        for key, i in on_source.items():
            j = on_target.get(key)
            if j is None:
                missing.append(key)
            else:
                groups.setdefault((i, j), []).append(key)
    out: list[str] = []
    for key in missing:
        if len(out) >= limit:
            return out
        node = source.nodes[on_source[key]]
        node.select(dbs[0])
        if _read(source, node, [key])[0].kind != "none":
            out.append(f"{name} {show(key)}: missing on the target")
    for (i, j), keys in groups.items():
        a, b = source.nodes[i], target.nodes[j]
        a.select(dbs[0])
        b.select(dbs[1])
        for batch in _batches(keys, 1000):
            suspects: Sequence[bytes] = _unequal(source, a, target, b, batch, tolerance)
            texts: dict[bytes, str] = {}
            for _ in range(2):  # a difference must be there twice
                if not suspects:
                    break
                values = zip(
                    suspects, _read(source, a, suspects), _read(target, b, suspects), strict=True
                )
                texts = {
                    key: text
                    for key, x, y in values
                    if (text := _compare_values(x, y, tolerance)) is not None
                }
                suspects = list(texts)
            out += [f"{name} {show(key)}: {text}" for key, text in texts.items()]
            if len(out) >= limit:
                return out
    return out


# --- filling --------------------------------------------------------------------------------

Build = Callable[[Callable[..., Any], bytes], None]


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _builders(version: str) -> list[tuple[str, str, Build]]:
    """(name, encoding that must come out, how to make it) for everything a version has."""
    rng = random.Random(7)
    blob = rng.randbytes(100_000)
    seven = at_least(version, "7.0")
    small = "listpack" if seven else "ziplist"
    short_list = "listpack" if at_least(version, "7.2") else "quicklist"
    out: list[tuple[str, str, Build]] = []

    def add(name: str, encoding: str, *commands: Sequence[Arg]) -> None:
        """Commands are given with None where the key belongs: as their second word, that is."""

        def build(call: Callable[..., Any], key: bytes) -> None:
            for first, *rest in commands:
                call(first, key, *rest)

        out.append((name, encoding, build))

    add("string-int", "int", ("SET", "-42"))
    add("string-int-min", "int", ("SET", "-9223372036854775808"))
    add("string-embstr", "embstr", ("SET", b"caf\xc3\xa9 \x00 0123"))
    add("string-zeros", "embstr", ("SET", "007"))
    add("string-empty", "embstr", ("SET", ""))
    add("string-raw", "raw", ("SET", b"raw " * 300))
    add("string-blob", "raw", ("SET", blob))

    add("list-small", short_list, ("RPUSH", "a", "", b"\xff\x00", "12", "-7", "a"))
    add("list-long", "quicklist", ("RPUSH", *[f"element {i:032}" for i in range(2000)]))
    add("list-huge", "quicklist", ("RPUSH", blob, "between", blob[::-1], blob * 3))

    add("set-intset", "intset", ("SADD", *[i * i - 50 for i in range(100)], 2**62))
    if at_least(version, "7.2"):
        add("set-listpack", "listpack", ("SADD", "a", "", b"\xff", 12))
    else:
        add("set-small", "hashtable", ("SADD", "a", "", b"\xff", 12))
    add("set-hashtable", "hashtable", ("SADD", *[f"member-{i}" for i in range(1000)]))
    add("set-big-ints", "hashtable", ("SADD", *[i * 1_000_003 for i in range(2000)]))

    scores = ["inf", "-inf", "-0.0", "0", "1e308", "-1e-308", "0.1", "3.0000000000000004", "17"]
    pairs = [word for i, score in enumerate(scores) for word in (score, f"m{i}")]
    many = [word for i in range(1000) for word in (i / 7, f"member-{i}")]
    add("zset-listpack", small, ("ZADD", *pairs))
    add("zset-skiplist", "skiplist", ("ZADD", *pairs, *many))
    add("zset-long-member", "skiplist", ("ZADD", "-inf", b"x" * 5000, "-0.0", "zero"))

    fields = [word for i in range(1000) for word in (f"field-{i}", f"value-{i}")]
    add("hash-listpack", small, ("HSET", "a", "1", "", "empty name", "empty", "", b"\xff", b"\0"))
    add("hash-hashtable", "hashtable", ("HSET", *fields))
    add("hash-long-value", "hashtable", ("HSET", "blob", blob, "n", "1"))
    if at_least(version, "9.0"):
        later = int(time.time() * 1000) + 5 * HOUR + 777
        add(
            "hash-field-ttl",
            "hashtable",
            ("HSET", "a", "1", "b", "2", "c", "3"),
            ("HPEXPIREAT", later, "FIELDS", "2", "a", "b"),
        )
        add(
            "hash-field-ttl-many",
            "hashtable",
            ("HSET", *fields),
            ("HPEXPIREAT", later + 1, "FIELDS", "500", *fields[:1000:2]),
        )

    def stream(call: Callable[..., Any], key: bytes) -> None:
        for i in range(1, 301):
            call("XADD", key, f"{i}-{i % 3 + 1}", "field", f"value {i}", b"\xff", str(i))
        call("XGROUP", "CREATE", key, "first", "0")
        call("XGROUP", "CREATE", key, b"\xffsecond \r\n", "100-2")
        call("XGROUP", "CREATE", key, "untouched", "$")
        for consumer, count in (("alice", 10), (b"bob\xff", 5), ("alice", 3)):
            call("XREADGROUP", "GROUP", "first", consumer, "COUNT", count, "STREAMS", key, ">")
        call("XREADGROUP", "GROUP", b"\xffsecond \r\n", "carol", "COUNT", 7, "STREAMS", key, ">")
        call("XGROUP", "CREATECONSUMER", key, "first", "idle")
        call("XACK", key, "first", "2-3", "5-3")
        call("XCLAIM", key, "first", "dave", 0, "3-1", "RETRYCOUNT", 9)
        call("XDEL", key, "4-2", "200-3", "300-1")  # pending, in the middle, the last

    out.append(("stream", "stream", stream))
    entry = ("XADD", "1700000000000-0", "a", "b")
    add("stream-plain", "stream", entry, ("XADD", "1700000000000-1", "c", ""))
    add("stream-trimmed", "stream", *[("XADD", f"{i}-0", "n", i) for i in range(1, 250)],
        ("XTRIM", "MAXLEN", "10"))  # fmt: skip
    add("stream-emptied", "stream", entry, ("XDEL", "1700000000000-0"))
    xsetid: tuple[Arg, ...] = ("XSETID", "1800000000000-5")
    if seven:
        xsetid += ("ENTRIESADDED", "1234", "MAXDELETEDID", "1700000000000-7")
    add("stream-setid", "stream", entry, xsetid)

    def empty_stream(call: Callable[..., Any], key: bytes) -> None:
        call("XGROUP", "CREATE", key, "group", "$", "MKSTREAM")
        call("XGROUP", "CREATECONSUMER", key, "group", "nobody")

    out.append(("stream-empty", "stream", empty_stream))

    add("hll-sparse", "", ("PFADD", *range(20)))
    add("hll-dense", "raw", ("PFADD", *range(20000)))
    add("bitmap", "raw", ("SETBIT", 100_000, 1), ("SETBIT", 3, 1))
    add("geo", small, ("GEOADD", "13.361389", "38.115556", "Palermo", "15.087", "37.5", "Catania"))
    return out


ODD_NAMES: tuple[bytes, ...] = (
    b"",
    b" ",
    b"with space",
    b"\r\n",
    b"line\r\nbreak",
    b"\x00",
    b"nul\x00inside",
    b"{tag}",
    b"{tag}:again",
    b"{}",
    b"{}empty tag",
    b"{{x}}",
    b"}{",
    b"unclosed{brace",
    b"\xff\xfe\x80 not utf-8",
    "ключ \U0001f511".encode(),
    b"*",
    b"?",
    b"[a-z]*",
    b"back\\slash\"quote'",
    b"-dash",
    b"--",
    b"*2\r\n$4\r\n",
    b"$-1\r\n",
    b"\x1b[31mred\x1b[0m",
    b"n" * (1 << 20),
)
"""Key names that programs trip over. The last is 1 MB long."""


def every_type(client: redis.Redis, version: str) -> list[bytes]:
    """Make a key of each type and encoding of this version, with and without an expiry.

    Then strings and hashes with odd names. Returns all keys. Checks that each encoding meant
    really came out. `client` may be a cluster's `Router`.
    """
    call: Callable[..., Any] = client.execute_command
    keys: list[bytes] = []
    now = int(time.time() * 1000)
    for number, (name, encoding, build) in enumerate(_builders(version)):
        plain, expiring = f"type:{name}".encode(), f"type:{name}:expiring".encode()
        for key in (plain, expiring):
            build(call, key)
            keys.append(key)
            if encoding:
                came = _text(call("OBJECT", "ENCODING", key))
                assert came == encoding, f"{name} on {version}: {came}, not {encoding}"
        assert call("PEXPIREAT", expiring, now + 3 * HOUR + 1000 * number + 137)
    for number, key in enumerate(ODD_NAMES):
        if number % 2:
            call("HSET", key, key[:100], "field", "of", key[:50])
        else:
            call("SET", key, b"value of " + key[:100])
        if number % 3 == 0:
            assert call("PEXPIREAT", key, now + 4 * HOUR + number)
        keys.append(key)
    assert len(set(keys)) == len(keys)
    return keys


def _mixed(
    n: int, seed: int, ttl_share: float, prefix: bytes
) -> Iterator[tuple[bytes, bytes, int]]:
    """(key, packed commands, number of commands) for each of n keys."""
    rng = random.Random(seed)
    uniform = rng.random
    now = int(time.time() * 1000)
    pool = rng.randbytes(4096)
    name = prefix if prefix else b"k%d" % seed
    for i in range(n):
        key = b"%b:%d" % (name, i)
        kind = uniform()
        word = b"%x" % int(uniform() * 1e12)
        if kind < 0.5:
            start = int(uniform() * 3900)
            data = pack("SET", key, pool[start : start + 10 + start % 150])
        elif kind < 0.6:
            data = pack("SET", key, int(uniform() * 1e9))
        elif kind < 0.75:
            data = pack("HSET", key, "name", word, "n", i % 10)
        elif kind < 0.85:
            data = pack("RPUSH", key, word, "a", b"\xff\x00")
        elif kind < 0.9:
            data = pack("SADD", key, word, "b")
        elif kind < 0.93:
            data = pack("SADD", key, i % 9 + 1, i, -i)
        elif kind < 0.98:
            data = pack("ZADD", key, uniform() * 1000, word, 0, "z", -1.5, "m")
        elif kind < 0.99:
            data = pack("PFADD", key, word, "x")
        else:
            data = pack("XADD", key, f"{i + 1}-1", "f", word)
        if uniform() < ttl_share:
            data += pack("PEXPIREAT", key, now + HOUR + int(uniform() * 8 * HOUR))
            yield key, data, 2
        else:
            yield key, data, 1


def fill_mixed(
    target: Target | int,
    n: int,
    seed: int = 1,
    ttl_share: float = 0.3,
    *,
    db: int = 0,
    prefix: bytes = b"",
) -> None:
    """Write n small keys of mixed types, named `prefix`:i (or k`seed`:i); about 100k per second.

    `target` may be the bare port of a server on 127.0.0.1.
    """
    with ExitStack() as stack:
        slots: list[int] = []
        by_port: dict[int, Raw] = {}
        if isinstance(target, Router):
            target = target._cluster
        if isinstance(target, int):
            nodes = [stack.enter_context(Raw(("127.0.0.1", target)))]
        else:
            nodes = [stack.enter_context(node) for node in _connections(target)[0]]
            if isinstance(target, Cluster):
                slots = target.slot_ports()
        for node in nodes:
            node.select(db)
            by_port[int(node.address[1])] = node
        waiting: dict[Raw, tuple[list[bytes], int]] = {node: ([], 0) for node in nodes}

        def flush(node: Raw) -> None:
            parts, count = waiting[node]
            node.send(b"".join(parts))
            for reply in node.replies(count):
                if isinstance(reply, RawError):
                    raise reply
            waiting[node] = ([], 0)

        for key, data, count in _mixed(n, seed, ttl_share, prefix):
            node = by_port[slots[key_slot(key)]] if slots else nodes[0]
            parts, before = waiting[node]
            parts.append(data)
            waiting[node] = (parts, before + count)
            if before + count >= 2000:
                flush(node)
        for node in nodes:
            flush(node)
