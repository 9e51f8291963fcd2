"""Filters of a walk: by SCAN's own options, and on the keys that it returns.

One `--match` or a prefix is pushed down to SCAN, one `--type` likewise if the server has SCAN …
TYPE; all else is decided here, on the key's bytes or by asking TYPE. Returned keys are checked
against `--match` and prefix all the same; not against a type that was pushed down: only the same
server could be asked for it again, and it may change until the key is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rumpx.errors import Side
from rumpx.model.job import Scope
from rumpx.model.partitions import Partition
from rumpx.model.slots import key_slot
from rumpx.servers.globs import compile_glob, escape
from rumpx.servers.replies import malformed
from rumpx.servers.resp import Argument, Connection, Reply
from rumpx.servers.topology import is_error
from rumpx.throttle.scan_gate import Gate
from rumpx.values.shapes import fits

NameTest = Callable[[bytes], object]


def name_tests(scope: Scope) -> list[NameTest]:
    """Return the tests that the names of keys in scope pass."""
    tests: list[NameTest] = []
    if scope.match:
        tests.append(_any_glob(scope.match))
    if scope.exclude:
        unwanted = [compile_glob(glob).fullmatch for glob in scope.exclude]
        tests.append(lambda key: not any(match(key) for match in unwanted))
    return tests


def _any_glob(globs: Sequence[bytes]) -> NameTest:
    # A single one was SCAN's MATCH: the server has decided by its own order of bytes, which is
    # unknown here. Both orders are nearly always the same pattern.
    orders = (True, False) if len(globs) == 1 else (True,)
    patterns = {compile_glob(glob, signed=signed) for glob in globs for signed in orders}
    wanted = [pattern.fullmatch for pattern in patterns]
    return wanted[0] if len(wanted) == 1 else lambda key: any(match(key) for match in wanted)


def key_filter(partition: Partition, scope: Scope, sample: float = 1.0) -> NameTest | None:
    """Return the test of a walk's keys by their bytes; None if it keeps every key.

    Args:
        sample: the part of the keys to keep, 0.0 to 1.0.
    """
    tests = name_tests(scope)
    if (prefix := partition.prefix) is not None:
        tests.append(lambda key: key.startswith(prefix))
    if partition.beside:
        tests.append(lambda key: not key.startswith(partition.beside))
    if (slots := partition.slots) is not None:
        tests.append(lambda key: key_slot(key) in slots)
    if sample < 1.0:
        # Python's hash of bytes has a new key in each process: a random choice, but the same for
        # both sides.
        below = int(sample * 2**32)
        tests.append(lambda key: hash(key) & 0xFFFFFFFF < below)
    if len(tests) < 2:
        return tests[0] if tests else None
    return lambda key: all(test(key) for test in tests)


def scan_options(partition: Partition, scope: Scope, *, scan_type: bool) -> list[Argument]:
    """Return the options by which SCAN filters; `scan_type`: the server knows SCAN … TYPE."""
    options: list[Argument] = []
    if partition.prefix is not None:
        options += ["MATCH", escape(partition.prefix) + b"*"]
    elif len(scope.match) == 1:
        options += ["MATCH", scope.match[0]]
    if len(scope.types) == 1 and scan_type:
        options += ["TYPE", scope.types[0]]
    return options


def of_types(
    connection: Connection, side: Side, keys: list[bytes], types: tuple[str, ...], gate: Gate
) -> list[bytes]:
    """Ask for the type of each key; return the keys of some types.

    Raises:
        GateClosed: the run ends.
        SourceUnusable, TargetUnusable: a reply does not fit TYPE.
    """
    wanted = {name.lower().encode() for name in types}
    replies: list[Reply] = []
    while (done := len(replies)) < len(keys):
        with gate.asking() as number:
            replies += connection.call_many([("TYPE", key) for key in keys[done : done + number]])
    if not all(is_error(reply) or fits("TYPE", reply) for reply in replies):
        raise malformed(side, connection.name, "TYPE")
    return [
        key
        for key, reply in zip(keys, replies, strict=True)
        if isinstance(reply, bytes) and reply.lower() in wanted
    ]
