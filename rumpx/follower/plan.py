"""Before a follow: the steps of a copy, those of a comparison, and what following needs beyond.

1. The copy's own steps, with the policy "replace".
2. The user's consent if the target holds keys in scope: the first pass deletes those that the
   source lacks.
3. The settings of workers that copy, compare, delete and follow.
4. Refuse what cannot be followed: a cluster, a feed that the source refuses although it was asked
   for, and two follows in opposite directions, which would copy each change to and fro for ever.

Everything here only reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from rumpx.engine.plan import Plan
from rumpx.errors import ConnectionLost, RumpxError, SourceUnusable, TargetUnusable, UsageError
from rumpx.follower.feed import NOTIFICATIONS, TRACKING, Feed, FeedRefused, Manner, feed_name
from rumpx.follower.watch import notifies
from rumpx.model.follow import FeedKind
from rumpx.model.job import Job
from rumpx.model.partitions import NodeKeys
from rumpx.preflight.cursors import with_schemes
from rumpx.preflight.databases import find_databases
from rumpx.preflight.steps import prepare
from rumpx.preflight.worker_spec import scan_settings
from rumpx.servers.answers import ask_text
from rumpx.servers.dial import Dialer
from rumpx.servers.info import read_info
from rumpx.servers.replies import Kind, classify
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error
from rumpx.transfer.spec import WorkerSpec
from rumpx.units import count_of
from rumpx.verifier.plan import BothSides, compare_spec, reverse_databases

T = TypeVar("T")
Consent = Callable[[str], bool]
"""Asks the user a question; returns True for yes."""

MOST_DIRTY: Final = 2_000_000
"""The most changed keys that are remembered while changes are settled."""
ACL_RULE: Final = "+hello +client|tracking +client|trackinginfo +subscribe +ping +info &rumpx:*"
"""The rights by which the source's user may have the better feed."""
_NAMES: Final = re.compile(r" name=rumpx:(\S+?):(feed:)?[0-9a-f]{8}(?:\.\d+)? ")


def prepare_follow(job: Job, consent: Consent | None, *, again: bool = False) -> Plan:
    """Inspect, refuse, plan; see the module docstring.

    Args:
        consent: asks for permission to delete; None if nobody can be asked.
        again: the job is resumed, and the user has agreed before.

    Raises:
        SourceUnusable, TargetUnusable, TemporaryError, UsageError: the message says what to do.
    """
    plan = prepare(replace(job, on_conflict="replace"))
    _refuse_clusters(plan)
    _refuse_opposite(plan)
    warnings = list(plan.warnings)
    if why := feed_kind(job, plan.source)[1]:
        warnings.append(why)
    if "off" in job.limits.schedule and not job.limits.exit_when_off:
        warnings.append(
            "While the timetable says off, changed keys are only noted: if they become more than "
            f"{MOST_DIRTY:,}, both sides are compared again afterwards."
        )
    databases = with_target(plan, warnings)
    if not again:
        _ask(job, sum(place.keys for place in databases.reverse), consent)
    copying = plan.spec
    assert isinstance(copying, WorkerSpec)
    source = replace(plan.source.dialer, identifies=True)
    copying = replace(copying, source=source)
    spec = compare_spec(databases, copying, warnings)
    scans = plan.scans | {"target": scan_settings(job, plan.target, copying.scope)}
    return replace(
        plan,
        job=job if again else replace(job, on_conflict="replace"),
        source=replace(plan.source, dialer=source),
        spec=spec,
        scans=scans,
        warnings=tuple(dict.fromkeys(warnings)),
        target_keys=sum(place.keys for place in databases.reverse),
    )


def _refuse_clusters(plan: Plan) -> None:
    for side in (plan.source, plan.target):
        if side.topology.cluster:
            name = side.dialer.side
            raise UsageError(
                f"The {name} is a cluster, which --follow cannot keep in step yet; copy it without "
                "--follow."
            )


def _ask(job: Job, keys: int, consent: Consent | None) -> None:
    """Require the user's consent for a target that holds keys."""
    if not keys:
        return
    held = f"The target already holds {count_of(keys, 'key')}"
    if not job.delete_extra:
        raise TargetUnusable(
            f"{held}, and --follow would delete those in scope that the source lacks. Give "
            "--delete-extra to allow it, or an empty target."
        )
    if consent is None:
        raise UsageError(
            f"{held}: --delete-extra asks before it deletes, but there is no terminal: give --yes."
        )
    if not consent(
        f"{held}. Delete those in scope that the source lacks, and overwrite the others?"
    ):
        raise TargetUnusable(f"{held}, and you have not allowed to delete any: nothing is copied.")


def feed_kind(job: Job, source: SideFacts) -> tuple[FeedKind, str]:
    """Return the feed that a follow will have, and a warning if it is not the best one, or "".

    Raises:
        SourceUnusable: the user asked for one that the source refuses.
    """
    refusals: list[str] = []
    for kind in _TRIED[job.feed]:
        refusal = _refusal(kind, job, source)
        if not refusal:
            told = f"{' '.join(refusals)} {_INSTEAD[kind]} {ALLOW_TRACKING}" if refusals else ""
            return kind, told
        refusals.append(f"The source at {source.dialer.endpoint} {refusal}.")
    raise SourceUnusable(f"{' '.join(refusals)} {ALLOW_TRACKING} Or give another --feed.")


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
ALLOW_TRACKING: Final = f"CLIENT TRACKING needs ACL SETUSER name {ACL_RULE}."


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


MANNERS: Final = {"tracking": TRACKING, "notifications": NOTIFICATIONS}


def probe(manner: Manner, dialer: Dialer, job: Job) -> None:
    """Attach a feed, and end it again.

    Raises:
        FeedRefused: the source does not allow it.
        SourceUnusable: the source does not answer now.
    """
    try:
        feed = Feed(
            manner, dialer, feed_name("probe"), job.scope, lambda names: None, lambda event: None
        )
    except ConnectionLost as error:
        raise FeedRefused(str(error).rstrip(".")) from None
    feed.close()


def _refuse_opposite(plan: Plan) -> None:
    """Refuse if another follow copies the target to the source: its feed is connected to our
    target, and its writers, of the same job, to our source."""
    feeds = {mark for mark, feed in _jobs_at(plan.target) if feed}
    writers = {mark for mark, feed in _jobs_at(plan.source) if not feed}
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


# The databases, now.


def with_target(plan: Plan, warnings: list[str]) -> BothSides:
    """Return both sides' databases that hold keys, by the plan's infos."""
    job, source, target = plan.job, plan.source, plan.target
    scope = plan.spec.scope
    back = with_schemes(target, reverse_databases(job, source, target, scope, warnings))
    return BothSides(job, source, target, plan.databases, back)


def databases_now(plan: Plan, warnings: list[str]) -> tuple[list[NodeKeys], list[NodeKeys]]:
    """Return the databases in scope that hold keys now: the source's, and the target's that the
    scope reaches.

    Raises:
        ConnectionLost: a side does not answer.
    """
    source, target = anew(plan.source), anew(plan.target)
    places = with_schemes(source, find_databases(plan.job, source, warnings))
    reverse = reverse_databases(plan.job, source, target, plan.spec.scope, warnings)
    return places, with_schemes(target, reverse)


def patiently(question: Callable[[], T]) -> Callable[[], T]:
    """Return a question that may be asked again (`Engine.ask`) where the functions of the preflight
    end a run: if a connection was lost."""

    def ask() -> T:
        try:
            return question()
        except RumpxError as error:
            if isinstance(error.__context__, ConnectionLost):
                raise error.__context__ from None
            raise

    return ask


def anew(side: SideFacts) -> SideFacts:
    """Return a side with its present INFO, once its data is loaded: until then that tells only the
    databases that are there already.

    Raises:
        ConnectionLost: it does not answer, or serves no commands now; as the context of another.
    """
    infos = {}
    for address in side.infos:
        with connected(side.dialer, address) as connection:
            reply = connection.call("DBSIZE")
            if is_error(reply) and classify(reply).kind is Kind.TEMPORARY:
                name = connection.name
                raise ConnectionLost(f"The {side.dialer.side} at {name} answers: {reply!s}.")
            infos[address] = read_info(connection)
    return replace(side, infos=infos)
