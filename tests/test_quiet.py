"""Who writes is read off; the keys that changed are remembered; a cutover is asked for: pure."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.ctl.cutover import cut_over
from rumpx.ctl.server import VERBS, Cutover, decode, encode, make_cutover, read_words
from rumpx.errors import TemporaryError, UsageError
from rumpx.follower import changed
from rumpx.follower.changed import Changed
from rumpx.follower.quiet import Heard, Noise, Told, moved, noise, write_commands, writers
from rumpx.follower.watch import Look
from rumpx.model.follow import CutoverFacts, CutoverStep
from rumpx.serialize import to_plain
from rumpx.servers.info import ServerInfo, parse_info
from support.servers import ALL, Server, at_least
from test_ctl import hold

WRITES = frozenset({"set", "incr", "xreadgroup", "xack", "xgroup|create"})


# The commands that may write


@pytest.mark.parametrize("version", ALL)
def test_the_commands_that_may_write(
    server: Callable[..., Server], version: str
) -> None:
    found = write_commands(server(version).do("COMMAND"))
    assert {"set", "getdel", "xreadgroup", "xack", "expire", "flushall", "restore"} <= found
    assert not {"get", "dump", "scan", "ping", "client", "info", "eval", "xread"} & found
    subcommands = {"xgroup|create", "function|load"} if at_least(version, "7.0") else {"xgroup"}
    assert subcommands <= found


@pytest.mark.parametrize("reply", [None, b"", [], [None], [[]], [[1, 2, 3]], [[b"set", 1, b"x"]]])
def test_an_answer_that_names_none(reply: Any) -> None:
    assert write_commands(reply) == frozenset()


# What has moved between two looks


def look(calls: dict[str, int] | None, **gone: int) -> Look:
    text = "".join(f"{name}:{number}\n" for name, number in gone.items())
    info: ServerInfo = parse_info(f"redis_version:7.0.0\n{text}")
    return Look(0.0, info, calls)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({}, {}, {}),
        ({"set": 1}, {"set": 1, "get": 9}, {}),
        ({"set": 1}, {"set": 3, "xgroup|create": 1}, {"set": 2, "xgroup|create": 1}),
        ({"set": 9}, {"set": 1}, {"set": -8}),  # CONFIG RESETSTAT
        (None, {"set": 1}, None),
        ({"set": 1}, None, None),
    ],
)
def test_what_has_moved(
    before: dict[str, int] | None, now: dict[str, int] | None, found: dict[str, int] | None
) -> None:
    assert moved(look(before), look(now), WRITES) == found


def judged(
    calls: dict[str, int] | None,
    told: Told,
    *,
    ignores: bool = False,
    same_groups: bool = True,
) -> Noise | None:
    return noise(
        look({}),
        look(calls),
        WRITES,
        told,
        ignores=ignores,
        same_groups=lambda: same_groups,
    )


NONE = Told()
SEVEN = Told((b"key:7",), 3)


def test_quiet_is_what_no_writing_command_has_moved() -> None:
    assert judged({}, NONE) is None
    assert judged({"get": 5}, SEVEN) is None  # names of expiries
    assert judged({"set": 1}, NONE) == Noise({"set": 1}, ())
    assert judged({"set": 1, "xreadgroup": 1}, SEVEN) == Noise(
        {"set": 1, "xreadgroup": 1}, (b"key:7",)
    )


def test_a_poll_that_changed_no_group_is_quiet() -> None:
    for told in (NONE, SEVEN):
        assert judged({"xreadgroup": 5}, told) is None
        assert judged({"xreadgroup": 5}, told, same_groups=False) == Noise(
            {"xreadgroup": 5}, told.keys
        )
    assert judged({"xack": 5}, NONE) == Noise({"xack": 5}, ())


def test_with_keys_that_are_left_out_the_names_decide() -> None:
    assert judged({"set": 5}, Told((), 0, 5), ignores=True) is None
    assert judged({"set": 5}, SEVEN, ignores=True) == Noise({}, (b"key:7",), 3)
    assert judged({"set": 5, "xack": 1}, NONE, ignores=True) == Noise({"xack": 1}, ())
    assert judged({"xgroup|create": 1}, NONE, ignores=True) == Noise({"xgroup|create": 1}, ())


@pytest.mark.parametrize("field", ["expired_keys", "evicted_keys", "expired_subkeys"])
def test_without_counters_expiries_explain_names(field: str) -> None:
    def unexplained(**gone: int) -> Noise | None:
        return noise(
            look(None), look(None, **gone), WRITES, SEVEN, ignores=False, same_groups=lambda: True
        )

    assert judged(None, NONE) is None
    assert unexplained(**{field: 3}) is None
    assert unexplained(**{field: 2}) == Noise({}, (b"key:7",), 1)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Noise({"set": 1}, ()), "1 call of SET"),
        (
            Noise({"set": 1_200, "incr": 2}, (b"a", b"\xff\n")),
            "2 calls of INCR, 1,200 calls of SET; keys written: a, \\xff\\n",
        ),
        (Noise({}, (b"a",), 1), "1 key changed; keys written: a"),
    ],
)
def test_the_words_for_it(found: Noise, text: str) -> None:
    assert str(found) == text


@given(st.lists(st.lists(st.sampled_from([b"a:1", b"a:2", *(b"b:%d" % n for n in range(9))]))))
def test_names_that_are_heard(parts: list[list[bytes]]) -> None:
    heard = Heard([b"a:*"])
    names = [name for part in parts for name in part]
    for part in parts:
        heard.add(part)
    others = [name for name in names if not name.startswith(b"a:")]
    told = heard.told
    assert (told.number, told.ignored) == (len(others), len(names) - len(others))
    assert list(told.keys) == list(dict.fromkeys(others))[:5]
    heard.reset()
    assert heard.told == NONE


# The clients

CLIENTS = """\
id=3 addr=127.0.0.1:5001 laddr=127.0.0.1:6379 fd=8 name= age=9 idle=0 flags=N db=0 cmd=set user=x
id=4 addr=/tmp/s:0 laddr=/tmp/s:0 fd=9 name=cron age=9 idle=1 flags=N db=0 sub=0 cmd=evalsha user=x
id=5 addr=127.0.0.1:5002 fd=8 name=old age=99 idle=60 flags=N db=0 cmd=set
id=6 addr=127.0.0.1:5003 fd=8 name=reader age=9 idle=0 flags=N db=0 cmd=get
id=7 addr=127.0.0.1:5004 fd=8 name=rumpx:j:1 age=9 idle=0 flags=N db=0 cmd=set
id=8 addr=127.0.0.1:5005 fd=8 name=groups age=9 idle=0 flags=N db=0 cmd=xgroup|create
id=9 addr=127.0.0.1:5006 fd=8 name= age=9 idle=0 flags=N db=0 cmd=NULL
"""


def test_the_clients_that_write() -> None:
    assert writers(CLIENTS, WRITES, 2.0) == [
        "127.0.0.1:5001: SET",
        "/tmp/s:0 (cron): EVALSHA",
        "127.0.0.1:5005 (groups): XGROUP|CREATE",
    ]
    assert len(writers(CLIENTS * 9, WRITES, 2.0)) == 5
    assert writers("", WRITES, 2.0) == []


# The keys that changed


@given(st.lists(st.lists(st.binary(min_size=1, max_size=3), max_size=40), max_size=20))
def test_few_names_are_all_kept(parts: list[list[bytes]]) -> None:
    kept = Changed()
    for part in parts:
        kept.add(part)
    assert (kept.share, sorted(kept.names)) == (1.0, sorted({n for part in parts for n in part}))
    kept.clear()
    assert (kept.share, kept.names) == (1.0, [])


@given(
    numbers=st.lists(st.integers(0, 5_000), min_size=1, max_size=30),
    most=st.integers(5, 200),
    again=st.integers(1, 3),
)
def test_of_many_names_a_bounded_sample_is_kept(
    numbers: list[int], most: int, again: int
) -> None:
    """Whatever the order, and however often each comes: the same share of all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changed, "_MOST", most)
        kept, given_names = Changed(), set()
        for start in numbers:
            part = [b"name:%d" % n for n in range(start, start + 100)]
            given_names.update(part)
            for _ in range(again):
                kept.add(part)
                assert len(kept.names) <= most
    names = set(kept.names)
    assert names <= given_names and len(names) == len(kept.names)
    below = int(kept.share * 2**32)
    assert names == {name for name in given_names if hash(name) & (2**32 - 1) < below}
    if kept.share < 1.0:  # halved only as often as was necessary
        twice = {name for name in given_names if hash(name) & (2**32 - 1) < 2 * below}
        assert len(twice) > most


# The words of a request


@pytest.mark.parametrize(
    ("words", "name", "request_"),
    [
        ("cutover", None, Cutover()),
        ("move cutover timeout=5m verify=full", "move", Cutover(300.0, "full")),
        ("cutover cutover accept-failed", "cutover", Cutover(accept_failed=True)),
        (
            "cutover ignore=a:* ignore=b=c verify=counts timeout=0.5s",
            None,
            Cutover(0.5, "counts", ("a:*", "b=c")),
        ),
    ],
)
def test_words_and_lines_of_a_cutover(words: str, name: str | None, request_: Cutover) -> None:
    assert read_words(words.split()) == (name, request_)
    assert decode(encode(request_)) == request_


@given(
    timeout=st.floats(0.001, 1e6, allow_nan=False).map(lambda seconds: round(seconds, 3)),
    verify=st.sampled_from(["changed", "full", "counts"]),
    ignore=st.lists(st.text(min_size=1, max_size=20), max_size=3).map(tuple),
    accept=st.booleans(),
)
def test_each_cutover_survives_its_way(
    timeout: float, verify: Any, ignore: tuple[str, ...], accept: bool
) -> None:
    request = Cutover(timeout, verify, ignore, accept)
    assert decode(encode(request)) == request


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("cutover now", "'now': write NAME=VALUE"),
        ("cutover verify=all", "verify=all: use changed, full, counts."),
        ("cutover verify=", "verify=: use"),
        ("cutover timeout=soon", "timeout"),
        ("cutover timeout=-1s", "timeout"),
        ("cutover ignore=", "ignore needs a pattern of keys, as in ignore=health:*."),
        ("cutover retries=3", "'retries' is no option of cutover; use timeout=60s, verify="),
        ("cutover verify=full verify=full", "verify is given twice"),
        ("cutover timeout=1s timeout=2s", "timeout is given twice"),
        ("cutover accept-failed=no", "accept-failed takes no value; give it alone"),
    ],
)
def test_words_of_a_cutover_that_are_refused(words: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_words(words.split())
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"ignore": "health:*"},
        {"ignore": [7]},
        {"ignore": [""]},
        {"verify": ["full"]},
        {"timeout": None},
        {"accept-failed": "no"},
        {"more": 1},
    ],
)
def test_fields_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_cutover(fields)


def test_cutover_is_a_verb() -> None:
    assert "cutover" in VERBS


# The client's end


def answered(facts: CutoverFacts | None) -> bytes:
    return _line({"ok": True, "follow": {"facts": {"cutover": facts and to_plain(facts)}}})


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


BUSY = _line({"ok": False, "error": "The run is busy.", "exit_code": 5})
BEGUN = CutoverFacts(100.0, (CutoverStep(100.0, "waiting"),))
LATER = CutoverFacts(100.0, (*BEGUN.steps, CutoverStep(101.0, "comparing")))
NOT_QUIET = CutoverFacts(100.0, LATER.steps, "not quiet", ("It is written.",))
EARLIER = CutoverFacts(50.0, (), "not quiet", ("An earlier one.",))


def told_by(folder: Path, answers: Iterable[bytes]) -> tuple[CutoverFacts, list[str]]:
    """What a client makes of a run's answers, and the steps that it tells."""
    ledger, steps = folder / "move.ledger", list[str]()
    with closing(socket.socket(socket.AF_UNIX)) as run, open(hold(ledger), "rb"):
        run.bind(str(folder / "move.ctl"))
        run.listen()

        def answer() -> None:
            for each in answers:
                client, _ = run.accept()
                with client:
                    client.recv(4096)
                    client.sendall(each)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        facts = cut_over(ledger, Cutover(), lambda step: steps.append(step.text))
        thread.join()
    return facts, steps


def test_a_run_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    answers = [answered(BEGUN), BUSY, answered(LATER), BUSY, BUSY, answered(NOT_QUIET)]
    assert told_by(tmp_path, answers) == (NOT_QUIET, ["waiting", "comparing"])


@pytest.mark.parametrize("resumed", [None, EARLIER])
def test_a_run_that_was_resumed_meanwhile_has_another_cutover(
    tmp_path: Path, resumed: CutoverFacts | None
) -> None:
    with pytest.raises(TemporaryError, match="move ended during the cutover, which proves nothing"):
        told_by(tmp_path, [answered(BEGUN), answered(resumed)])


def test_counters_that_were_reset_are_not_quiet() -> None:
    """They hide what was called before, also where a command's own counter is the same."""
    before, now = ({"set": 1, "info": 9}, {"set": 1, "info": 1})
    assert moved(Look(0.0, ServerInfo(), before), Look(1.0, ServerInfo(), now), frozenset({"set"}))
