"""Payloads that are stamped anew or rewritten for other servers, and the readers beneath.

The laws need no server. The matrix asks real ones: each type and encoding of each version goes to
each other version, and is read there by the commands of its type.
"""

from __future__ import annotations

import random
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from anycrc import Model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rumpx.servers.crc64 import _fastest, by_folding, crc64
from rumpx.servers.rdb import (
    LOWEST_VERSION,
    Dialect,
    body_checksum,
    family_of_head,
    module_name,
    restamped,
    version_of,
)
from rumpx.values.encodings import (
    listpack,
    read_length,
    read_string,
    string_end,
    with_longer_sizes,
    write_length,
    write_string,
)
from rumpx.values.rewrite import Rewritten, portable, rewritten, shifted
from support.data import Value, every_type, fingerprint
from support.raw import Arg, Raw, RawError
from support.servers import ALL, Server, at_least, graph_module
from support.waiting import wait_until

StartServer = Callable[..., Server]
pure = pytest.mark.smoke

AT = 4_000_000_000_123
"""An instant in the next century: a field's expiry, as the payloads below have it."""

# What servers dumped: {"f": "1", "g": "x" * 50, "h": "-300"} with f and g expiring at AT.
EXPIRING = {
    22: "16030166c0017b409452a30300000167c30932017878e025000178787b409452a30300000168c1d4fe"
        "ffffffffffffffff5000fde8659742807a32",
    25: "197b409452a3030000c32c405f0a5f0000000900816702b278e028000733f47b409452a303204104816602"
        "0101e0020e076802ded4020001ff0c00b85032388940971f",
}  # fmt: skip
DUMPS = {
    "hash 22": EXPIRING[22],
    "hash 25": EXPIRING[25],
    "hash 24": "187b409452a303000003060167c3094096017878e08900017878010166c001000168c1d4fe0c00e996"
               "9d98a205f8c4",
    "hash 16": "10c31740430f4300000004008166020101816702b278e028000133ff0c00a876aefb16129d1e",
    "set 20": "141313000000030001018374776f04f290eefe04ff0c00bd1036256a576992",
    "sorted set 17": "1124240000000600816e02842d696e6605816d0283312e3504f4351cdcdf02000000090701ff"
                     "0c006b3b9a00caf6b9e1",
    "list 18": "120102c31f370d370000000400816102dfff029e78e01400061ff400f2052a0120300109ff0c00c7"
               "ca8cb2944f567c",
    "list 18, plain nodes": "1203020a0a0000000100816102ff01c3094078017878e06b00017878020a0a00000001"
                            "00816202ff0a00ab10f69640400f33",
    "stream 21": "1501100000000000000001000000000000000128280000000f0001010101010181610200010201000"
                 "1000181620204010301010100018163020401ff010201010102010201016701010101000000000000"
                 "000100000000000000017bc18a1ea201000001010263317bc18a1ea20100007bc18a1ea2010000010"
                 "000000000000001000000000000000150006ad4071d88b548c6",
}  # fmt: skip
VECTORS = (
    "0781bde72da2bb1eb4000203020102500102000504656c656d05032a557f0206020102800100000002000220020002"
    "813f4d41b2406f7751000c00e5ab1cca1a23bfe0"
)
PAYLOADS = {name: bytes.fromhex(dump) for name, dump in DUMPS.items()}

REDIS_6 = Dialect(frozenset(range(1, 10)), "")
REDIS_7_0 = Dialect(frozenset(range(1, 11)), "")
REDIS_8 = Dialect(frozenset(range(1, 13)), "redis")
VALKEY_8 = Dialect(frozenset(range(1, 12)), "")
VALKEY_9 = Dialect(frozenset((*range(1, 12), 80)), "valkey")
TARGETS = (REDIS_6, REDIS_7_0, REDIS_8, VALKEY_8, VALKEY_9)


def sealed(body: bytes, version: int) -> bytes:
    """A payload with its footer."""
    whole = body + version.to_bytes(2, "little")
    return whole + Model("CRC64-REDIS").calc(whole).to_bytes(8, "little")


# --- the checksum and the footer --------------------------------------------------------------


@pure
def test_the_checksum_of_real_servers() -> None:
    assert crc64(b"123456789") == by_folding(b"123456789") == 0xE9C6D914C4B8D9CA
    for payload in PAYLOADS.values():
        stored = int.from_bytes(payload[-8:], "little")
        assert crc64(payload[:-8]) == by_folding(payload[:-8]) == stored


@pure
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 200))
def test_both_ways_to_compute_the_checksum_agree(data: bytes, crc: int, cut: int) -> None:
    expected = Model("CRC64-REDIS").calc(data, crc)
    for kind in (bytes, bytearray, memoryview):
        assert crc64(kind(data), crc) == by_folding(kind(data), crc) == expected
    assert by_folding(data[cut:], by_folding(data[:cut], crc)) == expected


@pure
def test_the_checksum_where_anycrc_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anycrc", None)
    _fastest.cache_clear()
    try:
        assert _fastest() is by_folding
        assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    finally:
        _fastest.cache_clear()


@pure
@pytest.mark.parametrize("crc", [0, 1 << 63, 2**64 - 1])
def test_the_checksum_of_data_that_is_folded(crc: int) -> None:
    for size in (*range(120, 600), 4095, 4096, 65_536, 65_537, 200_001):
        data = random.Random(size).randbytes(size)
        assert by_folding(data, crc) == Model("CRC64-REDIS").calc(data, crc)


@pytest.mark.parametrize("version", ALL)
def test_a_payload_has_its_checksum_even_if_the_server_writes_none_to_files(
    server: StartServer, version: str
) -> None:
    with server(version, rdbchecksum="no").raw() as raw:
        raw.do("SET", "key", "value")
        payload: bytes = raw.do("DUMP", "key")
        assert crc64(payload[:-8]) == int.from_bytes(payload[-8:], "little")
        with pytest.raises(RawError, match="checksum"):
            raw.do("RESTORE", "other", 0, payload[:-8] + bytes(8))


bodies = st.builds(
    lambda head, rest: bytes((head,)) + rest, st.sampled_from(sorted(LOWEST_VERSION)), st.binary()
)
versions = st.integers(0, 2**16 - 1)


@pure
@given(bodies, versions, versions)
def test_stamped_anew_it_is_what_the_server_would_have_written(
    body: bytes, old: int, new: int
) -> None:
    assert restamped(sealed(body, old), new) == sealed(body, new)


@pure
@given(bodies, versions, versions, st.data())
def test_a_damaged_payload_stays_damaged_when_stamped_anew(
    body: bytes, old: int, new: int, data: st.DataObject
) -> None:
    damaged = bytearray(sealed(body, old))
    at = data.draw(st.integers(1, len(damaged) - 1).filter(lambda at: at != len(damaged) - 10))
    damaged[at] ^= data.draw(st.integers(1, 255))
    stamped = restamped(bytes(damaged), new)
    assert crc64(stamped[:-8]) != int.from_bytes(stamped[-8:], "little")


@pure
@pytest.mark.parametrize("head", [8, *range(22, 256)])
def test_types_of_one_family_are_never_stamped_anew(head: int) -> None:
    with pytest.raises(ValueError, match=f"type {head} "):
        restamped(sealed(bytes((head,)), 80), 11)


@pure
@given(bodies, versions, versions)
def test_equal_bodies_have_equal_checksums(body: bytes, one: int, other: int) -> None:
    assert body_checksum(sealed(body, one)) == body_checksum(sealed(body, other))
    changed = body[:-1] + bytes((body[-1] ^ 1,))
    assert body_checksum(sealed(body, one)) != body_checksum(sealed(changed, one))


# --- what a target loads ----------------------------------------------------------------------


@pure
def test_the_types_that_servers_know() -> None:
    common = {*range(6), 6, 7, *range(9, 16)}
    knows = {
        REDIS_6: common,
        REDIS_7_0: common | {16, 17, 18, 19},
        VALKEY_8: common | {*range(16, 22)},
        REDIS_8: common | {*range(16, 22), 23, 24, 25},
        VALKEY_9: common | {*range(16, 23)},
        Dialect(frozenset(range(1, 15)), "redis"): common | {*range(16, 22), *range(23, 28)},
        # Both: of a cluster with Valkey 9 and Redis 8, and of a server that accepts anything.
        Dialect(VALKEY_9.versions & REDIS_8.versions, ""): common | {*range(16, 22)},
        Dialect(frozenset(range(100)), "valkey"): common | {*range(16, 23)},
    }
    for accepts, heads in knows.items():
        assert {head for head in range(256) if accepts.knows(head)} == heads


@pure
def test_the_version_is_the_lowest_that_has_the_type() -> None:
    assert [REDIS_8.version_for(head) for head in (0, 14, 5, 15, 16, 20)] == [6, 7, 8, 9, 10, 11]
    assert REDIS_6.version_for(16) is None
    assert Dialect(frozenset((9, 12, 80)), "").version_for(16) == 12
    assert Dialect(frozenset((80,)), "valkey").version_for(0) == 80
    for accepts in TARGETS:
        assert {accepts.version_for(head) for head in (8, *range(22, 256))} == {None}


@pure
def test_families() -> None:
    families = {family_of_head(head) for head in LOWEST_VERSION}
    assert families == {""}
    assert [family_of_head(head) for head in (22, 23, 24, 25)] == ["valkey", *["redis"] * 3]
    assert family_of_head(243) == ""


@pure
def test_the_name_of_a_module() -> None:
    payload = bytes.fromhex(VECTORS)
    assert module_name(payload) == "vectorset"
    assert module_name(b"\6" + payload[1:]) == "vectorset"
    assert module_name(sealed(payload[:9], 12)) == ""
    assert module_name(sealed(b"\7\5", 12)) == ""
    assert module_name(PAYLOADS["set 20"]) == ""


def test_the_name_of_a_module_on_a_real_server(server: StartServer) -> None:
    with server("8.2", loadmodule=graph_module()).raw() as raw:
        raw.do("GRAPH.QUERY", "graph", "CREATE (:Own {n:1})")
        assert module_name(raw.do("DUMP", "graph")) == raw.do("TYPE", "graph").decode()


# --- building blocks --------------------------------------------------------------------------


@pure
@given(st.integers(0, 2**64 - 1) | st.integers(0, 2**17), st.binary(max_size=3))
@example(2**64 - 1, b"")
def test_a_length_is_read_as_it_was_written(number: int, before: bytes) -> None:
    data = before + write_length(number)
    assert read_length(data, len(before)) == (number, len(data))
    for cut in range(len(before), len(data)):
        with pytest.raises(ValueError):
            read_length(data[:cut], len(before))


@pure
@given(st.binary(max_size=300), st.binary(max_size=3))
@example(b"x" * 16384, b"")
def test_a_string_is_read_as_it_was_written(value: bytes, before: bytes) -> None:
    data = before + write_string(value)
    assert read_string(data + b"after", len(before)) == (value, len(data))
    assert string_end(data, len(before)) == len(data)
    for cut in range(len(before), len(data), 1 + len(data) // 20):
        with pytest.raises(ValueError):
            string_end(data[:cut], len(before))


HOSTILE = {
    "a length of 2^64 bytes": b"\x81" + b"\xff" * 8,
    "a length of 4 GB": b"\x80\xff\xff\xff\xff" + b"x" * 9,
    "no length": b"\x82" + bytes(8),
    "a number that is cut off": b"\xc2\x00\x00\x00",
    "another form of string": b"\xc4\x00",
    "3 bytes that give 2^63": b"\xc3\x03\x81\x7f" + b"\xff" * 7 + b"\x00x\x00",
    "a compressed part before the first": b"\xc3\x04\x04\x00x\x20\x01",
    "compressed bytes that are cut off": b"\xc3\x03\x0a\x00x\xe0",
    "compressed bytes of another length": b"\xc3\x02\x02\x00x",
}


@pure
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_string_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_string(data, 0)


@pure
def test_compressed_bytes_are_not_decompressed_in_vain() -> None:
    with pytest.raises(ValueError, match="3 compressed bytes cannot give 265"):
        read_string(b"\xc3\x03" + write_length(265) + b"\xe0\xff\x00", 0)


@pure
def test_a_compressed_string_may_repeat_what_it_just_wrote() -> None:
    # One byte, then 264 from one byte before: the most that three bytes give.
    assert read_string(b"\xc3\x05" + write_length(265) + b"\x00x\xe0\xff\x00", 0)[0] == b"x" * 265
    assert read_string(b"\xc3\x06\x08\x02abc\x60\x02", 0)[0] == b"abcabcab"


def packed(*elements: bytes, count: int | None = None) -> bytes:
    """A listpack of elements as they are written."""
    body = b"".join(elements)
    number = len(elements) if count is None else count
    return (7 + len(body)).to_bytes(4, "little") + number.to_bytes(2, "little") + body + b"\xff"


@pure
def test_a_listpack_with_more_elements_than_it_can_count() -> None:
    assert listpack(packed(*[b"\x05\x01"] * 70_000, count=65_535)) == [b"5"] * 70_000


PACKS = {
    "a wrong size": packed(b"\x05\x01") + b"\xff",
    "a wrong count": packed(b"\x05\x01", count=2),
    "no end": packed(b"\x05\x01")[:-1] + b"\x00",
    "an element of 4 GB": packed(b"\xf0\xff\xff\xff\xff" + b"x" * 8),
    "an element that reaches behind the end": packed(b"\x83ab"),
    "a number that is cut off": packed(b"\xf4\x00"),
    "an unknown element": packed(b"\xf5\x01"),
    "an end in the middle": packed(b"\xff\x01"),
    "nothing": b"",
    "only a header": b"\x06\x00\x00\x00\x00\x00",
}


@pure
@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_a_hostile_listpack_is_refused(pack: bytes) -> None:
    with pytest.raises(ValueError):
        listpack(pack)


@pure
@given(st.binary(max_size=60), st.integers(0, 60))
def test_readers_of_any_bytes_refuse_them_by_ValueError_only(data: bytes, at: int) -> None:
    for read in (read_length, read_string, string_end):
        with suppress(ValueError):
            read(data, at)
    with suppress(ValueError):
        listpack(data)
    with suppress(ValueError):
        listpack((6 + len(data)).to_bytes(4, "little") + data[:2] + data + b"\xff")


# --- rewriting: laws --------------------------------------------------------------------------


def each_way(payload: bytes) -> None:
    """Rewrite a payload for all targets; only ValueError may come, and little memory be taken."""
    for accepts in TARGETS:
        with suppress(ValueError):
            rewritten(payload, accepts, shift_ms=5)
    with suppress(ValueError):
        shifted(payload, 5)


heads = st.sampled_from((16, 17, 18, 19, 20, 21, 22, 23, 24, 25))


@pure
@given(heads, st.binary(max_size=80))
@example(18, b"\x81" + b"\xff" * 8)
@example(21, b"\x81" + b"\xff" * 8)
@example(21, bytes(9) + (b"\x81" + b"\xff" * 8) * 2)
@example(22, b"\x81" + b"\xff" * 8)
@example(24, bytes(8) + b"\x81" + b"\xff" * 8)
@example(19, bytes(9) + b"\x01\x01g\0\0\0\x81" + b"\xff" * 8)
@example(19, bytes(9) + b"\x01\x01g\0\0\0\0\x01\x01c" + bytes(8) + b"\x81" + b"\xff" * 8)
def test_a_body_of_any_bytes_is_refused_by_ValueError_only(head: int, rest: bytes) -> None:
    each_way(sealed(bytes((head,)) + rest, 80 if head == 22 else 12))


@pure
@settings(max_examples=500)
@given(st.sampled_from(sorted(PAYLOADS)), st.data())
def test_a_real_payload_with_changes_is_refused_by_ValueError_only(
    name: str, data: st.DataObject
) -> None:
    payload = bytearray(PAYLOADS[name][:-10])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(1, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        payload += b"\0" * (len(payload) < 2)
    changed = sealed(bytes(payload), version_of(PAYLOADS[name]))
    tracemalloc.start()
    try:
        each_way(changed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 88 bytes from each compressed one, and an object for each element.
    assert peak < 50_000 + 88 * 60 * len(changed)


REWRITTEN = [
    (name, accepts)
    for name, payload in PAYLOADS.items()
    for accepts in TARGETS
    if not accepts.knows(payload[0])
]


@pure
@pytest.mark.parametrize(("name", "accepts"), REWRITTEN)
def test_a_damaged_payload_is_never_rewritten(name: str, accepts: Dialect) -> None:
    payload = PAYLOADS[name]
    done = rewritten(payload, accepts)
    assert done is not None
    assert crc64(done.payload[:-8]) == int.from_bytes(done.payload[-8:], "little")
    assert done.payload[0] < 22 or family_of_head(done.payload[0]) == accepts.family
    for at in range(1, len(payload)):
        damaged = payload[:at] + bytes((payload[at] ^ 64,)) + payload[at + 1 :]
        if payload[0] == 22 and version_of(damaged) < 80:
            assert rewritten(damaged, accepts) is None
            continue
        with pytest.raises(ValueError):
            rewritten(damaged, accepts)
    with pytest.raises(ValueError):
        rewritten(payload[:-8] + bytes(8), accepts)
    with pytest.raises(ValueError, match="does not end"):
        rewritten(sealed(payload[:-10] + b"\0", version_of(payload)), accepts)


@pure
def test_nothing_to_rewrite() -> None:
    for name in ("set 20", "hash 16", "sorted set 17", "list 18", "stream 21"):
        assert rewritten(PAYLOADS[name], REDIS_8) is None
    for head in (0, 5, 7, 12, 14, 23, 26, 28, 243):
        assert rewritten(sealed(bytes((head,)), 12), REDIS_6) is None
    assert rewritten(b"", REDIS_6) is None


@pure
def test_a_hash_of_a_candidate_of_redis_7_4_is_not_read_as_one_of_valkey() -> None:
    candidate = sealed(PAYLOADS["hash 22"][:-10], 12)
    for accepts in TARGETS:
        assert rewritten(candidate, accepts) is None
    with pytest.raises(ValueError, match="type 22"):
        shifted(candidate, 1)
    with pytest.raises(ValueError, match="type 23"):
        shifted(sealed(b"\x17", 12), 1)


@pure
def test_fields_in_the_other_familys_form() -> None:
    """Each family's payload of one value is rewritten to the same table."""
    to_valkey = rewritten(PAYLOADS["hash 25"], VALKEY_9)
    to_redis = rewritten(PAYLOADS["hash 22"], REDIS_8)
    assert to_valkey and to_redis and not to_valkey.loses and not to_redis.loses
    long = write_string(b"x" * 50)
    # Sorted by their expiries in Redis's listpack; uncompressed, since listpacks are.
    moment, never = AT.to_bytes(8, "little"), b"\xff" * 8
    assert to_valkey == Rewritten(
        sealed(
            b"\x16\x03\1g" + long + moment + b"\1f\0011" + moment + b"\1h\4-300" + never, 80
        ),
        (),
    )  # fmt: skip
    # Taken over as they were written.
    parts = EXPIRING[22][4:-20].replace("7b409452a3030000", "").replace("f" * 16, "")
    strings = bytes.fromhex(parts)
    fields = strings[:4], strings[4:-5], strings[-5:]
    assert to_redis == Rewritten(
        sealed(
            b"\x18" + moment + b"\x03\1" + fields[0] + b"\1" + fields[1] + b"\0" + fields[2], 12
        ),
        (),
    )


def fields_of(payload: bytes) -> list[tuple[bytes, bytes, int]]:
    """The fields of a payload of Valkey: name, value, expiry (-1: none)."""
    assert payload[0] == 22
    count, at = read_length(payload, 1)
    found = []
    for _ in range(count):
        name, at = read_string(payload, at)
        value, at = read_string(payload, at)
        found.append((name, value, int.from_bytes(payload[at : at + 8], "little", signed=True)))
        at += 8
    assert at == len(payload) - 10
    return found


def hash_of_valkey(*expiries: int) -> bytes:
    fields = [
        write_string(b"%d" % number) + b"\1f" + expiry.to_bytes(8, "little", signed=True)
        for number, expiry in enumerate(expiries)
    ]
    return sealed(b"\x16" + write_length(len(fields)) + b"".join(fields), 80)


@pure
@given(
    st.lists(st.just(-1) | st.integers(0, 2**47) | st.integers(0, 2**63 - 1), min_size=1),
    st.just(0) | st.integers(-(2**45), 2**45),
)
def test_expiries_to_the_millisecond(expiries: list[int], shift: int) -> None:
    expected = [-1 if at == -1 else max(1, max(1, at) + shift) for at in expiries]
    expected = [min(at, 2**63 - 1) for at in expected]
    payload = hash_of_valkey(*expiries)
    same = rewritten(payload, VALKEY_9, shift_ms=shift)
    there = rewritten(payload, REDIS_8, shift_ms=shift)
    assert same and there
    if max(expected) == -1:
        assert same.payload[0] == there.payload[0] == 4
        assert same.loses == there.loses == ()
        assert shifted(payload, shift) == payload
        return
    assert there.payload[0] == 24 and version_of(there.payload) == 12
    assert [at for _, _, at in fields_of(same.payload)] == expected
    assert shifted(payload, shift) == same.payload
    back = rewritten(there.payload, VALKEY_9)
    moved = rewritten(shifted(there.payload, 1000), VALKEY_9)
    assert back and moved
    latest = 2**48 - 1
    expected = [min(at, latest) for at in expected]
    assert [at for _, _, at in fields_of(back.payload)] == expected
    expected = [at if at == -1 else min(at + 1000, latest) for at in expected]
    assert [at for _, _, at in fields_of(moved.payload)] == expected


@pure
@pytest.mark.parametrize("expiry", [-2, -(2**63)])
def test_a_negative_expiry_is_refused(expiry: int) -> None:
    with pytest.raises(ValueError, match="expires"):
        rewritten(hash_of_valkey(AT, expiry), REDIS_8)


@pure
def test_losses_are_named() -> None:
    def loses(name: str, accepts: Dialect) -> tuple[str, ...]:
        done = rewritten(PAYLOADS[name], accepts)
        assert done is not None
        return done.loses

    for name in ("hash 22", "hash 24", "hash 25"):
        for accepts in (REDIS_6, REDIS_7_0, VALKEY_8):
            assert loses(name, accepts) == ("field expiries",)
    assert loses("stream 21", REDIS_6) == ("stream counters",)
    assert loses("stream 21", REDIS_7_0) == ()


@pure
def test_a_newer_redis_to_an_older_one_with_field_expiries() -> None:
    newer = sealed(PAYLOADS["hash 25"][:-10], 14)
    done = rewritten(newer, REDIS_8)
    assert done and done.payload[0] == 24 and version_of(done.payload) == 12
    moved = shifted(newer, 1)
    assert moved[0] == 24 and version_of(moved) == 14


# --- rewriting: every value, from every version to every version ------------------------------

# Numbers at the edges of listpacks' and RDB's encodings.
EDGES = [2**power for power in (0, 7, 12, 13, 15, 16, 23, 31, 32, 63)]
NUMBERS = sorted(
    number
    for edge in (*EDGES, *(-edge for edge in EDGES))
    for number in (edge - 1, edge, edge + 1)
    if -(2**63) <= number < 2**63
)
LIKE_NUMBERS = ["007", "-0", "+1", "1e3", " 1", "9223372036854775808", "-9223372036854775809", ""]
# At the edges of a listpack's lengths: of strings, and of the sizes behind them.
SIZES = [63, 64, 124, 125, 126, 127, 4095, 4096, 16_377, 16_378, 16_379, 16_380, 60_000]
LONG = b"long and compressible " * 40
SCORES = ["inf", "-inf", "5e-324", "-1.7976931348623157e308", "0.1", "-0.0", "9007199254740993"]

EXPIRE = ("7.4", "8.2", "9.1")
"""The versions whose hash fields expire."""

LIMITS = {
    "6.2": {"list-max-ziplist-size": -5, "hash-max-ziplist-value": 70_000,
            "zset-max-ziplist-value": 70_000},
    "7.0": {"list-max-listpack-size": -5, "hash-max-listpack-value": 70_000,
            "zset-max-listpack-value": 70_000},
    "7.2": {"set-max-listpack-value": 70_000},
}  # fmt: skip


def fill(server: Server) -> None:
    """Each type and encoding of a version, then those at the edges of the encodings."""
    version = server.version
    client = server.client()
    every_type(client, version)
    call: Callable[..., Any] = client.execute_command
    bounds: list[tuple[str, Any]] = []
    if version == "7.0":
        call("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "200b")
    call("RPUSH", "list of plain nodes", "a", b"x" * 9000, LONG, "-70000", b"y" * 100_000, 5)
    if version == "7.0":
        call("DEBUG", "QUICKLIST-PACKED-THRESHOLD", 0)
    call("SADD", "big set of long members", LONG, LONG * 2, *NUMBERS, *LIKE_NUMBERS)
    call("HSET", "big hash", *[word for n in NUMBERS for word in (f"field {n}", n)], LONG, LONG)
    for name in ("6.2", "7.0", "7.2"):
        if at_least(version, name):
            bounds += LIMITS[name].items()
    if at_least(version, "7.0"):
        bounds = [(name, value) for name, value in bounds if "ziplist" not in name]
    for name, value in bounds:
        call("CONFIG", "SET", name, value)
    sized = [(b"%d " % size).ljust(size, b"x") for size in SIZES]
    call("RPUSH", "list of sizes", *sized, "x", "")
    for n, size in enumerate(sized):
        call("HSET", b"hash of a size %d" % n, "f", size, size, "v")
        call("SADD", b"set of a size %d" % n, "m", size, n)
        call("ZADD", b"sorted set of a size %d" % n, "-3.5", "m", n, size)
    call("RPUSH", "list of numbers", *NUMBERS, *LIKE_NUMBERS)
    call("HSET", "hash of numbers", *[word for n in NUMBERS[::3] for word in (n, -n)], "", "")
    call("SADD", "set of numbers", *NUMBERS[:40], *LIKE_NUMBERS)
    call("SADD", "intset", *NUMBERS)
    scores = [word for score in SCORES for word in (score, f"member {score}")]
    call("ZADD", "sorted set of scores", *scores, *[w for n in NUMBERS[:40] for w in (n, n)])
    if version in EXPIRE:
        fill_expiring(call)


def fill_expiring(call: Callable[..., Any]) -> None:
    """Hashes with field expiries, in each form."""
    for size, value in ((3, "v"), (700, "v"), (3, LONG * 60)):
        name = f"hash of {size} fields, of {len(value)} bytes"
        fields: list[str | int] = [f"f{number}" for number in range(size)]
        choices = {"some": fields[::2], "all": [*fields, 7], "none any more": fields}
        for which, expiring in choices.items():
            key = f"{name}, {which} expiring"
            call("HSET", key, *[word for field in fields for word in (field, value)], 7, -42)
            for n, field in enumerate(expiring):
                at = AT + (2**45 if n == 1 else n % 40)
                call("HPEXPIREAT", key, at, "FIELDS", 1, field)
        call("HPERSIST", key, "FIELDS", len(fields), *fields)


class Fleet:
    """A server of each version, empty, and what one like it dumped when it was filled."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.started: dict[str, tuple[Server, Raw]] = {}
        self.payloads: dict[str, dict[bytes, bytes]] = {}
        self.values: dict[str, dict[bytes, Value]] = {}
        self.loads: dict[str, Dialect] = {}

    def get(self, version: str) -> Raw:
        """A connection to the server of a version, which is empty."""
        if version not in self.started:
            server = self.stack.enter_context(Server(version))
            raw = self.stack.enter_context(server.raw())
            self.started[version] = server, raw
            self.loads[version] = accepted(raw)
            fill(server)
            self.values[version] = self.found(version)
            keys = list(self.values[version])
            dumps = raw.many([("DUMP", key) for key in keys])
            self.payloads[version] = dict(zip(keys, dumps, strict=True))
        raw = self.started[version][1]
        raw.do("FLUSHALL")
        return raw

    def found(self, version: str) -> dict[bytes, Value]:
        """What the server has."""
        return {key: value for (_, key), value in fingerprint(self.started[version][0]).items()}


def accepted(raw: Raw) -> Dialect:
    """What a server loads, by the two refusals of a payload that has no type."""
    tried = range(1, 100)
    asked = [("RESTORE", "probe", 0, sealed(b"\xff", version)) for version in tried]
    replies = dict(zip(tried, map(str, raw.many(asked)), strict=True))
    assert all("Bad data format" in text or "checksum" in text for text in replies.values())
    versions = frozenset(version for version, text in replies.items() if "Bad data" in text)
    return Dialect(versions, "valkey" if 80 in versions else "redis" if 12 in versions else "")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(stack)


def fitted(payload: bytes, accepts: Dialect) -> Rewritten | None:
    """A payload for a target of another version: as it is, stamped anew, or rewritten."""
    head, version = payload[0], version_of(payload)
    if not accepts.knows(head) or (head < 22 and not portable(payload)):
        return rewritten(payload, accepts)
    if version in accepts.versions:
        return Rewritten(payload, ())
    stamp = accepts.version_for(head)
    return Rewritten(restamped(payload, stamp), ()) if stamp else None


def meaning(value: Value, loses: Sequence[str], shift_ms: int = 0) -> Any:
    """A value without its key's expiry, and without what a target cannot have."""
    data = value.data
    if value.kind == "zset":  # numbers: a listpack makes 0 of -0
        data = {member: struct.unpack(">d", score)[0] for member, score in data.items()}
    if value.kind == "hash":
        data = {
            name: (text, -1 if at < 0 or "field expiries" in loses else at + shift_ms)
            for name, (text, at) in data.items()
        }
    if value.kind == "stream" and "stream counters" in loses:
        data = {key: part for key, part in data.items() if key[0] != "?"}
        data["groups"] = {
            name: {key: part for key, part in group.items() if key[0] != "?"}
            for name, group in data["groups"].items()
        }
    return value.kind, data


@pytest.mark.parametrize("target", ALL)
@pytest.mark.parametrize("source", ALL)
def test_every_value_of_every_version_arrives_on_every_version(
    fleet: Fleet, source: str, target: str
) -> None:
    fleet.get(source)
    raw, accepts = fleet.get(target), fleet.loads[target]
    done = {
        key: Rewritten(payload, ()) if source == target else fitted(payload, accepts)
        for key, payload in fleet.payloads[source].items()
    }
    fits = {key: fit for key, fit in done.items() if fit}
    assert len(fits) == len(done) > 120
    replies = raw.many([("RESTORE", key, 0, fit.payload) for key, fit in fits.items()])
    refused = [(key, reply) for key, reply in zip(fits, replies, strict=True) if reply != b"OK"]
    assert refused == []

    there = fleet.found(target)
    assert there.keys() == fits.keys()
    for key, value in fleet.values[source].items():
        loses = {*fits[key].loses, *({"stream counters"} if "6.2" in (source, target) else ())}
        assert meaning(there[key], loses) == meaning(value, loses), key
    # No type of one family for the other, and no loss where none is needed.
    assert {family_of_head(fit.payload[0]) for fit in fits.values()} <= {"", accepts.family}
    losses = {loss for fit in fits.values() for loss in fit.loses}
    expire = source in EXPIRE and target not in EXPIRE
    counts = at_least(source, "7.0") and target == "6.2"
    assert ("field expiries" in losses, "stream counters" in losses) == (expire, counts)


DISPUTED = [(1 << bits) - 6 for bits in (14, 21)]


def element(value: bytes, longer: bool) -> bytes:
    """A long element of a listpack, with its size in either form."""
    size = 5 + len(value)
    count = (size.bit_length() + 6) // 7 + longer
    digits = [size >> 7 * place & 127 | 128 for place in range(count)]
    digits[-1] &= 127
    return b"\xf0" + len(value).to_bytes(4, "little") + value + bytes(reversed(digits))


@pure
@pytest.mark.parametrize("length", DISPUTED)
def test_a_size_that_is_written_in_two_ways_is_read_in_both(length: int) -> None:
    value = b"x" * length
    longer, shorter = (
        packed(b"\x01\x01", element(value, way), b"\x05\x01") for way in (True, False)
    )
    assert listpack(longer) == listpack(shorter) == [b"1", value, b"5"]
    assert with_longer_sizes(shorter) == with_longer_sizes(longer) == longer


@pure
@given(st.sampled_from((*range(16_370, 16_390), *range(100, 200))))
def test_sizes_that_are_written_in_one_way(length: int) -> None:
    pack = packed(element(b"x" * length, False), b"\x05\x01")
    assert listpack(pack) == [b"x" * length, b"5"]
    if length not in DISPUTED:
        assert with_longer_sizes(pack) == pack


@pure
@pytest.mark.parametrize("longer", [True, False])
def test_only_payloads_with_such_a_size_are_not_portable(longer: bool) -> None:
    def stream(pack: bytes) -> bytes:
        return b"\x01\x10" + bytes(16) + write_string(pack)

    def nodes(pack: bytes) -> bytes:
        return b"\x02\x01" + write_string(pack) + b"\x02" + write_string(pack)

    forms = {16: write_string, 17: write_string, 20: write_string, 18: nodes}
    forms |= dict.fromkeys((15, 19, 21), stream)
    for length in (DISPUTED[0] - 1, *DISPUTED, DISPUTED[0] + 1):
        pack = packed(element(b"x" * length, longer and length in DISPUTED))
        for head, form in forms.items():
            payload = sealed(bytes((head,)) + form(pack), 80)
            assert portable(payload) == (length not in DISPUTED)
    assert portable(sealed(b"\0" + write_string(b"x" * DISPUTED[0]), 80))
    assert portable(sealed(b"\x12\x01\x01" + write_string(b"x" * DISPUTED[0]), 80))
    assert all(map(portable, PAYLOADS.values()))


@pytest.mark.parametrize(
    ("source", "target"), [(one, other) for one in ALL for other in ALL if one != other]
)
def test_a_stream_with_such_a_size_crashes_no_server(
    fleet: Fleet, source: str, target: str
) -> None:
    """Valkey 9.1 writes them in a form that older servers load, and crash of at the first read."""
    raw, there = fleet.get(source), fleet.get(target)
    for length in DISPUTED:
        raw.do("XADD", length, "1-1", "field", "before", "x" * length, "x" * length, 1, 2)
        raw.do("XADD", length, "2-1", "field", "after", "x" * length, "y" * length, 1, 3)
        payload: bytes = raw.do("DUMP", length)
        assert not portable(payload)
        if target == "9.1":
            with pytest.raises(ValueError, match="two ways"):
                rewritten(payload, fleet.loads[target])
            continue
        done = rewritten(payload, fleet.loads[target])
        assert done
        assert there.do("RESTORE", length, 0, done.payload) == b"OK"
        for command in ("XRANGE", "XREVRANGE"):
            ends = ("-", "+") if command == "XRANGE" else ("+", "-")
            assert there.do(command, length, *ends) == raw.do(command, length, *ends)
        assert there.do("XADD", length, "3-1", "one", "more") == b"3-1"


# --- fields that expire -----------------------------------------------------------------------

PAIRS_THAT_EXPIRE = [
    (one, other) for one in EXPIRE for other in EXPIRE if one in ALL and other in ALL
]


@pytest.mark.parametrize("size", [1, 300])
@pytest.mark.parametrize(("source", "target"), PAIRS_THAT_EXPIRE)
def test_fields_expire_at_their_instant_where_they_arrive(
    fleet: Fleet, source: str, target: str, size: int
) -> None:
    raw, there = fleet.get(source), fleet.get(target)
    stays = [f"stays {number}" for number in range(size)]
    goes = [f"goes {number}" for number in range(size)]
    raw.do("HSET", "hash", *[word for field in (*stays, *goes) for word in (field, "v")])
    seconds, micros = map(int, raw.do("TIME"))
    at = seconds * 1000 + micros // 1000 + 2000
    # Sooner by a day than they shall expire, which the shift makes up for.
    day = 86_400_000
    before = raw.do("HPEXPIREAT", "hash", at + 3 * day, "FIELDS", size, *goes)
    assert before == [1] * size
    raw.do("HPEXPIREAT", "hash", at + 4 * day, "FIELDS", 1, stays[0])
    payload: bytes = raw.do("DUMP", "hash")
    if source == target:
        moved = shifted(payload, -3 * day)
    else:
        done = rewritten(payload, fleet.loads[target], shift_ms=-3 * day)
        assert done and not done.loses
        moved = done.payload
    assert there.do("RESTORE", "hash", 0, moved, "REPLACE") == b"OK"
    moments = there.do("HPEXPIRETIME", "hash", "FIELDS", 2 * size, *stays, *goes)
    assert moments == [at + day, *[-1] * (size - 1), *[at] * size]
    wait_until(lambda: there.do("HMGET", "hash", *goes) == [None] * size, 30, "the fields' end")
    seconds, micros = map(int, there.do("TIME"))
    assert seconds * 1000 + micros // 1000 >= at
    assert there.do("HMGET", "hash", *stays) == [b"v"] * size
    wait_until(lambda: there.do("HLEN", "hash") == size, 30, "the fields' removal")


@pytest.mark.parametrize(("source", "target"), PAIRS_THAT_EXPIRE)
def test_shifted_expiries_of_every_form(fleet: Fleet, source: str, target: str) -> None:
    fleet.get(source)
    raw, accepts = fleet.get(target), fleet.loads[target]
    expiring = {
        key: payload
        for key, payload in fleet.payloads[source].items()
        if family_of_head(payload[0])
    }
    assert {payload[0] for payload in expiring.values()} == (
        {22} if source == "9.1" else {24, 25}
    )
    for key, payload in expiring.items():
        if family_of_head(payload[0]) == accepts.family:
            moved = shifted(payload, 12_345)
        else:
            done = rewritten(payload, accepts, shift_ms=12_345)
            assert done
            moved = done.payload
        assert raw.do("RESTORE", key, 0, moved) == b"OK"
    for key, value in fleet.found(target).items():
        assert meaning(value, ()) == meaning(fleet.values[source][key], (), 12_345), key


@pytest.mark.parametrize("version", [version for version in ("7.4", "8.2") if version in ALL])
def test_the_latest_expiry_that_redis_loads(fleet: Fleet, version: str) -> None:
    raw = fleet.get(version)
    for at in (1 << 46, (1 << 48) - 1, 1 << 48, (1 << 63) - 1):
        done = rewritten(hash_of_valkey(AT, at), fleet.loads[version])
        assert done
        assert raw.do("RESTORE", "hash", 0, done.payload, "REPLACE") == b"OK"
        latest = min(at, (1 << 48) - 1)
        assert raw.do("HPEXPIRETIME", "hash", "FIELDS", 2, 0, 1) == [AT, latest]
    too_late = sealed(b"\x18" + (1 << 48).to_bytes(8, "little") + b"\x01\x01\1f\1v", 12)
    with pytest.raises(RawError, match="Bad data format"):
        raw.do("RESTORE", "hash", 0, too_late, "REPLACE")


# --- any value --------------------------------------------------------------------------------

texts = st.one_of(
    st.binary(max_size=12),
    st.integers(-(2**63), 2**63 - 1).map(b"%d".__mod__),
    st.sampled_from(NUMBERS).map(b"%d".__mod__),
    st.binary(min_size=1, max_size=6).map(lambda word: word * 30),
    st.binary(min_size=60, max_size=70),
    st.integers(0, 5000).map(lambda length: b"z" * length),
)
scores = st.floats(allow_nan=False).map(repr) | st.integers(-(2**60), 2**60).map(str)


@st.composite
def commands(draw: st.DrawFn) -> list[tuple[Arg, ...]]:
    """Commands that make a value of some type under the name `key`."""
    many = st.lists(texts, min_size=1, max_size=draw(st.sampled_from((3, 12, 200))))
    match draw(st.sampled_from(("set", "hash", "zset", "list", "stream"))):
        case "set":
            return [("SADD", "key", *draw(many))]
        case "list":
            return [("RPUSH", "key", *draw(many))]
        case "hash":
            fields = draw(many)
            made: list[tuple[Arg, ...]] = [
                ("HSET", "key", *[word for field in fields for word in (field, draw(texts))])
            ]
            expiring = draw(st.lists(st.sampled_from(fields), max_size=5))
            moments = st.integers(AT, 2**46 - 1)
            return made + [
                ("HPEXPIREAT", "key", draw(moments), "FIELDS", 1, field) for field in expiring
            ]
        case "zset":
            pairs = [word for member in draw(many) for word in (draw(scores), member)]
            return [("ZADD", "key", *pairs)]
    entries = draw(st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=130))
    made = [("XADD", "key", f"{n}-1", *entry) for n, entry in enumerate(entries, 1)]
    made.append(("XGROUP", "CREATE", "key", draw(texts), draw(st.sampled_from(("0", "$", "2-1")))))
    made += [
        ("XREADGROUP", "GROUP", made[-1][3], draw(texts), "COUNT", count, "STREAMS", "key", ">")
        for count in draw(st.lists(st.integers(1, 5), max_size=3))
    ]
    gone = draw(st.lists(st.integers(1, len(entries)), max_size=4))
    return made + [("XDEL", "key", f"{n}-1") for n in gone]


@pytest.mark.parametrize("source", ALL)
def test_any_value_of_one_server_is_equal_on_all_others(fleet: Fleet, source: str) -> None:
    origin = fleet.get(source)
    targets = {version: fleet.get(version) for version in ALL if version != source}

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(commands())
    def check(made: list[tuple[Arg, ...]]) -> None:
        origin.do("FLUSHDB")
        for command in made:
            if source in EXPIRE or command[0] != "HPEXPIREAT":
                origin.do(*command)
        payload = origin.do("DUMP", "key")
        value = fleet.found(source)[b"key"]
        for version, raw in targets.items():
            done = fitted(payload, fleet.loads[version])
            assert done
            assert raw.do("RESTORE", "key", 0, done.payload, "REPLACE") == b"OK"
            loses = {*done.loses}
            if "6.2" in (source, version):
                loses.add("stream counters")
            assert meaning(fleet.found(version)[b"key"], loses) == meaning(value, loses), version

    check()
