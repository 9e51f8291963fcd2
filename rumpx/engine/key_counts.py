"""An independent check by numbers: does the target's growth account for the source's keys?

If no filter narrows the scope and the target's databases were empty, the target holds each key
once, however often it was copied. So

    missing = min(source keys before, after) - (target's growth + gone + failed) - churn

where churn is the sum of all other causes of a difference: the change in the source's size, keys
that expired or were evicted on the source, and keys and fields that expired on the target. A number
above zero is suspicious.

Servers count expired keys until they remove them, which they do slowly, on replicas only when their
primary does, and not at all while writes are paused; but SCAN does not return such keys (Redis 6.2,
7.0 and 8.2, Valkey 8.1 and 9.1). So a missing number is first compared with the keys that SCAN
returns on the source, names only (`count_shown`). If keys are still missing, the user is warned,
and the source is walked once more.

Not promised: that a lost key is noticed while as many others are written and deleted during the
copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rumpx.engine.plan import Plan
from rumpx.engine.scanner import ScanSettings, walk
from rumpx.errors import RumpxError
from rumpx.model.counts import Counts
from rumpx.model.nodes import Topology
from rumpx.model.partitions import Partition
from rumpx.servers.connections import select
from rumpx.servers.dial import Dialer
from rumpx.servers.info import ServerInfo, read_info
from rumpx.servers.replicas import read_identity
from rumpx.servers.side import SideFacts
from rumpx.throttle.scan_gate import Gate, GateClosed


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over all primaries of one side: keys in some databases; keys ever expired and evicted,
    and fields ever expired; the last field of a hash removes the hash."""

    keys: int
    expired: int
    evicted: int
    expired_fields: int = 0


@dataclass(frozen=True, slots=True)
class Census:
    """Both sides at one moment; None for a side of which a primary refuses INFO."""

    source: Tally | None
    target: Tally | None


def take_census(plan: Plan) -> Census:
    """Return the counts of both sides now.

    Raises:
        ConnectionLost: a primary does not answer.
    """
    source_databases = {place.db for place in plan.databases}
    return Census(
        _tally(plan.source, source_databases), _tally(plan.target, set(plan.target_databases))
    )


def _tally(side: SideFacts, databases: set[int]) -> Tally | None:
    infos = read_infos(side.dialer, side.primaries_now())
    if None in infos:
        return None
    known = [info for info in infos if info]
    return Tally(
        sum(count for info in known for db, count in info.keys.items() if db in databases),
        sum(info.expired_keys for info in known),
        sum(info.evicted_keys for info in known),
        sum(info.expired_fields for info in known),
    )


def read_infos(dialer: Dialer, topology: Topology) -> list[ServerInfo | None]:
    """Return INFO of each primary of a topology; None if it is refused.

    Raises:
        ConnectionLost: a primary does not answer.
    """
    infos = []
    for node in topology.nodes:
        connection = dialer.connect(node.address)
        try:
            infos.append(read_info(connection))
        finally:
            connection.close()
    return infos


def missing_keys(plan: Plan, before: Census, after: Census, counts: Counts) -> int | None:
    """Return the number of keys that the target lacks; None if the rule does not apply."""
    sides = before.source, before.target, after.source, after.target
    source_before, target_before, source_after, target_after = sides
    if not (source_before and target_before and source_after and target_after):
        return None
    if plan.spec.scope.filtered or target_before.keys:
        return None
    churn = (
        abs(source_after.keys - source_before.keys)
        + _grown(source_before.expired, source_after.expired)
        + _grown(source_before.evicted, source_after.evicted)
        + _grown(target_before.expired, target_after.expired)
        + _grown(target_before.expired_fields, target_after.expired_fields)
    )
    expected = min(source_before.keys, source_after.keys)
    found = target_after.keys + counts.gone + counts.failed
    return max(0, expected - found - churn)


def count_shown(
    settings: ScanSettings, gate: Gate, partitions: Iterable[Partition]
) -> int | None:
    """Return how many keys SCAN returns for whole databases; more while a table grows. None if that
    is unknown now."""
    shown = 0
    try:
        for partition in partitions:
            connection = settings.dialer.connect(partition.node.address)
            try:
                select(connection, partition.db, partition.side)
                begun = read_identity(connection, partition.node)
                for keys, _ in walk(connection, partition, 0, settings, gate):
                    shown += len(keys)
                if read_identity(connection, partition.node) != begun:
                    return None
            finally:
                connection.close()
    except (RumpxError, GateClosed):
        return None
    return shown


def _grown(before: int, after: int) -> int:
    """Return the growth of a counter that restarts at zero with its server."""
    return after - before if after >= before else after
