"""The cutover of a follow: what it waits for, whom it names, what it compares, how it ends."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from rumpx.ctl import cutover as client
from rumpx.ctl.client import running_job
from rumpx.ctl.server import Cutover, Pause, Resume, Set
from rumpx.ledger.catalog import Place
from rumpx.model.follow import CutoverStep
from support.data import compare, every_type
from support.faults import full, seeded
from support.following import LONG, CutOver, Following, cut_over, writing
from support.proxy import Proxy
from support.raw import Raw
from support.run import rumpx, start_rumpx
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]

OK, USAGE, NOT_CARRIED, DIFFERENCES, TEMPORARY = 0, 2, 3, 4, 5
CLOCK = r"\d\d:\d\d:\d\d\.\d{3}"
CHANGED = r"[\d,]+ keys? changed"

Work = Callable[[Raw], object]


@contextmanager
def at_work(server: Server, work: Work, *, name: str = "", pace: float = 0.005) -> Iterator[str]:
    """A client, whose address is returned, does this again and again."""
    with server.raw() as raw:
        if name:
            raw.do("CLIENT", "SETNAME", name)
        host, port = raw.sock.getsockname()

        def once() -> None:
            work(raw)
            time.sleep(pace)

        with writing(once):
            yield f"{host}:{port}"


def of_rumpx(server: Server) -> list[str]:
    """The names of its connections to a server."""
    clients: bytes = server.do("CLIENT", "LIST")
    return re.findall(r"name=(rumpx\S*)", clients.decode())


def is_equal(source: Server, target: Server) -> None:
    # Redis 6.2 tells no instants.
    tolerance = 1_000 if source.version == "6.2" else 0
    assert compare(source, target, ttl_tolerance_ms=tolerance) == []


def fill_with(server: Server, keys: int = 300) -> None:
    with server.raw() as raw:  # which is closed: no client that has written a moment ago is left
        raw.many(("SET", f"key:{number}", "old") for number in range(keys))


@contextmanager
def followed(
    source: Server,
    target: Server | Proxy,
    *flags: str,
    keys: int = 300,
    fill: Callable[[], object] = lambda: None,
) -> Iterator[Following]:
    """A follow of a source with some keys, in step."""
    fill_with(source, keys)
    fill()
    with Following(source, target, *flags) as following:
        following.in_step()
        yield following


def switched(following: Following, done: CutOver, code: int = OK) -> None:
    """It has succeeded, and the job is over."""
    assert done.outcome == "switch now" and done.facts["proven"] >= done.facts["asked"]
    assert done.told.endswith("Nothing of rumpx writes to the target any more: switch now.")
    assert following.ended(code).summary["state"] == "done"
    assert "switch now." in following.messages


def goes_on(following: Following, source: Server, target: Server) -> None:
    """It has not, and the job follows as before."""
    assert following.in_step()["gaps"] == 0
    source.do("SET", "afterwards", "new")
    wait_until(lambda: target.do("GET", "afterwards") == b"new", LONG, "it follows on")
    source.do("DEL", "afterwards")


# It succeeds


@pytest.mark.parametrize(("old", "new"), [("6.2", "7.0"), ("7.0", "9.1"), ("8.2", "8.2")])
def test_all_that_was_acknowledged_is_there_and_nothing_of_ours(
    server: StartServer, old: str, new: str
) -> None:
    source, target = server(old), server(new)
    every_type(source.client(), old)
    numbers = iter(range(10**9))
    with followed(source, target) as following:
        with at_work(source, lambda raw: raw.do("SET", f"n:{next(numbers)}", "x"), pace=0):
            following.settled(source, target)
        done = cut_over(code=OK)
        assert of_rumpx(target) == of_rumpx(source) == []
        switched(following, done)
    is_equal(source, target)
    changed = done.facts["compared"]
    assert changed > 100
    assert re.fullmatch(
        rf"All that the source acknowledged before {CLOCK} is on the target\. "
        rf"The last full comparison was at {CLOCK}\. "
        rf"{changed:,} keys changed since then compared again\. "
        r"Nothing of rumpx writes to the target any more: switch now\.",
        done.told,
    ), done.told
    steps = [line.partition(" ")[2] for line in done.steps.splitlines()]
    assert steps[-3:] == [
        f"comparing {changed:,} keys that changed since the last pass",
        "watching the source once more",
        "closing all connections to the target",
    ]


@pytest.mark.smoke
def test_a_job_that_was_cut_over_is_not_resumed(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        switched(following, cut_over(code=OK))
    target.do("SET", "key:1", "the application's")
    again = rumpx("resume", "move")
    assert again.returncode == USAGE
    said = "rumpx: The job move was cut over, and its application may write to the target now: "
    assert again.stderr.startswith(said) and again.stderr.count("\n") == 1
    assert rumpx("ctl", "move", "cutover").returncode == TEMPORARY
    assert target.do("GET", "key:1") == b"the application's"


@pytest.mark.parametrize("check", ["full", "counts"])
def test_all_keys_or_only_their_numbers_are_compared(server: StartServer, check: str) -> None:
    source, target = server("8.2"), server("8.2")
    with followed(source, target) as following:
        # A full comparison may take longer than the time in which the source must become quiet.
        done = cut_over(f"verify={check}", "timeout=1s", code=OK)
        switched(following, done)
    is_equal(source, target)
    if check == "full":
        assert "All 300 keys were compared after the last write." in done.told
    else:
        assert "compared again" not in done.told and "The last full comparison was" in done.told


def test_it_waits_for_the_copy_and_for_the_end_of_a_gap(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    fill_with(source, 2_000)
    with Following(source, target, "--max-keys-per-sec", "1000") as following:
        following.wait(lambda standing: standing.phase == "collecting", "it copies")
        with Asked() as asked:
            wait_until(lambda: "waiting until" in asked.steps, LONG, "it waits")
            following.in_step()
            source.do("CLIENT", "KILL", "TYPE", "pubsub")
            done = asked.ended(OK)
        switched(following, done)
    is_equal(source, target)


class Asked:
    """A cutover under way: `rumpx ctl move cutover`, as a context manager."""

    def __init__(self, *words: str) -> None:
        self.run = start_rumpx("ctl", "move", "cutover", *words)

    @property
    def steps(self) -> str:
        return self.run.stderr

    def ended(self, code: int) -> CutOver:
        done = self.run.wait(2 * LONG)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        outcome = "switch now" if done.stdout.rstrip().endswith("switch now.") else ""
        facts = {"told": done.stdout.splitlines(), "outcome": outcome, "asked": 0.0, "proven": 1.0}
        return CutOver(done.returncode, facts, done.stderr)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self.run.stop()


# Who still writes


STREAM = "a stream"
READ = ("XREADGROUP", "GROUP", "group", "consumer", "COUNT", "1", "STREAMS")


def with_groups(source: Server) -> None:
    """A stream of which entries are pending, one that is read to its end, and a lock."""
    for key in (STREAM, "empty"):
        source.do("XGROUP", "CREATE", key, "group", "$", "MKSTREAM")
        source.do("XGROUP", "CREATECONSUMER", key, "group", "consumer")
    for number in range(1, 5_000):
        source.do("XADD", STREAM, f"{number}-0", "field", "value")
    source.do(*READ, STREAM, ">")
    source.do("SET", "lock", "taken")


WRITERS: dict[str, tuple[Work, str, str, bytes | None]] = {
    "SET": (lambda raw: raw.do("SET", "key:7", "x"), "SET", "SET", b"key:7"),
    "EVAL": (
        lambda raw: raw.do("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "key:8"),
        "SET",
        "EVAL",
        b"key:8",
    ),
    "EXEC": (
        lambda raw: raw.many([("MULTI",), ("INCR", "count"), ("EXEC",)]),
        "INCR",
        "EXEC",
        b"count",
    ),
    "SET NX": (lambda raw: raw.do("SET", "lock", "mine", "NX"), "SET", "SET", None),
    "XACK": (lambda raw: raw.do("XACK", STREAM, "group", "1-0"), "XACK", "XACK", None),
    "XCLAIM": (
        lambda raw: raw.do("XCLAIM", STREAM, "group", "consumer", 0, "1-0"),
        "XCLAIM",
        "XCLAIM",
        None,
    ),
    "XREADGROUP": (lambda raw: raw.do(*READ, STREAM, ">"), "XREADGROUP", "XREADGROUP", None),
}
"""By a forgotten writer: what it does, and the command, client's command and key to be named."""


@pytest.mark.parametrize("version", ["6.2", "7.0", "8.2", "9.1"])
def test_whoever_still_writes_is_named(server: StartServer, version: str) -> None:
    source, target = server(version), server(version)
    with followed(source, target, fill=lambda: with_groups(source)) as following:
        for work, command, clients, key in WRITERS.values():
            with at_work(source, work, name="forgotten") as address:
                done = cut_over("timeout=3s", code=TEMPORARY)
            assert done.outcome == "not quiet"
            assert re.search(rf"still written: .*\b[\d,]+ calls? of {command}\b", done.told)
            assert f"Clients that write: {address} (forgotten): {clients}." in done.told
            assert done.told.endswith("Stop them, and ask again; the target stays in step.")
            if key:
                assert f"keys written: {key.decode()}." in done.told
        goes_on(following, source, target)
        switched(following, cut_over(code=OK))
    is_equal(source, target)


EXPIRE = 30_000


def expiring(server: Server) -> Work:
    """A thousand keys expire each second, and none is written any more."""
    with server.raw() as raw:
        raw.many(("SET", f"short:{number}", "x", "PX", 500 + number) for number in range(EXPIRE))
    wait_until(lambda: expired(server), LONG, "keys expire")
    return lambda raw: raw.do("GET", "key:1")


def expired(server: Server) -> int:
    return int(server.info("stats")["expired_keys"])


def are_gone(*servers: Server) -> None:
    """No key is left that expires."""
    for server in servers:
        server.do("DEL", *server.do("KEYS", "short:*"), "x")


@pytest.mark.parametrize("version", ["6.2", "7.0", "8.1", "8.2", "9.1"])
def test_expiries_reads_and_polls_of_empty_streams_do_not_count(
    server: StartServer, version: str
) -> None:
    source, target = server(version), server(version)
    with followed(source, target, fill=lambda: with_groups(source)) as following, ExitStack() as on:
        reads = expiring(source)
        on.enter_context(at_work(source, lambda raw: raw.do(*READ, "empty", ">")))
        on.enter_context(at_work(source, reads))
        before = expired(source)
        done = cut_over(code=OK)
        assert before < expired(source) < EXPIRE
        switched(following, done)
    are_gone(source, target)
    is_equal(source, target)


def test_clients_that_are_paused_do_not_count(server: StartServer) -> None:
    source, target = server("7.0"), server("8.2")
    numbers = iter(range(10**9))
    with followed(source, target) as following, source.raw() as raw, source.raw() as late:
        with at_work(source, lambda raw: raw.do("SET", f"n:{next(numbers)}", "x"), pace=0):
            following.settled(source, target)
            source.do("SET", "short", "x", "PX", 500)
            raw.do("CLIENT", "PAUSE", 60_000, "WRITE")
            late.sock.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nlate\r\n$1\r\nx\r\n")
            done = cut_over(code=OK)
            assert of_rumpx(target) == []
            is_equal(source, target)  # while the writers wait
            raw.do("CLIENT", "UNPAUSE")
        switched(following, done)
    assert source.do("GET", "late") == b"x" and target.do("GET", "late") is None


def test_keys_of_a_health_check_are_left_out(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    ignored = ("ignore=health:*", "ignore=ping")
    with followed(source, target, fill=lambda: with_groups(source)) as following:
        check = at_work(source, lambda raw: raw.do("INCR", "health:7"))
        with check, at_work(source, lambda raw: raw.do("SET", "ping", "x")):
            done = cut_over("timeout=1s", "ignore=ping", code=TEMPORARY)
            assert "keys written: health:7." in done.told and "ping" not in done.told
            with at_work(source, lambda raw: raw.do("SET", "key:7", "x")):
                done = cut_over("timeout=1s", *ignored, code=TEMPORARY)
            assert re.search(rf"still written: {CHANGED}; keys written: key:7\.", done.told)
            with at_work(source, lambda raw: raw.do("XACK", STREAM, "group", "1-0")):
                done = cut_over("timeout=1s", *ignored, code=TEMPORARY)
            assert "XACK" in done.told
            done = cut_over(*ignored, code=OK)
        switched(following, done)
    number = re.search(r"([\d,]+) writes to keys that match health:\*, ping were", done.told)
    assert number and int(number[1].replace(",", "")) == done.facts["ignored"] > 0


# Less may be asked


def deny(server: Server, *rules: str) -> None:
    """All but the test itself, which has its own user, may do less."""
    server.do("ACL", "SETUSER", "default", *rules)


SECTIONS = ("server", "replication", "stats", "keyspace")
BLIND = {
    "INFO commandstats": ("-info", *(f"+info|{section}" for section in SECTIONS)),
    "COMMAND": ("-command",),
}


@pytest.mark.parametrize("refused", BLIND)
def test_without_counters_the_names_decide(server: StartServer, refused: str) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        deny(source, *BLIND[refused])
        with at_work(source, lambda raw: raw.do("SET", "key:7", "x")):
            done = cut_over("timeout=1s", code=TEMPORARY)
        assert re.search(rf"still written: {CHANGED}; keys written: key:7\.", done.told)
        expiring(source)
        before = expired(source)
        done = cut_over(code=OK)
        assert before < expired(source) < EXPIRE
        switched(following, done)
        deny(source, "+@all")
    are_gone(source, target)
    is_equal(source, target)




def test_a_source_that_refuses_info_is_followed_on(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        deny(source, "-info")
        done = cut_over(code=TEMPORARY)
        assert done.outcome == "not quiet" and "since it refuses INFO." in done.told
        deny(source, "+info")
        goes_on(following, source, target)
        switched(following, cut_over(code=OK))


# Without a feed, or with another one


@pytest.mark.parametrize("feed", ["notifications", "passes"])
def test_other_feeds(server: StartServer, feed: str) -> None:
    source, target = server("7.0", notify_keyspace_events="KA"), server("8.1")
    fill_with(source)
    with Following(source, target, "--feed", feed) as following:
        following.wait(lambda standing: standing["passes"], "a pass has ended")
        with at_work(source, lambda raw: raw.do("SET", "key:7", "x"), name="forgotten") as address:
            done = cut_over("timeout=2s", code=TEMPORARY)
        assert re.search(r"still written: [\d,]+ calls? of SET", done.told)
        assert f"{address} (forgotten): SET" in done.told
        assert ("keys written: key:7" in done.told) == (feed == "notifications")
        source.do("SET", "key:8", "new")
        source.do("DEL", "key:9")
        done = cut_over(code=OK)
        switched(following, done)
    is_equal(source, target)
    if feed == "passes":  # which a pass must replace
        assert "All 299 keys were compared after the last write." in done.told


def test_without_a_feed_the_counters_must_be_told(server: StartServer) -> None:
    source, target = server("7.0"), server("8.1")
    fill_with(source)
    with Following(source, target, "--feed", "passes") as following:
        following.wait(lambda standing: standing["passes"], "a pass has ended")
        for refused in BLIND.values():
            deny(source, *refused)
            done = cut_over(code=TEMPORARY)
            assert done.outcome == "not quiet"
            assert "Nothing shows that the source is not written any more" in done.told
            assert "INFO commandstats, or COMMAND, and has no feed." in done.told
            deny(source, "+@all")
        # No feed names the keys.
        with at_work(source, lambda raw: raw.do("SET", "health:7", "x")):
            done = cut_over("timeout=5s", "ignore=health:*", code=TEMPORARY)
        assert "of SET" in done.told
        switched(following, cut_over(code=OK))


# What is compared


def test_a_writer_that_is_seen_while_keys_are_compared_explains_what_differs(
    server: StartServer,
) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target, "--max-keys-per-sec", "100", "--batch-keys", "10") as following:
        with Asked("verify=full", "timeout=1s") as asked:
            wait_until(lambda: "comparing" in asked.steps, LONG, "it has been quiet")
            with source.raw() as raw, target.raw() as spoils:
                raw.do("SET", "new", "x")
                spoils.do("SET", "extra", "x")
            done = asked.ended(TEMPORARY)
        assert "still written: 1 call of SET; keys written: new." in done.told
        goes_on(following, source, target)


def spoiling(target: Server) -> Any:
    """Another client changes keys of the target, that are compared, all the time."""
    return at_work(
        target, lambda raw: raw.many(("SET", f"key:{n}", "spoiled") for n in range(300)), pace=0
    )


@pytest.mark.parametrize("check", ["changed", "full"])
def test_what_differs_again_and_again_is_told(server: StartServer, check: str) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        with source.raw() as raw:
            raw.many(("SET", f"key:{number}", "new") for number in range(300))
        following.settled(source, target)
        with spoiling(target):
            done = cut_over(f"verify={check}", code=DIFFERENCES)
        assert done.outcome == "differences"
        assert re.match(r"\d+ keys? still differs? after 3 comparisons\. ", done.told)
        assert re.search(r"settling \d+ keys? that differed", done.steps)
        goes_on(following, source, target)
        # It is found and mended.
        target.do("SET", "key:7", "spoiled")
        target.do("SET", "key:8", "spoiled")
        target.do("SET", "extra", "spoiled")
        switched(following, cut_over("verify=full", code=OK))
    is_equal(source, target)


def test_numbers_that_differ_are_told(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        target.do("MSET", "more", "1", "still more", "2")
        for check in ("counts", "changed"):
            done = cut_over(f"verify={check}", code=DIFFERENCES)
            assert done.told == (
                "The numbers of keys differ: database 0: 300 keys on the source, 302 on the "
                "target. Ask again with verify=full."
            )
        goes_on(following, source, target)
        switched(following, cut_over("verify=full", code=OK))
    is_equal(source, target)


SHORT_LIVED = """
redis.call('HSET', KEYS[1], 'field', 'value')
redis.call('HPEXPIRE', KEYS[1], 3600000, 'FIELDS', 1, 'field')
"""


def short_lived_fields(source: Server) -> None:
    """Keys that Redis 7.0 cannot take without a loss."""
    for number in range(3):
        source.do("EVAL", SHORT_LIVED, 1, f"hash:{number}")


@pytest.mark.parametrize("check", ["changed", "full", "counts"])
def test_keys_that_failed_are_named_and_may_be_accepted(server: StartServer, check: str) -> None:
    source, target = server("8.2"), server("7.0")
    fill_with(source)
    with Following(source, target) as following:
        following.wait(lambda standing: standing["passes"], "the first pass")
        short_lived_fields(source)
        following.wait(lambda standing: standing["failed"] == 3, "three keys fail")
        done = cut_over(f"verify={check}", code=NOT_CARRIED)
        assert done.outcome == "keys not carried" and done.facts["not_carried"] == 3
        assert done.told == (
            "3 keys are not as on the source: 3 failed. Failed: hash:0, hash:1, hash:2. "
            "Mend them, or ask again with accept-failed; the target stays in step."
        )
        done = cut_over(f"verify={check}", "accept-failed", code=OK)
        switched(following, done, NOT_CARRIED)
    assert done.told.startswith("3 keys are not as on the source, as you accept. All that ")
    source.do("DEL", "hash:0", "hash:1", "hash:2")
    is_equal(source, target)


def test_accepted_losses_count_as_well(server: StartServer) -> None:
    source, target = server("8.2"), server("7.0")
    with followed(
        source, target, "--field-expiries", "drop", fill=lambda: short_lived_fields(source)
    ) as following:
        done = cut_over(code=NOT_CARRIED)
        assert done.told.startswith("3 keys are not as on the source: 3 copied with a loss. Mend")
        source.do("DEL", "hash:0", "hash:1")
        source.do("HPERSIST", "hash:2", "FIELDS", 1, "field")
        switched(following, cut_over(code=OK))
    is_equal(source, target)


# Time


def test_a_job_that_is_paused_is_not_cut_over_later(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        following.ask(Pause())
        source.do("SET", "key:7", "new")
        done = cut_over("timeout=0.5s", code=TEMPORARY)
        assert done.outcome == "not in step"
        assert done.told == "The target is not in step: 1 changed key not settled yet."
        following.ask(Resume())
        wait_until(lambda: target.do("GET", "key:7") == b"new", LONG, "it is settled")
        time.sleep(2)  # in which a cutover that went on would end the job
        goes_on(following, source, target)
        assert following.ask()["cutover"]["outcome"] == "not in step"
        switched(following, cut_over(code=OK))
    is_equal(source, target)


def test_one_at_a_time_and_only_for_a_follow(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        following.ask(Pause())
        source.do("SET", "key:7", "new")
        with Asked() as asked:
            wait_until(lambda: "settling" in asked.steps, LONG, "it has begun")
            second = rumpx("ctl", "move", "cutover")
            assert (second.returncode, second.stderr) == (
                USAGE,
                "rumpx: A cutover is under way already.\n",
            )
            following.ask(Resume())
            switched(following, asked.ended(OK))


# Late writes


KEY = "key:7"


def hold_back(way: Proxy, source: Server) -> None:
    """A write over a key that the target has; one that it lacks would not be overwritten."""
    way.hold(b"REPLACE")
    source.do("SET", KEY, "old")
    wait_until(lambda: way.holding, LONG, "the write is held back")


def test_a_write_that_was_held_back_does_not_land_after_the_end(
    server: StartServer, proxy: StartProxy
) -> None:
    source, target = server("7.0"), server("7.0")
    way = proxy(target)
    with followed(source, way, "--timeout", "2s") as following:
        hold_back(way, source)
        source.do("SET", KEY, "new")
        following.settled(source, target)
        done = cut_over(code=OK)
        # A thousandth of a second later.
        assert of_rumpx(target) == []
        target.do("SET", KEY, "the application's")
        way.release()
        wait_until(lambda: not way.held_clients(), LONG, "the held connection has ended")
        switched(following, done)
    assert target.do("GET", KEY) == b"the application's" and of_rumpx(target) == []


def test_workers_that_are_slow_to_end_are_waited_for(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following, Asked() as asked:
        wait_until(lambda: "watching" in asked.steps, LONG, "all is compared")
        for worker in following.run.workers():
            worker.suspend()
        asked.run.process.wait(LONG)
        assert of_rumpx(target) == []
        switched(following, asked.ended(OK))


def test_where_no_connection_can_be_ended_it_waits(server: StartServer, proxy: StartProxy) -> None:
    """An old value that was held back is written over a newer one, and is mended before the end."""
    source, target = server("7.0"), server("7.0")
    way = proxy(target)
    deny(target, "-client|kill")
    with followed(source, way, "--timeout", "2s") as following:
        hold_back(way, source)
        source.do("SET", KEY, "new")
        wait_until(lambda: target.do("GET", KEY) == b"new", LONG, "it is written anew")
        with Asked() as asked:
            wait_until(lambda: "settling" in asked.steps, LONG, "it has begun")
            way.release()
            wait_until(lambda: target.do("GET", KEY) == b"old", LONG, "the old value lands")
            done = asked.ended(OK)
        switched(following, done)
    is_equal(source, target)


# It is killed


def nothing(following: Following, source: Server) -> None:
    """The step lasts long enough by itself."""


def kept_waiting(following: Following, source: Server) -> None:
    following.ask(Pause())
    source.do("CLIENT", "KILL", "TYPE", "pubsub")
    following.wait(lambda standing: standing.phase != "in step", "the feed is lost")


def kept_settling(following: Following, source: Server) -> None:
    following.ask(Pause())
    source.do("SET", "key:7", "new")


def kept_comparing(following: Following, source: Server) -> None:
    following.ask(Set((("max-keys-per-sec", "20"),)))


KEPT: dict[str, tuple[Callable[[Following, Server], None], tuple[str, ...]]] = {
    "waiting until the target is in step": (kept_waiting, ()),
    "settling all changes so far": (kept_settling, ()),
    "comparing all keys": (kept_comparing, ("verify=full",)),
    "watching the source once more": (nothing, ()),
    "closing all connections to the target": (nothing, ()),
}
"""How a step is made to last, and the words of its cutover."""


@pytest.mark.parametrize("step", KEPT)
def test_a_run_that_is_killed_in_a_step_proves_nothing(server: StartServer, step: str) -> None:
    source, target = server("7.0"), server("7.0")
    keep, words = KEPT[step]
    with followed(source, target) as following, ExitStack() as stack:
        keep(following, source)
        asked = stack.enter_context(Asked(*words))
        wait_until(lambda: step in asked.steps or not asked.run.alive, LONG, "it has begun")
        following.run.send_signal(signal.SIGKILL, group=True)
        ended = asked.run.wait()
        if ended.returncode == OK:  # it was quicker, in its last step
            assert step.startswith("closing")
        else:
            assert ended.returncode == TEMPORARY and "ended during the cutover" in ended.stderr
            assert "rumpx resume move, and ask again." in ended.stderr and not ended.stdout
            is_resumed_and_cut_over(source, target)
    is_equal(source, target)


def is_resumed_and_cut_over(source: Server, target: Server) -> None:
    source.do("SET", "meanwhile", "new")
    source.do("DEL", "key:1")
    with Following.again("--max-keys-per-sec", "off") as again:
        standing = again.in_step()
        assert standing["cutover"] is None
        done = cut_over(code=OK)
        assert of_rumpx(target) == []
        switched(again, done)


@pytest.mark.parametrize("times", [2, full(20)])
def test_it_is_killed_at_any_moment(server: StartServer, times: int) -> None:
    source, target = server("7.0"), server("8.1")
    fill_with(source)
    rng, told = seeded(), ""
    with ExitStack() as stack:
        following = stack.enter_context(Following(source, target))
        for number in range(times):
            following.in_step()
            source.do("SET", f"written:{number}", "new")
            asked = stack.enter_context(Asked("verify=full"))
            wait_until(lambda a=asked: a.steps, LONG, "it has begun")  # type: ignore[misc]
            time.sleep(rng.uniform(0, 1.2))
            following.run.send_signal(signal.SIGKILL, group=True)
            ended = asked.run.wait()
            told = ended.stdout
            if told:
                assert ended.returncode == OK and told.rstrip().endswith("switch now.")
                break
            assert ended.returncode == TEMPORARY
            following = stack.enter_context(Following.again())
        else:
            following.in_step()
            switched(following, cut_over(code=OK))
    is_equal(source, target)


def test_a_run_that_is_stopped_in_a_cutover_goes_on_later(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following, ExitStack() as stack:
        kept_settling(following, source)
        asked = stack.enter_context(Asked())
        wait_until(lambda: "settling" in asked.steps, LONG, "it has begun")
        following.stop()
        assert asked.run.wait().returncode == TEMPORARY
        is_resumed_and_cut_over(source, target)
    is_equal(source, target)


# It is cancelled


CANCELLED = "The cutover is cancelled: the job follows its source as before."


def stopped(asked: Asked, number: int) -> str:
    """It is stopped by a signal, and has ended by that; returns its output."""
    asked.run.send_signal(number)
    done = asked.run.wait(LONG)
    assert done.returncode == 128 + number, f"exit {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("waiting until the target is in step", signal.SIGINT),
        ("settling all changes so far", signal.SIGTERM),
        ("comparing all keys", signal.SIGHUP),
    ],
)
def test_a_signal_to_the_client_cancels_it(
    server: StartServer, step: str, number: signal.Signals
) -> None:
    source, target = server("7.0"), server("7.0")
    keep, words = KEPT[step]
    with followed(source, target) as following:
        keep(following, source)
        with Asked(*words) as asked:
            wait_until(lambda: step in asked.steps, LONG, "it has begun")
            assert stopped(asked, number) == f"{CANCELLED}\n"
        standing = following.ask()
        assert standing["cutover"]["outcome"] == "cancelled" and following.run.alive
        following.ask(Set((("max-keys-per-sec", "off"),)))
        following.ask(Resume())
        following.in_step()
        following.settled(source, target)
        # All that a cancelled comparison has begun is still known.
        switched(following, cut_over(code=OK))
    is_equal(source, target)


def test_another_terminal_cancels_it(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with followed(source, target) as following:
        kept_settling(following, source)
        with Asked() as asked:
            wait_until(lambda: "settling" in asked.steps, LONG, "it has begun")
            assert rumpx("ctl", "move", "cancel-cutover").returncode == OK
            assert CANCELLED in asked.ended(TEMPORARY).told
        again = rumpx("ctl", "move", "cancel-cutover")
        assert (again.returncode, again.stderr) == (USAGE, "rumpx: No cutover is under way.\n")
        following.ask(Resume())
        goes_on(following, source, target)


def test_a_client_that_can_tell_nothing_any_more_cancels_it(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")

    def tell(step: CutoverStep) -> None:
        if step.text.startswith("settling"):
            raise BrokenPipeError

    with followed(source, target) as following:
        kept_settling(following, source)
        with pytest.raises(BrokenPipeError):
            client.cut_over(running_job(Place(None, "move")), Cutover(), tell)
        assert following.ask()["cutover"]["outcome"] == "cancelled"
        following.ask(Resume())
        goes_on(following, source, target)


def test_one_that_has_proven_all_is_not_cancelled(server: StartServer, proxy: StartProxy) -> None:
    source, target = server("7.0"), server("7.0")
    way = proxy(source)
    fill_with(source)
    with Following(way, target) as following, ExitStack() as stack:
        following.in_step()
        way.hold(b"FUNCTION")  # a question at the very end, after which the job is done
        asked = stack.enter_context(Asked())
        wait_until(lambda: way.holding, LONG, "all is proven")
        asked.run.send_signal(signal.SIGINT)
        wait_until(lambda: "cannot be cancelled any more" in asked.steps, LONG, "it says so")
        assert asked.run.alive
        way.release()
        switched(following, asked.ended(OK))
    is_equal(source, target)


# More than a feed can take


def cuts_over_after_a_gap(following: Following, source: Server, target: Server) -> None:
    following.after_gap(timeout=2 * LONG)
    switched(following, cut_over("timeout=5m", code=OK, timeout=300))
    is_equal(source, target)


LOOP = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'a name of 16 b:' .. i, i) end"


@pytest.mark.parametrize("number", [20_000, full(1_600_000)])
def test_a_script_over_many_keys(server: StartServer, number: int) -> None:
    """The server closes a feed that is told of more than its buffer holds: here it is small."""
    source, target = server("8.2"), server("8.2")
    if number < 10**6:
        source.do("CONFIG", "SET", "client-output-buffer-limit", "pubsub 100000 0 0")
    with followed(source, target) as following:
        with Raw(source.address, timeout=120) as raw:
            raw.do("EVAL", LOOP, 0, number)
        assert "lost" in following.after_gap(timeout=2 * LONG).gaps[0]
        cuts_over_after_a_gap(following, source, target)


def kept_for_feeds(server: Server) -> int | None:
    """The bytes that a server keeps for its feeds; None if it has none."""
    clients: bytes = server.do("CLIENT", "LIST", "TYPE", "pubsub")
    kept = re.findall(rb" omem=(\d+)", clients)
    return sum(map(int, kept)) if kept else None


@pytest.mark.parametrize("limit", [2_000_000, full(32 << 20)])
def test_a_run_that_stands_still_under_writes(server: StartServer, limit: int) -> None:
    """The server keeps for the feed what its limit allows, and closes it then."""
    source, target = server("8.2"), server("8.2")
    source.do("CONFIG", "SET", "client-output-buffer-limit", f"pubsub {limit} 0 0")
    numbers = iter(range(10**9))

    def burst(raw: Raw) -> None:
        raw.many(("SET", f"{next(numbers) % 5_000:060d}", "x") for _ in range(2_000))

    with followed(source, target) as following:
        with at_work(source, burst):
            kept = [0]
            following.run.freeze()
            wait_until(lambda: is_closed(source, kept), 2 * LONG, "the feed is closed")
            following.run.thaw()
            following.after_gap(timeout=2 * LONG)
        assert limit // 10 < max(kept) < limit + 2_000_000
        cuts_over_after_a_gap(following, source, target)


def is_closed(source: Server, kept: list[int]) -> bool:
    now = kept_for_feeds(source)
    if now is not None:
        kept.append(now)
    return now is None
