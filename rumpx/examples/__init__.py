"""`rumpx example [NAME]`: ready files for other programs, to adapt.

They lie beside this module and are read as resources of the package, as the guides are; the one for
`--config` is rendered from the table of options (`config.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Final

from rumpx.errors import UsageError
from rumpx.files import print_text

FILES: Final = {
    "config": ("", "All options of a copy, for --config"),
    "container": ("Containerfile", "An image to run rumpx in"),
    "grafana": ("grafana.json", "A dashboard for --metrics, to import into Grafana"),
    "kubernetes": ("kubernetes.yaml", "A copy by many machines: a Dask cluster and a Job"),
    "systemd": ("systemd.ini", "A service and a timer: a copy each night, off-peak"),
}
"""The file of each example, "" if it is generated, and its title."""


def run(words: Sequence[str]) -> int:
    """Print the named example, or list all examples; returns the exit code.

    Raises:
        UsageError: no example has that name.
    """
    if len(words) > 1:
        raise UsageError("rumpx example takes the name of one file. See rumpx example.")
    if not words or words[0] in ("-h", "--help"):
        text = list_examples()
    elif words[0] in FILES:
        text = read_example(words[0])
    else:
        raise UsageError(f"There is no example {words[0]!r}. The examples are: {', '.join(FILES)}.")
    print_text(text, end="")
    return 0


def list_examples() -> str:
    """Return a line for each example."""
    width = max(map(len, FILES))
    return "".join(
        f"  rumpx example {name:{width}}   {title}\n" for name, (_, title) in FILES.items()
    )


def read_example(name: str) -> str:
    """Return the text of one of `FILES`."""
    if name == "config":
        from rumpx.examples.config import render_config

        return render_config()
    return resources.files(__name__).joinpath(FILES[name][0]).read_text(encoding="utf-8")
