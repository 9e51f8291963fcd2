"""`python -m benchmarks [SCENARIO …]`: run scenarios, show their tables, keep their figures.

It asserts that every copy was complete, but no speed: machines differ.
Compare ratios, not seconds: `--against FILE` sets those of an earlier run beside this one's.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import (
    big,
    cluster,
    defaults,
    distance,
    follow,
    gentle,
    hindered,
    loopback,
    losses,
    parsing,
    proof,
    scale,
    scaling,
    startup,
    tail,
    values,
    versions,
    watching,
)
from benchmarks.charts import draw, draw_plot, require_matplotlib
from benchmarks.measure import Failed, Options, Report, Scenario, environment
from rumpx.errors import RumpxError

SCENARIOS: Final[dict[str, Scenario]] = {
    "defaults": defaults.run,
    "loopback": loopback.run,
    "distance": distance.run,
    "values": values.run,
    "big": big.run,
    "cluster": cluster.run,
    "scaling": scaling.run,
    "scale": scale.run,
    "losses": losses.run,
    "follow": follow.run,
    "start-up": startup.run,
    "proof": proof.run,
    "gentle": gentle.run,
    "hindered": hindered.run,
    "tail": tail.run,
    "versions": versions.run,
    "watching": watching.run,
    "parsing": parsing.run,
}

_TABLE_WIDTH: Final = 160
_BUSY_LOAD: Final = 1.0


def main() -> int:
    parser = build_parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {unknown.pop()}")
    before = _ratios(arguments.against, parser) if arguments.against else {}
    where = environment()
    if where["load_before"] > _BUSY_LOAD:
        print(f"This machine is busy (load {where['load_before']:.1f}).", file=sys.stderr)
    options = Options(keys=arguments.keys, rounds=arguments.rounds, workers=arguments.workers)
    document = {**where, "options": asdict(options), "scenarios": {}}
    # Narrower, and rich would cut the names of the contenders.
    console = Console(width=max(_TABLE_WIDTH, Console().width))
    try:
        if arguments.charts:
            require_matplotlib()
        for name in arguments.scenarios or SCENARIOS:
            report = SCENARIOS[name](options)
            console.print(_table(report))
            for note in report.notes:
                console.print(note)
            if name in before:
                console.print(_comparison(before[name], report.ratios))
            document["scenarios"][name] = {"ratios": report.ratios, **report.data}
            if arguments.charts and report.chart:
                draw(report.chart, report.title, arguments.charts / f"{name}.png")
            for suffix, plot in report.plots.items() if arguments.charts else ():
                draw_plot(plot, arguments.charts / f"{name}{suffix}.png")
            if arguments.tables:
                with arguments.tables.open("a", encoding="utf-8") as file:
                    file.write(_markdown(name, report))
            if arguments.json:  # after each, so that a long run is not lost to its last part
                text = json.dumps(document, indent=2) + "\n"
                arguments.json.write_text(text, encoding="utf-8")
    except (Failed, RumpxError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "scenarios",
        metavar="SCENARIO",
        nargs="*",
        help=f"which to run ({', '.join(SCENARIOS)}); all by default",
    )
    parser.add_argument("--keys", type=int, default=1_000_000, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument(
        "--workers", type=int, default=4, help="a power of two; default %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--tables", type=Path, metavar="FILE", help="append the tables to it, as Markdown"
    )
    parser.add_argument(
        "--charts", type=Path, metavar="FOLDER", help="draw a PNG for each scenario there"
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="compare with the --json of an earlier run"
    )
    return parser


def _ratios(path: Path, parser: argparse.ArgumentParser) -> dict[str, dict[str, float]]:
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        return {name: data["ratios"] for name, data in document["scenarios"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--against {path}: no figures of an earlier run ({error})")


def _markdown(name: str, report: Report) -> str:
    rows = [report.columns, tuple("---" for _ in report.columns), *report.rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"## {name}", "", report.title, "", *lines, "", *report.notes, "", ""])


def _table(report: Report) -> Table:
    table = Table(*report.columns, title=report.title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows:
        table.add_row(*row)
    return table


def _comparison(before: dict[str, float], now: dict[str, float]) -> Table:
    table = Table("ratio", "then", "now", "change")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, ratio in now.items():
        if then := before.get(name):
            table.add_row(name, f"{then:.2f}", f"{ratio:.2f}", f"{100 * (ratio / then - 1):+.0f} %")
    return table


if __name__ == "__main__":
    sys.exit(main())
