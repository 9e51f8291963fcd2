"""The workers of a cluster that get walks: those that have told fitting facts, and that reach the
servers.

A worker that does not reach a node which this machine reaches is left out, after several refusals
in a row if the trouble may pass: a node that restarts may serve this machine, and not have served
the worker a moment before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rumpx.remote.cluster import Member

_MOST_REFUSALS: Final = 3


class Members:
    """All workers of a cluster, and which of them are able."""

    def __init__(self) -> None:
        self._members: tuple[Member, ...] = ()
        self._known: set[str] = set()
        self._left_out: set[str] = set()
        self._refusals: dict[str, int] = {}

    @property
    def addresses(self) -> set[str]:
        """Of all workers."""
        return {member.address for member in self._members}

    @property
    def able(self) -> frozenset[str]:
        """The addresses of the workers that get walks."""
        return frozenset(member.address for member in self._able)

    @property
    def places(self) -> int:
        """The walks that they take at once: one a thread, and one a worker that waits."""
        return sum(member.threads + 1 for member in self._able)

    @property
    def _able(self) -> list[Member]:
        able = self._known - self._left_out
        return [member for member in self._members if member.address in able]

    def met(self, members: tuple[Member, ...]) -> tuple[set[str], set[str]]:
        """Note which workers there are now; return the addresses of those that have joined, and of
        those that have gone."""
        before, self._members = self.addresses, members
        return self.addresses - before, before - self.addresses

    def know(self, addresses: Iterable[str]) -> None:
        """Note workers whose facts are known."""
        self._known.update(addresses)

    def leave_out(self, address: str) -> bool:
        """Give a worker no walks from now on; return False if it was left out before."""
        new = address not in self._left_out
        self._left_out.add(address)
        return new

    def accepted(self, address: str) -> None:
        """Note that a worker reaches all servers."""
        self._refusals.pop(address, None)

    def refused(self, address: str, *, passing: bool) -> bool:
        """Note that a worker does not reach a server; return True if it is to be left out.

        Args:
            passing: the trouble may be over soon.
        """
        refusals = self._refusals[address] = self._refusals.get(address, 0) + 1
        return not passing or refusals >= _MOST_REFUSALS
