"""Text from outside, and where people read it: nothing steers a terminal, and nothing hides."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rumpx.display import bars, top
from rumpx.display.draw import console
from rumpx.display.jsonl import json_lines, summary_json
from rumpx.display.lines import lines, text_log
from rumpx.display.metrics import metrics_of
from rumpx.display.status import status_lines
from rumpx.ledger.catalog import Listed
from rumpx.model.checkup import (
    Checkup,
    Estimate,
    LargeKey,
    Line,
    Part,
    Planned,
    PrefixCount,
    Sampled,
    TypeCount,
)
from rumpx.model.job import Limits
from rumpx.model.snapshot import Held, NodeStat, Snapshot
from rumpx.report.checkup import Report
from rumpx.report.html import render_html
from rumpx.report.jobs import job_lines
from rumpx.report.summary import render_summary, summary_lines
from rumpx.report.tables import render_record
from rumpx.text import legible, say, shell_words
from support import records
from support.hostile import INFO, Hostile, Words, answering, array, bulk
from support.run import rumpx, rumpx_pty
from support.servers import Server
from support.snapshots import make_follow, make_rows, make_snapshot

StartServer = Callable[..., Server]
SOURCE, TARGET = 6, 7

# A title for the terminal, a line of its own, the other direction, no width, a C1 control, markup.
EVIL = "\x1b]0;owned\x07\nforged: \u202egnp\u200b\x9b31m[red][/green]:boom:"
SHOWN = "]0;owned"


def is_clean(text: str) -> bool:
    """Whether it steers no terminal, and whether no line of it is another's."""
    lines = text.split("\n")
    return all(line.isprintable() and not line.startswith("forged") for line in lines)


# Every text of every document, through everything that draws it


_WORDS = "Literal|State|Standing|Side|Status|Spread|verb|Phase|FeedKind|CutoverCheck|CutoverOutcome"


def poisoned(document: Any) -> Any:
    """The document, with each text that is not one of a few words replaced."""
    if isinstance(document, str):
        return EVIL
    if isinstance(document, dict):
        return {poisoned(key): poisoned(value) for key, value in document.items()}
    if isinstance(document, (tuple, list)):
        return type(document)(map(poisoned, document))
    if not dataclasses.is_dataclass(document) or isinstance(document, (type, Limits)):
        return document  # limits are checked when they are made: no text of theirs is free
    changed = {
        field.name: poisoned(getattr(document, field.name))
        for field in dataclasses.fields(document)
        if not re.search(_WORDS, str(field.type))
        and field.name not in ("side", "verb", "status", "back", "spread")
    }
    return dataclasses.replace(document, **changed)


SNAPSHOT: Snapshot = poisoned(
    make_snapshot(
        note="waits",
        rows=make_rows(3),
        partitions=make_rows(3),
        held=Held("held", False, 0.001, 0.001, by=("rate",), share=0.5, seconds={"rate": 1.0}),
        nodes=(NodeStat("source", "redis://h:1", 0.001, 1.0, 1, 1),),
        failures={"refused": 1},
        content=records.content(1000),
        follow=make_follow(waits_for="waits"),
    )
)
RECORDS = [poisoned(records.throttled()), poisoned(records.comparison())]
RECORDS += [poisoned(records.followed("stopped", make_follow(waits_for="waits")))]
RECORDS += [poisoned(records.cut_over())]
SUMMARIES = [RECORDS[0].summary, RECORDS[0].verification]
CHECKUP: Checkup = poisoned(
    Checkup(
        0,
        True,
        (Line("warn", "source", "text", "advice"),),
        None,
        None,
        Sampled(
            *(1, 1, "all keys", 0, None, None, None, None, 0),
            types=(TypeCount("string", 1, 1, {"raw": 1}),),
            prefixes=(PrefixCount("a:", 1, 1),),
            largest=(LargeKey(0, "k", "string", 1),),
        ),
        Estimate(1, 1, 1.0, 1.0, "a sample"),
        Planned((Part("h:1", 0, "all keys"),), 1, 1, 1, 1, 1, 1, 1, "fail"),
    )
)
ANSWER: dict[str, Any] = dict.fromkeys(("job", "state", "reason"), EVIL)
ANSWER |= {"limits": {EVIL: EVIL}, "follow": {"text": EVIL, "waits_for": EVIL}}


def drawn(what: Any) -> str:
    stream = io.StringIO()
    console(stream).print(what)
    return stream.getvalue()


def written(display: Callable[[io.StringIO], Any]) -> str:
    """What a display of lines writes of a snapshot and of a message."""
    stream = io.StringIO()
    shown = display(stream)
    shown.show(SNAPSHOT)
    shown.message(EVIL)
    return stream.getvalue()


def said(*texts: str) -> str:
    stream = io.StringIO()
    say(*texts, stream=stream)
    return stream.getvalue()


def scraped() -> str:
    labels = [
        value
        for metric in metrics_of(SNAPSHOT)
        for sample in metric.samples
        for value in sample.labels.values()
    ]
    return "\n".join(labels)


def _listed() -> list[Listed]:
    return [Listed(EVIL, Path(EVIL), False, None, None, EVIL)]


SINKS: dict[str, Callable[[], str]] = {
    "a line": lambda: said(EVIL),
    "lines": lambda: written(lines),
    "log": lambda: written(text_log),
    "JSON lines": lambda: written(json_lines),
    "bars": lambda: drawn(bars.render(SNAPSHOT, 120, 50)),
    "top": lambda: drawn(top.render(SNAPSHOT, records.points([9], 1.0, 9, 9), [], 120, 60)),
    "metrics": scraped,
    "summary": lambda: said(*summary_lines(SUMMARIES[0])),
    "summary of a follow": lambda: said(*summary_lines(RECORDS[2].summary)),
    "summary of a comparison": lambda: said(*summary_lines(SUMMARIES[1])),
    "summary drawn": lambda: drawn(render_summary(SUMMARIES[0])),
    "comparison drawn": lambda: drawn(render_summary(SUMMARIES[1])),
    "summary as JSON": lambda: summary_json(SUMMARIES[0]),
    "page": lambda: render_html(RECORDS[0]),
    "page of a comparison": lambda: render_html(RECORDS[1]),
    "page of a follow": lambda: render_html(RECORDS[2]),
    "report of a follow": lambda: drawn(render_record(RECORDS[2])),
    "report of a cutover": lambda: drawn(render_record(RECORDS[3])),
    "report": lambda: drawn(render_record(RECORDS[0])),
    "report of a comparison": lambda: drawn(render_record(RECORDS[1])),
    "checkup": lambda: drawn(Report(CHECKUP)),
    "jobs": lambda: said(*job_lines(_listed())),
    "ctl": lambda: said(*status_lines(ANSWER)),
}


@pytest.mark.parametrize("sink", SINKS)
def test_every_text_is_escaped_wherever_it_is_drawn(sink: str) -> None:
    text = SINKS[sink]()
    assert is_clean(text)
    assert SHOWN[1:] in text


@given(st.text())
def test_what_is_legible_stays_what_it_is(text: str) -> None:
    once = legible(text)
    assert once.isprintable() and legible(once) == once
    assert once == text or not text.isprintable()


@settings(deadline=None, max_examples=15)
@given(st.text().filter(lambda text: "\0" not in text and text.isascii()))
def test_words_for_a_shell_can_be_pasted(text: str) -> None:
    word = shell_words(text)
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout.decode() == text


# What servers say, on the way through a whole run


def ends(source: Hostile | Server, target: Hostile | Server) -> tuple[str, ...]:
    return ("--from", source.uri, "--to", target.uri, "--retry-for", "1s", "--timeout", "2s")


def info(**fields: str) -> bytes:
    """INFO with other values of some fields."""
    text = INFO.format(run_id="f" * 40, keys=3)
    for name, value in fields.items():
        text = re.sub(f"(?m)^{name}:.*$", lambda _, told=f"{name}:{value}": told, text)
    return bulk(text.replace("\n", "\r\n").encode())


EVIL_LINE = EVIL.replace("\n", " ")  # for what ends with a line


@pytest.fixture
def evil() -> Iterator[Hostile]:
    """A source of which one key fails, with words of its own."""

    def dump(words: Words) -> bytes | None:
        return f"-ERR {EVIL_LINE}\r\n".encode() if words[1] == b"k:1" else None

    with Hostile(keys=3) as server:
        server.answers["DUMP"] = dump
        library = (b"library_name", EVIL.encode(), b"library_code", b"x")
        server.answers["FUNCTION"] = answering(array(array(*map(bulk, library))))
        yield server


def test_a_run_and_all_that_it_leaves(
    evil: Hostile, server: StartServer, tmp_path: Path
) -> None:
    folder = tmp_path / EVIL.replace("/", "")
    log, page = tmp_path / "log", tmp_path / "page.html"
    kept = ("--state-dir", str(folder), "--job", "j")
    left = ("--log-file", str(log), "--report", str(page), "--progress", "line")
    done = rumpx(*ends(evil, server("7.0")), *kept, *left)
    assert done.returncode == 3, done.stderr
    told = {"stderr": done.stderr, "log": log.read_text(), "page": page.read_text()}
    told["jobs"] = rumpx("jobs", *kept[:2]).stdout
    told["report"] = rumpx("report", "j", *kept[:2]).stdout
    for name, text in told.items():
        assert is_clean(text), name
    for name in ("stderr", "log", "page", "report"):
        assert SHOWN[1:] in "".join(told[name].split()), name


@pytest.mark.parametrize("flags", [("--progress", "bar"), ("--top",)])
def test_a_run_on_a_terminal(
    evil: Hostile, server: StartServer, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    folder = ("--state-dir", str(tmp_path / EVIL.replace("/", "")))
    shown = rumpx_pty(*ends(evil, server("7.0")), *folder, *flags, cols=200, rows=50)
    assert shown.returncode == 3, shown.text
    assert SHOWN in shown.text
    raw = shown.raw.decode()
    assert not any(part in raw for part in ("\x1b]", "\u202e", "\u200b", "\x9b", "\x07"))


def test_a_check(evil: Hostile, server: StartServer) -> None:
    """A type's name that looks like markup was once obeyed, and once ended the check."""
    evil.answers["TYPE"] = answering(bulk(EVIL.encode()))
    evil.answers["OBJECT"] = answering(bulk(EVIL.encode()))
    evil.answers["ACL"] = answering(bulk(EVIL.encode()))
    evil.answers["MODULE"] = answering(array(array(bulk(b"name"), bulk(EVIL.encode()))))
    evil.answers["INFO"] = answering(
        info(redis_mode=EVIL_LINE, maxmemory_policy=EVIL_LINE, maxmemory="1000000000")
    )
    words = ("check", *ends(evil, server("7.0")))
    done = rumpx(*words)
    assert is_clean(done.stdout + done.stderr)
    assert f"User \\x1b{SHOWN}" in done.stdout and "[/green]" in done.stdout
    shown = rumpx_pty(*words, cols=200, rows=90)
    assert SHOWN in shown.text
    assert not any(part in shown.raw.decode() for part in ("\x1b]", "\u202e", "\u200b", "\x9b"))
    told = rumpx(*words, "--json")
    assert told.stdout.isascii()
    assert json.loads(told.stdout)["sample"]["types"][0]["type"] == EVIL


def cluster_of(host: str) -> Callable[[Words], bytes]:
    line = f"{'a' * 40} {host}:7000@17000 master,myself - 0 0 1 connected 0-16383\n"
    return lambda words: bulk(line.encode()) if words[1] == b"NODES" else b"*0\r\n"


@pytest.mark.parametrize(
    ("side", "command", "answer"),
    [
        *(
            (side, command, answer)
            for side in ("source", "target")
            for command, answer in (
                ("PING", answering(f"-DENIED {EVIL_LINE}\r\n".encode())),
                ("CLUSTER", cluster_of(EVIL_LINE.replace(" ", ""))),
            )
        ),
        ("source", "SCAN", answering(f"-ERR {EVIL_LINE}\r\n".encode())),
        ("source", "DUMP", answering(f"-DENIED {EVIL_LINE}\r\n".encode())),
        ("target", "RESTORE", answering(f"-DENIED {EVIL_LINE}\r\n".encode())),
    ],
)
def test_words_that_end_a_run(
    evil: Hostile, server: StartServer, command: str, answer: Callable[[Words], bytes], side: str
) -> None:
    evil.answers[command] = answer
    other = server("7.0")
    other.do("SET", "k", "v")
    both = (evil, other) if side == "source" else (other, evil)
    done = rumpx(*ends(*both), "--on-conflict", "replace", "--progress", "line")
    assert done.returncode == (SOURCE if side == "source" else TARGET)
    assert f"\\x1b{SHOWN}\\x07" in done.stderr and "Traceback" not in done.stderr
    assert is_clean(done.stderr)


# What users and their files say


@pytest.mark.parametrize(
    "words",
    [
        ("--job", EVIL),
        ("--state-dir", f"/dev/null/{EVIL}"),
        ("--config", f"/nowhere/{EVIL}"),
        ("--log-file", f"/nowhere/{EVIL}"),
        ("--report", f"/nowhere/{EVIL}"),
        ("--metrics", EVIL),
        ("--match", EVIL, "--types", EVIL),
        ("--from-ca", f"/nowhere/{EVIL}"),
        ("--schedule", EVIL),
        (EVIL,),
    ],
)
def test_words_of_the_command_line(words: tuple[str, ...]) -> None:
    given = ("--from", "redis://127.0.0.1:1", "--to", "redis://127.0.0.1:2", *words)
    done = rumpx(*given, "--timeout", "1s")
    assert done.returncode in (2, SOURCE, TARGET)
    assert is_clean(done.stderr) and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [("resume",), ("report",), ("verify",), ("ctl", "status"), ("example",)]
)
def test_names_that_are_given_to_commands(words: tuple[str, ...]) -> None:
    done = rumpx(words[0], EVIL, *words[1:])
    assert done.returncode == 2
    assert is_clean(done.stdout + done.stderr) and SHOWN in done.stderr


def test_names_of_files_among_the_jobs(evil: Hostile, server: StartServer, tmp_path: Path) -> None:
    del evil.answers["DUMP"]
    folder = ("--state-dir", str(tmp_path))
    assert rumpx(*ends(evil, server("7.0")), *folder, "--job", "j").returncode == 0
    (tmp_path / "j.ledger").rename(tmp_path / f"{EVIL.replace('/', '')}.ledger")
    (tmp_path / f"torn{EVIL.replace('/', '')}.ledger").write_bytes(b"no ledger")
    for words in [("jobs",), ("jobs", "--prune")]:
        done = rumpx(*words, *folder)
        assert is_clean(done.stdout + done.stderr)
        assert SHOWN in done.stdout


def test_a_config_file(tmp_path: Path) -> None:
    config = tmp_path / f"{EVIL.replace('/', '')}.toml"
    config.write_text(f"{json.dumps(EVIL)} = 1\n")
    config.chmod(0o666)
    done = rumpx("--config", str(config), "--from", "redis://h", "--to", "redis://g")
    assert done.returncode == 2
    assert is_clean(done.stderr) and SHOWN in done.stderr
