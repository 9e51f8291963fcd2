"""Answers at the edge of what their commands have: too short, too long, below zero, without end."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumpx.checker import key_sample as sample
from rumpx.engine.events import FromScanner, ScanTrouble
from rumpx.engine.scanner import Scanner, ScanSettings, Shelf, scanned, walk
from rumpx.errors import ConnectionLost, SourceUnusable, TargetUnusable
from rumpx.model.endpoint import parse_endpoint
from rumpx.model.job import Scope
from rumpx.model.nodes import STANDALONE, Node
from rumpx.model.partitions import (
    CursorSpan,
    NodeKeys,
    Partition,
    SlotSpan,
    Span,
    WholeSpan,
    reverse,
)
from rumpx.servers.connections import Links
from rumpx.servers.dial import Dialer
from rumpx.servers.endless import Endless
from rumpx.servers.replicas import read_state
from rumpx.servers.resp import Argument, Command, Connection, last_words
from rumpx.servers.upstream import Upstream, parse_upstream
from rumpx.throttle.rates import Throttle
from rumpx.throttle.scan_gate import Gate
from rumpx.transfer.chunks import ChunkLimits, Intake
from rumpx.transfer.commands import Calls
from rumpx.transfer.dump_reader import Abilities, DumpReader, Expiry
from rumpx.transfer.handler import Read, Wanted
from rumpx.transfer.runner import Budget, Runner
from rumpx.values import by_type, equal_streams
from rumpx.values.chunked_reader import Amount
from rumpx.values.reading import Reading
from rumpx.values.shapes import fits
from rumpx.values.sides import Sides, run_over
from rumpx.verifier import expired
from support.hostile import INFO, MODES, Hostile, Words, answering, bulk, scan_reply
from support.run import rumpx
from support.servers import Server

StartServer = Callable[..., Server]
SOURCE, TARGET = 6, 7
MALFORMED = "with an invalid reply"


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile(keys=100) as server:
        yield server


@pytest.fixture
def connection(hostile: Hostile) -> Iterator[Connection]:
    sock = socket.create_connection(("127.0.0.1", hostile.port), timeout=20)
    with closing(Connection(sock, "there")) as dialled:
        yield dialled


def play(
    source: Hostile | Server, target: Hostile | Server, *flags: str, command: str = ""
) -> tuple[int, str]:
    ends = ("--from", source.uri, "--to", target.uri)
    patience = ("--timeout", "2s") if command else ("--retry-for", "2s", "--timeout", "2s")
    done = rumpx(*filter(None, [command]), *ends, *patience, *flags, timeout=40)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def read(source: Hostile, expiry: Expiry) -> Read:
    """Read all keys as a worker does, in this process."""
    links = Links(Dialer(parse_endpoint(source.uri, "source"), "source", 5.0, 5.0), STANDALONE)
    reader = DumpReader(links, Abilities(expiry, multi=False, sizes="none"))
    runner = Runner(Budget(2**30))
    runner.start(reader.read(Wanted(0, source.keys, None), None))
    try:
        while (result := runner.step()) is None:
            pass
    finally:
        links.close()
    assert isinstance(result, Read)
    return result


# Payloads

SHORT = [b"", b"0123456789"]


def test_a_payload_too_short_for_a_value_ends_a_copy(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["DUMP"] = answering(bulk(b""))
    code, told = play(hostile, server("7.0"))
    assert code == SOURCE
    assert f"answered DUMP or the command for its expiry {MALFORMED}" in told


@pytest.mark.parametrize("expiry", get_args(Expiry))
@pytest.mark.parametrize("payload", SHORT)
def test_a_payload_too_short_for_a_value_is_neither_read_nor_gone(
    hostile: Hostile, payload: bytes, expiry: Expiry
) -> None:
    for gone in (False, True):
        hostile.answers["DUMP"] = lambda words: bulk(payload) if words[1] == b"k:7" else None
        if gone:
            hostile.answers["PTTL"] = hostile.answers["PEXPIRETIME"] = answering(b":-2\r\n")
        with pytest.raises(SourceUnusable, match=f"answered DUMP .* {MALFORMED}"):
            read(hostile, expiry)


def test_an_expiry_that_is_none_is_no_answer(hostile: Hostile) -> None:
    hostile.answers["PEXPIRETIME"] = answering(b":-3\r\n")
    with pytest.raises(SourceUnusable, match=f"the command for its expiry {MALFORMED}"):
        read(hostile, "instant")


def test_a_payload_too_short_for_a_value_fails_a_check(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["DUMP"] = answering(bulk(b""))
    code, told = play(hostile, server("7.0"), command="check")
    assert code == SOURCE
    assert f"answered DUMP {MALFORMED}" in " ".join(told.split())


@pytest.mark.parametrize("side", ["target"])
def test_a_payload_too_short_for_a_value_ends_a_comparison(hostile: Hostile, side: str) -> None:
    with Hostile(keys=100) as other:
        other.run_id = "e" * 40
        hostile.answers["DUMP"] = answering(bulk(b""))
        both = (hostile, other) if side == "source" else (other, hostile)
        code, told = play(*both, command="verify")
    assert code == (SOURCE if side == "source" else TARGET)
    assert f"{side} at" in told and "answered DUMP" in told and MALFORMED in told


@pytest.mark.parametrize("payload", SHORT)
def test_a_payload_too_short_for_a_value_is_no_answer_to_dump(payload: bytes) -> None:
    assert not fits("DUMP", payload)
    assert fits("DUMP", b"\0" + payload.rjust(10)) and fits("DUMP", None)


# What the parser does not take

UNPARSED = [b"%1\r\n*0\r\n+x\r\n", b">1\r\n%1\r\n~0\r\n:1\r\n", b"*1\r\n%1\r\n%0\r\n:1\r\n"]


@pytest.mark.parametrize("answer", UNPARSED)
def test_a_map_whose_names_are_lists_is_no_answer(
    hostile: Hostile, connection: Connection, answer: bytes
) -> None:
    hostile.answers["ECHO"] = answering(answer)
    with pytest.raises(ConnectionLost) as lost:
        connection.call("ECHO", "x")
    assert lost.value.cause == "malformed"
    assert "answered ECHO with bytes that do not follow the Redis protocol" in str(lost.value)


@pytest.mark.parametrize("heard", [*UNPARSED, b"*4294967295\r\n", b"?", b"$-7\r\n"])
def test_what_is_no_reply_is_no_last_word(heard: bytes) -> None:
    assert last_words([heard]) == ""
    assert last_words([b"-LOADING wait\r\n", heard]) == ""


# Clocks

IN_AN_HOUR = 3_600_000
NO_TIMES = [b"+OK\r\n", b"*1\r\n:1\r\n", b"*2\r\n+a\r\n+b\r\n", b":1\r\n", b"*-1\r\n"]


@pytest.mark.parametrize("answer", NO_TIMES)
@pytest.mark.parametrize("before", [0, 1, 2, 3, 4])
def test_a_time_that_is_none_is_not_taken_for_a_clock(
    hostile: Hostile, answer: bytes, before: int
) -> None:
    """Times left were once taken for instants then, of which each key seemed to have expired."""
    hostile.answers["PTTL"] = answering(b":%d\r\n" % IN_AN_HOUR)
    hostile.answers["TIME"] = lambda words: (
        leaping(hostile) if hostile.called["TIME"] <= before else answer
    )
    with pytest.raises(SourceUnusable, match=f"answered TIME {MALFORMED}"):
        read(hostile, "clock")


def leaping(server: Hostile) -> bytes:
    """Of a clock that leaps between two looks, so that expiries are asked for again."""
    return b"*2\r\n:1800000000\r\n:%d\r\n" % (10_000 * (server.called["TIME"] % 100))


@pytest.mark.parametrize("before", [4, 5, 6, 30])
def test_a_time_that_is_refused_when_it_is_asked_again(hostile: Hostile, before: int) -> None:
    """What was reckoned before is kept."""
    hostile.answers["PTTL"] = answering(b":%d\r\n" % IN_AN_HOUR)
    hostile.answers["TIME"] = lambda words: (
        leaping(hostile) if hostile.called["TIME"] <= before else b"-NOPERM no TIME any more\r\n"
    )
    found = read(hostile, "clock")
    assert (len(found.keys), found.gone) == (100, [])
    assert min(found.expiries) >= 1_800_000_000_000 + IN_AN_HOUR


@pytest.mark.parametrize("reply", [[b"1", b"2"], [1, 2]])
def test_a_time_may_be_told_by_numbers(reply: list[Any]) -> None:
    assert fits("TIME", reply)


@pytest.mark.parametrize("reply", [b"1", None, [1], [1, b"2"], [-1, 2], [1, 10**6], [[1], [2]]])
def test_what_is_no_time(reply: Any) -> None:
    assert not fits("TIME", reply)


# Cursors and types


@pytest.mark.parametrize("cursor", [b"9" * 5000, b"18446744073709551616", b"-1", b""])
def test_a_cursor_that_no_server_counts_to(cursor: bytes) -> None:
    for command in ("SCAN", "SSCAN", "HSCAN"):
        assert not fits(command, [cursor, []])
        assert fits(command, [b"18446744073709551615", []])


def test_a_cursor_of_thousands_of_digits(hostile: Hostile, connection: Connection) -> None:
    hostile.answers["SCAN"] = answering(scan_reply(b"9" * 5000, []))
    with pytest.raises(SourceUnusable, match=f"answered SCAN {MALFORMED}"):
        scanned(connection, "source", connection.call("SCAN", 0))


def test_a_type_that_is_none_leaves_no_key_out(hostile: Hostile, server: StartServer) -> None:
    hostile.answers["TYPE"] = answering(b"*1\r\n+string\r\n")
    code, told = play(hostile, server("7.0"), "--type", "string,hash")
    assert code == SOURCE
    assert f"answered TYPE {MALFORMED}" in told


# Replicas


def upstream(**fields: str) -> Upstream:
    known = {"role": "slave", "master_host": "h", "master_port": "1", "db0": "keys=1"}
    told = parse_upstream(known | fields)
    assert told
    return told


def test_seconds_below_zero_are_those_of_a_clock_that_was_set_back() -> None:
    up = upstream(master_link_status="up", master_last_io_seconds_ago="-3600")
    assert (up.silent_for, up.lag, up.fault) == (0, "", "")
    down = upstream(master_link_down_since_seconds="-7", slave_repl_offset="1")
    assert (down.down_for, down.fault) == (0, "")
    assert "lost the link" in down.lag
    never = upstream(master_link_down_since_seconds="-1", slave_repl_offset="-1")
    assert "never synchronised" in never.fault


@pytest.mark.parametrize("text", ["-", "--1", "1-", "-9999999999999999999999", "x"])
def test_seconds_that_are_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        upstream(master_last_io_seconds_ago=text)


def test_a_replica_that_does_not_know_its_offset(
    hostile: Hostile, connection: Connection
) -> None:
    text = INFO.format(run_id="f", keys=1).replace("role:master", "role:slave")
    hostile.answers["INFO"] = answering(
        bulk(f"{text}slave_repl_offset:-1\nmaster_last_io_seconds_ago:-2\n".encode())
    )
    state = read_state(connection)
    assert state and (state.offset, state.role) == (-1, "slave")


# Walks without end


def scan_settings(source: Hostile) -> ScanSettings:
    dialer = Dialer(parse_endpoint(source.uri, "source"), "source", 5.0, 5.0)
    return ScanSettings(dialer, Scope(), 5.0, scan_type=True)


def walked(source: Hostile, span: Span, count: int = 2**20) -> int:
    """Walk a database in this process; how many replies that took."""
    partition, settings = Partition(0, Node(None), 0, span), scan_settings(source)
    with closing(Throttle()) as throttle, closing(settings.dialer.connect(None)) as connection:
        gate = Gate(throttle, count, 1000)
        return sum(1 for _ in walk(connection, partition, span.start, settings, gate))


@pytest.mark.parametrize("span", [WholeSpan(), SlotSpan(0, 100)], ids=["whole", "slots"])
@pytest.mark.parametrize("refused", [False, True])
def test_a_walk_that_shows_nothing_for_ever(hostile: Hostile, span: Span, refused: bool) -> None:
    hostile.answers["SCAN"] = MODES["endless and empty"]()
    if refused:
        hostile.answers["DBSIZE"] = answering(b"-NOPERM no DBSIZE\r\n")
    why = "of any server can fill" if refused else "that DBSIZE reports can fill"
    with pytest.raises(SourceUnusable, match=f"SCAN on .* never ends: .* {why}"):
        walked(hostile, span, 2**24 if refused else 2**20)
    assert hostile.called["SCAN"] < 300


def test_a_walk_that_shows_keys_for_ever_and_does_not_count_them(hostile: Hostile) -> None:
    names = [b"%d" % number for number in range(1000)]
    hostile.answers["SCAN"] = lambda words: scan_reply(hostile.called["SCAN"], names)
    hostile.answers["DBSIZE"] = answering(b"-NOPERM no DBSIZE\r\n")
    with pytest.raises(SourceUnusable, match="never ends: after 1,025 replies"):
        walked(hostile, WholeSpan(), 2**22)


def test_the_end_of_a_part_that_is_never_reached(hostile: Hostile) -> None:
    """What lies behind it is asked for once more, up to where a reply ended."""
    part, most = CursorSpan(0, 2**48), 2**63

    def answer(words: Words) -> bytes:
        asked = int(words[1])
        if not asked:
            return scan_reply(reverse(most), [b"k:1"])
        return scan_reply(reverse(reverse(asked) + 1), [])

    hostile.answers["SCAN"] = answer
    with pytest.raises(SourceUnusable, match=r"SCAN on .* never ends: after"):
        walked(hostile, part)


def test_a_server_that_hangs_up_whenever_it_has_shown_something(hostile: Hostile) -> None:
    """What came over other connections counts."""
    watch = Endless()
    for number in range(1, 100):
        watch.resume()
        if why := watch.watch(number % 2, 0, 2**20, lambda: 0):
            break
    assert "after 17 replies" in why


def test_a_scan_without_end_over_ever_new_connections(hostile: Hostile) -> None:
    number = itertools.count(1)

    def answer(words: Words) -> Iterator[bytes]:
        if not (cursor := next(number)) % 2:
            raise ConnectionResetError
        yield scan_reply(cursor, [])

    hostile.answers["SCAN"] = answer
    told: list[FromScanner] = []
    with closing(Throttle()) as throttle:
        scanner = Scanner(
            *(Partition(0, Node(None), 0, WholeSpan()), 0, 0, hostile.run_id),
            *(scan_settings(hostile), Shelf(), Gate(throttle, 2**21, 1000)),
            emit=lambda message: not told.append(message),  # type: ignore[func-returns-value]
        )
        scanner.start().join(20)
    assert isinstance(told[-1], ScanTrouble)
    assert "never ends: after 9 replies" in str(told[-1].error)


@given(
    keys=st.integers(0, 10**9),
    slack=st.floats(1, 300),
    tables=st.sampled_from([1, 16_384]),
    replies=st.integers(1, 200),
    filtered=st.booleans(),
)
def test_no_walk_that_ends_is_taken_for_endless(
    keys: int, slack: float, tables: int, replies: int, filtered: bool
) -> None:
    """Of tables far larger than their keys need, whatever is filtered out."""
    buckets = max(int(slack * keys), 9_000 * tables)
    steps = keys + buckets // 10
    watch = Endless()
    for cursor in range(1, replies + 1):
        shown = 0 if filtered else keys // replies
        assert not watch.watch(cursor, shown, steps // replies, lambda: keys)


def test_a_check_ends_where_a_walk_does_not(hostile: Hostile) -> None:
    place = NodeKeys(Node(None), 0, 100, "unknown")
    dialer = Dialer(parse_endpoint(hostile.uri, "source"), "source", 5.0, 5.0)
    for mode, share, why in (
        ("cursor that goes round", 1000, "the server repeats a cursor"),
        ("cursor that goes round", 80, "the server repeats a cursor"),
        ("endless cursor", 1000, "it shows several times the keys"),
    ):
        hostile.answers["SCAN"] = MODES[mode]()
        ends = pytest.raises(SourceUnusable, match=f"never ends: {why}")
        with closing(dialer.connect(None)) as connection, ends:
            for _ in sample._Walk(place, share).names(connection):
                pass


def test_a_check_of_a_source_whose_cursor_goes_round(
    hostile: Hostile, server: StartServer
) -> None:
    hostile.answers["SCAN"] = MODES["cursor that goes round"]()
    code, told = play(hostile, server("7.0"), command="check")
    assert code == SOURCE
    assert "the server repeats a cursor" in " ".join(told.split())


# Values without end


class Walked:
    """A server of one value, whose walks never end."""

    name = "there"

    def __init__(self, members: Callable[[int], list[bytes]], count: int = 0) -> None:
        self.members = members
        self.count = count
        self.replies = 0

    def call(self, *arguments: Argument) -> Any:
        match arguments[0]:
            case "SSCAN" | "HSCAN":
                self.replies += 1
                return [b"%d" % self.replies, self.members(self.replies)]
            case "SCARD" | "HLEN":
                return 10
        return None

    def call_many(self, commands: Iterable[Command], /) -> list[Any]:
        return [self.call(*command) for command in commands]


def walk_value(sides: Sides, command: str, counter: str) -> Reading[None]:
    whole = by_type._Walk(sides, sides.source, command, b"k", counter, 1)
    while not whole.done:
        yield from whole.more()


@pytest.mark.parametrize(("command", "counter"), [("SSCAN", "SCARD"), ("HSCAN", "HLEN")])
@pytest.mark.parametrize(
    ("members", "why"),
    [
        (lambda number: [], "that (SCARD|HLEN) reports can fill"),
        (lambda number: [b"a", b"b"] * 500, "it shows several times the members"),
    ],
)
def test_a_value_whose_members_never_end(
    command: str, counter: str, members: Callable[[int], list[bytes]], why: str
) -> None:
    server = Walked(members)
    with pytest.raises(SourceUnusable, match=f"{command} on .* never ends: .*{why}"):
        walked = partial(walk_value, command=command, counter=counter)
        run_over(server, server, walked, Amount(1000, 2**30))


class Streaming(Walked):
    """One of a stream, whose entries never end."""

    def call(self, *arguments: Argument) -> Any:
        match arguments[0]:
            case "XLEN":
                return 10
            case "XRANGE" | "XPENDING" as command:
                self.replies += 1
                (last,) = self.members(self.replies)
                rest = [[b"f", b"v"]] if command == "XRANGE" else [b"consumer", 0, 1]
                return [[last, *rest]] * int(arguments[-1])
            case "XINFO":
                return [[b"name", b"c", b"pending", 10]]
            case "TIME":
                return [1, 1]
        return None


@pytest.mark.parametrize(
    ("members", "why"),
    [
        (lambda number: [b"1-1"], "the server repeats a cursor"),
        (lambda number: [b"%d-1" % number], "it shows several times the"),
    ],
)
def test_a_stream_whose_entries_never_end(
    members: Callable[[int], list[bytes]], why: str
) -> None:
    both = Streaming(members), Streaming(members)
    with pytest.raises(SourceUnusable, match=f"XRANGE on .* never ends: .*{why}"):
        run_over(*both, lambda sides: equal_streams._equal_entries(sides, b"k"))
    with pytest.raises(SourceUnusable, match=f"XPENDING on .* never ends: .*{why}"):
        run_over(*both, lambda sides: equal_streams._equal_pending(sides, b"k", b"g"))


@pytest.mark.parametrize("mode", ["endless and empty", "round"])
def test_a_hash_without_fields_that_never_ends(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(expired, "_MOST_FIELDS_SEEN", 2**20)
    hostile.answers["HSCAN"] = MODES["endless and empty"]()
    if mode == "round":
        hostile.answers["HSCAN"] = lambda words: scan_reply(int(words[2]) % 7 + 1, [])
    hostile.answers["HLEN"] = answering(b":10\r\n")
    why = "the server repeats a cursor" if mode == "round" else "that HLEN reports"
    links = Links(Dialer(parse_endpoint(hostile.uri, "target"), "target", 5.0, 5.0), STANDALONE)
    budget = Budget(2**30)
    runner = Runner(budget)
    with closing(Throttle()) as throttle, closing(links):
        reader = DumpReader(links, Abilities("instant", multi=False, sizes="none"))
        intake = Intake(reader, budget, ChunkLimits(1000, 2**20, big=2**20), throttle)
        runner.start(expired.without_fields(Calls(links, 1.0, intake), 0, [b"k:1", b"k:2"]))
        with pytest.raises(TargetUnusable, match=f"HSCAN on .* never ends: .*{why}"):
            while runner.delay() is not None:
                runner.step()
