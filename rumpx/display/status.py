"""The output of `rumpx ctl`: a run's reply as a few plain lines.

::

    move  copying 41.3 %  ETA 0:03
      copied   412,345 keys, 5,000 keys/s, 1.3 MB/s
      limits   max-keys-per-sec 5000, max-target-latency 5ms
      latency  source 0.8 ms, target 1.2 ms
      workers  12 on 2 machines: a.example.com 8, b.example.com 4
      now      limited to 5,000 keys/s

and of a job that follows, once it has copied all keys, in place of the percentage::

    move  following
      waits    the source lacks 3,000 keys that the target has: rumpx ctl move accept-deletes
      follow   reconciling, 12 keys to settle, 9,640 changes/s

The reply is a dict from a process that may be of another version: missing and malformed items are
left out.
"""

from __future__ import annotations

import math
from typing import Any

from rumpx import units
from rumpx.display.lines import on_machines
from rumpx.text import legible


def status_lines(answer: dict[str, Any]) -> list[str]:
    """Format the reply for people; return no line if nothing of it is known.

    Args:
        answer: `job`, `state` and `reason` are text, `paused` a bool, `fraction` 0.0 to 1.0,
            `copied` keys, `keys_per_second` and `bytes_per_second` rates, `eta` seconds or None,
            `source_latency_ms` and `target_latency_ms` milliseconds, `limits` a dict from names
            to values (None for no limit), `workers` their number, `machines` a dict from hosts to
            the numbers of their workers, empty if all run on the coordinator's; `follow`, of a job
            that follows, a dict with the FollowStat, and as `text` its words.
    """
    answer = legible(answer)
    follow = _dict(answer.get("follow"))
    rows = {
        "waits": _text(follow.get("waits_for")),
        "follow": _text(follow.get("text")),
        "copied": ", ".join(_done(answer)),
        "limits": _limits(answer.get("limits")),
        "latency": ", ".join(_latencies(answer)),
        "workers": _workers(answer),
        "now": _text(answer.get("reason")),
    }
    told = [f"  {name:7}  {text}" for name, text in rows.items() if text]
    head = _head(answer)
    return [head, *told] if head else told


def _head(answer: dict[str, Any]) -> str:
    state = _text(answer.get("state"))
    if answer.get("paused") is True:
        state = f"{state} (paused)".lstrip()
    fraction, eta = _number(answer.get("fraction")), _number(answer.get("eta"))
    copies = _dict(answer.get("follow")).get("phase", "collecting") == "collecting"
    if fraction is not None and copies:
        state = f"{state} {units.percent(fraction)}".lstrip()
    left = "" if eta is None else f"ETA {units.clock(eta)}"
    return "  ".join(part for part in (_text(answer.get("job")), state, left) if part)


def _done(answer: dict[str, Any]) -> list[str]:
    copied = _number(answer.get("copied"))
    keys, size = _number(answer.get("keys_per_second")), _number(answer.get("bytes_per_second"))
    return [
        *([] if copied is None else [f"{units.keys(copied)} keys"]),
        *([] if keys is None else [units.key_rate(keys)]),
        *([] if size is None else [units.byte_rate(size)]),
    ]


def _limits(limits: Any) -> str:
    if not isinstance(limits, dict):
        return ""
    told = [f"{_text(name)} {v!s}" for name, v in limits.items() if v is not None]
    return ", ".join(told) or "none"


def _latencies(answer: dict[str, Any]) -> list[str]:
    sides = ((side, _number(answer.get(f"{side}_latency_ms"))) for side in ("source", "target"))
    return [f"{side} {latency:.1f} ms" for side, latency in sides if latency is not None]


def _workers(answer: dict[str, Any]) -> str:
    workers, machines = _number(answer.get("workers")), answer.get("machines")
    if workers is None:
        return ""
    told = _dict(machines).items()
    numbers = [(host, number) for host, there in told if (number := _number(there)) is not None]
    each = ", ".join(f"{host} {units.keys(number)}" for host, number in numbers)
    return on_machines(round(workers), len(numbers)) + (each and f": {each}")


def _number(value: Any) -> float | None:
    """Return a number that can be shown, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < math.inf else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
