"""Before a comparison: look at both sides, refuse what makes no sense, plan the walks.

As for a copy (`copy.prepare`), and everything here only reads; but a replica may be compared with
its primary, and the target is scanned as well: every database of it that the scope can reach. What
only a repair needs is asked for only if there is to be one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rumpx.copy.abilities import Sample
from rumpx.copy.dump import Abilities
from rumpx.copy.plan import NodeKeys, Partition, Tuning, plan_partitions
from rumpx.copy.prepare import (
    Plan,
    SideFacts,
    check_clocks,
    check_eviction,
    check_replicas,
    check_upstreams,
    chosen_databases,
    connected,
    database_map,
    databases_of,
    find_abilities,
    find_databases,
    find_sample,
    ignores_select,
    lacks_absttl,
    look,
    prove_databases,
    prove_restore,
    refuse_collisions,
    refuse_replica,
    refuse_same_chain,
    refuse_unserved,
    scan_settings,
    tune_to_distance,
    warn_of_eviction,
    warn_of_trust,
    with_schemes,
    worker_spec,
)
from rumpx.copy.restore import LATE_MS
from rumpx.errors import SourceUnusable, UsageError
from rumpx.job import Job, Scope
from rumpx.servers.topology import is_error
from rumpx.values.by_type import CHECKSUM_BYTES
from rumpx.values.reading import dumped
from rumpx.values.shapes import FOOTER_BYTES
from rumpx.verify.compare import CompareSpec
from rumpx.verify.request import Request

# Where both servers give instants; and where one gives times left, which are up to 2 ms off each.
_EXACT_TOLERANCE: Final = 1
_COARSE_TOLERANCE: Final = 5


def prepare_comparison(request: Request) -> tuple[Plan, CompareSpec]:
    """Look, refuse, plan; see the module docstring.

    Raises:
        SourceUnusable, TargetUnusable, TemporaryError, UsageError: with what to do about it.
    """
    job = request.job
    warnings: list[str] = []
    source, target = look(job, "source"), look(job, "target")
    refuse_itself(source, target)
    for side in (source, target):
        warn_of_trust(side, warnings)
        check_upstreams(side, warnings)
        refuse_unserved(side)
    check_replicas(source, warnings)
    check_eviction(job, source, warnings)
    warn_of_eviction(target, warnings)
    shift = check_clocks(job, source, target, warnings)
    prove_databases(source, chosen_databases(job))
    databases = find_databases(job, source, warnings)
    scope = replace(job.scope, map_db=database_map(job, databases))
    refuse_collisions([place.db for place in databases], dict(scope.map_db))
    reverse = reverse_databases(job, source, target, scope, warnings)
    prove_databases(target, sorted({scope.target_db(place.db) for place in databases}))
    sample = find_sample(source, databases, scope)
    abilities = find_abilities(job, source, sample, warnings)
    # How large values are is asked of the source alone.
    unsized = replace(job, size_check=False)
    there = find_sample(target, reverse, scope)
    target_abilities = find_abilities(unsized, target, there, warnings)
    # What is compared again in a moment need not be of one instant, and MULTI costs.
    target_abilities = replace(target_abilities, multi=False)
    if request.repair:
        refuse_same_chain(source, target)
        refuse_replica(target)
        absttl = prove_restore(target, sample, replace=True)
    else:
        absttl = not lacks_absttl(target, sample)
    if request.delete_extra:
        refuse_replica_source(source)
    tuning = tune_to_distance(job, source, target, databases, partitions=0)
    copying = worker_spec(
        job, source, target, databases, scope, abilities, "replace", tuning, shift, absttl=absttl
    )
    places, back = with_schemes(source, databases), with_schemes(target, reverse)
    sides = (source, abilities, sample), (target, target_abilities, there)
    late = _lateness(abilities, absttl=absttl)
    tolerances = [request.tolerance or 0] * 2
    if request.tolerance is None:
        # After `--clock relative` the skew was measured anew, to within half a round trip of each
        # side, as for the copy.
        skew = math.ceil(1000 * (source.clock.round_trip + target.clock.round_trip)) if shift else 0
        room = skew + (LATE_MS if late else 0)
        tolerances = [_EXACT_TOLERANCE + room, _COARSE_TOLERANCE + room]
        if late:
            warnings.append(
                f"{late}, so that a copy writes expiries as times left: they may differ by "
                f"{tolerances[1]:,} ms (--ttl-tolerance sets how much)."
            )
    spec = CompareSpec(
        copying,
        target_abilities,
        tolerances[0],
        tolerances[1],
        request.digests and digests_work(sides, warnings),
        (source.clock.offset, target.clock.offset),
    )
    plan = Plan(
        job,
        source,
        target,
        tuple(places),
        tuple(_partitions(places, back, tuning)),
        tuning,
        {
            "source": scan_settings(job, source, scope, request.sample),
            "target": scan_settings(job, target, scope, request.sample),
        },
        spec,
        "replace",
        sum(place.keys for place in reverse),
        tuple(dict.fromkeys(warnings)),
        tuple(back),
    )
    return plan, spec


def _lateness(abilities: Abilities, *, absttl: bool) -> str:
    """Why a copy writes times left, which come out late; "" where it writes instants."""
    if not absttl:
        return "The target's RESTORE has no ABSTTL"
    return "The source has neither PEXPIRETIME nor TIME" if abilities.expiry == "left" else ""


def _partitions(
    places: list[NodeKeys], back: list[NodeKeys], tuning: Tuning
) -> list[Partition]:
    """First the source's, to be compared, then the target's, to be looked for."""
    forward = plan_partitions(places, tuning, (), forced=False)
    backward = plan_partitions(back, tuning, (), forced=False)
    compared = [replace(partition, work="compare") for partition in forward]
    looked_for = [
        replace(partition, id=number, work="look for", side="target")
        for number, partition in enumerate(backward, start=len(forward))
    ]
    return compared + looked_for


def refuse_itself(source: SideFacts, target: SideFacts) -> None:
    """A server is always equal to itself."""
    here = {info.run_id for info in source.infos.values() if info and info.run_id}
    there = {info.run_id for info in target.infos.values() if info and info.run_id}
    if here & there:
        raise UsageError(
            "--from and --to are one and the same server, which is always equal to itself; give "
            "another --to."
        )


def refuse_replica_source(source: SideFacts) -> None:
    """What a replica does not have yet, or has dropped, its primary may have."""
    infos = [source.infos[node.address] for node in source.topology.nodes if not node.origin]
    if any(info and info.role == "slave" for info in infos):
        raise SourceUnusable(
            "The source is a replica, which cannot prove that a key is not there: --delete-extra "
            "needs its primary as --from."
        )


def reverse_databases(
    job: Job, source: SideFacts, target: SideFacts, scope: Scope, warnings: list[str]
) -> list[NodeKeys]:
    """Every (node, database) of the target that a copy of this scope could have written to."""
    chosen = set(chosen_databases(job))
    moved = {source for source, _ in scope.map_db}
    taken = {target for _, target in scope.map_db}
    if chosen:
        wanted = {scope.target_db(db) for db in chosen}
        return databases_of(target, tuple(sorted(wanted)), warnings)
    found = databases_of(target, (), warnings)
    if job.target.db is not None:
        return [place for place in found if place.db == job.target.db]
    # A database whose keys go elsewhere receives none, unless those of another one.
    found = [place for place in found if place.db not in moved or place.db in taken]
    databases = sorted({place.db for place in found})
    absent = {db for db in databases if not has_database(source, scope.source_db(db))}
    if absent:
        warnings.append(
            f"The source cannot have database {', '.join(map(str, sorted(absent)))}, so keys that "
            "the target has there are not looked for."
        )
    return [place for place in found if place.db not in absent]


def has_database(side: SideFacts, db: int) -> bool:
    """Whether a side lets us select a database, and then means it."""
    if db == 0:
        return True
    with connected(side.dialer, side.topology.nodes[0].address) as connection:
        return not (is_error(connection.call("SELECT", db)) or ignores_select(connection))


def digests_work(
    sides: Sequence[tuple[SideFacts, Abilities, Sample]], warnings: list[str]
) -> bool:
    """Whether both sides run scripts that only read, and write the same payloads.

    Args:
        sides: source and target, what they let us use, and a key of each.
    """
    if any(abilities.expiry != "instant" for _, abilities, _ in sides):
        warnings.append("--digest needs Redis 7.0 or Valkey on both sides; whole values are read.")
        return False
    footers = set()
    for side, _, sample in sides:
        with connected(side.dialer, sample.node, sample.db) as connection:
            if is_error(connection.call("EVAL_RO", "return 1", 0)):
                warnings.append(
                    f"The {side.dialer.side} refuses EVAL_RO, which --digest needs; whole values "
                    "are read."
                )
                return False
            if payload := dumped(connection, sample.key):
                footers.add(payload[-FOOTER_BYTES:-CHECKSUM_BYTES])
    if len(footers) > 1:
        warnings.append(
            "The two servers' versions write payloads that differ in their checksums; whole values "
            "are read in spite of --digest."
        )
        return False
    return True
