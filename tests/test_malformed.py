"""Answers that no server gives to a command: a run ends by one sentence that names server and
command, with the side's exit code, or does without the answer; never with a traceback."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.errors import UNEXPECTED
from rumpx.servers.answers import MOST, whole
from rumpx.servers.info import milliseconds, parse_info
from rumpx.servers.topology import parse_cluster_nodes, parse_cluster_slots, told_addresses
from support.hostile import INFO, MODES, Answers, Hostile, answering, any_reply, array, bulk
from support.run import rumpx
from support.servers import Server

CODES = {"source": 6, "target": 7}
DIGITS = b"9" * 30


@pytest.fixture
def sides() -> Iterator[dict[str, Hostile]]:
    with Hostile(keys=3) as source, Hostile(keys=0) as target:
        target.run_id = "e" * 40
        yield {"source": source, "target": target}


def play(sides: dict[str, Hostile], what: str, *flags: str) -> tuple[int, str]:
    words = () if what == "copy" else (what,)
    shown = () if what == "check" else ("--progress", "none", "--workers", "1")
    ends = ("--from", sides["source"].uri, "--to", sides["target"].uri)
    patience = ("--retry-for", "1s", "--timeout", "2s")
    done = rumpx(*words, *ends, *patience, *shown, *flags, timeout=40)
    text = done.stdout + done.stderr
    assert "Traceback" not in text and UNEXPECTED not in text, text
    return done.returncode, " ".join(text.split())


def info(**fields: str) -> Answers:
    """INFO with other values of some fields, or with more."""
    text = INFO.format(run_id="d" * 40, keys=3)
    for name, value in fields.items():
        text = re.sub(f"(?m)^{name}:.*\n", "", text) + f"{name}:{value}\n"
    return answering(bulk(text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")))


def nodes(line: str) -> Answers:
    """CLUSTER NODES; CLUSTER SLOTS tells nothing."""
    told = bulk(line.encode("utf-8", "surrogateescape"))
    return lambda words: told if words[1] == b"NODES" else array()


def node(place: str = "127.0.0.1:7000@17000", slots: str = "0-16383") -> Answers:
    return nodes(f"{'a' * 40} {place} master,myself - 0 0 1 connected {slots}\n")


def slots(*ranges: bytes) -> Answers:
    """CLUSTER SLOTS, where CLUSTER NODES is refused, of a server that says it is a cluster's."""
    refusal = b"-NOPERM this user has no permissions to run the 'cluster|nodes' command\r\n"
    return lambda words: refusal if words[1] == b"NODES" else array(*ranges)


def _place(host: bytes, port: int) -> bytes:
    return array(bulk(host), b":%d\r\n" % port)


def of_list(*words: bytes) -> Answers:
    """CLIENT LIST alone; other subcommands are answered as ever."""
    return lambda asked: array(*map(bulk, words)) if asked[1] == b"LIST" else None


# Command, kind, answer: what ends a run.
ENDING: list[tuple[str, str, Answers]] = [
    ("PING", "number", MODES["number"]()),
    ("PING", "map", MODES["map"]()),
    ("INFO", "number", MODES["number"]()),
    ("INFO", "null", MODES["null"]()),
    ("INFO", "nested", answering(array(array(bulk(b"x"))))),
    ("INFO", "push", MODES["push"]()),
    ("INFO", "keys that are no number", info(db0="keys=abc,expires=0")),
    ("INFO", "keys missing", info(db0="")),
    ("INFO", "30 digits of keys", info(db0=f"keys={'9' * 30}")),
    ("INFO", "no database", info(**{f"db{'9' * 30}": "keys=1"})),
    ("TIME", "one word", answering(array(bulk(b"1")))),
    ("TIME", "30 digits", answering(array(bulk(DIGITS), bulk(b"0")))),
    ("TIME", "negative", answering(array(bulk(b"-1"), bulk(b"0")))),
    ("TIME", "not UTF-8", answering(array(bulk(b"\xff"), bulk(b"\xfe")))),
    ("TIME", "text", answering(bulk(b"12"))),
    ("CLUSTER", "garbage", nodes("some words")),
    ("CLUSTER", "not UTF-8", nodes("\udcff\udcfe b master 0-5")),
    ("CLUSTER", "number", MODES["number"]()),
    ("CLUSTER", "nothing", nodes("")),
    ("CLUSTER", "no port", node("127.0.0.1:99999999999@1")),
    ("CLUSTER", "negative port", node("127.0.0.1:-1@1")),
    ("CLUSTER", "no slots", node(slots="0-99999")),
    ("CLUSTER", "slots backwards", node(slots="7-5")),
    ("CLUSTER", "a host of binary", node("\udcff\x1b:7000@17000")),
]


@pytest.mark.parametrize(
    ("command", "answer"),
    [pytest.param(command, answer, id=f"{command} {kind}") for command, kind, answer in ENDING],
)
@pytest.mark.parametrize("side", CODES)
def test_an_answer_that_is_none_ends_a_copy(
    sides: dict[str, Hostile], side: str, command: str, answer: Answers
) -> None:
    sides[side].answers[command] = answer
    code, told = play(sides, "copy", "--on-conflict", "replace")
    assert code == CODES[side], told
    assert f"The {side} at " in told
    assert command in told or "cannot be reached" in told


@pytest.mark.parametrize("what", ["check", "verify"])
@pytest.mark.parametrize("number", [2, 6, 11, 15, 17, 18])
def test_an_answer_that_is_none_ends_a_check_and_a_comparison(
    sides: dict[str, Hostile], what: str, number: int
) -> None:
    command, _, answer = ENDING[number]
    sides["source"].answers[command] = answer
    code, told = play(sides, what)
    assert code == CODES["source"], told
    assert "The source at 127.0.0.1:" in told and command in told


# What a run does without.
SPARED: list[tuple[str, str, Answers]] = [
    ("INFO", "times that are none", info(used_cpu_sys="nan", used_cpu_user="x")),
    ("INFO", "endless digits", info(used_memory="9" * 5000, redis_version="9" * 5000)),
    ("INFO", "digits of another kind", info(maxmemory="²", used_memory="-1")),
    ("INFO", "a billion scripts", info(number_of_cached_scripts="9" * 18)),
    ("CONFIG", "digits of another kind", lambda words: array(bulk(words[2]), bulk("²".encode()))),
    ("CONFIG", "half a limit", lambda words: array(bulk(words[2]), bulk(b"normal"))),
    ("TYPE", "not UTF-8", answering(bulk(b"\xff\xfe"))),
    ("TYPE", "nested", answering(array(array()))),
    ("OBJECT", "not UTF-8", answering(bulk(b"\xff\xfe"))),
    ("MEMORY", "negative", answering(b":-5\r\n")),
    ("MEMORY", "map", MODES["map"]()),
    ("ACL", "not UTF-8", answering(bulk(b"\xff\xfe"))),
    ("FUNCTION", "nested", answering(array(array(array(bulk(b"x")))))),
    ("CLIENT", "a list", of_list(b"id=1")),
]


@pytest.mark.parametrize(
    ("command", "answer"),
    [pytest.param(command, answer, id=f"{command} {kind}") for command, kind, answer in SPARED],
)
def test_an_answer_that_can_be_done_without(
    sides: dict[str, Hostile], command: str, answer: Answers
) -> None:
    sides["source"].answers[command] = answer
    assert play(sides, "copy")[0] == 0
    code, told = play(sides, "check")
    assert code in (0, CODES["target"]), told  # the other side has no real RESTORE


@pytest.mark.parametrize(
    "reply",
    [
        b":1\r\n",
        array(b":1\r\n"),
        array(array(bulk(b"library_name"))),
        array(array(bulk(b"library_name"), b":1\r\n", bulk(b"functions"), array())),
    ],
)
def test_functions_that_are_none(sides: dict[str, Hostile], reply: bytes) -> None:
    sides["source"].answers["FUNCTION"] = answering(reply)
    code, told = play(sides, "copy", "--functions")
    assert code == CODES["source"], told
    assert "answered FUNCTION LIST with an invalid reply" in told


@pytest.mark.parametrize("side", CODES)
def test_select_that_is_not_answered_by_ok(sides: dict[str, Hostile], side: str) -> None:
    """Else keys would be read from, or written to, another database."""
    for server in sides.values():
        server.answers["SELECT"] = lambda words: b"+OK\r\n" if len(words[1]) == 1 else None
    sides["source"].answers["INFO"] = info(db0="keys=0", db1="keys=3")
    sides[side].answers["SELECT"] = MODES["number"]()
    code, told = play(sides, "copy", "--db", "1")
    assert code == CODES[side], told
    assert "answered SELECT with" in told


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("SENTINEL", array(bulk(b"h"))),
        ("SENTINEL", array(bulk(b"h"), bulk(DIGITS))),
        ("SENTINEL", array(bulk(b"\xff"), bulk(b"-1"))),
        ("SENTINEL", b":1\r\n"),
    ],
)
def test_a_sentinel(sides: dict[str, Hostile], command: str, answer: bytes) -> None:
    source = sides["source"]
    source.answers[command] = answering(answer)
    uri = f"redis+sentinel://127.0.0.1:{source.port}/service"
    done = rumpx("--from", uri, "--to", sides["target"].uri, "--progress", "none", timeout=40)
    assert done.returncode == CODES["source"] and "Traceback" not in done.stderr
    assert "answered SENTINEL GET-MASTER-ADDR-BY-NAME with an invalid reply" in done.stderr


# The readers themselves, of anything at all

WORDS = st.text(max_size=30) | st.sampled_from(["-1", "nan", "inf", "9" * 30, "²", "", "keys=1"])
REPLIES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.binary(max_size=9) | st.floats() | st.booleans(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=3), each),
    max_leaves=9,
)
FIELDS = st.sampled_from(
    ["role", "used_memory", "used_cpu_sys", "slave_repl_offset", "redis_version", "db0", "db1"]
)


@given(st.dictionaries(FIELDS | st.text(max_size=9), WORDS | st.just("slave")))
def test_info_of_anything(fields: dict[str, str]) -> None:
    with contextlib.suppress(ValueError):
        parse_info("\r\n".join(f"{name}:{value}" for name, value in fields.items()))


@given(REPLIES)
def test_a_time_of_anything(reply: Any) -> None:
    with contextlib.suppress(ValueError, TypeError):
        assert milliseconds(reply) >= 0


@given(st.text() | st.lists(WORDS, max_size=12).map(" ".join))
def test_cluster_nodes_of_anything(text: str) -> None:
    with contextlib.suppress(ValueError, IndexError):
        parse_cluster_nodes(text, "h")


@given(st.lists(REPLIES, max_size=4))
def test_cluster_slots_of_anything(reply: list[Any]) -> None:
    told_addresses(reply, "h")
    with contextlib.suppress(ValueError):
        parse_cluster_slots(reply, "h")


@given(st.integers(0, MOST))
def test_whole_numbers(number: int) -> None:
    assert whole(str(number)) == whole(b"%d" % number) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_0", "²", "nan", "9" * 19, "9" * 5000])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        whole(text)


def test_what_the_parser_makes_of_resp3() -> None:
    assert any_reply(b"%1\r\n+a\r\n+b\r\n") == {b"a": b"b"}


@pytest.mark.parametrize(
    ("command", "answer"),
    [("EXISTS", b"+yes\r\n"), ("GET", b":1\r\n"), ("TYPE", b"*0\r\n")],
)
def test_a_comparison_of_values(server: Callable[..., Server], command: str, answer: bytes) -> None:
    """What is asked for values that are dumped differently, and for keys of the target alone."""
    target = server("7.0")
    target.do("MSET", *[word for n in range(20) for word in (f"k:{n}", "other")], "extra", "1")
    with Hostile(keys=20) as source:
        source.answers |= {
            "EXISTS": answering(b":0\r\n"), "GET": answering(b"$5\r\nvalue\r\n"),
            command: answering(answer),
        }  # fmt: skip
        done = rumpx("verify", "--from", source.uri, "--to", target.uri, "--retry-for", "2s")
    assert "Traceback" not in done.stderr
    assert done.returncode == (4 if command == "TYPE" else 6), done.stderr
