"""Will the target read what the source's DUMP writes? Proved by real payloads.

Of each type and encoding in the sample the smallest key is read by DUMP and restored to the target
under a name that nobody can guess, by the copy's own command, with a time to live of 10 seconds in
it, and then deleted: whatever ends the check in between, nothing stays.

Payloads of modules' types are never restored: one may write elsewhere than under the key's name (a
graph of FalkorDB writes into the graph of its own name).

Not promised: anything for types and encodings that are not in the sample, or whose keys there are
all large; and nothing is written over, but a target that is full may evict for these few bytes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rumpx.check.document import Line
from rumpx.check.rights import unguessable
from rumpx.check.sample import Key
from rumpx.copy.abilities import restore_options
from rumpx.copy.links import Links
from rumpx.copy.prepare import Draft
from rumpx.errors import EXIT_SOME_KEYS_FAILED, ConnectionLost, PayloadIncompatible, TargetFull
from rumpx.job import KEY_TYPES
from rumpx.servers.replies import Kind, classify
from rumpx.servers.topology import is_error
from rumpx.values.by_type import CHECKSUM_BYTES, OF_MODULES, compared
from rumpx.values.reading import dumped
from rumpx.values.shapes import FOOTER_BYTES

LIFETIME: Final = 10_000
# Larger ones would be felt by other clients.
LARGEST: Final = 2**20
# Where sizes are not told: values that cannot be large.
_SMALL_ENCODINGS: Final = {"int", "embstr", "listpack", "ziplist", "intset"}
# Tried of a kind, since one may be deleted meanwhile.
_CANDIDATES: Final = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one payload: `error` is the target's answer, "" if it took it; one that is
    `opaque` is a module's, and was not tried."""

    type: str
    encoding: str
    version: int
    error: str = ""
    left: bool = False
    opaque: bool = False

    @property
    def incompatible(self) -> bool:
        """Whether the target could not read it."""
        return bool(self.error) and classify(self.error).reason in ("bad payload", "bad data")

    @property
    def refused(self) -> bool:
        """Whether the target would not even look at it."""
        return bool(self.error) and not self.incompatible

    @property
    def kind(self) -> str:
        """`hash (listpack)`."""
        return f"{self.type} ({self.encoding})" if self.encoding else self.type


def prove_payloads(draft: Draft, keys: Sequence[Key]) -> list[Line]:
    """Restore one small payload of each kind in the sample, delete it again, and tell.

    Raises:
        RumpxError: a side does not answer any more.
    """
    source = Links(draft.source.dialer, draft.source.topology)
    target = Links(draft.target.dialer, draft.target.topology)
    trials: list[Trial] = []
    try:
        for candidates in _candidates(keys):
            trial = _try_one(candidates, source, target, draft)
            if trial:
                trials.append(trial)
                if trial.refused:
                    break  # it would be so for the others
    finally:
        source.close()
        target.close()
    return _told(draft, keys, trials)


def _candidates(keys: Sequence[Key]) -> list[list[Key]]:
    """The smallest keys of each kind."""
    kinds: defaultdict[tuple[str, str], list[Key]] = defaultdict(list)
    for key in keys:
        small = key.encoding in _SMALL_ENCODINGS if key.bytes is None else key.bytes <= LARGEST
        if small:
            kinds[key.type, key.encoding].append(key)
    for found in kinds.values():
        found.sort(key=lambda key: key.bytes or 0)
    return [found[:_CANDIDATES] for _, found in sorted(kinds.items())]


def _try_one(
    candidates: Sequence[Key], source: Links, target: Links, draft: Draft
) -> Trial | None:
    for key in candidates:
        try:
            payload = dumped(source.connect(key.node, key.db), key.name)
        except ConnectionLost:
            continue  # it may be more than the source passes; the next one tells
        if payload:
            if payload[0] in OF_MODULES:
                return Trial(key.type, key.encoding, 0, opaque=True)
            version = int.from_bytes(payload[-FOOTER_BYTES:-CHECKSUM_BYTES], "little")
            error, left = _restore(target, draft.scope.target_db(key.db), payload, draft)
            return Trial(key.type, key.encoding, version, error, left)
    return None


def _restore(target: Links, db: int, payload: bytes, draft: Draft) -> tuple[str, bool]:
    """The target's complaint, or ""; and whether the payload stays until it expires."""
    name = unguessable()
    while target.cluster and target.owner(name) is None:  # a slot that nobody serves
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
                "elsewhere than where it is restored, so none is restored as a proof",
            )
        )
    unread = ", ".join(sorted({key.type for key in keys if not compared(key.type)}))
    if unread:
        lines.append(
            Line(
                "info",
                "values",
                f"Not comparable by rumpx verify where DUMPs differ: values of {unread}, "
                "which no command reads whole. They count neither as equal nor as different; "
                "--strict makes that exit 4",
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
                f"The target took payloads of version {versions}, restored under a random name "
                f"and deleted again: {', '.join(trial.kind for trial in taken)}",
            )
        )
    if bad:
        lines.append(_incompatible(draft, bad, versions, everything=len(bad) == len(trials)))
    lines += [_unproven(trial.error) for trial in trials if trial.refused]
    if any(trial.left for trial in trials):
        lines.append(
            Line(
                "info",
                "payloads",
                "The target refuses UNLINK and DEL, so the payloads of this proof stay until they "
                f"expire, {LIFETIME // 1000} s later.",
            )
        )
    if any(trial.refused for trial in trials):
        return lines  # which says enough
    return lines + _unseen(keys, trials)


def _incompatible(
    draft: Draft, bad: Sequence[Trial], versions: str, *, everything: bool
) -> Line:
    hopeless = everything and all(classify(t.error).reason == "bad payload" for t in bad)
    return Line(
        "fail",
        "payloads",
        f"The target ({draft.target.version}) cannot read the payloads (version {versions}) that "
        f"the source ({draft.source.version}) writes: {', '.join(trial.kind for trial in bad)}.",
        "A payload loads only into the same or a newer version: copy to a newer target"
        + ("" if hopeless else ", or leave these keys out by --type"),
        PayloadIncompatible.exit_code if hopeless else EXIT_SOME_KEYS_FAILED,
    )


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
            "payload was tried; an incompatible version would show only in the copy.",
            "ACL SETUSER name ~rumpx:check:* for the time of the check",
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
        parts.append(f"{', '.join(large)} (no small one in the sample, or none was read)")
    return [Line("info", "payloads", f"Not proven for {'; '.join(parts)}")] if parts else []


def not_proven(why: str) -> Line:
    """The line where no proof was made."""
    return Line("info", "payloads", f"Not proven by real payloads: {why}")
