"""Requirements of a copy on both sides: each check refuses or warns."""

from __future__ import annotations

import resource
from typing import Final

from rumpx.errors import Side, SourceUnusable, TargetUnusable, unusable
from rumpx.model.endpoint import Address, format_address
from rumpx.model.job import Job
from rumpx.preflight.draft import Draft
from rumpx.preflight.look import unfit
from rumpx.servers.info import ServerInfo
from rumpx.servers.side import SideFacts
from rumpx.servers.tls import flag_of
from rumpx.servers.topology import unserved_slots

# On an evicting source this full, a copy's reply buffers could cause evictions.
_NEARLY_FULL: Final = 0.9
_SKEW_WARN_MS: Final = 1_000
_SKEW_REFUSE_MS: Final = 60_000
# Open files of a process that do not grow with workers or nodes.
_OTHER_FILES: Final = 96


def files_needed(workers: int, nodes: int) -> int:
    """Return the open files of the process that needs most: the coordinator holds two per worker,
    the prober three per server."""
    return _OTHER_FILES + max(2 * workers, 3 * nodes)


def check_open_files(draft: Draft) -> None:
    """Refuse if this machine's limit of open files per process is too low."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    workers = 0 if draft.threads else draft.tuning.workers  # those on this machine
    nodes = len(draft.source.infos) + len(draft.target.infos)
    needed = files_needed(workers, nodes)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        ours = f"{workers:,} workers and " if workers else ""
        lower = ", or lower --workers" if workers else ""
        draft.warnings.append(
            f"rumpx may open only {allowed:,} files per process on this machine, and {ours}"
            f"{nodes:,} servers may need {needed:,}. Raise the limit (ulimit -n){lower}."
        )


def warn_of_trust(side: SideFacts, warnings: list[str]) -> None:
    """Warn that a side's certificate is not verified."""
    tls = side.dialer.endpoint.tls
    if tls and tls.insecure:
        name, flag = side.dialer.side, flag_of(side.dialer.side)
        warnings.append(
            f"{flag}-insecure: the {name}'s certificate is not verified: another server can take "
            "its place, read its password and every value, and change them. Give its CA by "
            f"{flag}-ca FILE instead."
        )


def check_upstreams(side: SideFacts, warnings: list[str]) -> None:
    """Refuse replicas without their primary's data, and warn of the lag of the others."""
    name = side.dialer.side
    for node in side.topology.nodes:
        info = side.infos[node.address]
        if node.origin or not info or not info.upstream:
            continue
        where = node.label(str(side.dialer.endpoint))
        if info.upstream.fault:
            raise unfit(name, where, info.upstream.fault)
        if info.upstream.lag:
            warnings.append(
                f"The {name} at {where} is a replica that {info.upstream.lag}: it lacks all "
                "writes since then."
            )
        if info.upstream.up and not info.link:
            warnings.append(_unnoticed(name, where))


def _unnoticed(side: Side, name: str) -> str:
    return (
        f"The {side}'s replica {name} refuses CLIENT LIST: a full resynchronisation during the "
        "copy cannot be detected, and keys may be missed."
    )


def refuse_same_chain(source: SideFacts, target: SideFacts) -> None:
    """Refuse to copy a replica to its own primary: old values would overwrite new ones."""
    for here in source.infos.items():
        for there in target.infos.items():
            if what := shared_identity(source, here, target, there):
                raise TargetUnusable(
                    f"Source and target are the same: they share {what}. A copy would "
                    "overwrite new values with old ones; give another --to."
                )


def shared_identity(
    source: SideFacts,
    here: tuple[Address | None, ServerInfo | None],
    target: SideFacts,
    there: tuple[Address | None, ServerInfo | None],
) -> str:
    """Return the identity of one server or replication chain that two nodes share, or ""."""
    (near, info), (far, other) = here, there
    if info and other and info.run_id and info.run_id == other.run_id:
        return "the server process (run_id)"
    if info and other and info.replication_id and info.replication_id == other.replication_id:
        return "the replication history (master_replid)"
    dialled = source.dialer.endpoint, target.dialer.endpoint
    if near is None and far is None and info is None and other is None:
        if dialled[0].path and dialled[0].path == dialled[1].path:
            return f"the socket {dialled[0].path}"
        if common := set(dialled[0].addresses) & set(dialled[1].addresses):
            return f"the address {format_address(common.pop())}"
    elif near is not None and near == far:
        return f"the address {format_address(near)}"
    return ""


def refuse_replica(target: SideFacts) -> None:
    """Refuse a target that is a replica: its primary would overwrite the copy's writes."""
    for address, info in target.infos.items():
        if info and info.role == "slave":
            name = format_address(address) if address else str(target.dialer.endpoint)
            raise TargetUnusable(
                f"The target at {name} is a replica; copy to its primary, or promote it by "
                "REPLICAOF NO ONE."
            )


def refuse_unserved(side: SideFacts) -> None:
    """Refuse a cluster in which a slot has no owner."""
    if count := unserved_slots(side.topology):
        name = side.dialer.side
        raise unusable(name)(
            f"In the {name} cluster no primary serves {count:,} slots; repair it first "
            "(CLUSTER NODES shows the missing ones)."
        )


def check_eviction(job: Job, source: SideFacts, warnings: list[str]) -> None:
    """Refuse to make a full source evict, and warn of the effect of reads on LRU and LFU."""
    for address, info in source.infos.items():
        if not info or not info.evicts or job.allow_eviction:
            continue
        if info.used_memory > _NEARLY_FULL * info.max_memory:
            name = format_address(address) if address else str(source.dialer.endpoint)
            raise SourceUnusable(
                f"The source at {name} uses {info.used_memory / info.max_memory:.0%} of its "
                f"maxmemory and evicts ({info.policy}): the copy's buffers could evict "
                "keys. Copy from a replica, or accept it with --allow-eviction."
            )
    by_use = [policy for policy in eviction_policies(source) if policy.endswith(("lru", "lfu"))]
    if by_use and not source.dialer.no_touch:
        warnings.append(
            f"The source evicts by {', '.join(by_use)} and does not know CLIENT NO-TOUCH: the "
            "copy's reads count as use of its keys. Give a replica as --from to avoid that."
        )


def warn_of_eviction(target: SideFacts, warnings: list[str]) -> None:
    """Warn that a target may evict copied keys."""
    if policies := eviction_policies(target):
        warnings.append(
            f"The target evicts keys when its memory is full ({', '.join(policies)}); "
            "evictions during the copy are reported at the end."
        )


def eviction_policies(side: SideFacts) -> list[str]:
    """Return the eviction policies of one side's primaries, mostly one."""
    return sorted({info.policy for info in side.infos.values() if info and info.evicts})


def missing_modules(source: SideFacts, target: SideFacts) -> list[str]:
    """Return the modules that a primary of the source has loaded and no primary of the target."""
    here, there = (
        {name for info in side.infos.values() if info for name in info.modules}
        for side in (source, target)
    )
    known = {name.lower() for name in there}
    return sorted(name for name in here if name.lower() not in known)


def check_modules(source: SideFacts, target: SideFacts, warnings: list[str]) -> None:
    """Warn that values of a module's types need the module."""
    hidden = None in target.infos.values()
    if not hidden and (missing := missing_modules(source, target)):
        warnings.append(
            f"The source has modules that the target lacks ({', '.join(missing)}): keys of their "
            "types cannot be copied. Load them on the target, or leave such keys out with --type."
        )


def check_clocks(job: Job, source: SideFacts, target: SideFacts, warnings: list[str]) -> int:
    """Return the ms to add to each expiry; 0 unless `--clock relative`."""
    if source.clock.offset is None or target.clock.offset is None:
        return 0
    skew = round(target.clock.offset - source.clock.offset)
    if job.clock == "relative":
        return skew
    if job.clock == "refuse" and abs(skew) > _SKEW_REFUSE_MS:
        raise TargetUnusable(
            f"The target's clock is {skew / 1000:+,.1f} s off the source's, so expiries would be "
            "wrong on one of them. Set the clocks, or choose --clock absolute (keep the expiry "
            "times) or --clock relative (keep the remaining TTLs)."
        )
    if abs(skew) > _SKEW_WARN_MS:
        warnings.append(
            f"The target's clock is {skew / 1000:+,.1f} s off the source's; expiries are copied as "
            "absolute times."
        )
    return 0


def check_replicas(source: SideFacts, warnings: list[str]) -> None:
    """Warn of primaries that are read for want of a replica, and of undetectable resyncs."""
    warnings += source.topology.notes
    silent = []
    for node in source.topology.nodes:
        info = source.infos[node.address]
        if node.origin and info and not info.link:
            silent.append(node.label(""))
    if silent:
        warnings.append(_unnoticed("source", ", ".join(silent)))


def check_watching(source: SideFacts, warnings: list[str]) -> None:
    """Warn of events that a walk over the source cannot detect."""
    if not all(map(source.run_id, source.infos)):
        warnings.append(
            "The source does not show its run_id: a lost connection invalidates a cursor, and its "
            "partition is walked again from the start."
        )
    if source.topology.cluster and not all(node.id for node in source.topology.nodes):
        warnings.append(
            "The source refuses CLUSTER NODES: slots that move during the copy are not detected, "
            "and their keys may be missed. Move no slots during the copy."
        )
