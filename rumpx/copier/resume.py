"""Resume a job: fit the walks of its ledger to the present servers.

`reconcile` is pure: saved walks and a new plan in, walks out. For each saved walk

- its node is the one with the same id, else the one that has its first slot now (`heir`);
- a finished walk stays finished, except over a part of a hash table if the server's process has
  changed: the hash seed decides which keys are in that part;
- an unfinished walk resumes at its cursor, or starts over if the process has changed or is unknown,
  since a cursor is valid within one process;
- a walk over named keys needs no process: it resumes;
- all walks over a replica that may have been resynchronised start over, since workers may have
  missed keys that were not there yet.

The checks at the end detect slots that moved between the runs, and a target that restarted: they
compare with the facts in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rumpx.engine.plan import Plan
from rumpx.engine.walks import Walk
from rumpx.ledger.schema import Facts, SavedWalk
from rumpx.model.counts import Counts
from rumpx.model.partitions import CursorSpan, KeySpan, Span
from rumpx.servers.replicas import other_dataset
from rumpx.servers.side import SideFacts
from rumpx.servers.topology import heir


def reconcile(
    plan: Plan, saved: Sequence[SavedWalk], facts: Facts
) -> tuple[Plan, list[Walk], Facts]:
    """Return the plan, walks and facts of a resumed job.

    Args:
        plan: a new one, for the present servers.
        saved, facts: from the ledger.
    """
    topology = plan.source.topology
    databases = tuple(
        replace(place, node=heir(topology, place.node)) for place in facts.databases
    )
    walks = [_walk_now(walk, plan.source) for walk in saved]
    plan = replace(
        plan,
        databases=databases,
        partitions=tuple(w.partition for w in walks if not w.partition.reason),
        target_keys=facts.target_keys,
    )
    return plan, walks, replace(facts, databases=databases)


def _walk_now(saved: SavedWalk, source: SideFacts) -> Walk:
    node = heir(source.topology, saved.partition.node)
    partition = saved.partition
    if node != partition.node:
        partition = replace(partition, node=node)
    run_id = source.run_id(node.address)
    same_process = bool(run_id) and run_id == saved.run_id
    span = partition.span
    lasting = isinstance(span, KeySpan) or (saved.done and not isinstance(span, CursorSpan))
    if other_dataset(saved.run_id, run_id) or not (same_process or lasting):
        return Walk(partition, saved.number + 1, after=saved.after)
    walk = Walk(
        partition, saved.number, "waiting", saved.cursor, saved.counts, saved.after, saved.kinds
    )
    if saved.done or at_end(span, saved.cursor, saved.counts):
        walk.state = "walked"
    return walk


def at_end(span: Span, cursor: int, counts: Counts) -> bool:
    """Return True if a walk is at its end although it is not marked so: the run was killed between
    the answer for its last keys and the check of the server that ends the walk. (A plain cursor
    ends where it starts; the counts distinguish the two.)"""
    return span.ended(cursor) and counts.settled > 0
