"""Imports point one way, from package to package, and in no circle from module to module."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter

from support.run import ROOT

# Each package may import those below it.
ORDER = (
    {"__main__", "api", "cli", "demo", "examples", "guides"},
    {"display", "report"},
    {"checker"},
    {"follower"},
    {"verifier"},
    {"copier"},
    {"ctl", "ledger"},
    {"preflight"},
    {"remote"},
    {"engine"},
    {"transfer"},
    {"throttle"},
    {"values"},
    {"servers"},
    {"processes"},
    {"model"},
    {"_version", "errors", "files", "serialize", "text", "units"},
)
LEVELS = {package: level for level, packages in enumerate(ORDER) for package in packages}

# Modules that know these only by their protocols.
STRANGERS = {
    "engine.engine": {"engine.local_backend", "engine.pool", "engine.scanner", "engine.worker"},
    "engine.progress": {"engine.local_backend", "engine.pool"},
    "engine.steering": {"engine.local_backend", "engine.pool"},
    "engine.worker": {"transfer.spec", "transfer.transfer", "verifier.comparer"},
    "transfer.chunks": {"transfer.dump_reader", "servers.connections"},
    "transfer.retry": {"transfer.dump_reader", "servers.connections"},
    "transfer.transfer": {
        "servers.connections",
        "transfer.dump_reader",
        "transfer.restore_writer",
    },
}


def imports() -> dict[str, set[str]]:
    """Each module's dotted name, and the modules of rumpx that it imports, wherever in it."""
    paths = (ROOT / "rumpx").rglob("*.py")
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        names = {(str(node.module), alias.name) for node in froms for alias in node.names}
        targets = {m if f"{m}.{name}" not in modules else f"{m}.{name}" for m, name in names}
        found[module] = {target for target in targets if target in modules}
    return found


def test_every_package_imports_only_those_below_it() -> None:
    def level(module: str) -> int:
        return LEVELS[module.split(".")[1]]

    arrows = [(m, t) for m, targets in imports().items() if m != "rumpx" for t in targets]
    assert [(m, t) for m, t in arrows if level(t) < level(m)] == []
    assert len(arrows) > 300


def test_parts_plug_in_by_their_protocols() -> None:
    found = imports()
    for module, strangers in STRANGERS.items():
        names = {f"rumpx.{name}" for name in strangers}
        assert names <= set(found)
        assert names & found[f"rumpx.{module}"] == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter(imports()).prepare()  # raises CycleError
