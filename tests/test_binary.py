"""The program in one file, on a machine without Python: `tox -e binary` builds it and runs this.

RUMPX_TEST_PROGRAM names it. Modules that start rumpx as a process test it too, if that variable is
set: Ctrl-C is in `test_signals.py`, kills at any moment are in `test_faults_kills.py`. Where these
tests have root's rights, some run in a root folder that holds nothing but the file, a shell and a
few tools.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rumpx import __version__
from rumpx.errors import SourceUnusable, UsageError
from rumpx.guides import read_guides
from support.copying import assert_exact, copy, held
from support.data import compare, fill_mixed
from support.proxy import Proxy
from support.run import Running, program, rumpx, rumpx_pty, start_rumpx
from support.servers import Server, free_port
from support.tls import TlsFiles
from support.waiting import wait_until

pytestmark = [
    pytest.mark.binary,
    pytest.mark.skipif(program() is None, reason="RUMPX_TEST_PROGRAM names no program"),
]

StartServer = Callable[..., Server]
Pair = tuple[Server, Server]

KEYS = 20_000
VERSION_SECONDS = 1.5


@pytest.fixture(autouse=True)
def no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is on PATH, and the program has not been unpacked yet; returns where it will be."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rumpx"


@pytest.fixture
def pair(server: StartServer) -> Pair:
    source, target = server("7.0"), server("9.1")
    fill_mixed(source, KEYS)
    return source, target


def run_program(
    *words: str | Path, file: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the program with these variables and no others."""
    return subprocess.run(
        [file or str(program()), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- unpacked once -------------------------------------------------------------------------


def test_the_version_comes_at_once_with_an_empty_environment(tmp_path: Path) -> None:
    """Unpacked by the first start; the best of three, since the machine has other work too."""
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        done = run_program("--version", TMPDIR=str(tmp_path))
        seconds.append(time.monotonic() - begun)
        assert (done.returncode, done.stdout) == (0, f"rumpx {__version__}\n")
    print("seconds:", seconds)
    assert min(seconds) < VERSION_SECONDS


def test_it_is_unpacked_once_and_leaves_nothing_else(no_python: Path) -> None:
    assert rumpx("--version").returncode == 0
    (place,) = no_python.iterdir()
    made = place.stat().st_ctime_ns

    assert rumpx("--version").returncode == 0

    assert [each.stat().st_ctime_ns for each in no_python.iterdir()] == [made]
    assert no_python.stat().st_mode & 0o777 == 0o700


def test_starts_at_the_same_time_do_not_disturb_each_other(no_python: Path) -> None:
    runs = [start_rumpx("--version") for _ in range(4)]
    try:
        assert [run.wait().returncode for run in runs] == [0, 0, 0, 0]
    finally:
        for run in runs:
            run.stop()
    (place,) = no_python.iterdir()
    assert sorted(path.name for path in place.iterdir()) == ["_internal", "rumpx"]


def test_a_start_that_was_killed_is_cleaned_up_after(no_python: Path) -> None:
    left = no_python / ".new-abcdef"
    (left / "_internal").mkdir(parents=True)
    os.utime(left, (0, 0))

    assert rumpx("--version").returncode == 0

    assert not left.exists()


@pytest.mark.parametrize("lost", ["rumpx", "_internal/base_library.zip"])
def test_a_place_that_lost_a_file_is_filled_again(no_python: Path, lost: str) -> None:
    """As by a cleaner of old files."""
    assert rumpx("--version").returncode == 0
    (place,) = no_python.iterdir()
    (place / lost).unlink()

    assert rumpx("--version").returncode == 0

    assert (place / lost).exists() and list(no_python.iterdir()) == [place]
    assert sorted(path.name for path in place.iterdir()) == ["_internal", "rumpx"]


def test_a_cleaner_of_old_files_sees_a_lock(server: StartServer, no_python: Path) -> None:
    source = server("7.0")
    source.pause()
    with start_rumpx("--from", source.uri, "--to", source.uri, "--connect-timeout", "60s"):
        wait_until(lambda: list(no_python.glob("1*")), 20, "it is unpacked")
        (place,) = no_python.glob("1*")

        def locked() -> bool:
            folder = os.open(place, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(folder)
            return False

        wait_until(locked, 20, "the folder is locked")
    source.resume()


def test_a_users_own_link_is_followed(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "rumpx").symlink_to(large)

    assert run_program("--version", HOME=str(tmp_path)).returncode == 0

    assert len(list(large.iterdir())) == 1


def test_another_users_folder_is_not_used(tmp_path: Path) -> None:
    """In /tmp each user can make one of the name that it looks for."""
    theirs, ours = tmp_path / "theirs", tmp_path / "tmp"
    for folder in (theirs, ours):
        folder.mkdir()
    (ours / f"rumpx-{os.getuid()}").symlink_to(theirs)

    done = run_program("--version", TMPDIR=str(ours))

    assert done.returncode == 1 and list(theirs.iterdir()) == []
    assert "another user's" in done.stderr and "XDG_CACHE_HOME" in done.stderr


def test_half_a_file_says_so(tmp_path: Path) -> None:
    whole = Path(str(program())).read_bytes()
    half = tmp_path / "half"
    half.write_bytes(whole[: len(whole) // 2])
    half.chmod(0o700)

    done = run_program("--version", file=half, HOME=str(tmp_path), TMPDIR=str(tmp_path))

    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("is this file whole") == 2, done.stderr
    assert not list(tmp_path.rglob(".new-*"))


def as_root(*words: str) -> list[str]:
    """Words that run a command in mounts of its own, or a skip."""
    unshare = shutil.which("unshare", path="/usr/bin:/bin")
    if os.geteuid() != 0 or not unshare:
        pytest.skip("needs root's rights, and unshare")
    if subprocess.run([unshare, "--mount", "/bin/true"], check=False).returncode:
        pytest.skip("the system allows no mounts of our own")
    return [unshare, "--mount", *words]


@pytest.mark.parametrize("options", ["noexec", "size=1m"])
def test_a_folder_that_does_not_do_is_named_or_passed_over(tmp_path: Path, options: str) -> None:
    """Programs may not run there, or it is full."""
    bad = tmp_path / "bad"
    bad.mkdir()
    mount = 'PATH=/usr/bin:/bin mount -t tmpfs -o "$1" none "$0" && shift && exec "$@"'

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        command = as_root("/bin/sh", "-c", mount, str(bad), options, str(program()), "--version")
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    other = run(HOME=str(bad), TMPDIR=str(tmp_path))
    none = run(HOME=str(bad), TMPDIR=str(bad))

    assert (other.returncode, other.stdout, other.stderr) == (0, f"rumpx {__version__}\n", "")
    assert none.returncode == 1 and none.stdout == ""
    reason = "(mount option noexec)" if options == "noexec" else "is the disk full"
    assert none.stderr.count(f"  {bad}/") == none.stderr.count(reason) == 2, none.stderr
    assert "XDG_CACHE_HOME" in none.stderr and "glibc" in none.stderr


# --- it does what rumpx does ---------------------------------------------------------------


def test_a_copy_by_four_workers_is_verified_and_reported(pair: Pair, tmp_path: Path) -> None:
    done = copy(*pair, "--workers", "4", "--job", "move", "--verify")
    report = rumpx("report", "move", "--html", tmp_path / "page.html")

    assert_exact(done, *pair, KEYS)
    assert report.returncode == 0
    assert "<svg" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert rumpx("verify", "move", "--repair").returncode == 0
    assert "move" in rumpx("jobs").stdout


def test_kill_9_of_the_process_that_people_see_leaves_nothing(
    pair: Pair, proxy: Callable[..., Proxy]
) -> None:
    """It is the coordinator itself, not a parent of it, and its job goes on where it was."""
    source, target = pair
    slow = proxy(source)
    ends = ("--from", slow.uri, "--to", target.uri)
    with start_rumpx(*ends, "--workers", "4", "--batch-keys", "20", "--job", "move") as run:
        with held(run, lambda: target.do("DBSIZE") > 100):
            names = {process.name() for process in run.descendants()}
            assert len(run.workers()) == 4 and "rumpx-worker" in names
            run.send_signal(signal.SIGKILL)
        run.process.wait(20)
        wait_until(lambda: run.orphans() == [], 20, "all its processes have ended")

    done = rumpx("resume", "move")

    assert done.returncode == 0, done.stderr
    assert compare(source, target) == []


def test_bars_in_a_terminal(pair: Pair) -> None:
    shown = rumpx_pty("--from", pair[0].uri, "--to", pair[1].uri, "--workers", "2", cols=100)

    assert shown.returncode == 0 and shown.modes_restored
    assert any("━" in line for frame in shown.frames for line in frame)
    assert f"copied {KEYS:,} keys" in shown.text


def test_all_guides_examples_and_completions_are_inside() -> None:
    for name, text in read_guides().items():
        assert rumpx("help", name).stdout == text
    for name in re.findall(r"rumpx example (\S+)", rumpx("example").stdout):
        assert rumpx("example", name).returncode == 0
    for shell in ("bash", "zsh", "tcsh"):
        assert "max-source-latency" in rumpx("--print-completion", shell).stdout


def test_options_that_need_an_extra_elsewhere(pair: Pair) -> None:
    """Metrics and time zones are inside; Dask is not, and the message says how to get it."""
    ends = ("--from", pair[0].uri, "--to", pair[1].uri)
    zones = ("--schedule", "Mon-Sun 00:00,full", "--time-zone", "Europe/Paris")
    done = rumpx(*ends, "--metrics", str(free_port()), *zones)
    assert done.returncode == 0, done.stderr

    refused = rumpx(*ends, "--engine", "dask", "--dask-scheduler", "tcp://127.0.0.1:1")
    assert refused.returncode == UsageError.exit_code
    assert "program in one file lacks" in refused.stderr and "rumpx[dask]" in refused.stderr


def test_a_command_at_the_end_gets_the_users_environment(pair: Pair, tmp_path: Path) -> None:
    """Libraries of the program in one file would break others, and rumpx itself must run in it."""
    told = tmp_path / "told"
    hook = f'echo "$LD_LIBRARY_PATH" > {told}; env >> {told}; {program()} --version >> {told}'
    ends = ("--from", pair[0].uri, "--to", pair[1].uri)

    mine = {"LD_LIBRARY_PATH": "/of/mine"}
    done = rumpx(*ends, "--on-end", f"PATH=/usr/bin:/bin; {hook}", env=mine)

    assert done.returncode == 0
    text = told.read_text()
    assert text.startswith("/of/mine\n") and text.endswith(f"rumpx {__version__}\n")
    names = {line.partition("=")[0] for line in text.splitlines()}
    assert not [name for name in names if name.startswith("_PYI_")]
    assert names.isdisjoint({"LD_LIBRARY_PATH_ORIG", "rumpx"})


# --- where there is nothing else -----------------------------------------------------------

TOOLS = ("sh", "id", "mkdir", "find", "mktemp", "tail", "tar", "gzip", "rm", "mv", "wc")
LIBC = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1")
MOUNTED = (
    "PATH=/usr/sbin:/usr/bin:/bin; mount -t proc none proc && mount --rbind /dev dev && "
    'exec chroot . "$@"'
)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A root folder with the program, the tools that unpack it, and the C library."""
    root = tmp_path / "root"
    for name in ("usr/bin", "proc", "dev", "tmp", "home", "etc"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    shutil.copy(str(program()), root / "usr/bin/rumpx")
    for tool in TOOLS:
        found = shutil.which(tool, path="/usr/bin:/bin")
        assert found, tool
        shutil.copy(found, root / "usr/bin" / tool)
        _take_libraries(Path(found), root)
    return root


def _take_libraries(program: Path, root: Path) -> None:
    listed = subprocess.run(["/usr/bin/ldd", program], capture_output=True, text=True, check=True)
    for path in map(Path, re.findall(r"(/\S+) \(0x", listed.stdout)):
        place = root / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
        if path.name == "libc.so.6":
            for name in LIBC:
                shutil.copy(path.with_name(name), place.with_name(name))


def in_bare_root(bare: Path, words: Sequence[str | Path]) -> Running:
    """Run there, with nothing in the environment but a home and a PATH."""
    mount = as_root("/bin/sh", "-c", f'cd "$0" && {MOUNTED}', str(bare))
    clean = ["/usr/bin/env", "-i", "HOME=/home", "PATH=/usr/bin"]
    return Running([], command=[*clean, *mount, "/usr/bin/rumpx", *map(str, words)])


def test_a_root_folder_without_python_is_enough(bare: Path, pair: Pair) -> None:
    ends = ("--from", pair[0].uri, "--to", pair[1].uri)
    steps: list[tuple[str, ...]] = [
        ("--version",),
        ("check", *ends),
        (*ends, "--workers", "4", "--job", "move", "--verify"),
        ("report", "move", "--html", "/home/page.html"),
        ("help", "resume"),
    ]
    for words in steps:
        with in_bare_root(bare, words) as run:
            done = run.wait(60)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    assert compare(*pair) == []
    assert not list(bare.rglob("*python3"))
    assert (bare / "home/page.html").exists()


def test_the_systems_authorities_are_trusted_wherever_they_are(
    bare: Path, server: StartServer, tls_files: TlsFiles
) -> None:
    """Red Hat keeps them where the Python of the program does not look."""
    source, target = server("7.0", tls=tls_files), server("9.1")
    fill_mixed(source, 100)
    words = ("--from", source.tls_uri, "--to", target.uri)
    with in_bare_root(bare, words) as run:
        assert run.wait(30).returncode == SourceUnusable.exit_code
    place = bare / "etc/pki/tls/certs/ca-bundle.crt"
    place.parent.mkdir(parents=True)
    shutil.copy(tls_files.ca, place)

    with in_bare_root(bare, words) as run:
        done = run.wait(30)

    assert done.returncode == 0, done.stderr
