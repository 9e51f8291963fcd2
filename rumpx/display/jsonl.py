"""`--progress json`: one JSON object a second, one a line, for programs that watch a copy; and
`--log-format json`: the same objects as a log, one every 30 seconds.

Every object has "version" (1), "event" and "time" (RFC 3339, UTC, in milliseconds). The schema
is in `events.schema.json` beside this file (JSON Schema, draft 2020-12); in short:

"event": "progress"
    state               "starting", "copying", "checking", "comparing", "following", "draining",
                        "done", "failed", "stopped"
    job                 its name
    verb                "copied", or "compared" for rumpx verify
    source, target      URIs without credentials
    elapsed             seconds since the copy started
    fraction            0.0 to 1.0 of the walk; 1.0 while a job follows
    counts              {copied, gone, skipped, repeated, failed, payload_bytes, equal, different,
                        missing, extra, found, changing, deleted, incomparable, rewritten, lossy}:
                        each key once, but rewritten and lossy, which are among copied or equal
    work                the same, keys walked again included
    keys_expected       the source's number of keys at the start; with filters an upper bound
    keys_per_second, bytes_per_second
    eta                 seconds left, or null while unknown
    rows                [{label, fraction, counts, done}, …]: one a node, or one a partition
    workers             [{pid, cpu, memory, batches, host}, …]: percent of one core, and bytes;
                        the machine of a worker of a Dask cluster, "" for this one
    worker_restarts     workers that died and were replaced
    batches_in_flight   batches that workers hold
    coordinator_cpu, coordinator_memory
    note                the event that the run waits for, or ""
    held                {reason, off, source_latency, target_latency, by, share, seconds}: the
                        reason for throttling, or ""; True while no work may start; the PING time
                        above the idle one, in seconds (the second-highest of the last second), or
                        null; the names of the causes; 0.0 to 1.0 of full pace; for each of these
                        names the seconds that it has throttled this run
    nodes               [{side, label, latency, cpu, memory, max_memory}, …]: latency as measured,
                        the rest from the server's INFO (percent of one core, bytes); null if
                        unknown
    failures            {reason: number of keys that failed in this run}
    follow              null, or of a job that follows its source:
      phase             "collecting" (while keys are copied), "proving", "in step", "reconciling"
      feed              "tracking", "notifications" or "passes"
      lag               seconds since the oldest change that is not settled; null while unknown
      dirty             changed keys that are not settled
      changes_per_second, settled_per_second
      pass_fraction     0.0 to 1.0 of the pass under way, or null
      held_deletes      keys that only the target has, and that wait for consent to be deleted
      failed            keys that could not be settled
      in_step_since     seconds since 1970, or null
      waits_for         a sentence, or ""
      facts             of all runs: {copied_in, changes, settled, deleted, gaps, last_gaps, passes,
                        last_pass, last_pass_found, step_seconds, incomparable, lossy,
                        accepted_failures, cutover, source}, as in `model.follow.FollowFacts`

"event": "message"
    text                a warning, or another event

"event": "summary", once, after everything else
    the document that `--summary` writes; see `Summary`

"event": "error", in logs, once, if the run ended early
    text                the error
    exit_code           of the command
    resume              the command that resumes the job, or null

A progress object is also written at each change of state, at the end, and on SIGUSR1. The fields
are those of `Snapshot`. Later versions of rumpx may add keys; "version" rises only when a key
changes its meaning or is removed. Every object is ASCII. The lines do not log each key: failed keys
are in `--summary`.
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
    """Return the display for `--progress json`."""
    return TextDisplay(stream, JSON_PERIOD, progress_json, message_json)


def json_log(stream: TextIO) -> TextDisplay:
    """Return the display for `--log-format json`."""
    return TextDisplay(stream, LINE_PERIOD, progress_json, message_json)


def progress_json(snapshot: Snapshot) -> str:
    """Return one snapshot as a JSON object."""
    # A thousand partitions a second are too many to read, and `rows` sums them up; the summary
    # contains the key statistics.
    told = dataclasses.replace(snapshot, partitions=(), content=NO_CONTENT)
    fields = dataclasses.asdict(told)
    del fields["partitions"], fields["content"]
    return _event("progress", fields)


def message_json(text: str) -> str:
    """Return one message as a JSON object."""
    return _event("message", {"text": text})


def summary_json(summary: Summary | Verification) -> str:
    """Return the end of a run as a JSON object."""
    return _event("summary", summary.to_json())


def error_json(error: RumpxError) -> str:
    """Return the error that ended a run early, as a JSON object."""
    told = {"text": str(error), "exit_code": error.exit_code, "resume": error.resume}
    return _event("error", told)


def _event(event: str, fields: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"version": JSON_VERSION, "event": event, "time": time, **fields})
