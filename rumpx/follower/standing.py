"""How a follow stands: its phase, its gaps, its passes, the time in step, and what waits for the
user; it owns all of that.

Pure but for the clock. The follower notes what happens; `telling` reads it for displays and the
ledger.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import Final

from rumpx.follower.cutover import Cutover
from rumpx.follower.passes import Pass
from rumpx.model.follow import FollowFacts, Gap, Phase

_GAPS_KEPT: Final = 20
_RATE_SECONDS: Final = 5.0


class Standing:
    """The standing of one run.

    Args:
        before: the facts of earlier runs.
        certain: no change can have been missed so far.

    Attributes:
        certain: no change can have been missed since the keys were copied, or a pass has ended.
        gap: why events may have been lost since the last pass began, or why nothing is proven; ""
            if none can.
        settles: changed keys are settled, and not only noted.
        in_step_since: seconds since 1970; None if the target is not in step.
        whole_until: seconds since 1970; when it was last in step, the target had all changes from
            before that moment. None before the first time.
        copied_in: seconds of the job until the walks of the copy had ended; None before.
        under_way: the pass that is under way, or None.
        held_deletes: the deletes of a pass that wait for the user's consent.
        accepted: (database, key) pairs of failed keys that the user accepts.
        cutover: the last that this run was asked for, or None.
    """

    def __init__(self, before: FollowFacts, *, certain: bool) -> None:
        self.certain = certain
        self.gap = ""
        self.settles = False
        self.in_step_since: float | None = None
        self.whole_until: float | None = None
        self.copied_in = before.copied_in
        self.under_way: Pass | None = None
        self.held_deletes = 0
        self.accepted: set[tuple[int, bytes]] = set()
        self.cutover: Cutover | None = None
        self._facts = before
        self._gaps = deque(before.last_gaps, _GAPS_KEPT)
        self._step_seconds = 0.0
        self._rates: deque[tuple[float, int, int]] = deque()

    @property
    def phase(self) -> Phase:
        """See `Phase`."""
        if not self.settles:
            return "collecting"
        if self.in_step_since is not None:
            return "in step"
        return "reconciling" if self.has_passed else "proving"

    @property
    def has_passed(self) -> bool:
        """True if a pass of this job has ended."""
        return self._facts.passes > 0

    @property
    def last_pass(self) -> float | None:
        """The end of the last pass, in seconds since 1970."""
        return self._facts.last_pass

    @property
    def incomparable(self) -> int:
        """Keys that the last pass could not compare."""
        return self._facts.incomparable

    @property
    def wants_cutover(self) -> bool:
        """True if a cutover was asked for, and is not over."""
        return self.cutover is not None and not self.cutover.over

    @property
    def proven(self) -> bool:
        """True if a cutover has proven that all is on the target."""
        return self.cutover is not None and self.cutover.proven

    def gap_at(self, why: str) -> str:
        """Note that events may have been lost; until `mend`, further reasons are the same gap.

        Returns:
            A message for the user, at the first of them; else "".
        """
        self.step_ends()
        self.certain = False
        if self.gap:
            return ""
        self.gap = why
        self._gaps.append(Gap(time.time(), why))
        self._facts = replace(self._facts, gaps=self._facts.gaps + 1)
        since = "Changes"
        if self.whole_until is not None:
            since += time.strftime(" since %H:%M:%S", time.localtime(self.whole_until))
        return (
            f"{why[0].upper()}{why[1:]}. {since} may be missing on the target: a pass compares all "
            "keys."
        )

    def doubt(self) -> None:
        """Note that nothing is proven, until `mend`; what is lost meanwhile costs nothing."""
        self.gap = self.gap or "nothing is proven yet"

    def mend(self) -> None:
        """Begin to mend the gap: what is lost from now on is another."""
        self.gap = ""

    def trusts(self, source: str) -> bool:
        """Return True if a process of the source has proven to have its keys, by its identity."""
        return bool(source) and source == self._facts.source

    def trust(self, source: str) -> None:
        """Note that it has: the deletes of a pass were few, or the user has agreed."""
        self._facts = replace(self._facts, source=source)

    def passed(self, done: Pass) -> None:
        """Note the end of a pass."""
        self.certain = True
        self._facts = replace(
            self._facts,
            passes=self._facts.passes + 1,
            last_pass=time.time(),
            last_pass_found=done.found + done.number_of_extras,
            incomparable=done.incomparable,
            lossy=done.lossy,
        )

    def step_begins(self) -> None:
        """Note that the target is in step."""
        if self.in_step_since is None:
            self.in_step_since = time.time()

    def step_ends(self) -> None:
        """Note that it is not in step."""
        if self.in_step_since is not None:
            self._step_seconds += time.time() - self.in_step_since
            self.in_step_since = None

    def facts(self) -> FollowFacts:
        """Return the facts of the job so far, without those that others count."""
        since = self.in_step_since
        step = self._step_seconds + (0.0 if since is None else time.time() - since)
        return replace(
            self._facts,
            copied_in=self.copied_in,
            last_gaps=tuple(self._gaps),
            step_seconds=self._facts.step_seconds + step,
            cutover=self.cutover.facts if self.cutover else self._facts.cutover,
        )

    def per_second(self, now: float, changes: int, settled: int) -> tuple[float, float]:
        """Return the rates of changes and of settled keys over the last few seconds.

        Args:
            now: `time.monotonic()`.
            changes, settled: their numbers so far.
        """
        history = self._rates
        history.append((now, changes, settled))
        while len(history) > 2 and history[0][0] < now - _RATE_SECONDS:
            history.popleft()
        then, changed, done = history[0]
        span = now - then
        return ((changes - changed) / span, (settled - done) / span) if span > 0 else (0.0, 0.0)
