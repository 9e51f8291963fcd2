"""The ledger's disk full or read-only, the ledger damaged, of a newer version, or wanted by two:
it never ends in a silent fresh start, and never in a loss."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from rumpx.ledger.lock import is_held
from support.copying import Copying, assert_exact, at_rest, copy, follow, frozen, resume
from support.data import compare, fill_mixed, keys_of
from support.faults import full, seeded
from support.proxy import Proxy
from support.run import Running, rumpx, start_rumpx
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
StartProxy = Callable[..., Proxy]

KEYS = 15_000
TOLD = ("--progress", "json", "--summary", "-")


@pytest.fixture
def ends(server: StartServer) -> tuple[Server, Server]:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, KEYS)
    at_rest(source)
    return source, target


# --- disks ----------------------------------------------------------------------------------


class Disk(Protocol):
    """Where a ledger is, which can be made full."""

    folder: Path

    def fill(self, run: Running) -> None:
        """No write of this run's ledger succeeds any more."""

    def make_room(self, run: Running) -> None:
        """They do again."""


class SmallDisk:
    """A file system of its own, which gets really full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mount("-t", "tmpfs", "-o", "size=4m", "none", folder)

    def fill(self, run: Running | None = None) -> None:
        with contextlib.suppress(OSError), open(self.folder / "ballast", "ab", 0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def make_room(self, run: Running | None = None) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)


class Quota:
    """The ledger's files may not grow, by a limit that is set from outside. (It is one for all of
    the run's files, of which the others are smaller.)"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def fill(self, run: Running) -> None:
        sizes = [file.stat().st_size for file in self.folder.glob("job.ledger*")]
        self._limit(run, max(4096, min(sizes)))

    def make_room(self, run: Running) -> None:
        self._limit(run, resource.RLIM_INFINITY)

    @staticmethod
    def _limit(run: Running, size: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(run.pid).rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def close(self) -> None:
        pass


def mount(*words: str | Path) -> None:
    """Mount something, or skip the test where that is not allowed."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with contextlib.closing(SmallDisk(tmp_path / "disk")) as disk:
        yield disk


@pytest.fixture
def disk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Disk]:
    # A quota holds for every file of the run, and coverage's own would be complained of.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    with contextlib.closing(request.param(tmp_path / "disk")) as disk:
        yield disk


@pytest.mark.parametrize("disk", [SmallDisk, full(Quota)], indirect=True)
@pytest.mark.parametrize("killed", [False, full(True)])
def test_a_disk_that_is_full_for_a_while(
    ends: tuple[Server, Server], disk: Disk, killed: bool
) -> None:
    """The copy goes on, and so do the books, when there is room; an older state serves as well."""
    source, target = ends
    flags = ("--job", "job", "--state-dir", disk.folder)
    with Copying(source, target, *flags, "--progress", "none") as copying:
        with copying.held_at(target, KEYS // 4):
            disk.fill(copying.run)
        with copying.held_at(target, KEYS // 2):
            # Asked seldom: what it answers may not fill the disk either.
            wait_until(lambda: complains(copying.run), 60, "the ledger is in trouble", interval=1)
            if killed:
                copying.run.send_signal(9)
                copying.run.wait()
        disk.make_room(copying.run)
        if not killed:
            copying.finish()
    done = resume("--state-dir", disk.folder)
    assert_exact(done, source, target, KEYS)


def complains(run: Running) -> bool:
    """Whether a run tells, when it is asked how it goes, that it cannot write its ledger."""
    run.send_signal(signal.SIGUSR1)
    return "cannot be written" in run.stderr


@pytest.mark.parametrize("disk", [Quota, full(SmallDisk)], indirect=True)
def test_a_disk_that_stays_full(
    ends: tuple[Server, Server], disk: Disk, proxy: StartProxy
) -> None:
    """After `--retry-for` the run ends, and says how to go on."""
    source, target = ends
    way = proxy(source)
    flags = ("--job", "job", "--state-dir", disk.folder, "--retry-for", "1s")
    with Copying(way, target, *flags, "--progress", "none") as copying:
        with copying.held_at(target, KEYS // 4):
            way.rtt_ms = 1000  # so that it has not done all before
            disk.fill(copying.run)
        ended = copying.finish(5)
        way.rtt_ms = 0
        disk.make_room(copying.run)
    assert "cannot be written" in ended.stderr and "Make room" in ended.stderr
    assert_exact(follow(ended, *TOLD), source, target, KEYS)


@pytest.mark.parametrize("disk", [Quota, full(SmallDisk)], indirect=True)
def test_a_disk_that_stays_full_during_a_follow(ends: tuple[Server, Server], disk: Disk) -> None:
    source, target = ends
    place = ("--state-dir", str(disk.folder))
    few = ("--from", source.uri, "--to", target.uri, "--workers", "2", "--progress", "none")

    def in_step() -> bool:
        # While it starts, it cannot be reached.
        asked = rumpx("ctl", "job", "status", "--json", *place)
        return asked.returncode == 0 and json.loads(asked.stdout)["follow"]["phase"] == "in step"

    with start_rumpx(*few, "--follow", "--job", "job", "--retry-for", "1s", *place) as run:
        wait_until(in_step, 60, "it is in step", interval=0.2)
        disk.fill(run)
        ended = run.wait()
        assert ended.returncode == 5, ended.stderr
        assert "cannot be written" in ended.stderr and "Make room" in ended.stderr
        disk.make_room(run)
    source.do("SET", "meanwhile", "new")
    with start_rumpx("resume", "job", "--progress", "none", *place):
        wait_until(in_step, 60, "it is in step again", interval=0.2)
        assert compare(source, target) == []


@pytest.mark.parametrize("policy", ["fail", full("replace")])
def test_a_disk_that_is_full_at_the_start(
    ends: tuple[Server, Server], small_disk: SmallDisk, policy: str
) -> None:
    source, target = ends
    flags = ("--job", "job", "--state-dir", small_disk.folder, "--on-conflict", policy)
    small_disk.fill()
    refused = copy(source, target, *flags, code=2)
    assert "cannot be written" in refused.stderr and "--state-dir" in refused.stderr
    assert keys_of(target) == set()
    small_disk.make_room()
    assert_exact(copy(source, target, *flags), source, target, KEYS)


@pytest.mark.parametrize("number", [2, full(9)])
def test_a_read_only_disk(
    ends: tuple[Server, Server], small_disk: SmallDisk, number: int
) -> None:
    source, target = ends
    flags = ("--job", "job", "--state-dir", small_disk.folder)
    with Copying(source, target, *flags) as copying:
        copying.stop_at(target, KEYS // 4, number)
        copying.run.wait()
    mount("-o", "remount,ro", small_disk.folder)
    there = len(keys_of(target))
    for refused in (
        resume("--state-dir", small_disk.folder, code=2),
        copy(
            *(source, target, "--job", "other", "--on-conflict", "replace"),
            *("--state-dir", small_disk.folder),
            code=2,
        ),
    ):
        assert "Read-only file system" in refused.stderr and "--state-dir" in refused.stderr
    assert len(keys_of(target)) == there
    mount("-o", "remount,rw", small_disk.folder)
    assert_exact(resume("--state-dir", small_disk.folder), source, target, KEYS)


# --- damage ---------------------------------------------------------------------------------


def interrupted(source: Server | Proxy, target: Server, number: int, *flags: str) -> None:
    """A job that was ended in the middle by a signal."""
    with Copying(source, target, "--job", "job", *flags) as copying:
        copying.stop_at(target, KEYS // 4, number)
        copying.run.wait()


def cut_to(size: float) -> Callable[[Path], None]:
    return lambda ledger: os.truncate(ledger, int(ledger.stat().st_size * size))


def overwrite(start: float, what: bytes) -> Callable[[Path], None]:
    def damage(ledger: Path) -> None:
        with open(ledger, "r+b") as file:
            file.seek(int(ledger.stat().st_size * start))
            file.write(what)

    return damage


def run_sql(statement: str) -> Callable[[Path], None]:
    def damage(ledger: Path) -> None:
        with contextlib.closing(sqlite3.connect(ledger)) as database, database:
            database.execute(statement)

    return damage


DAMAGES = [
    pytest.param(cut_to(0), "damaged", id="emptied"),
    pytest.param(cut_to(0.5), "damaged", id="cut in half"),
    full(cut_to(0.7), "damaged", id="cut a little"),
    full(overwrite(0, b"no SQLite file\n" * 20), "damaged", id="another file"),
    pytest.param(overwrite(0.5, bytes(4096)), "damaged", id="a page of zeros"),
    full(overwrite(0.3, random.Random(1).randbytes(4096)), "damaged", id="a page of noise"),
    pytest.param(run_sql("PRAGMA user_version = 99"), "newer rumpx", id="a newer schema"),
    full(run_sql("PRAGMA application_id = 7"), "damaged", id="another program's"),
]

CONTENTS = [
    run_sql("UPDATE job SET facts = '[]'"),
    full(run_sql("UPDATE job SET record = '{}'")),
    full(run_sql("DELETE FROM job")),
    full(run_sql("DROP TABLE partitions")),
    full(run_sql("DROP TABLE failures")),
    full(run_sql("UPDATE partitions SET cursor = 'x'")),
    full(run_sql("UPDATE partitions SET bounds = '{}'")),
    full(run_sql("UPDATE partitions SET counts = 'null'")),
    full(run_sql("UPDATE partitions SET kinds = 'null'")),
    full(run_sql("DROP TABLE series")),
    full(run_sql("UPDATE series SET held = '{'")),
    run_sql("UPDATE runs SET run = '{}'"),
    full(run_sql("UPDATE partitions SET after = '['")),
]


@pytest.mark.parametrize("damage", CONTENTS)
def test_a_ledger_that_makes_no_sense_is_refused(
    ends: tuple[Server, Server], state_home: Path, damage: Callable[[Path], None]
) -> None:
    source, target = ends
    interrupted(source, target, 2)
    ledger = state_home / "job.ledger"
    damage(ledger)
    before, there = ledger.read_bytes(), len(keys_of(target))
    refused = resume(code=2)
    assert "damaged" in refused.stderr and str(ledger) in refused.stderr
    assert "Traceback" not in refused.stderr
    copy(source, target, "--job", "job", "--on-conflict", "replace", code=2)
    assert rumpx("jobs").returncode == 0
    assert ledger.read_bytes() == before and len(keys_of(target)) == there


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_damaged_ledger_is_refused_and_left_as_it_is(
    ends: tuple[Server, Server], state_home: Path, damage: Callable[[Path], None], words: str
) -> None:
    source, target = ends
    interrupted(source, target, 2)
    ledger = state_home / "job.ledger"
    damage(ledger)
    before, there = ledger.read_bytes(), len(keys_of(target))

    for refused in (resume(code=2), copy(source, target, "--job", "job", code=2)):
        assert words in refused.stderr and str(ledger) in refused.stderr
        assert "Traceback" not in refused.stderr

    assert ledger.read_bytes() == before and len(keys_of(target)) == there
    listed = rumpx("jobs")
    assert listed.returncode == 0 and "unreadable" in listed.stdout


@pytest.mark.parametrize("times", [2, full(40)])
def test_damage_anywhere_is_an_error_or_no_harm(
    ends: tuple[Server, Server], state_home: Path, times: int
) -> None:
    """A sector of noise or zeros in the ledger, or in the log that a killed run leaves beside it,
    or that log cut or gone: the job is refused, or goes on from an older state, and loses
    nothing."""
    source, target = ends
    rng = seeded()
    for _ in range(times):
        target.do("FLUSHALL")
        for file in state_home.glob("job.*"):
            file.unlink()
        interrupted(source, target, rng.choice([2, 9]))
        spoil(rng, state_home)
        done = rumpx("resume", "job", *TOLD)
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr[-3000:]
        if done.returncode == 0:
            assert compare(source, target) == []


def spoil(rng: random.Random, folder: Path) -> None:
    files = [file for file in folder.glob("job.ledger*") if not file.name.endswith("-shm")]
    file = rng.choice(sorted(files))
    size = file.stat().st_size
    print(file.name, size)
    what = rng.randrange(4)
    if what == 0:
        os.truncate(file, rng.randrange(size))
    elif what == 1 and file.name.endswith("-wal"):
        file.unlink()
    else:
        sector = 512 * rng.randrange(max(1, size // 512))
        noise = rng.randbytes(512) if what == 2 else bytes(512)
        overwrite(sector / size, noise)(file)


# --- two at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["resume", "job"], full(["jobs", "--prune"])])
def test_a_job_that_is_being_done_is_left_alone(
    ends: tuple[Server, Server], words: list[str]
) -> None:
    source, target = ends
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, KEYS // 4):
            there = len(keys_of(target))
            second = rumpx(*words)
            assert second.returncode == (11 if words[0] == "resume" else 0)
            refused = copy(source, target, "--job", "job", "--on-conflict", "replace", code=11)
            assert "Another process works on the job job now" in refused.stderr
            assert len(keys_of(target)) == there
        done = copying.finish()
    assert_exact(done, source, target, KEYS)


@pytest.mark.parametrize("number", [3, full(8)])
def test_of_several_that_go_on_at_the_same_moment_one_does(
    ends: tuple[Server, Server], proxy: StartProxy, number: int
) -> None:
    source, target = ends
    way = proxy(source)
    interrupted(way, target, 9, "--connect-timeout", "60s")
    way.stall()  # so that nobody can be done before the others have tried
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(start_rumpx("resume", "job")) for _ in range(number)
        ]
        wait_until(lambda: sum(run.alive for run in runs) == 1, 60, "all but one are refused")
        way.go()
        codes = sorted(run.wait().returncode for run in runs)
    assert codes == [0, *[11] * (number - 1)]
    assert_exact(resume(), source, target, KEYS)


@pytest.mark.parametrize("looks", [1, full(5)])
def test_a_job_that_is_just_being_looked_at_can_be_taken(
    ends: tuple[Server, Server], state_home: Path, looks: int
) -> None:
    """`rumpx jobs` asks by the lock itself whether a job is held."""
    source, target = ends
    interrupted(source, target, 2)
    lock = state_home / "job.lock"
    with contextlib.ExitStack() as stack:
        looking = [stack.enter_context(open(lock, "rb")) for _ in range(looks)]
        for file in looking:
            fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_held(state_home / "job.ledger"), "several may look"
        run = stack.enter_context(start_rumpx("resume", "job", *TOLD))
        # It asks for half a second only, whatever keeps us from looking at it meanwhile.
        with frozen(run, lambda: opened(run, lock)):
            for file in looking:
                file.close()
        assert run.wait().returncode == 0, run.stderr
    assert_exact(resume(), source, target, KEYS)


def opened(run: Running, path: Path) -> bool:
    return any(file.path == str(path) for file in psutil.Process(run.pid).open_files())
