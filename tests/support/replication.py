"""Primaries and replicas: attached, cut off, and filled anew."""

from __future__ import annotations

from support.servers import Server
from support.waiting import wait_until


def link(replica: Server) -> str:
    """up or down"""
    return replica.info("replication")["master_link_status"]


def replicated(primary: Server, replica: Server) -> None:
    """Until the replica has all that was written."""
    end = int(primary.info("replication")["master_repl_offset"])
    wait_until(
        lambda: int(replica.info("replication").get("slave_repl_offset", -1)) >= end,
        10,
        f"{replica!r} has caught up",
    )


def cut_off(replica: Server, primary: Server) -> None:
    """From now on a replica gets nothing of its primary, and knows it."""
    primary.do("ACL", "SETUSER", "default", "-psync", "-sync")
    primary.do("CLIENT", "KILL", "TYPE", "replica")
    wait_until(lambda: link(replica) == "down", 10, "it is cut off")


def attach(replica: Server, primary: Server) -> None:
    """End that."""
    # Without SYNC, which a replica falls back to that was refused PSYNC a moment ago.
    primary.do("ACL", "SETUSER", "default", "+psync")
    wait_until(lambda: link(replica) == "up", 20, "it is attached again")


def resynchronise(replica: Server, primary: Server) -> None:
    """In full."""
    before = int(primary.info("stats")["sync_full"])
    primary.do("CONFIG", "SET", "repl-backlog-size", 16_384)
    cut_off(replica, primary)
    with primary.raw() as raw:
        raw.many([("SET", "filling", b"x" * 10_000) for _ in range(10)])
        raw.do("DEL", "filling")
    attach(replica, primary)
    replicated(primary, replica)
    assert int(primary.info("stats")["sync_full"]) == before + 1
