"""Names of staging keys: a streamed value is written under one, then renamed.

    key + ":rumpx-" + salt + "-" + n

It begins with the key, so that ACL patterns that allow the key allow it; the salt's end and n
make its slot the key's, and it is short, since each command repeats it. It has a TTL of at most
TTL_MS, which each chunk renews, so that a killed run leaves none. A key counts as a staging key
only if its name fits *and* its TTL does.
"""

from __future__ import annotations

import os
import re
from binascii import crc_hqx
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final

from rumpx.model.slots import SLOTS, key_slot

TTL_MS: Final = 600_000
STAGING_LEFT_OUT: Final = (
    "The source has keys named …:rumpx-… that expire within ten minutes: another copy is writing "
    "large values to it. They are left out."
)
MARK: Final = b":rumpx-"
_NAME: Final = re.compile(rb"(.*):rumpx-[0-9a-f]{12}-[0-9]{1,7}", re.DOTALL)


def staging_name(key: bytes) -> bytes:
    """Return a new name, never used before, in the key's slot: a server that looks standalone may
    be a service that shards behind one address. Takes some ms, and none if the key has a hash
    tag."""
    base, salt = key + MARK, os.urandom(6).hex().encode()
    name, slot = b"%b%b-0" % (base, salt), key_slot(key)
    if key_slot(name) == slot:
        return name
    base += salt[:-5]
    begun = crc_hqx(base, 0)
    ends = (b"%05x-%d" % divmod(n, 10) for n in count())
    return base + next(end for end in ends if crc_hqx(end, begun) % SLOTS == slot)


def staged(keys: Sequence[bytes]) -> list[bytes]:
    """Return the keys that have a staging key's name; costs next to nothing if none has."""
    if MARK not in b"\n".join(keys):
        return []
    return [key for key in keys if _NAME.fullmatch(key)]


def unfinished(left: Mapping[bytes, object]) -> list[bytes]:
    """Return the keys that another copy is writing: they are never whole.

    Args:
        left: their remaining TTLs in ms, as PTTL gives them, or instants minus the server's clock.
    """
    return [
        key
        for key in staged(list(left))
        if isinstance(ms := left[key], int | float) and 0 <= ms <= TTL_MS
    ]
