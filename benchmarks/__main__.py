"""`python -m benchmarks [SCENARIO …]`: run scenarios, show their tables, keep their figures.

Nothing here asserts a speed: machines differ. What is asserted is that every copy was complete.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import loopback
from benchmarks.measure import Failed, Options, Report, Scenario, environment
from rumpx.errors import RumpxError

SCENARIOS: Final[dict[str, Scenario]] = {"loopback": loopback.run}

_TABLE_WIDTH: Final = 120
_BUSY_LOAD: Final = 1.0


def main() -> int:
    parser = build_parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {unknown.pop()}")
    where = environment()
    if where["load_before"] > _BUSY_LOAD:
        print(f"This machine is busy (load {where['load_before']:.1f}).", file=sys.stderr)
    options = Options(keys=arguments.keys, rounds=arguments.rounds, workers=arguments.workers)
    figures = {}
    # Narrower, and rich would cut the names of the contenders.
    console = Console(width=max(_TABLE_WIDTH, Console().width))
    try:
        for name in arguments.scenarios or SCENARIOS:
            report = SCENARIOS[name](options)
            console.print(_table(report))
            figures[name] = report.data
    except (Failed, RumpxError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        document = {**where, "options": asdict(options), "scenarios": figures}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
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
    parser.add_argument("--workers", type=int, default=4, help="default %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser


def _table(report: Report) -> Table:
    table = Table(*report.columns, title=report.title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    sys.exit(main())
