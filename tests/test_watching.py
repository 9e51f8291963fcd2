"""What a run is watched by and what it leaves: logs, the hook at its end, reports; and no secret in
any of it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rumpx.cli.hook import run_hook
from support.copying import Copying, copy, held, resume, verify
from support.dask import Dask
from support.data import compare, fill_mixed, keys_of
from support.run import Running, rumpx, rumpx_pty, run_line
from support.servers import Server
from support.waiting import wait_until

StartServer = Callable[..., Server]
ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "rumpx/display/events.schema.json").read_text(encoding="utf-8"))
KEYS = 4_000
USAGE, SOME_FAILED, DIFFERENCES, SOURCE_UNUSABLE, INTERRUPTED = 2, 3, 4, 6, 130
SECRET = "pl4nted-Secret"
KEEP = 'cat > "$WHERE/hook.json"; echo "$RUMPX_EXIT_CODE" > "$WHERE/code"; env > "$WHERE/env"'


@pytest.fixture
def pair(server: StartServer) -> tuple[Server, Server]:
    source, target = server("7.0"), server("8.1")
    fill_mixed(source, KEYS)
    return source, target


def valid(lines: list[str]) -> list[dict[str, Any]]:
    """Lines as objects; each must be as the schema says."""
    validator = jsonschema.Draft202012Validator(SCHEMA)
    events = [json.loads(line) for line in lines]
    for event in events:
        errors = [f"{e.json_path}: {e.message}"[:300] for e in validator.iter_errors(event)]
        assert not errors, (event["event"], errors)
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The events' names, each as often as others came between."""
    names = [event["event"] for event in events]
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


# --- schema ---------------------------------------------------------------------------------


def test_the_schema_is_one_and_refuses_what_is_not_documented() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    stamp = {"version": 1, "time": "2026-11-26T02:08:38.990Z"}
    valid([json.dumps({**stamp, "event": "message", "text": "x"})])
    for event in (
        {"event": "message", "text": "x", "version": 2, "time": stamp["time"]},
        {**stamp, "event": "other"},
        {**stamp, "event": "progress"},
        {**stamp, "event": "error", "text": "x", "exit_code": 0, "resume": None},
    ):
        with pytest.raises(AssertionError):
            valid([json.dumps(event)])


@pytest.mark.smoke
def test_json_lines_are_as_the_schema_says(pair: tuple[Server, Server]) -> None:
    """A copy in which keys fail, compared after it; then a comparison by itself."""
    source, target = pair
    target.do("SET", "k1:7", "theirs")
    target.do("SET", "only here", "x")
    done = copy(source, target, "--on-conflict", "fail", "--verify", code=DIFFERENCES)
    alone = rumpx(
        "verify", "--from", source.uri, "--to", target.uri, "--progress", "json"
    )

    events = valid([line for line in done.stderr.splitlines() if line.startswith("{")])
    assert kinds(events)[0] == "progress" and kinds(events).count("summary") == 2
    assert events[-1]["event"] == "summary" and events[-1]["differences"]
    assert any(event.get("failures") == {"busy key": 1} for event in events)
    events = valid(alone.stderr.splitlines())
    assert {event["verb"] for event in events if event["event"] == "progress"} == {"compared"}


def test_workers_of_a_dask_cluster_are_shown_with_their_machine(
    pair: tuple[Server, Server],
) -> None:
    def status_of_two() -> dict[str, Any] | None:
        told = json.loads(rumpx("ctl", "far", "status", "--json").stdout or "{}")
        return told if told.get("workers") == 2 else None

    source, target = pair
    pace = ("--max-keys-per-sec", "1000", "--max-source-latency", "off", "--partitions", "8")
    with Dask() as dask:
        dask.start_workers(2)
        with Copying(source, target, "--job", "far", *dask.flags, *pace) as copying:
            told = wait_until(status_of_two, 60, "both workers are at work")
            people = rumpx("ctl", "far", "status")
            stderr = copying.finish().stderr

    here = platform.node()
    assert told["machines"] == {here: 2}
    assert re.search(f"  workers  [12] on 1 machine: {here} [12]\n", people.stdout)
    events = valid([line for line in stderr.splitlines() if line.startswith("{")])
    shown = [event for event in events if event["event"] == "progress" and event["workers"]]
    assert {worker["host"] for event in shown for worker in event["workers"]} == {here}
    assert max(len(event["workers"]) for event in shown) == 2
    used = [worker["memory"] for event in shown for worker in event["workers"]]
    assert max(used) > 2**20


# --- logs -----------------------------------------------------------------------------------


def test_a_log_beside_the_bars(pair: tuple[Server, Server], tmp_path: Path) -> None:
    """It is appended to, and each line has a date."""
    source, target = pair
    log = tmp_path / "copy.log"
    log.write_text("there before\n")

    ends = ("--from", source.uri, "--to", target.uri)
    shown = rumpx_pty(*ends, "--log-file", log, "--max-keys-per-sec", "4000")

    assert shown.returncode == 0 and "━" in shown.text
    first, *lines = log.read_text(encoding="utf-8").splitlines()
    assert first == "there before"
    stamp = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d "
    assert all(re.match(stamp, line) for line in lines), lines
    told = [re.sub(stamp, "", line) for line in lines]
    assert told[0].startswith(("starting", "copying"))
    assert any(line.startswith("done 100.0 %") for line in told)
    assert any(line.startswith(f"copied {KEYS:,} keys in") for line in told)


def test_a_log_as_json_has_the_whole_run(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    log = tmp_path / "copy.log"
    flags = ("--log-file", log, "--log-format", "json", "--job", "job")
    with Copying(source, target, *flags) as copying:
        copying.stop_at(target, 500)
        copying.finish(INTERRUPTED)
    resume("--log-file", log, "--log-format", "json")

    events = valid(log.read_text(encoding="utf-8").splitlines())
    assert kinds(events) == ["progress", "summary", "error", "progress", "summary"]
    error = next(event for event in events if event["event"] == "error")
    assert (error["exit_code"], error["resume"]) == (INTERRUPTED, "rumpx resume job")
    assert events[-1]["counts"]["copied"] == KEYS and events[-1]["runs"] == 2


@pytest.mark.parametrize("on_error", ["", "--max-failures"])
def test_lines_on_standard_error_as_json(pair: tuple[Server, Server], on_error: str) -> None:
    """As a container's log wants it: nothing else, also where it goes wrong."""
    source, target = pair
    words = ["--from", source.uri, "--to", target.uri, "--job", "job"]
    if on_error:
        target.do("SET", "k1:7", "theirs")
        words += ["--on-conflict", "fail", "--max-failures", "0"]

    run = rumpx(*words, "--progress", "line", "--log-format", "json")

    events = valid(run.stderr.splitlines())
    assert kinds(events)[0] == "progress"
    assert events[-1]["event"] == ("error" if on_error else "summary")
    assert run.returncode == (SOME_FAILED if on_error else 0)


def test_a_log_that_cannot_be_written_any_more_does_not_stop_the_copy(
    pair: tuple[Server, Server],
) -> None:
    source, target = pair

    done = copy(source, target, "--log-file", "/dev/full", "--progress", "line")

    assert compare(source, target) == []
    assert "The log stopped (OSError" in done.stderr
    assert "The log /dev/full cannot be written" in done.stderr
    assert f"copied {KEYS:,} keys in" in done.stderr


def test_a_log_that_nobody_reads_does_not_hold_up_the_end(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    source, target = pair
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))

    done = copy(source, target, "--log-file", pipe, "--progress", "line")

    assert "The log stopped" in done.stderr and done.counts["copied"] == KEYS
    os.close(reader)
    os.close(writer)


def test_people_who_do_not_listen_do_not_stop_what_remains(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    """Standard error that takes nothing: the comparison, the summary, the log and the hook come all
    the same."""
    source, target = pair
    line = " ".join(
        [
            f"rumpx --from {source.uri} --to {target.uri} --progress line --verify",
            f"--summary {tmp_path}/s.json --log-file {tmp_path}/log",
            f"--on-end 'cat > {tmp_path}/hook.json' 2> /dev/full",
        ]
    )

    done = run_line(line)

    assert done.returncode == 0
    for name in ("s.json", "hook.json"):
        told = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        assert told["verification"]["counts"]["equal"] == KEYS
    assert f"compared {KEYS:,} keys" in (tmp_path / "log").read_text(encoding="utf-8")


def test_an_error_that_nobody_hears_keeps_its_exit_code(
    server: StartServer, tmp_path: Path
) -> None:
    target = server("7.0")
    ends = f"--from redis://127.0.0.1:1 --to {target.uri}"

    done = run_line(f"rumpx {ends} --on-end '{KEEP}' 2> /dev/full", env={"WHERE": str(tmp_path)})

    assert done.returncode == SOURCE_UNUSABLE
    assert "127.0.0.1:1" in hook_told(tmp_path, SOURCE_UNUSABLE)["error"]


def test_what_is_of_an_earlier_run_is_not_taken_for_news(
    server: StartServer, tmp_path: Path
) -> None:
    """A run that does not start leaves the files as they are."""
    target = server("7.0")
    page, summary = tmp_path / "page.html", tmp_path / "summary.json"
    words = ("--from", "redis://127.0.0.1:1", "--to", target.uri)
    more = ("--report", page, "--summary", summary)
    said = rumpx(*words, *more).stderr
    assert "earlier run" not in said and not page.exists() and not summary.exists()

    page.write_text("old")
    summary.write_text("old")
    run = rumpx(*words, *more)

    assert run.returncode == SOURCE_UNUSABLE
    for flag, path in (("--report", page), ("--summary", summary)):
        told = f"rumpx: {flag}: nothing was copied or compared; {path} is still an earlier run's."
        assert told in run.stderr.splitlines()
        assert path.read_text() == "old"


# --- refused before the copy starts ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--report", "{tmp}/no/such/report.html"), "--report: {tmp}/no/such/report.html cannot"),
        (("--report", "{tmp}"), "--report: {tmp} cannot be written: Is a directory"),
        (("--report", "-", "--summary", "-"), "--report and --summary are both standard output"),
        (("--report", ""), "--report is empty; leave it out."),
        (("--on-end", ""), "--on-end is empty; leave it out."),
        (("--log-file", "{tmp}/no/log"), "--log-file: {tmp}/no/log cannot be written: No such"),
        (("--metrics", "{port}"), "--metrics"),
        (("--top",), "--top needs a terminal"),
        (("--top", "--progress", "line"), "--top and --progress exclude each other"),
    ],
)
def test_what_cannot_be_shown_or_left_is_refused_before_the_copy(
    pair: tuple[Server, Server],
    tmp_path: Path,
    state_home: Path,
    words: tuple[str, ...],
    complaint: str,
) -> None:
    source, target = pair
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = {"tmp": tmp_path, "port": taken.getsockname()[1]}
        more = [word.format(**place) for word in words]
        run = rumpx("--from", source.uri, "--to", target.uri, *more)

    assert run.returncode == USAGE, run.stderr
    assert run.stderr.startswith(f"rumpx: {complaint.format(**place)}")
    assert len(run.stderr.splitlines()) == 1
    assert keys_of(target) == set() and not list(state_home.glob("*"))


# --- the hook at the end --------------------------------------------------------------------


def hook_told(folder: Path, code: int) -> dict[str, Any]:
    """What the hook was given."""
    assert (folder / "code").read_text().strip() == str(code)
    found: dict[str, Any] = json.loads((folder / "hook.json").read_text(encoding="utf-8"))
    assert found["exit_code"] == code or found["verification"]["exit_code"] == code
    return found


def test_the_hook_after_a_copy_and_its_comparison(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    source, target = pair

    copy(source, target, "--on-end", KEEP, "--verify", env={"WHERE": str(tmp_path)})

    told = hook_told(tmp_path, 0)
    assert (told["state"], told["error"], told["resume"]) == ("done", "", None)
    assert told["verification"]["counts"]["equal"] == told["counts"]["copied"] == KEYS


def test_the_hook_of_a_run_that_is_stopped(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    with Copying(
        source, target, "--job", "job", "--on-end", f"export WHERE={tmp_path}; {KEEP}"
    ) as copying:
        copying.stop_at(target, 500)
        copying.finish(INTERRUPTED)

    told = hook_told(tmp_path, INTERRUPTED)
    assert (told["state"], told["resume"]) == ("stopped", "rumpx resume job")
    assert 0 < told["counts"]["copied"] < KEYS


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("--from", "redis://127.0.0.1:1", "--to", "{target}"), SOURCE_UNUSABLE, "127.0.0.1:1"),
        (("--from", "nonsense", "--to", "{target}"), USAGE, "--from is not a known URI"),
        (("--to", "{target}"), USAGE, "--from is missing"),
        (("resume", "nobody"), USAGE, "There is no job nobody"),
        (("verify", "nobody"), USAGE, "There is no job nobody"),
    ],
)
def test_the_hook_of_a_run_that_did_not_begin(
    server: StartServer, tmp_path: Path, words: tuple[str, ...], code: int, error: str
) -> None:
    target = server("7.0")
    more = [word.format(target=target.uri) for word in words]

    run = rumpx(*more, "--on-end", KEEP, env={"WHERE": str(tmp_path)})

    assert run.returncode == code, run.stderr
    told = hook_told(tmp_path, code)
    assert told["state"] == "failed" and error in told["error"]


def test_the_hook_is_ended_by_a_signal_and_comes_once(
    server: StartServer, tmp_path: Path
) -> None:
    """Also where the copy was refused, so that nothing had begun."""
    target = server("7.0")
    codes = tmp_path / "codes"
    hook = f"echo $RUMPX_EXIT_CODE >> {codes}; sleep 60"
    words = ("--from", "redis://127.0.0.1:1", "--to", target.uri, "--on-end", hook)
    with Running(words) as run:
        wait_until(lambda: codes.exists() and codes.read_text().split(), 20, "the hook")
        run.send_signal(signal.SIGINT)
        done = run.wait(20)

    assert done.returncode == SOURCE_UNUSABLE
    assert codes.read_text().split() == [str(SOURCE_UNUSABLE)]
    assert done.stderr.splitlines()[-1] == "rumpx: The command of --on-end ended with a signal."


def test_a_hook_that_fails_changes_no_exit_code(pair: tuple[Server, Server]) -> None:
    source, target = pair

    done = copy(source, target, "--on-end", "echo said; exit 9")

    complaint = "rumpx: The command of --on-end ended with exit code 9."
    assert done.stderr.splitlines()[-2:] == ["said", complaint]


@pytest.mark.smoke
def test_a_hook_has_a_time_and_reads_what_it_likes(tmp_path: Path) -> None:
    large = {"failures": ["x" * 100] * 100_000}  # more than a pipe holds

    assert run_hook("true", large, 0) == ""
    assert run_hook(f"wc -c > {tmp_path}/size", large, 0) == ""
    assert int((tmp_path / "size").read_text()) > 10**7
    assert "killed" in run_hook(f"sleep 60 & echo $! > {tmp_path}/pid; wait", {}, 0, seconds=3)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "the hook's end")
    assert run_hook("kill -9 $$", {}, 0) == "The command of --on-end ended with a signal."


# --- reports --------------------------------------------------------------------------------


def test_a_report_is_written_when_a_run_is_stopped_and_anew_when_it_goes_on(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    source, target = pair
    page = tmp_path / "report.html"
    with Copying(source, target, "--job", "job", "--report", page) as copying:
        copying.stop_at(target, 500)
        copying.finish(INTERRUPTED)
    stopped = page.read_text(encoding="utf-8")
    resume("--report", page)
    done = page.read_text(encoding="utf-8")

    assert "rumpx resume job" in stopped and "rumpx resume job" not in done
    assert f"{KEYS:,}" in done
    assert not list(tmp_path.glob(".report*")), "nothing is left beside it"


def test_reports_made_later(pair: tuple[Server, Server], tmp_path: Path) -> None:
    """As a page and for a terminal, of a job that was killed as well."""
    source, target = pair
    page = tmp_path / "later.html"
    with Copying(source, target, "--job", "job") as copying, copying.held_at(target, 500):
        copying.run.send_signal(signal.SIGKILL, group=True)
    killed = rumpx("report", "job")
    resume()
    verify(source, target)

    shown = rumpx("report", "job")
    written = rumpx("report", "job", "--html", page)

    assert killed.returncode == shown.returncode == written.returncode == 0
    assert "killed" in killed.stdout and "killed" in shown.stdout
    assert f"{KEYS:,}" in shown.stdout and "string" in shown.stdout
    assert written.stdout == written.stderr == ""
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("of_job", [True, False])
def test_the_report_of_a_comparison(
    pair: tuple[Server, Server], tmp_path: Path, of_job: bool
) -> None:
    """Of a job it is the job's, with the comparison in it; else it is the comparison's."""
    source, target = pair
    copy(source, target, "--job", "job")
    target.do("DEL", "k1:5")
    page = tmp_path / "report.html"
    words = ["job"] if of_job else ["--from", source.uri, "--to", target.uri]

    run = rumpx("verify", *words, "--report", page)

    assert run.returncode == DIFFERENCES
    text = page.read_text(encoding="utf-8")
    assert ("report of a copy" in text, "report of a comparison" in text) == (of_job, not of_job)
    assert "missing" in text and ("--on-conflict" in text) == of_job


def test_a_report_that_cannot_be_written_at_the_end(
    pair: tuple[Server, Server], tmp_path: Path
) -> None:
    """The copy is what it is; the report can be made later."""
    source, target = pair
    folder = tmp_path / "gone"
    folder.mkdir()
    page = folder / "report.html"
    with Copying(source, target, "--job", "job", "--report", page) as copying:
        with copying.held_at(target, 500):
            folder.rmdir()
        done = copying.finish()

    assert done.counts["copied"] == KEYS
    assert f"rumpx: --report: {page} cannot be written" in done.stderr
    assert "rumpx report job --html FILE makes the report later" in done.stderr


def test_what_cannot_be_listed_or_told_does_not_take_the_end_away(
    pair: tuple[Server, Server], tmp_path: Path, state_home: Path
) -> None:
    """The list of failed keys cannot be written, nor the summary: the report still comes."""
    source, target = pair
    target.do("SET", "k1:7", "theirs")
    (state_home / "job.failed.jsonl").mkdir(parents=True)
    folder = tmp_path / "gone"
    folder.mkdir()
    words = ("--job", "job", "--on-conflict", "fail", "--report", tmp_path / "report.html")
    ends = ("--from", source.uri, "--to", target.uri)
    flags = ("--batch-keys", "5", "--workers", "1", "--summary", folder / "s.json")
    with Running([*ends, *words, *flags, "--progress", "line"]) as run:
        with held(run, lambda: target.do("DBSIZE") > 500):
            folder.rmdir()
        done = run.wait()

    assert done.returncode == SOME_FAILED, done.stderr
    assert "The failed and lossy keys could not be listed in files" in done.stderr
    assert "except for failed keys" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_on_standard_output(pair: tuple[Server, Server], tmp_path: Path) -> None:
    source, target = pair
    done = rumpx("--from", source.uri, "--to", target.uri, "--job", "job", "--report", "-")
    page = rumpx("report", "job", "--html", "-")
    empty = rumpx("report", "job", "--html", "")

    for text in (done.stdout, page.stdout):
        assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n")
    assert page.returncode == 0 and page.stderr == ""
    assert (empty.returncode, empty.stdout) == (2, "")
    assert empty.stderr == "rumpx: --html is empty; leave it out.\n"


def test_a_copy_that_is_done_stays_done_though_its_ledger_is_lost(
    pair: tuple[Server, Server], state_home: Path
) -> None:
    source, target = pair
    with Copying(source, target, "--job", "job") as copying:
        with copying.held_at(target, 500):
            shutil.rmtree(state_home)
        done = copying.finish()

    assert done.counts["copied"] == KEYS and compare(source, target) == []
    assert any("The failed keys cannot be listed" in text for text in done.summary["warnings"])


def test_a_job_that_is_not_there() -> None:
    run = rumpx("report", "nobody")

    assert run.returncode == USAGE and "There is no job nobody" in run.stderr


# --- secrets --------------------------------------------------------------------------------


def test_no_secret_and_no_value_anywhere(
    server: StartServer, tmp_path: Path, state_home: Path
) -> None:
    """A planted password and planted values are in no file and no stream that a run makes."""
    value = "pl4nted-value-" + "v" * 40
    source, target = server("7.0", requirepass=SECRET), server("7.0", requirepass=SECRET)
    client = source.client()
    for number in range(500):
        client.set(f"k{number}", f"{value}{number}")
        client.hset(f"h{number}", f"{value}f", f"{value}{number}")
    target.client().set("k7", "theirs")
    page, log, summary = (tmp_path / name for name in ("r.html", "r.log", "s.json"))
    words = [
        *("--from", f"redis://:{SECRET}@127.0.0.1:{source.port}", "--job", "job"),
        *("--to", f"redis://127.0.0.1:{target.port}", "--on-conflict", "fail", "--verify"),
        *("--report", page, "--log-file", log, "--log-format", "json", "--summary", summary),
        *("--on-end", KEEP, "--progress", "json"),
    ]
    environment = {"WHERE": str(tmp_path), "RUMPX_TO_PASSWORD": SECRET}

    run = rumpx(*words, env=environment)
    shown = rumpx("report", "job")

    assert run.returncode == DIFFERENCES, run.stderr[-2000:]
    left = [path for folder in (tmp_path, state_home) for path in folder.rglob("*")]
    names = {path.name for path in left if path.is_file()}
    assert names >= {"r.html", "r.log", "s.json", "hook.json", "env", "job.ledger"}
    texts = {"stdout": run.stdout, "stderr": run.stderr, "report": shown.stdout}
    texts |= {
        path.name: path.read_bytes().decode("latin-1") for path in left if path.is_file()
    }
    for name, text in texts.items():
        assert SECRET not in text, name
        assert "pl4nted" not in text, name
