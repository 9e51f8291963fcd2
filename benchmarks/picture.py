"""`python -m benchmarks.picture`: draw README's picture of the bars from a real copy.

Two servers of `rumpx.demo`, a copy between them through the API, and the Snapshot nearest to
60 %, rendered by the display that the command uses. Nothing in the picture is made up, but its
addresses: loopback ports mean nothing to a reader, so the snapshot shows names.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console

import rumpx
from rumpx.demo import SEED, Server, fill
from rumpx.report.bars import render

PICTURE: Final = Path(__file__).with_name("bars.svg")
_WIDTH: Final = 100
_MOMENT: Final = 0.6


def take(keys: int) -> rumpx.Snapshot:
    """Copy, and return the snapshot nearest to the moment."""
    snapshots: list[rumpx.Snapshot] = []
    with Server() as source, Server() as target, TemporaryDirectory() as folder:
        fill(source.port, keys, SEED)
        rumpx.copy(
            source.uri, target.uri, on_progress=snapshots.append, job="move", state_dir=folder
        )
    under_way = [shot for shot in snapshots if shot.state == "copying" and shot.workers]
    return min(under_way, key=lambda shot: abs(shot.fraction - _MOMENT))


def draw(snapshot: rumpx.Snapshot) -> str:
    """The snapshot as SVG."""
    named = replace(snapshot, source="redis://old.example:6379", target="redis://new.example:6379")
    console = Console(record=True, width=_WIDTH, file=StringIO(), force_terminal=True)
    console.print(render(named, _WIDTH))
    picture = console.export_svg(title="rumpx --from redis://… --to redis://…")
    # No font from elsewhere: a picture of a repository should load nothing.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="default %(default)s")
    PICTURE.write_text(draw(take(parser.parse_args().keys)), encoding="utf-8")
    print(PICTURE.name)


if __name__ == "__main__":
    main()
