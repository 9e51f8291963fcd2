"""Scenario `parsing`: the hot loops by themselves, in µs a key; no server.

All variants that were tried for `rumpx.servers.resp`, including those that lost. For reads a
pipeline of DUMP and PEXPIRETIME, plain and in MULTI groups of 50; for writes RESTORE, 30 % with an
expiry. The best of several repeats counts, since noise only adds.
"""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import hiredis

from benchmarks.measure import Options, Report
from rumpx.demo import SEED
from rumpx.servers.resp import RestoreEncoder, encode, encode_dumps_and_expiries

_REPEATS: Final = 7
_NOTHING: Final = object()
_GROUP: Final = 50
_FILLING: Final = b"$1024\r\n" + b"." * 1024 + b"\r\n"
_EXPIRING: Final = b"*6\r\n$7\r\nRESTORE\r\n$%d\r\n%b\r\n$%d\r\n%d\r\n$%d\r\n%b\r\n"
_READ: Final = b"*2\r\n$4\r\nDUMP\r\n$%d\r\n%b\r\n*2\r\n$11\r\nPEXPIRETIME\r\n$%d\r\n%b\r\n"
_OPTIONS: Final = b"$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"


def run(options: Options) -> Report:
    """Time each way for pipelines of 200 and of 1,000 keys."""
    rows = []
    figures: dict[str, dict[str, float]] = {}
    for keys in (200, 1000):
        for name, way in _ways(keys).items():
            times = timeit.repeat(way, number=max(1, 20_000 // keys), repeat=_REPEATS)
            figures.setdefault(name, {})[str(keys)] = min(times) / max(1, 20_000 // keys) / keys
    for name, by_length in figures.items():
        rows.append((name, *(f"{1e6 * seconds:.3f}" for seconds in by_length.values())))
    base = figures["parse: one by one"]
    return Report(
        title="Hot loops, µs a key, by the length of the pipeline",
        columns=("way", "200 keys", "1,000 keys"),
        rows=rows,
        ratios={
            f"one by one / as one array, {keys} keys": base[keys] / seconds
            for keys, seconds in figures["parse: as one array (used)"].items()
        },
        data={"seconds": figures},
    )


def _ways(number: int) -> dict[str, Callable[[], Any]]:
    chance = random.Random(SEED)
    keys = [b"user:%d:profile" % (n * 7919) for n in range(number)]
    payloads = [chance.randbytes(chance.randint(15, 300)) for _ in keys]
    expiries = [-1 if chance.random() < 0.7 else chance.randint(10**12, 2 * 10**12) for _ in keys]
    pairs = [
        b"$%d\r\n%b\r\n:%d\r\n" % (len(payload), payload, expiry)
        for payload, expiry in zip(payloads, expiries, strict=True)
    ]
    plain = b"".join(pairs)
    groups = b"".join(
        b"+OK\r\n"
        + b"+QUEUED\r\n" * 2 * _GROUP
        + b"*%d\r\n" % (2 * _GROUP)
        + b"".join(pairs[n : n + _GROUP])
        for n in range(0, number, _GROUP)
    )
    grouped = number // _GROUP * (2 * _GROUP + 2)
    encoder = RestoreEncoder(replace=True, absolute=True)
    return {
        "parse: one by one": lambda: _one_by_one(plain, 2 * number),
        "parse: as one array (used)": lambda: _as_one_array(plain, 2 * number),
        "parse: MULTI groups, one by one": lambda: _one_by_one(groups, grouped),
        "parse: MULTI groups, as one array (used)": lambda: _as_one_array(groups, grouped),
        "reads: a general packer": lambda: b"".join(
            encode(name, key) for key in keys for name in ("DUMP", "PEXPIRETIME")
        ),
        "reads: one format a key": lambda: b"".join(
            [_READ % (len(key), key, len(key), key) for key in keys]
        ),
        "reads: laid out by strides (used)": lambda: encode_dumps_and_expiries(keys),
        "writes: a general packer": lambda: b"".join(
            encode("RESTORE", key, max(expiry, 0), payload, "REPLACE", "ABSTTL")
            for key, payload, expiry in zip(keys, payloads, expiries, strict=True)
        ),
        "writes: one format a key": lambda: _formatted(keys, payloads, expiries),
        "writes: laid out by strides (used)": lambda: encoder.encode(keys, payloads, expiries),
    }


def _one_by_one(raw: bytes, replies: int) -> list[Any]:
    parser = hiredis.Reader(notEnoughData=_NOTHING)
    parser.feed(raw)
    return list(islice(iter(parser.gets, _NOTHING), replies))


def _as_one_array(raw: bytes, replies: int) -> Any:
    parser = hiredis.Reader(notEnoughData=_NOTHING)
    parser.feed(b"*%d\r\n" % (replies + 1) + _FILLING)
    parser.feed(raw)
    return parser.gets()


def _formatted(keys: list[bytes], payloads: list[bytes], expiries: list[int]) -> bytes:
    template = _EXPIRING + _OPTIONS
    return b"".join(
        [
            template % (len(key), key, 1 if expiry < 0 else 13, max(expiry, 0), len(load), load)
            for key, load, expiry in zip(keys, payloads, expiries, strict=True)
        ]
    )
