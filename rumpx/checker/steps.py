"""A check's preflight: the own steps of a copy, or follow, before its first write, one by one, as
lines.

A copy stops at the first refusal. A check turns each refusal into a ✗ with the copy's exit code,
and takes every later step whose needs are met, so the copy would stop at the first ✗. The steps
that try one key's permissions are replaced by `permissions`, which tries all commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from rumpx import units
from rumpx.checker.following import (
    BY_TYPE,
    FOLLOW,
    rights_by_type,
    rights_of_feed,
    rights_to_compare,
    rights_to_look_up,
    tell_consent,
    tell_feed,
)
from rumpx.checker.permissions import rights_to_read, rights_to_write, try_rights
from rumpx.checker.pieces import pieces_to_read, pieces_to_write, try_pieces
from rumpx.errors import RumpxError
from rumpx.follower.steps import CONSENT, FOLLOW_STEPS
from rumpx.model.checkup import Line
from rumpx.model.job import Job
from rumpx.model.slots import SLOTS
from rumpx.preflight.abilities import Sample
from rumpx.preflight.databases import chosen_databases
from rumpx.preflight.draft import Draft
from rumpx.preflight.refusals import eviction_policies
from rumpx.preflight.steps import STEPS, Step
from rumpx.servers.dialect import common
from rumpx.servers.side import SideFacts
from rumpx.text import server
from rumpx.units import count_of

_SUBJECTS: Final = {
    "source slots": "slots",
    "target slots": "slots",
    "target eviction": "eviction",
    "mapping": "databases",
    "target databases": "databases",
    "times": "clocks",
    "watching": "source",
    "target keys": "target keys",
    "conflicts": "target keys",
    "tuning": "plan",
    "followed source": "source",
    "followed target": "target",
    "looking up": "reading",
    "deleting": "writing",
    "reverse": "target keys",
    "consent": "target keys",
}
# Placeholders for findings of failed steps, so that later steps can run: writes are tried with any
# name, and a plan's cuts do not depend on the others.
_STAND_INS: Final[dict[str, tuple[str, object]]] = {
    "clocks": ("shift", 0),
    "reading": ("sample", Sample(None, 0, b"rumpx")),
    "writing": ("absttl", True),
    "versions": ("dialects", {}),
    "conflicts": ("policy", "fail"),
}
# The sample shows these better.
_LEFT_OUT: Final = {"room"}


def draft_of(job: Job) -> Draft:
    """Return the Draft of a copy or a follow; of its consent a check only tells."""
    return Draft(replace(job, on_conflict="replace"), consent=bool) if job.follow else Draft(job)


def take_steps(draft: Draft) -> list[Line]:
    """Take all possible steps; the Draft then holds their findings."""
    lines: list[Line] = []
    follows = (*FOLLOW_STEPS, CONSENT) if draft.job.follow else ()
    for step in (*STEPS, *follows):
        if step.name not in _LEFT_OUT:
            lines += _take(step, draft)
    return lines


def _take(step: Step, draft: Draft) -> list[Line]:
    subject = _SUBJECTS.get(step.name, step.name)
    tried = _try_rights(step, draft)
    lines = list(tried)
    if all(hasattr(draft, need) for need in step.needs):
        known = len(draft.warnings)
        try:
            step.take(draft)
        except RumpxError as error:
            if all(line.status != "fail" for line in tried):  # else the permissions explain it
                lines.append(Line("fail", subject, str(error), "", error.exit_code))
        else:
            warnings = [Line("warn", subject, text) for text in draft.warnings[known:]]
            told = _TELLS[step.name](draft) if step.name in _TELLS else ""
            if told:
                lines.append(Line("info" if warnings else "ok", subject, told))
            lines += warnings
    if step.name in _STAND_INS:
        attribute, value = _STAND_INS[step.name]
        if not hasattr(draft, attribute):
            setattr(draft, attribute, value)
    return lines


def _try_rights(step: Step, draft: Draft) -> list[Line]:
    """Try the permissions that a step needs; most need none."""
    job = draft.job
    try:
        if step.name == "reading" and hasattr(draft, "source"):
            databases = [place.db for place in getattr(draft, "databases", [])]
            lines = try_rights(draft.source, rights_to_read(job, draft.source, databases))
            return lines + try_pieces(draft.source, job, pieces_to_read())
        if step.name == "writing" and hasattr(draft, "target"):
            databases = draft.target_databases if hasattr(draft, "scope") else []
            lines = try_rights(draft.target, rights_to_write(draft, databases))
            pieces = pieces_to_write(replace=draft.replaces)
            return lines + try_pieces(draft.target, job, pieces)
        if step.name == "looking up" and hasattr(draft, "source"):
            lines = try_rights(draft.source, rights_to_look_up(), FOLLOW)
            return lines + try_rights(draft.source, rights_by_type(), FOLLOW, BY_TYPE)
        if step.name == "deleting" and hasattr(draft, "target"):
            lines = try_rights(draft.target, rights_to_compare(job), FOLLOW)
            return lines + try_rights(draft.target, rights_by_type(), FOLLOW, BY_TYPE)
        if step.name == "feed" and hasattr(draft, "source"):
            return try_rights(draft.source, rights_of_feed(job), FOLLOW)
    except RumpxError as error:
        return [Line("fail", step.name, str(error), "", error.exit_code)]
    return []


def _side(side: SideFacts) -> str:
    """Describe the server, and its used memory."""
    number = len(side.topology.nodes)
    kind = "one server"
    if side.topology.cluster:
        kind = f"cluster of {number} {'primary' if number == 1 else 'primaries'}"
    uri = server(str(side.dialer.endpoint), side.version)
    infos = [info for info in side.infos.values() if info]
    memory = f", {units.size(sum(info.used_memory for info in infos))} used" if infos else ""
    limit = sum(info.max_memory for info in infos)
    if limit:
        policies = sorted({info.policy for info in infos})
        memory += f" of {units.size(limit)} ({', '.join(policies)})"
    return f"{uri}, {kind}{memory}"


def _identity(draft: Draft) -> str:
    if None in [*draft.source.infos.values(), *draft.target.infos.values()]:
        return ""
    return "Source and target are different servers, neither a replica of the other"


def _slots(side: SideFacts) -> str:
    if not side.topology.cluster:
        return ""
    return f"The {side.dialer.side} serves all {SLOTS:,} slots"


def _role(draft: Draft) -> str:
    known = all(info and info.role for info in draft.target.infos.values())
    return "The target is a primary" if known else ""


def _certificate(side: SideFacts) -> str:
    tls = side.dialer.endpoint.tls
    return f"The {side.dialer.side}'s certificate is verified" if tls and not tls.insecure else ""


def _replication(draft: Draft) -> str:
    infos = [draft.source.infos[n.address] for n in draft.source.topology.nodes if not n.origin]
    links = [info.upstream for info in infos if info and info.upstream]
    primaries = sorted({link.primary for link in links if not link.lag})
    return f"The source is a replica connected to {', '.join(primaries)}" if primaries else ""


def _eviction(side: SideFacts) -> str:
    policies = eviction_policies(side)
    if None in side.infos.values():
        return ""
    how = f"may evict ({', '.join(policies)})" if policies else "evicts no keys"
    return f"The {side.dialer.side} {how}"


def _modules(draft: Draft) -> str:
    if None in [*draft.source.infos.values(), *draft.target.infos.values()]:
        return ""
    names = sorted({n for info in draft.source.infos.values() if info for n in info.modules})
    return f"The source has {', '.join(names)}" if names else "The source has no modules with types"


def _clocks(draft: Draft) -> str:
    source, target = draft.source.clock.offset, draft.target.clock.offset
    if source is None or target is None:
        return ""
    return f"The servers' clocks are {abs(target - source) / 1000:,.1f} s apart"


def _databases(draft: Draft) -> str:
    counts: dict[int, int] = {}
    for place in draft.databases:
        counts[place.db] = counts.get(place.db, 0) + place.keys
    if not counts:
        chosen = chosen_databases(draft.job)
        where = f"database {', '.join(map(str, chosen))}" if chosen else "any database"
        return f"The source holds no keys in {where}"
    listed = (f"{db}: {count_of(number, 'key')}" for db, number in sorted(counts.items()))
    return f"In database {', '.join(listed)}"


def _mapping(draft: Draft) -> str:
    pairs = draft.scope.map_db
    return f"Mapped: {', '.join(f'{a} to {b}' for a, b in pairs)}" if pairs else ""


def _target_keys(draft: Draft) -> str:
    if not draft.target_keys:
        return "The target is empty in the databases to write to"
    return f"The target holds {count_of(draft.target_keys, 'key')} already"


def _conflicts(draft: Draft) -> str:
    return f"Policy for keys that both have: {draft.policy}" if draft.target_keys else ""


def _versions(draft: Draft) -> str:
    dialect = common(draft.dialects.values())
    return f"The target accepts payloads of versions {dialect}" if dialect else ""


_TELLS: Final[dict[str, Callable[[Draft], str]]] = {
    "source": lambda draft: _side(draft.source),
    "target": lambda draft: _side(draft.target),
    "source certificate": lambda draft: _certificate(draft.source),
    "target certificate": lambda draft: _certificate(draft.target),
    "identity": _identity,
    "role": _role,
    "replication": _replication,
    "source slots": lambda draft: _slots(draft.source),
    "target slots": lambda draft: _slots(draft.target),
    "eviction": lambda draft: _eviction(draft.source),
    "target eviction": lambda draft: _eviction(draft.target),
    "modules": _modules,
    "clocks": _clocks,
    "databases": _databases,
    "mapping": _mapping,
    "versions": _versions,
    "target keys": _target_keys,
    "conflicts": _conflicts,
    "feed": tell_feed,
    "consent": tell_consent,
}
