"""Before the first write: inspect both sides, refuse unsafe copies, and plan the rest.

Cheapest first, and everything here only reads (RESTORE is tried with a TTL that it must reject):

1. Connect to both sides, log in, read the topology and every primary's INFO.
2. Refuse: one replication chain on both sides, a target that is a replica, a source that is one
   without its primary's data, a cluster with unserved slots, a source about to evict, clocks too
   far apart.
3. Find the databases in scope; prove by SELECT that both sides have them.
4. Find the commands that the source allows, prove that both users may call those of a copy, and
   find the payloads that the target accepts.
5. Require a conflict policy for a target that holds keys.
6. Plan partitions, tuned to the distance of both sides.

The steps are a list, `STEPS`: a copy stops at the first refusal, a check (`rumpx.checker`) takes
every step that it can.

Not promised: that a permission for one key holds for all (ACLs have key patterns);
those keys fail one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from rumpx.engine.plan import Plan, plan_partitions
from rumpx.model.job import Job
from rumpx.preflight.abilities import (
    NO_ABSTTL,
    find_abilities,
    find_sample,
    frees_in_line,
    prove_restore,
)
from rumpx.preflight.cursors import with_schemes
from rumpx.preflight.databases import (
    chosen_databases,
    conflict_policy,
    count_keys,
    database_map,
    find_databases,
    prove_databases,
    refuse_collisions,
)
from rumpx.preflight.dialects import find_dialects
from rumpx.preflight.draft import Ask, Draft
from rumpx.preflight.field_expiries import expiring_hashes, foretell, writes_field_expiries
from rumpx.preflight.look import look
from rumpx.preflight.memory import check_room
from rumpx.preflight.refusals import (
    check_clocks,
    check_eviction,
    check_modules,
    check_open_files,
    check_replicas,
    check_upstreams,
    check_watching,
    refuse_replica,
    refuse_same_chain,
    refuse_unserved,
    warn_of_eviction,
    warn_of_trust,
)
from rumpx.preflight.worker_spec import scan_settings, tune_to_distance, worker_spec
from rumpx.remote.choice import threads_of
from rumpx.servers.dialect import common


def prepare(job: Job, ask: Ask | None = None) -> Plan:
    """Inspect, refuse, plan; see the module docstring.

    Args:
        ask: asks the user, on a terminal, for the policy for keys that the target has.

    Raises:
        SourceUnusable, TargetUnusable, TemporaryError, UsageError: the message says what to do.
    """
    draft = Draft(job, ask)
    for step in STEPS:
        step.take(draft)
    return draft.plan


@dataclass(frozen=True, slots=True)
class Step:
    """One step before the first write. A copy takes all steps and stops at a refusal; a check takes
    every step that it can and collects the results.

    Attributes:
        name: of the step, for a check.
        needs: attributes of the Draft that it reads.
        take: adds to the Draft; raises the exceptions of `prepare`.
    """

    name: str
    needs: tuple[str, ...]
    take: Callable[[Draft], None]


def _look_at_engine(draft: Draft) -> None:
    draft.threads = threads_of(draft.job)


def _look_at_source(draft: Draft) -> None:
    draft.source = look(draft.job, "source")


def _look_at_target(draft: Draft) -> None:
    draft.target = look(draft.job, "target")


def _compare_clocks(draft: Draft) -> None:
    draft.shift = check_clocks(draft.job, draft.source, draft.target, draft.warnings)


def _look_for_databases(draft: Draft) -> None:
    prove_databases(draft.source, chosen_databases(draft.job))
    draft.databases = find_databases(draft.job, draft.source, draft.warnings)


def _map_databases(draft: Draft) -> None:
    scope = replace(draft.job.scope, map_db=database_map(draft.job, draft.databases))
    refuse_collisions([place.db for place in draft.databases], dict(scope.map_db))
    draft.scope = scope


def _try_reading(draft: Draft) -> None:
    draft.sample = find_sample(draft.source, draft.databases, draft.job.scope)
    draft.abilities = find_abilities(draft.job, draft.source, draft.sample, draft.warnings)


def _try_writing(draft: Draft) -> None:
    draft.absttl = prove_restore(draft.target, draft.sample, replace=draft.replaces)
    if not draft.absttl:
        draft.warnings.append(NO_ABSTTL)


def _find_dialects(draft: Draft) -> None:
    draft.dialects = find_dialects(
        draft.target, draft.sample, draft.scope.target_db(draft.sample.db)
    )
    hashes = expiring_hashes(draft.source, draft.databases)
    knows = writes_field_expiries(draft.dialects)
    foretell(draft.job, hashes, knows, draft.target, draft.warnings)


def _check_times(draft: Draft) -> None:
    untold = None in (draft.source.clock.offset, draft.target.clock.offset)
    if draft.abilities.expiry != "left" and untold:
        draft.warnings.append(
            "TIME is refused, so the servers' clocks are not compared: expiries are wrong by any "
            "difference between them."
        )


def _count_target(draft: Draft) -> None:
    draft.target_keys = count_keys(draft.target, draft.target_databases)


def _choose_policy(draft: Draft) -> None:
    draft.policy = conflict_policy(draft.job, draft.target_keys, draft.ask)


def _tune(draft: Draft) -> None:
    job = draft.job
    draft.tuning = tune_to_distance(
        job, draft.source, draft.target, draft.databases, job.partitions, draft.threads
    )


def _plan(draft: Draft) -> None:
    job, source, target, tuning = draft.job, draft.source, draft.target, draft.tuning
    places = with_schemes(source, draft.databases)
    draft.plan = Plan(
        job,
        source,
        target,
        tuple(places),
        tuple(plan_partitions(places, tuning, job.prefixes, forced=job.partitions > 0)),
        tuning,
        {"source": scan_settings(job, source, draft.scope)},
        worker_spec(
            job,
            source,
            target,
            draft.databases,
            draft.scope,
            draft.abilities,
            draft.policy,
            tuning,
            draft.shift,
            absttl=draft.absttl,
            in_line=draft.policy == "replace" and frees_in_line(draft.target),
            dialects=draft.dialects,
        ),
        draft.policy,
        draft.target_keys,
        tuple(draft.warnings),
        dialect=common(draft.dialects.values()),
    )


STEPS: Final = (
    Step("engine", (), _look_at_engine),
    Step("source", (), _look_at_source),
    Step("target", (), _look_at_target),
    Step("source certificate", ("source",), lambda d: warn_of_trust(d.source, d.warnings)),
    Step("target certificate", ("target",), lambda d: warn_of_trust(d.target, d.warnings)),
    Step("identity", ("source", "target"), lambda d: refuse_same_chain(d.source, d.target)),
    Step("role", ("target",), lambda d: refuse_replica(d.target)),
    Step("replication", ("source",), lambda d: check_upstreams(d.source, d.warnings)),
    Step("source slots", ("source",), lambda d: refuse_unserved(d.source)),
    Step("target slots", ("target",), lambda d: refuse_unserved(d.target)),
    Step("eviction", ("source",), lambda d: check_eviction(d.job, d.source, d.warnings)),
    Step("target eviction", ("target",), lambda d: warn_of_eviction(d.target, d.warnings)),
    Step("modules", ("source", "target"), lambda d: check_modules(d.source, d.target, d.warnings)),
    Step("clocks", ("source", "target"), _compare_clocks),
    Step("replicas", ("source",), lambda d: check_replicas(d.source, d.warnings)),
    Step("watching", ("source",), lambda d: check_watching(d.source, d.warnings)),
    Step("databases", ("source",), _look_for_databases),
    Step("mapping", ("databases",), _map_databases),
    Step(
        "target databases",
        ("target", "scope"),
        lambda d: prove_databases(d.target, d.target_databases),
    ),
    Step("reading", ("databases",), _try_reading),
    Step("times", ("abilities", "target"), _check_times),
    Step("writing", ("target", "sample"), _try_writing),
    Step("versions", ("source", "target", "databases", "sample", "scope"), _find_dialects),
    Step("target keys", ("target", "scope"), _count_target),
    Step("conflicts", ("target_keys",), _choose_policy),
    Step("tuning", ("threads", "databases", "target"), _tune),
    Step("room", ("target_keys", "policy", "abilities", "tuning"), lambda d: check_room(d)),
    Step("open files", ("tuning",), lambda d: check_open_files(d)),
    Step("plan", ("shift", "scope", "abilities", "dialects", "policy", "tuning"), _plan),
)
