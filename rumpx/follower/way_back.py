"""The way back after a cutover: the same job from the new server to the old one.

`command` is the command line. `losses` foretells what the old server cannot hold, by the versions
of both: it is mostly a downgrade. Values that came from the old server fit there again; only what
an application begins to use on the new one may be lost.

Not promised: modules. A command or an option that an application uses is not a value.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from rumpx.model.job import Job
from rumpx.servers.info import ServerInfo


@dataclass(frozen=True, slots=True)
class _Feature:
    """A kind of value, and the first version of each family that has it; () if none has."""

    name: str
    redis: tuple[int, ...]
    valkey: tuple[int, ...]

    def known_to(self, info: ServerInfo) -> bool:
        """Return True if a server has it."""
        first = self.valkey if info.flavour == "valkey" else self.redis
        return bool(first) and info.version >= first


_FEATURES: Final = (
    _Feature("counters of streams (entries added, last deleted id)", (7, 0), (7, 2)),
    _Feature("expiries of hash fields", (7, 4), (9, 0)),
    _Feature("vector sets", (8, 0), ()),
)


def command(job: Job) -> str:
    """Return the command line of the way back, without passwords."""
    scope = job.scope
    words = ["rumpx", "--from", str(job.target), "--to", str(job.source)]
    words += ["--follow", "--delete-extra"]
    for db in scope.databases:
        words += ["--db", str(scope.target_db(db))]
    for source, target in scope.map_db:
        words += ["--map-db", f"{target}:{source}"]
    for flag, globs in (("--match", scope.match), ("--exclude", scope.exclude)):
        for glob in globs:
            words += [flag, glob.decode("utf-8", "backslashreplace")]
    return shlex.join(words)


def told(job: Job) -> str:
    """Return the way back as a sentence for the user."""
    return (
        f"The way back, as long as it is needed: {command(job)}. It overwrites the keys of "
        f"{job.source} that differ by then, and deletes those that {job.target} lacks."
    )


def losses(old: ServerInfo, new: ServerInfo) -> list[str]:
    """Return the kinds of values that the new server can hold and the old one cannot."""
    return [
        feature.name
        for feature in _FEATURES
        if feature.known_to(new) and not feature.known_to(old)
    ]
