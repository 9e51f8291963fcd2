"""Find the payloads that each primary of the target accepts, without a write (`servers.dialect`).

The name in each RESTORE is a new one that begins with that of a sample key of the source, since the
user may write that; in a cluster it is one in a slot of the primary.

Not promised: a dialect where RESTORE answers unlike a server, or an ACL refuses the name. Then
payloads go as they are, until one is refused.
"""

from __future__ import annotations

from itertools import count

from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node
from rumpx.model.slots import key_slot
from rumpx.preflight.abilities import Sample
from rumpx.servers.dialect import dialect_of, probes
from rumpx.servers.rdb import Dialect
from rumpx.servers.side import SideFacts, connected
from rumpx.transfer.staging import staging_name


def find_dialects(
    target: SideFacts, sample: Sample, db: int
) -> dict[Address | None, Dialect]:
    """Return the dialects of the target's primaries, as far as they show them.

    Args:
        sample: a key of the source.
        db: a database of the target that the copy may write to.
    """
    dialects = {}
    for node in target.topology.nodes:
        name = _name_at(node, sample.key)
        with connected(target.dialer, node.address, db) as connection:
            if dialect := dialect_of(connection.call_many(probes(name))):
                dialects[node.address] = dialect
    return dialects


def _name_at(node: Node, key: bytes) -> bytes:
    """Return a new name in one of a node's slots that begins with this one, if it has no hash
    tag."""
    served = {slot for low, high in node.slots for slot in range(low, high + 1)}
    if not served or key_slot(key) in served:
        return staging_name(key)
    stem = key if key_slot(key) != key_slot(key + b":") else b"rumpx"
    names = (stem + b":%d" % number for number in count())
    return staging_name(next(name for name in names if key_slot(name) in served))
