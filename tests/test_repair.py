"""Mending what a comparison found: copied again, deleted where asked for, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from support.copying import Side, Verified, differences_in, uri_of, verify
from support.data import HOUR, compare, fill_mixed, fingerprint, keys_of
from support.proxy import Proxy
from support.run import Action, Terminal, rumpx_pty
from support.servers import Cluster, Server

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
Pair = tuple[Server, Server]

USAGE, SOME_FAILED, DIFFER, SOURCE = 2, 3, 4, 6
AT = 4_000_000_000_000
DELETE = ("--repair", "--delete-extra", "--yes")


def plant(source: Server | Cluster, target: Server | Cluster) -> None:
    """A difference of each kind, beside keys that are equal."""
    for end in (source, target):
        fill_mixed(end, 200, ttl_share=0)
    here, there = source.client(), target.client()
    for client, value in ((here, "mine"), (there, "theirs")):
        client.hset("value:1", value, value)
        client.set("expiry:1", "", pxat=AT if client is here else AT + HOUR)
    here.sadd("type:1", "member")
    there.rpush("type:1", "member")
    here.xadd("missing:1", {"field": "value"})
    here.set("missing:2", "", pxat=AT)
    there.set("extra:1", "")


@pytest.fixture
def pair(server: StartServer) -> Pair:
    source, target = server("7.0"), server("9.1")
    plant(source, target)
    return source, target


def repaired(done: Verified) -> set[str]:
    """Keys whose differences are mended."""
    assert sum(line["repaired"] for line in done.lines) == done.summary["repaired"]
    return {line["key"] for line in done.lines if line["repaired"]}


COPIED = {"value:1", "expiry:1", "type:1", "missing:1", "missing:2"}


def test_what_is_missing_or_different_is_copied_again(pair: Pair, tmp_path: Path) -> None:
    before = fingerprint(pair[1])

    done = verify(*pair, "--repair", "--differences", tmp_path / "list", code=DIFFER)

    assert repaired(done) == COPIED
    assert (done.counts["copied"], done.counts["deleted"]) == (5, 0)
    assert compare(*pair) == ["db0 b'extra:1': only on the target"]
    after = fingerprint(pair[1])
    assert {key for _, key in after.keys() | before.keys()} == keys_of(pair[1])
    changed = {key.decode() for db, key in after if after[db, key] != before.get((db, key))}
    assert changed == COPIED
    assert [path.name for path in tmp_path.iterdir() if "list" in path.name] == ["list"]


@pytest.mark.parametrize(("one", "other"), [(0, 0), (2, 3), (0, 2), (2, 0)])
def test_extras_are_deleted_on_request(
    server: StartServer, cluster: StartCluster, one: int, other: int
) -> None:
    source, target = (
        cluster("7.0", primaries=nodes) if nodes else server("7.0") for nodes in (one, other)
    )
    plant(source, target)

    done = verify(source, target, *DELETE)

    assert repaired(done) == COPIED | {"extra:1"}
    assert (done.counts["copied"], done.counts["deleted"]) == (5, 1)
    assert compare(source, target) == []


@pytest.mark.parametrize(
    ("flags", "gone"),
    [
        (["--match", "user:*", "--db", "3"], {(3, b"user:1")}),
        (["--exclude", "user:*", "--type", "list"], {(db, b"queue:1") for db in (0, 3, 5)}),
        (["--db", "3", "--map-db", "3:5"], {(5, b"user:1"), (5, b"queue:1"), (5, b"tag:1")}),
    ],
)
def test_only_extras_in_scope_are_deleted(
    server: StartServer, flags: list[str], gone: set[tuple[int, bytes]]
) -> None:
    source, target = server("7.0"), server("7.0")
    for db in (0, 3, 5):
        for command, key in (("SET", "user:1"), ("RPUSH", "queue:1"), ("SADD", "tag:1")):
            target.do(command, key, "x", db=db)
        source.do("SET", "other", "", db=db)
    before = set(fingerprint(target))

    done = verify(source, target, *DELETE, *flags)

    assert before - set(fingerprint(target)) == gone
    assert done.counts["deleted"] == len(gone)


def test_nothing_is_written_without_a_word(pair: Pair) -> None:
    before = fingerprint(pair[1])
    pair[1].do("CONFIG", "RESETSTAT")

    verify(*pair, code=DIFFER)

    assert fingerprint(pair[1]) == before
    done = pair[1].client().info("commandstats")
    called = {name for name, stat in done.items() if stat["calls"] > stat["failed_calls"]}
    # (RESTORE is called, with a time to live that is refused, to see which options it knows.)
    assert called.isdisjoint({"cmdstat_restore", "cmdstat_unlink", "cmdstat_del"})
    assert "cmdstat_dump" in called


def test_what_cannot_be_mended_stays_a_difference(pair: Pair) -> None:
    source, target = pair
    target.do("ACL", "SETUSER", "limited", "on", ">pw", "+@all", "%R~*", "~missing:*")
    uri = f"redis://limited:pw@127.0.0.1:{target.port}"

    done = verify(source, uri, *DELETE, code=DIFFER)

    assert repaired(done) == {"missing:1", "missing:2"}
    assert len(done.lines) == 6
    assert {failure["key"] for failure in done.summary["failures"]} == {
        "value:1", "expiry:1", "type:1", "extra:1",
    }  # fmt: skip
    assert done.counts["failed"] == 4
    assert target.do("EXISTS", "extra:1") == 1


def test_what_cannot_be_looked_for_is_not_deleted(pair: Pair) -> None:
    source, target = pair
    source.do("ACL", "SETUSER", "limited", "on", ">pw", "+@all", "resetkeys", "~k1:*")
    target.do("DEL", *keys_of(target) - {b"extra:1"})
    uri = f"redis://limited:pw@127.0.0.1:{source.port}"

    done = verify(uri, target, *DELETE, "--match", "extra:*", code=SOME_FAILED)

    assert (done.counts["failed"], done.counts["deleted"], done.lines) == (1, 0, [])
    assert target.do("EXISTS", "extra:1") == 1


def test_a_replica_does_not_prove_that_a_key_is_extra(server: StartServer, pair: Pair) -> None:
    replica = server("7.0")
    replica.replicate(pair[0])

    done = verify(replica, pair[1], *DELETE, code=SOURCE)

    assert "needs its primary as --from" in done.stderr
    assert pair[1].do("EXISTS", "extra:1") == 1


# Asking


def test_without_a_terminal_it_does_not_ask_and_does_nothing(
    pair: Pair, proxy: Callable[..., Proxy]
) -> None:
    ways = proxy(pair[0]), proxy(pair[1])

    done = verify(*ways, "--repair", "--delete-extra", code=USAGE)

    assert "give --yes" in done.stderr
    assert [way.connections for way in ways] == [0, 0]


def answer(
    pair: tuple[Side, Side], listed: Path, *actions: Action, progress: str = "bar"
) -> Terminal:
    """Type something once it asks."""
    words = ["verify", "--from", uri_of(pair[0]), "--to", uri_of(pair[1]), "--workers", "1"]
    words += ["--repair", "--delete-extra", "--differences", str(listed), "--progress", progress]
    keys = [("[y/N]", action) for action in actions]
    shown = rumpx_pty(*words, keys=keys, cols=100, rows=40, timeout=60)
    assert shown.sent == list(actions), shown.text
    assert shown.modes_restored and not shown.cursor_hidden
    return shown


@pytest.mark.parametrize("progress", ["bar", "line"])
def test_on_a_terminal_it_asks_and_deletes(pair: Pair, tmp_path: Path, progress: str) -> None:
    shown = answer(pair, tmp_path / "list", b"y\n", progress=progress)

    assert shown.returncode == 0, shown.text
    assert "Delete 1 key of the target that are not on the source?" in shown.text
    assert compare(*pair) == []


@pytest.mark.parametrize("key", [b"n\n", b"\n"])
def test_on_a_terminal_any_other_answer_keeps_extras(
    pair: Pair, tmp_path: Path, key: bytes
) -> None:
    shown = answer(pair, tmp_path / "list", key)

    assert shown.returncode == DIFFER, shown.text
    assert compare(*pair) == ["db0 b'extra:1': only on the target"]


def test_the_question_can_be_left_by_ctrl_c(pair: Pair, tmp_path: Path) -> None:
    before = fingerprint(pair[1])

    shown = answer(pair, tmp_path / "list", b"\x03")

    assert shown.returncode == 130, shown.text
    assert "Traceback" not in shown.text
    assert fingerprint(pair[1]) == before


def test_a_key_that_the_source_has_by_then_is_not_deleted(pair: Pair, tmp_path: Path) -> None:
    source, target = pair
    target.do("SET", "extra:2", "")

    shown = answer(pair, tmp_path / "list", lambda: source.do("SET", "extra:1", "new"), b"y\n")

    assert target.do("MGET", "extra:1", "extra:2") == [b"", None]
    assert shown.returncode == DIFFER, shown.text
    flags = {line["key"]: line["repaired"] for line in differences_in(tmp_path / "list")}
    assert flags == {**dict.fromkeys(COPIED, True), "extra:1": False, "extra:2": True}


def test_what_cannot_be_checked_is_not_called_repaired(pair: Pair, tmp_path: Path) -> None:
    """As if permissions were taken away, while it asks."""
    source, target = pair
    target.do("ACL", "SETUSER", "limited", "on", ">pw", "+@all", "~*")
    uri = f"redis://limited:pw@127.0.0.1:{target.port}"
    blind = partial(target.do, "ACL", "SETUSER", "limited", "resetkeys", "%W~value:*", "~[^v]*")

    shown = answer((source, uri), tmp_path / "list", blind, b"y\n")

    assert shown.returncode == DIFFER, shown.text
    assert compare(source, target) == []
    lines = differences_in(tmp_path / "list")
    assert {line["key"] for line in lines if not line["repaired"]} == {"value:1"}


def test_a_repair_that_is_stopped_leaves_the_list_as_it_was(
    pair: Pair, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    way, listed = proxy(pair[1]), tmp_path / "list"
    words = ["verify", "--from", pair[0].uri, "--to", way.uri, "--differences", str(listed)]
    actions: list[tuple[str, Action]] = [
        ("[y/N]", way.stall),
        ("[y/N]", b"y\n"),
        ("copying missing", b"\x03"),
        ("stopping: waiting", b"\x03"),
    ]

    shown = rumpx_pty(*words, "--repair", "--delete-extra", keys=actions, cols=100, timeout=60)

    assert len(shown.sent) == len(actions), shown.text
    assert shown.returncode == 130
    assert pair[1].do("EXISTS", "extra:1") == 1
    assert [line["repaired"] for line in differences_in(listed)] == [False] * 6
    assert [path.name for path in tmp_path.iterdir() if "list" in path.name] == ["list"]
