"""Follows whose servers restart, fail over, lose their keys or refuse; that are killed, stopped,
paused and cut off: what is called in step is in step, and a source that has lost its keys never
takes those of the target along."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import psutil
import pytest

from rumpx.ctl.server import AcceptDeletes, AcceptFailures, Pause, Resume, Set
from support.copying import Side, uri_of
from support.data import compare, fill_mixed, fingerprint, keys_of
from support.faults import full, seeded
from support.following import LONG, Following, Standing, kill_feed, writing
from support.proxy import Proxy
from support.raw import Raw
from support.run import Running
from support.servers import Sentinel, Server
from support.storm import Storm
from support.waiting import wait_until, zone_where_it_is

StartServer = Callable[..., Server]
Pair = tuple[Server, Server]

KEYS = 4_000
FEW = 300
"""So few keys that a source which is trusted may delete them all."""
TIME_OVER, TERMINATED = 10, 143
VERSIONS = ["8.2", full("6.2"), full("7.0"), full("8.1"), full("9.1")]


@pytest.fixture
def pair(server: StartServer) -> Pair:
    """A filled server and an empty one."""
    source, target = server("8.2"), server("8.2")
    fill_mixed(source, KEYS)
    return source, target


def guarded_uri(guarded: Sentinel) -> str:
    """The URI by which sentinels name the primary."""
    return f"redis+sentinel://{','.join(guarded.addresses)}/{guarded.service}"


def change(source: Server, numbers: Sequence[int], word: str, db: int = 0) -> None:
    """Give each of these keys another value, as one pipeline."""
    with source.raw(db) as raw:
        raw.many([("SET", f"changed:{number}", word) for number in numbers])


def with_passes(follow: Following, number: int = 1) -> Standing:
    """Until so many passes have ended."""
    return follow.wait(lambda standing: standing["passes"] >= number, "passes end")


def held(follow: Following, number: int) -> Standing:
    """Until so many deletes wait for consent."""
    return follow.wait(
        lambda standing: standing["held_deletes"] == number, f"{number} deletes are held"
    )


# --- all at once ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "seconds", "cuts", "rate"),
    [
        ("8.2", 20, 3, 3_000),
        pytest.param(
            *("8.2", 600, 10, 10_000), marks=[pytest.mark.faults, pytest.mark.timeout(1500)]
        ),
        *(full(version, 60, 6, 5_000) for version in ("6.2", "7.0", "8.1", "9.1")),
    ],
)
def test_a_storm(
    server: StartServer, version: str, seconds: float, cuts: int, rate: float
) -> None:
    """Mixed writes of several processes, random cuts and kills: both sides are the same at the end.
    (`python -m support.storm` does the same.)"""
    with Storm(server(version), server(version), seeded()) as storm:
        storm.run(seconds, cuts, rate)


# --- a gap is told --------------------------------------------------------------------------


def test_a_gap_is_told_once_with_the_time_of_the_oldest_change_that_may_be_missing(
    server: StartServer,
) -> None:
    source, target = server("8.2"), server("8.2")
    with Following(source, target) as follow:
        follow.in_step()
        follow.settled(source, target)
        follow.ask(Pause())
        written = time.time()
        source.do("SET", "k", "v")
        follow.wait(lambda standing: (standing["lag"] or 0) > 5, "a change waits")
        assert "may be missing" not in follow.messages
        kill_feed(source)
        follow.ask(Resume())
        follow.after_gap()
        told = re.findall(
            r"^The feed was lost: .*\. Changes since (\d\d):(\d\d):(\d\d) may be missing on the "
            r"target: a pass compares all keys\.$",
            follow.messages,
            re.MULTILINE,
        )
        assert len(told) == follow.messages.count("may be missing") == 1, follow.messages
        clock = time.localtime(written + 1)  # its name came in a moment
        hours, minutes, seconds = map(int, told[0])
        before = (clock.tm_hour - hours, clock.tm_min - minutes, clock.tm_sec - seconds)
        assert (3600 * before[0] + 60 * before[1] + before[2]) % 86_400 < LONG


# --- a side that does not answer ------------------------------------------------------------


def refuse_all(way: Proxy) -> None:
    way.refuse = True
    way.cut()


def accept_all(way: Proxy) -> None:
    way.refuse = False


@pytest.mark.parametrize(
    ("loses", "mends"),
    [(Proxy.stall, Proxy.go), (refuse_all, accept_all)],
    ids=["stalled", "refused"],
)
def test_an_idle_target_that_does_not_answer_is_not_called_in_step(
    server: StartServer,
    proxy: Callable[..., Proxy],
    loses: Callable[[Proxy], None],
    mends: Callable[[Proxy], None],
) -> None:
    """No change tells of it, since there is none. Nothing was missed when it answers again."""
    source, target = server("8.2"), server("8.2")
    way = proxy(target)
    source.do("SET", "k", "v")
    with Following(source, way, "--timeout", "2s") as follow:
        passes = follow.in_step()["passes"]
        loses(way)
        standing = follow.wait(lambda standing: standing.phase != "in step", "it is noticed")
        assert standing["waits_for"] == "the target does not answer"
        mends(way)
        standing = follow.in_step()
        assert standing["gaps"] == 0 and standing["passes"] == passes
        follow.settled(source, target)
        assert compare(source, target) == []


def test_a_watch_whose_connection_swallows_all_gets_another(
    server: StartServer, proxy: Callable[..., Proxy]
) -> None:
    """The feed goes on, and does not tell that databases were swapped."""
    source, target = server("8.2"), server("8.2")
    way = proxy(source)
    source.do("SET", "k", "zero")
    source.do("SET", "k", "five", db=5)
    with Following(way, target, "--timeout", "2s") as follow:
        follow.in_step()
        way.hold(b"commandstats")
        wait_until(lambda: way.holding, LONG, "the watch asks in vain")
        source.do("SWAPDB", 0, 5)
        assert follow.after_gap().gaps == ["databases of the source were swapped"]
        follow.settled(source, target)
        assert compare(source, target) == []


# --- a source that has lost its keys --------------------------------------------------------


def is_noticed(follow: Following, feed: str) -> Standing:
    """Until the follow is at work, with its first pass done."""
    return follow.in_step() if feed != "passes" else with_passes(follow)


@pytest.mark.parametrize("keys", [KEYS, FEW], ids=["many keys", "few keys"])
@pytest.mark.parametrize("feed", ["tracking", "notifications", "passes"])
def test_a_source_that_restarts_empty(server: StartServer, feed: str, keys: int) -> None:
    """Thousands of its keys were changed and not settled yet; some are being settled."""
    source = server("8.2", notify_keyspace_events="KA")
    target = server("8.2")
    change(source, range(keys), "first")
    with Following(source, target, "--feed", feed) as follow:
        is_noticed(follow, feed)
        follow.ask(Pause())
        change(source, range(keys), "second")
        if feed != "passes":
            follow.wait(lambda standing: standing["dirty"] == keys, "all names are known")
        before = fingerprint(target)
        source.restart()
        follow.ask(Resume())
        held(follow, keys)

        assert fingerprint(target) == before
        assert follow.ask()["deleted"] == 0
        assert "did it restart empty?" in follow.messages
        change(source, range(keys, keys + 10), "of the new process")
        wait_until(lambda: target.do("DBSIZE") == keys + 10, 30, "it is followed meanwhile")
        follow.ask(AcceptDeletes())
        wait_until(lambda: target.do("DBSIZE") == 10, 30, "the others are deleted")
        if feed != "passes":
            follow.in_step()
        assert compare(source, target) == []
        follow.stop()


@pytest.mark.parametrize("feed", ["tracking", "passes"])
@pytest.mark.parametrize("times", [2, full(20)])
def test_it_restarts_empty_while_its_keys_are_settled(
    server: StartServer, feed: str, times: int
) -> None:
    """At a random moment: batches are on their way, and more names are ready."""
    source, target = server("8.2"), server("8.2")
    rng = seeded()
    for _ in range(times):
        target.do("FLUSHALL")
        change(source, range(KEYS), "first")
        rate = ("--max-keys-per-sec", str(rng.choice([1000, 4000])), "--batch-keys", "20")
        with Following(source, target, "--feed", feed, job="move") as follow:
            is_noticed(follow, feed)
            follow.ask(Set({"max-keys-per-sec": rate[1]}))
            settled = int(follow.ask()["settled"])
            change(source, range(KEYS), "second")
            some = rng.randrange(1, KEYS // 2)
            follow.wait(lambda s, n=settled + some: s["settled"] >= n, "some are settled")  # type: ignore[misc]
            source.restart()
            follow.ask(Set({"max-keys-per-sec": "off"}))
            held(follow, KEYS)

            assert target.do("DBSIZE") == KEYS
        forget(follow)


def forget(follow: Following) -> None:
    """Remove what is left of a job that was killed."""
    follow.run.stop()
    for file in ledgers():
        file.unlink()


def ledgers() -> list[Any]:
    from rumpx.ledger.catalog import state_folder

    return sorted(state_folder(None).glob("move.*"))


def test_the_keys_that_the_target_held_are_kept_too(server: StartServer) -> None:
    """Its user has allowed to delete what the source lacks, as it was then."""
    source, target = server("8.2"), server("8.2")
    change(source, range(KEYS), "first")
    change(target, range(KEYS), "older")
    flags = ("--delete-extra", "--yes", "--batch-keys", "20", "--max-keys-per-sec", "2000")
    with Following(source, target, *flags) as follow:
        follow.wait(lambda standing: standing.phase == "proving", "the first pass")
        source.restart()
        follow.ask(Set({"max-keys-per-sec": "off"}))
        held(follow, KEYS)

        assert target.do("DBSIZE") == KEYS


@pytest.mark.parametrize("keys", [KEYS, FEW], ids=["many keys", "few keys"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_restarts_empty_between_two_runs(pair: Pair, number: int, keys: int) -> None:
    source, target = pair
    source.do("FLUSHALL")
    change(source, range(keys), "first")
    with Following(source, target) as follow:
        follow.in_step()
        change(source, range(keys), "second")
        follow.stop(number, 130 if number == signal.SIGINT else -number)
    source.restart()

    with Following.again() as follow:
        held(follow, keys)
        assert target.do("DBSIZE") == keys
        follow.ask(AcceptDeletes())
        follow.in_step()
        assert target.do("DBSIZE") == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_replica_as_the_source_is_emptied_by_its_primary(
    server: StartServer, version: str
) -> None:
    """Its process stays the same, and so does the feed."""
    primary, source, target = (server(version) for _ in range(3))
    change(primary, range(KEYS), "first")
    source.replicate(primary)
    with Following(source, target) as follow:
        standing = follow.in_step()
        assert standing["gaps"] == 0, standing.gaps
        follow.ask(Pause())
        change(primary, range(KEYS), "second")
        follow.wait(lambda standing: standing["dirty"] == KEYS, "all names are known")
        primary.restart()
        wait_until(lambda: source.do("DBSIZE") == 0, 30, "the replica is loaded anew")
        follow.ask(Resume())
        held(follow, KEYS)

        assert target.do("DBSIZE") == KEYS


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
def test_a_source_is_emptied_while_its_keys_are_dirty(server: StartServer, command: str) -> None:
    """By a user: also this waits for consent, if it is many keys."""
    source, target = server("8.2"), server("8.2")
    change(source, range(KEYS), "first")
    with Following(source, target) as follow:
        follow.in_step()
        follow.ask(Pause())
        change(source, range(KEYS), "second")
        follow.wait(lambda standing: standing["dirty"] == KEYS, "all names are known")
        source.do(command)
        follow.wait(lambda standing: standing["gaps"] == 1, "it is noticed")
        follow.ask(Resume())
        held(follow, KEYS)

        assert target.do("DBSIZE") == KEYS


def test_a_consent_ends_with_a_gap(pair: Pair) -> None:
    """It is given just when the source restarts once more, and lacks other keys as well."""
    source, target = pair
    source.do("FLUSHALL")
    change(source, range(FEW), "first")
    with Following(source, target) as follow:
        follow.in_step()
        source.restart()
        held(follow, FEW)
        change(source, range(FEW, 4 * FEW), "of the new process")
        wait_until(lambda: target.do("DBSIZE") == 4 * FEW, 30, "they are followed meanwhile")
        follow.ask(Set({"max-keys-per-sec": "400"}))  # the request comes before the next pass ends
        follow.run.freeze()
        asking = threading.Thread(target=accept, args=(follow,))
        asking.start()
        source.restart()
        follow.run.thaw()
        asking.join()
        follow.wait(lambda standing: standing["held_deletes"] >= 3 * FEW, "all are held again")

        assert set(keys_of(target)) >= {b"changed:%d" % n for n in range(FEW, 4 * FEW)}


def accept(follow: Following) -> None:
    with contextlib.suppress(Exception):  # it may come too late, and is refused then
        follow.ask(AcceptDeletes())


@pytest.mark.parametrize("feed", ["tracking", "passes"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_source_that_restarts_with_its_keys(
    server: StartServer, version: str, feed: str
) -> None:
    source, target = server(version), server(version)
    fill_mixed(source, KEYS)
    with Following(source, target, "--feed", feed) as follow:
        is_noticed(follow, feed)
        change(source, range(100), "before")
        source.restart(keep_data=True)
        change(source, range(50, 150), "after")
        passes = follow.ask()["passes"]
        if feed == "passes":
            with_passes(follow, passes + 2)
        else:
            follow.after_gap()
            follow.settled(source, target)

        assert compare(source, target, ttl_tolerance_ms=2 if version == "6.2" else 0) == []
        assert follow.ask()["held_deletes"] == 0
        follow.stop()


# --- servers that load their data -----------------------------------------------------------


def loading(server: Server, delay: int = 300) -> None:
    """Let it load its data slowly from now on, and answer meanwhile."""
    server.options["key-load-delay"] = delay  # microseconds
    server.options["loading-process-events-interval-bytes"] = 1024


@pytest.mark.parametrize("feed", ["tracking", "passes"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_that_loads_older_data(server: StartServer, side: str, feed: str) -> None:
    """While it does, it tells only the databases that are there already."""
    source, target = server("8.2"), server("8.2")
    change(source, range(KEYS), "first")
    change(source, range(500), "first", db=3)
    restarts = source if side == "source" else target
    with Following(source, target, "--feed", feed) as follow:
        is_noticed(follow, feed)
        restarts.do("SAVE")
        with source.raw(3) as raw:
            raw.many([("SET", f"changed:{number}", "second") for number in range(20)])
            raw.many([("DEL", f"changed:{number}") for number in range(20, 40)])
            raw.many([("SET", f"later:{number}", "second") for number in range(20)])
        if feed == "passes":
            with_passes(follow, follow.ask()["passes"] + 2)
        else:
            follow.settled(source, target, db=3)
        assert compare(source, target) == []
        gaps, passes = follow.ask()["gaps"], follow.ask()["passes"]
        loading(restarts)
        restarts.kill()
        restarts.revive()
        if feed == "passes":
            with_passes(follow, passes + 2)
        else:
            standing = follow.after_gap(gaps + 1)
            assert standing["gaps"] <= gaps + 2, standing.gaps
            follow.settled(source, target, db=3)

        assert compare(source, target) == []
        follow.stop()


# --- feeds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_deletes_that_no_feed_reports(server: StartServer, version: str) -> None:
    """The feed is killed, and 100 keys are deleted by the next commands."""
    source, target = server(version), server(version)
    change(source, range(KEYS), "first")
    with Following(source, target) as follow:
        follow.in_step()
        with source.raw() as raw:
            listed = raw.do("CLIENT", "LIST").decode().splitlines()
            feeds = [line.split()[0][3:] for line in listed if ":feed:" in line]
            raw.many(
                [
                    *(("CLIENT", "KILL", "ID", number) for number in feeds),
                    *(("DEL", f"changed:{number}") for number in range(100)),
                ]
            )
        standing = follow.after_gap()

        assert "the feed was lost" in standing.gaps[-1]
        assert standing["last_pass_found"] >= 100 and standing["deleted"] == 100
        assert compare(source, target) == []
        follow.stop()


def test_a_feed_that_is_evicted(server: StartServer) -> None:
    """One script changes so many keys that their names exceed `maxmemory-clients`."""
    source, target = server("8.2", maxmemory_clients="4mb"), server("8.2")
    change(source, range(FEW), "first")
    with Following(source, target) as follow:
        follow.in_step()
        name = "a-name-of-some-length-that-fills-the-buffers"
        script = f"for i = 1, 120000 do redis.call('SET', '{name}:' .. i, i) end"
        source.do("EVAL", script, 0)
        follow.after_gap(timeout=90)
        follow.settled(source, target)

        assert int(source.info("stats")["evicted_clients"]) > 0
        assert compare(source, target) == []
        follow.stop()


@pytest.mark.parametrize("version", ["8.2", full("6.2"), full("9.1")])
def test_a_busy_source_is_no_gap(server: StartServer, version: str) -> None:
    """While a script runs for too long, PING is answered by an error."""
    limit = "lua_time_limit" if version == "6.2" else "busy_reply_threshold"
    source, target = server(version, **{limit: 50}), server(version)
    change(source, range(FEW), "first")
    with Following(source, target) as follow:
        follow.in_step()
        running = threading.Thread(target=spin, args=(source,))
        running.start()
        wait_until(lambda: is_busy(source), 30, "the script runs for too long")
        asked = follow.ask().asked
        follow.wait(lambda standing: standing.asked > asked + 4, "PINGs were refused")
        source.do("SCRIPT", "KILL")
        running.join()
        source.do("SET", "later", "value")
        standing = follow.settled(source, target)

        assert standing["gaps"] == 0, standing.gaps
        assert compare(source, target) == []
        follow.stop()


def spin(source: Server) -> None:
    with contextlib.suppress(Exception):  # it is killed
        source.do("EVAL", "while true do end", 0)


def is_busy(source: Server) -> bool:
    try:
        source.do("PING")
    except Exception as error:
        return "BUSY" in str(error)
    return False


def test_a_source_that_cannot_save_is_no_gap(server: StartServer) -> None:
    """Its PING is answered by an error, too, and so is every write; keys expire all the same."""
    source, target = server("8.2", save="3600 100000"), server("8.2")
    change(source, range(FEW), "first")
    with Following(source, target) as follow:
        follow.in_step()
        with source.raw() as raw:
            raw.do("PEXPIRE", "changed:1", 8000)
            (source.folder / "dump.rdb").mkdir()  # it cannot be replaced by a file
            raw.do("BGSAVE")
        wait_until(lambda: refuses_ping(source), 30, "PING is refused")
        wait_until(lambda: source.do("EXISTS", "changed:1") == 0, 30, "a key expires")
        wait_until(lambda: target.do("EXISTS", "changed:1") == 0, 30, "there, too")
        asked = follow.ask().asked
        standing = follow.wait(lambda standing: standing.asked > asked + 3, "PINGs were refused")

        assert standing["gaps"] == 0 and standing.phase == "in step", standing.gaps
        assert standing["lag"] < 2
        kill_feed(source)
        follow.after_gap()
        follow.stop()


def refuses_ping(source: Server) -> bool:
    try:
        source.do("PING")
    except Exception as error:
        return "MISCONF" in str(error)
    return False


@pytest.mark.parametrize("seconds", [12, full(90)])
def test_gaps_all_the_time(server: StartServer, seconds: int) -> None:
    """A pass takes longer than the feed lasts: never in step, and nothing grows."""
    source, target = server("8.2"), server("8.2")
    change(source, range(KEYS), "first")
    with Following(source, target, "--batch-keys", "50") as follow:
        follow.in_step()
        follow.ask(Set({"max-keys-per-sec": "1000"}))  # a pass takes eight seconds
        kill_feed(source)
        began = follow.wait(lambda standing: standing["gaps"] == 1, "a gap")
        memory, rows = [], []
        while (now := follow.ask()).asked < began.asked + seconds:
            gaps = now["gaps"]
            kill_feed(source)
            change(source, range(20), f"after {gaps}")
            follow.wait(lambda standing, n=gaps: standing["gaps"] > n, "another gap")  # type: ignore[misc]
            standing = follow.wait(lambda s, t=now.asked: s.asked > t + 2, "two seconds")  # type: ignore[misc]
            assert standing["in_step_since"] is None and standing["passes"] == now["passes"]
            memory.append(psutil.Process(follow.run.pid).memory_info().rss)
            rows.append(rows_of_ledger())
        follow.ask(Set({"max-keys-per-sec": "off"}))
        follow.in_step()
        follow.settled(source, target)

        assert len(memory) >= 4
        assert max(memory) < memory[1] + 2**23, memory
        assert max(rows) == min(rows[1:]), rows
        assert compare(source, target) == []
        follow.stop()


def rows_of_ledger() -> int:
    """The rows of the ledger, without those of the series, which has one each second."""
    import sqlite3

    (path,) = [file for file in ledgers() if file.suffix == ".ledger"]
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master")]
        counted = (
            ledger.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in tables
            if name != "series" and not name.startswith("sqlite_")
        )
        return sum(counted)


# --- killed and stopped ---------------------------------------------------------------------


Kill = Callable[[Following, random.Random], int]
"""Ends a run, and returns its exit code; 0 if it goes on."""


def coordinator(follow: Following, rng: random.Random) -> int:
    follow.run.send_signal(signal.SIGKILL)
    return -signal.SIGKILL


def everyone(follow: Following, rng: random.Random) -> int:
    follow.run.send_signal(signal.SIGKILL, group=True)
    return -signal.SIGKILL


def interrupt(follow: Following, rng: random.Random) -> int:
    follow.run.send_signal(signal.SIGINT)
    return 130


def terminate(follow: Following, rng: random.Random) -> int:
    follow.run.send_signal(signal.SIGTERM)
    return TERMINATED


def a_worker(follow: Following, rng: random.Random) -> int:
    wait_until(lambda: follow.run.kill_random_worker(rng), 30, "a worker is killed")
    return 0


def all_workers(follow: Following, rng: random.Random) -> int:
    for worker in follow.run.workers():
        worker.kill()
    return 0


KILLS = [coordinator, everyone, interrupt, terminate, a_worker, all_workers]
PHASES = ["collecting", "proving", "in step", "reconciling"]
BRIEF = {
    ("collecting", coordinator),
    ("collecting", interrupt),
    ("proving", everyone),
    ("proving", terminate),
    ("in step", coordinator),
    ("in step", all_workers),
    ("reconciling", coordinator),
    ("reconciling", a_worker),
}
CASES = [
    pytest.param(phase, kill) if (phase, kill) in BRIEF else full(phase, kill)
    for phase in PHASES
    for kill in KILLS
]


class Traffic:
    """A writer that goes on while a run is dead: keys change, come and go, all within a range."""

    def __init__(self, source: Server, rng: random.Random) -> None:
        self._raw: Raw = source.raw()
        self._rng = rng
        self.turns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def __call__(self) -> None:
        rng, self.turns = self._rng, self.turns + 1
        turn = self.turns
        numbers = [rng.randrange(KEYS) for _ in range(20)]
        self._raw.many(
            [
                *(("SET", f"changed:{n}", turn) for n in numbers[:8]),
                *(("DEL", f"changed:{n}") for n in numbers[8:12]),
                *(("SET", f"changed:{n}", "brief", "PX", rng.randrange(1, 900))
                  for n in numbers[12:16]),
                *(("APPEND", f"text:{n % 50}", turn % 10) for n in numbers[16:18]),
                *(("RPUSH", f"list:{n}", turn) for n in numbers[18:]),
            ]
        )  # fmt: skip
        threading.Event().wait(0.01)


def reach(follow: Following, phase: str, source: Server) -> None:
    """Until the follow is in the middle of a phase."""
    if phase == "collecting":
        follow.wait(lambda s: s.phase == phase and s.status["copied"] > 100, "the copy")
        return
    if phase == "proving":
        follow.wait(lambda s: s.phase == phase and (s["pass_fraction"] or 0) > 0, "the first pass")
        return
    follow.in_step()
    if phase == "reconciling":
        follow.ask(Set({"max-keys-per-sec": "1500"}))
        kill_feed(source)
        follow.wait(lambda s: s.phase == phase and (s["pass_fraction"] or 0) > 0, "a pass")


@pytest.mark.parametrize(("phase", "kill"), CASES)
def test_killed_in_every_phase(server: StartServer, phase: str, kill: Kill) -> None:
    source, target = server("8.2"), server("8.2")
    fill_mixed(source, KEYS)
    change(source, range(KEYS), "first")
    rng = seeded()
    slow = phase in ("collecting", "proving")
    flags = ("--batch-keys", "50", "--max-keys-per-sec", "2500" if slow else "off")
    with contextlib.ExitStack() as stack:
        traffic = stack.enter_context(Traffic(source, rng))
        with writing(traffic):
            follow = stack.enter_context(Following(source, target, *flags))
            reach(follow, phase, source)
            if code := kill(follow, rng):
                follow.ended(code)
                before = traffic.turns
                wait_until(lambda: traffic.turns > before + 20, 30, "writes go on meanwhile")
                again = Following.again("--max-keys-per-sec", "off")
                follow = stack.enter_context(again)
            else:
                follow.ask(Set({"max-keys-per-sec": "off"}))
            follow.in_step()
        standing = follow.settled(source, target)

        assert compare(source, target) == []
        assert standing.phase == "in step"
        follow.stop()


@pytest.mark.parametrize("times", [2, full(10)])
def test_the_fork_server_is_killed(pair: Pair, times: int) -> None:
    """Its workers go on; those that are lost then come from another one."""
    source, target = pair
    with Following(source, target) as follow:
        follow.in_step()
        for turn in range(times):
            wait_until(lambda: len(follow.run.workers()) == 2, 30, "there are workers")
            workers = follow.run.workers()
            for parent in {worker.ppid() for worker in workers}:
                psutil.Process(parent).kill()
            change(source, range(turn, turn + 500), f"after {turn}")
            follow.settled(source, target)
            for worker in workers:
                worker.kill()
            change(source, range(turn, turn + 500), f"later than {turn}")
            follow.settled(source, target)
            assert compare(source, target) == []
        assert follow.ask()["gaps"] == 0
        follow.stop()


# --- the target restarts, or fails over -----------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("keeps", ["nothing", "older keys", "all"])
def test_the_target_restarts(server: StartServer, version: str, keeps: str) -> None:
    """It loses what it had acknowledged, of all keys or of the last second."""
    if keeps == "all" and version == "6.2":
        pytest.skip("expiries that it writes as those left differ by a millisecond")
    source, target = server(version), server(version)
    fill_mixed(source, KEYS)
    with contextlib.ExitStack() as stack:
        follow = stack.enter_context(Following(source, target))
        follow.in_step()
        traffic = stack.enter_context(Traffic(source, seeded()))
        with writing(traffic):
            if keeps == "older keys":
                target.do("SAVE")
                before = traffic.turns
                wait_until(lambda: traffic.turns > before + 50, 30, "more is written")
            if keeps == "all":
                target.do("SAVE")
            target.kill()
            target.revive()
            standing = follow.after_gap()
        follow.settled(source, target)

        assert "another process answers for the target" in standing.gaps
        assert compare(source, target, ttl_tolerance_ms=2 if version == "6.2" else 0) == []
        follow.stop()


@pytest.mark.parametrize("version", ["8.2", full("7.0"), full("9.1")])
@pytest.mark.parametrize("killed", [True, full(False)])
def test_the_target_fails_over(
    server: StartServer, sentinel: Callable[..., Sentinel], version: str, killed: bool
) -> None:
    """Its replica takes over, with or without what was acknowledged last."""
    source, guarded = server(version), sentinel(version, sentinels=3)
    change(source, range(KEYS), "first")
    uri = guarded_uri(guarded)
    with contextlib.ExitStack() as stack:
        follow = stack.enter_context(Following(source, uri))
        follow.in_step()
        traffic = stack.enter_context(Traffic(source, seeded()))
        with writing(traffic):
            target = guarded.kill_primary() if killed else guarded.failover()
            follow.after_gap()
        follow.settled(source, target)

        assert compare(source, target) == []
        follow.stop()


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "lives"])
def test_the_source_fails_over(
    server: StartServer, sentinel: Callable[..., Sentinel], killed: bool
) -> None:
    """The old primary may live, and serve the connections that it has, for a while."""
    guarded, target = sentinel("7.0", sentinels=3), server("7.0")
    source = guarded.primary
    fill_mixed(source, 300)
    with Following(guarded_uri(guarded), target) as follow:
        follow.in_step()
        follow.settled(source, target)  # by connections that are open now
        (replica,) = [node for node in guarded.nodes if node is not source]
        wait_until(lambda: compare(source, replica) == [], 30, "it is replicated")
        source = guarded.kill_primary() if killed else guarded.failover()
        source.do("SET", "marker", "after the failover")
        source.do("DEL", next(iter(keys_of(source) - {b"marker"})))
        follow.after_gap()
        follow.settled(source, target, name="later")

        assert compare(source, target) == []
        follow.stop()


# --- paused, by the user or by the timetable ------------------------------------------------


@pytest.mark.parametrize("seconds", [3, full(60)])
def test_paused(pair: Pair, seconds: float) -> None:
    """Nothing is read or written meanwhile, the lag is told, and no change is lost."""
    source, target = pair
    with contextlib.ExitStack() as stack:
        follow = stack.enter_context(Following(source, target))
        follow.in_step()
        began = follow.ask(Pause())
        settled = began["settled"]
        traffic = stack.enter_context(Traffic(source, seeded()))
        with writing(traffic):
            standing = follow.wait(
                lambda s: s.asked > began.asked + seconds and traffic.turns > 50, "time passes"
            )
        follow.wait(lambda s: s["changes"] >= traffic.turns, "the names are known")
        assert standing["lag"] > seconds - 1.5 and standing["dirty"] > 100
        assert standing["settled"] - settled <= 500, "but for what was on its way"
        follow.ask(Resume())
        standing = follow.settled(source, target)

        assert compare(source, target) == []
        assert standing["gaps"] == 0 and standing.phase == "in step", standing.gaps
        follow.stop()


def capped(source: Side, target: Side, most: int, *flags: str) -> Following:
    """A follow that remembers so many changed keys at most."""
    code = (
        f"import rumpx.follower.dirty_keys as dirty_keys; dirty_keys.MOST_DIRTY = {most}\n"
        "from rumpx.cli.main import main\nraise SystemExit(main())"
    )
    words = ["--from", uri_of(source), "--to", uri_of(target), "--follow", "--job", "move"]
    words += ["--workers", "2", "--progress", "json", *flags]
    return Following.of(Running([], command=[sys.executable, "-c", code, *words]))


def test_more_changed_keys_than_are_remembered(pair: Pair) -> None:
    """While a follow is paused: it costs one pass, once it goes on, and no memory."""
    source, target = pair
    with capped(source, target, 1000) as follow:
        follow.in_step()
        follow.ask(Pause())
        change(source, range(1000), "first")
        follow.wait(lambda standing: standing["dirty"] == 1000, "all names are known")
        with source.raw() as raw:  # of which the pass finds nothing
            raw.many([("SET", f"brief:{number}", "") for number in range(3000)])
            raw.many([("DEL", f"brief:{number}") for number in range(3000)])
        follow.wait(lambda standing: standing["gaps"] == 1, "they are too many")
        change(source, range(500), "second")
        standing = follow.wait(lambda s: s["changes"] >= 1000 + 6000 + 500, "all are told")
        assert standing["dirty"] <= 1000 and standing["in_step_since"] is None
        follow.ask(Resume())
        follow.in_step()
        standing = follow.settled(source, target)

        assert compare(source, target) == []
        assert standing["gaps"] == 1 and standing["passes"] == 2, standing.gaps
        assert "more than 1,000 keys" in standing.gaps[0]
        follow.stop()


def has_feed(source: Server) -> bool:
    """Whether a feed is attached, which is not the one that the preflight tries."""
    told: bytes = source.do("CLIENT", "LIST", "TYPE", "pubsub")
    return any(":feed:" in line and ":probe:" not in line for line in told.decode().splitlines())


def test_the_timetable_says_off(pair: Pair) -> None:
    """At first nothing is copied; later, in a run that is resumed, nothing is settled."""
    source, target = pair
    table = ("--schedule", "00:00,off 12:00,full")
    with Following(source, target, *table, env=zone_where_it_is("11:59:50")) as follow:
        wait_until(lambda: has_feed(source), 30, "a feed is attached")
        change(source, range(100), "first")
        follow.wait(lambda s: s["changes"] >= 100, "the names are known")
        copied = target.do("DBSIZE")
        if "off by the timetable" in follow.ask().status["reason"]:  # still
            assert copied == 0
        follow.in_step()
        follow.settled(source, target)
        assert compare(source, target) == []
        follow.stop()
    change(source, range(50, 150), "second")

    with Following.again(env=zone_where_it_is("11:59:50")) as follow:
        wait_until(lambda: has_feed(source), 30, "a feed is attached")
        change(source, range(100, 200), "third")
        follow.in_step()
        standing = follow.settled(source, target)
        assert compare(source, target) == []
        assert standing["gaps"] == 0, standing.gaps
        follow.stop()


def test_the_timetable_ends_it(pair: Pair) -> None:
    source, target = pair
    flags = ("--schedule", "00:00,full 12:00,off", "--exit-when-off")
    with Following(source, target, *flags, env=zone_where_it_is("11:59:50")) as follow:
        ended = follow.ended(TIME_OVER)
    assert ended.summary["state"] == "stopped" and "off by the timetable" in ended.stderr
    assert ended.resume_line == "rumpx resume move"
    change(source, range(100), "later")

    with Following.again(env=zone_where_it_is("09:00:00")) as follow:
        follow.in_step()
        assert compare(source, target) == []
        follow.stop()


def test_the_longest_time_that_it_may_take(pair: Pair) -> None:
    source, target = pair
    with Following(source, target, "--max-duration", "4s") as follow:
        ended = follow.ended(TIME_OVER)
    assert ended.summary["state"] == "stopped" and "--max-duration" in ended.stderr
    change(source, range(100), "later")

    with Following.again("--max-duration", "off") as follow:
        follow.in_step()
        assert compare(source, target) == []
        follow.stop()


# --- keys that cannot be copied -------------------------------------------------------------


def test_failed_keys_that_are_accepted(server: StartServer) -> None:
    """The target's user may not write them. In step again once its user accepts that; the list
    forgets them as soon as they are copied."""
    source, target = server("8.2"), server("8.2")
    change(source, range(FEW), "first")
    target.do("ACL", "SETUSER", "mover", "on", ">secret", "+@all", "&*", "~changed:*", "~marker")
    way = f"redis://mover@127.0.0.1:{target.port}"
    env = {"RUMPX_TO_PASSWORD": "secret"}
    with Following(source, way, env=env) as follow:
        follow.in_step()
        source.do("SET", "other:1", "value")
        source.do("SET", "other:2", "value")
        standing = follow.wait(lambda s: s["failed"] == 2, "two keys fail")
        standing = follow.wait(lambda s: s.phase != "in step", "it is not in step")
        assert "2 keys cannot be copied" in standing["waits_for"]
        assert "accept-failures" in standing["waits_for"]
        follow.ask(AcceptFailures())
        standing = follow.in_step()
        assert standing["failed"] == 2 and standing["accepted_failures"] == 2
        source.do("SET", "other:3", "value")
        follow.wait(lambda s: s["failed"] == 3 and s.phase != "in step", "another key fails")
        follow.ask(AcceptFailures())
        follow.in_step()
        follow.stop()

    with Following.again(env=env) as follow:
        standing = follow.in_step()
        assert standing["failed"] == standing["accepted_failures"] == 3
        target.do("ACL", "SETUSER", "mover", "~other:*")
        with source.raw() as raw:
            raw.many([("APPEND", f"other:{number}", "s") for number in (1, 2, 3)])
        follow.wait(lambda s: s["failed"] == 0, "they are copied")
        follow.settled(source, target)
        assert compare(source, target) == []
        follow.stop()
