"""A check from its Request to its Checkup.

1. Take the own steps of the copy, or of the follow, before its first write, and try all its
   commands (`steps`).
2. Sample the source's keys (`key_sample`), and try whether they may be read and written.
3. Prove by real payloads that the target reads the source's (`payload_trial`); the only write
   anywhere, left out on request.
4. Measure idle round trips, and estimate time and memory (`estimate`).

A check that needs an earlier, failed one is left out. The exit code is that of the first ✗.

Not promised: that a copy succeeds. A check sees one moment, and of most things a part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from rumpx import units
from rumpx.checker.estimate import (
    ENTRY_BYTES,
    UNCERTAINTY,
    Distance,
    memory_needed,
    seconds_needed,
)
from rumpx.checker.key_sample import Key, Sample, describe, take_sample
from rumpx.checker.limits_met import limits_of_clients, limits_of_values
from rumpx.checker.payload_trial import not_proven, prove_payloads
from rumpx.checker.permissions import denied_reads, denied_writes
from rumpx.checker.round_trips import describe_idle, judge_limit, measure_idle
from rumpx.checker.steps import draft_of, take_steps
from rumpx.copier.functions import plan_functions
from rumpx.copier.leftovers import left_behind
from rumpx.errors import EXIT_OK, SIDES, RumpxError, Side, TargetFull
from rumpx.follower.way_back import losses
from rumpx.model.check_request import Request
from rumpx.model.checkup import (
    Checkup,
    Ends,
    Estimate,
    Latency,
    Line,
    Part,
    Planned,
    Sampled,
    Server,
)
from rumpx.model.job import Limits
from rumpx.model.nodes import Node
from rumpx.model.slots import SLOTS
from rumpx.model.tuning import COMMANDS_A_KEY
from rumpx.preflight.cursors import with_schemes
from rumpx.preflight.draft import Draft
from rumpx.preflight.memory import beside, data_in_scope, old_values_on, room_on
from rumpx.servers.info import ServerInfo
from rumpx.servers.side import SideFacts
from rumpx.units import count_of

_RAISE: Final = "Raise its maxmemory"


def check(request: Request) -> Checkup:
    """Run all checks; report an unreachable side instead of raising."""
    draft = draft_of(request.job)
    lines = take_steps(draft)
    if request.job.functions and hasattr(draft, "target_keys"):
        lines += _collected("functions", lambda: _functions(draft))
    sample = _sampled(request, draft, lines)
    shown = describe(sample) if sample else None
    if sample:
        lines += _collected("reading", lambda: _key_rights(draft, sample))
        lines += _collected("payloads", lambda: _payloads(request, draft, sample.keys))
        if hasattr(draft, "target"):
            lines += _collected("values", lambda: limits_of_values(draft, sample.keys))
    if hasattr(draft, "tuning"):
        lines += _collected("clients", lambda: limits_of_clients(draft))
    if hasattr(draft, "source"):
        things = left_behind(draft.source, functions_copied=draft.job.functions)
        lines.append(Line("info", "left behind", f"{', '.join(things)} on the source"))
    if request.job.follow and hasattr(draft, "source") and hasattr(draft, "target"):
        lines += _way_back(draft)
    latencies = [_latency(draft, side, lines) for side in SIDES]
    estimate = _estimated(draft, shown) if shown else None
    if estimate:
        sizes = [key.bytes for key in sample.keys if key.bytes] if sample else []
        lines += _memory(draft, estimate, sizes)
    codes = [line.exit_code for line in lines if line.status == "fail"]
    return Checkup(
        exit_code=codes[0] if codes else EXIT_OK,
        dry_run=request.dry_run,
        lines=tuple(lines),
        source=_ends(draft.source, latencies[0]) if hasattr(draft, "source") else None,
        target=_ends(draft.target, latencies[1]) if hasattr(draft, "target") else None,
        sample=shown,
        estimate=estimate,
        plan=_planned(draft) if hasattr(draft, "plan") else None,
    )


def _collected(subject: str, look: Callable[[], list[Line]]) -> list[Line]:
    """Return the lines of one check; if a side is lost meanwhile, only its error."""
    try:
        return look()
    except RumpxError as error:
        return [Line("fail", subject, str(error), "", error.exit_code)]


def _functions(draft: Draft) -> list[Line]:
    told = plan_functions(draft.source, draft.target, draft.job.on_conflict)
    return [Line("ok", "functions", told)]


def _way_back(draft: Draft) -> list[Line]:
    """Foretell what a follow in the other direction would lose."""
    old, new = (
        next(iter(side.infos.values()), None) for side in (draft.source, draft.target)
    )
    if old is None or new is None:
        return []
    way = f"The way back, from {new} to {old}"
    if not (lost := losses(old, new)):
        return [Line("ok", "way back", f"{way}, loses no kind of value")]
    text = f"{way}, would lose what the application begins to use there: {', '.join(lost)}"
    return [Line("info", "way back", text)]


def _sampled(request: Request, draft: Draft, lines: list[Line]) -> Sample | None:
    if not hasattr(draft, "databases"):
        return None
    # The permissions already show that SCAN is refused.
    if any(line.subject == "reading" and "+scan" in line.advice for line in lines):
        return None
    try:
        places = with_schemes(draft.source, draft.databases)
        scope = draft.scope if hasattr(draft, "scope") else draft.job.scope
        return take_sample(draft.source, places, scope, request.sample)
    except RumpxError as error:
        lines.append(Line("fail", "sample", str(error), "", error.exit_code))
        return None


def _key_rights(draft: Draft, sample: Sample) -> list[Line]:
    lines = denied_reads(draft.source, sample.denied, len(sample.denied) + len(sample.keys))
    if hasattr(draft, "target"):
        lines += denied_writes(draft, [key.name for key in sample.keys])
    return lines


def _payloads(request: Request, draft: Draft, keys: Sequence[Key]) -> list[Line]:
    if request.dry_run:
        return [not_proven("a dry run writes nothing; rumpx check proves it")]
    if request.read_only:
        return [not_proven("--read-only was given")]
    if not hasattr(draft, "target") or not hasattr(draft, "scope"):
        return []
    if not keys:
        return [not_proven("no key was found")]
    return prove_payloads(draft, keys)


def _latency(draft: Draft, side: Side, lines: list[Line]) -> Latency | None:
    """Measure a side's idle round trips; add a line if they exceed its limit by themselves."""
    if not hasattr(draft, side):
        return None
    try:
        times = measure_idle(getattr(draft, side))
    except RumpxError as error:
        lines.append(Line("fail", side, str(error), "", error.exit_code))
        return None
    if not times:
        return None
    limit = draft.job.limits.max_latency(side)
    if limit is not None and (line := judge_limit(side, times, limit)):
        lines.append(line)
    return describe_idle(times)


def _estimated(draft: Draft, sample: Sampled) -> Estimate | None:
    """Estimate time and memory, if the tuning and keys to copy are known."""
    if not hasattr(draft, "tuning"):
        return None
    held = sum(place.keys for place in draft.databases)
    keys = round(held * sample.keys / sample.seen) if sample.seen else held
    needed, sizes = _bytes_needed(draft, sample, keys)
    distance = Distance(draft.source.clock.round_trip, draft.target.clock.round_trip)
    walks = len(draft.plan.partitions) if hasattr(draft, "plan") else len(draft.databases)
    quickest, slowest = seconds_needed(
        keys,
        (needed or 0) / max(1, keys),
        distance,
        draft.tuning,
        workers=draft.tuning.workers,
        partitions=walks,
    )
    least = _seconds_at_rates(draft.job.limits, keys, needed or 0)
    quickest, slowest = max(quickest, least), max(slowest, least)
    return Estimate(
        keys,
        needed,
        round(quickest, 1),
        round(slowest, 1),
        f"{count_of(keys, 'key')}, {sizes}, round trips of {1000 * distance.source:.2f} and "
        f"{1000 * distance.target:.2f} ms, and rates of other machines; not from the network's "
        "bandwidth or the servers' load",
    )


def _seconds_at_rates(limits: Limits, keys: int, size: int) -> float:
    """Return a copy's least duration at fixed rates; a timetable is not counted."""
    return max(
        keys / (limits.max_keys_per_sec or math.inf),
        size / (limits.max_bytes_per_sec or math.inf),
        COMMANDS_A_KEY * keys / (limits.max_ops_per_sec or math.inf),
    )


def _bytes_needed(draft: Draft, sample: Sampled, keys: int) -> tuple[int | None, str]:
    """Return the memory needed on the target, and the source of the estimate.

    A sample contains rare large keys either not at all or far too often; if everything is copied,
    the source's INFO is more exact.
    """
    whole = data_in_scope(draft) if hasattr(draft, "scope") else None
    expiring = sample.expiring / max(1, sample.keys)
    if whole is not None:
        mean = whole / max(1, keys) + ENTRY_BYTES
        return memory_needed(keys, mean, expiring), "the memory of the source's data"
    if sample.mean_bytes is None:
        return None, "no sizes (MEMORY USAGE is refused)"
    return memory_needed(keys, sample.mean_bytes, expiring), "the sample's sizes"


def _memory(draft: Draft, estimate: Estimate, sizes: Sequence[int]) -> list[Line]:
    """Compare the needed memory with the maxmemory of each primary of the target.

    Args:
        sizes: of the sampled keys, in bytes.
    """
    if estimate.bytes is None:
        return []
    needs = f"The target needs about {units.size(estimate.bytes)}"
    infos = draft.target.infos.values()
    if None in infos:
        return [Line("info", "memory", f"{needs}, but does not show its maxmemory")]
    if not all(info and info.max_memory for info in infos):
        limits = [Line("info", "memory", f"{needs}; it has no maxmemory")]
    else:
        limits = [Line("ok", "memory", f"{needs}, and has it")]
    for node in draft.target.topology.nodes:
        info = draft.target.infos[node.address]
        if info and info.max_memory and (tight := _tight(draft, node, info, estimate.bytes, sizes)):
            return [tight]
    return limits


def _tight(
    draft: Draft, node: Node, info: ServerInfo, needed: int, sizes: Sequence[int]
) -> Line | None:
    """Return the line for a primary that may lack memory for its share."""
    if draft.target.topology.cluster:
        needed = needed * sum(last - first + 1 for first, last in node.slots) // SLOTS
    old = old_values_on(draft, info, sizes) if hasattr(draft, "target_keys") else 0
    needed += old
    limit = draft.job.limits.max_target_memory
    room = int((limit or 1.0) * room_on(info, getattr(draft, "target_keys", 0)))
    if (1 + UNCERTAINTY) * needed <= room:
        return None
    text = (
        f"The target at {node.label(str(draft.target.dialer.endpoint))} has "
        f"{units.size(room)} left below its maxmemory; the copy needs about {units.size(needed)} "
        f"there{beside(old) if old else ''}"
    )
    advice = f"{_RAISE}, or {draft.job.fewer_workers}" if old else _RAISE
    if limit is None or (1 - UNCERTAINTY) * (needed - old) <= room:
        return Line("warn", "memory", f"{text}: that may be too much", advice)
    end = f"evict keys ({info.policy})" if info.evicts else "run out of memory"
    return Line("fail", "memory", f"{text}: it would {end}", advice, TargetFull.exit_code)


def _ends(side: SideFacts, latency: Latency | None) -> Ends:
    servers = []
    for node in side.topology.nodes:
        info = side.infos[node.address]
        servers.append(
            Server(
                address=node.label(str(side.dialer.endpoint)),
                version=str(info) if info else "",
                mode=info.mode if info else "",
                role=info.role if info else "",
                slots=sum(last - first + 1 for first, last in node.slots),
                keys=sum(info.keys.values()) if info else 0,
                used_memory=info.used_memory if info else 0,
                max_memory=info.max_memory if info else 0,
                policy=info.policy if info else "",
            )
        )
    infos = [info for info in side.infos.values() if info]
    modules = tuple(sorted({name for info in infos for name in info.modules}))
    return Ends(
        uri=str(side.dialer.endpoint),
        version=side.version,
        cluster=side.topology.cluster,
        servers=tuple(servers),
        modules=modules if infos else None,
        latency=latency,
    )


def _planned(draft: Draft) -> Planned:
    plan, tuning = draft.plan, draft.tuning
    undecided = draft.job.on_conflict == "ask" and draft.target_keys > 0
    endpoint = str(plan.source.dialer.endpoint)
    return Planned(
        partitions=tuple(
            Part(part.node.label(endpoint), part.db, str(part)) for part in plan.partitions
        ),
        workers=plan.tuning.workers,
        scanners=tuning.scanners,
        scan_count=tuning.scan_count,
        batch_keys=tuning.batch_keys,
        pipeline_keys=tuning.pipeline_keys,
        batches_in_flight=tuning.batches_in_flight,
        bytes_in_flight=plan.spec.bytes_in_flight,
        on_conflict="ask" if undecided else plan.on_conflict,
    )
