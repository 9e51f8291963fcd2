"""The feed that a follow will have: the best one that the source allows, proven by attaching it.

CLIENT TRACKING, where it is allowed; else keyspace notifications, where they are switched on for
all commands, and nothing that they do not report is in use; else none, and changes are found by
passes. Only a reply refuses a feed: after a lost connection it is tried again.
"""

from __future__ import annotations

import time
from typing import Final

from rumpx.errors import ConnectionLost, SourceUnusable
from rumpx.follower.feed import NOTIFICATIONS, TRACKING, Feed, FeedRefused, Manner, feed_name
from rumpx.follower.watch import notifies
from rumpx.model.follow import FeedKind
from rumpx.model.job import Job
from rumpx.servers.answers import ask_text
from rumpx.servers.dial import Dialer
from rumpx.servers.redials import growing_pause
from rumpx.servers.side import SideFacts, connected

# So long are lost connections tried again, but once at least.
_TRY_SECONDS: Final = 5.0
MANNERS: Final = {"tracking": TRACKING, "notifications": NOTIFICATIONS}
_ALLOW_TRACKING: Final = (
    "CLIENT TRACKING needs ACL SETUSER name +hello +client|setname +client|tracking "
    "+client|trackinginfo +subscribe +ping +info &rumpx:*."
)
_TRIED: Final[dict[str, tuple[FeedKind, ...]]] = {
    "auto": ("tracking", "notifications", "passes"),
    "tracking": ("tracking",),
    "notifications": ("notifications",),
    "passes": ("passes",),
}
_INSTEAD: Final[dict[FeedKind, str]] = {
    "notifications": "Keyspace notifications report them instead.",
    "passes": "Changes are found by passes instead, which compare both sides all the time.",
}


def feed_kind(job: Job, source: SideFacts) -> tuple[FeedKind, str]:
    """Return the feed that a follow will have, and a warning if it is not the best one, or "".

    Raises:
        SourceUnusable: the user asked for one that the source refuses; or all tries to attach it
            lose their connections.
    """
    refusals: list[str] = []
    for kind in _TRIED[job.feed]:
        refusal = _refusal(kind, job, source)
        if not refusal:
            told = f"{' '.join(refusals)} {_INSTEAD[kind]} {_ALLOW_TRACKING}" if refusals else ""
            return kind, told
        refusals.append(f"The source at {source.dialer.endpoint} {refusal}.")
    raise SourceUnusable(f"{' '.join(refusals)} {_ALLOW_TRACKING} Or give another --feed.")


def _refusal(kind: FeedKind, job: Job, source: SideFacts) -> str:
    """Return why a source does not allow a feed, as the end of a sentence; "" if it does."""
    if kind == "passes":
        return ""
    if kind == "notifications" and (why := _refuses_to_notify(job, source)):
        return why
    try:
        probe(MANNERS[kind], source.dialer, job)
    except FeedRefused as error:
        return f"does not report changed keys: {error}"
    return ""


def _refuses_to_notify(job: Job, source: SideFacts) -> str:
    """Return why keyspace notifications do not tell all, likewise."""
    modules = sorted({name for info in source.infos.values() if info for name in info.modules})
    if modules and job.feed == "auto":
        names = ", ".join(modules)
        return f"has modules ({names}), of whose keys notifications may not tell"
    with connected(source.dialer, source.topology.nodes[0].address) as connection:
        told = notifies(connection)
        stats = ask_text(connection, "INFO", "commandstats")
    if told is None:
        return "does not show its notify-keyspace-events (CONFIG GET)"
    if not told:
        return "does not notify of all changes: CONFIG SET notify-keyspace-events KA would"
    return "" if stats else "refuses INFO commandstats, without which FLUSHALL is not noticed"


def probe(manner: Manner, dialer: Dialer, job: Job) -> None:
    """Attach a feed, and end it again.

    Raises:
        FeedRefused: the source answers that it does not allow it.
        SourceUnusable: all tries lose their connections.
    """
    began, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            feed = Feed(
                manner,
                dialer,
                feed_name("probe"),
                job.scope,
                lambda names: None,
                lambda event: None,
            )
        except ConnectionLost as error:
            if tries > 1 and time.monotonic() - began > _TRY_SECONDS:
                raise SourceUnusable(
                    f"The feed of changed keys cannot be attached: {error} Check that the server "
                    "is running, or do without a feed by --feed passes."
                ) from None
        else:
            feed.close()
            return
        time.sleep(growing_pause(tries))
