"""Managed services, simulated: rumpx does without what they refuse, and says once what it misses.

Each test of a whole command takes each service once as source and once as target, the other end
being a plain server of the same version.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from rumpx import guides
from rumpx.cli.main import main
from support.copying import Copied, Verified, copy, held, verify
from support.data import compare, fill_mixed, fingerprint, keys_of
from support.proxy import Proxy
from support.raw import Raw
from support.run import rumpx, rumpx_pty, start_rumpx
from support.servers import Cluster, Server
from support.services import (
    AIVEN,
    AZURE,
    ELASTICACHE,
    ELASTICACHE_SERVERLESS,
    MEMORYSTORE,
    OCI_CACHE,
    REDIS_CLOUD,
    SERVICES,
    Managed,
    Service,
)

StartServer = Callable[..., Server]
StartManaged = Callable[[Service], Managed]
StartProxy = Callable[..., Proxy]

USAGE, SOURCE, TARGET, INTERRUPTED = 2, 6, 7, 130
KEYS = 1500
GUIDE = (resources.files("rumpx.guides") / "services.md").read_text(encoding="utf-8")

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)

LENGTHS = "refuses MEMORY USAGE: sizes are estimated"
TOUCHED = "does not know CLIENT NO-TOUCH"
EVICTS = "evicts keys when its memory is full"
NO_SCRIPTS = "refuses EVAL_RO"

# What rumpx says of a service, as source and as target; nothing of others, and nothing else.
SAID_OF_SOURCE = {
    ELASTICACHE_SERVERLESS: [LENGTHS],
    MEMORYSTORE: [TOUCHED],
    AZURE: [TOUCHED],
    OCI_CACHE: [LENGTHS],
}
SAID_OF_TARGET = {
    ELASTICACHE: [EVICTS],
    MEMORYSTORE: [EVICTS],
    AZURE: [EVICTS],
    REDIS_CLOUD: [EVICTS],
}
# And of `rumpx verify`, which asks the target's sizes too.
SAID_OF_COMPARISON = {
    ELASTICACHE_SERVERLESS: ["refuses MEMORY USAGE"],
    OCI_CACHE: ["refuses MEMORY USAGE"],
}
# And of `rumpx verify --digest`, besides.
SAID_OF_DIGESTS = {
    AZURE: ["--digest needs Redis 7.0"],
    OCI_CACHE: [NO_SCRIPTS],
    AIVEN: [NO_SCRIPTS],
}


def fill(server: Server | Cluster, service: Service) -> int:
    """Mixed keys in each database that the service has; returns their number."""
    for db in service.databases:
        fill_mixed(server, KEYS, seed=db + 1, db=db)
    return KEYS * len(service.databases)


def assert_equal(source: Server | Cluster, target: Server | Cluster, service: Service) -> None:
    # Before 7.0 expiries are computed from the server's clock.
    assert compare(source, target, ttl_tolerance_ms=2 if service.version == "6.2" else 0) == []


def assert_said_once(done: Copied | Verified, phrases: list[str]) -> None:
    """A run told the user these things, once each, and no others."""
    events: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    told = [event["text"] for event in events if event["event"] == "message"]
    for sentences in (told, done.summary["warnings"]):
        assert len(sentences) == len(phrases), sentences
        for phrase in phrases:
            assert sum(phrase in sentence for sentence in sentences) == 1, (phrase, sentences)


# The simulation


@each_service
def test_a_service_refuses_what_it_is_said_to_refuse(
    managed: StartManaged, service: Service
) -> None:
    started = managed(service)
    address = (started.nodes[0] if isinstance(started, Cluster) else started).address
    with Raw(address) as raw:
        for command in service.unknown:
            assert "ERR unknown command" in str(raw.many([(command,)])[0]), command
        for command in service.forbidden:
            words = command.split("|")
            # Only a call that would be well-formed comes as far as to the permission.
            calls = [(*words, *["1"] * extra) for extra in range(6)]
            replies = raw.many([*calls, (words[0], "HELP")])
            assert any(str(reply).startswith("NOPERM") for reply in replies), command


# A copy


@each_service
def test_a_service_is_copied_from_and_compared(
    managed: StartManaged, server: StartServer, service: Service
) -> None:
    source, target = managed(service), server(service.version)
    number = fill(source, service)

    done = copy(source, target)

    assert_equal(source, target, service)
    assert done.counts["copied"] == number
    assert done.summary["missing"] == 0
    assert_said_once(done, SAID_OF_SOURCE.get(service, []))
    again = copy(source, target, "--on-conflict", "fail")
    assert again.counts["repeated"] == number

    compared = verify(source, target, "--digest")

    assert compared.counts["equal"] == number
    assert_said_once(compared, SAID_OF_SOURCE.get(service, []) + SAID_OF_DIGESTS.get(service, []))


@each_service
def test_a_service_is_copied_to_and_compared(
    managed: StartManaged, server: StartServer, service: Service
) -> None:
    source, target = server(service.version), managed(service)
    number = fill(source, service)

    done = copy(source, target)

    assert_equal(source, target, service)
    assert done.counts["copied"] == number
    assert done.summary["missing"] == 0
    assert_said_once(done, SAID_OF_TARGET.get(service, []))
    again = copy(source, target, "--on-conflict", "fail")
    assert again.counts["repeated"] == number

    compared = verify(source, target)

    assert compared.counts["equal"] == number
    said = SAID_OF_TARGET.get(service, []) + SAID_OF_COMPARISON.get(service, [])
    assert_said_once(compared, said)


# A copy that is stopped, and goes on


def copy_in_two_runs(source: str, target: Server) -> int:
    """Stop a copy in its middle and resume it; returns how many keys the first run copied."""
    words = ["--from", source, "--to", target.uri, "--workers", "1", "--batch-keys", "5"]
    with start_rumpx(*words, "--job", "stopped") as run:
        with held(run, lambda: keys_of(target)):
            run.send_signal()
        assert run.wait().returncode == INTERRUPTED, run.stderr
    copied = len(fingerprint(target))
    done = rumpx("resume", "stopped", "--from", source, "--summary", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"] == 2
    return copied


@each_service
def test_a_copy_from_a_service_is_resumed(
    managed: StartManaged, server: StartServer, service: Service
) -> None:
    source, target = managed(service), server(service.version)
    number = fill(source, service)

    copied = copy_in_two_runs(source.uri, target)

    assert 0 < copied < number
    assert_equal(source, target, service)


def test_a_copy_is_resumed_where_the_source_does_not_tell_its_process(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, KEYS)
    everything = ("on", ">secret", "~*", "&*", "+@all", "-info")
    source.do("ACL", "SETUSER", "limited", *everything)

    uri = f"redis://limited:secret@127.0.0.1:{source.port}"
    copied = copy_in_two_runs(uri, target)

    assert 0 < copied < KEYS
    assert compare(source, target) == []


# Databases, where SELECT is refused or does nothing


def test_other_databases_are_refused_where_there_is_only_one(
    managed: StartManaged, server: StartServer
) -> None:
    source, target = server("8.1"), managed(REDIS_CLOUD)
    fill_mixed(source, 50)
    fill_mixed(source, 50, seed=2, db=3)

    refused = copy(source, target, code=TARGET)

    assert "refuses database 3: the server has no SELECT" in refused.stderr
    assert "--map-db" in refused.stderr
    assert fingerprint(target) == {}
    copy(source, target, "--db", "3", "--map-db", "3:0")
    assert compare(source, target, db_map={3: 0}) == []


def test_a_database_that_the_source_refuses_is_not_taken_for_empty(
    managed: StartManaged, server: StartServer
) -> None:
    source, target = managed(REDIS_CLOUD), server("8.1")
    fill_mixed(source, 50)

    assert "refuses database 3" in copy(source, target, "--db", "3", code=SOURCE).stderr
    copy(source, target, "--db", "0")
    assert compare(source, target) == []


# WATCH by the name of SELECT: it answers OK to every number, and the database stays.
NO_OP_SELECT: dict[str, Any] = {"rename_command": [("select", ""), ("watch", "select")]}


def test_several_databases_are_not_written_one_over_the_other_where_select_does_nothing(
    server: StartServer,
) -> None:
    source, target = server("7.0"), server("7.0", **NO_OP_SELECT)
    source.do("SET", "key", "in 0")
    source.do("SET", "key", "in 3", db=3)

    refused = copy(source, target, code=TARGET)

    assert "has database 0 only" in refused.stderr and "--map-db" in refused.stderr
    assert fingerprint(target) == {}
    copy(source, target, "--db", "3", "--map-db", "3:0")
    assert compare(source, target, db_map={3: 0}) == []


@pytest.mark.parametrize(("options", "rules"), [({}, ["-select"]), (NO_OP_SELECT, [])])
def test_keys_are_found_once_where_neither_info_nor_select_tells_the_databases(
    server: StartServer, options: dict[str, Any], rules: list[str]
) -> None:
    source, target = server("7.0", **options), server("7.0")
    fill_mixed(source, 300)
    everything = ("on", ">secret", "~*", "&*", "+@all")
    source.do("ACL", "SETUSER", "limited", *everything, "-info", *rules)

    done = copy(f"redis://limited:secret@127.0.0.1:{source.port}", target)

    assert compare(source, target) == []
    assert done.counts["copied"] == 300
    assert_said_once(done, ["refuses INFO: rumpx searched databases", "does not show its run_id"])


# What else a user may not call


def test_a_cluster_that_tells_only_its_slots(
    cluster: Callable[..., Cluster], server: StartServer
) -> None:
    source, target = cluster("7.0", primaries=1), server("7.0")
    fill_mixed(source, 300)
    rules = ("on", ">secret", "~*", "&*", "+@all", "-cluster|nodes")
    source.nodes[0].do("ACL", "SETUSER", "limited", *rules)

    done = copy(f"redis://limited:secret@127.0.0.1:{source.nodes[0].port}", target)

    assert compare(source, target) == []
    assert_said_once(done, ["refuses CLUSTER NODES"])


@pytest.mark.parametrize("side", ["source", "target"])
def test_clocks_that_cannot_be_compared(server: StartServer, side: str) -> None:
    ends = {"source": server("7.0"), "target": server("7.0")}
    fill_mixed(ends["source"], 300)
    rules = ("on", ">secret", "~*", "&*", "+@all", "-time")
    ends[side].do("ACL", "SETUSER", "limited", *rules)
    uris = {name: end.uri for name, end in ends.items()}
    uris[side] = f"redis://limited:secret@127.0.0.1:{ends[side].port}"

    done = copy(uris["source"], uris["target"])

    assert compare(ends["source"], ends["target"]) == []
    assert_said_once(done, ["clocks are not compared"])


def test_the_least_permissions_of_the_guide_suffice(server: StartServer) -> None:
    source, target = server("7.0"), server("7.0")
    fill_mixed(source, 300)
    uris = []
    for side, commands in (
        (source, re.search(r"least .*? is `([^`]+)` on the source", GUIDE)),
        (target, re.search(r"least .*? and `([^`]+)` on the target", GUIDE)),
    ):
        assert commands
        side.do("ACL", "SETUSER", "least", "on", ">secret", "~*", "-@all", *commands[1].split())
        uris.append(f"redis://least:secret@127.0.0.1:{side.port}")

    copy(*uris)

    # Neither PEXPIRETIME nor TIME: expiries come later by the way.
    assert compare(source, target, ttl_tolerance_ms=2000) == []


# The guides


@pytest.mark.smoke
def test_help_lists_the_guides(capsys: Any) -> None:
    assert main(["help"]) == 0

    listed = capsys.readouterr().out
    for name, text in guides.read_guides().items():
        title = text.splitlines()[0]
        assert re.fullmatch(r"# [^.]{20,80}", title)
        assert f"rumpx help {name}" in listed and title[2:] in listed
    assert max(map(len, listed.splitlines())) <= 100


@pytest.mark.smoke
def test_a_guide_goes_into_a_pipe_as_it_is_written() -> None:
    run = rumpx("help", "services", env={"PAGER": "echo paged"})

    assert (run.returncode, run.stdout, run.stderr) == (0, GUIDE, "")


@pytest.mark.parametrize("cols", [80, 160])
def test_a_guide_is_drawn_on_a_terminal(cols: int) -> None:
    seen = rumpx_pty("help", "services", cols=cols, rows=50, env={"PAGER": "cat"})

    assert seen.returncode == 0
    text = " ".join(seen.text.split())
    assert "Managed services: refused commands" in text
    assert not any(mark in text for mark in ("`", "**", "|--", "##"))
    assert b"\x1b[" in seen.raw


@pytest.fixture
def pager(tmp_path: Path) -> Path:
    """A program `less` that keeps its arguments and what it is given, and shows one line."""
    path = tmp_path / "bin" / "less"
    path.parent.mkdir()
    path.write_text(
        f'#!/bin/sh\necho "$LESS:$*" >{tmp_path}/how\ncat >{tmp_path}/text\necho paged\n'
    )
    path.chmod(0o700)
    return path


def on_path(pager: Path) -> dict[str, str]:
    return {"PATH": f"{pager.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("setting", "how"),
    [
        ({}, "R:-R"),
        ({"PAGER": "less -X"}, "R:-X"),
        ({"PAGER": "less", "LESS": "FRX"}, "FRX:"),
    ],
)
def test_a_long_guide_goes_through_the_pager(
    setting: dict[str, str], how: str, pager: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    for name in ("PAGER", "LESS"):
        monkeypatch.delenv(name, raising=False)

    seen = rumpx_pty("help", "services", env=on_path(pager) | setting)

    assert (seen.returncode, seen.text.split()) == (0, ["paged"])
    assert (tmp_path / "how").read_text().strip() == how
    text = (tmp_path / "text").read_text(encoding="utf-8")
    assert "Managed services" in text and "ulimit -n" in text and "\x1b[" in text


@pytest.mark.parametrize(
    ("setting", "rows"),
    [
        ({"PAGER": ""}, 24),
        ({"PAGER": "cat"}, 24),
        ({"PAGER": "no-such-pager"}, 24),
        ({"TERM": "dumb"}, 24),
        ({}, 300),
    ],
)
def test_a_guide_without_a_pager(
    setting: dict[str, str], rows: int, pager: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.delenv("PAGER", raising=False)

    seen = rumpx_pty("help", "services", rows=rows, env=on_path(pager) | setting)

    assert seen.returncode == 0
    shown = "\n".join([*seen.scrolled, seen.text])
    assert "Managed services" in shown and "ulimit -n" in shown
    assert not (tmp_path / "how").exists()


def test_ctrl_c_does_not_end_the_pager(pager: Path) -> None:
    pager.write_text(
        "#!/bin/sh\ntrap 'echo kept' INT\ncat >/dev/null\necho ready\n"
        "until read word </dev/tty; do :; done\necho got $word\n"
    )

    keys = [("ready", b"\x03"), ("kept", b"this\n")]
    seen = rumpx_pty("help", "services", env={"PAGER": str(pager)}, keys=keys)

    assert seen.returncode == 0
    assert "got this" in seen.text and "Stopped" not in seen.text


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["nothing"],
            r"rumpx: There is no guide 'nothing'\. The guides are: "
            rf"{', '.join(guides.read_guides())}\.\n",
        ),
        (["services", "more"], r"rumpx: rumpx help takes the name of one guide\. .*\n"),
    ],
)
def test_a_guide_that_does_not_exist(words: list[str], message: str, capsys: Any) -> None:
    assert main(["help", *words]) == USAGE

    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(message, captured.err), captured.err


@each_service
def test_the_guide_has_an_entry_for_each_service(service: Service) -> None:
    entries = [line for line in GUIDE.splitlines() if line.startswith(f"- **{service.name}**")]
    assert len(entries) == 1


def test_the_guide_quotes_what_rumpx_says() -> None:
    for phrase in (LENGTHS, TOUCHED, EVICTS, NO_SCRIPTS):
        assert phrase in GUIDE
