"""What a ledger tells of a job at any time: while it runs, killed, stopped, gone on with, done."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rumpx import __version__
from rumpx.cli.parsers import build_parser
from rumpx.errors import UsageError
from rumpx.ledger.history import read_story
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.history import Record
from rumpx.model.job import Job, Limits, Scope
from rumpx.model.job_options import options_of
from rumpx.model.results import Summary
from support.copying import Copying, copy, resume
from support.data import fill_mixed
from support.run import rumpx
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
KEYS = 6_000
SOME_FAILED, TARGET_FULL, SOURCE_UNUSABLE, TARGET_UNUSABLE = 3, 5, 6, 7
TIME_OVER, INTERRUPTED = 10, 130


@pytest.fixture
def pair(server: StartServer) -> tuple[Server, Server]:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, KEYS)
    return source, target


@pytest.fixture
def ledger(state_home: Path) -> Path:
    return state_home / "job.ledger"


def given(record: Record) -> dict[str, str]:
    return {option.flag: option.value for option in record.options if option.given}


def test_a_job_at_every_stage(pair: tuple[Server, Server], ledger: Path) -> None:
    """Throttled, stopped, killed, gone on with to its end."""
    source, target = pair
    limits = ("--max-keys-per-sec", "2000")
    with Copying(source, target, "--job", "job", *limits) as copying:
        copying.stop_at(target, 500)
        copying.finish(INTERRUPTED)
    stopped = read_story(ledger)
    with Copying.of("resume", "job", "--workers", "1") as copying:
        with copying.held_at(target, 4500):
            running = read_story(ledger)
            copying.run.send_signal(signal.SIGKILL, group=True)
        copying.run.wait()
        killed = read_story(ledger)
    done_ = resume()
    done = read_story(ledger)

    assert (stopped.state, stopped.exit_code) == ("stopped", INTERRUPTED)
    assert 500 <= stopped.summary.counts.copied < 4500
    assert (running.state, running.exit_code) == ("running", None)
    assert (killed.state, killed.exit_code) == ("killed", None)
    assert (done.state, done.exit_code, done.fraction) == ("done", 0, 1.0)
    assert stopped.fraction < killed.fraction < 1.0
    assert [(run.state, run.exit_code) for run in done.runs] == [
        ("stopped", INTERRUPTED),
        ("running", None),
        ("done", 0),
    ]
    assert [run.number for run in done.runs] == [1, 2, 3]
    assert all(run.version == __version__ for run in done.runs)
    assert done.runs[0].error == "Stopped by a signal."
    assert {point.run for point in done.points} == {1, 2, 3}
    assert given(done)["--max-keys-per-sec"] == "2000"
    # The same as the summary that the last run gave, but for how it was told.
    told = done.summary
    assert told.counts.copied == done_.counts["copied"] == KEYS
    assert json.loads(json.dumps(told.to_json()["content"])) == done_.summary["content"]
    for name in ("job", "runs", "source", "source_version", "target_version", "missing", "seconds"):
        assert getattr(told, name) == done_.summary[name], name
    assert told.held_seconds == pytest.approx(done_.summary["held_seconds"])
    rate = told.held_seconds["keys a second"]
    # Each run may have been held for the tenth of a second before its first SCAN, too.
    assert 0.5 * KEYS / 2000 < rate <= sum(p.seconds for p in done.points) + 0.1 * len(done.runs)


def test_the_series_tells_all_keys(pair: tuple[Server, Server], ledger: Path) -> None:
    source, target = pair
    done = copy(source, target, "--job", "job", "--max-keys-per-sec", "2500")

    record = read_story(ledger)

    assert sum(point.keys for point in record.points) == KEYS
    assert sum(point.payload_bytes for point in record.points) == done.counts["payload_bytes"]
    assert sum(point.seconds for point in record.points) == pytest.approx(
        record.points[-1].elapsed
    )
    assert len(record.points) >= 2
    assert any(point.source_latency is not None for point in record.points)


def test_a_comparison_is_told_until_the_job_goes_on(
    pair: tuple[Server, Server], ledger: Path
) -> None:
    source, target = pair
    copy(source, target, "--job", "job", "--verify")
    verified = read_story(ledger)
    target.do("DEL", "k1:1")
    assert rumpx("verify", "job").returncode == 4
    differs = read_story(ledger)
    resume()

    assert verified.verification and verified.verification.counts.equal == KEYS
    assert verified.verified and verified.verified >= (verified.runs[-1].ended or 0)
    assert differs.verification and differs.verification.differences == {"missing": 1}
    assert read_story(ledger).verification is None


def test_a_run_that_failed_says_why(server: StartServer, ledger: Path) -> None:
    source, target = server("7.0"), server("7.0", maxmemory="3mb")
    with source.raw() as raw:
        raw.many([("SET", f"k{n}", bytes(range(250)) * 40) for n in range(600)])

    copy(source, target, "--job", "job", "--max-target-memory", "off", code=TARGET_FULL)

    record = read_story(ledger)
    assert (record.state, record.exit_code) == ("failed", TARGET_FULL)
    assert "out of memory" in record.summary.error == record.runs[-1].error  # type: ignore[union-attr]
    assert record.runs[-1].counts.copied == record.summary.counts.copied > 0


def test_a_run_that_fails_after_the_last_key_is_not_done(
    server: StartServer, ledger: Path
) -> None:
    source, target = server("7.0"), server("7.0")
    source.do("SET", "k", "v")
    source.do("FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() end)")

    with Copying(source, target, "--job", "job", "--functions") as copying:
        with copying.held_at(target, 0):
            target.do("ACL", "SETUSER", "default", "-function")
        done = copying.finish(TARGET_UNUSABLE)

    assert done.counts["copied"] == 1
    record = read_story(ledger)
    assert (record.state, record.exit_code) == ("failed", TARGET_UNUSABLE)
    assert "failed" in rumpx("jobs").stdout


def test_a_resume_that_is_refused_leaves_no_trace(
    server: StartServer, ledger: Path
) -> None:
    source, target = server("7.0"), server("8.1", requirepass="right")
    fill_mixed(source, 500)
    copy(source, target, "--job", "job", "--verify", env={"RUMPX_TO_PASSWORD": "right"})
    before = read_story(ledger)

    assert rumpx("resume", "job", env={"RUMPX_TO_PASSWORD": "wrong"}).returncode != 0

    after = read_story(ledger)
    assert (after.state, after.runs, after.verification) == (
        "done",
        before.runs,
        before.verification,
    )


def test_a_job_that_makes_no_room_for_one_that_is_refused(
    pair: tuple[Server, Server], ledger: Path
) -> None:
    source, target = pair
    copy(source, target, "--job", "job")

    refused = rumpx("--from", "redis://127.0.0.1:1", "--to", target.uri, "--job", "job")

    assert refused.returncode == SOURCE_UNUSABLE
    assert read_story(ledger).summary.counts.copied == KEYS


def test_a_comparison_that_ends_early_takes_the_place_of_the_one_before(
    pair: tuple[Server, Server], ledger: Path
) -> None:
    source, target = pair
    copy(source, target, "--job", "job", "--verify")
    slow = ("--max-keys-per-sec", "2000", "--max-duration", "1s")

    assert rumpx("verify", "job", *slow).returncode == TIME_OVER

    then = read_story(ledger).verification
    assert then and (then.state, then.exit_code) == ("stopped", TIME_OVER)
    assert "the comparison did not finish" in rumpx("report", "job").stdout


def test_a_comparison_is_not_of_a_run_that_came_after_it_began(
    pair: tuple[Server, Server], ledger: Path
) -> None:
    source, target = pair
    copy(source, target, "--job", "job")
    with Copying.of("verify", "job", "--max-keys-per-sec", "3000") as verifying:
        wait_until(lambda: '"comparing"' in verifying.run.stderr, 30, "the comparison")
        resume()
        verifying.finish()

    assert read_story(ledger).verification is None


def test_options_are_those_of_the_last_run(pair: tuple[Server, Server], ledger: Path) -> None:
    source, target = pair
    with Copying(source, target, "--job", "job", "--max-failures", "5") as copying:
        copying.stop_at(target, 500)
        copying.finish(INTERRUPTED)
    resume("--workers", "3", "--max-failures", "7")

    told = given(read_story(ledger))
    assert (told["--workers"], told["--max-failures"]) == ("3", "7")


def test_keys_that_are_tried_again_are_work(server: StartServer, ledger: Path) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 1000)
    target.do("ACL", "SETUSER", "u", "on", "nopass", "+@all", "~nothing")
    env = {"RUMPX_TO_PASSWORD": "x"}
    uri = f"redis://u@127.0.0.1:{target.port}"
    copy(source, uri, "--job", "job", "--max-failures", "1000", code=SOME_FAILED, env=env)
    target.do("ACL", "SETUSER", "u", "~*")
    assert rumpx("resume", "job", "--retry-failed", env=env).returncode == 0

    record = read_story(ledger)
    again = [point for point in record.points if point.run == 2]
    assert sum(point.keys for point in again) == record.summary.counts.copied == 1000


DOWNGRADES = {
    4: "ALTER TABLE series DROP COLUMN lag;",
    3: "DROP TABLE losses;",
    2: "DROP TABLE retired;",
    1: "ALTER TABLE partitions DROP COLUMN kinds; DROP TABLE largest; DROP TABLE series;"
    "DROP TABLE runs; DROP TABLE verification;",
}


def as_version(version: int, ledger: Path) -> None:
    """Take away what later versions have beside it."""
    with closing(sqlite3.connect(ledger)) as database:
        for lower, statements in DOWNGRADES.items():
            if lower >= version:
                database.executescript(f"{statements} PRAGMA user_version = {lower};")


def keys_by_type(record: Record) -> int:
    assert isinstance(record.summary, Summary)
    return sum(count.keys for count in record.summary.content.types)


@pytest.mark.parametrize("version", DOWNGRADES)
def test_a_ledger_of_an_earlier_version(
    pair: tuple[Server, Server], ledger: Path, version: int
) -> None:
    source, target = pair
    with Copying(source, target, "--job", "job") as copying:
        copying.stop_at(target, 500)
        copying.finish(INTERRUPTED)
    booked = keys_by_type(read_story(ledger))
    as_version(version, ledger)

    assert "stopped" in rumpx("jobs").stdout
    with pytest.raises(UsageError, match=r"older rumpx.*rumpx resume job"):
        read_story(ledger)
    done = resume()

    assert done.counts["copied"] == KEYS
    record = read_story(ledger)
    assert record.state == "done"
    known = [1, 2] if version > 1 else [2]
    assert [run.number for run in record.runs] == known
    # Version 1 does not know the types of the keys before.
    assert keys_by_type(record) == (KEYS if version > 1 else KEYS - booked)


def test_of_the_options_none_is_missing() -> None:
    """Every option that says what a copy does is told; those that only show it are not."""
    shown = {
        "--progress", "--top", "--summary", "--report", "--log-file", "--log-format", "--metrics",
        "--on-end", "--config", "--version", "--print-completion", "--help", "--dry-run", "--job",
        "--state-dir", "--verify", "--strict", "--yes",
    }  # fmt: skip
    names = {
        name
        for action in build_parser()._actions
        for name in action.option_strings
        if name.startswith("--")
    }
    source, target = parse_endpoint("redis://a", "source"), parse_endpoint("redis://b", "target")

    told = [option.flag for option in options_of(Job(source, target))]

    assert set(told) == names - shown
    assert len(told) == len(set(told))


def test_options_are_told_as_they_were_given_but_for_secrets() -> None:
    source = parse_endpoint("redis://user:pl4nted@a:1/3", "source")
    target = parse_endpoint("rediss://b:2", "target")
    job = Job(
        source,
        target,
        Scope(match=(b"user:*", b"\xff\n")),
        workers=8,
        size_check=False,
        max_bytes_in_flight=3 * 2**20,
        timeout=0.5,
        limits=Limits(None, max_bytes_per_sec=1.5 * 2**20, schedule="08:00,full"),
    )

    options = options_of(job)

    assert [(o.flag, o.value) for o in options if o.given] == [
        ("--from", "redis://a:1/3"),
        ("--to", "rediss://b:2"),
        ("--workers", "8"),
        ("--match", "user:*"),
        ("--match", "\\xff\\n"),
        ("--no-size-check", "yes"),
        ("--max-bytes-in-flight", "3MiB"),
        ("--timeout", "500ms"),
        ("--max-source-latency", "off"),
        ("--max-bytes-per-sec", "1.5MiB"),
        ("--schedule", "08:00,full"),
    ]
    assert "pl4nted" not in repr(options)
