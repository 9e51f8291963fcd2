"""`--config FILE`: options from a TOML file.

Its keys are the names of a copy's options without the dashes in front, with no tables:

    from = "redis://old:6379"
    workers = 8
    match = ["user:*", "cart:*"]
    max-source-latency = "5ms"
    verify = true

`rumpx example config` prints a file with all of them. A switch is true, or false, which is the same
as leaving it out. An option with several values is a list, or one value.

Algorithm: each key becomes its words on the command line, and these are put in front of the given
words, for the same parser. An option on the command line takes precedence over the file's (but a
switch that is true in the file stays on), also if it is repeatable: then the file's values are left
out. (`--top` also leaves out the file's `progress`, and the other way round.)

One file serves a copy, `rumpx check`, `verify` and `resume`; each takes the options that it has
from it, and ignores the others.

- `job` names a copy's job, and for `rumpx resume` the job to resume, if the command line names
  none.
- `rumpx verify` compares the sides and the scope of the file. If the command line names a job, it
  compares that job's, and ignores those of the file, except for `from` and `to`, which may have
  passwords.

Relative file names are relative to the current folder, as on the command line, not to the file's.

Not promised: options of other commands, as `--repair`; these stand on the command line. Names that
are not UTF-8, as globs on the command line may be.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rumpx.cli.parsers import build_parser
from rumpx.errors import UsageError, printable
from rumpx.files import writable_by_others
from rumpx.model.options import COMMAND_LINE_ONLY
from rumpx.text import say

NOT_IN_FILES: Final = ("help", *COMMAND_LINE_ONLY)
_COMMA_LISTS: Final = ("type", "prefixes")
_LIST: Final = "a text or a number, or a list of these"
# An option on the command line leaves out the other one of the file.
EXCLUDES: Final = {"top": "progress", "progress": "top"}
# Options of a follow; those of the same names of `rumpx verify` belong to its --repair.
_OF_A_FOLLOW: Final = ("delete-extra", "yes")
_SCOPE: Final = ("db", "map-db", "match", "exclude", "type")

Words = dict[str, list[str]]
"""The words for the command line, by the name of the option."""


def with_config(
    parser: argparse.ArgumentParser, words: Sequence[str], *, names_job: bool = False
) -> argparse.Namespace:
    """Parse the words of a command, and the file that `--config` names in them.

    Args:
        parser: the command's, with `--config`.
        words: after the command's name.
        names_job: the file's `job` stands for the positional argument `name`, if that is missing.

    Raises:
        UsageError: words or file are invalid.
    """
    arguments = parser.parse_args(words)
    if arguments.config is None:
        return arguments
    file = read_config(arguments.config)
    given = _given(parser, words)
    named = getattr(arguments, "name", None) is not None
    given |= {EXCLUDES[name] for name in given if name in EXCLUDES}
    taken = [
        name
        for name in file
        if name in _options(parser)
        and name not in given
        and not (named and _of_a_job(name))
        and not (name in _OF_A_FOLLOW and "follow" not in _options(parser))
    ]
    merged = parser.parse_args([*(word for name in taken for word in file[name]), *words])
    if names_job and not named and "job" in file:
        merged.name = file["job"][0].partition("=")[2]
        taken.append("job")
    merged.config_options = tuple(taken)
    return merged


@contextmanager
def blaming_config(arguments: argparse.Namespace) -> Iterator[None]:
    """Add the file's name to a UsageError that names one of the file's options."""
    try:
        yield
    except UsageError as error:
        named = re.findall(r"--([a-z][a-z-]*)", str(error))
        if set(named) & set(getattr(arguments, "config_options", ())):
            error.args = (f"{_place(arguments.config)}: {error}",)
        raise


def read_config(path: str) -> Words:
    """Read the options in a file.

    Raises:
        UsageError: the file cannot be read, or is invalid.
    """
    known = _options(build_parser())
    words: Words = {}
    for name, value in _read_toml(path).items():
        try:
            words[name] = _words(name, value, known)
        except ValueError as error:
            raise UsageError(f"{_place(path)}: {error}") from None
    return words


def _place(path: str) -> str:
    return f"--config {printable(os.fsencode(path), limit=200)}"


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        text = Path(path).read_text(encoding="utf-8")
        if reason := writable_by_others(Path(path)):
            # It names commands to run, and files with passwords.
            say(f"rumpx: {_place(path)} is used, though {reason}.")
        return tomllib.loads(text)
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        reason = f"it is not TOML: {error}"
    raise UsageError(f"{_place(path)}: {reason}.")


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return a parser's options by their names without dashes in front."""
    return {
        name[2:]: action
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--")
    }


def _given(parser: argparse.ArgumentParser, words: Sequence[str]) -> set[str]:
    """Return the names of the options on the command line."""
    # The parser leaves existing attributes as they are, unless a word sets them.
    blank = argparse.Namespace(**{action.dest: None for action in parser._actions})
    given = vars(parser.parse_args(words, blank))
    return {name for name, action in _options(parser).items() if given[action.dest] is not None}


def _of_a_job(name: str) -> bool:
    """Return True if an option is part of a job's own record."""
    return name in _SCOPE or name.startswith(("from-", "to-"))


def _words(name: str, value: object, known: dict[str, argparse.Action]) -> list[str]:
    """Return the words for the command line that a key and its value stand for.

    Raises:
        ValueError: they are invalid.
    """
    if isinstance(value, dict):
        raise ValueError(
            f"'{_shown(name)}' is a table; write options outside of tables, as in workers = 4."
        )
    if name in NOT_IN_FILES:
        raise ValueError(f"{name} is allowed only on the command line.")
    if name not in known:
        raise ValueError(_unknown(name, known))
    action = known[name]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{name} takes true or false.")
        return [f"--{name}"] if value else []
    return [f"--{name}={text}" for text in _texts(name, value, action)]


def _texts(name: str, value: object, action: argparse.Action) -> list[str]:
    """Return the option's values as written on the command line."""
    if isinstance(action.default, list):
        return [_text(name, item, _LIST) for item in _items(value)]
    if name in _COMMA_LISTS:
        texts = [_text(name, item, _LIST) for item in _items(value)]
        if isinstance(value, list) and any("," in text for text in texts):
            raise ValueError(f"{name} takes a list of texts without commas.")
        return [",".join(texts)] if texts else []
    text = _text(name, value, "a whole number" if action.type is int else "a text or a number")
    if action.choices is not None and text not in action.choices:
        raise ValueError(f"{name} takes one of {', '.join(action.choices)}.")
    if action.type is int and not re.fullmatch(r"-?[0-9]{1,40}", text):
        raise ValueError(f"{name} takes a whole number.")
    return [text]


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _text(name: str, value: object, expected: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} takes {expected}.")
    text = str(value)
    if "\0" in text:
        raise ValueError(f"{name} contains a zero byte; no option can.")
    return text


def _unknown(name: str, known: dict[str, argparse.Action]) -> str:
    from difflib import get_close_matches

    wanted = name.strip("-").replace("_", "-").lower()
    near = get_close_matches(wanted, set(known) - set(NOT_IN_FILES), n=1)
    hint = f"did you mean {near[0]}?" if near else "rumpx example config shows all."
    return f"a copy has no option '{_shown(name)}'; {hint}"


def _shown(name: str) -> str:
    return printable(name.encode())
