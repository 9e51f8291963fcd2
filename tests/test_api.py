"""The arguments of the API's functions, and the job that a comparison takes from a ledger."""

from __future__ import annotations

import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import rumpx as package
from rumpx.cli.flags import make_comparison
from rumpx.cli.parsers import build_verify_parser
from rumpx.engine.key_counts import Census
from rumpx.errors import UsageError
from rumpx.guides import read_guides
from rumpx.ledger.catalog import Place, job_to_compare
from rumpx.ledger.ledger import Ledger, Update
from rumpx.ledger.schema import Facts, JobRecord
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Job, Limits, Scope
from rumpx.model.options import FIELDS

SOURCE = parse_endpoint("redis://a", "source")
TARGET = parse_endpoint("redis://b", "target")
KEPT: dict[str, Any] = {
    "scope": Scope(databases=(3,), types=("hash",)),
    "prefixes": (b"user:",),
    "on_conflict": "skip",
    "clock": "relative",
    "limits": Limits(max_keys_per_sec=5000),
}
ANEW: dict[str, Any] = {
    "workers": 16,
    "batch_keys": 7,
    "size_check": False,
    "stream_from": 2**24,
    "hot_keys": "fail",
    "max_bytes_in_flight": 2**21,
    "read_from": "replica",
    "allow_eviction": True,
    "connect_timeout": 1.0,
    "timeout": 2.0,
    "retry_for": 3.0,
}


@pytest.fixture
def copied(tmp_path: Path) -> Place:
    """The ledger of a copy, all of whose options differ from the defaults, but for its engine."""
    return ledger_of(Job(SOURCE, TARGET, **KEPT, **ANEW), tmp_path)


def ledger_of(job: Job, folder: Path) -> Place:
    record = JobRecord("job", time.time(), job, (3,), (), (), False, False)
    first = Update("done", 1.0, 0.0, Facts((), Census(None, None), 0), (), ())
    with closing(Ledger.create(folder / "job.ledger", record, first)):
        return Place(str(folder), "job")


def flagged(place: Place, *words: str) -> Job:
    """The job that `rumpx verify` compares."""
    words = (str(place.name), "--state-dir", str(place.folder), *words)
    return make_comparison(build_verify_parser().parse_args(words)).job


def test_a_comparison_keeps_the_keys_of_its_job_and_not_its_speed(copied: Place) -> None:
    expected = Job(SOURCE, TARGET, **KEPT)

    assert job_to_compare(copied, None, None, {}) == expected
    assert flagged(copied) == expected


def test_a_comparison_takes_what_is_given_anew(copied: Place) -> None:
    given: dict[str, Any] = {"workers": 2, "retry_for": 0.0, "clock": "absolute"}
    expected = Job(SOURCE, TARGET, **KEPT | given)

    assert job_to_compare(copied, None, None, given) == expected
    assert flagged(copied, "--workers=2", "--retry-for=0", "--clock=absolute") == expected


CLUSTER: dict[str, Any] = {
    "engine": "dask", "dask_scheduler": "tls://a:1", "dask_send_passwords": True
}  # fmt: skip


@pytest.mark.parametrize(
    ("job", "words", "expected"),
    [
        (CLUSTER, (), CLUSTER),
        (CLUSTER, ("--engine=dask",), CLUSTER),
        (CLUSTER, ("--dask-scheduler=tls://b:2",), CLUSTER | {"dask_scheduler": "tls://b:2"}),
        (CLUSTER, ("--engine=local", "--workers=2"), {"workers": 2}),
        ({}, (), {}),
        ({"workers": 3}, ("--engine=dask",), {"engine": "dask"}),
    ],
)
def test_a_comparison_keeps_the_engine_of_its_job_unless_another_is_given(
    tmp_path: Path, job: dict[str, Any], words: tuple[str, ...], expected: dict[str, Any]
) -> None:
    copied = ledger_of(Job(SOURCE, TARGET, **job), tmp_path)
    assert flagged(copied, *words) == Job(SOURCE, TARGET, **expected)


def test_workers_of_this_machine_are_refused_for_a_job_of_a_cluster(tmp_path: Path) -> None:
    copied = ledger_of(Job(SOURCE, TARGET, **CLUSTER), tmp_path)
    with pytest.raises(UsageError, match="give --engine local"):
        flagged(copied, "--workers=2")


def test_the_clock_of_the_job_stands_for_none(copied: Place) -> None:
    assert job_to_compare(copied, None, None, {"clock": "refuse"}).clock == "relative"


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["check", "copy", "resume", "verify"])
def test_no_module_has_the_name_of_a_function(name: str) -> None:
    """Importing one would put it in the function's place."""
    function, folder = getattr(package, name), Path(package.__file__).parent

    assert callable(function) and function.__module__ == "rumpx.api"
    assert not (folder / f"{name}.py").exists() and not (folder / name / "__init__.py").exists()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        *(("verify", name) for name in ("on_conflict", "functions", "partitions", "prefixes")),
        *(("verify", name) for name in ("follow", "feed", "max_deletes")),
        *(("verify", name) for name in ("max_failures", "scope", "source_db")),
        *(("check", name) for name in ("max_failures", "scope", "strict")),
        *(("copy", name) for name in ("scope", "sample", "wrokers")),
    ],
)
def test_an_unknown_keyword_is_refused(function: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^rumpx\.{function}\(\) .* keyword argument '{name}'$"):
        getattr(package, function)("redis://a", "redis://b", **{name: None})


def test_the_scope_of_a_job_cannot_be_replaced(copied: Place) -> None:
    with pytest.raises(TypeError, match="'scope'"):
        package.verify(job="job", state_dir=copied.folder, scope=Scope())  # type: ignore[call-arg]


def test_the_guide_lists_every_keyword() -> None:
    keywords = package.CopyOptions.__optional_keys__ - {"limits"}
    options = {field.rpartition(".")[2]: flag.flag for field, flag in FIELDS.items()}
    row = r"^\| `(\w+)` \| `(--[\w-]+)` \|"
    listed = dict(re.findall(row, read_guides()["python"], re.MULTILINE))

    assert listed == {keyword: options[keyword] for keyword in keywords}


def test_the_guide_says_which_function_lacks_a_keyword() -> None:
    every = package.CopyOptions.__optional_keys__
    following = {"follow", "feed", "delete_extra", "max_deletes"}
    rest = {"on_conflict", "functions", "partitions", "prefixes"} | following

    assert package.CheckOptions.__optional_keys__ == every - {"max_failures"}
    assert package.VerifyOptions.__optional_keys__ == every - {"max_failures"} - rest
    for keyword in rest:
        assert f"`{keyword}`" in read_guides()["python"].partition("`rumpx.verify` lacks")[2]
