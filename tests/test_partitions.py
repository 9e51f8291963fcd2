"""Partitions: cut as the servers' tables are, and nothing missed while those are resized."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from support.copying import Copying, copy
from support.data import compare, fill_mixed
from support.servers import ALL, Cluster, Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]

STABLE = 6_000
CHURN = 25_000


class Churn:
    """Writes and deletes other keys, again and again, so that the table grows and shrinks."""

    def __init__(self, source: Server) -> None:
        self.source = source
        self.cycles = 0
        self.ending = threading.Event()
        self.trouble: BaseException | None = None
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        try:
            with self.source.raw() as raw:
                while not self.ending.is_set():
                    for command in ("SET", "DEL"):
                        value = ("x",) if command == "SET" else ()
                        for start in range(0, CHURN, 500):
                            raw.many(
                                (command, f"churn:{i}", *value) for i in range(start, start + 500)
                            )
                    self.cycles += 1
        except BaseException as exc:
            self.trouble = exc

    def wait_cycle(self) -> None:
        """Until the table has grown and shrunk once more."""
        before = self.cycles
        wait_until(lambda: self.cycles > before + 1 or self.trouble, 60, "a cycle of churn")

    def end(self) -> None:
        self.ending.set()
        self.thread.join()
        assert self.trouble is None


@contextmanager
def churning(source: Server) -> Iterator[Churn]:
    churn = Churn(source)
    try:
        yield churn
    finally:
        churn.end()


@pytest.mark.parametrize("flags", [("--partitions", "16"), ()], ids=["sixteen", "default"])
@pytest.mark.parametrize("version", ALL)
def test_no_stable_key_is_missed_while_the_table_is_resized(
    server: StartServer, version: str, flags: tuple[str, ...]
) -> None:
    source, target = server(version), server(version)
    fill_mixed(source, STABLE, prefix=b"stable")
    with (
        Copying(source, target, "--batch-keys", "50", *flags) as copying,
        churning(source) as churn,
    ):
        for keys in (500, 2500):
            with copying.held_at(target, keys, prefix=b"stable"):
                churn.wait_cycle()
        done = copying.finish()
    stable = [b"stable:%d" % i for i in range(STABLE)]
    assert compare(source, target, keys=stable, ttl_tolerance_ms=2) == []
    if flags:
        first = [bounds for bounds in done.bounds if "again" not in bounds]
        assert len(first) == 16
        assert all("of the table" in bounds for bounds in first)
    assert done.counts["failed"] == 0


@pytest.mark.parametrize("version", ALL)
def test_a_large_table_is_cut_by_itself_and_a_small_one_on_request(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version)
    fill_mixed(source, 25_000)
    fill_mixed(source, 40, seed=2, db=5)
    done = copy(source, target)
    assert compare(source, target, ttl_tolerance_ms=2) == []
    edges = ["0", "0.25", "0.5", "0.75", "1"]
    cut = [f"part {low} to {high} of the table" for low, high in pairwise(edges)]
    assert done.bounds == [*cut, "all keys"]
    copied = [part["counts"]["copied"] for part in done.summary["partitions"]]
    assert min(copied[:4]) > 5500
    assert all(part["complete"] for part in done.summary["partitions"])
    done = copy(source, target, "--db", "5", "--partitions", "8", "--on-conflict", "replace")
    assert len(done.bounds) == 8
    assert compare(source, target, ttl_tolerance_ms=2) == []


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("6.2", "of the table"),
        ("7.0", "of the table"),
        ("8.1", "slots"),
        ("8.2", "slots"),
        ("9.1", "slots"),
    ],
)
def test_a_cluster_is_cut_as_its_version_keeps_keys(
    cluster: StartCluster, server: StartServer, version: str, kind: str
) -> None:
    source, target = cluster(version), server(version)
    fill_mixed(source, 6000)
    done = copy(source, target, "--partitions", "4")
    assert compare(source, target, ttl_tolerance_ms=2) == []
    assert len(done.bounds) == 12
    assert all(kind in bounds for bounds in done.bounds)
    assert all(part["counts"]["copied"] > 300 for part in done.summary["partitions"])
    assert done.summary["missing"] == 0


@pytest.mark.parametrize("version", ["7.0", "9.1"])
def test_a_cluster_misses_no_stable_key_while_its_tables_are_resized(
    cluster: StartCluster, server: StartServer, version: str
) -> None:
    source, target = cluster(version, primaries=2), server(version)
    fill_mixed(source, STABLE, prefix=b"stable")
    with Copying(source, target, "--partitions", "8", "--batch-keys", "50") as copying:
        for seed, keys in enumerate((500, 2500)):
            with copying.held_at(target, keys, prefix=b"stable"):
                fill_mixed(source, 15_000, seed=seed)
        copying.finish()
    stable = [b"stable:%d" % i for i in range(STABLE)]
    assert compare(source, target, keys=stable, ttl_tolerance_ms=2) == []


def test_after_mass_deletes_a_huge_table_is_still_walked_whole(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 100_000, seed=9)
    with source.raw() as raw:
        raw.do("CONFIG", "SET", "activerehashing", "no")  # it will not shrink while we look on
        raw.many(("DEL", f"k9:{i}") for i in range(99_000))
    done = copy(source, target)
    assert compare(source, target) == []
    assert done.counts["copied"] == 1000


def test_the_size_of_a_large_table_is_asked_once_a_walk_not_once_a_scan(
    server: StartServer,
) -> None:
    """Its cursors are too high for a small table, which only its number of keys explains."""
    source, target = server("7.0"), server("7.0")
    with source.raw() as raw:
        raw.many(("SET", f"key:{n}", "x") for n in range(70_000))
    before = _calls(source, "dbsize")

    done = copy(source, target)

    assert done.code == 0 and target.do("DBSIZE") == 70_000
    assert _calls(source, "scan") > 70
    assert _calls(source, "dbsize") - before < len(done.bounds) + 10


def _calls(server: Server, command: str) -> int:
    told = server.info("commandstats").get(f"cmdstat_{command}", "calls=0,")
    return int(told.removeprefix("calls=").partition(",")[0])
