"""The dead-letter file: every key that could not be copied, one JSON object a line.

    {"db": 0, "key_base64": "dXNlcjox", "key": "user:1", "reason": "busy key",
     "error": "the target's database 0 has this key with another value", "partition": "all keys"}

`key` is the name as text, with bytes that are not UTF-8 escaped; `error` is the server's message.
The file is written from the ledger, which owns the failures, when a run ends; it never holds a
value.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from rumpx.files import replacing
from rumpx.ledger.paths import dead_letter_path
from rumpx.ledger.schema import open_books


def write_dead_letters(ledger: Path) -> Path | None:
    """Write the file in one piece; returns its path, or None, without a file, if no key has failed.

    Raises:
        OSError: it cannot be written.
        UsageError: the ledger cannot be read.
    """
    path = dead_letter_path(ledger)
    count = 0
    with open_books(ledger) as books, replacing(path) as file:
        bounds = {walk.partition.id: str(walk.partition) for walk in books.walks()}
        for failed in books.failures():
            failure = failed.failure
            line = {
                "db": failure.db,
                "key_base64": base64.b64encode(failure.key).decode(),
                "key": failure.key.decode("utf-8", "backslashreplace"),
                "reason": failure.reason,
                "error": failure.message,
                "partition": bounds.get(failed.partition, "walked again"),
            }
            file.write(json.dumps(line) + "\n")
            count += 1
    if not count:
        path.unlink()
        return None
    return path
