"""The payloads that a server accepts: found out by RESTOREs that write nothing.

A server loads a payload of DUMP if it accepts the version in its footer and knows its first byte.
It checks the version and the checksum first. So a payload that is only an unknown first byte and a
footer is answered by

- "Bad data format" if it accepts the version;
- "DUMP payload version or checksum are wrong" if not.

Neither stores anything (measured on Redis 6.2 to 8.2, Valkey 8.1 and 9.1); for servers that are
only compatible, the name is one that no key has, and what they may store expires at once.

Valkey with `rdb-version-check relaxed` accepts versions without knowing all their first bytes, so
the family decides about bytes of one family.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rumpx.servers.crc64 import crc64
from rumpx.servers.rdb import FIRST_OF_REDIS, FIRST_OF_VALKEY, Dialect, Family
from rumpx.servers.resp import Command, Reply

# Accepted only where `rdb-version-check` is relaxed.
_NO_VERSION: Final = 0xFFFF
_VERSIONS: Final = (*range(6, 24), *range(FIRST_OF_VALKEY, FIRST_OF_VALKEY + 8), _NO_VERSION)
_TTL_MS: Final = 1
_UNKNOWN_BYTE: Final = b"\xff"
_ACCEPTED: Final = "bad data format"
_REFUSED: Final = "version or checksum are wrong"


def probes(name: bytes) -> list[Command]:
    """Return the commands that find a server's dialect.

    Args:
        name: that no key has, and that the user may write.
    """
    return [("RESTORE", name, _TTL_MS, _probe(version)) for version in _VERSIONS]


def _probe(version: int) -> bytes:
    body = _UNKNOWN_BYTE + version.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


def dialect_of(replies: Sequence[Reply]) -> Dialect | None:
    """Return the dialect by the replies to `probes`; None if they do not show it."""
    accepted = set()
    for version, reply in zip(_VERSIONS, replies, strict=True):
        text = str(reply).lower()
        if _ACCEPTED in text:
            accepted.add(version)
        elif _REFUSED not in text:
            return None
    if _NO_VERSION in accepted and FIRST_OF_REDIS not in accepted:
        # Valkey 8.1, relaxed: it takes versions from 80 on without knowing their first bytes.
        accepted = {version for version in accepted if version < FIRST_OF_VALKEY}
    accepted.discard(_NO_VERSION)
    return Dialect(frozenset(accepted), _family(accepted)) if accepted else None


def unlike_any(replies: Sequence[Reply]) -> Reply:
    """Return the first reply that does not show whether a version is accepted; None if all do."""
    for reply in replies:
        text = str(reply).lower()
        if _ACCEPTED not in text and _REFUSED not in text:
            return reply
    return None


def _family(accepted: set[int]) -> Family:
    if max(accepted) >= FIRST_OF_VALKEY:
        return "valkey"
    return "redis" if max(accepted) >= FIRST_OF_REDIS else ""


def common(dialects: Iterable[Dialect]) -> Dialect | None:
    """Return the payloads that all of these servers accept; None if there is no server."""
    known = list(dialects)
    if not known:
        return None
    versions = frozenset.intersection(*(each.versions for each in known))
    families = {each.family for each in known}
    return Dialect(versions, families.pop() if len(families) == 1 else "")
