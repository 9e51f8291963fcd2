"""Settings of workers and scanners."""

from __future__ import annotations

from collections.abc import Mapping

from rumpx.engine.plan import Policy
from rumpx.engine.scanner import ScanSettings
from rumpx.model.endpoint import Address
from rumpx.model.job import Job, Scope
from rumpx.model.option_kinds import whole_bytes
from rumpx.model.partitions import NodeKeys
from rumpx.model.tuning import Tuning, tune, worker_count
from rumpx.processes.machine import usable_cores
from rumpx.servers.rdb import Dialect
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error
from rumpx.transfer.dump_reader import Abilities
from rumpx.transfer.spec import WorkerSpec

Dialects = Mapping[Address | None, Dialect]


def tune_to_distance(
    job: Job,
    source: SideFacts,
    target: SideFacts,
    databases: list[NodeKeys],
    partitions: int,
    threads: int,
) -> Tuning:
    """Return settings that fit the number of nodes and the round trips to both sides; `partitions`
    of 0 chooses; `threads` are those of other machines, 0 if this one does the work."""
    nodes = min(len(source.infos), len(target.infos))
    encrypted = any(side.dialer.endpoint.tls for side in (source, target))
    return tune(
        source.clock.round_trip,
        target.clock.round_trip,
        keys=sum(place.keys for place in databases),
        workers=threads or job.workers or worker_count(nodes, usable_cores(), encrypted=encrypted),
        nodes=len(source.topology.nodes),
        batch_keys=job.batch_keys,
        partitions=partitions,
        latency_limit=job.limits.tightest_latency,
        walks=threads,
    )


def worker_spec(
    job: Job,
    source: SideFacts,
    target: SideFacts,
    databases: list[NodeKeys],
    scope: Scope,
    abilities: Abilities,
    policy: Policy,
    tuning: Tuning,
    shift: int,
    *,
    absttl: bool,
    in_line: bool,
    dialects: Dialects,
) -> WorkerSpec:
    """Return the settings of a copying worker; `in_line` as by `frees_in_line`."""
    return WorkerSpec(
        source.dialer,
        target.dialer,
        source.topology,
        target.topology,
        abilities,
        tuple(sorted({place.db for place in databases})),
        scope,
        policy,
        tuning.pipeline_keys,
        bytes_for_worker(job, source, tuning.workers),
        job.stream_from,
        whole_bytes(job.hot_keys, "--hot-keys"),
        tuning.batches_in_flight,
        job.retry_for,
        source.clock.offset,
        target.clock.offset,
        shift,
        absttl,
        job.stream_from if in_line and job.size_check else None,
        tuple(dialects.items()),
        job.field_expiries,
        beside_server=source.local or target.local,
    )


def scan_settings(job: Job, side: SideFacts, scope: Scope, sample: float = 1.0) -> ScanSettings:
    """Return the settings of a side's scanners."""
    return ScanSettings(
        side.dialer,
        scope,
        job.retry_for,
        knows_scan_type(side, scope.types),
        sample,
    )


def bytes_for_worker(job: Job, source: SideFacts, workers: int) -> int:
    """Return one worker's byte budget: reply buffers count toward the source's maxmemory, so all
    workers together stay below a quarter of its free memory."""
    room = [
        (info.max_memory - info.used_memory) // (4 * workers)
        for info in source.infos.values()
        if info and info.max_memory
    ]
    return max(2**16, min([job.max_bytes_in_flight, *room]))


def knows_scan_type(source: SideFacts, types: tuple[str, ...]) -> bool:
    """Return True if SCAN … TYPE (≥ 6.0) can filter by the one type in scope."""
    if len(types) != 1:
        return False
    with connected(source.dialer, source.topology.nodes[0].address) as connection:
        return not is_error(connection.call("SCAN", 0, "COUNT", 1, "TYPE", types[0]))
