"""Options that exclude or need each other are refused, each with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from rumpx.cli.main import main
from rumpx.model.clashes import ALL, IN_COPY, Clash

ENDS = ("--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:2")
WORDS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("exit-when-off", "schedule"), (*ENDS, "--exit-when-off")),
    (("prefixes", "partitions"), (*ENDS, "--prefixes", "a", "--partitions", "4")),
    (("prefixes", "match"), (*ENDS, "--prefixes", "a", "--match", "a*")),
    (("read-from", "from"), ("--from", "unix:///s", "--to", "redis://b", "--read-from", "replica")),
    (("db", "from"), ("--from", "redis://a/1", "--to", "redis://b", "--db", "1")),
    (("workers", "engine"), (*ENDS, "--workers", "2", "--engine", "dask")),
    (("dask-scheduler", "engine"), (*ENDS, "--dask-scheduler", "tcp://127.0.0.1:3")),
    (("feed", "follow"), (*ENDS, "--max-deletes", "0")),
    (("follow", "on-conflict"), (*ENDS, "--follow", "--on-conflict", "skip")),
    (("follow", "type"), (*ENDS, "--follow", "--type", "hash")),
    (("follow", "read-from"), (*ENDS, "--follow", "--read-from", "replica")),
    (("follow", "engine"), (*ENDS, "--follow", "--engine", "dask")),
    (("map-db", "to"), ("--from", "redis://a", "--to", "redis://b/1", "--map-db", "0:1")),
    (("delete-extra", "repair"), ("verify", *ENDS, "--delete-extra")),
    (("yes", "delete-extra"), ("verify", *ENDS, "--repair", "--yes")),
    (("repair", "sample"), ("verify", *ENDS, "--repair", "--sample", "1%")),
    (("yes", "delete-extra"), (*ENDS, "--yes")),
    (("follow", "verify"), (*ENDS, "--follow", "--verify")),
    (("strict", "verify"), (*ENDS, "--strict")),
    (("top", "progress"), (*ENDS, "--top", "--progress", "line")),
    (("report", "summary"), (*ENDS, "--report", "-", "--summary", "-")),
]


def test_each_clash_has_a_command_line() -> None:
    assert [clash.options for clash in ALL] == [options for options, _ in WORDS]


@pytest.mark.parametrize(
    ("clash", "words"),
    [(clash, words) for clash, (_, words) in zip(ALL, WORDS, strict=False)],
    ids=lambda each: "-".join(each.options) if isinstance(each, Clash) else "",
)
def test_it_is_refused(
    clash: Clash, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], state_home: Path
) -> None:
    assert main(list(words)) == 2
    assert capsys.readouterr().err == f"rumpx: {clash.message}\n"
    assert list(state_home.rglob("*.ledger")) == []


@pytest.mark.parametrize("clash", IN_COPY, ids=lambda clash: "-".join(clash.options))
def test_a_dry_run_refuses_it_like_the_copy(
    clash: Clash, capsys: pytest.CaptureFixture[str]
) -> None:
    words = next(words for options, words in reversed(WORDS) if options == clash.options)
    assert main([*words, "--dry-run"]) == 2
    assert capsys.readouterr().err == f"rumpx: {clash.message}\n"
