"""Hash slots of a cluster, as in https://valkey.io/topics/cluster-spec/ (key distribution model).

Slot = CRC16 (XMODEM) of the key, or of its hash tag, modulo 16384. `binascii.crc_hqx` is that
CRC in C.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from typing import Final

SLOTS: Final = 16_384


def key_slot(key: bytes) -> int:
    """Return the hash slot, 0 to 16383, of a key.

    >>> key_slot(b"123456789")
    12739
    """
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) & (SLOTS - 1)


def key_slots(keys: Iterable[bytes]) -> list[int]:
    """Return the hash slot of each key; keys without a hash tag, the most common, need no call."""
    return [key_slot(key) if b"{" in key else crc_hqx(key, 0) & (SLOTS - 1) for key in keys]
