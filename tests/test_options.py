"""The table of options, and all that is made from it."""

from __future__ import annotations

import dataclasses
import re
from operator import attrgetter

import hypothesis
import pytest
from hypothesis import strategies as st

from rumpx import api
from rumpx.cli.flags import limits_given, make_job
from rumpx.cli.parsers import build_parser, build_resume_parser
from rumpx.errors import UsageError
from rumpx.examples import read_example
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job, Limits, Scope
from rumpx.model.job_options import options_of
from rumpx.model.option_kinds import RATE, SIZE, WHOLE
from rumpx.model.options import COPY, FIELDS, Flag, flags_of
from rumpx.units import parse_seconds, write_seconds

ENDS = ("--from", "redis://a", "--to", "redis://b")
RANGED = [flag for flag in FIELDS.values() if flag.most is not None]


NEEDED = {
    "exit-when-off": ["--schedule=00:00,full"],
    "dask-scheduler": ["--engine=dask"],
    "dask-send-passwords": ["--engine=dask"],
    "feed": ["--follow"],
    "delete-extra": ["--follow"],
    "max-deletes": ["--follow"],
}


def default_job() -> Job:
    return Job(parse_endpoint("redis://a", "source"), parse_endpoint("redis://b", "target"))


def job_of(*words: str) -> Job:
    return make_job(build_parser().parse_args([*ENDS, *words]))


def test_every_field_has_an_option() -> None:
    fields = {field.name for field in dataclasses.fields(Job)} - {"source", "target"}
    parts = {
        **{f"scope.{field.name}": "scope" for field in dataclasses.fields(Scope)},
        **{f"limits.{field.name}": "limits" for field in dataclasses.fields(Limits)},
    }
    assert set(FIELDS) == (fields - set(parts.values())) | set(parts)


def test_the_api_has_every_field() -> None:
    scope = {field.name for field in dataclasses.fields(Scope)}
    fields = {field.name for field in dataclasses.fields(Job)}
    expected = (fields | scope) - {"source", "target", "scope"}
    assert api.CopyOptions.__required_keys__ == frozenset()
    assert api.CopyOptions.__optional_keys__ == expected


def test_without_flags_a_job_has_its_defaults() -> None:
    assert job_of() == default_job()


@pytest.mark.parametrize("flag", [f for f in flags_of(COPY) if f.field], ids=lambda f: f.name)
def test_an_option_sets_its_field_and_no_other(flag: Flag) -> None:
    words = flag.example or flag.shown_default
    chosen = {"batch-keys": "7", "partitions": "4", "workers": "3", "read-from": "replica"}
    words = chosen.get(flag.name, words)
    needed = NEEDED.get(flag.name, [])
    if not flag.kind.takes_value:
        job = job_of(flag.flag, *needed)
    else:
        job = job_of(f"{flag.flag}={words}", *needed)
    before, given = job_of(*needed), not words or words != flag.shown_default
    for field in FIELDS:
        value = attrgetter(field)
        assert (value(job) != value(before)) == (field == flag.field and given), field
    told = {option.flag: option for option in options_of(job)}[flag.flag]
    assert told.given == given
    read = flag.read([told.value]) if flag.kind.takes_value else flag.read([])
    assert read == attrgetter(flag.field)(job), "a report shows it as it is written"


@hypothesis.given(flag=st.sampled_from(RANGED), share=st.floats(0, 1))
def test_what_is_written_is_read_again(flag: Flag, share: float) -> None:
    assert flag.least is not None and flag.most is not None
    value = flag.least + share * (flag.most - flag.least)
    value = int(value) if flag.kind in (WHOLE, SIZE, RATE) else value
    (text,) = flag.kind.write(value)
    assert flag.read([text]) == pytest.approx(value, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("flag", RANGED, ids=lambda flag: flag.name)
def test_a_value_outside_the_range_is_refused(flag: Flag) -> None:
    assert flag.most is not None
    (text,) = flag.kind.write(type(flag.most)(flag.most * 2))
    with pytest.raises(UsageError, match=rf"^{flag.flag} is .*; give a value from "):
        job_of(f"{flag.flag}={text}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--retry-for=8d", "--retry-for is 8d; give a value from 0s to 7d."),
        ("--timeout=25h", "--timeout is 25h; give a value from 1ms to 1d."),
        ("--max-duration=0", "--max-duration is 0s; give a value from 1s to 365d, or off."),
        (
            "--max-bytes-per-sec=2000TiB",
            "--max-bytes-per-sec is 2000TiB; give a value from 1KiB to 1024TiB, or off.",
        ),
        (
            f"--max-failures={10**19}",
            f"--max-failures is {10**19}; give a value from 0 to {2**40}.",
        ),
    ],
)
def test_a_range_reads_well(words: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        job_of(words)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.0001, "0.1ms"), (0.5, "500ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m"),
        (90, "90s"), (300, "5m"), (3600, "1h"), (5400, "90m"), (86_400, "1d"), (90_000, "25h"),
    ],
)  # fmt: skip
def test_a_time_is_written_in_its_largest_exact_unit(seconds: float, text: str) -> None:
    assert write_seconds(seconds) == text
    assert parse_seconds(text, "--timeout") == seconds


def test_an_empty_time_zone_counts_as_not_given() -> None:
    """As `--time-zone "$ZONE"` has it where the variable is not set."""
    words = ["--schedule", "08:00,full", "--time-zone", ""]
    before = Limits(schedule="09:00,full", time_zone="Europe/Berlin")

    assert job_of(*words).limits == Limits(schedule="08:00,full")
    resumed = limits_given(build_resume_parser().parse_args(words), before)
    assert (resumed.schedule, resumed.time_zone) == ("08:00,full", "Europe/Berlin")


def test_resume_shows_no_default_of_a_new_copy() -> None:
    text = " ".join(build_resume_parser().format_help().split())

    assert "--from URI the source again, with its password" in text
    assert "--to URI the target again, with its password" in text
    assert "--workers N start N worker processes (default: as before)" in text
    assert "keys have failed (default: as before)" in text
    assert set(re.findall(r"\(default ([^)]+)\)", text)) == {"auto", "text"}


def test_the_example_file_says_that_rumpx_asks() -> None:
    comment = read_example("config").partition("\n#on-conflict = ")[0].rpartition("\n\n")[2]

    assert "terminal" in comment and comment.endswith("Default: ask.")


def test_options_that_are_not_given_have_their_defaults_in_a_report() -> None:
    told = {option.flag: option.value for option in options_of(default_job())}

    assert told["--on-conflict"] == "ask"
    for flag in ("--workers", "--batch-keys", "--partitions", "--max-duration", "--clock"):
        assert told[flag] == "", flag
    assert told["--max-failures"] == ""
    assert (told["--max-keys-per-sec"], told["--max-source-latency"]) == ("off", "5ms")
    assert (told["--retry-for"], told["--no-size-check"]) == ("5m", "no")
