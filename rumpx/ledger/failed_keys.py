"""The lists of keys that need attention, one JSON object a line.

The dead-letter file has every key that could not be copied:

    {"db": 0, "key_base64": "dXNlcjox", "key": "user:1", "reason": "busy key",
     "error": "the target's database 0 has this key with another value", "partition": "all keys"}

The file of losses has every key that was copied without something that the target cannot hold:

    {"db": 0, "key_base64": "dXNlcjox", "key": "user:1", "lost": "field expiries",
     "partition": "all keys"}

`key` is the name as text, with bytes that are not UTF-8 escaped; `error` is the server's message.
The files are written from the ledger, which owns the facts, when a run ends; they never hold a
value.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rumpx.files import replacing
from rumpx.ledger.paths import dead_letter_path, losses_path
from rumpx.ledger.schema import Books, N, Noted, open_books
from rumpx.model.results import KeyLoss, KeyNote


def write_dead_letters(ledger: Path) -> Path | None:
    """Write the file in one piece; returns its path, or None, without a file, if no key has failed.

    Raises:
        OSError: it cannot be written.
        UsageError: the ledger cannot be read.
    """
    return _written(ledger, dead_letter_path(ledger), Books.failures)


def write_losses(ledger: Path) -> Path | None:
    """As `write_dead_letters`, for keys that were copied with a loss."""
    return _written(ledger, losses_path(ledger), Books.losses)


def _written(
    ledger: Path, path: Path, noted: Callable[[Books], Iterable[Noted[N]]]
) -> Path | None:
    count = 0
    with open_books(ledger) as books, replacing(path) as file:
        bounds = {walk.partition.id: str(walk.partition) for walk in books.walks()}
        for each in noted(books):
            note = each.note
            name = {
                "db": note.db,
                "key_base64": base64.b64encode(note.key).decode(),
                "key": note.key.decode("utf-8", "backslashreplace"),
            }
            where = bounds.get(each.partition, "walked again")
            file.write(json.dumps(name | _facts(note) | {"partition": where}) + "\n")
            count += 1
    if not count:
        path.unlink()
        return None
    return path


def _facts(note: KeyNote) -> dict[str, Any]:
    if isinstance(note, KeyLoss):
        return {"lost": note.what}
    return {"reason": note.reason, "error": note.message}
