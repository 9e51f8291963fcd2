"""What 1.x promises to keep: names that programs use must never disappear.

`data/promised_1.json` lists them as they were in 1.0.0. A name may be added to it at a release, by
`python tests/test_promises.py`; none may be removed, nor an option of a command that had it, nor a
number be changed.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import rumpx
from rumpx import errors
from rumpx.guides import read_guides
from rumpx.model import options
from support.run import ROOT

PROMISED = Path(__file__).parent / "data" / "promised_1.json"
KINDS = ("options", "exit codes", "Python", "events", "metrics", "guides")
COMMANDS = ("copy", "check", "migrate", "verify", "resume", "jobs", "report", "ctl", "demo")


def promises() -> dict[str, list[str]]:
    """All promised names, by kind."""
    found = (_options(), _exit_codes(), _python(), _events(), _metrics(), list(read_guides()))
    return {kind: sorted(names) for kind, names in zip(KINDS, found, strict=True)}


def _options() -> list[str]:
    pairs = [(command, flag) for command in COMMANDS for flag in options.flags_of(command)]
    return [f"{command} --{flag.name}" for command, flag in pairs]


def _exit_codes() -> list[str]:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    own = [each for each in kinds if issubclass(each, errors.RumpxError)]
    return [f"{each.__name__} {each.exit_code}" for each in own if "exit_code" in vars(each)]


def _python() -> list[str]:
    """Names, fields and arguments; results written as JSON have the same fields."""
    found = []
    for name in rumpx.__all__:
        value = getattr(rumpx, name)
        found.append(name)
        if dataclasses.is_dataclass(value):
            found += [f"{name}.{field.name}" for field in dataclasses.fields(value)]
        elif isinstance(value, type) and issubclass(value, dict):
            keys = value.__required_keys__ | value.__optional_keys__  # type: ignore[attr-defined]
            found += [f"{name}[{key}]" for key in keys]
        elif inspect.isfunction(value):
            found += [f"{name}({key})" for key in inspect.signature(value).parameters]
    return found


def _events() -> list[str]:
    path = ROOT / "rumpx" / "display" / "events.schema.json"
    kinds: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["$defs"]
    return [f"{kind}.{name}" for kind, of in kinds.items() for name in of.get("properties", ())]


def _metrics() -> list[str]:
    pytest.importorskip("prometheus_client")
    from rumpx.display import metrics

    tables = (metrics._SINGLE, metrics._LABELLED, metrics._WORKERS, metrics._NODES)
    names = [row[0] for table in tables for row in table]
    names += [f"follow_{row[0]}" for row in metrics._FOLLOW]
    return [f"rumpx_{name}" for name in ("info", "state", *names)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_promised_name_has_disappeared(kind: str) -> None:
    promised = json.loads(PROMISED.read_text(encoding="utf-8"))

    assert promised[kind] and set(promised[kind]) - set(promises()[kind]) == set()


def test_the_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert f"\n## {rumpx.__version__}" in text


if __name__ == "__main__":
    PROMISED.write_text(json.dumps(promises(), indent=1) + "\n", encoding="utf-8")
    sys.exit()
