"""Memory checks: the data on the target, the values in flight on this machine."""

from __future__ import annotations

from typing import Final

from rumpx.errors import TargetFull
from rumpx.preflight.draft import Draft
from rumpx.servers.info import ServerInfo

# Versions and encodings need different memory for the same data, but within this factor.
_SURELY_TOO_LARGE: Final = 1.5


def data_in_scope(draft: Draft) -> int | None:
    """Return the memory of the source's data in bytes; None unless all are in scope and in INFO."""
    infos = [info for info in draft.source.infos.values() if info]
    everything = sum(sum(info.keys.values()) for info in infos)
    if draft.scope.filtered or everything != sum(place.keys for place in draft.databases):
        return None
    return sum(info.data_memory for info in infos) if everything else None


def room_on(info: ServerInfo, target_keys: int) -> int:
    """Return the bytes that a primary of the target has left below its maxmemory. Existing keys may
    be the same as the copied ones, and then free their memory."""
    return max(0, info.max_memory - (info.startup_memory if target_keys else info.used_memory))


def check_room(draft: Draft) -> None:
    """Refuse data that cannot fit, and warn of data that hardly will, as far as INFO alone shows
    it. A running copy measures the real sizes (`copier.target_memory`).

    Raises:
        TargetFull: the data cannot fit.
    """
    needed, limit = data_in_scope(draft), draft.job.limits.max_target_memory
    infos = draft.target.infos.values()
    if needed is None or limit is None or not all(info and info.max_memory for info in infos):
        return
    room = limit * sum(room_on(info, draft.target_keys) for info in infos if info)
    facts = (
        f"The source's data take {needed / 1e6:,.1f} MB, and the target has {room / 1e6:,.1f} MB "
        "left below its maxmemory"
    )
    if needed > _SURELY_TOO_LARGE * room:
        raise TargetFull(
            f"{facts}: they will not fit. Raise its maxmemory, choose fewer keys, or accept it "
            "with --max-target-memory off."
        )
    if needed > room:
        draft.warnings.append(f"{facts}: they may not fit. Raise its maxmemory.")
