"""`rumpx help [NAME]`: guides for users, each a Markdown file beside this one.

The first line of a guide is its title, which the list shows. On a terminal rich draws a guide; into
a pipe or a file it goes as it is written, which is meant to be readable too. Guides are read as
resources of the package, so that they are found in whatever way it is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources

from rumpx.errors import UsageError
from rumpx.files import print_text, standard_output


def run(words: Sequence[str]) -> int:
    """Show the guide that is named, or which there are; returns the exit code.

    Raises:
        UsageError: there is none of that name.
    """
    guides = read_guides()
    if len(words) > 1:
        raise UsageError("rumpx help takes the name of one guide. See rumpx help.")
    if words and words[0] not in ("-h", "--help", *guides):
        raise UsageError(f"There is no guide {words[0]!r}. There is: {', '.join(guides)}.")
    if words and words[0] in guides:
        show(guides[words[0]])
    else:
        print_text(list_guides(guides))
    return 0


def read_guides() -> dict[str, str]:
    """The text of each guide, by name."""
    files = resources.files(__name__).iterdir()
    texts = {
        file.name.removesuffix(".md"): file.read_text(encoding="utf-8")
        for file in files
        if file.name.endswith(".md")
    }
    return dict(sorted(texts.items()))


def list_guides(guides: dict[str, str]) -> str:
    """A line for each guide, and how to go on."""
    width = max(map(len, guides))
    titles = {name: text.splitlines()[0].lstrip("# ") for name, text in guides.items()}
    lines = [f"  rumpx help {name:{width}}   {title}" for name, title in titles.items()]
    return "\n".join([*lines, f"  rumpx {'--help':{width + 5}}   The flags of a copy"])


def show(text: str) -> None:
    """Print a guide for whoever reads standard output."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        with standard_output():
            Console().print(Markdown(text))
    else:
        print_text(text, end="")
