"""Laws that hold for any input: globs, cursors, books, budgets, encodings, URIs, replies.

Where a server is the judge, real ones of every version are asked; the rest needs none.
"""

from __future__ import annotations

import doctest
import importlib
import random
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count, islice, pairwise
from types import SimpleNamespace
from typing import Any, cast

import hiredis
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from rumpx.engine.events import Found
from rumpx.engine.frontier import Frontier
from rumpx.engine.key_counts import Census, Tally, missing_keys
from rumpx.engine.plan import cut_spans
from rumpx.engine.scanner import Scanner, ScanSettings, Shelf
from rumpx.errors import UsageError, printable
from rumpx.model.counts import Counts
from rumpx.model.endpoint import Endpoint, parse_endpoint
from rumpx.model.job import Scope, check_prefixes
from rumpx.model.nodes import Node
from rumpx.model.partitions import CursorSpan, Partition, WholeSpan, reverse
from rumpx.model.results import KeyFailure
from rumpx.model.slots import SLOTS, key_slot
from rumpx.model.tuning import tune, worker_count
from rumpx.preflight.cursors import SamplePage, cursor_scheme
from rumpx.servers import resp
from rumpx.servers.globs import compile_glob, escape
from rumpx.servers.info import parse_info
from rumpx.servers.replies import Kind, classify, redirection
from rumpx.servers.resp import (
    LARGE_PAYLOAD,
    NO_EXPIRY,
    Connection,
    RestoreEncoder,
    encode,
    encode_dumps,
    encode_dumps_and_expiries,
    encode_memory_usage,
    encode_pttls,
)
from rumpx.servers.topology import parse_cluster_nodes
from rumpx.throttle.scan_gate import Gate
from rumpx.transfer.runner import Budget, Permit
from rumpx.units import parse_seconds, parse_size
from support.raw import Raw
from support.servers import ALL, Server, at_least

StartServer = Callable[..., Server]
CURSORS = 1 << 64

# Real servers and two cores decide how long an example takes, so no deadline.
settings.register_profile("rumpx", deadline=None, max_examples=200)
settings.load_profile("rumpx")
pure = pytest.mark.smoke


@contextmanager
def connected(server: Server) -> Iterator[Connection]:
    """The connection of the program under test, to a server."""
    with closing(Connection(socket.create_connection(server.address, 20), "test")) as connection:
        yield connection


# --- doctests -------------------------------------------------------------------------------


@pure
@pytest.mark.parametrize("name", ["rumpx.errors", "rumpx.model.partitions", "rumpx.model.slots"])
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


@pure
@given(st.binary(max_size=400), st.integers(1, 80))
def test_a_printed_key_is_one_short_line(key: bytes, limit: int) -> None:
    text = printable(key, limit)
    assert len(text) <= limit
    assert text.isprintable()


# --- globs ----------------------------------------------------------------------------------

# Few bytes, so that patterns and keys meet; all that a pattern gives a meaning to.
BYTES = [bytes([byte]) for byte in b"*?[]^-\\abcz\x00\xff\n"]
PLAIN = [bytes([byte]) for byte in b"abcz"]
words = st.lists(st.sampled_from(BYTES), max_size=7).map(b"".join)
# Half of the keys are of letters alone: these are what most patterns match.
keys_to_match = words | st.lists(st.sampled_from(PLAIN), max_size=7).map(b"".join)


def scanned(raw: Raw, glob: bytes) -> set[bytes]:
    """The keys that a server's SCAN MATCH finds."""
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, keys = raw.do("SCAN", cursor, "MATCH", glob, "COUNT", 1000)
        found.update(keys)
        if cursor == b"0":
            return found


@pytest.mark.parametrize("version", ALL)
def test_a_glob_matches_what_the_server_matches(server: StartServer, version: str) -> None:
    with server(version).raw() as raw:

        @settings(max_examples=150)
        @given(
            st.sets(keys_to_match, min_size=1, max_size=60),
            st.lists(words, min_size=1, max_size=20),
            st.sets(words, max_size=5),
        )
        @example({b"", b"a"}, [b"", b"*", b"**", b"?", b"[", b"[^", b"[]", b"\\", b"[^]"], set())
        @example({b"b", b"-", b"]", b"\\", b"a"}, [b"[a-", b"[a-]", b"[c-a]", b"[\\]]"], set())
        @example({b"?", b"\x7f", b"\xff", b"\x80", b"\x00"}, [b"[\xff-*]", b"[a-\xff]"], set())
        @example({b"a-b", b"ab"}, [b"[a\\-b]*", b"[^a-]*", b"[a-\\]b", b"[\\", b"[a-b-c]"], set())
        def check(keys: set[bytes], globs: list[bytes], prefixes: set[bytes]) -> None:
            keys |= {prefix + b"tail" for prefix in prefixes}
            raw.many([("FLUSHALL",), *(("SET", key, 1) for key in keys)])
            for glob in globs:
                ours = {key for key in keys if compile_glob(glob).fullmatch(key)}
                assert ours == scanned(raw, glob), glob
            for prefix in prefixes:
                expected = {key for key in keys if key.startswith(prefix)}
                assert scanned(raw, escape(prefix) + b"*") == expected, prefix

        check()


@pure
@given(st.binary(max_size=8) | words, st.binary(max_size=8) | words)
def test_an_escaped_prefix_matches_by_prefix(prefix: bytes, key: bytes) -> None:
    pattern = compile_glob(escape(prefix) + b"*")
    assert pattern.fullmatch(prefix + key)
    assert bool(pattern.fullmatch(key)) == key.startswith(prefix)


@pure
def test_a_glob_of_many_stars_takes_no_time() -> None:
    assert not compile_glob(b"*a" * 50 + b"b").fullmatch(b"a" * 5000)


# --- cursors of a hash table ----------------------------------------------------------------


def scan_step(cursor: int, hashes: set[int], small: int, large: int | None, first: int) -> Any:
    """One call of the servers' dictScan: the hashes it shows, and the next cursor.

    `small` is the table's number of bits; while it is rehashed into (or out of) one of `large`
    bits, a key may be in either: those whose lowest hash bits are below `first` are in the large.
    """
    masks = [(1 << bits) - 1 for bits in (small, large) if bits is not None]
    buckets = [{cursor & mask} for mask in masks]
    position = cursor
    while True:
        buckets[-1].add(position & masks[-1])
        position = reverse((reverse((position | ~masks[-1]) & (CURSORS - 1)) + 1) % CURSORS)
        if len(masks) == 1 or not position & (masks[0] ^ masks[1]):
            break
    in_large = {h for h in hashes if len(masks) == 2 and h & masks[0] < first}
    shown = {h for h in hashes - in_large if h & masks[0] in buckets[0]}
    return shown | {h for h in in_large if h & masks[1] in buckets[-1]}, position


table_sizes = st.tuples(st.integers(0, 7), st.none() | st.integers(1, 4), st.integers(0, 128))


@pure
@settings(max_examples=300)
@given(
    st.integers(0, 5),
    st.sets(st.integers(0, CURSORS - 1), min_size=1, max_size=60),
    st.lists(table_sizes, min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_parts_of_a_table_cover_it_while_it_is_resized(
    bits: int, hashes: set[int], sizes: list[Any], rng: random.Random
) -> None:
    seen: set[int] = set()
    spans = cut_spans(Node(None), "table", 1 << bits)
    assert len(spans) == 1 << bits
    for span in spans:
        cursor, before = span.start, 0.0
        while True:
            small, growth, first = rng.choice(sizes)
            large = small + growth if growth else None
            shown, cursor = scan_step(cursor, hashes, small, large, first)
            seen |= shown
            if span.ended(cursor):
                break
            fraction = span.fraction(cursor)
            if isinstance(span, CursorSpan):
                assert fraction is not None
                assert before <= fraction < 1.0
                before = fraction
    assert seen == hashes


@pure
@given(st.integers(0, CURSORS - 1))
def test_reversing_twice_changes_nothing(number: int) -> None:
    assert reverse(reverse(number)) == number


slot_edges = st.sets(st.integers(0, SLOTS), min_size=2, max_size=12).map(sorted)


@pure
@settings(max_examples=40)
@given(slot_edges, st.sampled_from([1, 2, 4, 8, 32, 4096]))
def test_slot_ranges_cover_each_slot_of_a_node_once(edges: list[int], parts: int) -> None:
    ranges = [(low, high - 1) for low, high in zip(edges[::2], edges[1::2], strict=False)]
    node = Node(("host", 1), slots=tuple(ranges))
    served = {slot for low, high in ranges for slot in range(low, high + 1)}
    spans = cut_spans(node, "slots", parts)
    assert len(spans) == min(parts, len(served))
    ordered = sorted(served)
    visits: list[int] = []
    for span in spans:
        if isinstance(span, WholeSpan):
            visits += ordered
            continue
        before = 0.0
        # The server goes from one slot that holds keys to the next; 0 after the last.
        for slot, following in zip(ordered, [*ordered[1:], None], strict=True):
            if slot < span.start:
                continue
            visits.append(slot)
            cursor = 0 if following is None else following | 5 << 14
            if span.ended(cursor):
                break
            fraction = span.fraction(cursor)
            assert fraction is not None
            assert before <= fraction < 1.0
            before = fraction
    assert visits == ordered


@pure
@given(st.sampled_from(["table", "slots", "unknown"]))
def test_a_node_cut_in_one_is_walked_whole(scheme: str) -> None:
    assert cut_spans(Node(None, slots=((0, 9),)), scheme, 1) == [WholeSpan()]


@pure
def test_an_unknown_cursor_is_never_cut() -> None:
    assert cut_spans(Node(None), "unknown", 16) == [WholeSpan()]


def table_page(hashes: dict[bytes, int], bits: int, cursor: int, buckets: int) -> SamplePage:
    """A SCAN reply of a node with one hash table."""
    keys: list[bytes] = []
    after = cursor
    for _ in range(buckets):
        shown, after = scan_step(after, set(hashes.values()), bits, None, 0)
        keys += [key for key, number in hashes.items() if number in shown]
        if not after:
            break
    return SamplePage(cursor, after, tuple(keys))


@pure
@settings(max_examples=30)
@given(st.integers(100, 300), st.randoms(use_true_random=False))
def test_the_cursor_of_one_table_is_told_by_its_keys(count: int, rng: random.Random) -> None:
    hashes = {b"key:%d" % rng.getrandbits(60): rng.getrandbits(64) for _ in range(count)}
    first = table_page(hashes, 8, 0, 20)
    second = table_page(hashes, 8, first.after, 20)
    assume(len(first.keys) + len(second.keys) >= 20)
    assert cursor_scheme([first, second], count) == "table"


@pure
@settings(max_examples=30)
@given(st.integers(60, 300), st.randoms(use_true_random=False))
def test_the_cursor_of_a_table_a_slot_is_told_by_its_keys(
    count: int, rng: random.Random
) -> None:
    keys = sorted((b"key:%d" % rng.getrandbits(60) for _ in range(count)), key=key_slot)
    third = count // 3
    edges = [key_slot(keys[third]), key_slot(keys[2 * third])]
    pages = [
        SamplePage(0, edges[0], tuple(keys[:third])),
        SamplePage(edges[0], edges[1] | 3 << 14, tuple(keys[third : 2 * third])),
        SamplePage(edges[1] | 3 << 14, 0, tuple(keys[2 * third :])),
    ]
    assert cursor_scheme(pages, count) == "slots"
    assert cursor_scheme([SamplePage(0, 0, tuple(keys[:10]))], 10) == "unknown"


@pure
def test_a_foreign_cursor_is_unknown() -> None:
    keys = tuple(b"key:%d" % number for number in range(100))
    assert cursor_scheme([SamplePage(0, 1 << 50, keys)], 100) == "unknown"
    assert cursor_scheme([], 0) == "unknown"


@pure
@given(
    st.floats(0, 60),
    st.floats(0, 60),
    st.integers(0, 10**9),
    st.integers(1, 256),
    st.integers(1, 1000),
    st.integers(0, 10_000),
    st.integers(0, 1024),
)
def test_tuning_is_sane_at_any_distance(
    source: float,
    target: float,
    keys: int,
    workers: int,
    nodes: int,
    batch_keys: int,
    partitions: int,
) -> None:
    tuning = tune(
        source,
        target,
        keys=keys,
        workers=workers,
        nodes=nodes,
        batch_keys=batch_keys,
        partitions=partitions,
    )
    assert 2 <= tuning.scanners <= 32
    assert max(partitions, 8 if not partitions else 1) <= tuning.partitions <= 1024
    assert tuning.partitions & (tuning.partitions - 1) == 0
    assert tuning.pipeline_keys == (batch_keys or tuning.pipeline_keys) > 0
    assert batch_keys or tuning.pipeline_keys >= 100
    assert tuning.pipeline_keys <= tuning.scan_count <= max(1000, batch_keys)
    assert 3 <= tuning.batches_in_flight <= 64
    assert 1 <= tuning.batch_keys <= max(2000, batch_keys)
    assert tuning.batch_keys == 1 or tuning.batch_keys * workers * 4 <= keys
    farther = tune(source + 0.05, target + 0.05, keys=keys, workers=workers, nodes=nodes)
    near = tune(source, target, keys=keys, workers=workers, nodes=nodes)
    assert farther.scanners >= near.scanners or near.scan_count < farther.scan_count


@pure
@given(st.integers(1, 500), st.integers(1, 256), st.booleans())
def test_workers_are_few_and_enough(nodes: int, cores: int, encrypted: bool) -> None:
    chosen = worker_count(nodes, cores, encrypted=encrypted)

    assert 2 <= chosen <= max(2, min(cores, 32))
    assert chosen <= worker_count(nodes + 1, cores, encrypted=encrypted)
    assert chosen <= worker_count(nodes, cores + 1, encrypted=encrypted)
    assert worker_count(1, 64, encrypted=encrypted) == (4 if encrypted else 2)


# --- prefixes -------------------------------------------------------------------------------


@pure
@given(st.lists(st.binary(min_size=1, max_size=3), max_size=5))
def test_overlapping_prefixes_are_refused(prefixes: list[bytes]) -> None:
    overlap = any(
        one.startswith(other)
        for number, one in enumerate(prefixes)
        for place, other in enumerate(prefixes)
        if number != place
    )
    if overlap:
        with pytest.raises(UsageError, match="overlap"):
            check_prefixes(tuple(prefixes))
    else:
        check_prefixes(tuple(prefixes))


# --- the frontier ---------------------------------------------------------------------------


class FrontierMachine(RuleBasedStateMachine):
    """A walk over keys 0, 1, 2, …: batches are issued in order and settled in any, keys fail, and
    the process dies at any moment and goes on from what was saved.

    The cursor is the number of the first key of a SCAN reply; a batch that ends within a reply
    carries the cursor from before it. Whatever happens, no key before the cursor is unsettled, each
    of them is counted once, and those that failed are listed once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin(0, Counts())
        self.ids = count()
        self.failed: set[int] = set()
        self.listed: list[int] = []

    def begin(self, cursor: int, booked: Counts) -> None:
        self.frontier = Frontier(cursor, booked)
        self.position = self.reply = cursor  # the next key, and the first one of this reply
        self.unsettled: dict[int, range] = {}
        self.settled: set[int] = set()

    @rule(keys=st.integers(0, 5), ends_reply=st.booleans())
    def issue(self, keys: int, ends_reply: bool) -> None:
        number = next(self.ids)
        self.unsettled[number] = range(self.position, self.position + keys)
        self.position += keys
        if ends_reply:
            self.reply = self.position
        self.frontier.issue(number, self.reply)

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data(), fails=st.booleans())
    def settle(self, data: st.DataObject, fails: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.unsettled)))
        keys = self.unsettled.pop(number)
        self.settled |= set(keys)
        failing = list(keys)[:1] if fails else []
        self.failed = (self.failed - set(keys)) | set(failing)
        counts = Counts(copied=len(keys) - len(failing), failed=len(failing))
        failures = [KeyFailure(0, b"%d" % key, "bad", "") for key in failing]
        self.frontier.settle(number, counts, failures)

    @rule()
    def die_and_go_on(self) -> None:
        """What is not saved never happened: the cursor, the counts and the failures are."""
        self.save()
        cursor = self.frontier.cursor
        self.failed = {key for key in self.failed if key < cursor}
        self.begin(cursor, self.frontier.counts)

    @rule()
    def save(self) -> None:
        self.listed += [int(failure.key) for failure in self.frontier.take_notes()]

    @invariant()
    def nothing_before_the_cursor_is_open(self) -> None:
        cursor = self.frontier.cursor
        open_keys = [key for keys in self.unsettled.values() for key in keys]
        assert all(key >= cursor for key in open_keys)
        assert self.frontier.counts.settled == cursor, "each key before it is counted once"
        assert self.frontier.unsettled or not self.unsettled

    @invariant()
    def the_cursor_is_not_held_back(self) -> None:
        """It stands at the last reply before which all is settled."""
        first_open = min((keys.start for keys in self.unsettled.values()), default=self.position)
        if not self.unsettled:
            assert self.frontier.cursor == self.reply
        assert self.frontier.cursor <= first_open

    def teardown(self) -> None:
        while self.unsettled:
            number, keys = self.unsettled.popitem()
            self.frontier.settle(number, Counts(copied=len(keys)), [])
            self.failed -= set(keys)
        self.frontier.book()
        self.save()
        assert self.frontier.counts.settled == self.position
        assert sorted(self.listed) == sorted(self.failed)


TestFrontier = pure(FrontierMachine.TestCase)


@given(
    replies=st.lists(st.integers(0, 40), max_size=20),
    batch_keys=st.integers(1, 30),
    scan_count=st.integers(1, 40),
)
def test_a_batch_moves_the_cursor_only_where_a_reply_ends(
    replies: list[int], batch_keys: int, scan_count: int
) -> None:
    """Up to each batch that moves the cursor, exactly the replies before that cursor were found."""
    found: list[Found] = []

    def emit(message: object) -> bool:
        assert isinstance(message, Found)
        found.append(message)
        return True

    settings = ScanSettings(cast(Any, None), Scope(), 0.0, False)
    gate = Gate(cast(Any, None), scan_count, batch_keys)
    partition = Partition(0, Node(None), 0, WholeSpan())
    scanner = Scanner(partition, 0, 0, "", settings, Shelf(), gate, emit)
    keys = 0
    ends = [0]  # of each reply, by its cursor
    for cursor, size in enumerate(replies, start=1):
        scanner._hand_on([b"%d" % (keys + n) for n in range(size)], cursor)
        keys += size
        ends.append(keys)
    scanner._tell(scanner.cursor)

    assert [key for message in found for key in message.keys] == [b"%d" % n for n in range(keys)]
    cursor = before = 0
    for message in found:
        before += len(message.keys)
        if message.cursor != cursor:
            assert ends[message.cursor] == before
            cursor = message.cursor
    assert cursor == len(replies)


# --- the budget -----------------------------------------------------------------------------


class BudgetMachine(RuleBasedStateMachine):
    """Permits are asked for, granted in order, corrected to their real size, and given back."""

    LIMIT = 100

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(self.LIMIT)
        self.waiting: deque[Permit] = deque()
        self.holding: list[Permit] = []

    @rule(size=st.integers(0, 150), alone=st.booleans())
    def ask(self, size: int, alone: bool) -> None:
        permit = Permit(size, alone)
        self.waiting.append(permit)
        self.budget.ask(permit)

    @rule()
    def grant(self) -> None:
        permit = self.budget.grant()
        if permit is None:
            assert self.holding or not self.waiting, "somebody waits, and nothing is in flight"
            return
        assert permit is self.waiting.popleft(), "first come, first served"
        self.holding.append(permit)
        only = len(self.holding) == 1
        assert only or self.budget.used <= self.LIMIT
        assert only or not any(holder.alone for holder in self.holding)

    @rule(data=st.data(), size=st.integers(0, 300))
    def correct(self, data: st.DataObject, size: int) -> None:
        if self.holding:
            self.budget.correct(data.draw(st.sampled_from(self.holding)), size)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.holding:
            permit = data.draw(st.sampled_from(self.holding))
            self.holding.remove(permit)
            self.budget.release(permit)

    @invariant()
    def used_is_what_is_held(self) -> None:
        assert self.budget.used == sum(permit.size for permit in self.holding)

    def teardown(self) -> None:
        """Nobody starves: as long as holders give back, everyone is served."""
        while self.waiting:
            before = len(self.waiting)
            self.grant()
            if len(self.waiting) == before:
                self.budget.release(self.holding.pop())
        while self.holding:
            self.budget.release(self.holding.pop())
        assert self.budget.used == 0


TestBudget = pure(BudgetMachine.TestCase)


# --- commands as bytes ----------------------------------------------------------------------

any_keys = st.lists(st.binary(max_size=40), max_size=8)
odd_payloads = st.binary(max_size=60) | st.sampled_from([b"%d%b\r\n", b"%", b"$1\r\n0\r\n"])
payloads = odd_payloads | st.tuples(
    st.binary(min_size=1, max_size=4), st.integers(LARGE_PAYLOAD - 2, LARGE_PAYLOAD + 2)
).map(lambda drawn: (drawn[0] * drawn[1])[: drawn[1]])
expiries = st.just(NO_EXPIRY) | st.integers(1, 2**62) | st.integers(10**12 - 2, 10**13 + 2)
records = st.lists(st.tuples(st.binary(max_size=40), payloads, expiries), max_size=6)


def parsed(data: bytes) -> list[list[bytes]]:
    """Commands as the server reads them."""
    reader = hiredis.Reader()
    reader.feed(data)
    commands = []
    while (command := reader.gets()) is not False:
        commands.append(command)
    assert not reader.has_data()
    return commands


@pure
@given(any_keys)
def test_commands_for_keys_survive_encoding(keys: list[bytes]) -> None:
    assert parsed(encode_dumps(keys)) == [[b"DUMP", key] for key in keys]
    assert parsed(encode_pttls(keys)) == [[b"PTTL", key] for key in keys]
    assert parsed(encode_dumps_and_expiries(keys)) == [
        [name, key] for key in keys for name in (b"DUMP", b"PEXPIRETIME")
    ]
    assert parsed(encode_memory_usage(keys)) == [
        [b"MEMORY", b"USAGE", key, b"SAMPLES", b"1"] for key in keys
    ]


@pure
@given(any_keys, st.data())
def test_groups_of_keys_survive_encoding(keys: list[bytes], draws: st.DataObject) -> None:
    """Each in its MULTI…EXEC, in order."""
    left, groups = len(keys), []
    while left:
        groups.append(draws.draw(st.integers(1, left)))
        left -= groups[-1]
    expected, rest = [], iter(keys)
    for size in groups:
        expected.append([b"MULTI"])
        for key in islice(rest, size):
            expected += [[b"DUMP", key], [b"PEXPIRETIME", key]]
        expected.append([b"EXEC"])

    assert parsed(encode_dumps_and_expiries(keys, groups)) == expected


@pure
@given(st.lists(st.binary(max_size=20) | st.integers() | st.text(max_size=20), min_size=1))
def test_any_command_survives_encoding(words: list[bytes | int | str]) -> None:
    expected = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    assert parsed(encode(*words)) == [expected]


@pure
@given(records, st.booleans(), st.booleans())
def test_restores_survive_encoding(
    records: list[tuple[bytes, bytes, int]], replace: bool, absolute: bool
) -> None:
    keys, payloads, expiries = ([record[n] for record in records] for n in range(3))
    encoder = RestoreEncoder(replace=replace, absolute=absolute)
    buffers = encoder.encode(keys, payloads, expiries)  # type: ignore[arg-type]
    expected = []
    for key, payload, expiry in records:
        command = [b"RESTORE", key, b"%d" % max(expiry, 0), payload]
        command += [b"REPLACE"] if replace else []
        expected.append(command + ([b"ABSTTL"] if absolute else []))
    assert parsed(b"".join(buffers)) == expected


FAR = 4_000_000_000_000  # ms: the year 2096


@pytest.mark.parametrize("version", ALL)
def test_values_survive_dump_and_restore(server: StartServer, version: str) -> None:
    expiry = st.just(NO_EXPIRY) | st.integers(FAR, FAR + 10**9)
    encoder = RestoreEncoder(replace=True, absolute=True)
    with connected(server(version)) as connection:

        @settings(max_examples=60)
        @given(st.dictionaries(st.binary(max_size=30), st.tuples(payloads, expiry), max_size=6))
        def check(values: dict[bytes, tuple[bytes, int]]) -> None:
            keys = list(values)
            expiries = [expiry for _, expiry in values.values()]
            connection.call_many([("SELECT", 0), ("FLUSHALL",)])
            connection.call_many([("SET", key, value) for key, (value, _) in values.items()])
            connection.send(encode_dumps(keys))
            dumped = cast("list[bytes]", connection.receive(len(keys)))
            connection.call("SELECT", 1)
            connection.send(*encoder.encode(keys, dumped, expiries))
            assert connection.receive_oks(len(keys)) is None
            for key, (value, expiry) in values.items():
                assert connection.call("GET", key) == value
                if at_least(version, "7.0"):
                    assert connection.call("PEXPIRETIME", key) == expiry
                else:
                    assert (connection.call("PTTL", key) == -1) == (expiry == NO_EXPIRY)
            assert connection.call("DBSIZE") == len(values)

        check()


# Either a run of commands that answer +OK, but for those at some places, or other replies.
runs = st.tuples(st.integers(1, 30), st.sets(st.integers(0, 29), max_size=2))


# Replies to receive by and by: less than a kilobyte of them, and several.
@pytest.mark.parametrize("chunk", [1, 7, 1500, resp.RECEIVE_BYTES])
def test_an_error_among_oks_is_found_wherever_it_is(
    server: StartServer, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resp, "RECEIVE_BYTES", chunk)
    with connected(server(ALL[-1])) as connection:
        connection.greet([])
        connection.call("RPUSH", "list", "member")

        @settings(max_examples=60)
        @given(
            st.booleans(),
            st.lists(runs | st.integers(0, 5) | st.integers(100, 200), min_size=1, max_size=6),
        )
        def check(fenced: bool, parts: list[tuple[int, set[int]] | int]) -> None:
            connection.fenced = fenced
            for part in parts:
                if isinstance(part, int):
                    commands = [encode("ECHO", b"+OK\r\n")] * part
                else:
                    oks = [encode("SET", "key", b"value")] * part[0]
                    for place in part[1] & set(range(part[0])):
                        oks[place] = encode("GET", "list")
                    commands = oks
                connection.send(b"".join(commands))
            for part in parts:
                if isinstance(part, int):
                    assert connection.receive(part) == [b"+OK\r\n"] * part
                    continue
                count, wrong = part[0], part[1] & set(range(part[0]))
                answers = connection.receive_oks(count)
                assert (answers is None) == (not wrong)
                for place, answer in enumerate(answers or ()):
                    assert str(answer).startswith("WRONGTYPE") == (place in wrong)
                    assert answer == b"OK" or place in wrong
            assert connection.call("PING") == b"PONG"

        check()


# --- endpoints ------------------------------------------------------------------------------

hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses().map(str)
addresses = st.tuples(hosts, st.integers(1, 65_535))
# What a path or a service may be called; NUL cannot be in either.
names = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    transport = draw(st.sampled_from(["tcp", "unix", "sentinel"]))
    db = draw(st.none() | st.integers(0, 2**31 - 1))
    if transport == "unix":
        return Endpoint("unix", path="/" + draw(names), db=db)
    if transport == "tcp":
        return Endpoint("tcp", (draw(addresses),), db=db)
    several = tuple(draw(st.lists(addresses, min_size=1, max_size=3)))
    return Endpoint("sentinel", several, service=draw(names.filter(bool)), db=db)


@pure
@given(endpoints())
def test_an_endpoint_is_what_its_text_says(endpoint: Endpoint) -> None:
    assert parse_endpoint(str(endpoint), "source") == endpoint


schemes = st.sampled_from(
    ["redis", "rediss", "unix", "redis+sentinel", "valkeys", "REDIS", "http", ""]
)
pieces = st.lists(
    st.sampled_from([*":/@?[],=&%#", "db", "host", "6379", "99999", "9" * 5000, "::1", "%zz"])
    | st.text(max_size=4),
    max_size=10,
).map("".join)


@pure
@given(schemes, st.sampled_from(["://", ":", ""]), pieces)
def test_a_uri_is_read_or_refused(scheme: str, separator: str, rest: str) -> None:
    try:
        str(parse_endpoint(scheme + separator + rest, "target"))
    except UsageError as error:
        assert str(error).startswith("--to")


marks = st.lists(st.sampled_from([*":/@?[],=&%# ", "%40", "?db=", "secret"]), max_size=5)


@pure
@given(
    st.sampled_from(["redis", "rediss", "unix", "redis+sentinel"]),
    marks.map("".join),
    st.sampled_from(["host", "host:1", "/sock", "host/x", "host/0/0", "host/name/0", "", "h?a=b"]),
)
def test_no_message_shows_a_password(scheme: str, middle: str, location: str) -> None:
    uri = f"{scheme}://user:secret{middle}secret@{location}"
    try:
        endpoint = parse_endpoint(uri, "source")
    except UsageError as error:
        assert "secret" not in str(error)
    else:
        assert "secret" not in str(endpoint)
        assert "secret" not in repr(endpoint)


@pure
def test_the_parts_of_a_uri() -> None:
    uri = "valkeys+sentinel://me:p%40ss@[::1],two:7/my%2Fservice/3"
    endpoint = parse_endpoint(uri, "source")
    assert endpoint.addresses == (("::1", 26379), ("two", 7))
    assert (endpoint.username, endpoint.password) == ("me", "p@ss")
    assert (endpoint.service, endpoint.db) == ("my/service", 3)
    assert endpoint.tls is not None


# --- sizes and times ------------------------------------------------------------------------


@pure
@given(st.integers(0, 10**6), st.sampled_from(("", *"kmgt")), st.sampled_from(["b", "ib"]))
def test_a_size_is_read_in_powers_of_1024(number: int, unit: str, end: str) -> None:
    expected = number * 1024 ** ["", "k", "m", "g", "t"].index(unit)
    assert parse_size(f"{number}{unit}{end}", "--stream-from") == expected
    assert parse_size(f" {number} {unit.upper()} ", "--stream-from") == expected


@pure
@given(st.integers(0, 10**6), st.sampled_from([("ms", 1e-3), ("s", 1), ("m", 60), ("h", 3600)]))
def test_a_time_is_read_in_seconds(number: int, unit: tuple[str, float]) -> None:
    assert parse_seconds(f"{number}{unit[0]}", "--timeout") == pytest.approx(number * unit[1])
    assert parse_seconds(str(number), "--timeout") == number


amounts = st.text(max_size=8) | st.from_regex(r"\d{1,3}(\.\d*)?[a-zA-Z]{0,3}")


@pure
@given(amounts)
@example("9" * 400)
@example("9" * 5000 + "t")
@example("-1")
@example("nan")
def test_a_size_or_time_is_read_or_refused(text: str) -> None:
    for parse in (parse_size, parse_seconds):
        try:
            assert parse(text, "--flag") >= 0
        except UsageError as error:
            assert str(error).startswith("--flag")


# --- replies --------------------------------------------------------------------------------

NOPERM_COMMAND = "NOPERM User x has no permissions to run the 'dump' command"
NOPERM_COMMAND_6 = "NOPERM this user has no permissions to run the 'restore' command"
NOPERM_KEY = "NOPERM No permissions to access a key"
NOPERM_KEY_6 = "NOPERM this user has no permissions to access one of the keys used as arguments"


@pure
@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            Kind.TEMPORARY,
            [
                "LOADING Redis is loading the dataset in memory",
                "CLUSTERDOWN Hash slot not served",
                "TRYAGAIN Multiple keys request during rehashing of slot",
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                "READONLY You can't write against a read only replica.",
                "NOREPLICAS Not enough good replicas to write.",
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL.",
                "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist.",
                "ERR max number of clients reached",
            ],
        ),
        (Kind.MOVED, ["MOVED 3999 127.0.0.1:6381", "MOVED 1 :7000"]),
        (Kind.ASK, ["ASK 3999 127.0.0.1:6381"]),
        (Kind.FULL, ["OOM command not allowed when used memory > 'maxmemory'."]),
        (Kind.BUSY_KEY, ["BUSYKEY Target key name already exists."]),
        (
            Kind.KEY,
            [
                "ERR DUMP payload version or checksum are wrong",
                "ERR Bad data format",
                NOPERM_KEY,
                NOPERM_KEY_6,
                "ERR something that nobody has foreseen",
            ],
        ),
        (
            Kind.PERMANENT,
            [
                "NOAUTH Authentication required.",
                "WRONGPASS invalid username-password pair or user is disabled.",
                NOPERM_COMMAND,
                NOPERM_COMMAND_6,
                "ERR unknown command 'RESTORE', with args beginning with: 'key'",
                "ERR syntax error",
                "ERR DB index is out of range",
                "DENIED Redis is running in protected mode.",
            ],
        ),
        (Kind.ABORTED, ["EXECABORT Transaction discarded because of previous errors."]),
    ],
)
def test_error_replies_are_told_apart(kind: Kind, texts: list[str]) -> None:
    assert {text: classify(hiredis.ReplyError(text)).kind for text in texts} == dict.fromkeys(
        texts, kind
    )


@pure
@given(st.text(max_size=80))
def test_any_error_reply_has_a_meaning(text: str) -> None:
    assert classify(text).reason


@pure
@given(hosts | st.just(""), st.integers(1, 65_535), st.integers(0, SLOTS - 1))
def test_a_redirection_names_its_address(host: str, port: int, slot: int) -> None:
    for word in ("MOVED", "ASK"):
        assert redirection(f"{word} {slot} {host}:{port}") == (host, port)


# --- what servers tell of themselves --------------------------------------------------------

node_ids = st.integers(0, 2**160 - 1).map("{:040x}".format)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[str, list[Node], list[Node]]:
    """CLUSTER NODES, and the primaries that it tells of: by IP, and by host name where known."""
    edges = [0, *sorted(draw(st.sets(st.integers(1, SLOTS - 1), min_size=3, max_size=9))), SLOTS]
    ranges = list(pairwise(edges))
    lines = []
    by_ip, by_name = [], []
    for number in range(2):
        node_id = f"{number}{draw(node_ids)[1:]}"
        mine = [(low, high - 1) for low, high in ranges[number::2]]
        host, port = draw(hosts | st.just("")), draw(st.integers(1, 65_535))
        name = draw(st.none() | st.sampled_from(["", f"node-{number}.example"]))
        more = "" if name is None else f",{name}" + draw(st.sampled_from(["", ",shard-id=ab"]))
        flags = ("myself," if number == 0 else "") + "master"
        shown = [str(low) if low == high else f"{low}-{high}" for low, high in mine]
        shown += draw(st.sampled_from([[], ["[77->-b7]"], ["[93-<-b7]", "[77->-b7]"]]))
        bus = draw(st.sampled_from(["", f"@{port + 10_000}"]))
        place = f"{host}:{port}{bus}{more}"
        lines.append(f"{node_id} {place} {flags} - 0 0 1 connected {' '.join(shown)}")
        replicas = []
        for _ in range(draw(st.integers(0, 2))):
            there = draw(addresses)
            state = draw(st.sampled_from(["slave", "slave,fail"]))
            lines.append(
                f"{draw(node_ids)} {there[0]}:{there[1]}@1 {state} {node_id} 0 0 1 connected"
            )
            if state == "slave":
                replicas.append(there)
        fields = (node_id, tuple(mine), tuple(replicas))
        by_ip.append(Node((host or "asked", port), *fields))
        by_name.append(Node((name or host or "asked", port), *fields))
    lines.append(f"{draw(node_ids)} :0@0 master,noaddr - 0 0 1 disconnected")
    lines.append(f"{draw(node_ids)} 10.0.0.9:7000@17000 handshake - 0 0 0 connected")
    return "\n".join(draw(st.permutations(lines))) + "\n", by_ip, by_name


@pure
@given(clusters())
def test_cluster_nodes_are_read(drawn: tuple[str, list[Node], list[Node]]) -> None:
    text, by_ip, by_name = drawn

    def sorted_replicas(nodes: Any) -> list[tuple[Any, ...]]:
        return [(n.address, n.id, n.slots, sorted(n.replicas)) for n in nodes]

    read = parse_cluster_nodes(text, "asked")
    assert sorted_replicas(read) == sorted_replicas(by_ip)
    read = parse_cluster_nodes(text, "asked", hostnames=True)
    assert sorted_replicas(read) == sorted_replicas(by_name)


@pure
@given(
    st.booleans(),
    st.lists(st.integers(0, 99), min_size=1, max_size=4),
    st.dictionaries(st.integers(0, 99), st.integers(0, 10**10), max_size=4),
    st.integers(0, 2**40),
    st.sampled_from(["\n", "\r\n"]),
)
def test_info_is_read(
    valkey: bool, version: list[int], keys: dict[int, int], memory: int, end: str
) -> None:
    number = ".".join(map(str, version))
    lines = ["# Server", f"redis_version:{'7.2.4' if valkey else number}", "redis_mode:standalone"]
    if valkey:
        lines += ["server_name:valkey", f"valkey_version:{number}", "server_mode:standalone"]
    lines += ["executable:/a:b/c", "", "# Memory", f"used_memory:{memory}", "maxmemory:0"]
    lines += ["maxmemory_policy:allkeys-lru", "# Replication", "role:master", "run_id:abc"]
    lines += ["# Keyspace"]
    lines += [f"db{db}:keys={count},expires=1,avg_ttl=0" for db, count in keys.items()]
    info = parse_info(end.join(lines) + end)
    assert (info.flavour, info.version) == ("valkey" if valkey else "redis", tuple(version[:3]))
    assert (info.mode, info.role, info.run_id) == ("standalone", "master", "abc")
    assert (info.keys, info.used_memory, info.evicts) == (keys, memory, False)


@pure
def test_a_server_that_tells_nothing_is_not_trusted() -> None:
    info = parse_info("# Server\r\nuptime_in_seconds:3\r\n")
    assert (info.flavour, info.version, info.keys) == ("", (), {})
    assert not info.proven_cursors
    assert not info.evicts


# --- completeness ---------------------------------------------------------------------------

tallies = st.builds(Tally, st.integers(0, 1000), st.integers(0, 50), st.integers(0, 50))
EMPTY = Tally(0, 0, 0)


def missing(before: Census, after: Census, counts: Counts, scope: Scope = Scope()) -> Any:  # noqa: B008
    plan: Any = SimpleNamespace(spec=SimpleNamespace(scope=scope))
    return missing_keys(plan, before, after, counts)


@pure
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 100), st.integers(0, 100))
def test_a_quiet_source_is_counted_exactly(
    keys: int, copied: int, gone: int, failed: int
) -> None:
    assume(copied + gone + failed <= keys)
    source = Tally(keys, 5, 5)
    counts = Counts(copied=copied, gone=gone, failed=failed)
    lost = missing(Census(source, EMPTY), Census(source, Tally(copied, 0, 0)), counts)
    assert lost == keys - copied - gone - failed


@pure
@given(tallies, tallies, tallies)
def test_a_complete_copy_is_never_found_short(
    before: Tally, after: Tally, target: Tally
) -> None:
    assume(target.keys >= min(before.keys, after.keys))
    assert missing(Census(before, EMPTY), Census(after, target), Counts()) == 0


@pure
@pytest.mark.parametrize(
    ("before", "after", "scope"),
    [
        (Census(None, EMPTY), Census(EMPTY, EMPTY), Scope()),
        (Census(EMPTY, EMPTY), Census(EMPTY, None), Scope()),
        (Census(EMPTY, Tally(1, 0, 0)), Census(EMPTY, EMPTY), Scope()),
        (Census(EMPTY, EMPTY), Census(EMPTY, EMPTY), Scope(match=(b"a*",))),
    ],
)
def test_no_count_where_the_rule_does_not_apply(
    before: Census, after: Census, scope: Scope
) -> None:
    assert missing(before, after, Counts(), scope) is None
