"""The decisions of a follow that need no server: prefixes, looks at INFO, and the fuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.errors import Side
from rumpx.follower.dirty_keys import DirtyKeys
from rumpx.follower.feed import prefixes
from rumpx.follower.passes import holds
from rumpx.follower.streams import StreamNames
from rumpx.follower.watch import (
    Emptied,
    FunctionsChanged,
    GroupsChanged,
    Keyspace,
    Look,
    Mute,
    OtherServer,
    Seen,
    Swapped,
    Wrote,
    judged,
)
from rumpx.model.job import Scope
from rumpx.servers.globs import compile_glob
from rumpx.servers.info import ServerInfo

pytestmark = pytest.mark.smoke

# --- the prefixes of a scope ----------------------------------------------------------------

# Few letters, so that names match and beginnings coincide.
WORDS = st.lists(st.sampled_from([b"a", b"b", b"ab", b"*", b"?", b"[ab]", b"\\*"]), max_size=5)
GLOBS = st.lists(WORDS.map(b"".join), max_size=4).map(tuple)
NAMES = st.lists(st.sampled_from([b"a", b"b", b"*"]), max_size=6).map(b"".join)


@given(globs=GLOBS, names=st.lists(NAMES, max_size=20))
def test_each_key_in_scope_has_one_of_the_prefixes(
    globs: tuple[bytes, ...], names: list[bytes]
) -> None:
    """Else the source would not tell that it has changed."""
    found = prefixes(Scope(match=globs))
    for name in names:
        in_scope = not globs or any(compile_glob(glob).fullmatch(name) for glob in globs)
        assert not in_scope or not found or name.startswith(found)


@given(globs=GLOBS)
def test_no_prefix_begins_with_another(globs: tuple[bytes, ...]) -> None:
    """A server refuses prefixes that overlap."""
    found = prefixes(Scope(match=globs))
    assert not any(a.startswith(b) for a in found for b in found if a is not b)
    assert b"" not in found


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ([], ()),
        (["*"], ()),
        (["user:*", "*:7"], ()),
        (["user:*"], (b"user:",)),
        (["exact"], (b"exact",)),
        (["a[12]", "b?", "c\\*"], (b"a", b"b", b"c")),
        (["user:7:*", "user:*", "user:*"], (b"user:",)),
    ],
)
def test_prefixes_are_the_literal_beginnings(globs: list[str], expected: tuple[bytes, ...]) -> None:
    assert prefixes(Scope(match=tuple(glob.encode() for glob in globs))) == expected


# --- two looks at a server ------------------------------------------------------------------

INFO = ServerInfo(run_id="one", role="master", keys={0: 10})
CALLS = {"get": 7, "info": 20, "swapdb": 1, "xack": 3, "xgroup|create": 1, "function|load": 2}


def look(at: float = 0.0, calls: Mapping[str, int] = MappingProxyType({}), **facts: Any) -> Look:
    """One with these calls beyond `CALLS`."""
    both = Counter(CALLS) + Counter(calls)
    return Look(at, replace(INFO, **facts), both)


def events(before: Look, now: Look, side: Side = "source") -> set[type[Seen]]:
    """The kinds of what happened; what is always told is left out."""
    return {type(seen) for seen in judged(side, before, now)} - {Keyspace, Wrote}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("get", set()),
        ("incr", set()),
        ("xadd", set()),
        ("swapdb", {Swapped}),
        ("flushdb", {Emptied}),
        ("flushall", {Emptied}),
        ("xack", {GroupsChanged}),
        ("xclaim", {GroupsChanged}),
        ("xautoclaim", {GroupsChanged}),
        ("xreadgroup", {GroupsChanged}),
        ("xgroup", {GroupsChanged}),  # as 6.2 counts
        ("xgroup|destroy", {GroupsChanged}),
        ("xgroup|setid", {GroupsChanged}),
        ("xsetid", {GroupsChanged}),
        ("xackdel", {GroupsChanged}),
        ("function|load", {FunctionsChanged}),
        ("function|restore", {FunctionsChanged}),
        ("function|list", set()),
    ],
)
def test_a_counter_that_has_moved_tells_what_changed(command: str, expected: set[type]) -> None:
    assert events(look(), look(1.0, {command: 1})) == expected
    assert events(look(), look(1.0, {command: 1}), "target") == set()


@given(
    before=st.dictionaries(st.sampled_from([*CALLS, "flushdb"]), st.integers(1, 5)),
    since=st.dictionaries(st.sampled_from([*CALLS, "flushdb"]), st.integers(1, 5)),
)
def test_counters_that_were_reset_hide_nothing_that_was_called_since(
    before: dict[str, int], since: dict[str, int]
) -> None:
    """Also where the new count is that of before."""
    then = Look(0.0, INFO, before | {"info": 20})
    now = Look(1.0, INFO, since | {"info": 5, "config|resetstat": 1})
    found = events(then, now)
    assert {GroupsChanged, FunctionsChanged} <= found
    assert (Swapped in found) == ("swapdb" in before or "swapdb" in since)
    assert (Emptied in found) == ("flushdb" in before or "flushdb" in since)


def test_nothing_has_happened_between_two_equal_looks() -> None:
    assert judged("source", look(), look(1.0)) == [Keyspace(frozenset({0})), Wrote(0, 0.0)]
    assert judged("target", look(), look(1.0)) == []


def test_the_first_look_tells_what_holds() -> None:
    now = look(keys={0: 1, 3: 2, 5: 0})
    assert judged("source", None, now) == [Keyspace(frozenset({0, 3}))]
    assert judged("target", None, now) == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_another_process_is_told_and_its_counters_are_not_compared(side: Side) -> None:
    found = judged(side, look(), look(1.0, {"swapdb": 5}, run_id="two"))
    others = [seen for seen in found if not isinstance(seen, Keyspace)]
    assert others == [
        OtherServer(side, f"another process answers for the {side}", "two", other=True)
    ]


@pytest.mark.parametrize(
    ("role", "why"),
    [("slave", "the source has become a replica"), ("master", "the source has become a primary")],
)
def test_another_role_is_told(role: str, why: str) -> None:
    before = look(role="master" if role == "slave" else "slave")
    found = judged("source", before, look(1.0, role=role))
    assert OtherServer("source", why, "one", other=False) in found


def test_a_server_that_does_not_tell_its_counters_is_judged_by_the_rest() -> None:
    blind = Look(1.0, INFO, None)
    assert judged("source", look(), blind) == [Keyspace(frozenset({0}))]
    assert judged("source", blind, look(2.0)) == [Keyspace(frozenset({0}))]


def test_only_calls_that_succeed_count_as_writes() -> None:
    before = Look(0.0, INFO, {"incr": 1, "set": 1})
    now = Look(1.0, INFO, {"incr": 6, "set": 100}, {"incr": 2})
    assert judged("source", before, now)[-1] == Wrote(3, 0.0)
    assert judged("source", now, before)[-1] == Wrote(0, 1.0)


def test_notifications_that_were_switched_off_are_told() -> None:
    assert Mute() in judged("source", None, Look(0.0, INFO, {}, notifies=False))
    assert Mute() not in judged("source", None, Look(0.0, INFO, {}, notifies=None))


# --- the streams whose groups may have changed ----------------------------------------------


@pytest.fixture
def dirty() -> DirtyKeys:
    return DirtyKeys(1_000_000)


def settle(dirty: DirtyKeys, now: float) -> set[bytes]:
    """Settle all that may be taken now; returns it."""
    taken = dirty.take(1_000_000, now)
    dirty.settled(taken, now)
    return set(taken)


def test_all_known_streams_are_marked_after_a_change_of_groups(dirty: DirtyKeys) -> None:
    streams = StreamNames()
    streams.add([b"a", b"b"])
    streams.tick(dirty, 1.0)
    assert settle(dirty, 1.0) == set(), "nothing has changed"
    streams.changed()
    streams.tick(dirty, 2.0)
    assert settle(dirty, 2.0) == {b"a", b"b"}
    streams.tick(dirty, 100.0)
    assert settle(dirty, 100.0) == set()


@pytest.mark.parametrize(("took", "pause"), [(0.0, 5.0), (0.1, 5.0), (1.0, 20.0), (10.0, 200.0)])
def test_they_are_not_marked_all_the_time(dirty: DirtyKeys, took: float, pause: float) -> None:
    """At most every five seconds, and for a twentieth of the time."""
    streams = StreamNames()
    streams.add([b"a"])
    streams.changed()
    streams.tick(dirty, 10.0)
    streams.changed()
    streams.tick(dirty, 10.0 + took)
    assert settle(dirty, 10.0 + took) == {b"a"}, "as the first round is not over"
    streams.tick(dirty, 10.0 + took)
    streams.tick(dirty, 10.0 + took + 0.99 * pause)
    assert settle(dirty, 10.0 + took + 0.99 * pause) == set()
    streams.tick(dirty, 10.0 + took + pause)
    assert settle(dirty, 10.0 + took + pause) == {b"a"}, "the change is not forgotten"


def test_a_stream_that_becomes_known_after_a_change_is_marked_too(dirty: DirtyKeys) -> None:
    """It may have been read before the change, and its ack come after it."""
    streams = StreamNames()
    streams.changed()
    streams.tick(dirty, 1.0)
    streams.tick(dirty, 1.0)
    streams.add([b"a"])
    streams.tick(dirty, 10.0)
    assert settle(dirty, 10.0) == {b"a"}
    streams.tick(dirty, 10.0)
    streams.add([b"a"])
    streams.tick(dirty, 100.0)
    assert settle(dirty, 100.0) == set(), "it is known already"


def test_too_many_streams_are_so_until_a_pass_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that live shortly must not add up."""
    monkeypatch.setattr("rumpx.follower.streams._MOST", 2)
    streams = StreamNames()
    streams.add([b"a", b"b"])
    assert not streams.too_many
    streams.add([b"c"])
    assert streams.too_many
    streams.clear()
    assert not streams.too_many and streams.names == []


# --- the fuse -------------------------------------------------------------------------------


@given(extras=st.integers(0, 10**9), keys=st.integers(0, 10**9), more=st.integers(0, 10**9))
def test_more_extra_keys_are_never_deleted_more_readily(extras: int, keys: int, more: int) -> None:
    for most in (None, 0, 500):
        assert holds(extras, keys, most) <= holds(extras + more, keys, most)


@pytest.mark.parametrize(
    ("extras", "keys", "most", "expected"),
    [
        (1_000, 1_000, None, False),
        (1_001, 1_001, None, True),
        (1_001, 10_010, None, False),  # a tenth
        (1_002, 10_010, None, True),
        (5, 5, 5, False),
        (6, 10**9, 5, True),
        (10**9, 10**9, 10**9, False),
        (1, 5, 0, True),
        (1, 10**9, 0, True),
        (0, 0, 0, False),
    ],
)
def test_the_fuse_holds_beyond_a_thousand_and_a_tenth_or_the_limit(
    extras: int, keys: int, most: int | None, expected: bool
) -> None:
    assert holds(extras, keys, most) is expected
