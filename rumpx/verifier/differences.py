"""The results of a comparison: a JSON Lines file, and differences by kind and prefix.

    {"kind": "expiry", "db": 0, "target_db": 0, "key": "user:1", "key_base64": "dXNlcjox",
     "detail": "+1000 ms", "repaired": false}

`kind` is "missing", "extra", "type", "value", "expiry", "changing" or "incomparable" (a value of a
module's type, which is the `detail`); `key` is the name as text, with bytes that are not UTF-8
escaped; `detail` never holds a value. The file is created with its first line. A repair rewrites it
atomically, with the result for each line.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TextIO

from rumpx.errors import UsageError, printable
from rumpx.files import open_anew, replacing
from rumpx.model.job import Scope
from rumpx.model.results import Finding, PrefixDifferences

PREFIXES_SHOWN: Final = 10
_PREFIXES_COUNTED: Final = 10_000
_OTHERS: Final = b""
# Number of names remembered to recognize keys found twice (SCAN may repeat keys).
NAMES_REMEMBERED: Final = 2_000_000
_PREFIX: Final = re.compile(rb"[^:/.|_\-{}]{1,40}[:/.|_\-]")
_REPAIR_CHUNK: Final = 20_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file."""

    kind: str
    db: int
    key: bytes
    text: str

    @property
    def repairable(self) -> bool:
        return self.kind not in ("changing", "extra", "incomparable")


def prefix_of(key: bytes) -> bytes:
    """Return the start of a key's name through its first separator; b"" if it has none."""
    found = _PREFIX.match(key)
    return found[0] if found else _OTHERS


class Findings:
    """Collects differences.

    Args:
        path: of the file.
        scope: maps databases to the target's.

    Attributes:
        kinds: number of differences by kind.
        changing: number of keys that were written during the comparison.
        incomparable: number of keys with incomparable values, by type.
    """

    def __init__(self, path: Path, scope: Scope) -> None:
        self.path = path
        self.kinds: Counter[str] = Counter()
        self.changing = 0
        self.incomparable: Counter[str] = Counter()
        self._scope = scope
        self._prefixes: dict[bytes, Counter[str]] = {}
        self._known: set[tuple[int, bytes]] = set()
        self._file: TextIO | None = None

    def add(self, finding: Finding, *, changing: bool = False) -> None:
        """Add a difference that was seen twice, a key that is `changing`, or one whose value cannot
        be compared.

        Raises:
            UsageError: the file cannot be written.
        """
        name = finding.db, finding.key
        if name in self._known:
            return
        if len(self._known) < NAMES_REMEMBERED:
            self._known.add(name)
        if changing:
            self.changing += 1
        elif finding.kind == "incomparable":
            self.incomparable[finding.detail] += 1
        else:
            self.kinds[finding.kind] += 1
            self._count_prefix(finding)
        self._write(finding, "changing" if changing else finding.kind)

    def _count_prefix(self, finding: Finding) -> None:
        prefix = prefix_of(finding.key)
        if prefix not in self._prefixes and len(self._prefixes) >= _PREFIXES_COUNTED:
            prefix = _OTHERS
        self._prefixes.setdefault(prefix, Counter())[finding.kind] += 1

    def _write(self, finding: Finding, kind: str) -> None:
        try:
            if self._file is None:
                self._file = open_anew(self.path)
            line = {
                "kind": kind,
                "db": finding.db,
                "target_db": self._scope.target_db(finding.db),
                "key": finding.key.decode("utf-8", "backslashreplace"),
                "key_base64": base64.b64encode(finding.key).decode(),
                "detail": finding.detail,
                "repaired": False,
            }
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from None

    @property
    def total(self) -> int:
        """Return the number of differences."""
        return self.kinds.total()

    def flush(self) -> Path | None:
        """Flush the file and return its path; None if no line was written."""
        try:
            if self._file:
                self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return self.path if self._file else None

    def prefixes(self) -> tuple[PrefixDifferences, ...]:
        """Return the prefixes with the most differences."""
        ranked = sorted(self._prefixes.items(), key=lambda item: -item[1].total())
        return tuple(
            PrefixDifferences(f"{printable(prefix)}*" if prefix else "(others)", dict(kinds))
            for prefix, kinds in ranked[:PREFIXES_SHOWN]
        )

    def chunks(self) -> Iterator[list[Line]]:
        """Yield the lines of the file in chunks."""
        self.flush()
        with open(self.path, encoding="ascii") as file:
            while texts := list(islice(file, _REPAIR_CHUNK)):
                yield [_parsed(text) for text in texts]

    def rewrite(self, chunks: Iterator[tuple[list[Line], set[tuple[int, bytes]]]]) -> int:
        """Rewrite the file with the repairs: chunks of lines, with the repaired keys of each.

        Returns:
            The number of repaired differences.
        """
        repaired = 0
        try:
            with replacing(self.path) as file:
                for lines, mended in chunks:
                    for line in lines:
                        fixed = (line.db, line.key) in mended
                        repaired += fixed
                        fields = json.loads(line.text) | {"repaired": fixed}
                        file.write(json.dumps(fields) + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return repaired

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def _parsed(text: str) -> Line:
    fields = json.loads(text)
    return Line(fields["kind"], fields["db"], base64.b64decode(fields["key_base64"]), text)


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"Cannot write the list of differences {path}: {error.strerror}. Choose another "
        "--differences."
    )
