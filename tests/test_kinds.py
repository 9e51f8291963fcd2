"""Types, sizes and largest keys of what was copied, told by the payloads themselves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.model.content import LARGEST_KEPT
from rumpx.transfer.content_stats import NO_KINDS, Kinds, Large, Largest, Scale, content
from support.copying import Copying, copy, resume
from support.data import every_type, fill_mixed, keys_of
from support.servers import ALL, Cluster, Server

StartServer = Callable[..., Server]

payloads = st.lists(
    st.builds(
        lambda head, size: bytes([head]) + bytes(size), st.integers(0, 255), st.integers(0, 300)
    ),
    max_size=40,
)


def named(found: list[bytes]) -> list[bytes]:
    return [b"key:%d" % number for number in range(len(found))]


@given(payloads, st.integers(1, 10))
def test_parts_add_up_to_the_whole(found: list[bytes], step: int) -> None:
    scale = Scale()
    whole, _ = scale.weigh(0, named(found), found)
    parts = NO_KINDS
    for start in range(0, len(found), step):
        some = found[start : start + step]
        parts += scale.weigh(0, named(some), some)[0]

    assert parts == whole
    told = content([parts], [])
    assert sum(count.keys for count in told.types) == len(found)
    assert sum(count.payload_bytes for count in told.types) == sum(map(len, found))
    assert sum(count.keys for count in told.sizes) == len(found)
    for count in told.sizes:
        fitting = [p for p in found if count.least <= len(p) <= count.most]
        assert len(fitting) == count.keys


def test_values_of_gigabytes_do_not_spill_into_the_number_of_keys() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 2**40

    kinds, large = Scale().weigh(0, [b"a", b"b"], [Long(b"\x00"), Long(b"\x00")])

    (count,) = content([kinds], large).types
    assert (count.keys, count.payload_bytes) == (2, 2**41)


@given(st.lists(st.integers(0, 10**6), max_size=200), st.integers(1, 30), st.integers(1, 3))
def test_the_largest_are_found_among_all_workers(
    sizes: list[int], step: int, workers: int
) -> None:
    """Each names only those that may be among the ten, and the coordinator keeps those that are."""

    class Sized(bytes):
        size = 0

        def __len__(self) -> int:
            return self.size

    def payload(size: int) -> bytes:
        made = Sized(b"\x00")
        made.size = size + 1
        return made

    scales = [Scale() for _ in range(workers)]
    largest = Largest()
    for number, start in enumerate(range(0, len(sizes), step)):
        some = sizes[start : start + step]
        keys = [b"%d" % (start + place) for place in range(len(some))]
        _, large = scales[number % workers].weigh(0, keys, list(map(payload, some)))
        assert len(large) <= LARGEST_KEPT
        largest.add(large)

    expected = sorted((size + 1 for size in sizes), reverse=True)[:LARGEST_KEPT]
    assert [large.size for large in largest.top] == expected


def test_a_key_that_is_copied_again_is_listed_once_as_it_was_last() -> None:
    largest = Largest([Large(500, 0, 3, b"k")])

    largest.add([Large(40, 0, 3, b"k"), Large(41, 0, 0, b"k")])

    assert [(large.size, large.db) for large in largest.top] == [(41, 0), (40, 3)]
    assert Kinds() + Kinds({1: 2}) == Kinds({1: 2}) == Kinds({1: 2}) + Kinds()


def types_of(server: Server | Cluster, db: int = 0) -> Counter[str]:
    """What TYPE says of all keys."""
    client = server.client(db)
    return Counter(client.type(key).decode() for key in keys_of(server, db))


@pytest.mark.smoke
@pytest.mark.parametrize("version", ALL)
def test_every_type_of_every_version(server: StartServer, version: str) -> None:
    """A payload's first byte says what TYPE says; and the largest key is that with most bytes."""
    source, target = server(version), server(version)
    every_type(source.client(), version)

    told = copy(source, target, "--stream-from", "off").summary["content"]

    types = {row["type"]: row["keys"] for row in told["types"]}
    assert types == types_of(source)
    dumps = {key: len(source.do("DUMP", key)) for key in keys_of(source)}
    assert sum(row["payload_bytes"] for row in told["types"]) == sum(dumps.values())
    ranked = sorted(dumps.values(), reverse=True)[: len(told["largest"])]
    assert [row["payload_bytes"] for row in told["largest"]] == ranked
    biggest = [key for key, size in dumps.items() if size == ranked[0]]
    names = {key.decode("utf-8", "backslashreplace") for key in biggest}
    assert told["largest"][0]["key"] in names


def test_a_killed_copy_that_goes_on_counts_none_twice(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, 6000)
    rng = random.Random(7)
    flags: list[Any] = ["--job", "job"]
    with Copying(source, target, *flags) as copying, copying.held_at(target, 500):
        copying.run.send_signal(9, group=True)
    for keys in (1500, 3000):
        reached = keys + rng.randrange(500)
        with Copying.of("resume", "job") as copying, copying.held_at(target, reached):
            copying.run.send_signal(9, group=True)

    told = resume().summary["content"]

    assert {row["type"]: row["keys"] for row in told["types"]} == types_of(source)


def test_of_databases_keys_are_named_by_the_sources(server: StartServer) -> None:
    """Also those that fail, which are tried again there."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "mine", "x" * 3000, db=3)
    source.do("SET", "theirs", "y" * 2000, db=3)
    target.do("ACL", "SETUSER", "u", "on", "nopass", "+@all", "~mine")

    done = copy(source, f"redis://u:x@127.0.0.1:{target.port}", "--map-db", "3:0", code=3)

    (large,) = done.summary["content"]["largest"]
    assert (large["db"], large["key"]) == (3, "mine")
    (failure,) = done.summary["failures"]
    assert (failure["db"], failure["key"]) == (3, "theirs")
