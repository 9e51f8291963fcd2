"""A comparison while it goes on: live sources, faults, signals, displays, jobs, and the API."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

import rumpx as package
from rumpx.cli.flags import make_comparison
from rumpx.cli.parsers import build_verify_parser
from support.copying import Side, Verified, copy, held, verified, verify, verify_words
from support.data import fill_mixed, fingerprint
from support.proxy import Proxy
from support.run import Running, rumpx, rumpx_pty, start_rumpx
from support.servers import Cluster, Server, key_slot

StartServer = Callable[..., Server]
StartCluster = Callable[..., Cluster]
StartProxy = Callable[..., Proxy]
Pair = tuple[Server, Server]

USAGE, DIFFER, TEMPORARY = 2, 4, 5
KEYS = 3000


def plant(source: Server | Cluster, target: Server | Cluster) -> None:
    """Equal keys, and one difference of each kind."""
    for end in (source, target):
        fill_mixed(end, KEYS, ttl_share=0)
    here, there = source.client(), target.client()
    for client, value in ((here, "mine"), (there, "theirs")):
        client.set("value:1", value)
        client.set("expiry:1", "", px=1000_000 if client is here else 2000_000)
        client.set(f"{'missing' if client is here else 'extra'}:1", "")


FOUND = {(kind, 0, f"{kind}:1".encode()) for kind in ("value", "expiry", "missing", "extra")}


@pytest.fixture
def pair(server: StartServer) -> Pair:
    source, target = server("7.0"), server("9.1")
    plant(source, target)
    return source, target


# A live source


@contextmanager
def written(source: Server, keys: list[str]) -> Iterator[None]:
    """While this is open keys are written all the time."""
    over, rounds = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        number = 0
        with source.raw() as raw:
            while not over.is_set():
                number += 1
                raw.many(("SET", key, number) for key in keys)
                rounds.release()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert rounds.acquire(timeout=60)
        yield
    finally:
        over.set()
        thread.join()


def test_a_key_that_is_written_is_changing_and_a_stale_one_differs(server: StartServer) -> None:
    source, target = server("7.0"), server("9.1")
    busy = [f"busy:{number}" for number in range(10)]
    for end in (source, target):
        fill_mixed(end, 100, ttl_share=0)
        for key in busy:
            end.do("SET", key, "before")
    source.do("SET", "stale", "new")
    target.do("SET", "stale", "old")

    with written(source, busy):
        both = verify(source, target, code=DIFFER)
        target.do("SET", "stale", "new")
        only_busy = verify(source, target, "--repair")

    changing = {("changing", 0, key.encode()) for key in busy}
    assert both.found == changing | {("value", 0, b"stale")}
    assert both.summary["differences"] == {"value": 1}
    assert (both.counts["changing"], both.counts["different"]) == (10, 1)
    assert only_busy.found == changing
    assert (only_busy.counts["changing"], only_busy.summary["repaired"]) == (10, 0)
    assert target.do("MGET", *busy) == [b"before"] * 10


def test_what_is_equal_at_the_second_look_is_changing(server: StartServer) -> None:
    """As if a replica, or whatever else feeds the target, lagged a little."""
    source, target = server("7.0"), server("7.0")
    source.do("SET", "late", "")
    target.do("SET", "early", "")
    with looking_late(source, target, "--workers", "1") as run:
        with held(run, lambda: has_looked(run)):
            target.do("SET", "late", "")
        done = finish(run, 4)

    assert done.found == {("changing", 0, b"late"), ("extra", 0, b"early")}


LOOKING_LATE = """
from rumpx.cli.main import main
from rumpx.verifier import overseer as verifier
verifier._PAUSE = 3.0
raise SystemExit(main())
"""


def looking_late(source: Side, target: Side, *flags: str | Path) -> Running:
    """A comparison under way, for `has_looked`: on a busy machine the second look, which comes a
    second after the first, could be over before the display has told of the first."""
    words = verify_words(source, target, "--max-source-latency", "off", *flags)
    return Running([], command=[sys.executable, "-c", LOOKING_LATE, *map(str, words)])


def has_looked(run: Running) -> bool:
    """Whether the first look has shown what is missing; the display shows itself seldom, unless it
    is asked to."""
    if '"comparing"' in run.stderr:
        run.send_signal(signal.SIGUSR1)
    return '"missing": 1' in run.stderr


def finish(run: Running, code: int) -> Verified:
    """Wait for the end, which must come with this exit code."""
    done = run.wait(60)
    assert done.returncode == code, done.stderr[-4000:]
    return verified(code, done.stdout, done.stderr)


# Faults


def started(source: Side, target: Side, *flags: str | Path) -> Running:
    """A comparison under way, for `held`."""
    return start_rumpx(*verify_words(source, target, "--batch-keys", "10", *flags))


@contextmanager
def held_amid(run: Running, way: Proxy) -> Iterator[None]:
    """When some values have come, of more than ten times as many bytes, no worker moves."""
    with held(run):
        began = way.bytes_down
    with held(run, lambda: way.bytes_down > began + 20_000):
        yield


def test_lost_connections_change_nothing(pair: Pair, proxy: StartProxy) -> None:
    ways = proxy(pair[0]), proxy(pair[1])
    with started(*ways) as run:
        with held(run):
            for way in ways:
                way.cut_after(30_000)
        with held(run, lambda: all(way.cuts for way in ways)):
            for way in ways:
                way.reset()

        done = finish(run, DIFFER)

    assert done.found == FOUND
    assert done.counts["equal"] == KEYS
    assert done.counts["failed"] == 0


@pytest.mark.parametrize("work", [[], ["--digest"], ["--repair", "--delete-extra", "--yes"]])
def test_connections_that_break_at_the_second_look(
    pair: Pair, proxy: StartProxy, work: list[str]
) -> None:
    ways = proxy(pair[0]), proxy(pair[1])
    with looking_late(*ways, "--batch-keys", "10", *work) as run:
        with held(run, lambda: has_looked(run)):
            for way in ways:
                way.cut_after(1)

        done = finish(run, 0 if "--repair" in work else DIFFER)

    assert all(way.cuts == 1 for way in ways)
    assert done.found == FOUND
    assert done.summary["repaired"] == (4 if "--repair" in work else 0)


def test_a_worker_that_is_killed_is_replaced(pair: Pair, proxy: StartProxy) -> None:
    way = proxy(pair[1])
    with started(pair[0], way) as run:
        with held_amid(run, way):
            way.stall()  # so that they keep what they are given
        run.kill_random_worker(random.Random(1))
        way.go()

        done = finish(run, DIFFER)

    assert done.summary["worker_restarts"] == 1
    assert done.found == FOUND
    assert done.counts["equal"] == KEYS


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_that_restarts_is_compared_anew(
    pair: Pair, proxy: StartProxy, side: str
) -> None:
    ends = dict(zip(("source", "target"), pair, strict=True))
    way = proxy(ends[side])
    with started(*{**ends, side: way}.values()) as run:
        with held_amid(run, way):
            way.stall()
            ends[side].restart(keep_data=True)
            way.go()

        done = finish(run, DIFFER)

    assert done.found == FOUND
    assert done.counts["equal"] == KEYS
    assert "are compared again" in "\n".join(done.messages)


@pytest.mark.parametrize("side", ["source", "target"])
def test_slots_that_move_are_an_end(cluster: StartCluster, side: str) -> None:
    ends = {"source": cluster("7.0", primaries=2), "target": cluster("7.0", primaries=2)}
    plant(*ends.values())
    moved, slot = ends[side], key_slot(b"value:1")
    with started(*ends.values(), "--workers", "1") as run:
        with held(run):
            old = moved.owner(slot)
            new = next(node for node in moved.nodes if node is not old)
            moved.migrate_slot(slot, old, new)

        done = finish(run, TEMPORARY)

    assert "1 slots moved during the comparison" in done.stderr
    assert "verify again" in done.stderr


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_comparison_that_is_stopped_deletes_nothing(pair: Pair, number: int) -> None:
    before = fingerprint(pair[1])
    words = ("--workers", "1", "--repair", "--delete-extra", "--yes")
    with started(*pair, *words) as run:
        with held(run):
            run.send_signal(number)

        done = finish(run, 128 + number)

    assert done.summary["state"] == "stopped"
    assert fingerprint(pair[1]) == before


# Displays


@pytest.mark.parametrize("cols", [60, 120])
def test_bars_and_the_table_on_a_terminal(pair: Pair, cols: int, tmp_path: Path) -> None:
    words = ["verify", "--from", pair[0].uri, "--to", pair[1].uri, "--workers", "1"]

    shown = rumpx_pty(*words, "--differences", tmp_path / "list", cols=cols, rows=40)

    assert shown.returncode == DIFFER
    assert any("comparing" in line for frame in shown.frames for line in frame)
    assert f"compared {KEYS + 3:,} keys" in shown.text and "4 keys differ" in shown.text
    said = [" ".join(line.split()) for line in shown.lines]
    assert f"equal {KEYS:,} (values and expiries equal)" in said
    assert {"missing 1 only on the source", "extra 1 only on the target"} < set(said)
    header = next(line for line in shown.lines if line.split()[:1] == ["keys"])
    assert header.split() == ["keys", "missing", "extra", "value", "expiry"]
    row = next(line for line in shown.lines if line.strip().startswith("extra:*"))
    assert row.index("1") == header.index("extra") + len("extra") - 1
    assert max(map(len, shown.lines)) <= cols
    assert shown.modes_restored and not shown.cursor_hidden


def test_lines_in_a_log(pair: Pair, tmp_path: Path) -> None:
    words = ["verify", "--from", pair[0].uri, "--to", pair[1].uri, "--workers", "1"]

    run = rumpx(*words, "--differences", tmp_path / "list")

    assert (run.returncode, run.stdout) == (DIFFER, "")
    assert " comparing " in run.stderr and " done 100.0 % " in run.stderr
    said = {" ".join(line.split()) for line in run.stderr.splitlines()}
    assert {"value 1 with another value on the target", f"listed in {tmp_path / 'list'}"} < said
    assert "extra:* 1 extra" in said


def test_json_events(pair: Pair) -> None:
    done = verify(*pair, code=DIFFER)

    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["verb"] for event in events if event["event"] == "progress"} == {"compared"}
    states = list(dict.fromkeys(event["state"] for event in events))
    assert states == ["starting", "comparing", "done"]
    assert events[-1]["event"] == "summary"
    assert {**events[-1], "event": 0, "time": 0} == {**done.summary, "event": 0, "time": 0}
    progress = events[-2]
    for name in ("equal", "different", "missing", "extra", "found", "failed"):
        assert progress["counts"][name] == done.counts[name], name


# Jobs


def test_a_job_is_compared_with_its_scope_mapping_and_endpoints(server: StartServer) -> None:
    source, target = server("7.0", requirepass="pw"), server("9.1")
    for db in (0, 3):
        fill_mixed(source, 200, db=db, prefix=b"mine")
        fill_mixed(source, 200, db=db, prefix=b"other")
    flags = ("--db", "3", "--map-db", "3:5", "--match", "mine*", "--clock", "relative")
    copy(source, target, "--job", "nightly", *flags)
    target.do("SET", "elsewhere", "", db=5)
    target.do("SET", "mine:extra", "", db=0)
    password = {"RUMPX_FROM_PASSWORD": "pw"}

    def compare(*words: str, code: int, env: dict[str, str] | None = None) -> Verified:
        # On a busy machine the clocks' skew, which is measured anew, is some ms off.
        options = ("--workers", "1", "--ttl-tolerance", "1s", "--progress", "json")
        done = rumpx("verify", "nightly", *options, "--summary", "-", *words, env=env)
        assert done.returncode == code, done.stderr
        return verified(code, done.stdout, done.stderr)

    assert compare(code=0, env=password).counts["equal"] == 200
    assert compare("--from", source.uri, code=0).counts["equal"] == 200
    target.do("SET", "mine:extra", "", db=5)
    assert compare(code=DIFFER, env=password).found == {("extra", 3, b"mine:extra")}
    assert "RUMPX_FROM_PASSWORD" in compare(code=USAGE).stderr
    assert "leave out --db" in compare("--db", "3", code=USAGE).stderr
    assert "leave out --from-password-file" in compare(
        "--from-password-file", "x", code=USAGE
    ).stderr
    assert "the job's source is" in compare("--from", target.uri, code=USAGE).stderr


def test_a_job_keeps_its_clock(server: StartServer, state_home: Path) -> None:
    """With another one every expiry would differ."""
    source, target = server("7.0"), server("7.0")
    copy(source, target, "--job", "shifted", "--clock", "relative")

    def clock(*words: str) -> str:
        return make_comparison(build_verify_parser().parse_args(["shifted", *words])).job.clock

    assert clock() == "relative"
    assert clock("--clock", "absolute") == "absolute"


@pytest.fixture
def with_extra(server: StartServer) -> list[str | Path]:
    """The words of a copy, with a comparison, to a target that has a key of its own."""
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, 500)
    target.do("SET", "extra", "")
    ends = ["--from", source.uri, "--to", target.uri, "--verify", "--progress", "json"]
    return [*ends, "--on-conflict", "replace"]


@pytest.mark.parametrize("stdout", [True, False])
def test_a_copy_is_compared_on_request(
    with_extra: list[str | Path], tmp_path: Path, stdout: bool
) -> None:
    state, report = tmp_path / "ledgers", tmp_path / "summary"

    run = rumpx(*with_extra, "--state-dir", state, "--summary", "-" if stdout else report)

    assert run.returncode == DIFFER
    events = [json.loads(line) for line in run.stderr.splitlines()]
    shown = [event for event in events if event["event"] == "summary"]
    assert [len(shown), events[-1]["event"]] == [2, "summary"]
    copied = json.loads(run.stdout if stdout else report.read_text())
    compared = copied.pop("verification")
    assert copied["counts"]["copied"] == compared["counts"]["equal"] == 500
    assert compared["differences"] == {"extra": 1}
    assert Path(compared["differences_file"]).parent == state
    for event, document in zip(shown, (copied, compared), strict=True):
        assert {**event, "event": 0, "time": 0} == {**document, "event": 0, "time": 0}


def test_a_copy_that_is_stopped_is_not_compared(with_extra: list[str | Path]) -> None:
    with start_rumpx(*with_extra, "--workers", "1", "--summary", "-") as run:
        with held(run):
            run.send_signal()
        done = run.wait()

    assert done.returncode == 130
    assert json.loads(done.stdout)["state"] == "stopped"
    assert "comparing" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("rumpx resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unknown"], "There is no job unknown"),
        ([], "--from is missing"),
        (["--delete-extra"], "--delete-extra needs --repair"),
        (["--repair", "--yes"], "--yes answers the question of --delete-extra"),
        (["--repair", "--sample", "1%"], "leave out --sample"),
        (["--sample", "0"], "is not a share"),
        (["--sample", "some"], "is not a share"),
        (["--sample", "101%"], "is not a share"),
        (["--ttl-tolerance", "soon"], "--ttl-tolerance"),
        (["--differences", "/no/such/folder/list"], "--differences"),
    ],
)
def test_what_cannot_be_meant(words: list[str], message: str) -> None:
    ends = ["--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:2"]
    if words in (["unknown"], []):
        ends = []

    run = rumpx("verify", *ends, *words)

    assert run.returncode == USAGE, run.stderr
    assert message in run.stderr and run.stderr.count("\n") == 1


# The API


def run_script(folder: Path, text: str, *words: str) -> list[str]:
    """What a script prints, which must end well."""
    path = folder / "script.py"
    path.write_text(dedent(text))
    run = subprocess.run(
        [sys.executable, str(path), *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_script_that_compares_and_mends(pair: Pair, tmp_path: Path) -> None:
    said = run_script(
        tmp_path,
        """
        import sys
        import rumpx

        if __name__ == "__main__":
            ends, seen = sys.argv[1:3], []
            found = rumpx.verify(
                *ends, databases=[0], match=[b"value:*", b"extra:*"], workers=1,
                on_progress=seen.append, differences="list",
            )
            print(type(found).__name__, found.exit_code, found.differences)
            print([(type(one).__name__, one.prefix, one.kinds) for one in found.prefixes])
            print(found.differences_file, len(open("list").readlines()))
            print(seen[-1].state, seen[-1].verb)
            rumpx.copy(*ends, job="mine", on_conflict="skip", exclude=[b"extra:*"])
            done = rumpx.verify(job="mine", workers=1, ttl_tolerance=86400, repair=True)
            print(done.exit_code, done.repaired, done.differences)
            done = rumpx.verify(*ends, workers=1, repair=True, delete_extra=True, yes=True)
            print(done.exit_code, done.repaired, done.counts.deleted)
            done = rumpx.verify(*ends, digest=True)
            print(done.proof, ["--digest" in warning for warning in done.warnings])
        """,
        pair[0].uri,
        pair[1].uri,
    )

    assert said == [
        "Verification 4 {'value': 1, 'extra': 1}",
        "[('PrefixDifferences', 'value:*', {'value': 1}), "
        "('PrefixDifferences', 'extra:*', {'extra': 1})]",
        "list 2",
        "done compared",
        "0 1 {'value': 1}",
        "0 2 1",
        "64-bit checksums equal []",
    ]


def test_arguments_that_cannot_be_meant_are_exceptions(pair: Pair) -> None:
    for wrong, message in (
        ({}, "the name of a job"),
        ({"source": pair[0].uri, "target": pair[0].uri}, "the same server"),
        ({"job": "unknown"}, "no job unknown"),
        ({"job": "unknown", "match": [b"x"]}, "has its scope"),
        ({"sample": 0.0}, "--sample"),
        ({"ttl_tolerance": -1.0}, "--ttl-tolerance"),
        ({"delete_extra": True, "yes": True}, "needs --repair"),
        ({"repair": True, "delete_extra": True}, "give --yes"),
    ):
        ends = {"source": pair[0].uri, "target": pair[1].uri}
        arguments = wrong if {"job", "source"} & wrong.keys() or not wrong else {**ends, **wrong}
        with pytest.raises(package.UsageError, match=message):
            package.verify(**arguments)  # type: ignore[arg-type]
