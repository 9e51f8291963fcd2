"""The servers of a scenario: standalone or a cluster, filled, emptied, counted.

A Side is one end of a copy. Clusters have no replicas and an equal share of the slots each; they
need servers of 7.0 or later (CLUSTER ADDSLOTSRANGE, cluster-port).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from benchmarks.measure import Failed, ask, server_facts
from rumpx.demo import SERVER_VARIABLE, Server, free_port
from rumpx.model.slots import SLOTS

_FORM_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a copy: one server, or the primaries of a cluster in the order of their slots."""

    servers: list[Server]

    @property
    def uri(self) -> str:
        return self.servers[0].uri

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    @property
    def keys(self) -> int:
        return sum(int(ask(server, "DBSIZE")) for server in self.servers)

    def flush(self) -> None:
        """Remove all keys."""
        for server in self.servers:
            ask(server, "FLUSHALL", "SYNC")


@contextmanager
def standalone() -> Iterator[Side]:
    """A side of one server."""
    with Server() as server:
        if server_facts(server).version < (7,):
            raise Failed(
                f"{server.program} is older than 7.0, whose PEXPIRETIME the rivals need; name "
                f"another server program by {SERVER_VARIABLE}."
            )
        yield Side([server])


@contextmanager
def cluster(primaries: int) -> Iterator[Side]:
    """A side of several servers, each with its share of the slots."""
    with ExitStack() as stack:
        servers = [stack.enter_context(_cluster_server()) for _ in range(primaries)]
        for number, (server, (low, high)) in enumerate(
            zip(servers, shares(primaries), strict=True)
        ):
            ask(server, "CLUSTER", "ADDSLOTSRANGE", low, high - 1)
            ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                bus = int(ask(servers[0], "CONFIG", "GET", "cluster-port")[1])
                ask(server, "CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
        until = time.monotonic() + _FORM_SECONDS
        while not all(_knows(server, primaries) for server in servers):
            if time.monotonic() > until:
                raise Failed("The cluster did not form.")
            time.sleep(0.05)
        yield Side(servers)


def shares(primaries: int) -> list[tuple[int, int]]:
    """The slots [low, high) of each primary."""
    bounds = [SLOTS * n // max(1, primaries) for n in range(primaries + 1)]
    return list(pairwise(bounds))


def _cluster_server() -> Server:
    return Server(
        settings={"cluster-enabled": "yes", "cluster-port": str(free_port())},
    )


def _knows(server: Server, primaries: int) -> bool:
    reply: Any = ask(server, "CLUSTER", "INFO")
    return b"cluster_state:ok" in reply and b"cluster_known_nodes:%d\r" % primaries in reply
