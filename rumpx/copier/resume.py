"""Going on with a job: what its ledger says, made to fit the servers as they are now.

`reconcile` is pure: saved walks and today's plan in, walks out. For each saved walk

- the node that serves it now is looked up: the one with its id, else the one with its first slot;
- if it is done, it stays done, except for a part of a hash table whose server process is another
  one by now: its hash seed decides which keys were in that part;
- if it is not, it goes on at its cursor, or, where the process changed or cannot be told, starts
  over, since a cursor means nothing to another process;
- keys that are known by name need no process: they go on where they were;
- where a replica is read that may have been filled anew, all of that starts over, since workers may
  have found keys gone that only were not there yet.

Slots that changed hands between the runs, and a target that restarted, are found by the checks at
the end, which compare with what the ledger has.
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
    """The plan, walks and facts with which a job goes on.

    Args:
        plan: as it would be made today.
        saved, facts: as the ledger has them.
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
    """Whether a walk that did not say so is at its end: it was killed between the answer for its
    last keys and the look at the server that ends it. (The end of a plain cursor is its beginning;
    counts tell them apart.)"""
    return span.ended(cursor) and counts.settled > 0
