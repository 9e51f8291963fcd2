"""README.md, CONTRIBUTING.md and the guides are true: options, fields, exit codes, files."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
from pathlib import Path

import dask.config
import distributed  # noqa: F401, which has its defaults
import pytest

import benchmarks.__main__
from rumpx import errors, guides
from rumpx.cli.parsers import (
    build_check_parser,
    build_ctl_parser,
    build_demo_parser,
    build_jobs_parser,
    build_migrate_parser,
    build_parser,
    build_report_parser,
    build_resume_parser,
    build_verify_parser,
)
from rumpx.errors import EXIT_DIFFERENCES, EXIT_OK, EXIT_SOME_KEYS_FAILED, RumpxError
from rumpx.guides.options import render_options
from rumpx.model.counts import Counts
from rumpx.model.follow import CutoverFacts, FollowFacts, FollowStat, Gap
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
BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
GUIDES = guides.read_guides()
OPTIONS = GUIDES["options"]
TEXTS = {"README.md": README, "benchmarks/README.md": BENCHMARKS} | {
    f"rumpx/guides/{name}.md": text for name, text in GUIDES.items()
}
missing = object()
SET_UP = [
    "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/rumpx demo",
    "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox",
]
PARSERS = {
    "check": build_check_parser,
    "resume": build_resume_parser,
    "jobs": build_jobs_parser,
    "ctl": build_ctl_parser,
    "verify": build_verify_parser,
    "report": build_report_parser,
    "demo": build_demo_parser,
}
DASK = r"\bdask (scheduler|worker)\b([^`\n]*)"
BENCHMARK = r"python -m benchmarks[^`\n]*"

pytestmark = pytest.mark.smoke


def section(text: str, title: str) -> str:
    """The part of a page under a heading of level two or three, with the levels below it."""
    found = re.search(rf"^(##+) {re.escape(title)}$", text, re.M)
    assert found, title
    return re.split(rf"^#{{2,{len(found[1])}}} ", text[found.end() :], maxsplit=1, flags=re.M)[0]


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


def test_readme_is_short() -> None:
    assert len(README.encode()) <= 10_000


def test_readme_links_each_guide() -> None:
    links = set(re.findall(r"\]\(rumpx/guides/([\w-]+)\.md\)", README))
    assert links == set(GUIDES)


@pytest.mark.parametrize("name", TEXTS)
def test_a_guide_that_is_named_exists(name: str) -> None:
    named = set(re.findall(r"`rumpx help ([a-z][a-z-]+)`", TEXTS[name]))
    assert named <= set(GUIDES)


def test_the_guide_to_the_options_is_the_rendered_table() -> None:
    assert render_options() == OPTIONS, "write it anew: python -m rumpx.guides.options"


def test_the_options_of_a_copy_are_there_and_no_other() -> None:
    names = {cell.split()[0] for cell in first_cells(section(OPTIONS, "Options"))}
    assert names == options_of(build_parser()) - {"-from", "-to"}
    assert {"-from", "-to"} <= set(re.findall(r"`(-from|-to)`", section(OPTIONS, "Options")))


@pytest.mark.parametrize("command", PARSERS)
def test_the_options_of_each_other_command_are_there_and_no_other(command: str) -> None:
    text = section(OPTIONS, f"rumpx {command}")
    told = options_in(text)
    for group in re.findall("“(.*?)”", text):  # of which the command takes all
        told |= options_in(" ".join(first_cells(section(OPTIONS, group))))
    assert told == options_of(PARSERS[command]()) - {"-h", "--help"}


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_has_an_option_that_does_not_exist(name: str) -> None:
    builders = (build_parser, build_migrate_parser, *PARSERS.values())
    known: set[str] = set().union(*(options_of(build()) for build in builders))
    assert options_in(re.sub(f"{BENCHMARK}|{DASK}", "", TEXTS[name])) <= known


def test_the_options_of_dask_exist() -> None:
    told = re.findall(DASK, "".join(TEXTS.values()))
    assert {name for name, words in told if options_in(words)} == {"scheduler", "worker"}
    for name, words in told:
        command = importlib.import_module(f"distributed.cli.dask_{name}").main
        known = {o for given in command.params for o in (*given.opts, *given.secondary_opts)}
        assert options_in(words) <= known, name


def test_the_settings_of_dask_exist() -> None:
    for name in re.findall(r"DASK_DISTRIBUTED__\w+", GUIDES["scale"].replace("${part}", "WORKER")):
        key = name.removeprefix("DASK_").replace("__", ".").lower()
        assert dask.config.get(key, default=missing) is not missing, name


def test_the_limits_that_ctl_sets_are_there() -> None:
    told = section(GUIDES["running"], "Control")
    assert set(NAMED) <= set(re.findall(r"`([a-z-]+)`", told))


def test_the_options_of_the_benchmarks_exist() -> None:
    told = options_in(" ".join(re.findall(BENCHMARK, "".join(TEXTS.values()))))
    assert told
    assert told <= options_of(benchmarks.__main__.build_parser())


def test_the_fields_of_the_summary_are_there_and_no_other() -> None:
    text = GUIDES["summary"]
    version = {"version"}
    fields = {field.name for field in dataclasses.fields(Summary)}
    assert first_cells(section(text, "A copy")) == fields | version
    compared = section(text, "A comparison")
    fields = {field.name for field in dataclasses.fields(Verification)}
    table = compared.index("|")
    as_above = set(re.findall(r"`(\w+)`", compared[:table]))
    assert first_cells(compared) | as_above == fields | version
    of_follow = {field.name for field in dataclasses.fields(FollowStat)}
    assert first_cells(section(text, "A follow")) == of_follow
    parts = (Counts, CutoverFacts, FollowFacts, Gap, KeyFailure, PartitionSummary)
    for kind in (*parts, PrefixDifferences):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text, field.name


def test_every_exit_code_is_there_and_no_other() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, RumpxError)}
    told = re.findall(r"^\| ([\d, ]+) \|", GUIDES["exit-codes"], re.M)
    numbers = {int(number) for cell in told for number in cell.split(",")}
    assert numbers == codes | {EXIT_OK, EXIT_SOME_KEYS_FAILED, EXIT_DIFFERENCES, 129, 130, 143}


def test_what_is_shown_exists() -> None:
    for name, text in {**TEXTS, "CONTRIBUTING.md": CONTRIBUTING}.items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert (ROOT / name).parent.joinpath(link).is_file(), (name, link)
        for path in re.findall(r"`((?:rumpx|benchmarks)/[\w/.-]+)`", text):
            assert (ROOT / path).is_file(), (name, path)


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
