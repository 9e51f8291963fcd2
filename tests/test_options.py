"""The table of options, and all that is made from it."""

from __future__ import annotations

import dataclasses
from operator import attrgetter

import hypothesis
import pytest
from hypothesis import strategies as st

from rumpx import api
from rumpx.cli.flags import make_job
from rumpx.cli.parsers import build_parser
from rumpx.errors import UsageError
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job, Limits, Scope
from rumpx.model.job_options import options_of
from rumpx.model.options import COPY, FIELDS, SIZE, WHOLE, Flag, flags_of

ENDS = ("--from", "redis://a", "--to", "redis://b")
RANGED = [flag for flag in FIELDS.values() if flag.most is not None]


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
    words = {"batch-keys": "7", "partitions": "4", "read-from": "replica"}.get(flag.name, words)
    needed = ["--schedule=00:00,full"] if flag.name == "exit-when-off" else []
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
    value = int(value) if flag.kind in (WHOLE, SIZE) else value
    (text,) = flag.kind.write(value)
    assert flag.read([text]) == pytest.approx(value, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("flag", RANGED, ids=lambda flag: flag.name)
def test_a_value_outside_the_range_is_refused(flag: Flag) -> None:
    assert flag.most is not None
    (text,) = flag.kind.write(type(flag.most)(flag.most * 2))
    with pytest.raises(UsageError, match=rf"^{flag.flag} is .*; give a value from "):
        job_of(f"{flag.flag}={text}")
