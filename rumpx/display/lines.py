"""Plain lines for logs: one every 30 seconds, and one whenever the state of the run or the phase of
its follow changes.

::

    12:31:05 copying 41.3 %  412,345 of ~1,000,000 keys  172,345 keys/s  46.1 MB/s  ETA 0:03
    gone 12  failed 0  workers 4                      (all of it on one line)

`TextDisplay` writes any kind of text at a given interval; `lines` and `quiet` (only messages and
the output of SIGUSR1) are two uses of it, the JSON lines a third. Lines are ASCII, except for
messages. `skipped`, `repeated`, `restarts` and a note appear in a line only if they are not zero or
empty. Each line starts with the local time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, TextIO

from rumpx import units
from rumpx.model.follow import Phase, follow_in_words
from rumpx.model.snapshot import Snapshot, State
from rumpx.text import legible, one_line, say

LINE_PERIOD: Final = 30.0
ENDED: Final = frozenset[State]({"done", "failed", "stopped"})


class TextDisplay:
    """Writes a text for a snapshot when the state changes, each `period` seconds, and at the end.

    Writes in the caller's thread, and so may block and raise as its stream does.
    """

    def __init__(
        self,
        stream: TextIO,
        period: float,
        snapshot_text: Callable[[Snapshot], str],
        message_text: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._period = period
        self._snapshot_text = snapshot_text
        self._message_text = message_text
        self._clock = clock
        self._due = -math.inf
        self._written: Snapshot | None = None
        self._latest: Snapshot | None = None

    def start(self) -> None:
        """Prepare nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Write the snapshot if it is due, or its state or the phase of its follow is new."""
        self._latest = snapshot
        changed = self._written is None or _stage(self._written) != _stage(snapshot)
        if self._clock() >= self._due or changed:
            self.now(snapshot)

    def now(self, snapshot: Snapshot) -> None:
        """Write the snapshot."""
        self._written = snapshot
        self._due = self._clock() + self._period
        self._write(self._snapshot_text(snapshot))

    def message(self, text: str) -> None:
        """Write one message."""
        self._write(self._message_text(one_line(text)))

    def pause(self) -> None:
        """Do nothing: lines leave the terminal free."""

    def go_on(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Write the last snapshot, unless it is already written."""
        if self._latest is not None and self._latest is not self._written:
            self.now(self._latest)

    def _write(self, text: str) -> None:
        say(text, stream=self._stream)


def _stage(snapshot: Snapshot) -> tuple[State, Phase | None]:
    return snapshot.state, snapshot.follow.phase if snapshot.follow else None


class _Quiet(TextDisplay):
    """Writes only messages, and snapshots requested by `now`."""

    def show(self, snapshot: Snapshot) -> None:
        """Do nothing."""


def lines(stream: TextIO) -> TextDisplay:
    """Return the display for `--progress line`."""
    return TextDisplay(stream, LINE_PERIOD, lambda snapshot: stamped(line(snapshot)), stamped)


def text_log(stream: TextIO) -> TextDisplay:
    """Return the display for `--log-file`."""
    return TextDisplay(stream, LINE_PERIOD, lambda snapshot: dated(line(snapshot)), dated)


def quiet(stream: TextIO) -> TextDisplay:
    """Return the display for `--progress none`."""
    return _Quiet(stream, math.inf, lambda snapshot: stamped(line(snapshot)), stamped)


def line(snapshot: Snapshot) -> str:
    """Describe the run in one line, without the time of day."""
    snapshot = legible(snapshot)
    follows = snapshot.follow and snapshot.follow.copied
    parts = [*_standing(snapshot), "copied " * bool(follows) + done_keys(snapshot)]
    if snapshot.state in ENDED:
        parts.append(f"in {units.duration(snapshot.elapsed)}")
    else:
        parts.append(units.key_rate(snapshot.keys_per_second))
        parts.append(units.byte_rate(snapshot.bytes_per_second))
    if snapshot.eta is not None and snapshot.state not in ENDED:
        parts.append(f"ETA {units.clock(snapshot.eta)}")
    parts += [f"{word} {units.keys(count)}" for word, count in outcomes(snapshot)]
    parts.append(f"workers {on_machines(len(snapshot.workers), len(snapshot.machines))}")
    if snapshot.worker_restarts:
        parts.append(f"restarts {snapshot.worker_restarts}")
    if snapshot.job:
        parts.append(f"job {snapshot.job}")
    if snapshot.held.reason and snapshot.state not in ENDED:
        parts.append(f"({snapshot.held.reason})")
    if snapshot.note:
        parts.append(f"({snapshot.note})")
    return "  ".join(parts)


def _standing(snapshot: Snapshot) -> list[str]:
    """Return the state and the percentage of the walk, and how a follow stands."""
    follow, state = snapshot.follow, str(snapshot.state)
    if not (follow and follow.copied):
        state += f" {units.percent(snapshot.fraction)}"
    if not follow:
        return [state]
    waits = [f"waits: {follow.waits_for}"] if follow.waits_for else []
    ended = snapshot.state in ENDED
    return [state, *waits, *follow_in_words(follow, ended=ended, now=time.time())]


def done_keys(snapshot: Snapshot) -> str:
    """Return `412,345 of ~1,000,000 keys`; without the expected number if there is none, or all are
    copied."""
    counts, follow = snapshot.counts, snapshot.follow
    count = units.keys(counts.copied if snapshot.verb == "copied" else counts.compared)
    copied = snapshot.state == "done" or (follow and follow.copied)
    if not snapshot.keys_expected or copied:
        return f"{count} keys"
    return f"{count} of ~{units.keys(snapshot.keys_expected)} keys"


def on_machines(workers: int, machines: int) -> str:
    """Return `12 on 3 machines`; the number of workers alone if they run on this machine."""
    if not machines:
        return units.keys(workers)
    return f"{units.keys(workers)} on {units.keys(machines)} machine" + "s" * (machines != 1)


def outcomes(snapshot: Snapshot) -> list[tuple[str, int]]:
    """Return the counts of keys that were not copied, with their names; once a follow has copied
    all, of those that it has settled since."""
    counts, follow = snapshot.counts, snapshot.follow
    if follow and follow.copied:
        facts = follow.facts
        return [("settled", facts.settled), ("deleted", facts.deleted), ("failed", follow.failed)]
    rare = [
        ("skipped", counts.skipped),
        ("repeated", counts.repeated),
        ("different", counts.different),
        ("missing", counts.missing),
        ("extra", counts.extra),
        ("deleted", counts.deleted),
        ("not comparable", counts.incomparable),
    ]
    return [
        ("gone", counts.gone),
        *((word, count) for word, count in rare if count),
        ("failed", counts.failed),
    ]


def stamped(text: str) -> str:
    """Return the text after the local time of day."""
    return f"{time.strftime('%H:%M:%S')} {text}"


def dated(text: str) -> str:
    """Return the text after the local date and time, with the offset from UTC."""
    return f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}"
