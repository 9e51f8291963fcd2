"""Options that exclude or need each other are refused, each with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from rumpx.cli.main import main
from rumpx.model.clashes import ALL, Clash

ENDS = ("--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:2")
WORDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("exit-when-off", "schedule"): (*ENDS, "--exit-when-off"),
    ("prefixes", "partitions"): (*ENDS, "--prefixes", "a", "--partitions", "4"),
    ("prefixes", "match"): (*ENDS, "--prefixes", "a", "--match", "a*"),
    ("read-from", "from"): ("--from", "unix:///s", "--to", "redis://b", "--read-from", "replica"),
    ("db", "from"): ("--from", "redis://a/1", "--to", "redis://b", "--db", "1"),
    ("workers", "engine"): (*ENDS, "--workers", "2", "--engine", "dask"),
    ("dask-scheduler", "engine"): (*ENDS, "--dask-scheduler", "tcp://127.0.0.1:3"),
    ("map-db", "to"): ("--from", "redis://a", "--to", "redis://b/1", "--map-db", "0:1"),
    ("delete-extra", "repair"): ("verify", *ENDS, "--delete-extra"),
    ("yes", "delete-extra"): ("verify", *ENDS, "--repair", "--yes"),
    ("repair", "sample"): ("verify", *ENDS, "--repair", "--sample", "1%"),
    ("strict", "verify"): (*ENDS, "--strict"),
    ("top", "progress"): (*ENDS, "--top", "--progress", "line"),
    ("report", "summary"): (*ENDS, "--report", "-", "--summary", "-"),
}


def test_each_clash_has_a_command_line() -> None:
    assert [clash.options for clash in ALL] == list(WORDS)


@pytest.mark.parametrize("clash", ALL, ids=lambda clash: "-".join(clash.options))
def test_it_is_refused(
    clash: Clash, capsys: pytest.CaptureFixture[str], state_home: Path
) -> None:
    assert main(list(WORDS[clash.options])) == 2
    assert capsys.readouterr().err == f"rumpx: {clash.message}\n"
    assert list(state_home.rglob("*.ledger")) == []
