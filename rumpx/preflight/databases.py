"""The databases in scope: on the source, on the target, and their key counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rumpx.engine.plan import Policy
from rumpx.errors import TargetUnusable, UsageError, unusable
from rumpx.model.job import Job
from rumpx.model.nodes import Node
from rumpx.model.partitions import NodeKeys
from rumpx.preflight.draft import Ask
from rumpx.servers.answers import ask_number
from rumpx.servers.connections import select
from rumpx.servers.dial import Dialer
from rumpx.servers.info import read_info
from rumpx.servers.resp import Connection
from rumpx.servers.side import SideFacts, connected
from rumpx.servers.topology import is_error

# Searched if the server does not list its databases; 16 is the servers' default.
_USUAL_DATABASES: Final = 16
# A database number that no server has: databases are 31-bit numbers from 0.
_NO_DATABASE: Final = 2**31 - 1


def database_map(job: Job, databases: list[NodeKeys]) -> tuple[tuple[int, int], ...]:
    """Return `--map-db`, or the map implied by a database in the target's URI."""
    if job.target.db is None:
        return job.scope.map_db
    chosen = chosen_databases(job)
    if not chosen:
        chosen = tuple(sorted({place.db for place in databases} or {0}))
    if len(chosen) > 1:
        raise UsageError(
            f"The target's URI names database {job.target.db}, but databases "
            f"{', '.join(map(str, chosen))} would all be copied into it and overwrite each other. "
            "Choose one with --db, or map them with --map-db FROM:TO."
        )
    return tuple((db, job.target.db) for db in chosen)


def chosen_databases(job: Job) -> tuple[int, ...]:
    """Return the source's databases that the user chose; empty for all."""
    return (job.source.db,) if job.source.db is not None else job.scope.databases


def find_databases(job: Job, source: SideFacts, warnings: list[str]) -> list[NodeKeys]:
    """Return every (node, database) in scope that holds keys."""
    return databases_of(source, chosen_databases(job), warnings)


def databases_of(side: SideFacts, chosen: tuple[int, ...], warnings: list[str]) -> list[NodeKeys]:
    """Return every (node, database) of a side that holds keys, of all or of the chosen ones."""
    places = []
    for node in side.topology.nodes:
        info = side.infos[node.address]
        if info is not None:
            keys = {db: n for db, n in info.keys.items() if n and (not chosen or db in chosen)}
        else:
            keys = _counted_databases(side.dialer, node, chosen, warnings)
        places += [NodeKeys(node, db, count, "unknown") for db, count in sorted(keys.items())]
    return places


def _counted_databases(
    dialer: Dialer, node: Node, chosen: tuple[int, ...], warnings: list[str]
) -> dict[int, int]:
    """Count keys by database where INFO, which lists them, is refused."""
    if chosen:
        return {db: _database_size(dialer, node, db) for db in chosen}
    warning = (
        f"The {dialer.side} refuses INFO: rumpx searched databases 0 to {_USUAL_DATABASES - 1} "
        "only. Choose others with --db."
    )
    if warning not in warnings:
        warnings.append(warning)
    with connected(dialer, node.address) as connection:
        counts = {}
        for db in range(1 if ignores_select(connection) else _USUAL_DATABASES):
            if db and is_error(connection.call("SELECT", db)):
                break
            size = ask_number(connection, "DBSIZE")
            if size != 0:  # or DBSIZE is refused: then walk it to find out
                counts[db] = size or 0
        return counts


def _database_size(dialer: Dialer, node: Node, db: int) -> int:
    with connected(dialer, node.address, db) as connection:
        return ask_number(connection, "DBSIZE") or 0


def refuse_collisions(databases: list[int], map_db: dict[int, int]) -> None:
    """Refuse to copy two source databases into one."""
    taken: dict[int, int] = {}
    for db in sorted(set(databases)):
        target = map_db.get(db, db)
        if target in taken:
            raise UsageError(
                f"Databases {taken[target]} and {db} would both be copied to database {target} and "
                "overwrite each other. Choose one with --db, or map them apart with --map-db "
                "FROM:TO."
            )
        taken[target] = db


def prove_databases(side: SideFacts, databases: Sequence[int]) -> None:
    """SELECT each database on each primary. Database 0 is skipped: every connection starts in it,
    and it exists even where SELECT is refused."""
    others = [db for db in databases if db]
    for node in side.topology.nodes if others else ():
        with connected(side.dialer, node.address) as connection:
            for db in others:
                select(connection, db, side.dialer.side)
            if ignores_select(connection):
                raise unusable(side.dialer.side)(
                    f"The {side.dialer.side} at {connection.name} has database 0 only: it accepts "
                    "SELECT even for a database that cannot exist. Choose others with "
                    "--db, or map them with --map-db FROM:TO."
                )


def ignores_select(connection: Connection) -> bool:
    """Return True if SELECT succeeds without effect, as on services with one database only: keys
    of several databases would overwrite each other."""
    return not is_error(connection.call("SELECT", _NO_DATABASE))


def count_keys(side: SideFacts, databases: list[int]) -> int:
    """Return the current number of keys in some databases of all primaries."""
    total = 0
    for node in side.topology.nodes:
        with connected(side.dialer, node.address) as connection:
            info = read_info(connection)
        if info is not None:
            total += sum(count for db, count in info.keys.items() if db in databases)
        else:
            total += sum(_database_size(side.dialer, node, db) for db in databases)
    return total


def conflict_policy(job: Job, target_keys: int, ask: Ask | None) -> Policy:
    """Return the policy for keys that the target already has."""
    if job.on_conflict != "ask":
        return job.on_conflict
    if target_keys == 0:
        return "replace"
    question = f"The target already holds {target_keys:,} keys."
    policy = ask(question) if ask else None
    if policy is None:
        raise TargetUnusable(
            f"{question} Choose a policy for keys that both have: --on-conflict replace "
            "(overwrite), skip (keep the target's) or fail (list them as failed)."
        )
    return policy
