"""`--progress json`: one JSON object a second, one a line, for programs that watch a copy.

Every object has "version" (1), "event" and "time" (RFC 3339, UTC, in milliseconds).

"event": "progress"
    state               "starting", "copying", "checking", "comparing", "draining", "done",
                        "failed", "stopped"
    job                 its name
    verb                "copied", or "compared" for rumpx verify
    source, target      URIs without credentials
    elapsed             seconds since the copy began
    fraction            0.0 to 1.0
    counts              {copied, gone, skipped, repeated, failed, payload_bytes, equal, different,
                        missing, extra, found, changing, deleted}
    keys_expected       the source's number of keys at the start; with filters an upper bound
    keys_per_second, bytes_per_second
    eta                 seconds left, or null while unknown
    rows                [{label, fraction, counts, done}, …]: one a node, or one a partition
    workers             [{pid, cpu, memory, batches}, …]: percent of one core, and bytes
    worker_restarts     workers that died and were replaced
    batches_in_flight   batches that workers hold
    coordinator_cpu, coordinator_memory
    note                what the run waits for, or ""
    held                {reason, off, source_latency, target_latency}: what holds the run, or "";
                        whether it is told to wait; how much longer than at best a PING takes, in
                        seconds (the second-highest of the last second), or null

"event": "message"
    text                a warning, or something that happened once

"event": "summary", once, after everything else
    the document that `--summary` writes; see `Summary`

A progress object comes also whenever the state changes, at the end, and on SIGUSR1. The fields
are those of `Snapshot`. Later versions of rumpx may add keys; "version" rises only when one
changes its meaning or goes. Every object is ASCII. The lines are no log of each key: what failed
stands in `--summary`.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from rumpx.report.lines import TextDisplay
from rumpx.report.snapshot import Snapshot, Summary, Verification

JSON_VERSION: Final = 1
JSON_PERIOD: Final = 1.0


def json_lines(stream: TextIO) -> TextDisplay:
    """The display behind `--progress json`."""
    return TextDisplay(stream, JSON_PERIOD, progress_json, message_json)


def progress_json(snapshot: Snapshot) -> str:
    """One snapshot as a JSON object."""
    return _event("progress", dataclasses.asdict(snapshot))


def message_json(text: str) -> str:
    """One message as a JSON object."""
    return _event("message", {"text": text})


def summary_json(summary: Summary | Verification) -> str:
    """The end of a run as a JSON object."""
    return _event("summary", summary.to_json())


def _event(event: str, fields: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"version": JSON_VERSION, "event": event, "time": time, **fields})
