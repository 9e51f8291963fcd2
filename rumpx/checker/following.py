"""The commands that a follow calls beyond a copy, and the facts that its steps have found.

On the source: those of the feed, and EXISTS for keys that only the target has. On the target: those
that compare and delete. Values whose payloads differ, though they may be equal, are compared by the
commands of their types; where one of these is refused, each pass copies such values again.
"""

from __future__ import annotations

from typing import Final

from rumpx.checker.permissions import Right, right_of
from rumpx.follower.feed import CHANNEL, PATTERN
from rumpx.model.follow import FeedKind
from rumpx.model.job import Job
from rumpx.preflight.abilities import unguessable
from rumpx.preflight.draft import Draft
from rumpx.servers.dial import CLIENT_NAME
from rumpx.servers.resp import Command
from rumpx.units import count_of
from rumpx.values.chunked_reader import KINDS, OPTIONAL, trial_reads
from rumpx.values.small import READS, read_command

FOLLOW: Final = "the follow"
BY_TYPE: Final = "all commands that compare values by their types"
_FEEDS: Final[dict[FeedKind, str]] = {
    "tracking": "Changed keys are reported by CLIENT TRACKING",
    "notifications": "Changed keys are reported by keyspace notifications",
    "passes": "Changed keys are not reported: passes compare both sides, one after the other, and "
    "the target is never called in step",
}


def rights_of_feed(job: Job) -> list[Right]:
    """Return the calls that attach the better feed, or the one that was asked for; last those
    after which a connection can only receive."""
    if job.feed == "passes":
        return []
    if job.feed == "notifications":
        return [
            Right("CONFIG GET", ("CONFIG", "GET", "notify-keyspace-events"), True),
            Right("PSUBSCRIBE", ("PSUBSCRIBE", PATTERN), True, PATTERN),
        ]
    needed = job.feed == "tracking"
    return [
        Right("HELLO", ("HELLO", 2), needed),
        Right("CLIENT SETNAME", ("CLIENT", "SETNAME", CLIENT_NAME), needed),
        Right("CLIENT TRACKING", ("CLIENT", "TRACKING", "OFF"), needed),
        Right("CLIENT TRACKINGINFO", ("CLIENT", "TRACKINGINFO"), needed),
        Right("PING", ("PING",), needed),
        Right("SUBSCRIBE", ("SUBSCRIBE", CHANNEL), needed, "rumpx:*"),
    ]


def rights_to_look_up() -> list[Right]:
    """Return the calls on the source that a pass needs, beyond a copy's."""
    return [Right("EXISTS", ("EXISTS", unguessable()), True)]


def rights_to_compare(job: Job) -> list[Right]:
    """Return the calls on the target: those of a pass, and UNLINK."""
    key = unguessable()
    rights = [
        Right("SCAN", ("SCAN", 0, "COUNT", 1), True),
        *(Right(name, (name, key), True) for name in ("DUMP", "PTTL", "EXISTS", "UNLINK")),
        Right("PEXPIRETIME", ("PEXPIRETIME", key)),
    ]
    if job.size_check:
        rights.append(Right("MEMORY USAGE", ("MEMORY", "USAGE", key, "SAMPLES", 1)))
    return rights


def rights_by_type() -> list[Right]:
    """Return the calls on either side that compare values by their types, whole and in pieces."""
    key = unguessable()
    calls: list[Command] = [("TYPE", key), *(read_command(kind, key) for kind in READS)]
    calls += [call for kind in KINDS for call in trial_reads(kind, key)]
    rights = {right.name: right for right in map(right_of, calls)}
    return [right for name, right in rights.items() if name not in OPTIONAL]


def tell_feed(draft: Draft) -> str:
    """Return which feed there will be."""
    return _FEEDS[draft.feed]


def tell_consent(draft: Draft) -> str:
    """Return what will happen to keys of the target."""
    keys = sum(place.keys for place in draft.reverse)
    if not keys:
        return ""
    return (
        f"Of {count_of(keys, 'key')} of the target those in scope that the source lacks will be "
        "deleted, once you agree (--yes agrees)"
    )
