"""Before a comparison: inspect both sides, refuse useless comparisons, plan the walks.

As for a copy (`preflight.steps`), and everything here only reads; but a replica may be compared
with its primary, and the target is scanned as well: every database of it that the scope can reach.
Requirements of a repair apply only if one is requested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from rumpx.engine.plan import Plan, plan_partitions
from rumpx.errors import ConnectionLost, SourceUnusable, UsageError
from rumpx.model.job import Job, Scope
from rumpx.model.partitions import NodeKeys, Partition
from rumpx.model.tuning import Tuning
from rumpx.model.verify_request import Request
from rumpx.preflight.abilities import (
    Sample,
    find_abilities,
    find_sample,
    frees_in_line,
    lacks_absttl,
    prove_restore,
)
from rumpx.preflight.cursors import with_schemes
from rumpx.preflight.databases import (
    chosen_databases,
    database_map,
    databases_of,
    find_databases,
    ignores_select,
    prove_databases,
    refuse_collisions,
)
from rumpx.preflight.dialects import find_dialects
from rumpx.preflight.field_expiries import expiring_hashes, foretell, shows_field_expiries
from rumpx.preflight.look import look
from rumpx.preflight.refusals import (
    check_clocks,
    check_eviction,
    check_replicas,
    check_upstreams,
    refuse_replica,
    refuse_same_chain,
    refuse_unserved,
    warn_of_eviction,
    warn_of_trust,
)
from rumpx.preflight.worker_spec import scan_settings, tune_to_distance, worker_spec
from rumpx.remote.choice import threads_of
from rumpx.servers.replies import Kind, classify
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error
from rumpx.transfer.dump_reader import Abilities
from rumpx.transfer.restore_writer import LATE_MS
from rumpx.transfer.spec import WorkerSpec
from rumpx.verifier.compare_spec import CompareSpec
from rumpx.verifier.verdicts import Rules

# If both servers return absolute expiries; if one returns remaining TTLs, each up to 2 ms off.
_EXACT_TOLERANCE: Final = 1
_COARSE_TOLERANCE: Final = 5


def prepare_comparison(request: Request) -> tuple[Plan, CompareSpec]:
    """Inspect, refuse, plan; see the module docstring.

    Raises:
        SourceUnusable, TargetUnusable, TemporaryError, UsageError: the message says what to do.
    """
    job = request.job
    warnings: list[str] = []
    threads = threads_of(job)
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
    if request.repair:
        refuse_same_chain(source, target)
        refuse_replica(target)
        absttl = prove_restore(target, sample, replace=True)
        dialects = find_dialects(target, sample, scope.target_db(sample.db))
    else:
        absttl, dialects = not lacks_absttl(target, sample), {}
    if request.delete_extra:
        refuse_replica_source(source)
    tuning = tune_to_distance(job, source, target, databases, 0, threads)
    copying = worker_spec(
        *(job, source, target, databases, scope, abilities, "replace", tuning, shift),
        absttl=absttl,
        in_line=request.repair and frees_in_line(target),
        dialects=dialects,
    )
    places, back = with_schemes(source, databases), with_schemes(target, reverse)
    sides = BothSides(job, source, target, places, back)
    spec = compare_spec(sides, copying, warnings, request.tolerance, digests=request.digests)
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


@dataclass(frozen=True, slots=True)
class BothSides:
    """Both sides of a comparison: with their databases that hold keys, the target's as far as the
    scope reaches them."""

    job: Job
    source: SideFacts
    target: SideFacts
    databases: Sequence[NodeKeys]
    reverse: Sequence[NodeKeys]


def compare_spec(
    sides: BothSides,
    copying: WorkerSpec,
    warnings: list[str],
    tolerance: int | None = None,
    *,
    digests: bool = False,
) -> CompareSpec:
    """Return the settings of a comparing worker.

    Args:
        copying: those of a copying one.
        tolerance: ms by which expiries may differ; None chooses.
        digests: compare checksums, if both sides can compute them.
    """
    job, source, target, scope = sides.job, sides.source, sides.target, copying.scope
    there = find_sample(target, list(sides.reverse), scope)
    abilities = find_abilities(job, target, there, warnings)
    # Mismatches are compared again, so payload and expiry may differ in time, and MULTI costs.
    abilities = replace(abilities, multi=False)
    shift, late = copying.expiry_shift, _lateness(copying.abilities, absttl=copying.absttl)
    tolerances = [tolerance or 0] * 2
    if tolerance is None:
        # After `--clock relative` the skew is measured again, to within half a round trip of each
        # side, as for the copy.
        skew = math.ceil(1000 * (source.clock.round_trip + target.clock.round_trip)) if shift else 0
        room = skew + (LATE_MS if late else 0)
        tolerances = [_EXACT_TOLERANCE + room, _COARSE_TOLERANCE + room]
        if late:
            warnings.append(
                f"{late}, so that a copy writes expiries as remaining TTLs: they may differ by "
                f"{tolerances[1]:,} ms (--ttl-tolerance sets how much)."
            )
    hashes = expiring_hashes(source, list(sides.databases))
    fate = foretell(job, hashes, shows_field_expiries(target, there), target, warnings)
    clocks = source.clock.offset, target.clock.offset
    rules = Rules(shift, tolerances[0], tolerances[1], fate, clocks)
    if digests:
        sample = find_sample(source, list(sides.databases), job.scope)
        of_both = (source, copying.abilities, sample), (target, abilities, there)
        digests = digests_work(of_both, warnings)
    return CompareSpec(copying, abilities, rules, digests)


def _lateness(abilities: Abilities, *, absttl: bool) -> str:
    """Return why a copy writes remaining TTLs, which end late; "" if it writes expiry times."""
    if not absttl:
        return "The target's RESTORE has no ABSTTL"
    return "The source has neither PEXPIRETIME nor TIME" if abilities.expiry == "left" else ""


def _partitions(
    places: list[NodeKeys], back: list[NodeKeys], tuning: Tuning
) -> list[Partition]:
    """Return the source's partitions, to compare, then the target's, to check for existence."""
    forward = plan_partitions(places, tuning, (), forced=False)
    backward = plan_partitions(back, tuning, (), forced=False)
    compared = [replace(partition, work="compare") for partition in forward]
    looked_for = [
        replace(partition, id=number, work="look for", side="target")
        for number, partition in enumerate(backward, start=len(forward))
    ]
    return compared + looked_for


def refuse_itself(source: SideFacts, target: SideFacts) -> None:
    """Refuse a comparison of a server with itself."""
    here = {info.run_id for info in source.infos.values() if info and info.run_id}
    there = {info.run_id for info in target.infos.values() if info and info.run_id}
    if here & there:
        raise UsageError(
            "--from and --to are the same server, which always equals itself; give another --to."
        )


def refuse_replica_source(source: SideFacts) -> None:
    """Refuse a replica as the source of deletions: its primary may have keys that it lacks."""
    infos = [source.infos[node.address] for node in source.topology.nodes if not node.origin]
    if any(info and info.role == "slave" for info in infos):
        raise SourceUnusable(
            "The source is a replica, which cannot prove that a key does not exist: --delete-extra "
            "needs its primary as --from."
        )


def reverse_databases(
    job: Job, source: SideFacts, target: SideFacts, scope: Scope, warnings: list[str]
) -> list[NodeKeys]:
    """Return every (node, database) of the target that a copy of this scope can write to."""
    chosen = set(chosen_databases(job))
    moved = {source for source, _ in scope.map_db}
    taken = {target for _, target in scope.map_db}
    if chosen:
        wanted = {scope.target_db(db) for db in chosen}
        return databases_of(target, tuple(sorted(wanted)), warnings)
    found = databases_of(target, (), warnings)
    if job.target.db is not None:
        return [place for place in found if place.db == job.target.db]
    # Skip a database whose keys map elsewhere, unless another one maps to it.
    found = [place for place in found if place.db not in moved or place.db in taken]
    databases = sorted({place.db for place in found})
    absent = {db for db in databases if not has_database(source, scope.source_db(db))}
    if absent:
        warnings.append(
            f"The source cannot have database {', '.join(map(str, sorted(absent)))}, so the "
            "target's keys there are not checked."
        )
    return [place for place in found if place.db not in absent]


def has_database(side: SideFacts, db: int) -> bool:
    """Return True if a side lets the user select a database, and SELECT has an effect."""
    if db == 0:
        return True
    with connected(side.dialer, side.topology.nodes[0].address) as connection:
        reply = connection.call("SELECT", db)
        if is_error(reply) and classify(reply).kind is Kind.TEMPORARY:
            raise ConnectionLost(f"The {side.dialer.side} answered SELECT: {reply!s}.")
        return not (is_error(reply) or ignores_select(connection))


def digests_work(
    sides: Sequence[tuple[SideFacts, Abilities, Sample]], warnings: list[str]
) -> bool:
    """Return True if both sides run read-only scripts.

    Args:
        sides: source and target, with their allowed commands and a key of each.
    """
    if any(abilities.expiry != "instant" for _, abilities, _ in sides):
        warnings.append("--digest needs Redis 7.0 or Valkey on both sides: whole values are read.")
        return False
    for side, _, sample in sides:
        with connected(side.dialer, sample.node, sample.db) as connection:
            if is_error(connection.call("EVAL_RO", "return 1", 0)):
                warnings.append(
                    f"The {side.dialer.side} refuses EVAL_RO, which --digest needs: whole values "
                    "are read."
                )
                return False
    return True
