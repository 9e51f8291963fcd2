"""The file for `--config` with all options of a copy, rendered from the table of options."""

from __future__ import annotations

import json
import textwrap
from typing import Final

from rumpx.model.option_kinds import PREFIXES, TYPES, WHOLE
from rumpx.model.options import COMMAND_LINE_ONLY, COPY, FROM, GROUPS, TO, Flag

_WIDTH: Final = 100
_HEAD: Final = """\
# Options of a copy, for rumpx --config FILE: all of them, by their names on the command line,
# without the dashes.
#
#   rumpx example config > nightly.toml
#   rumpx --config nightly.toml
#
# `rumpx check`, `verify` and `resume` read the same file and take the options that they have. The
# command line takes precedence, but a switch that is true here stays on. To set an option, remove
# the # before its name. An option that is commented out shows its default, or an example where
# there is none. File names are relative to the folder in which rumpx is called. Sizes are powers of
# 1024, as in "500k" or "64MiB"; times are "500ms", "5s", "5m", "4h". An option with a list in
# brackets takes several values.
"""


def render_config() -> str:
    """Return the file's text: TOML, each option with its help."""
    parts = [_HEAD]
    for group in GROUPS:
        flags = [f for f in group.flags if COPY in f.commands and f.name not in COMMAND_LINE_ONLY]
        if group.title and flags:
            parts.append(f"\n# --- {group.title} ".ljust(96, "-") + "\n")
        parts += map(_entry, flags)
    return "\n".join(parts)


def _entry(flag: Flag) -> str:
    off = "" if flag in (FROM, TO) else "#"
    return f"{_comment(flag)}\n{off}{flag.name} = {_value(flag)}\n"


def _comment(flag: Flag) -> str:
    text = f"{flag.plain_help[:1].upper()}{flag.plain_help[1:]}."
    if "default" not in flag.help and flag not in (FROM, TO):
        default = flag.shown_default or ("none" if flag.kind.takes_value else "false")
        text += f" Default: {default}."
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _value(flag: Flag) -> str:
    """Return the option's example, or its default, in TOML."""
    if not flag.kind.takes_value:
        return "true"
    text = flag.example or flag.default
    if flag.kind is WHOLE:
        return text
    if flag.kind in (TYPES, PREFIXES):
        return json.dumps(text.split(","))
    return json.dumps([text] if flag.kind.repeats else text)
