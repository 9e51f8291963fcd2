"""What 1.x promises to keep: names that programs use must never disappear.

`data/promised_1.json` lists them as they were in 1.0.0. `python tests/test_promises.py` adds new
ones at a release; it removes none, since none may disappear, nor an option of a command that had
it, nor may a number be changed.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import rumpx
from rumpx import errors
from rumpx.ctl.server import VERBS
from rumpx.model import options
from rumpx.model.follow import CutoverFacts
from support.following import Following
from support.run import ROOT
from support.run import rumpx as rumpx_command
from support.servers import Server
from test_readme import GUIDES, first_cells, section

StartServer = Callable[..., Server]

PROMISED = Path(__file__).parent / "data" / "promised_1.json"
KINDS = ("options", "exit codes", "Python", "events", "ctl", "metrics", "guides")
COMMANDS = ("copy", "check", "migrate", "verify", "resume", "jobs", "report", "ctl", "demo")


def promises() -> dict[str, list[str]]:
    """All promised names, by kind."""
    names = (_options(), _exit_codes(), _python(), _events(), _ctl(), _metrics(), list(GUIDES))
    return {kind: sorted(found) for kind, found in zip(KINDS, names, strict=True)}


def _options() -> list[str]:
    pairs = [(command, flag) for command in COMMANDS for flag in options.flags_of(command)]
    return [f"{command} --{flag.name}" for command, flag in pairs]


def _exit_codes() -> list[str]:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    own = [each for each in kinds if issubclass(each, errors.RumpxError)]
    numbers = {each.__name__: each.exit_code for each in own if "exit_code" in vars(each)}
    numbers |= {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    return [f"{name} {number}" for name, number in numbers.items()]


def _python() -> list[str]:
    """Names, fields and arguments; results written as JSON have the same fields."""
    found = []
    for name in rumpx.__all__:
        value = getattr(rumpx, name)
        found.append(name)
        if dataclasses.is_dataclass(value):
            found += _fields(value)
        elif isinstance(value, type) and issubclass(value, dict):
            keys = value.__required_keys__ | value.__optional_keys__  # type: ignore[attr-defined]
            found += [f"{name}[{key}]" for key in keys]
        elif inspect.isfunction(value):
            found += [f"{name}({key})" for key in inspect.signature(value).parameters]
    return found


def _fields(kind: Any) -> list[str]:
    """Those of a dataclass, and of the dataclasses in it."""
    found = [f"{kind.__name__}.{field.name}" for field in dataclasses.fields(kind)]
    for hint in get_type_hints(kind).values():
        for inner in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(inner):
                found += _fields(inner)
    return found


def _ctl() -> list[str]:
    """The verbs, and the fields that the guide names."""
    cutover = [f"cutover.{field.name}" for field in dataclasses.fields(CutoverFacts)]
    return [*VERBS, *(f"status.{name}" for name in told_of_status()), *cutover]


def told_of_status() -> set[str]:
    return first_cells(section(GUIDES["summary"], "A running job"))


def _events() -> list[str]:
    path = ROOT / "rumpx" / "display" / "events.schema.json"
    kinds: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["$defs"]
    return [f"{kind}.{name}" for kind, of in kinds.items() for name in of.get("properties", ())]


def _metrics() -> list[str]:
    pytest.importorskip("prometheus_client")
    from rumpx.display import metrics

    tables = (metrics._SINGLE, metrics._WORKERS, metrics._NODES)
    names = [row[0] for table in tables for row in table]
    names += [f"{name}{{{label}}}" for name, label, *_ in metrics._LABELLED]
    names += [f"follow_{row[0]}" for row in metrics._FOLLOW]
    return [f"rumpx_{name}" for name in ("info", "state", *names)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_promised_name_has_disappeared(kind: str) -> None:
    promised = json.loads(PROMISED.read_text(encoding="utf-8"))

    assert promised[kind] and set(promised[kind]) - set(promises()[kind]) == set()


def test_the_fields_of_a_running_job_are_those_of_the_guide(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    with Following(source, target) as following:
        following.wait(lambda standing: standing["phase"] == "in step", "it is in step")
        answer = json.loads(rumpx_command("ctl", "status", "--json").stdout)
    assert set(answer) == told_of_status() and '"is"' not in json.dumps(answer)


def test_the_schema_of_events_knows_every_field() -> None:
    kinds = {"copied": rumpx.Summary, "compared": rumpx.Verification, "cutover": CutoverFacts}
    told = set(_events())
    for kind, of in kinds.items():
        assert {f"{kind}.{field.name}" for field in dataclasses.fields(of)} - told == set()


def test_the_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert f"\n## {rumpx.__version__}" in text


if __name__ == "__main__":
    kept = json.loads(PROMISED.read_text(encoding="utf-8"))
    merged = {kind: sorted({*kept.get(kind, ()), *names}) for kind, names in promises().items()}
    PROMISED.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
