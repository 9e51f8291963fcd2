"""Foretell the loss of field expiries: hashes on the source whose fields expire, for a target that
knows no such thing (Redis before 7.4, Valkey before 9.0).

INFO counts such hashes in each database. A copy fails at each of them, unless `--field-expiries
drop` accepts the loss.

Not promised: hashes in and out of scope are told apart only by their database.
"""

from __future__ import annotations

from typing import Literal

from rumpx import units
from rumpx.model.job import Job
from rumpx.model.partitions import NodeKeys
from rumpx.preflight.abilities import Sample
from rumpx.preflight.worker_spec import Dialects
from rumpx.servers.dialect import common
from rumpx.servers.rdb import EXPIRING_HASHES
from rumpx.servers.replies import refused
from rumpx.servers.side import SideFacts, connected

Fate = Literal["kept", "dropped", "lost"]


def expiring_hashes(source: SideFacts, databases: list[NodeKeys]) -> int:
    """Return the number of hashes in these databases whose fields expire."""
    infos = [(source.infos.get(place.node.address), place.db) for place in databases]
    return sum(info.expiring_hashes.get(db, 0) for info, db in infos if info)


def writes_field_expiries(dialects: Dialects) -> bool:
    """Return True if each primary of the target loads hashes whose fields expire, or if that is not
    known."""
    dialect = common(dialects.values())
    return dialect is None or any(map(dialect.knows, EXPIRING_HASHES))


def shows_field_expiries(target: SideFacts, sample: Sample) -> bool:
    """Return True if a server has the commands for expiries of fields.

    Args:
        sample: any key.
    """
    with connected(target.dialer, sample.node, sample.db) as connection:
        reply = connection.call("HPEXPIRETIME", sample.key, "FIELDS", 1, "field")
        return not refused(reply)


def foretell(job: Job, hashes: int, knows: bool, target: SideFacts, warnings: list[str]) -> Fate:
    """Return the fate of field expiries, whether or not there are any, and warn of their loss.

    Args:
        hashes: on the source, whose fields expire, as far as is known.
        knows: the target can hold that.
    """
    if knows:
        return "kept"
    fate: Fate = "dropped" if job.field_expiries == "drop" else "lost"
    if not hashes:
        return fate
    noun = "hash" if hashes == 1 else "hashes"
    of_hashes = (
        f"The source has {units.keys(hashes)} {noun} whose fields expire, and the target "
        f"({target.version}) knows no such thing"
    )
    if fate == "dropped":
        warnings.append(f"{of_hashes}: their fields will live for ever (--field-expiries drop).")
    else:
        warnings.append(
            f"{of_hashes}: these keys cannot be equal there. --field-expiries drop accepts the "
            "loss."
        )
    return fate
