"""What would be said again and again is said once, and how often."""

from __future__ import annotations

import json
from collections.abc import Callable

from support.copying import Copying
from support.servers import Server


def test_a_notice_of_every_batch_is_one_line_with_a_count(server: Callable[..., Server]) -> None:
    source, target = server("7.0"), server("7.0")
    with source.raw() as raw:
        raw.many([("SET", f"k:{n}", "v") for n in range(20_000)])
    with Copying(source, target, "--batch-keys", "100", "--workers", "2") as copying:
        with copying.held_at(target, 1):
            source.do("ACL", "SETUSER", "default", "-multi")
        done = copying.finish()

    (warning,) = [text for text in done.summary["warnings"] if "refuses MULTI" in text]
    assert warning.endswith(" times)")
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    told = [event["text"] for event in events if event["event"] == "message"]
    shown = [text for text in told if "refuses MULTI" in text]
    assert 1 <= len(shown) <= 3 and not shown[0].endswith("times)")
    assert done.counts["failed"] == 0 and target.do("DBSIZE") == 20_000
