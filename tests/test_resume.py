"""Ledgers: a copy goes on where it ended; jobs and failed keys are listed."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import rumpx
from support.copying import Copied, Copying, Resuming, at_rest, copy, uri_of
from support.data import compare, fill_mixed, keys_of
from support.proxy import Proxy
from support.run import rumpx as run_rumpx
from support.servers import Cluster, Server

StartServer = Callable[..., Server]

USAGE, SOME_FAILED, TEMPORARY, INTERRUPTED = 2, 3, 5, 130
KEYS = 8_000
LEDGERS = sorted((Path(__file__).parent / "data").glob("ledger_schema*.sql"))
SECRET = "pl4nted-Secret"


@pytest.fixture
def pair(server: StartServer) -> tuple[Server, Server]:
    """A filled server and an empty one."""
    source, target = server("7.0"), server("9.1")
    fill(source)
    return source, target


def fill(source: Server) -> None:
    """Many keys, in a table that stands still."""
    fill_mixed(source, KEYS)
    at_rest(source)


def interrupted(source: Any, target: Any, *flags: str, number: int = signal.SIGKILL) -> str:
    """A copy of job "j" that ended when some keys were there; its standard error."""
    with Copying(source, target, "--job", "j", *flags) as copying:
        copying.stop_at(target, 300, number)
        copying.run.wait()
        return copying.run.stderr


def resume(*words: str, code: int = 0, env: dict[str, str] | None = None) -> Copied:
    """`rumpx resume`, which must end with this code."""
    done = run_rumpx("resume", *words, "--progress", "json", "--summary", "-", env=env)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stderr[-4000:]}"
    summary = json.loads(done.stdout) if done.stdout else {}
    return Copied(done.returncode, summary, done.stderr)


def check_whole(done: Copied, source: Any, target: Any) -> None:
    """Everything is there, and counted once."""
    assert compare(source, target) == []
    assert done.counts["copied"] == len(keys_of(source))
    assert done.counts["failed"] == 0
    assert done.summary["missing"] == 0
    assert all(part["complete"] for part in done.summary["partitions"])


def calls_of(server: Server, command: str) -> int:
    """How often a server executed a command."""
    found = re.search(r"calls=(\d+)", server.info("commandstats").get(f"cmdstat_{command}", ""))
    return int(found[1]) if found else 0


# Going on


@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_copy_goes_on(pair: tuple[Server, Server], number: int) -> None:
    source, target = pair
    stderr = interrupted(source, target, number=number)

    if number != signal.SIGKILL:
        assert stderr.splitlines()[-1] == "rumpx resume j"
    done = resume("j")

    check_whole(done, source, target)
    assert done.summary["runs"] == 2 and done.summary["job"] == "j"


@pytest.mark.parametrize("dump", LEDGERS, ids=lambda dump: dump.stem)
def test_a_ledger_by_an_earlier_rumpx(server: StartServer, state_home: Path, dump: Path) -> None:
    """Each is a dump (`Connection.iterdump`) of the ledger that the first or last rumpx with that
    schema left when it was killed in the middle of this copy. Two walks are partly or wholly done,
    and some keys have failed. The servers are new ones, so that each walk starts again."""
    source, target = server("7.0"), server("7.0")
    for db, first in ((0, 0), (3, 2000)):
        numbers = range(first, first + 2000)
        source.do("MSET", *(word for n in numbers for word in (f"key:{n}", n)), db=db)
    ports = {"17101": str(source.port), "17102": str(target.port)}
    text = re.sub("|".join(ports), lambda found: ports[found[0]], dump.read_text("utf-8"))
    state_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with closing(sqlite3.connect(state_home / "job.ledger")) as ledger:
        ledger.executescript(text)
        copied = "SELECT sum(json_extract(counts, '$.copied')) FROM partitions"
        [(before,)] = ledger.execute(copied)
        [(failed,)] = ledger.execute("SELECT count(*) FROM failures")
    assert before > 1000 and failed > 0
    (state_home / "job.ledger").chmod(0o600)
    listed = run_rumpx("jobs").stdout.splitlines()[1].split()
    assert listed[:2] == ["job", "killed"] and listed[4] == str(failed), listed

    done = resume("job")

    assert compare(source, target) == []
    assert (done.counts["copied"], done.counts["failed"]) == (4000, 0)
    assert all(part["complete"] for part in done.summary["partitions"])
    assert done.summary["runs"] == 2
    report = run_rumpx("report", "job")
    assert report.returncode == 0 and "4,000 keys" in report.stdout


def test_what_is_done_is_not_read_again(pair: tuple[Server, Server]) -> None:
    source, target = pair
    interrupted(source, target, number=signal.SIGINT)
    there = len(keys_of(target))
    assert there < KEYS
    before = calls_of(source, "dump")

    resume("j")

    # A SCAN reply that was not settled whole is copied again.
    assert calls_of(source, "dump") - before <= KEYS - there + 600


def test_the_last_line_is_the_exact_command(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    folder = tmp_path / "with space"
    stderr = interrupted(source, target, "--state-dir", str(folder), number=signal.SIGINT)
    words = shlex.split(stderr.splitlines()[-1])
    assert words == ["rumpx", "resume", "j", "--state-dir", str(folder)]

    done = subprocess.run(
        [sys.executable, "-m", "rumpx", *words[1:], "--progress", "none"], capture_output=True
    )

    assert done.returncode == 0 and done.stderr == b""
    assert compare(source, target) == []


def test_trouble_that_outlasts_retry_for_can_be_resumed(
    pair: tuple[Server, Server], proxy: Callable[..., Proxy]
) -> None:
    source, target = pair
    way = proxy(target)
    with Copying(source, way, "--job", "j", "--retry-for", "1s") as copying:
        with copying.held_at(target, 300):
            way.refuse = True
            way.cut()
        copying.run.wait()
        assert copying.run.process.returncode == TEMPORARY
        assert copying.run.stderr.splitlines()[-1] == "rumpx resume j"
    way.refuse = False

    check_whole(resume("j"), source, target)


def test_a_cluster_copy_goes_on(
    cluster: Callable[..., Cluster], server: StartServer
) -> None:
    source, target = cluster("9.1", primaries=3), server("9.1")
    fill_mixed(source, KEYS)
    interrupted(source, target)

    check_whole(resume("j"), source, target)


def test_a_resumed_copy_can_be_resumed(pair: tuple[Server, Server]) -> None:
    source, target = pair
    interrupted(source, target, number=signal.SIGINT)
    there = len(keys_of(target))
    with Resuming(job="j") as copying:
        copying.stop_at(target, there + 300)
        copying.finish(INTERRUPTED)

    done = resume("j")

    check_whole(done, source, target)
    assert done.summary["runs"] == 3


def test_skipping_goes_on_as_skipping(pair: tuple[Server, Server]) -> None:
    source, target = pair
    key = min(keys_of(source))
    target.do("SET", key, "mine")
    interrupted(source, target, "--on-conflict", "skip", number=signal.SIGINT)

    done = resume("j")

    counts = done.counts
    assert counts["copied"] + counts["repeated"] + counts["skipped"] == KEYS
    assert counts["skipped"] == 1 and target.do("GET", key) == b"mine"


def test_databases_of_later_are_not_of_the_job(pair: tuple[Server, Server]) -> None:
    source, target = pair
    interrupted(source, target, number=signal.SIGINT)
    source.do("SET", "new", "1", db=5)

    resume("j")

    assert target.do("DBSIZE", db=5) == 0
    assert compare(source, target, db_map={0: 0}) == []


def test_from_python(pair: tuple[Server, Server]) -> None:
    source, target = pair
    interrupted(source, target)

    summary = rumpx.resume("j", workers=1)

    assert summary.counts.copied == KEYS and summary.runs == 2
    assert compare(source, target) == []


# Passwords and endpoints


def test_passwords_are_not_kept(server: StartServer, state_home: Path) -> None:
    source, target = server("7.0", requirepass=SECRET), server("9.1", requirepass=SECRET)
    fill(source)
    stderr = interrupted(source, target, number=signal.SIGINT)
    for file in state_home.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file
        assert file.stat().st_mode & 0o077 == 0
    command = "RUMPX_FROM_PASSWORD=... RUMPX_TO_PASSWORD=... rumpx resume j"
    assert stderr.splitlines()[-1] == command and SECRET not in stderr

    refused = run_rumpx("resume", "j")
    assert refused.returncode == USAGE and "RUMPX_FROM_PASSWORD" in refused.stderr
    done = resume("j", env={"RUMPX_FROM_PASSWORD": SECRET, "RUMPX_TO_PASSWORD": SECRET})

    check_whole(done, source, target)


def test_passwords_from_a_file_come_from_it_again(server: StartServer, tmp_path: Path) -> None:
    source, target = server("7.0", requirepass=SECRET), server("9.1")
    fill(source)
    file = tmp_path / "password"
    file.write_text(SECRET)
    plain = f"redis://127.0.0.1:{source.port}"
    stderr = interrupted(plain, target, "--from-password-file", str(file), number=signal.SIGINT)
    assert stderr.splitlines()[-1] == "rumpx resume j"

    check_whole(resume("j"), source, target)


def test_a_job_goes_on_only_between_its_endpoints(pair: tuple[Server, Server]) -> None:
    source, target = pair
    interrupted(source, target)

    refused = run_rumpx("resume", "j", "--from", target.uri)

    assert refused.returncode == USAGE
    assert "resumes only between its original endpoints" in refused.stderr
    resume("j", "--from", source.uri, "--to", target.uri)


def test_another_cluster_at_the_same_address_is_refused(
    cluster: Callable[..., Cluster], server: StartServer
) -> None:
    source, target = cluster("7.0", primaries=3), server("9.1")
    fill_mixed(source, 2_000)
    interrupted(source, target)
    # Each node forgets who it is, and the same ports make another cluster.
    for node in source.primaries():
        node.do("FLUSHALL")
        node.do("CLUSTER", "RESET", "HARD")
    source._form(3)
    source.wait_ok()

    refused = run_rumpx("resume", "j")

    assert refused.returncode == 6 and "another cluster" in refused.stderr
    assert refused.stderr.splitlines()[-1] == "rumpx resume j"


# Names


def test_jobs_are_listed_and_pruned(pair: tuple[Server, Server], state_home: Path) -> None:
    source, target = pair
    interrupted(source, target)
    other = server_words(source, target)
    assert run_rumpx(*other, "--job", "whole", "--on-conflict", "replace").returncode == 0

    lines = run_rumpx("jobs").stdout.splitlines()
    assert lines[0].split()[:3] == ["JOB", "STATE", "DONE"]
    assert re.match(r"whole +done +100.0 % +0 ", lines[1])
    assert re.match(r"j +killed +\d+\.\d % +0 ", lines[2])
    assert lines[2].endswith(f"{source.uri} -> {target.uri}")

    assert run_rumpx("jobs", "--prune").stdout == "Removed 1: whole.\n"
    assert {file.stem for file in state_home.glob("*.ledger")} == {"j"}
    assert resume().summary["job"] == "j"
    refused = run_rumpx("resume")
    assert refused.returncode == USAGE and "No job" in refused.stderr


def server_words(source: Server, target: Server) -> list[str]:
    return ["--from", uri_of(source), "--to", uri_of(target), "--progress", "none"]


def test_a_name_is_taken_until_its_job_is_done(pair: tuple[Server, Server]) -> None:
    source, target = pair
    interrupted(source, target)

    refused = run_rumpx(*server_words(source, target), "--job", "j")
    assert refused.returncode == USAGE and "rumpx resume j" in refused.stderr
    resume("j")

    done = copy(source, target, "--job", "j", "--on-conflict", "replace")
    assert done.summary["runs"] == 1


@pytest.mark.parametrize("name", ["", ".", "a/b", "x" * 65, "ä"])
def test_names_are_checked_before_anything_is_contacted(name: str) -> None:
    nobody = "redis://127.0.0.1:1"
    refused = run_rumpx("--from", nobody, "--to", nobody, "--job", name)

    assert refused.returncode == USAGE and "not a job's name" in refused.stderr


def test_a_refused_copy_leaves_no_job(pair: tuple[Server, Server], state_home: Path) -> None:
    source, target = pair
    target.do("SET", "key", "1")

    refused = run_rumpx(*server_words(source, target))

    assert refused.returncode == 7
    assert list(state_home.glob("*.ledger")) == []


# Keys that fail


def busy(source: Server, target: Server, count: int) -> list[bytes]:
    """The target has so many of the keys with other values."""
    keys = sorted(keys_of(source))[:count]
    for key in keys:
        target.do("SET", key, "mine")
    return keys


def letters(done: Copied) -> list[dict[str, Any]]:
    path = done.summary["dead_letters"]
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if path else []


def test_failed_keys_are_listed_and_tried_again(pair: tuple[Server, Server]) -> None:
    source, target = pair
    source.do("SET", b"\xff\r\n", "odd")
    target.do("SET", b"\xff\r\n", "mine")
    keys = [b"\xff\r\n", *busy(source, target, 20)]

    done = copy(source, target, "--on-conflict", "fail", "--job", "j", code=SOME_FAILED)

    found = letters(done)
    assert {base64.b64decode(line["key_base64"]) for line in found} == set(keys)
    assert {(line["db"], line["reason"]) for line in found} == {(0, "busy key")}
    assert all(line["partition"] and "has this key" in line["error"] for line in found)
    assert "\\xff\r\n" in {line["key"] for line in found}
    assert os.stat(done.summary["dead_letters"]).st_mode & 0o077 == 0
    assert done.counts["failed"] == 21 and done.counts["copied"] == KEYS - 20

    for key in keys[:10]:
        target.do("DEL", key)
    before = calls_of(source, "dump")
    again = resume("j", "--retry-failed", code=SOME_FAILED)
    assert {base64.b64decode(line["key_base64"]) for line in letters(again)} == set(keys[10:])
    assert again.counts["failed"] == 11 and again.counts["copied"] == KEYS - 10
    assert calls_of(source, "dump") - before <= 50

    for key in keys[10:]:
        target.do("DEL", key)
    last = resume("--retry-failed")
    assert last.counts["failed"] == 0 and last.counts["copied"] == KEYS + 1
    assert last.summary["dead_letters"] is None and last.summary["failures"] == []
    assert compare(source, target) == []


def test_max_failures_stops_early_and_can_be_resumed(pair: tuple[Server, Server]) -> None:
    source, target = pair
    keys = busy(source, target, KEYS // 2)
    flags = ("--on-conflict", "fail", "--batch-keys", "10", "--job", "j")

    done = copy(source, target, *flags, "--max-failures", "50", code=SOME_FAILED)

    assert done.summary["state"] == "failed"
    assert 50 < done.counts["failed"] < len(keys)
    assert "--max-failures allows 50" in done.stderr
    assert done.stderr.splitlines()[-1] == "rumpx resume j"
    again = resume("j", code=SOME_FAILED)
    assert again.counts["failed"] == len(keys) == len(letters(again))


def test_if_all_of_the_first_keys_fail_for_one_reason_it_stops(
    pair: tuple[Server, Server],
) -> None:
    source, target = pair
    busy(source, target, KEYS)
    # In small batches, or all would be in flight when it stops.
    flags = ("--on-conflict", "fail", "--batch-keys", "5", "--job", "j")

    done = copy(source, target, *flags, code=SOME_FAILED)

    assert done.summary["state"] == "failed"
    assert 1000 <= done.counts["failed"] < KEYS
    why = r"All of the first [\d,]+ keys failed for one reason \(busy key\)"
    assert re.search(why, done.stderr)
    assert done.stderr.splitlines()[-1] == "rumpx resume j"
