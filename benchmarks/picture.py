"""`python -m benchmarks.picture [PICTURE …]`: draw the pictures of README.md and
benchmarks/README.md anew, from real runs.

- bars, top: a copy between two servers of `rumpx.demo` through the API, and the Snapshot nearest to
  60 %, rendered by the displays that the command uses;
- report: a copy by the command, with a rate limit, stopped by Ctrl-C, resumed, killed, resumed
  without the limit to its end, then compared; its report as a browser shows it (needs Chromium on
  PATH).

Nothing in the pictures is invented, except addresses: loopback ports mean nothing to a reader, so
names stand in their place.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console, RenderableType

import rumpx
from rumpx.demo import SEED, Server, fill
from rumpx.display.bars import render as render_bars
from rumpx.display.top import render as render_top
from rumpx.model.timeline import Point, Recorder

_FOLDER: Final = Path(__file__).parent
_MOMENT: Final = 0.6
_BARS_WIDTH: Final = 100
_TOP_SIZE: Final = (140, 40)
_PAGE_SIZE: Final = (1200, 1900)
_NAMES: Final = ("old.example:6379", "new.example:6379")
_RATE: Final = "50000"
_STOPPED_AT, _KILLED_AT = 0.35, 0.7


def take(keys: int) -> tuple[rumpx.Snapshot, list[Point]]:
    """Copy, and return the snapshot nearest to the moment, with the series until then."""
    recorder = Recorder()
    seen: list[tuple[rumpx.Snapshot, list[Point]]] = []

    def see(snapshot: rumpx.Snapshot) -> None:
        if snapshot.state == "copying":
            recorder.see(snapshot, time.time())
            seen.append((snapshot, list(recorder.points)))

    with Server() as source, Server() as target, TemporaryDirectory() as folder:
        fill(source, keys, SEED)
        rumpx.copy(source.uri, target.uri, on_progress=see, job="move", state_dir=folder)
        ports = source.port, target.port
    under_way = [(shot, points) for shot, points in seen if shot.workers]
    shot, points = min(under_way, key=lambda pair: abs(pair[0].fraction - _MOMENT))
    return _named(shot, ports), points


def _named(snapshot: rumpx.Snapshot, ports: tuple[int, int]) -> rumpx.Snapshot:
    old, new = (f"redis://{name}" for name in _NAMES)
    labels = {f"redis://127.0.0.1:{port}": uri for port, uri in zip(ports, (old, new), strict=True)}
    nodes = tuple(replace(n, label=labels.get(n.label, n.label)) for n in snapshot.nodes)
    return replace(snapshot, source=old, target=new, nodes=nodes)


def draw(picture: RenderableType, width: int, title: str) -> str:
    """Return a terminal's contents as SVG."""
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True)
    console.print(picture)
    drawn = console.export_svg(title=title)
    # No font from elsewhere: a picture of a repository should load nothing.
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def draw_bars(keys: int) -> Path:
    """The bars."""
    snapshot, _ = take(keys)
    path = _FOLDER / "bars.svg"
    picture = render_bars(snapshot, _BARS_WIDTH)
    path.write_text(
        draw(picture, _BARS_WIDTH, "rumpx --from redis://… --to redis://…"), encoding="utf-8"
    )
    return path


def draw_top(keys: int) -> Path:
    """The full-screen view."""
    snapshot, points = take(keys)
    path = _FOLDER / "top.svg"
    width, height = _TOP_SIZE
    picture = render_top(snapshot, points, (), width, height)
    path.write_text(draw(picture, width, "rumpx … --top"), encoding="utf-8")
    return path


def draw_report(keys: int) -> Path:
    """The report."""
    path = _FOLDER / "report.png"
    with TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        page.write_text(make_report(keys, folder), encoding="utf-8")
        photograph(page, path)
    return path


def make_report(keys: int, folder: str) -> str:
    """Return the report of a job that was throttled, stopped, killed, and resumed.

    Args:
        folder: for its ledger.
    """
    with Server() as source, Server() as target:
        fill(source, keys, SEED)
        ends = ["--from", source.uri, "--to", target.uri, "--job", "move"]
        _until(_STOPPED_AT, folder, [*ends, "--max-keys-per-sec", _RATE], signal.SIGINT)
        _until(_KILLED_AT, folder, ["resume", "move"], signal.SIGKILL)
        _rumpx(folder, "resume", "move", "--max-keys-per-sec", "off")
        _rumpx(folder, "verify", "move")
        page = Path(folder, "page.html")
        _rumpx(folder, "report", "move", "--html", str(page), shown=False)
        text = page.read_text(encoding="utf-8")
        for port, name in zip((source.port, target.port), _NAMES, strict=True):
            text = text.replace(f"127.0.0.1:{port}", name)
    return text


def _words(folder: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "rumpx", *words, "--state-dir", folder]


def _rumpx(folder: str, *words: str, shown: bool = True) -> None:
    quiet = ["--progress", "none"] if shown else []
    subprocess.run([*_words(folder, *words), *quiet], check=True)


def _until(fraction: float, folder: str, words: list[str], number: int) -> None:
    """Begin, and send a signal when so much of the job is done."""
    from rumpx.errors import UsageError
    from rumpx.ledger.schema import look_into

    ledger = Path(folder, "move.ledger")
    process = subprocess.Popen([*_words(folder, *words), "--progress", "none"])
    while process.poll() is None:
        time.sleep(0.2)
        try:
            if ledger.exists() and look_into(ledger)[1].fraction >= fraction:
                process.send_signal(number)
                break
        except UsageError:
            continue  # it is just being made
    process.wait()


def photograph(page: Path, picture: Path, *flags: str) -> None:
    """A page as Chromium shows it, as PNG.

    Raises:
        SystemExit: there is no Chromium.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("A picture of the report needs Chromium on PATH.")
    width, height = _PAGE_SIZE
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *(f"--window-size={width},{height}", f"--screenshot={picture}", *flags, page.as_uri()),
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)


PICTURES: Final[dict[str, Callable[[int], Path]]] = {
    "bars": draw_bars,
    "top": draw_top,
    "report": draw_report,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument(
        "pictures", nargs="*", metavar="PICTURE", help=f"{', '.join(PICTURES)}; all by default"
    )
    parser.add_argument("--keys", type=int, default=1_000_000, help="default %(default)s")
    arguments = parser.parse_args()
    if unknown := set(arguments.pictures) - set(PICTURES):
        parser.error(f"there is no picture {unknown.pop()}")
    for name in arguments.pictures or PICTURES:
        print(PICTURES[name](arguments.keys).name)


if __name__ == "__main__":
    main()
