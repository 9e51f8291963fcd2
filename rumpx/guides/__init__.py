"""`rumpx help [NAME]`: guides for users, each a Markdown file beside this one.

The first line of a guide is its title, which the list shows. On a terminal rich renders the guide,
and a pager shows it if it is longer than the screen: `$PAGER`, else `less -R`. An empty `PAGER` or
`PAGER=cat` turns the pager off. Into a pipe or a file the guide is written as it is. Guides are
read as resources of the package, so that every kind of installation has them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from importlib import resources
from typing import Final

from rumpx.errors import UsageError
from rumpx.files import print_text, standard_output

_SECRETS: Final = ("RUMPX_FROM_PASSWORD", "RUMPX_TO_PASSWORD")
_NOT_RUN: Final = (126, 127)
"""The exit codes of a shell that could not run a command."""


def run(words: Sequence[str]) -> int:
    """Show the named guide, or list all guides; returns the exit code.

    Raises:
        UsageError: no guide has that name.
    """
    guides = read_guides()
    if len(words) > 1:
        raise UsageError("rumpx help takes the name of one guide. See rumpx help.")
    if words and words[0] not in ("-h", "--help", *guides):
        raise UsageError(f"There is no guide {words[0]!r}. The guides are: {', '.join(guides)}.")
    if words and words[0] in guides:
        show(guides[words[0]])
    else:
        print_text(list_guides(guides))
    return 0


def read_guides() -> dict[str, str]:
    """Return the text of each guide, by name."""
    files = resources.files(__name__).iterdir()
    texts = {
        file.name.removesuffix(".md"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".md")
    }
    return dict(sorted(texts.items()))


def list_guides(guides: dict[str, str]) -> str:
    """Return a line for each guide, with the command that shows it."""
    width = max(map(len, guides))
    titles = {name: text.splitlines()[0].lstrip("# ") for name, text in guides.items()}
    lines = [f"  rumpx help {name:{width}}   {title}" for name, title in titles.items()]
    return "\n".join([*lines, f"  rumpx {'--help':{width + 5}}   The flags of a copy"])


def show(text: str) -> None:
    """Print a guide on standard output, through a pager if it is longer than the terminal."""
    if not sys.stdout.isatty():
        print_text(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.capture() as drawn:
        console.print(Markdown(text))
    pager = "" if console.is_dumb_terminal else pager_command()
    lines = drawn.get().count("\n")
    # rich could use pydoc's pager, which calls less without -R, and for short texts too.
    if lines < console.height or not pager or not _page(drawn.get(), pager):
        print_text(drawn.get(), end="")


def pager_command() -> str:
    """Return the shell command of the user's pager; "" for none."""
    pager = os.environ.get("PAGER")
    if pager is None:
        return "less -R" if shutil.which("less") else ""
    return "" if pager.strip() == "cat" else pager.strip()


def _page(text: str, pager: str) -> bool:
    """Show a text by a pager until the user leaves it; returns False if the pager cannot run."""
    import signal
    import subprocess

    # less without -R shows escape sequences as text; a user's own LESS comes first. No process
    # that rumpx starts has the passwords in its environment.
    inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    environment = {"LESS": "R"} | inherited
    # Ctrl-C goes to the pager too, which stops its search and stays; it must not die with us.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        with standard_output():
            done = subprocess.run(
                pager,
                shell=True,
                input=text.encode(sys.stdout.encoding, "backslashreplace"),
                env=environment,
            )
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode not in _NOT_RUN
