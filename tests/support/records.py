"""Made-up Records of jobs in every state, for the tests of reports. The same in every run."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace

from rumpx.model.content import Content, LargeKey, SizeCount, TypeCount
from rumpx.model.counts import Counts
from rumpx.model.follow import CutoverFacts, CutoverStep, FollowStat
from rumpx.model.history import Option, Record, RunRecord
from rumpx.model.job import Limits
from rumpx.model.results import (
    KeyFailure,
    PartitionSummary,
    PrefixDifferences,
    Summary,
    Verification,
)
from rumpx.model.timeline import Point, held_seconds
from support.snapshots import GAP_AT, WAITS, make_follow

BEGAN = 1_772_438_400.0
VERSION = "0.9.0"
EVIL = b"<script>alert(1)</script>"
ODD_KEYS = (
    EVIL,
    b"\x1b[2J\r\nuser:1\x00",
    b"stream:\xff\xfe",
    b"session:" + b"0123456789abcdef" * 12,
    "ключ:東京:ü".encode(),
    b"\"quoted\" & 'single' `back`",
    "\u202egnp.exe".encode(),
)
SOURCE, TARGET = "redis://10.0.0.1:6379", "rediss://cache.prod.example.com:6380"

_OPTIONS = (
    Option("--from", SOURCE, True),
    Option("--to", TARGET, True),
    Option("--workers", "8", True),
    Option("--max-source-latency", "5ms", False),
    Option("--max-target-latency", "off", False),
    Option("--on-conflict", "fail", False),
    Option("--batch-keys", "", False),
    Option("--retry-for", "600s", False),
    Option("--from-ca", "", False),
)
_LIMITS = Limits(max_source_latency=5e-3, max_target_latency=None)


def points(
    runs: list[int],
    seconds: float,
    keys: float,
    value: float,
    *,
    seed: int = 1,
    limit: float | None = None,
    target: bool = True,
) -> tuple[Point, ...]:
    """A series like a real one.

    Args:
        runs: number of points of each run.
        seconds: length of a point.
        keys: a second, where nothing holds it.
        value: bytes of a payload.
        limit: of the source's latency, in seconds; with it the run is held from time to time.
        target: whether the target's latency is known.
    """
    chance = random.Random(seed)
    found: list[Point] = []
    elapsed, wall = 0.0, BEGAN
    for run, number in enumerate(runs, 1):
        wall += 0.0 if run == 1 else 5400.0
        for position in range(number):
            wave = 0.5 + 0.5 * math.sin(position / max(9.0, number / 7))
            elapsed, wall = elapsed + seconds, wall + seconds
            latency = 0.4e-3 + 1.4e-3 * wave * chance.random()
            share, held = 0.85 + 0.15 * chance.random(), {}
            if limit and wave > 0.6:
                latency = limit * (0.6 + 0.6 * chance.random())
                share *= 1.3 - wave
                held["source latency"] = seconds * min(1.0, 0.2 + wave * chance.random())
            if limit and run == 2 and number // 3 < position < number // 2:
                share, held = 0.0, {"timetable": seconds}
            if chance.random() < 0.004:
                latency *= 6
            if position == 0:
                share *= 0.3
                held["source latency"] = seconds
            copied = round(keys * seconds * share)
            found.append(
                Point(
                    run,
                    wall,
                    elapsed,
                    seconds,
                    copied,
                    round(copied * value * (0.8 + 0.4 * chance.random())),
                    None if position == 0 or not share else latency,
                    0.3e-3 + 1.1e-3 * chance.random() if target and share else None,
                    held,
                )
            )
    return tuple(found)


def content(keys: int, largest: tuple[LargeKey, ...] = ()) -> Content:
    """Five types, and sizes from some bytes to half a gigabyte."""
    shares = (("string", 0.62, 210), ("hash", 0.27, 640), ("zset", 0.08, 2900), ("stream", 0.03, 9))
    types = [
        TypeCount(name, round(keys * part), round(keys * part) * b) for name, part, b in shares
    ]
    types.append(TypeCount("list", 7, 3_400_000_000))
    sizes = []
    for bits in range(4, 30):
        number = round(keys * 0.28 * math.exp(-(((bits - 8) / 2.2) ** 2))) if bits < 22 else 1
        if number and bits != 20:
            sizes.append(SizeCount(1 << bits >> 1, (1 << bits) - 1, number))
    return Content(tuple(types), tuple(sizes), largest)


_LARGEST = tuple(
    LargeKey(number % 3, key, kind, 512_000_000 >> number)
    for number, (key, kind) in enumerate(
        zip(
            (*ODD_KEYS, b"queue:mail", b"board:2024", b"cart:77"),
            ("list", "hash", "stream", "string", "zset", "list", "set", "list", "zset", "hash"),
            strict=True,
        )
    )
)


def partitions(number: int, keys: int, done: int, nodes: int = 1) -> tuple[PartitionSummary, ...]:
    """Of a table cut into equal parts."""
    return tuple(
        PartitionSummary(
            f"10.0.0.{1 + n % nodes}:6379" if nodes > 1 else "",
            0,
            f"part {n / number:.4g} to {(n + 1) / number:.4g} of the table",
            Counts(copied=keys // number if n < done else keys // number // 3),
            n < done,
        )
        for n in range(number)
    )


def summary_of(series: tuple[Point, ...], counts: Counts) -> Summary:
    """A copy that went well, as fast as the series says."""
    seconds = series[-1].elapsed if series else 0.2
    return Summary(
        state="done",
        exit_code=0,
        job="nightly",
        runs=1,
        source=SOURCE,
        target=TARGET,
        source_version="redis 7.0.15",
        target_version="valkey 9.1.2",
        seconds=seconds,
        counts=counts,
        keys_per_second=counts.settled / seconds,
        bytes_per_second=counts.payload_bytes / seconds,
        failures_by_reason={},
        failures=(),
        dead_letters=None,
        source_keys_before=counts.settled,
        source_keys_after=counts.settled,
        target_keys_before=0,
        target_keys_after=counts.copied,
        missing=0,
        walked_again={},
        worker_restarts=0,
        left_behind=(),
        warnings=(),
        partitions=partitions(16, counts.copied, 16),
        held_seconds=held_seconds(series),
        content=content(counts.copied) if counts.copied else Content(),
    )


def verification_of(keys: int) -> Verification:
    """A comparison that found nothing."""
    return Verification(
        state="done",
        exit_code=0,
        source=SOURCE,
        target=TARGET,
        source_version="redis 7.0.15",
        target_version="valkey 9.1.2",
        seconds=keys / 140_000,
        counts=Counts(equal=keys, found=keys),
        keys_per_second=140_000.0,
        bytes_per_second=52_000_000.0,
        proof="by payloads and expiries, all keys",
        sample="",
        back="not needed",
        differences={},
        prefixes=(),
        differences_file=None,
        repaired=0,
        failures_by_reason={},
        failures=(),
        worker_restarts=0,
        warnings=(),
    )


def different(keys: int) -> Verification:
    """A comparison that found differences of every kind."""
    kinds = {"missing": 41, "extra": 7, "type": 1, "value": 212, "expiry": 39}
    return replace(
        verification_of(keys),
        exit_code=4,
        counts=Counts(equal=keys - 293, different=252, missing=41, extra=7, found=90, changing=5),
        back="walked",
        differences=kinds,
        prefixes=(
            PrefixDifferences("session:", {"value": 160, "expiry": 39}),
            PrefixDifferences("user:", {"missing": 41, "value": 52}),
            PrefixDifferences(EVIL.decode(), {"extra": 7, "type": 1}),
        ),
        differences_file="/var/lib/rumpx/nightly.differences.jsonl",
        warnings=("300 keys had changed again when they were looked at a second time.",),
    )


def record_of(series: tuple[Point, ...], summary: Summary, **changes: object) -> Record:
    """A job that has ended well in one run."""
    ended = BEGAN + summary.seconds
    run = RunRecord(
        1,
        BEGAN,
        VERSION,
        "redis 7.0.15",
        "valkey 9.1.2",
        ended,
        "done",
        0,
        seconds=summary.seconds,
        counts=summary.counts,
    )
    record = Record(
        "done", 0, 1.0, summary, _OPTIONS, _LIMITS, series, (run,), None, None, ended + 60, VERSION
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def plain() -> Record:
    """Copied without a hitch, then compared."""
    series = points([94], 1.0, 12_000, 380)
    copied = sum(point.keys for point in series)
    counts = Counts(copied=copied, payload_bytes=sum(point.payload_bytes for point in series))
    largest = (LargeKey(0, b"queue:mail", "list", 91_234_567), LargeKey(0, b"a", "hash", 812_345))
    summary = replace(summary_of(series, counts), content=content(copied, largest))
    verified = BEGAN + 3600
    return record_of(series, summary, verification=verification_of(copied), verified=verified)


def failures() -> tuple[dict[str, int], tuple[KeyFailure, ...]]:
    """Keys with odd names that failed for several reasons."""
    told = {
        "NOPERM": "User app has no permissions to access one of the keys used as arguments",
        "bad payload": "DUMP payload version or checksum are wrong",
        "busy key": "Target key name already exists.",
        "too large": "<b>string</b> exceeds maximum allowed size (proto-max-bulk-len) \x1b[31m!",
    }
    found = [
        KeyFailure(number % 4, key, reason, told[reason])
        for number, key in enumerate(ODD_KEYS)
        for reason in list(told)[number % 4 :][:1]
    ]
    found += [KeyFailure(0, f"user:{n}".encode(), "NOPERM", told["NOPERM"]) for n in range(80)]
    return {"NOPERM": 82, "bad payload": 2, "busy key": 2, "too large": 1}, tuple(found)


def throttled() -> Record:
    """Held by limits, interrupted, killed, gone on with; some keys failed, some differ."""
    series = points([900, 1500, 1320], 1.0, 9_000, 900, limit=5e-3, seed=3)
    copied = sum(point.keys for point in series)
    counts = Counts(copied, 1_234, 812, 5_120, 87, sum(point.payload_bytes for point in series))
    reasons, failed = failures()
    summary = replace(
        summary_of(series, counts),
        exit_code=3,
        runs=3,
        failures_by_reason=reasons,
        failures=failed,
        dead_letters="/var/lib/rumpx/nightly.failed.jsonl",
        missing=None,
        walked_again={"the source restarted": 2, "the target restarted": 1},
        worker_restarts=2,
        left_behind=("3 functions", "2 ACL users"),
        warnings=(
            "The source evicts keys (maxmemory-policy allkeys-lru), and reading them here resets "
            "their idle times.",
            "The clocks of both sides differ by 1.4 s: expiries are corrected by that.",
        ),
        partitions=partitions(128, copied, 128, nodes=3),
        content=content(copied, _LARGEST),
    )
    interrupted = RunRecord(
        1,
        BEGAN,
        VERSION,
        "redis 7.0.15",
        "valkey 9.1.2",
        BEGAN + 900,
        "stopped",
        130,
        "Stopped by SIGINT; rumpx resume nightly goes on from here.",
        900.0,
        Counts(copied=copied // 4),
    )
    killed = RunRecord(2, BEGAN + 6300, VERSION, "redis 7.0.15", "valkey 9.1.2")
    last = RunRecord(
        3,
        BEGAN + 13_200,
        VERSION,
        "redis 7.0.15",
        "valkey 9.1.2",
        BEGAN + 14_520,
        "done",
        3,
        "",
        summary.seconds,
        counts,
    )
    options = (
        *_OPTIONS[:3],
        Option("--max-source-latency", "5ms", True),
        Option("--max-target-latency", "10ms", True),
        Option("--schedule", "Mon-Fri 08:00-18:00 off", True),
        Option("--match", "session:*", True),
        Option("--match", EVIL.decode() + "*", True),
        *_OPTIONS[5:],
    )
    return record_of(
        series,
        summary,
        exit_code=3,
        options=options,
        limits=Limits(max_source_latency=5e-3, max_target_latency=10e-3),
        runs=(interrupted, killed, last),
        verification=different(copied),
        verified=BEGAN + 20_000,
    )


def unfinished(state: str) -> Record:
    """A copy at two fifths, which runs, was killed or stopped, or has failed."""
    series = points([420], 1.0, 20_000, 260, limit=5e-3, seed=5, target=False)
    copied = sum(point.keys for point in series)
    counts = Counts(copied=copied, gone=12, payload_bytes=sum(p.payload_bytes for p in series))
    errors = {
        "failed": "The target cache.prod.example.com:6380 is out of memory (OOM) for 600 s: "
        "enlarge its maxmemory, then go on.",
        "stopped": "Stopped by SIGTERM.",
    }
    ended = state in errors
    summary = replace(
        summary_of(series, counts),
        state={"running": "copying", "failed": "failed"}.get(state, "stopped"),
        exit_code={"failed": 5, "stopped": 143}.get(state, 0),
        missing=None,
        source_keys_after=None,
        target_keys_after=None,
        error=errors.get(state, ""),
        partitions=partitions(16, copied, 6),
    )
    run = RunRecord(1, BEGAN, VERSION, "redis 7.0.15", "valkey 9.1.2")
    if ended:
        run = replace(
            run,
            ended=BEGAN + summary.seconds,
            state=state,
            exit_code=summary.exit_code,
            error=errors[state],
            seconds=summary.seconds,
            counts=counts,
        )
    return record_of(
        series,
        summary,
        state=state,
        exit_code=summary.exit_code if ended else None,
        fraction=0.4139,
        runs=(run,),
    )


def followed(state: str, follow: FollowStat) -> Record:
    """A copy of a minute that has followed its source for an hour since: it runs, was stopped or
    killed, has failed, or was cut over ("done")."""
    series = tuple(
        replace(point, lag=0.002 + 0.001 * (n % 7) if point.run == 2 else None)
        for n, point in enumerate(points([60, 3540], 1.0, 2_000, 260, seed=9))
    )
    copied = sum(point.keys for point in series if point.run == 1)
    counts = Counts(copied=copied, gone=12, payload_bytes=260 * copied, failed=follow.failed)
    error = {"failed": "The target is out of memory (OOM).", "stopped": "Stopped by a signal."}
    code = {"failed": 5, "stopped": 130, "done": 0}.get(state)
    summary = replace(
        summary_of(series, counts),
        state={"running": "copying", "killed": "stopped"}.get(state, state),
        exit_code=code or 0,
        runs=2,
        missing=None,
        source_keys_after=None,
        target_keys_after=None,
        error=error.get(state, ""),
        follow=follow,
    )
    first = RunRecord(
        1,
        BEGAN,
        VERSION,
        "redis 7.0.15",
        "valkey 9.1.2",
        BEGAN + 60,
        "stopped",
        130,
        "Stopped by a signal.",
        60.0,
        counts,
    )
    run = RunRecord(2, BEGAN + 5460, VERSION, "redis 7.0.15", "valkey 9.1.2")
    if code is not None:
        run = replace(
            run,
            ended=BEGAN + 9000,
            state=state,
            exit_code=code,
            error=summary.error,
            seconds=summary.seconds,
            counts=counts,
            follow=follow,
        )
    return record_of(
        series,
        summary,
        state=state,
        exit_code=code,
        runs=(first, run),
        written=GAP_AT + 100_000,
    )


def cut_over(*, not_carried: int = 0) -> Record:
    """A follow that has ended as it should."""
    steps = ("waiting until the target is in step", "comparing 12,345 keys", "closing connections")
    told = ("All that the source acknowledged before 03:12:05 is on the target.", "Switch now.")
    cutover = CutoverFacts(
        GAP_AT + 99_000,
        tuple(CutoverStep(GAP_AT + 99_000 + n, text) for n, text in enumerate(steps)),
        "switch now",
        told,
        proven=GAP_AT + 99_002,
        not_carried=not_carried,
    )
    return followed("done", make_follow(cutover=cutover, failed=not_carried))


def empty() -> Record:
    """Nothing to copy."""
    summary = replace(summary_of((), Counts()), keys_per_second=0.0, partitions=())
    return record_of((), summary)


def comparison() -> Record:
    """A comparison of two servers that belongs to no job."""
    series = points([61], 1.0, 140_000, 370)
    result = replace(
        different(sum(point.keys for point in series)),
        seconds=61.0,
        failures_by_reason={"NOPERM": 2},
        failures=(KeyFailure(0, EVIL, "NOPERM", "no"), KeyFailure(1, b"k", "NOPERM", "no")),
    )
    result = replace(result, counts=replace(result.counts, failed=2))
    return Record(
        "done", 4, 1.0, result, _OPTIONS[:3], _LIMITS, series, (), None, None, BEGAN + 99, VERSION
    )


def long() -> Record:
    """A week, with as many points as there can be, and a new run each day."""
    series = points([514] * 6 + [516], 168.0, 3_000, 420, limit=5e-3, seed=7)
    copied = sum(point.keys for point in series)
    counts = Counts(copied=copied, payload_bytes=sum(point.payload_bytes for point in series))
    reasons, failed = failures()
    summary = replace(
        summary_of(series, counts),
        runs=7,
        failures_by_reason=reasons,
        failures=failed,
        exit_code=3,
        warnings=tuple(f"The source was lost for {n} s and is there again." for n in range(40)),
        partitions=partitions(512, copied, 512, nodes=64),
        content=content(copied, _LARGEST),
    )
    runs = tuple(
        RunRecord(
            n,
            BEGAN + 90_000 * n,
            VERSION,
            "redis 7.0.15",
            "valkey 9.1.2",
            BEGAN + 90_000 * n + 86_352,
            "stopped" if n < 7 else "done",
            130 if n < 7 else 3,
            "Stopped by SIGINT." if n < 7 else "",
            86_352.0 * n,
            Counts(copied=copied * n // 7),
        )
        for n in range(1, 8)
    )
    summary = replace(summary, counts=replace(counts, failed=87))
    return record_of(series, summary, exit_code=3, runs=runs)


def brief() -> Record:
    """Over in half a second, with a single point and no latency."""
    series = (Point(1, BEGAN + 0.5, 0.5, 0.5, 900, 81_000),)
    return record_of(series, summary_of(series, Counts(copied=900, payload_bytes=81_000)))


def hostile() -> Record:
    """Every text that is not rumpx's own wants to be a script, and to steer a terminal. (A job's
    name and a proof's words are its own.)"""
    evil = EVIL.decode() + "\x1b[2J\r\n\u202e"
    record = throttled()
    assert isinstance(record.summary, Summary)
    failure = KeyFailure(0, evil.encode(), evil, evil)
    verification = replace(
        different(1000),
        prefixes=(PrefixDifferences(evil, {"value": 1}),),
        differences_file=evil,
        failures_by_reason={evil: 1},
        failures=(failure,),
        warnings=(evil,),
    )
    summary = replace(
        record.summary,
        source=evil,
        target=evil,
        source_version=evil,
        target_version=evil,
        failures_by_reason={evil: 87},
        failures=(failure,),
        dead_letters=evil,
        walked_again={evil: 1},
        left_behind=(evil,),
        warnings=(evil,),
        partitions=(PartitionSummary(evil, 0, evil, Counts(copied=1), True),),
        error=evil,
        content=Content(
            (TypeCount(evil, 1, 1),), (SizeCount(1, 1, 1),), (LargeKey(0, evil.encode(), evil, 1),)
        ),
    )
    run = replace(record.runs[0], error=evil, version=evil)
    point = Point(1, BEGAN, 1.0, 1.0, 1, 1, 0.1, 0.1, {evil: 0.5})
    return replace(
        record,
        summary=summary,
        options=(Option(evil, evil, True), Option(evil, evil, False)),
        points=(point,),
        runs=(run,),
        verification=verification,
        version=evil,
    )


def all_records() -> Iterator[tuple[str, Record]]:
    """Each by its name."""
    yield from (("plain", plain()), ("throttled", throttled()), ("empty", empty()))
    yield from ((state, unfinished(state)) for state in ("running", "killed", "stopped", "failed"))
    yield from (("comparison", comparison()), ("long", long()), ("brief", brief()))
    troubles = {"held_deletes": 3000, "failed": 3, "incomparable": 2, "lossy": 5, "gaps": 31}
    waiting = make_follow("reconciling", waits_for=WAITS, **troubles)
    yield from (
        ("follow", followed("running", make_follow())),
        ("stopped follow", followed("stopped", waiting)),
        ("cutover", cut_over()),
    )
