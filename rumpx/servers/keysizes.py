"""Read from INFO's section `keysizes` (Redis ≥ 8.0) how large a database's values can be, and how
large the largest values are at least.

For each database and type the section counts the keys of each class, a power of two: class 4K
holds 4,096 to 8,191. For strings these are bytes (`db0_distrib_strings_sizes:16=9,4K=2`). For
lists, sets, sorted sets and hashes they are members (`db0_distrib_hashes_items`), which bound no
bytes, as members have sizes of their own; only Redis ≥ 8.6 with `key-memory-histograms` counts the
bytes of those too (`db0_distrib_hashes_sizes`). Streams, vector sets and types of modules are in no
class, so the counts say something of all values only where their sum is the database's number of
keys, in the same reply.

Not promised: a bound of the values of a later moment.

Source: Redis's `INFO` documentation, tests/unit/info-keysizes.tcl; 8.2.3 was tried, the byte
classes of collections were not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from rumpx.servers.info import parse_info
from rumpx.servers.resp import encode

SECTIONS: Final = encode("INFO", "keysizes", "keyspace")
"""The request for `largest_payloads`: both sections are of one moment."""

_DISTRIBUTION: Final = re.compile(r"^db(\d{1,9})_distrib_([a-z]+)_(sizes|items):(.*)$", re.M)
_CLASS: Final = re.compile(r"(\d{1,4})([KMGTPE]?)=(\d{1,18})")
_UNITS: Final = " KMGTPE"
# A string's payload besides its bytes: type, length (two if compressed), version, checksum.
_PAYLOAD_FRAME: Final = 18


def largest_payloads(text: str) -> dict[int, int]:
    """Return, by database, how many bytes the DUMP of a value has at most.

    Args:
        text: the reply to `SECTIONS`.

    Returns:
        Only the databases of which it is proven.

    Raises:
        ValueError: the text is not INFO's.
    """
    counted: dict[int, dict[tuple[str, str], list[tuple[int, int]]]] = {}
    for db, kind, unit, classes in _DISTRIBUTION.findall(text):
        counted.setdefault(int(db), {})[kind, unit] = list(_classes(classes))
    bounds: dict[int, int] = {}
    for db, keys in parse_info(text).keys.items():
        by_kind = counted.get(db, {})
        kinds = {kind for kind, _ in by_kind}
        in_bytes = [by_kind.get((kind, "sizes"), []) for kind in kinds]
        if keys and keys == sum(number for classes in in_bytes for _, number in classes):
            least = max(size for classes in in_bytes for size, _ in classes)
            bounds[db] = max(0, 2 * least - 1) + _PAYLOAD_FRAME
    return bounds


def largest_values(text: str, number: int) -> list[int]:
    """Return the bytes that the largest values of all databases have at least, in descending order;
    of the types that are counted by bytes.

    Args:
        text: INFO's section `keysizes`.
        number: the most values.

    Raises:
        ValueError: the text is not INFO's.
    """
    in_bytes = [found[3] for found in _DISTRIBUTION.findall(text) if found[2] == "sizes"]
    counted = sorted((pair for classes in in_bytes for pair in _classes(classes)), reverse=True)
    sizes: list[int] = []
    for least, keys in counted:
        sizes += [least] * min(keys, number - len(sizes))
    return sizes


def _classes(text: str) -> Iterator[tuple[int, int]]:
    """Yield the least size of each class, and its number of keys.

    Raises:
        ValueError: a class is not one that a server writes.
    """
    for each in text.strip().split(","):
        told = _CLASS.fullmatch(each)
        if not told:
            raise ValueError(f"not a class of sizes: {each}")
        yield int(told[1]) << 10 * _UNITS.index(told[2] or " "), int(told[3])
