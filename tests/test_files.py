"""Files that rumpx leaves: who may read them; and those that it trusts: who may write them."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rumpx import files
from rumpx.errors import UsageError
from rumpx.files import open_anew, write_text
from support.run import rumpx
from support.servers import Server, available


@pytest.fixture(autouse=True)
def usual_mask() -> None:
    """Of most systems: others may read what is made."""
    os.umask(0o022)


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    version = available()[-1]
    with Server(version) as source, Server(version) as target:
        yield source, target


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_whatever_names_keys_is_for_its_owner_alone(
    pair: tuple[Server, Server], tmp_path: Path, state_home: Path
) -> None:
    source, target = pair
    source.do("SET", "private:name", "1")
    target.do("SET", "private:name", "theirs")
    ends = ("--from", source.uri, "--to", target.uri, "--job", "job", "--on-conflict", "fail")
    told = {"--summary": "s.json", "--report": "r.html", "--log-file": "log"}
    rumpx(*ends, *(word for flag, name in told.items() for word in (flag, tmp_path / name)))
    rumpx("verify", "job", "--differences", tmp_path / "differences")
    rumpx("report", "job", "--html", tmp_path / "again.html")

    made = [tmp_path / name for name in (*told.values(), "differences", "again.html")]
    made += [state_home / "job.failed.jsonl", state_home / "job.ledger"]
    assert {path.name: oct(_mode(path)) for path in made} == {
        path.name: oct(0o600) for path in made
    }
    assert _mode(state_home) == 0o700


def test_a_file_that_was_there_keeps_its_permissions(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text("old")
    page.chmod(0o644)
    write_text(str(page), "new", "--report")
    assert (page.read_text(), _mode(page)) == ("new", 0o644)


def test_a_list_is_never_written_through_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = tmp_path / "job.differences.jsonl"
    planted.symlink_to(victim)
    with open_anew(planted) as file:
        file.write("ours")
    assert victim.read_text() == "precious"
    assert (planted.read_text(), planted.is_symlink(), _mode(planted)) == ("ours", False, 0o600)


def test_the_list_of_failed_keys_is_never_written_through_a_planted_link(
    pair: tuple[Server, Server], tmp_path: Path, state_home: Path
) -> None:
    source, target = pair
    source.do("SET", "k", "1")
    target.do("SET", "k", "theirs")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    state_home.mkdir(parents=True, mode=0o700)
    for name in ("job.failed.jsonl", "job.failed.jsonl.new"):
        (state_home / name).symlink_to(victim)
    rumpx("--from", source.uri, "--to", target.uri, "--job", "job", "--on-conflict", "fail")
    assert victim.read_text() == "precious"
    assert json.loads((state_home / "job.failed.jsonl").read_text())["key"] == "k"


# Pipes


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_that_no_process_reads_does_not_hold_up_the_end(
    pair: tuple[Server, Server], pipe: Path
) -> None:
    source, target = pair
    source.do("SET", "k", "1")
    ends = ("--from", source.uri, "--to", target.uri)
    done = rumpx(*ends, "--report", pipe, "--progress", "none", timeout=30)
    assert done.returncode == 0
    assert f"--report: {pipe} cannot be written: no process reads it." in done.stderr


def test_a_pipe_whose_reader_stops_reading(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PIPE_SECONDS", 0.2)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(UsageError, match="the process that reads it has stopped reading"):
            write_text(str(pipe), "x" * 10**6, "--report")
    finally:
        os.close(reader)


def test_a_pipe_that_is_read_gets_all(pipe: Path) -> None:
    came: list[str] = []
    reader = threading.Thread(target=lambda: came.append(pipe.read_text()))
    keeper = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that the order does not matter
    reader.start()
    write_text(str(pipe), "page " * 10**5, "--report")
    reader.join()
    os.close(keeper)
    assert came == ["page " * 10**5]


# Files and folders that other users may write


def test_a_ledger_that_others_may_write_is_not_trusted(
    pair: tuple[Server, Server], state_home: Path
) -> None:
    """A planted one could name any file as that of a password, and any server to send it to."""
    source, target = pair
    rumpx("--from", source.uri, "--to", target.uri, "--job", "job")
    (state_home / "job.ledger").chmod(0o666)
    for words in (("resume", "job"), ("verify", "job"), ("report", "job")):
        done = rumpx(*words)
        assert done.returncode == 2
        assert "is not trusted, since every user may write to it" in done.stderr
    assert "is not trusted" in rumpx("jobs").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_ledger_of_another_user_is_not_trusted(
    pair: tuple[Server, Server], state_home: Path
) -> None:
    source, target = pair
    rumpx("--from", source.uri, "--to", target.uri, "--job", "job")
    os.chown(state_home / "job.ledger", 65534, 65534)
    done = rumpx("resume", "job")
    assert done.returncode == 2
    assert "is not trusted, since it belongs to nobody" in done.stderr


def test_a_folder_that_others_may_write_is_told_of(
    pair: tuple[Server, Server], state_home: Path
) -> None:
    source, target = pair
    state_home.mkdir(parents=True)
    state_home.chmod(0o777)
    done = rumpx("--from", source.uri, "--to", target.uri, "--progress", "line")
    assert done.returncode == 0
    assert f"files in {state_home}, since every user may write to it: chmod 700." in done.stderr


def test_options_that_others_may_write_are_told_of(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    source, target = pair
    config = tmp_path / "rumpx.toml"
    config.write_text(f'from = "{source.uri}"\nto = "{target.uri}"\n')
    assert "is used" not in rumpx("--config", config).stderr
    config.chmod(0o646)
    done = rumpx("--config", config)
    assert done.returncode == 0
    assert f"--config {config} is used, though every user may write to it." in done.stderr
