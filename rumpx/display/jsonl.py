"""`--progress json`: one JSON object a second, one a line, for programs that watch a copy; and
`--log-format json`: the same objects as a log, one each 30 seconds.

Every object has "version" (1), "event" and "time" (RFC 3339, UTC, in milliseconds). The schema
is in `events.schema.json` beside this file (JSON Schema, draft 2020-12); in short:

"event": "progress"
    state               "starting", "copying", "checking", "comparing", "draining", "done",
                        "failed", "stopped"
    job                 its name
    verb                "copied", or "compared" for rumpx verify
    source, target      URIs without credentials
    elapsed             seconds since the copy began
    fraction            0.0 to 1.0
    counts              {copied, gone, skipped, repeated, failed, payload_bytes, equal, different,
                        missing, extra, found, changing, deleted, incomparable}: each key once
    work                the same with what was walked again
    keys_expected       the source's number of keys at the start; with filters an upper bound
    keys_per_second, bytes_per_second
    eta                 seconds left, or null while unknown
    rows                [{label, fraction, counts, done}, …]: one a node, or one a partition
    workers             [{pid, cpu, memory, batches}, …]: percent of one core, and bytes
    worker_restarts     workers that died and were replaced
    batches_in_flight   batches that workers hold
    coordinator_cpu, coordinator_memory
    note                what the run waits for, or ""
    held                {reason, off, source_latency, target_latency, by, share, seconds}: what
                        holds the run, or ""; whether it is told to wait; how much longer than at
                        best a PING takes, in seconds (the second-highest of the last second), or
                        null; the reasons' names; 0.0 to 1.0 of a full run; for how many seconds
                        each of these names has held this run
    nodes               [{side, label, latency, cpu, memory, max_memory}, …]: each server as it is
                        felt, and as its INFO says (percent of one core, bytes); null if unknown
    failures            {reason: number of keys that failed in this run}

"event": "message"
    text                a warning, or something that happened once

"event": "summary", once, after everything else
    the document that `--summary` writes; see `Summary`

"event": "error", in logs, once, if the run ended early
    text                why
    exit_code           the command's
    resume              the command that goes on, or null

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

from rumpx.display.lines import LINE_PERIOD, TextDisplay
from rumpx.errors import RumpxError
from rumpx.model.content import NO_CONTENT
from rumpx.model.results import Summary, Verification
from rumpx.model.snapshot import Snapshot

JSON_VERSION: Final = 1
JSON_PERIOD: Final = 1.0


def json_lines(stream: TextIO) -> TextDisplay:
    """The display behind `--progress json`."""
    return TextDisplay(stream, JSON_PERIOD, progress_json, message_json)


def json_log(stream: TextIO) -> TextDisplay:
    """The display behind `--log-format json`."""
    return TextDisplay(stream, LINE_PERIOD, progress_json, message_json)


def progress_json(snapshot: Snapshot) -> str:
    """One snapshot as a JSON object."""
    # A thousand partitions a second are too much to read, and `rows` sums them up; what the keys
    # are is told at the end.
    told = dataclasses.replace(snapshot, partitions=(), content=NO_CONTENT)
    fields = dataclasses.asdict(told)
    del fields["partitions"], fields["content"]
    return _event("progress", fields)


def message_json(text: str) -> str:
    """One message as a JSON object."""
    return _event("message", {"text": text})


def summary_json(summary: Summary | Verification) -> str:
    """The end of a run as a JSON object."""
    return _event("summary", summary.to_json())


def error_json(error: RumpxError) -> str:
    """Why a run ended early, as a JSON object."""
    told = {"text": str(error), "exit_code": error.exit_code, "resume": error.resume}
    return _event("error", told)


def _event(event: str, fields: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"version": JSON_VERSION, "event": event, "time": time, **fields})
