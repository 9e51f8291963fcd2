"""README.md and CONTRIBUTING.md say what is true: options, fields, exit codes, files."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import pytest

import benchmarks.__main__
from rumpx import errors
from rumpx.cli.parsers import (
    build_check_parser,
    build_ctl_parser,
    build_jobs_parser,
    build_parser,
    build_report_parser,
    build_resume_parser,
    build_verify_parser,
)
from rumpx.errors import EXIT_DIFFERENCES, EXIT_OK, EXIT_SOME_KEYS_FAILED, RumpxError
from rumpx.model.counts import Counts
from rumpx.model.limits import NAMED
from rumpx.model.results import (
    KeyFailure,
    PartitionSummary,
    PrefixDifferences,
    Summary,
    Verification,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SET_UP = [
    "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/rumpx demo",
    "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
]
BENCHMARK = r"python -m benchmarks[^`\n]*"

pytestmark = pytest.mark.smoke


def section(text: str, title: str) -> str:
    """The part of a page under a heading."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, title
    return found[1]


def first_cells(text: str) -> set[str]:
    """What stands in backticks in the first column of a section's table."""
    rows = re.findall(r"^\|((?:[^|\\]|\\.)*)\|", text, re.M)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_set_up_commands_are_there() -> None:
    assert [line for line in README.splitlines() if "venv .venv" in line] == SET_UP
    assert SET_UP[1] in CONTRIBUTING
    assert SET_UP[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_readme_has_every_option_and_no_other() -> None:
    known = options_of(build_parser())
    gentle = section(README, "Gentle on production")
    told = {cell.split()[0] for cell in first_cells(section(README, "Options") + gentle)}
    assert told == known - {"-from", "-to"}
    others = [
        build_check_parser(),
        build_resume_parser(),
        build_jobs_parser(),
        build_ctl_parser(),
        build_verify_parser(),
        build_report_parser(),
    ]
    everywhere = known.union(*map(options_of, others))
    assert options_in(re.sub(BENCHMARK, "", README)) <= everywhere


def test_readme_has_the_options_of_the_other_commands() -> None:
    limits = section(README, "Gentle on production")
    options = section(README, "Options") + limits
    resume = options_in(section(README, "Resume") + limits)
    assert resume >= options_of(build_resume_parser()) - {"-h", "--help"}
    assert resume >= options_of(build_jobs_parser()) - {"-h", "--help"}
    running = section(README, "While it runs")
    assert options_in(running) >= options_of(build_ctl_parser()) - {"-h", "--help"}
    assert set(NAMED) <= set(re.findall(r"`([a-z-]+)`", running))
    check = options_in(section(README, "Check first") + options)
    assert check >= options_of(build_check_parser()) - {"-h", "--help"}
    report = options_in(section(README, "Watch it, and show it"))
    assert report >= options_of(build_report_parser()) - {"-h", "--help"}
    verify = options_in(section(README, "Verify and repair") + options)
    assert verify >= options_of(build_verify_parser()) - {"-h", "--help"}


def test_readme_names_only_options_that_the_benchmarks_have() -> None:
    told = options_in(" ".join(re.findall(BENCHMARK, README)))
    assert told
    assert told <= options_of(benchmarks.__main__.build_parser())


def test_readme_has_every_field_of_the_summary() -> None:
    text = section(README, "The summary")
    fields = {field.name for field in dataclasses.fields(Summary)} | {"version"}
    assert first_cells(text) == fields
    for kind in (Counts, KeyFailure, PartitionSummary, Verification, PrefixDifferences):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text, field.name


def test_readme_has_every_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, RumpxError)}
    told = re.findall(r"^\| ([\d, ]+) \|", section(README, "Exit codes"), re.M)
    numbers = {int(number) for cell in told for number in cell.split(",")}
    assert numbers == codes | {EXIT_OK, EXIT_SOME_KEYS_FAILED, EXIT_DIFFERENCES, 129, 130, 143}


def test_readme_shows_what_is_there() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README + CONTRIBUTING):
        assert (ROOT / link).is_file(), link


def test_contributing_names_every_file() -> None:
    package = ROOT / "rumpx"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", section(CONTRIBUTING, "The packages"), re.M)
    told = set()
    for first, modules in rows:
        folder = "".join(re.findall(r"^`(\w+/)`[^,]", first))
        told |= {folder + name for name in re.findall(r"`([\w/]+\.py)`", modules)}
    assert told == files


def test_contributing_names_files_that_exist() -> None:
    for name in re.findall(r"`(tests/[\w/.]+|\.ci/\w+)`", CONTRIBUTING):
        assert (ROOT / name).exists(), name
