"""What a follow needs before its first write, beyond a copy, as steps that a check takes, too.

1. Refuse what cannot be followed: a cluster, and two follows in opposite directions, which would
   copy each change to and fro for ever.
2. Prove that both users may call the commands of a comparison, and that the target's may delete.
3. Find the feed.
4. Require consent if the target holds keys: the first pass deletes those in scope that the source
   lacks.

Everything here only reads (UNLINK is tried with a key that does not exist).
"""

from __future__ import annotations

import re
from typing import Final

from rumpx.errors import TargetUnusable, UsageError
from rumpx.follower.dirty_keys import MOST_DIRTY
from rumpx.follower.feed_choice import feed_kind
from rumpx.preflight.abilities import refuse_command, unguessable
from rumpx.preflight.cursors import with_schemes
from rumpx.preflight.draft import Draft
from rumpx.preflight.steps import Step
from rumpx.servers.answers import ask_text
from rumpx.servers.side import SideFacts, connected
from rumpx.units import count_of
from rumpx.verifier.plan import reverse_databases

_NAMES: Final = re.compile(r" name=rumpx:(\S+?):(feed:)?[0-9a-f]{8}(?:\.\d+)? ")


def _refuse_cluster(side: SideFacts) -> None:
    if side.topology.cluster:
        raise UsageError(
            f"The {side.dialer.side} is a cluster, which --follow cannot keep in step yet; copy it "
            "without --follow."
        )


def _refuse_opposite(source: SideFacts, target: SideFacts) -> None:
    """Refuse if another follow copies the target to the source: its feed is connected to our
    target, and its writers, of the same job, to our source."""
    feeds = {mark for mark, feed in _jobs_at(target) if feed}
    writers = {mark for mark, feed in _jobs_at(source) if not feed}
    if feeds & writers:
        raise UsageError(
            "Another rumpx follows in the opposite direction, from this target to this source: "
            "each change would go to and fro for ever. Stop it first."
        )


def _jobs_at(side: SideFacts) -> list[tuple[str, bool]]:
    """Return the jobs of which connections lead to a side, each with whether it is a feed; none
    where the clients are not listed."""
    with connected(side.dialer, side.topology.nodes[0].address) as connection:
        listed = ask_text(connection, "CLIENT", "LIST") or ""
    return [(mark, bool(feed)) for mark, feed in _NAMES.findall(listed)]


def _prove(side: SideFacts, *commands: str) -> None:
    """Call commands for a key that does not exist; refuse a side that does not allow one."""
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            for command in commands:
                reply = connection.call(command, unguessable())
                refuse_command(side.dialer.side, connection, command, reply)


def _find_feed(draft: Draft) -> None:
    draft.feed, why = feed_kind(draft.job, draft.source)
    if why:
        draft.warnings.append(why)


def _foretell_pauses(draft: Draft) -> None:
    limits = draft.job.limits
    if "off" in limits.schedule and not limits.exit_when_off:
        draft.warnings.append(
            "While the timetable says off, changed keys are only noted: if they become more than "
            f"{MOST_DIRTY:,}, both sides are compared again afterwards."
        )


def _look_for_reverse(draft: Draft) -> None:
    job, source, target = draft.job, draft.source, draft.target
    places = reverse_databases(job, source, target, draft.scope, draft.warnings)
    draft.reverse = with_schemes(target, places)


def _ask(draft: Draft) -> None:
    keys = sum(place.keys for place in draft.reverse)
    if not keys:
        return
    held = f"The target already holds {count_of(keys, 'key')}"
    if not draft.job.delete_extra:
        raise TargetUnusable(
            f"{held}, and --follow would delete those in scope that the source lacks. Give "
            "--delete-extra to allow it, or an empty target."
        )
    if draft.consent is None:
        raise UsageError(
            f"{held}: --delete-extra asks before it deletes, but there is no terminal: give --yes."
        )
    if not draft.consent(
        f"{held}. Delete those in scope that the source lacks, and overwrite the others?"
    ):
        raise TargetUnusable(f"{held}, and you have not allowed to delete any: nothing is copied.")


FOLLOW_STEPS: Final = (
    Step("followed source", ("source",), lambda d: _refuse_cluster(d.source)),
    Step("followed target", ("target",), lambda d: _refuse_cluster(d.target)),
    Step("direction", ("source", "target"), lambda d: _refuse_opposite(d.source, d.target)),
    Step("looking up", ("source",), lambda d: _prove(d.source, "EXISTS")),
    Step("deleting", ("target",), lambda d: _prove(d.target, "EXISTS", "UNLINK")),
    Step("feed", ("source",), _find_feed),
    Step("timetable", (), _foretell_pauses),
    Step("reverse", ("source", "target", "scope"), _look_for_reverse),
)
CONSENT: Final = Step("consent", ("reverse",), _ask)
"""The last step of a new follow; the user of one that is resumed has agreed."""
