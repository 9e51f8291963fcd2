"""Find the payloads that each primary of the target accepts, without a write (`servers.dialect`).

The name in each RESTORE is that of a sample key of the source, which the copy's user may write; on
a cluster's other primaries it is followed by a tag of one of their slots.

Not promised: a dialect where RESTORE answers unlike a server, or an ACL refuses the name. Then
payloads go as they are, until one is refused.
"""

from __future__ import annotations

from itertools import chain, count

from rumpx.model.endpoint import Address
from rumpx.model.nodes import Node
from rumpx.model.slots import key_slot
from rumpx.preflight.abilities import Sample
from rumpx.servers.dialect import dialect_of, probes
from rumpx.servers.rdb import Dialect
from rumpx.servers.side import SideFacts, connected


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
        name = _name_at(node, sample.key) if target.topology.cluster else sample.key
        with connected(target.dialer, node.address, db) as connection:
            if dialect := dialect_of(connection.call_many(probes(name))):
                dialects[node.address] = dialect
    return dialects


def _name_at(node: Node, name: bytes) -> bytes:
    """Return a name in one of a node's slots: this one, or one that begins with it, if it has no
    hash tag."""
    if not node.slots:
        return name
    served = {slot for low, high in node.slots for slot in range(low, high + 1)}
    stem = name if key_slot(name) != key_slot(name + b":") else b"rumpx"
    names = chain([name], (stem + b":%d" % number for number in count()))
    return next(name for name in names if key_slot(name) in served)
