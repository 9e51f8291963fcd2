"""The command and the Python API as people use them: flags, files, displays, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

import rumpx as package
from rumpx.cli.main import main
from rumpx.model.option_kinds import KEY_TYPES
from support import data
from support.copying import held
from support.proxy import Proxy
from support.run import Running, Terminal, rumpx, rumpx_pty, run_line
from support.servers import Server

StartServer = Callable[..., Server]
Pair = tuple[Server, Server]


@pytest.fixture
def pair(server: StartServer) -> Pair:
    """A source with 3,000 keys, and an empty target."""
    source, target = server("7.0"), server("9.1")
    data.fill_mixed(source, 3000)
    return source, target


def ends(pair: Pair) -> tuple[str, ...]:
    return ("--from", pair[0].uri, "--to", pair[1].uri)


# What costs nothing


@pytest.mark.smoke
@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["demo", "--help"], ["help", "services"], ["--version"]),
        *([], ["--from", "x"], ["--no-such-flag"]),
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(words: list[str]) -> None:
    program = dedent(
        """
        import sys
        from rumpx.cli.main import main
        try:
            main(sys.argv[1:])
        except SystemExit:
            pass
        print("imported:", *sys.modules)
        """
    )

    # Without the coverage that is measured in child processes: it imports things of its own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    run = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=20,
        env=environment,
    )

    imported = run.stdout.splitlines()[-1].split()
    assert imported[0] == "imported:"
    for heavy in ("redis", "rich", "psutil", "hiredis", "multiprocessing", "asyncio", "shtab"):
        assert heavy not in imported


def test_the_package_is_cheap_to_import_and_says_what_is_public() -> None:
    program = "import sys, rumpx; print(*sys.modules)"

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20
    )

    assert {"redis", "rich", "psutil", "hiredis"}.isdisjoint(run.stdout.split())
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_help_names_every_flag_and_exit_code() -> None:
    run = rumpx("--help")

    assert run.returncode == 0 and run.stderr == ""
    for word in ("--from URI", "--to URI", "--on-conflict", "redis+sentinel://"):
        assert word in run.stdout
    for command in ("resume", "jobs", "report", "ctl", "verify", "demo", "help", "example"):
        assert f"  rumpx {command}" in run.stdout
    assert ", ".join(KEY_TYPES) in " ".join(run.stdout.split())
    assert max(map(len, run.stdout.splitlines())) <= 100
    codes = run.stdout.partition("Exit codes:")[2]
    for code in (0, 1, 2, 3, 5, 6, 7, 8, 130, 143):
        assert re.search(rf"\b{code}\b", codes), code


def test_the_version() -> None:
    run = rumpx("--version")

    assert (run.returncode, run.stdout) == (0, f"rumpx {package.__version__}\n")


def test_completion_for_bash() -> None:
    pytest.importorskip("shtab")

    run = rumpx("--print-completion", "bash")

    assert run.returncode == 0, run.stderr
    assert "--on-conflict" in run.stdout
    syntax = subprocess.run(["bash", "-n"], input=run.stdout, text=True, capture_output=True)
    assert syntax.returncode == 0, syntax.stderr


# Streams that take nothing, and words in the wrong place


@pytest.mark.parametrize(
    "command",
    ["example config", "example", "help report", "help", "jobs", "--version", "report job"],
)
def test_standard_output_that_takes_nothing(pair: Pair, command: str, tmp_path: Path) -> None:
    assert rumpx(*ends(pair), "--job", "job", "--state-dir", tmp_path).returncode == 0
    where = f"--state-dir {tmp_path}" if command in ("jobs", "report job") else ""

    full = run_line(f"rumpx {command} {where} > /dev/full")
    closed = run_line(f"rumpx {command} {where} >&-")

    told = "rumpx: Standard output cannot be written: No space left on device.\n"
    assert (full.returncode, full.stderr) == (1, told)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_standard_streams_that_are_closed(pair: Pair, tmp_path: Path) -> None:
    """As those of a daemon; sockets and files do not get their numbers."""
    source, target = pair
    flags = f"--state-dir {tmp_path} --job job --verify --log-file {tmp_path}/log"

    done = run_line(f"rumpx {' '.join(ends(pair))} {flags} <&- >&- 2>&-")

    assert done.returncode == 0
    assert data.compare(source, target) == []
    assert "all equal" in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ["redis://me:secret@old"],
        ["--too", "redis://me:secret@old:6379", "--from", "redis://:secret@new"],
        ["resume", "redis://:secret@old"],
        ["verify", "redis://:secret@old"],
        ["help", "redis://:secret@old"],
        ["ctl", "redis://:secret@old", "pause"],
        ["--workers", "redis://:secret@old", "--from", "redis://a", "--to", "redis://b"],
        ["--workers", "redis://:my secret@old", "--from", "redis://a", "--to", "redis://b"],
        ["--frm", "redis://:my secret@old", "--to", "redis://b"],
        ["--from", "redis://a", "redis://:my secret@old"],
        ["--from", "redis://a", "--to", "redis://b", "--from-password", "secret"],
        ["--from", "redis://a", "--to", "redis://b", "--from-pasword=secret"],
        ["--from", "redis://a", "--to", "redis://b", "--from-password-file", "secret"],
        ["check", "--from", "redis://a", "--to", "redis://b", "--to-password", "my secret"],
        ["ctl", "job", "pause", "--password", "secret"],
        ["jobs", "secret"],
    ],
)
def test_a_password_in_the_wrong_place_is_not_repeated(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(words)

    told = capsys.readouterr()
    assert code == 2
    assert told.err.startswith("rumpx: ") and "secret" not in told.err + told.out


def test_what_is_unknown_is_named_where_it_is_an_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--from", "redis://a", "--wrkers=8", "--to", "redis://b", "-q"]) == 2
    assert "Unrecognized arguments: --wrkers, -q." in capsys.readouterr().err


def test_no_password_is_in_what_other_processes_are_told(
    server: StartServer, tmp_path: Path
) -> None:
    """The arguments of a process are public; its environment goes on to all that it starts."""
    source, target = server("7.0", requirepass="from-uri"), server("7.0", requirepass="from-file")
    data.fill_mixed(source, 2000)
    file = tmp_path / "password"
    file.write_text("from-file")
    address = f"redis://127.0.0.1:{target.port}"
    with Running(
        ["--from", source.uri, "--to", address, "--to-password-file", file, "--batch-keys", "5"]
    ) as run:
        with held(run, lambda: target.do("DBSIZE") > 100):
            children = psutil.Process(run.process.pid).children(recursive=True)
            told = [f"{child.cmdline()} {child.environ()}" for child in children]
        assert run.wait().returncode == 0
    assert len(told) >= 3
    assert not [text for text in told if "from-uri" in text or "from-file" in text]


# The flags of a copy


@pytest.mark.smoke
def test_single_dashes_as_rump_has_them(pair: Pair) -> None:
    run = rumpx("-from", pair[0].uri, "-to", pair[1].uri)

    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    assert "copied 3,000 keys" in run.stderr
    assert data.compare(*pair) == []


def test_passwords_from_the_environment_and_from_files(
    server: StartServer, tmp_path: Path
) -> None:
    source, target = server("7.0", requirepass="söürce"), server("8.1", requirepass="t@r/g:et")
    source.do("SET", "key", "value")
    file = tmp_path / "password"
    file.write_text("t@r/g:et\nsecond line\n")

    run = rumpx(
        *("--from", f"redis://127.0.0.1:{source.port}", "--to", f"redis://127.0.0.1:{target.port}"),
        *("--to-password-file", file),
        env={"RUMPX_FROM_PASSWORD": "söürce", "RUMPX_TO_PASSWORD": "the file wins"},
    )

    assert run.returncode == 0, run.stderr
    assert target.do("GET", "key") == b"value"


def test_passwords_and_users_percent_encoded_in_the_uri(server: StartServer) -> None:
    source, target = server("6.2"), server("9.1")
    source.do("SET", "key", "value")
    for one in (source, target):
        one.do("ACL", "SETUSER", "a:b", "on", ">p@ss/w:rd%", "~*", "+@all")
    uris = [f"redis://a%3Ab:p%40ss%2Fw%3Ard%25@127.0.0.1:{one.port}" for one in (source, target)]

    run = rumpx("--from", uris[0], "--to", uris[1])

    assert run.returncode == 0, run.stderr
    assert "p@ss" not in run.stderr and "p%40ss" not in run.stderr


def test_the_summary_as_a_file(pair: Pair, tmp_path: Path) -> None:
    report = tmp_path / "summary.json"

    run = rumpx(*ends(pair), "--summary", report)

    summary = json.loads(report.read_text())
    assert run.returncode == summary["exit_code"] == 0
    assert summary["version"] == 1 and summary["state"] == "done"
    assert summary["counts"]["copied"] == pair[1].do("DBSIZE") == 3000
    assert summary["missing"] == 0 and summary["failures"] == []
    assert summary["source"] == pair[0].uri and summary["target_version"].startswith("valkey 9.1")
    assert sum(part["counts"]["copied"] for part in summary["partitions"]) >= 3000


@pytest.mark.parametrize("progress", ["line", "json", "none"])
def test_the_summary_on_standard_output_is_nothing_but_json(pair: Pair, progress: str) -> None:
    run = rumpx(*ends(pair), "--summary", "-", "--progress", progress)

    assert json.loads(run.stdout)["counts"]["copied"] == 3000
    if progress == "none":
        assert run.stderr == ""


def test_progress_as_json_lines(pair: Pair) -> None:
    run = rumpx(*ends(pair), "--progress", "json")

    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert {event["version"] for event in events} == {1}
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["state"] == "done" and progress[-1]["fraction"] == 1.0
    assert progress[-1]["counts"]["copied"] == 3000
    assert [event["event"] for event in events].index("summary") == len(events) - 1
    assert events[-1]["exit_code"] == 0


def test_progress_as_lines_is_what_a_pipe_gets(pair: Pair) -> None:
    run = rumpx(*ends(pair))

    assert "\x1b" not in run.stderr
    assert re.search(r"^\d\d:\d\d:\d\d done 100\.0 %  3,000 keys", run.stderr, re.MULTILINE)
    assert "the target's key count matches" in run.stderr


def test_an_empty_source(server: StartServer) -> None:
    run = rumpx("--from", server("7.0").uri, "--to", server("9.1").uri)

    assert run.returncode == 0, run.stderr
    assert "copied 0 keys" in run.stderr


def test_what_stays_behind_is_said(pair: Pair) -> None:
    pair[0].do("ACL", "SETUSER", "somebody")
    code = "#!lua name=mine\nredis.register_function('f', function() return 1 end)"
    pair[0].do("FUNCTION", "LOAD", code)

    run = rumpx(*ends(pair))

    assert "1 function library" in run.stderr and "1 ACL user" in run.stderr


def test_keys_that_both_have_by_policy(pair: Pair, tmp_path: Path) -> None:
    source, target = pair
    source.do("SET", "both", "theirs")
    target.do("SET", "both", "mine")
    target.do("SET", "only here", "mine")
    report = tmp_path / "summary.json"

    skipped = rumpx(*ends(pair), "--on-conflict", "skip", "--summary", report)

    assert skipped.returncode == 0, skipped.stderr
    counts = json.loads(report.read_text())["counts"]
    assert (counts["copied"], counts["skipped"]) == (3000, 1)
    assert target.do("GET", "both") == b"mine"

    failed = rumpx(*ends(pair), "--on-conflict", "fail", "--summary", report)

    assert failed.returncode == 3
    summary = json.loads(report.read_text())
    assert [failure["key"] for failure in summary["failures"]] == ["both"]
    assert summary["counts"]["repeated"] == 3000, "equal keys are copied already"

    replaced = rumpx(*ends(pair), "--on-conflict", "replace")

    assert replaced.returncode == 0
    assert target.do("GET", "both") == b"theirs"
    assert target.do("GET", "only here") == b"mine", "nothing is deleted"


# The Python API


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(dedent(text))
    return path


def run_script(path: Path, pair: Pair) -> subprocess.CompletedProcess[str]:
    """Run a script with the pair's URIs; it must end well."""
    run = subprocess.run(
        [sys.executable, str(path), pair[0].uri, pair[1].uri],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run


def test_a_script_that_copies_and_watches(pair: Pair, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import sys
        import rumpx

        if __name__ == "__main__":
            seen = []
            summary = rumpx.copy(sys.argv[1], sys.argv[2], workers=2, on_progress=seen.append)
            print(summary.counts.copied, summary.exit_code, summary.state)
            print(seen[-1].state, seen[-1].fraction, type(seen[-1]).__name__)
            again = rumpx.copy(sys.argv[1], sys.argv[2], workers=1, on_conflict="fail")
            print(again.counts.copied, again.counts.repeated)
        """,
    )

    run = run_script(path, pair)

    assert run.stdout.splitlines() == ["3000 0 done", "done 1.0 Snapshot", "0 3000"]
    assert run.stderr == ""
    assert data.compare(*pair) == []


def test_a_script_that_filters_and_maps(pair: Pair, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import sys
        import rumpx

        if __name__ == "__main__":
            summary = rumpx.copy(
                rumpx.parse_endpoint(sys.argv[1], "source"), sys.argv[2],
                workers=1, map_db={0: 5}, match=[b"k1:1*", b"k1:2*"], exclude=[b"k1:11*"],
                types=["string"], on_conflict="fail", progress="line",
            )
            print(summary.counts.copied)
        """,
    )

    run = run_script(path, pair)

    client = pair[0].client()
    wanted = {
        key
        for key in data.keys_of(pair[0])
        if key.startswith((b"k1:1", b"k1:2"))
        and not key.startswith(b"k1:11")
        and client.type(key) == b"string"
    }
    assert data.keys_of(pair[1], db=5) == wanted
    assert run.stdout == f"{len(wanted)}\n"
    assert "done 100" in run.stderr


def test_a_callback_that_fails_does_not_stop_the_copy(pair: Pair, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import sys
        import rumpx

        if __name__ == "__main__":
            def broken(snapshot):
                raise ValueError("my own fault")

            print(rumpx.copy(sys.argv[1], sys.argv[2], on_progress=broken).counts.copied)
        """,
    )

    run = run_script(path, pair)

    assert run.stdout == "3000\n"
    assert "my own fault" in run.stderr and "Traceback" not in run.stderr


def test_errors_of_the_api_are_exceptions(pair: Pair) -> None:
    with pytest.raises(package.UsageError, match="must start with one of"):
        package.copy("nonsense", pair[1].uri)
    with pytest.raises(package.TargetUnusable, match="are the same"):
        package.copy(pair[0].uri, pair[0].uri)
    pair[1].do("SET", "already", "here")
    with pytest.raises(package.TargetUnusable, match="--on-conflict"):
        package.copy(pair[0].uri, pair[1].uri)


# In a terminal


@pytest.mark.parametrize("cols", [60, 80, 200])
def test_bars_in_a_terminal(pair: Pair, cols: int) -> None:
    shown = rumpx_pty(*ends(pair), "--workers", "1", "--batch-keys", "20", cols=cols)

    assert shown.returncode == 0, shown.text
    assert max(map(len, shown.lines)) <= cols
    bars, _, summary = shown.text.partition("✓ copied 3,000 keys")
    assert "100.0 %" in bars and "━━━" in bars, shown.text
    assert "the target's key count matches" in summary
    assert not shown.cursor_hidden
    assert shown.modes_restored
    assert data.compare(*pair) == []


def test_no_colour(pair: Pair) -> None:
    shown = rumpx_pty(*ends(pair), env={"NO_COLOR": "1"})

    assert shown.returncode == 0
    colours = re.findall(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])(?:;\d+)*m", shown.raw)
    assert colours == []


def test_a_dumb_terminal_gets_lines(pair: Pair) -> None:
    shown = rumpx_pty(*ends(pair), env={"TERM": "dumb"})

    assert shown.returncode == 0
    assert b"\x1b" not in shown.raw
    assert "copied 3,000 keys" in shown.text


def answered(pair: Pair, answer: bytes) -> Terminal:
    """A copy into a target with one other key and one common key, the question answered."""
    source, target = pair
    source.do("SET", "both", "theirs")
    target.do("SET", "both", "mine")
    shown = rumpx_pty(*ends(pair), keys=[("[r]eplace", answer)], cols=120, rows=40)
    assert shown.sent == [answer], "it must ask"
    assert "already holds 1 keys" in shown.text
    assert shown.modes_restored and not shown.cursor_hidden
    return shown


def test_on_a_terminal_it_asks_and_replaces(pair: Pair) -> None:
    shown = answered(pair, b"r\n")

    assert shown.returncode == 0, shown.text
    assert pair[1].do("GET", "both") == b"theirs"


def test_on_a_terminal_it_asks_and_skips(pair: Pair) -> None:
    shown = answered(pair, b"Skip\n")

    assert shown.returncode == 0, shown.text
    assert pair[1].do("GET", "both") == b"mine"
    assert pair[1].do("DBSIZE") == 3001


def test_on_a_terminal_it_asks_and_fails(pair: Pair) -> None:
    shown = answered(pair, b"f\n")

    assert shown.returncode == 3, shown.text
    assert pair[1].do("GET", "both") == b"mine"


@pytest.mark.parametrize("answer", [b"\n", b"q\n", b"\x04"])
def test_on_a_terminal_any_other_answer_leaves_the_target_alone(
    pair: Pair, answer: bytes
) -> None:
    shown = answered(pair, answer)

    assert shown.returncode == 7, shown.text
    assert "--on-conflict" in shown.text
    assert pair[1].do("DBSIZE") == 1


def test_the_question_can_be_left_by_ctrl_c(pair: Pair) -> None:
    shown = answered(pair, b"\x03")

    assert shown.returncode == 130, shown.text
    assert "Traceback" not in shown.text
    assert pair[1].do("DBSIZE") == 1


def test_a_slow_copy_counts_up_in_a_terminal(
    pair: Pair, proxy: Callable[..., Proxy]
) -> None:
    data.fill_mixed(pair[0], 30_000, seed=2)
    slow = proxy(pair[0], rtt_ms=50)

    shown = rumpx_pty(
        *("--from", slow.uri, "--to", pair[1].uri),
        *("--workers", "1", "--batch-keys", "1000", "--partitions", "1"),
    )

    assert shown.returncode == 0, shown.text
    frames = ["\n".join(frame) for frame in shown.frames]
    percents = [float(found[1]) for f in frames if (found := re.search(r"([\d.]+) %", f))]
    assert percents == sorted(percents), "progress never goes back"
    assert any(0 < percent < 100 for percent in percents) and percents[-1] == 100


def test_standard_error_is_written_whole_though_signals_come() -> None:
    """A pipe that is full takes a part of a text, and a signal ends that write."""
    code = (
        "import os, signal, threading\n"
        "from rumpx.text import say, unbuffered\n"
        "signal.signal(signal.SIGUSR1, lambda number, frame: None)\n"
        "reading, writing = os.pipe()\n"
        "file = open(writing, 'w')\n"
        "stream = unbuffered(file)\n"
        "got = []\n"
        "def read():\n"
        "    while sum(map(len, got)) < 1_000_001:\n"
        "        os.kill(os.getpid(), signal.SIGUSR1)\n"
        "        got.append(os.read(reading, 50_000))\n"
        "reader = threading.Thread(target=read, daemon=True)\n"
        "reader.start()\n"
        "say('x' * 1_000_000, stream=stream)\n"
        "reader.join(20)\n"
        "assert b''.join(got) == b'x' * 1_000_000 + b'\\n'\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
