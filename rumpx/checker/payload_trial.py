"""Prove by real payloads that the target can read the source's DUMPs.

DUMP the smallest sampled key of each type and encoding, RESTORE it on the target under an
unguessable name, with the copy's own command and a TTL of 10 seconds in it, and delete it: even if
the check is killed in between, nothing stays.

Payloads of modules' types are never restored: one may write elsewhere than under the key's name (a
graph of FalkorDB writes into the graph of its own name).

Not promised: types and encodings that are not in the sample, or only in large keys. Nothing is
overwritten, but a full target may evict for these few bytes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rumpx.checker.key_sample import Key
from rumpx.errors import EXIT_SOME_KEYS_FAILED, ConnectionLost, PayloadIncompatible, TargetFull
from rumpx.model.checkup import Line
from rumpx.model.option_kinds import KEY_TYPES
from rumpx.preflight.abilities import restore_options, unguessable
from rumpx.preflight.draft import Draft
from rumpx.servers.connections import Links
from rumpx.servers.rdb import OF_MODULES, version_of
from rumpx.servers.replies import Kind, classify
from rumpx.servers.topology import is_error
from rumpx.transfer.bridge import AS_IS, WAYS, Bridge, Fitted, Unfit
from rumpx.values.by_type import compared
from rumpx.values.reading import dumped
from rumpx.values.rewrite import FIELD_EXPIRIES

LIFETIME: Final = 10_000
# Larger values would delay other clients.
LARGEST: Final = 2**20
# If sizes are unknown: encodings of values that cannot be large.
_SMALL_ENCODINGS: Final = {"int", "embstr", "listpack", "ziplist", "intset"}
# Keys tried of each kind, since one may be deleted meanwhile.
_CANDIDATES: Final = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one payload.

    Attributes:
        version: in the source's payload.
        fitted: that which was sent, and how it was made; None if nothing fits.
        error: the target's error reply, or the reason why nothing fits; "" if it was accepted.
        left: the key stays until it expires.
        opaque: it belongs to a module, and was not tried.
        lossy: nothing fits but with a loss that the user has not accepted.
    """

    type: str
    encoding: str
    version: int
    fitted: Fitted | None = None
    error: str = ""
    left: bool = False
    opaque: bool = False
    lossy: bool = False

    @property
    def incompatible(self) -> bool:
        """Return True if the target could not read it."""
        unread = classify(self.error).reason in ("bad payload", "bad data")
        return bool(self.error) and (self.fitted is None or unread)

    @property
    def refused(self) -> bool:
        """Return True if the target refused to try it."""
        return bool(self.error) and not self.incompatible

    @property
    def kind(self) -> str:
        """Return the kind, as in `hash (listpack)`."""
        return f"{self.type} ({self.encoding})" if self.encoding else self.type


def prove_payloads(draft: Draft, keys: Sequence[Key]) -> list[Line]:
    """Restore one small payload of each kind in the sample, delete it, and report.

    Raises:
        RumpxError: a side no longer answers.
    """
    source = Links(draft.source.dialer, draft.source.topology)
    target = Links(draft.target.dialer, draft.target.topology)
    bridge = Bridge(draft.dialects.items(), draft.job.field_expiries, draft.shift)
    trials: list[Trial] = []
    try:
        for candidates in _candidates(keys):
            trial = _try_one(candidates, source, target, bridge, draft)
            if trial:
                trials.append(trial)
                if trial.refused:
                    break  # the others would fail alike
    finally:
        source.close()
        target.close()
    return _told(draft, keys, trials)


def _candidates(keys: Sequence[Key]) -> list[list[Key]]:
    """Return the smallest keys of each kind."""
    kinds: defaultdict[tuple[str, str], list[Key]] = defaultdict(list)
    for key in keys:
        small = key.encoding in _SMALL_ENCODINGS if key.bytes is None else key.bytes <= LARGEST
        if small:
            kinds[key.type, key.encoding].append(key)
    for found in kinds.values():
        found.sort(key=lambda key: key.bytes or 0)
    return [found[:_CANDIDATES] for _, found in sorted(kinds.items())]


def _try_one(
    candidates: Sequence[Key], source: Links, target: Links, bridge: Bridge, draft: Draft
) -> Trial | None:
    for key in candidates:
        try:
            payload = dumped(source.connect(key.node, key.db), key.name)
        except ConnectionLost:
            continue  # perhaps too large for the source; try the next one
        if payload:
            if payload[0] in OF_MODULES:
                return Trial(key.type, key.encoding, 0, opaque=True)
            version = version_of(payload)
            try:
                fitted = bridge.fitted(payload)
            except Unfit as error:
                if error.in_pieces:
                    continue
                lossy = error.reason == FIELD_EXPIRIES
                return Trial(key.type, key.encoding, version, error=error.message, lossy=lossy)
            db = draft.scope.target_db(key.db)
            refusal, left = _restore(target, db, fitted.payload, draft)
            return Trial(key.type, key.encoding, version, fitted, refusal, left)
    return None


def _restore(target: Links, db: int, payload: bytes, draft: Draft) -> tuple[str, bool]:
    """Return the target's error, or ""; and True if the payload stays until it expires."""
    name = unguessable()
    while target.cluster and target.owner(name) is None:  # an unserved slot
        name = unguessable()
    left = hasattr(draft, "abilities") and draft.abilities.expiry == "left"  # else reading failed
    absttl = draft.absttl and not left
    now = time.time() * 1000 + (draft.target.clock.offset or 0.0) if absttl else 0.0
    options = restore_options(replace=draft.replaces, absttl=absttl)
    connection = target.connect(target.owner(name), db)
    reply = connection.call("RESTORE", name, round(now) + LIFETIME, payload, *options)
    if reply != b"OK":
        return str(reply), False
    return "", all(is_error(connection.call(command, name)) for command in ("UNLINK", "DEL"))


def _told(draft: Draft, keys: Sequence[Key], found: Sequence[Trial]) -> list[Line]:
    lines = []
    opaque = sorted({trial.type for trial in found if trial.opaque})
    if opaque:
        lines.append(
            Line(
                "info",
                "payloads",
                f"Not proven, module types {', '.join(opaque)}: a module's payload may write "
                "outside the key it is restored to, so rumpx restores none as a proof",
            )
        )
    unread = ", ".join(sorted({key.type for key in keys if not compared(key.type)}))
    if unread:
        lines.append(
            Line(
                "info",
                "values",
                f"Not comparable by rumpx verify if DUMPs differ: values of {unread}, which no "
                "command reads whole. They count neither as equal nor as different; "
                "with --strict they cause exit code 4",
            )
        )
    keys = [key for key in keys if key.type not in opaque]
    trials = [trial for trial in found if not trial.opaque]
    taken = [trial for trial in trials if not trial.error]
    bad = [trial for trial in trials if trial.incompatible]
    versions = ", ".join(str(version) for version in sorted({trial.version for trial in trials}))
    if taken:
        lines.append(
            Line(
                "ok",
                "payloads",
                f"The target accepted payloads of version {versions}, restored under a random "
                f"name and deleted: {_by_way(taken)}",
            )
        )
    for loss, kinds in _kinds(taken, lambda fitted: fitted.loss).items():
        if loss:
            text = f"The target cannot hold the {loss} of {', '.join(kinds)}"
            lines.append(Line("warn", "payloads", text))
    if bad:
        lines.append(_incompatible(draft, bad, versions, everything=len(bad) == len(trials)))
    lines += [_unproven(trial.error) for trial in trials if trial.refused]
    if any(trial.left for trial in trials):
        lines.append(
            Line(
                "info",
                "payloads",
                "The target refuses UNLINK and DEL, so the test payloads stay until they expire, "
                f"{LIFETIME // 1000} s later.",
            )
        )
    if any(trial.refused for trial in trials):
        return lines  # the refusal explains the rest
    return lines + _unseen(keys, trials)


def _incompatible(
    draft: Draft, bad: Sequence[Trial], versions: str, *, everything: bool
) -> Line:
    lossy = any(trial.lossy for trial in bad)
    hopeless = everything and not lossy
    advice = "Copy to another target"
    if lossy:
        advice += ", or accept the loss by --field-expiries drop"
    elif not hopeless:
        advice += ", or leave these keys out with --type"
    why = "; ".join(dict.fromkeys(trial.error for trial in bad if not trial.fitted))
    return Line(
        "fail",
        "payloads",
        f"The target ({draft.target.version}) cannot read the payloads (version {versions}) that "
        f"the source ({draft.source.version}) writes, nor any that rumpx makes of them: "
        f"{', '.join(trial.kind for trial in bad)}" + (f" ({why})" if why else "") + ".",
        advice,
        PayloadIncompatible.exit_code if hopeless else EXIT_SOME_KEYS_FAILED,
    )


def _by_way(trials: Sequence[Trial]) -> str:
    """Return the kinds of payloads, by how they were made to fit."""
    kinds = _kinds(trials, lambda fitted: fitted.way)
    if list(kinds) == [AS_IS]:
        return ", ".join(kinds[AS_IS])
    return "; ".join(f"{way}: {', '.join(kinds[way])}" for way in WAYS if way in kinds)


def _kinds(trials: Sequence[Trial], name: Callable[[Fitted], str]) -> dict[str, list[str]]:
    """Return the kinds of accepted payloads, by a name of what was made of them."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for trial in trials:
        if trial.fitted:
            kinds[name(trial.fitted)].append(trial.kind)
    return kinds


def _unproven(error: str) -> Line:
    verdict = classify(error)
    if verdict.kind is Kind.FULL:
        return Line(
            "fail",
            "payloads",
            "The target is out of memory: it refused a small payload.",
            "Raise its maxmemory",
            TargetFull.exit_code,
        )
    if error.startswith("NOPERM") and verdict.kind is Kind.KEY:
        return Line(
            "warn",
            "payloads",
            "Not proven: the target's user may not write keys named rumpx:check:*, so no real "
            "payload was tried; only the copy would show an incompatible version.",
            "ACL SETUSER name ~rumpx:check:* for the duration of the check",
        )
    if verdict.kind is Kind.PERMANENT:
        return not_proven("the target refuses RESTORE")
    return Line("warn", "payloads", f"Not proven: the target answered {error}")


def _unseen(keys: Sequence[Key], trials: Sequence[Trial]) -> list[Line]:
    proven = {trial.type for trial in trials}
    large = sorted({key.type for key in keys} - proven)
    unseen = [kind for kind in KEY_TYPES if kind not in proven and kind not in large]
    parts = []
    if unseen:
        parts.append(f"{', '.join(unseen)} (no key in the sample)")
    if large:
        parts.append(f"{', '.join(large)} (no small key in the sample, or none could be read)")
    return [Line("info", "payloads", f"Not proven for {'; '.join(parts)}")] if parts else []


def not_proven(why: str) -> Line:
    """Return the line for payloads that were not tried."""
    return Line("info", "payloads", f"Not proven by real payloads: {why}")
