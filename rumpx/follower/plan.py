"""Before a follow: the steps of a copy, those of `steps`, and the settings of workers that copy,
compare, delete and follow.

Everything here only reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from rumpx.engine.plan import Plan
from rumpx.errors import ConnectionLost, RumpxError
from rumpx.follower.steps import CONSENT, FOLLOW_STEPS
from rumpx.model.job import Job
from rumpx.model.partitions import NodeKeys
from rumpx.preflight.cursors import with_schemes
from rumpx.preflight.databases import find_databases
from rumpx.preflight.draft import Consent, Draft
from rumpx.preflight.steps import STEPS
from rumpx.preflight.worker_spec import scan_settings
from rumpx.servers.info import read_info
from rumpx.servers.replies import Kind, classify
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error
from rumpx.transfer.spec import WorkerSpec
from rumpx.verifier.plan import BothSides, compare_spec, reverse_databases

T = TypeVar("T")


def prepare_follow(job: Job, consent: Consent | None, *, again: bool = False) -> Plan:
    """Inspect, refuse, plan; see the module docstring.

    Args:
        consent: asks for permission to delete; None if nobody can be asked.
        again: the job is resumed, and the user has agreed before.

    Raises:
        SourceUnusable, TargetUnusable, TemporaryError, UsageError: the message says what to do.
    """
    draft = Draft(replace(job, on_conflict="replace"), consent=consent)
    for step in (*STEPS, *FOLLOW_STEPS, *(() if again else (CONSENT,))):
        step.take(draft)
    plan, warnings = draft.plan, list(draft.warnings)
    copying = plan.spec
    assert isinstance(copying, WorkerSpec)
    source = replace(plan.source.dialer, identifies=True)
    copying = replace(copying, source=source)
    sides = BothSides(job, plan.source, plan.target, plan.databases, draft.reverse)
    spec = compare_spec(sides, copying, warnings)
    scans = plan.scans | {"target": scan_settings(job, plan.target, copying.scope)}
    return replace(
        plan,
        source=replace(plan.source, dialer=source),
        spec=spec,
        scans=scans,
        warnings=tuple(dict.fromkeys(warnings)),
        target_keys=sum(place.keys for place in draft.reverse),
        feed=draft.feed,
    )


# The databases, now.


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
