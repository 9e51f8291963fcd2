"""`--config FILE`: what stands in the file is as if it stood on the command line."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rumpx.cli import main as cli
from rumpx.cli.config import EXCLUDES, NOT_IN_FILES, blaming_config, with_config
from rumpx.cli.flags import make_comparison, make_job
from rumpx.cli.parsers import (
    build_check_parser,
    build_parser,
    build_resume_parser,
    build_verify_parser,
)
from rumpx.errors import UsageError
from rumpx.model.job import Limits
from support.copying import assert_exact, copy
from support.data import fill_mixed
from support.servers import Server

ENDS = 'from = "redis://old:6379"\nto = "redis://new:6379"\n'


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], str]:
    """``write(text)`` makes the file nightly.toml in the current folder."""
    monkeypatch.chdir(tmp_path)

    def to_file(text: str | bytes) -> str:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "nightly.toml").write_bytes(data)
        return "nightly.toml"

    return to_file


def meant(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was understood, without the file that says so."""
    told = vars(arguments)
    return {name: told[name] for name in told if name not in ("config", "config_options")}


def options() -> dict[str, argparse.Action]:
    """A copy's options that may stand in a file."""
    return {
        name[2:]: action
        for action in build_parser()._actions
        for name in action.option_strings
        if name.startswith("--") and name[2:] not in NOT_IN_FILES
    }


# --- the file as the command line ------------------------------------------------------------

_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\x7f"), max_size=20)
_finite = st.floats(allow_nan=False, allow_infinity=False)


def _single(action: argparse.Action) -> st.SearchStrategy[Any]:
    if action.nargs == 0:
        return st.booleans()
    if action.choices is not None:
        return st.sampled_from(sorted(action.choices))
    if action.type is int:
        return st.integers(-(10**9), 10**9)
    return _texts | st.integers(-(10**9), 10**9) | _finite


def _value(name: str, action: argparse.Action) -> st.SearchStrategy[Any]:
    if isinstance(action.default, list):
        return _single(action) | st.lists(_single(action), max_size=3)
    if name in ("type", "prefixes"):
        plain = st.text("abc:{} -=é", max_size=5)
        return plain | st.lists(plain, min_size=1, max_size=3)
    return _single(action)


def _all_values() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {}, optional={name: _value(name, action) for name, action in options().items()}
    )


def _toml(values: dict[str, Any]) -> str:
    return "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()
    )


def _words(values: dict[str, Any]) -> list[str]:
    """The same, as somebody would type it."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
        elif name in ("type", "prefixes"):
            words += [f"--{name}={','.join(value) if isinstance(value, list) else value}"]
        else:
            words += [f"--{name}={v}" for v in (value if isinstance(value, list) else [value])]
    return words


@pytest.mark.smoke
@settings(deadline=None)
@given(_all_values(), _all_values())
def test_the_file_says_the_same_as_the_command_line(
    in_file: dict[str, Any], typed: dict[str, Any]
) -> None:
    parser = build_parser()
    typed = {name: value for name, value in typed.items() if value is not False and value != []}
    left_out = typed.keys() | {EXCLUDES[name] for name in typed if name in EXCLUDES}
    wins = {name: value for name, value in in_file.items() if name not in left_out}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.toml"
        path.write_text(_toml(in_file), encoding="utf-8")
        understood = with_config(parser, [*_words(typed), "--config", str(path)])
    assert meant(understood) == meant(parser.parse_args([*_words(wins), *_words(typed)]))


def test_what_is_typed_wins(write: Callable[[str], str]) -> None:
    file = write(ENDS + 'workers = 8\nmatch = ["a*", "b*"]\nexclude = ["c*"]\nprogress = "line"\n')
    arguments = with_config(
        build_parser(),
        ["--config", file, "--workers=2", "--match", "z*", "-to", "redis://other", "--functions"],
    )
    assert (arguments.source, arguments.target) == ("redis://old:6379", "redis://other")
    assert arguments.workers == 2 and arguments.progress == "line" and arguments.functions
    assert arguments.match == ["z*"] and arguments.exclude == ["c*"]


def test_a_view_that_is_typed_leaves_the_files_out(write: Callable[[str], str]) -> None:
    """And `--schedule off` what hangs on a timetable."""
    file = write(ENDS + 'progress = "line"\nschedule = "08:00,off"\nexit-when-off = true\n')
    arguments = with_config(build_parser(), ["--config", file, "--top", "--schedule", "off"])
    assert arguments.top and arguments.progress is None
    assert make_job(arguments).limits == Limits()


def test_a_typed_default_wins_too(write: Callable[[str], str]) -> None:
    file = write('workers = 8\nstream-from = "2MiB"\n')
    arguments = with_config(build_parser(), ["--workers", "4", "--config", file])
    assert arguments.workers == 4 and arguments.stream_from == "2MiB"


def test_a_repeatable_option_takes_one_value_or_a_list(write: Callable[[str], str]) -> None:
    file = write('db = 3\nmap-db = ["3:0", "4:1"]\ntype = ["hash", "zset"]\nprefixes = "a:,b:"\n')
    arguments = with_config(build_parser(), ["--config", file])
    assert arguments.db == ["3"] and arguments.map_db == ["3:0", "4:1"]
    assert arguments.type == "hash,zset" and arguments.prefixes == "a:,b:"


def test_nothing_is_imported_without_a_file() -> None:
    program = (
        "import sys; from rumpx.cli.config import with_config\n"
        "from rumpx.cli.parsers import build_parser\n"
        "assert with_config(build_parser(), ['--workers', '2']).workers == 2\n"
        "sys.exit(bool({'tomllib', 'difflib'} & set(sys.modules)))"
    )
    # Without the coverage that is measured in child processes: it imports things of its own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


def test_files_are_found_from_the_current_folder(
    write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ENDS + 'from-password-file = "secret"\n')
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("here\n")
    (tmp_path / "secret").write_text("there\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    arguments = with_config(build_parser(), ["--config", "../nightly.toml"])
    assert make_job(arguments).source.password == "here"


# --- other commands -----------------------------------------------------------------------------

EVERYTHING = ENDS + (
    'job = "nightly"\nworkers = 7\nverify = true\nmatch = ["user:*"]\ndb = [0]\n'
    'from-cluster = "no"\nto-map-address = "a:1=b:2"\nmax-keys-per-sec = 1000\n'
    'on-conflict = "replace"\nprogress = "line"\n'
)


def test_a_check_takes_what_it_has(write: Callable[[str], str]) -> None:
    file = write(EVERYTHING)
    arguments = with_config(build_check_parser(), ["--sample", "5", "--config", file])
    assert arguments.workers == 7 and arguments.match == ["user:*"] and arguments.sample == 5
    assert arguments.max_keys_per_sec == "1000" and not hasattr(arguments, "job")


def test_resume_takes_the_job_and_its_limits(write: Callable[[str], str]) -> None:
    words = ["--config", write(EVERYTHING)]
    arguments = with_config(build_resume_parser(), words, names_job=True)
    assert arguments.name == "nightly" and arguments.workers == 7
    assert arguments.source == "redis://old:6379" and arguments.max_keys_per_sec == "1000"
    other = with_config(build_resume_parser(), ["other", *words], names_job=True)
    assert other.name == "other"


def test_verify_takes_sides_and_scope(write: Callable[[str], str]) -> None:
    arguments = with_config(build_verify_parser(), ["--config", write(EVERYTHING)])
    request = make_comparison(arguments)
    assert request.job.scope.match == (b"user:*",) and request.job.workers == 7
    assert request.job.source.cluster is False and arguments.name is None


def test_verify_takes_no_option_of_a_follow(write: Callable[[str], str]) -> None:
    path = write(f"{ENDS}follow = true\ndelete-extra = true\nyes = true\n")

    assert not make_comparison(
        with_config(build_verify_parser(), ["--config", path])
    ).delete_extra
    assert make_job(with_config(build_check_parser(), ["--config", path])).delete_extra


def test_verify_of_a_named_job_takes_neither(write: Callable[[str], str]) -> None:
    arguments = with_config(build_verify_parser(), ["moved", "--config", write(EVERYTHING)])
    assert arguments.name == "moved" and arguments.workers == 7
    assert arguments.match == arguments.db == arguments.to_map_address == []
    assert arguments.from_cluster is None and arguments.source == "redis://old:6379"


# --- invalid files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("wokers = 4", "a copy has no option 'wokers'; did you mean workers?"),
        ("max_source_latency = 1", "'max_source_latency'; did you mean max-source-latency?"),
        ('"--workers" = 1', "'--workers'; did you mean workers?"),
        ('"a\\nb" = 1', "no option 'a\\nb'; rumpx example config shows all."),
        ("repair = true", "no option 'repair'"),
        ("config = 'x'", "config is allowed only on the command line."),
        ("dry-run = true", "dry-run is allowed only on the command line."),
        ("[source]\nuri = 'x'", "'source' is a table; write options outside of tables"),
        ("workers.number = 4", "'workers' is a table"),
        ("workers = 'x'", "workers takes a whole number."),
        ("workers = 4.0", "workers takes a whole number."),
        ("workers = true", "workers takes a whole number."),
        ("workers = [1, 2]", "workers takes a whole number."),
        ("verify = 'yes'", "verify takes true or false."),
        ("verify = 1", "verify takes true or false."),
        ("match = [['a']]", "match takes a text or a number, or a list of these."),
        ("match = [true]", "match takes a text or a number, or a list of these."),
        ("type = ['hash,zset']", "type takes a list of texts without commas."),
        ("job = true", "job takes a text or a number."),
        ("job = ['a']", "job takes a text or a number."),
        ("max-duration = 08:00:00", "max-duration takes a text or a number."),
        ("progress = 'lines'", "progress takes one of auto, bar, line, json, none."),
        ('match = "a\\u0000"', "match contains a zero byte; no option can."),
        ("workers = ", "it is not TOML: Invalid value (at line 3, column 11)."),
        ("workers = 1\nworkers = 2", "it is not TOML: Cannot overwrite a value (at line 4"),
        ("x = " + "[" * 5000, "it is not TOML: "),
        (b"from = '\xff'", "it is not UTF-8 text."),
    ],
)
def test_what_cannot_be_meant(
    write: Callable[[str | bytes], str], text: str | bytes, told: str
) -> None:
    file = write(f"\n\n{text}\n" if isinstance(text, str) else text)
    with pytest.raises(UsageError) as caught:
        with_config(build_parser(), ["--config", file])
    message = str(caught.value)
    assert message.startswith("--config nightly.toml: ") and told in message
    assert "\n" not in message and len(message) < 200


@pytest.mark.parametrize(
    ("name", "told"),
    [("missing.toml", "No such file or directory"), (".", "Is a directory")],
)
def test_a_file_that_cannot_be_read(write: Callable[[str], str], name: str, told: str) -> None:
    write("")
    with pytest.raises(UsageError, match=f"^--config {name}: it cannot be read: {told}.$"):
        with_config(build_parser(), ["--config", name])


def test_mistakes_on_the_command_line_do_not_name_the_file(write: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match=r"^Argument --workers: invalid int value: 'x'"):
        with_config(build_parser(), ["--config", write("workers = 8"), "--workers", "x"])


def test_a_value_that_a_job_refuses_names_the_file(write: Callable[[str], str]) -> None:
    file = write(ENDS + "max-source-latency = '5 apples'\nto-password-file = 'missing'\n")

    def refused(*words: str) -> str:
        arguments = with_config(build_parser(), ["--config", file, *words])
        with pytest.raises(UsageError) as caught, blaming_config(arguments):
            make_job(arguments)
        return str(caught.value)

    assert refused("--to-password-file=nightly.toml").startswith(
        "--config nightly.toml: --max-source-latency: '5 apples' is not a time"
    )
    assert refused("--max-source-latency=5ms").startswith(
        "--config nightly.toml: --to-password-file"
    )
    assert refused("--to-password-file=nightly.toml", "--max-source-latency", "x").startswith(
        "--max-source-latency: 'x' is not a time"
    )


def test_no_password_is_told(write: Callable[[str], str]) -> None:
    for text in ("from = ['redis://:geheim@a']", "to-ca = 1\nfrom = 'geheim'\nto = 'geheim'"):
        with pytest.raises(UsageError) as caught:
            arguments = with_config(build_parser(), ["--config", write(text)])
            with blaming_config(arguments):
                make_job(arguments)
        assert "geheim" not in str(caught.value)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_copy_by_a_file(
    server: Callable[..., Server], write: Callable[[str], str], state_home: Path
) -> None:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, 2000, ttl_share=0)
    file = write(
        f'from = "{source.uri}"\nto = "{target.uri}"\njob = "nightly"\n'
        'max-source-latency = "off"\nworkers = 1\nverify = true\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "rumpx", "--config", file, "--progress", "none"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert (state_home / "nightly.ledger").exists()
    assert_exact(copy(source, target, "--on-conflict", "skip"), source, target, 2000)


@pytest.mark.parametrize(
    ("command", "text", "told"),
    [
        ("", "max-source-cpu = 'x'", "--max-source-cpu: 'x' is not a share"),
        ("--dry-run", "max-source-cpu = 'x'", "--max-source-cpu: 'x' is not a share"),
        ("check", "max-source-cpu = 'x'", "--max-source-cpu: 'x' is not a share"),
        ("verify", "max-source-cpu = 'x'", "--max-source-cpu: 'x' is not a share"),
        ("resume", "wokers = 4", "a copy has no option 'wokers'"),
    ],
)
def test_every_command_tells_the_file(
    write: Callable[[str], str], command: str, text: str, told: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rumpx", *command.split(), "--config", write(ENDS + text)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])},
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"--config nightly.toml: {told}" in done.stderr
