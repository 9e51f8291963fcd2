"""Commands that both sides allow a copy, found by calling them as the copy does.

Reads are tried on a key in scope: the first key that the user may read, found by at most `SCANS`
SCANs with the copy's own filters. NOPERM for a key does not count as a refused command. Writes are
tried by a RESTORE with the copy's own options and a TTL that the server rejects only after the
syntax and all permissions.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Literal

from rumpx.engine.filters import name_tests
from rumpx.engine.scanner import scanned
from rumpx.errors import ConnectionLost, Side, TargetFull, TargetUnusable, TemporaryError
from rumpx.model.endpoint import Address
from rumpx.model.job import Job, Scope
from rumpx.model.nodes import Node
from rumpx.model.partitions import NodeKeys
from rumpx.preflight.worker_spec import knows_scan_type
from rumpx.servers.replies import (
    Kind,
    classify,
    denial,
    key_refused,
    refused,
    wrong_syntax,
)
from rumpx.servers.resp import Argument, Command, Connection, Reply
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error
from rumpx.transfer.dump_reader import Abilities, Expiry, no_clock, no_multi
from rumpx.transfer.size_reader import no_memory_usage, no_sizes

SCANS: Final = 20
_SCAN_COUNT: Final = 250
# Keys tried from one SCAN reply.
_KEYS_TRIED: Final = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """A key of the source in scope, or a placeholder name if no key was found."""

    node: Address | None
    db: int
    key: bytes


def unguessable() -> bytes:
    """Return a random name that no key has."""
    return b"rumpx:check:" + secrets.token_hex(16).encode()


def readable_key(
    connection: Connection, side: Side, scope: Scope, scan_type: bool, scans: int
) -> tuple[bytes | None, bytes | None, int]:
    """Find a key in scope that the user may read.

    Returns:
        That key; a key in scope that the user may not read; and the number of SCANs used.
    """
    options: list[Argument] = []
    if len(scope.match) == 1:
        options += ["MATCH", scope.match[0]]
    if len(scope.types) == 1 and scan_type:
        options += ["TYPE", scope.types[0]]
    tests = name_tests(scope)
    cursor, closed = 0, None
    for number in range(1, scans + 1):
        reply = connection.call("SCAN", cursor, "COUNT", _SCAN_COUNT, *options)
        if not isinstance(reply, list):
            refuse_command(side, connection, "SCAN", reply)
            return None, closed, number
        cursor, found = scanned(connection, side, reply)
        names = [name for name in found if all(test(name) for test in tests)]
        for name, denied in _tried(connection, names[:_KEYS_TRIED], scope):
            if not denied:
                return name, closed, number
            closed = closed or name
        if not cursor:
            break
    return None, closed, number


def _tried(
    connection: Connection, names: list[bytes], scope: Scope
) -> Iterator[tuple[bytes, bool]]:
    """Yield the names whose types are in scope, each with whether the key is refused."""
    wanted = {name.lower().encode() for name in scope.types}
    kinds = connection.call_many([("TYPE", name) for name in names]) if wanted else names
    lefts = connection.call_many([("PTTL", name) for name in names])
    for name, kind, left in zip(names, kinds, lefts, strict=True):
        fits = isinstance(kind, bytes) and kind.lower() in wanted
        if not wanted or key_refused(kind) or fits:
            yield name, key_refused(left)


def refuse_command(side: Side, connection: Connection, command: str, reply: Reply) -> None:
    """Raise if a reply means that the server will never allow a command."""
    verdict = classify(reply)
    if verdict.kind is Kind.PERMANENT:
        raise denial(side, connection.name, command, reply)
    if verdict.kind is Kind.TEMPORARY:
        raise TemporaryError(f"The {side} at {connection.name} is not ready: {reply!s}.")


def restore_options(*, replace: bool, absttl: bool) -> list[Argument]:
    """Return the options at the end of a copy's RESTORE."""
    return [name for name, given in (("REPLACE", replace), ("ABSTTL", absttl)) if given]


def no_restore(key: bytes, *, replace: bool, absttl: bool = True) -> tuple[Argument, ...]:
    """Return a RESTORE that fails for its TTL, after the syntax and all permissions."""
    return ("RESTORE", key, -1, b"x", *restore_options(replace=replace, absttl=absttl))


def refuses_absttl(connection: Connection, key: bytes) -> bool:
    """Return True if RESTORE rejects ABSTTL as unknown; False if it is refused or not answered (as
    while writes are paused). Writes nothing."""
    try:
        return wrong_syntax(connection.call(*no_restore(key, replace=True)))
    except ConnectionLost as error:
        if error.silent:
            return False
        raise


def takes_absttl(connection: Connection, key: bytes, *, replace: bool) -> bool:
    """Return True if RESTORE accepts ABSTTL (Redis 5.0 and later); writes nothing.

    Raises:
        TargetUnusable, TargetFull, TemporaryError: RESTORE cannot be called.
    """
    reply = connection.call(*no_restore(key, replace=replace))
    absttl = not wrong_syntax(reply)
    if not absttl:
        reply = connection.call(*no_restore(key, replace=replace, absttl=False))
        if replace and wrong_syntax(reply):
            raise TargetUnusable(
                f"The target at {connection.name} has no RESTORE … REPLACE (it needs Redis 3.0): "
                "copy to a newer server, or use --on-conflict skip or fail."
            )
    text = str(reply)
    if text.startswith("READONLY"):
        raise TargetUnusable(
            f"The target at {connection.name} is read-only: {text} Give its primary."
        )
    if text.startswith("OOM"):
        raise TargetFull(
            f"The target at {connection.name} is already out of memory: {text} Raise its maxmemory."
        )
    refuse_command("target", connection, "RESTORE", reply)
    return absttl


# Values above this size are not read to try permissions.
_LARGEST_TRIED: Final = 2**20

# While writes are paused the server does not answer even an invalid RESTORE.
_PROBE_SECONDS: Final = 1.0
_LAZY: Final = b"lazyfree-lazy-server-del"
_PROBES: Final = 64  # at the same time

NO_ABSTTL: Final = (
    "The target's RESTORE has no ABSTTL (it needs Redis 5.0): expiries are written as remaining "
    "TTLs, on the target's clock, and are extended by the network delay."
)


def find_sample(side: SideFacts, databases: list[NodeKeys], scope: Scope) -> Sample:
    """Return a key in scope to try permissions on, if possible one that the user may read."""
    scans, closed = SCANS, None
    scan_type = knows_scan_type(side, scope.types) if databases else False
    for number, place in enumerate(databases):
        if not scans:
            break
        with connected(side.dialer, place.node.address, place.db) as connection:
            share = max(1, scans // (len(databases) - number))
            key, refused_key, taken = readable_key(
                connection, side.dialer.side, scope, scan_type, share
            )
            scans -= taken
        if key is not None:
            return Sample(place.node.address, place.db, key)
        if refused_key is not None and closed is None:
            closed = Sample(place.node.address, place.db, refused_key)
    return closed or Sample(side.topology.nodes[0].address, 0, b"rumpx")


def find_abilities(
    job: Job, facts: SideFacts, sample: Sample, warnings: list[str]
) -> Abilities:
    """Try the commands that reads need, and the optional ones, on one key."""
    side = facts.dialer.side
    with connected(facts.dialer, sample.node, sample.db) as connection:
        size = connection.call("MEMORY", "USAGE", sample.key, "SAMPLES", 1)
        # The server may be unable to send a large value: use a placeholder name.
        large = isinstance(size, int) and size > _LARGEST_TRIED
        dumped = replace(sample, key=b"rumpx") if large else sample
        for command, key in (("SCAN", b"0"), ("DUMP", dumped.key), ("PTTL", sample.key)):
            reply = connection.call(command, key)
            if is_error(reply):
                refuse_command(side, connection, command, reply)
        expiry: Expiry = "instant"
        reply = connection.call("PEXPIRETIME", sample.key)
        if is_error(reply) and refused(reply):
            expiry = "clock" if isinstance(connection.call("TIME"), list) else "left"
            if expiry == "left":
                warnings.append(no_clock(side))
        sizes = _sizes(job, side, connection, sample, warnings)
    multi = not facts.topology.cluster and _allows_multi(facts, dumped, expiry)
    if not multi and not facts.topology.cluster:
        warnings.append(no_multi(side))
    return Abilities(expiry, multi, sizes, _knows_distributions(facts))


def _knows_distributions(facts: SideFacts) -> bool:
    """Return True if a node may have INFO's section `keysizes`: Redis 8.0 and later."""
    infos = [info for info in facts.infos.values() if info]
    return any(info.flavour == "redis" and info.version >= (8,) for info in infos)


def _allows_multi(facts: SideFacts, sample: Sample, expiry: Expiry) -> bool:
    """Return True if a transaction runs with the reads of a copy in it. If the user may not read
    the sample, which aborts it, try an empty one. Use a separate connection: one that refuses EXEC
    stays inside its MULTI."""
    second = "PEXPIRETIME" if expiry == "instant" else "PTTL"
    group: list[Command] = [("MULTI",), ("DUMP", sample.key), (second, sample.key), ("EXEC",)]
    if expiry == "clock":
        group.insert(2, ("TIME",))
    with connected(facts.dialer, sample.node, sample.db) as connection:
        replies = connection.call_many(group)
        if any(is_error(reply) and key_refused(reply) for reply in replies):
            replies = connection.call_many([("MULTI",), ("EXEC",)])
        return isinstance(replies[-1], list)


def _sizes(
    job: Job, side: Side, connection: Connection, sample: Sample, warnings: list[str]
) -> Literal["memory", "length", "none"]:
    if not job.size_check:
        return "none"
    if not refused(connection.call("MEMORY", "USAGE", sample.key, "SAMPLES", 1)):
        return "memory"
    if not refused(connection.call("TYPE", sample.key)):
        warnings.append(no_memory_usage(side))
        return "length"
    warnings.append(no_sizes(side))
    return "none"


def prove_restore(target: SideFacts, sample: Sample, *, replace: bool) -> bool:
    """Return True if each primary of the target accepts RESTORE … ABSTTL; see the module."""
    takes = True
    for node in target.topology.nodes:
        with connected(target.dialer, node.address) as connection:
            takes &= takes_absttl(connection, sample.key, replace=replace)
    return takes


def frees_in_line(target: SideFacts) -> bool:
    """Return True unless each primary of the target frees a value that RESTORE … REPLACE replaces
    in the background: Valkey's default, and a setting of Redis. One that refuses CONFIG may not."""
    for node in target.topology.nodes:
        with connected(target.dialer, node.address) as connection:
            if connection.call("CONFIG", "GET", _LAZY) != [_LAZY, b"yes"]:
                return True
    return False


def lacks_absttl(target: SideFacts, sample: Sample) -> bool:
    """Return True if a primary of the target is known to reject RESTORE … ABSTTL. All of them are
    asked at the same time, since one that pauses writes does not answer."""
    dialer = replace(target.dialer, timeout=_PROBE_SECONDS)

    def refuses(node: Node) -> bool:
        with connected(dialer, node.address) as connection:
            return refuses_absttl(connection, sample.key)

    nodes = target.topology.nodes
    with ThreadPoolExecutor(min(len(nodes), _PROBES)) as threads:
        return any(threads.map(refuses, nodes))
